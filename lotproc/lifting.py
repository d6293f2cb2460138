"""Functions of one record lifted to processors of a batch: what they return is a result (`each`), or is made one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CoroutineType
from typing import Any, TypeVar, overload

from ._items import path_of
from ._stage import Stage, check_function, stage
from .errors import ResultError, got
from .models import Failure, NodeRecord, ProcessResult
from .workers.tasks import Lifted, drained, is_awaited

__all__ = ["each", "name_of", "outputs"]

R = TypeVar("R")
T = TypeVar("T")


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

    What `fn` returns may be any value, as with `map`. What goes to `write` has to be a `ProcessResult`, or several of
    them in a list or from a generator; of a function that returns the plain output, `outputs` makes one.

    Args:
        fn: A function of one record; or a coroutine function, for `parallel_map(mode="async")`.
        batch: Records. A `Failure` among them, of a stage before, is passed on as it is.

    Returns:
        A list of what `fn` returned, in the order of the records. `each(fn)` pickles if `fn` does.

    Raises:
        ArgumentTypeError: `fn` is not callable.
        Exception: Whatever `fn` raises, also as a generator, with a note that names the record's path.
    """
    check_function("each", "fn", fn, "a function of a record")

    def inputs_of(record: T) -> dict[Any, str]:
        return {record.path: record.inputs} if isinstance(record, NodeRecord) and record.inputs else {}

    def made(record: T, inputs: dict[Any, str], result: R) -> R:
        if inputs or (type(result) is not ProcessResult and isinstance(result, (Iterator, list, tuple))):
            result = drained(result, inputs)
        return result

    return _lifted(fn, inputs_of, made)


@overload
def outputs(fn: Callable[[T], Any], batch: Iterable[T]) -> list[ProcessResult]: ...
@overload
def outputs(fn: Callable[[T], Any]) -> Callable[[Iterable[T]], list[ProcessResult]]: ...
@overload
def outputs(fn: Callable[[Any], Any]) -> Callable[[Iterable[Any]], list[ProcessResult]]: ...  # a lambda
@stage("batch")
def outputs(fn: Callable[[T], Any]) -> Callable[[Iterable[T]], list[ProcessResult]]:
    """Lift a function that returns a value to a processor of a batch: the value is the output of the record's result.

    >>> from lotproc import NodeRecord, outputs
    >>> def double(record):
    ...     return 2 * record.attributes["seconds"]
    >>> outputs(double, [NodeRecord(("clip",), "clip", {"seconds": 1.5})])
    [ProcessResult(path=('clip',), output=3.0, attributes={}, relative_path=())]

    A function that gives attributes beside the output, several results, or one at another path, makes its
    `ProcessResult`s itself, and is lifted by `each`.

    Args:
        fn: A function of one record, which returns any value that `write` can store, `None` included. Where it is a
            generator function, its output is the list of what it yields. Or a coroutine function, for
            `parallel_map(mode="async")`.
        batch: Records. A `Failure` among them, of a stage before, is passed on as it is.

    Returns:
        A list of `ProcessResult`s, in the order of the records. `outputs(fn)` pickles if `fn` does.

    Raises:
        ArgumentTypeError: `fn` is not callable, or something in the batch has no path.
        ResultError: `fn` returned a `ProcessResult` or a `Failure`, or several; names the record's path.
        Exception: Whatever `fn` raises, also as a generator, with a note that names the record's path.
    """
    check_function("outputs", "fn", fn, "a function of a record")

    def made(record: T, path: tuple[str, ...], value: Any) -> ProcessResult:
        value = drained(value, {})
        if isinstance(value, CoroutineType):
            value.close()
            raise ResultError(
                "outputs: what fn returned",
                path=path,
                expected="an output",
                got="a coroutine, which nobody awaits",
                hint='give outputs() the coroutine function itself, and parallel_map mode="async"',
            )
        for item in value if type(value) in (list, tuple) else (value,):
            if isinstance(item, (ProcessResult, Failure)):
                raise ResultError(
                    "outputs: what fn returned",
                    path=path,
                    expected="the output itself",
                    got=got(value),
                    hint="each(fn) takes a function that returns results",
                )
        # Of a result, which a second processor may get, what tells it from others of its path goes on.
        return ProcessResult(
            path, value, relative_path=getattr(record, "relative_path", ()), inputs=getattr(record, "inputs", None)
        )

    return _lifted(fn, partial(path_of, "outputs"), made)


def _lifted(fn: Callable[[Any], Any], look: Callable[[Any], Any], made: Callable[[Any, Any, Any], Any]) -> Lifted:
    """A function of a record, with what is made of what it returns, or of what comes where that is awaited.

    Args:
        fn: The function.
        look: What is looked at before it is called.
        made: What is made of the record, of that, and of what it returned.
    """

    def called(record: Any) -> Any:
        seen = look(record)
        return made(record, seen, fn(record))

    async def awaited(record: Any) -> Any:
        seen = look(record)
        return made(record, seen, await fn(record))

    return Lifted(awaited, waits=True) if is_awaited(fn) else Lifted(called)


def name_of(fn: Callable[..., Any]) -> str:
    """What a processor is called: as the function that it lifts, or whose arguments it has, or as those in a row.

    >>> from toolz import compose_left
    >>> name_of(each(len)), name_of(partial(pow, 2)), name_of(Lifted(len))
    ('len', 'pow', 'Lifted')
    >>> name_of(compose_left(sorted, each(str)))
    'sorted, str'
    """
    from toolz.functoolz import Compose  # here, where no worker asks

    if isinstance(fn, Stage):
        return name_of(fn.given.get("fn", fn.function))
    if isinstance(fn, partial):
        return name_of(fn.func)
    if isinstance(fn, Compose):
        return ", ".join(map(name_of, (fn.first, *fn.funcs)))
    name = getattr(fn, "__name__", None)
    return name if isinstance(name, str) else type(fn).__name__
