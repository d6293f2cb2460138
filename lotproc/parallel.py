"""Batches through a processor: in line, on threads, on processes, or on any executor."""

from __future__ import annotations

import io
import os
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from queue import SimpleQueue
from typing import Any, Literal, TypeAlias, TypeVar, overload

from lotdb import BaseNode

from ._nodes import node_path, path_of, refuse_persistent
from ._stage import check_choice, check_count, stage
from .errors import (
    ArgumentTypeError,
    LiveNodeError,
    NotPicklableError,
    ProcessorError,
    add_note,
    as_text,
    got,
)
from .models import NodeRecord

__all__ = ["each", "parallel_map"]

B = TypeVar("B")
R = TypeVar("R")
T = TypeVar("T")
Mode: TypeAlias = Literal["sync", "thread", "process"]

_pools: dict[tuple[int, int], Any] = {}
_PLAIN = {type(None), bool, int, float, str, bytes}
#: Seconds that idle worker processes stay for the next call; starting them costs about 0.2 s.
IDLE_SECONDS = 60


@overload
def parallel_map(
    fn: Callable[[B], R],
    batches: Iterable[B],
    *,
    mode: Mode = "process",
    max_workers: int | None = None,
    executor: Executor | None = None,
    buffersize: int | None = None,
    ordered: bool = True,
) -> Iterator[R]: ...
@overload
def parallel_map(
    fn: Callable[[B], R],
    *,
    mode: Mode = "process",
    max_workers: int | None = None,
    executor: Executor | None = None,
    buffersize: int | None = None,
    ordered: bool = True,
) -> Callable[[Iterable[B]], Iterator[R]]: ...
@stage("batches")
def parallel_map(
    fn: Callable[[B], R],
    *,
    mode: Mode = "process",
    max_workers: int | None = None,
    executor: Executor | None = None,
    buffersize: int | None = None,
    ordered: bool = True,
) -> Callable[[Iterable[B]], Iterator[R]]:
    """Call a processor on each batch, many at a time.

    >>> from lotproc import parallel_map
    >>> list(parallel_map(sum, [[1, 2], [3, 4]], mode="thread"))
    [3, 7]

    Args:
        fn: A function of a batch. On processes, lambdas and functions of a notebook work too. Iterators that it returns
            are drained where it ran, so it may be a generator function.
        batches: Batches of records, or anything else that can be sent where the work is done.
        mode: "sync": in line, one after the other; "thread": for work that waits or leaves the interpreter;
            "process": for work in Python, on worker processes that are kept for the next call.
        max_workers: Threads or processes; by default one for each CPU that this process may use.
        executor: Any `concurrent.futures.Executor` to use in place of `mode`: Dask, MPI, Ray, Slurm have one. Only its
            `submit` is used, and it is left running.
        buffersize: The most batches that are in flight: pulled, and their results not asked for yet. By default twice
            the workers. In line there is always one.
        ordered: Give the results in the order of the batches; else as they are finished.

    Returns:
        An iterator of what `fn` returned, one for each batch. Lazy: nothing starts before the first result is asked
        for, and at most `buffersize` batches are held. Closing it cancels what has not started. The results of the
        batches before a failing one come first, then its exception.

    Raises:
        ArgumentError: An option is out of range.
        ArgumentTypeError: `fn` is not callable, or an option has the wrong type.
        NotPicklableError: `fn` can't be sent to a process.
        LiveNodeError: A batch holds a live node, or on processes `fn` does; use `snapshot` first.
        ProcessorError: In place of an error of `fn` that can't come out of its process.
        Exception: Whatever `fn` raises, with a note that names the batch and its paths.
    """
    if not callable(fn):
        raise ArgumentTypeError(f"parallel_map: fn must be a function of a batch, got {got(fn)}")
    check_choice("parallel_map", "mode", mode, ("sync", "thread", "process"))
    for name, value in (("max_workers", max_workers), ("buffersize", buffersize)):
        if value is not None:
            check_count("parallel_map", name, value)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise ArgumentTypeError(f"parallel_map: executor must have a submit method, got {got(executor)}")
    if isinstance(executor, ProcessPoolExecutor) or (executor is None and mode == "process"):
        _pickled(fn)  # refused here, before any work; pickled again at the start, when all it needs is defined

    def run(batches: Iterable[B]) -> Iterator[R]:
        if executor is None and mode == "sync":
            return _in_line(fn, _detached_only(batches))
        workers = max_workers or _cpu_count()
        if executor is not None:
            opened = _handed_in(executor, fn)
        elif mode == "thread":
            opened = _threads(workers, fn)
        else:
            opened = _processes(workers, fn)
        return _submitted(opened, _detached_only(batches), buffersize or 2 * workers, ordered)

    return run


@overload
def each(fn: Callable[[T], R], batch: Iterable[T]) -> list[R]: ...
@overload
def each(fn: Callable[[T], R]) -> Callable[[Iterable[T]], list[R]]: ...
@stage("batch")
def each(fn: Callable[[T], R]) -> Callable[[Iterable[T]], list[R]]:
    """Lift a function of one record to a processor of a batch.

    >>> from lotproc import NodeRecord, ProcessResult, each
    >>> def double(record):
    ...     return ProcessResult(record.path, output=2 * record.attributes["seconds"])
    >>> each(double, [NodeRecord(("clip",), "clip", {"seconds": 1.5})])
    [ProcessResult(path=('clip',), output=3.0, attributes={}, relative_path=())]

    Args:
        fn: A function of one record.
        batch: Records.

    Returns:
        A list of what `fn` returned, in the order of the records. `each(fn)` pickles if `fn` does.

    Raises:
        ArgumentTypeError: `fn` is not callable.
        Exception: Whatever `fn` raises, with a note that names the record's path.
    """
    if not callable(fn):
        raise ArgumentTypeError(f"each: fn must be a function of a record, got {got(fn)}")

    def run(batch: Iterable[T]) -> list[R]:
        results = []
        for position, record in enumerate(batch):
            with _noted(f"at {_where(record)}, record {position} of its batch"):
                results.append(fn(record))
        return results

    return run


def _in_line(fn: Callable[[B], R], batches: Iterator[B]) -> Iterator[R]:
    for index, batch in enumerate(batches):
        with _noted(f"in batch {index}{_span(batch)}"):
            result = _drained(fn(batch))
        yield result


def _submitted(opened: Any, batches: Iterator[B], buffersize: int, ordered: bool) -> Iterator[Any]:
    """Keep `buffersize` batches in flight, and yield their results."""
    in_flight: dict[Future[Any], str] = {}  # in the order of the batches, each with where it comes from
    finished: SimpleQueue[Future[Any]] = SimpleQueue()
    failure: BaseException | None = None

    def submit_each(submit: Callable[[B], Future[Any]]) -> Iterator[tuple[Future[Any], str]]:
        for index, batch in enumerate(batches):
            note = f"in batch {index}{_span(batch)}"
            with _noted(note):
                future = submit(batch)
            yield future, note

    with opened as submit:
        coming = submit_each(submit)
        try:
            while True:
                while failure is None and len(in_flight) < buffersize:
                    try:
                        future, note = next(coming)
                    except StopIteration:
                        break
                    except Exception as error:  # what was submitted before it is still to be had
                        failure = error
                    else:
                        in_flight[future] = note
                        if not ordered:
                            future.add_done_callback(finished.put)
                if not in_flight:
                    break
                future = next(iter(in_flight)) if ordered else finished.get()
                try:
                    with _noted(in_flight[future]):
                        result = future.result()
                except BrokenExecutor as error:  # all that were in flight fail, whichever it was
                    add_note(error, f"lotproc: or in one of the {len(in_flight) - 1} other batches in flight")
                    raise
                del in_flight[future], future
                yield result
                del result
            if failure is not None:
                raise failure
        finally:
            for future in in_flight:
                future.cancel()


@contextmanager
def _threads(workers: int, fn: Callable[[B], R]) -> Iterator[Callable[[B], Future[Any]]]:
    executor = ThreadPoolExecutor(workers, thread_name_prefix="lotproc")
    try:
        yield lambda batch: executor.submit(_call, fn, batch)
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _processes(workers: int, fn: Callable[[B], R]) -> Iterator[Callable[[B], Future[Any]]]:
    import loky

    # One pool for each number of workers: loky's own reusable one is resized, and waits for what still runs on it.
    key = os.getpid(), workers
    pickled = _pickled(fn)
    first = True

    def submit(batch: B) -> Future[Any]:
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


@contextmanager
def _handed_in(executor: Executor, fn: Callable[[B], R]) -> Iterator[Callable[[B], Future[Any]]]:
    if isinstance(executor, ProcessPoolExecutor):
        pickled = _pickled(fn)
        yield lambda batch: executor.submit(_call_pickled, pickled, batch)
    else:
        yield lambda batch: executor.submit(_call, fn, batch)


def _call(fn: Callable[[B], R], batch: B) -> Any:
    return _drained(fn(batch))


def _call_pickled(pickled: bytes, batch: B) -> Any:
    try:
        return _drained(_unpickled(pickled)(batch))
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


def _pickled(fn: Callable[..., Any]) -> bytes:
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


def _drained(result: Any) -> Any:
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


def _detached_only(batches: Iterable[B]) -> Iterator[B]:
    for index, batch in enumerate(batches):
        if (node := _live_node(batch)) is not None:
            raise LiveNodeError(
                f"parallel_map: batch {index} holds a live node, {as_text(node_path(node))}; a ZODB connection belongs "
                f"to one thread, so turn nodes into records with snapshot(...) first"
            )
        yield batch


def _live_node(value: object, levels: int = 3) -> BaseNode | None:
    """A live node in a batch: one of its items, or one level down in an item or in what a record holds."""
    if isinstance(value, BaseNode):
        return value
    if levels == 0:
        return None
    if isinstance(value, NodeRecord):
        parts: Iterable[object] = (value.payload, *value.attributes.values())
    elif isinstance(value, (list, tuple)):
        parts = value
    elif isinstance(value, dict):
        parts = value.values()
    else:
        return None
    for part in parts:
        if type(part) not in _PLAIN and (node := _live_node(part, levels - 1)) is not None:
            return node
    return None


@contextmanager
def _noted(note: str) -> Iterator[None]:
    """Say where it happened in whatever is raised inside."""
    try:
        yield
    except Exception as error:
        add_note(error, f"lotproc: {note}")
        raise


def _span(batch: object) -> str:
    """The paths that a batch runs over, for an error."""
    if not isinstance(batch, (list, tuple)) or not batch:
        return ""
    first, last = _where(batch[0]), _where(batch[-1])
    return f", {first}" if len(batch) == 1 else f", {first} to {last}"


def _where(record: object) -> str:
    try:
        return as_text(path_of("each", record))
    except ArgumentTypeError:
        return got(record)


def _cpu_count() -> int:
    import loky

    return int(loky.cpu_count())
