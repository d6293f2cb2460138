"""What `parallel_map` does on every engine, and the engines: one list of features, one of engines, and what can't be.

A feature is a function that gets an engine, and fails where it does not hold there. What it sends to workers is defined
inside of it, so that it travels by value: a worker may know neither this module nor its folder. Run as a program by
`mpirun -m mpi4py.futures`, this module tells what holds there as JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import lotdb
import numpy as np
import pytest
from toolz import compose_left, concat

import lotproc as lp

__all__ = ["CANT", "ENGINES", "FEATURES", "NEEDS", "Engine", "records", "results_in", "tree", "write_all"]


@dataclass(frozen=True)
class Engine:
    """An engine's executor, and what has to be said of it.

    Args:
        executor: It.
        options: What it does not say itself: `max_workers`.
        workers: How many of its workers have a number of their own; `None` where it tells none.
        wait: Waits until they are there again, where one has died.
    """

    executor: Executor
    options: dict[str, Any] = field(default_factory=dict)
    workers: int | None = None
    wait: Callable[[], object] = lambda: None

    def map(self, fn: Any, batches: Any, **options: Any) -> Any:
        """`parallel_map` on it."""
        return lp.parallel_map(fn, batches, executor=self.executor, **self.options, **options)


def records(count: int) -> list[lp.NodeRecord]:
    return [lp.NodeRecord((f"clip_{n:03}",), f"clip_{n:03}", {"n": n}) for n in range(count)]


def tree(folder: Path) -> str:
    """A committed tree of 20 clips with numbers and arrays, in a file: its path."""
    path = str(folder / "corpus.fs")
    with lp.open_root(path, create=True) as root:
        for n in range(20):
            clip = root.gns([f"speaker_{n % 4}", f"clip_{n:03}"])
            clip.set_attribute("n", n)
        root._p_jar.transaction_manager.commit()
        made = [lp.ProcessResult(record.path, np.arange(5) + record.attributes["n"]) for record in lp.scan("n", root)]
        lp.write(lp.inline("_array"), root, made, output_attribute="data", arrays="blob")
        root._p_jar.transaction_manager.commit()
    return path


# --- Features --------------------------------------------------------------------------------------------------------


def order(engine: Engine, folder: Path) -> None:
    """The first of a few takes longest."""

    def work(batch: list[int]) -> int:
        time.sleep(0.02 if batch[0] % 4 == 0 else 0.0)
        return 2 * batch[0]

    numbers = [[n] for n in range(24)]
    assert list(engine.map(work, numbers)) == [2 * n for n in range(24)]
    assert sorted(engine.map(work, numbers, ordered=False)) == [2 * n for n in range(24)]


def laziness(engine: Engine, folder: Path) -> None:
    """Nothing is pulled before it is asked for, and no more than `buffersize` batches ahead of what was taken."""
    pulled = []

    def source() -> Iterator[list[int]]:
        for number in range(100):
            pulled.append(number)
            yield [number]

    results = engine.map(sum, source(), buffersize=3)
    assert not pulled
    for number in range(20):
        assert next(results) == number
        assert len(pulled) <= number + 1 + 3
    results.close()


def closures(engine: Engine, folder: Path) -> None:
    class Local:
        def __init__(self, n: int) -> None:
            self.n = n

    add = itertools.count(5).__next__

    def twice(fn: Callable[[int], int]) -> Callable[[int], int]:
        return lambda n: fn(fn(n))

    first, increased = add(), twice(lambda n: n + 1)
    results = engine.map(lambda batch: (Local(increased(n) + first) for n in batch), [[1], [2, 3]])
    assert [[local.n for local in batch] for batch in results] == [[8], [9, 10]]


def equal_calls(engine: Engine, folder: Path) -> None:
    """Equal batches are all run, also those of another run, for each may do something."""
    file = str(folder / "runs")

    def run(batch: list[int]) -> int:
        with open(file, "ab", buffering=0) as runs:
            runs.write(b".")
        return sum(batch)

    halfway = engine.map(run, [[1, 2]] * 10, buffersize=10)
    assert next(halfway) == 3
    assert list(engine.map(run, [[1, 2]] * 10)) == [3] * 10
    assert list(halfway) == [3] * 9
    assert os.path.getsize(file) == 20


def errors(engine: Engine, folder: Path) -> None:
    """What was raised comes out, with its type, the lines of code and a note; the batches before it come first."""

    def invert(record: lp.NodeRecord) -> float:
        return 1 / (record.attributes["n"] - 5)

    found = []
    with pytest.raises(ZeroDivisionError) as raised:
        found.extend(concat(engine.map(lp.outputs(invert), lp.chunked(2, records(12)))))
    assert any("clip_005" in note for note in raised.value.__notes__)
    assert "invert" in [frame.name for frame in traceback.extract_tb(raised.tb)]
    assert [result.path for result in found] == [(f"clip_{n:03}",) for n in range(4)]


def collected(engine: Engine, folder: Path) -> None:
    def invert(record: lp.NodeRecord) -> float:
        return 1 / (record.attributes["n"] % 7 - 3)

    found = list(concat(engine.map(lp.outputs(invert), lp.chunked(4, records(20)), on_error="collect")))
    assert [item.path for item in found] == [(f"clip_{n:03}",) for n in range(20)]
    failed = [item for item in found if isinstance(item, lp.Failure)]
    assert [(item.path, item.error) for item in failed] == [
        ((f"clip_{n:03}",), "ZeroDivisionError") for n in (3, 10, 17)
    ]


def retries(engine: Engine, folder: Path) -> None:
    """A record that fails twice succeeds the third time; the others are tried once more at most."""
    tries = str(folder / "tries_")

    def work(record: lp.NodeRecord) -> int:
        with open(tries + record.key, "ab", buffering=0) as file:
            file.write(b".")
            if record.attributes["n"] == 5 and file.tell() < 4:
                raise OSError("busy")
        return 1

    found = list(concat(engine.map(lp.outputs(work), lp.chunked(4, records(8)), on_error="collect", retries=3)))
    assert [item.output for item in found] == [1] * 8
    assert os.path.getsize(tries + "clip_005") == 4


def errors_that_cannot_travel(engine: Engine, folder: Path) -> None:
    class Odd(Exception):
        def __init__(self, path: str, line: int) -> None:
            super().__init__(f"{path}:{line}")
            self.lock = threading.Lock()

    def fail(record: lp.NodeRecord) -> int:
        raise Odd("a.wav", record.attributes["n"])

    with pytest.raises(Exception, match=r"a\.wav:0") as raised:
        list(engine.map(lp.outputs(fail), [records(2)]))
    assert type(raised.value).__name__ == "Odd"
    ((first, second),) = engine.map(lp.outputs(fail), [records(2)], on_error="collect")
    assert [first.error, second.message] == ["Odd", "a.wav:1"]


def results_that_cannot_travel(engine: Engine, folder: Path) -> None:
    def work(record: lp.NodeRecord) -> Any:
        return threading.Lock() if record.attributes["n"] == 1 else 0

    found = list(concat(engine.map(lp.outputs(work), [records(3)], on_error="collect")))
    assert [(type(item).__name__, item.path) for item in found] == [
        ("ProcessResult", ("clip_000",)),
        ("Failure", ("clip_001",)),
        ("ProcessResult", ("clip_002",)),
    ]


def processors_that_cannot_be_loaded(engine: Engine, folder: Path) -> None:
    """That is no record's fault, so it ends the run."""

    class Unloadable:
        def __call__(self, batch: list[int]) -> int:
            return 0

        def __reduce__(self) -> Any:
            def load() -> Any:
                raise ImportError("no module named 'left_at_home'")

            return load, ()

    with pytest.raises(lp.NotReadyError, match="left_at_home"):
        list(engine.map(Unloadable(), [records(3)], on_error="collect"))


def a_worker_that_dies(engine: Engine, folder: Path) -> None:
    """The culprit fails, and nobody else."""

    def work(record: lp.NodeRecord) -> int:
        if record.attributes["n"] == 5:
            os._exit(1)
        return 1

    found = list(concat(engine.map(lp.outputs(work), lp.chunked(4, records(12)), on_error="collect")))
    assert [item.path for item in found] == [(f"clip_{n:03}",) for n in range(12)]
    assert [(item.path, item.error) for item in found if isinstance(item, lp.Failure)] == [
        (("clip_005",), "WorkerDiedError")
    ]


def a_worker_that_is_killed(engine: Engine, folder: Path) -> None:
    """From outside, once: that costs no record, also where errors are raised."""
    flag = str(folder / "killed")

    def work(record: lp.NodeRecord) -> int:
        if record.attributes["n"] == 5 and not os.path.exists(flag):
            open(flag, "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return 1

    found = list(concat(engine.map(lp.outputs(work), lp.chunked(4, records(12)))))
    assert [item.path for item in found] == [(f"clip_{n:03}",) for n in range(12)]
    engine.wait()
    if engine.workers is not None:
        worker_info(engine, folder)  # one that takes the place of another has its number


def early_close(engine: Engine, folder: Path) -> None:
    """What was not begun is not begun any more, the source is closed, and the executor takes the next call."""
    file, is_closed = str(folder / "begun"), []

    def work(batch: list[int]) -> int:
        with open(file, "ab", buffering=0) as begun:
            begun.write(b".")
        time.sleep(0.1)
        return batch[0]

    def source() -> Iterator[list[int]]:
        try:
            for number in range(1000):
                yield [number]
        finally:
            is_closed.append(True)

    results = engine.map(work, source(), buffersize=20)
    assert next(results) == 0
    results.close()
    assert is_closed
    assert list(engine.map(sum, [[1], [2]])) == [1, 2]
    assert os.path.getsize(file) < 20


def seconds_of_work(engine: Engine, folder: Path) -> None:
    """They are measured where the work is done."""

    def work(record: lp.NodeRecord) -> int:
        time.sleep(0.01)
        return 1

    results = engine.map(lp.outputs(work), lp.chunked(3, records(12)))
    [row] = lp.write(lp.inline("_p"), lotdb.BaseNode("root"), results).maps
    assert (row.name, row.mode, row.batches) == ("work", type(engine.executor).__name__, 4)
    assert 12 * 0.01 <= row.working <= row.workers * row.seconds


def progress(engine: Engine, folder: Path) -> None:
    with redirect_stderr(StringIO()) as shown:
        assert list(lp.progress(engine.map(sum, [[n] for n in range(6)]), total=6, desc="clips")) == list(range(6))
    assert "clips: 6 of 6" in shown.getvalue()


def places(engine: Engine, folder: Path) -> None:
    """Parts of a file are scanned in the workers."""
    with lp.open_root(tree(folder), read_only=True) as root:
        count = compose_left(lp.scan("n", skip="_*"), list, len)
        parts = list(lp.partitions(3, root, skip="_*"))
        assert sum(engine.map(count, parts)) == 20
        numbers = compose_left(lp.scan("n", skip="_*"), lambda found: [record.attributes["n"] for record in found])
        found = list(concat(engine.map(numbers, parts)))
        assert found == [record.attributes["n"] for record in lp.scan("n", root, skip="_*")]


def handles(engine: Engine, folder: Path) -> None:
    """Payloads are read in the workers."""
    with lp.open_root(tree(folder), read_only=True) as root:
        batches = lp.chunked(3, lp.scan((), root, payload="data", where="^_array$"))
        total = lp.outputs(lambda record: int(record.payload.read().sum()))
        found = {result.path[1]: result.output for result in concat(engine.map(total, batches))}
    assert found == {f"clip_{n:03}": 10 + 5 * n for n in range(20)}


def settings(engine: Engine, folder: Path) -> None:
    """numpy's are those of the caller, in every batch as it is pulled."""

    def invert(batch: list[int]) -> str:
        try:
            return str((np.ones(1) / np.zeros(1))[0])
        except FloatingPointError:
            return "raised"

    with np.errstate(divide="raise"):
        assert list(engine.map(invert, [[1], [2]])) == ["raised"] * 2
    with np.errstate(divide="ignore"):
        assert list(engine.map(invert, [[1], [2]])) == ["inf"] * 2


def notes(engine: Engine, folder: Path) -> None:
    """The warning of a name that no node has comes once, at the end."""
    with lp.open_root(tree(folder), read_only=True) as root, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        count = compose_left(lp.scan("m", skip="_*"), list, len)
        list(engine.map(count, list(lp.partitions(3, root, skip="_*"))))
    assert sum("'m'" in str(warning.message) for warning in found) == 1


def worker_info(engine: Engine, folder: Path) -> None:
    """Each process has a number of its own."""

    def told(batch: list[int]) -> tuple[int, lp.WorkerInfo]:
        time.sleep(0.01)
        return os.getpid(), lp.worker_info()

    found = dict(engine.map(told, [[n] for n in range(40)]))
    assert engine.workers is not None, found
    assert {info.count for info in found.values()} == {engine.workers}
    assert len({info.index for info in found.values()}) == len(found) == engine.workers


FEATURES: dict[str, Callable[[Engine, Path], None]] = {
    feature.__name__: feature
    for feature in (
        *(order, laziness, closures, equal_calls, errors, collected, retries, errors_that_cannot_travel),
        *(results_that_cannot_travel, processors_that_cannot_be_loaded, early_close, seconds_of_work, progress),
        *(places, handles, settings, notes, worker_info, a_worker_that_dies, a_worker_that_is_killed),
    )
}


# --- Engines ---------------------------------------------------------------------------------------------------------


@contextmanager
def threads(_: Path) -> Iterator[Engine]:
    with ThreadPoolExecutor(2) as executor:
        yield Engine(executor)


@contextmanager
def processes(_: Path) -> Iterator[Engine]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        yield Engine(executor)


@contextmanager
def loky(_: Path) -> Iterator[Engine]:
    from loky import ProcessPoolExecutor as LokyExecutor

    with LokyExecutor(2) as executor:
        yield Engine(executor)


@contextmanager
def dask(_: Path) -> Iterator[Engine]:
    """As its page tells: a record that kills its worker is on one worker a run, and no worker is given up for that."""
    import dask as settings_of_dask
    import distributed

    with (
        settings_of_dask.config.set(
            {"distributed.scheduler.allowed-failures": 0, "distributed.deploy.lost-worker-timeout": "1 hour"}
        ),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            processes=True,
            dashboard_address=":0",
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor() as executor,
    ):
        yield Engine(executor, workers=2, wait=lambda: client.wait_for_workers(2))


@contextmanager
def mpi(_: Path) -> Iterator[Engine]:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as executor:
        yield Engine(executor, workers=2)


@contextmanager
def ray(_: Path) -> Iterator[Engine]:
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"})
    import ray

    from lotproc.executors import RayExecutor

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        with RayExecutor() as executor:
            yield Engine(executor, workers=2)
    finally:
        ray.shutdown()


@contextmanager
def parsl(folder: Path) -> Iterator[Engine]:
    from parsl import Config
    from parsl.concurrent import ParslPoolExecutor
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    workers = HighThroughputExecutor(
        address="127.0.0.1",
        max_workers_per_node=2,
        heartbeat_period=1,  # after so many seconds it looks for workers that have died
        heartbeat_threshold=20,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    config = Config([workers], run_dir=str(folder / "parsl"), strategy="none", initialize_logging=False)
    with ParslPoolExecutor(config) as executor:
        yield Engine(executor, {"max_workers": 2})


@contextmanager
def executorlib(_: Path) -> Iterator[Engine]:
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_workers=2, hostname_localhost=True, block_allocation=True) as executor:
        yield Engine(executor, {"max_workers": 2})


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Engine]]] = {
    engine.__name__: engine for engine in (threads, processes, loky, dask, mpi, ray, parsl, executorlib)
}
#: The packages that they need.
NEEDS = {"dask": "distributed", "mpi": "mpi4py", "ray": "ray", "parsl": "parsl", "executorlib": "executorlib"}

_DEATHS = ("a_worker_that_dies", "a_worker_that_is_killed")
_BREAKS = dict.fromkeys(_DEATHS, "its workers are lost for good then: the run ends, and says so")
_NO_NUMBERS = {"worker_info": "it does not tell its workers which they are"}
_NOT_TAKEN_BACK = {"early_close": "what was given to it runs to its end"}
#: What an engine can't do, and why.
CANT: dict[str, dict[str, str]] = {
    "threads": {
        **_NO_NUMBERS,
        **dict.fromkeys(_DEATHS, "a thread takes its program along"),
        **dict.fromkeys(
            ("errors_that_cannot_travel", "results_that_cannot_travel", "processors_that_cannot_be_loaded"),
            "nothing travels",
        ),
    },
    "processes": {**_NO_NUMBERS, **_BREAKS},
    "loky": {**_NO_NUMBERS, **_BREAKS},
    "mpi": dict.fromkeys(_DEATHS, "mpirun ends the program then"),
    "ray": _NOT_TAKEN_BACK,
    "parsl": {
        **_NO_NUMBERS,
        **_NOT_TAKEN_BACK,
        **dict.fromkeys(_DEATHS, "while a result is on its way, a worker may take a lock along that all others need"),
    },
    "executorlib": {**_NO_NUMBERS, **_NOT_TAKEN_BACK, "a_worker_that_dies": _BREAKS["a_worker_that_dies"]},
}


# --- A run that loses all workers ------------------------------------------------------------------------------------


def write_all(engine: Engine, path: str, mended: str) -> lp.WriteReport:
    """Write a result for each clip that has none; its worker dies of one of the last, until there is a certain file."""

    def work(record: lp.NodeRecord) -> int:
        n: int = record.attributes["n"]
        if n == 14 and not os.path.exists(mended):
            os._exit(1)
        return 2 * n

    policy = lp.inline("_result")
    with lp.open_root(path) as root:
        todo = lp.pending(policy, root, lp.scan("n", root, skip="_*"), version="1")
        results = engine.map(lp.outputs(work), lp.chunked(2, todo), buffersize=2)
        return lp.write(policy, root, results, version="1", commit_every=3)


def results_in(path: str) -> list[int]:
    """What is written there by now."""
    with lp.open_root(path, read_only=True) as root:
        return [record.attributes["result"] for record in lp.scan("result", root, where="^_result$")]


# --- A program for mpirun --------------------------------------------------------------------------------------------


def main(folder: Path, path: str = "", mended: str = "") -> None:
    """Say as JSON which features do not hold on MPI, and why; or write the results of a tree."""
    with mpi(folder) as engine:
        if path:
            write_all(engine, path, mended)
            return
        failed = {}
        for name, feature in FEATURES.items():
            if name not in CANT["mpi"]:
                (folder / name).mkdir()
                try:
                    feature(engine, folder / name)
                except Exception:
                    failed[name] = traceback.format_exc()
        (folder / "failed.json").write_text(json.dumps(failed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
