"""The peak of memory: the same work on ten or a hundred times as much, which should take no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lotdb import BaseNode
from toolz import concat
from ZODB.FileStorage import FileStorage

import lotproc as lp
from benchmarks import arrays, corpora, workers, writing
from benchmarks.engines import WORKERS, start_workers
from benchmarks.job_by_lotproc import by_lotproc
from benchmarks.measuring import Measured, PeakMemory, check, held_memory, in_fresh_process
from benchmarks.pipelines import double, process
from benchmarks.rows import MORE_MEMORY, Row
from benchmarks.sides import Build, Run, Side
from benchmarks.store_files import MAP_SIZE, build_nothing
from benchmarks.trees import NAME, build, build_empty, leaf_path, opened
from lotproc.stores import LmdbStore

COMMIT_EVERY = 1_000


def peak(work: Callable[[BaseNode, Path, int], object], folder: Path, size: int) -> Measured:
    """Megabytes at the peak above the start, without what FileStorage's own index grew by."""
    before = in_fresh_process(index_memory, folder)
    with opened(folder) as database:
        root = database.open_connection()
        with PeakMemory() as watched:
            work(root, folder, size)
    grown = in_fresh_process(index_memory, folder) - before
    note = f"{size:,}: {watched.megabytes:.0f} MB above the start, of which {grown:.0f} MB are FileStorage's own index"
    return Measured(watched.megabytes - grown, None, note if grown > 1 else "")


def index_memory(folder: Path) -> float:
    """Megabytes that a FileStorage takes on opening: its index."""
    if not (folder / NAME).exists():
        return 0.0
    before = held_memory("RssAnon")
    storage = FileStorage(str(folder / NAME), read_only=True)
    taken = held_memory("RssAnon") - before
    storage.close()
    return taken


def plain_peak(work: Callable[[], object], *kinds: str) -> Measured:
    """The same where there is no tree."""
    with PeakMemory(*kinds) as watched:
        work()
    return Measured(watched.megabytes, None)


def drain(items: Any) -> None:
    deque(items, maxlen=0)


def scan(root: BaseNode, folder: Path, leaves: int) -> None:
    drain(lp.scan("duration", root))


def scan_files(root: BaseNode, folder: Path, leaves: int) -> None:
    drain(lp.scan("file", root))


def pending(root: BaseNode, folder: Path, leaves: int) -> None:
    drain(lp.pending(corpora.JOB, root, lp.scan((), root, skip="_*"), version=corpora.VERSION))


def to_parquet(root: BaseNode, folder: Path, leaves: int) -> None:
    lp.to_parquet(folder / "out.parquet", lp.scan(("duration", "text", "samples"), root))


def job(root: BaseNode, folder: Path, leaves: int) -> None:
    process(root, double, writing.SUMMARY, writing.BATCH, mode="sync")


def job_memory(folder: Path, leaves: int) -> Measured:
    found = peak(job, folder, leaves)
    check(writing.read_back(folder, leaves, writing.SUMMARY), writing.expected_results(leaves, writing.SUMMARY))
    return found


def write_dicts(root: BaseNode, folder: Path, leaves: int) -> None:
    results = (lp.ProcessResult(leaf_path(index), writing.numbers(index)) for index in range(leaves))
    lp.write(lp.fresh(), root, results, commit_every=COMMIT_EVERY)


def ingest(root: BaseNode, folder: Path, files: int) -> None:
    lp.ingest_files(root, lp.index_files(folder / "wavs"))


def whole(folder: Path, files: int) -> Measured:
    start_workers()
    return plain_peak(lambda: by_lotproc(folder / "wavs", folder / "output"))


def write_lmdb(folder: Path, records: int) -> Measured:
    results = (lp.ProcessResult(leaf_path(index), writing.number(index)) for index in range(records))
    with LmdbStore(folder, map_size=MAP_SIZE, sync=False) as store:
        return plain_peak(lambda: lp.write(lp.mirror(), store, results))


def small_records(folder: Path, count: int) -> Measured:
    start_workers()
    made = (lp.NodeRecord(leaf_path(index), "", {"duration": 1.0}) for index in range(count))
    batches = lp.chunked(workers.BATCH, made)
    return plain_peak(lambda: drain(lp.parallel_map(lp.each(double), batches, max_workers=WORKERS)))


def megabytes(folder: Path, count: int) -> Measured:
    """With the memory that is shared with the workers."""
    start_workers()
    batches = lp.chunked(1, arrays.records(count))
    results = lp.parallel_map(lp.each(arrays.louder), batches, max_workers=WORKERS)
    return plain_peak(lambda: drain(concat(results)), "RssAnon", "RssShmem")


def rows(leaves: int) -> list[Row]:
    small, large, few = leaves // 10, 10 * leaves, min(400, leaves // 20)

    def flat(what: str, run: Run, sizes: tuple[int, int], target: float, build: Build) -> Row:
        big, little = sizes
        sides = Side(run, big, build), Side(run, little, build)
        return Row(f"{what}: {big:,}", f"{little:,}", *sides, target, MORE_MEMORY, writes=True, most_rounds=1)

    return [
        flat("whole job, WAV files", whole, (small, small // 10), 20, corpora.build_wavs),
        flat("ingest, files", partial(peak, ingest), (small, small // 10), 10, corpora.build_wavs),
        flat("`scan`, leaves", partial(peak, scan), (large, small), 10, build),
        flat('`scan("file")`, leaves', partial(peak, scan_files), (leaves, small), 10, corpora.build_with_files),
        flat(
            "`scan` + `pending` of a finished job, leaves",
            partial(peak, pending),
            (leaves, small),
            10,
            corpora.build_with_results,
        ),
        flat("`to_parquet(scan)`, leaves", partial(peak, to_parquet), (large, small), 10, build),
        flat("trivial job: `scan`, inline `write`, leaves", job_memory, (large, small), 60, build),
        flat("fresh `write` of dicts of 5 numbers", partial(peak, write_dicts), (leaves, small), 20, build_empty),
        flat("`write` into an `LmdbStore`, records", write_lmdb, (leaves, small), 10, build_nothing),
        flat(
            "`parallel_map`, small records, processes",
            small_records,
            (leaves, small),
            10,
            build_nothing,
        ),
        flat(
            "`parallel_map`, records of 1 MB, processes",
            megabytes,
            (few, few // 10),
            10,
            build_nothing,
        ),
    ]
