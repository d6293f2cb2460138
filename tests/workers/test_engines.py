"""Executors of other engines: all that works on our own processes works on them, and nobody innocent is blamed."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import lotdb
import pytest
from hypothesis import given, settings, strategies as st
from recording import examples
from toolz import concat

import lotproc as lp


def records(count: int) -> list[lp.NodeRecord]:
    return [lp.NodeRecord((f"clip_{n:03}",), f"clip_{n:03}", {"n": n}) for n in range(count)]


# --- Deaths ----------------------------------------------------------------------------------------------------------


class KilledWorker(Exception):
    """As Dask calls it."""


class SharedWorkers(Executor):
    """One worker of several threads, which dies with all that it runs at that moment; another takes its place.

    Args:
        threads: How many calls it runs at once.
    """

    def __init__(self, threads: int) -> None:
        self.max_workers = threads
        self._jobs: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.put((future, fn, args))
        return future

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            together = [job]
            while len(together) < self.max_workers:
                try:
                    more = self._jobs.get_nowait()
                except Empty:
                    break
                if more is None:
                    return
                together.append(more)
            dead.clear()
            together = [job for job in together if job[0].set_running_or_notify_cancel()]
            outcomes = [fn(*args) for _, fn, args in together]
            for (future, _, _), outcome in zip(together, outcomes, strict=True):
                if dead:
                    future.set_exception(KilledWorker("attempted to run on 4 workers"))
                else:
                    future.set_result(outcome)


dead: list[int] = []


def work(record: lp.NodeRecord) -> int:
    n: int = record.attributes["n"]
    if n % 7 == 3:
        dead.append(n)
    return 2 * n


@settings(max_examples=examples(20))
@given(
    count=st.integers(1, 40),
    size=st.integers(1, 8),
    threads=st.integers(1, 5),
    ordered=st.booleans(),
    retries=st.integers(0, 1),
)
def test_those_alone_are_blamed_that_kill(count: int, size: int, threads: int, ordered: bool, retries: int) -> None:
    with closing(SharedWorkers(threads)) as executor:
        found = list(
            concat(
                lp.parallel_map(
                    lp.outputs(work),
                    lp.chunked(size, records(count)),
                    executor=executor,
                    ordered=ordered,
                    retries=retries,
                    on_error="collect",
                )
            )
        )
    blamed = sorted(item.path for item in found if isinstance(item, lp.Failure))
    assert blamed == [(f"clip_{n:03}",) for n in range(count) if n % 7 == 3]
    assert {item.error for item in found if isinstance(item, lp.Failure)} <= {"WorkerDiedError"}
    made = {item.path: item.output for item in found if isinstance(item, lp.ProcessResult)}
    assert made == {(f"clip_{n:03}",): 2 * n for n in range(count) if n % 7 != 3}
    if ordered:
        assert [item.path for item in found] == [(f"clip_{n:03}",) for n in range(count)]


def test_a_death_is_an_error_where_it_is_not_collected() -> None:
    with closing(SharedWorkers(2)) as executor, pytest.raises(lp.WorkerDiedError, match="clip_003"):
        list(lp.parallel_map(lp.outputs(work), lp.chunked(1, records(9)), executor=executor))


# --- What executors say ----------------------------------------------------------------------------------------------


class Mute(Executor):
    """Does not say how many workers it has, and its futures can't be cancelled."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        class Started(Future[Any]):
            def cancel(self) -> bool:
                raise NotImplementedError

        future = Started()
        future.set_result(fn(*args))
        return future


def test_how_many_workers_there_are_must_be_known() -> None:
    with pytest.raises(lp.ArgumentError) as raised:
        lp.parallel_map(sum, executor=Mute())
    assert "max_workers" in (raised.value.hint or "")
    results = lp.parallel_map(sum, [[1], [2], [3]], executor=Mute(), max_workers=2)
    assert next(results) == 1
    results.close()


# --- Dask ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dask() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    import dask as settings_of_dask

    with (
        settings_of_dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor() as executor,
    ):
        yield executor
    gc.collect()


pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)


def test_what_is_local_travels_to_dask_and_back(dask: Any) -> None:
    class Local:
        def __init__(self, n: int) -> None:
            self.n = n

    add = itertools.count(5).__next__()
    results = lp.parallel_map(lambda batch: [Local(n + add) for n in batch], [[1], [2, 3]], executor=dask)
    assert [[local.n for local in batch] for batch in results] == [[6], [7, 8]]


def test_equal_batches_are_all_run_by_dask(dask: Any, tmp_path: Path) -> None:
    def run(batch: list[int]) -> int:
        with open(tmp_path / "runs", "ab", buffering=0) as file:
            file.write(b".")
        return sum(batch)

    assert list(lp.parallel_map(run, [[1, 2]] * 20, executor=dask)) == [3] * 20
    assert (tmp_path / "runs").stat().st_size == 20


def test_errors_come_back_from_dask(dask: Any) -> None:
    class Odd(Exception):
        def __init__(self, path: str, line: int) -> None:
            super().__init__(f"{path}:{line}")
            self.lock = threading.Lock()

    def fail(record: lp.NodeRecord) -> int:
        raise Odd("a.wav", record.attributes["n"])

    with pytest.raises(Exception, match=r"a\.wav:0") as raised:
        list(lp.parallel_map(lp.outputs(fail), [records(2)], executor=dask))
    assert any("clip_000" in note for note in raised.value.__notes__)
    ((first, second),) = lp.parallel_map(lp.outputs(fail), [records(2)], executor=dask, on_error="collect")
    assert [first.error, second.message] == ["Odd", "a.wav:1"]


def test_order_and_laziness_on_dask(dask: Any) -> None:
    pulled = []

    def source() -> Iterator[list[int]]:
        for number in range(100):
            pulled.append(number)
            yield [number]

    results = lp.parallel_map(sum, source(), executor=dask)
    assert not pulled
    assert [next(results) for _ in range(10)] == list(range(10))
    assert len(pulled) <= 10 + 2 * 4  # twice the threads that it has
    results.close()


def test_work_on_dask_is_measured_there(dask: Any) -> None:
    def work(record: lp.NodeRecord) -> int:
        start = time.perf_counter()
        while time.perf_counter() - start < 0.01:
            pass
        return 1

    batches = lp.chunked(3, records(12))
    report = lp.write(
        lp.inline("_p"), lotdb.BaseNode("root"), lp.parallel_map(lp.outputs(work), batches, executor=dask)
    )
    [row] = report.maps
    assert (row.name, row.mode, row.workers, row.batches) == ("work", "ClientExecutor", 4, 4)
    assert 12 * 0.01 <= row.working <= 4 * row.seconds


def test_who_kills_workers_of_dask_is_found(dask: Any) -> None:
    def work(record: lp.NodeRecord) -> int:
        if record.attributes["n"] == 5:
            os._exit(1)
        return 1

    found = list(
        concat(lp.parallel_map(lp.outputs(work), lp.chunked(4, records(12)), executor=dask, on_error="collect"))
    )
    assert [item.path for item in found] == [(f"clip_{n:03}",) for n in range(12)]
    assert [item.path for item in found if isinstance(item, lp.Failure)] == [("clip_005",)]


# --- Which worker this is --------------------------------------------------------------------------------------------


def told(batch: list[int]) -> tuple[int, int, lp.WorkerInfo]:
    return os.getpid(), threading.get_ident(), lp.worker_info()


def test_threads_know_which_they_are() -> None:
    together = threading.Barrier(4)

    def meet(batch: list[int]) -> lp.WorkerInfo:
        together.wait()
        return lp.worker_info()

    found = list(lp.parallel_map(meet, [[1]] * 8, mode="thread", max_workers=4))
    assert set(found[:4]) == set(found[4:]) == {lp.WorkerInfo(index, 4) for index in range(4)}
    assert lp.worker_info() == lp.WorkerInfo(0, 1)
    [(_, _, here)] = lp.parallel_map(told, [[1]], mode="sync")
    assert here == lp.WorkerInfo(0, 1)


def test_processes_know_which_they_are(tmp_path: Path) -> None:
    """Also as they begin, and one that takes the place of another."""

    def begin() -> None:
        (tmp_path / f"{os.getpid()}_{lp.worker_info().index}").touch()

    def work(batch: list[int]) -> tuple[int, int, lp.WorkerInfo]:
        if batch == [13] and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(1)
        return told(batch)

    found = list(lp.parallel_map(work, [[n] for n in range(40)], max_workers=2, initializer=begin))
    by_process = {pid: info for pid, _, info in found}
    assert all(by_process[pid] == info for pid, _, info in found)
    assert {info for _, _, info in found} <= {lp.WorkerInfo(0, 2), lp.WorkerInfo(1, 2)}
    begun = [file.name.split("_") for file in tmp_path.iterdir() if "_" in file.name]
    assert {int(pid): int(index) for pid, index in begun}.items() >= {
        pid: info.index for pid, info in by_process.items()
    }.items()
    again = list(lp.parallel_map(told, [[n] for n in range(20)], max_workers=3))  # workers of other calls among them
    assert {info.count for _, _, info in again} == {3}
    assert len({pid for pid, _, _ in again}) == len({info.index for _, _, info in again})


def test_workers_of_dask_know_which_they_are(dask: Any) -> None:
    found = list(lp.parallel_map(told, [[n] for n in range(40)], executor=dask))
    assert len({pid for pid, _, _ in found}) == len({info for _, _, info in found})
    assert {info.count for _, _, info in found} == {2}
