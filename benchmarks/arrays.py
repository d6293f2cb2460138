"""Records with 1 MB arrays, to worker processes and back, against joblib's memory maps and Ray's object store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from toolz import concat

import lotproc as lp
from benchmarks.engines import WORKERS, start_workers, started_ray
from benchmarks.measuring import Measured, seconds
from benchmarks.rows import LONGER, Row, row
from benchmarks.store_files import build_nothing
from benchmarks.trees import Digest, digest

MEGABYTE = 1 << 20
Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"


def consumed(work: Callable[[], Iterable[lp.ProcessResult]]) -> Measured:
    """Take all results, and add them up, inside the timed part."""
    found: list[Digest] = []
    value = seconds(lambda: found.append(digest((result.path, float(np.sum(result.output))) for result in work())))
    return Measured(value, found[0])


def arrays(count: int) -> Iterator[tuple[str, Array]]:
    """Keys, and 1 MB for each, made as they are asked for."""
    for number in range(count):
        yield f"clip_{number:05d}", np.full(MEGABYTE // 4, number % 100, dtype=np.float32)


def records(count: int) -> Iterator[lp.NodeRecord]:
    return (lp.NodeRecord((key,), key, {"samples": samples}) for key, samples in arrays(count))


def louder(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, output=record.attributes["samples"] * 2)


def louder_pair(key: str, samples: Array) -> tuple[str, Array]:
    return key, samples * 2


def as_results(pairs: Iterable[tuple[str, Array]]) -> Iterator[lp.ProcessResult]:
    return (lp.ProcessResult((key,), samples) for key, samples in pairs)


def to_workers(folder: Path, count: int) -> Measured:
    start_workers()
    return consumed(
        lambda: concat(lp.parallel_map(lp.each(louder), lp.chunked(1, records(count)), max_workers=WORKERS))
    )


def to_joblib(folder: Path, count: int) -> Measured:
    import joblib

    parallel = joblib.Parallel(n_jobs=WORKERS, max_nbytes=MEGABYTE // 2)
    return consumed(lambda: as_results(parallel(joblib.delayed(louder_pair)(*pair) for pair in arrays(count))))


def to_ray(folder: Path, count: int) -> Measured:
    ray = started_ray()
    return consumed(lambda: as_results(in_ray(ray, ray.remote(louder_pair), arrays(count))))


def in_ray(ray: Any, task: Any, items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Results in order, a few tasks ahead, as lotproc holds them."""
    waiting: list[Any] = []
    for item in items:
        waiting.append(task.remote(*item))
        if len(waiting) == 2 * WORKERS:
            yield ray.get(waiting.pop(0))
    yield from map(ray.get, waiting)


def rows(leaves: int) -> list[Row]:
    count = min(400, leaves // 20)
    work = f"{count:,} records with 1 MB arrays, to two processes and back, a record"
    like = partial(row, work, size=count, build=build_nothing, items=count, writes=True)
    return [
        like("`joblib`, arrays in memory maps", to_workers, to_joblib, 1, LONGER),
        like("Ray, arrays in its object store", to_workers, to_ray, 1, LONGER),
    ]
