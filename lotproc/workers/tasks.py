"""What is done with a batch where it is processed: the processor is called; where it fails, on each record alone."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._missing import Note, Notes, noting
from .._nodes import by_value, dumps_detached
from .._raised import error_types
from .._stage import Stage
from ..errors import ProcessorError, add_note
from ..models import Failure, NodeRecord, ProcessResult, counted, failure_at
from .batches import Units, units_of

__all__ = ["Noted", "Rescued", "Task", "drained", "failure_of", "hand_on_inputs", "spliced", "unnoted"]


class Noted(NamedTuple):
    """A result, and what was noted while it was made."""

    result: Any
    notes: list[Note]


def unnoted(outcome: Any, notes: Notes) -> Any:
    """A result without what was noted, which goes to other notes."""
    if type(outcome) is not Noted:
        return outcome
    notes.add_parts(outcome.notes)
    return outcome.result


class Rescued(list[Any]):
    """What became of a batch that failed: its results, and a `Failure` for each record that has none."""


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

    def __call__(self, batch: Any, check: Callable[[Any], Any] = lambda result: result) -> Any:
        """Process a batch; `check` is called with each result, and fails where it can't be used.

        Where failures are collected, records are what fails, and is tried again; else it is the batch as it is. What
        the stages in it note of names of attributes comes with the result.
        """
        with noting() as notes:
            return self._processed(
                batch, lambda result: check(Noted(result, list(notes.values())) if notes else result)
            )

    def __reduce__(self) -> tuple[Any, ...]:  # for executors of others, which pickle in their own ways
        packed = dumps_detached(self.fn, pickler=by_value())
        return _loaded, (packed, self.collects, self.retries, self.retry_on, self.in_line)

    def _processed(self, batch: Any, check: Callable[[Any], Any]) -> Any:
        try:
            return check(self._called(batch))
        except error_types() as error:
            if not self.collects and not (self.retries and self.tries_again(error)):
                raise
            failed = error
        units = units_of(batch) if self.collects else Units(batch)
        if len(units) == 1:
            alone = self._alone(units, 0, check, failed)
            return check(Rescued([alone]) if isinstance(alone, Failure) else alone)
        results = Rescued()
        for index in range(len(units)):
            results += spliced(self._alone(units, index, check))
        return check(results)

    def tries_again(self, error: BaseException) -> bool:
        """Whether a record that failed with this error may be tried again."""
        is_cancellation = not isinstance(error, Exception)  # which counts as one
        return isinstance(error, self.retry_on) or (is_cancellation and Exception in self.retry_on)

    def _called(self, batch: Any) -> Any:
        """What the processor makes of a batch; a `Failure` in it is handed on."""
        if type(batch) in (list, tuple) and not isinstance(self.fn, Stage):  # which knows what to do with it
            failures = [item for item in batch if type(item) is Failure]
            if failures:
                records = type(batch)(item for item in batch if type(item) is not Failure)
                return [*(spliced(self._called(records)) if records else ()), *failures]
        try:
            return called(self.fn, batch)
        except SystemExit as error:
            if self.in_line:
                raise
            raise ProcessorError(f"SystemExit: {error}") from error

    def _alone(self, units: Units, index: int, check: Callable[[Any], Any], error: BaseException | None = None) -> Any:
        """What one record gives, by itself; `error` is that of its first attempt, if it was made already."""
        attempts = 0 if error is None else 1
        while error is None or (attempts <= self.retries and self.tries_again(error)):
            attempts += 1
            try:
                result = self._called(units.batch(index, index + 1))
                check(result)
                return result
            except error_types() as failed:
                error = failed
        if self.collects:
            return failure_of(error, units, index, attempts)
        add_note(error, f"lotproc: after {counted(attempts, 'attempt')}")
        raise error


def _loaded(packed: bytes, *options: Any) -> Task:
    return Task(pickle.loads(packed), *options)


def failure_of(error: BaseException, units: Units, index: int, attempts: int) -> Failure:
    """The `Failure` of one record."""
    path, item = units.named(index)
    return failure_at(path, error, attempts=attempts, item=item)


def spliced(result: Any) -> Iterable[Any]:
    """What the results of parts of a batch add to those of the batch."""
    return result if type(result) in (list, tuple, Rescued) else [result]


def called(fn: Callable[[Any], Any], batch: Any) -> Any:
    """What a processor makes of a batch, drained; its results know the inputs of their records."""
    try:
        results = drained(fn(batch))
    except AttributeError as error:
        if error.obj is batch:
            add_note(error, "lotproc: a processor gets a list of records; each(fn) makes one of a function of a record")
        raise
    except StopIteration as error:  # which a generator would take for its end
        raise RuntimeError("the processor raised StopIteration") from error
    records = batch if type(batch) in (list, tuple) else [batch]
    if any(type(record) is NodeRecord and record.inputs for record in records[:1]):
        hand_on_inputs(records, results)
    return results


def hand_on_inputs(records: Iterable[Any], results: Any) -> None:
    """Give results the inputs of their records, if these have any."""
    inputs = {record.path: record.inputs for record in records if isinstance(record, NodeRecord) and record.inputs}
    waiting = [results] if inputs else []
    while waiting:
        item = waiting.pop()
        if isinstance(item, ProcessResult):
            if item.inputs is None:
                item.__dict__["inputs"] = inputs.get(item.path)
        elif isinstance(item, Collection) and not isinstance(item, (str, bytes, bytearray, Mapping, np.ndarray)):
            waiting += item


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
