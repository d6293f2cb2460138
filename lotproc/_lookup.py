"""Whether nodes are there, and with which stamps: for many paths at once, from the records of a storage.

Paths that come in the order of a tree share their parents, so a parent's children are read once and kept for a while.
Below nodes that have children in common, each step is taken for all of them together: records of one shape are learned
from one of them, compared byte by byte, and ids are cut out, as `_records` does. What differs is read by its real
class.
"""

from __future__ import annotations

import io
import itertools
import pickle
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter, ne
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from BTrees.OOBTree import OOBTree
from lotdb import BaseNode
from ZODB.broken import Broken
from ZODB.serialize import ObjectWriter

from ._encoding import attributes_record
from ._jar import RecordJar, damaged, unreadable
from ._nodes import connection_of
from ._pinned import Oids, PinnedStorage, Records, as_oids, rows_at
from ._records import BUCKET, EMPTY_TREE, LAYOUTS, LONGEST, TREE, UnusualRecord, _Layout, _read_node, class_and_state
from ._stamps import INPUTS, VERSION

__all__ = ["LiveLookup", "Lookup", "RecordLookup", "top_of"]

#: Children that are held at most between two calls, and what one call reads.
MOST_HELD = 50_000
#: Nodes read as objects between two trims of what that keeps in memory.
TRIM_EVERY = 200
#: How often a tree of children is parted at most; this is not reached with all the children that a disk can hold.
MOST_PARTED = 20
#: Nodes that are faster read one by one.
FEW = 6
#: Shapes of records that are learned, of all lengths together.
SHAPES = 256
#: Characters of a digest, as `inputs_digest` makes them.
DIGEST = 32

_Path: TypeAlias = "tuple[str, ...]"
_HEAD, _KEY = itemgetter(slice(None, -1)), itemgetter(-1)
_Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
_Flags: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"


class Lookup(Protocol):
    """Where a result may be."""

    def are_there(
        self, paths: Sequence[_Path], tail: _Path = (), version: str | None = None, digests: Sequence[str] | None = None
    ) -> list[bool]:
        """Whether there are nodes at these paths, each with the tail behind it, that have these stamps.

        Args:
            paths: From below the root on.
            tail: More keys, the same for all of them.
            version: What `_version` has to be; `None` for anything.
            digests: What `_inputs` has to be, for each path; `None` for anything.
        """

    def close(self) -> None:
        """Let go of what was read."""


# --- Through live nodes ---------------------------------------------------------------------------------------------


class LiveLookup:
    """Looks for nodes in a tree as its connection sees it, with all changes; it makes none.

    Args:
        root: The node below which the paths start.
    """

    def __init__(self, root: BaseNode) -> None:
        self._root = root
        self._connection = connection_of(root)
        self._untrimmed = 0

    def are_there(
        self, paths: Sequence[_Path], tail: _Path = (), version: str | None = None, digests: Sequence[str] | None = None
    ) -> list[bool]:
        there = []
        above: list[BaseNode] = [self._root]  # the nodes on the last path, as far as they are there
        last: _Path = ()
        for row, path in enumerate(paths):
            shared = 0
            for key, other in zip(path, last[: len(above) - 1], strict=False):
                if key != other:
                    break
                shared += 1
            del above[shared + 1 :]
            last = path
            node: BaseNode | None = above[-1]
            for key in path[shared:]:
                node = self._child(above[-1], key)
                if node is None:
                    break
                above.append(node)
            if node is not None:
                node = self.find(tail, node)
            digest = None if digests is None else digests[row]
            there.append(node is not None and _has_stamps(node.attribute_storage, version, digest))
        return there

    def find(self, path: _Path, node: BaseNode | None = None) -> BaseNode | None:
        """The node at a path below the root, or below another node; `None` if there is none."""
        found: BaseNode | None = self._root if node is None else node
        for key in path:
            if found is None:
                break
            found = self._child(found, key)
        return found

    def _child(self, node: BaseNode, key: str) -> BaseNode | None:
        self._untrimmed += 1
        if self._untrimmed >= TRIM_EVERY and self._connection is not None:
            self._untrimmed = 0
            self._connection.cacheGC()
        child: BaseNode | None = node.node_storage.get(key)
        return child

    def close(self) -> None:
        """Nothing is kept from one call to the next."""


def _has_stamps(attributes: Any, version: str | None, digest: str | None) -> bool:
    """Whether something with a `get` for the attributes of a node has these stamps."""
    return (version is None or _is(attributes.get(VERSION), version)) and (
        digest is None or _is(attributes.get(INPUTS), digest)
    )


def _is(value: object, stamp: str) -> bool:
    return isinstance(value, str) and value == stamp


# --- Through records ------------------------------------------------------------------------------------------------


class _Place:
    """A node whose children are looked for.

    Args:
        oid: Its id.
    """

    __slots__ = ("below", "is_open", "items", "node", "oid", "parts")

    def __init__(self, oid: bytes) -> None:
        self.oid = oid
        self.below: dict[str, _Place | None] = {}  # children whose own children were looked for; None if not there
        self.is_open = False
        self.items: dict[str, bytes] = {}  # ids of its children, as far as they were read
        self.parts: _Parts | None = None  # where more of them are
        self.node: BaseNode | None = None  # itself, if only its class can tell its children


class _Parts:
    """A tree of children, or a part of one, that is stored in parts.

    Args:
        bounds: The first key that may be in each part but the first.
        oids: The ids of the parts.
    """

    def __init__(self, bounds: Sequence[str], oids: list[bytes]) -> None:
        self.bounds = bounds
        self.oids = oids
        self.read: dict[int, _Parts | None] = {}  # those that were; None for a bucket, whose items are in the place


class RecordLookup:
    """Looks for nodes in the records of a storage.

    Args:
        storage: The records, at one transaction.
        root: The id of the node below which the paths start.
    """

    def __init__(self, storage: PinnedStorage, root: bytes) -> None:
        self._storage = storage
        self._jar = RecordJar(storage.load, storage.db)
        self._reader = _NodeReader()
        self._trees = _TreeReader()
        self._beginnings: dict[tuple[str | None, bool], list[_Beginning]] = {}
        self._root = _Place(root)
        self._held = 0
        self._untrimmed = 0

    def are_there(
        self, paths: Sequence[_Path], tail: _Path = (), version: str | None = None, digests: Sequence[str] | None = None
    ) -> list[bool]:
        if self._held > MOST_HELD:
            self._root, self._held = _Place(self._root.oid), 0
        if not tail and len(paths) > 1:
            paths, tail = _without_common_end(paths)
        oids, rows = self._find(paths)
        for key in tail:
            oids, found = self._below(oids, key)
            rows = rows[found]
        if version is not None or digests is not None:
            wanted = None if digests is None else [digests[row] for row in rows.tolist()]
            rows = rows[self._have_stamps(oids, version, wanted)]
        there = np.zeros(len(paths), np.bool_)
        there[rows] = True
        return there.tolist()

    def close(self) -> None:
        self._jar.close()

    # From paths to ids

    def _find(self, paths: Sequence[_Path]) -> tuple[Oids, Any]:
        """The ids of the nodes at these paths, and the rows of the paths that have one."""
        heads = list(map(_HEAD, paths))
        starts = [row for row, differs in enumerate(map(ne, heads, itertools.islice(heads, 1, None)), 1) if differs]
        starts = [0, *starts] if heads else []
        places = self._places([heads[start] for start in starts])
        found: list[bytes | None] = []
        wanted: list[tuple[_Place, list[str]]] = []
        for place, start, stop in zip(places, starts, [*starts[1:], len(heads)], strict=True):
            siblings = paths[start:stop]
            if place is not None:
                wanted.append((place, list(map(_KEY, siblings if all(siblings) else filter(None, siblings)))))
        oids = iter(self._children_of(wanted))
        for place, start, stop in zip(places, starts, [*starts[1:], len(heads)], strict=True):
            if place is None:
                found += [None] * (stop - start)
            elif len(children := next(oids)) == stop - start:
                found += children
            else:  # the root's own path is among them
                rest = iter(children)
                found += [next(rest) if path else place.oid for path in paths[start:stop]]
        if None not in found:
            return as_oids(found), np.arange(len(found))  # type: ignore[arg-type]
        rows = np.array([row for row, oid in enumerate(found) if oid is not None], np.intp)
        return as_oids([oid for oid in found if oid is not None]), rows

    def _places(self, heads: list[_Path]) -> list[_Place | None]:
        """The nodes at these paths, with their children at hand."""
        places: list[_Place | None] = [self._root] * len(heads)
        rows = list(range(len(heads)))
        depth = 0
        while rows:
            self._open([place for row in rows if (place := places[row]) is not None])
            rows = [row for row in rows if len(heads[row]) > depth]
            wanted: dict[_Place, dict[str, None]] = {}
            for row in rows:
                place, key = places[row], heads[row][depth]
                if place is not None and key not in place.below:
                    wanted.setdefault(place, {})[key] = None
            of_each = [(place, list(keys)) for place, keys in wanted.items()]
            for (place, keys), oids in zip(of_each, self._children_of(of_each), strict=True):
                for key, oid in zip(keys, oids, strict=True):
                    place.below[key] = None if oid is None else _Place(oid)
                self._held += len(keys)
            for row in rows:
                place = places[row]
                places[row] = None if place is None else place.below[heads[row][depth]]
            rows = [row for row in rows if places[row] is not None]
            depth += 1
        return places

    def _open(self, places: list[_Place]) -> None:
        """Read the children of nodes, or how they are parted."""
        places = [place for place in dict.fromkeys(places) if not place.is_open]
        if len(places) < FEW:
            for place in places:
                self._fill(place, self._items_or_parts(place.oid))
            return
        nodes = self._nodes(as_oids([place.oid for place in places]))
        usual = np.flatnonzero(nodes.usual)
        trees = self._storage.load_many(nodes.children[usual])
        for row, items in zip(usual.tolist(), self._trees.all(trees), strict=True):
            self._fill(places[row], items)
        for row in np.flatnonzero(~nodes.usual).tolist():
            self._fill(places[row], self._items_or_parts(places[row].oid))

    def _items_or_parts(self, oid: bytes) -> dict[str, bytes] | _Parts | None:
        """The ids of the children of one node by their keys, or how they are parted; `None` if only it can tell."""
        try:
            if not self._storage.plain_classes:
                raise UnusualRecord
            tree: bytes | None = _read_node(self._storage.load(oid)[0]).children
        except UnusualRecord:
            stored = self._node(oid).node_storage
            tree = stored._p_oid if type(stored) is OOBTree else None
        return None if tree is None else _items_or_parts(self._storage.load(tree)[0])

    def _fill(self, place: _Place, items: dict[str, bytes] | _Parts | None) -> None:
        """Take up the children of a node, or how they are parted."""
        if items is None:
            place.node = self._node(place.oid)
        elif isinstance(items, _Parts):
            place.parts = items
        else:
            place.items = items
            self._held += len(items)
        place.is_open = True

    def _children_of(self, wanted: list[tuple[_Place, list[str]]]) -> list[list[bytes | None]]:
        """The ids of the children with some keys, for each of some nodes that are open."""
        parted = [(place, place.parts, keys) for place, keys in wanted if place.parts is not None and keys]
        for turn in itertools.count():
            if not parted:
                break
            if turn == MOST_PARTED:
                raise damaged(parted[0][0].oid, "has children in parts that are parted without an end")
            parted = self._read_parts(parted)
        return [
            list(map(place.items.get, keys)) if place.node is None else [self._child(place.node, key) for key in keys]
            for place, keys in wanted
        ]

    def _read_parts(self, parted: list[tuple[_Place, _Parts, list[str]]]) -> list[tuple[_Place, _Parts, list[str]]]:
        """Read those parts of trees in which these keys would be; give those of them that are parted again."""
        needed_of: list[Iterable[int]] = []
        unread: list[tuple[_Place, _Parts, int]] = []
        for place, parts, keys in parted:
            first, last = bisect_right(parts.bounds, min(keys)), bisect_right(parts.bounds, max(keys))
            needed: Iterable[int] = range(first, last + 1)
            if last - first >= len(keys):
                needed = sorted({bisect_right(parts.bounds, key) for key in keys})
            needed_of.append(needed)
            unread += [(place, parts, number) for number in needed if number not in parts.read]
        if unread:
            records = self._storage.load_many(as_oids([parts.oids[number] for _, parts, number in unread]))
            for (place, parts, number), items in zip(unread, self._trees.all(records), strict=True):
                if items is None:
                    place.node = self._node(place.oid)
                    continue
                parts.read[number] = items if isinstance(items, _Parts) else None
                if not isinstance(items, _Parts):
                    place.items.update(items)
                    self._held += len(items)
        return [
            (place, lower, [key for key in keys if bisect_right(parts.bounds, key) == number])
            for (place, parts, keys), needed in zip(parted, needed_of, strict=True)
            for number in needed
            if (lower := parts.read.get(number)) is not None
        ]

    def _below(self, oids: Oids, key: str) -> tuple[Oids, _Flags]:
        """The ids of the children with one key of nodes with these ids, and which of them have one."""
        nodes = self._nodes(oids)
        usual = np.flatnonzero(nodes.usual)
        trees = self._storage.load_many(nodes.children if len(usual) == len(oids) else nodes.children[usual])
        children, found, unread = self._trees.one(trees, key)
        if len(usual) == len(oids) and not unread:
            return (children, found) if found.all() else (children[found], found)
        all_children = np.zeros((len(oids), 8), np.uint8)
        all_found = np.zeros(len(oids), np.bool_)
        all_children[usual], all_found[usual] = children, found
        for row in (*usual[unread].tolist(), *np.flatnonzero(~nodes.usual).tolist()):
            place = _Place(oids[row].tobytes())
            held = self._held
            self._open([place])
            ((child,),) = self._children_of([(place, [key])])
            self._held = held
            if child is not None:
                all_children[row], all_found[row] = np.frombuffer(child, np.uint8), True
        return all_children[all_found], all_found

    def _nodes(self, oids: Oids) -> _Nodes:
        """What the records of some nodes say."""
        nodes = self._reader.read(self._storage.load_many(oids))
        if not self._storage.plain_classes:
            nodes.usual[:] = False
        return nodes

    # From ids to stamps

    def _have_stamps(self, oids: Oids, version: str | None, digests: list[str] | None) -> _Flags:
        """Which of the nodes with these ids have these stamps."""
        nodes = self._nodes(oids)
        have = np.zeros(len(oids), np.bool_)
        usual = np.flatnonzero(nodes.usual)
        records = self._storage.load_many(nodes.attributes[usual])
        undecided = np.ones(len(usual), np.bool_)
        expected = None
        if digests is not None:
            joined = "".join([digests[row] for row in usual.tolist()])
            expected = np.frombuffer(joined.encode(), np.uint8).reshape(-1, DIGEST)
        beginnings = self._beginnings_of(version, digests is not None)
        beginnings.sort(key=lambda beginning: -beginning.hits)
        for beginning in beginnings:
            if not undecided.any():
                break
            rows = np.flatnonzero(undecided)
            decided, same = beginning.read(records, rows, expected)
            have[usual[rows[same]]] = True
            undecided[rows[decided]] = False
            beginning.hits += int(decided.sum())
        for number in np.flatnonzero(undecided).tolist():
            row, start = int(usual[number]), int(records.starts[number])
            digest = None if digests is None else digests[row]
            record = bytes(records.data[start : start + int(records.lengths[number])])
            attributes: Any = _stamps_in(record, INPUTS if version is None else VERSION)
            if attributes is None:
                attributes = self._jar.get(nodes.attributes[row].tobytes())
            have[row] = _has_stamps(attributes, version, digest)
        for row in np.flatnonzero(~nodes.usual).tolist():
            digest = None if digests is None else digests[row]
            have[row] = _has_stamps(self._node(oids[row].tobytes()).attribute_storage, version, digest)
        return have

    def _beginnings_of(self, version: str | None, has_digest: bool) -> list[_Beginning]:
        """What the records of attributes with these stamps begin with."""
        known = self._beginnings.get((version, has_digest))
        if known is None:
            known = self._beginnings[version, has_digest] = _beginnings(version, has_digest=has_digest)
        return known

    # Through real classes

    def _child(self, node: BaseNode, key: str) -> bytes | None:
        """The id of the child of a node that only its class can tell."""
        self._trim()
        try:
            child = node.node_storage.get(key)
            oid: bytes | None = None if child is None else child._p_oid
        except AttributeError as error:
            raise unreadable(node._p_oid, error) from error
        if child is not None and oid is None:
            raise damaged(node._p_oid, f"has a child {key!r} that is not stored as an object of its own")
        return oid

    def _node(self, oid: bytes) -> BaseNode:
        """A node as an object of its class, loaded from the records."""
        self._trim()
        node = self._jar.get(oid)
        if not isinstance(node, BaseNode):
            raise damaged(oid, f"is no lotdb node but a {type(node).__qualname__}")
        try:
            parts = node.node_storage, node.attribute_storage
        except AttributeError as error:
            raise unreadable(oid, error) from error
        if any(isinstance(part, Broken) for part in parts):
            raise damaged(oid, "refers to an object whose class can't be found")
        return node

    def _trim(self) -> None:
        self._untrimmed += 1
        if self._untrimmed >= TRIM_EVERY:
            self._untrimmed = 0
            self._jar.cacheGC()


def top_of(storage: PinnedStorage, oid: bytes) -> bytes:
    """The id of the root of the tree that a node lies in."""
    jar = RecordJar(storage.load, storage.db)
    node = jar.get(oid)
    seen: set[bytes] = set()
    try:
        while (parent := node.parent) is not None:
            if node._p_oid in seen:
                raise damaged(oid, "has itself among its parents")
            seen.add(node._p_oid)
            node = parent
    except AttributeError as error:
        raise damaged(oid, f"is not what a lotdb node should be: {error}") from error
    top: bytes = node._p_oid
    return top


def _without_common_end(paths: Sequence[_Path]) -> tuple[Sequence[_Path], _Path]:
    """The paths without the keys that all of them end with, and these keys."""
    tail: list[str] = []
    while all(paths) and len({path[-1] for path in paths}) == 1:
        tail.append(paths[0][-1])
        paths = [path[:-1] for path in paths]
    return paths, tuple(reversed(tail))


# --- Shapes of records ----------------------------------------------------------------------------------------------


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

    def matches(self, block: _Bytes) -> _Flags | None:
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

    def sorted(self, records: Records) -> Iterator[tuple[_AnyShape | None, Any, _Bytes]]:
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
    ) -> Generator[tuple[_AnyShape | None, Any, _Bytes], None, Any]:
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


class _Nodes(NamedTuple):
    """What records of nodes say: which have a usual shape, and the ids of the trees of their children and attributes.

    Nothing is said of the others.
    """

    usual: _Flags
    children: Oids
    attributes: Oids


class _NodeShape(_Shape):
    """The shape of the records of nodes: all but their keys and ids."""

    def __init__(self, record: bytes, places: Mapping[str, slice]) -> None:
        super().__init__(record, places.values())
        self.children, self.attributes = places["children"], places["attributes"]

    @classmethod
    def learned(cls, record: bytes) -> _NodeShape | None:
        layout = _Layout.learned(record)
        return None if layout is None else cls(record, layout.places)


class _NodeReader:
    """Reads records of nodes, whatever their keys: a node is found by the key that its parent has for it."""

    def __init__(self) -> None:
        self._shapes = _Shapes(_NodeShape.learned)

    def read(self, records: Records) -> _Nodes:
        count = len(records.starts)
        nodes = _Nodes(np.zeros(count, np.bool_), np.empty((count, 8), np.uint8), np.empty((count, 8), np.uint8))
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


def _items_or_parts(record: bytes) -> dict[str, bytes] | _Parts | None:
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
    return _Parts(keys, oids) if is_parted else dict(zip(keys, oids, strict=True))


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
        items = _items_or_parts(record)
        if not isinstance(items, dict) or len(items) > len(_FIRST_CHARACTERS):
            return None
        keys, oids = [], []
        place = 0
        other = {}
        changed = bytearray(record)
        for number, (key, oid) in enumerate(items.items()):
            encoded = _encoded(key)
            at_key = record.find(encoded, place) + len(_encoded(""))
            at_oid = record.find(b"C\x08" + oid, at_key) + 2
            if not place < at_key < at_oid or len(encoded) == len(_encoded("")):
                return None
            place = at_oid + 8
            keys.append(slice(at_key, at_key + len(encoded) - len(_encoded(""))))
            oids.append(slice(at_oid, place))
            other_key = _FIRST_CHARACTERS[number].ljust(keys[-1].stop - keys[-1].start, "~")
            other[other_key] = bytes([2 + number]) * 8
            changed[keys[-1]], changed[oids[-1]] = other_key.encode(), other[other_key]
        at_next = record.find(b"C\x08", place) + 2
        more = [slice(at_next, at_next + 8)] if at_next >= 2 else []
        for next_bucket in more:
            changed[next_bucket] = b"\x01" * 8
        # Other bytes in these places have to change these parts, and nothing else.
        return cls(record, keys, oids, more) if _items_or_parts(bytes(changed)) == other else None

    def one(self, block: _Bytes, key: bytes) -> tuple[_Bytes, _Flags]:
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

    def all(self, block: _Bytes) -> list[dict[str, bytes] | None]:
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

    def _all_keys(self, block: _Bytes) -> list[str]:
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


class _TreeReader:
    """Reads the records of trees of children, or of parts of them."""

    def __init__(self) -> None:
        self._shapes = _Shapes(_TreeShape.learned)

    def one(self, records: Records, key: str) -> tuple[Oids, _Flags, list[int]]:
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

    def all(self, records: Records) -> list[dict[str, bytes] | _Parts | None]:
        """What each record says: the ids of children by their keys, or how they are parted; `None` if neither."""
        all_items: list[dict[str, bytes] | _Parts | None] = [None] * len(records.starts)
        for shape, rows, block in self._shapes.sorted(records):
            if shape is not None:
                for row, items in zip(rows.tolist(), shape.all(block), strict=True):
                    all_items[row] = items
            else:
                for row, start in zip(rows.tolist(), records.starts[rows].tolist(), strict=True):
                    all_items[row] = _items_or_parts(bytes(records.data[start : start + int(records.lengths[row])]))
        return all_items


# --- Trees of attributes --------------------------------------------------------------------------------------------


class _Beginning:
    """What the records of attributes begin with, if the first of them are stamps.

    Args:
        record: The beginning of one of them, up to the end of the last stamp that matters.
        known: How many bytes tell that these stamps come first, the last one's value not included.
        digest: Where the digest is; `None` if there is none.
        counts: Whether the digest has to be the expected one.
        settled: Whether such a record has the stamps at all; if not, its beginning alone says so.
    """

    def __init__(self, record: bytes, known: int, digest: int | None, *, counts: bool, settled: bool) -> None:
        self._sample = np.frombuffer(record, np.uint8)
        self._known = known
        self._digest = digest
        self._counts = counts
        self._settled = settled
        self.hits = 0  # records that began like this
        self._same = np.full(len(record), 0xFF, np.uint8)
        if digest is not None:
            self._same[digest : digest + DIGEST] = 0

    def read(self, records: Records, rows: Any, digests: _Bytes | None) -> tuple[_Flags, _Flags]:
        """Which of the records in these rows begin like this, and which have the very stamps."""
        length = len(self._sample)
        same = records.lengths[rows] >= length
        decided = records.lengths[rows] >= self._known
        if same.all():
            block = rows_at(records.array, records.starts[rows], length)
            differs = (block ^ self._sample) & self._same
            same = ~differs.any(axis=1)
            decided = same if same.all() else ~differs[:, : self._known].any(axis=1)
        else:
            block = rows_at(records.array, records.starts[rows[decided]], self._known)
            differs = (block ^ self._sample[: self._known]) & self._same[: self._known]
            decided[decided] = ~differs.any(axis=1)
            block = rows_at(records.array, records.starts[rows[same]], length)
            same[same] = ~((block ^ self._sample) & self._same).any(axis=1)
        if not self._settled:
            return decided, np.zeros(len(rows), np.bool_)
        if self._counts and self._digest is not None and digests is not None:
            block = rows_at(records.array, records.starts[rows[same]] + self._digest, DIGEST)
            same = same.copy()
            same[same] = (block == digests[rows[same]]).all(axis=1)
        return decided, same


def _beginnings(version: str | None, *, has_digest: bool) -> list[_Beginning]:
    """All that records of attributes with these stamps may begin with, as they are written live and in bulk."""
    if version in (VERSION, INPUTS):
        return []  # a pickle would refer to the name
    digest = "0" * DIGEST
    shapes = [{INPUTS: digest}] if version is None else [{INPUTS: digest, VERSION: version}, {VERSION: version}]
    found: dict[bytes, _Beginning] = {}
    for stamps in shapes:
        attributes: dict[str, Any]
        for attributes in ({**stamps, "result": 0.5}, {**stamps}):
            for encode in (attributes_record, _stored_live):
                record = encode(attributes)
                place, digest_place = len(TREE), None
                for name, value in stamps.items():  # sorted, as they are stored
                    place = record.index(_encoded(value), record.index(_encoded(name), place) + len(_encoded(name)))
                    if name == INPUTS:
                        digest_place = place + len(_encoded(""))
                beginning = record[: place + len(_encoded(value))]
                known = place + (1 if VERSION in stamps else len(_encoded("")))
                settled = INPUTS in stamps or not has_digest
                found[beginning] = _Beginning(beginning, known, digest_place, counts=has_digest, settled=settled)
    return list(found.values())


def _stored_live(attributes: Mapping[str, Any]) -> bytes:
    """The record that ZODB makes of a tree of attributes."""
    record: bytes = ObjectWriter().serialize(OOBTree(attributes))
    return record


def _encoded(text: str) -> bytes:
    """A str as pickles have it."""
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def _stamps_in(record: bytes, last: str) -> dict[str, Any] | None:
    """The stamps in the record of a tree of attributes, up to the one called `last`.

    `None` if only the real classes can tell.
    """
    if record == EMPTY_TREE:
        return {}
    first = len(TREE) + 2  # behind the number of the protocol
    first += record.startswith(b"(", first)
    if record.startswith(TREE) and record.startswith(b"X", first):
        length = int.from_bytes(record[first + 1 : first + 5], "little")
        if record[first + 5 : first + 5 + length] > last.encode():
            return {}  # the names are sorted, so they are not there
    try:
        kind, state = class_and_state(record)
        if kind is not OOBTree or len(state) != 1:
            return None
        items = state[0][0][0]
        names = list(items[::2])
        if set(map(type, names)) <= {str} and names == sorted(names):
            return {name: items[2 * names.index(name) + 1] for name in (VERSION, INPUTS) if name in names}
    except Exception:  # a class that is not there, or nothing that lotdb makes
        pass
    return None
