"""The index of an archive by path: which record a path means, and which records lost theirs to a newer one."""

from __future__ import annotations

import copy
import json
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .keys import KeyFile, KeyLine
from .shards import Shard

__all__ = ["PathIndex"]


class PathIndex:
    """The keys of an archive; a record without one has its number for a path. It holds 32 bytes for each key.

    Args:
        shards: The shards.
        files: What each has beside it: keys, nothing, or why they can't be read.

    Raises:
        DamagedStoreError: The keys of a shard can't be read.
    """

    def __init__(self, shards: Sequence[Shard], files: Sequence[KeyFile | Exception | None]) -> None:
        self._shards, self._files = shards, [*map(_learned, shards, files)]
        self._firsts = np.cumsum([0, *map(len, shards)]).tolist()
        numbers, hashes = array("q"), array("q")
        for first, file in zip(self._firsts, self._files, strict=False):
            if file is not None:
                numbers.frombytes((np.array(file.records, np.int64) + first).tobytes())
                hashes.extend(file.hashes)
        table = np.array(hashes, np.int64)
        order = np.argsort(table, kind="stable")
        self._hashes, self._numbers = table[order], np.array(numbers, np.int64)[order]
        self._superseded: set[int] | None = None

    def line(self, part: int, record: int) -> KeyLine | None:
        """The line of a record, by its shard's number and its own there."""
        file = self._files[part]
        return None if file is None else file.line(record)

    def find(self, path: bytes) -> int | None:
        """The newest record with a path, given as text."""
        wanted = hash(path)
        found = int(np.searchsorted(self._hashes, wanted, "right"))
        number = None
        while found and int(self._hashes[found - 1]) == wanted and number is None:
            found -= 1
            line = self._line_of(int(self._numbers[found]))
            if line is not None and line.path == path:
                number = int(self._numbers[found])
        own = _as_number(json.loads(path))
        if own is not None and own < self._firsts[-1] and (number is None or own > number):
            line = self._line_of(own)
            if line is None or line.path == b"null":
                return own
        return number

    def newest(self) -> Iterator[tuple[int, tuple[str, ...], dict[str, Any] | None]]:
        """The number, the path and the attributes of all records, but for those whose path means a newer one."""
        if self._superseded is None:
            self._superseded = self._find_superseded()
        superseded = self._superseded
        for first, shard, file in zip(self._firsts, self._shards, self._files, strict=False):
            lines = iter(()) if file is None else file.lines()
            line = next(lines, None)
            for number in range(first, first + len(shard)):
                if line is not None and line.record == number - first:
                    keyed, line = line, next(lines, None)
                    path, attributes = keyed.as_path(), keyed.as_attributes()
                else:
                    path, attributes = None, None
                if number not in superseded:
                    yield number, (str(number),) if path is None else path, attributes

    def _find_superseded(self) -> set[int]:
        again = self._hashes[1:][self._hashes[1:] == self._hashes[:-1]]
        doubtful = set(again.tolist())
        doubtful.discard(hash(b"null"))
        superseded: set[int] = set()
        newest: dict[bytes, int] = {}
        for first, file in zip(self._firsts, self._files, strict=False):
            if file is None:
                continue
            if doubtful and not doubtful.isdisjoint(file.hashes):
                for line in file.lines():
                    if hash(line.path) in doubtful:
                        older = newest.get(line.path)
                        if older is not None:
                            superseded.add(older)
                        newest[line.path] = first + line.record
            for record in file.numbers:
                keyed = file.line(record)
                own = None if keyed is None else _as_number(keyed.as_path())
                if own is not None and own < self._firsts[-1] and own != first + record:
                    other = self._line_of(own)
                    if other is None or other.path == b"null":
                        superseded.add(min(own, first + record))
        return superseded

    def _line_of(self, number: int) -> KeyLine | None:
        part = int(np.searchsorted(self._firsts, number, "right")) - 1
        while self._firsts[part + 1] <= number:  # shards without records
            part += 1
        return self.line(part, number - self._firsts[part])


def _learned(shard: Shard, file: KeyFile | Exception | None) -> KeyFile | None:
    if isinstance(file, Exception):
        raise copy.copy(file)  # so that what is kept does not keep frames, and the files there
    if file is not None:
        file.learn(shard)
    return file


def _as_number(path: Sequence[str] | None) -> int | None:
    """The number that a record without a key has this path for."""
    if path is None or len(path) != 1 or not path[0].isascii() or not path[0].isdigit():
        return None
    number = int(path[0]) if len(path[0]) < 20 else -1
    return number if str(number) == path[0] else None
