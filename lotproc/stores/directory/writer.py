"""What a run of results is written with: each in its place as it comes, the names synced at the commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..._files import sync_directory
from ...errors import as_text
from ..protocol import Item, Path, StoredRecord
from .keys import Place
from .metadata import metadata_text
from .pairs import REMOVE, REPLACE

if TYPE_CHECKING:
    from .store import DirectoryStore

__all__ = ["DirectoryWriter"]


class DirectoryWriter:
    """Puts each item in its place as it comes; `commit` waits until the names are on the disk, too."""

    def __init__(self, store: DirectoryStore) -> None:
        self._store = store
        self._unsynced: set[str] = set()

    def find(self, path: Path) -> StoredRecord | None:
        """What there is under a path."""
        return self._store.find(path)

    def put(self, items: Sequence[Item]) -> None:
        """Store a batch, each item whole; nothing of it, where one can't be stored."""
        store, pairs = self._store, self._store._pairs
        waiting: list[tuple[Place, str, str]] = []
        try:
            for path, value, metadata in items:
                place = store._place(path)
                text = None if metadata is None else metadata_text(f"{store!r}: {as_text(path)}", metadata)
                waiting.append((place, store._prepared(place, value, text), REMOVE if text is None else REPLACE))
            for place, _, _ in waiting:
                store._sweep(place)
            waiting.reverse()
            while waiting:
                place, token, meta = waiting.pop()  # what becomes of it is the change's affair
                pairs.change(place, token, meta, REPLACE, self._unsynced)
        except BaseException:
            for place, token, _ in waiting:
                pairs.drop(place, token)
            raise

    def commit(self) -> None:
        """Wait until all that was put is on the disk."""
        while self._unsynced:
            sync_directory(next(iter(self._unsynced)))
            self._unsynced.pop()
