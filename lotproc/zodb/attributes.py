"""What each node gives to a scan: its attributes, from their records to a `NodeRecord`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Literal, TypeAlias

import numpy as np
from lotdb import BaseNode

from .._detaching import ATOMS, detached
from .._jar import RecordJar
from .._missing import Missing, Sought
from ..models import NodeRecord, OnError, node_record
from ..snapshots import Payload, looked_for, record_of
from .pinned import PinnedStorage
from .record_arrays import Oids, beginning_with
from .records import TREE, are_sorted_names, attributes_in

__all__ = ["AttributeReader", "Wanted"]

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
        depth: Give the nodes at this depth, or at the deepest; `None` gives the leaves.
        on_error: As `snapshot` takes it.
        missing: The same.
        is_part: Whether only a part of the tree is scanned.
    """

    names: tuple[str, ...] | EllipsisType = ()
    payload: Payload = None
    key: Callable[[str], object] | None = None
    tests: tuple[tuple[str, Callable[[Any], bool]], ...] = ()
    skip_key: Callable[[str], object] | None = None
    skip_node: Callable[[BaseNode], object] | None = None
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
        names, tested = looked_for(wanted.names, wanted.payload), [name for name, _ in wanted.tests]
        self.sought = sought or Sought("scan", [*names, *tested], is_part=wanted.is_part)
        self._required = Sought("scan", names, "error") if wanted.missing == "error" else None
        self._needed = None if wanted.names is ... else frozenset([*wanted.names, *tested])
        self._unasked = frozenset(names) - frozenset(tested)

    def end(self, *, gave: bool) -> None:
        """The scan is at its end: tell of names that no node had, if any was given, and else of those in tests."""
        self.sought.end(but=() if gave else self._unasked)

    def many(self, paths: list[_Path], oids: Oids, attributes: Oids) -> Iterator[NodeRecord | Exception | None]:
        """The records of nodes with these paths, ids, and ids of the trees of their attributes.

        `None` for one that does not pass the tests; an error for one that can't be read, after which no more come
        unless errors are collected.
        """
        names, tests, required = self._wanted.names, self._wanted.tests, self._required
        found = self._storage.load_many(attributes)
        usual = beginning_with(TREE, found) if self._wanted.payload is None else np.zeros(len(paths), np.bool_)
        known: Sequence[str] | None = None
        places: list[tuple[str, int | None]] = []
        for row, (path, (start, stop), plain) in enumerate(zip(paths, found.bounds(), usual.tolist(), strict=True)):
            try:
                items = attributes_in(found.data, start, stop, self._needed) if plain else None
                if items is not None and items[0] != known:
                    if not are_sorted_names(items[0]):
                        items = None
                    else:
                        known = items[0]
                        self.sought.look(known, path)
                        wanted = known if names is ... else names
                        places = [(name, known.index(name) if name in known else None) for name in wanted]
                if items is None:
                    yield self.one(self._jar.node(oids[row].tobytes()), path)
                    continue
                if tests:
                    probe = node_record(path, path[-1], dict(zip(*items, strict=True)), None)
                    if not all(test(probe) for _, test in tests):
                        yield None
                        continue
                if required is not None:
                    required.look(known or (), path)
                attributes_of = {}
                values = items[1]
                for name, place in places:
                    value = None if place is None else values[place]
                    if type(value) not in ATOMS:
                        value = detached("scan", value, f"attribute {name!r}", path)
                    attributes_of[name] = value
                yield node_record(path, path[-1], attributes_of, None)
            except Exception as error:
                yield error
                if not self._wanted.collects:
                    return

    def one(self, node: BaseNode, path: _Path) -> NodeRecord | None:
        """The record of one node, read through its class, if it passes the tests."""
        tests = self._wanted.tests
        if tests:
            probe = record_of("scan", node, tuple(name for name, _ in tests), None, path, self.sought)
            if not all(test(probe) for _, test in tests):
                return None
        sought = self._required or self.sought
        return record_of("scan", node, self._wanted.names, self._wanted.payload, path, sought)
