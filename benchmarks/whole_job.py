"""The whole job: from a folder of WAV files to features and a table, against what a user would write by hand.

Both sides compute the same features in two processes and end in a Parquet file; the second run finds some files changed
and some new. lotproc's side keeps files and features in a tree, the other in the table alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

import lotproc as lp
from benchmarks.corpora import build_wavs, change_wavs
from benchmarks.engines import start_workers
from benchmarks.job_by_hand import by_hand
from benchmarks.job_by_lotproc import by_lotproc
from benchmarks.measuring import Measured, in_fresh_process, seconds
from benchmarks.rows import LONGER, MICROSECONDS, Row, row
from benchmarks.trees import Digest, opened

Job = Callable[[Path, Path], None]


def first(job: Job, folder: Path, files: int) -> Measured:
    start_workers()
    output = folder / "output"
    return Measured(seconds(lambda: job(folder / "wavs", output)), of_table(output))


def again(job: Job, folder: Path, files: int) -> Measured:
    start_workers()
    output = folder / "output"
    job(folder / "wavs", output)
    change_wavs(folder, files)
    return Measured(seconds(lambda: job(folder / "wavs", output)), of_table(output))


def as_program(job: Job, folder: Path, files: int) -> Measured:
    """In a process of its own, which has to import all that it needs, and to start its workers."""
    return Measured(
        seconds(lambda: in_fresh_process(job, folder / "wavs", folder / "output")), of_table(folder / "output")
    )


def of_table(output: Path) -> Digest:
    table = pd.read_parquet(output / "features.parquet")
    return Digest(len(table), round(float(table["rms"].sum()), 6), round(1e6 * float(table["zero_crossings"].sum())))


# Ingest alone


def ingest(folder: Path, files: int, *, again: bool = False) -> Measured:
    with opened(folder) as database:
        root = database.open_connection()
        if again:
            lp.ingest_files(root, lp.index_files(folder / "wavs"))
        value = seconds(lambda: lp.ingest_files(root, lp.index_files(folder / "wavs")))
        count = sum(1 for _ in lp.scan("file", root))
    return Measured(value, Digest(count, 0.0, 0))


def index_in_sqlite(folder: Path, files: int, *, again: bool = False) -> Measured:
    """Each file's path, size and time."""
    with sqlite3.connect(folder / "files.sqlite") as database:
        database.execute("create table files (path text primary key, size integer, mtime_ns integer)")
        if again:
            insert_files(database, folder / "wavs")
        value = seconds(lambda: insert_files(database, folder / "wavs"))
        [(count,)] = database.execute("select count(*) from files")
    database.close()
    return Measured(value, Digest(count, 0.0, 0))


def insert_files(database: sqlite3.Connection, wavs: Path) -> None:
    found = ((str(path), path.stat()) for path in sorted(wavs.rglob("*.wav")))
    database.executemany(
        "insert or replace into files values (?, ?, ?)",
        ((path, status.st_size, status.st_mtime_ns) for path, status in found),
    )
    database.commit()


def rows(leaves: int) -> list[Row]:
    files = leaves // 10
    like = partial(row, size=files, build=build_wavs, writes=True)
    by_user = "`rglob`, `ProcessPoolExecutor`, pandas"
    sqlite = "`rglob`, `stat`, SQLite"
    return [
        like(
            f"{files:,} WAV files of 0.2 s: ingest, features in two processes, inline write, Parquet",
            by_user,
            partial(first, by_lotproc),
            partial(first, by_hand),
            3.5,
            LONGER,
        ),
        like(
            "the same again, 10 files new and 10 changed",
            "the same, by the paths, sizes and times in its table",
            partial(again, by_lotproc),
            partial(again, by_hand),
            7,
            LONGER,
        ),
        like(
            "the first run as a program of its own, with imports and the start of workers",
            by_user,
            partial(as_program, by_lotproc),
            partial(as_program, by_hand),
            None,
            LONGER,
        ),
        like("ingest by reference, a file", sqlite, ingest, index_in_sqlite, 25, MICROSECONDS, items=files),
        like(
            "ingest by reference again, nothing new, a file",
            sqlite,
            partial(ingest, again=True),
            partial(index_in_sqlite, again=True),
            8,
            MICROSECONDS,
            items=files,
        ),
    ]
