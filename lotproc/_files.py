"""Files opened only if they are what they should be; files replaced as a whole; names and contents synced."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from .errors import ForeignFileError

__all__ = [
    *("check_regular", "has_no_locks", "kind_of_file", "linked_inside", "make_directories", "open_regular"),
    *("replacing", "sync_directory", "write_new"),
]

#: A link in the last place of a path is not followed, a pipe is not waited for, a terminal does not take us over.
_WARY = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
#: What a file system answers that has no locks: "no locks available", "not supported", "not implemented".
_NO_LOCKS = {getattr(errno, name) for name in ("ENOLCK", "EOPNOTSUPP", "ENOTSUP", "ENOSYS") if hasattr(errno, name)}


def open_regular(path: str, flags: int = os.O_RDONLY, mode: int = 0o666, *, inside: str | None = None) -> int:
    """Open a file if it is a regular one, without waiting; whoever made its folder may have put anything there.

    Args:
        path: The file.
        flags: As for `os.open`.
        mode: The permissions of a file that is made.
        inside: A folder, its real path. A link to a file in it is followed; other links are not, and none without it.

    Returns:
        A descriptor.

    Raises:
        ForeignFileError: It is a link that is not followed, a directory, a pipe, a socket or a device.
        OSError: It can't be opened.
    """
    if not hasattr(os, "O_NOFOLLOW") and os.path.islink(path):
        path = linked_inside(path, inside)
    try:
        descriptor = os.open(path, flags | _WARY, mode)
    except OSError as error:
        try:
            found = os.lstat(path).st_mode
        except OSError:
            raise error from None
        if stat.S_ISLNK(found) and inside is not None:
            return open_regular(linked_inside(path, inside), flags, mode)
        if stat.S_ISREG(found):
            raise
        raise _foreign(path, found) from None
    found = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(found):
        os.close(descriptor)
        raise _foreign(path, found)
    return descriptor


def check_regular(path: str, *, is_written: bool = False) -> None:
    """Refuse what is at a path and is no regular file; for one that others open, or that must not be opened twice.

    Args:
        path: The file; it may be missing.
        is_written: Whether it is to be changed where it lies, which would change it under all of its names.

    Raises:
        ForeignFileError: It is a link, a directory, a pipe, a socket or a device, or has other names.
    """
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(found.st_mode):
        raise _foreign(path, found.st_mode)
    if is_written and found.st_nlink > 1:
        raise ForeignFileError(
            f"{path} has {found.st_nlink} names (hard links), and would change under each",
            hint="put a copy in its place",
        )


def linked_inside(link: str, folder: str | None) -> str:
    """The real path of what a symbolic link leads to, if that lies in a folder, which is given by its real path.

    Raises:
        ForeignFileError: It leads elsewhere, or to nothing.
    """
    real = os.path.realpath(link)
    if folder is None or not f"{real}{os.sep}".startswith(os.path.join(folder, "")):
        where = "" if folder is None else f" out of {folder}"
        raise ForeignFileError(
            f"{link} is a symbolic link{where}, to {real}, which is not followed",
            hint="put what it leads to in its place, or open that where it lies",
        )
    if not os.path.lexists(real) or os.path.islink(real):
        raise ForeignFileError(f"{link} is a symbolic link to {real}, where there is nothing", hint="remove the link")
    return real


def kind_of_file(mode: int) -> str:
    """What a file is, by its mode, in words."""
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "a regular file")


def _foreign(path: str, mode: int) -> ForeignFileError:
    return ForeignFileError(
        f"{path} is {kind_of_file(mode)}, and should be a regular file", hint="move it away, or name another one"
    )


def has_no_locks(error: OSError) -> bool:
    """Whether an error of `flock` or `fcntl` says that the file system has no locks, and not that somebody has one."""
    return error.errno in _NO_LOCKS


@contextmanager
def replacing(target: str | os.PathLike[str], *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A new file, open for writing, that takes the target's place when the block ends well.

    It is written beside the target, and synced, where it is to be durable, before it is renamed. A link is followed,
    and an existing target's permissions are kept, as `open(target, "wb")` would. Readers see the old file or the new
    one, and a failure leaves the old one.
    """
    target = os.path.realpath(target)
    temporary = os.path.join(os.path.dirname(target), f".lotproc-{secrets.token_hex(8)}.tmp")
    try:
        with _new(temporary) as file:
            yield file
            _finish(file, target, durable)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def write_new(path: str, target: str, write: Callable[[IO[bytes]], Any], *, durable: bool) -> None:
    """Make a file that is to take the place of another one; nothing is left if that fails.

    Args:
        path: Where it is made; nothing may be there.
        target: The other one, if it is there; the new one gets its permissions.
        write: Writes it.
        durable: Whether it is on the disk when this returns.

    Raises:
        IsADirectoryError, ForeignFileError: What is at `target` is no file that can be replaced.
    """
    file = _new(path)
    try:
        with file:
            write(file)
            _finish(file, target, durable)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


def _new(path: str) -> IO[bytes]:
    return io.BufferedWriter(io.FileIO(path, "x"))  # `open` would ask whether it is a terminal, which takes its time


def _finish(file: IO[bytes], target: str, durable: bool) -> None:
    _keep_mode(file.fileno(), target)
    if durable:
        file.flush()
        os.fsync(file.fileno())


def _keep_mode(descriptor: int, target: str) -> None:
    try:
        mode = os.lstat(target).st_mode
    except OSError:
        return
    if stat.S_ISLNK(mode):  # the new file takes its place, and what it leads to stays
        return
    if stat.S_ISDIR(mode):  # which must not come to light when a change is half done
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if not stat.S_ISREG(mode):
        raise ForeignFileError(f"{target} is {kind_of_file(mode)}, which is not written over", hint="move it away")
    if mode != os.fstat(descriptor).st_mode and hasattr(os, "fchmod"):
        os.fchmod(descriptor, mode & 0o7777)


def make_directories(directory: str, *, durable: bool) -> None:
    """Make a directory and those above it, each of them written to the disk where they are to be durable."""
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
