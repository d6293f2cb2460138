"""Executors of somebody else's: whether one still works, what is said where it does not, how it lets go of a call."""

from __future__ import annotations

import os
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any

from .._tracebacks import said
from ..errors import WorkerDiedError

__all__ = ["cancelled", "check_engine", "ended", "unlike_others"]

#: How many calls that do nothing an engine may lose in turn, until it is given up: a worker may die of another's call.
MOST_LOST = 3


def check_engine(executor: Executor) -> None:
    """Have an executor do nothing, and wait until it has; its error is raised where it can't even do that."""
    for _ in range(MOST_LOST):
        try:
            executor.submit(_nothing, unlike_others()).result()
            return
        except Exception as error:
            lost = error
    raise lost


def unlike_others() -> bytes:
    """An argument for a call that must be made: of equal ones, also of other runs, Dask makes one."""
    return os.urandom(16)


def _nothing(_: bytes) -> None:
    pass


def ended(executor: Executor, error: BaseException) -> WorkerDiedError:
    """What ends a run whose executor does no more work."""
    why = said(error) or type(error).__name__
    made = WorkerDiedError(
        f"parallel_map: the executor {type(executor).__name__} does no more work, for its workers are lost or it was "
        f"shut down: {why}",
        hint="what was committed stays; with a new executor and `pending` the next run does what is left",
    )
    made.__cause__ = error
    return made


def cancelled(future: Future[Any], executor: Executor | None) -> None:
    """Let a call not begin any more, where that can be done."""
    # A call that is cancelled on its way ends the thread of executorlib that should see to all others.
    if not type(executor).__module__.startswith("executorlib."):
        with suppress(Exception):  # parsl's can't be
            future.cancel()
