"""A worker process as its program sees it: started, asked, killed, and how it came to its end.

It is a process at the other end of a pipe.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Pipe, wait
from threading import Lock
from time import monotonic, sleep
from typing import Any

from ..errors import WorkerDiedError, WorkerTimeoutError
from .environment import Inherited
from .memory import Memory
from .process import REST, serve

__all__ = ["Worker"]

#: Seconds after which a worker is looked at that says nothing: a process that it left behind may keep its pipe open.
LOOK_EVERY = 1.0
#: Seconds until a worker that is gone has an exit code.
GRACE = 2.0


class Worker:
    """A worker process, and how to talk with it from one thread at a time."""

    def __init__(self, inherited: Inherited) -> None:
        self.inherited = inherited
        kind = _kind_of_process()
        with _with_standard_streams():
            self._connection, theirs = Pipe()
            self._process = kind(target=serve, args=(theirs,), name="lotproc worker", env=inherited.variables)
            self._process.start()
            theirs.close()

    @property
    def number(self) -> int:
        """That of its process."""
        return int(self._process.pid)

    def ask(
        self, kind: bytes, packed: bytes, timeout: float | None = None, memory: Memory | None = None
    ) -> tuple[bytes, memoryview]:
        """Send a message, with shared memory where it needs some, and give the kind of the answer and the answer.

        Raises:
            WorkerDiedError: The process ended.
            WorkerTimeoutError: It took longer than `timeout` seconds, and was killed.
        """
        try:
            self._connection.send_bytes(kind + packed)
            if memory is not None:
                memory.send(self._connection)
            in_time = self._wait(None if timeout is None else monotonic() + timeout)
            answer = self._connection.recv_bytes() if in_time else b""
        except (EOFError, OSError):
            raise self._died() from None
        if not in_time:
            self.kill()
            raise WorkerTimeoutError(f"it took longer than timeout={timeout:g} s, and its worker process was stopped")
        return answer[:1], memoryview(answer)[1:]

    def _wait(self, end: float | None) -> bool:
        """Wait for an answer; whether there is one, or nobody left to give it, before the end of the time."""
        while True:
            left = LOOK_EVERY if end is None else min(LOOK_EVERY, end - monotonic())
            ready = wait([self._connection, self._process.sentinel], max(0.0, left))
            if self._connection in ready:
                return True
            if self.has_ended():
                if self._connection.poll(0):
                    return True
                raise EOFError
            if ready:
                sleep(0.01)  # it is about to end
            elif end is not None and left <= 0:
                return False

    def _died(self) -> WorkerDiedError:
        if not self.ends_before(monotonic() + GRACE):
            self.kill()
            return WorkerDiedError("its worker process closed its connection, and was stopped")
        code = self._process.exitcode
        if code is None:
            return WorkerDiedError(
                "its worker process ended", hint="of what is not known, since this program ignores SIGCHLD"
            )
        if code >= 0:
            return WorkerDiedError(f"its worker process ended with exit code {code}")
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = "; was memory short?" if name == "SIGKILL" else ""
        return WorkerDiedError(f"its worker process was killed by {name}{hint}")

    def has_ended(self) -> bool:
        """Whether the process is gone."""
        if self._process.exitcode is not None:
            return True
        if os.name != "posix":
            return False
        try:  # where SIGCHLD is ignored, the system keeps no exit code
            os.kill(self._process.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def was_killed(self) -> bool:
        """Whether somebody else has ended it: a person, or the system where memory is short."""
        return self._process.exitcode in (-signal.SIGTERM, -getattr(signal, "SIGKILL", 9))

    def rest(self) -> None:
        """Tell it that there may be another call."""
        self._connection.send_bytes(REST)

    def dismiss(self) -> None:
        """Let it end by itself."""
        self._connection.close()

    def kill(self) -> None:
        """End it, with whatever it has started."""
        from loky.backend.utils import kill_process_tree

        if not self.has_ended():
            kill_process_tree(self._process)

    def ends_before(self, end: float) -> bool:
        """Wait for its end up to a time; whether it came."""
        while not (ended := self.has_ended()) and monotonic() < end:
            sleep(0.005)
        return ended


def _kind_of_process() -> Any:
    """The class of processes that workers are."""
    if os.name == "posix":
        from .starting import SpawnedWorker

        return SpawnedWorker
    from loky.backend.context import get_context  # whose processes need no guard around the main program either

    return get_context("loky").Process


_streams_lock = Lock()


@contextmanager
def _with_standard_streams() -> Iterator[None]:
    """While a process is started, put something in the place of standard streams that are missing.

    Where a daemon has closed them, a pipe would get the number of one.
    """
    with _streams_lock:
        numbers = []
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
            numbers.append(number)
        os.close(number)
        try:
            yield
        finally:
            for number in numbers:
                os.close(number)
