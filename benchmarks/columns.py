"""Columns out of a tree: to Arrow, Parquet and pandas, against reading or writing the same by these alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

import lotproc as lp
from benchmarks.corpora import TABLE, build_with_table
from benchmarks.measuring import Measured, seconds
from benchmarks.rows import MICROSECONDS, Row, row
from benchmarks.trees import Digest, opened

NAMES = ("duration", "text", "samples")
OUT = "out.parquet"


def of_table(table: pa.Table) -> Digest:
    """The rows of a table, the sum of two columns, and the names of all."""
    compute = pyarrow.compute.sum
    total = compute(table["duration"]).as_py() + compute(table["samples"]).as_py()
    return Digest(table.num_rows, total, len("".join(table.column_names)))


def from_scan(make: Callable[[Any], object], folder: Path, look: Callable[[Any], Any]) -> Measured:
    """Make something of a scan; how it is looked at is outside the timed part."""
    made: list[Any] = []
    with opened(folder, read_only=True) as database:
        root = database.open_connection()
        value = seconds(lambda: made.append(make(lp.scan(NAMES, root))))
    return Measured(value, of_table(look(made[0])))


def to_arrow(folder: Path, leaves: int) -> Measured:
    return from_scan(lp.to_arrow, folder, lambda made: made)


def read_table(folder: Path, leaves: int) -> Measured:
    made: list[pa.Table] = []
    return Measured(seconds(lambda: made.append(pa.parquet.read_table(folder / TABLE))), of_table(made[0]))


def to_dataframe(folder: Path, leaves: int) -> Measured:
    return from_scan(lp.to_dataframe, folder, lambda made: pa.Table.from_pandas(made, preserve_index=False))


def read_dataframe(folder: Path, leaves: int) -> Measured:
    made: list[pd.DataFrame] = []
    value = seconds(lambda: made.append(pd.read_parquet(folder / TABLE)))
    return Measured(value, of_table(pa.Table.from_pandas(made[0], preserve_index=False)))


def to_parquet(folder: Path, leaves: int) -> Measured:
    return from_scan(lp.to_parquet(folder / OUT), folder, lambda made: pa.parquet.read_table(folder / OUT))


def write_table(folder: Path, leaves: int) -> Measured:
    table = pa.parquet.read_table(folder / TABLE)
    value = seconds(lambda: pa.parquet.write_table(table, folder / OUT, row_group_size=10_000))
    return Measured(value, of_table(pa.parquet.read_table(folder / OUT)))


def rows(leaves: int) -> list[Row]:
    return [
        row(work, peer, ours, theirs, target, MICROSECONDS, size=leaves, build=build_with_table, items=leaves, **more)
        for work, peer, ours, theirs, target, more in (
            ("`to_arrow(scan)` of 3 attributes, a record", "`pyarrow` reads Parquet", to_arrow, read_table, 1.8, {}),
            (
                "`to_dataframe(scan)` of 3 attributes, a record",
                "pandas reads Parquet",
                to_dataframe,
                read_dataframe,
                2.5,
                {},
            ),
            (
                "`to_parquet(scan)` of 3 attributes, a record",
                "`pyarrow` writes a table that is in memory",
                to_parquet,
                write_table,
                2.5,
                {"writes": True},
            ),
        )
    ]
