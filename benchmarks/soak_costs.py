"""What reliability costs where nothing goes wrong."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from toolz import pipe

import lotproc as lp
from benchmarks.soak_rows import Outcome, Settings, say
from benchmarks.trees import build, opened
from lotproc.resuming import pending

LEAVES = 100_000
POLICY = lp.inline("_proc", "summary")
VERSION = "v1"


def ratios(what: str, ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> list[float]:
    """How many times as long the one takes as the other, both in turn; each round begins with the other one."""
    found = []
    for index in range(rounds):
        if index % 2:
            mine, other = ours(), theirs()
        else:
            other, mine = theirs(), ours()
        found.append(mine / other)
        say(f"{what}: {mine:.3f} s against {other:.3f} s, {found[-1]:.3f} times")
    return found


# Resuming what is finished


def resume_finished(read: str, settings: Settings, rounds: int = 5, most: float = 1.3) -> Outcome:
    """Look for what is left in a tree in which nothing is, against reading it."""
    leaves = 1_000 * settings.at_most(LEAVES // 1_000)
    folder = settings.folder / f"finished_{leaves}"
    if not folder.exists():
        say(f"building {leaves:,} leaves")
        build(folder, leaves)
        with opened(folder) as database:
            root = database.open_connection()
            batches = lp.chunked(100, lp.scan("duration", root))
            results = lp.parallel_map(lp.each(result), batches, mode="sync")
            lp.write(POLICY, root, results, commit_every=1_000, version=VERSION)
    found = ratios(
        f"resuming after {read}", partial(timed, folder, read, 0, True), partial(timed, folder, read, leaves), rounds
    )
    outcome = f"{median(found):.2f} times the bare `{read}` ({min(found):.2f} to {max(found):.2f}; at most {most})"
    return Outcome(f"{rounds} rounds, {leaves:,} leaves", outcome, median(found) <= most)


def timed(folder: Path, read: str, expected: int, resumes: bool = False) -> float:
    """Seconds to read all that is there, or all that is pending."""
    with opened(folder) as database:
        root = database.open_connection()
        start = perf_counter()
        items: Iterable[Any] = lp.scan("duration", root, skip="_*") if read == "scan" else lp.leaves(root, skip="_*")
        if resumes:
            items = pending(POLICY, root, items, version=VERSION)
        count = sum(1 for _ in items)
        seconds = perf_counter() - start
    if count != expected:
        raise AssertionError(f"{read}: {count} items, not {expected}")
    return seconds


def result(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, output=record.attributes["duration"])


# Collecting failures where there are none


def collect_nothing(mode: str, settings: Settings, rounds: int = 41, most: float = 1.03) -> Outcome:
    """Process what never fails, ready for failures, against not being ready for them.

    It is processor time that counts, which others on the machine disturb least; with worker processes it can't be had.
    """
    size = 1_000 * settings.at_most(100)
    records = [lp.NodeRecord((f"clip_{n:07}",), f"clip_{n:07}", {"duration": n / 64}) for n in range(size)]
    batches = list(lp.chunked(100, records))
    gc.collect()
    gc.freeze()  # the records; whether they are looked through now or then would be most of the difference
    what = f"on_error='collect', {mode}"
    processed(mode, "raise", batches)
    found = ratios(
        what, partial(processed, mode, "collect", batches), partial(processed, mode, "raise", batches), rounds
    )
    gc.unfreeze()
    price = [100 * (ratio - 1) for ratio in found]
    outcome = f"{median(price):+.1f} % ({min(price):+.1f} to {max(price):+.1f} %; at most {100 * (most - 1):.0f} %)"
    return Outcome(f"{rounds} rounds, {size:,} records", outcome, median(found) <= most)


def processed(mode: Any, on_error: Any, batches: list[list[lp.NodeRecord]]) -> float:
    """Seconds to process batches."""
    clock = perf_counter if mode == "process" else process_time
    start = clock()
    count = pipe(
        batches,
        lp.parallel_map(lp.each(result), mode=mode, max_workers=2, on_error=on_error),
        partial(map, len),
        sum,
    )
    seconds = clock() - start
    if count != sum(map(len, batches)):
        raise AssertionError(f"{count} results")
    return seconds
