"""The records of new lotdb nodes, as ZODB would store them, and what is read of those around them."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from io import BytesIO
from typing import Any, TypeAlias

from BTrees.OOBTree import OOBTree, OOBucket
from lotdb import BaseNode, DataNode
from persistent import Persistent
from persistent.wref import WeakRef
from ZODB.serialize import ObjectWriter
from ZODB.utils import p64
from zodbpickle import pickle as zodb_pickle

from .._fast import FAST
from .._values import is_flat
from .records import BUCKET, EMPTY_TREE, TREE, NotServed, pickled_text, stored_node
from .shapes import NodeShape

__all__ = [
    *("INLINE", "KNOWN", "attributes_record", "new_node_encoder", "read_node", "tree_record"),
    *("BUCKET_REFERENCE", "attributes_records", "class_name", "encoded_children", "part_record", "tree_records"),
]

#: Classes of nodes that make their children as `BaseNode` does.
KNOWN = (BaseNode, DataNode)

_IdAndClass: TypeAlias = "tuple[Any, ...]"
_IdAndRecord: TypeAlias = "tuple[bytes, bytes]"

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
        record[after_parent : key - len(pickled_text(""))],
        record[after_key:children],
        record[after_children:attributes],
        record[after_attributes:],
    )


#: The same keys come again and again: "_proc" at each result, and a node's own in its record and in its parent's.
_text = lru_cache(maxsize=1024)(pickled_text)


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
    if data.startswith(start) and data.startswith(before_key + b"X", key) and data.endswith(end):
        key += len(before_key) + 1
        children = key + 4 + int.from_bytes(data[key : key + 4], "little")
        if data.startswith(before_children, children):
            children += len(before_children)
            if data[children + 8 : -8 - len(end)] == before_attributes:
                return BaseNode, data[children : children + 8]
    node = stored_node(data, of_any_class=True)
    if node.kind not in KNOWN:
        raise NotServed
    return node.kind, node.children


# --- Trees ----------------------------------------------------------------------------------------------------------


def tree_records(
    oid: bytes, children: Mapping[str, _IdAndClass], new_oid: Callable[[], bytes]
) -> Iterable[_IdAndRecord]:
    """The ids and the records of a new tree of children, which are nodes of known classes."""
    if len(children) > INLINE:
        return _parts(oid, children, new_oid, encoded_children)
    return ((oid, tree_record(children)),)


def tree_record(children: Mapping[str, _IdAndClass]) -> bytes:
    """The record of a tree of some children, which are nodes of known classes and not more than `INLINE`."""
    if len(children) == 1:
        ((key, (oid, kind)),) = children.items()
        return b"".join((_BEGIN, b"(", _text(key), b"C\x08", oid, _after_one_child(kind)))
    items = itertools.chain.from_iterable((key, children[key]) for key in sorted(children))
    return b"".join((_BEGIN, encoded_children([*items]), _END))


#: Around the names and values of a tree that is one record.
_BEGIN, _END = TREE + b"\x80\x03", b"\x85\x85\x85."
#: The class of a bucket, not to be looked up among what its items named, and the end of a reference.
BUCKET_REFERENCE = b"cBTrees.OOBTree\nOOBucket\n\x86Q"


@cache
def _after_one_child(kind: type) -> bytes:
    return class_name(kind) + b"q\x00\x86Qt" + _END


def encoded_children(items: Sequence[Any]) -> bytes:
    """The keys and the references of children, one after the other, as a tuple in a pickle."""
    ends = _Ends()
    encoded = [b"("]
    for key, (oid, kind) in zip(items[::2], items[1::2], strict=True):
        encoded += (_text(key), b"C\x08", oid, ends[kind])
    encoded.append(b"t")
    return b"".join(encoded)


def _parts(
    oid: bytes, items: Mapping[str, Any], new_oid: Callable[[], bytes], encoded: Callable[[Sequence[Any]], bytes]
) -> Iterator[_IdAndRecord]:
    """The ids and the records of a tree that takes more than one, in the shape that BTrees gives it.

    `encoded` makes a tuple in a pickle of names and values that lie in one part.
    """
    parts: list[Any] = [OOBTree(items)]
    oids = {id(parts[0]): oid}

    def reference(part: Any) -> _IdAndClass:
        if id(part) not in oids:
            oids[id(part)] = new_oid()
        return oids[id(part)], type(part)

    for part in parts:
        yield oids[id(part)], part_record(part, reference, encoded)
        if type(part) is not OOBucket:
            parts += part.__getstate__()[0][::2]


def part_record(part: Any, reference: Callable[[Any], _IdAndClass], encoded: Callable[[Sequence[Any]], bytes]) -> bytes:
    """The record of a bucket, or of a tree that has split.

    Args:
        part: The bucket or the tree.
        reference: Gives the id and the class of another part.
        encoded: Makes a tuple in a pickle of the names and values in a bucket.
    """
    items, *after = part.__getstate__()
    if type(part) is OOBucket:
        made = [BUCKET, b"\x80\x03", encoded(items)]
        for following in after:  # none, or one
            made += (b"C\x08", reference(following)[0], BUCKET_REFERENCE)
    else:
        ends = _Ends()
        made = [TREE, b"\x80\x03("]
        for item in items:
            if type(item) is str:
                made.append(pickled_text(item))
            else:
                child, kind = reference(item)
                made += (b"C\x08", child, ends[kind])
        first, kind = reference(after[0])
        made += (b"t", b"C\x08", first, ends[kind])
    made.append(b"\x86." if after else b"\x85.")
    return b"".join(made)


class _Ends(dict[type, bytes]):
    """The ends of the references in one record, by their classes, each of which is named once."""

    def __missing__(self, kind: type) -> bytes:
        number = bytes((len(self),))
        self[kind] = b"".join((b"h", number, b"\x86Q"))
        return b"".join((class_name(kind), b"q", number, b"\x86Q"))


@cache
def class_name(kind: type) -> bytes:
    return f"c{kind.__module__}\n{kind.__qualname__}\n".encode()


# --- Values ---------------------------------------------------------------------------------------------------------


def _refuse_objects(value: Any) -> None:
    """The `persistent_id` of a pickler that takes no persistent objects."""
    if isinstance(value, (Persistent, WeakRef)):
        raise NotServed


def attributes_records(
    oid: bytes, attributes: Mapping[str, Any], new_oid: Callable[[], bytes]
) -> Iterable[_IdAndRecord]:
    """The ids and the records of a new tree of attributes.

    Args:
        oid: The id of the tree.
        attributes: The attributes.
        new_oid: Gives an id that no object has.

    Raises:
        NotServed: A value holds a persistent object.
    """
    if len(attributes) > INLINE:
        # With the parts made by ZODB's own writer, a value took three times as long as in one record.
        return _parts(oid, attributes, new_oid, _encoded_values)
    return ((oid, attributes_record(attributes)),)


def attributes_record(attributes: Mapping[str, Any]) -> bytes:
    """The record of a tree of attributes, not more than `INLINE`; otherwise as above."""
    if not attributes:
        return EMPTY_TREE
    items: tuple[Any, ...]
    if len(attributes) == 1:
        (items,) = attributes.items()
    else:
        items = tuple([part for name in sorted(attributes) for part in (name, attributes[name])])
    return b"".join((_BEGIN, _encoded_values(items), _END))


def _encoded_values(items: Sequence[Any]) -> bytes:
    """Names and values, one after the other, as a tuple in a pickle."""
    values = items[1::2]
    if FAST and (_PLAIN.issuperset(map(type, values)) or all(map(is_flat, values))):
        # What ZODB's pickler makes, which asks in Python of each number and text whether it is persistent: five times
        # as fast for a dict of five numbers.
        return pickle.dumps(items, 3)[2:-1]
    buffer = BytesIO()
    pickler = zodb_pickle.Pickler(buffer, 3)
    pickler.persistent_id = _refuse_objects
    pickler.dump(items)
    return buffer.getvalue()[2:-1]
