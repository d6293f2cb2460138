"""The table, and the page around it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median

from benchmarks.rows import Row

PACKAGES = ["lotdb", "ZODB", "BTrees", "persistent", "numpy"]
STORE_PACKAGES = ["dirdb", "filelock", "lmdb-object-store", "lmdb", "roxxel"]


@dataclass(frozen=True)
class Line:
    """A row with its figures: the medians of both sides, and the outcome of each round."""

    row: Row
    ours: float
    theirs: float
    outcomes: list[float]
    notes: list[str]

    @property
    def outcome(self) -> float:
        return median(self.outcomes)

    @property
    def reached(self) -> str:
        if self.row.target is None:
            return ""
        if self.row.comparison.at_most:
            return "yes" if self.outcome <= self.row.target else "no"
        return "yes" if self.outcome >= self.row.target else "no"


def table(lines: list[Line]) -> str:
    """The figures as a table in Markdown, and the notes below it."""
    head = ["work", "against", "lotproc", "the other", "median", "range", "target", "reached"]
    cells = [head, ["---"] * len(head), *map(_cells, lines)]
    notes = [f"- {note}." for line in lines for note in line.notes]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n\n" + "\n".join(notes)


def _cells(line: Line) -> list[str]:
    row, comparison = line.row, line.row.comparison
    outcome, unit = comparison.outcome.format, comparison.unit
    most = "at most " if comparison.at_most else ""
    several = len(line.outcomes) > 1
    return [
        row.work,
        row.peer,
        comparison.value.format(line.ours),
        comparison.value.format(line.theirs),
        f"**{outcome(line.outcome)} {unit}**",
        f"{outcome(min(line.outcomes))} to {outcome(max(line.outcomes))}" if several else "1 round",
        "" if row.target is None else f"{most}{outcome(row.target)} {unit}",
        line.reached,
    ]


def machine() -> str:
    """What it ran on, without saying where."""
    return (
        f"{os.cpu_count()} cores, {platform.system()} on {platform.machine()}, {platform.python_implementation()} "
        f"{platform.python_version()}, {versions(PACKAGES)}"
    )


def versions(packages: list[str]) -> str:
    return ", ".join(f"{name} {version(name)}" for name in packages)


def page(trees: list[Line], stores: list[Line], leaves: int, rounds: int) -> str:
    """The page of the documentation, about trees and about stores."""
    [raw] = [line for line in trees if "raw limit" in line.row.work]
    per_leaf = 1e6 / leaves
    return f"""\
# Performance

How fast lotproc is, and how much memory it takes, against what one would write by hand with lotdb and ZODB, and its
stores against the packages whose files they read and write. A program in the repository, `benchmarks/`, writes this
page, so to change the page, change the program.

## Run it

```console
$ nox -s bench
```

builds the trees and the stores, measures, prints the table and writes this page, in about half an hour. What follows
`--` goes to the program:

```console
$ nox -s bench -- --leaves 2000 --rounds 1
$ nox -s bench -- --only 'cold `scan`'
$ nox -s bench -- --only '^(LMDB|archive|directory)'
```

## What is measured

A tree of {leaves:,} leaves unless the row says otherwise: speakers with 10 sessions of 100 clips each; a clip has the
attributes `duration` (float), `text` (str) and `samples` (int). Reading takes the path and the duration of every leaf;
a result is the duration, doubled.

- Both sides of a row run in turn, {rounds} rounds unless the table says otherwise, and each round begins with the other
  side. Each has a process of its own. What is given is the median of the ratios of the rounds, and their range.
- In each round both sides must come to the same count, sum and paths; what was written is read back by plain lotdb.
- "Cold" is a database and a connection that were just opened, so nothing is in ZODB's caches. The files are in the
  operating system's cache on both sides: the disk is not measured. "Warm" is a connection that holds the whole tree,
  read once before.
- Opening the database is outside the timed part on both sides. So are imports, as every process works on a tree of 20
  leaves first, and the start of worker processes, which lotproc keeps from one call to the next. Workers open the
  database themselves, inside the timed part. `node_process_cruncher` starts its processes at each call, and that is in
  its time.
- The loops are lotdb {version("lotdb")}'s own iterators and plain ZODB, with a commit every 1,000 results. What is
  written goes to a copy of the database, and commits are inside the timed part.
- The 10 ms of the CPU-bound processor are processor time of pure Python, which holds the interpreter.
- Memory is the anonymous memory of the process (`RssAnon` of Linux, sampled every 5 ms) at its peak, above what it is
  when the database was opened. Pages of the mapped file are left out, since the system takes them back whenever it
  needs them. A FileStorage keeps the place of every object in memory; what that index grows by as results are written
  is left out too, and said below the table.

Measured on: {machine()}.

## Results

{table(trees)}

## How to read it

"Times" says how many times as long the other side takes. The two columns before it are the medians of each side; they
change with the machine and with what else runs there, while the ratio, taken in the same minute, changes little. A row
without a target is there to be compared.

## The raw limit

No reader that unpickles every record can be faster than `mmap` and Python's C unpickler over the same records, looked
up in FileStorage's own index, with no connection, no cache, no check, and only this one layout of the tree
(`benchmarks/raw.py`). That takes {raw.theirs * per_leaf:.1f} µs a leaf here, and `scan`
{raw.ours * per_leaf:.1f} µs. `scan` can be below it because it does not unpickle a record whose bytes have the shape it
has learned: it compares them, and takes out the two object ids.

## Stores

{leaves:,} records of 100 B unless the row says otherwise. Values are bytes; keys are the paths of the leaves of the
tree above, as text, in order unless the row says otherwise. As above, both sides run in turn, each in a process of its
own, {rounds} rounds, and what they read, or what the other package (or plain `lmdb`) then reads of what they wrote,
must be the same, to the last byte.

- Both sides read the same files, from the operating system's cache: LMDB databases that plain `lmdb` wrote, directories
  that dirdb wrote, and archives that lotproc wrote, so that it has checksums to look at. Opening is outside the timed
  part, but for the archives that are written: there it is the work, and so is finishing.
- dirdb and roxxel never wait for the disk, and lotproc does unless it is told not to. So the targets are for
  `durable=False`. The rows with "durable" say what waiting costs: they have `durable=False` on the other side, and
  "times" below 1 there means how much slower the safe way is. With LMDB both sides wait, or neither: `sync=False`
  leaves the disk out, on which the time of many small transactions depends.
- LMDB's map is large enough from the start, so neither side has to let it grow. Both put 1,000 values in a transaction
  where they buffer. On the side of raw `lmdb` keys are encoded and decoded, as the stores do it.
- Also without waiting for the disk, the system holds up now one side, now the other, by a fifth of a second, when the
  disk is behind with its writing: large files suffer most. `TMPDIR=/dev/shm nox -s bench` keeps all files in memory;
  then waiting for the disk costs nothing, either.
- A directory's calls are `save_data` and `get_data` on both sides, which lock the entry.
- The memory of the array row is lotproc's own, in whole megabytes, above what is held with the array; the target is for
  that alone.

Measured with {versions(STORE_PACKAGES)}.

{table(stores)}
"""
