"""Sounds: in blocks and in windows, against lotdb's own way and numpy's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

from lotdb import BaseNode
from toolz import pipe

import lotproc as lp
from benchmarks import loops
from benchmarks.measuring import Measured
from benchmarks.rows import MORE, Row, row
from benchmarks.trees import Digest, build_sound, opened

SOUND_SECONDS = 600


def timed(read: Callable[[BaseNode], tuple[int, float]], folder: Path, duration: int) -> Measured:
    with opened(folder, read_only=True) as database:
        root = database.open_connection()
        start = perf_counter()
        count, total = read(root)
        return Measured(perf_counter() - start, Digest(count, total, 0))


def payload(root: BaseNode) -> lp.PayloadHandle:
    [record] = pipe(root, lp.leaves(), lp.snapshot((), payload="data"))
    return record.payload


def blocks(root: BaseNode) -> tuple[int, float]:
    return 1, sum(float(block.sum(dtype=float)) for block in payload(root).blocks(1, unit="seconds"))


def iter_data_blocks(root: BaseNode) -> tuple[int, float]:
    [sound] = root.iterate_tree_leaves()
    return 1, loops.sum_blocks(sound)


def windows(root: BaseNode) -> tuple[int, float]:
    return loops.counted_and_summed(payload(root).blocks(0.025, hop=0.01, unit="seconds", last="drop"))


def sliding_window_view(root: BaseNode) -> tuple[int, float]:
    [sound] = root.iterate_tree_leaves()
    return loops.counted_and_summed(loops.windows(sound))


def rows(leaves: int) -> list[Row]:
    like = partial(row, size=SOUND_SECONDS, build=build_sound)
    return [
        like(
            "blob payload, 10 minutes of 16 kHz float32 in 1 s blocks",
            "`iter_data_blocks`",
            partial(timed, blocks),
            partial(timed, iter_data_blocks),
            100,
        ),
        like(
            "the same in windows of 25 ms with a hop of 10 ms, each summed",
            "`sliding_window_view` over the mapped array, each summed",
            partial(timed, windows),
            partial(timed, sliding_window_view),
            50,
            MORE,
        ),
    ]
