"""What a run of results is written with: each in its place as it comes, the names synced at the commit."""

from __future__ import annotations

from collections.abc import Sequence

from ..._files import sync_directory
from ...errors import as_text
from ..protocol import Item, Path, StoredRecord
from .changes import Entries
from .keys import EntryPaths
from .metadata import metadata_text
from .reading import Change
from .scan import sweep

__all__ = ["DirectoryWriter"]


class DirectoryWriter:
    """What a run of results is written with: each in its place as it comes, the names synced at the commit.

    Args:
        entries: The entries of the store.
        swept: Directories in which nothing is left of killed writers.
    """

    def __init__(self, entries: Entries, swept: set[str]) -> None:
        self._entries, self._swept = entries, swept
        self._unsynced: set[str] = set()

    def find(self, path: Path) -> StoredRecord | None:
        """What there is under a path."""
        return self._entries.find(self._entries.layout.of(path))

    def put(self, items: Sequence[Item]) -> None:
        """Store a batch, each item whole; nothing of it, where one can't be stored."""
        entries = self._entries
        waiting: list[tuple[EntryPaths, Change]] = []
        try:
            for path, value, metadata in items:
                paths = entries.layout.of(path)
                meta = None if metadata is None else metadata_text(f"{entries.store!r}: {as_text(path)}", metadata)
                waiting.append((paths, entries.prepare(paths, entries.dumping(value), meta)))
            for paths, _ in waiting:
                if paths.directory not in self._swept:
                    sweep(entries.layout, paths, entries.take_up)
                    self._swept.add(paths.directory)
            waiting.reverse()
            while waiting:
                paths, change = waiting.pop()  # what becomes of it is the change's affair
                entries.change(paths, change, self._unsynced)
        except BaseException:
            for paths, change in waiting:
                entries.drop(paths, change)
            raise

    def commit(self) -> None:
        """Wait until all that was put is on the disk."""
        while self._unsynced:
            sync_directory(next(iter(self._unsynced)))
            self._unsynced.pop()
