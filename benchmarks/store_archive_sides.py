"""What is timed with archives: a function for each side of each row, as in `reading`."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from roxxel import Roxxel

from benchmarks.measuring import Measured, seconds
from benchmarks.store_files import (
    APPENDED,
    ARCHIVE,
    SHARD_SIZE,
    SHARDS,
    archive_contents,
    digest,
    silent,
    values,
)
from lotproc.stores import Archive

# Reading


def random_reads(folder: Path, records: int) -> Measured:
    with Archive(folder / ARCHIVE) as archive:
        return timed_random_reads(archive, records)


def original_random_reads(folder: Path, records: int) -> Measured:
    with Roxxel(str(folder / ARCHIVE)) as archive:
        return timed_random_reads(archive, records)


def timed_random_reads(archive: Any, records: int) -> Measured:
    numbers = Random(2).sample(range(records), records)

    def read() -> None:
        for number in numbers:
            archive[number]

    return Measured(seconds(read), digest((str(number), archive[number]) for number in numbers))


def iterate(folder: Path, records: int) -> Measured:
    with Archive(folder / ARCHIVE) as archive:
        return timed_iteration(archive)


def original_iterate(folder: Path, records: int) -> Measured:
    with Roxxel(str(folder / ARCHIVE)) as archive:
        return timed_iteration(archive)


def timed_iteration(archive: Any) -> Measured:
    def read() -> None:
        for _record in archive:
            pass

    return Measured(seconds(read), digest((str(number), record) for number, record in enumerate(archive)))


# Writing: opening and finishing are part of it


def write(folder: Path, records: int, *, durable: bool = False) -> Measured:
    payloads = values(records)

    def write() -> None:
        with Archive(folder / ARCHIVE, "w", durable=durable) as archive:
            archive.write(payloads)

    return Measured(seconds(write), digest(archive_contents(folder)))


def original_write(folder: Path, records: int) -> Measured:
    payloads = values(records)
    with silent():
        taken = seconds(lambda: Roxxel(str(folder / ARCHIVE)).write(payloads))
    return Measured(taken, digest(archive_contents(folder)))


def append(folder: Path, records: int, *, durable: bool = False) -> Measured:
    return timed_append(folder, ARCHIVE, None, durable)


def append_to_shard(folder: Path, records: int, *, durable: bool = False) -> Measured:
    return timed_append(folder, SHARDS, SHARD_SIZE, durable)


def timed_append(folder: Path, files: str, max_shard_bytes: int | None, durable: bool) -> Measured:
    def append() -> None:
        with Archive(folder / ARCHIVE, "a", max_shard_bytes=max_shard_bytes, durable=durable) as archive:
            archive.write([APPENDED])  # the same call as theirs; `append` tells the number as well

    return Measured(seconds(append), digest(archive_contents(folder, files)))


def original_append(folder: Path, records: int) -> Measured:
    return timed_original_append(folder, ARCHIVE, None)


def original_append_to_shard(folder: Path, records: int) -> Measured:
    return timed_original_append(folder, SHARDS, SHARD_SIZE)


def timed_original_append(folder: Path, files: str, max_shard_bytes: int | None) -> Measured:
    with silent():
        taken = seconds(lambda: Roxxel(str(folder / ARCHIVE)).write([APPENDED], max_shard_bytes))
    return Measured(taken, digest(archive_contents(folder, files)))
