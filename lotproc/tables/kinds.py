"""What kind of value each column of a table holds, and where it first came: Arrow would cut some mixtures to fit."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

from ..errors import ArgumentTypeError, as_text, got
from .rows import PLAIN, Path
from .times import kind_of_time

__all__ = ["EXACT", "Kinds", "kind_of"]

#: What a column holds, by the first of these that a value is an instance of.
KINDS = (bool, int, float, str, bytes, list, dict, datetime.datetime, datetime.date, datetime.timedelta)
#: The names of the kinds of most values, since looking for them takes a while.
_KIND_OF_PLAIN = {kind: kind.__name__ for kind in (bool, int, float, str, bytes, list, dict)}

#: All ints up to this one, and down to its negative, are floats as well.
EXACT = 2**53
#: What may be true of a number, and which of these can't be in one column: the first is to blame.
_LARGE, _UNSIGNED, _NEGATIVE, _FLOAT = "more than 53 bits", "more than int64 holds", "less than 0", "a float"
_CLASHES = ((_LARGE, _FLOAT), (_UNSIGNED, _NEGATIVE))
_EXPECTED = {_LARGE: "an int of at most 53 bits beside a float", _UNSIGNED: "an int64 beside one that is less than 0"}


def kind_of(value: Any) -> str:
    """What a table calls a value."""
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return kind_of_time(value)
    return next((kind.__name__ for kind in KINDS if isinstance(value, kind)), type(value).__name__)


class Kinds:
    """The kinds of values that the columns of a table hold.

    Args:
        name: The function that the user called, for errors.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.with_numpy: set[str] = set()  # columns with times that Python can't hold
        self._first: dict[tuple[str, str], tuple[str, Path]] = {}
        #: What is true of numbers, and of which it was first.
        self._numbers: dict[tuple[str, str], dict[str, tuple[Any, Path]]] = {}

    def is_unsigned(self, column: str) -> bool:
        """Whether a column has ints that only uint64 holds."""
        return _UNSIGNED in self._numbers.get((column, ""), ())

    def check(self, column: str, value: Any, path: Path, inside: str = "") -> None:
        """Refuse a value that can't be in a column with those before it."""
        if value is None:
            return
        place = column, inside
        kind = _KIND_OF_PLAIN.get(type(value)) or self._kind(place, value, path)
        first, first_path = self._first.setdefault(place, (kind, path))
        if kind != first and {kind, first} != {"int", "float"}:
            raise self._misfit(place, value, path, f"{first}, as at {as_text(first_path)}", "make them one kind first")
        if kind == "float":
            if _FLOAT not in self._numbers.get(place, ()):
                self._check_number(place, value, path)
        elif kind == "int":
            if not 0 <= value <= EXACT:
                self._check_number(place, value, path)
        elif kind == "list":
            # One of each type is enough, where they can't hold others and have no time zone; of ints those at the ends.
            one_each = {type(item): item for item in value}
            ints = [item for item in value if type(item) is int] if int in one_each else ()
            ends = (min(ints), max(ints)) if ints else ()
            for item in (*one_each.values(), *ends) if PLAIN.issuperset(one_each) else value:
                self.check(column, item, path, f"{inside}[]")
        elif kind == "dict":
            for key, item in value.items():
                self.check(column, item, path, f"{inside}[{key!r}]")

    def _what(self, place: tuple[str, str]) -> str:
        column, inside = place
        return f"{self.name}: the column {column!r}{inside and f' (in {inside})'}"

    def _misfit(
        self, place: tuple[str, str], value: Any, path: Path, expected: str, hint: str | None = None
    ) -> ArgumentTypeError:
        return ArgumentTypeError(self._what(place), path=path, expected=expected, got=got(value), hint=hint)

    def _kind(self, place: tuple[str, str], value: Any, path: Path) -> str:
        """The kind of a value that is none of the most usual ones."""
        kind = kind_of(value)
        if isinstance(value, np.generic):
            self.with_numpy.add(place[0])
        if kind == "datetime" and getattr(value, "tzinfo", None) is not None:
            kind = "datetime with a time zone"
            if getattr(value, "nanosecond", 0):  # of pandas
                raise ArgumentTypeError(
                    self._what(place),
                    f"holds {got(value)}, with nanoseconds and a time zone, of which Arrow would drop one",
                    path=path,
                    hint="make it UTC without a zone, or round it, first",
                )
        if kind == "time" and value.tzinfo is not None:
            raise ArgumentTypeError(
                self._what(place),
                f"holds {got(value)}, a time of day with a time zone, which Arrow would drop",
                path=path,
                hint="make it a datetime, or text, first",
            )
        return kind

    def _check_number(self, place: tuple[str, str], number: Any, path: Path) -> None:
        """Refuse a number that can't be in a place of a column with those before it, or in any."""
        largest = 2**63 if place[1] else 2**64  # Arrow finds no uint64 inside of lists and dicts
        if isinstance(number, float):
            true = [_FLOAT]
        elif not -(2**63) <= number < largest:
            raise self._misfit(place, number, path, "an int64" if place[1] else "an int64 or uint64")
        else:
            limits = {_LARGE: abs(number) > EXACT, _UNSIGNED: number >= 2**63, _NEGATIVE: number < 0}
            true = [note for note, is_true in limits.items() if is_true]
        noted = self._numbers.setdefault(place, {})
        for note in true:
            noted.setdefault(note, (number, path))
        for to_blame, other in _CLASHES:
            if to_blame in noted and other in noted:
                (number, path), (_, beside) = noted[to_blame], noted[other]
                expected = f"{_EXPECTED[to_blame]}, as at {as_text(beside)}"
                raise self._misfit(place, number, path, expected, "make them text, or one kind, first")
