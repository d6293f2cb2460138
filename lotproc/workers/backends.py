"""Where processors run: threads, worker processes, or an executor that somebody hands in.

Each of `threads`, `processes` and `handed_in` opens to a `Place`.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from functools import cache, lru_cache
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .._clock import ticking
from .._interrupts import is_interrupt, uninterrupted
from .._nodes import by_value, dumps_detached
from .._raised import attempted
from ..errors import LiveNodeError, NotPicklableError, NotReadyError, got, warn
from .arithmetic import Arithmetic, changed_by, within
from .environment import Start, Surroundings, is_of_user, module_file
from .pool import Crew, Hand, Lost
from .process import packed_result
from .tasks import Task

__all__ = ["Initializer", "Place", "begin", "check_picklable", "cpu_count", "handed_in", "processes", "threads"]

#: Seconds that threads get to end after an interrupt; nothing can stop them.
INTERRUPT_SECONDS = 1.0

Initializer: TypeAlias = "Callable[[], object] | None"


class Place(NamedTuple):
    """Where batches are processed.

    Args:
        submit: Takes a batch, and gives a `Future` of what the task makes of it, or of a `Raised` or a `Lost`.
        load: Makes of what the future has what the task made.
    """

    submit: Callable[[Any], Future[Any]]
    load: Callable[[Any], Any]


class _Threads:
    """Threads that take jobs from one queue. They do not keep the program from ending, as those of executors do.

    Args:
        most: How many there are at most; each is started when there is more to do than the others can take.
        hand: Makes what a thread does with its jobs: a function of a job, with a `close` for the end of the thread.
    """

    def __init__(self, most: int, hand: Callable[[], Any]) -> None:
        self._most = most
        self._hand = hand
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
                self._threads.append(Thread(target=self._work, name=f"lotproc_{len(self._threads)}", daemon=True))
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

    def _work(self) -> None:
        hand = self._hand()
        try:
            while (item := self._jobs.get()) is not None:
                future, job = item
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(hand(job))
                    except BaseException as error:
                        future.set_exception(error)
                del item, future, job
                with self._lock:
                    self._free += 1
        finally:
            hand.close()


class _InThread:
    """What a thread does with batches: the task itself, with the arithmetic and the context variables of the caller.

    Those that the initializer has set are the thread's own.
    """

    def __init__(self, task: Task, initializer: Initializer) -> None:
        self._task = task
        self._error: Exception | None = None
        self._arithmetic: Arithmetic | None = None
        try:
            self._arithmetic = begin(initializer)
        except NotReadyError as error:
            self._error = error
        except BaseException as error:  # SystemExit, say, which is nobody's to catch in a thread
            self._error = NotReadyError(f"parallel_map: the initializer {got(initializer)} failed: {error!r}")

        self._variables = list(copy_context().items()) if initializer else []

    def __call__(self, job: tuple[Context, Arithmetic, Any]) -> Any:
        if self._error is not None:
            return Lost(self._error, is_fatal=True)
        context, arithmetic, batch = job
        return context.run(self._called, arithmetic, batch)

    def _called(self, arithmetic: Arithmetic, batch: Any) -> Any:
        for variable, value in self._variables:
            variable.set(value)
        with ticking():  # the caller counts its own seconds
            return attempted(within, self._arithmetic or arithmetic, self._task, batch)

    def close(self) -> None:
        """There is nothing to let go of."""


def begin(initializer: Initializer) -> Arithmetic | None:
    """Call the function that comes before the first batch; give the arithmetic that it has set, if it has."""
    try:
        return changed_by(initializer)
    except Exception as error:
        raise NotReadyError(
            f"parallel_map: the initializer {got(initializer)} failed: {type(error).__qualname__}: {error}"
        ) from error


@contextmanager
def threads(workers: int, task: Task, initializer: Initializer) -> Iterator[Place]:
    """Threads of our own, gone at the end; batches that run by then are waited for, but not long after an interrupt."""
    pool = _Threads(workers, lambda: _InThread(task, initializer))
    seconds: float | None = None
    try:
        yield Place(lambda batch: pool.submit((copy_context(), Arithmetic.here(), batch)), _as_it_is)
    except BaseException as error:
        seconds = INTERRUPT_SECONDS if is_interrupt(error) else None
        raise
    finally:
        pool.close(seconds)


def _as_it_is(result: Any) -> Any:
    return result


@contextmanager
def processes(
    workers: int, task: Task, initializer: Initializer, timeout: float | None, most_batches: int | None
) -> Iterator[Place]:
    """Worker processes that stay for the next call, unless they are still at work at the end: those are killed."""
    keeps = initializer is None and most_batches is None
    surroundings = Surroundings.here(max(1, cpu_count() // workers))
    packed = pickle.dumps((surroundings, _packed_task(task, initializer)))
    start = Start.now(surroundings.environment)
    crew = Crew(packed, start, timeout=timeout, most_batches=most_batches, keeps=keeps)
    pool = _Threads(workers, lambda: Hand(crew))
    try:
        yield Place(lambda batch: pool.submit(_packed(batch)), pickle.loads)
    finally:
        with uninterrupted():
            crew.close()
            pool.close()


@contextmanager
def handed_in(executor: Executor, task: Task) -> Iterator[Place]:
    """An executor of somebody else's, which is left running."""
    if isinstance(executor, ProcessPoolExecutor):
        packed_task = _packed_task(task)
        yield Place(lambda batch: executor.submit(attempted, _call_packed, packed_task, _packed(batch)), pickle.loads)
    elif isinstance(executor, ThreadPoolExecutor):
        yield Place(
            lambda batch: executor.submit(copy_context().run, attempted, within, Arithmetic.here(), task, batch),
            _as_it_is,
        )
    else:
        yield Place(lambda batch: executor.submit(attempted, within, Arithmetic.changed(), task, batch), _as_it_is)


def _call_packed(packed_task: bytes, packed: bytes) -> bytes:
    return packed_result(_unpacked(packed_task), packed)


@lru_cache(maxsize=8)
def _unpacked(packed_task: bytes) -> Task:
    """The task, loaded once a worker and not once a batch."""
    task, _ = pickle.loads(packed_task)
    return task  # type: ignore[no-any-return]


def _packed(batch: Any) -> bytes:
    """A batch and the caller's arithmetic as bytes: in one go, and refused where it would take a tree along."""
    try:
        return dumps_detached((Arithmetic.changed(), batch), pickler=by_value())
    except LiveNodeError as error:
        raise LiveNodeError(f"parallel_map: a batch can't leave its process: {error}; snapshot(...) it first") from None
    except Exception as error:
        raise NotPicklableError(f"parallel_map: {got(batch)} can't be sent to a process: {error}") from error


def check_picklable(task: Task, initializer: Initializer) -> None:
    """Refuse what can't be sent to a process, and warn of what does not do there what it does here."""
    _sendable("processor", task.fn, task.fn, _watching())
    if initializer is not None:
        _sendable("initializer", initializer, initializer)


def _packed_task(task: Task, initializer: Initializer = None) -> bytes:
    """The task and what comes before it as bytes, by value where it can't be imported."""
    return _sendable("processor", task.fn, (task, initializer))


@cache
def _watching() -> Any:
    """A pickler that warns of generators of random numbers, which would be the same in each worker."""
    base = by_value()

    class Pickler(base):  # type: ignore[misc, valid-type]
        def reducer_override(self, value: Any) -> Any:
            used = [value]
            if isinstance(value, FunctionType):  # one that is imported by its name is no part of the pickle
                used += [value.__globals__.get(name) for name in value.__code__.co_names]
            for found in used:
                if isinstance(found, (np.random.Generator, np.random.RandomState, random.Random)):
                    warn(
                        f"parallel_map: the processor takes a generator of random numbers to workers, {got(found)}; "
                        f"all of them draw the same from it; use lotproc.rng(record): its numbers are the record's own"
                    )
            return super().reducer_override(value)

    return Pickler


def _sendable(what: str, fn: object, value: object, pickler: Any = None) -> bytes:
    import cloudpickle

    for module in _new_strays():
        cloudpickle.register_pickle_by_value(module)
    try:
        return dumps_detached(value, pickler=pickler or by_value())
    except Warning:  # made an error by the user
        raise
    except LiveNodeError as error:
        raise LiveNodeError(
            f"parallel_map: the {what} {got(fn)} can't leave its process: {error}; pass what it needs as records or "
            f"plain values"
        ) from None
    except Exception as error:
        raise NotPicklableError(
            f"parallel_map: the {what} {got(fn)} can't be sent to a process: {error}; create what it holds inside "
            f'it, or use mode="thread"'
        ) from error


#: The names of modules that were looked for already.
_looked_for: set[str] = set()


def _new_strays() -> Iterator[ModuleType]:
    """Loaded modules that no other process could import by their names, of those that were not looked at before.

    Such are a module that was loaded from its path, and the main program where `multiprocessing` has spawned this one.
    """
    if _looked_for.issuperset(sys.modules):
        return
    for name in set(sys.modules) - _looked_for:
        _looked_for.add(name)
        module = sys.modules.get(name)
        file = module_file(module)
        if is_of_user(file) and file.endswith(".py") and name != "__main__" and not _is_found(name, file):
            assert module is not None
            if module.__name__ == name:
                yield module


def _is_found(name: str, file: str) -> bool:
    """Whether an import of a name would load a file."""
    parent = name.rpartition(".")[0]
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    try:
        specs = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next(filter(None, specs), None)
        return spec is not None and spec.origin is not None and os.path.samefile(spec.origin, file)
    except Exception:  # what a finder of somebody's own can't answer is left as it is
        return True


def cpu_count() -> int:
    """How many workers can work at the same time."""
    import loky

    return int(loky.cpu_count())
