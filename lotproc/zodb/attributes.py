"""What each node gives to a scan: its attributes, from their records to a `NodeRecord`."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from lotdb import BaseNode

from .._detaching import ATOMS, detached
from .._jar import Items, RecordJar
from .._missing import Missing, Sought
from .._patterns import PathPattern
from ..models import NodeRecord, OnError, node_record, unchanged
from ..snapshots import Inherited, Taken, add_inherited, nearest, record_of
from .ahead import held_objects
from .news import are_later, has_news, names_with_news
from .pinned import PinnedStorage
from .record_arrays import Flags, Oids, Records, beginning_with, one_by_one
from .records import TREE, are_sorted_names, attributes_in
from .values import ValueReader

__all__ = ["NOTHING_ABOVE", "AttributeReader", "HandedDown", "Wanted"]

_Path: TypeAlias = "tuple[str, ...]"


_NOTHING = Taken()

#: Nodes in which names are looked for, before the others are read.
FIRST = 8
#: Nodes whose values are read together, and held until their records are made.
TOGETHER = 256

_T = TypeVar("_T")


class HandedDown(NamedTuple):
    """What the children of a node inherit.

    Args:
        values: The attributes; `None` where they can't be read, which is told by those children that lack one.
        news: Those that something new was met for, where only what is new is given.
    """

    values: Inherited | None
    news: frozenset[str] = frozenset()


#: What the children of a node without one above it inherit from there.
NOTHING_ABOVE = HandedDown({})


@dataclass(frozen=True)
class Wanted:
    """What a scan gives.

    Args:
        taken: What is taken of each node.
        key: A test of keys; only nodes that pass it are given.
        tests: Tests of records, by the attributes that they look at.
        skip_key: A test of keys; branches that pass it do not exist.
        skip_node: The same, for nodes.
        pattern: What paths, from the root of the whole tree, must match.
        depth: Give the nodes at this depth, or at the deepest; `None` gives the leaves.
        on_error: As `snapshot` takes it.
        missing: The same.
        is_part: Whether only a part of the tree is scanned.
        since: Only what was stored by this transaction or later is given.
        marks: What is not is given all the same, marked as `Unchanged`.
        among: A test of the path above a node, and its key: all nodes that pass it are given, not the leaves alone.
        blocks: Whether nodes whose records are as usual are given in a `Piece` of a block, and the others as records.
        chain: With `among`, keys of which only a whole one leads from a node that does not pass to one that does; nodes
            below which there is nothing but one leaf, at these keys, are read together with it.
    """

    taken: Taken = _NOTHING
    key: Callable[[str], object] | None = None
    tests: tuple[tuple[str, Callable[[Any], bool]], ...] = ()
    skip_key: Callable[[str], object] | None = None
    skip_node: Callable[[BaseNode], object] | None = None
    pattern: PathPattern | None = None
    depth: int | Literal["deepest"] | None = None
    on_error: OnError = "raise"
    missing: Missing = "warn"
    is_part: bool = False
    since: bytes | None = None
    marks: bool = False
    blocks: bool = False
    among: Callable[[_Path, str], object] | None = None
    chain: tuple[str, ...] = ()

    @cached_property
    def tested(self) -> Taken:
        """What is taken of a node to test it."""
        names = dict.fromkeys(name for name, _ in self.tests)
        inherit = self.taken.inherit
        return Taken(
            tuple(name for name in names if name not in inherit), tuple(name for name in names if name in inherit)
        )

    @cached_property
    def looked_at(self) -> Taken:
        """What is taken of a node, and what it is tested by."""
        names, more = self.taken.names, self.tested.names
        return self.taken if names is ... or more is ... else self.taken._replace(names=(*names, *more))

    @property
    def collects(self) -> bool:
        """Whether what can't be read costs one node, and not the scan."""
        return self.on_error != "raise"


def _shared(above: Inherited, names: tuple[str, ...]) -> dict[str, Any] | None:
    """What all nodes below one inherit, if it needs no copy for each: that spares most of what inheriting costs."""
    values = {name: above[name][0] if name in above else None for name in names}
    return values if ATOMS.issuperset(map(type, values.values())) else None


class AttributeReader:
    """Makes the records of nodes, and looks for names that none of them has.

    Args:
        storage: The records of the database.
        jar: What loads objects from them.
        wanted: What to give.
        sought: What looks for names in the scan that this one is a piece of, and ends with that.
    """

    def __init__(self, storage: PinnedStorage, jar: RecordJar, wanted: Wanted, sought: Sought | None) -> None:
        self._storage = storage
        self._jar = jar
        self._wanted = wanted
        self._values = ValueReader(storage)
        taken = wanted.taken
        names, tested = taken.asked_for, [name for name, _ in wanted.tests]
        self.sought = sought or Sought("scan", [*names, *tested], is_part=wanted.is_part)
        self._required = Sought("scan", names, "error") if wanted.missing == "error" else None
        self._needed = None if taken.names is ... else frozenset([*taken.names, *taken.inherit, *tested])
        self._unasked = frozenset(names) - frozenset(tested)

    def end(self, *, gave: bool) -> None:
        """The scan is at its end: tell of names that no node had, if any was given, and else of those in tests."""
        self.sought.end(but=() if gave else self._unasked)

    def many(
        self,
        paths: Iterable[_Path],
        oids: Oids,
        attributes: Oids,
        failed: Callable[[_Path, Exception], _T],
        inherited: Sequence[Inherited | None] = (),
        new: Sequence[bool] | None = None,
    ) -> Iterator[NodeRecord | _T | None]:
        """The records of nodes with these paths, ids, and ids of the trees of their attributes, made when they are due.

        `None` for one that does not pass the tests; for one that can't be read what `failed` gives of its path and the
        error, after which no more come unless errors are collected. `inherited` is what each has from above; `new` says
        which of them are marked as unchanged, where any are.
        """
        return self._many(paths, oids, self._storage.load_many(attributes), failed, inherited, new)

    def _many(
        self,
        paths: Iterable[_Path],
        oids: Oids,
        found: Records,
        failed: Callable[[_Path, Exception], _T],
        inherited: Sequence[Inherited | None],
        new: Sequence[bool] | None,
    ) -> Iterator[NodeRecord | _T | None]:
        (names, inherit, _), tests, required = self._wanted.taken, self._wanted.tests, self._required
        read = self._read(oids, found)
        known: Sequence[str] | None = None
        above: Inherited = {}
        own: list[tuple[str, int]] = []
        shared: dict[str, Any] | None = None
        places: list[tuple[str, int | None]] = []
        for row, (path, items) in enumerate(zip(paths, read, strict=True)):
            try:
                is_new = new is None or new[row]
                given = inherited[row] if inherit else above
                if given is None:
                    items = None
                elif items is not None and (items[0] != known or given is not above):
                    if not are_sorted_names(items[0]):
                        items = None
                    else:
                        known, above = items[0], given
                        self.sought.look([*known, *above], path)
                        wanted = known if names is ... else names
                        places = [(name, known.index(name) if name in known else None) for name in wanted]
                        own = [(name, known.index(name)) for name in inherit if name in known]
                        shared = _shared(above, inherit) if inherit and not own else None
                if items is None:
                    yield self.one(self._jar.node(oids[row].tobytes()), path, is_new=is_new)
                    continue
                if tests:
                    there = dict(zip(*items, strict=True))
                    if inherit:
                        add_inherited("scan", there, inherit, above)
                    probe = node_record(path, path[-1], there, None)
                    if not all(test(probe) for _, test in tests):
                        yield None
                        continue
                if required is not None:
                    required.look([*known, *above] if known and above else known or above, path)
                attributes_of = {}
                values = items[1]
                for name, place in places:
                    value = None if place is None else values[place]
                    if type(value) not in ATOMS:
                        value = detached("scan", value, f"attribute {name!r}", path)
                    attributes_of[name] = value
                if shared is not None:
                    attributes_of.update(shared)
                elif inherit:
                    nearer = {**above, **{name: (values[place], path) for name, place in own}} if own else above
                    add_inherited("scan", attributes_of, inherit, nearer)
                record = node_record(path, path[-1], attributes_of, None)
                yield record if is_new else unchanged(record)
            except Exception as error:
                yield failed(path, error)
                if not self._wanted.collects:
                    return

    def _read(self, oids: Oids, found: Records) -> Iterator[Items | None]:
        """The names and values in records of trees; all names as long as some that are wanted were not found.

        So that what is told of those is the same for trees that have split, of which only parts are read otherwise.
        `None` for what objects are made for, as for all nodes of which a payload is taken.
        """
        start, count = 0, FIRST if self.sought.wanted else TOGETHER
        while start < len(found.starts):
            all_names = self._required is not None or bool(self.sought.wanted)
            part = slice(start, start + count)
            some = found.some(part)
            if self._wanted.taken.payload is None:
                read = self._values.read(some, self._needed, all_names=all_names)
            else:
                read = [None] * len(some.starts)
            if self._storage.is_far:
                rows = [row for row, items in enumerate(read) if items is None]
                if len(rows) > 1:
                    self._jar.hold(held_objects(self._storage, one_by_one(oids[part][rows]), some.some(rows)))
            yield from read
            start, count = start + count, TOGETHER

    def handed_down(
        self, paths: list[_Path], oids: Oids, attributes: Oids, above: list[HandedDown]
    ) -> list[HandedDown]:
        """What the children of nodes with these paths, ids, and ids of the trees of their attributes inherit."""
        inherit = self._wanted.taken.inherit
        found = self._storage.load_many(attributes)
        usual = beginning_with(TREE, found)
        since = self._wanted.since
        new = None if since is None else are_later(found.tids, since).tolist()
        handed: list[HandedDown] = []
        for row, (path, (start, stop), plain) in enumerate(zip(paths, found.bounds(), usual.tolist(), strict=True)):
            items, (given, news) = attributes_in(found.data, start, stop, inherit) if plain else None, above[row]
            if items is None or given is None or not are_sorted_names(items[0]):
                handed.append(self.handed_down_by(oids[row].tobytes(), path))
                continue
            self.sought.remember(items[0])
            own = {name: (value, path) for name, value in zip(*items, strict=True) if name in inherit}
            if new is not None:
                news = frozenset(inherit) if new[row] else news.difference(own)
            handed.append(HandedDown({**given, **own} if own else given, news))
        return handed

    def handed_down_by(self, oid: bytes, path: _Path) -> HandedDown:
        """The same of one node, read through its class."""
        inherit, since = self._wanted.taken.inherit, self._wanted.since
        try:
            node = self._jar.node(oid)
            values = nearest("scan", node, inherit, path, self.sought)
            return HandedDown(values, frozenset() if since is None else names_with_news(node, inherit, since))
        except Exception:
            return HandedDown(None, frozenset(inherit))

    def one(self, node: BaseNode, path: _Path, *, is_new: bool | None = None) -> NodeRecord | None:
        """The record of one node, read through its class, if it passes the tests, and is new where only that is given.

        `is_new` where that is known already.
        """
        wanted, tests, taken = self._wanted, self._wanted.tests, self._wanted.taken
        if is_new is None:
            is_new = wanted.since is None or has_news(node, wanted.looked_at, wanted.since)
        if not is_new and not wanted.marks:
            return None
        if tests:
            probe = record_of("scan", node, wanted.tested, path, self.sought)
            if not all(test(probe) for _, test in tests):
                return None
        record = record_of("scan", node, taken, path, self._required or self.sought)
        return record if is_new else unchanged(record)

    def are_new(self, oids: Oids, attributes: Oids, new: Flags, news: Sequence[frozenset[str]]) -> Flags:
        """Of which nodes with these ids, and ids of the trees of their attributes, something is new that is taken.

        `new` says which nodes are themselves, and `news` for which attributes something new was met above each.
        """
        since = self._wanted.since
        assert since is not None
        found = self._storage.load_many(attributes)
        new = new | are_later(found.tids, since)
        plain, told = beginning_with(TREE, found).tolist(), new.tolist()
        find, refers, begin = found.data.find, pickle.BINPERSID, len(TREE)
        for row, (start, stop) in enumerate(found.bounds()):
            if told[row] or (plain[row] and find(refers, start + begin, stop) < 0 and not (news and news[row])):
                continue
            try:
                new[row] = has_news(self._jar.node(oids[row].tobytes()), self._wanted.looked_at, since)
            except Exception:  # which is told of where the node is read
                new[row] = True
        return new
