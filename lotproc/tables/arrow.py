"""Rows as Arrow tables, and in Parquet files."""

from __future__ import annotations

import bisect
import datetime
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import more_itertools
import numpy as np

from .._files import replacing
from ..errors import ArgumentTypeError, as_text, got
from ..zodb.column_arrays import ABSENT, BOOL, DATETIME, FLOAT, INT, NOTHING, STR, Column
from ..zodb.record_arrays import Flags
from .batches import Batch, batches
from .kinds import EXACT, Kinds, kind_of
from .levels import LEVEL, Levels, in_order, level_names
from .rows import Path
from .times import common_unit

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BATCH", "stream_of", "whole_table", "write_parquet"]

#: Rows that are in Python's hands at a time.
BATCH = 10_000


def table_of(batch: Batch, kinds: Kinds) -> pa.Table:
    import pyarrow as pa

    arrays = []
    for name in batch.names:
        if batch.is_of_blocks and (level := LEVEL.fullmatch(name)):
            arrays.append(_keys_at(int(level[1]), batch))
            continue
        column = batch.column(name)
        array = None if column is None else _array_of(name, column, batch, kinds)
        arrays.append(_array(name, batch.values(name), batch, kinds) if array is None else array)
    return pa.table(arrays, names=batch.names)


def _keys_at(level: int, batch: Batch) -> pa.Array:
    """The keys at one level of the paths of blocks: those above nodes once each."""
    import pyarrow as pa

    parts = []
    for _, block, start, stop in batch.pieces:
        if level < block.depth:
            above = pa.array(block.keys_above(level), pa.string())
            parts.append(above.take(pa.array(block.place[start:stop])))
        else:
            parts.append(pa.array(block.keys_at(level, start, stop), pa.string()))
    return pa.concat_arrays(parts)


def _array_of(name: str, column: Column, batch: Batch, kinds: Kinds) -> pa.Array | None:
    """A column as the array that `_array` makes of its values; `None` where only that can tell."""
    import pyarrow as pa

    there = column.kinds_there()
    is_null = (column.kinds == NOTHING) | (column.kinds == ABSENT)
    if not there:
        return pa.nulls(batch.size)
    if len(there) > 1 and there != {INT, FLOAT}:
        return None
    for row in _telling_rows(column, is_null, there):
        kinds.check(name, column.rows(row, row + 1).values()[0], batch.path(row))
    mask = is_null if is_null.any() else None
    if there == {BOOL}:
        return pa.array(column.bits.astype(np.bool_), mask=mask)
    if there == {INT}:
        return pa.array(column.bits, mask=mask)
    if there == {DATETIME}:
        return None if name in kinds.with_numpy else pa.array(column.bits.view("M8[us]"), mask=mask)
    if there <= {INT, FLOAT}:
        numbers = column.bits.view(np.float64)
        if INT in there:
            are_ints = column.kinds == INT
            numbers = np.where(are_ints, column.bits.astype(np.float64), numbers)
        return pa.array(numbers, mask=mask)
    if len(column.text) >= 2**31:
        return None
    valid = None if mask is None else pa.array(~mask).buffers()[1]
    buffers = [valid, pa.py_buffer(column.ends.astype(np.int32)), pa.py_buffer(column.text)]
    return pa.Array.from_buffers(pa.string() if there == {STR} else pa.binary(), batch.size, buffers)


def _telling_rows(column: Column, is_null: Flags, there: set[int]) -> list[int]:
    """The rows in which something that `Kinds` asks of a value first comes, in their order."""
    found = [~is_null]
    if INT in there:
        ints = np.where(column.kinds == INT, column.bits, 0)
        if ints.min() < 0:
            found.append(ints < 0)
        if ints.min() < -EXACT or ints.max() > EXACT:
            found.append((ints < -EXACT) | (ints > EXACT))
    if there == {INT, FLOAT}:
        found.append(column.kinds == FLOAT)
    return sorted({int(np.argmax(flags)) for flags in found})


def _array(column: str, values: list[Any], batch: Batch, kinds: Kinds) -> pa.Array:
    import pyarrow as pa

    paths = batch.paths
    for value, path in zip(values, paths, strict=True):
        kinds.check(column, value, path)
    make = _array_with_times if column in kinds.with_numpy else pa.array
    if kinds.is_unsigned(column):
        return pa.array(values, pa.uint64())
    try:
        array = make(values)
        kind = _mapped(array.type, _in_utc)  # the same moments, in one type
        return array if kind == array.type else make(values, kind)
    except Exception as error:  # Arrow has half a dozen
        raise _refused(kinds.name, column, "stored", error, values, paths, make) from error


#: What stands for times of each kind while Arrow finds a type.
STAND_INS = {"timedelta": datetime.timedelta(0), "date": datetime.date.min, "datetime": datetime.datetime.min}


def _array_with_times(values: list[Any], kind: pa.DataType | None = None) -> pa.Array:
    """An array with times of Python and numpy: of each kind all in one unit, and given to Arrow as numbers of it."""
    import pyarrow as pa

    units = {}
    for what in STAND_INS:
        units[what] = common_unit(time for time in _times_in(values) if kind_of(time) == what)
        if units[what] is None:
            raise ValueError(f"no unit that Arrow has holds its {what}s exactly; round them first, or make them text")

    def in_units(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_timestamp(kind) and not kind.tz:
            return pa.timestamp(units["datetime"])
        return pa.duration(units["timedelta"]) if pa.types.is_duration(kind) else _in_utc(kind)

    def number(time: Any) -> int:
        what = kind_of(time)
        array = np.array(time, f"{'m' if what == 'timedelta' else 'M'}8[{units[what]}]")
        return int(array.astype(np.int64))

    found = pa.array(_with_times(values, lambda time: STAND_INS[kind_of(time)])).type
    return pa.array(_with_times(values, number), _mapped(found, in_units))


def _with_times(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, list):
        return [_with_times(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _with_times(item, change) for key, item in value.items()}
    return change(value) if _is_time(value) else value


def _times_in(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _times_in(item)
    elif _is_time(value):
        yield value


def _is_time(value: Any) -> bool:
    """Whether it is a time without a zone."""
    is_time = isinstance(value, (datetime.date, datetime.timedelta, np.datetime64, np.timedelta64))
    return is_time and getattr(value, "tzinfo", None) is None


def _mapped(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """A type in which all types are changed, from the inmost on."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        kind = pa.struct([field.with_type(_mapped(field.type, change)) for field in kind])
    elif pa.types.is_list(kind):
        kind = pa.list_(kind.value_field.with_type(_mapped(kind.value_type, change)))
    return change(kind)


def _in_utc(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return pa.timestamp(kind.unit, "UTC") if pa.types.is_timestamp(kind) and kind.tz else kind


def _null_for_empty(kind: pa.DataType) -> pa.DataType:
    """Parquet has no dicts without any key."""
    import pyarrow as pa

    return pa.null() if pa.types.is_struct(kind) and kind.num_fields == 0 else kind


def _refused(
    name: str,
    column: str,
    what: str,
    error: Exception,
    values: Any,
    paths: list[Path],
    make: Callable[[Any], Any],
) -> ArgumentTypeError:
    """What to raise where some values can't be made an array: with the path of the first that can't."""

    def fails(last: int) -> bool:
        try:
            make(values[: last + 1])
        except Exception:
            return True
        return False

    found = bisect.bisect_left(range(len(values) - 1), True, key=fails)
    value = values[found] if isinstance(values, list) else None
    return ArgumentTypeError(
        f"{name}: the column {column!r}",
        f"can't be {what}: {error}",
        path=paths[found],
        got=None if value is None else got(value),
    )


def whole_table(name: str, records: Iterable[Any], names: Iterable[str], levels: Levels) -> pa.Table:
    """Records as one table; only a batch of them is in Python's hands at a time. `names`, `levels` as in `batches`."""
    import pyarrow as pa

    kinds = Kinds(name)
    schema = pa.schema([])
    tables = []
    for batch in batches(name, records, BATCH, names, levels):
        table = table_of(batch, kinds)
        schema = _widened_schema(schema, table, batch, kinds)
        tables.append((table, batch.size))
    if not tables:
        return pa.table({}, schema=schema)
    whole = pa.concat_tables([_widened(name, table, size, schema) for table, size in tables])
    return whole.rename_columns(_renamed(schema, level_names(levels)).names)


def stream_of(
    name: str, records: Iterable[Any], names: Iterable[str], schema: pa.Schema | None, levels: Levels = None
) -> Any:
    """Records as a reader of record batches, all of one schema: by default that of the first."""
    import pyarrow as pa

    kinds = Kinds(name)
    given = more_itertools.peekable(
        (table_of(batch, kinds), batch) for batch in batches(name, records, BATCH, names, levels)
    )
    by_number = level_names(levels)
    if schema is None:
        schema = given.peek((pa.table({}), None))[0].schema
    else:
        schema = _renamed(schema, {level: column for column, level in by_number.items()})
    named = _renamed(schema, by_number)
    fitting = (table.rename_columns(named.names) for table in _fitting(name, schema, given))
    return pa.RecordBatchReader.from_batches(named, (batch for table in fitting for batch in table.to_batches()))


def _renamed(schema: pa.Schema, names: Mapping[str, str]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([field.with_name(names.get(field.name, field.name)) for field in schema])


def _fitting(name: str, schema: pa.Schema, given: Iterable[tuple[pa.Table, Batch]]) -> Iterator[pa.Table]:
    """Tables in the types of a schema; what does not fit is refused."""
    for table, batch in given:
        for field in table.schema:
            place = schema.get_field_index(field.name)
            kind = schema.field(place).type if place >= 0 else None
            if table[field.name].null_count < batch.size and not _fits(field.type, kind):
                raise _unfit(name, field.name, kind, batch)
        yield _widened(name, table, batch.size, schema)


def _fits(kind: pa.DataType, column: pa.DataType | None) -> bool:
    """Whether a column of a type can hold all values of another one as they are; `None` is no column at all."""
    import pyarrow as pa

    try:
        return column == kind or (column is not None and column == _unified(column, kind))
    except pa.ArrowException:
        return False


def _unified(*kinds: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if set(kinds) == {pa.int64(), pa.uint64()}:
        return pa.uint64()  # Arrow would say int64
    schemas = [pa.schema([("", kind)]) for kind in kinds]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def _unfit(name: str, column: str, kind: pa.DataType | None, batch: Batch) -> ArgumentTypeError:
    """What to raise where a batch has values that a column does not hold: with the path of the first of them."""
    row, value = _first(batch, column, lambda found: _fits(found, kind))
    rows = f"the first {BATCH:,} rows, which set the columns of a stream and their types"
    return ArgumentTypeError(
        f"{name}: the column {column!r}",
        f"is not among those of {rows}" if kind is None else f"as it is in {rows}",
        path=batch.path(row),
        expected=None if kind is None else f"{kind}",
        got=got(value),
        hint="to_arrow() and to_parquet() look at all rows first",
    )


def _first(batch: Batch, column: str, is_right: Callable[[pa.DataType], object]) -> tuple[int, Any]:
    """The first row with a value whose type is not right, and the value."""
    import pyarrow as pa

    def is_wrong(value: Any) -> bool:
        try:
            return value is not None and not is_right(pa.array([value]).type)
        except Exception:
            return True

    values = batch.values(column)
    row = next((row for row, value in enumerate(values) if is_wrong(value)), 0)
    return row, values[row]


def _widened_schema(schema: pa.Schema, table: pa.Table, batch: Batch, kinds: Kinds) -> pa.Schema:
    """The schema that the rows of a table fit as well, its columns in order."""
    import pyarrow as pa

    types = dict(zip(schema.names, schema.types, strict=True))
    for field in table.schema:
        known = types.setdefault(field.name, field.type)
        if known == field.type:
            continue
        try:
            types[field.name] = _unified(known, field.type)
        except pa.ArrowException as error:
            row, value = _first(batch, field.name, lambda found: _unified(known, found) is not None)  # noqa: B023
            raise ArgumentTypeError(
                f"{kinds.name}: the column {field.name!r}",
                path=batch.path(row),
                expected=f"{known}, as before",
                got=got(value),
                hint="make them one kind first",
            ) from error
    return pa.schema([(name, types[name]) for name in in_order(types)])


def write_parquet(target: str, records: Iterable[Any], names: Iterable[str], levels: Levels, batch_size: int) -> int:
    """Batches go to a nameless file first: the schema is known only after the last one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = "to_parquet"
    kinds = Kinds(name)
    schema = pa.schema([])
    sizes = []
    with tempfile.TemporaryFile(dir=os.path.dirname(target)) as spool, replacing(target) as file:
        for batch in batches(name, records, batch_size, names, levels):
            table = table_of(batch, kinds)
            with pa.ipc.new_stream(spool, table.schema) as stream:
                stream.write_table(table)
            before, schema = schema, _widened_schema(schema, table, batch, kinds)
            for field in schema if schema != before else ():
                _check_in_parquet(name, field, batch)
            sizes.append(batch.size)
        spool.seek(0)
        schema = pa.schema([field.with_type(_mapped(field.type, _null_for_empty)) for field in schema])
        named = _renamed(schema, level_names(levels))
        with pq.ParquetWriter(file, named) as writer:
            for size in sizes:
                with pa.ipc.open_stream(spool) as stream:
                    table = stream.read_all()
                try:
                    writer.write_table(_widened(name, table, size, schema).rename_columns(named.names))
                except pa.ArrowException as error:
                    paths = _paths(table, size)
                    raise ArgumentTypeError(
                        f"{name}: the rows from {as_text(paths[0])} to {as_text(paths[-1])} can't be written: {error}"
                    ) from error
    return sum(sizes)


def _check_in_parquet(name: str, field: pa.Field, batch: Batch) -> None:
    """Refuse a type that Parquet does not know, when it comes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def try_(kind: pa.DataType) -> bool:
        pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([("", _mapped(kind, _null_for_empty))]))
        return True

    try:
        try_(field.type)
    except pa.ArrowException as error:
        row, value = _first(batch, field.name, try_)
        raise ArgumentTypeError(
            f"{name}: the column {field.name!r}",
            f"can't be in Parquet: {error}",
            path=batch.path(row),
            got=got(value),
        ) from error


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
            return _cast(values, field.type)
        except Exception as error:
            paths = _paths(table, size)
            what, rows = str(field.type), values.combine_chunks()
            refused = _refused(name, field.name, what, error, rows, paths, lambda some: _cast(some, field.type))
            raise refused from error

    return pa.table([column(field) for field in schema], schema=schema)


def _cast(values: Any, kind: pa.DataType) -> Any:
    import pyarrow as pa

    if any(map(pa.types.is_temporal, _types_in(values.type))):  # Python may not hold them
        try:
            array = values.cast(kind)
            array.validate(full=True)  # of lists of nothing Arrow makes what is none
            return array
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            pass
    return pa.array([_fitted(value, kind) for value in values.to_pylist()], kind)


def _types_in(kind: pa.DataType) -> Iterator[pa.DataType]:
    yield kind
    for number in range(kind.num_fields):
        yield from _types_in(kind.field(number).type)


def _fitted(value: Any, kind: pa.DataType) -> Any:
    """A value without what its type does not know: empty dicts."""
    import pyarrow as pa

    if value is None or pa.types.is_null(kind):
        return None
    if pa.types.is_struct(kind):
        return {field.name: _fitted(value.get(field.name), field.type) for field in kind}
    return [_fitted(item, kind.value_type) for item in value] if pa.types.is_list(kind) else value


def _paths(table: pa.Table, size: int) -> list[Path]:
    """The paths of the rows of a table."""
    names = [name for name in table.column_names if LEVEL.fullmatch(name)]
    levels: Iterable[Any] = zip(*(table[name].to_pylist() for name in names), strict=True) if names else [()] * size
    return [tuple(key for key in keys if key is not None) for keys in levels]
