"""What is timed with directories: a function for each side of each row, as in `reading`. Every call takes the lock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dirdb import dirdb

from benchmarks.measuring import Measured, PeakMemory, seconds
from benchmarks.store_files import LARGE, SMALL, array, digest, directory_contents, names, values
from lotproc.stores import DirectoryStore

NAME = "array"


def put_small(folder: Path, entries: int, *, durable: bool = False) -> Measured:
    return timed_put(DirectoryStore(folder, durable=durable), folder, entries, SMALL)


def original_put_small(folder: Path, entries: int) -> Measured:
    return timed_put(dirdb(folder), folder, entries, SMALL)


def put_large(folder: Path, entries: int, *, durable: bool = False) -> Measured:
    return timed_put(DirectoryStore(folder, durable=durable), folder, entries, LARGE)


def original_put_large(folder: Path, entries: int) -> Measured:
    return timed_put(dirdb(folder), folder, entries, LARGE)


def timed_put(store: Any, folder: Path, entries: int, size: int) -> Measured:
    pairs = list(zip(names(entries), values(entries, size), strict=True))

    def put() -> None:
        for name, value in pairs:
            store.save_data(name, value)

    return Measured(seconds(put), digest(directory_contents(folder)))


def get(folder: Path, entries: int) -> Measured:
    return timed_get(DirectoryStore(folder), entries)


def original_get(folder: Path, entries: int) -> Measured:
    return timed_get(dirdb(folder), entries)


def timed_get(store: Any, entries: int) -> Measured:
    wanted = names(entries)

    def get() -> None:
        for name in wanted:
            store.get_data(name)

    return Measured(seconds(get), digest((name, store.get_data(name)) for name in wanted))


# One large array


def put_array(folder: Path, megabytes: int, *, durable: bool = False) -> Measured:
    return timed_put_array(DirectoryStore(folder, durable=durable), folder, megabytes)


def original_put_array(folder: Path, megabytes: int) -> Measured:
    return timed_put_array(dirdb(folder), folder, megabytes)


def timed_put_array(store: Any, folder: Path, megabytes: int) -> Measured:
    numbers = array(megabytes)
    return Measured(seconds(lambda: store.save_data(NAME, numbers)), digest(directory_contents(folder)))


def put_array_memory(folder: Path, megabytes: int) -> Measured:
    return put_array_peak(DirectoryStore(folder, durable=False), folder, megabytes)


def original_put_array_memory(folder: Path, megabytes: int) -> Measured:
    return put_array_peak(dirdb(folder), folder, megabytes)


def put_array_peak(store: Any, folder: Path, megabytes: int) -> Measured:
    """Megabytes that are held at the peak, above what is held with the array itself."""
    numbers = array(megabytes)
    with PeakMemory() as peak:
        store.save_data(NAME, numbers)
    return Measured(peak.megabytes, digest(directory_contents(folder)))
