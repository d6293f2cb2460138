"""One side of a row: what it works on, which is built once, and what it takes, in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from benchmarks import trees
from benchmarks.measuring import WARM_UP, Measured, in_fresh_process, measured

Run: TypeAlias = Callable[[Path, int], Measured]
Build: TypeAlias = Callable[[Path, int], None]


@dataclass(frozen=True)
class Side:
    """One side of a row.

    Args:
        run: Measures it, given the folder of what was built and its size.
        size: The leaves in the tree (or to be written to it), the records in a store, the files in a folder.
        build: Builds what it works on, given a folder and the size.
        items: How many items the figures are for, which are microseconds an item then; `None`: for all of it.
    """

    run: Run
    size: int
    build: Build = trees.build
    items: int | None = None

    def figure(self, measured: Measured) -> float:
        """What is compared, and written into the table."""
        return measured.value if self.items is None else 1e6 * measured.value / self.items


def measured_side(side: Side, writes: bool, folder: Path) -> Measured:
    """What a side takes; where it writes, on a copy of what was built."""
    main, small = built(side.build, side.size, folder), built(side.build, WARM_UP, folder)
    if not writes:
        return in_fresh_process(measured, side.run, main, side.size, small)
    with TemporaryDirectory(dir=folder) as copies:
        main = Path(shutil.copytree(main, Path(copies, "main")))
        small = Path(shutil.copytree(small, Path(copies, "small")))
        return in_fresh_process(measured, side.run, main, side.size, small)


def built(build: Build, size: int, folder: Path) -> Path:
    """What a side works on, built where it is not there yet."""
    found = folder / f"{build.__name__}_{size}"
    if not found.exists():
        unfinished = found.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        build(unfinished, size)
        unfinished.rename(found)
    return found
