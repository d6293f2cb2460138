"""Where processors run: threads, worker processes, or an executor that somebody hands in.

Each of `threads`, `processes` and `handed_in` opens to a function that submits a batch and gives a `Future` of what the
processor returned, with the iterators in it drained.
"""

from __future__ import annotations

import io
import os
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeAlias

from ._nodes import refuse_persistent
from .errors import LiveNodeError, NotPicklableError, ProcessorError, add_note, got

__all__ = ["Submit", "called", "cpu_count", "handed_in", "pickled_processor", "processes", "threads"]

Submit: TypeAlias = "Callable[[Any], Future[Any]]"

#: Seconds that idle worker processes stay for the next call; starting them costs about 0.2 s.
IDLE_SECONDS = 60

#: The pools of this process, by its id (a forked child has none of them) and their number of workers.
_pools: dict[tuple[int, int], Any] = {}


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
    """Worker processes that stay for the next call."""
    import loky

    # One pool for each number of workers: loky's own reusable one is resized, and waits for what still runs on it.
    key = os.getpid(), workers
    pickled = pickled_processor(fn)
    first = True

    def submit(batch: Any) -> Future[Any]:
        nonlocal first
        if key not in _pools:
            _pools[key] = loky.ProcessPoolExecutor(workers, timeout=IDLE_SECONDS)
        try:
            future: Future[Any] = _pools[key].submit(_call_pickled, pickled, batch)
        except BrokenExecutor:
            del _pools[key]
            if not first:
                raise
            first = False
            return submit(batch)  # what broke the pool was left over from another call
        first = False
        return future

    try:
        yield submit
    except BrokenExecutor:
        _pools.pop(key, None)  # the next call starts afresh
        raise
    except KeyboardInterrupt:
        if key in _pools:  # else the interpreter waits at its end for what runs there
            _pools.pop(key).shutdown(kill_workers=True)
        raise


@contextmanager
def handed_in(executor: Executor, fn: Callable[[Any], Any]) -> Iterator[Submit]:
    """An executor of somebody else's, which is left running."""
    if isinstance(executor, ProcessPoolExecutor):
        pickled = pickled_processor(fn)
        yield lambda batch: executor.submit(_call_pickled, pickled, batch)
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


def _call_pickled(pickled: bytes, batch: Any) -> Any:
    try:
        return called(_unpickled(pickled), batch)
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

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        persistent_id = staticmethod(refuse_persistent)

    buffer = io.BytesIO()
    try:
        Pickler(buffer, protocol=5).dump(fn)
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
    return buffer.getvalue()


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
