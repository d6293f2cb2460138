"""The pool of worker processes: they are kept for the next call, and replaced where they die or have old code.

Each thread of a call holds a `Lease` of one worker at a time.
"""

from __future__ import annotations

import os
import pickle
import sys
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from threading import Lock
from time import monotonic

from .._log import log
from ..errors import NotReadyError, WorkerDiedError, WorkerTimeoutError
from .environment import Inherited
from .errors import not_loaded
from .memory import LARGE, Memories, Memory, has_memory
from .packing import Parcel, Returned
from .process import BATCH, DONE, END_SECONDS, PLACE, PREPARE, STALE, WITH_MEMORY
from .worker import Worker

__all__ = ["Call", "Lease", "process_pool"]

#: New workers that die in turn before they can begin, until it is given up; and seconds since the first of them, where
#: the last was killed: that may come from outside, and on a machine with much to do a worker takes long to begin.
MOST_STARTS, MOST_SECONDS = 10, 60.0
#: Seconds that a worker of another call has to get ready for this one, else a new one takes its place.
PATIENCE = 60.0
#: Seconds that a worker has to end by itself.
LEAVING = 2 * END_SECONDS + 1


class Pool:
    """The workers that this process has, those that no call uses among them."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.all: set[Worker] = set()
        self.idle: list[Worker] = []
        self._leaving: set[Worker] = set()
        self.is_over = False
        Finalize(None, self.end, exitpriority=100)  # before the processes that this one started are waited for

    def idle_one(self, inherited: Inherited) -> Worker | None:
        """A worker that is idle and was started with just that, if there is one."""
        for worker in self.idle[::-1]:
            if worker.inherited == inherited:
                try:
                    self.idle.remove(worker)
                except ValueError:  # another thread has just taken it
                    continue
                return worker
        return None

    def new(self, inherited: Inherited) -> Worker:
        """A worker that is started now."""
        if self.is_over:
            raise CancelledError("the program ends, so no worker process is started any more")
        try:
            worker = Worker(inherited)
        except Exception as error:  # a daemonic process may have no children, for instance
            raise NotReadyError(
                f"parallel_map: no worker process can be started: {error}", hint='use mode="thread" or mode="sync"'
            ) from error
        self.all.add(worker)
        return worker

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
        self.is_over = True
        for worker in self.idle:
            self.dismiss(worker)
        for worker in list(self.all):
            worker.kill()
        end = monotonic() + LEAVING
        for worker in list(self._leaving):
            if not worker.ends_before(end):
                worker.kill()


_pools: list[Pool] = []
_lock = Lock()


def process_pool() -> Pool:
    """The pool of this process."""
    with _lock:
        if not _pools or _pools[0].pid != os.getpid():  # a forked child has none of its parent's
            _pools[:] = [Pool()]
        return _pools[0]


@dataclass(eq=False)
class Call:
    """What the workers of one call have in common.

    Args:
        packed: What `serve` prepares with: an environment, a task, and a function to call before it or `None`.
        inherited: What they have from their start.
        timeout: Seconds that a worker may take for a batch.
        most_batches: How many batches a worker gets before another takes its place.
        is_shared: They may have worked for other calls, and may work for others.
        workers: How many there are at most.
    """

    packed: bytes
    inherited: Inherited
    timeout: float | None
    most_batches: int | None
    is_shared: bool
    workers: int
    #: The shared memory that large arrays go through, and whether outcomes have such arrays too.
    memories: Memories = field(default_factory=Memories)
    has_large_outcomes: bool = False
    #: New workers that died in turn before they could begin, and when the first of them did.
    failed_starts: int = 0
    failing_since: float = 0.0
    _is_over: bool = False
    _at_work: set[Worker] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    def ask(
        self, worker: Worker, kind: bytes, packed: bytes, timeout: float | None, memory: Memory | None = None
    ) -> tuple[bytes, memoryview]:
        """What a worker answers; one that is lost is forgotten.

        Raises:
            CancelledError: The call is over.
        """
        with self._lock:
            if self._is_over:
                raise CancelledError
            self._at_work.add(worker)
        try:
            return worker.ask(kind, packed, timeout, memory)
        except BaseException:
            process_pool().all.discard(worker)
            raise
        finally:
            with self._lock:
                self._at_work.discard(worker)

    @property
    def is_over(self) -> bool:
        """Whether its workers are ended, or all those of the program: one that is lost now is lost to that."""
        return self._is_over or process_pool().is_over

    def is_hopeless(self, worker: Worker) -> bool:
        """Whether so many new workers died in turn that the next would, too; this one has just died."""
        with self._lock:
            if not self.failed_starts:
                self.failing_since = monotonic()
            self.failed_starts += 1
            seconds = MOST_SECONDS if worker.was_killed() else 0.0
            return self.failed_starts >= MOST_STARTS and monotonic() - self.failing_since >= seconds

    def end(self) -> None:
        """Kill the workers that are at work, and let nothing more begin."""
        if sys.is_finalizing():
            return  # all workers were ended with the program
        with self._lock:
            self._is_over = True
            at_work = list(self._at_work)
        for worker in at_work:
            worker.kill()


class Lease:
    """What one thread of a call does with batches: one worker processes them, and is replaced where it is lost.

    Args:
        call: The call.
        index: The number of its workers.
    """

    def __init__(self, call: Call, index: int) -> None:
        self._call, self._index = call, index
        self._worker: Worker | None = None
        self._batches = 0

    def __call__(self, batch: Parcel) -> Returned:
        """The packed outcome of a packed batch.

        Raises:
            WorkerDiedError, WorkerTimeoutError: The worker was lost; the next batch gets another.
            NotReadyError: No worker can begin.
            CancelledError: The call is over.
        """
        call = self._call
        if self._worker is None:
            self._worker, self._batches = self._ready(), 0
        packed, memory = batch
        if memory is None and call.has_large_outcomes:
            memory = call.memories.of([])
        try:
            kind, outcome = call.ask(self._worker, WITH_MEMORY if memory else BATCH, packed, call.timeout, memory)
        except (WorkerDiedError, WorkerTimeoutError) as error:
            if isinstance(error, WorkerTimeoutError):
                took = "worker process %s took longer than timeout=%g s, and another takes its place"
                log.info(took, self._worker.number, call.timeout)
            elif not call.is_over:
                log.warning("worker process %s was lost, and another takes its place: %s", self._worker.number, error)
            self._worker = None
            if memory:
                memory.close()  # which a worker that is not quite gone may still write to
            raise
        call.failed_starts = 0
        self._batches += 1
        if self._batches == call.most_batches:
            process_pool().dismiss(self._worker)
            self._worker = None
        call.has_large_outcomes |= len(outcome) > LARGE and has_memory()
        buffers = memory.read() if memory and kind == WITH_MEMORY else []
        if memory:
            call.memories.give_back(memory)
        return Returned(outcome, buffers)

    def _ready(self) -> Worker:
        """A worker that can begin: an idle one, or else a new one."""
        call, pool = self._call, process_pool()
        while True:
            idle = pool.idle_one(call.inherited) if call.is_shared else None
            worker = idle or pool.new(call.inherited)
            try:
                place = PLACE.pack(self._index, call.workers)
                kind, answer = call.ask(worker, PREPARE, place + call.packed, PATIENCE if idle else None)
            except CancelledError:
                pool.dismiss(worker)
                raise
            except (WorkerDiedError, WorkerTimeoutError) as error:
                if call.is_over:
                    raise CancelledError from None
                if idle is None and call.is_hopeless(worker):
                    raise NotReadyError(
                        f"parallel_map: {call.failed_starts} worker processes in turn ended before they could begin, "
                        "in the initializer or as the processor was loaded",
                        hint=f"of the last, {error}",
                    ) from None
                continue
            if kind == DONE:
                return worker
            pool.dismiss(worker)
            if kind == STALE:
                continue
            raise not_loaded(pickle.loads(answer).error)

    def close(self) -> None:
        """Let go of the worker: it is kept for the next call, or ends."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if self._call.is_shared:
            try:
                worker.rest()
            except OSError:  # it was killed meanwhile
                pass
            else:
                process_pool().idle.append(worker)
                return
        process_pool().dismiss(worker)
