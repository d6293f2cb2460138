"""Records into a storage, many at once where the storage is a plain file, and the file after a full disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from struct import Struct
from typing import Any, TypeAlias

from ZODB.FileStorage import FileStorage
from ZODB.mvccadapter import MVCCAdapterInstance
from ZODB.POSException import ReadConflictError
from ZODB.utils import p64, u64, z64

from .._fast import FAST
from .._nodes import plain_file, unwrapped
from .rows import in_postgres, new_ids

__all__ = [
    *("ChangedRecord", "NewRecord", "check_still_connected", "check_there", "clear_remains", "ids_from"),
    *("is_last_before", "new_oids", "store_changed", "store_new", "times_connected"),
]

#: The id of a new object, and its record.
NewRecord: TypeAlias = "tuple[bytes, bytes]"
#: The id of an object that is there, the transaction that stored it, and its new record.
ChangedRecord: TypeAlias = "tuple[bytes, bytes, bytes]"

#: Ids that are taken at a time, beyond those that were foreseen.
MORE_IDS = 64

#: What a FileStorage writes before the data of a record: id, transaction, place of the record before (none), place of
#: the transaction, length of a version's name (always 0), length of the data.
_HEADER = Struct(">8s8sQQHQ")
_NUMBER = Struct(">Q")


def new_oids(instance: Any, count: int) -> list[bytes]:
    """Ids that no object has, from the storage of a connection."""
    file = _plain_file(instance)
    if file is None:
        if FAST and count > 1 and in_postgres(instance):
            return new_ids(instance, count)
        return [instance.new_oid() for _ in range(count)]
    with file._lock:
        first = u64(file.new_oid())
        file.set_max_oid(p64(first + count - 1))
    return [_NUMBER.pack(number) for number in range(first, first + count)]


def ids_from(instance: Any, count: int) -> Callable[[], bytes]:
    """A function that gives an id that no object has; so many are taken at once, and more a few at a time."""
    blocks = chain((count,), repeat(MORE_IDS))
    return chain.from_iterable(map(partial(new_oids, instance), blocks)).__next__


def check_still_connected(storage: Any, connected: int) -> None:
    """Refuse ids that were taken from a ZEO server that was started again since: it may give them once more.

    Raises:
        ReadConflictError: It was.
    """
    if times_connected(storage) != connected:
        raise ReadConflictError("the server was lost, and found again, while new objects got their ids")


def times_connected(storage: Any) -> int:
    """How often a client of ZEO has found its server, or lost it."""
    times: int = getattr(unwrapped(storage), "_connection_generation", 0)
    return times


def store_new(instance: Any, records: list[NewRecord], transaction: Any) -> None:
    """Store records of new objects, within a transaction of the storage that has begun."""
    file = _plain_file(instance)
    if file is not None:
        records = records[_append(file, records, transaction) :]
    for oid, data in records:
        instance.store(oid, z64, data, "", transaction)


def store_changed(instance: Any, records: list[ChangedRecord], transaction: Any, view: bytes) -> None:
    """Store records of objects that are there, within a transaction of the storage that has begun.

    Args:
        instance: The storage, as a connection has it.
        records: The records.
        transaction: The transaction.
        view: The first transaction that was not seen when they were read.
    """
    file = _plain_file(instance)
    if file is not None and records and is_last_before(instance, view):
        # The storage looks up in the file which transaction stored each: that takes nine times as long.
        oids = [oid for oid, _, _ in records]
        places = [file._index.get(oid, 0) for oid in oids]
        stored = _append(file, [(oid, data) for oid, _, data in records], transaction, records[0][1], places)
        instance._modified.update(oids[:stored])  # of which other connections are told
        records = records[stored:]
    for oid, serial, data in records:
        instance.store(oid, serial, data, "", transaction)


def is_last_before(instance: Any, view: bytes) -> bool:
    """Whether nothing was stored from a transaction on, so that what was read before it is the newest there is.

    To be asked within a transaction of the storage that has begun. Only of a plain file it is known.
    """
    file = _plain_file(instance)
    return file is not None and u64(file.lastTransaction()) + 1 == u64(view)


def _plain_file(instance: Any) -> Any:
    """The FileStorage behind it, if records can be appended to that as they are."""
    file = plain_file(instance._storage) if FAST and type(instance) is MVCCAdapterInstance else None
    return file if file is not None and file._quota is None else None


def _append(
    file: Any, records: list[NewRecord], transaction: Any, serial: bytes = z64, places: Iterable[int] = repeat(0)
) -> int:
    """Write records after those that a FileStorage was given to store; gives how many were written.

    The storage stores the first itself. The others are written in its way, if it did with the first what it is known
    to do.

    Args:
        file: The storage.
        records: The records.
        transaction: The transaction.
        serial: The transaction that stored the first object before, which is the newest of it.
        places: Where the newest record of each object lies; 0 for a new one.
    """
    with file._lock:
        oid, data = records[0]
        befores = iter(places)
        begin = file._tfile.tell()
        place = file._pos + file._thl + begin
        file.store(oid, serial, data, "", transaction)
        end = file._tfile.tell()
        file._tfile.seek(begin)
        written = file._tfile.read(end - begin)
        expected = _HEADER.pack(oid, file._tid, next(befores), file._pos, 0, len(data)) + data
        if written != expected or file._tindex.get(oid) != place:
            return 1
        tid, behind = expected[8:16], expected[24:34]  # in the headers of all records of a transaction
        pack, index = _NUMBER.pack, file._tindex
        parts: list[bytes] = []
        place += len(expected)
        for (oid, data), before in zip(records[1:], befores, strict=False):
            index[oid] = place
            size = len(data)
            parts += (oid, tid, pack(before), behind, pack(size), data)
            place += 42 + size
        file._tfile.write(b"".join(parts))
    return len(records)


def check_there(storage: Any, oids: Iterable[bytes]) -> None:
    """Refuse to change objects that are no longer there, since somebody deleted and packed them.

    A FileStorage would store them anew, where nothing refers to them. Of other storages this is not asked.

    Raises:
        ReadConflictError: One is not there.
    """
    storage = unwrapped(storage)
    if isinstance(storage, FileStorage):
        for oid in oids:
            if oid not in storage._index:
                raise ReadConflictError("an object that was to be changed was deleted, and packed away", oid=oid)


def clear_remains(storage: Any) -> None:
    """Take what a transaction left behind that failed on a full disk out of a FileStorage; others have nothing of it.

    Python's buffered files keep what they could not write, and write it when they can, wherever the storage is by then.
    So do the storage's own two: what it then cuts off comes back behind the next transaction, where it makes the file
    one that can't be opened, and `tpc_abort` itself fails before it is through. Both get new ones here.
    """
    storage = unwrapped(getattr(storage, "changes", storage))  # those of a DemoStorage
    if not isinstance(storage, FileStorage):
        return
    # Nobody else is in a transaction here, so all that lies behind the last one is remains.
    with storage._commit_lock, suppress(OSError):
        with storage._lock:
            if storage._file.closed:
                return
            file = open(storage._file_name, "r+b")  # noqa: SIM115
            file.truncate(storage._pos)
            storage._file.raw.close()  # drops what is in its buffer
            storage._file = file
            temporary = open(storage._tfile.name, "w+b")  # noqa: SIM115
            storage._tfile.raw.close()
            storage._tfile = temporary
            storage._tfmt._file = temporary
            storage._transaction = None
        storage._files.flush()
