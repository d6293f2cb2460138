"""Takes the results of a run for an LMDB store, and stores them when it is told to commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ...errors import as_text
from ..protocol import Item, Path, StoredRecord
from .buffer import WriteBuffer
from .encoding import Encoding

__all__ = ["LmdbWriter"]


class LmdbWriter:
    """A writer of one run; for one thread.

    What it has taken is held, encoded: as many batches as there is room for in the store's `max_buffer_bytes`, but one
    at least. When more come, those that are held are stored before the commit, in one transaction.
    """

    def __init__(self, encoding: Encoding, buffer: WriteBuffer, find: Callable[[Path], StoredRecord | None]) -> None:
        self._encoding, self._buffer, self._find = encoding, buffer, find
        self._held: dict[bytes, bytes] = {}
        self._size = 0

    def find(self, path: Path) -> StoredRecord | None:
        """What there is under a path, with what this writer has taken."""
        key = self._encoding.form.to_bytes(path)
        if key in self._held:
            return StoredRecord(path, None, partial(self._encoding.decoded, key, self._held[key]), None)
        return self._find(path)

    def put(self, items: Sequence[Item]) -> None:
        """Take a batch; when one item can't be stored, none of the batch is."""
        encoding = self._encoding
        batch = {encoding.form.to_bytes(path): encoding.encoded(value, as_text(path)) for path, value, _ in items}
        size = sum(map(len, batch)) + sum(map(len, batch.values()))
        if self._held and self._size + size > self._buffer.max_bytes:
            self._save()
        self._held.update(batch)
        self._size += size

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
