"""What each `parallel_map` of a `write` tells of itself: batches against those of the oracle, times against each other.

A clock that only the test moves tells the times of work in line exactly; of all else they are held by inequalities that
are true on any machine.
"""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode
from recording import InlineExecutor, Source, examples
from toolz import compose_left, pipe

import lotproc as lp

#: Seconds that each record takes at least, and what sums of floats may be off by.
WORK, EPS = 0.0002, 1e-6


def results(count: int) -> list[lp.ProcessResult]:
    return [lp.ProcessResult((f"clip_{n:03}",), output=n) for n in range(count)]


def work(result: lp.ProcessResult) -> lp.ProcessResult:
    start = perf_counter()
    while perf_counter() - start < WORK:
        pass
    return result


async def ask(result: lp.ProcessResult) -> lp.ProcessResult:
    start = perf_counter()
    while perf_counter() - start < WORK:
        await asyncio.sleep(0)
    return result


def written(items: Iterable[Any]) -> lp.WriteReport:
    return lp.write(lp.inline("_p"), BaseNode("root"), items)


def mapped(mode: str, workers: int, stack: ExitStack, **options: Any) -> tuple[Any, tuple[str, str, int]]:
    """A map in a mode, or on an executor, and what its row is called."""
    if mode == "async":
        return lp.parallel_map(lp.each(ask), mode="async", max_workers=workers, **options), ("ask", mode, workers)
    if mode == "sync":
        return lp.parallel_map(lp.each(work), mode="sync", **options), ("work", mode, 1)
    if mode in ("thread", "process"):
        stage = lp.parallel_map(lp.each(work), mode=mode, max_workers=workers, **options)  # type: ignore[call-overload]
        return stage, ("work", mode, workers)
    executor: Any = InlineExecutor()
    if mode == "ThreadPoolExecutor":
        executor = stack.enter_context(ThreadPoolExecutor(workers))
    workers = executor.max_workers if mode == "InlineExecutor" else workers
    return lp.parallel_map(lp.each(work), executor=executor, **options), ("work", mode, workers)


def check(report: lp.WriteReport) -> None:
    """What holds of every report's times, whatever the machine did."""
    for row in report.maps:
        waits = row.input_wait, row.worker_wait, row.consumer_wait
        assert min(waits) >= 0
        assert sum(waits) <= row.seconds + EPS
        assert row.seconds <= report.seconds + EPS
        assert row.batches == 0 or row.working > 0
        assert row.working <= row.workers * row.seconds + EPS
        assert 0 <= row.busy <= 1
        if row.mode == "sync":
            assert row.working <= row.worker_wait + EPS
    for row, behind in zip(report.maps, report.maps[1:], strict=False):
        assert row.seconds - row.consumer_wait <= behind.input_wait + EPS  # it works while it is pulled from
    assert sum(row.worker_wait for row in report.maps) == pytest.approx(report.waiting)


# --- Any pipeline ----------------------------------------------------------------------------------------------------

in_this_process = st.sampled_from(["sync", "thread", "async", "ThreadPoolExecutor", "InlineExecutor"])


def run(
    modes: list[str], count: int, size: int, workers: int, ordered: bool, taken: int | None
) -> tuple[lp.WriteReport, list[tuple[str, str, int]]]:
    """A pipeline of maps, one behind the other, of which so many batches are taken."""
    with ExitStack() as stack:
        stages, rows = [], []
        for mode in modes:
            stage, row = mapped(mode, workers, stack, ordered=ordered)
            stages.append(stage)
            rows.append(row)
        maps = pipe(lp.chunked(size, results(count)), *stages)
        report = written(islice(maps, taken))
        maps.close()
    return report, rows


@settings(max_examples=examples(40))
@given(
    modes=st.lists(in_this_process, max_size=3),
    count=st.integers(0, 24),
    size=st.integers(1, 6),
    workers=st.integers(1, 3),
    ordered=st.booleans(),
)
def test_there_is_a_row_for_each_map(modes: list[str], count: int, size: int, workers: int, ordered: bool) -> None:
    report, rows = run(modes, count, size, workers, ordered, None)
    assert report.written == count
    assert [(row.name, row.mode, row.workers) for row in report.maps] == rows
    assert [row.batches for row in report.maps] == [-(-count // size)] * len(modes)
    assert all(row.working >= count * WORK for row in report.maps)
    check(report)


@settings(max_examples=3)
@given(modes=st.sampled_from([["process"], ["thread", "process"], ["process", "async"]]), count=st.integers(1, 24))
def test_there_is_a_row_for_processes(modes: list[str], count: int) -> None:
    report, rows = run(modes, count, 5, 2, True, None)
    assert [(row.name, row.mode, row.workers) for row in report.maps] == rows
    assert [row.batches for row in report.maps] == [-(-count // 5)] * len(modes)
    assert all(row.working >= count * WORK for row in report.maps)
    check(report)


@settings(max_examples=examples(30))
@given(
    modes=st.lists(in_this_process, min_size=1, max_size=3),
    count=st.integers(1, 24),
    workers=st.integers(1, 3),
    ordered=st.booleans(),
    taken=st.integers(0, 8),
)
def test_what_was_taken_of_a_run_is_counted(
    modes: list[str], count: int, workers: int, ordered: bool, taken: int
) -> None:
    report, rows = run(modes, count, 3, workers, ordered, taken)
    batches = -(-count // 3)
    if taken == 0:
        assert report.maps == ()  # nothing was begun
        return
    assert [(row.name, row.mode, row.workers) for row in report.maps] == rows
    counts = [row.batches for row in report.maps]
    assert counts[-1] == min(taken, batches)
    assert sorted(counts, reverse=True) == counts
    assert counts[0] <= batches
    check(report)


@settings(max_examples=examples(30))
@given(
    mode=in_this_process.filter(lambda mode: mode != "async"),
    count=st.integers(1, 24),
    size=st.integers(1, 6),
    bad=st.integers(0, 23),
    retries=st.integers(0, 2),
    collects=st.booleans(),
)
def test_what_fails_is_worked_on(mode: str, count: int, size: int, bad: int, retries: int, collects: bool) -> None:
    def fail(result: lp.ProcessResult) -> lp.ProcessResult:
        work(result)
        if result.output == bad:
            raise KeyError(bad)
        return result

    on_error: Any = "collect" if collects else "raise"
    with ExitStack() as stack:
        options: dict[str, Any] = {"mode": mode}
        if mode == "ThreadPoolExecutor":
            options = {"executor": stack.enter_context(ThreadPoolExecutor(2))}
        elif mode == "InlineExecutor":
            options = {"executor": InlineExecutor()}
        stage = lp.parallel_map(lp.each(fail), on_error=on_error, retries=retries, **options)
        batches = lp.chunked(size, results(count))
        if collects or bad >= count:
            report = written(stage(batches))
            [row] = report.maps
            assert row.batches == -(-count // size)
            its_batch = results(count)[bad // size * size :][:size]
            again = retries + (len(its_batch) > 1) if bad < count else 0  # in its batch, and then alone
            assert row.working >= (count + again) * WORK
        else:
            with pytest.raises(KeyError) as raised:
                written(stage(batches))
            report = raised.value.report  # type: ignore[attr-defined]
            assert [row.batches for row in report.maps] == [bad // size]
    assert [row.name for row in report.maps] == ["fail"]
    check(report)


# --- Times, by a clock that the test moves ---------------------------------------------------------------------------


class Time:
    """What the clocks of lotproc show: whole seconds, moved by what takes time."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: int, fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(item: Any) -> Any:
            self.now += seconds
            return fn(item)

        return run


@given(
    count=st.integers(0, 12),
    size=st.integers(1, 4),
    reading=st.integers(0, 3),
    works=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    planning=st.integers(0, 3),
    taken=st.integers(1, 13),
)
def test_times_in_line_are_exact(
    count: int, size: int, reading: int, works: list[int], planning: int, taken: int
) -> None:
    time = Time()
    with patch("lotproc._clock.perf_counter", time), patch("lotproc.workers.tasks.perf_counter", time):
        source: Any = map(time.taking(reading, lambda result: result), results(count))
        stages = [lp.parallel_map(lp.each(time.taking(work, lambda item: item)), mode="sync") for work in works]
        policy = time.taking(planning, lambda result: (*result.path, "_p"))
        maps = pipe(source, lp.chunked(size), *stages)
        report = lp.write(policy, BaseNode("root"), islice(maps, taken))
    batches = min(taken, -(-count // size))
    count = min(count, taken * size)  # those that were taken
    before, total = count * reading, count * (reading + sum(works) + planning)
    for row, seconds in zip(report.maps, works, strict=True):
        assert row.batches == batches
        assert row.working == row.worker_wait == count * seconds
        assert row.input_wait == before
        before += count * seconds
        assert row.consumer_wait == total - before
        assert row.seconds == total
        assert row.busy == (count * seconds / total if total else 0)
    assert report.waiting == count * sum(works)


# --- Which maps are counted ------------------------------------------------------------------------------------------


def inner(batch: list[lp.ProcessResult]) -> list[lp.ProcessResult]:
    """A processor that has a map of its own."""
    return [item for made in lp.parallel_map(lp.each(work), [batch], mode="sync") for item in made]


@pytest.mark.parametrize("mode", ["sync", "thread", "ThreadPoolExecutor"])
def test_a_map_inside_of_a_processor_has_no_row(mode: str) -> None:
    with ThreadPoolExecutor(2) as executor:
        options: Any = {"executor": executor} if mode == "ThreadPoolExecutor" else {"mode": mode}
        report = written(lp.parallel_map(inner, lp.chunked(2, results(6)), **options))
    assert [(row.name, row.batches) for row in report.maps] == [("inner", 3)]
    check(report)


def test_a_map_inside_of_a_coroutine_has_no_row() -> None:
    async def call(batch: list[lp.ProcessResult]) -> list[lp.ProcessResult]:
        return inner(batch)

    report = written(lp.parallel_map(call, lp.chunked(2, results(6)), mode="async"))
    assert [(row.name, row.batches) for row in report.maps] == [("call", 3)]


def test_maps_in_turn_are_one_row() -> None:
    def source() -> Iterator[Any]:
        for result in results(50):
            yield from lp.parallel_map(lp.each(work), [[result]], mode="sync")

    report = written(lp.parallel_map(lp.each(work), source(), mode="thread", max_workers=2))
    assert [(row.mode, row.batches) for row in report.maps] == [("sync", 50), ("thread", 50)]
    check(report)


def test_maps_beside_each_other_are_rows_in_front_of_the_one_that_pulls_them() -> None:
    modes = ("sync", "thread")
    sides = [
        lp.parallel_map(lp.each(work), [[result]], mode=mode) for mode, result in zip(modes, results(2), strict=True)
    ]
    last = lp.parallel_map(inner, (batch for side in sides for batch in side), mode="sync")
    report = written(last)
    assert [(row.name, row.mode) for row in report.maps] == [("work", "sync"), ("work", "thread"), ("inner", "sync")]


@pytest.mark.parametrize("mode", ["sync", "thread", "async"])
def test_of_a_map_that_was_begun_before_the_rest_is_counted(mode: str) -> None:
    with ExitStack() as stack:
        stage, row = mapped(mode, 2, stack)
        maps = stage(lp.chunked(2, results(10)))
        next(maps)
        first = written(islice(maps, 1))
        second = written(maps)
    assert [(one.name, one.mode, one.workers, one.batches) for one in first.maps] == [(*row, 1)]
    assert [(one.name, one.mode, one.workers, one.batches) for one in second.maps] == [(*row, 3)]
    for report in (first, second):  # of which some work may have been done before
        assert report.maps[0].seconds <= report.seconds + EPS


def test_maps_of_a_run_that_fails_are_in_its_report() -> None:
    source = Source(lp.chunked(2, results(4)), error=OSError("the disk is gone"))
    with pytest.raises(OSError) as raised:  # noqa: PT011
        written(lp.parallel_map(lp.each(work), source, mode="thread"))
    report: lp.WriteReport = raised.value.report  # type: ignore[attr-defined]
    assert [(row.name, row.batches) for row in report.maps] == [("work", 2)]
    check(report)


def test_deleting_and_the_facade_report_maps() -> None:
    root = BaseNode("root")
    written(results(4))
    target = lp.InlineTarget(root=root)
    lp.Pipeline.from_iterable(results(4)).buffer(2).process(lp.each(work), mode="thread").write(target).run()
    assert target.report is not None
    assert [(row.name, row.mode, row.batches) for row in target.report.maps] == [("work", "thread", 2)]
    report = lp.delete(root, lp.parallel_map(lp.each(lambda path: path), [[("clip_000",)]], mode="sync"))
    assert report.deleted == 1
    assert [row.name for row in report.maps] == ["<lambda>"]


class Own:
    def __call__(self, batch: list[Any]) -> list[Any]:
        return batch


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (work, "work"),
        (lp.each(work), "work"),
        (lp.outputs(str), "str"),
        (lambda batch: batch, "<lambda>"),
        (partial(map, str), "map"),
        (partial(partial(lp.each(work))), "work"),
        (Own(), "Own"),
        (Own().__call__, "__call__"),
        (lp.chunked(2), "chunked"),
        (compose_left(list, lp.each(work), Own()), "list, work, Own"),
    ],
)
def test_a_row_is_called_like_its_function(fn: Any, name: str) -> None:
    report = written(item for item in lp.parallel_map(fn, [results(2)], mode="sync") if False)
    assert [row.name for row in report.maps] == [name]


# --- Reports of several workers --------------------------------------------------------------------------------------

rows = st.builds(
    lp.MapReport,
    name=st.sampled_from(["decode", "embed"]),
    mode=st.sampled_from(["sync", "thread"]),
    workers=st.integers(1, 2),
    batches=st.integers(0, 100),
    seconds=st.integers(0, 100),
    working=st.integers(0, 100),
    input_wait=st.integers(0, 100),
    worker_wait=st.integers(0, 100),
    consumer_wait=st.integers(0, 100),
)
reports = st.lists(rows, max_size=5).map(lambda maps: lp.WriteReport(maps=tuple(maps)))


def counts(report: lp.WriteReport) -> dict[Any, list[float]]:
    """What a report has of each map: of the first of a name, mode and number of workers, of the second, ..."""
    found: dict[Any, list[float]] = {}
    seen: Counter[Any] = Counter()
    for row in report.maps:
        key = row.name, row.mode, row.workers
        numbers = [row.batches, row.seconds, row.working, row.input_wait, row.worker_wait, row.consumer_wait]
        found[key, seen[key]] = numbers
        seen[key] += 1
    return found


@given(one=reports, two=reports, three=reports)
def test_rows_of_reports_add_up(one: lp.WriteReport, two: lp.WriteReport, three: lp.WriteReport) -> None:
    total = counts(sum([one, two, three], lp.WriteReport()))
    each = [counts(report) for report in (one, two, three)]
    assert set(total) == {key for found in each for key in found}
    for key, numbers in total.items():
        assert numbers == [sum(column) for column in zip(*(found[key] for found in each if key in found), strict=True)]
    assert ((one + two) + three).maps == (one + (two + three)).maps
    assert (one + lp.WriteReport()).maps == (lp.WriteReport() + one).maps == one.maps


def test_a_report_without_maps_is_pickled_as_ever() -> None:
    packed = pickle.dumps(lp.WriteReport(written=3, seconds=1.0))
    assert b"maps" not in packed
    assert pickle.loads(packed).maps == ()  # so is one that an older version wrote
    report = lp.WriteReport(written=3, maps=(lp.MapReport("work", "thread", 2, 5, 1.0, 1.5),))
    again = pickle.loads(pickle.dumps(report))
    assert again == report == lp.WriteReport(written=3)  # as with all seconds, it is about what was done
    assert again.maps == report.maps
    assert again.maps[0].working == 1.5


def test_a_share_is_between_0_and_1() -> None:
    assert lp.MapReport("work", "thread", 2, 5, seconds=2.0, working=3.0).busy == 0.75
    assert lp.MapReport("work", "Cluster", 2, 5, seconds=2.0, working=9.0).busy == 1.0
    assert lp.MapReport("work", "thread").busy == 0.0
