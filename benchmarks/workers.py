"""`parallel_map` alone: to worker processes and back, against the executors that one would take instead.

Where there is nothing to build, a side gets an empty folder, and the number of records, arrays, matrices or calls.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import loky
import numpy as np
from toolz import concat, pipe

import lotproc as lp
from benchmarks.arrays import consumed
from benchmarks.engines import WORKERS, awake, start_workers, started_dask, started_ray, under_mpi
from benchmarks.measuring import WARM_UP, Measured, in_fresh_process, seconds
from benchmarks.pipelines import double
from benchmarks.rows import CALLS, FASTER, LONGER, Row, row
from benchmarks.store_files import build_nothing
from benchmarks.trees import Digest, digest, duration, leaf_path
from lotproc.executors import RayExecutor

BATCH = 100


def records(count: int) -> list[lp.NodeRecord]:
    paths = map(leaf_path, range(count))
    return [lp.NodeRecord(path, path[-1], {"duration": duration(index)}) for index, path in enumerate(paths)]


# Small records


def double_all(batch: list[lp.NodeRecord]) -> list[lp.ProcessResult]:
    return [double(record) for record in batch]


def batches_to_workers(folder: Path, count: int) -> Measured:
    start_workers()
    batches = list(lp.chunked(BATCH, records(count)))
    return consumed(lambda: concat(lp.parallel_map(lp.each(double), batches, max_workers=WORKERS)))


def batches_to_executor(folder: Path, count: int) -> Measured:
    batches = list(lp.chunked(BATCH, records(count)))
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(double_all, batches[: 2 * WORKERS]))  # its workers are started here
        return consumed(lambda: concat(pool.map(double_all, batches)))


# Engines: all batches may be on their way at once


def batches_on(engine: Executor, count: int) -> Measured:
    batches = list(lp.chunked(BATCH, records(count)))
    return consumed(lambda: concat(lp.parallel_map(double_all, batches, executor=engine, buffersize=len(batches))))


def batches_to_dask(folder: Path, count: int) -> Measured:
    with started_dask().get_executor() as executor:
        return batches_on(executor, count)


def batches_to_client(folder: Path, count: int) -> Measured:
    client, batches = started_dask(), list(lp.chunked(BATCH, records(count)))
    return consumed(lambda: concat(client.gather(client.map(double_all, batches))))


def batches_to_ray(folder: Path, count: int) -> Measured:
    started_ray()
    with RayExecutor(WORKERS) as executor:
        list(lp.parallel_map(awake, range(4 * WORKERS), executor=executor))
        return batches_on(executor, count)


def batches_to_tasks(folder: Path, count: int) -> Measured:
    ray, batches = started_ray(), list(lp.chunked(BATCH, records(count)))
    task = ray.remote(double_all)
    return consumed(lambda: concat(ray.get([task.remote(batch) for batch in batches])))


def on_mpi(run: Callable[[Any, int], Measured], folder: Path, count: int) -> Measured:
    return under_mpi(with_mpi_workers, run, count)


def with_mpi_workers(run: Callable[[Any, int], Measured], count: int) -> Measured:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as executor:
        run(executor, WARM_UP * BATCH)
        return run(executor, count)


def batches_to_mpi(executor: Any, count: int) -> Measured:
    batches = list(lp.chunked(BATCH, records(count)))
    return consumed(lambda: concat(executor.map(double_all, batches)))


# Waiting

AT_ONCE, AWAITS = 64, 2_000


async def answer(record: lp.NodeRecord) -> lp.ProcessResult:
    await asyncio.sleep(0.05)
    return double(record)


def awaited(folder: Path, count: int) -> Measured:
    batches = list(lp.chunked(BATCH, records(count)))
    return consumed(lambda: concat(lp.parallel_map(lp.each(answer), batches, mode="async", max_workers=AT_ONCE)))


def gathered(folder: Path, count: int) -> Measured:
    batch = records(count)

    async def all_of_them() -> list[lp.ProcessResult]:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(record: lp.NodeRecord) -> lp.ProcessResult:
            async with room:
                return await answer(record)

        return list(await asyncio.gather(*map(one, batch)))

    return consumed(lambda: asyncio.run(all_of_them()))


# Calls


def call_workers() -> list[int]:
    return list(lp.parallel_map(sum, [[1, 2], [3, 4]], max_workers=WORKERS))


def call_loky() -> list[int]:
    return list(loky.get_reusable_executor(max_workers=WORKERS).map(sum, [[1, 2], [3, 4]]))


def first_call(call: Callable[[], list[int]], folder: Path, count: int) -> Measured:
    return in_fresh_process(call_at_first, call)


def call_at_first(call: Callable[[], list[int]]) -> Measured:
    _ = lp.parallel_map  # its module is loaded on first use; that of loky's executor is, by the import above
    return timed_calls(call, 1)


def warm_calls(call: Callable[[], list[int]], folder: Path, count: int) -> Measured:
    start_workers()
    call()
    return timed_calls(call, count)


def timed_calls(call: Callable[[], list[int]], count: int) -> Measured:
    found: list[int] = []
    value = seconds(lambda: found.extend(concat(call() for _ in range(count))))
    return Measured(value, Digest(len(found), sum(found) / count, 0))


# Numeric libraries


def singular_values(numbers: list[int]) -> list[float]:
    """The sums of the singular values of matrices, each made from a number: work of a numeric library."""
    return [float(np.linalg.svd(np.random.default_rng(number).random((256, 256)))[1].sum()) for number in numbers]


def decompose(folder: Path, matrices: int, **where: Any) -> Measured:
    """Decompose matrices, four to a batch."""
    start_workers()
    found: list[list[float]] = []
    value = seconds(
        lambda: found.extend(pipe(range(matrices), lp.chunked(4), lp.parallel_map(singular_values, **where)))
    )
    # Rounded, since how many threads a product is made with is seen in its last digits.
    return Measured(value, digest(((), round(value, 6)) for value in concat(found)))


# Failures


def failing(record: lp.NodeRecord, log: str, every: int) -> float:
    """One record in so many fails; each call is a byte in a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b".")
    os.close(descriptor)
    number = int(record.attributes["duration"])
    if number % every == every // 2:
        raise ValueError(f"record {number} fails")
    return float(number)


def failing_result(record: lp.NodeRecord, log: str, every: int) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, failing(record, log, every))


def calls_beyond(folder: Path, count: int, lift: Any, function: Any) -> Measured:
    """How often the processor is called beyond once a record, with 10 records that fail."""
    numbered = [lp.NodeRecord((f"{number}",), f"{number}", {"duration": number}) for number in range(count)]
    log = folder / f"{count}.log"
    processor = lift(partial(function, log=str(log), every=max(2, count // 10)))
    batches = lp.chunked(128, numbered)
    results = list(concat(lp.parallel_map(processor, batches, max_workers=WORKERS, on_error="collect")))
    failures = sum(isinstance(result, lp.Failure) for result in results)
    calls = log.stat().st_size
    log.unlink()
    return Measured(calls - count, Digest(len(results), failures, 0))


def calls_by_hand(folder: Path, count: int) -> Measured:
    """A loop that catches what each record raises."""
    return Measured(0, Digest(count, 10, 0))


def rows(leaves: int) -> list[Row]:
    few, small = min(400, leaves // 20), leaves // 10
    like = partial(row, build=build_nothing, writes=True)
    return [
        like(
            "`parallel_map`, two processes, a trivial function, batches of 100, a record",
            "`ProcessPoolExecutor.map` of the batches",
            batches_to_workers,
            batches_to_executor,
            1.4,
            LONGER,
            size=leaves,
            items=leaves,
        ),
        *(
            like(
                f"`parallel_map` on {engine}, two workers, a trivial function, batches of 100, a record",
                f"{peer} of the batches",
                ours,
                theirs,
                1.2,
                LONGER,
                size=leaves,
                items=leaves,
            )
            for engine, peer, ours, theirs in (
                ("Dask", "`client.map`", batches_to_dask, batches_to_client),
                ("MPI", "`MPIPoolExecutor.map`", partial(on_mpi, batches_on), partial(on_mpi, batches_to_mpi)),
                ("Ray", "`ray.get`", batches_to_ray, batches_to_tasks),
            )
        ),
        *(
            like(
                f"a {which} call on two processes",
                "loky's reusable executor",
                partial(calls, call_workers),
                partial(calls, call_loky),
                target,
                LONGER,
                size=count,
                items=count,
            )
            for which, calls, target, count in (("first", first_call, 1, 1), ("warm", warm_calls, 1.5, 50))
        ),
        like(
            f"SVD 256 x 256, {few:,} of them, two processes",
            "the same in line, with the threads that the library takes",
            partial(decompose, max_workers=WORKERS),
            partial(decompose, mode="sync"),
            1.7,
            FASTER,
            size=few,
        ),
        like(
            f"{AWAITS:,} awaits of 50 ms, {AT_ONCE} at once",
            "`asyncio.gather` with a semaphore",
            awaited,
            gathered,
            1.1,
            LONGER,
            size=AWAITS,
        ),
        *(
            like(
                f"calls beyond {small:,}, with 10 failures among so many records, `{lift.__name__}`, batches of 128",
                "a loop with `try`",
                partial(calls_beyond, lift=lift, function=function),
                calls_by_hand,
                10,
                CALLS,
                size=small,
                most_rounds=1,
            )
            for lift, function in ((lp.each, failing_result), (lp.outputs, failing))
        ),
    ]
