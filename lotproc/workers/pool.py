"""Worker processes that are kept, watched and replaced: where one dies, it is known which batch it had.

Each is a process of loky's, which needs no guard around the main program, at the other end of a pipe.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from threading import Lock
from time import monotonic, sleep
from typing import Any

from .._raised import Raised
from ..errors import NotReadyError, WorkerDiedError, WorkerTimeoutError
from .environment import Start
from .process import BATCH, DONE, END_SECONDS, PREPARE, REST, STALE, serve

__all__ = ["CallOver", "Crew", "Hand", "Lost"]

#: Seconds after which a worker is looked at that says nothing: a process that it left behind may keep its pipe open.
LOOK_EVERY = 1.0
#: New workers that die in turn before they can begin, until it is given up.
MOST_STARTS = 10
#: Seconds that a worker of another call has to get ready for this one, else a new one takes its place.
PATIENCE = 60.0
#: Seconds until a worker that is gone has an exit code.
GRACE = 2.0
#: Seconds that a worker has to end by itself.
LEAVING = 2 * END_SECONDS + 1


class CallOver(Exception):
    """The results of a call are not wanted any more."""


class Lost:
    """Comes in place of a result when it was not the processor that failed.

    Args:
        error: What went wrong.
        is_fatal: Workers can't begin, so no batch can be processed; else it is this one that a worker was lost with.
    """

    def __init__(self, error: Exception, *, is_fatal: bool = False) -> None:
        self.error = error
        self.is_fatal = is_fatal


class Worker:
    """A worker process, and how to talk with it from one thread at a time."""

    def __init__(self, start: Start) -> None:
        from loky.backend.context import get_context
        from loky.backend.utils import kill_process_tree

        self._kill = kill_process_tree
        context = get_context("loky")
        self.start = start
        with _with_standard_streams():
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=serve, args=(theirs,), name="lotproc worker", env=start.variables)
            self._process.start()
            theirs.close()

    def ask(self, kind: bytes, packed: bytes, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Send a message, and give the kind of the answer and the answer.

        Raises:
            WorkerDiedError: The process ended.
            WorkerTimeoutError: It took longer than `timeout` seconds, and was killed.
        """
        try:
            self._connection.send_bytes(kind + packed)
            in_time = self._wait(None if timeout is None else monotonic() + timeout)
            answer = self._connection.recv_bytes() if in_time else b""
        except (EOFError, OSError):
            raise self._died() from None
        if not in_time:
            self.kill()
            raise WorkerTimeoutError(f"it took longer than timeout={timeout:g} s, and its worker process was stopped")
        return answer[:1], answer[1:]

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
            return WorkerDiedError("its worker process ended; of what is not known, since this program ignores SIGCHLD")
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

    def rest(self) -> None:
        """Tell it that there may be another call."""
        self._connection.send_bytes(REST)

    def dismiss(self) -> None:
        """Let it end by itself."""
        self._connection.close()

    def kill(self) -> None:
        """End it, with whatever it has started."""
        if not self.has_ended():
            self._kill(self._process)

    def ends_before(self, end: float) -> bool:
        """Wait for its end up to a time; whether it came."""
        while not (ended := self.has_ended()) and monotonic() < end:
            sleep(0.005)
        return ended


_streams_lock = Lock()


@contextmanager
def _with_standard_streams() -> Iterator[None]:
    """While a process is started, put something in the place of standard streams that are missing, or can't be flushed.

    loky flushes them, and where a daemon has closed them a pipe would get the number of one.
    """
    with _streams_lock:
        numbers = []
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
            numbers.append(number)
        os.close(number)
        replaced: list[tuple[str, Any, Any]] = []
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            try:
                stream.flush()
            except Exception:
                replaced.append((name, stream, instead := io.StringIO()))
                setattr(sys, name, instead)
        try:
            yield
        finally:
            for name, stream, instead in replaced:
                if getattr(sys, name) is instead:
                    setattr(sys, name, stream)
            for number in numbers:
                os.close(number)


class _Kept:
    """The workers that this process has, those that no call uses among them."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.all: set[Worker] = set()
        self.idle: list[Worker] = []
        self._leaving: set[Worker] = set()
        self._is_over = False
        Finalize(None, self.end, exitpriority=100)  # before the processes that this one started are waited for

    def take(self, start: Start) -> tuple[Worker, bool]:
        """A worker that is idle, or a new one; and which of both it is."""
        for worker in self.idle[::-1]:
            if worker.start == start:
                try:
                    self.idle.remove(worker)
                except ValueError:  # another thread has just taken it
                    continue
                return worker, False
        return self.new(start)

    def new(self, start: Start) -> tuple[Worker, bool]:
        if self._is_over:
            raise CallOver("the program ends, so no worker process is started any more")
        try:
            worker = Worker(start)
        except Exception as error:  # a daemonic process may have no children, for instance
            raise NotReadyError(
                f'parallel_map: no worker process can be started: {error}; use mode="thread" or mode="sync"'
            ) from error
        self.all.add(worker)
        return worker, True

    def dismiss(self, worker: Worker) -> None:
        """Let a worker end by itself; if it has not when the program ends, it is killed."""
        worker.dismiss()
        self.all.discard(worker)
        self._leaving.add(worker)
        for other in list(self._leaving):
            if other.has_ended():
                self._leaving.discard(other)

    def end(self) -> None:
        """End them with the program."""
        self._is_over = True
        for worker in self.idle:
            self.dismiss(worker)
        for worker in list(self.all):
            worker.kill()
        end = monotonic() + LEAVING
        for worker in list(self._leaving):
            if not worker.ends_before(end):
                worker.kill()


_kept: list[_Kept] = []
_lock = Lock()


def _workers() -> _Kept:
    with _lock:
        if not _kept or _kept[0].pid != os.getpid():  # a forked child has none of its parent's
            _kept[:] = [_Kept()]
        return _kept[0]


class Crew:
    """The workers of one call.

    Args:
        packed: What `serve` prepares with: a task, and a function to call before it or `None`.
        start: What its workers have from their start.
        timeout: Seconds that a worker may take for a batch.
        most_batches: How many batches a worker gets before another takes its place.
        keeps: Workers may have worked for other calls, and may work for others.
    """

    def __init__(
        self, packed: bytes, start: Start, *, timeout: float | None, most_batches: int | None, keeps: bool
    ) -> None:
        self.packed = packed
        self.start = start
        self.timeout = timeout
        self.most_batches = most_batches
        self.keeps = keeps
        self.died_at_start = 0
        self._lock = Lock()
        self._is_closed = False
        self._at_work: set[Worker] = set()

    def ask(self, worker: Worker, kind: bytes, packed: bytes, timeout: float | None = None) -> tuple[bytes, bytes]:
        """What a worker answers; one that is lost is forgotten.

        Raises:
            CallOver: The crew is closed.
        """
        with self._lock:
            if self._is_closed:
                raise CallOver
            self._at_work.add(worker)
        try:
            return worker.ask(kind, packed, timeout)
        except BaseException:
            _workers().all.discard(worker)
            raise
        finally:
            with self._lock:
                self._at_work.discard(worker)

    def close(self) -> None:
        """End what is at work, and let nothing more begin."""
        if sys.is_finalizing():
            return  # all workers were ended with the program
        with self._lock:
            self._is_closed = True
            at_work = list(self._at_work)
        for worker in at_work:
            worker.kill()


class Hand:
    """What one thread does with batches: it has them processed by one worker, and takes another where that is lost."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._worker: Worker | None = None
        self._batches = 0

    def __call__(self, packed: bytes) -> bytes | Raised | Lost:
        """The packed result of a packed batch, or what the processor raised.

        Raises:
            CallOver: The crew is closed.
        """
        crew = self._crew
        if self._worker is None:
            try:
                self._worker, self._batches = self._ready(), 0
            except CallOver:
                raise
            except Exception as error:
                return Lost(error, is_fatal=True)
        try:
            kind, answer = crew.ask(self._worker, BATCH, packed, crew.timeout)
        except (WorkerDiedError, WorkerTimeoutError) as error:
            self._worker = None
            return Lost(error)
        crew.died_at_start = 0
        self._batches += 1
        if self._batches == crew.most_batches:
            self._dismiss(self._worker)
            self._worker = None
        if kind == DONE:
            return answer
        raised: Raised = pickle.loads(answer)
        return raised

    def _ready(self) -> Worker:
        """A worker that can begin."""
        crew, kept = self._crew, _workers()
        while True:
            worker, is_new = kept.take(crew.start) if crew.keeps else kept.new(crew.start)
            try:
                kind, answer = crew.ask(worker, PREPARE, crew.packed, None if is_new else PATIENCE)
            except CallOver:
                self._dismiss(worker)
                raise
            except (WorkerDiedError, WorkerTimeoutError) as error:
                crew.died_at_start += is_new
                if crew.died_at_start >= MOST_STARTS:
                    raise NotReadyError(
                        f"parallel_map: {MOST_STARTS} worker processes in turn ended before they could begin, in the "
                        f"initializer or as the processor was loaded; of the last, {error}"
                    ) from None
                continue
            if kind == DONE:
                return worker
            self._dismiss(worker)
            if kind == STALE:
                continue
            reason: BaseException = pickle.loads(answer).error
            raise NotReadyError(
                f"parallel_map: a worker process can't begin, since its initializer or the loading of the processor "
                f"failed: {type(reason).__qualname__}: {reason}"
            ) from reason

    def close(self) -> None:
        """Let go of the worker."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if self._crew.keeps:
            try:
                worker.rest()
            except OSError:  # it was killed meanwhile
                pass
            else:
                _workers().idle.append(worker)
                return
        self._dismiss(worker)

    def _dismiss(self, worker: Worker) -> None:
        _workers().dismiss(worker)
