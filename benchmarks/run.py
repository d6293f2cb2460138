"""Run the benchmark: build the trees and the stores, measure both sides of each row in turn, print a table.

python -m benchmarks.run --leaves 2000 --rounds 1          # a quick look
python -m benchmarks.run --only 'cold `scan`'              # some of the rows
python -m benchmarks.run --write docs/performance.md       # all of it, and the page
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measuring import WARM_UP, Measured, in_fresh_process, measured
from benchmarks.report import Line, page, table
from benchmarks.rows import Row, Side, all_rows
from benchmarks.store_rows import store_rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Measure lotproc against what one writes by hand, and against other packages."
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each row is measured (default: 5)")
    parser.add_argument(
        "--leaves",
        type=int,
        default=100_000,
        help="the size of the trees, and the records in a store (default: 100,000)",
    )
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="the rows whose work this regular expression finds"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page to this file")
    parser.add_argument("--folder", type=Path, help="keep the trees here for the next time (default: a temporary one)")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.leaves < 1_000:
        parser.error("give at least 1 round and 1,000 leaves")
    if options.write and options.only:
        parser.error("the page has all rows; leave out --only or --write")

    sections = [
        [row for row in rows if re.search(options.only, row.work)]
        for rows in (all_rows(options.leaves), store_rows(options.leaves))
    ]
    with nullcontext(options.folder) if options.folder else TemporaryDirectory() as folder:
        trees, stores = ([measured_row(row, options.rounds, Path(folder)) for row in section] for section in sections)
    print(table([*trees, *stores]))
    if options.write:
        options.write.write_text(page(trees, stores, options.leaves, options.rounds), encoding="utf-8")


def measured_row(row: Row, rounds: int, folder: Path) -> Line:
    """Measure both sides of a row, a round at a time; the side that goes first changes with each round."""
    outcomes: list[float] = []
    ours: list[Measured] = []
    theirs: list[Measured] = []
    for index in range(min(rounds, row.most_rounds or rounds)):
        turns = [(row.ours, ours), (row.theirs, theirs)]
        for side, results in turns if index % 2 == 0 else reversed(turns):
            results.append(measured_side(side, row.writes, folder))
        if ours[-1].digest != theirs[-1].digest:
            raise AssertionError(f"{row.work}: {ours[-1].digest}, but {row.peer}: {theirs[-1].digest}")
        outcomes.append(row.comparison.of(ours[-1].value, theirs[-1].value))
        outcome = f"{row.comparison.outcome.format(outcomes[-1])} {row.comparison.unit}"
        print(f"{row.work}: {outcome}", file=sys.stderr, flush=True)
    return Line(
        row,
        ours=median(result.value for result in ours),
        theirs=median(result.value for result in theirs),
        outcomes=outcomes,
        notes=[result.note for result in (ours[-1], theirs[-1]) if result.note],
    )


def measured_side(side: Side, writes: bool, folder: Path) -> Measured:
    database, small = built(side, side.size, folder), built(side, WARM_UP, folder)
    if not writes:
        return in_fresh_process(measured, side.run, database, side.size, small)
    with TemporaryDirectory(dir=folder) as copies:
        database = Path(shutil.copytree(database, Path(copies, "database")))
        small = Path(shutil.copytree(small, Path(copies, "small")))
        return in_fresh_process(measured, side.run, database, side.size, small)


def built(side: Side, size: int, folder: Path) -> Path:
    """The database of a side, built where it is not there yet."""
    database = folder / f"{side.build.__name__}_{size}"
    if not database.exists():
        unfinished = database.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        side.build(unfinished, size)
        unfinished.rename(database)
    return database


if __name__ == "__main__":
    main()
