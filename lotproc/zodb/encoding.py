"""The records of new lotdb nodes, as ZODB would store them, and what is read of those around them."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from io import BytesIO
from typing import Any, TypeAlias

from BTrees.OOBTree import OOBTree, OOBucket
from lotdb import BaseNode, DataNode
from persistent import Persistent
from persistent.wref import WeakRef
from ZODB.serialize import ObjectWriter
from ZODB.utils import p64
from zodbpickle import pickle as zodb_pickle

from .records import BUCKET, EMPTY_TREE, TREE, NotServed, pickled_text, stored_node
from .shapes import NodeShape

__all__ = ["INLINE", "KNOWN", "attributes_record", "new_node_encoder", "read_node", "tree_record", "tree_records"]

#: Classes of nodes that make their children as `BaseNode` does.
KNOWN = (BaseNode, DataNode)

_IdAndClass: TypeAlias = "tuple[Any, ...]"

#: Keys of a tree that are in its own record; one that has more is stored in parts.
INLINE = 30

#: Values that the pickler of the standard library writes as ZODB's does, and faster.
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


class _Sample:
    """Stands for a connection while sample objects are pickled."""

    def __init__(self) -> None:
        self.new_oid = map(p64, itertools.count(0x0101010101010101)).__next__


@cache
def _between(parent_kind: type) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """The record that ZODB makes of a `BaseNode` whose parent has this class, without what differs.

    That is, one after the other: the parent's id, the key with its length, the children's id, the attributes' id.
    """
    jar = _Sample()
    parent = parent_kind("parent")
    node = BaseNode("sample", parent)
    for new in (node, parent):
        new._p_oid, new._p_jar = jar.new_oid(), jar
    record: bytes = ObjectWriter(node).serialize(node)
    shape = NodeShape.learned(record)
    assert shape is not None
    cuts = [(shape.places[name].start, shape.places[name].stop) for name in ("parent", "key", "children", "attributes")]
    (parent_id, after_parent), (key, after_key), (children, after_children), (attributes, after_attributes) = cuts
    return (
        record[:parent_id],
        record[after_parent : key - len(_text(""))],
        record[after_key:children],
        record[after_children:attributes],
        record[after_attributes:],
    )


def _text(text: str) -> bytes:
    return pickled_text(text)[1:]


@cache
def new_node_encoder(parent_kind: type) -> Callable[[bytes, str, bytes, bytes], bytes]:
    """A function that makes the record of a new `BaseNode` whose parent has this class.

    It takes the parent's id, the key, and the ids of the trees of the children and of the attributes.
    """
    start, before_key, before_children, before_attributes, end = _between(parent_kind)

    def encode(parent: bytes, key: str, children: bytes, attributes: bytes) -> bytes:
        parts = start, parent, before_key, _text(key), before_children, children, before_attributes, attributes, end
        return b"".join(parts)

    return encode


def read_node(data: bytes) -> tuple[type[BaseNode], bytes]:
    """The class of a stored node and the id of its tree of children.

    Raises:
        NotServed: It is no node of a known class.
    """
    # The records that `new_node_encoder` makes, whatever their keys: fifty times as fast as to unpickle them.
    start, before_key, before_children, before_attributes, end = _between(BaseNode)
    key = len(start) + 8
    if data.startswith(start) and data.startswith(before_key, key) and data.endswith(end):
        key += len(before_key)
        children = key + 4 + int.from_bytes(data[key : key + 4], "little")
        if data.startswith(before_children, children):
            children += len(before_children)
            if data[children + 8 : -8 - len(end)] == before_attributes:
                return BaseNode, data[children : children + 8]
    node = stored_node(data, of_any_class=True)
    if node.kind not in KNOWN:
        raise NotServed
    return node.kind, node.children


def tree_records(
    oid: bytes, children: Mapping[str, _IdAndClass], new_oid: Callable[[], bytes]
) -> Iterable[tuple[bytes, bytes]]:
    """The ids and the records of a new tree of children, which are nodes of known classes."""
    if len(children) > INLINE:
        return _parts(oid, children, new_oid)
    return ((oid, tree_record(children)),)


def tree_record(children: Mapping[str, _IdAndClass]) -> bytes:
    """The record of a tree of some children, which are nodes of known classes and not more than `INLINE`."""
    if len(children) == 1:
        ((key, (oid, kind)),) = children.items()
        return b"".join((_ONE_CHILD, pickled_text(key), b"C\x08", oid, _after_one_child(kind)))
    refer = _References()
    parts = [TREE, b"\x80\x03("]
    for key in sorted(children):
        parts += (pickled_text(key), refer(children[key]))
    parts.append(b"t\x85\x85\x85.")
    return b"".join(parts)


_ONE_CHILD = TREE + b"\x80\x03("


@cache
def _after_one_child(kind: type) -> bytes:
    return _name(kind) + b"q\x00\x86Qt\x85\x85\x85."


def _parts(
    oid: bytes, children: Mapping[str, _IdAndClass], new_oid: Callable[[], bytes]
) -> Iterator[tuple[bytes, bytes]]:
    """The ids and the records of a tree that takes more than one, in the shape that BTrees gives it."""
    parts: list[Any] = [OOBTree(children)]
    oids = {id(parts[0]): oid}

    def reference(part: Any) -> _IdAndClass:
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
                encoded.append(pickled_text(item))
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

    def __call__(self, reference: _IdAndClass) -> bytes:
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
