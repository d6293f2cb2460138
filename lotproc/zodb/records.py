"""Decoding the records of nodes and of BTrees one by one: what they say, and how ZODB stores their states.

A node is three records: its own, and those of two BTrees, its children and its attributes. A BTree that has split is
read part by part: where many such trees are to be read at once, `children_in` is the place for it, as `shapes` is for
the records of nodes and of whole trees.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from BTrees.OOBTree import OOBTree, OOBucket
from lotdb import BaseNode
from persistent import Persistent
from ZODB._compat import _protocol
from ZODB.serialize import ObjectWriter

from .._detaching import ATOMS
from .._jar import Items, Parts, items_or_parts_in
from .pinned import PinnedStorage
from .record_arrays import Flags, Records, as_oids, beginning_with

__all__ = [
    *("BUCKET", "EMPTY_TREE", "NODE", "TREE", "Children", "NotServed", "Reference", "StoredNode", "UnusualRecord"),
    *("are_empty_trees", "are_sorted_names", "attributes_in", "children_in", "children_or_parts", "class_and_state"),
    *("is_reference", "items_in", "items_or_parts", "items_or_parts_of", "parts_in", "pickled_text", "stored_node"),
    "tree_state",
]

#: What the records of nodes, of trees and of buckets begin with: their class.
NODE, TREE, BUCKET = (pickle.dumps(kind, _protocol) for kind in (BaseNode, OOBTree, OOBucket))
_PART = OOBucket.__name__.encode()  # to which the record of a tree refers that has split
#: The record of a tree that holds nothing.
EMPTY_TREE: bytes = ObjectWriter().serialize(OOBTree())


def are_empty_trees(records: Records) -> Flags:
    """Which of the records are those of trees that hold nothing."""
    are: Flags = beginning_with(EMPTY_TREE, records) & (records.lengths == len(EMPTY_TREE))
    return are


class NotServed(Exception):
    """What is asked for takes objects of the real classes."""


class UnusualRecord(NotServed):
    """A record has not the shape that it has in every lotdb tree, so only the real classes can read it."""


class Reference(tuple[Any, ...]):
    """A reference to another object as its record has it, usually the id and the class."""

    __slots__ = ()


class _Unpickler(pickle.Unpickler):
    """Gives a `Reference` for each object that a record refers to."""

    persistent_load = Reference  # of the class, since Python 3.13 takes none of an instance


def class_and_state(record: bytes) -> tuple[Any, Any]:
    """The two parts of a record, with `Reference`s for the objects that it refers to."""
    unpickler = _Unpickler(io.BytesIO(record))
    return unpickler.load(), unpickler.load()


def pickled_text(text: str) -> bytes:
    """A str as the pickles in records have it."""
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


# --- Nodes ----------------------------------------------------------------------------------------------------------


class StoredNode(NamedTuple):
    """What the record of a node says; `parent` is None at the top of a tree."""

    kind: type[BaseNode]
    key: str
    parent: bytes | None
    children: bytes
    attributes: bytes
    more: dict[str, Any]


def stored_node(record: bytes, *, of_any_class: bool = False) -> StoredNode:
    """What the record of a node says, if its state, and its class unless any will do, are as lotdb makes them.

    Raises:
        UnusualRecord: They are not.
    """
    try:
        kind, state = class_and_state(record)
        more = dict(state)
        key, parent = more.pop("_key"), more.pop("_parent")
        children, attributes = more.pop("node_storage"), more.pop("attribute_storage")
    except Exception as error:
        raise UnusualRecord from error
    if not (
        (of_any_class or (isinstance(kind, type) and issubclass(kind, BaseNode) and _stored_as_usual(kind)))
        and type(state) is dict
        and type(key) is str
        and (parent is None or is_reference(parent))
        and is_reference(children, OOBTree)
        and is_reference(attributes, OOBTree)
    ):
        raise UnusualRecord
    return StoredNode(kind, key, None if parent is None else parent[0], children[0], attributes[0], more)


def is_reference(value: object, kind: type | None = None) -> bool:
    """Whether it is a plain reference, to an object of that class."""
    return (
        type(value) is Reference
        and len(value) == 2
        and type(value[0]) is bytes
        and len(value[0]) == 8
        and (kind is None or value[1] is kind)
    )


def _stored_as_usual(kind: type[BaseNode]) -> bool:
    """Whether a class of nodes keeps its state, key, parent, children and attributes where BaseNode does."""
    return (
        kind.__setstate__ is Persistent.__setstate__
        and kind.key is BaseNode.key
        and kind.parent is BaseNode.parent
        and kind.__getattribute__ is Persistent.__getattribute__
        and not any(hasattr(kind, name) for name in ("__getattr__", "__getnewargs__", *_STORED))
    )


_STORED = ("_key", "_parent", "node_storage", "attribute_storage")


# --- BTrees ---------------------------------------------------------------------------------------------------------


class Children(NamedTuple):
    """Some children of a node, sorted by key."""

    keys: Sequence[str]
    oids: Sequence[bytes]


def items_or_parts(record: bytes) -> Items | Parts:
    """What the record of a tree, or of a part of one, holds: names and values, as they are, or more parts.

    Raises:
        UnusualRecord: It is nothing of the kind.
    """
    return items_or_parts_of(*tree_state(record))


def tree_state(record: bytes) -> tuple[Any, bool]:
    """The state in the record of a tree, or of a part of one, and whether it is a bucket.

    Raises:
        UnusualRecord: It is nothing of the kind.
    """
    is_bucket = record.startswith(BUCKET)
    if not is_bucket and not record.startswith(TREE):
        raise UnusualRecord
    try:
        return class_and_state(record)[1], is_bucket
    except Exception as error:
        raise UnusualRecord from error


def items_or_parts_of(state: Any, is_bucket: bool) -> Items | Parts:
    """What such a state holds, as `items_or_parts` says."""
    try:
        found = items_or_parts_in(state, is_bucket=is_bucket)
    except Exception as error:
        raise UnusualRecord from error
    if isinstance(found, Parts):
        if not set(map(type, found.bounds)) <= {str}:
            raise UnusualRecord
        return Parts(found.bounds, _oids_in(found.parts))
    return found


def children_or_parts(record: bytes) -> Children | Parts:
    """What the record of a tree of children, or of a part of one, holds.

    Raises:
        UnusualRecord: It is no tree of nodes.
    """
    found = items_or_parts(record)
    return found if isinstance(found, Parts) else _children(*found)


def _children(keys: Sequence[Any], references: Sequence[Any]) -> Children:
    try:
        usual = are_sorted_names(keys)
    except Exception as error:
        raise UnusualRecord from error
    if not usual:
        raise UnusualRecord
    return Children(keys, _oids_in(references))


def _oids_in(references: Sequence[Any]) -> list[bytes]:
    """The ids in references, all of which are plain."""
    if set(map(type, references)) <= {Reference} and set(map(len, references)) <= {2}:
        oids = [reference[0] for reference in references]
        if set(map(type, oids)) <= {bytes} and set(map(len, oids)) <= {8}:
            return oids
    raise UnusualRecord


def children_in(record: bytes, storage: PinnedStorage) -> Iterator[Children]:
    """The children in the record of a tree, and in those that it refers to, part by part.

    Raises:
        UnusualRecord: It is no tree of nodes.
    """
    found = children_or_parts(record)
    if isinstance(found, Children):
        yield found
        return
    records = storage.load_many(as_oids(found.parts))
    parts = [records.data[start:stop] for start, stop in records.bounds()]
    if beginning_with(BUCKET, records).all():
        yield _children_of_buckets(parts)
        return
    for part in parts:
        yield from children_in(bytes(part), storage)


def _children_of_buckets(buckets: list[bytes]) -> Children:
    """The children in buckets that follow one another, read in one go: that spares each of them its class."""
    unpickler = _Unpickler(io.BytesIO(b"".join([BUCKET, *(bucket[len(BUCKET) :] for bucket in buckets)])))
    try:
        unpickler.load()  # their class, to which the states refer
        held = [items_or_parts_in(unpickler.load(), is_bucket=True) for _ in buckets]
    except Exception as error:
        raise UnusualRecord from error
    return _children(*([item for part in parts for item in part] for parts in zip(*held, strict=True)))


def parts_in(trees: Records, most: int = 5000) -> list[bytes]:
    """The ids of the parts of those trees, among the first of these, that have split."""
    found: list[bytes] = []
    for start, stop in trees.bounds():
        if trees.data.find(_PART, start, stop) < 0:
            continue
        with suppress(UnusualRecord):  # which is told of where it is read
            parts = children_or_parts(bytes(trees.data[start:stop]))
            if isinstance(parts, Parts):
                if len(found) + len(parts.parts) > most:
                    break
                found += parts.parts
    return found


def attributes_in(data: Any, start: int, stop: int, needed: Container[str] | None = None) -> Items | None:
    """The names and values in a record that begins as that of a tree.

    `None` for what is no tree, or has split, or if one of the needed values (by default all) may refer to another
    object.
    """
    found = items_in(data, start, stop, TREE)
    if found is None:
        return None
    items, refers = found
    if refers:
        for name, value in zip(*items, strict=True):
            if type(value) not in ATOMS and (needed is None or name in needed):
                return None
    return items


def items_in(data: Any, start: int, stop: int, beginning: bytes) -> tuple[Items, bool] | None:
    """The names and values in a record that begins as that of a tree, or of a bucket.

    With `Reference`s for the objects that values refer to, and whether there may be some. `None` for what is neither,
    or has split.
    """
    try:
        state: bytes = data[start + len(beginning) : stop]
        is_bucket = beginning is BUCKET
        last = _NEXT.search(state, len(state) - _LONGEST_NEXT) if is_bucket and len(state) > _LONGEST_NEXT else None
        try:  # without persistent objects: ten times as fast; few attributes refer to one
            loaded, refers = pickle.loads(state if last is None else state[: last.start()] + b"\x85."), False
        except pickle.UnpicklingError:
            refers = True
            try:
                loaded = _Unpickler(io.BytesIO(state)).load()
            except pickle.UnpicklingError:  # it refers to its class, too
                loaded = class_and_state(data[start:stop])[1]
        found = items_or_parts_in(loaded, is_bucket=is_bucket)
    except Exception:  # a class that is not there, or nothing that lotdb makes
        return None
    return None if isinstance(found, Parts) else (found, refers)


#: How the record of a bucket ends that another one follows: with a reference to that.
_NEXT = re.compile(rb"C\x08.{8}(?:q.|r.{4})?h\x00\x86(?:q.|r.{4})?Q\x86(?:q.|r.{4})?\.\Z", re.DOTALL)
_LONGEST_NEXT = 32


def are_sorted_names(names: Sequence[Any]) -> bool:
    """Whether these can be all keys of a tree, which is searched by halves."""
    return set(map(type, names)) <= {str} and list(names) == sorted(names)
