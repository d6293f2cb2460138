"""One shard, mapped for reading: checked when it is opened, its records when they are first read."""

from __future__ import annotations

import mmap
import os
import sys
import zlib
from bisect import bisect_left
from contextlib import suppress
from typing import Any

import numpy as np

from ..._files import open_regular
from ...errors import DamagedStoreError
from .format import GROUP_BITS, Notes, group_count, read_footer, read_notes

__all__ = ["Shard"]

#: From Python 3.13 on, a memory map needs no descriptor of its own.
_UNTRACKED: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) and os.name == "posix" else {}
#: Ends that are looked at in one go.
WINDOW = 1 << 20


class Shard:
    """A file of records, mapped into memory.

    Args:
        path: What it is called.
        file: Where it lies now, which is another name while a set of shards is being replaced.
        check: Whether checksums are looked at.

    Raises:
        ForeignFileError: It is no archive, or no regular file.
        DamagedStoreError: It is one that can't be read.
        OSError: It can't be opened.
    """

    __slots__ = ("_map", "checked", "ends", "file", "groups", "identity", "index", "notes", "path", "raw", "view")

    def __init__(self, path: str, file: str, *, check: bool) -> None:
        self.path, self.file = path, file
        with open(file, "rb", opener=open_regular) as opened:
            status = os.fstat(opened.fileno())
            self.identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if status.st_size == 0:  # which can't be mapped
                read_footer(path, b"", b"", 0)
            self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ, **_UNTRACKED)
        data = memoryview(self._map)
        records, payload = read_footer(path, bytes(data[:8]), bytes(data[-24:]), len(data))
        self.view = data[:payload]
        self.raw = np.frombuffer(self._map, np.uint8, payload)
        self.index = np.frombuffer(self._map, "<i8", records, payload)
        if sys.byteorder == "little":
            self.ends = data[payload : payload + 8 * records].cast("q")
        else:
            self.ends = self.index.astype(np.int64).data
        self._check_ends()
        self.notes: Notes | None = None
        self.groups: np.ndarray[Any, Any] | None = None
        try:
            noted = read_notes(path, data, records, payload)
        except DamagedStoreError:
            if check:
                raise
            noted = None
        if noted is not None:
            self.notes, self.groups = noted
        #: For each group, whether there is nothing left to check.
        self.checked = bytearray(group_count(payload))
        if self.groups is None or not check:
            self.checked = bytearray(b"\1") * group_count(payload)

    def __len__(self) -> int:
        return len(self.ends)

    def origin(self) -> str | None:
        """What the archive has been known by since it was made; None where another program wrote the shard."""
        return None if self.notes is None else self.notes.origin or self.notes.set_id

    def start(self, record: int) -> int:
        """Where a record starts; of the one after the last, where the payload ends."""
        return self.ends[record - 1] if record else 0

    def check(self, first: int, stop: int) -> None:
        """Make sure that the records from `first` up to `stop` are what was written.

        Raises:
            DamagedStoreError: They are not; it names the records among which the damaged ones are.
        """
        if first < stop:
            group, last = self.start(first) >> GROUP_BITS, self.start(stop - 1) >> GROUP_BITS
            while (group := self.checked.find(0, group, last + 1)) >= 0:
                self._check_group(group)

    def check_bytes(self, start: int, stop: int) -> None:
        """Make sure that the payload's bytes from `start` up to `stop` are what was written, as `check` does."""
        self.check(bisect_left(self.ends, start + 1), min(bisect_left(self.ends, stop) + 1, len(self)))

    def damaged_groups(self) -> list[tuple[int, int]]:
        """The records from and up to which a checksum is wrong, however often they were read before."""
        groups = self.groups
        if groups is None or self.notes is None or zlib.crc32(self.view) == self.notes.payload_crc:
            return []
        records = map(self._records_of, range(len(groups)))
        return [found for group, found in enumerate(records) if not self._is_right(group, *found)]

    def close(self) -> None:
        """Let the file go, at once or with the last array that shows it."""
        for part in (self.ends, self.view):
            with suppress(BufferError):  # somebody has an array, or is reading; the map goes with it
                part.release()
        del self.ends, self.view, self.raw, self.index, self.groups
        with suppress(BufferError):
            self._map.close()
        del self._map

    def _check_ends(self) -> None:
        records, payload = len(self.ends), len(self.view)
        last = 0
        for first in range(0, records, WINDOW):
            ends = self.index[first : first + WINDOW]
            if int(ends[0]) < last or not bool((ends[1:] >= ends[:-1]).all()):
                raise DamagedStoreError(f"{self.path} is damaged: a record ends before the one that it follows")
            last = int(ends[-1])
        if last != payload:
            raise DamagedStoreError(
                f"{self.path} is damaged: its records have {last:,} bytes, and its footer tells of {payload:,}"
            )

    def _records_of(self, group: int) -> tuple[int, int]:
        """The first record that starts in a group, and the first that starts after it."""
        first = bisect_left(self.ends, group << GROUP_BITS) + 1 if group else 0
        stop = bisect_left(self.ends, (group + 1) << GROUP_BITS) + 1
        return min(first, len(self)), min(stop, len(self))

    def _is_right(self, group: int, first: int, stop: int) -> bool:
        assert self.groups is not None
        return zlib.crc32(self.view[self.start(first) : self.start(stop)]) == int(self.groups[group])

    def _check_group(self, group: int) -> None:
        first, stop = self._records_of(group)
        if not self._is_right(group, first, stop):
            raise DamagedStoreError(
                f"{self.path} is damaged: {among(first, stop)} of it is not what was written. verify() tells of "
                "all of them",
                hint="Archive(..., check=False) reads them as they are",
            )
        self.checked[group] = 1


def among(first: int, stop: int) -> str:
    """Name the records that share a checksum."""
    return f"record {first:,}" if stop - first == 1 else f"one of the records {first:,} to {stop - 1:,}"
