"""What a row of the soak program is, and how runs are repeated."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeAlias


@dataclass(frozen=True)
class Settings:
    """How the program was called.

    Args:
        runs: The most of anything that is repeated, for a quick look; `None` for all.
        choose: Where what is random comes from.
        folder: Where the databases go, and what is left of a run that fails.
    """

    runs: int | None
    choose: random.Random
    folder: Path

    def at_most(self, number: int) -> int:
        return number if self.runs is None else min(number, self.runs)


@dataclass(frozen=True)
class Outcome:
    """What came out of a row."""

    often: str
    outcome: str
    holds: bool


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measure: Callable[[Settings], Outcome]


#: One run in a folder of its own: gives what was wrong, if anything.
Run: TypeAlias = Callable[[Path], "list[str]"]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def repeated(settings: Settings, what: str, number: int, run: Run) -> int:
    """Repeat a run; how often nothing was wrong. The folder of a run that fails stays."""
    good = 0
    for index in range(number):
        folder = Path(mkdtemp(prefix="run_", dir=settings.folder))
        try:
            problems = run(folder)
        except TimeoutError as error:
            problems = [str(error)]
        if problems:
            say(f"{what}: run {index + 1}: {'; '.join(problems)}; what is left is in {folder}")
        else:
            good += 1
            shutil.rmtree(folder)
        if (index + 1) % 10 == 0:
            say(f"{what}: {good} of {index + 1}")
    return good


def of(good: int, number: int) -> str:
    """How many of how many.

    >>> of(1199, 1200)
    '1,199 of 1,200'
    """
    return f"{good:,} of {number:,}"
