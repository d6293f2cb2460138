"""One entry of a directory: its value, its metadata and its lock, none of them touched before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import total_ordering
from types import TracebackType
from typing import Any

from ... import _locks as locks
from ..._public import public
from ..._reprs import bounded_repr
from ...errors import CodecError, as_text
from ...models import html_of_fields
from ..protocol import Store, no_such_key
from .changes import Entries
from .keys import EntryPaths
from .metadata import Metadata, metadata_text

__all__ = ["DirectoryEntry", "EntryStat"]


@public
@dataclass(frozen=True)
class EntryStat:
    """What is known of an entry's files.

    Args:
        size: Bytes of the value.
        modified: When it was last written, in seconds since 1970.
        meta_size: Bytes of the metadata; None where there is none.
        meta_modified: When that was last written; None where there is none.
    """

    size: int
    modified: float
    meta_size: int | None
    meta_modified: float | None

    __repr__ = bounded_repr
    _repr_html_ = html_of_fields


@public
@total_ordering
class DirectoryEntry:
    """An entry of a `DirectoryStore`, whether it is there or not: `store.entry(key)`.

    >>> from lotproc.stores import DirectoryStore
    >>> store = DirectoryStore("entries")
    >>> entry = store.entry("foo")
    >>> bool(entry)
    False
    >>> entry.put_data([1, 2], meta={"test": [1, 2]})
    >>> with entry:  # nobody else who locks it is at it meanwhile
    ...     entry.meta.test.append(3)  # is saved at the end of the block
    >>> store.entry("foo").meta
    {'test': [1, 2, 3]}
    >>> entry.get_data()
    [1, 2]

    Entries sort by store and path, and are equal where both are. One entry is for one thread; each thread can have its
    own of the same key.

    Args:
        entries: The entries of the store.
        paths: Where the files of this one are.
    """

    __slots__ = ("_depth", "_entries", "_meta", "_paths", "_saved")

    def __init__(self, entries: Entries, paths: EntryPaths) -> None:
        self._entries, self._paths = entries, paths
        self._meta: Metadata | None = None
        self._saved: bytes | None = None  # how the metadata in memory was when it was last read or written
        self._depth = 0

    @property
    def store(self) -> Store:
        """The store."""
        return self._entries.store

    @property
    def path(self) -> tuple[str, ...]:
        """The key, a record path."""
        return self._paths.path

    @property
    def name(self) -> str:
        """The last of the path's names; empty for the root's record."""
        return self.path[-1] if self.path else ""

    def has_data(self) -> bool:
        """Whether there is a value; so does `bool(entry)`."""
        return self._entries.has(self._paths)

    __bool__ = has_data

    def get_data(self) -> Any:
        """Read the value.

        Raises:
            NoSuchKeyError: There is none.
            DamagedStoreError: Its bytes can't be read.
        """
        return self._entries.value(self._paths)

    def read(self) -> tuple[Any, Metadata | None]:
        """Read the value and the metadata (None: there is none) as they were put together, beside any writer.

        Raises:
            NoSuchKeyError: There is no value.
            DamagedStoreError: The bytes of one of them can't be read.
        """
        found = self._entries.pair(self._paths)
        if found is None:
            raise no_such_key(self.store, self.path)
        value, meta = found
        with closing(value):
            return value.read(), meta

    def put_data(self, value: Any, meta: Mapping[str, Any] | None = None) -> None:
        """Store a value, and metadata with it.

        Args:
            value: What the store's codec can hold.
            meta: Metadata that takes the place of what there was. None: that stays, and what was changed in `meta` is
                saved. The value and the metadata are stored both or not at all.

        Raises:
            NotPicklableError, CodecError: The value or the metadata can't be stored; nothing is changed.
        """
        if meta is not None:
            text = metadata_text(self._where, meta)
            self._entries.put(self._paths, value, text)
            self._meta, self._saved = Metadata(meta), text
        elif (changed := self._changed()) is not None:
            self._entries.put(self._paths, value, changed)
            self._saved = changed
        else:
            self._entries.put(self._paths, value, ...)

    @property
    def meta(self) -> Metadata:
        """The metadata, read when it is first asked for; empty where there is none.

        Changes in it are saved by `update_meta`, by `put_data`, and at the end of a `with` block. Setting it saves at
        once; setting it to None removes the metadata.

        Raises:
            DamagedStoreError: It can't be read.
            CodecError: JSON can't hold what it is set to; nothing is changed.
        """
        if self._meta is None:
            meta = self._entries.meta(self._paths)
            self._meta = Metadata() if meta is None else meta
            self._saved = None if meta is None else metadata_text(self._where, meta)
        return self._meta

    @meta.setter
    def meta(self, meta: Mapping[str, Any] | None) -> None:
        text = None if meta is None else metadata_text(self._where, meta)
        self._entries.put_meta(self._paths, text)
        self._meta, self._saved = (None if meta is None else Metadata(meta)), text

    def update_meta(self) -> None:
        """Save the metadata, if it has changed.

        Raises:
            CodecError: JSON can't hold it; the file is not changed.
        """
        if (changed := self._changed()) is not None:
            self._entries.put_meta(self._paths, changed)
            self._saved = changed

    def delete(self) -> None:
        """Remove the value and the metadata, both or none. The lock's file and the directory stay: others may use them.

        Raises:
            NoSuchKeyError: There is neither.
        """
        self._entries.delete(self._paths, with_meta=True)
        self._meta = self._saved = None

    def stat(self) -> EntryStat:
        """Sizes and times of the files, without reading them.

        Raises:
            NoSuchKeyError: There is no value.
        """
        value, meta = self._entries.status(self._paths, "value"), self._entries.status(self._paths, "meta")
        if value is None:
            raise no_such_key(self.store, self.path)
        if meta is None:
            return EntryStat(value.st_size, value.st_mtime, None, None)
        return EntryStat(value.st_size, value.st_mtime, meta.st_size, meta.st_mtime)

    def __enter__(self) -> DirectoryEntry:
        """Lock the entry, for this thread, against all who lock it: other threads, processes, and those of dirdb.

        The lock can be taken again in the thread that has it. What was in memory of the metadata is read anew, unless
        it was changed.

        Raises:
            StoreLockedError: Somebody else has it for longer than the store's `lock_timeout`; it says who.
            ReadOnlyStoreError: The file system has no locks.
        """
        self._entries.check_open()
        self._entries.check_locks()
        is_first = locks.acquire(self._paths.lock, self._entries.timeout, lambda: self._where)
        if is_first and not self._is_changed():
            self._meta = self._saved = None
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Save the metadata if it has changed, and give the lock back.

        After an error nothing is saved, and the changes in memory are dropped.
        """
        self._depth -= 1
        try:
            if kind is not None:
                self._meta = self._saved = None
            elif locks.is_held(self._paths.lock):  # not in a forked child
                self.update_meta()
        finally:
            locks.release(self._paths.lock)

    def _changed(self) -> bytes | None:
        """The metadata in memory as JSON, if it is not what was read or written."""
        if self._meta is None:
            return None
        text = metadata_text(self._where, self._meta)
        return None if text == self._saved or (self._saved is None and not self._meta) else text

    def _is_changed(self) -> bool:
        try:
            return self._changed() is not None
        except CodecError:
            return True

    @property
    def _where(self) -> str:
        return f"{self.store!r}: {as_text(self.path)}"

    @property
    def _order(self) -> tuple[str, tuple[str, ...], str]:
        return (self._entries.layout.root, self.path, self._entries.codec.name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DirectoryEntry):
            return NotImplemented
        return self._order == other._order

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, DirectoryEntry):
            return NotImplemented
        return self._order < other._order

    def __hash__(self) -> int:
        return hash(self._order)

    def __repr__(self) -> str:
        return f"<entry {as_text(self.path)} of {self.store!r}>"

    def _repr_html_(self) -> str:
        from ..._html import card, escaped

        return card("entry", as_text(self.path), f"<div>of {escaped(repr(self.store))}</div>")
