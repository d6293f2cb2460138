"""What every module asks of a node or a record: its path, its key, its connection, and a pickle without its tree."""

from __future__ import annotations

import pickle
from functools import cache
from io import BytesIO
from typing import Any

from lotdb import LOTDB, BaseNode
from persistent import Persistent
from ZODB.Connection import Connection
from ZODB.DB import DB

from .errors import ArgumentTypeError, LiveNodeError, got

__all__ = ["attributes_of", "connection_of", "dumps_detached", "key_of", "no_item", "node_path", "path_of"]


def _refuse_persistent(value: object) -> None:
    """The `persistent_id` of a pickler that stops where it would take a whole tree along."""
    if isinstance(value, Persistent):
        raise LiveNodeError(f"it holds a persistent {type(value).__qualname__} inside")
    if isinstance(value, (LOTDB, DB, Connection)):
        raise LiveNodeError(f"it holds an open database inside, a {type(value).__qualname__}")


def dumps_detached(value: Any, *, protocol: int = 5, pickler: Any = pickle.Pickler) -> bytes:
    """The pickle of a value, if nothing in it belongs to a database."""
    buffer = BytesIO()
    _guarded(pickler)(buffer, protocol=protocol).dump(value)
    return buffer.getvalue()


@cache
def _guarded(pickler: type) -> Any:
    """A pickler of the same kind that refuses what belongs to a database."""
    return type(pickler.__name__, (pickler,), {"persistent_id": staticmethod(_refuse_persistent)})


def connection_of(node: BaseNode) -> Any:
    """The ZODB connection that a node belongs to; None for a tree in memory."""
    while node._p_jar is None and node.parent is not None:
        node = node.parent  # a branch that was hung into a persistent tree and not saved yet
    return node._p_jar


def node_path(node: BaseNode, root: BaseNode | None = None) -> tuple[str, ...]:
    """The keys from below `root` (by default the root of the whole tree) down to `node`.

    The same as `node.gps()`, which recurses and so ends in a RecursionError on deep trees.
    """
    keys = []
    while node is not root and (parent := node.parent) is not None:
        keys.append(node.key)
        node = parent
    keys.reverse()
    return tuple(keys)


def path_of(name: str, item: Any) -> tuple[str, ...]:
    """The path of a live node, or of anything detached that has a `path`."""
    if isinstance(item, BaseNode):
        return node_path(item)
    try:
        return tuple(item.path)
    except (AttributeError, TypeError):
        raise no_item(name, item) from None


def key_of(name: str, item: Any) -> str:
    """The key of a live node or a record."""
    try:
        key = item.key
    except AttributeError:
        raise no_item(name, item) from None
    if not isinstance(key, str):
        raise no_item(name, item)
    return key


def attributes_of(name: str, item: Any) -> Any:
    """Something with a `get` for the attributes of a live node or a record."""
    attributes = item.attribute_storage if isinstance(item, BaseNode) else getattr(item, "attributes", None)
    if not hasattr(attributes, "get"):
        raise no_item(name, item)
    return attributes


def no_item(name: str, item: object, expected: str = "a node or a record") -> ArgumentTypeError:
    """The error for something in a stream that a stage can't work on."""
    hint = "; put it before chunked(), or toolz.concat in front" if isinstance(item, (list, tuple)) else ""
    return ArgumentTypeError(f"{name}: expected {expected}, got {got(item)}{hint}")
