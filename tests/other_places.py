"""Places that differ from a folder of one's own: read-only media, other people's files, file systems without locks.

Each is a process that is forked here, in which a piece of work runs; it is stopped if it takes more than a minute.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import platform
import signal
import socket
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

__all__ = ["OTHERS", "as_nobody", "in_child", "on_readonly_media", "put_in_place", "without_locks"]

#: What a stranger can put in the place of a file.
OTHERS = ["link", "link to nothing", "pipe", "directory", "socket", "device"]
NOBODY = 65534


def put_in_place(path: str | os.PathLike[str], kind: str, victim: str | os.PathLike[str]) -> None:
    """Put something else in the place of a file: a link leads to a victim."""
    path = Path(path)
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "link to nothing":
        path.symlink_to(f"{victim}-is-not-there")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket can't be long
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    else:
        path.symlink_to("/dev/zero")


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` returns, or the error that it raises, in a process that is forked here."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which pytest may have
        pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            answer = work()
        except BaseException as error:
            answer = error
        os.write(write, pickle.dumps(answer))
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0
    return pickle.loads(data)


def done(answer: Any) -> Any:
    """What came out of a child, if it is no error."""
    if isinstance(answer, BaseException):
        raise answer
    return answer


def on_readonly_media(folder: str | os.PathLike[str], work: Callable[[], Any]) -> Any:
    """What `work` returns where a folder can only be read, whoever is at work; others see it as it is."""
    libc = ctypes.CDLL(None, use_errno=True)
    path = os.fsencode(folder)
    new_namespace, bind, readonly, remount, private = 0x20000, 1 << 12, 1, 1 << 5, 1 << 18 | 1 << 14

    def mounted() -> Any:
        if libc.unshare(new_namespace):
            return "refused"
        for source, target, flags in (
            (b"none", b"/", private),
            (path, path, bind),
            (path, path, bind | remount | readonly),
        ):
            if libc.mount(source, target, None, ctypes.c_ulong(flags), None):
                return "refused"
        return "worked", work()

    answer = done(in_child(mounted))
    if answer == "refused":
        pytest.skip("this user may not mount anything")
    return answer[1]


def as_nobody(work: Callable[[], Any]) -> Any:
    """What `work` returns for a user who owns nothing."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")

    def run() -> Any:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return work()

    return done(in_child(run))


def without_locks(code: int, work: Callable[[], Any]) -> Any:
    """What `work` returns where the system answers each `flock` and each lock of `fcntl` with an error."""
    numbers = {"x86_64": (0xC000003E, 73, 72), "aarch64": (0xC00000B7, 32, 25)}
    if platform.machine() not in numbers:
        pytest.skip("the numbers of this machine's system calls are not known here")
    architecture, flock, fcntl = numbers[platform.machine()]
    load, equal, within, give = 0x20, 0x15, 0x35, 0x06
    refuse, allow = 0x50000 | code, 0x7FFF0000
    program = [
        (load, 0, 0, 4),
        (equal, 0, 7, architecture),
        (load, 0, 0, 0),
        (equal, 4, 0, flock),
        (equal, 0, 4, fcntl),
        (load, 0, 0, 24),  # what fcntl is to do
        (within, 0, 2, 5),  # F_GETLK, F_SETLK, F_SETLKW
        (within, 1, 0, 8),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]
    instructions = b"".join(struct.pack("=HBBI", *one) for one in program)

    def run() -> Any:
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(instructions, len(instructions))
        filter_ = struct.pack("@HxxxxxxP", len(program), ctypes.addressof(buffer))
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filter_, 0, 0):
            return "refused"
        return "worked", work()

    answer = done(in_child(run))
    if answer == "refused":
        pytest.skip("this system has no filters of system calls")
    return answer[1]
