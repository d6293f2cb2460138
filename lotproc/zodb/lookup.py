"""Whether nodes are there, and with which stamps: for many paths at once, from the records of a storage.

Paths that come in the order of a tree share their parents, so a parent's children are read once and kept for a while.
Below nodes that have children in common, each step is taken for all of them together, from records of one shape. What
has no usual shape is read by its real class.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from operator import itemgetter, ne
from typing import Any, Protocol, TypeAlias

import numpy as np
from BTrees.OOBTree import OOBTree
from lotdb import BaseNode

from .._fast import FAST
from .._jar import Parts, damaged, path_and_root, unreadable
from .._nodes import find
from ..traversal import trimmer
from .file_records import FileAttribute
from .news import are_later, attributes_have_news
from .pinned import PinnedStorage
from .record_arrays import Flags, Oids, as_oids, beginning_with
from .records import TREE, UnusualRecord, are_empty_trees, are_sorted_names, attributes_in, stored_node
from .shapes import NodeReader, Nodes, TreeReader, children_by_key
from .stamped import StampReader, has_stamps

__all__ = ["LiveLookup", "Lookup", "RecordLookup", "root_of"]

#: Children that are held at most between two calls, and what one call reads.
MOST_HELD = 50_000
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

        A node without attributes that has children is none: it is the way to others. A store has nothing there.

        Args:
            paths: From below the root on.
            tail: More keys, the same for all of them.
            version: What `_version` has to be; `None` for anything.
            digests: What `_inputs` has to be, for each path, by `is_inputs_stamp`; `None` for anything.
        """

    def attributes_at(
        self, paths: Sequence[_Path], tail: _Path, names: frozenset[str], since: bytes | None = None
    ) -> tuple[list[Any], list[bool]]:
        """The attributes of the nodes at these paths, each with the tail behind it; `None` where none is.

        Something with a `get`, in which those with these names are as they are stored. And which of them, or what they
        are made of, were stored by a transaction or later.
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
        self._trim = trimmer(root)

    def are_there(
        self, paths: Sequence[_Path], tail: _Path = (), version: str | None = None, digests: Sequence[str] | None = None
    ) -> list[bool]:
        there = []
        for row, node in enumerate(self._nodes_at(paths, tail)):
            if version is None and digests is None:
                there.append(node is not None and _is_result(node))
                continue
            digest = None if digests is None else digests[row]
            there.append(node is not None and has_stamps(node.attribute_storage, version, digest))
        return there

    def attributes_at(
        self, paths: Sequence[_Path], tail: _Path, names: frozenset[str], since: bytes | None = None
    ) -> tuple[list[Any], list[bool]]:
        found = [None if node is None else node.attribute_storage for node in self._nodes_at(paths, tail)]
        return found, [
            since is not None and stored is not None and attributes_have_news(stored, names, since) for stored in found
        ]

    def _nodes_at(self, paths: Sequence[_Path], tail: _Path) -> Iterator[BaseNode | None]:
        above: list[BaseNode] = [self._root]  # the nodes on the last path, as far as they are there
        last: _Path = ()
        for path in paths:
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
            yield None if node is None else self.find(tail, node)

    def find(self, path: _Path, node: BaseNode | None = None) -> BaseNode | None:
        """The node at a path below the root, or below another node; `None` if there is none."""
        found: BaseNode | None = self._root if node is None else node
        for key in path:
            if found is None:
                break
            found = self._child(found, key)
        return found

    def _child(self, node: BaseNode, key: str) -> BaseNode | None:
        self._trim()
        child: BaseNode | None = node.node_storage.get(key)
        return child

    def close(self) -> None:
        """Nothing is kept from one call to the next."""


# --- Through records ------------------------------------------------------------------------------------------------


class _Parent:
    """A node whose children are looked for.

    Args:
        oid: Its id.
    """

    __slots__ = ("below", "is_open", "items", "node", "oid", "parts", "read")

    def __init__(self, oid: bytes) -> None:
        self.oid = oid
        self.below: dict[str, _Parent | None] = {}  # children whose own children were looked for; None if not there
        self.is_open = False
        self.items: dict[str, bytes] = {}  # ids of its children, as far as they were read
        self.parts: Parts | None = None  # where more of them are
        self.read: dict[bytes, Parts | None] = {}  # the parts that were read; None for one whose items are above
        self.node: BaseNode | None = None  # itself, if only its class can tell its children


class _OnlyObjectsTell(Exception):
    """Fast ways are turned off, or a node lies in a sibling database, which has its own ids."""


class RecordLookup:
    """Looks for nodes in the records of a storage.

    Args:
        storage: The records, at one transaction.
        root: The id of the node below which the paths start.
    """

    def __init__(self, storage: PinnedStorage, root: bytes) -> None:
        self._storage = storage
        self._jar = storage.jar()
        self._live: LiveLookup | None = None  # what looks through objects, once only these tell
        self._reader = NodeReader()
        self._trees = TreeReader()
        self._stamps = StampReader()
        self._root = _Parent(root)
        self._held = 0
        self._is_large = False  # whether there is more than can be held

    def are_there(
        self, paths: Sequence[_Path], tail: _Path = (), version: str | None = None, digests: Sequence[str] | None = None
    ) -> list[bool]:
        if self._live is None:
            try:
                return self._are_there(paths, tail, version, digests)
            except _OnlyObjectsTell:
                self._live = LiveLookup(self._jar.node(self._root.oid))
        return self._live.are_there(paths, tail, version, digests)

    def _are_there(
        self, paths: Sequence[_Path], tail: _Path, version: str | None, digests: Sequence[str] | None
    ) -> list[bool]:
        oids, rows = self._find_all(paths, tail)
        if version is not None or digests is not None:
            wanted = None if digests is None else [digests[row] for row in rows.tolist()]
            rows = rows[self._have_stamps(oids, version, wanted)]
        else:
            rows = rows[self._are_results(oids)]
        there = np.zeros(len(paths), np.bool_)
        there[rows] = True
        return there.tolist()

    def attributes_at(
        self, paths: Sequence[_Path], tail: _Path, names: frozenset[str], since: bytes | None = None
    ) -> tuple[list[Any], list[bool]]:
        if self._live is None:
            try:
                return self._attributes_at(paths, tail, names, since)
            except _OnlyObjectsTell:
                self._live = LiveLookup(self._jar.node(self._root.oid))
        return self._live.attributes_at(paths, tail, names, since)

    def _attributes_at(
        self, paths: Sequence[_Path], tail: _Path, names: frozenset[str], since: bytes | None
    ) -> tuple[list[Any], list[bool]]:
        oids, rows = self._find_all(paths, tail)
        nodes = self._nodes(oids)
        found: list[Any] = [None] * len(paths)
        new = [False] * len(paths)
        usual = np.flatnonzero(nodes.usual)
        records = self._storage.load_many(nodes.attributes[usual])
        trees = beginning_with(TREE, records).tolist()
        later = None if since is None else are_later(records.tids, since).tolist()
        for number, (place, (start, stop)) in enumerate(zip(usual.tolist(), records.bounds(), strict=True)):
            items = attributes_in(records.data, start, stop, names) if trees[number] else None
            if items is not None and are_sorted_names(items[0]):
                found[rows[place]] = dict(zip(*items, strict=True))
                new[rows[place]] = later is not None and later[number]
        for place, row in enumerate(rows.tolist()):
            if found[row] is None:
                found[row] = self._jar.node(oids[place].tobytes()).attribute_storage
                new[row] = since is not None and attributes_have_news(found[row], names, since)
        return found, new

    def trees_at(self, paths: Sequence[_Path], tail: _Path) -> tuple[Oids, Any, Any] | None:
        """The ids of the trees of attributes of the nodes at these paths, and their rows; and those of unusual nodes.

        `None` where only objects tell.
        """
        try:
            oids, rows = self._find_all(paths, tail)
        except _OnlyObjectsTell:
            return None
        nodes = self._nodes(oids)
        return nodes.attributes[nodes.usual], rows[nodes.usual], rows[~nodes.usual]

    def have(self, attribute: FileAttribute, paths: Sequence[_Path]) -> list[bool]:
        """Whether the node at each path has an attribute, and not as `None`."""
        oids, rows = self._find_all(paths, ())
        nodes = self._nodes(oids)
        records = self._storage.load_many(nodes.attributes[nodes.usual])
        of_nodes: list[bool | None] = [None] * len(oids)
        for place, has_it in zip(np.flatnonzero(nodes.usual).tolist(), attribute.is_there(records), strict=True):
            of_nodes[place] = has_it
        have = [False] * len(paths)
        for place, (row, has_it) in enumerate(zip(rows.tolist(), of_nodes, strict=True)):
            if has_it is None:
                has_it = self._jar.node(oids[place].tobytes()).attribute_storage.get(attribute.name) is not None
            have[row] = has_it
        return have

    def node(self, path: _Path) -> BaseNode | None:
        """The node at a path, read through its class."""
        return find(self._jar.node(self._root.oid), path)

    def _find_all(self, paths: Sequence[_Path], tail: _Path) -> tuple[Oids, Any]:
        """The ids of the nodes at these paths, with the tail behind each, and the rows of the paths that have one."""
        if not FAST:
            raise _OnlyObjectsTell
        if self._held > MOST_HELD:
            self._root, self._held, self._is_large = _Parent(self._root.oid), 0, True
        if not tail and len(paths) > 1:
            paths, tail = _without_common_end(paths)
        oids, rows = self._find(paths)
        for key in tail:
            oids, found = self._below(oids, key)
            rows = rows[found]
        return oids, rows

    def close(self) -> None:
        self._jar.close()
        self._storage.close()

    # From paths to ids

    def _find(self, paths: Sequence[_Path]) -> tuple[Oids, Any]:
        """The ids of the nodes at these paths, and the rows of the paths that have one."""
        heads = list(map(_HEAD, paths))
        starts = [row for row, differs in enumerate(map(ne, heads, itertools.islice(heads, 1, None)), 1) if differs]
        starts = [0, *starts] if heads else []
        parents = self._parents([heads[start] for start in starts])
        found: list[bytes | None] = []
        wanted: list[tuple[_Parent, list[str]]] = []
        for parent, start, stop in zip(parents, starts, [*starts[1:], len(heads)], strict=True):
            siblings = paths[start:stop]
            if parent is not None:
                wanted.append((parent, list(map(_KEY, siblings if all(siblings) else filter(None, siblings)))))
        oids = iter(self._children_of(wanted))
        for parent, start, stop in zip(parents, starts, [*starts[1:], len(heads)], strict=True):
            if parent is None:
                found += [None] * (stop - start)
            elif len(children := next(oids)) == stop - start:
                found += children
            else:  # the root's own path is among them
                rest = iter(children)
                found += [next(rest) if path else parent.oid for path in paths[start:stop]]
        if None not in found:
            return as_oids(found), np.arange(len(found))  # type: ignore[arg-type]
        rows = np.array([row for row, oid in enumerate(found) if oid is not None], np.intp)
        return as_oids([oid for oid in found if oid is not None]), rows

    def _parents(self, heads: list[_Path]) -> list[_Parent | None]:
        """The nodes at these paths, with their children at hand."""
        parents: list[_Parent | None] = [self._root] * len(heads)
        rows = list(range(len(heads)))
        depth = 0
        while rows:
            self._open([parent for row in rows if (parent := parents[row]) is not None])
            rows = [row for row in rows if len(heads[row]) > depth]
            wanted: dict[_Parent, dict[str, None]] = {}
            for row in rows:
                parent, key = parents[row], heads[row][depth]
                if parent is not None and key not in parent.below:
                    wanted.setdefault(parent, {})[key] = None
            of_each = [(parent, list(keys)) for parent, keys in wanted.items()]
            for (parent, keys), oids in zip(of_each, self._children_of(of_each), strict=True):
                for key, oid in zip(keys, oids, strict=True):
                    parent.below[key] = None if oid is None else _Parent(oid)
                self._held += len(keys)
            for row in rows:
                parent = parents[row]
                parents[row] = None if parent is None else parent.below[heads[row][depth]]
            rows = [row for row in rows if parents[row] is not None]
            depth += 1
        return parents

    def _open(self, parents: list[_Parent]) -> None:
        """Read the children of nodes, or how they are parted."""
        parents = [parent for parent in dict.fromkeys(parents) if not parent.is_open]
        if len(parents) < FEW and not (parents and self._storage.is_far):
            for parent in parents:
                self._fill(parent, self._items_or_parts(parent.oid))
            return
        nodes = self._nodes(as_oids([parent.oid for parent in parents]))
        usual = np.flatnonzero(nodes.usual)
        trees = self._storage.load_many(nodes.children[usual])
        for row, items in zip(usual.tolist(), self._trees.all(trees), strict=True):
            self._fill(parents[row], items)
        for row in np.flatnonzero(~nodes.usual).tolist():
            self._fill(parents[row], self._items_or_parts(parents[row].oid))

    def _items_or_parts(self, oid: bytes) -> dict[str, bytes] | Parts | None:
        """The ids of the children of one node by their keys, or how they are parted; `None` if only it can tell."""
        try:
            if not self._storage.plain_classes:
                raise UnusualRecord
            tree: bytes | None = stored_node(self._storage.load(oid)[0]).children
        except UnusualRecord:
            stored = self._jar.node(oid).node_storage
            tree = stored._p_oid if type(stored) is OOBTree and stored._p_jar is self._jar else None
        return None if tree is None else children_by_key(self._storage.load(tree)[0])

    def _fill(self, parent: _Parent, items: dict[str, bytes] | Parts | None) -> None:
        """Take up the children of a node, or how they are parted."""
        if items is None:
            parent.node = self._jar.node(parent.oid)
        elif isinstance(items, Parts):
            parent.parts = items
        else:
            parent.items = items
            self._held += len(items)
        parent.is_open = True

    def _children_of(self, wanted: list[tuple[_Parent, list[str]]]) -> list[list[bytes | None]]:
        """The ids of the children with some keys, for each of some nodes that are open."""
        parted = [(parent, parent.parts, keys) for parent, keys in wanted if parent.parts is not None and keys]
        for turn in itertools.count():
            if not parted:
                break
            if turn == MOST_PARTED:
                raise damaged(parted[0][0].oid, "has children in parts that are parted without an end")
            parted = self._read_parts(parted)
        return [
            list(map(parent.items.get, keys))
            if parent.node is None
            else [self._child(parent.node, key) for key in keys]
            for parent, keys in wanted
        ]

    def _read_parts(self, parted: list[tuple[_Parent, Parts, list[str]]]) -> list[tuple[_Parent, Parts, list[str]]]:
        """Read those parts of trees in which these keys would be; give those of them that are parted again."""
        unread: dict[bytes, _Parent] = {}
        apart: list[tuple[bytes, _Parent, str]] = []
        needed_of: list[Iterable[int]] = []
        for parent, parts, keys in parted:
            first, last = bisect_right(parts.bounds, min(keys)), bisect_right(parts.bounds, max(keys))
            needed: Iterable[int] = range(first, last + 1)
            if last - first >= len(keys):
                by_part = _by_part(parts, keys)
                needed = by_part
                if self._is_large:
                    apart += [
                        (parts.parts[number], parent, key)
                        for number, of_part in by_part.items()
                        if parts.parts[number] not in parent.read
                        for key in of_part
                    ]
                    needed_of.append(needed)
                    continue
            needed_of.append(needed)
            unread.update((oid, parent) for number in needed if (oid := parts.parts[number]) not in parent.read)
        if apart:
            unread.update(self._look_for(apart))
        if unread:
            records = self._storage.load_many(as_oids(unread))
            for (oid, parent), items in zip(unread.items(), self._trees.all(records), strict=True):
                if items is None:
                    parent.node = self._jar.node(parent.oid)
                    continue
                parent.read[oid] = items if isinstance(items, Parts) else None
                if not isinstance(items, Parts):
                    parent.items.update(items)
                    self._held += len(items)
        again: list[tuple[_Parent, Parts, list[str]]] = []
        for (parent, parts, keys), needed in zip(parted, needed_of, strict=True):
            lower = {number: below for number in needed if (below := parent.read.get(parts.parts[number])) is not None}
            if lower:
                by_part = _by_part(parts, keys)
                again += [(parent, lower[number], of_part) for number, of_part in by_part.items() if number in lower]
        return again

    def _look_for(self, wanted: list[tuple[bytes, _Parent, str]]) -> dict[bytes, _Parent]:
        """Look for keys in parts of trees, and for nothing else there; give the parts of which that can't be told.

        For trees that are too large to be held, and keys that come in no order: a third of the time.
        """
        records = self._storage.load_many(as_oids([oid for oid, _, _ in wanted]))
        oids, found, untold = self._trees.each(records, [key for _, _, key in wanted])
        for row in np.flatnonzero(found).tolist():
            _, parent, key = wanted[row]
            parent.items[key] = oids[row].tobytes()
            self._held += 1
        return {wanted[row][0]: wanted[row][1] for row in untold}

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
            parent = _Parent(oids[row].tobytes())
            held = self._held
            self._open([parent])
            ((child,),) = self._children_of([(parent, [key])])
            self._held = held
            if child is not None:
                all_children[row], all_found[row] = np.frombuffer(child, np.uint8), True
        return all_children[all_found], all_found

    def _nodes(self, oids: Oids) -> Nodes:
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
        wanted = None if digests is None else [digests[row] for row in usual.tolist()]
        have[usual], untold = self._stamps.read(records, version, wanted)
        stored = ((row, self._jar.get(nodes.attributes[row].tobytes())) for row in usual[untold].tolist())
        unusual = np.flatnonzero(~nodes.usual).tolist()
        of_nodes = ((row, self._jar.node(oids[row].tobytes()).attribute_storage) for row in unusual)
        for row, attributes in itertools.chain(stored, of_nodes):
            have[row] = has_stamps(attributes, version, None if digests is None else digests[row])
        return have

    def _are_results(self, oids: Oids) -> Flags:
        """Which of the nodes with these ids are no mere ways to others.

        Attributes, which may be large, are read of those alone that have children.
        """
        nodes = self._nodes(oids)
        are = np.ones(len(oids), np.bool_)
        usual = np.flatnonzero(nodes.usual)
        above = usual[~are_empty_trees(self._storage.load_many(nodes.children[usual]))]
        if len(above):
            above = above[are_empty_trees(self._storage.load_many(nodes.attributes[above]))]
        for row in (*above.tolist(), *np.flatnonzero(~nodes.usual).tolist()):
            are[row] = _is_result(self._jar.node(oids[row].tobytes()))
        return are

    # Through real classes

    def _child(self, node: BaseNode, key: str) -> bytes | None:
        """The id of the child of a node that only its class can tell."""
        try:
            child = node.node_storage.get(key)
            oid: bytes | None = None if child is None else child._p_oid
        except AttributeError as error:
            raise unreadable(node._p_oid, error) from error
        if child is not None and child._p_jar is not self._jar and oid is not None:
            raise _OnlyObjectsTell
        if child is not None and oid is None:
            raise damaged(node._p_oid, f"has a child {key!r} that is not stored as an object of its own")
        return oid


def lookup_at_top(storage: PinnedStorage, oid: bytes) -> Callable[[], LiveLookup | RecordLookup]:
    """What looks in the whole tree in which the node with this id lies, made when it is first asked for."""

    @cache
    def lookup() -> LiveLookup | RecordLookup:
        jar = storage.jar()
        _, top = path_and_root(jar.node(oid))
        return RecordLookup(storage, top._p_oid) if top._p_jar is jar else LiveLookup(top)

    return lookup


def root_of(storage: PinnedStorage, oid: bytes) -> bytes:
    """The id of the root of the tree that a node lies in."""
    _, root = path_and_root(storage.jar().node(oid))
    found: bytes = root._p_oid
    return found


def _is_result(node: BaseNode) -> bool:
    """Whether a node is no mere way to others: it has an attribute, or no children."""
    return bool(node.attribute_storage) or not node.node_storage


def _by_part(parts: Parts, keys: Iterable[str]) -> dict[int, list[str]]:
    """The keys, by the numbers of the parts in which they would be."""
    by_part: dict[int, list[str]] = {}
    for key in keys:
        by_part.setdefault(bisect_right(parts.bounds, key), []).append(key)
    return by_part


def _without_common_end(paths: Sequence[_Path]) -> tuple[Sequence[_Path], _Path]:
    """The paths without the keys that all of them end with, and these keys."""
    tail: list[str] = []
    while all(paths) and len({path[-1] for path in paths}) == 1:
        tail.append(paths[0][-1])
        paths = [path[:-1] for path in paths]
    return paths, tuple(reversed(tail))
