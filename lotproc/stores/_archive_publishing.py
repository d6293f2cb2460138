"""One writer at a time, whose files take the place of the old ones in one step, whatever happens in between.

A single file is renamed. For several, what is to be renamed and deleted is written down first, in a hidden file beside
them; from then on lotproc's readers see the new ones, and whoever writes next does what was left. Other readers may see
some of the old files and some of the new ones in the meantime.
"""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import shutil
import socket
from contextlib import suppress

from filelock import FileLock, Timeout

from ..errors import StoreLockedError
from ._archive_names import hidden, read_pending

__all__ = ["Lock", "complete", "decide", "temporary_beside"]

_TEMPORARY = re.compile(r"[0-9a-f]{16}(-keys)?\.tmp")


class Lock:
    """Says that one writer is at work on an archive; it is held until `release`.

    Args:
        name: What the archive is called in errors.
        base: What its files have in common.
        timeout: Seconds to wait for another writer; None waits for as long as it takes.

    Raises:
        StoreLockedError: Another writer was at work for all that time.
    """

    def __init__(self, name: str, base: str, timeout: float | None) -> None:
        self._owner, self._pid = hidden(base, "owner"), os.getpid()
        self._lock = FileLock(hidden(base, "lock"), thread_local=False)
        try:
            self._lock.acquire(timeout=-1 if timeout is None else timeout)
        except Timeout:
            raise StoreLockedError(
                f"{name}: {_owner(self._owner)} is writing to it, and did not end within {timeout:g} s; "
                "wait for longer with Archive(..., lock_timeout=...)"
            ) from None
        with suppress(OSError), open(self._owner, "w") as file:  # which only makes an error message better
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
        try:
            complete(base, durable=True, was_replaced=False)
            for path in glob.glob(f"{glob.escape(hidden(base, ''))}*.tmp"):
                if _TEMPORARY.fullmatch(path[len(hidden(base, "")) :]):  # what a writer left that was killed
                    with suppress(FileNotFoundError):
                        os.unlink(path)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let the next writer begin."""
        if os.getpid() != self._pid:  # a fork's copy; the lock is still held where it was taken
            return
        with suppress(OSError):
            os.unlink(self._owner)
        self._lock.release()


def _owner(path: str) -> str:
    try:
        with open(path) as file:
            return file.read() or "another writer"
    except OSError:
        return "another writer"


def temporary_beside(base: str) -> str:
    """The path for a new file that nobody sees, and that the next writer removes if this one can't."""
    return hidden(base, f"{secrets.token_hex(8)}.tmp")


def decide(base: str, moves: list[tuple[str, str]], deletes: list[str], *, durable: bool) -> None:
    """Let new files take the place of old ones, in one step, which `complete` completes.

    Args:
        base: What they have in common; the lock of it is held.
        moves: For each new file, where it lies and what it is to be called, in the order in which other readers
            should come to see them.
        deletes: The old files that go.
        durable: Whether to wait for the disk.

    Raises:
        OSError: It can't be done, and nothing has changed.
    """
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
    temporary = temporary_beside(base)
    with open(temporary, "xb") as file:
        file.write(json.dumps({"version": 1, **names}).encode("ascii"))
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(temporary, hidden(base, "pending"))


def complete(base: str, *, durable: bool, was_replaced: bool = True) -> None:
    """Do what was decided, by this writer or by one that was killed.

    Args:
        base: What the files have in common; the lock of it is held.
        durable: Whether to wait for the disk.
        was_replaced: Whether `decide` was called just now.

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
    """Wait until names are on the disk, where a folder can be synced."""
    try:
        folder = os.open(os.path.dirname(base), os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
