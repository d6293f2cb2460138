"""Changing the value and the metadata of an entry as one.

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
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import EllipsisType
from typing import IO, Any

from ... import _locks as locks
from ..._files import has_no_locks, make_directories, open_regular, sync_directory, write_new
from ...errors import (
    CodecError,
    ForeignFileError,
    NotPicklableError,
    ReadOnlyStoreError,
    StoreLockedError,
    add_note,
    as_text,
)
from ..codecs import Codec
from ..protocol import Store, no_such_key
from .keys import EntryPaths, Layout
from .reading import KEEP, LONGEST, REMOVE, REPLACE, Change, Reading

__all__ = ["Entries"]


class Entries(Reading):
    """The entries of a store: read, and changed as a whole.

    Args:
        store, layout, codec, timeout: As for `Reading`.
        durable: Whether a change is on the disk when it is made.
    """

    def __init__(self, store: Store, layout: Layout, codec: Codec, timeout: float | None, durable: bool) -> None:
        super().__init__(store, layout, codec, timeout)
        self.durable = durable
        self._has_locks = False  # not known yet

    def put(self, paths: EntryPaths, value: Any, meta: bytes | EllipsisType | None) -> None:
        """Put a value in its place, with metadata; `...`: that stays as it is, None: there is to be none."""
        self.change(paths, self.prepare(paths, self.dumping(value), meta))

    def put_meta(self, paths: EntryPaths, meta: bytes | None) -> None:
        """Put metadata in its place, or remove it; the value stays."""
        self.change(paths, self.prepare(paths, ..., meta))

    def delete(self, paths: EntryPaths, *, with_meta: bool = False) -> None:
        """Remove the value and the metadata; `with_meta`: also metadata without a value.

        Raises:
            NoSuchKeyError: There is nothing to be removed.
        """
        self.check_open()
        self.complete(paths)
        if not self.has(paths) and not (with_meta and os.path.isfile(paths.meta)):
            raise no_such_key(self.store, paths.path)
        self.change(paths, self.prepare(paths, None, None))

    # --- The steps of a change ---------------------------------------------------------------------------------------

    def prepare(
        self,
        paths: EntryPaths,
        value: Callable[[IO[bytes]], Any] | EllipsisType | None,
        meta: bytes | EllipsisType | None,
    ) -> Change:
        """Write new files under hidden names, for `change` or `drop`.

        Args:
            paths: The entry.
            value: Writes the value to a file. None: there is to be none; `...`: it stays as it is.
            meta: The metadata, likewise.
        """
        self.check_open()
        self.check_locks()
        change = Change(_token(), _action(meta), _action(value))
        new_value, new_meta = paths.hidden(change.token)
        try:
            if not isinstance(value, EllipsisType):  # a value that is to go has an empty file, which tells of that
                self._write_new(new_value, paths.data, value or _nothing)
            if isinstance(meta, bytes):
                self._write_new(new_meta, paths.meta, lambda file: file.write(meta))
        except BaseException as error:
            self.drop(paths, change)
            self._note(paths, error)
            where = f"{self.store!r}: the value of {as_text(paths.path)}"
            if isinstance(error, (CodecError, NotPicklableError)):
                raise type(error)(f"{where}: {error}") from error
            if isinstance(error, Exception) and not isinstance(error, OSError):  # of a pair of functions
                add_note(error, where)
            raise
        return change

    def dumping(self, value: Any) -> Callable[[IO[bytes]], Any]:
        """What writes a value to a file, for `prepare`."""
        return partial(self.codec.dump, value)

    def drop(self, paths: EntryPaths, change: Change) -> None:
        """Remove what was prepared and is not in its place."""
        for hidden in paths.hidden(change.token):
            with suppress(OSError):
                os.unlink(hidden)

    def change(self, paths: EntryPaths, change: Change, unsynced: set[str] | None = None) -> None:
        """Put what was prepared in its place, as one.

        Until a journal is written a failure leaves what was there. From then on the change is made, if need be by
        whoever comes next.

        Args:
            paths: The entry.
            change: What was prepared.
            unsynced: Takes the directory, if that has not been synced, where the caller does so.
        """
        journal = None
        is_decided = is_synced = False
        try:
            if KEEP in change:
                self.complete(paths)
                self._make_one(paths, change)
            else:
                journal = self._own(paths, self.timeout)
                if change.meta == REMOVE and not os.path.lexists(paths.meta):
                    self._make_one(paths, change)
                else:
                    self._write_down(paths, change, journal)
                    is_decided = True  # from now on the hidden files are the entry's
                    self._make_both(paths, change)
                    is_decided, is_synced = False, True
        except BaseException as error:
            if not is_decided:
                self.drop(paths, change)
            self._note(paths, error)
            raise
        finally:
            if journal is not None:
                self._disown(paths, journal, keep=is_decided)
        if self.durable and not is_synced:
            if unsynced is None:
                sync_directory(paths.directory)
            else:
                unsynced.add(paths.directory)

    def complete(self, paths: EntryPaths) -> None:
        """Wait for a change that is being made, or make what a killed writer has left."""
        while os.access(paths.journal, os.F_OK):
            try:
                self.take_up(paths, self.timeout)
            except OSError as error:
                self._note(paths, error)
                raise

    def take_up(self, paths: EntryPaths, timeout: float | None = 0) -> None:
        """Make what a killed writer has left; raises an OSError if a change is being made for that long."""
        with suppress(FileNotFoundError):
            self._disown(paths, self._own(paths, timeout, create=False))

    def check_locks(self) -> None:
        """Refuse to write where there are no locks, before anything is written.

        Raises:
            ReadOnlyStoreError: The file system has none.
        """
        if self._has_locks:
            return
        root = self.layout.root
        probe, _ = EntryPaths((), root, "", "").hidden(_token())
        try:
            descriptor = open_regular(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except OSError:  # it can't be written to: which the write tells of
            return
        try:
            locks.keep_out(descriptor, 0)
            self._has_locks = True
        except OSError as error:
            self._check_has_locks(error)
            raise
        finally:
            with suppress(OSError):
                os.unlink(probe)
            locks.let_in(descriptor)

    def _check_has_locks(self, error: BaseException) -> None:
        if isinstance(error, OSError) and has_no_locks(error):
            raise ReadOnlyStoreError(
                f"{self.store!r} can only be read: the file system of {self.layout.root} has no locks "
                f"({error.strerror}), without which two writers could mix their values",
                hint="mount it with locks, or keep the store on another one",
            ) from error

    def _write_new(self, path: str, target: str, write: Callable[[IO[bytes]], Any]) -> None:
        """Make a file that is to take the place of another; its directory, too, if that is not there."""
        try:
            write_new(path, target, write, durable=self.durable)
        except FileNotFoundError:
            directory = os.path.dirname(path)
            if os.path.isdir(directory):
                raise
            make_directories(directory, durable=self.durable)
            self._write_new(path, target, write)

    def _make_one(self, paths: EntryPaths, change: Change) -> None:
        """Make a change of one file, which takes one step."""
        new_value, new_meta = paths.hidden(change.token)
        if change.value == REPLACE:
            os.replace(new_value, paths.data)
        elif change.value == REMOVE:
            self._remove_value(paths, change)
        elif change.meta == REPLACE:
            os.replace(new_meta, paths.meta)
        else:
            with suppress(FileNotFoundError):
                os.unlink(paths.meta)

    def _write_down(self, paths: EntryPaths, change: Change, journal: int) -> None:
        line = f"lotproc {' '.join(change)}\n".encode()
        if os.write(journal, line) < len(line):  # it is empty, and at its start
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), paths.journal)
        if self.durable:
            os.fsync(journal)
            sync_directory(paths.directory)

    def _make_both(self, paths: EntryPaths, change: Change) -> None:
        """Do what a journal says, unless it has been done.

        dirdb does not know of journals: after a kill between the two steps it sees the new metadata with the old value.
        So there is nothing between them that takes time.
        """
        new_value, new_meta = paths.hidden(change.token)
        if change.meta == REPLACE:
            with suppress(FileNotFoundError):
                os.replace(new_meta, paths.meta)
        elif os.access(new_value, os.F_OK):
            with suppress(FileNotFoundError):
                os.unlink(paths.meta)
        if change.value == REPLACE:
            with suppress(FileNotFoundError):
                os.replace(new_value, paths.data)
                os.unlink(new_value)  # a second name of what is in its place, which older versions made
        elif os.access(new_value, os.F_OK):
            self._remove_value(paths, change)
        with suppress(FileNotFoundError):
            os.unlink(new_meta)
        if self.durable:
            sync_directory(paths.directory)

    def _remove_value(self, paths: EntryPaths, change: Change) -> None:
        with suppress(FileNotFoundError):
            os.unlink(paths.data)
        if self.durable:
            sync_directory(paths.directory)
        os.unlink(paths.hidden(change.token)[0])

    # --- The journal -------------------------------------------------------------------------------------------------

    def _own(self, paths: EntryPaths, timeout: float | None, *, create: bool = True) -> int:
        """The entry's journal, locked and empty, after what it said has been done."""
        while True:
            is_new = False
            try:
                if create:
                    with suppress(FileExistsError):
                        journal = open_regular(paths.journal, os.O_RDWR | os.O_CREAT | os.O_EXCL)
                        is_new = True
                if not is_new:
                    journal = open_regular(paths.journal, os.O_RDWR)
            except FileNotFoundError:
                if not create:
                    raise
                make_directories(paths.directory, durable=self.durable)
                continue
            try:
                if not locks.keep_out(journal, timeout):
                    raise StoreLockedError(
                        f"{self.store!r}: {as_text(paths.path)} is being changed by {locks.holder(paths.journal)}",
                        hint=f"waited {timeout:g} s",
                    )
                if os.fstat(journal).st_nlink:
                    self._redo(paths, journal)
                    return journal
            except BaseException as error:
                locks.let_in(journal)
                if is_new and isinstance(error, OSError) and has_no_locks(error):
                    with suppress(OSError):
                        os.unlink(paths.journal)
                self._check_has_locks(error)
                raise
            locks.let_in(journal)  # its writer has removed it

    def _redo(self, paths: EntryPaths, journal: int) -> None:
        if os.fstat(journal).st_nlink > 1:  # a second name of a file that lies who knows where
            raise ForeignFileError(f"{self.store!r}: {paths.journal} has other names, so it is no file of lotproc's")
        data = os.read(journal, LONGEST + 1)
        change = self.change_in(paths, data)
        if change is not None:
            self._make_both(paths, change)
        if data:
            os.lseek(journal, 0, os.SEEK_SET)
            os.ftruncate(journal, 0)

    def _disown(self, paths: EntryPaths, journal: int, keep: bool = False) -> None:
        if os.name == "nt":  # where a file that is open can't be removed; whoever has opened it meanwhile removes it
            locks.let_in(journal)
            with suppress(PermissionError, FileNotFoundError):
                if not keep:
                    os.unlink(paths.journal)
            return
        try:
            if not keep:
                os.unlink(paths.journal)
        finally:
            locks.let_in(journal)

    def _note(self, paths: EntryPaths, error: BaseException) -> None:
        if isinstance(error, OSError) and not isinstance(error, StoreLockedError):
            add_note(error, f"{self.store!r}: while writing {as_text(paths.path)}")


def _token() -> str:
    """Part of the names of hidden files that nobody else has."""
    return f"{os.urandom(8).hex()}-{os.getpid()}"


def _action(content: object) -> str:
    return KEEP if content is ... else REMOVE if content is None else REPLACE


def _nothing(file: IO[bytes]) -> None:
    """Write nothing."""
