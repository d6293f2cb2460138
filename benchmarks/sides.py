"""What is timed: one function for each side of each row.

Each gets the folder of a database and the number of leaves (or seconds of sound) in it, or to be written to it. Opening
the database is outside the timed part on both sides; what is written is committed inside it, and read back outside.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter, sleep, thread_time
from typing import Any

from lotdb import BaseNode
from toolz import compose_left, pipe
from ZODB.FileStorage import FileStorage

import lotproc as lp
from benchmarks import peers, raw
from benchmarks.measuring import Measured, PeakMemory, anonymous_memory, in_fresh_process
from benchmarks.trees import (
    CLIPS,
    NAME,
    SESSIONS,
    Digest,
    digest,
    duration,
    expected,
    expected_results,
    joined,
    leaf_path,
    opened,
    opened_any,
    read_back,
    text,
)
from lotproc.folds import total

COMMIT_EVERY = 1_000
BATCH = 100
WORKERS = 2
PARTITIONS = 64
BUSY_SECONDS = 0.01
SUMMARY = ("_proc", "summary")


# Reading


def pairs(records: Iterable[lp.NodeRecord]) -> Iterator[tuple[tuple[str, ...], float]]:
    return ((record.path, record.attributes["duration"]) for record in records)


def timed_read(read: Callable[[BaseNode], Digest], root: BaseNode) -> Measured:
    start = perf_counter()
    found = read(root)
    return Measured(perf_counter() - start, found)


def scan_tree(root: BaseNode) -> Digest:
    return digest(pairs(lp.scan("duration", root)))


def loop_over_tree(root: BaseNode) -> Digest:
    return digest(peers.read(root))


def scan(folder: Path, leaves: int) -> Measured:
    with opened(folder, read_only=True) as database:
        return timed_read(scan_tree, database.open_connection())


def scan_joined(folder: Path, leaves: int) -> Measured:
    """With the attributes of its speaker joined to each clip."""
    with opened(folder, read_only=True) as database:
        root = database.open_connection()
        speakers = {speaker: {"age": age, "sex": "f"} for age, speaker in enumerate(root.node_storage)}
        return timed_read(lambda root: digest(pairs(lp.join(speakers, lp.scan("duration", root), on=1))), root)


def scan_inherited(folder: Path, leaves: int) -> Measured:
    """With an attribute of its session on each clip."""
    with opened(folder, read_only=True) as database:
        read = lp.scan("duration", inherit="day")
        return timed_read(lambda root: digest(pairs(read(root))), database.open_connection())


def loop(folder: Path, leaves: int) -> Measured:
    with opened(folder, read_only=True) as database:
        return timed_read(loop_over_tree, database.open_connection())


def scan_any_storage(folder: Path, leaves: int) -> Measured:
    with opened_any(folder) as root:
        return timed_read(scan_tree, root)


def loop_any_storage(folder: Path, leaves: int) -> Measured:
    with opened_any(folder) as root:
        return timed_read(loop_over_tree, root)


def scan_partitions(folder: Path, leaves: int) -> Measured:
    def read(root: BaseNode) -> Digest:
        part = compose_left(lp.scan("duration"), pairs, digest)
        return pipe(root, lp.partitions(PARTITIONS), lp.parallel_map(part, max_workers=WORKERS), joined)

    start_workers()
    with opened(folder, read_only=True) as database:
        return timed_read(read, database.open_connection())


def start_workers() -> None:
    """Start the worker processes, which lotproc keeps, and let each of them load what it needs."""
    while len(set(lp.parallel_map(worker, range(4 * WORKERS), max_workers=WORKERS))) < WORKERS:
        pass


def worker(_: int) -> int:
    """The worker process that this ran in."""
    lp.scan("duration")
    sleep(0.05)  # so that no worker can take all calls
    return os.getpid()


def snapshot_warm(folder: Path, leaves: int) -> Measured:
    def read(root: BaseNode) -> Digest:
        return digest(pairs(pipe(root, lp.leaves(), lp.snapshot("duration"))))

    with opened(folder, read_only=True, cache_size=10 * leaves) as database:
        root = database.open_connection()
        loop_over_tree(root)
        return timed_read(read, root)


def loop_warm(folder: Path, leaves: int) -> Measured:
    with opened(folder, read_only=True, cache_size=10 * leaves) as database:
        root = database.open_connection()
        loop_over_tree(root)
        return timed_read(loop_over_tree, root)


def read_raw(folder: Path, leaves: int) -> Measured:
    storage = FileStorage(str(folder / NAME), read_only=True)
    try:
        start = perf_counter()
        found = digest(raw.read(storage, "duration"))
        return Measured(perf_counter() - start, found)
    finally:
        storage.close()


def scan_per_leaf(folder: Path, leaves: int) -> Measured:
    """Microseconds a leaf; a small tree is read several times, each time from a database that was just opened."""
    times = max(1, 100_000 // leaves)
    total = 0.0
    for _ in range(times):
        once = scan(folder, leaves)
        check(once.digest, expected(leaves))
        total += once.value
    return Measured(1e6 * total / times / leaves, None)


def drained_scan(folder: Path, leaves: int) -> Measured:
    """Microseconds a leaf of a scan whose records nobody looks at."""
    with opened(folder, read_only=True) as database:
        records = lp.scan("duration", database.open_connection())
        start = perf_counter()
        deque(records, maxlen=0)
        return Measured(1e6 * (perf_counter() - start) / leaves, None)


def scan_along(folder: Path, leaves: int) -> Measured:
    """Microseconds a leaf of a tenth of the tree, that of every tenth speaker."""
    with opened(folder, read_only=True) as database:
        records = lp.scan("duration", database.open_connection(), path="speaker_*0/**")
        start = perf_counter()
        count = sum(1 for _ in records)
        taken = perf_counter() - start
    speakers = -(-leaves // (CLIPS * SESSIONS))
    check(Digest(count, 0.0, 0), Digest(min(leaves, -(-speakers // 10) * CLIPS * SESSIONS), 0.0, 0))
    return Measured(1e6 * taken / count, None)


def scan_since(folder: Path, leaves: int) -> Measured:
    """What is new since one leaf of 1,000 was written again."""
    results = [lp.ProcessResult(leaf_path(index), attributes={"duration": -1.0}) for index in range(0, leaves, 1_000)]
    with opened(folder) as database:
        root = database.open_connection()
        then = lp.transaction_of(root)
        lp.write(lp.mirror(), root, results, output_attribute=None, commit_every=COMMIT_EVERY)
        found = timed_read(lambda root: digest(pairs(lp.scan("duration", root, since=then))), root)
    check(found.digest._replace(places=0), Digest(len(results), -float(len(results)), 0))
    return Measured(found.value, None)


def scan_with_changes(folder: Path, leaves: int) -> Measured:
    """The whole of the same tree."""
    with opened(folder) as database:
        return Measured(timed_read(scan_tree, database.open_connection()).value, None)


JOB = lp.inline("_proc")


def _done(root: BaseNode, leaves: int) -> None:
    results = (lp.ProcessResult(leaf_path(index), 1.0) for index in range(0, leaves, 2))
    lp.write(JOB, root, results, version="1", commit_every=COMMIT_EVERY)


def status_of_job(folder: Path, leaves: int) -> Measured:
    """How far a job is, of which every second result is there."""
    with opened(folder) as database:
        root = database.open_connection()
        _done(root, leaves)
        start = perf_counter()
        found = lp.status(JOB, root, lp.scan((), root, skip="_*"), version="1")
        taken = perf_counter() - start
    check(Digest(found.done, 0.0, 0), Digest(-(-leaves // 2), 0.0, 0))
    return Measured(taken, None)


def pending_of_job(folder: Path, leaves: int) -> Measured:
    with opened(folder) as database:
        root = database.open_connection()
        _done(root, leaves)
        start = perf_counter()
        count = sum(1 for _ in lp.pending(JOB, root, lp.scan((), root, skip="_*"), version="1"))
        taken = perf_counter() - start
    check(Digest(count, 0.0, 0), Digest(leaves // 2, 0.0, 0))
    return Measured(taken, None)


def rolled_up_scan(folder: Path, leaves: int) -> Measured:
    """The same with the totals of all branches."""
    with opened(folder, read_only=True) as database:
        found = timed_read(roll_up, database.open_connection())
    check(found.digest, expected_total(leaves))
    return Measured(1e6 * found.value / leaves, None)


def roll_up(root: BaseNode) -> Digest:
    return digest_of_root(lp.rollup(total("duration"), lp.scan("duration", root)))


def roll_up_in_line(folder: Path, leaves: int) -> Measured:
    with opened(folder, read_only=True) as database:
        return timed_read(roll_up, database.open_connection())


def roll_up_partitions(folder: Path, leaves: int) -> Measured:
    def read(root: BaseNode) -> Digest:
        part = compose_left(lp.scan("duration"), lp.rollup(total("duration"), partial=True))
        parts = pipe(root, lp.partitions(PARTITIONS), lp.parallel_map(part, max_workers=WORKERS))
        return digest_of_root(lp.rollup(total("duration"), parts))

    start_workers()
    with opened(folder, read_only=True) as database:
        return timed_read(read, database.open_connection())


def digest_of_root(results: Iterable[lp.ProcessResult]) -> Digest:
    """How many branches there are, and the total of the last, which is the root."""
    outputs = [result.output for result in results]
    return Digest(len(outputs), outputs[-1], 0)


def expected_total(leaves: int) -> Digest:
    branches = {leaf_path(index)[:depth] for index in range(leaves) for depth in range(3)}
    return Digest(len(branches), expected(leaves).total, 0)


def blocks(folder: Path, seconds: int) -> Measured:
    with opened(folder, read_only=True) as database:
        root = database.open_connection()
        start = perf_counter()
        [record] = pipe(root, lp.leaves(), lp.snapshot((), payload="data"))
        total = sum(float(block.sum(dtype=float)) for block in record.payload.blocks(1, unit="seconds"))
        return Measured(perf_counter() - start, Digest(1, total, 0))


def iter_data_blocks(folder: Path, seconds: int) -> Measured:
    with opened(folder, read_only=True) as database:
        root = database.open_connection()
        start = perf_counter()
        [sound] = root.iterate_tree_leaves()
        total = peers.sum_blocks(sound)
        return Measured(perf_counter() - start, Digest(1, total, 0))


def windows(folder: Path, seconds: int) -> Measured:
    with opened(folder, read_only=True) as database:
        root = database.open_connection()
        start = perf_counter()
        [record] = pipe(root, lp.leaves(), lp.snapshot((), payload="data"))
        blocks = record.payload.blocks(0.025, hop=0.01, unit="seconds", last="drop")
        count, total = peers.counted_and_summed(blocks)
        return Measured(perf_counter() - start, Digest(count, total, 0))


def sliding_window_view(folder: Path, seconds: int) -> Measured:
    with opened(folder, read_only=True) as database:
        root = database.open_connection()
        start = perf_counter()
        [sound] = root.iterate_tree_leaves()
        count, total = peers.counted_and_summed(peers.windows(sound))
        return Measured(perf_counter() - start, Digest(count, total, 0))


# Writing


def write_inline(folder: Path, leaves: int) -> Measured:
    results = [lp.ProcessResult(leaf_path(index), output=2 * duration(index)) for index in range(leaves)]
    return timed_write(folder, leaves, lp.inline(*SUMMARY), results, SUMMARY)


def write_new(folder: Path, leaves: int) -> Measured:
    results = [
        lp.ProcessResult(leaf_path(index), output=2 * duration(index), attributes={"text": text(index)})
        for index in range(leaves)
    ]
    return timed_write(folder, leaves, lp.fresh(), results, ())


def timed_write(
    folder: Path, leaves: int, policy: Any, results: list[lp.ProcessResult], base: tuple[str, ...]
) -> Measured:
    batches = list(lp.chunked(BATCH, results))
    with opened(folder) as database:
        root = database.open_connection()
        start = perf_counter()
        lp.write(policy, root, batches, commit_every=COMMIT_EVERY)
        seconds = perf_counter() - start
    return Measured(seconds, read_back(folder, leaves, base))


def loop_inline(folder: Path, leaves: int) -> Measured:
    planned = [((*leaf_path(index), *SUMMARY), {"result": 2 * duration(index)}) for index in range(leaves)]
    return timed_loop_write(folder, leaves, planned, SUMMARY)


def loop_new(folder: Path, leaves: int) -> Measured:
    planned = [(leaf_path(index), {"text": text(index), "result": 2 * duration(index)}) for index in range(leaves)]
    return timed_loop_write(folder, leaves, planned, ())


def timed_loop_write(folder: Path, leaves: int, planned: list[Any], base: tuple[str, ...]) -> Measured:
    with opened(folder) as database:
        root = database.open_connection()
        start = perf_counter()
        peers.write(database, root, planned)
        seconds = perf_counter() - start
    return Measured(seconds, read_back(folder, leaves, base))


# Whole pipelines


def double(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, output=2 * record.attributes["duration"])


def double_slowly(record: lp.NodeRecord) -> lp.ProcessResult:
    be_busy()
    return double(record)


def double_node(node: BaseNode) -> BaseNode:
    node.set_attribute("result", 2 * node.get_attribute("duration"))
    return node


def double_node_slowly(node: BaseNode) -> BaseNode:
    be_busy()
    return double_node(node)


def be_busy() -> None:
    """Use the processor in pure Python, and hold the interpreter, for the time of one record."""
    end = thread_time() + BUSY_SECONDS
    while thread_time() < end:
        pass


def process(root: BaseNode, processor: Any, base: tuple[str, ...], batch: int, **where: Any) -> None:
    pipe(
        root,
        lp.scan("duration"),
        lp.chunked(batch),
        lp.parallel_map(lp.each(processor), **where),
        lp.write(lp.inline(*base), root, commit_every=COMMIT_EVERY),
    )


def timed_job(
    folder: Path, leaves: int, processor: Any, base: tuple[str, ...], batch: int = BATCH, **where: Any
) -> Measured:
    with opened(folder) as database:
        root = database.open_connection()
        start = perf_counter()
        process(root, processor, base, batch, **where)
        seconds = perf_counter() - start
    return Measured(seconds, read_back(folder, leaves, base))


def job(folder: Path, leaves: int) -> Measured:
    return timed_job(folder, leaves, double, SUMMARY, mode="sync")


def loop_job(folder: Path, leaves: int) -> Measured:
    with opened(folder) as database:
        root = database.open_connection()
        start = perf_counter()
        peers.read_and_write(database, root)
        seconds = perf_counter() - start
    return Measured(seconds, read_back(folder, leaves, SUMMARY))


def slow_job_in_line(folder: Path, leaves: int) -> Measured:
    return timed_job(folder, leaves, double_slowly, (), batch=8, mode="sync")


def slow_job(folder: Path, leaves: int) -> Measured:
    start_workers()
    return timed_job(folder, leaves, double_slowly, (), batch=8, max_workers=WORKERS)


def slow_job_cruncher(folder: Path, leaves: int) -> Measured:
    return timed_cruncher(folder, leaves, double_node_slowly)


def job_onto_leaves(folder: Path, leaves: int) -> Measured:
    return timed_job(folder, leaves, double, (), mode="sync")


def job_cruncher(folder: Path, leaves: int) -> Measured:
    return timed_cruncher(folder, leaves, double_node)


def timed_cruncher(folder: Path, leaves: int, function: Callable[[BaseNode], BaseNode]) -> Measured:
    with opened(folder) as database:
        root = database.open_connection()
        start = perf_counter()
        peers.crunch(database, root, function, WORKERS)
        seconds = perf_counter() - start
    return Measured(seconds, read_back(folder, leaves))


def job_memory(folder: Path, leaves: int) -> Measured:
    """Megabytes at the peak of a whole job above its start, without what FileStorage's own index grew by."""
    before = in_fresh_process(index_memory, folder)
    with opened(folder) as database:
        root = database.open_connection()
        with PeakMemory() as peak:
            process(root, double, SUMMARY, BATCH, mode="sync")
    after = in_fresh_process(index_memory, folder)
    check(read_back(folder, leaves, SUMMARY), expected_results(leaves, SUMMARY))
    note = (
        f"{leaves:,} leaves: the peak is {peak.megabytes:.0f} MB above the start; FileStorage's own index takes "
        f"{before:.0f} MB before the job and {after:.0f} MB after it, and that growth is left out"
    )
    return Measured(peak.megabytes - (after - before), None, note)


def check(found: Digest | None, expected: Digest) -> None:
    if found != expected:
        raise AssertionError(f"found {found}, expected {expected}")


def index_memory(folder: Path) -> float:
    """Megabytes that a FileStorage takes on opening: its index."""
    before = anonymous_memory()
    storage = FileStorage(str(folder / NAME), read_only=True)
    taken = anonymous_memory() - before
    storage.close()
    return taken


# Processing alone


def singular_values(numbers: list[int]) -> list[float]:
    """The sums of the singular values of matrices, each made from a number: work of a numeric library."""
    import numpy as np

    return [float(np.linalg.svd(np.random.default_rng(number).random((256, 256)))[1].sum()) for number in numbers]


def decompose(matrices: int, **where: Any) -> Measured:
    """Decompose matrices, four to a batch."""
    start = perf_counter()
    found = list(pipe(range(matrices), lp.chunked(4), lp.parallel_map(singular_values, **where)))
    seconds = perf_counter() - start
    # Rounded, since how many threads a product is made with is seen in its last digits.
    return Measured(seconds, digest(((), round(value, 6)) for batch in found for value in batch))


def decompose_in_workers(folder: Path, matrices: int) -> Measured:
    return decompose(matrices, max_workers=WORKERS)


def decompose_in_line(folder: Path, matrices: int) -> Measured:
    return decompose(matrices, mode="sync")
