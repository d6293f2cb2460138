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

from ._nodes import CarriedPaths, dumps_detached, no_item, node_path
from ._stage import root_hint, stage
from .errors import ArgumentTypeError, DamagedDatabaseError, DetachError, add_note, as_text, got
from .models import NodeRecord, node_record
from .payloads import PayloadHandle

__all__ = ["snapshot"]

Names: TypeAlias = "str | Iterable[str] | EllipsisType"

#: Where a record's payload comes from: a function of the node, or the name of one of its data attributes.
Payload: TypeAlias = "str | Callable[[BaseNode], Any] | None"

#: Types whose values never change and hold nothing else.
ATOMS = frozenset(
    (
        *(type(None), type(...), bool, int, float, complex, str, bytes, decimal.Decimal, uuid.UUID),
        *(datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone),
        *(pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath),
    )
)


@overload
def snapshot(names: Names, nodes: Iterable[BaseNode], *, payload: Payload = None) -> Iterator[NodeRecord]: ...
@overload
def snapshot(names: Names, *, payload: Payload = None) -> Callable[[Iterable[BaseNode]], Iterator[NodeRecord]]: ...
@stage("nodes")
def snapshot(names: Names, *, payload: Payload = None) -> Callable[[Iterable[BaseNode]], Iterator[NodeRecord]]:
    """Turn live nodes into detached records, which are safe to send anywhere.

    >>> from lotdb import BaseNode
    >>> from lotproc import leaves, snapshot
    >>> root = BaseNode("root")
    >>> _ = root.gns(["ann", "clip_1"]).set_attribute("duration", 1.2)
    >>> list(snapshot("duration", leaves(root)))
    [NodeRecord(path=('ann', 'clip_1'), key='clip_1', attributes={'duration': 1.2}, payload=None)]

    >>> from lotdb import add_blob
    >>> _ = add_blob(root.gns(["ann", "clip_1"]), data=b"RIFF", blob_attribute="audio")
    >>> [record.payload.read() for record in snapshot((), leaves(root), payload="audio")]
    [b'RIFF']

    Values are copied, so nothing that is done to a record reaches the tree. lotdb's `PathFileObj` becomes a
    `pathlib.Path`, data objects and blobs become a `PayloadHandle`, and persistent mappings, lists and BTrees become
    a dict, a list or a set.

    Args:
        names: The attributes to take: one name, several, or `...` for all. An absent attribute is `None`, as in lotdb.
        nodes: Live nodes.
        payload: The name of a data attribute: a `PayloadHandle` to it becomes the record's `payload`, or `None` where
            it is absent. Or a function of the live node: a copy of what it returns.

    Returns:
        An iterator of records, in the order of the nodes. Lazy; holds one record. It only reads; the connection has
        nothing to commit afterwards. For the connection's thread only; the records are free.

    Raises:
        ArgumentTypeError: `names` are no names, `payload` neither a name nor a function, or an item is no live node.
        DetachError: An attribute or a payload can't be taken out of the tree; names its path and its name.
        Exception: Whatever `payload` raises, with a note that names the path.
    """
    names = checked_names("snapshot", names)
    check_payload("snapshot", payload)
    return lambda nodes: _records(nodes, names, payload)


def _records(
    nodes: Iterable[BaseNode], names: tuple[str, ...] | EllipsisType, payload: Payload
) -> Iterator[NodeRecord]:
    """`record_of` for each node, with what it calls written out: this is where reading a warm tree spends its time."""
    paths = CarriedPaths()
    node: Any = None
    path: tuple[str, ...] = ()
    for following in nodes:
        last, node = node, following
        if (
            type(node) is paths.kind
            and node._parent is paths.parent
            and paths.connection._needs_to_join
            and paths.connection.opened is paths.opened
            and paths.boundaries.count == paths.count
        ):
            path = (*paths.prefix, node._key)
        elif isinstance(node, BaseNode):
            path = paths.of(node, last, path)
        else:
            raise no_item("snapshot", node, "a live node")
        stored = node.attribute_storage
        attributes = {}
        for name in stored.keys() if names is ... else names:
            value = stored[name] if name in stored else None  # noqa: SIM401, since a BTree takes longer for one `get`
            if type(value) not in ATOMS:
                value = detached("snapshot", value, f"attribute {name!r}", path)
            attributes[name] = value
        carried = None if payload is None else payload_of("snapshot", node, payload, path)
        yield node_record(path, path[-1] if path else node.key, attributes, carried)


def record_of(
    stage_name: str,
    node: BaseNode,
    names: tuple[str, ...] | EllipsisType,
    payload: Payload = None,
    path: tuple[str, ...] | None = None,
) -> NodeRecord:
    """The record of a live node; `path` where it is known already."""
    if path is None:
        path = node_path(node)
    stored = node.attribute_storage
    attributes = {
        name: detached(stage_name, stored.get(name), f"attribute {name!r}", path)
        for name in (stored.keys() if names is ... else names)
    }
    carried = None if payload is None else payload_of(stage_name, node, payload, path)
    return node_record(path, node.key, attributes, carried)


def checked_names(stage_name: str, names: Names) -> tuple[str, ...] | EllipsisType:
    """The names of attributes as a tuple; `...` stays as it is."""
    if names is ...:
        return names
    if isinstance(names, str):
        return (names,)
    if not isinstance(names, Iterable):
        raise ArgumentTypeError(
            f"{stage_name}: names must be a str, several, or ... for all; got {got(names)}"
            f"{root_hint(stage_name, names)}"
        )
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise ArgumentTypeError(
                f"{stage_name}: the name of an attribute must be a str, got {got(name)} in {names!r}"
            )
    return names


def check_payload(stage_name: str, payload: Payload) -> None:
    """Refuse what names no payload."""
    if payload is not None and not isinstance(payload, str) and not callable(payload):
        raise ArgumentTypeError(
            f"{stage_name}: payload must be the name of a data attribute or a function of a node, got {got(payload)}"
        )


def payload_of(stage_name: str, node: BaseNode, payload: str | Callable[[BaseNode], Any], path: tuple[str, ...]) -> Any:
    """What a record carries as its payload: a handle to the attribute of that name, or what the function returns."""
    if isinstance(payload, str):
        return handle_of(stage_name, node.attribute_storage.get(payload), payload, path)
    try:
        value = payload(node)
    except Exception as error:
        add_note(error, f"lotproc: in the payload function of {stage_name}, at {as_text(path)}")
        raise
    return detached(stage_name, value, "the payload", path)


def handle_of(stage_name: str, value: Any, name: str, path: tuple[str, ...]) -> PayloadHandle | None:
    """The handle to what the data attribute `name` holds; None where the node has no such attribute."""
    if value is None:
        return None
    if isinstance(value, (DataObject, BlobObject, Blob)):
        try:
            return PayloadHandle.of(value)
        except TypeError as error:
            reason = str(error)
    else:
        reason = f"expected a DataObject, a BlobObject or a Blob, got {got(value)}"
    raise DetachError(
        f"{stage_name}: attribute {name!r} of {as_text(path)} can't be the payload: {reason}; name another attribute, "
        f"or take what you need with a function as payload="
    )


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array {value.shape} among the attributes"
    return got(value)


def detached(
    stage_name: str,
    value: Any,
    what: str,
    path: tuple[str, ...],
    payload: Callable[[Any], Any] = PayloadHandle.of,
) -> Any:
    """A copy of a value that shares nothing with the tree; `what` of the node at `path` it is, errors tell.

    What stands for a payload object in it is made by `payload`.
    """

    def detach(value: Any) -> Any:
        kind = type(value)
        if kind in ATOMS:
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
            return payload(value)
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
    except DamagedDatabaseError:
        raise
    except Exception as error:
        reason = str(error)
    # Raised here, without the error behind it: a recursion has a traceback of a thousand frames, and some libraries
    # pickle errors with their tracebacks.
    raise DetachError(
        f"{stage_name}: {what} of {as_text(path)} can't be detached: {reason}; leave it out of the names, or "
        f"take what you need with a function as payload="
    )
