"""Reading a tree: `scan` against loops over lotdb's iterators, and against itself where a tree has another shape.

A side gets the folder of a database and the number of leaves in it. Opening the database is outside the timed part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from lotdb import BaseNode
from toolz import compose_left, pipe
from ZODB.FileStorage import FileStorage

import lotproc as lp
from benchmarks import loops, raw
from benchmarks.corpora import JOB, VERSION, build_chain, build_wide, build_with_files, build_with_results
from benchmarks.engines import WORKERS, start_workers
from benchmarks.measuring import Measured, check, seconds
from benchmarks.rows import FASTER, LONGER, MILLISECONDS, MORE, Row, row
from benchmarks.sides import Side
from benchmarks.trees import NAME, Digest, build_narrow, digest, expected, joined, opened, opened_any

PARTITIONS = 64
CHAIN = 3_000  # nodes


def pairs(records: Iterable[lp.NodeRecord]) -> Iterator[tuple[tuple[str, ...], float]]:
    return ((record.path, record.attributes["duration"]) for record in records)


def timed_read(read: Callable[[BaseNode], Digest], root: BaseNode) -> Measured:
    start = perf_counter()
    found = read(root)
    return Measured(perf_counter() - start, found)


def scan_tree(root: BaseNode) -> Digest:
    return digest(pairs(lp.scan("duration", root)))


def loop_over_tree(root: BaseNode) -> Digest:
    return digest(loops.read(root))


def scan(folder: Path, leaves: int) -> Measured:
    with opened(folder, read_only=True) as database:
        return timed_read(scan_tree, database.open_connection())


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


def snapshot_tree(root: BaseNode) -> Digest:
    return digest(pairs(pipe(root, lp.leaves(), lp.snapshot("duration"))))


def warm(read: Callable[[BaseNode], Digest], folder: Path, leaves: int) -> Measured:
    """On a connection that holds the whole tree."""
    with opened(folder, read_only=True, cache_size=10 * leaves) as database:
        root = database.open_connection()
        loop_over_tree(root)
        return timed_read(read, root)


def read_raw(folder: Path, leaves: int) -> Measured:
    storage = FileStorage(str(folder / NAME), read_only=True)
    try:
        start = perf_counter()
        found = digest(raw.read(storage, "duration"))
        return Measured(perf_counter() - start, found)
    finally:
        storage.close()


def mean_scan(folder: Path, leaves: int) -> Measured:
    """A small tree is read several times, each time from a database that was just opened."""
    found = [scan(folder, leaves) for _ in range(max(1, 100_000 // leaves))]
    for once in found:
        check(once.digest, expected(leaves))
    return Measured(sum(once.value for once in found) / len(found), None)


def drained(folder: Path, leaves: int, names: Any = "duration", **options: Any) -> Measured:
    """A scan whose records nobody looks at."""
    with opened(folder, read_only=True) as database:
        records = lp.scan(names, database.open_connection(), **options)
        taken: deque[lp.NodeRecord] = deque(maxlen=1)
        value = seconds(lambda: taken.extend(enumerate(records)))
    [(last, record)] = taken
    return Measured(value, Digest(last + 1, 0.0, len(record.path)))


def first_record(folder: Path, leaves: int) -> Measured:
    with opened(folder, read_only=True) as database:
        root = database.open_connection()
        return Measured(seconds(lambda: next(lp.scan("duration", root))), None)


def pending_of_finished(folder: Path, leaves: int) -> Measured:
    """What is left of a job that is done: nothing. The count is that of the other side, which reads as many."""
    with opened(folder, read_only=True) as database:
        root = database.open_connection()
        left = lp.pending(JOB, root, lp.scan("duration", root, skip="_*"), version=VERSION)
        value = seconds(lambda: check(Digest(len(list(left)), 0.0, 0), Digest(0, 0.0, 0)))
    return Measured(value, Digest(leaves, 0.0, 3))


def snapshot_drained(folder: Path, nodes: int) -> Measured:
    with opened(folder, read_only=True) as database:
        records = pipe(database.open_connection(), lp.leaves(), lp.snapshot("duration"))
        taken: list[lp.NodeRecord] = []
        value = seconds(lambda: taken.extend(records))
    return Measured(value, Digest(1, 0.0, len(taken[0].path)))


LOOP = "a loop over `iterate_tree_leaves`, `gps`, `get_attribute`"


def rows(leaves: int) -> list[Row]:
    small, half, large = leaves // 10, leaves // 2, 10 * leaves
    return [
        row("cold `scan`, one attribute, one process", LOOP, scan, loop, 12, size=leaves),
        row("the same over `partitions`, two processes", LOOP, scan_partitions, loop, 18, size=leaves),
        row(
            "cold `scan` through `loadBefore` alone (any storage)",
            LOOP,
            scan_any_storage,
            loop_any_storage,
            2,
            size=leaves,
        ),
        row(f"cold `scan`, {half:,} leaves, 3 below each parent", LOOP, scan, loop, size=half, build=build_narrow),
        row("cold `scan`, against the raw limit", "`mmap` and the C unpickler", scan, read_raw, size=leaves),
        row(
            f"warm `leaves` + `snapshot`, {half:,} leaves",
            "the same loop, warm",
            partial(warm, snapshot_tree),
            partial(warm, loop_over_tree),
            3,
            size=half,
        ),
        Row(
            f"`scan` of {large:,} leaves, a leaf",
            f"of {small:,} leaves",
            Side(mean_scan, large, items=large),
            Side(mean_scan, small, items=small),
            20,
            MORE,
        ),
        Row(
            f"the first record of a `scan` of {large:,} leaves",
            f"of {small:,} leaves",
            Side(first_record, large),
            Side(first_record, small),
            15,
            MILLISECONDS,
        ),
        row(
            '`scan("file")`, references to files',
            '`scan("duration")`, a float, of the same tree',
            partial(drained, names="file"),
            drained,
            4,
            LONGER,
            size=leaves,
            build=build_with_files,
            items=leaves,
        ),
        *(
            Row(
                work,
                "`scan` of the tree before there were results",
                Side(ours, leaves, build_with_results, leaves),
                Side(drained, leaves, items=leaves),
                target,
                LONGER,
            )
            for work, ours, target in (
                ('`scan(skip="_*")` where there are inline results', partial(drained, skip="_*"), 1.5),
                ("`scan` + `pending` of a finished job", pending_of_finished, 1.8),
            )
        ),
        *(wide_row(attributes, names, leaves) for names in ("one", "all") for attributes in (31, 100, 300)),
        row(
            f"`scan` of a chain of {CHAIN:,} nodes",
            "`leaves` + `snapshot`",
            drained,
            snapshot_drained,
            2,
            FASTER,
            size=CHAIN,
            build=build_chain,
        ),
    ]


def wide_row(attributes: int, names: str, leaves: int) -> Row:
    """Leaves with more attributes than a record of the tree of attributes holds, against 30, which it does hold.

    Both trees have as many leaves, so that what a scan takes for itself counts alike.
    """
    size = 3 * leaves // attributes

    def side(attributes: int) -> Side:
        wanted = "feature_007" if names == "one" else ...
        values = size if names == "one" else size * attributes
        return Side(partial(mean_drained, names=wanted), size, build_wide(attributes), values)

    what = f"`scan` of {names} of {attributes} attributes, a value"
    return Row(what, f"of {names} of 30", side(attributes), side(30), 1.3, LONGER)


def mean_drained(folder: Path, leaves: int, names: Any) -> Measured:
    """Several times, each time from a database that was just opened, since there are few leaves."""
    times = max(1, 10_000 // leaves)
    return Measured(sum(drained(folder, leaves, names).value for _ in range(times)) / times, None)
