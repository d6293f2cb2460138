"""From live nodes to detached records."""

from __future__ import annotations

import datetime
import decimal
import pathlib
import pickle
import uuid
from collections.abc import Callable, Iterable, Iterator
from types import EllipsisType
from typing import Any, TypeAlias, overload

import numpy as np
from lotdb import BaseNode, BlobObject, DataObject, PathFileObj
from persistent import Persistent
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob

from ._nodes import dumps_detached, no_item, node_path
from ._stage import stage
from .errors import ArgumentTypeError, DetachError, add_note, as_text, got
from .models import NodeRecord
from .payloads import PayloadHandle

__all__ = ["snapshot"]

Names: TypeAlias = "str | Iterable[str] | EllipsisType"

#: Types whose values never change and hold nothing else.
_ATOMS = {
    *(type(None), type(...), bool, int, float, complex, str, bytes, decimal.Decimal, uuid.UUID),
    *(datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone),
    *(pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath),
}


@overload
def snapshot(
    names: Names, nodes: Iterable[BaseNode], *, payload: Callable[[BaseNode], Any] | None = None
) -> Iterator[NodeRecord]: ...
@overload
def snapshot(
    names: Names, *, payload: Callable[[BaseNode], Any] | None = None
) -> Callable[[Iterable[BaseNode]], Iterator[NodeRecord]]: ...
@stage("nodes")
def snapshot(
    names: Names, *, payload: Callable[[BaseNode], Any] | None = None
) -> Callable[[Iterable[BaseNode]], Iterator[NodeRecord]]:
    """Turn live nodes into detached records, which are safe to send anywhere.

    >>> from lotdb import BaseNode
    >>> from lotproc import leaves, snapshot
    >>> root = BaseNode("root")
    >>> _ = root.gns(["ann", "clip_1"]).set_attribute("duration", 1.2)
    >>> list(snapshot("duration", leaves(root)))
    [NodeRecord(path=('ann', 'clip_1'), key='clip_1', attributes={'duration': 1.2}, payload=None)]

    Values are copied, so nothing that is done to a record reaches the tree. lotdb's `PathFileObj` becomes a
    `pathlib.Path`, data objects and blobs become a `PayloadHandle`, and persistent mappings, lists and BTrees become
    a dict, a list or a set.

    Args:
        names: The attributes to take: one name, several, or `...` for all. An absent attribute is `None`, as in lotdb.
        nodes: Live nodes.
        payload: A function of the live node; a copy of what it returns becomes the record's `payload`.

    Returns:
        An iterator of records, in the order of the nodes. Lazy; holds one record. It only reads; the connection has
        nothing to commit afterwards. For the connection's thread only; the records are free.

    Raises:
        ArgumentTypeError: `names` are no names, or an item is no live node.
        DetachError: An attribute or a payload can't be taken out of the tree; names its path and its name.
        Exception: Whatever `payload` raises, with a note that names the path.
    """
    if names is not ...:
        names = (names,) if isinstance(names, str) else _checked_names(names)
    if payload is not None and not callable(payload):
        raise ArgumentTypeError(f"snapshot: payload must be a function of a node, got {got(payload)}")
    return lambda nodes: (_record(node, names, payload) for node in nodes)


def _checked_names(names: Iterable[str]) -> tuple[str, ...]:
    if not isinstance(names, Iterable):
        raise ArgumentTypeError(f"snapshot: names must be a str, several, or ... for all; got {got(names)}")
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise ArgumentTypeError(f"snapshot: the name of an attribute must be a str, got {got(name)} in {names!r}")
    return names


def _record(
    node: BaseNode, names: tuple[str, ...] | EllipsisType, payload: Callable[[BaseNode], Any] | None
) -> NodeRecord:
    if not isinstance(node, BaseNode):
        raise no_item("snapshot", node, "a live node")
    stored = node.attribute_storage
    attributes = {}
    for name in stored.keys() if names is ... else names:
        value = stored.get(name)
        if type(value) not in _ATOMS:
            value = _detached(value, node, f"attribute {name!r}")
        attributes[name] = value
    carried = None if payload is None else _detached(_called(payload, node), node, "the payload")
    return NodeRecord(node_path(node), node.key, attributes, carried)


def _called(payload: Callable[[BaseNode], Any], node: BaseNode) -> Any:
    try:
        return payload(node)
    except Exception as error:
        add_note(error, f"lotproc: in the payload function of snapshot, at {as_text(node_path(node))}")
        raise


def _detached(value: Any, node: BaseNode, what: str) -> Any:
    """A copy of a value that shares nothing with the tree."""

    def detach(value: Any) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind is dict or isinstance(value, PersistentMapping):
            return {detach(key): detach(item) for key, item in value.items()}
        if kind is list or isinstance(value, PersistentList):
            return [detach(item) for item in value]
        if kind in (tuple, set, frozenset):
            return kind(detach(item) for item in value)
        if kind is np.ndarray and not value.dtype.hasobject:
            return value.copy()
        if isinstance(value, Persistent):
            return detach_persistent(value)
        return pickle.loads(dumps_detached(value))

    def detach_persistent(value: Any) -> Any:
        if isinstance(value, PathFileObj):
            return value.path
        if isinstance(value, (DataObject, BlobObject, Blob)):
            return PayloadHandle.of(value)
        if type(value).__module__.startswith("BTrees."):
            if hasattr(value, "items"):
                return {detach(key): detach(item) for key, item in value.items()}
            if hasattr(value, "__iter__"):
                return {detach(item) for item in value}
        if isinstance(value, BaseNode):
            raise TypeError(f"it is a live node, {as_text(node_path(value))}")
        kind = type(value)
        raise TypeError(f"it is a persistent {kind.__module__}.{kind.__qualname__}, which has no plain kin")

    try:
        return detach(value)
    except Exception as error:
        reason = str(error)
    # Raised here, without the error behind it: a recursion has a traceback of a thousand frames, and some libraries
    # pickle errors with their tracebacks.
    raise DetachError(
        f"snapshot: {what} of {as_text(node_path(node))} can't be detached: {reason}; leave it out of the names, or "
        f"take what you need with payload="
    )
