"""Publishing an archive: one writer at a time, whose new files take the place of the old ones in one step.

A single file is renamed. For several, what is to be renamed and deleted is written down first, in a hidden file beside
them; from then on lotproc's readers see the new ones, and whoever writes next does what was left. Other readers may see
some of the old files and some of the new ones in the meantime.
"""

from __future__ import annotations

import glob
import json
import os
import secrets
import shutil
from contextlib import suppress

from ..._files import check_regular, has_no_locks, sync_directory, write_new
from ..._locks import holder, let_in, take
from ...errors import ReadOnlyStoreError, StoreLockedError
from .names import hidden, is_temporary, read_pending

__all__ = ["Lock", "complete", "publish", "temporary_beside"]


class Lock:
    """Says that one writer is at work on an archive; it is held until `release`.

    Args:
        name: What the archive is called in errors.
        base: What its files have in common.
        timeout: Seconds to wait for another writer; None waits for as long as it takes.

    Raises:
        StoreLockedError: Another writer was at work for all that time.
        ForeignFileError: One of the files for it is no regular file.
        ReadOnlyStoreError: The file system has no locks.
        OSError: Nothing can be written there.
    """

    def __init__(self, name: str, base: str, timeout: float | None) -> None:
        self._pid = os.getpid()
        self._descriptor = _locked(name, hidden(base, "lock"), timeout)
        try:
            complete(base, durable=True, was_replaced=False)
            for path in glob.glob(f"{glob.escape(hidden(base, ''))}*.tmp"):
                if is_temporary(base, path):  # what a writer left that was killed
                    with suppress(OSError):
                        os.unlink(path)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let the next writer begin."""
        if os.getpid() == self._pid:  # else it is a fork's copy; the lock is still held where it was taken
            let_in(self._descriptor)


def _locked(name: str, path: str, timeout: float | None) -> int:
    """The lock file, locked."""
    is_left = os.path.lexists(path)
    try:
        descriptor = take(path, timeout)
    except OSError as error:
        if has_no_locks(error):
            if not is_left:
                os.unlink(path)
            raise ReadOnlyStoreError(
                f"{name} can only be read: the file system of {path} has no locks ({error.strerror}), which keep "
                "a second writer out",
                hint="mount it with locks, or write the archive elsewhere and move it",
            ) from error
        what = f'{error.strerror}: a writer needs {path}; to read, open it with mode "r"'
        raise OSError(error.errno, f"{name} can't be written to: {what}", path) from error
    if descriptor is None:
        raise StoreLockedError(
            f"{name}: {holder(path)} is writing to it, and did not end within {timeout:g} s",
            hint="wait for longer with Archive(..., lock_timeout=...)",
        )
    return descriptor


def temporary_beside(base: str) -> str:
    """The path for a new file that nobody sees, and that the next writer removes if this one can't."""
    return hidden(base, f"{secrets.token_hex(8)}.tmp")


def publish(base: str, moves: list[tuple[str, str]], deletes: list[str], *, durable: bool) -> None:
    """Let new files take the place of old ones, in one step, which `complete` completes.

    Args:
        base: What they have in common; the lock of it is held.
        moves: For each new file, where it lies and what it is to be called, in the order in which other readers
            should come to see them.
        deletes: The old files that go.
        durable: Whether to wait for the disk.

    Raises:
        OSError, ForeignFileError: It can't be done, and nothing has changed.
    """
    for path in (*deletes, *(to for _, to in moves)):
        check_regular(path)
    for at, to in moves:
        with suppress(FileNotFoundError):
            shutil.copymode(to, at)
    if len(moves) == 1 and not deletes:
        os.replace(*moves[0])
        return
    names = {
        "moves": [[os.path.basename(at), os.path.basename(to)] for at, to in moves],
        "deletes": list(map(os.path.basename, deletes)),
    }
    temporary, pending = temporary_beside(base), hidden(base, "pending")
    text = json.dumps({"version": 1, **names}).encode("ascii")
    write_new(temporary, pending, lambda file: file.write(text), durable=durable)
    os.replace(temporary, pending)


def complete(base: str, *, durable: bool, was_replaced: bool = True) -> None:
    """Do what was decided, by this writer or by one that was killed.

    Args:
        base: What the files have in common; the lock of it is held.
        durable: Whether to wait for the disk.
        was_replaced: Whether `publish` was called just now.

    Raises:
        OSError: It can't be done now; the next writer does it.
    """
    pending = read_pending(base)
    if durable and (pending is not None or was_replaced):
        _sync_folder(base)
    if pending is None:
        return
    moves, deletes = pending
    for to, at in moves.items():
        with suppress(FileNotFoundError):  # it was renamed before
            os.replace(at, to)
    for path in deletes:
        with suppress(FileNotFoundError):
            os.unlink(path)
    if durable:
        _sync_folder(base)
    os.unlink(hidden(base, "pending"))


def _sync_folder(base: str) -> None:
    with suppress(PermissionError):  # of a folder that nobody may list
        sync_directory(os.path.dirname(base))
