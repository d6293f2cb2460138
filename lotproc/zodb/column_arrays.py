"""Columns of plain values as arrays: put together, cut, and back to Python's values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .record_arrays import Bytes, Numbers, rows_at

__all__ = ["ABSENT", "BOOL", "BYTES", "DATETIME", "FLOAT", "INT", "NOTHING", "STR", "Column", "column_of", "cut_out"]
__all__ += ["joined", "kind_of", "nothing"]

#: What a value is.
NOTHING, BOOL, INT, FLOAT, DATETIME, STR, BYTES, ABSENT = range(8)
_KINDS = {type(None): NOTHING, bool: BOOL, int: INT, float: FLOAT, str: STR, bytes: BYTES, dt.datetime: DATETIME}
_DTYPES: dict[int, str] = {INT: "i8", FLOAT: "f8", DATETIME: "M8[us]"}
_EPOCH, _MICROSECOND = dt.datetime(1970, 1, 1), dt.timedelta(microseconds=1)
_NO_BYTES: Bytes = np.zeros(0, np.uint8)

#: Texts of up to so many bytes are cut out together, those that are longer one by one.
LONG_TEXT = 64


class Column(NamedTuple):
    """The values of one attribute, a row for each.

    Args:
        kinds: What each is.
        bits: Those that are numbers, flags or times, as 64 bits; times are microseconds since 1970.
        text: Those that are text or bytes, one behind the other.
        ends: Where each begins in these, and at last where they end.
    """

    kinds: Bytes
    bits: Numbers
    text: Bytes
    ends: Numbers

    def kinds_there(self) -> set[int]:
        """Which kinds of values there are, but for what is none."""
        counts = np.bincount(self.kinds, minlength=ABSENT + 1)
        return set(np.flatnonzero(counts).tolist()) - {NOTHING, ABSENT}

    def rows(self, start: int, stop: int) -> Column:
        """Some rows that follow one another."""
        ends = self.ends[start : stop + 1]
        return Column(self.kinds[start:stop], self.bits[start:stop], self.text[ends[0] : ends[-1]], ends - ends[0])

    def take(self, order: Any) -> Column:
        """The rows with these numbers."""
        starts, lengths = self.ends[:-1][order], np.diff(self.ends)[order]
        text = cut_out(self.text.tobytes(), self.text, starts, lengths)
        return Column(self.kinds[order], self.bits[order], text, _ends(lengths))

    def values(self) -> list[Any]:
        """The values as Python has them."""
        values: Any = np.full(len(self.kinds), None, object)
        for kind in self.kinds_there():
            rows = np.flatnonzero(self.kinds == kind)
            some = self._values_of(kind, rows)
            if len(rows) == len(values):
                return some
            values[rows] = some
        found: list[Any] = values.tolist()
        return found

    def _values_of(self, kind: int, rows: Any) -> list[Any]:
        """The values of these rows, which are all of one kind."""
        if kind in (STR, BYTES):
            data = self.text.tobytes()
            bounds = list(zip(self.ends[rows].tolist(), self.ends[rows + 1].tolist(), strict=True))
            if kind == STR and data.isascii():
                ascii = data.decode()
                return [ascii[start:stop] for start, stop in bounds]
            texts = [data[start:stop] for start, stop in bounds]
            return [text.decode() for text in texts] if kind == STR else texts
        bits = self.bits[rows]
        found: list[Any] = (bits.astype(np.bool_) if kind == BOOL else bits.view(_DTYPES[kind])).tolist()
        return found


def nothing(count: int) -> Column:
    """A column of so many rows with no value."""
    return Column(np.zeros(count, np.uint8), np.zeros(count, np.int64), _NO_BYTES, np.zeros(count + 1, np.int64))


def joined(columns: Sequence[Column]) -> Column:
    """Columns, one below the other."""
    if len(columns) == 1:
        return columns[0]
    kinds, bits, text = (np.concatenate([column[each] for column in columns]) for each in range(3))
    return Column(kinds, bits, text, _ends(np.concatenate([np.diff(column.ends) for column in columns])))


def kind_of(value: Any) -> int | None:
    """What a value is; `None` if no column of arrays holds it."""
    kind = _KINDS.get(type(value))
    if (kind == INT and not -(2**63) <= value < 2**63) or (
        kind == DATETIME and (value.tzinfo is not None or value.fold)
    ):
        return None
    return kind


def column_of(values: Sequence[Any]) -> Column | None:
    """A column of these values; `None` where one of them is of another kind."""
    column = nothing(len(values))
    texts = [b""] * len(values)
    for row, value in enumerate(values):
        kind = kind_of(value)
        if kind is None:
            return None
        column.kinds[row] = kind
        if kind == STR:
            texts[row] = value.encode("utf-8", "surrogatepass")
        elif kind == BYTES:
            texts[row] = value
        elif kind == FLOAT:
            column.bits[row] = np.float64(value).view(np.int64)
        elif kind != NOTHING:
            column.bits[row] = (value - _EPOCH) // _MICROSECOND if kind == DATETIME else value
    return column._replace(text=np.frombuffer(b"".join(texts), np.uint8), ends=_ends(list(map(len, texts))))


def _ends(lengths: Any) -> Numbers:
    ends: Numbers = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends


def cut_out(data: Any, array: Bytes, starts: Numbers, lengths: Numbers) -> Bytes:
    """The bytes of these lengths at these places, one behind the other."""
    longest = int(lengths.max(initial=0))
    if not longest:
        return _NO_BYTES
    if longest <= LONG_TEXT and int(starts.max()) + longest <= len(array):
        cut: Bytes = rows_at(array, starts, longest)[np.arange(longest) < lengths[:, np.newaxis]]
        return cut
    places = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
    return np.frombuffer(b"".join([data[start:stop] for start, stop in places]), np.uint8)
