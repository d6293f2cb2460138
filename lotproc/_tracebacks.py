"""Errors in words: what counts as one of a processor, what it says, and where it happened in the user's code."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType

__all__ = ["MAX_TEXT", "error_types", "formatted", "said", "users_frames"]

#: The folder of lotproc, with all that is in it.
HERE = os.path.join(os.path.dirname(__file__), "")
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


def users_frames(frames: TracebackType | None) -> TracebackType | None:
    """A traceback from the first frame on that is not lotproc's: from the processor on."""
    outside = frames
    while outside is not None and outside.tb_frame.f_code.co_filename.startswith(HERE):
        outside = outside.tb_next
    return outside or frames
