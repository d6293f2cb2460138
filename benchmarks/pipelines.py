"""Whole pipelines over a tree: cold scan, processor, inline write, against loops and lotdb's own processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import thread_time
from typing import Any

from lotdb import BaseNode
from toolz import pipe

import lotproc as lp
from benchmarks import loops
from benchmarks.engines import WORKERS, start_workers
from benchmarks.measuring import Measured, seconds
from benchmarks.rows import Row, row
from benchmarks.trees import opened
from benchmarks.writing import BATCH, COMMIT_EVERY, SUMMARY, read_back

BUSY_SECONDS = 0.01


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
        value = seconds(lambda: process(root, processor, base, batch, **where))
    return Measured(value, read_back(folder, leaves, base))


def job(folder: Path, leaves: int) -> Measured:
    return timed_job(folder, leaves, double, SUMMARY, mode="sync")


def loop_job(folder: Path, leaves: int) -> Measured:
    with opened(folder) as database:
        root = database.open_connection()
        value = seconds(lambda: loops.read_and_write(database, root))
    return Measured(value, read_back(folder, leaves, SUMMARY))


def job_onto_leaves(folder: Path, leaves: int) -> Measured:
    return timed_job(folder, leaves, double, (), mode="sync")


def slow_job_in_line(folder: Path, leaves: int) -> Measured:
    return timed_job(folder, leaves, double_slowly, (), batch=8, mode="sync")


def slow_job(folder: Path, leaves: int) -> Measured:
    start_workers()
    return timed_job(folder, leaves, double_slowly, (), batch=8, max_workers=WORKERS)


def cruncher(function: Callable[[BaseNode], BaseNode], folder: Path, leaves: int) -> Measured:
    with opened(folder) as database:
        root = database.open_connection()
        value = seconds(lambda: loops.crunch(database, root, function, WORKERS))
    return Measured(value, read_back(folder, leaves))


CRUNCHER = "lotdb's `node_process_cruncher`, two processes"


def rows(leaves: int) -> list[Row]:
    small, half, few = leaves // 10, leaves // 2, min(400, leaves // 20)
    slowly = f"CPU-bound processor (10 ms a record, {few:,} records), two processes, whole pipeline"
    return [
        row(
            f"a trivial job on {half:,} leaves: cold `scan`, processor in line, inline write",
            "a loop that writes below each leaf as it comes, and commits every 1,000",
            job,
            loop_job,
            4,
            size=half,
            writes=True,
        ),
        row(
            f"a trivial job onto the {small:,} leaves themselves, one process",
            CRUNCHER,
            job_onto_leaves,
            partial(cruncher, double_node),
            size=small,
            writes=True,
        ),
        row(slowly, "the same pipeline in line", slow_job, slow_job_in_line, 1.9, size=few, writes=True),
        row(slowly, CRUNCHER, slow_job, partial(cruncher, double_node_slowly), size=few, writes=True),
    ]
