"""Buffering what an LMDB store writes: its changes, and the results of a run, encoded and stored together."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..._log import log
from ...errors import StoreClosedError, StoreFullError, StoreLockedError
from ..protocol import Item, Path, StoredRecord
from .encoding import Encoding
from .environment import Environment
from .sharing import release
from .spool import Sorted, store_pairs

__all__ = ["LmdbWriter", "WriteBuffer"]


#: Bytes that a full map may exceed its limit by, so that deletions can be stored; and how many of them at a time.
SPARE, FEW = 1 << 20, 16


class WriteBuffer:
    """The changes of one store that are not in its file yet; for any thread.

    Args:
        environment: Where they go.
        max_entries: Changes after which they are stored.
        max_bytes: Bytes of keys and values after which they are stored.
        max_size: Bytes that the map may grow to.
    """

    def __init__(self, environment: Environment, max_entries: int, max_bytes: int, max_size: int | None) -> None:
        self.environment = environment
        self.max_entries, self.max_bytes, self.max_size = max_entries, max_bytes, max_size
        self.lock = threading.RLock()
        #: By key, the value, or None for a deletion. Emptied only when all of it is committed, so that who looks here
        #: first and then in the file misses nothing, without a lock.
        self.pending: dict[bytes, bytes | None] = {}
        self._deletions = 0
        #: Whether a read has found no room for what is pending; reads do not try again before it is stored.
        self._is_stuck = False
        #: Bytes of what is pending, at most.
        self.size = 0
        #: Whether it takes nothing more: it is closed, or another process's.
        self.is_finished = False
        _buffers.add(self)

    def _check(self) -> None:
        if self.is_finished:
            if self.environment.is_forked:
                self.environment.refuse_fork()
            raise StoreClosedError(f"the LMDB store {self.environment.files.path} is closed", hint="open it again")

    def put(self, key: bytes, value: bytes | None) -> None:
        """Take a change; if it can't be kept because the buffer is full and can't be stored, nothing happens to it.

        A deletion needs no room: it is stored, whether there is some for the other changes or not.
        """
        with self.lock:
            self._check()
            pending = self.pending
            size = len(key) if value is None else len(key) + len(value)
            is_full = len(pending) + 1 >= self.max_entries or self.size + size >= self.max_bytes
            before = pending.get(key, _NOTHING) if is_full else None
            pending[key] = value
            self.size += size
            self._deletions += value is None
            if is_full:
                try:
                    self.flush()
                except BaseException as error:
                    if value is None and key not in pending and isinstance(error, StoreFullError):
                        return  # the deletion is stored; what was there before it waits for more room
                    self.size -= size
                    if before is _NOTHING:
                        pending.pop(key, None)
                    else:
                        pending[key] = before  # type: ignore[assignment]
                        self._deletions += before is None
                    raise

    def flush(self) -> None:
        """Store all changes in one transaction; if that can't be, they stay.

        Raises:
            StoreFullError: The map is as large as it may be; deletions alone may have been stored then.
        """
        with self.lock:
            self._check()
            if not self.pending:
                return
            pairs = _sorted(self.pending)
            deleted = sorted(key for key, value in self.pending.items() if value is None) if self._deletions else []

            def work(transaction: Any) -> None:
                _delete(transaction, deleted)
                store_pairs(transaction, pairs)

            try:
                self.environment.write(work, self.max_size, self.size)
            except StoreFullError:
                if not deleted:
                    raise
                self._delete_first(deleted)
                if pairs:
                    self.environment.write(partial(store_pairs, chunks=pairs), self.max_size, self.size)
            self.forget()

    def flush_to_read(self) -> None:
        """Store all changes before a read; where there is no room for them, the read has to look here, too."""
        with self.lock:
            if self._is_stuck:
                return
            try:
                self.flush()
            except StoreLockedError:
                raise
            except (StoreFullError, OSError) as problem:
                self._is_stuck = True
                log.warning("what is buffered can't be stored, and reads go on without that: %s", problem)

    def clear(self) -> None:
        """Delete all records, and drop all changes."""
        with self.lock:
            self._check()
            try:
                self._clear(self.max_size)
            except StoreFullError:
                with self._spare() as limit:
                    self._clear(limit)
            self.forget()

    def _clear(self, limit: int | None) -> None:
        self.environment.clear(limit)
        if limit is not None:
            self.environment.write(partial(_pass_on, key=b"/"), limit)

    def _delete_first(self, keys: list[bytes]) -> None:
        """Commit deletions, which make room, but need a little first: for copies of the pages that they change."""
        with self._spare() as limit:
            for start in range(0, len(keys), FEW):
                some = keys[start : start + FEW]
                self.environment.write(partial(_delete, keys=some), limit)
            self.environment.write(partial(_pass_on, key=keys[0]), limit)
        for key in keys:
            del self.pending[key]
        self._deletions = 0

    @contextmanager
    def _spare(self) -> Iterator[int | None]:
        """Let the map be a little larger than it may be, for transactions that make room; gives its size then."""
        try:
            yield None if self.max_size is None else max(self.max_size, self.environment.map_size) + SPARE
        finally:
            self.environment.shrink(self.max_size)

    def store(self, values: Mapping[bytes, bytes]) -> None:
        """Store something else, in one transaction."""
        size = sum(map(len, values)) + sum(map(len, values.values()))
        self.environment.write(partial(store_pairs, chunks=_sorted(values)), self.max_size, size)

    def forget(self) -> None:
        """Drop all changes."""
        self.pending.clear()
        self.size = self._deletions = 0
        self._is_stuck = False

    def finish(self) -> Exception | None:
        """Store what is left, and give the environment back; returns the error if it could not be stored."""
        problem: Exception | None = None
        with self.lock:
            if self.is_finished:
                return None
            try:
                self.flush()
            except Exception as error:
                problem = error
            finally:
                self.is_finished = True
        # Without the lock: readers may need it before they are through.
        release(self.environment)
        return problem

    def abandon(self, name: str) -> None:
        """Do for a store that nobody has closed what closing it would have done."""
        count = len(self.pending)
        problem = self.finish()
        if problem is not None:
            log.error("%s was not closed, and %d changes to it are lost: %s", name, len(self.pending), problem)
        if count:
            warnings.warn(f"{name} was not closed; use it in a with block", ResourceWarning, stacklevel=2)


class LmdbWriter:
    """A writer of one run; for one thread.

    What it has taken is held, encoded: as many batches as there is room for in the store's `max_buffer_bytes`, but one
    at least. When more come, those that are held are stored before the commit, in one transaction.
    """

    def __init__(
        self,
        encoding: Encoding,
        buffer: WriteBuffer,
        find: Callable[[Sequence[Path], Sequence[bytes]], list[StoredRecord | None]],
    ) -> None:
        self._encoding, self._buffer, self._find = encoding, buffer, find
        self._held: dict[bytes, bytes] = {}
        self._size = 0
        self._keys: dict[Path, bytes] = {}  # of the paths that were looked for last, most of which will be put

    def find(self, path: Path) -> StoredRecord | None:
        """What there is under a path, with what this writer has taken."""
        return self.find_many([path])[0]

    def find_many(self, paths: Sequence[Path]) -> list[StoredRecord | None]:
        """What there is under each of some paths."""
        encoding, held = self._encoding, self._held
        keys = encoding.form.of_paths(paths)
        self._keys = dict(zip(paths, keys, strict=True))
        if held.keys().isdisjoint(keys):
            return self._find(paths, keys)
        stored = [(path, key) for path, key in zip(paths, keys, strict=True) if key not in held]
        found = iter(self._find([path for path, _ in stored], [key for _, key in stored]))
        return [
            StoredRecord(path, None, partial(encoding.decoded, key, held[key]), None) if key in held else next(found)
            for path, key in zip(paths, keys, strict=True)
        ]

    def put(self, items: Sequence[Item]) -> None:
        """Take a batch; when one item can't be stored, none of the batch is."""
        paths = [path for path, _, _ in items]
        values = self._encoding.encoded_many([value for _, value, _ in items], paths)
        batch = dict(zip(self._keys_of(paths), values, strict=True))
        size = sum(map(len, batch)) + sum(map(len, batch.values()))
        if self._held and self._size + size > self._buffer.max_bytes:
            self._save()
        self._held.update(batch)
        self._size += size

    def _keys_of(self, paths: list[Path]) -> list[bytes]:
        try:
            return [self._keys[path] for path in paths]
        except (KeyError, TypeError):
            return self._encoding.form.of_paths(paths)

    def commit(self) -> None:
        """What was taken is there, durably, when this returns."""
        self._save()
        options = self._buffer.environment.options
        if not (options.get("sync", True) and options.get("metasync", True)):
            self._buffer.environment.sync()

    def _save(self) -> None:
        with self._buffer.lock:
            self._buffer.flush()
            if self._held:
                self._buffer.store(self._held)
        self._held, self._size = {}, 0


_NOTHING = object()


def _pass_on(transaction: Any, key: bytes) -> None:
    """Change nothing: what a transaction gives up is for the second one after it, so there has to be one more."""
    transaction.put(key, b"")
    transaction.delete(key)


def _delete(transaction: Any, keys: list[bytes]) -> None:
    for key in keys:
        transaction.delete(key)


def _sorted(values: Mapping[bytes, bytes | None]) -> list[Sorted]:
    """The pairs of a mapping that are no deletions, as one chunk, or none."""
    keys = sorted(key for key, value in values.items() if value is not None)
    return [(keys[0], [(key, values[key]) for key in keys])] if keys else []  # type: ignore[misc]


#: For a fork: the locks of the child's copies may be held by threads that it does not have, and the changes in them are
#: the parent's to store.
_buffers: weakref.WeakSet[WriteBuffer] = weakref.WeakSet()


def _after_fork() -> None:
    for buffer in list(_buffers):
        buffer.lock, buffer.pending, buffer.is_finished = threading.RLock(), {}, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
