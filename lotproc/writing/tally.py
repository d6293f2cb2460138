"""What a `write` has done so far: counted, told to the ledger, and taken back to the last commit where it fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from ..errors import add_note
from ..models import Failure, Write, WriteReport, counted
from .ledger import Ledger

__all__ = ["IfExists", "IfMissing", "Mark", "Planned", "Tally", "note_batch", "tell", "told_on_failure"]

IfExists: TypeAlias = Literal["merge", "replace", "skip", "error"]
IfMissing: TypeAlias = Literal["make", "error"]
Path: TypeAlias = "tuple[str, ...]"

#: Failures that a report keeps.
MOST_FAILURES = 1_000
#: Bytes of failures that wait for the commit, to be written with it.
MOST_KEPT = 1 << 20


class Planned(NamedTuple):
    """What is to be done about a batch.

    Args:
        writes: Its writes.
        failures: Its failures.
        sources: The paths of records of which the batch's last word is a result, where the ledger asks for them.
    """

    writes: list[Write]
    failures: list[Failure]
    sources: list[Path]


class Mark(NamedTuple):
    written: int
    skipped: int
    last_path: Path | None


@dataclass
class Tally:
    """What was done so far; the fields are those of the report."""

    written: int = 0
    skipped: int = 0
    commits: int = 0
    last_path: Path | None = None
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    writing: float = 0.0

    def __post_init__(self) -> None:
        self._committed = self.mark()

    def fail(self, failures: list[Failure]) -> None:
        self.failed += len(failures)
        self.failures += failures[: MOST_FAILURES - len(self.failures)]
        self.errors.update(failure.error for failure in failures)

    def mark(self) -> Mark:
        """What changes as results are applied."""
        return Mark(self.written, self.skipped, self.last_path)

    def back_to(self, mark: Mark) -> None:
        """Forget what was applied since."""
        self.written, self.skipped, self.last_path = mark

    def commit(self) -> None:
        """What was applied stays."""
        self.commits += 1
        self.keep()

    def keep(self) -> None:
        """What was applied stays, since somebody else committed it."""
        self._committed = self.mark()

    def back_to_commit(self) -> None:
        """Forget what did not stay."""
        self.back_to(self._committed)

    def report(self, seconds: float, waiting: float) -> WriteReport:
        return WriteReport(
            *(self.written, self.skipped, self.commits, self.last_path),
            *(self.failed, tuple(self.failures), dict(self.errors)),
            *(seconds, waiting, self.writing),
        )


def tell(ledger: Ledger, tally: Tally, before: Mark, failed: int, seconds: float) -> None:
    """Write into a ledger what has come since a mark."""
    ledger.commit(
        written=tally.written - before.written,
        skipped=tally.skipped - before.skipped,
        failed=tally.failed - failed,
        seconds=seconds,
        last_path=tally.last_path,
    )


def note_batch(batch: Planned, tally: Tally, ledger: Ledger | None) -> None:
    """Count the failures of a batch, and keep what is known of it."""
    if batch.failures:
        tally.fail(batch.failures)
    if ledger is not None:
        for failure in batch.failures:
            ledger.failed(failure)
        for path in batch.sources:
            ledger.wrote(path)
        if ledger.kept > MOST_KEPT:
            ledger.flush()


@contextmanager
def told_on_failure(tally: Tally, ledger: Ledger | None, target: str) -> Iterator[None]:
    """Take the tally back to the last commit where something fails, and say what stays in the target."""
    try:
        yield
    except BaseException as error:
        tally.back_to_commit()
        if ledger is not None:
            ledger.drop_recovered()
        if tally.commits:
            done = f"{counted(tally.written, 'result')} in {counted(tally.commits, 'commit')}"
            add_note(error, f"lotproc: before this, {done} went into {target}, and stay; the rest was undone")
        raise
