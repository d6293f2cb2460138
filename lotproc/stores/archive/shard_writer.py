"""Writing a shard of an archive: a file that nobody sees yet, which goes on from an old shard or begins."""

from __future__ import annotations

import os
import zlib
from array import array
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from ..._files import open_regular
from ...errors import ArgumentError, DamagedStoreError
from .format import GROUP_BITS, Notes, built_end, group_count, most_bytes
from .keys import KeySpool, noted_keys, open_keys, write_all
from .publishing import temporary_beside
from .shards import Shard
from .target import Target

__all__ = ["ShardWriter", "fitting", "read_back"]


class ShardWriter:
    """A new file that goes on from an old shard, or begins.

    Args:
        target: Where the archive is written.
        path: What the file is to be called.
        old: The shard that it starts with.
    """

    def __init__(self, target: Target, path: str, old: Shard | None) -> None:
        self.target, self.path, self.old = target, path, old
        self.temporary = temporary_beside(target.base)
        self.records = self.payload = self.index_crc = self.payload_crc = 0
        self.groups = array("I")
        self.ends: list[np.ndarray[Any, Any]] = []
        self.keys: KeySpool | None = None
        self.notes: Notes | None = None
        self.file = open(self.temporary, "xb+", buffering=0)  # noqa: SIM115
        if old is not None:
            try:
                self._go_on(old)
            except BaseException:
                self.discard()
                raise

    def _go_on(self, old: Shard) -> None:
        self.records, self.payload = len(old), len(old.view)
        with open(old.file, "rb", opener=open_regular) as source:
            status = os.fstat(source.fileno())
            if (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) != old.identity:
                raise DamagedStoreError(f"{self.path} was changed by another program while it was opened for appending")
            _copy(source, self.file, 0, self.payload, 0)
        if old.notes is not None and old.groups is not None:
            self.index_crc, self.payload_crc = old.notes.index_crc, old.notes.payload_crc
            self.groups = array("I", old.groups.astype(np.uint32).tobytes())
        else:  # another program wrote it
            self.index_crc, self.payload_crc = zlib.crc32(old.index.data), zlib.crc32(old.view)
            bounds = [old._records_of(group) for group in range(group_count(self.payload))]
            self.groups.extend(zlib.crc32(old.view[old.start(first) : old.start(stop)]) for first, stop in bounds)

    def put(self, data: bytes | memoryview, sizes: np.ndarray[Any, Any], keys: bytes) -> None:
        """Add records; when they don't fit on the disk, none of them is there.

        Args:
            data: Their bytes, one after the other.
            sizes: How many each has.
            keys: Their lines in the file of keys; empty where none of them has one.
        """
        write_all(self.file, data, self.payload)
        if keys:
            if self.keys is None:
                noted = None
                if self.old is not None and (noted := noted_keys(self.old)) is not None:
                    open_keys(self.old)  # refuses another file in its place, before anything is written to it
                self.keys = KeySpool(f"{self.temporary[:-4]}-keys.tmp", noted)
            self.keys.put(b'{"first":%d}\n' % self.records + keys)
        ends = np.cumsum(sizes)
        ends += self.payload
        starts = ends - sizes
        groups = starts >> GROUP_BITS
        firsts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
        bounds = (starts[firsts] - self.payload).tolist()
        view = memoryview(data)
        for group, start, stop in zip(groups[firsts].tolist(), bounds, [*bounds[1:], len(data)], strict=True):
            self.groups.extend([0] * (group + 1 - len(self.groups)))
            self.groups[group] = zlib.crc32(view[start:stop], self.groups[group])
        stored = ends.astype("<i8", copy=False)
        self.ends.append(stored)
        self.index_crc = zlib.crc32(stored.data, self.index_crc)
        self.payload_crc = zlib.crc32(data, self.payload_crc)
        self.records += len(sizes)
        self.payload += len(data)

    def how_many_fit(self, sizes: np.ndarray[Any, Any]) -> int:
        """How many of the next records the shard has room for."""
        return fitting(self.target, self.records, self.payload, sizes)

    def state(self) -> tuple[Any, ...]:
        """What `restore` takes."""
        keys = None if self.keys is None else self.keys.state()
        return (
            (self.records, self.payload, self.index_crc, self.payload_crc),
            self.groups[:],
            (self.ends, len(self.ends)),
            keys,
        )

    def restore(self, state: tuple[Any, ...]) -> None:
        """Drop what was added since, whether the file was finished or not."""
        (self.records, self.payload, self.index_crc, self.payload_crc), self.groups, (self.ends, count), keys = state
        del self.ends[count:]
        self.notes = None
        if self.file.closed:
            self.file = open(self.temporary, "r+b", buffering=0)  # noqa: SIM115
        self.file.truncate(self.payload)
        if self.keys is not None and keys is not None:
            self.keys.restore(keys)
        elif self.keys is not None:
            self.keys.close()
            os.unlink(self.keys.path)
            self.keys = None

    def finish(self, *, follows: bool) -> None:
        """Write what comes after the records, and close the file."""
        target = self.target
        groups = self.groups[:]
        groups.extend([0] * (group_count(self.payload) - len(groups)))
        commit = (self.records, self.payload, self.index_crc, self.payload_crc)
        keys = self.old.notes.keys if self.old is not None and self.old.notes is not None else None
        if self.keys is not None:
            keys = self.keys.finish(commit, durable=target.durable)
        elif self.old is not None and self.old.notes is None:
            keys = noted_keys(self.old)
        crcs = self.index_crc, self.payload_crc
        notes = Notes(self.records, self.payload, target.codec, target.set_id, *crcs, keys, follows, target.origin)
        at = self.payload
        if self.old is not None and len(self.old):
            with open(self.old.file, "rb", opener=open_regular) as source:
                at += _copy(source, self.file, len(self.old.view), 8 * len(self.old), at)
        if self.ends:
            ends = np.concatenate(self.ends)
            write_all(self.file, ends.data.cast("B"), at)
            at += ends.nbytes
        write_all(self.file, built_end(notes, np.array(groups, "<u4").tobytes()), at)
        if target.durable:
            os.fsync(self.file.fileno())
        self.file.close()
        self.ends, self.notes = [], notes

    def discard(self) -> None:
        """Remove the file."""
        self.file.close()
        if self.keys is not None:
            self.keys.close()
            with suppress(OSError):
                os.unlink(self.keys.path)
        with suppress(OSError):
            os.unlink(self.temporary)


def fitting(target: Target, records: int, payload: int, sizes: np.ndarray[Any, Any]) -> int:
    """How many of the next records a shard has room for that has so many; one always fits into an empty one."""
    if target.limit is None:
        return len(sizes)
    ends = np.cumsum(sizes) + payload
    counts = np.arange(records + 1, records + len(sizes) + 1)
    count = int(np.searchsorted(most_bytes(ends, counts, target.codec), target.limit, "right"))
    return max(count, 1) if records == 0 else count


def read_back(writer: ShardWriter, record: int) -> bytes:
    """A record that was written to a file that has no index yet, or has one."""
    ends = writer.ends
    if writer.notes is not None:
        shard = Shard(writer.path, writer.temporary, check=False)
        try:
            record += 0 if writer.old is None else len(writer.old)
            return bytes(shard.view[shard.start(record) : shard.ends[record]])
        finally:
            shard.close()
    start = 0 if writer.old is None else len(writer.old.view)
    for part in ends:
        if record < len(part):
            start = int(part[record - 1]) if record else start
            stop = int(part[record])
            writer.file.seek(start)
            return b"".join(_blocks(writer.file, stop - start))
        record -= len(part)
        start = int(part[-1])
    raise ArgumentError(f"Archive: there is no record {record} among those that were written")


def _copy(source: Any, target: Any, start: int, size: int, at: int) -> int:
    """Copy bytes from one file to another, in the kernel where that can be done; what is shared costs nothing."""
    left = size
    if hasattr(os, "copy_file_range"):
        with suppress(OSError):  # not between these two files; a full disk is met again below
            while left and (count := os.copy_file_range(source.fileno(), target.fileno(), left, start, at)):
                left, start, at = left - count, start + count, at + count
    source.seek(start)
    for block in _blocks(source, left):
        write_all(target, block, at)
        at += len(block)
    return size


def _blocks(file: Any, size: int) -> Iterator[bytes]:
    """So many bytes of a file, from where it stands."""
    while size:
        block = file.read(min(size, 1 << 20))
        if not block:
            raise DamagedStoreError(f"{file.name} became shorter while it was read")
        size -= len(block)
        yield block
