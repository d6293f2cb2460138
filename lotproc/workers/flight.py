"""Batches in flight: what was submitted and not asked for yet, and what is run again because a worker was lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from .._clock import waiting
from .._missing import Notes
from .._raised import Raised, error_types
from ..errors import LiveNodeError, WorkerDiedError, add_note, as_text
from .backends import Place
from .batches import Units, span, units_of
from .pool import CallOver, Lost
from .tasks import Rescued, Task, failure_of, spliced, unnoted

__all__ = ["Flight", "noted"]

#: Workers that have to die of a batch, or of a part of one, until it is blamed: once it may have been there by chance.
DEATHS = 2
#: Seconds after which the main thread looks for signals: one that another thread took, or that came just before the
#: wait, does not wake it.
LOOK_EVERY = 1.0


class _Part:
    """A run of the records of a batch that is processed at once.

    Args:
        batch: These records, as a batch.
        deaths: How many workers died of it, or of what it is a part of.
    """

    def __init__(self, batch: Any, deaths: int = 0) -> None:
        self.batch = batch
        self.deaths = deaths
        self.attempts = 0
        self.retries = 0
        self.outcome: Any = None


class _Slot:
    """A batch in flight, with the parts that it is run in, in order; at first there is one."""

    def __init__(self, index: int, batch: Any) -> None:
        self.index = index
        self.batch = batch
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

    def outcome(self) -> Any:
        """What the task made of the batch."""
        if self.error is not None:
            with noted(lambda: f"in batch {self.index}{span(self.batch)}"):
                raise self.error
        if len(self.parts) == 1:
            return self.parts[0].outcome
        return Rescued(result for part in self.parts for result in spliced(part.outcome))

    def halve(self, part: _Part, units: Units) -> list[_Part]:
        """Put two halves in the place of a part."""
        middle = len(units) // 2
        halves = [_Part(units.batch(*span), part.deaths) for span in ((0, middle), (middle, len(units)))]
        index = self.parts.index(part)
        self.parts[index : index + 1] = halves
        self.running += 1
        return halves


def _of_none(error: BaseException) -> BaseException:
    """The error where a batch can't be processed, and its records can."""
    return type(error)(
        f"parallel_map: the batch as a whole: {error}; in parts it can be processed, so smaller batches may"
    )


class Flight:
    """The batches in flight.

    Args:
        task: What is done with them, as far as it is done here: with what a worker is lost with.
        place: Where they are processed.
        ordered: They are given in their order; else as they are finished.
    """

    def __init__(self, task: Task, place: Place, ordered: bool) -> None:
        self._task = task
        self._place = place
        self._ordered = ordered
        self._slots: deque[_Slot] = deque()
        self._submitted: dict[Future[Any], tuple[_Slot, _Part]] = {}
        self._finished: SimpleQueue[Future[Any]] = SimpleQueue()
        #: What was noted where they were processed.
        self.notes = Notes()
        #: Whether one of them is sure to end the run.
        self.fails = False

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, index: int, batch: Any) -> None:
        """Take a batch."""
        slot = _Slot(index, batch)
        self._slots.append(slot)
        self._submit(slot, slot.parts[0])

    def next(self) -> _Slot:
        """Wait for a batch that is done, and let go of it."""
        while (slot := self._done()) is None:
            self._wait(LOOK_EVERY)
        self._slots.remove(slot)
        return slot

    def is_ready(self, seconds: float) -> bool:
        """Whether `next` has something to give, now or within so many seconds."""
        end = monotonic() + seconds
        while self._done() is None:
            if not self._wait(max(0.0, end - monotonic())):
                return False
        return True

    def _wait(self, seconds: float) -> bool:
        """Wait for a part that is finished, so many seconds at most; whether one was."""
        try:
            with waiting():
                future = self._finished.get(timeout=seconds)
        except Empty:
            return False
        self._settle(future, *self._submitted.pop(future))
        return True

    def _done(self) -> _Slot | None:
        """The batch that is to be given next, if it is done."""
        for slot in self._slots:
            is_first = slot is self._slots[0]
            if slot.is_done and (is_first or not (self._ordered or slot.is_refused)):
                return slot
        return None

    def cancel(self) -> None:
        """Let nothing more begin."""
        for future in self._submitted:
            future.cancel()

    def _submit(self, slot: _Slot, part: _Part) -> None:
        try:
            future = self._place.submit(part.batch)
        except Exception as error:
            slot.is_refused = True
            if isinstance(error, (LiveNodeError, BrokenExecutor)):
                self._fail(slot, error)
            else:
                self._failed(slot, part, error)
        else:
            self._submitted[future] = slot, part
            future.add_done_callback(self._finished.put)

    def _settle(self, future: Future[Any], slot: _Slot, part: _Part) -> None:
        """Do what follows from a part having been processed."""
        if slot.error is not None:
            return
        try:
            outcome = future.result()
            if isinstance(outcome, Raised):
                self._failed(slot, part, outcome.error)
                return
            if not isinstance(outcome, Lost):
                part.outcome = unnoted(self._place.load(outcome), self.notes)
                slot.running -= 1
                if slot.blamed and not slot.running and not self._task.collects:
                    self._fail(slot, _of_none(slot.blamed))
                return
        except (BrokenExecutor, CancelledError, CallOver) as error:
            self._fail(slot, error)
        except Exception as error:
            self._failed(slot, part, error)
        except BaseException as error:
            self._fail(slot, error)
        else:
            if outcome.is_fatal:
                self._fail(slot, outcome.error)
            else:
                self._failed(slot, part, outcome.error, is_lost=True)

    def _fail(self, slot: _Slot, error: BaseException) -> None:
        slot.error = error
        self.fails = True

    def _failed(self, slot: _Slot, part: _Part, error: BaseException, *, is_lost: bool = False) -> None:
        """Run a part again, as it is or in halves; or else give it up."""
        if not isinstance(error, error_types()) or not (is_lost or self._task.collects):
            self._fail(slot, error)
            return
        units = units_of(part.batch)
        part.attempts += 1
        if is_lost and isinstance(error, WorkerDiedError):
            part.deaths += 1
            if part.deaths < DEATHS:
                self._submit(slot, part)
                return
        may_try_again = part.retries < self._task.retries and self._task.tries_again(error)
        if may_try_again and (len(units) == 1 or not self._task.collects):
            part.retries += 1
            self._submit(slot, part)
        elif len(units) > 1:
            slot.blamed = error
            for half in slot.halve(part, units):
                self._submit(slot, half)
        elif self._task.collects:
            part.outcome = Rescued([failure_of(error, units, 0, part.attempts)])
            slot.running -= 1
        else:
            path, what = units.named(0)
            self._fail(slot, type(error)(f"parallel_map: {what if path is None else as_text(path)}: {error}"))


@contextmanager
def noted(note: Callable[[], str]) -> Iterator[None]:
    """Say where it happened in whatever is raised inside."""
    try:
        yield
    except error_types() as error:
        add_note(error, f"lotproc: {note()}")
        raise
