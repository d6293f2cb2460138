"""Along the paths and through time: what is inherited, rolled up, joined, new or done, against the bare scan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lotdb import BaseNode
from toolz import compose_left, pipe

import lotproc as lp
from benchmarks.corpora import JOB, VERSION
from benchmarks.engines import WORKERS, start_workers
from benchmarks.measuring import Measured, check, seconds
from benchmarks.reading import PARTITIONS, drained, pairs, scan, scan_tree, timed_read
from benchmarks.rows import FASTER, MORE, Row, row
from benchmarks.sides import Side
from benchmarks.trees import CLIPS, SESSIONS, Digest, digest, expected, leaf_path, opened
from lotproc.folds import total

COMMIT_EVERY = 1_000


def scan_inherited(folder: Path, leaves: int) -> Measured:
    """With an attribute of its session on each clip."""
    with opened(folder, read_only=True) as database:
        read = lp.scan("duration", inherit="day")
        return timed_read(lambda root: digest(pairs(read(root))), database.open_connection())


def scan_joined(folder: Path, leaves: int) -> Measured:
    """With the attributes of its speaker joined to each clip."""
    with opened(folder, read_only=True) as database:
        root = database.open_connection()
        speakers = {speaker: {"age": age, "sex": "f"} for age, speaker in enumerate(root.node_storage)}
        return timed_read(lambda root: digest(pairs(lp.join(speakers, lp.scan("duration", root), on=1))), root)


def scan_along(folder: Path, leaves: int) -> Measured:
    """A tenth of the tree, that of every tenth speaker."""
    found = drained(folder, leaves, path="speaker_*0/**")
    check(found.digest, Digest(a_tenth(leaves), 0.0, 3))
    return Measured(found.value, None)


def a_tenth(leaves: int) -> int:
    """The leaves of every tenth speaker."""
    of_speaker = CLIPS * SESSIONS
    return sum(min(of_speaker, leaves - first) for first in range(0, leaves, 10 * of_speaker))


def drained_scan(folder: Path, leaves: int) -> Measured:
    return Measured(drained(folder, leaves).value, None)


# What is new, and what is done


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


@contextmanager
def half_done(folder: Path, leaves: int) -> Iterator[BaseNode]:
    """A tree in which every second leaf has its result."""
    with opened(folder) as database:
        root = database.open_connection()
        results = (lp.ProcessResult(leaf_path(index), 1.0) for index in range(0, leaves, 2))
        lp.write(JOB, root, results, version=VERSION, commit_every=COMMIT_EVERY)
        yield root


def status_of_job(folder: Path, leaves: int) -> Measured:
    found: list[lp.Status] = []
    with half_done(folder, leaves) as root:
        records = lp.scan((), root, skip="_*")
        value = seconds(lambda: found.append(lp.status(JOB, root, records, version=VERSION)))
    return Measured(value, Digest(leaves - found[0].done, 0.0, 0))


def pending_of_job(folder: Path, leaves: int) -> Measured:
    found: list[lp.NodeRecord] = []
    with half_done(folder, leaves) as root:
        records = lp.scan((), root, skip="_*")
        value = seconds(lambda: found.extend(lp.pending(JOB, root, records, version=VERSION)))
    return Measured(value, Digest(len(found), 0.0, 0))


# Up the tree


def roll_up(root: BaseNode) -> Digest:
    return digest_of_root(lp.rollup(total("duration"), lp.scan("duration", root)))


def roll_up_in_line(folder: Path, leaves: int) -> Measured:
    with opened(folder, read_only=True) as database:
        return timed_read(roll_up, database.open_connection())


def checked_roll_up(folder: Path, leaves: int) -> Measured:
    found = roll_up_in_line(folder, leaves)
    branches = {leaf_path(index)[:depth] for index in range(leaves) for depth in range(3)}
    check(found.digest, Digest(len(branches), expected(leaves).total, 0))
    return Measured(found.value, None)


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


def rows(leaves: int) -> list[Row]:
    like = partial(row, size=leaves)

    def each(work: str, peer: str, ours: Any, theirs: Any, target: float, tenth: bool = False) -> Row:
        items = a_tenth(leaves) if tenth else leaves
        return Row(work, peer, Side(ours, leaves, items=items), Side(theirs, leaves, items=leaves), target, MORE)

    return [
        like("`scan` with `inherit`, an attribute one level above", "the `scan` alone", scan_inherited, scan, 10, MORE),
        each(
            "`scan` along a `path` that a tenth of the tree matches, a leaf",
            "the whole `scan`, a leaf",
            scan_along,
            drained_scan,
            20,
            tenth=True,
        ),
        like(
            f"`scan` with `join` of a mapping: {leaves // 1000:,} speakers, two attributes",
            "the `scan` alone",
            scan_joined,
            scan,
            None,
            MORE,
        ),
        each("`scan` + `rollup(total)`, a leaf", "the bare `scan`", checked_roll_up, drained_scan, 30),
        like(
            "`rollup(total)` over `partitions`, two processes",
            "`scan` + `rollup(total)`, one process",
            roll_up_partitions,
            roll_up_in_line,
            1.5,
            FASTER,
        ),
        like(
            "`scan(since=)`, 1 leaf of 1,000 changed",
            "the `scan` of all",
            scan_since,
            scan_with_changes,
            -40,
            MORE,
            writes=True,
        ),
        like(
            "`status` of a job that is half done",
            "`scan` + `pending`",
            status_of_job,
            pending_of_job,
            50,
            MORE,
            writes=True,
        ),
    ]
