"""Batches through a processor: in line, on threads, on processes, or on any executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from queue import SimpleQueue
from typing import Any, Literal, TypeAlias, TypeVar, overload

from lotdb import BaseNode

from ._nodes import node_path, path_of
from ._stage import check_choice, check_count, stage
from ._workers import Submit, called, cpu_count, handed_in, pickled_processor, processes, threads
from .errors import ArgumentTypeError, LiveNodeError, add_note, as_text, got
from .models import NodeRecord, Partition, ProcessResult

__all__ = ["each", "parallel_map"]

B = TypeVar("B")
R = TypeVar("R")
T = TypeVar("T")
Mode: TypeAlias = Literal["sync", "thread", "process"]

#: Types that are no nodes and hold none.
_PLAIN = {type(None), bool, int, float, str, bytes}


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
@overload
def parallel_map(  # a lambda, whose argument has no type of its own
    fn: Callable[[Any], R],
    *,
    mode: Mode = "process",
    max_workers: int | None = None,
    executor: Executor | None = None,
    buffersize: int | None = None,
    ordered: bool = True,
) -> Callable[[Iterable[Any]], Iterator[R]]: ...
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
        fn: A function of a batch. On processes, lambdas and functions of a notebook work too; it is sent along with
            every batch, so what is large is best loaded inside it. Iterators that it returns are drained where it
            ran, so it may be a generator function.
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
        An iterator of what `fn` returned, one for each batch. Lazy; nothing starts before the first result is asked
        for, and at most `buffersize` batches are held. Closing it cancels what has not started. The results of the
        batches before a failing one come first, then its exception.

    Raises:
        ArgumentError: An option is out of range.
        ArgumentTypeError: `fn` is not callable, or an option has the wrong type.
        NotPicklableError: `fn` or a batch can't be sent to a process.
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
        pickled_processor(fn)  # refused here, before any work; pickled again at the start, when all it needs is defined

    def run(batches: Iterable[B]) -> Iterator[R]:
        if executor is None and mode == "sync":
            return _in_line(fn, _detached_only(batches))
        workers = max_workers or cpu_count()
        if executor is not None:
            opened = handed_in(executor, fn)
        elif mode == "thread":
            opened = threads(workers, fn)
        else:
            opened = processes(workers, fn)
        return _submitted(opened, _detached_only(batches), buffersize or 2 * workers, ordered)

    return run


@overload
def each(fn: Callable[[T], R], batch: Iterable[T]) -> list[R]: ...
@overload
def each(fn: Callable[[T], R]) -> Callable[[Iterable[T]], list[R]]: ...
@overload
def each(fn: Callable[[Any], R]) -> Callable[[Iterable[Any]], list[R]]: ...  # a lambda
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
            result = called(fn, batch)
        yield result


def _submitted(
    opened: AbstractContextManager[Submit], batches: Iterator[B], buffersize: int, ordered: bool
) -> Iterator[Any]:
    """Keep `buffersize` batches in flight, and yield their results."""
    in_flight: dict[Future[Any], str] = {}  # in the order of the batches, each with where it comes from
    finished: SimpleQueue[Future[Any]] = SimpleQueue()
    failure: BaseException | None = None

    def submit_each(submit: Submit) -> Iterator[tuple[Future[Any], str]]:
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


def _detached_only(batches: Iterable[B]) -> Iterator[B]:
    for index, batch in enumerate(batches):
        if (node := _live_node(batch)) is not None:
            raise LiveNodeError(
                f"parallel_map: batch {index} holds a live node, {as_text(node_path(node))}; a ZODB connection belongs "
                f"to one thread, so turn nodes into records with snapshot(...) first"
            )
        yield batch


def _live_node(value: object, levels: int = 3) -> BaseNode | None:
    """A live node in a batch: one of its items, or one level down in an item or in what a record or a result holds."""
    if isinstance(value, BaseNode):
        return value
    if levels == 0:
        return None
    if isinstance(value, NodeRecord):
        parts: Iterable[object] = (value.payload, *value.attributes.values())
    elif isinstance(value, ProcessResult):
        parts = (value.output, *value.attributes.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
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
    if isinstance(batch, Partition):
        return f", {batch}"
    if not isinstance(batch, (list, tuple)) or not batch:
        return ""
    first, last = _where(batch[0]), _where(batch[-1])
    return f", {first}" if len(batch) == 1 else f", {first} to {last}"


def _where(record: object) -> str:
    try:
        return as_text(path_of("each", record))
    except ArgumentTypeError:
        return got(record)
