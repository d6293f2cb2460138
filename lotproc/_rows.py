"""Records as rows of a table: a column for each level of the path, then the attributes, in plain values."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from lotdb import BaseNode

from ._nodes import node_path, path_of
from .errors import ArgumentError, ArgumentTypeError, LiveNodeError, as_text, got
from .models import Failure, ProcessResult, Write, written_attributes
from .payloads import PayloadHandle

__all__ = ["LEVEL", "PLAIN", "Path", "Row", "check_names", "in_order", "levels", "rows_of"]

Row: TypeAlias = "dict[str, Any]"
Path: TypeAlias = "tuple[str, ...]"

LEVEL = re.compile(r"TreeLevel_([1-9][0-9]*)")
#: Types whose values go into a table as they are.
PLAIN = frozenset([type(None), bool, int, float, str, bytes])


def rows_of(name: str, records: Iterable[Any]) -> Iterator[tuple[Path, Row]]:
    checked: set[str] = set()
    for record in records:
        if isinstance(record, BaseNode):
            where = as_text(node_path(record))
            raise LiveNodeError(f"{name}: {where} is a live node; put snapshot() in front to make it a record")
        if isinstance(record, ProcessResult):
            record = _as_written(name, record)
        elif isinstance(record, Failure) and record.path is None:
            record = Write((), {**record.attributes, "item": record.item})
        path = path_of(name, record)
        attributes: Any = getattr(record, "attributes", None)
        if isinstance(record.path, str) or not all(isinstance(key, str) for key in path):
            raise ArgumentTypeError(f"{name}: the path of a record must be a tuple of keys, got {got(record.path)}")
        if not hasattr(attributes, "items"):
            raise ArgumentTypeError(f"{name}: expected a record with attributes, got {got(record)}")
        if new := attributes.keys() - checked:
            check_names(name, new, f" at {as_text(path)}")
            checked |= new
        row = levels(path)
        for attribute, value in attributes.items():
            row[attribute] = value if type(value) in PLAIN else _cell(value)
        yield path, row


def _as_written(name: str, result: ProcessResult) -> Write:
    """A result as `write` would write it under `mirror()`; without an output, its attributes only."""
    attributes = written_attributes(name, result, None if result.output is None else "result")
    return Write((*result.path, *result.relative_path), attributes)


def levels(path: Path) -> Row:
    return {f"TreeLevel_{number}": key for number, key in enumerate(path, 1)}


def check_names(name: str, attributes: Iterable[str], where: str = "") -> None:
    for attribute in attributes:
        if not isinstance(attribute, str):
            raise ArgumentTypeError(f"{name}: the name of an attribute must be a str, got {got(attribute)}{where}")
        if LEVEL.fullmatch(attribute):
            raise ArgumentError(f"{name}: the attribute {attribute!r}{where} has the name of a level column; rename it")


def _cell(value: Any) -> Any:
    """A value as tables hold it."""
    if isinstance(value, (np.ndarray, np.generic)):
        dtype: Any = value.dtype
        if dtype.kind in "mM" and np.datetime_data(dtype)[0] in ("ns", "ps", "fs", "as"):
            value = value.astype(f"{dtype.kind}8[us]")  # tolist() makes bare ints of what is finer
        plain = value.tolist()
        return _cell(plain) if dtype.kind in "OV" else plain  # they may hold anything
    if isinstance(value, (pathlib.PurePath, PayloadHandle)):
        return str(value)
    if isinstance(value, dict):
        return {key: _cell(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return list(value) if PLAIN.issuperset(map(type, value)) else [_cell(item) for item in value]
    if isinstance(value, (set, frozenset)):
        items = [_cell(item) for item in value]
        try:
            return sorted(items)
        except TypeError:  # of several types
            return sorted(items, key=repr)
    return value


def in_order(names: Iterable[str]) -> list[str]:
    """The levels by number, then the others in the order in which they first come."""

    def position(name: str) -> float:
        level = LEVEL.fullmatch(name)
        return int(level[1]) if level else float("inf")

    return sorted(dict.fromkeys(names), key=position)
