"""How lotdb nodes lie in ZODB records, and how to read very many of them.

A node is three records: its own, and those of two BTrees, its children and its attributes. Records of nodes differ in
few places: three object ids and the key. So the bytes around these are learned from one record, others are compared
with them as arrays, and the ids are cut out. What differs in any other byte is unpickled.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from BTrees.OOBTree import OOBTree, OOBucket
from lotdb import BaseNode
from persistent import Persistent
from ZODB._compat import _protocol
from ZODB.serialize import ObjectWriter

from .pinned import Oids, PinnedStorage, Records, as_oids, rows_at

__all__ = [
    *("BUCKET", "EMPTY_TREE", "NODE", "TREE", "Children", "Layout", "NodeReader", "Nodes", "UnusualRecord"),
    *("beginning_with", "bucket_or_parts", "children_in", "children_oid", "class_and_state", "stored_node"),
]

#: What the records of nodes, of trees and of buckets begin with: their class.
NODE, TREE, BUCKET = (pickle.dumps(kind, _protocol) for kind in (BaseNode, OOBTree, OOBucket))
#: The record of a tree that holds nothing.
EMPTY_TREE: bytes = ObjectWriter().serialize(OOBTree())

#: Longer records of nodes are unpickled one by one.
LONGEST = 4096
#: Layouts that are learned for records of one length. Beyond these, they are unpickled one by one.
LAYOUTS = 8


class UnusualRecord(Exception):
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


def _rows(records: Records, rows: Any, length: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The first `length` bytes of some of the records, a row for each."""
    found: np.ndarray[Any, np.dtype[np.uint8]] = rows_at(records.array, records.starts[rows], length)
    return found


def beginning_with(beginning: bytes, records: Records) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of the records begin with these bytes."""
    found = records.lengths >= len(beginning)
    found[found] = (_rows(records, found, len(beginning)) == np.frombuffer(beginning, np.uint8)).all(axis=1)
    return found


# --- Nodes ----------------------------------------------------------------------------------------------------------


class Nodes(NamedTuple):
    """What the records of nodes say.

    Args:
        usual: Which of them have the shape that lotdb's own classes give them, and the key that they were asked for.
            Nothing is said of the others.
        parents: The ids of their parents.
        children: The ids of the trees of their children.
        attributes: The ids of the trees of their attributes.
    """

    usual: np.ndarray[Any, np.dtype[np.bool_]]
    parents: Oids
    children: Oids
    attributes: Oids


class NodeReader:
    """Reads records of nodes, and learns their layouts as it goes."""

    def __init__(self) -> None:
        self._layouts: dict[int, list[Layout]] = {}

    def read(self, records: Records, keys: list[str]) -> Nodes:
        """What the records of the nodes with these keys say."""
        count = len(keys)
        nodes = Nodes(np.zeros(count, np.bool_), *(np.empty((count, 8), np.uint8) for _ in range(3)))
        encoded = [key.encode("utf-8", "surrogatepass") for key in keys]
        for length in set(records.lengths.tolist()):
            rows = np.flatnonzero(records.lengths == length)
            if length <= LONGEST:
                rows = self._read_alike(records, length, rows, encoded, nodes)
            for row in rows.tolist():
                self._read_one(records, row, keys[row], nodes)
        return nodes

    def _read_alike(
        self, records: Records, length: int, rows: Any, encoded: list[bytes], nodes: Nodes
    ) -> np.ndarray[Any, Any]:
        """Read records of one length; give the rows of those that could not be read so."""
        layouts = self._layouts.setdefault(length, [])
        unread = []
        tried = 0
        while len(rows):
            if tried == len(layouts):
                if len(layouts) == LAYOUTS:
                    break
                start = int(records.starts[rows[0]])
                layout = Layout.learned(bytes(records.data[start : start + length]))
                if layout is None:
                    unread.append(rows[0])
                    rows = rows[1:]
                    continue
                layouts.append(layout)
            rows = layouts[tried].read(records, rows, encoded, nodes)
            tried += 1
        return np.concatenate([np.array(unread, np.intp), rows])

    def _read_one(self, records: Records, row: int, key: str, nodes: Nodes) -> None:
        start = int(records.starts[row])
        try:
            found = stored_node(bytes(records.data[start : start + int(records.lengths[row])]))
        except UnusualRecord:
            return
        if found.key == key and found.parent is not None:
            nodes.usual[row] = True
            for oids, oid in ((nodes.parents, found.parent), (nodes.children, found.children)):
                oids[row] = np.frombuffer(oid, np.uint8)
            nodes.attributes[row] = np.frombuffer(found.attributes, np.uint8)


def children_oid(record: bytes) -> bytes:
    """The id of the tree of a node's children.

    Raises:
        UnusualRecord: The node is not stored as lotdb's own classes are.
    """
    try:
        _, state = class_and_state(record)
        oid = _oid(state["node_storage"], OOBTree)
    except Exception as error:
        raise UnusualRecord from error
    if oid is None:
        raise UnusualRecord
    return oid


class _Node(NamedTuple):
    """One record of a node, unpickled; `parent` is None at the top of a tree."""

    kind: type[BaseNode]
    key: str
    parent: bytes | None
    children: bytes
    attributes: bytes
    more: dict[str, Any]


def stored_node(record: bytes) -> _Node:
    """Unpickle the record of a node whose class and state are as lotdb makes them."""
    try:
        kind, state = class_and_state(record)
        more = dict(state)
        key, parent = more.pop("_key"), more.pop("_parent")
        children, attributes = more.pop("node_storage"), more.pop("attribute_storage")
    except Exception as error:
        raise UnusualRecord from error
    if not (
        isinstance(kind, type)
        and issubclass(kind, BaseNode)
        and _stored_as_usual(kind)
        and type(state) is dict
        and type(key) is str
        and (parent is None or _oid(parent) is not None)
        and _oid(children, OOBTree) is not None
        and _oid(attributes, OOBTree) is not None
    ):
        raise UnusualRecord
    return _Node(kind, key, None if parent is None else parent[0], children[0], attributes[0], more)


def _oid(value: object, kind: type | None = None) -> bytes | None:
    """The id in a reference, if it is a plain one, and of that class."""
    if type(value) is Reference and len(value) == 2 and type(value[0]) is bytes and len(value[0]) == 8:
        return value[0] if kind is None or value[1] is kind else None
    return None


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


class Layout:
    """The bytes that many records of nodes have in common, and the places where they differ."""

    def __init__(self, record: bytes, places: dict[str, slice]) -> None:
        self.length = len(record)
        self.places = places
        self._key_length = places["key"].stop - places["key"].start
        self._sample = np.frombuffer(record, np.uint8)
        self._same = np.full(len(record), 0xFF, np.uint8)
        for place in places.values():
            self._same[place] = 0

    @classmethod
    def learned(cls, record: bytes) -> Layout | None:
        """The layout of a record, if the parts that differ can be told from the others."""
        try:
            node = stored_node(record)
        except UnusualRecord:
            return None
        if node.parent is None:
            return None
        key = node.key.encode("utf-8", "surrogatepass")
        parts = {
            "parent": b"C\x08" + node.parent,
            "key": b"X" + len(key).to_bytes(4, "little") + key,
            "children": b"C\x08" + node.children,
            "attributes": b"C\x08" + node.attributes,
        }
        places = {}
        for name, part in parts.items():
            start, header = record.find(part), 5 if name == "key" else 2
            if start < 0 or record.find(part, start + 1) >= 0:
                return None
            places[name] = slice(start + header, start + len(part))
        layout = cls(record, places)
        return layout if layout._proven(record, node) else None

    def _proven(self, record: bytes, node: _Node) -> bool:
        """Whether other bytes in the places change these four parts, and nothing else."""
        other = {name: bytes([2 * number]) * 8 for number, name in enumerate(("parent", "children", "attributes"), 1)}
        key = ("~" if not node.key.startswith("~") else "!") * self._key_length
        changed = bytearray(record)
        for name, oid in other.items():
            changed[self.places[name]] = oid
        changed[self.places["key"]] = key.encode()
        expected = node._replace(
            key=key, parent=other["parent"], children=other["children"], attributes=other["attributes"]
        )
        try:
            return bool(stored_node(bytes(changed)) == expected)
        except (UnusualRecord, ValueError):  # arrays in the state have no one answer
            return False

    def read(self, records: Records, rows: Any, encoded: list[bytes], nodes: Nodes) -> np.ndarray[Any, Any]:
        """Read the records in these rows that have this layout, and give the rows of the others."""
        block = _rows(records, rows, self.length)
        alike = ~((block ^ self._sample) & self._same).any(axis=1)
        others: np.ndarray[Any, Any] = rows[~alike]
        if len(others):
            block, rows = block[alike], rows[alike]
        for oids, name in ((nodes.parents, "parent"), (nodes.children, "children"), (nodes.attributes, "attributes")):
            oids[rows] = block[:, self.places[name]]
        keys = [encoded[row] for row in rows.tolist()]
        joined = b"".join(keys)
        if len(joined) == len(keys) * self._key_length and set(map(len, keys)) <= {self._key_length}:
            nodes.usual[rows] = (
                block[:, self.places["key"]] == np.frombuffer(joined, np.uint8).reshape(len(keys), self._key_length)
            ).all(axis=1)
        else:
            found = block[:, self.places["key"]]
            nodes.usual[rows] = [found[number].tobytes() == key for number, key in enumerate(keys)]
        return others


# --- Trees ----------------------------------------------------------------------------------------------------------


class Children(NamedTuple):
    """Some children of a node, sorted by key."""

    keys: Sequence[str]
    oids: Sequence[bytes]


def children_in(record: bytes, storage: PinnedStorage) -> Iterator[Children]:
    """The children in the record of a tree, and in those that it refers to, part by part.

    Raises:
        UnusualRecord: It is no tree of nodes.
    """
    children, parts = bucket_or_parts(record)
    if not parts:
        yield children
        return
    found = storage.load_many(as_oids([oid for _, oid in parts]))
    stops = (found.starts + found.lengths).tolist()
    if beginning_with(BUCKET, found).all():
        yield _children_of_buckets(
            [found.data[start + len(BUCKET) : stop] for start, stop in zip(found.starts.tolist(), stops, strict=True)]
        )
        return
    for start, stop in zip(found.starts.tolist(), stops, strict=True):
        yield from children_in(bytes(found.data[start:stop]), storage)


def _children_of_buckets(states: list[bytes]) -> Children:
    """The children in the states of buckets that follow one another."""
    unpickler = _Unpickler(io.BytesIO(b"".join([BUCKET, *states])))
    try:
        unpickler.load()  # their class, to which the states refer
        buckets = [unpickler.load() for _ in states]
        return _children_of([item for bucket in buckets for item in bucket[0]])
    except Exception as error:
        raise UnusualRecord from error


def bucket_or_parts(record: bytes) -> tuple[Children, list[tuple[str, bytes]]]:
    """What the record of a tree of children, or of a part of one, holds.

    Either the children themselves, or its parts: for each the first key that may be in it, and its id. The key of the
    first part says nothing.

    Raises:
        UnusualRecord: It is nothing of the kind.
    """
    beginning = BUCKET if record.startswith(BUCKET) else TREE
    if not record.startswith(beginning):
        raise UnusualRecord
    try:
        _, state = class_and_state(record)
        if state is None:
            return Children((), ()), []
        if beginning is BUCKET:
            return _children_of(state[0]), []
        if len(state) == 1:  # all in one bucket, which is stored with the tree
            return _children_of(state[0][0][0]), []
        references, keys = state[0][::2], state[0][1::2]
    except UnusualRecord:
        raise
    except Exception as error:
        raise UnusualRecord from error
    oids = [_oid(reference) for reference in references]
    if None in oids or not set(map(type, keys)) <= {str}:
        raise UnusualRecord
    return Children((), ()), list(zip(["", *keys], oids, strict=True))  # type: ignore[arg-type]


def _children_of(items: Any) -> Children:
    """The children in keys and references that take turns."""
    keys, references = items[::2], items[1::2]
    oids = [reference[0] for reference in references]
    usual = (
        set(map(type, keys)) <= {str}
        and set(map(type, references)) <= {Reference}
        and set(map(len, references)) <= {2}
        and set(map(type, oids)) <= {bytes}
        and set(map(len, oids)) <= {8}
        and list(keys) == sorted(keys)
    )
    if not usual:
        raise UnusualRecord
    return Children(keys, oids)
