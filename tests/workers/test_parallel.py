"""Batches through a processor: the results of `map`, wherever it runs; bounded, closed, and clear when it fails."""

from __future__ import annotations

import collections
import copyreg
import dataclasses
import functools
import gc
import itertools
import multiprocessing
import operator
import os
import pickle
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Client, Listener
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from recording import HeldExecutor, InlineExecutor, Source, database, examples

from lotproc import (
    ArgumentError,
    ArgumentTypeError,
    LiveNodeError,
    NodeRecord,
    NotPicklableError,
    ProcessResult,
    _pickling,
    chunked,
    each,
    parallel_map,
)

MODES = ("sync", "thread", "process")
#: The same everywhere, so that the pool of worker processes starts once.
WORKERS = 2

modes = st.sampled_from(MODES)
batches_of_numbers = st.lists(st.lists(st.integers(), max_size=4), max_size=12)


def mapped(fn: Callable[[Any], Any], batches: Iterable[Any], **options: Any) -> Iterator[Any]:
    return parallel_map(fn, batches, max_workers=WORKERS, **options)


@pytest.fixture(scope="module", params=["threads", "processes", "inline"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor | InlineExecutor]:
    if request.param == "inline":
        yield InlineExecutor()
    elif request.param == "threads":
        with ThreadPoolExecutor(WORKERS) as threads:
            yield threads
    else:
        with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as processes:
            yield processes


def record(*path: str) -> NodeRecord:
    return NodeRecord(path, path[-1])


# The same results as map


@settings(max_examples=examples(60))
@given(batches=batches_of_numbers, mode=modes, buffersize=st.none() | st.integers(1, 6), offset=st.integers())
def test_it_equals_map_in_every_mode(batches: list[list[int]], mode: str, buffersize: int | None, offset: int) -> None:
    def shift(batch: list[int]) -> list[int]:  # a closure
        return [number + offset for number in batch]

    results = mapped(shift, batches, mode=mode, buffersize=buffersize)
    assert list(results) == list(map(shift, batches))


@settings(max_examples=examples(60))
@given(batches=batches_of_numbers, mode=modes, buffersize=st.none() | st.integers(1, 6))
def test_unordered_it_gives_the_same_results_as_map_in_any_order(
    batches: list[list[int]], mode: str, buffersize: int | None
) -> None:
    results = mapped(lambda batch: tuple(batch), batches, mode=mode, buffersize=buffersize, ordered=False)
    assert Counter(results) == Counter(map(tuple, batches))


@settings(max_examples=examples(25))
@given(batches=batches_of_numbers, buffersize=st.none() | st.integers(1, 6), ordered=st.booleans())
def test_it_equals_map_on_any_executor(
    executor: Executor, batches: list[list[int]], buffersize: int | None, ordered: bool
) -> None:
    results = list(parallel_map(sum, batches, executor=executor, buffersize=buffersize, ordered=ordered))
    expected = list(map(sum, batches))
    assert results == expected if ordered else Counter(results) == Counter(expected)


def test_an_executor_is_used_in_place_of_the_mode_and_left_running() -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as threads:
        names = list(parallel_map(lambda _: threading.current_thread().name, [[1], [2]], executor=threads))
        assert [name.startswith("mine") for name in names] == [True, True]
        assert threads.submit(abs, -1).result() == 1


def numbers_twice(batch: list[int]) -> Iterator[int]:
    for number in batch:
        yield number
        yield number


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, batch: list[int]) -> list[int]:
        return [self.factor * number for number in batch]

    def total(self, batch: list[int]) -> int:
        return self.factor * sum(batch)


PROCESSORS: dict[str, Any] = {
    "builtin": sum,
    "lambda": lambda batch: batch[::-1],
    "closure": (lambda offset: lambda batch: sum(batch) + offset)(7),
    "partial": functools.partial(operator.add, [0]),
    "object": Scale(3),
    "method": Scale(3).total,
    "each": each(lambda number: number + 1),
    "stage": chunked(2),
    "generator function": numbers_twice,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", PROCESSORS)
def test_anything_callable_is_a_processor(mode: str, kind: str) -> None:
    fn = PROCESSORS[kind]
    batches = [[1, 2, 3], [4], []]
    expected = [list(result) if isinstance(result, Iterator) else result for result in map(fn, batches)]
    assert list(mapped(fn, batches, mode=mode)) == expected


@pytest.mark.parametrize("kind", PROCESSORS)
def test_anything_callable_is_a_processor_on_any_executor(executor: Executor, kind: str) -> None:
    fn = PROCESSORS[kind]
    expected = [list(result) if isinstance(result, Iterator) else result for result in map(fn, [[1, 2], [3]])]
    assert list(parallel_map(fn, [[1, 2], [3]], executor=executor)) == expected


nests = st.recursive(
    st.integers() | st.text(max_size=2),
    lambda inner: st.tuples(st.sampled_from(["iterator", "list", "tuple"]), st.lists(inner, max_size=3)),
    max_leaves=8,
)


def built(nest: Any) -> Any:
    """A nest with real iterators in it."""
    if not isinstance(nest, tuple):
        return nest
    kind, items = nest
    items = (built(item) for item in items)
    return items if kind == "iterator" else (list if kind == "list" else tuple)(items)


def arrived(nest: Any) -> Any:
    """The same nest with lists for iterators."""
    if not isinstance(nest, tuple):
        return nest
    kind, items = nest
    return (tuple if kind == "tuple" else list)(arrived(item) for item in items)


@settings(max_examples=examples(60))
@given(nest=nests, mode=modes)
def test_iterators_in_results_arrive_as_lists(nest: Any, mode: str) -> None:
    assert list(mapped(built, [nest], mode=mode)) == [arrived(nest)]


@settings(max_examples=15)
@given(nest=nests)
def test_iterators_in_results_arrive_as_lists_from_any_executor(executor: Executor, nest: Any) -> None:
    assert list(parallel_map(built, [nest], executor=executor)) == [arrived(nest)]


@pytest.mark.parametrize("mode", ["sync", "thread"])
def test_results_may_be_nested_as_deep_as_they_like(mode: str) -> None:
    def deep(levels: int) -> list[Any]:
        nest: list[Any] = []
        for _ in range(levels):
            nest = [nest]
        return nest

    (nest,) = mapped(deep, [5_000], mode=mode)
    depth = 0
    while nest:
        (nest,) = nest
        depth += 1
    assert depth == 5_000


@pytest.mark.parametrize("mode", ["sync", "thread"])
def test_a_generator_is_drained_where_it_runs(mode: str) -> None:
    def worker(batch: list[int]) -> Iterator[int]:
        yield threading.get_ident()

    ((ident,),) = mapped(worker, [[1]], mode=mode)
    assert (ident == threading.get_ident()) is (mode == "sync")


def test_a_stage_is_the_same_whether_it_is_called_in_one_go_or_in_two() -> None:
    waiting = parallel_map(sum, mode="thread", max_workers=WORKERS)
    assert list(waiting([[1, 2], [3]])) == list(parallel_map(sum, [[1, 2], [3]], mode="thread")) == [3, 3]
    assert list(pickle.loads(pickle.dumps(waiting))([[1, 2]])) == [3]


def test_unordered_results_come_as_they_are_finished() -> None:
    held = HeldExecutor()

    def source() -> Iterator[list[int]]:
        yield from ([number] for number in range(3))
        for index in (1, 2, 0):  # asked for more when three are in flight: only now do they finish
            held.release(index)

    assert list(parallel_map(sum, source(), executor=held, buffersize=4, ordered=False)) == [1, 2, 0]


def test_no_more_than_max_workers_run_at_once_and_that_many_do() -> None:
    lock, running, most = threading.Lock(), 0, 0
    together = threading.Barrier(3)

    def work(batch: list[int]) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(timeout=60)  # goes on when three are here
        with lock:
            running -= 1

    list(parallel_map(work, [[i] for i in range(9)], mode="thread", max_workers=3, buffersize=9))
    assert most == 3


# Bounds


class InFlight:
    """Makes batches, and knows how many are in flight when one is pulled; `sum_later` waits for `most` to be there."""

    def __init__(self, count: int, most: int) -> None:
        self.count, self.most, self.given = count, min(most, count), 0
        self.counted: list[int] = []

    def batches(self, there: Path) -> Iterator[list[int]]:
        for number in range(self.count):
            self.counted.append(number + 1 - self.given)
            if self.counted[-1] == self.most:
                there.touch()
            yield [number]

    def pulls_no_more_than_most_and_that_many(self, run: Callable[[Any, Iterator[list[int]]], Iterator[Any]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            there = Path(folder, "there")
            for _ in run(functools.partial(sum_later, there), self.batches(there)):
                self.given += 1
        assert self.given == self.count
        assert max(self.counted, default=0) == self.most


def sum_later(there: Path, batch: list[int]) -> int:
    end = time.monotonic() + 60
    while not there.exists():  # in any process
        assert time.monotonic() < end, "so many were never in flight"
        time.sleep(0.001)
    return sum(batch)


@settings(max_examples=examples(60))
@given(count=st.integers(0, 14), buffersize=st.integers(1, 5), mode=modes, ordered=st.booleans())
def test_in_flight_are_buffersize_batches_and_never_more(count: int, buffersize: int, mode: str, ordered: bool) -> None:
    InFlight(count, 1 if mode == "sync" else buffersize).pulls_no_more_than_most_and_that_many(
        functools.partial(mapped, mode=mode, buffersize=buffersize, ordered=ordered)
    )


@settings(max_examples=examples(20))
@given(count=st.integers(0, 14), buffersize=st.integers(1, 5), ordered=st.booleans())
def test_on_an_executor_in_flight_are_buffersize_batches_and_never_more(
    executor: Executor, count: int, buffersize: int, ordered: bool
) -> None:
    most = 1 if isinstance(executor, InlineExecutor) else buffersize
    InFlight(count, most).pulls_no_more_than_most_and_that_many(
        functools.partial(parallel_map, executor=executor, buffersize=buffersize, ordered=ordered)
    )


def test_a_result_that_is_ready_comes_before_more_is_pulled() -> None:
    pulled = []

    def source() -> Iterator[list[int]]:
        for number in range(5):
            pulled.append(number)
            yield [number]

    results = parallel_map(sum, source(), executor=InlineExecutor(), buffersize=4)
    assert [(result, len(pulled)) for result in results] == [(number, number + 1) for number in range(5)]


def test_a_slow_source_is_not_asked_for_more_as_long_as_a_result_is_about_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lotproc.workers.flight.PATIENCE", 1000.0)  # so that no busy machine is too slow for it
    given: list[int] = []

    def source() -> Iterator[list[int]]:
        for number in range(3):
            assert len(given) == number
            time.sleep(0.05)
            yield [number]

    for result in parallel_map(sum, source(), mode="thread", max_workers=1, buffersize=3):
        given.append(result)
    assert given == [0, 1, 2]


@settings(max_examples=examples(60))
@given(
    count=st.integers(0, 30),
    first=st.tuples(modes, st.integers(1, 4), st.booleans()),
    second=st.tuples(modes, st.integers(1, 4), st.booleans()),
    size=st.none() | st.integers(1, 3),
)
def test_the_bound_holds_through_chained_stages(
    count: int, first: tuple[str, int, bool], second: tuple[str, int, bool], size: int | None
) -> None:
    given = 0
    in_flight = []

    def source() -> Iterator[int]:
        for number in range(count):
            in_flight.append(number + 1 - given)
            yield number

    def staged(fn: Any, items: Any, stage: tuple[str, int, bool]) -> Iterator[Any]:
        mode, buffersize, ordered = stage
        return mapped(fn, items, mode=mode, buffersize=buffersize, ordered=ordered)

    halfway = staged(lambda number: number, source(), first)
    results = staged(
        lambda batch: batch if isinstance(batch, list) else [batch],
        halfway if size is None else chunked(size, halfway),
        second,
    )
    arrived = []
    for batch in results:
        given += len(batch)
        arrived += batch
    assert sorted(arrived) == list(range(count))
    bounds = [1 if mode == "sync" else buffersize for mode, buffersize, _ in (first, second)]
    assert max(in_flight, default=0) <= bounds[0] + bounds[1] * (size or 1)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_pulled_before_the_first_result_is_asked_for(mode: str, ordered: bool) -> None:
    source = Source([[1], [2]])
    results = mapped(sum, chunked(1, mapped(sum, source, mode=mode, ordered=ordered)), mode=mode, ordered=ordered)
    assert source.pulled == 0
    assert next(results) in (1, 2)
    assert source.pulled > 0
    results.close()


def test_by_default_twice_the_workers_are_in_flight() -> None:
    InFlight(50, 6).pulls_no_more_than_most_and_that_many(functools.partial(parallel_map, mode="thread", max_workers=3))


# Closing


def lotproc_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lotproc")]


@pytest.mark.parametrize("asked_for", [0, 1, 3])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_closing_closes_the_input_and_leaves_no_thread(mode: str, ordered: bool, asked_for: int) -> None:
    source = Source([[number] for number in range(20)])
    results = mapped(sum, source, mode=mode, ordered=ordered, buffersize=3)
    assert len(list(itertools.islice(results, asked_for))) == asked_for
    results.close()
    assert source.closed
    assert source.pulled < 20
    assert lotproc_threads() == []


@pytest.mark.parametrize("mode", MODES)
def test_after_the_last_result_the_input_is_closed_and_no_thread_is_left(mode: str) -> None:
    source = Source([[1], [2]])
    assert list(mapped(sum, source, mode=mode)) == [1, 2]
    assert source.closed
    assert lotproc_threads() == []


@pytest.mark.parametrize("ordered", [True, False])
def test_closing_cancels_what_has_not_started(ordered: bool) -> None:
    held = HeldExecutor()

    def source() -> Iterator[list[int]]:
        yield from ([number] for number in range(3))
        held.release(0)
        yield [3]

    results = parallel_map(sum, source(), executor=held, buffersize=4, ordered=ordered)
    assert next(results) == 0
    results.close()
    assert [future.cancelled() for future, *_ in held.held] == [False, True, True, True]


def test_closing_with_threads_starts_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    pulled, blocked, release = threading.Event(), threading.Event(), threading.Event()
    started = []

    def source() -> Iterator[list[int]]:
        yield from ([number] for number in range(4))
        pulled.set()
        yield [4]

    class Releasing(SimpleQueue[Any]):
        def put(self, item: Any) -> None:
            super().put(item)
            if item is None:
                release.set()  # what is running may end, once the threads are told to stop

    monkeypatch.setattr("lotproc.workers.backends.SimpleQueue", Releasing)

    def work(batch: list[int]) -> int:
        started.append(batch[0])
        if batch[0] == 0:
            pulled.wait(timeout=60)
        if batch[0] == 1:
            blocked.set()
            release.wait(timeout=60)
        return batch[0]

    results = parallel_map(work, source(), mode="thread", max_workers=1, buffersize=5)
    assert next(results) == 0
    assert blocked.wait(timeout=60)
    results.close()
    assert started == [0, 1]
    assert lotproc_threads() == []


# Failures


@settings(max_examples=examples(40))
@given(before=st.lists(st.integers(), max_size=8), mode=modes, ordered=st.booleans(), buffersize=st.integers(1, 4))
def test_an_error_of_the_source_comes_after_the_results_of_the_batches_before_it(
    before: list[int], mode: str, ordered: bool, buffersize: int
) -> None:
    error = OSError("the disk is gone")
    source = Source(before, error)
    results, arrived = mapped(abs, source, mode=mode, ordered=ordered, buffersize=buffersize), []
    with pytest.raises(OSError, match="the disk is gone") as raised:
        arrived.extend(results)
    assert raised.value is error
    assert Counter(arrived) == Counter(map(abs, before))
    assert arrived == list(map(abs, before)) or not ordered
    assert source.closed
    assert lotproc_threads() == []


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_in_the_source_comes_at_once_and_leaves_nothing_running(mode: str) -> None:
    source = Source([[1], [2]], KeyboardInterrupt())
    results = mapped(sum, source, mode=mode, buffersize=5)
    with pytest.raises(KeyboardInterrupt):
        list(results)
    assert source.closed
    assert lotproc_threads() == []


def failing(batch: list[NodeRecord]) -> int:
    if batch[0].key == "bad":
        raise ZeroDivisionError("no such thing")
    return len(batch)


@settings(max_examples=examples(40))
@given(
    before=st.lists(st.integers(1, 3), max_size=5),
    after=st.integers(0, 5),
    size=st.integers(1, 3),
    mode=modes,
    ordered=st.booleans(),
)
def test_an_error_of_the_processor_comes_at_its_turn_and_says_where(
    before: list[int], after: int, size: int, mode: str, ordered: bool
) -> None:
    batches = [[record("ann", f"clip_{i}") for i in range(length)] for length in before]
    batches.append([record("ann", "bad"), *(record("bob", f"clip_{i}") for i in range(1, size))])
    batches += [[record("carl", "clip")]] * after
    source = Source(batches)
    results, arrived = mapped(failing, source, mode=mode, ordered=ordered, buffersize=3), []
    with pytest.raises(ZeroDivisionError, match="no such thing") as raised:
        arrived.extend(results)
    paths = "ann/bad" if size == 1 else f"ann/bad to bob/clip_{size - 1}"
    assert raised.value.__notes__ == [f"lotproc: in batch {len(before)}, {paths}"]
    assert arrived == before or not ordered
    assert source.closed
    assert list(results) == []
    assert lotproc_threads() == []


def test_nothing_is_pulled_once_a_batch_has_failed() -> None:
    class ThirdFirst(HeldExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
            future = super().submit(fn, *args)
            for index in (2, 0, 1, 3) if len(self.held) == 4 else ():
                self.release(index)
            return future

    source = Source([[record("ann", "bad" if number == 2 else "good")] for number in range(9)])
    arrived: list[int] = []
    with pytest.raises(ZeroDivisionError):
        arrived.extend(parallel_map(failing, source, executor=ThirdFirst(), buffersize=4))
    assert (arrived, source.pulled) == ([1, 1], 4)


@pytest.mark.parametrize("mode", MODES)
def test_each_names_the_record_and_parallel_map_the_batch(mode: str) -> None:
    def work(record: NodeRecord) -> float:
        return 1 / len(record.attributes)

    good, bad = NodeRecord(("ann", "a"), "a", {"x": 1}), NodeRecord(("ann", "b"), "b")
    results = mapped(each(work), [[good], [good, bad]], mode=mode)
    assert next(results) == [1.0]
    with pytest.raises(ZeroDivisionError) as raised:
        next(results)
    assert raised.value.__notes__ == [
        "lotproc: at ann/b, record 1 of its batch",
        "lotproc: in batch 1, ann/a to ann/b",
    ]


def test_an_error_on_an_executor_says_where(executor: Executor) -> None:
    results = parallel_map(failing, [[record("ann", "bad")]], executor=executor)
    with pytest.raises(ZeroDivisionError) as raised:
        next(results)
    assert raised.value.__notes__ == ["lotproc: in batch 0, ann/bad"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lifted", [False, True])
def test_a_stop_iteration_in_the_processor_is_never_taken_for_the_end(mode: str, lifted: bool) -> None:
    def work(numbers: list[int]) -> int:
        return next(number for number in numbers if number > 0)

    results = (
        mapped(each(work), [[[1]], [[0]], [[2]]], mode=mode) if lifted else mapped(work, [[1], [0], [2]], mode=mode)
    )
    assert next(results) == ([1] if lifted else 1)
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(results)


class FormatError(Exception):
    """As many libraries have them: it pickles, and can't be unpickled."""

    def __init__(self, file: str, line: int) -> None:
        super().__init__(f"{file}, line {line}")


@pytest.mark.parametrize("mode", MODES)
def test_an_error_that_does_not_survive_pickling_still_says_what_and_where(mode: str) -> None:
    def work(batch: list[int]) -> int:
        if batch == [1]:
            raise FormatError("clip.wav", 3)
        return batch[0]

    results = mapped(work, [[0], [1], [2]], mode=mode)
    assert next(results) == 0
    with pytest.raises(Exception, match=r"clip\.wav, line 3") as raised:
        next(results)
    assert raised.value.__notes__[-1] == "lotproc: in batch 1, int 1"


def test_a_result_that_can_not_travel_is_an_error_at_its_turn() -> None:
    results = mapped(lambda batch: threading.Lock() if batch == [1] else batch, [[0], [1]], mode="process")
    assert next(results) == [0]
    with pytest.raises(TypeError, match="pickle") as raised:
        next(results)
    assert raised.value.__notes__ == ["lotproc: in batch 1, int 1"]


def test_a_batch_that_can_not_travel_is_an_error_at_its_turn() -> None:
    results = mapped(len, [[0], [threading.Lock()]], mode="process")
    assert next(results) == 1
    with pytest.raises(NotPicklableError, match="can't be sent to a process") as raised:
        next(results)
    assert raised.value.__notes__[0].startswith("lotproc: in batch 1, ")


def test_a_worker_that_dies_is_noticed_and_the_next_call_works() -> None:
    with pytest.raises(BrokenExecutor, match="int 1: its worker process ended with exit code 3") as raised:
        list(mapped(lambda batch: os._exit(3), [[1]], mode="process"))
    assert raised.value.__notes__ == ["lotproc: in batch 0, int 1"]
    assert list(mapped(sum, [[1], [2]], mode="process")) == [1, 2]


@pytest.mark.parametrize("ordered", [True, False])
def test_an_executor_that_refuses_a_batch_fails_at_its_turn(ordered: bool) -> None:
    class Breaking(InlineExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
            if pickle.loads(args[-1])[1] == [2]:
                raise BrokenExecutor("a worker died")
            return super().submit(fn, *args)

    source, arrived = Source([[0], [1], [2], [3]]), []
    with pytest.raises(BrokenExecutor, match="a worker died"):
        arrived.extend(parallel_map(sum, source, executor=Breaking(), buffersize=4, ordered=ordered))
    assert arrived == [0, 1]
    assert source.closed


def test_chained_maps_on_processes_may_have_different_numbers_of_workers() -> None:
    halfway = parallel_map(lambda batch: [sum(batch)], [[number, 1] for number in range(8)], max_workers=2)
    assert list(parallel_map(lambda batch: batch[0], halfway, max_workers=1)) == list(range(1, 9))


def test_a_map_on_processes_may_start_while_another_is_halfway() -> None:
    with Listener(("localhost", 0)) as listener:
        address = listener.address

        def work(number: int) -> Any:
            if number == 0:
                return number
            with Client(address) as parent:  # at work until the test says so
                return parent.recv() if parent.poll(60) else "was never released"

        def source() -> Iterator[list[int]]:
            with listener.accept() as worker:
                worker.send(1)
            yield from ([number] for number in range(4))

        # The one that waits comes first, so that it is in flight by the time that the other's result comes out.
        first = parallel_map(work, [1, 0], max_workers=2, buffersize=2, ordered=False)
        assert next(first) == 0
        assert list(parallel_map(sum, source(), max_workers=1)) == [0, 1, 2, 3]
        assert list(first) == [1]


# Refused before any work

HOLDS_A_NODE = BaseNode("root")
LOCK = threading.Lock()

REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown mode": (
        {"mode": "threads"},
        ArgumentError,
        "mode must be one of 'sync', 'thread', 'process', 'async', got 'threads'",
    ),
    "mode that is no str": ({"mode": None}, ArgumentError, "mode must be one of .* got None"),
    "misspelt option": ({"max_worker": 2}, ArgumentTypeError, "no argument 'max_worker'; did you mean 'max_workers'"),
    "no workers": ({"max_workers": 0}, ArgumentError, "max_workers must be at least 1, got 0"),
    "half a worker": ({"max_workers": 1.5}, ArgumentTypeError, "max_workers must be a whole number, got float 1.5"),
    "workers as a bool": (
        {"max_workers": True},
        ArgumentTypeError,
        "max_workers must be a whole number, got bool True",
    ),
    "no buffer": ({"buffersize": 0}, ArgumentError, "buffersize must be at least 1, got 0"),
    "negative buffer": ({"buffersize": -2}, ArgumentError, "buffersize must be at least 1, got -2"),
    "executor without submit": (
        {"executor": object()},
        ArgumentTypeError,
        "executor must have a submit method, got <obj",
    ),
    "executor that is a class": ({"executor": 4}, ArgumentTypeError, "executor must have a submit method, got int 4"),
    "no function": ({"fn": 3}, ArgumentTypeError, "fn must be a function of a batch, got int 3"),
    "unpicklable closure": ({"fn": lambda batch, lock=LOCK: 0, "mode": "process"}, NotPicklableError, "can't be sent"),
    "unpicklable by default": ({"fn": lambda batch, lock=LOCK: 0}, NotPicklableError, 'use mode="thread"'),
    "a node in the processor": (
        {"fn": lambda batch, node=HOLDS_A_NODE: node.key, "mode": "process"},
        LiveNodeError,
        "holds a persistent BaseNode",
    ),
    "a node in a partial": (
        {"fn": functools.partial(print, HOLDS_A_NODE)},
        LiveNodeError,
        "holds a persistent BaseNode",
    ),
    "unknown on_error": (
        {"on_error": "ignore"},
        ArgumentError,
        "on_error must be one of 'raise', 'skip', 'collect', got 'ignore'",
    ),
    "negative retries": ({"retries": -1}, ArgumentError, "retries must be at least 0, got -1"),
    "retries as a float": ({"retries": 1.0}, ArgumentTypeError, "retries must be a whole number"),
    "retry_on by name": (
        {"retry_on": "OSError"},
        ArgumentTypeError,
        "retry_on must be a class of errors .* 'OSError'",
    ),
    "retry_on in a list": (
        {"retry_on": [OSError]},
        ArgumentTypeError,
        "retry_on must be a class of errors or a tuple",
    ),
    "retry_on of no error": ({"retry_on": (OSError, int)}, ArgumentTypeError, "retry_on must be a class of errors"),
    "no time": ({"timeout": 0}, ArgumentError, "timeout must be more than 0 seconds, got 0"),
    "no number of seconds": (
        {"timeout": float("nan")},
        ArgumentError,
        "timeout must be more than 0 seconds, got nan",
    ),
    "time as a str": ({"timeout": "3 s"}, ArgumentTypeError, "timeout must be a number of seconds"),
    "timeout on threads": (
        {"timeout": 3, "mode": "thread"},
        ArgumentError,
        'timeout=3 needs mode="process" or "async"',
    ),
    "async on an executor": ({"executor": mock.Mock(spec=["submit"]), "mode": "async"}, ArgumentError, "event loop"),
    "a client of Dask": (
        {"executor": mock.Mock(spec=["submit", "get_executor"])},
        ArgumentTypeError,
        "get_executor\\(\\)",
    ),
    "timeout in line": ({"timeout": 3, "mode": "sync"}, ArgumentError, "not mode='sync'"),
    "timeout on an executor": ({"timeout": 3, "executor": HeldExecutor()}, ArgumentError, "not an executor"),
    "initializer that is none": ({"initializer": 3}, ArgumentTypeError, "initializer must be a function"),
    "initializer that can't be sent": (
        {"initializer": lambda lock=LOCK: None},
        NotPicklableError,
        "the initializer .* can't be sent to a process",
    ),
    "initializer of an executor": (
        {"initializer": print, "executor": HeldExecutor()},
        ArgumentError,
        "initializer does not go with an executor",
    ),
    "no batches": ({"max_tasks_per_child": 0}, ArgumentError, "max_tasks_per_child must be at least 1, got 0"),
    "fresh threads": (
        {"max_tasks_per_child": 3, "mode": "thread"},
        ArgumentError,
        "only worker processes are replaced",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_options_are_refused_at_once(case: str) -> None:
    options, error, message = REFUSED[case]
    fn = options.get("fn", sum)
    options = {name: value for name, value in options.items() if name != "fn"}
    source = Source([[1]])
    with pytest.raises(error, match=message):
        parallel_map(fn, **options)
    with pytest.raises(error, match=message):
        parallel_map(fn, source, **options)
    assert source.pulled == 0


def test_a_processor_that_can_not_travel_is_refused_for_an_executor_of_processes() -> None:
    processes = ProcessPoolExecutor(1)  # starts no process before something is submitted
    try:
        with pytest.raises(NotPicklableError):
            parallel_map(lambda batch, lock=LOCK: 0, executor=processes)
        with pytest.raises(LiveNodeError):
            parallel_map(lambda batch, node=HOLDS_A_NODE: 0, executor=processes)
    finally:
        processes.shutdown()


@pytest.mark.parametrize("batches", [None, 3, BaseNode("root")])
def test_what_is_no_iterable_is_refused(batches: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="parallel_map: batches must be an iterable"):
        parallel_map(sum, batches)


LIVE: dict[str, Callable[[BaseNode], Any]] = {
    "as the batch": lambda node: node,
    "in a list": lambda node: [record("ann"), node],
    "in a tuple": lambda node: (node,),
    "in a pair": lambda node: [(node, 1.5)],
    "in a list of lists": lambda node: [[record("ann")], [node]],
    "in a dict": lambda node: [{"node": node}],
    "as a payload": lambda node: [NodeRecord(("ann",), "ann", {}, payload=node)],
    "as an attribute": lambda node: [NodeRecord(("ann",), "ann", {"self": node})],
}


@contextmanager
def ways(way: str) -> Iterator[dict[str, Any]]:
    if way == "an executor":
        with ThreadPoolExecutor(1) as threads:
            yield {"executor": threads}
    else:
        yield {"mode": way, "max_workers": WORKERS}


@pytest.mark.parametrize("way", [*MODES, "an executor"])
@pytest.mark.parametrize("where", LIVE)
def test_a_live_node_in_a_batch_is_an_error_and_never_reaches_the_processor(
    tmp_path: Path, where: str, way: str
) -> None:
    called = tmp_path / "called"
    with database() as db, ways(way) as options:
        node = db.open_connection().gns(["bob", "clip"])
        source = Source([[], LIVE[where](node)])
        results = parallel_map(lambda batch: called.touch() if batch else 0, source, **options)
        assert next(results) == 0
        with pytest.raises(LiveNodeError, match="bob/clip") as raised:
            next(results)
        assert "snapshot" in str(raised.value)
        assert source.closed
        assert not called.exists()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_runs_on_the_executor_of_dask() -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.Client(processes=False, n_workers=1, dashboard_address=":0") as client,
        client.get_executor() as executor,
    ):
        results = parallel_map(lambda batch: [2 * number for number in batch], [[1], [2, 3]], executor=executor)
        assert list(results) == [[2], [4, 6]]
    gc.collect()  # of the event loop that distributed leaves open, another test would be told


@pytest.mark.parametrize("mode", ["sync", "thread", "process"])
def test_a_function_of_a_record_that_gets_a_batch_is_told_of_each(mode: Any) -> None:
    batch = [NodeRecord(("a",), "a")]
    with pytest.raises(AttributeError, match="path") as raised:
        list(parallel_map(lambda record: record.path, [batch], mode=mode))
    assert raised.value.__notes__[0] == (
        "lotproc: a processor gets a list of records; each(fn) makes one of a function of a record"
    )


def test_a_processor_that_holds_a_database_is_refused() -> None:
    with database() as db, pytest.raises(LiveNodeError, match="holds an open database inside, a LOTDB"):
        parallel_map(lambda batch: db.name)


@dataclasses.dataclass
class Holder:
    held: Any

    def method(self) -> None:
        pass


class Reduced:
    """Says itself what is in its pickle."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def __reduce__(self) -> Any:
        return Holder, (self._held,)


class Registered(Reduced):
    __reduce__ = object.__reduce__  # type: ignore[assignment]


class Words(dict[str, Any]):
    pass


copyreg.pickle(Registered, lambda value: (Holder, (value._held,)))

#: Ways to hold a value, which a pickle of it takes along.
HOLDING: list[Callable[[Any], Any]] = [
    lambda value: [value],
    lambda value: (1, value),
    lambda value: {"a": value},
    lambda value: {Holder: value},
    lambda value: Words(a=value),
    lambda value: NodeRecord(("a",), "a", {"x": 1.5, "y": value}),
    lambda value: NodeRecord(("a",), "a", {}, payload=value),
    lambda value: ProcessResult(("a",), value),
    lambda value: ProcessResult(("a",), None, {"x": value}),
    Holder,
    lambda value: Holder(value).method,
    Reduced,
    Registered,
    lambda value: functools.partial(print, value),
    lambda value: lambda: value,
    lambda value: lambda held=value: held,
    lambda value: type("Made", (), {"held": value}),
    lambda value: np.array([value, None], dtype=object),
    lambda value: collections.deque([value]),
    lambda value: ValueError(value),
]

#: What belongs to a database, made of a node in one.
CULPRITS: dict[str, Callable[[BaseNode], Any]] = {
    "a node": lambda node: node,
    "a node in memory": lambda node: BaseNode("root"),
    "its children": lambda node: node.node_storage,
    "its attributes": lambda node: node.attribute_storage,
    "a persistent list": lambda node: PersistentList(),
    "a persistent mapping": lambda node: PersistentMapping(),
    "its connection": lambda node: node._p_jar,
    "its database": lambda node: node._p_jar.db(),
}


@settings(max_examples=examples(100))
@given(
    culprit=st.sampled_from([None, *CULPRITS]),
    holding=st.lists(st.sampled_from(HOLDING), max_size=3),
    beside=st.lists(st.sampled_from([1, "a", 2.5, None]), max_size=2),
    pickler=st.sampled_from(["plain", "by value"]),
    is_fast=st.booleans(),
)
def test_a_pickle_takes_nothing_along_that_belongs_to_a_database(
    culprit: str | None, holding: Any, beside: list[Any], pickler: str, is_fast: bool
) -> None:
    with database() as db, pytest.MonkeyPatch.context() as patch:
        patch.setattr("lotproc._pickling.FAST", is_fast)
        _pickling._guarded.cache_clear()
        value = CULPRITS[culprit](db.open_connection()) if culprit else "harmless"
        for hold in holding:
            value = hold(value)
        kind = pickle.Pickler if pickler == "plain" else _pickling.by_value()
        if culprit:
            unfit = (pickle.PicklingError, AttributeError) if kind is pickle.Pickler else ()  # a lambda, say
            with pytest.raises((LiveNodeError, *unfit)):
                _pickling.dumps_detached([beside, value], pickler=kind)
        elif kind is not pickle.Pickler:
            assert pickle.loads(_pickling.dumps_detached([beside, value], pickler=kind))[0] == beside
    _pickling._guarded.cache_clear()


def test_a_function_with_a_cache_goes_to_workers_with_nothing_in_it() -> None:
    @functools.lru_cache(maxsize=100, typed=True)
    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    def work(batch: list[int]) -> Any:
        return fibonacci(batch[0]), fibonacci.cache_parameters(), fibonacci.cache_info().misses

    @functools.lru_cache
    def begin() -> int:
        return fibonacci(5)

    fibonacci(10)
    results = list(parallel_map(work, [[20]] * 3, max_workers=1))
    assert results == [(6765, {"maxsize": 100, "typed": True}, 21)] * 3
    assert list(parallel_map(lambda batch: fibonacci.cache_info().misses, [[1]], max_workers=1, initializer=begin)) == [
        6
    ]
    named = _pickling._guarded  # what can be imported is the very one there
    assert pickle.loads(_pickling.dumps_detached(named, pickler=_pickling.by_value())) is named


@pytest.mark.parametrize(
    "pack", [lambda node: [[[[{"a": [node]}]]]], lambda node: [Holder(node)], lambda node: iter([node])]
)
def test_a_live_node_never_leaves_its_process_however_deep_it_hides(pack: Callable[[Any], Any]) -> None:
    with database() as db:
        node = db.open_connection().gns(["bob", "clip"])
        with pytest.raises((LiveNodeError, NotPicklableError)):
            list(parallel_map(lambda batch: 0, [pack(node)]))


def test_calls_on_several_threads_do_not_share_workers() -> None:
    def crash(batch: list[int]) -> None:
        os._exit(3)

    def work(number: int) -> Any:
        try:
            return list(parallel_map(crash if number == 0 else sum, [[number]] * 4, max_workers=1))
        except BrokenExecutor:
            return "broken"

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == ["broken", [1] * 4, [2] * 4, [3] * 4]


def test_workers_are_kept_for_the_next_call_also_after_an_error_of_a_processor() -> None:
    (worker,) = parallel_map(lambda batch: os.getpid(), [[1]], max_workers=1)
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(lambda batch: 1 / 0, [[1]], max_workers=1))
    assert list(parallel_map(lambda batch: os.getpid(), [[1], [2]], max_workers=1)) == [worker, worker]
