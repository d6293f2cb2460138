"""A row of the benchmark: what is compared with what, how, and the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import trees
from benchmarks.sides import Build, Run, Side


@dataclass(frozen=True)
class Comparison:
    """How the two sides of a row are compared, and how the figures are written.

    Args:
        of: The outcome of a round, from our value and the peer's.
        outcome: The format of the outcome and of the target, without their unit.
        unit: The unit of both.
        at_most: The target is the most that is allowed, not the least that is to be reached.
        value: The format of one side's value.
    """

    of: Callable[[float, float], float]
    outcome: str
    unit: str
    at_most: bool = True
    value: str = "{:.3g} s"


FASTER = Comparison(lambda ours, theirs: theirs / ours, "{:.3g}", "times as fast", at_most=False)
LONGER = Comparison(lambda ours, theirs: ours / theirs, "{:.3g}", "times as long")
MORE = Comparison(lambda ours, theirs: 100 * (ours / theirs - 1), "{:+.0f}", "%")
#: Microseconds an item, and milliseconds, of our side alone; the other's are there to be compared.
MICROSECONDS = Comparison(lambda ours, theirs: ours, "{:.3g}", "µs")
MILLISECONDS = Comparison(lambda ours, theirs: 1000 * ours, "{:.3g}", "ms")
CALLS = Comparison(lambda ours, theirs: ours, "{:.0f}", "calls", value="{:.0f} calls")
MORE_MEMORY = Comparison(lambda ours, theirs: ours - theirs, "{:+.0f}", "MB", value="{:.0f} MB")
#: Whole megabytes of our side alone.
EXTRA_MEMORY = Comparison(lambda ours, theirs: round(ours), "{:+.0f}", "MB", value="{:.0f} MB")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        work: What is done.
        peer: What it is compared with.
        ours: This side is lotproc's.
        theirs: The peer's.
        target: What the comparison should give; `None` for a line that is there to be looked at.
        comparison: How the two are compared.
        writes: Each side of each round gets a copy of what was built.
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


def row(
    work: str,
    peer: str,
    ours: Run,
    theirs: Run,
    target: float | None = None,
    comparison: Comparison = FASTER,
    *,
    size: int,
    build: Build = trees.build,
    items: int | None = None,
    **more: Any,
) -> Row:
    """A row whose sides work on the same."""
    return Row(work, peer, Side(ours, size, build, items), Side(theirs, size, build, items), target, comparison, **more)
