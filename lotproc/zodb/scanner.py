"""The walk behind `scan`: it reads windows of nodes at once, and gives their records in the order of the tree."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice, repeat
from typing import Any, TypeAlias, cast

import numpy as np
from BTrees.OOBTree import OOBTree

from .._fast import FAST
from .._jar import RecordJar, costs_one, damaged, path_and_root
from .._missing import Sought
from ..errors import ServerError
from ..models import NodeRecord, OnError, failure_at, in_its_place
from .attributes import NOTHING_ABOVE, AttributeReader, Wanted
from .blocks import BlockReader, Piece
from .bounds import UNBOUND, Bounds
from .branches import Branch, Elsewhere, Entry, Failed
from .chains import ChainReader
from .children import NO_WINDOWS, ChildReader
from .news import are_later
from .pinned import PinnedStorage
from .record_arrays import Flags, Oids, as_oids, beginning_with, numbers_at
from .records import EMPTY_TREE, Children, parts_in
from .shapes import NodeReader, Nodes, TreeReader

__all__ = ["Scanner"]

#: Nodes that are decoded together at most.
WINDOW = 1024
#: The same where they are decoded to columns, which takes as many steps for many nodes as for few.
BLOCK = 4096
#: Bytes of the record of a tree up to which it is asked together with others whether all that it holds is skipped, as
#: results below leaves are: a third of the time of such a scan.
SMALL = 512

_LEAVES = Wanted()

_Path: TypeAlias = "tuple[str, ...]"


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
        self._children = ChildReader(storage, self._jar, wanted)
        self._skips = self._children.skips
        self._depth = wanted.depth
        self._reader = NodeReader()
        self._trees = TreeReader()
        self._attributes = AttributeReader(storage, self._jar, wanted, sought)
        self._is_piece = sought is not None
        self._blocks: BlockReader | None = None
        if FAST and wanted.blocks:  # to_arrow(scan) so takes a quarter of the time that it takes through records
            self._blocks = BlockReader(storage, wanted, self._attributes.sought)
        self._chains = ChainReader(storage, wanted, self._reader, self._trees, self._children.skips)
        self._follows = self._chains.can_be_followed
        self._deepest = 0

    def records(self, oid: bytes, bounds: Bounds = UNBOUND) -> Iterator[NodeRecord]:
        """The records within bounds of the tree below the object with this id, depth first, sorted by key."""
        waiting: list[Iterator[Entry | None]] = []
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
                    elif type(entry) is Branch:
                        waiting.append(entries)
                        entries = chain(() if entry.own is None else [entry.own], self._below(entry))
                        break
                    elif type(entry) is Elsewhere:
                        waiting.append(entries)
                        entries = entry.records
                        break
                    elif type(entry) is Piece:
                        gave = True
                        yield cast(NodeRecord, entry)
                    elif type(entry) is not Failed:
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

    def _instead(self, failed: Failed) -> Any:
        """What is given in place of what can't be read; `None` for nothing."""
        if not self._wanted.collects or not costs_one(failed.error):
            raise failed.error
        return in_its_place(self._wanted.on_error, failure_at(failed.path, failed.error))

    def path_of(self, oid: bytes) -> tuple[str, ...]:
        """The path of the node with this id, from the root of the whole tree."""
        return path_and_root(self._children.node(oid))[0]

    def _depth_below(self, oid: bytes) -> int:
        """The depth of the deepest node below the object with this id."""
        on_error: OnError = "skip" if self._wanted.collects else "raise"
        wanted = replace(self._wanted, key=lambda key: False, depth=None, pattern=None, on_error=on_error)
        structure = Scanner(self._storage, wanted)
        deque(structure.records(oid), maxlen=0)
        return structure._deepest

    # --- From a branch to what is below it --------------------------------------------------------------------------

    def _top(self, oid: bytes, bounds: Bounds) -> Iterator[Entry | None]:
        try:
            if self._wanted.pattern is not None and not self._is_piece:
                bounds = bounds.matching(self._wanted.pattern, self.path_of(oid))
            self._bounded = bounds != UNBOUND
            return iter([self._unusual(oid, None, bounds)])
        except Exception as error:
            return iter([self._failed((), bounds, error)])

    def _failed(self, path: _Path, bounds: Bounds, error: Exception) -> Failed | None:
        """What stands for a node that can't be read, or for the rest below it.

        One that comes before the lower bound is that of another part, unless the scan ends with it.
        """
        return None if bounds.lower and self._wanted.collects else Failed(path, error)

    def _below(self, branch: Branch) -> Iterable[Entry | None]:
        if branch.ready is None:
            self._prepare(deque([branch]) if branch.siblings is None else branch.siblings)
        ready, branch.ready = branch.ready, None
        return ready or ()

    def _prepare(self, branches: deque[Branch]) -> None:
        """Decode what is below the first of these branches, and with it what is below the next ones."""
        together: list[tuple[Branch, Children]] = []
        count = 0
        while branches and count < self._children.window:
            branch = branches[0]
            if FAST and not branch.is_looked_at:  # spares an eighth of the time of a scan
                self._children.list_together(branches, self._children.window - count)
            try:
                children = self._children.next_window(branch)
                if children is None:
                    branch.ready = self._childless(branch)
            except Exception as error:
                branches.popleft()
                branch.ready = [self._failed(branch.path, branch.bounds, error)]
                continue
            if children is not None and len(children.keys) >= self._children.window:
                branch.windows = chain([children], branch.windows or ())
                branches.popleft()
                branch.ready = self._window_by_window(branch)
                break
            branches.popleft()
            branch.windows = NO_WINDOWS  # which would hold on to these children
            if children is not None:
                together.append((branch, children))
                count += len(children.keys)
        if together:
            for (branch, _), entries in zip(together, self._decoded(together), strict=True):
                branch.ready = entries

    def _childless(self, branch: Branch) -> list[Entry | None]:
        """What a branch gives whose record of children is not that of an empty tree, and yet has none to give."""
        node = self._children.node(branch.oid)
        if (
            self._depth is not None
            or node.node_storage
            or self._wanted.among is not None
            or not self._gives(node.key, branch.bounds)
        ):
            return []  # those that it has are out of bounds
        return [self._attributes.one(node, branch.path)]

    def _window_by_window(self, branch: Branch) -> Iterator[Entry | None]:
        """What is below a branch that has many children."""
        windows, branch.windows = branch.windows, NO_WINDOWS
        try:
            for children in windows or ():
                yield from self._decoded([(branch, children)])[0]
        except Exception as error:
            yield self._failed(branch.path, branch.bounds, error)

    # --- From children to their records -----------------------------------------------------------------------------

    def _decoded(self, together: list[tuple[Branch, Children]]) -> list[Iterable[Entry | None]]:
        """What the children of some branches of one depth give: their records, and branches in their turn."""
        self._children.window = min(2 * self._children.window, WINDOW if self._blocks is None else BLOCK)
        entries: Iterable[Entry | None]
        try:
            entries = self._entries(
                list(chain.from_iterable(repeat(branch, len(children.keys)) for branch, children in together)),
                list(chain.from_iterable(children.keys for _, children in together)),
                as_oids(chain.from_iterable(children.oids for _, children in together)),
            )
        except ServerError:
            raise
        except Exception:
            self._follows = False  # so that each error comes at its place
            entries = self._entries_one_by_one(together)
        if isinstance(entries, list):
            following = deque(entry for entry in entries if type(entry) is Branch)
            for branch in following:
                branch.siblings = following
        rest = iter(entries)  # of which each branch takes its own when the one before it is done
        return [filter(None, islice(rest, len(children.keys))) for _, children in together]

    def _entries_one_by_one(self, together: list[tuple[Branch, Children]]) -> list[Entry | None]:
        """The same one by one, so that an error comes behind what is before it, and costs one node."""
        entries: list[Entry | None] = []
        for branch, (keys, oids) in together:
            for key, oid in zip(keys, oids, strict=True):
                try:
                    entries += self._entries([branch], [key], as_oids([oid]))
                except Exception as error:
                    entries.append(self._failed((*branch.path, key), branch.bounds.below(key), error))
                    if not self._wanted.collects:
                        return entries
        return entries

    def _entries(self, branches: list[Branch], keys: list[str], oids: Oids) -> Iterable[Entry | None]:
        """What the nodes with these keys and ids give, each a child of the branch in its place.

        Where that is records and nothing else, an iterator that makes them, so that none is held before it is asked
        for: what is new and goes at once is not looked through by the collector of garbage either.
        """
        if len(keys) == 1 and self._follows and not self._bounded and not self._children.elsewhere:
            branch, key, oid = self._chains.end(branches[0], keys[0], oids.tobytes())
            branches, keys, oids = [branch], [key], as_oids([oid])
        depth = branches[0].depth + 1
        self._deepest = max(self._deepest, depth)
        if self._children.elsewhere and any(oid.tobytes() in self._children.elsewhere for oid in oids):
            return self._entries_with_elsewhere(branches, keys, oids)
        records = self._storage.load_many(oids)
        nodes = self._reader.read(records, keys)
        parents = as_oids([branch.oid for branch in branches])
        usual = nodes.usual & (numbers_at(nodes.parents, 0) == numbers_at(parents, 0)) & self._storage.plain_classes
        bounds = {
            row: branch.bounds.below(keys[row])
            for row, branch in enumerate(branches if self._bounded else ())
            if branch.bounds != UNBOUND
        }
        entries: list[Entry | None] = [None] * len(keys)
        for row in np.flatnonzero(~usual).tolist():
            entries[row] = self._unusual(oids[row].tobytes(), branches[row], bounds.get(row, UNBOUND))

        rows = np.flatnonzero(usual)
        if depth != self._depth and len(rows):
            trees = self._storage.load_many(nodes.children[rows])
            childless = (trees.lengths == len(EMPTY_TREE)) & beginning_with(EMPTY_TREE, trees)
            if self._storage.is_far:
                self._storage.expect(parts_in(trees))
            if self._skips is not None and self._wanted.skip_node is None:
                small = np.flatnonzero(~childless & (trees.lengths <= SMALL))
                childless[small] = self._trees.all_have(trees.some(small), self._skips)
            below: list[int] = []
            ends = (
                self._chains.leaves(branches, keys, oids, rows, trees, self._attributes) if self._wanted.chain else {}
            )
            for place in np.flatnonzero(~childless).tolist():
                row = int(rows[place])
                if row in ends:
                    entries[row] = ends[row]
                    continue
                path = (*branches[row].path, keys[row])
                branch = Branch(oids[row].tobytes(), path, trees.one(place), branches[row], bounds.get(row, UNBOUND))
                if self._children.begin(branch):
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
            found = self._attributes.many(paths, oids[given], nodes.attributes[given], Failed, inherited, new)
            if len(given) == len(keys) and not any(entries):
                return found
            for row, entry in zip(given, found, strict=False):  # fewer records, if one is an error
                below_it = entries[row]
                if type(below_it) is Branch:
                    below_it.own = entry
                else:
                    entries[row] = entry
        return entries

    def _in_blocks(
        self,
        blocks: BlockReader,
        given: list[int],
        entries: list[Entry | None],
        branches: list[Branch],
        keys: list[str],
        parents: Oids,
        attributes: Oids,
    ) -> list[int]:
        """Have as many as can be of the nodes in these rows in a block; returns the rows of the others."""
        rows = np.fromiter(given, np.intp, len(given))
        parent = numbers_at(parents[rows], 0)
        begins = np.concatenate([[True], parent[1:] != parent[:-1]])
        above = [branches[row] for row in rows[begins].tolist()]
        place = np.cumsum(begins) - 1
        if len({len(branch.path) for branch in above}) > 1:
            return given
        inherited = [branch.handed_down.values for branch in above] if self._wanted.taken.inherit else ()
        keys = keys if len(rows) == len(keys) else [keys[row] for row in given]
        block, kept, left = blocks.read([branch.path for branch in above], place, keys, attributes[rows], inherited)
        others = np.zeros(len(entries), np.bool_)
        if any(entries):
            others[[row for row, entry in enumerate(entries) if entry is not None]] = True
        others[rows[left]] = True
        together = rows[kept]
        if len(together):
            ends = np.diff(np.cumsum(others)[together]) + np.diff(block.place)
            starts = [0, *(np.flatnonzero(ends) + 1).tolist()]
            for start, stop in zip(starts, [*starts[1:], len(together)], strict=True):
                entries[together[start]] = Piece(block, start, stop)
        rest: list[int] = rows[left].tolist()
        return rest

    def _what_is_new(
        self, given: list[int], branches: list[Branch], oids: Oids, nodes: Nodes, stored_since: Flags
    ) -> tuple[list[int], list[bool] | None]:
        """The rows of nodes of which something is new; or all of these rows, and which of them are, to mark them."""
        news = [branches[row].handed_down.news for row in given] if self._wanted.taken.inherit else []
        new = self._attributes.are_new(oids[given], nodes.attributes[given], stored_since[given], news).tolist()
        if self._wanted.marks:
            return given, new
        return [row for row, is_new in zip(given, new, strict=True) if is_new], None

    def _hand_down(self, rows: list[int], entries: list[Entry | None], oids: Oids, attributes: Oids) -> None:
        """Note for the branches in these rows what their children inherit."""
        branches = cast("list[Branch]", [entries[row] for row in rows])
        paths = [branch.path for branch in branches]
        above = [branch.above.handed_down if branch.above else NOTHING_ABOVE for branch in branches]
        try:
            handed = self._attributes.handed_down(paths, oids[rows], attributes[rows], above)
        except ServerError:
            raise
        except Exception:  # one by one, so that what can't be read costs those alone that inherit from it
            handed = [self._attributes.handed_down_by(branch.oid, branch.path) for branch in branches]
        for branch, handed_down in zip(branches, handed, strict=True):
            branch.handed_down = handed_down

    def _entries_with_elsewhere(self, branches: list[Branch], keys: list[str], oids: Oids) -> list[Entry | None]:
        """The same, where some of the nodes lie in sibling databases."""
        entries: list[Entry | None] = []
        for row, (branch, key) in enumerate(zip(branches, keys, strict=True)):
            oid = oids[row].tobytes()
            if oid in self._children.elsewhere:
                entries.append(Elsewhere(self._records_elsewhere(oid, branch.depth + 1, branch.bounds.below(key))))
            else:
                entries += self._entries([branch], [key], oids[row : row + 1])
        return entries

    def _records_elsewhere(self, stand_in: bytes, depth: int, bounds: Bounds) -> Iterator[NodeRecord]:
        node = self._children.elsewhere.pop(stand_in)
        storage = self._storage.sibling(node._p_jar.db().database_name)
        wanted = replace(self._wanted, depth=self._depth - depth if isinstance(self._depth, int) else None)
        scanner = Scanner(storage, wanted, jar=node._p_jar, sought=self._attributes.sought)
        yield from scanner.records(node._p_oid, bounds)
        self._deepest = max(self._deepest, depth + scanner._deepest)

    def _gives(self, key: str, bounds: Bounds) -> bool:
        """Whether a node with this key is one to give."""
        return bounds.includes_node and (self._wanted.key is None or bool(self._wanted.key(key)))

    def _unusual(self, oid: bytes, above: Branch | None, bounds: Bounds) -> Entry | None:
        """What a node gives that only its real class can read, as a live one would."""
        node = self._children.node(oid)
        path, _ = path_and_root(node)
        depth = above.depth + 1 if above else 0
        if depth != self._depth:
            tree = node.node_storage
            if tree:
                is_stored = FAST and type(tree) is OOBTree and tree._p_oid is not None and tree._p_jar is self._jar
                record = self._storage.load(tree._p_oid)[0] if is_stored else b""
                branch = Branch(oid, path, record, above, bounds)
                while above is not None:
                    if above.oid == oid or oid in above.passed:
                        raise damaged(oid, "has itself among its children")
                    above = above.above
                if self._children.begin(branch):
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
