"""Executors of other engines: all that works on our own processes works on them, and nobody innocent is blamed."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, closing
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from engines import CANT, ENGINES, FEATURES, NEEDS, Engine, records, results_in, tree, write_all
from hypothesis import given, settings, strategies as st
from recording import examples
from toolz import concat

import lotproc as lp

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


@settings(max_examples=examples(10))
@given(size=st.integers(1, 8), threads=st.integers(1, 5), ordered=st.booleans())
def test_a_death_is_an_error_where_it_is_not_collected(size: int, threads: int, ordered: bool) -> None:
    """That of a record that kills, and not of one beside it."""
    with closing(SharedWorkers(threads)) as executor, pytest.raises(lp.WorkerDiedError) as raised:
        list(lp.parallel_map(lp.outputs(work), lp.chunked(size, records(30)), executor=executor, ordered=ordered))
    n = int((raised.value.path or ("clip_0",))[0].removeprefix("clip_"))
    assert n % 7 == 3
    assert n == 3 or not ordered


class Passing(Executor):
    """Makes so many calls, and then loses each, or refuses it.

    Args:
        calls: How many it makes.
        refuses: It takes no more.
    """

    max_workers = 2

    def __init__(self, calls: int, refuses: bool) -> None:
        self._calls, self._refuses = calls, refuses

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._calls -= 1
        future: Future[Any] = Future()
        if self._calls >= 0:
            future.set_result(fn(*args))
        elif self._refuses:
            raise RuntimeError("cannot schedule new futures after shutdown")
        else:
            future.set_exception(RuntimeError("no worker"))
        return future


@pytest.mark.parametrize("refuses", [True, False])
@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_an_engine_that_has_ended_ends_the_run_and_is_no_records_fault(refuses: bool, on_error: Any) -> None:
    found: list[Any] = []
    executor = Passing(3, refuses)
    with pytest.raises(lp.WorkerDiedError) as raised:
        found.extend(lp.parallel_map(len, lp.chunked(4, records(40)), executor=executor, on_error=on_error))
    assert found == [4, 4, 4]
    assert "Passing" in str(raised.value)
    assert raised.value.path is None
    assert isinstance(raised.value.__cause__, RuntimeError)


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


# --- What holds on every engine --------------------------------------------------------------------------------------

pytestmark = pytest.mark.filterwarnings("ignore")  # of engines, as they go


class OnMpi:
    """What holds in a program that mpirun runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        done = self.run()
        assert done.returncode == 0, done.stderr
        self.failed = json.loads((folder / "failed.json").read_text())

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        scripts = sysconfig.get_path("scripts")
        mpirun = shutil.which("mpirun", path=f"{scripts}{os.pathsep}{os.environ['PATH']}")
        if mpirun is None:
            pytest.skip("there is no mpirun")
        command = [mpirun, "--allow-run-as-root", "--oversubscribe", "-n", "3", sys.executable, "-m", "mpi4py.futures"]
        program = Path(__file__).with_name("engines.py")
        return subprocess.run(
            [*command, str(program), str(self.folder), *arguments], capture_output=True, text=True, timeout=120
        )


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Engine | OnMpi]]:
    """Starts an engine by its name, and ends the one before; tests of those whose packages are missing are skipped."""
    started: dict[str, Engine | OnMpi] = {}
    with ExitStack() as ending:

        def start(name: str) -> Engine | OnMpi:
            if name in NEEDS:
                pytest.importorskip(NEEDS[name])
            if name not in started:
                started.clear()
                ending.close()
                folder = tmp_path_factory.mktemp(name)
                started[name] = OnMpi(folder) if name == "mpi" else ending.enter_context(ENGINES[name](folder))
            return started[name]

        yield start
        started.clear()
    gc.collect()


def rounds(feature: str) -> int:
    """How often it is tried: it is by chance what else is on a worker that dies."""
    return max(1, examples(7)) if feature == "a_worker_that_dies" else 1


@pytest.mark.parametrize(
    ("name", "feature"),
    [(name, feature) for name in ENGINES for feature in FEATURES if feature not in CANT.get(name, {})],
)
def test_it_holds_on(name: str, feature: str, start: Callable[[str], Engine | OnMpi], tmp_path: Path) -> None:
    engine = start(name)
    if isinstance(engine, OnMpi):
        assert feature not in engine.failed, engine.failed[feature]
        return
    for number in range(rounds(feature)):
        engine.wait()
        (tmp_path / str(number)).mkdir()
        FEATURES[feature](engine, tmp_path / str(number))


@pytest.mark.parametrize("name", [name for name in ENGINES if "its workers are lost" in str(CANT.get(name))])
def test_a_run_ends_with_the_workers_of_its_executor(name: str, tmp_path: Path) -> None:
    """What is committed stays, the error says what to do, and that is right."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    path, mended = tree(tmp_path), tmp_path / "mended"
    with ENGINES[name](tmp_path) as engine:
        with pytest.raises(lp.WorkerDiedError) as raised:
            write_all(engine, path, str(mended))
        with pytest.raises(lp.WorkerDiedError):  # nor does it take another
            list(engine.map(sum, [[1]]))
    assert type(engine.executor).__name__ in str(raised.value)
    assert "pending" in (raised.value.hint or "")
    assert raised.value.path is None
    assert 0 < raised.value.report.written == len(results_in(path)) < 20
    mended.touch()
    with ENGINES[name](tmp_path) as engine:
        report = write_all(engine, path, str(mended))
    assert report.written == 20 - raised.value.report.written
    assert sorted(results_in(path)) == [2 * n for n in range(20)]


def test_what_is_committed_stays_where_mpirun_ends_the_program(
    start: Callable[[str], Engine | OnMpi], tmp_path: Path
) -> None:
    engine = start("mpi")
    assert isinstance(engine, OnMpi)
    path, mended = tree(tmp_path), tmp_path / "mended"
    assert engine.run(path, str(mended)).returncode != 0
    assert 0 < len(results_in(path)) < 20
    mended.touch()
    done = engine.run(path, str(mended))
    assert done.returncode == 0, done.stderr
    assert sorted(results_in(path)) == [2 * n for n in range(20)]


def test_ray_has_so_many_processes() -> None:
    pytest.importorskip("ray")
    from lotproc.executors import RayExecutor

    with pytest.raises(lp.ArgumentError):
        RayExecutor(0)
    with pytest.raises(lp.ArgumentTypeError):
        RayExecutor("two")  # type: ignore[arg-type]


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
