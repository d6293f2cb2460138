"""What many nodes give to a table: a block of columns, decoded from their records together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .._missing import Sought
from ..errors import DamagedDatabaseError, as_utf8
from ..models import node_record
from ..snapshots import Inherited
from .attributes import Wanted
from .column_arrays import BYTES, STR, Column, column_of, cut_out, kind_of
from .columns import END_OF_LAST, END_OF_PART, LayoutReader, Values
from .parted import PartedReader
from .pinned import PinnedStorage
from .record_arrays import Flags, Oids, Records, beginning_with
from .records import BUCKET, TREE
from .values import have_split

__all__ = ["Block", "BlockReader", "Piece"]

#: Parts of trees of attributes for which layouts are remembered.
READERS = 256

_Path: TypeAlias = "tuple[str, ...]"
_Rows: TypeAlias = "np.ndarray[Any, np.dtype[np.intp]]"


class Block(NamedTuple):
    """What some nodes give, in their order.

    Args:
        above: The paths above them.
        place: Which of these each has.
        keys: Their keys.
        layouts: Lists of attributes in the order in which a record has them.
        layout: Which of these each has.
        columns: The attributes, by name.
    """

    above: Sequence[_Path]
    place: _Rows
    keys: Sequence[str]
    layouts: Sequence[Sequence[str]]
    layout: _Rows
    columns: dict[str, Column]

    def path(self, row: int) -> _Path:
        """The path of a node."""
        return (*self.above[self.place[row]], self.keys[row])

    def layouts_of(self, start: int, stop: int) -> list[tuple[int, Sequence[str]]]:
        """The layouts of some rows, each with the first row that has it."""
        if len(self.layouts) == 1:
            return [(start, self.layouts[0])]
        numbers, firsts = np.unique(self.layout[start:stop], return_index=True)
        return sorted((start + first, self.layouts[number]) for number, first in zip(numbers, firsts, strict=True))

    @property
    def depth(self) -> int:
        """The length of the path of each."""
        return len(self.above[0]) + 1

    def keys_at(self, level: int, start: int, stop: int) -> list[str | None]:
        """The keys at one level of the paths of some nodes, as UTF-8."""
        if level > self.depth:
            return [None] * (stop - start)
        if level == self.depth:
            keys = self.keys[start:stop]
            return list(keys if "".join(keys).isascii() else map(as_utf8, keys))
        above = self.keys_above(level)
        return [above[place] for place in self.place[start:stop].tolist()]

    def keys_above(self, level: int) -> list[str]:
        """The keys at one level of the paths above the nodes, as UTF-8."""
        return [as_utf8(path[level - 1]) for path in self.above]


class Piece(NamedTuple):
    """Rows of a block that follow one another."""

    block: Block
    start: int
    stop: int


class _HandedDown:
    """An inherited attribute, as those have it that are below each of some nodes."""

    def __init__(self, name: str, inherited: Sequence[Inherited | None]) -> None:
        found = [None if given is None or name not in given else given[name][0] for given in inherited]
        are_told = [
            given is not None and kind_of(value) is not None for given, value in zip(inherited, found, strict=True)
        ]
        column = column_of([value if is_told else None for value, is_told in zip(found, are_told, strict=True)])
        assert column is not None
        self._column, self.are_told = column, np.array(are_told, np.bool_)
        self.text = column.text.tobytes()

    def hand(self, values: Values, rows: _Rows, place: _Rows) -> None:
        """Note what is handed down to these rows."""
        kinds, bits, _, ends = self._column
        values.kinds[rows], values.bits[rows] = kinds[place], bits[place]
        values.starts[rows], values.lengths[rows] = ends[place], ends[place + 1] - ends[place]


class BlockReader:
    """Makes blocks of nodes.

    Args:
        storage: The records of the database.
        wanted: What is taken of each node, and the tests of those that are.
        sought: What looks for names that no node has.
    """

    def __init__(self, storage: PinnedStorage, wanted: Wanted, sought: Sought) -> None:
        taken = wanted.taken
        self._storage, self._sought, self._inherit = storage, sought, taken.inherit
        self._wanted = None if taken.names is ... else tuple(dict.fromkeys([*taken.names, *taken.inherit]))
        self._tests, self._tested = wanted.tests, tuple(wanted.tested.named)
        self._required = frozenset(taken.asked_for) if wanted.missing == "error" else frozenset()
        self._reader = LayoutReader()
        self._parted = PartedReader()
        #: What reads parts of trees, by the key at which they begin, and whether they are the last.
        self._readers: dict[tuple[str | None, bool], LayoutReader] = {}

    def read(
        self,
        above: Sequence[_Path],
        place: _Rows,
        keys: Sequence[str],
        attributes: Oids,
        inherited: Sequence[Inherited | None],
    ) -> tuple[Block, Flags, Flags]:
        """A block of those nodes that can be read together and pass the tests; which these are, and which can't be.

        Args:
            above: The paths above the nodes.
            place: Which of these each has.
            keys: Their keys.
            attributes: The ids of the trees of their attributes.
            inherited: What is handed down from each of those above, where anything is wanted of that.
        """
        records = self._storage.load_many(attributes)
        count = len(keys)
        names_read = None if self._wanted is None else {*self._wanted, *self._tested}
        columns = {
            name: Values(count, exact=name in self._tested)
            for name in dict.fromkeys([*(self._wanted or self._inherit), *self._tested])
        }
        handed = {name: (_HandedDown(name, inherited), np.zeros(count, np.bool_)) for name in self._inherit}
        layouts: list[Sequence[str]] = []
        layout = np.full(count, -1, np.intp)
        for names, rows in self._found(records, columns, names_read):
            more = [name for name in handed if name not in names]
            for name in more:
                rows = rows[handed[name][0].are_told[place[rows]]]
            rows = self._looked_at(names, above, rows, place, inherited)
            for name in more:
                handed[name][0].hand(columns[name], rows, place[rows])
                handed[name][1][rows] = True
            layout[rows] = len(layouts)
            layouts.append([*names, *more] if self._wanted is None else self._wanted)
        told = layout >= 0
        while True:
            made = {name: _column(values, told, records, handed.get(name)) for name, values in columns.items()}
            is_text = [_are_text(column) for column in made.values() if (column.kinds == STR).any()]
            if all(flags is None for flags in is_text):
                break
            told[told] = np.logical_and.reduce([flags for flags in is_text if flags is not None])
        kept, left = told, ~told
        if self._tests:
            passed, raised = self._tested_all(made)
            kept, left = told.copy(), ~told
            kept[told], left[told] = passed, raised
            made = {name: _column(values, kept, records, handed.get(name)) for name, values in columns.items()}
        if self._wanted is not None:
            made = {name: made[name] for name in self._wanted}
        if kept.all():
            return Block(above, place, keys, layouts, layout, made), kept, left
        some = [key for key, is_kept in zip(keys, kept.tolist(), strict=True) if is_kept]
        return Block(above, place[kept], some, layouts, layout[kept], made), kept, left

    def _found(
        self, records: Records, columns: dict[str, Values], wanted: Collection[str] | None
    ) -> Iterator[tuple[list[str], _Rows]]:
        """Read attributes into columns; yields the names that there are, and the rows that have them."""
        left = np.ones(len(records.starts), np.bool_)
        for names, found in self._reader.read(records, columns, wanted):
            left[found] = False
            yield names, found
        if not left.any() or isinstance(records.data, bytes):  # in which no other records lie
            return
        left[left] = beginning_with(TREE, records.some(left))
        left[left] = have_split(records.some(left))
        rows = np.flatnonzero(left)
        if self._sought.wanted:  # which remembers all names
            wanted = None
        for alike, bounds, parts in self._parted.read(records.some(rows)):
            try:
                parted = self._read_parts(records, rows[alike], bounds, parts, columns, wanted)
            except DamagedDatabaseError:  # which is told of where each is read by itself
                continue
            if parted is not None:
                yield parted

    def _read_parts(
        self,
        records: Records,
        rows: _Rows,
        bounds: Sequence[str],
        parts: Oids,
        columns: dict[str, Values],
        wanted: Collection[str] | None,
    ) -> tuple[list[str], _Rows] | None:
        """Read the trees in these rows, which have split at these keys; of each part those that are of one layout.

        A sixth of the time that records take.
        """
        numbers = range(len(bounds) + 1)
        some = numbers if wanted is None else sorted({bisect_right(bounds, name) for name in wanted})
        all_names: list[str] = []
        read: list[dict[str, Values]] = []
        have = np.ones(len(rows), np.bool_)
        for number in some:
            lowest = bounds[number - 1] if number else None
            is_last = number == len(bounds)
            buckets = self._storage.load_many(parts[:, number])
            if buckets.data is not records.data or len(self._readers) > READERS:
                return None
            reader = self._readers.setdefault(
                (lowest, is_last), LayoutReader(BUCKET, END_OF_LAST if is_last else END_OF_PART)
            )
            values = {name: Values(len(rows), exact=name in self._tested) for name in columns}
            names, found = next(reader.read(buckets, values, self._wanted and columns), ([], rows[:0]))
            if (
                not len(found)
                or (number and names[0] < bounds[number - 1])
                or not (is_last or names[-1] < bounds[number])
            ):
                return None
            have &= np.isin(np.arange(len(rows)), found)
            all_names += names
            read.append({name: each for name, each in values.items() if name in names})
        for values in read:
            for name, each in values.items():
                columns.setdefault(name, Values(len(records.starts))).put(rows, each)
        return all_names, rows[have]

    def _tested_all(self, columns: dict[str, Column]) -> tuple[Flags, Flags]:
        """Which of some nodes pass the tests, and for which these raise: they do so again where they are read."""
        count = len(next(iter(columns.values())).kinds)
        passed, raised = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        for row, values in enumerate(zip(*(columns[name].values() for name in self._tested), strict=True)):
            probe = node_record((), "", dict(zip(self._tested, values, strict=True)), None)
            try:
                passed[row] = all(test(probe) for _, test in self._tests)
            except Exception:
                raised[row] = True
        return passed, raised

    def _looked_at(
        self,
        names: Sequence[str],
        above: Sequence[_Path],
        rows: _Rows,
        place: _Rows,
        inherited: Sequence[Inherited | None],
    ) -> _Rows:
        """The rows of nodes with attributes of these names that have what each has to have."""
        places = np.unique(place[rows]).tolist() if inherited else []
        for each in places if self._sought.wanted else places[:1]:
            self._sought.look([*names, *(inherited[each] or ())], above[each])
        if not inherited and len(rows):
            self._sought.look(names, ())
        if not self._required.difference(names):
            return rows
        if not inherited:
            return rows[:0]
        have = np.array([self._required <= {*names, *(given or ())} for given in inherited], np.bool_)
        return rows[have[place[rows]]]


def _column(values: Values, told: Flags, records: Records, handed: tuple[_HandedDown, Flags] | None) -> Column:
    """The column of the values in those rows that are told."""
    kinds, bits, starts, lengths = values.kinds, values.bits, values.starts, values.lengths
    is_above = None if handed is None else handed[1]
    if not told.all():
        kinds, bits, starts, lengths = kinds[told], bits[told], starts[told], lengths[told]
        is_above = None if is_above is None else is_above[told]
    is_text = (kinds == STR) | (kinds == BYTES)
    lengths = np.where(is_text, lengths, 0)
    ends = np.zeros(len(kinds) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    if handed is None or is_above is None or not is_above.any():
        return Column(kinds, bits, cut_out(records.data, records.array, starts, lengths), ends)
    text = np.empty(ends[-1], np.uint8)
    from_above = np.repeat(is_above, lengths)
    data = handed[0].text
    text[from_above] = cut_out(data, np.frombuffer(data, np.uint8), starts[is_above], lengths[is_above])
    text[~from_above] = cut_out(records.data, records.array, starts[~is_above], lengths[~is_above])
    return Column(kinds, bits, text, ends)


def _are_text(column: Column) -> Flags | None:
    """Which rows of a column hold nothing that is no UTF-8; `None` if none does."""
    if column.text.max(initial=0) < 0x80:
        return None
    data, ends = column.text.tobytes(), column.ends.tolist()
    are = np.ones(len(column.kinds), np.bool_)
    for row in np.flatnonzero(column.kinds == STR).tolist():
        try:
            data[ends[row] : ends[row + 1]].decode()
        except UnicodeDecodeError:
            are[row] = False
    return None if are.all() else are
