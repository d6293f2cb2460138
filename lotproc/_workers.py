"""Where processors run: threads, worker processes, or an executor that somebody hands in.

Each of `threads`, `processes` and `handed_in` opens to a function that submits a batch and gives a `Future` of what the
processor returned, with the iterators in it drained.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeAlias

from ._nodes import dumps_detached
from .errors import LiveNodeError, NotPicklableError, ProcessorError, add_note, got

__all__ = ["Submit", "called", "cpu_count", "handed_in", "pickled_processor", "processes", "threads"]

Submit: TypeAlias = "Callable[[Any], Future[Any]]"

#: Seconds that idle worker processes stay for the next call; starting them costs about 0.2 s.
IDLE_SECONDS = 60

#: Pools that no call uses, by the process that made them (a forked child has none) and their number of workers.
_idle: dict[tuple[int, int], list[Any]] = {}


@contextmanager
def threads(workers: int, fn: Callable[[Any], Any]) -> Iterator[Submit]:
    """Threads of our own, gone at the end; batches that run by then are waited for."""
    executor = ThreadPoolExecutor(workers, thread_name_prefix="lotproc")
    try:
        yield lambda batch: executor.submit(called, fn, batch)
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def processes(workers: int, fn: Callable[[Any], Any]) -> Iterator[Submit]:
    """Worker processes that stay for the next call; no two calls use the same ones at the same time."""
    idle = _idle.setdefault((os.getpid(), workers), [])
    pickled = pickled_processor(fn)
    try:
        pool = idle.pop()
    except IndexError:
        pool = _new_pool(workers)
    running: list[Future[Any]] = []
    submitted = False

    def submit(batch: Any) -> Future[Any]:
        nonlocal pool, running, submitted
        packed = _packed(batch)
        try:
            future: Future[Any] = pool.submit(_call_pickled, pickled, packed)
        except BrokenExecutor:
            if submitted:
                raise
            pool = _new_pool(workers)  # its workers were killed while they were idle
            future = pool.submit(_call_pickled, pickled, packed)
        submitted = True
        running = [*(other for other in running if not other.done()), future]
        return future

    reusable = True
    try:
        yield submit
    except BrokenExecutor:
        reusable = False
        raise
    except KeyboardInterrupt:
        reusable = False
        pool.shutdown(kill_workers=True)  # else the interpreter waits at its end for what runs there
        raise
    finally:
        if reusable and all(future.done() for future in running):
            idle.append(pool)
        else:
            pool.shutdown(wait=False)


def _new_pool(workers: int) -> Any:
    import loky

    return loky.ProcessPoolExecutor(workers, timeout=IDLE_SECONDS)


def _packed(batch: Any) -> bytes:
    """A batch as bytes: in one go, and refused where it would take a tree along."""
    import cloudpickle

    try:
        return dumps_detached(batch, pickler=cloudpickle.Pickler)
    except LiveNodeError as error:
        raise LiveNodeError(f"parallel_map: a batch can't leave its process: {error}; snapshot(...) it first") from None
    except Exception as error:
        raise NotPicklableError(f"parallel_map: {got(batch)} can't be sent to a process: {error}") from error


@contextmanager
def handed_in(executor: Executor, fn: Callable[[Any], Any]) -> Iterator[Submit]:
    """An executor of somebody else's, which is left running."""
    if isinstance(executor, ProcessPoolExecutor):
        pickled = pickled_processor(fn)
        yield lambda batch: executor.submit(_call_pickled, pickled, _packed(batch))
    else:
        yield lambda batch: executor.submit(called, fn, batch)


def called(fn: Callable[[Any], Any], batch: Any) -> Any:
    """What a processor makes of a batch, drained."""
    try:
        return drained(fn(batch))
    except AttributeError as error:
        if error.obj is batch:
            add_note(error, "lotproc: a processor gets a list of records; each(fn) makes one of a function of a record")
        raise


def _call_pickled(pickled: bytes, packed: bytes) -> Any:
    try:
        return called(_unpickled(pickled), pickle.loads(packed))
    except Exception as error:
        if _travels(error):
            raise
        told = ProcessorError(f"{type(error).__qualname__}: {error}")
        for note in [*getattr(error, "__notes__", []), "".join(traceback.format_exception(error))]:
            add_note(told, note)
    raise told  # out here, without the error behind it, which can't be pickled


def _travels(error: Exception) -> bool:
    """Whether an error comes out of a pickle as what it was; many that take several arguments do not."""
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        return False


@lru_cache(maxsize=8)
def _unpickled(pickled: bytes) -> Callable[[Any], Any]:
    """The processor, loaded once a worker and not once a batch."""
    import cloudpickle

    return cloudpickle.loads(pickled)  # type: ignore[no-any-return]


def pickled_processor(fn: Callable[..., Any]) -> bytes:
    """The processor as bytes, by value where it can't be imported."""
    import cloudpickle

    try:
        return dumps_detached(fn, pickler=cloudpickle.Pickler)
    except LiveNodeError as error:
        raise LiveNodeError(
            f"parallel_map: the processor {got(fn)} can't leave its process: {error}; pass what it needs as records or "
            f"plain values"
        ) from None
    except Exception as error:
        raise NotPicklableError(
            f"parallel_map: the processor {got(fn)} can't be sent to a process: {error}; create what it holds inside "
            f'it, or use mode="thread"'
        ) from error


def drained(result: Any) -> Any:
    """A result in which iterators, which can't travel, became lists, however deep they are nested."""
    whole: list[Any] = []
    levels = [(iter((result,)), whole, False)]  # what is still to come, and the list for it, to become a tuple or not
    while levels:
        items, into, is_tuple = levels[-1]
        item = next(items, levels)
        if item is levels:
            levels.pop()
            if is_tuple:
                levels[-1][1][-1] = tuple(into)
        elif isinstance(item, Iterator) or (type(item) in (list, tuple) and _nests(item)):
            new: list[Any] = []
            into.append(new)
            levels.append((iter(item), new, type(item) is tuple))
        else:
            into.append(item)
    return whole[0]


def _nests(items: Iterable[Any]) -> bool:
    return any(issubclass(kind, (Iterator, list, tuple)) for kind in set(map(type, items)))


def cpu_count() -> int:
    import loky

    return int(loky.cpu_count())
