"""Batches in flight: so many are pulled and submitted, and run again, in halves too, where a worker was lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter
from typing import Any, TypeAlias

from .._clock import OWN, WORKERS, Tally
from .._missing import Notes, tell_all
from .._tracebacks import error_types, said
from ..errors import LiveNodeError, NotPicklableError, NotReadyError, WorkerDiedError, WorkerTimeoutError, add_note
from .backends import Submit, begin
from .batches import halves, named, span, units_of, where
from .engines import cancelled, check_engine, ended
from .errors import ErrorOutcome
from .packing import Initializer, loaded
from .tasks import Outcome, Task, failure_of, spliced

__all__ = ["in_flight", "in_line"]

#: What the caller gets for a batch and its outcome.
Given: TypeAlias = Callable[[Any, Outcome], Iterable[Any]]

#: How long a result is waited for before more is pulled from the source, as a part of the time that a pull takes.
PATIENCE = 0.05
#: Workers that have to die of a batch, or of a part of one, until it is blamed: once it may have been there by chance.
DEATHS = 2
#: Seconds after which the main thread looks for signals: one that another thread took, or that came just before the
#: wait, does not wake it.
LOOK_EVERY = 1.0


def in_line(task: Task, batches: Iterator[Any], initializer: Initializer, given: Given, tally: Tally) -> Iterator[Any]:
    """One batch after the other, here."""
    begin(initializer)
    notes = Notes()
    numbered = enumerate(batches)
    with tally:
        while True:
            try:
                index, batch = tally.pull(numbered)
            except StopIteration:
                break
            tally.turn(WORKERS)
            try:
                outcome = task(batch)
            except error_types() as error:
                add_note(error, f"lotproc: in batch {index}{span(batch)}")
                raise
            tally.turn(OWN)
            notes.add_parts(outcome.notes)
            yield from tally.given(outcome.seconds, given(batch, outcome))
            del outcome
    tell_all(notes)


def in_flight(
    task: Task,
    backend: AbstractContextManager[Submit],
    batches: Iterator[Any],
    buffersize: int,
    ordered: bool,
    given: Given,
    tally: Tally,
    weigh: Callable[[Any], int] = lambda batch: 1,
    executor: Executor | None = None,
) -> Iterator[Any]:
    """Keep up to `buffersize` batches in flight, and give what comes of them: what is ready before more is pulled.

    Where batches have weights, more are pulled as long as all that are in flight weigh less than that. The executor is
    that of the backend, if it has one of somebody else's.
    """
    numbered = enumerate(batches)
    failure: Exception | None = None
    with backend as submit, tally:
        flight = Flight(task, submit, ordered, tally, executor)
        try:
            while True:
                while failure is None and flight.weight < buffersize and not flight.fails:
                    start = perf_counter()
                    try:
                        index, batch = tally.pull(numbered)
                    except StopIteration:
                        break
                    except Exception as error:  # what was submitted before it is still to be had
                        failure = error
                    else:
                        flight.add(index, batch, weigh(batch))
                        del batch
                        if flight.is_ready(PATIENCE * (perf_counter() - start)):
                            break
                if not flight:
                    break
                batch, outcome = flight.next()
                yield from tally.given(outcome.seconds, given(batch, outcome))
                del batch, outcome
            if failure is not None:
                raise failure
        finally:
            flight.cancel()
    tell_all(flight.notes)


@dataclass(eq=False)
class _Part:
    """A run of the records of a batch that is processed at once.

    Args:
        batch: These records, as a batch.
        deaths: How many workers died of it, or of what it is a part of.
        attempts: How often it failed.
        was_alone: Whether it has run while nothing else did.
        retries: How often it was tried again for `retries`.
        outcome: What became of it.
    """

    batch: Any
    deaths: int = 0
    attempts: int = 0
    was_alone: bool = False
    retries: int = 0
    outcome: Outcome | None = None


class _Entry:
    """A batch in flight, with the parts that it is run in, in order; at first there is one."""

    def __init__(self, index: int, batch: Any, weight: int) -> None:
        self.index = index
        self.batch = batch
        self.weight = weight
        self.parts = [_Part(batch)]
        self.running = 1
        self.error: BaseException | None = None
        #: What was wrong with a part of it that was halved to find the record that is to blame.
        self.blamed: BaseException | None = None
        #: Whether it could not be submitted; what was submitted before it comes first.
        self.is_refused = False

    @property
    def is_done(self) -> bool:
        return self.error is not None or not self.running

    def settle(self, part: _Part, outcome: Outcome) -> None:
        """Note what became of a part."""
        part.outcome = outcome
        self.running -= 1

    def outcome(self) -> Outcome:
        """What became of the whole batch."""
        outcomes = [part.outcome for part in self.parts if part.outcome is not None]
        if len(outcomes) == 1:
            return outcomes[0]
        items = [item for outcome in outcomes for item in spliced(outcome.result)]
        return Outcome(items, in_parts=True, seconds=sum(outcome.seconds for outcome in outcomes))


class Flight:
    """The batches in flight.

    Args:
        task: What is done with them, as far as it is done here: with what a worker is lost with.
        submit: Gives one to the backend.
        ordered: They are given in their order; else as they are finished.
        tally: Counts for how long they are waited for.
        executor: Where the backend has one of somebody else's: several batches may be on one of its workers.
    """

    def __init__(self, task: Task, submit: Submit, ordered: bool, tally: Tally, executor: Executor | None) -> None:
        self._task = task
        self._backend = submit
        self._ordered = ordered
        self._tally = tally
        self._executor: Any = executor
        self._entries: deque[_Entry] = deque()
        self._submitted: dict[Future[Any], tuple[_Entry, _Part]] = {}
        self._finished: SimpleQueue[Future[Any]] = SimpleQueue()
        #: What was noted where they were processed.
        self.notes = Notes()
        #: What the workers of an engine died of, or what was on them then, to be run when nothing else is; and what
        #: waits until then.
        self._suspects: deque[tuple[_Entry, _Part]] = deque()
        self._held_back: deque[tuple[_Entry, _Part]] = deque()
        #: What they weigh, all together.
        self.weight = 0
        #: Whether one of them is sure to end the run, and whether the executor does no more work.
        self.fails = False
        self._is_over = False

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, index: int, batch: Any, weight: int) -> None:
        """Take a batch."""
        entry = _Entry(index, batch, weight)
        self._entries.append(entry)
        self.weight += weight
        self._submit(entry, entry.parts[0])

    def next(self) -> tuple[Any, Outcome]:
        """Wait for a batch that is done, and let go of it; what it has failed with is raised."""
        while (entry := self._done()) is None:
            self._wait(LOOK_EVERY)
        self._entries.remove(entry)
        self.weight -= entry.weight
        try:
            if entry.error is not None:
                raise entry.error
        except error_types() as error:
            add_note(error, f"lotproc: in batch {entry.index}{span(entry.batch)}")
            if self._is_over:  # all that were in flight fail, whichever it was
                add_note(error, f"lotproc: or in one of the {len(self)} other batches in flight")
            raise
        return entry.batch, entry.outcome()

    def is_ready(self, seconds: float) -> bool:
        """Whether `next` has something to give, now or within so many seconds."""
        end = monotonic() + seconds
        while self._done() is None:
            if not self._wait(max(0.0, end - monotonic())):
                return False
        return True

    def cancel(self) -> None:
        """Let nothing more begin."""
        for future in self._submitted:
            cancelled(future, self._executor)

    def _done(self) -> _Entry | None:
        """The batch that is to be given next, if it is done."""
        first = self._entries[0]
        if first.is_done or self._ordered:
            return first if first.is_done else None
        return next((entry for entry in self._entries if entry.is_done and not entry.is_refused), None)

    def _wait(self, seconds: float) -> bool:
        """Wait for a part that is finished, so many seconds at most; whether one was."""
        self._tally.turn(WORKERS)
        try:
            future = self._finished.get(timeout=seconds)
        except Empty:
            return False
        finally:
            self._tally.turn(OWN)
        self._settle(future, *self._submitted.pop(future))
        self._go_on()
        return True

    def _go_on(self) -> None:
        """Run what is suspected of a death alone, one after the other, and then what was held back for that."""
        if self._submitted:
            return
        while self._suspects and not self._submitted:
            entry, part = self._suspects[0]
            if part.was_alone or entry.error is not None:
                self._suspects.popleft()
                continue
            part.was_alone = True
            try:
                check_engine(self._executor)
            except Exception as error:
                self._end(entry, error)
            else:
                self._submit(entry, part)
        if not self._suspects:
            while self._held_back:
                self._submit(*self._held_back.popleft())

    def _submit(self, entry: _Entry, part: _Part) -> None:
        if self._suspects and not part.was_alone:
            self._held_back.append((entry, part))
            return
        try:
            future = self._backend(part.batch)
        except Exception as error:
            entry.is_refused = True
            self._lost(entry, part, error, is_refused=True)
        else:
            self._submitted[future] = entry, part
            future.add_done_callback(self._finished.put)

    def _settle(self, future: Future[Any], entry: _Entry, part: _Part) -> None:
        """Do what follows from a part having been processed."""
        if entry.error is not None:
            return
        error: BaseException | None = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            try:
                outcome = loaded(future.result())
            except Exception as wrong:
                outcome = ErrorOutcome(wrong)
        if error is not None:
            self._lost(entry, part, error)
        elif isinstance(outcome, ErrorOutcome):
            if outcome.is_nobodys:
                self._fail(entry, outcome.error)
            else:
                self._failed(entry, part, outcome.error)
        else:
            self.notes.add_parts(outcome.notes)
            entry.settle(part, outcome)
            if entry.blamed and entry.is_done and not self._task.collects:
                what = f"{entry.blamed}; in parts it can be processed, so smaller batches may"
                self._fail(entry, type(entry.blamed)(f"parallel_map: the batch as a whole: {what}"))

    def _lost(self, entry: _Entry, part: _Part, error: BaseException, *, is_refused: bool = False) -> None:
        """Do what follows from the backend having failed with a part, or with all of them."""
        if isinstance(error, (LiveNodeError, NotReadyError)):
            self._fail(entry, error)
        elif isinstance(error, NotPicklableError):  # it could not be sent
            self._failed(entry, part, error)
        elif self._executor is not None:
            self._lost_there(entry, part, error, is_refused)
        elif isinstance(error, (WorkerDiedError, WorkerTimeoutError)):
            self._failed(entry, part, error, is_lost=True)
        elif isinstance(error, (BrokenExecutor, CancelledError)):
            self._fail(entry, error)
        else:
            self._failed(entry, part, error)

    def _lost_there(self, entry: _Entry, part: _Part, error: BaseException, is_refused: bool) -> None:
        """The same for somebody else's engine, whose fault it is: what a processor raises comes as an outcome."""
        if is_refused or isinstance(error, (BrokenExecutor, CancelledError)):
            self._end(entry, error)
        elif isinstance(error, Exception):
            died = WorkerDiedError(f"its worker died: {said(error)}")
            died.__cause__ = error
            if part.was_alone:
                part.deaths = DEATHS
                self._failed(entry, part, died, is_lost=True)
            else:  # it may be the fault of another that was on that worker, or nobody's
                part.attempts += 1
                self._suspects.append((entry, part))
        else:
            self._fail(entry, error)

    def _end(self, entry: _Entry, error: BaseException) -> None:
        """Fail, since the executor does no more work."""
        self._is_over = True
        self._fail(entry, ended(self._executor, error))

    def _fail(self, entry: _Entry, error: BaseException) -> None:
        entry.error = error
        self.fails = True

    def _failed(self, entry: _Entry, part: _Part, error: BaseException, *, is_lost: bool = False) -> None:
        """Run a part again, as it is or in halves; or else give it up."""
        if not isinstance(error, error_types()) or not (is_lost or self._task.collects):
            self._fail(entry, error)
            return
        units = units_of(part.batch)
        part.attempts += 1
        if is_lost and isinstance(error, WorkerDiedError):
            part.deaths += 1
            if part.deaths < DEATHS:
                self._submit(entry, part)
                return
        if self._task.may_retry(error, part.retries) and (len(units) == 1 or not self._task.collects):
            part.retries += 1
            self._submit(entry, part)
        elif len(units) > 1:
            entry.blamed = error
            parts = [_Part(half, part.deaths) for half in halves(part.batch, units)]
            index = entry.parts.index(part)
            entry.parts[index : index + 1] = parts
            entry.running += 1
            if part.was_alone:
                self._suspects.extend((entry, half) for half in parts)
            else:
                for half in parts:
                    self._submit(entry, half)
        elif self._task.collects:
            entry.settle(part, Outcome([failure_of(error, units[0], part.attempts)], in_parts=True))
        else:
            lost = type(error)(f"parallel_map: {where(units[0].item)}: {error}")
            vars(lost).update(path=named(units[0].item)[0])
            self._fail(entry, lost)
