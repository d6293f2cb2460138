"""Scanning an LMDB store: keys and values in order, from a snapshot that gives way when the map has to grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any

from ...errors import StoreClosedError
from .environment import Environment
from .keys import Range

__all__ = ["chunks", "merged"]

#: Pairs that are read at a time, first and later: so that `next(iter(store))` is cheap.
FIRST, MOST = 16, 512
#: Bytes of values after which a chunk ends, where values are large.
MAX_BYTES = 256 << 10

#: A key, and its value, empty where values are not read.
Pair = tuple[bytes, bytes]


class _Scan:
    """A read transaction that is open from chunk to chunk, unless the environment takes it away in between.

    Then it goes on after the last key, in a new transaction, which sees what was committed until then.
    """

    def __init__(self, environment: Environment, ranges: Sequence[Range], *, reverse: bool, values: bool) -> None:
        self._environment = environment
        self._ranges = list(ranges)[::-1]  # the next one is the last
        if reverse:
            self._ranges.reverse()
        self._reverse, self._values = reverse, values
        self._last: bytes | None = None
        self._transaction: Any = None
        self._cursor: Any = None
        self._pairs: Iterator[Any] | None = None
        self._has_large = False
        environment.idle.add(self.abort)

    def abort(self) -> None:
        """Called by the environment, when nobody is inside a transaction."""
        transaction, self._transaction, self._pairs, self._cursor = self._transaction, None, None, None
        if transaction is not None:
            transaction.abort()

    def close(self) -> None:
        environment = self._environment
        if environment.is_forked:
            return  # the transaction is the parent's; what is left of it here does nothing
        environment.end_idle(self.abort)

    def read(self, count: int) -> list[Any]:
        """The next pairs, or keys, about as many as wanted; none at the end."""
        environment = self._environment
        environment.enter()
        if self._transaction is None:  # only who is inside knows: it may be dropped until then
            environment.leave()
            self._transaction = environment.begin(buffers=False)
            self._cursor = self._transaction.cursor()
            self._has_large = self._values and environment.stat()["overflow_pages"] > 0
        try:
            while self._ranges:
                if self._pairs is None and not self._position():
                    self._next_range()
                    continue
                assert self._pairs is not None
                chunk = _some(self._pairs, count) if self._has_large else list(islice(self._pairs, count))
                inside = self._cut(chunk)
                if inside:
                    self._last = inside[-1][0] if self._values else inside[-1]
                if len(inside) < len(chunk) or not chunk:
                    self._next_range()
                if inside:
                    return inside
            return []
        except environment.lmdb.Error as error:
            environment.fail(error)
        finally:
            environment.leave()

    def _next_range(self) -> None:
        self._ranges.pop()
        self._pairs, self._last = None, None

    def _position(self) -> bool:
        """Go to where the range begins, or to the pair after the last one; False if there is none."""
        cursor, (first, stop) = self._cursor, self._ranges[-1]
        if not self._reverse:
            at = first if self._last is None else self._last
            found = cursor.set_range(at) if at else cursor.first()
            if found and self._last is not None and cursor.key() == self._last:
                found = cursor.next()
            self._pairs = cursor.iternext(keys=True, values=self._values) if found else None
        else:
            before = stop if self._last is None else self._last
            is_before = before is not None and cursor.set_range(before)
            found = cursor.prev() if is_before else cursor.last()
            self._pairs = cursor.iterprev(keys=True, values=self._values) if found else None
        return bool(found)

    def _cut(self, chunk: list[Any]) -> list[Any]:
        """What of a chunk is in the range; keys are in order."""
        if not chunk:
            return chunk
        first, stop = self._ranges[-1]
        key = itemgetter(0) if self._values else _itself
        last = key(chunk[-1])
        if self._reverse:
            return chunk if last >= first else [item for item in chunk if key(item) >= first]
        return chunk if stop is None or last < stop else [item for item in chunk if key(item) < stop]


def _itself(key: bytes) -> bytes:
    return key


def _some(pairs: Iterator[Pair], count: int) -> list[Pair]:
    """The next pairs, few of them where they are large."""
    chunk, size = [], 0
    for pair in pairs:
        chunk.append(pair)
        size += len(pair[1])
        if size >= MAX_BYTES or len(chunk) >= count:
            break
    return chunk


def chunks(
    environment: Environment,
    ranges: Sequence[Range],
    *,
    reverse: bool,
    values: bool,
    check: Callable[[], None],
) -> Iterator[list[Any]]:
    """Pairs of bytes, or keys alone, in lists that are never empty.

    Args:
        environment: What is read.
        ranges: The keys to read, in order, apart from each other.
        reverse: Whether the last one comes first.
        values: Whether values are read, too.
        check: Called before each chunk; raises when the store was closed.
    """
    scan = _Scan(environment, ranges, reverse=reverse, values=values)
    try:
        count = FIRST
        while True:
            check()
            chunk = scan.read(count)
            if not chunk:
                return
            yield chunk
            del chunk
            count = min(4 * count, MOST)
    except StoreClosedError:
        check()
        raise
    finally:
        scan.close()


def merged(
    stored: Iterator[list[Any]], pending: dict[bytes, bytes | None], *, reverse: bool, values: bool
) -> Iterator[list[Any]]:
    """Chunks of what is stored, with changes that are not: a value for a key, or None for one that is deleted."""
    key = itemgetter(0)
    kept = (
        pair
        for chunk in stored
        for pair in (chunk if values else ((key, b"") for key in chunk))
        if pair[0] not in pending
    )
    changes = sorted(((key, value) for key, value in pending.items() if value is not None), key=key, reverse=reverse)
    pairs = merge(kept, changes, key=key, reverse=reverse)
    while chunk := list(islice(pairs, FIRST)):
        yield chunk if values else [pair[0] for pair in chunk]
