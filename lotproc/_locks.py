"""Locks on files, which end with the process that holds them, and who holds one.

On Unix a lock is `flock` on the file, as that of `filelock.FileLock` is, so each keeps the other out. Making, taking
and giving back a FileLock takes 85 microseconds, which is more than all that is done under it; this takes 5. Besides, a
FileLock empties the file, which may hold what is to be done.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone

from ._files import open_regular
from .errors import ForeignFileError, StoreLockedError

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, byte: int) -> None:
        os.lseek(descriptor, byte, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)

    def _unlock(descriptor: int) -> None:
        """Closing it does that."""

else:
    import fcntl

    def _lock(descriptor: int, byte: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


__all__ = ["acquire", "holder", "is_held", "keep_out", "let_in", "release", "take"]

#: What Windows locks, where nobody may read it then: beyond all that is read and written, or where filelock does.
_BEYOND, _AS_FILELOCK = 1 << 20, 0
#: Descriptors that a forked child has to close: a lock lasts as long as one of its descriptors is open.
_ours: set[int] = set()
#: The locks taken by path, by file and thread: the descriptor, and how often the thread has taken it.
_held: dict[tuple[str, int], list[int]] = {}
#: Those of them whose files say who has them.
_noted: set[int] = set()
_HELD = re.compile(rb"held by process (\d+) on (\S+) since (\d+)")
_WIDTH = 200


def keep_out(descriptor: int, timeout: float | None, byte: int = _BEYOND) -> bool:
    """Lock an open file; False when somebody else has it for all of `timeout` seconds."""
    until, pause = None, 0.0002
    while True:
        try:
            _lock(descriptor, byte)
        except (BlockingIOError, PermissionError):
            now = time.monotonic()
            if until is None:
                until = float("inf") if timeout is None else now + timeout
            if now >= until:
                return False
            time.sleep(min(pause, until - now))
            pause = min(pause * 1.5, 0.02)
        else:
            _ours.add(descriptor)
            return True


def let_in(descriptor: int) -> None:
    """Close a file, and unlock it, so that a child that was forked meanwhile does not keep the lock."""
    try:
        if descriptor in _noted:
            _noted.discard(descriptor)
            with suppress(OSError):  # a full disk must not keep the lock
                os.pwrite(descriptor, b"free", 0)
        if descriptor in _ours:
            _ours.discard(descriptor)
            _unlock(descriptor)
    finally:
        os.close(descriptor)


def acquire(path: str, timeout: float | None, what: Callable[[], str]) -> bool:
    """Lock the file at a path, which is made, for this thread; whether the thread did not have the lock already.

    Args:
        path: The file.
        timeout: Seconds to wait; None: for ever.
        what: Says what it is that is locked, for the error.

    Raises:
        StoreLockedError: Somebody else has the lock for all that time.
    """
    key = (path, threading.get_ident())
    held = _held.get(key)
    if held is not None:
        held[1] += 1
        return False
    descriptor = take(path, timeout)
    if descriptor is None:
        raise StoreLockedError(
            f"{what()} is locked by {holder(path)}",
            hint=f"waited {timeout:g} s. Wait for it, end it, or give the store a longer lock_timeout",
        )
    _held[key] = [descriptor, 1]
    return True


def release(path: str) -> None:
    """Give the lock of a file back, as often as it was taken; in a fork of the process that took it, do nothing."""
    key = (path, threading.get_ident())
    held = _held.get(key)
    if held is None:
        return
    held[1] -= 1
    if not held[1]:
        del _held[key]
        let_in(held[0])


def is_held(path: str) -> bool:
    """Whether this thread has the lock of a file."""
    return (path, threading.get_ident()) in _held


def holder(path: str) -> str:
    """Who has a lock, as far as that can be known: lotproc writes it into the file, the system knows the process."""
    written, process = None, None
    with suppress(OSError, ForeignFileError):
        descriptor = open_regular(path)
        try:
            written = _HELD.match(os.read(descriptor, _WIDTH))
            process = _flock_holder(os.fstat(descriptor))
        finally:
            os.close(descriptor)
    if written is not None:
        pid, host, since = int(written[1]), written[2].decode(), int(written[3])
        is_here = host == socket.gethostname()
        if process in (None, pid) or not is_here:
            when = datetime.fromtimestamp(since, timezone.utc).isoformat().replace("+00:00", "Z")
            thread = "another thread of " if is_here and pid == os.getpid() else ""
            return f"{thread}process {pid} on {host} since {when}"
    return f"process {process} on this host ({socket.gethostname()})" if process else "another program"


def _flock_holder(status: os.stat_result) -> int | None:
    """The process that has a flock on a file, where Linux tells."""
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError, ValueError, IndexError), open("/proc/locks") as file:
        for line in file:
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == place and int(fields[4]) > 0:
                return int(fields[4])
    return None


def take(path: str, timeout: float | None) -> int | None:
    """Lock the file at a path, which is made, and note there who has it; None if somebody else has it all the time."""
    while True:
        try:
            descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            continue
        is_taken = False
        try:
            if not keep_out(descriptor, timeout, _AS_FILELOCK):
                return None
            names = os.fstat(descriptor).st_nlink
            if names:  # else somebody removed the file before it was locked
                # Not into a file of somebody's own by that name, or one that has another name elsewhere.
                if names == 1 and hasattr(os, "pread") and os.pread(descriptor, 5, 0) in (b"", b"held ", b"free "):
                    with suppress(OSError):
                        os.pwrite(descriptor, _mark(), 0)
                        _noted.add(descriptor)
                is_taken = True
                return descriptor
        finally:
            if not is_taken:
                let_in(descriptor)


_who: tuple[int, str] = (0, "")


def _mark() -> bytes:
    global _who
    pid = os.getpid()
    if _who[0] != pid:
        _who = (pid, f"held by process {pid} on {socket.gethostname()} since ")
    return f"{_who[1]}{int(time.time())} (seconds since 1970)".ljust(_WIDTH - 1).encode() + b"\n"


def _forked() -> None:
    """A lock is the parent's alone."""
    for descriptor in _ours:
        with suppress(OSError):
            os.close(descriptor)
    _ours.clear()
    _held.clear()
    _noted.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
