"""The walk behind `scan`: it reads windows of nodes at once, and gives their records in the order of the tree."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain, count, islice
from typing import Any, TypeAlias, cast

import numpy as np
from BTrees.OOBTree import OOBTree
from lotdb import BaseNode

from .._fast import FAST
from .._jar import RecordJar, at_path, checked_node, costs_one, damaged, path_and_root, unreadable
from .._missing import Sought
from ..errors import DamagedDatabaseError, LotprocError
from ..models import NodeRecord, OnError, failure_at, in_its_place
from .attributes import NOTHING_ABOVE, AttributeReader, Wanted
from .blocks import BlockReader, Piece
from .bounds import UNBOUND, Bounds, chosen
from .listing import listed_together
from .news import are_later
from .pinned import PinnedStorage
from .record_arrays import Flags, Oids, Records, as_oids, beginning_with, numbers_at
from .records import EMPTY_TREE, Children, children_in
from .shapes import NodeReader, Nodes, TreeReader

__all__ = ["Scanner"]

#: Nodes that are decoded together: at first few, so that the first record comes soon, then up to this many.
WINDOW = 1024
FIRST_WINDOW = 32
#: The same where they are decoded to columns, which takes as many steps for many nodes as for few.
BLOCK = 4096
#: Bytes of the record of a tree up to which it is asked together with others whether all that it holds is skipped, as
#: results below leaves are: a third of the time of such a scan.
SMALL = 512
#: Keys of which it is remembered whether they are skipped.
KEYS_TESTED = 1024

_LEAVES = Wanted()
_NO_WINDOWS: Iterator[Any] = iter(())

_Path: TypeAlias = "tuple[str, ...]"


class _Branch:
    """A node whose children are still to come.

    Args:
        oid: Its id.
        path: Its path, from the root of the whole tree.
        tree: The record of the tree of its children.
        above: The branch that it is a child of; `None` for the root of the scan.
        bounds: What of it is given.
    """

    __slots__ = (
        "above",
        "bounds",
        "depth",
        "handed_down",
        "is_looked_at",
        "listed",
        "oid",
        "own",
        "passed",
        "path",
        "ready",
        "siblings",
        "tree",
        "windows",
    )

    def __init__(self, oid: bytes, path: _Path, tree: bytes, above: _Branch | None, bounds: Bounds) -> None:
        self.oid, self.path, self.tree, self.above, self.bounds = oid, path, tree, above, bounds
        #: The ids of nodes between the branch above and this one.
        self.passed: Sequence[bytes] = ()
        #: What its children inherit.
        self.handed_down = NOTHING_ABOVE
        #: Its depth below the root of the scan.
        self.depth: int = above.depth + 1 if above else 0
        #: Its children, where they were listed together with those of others, and whether that was tried.
        self.listed: Children | None = None
        self.is_looked_at = False
        #: Its children, a window at a time, once this is begun.
        self.windows: Iterator[Children] | None = None
        #: What it gives itself, before what is below it.
        self.own: NodeRecord | _Failed | None = None
        #: What comes below it, once it is decoded.
        self.ready: Iterable[_Entry | None] | None = None
        #: The branches that were decoded with it and still wait, up to the last, itself included; if there are any.
        self.siblings: deque[_Branch] | None = None


class _Failed:
    """Stands for what can't be read, a node or what is below one, behind all records that come before it."""

    def __init__(self, path: _Path, error: Exception) -> None:
        self.path, self.error = path, at_path("scan", path, error)


class _Elsewhere:
    """The records of a node in a sibling database, and of what is below it."""

    def __init__(self, records: Iterator[NodeRecord]) -> None:
        self.records = records


_Entry: TypeAlias = "NodeRecord | Piece | _Branch | _Failed | _Elsewhere"


class Scanner:
    """One scan of a tree, or of a part of one.

    Args:
        storage: The records, at one transaction.
        wanted: What to give.
        jar: What loads objects from them, if that is at hand; it stays open.
        sought: What looks for names in the scan that this one is a piece of, and ends with that.
    """

    def __init__(
        self,
        storage: PinnedStorage,
        wanted: Wanted = _LEAVES,
        *,
        jar: RecordJar | None = None,
        sought: Sought | None = None,
    ) -> None:
        self._storage = storage
        self._jar = storage.jar() if jar is None else jar
        self._has_own_jar = jar is None
        self._wanted = wanted
        #: The test of keys of branches to skip, of which many are the same.
        self._skips = None if wanted.skip_key is None else lru_cache(KEYS_TESTED)(wanted.skip_key)
        self._depth = wanted.depth
        self._reader = NodeReader()
        self._trees = TreeReader()
        self._attributes = AttributeReader(storage, self._jar, wanted, sought)
        self._is_piece = sought is not None
        self._blocks: BlockReader | None = None
        if FAST and wanted.blocks:  # to_arrow(scan) so takes a quarter of the time that it takes through records
            required = wanted.missing == "error"
            self._blocks = BlockReader(storage, wanted.taken, self._attributes.sought, required=required)
        #: Whether nothing is asked of nodes that have one child each, but what is at the end of such a chain.
        self._follows = (
            storage.plain_classes
            and (wanted.depth, wanted.among, wanted.skip_node, wanted.pattern) == (None, None, None, None)
            and not wanted.taken.inherit
        )
        self._window = FIRST_WINDOW
        self._deepest = 0
        #: Nodes that lie in sibling databases, by ids that stand for them among those of this one.
        self._elsewhere: dict[bytes, BaseNode] = {}
        self._stand_ins = count(2**64 - 1, -1)  # as no storage gives them

    def records(self, oid: bytes, bounds: Bounds = UNBOUND) -> Iterator[NodeRecord]:
        """The records within bounds of the tree below the object with this id, depth first, sorted by key."""
        waiting: list[Iterator[_Entry | None]] = []
        gave = False
        try:
            if self._depth == "deepest":
                self._depth = self._depth_below(oid)
            entries = self._top(oid, bounds)
            while True:
                for entry in entries:
                    if type(entry) is NodeRecord:
                        gave = True
                        yield entry
                    elif type(entry) is _Branch:
                        waiting.append(entries)
                        entries = chain(() if entry.own is None else [entry.own], self._below(entry))
                        break
                    elif type(entry) is _Elsewhere:
                        waiting.append(entries)
                        entries = entry.records
                        break
                    elif type(entry) is Piece:
                        gave = True
                        yield cast(NodeRecord, entry)
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
                self._attributes.end(gave=gave)
        finally:
            if self._has_own_jar:
                self._jar.close()

    def _instead(self, failed: _Failed) -> Any:
        """What is given in place of what can't be read; `None` for nothing."""
        if not self._wanted.collects or not costs_one(failed.error):
            raise failed.error
        return in_its_place(self._wanted.on_error, failure_at(failed.path, failed.error))

    def path_of(self, oid: bytes) -> tuple[str, ...]:
        """The path of the node with this id, from the root of the whole tree."""
        return path_and_root(self._node(oid))[0]

    def _depth_below(self, oid: bytes) -> int:
        """The depth of the deepest node below the object with this id."""
        on_error: OnError = "skip" if self._wanted.collects else "raise"
        wanted = replace(self._wanted, key=lambda key: False, depth=None, pattern=None, on_error=on_error)
        structure = Scanner(self._storage, wanted)
        deque(structure.records(oid), maxlen=0)
        return structure._deepest

    # --- From a branch to what is below it --------------------------------------------------------------------------

    def _top(self, oid: bytes, bounds: Bounds) -> Iterator[_Entry | None]:
        try:
            if self._wanted.pattern is not None and not self._is_piece:
                bounds = bounds.matching(self._wanted.pattern, self.path_of(oid))
            self._bounded = bounds != UNBOUND
            return iter([self._unusual(oid, None, bounds)])
        except Exception as error:
            return iter([self._failed((), bounds, error)])

    def _failed(self, path: _Path, bounds: Bounds, error: Exception) -> _Failed | None:
        """What stands for a node that can't be read, or for the rest below it.

        One that comes before the lower bound is that of another part, unless the scan ends with it.
        """
        return None if bounds.lower and self._wanted.collects else _Failed(path, error)

    def _below(self, branch: _Branch) -> Iterable[_Entry | None]:
        if branch.ready is None:
            self._prepare(deque([branch]) if branch.siblings is None else branch.siblings)
        ready, branch.ready = branch.ready, None
        return ready or ()

    def _prepare(self, branches: deque[_Branch]) -> None:
        """Decode what is below the first of these branches, and with it what is below the next ones."""
        together: list[tuple[_Branch, Children]] = []
        count = 0
        while branches and count < self._window:
            branch = branches[0]
            if FAST and not branch.is_looked_at:  # spares an eighth of the time of a scan
                self._list_together(branches, self._window - count)
            try:
                children = self._next_children(branch)
                if children is None:
                    branch.ready = self._childless(branch)
            except Exception as error:
                branches.popleft()
                branch.ready = [self._failed(branch.path, branch.bounds, error)]
                continue
            if children is not None and len(children.keys) >= self._window:
                branch.windows = chain([children], branch.windows or ())
                if not together:
                    branches.popleft()
                    branch.ready = self._window_by_window(branch)
                break
            branches.popleft()
            branch.windows = _NO_WINDOWS  # which would hold on to these children
            if children is not None:
                together.append((branch, children))
                count += len(children.keys)
        if together:
            for (branch, _), entries in zip(together, self._decoded(together), strict=True):
                branch.ready = entries

    def _next_children(self, branch: _Branch) -> Children | None:
        """The children in a branch's next window."""
        children, branch.listed = branch.listed, None
        if children is not None and len(children.keys) < self._window:
            if branch.bounds != UNBOUND:
                children = branch.bounds.within(children)
            branch.windows = _NO_WINDOWS
            return children if children.keys else None
        if branch.windows is None:
            branch.windows = self._windows(self._parts(branch), branch.bounds)
        return next(branch.windows, None)

    def _list_together(self, branches: Iterable[_Branch], most: int) -> None:
        """List the children of as many of these branches as are decoded together."""
        listed = listed_together((branch.tree for branch in branches), most, self._storage)
        for branch, children in zip(branches, listed, strict=False):
            branch.listed, branch.is_looked_at = children, True

    def _childless(self, branch: _Branch) -> list[_Entry | None]:
        """What a branch gives whose record of children is not that of an empty tree, and yet has none to give."""
        node = self._node(branch.oid)
        if (
            self._depth is not None
            or node.node_storage
            or self._wanted.among is not None
            or not self._gives(node.key, branch.bounds)
        ):
            return []  # those that it has are out of bounds
        return [self._attributes.one(node, branch.path)]

    def _window_by_window(self, branch: _Branch) -> Iterator[_Entry | None]:
        """What is below a branch that has many children."""
        windows, branch.windows = branch.windows, _NO_WINDOWS
        try:
            for children in windows or ():
                yield from self._decoded([(branch, children)])[0]
        except Exception as error:
            yield self._failed(branch.path, branch.bounds, error)

    def _list(self, branch: _Branch) -> bool:
        """Begin to list the children of a branch; tell whether it has any that exist for this scan."""
        if self._skips is None and self._wanted.skip_node is None:
            return True
        parts = map(self._not_skipped, self._parts(branch))
        first = next((part for part in parts if part.keys), None)
        if first is None:
            return False
        branch.windows, branch.is_looked_at = self._windows(chain([first], parts), branch.bounds), True
        return True

    def _windows(self, parts: Iterable[Children], bounds: Bounds) -> Iterator[Children]:
        """The same children in windows, as far as they are within bounds."""
        keys: list[str] = []
        oids: list[bytes] = []
        for part in parts if bounds == UNBOUND else map(bounds.within, parts):
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
        skip_key, skip_node = self._skips, self._wanted.skip_node
        return chosen(
            children,
            lambda key, oid: not (skip_key and skip_key(key)) and not (skip_node and skip_node(self._node(oid))),
        )

    # --- From children to their records -----------------------------------------------------------------------------

    def _decoded(self, together: list[tuple[_Branch, Children]]) -> list[Iterable[_Entry | None]]:
        """What the children of some branches of one depth give: their records, and branches in their turn."""
        self._window = min(2 * self._window, WINDOW if self._blocks is None else BLOCK)
        entries: Iterable[_Entry | None]
        try:
            entries = self._entries(
                [branch for branch, children in together for _ in children.keys],
                [key for _, children in together for key in children.keys],
                as_oids([oid for _, children in together for oid in children.oids]),
            )
        except Exception:
            self._follows = False  # so that each error comes at its place
            entries = self._entries_one_by_one(together)
        if isinstance(entries, list):
            following = deque(entry for entry in entries if type(entry) is _Branch)
            for branch in following:
                branch.siblings = following
        rest = iter(entries)  # of which each branch takes its own when the one before it is done
        return [filter(None, islice(rest, len(children.keys))) for _, children in together]

    def _entries_one_by_one(self, together: list[tuple[_Branch, Children]]) -> list[_Entry | None]:
        """The same one by one, so that an error comes behind what is before it, and costs one node."""
        entries: list[_Entry | None] = []
        for branch, (keys, oids) in together:
            for key, oid in zip(keys, oids, strict=True):
                try:
                    entries += self._entries([branch], [key], as_oids([oid]))
                except Exception as error:
                    entries.append(self._failed((*branch.path, key), branch.bounds.below(key), error))
                    if not self._wanted.collects:
                        return entries
        return entries

    def _entries(self, branches: list[_Branch], keys: list[str], oids: Oids) -> Iterable[_Entry | None]:
        """What the nodes with these keys and ids give, each a child of the branch in its place.

        Where that is records and nothing else, an iterator that makes them, so that none is held before it is asked
        for: what is new and goes at once is not looked through by the collector of garbage either.
        """
        if len(keys) == 1 and self._follows and not self._bounded and not self._elsewhere:
            branch, key, oid = self._at_end(branches[0], keys[0], oids.tobytes())
            branches, keys, oids = [branch], [key], as_oids([oid])
        depth = branches[0].depth + 1
        self._deepest = max(self._deepest, depth)
        if self._elsewhere and any(oid.tobytes() in self._elsewhere for oid in oids):
            return self._entries_with_elsewhere(branches, keys, oids)
        records = self._storage.load_many(oids)
        nodes = self._reader.read(records, keys)
        parents = as_oids([branch.oid for branch in branches])
        usual = nodes.usual & (nodes.parents == parents).all(axis=1) & self._storage.plain_classes
        bounds = {
            row: branch.bounds.below(keys[row])
            for row, branch in enumerate(branches if self._bounded else ())
            if branch.bounds != UNBOUND
        }
        entries: list[_Entry | None] = [None] * len(keys)
        for row in np.flatnonzero(~usual).tolist():
            entries[row] = self._unusual(oids[row].tobytes(), branches[row], bounds.get(row, UNBOUND))

        rows = np.flatnonzero(usual)
        if depth != self._depth and len(rows):
            trees = self._storage.load_many(nodes.children[rows])
            childless = (trees.lengths == len(EMPTY_TREE)) & beginning_with(EMPTY_TREE, trees)
            if self._skips is not None and self._wanted.skip_node is None:
                small = np.flatnonzero(~childless & (trees.lengths <= SMALL))
                childless[small] = self._trees.all_have(trees.some(small), self._skips)
            below: list[int] = []
            ends = self._ends(branches, keys, oids, rows, trees) if self._wanted.chain else {}
            for place in np.flatnonzero(~childless).tolist():
                row = int(rows[place])
                if row in ends:
                    entries[row] = ends[row]
                    continue
                path = (*branches[row].path, keys[row])
                branch = _Branch(oids[row].tobytes(), path, trees.one(place), branches[row], bounds.get(row, UNBOUND))
                if self._list(branch):
                    entries[row] = branch
                    below.append(row)
                else:
                    childless[place] = True
            if self._wanted.taken.inherit and below:
                self._hand_down(below, entries, oids, nodes.attributes)
            if self._depth is not None:
                rows = rows[:0]
            elif self._wanted.among is None:
                rows = rows[childless]
        given = rows.tolist()
        if self._wanted.among is not None:
            given = [row for row in given if self._wanted.among(branches[row].path, keys[row])]
        if self._bounded or self._wanted.key is not None:
            given = [row for row in given if self._gives(keys[row], bounds.get(row, UNBOUND))]
        new: list[bool] | None = None
        if given and self._wanted.since is not None:
            given, new = self._what_is_new(given, branches, oids, nodes, are_later(records.tids, self._wanted.since))
        if given and self._blocks is not None:
            given = self._in_blocks(self._blocks, given, entries, branches, keys, parents, nodes.attributes)
        if given:
            paths = ((*branches[row].path, keys[row]) for row in given)
            inherited = [branches[row].handed_down.values for row in given] if self._wanted.taken.inherit else ()
            found = self._attributes.many(paths, oids[given], nodes.attributes[given], _Failed, inherited, new)
            if len(given) == len(keys) and not any(entries):
                return found
            for row, entry in zip(given, found, strict=False):  # fewer records, if one is an error
                below_it = entries[row]
                if type(below_it) is _Branch:
                    below_it.own = entry
                else:
                    entries[row] = entry
        return entries

    def _in_blocks(
        self,
        blocks: BlockReader,
        given: list[int],
        entries: list[_Entry | None],
        branches: list[_Branch],
        keys: list[str],
        parents: Oids,
        attributes: Oids,
    ) -> list[int]:
        """Have as many as can be of the nodes in these rows in a block; returns the rows of the others."""
        rows = np.array(given)
        parent = numbers_at(parents[rows], 0)
        begins = np.concatenate([[True], parent[1:] != parent[:-1]])
        above = [branches[row] for row in rows[begins].tolist()]
        place = np.cumsum(begins) - 1
        if len({len(branch.path) for branch in above}) > 1:
            return given
        inherited = [branch.handed_down.values for branch in above] if self._wanted.taken.inherit else ()
        keys = keys if len(rows) == len(keys) else [keys[row] for row in given]
        block, told = blocks.read([branch.path for branch in above], place, keys, attributes[rows], inherited)
        others = np.zeros(len(entries), np.bool_)
        others[[row for row, entry in enumerate(entries) if entry is not None]] = True
        others[rows[~told]] = True
        together, rows = rows[told], rows[~told]
        if len(together):
            ends = np.diff(np.cumsum(others)[together]) + np.diff(block.place)
            starts = [0, *(np.flatnonzero(ends) + 1).tolist()]
            for start, stop in zip(starts, [*starts[1:], len(together)], strict=True):
                entries[together[start]] = Piece(block, start, stop)
        left: list[int] = rows.tolist()
        return left

    def _at_end(self, branch: _Branch, key: str, oid: bytes) -> tuple[_Branch, str, bytes]:
        """The end of the chain of nodes with one child each that begins with a child of a branch.

        Given as its parent, its key and its id: a twentieth of the time that a window for each node takes.
        """
        load = self._storage.load
        keys, oids, tree = [key], [branch.oid, oid], b""
        try:
            while True:
                node = self._reader.one(load(oids[-1])[0])
                if node is None or node[:2] != (oids[-2], keys[-1].encode("utf-8", "surrogatepass")):
                    break
                record = load(node[2])[0]
                child = self._trees.only_one(record)
                if child is None:
                    break
                below = child[0].decode("utf-8", "surrogatepass")
                if self._skips is not None and self._skips(below):
                    break
                keys.append(below)
                oids.append(child[1])
                tree = record
        except (LotprocError, UnicodeDecodeError):  # which is told of where that node is read by itself
            pass
        if len(keys) == 1:
            return branch, key, oid
        last = _Branch(oids[-2], (*branch.path, *keys[:-1]), tree, branch, UNBOUND)
        last.depth, last.passed = branch.depth + len(keys) - 1, oids[1:-2]
        return last, keys[-1], oids[-1]

    def _what_is_new(
        self, given: list[int], branches: list[_Branch], oids: Oids, nodes: Nodes, stored_since: Flags
    ) -> tuple[list[int], list[bool] | None]:
        """The rows of nodes of which something is new; or all of these rows, and which of them are, to mark them."""
        news = [branches[row].handed_down.news for row in given] if self._wanted.taken.inherit else []
        new = self._attributes.are_new(oids[given], nodes.attributes[given], stored_since[given], news).tolist()
        if self._wanted.marks:
            return given, new
        return [row for row, is_new in zip(given, new, strict=True) if is_new], None

    def _ends(
        self, branches: list[_Branch], keys: list[str], oids: Oids, rows: Any, trees: Records
    ) -> dict[int, _Entry | None]:
        """What the nodes in these rows give below which there is one leaf and nothing else, at the end of the chain.

        Four times as fast as branch by branch, which gives the same.
        """
        among, chain = self._wanted.among, self._wanted.chain
        oids = oids[rows]
        attributes = oids
        try:
            for key in chain:
                children, found = self._trees.only(trees, key)
                rows, parents, oids = rows[found], oids[found], children[found]
                nodes = self._reader.read(self._storage.load_many(oids), [key] * len(oids))
                usual = nodes.usual & (nodes.parents == parents).all(axis=1) & self._storage.plain_classes
                rows, oids, attributes = rows[usual], oids[usual], nodes.attributes[usual]
                trees = self._storage.load_many(nodes.children[usual])
        except DamagedDatabaseError:
            return {}  # which is told of one by one
        is_end = (trees.lengths == len(EMPTY_TREE)) & beginning_with(EMPTY_TREE, trees)
        for place in np.flatnonzero(is_end).tolist():
            row = int(rows[place])
            is_end[place] = among is not None and not among(branches[row].path, keys[row])
        given = rows[is_end].tolist()
        paths = [(*branches[row].path, keys[row], *chain) for row in given]
        records = self._attributes.many(paths, oids[is_end], attributes[is_end], _Failed)
        return dict(zip(given, records, strict=False))

    def _hand_down(self, rows: list[int], entries: list[_Entry | None], oids: Oids, attributes: Oids) -> None:
        """Note for the branches in these rows what their children inherit."""
        branches = cast("list[_Branch]", [entries[row] for row in rows])
        paths = [branch.path for branch in branches]
        above = [branch.above.handed_down if branch.above else NOTHING_ABOVE for branch in branches]
        try:
            handed = self._attributes.handed_down(paths, oids[rows], attributes[rows], above)
        except Exception:  # one by one, so that what can't be read costs those alone that inherit from it
            handed = [self._attributes.handed_down_by(branch.oid, branch.path) for branch in branches]
        for branch, handed_down in zip(branches, handed, strict=True):
            branch.handed_down = handed_down

    def _entries_with_elsewhere(self, branches: list[_Branch], keys: list[str], oids: Oids) -> list[_Entry | None]:
        """The same, where some of the nodes lie in sibling databases."""
        entries: list[_Entry | None] = []
        for row, (branch, key) in enumerate(zip(branches, keys, strict=True)):
            oid = oids[row].tobytes()
            if oid in self._elsewhere:
                entries.append(_Elsewhere(self._records_elsewhere(oid, branch.depth + 1, branch.bounds.below(key))))
            else:
                entries += self._entries([branch], [key], oids[row : row + 1])
        return entries

    def _records_elsewhere(self, stand_in: bytes, depth: int, bounds: Bounds) -> Iterator[NodeRecord]:
        node = self._elsewhere.pop(stand_in)
        storage = self._storage.sibling(node._p_jar.db().database_name)
        wanted = replace(self._wanted, depth=self._depth - depth if isinstance(self._depth, int) else None)
        scanner = Scanner(storage, wanted, jar=node._p_jar, sought=self._attributes.sought)
        yield from scanner.records(node._p_oid, bounds)
        self._deepest = max(self._deepest, depth + scanner._deepest)

    def _gives(self, key: str, bounds: Bounds) -> bool:
        """Whether a node with this key is one to give."""
        return bounds.includes_node and (self._wanted.key is None or bool(self._wanted.key(key)))

    def _unusual(self, oid: bytes, above: _Branch | None, bounds: Bounds) -> _Entry | None:
        """What a node gives that only its real class can read, as a live one would."""
        node = self._node(oid)
        path, _ = path_and_root(node)
        depth = above.depth + 1 if above else 0
        if depth != self._depth:
            tree = node.node_storage
            if tree:
                is_stored = FAST and type(tree) is OOBTree and tree._p_oid is not None and tree._p_jar is self._jar
                record = self._storage.load(tree._p_oid)[0] if is_stored else b""
                branch = _Branch(oid, path, record, above, bounds)
                while above is not None:
                    if above.oid == oid or oid in above.passed:
                        raise damaged(oid, "has itself among its children")
                    above = above.above
                if self._list(branch):
                    if self._wanted.taken.inherit:
                        branch.handed_down = self._attributes.handed_down_by(oid, path)
                    if self._wanted.among is not None and path and self._wanted.among(path[:-1], path[-1]):
                        branch.own = self._attributes.one(node, path)
                    return branch
            if self._depth is not None:
                return None
        if self._wanted.among is not None and not (path and self._wanted.among(path[:-1], path[-1])):
            return None
        return self._attributes.one(node, path) if self._gives(node.key, bounds) else None

    def _node(self, oid: bytes) -> BaseNode:
        """A node as an object of its class, loaded from the records."""
        return checked_node(oid, self._elsewhere[oid]) if oid in self._elsewhere else self._jar.node(oid)
