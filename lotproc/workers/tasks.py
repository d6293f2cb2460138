"""What is done with a batch where it is processed: the processor is called; where it fails, on each record alone."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

from .._fast import FAST
from .._missing import Note, noting
from .._stage import Stage
from .._tracebacks import error_types, said
from ..errors import ArgumentTypeError, ProcessorError, add_note
from ..models import Failure, NodeRecord, ProcessResult, counted, failure_at, with_inputs
from .batches import Unit, named, units_of, where

__all__ = [
    "Lifted",
    "Outcome",
    "Task",
    "drained",
    "failure_of",
    "inputs_of",
    "is_awaited",
    "spliced",
    "tell_retry",
    "without_failures",
]


class Outcome(NamedTuple):
    """What became of a batch.

    Args:
        result: What the processor made of it.
        in_parts: Whether that is a list of what it made of parts of the batch, with a `Failure` for each record that
            has no result.
        notes: What the stages in the processor noted of names of attributes.
        seconds: How long the work took where it was done, without the ways there and back.
    """

    result: Any
    in_parts: bool = False
    notes: tuple[Note, ...] = ()
    seconds: float = 0.0


class Lifted:
    """A function of one record as a processor of a batch, which loses nothing of what it made before a record fails.

    Args:
        call: The function.
        waits: Whether it is a coroutine function, for `parallel_map(mode="async")`.
    """

    def __init__(self, call: Callable[[Any], Any], *, waits: bool = False) -> None:
        self.call, self.waits = call, waits

    def __call__(self, batch: Iterable[Any]) -> list[Any]:
        return self.into([], batch)

    def into(self, results: list[Any], batch: Iterable[Any]) -> list[Any]:
        """The results with what is made of each record of a batch; a `Failure` is handed on.

        Raises:
            ArgumentTypeError: It is a coroutine function.
        """
        if self.waits:
            raise ArgumentTypeError(
                "a coroutine function is no processor here, where nobody awaits it",
                hint='parallel_map(..., mode="async") does',
            )
        for position, record in enumerate(batch):
            if type(record) is Failure:
                results.append(record)
                continue
            try:
                results.append(self.call(record))  # drained there, where it is known which record's it is
            except error_types() as error:
                add_note(error, f"lotproc: at {where(record)}, record {position} of its batch")
                raise
        return results


@dataclass(frozen=True)
class Task:
    """The processor, and what happens to what it can't process.

    Args:
        fn: The processor.
        collects: A record that fails becomes a `Failure`; else its error is raised.
        retries: How often a record that failed is tried again.
        retry_on: The errors after which it is.
        in_line: It runs in the caller's thread, where `SystemExit` is for the program and not for the record.
    """

    fn: Callable[[Any], Any]
    collects: bool = False
    retries: int = 0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    in_line: bool = False

    def __call__(self, batch: Any, pack: Callable[[Outcome], Any] = lambda outcome: outcome) -> Any:
        """Process a batch, and give its outcome as `pack` makes it, which fails where a result can't be used.

        Where failures are collected, records are what fails, and is tried again; else it is the batch as it is. Where
        each record was processed by itself already, those before the first that failed are not processed again.
        """
        kept: list[Any] = []
        start = perf_counter()
        with noting() as notes:

            def packed(result: Any, *, in_parts: bool = False) -> Any:
                return pack(Outcome(result, in_parts, tuple(notes.values()), perf_counter() - start))

            try:
                return packed(self._called(batch, kept))
            except error_types() as error:
                if not (self.collects or self.may_retry(error, 0)):
                    raise
                failed = error
            units = units_of(batch) if self.collects else [Unit(batch, batch)]
            if len(units) > 1:
                results = [self._kept(made, unit, packed) for made, unit in zip(kept, units, strict=False)]
                results += [self._alone(unit, packed) for unit in units[len(kept) :]]
            else:
                results = [self._alone(units[0], packed, failed)]
                if not isinstance(results[0], Failure):
                    return packed(results[0])
            return packed([item for result in results for item in spliced(result)], in_parts=True)

    def may_retry(self, error: BaseException, retries: int) -> bool:
        """Whether what failed with this error may be tried again, after so many retries."""
        is_cancellation = not isinstance(error, Exception)  # which counts as one
        is_meant = isinstance(error, self.retry_on) or (is_cancellation and Exception in self.retry_on)
        return retries < self.retries and is_meant

    def _called(self, batch: Any, kept: list[Any] | None = None) -> Any:
        """What the processor makes of a batch; a `Failure` in it is handed on.

        What it has made of single records, where it works on these, is in `kept` also if it fails.
        """
        if not isinstance(self.fn, Stage):  # which knows what to do with it
            records, failures = without_failures(batch)
            if failures:
                return [*(spliced(self._called(records)) if records else ()), *failures]
        try:
            if FAST and kept is not None and (lifted := self.lifted()) and type(batch) in (list, tuple):
                made = lifted.into(kept, batch)
            else:
                made = self.fn(batch)
            return drained(made, inputs_of(batch))
        except AttributeError as error:
            if error.obj is batch:
                add_note(
                    error, "lotproc: a processor gets a list of records; each(fn) makes one of a function of a record"
                )
            raise
        except StopIteration as error:  # which a generator would take for its end
            raise RuntimeError("the processor raised StopIteration") from error
        except SystemExit as error:
            if self.in_line:
                raise
            raise ProcessorError(f"SystemExit: {error}") from error

    def lifted(self) -> Lifted | None:
        """The processor, where it is a function of one record that was lifted, and nothing else."""
        return _lifted(self.fn)

    def _kept(self, made: Any, unit: Unit, packed: Callable[[Any], Any]) -> Any:
        """What one record gives, of which something was made already."""
        try:
            result = drained([made], inputs_of(unit.batch))
            packed(result)
            return result
        except error_types():
            return self._alone(unit, packed)

    def _alone(self, unit: Unit, packed: Callable[[Any], Any], error: BaseException | None = None) -> Any:
        """What one record gives, by itself; `error` is that of its first attempt, if it was made already."""
        attempts = 0 if error is None else 1
        while error is None or self.may_retry(error, attempts - 1):
            if error is not None:
                tell_retry(unit, error)
            attempts += 1
            try:
                result = self._called(unit.batch)
                packed(result)
                return result
            except error_types() as failed:
                error = failed
        if self.collects:
            return failure_of(error, unit, attempts)
        add_note(error, f"lotproc: after {counted(attempts, 'attempt')}")
        raise error


def tell_retry(unit: Unit, error: BaseException) -> None:
    """Log that something is tried again; which a program hears of what is done in it, not in a process of its own."""
    from .._log import log  # here, since most workers never do: they start without it

    log.info("%s is tried again, after %s: %s", where(unit.item), type(error).__qualname__, said(error))


def _lifted(fn: Callable[..., Any]) -> Lifted | None:
    run = fn.run if isinstance(fn, Stage) else None
    return run if isinstance(run, Lifted) else None


def is_awaited(fn: Callable[..., Any]) -> bool:
    """Whether what a function returns is to be awaited."""
    if (lifted := _lifted(fn)) is not None:
        return lifted.waits
    return any(map(inspect.iscoroutinefunction, (fn, type(fn).__call__)))


def without_failures(batch: Any) -> tuple[Any, list[Failure]]:
    """The records of a batch, as a batch, and the failures of a stage before that are among them."""
    failures = [item for item in batch if type(item) is Failure] if type(batch) in (list, tuple) else []
    return type(batch)(item for item in batch if type(item) is not Failure) if failures else batch, failures


def failure_of(error: BaseException, unit: Unit, attempts: int) -> Failure:
    """The `Failure` of one record."""
    path, item = named(unit.item)
    return failure_at(path, error, attempts=attempts, item=item)


def spliced(result: Any) -> Iterable[Any]:
    """What the result of a part of a batch adds to that of the batch."""
    return result if type(result) in (list, tuple) else [result]


def inputs_of(batch: Any) -> Mapping[Any, str]:
    """The inputs of records by their paths; of a stream all records have them, or none."""
    records = batch if type(batch) in (list, tuple) else [batch]
    if not any(type(record) is NodeRecord and record.inputs for record in records[:1]):
        return {}
    return {record.path: record.inputs for record in records if isinstance(record, NodeRecord) and record.inputs}


def drained(result: Any, inputs: Mapping[Any, str]) -> Any:
    """A result in which iterators, which can't travel, became lists, however deep they are nested.

    Where the records have inputs, by their paths, the results in it know them.
    """
    whole: list[Any] = []
    levels = [(iter((result,)), whole, False)]  # what is still to come, and the list for it, to become a tuple or not
    while levels:
        items, into, is_tuple = levels[-1]
        item = next(items, levels)
        if item is levels:
            levels.pop()
            if is_tuple:
                levels[-1][1][-1] = tuple(into)
        elif _is_taken_apart(item, inputs):
            new: list[Any] = []
            into.append(new)
            levels.append((iter(item), new, type(item) is tuple))
        elif inputs and isinstance(item, ProcessResult) and item.inputs is None:
            into.append(with_inputs(item, inputs.get(item.path)))
        else:
            into.append(item)
    return whole[0]


def _is_taken_apart(item: Any, inputs: Mapping[Any, str]) -> bool:
    """Whether something in it is to be replaced, or itself is an iterator."""
    if type(item) in (list, tuple):
        kinds = (Iterator, list, tuple, Collection, ProcessResult) if inputs else (Iterator, list, tuple)
        return any(issubclass(kind, kinds) for kind in set(map(type, item)))
    return isinstance(item, Iterator) or (bool(inputs) and _holds_results(item))


def _holds_results(item: Any) -> bool:
    """Whether it is one of the user's own collections, of results: they become lists, and no table or image does."""
    array: Any = getattr(sys.modules.get("numpy"), "ndarray", ())  # where numpy is not loaded, nothing is an array
    is_one = isinstance(item, Collection) and not isinstance(item, (str, bytes, bytearray, Mapping, array))
    return is_one and any(isinstance(part, ProcessResult) or _holds_results(part) for part in item)
