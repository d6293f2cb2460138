"""What holds around every change of a tree: it can be written to, it can be stored, and a failure undoes it."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lotdb import BaseNode
from persistent import Persistent
from persistent.wref import WeakRef
from transaction._transaction import Status
from ZODB.broken import broken_cache
from ZODB.POSException import ConflictError, POSKeyError
from ZODB.utils import z64
from zodbpickle import pickle as zodb_pickle

from .._interrupts import uninterrupted
from .._nodes import connection_of, dumps_detached, missing_class
from .._stage import check_count
from ..errors import (
    ArgumentError,
    DetachError,
    ExistsError,
    NoSuchKeyError,
    NotPicklableError,
    ReadOnlyTreeError,
    add_note,
    as_text,
    got,
)
from ..zodb.appending import check_there, clear_remains

__all__ = [
    *("Changes", "already_there", "check_classes", "check_storable", "check_writable", "not_there", "plain_pickle"),
    *("stored_attributes", "undone_on_failure"),
]


class Changes:
    """What is changed in a tree between two commits; on a tree in memory nothing is committed or undone.

    Args:
        connection: The tree's connection, if it has one.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._transactions: Any = None if connection is None else connection.transaction_manager
        self._begin()

    def _begin(self) -> None:
        self._before: Any = None if self._transactions is None else self._transactions.savepoint(optimistic=True)

    def commit(self) -> None:
        """Commit them, and whatever else the transaction holds."""
        if self._transactions is not None:
            changed = self._connection._registered_objects
            there = [each._p_oid for each in changed if each._p_serial not in (None, z64)]
            check_there(self._connection.db().storage, there)
            self._transactions.commit()
            self._begin()

    def start_over(self) -> None:
        """Drop them, and whatever else the transaction holds, and see what others have committed."""
        if self._transactions is not None:
            self._transactions.abort()
            self._begin()

    def undo(self) -> None:
        """Take back what was changed since this was made, or since the last commit."""
        if self._transactions is None:
            return
        try:
            self._before.rollback()
            if self._transactions.get().status is not Status.COMMITFAILED:
                return
        except Exception:  # the transaction itself failed, and holds nothing that could be kept
            pass
        try:
            self._transactions.abort()
        except Exception:  # on a full disk, where it closes a temporary file; which is closed by now
            self._transactions.abort()
        # There, storage and connection may have failed to take all of it back: objects in memory are not to be trusted.
        self._connection.cacheMinimize()


@contextmanager
def undone_on_failure(root: BaseNode) -> Iterator[Changes]:
    """Undo what was changed inside, or since the last commit of the changes that this gives, when it fails.

    Changes that were there before stay. On a tree in memory nothing is undone.
    """
    connection = connection_of(root)
    try:
        changes = Changes(connection)
    except Exception as error:
        connection.transaction_manager.abort()  # the transaction is lost already; the connection works again
        add_note(error, "lotproc: changes that nobody had committed before the call can't be stored; they are dropped")
        raise
    try:
        yield changes
    except BaseException as error:
        with uninterrupted():
            changes.undo()
            if connection is not None and isinstance(error, OSError):
                clear_remains(connection.db().storage)
        raise


def check_writable(name: str, root: BaseNode, commit_every: int | None) -> None:
    """Refuse a tree that can't be written to, or not committed as asked."""
    connection = connection_of(root)
    if connection is not None and connection.opened is None:
        raise ArgumentError(
            f"{name}: the connection of its root is closed; open it again, and take the root from there"
        )
    if commit_every is not None:
        check_count(name, "commit_every", commit_every)
        if connection is None:
            raise ArgumentError(
                f"{name}: commit_every={commit_every} needs a tree in a database; {root.key!r} is in memory"
            )
    if connection is not None and connection.isReadOnly():
        raise ReadOnlyTreeError(
            f"{name}: the connection of {root.key!r} is read-only; open the database without read_only=True"
        )


def check_storable(name: str, path: tuple[str, ...], attributes: Mapping[str, Any], connection: Any) -> bool:
    """Refuse a value that the database can't store while its name is known; the commit would only say that it can't.

    Whether the values are plain: none of them is, or holds, a persistent object.
    """
    plain = True
    for attribute, value in attributes.items():
        if type(value) in (type(None), bool, int, float, str, bytes):
            continue
        missing = missing_class(value)
        if missing is not None:
            raise DetachError(
                f"{name}: attribute {attribute!r} of {as_text(path)} can't be stored: it holds a {missing}, which "
                f"can't be imported; install what {missing} is in"
            )
        try:
            plain = _store_nowhere(value, connection) and plain
        except Exception as error:
            raise NotPicklableError(
                f"{name}: attribute {attribute!r} of {as_text(path)} can't be stored: {error}; got {got(value)}"
            ) from error
    return plain


def _store_nowhere(value: Any, connection: Any) -> bool:
    """Pickle a value as a ZODB connection will: each new persistent object in it on its own.

    Whether there was none.
    """
    plain = True
    new: dict[int, Persistent] = {}

    def persistent_id(value: Any) -> str | None:
        nonlocal plain
        if not isinstance(value, (Persistent, WeakRef)):
            return None
        plain = False
        if isinstance(value, WeakRef):
            return "stored"
        if value._p_jar is None:
            new.setdefault(id(value), value)
        elif value._p_jar is not connection:
            raise TypeError(f"it holds a {type(value).__qualname__} of another database connection")
        return "stored"

    def dump(value: Any) -> None:
        pickler = zodb_pickle.Pickler(_Nowhere(), 3)
        pickler.persistent_id = persistent_id
        pickler.dump(value)

    dump(value)
    seen = 0
    while seen < len(new):
        found = list(new.values())
        for item in found[seen:]:
            dump(item.__getstate__())
        seen = len(found)
    return plain


def check_classes(name: str, path: tuple[str, ...], node: BaseNode, replaced: Container[str] | None) -> None:
    """Refuse to store attributes again whose class can't be imported: with the class there again, they could be lost.

    Args:
        name: What writes, for errors.
        path: The node's path.
        node: The node that is written to.
        replaced: The attributes that do not stay; `None`: none does.
    """
    stored = stored_attributes(name, path, node)
    for attribute, value in stored.items() if broken_cache else ():  # else ZODB has met no such class
        missing = None if replaced is None or attribute in replaced else missing_class(value)
        if missing is not None:
            raise DetachError(
                f"{name}: attribute {attribute!r} of {as_text(path)} holds a {missing}, which can't be imported, and "
                f"would be stored again with what is written beside it; install what {missing} is in, or write to "
                f"another node: inline('_proc')"
            )


def stored_attributes(name: str, path: tuple[str, ...], node: BaseNode) -> dict[str, Any]:
    """All attributes of a live node."""
    try:
        return dict(node.attribute_storage.items())
    except (ConflictError, POSKeyError, OSError, MemoryError):
        raise
    except Exception as error:  # a class derived from dict or list, say, that can't be imported
        raise DetachError(
            f"{name}: the attributes of {as_text(path)} can't be read: {error.__cause__ or error}; install what their "
            f"classes are in"
        ) from error


def already_there(name: str, path: tuple[str, ...]) -> ExistsError:
    """The error for a path where something is, with `if_exists="error"`."""
    others = '"merge", "replace" or "skip"' if name == "write" else '"replace" or "skip"'
    return ExistsError(f"{name}: {as_text(path)} is already there; if_exists={others} would go on")


def not_there(name: str, path: tuple[str, ...], nearest: tuple[str, ...] | None) -> NoSuchKeyError:
    """The error for a path where nothing is, with `if_missing="error"`."""
    hint = "" if nearest is None else f"; the nearest that is there is {as_text(nearest)}"
    return NoSuchKeyError(f'{name}: nothing is at {as_text(path)}{hint}; if_missing="make" would make it')


def plain_pickle(value: Any) -> bytes | None:
    """The pickle of a value that holds no persistent object; `None` for all others."""
    try:
        return dumps_detached(value, protocol=3)
    except Exception:
        return None


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)
