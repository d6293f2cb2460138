"""Worker processes that are started outside the timed parts: lotproc's, and Ray's."""

from __future__ import annotations

import os
from time import sleep
from typing import Any

import lotproc as lp

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
