"""Executors of engines that bring none of their own: Ray."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from threading import Lock
from typing import Any

from ._extras import needed
from ._stage import check_count
from .models import counted, html_of
from .workers.info import be_worker

__all__ = ["RayExecutor"]


def __dir__() -> list[str]:
    return sorted(__all__)  # and not what is imported here


class RayExecutor(Executor):
    """Calls on processes of Ray, here or on a cluster: one call at a time on each.

    >>> from lotproc import parallel_map
    >>> from lotproc.executors import RayExecutor
    >>> with RayExecutor(2) as executor:  # doctest: +SKIP
    ...     list(parallel_map(sum, [[1, 2], [3, 4]], executor=executor))
    [3, 7]

    A process that dies is started again, by Ray. Where none is running, Ray is started on this machine, and stays.

    Args:
        max_workers: How many processes; by default one for each CPU that Ray has.
        options: What each process is given, by the names of `ray.remote`: `num_gpus=1`, `memory=`, `runtime_env=`. By
            default one CPU; and a call that a process died of is made once more, by the one in its place.

    Raises:
        ArgumentError, ArgumentTypeError: `max_workers` is no number from 1 on.
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, max_workers: int | None = None, **options: Any) -> None:
        if max_workers is not None:
            check_count("RayExecutor", "max_workers", max_workers)
        self._ray = ray = needed("ray", "ray", "RayExecutor()")
        if not ray.is_initialized():
            ray.init()
        self.max_workers = max_workers or int(ray.cluster_resources()["CPU"])
        kind = ray.remote(**{"num_cpus": 1, "max_restarts": -1, "max_task_retries": 1, **options})(_Worker)
        self._workers = [kind.remote(index, self.max_workers) for index in range(self.max_workers)]
        self._at_work = [0] * self.max_workers
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<RayExecutor of {counted(self.max_workers, 'worker')}>"

    def _repr_html_(self) -> str:
        return html_of(self, "", [("max_workers", self.max_workers), ("at work", sum(self._at_work))])

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function on the process that has the least to do."""
        with self._lock:
            index = min(range(self.max_workers), key=self._at_work.__getitem__)
            self._at_work[index] += 1
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # since Ray may not take it back
        made = self._workers[index].call.remote(fn, args, kwargs).future()
        made.add_done_callback(lambda made: self._is_done(index, made, future))
        return future

    def _is_done(self, index: int, made: Future[Any], future: Future[Any]) -> None:
        with self._lock:
            self._at_work[index] -= 1
        if (error := made.exception()) is None:
            future.set_result(made.result())
        else:
            future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; what was given to them is waited for, unless that is not wanted."""
        if wait and not cancel_futures:
            self._ray.wait([worker.ready.remote() for worker in self._workers], num_returns=self.max_workers)
        for worker in self._workers:
            self._ray.kill(worker)


class _Worker:
    """A process of Ray."""

    def __init__(self, index: int, count: int) -> None:
        be_worker(index, count, in_thread=False)

    def call(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    def ready(self) -> None:
        """Answered when all calls before it are done."""
