"""What else processes 100,000 small records: read, double a number in each, keep the result.

With stores that is a loop in one process; HF datasets, joblib, Dask Bag and Ray use two.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import lmdb
import pyarrow as pa
import pyarrow.parquet
from toolz import concat, partition_all

import lotproc as lp
from benchmarks.engines import WORKERS, start_workers, started_ray
from benchmarks.measuring import Measured, seconds
from benchmarks.peer_stores import (
    Record,
    Write,
    hf_datasets,
    read_lmdb,
    read_parquet,
    read_sqlite,
    records,
    write_dataset,
    write_lmdb,
    write_parquet,
    write_sqlite,
    write_tree,
)
from benchmarks.rows import LONGER, Row, row
from benchmarks.store_files import MAP_SIZE
from benchmarks.trees import Digest, build_empty, digest, opened

BATCH = 100
RESULTS = lp.inline("_doubled")

#: Key and result of each record, to be looked at when the time is taken.
Results: TypeAlias = "Iterator[tuple[str, float]]"
Process: TypeAlias = Callable[[Path, "list[Record]"], Callable[[], Results]]


def doubled(record: lp.NodeRecord) -> float:
    return 2 * record.attributes["duration"]


def by_lotproc(folder: Path, made: list[Record], **where: Any) -> Callable[[], Results]:
    with opened(folder) as database:
        root = database.open_connection()
        results = lp.parallel_map(lp.outputs(doubled), lp.chunked(BATCH, lp.scan("duration", root)), **where)
        lp.write(RESULTS, root, results, commit_every=10_000)

    def look() -> Results:
        with opened(folder, read_only=True) as database:
            for found in lp.scan((), database.open_connection(), below={"result": RESULTS}, skip="_*"):
                yield "/".join(found.path), found.attributes["result"]

    return look


def in_line(folder: Path, made: list[Record]) -> Callable[[], Results]:
    return by_lotproc(folder, made, mode="sync")


def in_workers(folder: Path, made: list[Record]) -> Callable[[], Results]:
    return by_lotproc(folder, made, max_workers=WORKERS)


# One process


def in_sqlite(folder: Path, made: list[Record]) -> Callable[[], Results]:
    database = sqlite3.connect(folder / "records.sqlite")
    with database:
        database.execute("create table results (path text primary key, result real)")
        results = ((path, 2 * duration) for path, duration, *_ in read_sqlite(folder, database))
        database.executemany("insert into results values (?, ?)", results)
    return lambda: iter(database.execute("select path, result from results order by path"))


def in_lmdb(folder: Path, made: list[Record]) -> Callable[[], Results]:
    with (
        lmdb.open(str(folder / "results"), map_size=MAP_SIZE, sync=False) as environment,
        environment.begin(write=True) as transaction,
        transaction.cursor() as cursor,
    ):
        results = ((path, 2 * duration) for path, duration, *_ in read_lmdb(folder))
        cursor.putmulti((path.encode(), pickle.dumps(result, 5)) for path, result in results)

    def look() -> Results:
        with lmdb.open(str(folder / "results"), readonly=True) as environment, environment.begin() as transaction:
            yield from ((key.decode(), pickle.loads(data)) for key, data in transaction.cursor())

    return look


def in_parquet(folder: Path, made: list[Record]) -> Callable[[], Results]:
    paths, results = zip(*((path, 2 * duration) for path, duration, *_ in read_parquet(folder)), strict=True)
    pa.parquet.write_table(pa.table({"path": paths, "result": results}), folder / "results.parquet")

    def look() -> Results:
        columns = pa.parquet.read_table(folder / "results.parquet").columns
        yield from zip(*(column.to_pylist() for column in columns), strict=True)

    return look


# Two processes


def doubled_row(found: dict[str, Any]) -> dict[str, float]:
    return {"result": 2 * found["duration"]}


def in_datasets(folder: Path, made: list[Record]) -> Callable[[], Results]:
    dataset = hf_datasets().load_from_disk(folder / "dataset").map(doubled_row, num_proc=WORKERS)
    return lambda: ((found["path"], found["result"]) for found in dataset)


def double_all(batch: list[Record]) -> list[tuple[str, float]]:
    return [(path, 2 * duration) for path, duration, *_ in batch]


def in_joblib(folder: Path, made: list[Record]) -> Callable[[], Results]:
    import joblib

    calls = (joblib.delayed(double_all)(batch) for batch in partition_all(BATCH, made))
    results = joblib.Parallel(n_jobs=WORKERS)(calls)
    return lambda: concat(results)


def doubled_tuple(record: Record) -> tuple[str, float]:
    path, duration, *_ = record
    return path, 2 * duration


def in_dask(folder: Path, made: list[Record]) -> Callable[[], Results]:
    import dask.bag

    bag = dask.bag.from_sequence(made, partition_size=1_000).map(doubled_tuple)
    results = bag.compute(scheduler="processes", num_workers=WORKERS)
    return lambda: iter(results)


def in_ray(folder: Path, made: list[Record]) -> Callable[[], Results]:
    ray = started_ray()
    task = ray.remote(double_all)
    results = ray.get([task.remote(batch) for batch in partition_all(BATCH, made)])
    return lambda: concat(results)


def nothing(folder: Path, made: list[Record]) -> None:
    """What is processed is in memory."""


#: For each peer, how its records are stored, and how it processes them; ours beside it.
PEERS: dict[str, tuple[Write, Process, Process]] = {
    "SQLite, a loop": (write_sqlite, in_sqlite, in_line),
    "raw LMDB, a loop": (write_lmdb, in_lmdb, in_line),
    "Parquet by `pyarrow`, a loop": (write_parquet, in_parquet, in_line),
    "HF `datasets.map`, two processes": (write_dataset, in_datasets, in_workers),
    "`joblib.Parallel`, two processes": (nothing, in_joblib, in_workers),
    "Dask Bag, two processes": (nothing, in_dask, in_workers),
    "Ray tasks, two processes": (nothing, in_ray, in_workers),
}


def processed(write: Write, process: Process, folder: Path, count: int) -> Measured:
    made = list(records(count))
    write(folder, made)
    if process is in_workers:
        start_workers()
    elif process is in_ray:
        started_ray()
    found: list[Callable[[], Results]] = []
    value = seconds(lambda: found.append(process(folder, made)))
    return Measured(value, look_at(found[0]()))


def look_at(results: Results) -> Digest:
    return digest(((key,), result) for key, result in results)


def rows(leaves: int) -> list[Row]:
    return [
        row(
            f"processing {leaves:,} records, {'in line' if ours is in_line else 'two processes'}, a record",
            peer,
            partial(processed, write_tree, ours),
            partial(processed, write, theirs),
            None,
            LONGER,
            size=leaves,
            build=build_empty,
            items=leaves,
            writes=True,
        )
        for peer, (write, theirs, ours) in PEERS.items()
    ]
