"""Records of one shape, read many at once: of nodes, and of the trees of their children.

Records of one shape are learned from one of them, and compared with it byte by byte; ids and keys are cut out. What
differs in any other byte is left to be unpickled.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from .pinned import Oids, Records, rows_at
from .records import BUCKET, LAYOUTS, LONGEST, TREE, Layout

__all__ = ["Bytes", "Flags", "NodeShapes", "NodeTrees", "Parts", "TreeShapes", "items_or_parts", "pickled_text"]

#: Shapes of records that are learned, of all lengths together.
SHAPES = 256

Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Flags: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"


class _Shape:
    """The bytes that many records of one length have in common.

    Args:
        record: One of them.
        places: Where they differ.
    """

    def __init__(self, record: bytes, places: Iterable[slice]) -> None:
        self._sample = np.frombuffer(record, np.uint8)
        self._same = np.full(len(record), 0xFF, np.uint8)
        for place in places:
            self._same[place] = 0

    def matches(self, block: Bytes) -> Flags | None:
        """Which of some records, a row for each, have these bytes; `None` if all do."""
        differs = (block ^ self._sample) & self._same
        if not differs.max(initial=0):  # much faster than a look at each row
            return None
        return np.equal(differs.any(axis=1), False)


_AnyShape = TypeVar("_AnyShape", bound=_Shape)


class _Shapes(Generic[_AnyShape]):
    """Sorts records by their shapes, which it learns as it goes.

    Args:
        learned: A function from a record to its shape; `None` if it has none.
    """

    def __init__(self, learned: Callable[[bytes], _AnyShape | None]) -> None:
        self._learned = learned
        self._known: dict[int, list[_AnyShape]] = {}
        self._untold = SHAPES  # those that may still be learned

    def sorted(self, records: Records) -> Iterator[tuple[_AnyShape | None, Any, Bytes]]:
        """The shape, the rows and the bytes of records of one shape after the other, and at last the rows of others."""
        others = []
        lengths = records.lengths
        for length in set(lengths.tolist()):
            rows = np.flatnonzero(lengths == length)
            if length <= LONGEST:
                rows = yield from self._alike(records, length, rows)
            if len(rows):
                others.append(rows)
        if others:
            yield None, np.concatenate(others), np.zeros((0, 0), np.uint8)

    def _alike(
        self, records: Records, length: int, rows: Any
    ) -> Generator[tuple[_AnyShape | None, Any, Bytes], None, Any]:
        known = self._known.setdefault(length, [])
        tried = 0
        block = rows_at(records.array, records.starts[rows], length)
        while len(rows):
            if tried == len(known):
                if tried == LAYOUTS or not self._untold:
                    break
                self._untold -= 1
                shape = self._learned(block[0].tobytes())
                if shape is None:
                    break
                known.append(shape)
            alike = known[tried].matches(block)
            if alike is None:
                yield known[tried], rows, block
                return rows[:0]
            if alike.any():
                yield known[tried], rows[alike], block[alike]
                rows, block = rows[~alike], block[~alike]
            tried += 1
        return rows


class NodeTrees(NamedTuple):
    """What records of nodes say: which have a usual shape, and the ids of the trees of their children and attributes.

    Nothing is said of the others.
    """

    usual: Flags
    children: Oids
    attributes: Oids


class _NodeShape(_Shape):
    """The shape of the records of nodes: all but their keys and ids."""

    def __init__(self, record: bytes, places: Mapping[str, slice]) -> None:
        super().__init__(record, places.values())
        self.children, self.attributes = places["children"], places["attributes"]

    @classmethod
    def learned(cls, record: bytes) -> _NodeShape | None:
        layout = Layout.learned(record)
        return None if layout is None else cls(record, layout.places)


class NodeShapes:
    """Reads records of nodes, whatever their keys: a node is found by the key that its parent has for it."""

    def __init__(self) -> None:
        self._shapes = _Shapes(_NodeShape.learned)

    def read(self, records: Records) -> NodeTrees:
        count = len(records.starts)
        nodes = NodeTrees(np.zeros(count, np.bool_), np.empty((count, 8), np.uint8), np.empty((count, 8), np.uint8))
        for shape, rows, block in self._shapes.sorted(records):
            if shape is not None:
                nodes.usual[rows] = True
                nodes.children[rows] = block[:, shape.children]
                nodes.attributes[rows] = block[:, shape.attributes]
        return nodes


# --- Trees of children ----------------------------------------------------------------------------------------------


class _Unpickler(pickle.Unpickler):
    """Gives the iterator of a tuple for each object that a record refers to: quickly made, and like no other value."""

    persistent_load = iter  # of the class, since Python 3.13 takes none of an instance


_Reference = type(iter(()))


def items_or_parts(record: bytes) -> dict[str, bytes] | Parts | None:
    """The ids of the children in the record of a tree, or of a part of one, by their keys; or how it is parted.

    `None` if it is no tree of nodes.
    """
    if not record.startswith((BUCKET, TREE)):
        return None
    unpickler = _Unpickler(io.BytesIO(record))
    try:
        unpickler.load()
        state: Any = unpickler.load()
        if state is None:
            return {}
        is_parted = len(state) == 2 and record.startswith(TREE)
        if record.startswith(TREE) and not is_parted:
            ((state,),) = state  # all in one bucket, which is stored with the tree
        keys, references = (state[0][1::2], state[0][::2]) if is_parted else (state[0][::2], state[0][1::2])
        oids = list(map(next, references))
    except Exception:
        return None
    usual = (
        set(map(type, keys)) <= {str}
        and set(map(type, references)) <= {_Reference}
        and set(map(type, oids)) <= {bytes}
        and set(map(len, oids)) <= {8}
        and list(keys) == sorted(keys)
    )
    if not usual:
        return None
    return Parts(keys, oids) if is_parted else dict(zip(keys, oids, strict=True))


class _TreeShape(_Shape):
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
        widths = {key.stop - key.start for key in keys}
        self._width = widths.pop() if len(widths) == 1 else 0  # of the keys, if they are of one
        self._key_bytes = np.array([range(key.start, key.stop) for key in keys if self._width], np.intp).ravel()
        self._oid_bytes = np.array([range(oid.start, oid.stop) for oid in oids], np.intp).ravel()

    @classmethod
    def learned(cls, record: bytes) -> _TreeShape | None:
        """The shape of a record, if the parts that differ can be told from the rest."""
        items = items_or_parts(record)
        if not isinstance(items, dict) or len(items) > len(_FIRST_CHARACTERS):
            return None
        keys, oids = [], []
        place = 0
        other = {}
        changed = bytearray(record)
        for number, (key, oid) in enumerate(items.items()):
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
        return cls(record, keys, oids, more) if items_or_parts(bytes(changed)) == other else None

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


class TreeShapes:
    """Reads the records of trees of children, or of parts of them."""

    def __init__(self) -> None:
        self._shapes = _Shapes(_TreeShape.learned)

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

    def all(self, records: Records) -> list[dict[str, bytes] | Parts | None]:
        """What each record says: the ids of children by their keys, or how they are parted; `None` if neither."""
        all_items: list[dict[str, bytes] | Parts | None] = [None] * len(records.starts)
        for shape, rows, block in self._shapes.sorted(records):
            if shape is not None:
                for row, items in zip(rows.tolist(), shape.all(block), strict=True):
                    all_items[row] = items
            else:
                for row, start in zip(rows.tolist(), records.starts[rows].tolist(), strict=True):
                    all_items[row] = items_or_parts(bytes(records.data[start : start + int(records.lengths[row])]))
        return all_items


class Parts:
    """A tree of children, or a part of one, that is stored in parts.

    Args:
        bounds: The first key that may be in each part but the first.
        oids: The ids of the parts.
    """

    def __init__(self, bounds: Sequence[str], oids: list[bytes]) -> None:
        self.bounds = bounds
        self.oids = oids
        self.read: dict[int, Parts | None] = {}  # those that were; None for a bucket, whose items are in the place


def pickled_text(text: str) -> bytes:
    """A str as pickles have it."""
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + len(encoded).to_bytes(4, "little") + encoded
