"""The walk behind `scan`: it decodes windows of nodes at once, and gives their records in the order of the tree."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from types import EllipsisType
from typing import Any, TypeAlias, cast

import numpy as np
from BTrees.OOBTree import OOBTree
from lotdb import BaseNode
from ZODB.broken import Broken

from .._jar import RecordJar, at_path, damaged, unreadable
from .._missing import Missing, Sought
from ..errors import LotprocError
from ..models import NodeRecord, OnError, failure_at, in_its_place, node_record
from ..snapshots import ATOMS, Payload, costs_one, detached, looked_for, record_of
from .pinned import Oids, PinnedStorage, as_oids
from .records import EMPTY_TREE, TREE, Children, NodeReader, beginning_with, children_in, class_and_state

__all__ = ["Scanner", "Wanted"]

#: Nodes that are decoded together: at first few, so that the first record comes soon, then up to this many.
WINDOW = 1024
FIRST_WINDOW = 32
#: Nodes read through their real classes between two trims of what that keeps in memory.
TRIM_EVERY = 200

_Path: TypeAlias = "tuple[str, ...]"


@dataclass(frozen=True)
class Wanted:
    """What a scan gives.

    Args:
        names: The attributes, or `...` for all.
        payload: As `snapshot` takes it.
        key: A test of keys; only nodes that pass it are given.
        tests: Tests of records, by the attributes that they look at.
        skip_key: A test of keys; branches that pass it do not exist.
        skip_node: The same, for nodes.
        depth: Give the nodes at this depth; `None` gives the leaves.
        on_error: As `snapshot` takes it.
        missing: The same.
    """

    names: tuple[str, ...] | EllipsisType = ()
    payload: Payload = None
    key: Callable[[str], object] | None = None
    tests: tuple[tuple[str, Callable[[Any], bool]], ...] = ()
    skip_key: Callable[[str], object] | None = None
    skip_node: Callable[[BaseNode], object] | None = None
    depth: int | None = None
    on_error: OnError = "raise"
    missing: Missing = "warn"


class _Branch:
    """A node whose children are still to come.

    Args:
        oid: Its id.
        path: Its path, from the root of the whole tree.
        tree: The record of the tree of its children.
        above: The branch that it is a child of; `None` for the root of the scan.
        lower: The path below it from which on nodes are given; empty if there is no such bound.
        upper: The path below it up to which nodes are given, itself not included.
    """

    __slots__ = ("above", "depth", "lower", "oid", "path", "ready", "siblings", "tree", "upper", "windows")

    def __init__(self, oid: bytes, path: _Path, tree: bytes, above: _Branch | None, lower: _Path, upper: _Path) -> None:
        self.oid, self.path, self.tree, self.above, self.lower, self.upper = oid, path, tree, above, lower, upper
        #: Its depth below the root of the scan.
        self.depth: int = above.depth + 1 if above else 0
        #: Its children, a window at a time.
        self.windows: Iterator[Children] = iter(())
        #: What comes below it, once it is decoded.
        self.ready: Iterable[_Entry | None] | None = None
        #: The branches that were decoded with it and still wait, up to the last, itself included.
        self.siblings: deque[_Branch] = deque([self])


class _Failed:
    """Stands for what can't be read, a node or what is below one, behind all records that come before it."""

    def __init__(self, path: _Path, error: Exception) -> None:
        self.path, self.error = path, at_path("scan", path, error)


class _Elsewhere:
    """The records of a node in a sibling database, and of what is below it."""

    def __init__(self, records: Iterator[NodeRecord]) -> None:
        self.records = records


_Entry: TypeAlias = "NodeRecord | _Branch | _Failed | _Elsewhere"
_UNBOUND: tuple[_Path, _Path] = ((), ())


class Scanner:
    """One scan of a tree, or of a part of one.

    Args:
        storage: The records, at one transaction.
        wanted: What to give.
        jar: What loads objects from them, if that is at hand; it stays open.
        sought: What looks for names in the scan that this one is a piece of, and ends with that.
        is_part: Whether it is the scan of a part of a tree.
    """

    def __init__(
        self,
        storage: PinnedStorage,
        wanted: Wanted,
        *,
        jar: RecordJar | None = None,
        sought: Sought | None = None,
        is_part: bool = False,
    ) -> None:
        self._storage = storage
        self._jar = storage.jar() if jar is None else jar
        self._has_own_jar = jar is None
        self._wanted = wanted
        self._reader = NodeReader()
        self._collects = wanted.on_error != "raise"
        names, tested = looked_for(wanted.names, wanted.payload), [name for name, _ in wanted.tests]
        self._sought = sought or Sought("scan", [*names, *tested], is_part=is_part)
        self._is_piece = sought is not None
        self._required = Sought("scan", names, "error") if wanted.missing == "error" else None
        #: Names that are not asked for where nothing is given.
        self._unasked = frozenset(names) - frozenset(tested)
        self._window = FIRST_WINDOW
        self._untrimmed = 0
        self._deepest = 0
        #: Nodes that lie in sibling databases, by ids that stand for them among those of this one.
        self._elsewhere: dict[bytes, BaseNode] = {}
        self._stand_ins = count(2**64 - 1, -1)  # as no storage gives them

    def records(self, oid: bytes, lower: tuple[str, ...] = (), upper: tuple[str, ...] = ()) -> Iterator[NodeRecord]:
        """The records of the tree below the object with this id, depth first, sorted by key.

        Those whose paths below it are at least `lower` and less than `upper`, where these are not empty.
        """
        self._bounded = bool(lower or upper)
        waiting: list[Iterator[_Entry | None]] = []
        gave = False
        try:
            entries = self._top(oid, lower, upper)
            while True:
                for entry in entries:
                    if type(entry) is NodeRecord:
                        gave = True
                        yield entry
                    elif type(entry) is _Branch:
                        waiting.append(entries)
                        entries = iter(self._below(entry))
                        break
                    elif type(entry) is _Elsewhere:
                        waiting.append(entries)
                        entries = entry.records
                        break
                    elif type(entry) is not _Failed:
                        if entry is not None:
                            yield cast(NodeRecord, entry)  # what takes the place of something that failed elsewhere
                    elif (instead := self._instead(entry)) is not None:
                        yield instead
                else:
                    if not waiting:
                        break
                    entries = waiting.pop()
            if not self._is_piece:
                self._sought.end(but=() if gave else self._unasked)
        finally:
            if self._has_own_jar:
                self._jar.close()

    def _instead(self, failed: _Failed) -> Any:
        """What is given in place of what can't be read; `None` for nothing."""
        if not self._collects or not costs_one(failed.error):
            raise failed.error
        return in_its_place(self._wanted.on_error, failure_at(failed.path, failed.error))

    def path_of(self, oid: bytes) -> tuple[str, ...]:
        """The path of the node with this id, from the root of the whole tree."""
        return _path_of(self._node(oid))

    def deepest(self, oid: bytes) -> int:
        """The depth of the deepest node below the object with this id."""
        on_error: OnError = "skip" if self._collects else "raise"
        wanted = replace(self._wanted, key=lambda key: False, depth=None, on_error=on_error)
        structure = Scanner(self._storage, wanted)
        deque(structure.records(oid), maxlen=0)
        return structure._deepest

    # --- From a branch to what is below it --------------------------------------------------------------------------

    def _top(self, oid: bytes, lower: _Path, upper: _Path) -> Iterator[_Entry | None]:
        try:
            return iter([self._unusual(oid, None, lower, upper)])
        except Exception as error:
            return iter([self._failed((), lower, error)])

    def _failed(self, path: _Path, lower: _Path, error: Exception) -> _Failed | None:
        """What stands for a node that can't be read, or for the rest below it.

        One that comes before the lower bound is that of another part, unless the scan ends with it.
        """
        return None if lower and self._collects else _Failed(path, error)

    def _below(self, branch: _Branch) -> Iterable[_Entry | None]:
        if branch.ready is None:
            self._prepare(branch.siblings)
        ready, branch.ready = branch.ready, None
        return ready or ()

    def _prepare(self, branches: deque[_Branch]) -> None:
        """Decode what is below the first of these branches, and with it what is below the next ones."""
        together: list[tuple[_Branch, Children]] = []
        count = 0
        while branches and count < self._window:
            branch = branches[0]
            try:
                children = next(branch.windows, None)
                if children is None:
                    branch.ready = self._childless(branch)
            except Exception as error:
                branches.popleft()
                branch.ready = [self._failed(branch.path, branch.lower, error)]
                continue
            if children is not None and len(children.keys) >= self._window:
                branch.windows = chain([children], branch.windows)
                if not together:
                    branches.popleft()
                    branch.ready = self._window_by_window(branch)
                break
            branches.popleft()
            branch.windows = iter(())  # which would hold on to these children
            if children is not None:
                together.append((branch, children))
                count += len(children.keys)
        if together:
            for (branch, _), entries in zip(together, self._decoded(together), strict=True):
                branch.ready = entries

    def _childless(self, branch: _Branch) -> list[_Entry | None]:
        """What a branch gives whose record of children is not that of an empty tree, and yet has none to give."""
        node = self._node(branch.oid)
        if self._wanted.depth is not None or node.node_storage or not self._gives(node.key, branch.lower):
            return []  # those that it has are out of bounds
        return [self._record(node, branch.path)]

    def _window_by_window(self, branch: _Branch) -> Iterator[_Entry | None]:
        """What is below a branch that has many children."""
        windows, branch.windows = branch.windows, iter(())
        try:
            for children in windows:
                yield from self._decoded([(branch, children)])[0]
        except Exception as error:
            yield self._failed(branch.path, branch.lower, error)

    def _list(self, branch: _Branch) -> bool:
        """Begin to list the children of a branch; tell whether it has any that exist for this scan."""
        parts = self._parts(branch)
        if self._wanted.skip_key is not None or self._wanted.skip_node is not None:
            parts = map(self._not_skipped, parts)
            first = next((part for part in parts if part.keys), None)
            if first is None:
                return False
            parts = chain([first], parts)
        if branch.lower or branch.upper:
            parts = (_within(part, branch.lower, branch.upper) for part in parts)
        branch.windows = self._windows(parts)
        return True

    def _windows(self, parts: Iterable[Children]) -> Iterator[Children]:
        """The same children in windows."""
        keys: list[str] = []
        oids: list[bytes] = []
        for part in parts:
            keys += part.keys
            oids += part.oids
            if len(keys) >= self._window:
                yield Children(keys, oids)
                keys, oids = [], []
        if keys:
            yield Children(keys, oids)

    def _parts(self, branch: _Branch) -> Iterator[Children]:
        given = 0
        try:
            for part in children_in(branch.tree, self._storage):
                yield part
                given += len(part.keys)
            return
        except LotprocError:
            raise
        except Exception:  # not what lotdb makes; the class of the tree may know it
            tree = self._node(branch.oid).node_storage
        try:
            items = [(str(key), self._id_of(child)) for key in tree if (child := tree.get(key)) is not None][given:]
        except (AttributeError, TypeError) as error:
            raise unreadable(branch.oid, error) from error
        if any(len(oid) != 8 for _, oid in items):
            raise damaged(branch.oid, "has a child with an id that can't be one")
        yield Children([key for key, _ in items], [oid for _, oid in items])

    def _id_of(self, child: BaseNode) -> bytes:
        """The id of a child; or what stands for it, if it lies in another database, where ids are other ones."""
        if child._p_jar is self._jar:
            oid: bytes = child._p_oid
            return oid
        stand_in = next(self._stand_ins).to_bytes(8, "big")
        self._elsewhere[stand_in] = child
        return stand_in

    def _not_skipped(self, children: Children) -> Children:
        skip_key, skip_node = self._wanted.skip_key, self._wanted.skip_node
        kept = [
            (key, oid)
            for key, oid in zip(*children, strict=True)
            if not (skip_key and skip_key(key)) and not (skip_node and skip_node(self._node(oid)))
        ]
        return Children([key for key, _ in kept], [oid for _, oid in kept])

    # --- From children to their records -----------------------------------------------------------------------------

    def _decoded(self, together: list[tuple[_Branch, Children]]) -> list[list[_Entry | None]]:
        """What the children of some branches of one depth give: their records, and branches in their turn."""
        self._window = min(2 * self._window, WINDOW)
        try:
            entries = self._entries(
                [branch for branch, children in together for _ in children.keys],
                [key for _, children in together for key in children.keys],
                as_oids([oid for _, children in together for oid in children.oids]),
            )
        except Exception:
            entries = self._entries_one_by_one(together)
        following = deque(entry for entry in entries if type(entry) is _Branch)
        for branch in following:
            branch.siblings = following
        rest = iter(entries)
        return [list(islice(rest, len(children.keys))) for _, children in together]

    def _entries_one_by_one(self, together: list[tuple[_Branch, Children]]) -> list[_Entry | None]:
        """The same one by one, so that an error comes behind what is before it, and costs one node."""
        entries: list[_Entry | None] = []
        for branch, (keys, oids) in together:
            for key, oid in zip(keys, oids, strict=True):
                try:
                    entries += self._entries([branch], [key], as_oids([oid]))
                except Exception as error:
                    entries.append(self._failed((*branch.path, key), _bound_below(branch.lower, key), error))
                    if not self._collects:
                        return entries
        return entries

    def _entries(self, branches: list[_Branch], keys: list[str], oids: Oids) -> list[_Entry | None]:
        """What the nodes with these keys and ids give, each a child of the branch in its place."""
        depth = branches[0].depth + 1
        self._deepest = max(self._deepest, depth)
        if self._elsewhere and any(oid.tobytes() in self._elsewhere for oid in oids):
            return self._entries_with_elsewhere(branches, keys, oids)
        nodes = self._reader.read(self._storage.load_many(oids), keys)
        parents = as_oids([branch.oid for branch in branches])
        usual = nodes.usual & (nodes.parents == parents).all(axis=1) & self._storage.plain_classes
        bounds = {
            row: (_bound_below(branch.lower, keys[row]), _bound_below(branch.upper, keys[row]))
            for row, branch in enumerate(branches if self._bounded else ())
            if branch.lower or branch.upper
        }
        entries: list[_Entry | None] = [None] * len(keys)
        for row in np.flatnonzero(~usual).tolist():
            entries[row] = self._unusual(oids[row].tobytes(), branches[row], *bounds.get(row, _UNBOUND))

        rows = np.flatnonzero(usual)
        if depth != self._wanted.depth and len(rows):
            trees = self._storage.load_many(nodes.children[rows])
            childless = (trees.lengths == len(EMPTY_TREE)) & beginning_with(EMPTY_TREE, trees)
            for place in np.flatnonzero(~childless).tolist():
                row, start = int(rows[place]), int(trees.starts[place])
                tree = bytes(trees.data[start : start + int(trees.lengths[place])])
                path = (*branches[row].path, keys[row])
                branch = _Branch(oids[row].tobytes(), path, tree, branches[row], *bounds.get(row, _UNBOUND))
                if self._list(branch):
                    entries[row] = branch
                else:
                    childless[place] = True
            rows = rows[childless] if self._wanted.depth is None else rows[:0]
        given = rows.tolist()
        if self._bounded or self._wanted.key is not None:
            given = [row for row in given if self._gives(keys[row], bounds.get(row, _UNBOUND)[0])]
        if given:
            paths = [(*branches[row].path, keys[row]) for row in given]
            for row, record in zip(given, self._records(paths, oids[given], nodes.attributes[given]), strict=False):
                entries[row] = record  # an error is the last of them
        return entries

    def _entries_with_elsewhere(self, branches: list[_Branch], keys: list[str], oids: Oids) -> list[_Entry | None]:
        """The same, where some of the nodes lie in sibling databases."""
        entries: list[_Entry | None] = []
        for row, (branch, key) in enumerate(zip(branches, keys, strict=True)):
            oid = oids[row].tobytes()
            if oid in self._elsewhere:
                bounds = _bound_below(branch.lower, key), _bound_below(branch.upper, key)
                entries.append(_Elsewhere(self._records_elsewhere(oid, branch.depth + 1, *bounds)))
            else:
                entries += self._entries([branch], [key], oids[row : row + 1])
        return entries

    def _records_elsewhere(self, stand_in: bytes, depth: int, lower: _Path, upper: _Path) -> Iterator[NodeRecord]:
        node = self._elsewhere.pop(stand_in)
        storage = self._storage.sibling(node._p_jar.db().database_name)
        below = None if self._wanted.depth is None else self._wanted.depth - depth
        scanner = Scanner(storage, replace(self._wanted, depth=below), jar=node._p_jar, sought=self._sought)
        yield from scanner.records(node._p_oid, lower, upper)
        self._deepest = max(self._deepest, depth + scanner._deepest)

    def _gives(self, key: str, lower: _Path) -> bool:
        """Whether a node with this key is one to give; one with a lower bound below it comes before that bound."""
        return not lower and (self._wanted.key is None or bool(self._wanted.key(key)))

    def _unusual(self, oid: bytes, above: _Branch | None, lower: _Path, upper: _Path) -> _Entry | None:
        """What a node gives that only its real class can read, as a live one would."""
        node = self._node(oid)
        path = _path_of(node)
        depth = above.depth + 1 if above else 0
        if depth != self._wanted.depth:
            tree = node.node_storage
            if tree:
                is_stored = type(tree) is OOBTree and tree._p_oid is not None and tree._p_jar is self._jar
                record = self._storage.load(tree._p_oid)[0] if is_stored else b""
                branch = _Branch(oid, path, record, above, lower, upper)
                while above is not None:
                    if above.oid == oid:
                        raise damaged(oid, "has itself among its children")
                    above = above.above
                if self._list(branch):
                    return branch
            if self._wanted.depth is not None:
                return None
        return self._record(node, path) if self._gives(node.key, lower) else None

    def _records(self, paths: list[_Path], oids: Oids, attributes: Oids) -> Iterator[NodeRecord | _Failed | None]:
        """The records of nodes with these paths, ids, and ids of the trees of their attributes."""
        names, tests = self._wanted.names, self._wanted.tests
        found = self._storage.load_many(attributes)
        usual = beginning_with(TREE, found) if self._wanted.payload is None else np.zeros(len(paths), np.bool_)
        data, starts, stops = found.data, found.starts.tolist(), (found.starts + found.lengths).tolist()
        needed = None if names is ... else frozenset([*names, *(name for name, _ in tests)])
        required = self._required
        known: tuple[Any, ...] | None = None
        places: list[tuple[str, int]] = []
        for row, (path, start, stop, plain) in enumerate(zip(paths, starts, stops, usual.tolist(), strict=True)):
            try:
                items = _plain_items(data, start, stop, needed) if plain else None
                if items is not None and items[::2] != known:
                    if not _are_sorted_names(items[::2]):
                        items = None
                    else:
                        known = items[::2]
                        self._sought.look(known, path)
                        wanted = known if names is ... else names
                        places = [(name, 2 * known.index(name) + 1 if name in known else 0) for name in wanted]
                if items is None:
                    yield self._record(self._node(oids[row].tobytes()), path)
                    continue
                if tests:
                    probe = node_record(path, path[-1], dict(zip(items[::2], items[1::2], strict=True)), None)
                    if not all(test(probe) for _, test in tests):
                        yield None
                        continue
                if required is not None:
                    required.look(known or (), path)
                attributes_of = {}
                for name, place in places:
                    value = items[place] if place else None
                    if type(value) not in ATOMS:
                        value = detached("scan", value, f"attribute {name!r}", path)
                    attributes_of[name] = value
                yield node_record(path, path[-1], attributes_of, None)
            except Exception as error:
                yield _Failed(path, error)
                if not self._collects:
                    return

    def _record(self, node: BaseNode, path: _Path) -> NodeRecord | None:
        """The record of one node, read through its class, if it passes the tests."""
        tests = self._wanted.tests
        if tests:
            probe = record_of("scan", node, tuple(name for name, _ in tests), None, path, self._sought)
            if not all(test(probe) for _, test in tests):
                return None
        sought = self._required or self._sought
        return record_of("scan", node, self._wanted.names, self._wanted.payload, path, sought)

    def _node(self, oid: bytes) -> BaseNode:
        """A node as an object of its class, loaded from the records."""
        self._untrimmed += 1
        if self._untrimmed >= TRIM_EVERY:
            self._untrimmed = 0
            self._jar.cacheGC()
        node = self._elsewhere[oid] if oid in self._elsewhere else self._jar.get(oid)
        if not isinstance(node, BaseNode):
            raise damaged(oid, f"is no lotdb node but a {type(node).__qualname__}")
        try:
            parts = node.parent, node.key, node.node_storage, node.attribute_storage
        except AttributeError as error:
            raise unreadable(oid, error) from error
        if any(isinstance(part, Broken) for part in parts):
            raise damaged(oid, "refers to an object whose class can't be found")
        if any(isinstance(part, BaseNode) for part in parts[2:]):
            raise damaged(oid, "has a node where the tree of its children or of its attributes should be")
        return node


def _plain_items(data: Any, start: int, stop: int, needed: frozenset[str] | None) -> tuple[Any, ...] | None:
    """The names and values in the record of a small tree, one after the other.

    `None` for a tree that is not small, or where a needed value may refer to another object.
    """
    try:
        try:
            state = pickle.loads(data[start + len(TREE) : stop])
            refers = False
        except pickle.UnpicklingError:  # it refers to other objects
            _, state = class_and_state(data[start:stop])
            refers = True
        if state is None:
            return ()
        if len(state) != 1:  # not all in one bucket, which is stored with the tree
            return None
        items: tuple[Any, ...] = state[0][0][0]
    except Exception:
        return None
    if refers:
        for name, value in zip(items[::2], items[1::2], strict=True):
            if type(value) not in ATOMS and (needed is None or name in needed):
                return None
    return items


def _are_sorted_names(names: tuple[Any, ...]) -> bool:
    """Whether these can be all keys of a tree of attributes, which is searched by halves."""
    return set(map(type, names)) <= {str} and list(names) == sorted(names)


def _within(children: Children, lower: _Path, upper: _Path) -> Children:
    """The children that are, or have below them, something between two bounds."""
    kept = [
        (key, oid)
        for key, oid in zip(*children, strict=True)
        if (not lower or key >= lower[0]) and (not upper or key < upper[0] or (key == upper[0] and len(upper) > 1))
    ]
    return Children([key for key, _ in kept], [oid for _, oid in kept])


def _bound_below(bound: _Path, key: str) -> _Path:
    """What a bound means below the child with this key."""
    return bound[1:] if bound[:1] == (key,) else ()


def _path_of(node: BaseNode) -> _Path:
    """The path of a node, whose parents may be damaged."""
    keys: list[str] = []
    seen: set[tuple[int, bytes]] = set()  # also of sibling databases, which have ids of their own
    oid = node._p_oid
    try:
        while (parent := node.parent) is not None:
            place = id(node._p_jar), node._p_oid
            if place in seen:
                raise damaged(oid, "has itself among its parents")
            seen.add(place)
            keys.append(node.key)
            node = parent
    except AttributeError as error:
        raise damaged(oid, f"is not what a lotdb node should be: {error}") from error
    return tuple(reversed(keys))
