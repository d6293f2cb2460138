"""Worker processes that are started outside the timed parts: lotproc's, and those of Dask, MPI and Ray."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from functools import cache
from time import sleep
from typing import Any, TypeVar

import lotproc as lp
from benchmarks.measuring import in_fresh_process

T = TypeVar("T")

WORKERS = 2


def start_workers() -> None:
    """Start the worker processes, which lotproc keeps, and let each of them load what it needs."""
    while len(set(lp.parallel_map(awake, range(4 * WORKERS), max_workers=WORKERS))) < WORKERS:
        pass


def awake(_: int) -> int:
    """The worker process that this ran in."""
    lp.scan("duration")
    sleep(0.05)  # so that no worker can take all calls
    return os.getpid()


def started_ray() -> Any:
    """Ray, on this machine alone, with workers that are ready; imported here, since that takes long."""
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"})
    import ray

    if not ray.is_initialized():
        ray.init(num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        ray.get([ray.remote(awake).remote(number) for number in range(4 * WORKERS)])
    return ray


@cache
def started_dask() -> Any:
    """A client of Dask, with workers of one thread each on this machine that are ready."""
    from distributed import Client

    client = Client(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
    client.gather(client.map(awake, range(4 * WORKERS), pure=False))
    return client


def under_mpi(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a new process that has the workers of MPI."""
    mpirun = shutil.which("mpirun", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None:
        raise OSError("there is no mpirun")
    start = [mpirun, "--allow-run-as-root", "--oversubscribe", "-n", str(1 + WORKERS)]
    return in_fresh_process(function, *arguments, command=[*start, sys.executable, "-m", "mpi4py.futures"])
