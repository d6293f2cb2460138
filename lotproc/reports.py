"""What a pipeline that writes says at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .models import Failure

__all__ = ["FileFailure", "IngestReport", "WriteReport", "counted"]


@dataclass(frozen=True)
class WriteReport:
    """What a `write` did.

    >>> print(WriteReport(written=120, commits=2))
    120 results written, 2 commits

    Args:
        written: Results applied to the target.
        skipped: Results left out because their node was there (`if_exists="skip"`).
        commits: Transactions committed; 0 where the caller commits.
        last_path: The path that was written last.
        failed: Records that came as a `Failure` in place of a result.
        failures: The first 1,000 of these; a ledger has them all.
        errors: How many of all of them there were of each type of error.
        seconds: How long it took, from the first result that was asked for.
        waiting: Seconds of these in which `parallel_map` waited for its workers, or worked in line.
        writing: Seconds of these for planning, applying and committing results. The rest went into reading.
    """

    written: int = 0
    skipped: int = 0
    commits: int = 0
    last_path: tuple[str, ...] | None = None
    failed: int = 0
    failures: tuple[Failure, ...] = ()
    errors: Mapping[str, int] = field(default_factory=dict, hash=False)
    seconds: float = field(default=0.0, compare=False)
    waiting: float = field(default=0.0, compare=False)
    writing: float = field(default=0.0, compare=False)

    def __str__(self) -> str:
        parts = [
            counted(self.written, "result") + " written",
            *([f"{self.skipped:,} skipped"] if self.skipped else []),
            *([f"{self.failed:,} failed"] if self.failed else []),
            _commits(self.commits),
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class FileFailure:
    """A file that was left out, and why; `path` is where its node would be."""

    file: Path
    path: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True)
class IngestReport:
    """What `ingest_files` did.

    >>> from pathlib import Path
    >>> from lotproc import FileFailure, IngestReport
    >>> print(IngestReport(ingested=2, commits=1, failures=(FileFailure(Path("a.wav"), ("a",), "it is empty"),)))
    2 files ingested, 1 failed, 1 commit
      a.wav: it is empty

    Args:
        ingested: Files attached.
        skipped: Files left out because their node had the attribute already.
        commits: Transactions committed; 0 where the caller commits.
        failures: Files that can't be read, or whose node belongs to another file of the same run.
    """

    ingested: int = 0
    skipped: int = 0
    commits: int = 0
    failures: tuple[FileFailure, ...] = ()

    def __str__(self) -> str:
        parts = [
            counted(self.ingested, "file") + " ingested",
            *([f"{self.skipped:,} skipped"] if self.skipped else []),
            *([f"{len(self.failures):,} failed"] if self.failures else []),
            _commits(self.commits),
        ]
        return "\n  ".join([", ".join(parts), *map(str, self.failures)])


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1200, "file")
    '1,200 files'
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _commits(number: int) -> str:
    return counted(number, "commit") if number else "not committed"
