"""Transactions: savepoints and undo around every change of a tree (`undone_on_failure`), and what can't be changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

from lotdb import BaseNode
from transaction._transaction import Status
from ZODB.utils import z64

from .._interrupts import uninterrupted
from .._nodes import connection_of
from .._stage import check_count
from ..commits import DESCRIPTION, commit_text
from ..errors import ArgumentError, ArgumentTypeError, ReadOnlyTreeError, add_note, got
from ..zodb.answers import answered
from ..zodb.appending import check_there, clear_remains

__all__ = [
    *("ABSENT", "Changes", "Put", "check_within", "check_writable", "commit_all", "describe", "drop_all"),
    *("is_clean", "undone_on_failure"),
]

#: In place of a value: there is none.
ABSENT = object()


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
            commit_all(self._connection)
            self._begin()

    def describe(self, stage: str, policy: str, version: str | None, counts: Mapping[str, int]) -> None:
        """Say in the transaction what it is: in words for people and undo logs, and in parts for `history`."""
        if self._transactions is not None:
            describe(self._connection, stage, policy, version, counts)

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
        drop_all(self._connection)


def describe(connection: Any, stage: str, policy: str, version: str | None, counts: Mapping[str, int]) -> None:
    """Say in a connection's transaction what it is, below what the user noted there."""
    transaction = connection.transaction_manager.get()
    transaction.note(commit_text(stage, policy, version, counts))
    said = {"stage": stage, "policy": policy, "version": version, "counts": dict(counts)}
    transaction.setExtendedInfo(DESCRIPTION, said)


def commit_all(connection: Any) -> None:
    """Commit all that a connection's transaction holds."""
    there = [each._p_oid for each in connection._registered_objects if each._p_serial not in (None, z64)]
    check_there(connection.db().storage, there)
    connection.transaction_manager.commit()


def drop_all(connection: Any) -> None:
    """Drop all that a connection's transaction holds after it failed, so that the connection works again."""
    transactions = connection.transaction_manager
    try:
        transactions.abort()
    except Exception:  # on a full disk, where it closes a temporary file; which is closed by now
        transactions.abort()
    # There, storage and connection may have failed to take all of it back: objects in memory are not to be trusted.
    connection.cacheMinimize()


@contextmanager
def undone_on_failure(root: BaseNode) -> Iterator[Changes]:
    """Undo what was changed inside, or since the last commit of the changes that this gives, when it fails.

    Changes that were there before stay. On a tree in memory nothing is undone.

    Raises:
        ServerError: The tree's server was lost.
    """
    with answered(), _undone(root) as changes:
        yield changes


@contextmanager
def _undone(root: BaseNode) -> Iterator[Changes]:
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


class Put:
    """Puts a value into a storage, or takes it out; in memory, the old ones come back when the block fails.

    A database undoes by itself.
    """

    def __init__(self, root: BaseNode) -> None:
        self._in_memory = connection_of(root) is None
        self._replaced: list[tuple[Any, str, Any]] = []

    def __call__(self, storage: Any, key: str, value: Any) -> None:
        if self._in_memory:
            self._replaced.append((storage, key, storage.get(key, ABSENT)))
        _set(storage, key, value)

    def __enter__(self) -> Put:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            for storage, key, value in reversed(self._replaced):
                _set(storage, key, value)


def _set(storage: Any, key: str, value: Any) -> None:
    if value is not ABSENT:
        storage[key] = value
    elif key in storage:
        del storage[key]


def is_clean(connection: Any) -> bool:
    """Whether a commit of the connection's transaction would do nothing at all."""
    transactions = connection.transaction_manager
    if transactions.explicit or connection._storage is not connection._normal_storage:
        return False
    transaction = transactions.get()
    hooks = (*transaction.getBeforeCommitHooks(), *transaction.getAfterCommitHooks())
    return not (transaction._resources or transaction.isDoomed() or hooks)


def check_writable(name: str, root: BaseNode, commit_every: int | None) -> None:
    """Refuse a tree that can't be written to, or not committed as asked."""
    connection = connection_of(root)
    if commit_every is not None:
        check_count(name, "commit_every", commit_every)
        if connection is None:
            raise ArgumentError(
                f"{name}: commit_every={commit_every} needs a tree in a database", hint=f"{root.key!r} is in memory"
            )
    if connection is not None and connection.isReadOnly():
        raise ReadOnlyTreeError(
            f"{name}: the connection of {root.key!r} is read-only", hint="open the database without read_only=True"
        )


def check_within(name: str, target: object, commit_within: float | None) -> None:
    """Refuse what is no number of seconds, or can't be kept to."""
    if commit_within is None:
        return
    if isinstance(commit_within, bool) or not isinstance(commit_within, Real):
        raise ArgumentTypeError(f"{name}: commit_within", expected="a number of seconds", got=got(commit_within))
    if not commit_within > 0:
        raise ArgumentError(f"{name}: commit_within", expected="more than 0 seconds", got=got(commit_within))
    if isinstance(target, BaseNode) and connection_of(target) is None:
        raise ArgumentError(
            f"{name}: commit_within={commit_within} needs a tree in a database", hint=f"{target.key!r} is in memory"
        )
