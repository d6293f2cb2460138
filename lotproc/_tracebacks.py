"""Errors in words: what counts as one of a processor, what it says, and where it happened in the user's code."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType

__all__ = ["MAX_TEXT", "cut_short", "error_types", "formatted", "said", "users_frames"]

#: The folder of lotproc, with all that is in it.
HERE = os.path.join(os.path.dirname(__file__), "")
#: Whether tracebacks have all frames, for those who look for a fault in lotproc itself.
ALL_FRAMES = bool(os.environ.get("LOTPROC_ALL_FRAMES"))
#: Characters of a message that is quoted.
MAX_TEXT = 20_000


def error_types() -> tuple[type[BaseException], ...]:
    """The classes of what counts as an error of a processor: exceptions, and asyncio's cancellation, which is none."""
    asyncio = sys.modules.get("asyncio.exceptions")  # not imported here: who has not, can't raise it
    return (Exception,) if asyncio is None else (Exception, asyncio.CancelledError)


def said(error: BaseException) -> str:
    """What an error says, even if it can't."""
    try:
        text = str(error)
    except Exception as reason:
        return f"it can't say what it is: {type(reason).__qualname__}"
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def formatted(error: BaseException) -> str:
    """The traceback of an error, from the processor on."""
    return "".join(traceback.format_exception(type(error), error, users_frames(error.__traceback__)))


def cut_short(error: BaseException) -> None:
    """Leave out what lotproc does between the lines of the user's code; of its own errors the last line stays."""
    if ALL_FRAMES:
        return
    kept: TracebackType | None = None
    frames = []
    step = error.__traceback__
    while step is not None:
        frames.append(step)
        step = step.tb_next
    for frame in reversed(frames):
        if kept is None or not frame.tb_frame.f_code.co_filename.startswith(HERE):
            kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    error.__traceback__ = kept


def users_frames(frames: TracebackType | None) -> TracebackType | None:
    """A traceback from the first frame on that is not lotproc's: from the processor on."""
    outside = frames
    while outside is not None and outside.tb_frame.f_code.co_filename.startswith(HERE):
        outside = outside.tb_next
    return outside or frames
