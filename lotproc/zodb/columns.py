"""Columns of values straight from the records of many nodes' attributes, with no object for each of them.

The pickle of a small BTree is its names and values in turn. So many records with the same names are read together, one
value after the other: where it stands in each record is an array of places, which goes on by as many bytes as each
value has. What is no number, text, flag, time or nothing, or stands in an unusual record, is left to its class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from .._jar import Items
from .column_arrays import ABSENT, BOOL, BYTES, DATETIME, FLOAT, INT, NOTHING, STR
from .fixed_values import FixedValue, starts_of_items
from .record_arrays import Bytes, Flags, Numbers, Records, beginning_with, rows_at
from .records import EMPTY_TREE, TREE, are_sorted_names, items_in, pickled_text

__all__ = ["END_OF_LAST", "END_OF_PART", "LayoutReader", "Values"]

#: Layouts, that is lists of names, that are remembered, and records that may turn out to have none, read together.
LAYOUTS, TRIES = 64, 4
#: Looks that values of one length may have in one place of a layout, and how often they are looked for.
LOOKS, SEARCHES = 8, 64

#: By its opcode: what a value is, how many bytes follow, and how numpy reads them.
_NUMBERS: dict[int, tuple[int, int, str]] = {
    ord("N"): (NOTHING, 0, ""),
    0x88: (BOOL, 0, ""),
    0x89: (BOOL, 0, ""),
    ord("K"): (INT, 1, "u1"),
    ord("M"): (INT, 2, "<u2"),
    ord("J"): (INT, 4, "<i4"),
    ord("G"): (FLOAT, 8, ">i8"),
}
#: By its opcode: what a text is, and how many bytes tell its length.
_TEXTS = {ord("X"): (STR, 4), ord("C"): (BYTES, 1), ord("B"): (BYTES, 4)}
#: What follows the names and values in the record of a tree, of the last part of one, and of one that another follows;
#: with the number of each object at `_`, and any bytes at `*`.
END_OF_TREE, END_OF_LAST, END_OF_PART = b"q_\x85q_\x85q_\x85q_.", b"q_\x85q_.", b"q_C\x08********q_h\x00\x86q_Q\x86q_."
#: The same of a tree that `zodb/encoding` made: there names and values alone have numbers, from 0 on.
END_OF_SHORT = b"q_\x85\x85\x85."
_LONG, _TRUE, _NUMBERED = 0x8A, 0x88, ord("q")
#: What stands behind bytes that are the id in a reference.
_REFERENCE = (ord("c"), ord("h"))

_Rows: TypeAlias = "np.ndarray[Any, np.dtype[np.intp]]"


class Values:
    """The values of one attribute in some rows.

    Args:
        count: How many rows.
        exact: Whether tests look at them, which may ask for more than tables show: the types of numpy's numbers.
    """

    def __init__(self, count: int, *, exact: bool = False) -> None:
        self.exact = exact
        #: What each is.
        self.kinds: Bytes = np.full(count, ABSENT, np.uint8)
        #: Those that are numbers, flags or times.
        self.bits: Numbers = np.zeros(count, np.int64)
        #: Where those begin that are text, and how many bytes each has.
        self.starts: Numbers = np.zeros(count, np.int64)
        self.lengths: Numbers = np.zeros(count, np.int64)

    def put(self, rows: _Rows, others: Values) -> None:
        """Put those of as many other rows into these."""
        for mine, theirs in zip(self._arrays, others._arrays, strict=True):
            mine[rows] = theirs

    @property
    def _arrays(self) -> tuple[Any, ...]:
        return self.kinds, self.bits, self.starts, self.lengths


class _Places:
    """The places at which the same thing comes next in many records, each in a row of its own.

    Args:
        records: The records.
        rows: Which of them.
        numbered: How many objects each has numbered before.
    """

    def __init__(self, records: Records, rows: _Rows, numbered: int) -> None:
        self.array = records.array
        self.rows = rows
        self.at = records.starts[rows]
        self.ends = self.at + records.lengths[rows]
        #: How many objects each pickle has numbered so far.
        self.numbered = np.full(len(rows), numbered, np.int64)

    def keep(self, ok: Flags) -> None:
        """Leave the others out."""
        if not ok.all():
            self.rows, self.at, self.ends, self.numbered = (
                each[ok] for each in (self.rows, self.at, self.ends, self.numbered)
            )

    def go_past(self, expected: bytes, numbers: Sequence[int] = (), others: Sequence[int] = ()) -> None:
        """Go past these bytes; in these places among them stand the numbers that the pickle gives next, or any."""
        self.keep(self.at <= self.ends - len(expected))
        found = rows_at(self.array, self.at, len(expected))
        differs = found != np.frombuffer(expected, np.uint8)
        for more, place in enumerate(numbers):
            differs[:, place] = found[:, place] != self.numbered + more
        if others:
            differs[:, others] = False
        if differs.any():
            self.keep(~differs.any(axis=1))
        self.at, self.numbered = self.at + len(expected), self.numbered + len(numbers)

    def _are_numbered(self, at: Numbers, numbered: Numbers) -> Flags:
        found = rows_at(self.array, at, 2)
        are: Flags = (found[:, 0] == _NUMBERED) & (found[:, 1] == numbered)
        return are

    def go_past_value(self, values: Values | None, looks: list[FixedValue]) -> _Rows:
        """Go past a value, and note it where it is wanted; returns the rows of those that this can't be said of."""
        self.keep(self.at < self.ends)
        opcodes = self.array[self.at]
        kept = np.zeros(len(opcodes), np.bool_)
        for opcode in np.flatnonzero(np.bincount(opcodes)).tolist():
            some = np.flatnonzero(opcodes == opcode)
            if opcode in _NUMBERS:
                kept[self._numbers(opcode, some, values)] = True
                continue
            if opcode == _LONG:
                kept[self._long_numbers(some, values)] = True
                continue
            if opcode in _TEXTS:
                texts = self._texts(opcode, some, values)
                kept[texts] = True
                some = some[~kept[some]]
            for look in looks if len(some) else ():
                alike = self._alike(look, some, values)
                kept[alike] = True
                some = some[~kept[some]]
        others = self.rows[~kept]
        self.keep(kept)
        return others

    def _numbers(self, opcode: int, some: _Rows, values: Values | None) -> _Rows:
        kind, width, dtype = _NUMBERS[opcode]
        at = self.at[some] + 1
        ok = at <= self.ends[some] - width
        some, at = some[ok], at[ok]
        if values is not None:
            values.kinds[self.rows[some]] = kind
            values.bits[self.rows[some]] = self._read(at, width, dtype) if dtype else int(opcode == _TRUE)
        self.at[some] = at + width
        return some

    def _read(self, at: Numbers, width: int, dtype: str) -> Numbers:
        return np.ascontiguousarray(rows_at(self.array, at, width)).view(dtype).ravel().astype(np.int64)

    def _long_numbers(self, some: _Rows, values: Values | None) -> _Rows:
        """Numbers of more than four bytes: those of up to eight."""
        some = some[self.at[some] <= self.ends[some] - 2]
        widths = self.array[self.at[some] + 1].astype(np.int64)
        ends = self.at[some] + 2 + widths
        ok = (widths >= 1) & (widths <= 8) & (ends <= self.ends[some])
        some, widths, ends = some[ok], widths[ok], ends[ok]
        if values is not None:
            values.kinds[self.rows[some]] = INT
            # The last of eight bytes has the sign; those that stand before the number are shifted out.
            values.bits[self.rows[some]] = self._read(ends - 8, 8, "<i8") >> (64 - 8 * widths)
        self.at[some] = ends
        return some

    def _texts(self, opcode: int, some: _Rows, values: Values | None) -> _Rows:
        kind, width = _TEXTS[opcode]
        some = some[self.at[some] + 1 <= self.ends[some] - width]
        starts = self.at[some] + 1 + width
        lengths = self._read(starts - width, width, f"<u{width}")
        ok = starts + lengths <= self.ends[some] - 3  # a number and something more follow
        some, starts, lengths = some[ok], starts[ok], lengths[ok]
        stops = starts + lengths
        ok = self._are_numbered(stops, self.numbered[some])
        if kind == BYTES:
            ok &= ~np.isin(self.array[stops + 2], _REFERENCE)
        if not ok.all():
            some, starts, lengths, stops = some[ok], starts[ok], lengths[ok], stops[ok]
        if values is not None:
            rows = self.rows[some]
            values.kinds[rows] = kind
            values.starts[rows], values.lengths[rows] = starts, lengths
        self.at[some] = stops + 2
        self.numbered[some] += 1
        return some

    def _alike(self, look: FixedValue, some: _Rows, values: Values | None) -> _Rows:
        """Values that have this look."""
        if values is not None and look.kind is None:
            return some[:0]
        some = some[look.matches(self.array, self.at[some], self.ends[some], self.numbered[some])]
        if values is not None and look.kind is not None:
            bits, ok = look.bits(self.array, self.at[some])
            some, bits = some[ok], bits[ok]
            values.kinds[self.rows[some]] = look.kind
            values.bits[self.rows[some]] = bits
        self.at[some] += look.length
        self.numbered[some] += look.numbers
        return some


def _places_of(byte: bytes, text: bytes) -> list[int]:
    return [place for place, each in enumerate(text) if each == byte[0]]


def _chosen(rows: _Rows, which: Flags) -> _Rows:
    chosen: _Rows = rows[which]
    return chosen


class _Layout:
    """Records of attributes with the same names.

    Args:
        names: The names.
        beginning: What the records begin with: as those of trees, or of parts of trees.
        end: What follows the names and values.
    """

    def __init__(self, names: Sequence[str], beginning: bytes, end: bytes) -> None:
        self.names, self.end = list(names), end
        self._beginning = beginning
        self._begin = beginning + b"\x80\x03" + (b"(" if len(names) > 1 else b"")
        self._end = (b"t" if len(names) > 1 else b"\x86") + end
        self._keys = [pickled_text(name) + b"q_" for name in names]
        self._looks: list[list[FixedValue]] = [[] for _ in names]
        self._searches = 0

    def read(self, records: Records, rows: _Rows, columns: dict[str, Values]) -> _Rows:
        """Read the attributes of some records into columns; returns the rows of those that have this layout."""
        if not self.names:
            return _chosen(rows, beginning_with(EMPTY_TREE, records)[rows] & (records.lengths[rows] == len(EMPTY_TREE)))
        places = _Places(records, rows, 0 if self.end is END_OF_SHORT else 1)
        places.go_past(self._begin)
        for name, key, looks in zip(self.names, self._keys, self._looks, strict=True):
            places.go_past(key, [len(key) - 1])
            before = places.rows, places.at.copy(), places.numbered.copy()
            values = columns.get(name)
            others = places.go_past_value(values, looks)
            is_exact = values is not None and values.exact
            if len(others) and len(looks) < LOOKS and self._searches < SEARCHES:
                self._searches += 1
                row = int(np.flatnonzero(before[0] == others[0])[0])
                look = self._look(records, int(others[0]), int(before[1][row]), int(before[2][row]))
                if look is not None and (look.kind == DATETIME or not is_exact):
                    looks.append(look)
                    return self.read(records, rows, columns)
        places.go_past(self._end, _places_of(b"_", self._end), _places_of(b"*", self._end))
        return _chosen(places.rows, places.at == places.ends)

    def _look(self, records: Records, row: int, at: int, numbered: int) -> FixedValue | None:
        """What a value looks like that stands in this place of a record."""
        start = int(records.starts[row])
        stop = start + int(records.lengths[row])
        found = _items_in(records.data, start, stop, self._beginning)
        begin = start + len(self._begin)
        if found is None or list(found[0]) != self.names:
            return None
        try:
            starts = [begin + each for each in starts_of_items(records.data[begin : stop - len(self._end)])]
        except Exception:  # of bytes that are no pickle
            return None
        starts.append(stop - len(self._end))
        if len(starts) != 2 * len(self.names) + 1 or at not in starts[1::2]:
            return None
        place = starts.index(at)
        return FixedValue(records.data[at : starts[place + 1]], numbered, found[1][place // 2])


class LayoutReader:
    """Reads the records of attributes, and learns their layouts as it goes.

    Args:
        beginning: What they begin with: as those of trees, or of parts of trees.
        end: How they end.
    """

    def __init__(self, beginning: bytes = TREE, end: bytes = END_OF_TREE) -> None:
        self._beginning, self._end = beginning, end
        self._layouts: list[_Layout] = []

    def read(
        self, records: Records, columns: dict[str, Values], wanted: Iterable[str] | None
    ) -> Iterator[tuple[list[str], _Rows]]:
        """Read the attributes with these names, or all; yields the names that there are, and the rows that have them.

        What is left out has to be read by its class.
        """
        left = np.arange(len(records.starts))
        tried = tries = 0
        while len(left):
            if tried == len(self._layouts):
                if not tries:
                    left = left[beginning_with(self._beginning, records.some(left))]
                if not len(left) or tries == TRIES or tried == LAYOUTS:
                    return
                tries += 1
                layout = self._learned(records, int(left[0]))
                if layout is None:
                    left = left[1:]
                    continue
                self._layouts.append(layout)
            layout = self._layouts[tried]
            tried += 1
            for name in layout.names if wanted is None else ():
                columns.setdefault(name, Values(len(records.starts)))
            found = layout.read(records, left, columns)
            if len(found):
                for name in columns.keys() - layout.names:  # where another layout was tried that fitted up to here
                    columns[name].kinds[found] = ABSENT
                yield layout.names, found
                left = np.setdiff1d(left, found, assume_unique=True)

    def _learned(self, records: Records, row: int) -> _Layout | None:
        start = int(records.starts[row])
        found = _items_in(records.data, start, start + int(records.lengths[row]), self._beginning)
        names = None if found is None else list(found[0])
        if (
            names is None
            or (not names and self._beginning != TREE)
            or not are_sorted_names(names)
            or len(set(names)) < len(names)
        ):
            return None
        is_short = self._end is END_OF_TREE and records.one(row).endswith(END_OF_SHORT[2:])
        end = END_OF_SHORT if is_short else self._end
        is_known = any(layout.names == names and layout.end == end for layout in self._layouts)
        return None if is_known else _Layout(names, self._beginning, end)


def _items_in(data: Any, start: int, stop: int, beginning: bytes) -> Items | None:
    found = items_in(data, start, stop, beginning)
    return None if found is None else found[0]
