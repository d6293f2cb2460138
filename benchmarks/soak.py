"""Measure what jobs and stores survive: kills, full disks, Ctrl-C, damage; and what that costs. Prints a table.

python -m benchmarks.soak --runs 10                # a quick look
python -m benchmarks.soak --only 'full disk'       # some of the rows
python -m benchmarks.soak                          # all of it, in about half an hour

It takes Linux, and root for the small disks that get full. Ends with 1 if something does not hold.
"""

from __future__ import annotations

import argparse
import logging
import random
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter

from benchmarks.soak_costs import collect_nothing, resume_finished
from benchmarks.soak_disk import fill_disks
from benchmarks.soak_kills import interrupt_jobs, kill_jobs, kill_workers_from_inside, kill_workers_from_outside
from benchmarks.soak_rows import Outcome, Row, Settings, say
from benchmarks.soak_stores import STORE_ROWS

ROWS = [
    Row("a job of 2,000 leaves is killed with SIGKILL at a random moment, then resumed", kill_jobs),
    Row("records kill their workers with SIGKILL, 1,000 times in one job", kill_workers_from_inside),
    Row("workers are killed with SIGKILL at random moments, with retries", kill_workers_from_outside),
    Row("a full disk in the middle of a commit, then resumed", fill_disks),
    Row("Ctrl-C at a random moment, then resumed", interrupt_jobs),
    Row("resuming a finished job, `scan`: cost of `pending`", partial(resume_finished, "scan")),
    Row("resuming a finished job, `leaves`: cost of `pending`", partial(resume_finished, "leaves")),
    Row('price of `on_error="collect"` on clean data, mode "sync"', partial(collect_nothing, "sync")),
    Row('price of `on_error="collect"` on clean data, mode "thread"', partial(collect_nothing, "thread")),
    Row('price of `on_error="collect"` on clean data, mode "process"', partial(collect_nothing, "process")),
    *STORE_ROWS,
]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure what lotproc survives.")
    parser.add_argument("--runs", type=int, help="at most so many runs, kills, seconds, thousands of leaves")
    parser.add_argument("--only", default="", metavar="PATTERN", help="the rows that this regular expression finds")
    parser.add_argument("--seed", type=int, help="where what is random begins (default: anywhere)")
    options = parser.parse_args(arguments)
    if options.runs is not None and options.runs < 1:
        parser.error("give at least 1 run")
    logging.getLogger("ZODB").setLevel(logging.CRITICAL)  # which tells of every torn end that it cuts off
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    folder = Path(mkdtemp(prefix="soak_"))
    say(f"--seed {seed}, in {folder}")
    settings = Settings(options.runs, random.Random(seed), folder)
    rows = [row for row in ROWS if re.search(options.only, row.what)]
    lines = [measured(row, settings) for row in rows]
    print(table(rows, lines))
    if not all(outcome.holds for outcome, _ in lines):
        return 1
    shutil.rmtree(folder)
    return 0


def measured(row: Row, settings: Settings) -> tuple[Outcome, float]:
    """The outcome of a row, and the seconds it took."""
    say(row.what)
    start = perf_counter()
    folder = Path(mkdtemp(prefix="row_", dir=settings.folder))
    outcome = row.measure(replace(settings, folder=folder))
    say(f"{row.what}: {outcome.outcome}")
    return outcome, perf_counter() - start


def table(rows: Iterable[Row], lines: Iterable[tuple[Outcome, float]]) -> str:
    """The outcomes as a table in Markdown."""
    cells = [["what", "how often", "outcome", "seconds"], ["---"] * 4]
    for row, (outcome, seconds) in zip(rows, lines, strict=True):
        mark = "" if outcome.holds else "**does not hold:** "
        cells.append([row.what, outcome.often, f"{mark}{outcome.outcome}", f"{seconds:,.0f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


if __name__ == "__main__":
    sys.exit(main())
