"""The job of the page about clusters, on each engine and in each storage: a program as users start it."""

from __future__ import annotations

import gc
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from lotdb import BaseNode
from recording import contents
from servers import in_file, in_rows, on_zeo

import lotproc as lp

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "cluster.py"
CLIPS = 90

STORAGES: dict[str, Callable[..., AbstractContextManager[str]]] = {"file": in_file, "zeo": on_zeo, "rows": in_rows}
#: What each engine needs.
ENGINES = {"processes": "loky", "dask": "distributed", "mpi": "mpi4py", "ray": "ray"}


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of Dask's scheduler, which has two workers."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address
    gc.collect()


def done(request: pytest.FixtureRequest, engine: str, program: Path, *arguments: str) -> list[str]:
    """The lines that a program prints, run as the page says; skipped where the engine is missing."""
    if importlib.util.find_spec(ENGINES[engine]) is None:
        pytest.skip(f"{ENGINES[engine]} is not installed")
    command = [sys.executable]
    if engine == "mpi":
        mpirun = shutil.which("mpirun", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
        if mpirun is None:
            pytest.skip("there is no mpirun")
        command = [mpirun, "--allow-run-as-root", "--oversubscribe", "-n", "3", *command, "-m", "mpi4py.futures"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if engine == "dask":
        environment["DASK_SCHEDULER_ADDRESS"] = request.getfixturevalue("scheduler")
    ended = subprocess.run(
        [*command, str(program), *arguments], capture_output=True, text=True, timeout=200, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def seconds(number: int) -> float:
    return number % 17 / 2


def plant(root: BaseNode) -> None:
    for number in range(CLIPS):
        root.gns([f"speaker_{number % 4}", f"clip_{number:02}"]).set_attribute("seconds", seconds(number))
    root._p_jar.transaction_manager.commit()


@pytest.fixture(scope="module")
def in_line(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What is in the tree in the end, where the job is done in line and on a file."""
    example = runpy.run_path(str(EXAMPLE))
    with lp.open_root(str(tmp_path_factory.mktemp("in_line") / "corpus.fs"), create=True) as root:
        plant(root)
        assert example["run"](root, mode="sync").written == CLIPS
        for number in range(CLIPS):
            node = root.get_node_path([f"speaker_{number % 4}", f"clip_{number:02}", "_words"])
            assert node.get_attribute("result") == round(2.5 * seconds(number))
        return contents(root)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_tree_is_that_of_the_job_in_line(
    engine: str, storage: str, in_line: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with STORAGES[storage](tmp_path, request) as uri:
        with lp.open_root(uri, create=True) as root:
            plant(root)
        said = done(request, engine, EXAMPLE, uri, engine)
        assert said[-1].startswith(f"{CLIPS} results written"), said
        with lp.open_root(uri, read_only=True) as root:
            assert contents(root) == in_line


#: Asks for the model of the example in each batch.
PROGRAM = f"""
import os, runpy, sys, time
import lotproc as lp

example = runpy.run_path({str(EXAMPLE)!r})
model = example["model"]

def told(batch):
    model()
    time.sleep(0.01)  # so that no worker can take all batches
    return os.getpid(), lp.worker_info().index, model.cache_info().misses

if __name__ == "__main__":
    def job(**where):
        return set(lp.parallel_map(told, [[number] for number in range(100)], **where))

    print(sorted(example[sys.argv[1]](job)))
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_each_worker_loads_its_model_once(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    found = eval(done(request, engine, program, engine)[-1])
    assert sorted(index for _, index, _ in found) == list(range(len(found)))
    assert len({process for process, _, _ in found}) == len(found)
    assert {loaded for _, _, loaded in found} == {1}
