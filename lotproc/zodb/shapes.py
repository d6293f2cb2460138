"""Decoding records of one shape, many at once: the one learner of shapes, for nodes and the trees of their children.

Records of one kind and length differ in few places: ids and keys. So the bytes around these are learned from one
record, others are compared with it byte by byte, as arrays, and the ids are cut out. What differs in any other byte is
unpickled, as `records` does it. Read so, a thousand nodes take a twentieth of the time, and small trees a quarter.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from .._jar import Parts
from .record_arrays import Bytes, Flags, Oids, Records, rows_at
from .records import Children, StoredNode, UnusualRecord, children_or_parts, pickled_text, stored_node

__all__ = ["TREE_SHAPES", "NodeReader", "NodeShape", "Nodes", "Shape", "Shapes", "TreeReader", "children_by_key"]

#: Longer records are unpickled one by one.
LONGEST = 4096
#: Shapes that are learned for records of one length; and for trees, which have many more, of all lengths together.
SHAPES, TREE_SHAPES = 8, 256


class Shape:
    """The bytes that many records have in common.

    Args:
        record: One of them.
        places: Where they differ.
    """

    def __init__(self, record: bytes, places: Iterable[slice]) -> None:
        self.length = len(record)
        self._sample = np.frombuffer(record, np.uint8)
        self._same = np.full(len(record), 0xFF, np.uint8)
        for place in places:
            self._same[place] = 0
        edges = np.flatnonzero(np.diff(self._same, prepend=0, append=0)).tolist()
        #: Where these bytes begin, and the bytes.
        self._starts = edges[::2]
        self._texts = [record[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)]

    def is_of(self, record: bytes) -> bool:
        """Whether one record, of the same length, has these bytes."""
        return all(map(record.startswith, self._texts, self._starts))

    def matches(self, block: Bytes) -> Flags | None:
        """Which of some records, a row for each, have these bytes; `None` if all do."""
        differs = block ^ self._sample
        differs &= self._same
        if not differs.max(initial=0):  # much faster than a look at each row
            return None
        return np.equal(differs.any(axis=1), False)


_AnyShape = TypeVar("_AnyShape", bound=Shape)


class Shapes(Generic[_AnyShape]):
    """Sorts records by their shapes, which it learns as it goes.

    Args:
        learned: A function from a record to its shape; `None` if it has none.
        most: How many it tries to learn.
        tries: How many records of one length, read together, may turn out to have no shape until it gives up on them.
    """

    def __init__(self, learned: Callable[[bytes], _AnyShape | None], most: int, tries: int) -> None:
        self._learned = learned
        self._tries = tries
        self._known: dict[int, list[_AnyShape]] = {}
        self._untold = most

    def of(self, record: bytes) -> _AnyShape | None:
        """The shape of one record, if it has one."""
        known = self._known.setdefault(len(record), [])
        for shape in known:
            if shape.is_of(record):
                return shape
        if len(record) > LONGEST or len(known) == SHAPES or not self._untold:
            return None
        self._untold -= 1
        learned = self._learned(record)
        if learned is not None:
            known.append(learned)
        return learned

    def sorted(self, records: Records) -> Iterator[tuple[_AnyShape | None, Any, Bytes]]:
        """The shape, the rows and the bytes of records of one shape after the other, and at last the rows of others."""
        others: list[Any] = []
        for length in set(records.lengths.tolist()):
            rows = np.flatnonzero(records.lengths == length)
            if length <= LONGEST:
                rows = yield from self._alike(records, length, rows)
            others += rows.tolist()
        if others:
            yield None, np.array(others, np.intp), np.zeros((0, 0), np.uint8)

    def _alike(
        self, records: Records, length: int, rows: Any
    ) -> Generator[tuple[_AnyShape | None, Any, Bytes], None, Any]:
        known = self._known.setdefault(length, [])
        tried = 0
        unread: list[int] = []
        block = rows_at(records.array, records.starts[rows], length)
        while len(rows):
            if tried == len(known):
                if tried == SHAPES or len(unread) == self._tries or not self._untold:
                    break
                self._untold -= 1
                shape = self._learned(block[0].tobytes())
                if shape is None:
                    unread.append(rows[0])
                    rows, block = rows[1:], block[1:]
                    continue
                known.append(shape)
            alike = known[tried].matches(block)
            if alike is None:
                yield known[tried], rows, block
                rows = rows[:0]
                break
            if alike.any():
                yield known[tried], rows[alike], block[alike]
                rows, block = rows[~alike], block[~alike]
            tried += 1
        return np.array([*unread, *rows.tolist()], np.intp)


# --- Nodes ----------------------------------------------------------------------------------------------------------


class Nodes(NamedTuple):
    """What the records of nodes say.

    Args:
        usual: Which of them have the shape that lotdb's own classes give them, a parent, and the key that they were
            asked for, if any. Nothing is said of the others.
        parents: The ids of their parents, where keys were asked for.
        children: The ids of the trees of their children.
        attributes: The ids of the trees of their attributes.
    """

    usual: Flags
    parents: Oids
    children: Oids
    attributes: Oids


class NodeShape(Shape):
    """The shape of the records of nodes: all but their keys and ids."""

    def __init__(self, record: bytes, places: dict[str, slice]) -> None:
        super().__init__(record, places.values())
        self.places = places

    @classmethod
    def learned(cls, record: bytes) -> NodeShape | None:
        """The shape of a record, if the parts that differ can be told from the others."""
        try:
            node = stored_node(record)
        except UnusualRecord:
            return None
        if node.parent is None:
            return None
        text = pickled_text(node.key)
        parts = {
            "parent": (b"C\x08", node.parent),
            "key": (text[:5], text[5:]),
            "children": (b"C\x08", node.children),
            "attributes": (b"C\x08", node.attributes),
        }
        places = {}
        for name, (header, part) in parts.items():
            start = record.find(header + part)
            if start < 0 or record.find(header + part, start + 1) >= 0:
                return None
            places[name] = slice(start + len(header), start + len(header) + len(part))
        return cls(record, places) if _are_proven(places, record, node) else None

    def has_keys(self, block: Bytes, keys: Sequence[str]) -> Any:
        """Which of some records, a row for each, have these keys."""
        place = self.places["key"]
        width = place.stop - place.start
        found = block[:, place]
        joined = "".join(keys)
        if joined.isascii() and set(map(len, keys)) <= {width}:
            differs = found != np.frombuffer(joined.encode(), np.uint8).reshape(len(keys), width)
            return ~differs.any(axis=1) if differs.any() else True
        encoded = [key.encode("utf-8", "surrogatepass") for key in keys]
        return [row.tobytes() == key for row, key in zip(found, encoded, strict=True)]


def _are_proven(places: dict[str, slice], record: bytes, node: StoredNode) -> bool:
    """Whether other bytes in these places of a node's record change these four parts, and nothing else."""
    width = places["key"].stop - places["key"].start
    other: dict[str, Any] = {
        "key": ("~" if not node.key.startswith("~") else "!") * width,
        **{name: bytes([2 * number]) * 8 for number, name in enumerate(("parent", "children", "attributes"), 1)},
    }
    changed = bytearray(record)
    for name, part in other.items():
        changed[places[name]] = part.encode() if name == "key" else part
    try:
        return bool(stored_node(bytes(changed)) == node._replace(**other))
    except (UnusualRecord, ValueError):  # arrays in the state have no one answer
        return False


class NodeReader:
    """Reads records of nodes, and learns their shapes as it goes."""

    def __init__(self) -> None:
        self._shapes = Shapes(NodeShape.learned, LONGEST * SHAPES, tries=SHAPES)

    def read(self, records: Records, keys: Sequence[str] | None = None) -> Nodes:
        """What the records of nodes with these keys, or with any, say."""
        count = len(records.starts)
        nodes = Nodes(np.zeros(count, np.bool_), *(np.empty((count, 8), np.uint8) for _ in range(3)))
        for shape, rows, block in self._shapes.sorted(records):
            if shape is None:
                for row in rows.tolist():
                    self._read_one(records, row, None if keys is None else keys[row], nodes)
                continue
            nodes.children[rows] = block[:, shape.places["children"]]
            nodes.attributes[rows] = block[:, shape.places["attributes"]]
            nodes.usual[rows] = True
            if keys is not None:
                nodes.parents[rows] = block[:, shape.places["parent"]]
                some = keys if len(rows) == count else [keys[row] for row in rows.tolist()]
                nodes.usual[rows] = shape.has_keys(block, some)
        return nodes

    def one(self, record: bytes) -> tuple[bytes, bytes, bytes] | None:
        """The parent's id, the encoded key and the id of the tree of children in a record; `None` if it has none."""
        shape = self._shapes.of(record)
        if shape is None:
            return None
        places = shape.places
        return record[places["parent"]], record[places["key"]], record[places["children"]]

    def _read_one(self, records: Records, row: int, key: str | None, nodes: Nodes) -> None:
        try:
            found = stored_node(records.one(row))
        except UnusualRecord:
            return
        if found.parent is not None and key in (None, found.key):
            nodes.usual[row] = True
            nodes.parents[row] = np.frombuffer(found.parent, np.uint8)
            nodes.children[row] = np.frombuffer(found.children, np.uint8)
            nodes.attributes[row] = np.frombuffer(found.attributes, np.uint8)


# --- Trees of children ----------------------------------------------------------------------------------------------


def children_by_key(record: bytes) -> dict[str, bytes] | Parts | None:
    """The ids of the children in the record of a tree, or of a part of one, by their keys; or how it is parted.

    `None` if it is no tree of nodes.
    """
    try:
        found = children_or_parts(record)
    except UnusualRecord:
        return None
    return dict(zip(*found, strict=True)) if isinstance(found, Children) else found


class _TreeShape(Shape):
    """The shape of the records of small trees, or of buckets of large ones: all but their keys and ids.

    Args:
        record: One of them.
        keys: Where the keys of the children are.
        oids: Where their ids are.
        more: Where the id of the next bucket is, if the record has one.
    """

    def __init__(self, record: bytes, keys: list[slice], oids: list[slice], more: list[slice]) -> None:
        super().__init__(record, (*keys, *oids, *more))
        self._keys = keys
        self._oids = oids
        self.is_of_one = len(keys) == 1 and not more
        widths = {key.stop - key.start for key in keys}
        self._width = widths.pop() if len(widths) == 1 else 0  # of the keys, if they are of one
        self._key_bytes = np.array([range(key.start, key.stop) for key in keys if self._width], np.intp).ravel()
        self._oid_bytes = np.array([range(oid.start, oid.stop) for oid in oids], np.intp).ravel()

    @classmethod
    def learned(cls, record: bytes) -> _TreeShape | None:
        """The shape of a record, if the parts that differ can be told from the rest."""
        children = children_by_key(record)
        if not isinstance(children, dict) or len(children) > len(_FIRST_CHARACTERS):
            return None
        keys, oids = [], []
        place = 0
        other = {}
        changed = bytearray(record)
        for number, (key, oid) in enumerate(children.items()):
            encoded = pickled_text(key)
            at_key = record.find(encoded, place) + len(pickled_text(""))
            at_oid = record.find(b"C\x08" + oid, at_key) + 2
            if not place < at_key < at_oid or len(encoded) == len(pickled_text("")):
                return None
            place = at_oid + 8
            keys.append(slice(at_key, at_key + len(encoded) - len(pickled_text(""))))
            oids.append(slice(at_oid, place))
            other_key = _FIRST_CHARACTERS[number].ljust(keys[-1].stop - keys[-1].start, "~")
            other[other_key] = bytes([2 + number]) * 8
            changed[keys[-1]], changed[oids[-1]] = other_key.encode(), other[other_key]
        at_next = record.find(b"C\x08", place) + 2
        more = [slice(at_next, at_next + 8)] if at_next >= 2 else []
        for next_bucket in more:
            changed[next_bucket] = b"\x01" * 8
        # Other bytes in these places have to change these parts, and nothing else.
        return cls(record, keys, oids, more) if children_by_key(bytes(changed)) == other else None

    def one(self, block: Bytes, key: bytes) -> tuple[Bytes, Flags]:
        """The ids of the children with this key in records, a row for each, and which of them have one."""
        oids = np.zeros((len(block), 8), np.uint8)
        found = np.zeros(len(block), np.bool_)
        wanted = np.frombuffer(key, np.uint8)
        for place, oid in zip(self._keys, self._oids, strict=True):
            if place.stop - place.start == len(key):
                differs = block[:, place] ^ wanted
                if not differs.any():
                    return block[:, oid], np.ones(len(block), np.bool_)
                have = ~differs.any(axis=1)
                found |= have
                oids[have] = block[have, oid]
        return oids, found

    def only(self, record: bytes) -> tuple[bytes, bytes]:
        """The encoded key and the id of the first child in one record."""
        return record[self._keys[0]], record[self._oids[0]]

    def all(self, block: Bytes) -> list[dict[str, bytes] | None]:
        """The ids of all children in records, a row for each, by their keys; `None` where these can't be told."""
        joined = block[:, self._oid_bytes].tobytes()
        oids = [joined[start : start + 8] for start in range(0, len(joined), 8)]
        try:
            keys = self._all_keys(block)
        except UnicodeDecodeError:
            return [None] * len(block)
        count = len(self._keys)
        found: list[dict[str, bytes] | None] = []
        for start in range(0, len(block) * count, count or 1):
            names = keys[start : start + count]
            found.append(dict(zip(names, oids[start : start + count], strict=True)) if names == sorted(names) else None)
        return found if count else [{} for _ in block]

    def each(self, block: Bytes, keys: list[bytes]) -> tuple[Oids, Flags, Flags]:
        """The ids of the children with one key for each record, which have one, and of which that can be told."""
        count, width = len(block), self._width
        nothing = np.zeros((count, 8), np.uint8), np.zeros(count, np.bool_)
        if not width or set(map(len, keys)) != {width}:
            return *nothing, nothing[1]
        names = np.ascontiguousarray(block[:, self._key_bytes]).view(f"S{width}")
        same = names == np.frombuffer(b"".join(keys), f"S{width}")[:, np.newaxis]
        oids = block[:, self._oid_bytes].reshape(count, -1, 8)[np.arange(count), same.argmax(axis=1)]
        return oids, same.any(axis=1), np.asarray((names[:, 1:] > names[:, :-1]).all(axis=1))

    def all_have(self, block: Bytes, test: Callable[[str], object]) -> Any:
        """Which of some records, a row for each, hold only keys that pass a test."""
        count = len(self._keys)
        if not count:
            return True
        same = not (block[:, self._key_bytes] ^ block[0, self._key_bytes]).any() and bool(self._width)
        try:
            keys = self._all_keys(block[:1] if same else block)
        except UnicodeDecodeError:
            return False
        passed = [all(map(test, keys[start : start + count])) for start in range(0, len(keys), count)]
        return passed[0] if same else passed

    def _all_keys(self, block: Bytes) -> list[str]:
        width = self._width
        if width:
            text = block[:, self._key_bytes].tobytes().decode("utf-8", "surrogatepass")
            if len(text) == len(block) * len(self._key_bytes):  # a byte for each character
                return [text[start : start + width] for start in range(0, len(text), width)]
        return [
            record[place].decode("utf-8", "surrogatepass")
            for record in [row.tobytes() for row in block]
            for place in self._keys
        ]


#: What the keys of a sample begin with, one after the other.
_FIRST_CHARACTERS = [chr(number) for number in range(ord("!"), ord("~"))]


class TreeReader:
    """Reads the records of trees of children, or of parts of them, and learns their shapes as it goes."""

    def __init__(self) -> None:
        self._shapes = Shapes(_TreeShape.learned, TREE_SHAPES, tries=1)

    def one(self, records: Records, key: str) -> tuple[Oids, Flags, list[int]]:
        """The ids of the children with a key, which trees have one, and the rows of those that can't be told so."""
        count = len(records.starts)
        oids = np.zeros((count, 8), np.uint8)
        found = np.zeros(count, np.bool_)
        unread: list[int] = []
        encoded = key.encode("utf-8", "surrogatepass")
        for shape, rows, block in self._shapes.sorted(records):
            if shape is None:
                unread = rows.tolist()
            else:
                oids[rows], found[rows] = shape.one(block, encoded)
        return oids, found, unread

    def only_one(self, record: bytes) -> tuple[bytes, bytes] | None:
        """The encoded key and the id of the only child in one record; `None` if it can't be told to have such a one."""
        shape = self._shapes.of(record)
        return shape.only(record) if shape is not None and shape.is_of_one else None

    def only(self, records: Records, key: str) -> tuple[Oids, Flags]:
        """The ids of the only children, with this key, and which trees can be told to have such a one."""
        count = len(records.starts)
        oids = np.zeros((count, 8), np.uint8)
        found = np.zeros(count, np.bool_)
        encoded = key.encode("utf-8", "surrogatepass")
        for shape, rows, block in self._shapes.sorted(records):
            if shape is not None and shape.is_of_one:
                oids[rows], found[rows] = shape.one(block, encoded)
        return oids, found

    def each(self, records: Records, keys: Sequence[str]) -> tuple[Oids, Flags, list[int]]:
        """The ids of the children with one key for each record, which have one, and the rows that can't be told so."""
        count = len(records.starts)
        oids, found, told = np.zeros((count, 8), np.uint8), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        encoded = [key.encode("utf-8", "surrogatepass") for key in keys]
        for shape, rows, block in self._shapes.sorted(records):
            if shape is not None:
                oids[rows], found[rows], told[rows] = shape.each(block, [encoded[row] for row in rows.tolist()])
        return oids, found & told, np.flatnonzero(~told).tolist()

    def all_have(self, records: Records, test: Callable[[str], object]) -> Flags:
        """Which trees hold only keys that pass a test, as far as it can be told."""
        found = np.zeros(len(records.starts), np.bool_)
        for shape, rows, block in self._shapes.sorted(records):
            if shape is not None:
                found[rows] = shape.all_have(block, test)
        return found

    def all(self, records: Records) -> list[dict[str, bytes] | Parts | None]:
        """What each record says: the ids of children by their keys, or how they are parted; `None` if neither."""
        found: list[dict[str, bytes] | Parts | None] = [None] * len(records.starts)
        for shape, rows, block in self._shapes.sorted(records):
            each: Iterable[dict[str, bytes] | Parts | None]
            each = map(children_by_key, map(records.one, rows.tolist())) if shape is None else shape.all(block)
            for row, items in zip(rows.tolist(), each, strict=True):
                found[row] = items
        return found
