"""The records of a RelStorage in PostgreSQL, thousands by one query, as its connection sees them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .answers import answered
from .record_arrays import Numbers, Oids, Records, as_oids, one_by_one, put_together

__all__ = ["RowRecords", "in_postgres", "new_ids"]

#: Records that one query asks for.
MOST = 5000
#: Records that are held until they are asked for.
MOST_EXPECTED = 10_000

#: A number of the sequence of ids stands for so many of them, of which it is the last.
IDS_IN_BLOCK = 16
_IDS = "SELECT nextval('zoid_seq') FROM generate_series(1, %s)"
#: The array is given as text, which is planned and sent twice as fast as one of numbers.
_NEWEST = "SELECT zoid, tid, state FROM object_state WHERE zoid = ANY(%s::bigint[]) ORDER BY zoid"
#: Each id is looked for by itself: a table that was not analyzed yet is read as a whole otherwise, for each query.
_BEFORE = (
    "SELECT wanted.zoid, tid, state FROM unnest(%s::bigint[]) AS wanted (zoid) CROSS JOIN LATERAL (SELECT tid, state "
    "FROM object_state WHERE object_state.zoid = wanted.zoid AND tid < %s ORDER BY tid DESC LIMIT 1) AS newest "
    "ORDER BY zoid"
)


def in_postgres(storage: Any) -> bool:
    """Whether it is a RelStorage whose rows are in PostgreSQL."""
    adapter = getattr(storage, "_adapter", None)
    return type(adapter).__module__.startswith("relstorage.adapters.postgresql")


def new_ids(instance: Any, count: int) -> list[bytes]:
    """As many ids that no object has, by one query, where RelStorage makes one for 16 of them."""
    blocks = -(-count // IDS_IN_BLOCK)

    def asked(_: Any, cursor: Any, __: bool) -> list[int]:
        cursor.execute(_IDS, (blocks,))
        return [number * IDS_IN_BLOCK for (number,) in cursor.fetchall()]

    with instance._store_connection_pool.borrowing(commit=True) as connection:
        last = connection.call(asked, can_reconnect=False)
    ids = [number for end in last for number in range(end - IDS_IN_BLOCK + 1, end + 1)]
    return [number.to_bytes(8, "big") for number in ids[:count]]


class RowRecords:
    """Rows of an instance of a RelStorage.

    Args:
        instance: The instance; its connection is used.
        before: The first transaction that is not seen.
    """

    def __init__(self, instance: Any, before: bytes) -> None:
        self._instance = instance
        self._end = int.from_bytes(before, "big")
        self._expected: dict[bytes, tuple[bytes, bytes]] = {}

    def expect(self, oids: list[bytes]) -> None:
        """Read records that will be asked for soon, in smaller numbers, and hold them until then."""
        found = self._read(as_oids(oids)) if oids else None
        if found is not None:
            if len(self._expected) + len(oids) > MOST_EXPECTED:
                self._expected.clear()  # which costs queries where they are read after all
            self._expected.update(found.by_oid(oids))

    def taken(self, oid: bytes) -> tuple[bytes, bytes] | None:
        """A record that was read ahead, which is let go of by that."""
        return self._expected.pop(oid, None)

    def load_many(self, oids: Oids) -> Records | None:
        """Many records, in the order of their ids; `None` if one of them is not there, or is too new."""
        if self._expected:
            each = one_by_one(oids)
            if all(oid in self._expected for oid in each):
                found = [self._expected[oid] for oid in each]
                for oid in each:
                    self._expected.pop(oid, None)
                return put_together(found)
        return self._read(oids)

    def _read(self, oids: Oids) -> Records | None:
        # As numbers with a sign, as the database has them: there are no objects with negative ones.
        numbers = np.ascontiguousarray(oids).view(">i8").ravel().astype(np.int64)
        wanted, rows = np.unique(numbers, return_inverse=True)  # the same may be asked for twice
        tids: list[int] = []
        records: list[Any] = []
        for start in range(0, len(wanted), MOST):
            some = wanted[start : start + MOST]
            found = self._query(some)
            if len(found) != len(some):
                return None
            _, tids_of_some, records_of_some = zip(*found, strict=True)  # sorted, as the ids are
            tids += tids_of_some
            records += records_of_some
        if None in records or max(tids, default=0) >= self._end:
            return None
        lengths = np.fromiter(map(len, records), np.int64, len(records))
        data = b"".join(records)
        starts: Numbers = np.cumsum(lengths) - lengths
        as_bytes = np.array(tids, ">i8").view(np.uint8).reshape(-1, 8)
        return Records(data, np.frombuffer(data, np.uint8), starts[rows], lengths[rows], as_bytes[rows])

    def _query(self, numbers: Numbers) -> list[tuple[int, int, Any]]:
        ids = f"{{{','.join(map(str, numbers.tolist()))}}}"
        with answered():
            cursor = self._instance._load_connection.cursor
            if self._instance.keep_history:
                cursor.execute(_BEFORE, (ids, self._end))
            else:
                cursor.execute(_NEWEST, (ids,))
            found: list[tuple[int, int, Any]] = cursor.fetchall()
        return found
