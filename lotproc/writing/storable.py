"""What can't be stored in a tree is refused, by name: what can't be pickled, and classes that can't be imported."""

from __future__ import annotations

from collections.abc import Container, Mapping
from io import BytesIO
from typing import Any

from lotdb import BaseNode
from persistent import Persistent
from persistent.wref import WeakRef
from ZODB.broken import broken_cache
from ZODB.POSException import ConflictError, POSKeyError
from zodbpickle import pickle as zodb_pickle

from .._detaching import IN_ITS_PLACE, check_readable
from .._fast import FAST
from .._jar import is_lost
from .._nodes import missing_class
from .._pickling import dumps_detached
from .._values import is_flat
from ..errors import DetachError, LiveNodeError, NotPicklableError, got

__all__ = ["check_classes", "check_storable", "plain_pickle", "stored_attributes"]


def check_storable(name: str, path: tuple[str, ...], attributes: Mapping[str, Any], connection: Any) -> bool:
    """Refuse a value that can't be stored or not be read again, while its name is known; a commit would not say it.

    Whether the values are plain: none of them is, or holds, a persistent object.
    """
    plain = True
    for attribute, value in attributes.items():
        if type(value) in (type(None), bool, int, float, str, bytes) or (FAST and is_flat(value)):
            continue
        missing = missing_class(value)
        if missing is not None:
            raise DetachError(
                f"{name}: attribute {attribute!r}",
                f"can't be stored: it holds a {missing}, which can't be imported",
                path=path,
                hint=f"install what {missing} is in",
            )
        try:
            plain = _store_nowhere(value, connection) and plain
            check_readable(value, in_tree=True)
        except Exception as error:
            raise NotPicklableError(
                f"{name}: attribute {attribute!r}",
                f"can't be stored: {error}",
                path=path,
                got=got(value),
                hint=IN_ITS_PLACE if isinstance(error, LiveNodeError) else None,
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
            raise LiveNodeError(f"it is or holds a {type(value).__qualname__} of another connection")
        return "stored"

    def dump(value: Any) -> None:
        pickler = zodb_pickle.Pickler(BytesIO(), 3)
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
                f"{name}: attribute {attribute!r}",
                f"holds a {missing}, which can't be imported, and would be stored again with what is written beside it",
                path=path,
                hint=f"install what {missing} is in, or write to another node: inline('_proc')",
            )


def stored_attributes(name: str, path: tuple[str, ...], node: BaseNode) -> dict[str, Any]:
    """All attributes of a live node."""
    try:
        return dict(node.attribute_storage.items())
    except (ConflictError, POSKeyError, OSError, MemoryError):
        raise
    except Exception as error:  # a class derived from dict or list, say, that can't be imported
        if is_lost(error):
            raise
        raise DetachError(
            f"{name}: the attributes",
            f"can't be read: {error.__cause__ or error}",
            path=path,
            hint="install what their classes are in",
        ) from error


def plain_pickle(value: Any) -> bytes | None:
    """The pickle of a value that holds no persistent object; `None` for all others."""
    try:
        return dumps_detached(value, protocol=3)
    except Exception:
        return None
