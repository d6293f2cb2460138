"""Where the time of a run goes: each `parallel_map` counts its own, and the `write` that pulls from it has them all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextvars import Context, ContextVar, Token, copy_context
from time import perf_counter
from typing import TypeVar

from .models import MapReport

__all__ = ["OWN", "WORKERS", "Clock", "Tally", "context_of_work"]

T = TypeVar("T")

#: What the time of a map goes into: what it does itself, waiting for its input, for its workers (or the work itself,
#: in line) and for who takes its results. What comes behind its end is not its time.
OWN, INPUT, WORKERS, CONSUMER, ENDED = range(5)


class Clock:
    """Has the tallies of the maps that are pulled from inside of it, but not of those in what a map does in line."""

    def __init__(self) -> None:
        self._tallies: list[Tally] = []
        self._token: Token[Clock | None] | None = None

    def __enter__(self) -> Clock:
        self._token = _clock.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _clock.reset(self._token)

    def take(self, tally: Tally) -> None:
        """Have one more: before that of the map which pulls from it.

        One of the same name, mode and workers that has ended is gone on with, so that a million maps in turn are one.
        """
        if any(other.is_working for other in self._tallies):
            return
        for position, other in enumerate(self._tallies):
            if other.has_ended and other.map == tally.map:
                tally.go_on_from(other)
                self._tallies[position] = tally
                return
        pulling = (position for position, other in enumerate(self._tallies) if other.is_pulling)
        self._tallies.insert(next(pulling, len(self._tallies)), tally)

    def maps(self) -> tuple[MapReport, ...]:
        """What they have counted by now, in the order of the pipeline."""
        return tuple(tally.report() for tally in self._tallies)


_clock: ContextVar[Clock | None] = ContextVar("_clock", default=None)


def context_of_work() -> Context:
    """A copy of the caller's context for work on another thread; what maps do in there is none of the caller's."""
    context = copy_context()
    context.run(_clock.set, None)
    return context


class Tally:
    """Counts what one map does, from its first pull on, for as long as it is open.

    Args:
        name: What its function is called.
        mode: Where it runs.
        workers: How many it has.
    """

    def __init__(self, name: str, mode: str, workers: int) -> None:
        self.map = name, mode, workers
        self._batches, self._working, self._spent = 0, 0.0, [0.0] * 5
        self._phase, self._since = ENDED, 0.0
        self._clock: Clock | None = None

    @property
    def has_ended(self) -> bool:
        return self._phase == ENDED

    @property
    def is_working(self) -> bool:
        return self._phase == WORKERS

    @property
    def is_pulling(self) -> bool:
        return self._phase == INPUT

    def __enter__(self) -> Tally:
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.turn(ENDED)
        self._clock = None  # which has this one, until it is gone

    def _begin(self) -> None:
        """Count from 0, for the clock that listens now, if one does."""
        self._batches, self._working, self._spent = 0, 0.0, [0.0] * 5
        self._clock = _clock.get()
        if self._clock is not None:
            self._clock.take(self)
        self._phase, self._since = OWN, perf_counter()

    def go_on_from(self, other: Tally) -> None:
        """Count from what another has."""
        self._batches, self._working, self._spent = other._batches, other._working, other._spent

    def turn(self, phase: int) -> None:
        """From now on the time goes into this."""
        now = perf_counter()
        self._spent[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def pull(self, items: Iterator[T]) -> T:
        """The next of the items that are waited for; `StopIteration` where there is none."""
        self.turn(INPUT)
        try:
            return next(items)
        finally:
            self.turn(OWN)

    def given(self, seconds: float, results: Iterable[T]) -> Iterator[T]:
        """The results of a batch, on which workers have worked for so many seconds."""
        self._batches += 1
        self._working += seconds
        for result in results:
            self.turn(CONSUMER)
            yield result
            if _clock.get() is self._clock:
                self.turn(OWN)
            else:  # it was begun before the `write` that has just taken over, or goes on behind one
                self._begin()

    def report(self) -> MapReport:
        """What was counted by now."""
        self.turn(self._phase)
        _, for_input, for_workers, for_consumer, _ = self._spent
        seconds = sum(self._spent[:ENDED])
        return MapReport(*self.map, self._batches, seconds, self._working, for_input, for_workers, for_consumer)
