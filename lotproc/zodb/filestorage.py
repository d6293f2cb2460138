"""The records of a FileStorage, straight from its file, at one transaction."""

from __future__ import annotations

import mmap
import os
from threading import Lock
from typing import Any

import numpy as np
from ZODB._compat import FILESTORAGE_MAGIC
from ZODB.utils import u64, z64

from .._jar import damaged, gone
from .record_arrays import Numbers, Oids, Records, numbers_at, rows_at

__all__ = ["FileIndex", "FileRecords", "last_complete"]

#: Bytes of the header of a record in a FileStorage: id, transaction, place of the record before, place of the
#: transaction, length of a version's name (always 0), length of the data.
HEADER = 42
_HEAD = np.dtype(
    {"names": ["oid", "tid", "length"], "formats": ["u8", ">u8", ">u8"], "offsets": [0, 8, 34], "itemsize": HEADER}
)
#: Parts of a FileStorage's index that are held as arrays. Each takes 0.5 MB, for 65,536 ids that follow one another.
PARTS = 32
#: Ids that are found one by one in the time in which their part is made an array.
FEW = 2048
#: A place in the file, as the index has it, for what is not there.
_NOWHERE = bytes(6)


def last_complete(file: Any) -> bytes:
    """The last transaction of a FileStorage that is whole, as far as its index knows.

    One that is opened for reading while another program is within a commit names the transaction of that commit.
    """
    if not file.isReadOnly():
        last: bytes = file.lastTransaction()
        return last
    tid: bytes = z64
    with file._lock:
        end = file._pos
        if end > len(FILESTORAGE_MAGIC):
            file._file.seek(end - 8)
            length = file._file.read(8)  # with which a transaction ends
            if len(length) == 8 and u64(length) <= end - 8:
                file._file.seek(end - 8 - u64(length))
                tid = file._file.read(8)
    # A file that was cut is told of where something is missing.
    return tid if len(tid) == 8 else file.lastTransaction()


class FileIndex:
    """Where the newest record of each object lies in a FileStorage.

    Args:
        storage: The FileStorage; what is added to it later may be missing here.
    """

    def __init__(self, storage: Any) -> None:
        self._index = storage._index._data
        self._parts: dict[bytes, Numbers] = {}
        self._asked: dict[bytes, int] = {}  # how many ids of a part were asked for
        self._lock = Lock()

    def places(self, oids: Oids) -> Numbers:
        """Where the newest records of objects with these ids lie; 0 for those that have none."""
        numbers = numbers_at(oids, 0)
        parts = numbers >> np.uint64(16)
        if len(oids) and parts.min() == parts.max():
            return self._in_part(oids[0, :6].tobytes(), oids)
        places = np.empty(len(oids), np.int64)
        for number in np.unique(parts):
            rows = parts == number
            places[rows] = self._in_part(int(number).to_bytes(6, "big"), oids[rows])
        return places

    def _in_part(self, beginning: bytes, oids: Oids) -> Numbers:
        """The same of ids that begin with these six bytes."""
        places = self._part(beginning, len(oids))
        if places is not None:
            found: Numbers = places[np.ascontiguousarray(oids[:, 6:]).view(">u2").ravel()]
            return found
        bucket, ends = self._index.get(beginning), np.ascontiguousarray(oids[:, 6:]).view("V2").ravel()
        if bucket is None:
            return np.zeros(len(oids), np.int64)
        return _numbers(b"".join([bucket.get(end, _NOWHERE) for end in ends.tolist()]))

    def _part(self, beginning: bytes, count: int) -> Numbers | None:
        """The places of the 65,536 objects whose ids begin with these six bytes; 0 for those that are not there.

        `None` as long as so few of them were asked for, `count` with this call, that these are found faster by
        themselves: a scan of a large tree begins all over the index, and the first record came only after that.
        """
        with self._lock:
            places = self._parts.pop(beginning, None)
            if places is None:
                self._asked[beginning] = asked = self._asked.get(beginning, 0) + count
                if asked < FEW:
                    return None
                places = self._read(beginning)
            self._parts[beginning] = places
            if len(self._parts) > PARTS:
                dropped = next(iter(self._parts))  # the one whose use is longest ago
                del self._parts[dropped], self._asked[dropped]
            return places

    def _read(self, beginning: bytes) -> Numbers:
        places = np.zeros(65536, np.int64)
        bucket = self._index.get(beginning)
        if bucket is not None:
            packed = bucket.toString()  # all ends of ids, two bytes each, then all places, six bytes each
            count = len(packed) // 8
            places[np.frombuffer(packed, ">u2", count)] = _numbers(packed[2 * count :])
        return places

    def one(self, oid: bytes) -> int:
        """The place of one object."""
        bucket = self._index.get(oid[:6])
        return int.from_bytes((bucket and bucket.get(oid[6:])) or b"", "big")


def _numbers(packed: bytes) -> Numbers:
    """Places in the file, as the index has them: six bytes each."""
    numbers = np.zeros((len(packed) // 6, 8), np.uint8)
    numbers[:, 2:] = np.frombuffer(packed, np.uint8).reshape(-1, 6)
    return numbers.view(">u8").ravel().astype(np.int64)


class FileRecords:
    """The records of a FileStorage before a transaction, read through a memory map of its file and its index.

    It holds the file as it was when this was made, so a pack, which writes another one, changes nothing here.

    Args:
        storage: The FileStorage.
        before: The first transaction that is not seen.
        index: Its index, if it is at hand.
    """

    def __init__(self, storage: Any, before: bytes, index: FileIndex | None = None) -> None:
        self.before = before
        with storage._lock:  # a pack replaces both
            self._file = os.dup(storage._file.fileno())
            self._index = index or FileIndex(storage)
        self._map = self._newest_map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        self._array = np.frombuffer(self._map, np.uint8)
        self._end = np.uint64(u64(before))

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def load(self, oid: bytes) -> tuple[bytes, bytes]:
        place = self._index.one(oid)
        if not place:
            raise gone(oid, self.before)
        head: bytes = self._map[place : place + HEADER]
        tid, start = head[8:16], place + HEADER
        stop = start + int.from_bytes(head[34:], "big")
        if len(head) < HEADER or head[:8] != oid or tid >= self.before or not start < stop <= len(self._array):
            tid, start, length = self._version(oid, place)
            stop = start + length
        return self._map[start:stop], tid

    def load_many(self, oids: Oids) -> Records:
        places = self._index.places(oids)
        inside = places <= len(self._array) - HEADER
        heads = rows_at(self._array, places if inside.all() else np.where(inside, places, 0), HEADER)
        told = heads.view(_HEAD).ravel()
        lengths = told["length"].astype(np.int64)
        starts = places + HEADER
        plain = (
            inside
            & (places > 0)
            & (told["oid"] == np.ascontiguousarray(oids).view("u8").ravel())
            & (told["tid"] < self._end)
            & (lengths > 0)
            & (starts <= len(self._array) - lengths)
        )
        tids = heads[:, 8:16]
        for row in np.flatnonzero(~plain):  # newer, undone, deleted or damaged
            oid = oids[row].tobytes()
            if not places[row]:
                raise gone(oid, self.before)
            tid, starts[row], lengths[row] = self._version(oid, int(places[row]))
            tids[row] = np.frombuffer(tid, np.uint8)
        return Records(self._map, self._array, starts, lengths, tids)

    def _version(self, oid: bytes, place: int) -> tuple[bytes, int, int]:
        """The transaction, start and length of an object's version that is seen; `place` is its newest record's."""
        head = self._head(oid, place)
        while (tid := head[8:16]) >= self.before:
            place = self._older(oid, place, head[16:24])
            head = self._head(oid, place)
        while not (length := u64(head[34:42])):  # written by an undo: the data are those of an older record
            place = self._older(oid, place, self._bytes(place + HEADER, 8))
            head = self._head(oid, place)
        start = place + HEADER
        if start + length > len(self._array):
            raise damaged(oid, f"has {length:,} bytes at {start:,} of a file of {len(self._array):,} bytes")
        return tid, start, length

    def _older(self, oid: bytes, place: int, pointer: bytes) -> int:
        """The place of an older record, to which the one at `place` points."""
        older: int = u64(pointer)
        if not older:
            raise gone(oid, self.before)
        if older >= place:
            raise damaged(oid, f"at {place:,} has an older version at {older:,}, which can't be")
        return older

    def _head(self, oid: bytes, place: int) -> bytes:
        head = self._bytes(place, HEADER)
        if len(head) < HEADER:
            raise damaged(oid, f"should be at {place:,}, which is behind the end of the file")
        if head[:8] != oid:
            raise damaged(oid, f"should be at {place:,}, where the file has something else")
        return head

    def _bytes(self, start: int, length: int) -> bytes:
        """Bytes of the file, also of what was written after this was made."""
        if start + length > len(self._newest_map):
            self._newest_map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        return self._newest_map[start : start + length]
