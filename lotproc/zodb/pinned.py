"""The records of a storage as they were at one transaction, one by one or many at once."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from ZODB._compat import FILESTORAGE_MAGIC
from ZODB.DB import DB
from ZODB.FileStorage.format import CorruptedError
from ZODB.interfaces import IPrefetchStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import p64, u64, z64

from .._jar import RecordJar, damaged, unreadable
from .._nodes import plain_file, unwrapped
from ..errors import DamagedDatabaseError, OutOfViewError

__all__ = [
    *("Oids", "PinnedFile", "PinnedInstance", "PinnedStorage", "Places", "Records", "as_oids", "last_complete"),
    *("pinned_at", "pinned_in_thread", "pinned_view", "rows_at", "until_closed", "view_of"),
]

T = TypeVar("T")

#: Object ids: an array of bytes, 8 to a row.
Oids: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
_Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

#: Bytes of the header of a record in a FileStorage: id, transaction, place of the record before, place of the
#: transaction, length of a version's name (always 0), length of the data.
HEADER = 42
#: Parts of a FileStorage's index that are held as arrays. Each takes 0.5 MB, for 65,536 ids that follow one another.
PARTS = 32


class Records(NamedTuple):
    """Many records at once.

    Args:
        data: Where they lie: bytes, or the map of a file.
        array: The same as an array of bytes.
        starts: Where each begins.
        lengths: How many bytes each has.
        tids: The transactions that stored them, one to a row.
    """

    data: Any
    array: np.ndarray[Any, np.dtype[np.uint8]]
    starts: _Numbers
    lengths: _Numbers
    tids: Oids


def as_oids(oids: list[bytes]) -> Oids:
    """Object ids as an array, one to a row."""
    return np.frombuffer(b"".join(oids), np.uint8).reshape(-1, 8)


def rows_at(array: np.ndarray[Any, np.dtype[np.uint8]], starts: _Numbers, length: int) -> Any:
    """As many bytes from each of some places on, a row for each."""
    windows = np.ndarray((max(len(array) - length + 1, 0), length), np.uint8, array, strides=(1, 1))
    return windows[starts]


def _kind(storage: Any) -> str:
    return type(unwrapped(storage)).__qualname__


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


def _newest(storage: Any) -> bytes:
    """The first transaction that is not in a storage yet."""
    file = plain_file(storage)
    return _after(storage.lastTransaction() if file is None else last_complete(file))


def _after(tid: bytes) -> bytes:
    following: bytes = p64(u64(tid) + 1)
    return following


def view_of(connection: Any) -> bytes:
    """The first transaction that a connection does not see: its view ends before it."""
    storage, database = connection._normal_storage, connection.db()
    historical: bytes | None = getattr(storage, "_before", None)
    view: bytes | None
    if _keeps_views(database):
        return historical or _after(_seen_by(storage))
    view = historical or storage._start
    if connection.explicit_transactions and getattr(connection.transaction_manager, "_txn", None) is None:
        view = historical  # between two transactions: it shows what it committed last, and else nothing for sure
    file = plain_file(database.storage)
    if view is not None and not historical and not (file is not None and file.isReadOnly()):
        return view  # what is just being committed may be in it, and not be in the storage yet
    newest = _newest(database.storage)
    return newest if view is None else min(view, newest)


def _keeps_views(database: Any) -> bool:
    """Whether the storage itself gives each connection a view of its own, as RelStorage does, and not ZODB for it."""
    return database._mvcc_storage is database.storage


def _seen_by(instance: Any) -> bytes:
    """The last transaction that an instance of a storage that keeps views sees."""
    last: bytes = instance.lastTransaction()
    return max(last, getattr(instance, "_polled_tid", last))  # an MVCCMappingStorage that was packed knows only this


def pinned_at(before: bytes | None, db: Any, places: Places | None = None) -> PinnedStorage:
    """The records of a ZODB database as they were before a transaction, in the fastest way that its storage has.

    Args:
        before: The first transaction that is not seen; `None` to see all that are there.
        db: The ZODB database.
        places: The places of a FileStorage's records, if they are at hand.
    """
    if _keeps_views(db):
        return PinnedInstance(before, db, db._mvcc_storage.new_instance(), is_own=True)
    if before is None:
        before = _newest(db.storage)
    return PinnedStorage(before, db) if plain_file(db.storage) is None else PinnedFile(before, db, places)


def pinned_view(connection: Any) -> PinnedStorage:
    """The records that a connection sees, for any thread, with those of its sibling databases; to be closed."""
    pinned = pinned_at(view_of(connection), connection.db())
    pinned.views = {name: view_of(other) for name, other in connection.connections.items()}
    pinned.before_others = connection.before
    return pinned


def pinned_in_thread(before: bytes, connection: Any) -> PinnedStorage:
    """The records that a connection sees, for its own thread and as long as its view stays; nothing is to be closed."""
    database = connection.db()
    if _keeps_views(database):
        return PinnedInstance(before, database, connection._normal_storage)
    return pinned_at(before, database)


def until_closed(items: Iterator[T], close: Callable[[], object]) -> Iterator[T]:
    """The same items; at their end, or when they are closed or dropped, begun or not, `close` is called."""

    def given() -> Iterator[Any]:
        try:
            yield  # which is reached now: a generator that has not begun knows of no end
            yield from items
        finally:
            close()

    begun = given()
    next(begun)
    return begun


class Places:
    """Where the newest record of each object lies in a FileStorage, as its index has it.

    Args:
        index: The index; what is added to it later may be missing here.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        self._parts: dict[bytes, _Numbers] = {}
        self._lock = Lock()

    def part(self, beginning: bytes) -> _Numbers:
        """The places of the 65,536 objects whose ids begin with these six bytes; 0 for those that are not there."""
        with self._lock:
            places = self._parts.pop(beginning, None)
            if places is None:
                places = self._read(beginning)
            self._parts[beginning] = places
            if len(self._parts) > PARTS:
                del self._parts[next(iter(self._parts))]  # the one whose use is longest ago
            return places

    def _read(self, beginning: bytes) -> _Numbers:
        places = np.zeros(65536, np.int64)
        bucket = self._index.get(beginning)
        if bucket is not None:
            packed = bucket.toString()  # all ends of ids, two bytes each, then all places, six bytes each
            count = len(packed) // 8
            numbers = np.zeros((count, 8), np.uint8)
            numbers[:, 2:] = np.frombuffer(packed, np.uint8, 6 * count, 2 * count).reshape(count, 6)
            places[np.frombuffer(packed, ">u2", count)] = _numbers(numbers, 0)
        return places

    def one(self, oid: bytes) -> int:
        """The place of one object."""
        bucket = self._index.get(oid[:6])
        return int.from_bytes((bucket and bucket.get(oid[6:])) or b"", "big")


class PinnedStorage:
    """The records of any storage as they were before one transaction.

    Args:
        before: The first transaction that is not seen.
        db: The ZODB database.
        storage: Where the records and the files of blobs come from; by default the storage of the database.
    """

    def __init__(self, before: bytes, db: Any, storage: Any = None) -> None:
        self.before = before
        self.db = db
        self.storage = db.storage if storage is None else storage
        #: Whether classes are found by their names alone, which is how the records are decoded that are read at once.
        self.plain_classes = getattr(db.classFactory, "__func__", None) is DB.classFactory
        self._prefetches = IPrefetchStorage.providedBy(self.storage)
        #: The views of databases that objects may refer to, by their names; those of others are the newest, or this.
        self.views: Mapping[str, bytes] = {}
        self.before_others: bytes | None = None
        self._family: dict[str, PinnedStorage] = {}  # once an object of another one was asked for: all, with this

    @property
    def must_close(self) -> bool:
        """Whether something may have been opened for these records or those of their siblings."""
        return _keeps_views(self.db) or len(self.db.databases) > 1

    def sibling(self, name: str) -> PinnedStorage:
        """The records of another database of the same family, as the connection sees them."""
        self._family.setdefault(self.db.database_name, self)
        found = self._family.get(name)
        if found is None:
            database = self.db.databases.get(name)
            if database is None:
                raise OutOfViewError(
                    f"an object refers to the database {name!r}, which was not opened together with this one; a "
                    f"partition knows the file of its own alone: read such a tree from its root"
                )
            found = pinned_at(self.views.get(name, self.before_others), database)
            found.views, found.before_others, found._family = self.views, self.before_others, self._family
            self._family[name] = found
        return found

    def jar(self) -> RecordJar:
        """What loads objects from these records."""
        return RecordJar(self.load, self.db, self.storage, lambda name: self.sibling(name).jar())

    def close(self) -> None:
        """Let go of what was opened for these records and those of their siblings."""
        for pinned in self._family.values() or [self]:
            pinned.release()
        self._family.clear()  # in which each would keep the files of all open

    def release(self) -> None:
        """Let go of what was opened for these records alone."""

    def load(self, oid: bytes) -> tuple[bytes, bytes]:
        """A record and the transaction that stored it."""
        try:
            found = self._find(oid)
        except POSKeyError:
            found = None
        except (CorruptedError, ArithmeticError, MemoryError, ValueError, struct.error) as error:
            raise unreadable(oid, error) from error
        if found is None:
            raise self._gone(oid)
        return found

    def _find(self, oid: bytes) -> tuple[bytes, bytes] | None:
        """A record and the transaction that stored it; `None`, or a POSKeyError, if it is not there."""
        found = self.storage.loadBefore(oid, self.before)
        return None if found is None else found[:2]

    def _gone(self, oid: bytes) -> Exception:
        return gone(oid, self.before)

    def load_many(self, oids: Oids) -> Records:
        """Many records at once, in the order of their ids."""
        joined = oids.tobytes()
        each = [joined[start : start + 8] for start in range(0, len(joined), 8)]
        found = self._load_each(each)
        records = [data for data, _ in found]
        lengths = np.fromiter(map(len, records), np.int64, len(records))
        data = b"".join(records)
        starts = np.cumsum(lengths) - lengths
        return Records(data, np.frombuffer(data, np.uint8), starts, lengths, as_oids([tid for _, tid in found]))

    def _load_each(self, oids: list[bytes]) -> list[tuple[bytes, bytes]]:
        if self._prefetches:
            self.storage.prefetch(oids, self.before)
        load, before = self.storage.loadBefore, self.before
        try:
            return [load(oid, before)[:2] for oid in oids]
        except Exception:  # this tells which it is, and why
            return [self.load(oid) for oid in oids]


class PinnedInstance(PinnedStorage):
    """The records of a storage that gives each connection an instance of its own, which sees what it did when polled.

    Args:
        before: The first transaction that is not seen; `None` to see all that are there.
        db: The ZODB database.
        instance: An instance of its storage.
        is_own: Whether it was made for this, to be polled now and released at the end; or is that of a connection.
    """

    def __init__(self, before: bytes | None, db: Any, instance: Any, *, is_own: bool = False) -> None:
        self._is_open = is_own
        try:
            if is_own:
                instance.poll_invalidations()
            seen = _after(_seen_by(instance))
            super().__init__(seen if before is None else before, db, instance)
            #: Whether the instance sees what is wanted; otherwise that is asked for, which takes longer.
            self._is_current = seen == self.before
            if seen < self.before:
                raise OutOfViewError(
                    f"the root's connection sees transaction {u64(self.before) - 1:#x}, and a new one to "
                    f"the {_kind(instance)} only {u64(seen) - 1:#x}, as from a copy that is behind; begin a "
                    f"transaction and try again"
                )
        except BaseException:
            if is_own:
                instance.release()
            raise

    def release(self) -> None:
        if self._is_open:
            self._is_open = False
            self.storage.release()

    def _find(self, oid: bytes) -> tuple[bytes, bytes] | None:
        if self._is_current:
            data, tid = self.storage.load(oid)
            if tid < self.before or not self._is_open:
                return data, tid
            self._is_current = False  # it was connected anew since
        found = super()._find(oid)
        return None if found is None or found[0] is None else found

    def _gone(self, oid: bytes) -> Exception:
        if self._is_current:
            return gone(oid, self.before)
        return OutOfViewError(
            f"object {u64(oid):#x} was written or removed by others since transaction {u64(self.before) - 1:#x}, which "
            f"the root's connection sees, and the {_kind(self.storage)} no longer has it as it was; begin a "
            f"transaction (connection.sync(), or abort what is begun) and try again"
        )

    def _load_each(self, oids: list[bytes]) -> list[tuple[bytes, bytes]]:
        if self._is_current and hasattr(self.storage, "prefetch"):
            self.storage.prefetch(oids)
        return [self.load(oid) for oid in oids]


class PinnedFile(PinnedStorage):
    """The records of a FileStorage, read through a memory map of its file and its index.

    It holds the file as it was when this was made, so a pack, which writes another one, changes nothing here.
    """

    def __init__(self, before: bytes, db: Any, places: Places | None = None) -> None:
        super().__init__(before, db)
        file = plain_file(db.storage)
        with file._lock:  # a pack replaces both
            self._file = os.dup(file._file.fileno())
            self._places_of = places or Places(file._index._data)
        self._map = self._newest_map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        self._array = np.frombuffer(self._map, np.uint8)
        self._end = np.uint64(u64(before))

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def load(self, oid: bytes) -> tuple[bytes, bytes]:
        place = self._places_of.one(oid)
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
        places = self._places(oids)
        inside = places <= len(self._array) - HEADER
        heads = rows_at(self._array, np.where(inside, places, 0), HEADER)
        lengths = _numbers(heads, 34).astype(np.int64)
        starts = places + HEADER
        plain = (
            inside
            & (places > 0)
            & (heads[:, :8] == oids).all(axis=1)
            & (_numbers(heads, 8) < self._end)
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

    def _places(self, oids: Oids) -> _Numbers:
        """Where the newest record of each object lies; 0 for those that have none."""
        parts = oids[:, :6]
        within = oids[:, 6].astype(np.int64) << 8 | oids[:, 7]
        if len(oids) and (parts == parts[0]).all():
            alone: _Numbers = self._places_of.part(parts[0].tobytes())[within]
            return alone
        places = np.empty(len(oids), np.int64)
        numbers = _numbers(oids, 0) >> np.uint64(16)
        for number in np.unique(numbers):
            rows = numbers == number
            places[rows] = self._places_of.part(int(number).to_bytes(6, "big"))[within[rows]]
        return places

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


def _numbers(rows: np.ndarray[Any, Any], column: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The eight bytes from a column on as numbers, one for each row."""
    return np.ascontiguousarray(rows[:, column : column + 8]).view(">u8").ravel().astype(np.uint64)


def gone(oid: bytes, before: bytes) -> DamagedDatabaseError:
    """The error for an object that something refers to and that is not there."""
    return damaged(
        oid, f"is not there as of the transaction before {u64(before):#x}; was the database packed, or cut, since?"
    )
