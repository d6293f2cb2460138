"""Where the time of a run goes: what `parallel_map` spends on waiting is told to the `write` that pulls from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter

__all__ = ["Clock", "ticking", "waiting"]


class Clock:
    """Counts seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Count those that pass inside."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds += perf_counter() - start


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
    clock = _waiting.get()
    if clock is None:
        yield
    else:
        with clock():
            yield
