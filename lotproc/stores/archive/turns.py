"""Who may write to an archive within a process: one thread after the other, and no call from inside of another one."""

from __future__ import annotations

import os
import threading
from types import TracebackType

from ...errors import ArgumentError, StoreLockedError

__all__ = ["Turns"]

#: Seconds after which a thread that waits looks again at what it waits for.
PATIENCE = 1.0


class Turns:
    """One thread at a time has its turn; it is entered as a context manager after `of` said for what.

    Args:
        timeout: Seconds to wait for a thread that goes through an iterable; None waits for as long as it takes.
    """

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._begin()

    def _begin(self) -> None:
        """Nobody has a turn; so it is in a fork too, which does not have the thread that had it."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._call = ""

    def is_own(self) -> bool:
        """Whether this thread has its turn already."""
        return self._thread == threading.get_ident() and self._pid == os.getpid()

    def of(self, archive: object, call: str) -> _Turn:
        """A turn for a call.

        Args:
            archive: What errors name.
            call: What is called; one that goes through an iterable of the user's ends in "(...)".
        """
        return _Turn(self, archive, call)

    def take(self, archive: object, call: str) -> None:
        """Wait for the turn.

        Raises:
            ArgumentError: This thread has it already, for another call.
            StoreLockedError: Another thread has it for too long.
        """
        if not self._lock.acquire(False):
            if self._pid != os.getpid():
                self._begin()
                return self.take(archive, call)
            if self._thread == threading.get_ident():
                raise ArgumentError(
                    f"{archive!r} is in the middle of {self._call}; what it goes through can't call {call} meanwhile: "
                    "yield the records instead, or call it afterwards"
                )
            self._wait(archive, call)
        self._pid, self._thread, self._call = os.getpid(), threading.get_ident(), call

    def _wait(self, archive: object, call: str) -> None:
        left = self._timeout
        while not self._lock.acquire(timeout=PATIENCE if left is None else min(left, PATIENCE) or 0.01):
            if left is None or not self._call.endswith("(...)"):  # which ends by itself
                continue
            left = max(0.0, left - PATIENCE)
            if not left:
                raise StoreLockedError(
                    f"{archive!r} is in the middle of {self._call} in another thread, which did not end within "
                    f"{self._timeout:g} s, so {call} was not done; wait for longer with Archive(..., lock_timeout=...)"
                )

    def give(self) -> None:
        """Let the next thread have its turn."""
        self._thread = None
        if self._lock.locked():  # not so in a fork, for a turn that was taken before it
            self._lock.release()


class _Turn:
    __slots__ = ("_archive", "_call", "_turns")

    def __init__(self, turns: Turns, archive: object, call: str) -> None:
        self._turns, self._archive, self._call = turns, archive, call

    def __enter__(self) -> None:
        self._turns.take(self._archive, self._call)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._turns.give()
