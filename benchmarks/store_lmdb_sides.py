"""What is timed with LMDB: a function for each side of each row, as in `reading`.

The disk is waited for on both sides or on neither, and no map has to grow.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb
from lmdb_object_store import LmdbObjectStore

from benchmarks.measuring import Measured, seconds
from benchmarks.store_files import MAP_SIZE, Pair, digest, keys, lmdb_contents, pairs
from lotproc.stores import LmdbStore

BATCH = 1_000  # values that are stored, or asked for, together; what both packages do by default


def ours(folder: Path, **options: Any) -> LmdbStore:
    return LmdbStore(folder, BATCH, map_size=MAP_SIZE, **options)


def theirs(folder: Path, **options: Any) -> LmdbObjectStore:
    return LmdbObjectStore(str(folder), BATCH, key_encoding="utf-8", map_size=MAP_SIZE, **options)


# Writing many at once


def put_many(folder: Path, records: int, *, sync: bool = False, shuffled: bool = False) -> Measured:
    items = pairs(records, shuffled=shuffled)
    with ours(folder, sync=sync) as store:
        taken = seconds(lambda: store.put_many(items))
    return Measured(taken, digest(lmdb_contents(folder)))


def original_put_many(folder: Path, records: int, *, sync: bool = False, shuffled: bool = False) -> Measured:
    items = pairs(records, shuffled=shuffled)
    with theirs(folder, sync=sync) as store:
        taken = seconds(lambda: store.put_many(items))
    return Measured(taken, digest(lmdb_contents(folder)))


def raw_putmulti(folder: Path, records: int) -> Measured:
    """The fastest way."""
    items = pairs(records)

    def put() -> None:
        with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti((key.encode(), pickle.dumps(value, 5)) for key, value in items)

    with lmdb.open(str(folder), map_size=MAP_SIZE, sync=False) as environment:
        taken = seconds(put)
    return Measured(taken, digest(lmdb_contents(folder)))


# Writing one after the other


def put(folder: Path, records: int, *, sync: bool = False, shuffled: bool = False) -> Measured:
    items = pairs(records, shuffled=shuffled)
    with ours(folder, sync=sync) as store:
        taken = seconds(lambda: put_each(store, items))
    return Measured(taken, digest(lmdb_contents(folder)))


def original_put(folder: Path, records: int, *, sync: bool = False, shuffled: bool = False) -> Measured:
    items = pairs(records, shuffled=shuffled)
    with theirs(folder, sync=sync) as store:
        taken = seconds(lambda: put_each(store, items))
    return Measured(taken, digest(lmdb_contents(folder)))


def put_each(store: Any, items: list[Pair]) -> None:
    for key, value in items:
        store.put(key, value)
    store.flush()


def raw_put_all(folder: Path, records: int) -> Measured:
    return raw_put(folder, records, batch=records)


def raw_put(folder: Path, records: int, *, batch: int = BATCH) -> Measured:
    """The usual way."""
    items = pairs(records)

    def put() -> None:
        left = iter(items)
        while some := list(islice(left, batch)):
            with environment.begin(write=True) as transaction:
                for key, value in some:
                    transaction.put(key.encode(), pickle.dumps(value, 5))

    with lmdb.open(str(folder), map_size=MAP_SIZE, sync=False) as environment:
        taken = seconds(put)
    return Measured(taken, digest(lmdb_contents(folder)))


# Reading


def items(folder: Path, records: int) -> Measured:
    with ours(folder) as store:
        return Measured(seconds(lambda: go_through(store.items())), digest(store.items()))


def original_get_many(folder: Path, records: int) -> Measured:
    """Its only way to read all values is to know all keys."""
    known = keys(records)

    def items() -> Iterator[Pair]:
        for first in range(0, len(known), BATCH):
            found, _ = store.get_many(known[first : first + BATCH], decode_keys=True)
            yield from found.items()

    with theirs(folder) as store:
        return Measured(seconds(lambda: go_through(items())), digest(items()))


def go_through(items: Any) -> None:
    for _key, _value in items:
        pass


def raw_items(folder: Path, records: int) -> Measured:
    def read() -> None:
        with environment.begin() as transaction:
            for key, data in transaction.cursor():
                _key, _value = key.decode(), pickle.loads(data)

    with lmdb.open(str(folder), map_size=MAP_SIZE) as environment:
        taken = seconds(read)
    return Measured(taken, digest(lmdb_contents(folder)))
