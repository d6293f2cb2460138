"""Which of its call's workers this is, for what has to be divided among them: a graphics card for each, say."""

from __future__ import annotations

from dataclasses import dataclass
from threading import local
from typing import Any, TypeAlias

from .._public import public
from .._spelling import spelled
from ..models import html_of_fields

__all__ = ["Engine", "WorkerInfo", "be_worker", "be_worker_of", "engine_of", "worker_info", "workers_of"]

#: An engine that tells its workers which they are: its name, and those of its workers where they are needed for that.
Engine: TypeAlias = "tuple[str, tuple[Any, ...]] | None"


@public
@dataclass(frozen=True)
class WorkerInfo:
    """Which worker this is.

    Args:
        index: Its number, from 0.
        count: How many there are.
    """

    index: int
    count: int

    _repr_html_ = html_of_fields


_of_process = WorkerInfo(0, 1)
_of_thread = local()


@public
@spelled
def worker_info() -> WorkerInfo:
    """Tell a processor, or an initializer, which of the workers it runs in.

    >>> from lotproc import parallel_map, worker_info
    >>> list(parallel_map(lambda batch: worker_info(), [[1]], mode="sync"))
    [WorkerInfo(index=0, count=1)]

    Two workers that are at work at the same time have two numbers; one that takes the place of another has its number
    (on Dask where it has its name, as in a cluster; those that join while a call is at work have none of their own).
    So `f"cuda:{worker_info().index % cards}"` gives each process a graphics card of its own, as far as they go.

    Returns:
        A `WorkerInfo`, whose number is that of the call's thread or process, or of the process of Dask, MPI or Ray,
        where their executor was handed in. In line, with `mode="async"`, outside of `parallel_map` and on other
        executors, of which it is not known, it is the first of one.
    """
    found: WorkerInfo = getattr(_of_thread, "info", _of_process)
    return found


def be_worker(index: int, count: int, *, in_thread: bool = True) -> None:
    """Note which worker this thread is, or this process with all threads of which nothing else is known."""
    global _of_process
    if in_thread:
        _of_thread.info = WorkerInfo(index, count)
    else:
        _of_process = WorkerInfo(index, count)


def workers_of(executor: Any) -> int | None:
    """How many workers an executor has, if it says so: those of the standard library, loky, Dask, MPI and Ray do."""
    if (workers := _workers_of_dask(executor)) is not None:
        return sum(worker["nthreads"] for worker in workers) or None
    found = (getattr(executor, name, None) for name in ("_max_workers", "max_workers", "num_workers"))
    return next((number for number in found if type(number) is int and number > 0), None)


def _workers_of_dask(executor: Any) -> list[dict[str, Any]] | None:
    """What Dask says of each of its workers, if it is Dask's executor."""
    client: Any = getattr(executor, "_client", None)
    if not hasattr(client, "scheduler_info"):
        return None
    return list(client.scheduler_info(n_workers=-1)["workers"].values())


def engine_of(executor: Any) -> Engine:
    """The engine behind an executor, if it is one of those."""
    if (workers := _workers_of_dask(executor)) is not None:
        names = [worker["name"] for worker in workers]
        return "dask", tuple(sorted(names, key=lambda name: (type(name).__name__, name)))
    if type(executor).__module__.startswith("mpi4py."):
        return "mpi", ()
    return None


def be_worker_of(engine: Engine) -> None:
    """Note which worker of an engine this is, before it works."""
    if engine is None:
        return
    name, workers = engine
    if name == "dask":
        from distributed import get_worker

        worker = get_worker().name  # which one that takes its place has too
        index = workers.index(worker) if worker in workers else len(workers)  # it joined them since
        be_worker(index, max(index + 1, len(workers)))
    else:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        masters = int(MPI.Comm.Get_parent() == MPI.COMM_NULL)  # the first is the program, or it is in another world
        be_worker(world.rank - masters, world.size - masters)
