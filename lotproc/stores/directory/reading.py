"""Reading entries beside their writers: without locks, and changing nothing.

What an entry's files are is told by `changes`; a reader that meets a change follows the journal.
"""

from __future__ import annotations

import mmap
import os
import pickle
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from typing import Any, Literal, NamedTuple

from ..._files import open_regular
from ...errors import (
    DamagedStoreError,
    DetachError,
    ForeignFileError,
    StoreClosedError,
    StoreLockedError,
    add_note,
    as_text,
)
from ..codecs import Codec, importable, unpickled
from ..protocol import Store, StoredPayload, StoredRecord, no_such_key
from .keys import EntryPaths, Layout
from .metadata import Metadata, metadata_from

__all__ = ["KEEP", "LONGEST", "REMOVE", "REPLACE", "Change", "OpenValue", "Reading"]

#: What becomes of a file in a change.
KEEP, REPLACE, REMOVE = "keep", "replace", "remove"
#: Bytes that a journal has at most, whole or torn.
LONGEST = 100
_LINE = re.compile(rb"lotproc ([0-9a-f]+-\d+) (replace|remove) (replace|remove)\n")
_START = b"lotproc "
#: Bytes up to which a value is read in one piece.
SMALL = 1 << 16
#: Seconds between attempts to read a pair beside its writers, at first and at most.
PAUSES = 0.0001, 0.01


class Change(NamedTuple):
    """What is to become of an entry's two files.

    Args:
        token: In the hidden names of the new ones.
        meta: KEEP, REPLACE or REMOVE the metadata.
        value: KEEP, REPLACE or REMOVE the value.
    """

    token: str
    meta: str
    value: str


class Current(NamedTuple):
    """What an entry's files are; None where there is none of a kind.

    Args:
        value: The value's.
        meta: The metadata's.
        journal: What the journal says; empty where there is none.
    """

    value: str | None
    meta: str | None
    journal: bytes


class Reading:
    """The entries of a store, as far as they are read.

    Args:
        store: For messages.
        layout: Where they are.
        codec: How values become bytes.
        timeout: Seconds to wait for somebody else's change of an entry; None: for ever.
    """

    def __init__(self, store: Store, layout: Layout, codec: Codec, timeout: float | None) -> None:
        self.store, self.layout, self.codec, self.timeout = store, layout, codec, timeout
        self.is_closed = False

    def check_open(self) -> None:
        """Refuse a store that was closed."""
        if self.is_closed:
            raise StoreClosedError(f"{self.store!r} is closed", hint="open it again")

    def has(self, paths: EntryPaths) -> bool:
        """Whether there is a value."""
        self.check_open()
        while True:
            current = self._current(paths)
            if current.value is None:
                return False
            if os.path.isfile(current.value):
                return True
            # What is neither is listed, too, and reading it says what it is.
            if os.path.lexists(current.value):
                return not os.path.isdir(current.value)
            if self._current(paths) == current:
                return False

    def value(self, paths: EntryPaths) -> Any:
        """The value.

        Raises:
            NoSuchKeyError: There is none.
            DamagedStoreError, DetachError: It can't be read.
        """
        descriptor = self._open_one(paths, "value")
        if descriptor is None:
            raise no_such_key(self.store, paths.path, "entry(key) gives an entry to put something into")
        try:
            return self.decoded(paths, descriptor)
        finally:
            os.close(descriptor)

    def meta(self, paths: EntryPaths) -> Metadata | None:
        """The metadata; None where there is none."""
        descriptor = self._open_one(paths, "meta")
        if descriptor is None:
            return None
        with open(descriptor, "rb") as file:
            return self._parsed(paths, file.read())

    def status(self, paths: EntryPaths, which: Literal["value", "meta"]) -> os.stat_result | None:
        """What the system knows of a file; None where there is none."""
        descriptor = self._open_one(paths, which)
        if descriptor is None:
            return None
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def pair(self, paths: EntryPaths) -> tuple[OpenValue, Metadata | None] | None:
        """An entry's value, opened, and its metadata, as they were put together; None where there is no value."""
        self.check_open()
        until, pause = None, PAUSES[0]
        while True:
            opened, is_one = self._open_both(paths)
            if is_one:
                break
            if opened is not None:
                os.close(opened[0])
            now = time.monotonic()
            if until is None:
                until = float("inf") if self.timeout is None else now + self.timeout
            elif now > until:
                raise StoreLockedError(
                    f"{self.store!r}: {as_text(paths.path)} was changed each time that it was read for "
                    f"{self.timeout:g} s",
                    hint="give the store a longer lock_timeout",
                )
            else:
                time.sleep(pause)
                pause = min(2 * pause, PAUSES[1])
        if opened is None:
            return None
        value = OpenValue(self.decoded, paths, opened[0])
        return value, None if opened[1] is None else self._parsed(paths, opened[1])

    def find(self, paths: EntryPaths) -> StoredRecord | None:
        """What is stored in an entry, as stores give it."""
        found = self.pair(paths)
        return None if found is None else self._record(paths, *found)

    def records(self, found: Iterable[EntryPaths]) -> Iterator[StoredRecord]:
        """What is stored in some entries, each value open until the next one is asked for."""
        for paths in found:
            pair = self.pair(paths)
            if pair is not None:  # else it was removed meanwhile
                with closing(pair[0]):
                    yield self._record(paths, *pair)

    def _record(self, paths: EntryPaths, value: OpenValue, meta: Metadata | None) -> StoredRecord:
        return StoredRecord(paths.path, meta, value.read, StoredPayload(self.store, paths.path))

    def decoded(self, paths: EntryPaths, descriptor: int) -> Any:
        """The value in an open file, which stays open.

        Raises:
            DamagedStoreError: The codec can't read it.
            DetachError: Its class can't be imported.
        """
        codec = self.codec
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            data = os.read(descriptor, SMALL)
            if len(data) < SMALL:
                return codec.decode(data)
            os.lseek(descriptor, 0, os.SEEK_SET)
            if codec.keeps:  # the value is a view of the file
                return codec.decode(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
            with open(os.dup(descriptor), "rb") as file:
                if codec.decode is unpickled:  # arrays go from the file to where they stay
                    try:
                        return importable(pickle.load(file))
                    except (ImportError, AttributeError):  # of which `unpickled` tells
                        file.seek(0)
                return codec.decode(file.read())
        except (MemoryError, OSError):
            raise
        except DetachError as error:
            raise DetachError(f"{self.store!r}: the value", f"can't be read: {error}", path=paths.path) from error
        except Exception as error:
            raise DamagedStoreError(
                f"{self.store!r}: the value",
                f"can't be read with codec {codec.name!r}: {type(error).__name__}: {error}",
                path=paths.path,
                hint=f"its file is {paths.data}",
            ) from error

    def change_in(self, paths: EntryPaths, journal: bytes) -> Change | None:
        """What a journal says; None if it is empty or torn.

        Raises:
            ForeignFileError: It is no journal.
        """
        line = _LINE.fullmatch(journal)
        if line is not None:
            return Change(*(part.decode() for part in line.groups()))
        start = journal.rstrip(b"\0")[: len(_START)]
        if len(journal) > LONGEST or not _START.startswith(start):
            raise ForeignFileError(
                f"{self.store!r}: {paths.journal} is no file of lotproc's", hint="give it another name"
            )
        return None

    def _current(self, paths: EntryPaths) -> Current:
        """What an entry's files are now, also while they are changed, or after the writer was killed."""
        if not os.access(paths.journal, os.F_OK):
            return Current(paths.data, paths.meta, b"")
        try:
            journal = open_regular(paths.journal)
        except FileNotFoundError:
            return self._current(paths)
        except PermissionError as error:
            add_note(error, f"{self.store!r}: a change of {as_text(paths.path)} was begun, and can't be read about")
            raise
        try:
            said = os.read(journal, LONGEST + 1)
        finally:
            os.close(journal)
        change = self.change_in(paths, said)
        if change is not None:
            new_value, new_meta = paths.hidden(change.token)
            if os.path.lexists(new_value):  # else all is in its place
                value = new_value if change.value == REPLACE else None
                if change.meta == REMOVE:
                    return Current(value, None, said)
                return Current(value, new_meta if os.path.lexists(new_meta) else paths.meta, said)
        return Current(paths.data, paths.meta, said)

    def _open_one(self, paths: EntryPaths, which: Literal["value", "meta"]) -> int | None:
        """The value or the metadata, open for reading; None where there is none."""
        self.check_open()
        while True:
            current = self._current(paths)
            path = current.value if which == "value" else current.meta
            if path is None:
                return None
            try:
                return open_regular(path, inside=self.layout.root)
            except (FileNotFoundError, NotADirectoryError):
                if self._current(paths) == current:
                    return None

    def _open_both(self, paths: EntryPaths) -> tuple[tuple[int, bytes | None] | None, bool]:
        """The value, open, and the bytes of the metadata, if they are there, and whether they were at one moment."""
        current = self._current(paths)
        if current.value is None:
            return None, True
        try:
            value = open_regular(current.value, inside=self.layout.root)
        except (FileNotFoundError, NotADirectoryError):
            return None, self._current(paths) == current
        meta = -1
        try:
            text = None
            if current.meta is not None:
                with suppress(FileNotFoundError):
                    meta = open_regular(current.meta, inside=self.layout.root)
                    text = _read(meta)
            # Both files are open, so their numbers are not given to others. Where neither has been replaced since it
            # was opened, and no change of both was under way in between, there was a moment with both of them.
            is_one = (
                self._current(paths) == current
                and (current.meta is None or _is_still(current.meta, meta))
                and _is_still(current.value, value)
            )
        except BaseException:
            os.close(value)
            raise
        finally:
            if meta >= 0:
                os.close(meta)
        return (value, text), is_one

    def _parsed(self, paths: EntryPaths, text: bytes) -> Metadata:
        try:
            return metadata_from(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise DamagedStoreError(
                f"{self.store!r}: the metadata",
                f"can't be read as JSON: {error}",
                path=paths.path,
                hint=f"its file is {paths.meta}",
            ) from error


class OpenValue:
    """A value's file, kept open, so that it can be read whatever takes its place; closed when it is dropped."""

    __slots__ = ("_decoded", "_descriptor", "_paths")

    def __init__(self, decoded: Callable[[EntryPaths, int], Any], paths: EntryPaths, descriptor: int) -> None:
        self._descriptor = descriptor
        self._decoded, self._paths = decoded, paths

    def read(self) -> Any:
        """Read the value; any number of times."""
        return self._decoded(self._paths, self._descriptor)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close


def _read(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def _is_still(path: str, descriptor: int) -> bool:
    """Whether a path is the file that was opened; -1: still is not there."""
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return descriptor < 0
    if descriptor < 0:
        return False
    then = os.fstat(descriptor)
    return (now.st_ino, now.st_dev) == (then.st_ino, then.st_dev)
