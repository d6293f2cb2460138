"""Values whose pickles have one length and differ in few places, as times and numpy's numbers: read many at once."""

from __future__ import annotations

import datetime as dt
import pickletools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from .column_arrays import BOOL, DATETIME, FLOAT, INT
from .record_arrays import Bytes, Flags, Numbers, rows_at

__all__ = ["FixedValue", "starts_of_items"]

#: What differs among pickles that are alike: the arguments of these.
_DIFFERS = {"SHORT_BINBYTES": 2, "BINFLOAT": 1}
_KINDS_OF_NUMPY = {"b": BOOL, "i": INT, "u": INT, "f": FLOAT}


class FixedValue:
    """What the pickles of some values have in common.

    Args:
        pickled: One of them, as it stands in a record.
        numbered: How many objects had been numbered before it there.
        value: What it says.
    """

    def __init__(self, pickled: bytes, numbered: int, value: Any) -> None:
        self.length = len(pickled)
        self._before = numbered
        self._sample = np.frombuffer(pickled, np.uint8)
        self._same = np.ones(len(pickled), np.bool_)
        self.numbers = 0
        places = []
        for name, start, stop in _operations(pickled):
            self.numbers += name == "BINPUT"
            if name in _DIFFERS:
                places.append(slice(start + _DIFFERS[name], stop))
                self._same[places[-1]] = False
        self.kind, self._dtype = _kind_of(value, [pickled[place] for place in places])
        self._place = places[0] if places else slice(0)

    def matches(self, array: Bytes, at: Numbers, ends: Numbers, numbered: Numbers) -> Flags:
        """Whether a value that is like it stands in each of these places."""
        ok: Flags = (at <= ends - self.length) & (numbered == self._before)
        found = rows_at(array, at[ok], self.length)
        ok[ok] = ((found == self._sample) | ~self._same).all(axis=1)
        return ok

    def bits(self, array: Bytes, at: Numbers) -> tuple[Numbers, Flags]:
        """The values in these places, and which of them are some."""
        block = np.ascontiguousarray(rows_at(array, at + self._place.start, self._place.stop - self._place.start))
        if self.kind == DATETIME:
            return _microseconds(block)
        numbers = block.view(self._dtype).ravel()
        as_bits = numbers.astype(np.float64).view(np.int64) if self.kind == FLOAT else numbers.astype(np.int64)
        return as_bits, np.ones(len(at), np.bool_)


def _kind_of(value: Any, differing: list[bytes]) -> tuple[int | None, Any]:
    """What a value is whose pickle differs in these bytes from others; `None` if it is left to its class."""
    if len(differing) == 1 and type(value) is dt.datetime and value.tzinfo is None and len(differing[0]) == 10:
        return DATETIME, None
    if len(differing) == 1 and isinstance(value, np.generic) and sys.byteorder == "little":
        dtype = value.dtype
        is_told = value.tobytes() == differing[0] and dtype.isnative and dtype.itemsize <= 8 and dtype.str != "<u8"
        return (_KINDS_OF_NUMPY.get(dtype.kind) if is_told else None), dtype
    return None, None


def _microseconds(block: Bytes) -> tuple[Numbers, Flags]:
    """The times that are pickled in these rows of ten bytes each, and which are some without a mark at their month."""
    high, low, month, day, hour, minute, second, *rest = block.astype(np.int64).T
    year = high << 8 | low
    micro = rest[0] << 16 | rest[1] << 8 | rest[2]
    months = (year - 1970) * 12 + month - 1
    first = months.astype("M8[M]").astype("M8[D]").astype(np.int64)
    following = (months + 1).astype("M8[M]").astype("M8[D]").astype(np.int64)
    ok = (year >= 1) & (year <= 9999) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= following - first)
    ok &= (hour < 24) & (minute < 60) & (second < 60) & (micro < 1_000_000)
    seconds = ((first + day - 1) * 24 + hour) * 3600 + minute * 60 + second
    return seconds * 1_000_000 + micro, ok


def starts_of_items(pickled: bytes) -> list[int]:
    """Where each object begins that the pickle of several, one after the other, leaves on the stack."""
    stack: list[int] = []
    marks: list[tuple[int, int]] = []
    for operation, _, at in pickletools.genops(pickled + b"."):
        place = at or 0
        if operation.name == "STOP":
            break
        if operation.name == "MARK":
            marks.append((len(stack), place))
            continue
        taken = len(operation.stack_before)
        if pickletools.stackslice in operation.stack_before:
            depth, place = marks.pop()
            del stack[depth:]
            taken -= 2
        depth = len(stack) - taken
        begin = stack[depth] if taken else place
        del stack[depth:]
        stack += [begin] * len(operation.stack_after)
    return stack


def _operations(pickled: bytes) -> Iterator[tuple[str, int, int]]:
    """The name of each operation, and where it begins and ends."""
    name, start = "", 0
    for operation, _, place in pickletools.genops(pickled + b"."):
        if name:
            yield name, start, place or 0
        name, start = operation.name, place or 0
