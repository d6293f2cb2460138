"""Pictures of what a leaf costs in small and large trees: where a line is flat, work grows with the tree, no faster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeAlias

from benchmarks import columns, pipelines, reading, writing
from benchmarks.corpora import build_with_results
from benchmarks.kept import Kept
from benchmarks.sides import Build, Run, Side, measured_side
from benchmarks.trees import build, build_empty

#: A title, and for each line its name, what is measured, on what, and whether that writes.
Picture: TypeAlias = "tuple[str, dict[str, tuple[Run, Build, bool]]]"
PICTURES: dict[str, Picture] = {
    "growth_reading.svg": (
        "Reading",
        {
            "scan, one attribute": (reading.drained, build, False),
            "scan, two processes": (reading.scan_partitions, build, False),
            "to_arrow(scan), 3 attributes": (columns.to_arrow, build, False),
            "scan(skip), with results": (partial(reading.drained, skip="_*"), build_with_results, False),
            "scan + pending, finished": (reading.pending_of_finished, build_with_results, False),
        },
    ),
    "growth_writing.svg": (
        "Writing",
        {
            "new nodes": (writing.write_new, build_empty, True),
            "inline results": (writing.write_inline, build, True),
            "scan, process, inline write": (pipelines.job, build, True),
        },
    ),
}
#: Microseconds a leaf by the number of leaves, of each line of each picture.
Lines: TypeAlias = "dict[str, dict[str, dict[int, float]]]"


def sizes(leaves: int) -> list[int]:
    """From a tenth to ten times as many."""
    return [leaves // 10, 3 * leaves // 10, leaves, 3 * leaves, 10 * leaves]


def measured_lines(leaves: int, rounds: int, folder: Path, kept: Kept) -> Lines:
    """Measure every line: all sizes in turn, a round at a time; the median of the rounds is what is drawn.

    What is larger than the trees of the tables is measured once, since that takes long and varies little.
    """
    return {
        file: {
            name: dict(kept.get(f"growth: {name}", partial(measured_line, name, line, leaves, rounds, folder)))
            for name, line in lines.items()
        }
        for file, (_, lines) in PICTURES.items()
    }


def measured_line(
    name: str, line: tuple[Run, Build, bool], leaves: int, rounds: int, folder: Path
) -> list[tuple[int, float]]:
    """The sizes of a line, and what a leaf costs there."""
    run, build, writes = line
    found: dict[int, list[float]] = {size: [] for size in sizes(leaves)}
    for number in range(rounds):
        for size, values in found.items():
            if size <= leaves or number == 0:
                side = Side(run, size, build, size)
                values.append(side.figure(measured_side(side, writes, folder)))
    medians = {size: median(values) for size, values in found.items()}
    costs = ", ".join(f"{cost:.2f}" for cost in medians.values())
    print(f"{name}, µs a leaf from {min(medians):,} to {max(medians):,}: {costs}", file=sys.stderr, flush=True)
    return list(medians.items())


def draw(lines: Lines, folder: Path) -> None:
    """Draw the pictures as SVG files in this folder."""
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and the same figures give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "lotproc", "font.family": "sans-serif"})
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    thousands: Callable[[float, int], str] = lambda value, _: f"{value:,.0f}"  # noqa: E731
    for file, found in lines.items():
        figure, axes = pyplot.subplots(figsize=(7.2, 3.6), layout="constrained")
        for name, costs in found.items():
            axes.plot(list(costs), list(costs.values()), marker="o", markersize=4, label=name)
        axes.set(xscale="log", xlabel="leaves in the tree", ylabel="µs a leaf", title=PICTURES[file][0])
        axes.set_xticks(list(costs), minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(folder / file, metadata={"Date": None})
        pyplot.close(figure)
