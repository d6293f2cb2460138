"""The records of new lotdb nodes, as ZODB would store them, and what is read of those around them."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple, TypeAlias

from BTrees.OOBTree import OOBTree, OOBucket
from lotdb import BaseNode, DataNode
from persistent import Persistent
from persistent.wref import WeakRef
from ZODB.serialize import ObjectWriter
from ZODB.utils import p64
from zodbpickle import pickle as zodb_pickle

from .records import BUCKET, EMPTY_TREE, TREE

__all__ = [
    "INLINE",
    "KNOWN",
    "NotServed",
    "Reference",
    "attributes_record",
    "new_node_encoder",
    "read_node",
    "read_record",
    "tree_record",
    "tree_records",
]

#: Classes of nodes that make their children as `BaseNode` does.
KNOWN = (BaseNode, DataNode)
#: A reference to another object, as its record has it: mostly its id and its class.
Reference: TypeAlias = Any

#: Keys of a tree that are in its own record; one that has more is stored in parts.
INLINE = 30

#: Values that the pickler of the standard library writes as ZODB's does, and faster.
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


class NotServed(Exception):
    """What is asked for takes live nodes."""


class _Sample:
    """Stands for a connection while sample objects are pickled."""

    def __init__(self) -> None:
        self._numbers = itertools.count(0x0101010101010101)

    def new_oid(self) -> bytes:
        oid: bytes = p64(next(self._numbers))
        return oid


def _pickled(sample: Any, parent: Any = None) -> bytes:
    """The record that ZODB makes of an object; `parent` is there already."""
    jar = _Sample()
    for new in (sample, parent):
        if new is not None:
            new._p_oid = jar.new_oid()
            new._p_jar = jar
    data: bytes = ObjectWriter(sample).serialize(sample)
    return data


class _Shape(NamedTuple):
    """The record of a node between what differs: parent's id, key with its length, children's id, attributes' id."""

    start: bytes
    before_key: bytes
    before_children: bytes
    before_attributes: bytes
    end: bytes


@cache
def _shape(kind: type, parent_kind: type) -> _Shape:
    parent, key = parent_kind("parent"), "the key of the sample"
    node = kind(key, parent)
    data = _pickled(node, parent)
    start, data = data.split(parent._p_oid)
    before_key, data = data.split(_text(key))
    before_children, data = data.split(node.node_storage._p_oid)
    before_attributes, end = data.split(node.attribute_storage._p_oid)
    return _Shape(start, before_key, before_children, before_attributes, end)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(4, "little") + encoded


@cache
def new_node_encoder(parent_kind: type) -> Callable[[bytes, str, bytes, bytes], bytes]:
    """A function that makes the record of a new `BaseNode` whose parent has this class.

    It takes the parent's id, the key, and the ids of the trees of the children and of the attributes.
    """
    start, before_key, before_children, before_attributes, end = _shape(BaseNode, parent_kind)

    def encode(parent: bytes, key: str, children: bytes, attributes: bytes) -> bytes:
        text = key.encode("utf-8", "surrogatepass")
        return b"".join(
            (
                *(start, parent, before_key, len(text).to_bytes(4, "little"), text),
                *(before_children, children, before_attributes, attributes, end),
            )
        )

    return encode


def tree_records(
    oid: bytes, children: dict[str, Reference], new_oid: Callable[[], bytes]
) -> Iterable[tuple[bytes, bytes]]:
    """The ids and the records of a new tree of children, which are nodes of known classes."""
    if len(children) > INLINE:
        return _parts(oid, children, new_oid)
    return ((oid, tree_record(children)),)


def tree_record(children: dict[str, Reference]) -> bytes:
    """The record of a tree of some children, which are nodes of known classes and not more than `INLINE`."""
    if len(children) == 1:
        ((key, (oid, kind)),) = children.items()
        return b"".join((_ONE_CHILD, _text(key), b"C\x08", oid, _after_one_child(kind)))
    refer = _References()
    parts = [TREE, b"\x80\x03("]
    for key in sorted(children):
        parts += (b"X", _text(key), refer(children[key]))
    parts.append(b"t\x85\x85\x85.")
    return b"".join(parts)


_ONE_CHILD = TREE + b"\x80\x03(X"


@cache
def _after_one_child(kind: type) -> bytes:
    return _name(kind) + b"q\x00\x86Qt\x85\x85\x85."


def _parts(oid: bytes, children: dict[str, Reference], new_oid: Callable[[], bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The ids and the records of a tree that takes more than one, in the shape that BTrees gives it."""
    parts: list[Any] = [OOBTree(children)]
    oids = {id(parts[0]): oid}

    def reference(part: Any) -> Reference:
        if id(part) not in oids:
            oids[id(part)] = new_oid()
        return oids[id(part)], type(part)

    for part in parts:
        refer = _References()
        items, *after = part.__getstate__()
        is_bucket = type(part) is OOBucket
        encoded = [BUCKET if is_bucket else TREE, b"\x80\x03("]
        for item in items:
            if type(item) is str:
                encoded += (b"X", _text(item))
            else:
                encoded.append(refer(item if is_bucket else reference(item)))
        encoded.append(b"t")
        encoded += [refer(reference(bucket)) for bucket in after]
        encoded.append(b"\x86." if after else b"\x85.")
        yield oids[id(part)], b"".join(encoded)
        if not is_bucket:
            parts += items[::2]


class _References:
    """Encodes the references of one record, in which each class is named once."""

    def __init__(self) -> None:
        self._again: dict[type, bytes] = {}

    def __call__(self, reference: Reference) -> bytes:
        oid, kind = reference
        again = self._again.get(kind)
        if again is not None:
            return b"".join((b"C\x08", oid, again))
        number = bytes((len(self._again),))
        self._again[kind] = b"".join((b"h", number, b"\x86Q"))
        return b"".join((b"C\x08", oid, _name(kind), b"q", number, b"\x86Q"))


@cache
def _name(kind: type) -> bytes:
    return f"c{kind.__module__}\n{kind.__qualname__}\n".encode()


def attributes_record(attributes: Mapping[str, Any]) -> bytes:
    """The record of a tree of some attributes, not more than `INLINE`.

    Raises:
        NotServed: A value holds a persistent object.
    """
    if not attributes:
        return EMPTY_TREE
    names = sorted(attributes)
    state = (((tuple([part for name in names for part in (name, attributes[name])]),),),)
    if _PLAIN.issuperset(map(type, attributes.values())):
        return TREE + pickle.dumps(state, 3)
    buffer = BytesIO()
    pickler = zodb_pickle.Pickler(buffer, 3)
    pickler.persistent_id = _refuse_persistent
    pickler.dump(state)
    return TREE + buffer.getvalue()


def _refuse_persistent(value: object) -> None:
    if isinstance(value, (Persistent, WeakRef)):
        raise NotServed


def read_node(data: bytes) -> tuple[type, bytes] | None:
    """The class of a stored node and the id of its tree of children; `None` if it is no node of a known class."""
    start, before_key, before_children, before_attributes, end = _shape(BaseNode, BaseNode)
    key = len(start) + 8
    if data.startswith(start) and data.startswith(before_key, key) and data.endswith(end):
        key += len(before_key)
        children = key + 4 + int.from_bytes(data[key : key + 4], "little")
        if data.startswith(before_children, children):
            children += len(before_children)
            if data[children + 8 : -8 - len(end)] == before_attributes:
                return BaseNode, data[children : children + 8]
    kind, state = read_record(data)
    reference = state.get("node_storage") if isinstance(state, dict) else None
    if kind not in KNOWN or type(reference) is not tuple or reference[1] is not OOBTree:
        return None
    return kind, reference[0]


def read_record(data: bytes) -> tuple[Any, Any]:
    """The class and the state of a record, in which references are what stands for them in the record."""
    unpickler = zodb_pickle.Unpickler(BytesIO(data))
    unpickler.persistent_load = _as_it_is
    return unpickler.load(), unpickler.load()


def _as_it_is(reference: Reference) -> Reference:
    return reference
