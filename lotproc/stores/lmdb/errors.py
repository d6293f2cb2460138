"""What the errors of LMDB mean for a store, and what can be done about them."""

from __future__ import annotations

import errno
import os
from typing import Any

from ...errors import DamagedStoreError, ForeignFileError, StoreLockedError
from .files import StoreFiles

__all__ = ["meaning", "os_error"]

#: What a write fails with that finds no room on a disk; LMDB tells EIO where a part of what it wrote found some.
_NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
#: What locks and memory maps fail with on a file system that has none.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENODEV}
#: Bytes that a commit may need beside those of its records, for pages that are copied.
_BESIDE = 1 << 20


def meaning(
    lmdb: Any, error: Any, files: StoreFiles, name: str = "", size: int = 0, *, is_readonly: bool = False
) -> Exception:
    """The error that is raised instead of one of LMDB's.

    Args:
        name: The store, if it is not open yet.
        size: Bytes that were to be written.
        is_readonly: Whether it is, or was to be, open for reading only.
    """
    where = name or f"the LMDB store {files.path}"
    damages = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.BadTxnError)
    if isinstance(error, damages):
        return DamagedStoreError(f"{where}: LMDB finds {files.data} damaged: {error}")
    if isinstance(error, (lmdb.InvalidError, lmdb.VersionMismatchError)):
        return ForeignFileError(f"{where}: {files.data} is no LMDB file of this kind: {error}")
    if isinstance(error, lmdb.ReadersFullError):
        return StoreLockedError(
            f"{where}: as many readers are at work as LMDB's lock file has room for (max_readers)",
            hint="open it with a larger max_readers before any process has it open",
        )
    if "already open in this process" in str(error):
        return StoreLockedError(
            f"{where}: other code has {files.path} open in this process, and LMDB allows it once",
            hint="close that, or use one LmdbStore for both",
        )
    code = getattr(error, "code", None)
    if not isinstance(code, int) or code not in errno.errorcode:
        return DamagedStoreError(f"{where}: LMDB fails with {files.data}: {error}")
    return os_error(code, where, files.data, size, _way_in(code, files, is_readonly))


def _way_in(code: int, files: StoreFiles, is_readonly: bool) -> str:
    """With which options a file can be opened where it lies, if LMDB can't as it was told."""
    if code in _NO_LOCKS:
        return (
            "its file system lacks what LMDB needs, which is locks and shared memory maps; copy it to another one, or, "
            "if nobody writes to it meanwhile, open it with readonly=True, lock=False"
        )
    if code == errno.EROFS and not is_readonly:
        return "it is on a medium that can only be read; open it with readonly=True"
    if code not in (errno.EACCES, errno.EPERM):
        return ""
    if not is_readonly:
        return f"this process may not write to {files.folder} or to its files; open it with readonly=True"
    if not os.access(files.data, os.R_OK):
        return f"this process may not read {files.data}"
    return (
        f"readers put themselves down in {files.lock}, which this process may not write to; have it allowed, or, if "
        "nobody writes to the store meanwhile, open it with readonly=True, lock=False"
    )


def os_error(code: int, where: str, path: str, size: int, hint: str = "") -> OSError:
    """The error for one of the system's, which says whether there was no room on the disk or in the file.

    Args:
        code: What a call failed with.
        where: The store, for the message.
        path: The file, or its folder.
        size: Bytes that were to be written.
        hint: What can be done about it.
    """
    limit, free = _largest_file(), _free(path)
    if code == errno.EIO:
        if limit is not None and _size(path) + size + _BESIDE > limit:
            code = errno.EFBIG
        elif free is not None and free < size + _BESIDE:
            code = errno.ENOSPC
    what = f"{where}: {os.strerror(code)}"
    if code == errno.EFBIG:
        most = "the disk takes no file so large"
        if limit is not None:
            most = f"no file of this process may be larger than {limit:,} bytes (ulimit -f)"
        what += f": {most}; allow more, or write less; nothing of this was stored"
    elif code in _NO_ROOM:
        left = "" if free is None else f": {free:,} bytes are free on the disk"
        wanted = f", and {size:,} bytes of records were to be written" if size else ""
        what += f"{left}{wanted}; make room there; nothing of this was stored"
    elif code == errno.ENOMEM:
        what += (
            ": the map of the file finds no room among the addresses of this process; give a smaller map_size or "
            "max_map_size, or allow the process more (ulimit -v)"
        )
    elif hint:
        what += f": {hint}"
    return OSError(code, what, path)


def _largest_file() -> int | None:
    """Bytes that a file of this process may have; None if there is no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _free(path: str) -> int | None:
    """Bytes that are free on the disk of a file, where the system tells."""
    for there in (path, os.path.dirname(path)):
        try:
            status = os.statvfs(there)
        except (OSError, AttributeError):
            continue
        return status.f_bavail * status.f_frsize
    return None


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
