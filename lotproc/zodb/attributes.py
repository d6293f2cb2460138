"""What each node gives to a scan: its attributes, from their records to a `NodeRecord`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from lotdb import BaseNode

from .._detaching import ATOMS, detached
from .._jar import RecordJar
from .._missing import Missing, Sought
from .._patterns import PathPattern
from ..models import NodeRecord, OnError, node_record
from ..snapshots import Inherited, Taken, add_inherited, nearest, record_of
from .pinned import PinnedStorage
from .record_arrays import Oids, beginning_with
from .records import TREE, are_sorted_names, attributes_in

__all__ = ["AttributeReader", "Wanted"]

_Path: TypeAlias = "tuple[str, ...]"


_NOTHING = Taken()


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

    @property
    def collects(self) -> bool:
        """Whether what can't be read costs one node, and not the scan."""
        return self.on_error != "raise"


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
        self, paths: list[_Path], oids: Oids, attributes: Oids, inherited: Sequence[Inherited | None]
    ) -> Iterator[NodeRecord | Exception | None]:
        """The records of nodes with these paths, ids, and ids of the trees of their attributes.

        `None` for one that does not pass the tests; an error for one that can't be read, after which no more come
        unless errors are collected. `inherited` is what each has from above.
        """
        (names, inherit, payload), tests, required = self._wanted.taken, self._wanted.tests, self._required
        found = self._storage.load_many(attributes)
        usual = beginning_with(TREE, found) if payload is None else np.zeros(len(paths), np.bool_)
        known: Sequence[str] | None = None
        above: Inherited = {}
        own: list[tuple[str, int]] = []
        places: list[tuple[str, int | None]] = []
        for row, (path, (start, stop), plain) in enumerate(zip(paths, found.bounds(), usual.tolist(), strict=True)):
            try:
                given = inherited[row] if inherit else above
                items = attributes_in(found.data, start, stop, self._needed) if plain and given is not None else None
                if items is not None and given is not None and (items[0] != known or given is not above):
                    if not are_sorted_names(items[0]):
                        items = None
                    else:
                        known, above = items[0], given
                        self.sought.look([*known, *above], path)
                        wanted = known if names is ... else names
                        places = [(name, known.index(name) if name in known else None) for name in wanted]
                        own = [(name, known.index(name)) for name in inherit if name in known]
                if items is None:
                    yield self.one(self._jar.node(oids[row].tobytes()), path)
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
                    required.look([*(known or ()), *above], path)
                attributes_of = {}
                values = items[1]
                for name, place in places:
                    value = None if place is None else values[place]
                    if type(value) not in ATOMS:
                        value = detached("scan", value, f"attribute {name!r}", path)
                    attributes_of[name] = value
                if inherit:
                    nearer = {**above, **{name: (values[place], path) for name, place in own}} if own else above
                    add_inherited("scan", attributes_of, inherit, nearer)
                yield node_record(path, path[-1], attributes_of, None)
            except Exception as error:
                yield error
                if not self._wanted.collects:
                    return

    def handed_down(
        self, paths: list[_Path], oids: Oids, attributes: Oids, above: list[Inherited | None]
    ) -> list[Inherited | None]:
        """What the children of nodes with these paths, ids, and ids of the trees of their attributes inherit.

        `None` where that can't be read, which is told by those children that lack an attribute.
        """
        inherit = self._wanted.taken.inherit
        found = self._storage.load_many(attributes)
        usual = beginning_with(TREE, found)
        handed: list[Inherited | None] = []
        for row, (path, (start, stop), plain) in enumerate(zip(paths, found.bounds(), usual.tolist(), strict=True)):
            items, given = attributes_in(found.data, start, stop, inherit) if plain else None, above[row]
            if items is None or given is None or not are_sorted_names(items[0]):
                handed.append(self.handed_down_by(oids[row].tobytes(), path))
                continue
            self.sought.remember(items[0])
            own = {name: (value, path) for name, value in zip(*items, strict=True) if name in inherit}
            handed.append({**given, **own} if own else given)
        return handed

    def handed_down_by(self, oid: bytes, path: _Path) -> Inherited | None:
        """The same of one node, read through its class."""
        try:
            return nearest("scan", self._jar.node(oid), self._wanted.taken.inherit, path, self.sought)
        except Exception:
            return None

    def one(self, node: BaseNode, path: _Path) -> NodeRecord | None:
        """The record of one node, read through its class, if it passes the tests."""
        tests, taken = self._wanted.tests, self._wanted.taken
        if tests:
            tested = {name: name in taken.inherit for name, _ in tests}
            asked = Taken(
                tuple(name for name, inherits in tested.items() if not inherits),
                tuple(name for name, inherits in tested.items() if inherits),
            )
            probe = record_of("scan", node, asked, path, self.sought)
            if not all(test(probe) for _, test in tests):
                return None
        return record_of("scan", node, taken, path, self._required or self.sought)
