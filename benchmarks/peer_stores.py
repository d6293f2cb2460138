"""What else keeps 100,000 small records: SQLite, raw LMDB, Parquet, HF datasets; writing all, and reading all.

A record is a path and three attributes. Both sides take them from a list and have them on the disk at the end (or with
the system: no side waits for it), and read them as Python objects, one after the other.
"""

from __future__ import annotations

import os
import pickle
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import lmdb
import pyarrow as pa
import pyarrow.parquet

import lotproc as lp
from benchmarks.measuring import Measured, seconds
from benchmarks.rows import LONGER, Row, row
from benchmarks.store_files import MAP_SIZE
from benchmarks.trees import Digest, build_empty, digest, duration, leaf_path, opened, text

Record: TypeAlias = "tuple[str, float, str, int]"
NAMES = ("duration", "text", "samples")
COMMIT_EVERY = 10_000


def records(count: int) -> Iterator[Record]:
    """A key, and three attributes."""
    for index in range(count):
        yield "/".join(leaf_path(index)), duration(index), text(index), round(16_000 * duration(index))


def consumed(found: Iterable[Record]) -> Digest:
    """Use all of each record."""
    return digest(((key,), seconds + samples + len(said)) for key, seconds, said, samples in found)


# lotproc


def write_tree(folder: Path, made: list[Record]) -> None:
    results = (
        lp.ProcessResult(tuple(key.split("/")), attributes=dict(zip(NAMES, values, strict=True)))
        for key, *values in made
    )
    with opened(folder) as database:
        root = database.open_connection()
        lp.write(lp.fresh(), root, results, output_attribute=None, commit_every=COMMIT_EVERY)


def read_tree(folder: Path) -> Iterator[Record]:
    with opened(folder, read_only=True) as database:
        for record in lp.scan(NAMES, database.open_connection()):
            values = record.attributes
            yield "/".join(record.path), values["duration"], values["text"], values["samples"]


# SQLite


def write_sqlite(folder: Path, made: list[Record]) -> None:
    database = sqlite3.connect(folder / "records.sqlite")
    with database:
        database.execute("create table records (path text primary key, duration real, text text, samples integer)")
        database.executemany("insert into records values (?, ?, ?, ?)", made)
    database.close()


def read_sqlite(folder: Path, database: sqlite3.Connection | None = None) -> Iterator[Record]:
    """All records; over a connection that is open, since a second one holds up the first one's writing."""
    own = database or sqlite3.connect(folder / "records.sqlite")
    yield from own.execute("select path, duration, text, samples from records order by path")
    if own is not database:
        own.close()


# LMDB


def write_lmdb(folder: Path, made: list[Record]) -> None:
    with (
        lmdb.open(str(folder / "lmdb"), map_size=MAP_SIZE, sync=False) as environment,
        environment.begin(write=True) as transaction,
        transaction.cursor() as cursor,
    ):
        cursor.putmulti((key.encode(), pickle.dumps(values, 5)) for key, *values in made)


def read_lmdb(folder: Path) -> Iterator[Record]:
    with lmdb.open(str(folder / "lmdb"), readonly=True) as environment, environment.begin() as transaction:
        for key, data in transaction.cursor():
            yield (key.decode(), *pickle.loads(data))


# Parquet


def write_parquet(folder: Path, made: list[Record]) -> None:
    columns = dict(zip(("path", *NAMES), zip(*made, strict=True), strict=True))
    pa.parquet.write_table(pa.table(columns), folder / "records.parquet")


def read_parquet(folder: Path) -> Iterator[Record]:
    columns = pa.parquet.read_table(folder / "records.parquet").columns
    yield from zip(*(column.to_pylist() for column in columns), strict=True)


# HF datasets


def hf_datasets() -> Any:
    """The package, which must not ask the network for anything."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    datasets.disable_progress_bars()
    return datasets


def write_dataset(folder: Path, made: list[Record]) -> None:
    columns = zip(("path", *NAMES), map(list, zip(*made, strict=True)), strict=True)
    hf_datasets().Dataset.from_dict(dict(columns)).save_to_disk(folder / "dataset")


def read_dataset(folder: Path) -> Iterator[Record]:
    for found in hf_datasets().load_from_disk(folder / "dataset"):
        yield found["path"], found["duration"], found["text"], found["samples"]


Write: TypeAlias = Callable[[Path, "list[Record]"], None]
Read: TypeAlias = Callable[[Path], Iterator[Record]]

PEERS: dict[str, tuple[Write, Read]] = {
    "SQLite": (write_sqlite, read_sqlite),
    "raw LMDB": (write_lmdb, read_lmdb),
    "Parquet by `pyarrow`": (write_parquet, read_parquet),
    "HF `datasets`": (write_dataset, read_dataset),
}


def written(write: Write, read: Read, folder: Path, count: int) -> Measured:
    made = list(records(count))
    return Measured(seconds(lambda: write(folder, made)), consumed(read(folder)))


def as_read(write: Write, read: Read, folder: Path, count: int) -> Measured:
    write(folder, list(records(count)))
    found: list[Digest] = []
    return Measured(seconds(lambda: found.append(consumed(read(folder)))), found[0])


def rows(leaves: int) -> list[Row]:
    return [
        row(
            f"{what} {leaves:,} records, a record",
            peer,
            partial(side, write_tree, read_tree),
            partial(side, *theirs),
            None,
            LONGER,
            size=leaves,
            build=build_empty,
            items=leaves,
            writes=True,
        )
        for what, side in (("writing", written), ("reading", as_read))
        for peer, theirs in PEERS.items()
    ]
