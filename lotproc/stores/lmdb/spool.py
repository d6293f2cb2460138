"""Spooling items for one transaction: in memory while they are few, then in a file without a name."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from operator import lt
from typing import IO, Any, TypeAlias

from .errors import os_error

__all__ = ["Sorted", "Spool", "store_pairs"]

#: A key and its value, both as LMDB takes them.
Pair: TypeAlias = "tuple[bytes, bytes]"
#: Pairs by key, each key once, and the first of the keys.
Sorted: TypeAlias = "tuple[bytes, Iterable[Pair]]"


class Spool:
    """Takes pairs in chunks and gives them back, as often as a transaction has to begin anew.

    Each chunk is sorted, which is what LMDB stores fastest; of equal keys the one that came last is the last.

    Args:
        folder: Where the file is made, if one is needed: a folder that is on a disk, as the store's own.
        max_bytes: Bytes of the pairs in memory.
    """

    def __init__(self, folder: str, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._keys: list[bytes] = []
        self._values: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._size_held = 0
        #: Bytes of all pairs.
        self.size = 0

    def add(self, keys: list[bytes], values: list[bytes]) -> None:
        """Take some pairs."""
        self._keys += keys
        self._values += values
        size = sum(map(len, keys)) + sum(map(len, values))
        self.size += size
        self._size_held += size
        if self._size_held > self._max_bytes:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix=".lotproc-", dir=self._folder)  # noqa: SIM115
        try:
            pickle.dump((self._keys, self._values), self._file, 5)
            self._file.flush()
        except OSError as error:
            where = f"the LMDB store in {self._folder}: its temporary file for put_many"
            raise os_error(error.errno or 0, where, self._folder, self._size_held) from error
        self._keys, self._values, self._size_held = [], [], 0

    def chunks(self) -> Iterator[Sorted]:
        """All pairs, from the beginning."""
        if self._file is not None:
            end = self._file.seek(0, 2)
            self._file.seek(0)
            while self._file.tell() < end:
                yield in_order(*pickle.load(self._file))
        if self._keys:
            yield in_order(self._keys, self._values)

    def close(self) -> None:
        """Give up the file."""
        self._keys, self._values = [], []
        if self._file is not None:
            with suppress(OSError):  # of what could not be written before
                self._file.close()


def in_order(keys: list[bytes], values: list[bytes]) -> Sorted:
    """Pairs by key; the last value of equal keys.

    >>> first, pairs = in_order([b"b", b"a", b"b"], [b"1", b"2", b"3"])
    >>> first, list(pairs)
    (b'a', [(b'a', b'2'), (b'b', b'3')])
    """
    if not all(map(lt, keys, keys[1:])):
        last = dict(zip(keys, values, strict=True))
        keys = sorted(last)
        values = [last[key] for key in keys]
    return keys[0], zip(keys, values, strict=True)


def store_pairs(transaction: Any, chunks: Iterable[Sorted]) -> None:
    """Put chunks of pairs; those after the file's last key without looking for their place."""
    with transaction.cursor() as cursor:
        for first, pairs in chunks:
            cursor.putmulti(pairs, append=not cursor.last() or cursor.key() < first)
