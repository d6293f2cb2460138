"""The value and the metadata of an entry, changed and read as one.

Two files can't be renamed in one step. A change of both is therefore written down before it is made, in a hidden file
beside them, the journal: whoever finds it there, with nobody at work on it, makes the change. The steps are

1. the new files are written under hidden names, and synced;
2. the journal is made and locked, and says what is to be done; from here on the change is made, whatever happens;
3. the metadata's file takes its place, or is removed;
4. the value's file takes its place: where its hidden name is still there, the change has not come to its end;
5. the journal is removed.

A journal is locked as long as its writer lives. Another writer that finds one waits for it, or goes on where it
stopped. Readers take no lock and change nothing: from step 2 on, the new files are the entry's, wherever they are; what
they have opened counts if the journal and the files are still the same afterwards. A change of one file needs none of
this.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Literal, NamedTuple

from ... import _locks as locks
from ..._files import has_no_locks, make_directories, open_regular, sync_directory
from ...errors import ForeignFileError, ReadOnlyStoreError, StoreLockedError, add_note, as_text
from .files import new_token, temporary, write_new
from .keys import Place

__all__ = ["REMOVE", "REPLACE", "Pairs"]

REPLACE, REMOVE = "replace", "remove"
_LINE = re.compile(rb"lotproc ([0-9a-f]+-\d+) (replace|remove) (replace|remove)\n")
_START = b"lotproc "
#: Bytes that a journal has at most, whole or torn.
LONGEST = 100
#: Seconds between attempts to read a pair beside its writers, at first and at most.
PAUSES = 0.0001, 0.01


class Files(NamedTuple):
    """What an entry's files are; None where there is none of a kind.

    Args:
        value: The value's.
        meta: The metadata's.
        journal: What the journal says; empty where there is none.
    """

    value: str | None
    meta: str | None
    journal: bytes


class Pairs:
    """Changes and reads the files of entries.

    Args:
        store: For messages.
        root: The store's directory, its real path.
        durable: Whether a change is on the disk when it is made.
        timeout: Seconds to wait for somebody else's change of an entry.
    """

    def __init__(self, store: object, root: str, durable: bool, timeout: float | None) -> None:
        self.store, self.root, self.durable, self.timeout = store, root, durable, timeout
        self._has_locks = False  # not known yet

    # --- Reading -----------------------------------------------------------------------------------------------------

    def files(self, place: Place) -> Files:
        """What an entry's files are now, also while they are changed, or after the writer was killed."""
        if not os.access(place.journal, os.F_OK):
            return Files(place.data, place.meta, b"")
        try:
            journal = open_regular(place.journal)
        except FileNotFoundError:
            return self.files(place)
        except PermissionError as error:
            add_note(error, f"{self.store!r}: a change of {as_text(place.path)} was begun, and can't be read about")
            raise
        try:
            data = os.read(journal, LONGEST + 1)
        finally:
            os.close(journal)
        line = self._parsed(place, data)
        if line is not None:
            token, meta, value = line
            new_value, new_meta = (temporary(place.directory, token, kind) for kind in ("value", "meta"))
            if os.path.lexists(new_value):  # else all is in its place
                is_new = meta == REPLACE and os.path.lexists(new_meta)
                return Files(
                    new_value if value == REPLACE else None,
                    new_meta if is_new else place.meta if meta == REPLACE else None,
                    data,
                )
        return Files(place.data, place.meta, data)

    def has(self, place: Place) -> bool:
        """Whether there is a value."""
        while True:
            files = self.files(place)
            if files.value is None:
                return False
            if os.path.isfile(files.value):
                return True
            # What is neither is listed, too, and reading it says what it is.
            if os.path.lexists(files.value):
                return not os.path.isdir(files.value)
            if self.files(place) == files:
                return False

    def open_one(self, place: Place, which: Literal["value", "meta"]) -> int | None:
        """The value or the metadata, open for reading; None where there is none."""
        while True:
            files = self.files(place)
            path = files.value if which == "value" else files.meta
            if path is None:
                return None
            try:
                return open_regular(path, inside=self.root)
            except (FileNotFoundError, NotADirectoryError):
                if self.files(place) == files:
                    return None

    def open(self, place: Place) -> tuple[int, bytes | None] | None:
        """An entry's value, open for reading, and the bytes of its metadata as they belong together."""
        until, pause = None, PAUSES[0]
        while True:
            opened, is_one = self._open(place)
            if is_one:
                return opened
            if opened is not None:
                os.close(opened[0])
            now = time.monotonic()
            if until is None:
                until = float("inf") if self.timeout is None else now + self.timeout
            elif now > until:
                raise StoreLockedError(
                    f"{self.store!r}: {as_text(place.path)} was changed each time that it was read for "
                    f"{self.timeout:g} s; give the store a longer lock_timeout"
                )
            else:
                time.sleep(pause)
                pause = min(2 * pause, PAUSES[1])

    def _open(self, place: Place) -> tuple[tuple[int, bytes | None] | None, bool]:
        """What is there, and whether it was there at one moment."""
        files = self.files(place)
        if files.value is None:
            return None, True
        try:
            value = open_regular(files.value, inside=self.root)
        except (FileNotFoundError, NotADirectoryError):
            return None, self.files(place) == files
        meta = -1
        try:
            text = None
            if files.meta is not None:
                with suppress(FileNotFoundError):
                    meta = open_regular(files.meta, inside=self.root)
                    text = _read(meta)
            # Both files are open, so their numbers are not given to others. Where neither has been replaced since it
            # was opened, and no change of both was under way in between, there was a moment with both of them.
            is_one = (
                self.files(place) == files
                and (files.meta is None or _is_still(files.meta, meta))
                and _is_still(files.value, value)
            )
        except BaseException:
            os.close(value)
            raise
        finally:
            if meta >= 0:
                os.close(meta)
        return (value, text), is_one

    # --- Writing -----------------------------------------------------------------------------------------------------

    def prepare(self, place: Place, value: Callable[[IO[bytes]], Any] | None, meta: bytes | None) -> str:
        """Write new files under hidden names; None of `value` is an entry that is to go. Returns the token of them."""
        token = new_token()
        self.check_locks()
        try:
            write_new(temporary(place.directory, token, "value"), place.data, value or _nothing, self.durable)
            if meta is not None:
                self.prepare_meta(place, token, meta)
        except BaseException as error:
            self.drop(place, token)
            self._note(place, error)
            raise
        return token

    def prepare_meta(self, place: Place, token: str, meta: bytes) -> None:
        """Write a new file of metadata under a hidden name."""
        write_new(temporary(place.directory, token, "meta"), place.meta, lambda file: file.write(meta), self.durable)

    def drop(self, place: Place, token: str) -> None:
        """Remove what was prepared and is not in its place."""
        for kind in ("value", "meta"):
            with suppress(OSError):
                os.unlink(temporary(place.directory, token, kind))

    def change_value(self, place: Place, token: str, unsynced: set[str] | None = None) -> None:
        """Put a prepared value in its place; the metadata stays."""
        try:
            self.complete(place)
            os.replace(temporary(place.directory, token, "value"), place.data)
        except BaseException as error:
            self.drop(place, token)
            self._note(place, error)
            raise
        if self.durable:
            self._sync(place, unsynced)

    def change_meta(self, place: Place, meta: bytes | None) -> None:
        """Put metadata in its place, or remove it; the value stays."""
        self.check_locks()
        with self._noted(place):
            self.complete(place)
            if meta is None:
                try:
                    os.unlink(place.meta)
                except FileNotFoundError:
                    return
            else:
                token = new_token()
                self.prepare_meta(place, token, meta)
                try:
                    os.replace(temporary(place.directory, token, "meta"), place.meta)
                except BaseException:
                    self.drop(place, token)
                    raise
        self._sync(place, None)

    def change(self, place: Place, token: str, meta: str, value: str, unsynced: set[str] | None = None) -> None:
        """Put a prepared value and metadata in their places, as one; REMOVE means that there is to be none.

        Until the journal is written a failure leaves what was there. From then on the change is made, if need be by
        whoever comes next.
        """
        journal = None
        is_written = was_written = False
        try:
            journal = self._own(place, self.timeout)
            if meta == REMOVE and not os.path.lexists(place.meta):  # one step will do
                if value == REPLACE:
                    os.replace(temporary(place.directory, token, "value"), place.data)
                else:
                    self._remove_value(place, token)
            else:
                line = f"lotproc {token} {meta} {value}\n".encode()
                if os.write(journal, line) < len(line):  # it is empty, and at its start
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place.journal)
                if self.durable:
                    os.fsync(journal)
                    sync_directory(place.directory)
                is_written = was_written = True
                self._finish(place, token, meta, value)
                is_written = False
        except BaseException as error:
            if not is_written:
                self.drop(place, token)
            self._note(place, error)
            raise
        finally:
            if journal is not None:
                self._disown(place, journal, keep=is_written)
        if self.durable and not was_written:
            self._sync(place, unsynced)

    def complete(self, place: Place) -> None:
        """Wait for a change that is being made, or make what a killed writer has left."""
        while os.access(place.journal, os.F_OK):
            with self._noted(place), suppress(FileNotFoundError):
                self._disown(place, self._own(place, self.timeout, create=False))

    def take_up(self, place: Place) -> None:
        """Make what a killed writer has left; a change that is being made raises an OSError."""
        with suppress(FileNotFoundError):
            self._disown(place, self._own(place, 0, create=False))

    def check_locks(self) -> None:
        """Refuse to write where there are no locks, before anything is written.

        Raises:
            ReadOnlyStoreError: The file system has none.
        """
        if self._has_locks:
            return
        probe = temporary(self.root, new_token(), "lock")
        try:
            descriptor = open_regular(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except OSError:  # it can't be written to: which the write tells of
            return
        try:
            locks.keep_out(descriptor, 0)
            self._has_locks = True
        except OSError as error:
            if has_no_locks(error):
                raise self._without_locks(error) from error
            raise
        finally:
            with suppress(OSError):
                os.unlink(probe)
            locks.let_in(descriptor)

    def _without_locks(self, error: OSError) -> ReadOnlyStoreError:
        return ReadOnlyStoreError(
            f"{self.store!r} can only be read: the file system of {self.root} has no locks ({error.strerror}), without "
            "which two writers could mix their values; mount it with locks, or keep the store on another one"
        )

    def _own(self, place: Place, timeout: float | None, *, create: bool = True) -> int:
        """The entry's journal, locked and empty, after what it said has been done."""
        while True:
            is_new = False
            try:
                if create:
                    with suppress(FileExistsError):
                        journal = open_regular(place.journal, os.O_RDWR | os.O_CREAT | os.O_EXCL)
                        is_new = True
                if not is_new:
                    journal = open_regular(place.journal, os.O_RDWR)
            except FileNotFoundError:
                if not create:
                    raise
                make_directories(place.directory, durable=self.durable)
                continue
            try:
                if not locks.keep_out(journal, timeout):
                    raise StoreLockedError(
                        f"{self.store!r}: {as_text(place.path)} is being changed by {locks.holder(place.journal)}; "
                        f"waited {timeout:g} s"
                    )
                if os.fstat(journal).st_nlink:
                    self._redo(place, journal)
                    return journal
            except BaseException as error:
                locks.let_in(journal)
                if isinstance(error, OSError) and has_no_locks(error):
                    if is_new:
                        with suppress(OSError):
                            os.unlink(place.journal)
                    raise self._without_locks(error) from error
                raise
            locks.let_in(journal)  # its writer has removed it

    def _parsed(self, place: Place, data: bytes) -> tuple[str, str, str] | None:
        """What a journal says; None if it is empty or torn.

        Raises:
            ForeignFileError: It is no journal.
        """
        line = _LINE.fullmatch(data)
        if line is not None:
            token, meta, value = (part.decode() for part in line.groups())
            return token, meta, value
        start = data.rstrip(b"\0")[: len(_START)]
        if len(data) > LONGEST or not _START.startswith(start):
            raise ForeignFileError(f"{self.store!r}: {place.journal} is no file of lotproc's; give it another name")
        return None

    def _redo(self, place: Place, journal: int) -> None:
        if os.fstat(journal).st_nlink > 1:  # a second name of a file that lies who knows where
            raise ForeignFileError(f"{self.store!r}: {place.journal} has other names, so it is no file of lotproc's")
        data = os.read(journal, LONGEST + 1)
        line = self._parsed(place, data)
        if line is not None:
            self._finish(place, *line)
        if data:
            os.lseek(journal, 0, os.SEEK_SET)
            os.ftruncate(journal, 0)

    def _finish(self, place: Place, token: str, meta: str, value: str) -> None:
        """Do what a journal says, unless it has been done.

        dirdb does not know of journals: after a kill between the two steps it sees the new metadata with the old value.
        So there is nothing between them that takes time.
        """
        new_value, new_meta = (temporary(place.directory, token, kind) for kind in ("value", "meta"))
        if meta == REPLACE:
            with suppress(FileNotFoundError):
                os.replace(new_meta, place.meta)
        elif os.access(new_value, os.F_OK):
            with suppress(FileNotFoundError):
                os.unlink(place.meta)
        if value == REPLACE:
            with suppress(FileNotFoundError):
                os.replace(new_value, place.data)
                os.unlink(new_value)  # a second name of what is in its place, which older versions made
        elif os.access(new_value, os.F_OK):
            self._remove_value(place, token)
        with suppress(FileNotFoundError):
            os.unlink(new_meta)
        self._sync(place, None)

    def _remove_value(self, place: Place, token: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(place.data)
        self._sync(place, None)
        os.unlink(temporary(place.directory, token, "value"))

    def _disown(self, place: Place, journal: int, keep: bool = False) -> None:
        if os.name == "nt":  # where a file that is open can't be removed; whoever has opened it meanwhile removes it
            locks.let_in(journal)
            with suppress(PermissionError, FileNotFoundError):
                if not keep:
                    os.unlink(place.journal)
            return
        try:
            if not keep:
                os.unlink(place.journal)
        finally:
            locks.let_in(journal)

    def _sync(self, place: Place, unsynced: set[str] | None) -> None:
        if self.durable:
            if unsynced is None:
                sync_directory(place.directory)
            else:
                unsynced.add(place.directory)

    @contextmanager
    def _noted(self, place: Place) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._note(place, error)
            raise

    def _note(self, place: Place, error: BaseException) -> None:
        if isinstance(error, OSError) and not isinstance(error, StoreLockedError):
            add_note(error, f"{self.store!r}: while writing {as_text(place.path)}")


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


def _nothing(file: IO[bytes]) -> None:
    """Write nothing."""
