"""The records of a storage as they were at one transaction, one by one or many at once."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import nullcontext
from copy import copy
from typing import Any

from ZODB.DB import DB
from ZODB.FileStorage.format import CorruptedError
from ZODB.POSException import POSKeyError
from ZODB.utils import p64, u64

from .._fast import FAST
from .._jar import RecordJar, costs_one, gone, unreadable
from .._nodes import plain_file, unwrapped
from ..errors import OutOfViewError
from .answers import answered
from .filestorage import FileIndex, FileRecords, last_complete
from .record_arrays import Oids, Records, as_oids, one_by_one, put_together
from .rows import RowRecords, in_postgres

__all__ = [
    *("PinnedFile", "PinnedInstance", "PinnedRows", "PinnedStorage", "keeps_views", "pinned_at", "pinned_in_thread"),
    *("pinned_view", "view_of"),
]


#: Twice as many records are asked for before they are read: with more, large ones would not find room in ZEO's cache.
#: A scan over ZEO takes a third of the time of its client's and its server's processors that it takes without.
AHEAD = 128
_BEGIN = "begin a transaction (connection.sync(), or abort what is begun) and try again"


def _kind(storage: Any) -> str:
    return type(unwrapped(storage)).__qualname__


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
    if keeps_views(database):
        return historical or _after(_seen_by(storage))
    view = historical or storage._start
    if connection.explicit_transactions and getattr(connection.transaction_manager, "_txn", None) is None:
        view = historical  # between two transactions: it shows what it committed last, and else nothing for sure
    file = plain_file(database.storage)
    if view is not None and not historical and not (file is not None and file.isReadOnly()):
        return view  # what is just being committed may be in it, and not be in the storage yet
    newest = _newest(database.storage)
    return newest if view is None else min(view, newest)


def keeps_views(database: Any) -> bool:
    """Whether the storage itself gives each connection a view of its own, as RelStorage does, and not ZODB for it."""
    return database._mvcc_storage is database.storage


def _seen_by(instance: Any) -> bytes:
    """The last transaction that an instance of a storage that keeps views sees."""
    last: bytes = instance.lastTransaction()
    return max(last, getattr(instance, "_polled_tid", last))  # an MVCCMappingStorage that was packed knows only this


def pinned_at(before: bytes | None, db: Any, index: FileIndex | None = None) -> PinnedStorage:
    """The records of a ZODB database as they were before a transaction, in the fastest way that its storage has.

    Args:
        before: The first transaction that is not seen; `None` to see all that are there.
        db: The ZODB database.
        index: The index of a FileStorage, if it is at hand.
    """
    if keeps_views(db):
        return _pinned_instance(before, db, db._mvcc_storage.new_instance(), is_own=True)
    if before is None:
        before = _newest(db.storage)
    is_file = FAST and plain_file(db.storage) is not None
    return PinnedFile(before, db, index) if is_file else PinnedStorage(before, db)


def pinned_view(connection: Any, before: bytes | None = None) -> PinnedStorage:
    """The records that a connection sees, for any thread, with those of its sibling databases; to be closed.

    Or those that were there before an earlier transaction.
    """
    pinned = pinned_at(before or view_of(connection), connection.db())
    pinned.views = {name: view_of(other) for name, other in connection.connections.items()}
    pinned.before_others = connection.before
    if before is not None:
        pinned.views = {name: min(view, before) for name, view in pinned.views.items()}
        pinned.before_others = before
    return pinned


def pinned_in_thread(before: bytes, connection: Any) -> PinnedStorage:
    """The records that a connection sees, for its own thread and as long as its view stays; nothing is to be closed."""
    database = connection.db()
    if keeps_views(database):
        return _pinned_instance(before, database, connection._normal_storage)
    return pinned_at(before, database)


def _pinned_instance(before: bytes | None, db: Any, instance: Any, *, is_own: bool = False) -> PinnedInstance:
    kind = PinnedRows if FAST and in_postgres(instance) else PinnedInstance
    return kind(before, db, instance, is_own=is_own)


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
        #: Whether classes are found by their names alone, as they are where many records are decoded at once. Otherwise
        #: all is read by objects of the real classes.
        self.plain_classes = FAST and getattr(db.classFactory, "__func__", None) is DB.classFactory
        #: Whether each call of the storage takes so long that it is worth to say what will be read, and it can be said.
        #: ZEO does not declare IPrefetchStorage.
        self.is_far = FAST and hasattr(self.storage, "prefetch")
        #: The views of databases that objects may refer to, by their names; those of others are the newest, or this.
        self.views: Mapping[str, bytes] = {}
        self.before_others: bytes | None = None
        self._family: dict[str, PinnedStorage] = {}  # once an object of another one was asked for: all, with this

    @property
    def must_close(self) -> bool:
        """Whether something may have been opened for these records or those of their siblings."""
        return keeps_views(self.db) or len(self.db.databases) > 1

    def sibling(self, name: str) -> PinnedStorage:
        """The records of another database of the same family, as the connection sees them."""
        self._family.setdefault(self.db.database_name, self)
        found = self._family.get(name)
        if found is None:
            database = self.db.databases.get(name)
            if database is None:
                raise OutOfViewError(
                    f"an object refers to the database {name!r}, which was not opened together with this one",
                    hint="a partition knows the file of its own alone: read such a tree from its root",
                )
            found = pinned_at(self.views.get(name, self.before_others), database)
            found.views, found.before_others, found._family = self.views, self.before_others, self._family
            self._family[name] = found
        return found

    def again(self) -> PinnedStorage:
        """The same records for another reader, to be closed by that."""
        again = copy(self)
        again._family = {}
        return again

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
        with answered() if self.is_far else nullcontext():
            found = self.storage.loadBefore(oid, self.before)
        return None if found is None else found[:2]

    def _gone(self, oid: bytes) -> Exception:
        return gone(oid, self.before)

    def load_many(self, oids: Oids) -> Records:
        """Many records at once, in the order of their ids."""
        return put_together(self._load_each(one_by_one(oids)))

    def expect(self, oids: list[bytes]) -> None:
        """Note that these records will be read soon, for storages that are far: it may be too early for some."""
        if self.is_far and oids:
            self.storage.prefetch(oids, self.before)

    def _load_each(self, oids: list[bytes]) -> list[tuple[bytes, bytes]]:
        load, before = self.storage.loadBefore, self.before
        found: list[tuple[bytes, bytes]] = []
        pieces = [oids[start : start + AHEAD] for start in range(0, len(oids), AHEAD)]
        try:
            if len(oids) > 1:
                self.expect(pieces[0])
            for piece, following in zip(pieces, [*pieces[1:], []], strict=True):
                self.expect(following)  # which comes while this piece is read
                with answered() if self.is_far else nullcontext():
                    found += [load(oid, before)[:2] for oid in piece]
            return found
        except Exception as error:
            if not costs_one(error):
                raise
            return [self.load(oid) for oid in oids]  # this tells which it is, and why


class PinnedFile(PinnedStorage):
    """The records of a FileStorage, without a call of the storage: many times as fast."""

    def __init__(self, before: bytes, db: Any, index: FileIndex | None = None) -> None:
        super().__init__(before, db)
        records = FileRecords(plain_file(db.storage), before, index)
        self.load, self.load_many = records.load, records.load_many  # type: ignore[method-assign]


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
                with answered():
                    instance.poll_invalidations()
            seen = _after(_seen_by(instance))
            super().__init__(seen if before is None else before, db, instance)
            self.is_far = False
            #: Whether the instance sees what is wanted; otherwise that is asked for, which takes longer.
            self._is_current = seen == self.before
            if seen < self.before:
                raise OutOfViewError(
                    f"the root's connection sees transaction {u64(self.before) - 1:#x}, and a new one to the "
                    f"{_kind(instance)} only {u64(seen) - 1:#x}, as from a copy that is behind",
                    hint="begin a transaction and try again",
                )
        except BaseException:
            if is_own:
                instance.release()
            raise

    def again(self) -> PinnedStorage:
        again = _pinned_instance(self.before, self.db, self.db._mvcc_storage.new_instance(), is_own=True)
        again.views, again.before_others = self.views, self.before_others
        return again

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
        if getattr(self.storage, "keep_history", False):
            return OutOfViewError(
                f"object {u64(oid):#x} is not there any more as it was at transaction {u64(self.before) - 1:#x}: the "
                f"{_kind(self.storage)} was packed, or somebody removed it",
                hint=f"{_BEGIN}, or give a later at=",
            )
        return OutOfViewError(
            f"object {u64(oid):#x} was written or removed by others since transaction "
            f"{u64(self.before) - 1:#x}, which the root's connection sees, and the {_kind(self.storage)} no "
            "longer has it as it was",
            hint=_BEGIN,
        )

    def _load_each(self, oids: list[bytes]) -> list[tuple[bytes, bytes]]:
        if self._is_current and hasattr(self.storage, "prefetch"):
            self.storage.prefetch(oids)
        return [self.load(oid) for oid in oids]


class PinnedRows(PinnedInstance):
    """The records of a RelStorage in PostgreSQL, many by one query: twelve times as fast as one by one."""

    def __init__(self, before: bytes | None, db: Any, instance: Any, *, is_own: bool = False) -> None:
        super().__init__(before, db, instance, is_own=is_own)
        self.is_far = True
        self._rows = RowRecords(instance, self.before)
        self.expect = self._rows.expect  # type: ignore[method-assign]

    def load_many(self, oids: Oids) -> Records:
        return self._rows.load_many(oids) or super().load_many(oids)  # which tells what is missing, and why

    def _find(self, oid: bytes) -> tuple[bytes, bytes] | None:
        known = self._rows.taken(oid)
        if known is not None:
            return known
        if self._is_current:
            with answered():
                return super()._find(oid)
        found = self._rows.load_many(as_oids([oid]))  # the storage would make three queries
        return None if found is None else (found.one(0), found.tids.tobytes())
