"""Run the benchmark: build the trees and the stores, measure both sides of each row in turn, print a table.

python -m benchmarks.run --leaves 2000 --rounds 1          # a quick look
python -m benchmarks.run --only 'cold `scan`'              # some of the rows
python -m benchmarks.run --only '^Workers'                 # those of a section
python -m benchmarks.run --write docs/performance.md       # all of it, the page and its pictures
python -m benchmarks.run --write docs/performance.md --keep rows.json    # goes on where it was stopped
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks import (
    arrays,
    columns,
    growth,
    memory,
    paths,
    payloads,
    peer_engines,
    peer_stores,
    pipelines,
    reading,
    servers,
    store_rows,
    whole_job,
    workers,
    writing,
)
from benchmarks.kept import Kept
from benchmarks.measuring import Measured
from benchmarks.report import Line, page, table
from benchmarks.rows import Row
from benchmarks.sides import measured_side

#: The sections of the page, and what gives their rows for trees of so many leaves.
SECTIONS: dict[str, list[Callable[[int], list[Row]]]] = {
    "The whole job": [whole_job.rows, pipelines.rows],
    "Reading": [reading.rows, columns.rows, paths.rows, payloads.rows],
    "Writing": [writing.rows],
    "Workers": [workers.rows, arrays.rows],
    "Servers": [servers.rows],
    "Memory": [memory.rows],
    "Stores": [store_rows.rows],
    "Peers": [peer_stores.rows, peer_engines.rows],
}


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
        "--only", default="", metavar="PATTERN", help="the rows that this finds in 'SECTION' or in their work"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page to this file, pictures beside it")
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="keep figures here, and measure what is not there yet"
    )
    parser.add_argument("--folder", type=Path, help="keep the trees here for the next time (default: a temporary one)")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.leaves < 1_000:
        parser.error("give at least 1 round and 1,000 leaves")
    if options.write and options.only:
        parser.error("the page has all rows; leave out --only or --write")

    kept = Kept(options.keep, leaves=options.leaves, rounds=options.rounds)
    with nullcontext(options.folder) if options.folder else TemporaryDirectory() as folder:
        sections = {
            name: [
                kept_line(kept, row, options.rounds, Path(folder))
                for rows in parts
                for row in rows(options.leaves)
                if re.search(options.only, name) or re.search(options.only, row.work)
            ]
            for name, parts in SECTIONS.items()
        }
        print(table([line for lines in sections.values() for line in lines]))
        if options.write:
            lines = growth.measured_lines(options.leaves, min(3, options.rounds), Path(folder), kept)
            growth.draw(lines, options.write.parent / "pictures")
    if options.write:
        text = page(sections, options.leaves, options.rounds, round(kept.seconds / 60))
        options.write.write_text(text, encoding="utf-8")


def kept_line(kept: Kept, row: Row, rounds: int, folder: Path) -> Line:
    """The figures of a row, measured where they are not kept."""
    return Line(row, **kept.get(f"{row.work} | {row.peer}", lambda: measured_row(row, rounds, folder)))


def measured_row(row: Row, rounds: int, folder: Path) -> dict[str, Any]:
    """Measure both sides of a row, a round at a time; the side that goes first changes with each round."""
    start = perf_counter()
    outcomes: list[float] = []
    ours: list[Measured] = []
    theirs: list[Measured] = []
    for index in range(min(rounds, row.most_rounds or rounds)):
        turns = [(row.ours, ours), (row.theirs, theirs)]
        for side, results in turns if index % 2 == 0 else reversed(turns):
            results.append(measured_side(side, row.writes, folder))
        if ours[-1].digest != theirs[-1].digest:
            raise AssertionError(f"{row.work}: {ours[-1].digest}, but {row.peer}: {theirs[-1].digest}")
        outcomes.append(row.comparison.of(row.ours.figure(ours[-1]), row.theirs.figure(theirs[-1])))
    outcome = f"{row.comparison.outcome.format(median(outcomes))} {row.comparison.unit}"
    print(f"{row.work}: {outcome} ({perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
    return {
        "ours": median(map(row.ours.figure, ours)),
        "theirs": median(map(row.theirs.figure, theirs)),
        "outcomes": outcomes,
        "notes": [result.note for result in (ours[-1], theirs[-1]) if result.note],
    }


if __name__ == "__main__":
    main()
