"""Records out to tables: rows, pandas, Arrow, Parquet; and lotdb's own two functions, in linear time."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from lotdb import BaseNode

from ._extras import needed
from ._items import node_path
from ._public import public
from ._spelling import spelled
from ._stage import check_count, check_root, stage
from .errors import ArgumentError, ArgumentTypeError, as_utf8, got
from .tables.arrow import BATCH, whole_table, write_parquet
from .tables.batches import Batch, batches
from .tables.levels import LEVEL, LevelNames, Levels, check_depth, checked_levels, in_order, level_names, levels_of
from .tables.payload_columns import PayloadColumns, checked_statistics, described
from .tables.rows import Row, cell, check_names, rows_of
from .tables.scanned import as_columns, levels_for
from .tables.times import common_unit
from .traversal import leaves
from .zodb.column_arrays import ABSENT, BOOL, FLOAT, INT, NOTHING, Column, joined

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["node_list_to_dataframe", "to_arrow", "to_dataframe", "to_parquet", "to_rows", "tree_to_dataframe"]


@overload
def to_rows(
    records: Iterable[Any], *, levels: LevelNames = None, payload_columns: PayloadColumns = None
) -> Iterator[Row]: ...
@overload
def to_rows(
    *, levels: LevelNames = None, payload_columns: PayloadColumns = None
) -> Callable[[Iterable[Any]], Iterator[Row]]: ...
@stage("records")
def to_rows(
    *, levels: LevelNames = None, payload_columns: PayloadColumns = None
) -> Callable[[Iterable[Any]], Iterator[Row]]:
    """Turn records into dicts, one a record: the path in columns, then the attributes.

    >>> from lotproc import NodeRecord, to_rows
    >>> records = [NodeRecord(("ann", "clip_1"), "clip_1", {"seconds": 1.2})]
    >>> list(to_rows(records))
    [{'TreeLevel_1': 'ann', 'TreeLevel_2': 'clip_1', 'seconds': 1.2}]
    >>> list(to_rows(records, levels=("speaker", "clip")))
    [{'speaker': 'ann', 'clip': 'clip_1', 'seconds': 1.2}]

    Args:
        records: Records or results, or anything else with a `path` and `attributes`. A result's output is its column
            "result". A `Failure` is a row with the levels of its path and the columns "error", "message" and
            "attempts"; where it has no path, "item" says what failed. A `FileFailure` has the columns "file" and
            "reason".
        levels: The names of the levels of the paths, from the top down, one for each key: of the columns that are
            TreeLevel_1, TreeLevel_2 and so on without. A scan may have them, too. The paths of all records must have as
            many keys; only that of a `Failure` may end sooner.
        payload_columns: Attributes that are arrays, or handles to them, each with the statistics that are columns in
            its place: {"data": ["seconds", "peak"]} makes `data_seconds` and `data_peak`. There are "shape", "dtype"
            and "seconds", which a handle knows without reading it, and "mean", "std", "min", "max" and "peak", the
            largest magnitude, of all numbers of the array, as they are in it: 16-bit sound has a peak of up to 32768.
            What is not known, or of no array or no numbers, is `None`.
            At the end there is a warning of attributes that no record had, with the nearest that there was.

    Returns:
        An iterator of dicts, in the order of the records; each has the columns of its own record only. Arrays and
        tuples come as lists, sets as sorted lists, numpy's scalars as Python's, paths as str, payload handles as their
        short text. Times that Python can't hold, as those with nanoseconds, stay numpy's. Text that is no UTF-8, as in
        names of files, has what is none escaped, as "backslashreplace" does. Lazy; holds one record.

    Raises:
        ArgumentError: An attribute has the name of a level column, or would share one with another; or a path has more
            or fewer keys than `levels` has names, or these are no different names.
        ArgumentTypeError: An item is no record, or a dict in it has keys that would be one; a `LiveNodeError` where it
            is a live node.
    """
    names = checked_levels("to_rows", levels)
    statistics = checked_statistics("to_rows", payload_columns)

    def run(records: Iterable[Any]) -> Iterator[Row]:
        found = levels_for(records, names)
        return rows_of("to_rows", described("to_rows", records, statistics) if statistics else records, found)

    return run


@overload
def to_dataframe(
    records: Iterable[Any], *, levels: LevelNames = None, payload_columns: PayloadColumns = None
) -> pd.DataFrame: ...
@overload
def to_dataframe(
    *, levels: LevelNames = None, payload_columns: PayloadColumns = None
) -> Callable[[Iterable[Any]], pd.DataFrame]: ...
@stage("records")
def to_dataframe(
    *, levels: LevelNames = None, payload_columns: PayloadColumns = None
) -> Callable[[Iterable[Any]], pd.DataFrame]:
    """Turn records into a pandas DataFrame, one row a record.

    >>> from lotproc import NodeRecord, to_dataframe
    >>> print(to_dataframe([NodeRecord(("ann", "clip_1"), "clip_1", {"seconds": 1.2})]))
      TreeLevel_1 TreeLevel_2  seconds
    0         ann      clip_1      1.2

    Args:
        records: Records or results, as in `to_rows`; those of a scan as in `to_arrow`.
        levels: The names of the levels, as in `to_rows`.
        payload_columns: Statistics of arrays, as in `to_rows`.

    Returns:
        A DataFrame, its rows in the order of the records. Its columns are TreeLevel_1 to TreeLevel_n of the deepest
        path, `None` where a path ends sooner; then the attributes, in the order in which they first came, as the
        dtypes that pandas finds for them; of a scan without any record the attributes that it was asked for. But whole
        numbers beside a missing value are `Int64` or `UInt64`, flags `boolean`, and what no dtype holds exactly are
        objects: numbers beyond 64 bits, or beyond 53 beside floats, and some times. Without a missing value they are
        `int64` and `bool`, as always. Values as in `to_rows`. Not lazy: holds the whole table.

    Raises:
        MissingExtraError: pandas is not installed.
        ArgumentError, ArgumentTypeError: As from `to_rows`.
    """
    given = checked_levels("to_dataframe", levels)
    statistics = checked_statistics("to_dataframe", payload_columns)
    pandas = needed("pandas", "pandas", "to_dataframe()")

    def run(records: Iterable[Any]) -> pd.DataFrame:
        items, names, levels = as_columns("to_dataframe", records, given, statistics)
        frame = _frame_of_batches(pandas, list(batches("to_dataframe", items, BATCH, names, levels)))
        return _named(frame, levels)

    return run


@overload
def to_arrow(
    records: Iterable[Any], *, levels: LevelNames = None, payload_columns: PayloadColumns = None
) -> pa.Table: ...
@overload
def to_arrow(
    *, levels: LevelNames = None, payload_columns: PayloadColumns = None
) -> Callable[[Iterable[Any]], pa.Table]: ...
@stage("records")
def to_arrow(
    *, levels: LevelNames = None, payload_columns: PayloadColumns = None
) -> Callable[[Iterable[Any]], pa.Table]:
    """Turn records into an Arrow table, one row a record.

    >>> from lotproc import NodeRecord, to_arrow
    >>> ann = NodeRecord(("ann",), "ann", {"scores": [1, 2]})
    >>> bob = NodeRecord(("bob",), "bob")
    >>> to_arrow([ann, bob]).to_pylist()
    [{'TreeLevel_1': 'ann', 'scores': [1, 2]}, {'TreeLevel_1': 'bob', 'scores': None}]

    Args:
        records: Records or results, as in `to_rows`. Those of a scan that was not begun are never made: columns come
            straight from the database. Of a scan that was begun it takes what is left, of one that is used up nothing:
            it is `pyarrow.table(scan)` that reads a scan anew.
        levels: The names of the levels, as in `to_rows`.
        payload_columns: Statistics of arrays, as in `to_rows`.

    Returns:
        A `pyarrow.Table`, its rows in the order of the records, its columns as in `to_dataframe`, null where a record
        has none. Ints are int64, or uint64 where that alone holds all; with floats in one column they are floats. Times
        with a zone are UTC, and times that Python can't hold are in nanoseconds or milliseconds, if the column can be.
        Not lazy: holds the whole table.

    Raises:
        ArgumentTypeError: A column mixes kinds of values, or holds what Arrow can't, as ints of more than 53 bits
            beside floats; names the column, and the path of a value that is to blame.
        MissingExtraError: pyarrow is not installed.
        ArgumentError, ArgumentTypeError: As from `to_rows`.
    """
    names = checked_levels("to_arrow", levels)
    statistics = checked_statistics("to_arrow", payload_columns)
    needed("pyarrow", "arrow", "to_arrow()")
    return lambda records: whole_table("to_arrow", *as_columns("to_arrow", records, names, statistics))


@overload
def to_parquet(
    path: str | os.PathLike[str],
    records: Iterable[Any],
    *,
    levels: LevelNames = None,
    payload_columns: PayloadColumns = None,
    batch_size: int = 10_000,
) -> int: ...
@overload
def to_parquet(
    path: str | os.PathLike[str],
    *,
    levels: LevelNames = None,
    payload_columns: PayloadColumns = None,
    batch_size: int = 10_000,
) -> Callable[[Iterable[Any]], int]: ...
@stage("records")
def to_parquet(
    path: str | os.PathLike[str],
    *,
    levels: LevelNames = None,
    payload_columns: PayloadColumns = None,
    batch_size: int = 10_000,
) -> Callable[[Iterable[Any]], int]:
    """Write records to a Parquet file, one row a record, however many they are.

    >>> import os, tempfile
    >>> from lotproc import NodeRecord, to_parquet
    >>> records = [NodeRecord(("ann",), "ann", {"seconds": 1.2})]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_parquet(os.path.join(folder, "clips.parquet"), records)
    1

    The file appears under its name when it is complete, in the place of an older one. A failure leaves the older one as
    it was, and nothing else behind.

    Args:
        path: The file to write. Its folder must be there, with room for two copies of the table for a while.
        records: Records or results, as in `to_rows`; those of a scan as in `to_arrow`.
        levels: The names of the levels, as in `to_rows`.
        payload_columns: Statistics of arrays, as in `to_rows`.
        batch_size: Records in a row group, and in memory, at most.

    Returns:
        The number of rows written, in the order of the records, with the columns and types of `to_arrow`. Dicts that
        never have a key are null, at any depth. Pulls all records; holds one batch of them.

    Raises:
        ArgumentError: The folder isn't there, `path` is a folder, or `batch_size` is less than 1.
        MissingExtraError: pyarrow is not installed.
        ArgumentError, ArgumentTypeError: As from `to_arrow`.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentTypeError("to_parquet: path", expected="a str or a path", got=got(path))
    target = os.path.realpath(path)
    if not os.path.isdir(os.path.dirname(target)):
        raise ArgumentError(f"to_parquet: there is no folder {os.path.dirname(target)!r}", hint="make it first")
    if os.path.isdir(target):
        raise ArgumentError(f"to_parquet: {target!r} is a folder", hint="give the name of a file in it")
    check_count("to_parquet", "batch_size", batch_size)
    names = checked_levels("to_parquet", levels)
    statistics = checked_statistics("to_parquet", payload_columns)
    needed("pyarrow.parquet", "arrow", "to_parquet()")
    return lambda records: write_parquet(target, *as_columns("to_parquet", records, names, statistics), batch_size)


@public
@spelled
def tree_to_dataframe(tree: BaseNode, attribute_list: Iterable[str], *, levels: LevelNames = None) -> pd.DataFrame:
    """Turn the leaves of a tree into a pandas DataFrame: lotdb's function, for trees of any size and shape.

    >>> from lotdb import BaseNode
    >>> from lotproc import tree_to_dataframe
    >>> root = BaseNode("root")
    >>> _ = root.gns(["ann", "clip_1"]).set_attribute("seconds", 1.2)
    >>> print(tree_to_dataframe(root, ["seconds"]))
      TreeLevel_1 TreeLevel_2  seconds
    0         ann      clip_1      1.2

    Args:
        tree: Any lotdb node; a childless one is its own leaf, in a row without level columns.
        attribute_list: The attributes to take along.
        levels: The names of the levels, as in `to_rows`.

    Returns:
        A DataFrame with a row a leaf, depth first, sorted by key. Its columns are TreeLevel_1 to TreeLevel_n for the
        keys below `tree`, `None` where a leaf is less deep; then the attributes, `None` where absent, arrays as
        lists. Not lazy: holds the whole table. For the connection's thread only.

    Raises:
        ArgumentError: An attribute comes twice, or has the name of a level column.
        ArgumentTypeError: `tree` is no node, or `attribute_list` no list of names.
        MissingExtraError: pandas is not installed.
    """
    check_root("tree_to_dataframe", tree)
    return _node_frame("tree_to_dataframe", leaves(tree), attribute_list, tree, levels)


@public
@spelled
def node_list_to_dataframe(
    node_list: Iterable[BaseNode], attribute_list: Iterable[str], *, levels: LevelNames = None
) -> pd.DataFrame:
    """Turn nodes into a pandas DataFrame: lotdb's function, for any number of nodes at any depths.

    >>> from lotdb import BaseNode
    >>> from lotproc import node_list_to_dataframe
    >>> root = BaseNode("root")
    >>> _ = root.gns(["ann", "clip_1"]).set_attribute("seconds", 1.2)
    >>> print(node_list_to_dataframe([root.gn("ann").gn("clip_1")], ["seconds"]))
      TreeLevel_1 TreeLevel_2  seconds
    0         ann      clip_1      1.2

    Args:
        node_list: Live nodes.
        attribute_list: The attributes to take along.
        levels: The names of the levels, as in `to_rows`.

    Returns:
        A DataFrame as from `tree_to_dataframe`, a row a node, in their order, with the keys below the root of the whole
        tree. Without any node it has no columns either. For the connection's thread only.

    Raises:
        ArgumentError, ArgumentTypeError, MissingExtraError: As from `tree_to_dataframe`.
    """
    return _node_frame("node_list_to_dataframe", node_list, attribute_list, None, levels)


def _node_frame(
    name: str, nodes: Iterable[BaseNode], attribute_list: Iterable[str], root: BaseNode | None, levels: LevelNames
) -> pd.DataFrame:
    level_columns = checked_levels(name, levels)
    pandas = needed("pandas", "pandas", f"{name}()")
    if isinstance(attribute_list, str) or not isinstance(attribute_list, Iterable):
        raise ArgumentTypeError(f"{name}: attribute_list", expected="a list of names", got=got(attribute_list))
    names = list(attribute_list)
    check_names(name, names, levels=level_columns)
    columns = {attribute: as_utf8(attribute) for attribute in names}
    if twice := [attribute for attribute in names if names.count(attribute) > 1]:
        raise ArgumentError(f"{name}: the attribute {twice[0]!r} comes twice in {names!r}")
    rows = []
    for node in nodes:
        if not isinstance(node, BaseNode):
            raise ArgumentTypeError(
                f"{name}:", expected="a live node", got=got(node), hint="to_dataframe() takes records"
            )
        path = node_path(node, root)
        check_depth(name, level_columns, path)
        row = levels_of(path)
        for attribute in names:
            value = node.get_attribute(attribute)
            row[columns[attribute]] = cell(value) if isinstance(value, (np.ndarray, str)) else value
        rows.append(row)
    return _named(_frame(pandas, rows), level_columns)


def _named(frame: pd.DataFrame, levels: Levels) -> pd.DataFrame:
    """The same frame, with the names of its levels."""
    if levels:
        names = level_names(levels)
        frame.columns = [names.get(column, column) for column in frame.columns]
    return frame


def _frame_of_batches(pandas: Any, found: list[Batch]) -> pd.DataFrame:
    names = in_order(chain.from_iterable(batch.names for batch in found))
    series = {name: _series_of_batches(pandas, name, found) for name in names}
    return pandas.DataFrame(series, index=range(sum(batch.size for batch in found)), columns=names or None)


def _series_of_batches(pandas: Any, name: str, found: list[Batch]) -> pd.Series[Any]:
    columns = [column for batch in found if (column := batch.column(name)) is not None]
    if len(columns) == len(found) and (series := _series_of_column(pandas, joined(columns))) is not None:
        return series
    values = list(chain.from_iterable(batch.values(name) for batch in found))
    # A level is None where it is missing; as a column of strings, pandas 3 would make it NaN.
    return pandas.Series(values, dtype=object) if LEVEL.fullmatch(name) else _series(pandas, values)


def _series_of_column(pandas: Any, column: Column) -> pd.Series[Any] | None:
    """A column as `_series` makes it of its values; `None` where only that can tell."""
    there = column.kinds_there()
    is_null = (column.kinds == NOTHING) | (column.kinds == ABSENT)
    is_missing = bool(is_null.any())
    if there == {BOOL}:
        flags = column.bits.astype(np.bool_)
        return pandas.Series(pandas.arrays.BooleanArray(flags, is_null) if is_missing else flags)
    if there == {INT}:
        return pandas.Series(pandas.arrays.IntegerArray(column.bits, is_null) if is_missing else column.bits)
    if there and there <= {INT, FLOAT}:
        numbers = column.bits.view(np.float64).copy()
        ints = column.bits[column.kinds == INT]
        if len(ints) and (ints.min() < -(2**53) or ints.max() > 2**53):
            return None
        numbers[column.kinds == INT] = ints
        numbers[is_null] = np.nan
        return pandas.Series(numbers)
    return None


def _frame(pandas: Any, rows: list[Row]) -> pd.DataFrame:
    columns = in_order(chain.from_iterable(rows))
    # A level is None where it is missing; as a column of strings, pandas 3 would make it NaN.
    series = {
        name: pandas.Series(values, dtype=object) if LEVEL.fullmatch(name) else _series(pandas, values)
        for name in columns
        for values in [[row.get(name) for row in rows]]
    }
    return pandas.DataFrame(series, index=range(len(rows)), columns=columns or None)


def _series(pandas: Any, values: list[Any]) -> pd.Series[Any]:
    """A column as pandas makes it, where that keeps its values."""
    kinds = set(map(type, values))
    is_missing = type(None) in kinds
    kinds.discard(type(None))
    dtype: Any = None
    if any(issubclass(kind, (np.datetime64, np.timedelta64)) for kind in kinds):
        return _series_of_times(pandas, values)
    if _all_are(kinds, _BOOL):
        dtype = "boolean" if is_missing else None
    elif any(issubclass(kind, _BOOL) for kind in kinds):
        pass  # flags among others stay flags
    elif _all_are(kinds, _INT):
        if is_missing:
            there = [value for value in values if value is not None]
            dtype = next((name for name, low, high in _INTS if low <= min(there) and max(there) <= high), object)
    elif _all_are(kinds - {float}, _NUMBER) and (len(kinds) > 1 or is_missing) and not all(map(_is_kept, values)):
        dtype = object
    try:
        return pandas.Series(values, dtype=dtype)
    except (OverflowError, ValueError):  # times that are too long for pandas
        return pandas.Series(values, dtype=object)


_BOOL = (bool, np.bool_)
_INT = (int, np.integer)
_NUMBER = (*_INT, float, complex, np.floating, np.complexfloating)
#: The dtypes of whole numbers beside missing ones.
_INTS = (("Int64", -(2**63), 2**63 - 1), ("UInt64", 0, 2**64 - 1))


def _is_kept(value: Any) -> bool:
    """Whether a number, or a missing one, is itself as a float or a complex of 64 bits each."""
    try:
        if isinstance(value, _INT):
            return float(value) == int(value)
        if isinstance(value, (np.longdouble, np.clongdouble)):
            return bool(value != value or complex(value) == value)
    except OverflowError:
        return False
    return True


def _all_are(kinds: set[type], wanted: tuple[type, ...]) -> bool:
    return bool(kinds) and all(issubclass(kind, wanted) for kind in kinds)


def _series_of_times(pandas: Any, values: list[Any]) -> pd.Series[Any]:
    """A column with times that Python can't hold: in pandas' dtype if one holds them all, as objects if none does."""
    there = [value for value in values if value is not None]
    kinds = {type(value) for value in there}
    unit = None
    has_zone = any(getattr(value, "tzinfo", None) is not None for value in there)
    is_one_kind = _all_are(kinds, (dt.datetime, np.datetime64)) or _all_are(kinds, (dt.timedelta, np.timedelta64))
    if is_one_kind and not has_zone:
        unit = common_unit(there)
    if unit is None or unit == "D":
        return pandas.Series(values, dtype=object)
    dtype = f"{'m' if _all_are(kinds, (dt.timedelta, np.timedelta64)) else 'M'}8[{unit}]"
    return pandas.Series(np.array([np.array("NaT" if value is None else value, dtype) for value in values], dtype))
