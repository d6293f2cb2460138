"""Objects read from records at one transaction, outside of every connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from persistent import PickleCache
from ZODB.blob import Blob
from ZODB.POSException import ReadOnlyError
from ZODB.serialize import ObjectReader
from ZODB.utils import u64

from .errors import DamagedDatabaseError, OutOfViewError, as_text

__all__ = ["RecordJar", "at_path", "damaged", "unreadable"]

#: Objects that a jar keeps when it trims its cache.
KEPT = 400


class RecordJar:
    """What persistent objects take for their connection: it loads them from the records of one transaction.

    The objects have their real classes and load their state when it is asked for, as those of a connection do, so
    whatever reads a live node reads one from here in the same way. They can't be changed.

    Args:
        load: A function from an object's id to its record and the transaction that stored it.
        db: The ZODB database, which knows the classes.
        storage: What knows the files of blobs.
        sibling: A function from the name of another database to a new jar of its objects.
    """

    def __init__(
        self,
        load: Callable[[bytes], tuple[bytes, bytes]],
        db: Any,
        storage: Any,
        sibling: Callable[[str], RecordJar] | None = None,
    ) -> None:
        self._load = load
        self._db = db
        self._storage = storage  # blobs look for it under this name
        self._sibling = sibling
        self._family: dict[str, RecordJar] = {db.database_name: self}
        self._cache = PickleCache(self, KEPT)
        self._reader = ObjectReader(self, self._cache, db.classFactory)

    def db(self) -> Any:
        return self._db

    def get(self, oid: bytes) -> Any:
        """The object with this id."""
        found = self._cache.get(oid)
        if found is None:
            data, _ = self._load(oid)
            try:
                found = self._reader.getGhost(data)
            except Exception as error:
                raise unreadable(oid, error) from error
            self._cache.new_ghost(oid, found)
        return found

    def get_connection(self, name: str) -> RecordJar:
        """The jar of another database that objects here refer to."""
        found = self._family.get(name)
        if found is None:
            assert self._sibling is not None
            found = self._family[name] = self._sibling(name)
            found._family = self._family
        return found

    def cacheGC(self) -> None:
        """Drop the states of objects that were not used lately, as a connection's function of this name does."""
        self._cache.incrgc()

    def close(self) -> None:
        """Let go of the records. Objects that were not loaded yet can't be after this."""
        for jar in self._family.values():
            del jar._load, jar._sibling

    def setstate(self, ghost: Any) -> None:
        """Load an object; objects call this themselves."""
        oid = ghost._p_oid
        data, tid = self._load(oid)
        try:
            self._reader.setGhostState(ghost, data)
        except Exception as error:
            raise unreadable(oid, error) from error
        ghost._p_serial = tid
        self._cache.update_object_size_estimation(oid, len(data))
        ghost._p_estimated_size = len(data)
        if isinstance(ghost, Blob):
            ghost._p_blob_uncommitted = None
            ghost._p_blob_committed = self._storage.loadBlob(oid, tid)

    def register(self, changed: Any) -> None:
        raise ReadOnlyError("these are committed records, which nothing changes")

    def readCurrent(self, read: Any) -> None:
        """Part of the protocol of connections."""


def damaged(oid: bytes, what: str) -> DamagedDatabaseError:
    """The error for a record that says of its object what can't be."""
    return DamagedDatabaseError(f"the record of object {u64(oid):#x} {what}")


def unreadable(oid: bytes, error: Exception) -> Exception:
    """The error for a record that some other error comes of."""
    reason = error.__cause__ or error
    if isinstance(reason, OutOfViewError):
        return reason
    return damaged(oid, f"can't be read: {type(reason).__name__}: {reason}")


def at_path(stage_name: str, path: Iterable[str], error: Exception) -> Exception:
    """The error, with the path if it tells only of an object."""
    kind = type(error)
    if kind not in (DamagedDatabaseError, OutOfViewError):
        return error
    with_path = kind(f"{stage_name}: {as_text(path)}: {error}")
    with_path.__cause__ = error
    return with_path
