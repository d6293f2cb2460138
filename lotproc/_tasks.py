"""What is done with a batch where it is processed: the processor is called; where it fails, on each record alone."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from ._batches import Units, units_of
from .errors import NotReadyError, ProcessorError, add_note
from .models import Failure, NodeRecord, ProcessResult, counted

__all__ = ["Rescued", "Task", "failure_of", "hand_on_inputs", "spliced", "travelling"]

HERE = os.path.dirname(__file__)
#: Characters of a message that a failure keeps, and of a traceback, from its end.
MAX_TEXT = 20_000


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

        Where failures are collected, records are what fails, and is tried again; else it is the batch as it is.
        """
        try:
            return check(self._called(batch))
        except Exception as error:
            if not self.collects and not (self.retries and isinstance(error, self.retry_on)):
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

    def _called(self, batch: Any) -> Any:
        try:
            return called(self.fn, batch)
        except SystemExit as error:
            if self.in_line:
                raise
            raise ProcessorError(f"SystemExit: {error}") from error

    def _alone(self, units: Units, index: int, check: Callable[[Any], Any], error: Exception | None = None) -> Any:
        """What one record gives, by itself; `error` is that of its first attempt, if it was made already."""
        attempts = 0 if error is None else 1
        while error is None or (attempts <= self.retries and isinstance(error, self.retry_on)):
            attempts += 1
            try:
                result = self._called(units.batch(index, index + 1))
                check(result)
                return result
            except Exception as failed:
                error = failed
        if self.collects:
            return failure_of(error, units, index, attempts)
        add_note(error, f"lotproc: after {counted(attempts, 'attempt')}")
        raise error


def failure_of(error: BaseException, units: Units, index: int, attempts: int) -> Failure:
    """The `Failure` of one record."""
    path, item = units.named(index)
    text = "".join(traceback.format_exception(type(error), error, _outside(error.__traceback__)))
    return Failure(path, type(error).__qualname__, _said(error), text[-MAX_TEXT:], attempts, item)


def _outside(frames: TracebackType | None) -> TracebackType | None:
    """A traceback from the first frame on that is not lotproc's: from the processor on."""
    outside = frames
    while outside is not None and os.path.dirname(outside.tb_frame.f_code.co_filename) == HERE:
        outside = outside.tb_next
    return outside or frames


def _said(error: BaseException) -> str:
    """What an error says, even if it can't."""
    try:
        text = str(error)
    except Exception as reason:
        return f"it can't say what it is: {type(reason).__qualname__}"
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


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


def travelling(error: Exception) -> Exception:
    """The error, or one that tells of it, where it does not come out of a pickle as what it was."""
    if isinstance(error, NotReadyError):
        return error
    import cloudpickle

    try:
        if type(pickle.loads(cloudpickle.dumps(error))) is type(error):
            return error
    except Exception:  # many that take several arguments fail here
        pass
    told = ProcessorError(f"{type(error).__qualname__}: {_said(error)}")
    # The formatted traceback has the notes, but not in Python 3.10.
    notes = [] if hasattr(error, "add_note") else getattr(error, "__notes__", [])
    for note in [*notes, "".join(traceback.format_exception(error))]:
        add_note(told, note)
    return told
