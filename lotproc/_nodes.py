"""What every module asks of a node or a record: its path, its key, its connection, and what is broken in it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from lotdb import BaseNode
from persistent import Persistent
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from ZODB.blob import BlobStorage
from ZODB.broken import Broken, broken_cache
from ZODB.FileStorage import FileStorage

from ._items import no_item, node_path
from .errors import ArgumentError, as_text

__all__ = [
    "CarriedPaths",
    "attributes_of",
    "class_name",
    "closed_since",
    "connection_of",
    "find",
    "first_inside",
    "has_changes",
    "is_broken",
    "is_closed",
    "key_of",
    "missing_class",
    "out_of_order",
    "plain_file",
    "top_of",
    "unwrapped",
    "zarr_folder",
]


def is_broken(value: object) -> bool:
    """Whether a value stands for one of a class that can't be imported, or for such a class itself."""
    kind = value if isinstance(value, type) else type(value)
    return issubclass(kind, Broken) and kind.__module__ != Broken.__module__


def class_name(value: object) -> str:
    """A class, or that of a value, as an import would name it."""
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def missing_class(value: Any, *, through_persistent: bool = False) -> str | None:
    """The class of something in a value, at any depth, that can't be imported; `None` if there is no such thing.

    ZODB reads it as a `Broken` object, which must not be stored again: once its class is there, it could not be read.
    Persistent objects have records of their own, so what is in them does not count, unless that is asked for.

    >>> from ZODB.broken import find_global
    >>> missing_class([1, {"color": find_global("gone_lab", "Color")()}])
    'gone_lab.Color'
    >>> missing_class([1, {"color": "red"}]) is None
    True
    """
    if not broken_cache:  # ZODB has met no such class in this process
        return None
    found = first_inside(value, is_broken, through_persistent=through_persistent)
    return None if found is None else class_name(found)


def first_inside(value: Any, test: Callable[[Any], bool], *, through_persistent: bool = False) -> Any:
    """The first object in a value, at any depth, that passes a test; `None` if none does.

    Plain containers, numbers and text are not tested, nor are arrays of them.
    """
    finder = _Finder(BytesIO(), protocol=5)
    finder.test, finder.through_persistent = test, through_persistent
    with suppress(Exception):  # it can't be pickled, of which others tell; or something was found
        finder.dump(value)
    return finder.found


class _Finder(pickle.Pickler):
    """Goes through a value as a pickler does, without its data."""

    test: Callable[[Any], bool]
    through_persistent = False
    found: Any = None

    def reducer_override(self, value: Any) -> Any:
        if type(value) is np.ndarray and not value.dtype.hasobject:
            return list, ()
        is_persistent = isinstance(value, Persistent)
        if (self.through_persistent or not is_persistent) and self.test(value):
            self.found = value
            raise ValueError
        if not is_persistent:
            return NotImplemented
        if self.through_persistent and isinstance(value, PersistentMapping):
            return dict, (), None, None, iter(value.items())
        if self.through_persistent and isinstance(value, PersistentList):
            return list, (), None, iter(value)
        return list, ()


def connection_of(node: BaseNode) -> Any:
    """The ZODB connection that a node belongs to; None for a tree in memory."""
    while node._p_jar is None and node.parent is not None:
        node = node.parent  # a branch that was hung into a persistent tree and not saved yet
    return node._p_jar


def is_closed(root: BaseNode) -> bool:
    """Whether a node is of a tree whose connection was closed, so that no more of it can be read."""
    connection = connection_of(root)
    return connection is not None and getattr(connection, "opened", connection) is None


def closed_since(name: str, what: str) -> ArgumentError:
    """The error for what is to be read lazily, of a tree whose connection was closed meanwhile."""
    return ArgumentError(
        f"{name}: the connection of its root was closed before {what}",
        hint="take what you need while it is open, with list(...) for instance",
    )


def has_changes(connection: Any) -> bool:
    """Whether a connection, or one to a sibling database that goes with it, has changes that are not committed."""
    for each in connection.connections.values():
        saved = each._savepoint_storage
        if each._registered_objects or each._added or (saved is not None and saved.index):
            return True
    return False


def unwrapped(storage: Any) -> Any:
    """The storage that holds the records: itself, but for a `BlobStorage`, which adds a directory to another one."""
    return storage._BlobStorage__storage if type(storage) is BlobStorage else storage


def plain_file(storage: Any) -> Any:
    """The FileStorage that holds the records of a storage; `None` if that is of another kind."""
    file = unwrapped(storage)
    return file if type(file) is FileStorage else None


def zarr_folder(connection: Any) -> str | None:
    """Where lotdb keeps the zarr arrays of a database: beside its file; None where it has none."""
    # A FileStorage knows it from when it was opened, wherever the process works now; so does one for blobs around it.
    file = None if connection is None else getattr(connection.db().storage, "_file_name", None)
    return None if file is None else f"{file}.data.zarr"


def find(root: BaseNode, path: tuple[str, ...]) -> BaseNode | None:
    """The node at a path below `root`, if it is there."""
    node: BaseNode | None = root
    for key in path:
        if node is None:
            return None
        node = node.node_storage.get(key)
    return node


def top_of(node: BaseNode) -> BaseNode:
    """The root of the whole tree that a node is in."""
    while node.parent is not None:
        node = node.parent
    return node


class CarriedPaths:
    """`node_path` for nodes in the order of a walk: one step for each, however deep they are.

    It remembers the nodes from the root of the tree down to the parent of the last node. As long as their connection
    has nothing to commit, none of them can have got another key or another parent since the transaction began: to take
    changes back is to come back to what was committed. Otherwise, and in memory, where changes leave no trace, the
    whole path is read.

    Most nodes are siblings of the one before. Their path is `(*prefix, node._key)`, without a call of `of`, where

        type(node) is kind and node._parent is parent and connection._needs_to_join and connection.opened is opened
        and boundaries.count == count
    """

    def __init__(self) -> None:
        self.kind: Any = None
        self.parent: BaseNode | None = None
        self.prefix: tuple[str, ...] = ()
        self.connection: Any = None
        self.opened: float | None = None  # when the connection was: it may be closed, and opened again at another view
        self.boundaries = _Boundaries()
        self.count = 0
        self._above: list[BaseNode] = []  # down to the parent, whose path is the prefix

    def of(self, node: BaseNode, last: BaseNode | None, last_path: tuple[str, ...]) -> tuple[str, ...]:
        """The path of a node; `last` is the node before, at `last_path`."""
        is_last_known = self.kind is not None
        self.kind = None
        kind: Any = type(node)
        if not _has_plain_path(kind):
            return node_path(node)
        parent = node._parent
        connection: Any = None if parent is None else parent._p_jar
        if parent is None or not getattr(connection, "_needs_to_join", False) or connection.opened is None:
            return node_path(node)
        if (
            connection is not self.connection
            or connection.opened is not self.opened
            or self.boundaries.count != self.count
        ):
            self._above.clear()
        elif parent is last and is_last_known:
            self._above.append(parent)
            self.prefix = last_path
        else:
            while self._above and self._above[-1] is not parent:
                self._above.pop()
            self.prefix = self.prefix[: max(len(self._above) - 1, 0)]
        if not self._above and not self._climb_to(parent):
            return node_path(node)
        self.kind, self.parent = kind, parent
        return (*self.prefix, node._key)

    def _climb_to(self, parent: BaseNode) -> bool:
        """Remember a node and those above it, if all of them are of one connection."""
        connection = parent._p_jar
        above: list[BaseNode] = []
        node: BaseNode | None = parent
        while node is not None:
            kind: Any = type(node)
            if node._p_jar is not connection or not _has_plain_path(kind):
                return False
            above.append(node)
            node = node._parent
        above.reverse()
        self._above = above
        self.prefix = tuple([node._key for node in above[1:]])
        if connection is not self.connection or connection.opened is not self.opened:
            self.connection, self.opened, self.boundaries = connection, connection.opened, _Boundaries()
            connection.transaction_manager.registerSynch(self.boundaries)
        self.count = self.boundaries.count
        return True


class _Boundaries:
    """Counts the moments at which the view of a connection may move; its transaction manager tells them."""

    def __init__(self) -> None:
        self.count = 0

    def beforeCompletion(self, transaction: Any) -> None:
        """Part of the protocol."""

    def afterCompletion(self, transaction: Any) -> None:
        self.count += 1

    def newTransaction(self, transaction: Any) -> None:
        self.count += 1


@cache
def _has_plain_path(kind: Any) -> bool:
    """Whether nodes of this class keep key and parent where lotdb does."""
    return kind.key is BaseNode.key and kind.parent is BaseNode.parent


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


def out_of_order(
    what: str, path: tuple[str, ...], after: tuple[str, ...], hint: str = "sort it by path, as trees are"
) -> ArgumentError:
    """The error for a path that comes after a later one."""
    return ArgumentError(what, f"comes after {as_text(after)}, out of the order of paths", path=path, hint=hint)
