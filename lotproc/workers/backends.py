"""Backends: threads, worker processes, or an executor that somebody hands in.

Each of `threads`, `processes` and `handed_in` opens to a function that takes a batch, and gives a `Future` of its
outcome, maybe packed. What is wrong with the backend and not with the batch is the exception of the future.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from contextvars import Context, copy_context
from functools import lru_cache
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Any, TypeAlias

from .._clock import context_of_work
from .._interrupts import is_interrupt, uninterrupted
from ..errors import NotReadyError, got
from .arithmetic import Arithmetic, changed_by, within
from .engines import unlike_others
from .environment import Environment, Inherited
from .errors import outcome_of
from .info import Engine, be_worker, be_worker_of, engine_of
from .packing import Initializer, packed_batch, packed_task, parcel, run_task
from .pool import Call, Lease
from .tasks import Task

__all__ = ["Submit", "begin", "begun_in_thread", "closed_in_time", "cpu_count", "handed_in", "processes", "threads"]

Submit: TypeAlias = Callable[[Any], "Future[Any]"]

#: Seconds that threads get to end after an interrupt; nothing can stop them.
INTERRUPT_SECONDS = 1.0


def cpu_count() -> int:
    """How many workers can work at the same time."""
    cpus = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return _cpu_count(cpus, os.environ.get("LOKY_MAX_CPU_COUNT"))


@lru_cache(maxsize=1)
def _cpu_count(cpus: frozenset[int] | None, most: str | None) -> int:
    """The same; asked once for the CPUs that this process may use, since files of the system are read for it."""
    import loky

    return int(loky.cpu_count())


def begin(initializer: Initializer) -> Arithmetic | None:
    """Call the function that comes before the first batch; give the arithmetic that it has set, if it has."""
    try:
        return changed_by(initializer)
    except Exception as error:
        raise NotReadyError(
            f"parallel_map: the initializer {got(initializer)} failed: {type(error).__qualname__}: {error}"
        ) from error


def begun_in_thread(initializer: Initializer) -> tuple[Arithmetic | None, NotReadyError | None]:
    """The same in a thread that is to live on: with the error, if it fails."""
    try:
        return begin(initializer), None
    except NotReadyError as error:
        return None, error
    except BaseException as error:  # SystemExit, say, which is nobody's to catch in a thread
        return None, NotReadyError(f"parallel_map: the initializer {got(initializer)} failed: {error!r}")


@contextmanager
def threads(workers: int, task: Task, initializer: Initializer) -> Iterator[Submit]:
    """Threads of our own, gone at the end; batches that run by then are waited for, but not long after an interrupt."""
    pool = _Threads(workers, lambda index: _on_thread(task, initializer, index, workers))
    with closed_in_time(pool.close):
        yield lambda batch: pool.submit((context_of_work(), Arithmetic.here(), batch))


@contextmanager
def closed_in_time(close: Callable[[float | None], None]) -> Iterator[None]:
    """Close what waits for its threads, at the end; after an interrupt with the few seconds that it may wait."""
    seconds: float | None = None
    try:
        yield
    except BaseException as error:
        seconds = INTERRUPT_SECONDS if is_interrupt(error) else None
        raise
    finally:
        close(seconds)


@contextmanager
def processes(
    workers: int, task: Task, initializer: Initializer, timeout: float | None, most_batches: int | None
) -> Iterator[Submit]:
    """Worker processes that stay for the next call, unless they are still at work at the end: those are killed."""
    environment = Environment.here(max(1, cpu_count() // workers))
    packed = pickle.dumps((environment, packed_task(task, initializer)))
    is_shared = initializer is None and most_batches is None
    call = Call(packed, Inherited.now(environment), timeout, most_batches, is_shared, workers)
    pool = _Threads(workers, lambda index: closing(Lease(call, index)))
    try:
        yield lambda batch: pool.submit(parcel(batch, call.memories))
    finally:
        with uninterrupted():
            call.end()
            pool.close()
            call.memories.close()


@contextmanager
def handed_in(executor: Executor, task: Task) -> Iterator[Submit]:
    """An executor of somebody else's, which is left running."""
    if isinstance(executor, ThreadPoolExecutor):
        yield lambda batch: executor.submit(context_of_work().run, outcome_of, within, Arithmetic.here(), task, batch)
    else:
        packed, engine = packed_task(task), engine_of(executor)
        yield lambda batch: executor.submit(_run_packed, unlike_others(), engine, packed, packed_batch(batch))


def _run_packed(_: bytes, engine: Engine, task: bytes, batch: bytes) -> Any:
    """The packed outcome of a packed batch."""
    be_worker_of(engine)
    return run_task(task, batch)


class _Threads:
    """Threads that take jobs from one queue. They do not keep the program from ending, as those of executors do.

    Args:
        most: How many there are at most; each is started when there is more to do than the others can take.
        worker: Opens, in each thread, by its number, to what it does with a job.
    """

    def __init__(self, most: int, worker: Callable[[int], AbstractContextManager[Callable[[Any], Any]]]) -> None:
        self._most = most
        self._worker = worker
        self._jobs: SimpleQueue[tuple[Future[Any], Any] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._lock = Lock()
        self._free = 0

    def submit(self, job: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self._free -= 1
            if self._free < 0 and len(self._threads) < self._most:
                self._free += 1
                index = len(self._threads)
                self._threads.append(Thread(target=self._work, args=(index,), name=f"lotproc_{index}", daemon=True))
                self._threads[-1].start()
        self._jobs.put((future, job))
        return future

    def close(self, seconds: float | None = None) -> None:
        """Start nothing more, and wait for what was started; so many seconds at most."""
        if sys.is_finalizing():
            return  # the program has ended around a call, and its threads with it
        with suppress(Empty):
            while (item := self._jobs.get_nowait()) is not None:
                item[0].cancel()
        for _ in self._threads:
            self._jobs.put(None)
        end = None if seconds is None else monotonic() + seconds
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - monotonic()))

    def _work(self, index: int) -> None:
        with self._worker(index) as work:
            while (item := self._jobs.get()) is not None:
                future, job = item
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(work(job))
                    except BaseException as error:
                        future.set_exception(error)
                del item, future, job
                with self._lock:
                    self._free += 1


@contextmanager
def _on_thread(
    task: Task, initializer: Initializer, index: int, workers: int
) -> Iterator[Callable[[tuple[Context, Arithmetic, Any]], Any]]:
    """What a thread does with batches: the task itself, with the arithmetic and the context variables of the caller.

    Those that the initializer has set are the thread's own.
    """
    be_worker(index, workers)
    own, failed = begun_in_thread(initializer)
    variables = list(copy_context().items()) if initializer else []

    def called(arithmetic: Arithmetic, batch: Any) -> Any:
        for variable, value in variables:
            variable.set(value)
        return outcome_of(within, own or arithmetic, task, batch)

    def work(job: tuple[Context, Arithmetic, Any]) -> Any:
        if failed is not None:
            raise failed
        context, arithmetic, batch = job
        return context.run(called, arithmetic, batch)

    yield work
