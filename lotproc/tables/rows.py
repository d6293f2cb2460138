"""Records as rows of a table: a column for each level of the path, then the attributes, in plain values."""

from __future__ import annotations

import datetime as dt
import pathlib
from collections.abc import Iterable, Iterator, KeysView
from typing import Any, TypeAlias

import numpy as np
from lotdb import BaseNode

from .._items import node_path, path_of
from ..errors import ArgumentError, ArgumentTypeError, LiveNodeError, as_utf8, got
from ..models import Failure, ProcessResult, Write, written_attributes
from ..payloads import PayloadHandle
from .levels import LEVEL, Levels, check_depth, level_names, levels_of
from .times import plain_time, plain_times

__all__ = ["PLAIN", "Path", "Row", "Rows", "as_written", "cell", "check_names", "rows_of"]

Row: TypeAlias = "dict[str, Any]"
Path: TypeAlias = "tuple[str, ...]"

#: Types whose values go into a table as they are; a str does if it is UTF-8.
PLAIN = frozenset([type(None), bool, int, float, str, bytes])


def rows_of(name: str, records: Iterable[Any], levels: Levels) -> Iterator[Row]:
    """The rows of records."""
    names = level_names(levels)
    for _, row in map(Rows(name, levels).of, records):
        yield {names.get(column, column): value for column, value in row.items()} if names else row


class Rows:
    """Makes the rows of one table.

    Args:
        name: The function that the user called, for errors.
        levels: What the levels are called in the end. Until then they are TreeLevel_1 and so on.
    """

    def __init__(self, name: str, levels: Levels) -> None:
        self.called, self.levels = name, levels
        #: The columns of attributes, by their names, and the other way around.
        self.columns: dict[str, str] = {}
        self.attributes: dict[str, str] = {}

    def of(self, record: Any) -> tuple[Path, Row]:
        """The path and the row of a record."""
        name = self.called
        if isinstance(record, BaseNode):
            hint = "put snapshot() in front to make it a record"
            raise LiveNodeError(f"{name}: what is", "is a live node", path=node_path(record), hint=hint)
        if isinstance(record, ProcessResult):
            record = as_written(name, record)
        is_failure = isinstance(record, Failure)
        if is_failure and record.path is None:
            record = Write((), {**record.attributes, "item": record.item})
        path = path_of(name, record)
        attributes: Any = getattr(record, "attributes", None)
        if isinstance(record.path, str) or not all(isinstance(key, str) for key in path):
            raise ArgumentTypeError(f"{name}: the path of a record", expected="a tuple of keys", got=got(record.path))
        if not hasattr(attributes, "items"):
            raise ArgumentTypeError(f"{name}:", expected="a record with attributes", got=got(record))
        if self.levels is not None:
            check_depth(name, self.levels, path, may_be_less=is_failure)
        columns = self.columns
        if attributes.keys() - columns.keys():
            self.name(attributes.keys(), path)
        row = levels_of(path)
        attribute = None
        try:
            for attribute, value in attributes.items():
                kind = type(value)
                as_it_is = kind in _AS_THEY_ARE or (kind is str and value.isascii())
                row[columns[attribute]] = value if as_it_is else cell(value)
        except RecursionError:
            raise ArgumentTypeError(
                f"{name}: the attribute {attribute!r}", "holds itself, or is nested too deep", path=path
            ) from None
        except _NoCell as error:
            raise ArgumentTypeError(f"{name}: the attribute {attribute!r}", f"{error}", path=path) from error
        return path, row

    def name(self, attributes: KeysView[str], path: Path | None = None) -> None:
        """Find columns for attributes, of the node at a path."""
        new = attributes - self.columns.keys()
        check_names(self.called, new, path, self.levels)
        found = _columns(self.called, new, self.columns, path)
        self.columns.update(found)
        self.attributes.update((column, attribute) for attribute, column in found.items())


def _columns(name: str, attributes: Iterable[str], known: dict[str, str], path: Path | None) -> dict[str, str]:
    """The columns of attributes, whose names may be no UTF-8."""
    columns: dict[str, str] = {}
    taken = {column: attribute for attribute, column in known.items()}
    for attribute in attributes:
        column = columns[attribute] = as_utf8(attribute)
        if taken.setdefault(column, attribute) != attribute:
            raise ArgumentError(
                f"{name}: the attributes {attribute!r} and {taken[column]!r}",
                f"would share a column, as {column!r}",
                path=path,
                hint="rename one",
            )
    return columns


def as_written(name: str, result: ProcessResult) -> Write:
    """A result as `write` would write it under `mirror()`; without an output, its attributes only."""
    attributes = written_attributes(name, result, None if result.output is None else "result")
    return Write((*result.path, *result.relative_path), attributes)


def check_names(name: str, attributes: Iterable[str], path: Path | None = None, levels: Levels = None) -> None:
    for attribute in attributes:
        if not isinstance(attribute, str):
            raise ArgumentTypeError(
                f"{name}: the name of an attribute", path=path, expected="a str", got=got(attribute)
            )
        if LEVEL.fullmatch(attribute) or as_utf8(attribute) in (levels or ()):
            raise ArgumentError(
                f"{name}: the attribute {attribute!r}",
                "has the name of a level column",
                path=path,
                hint="rename it" if LEVEL.fullmatch(attribute) else "give that level another name",
            )


#: Types whose values need no look.
_AS_THEY_ARE = PLAIN - {str}


class _NoCell(Exception):
    """A value that no table can hold; says why."""


def cell(value: Any) -> Any:
    """A value as tables hold it."""
    if type(value) is str:
        return as_utf8(value)
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind in "mM":
            return plain_times(value)
        if value.dtype.names is not None:
            if isinstance(value, np.ndarray) and value.ndim:
                return list(map(cell, value))
            return [cell(value[name]) for name in value.dtype.names]  # type: ignore[index]
        plain = value.tolist()
        return cell(plain) if value.dtype.kind in "OVU" else plain  # they may hold anything
    if isinstance(value, (pathlib.PurePath, PayloadHandle)):
        return as_utf8(str(value))
    if isinstance(value, dict):
        cells = {as_utf8(key) if isinstance(key, str) else key: cell(item) for key, item in value.items()}
        if len(cells) < len(value):
            raise _NoCell("has two keys that are one as UTF-8; rename one")
        return cells
    if isinstance(value, (list, tuple)):
        kinds = set(map(type, value))
        if kinds <= _AS_THEY_ARE or (kinds == _STR and all(map(str.isascii, value))):
            return list(value)
        return list(map(cell, value))
    if isinstance(value, (set, frozenset)):
        items = list(map(cell, value))
        try:
            return sorted(items)
        except TypeError:  # of several types
            return sorted(items, key=repr)
    if isinstance(value, (dt.datetime, dt.timedelta)):
        return plain_time(value)
    return value


_STR = {str}
