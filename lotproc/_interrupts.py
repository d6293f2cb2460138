"""Signals: what they must not cut in two, and whether something comes of Ctrl-C."""

from __future__ import annotations

import signal
import threading

# That of `signal` looks up an enum, which for all signals would take 50 µs of each commit.
from _signal import getsignal  # type: ignore[import-not-found]
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["is_interrupt", "uninterrupted"]

_SIGNALS = sorted(signal.valid_signals())


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals that Python code handles, Ctrl-C among them, wait until what is done inside is done, a commit say.

    Their handlers are called then, in the order in which the signals came and with the frames where they came. What
    the system handles, the end of the program by SIGKILL or by a SIGTERM without handler, does not wait; and in other
    threads than the main one nothing has to, since handlers don't run there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, Any]] = []

    def hold(number: int, frame: Any) -> None:
        came.append((number, frame))

    handlers: dict[int, Any] = {}
    try:
        for number in _SIGNALS:
            handler = getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, hold)
        yield
    finally:
        try:
            _give_back(handlers, hold)
        finally:
            with ExitStack() as calls:  # which calls all of them, if some raise
                for number, frame in reversed(came):
                    calls.callback(handlers[number], number, frame)


def _give_back(handlers: dict[int, Any], hold: Any) -> None:
    """Set the handlers again, but where somebody has set another one meanwhile."""
    try:
        for number, handler in handlers.items():
            if getsignal(number) is hold:
                signal.signal(number, handler)
    except BaseException:  # of a handler that is back already
        _give_back(handlers, hold)
        raise


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an error comes of Ctrl-C, maybe by way of a generator that was closed for it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
