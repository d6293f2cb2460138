"""Rows as Arrow tables, and in Parquet files."""

from __future__ import annotations

import bisect
import datetime
import os
import tempfile
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import more_itertools

from ._files import replacing
from ._rows import PLAIN, Path, Row, in_order
from .errors import ArgumentTypeError, as_text, got

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["whole_table", "write_parquet"]

#: What a column holds, by the first of these that a value is an instance of.
KINDS = (bool, int, float, str, bytes, list, dict, datetime.datetime, datetime.date)


class Kinds:
    """The kind of value that each column holds, and where it first came: Arrow would cut some mixtures to fit."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.first: dict[tuple[str, str], tuple[str, Path]] = {}

    def check(self, column: str, value: Any, path: Path, inside: str = "") -> None:
        if value is None:
            return
        kind = next((kind.__name__ for kind in KINDS if isinstance(value, kind)), type(value).__name__)
        if kind == "datetime" and value.tzinfo is not None:
            kind = "datetime with a time zone"
        first, first_path = self.first.setdefault((column, inside), (kind, path))
        if kind != first and {kind, first} != {"int", "float"}:
            raise ArgumentTypeError(
                f"{self.name}: the column {column!r} mixes {first} and {kind}: {first} at {as_text(first_path)}, "
                f"{kind} at {as_text(path)}{f' (in {inside})' if inside else ''}; make them one kind first"
            )
        if kind == "list":
            # One of each type is enough, where they can't hold others and have no time zone.
            one_each = {type(item): item for item in value}
            for item in one_each.values() if PLAIN.issuperset(one_each) else value:
                self.check(column, item, path, f"{inside}[]")
        elif kind == "dict":
            for key, item in value.items():
                self.check(column, item, path, f"{inside}[{key!r}]")


def table_of(rows: list[tuple[Path, Row]], kinds: Kinds) -> pa.Table:
    import pyarrow as pa

    columns = in_order(chain.from_iterable(row for _, row in rows))
    paths = [path for path, _ in rows]
    return pa.table([_array(name, [row.get(name) for _, row in rows], paths, kinds) for name in columns], names=columns)


def _array(column: str, values: list[Any], paths: list[Path], kinds: Kinds) -> pa.Array:
    import pyarrow as pa

    for value, path in zip(values, paths, strict=True):
        kinds.check(column, value, path)
    try:
        array = pa.array(values)
    except Exception as error:  # Arrow has half a dozen
        found = bisect.bisect_left(range(len(values)), True, key=lambda last: _fails(values[: last + 1]))
        raise ArgumentTypeError(
            f"{kinds.name}: the column {column!r} can't be stored: {error}; "
            f"it is {got(values[found])} at {as_text(paths[found])}"
        ) from error
    if pa.types.is_timestamp(array.type) and array.type.tz:
        array = array.cast(pa.timestamp(array.type.unit, "UTC"))  # the same moments, in one type
    return array


def _fails(values: list[Any]) -> bool:
    import pyarrow as pa

    try:
        pa.array(values)
    except Exception:
        return True
    return False


def whole_table(name: str, rows: Iterator[tuple[Path, Row]], batch_size: int = 10_000) -> pa.Table:
    """Rows as one table; only a batch of them is in Python's hands at a time."""
    import pyarrow as pa

    kinds = Kinds(name)
    batches = [(table_of(batch, kinds), len(batch)) for batch in more_itertools.chunked(rows, batch_size)]
    schema = _schema_of([table.schema for table, _ in batches])
    if not batches:
        return pa.table({}, schema=schema)
    return pa.concat_tables([_widened(name, table, size, schema) for table, size in batches])


def _schema_of(schemas: list[pa.Schema]) -> pa.Schema:
    """The schema that the rows of several tables fit, its columns in order."""
    import pyarrow as pa

    schema = pa.unify_schemas([pa.schema([]), *schemas], promote_options="permissive")
    return pa.schema([schema.field(name) for name in in_order(schema.names)])


def write_parquet(target: str, rows: Iterator[tuple[Path, Row]], batch_size: int) -> int:
    """Batches go to a nameless file first: the schema is known only after the last one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = Kinds("to_parquet")
    schema = pa.schema([])
    sizes = []
    with tempfile.TemporaryFile(dir=os.path.dirname(target)) as spool, replacing(target) as file:
        for batch in more_itertools.chunked(rows, batch_size):
            table = table_of(batch, kinds)
            with pa.ipc.new_stream(spool, table.schema) as stream:
                stream.write_table(table)
            schema = _schema_of([schema, table.schema])
            sizes.append(len(batch))
        spool.seek(0)
        # Parquet has no dicts without any key.
        schema = pa.schema([field.with_type(pa.null()) if field.type == pa.struct([]) else field for field in schema])
        with pq.ParquetWriter(file, schema) as writer:
            for size in sizes:
                with pa.ipc.open_stream(spool) as stream:
                    writer.write_table(_widened("to_parquet", stream.read_all(), size, schema))
    return sum(sizes)


def _widened(name: str, table: pa.Table, size: int, schema: pa.Schema) -> pa.Table:
    """A batch with the types of the whole; its size is its own, as a table without columns has none."""
    import pyarrow as pa

    columns = dict(zip(table.column_names, table.columns, strict=True))

    def column(field: pa.Field) -> Any:
        if field.name not in columns or pa.types.is_null(field.type):
            return pa.nulls(size, field.type)
        values = columns[field.name]
        if values.type == field.type:
            return values
        try:
            return pa.array(values.to_pylist(), field.type)
        except pa.ArrowException as error:
            raise ArgumentTypeError(f"{name}: the column {field.name!r} can't be {field.type}: {error}") from error

    return pa.table([column(field) for field in schema], schema=schema)
