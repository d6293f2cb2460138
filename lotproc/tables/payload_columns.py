"""Columns of a table that tell of arrays, in place of these: their shape, their seconds, their mean and peak."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .._items import path_of
from .._missing import Sought
from ..errors import ArgumentError, ArgumentTypeError, got
from ..file_models import FileFailure
from ..models import Failure, ProcessResult, Write
from ..payloads import PayloadHandle
from .rows import as_written

__all__ = ["PayloadColumns", "Statistics", "checked_statistics", "described", "described_names"]

#: How they are given: the statistics of each attribute that is an array.
PayloadColumns: TypeAlias = "Mapping[str, str | Sequence[str]] | None"
Statistics: TypeAlias = "Mapping[str, tuple[str, ...]]"


def _peak(array: Any) -> Any:
    return max(abs(array.min().item()), abs(array.max().item()))


#: What is known of an array without reading it, and what of its numbers; that of no numbers is missing.
SHAPES: dict[str, Callable[[Any], Any]] = {
    "shape": lambda array: list(array.shape),
    "dtype": lambda array: str(np.dtype(array.dtype)),
    "seconds": lambda array: array.shape[0] / rate if (rate := getattr(array, "samplerate_hz", None)) else None,
}
NUMBERS: dict[str, Callable[[Any], Any]] = {
    "mean": lambda array: float(np.mean(array, dtype=np.float64)),
    "std": lambda array: float(np.std(array, dtype=np.float64)),
    "min": lambda array: array.min().item(),
    "max": lambda array: array.max().item(),
    "peak": _peak,
}


def checked_statistics(name: str, columns: PayloadColumns) -> Statistics:
    """Refuse what names no statistics."""
    if columns is None:
        return {}
    known = (*SHAPES, *NUMBERS)
    if not isinstance(columns, Mapping) or not all(isinstance(attribute, str) for attribute in columns):
        expected = "a mapping from attributes to statistics, as {'data': ['seconds', 'peak']}"
        raise ArgumentTypeError(f"{name}: payload_columns", expected=expected, got=got(columns))
    checked = {}
    for attribute, given in columns.items():
        several = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, (list, tuple)) else (given,)
        if wrong := [statistic for statistic in several if not isinstance(statistic, str) or statistic not in known]:
            expected = f"some of {', '.join(map(repr, known))}"
            raise ArgumentError(f"{name}: payload_columns of {attribute!r}", expected=expected, got=got(wrong[0]))
        checked[attribute] = several
    return checked


def described_names(names: Iterable[str], statistics: Statistics) -> list[str]:
    """The attributes that records have, once they are described."""
    found: list[str] = []
    for name in names:
        found += [f"{name}_{statistic}" for statistic in statistics[name]] if name in statistics else [name]
    return found


def described(name: str, records: Iterable[Any], statistics: Statistics) -> Iterator[Any]:
    """The same records, with statistics in place of arrays. It reads one of these at a time.

    Warns at the end of attributes that no record had.

    Raises:
        ArgumentError: An attribute has the name of such a column.
        ArgumentTypeError: What is to be described is no array of numbers.
    """
    sought = Sought(name, statistics, said="payload_columns: no record had an attribute")
    for record in records:
        if isinstance(record, ProcessResult):
            record = as_written(name, record)
        attributes = getattr(record, "attributes", None)
        if sought.wanted and isinstance(attributes, Mapping) and not isinstance(record, (Failure, FileFailure)):
            sought.look(attributes, path_of(name, record))
        if not isinstance(attributes, Mapping) or not attributes.keys() & statistics.keys():
            yield record
            continue
        path = path_of(name, record)
        found: dict[str, Any] = {}
        for attribute, value in attributes.items():
            told = _told(name, attribute, value, statistics[attribute], path) if attribute in statistics else None
            for column, cell in {attribute: value}.items() if told is None else told.items():
                if column in found:
                    problem = f"makes {column!r}, and there is an attribute of this name"
                    raise ArgumentError(f"{name}: payload_columns", problem, path=path)
                found[column] = cell
        yield Write(path, found)
    sought.end()


def _told(name: str, attribute: str, value: Any, statistics: tuple[str, ...], path: tuple[str, ...]) -> dict[str, Any]:
    """The statistics of an array, or of none, by column."""
    if value is None:
        return {f"{attribute}_{statistic}": None for statistic in statistics}
    is_array = isinstance(value, np.ndarray) or (isinstance(value, PayloadHandle) and value.kind == "array")
    needs_numbers = not SHAPES.keys() >= set(statistics)
    array = np.asarray(value) if is_array and (needs_numbers or value.shape is None) else None
    if not is_array or (array is not None and needs_numbers and array.dtype.kind not in "biuf"):
        what = f"{name}: the attribute {attribute!r}"
        raise ArgumentTypeError(what, path=path, expected="an array of numbers, or a handle to one", got=got(value))
    told = {}
    for statistic in statistics:
        if statistic == "seconds" or array is None:
            told[statistic] = SHAPES[statistic](value)
        elif statistic in SHAPES:
            told[statistic] = SHAPES[statistic](array)
        else:
            told[statistic] = NUMBERS[statistic](array) if array.size else None
    return {f"{attribute}_{statistic}": cell for statistic, cell in told.items()}
