"""Coroutine functions as processors: many records wait at once, and each fails, is tried again and ends by itself."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, strategies as st

import lotproc as lp


def record(number: int) -> lp.NodeRecord:
    return lp.NodeRecord((f"clip_{number:04}",), f"clip_{number:04}", {"n": number})


def batches_of(sizes: list[int]) -> list[list[lp.NodeRecord]]:
    numbers = iter(range(10**6))
    return [[record(next(numbers)) for _ in range(size)] for size in sizes]


class Server:
    """Answers a number with its double, after as many turns of the loop as it is told.

    Args:
        turns: How many, by number.
        fails: How often it fails before it answers, by number.
    """

    def __init__(self, turns: list[int], fails: dict[int, int] | None = None) -> None:
        self.turns, self.fails = turns, fails or {}
        self.calls: Counter[int] = Counter()
        self.waiting = self.most = 0

    async def __call__(self, record: lp.NodeRecord) -> int:
        n: int = record.attributes["n"]
        self.calls[n] += 1
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            for _ in range(self.turns[n % len(self.turns)] if self.turns else 0):
                await asyncio.sleep(0)
            if self.calls[n] <= self.fails.get(n, 0):
                raise KeyError(n)
            return 2 * n
        finally:
            self.waiting -= 1


def in_line(server: Server, retries: int) -> Callable[[lp.NodeRecord], int]:
    """The same as a plain function, for the oracle."""
    calls: Counter[int] = Counter()

    def answer(record: lp.NodeRecord) -> int:
        n: int = record.attributes["n"]
        calls[n] += 1
        if calls[n] <= server.fails.get(n, 0):
            raise KeyError(n)
        return 2 * n

    return answer


def outcomes(results: Iterable[Any]) -> tuple[list[Any], str]:
    """What is given before an error, and the error."""
    given: list[Any] = []
    try:
        for batch in results:
            given.append([_plain(item) for item in batch])
    except Exception as error:
        return given, f"{type(error).__name__}: {error}"
    return given, ""


def _plain(item: Any) -> Any:
    return (item.path, item.error, item.attempts) if isinstance(item, lp.Failure) else item


@given(
    sizes=st.lists(st.integers(1, 9), max_size=12),
    turns=st.lists(st.integers(0, 7), max_size=6),
    fails=st.dictionaries(st.integers(0, 60), st.integers(1, 4), max_size=6),
    retries=st.integers(0, 3),
    on_error=st.sampled_from(["raise", "skip", "collect"]),
    at_once=st.integers(1, 8),
    buffersize=st.none() | st.integers(1, 5),
    lift=st.sampled_from([lp.each, lp.outputs]),
)
def test_it_gives_what_is_given_in_line(
    sizes: list[int],
    turns: list[int],
    fails: dict[int, int],
    retries: int,
    on_error: Any,
    at_once: int,
    buffersize: int | None,
    lift: Any,
) -> None:
    batches = batches_of(sizes)
    server = Server(turns, fails)
    options: dict[str, Any] = {"on_error": on_error, "retries": retries}
    found = outcomes(
        lp.parallel_map(lift(server), batches, mode="async", max_workers=at_once, buffersize=buffersize, **options)
    )
    # In line, a record is called once more for its batch; with "raise", batches are tried again and not records.
    alone = [[item] for batch in batches for item in batch]
    if on_error == "raise":
        expected: list[Any] = []
        error = ""
        for batch in batches:
            one, error = outcomes(
                lp.parallel_map(lift(in_line(server, retries)), [[item] for item in batch], mode="sync", **options)
            )
            if error:
                break
            expected.append([item for part in one for item in part])
        assert found == (expected, error)
    else:
        made, _ = outcomes(
            lp.parallel_map(lift(in_line(server, retries)), alone, mode="sync", on_error="collect", retries=retries)
        )
        each = iter(part[0] for part in made)
        expected = [[next(each) for _ in batch] for batch in batches]
        if on_error == "skip":
            expected = [[item for item in batch if type(item) is not tuple] for batch in expected]
        assert found == (expected, "")
        assert all(count <= 1 + retries for count in server.calls.values())
        assert all(server.calls[n] == min(1 + server.fails.get(n, 0), 1 + retries) for n in range(sum(sizes)))
    assert server.most <= at_once
    assert server.waiting == 0


def test_records_of_several_batches_wait_together() -> None:
    together = threading.Event()
    waiting = 0

    async def answer(record: lp.NodeRecord) -> int:
        nonlocal waiting
        waiting += 1
        while waiting < 40:
            await asyncio.sleep(0)
        together.set()
        return 1

    batches = batches_of([4] * 10)
    assert len(list(lp.parallel_map(lp.outputs(answer), batches, mode="async", max_workers=40))) == 10
    assert together.is_set()


def test_no_more_is_pulled_than_can_wait() -> None:
    pulled = 0

    def source() -> Iterator[list[lp.NodeRecord]]:
        nonlocal pulled
        for batch in batches_of([5] * 100):
            pulled += 1
            yield batch

    results = lp.parallel_map(lp.outputs(Server([1])), source(), mode="async", max_workers=10)
    assert pulled == 0
    for number in range(1, 50):
        next(results)
        assert pulled <= number + 4  # 20 records, that is twice as many as may wait
    results.close()


def test_an_early_close_cancels_and_waits() -> None:
    begun, ended = [], []

    async def answer(record: lp.NodeRecord) -> int:
        begun.append(record)
        try:
            if record.attributes["n"]:
                await asyncio.sleep(3600)
            return 1
        finally:
            await asyncio.sleep(0)
            ended.append(record)

    before = threading.active_count()
    results = lp.parallel_map(lp.outputs(answer), batches_of([1] * 8), mode="async", max_workers=8)
    assert next(results)
    results.close()
    assert len(ended) == len(begun)
    assert threading.active_count() == before


@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_what_takes_too_long_is_cancelled_and_costs_itself(on_error: Any) -> None:
    cancelled = []

    async def answer(record: lp.NodeRecord) -> int:
        try:
            if record.attributes["n"] == 3:
                await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(record)
            raise
        return 1

    results = lp.parallel_map(lp.outputs(answer), batches_of([5]), mode="async", timeout=0.05, on_error=on_error)
    if on_error == "raise":
        with pytest.raises(lp.WorkerTimeoutError) as raised:
            list(results)
        assert "clip_0003" in "".join(raised.value.__notes__)
    else:
        ((*others, last),) = [sorted(batch, key=lambda item: isinstance(item, lp.Failure)) for batch in results]
        assert [item.output for item in others] == [1] * 4
        assert (last.path, last.error) == (("clip_0003",), "WorkerTimeoutError")
    assert len(cancelled) == 1


def test_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records begin at even steps, those that are tried again among them."""
    began: list[float] = []

    async def answer(record: lp.NodeRecord) -> int:
        began.append(asyncio.get_running_loop().time())
        if record.attributes["n"] % 5 == 0 and len(began) % 2:
            raise KeyError(record.key)
        return 1

    rate = 200
    results = lp.parallel_map(lp.outputs(answer), batches_of([10] * 5), mode="async", rate=rate, retries=5)
    assert len(list(results)) == 5
    for first in range(len(began)):
        for last in range(first + 1, len(began)):
            assert last - first <= rate * (began[last] - began[first] + 0.06) + 1


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


def test_it_sees_the_callers_context_and_works_where_a_loop_runs() -> None:
    async def answer(record: lp.NodeRecord) -> str:
        await asyncio.sleep(0)
        return variable.get()

    async def program() -> list[Any]:
        variable.set("of the caller")
        return list(lp.parallel_map(lp.outputs(answer), batches_of([2, 1]), mode="async"))

    found = asyncio.run(program())
    assert [[result.output for result in batch] for batch in found] == [["of the caller"] * 2, ["of the caller"]]


def test_failures_of_a_stage_before_are_handed_on() -> None:
    before = lp.Failure(("x",), "ValueError", "no")
    server = Server([1])
    found = list(lp.parallel_map(lp.outputs(server), [[record(1), before, record(2)]], mode="async"))
    assert found[0][1] is before
    assert [item.output for item in found[0][::2]] == [2, 4]

    async def whole(batch: list[lp.NodeRecord]) -> list[int]:
        return [each.attributes["n"] for each in batch]

    assert list(lp.parallel_map(whole, [[record(1), before, record(2)], [before]], mode="async")) == [
        [1, 2, before],
        [before],
    ]


def test_a_function_of_batches_and_other_shapes_of_coroutine_functions() -> None:
    async def whole(factor: int, batch: list[lp.NodeRecord]) -> Iterator[int]:
        return iter([factor * each.attributes["n"] for each in batch])

    found = lp.parallel_map(partial(whole, 3), batches_of([2, 1]), mode="async")
    assert list(found) == [[0, 3], [6]]

    calls = []

    async def broken(batch: list[lp.NodeRecord]) -> list[int]:
        calls.append(len(batch))
        return [1 // each.attributes["n"] for each in batch]

    # Of such a function it is not known what it made before it failed: each record is asked for again.
    ((failure, *others), alone) = lp.parallel_map(broken, batches_of([3, 1]), mode="async", on_error="collect")
    assert (failure.error, failure.path, others, alone) == ("ZeroDivisionError", ("clip_0000",), [1, 0], [0])
    assert sorted(calls) == [1, 1, 1, 1, 3]
    with pytest.raises(ZeroDivisionError):
        list(lp.parallel_map(broken, batches_of([3]), mode="async"))


def test_inputs_are_handed_on(tmp_path: Any) -> None:
    from lotdb import BaseNode

    root = BaseNode("root")
    records = [lp.NodeRecord(("a",), "a", {"n": 1}), lp.NodeRecord(("b",), "b", {"n": 2})]
    marked = list(lp.pending(lp.inline("_p"), root, records, inputs=True))
    (found,) = lp.parallel_map(lp.outputs(Server([1])), [marked], mode="async")
    assert [result.inputs for result in found] == [each.inputs for each in marked]
    assert all(result.inputs for result in found)


@pytest.mark.parametrize("mode", ["sync", "thread", "process"])
def test_a_coroutine_that_nobody_awaits_is_no_output(mode: Any) -> None:
    with pytest.raises(lp.ResultError, match="clip_0") as raised:
        list(
            lp.parallel_map(
                lp.outputs(lambda record: waits(record)), [[lp.NodeRecord(("clip_0",), "clip_0")]], mode=mode
            )
        )
    assert "async" in (raised.value.hint or "")


async def waits(record: Any) -> int:
    return 1


def does_not(record: Any) -> int:
    return 1


async def gives(record: Any) -> Any:
    yield 1


def test_what_would_not_be_awaited_is_refused() -> None:
    from concurrent.futures import ThreadPoolExecutor

    for mode in ("sync", "thread", "process"):
        for fn in (waits, lp.outputs(waits), lp.each(waits), partial(waits), Server([])):
            with pytest.raises(lp.ArgumentTypeError) as raised:
                lp.parallel_map(fn, mode=mode)  # type: ignore[call-overload]
            assert "async" in (raised.value.hint or "")
    with ThreadPoolExecutor(1) as executor, pytest.raises(lp.ArgumentError):
        lp.parallel_map(waits, mode="async", executor=executor)
    for fn in (does_not, lp.outputs(does_not), gives):
        with pytest.raises(lp.ArgumentTypeError):
            lp.parallel_map(fn, mode="async")
    with pytest.raises(lp.ArgumentTypeError):
        lp.outputs(waits)([record(1)])
    for options in ({"rate": 0}, {"rate": float("inf")}, {"max_tasks_per_child": 3}):
        with pytest.raises(lp.ArgumentError):
            lp.parallel_map(waits, mode="async", **options)  # type: ignore[call-overload]
    with pytest.raises(lp.ArgumentTypeError):
        lp.parallel_map(waits, mode="async", rate="fast")  # type: ignore[call-overload]
    with pytest.raises(lp.ArgumentError):
        lp.parallel_map(does_not, mode="thread", rate=1)


def test_an_initializer() -> None:
    names = []

    def begin() -> None:
        names.append(threading.current_thread().name)

    list(lp.parallel_map(lp.outputs(Server([1])), batches_of([1, 1]), mode="async", initializer=begin))
    assert names == ["lotproc_async"]

    def fail() -> None:
        raise OSError("no model")

    with pytest.raises(lp.NotReadyError, match="no model"):
        list(lp.parallel_map(lp.outputs(Server([1])), batches_of([1]), mode="async", initializer=fail))
