"""Shared memory for large arrays on their way to a worker process and back: it has no name, so nothing is left behind.

Linux alone has such memory. Elsewhere, and where it is short, arrays go through the pipe with all else.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from pickle import PickleBuffer
from typing import Any
from weakref import WeakSet

from .._fast import FAST

__all__ = ["LARGE", "Memories", "Memory", "OutOfBand", "has_memory", "receive_memory", "too_many_files"]

#: Bytes from which on an array goes through shared memory.
LARGE = 1 << 16
#: Bytes that are kept, of one batch, for the next one.
MOST_KEPT = 64 << 20


def has_memory() -> bool:
    """Whether large arrays go through shared memory here."""
    return FAST and hasattr(os, "memfd_create")


class Memory:
    """Memory that several processes have open as a file; it is gone with the last of them.

    It is read and written, and never mapped: what is read from it lies in the reader's own memory, and where the system
    has no more of it there is an error, and no signal. Records with 1 MB there and back take 0.45 of the CPU time that
    they take in one pickle through a pipe.

    Args:
        number: Its file descriptor.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self, close: Any = os.close) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            close(number)

    __del__ = close

    @property
    def size(self) -> int:
        return os.fstat(self.number).st_size

    def write(self, buffers: Sequence[memoryview]) -> None:
        """Put buffers in the place of what is in it.

        Raises:
            OSError: There is no room for them.
        """
        sizes = [~view.nbytes if view.readonly else view.nbytes for view in buffers]
        position = 0
        for part in (memoryview(struct.pack(f"{len(sizes) + 1}q", len(sizes), *sizes)), *buffers):
            left = part
            while left.nbytes:
                written = os.pwrite(self.number, left, position)
                left, position = left[written:], position + written

    def read(self) -> list[bytes | bytearray]:
        """The buffers in it: what could not be changed where it was, can't be here."""
        (count,) = struct.unpack("q", self._read(8, 0))
        sizes = struct.unpack(f"{count}q", self._read(8 * count, 8))
        position = 8 + 8 * count
        found: list[bytes | bytearray] = []
        for size in sizes:
            length = ~size if size < 0 else size
            found.append(self._read(length, position) if size < 0 else self._into(bytearray(length), position))
            position += length
        return found

    def _read(self, length: int, position: int) -> bytes:
        found = os.pread(self.number, length, position)
        return found if len(found) == length else bytes(self._into(bytearray(length), position))

    def _into(self, target: bytearray, position: int) -> bytearray:
        left = memoryview(target)
        while left:
            count = os.preadv(self.number, [left], position)
            if not count:
                raise EOFError
            left, position = left[count:], position + count
        return target

    def send(self, connection: Any) -> None:
        """Hand it to the process at the other end of a connection, which is to receive it next."""
        ours = _socket(connection)
        try:
            socket.send_fds(ours, [b"M"], [self.number])
        finally:
            ours.detach()


def receive_memory(connection: Any) -> Memory | None:
    """The memory that the other end of a connection sends next; `None` where this process may open no more files."""
    ours = _socket(connection)
    try:
        sent, numbers, *_ = socket.recv_fds(ours, 1, 1, flags=socket.MSG_CMSG_CLOEXEC)
    finally:
        ours.detach()
    if not sent:
        raise EOFError
    return Memory(numbers[0]) if numbers else None


def too_many_files() -> OSError:
    """The error for memory that could not be received."""
    return OSError(errno.EMFILE, "a batch with large arrays can't be had: " + os.strerror(errno.EMFILE))


def _socket(connection: Any) -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=connection.fileno())


class OutOfBand:
    """The buffers that a pickle leaves out, since they are large; what a pickler calls with each that it meets."""

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []

    def __call__(self, buffer: PickleBuffer) -> bool:
        """Whether a buffer goes into the pickle."""
        try:
            view = buffer.raw()
        except BufferError:  # it lies in pieces, of which the pickler tells
            return True
        if view.nbytes < LARGE:
            return True
        self.buffers.append(view)
        return False


class Memories:
    """The shared memory of one call: a piece for each batch in flight that needs one, used again for the next."""

    def __init__(self) -> None:
        self._spare: list[Memory] = []
        self._all: WeakSet[Memory] = WeakSet()

    def of(self, buffers: Sequence[memoryview]) -> Memory | None:
        """A piece that holds buffers; `None` where there is none, or no room."""
        try:
            memory = self._spare.pop()
        except IndexError:
            memory = None
        try:
            memory = memory or Memory(os.memfd_create("lotproc"))
            memory.write(buffers)
        except OSError:
            return None
        self._all.add(memory)
        return memory

    def give_back(self, memory: Memory) -> None:
        """Keep a piece, which nobody uses any more, for the next batch."""
        if memory.size <= MOST_KEPT:
            self._spare.append(memory)

    def close(self) -> None:
        """Let go of all of it, when no worker is at work any more."""
        for memory in list(self._all):
            memory.close()
