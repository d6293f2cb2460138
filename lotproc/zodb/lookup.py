"""Whether nodes are there, and with which stamps: for many paths at once, from the records of a storage.

Paths that come in the order of a tree share their parents, so a parent's children are read once and kept for a while.
Below nodes that have children in common, each step is taken for all of them together: records of one shape are learned
from one of them, compared byte by byte, and ids are cut out, as `_records` does. What differs is read by its real
class.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from operator import itemgetter, ne
from typing import Any, Protocol, TypeAlias

import numpy as np
from BTrees.OOBTree import OOBTree
from lotdb import BaseNode
from ZODB.broken import Broken

from .._jar import damaged, unreadable
from .._nodes import connection_of
from .._stamps import DIGEST, INPUTS, VERSION, is_inputs_stamp
from .pinned import Oids, PinnedStorage, as_oids
from .records import UnusualRecord, stored_node
from .shapes import Flags, NodeShapes, NodeTrees, Parts, TreeShapes, items_or_parts
from .stamped import Beginning, beginnings, stamps_in

__all__ = ["LiveLookup", "Lookup", "RecordLookup", "top_of"]

#: Children that are held at most between two calls, and what one call reads.
MOST_HELD = 50_000
#: Nodes read as objects between two trims of what that keeps in memory.
TRIM_EVERY = 200
#: How often a tree of children is parted at most; this is not reached with all the children that a disk can hold.
MOST_PARTED = 20
#: Nodes that are faster read one by one.
FEW = 6

_Path: TypeAlias = "tuple[str, ...]"
_HEAD, _KEY = itemgetter(slice(None, -1)), itemgetter(-1)


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
            digests: What `_inputs` has to be, for each path, by `is_inputs_stamp`; `None` for anything.
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
        digest is None or is_inputs_stamp(attributes.get(INPUTS), digest)
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
        self.parts: Parts | None = None  # where more of them are
        self.node: BaseNode | None = None  # itself, if only its class can tell its children


class _Elsewhere(Exception):
    """A node lies in a sibling database, which has its own ids."""


class RecordLookup:
    """Looks for nodes in the records of a storage.

    Args:
        storage: The records, at one transaction.
        root: The id of the node below which the paths start.
    """

    def __init__(self, storage: PinnedStorage, root: bytes) -> None:
        self._storage = storage
        self._jar = storage.jar()
        self._live: LiveLookup | None = None  # what looks through objects, once some lie in other databases
        self._reader = NodeShapes()
        self._trees = TreeShapes()
        self._beginnings: dict[tuple[str | None, bool, bool], list[Beginning]] = {}
        self._root = _Place(root)
        self._held = 0
        self._untrimmed = 0

    def are_there(
        self, paths: Sequence[_Path], tail: _Path = (), version: str | None = None, digests: Sequence[str] | None = None
    ) -> list[bool]:
        if self._live is None:
            try:
                return self._are_there(paths, tail, version, digests)
            except _Elsewhere:
                self._live = LiveLookup(self._node(self._root.oid))
        return self._live.are_there(paths, tail, version, digests)

    def _are_there(
        self, paths: Sequence[_Path], tail: _Path, version: str | None, digests: Sequence[str] | None
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
        self._storage.close()

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

    def _items_or_parts(self, oid: bytes) -> dict[str, bytes] | Parts | None:
        """The ids of the children of one node by their keys, or how they are parted; `None` if only it can tell."""
        try:
            if not self._storage.plain_classes:
                raise UnusualRecord
            tree: bytes | None = stored_node(self._storage.load(oid)[0]).children
        except UnusualRecord:
            stored = self._node(oid).node_storage
            tree = stored._p_oid if type(stored) is OOBTree and stored._p_jar is self._jar else None
        return None if tree is None else items_or_parts(self._storage.load(tree)[0])

    def _fill(self, place: _Place, items: dict[str, bytes] | Parts | None) -> None:
        """Take up the children of a node, or how they are parted."""
        if items is None:
            place.node = self._node(place.oid)
        elif isinstance(items, Parts):
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

    def _read_parts(self, parted: list[tuple[_Place, Parts, list[str]]]) -> list[tuple[_Place, Parts, list[str]]]:
        """Read those parts of trees in which these keys would be; give those of them that are parted again."""
        needed_of: list[Iterable[int]] = []
        unread: list[tuple[_Place, Parts, int]] = []
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
                parts.read[number] = items if isinstance(items, Parts) else None
                if not isinstance(items, Parts):
                    place.items.update(items)
                    self._held += len(items)
        return [
            (place, lower, [key for key in keys if bisect_right(parts.bounds, key) == number])
            for (place, parts, keys), needed in zip(parted, needed_of, strict=True)
            for number in needed
            if (lower := parts.read.get(number)) is not None
        ]

    def _below(self, oids: Oids, key: str) -> tuple[Oids, Flags]:
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

    def _nodes(self, oids: Oids) -> NodeTrees:
        """What the records of some nodes say."""
        nodes = self._reader.read(self._storage.load_many(oids))
        if not self._storage.plain_classes:
            nodes.usual[:] = False
        return nodes

    # From ids to stamps

    def _have_stamps(self, oids: Oids, version: str | None, digests: list[str] | None) -> Flags:
        """Which of the nodes with these ids have these stamps."""
        nodes = self._nodes(oids)
        have = np.zeros(len(oids), np.bool_)
        usual = np.flatnonzero(nodes.usual)
        records = self._storage.load_many(nodes.attributes[usual])
        undecided = np.ones(len(usual), np.bool_)
        expected = None
        with_files = False
        if digests is not None:
            wanted = [digests[row] for row in usual.tolist()]
            width = max(map(len, wanted), default=DIGEST)
            with_files = width > DIGEST
            if with_files:
                wanted = [digest.ljust(width) for digest in wanted]  # those without files equal no stamp with files
            expected = np.frombuffer("".join(wanted).encode(), np.uint8).reshape(-1, width)
        beginnings = self._beginnings_of(version, digests is not None, with_files)
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
            attributes: Any = stamps_in(record, INPUTS if version is None else VERSION)
            if attributes is None:
                attributes = self._jar.get(nodes.attributes[row].tobytes())
            have[row] = _has_stamps(attributes, version, digest)
        for row in np.flatnonzero(~nodes.usual).tolist():
            digest = None if digests is None else digests[row]
            have[row] = _has_stamps(self._node(oids[row].tobytes()).attribute_storage, version, digest)
        return have

    def _beginnings_of(self, version: str | None, has_digest: bool, with_files: bool) -> list[Beginning]:
        """What the records of attributes with these stamps begin with."""
        known = self._beginnings.get((version, has_digest, with_files))
        if known is None:
            known = beginnings(version, has_digest=has_digest, with_files=with_files)
            self._beginnings[version, has_digest, with_files] = known
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
        if child is not None and child._p_jar is not self._jar and oid is not None:
            raise _Elsewhere
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
    node = storage.jar().get(oid)
    seen: set[tuple[int, bytes]] = set()  # also of sibling databases, which have ids of their own
    try:
        while (parent := node.parent) is not None:
            place = id(node._p_jar), node._p_oid
            if place in seen:
                raise damaged(oid, "has itself among its parents")
            seen.add(place)
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
