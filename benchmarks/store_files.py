"""The stores that the benchmark works on: what is in them, and how it is read back.

A record has the path of a leaf as its key, and bytes as its value.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from random import Random
from typing import Any, TypeAlias
from zlib import crc32

import lmdb
import numpy as np
from dirdb import dirdb
from roxxel import Roxxel

from benchmarks.trees import Digest, leaf_path
from lotproc.stores import Archive

Pair: TypeAlias = "tuple[str, Any]"

SMALL, LARGE = 100, 100_000  # bytes of a value
MAP_SIZE = 1 << 30  # bytes, so that no map has to grow
SHARD_SIZE = 1 << 20  # bytes
ARCHIVE = "records.rox"
SHARDS = "records_*.rox"
APPENDED = bytes(range(SMALL))


def keys(records: int) -> list[str]:
    """The keys of so many records, in order."""
    return ["/".join(leaf_path(index)) for index in range(records)]


def values(records: int, size: int = SMALL) -> list[bytes]:
    """The values of so many records, the same each time."""
    everything = Random(0).randbytes(records * size)
    return [everything[start : start + size] for start in range(0, len(everything), size)]


def pairs(records: int, *, shuffled: bool = False) -> list[Pair]:
    """Keys and values, in the order of the keys or in another one, the same each time."""
    found = list(zip(keys(records), values(records), strict=True))
    if shuffled:
        Random(1).shuffle(found)
    return found


def names(records: int) -> list[str]:
    """The names of the entries of a directory."""
    return [key.replace("/", "-") for key in keys(records)]


def array(megabytes: int) -> np.ndarray[Any, Any]:
    """Numbers, and so many megabytes of them."""
    return np.arange(megabytes * 250_000, dtype=np.float32)


def digest(found: Iterable[tuple[str, Any]]) -> Digest:
    """How many values there are, their bytes, and which they are, with their keys. This is outside the timed part."""
    records = size = places = 0
    for key, value in found:
        records += 1
        size += len(value)
        places += crc32(value, crc32(key.encode()))
    return Digest(records, size, places)


# Building


def build_nothing(folder: Path, records: int) -> None:
    """Build an empty folder, for a store to be made in."""
    folder.mkdir(parents=True)


def build_lmdb(folder: Path, records: int) -> None:
    """Build an LMDB database by the package `lmdb` alone."""
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=MAP_SIZE) as environment, environment.begin(write=True) as transaction:
        for key, value in pairs(records):
            transaction.put(key.encode(), pickle.dumps(value, 5))


def build_archive(folder: Path, records: int) -> None:
    """Build an archive of one file, by lotproc, so that it has the checksums that lotproc looks at."""
    folder.mkdir(parents=True)
    with Archive(folder / ARCHIVE, "w") as archive:
        archive.write(values(records))


def build_shards(folder: Path, records: int) -> None:
    """Build an archive of many small files."""
    folder.mkdir(parents=True)
    with Archive(folder / ARCHIVE, "w", max_shard_bytes=SHARD_SIZE) as archive:
        archive.write(values(records))


def build_small_entries(folder: Path, records: int) -> None:
    """Build a directory of small values, by dirdb."""
    _build_directory(folder, records, SMALL)


def build_large_entries(folder: Path, records: int) -> None:
    """Build a directory of large values, by dirdb."""
    _build_directory(folder, records, LARGE)


def _build_directory(folder: Path, records: int, size: int) -> None:
    database = dirdb(folder)
    for name, value in zip(names(records), values(records, size), strict=True):
        database.save_data(name, value)


# Reading back what was written, by the original packages


def lmdb_contents(folder: Path) -> Iterator[Pair]:
    """What is in an LMDB database."""
    with lmdb.open(str(folder), map_size=MAP_SIZE) as environment, environment.begin() as transaction:
        for key, data in transaction.cursor():
            yield key.decode(), pickle.loads(data)


def archive_contents(folder: Path, pattern: str = ARCHIVE) -> Iterator[Pair]:
    """What roxxel reads of an archive; the key is the number."""
    with Roxxel(str(folder / pattern)) as archive:
        for number in range(len(archive)):
            yield str(number), archive[number]


def directory_contents(folder: Path) -> Iterator[Pair]:
    """What dirdb reads of a directory."""
    for entry in sorted(dirdb(folder)):
        yield entry.name, entry.get_data()


def silent() -> redirect_stdout[None]:
    """Let nothing that is printed be seen: roxxel tells what it does."""
    return redirect_stdout(None)
