"""Coroutine functions as processors: many records wait at the same time, on one event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import sys
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from threading import Thread
from time import perf_counter
from typing import Any

from .._clock import context_of_work
from .._missing import noting
from .._tracebacks import error_types
from ..errors import NotReadyError, WorkerTimeoutError, add_note
from ..models import Failure, counted
from .backends import Submit, begun_in_thread, closed_in_time
from .batches import Unit, units_of, where
from .errors import ErrorOutcome
from .packing import Initializer
from .tasks import Outcome, Task, drained, failure_of, inputs_of, spliced, tell_retry, without_failures

__all__ = ["AT_ONCE", "awaiting"]

#: Records that wait at the same time, where nothing else is said.
AT_ONCE = 32
#: Seconds that a record which took too long gets to end, once it is cancelled.
TO_END = 1.0
#: Seconds of a rate that may be caught up on, where the loop was late.
CATCH_UP = 0.05

#: Seconds that the records of a batch were awaited, all together.
_seconds: ContextVar[list[float]] = ContextVar("_seconds")


@contextmanager
def awaiting(
    most: int, task: Task, initializer: Initializer, timeout: float | None, rate: float | None
) -> Iterator[Submit]:
    """An event loop in a thread of its own; what is not done at the end is cancelled, and waited for.

    Args:
        most: Records that wait at the same time.
        task: What is done with a batch; its processor is a coroutine function.
        initializer: Called on the loop's thread before the first batch.
        timeout: Seconds that a record may take each time.
        rate: Records that are begun in a second, at most.
    """
    waiter = _Waiter(most, task, initializer, timeout, rate)
    with closed_in_time(waiter.close):
        yield waiter.submit


class _Waiter:
    def __init__(
        self, most: int, task: Task, initializer: Initializer, timeout: float | None, rate: float | None
    ) -> None:
        self._task, self._initializer, self._timeout = task, initializer, timeout
        self._lifted = task.lifted()
        self._loop: AbstractEventLoop = asyncio.new_event_loop()
        self._at_once = asyncio.Semaphore(most)
        self._rate = None if rate is None else _Rate(rate)
        self._is_ending = False
        #: What nobody waits for any more, since another record of its batch has failed.
        self._given_up: set[asyncio.Task[Any]] = set()
        self._failed: NotReadyError | None = None
        self._thread = Thread(target=self._run, name="lotproc_async", daemon=True)
        self._thread.start()

    # --- From the caller's thread ------------------------------------------------------------------------------------

    def submit(self, batch: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def start() -> None:
            if self._is_ending or not future.set_running_or_notify_cancel():
                return
            if self._failed is not None:
                future.set_exception(self._failed)
            else:
                at_work = self._loop.create_task(self._outcome(batch))
                at_work.add_done_callback(lambda done: _settle(future, done))

        # With the context variables of the caller, as they are as the batch is pulled.
        self._loop.call_soon_threadsafe(start, context=context_of_work())
        return future

    def close(self, seconds: float | None) -> None:
        """Cancel what is at work, and wait until it has ended; so many seconds at most."""
        if sys.is_finalizing():
            return  # the program has ended around a call, and its threads with it
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join(seconds)

    # --- On the loop's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        _, self._failed = begun_in_thread(self._initializer)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def _end(self) -> None:
        self._is_ending = True
        for at_work in asyncio.all_tasks(self._loop):
            at_work.cancel()
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        if asyncio.all_tasks(self._loop):
            self._loop.call_later(0.001, self._stop_if_done)
        else:
            self._loop.stop()

    async def _outcome(self, batch: Any) -> Outcome:
        """What becomes of a batch: each record by itself, or the batch as a whole where the processor takes batches."""
        seconds = [0.0]
        _seconds.set(seconds)  # for the records, whose tasks get this one's context
        with noting() as notes:
            if self._lifted is None:
                outcome = await self._of_whole(batch)
            else:
                units = units_of(batch)
                made = await self._of_each(self._lifted.call, [unit.item for unit in units], units)
                outcome = Outcome(made, any(type(item) is Failure for item in made))
            return outcome._replace(notes=tuple(notes.values()), seconds=seconds[0])

    async def _of_whole(self, batch: Any) -> Outcome:
        """What becomes of a batch as a whole; where it fails, and failures are collected, of each record alone."""
        batch, failures = without_failures(batch)
        if failures and not batch:
            return Outcome(failures)
        fn, units = self._task.fn, units_of(batch) if self._task.collects else [Unit(batch, batch)]
        in_parts = False
        if len(units) == 1:
            result = await self._of_one(partial(fn, batch), units[0])
            in_parts = type(result) is Failure
        else:
            try:
                result = await self._once(partial(fn, batch), batch)
            except error_types():
                if self._is_nobodys():
                    raise
                parts = await self._of_each(fn, [unit.batch for unit in units], units)
                result, in_parts = [item for part in parts for item in spliced(part)], True
        return Outcome([*spliced(result), *failures] if failures or in_parts else result, in_parts)

    async def _of_each(
        self, call: Callable[[Any], Awaitable[Any]], arguments: list[Any], units: list[Unit]
    ) -> list[Any]:
        """What is made of each record, at the same time as far as there is room; a `Failure` is handed on."""
        begun = {
            position: self._loop.create_task(self._of_one(partial(call, argument), units[position]))
            for position, argument in enumerate(arguments)
            if type(argument) is not Failure
        }
        made = arguments.copy()
        try:
            for position, at_work in begun.items():
                try:
                    made[position] = await at_work
                except error_types() as error:
                    add_note(error, f"lotproc: at {where(units[position].item)}, record {position} of its batch")
                    raise
            return made
        finally:
            for at_work in begun.values():
                self._give_up(at_work)

    def _give_up(self, at_work: asyncio.Task[Any]) -> None:
        """Let go of what nobody waits for any more."""
        if not at_work.done():
            self._given_up.add(at_work)
            at_work.add_done_callback(self._given_up.discard)
            at_work.cancel()
        elif not at_work.cancelled():
            at_work.exception()  # of which asyncio would tell where nobody has asked for it

    async def _of_one(self, call: Callable[[], Awaitable[Any]], unit: Unit) -> Any:
        attempts = 0
        while True:
            attempts += 1
            try:
                return await self._once(call, unit.batch)
            except error_types() as failed:
                if self._is_nobodys():
                    raise
                error = failed
            if self._task.may_retry(error, attempts - 1):
                tell_retry(unit, error)
                continue
            if self._task.collects:
                return failure_of(error, unit, attempts)
            if self._task.retries:
                add_note(error, f"lotproc: after {counted(attempts, 'attempt')}")
            raise error

    async def _once(self, call: Callable[[], Awaitable[Any]], batch: Any) -> Any:
        async with self._at_once:
            if self._rate is not None:
                await self._rate.turn()
            start = perf_counter()
            try:
                made = await self._in_time(call())
            finally:
                _seconds.get()[0] += perf_counter() - start
        return drained(made, inputs_of(batch))

    def _is_nobodys(self) -> bool:
        """Whether what is at work was cancelled here, and not by what it does."""
        return self._is_ending or asyncio.current_task() in self._given_up

    async def _in_time(self, work: Awaitable[Any]) -> Any:
        if self._timeout is None:
            return await work
        future = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait({future}, timeout=self._timeout)
            if not done:
                raise WorkerTimeoutError(f"it took longer than {self._timeout:g} s")
            return future.result()
        finally:
            if not future.done():
                future.cancel()
                await asyncio.wait({future}, timeout=TO_END)


def _settle(future: Future[Any], done: asyncio.Task[Any]) -> None:
    """Give a batch's outcome, or its error, to whoever waits for it."""
    if done.cancelled():
        future.set_exception(asyncio.CancelledError())
        return
    error = done.exception()
    if error is None:
        future.set_result(done.result())
    elif isinstance(error, error_types()):
        future.set_result(ErrorOutcome(error))
    else:
        future.set_exception(error)


class _Rate:
    """A token bucket: tokens come at a rate, each record takes one, and few are kept.

    Args:
        rate: Tokens a second.
    """

    def __init__(self, rate: float) -> None:
        self._pause = 1 / rate
        self._next = 0.0
        self._turns = asyncio.Lock()  # one after the other, so that a loop that was late gives few at once

    async def turn(self) -> None:
        """Wait for a token."""
        time = asyncio.get_running_loop().time
        async with self._turns:
            due = max(self._next, time() - CATCH_UP)
            while (now := time()) < due:
                await asyncio.sleep(due - now)
            self._next = due + self._pause
