"""Which of its call's workers this is, for what has to be divided among them: a graphics card for each, say."""

from __future__ import annotations

from dataclasses import dataclass
from threading import local
from typing import Any, TypeAlias

from .._public import public

__all__ = ["Engine", "WorkerInfo", "be_worker", "be_worker_of", "engine_of", "worker_info", "workers_of"]

#: An engine that tells its workers which they are: its name, and what else is needed for that.
Engine: TypeAlias = "tuple[str, tuple[str, ...]] | None"


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


_of_process = WorkerInfo(0, 1)
_of_thread = local()


@public
def worker_info() -> WorkerInfo:
    """Tell a processor, or an initializer, which of the workers it runs in.

    >>> from lotproc import parallel_map, worker_info
    >>> list(parallel_map(lambda batch: worker_info(), [[1]], mode="sync"))
    [WorkerInfo(index=0, count=1)]

    Two workers that are at work at the same time have two numbers; one that takes the place of another has its number.
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
    if threads := _threads_of_dask(executor):
        return sum(threads.values())
    found = (getattr(executor, name, None) for name in ("_max_workers", "max_workers", "num_workers"))
    return next((number for number in found if type(number) is int and number > 0), None)


def _threads_of_dask(executor: Any) -> dict[str, int]:
    """How many threads each worker of Dask has, by its address, if it is Dask's executor."""
    client: Any = getattr(executor, "_client", None)
    return dict(client.nthreads()) if hasattr(client, "nthreads") else {}


def engine_of(executor: Any) -> Engine:
    """The engine behind an executor, if it is one of those."""
    if threads := _threads_of_dask(executor):
        return "dask", tuple(sorted(threads))
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

        address = get_worker().address
        index = workers.index(address) if address in workers else len(workers)  # which joined them since
        be_worker(index, max(index + 1, len(workers)))
    else:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        masters = int(MPI.Comm.Get_parent() == MPI.COMM_NULL)  # the first is the program, or it is in another world
        be_worker(world.rank - masters, world.size - masters)
