"""Where the time of a run goes: what `parallel_map` spends on waiting is told to the `write` that pulls from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter

__all__ = ["Clock", "ticking", "waiting"]


@dataclass(eq=False)
class Clock:
    """Seconds that were counted."""

    seconds: float = 0.0


_waiting: ContextVar[Clock | None] = ContextVar("_waiting", default=None)


@contextmanager
def ticking() -> Iterator[Clock]:
    """A clock that counts what everything that is called inside spends on `waiting`."""
    clock = Clock()
    token = _waiting.set(clock)
    try:
        yield clock
    finally:
        _waiting.reset(token)


@contextmanager
def waiting() -> Iterator[None]:
    """What is done inside is waiting for workers, or the work itself where it is done in line."""
    clock, start = _waiting.get(), perf_counter()
    try:
        yield
    finally:
        if clock is not None:
            clock.seconds += perf_counter() - start
