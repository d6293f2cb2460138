"""Batches through a processor: in line, on threads, on processes, or on any executor."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

from ._clock import Tally
from ._stage import check_choice, check_count, check_function, check_on_error, stage
from .errors import ArgumentError, ArgumentTypeError, got
from .lifting import each, name_of
from .models import Failure, OnError, in_its_place
from .workers.backends import cpu_count, handed_in, processes, threads
from .workers.batches import detached, is_divisible
from .workers.flight import in_flight, in_line
from .workers.info import workers_of
from .workers.packing import Initializer, check_picklable
from .workers.tasks import Outcome, Task, is_awaited

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    class _Options(TypedDict, total=False):
        """Those of `parallel_map`, once for all its overloads."""

        mode: Mode
        max_workers: int | None
        executor: Executor | None
        buffersize: int | None
        ordered: bool
        on_error: OnError
        retries: int
        retry_on: RetryOn
        timeout: float | None
        initializer: Initializer
        max_tasks_per_child: int | None
        rate: float | None


__all__ = ["each", "parallel_map"]  # what older versions pickled looks for `each` here

B = TypeVar("B")
R = TypeVar("R")
Mode: TypeAlias = Literal["sync", "thread", "process", "async"]
RetryOn: TypeAlias = "type[BaseException] | tuple[type[BaseException], ...]"


@overload
def parallel_map(fn: Callable[[B], R], batches: Iterable[B], **options: Unpack[_Options]) -> Iterator[R]: ...
@overload
def parallel_map(fn: Callable[[B], R], **options: Unpack[_Options]) -> Callable[[Iterable[B]], Iterator[R]]: ...
@overload
def parallel_map(  # a lambda, whose argument has no type of its own
    fn: Callable[[Any], R], **options: Unpack[_Options]
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
    on_error: OnError = "raise",
    retries: int = 0,
    retry_on: RetryOn = Exception,
    timeout: float | None = None,
    initializer: Initializer = None,
    max_tasks_per_child: int | None = None,
    rate: float | None = None,
) -> Callable[[Iterable[B]], Iterator[Any]]:
    """Call a processor on each batch, many at a time.

    >>> from lotproc import parallel_map
    >>> list(parallel_map(sum, [[1, 2], [3, 4]], mode="thread"))
    [3, 7]

    With `on_error="collect"` a record that can't be processed costs that record alone: its batch is run again, record
    by record, and a `Failure` stands in its place; what `each` and `outputs` made of the records before it is kept.
    So a record that fails is called twice where it is the first of its batch that does, also with `retries=0`: what
    counts is what it does alone. A function of a whole batch is called again with each of its records alone. And `fn`
    must make of each record what it would make of it in any other batch. Where a batch belongs together, to
    be averaged for instance, leave it at "raise": then what is tried again is the batch as it is.

    >>> from lotproc import NodeRecord, ProcessResult, each
    >>> def per_second(record):
    ...     return ProcessResult(record.path, output=1 / record.attributes["seconds"])
    >>> seconds = {"a": 2.0, "b": 0.0, "c": 4.0}
    >>> batch = [NodeRecord((key,), key, {"seconds": s}) for key, s in seconds.items()]
    >>> batches = parallel_map(
    ...     each(per_second), [batch], mode="thread", on_error="collect"
    ... )
    >>> for result in next(batches):
    ...     print(result)
    ProcessResult(path=('a',), output=0.5, attributes={}, relative_path=())
    b: ZeroDivisionError: float division by zero
    ProcessResult(path=('c',), output=0.25, attributes={}, relative_path=())

    A worker process that dies costs the record that it died of, and no other: another takes its place, and the batch
    that it had is run again. If that kills its worker too, it is run in halves, down to the record that is to blame.

    A coroutine function, which waits for a model server or an API, is a processor for `mode="async"`, most of the time
    as `outputs(fn)` or `each(fn)`: then many records wait at once, in one thread, whatever their batches. Each fails,
    is tried again and takes too long by itself, and the others of its batch are not asked for again.

    >>> import asyncio
    >>> from lotproc import outputs
    >>> async def asked(record):
    ...     await asyncio.sleep(0.001)
    ...     return len(record.key)
    >>> batches = parallel_map(outputs(asked), [batch], mode="async")
    >>> [result.output for result in next(batches)]
    [1, 1, 1]

    `numpy.errstate` and decimal's context are for each batch what they are here as it is pulled, in every mode and on
    any executor, or what the initializer sets; in line a processor that changes them changes the caller's. On threads
    the caller's context variables are there too; to processes they can't travel. Random numbers: see `rng`.

    Args:
        fn: A function of a batch. On processes, lambdas and functions of a notebook work too; it is sent once to each
            worker. Iterators that it returns are drained where it ran, so it may be a generator function. Where
            batches are run again it is called more than once with a record.
        batches: Batches of records: lists, tuples, or iterators, which are made lists; or `partitions`. Anything else
            that can be sent where the work is done is one unit, that fails as a whole. A `Failure` of a stage before is
            handed on: by `each` and `outputs` in its place, else behind what `fn` makes of the records of its batch.
        mode: "sync": in line, one after the other; "thread": for work that waits or leaves the interpreter;
            "process": for work in Python, on worker processes. They are kept for a minute for the next call, which
            gives them its working directory, `sys.path`, environment, recursion limit and filters of warnings; the
            modules that they have loaded stay, unless a file of yours was changed. "async": for coroutine functions, on
            an event loop in a thread of its own, so also in a notebook, where one runs already.
        max_workers: Threads or processes; by default one for each CPU that this process may use. With "async": records
            that wait at once, by default 32. Numeric libraries
            start so many threads in each process that together there is one for each CPU, unless the environment says
            how many (OMP_NUM_THREADS).
        executor: Any `concurrent.futures.Executor` to use in place of `mode`: Dask, MPI, Ray, Slurm have one. Only its
            `submit` is used, and it is left running. What it gets is packed here, so that it takes functions of a
            notebook, too, and gives back what was raised; unless it is a `ThreadPoolExecutor`. Without `max_workers` it
            has to say itself how many workers it has. A batch that it loses, since a worker died for instance, is run
            again when nothing else is, then in halves, so that the record that is to blame is found beside others.
        buffersize: The most batches that are in flight: pulled, and their results not asked for yet. By default twice
            the workers; with "async" as many as have twice as many records as may wait. In line there is always one.
        ordered: Give the results in the order of the batches; else as they are finished. One that is ready comes out
            before more is pulled, and while the source is slow it is waited for, for a twentieth of the time of a pull.
        on_error: What becomes of a record that `fn` raises an error for, that kills its worker, or that takes too
            long. "raise": the error comes out; "skip": the record is left out; "collect": a `Failure` takes its place;
            a function, called here with the `Failure`: what it returns takes its place, unless that is `None`.
        retries: How often a record that failed is tried again, by itself, before it counts as failed; with "raise" a
            batch.
        retry_on: The errors after which it is tried again; a class or a tuple of classes. A worker that died is a
            `WorkerDiedError`, one that took too long a `WorkerTimeoutError`.
        timeout: With "async" the seconds that a record may take, each time that it is tried; then it is cancelled. Else
            seconds that a worker process may take for a batch, or for a part of one that is run again; then it is
            killed. Give it what a whole batch takes, and more. Getting ready does not count: the start, the
            initializer, the loading of `fn`.
        initializer: A function without arguments to call once in each worker (in line: once) before its first batch.
            With it, worker processes are not kept for the next call.
        rate: With "async": records that are begun in a second, at most, those that are tried again among them, at even
            steps (a token bucket for a twentieth of a second).
        max_tasks_per_child: How many batches a worker process gets before a fresh one takes its place, for code that
            leaks memory.

    Returns:
        An iterator of what `fn` returned, one for each batch. Lazy; nothing starts before the first result is asked
        for, and at most `buffersize` batches are held. Closing it cancels what has not started, waits for threads,
        and kills worker processes that are still at work; Ctrl-C waits for nothing. The results of the batches before
        a failing one come first, then its exception. For a batch that was run again in parts it is a list of what the
        parts gave, with lists among that taken apart.

    Raises:
        ArgumentError: An option is out of range, or does not go with the mode.
        ArgumentTypeError: `fn` is not callable, or an option has the wrong type; or `fn` is a coroutine function, and
            the mode another one than "async", or the other way round.
        NotPicklableError: `fn` or a batch can't be sent to a process.
        LiveNodeError: A batch holds a live node, or on processes `fn` does; use `snapshot` first.
        NotReadyError: The initializer fails, or the processor can't be loaded in a worker; whatever `on_error` is.
        WorkerDiedError, WorkerTimeoutError: A worker died, or took too long; names the record. Whatever `on_error` is,
            a `WorkerDiedError` without a record ends the run where the executor does no more work.
        ProcessorError: In place of an error of `fn` that can't be pickled; quotes it.
        Exception: Whatever `fn` raises, as it was raised: its type, arguments and message, with the lines that it came
            through, and a note that names the batch and its paths.
    """
    check_function("parallel_map", "fn", fn, "a function of a batch")
    check_choice("parallel_map", "mode", mode, ("sync", "thread", "process", "async"))
    counts = {"max_workers": max_workers, "buffersize": buffersize, "max_tasks_per_child": max_tasks_per_child}
    for name, value in counts.items():
        if value is not None:
            check_count("parallel_map", name, value)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise ArgumentTypeError("parallel_map: executor", "must have a submit method", got=got(executor))
    if executor is not None and hasattr(executor, "get_executor"):  # Dask's client, which has a submit, too
        hint = "client.get_executor() gives one"
        raise ArgumentTypeError("parallel_map: executor", expected="an executor", got=got(executor), hint=hint)
    if executor is not None and mode == "async":
        raise ArgumentError('parallel_map: mode="async" has an event loop of its own: leave executor= away')
    if executor is not None and max_workers is None:
        max_workers = _workers_of(executor)
    check_on_error("parallel_map", on_error)
    check_count("parallel_map", "retries", retries, minimum=0)
    where_to = mode if executor is None else "executor"
    _check_workers(where_to, timeout, initializer, max_tasks_per_child)
    _check_rate(where_to, rate)
    _check_awaited(where_to, fn)
    task = Task(fn, on_error != "raise", retries, _error_classes(retry_on), in_line=where_to == "sync")
    if where_to == "process" or (executor is not None and not isinstance(executor, ThreadPoolExecutor)):
        check_picklable(task, initializer)  # before any work; pickled again at the start, when all it needs is defined

    name = name_of(fn)

    def run(batches: Iterable[B]) -> Iterator[Any]:
        checked, given = detached(batches), partial(_given, on_error)
        if where_to == "sync":
            return in_line(task, checked, initializer, given, Tally(name, mode, 1))
        if where_to == "async":
            from .workers.awaiting import AT_ONCE, awaiting  # here, since it loads asyncio

            at_once = max_workers or AT_ONCE
            backend, tally = awaiting(at_once, task, initializer, timeout, rate), Tally(name, mode, at_once)
            if buffersize is None:
                return in_flight(task, backend, checked, 2 * at_once, ordered, given, tally, _records_in)
            return in_flight(task, backend, checked, buffersize, ordered, given, tally)
        workers = max_workers or cpu_count()
        tally = Tally(name, mode if executor is None else type(executor).__name__, workers)
        if executor is not None:
            backend = handed_in(executor, task)
        elif mode == "thread":
            backend = threads(workers, task, initializer)
        else:
            backend = processes(workers, task, initializer, timeout, max_tasks_per_child)
        most = buffersize or 2 * workers
        return in_flight(task, backend, checked, most, ordered, given, tally, executor=executor)

    return run


def _workers_of(executor: Executor) -> int:
    workers = workers_of(executor)
    if workers is None:
        raise ArgumentError(
            f"parallel_map: how many workers {got(executor)} has is not known", hint="say it with max_workers"
        )
    return workers


def _check_workers(where_to: str, timeout: object, initializer: object, max_tasks_per_child: object) -> None:
    """Refuse what the workers can't do."""
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise ArgumentTypeError("parallel_map: timeout", expected="a number of seconds", got=got(timeout))
        if not timeout > 0:
            raise ArgumentError("parallel_map: timeout", expected="more than 0 seconds", got=str(timeout))
    if initializer is not None:
        check_function("parallel_map", "initializer", initializer, "a function without arguments")
        if where_to == "executor":
            why = "does not go with an executor, which has its own workers"
            raise ArgumentError("parallel_map: initializer", why, hint="give it to the executor")
    given = "an executor" if where_to == "executor" else f"mode={where_to!r}"
    for name, value, why in (
        ("timeout", timeout, "only a process can be stopped from outside"),
        ("max_tasks_per_child", max_tasks_per_child, "only worker processes are replaced"),
    ):
        is_possible = where_to == "process" or (where_to == "async" and name == "timeout")
        if value is not None and not is_possible:
            modes = '"process" or "async"' if name == "timeout" else '"process"'
            raise ArgumentError(f"parallel_map: {name}={value} needs mode={modes}, not {given}: {why}")


def _check_rate(where_to: str, rate: object) -> None:
    if rate is None:
        return
    if isinstance(rate, bool) or not isinstance(rate, (int, float)):
        raise ArgumentTypeError("parallel_map: rate", expected="a number of records a second", got=got(rate))
    if not 0 < rate < math.inf:
        raise ArgumentError("parallel_map: rate", expected="more than 0 records a second, and finite", got=str(rate))
    if where_to != "async":
        raise ArgumentError('parallel_map: rate needs mode="async"', hint="it is for processors that wait")


def _check_awaited(where_to: str, fn: Callable[..., Any]) -> None:
    """Refuse a coroutine function where nobody would await it, and any other function where it would be awaited."""
    if inspect.isasyncgenfunction(fn):
        raise ArgumentTypeError("parallel_map: fn", expected="a function, or a coroutine function", got=got(fn))
    if is_awaited(fn) and where_to != "async":
        what = f"is a coroutine function, which nobody would await: {got(fn)}"
        hint = 'mode="async" calls it' + (", without an executor" if where_to == "executor" else "")
        raise ArgumentTypeError("parallel_map: fn", what, hint=hint)
    if where_to == "async" and not is_awaited(fn):
        raise ArgumentTypeError(
            "parallel_map: fn",
            expected='a coroutine function for mode="async", or each() or outputs() of one',
            got=got(fn),
            hint='write it with `async def`, or take mode="thread"',
        )


def _records_in(batch: Any) -> int:
    return max(1, len(batch)) if type(batch) in (list, tuple) else 1


def _error_classes(retry_on: object) -> tuple[type[BaseException], ...]:
    classes = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    for kind in classes:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            expected = "a class of errors or a tuple of such classes"
            raise ArgumentTypeError("parallel_map: retry_on", expected=expected, got=got(kind))
    return classes


def _given(on_error: OnError, batch: object, outcome: Outcome) -> Iterator[Any]:
    """What a batch gives: one item, or none where it is no batch of records and was left out."""
    if not outcome.in_parts:
        yield outcome.result
        return
    # What failed before, in another stage, stays as it is.
    before = [item for item in batch if type(item) is Failure] if isinstance(batch, (list, tuple)) else []
    results = []
    for item in outcome.result:
        if type(item) is Failure and item not in before:
            item = in_its_place(on_error, item)
            if item is None:  # left out, unlike a `None` that the processor gave
                continue
        results.append(item)
    if is_divisible(batch):
        yield results
    else:
        yield from results
