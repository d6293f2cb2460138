"""Steps that files are changed by: made under a hidden name, written to the disk, put in their place."""

from __future__ import annotations

import ctypes
import errno
import io
import itertools
import os
import secrets
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from ..._files import kind_of_file
from ...errors import ForeignFileError
from .keys import HIDDEN, TEMPORARY

__all__ = [
    "exchange_or_replace",
    "make_directories",
    "new_token",
    "put_in_place",
    "sync_directory",
    "temporary",
    "write_new",
]

_prefix = secrets.token_hex(8)
_numbers = itertools.count(1)


def new_token() -> str:
    """Part of the names of hidden files that nobody else has."""
    return f"{_prefix}-{next(_numbers)}"


def _forked() -> None:
    global _prefix
    _prefix = secrets.token_hex(8)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def temporary(directory: str, token: str, kind: str) -> str:
    """Where a new file is until it takes its place; dirdb takes no such name for an entry."""
    return f"{directory}{os.sep}{HIDDEN}{token}.{kind}{TEMPORARY}"


def write_new(path: str, target: str, write: Callable[[IO[bytes]], Any], durable: bool) -> None:
    """Make a file that is to take the place of another, with that one's permissions; nothing is left if it fails."""
    try:
        try:
            raw = io.FileIO(path, "x")
        except FileNotFoundError:
            make_directories(os.path.dirname(path), durable)
            raw = io.FileIO(path, "x")
        with io.BufferedWriter(raw) as file:  # `open` would ask whether it is a terminal, and that takes its time
            write(file)
            _keep_mode(file.fileno(), target)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


def _keep_mode(descriptor: int, target: str) -> None:
    try:
        mode = os.lstat(target).st_mode
    except OSError:
        return
    if stat.S_ISLNK(mode):  # the new file takes its place, and what it leads to stays
        return
    if stat.S_ISDIR(mode):  # which must not come to light when the change is half done
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if not stat.S_ISREG(mode):
        raise ForeignFileError(f"{target} is {kind_of_file(mode)}, which is not written over; move it away")
    if mode != os.fstat(descriptor).st_mode and hasattr(os, "fchmod"):
        os.fchmod(descriptor, mode & 0o7777)


def make_directories(directory: str, durable: bool) -> None:
    """Make a directory and those above it, each of them written to the disk."""
    missing = []
    at = directory
    while not os.path.isdir(at) and os.path.dirname(at) != at:
        missing.append(at)
        at = os.path.dirname(at)
    for new in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(new)
        if durable:
            sync_directory(os.path.dirname(new))
    if not os.path.isdir(directory):  # a file has that name
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)


def sync_directory(directory: str) -> None:
    """Wait until the names in a directory are on the disk, where the system can say so."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except PermissionError:
        if os.name == "nt":  # where a directory can't be opened
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def put_in_place(new: str, target: str, durable: bool) -> None:
    """Let a new file take the place of another, in one step.

    ext4 begins to write a file out when it is renamed over another. That makes no file durable, and takes longer than
    all else that is done for a small value. Where a file has not been synced, because the store was told not to, the
    two files change names instead, and the old one is removed under the other name.
    """
    if durable:
        os.replace(new, target)
    elif exchange_or_replace(new, target):
        os.unlink(new)


def exchange_or_replace(new: str, target: str) -> bool:
    """Put a file in its place; whether the old one is now under the name that the new one had."""
    if _exchange(new, target):
        return True
    os.replace(new, target)
    return False


def _no_exchange(new: str, target: str) -> bool:
    return False


def _exchanging() -> Callable[[str, str], bool]:
    """A function that lets two files change names; it returns whether it did."""
    if not sys.platform.startswith("linux"):
        return _no_exchange
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):  # before glibc 2.28
        return _no_exchange
    rename.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE

    def change(new: str, target: str) -> bool:
        return bool(rename(here, os.fsencode(new), here, os.fsencode(target), exchange) == 0)

    return change


_exchange = _exchanging()
