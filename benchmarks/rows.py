"""The rows of the benchmark: what is compared with what, and the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks import sides, trees
from benchmarks.measuring import Measured

Run: TypeAlias = Callable[[Path, int], Measured]

SOUND_SECONDS = 600


@dataclass(frozen=True)
class Comparison:
    """How the two sides of a row are compared, and how the figures are written.

    Args:
        of: The outcome of a round, from our value and the peer's.
        value: The format of one side's value.
        outcome: The format of the outcome and of the target, without their unit.
        unit: The unit of both.
        at_most: The target is the most that is allowed, not the least that is to be reached.
    """

    of: Callable[[float, float], float]
    value: str
    outcome: str
    unit: str
    at_most: bool = False


FASTER = Comparison(lambda ours, theirs: theirs / ours, "{:.3g} s", "{:.3g}", "times")
MORE_MEMORY = Comparison(lambda ours, theirs: ours - theirs, "{:.0f} MB", "{:+.0f}", "MB", at_most=True)
DEARER = Comparison(lambda ours, theirs: 100 * (ours / theirs - 1), "{:.1f} µs", "{:+.0f}", "%", at_most=True)
SLOWER = Comparison(lambda ours, theirs: 100 * (ours / theirs - 1), "{:.3g} s", "{:+.0f}", "%", at_most=True)


@dataclass(frozen=True)
class Side:
    """One side of a row.

    Args:
        run: Measures it, given the folder of a database and its size.
        size: The leaves in the tree (or to be written to it), or seconds of sound.
        build: Builds the database, given a folder and the size.
    """

    run: Run
    size: int
    build: Callable[[Path, int], None] = trees.build


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        work: What is done.
        peer: What it is compared with.
        ours: This side is lotproc's.
        theirs: The peer's.
        target: What the comparison should give; `None` for a line that is there to be looked at.
        comparison: How the two are compared.
        writes: Each side of each round gets a copy of the database.
        most_rounds: Fewer rounds than asked for, for what takes long and varies little.
    """

    work: str
    peer: str
    ours: Side
    theirs: Side
    target: float | None = None
    comparison: Comparison = FASTER
    writes: bool = False
    most_rounds: int | None = None


LOOP = "a loop over `iterate_tree_leaves`, `gps`, `get_attribute`"
WRITING_LOOP = "`gns` + `set_attribute` + commit every 1,000"
CRUNCHER = "lotdb's `node_process_cruncher`, two processes"


def all_rows(leaves: int) -> list[Row]:
    """The rows, for trees of so many leaves; some work on ten times as many, some on fewer."""
    large, small, few = 10 * leaves, leaves // 10, min(400, leaves // 20)

    def row(work: str, peer: str, ours: Run, theirs: Run, target: float | None = None, **more: Any) -> Row:
        size, build = more.pop("size", leaves), more.pop("build", trees.build)
        return Row(work, peer, Side(ours, size, build), Side(theirs, size, build), target, **more)

    return [
        row("cold `scan`, one attribute, one process", LOOP, sides.scan, sides.loop, 7),
        row("the same over `partitions`, two processes", LOOP, sides.scan_partitions, sides.loop, 12),
        row(
            "cold `scan` through `loadBefore` alone (any storage)",
            LOOP,
            sides.scan_any_storage,
            sides.loop_any_storage,
            2,
        ),
        row("warm `leaves` + `snapshot`", "the same loop, warm", sides.snapshot_warm, sides.loop_warm, 3),
        row(
            "new nodes in a fresh database, commits included",
            WRITING_LOOP,
            sides.write_new,
            sides.loop_new,
            4,
            build=trees.build_empty,
            writes=True,
        ),
        row(
            "inline results two levels down, commits included",
            WRITING_LOOP,
            sides.write_inline,
            sides.loop_inline,
            3,
            writes=True,
        ),
        row(
            "whole job: cold `scan`, trivial processor, inline write",
            "a loop that writes below each leaf as it comes, and commits every 1,000",
            sides.job,
            sides.loop_job,
            4,
            writes=True,
        ),
        row(
            "blob payload, 10 minutes of 16 kHz float32 in 1 s blocks",
            "`iter_data_blocks`",
            sides.blocks,
            sides.iter_data_blocks,
            100,
            size=SOUND_SECONDS,
            build=trees.build_sound,
        ),
        row(
            "the same in windows of 25 ms with a hop of 10 ms, each summed",
            "`sliding_window_view` over the mapped array, each summed",
            sides.windows,
            sides.sliding_window_view,
            50,
            comparison=SLOWER,
            size=SOUND_SECONDS,
            build=trees.build_sound,
        ),
        row(
            f"CPU-bound processor (10 ms a record, {few:,} records), two processes, whole pipeline",
            "the same pipeline in line",
            sides.slow_job,
            sides.slow_job_in_line,
            1.9,
            size=few,
            writes=True,
        ),
        row(
            f"SVD 256 x 256, {few:,} of them, two processes",
            "the same in line, with the threads that the library takes",
            sides.decompose_in_workers,
            sides.decompose_in_line,
            1.7,
            size=few,
            build=trees.build_empty,
        ),
        Row(
            f"peak memory above start, `scan` + inline write of {large:,} leaves",
            f"the same with {small:,} leaves",
            Side(sides.job_memory, large),
            Side(sides.job_memory, small),
            60,
            MORE_MEMORY,
            writes=True,
            most_rounds=1,
        ),
        Row(
            f"`scan`, cost per leaf, {large:,} leaves",
            f"the same, {small:,} leaves",
            Side(sides.scan_per_leaf, large),
            Side(sides.scan_per_leaf, small),
            20,
            DEARER,
        ),
        Row(
            "`scan` + `rollup(total)`, cost per leaf",
            "the bare `scan`",
            Side(sides.rolled_up_scan, leaves),
            Side(sides.drained_scan, leaves),
            30,
            DEARER,
        ),
        row(
            "`rollup(total)` over `partitions`, two processes",
            "`scan` + `rollup(total)`, one process",
            sides.roll_up_partitions,
            sides.roll_up_in_line,
            1.5,
        ),
        row(
            "cold `scan` with `inherit`, the attribute one level above",
            "the `scan` alone",
            sides.scan_inherited,
            sides.scan,
            10,
            comparison=SLOWER,
        ),
        Row(
            "`scan` along a `path` that a tenth of the tree matches, cost per leaf given",
            "the whole `scan`, cost per leaf",
            Side(sides.scan_along, leaves),
            Side(sides.drained_scan, leaves),
            20,
            DEARER,
        ),
        row(
            "`scan(since=)`, 1 leaf of 1,000 changed",
            "the `scan` of all",
            sides.scan_since,
            sides.scan_with_changes,
            -40,
            comparison=SLOWER,
            writes=True,
        ),
        row(
            "`status` of a job that is half done",
            "`scan` + `pending`",
            sides.status_of_job,
            sides.pending_of_job,
            50,
            comparison=SLOWER,
            writes=True,
        ),
        row(
            f"cold `scan` with `join` of a mapping: {leaves // 1000:,} speakers, two attributes",
            "the `scan` alone",
            sides.scan_joined,
            sides.scan,
            comparison=SLOWER,
        ),
        row("cold `scan`, against the raw limit", "`mmap` and the C unpickler", sides.scan, sides.read_raw),
        row(
            "cold `scan`, 3 leaves below each parent",
            LOOP,
            sides.scan,
            sides.loop,
            build=trees.build_narrow,
        ),
        row(
            f"whole job, results onto the {small:,} leaves themselves, one process",
            CRUNCHER,
            sides.job_onto_leaves,
            sides.job_cruncher,
            size=small,
            writes=True,
        ),
        row(
            f"CPU-bound processor (10 ms a record, {few:,} records), two processes, whole pipeline",
            CRUNCHER,
            sides.slow_job,
            sides.slow_job_cruncher,
            size=few,
            writes=True,
        ),
    ]
