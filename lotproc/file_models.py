"""The values of ingest: files, and the report at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._public import public
from .errors import as_text, as_utf8
from .models import commits_text, counted

__all__ = ["FileFailure", "IndexedFile", "IngestReport"]


@public
@dataclass(frozen=True)
class IndexedFile:
    """A file, and the path of its node.

    Args:
        path: Keys from below the root: the folders, and the file's name without its suffix.
        file: The file itself, absolute.
        reason: Why it is left out: it is a folder that could not be listed. `None` for a file.
    """

    path: tuple[str, ...]
    file: Path
    reason: str | None = None


@public
@dataclass(frozen=True)
class FileFailure:
    """A file that was left out, and why; `path` is where its node would be."""

    file: Path
    path: tuple[str, ...]
    reason: str

    @property
    def attributes(self) -> dict[str, Any]:
        """What a table of failures shows beside the path."""
        return {"file": self.file, "reason": self.reason}

    def __str__(self) -> str:
        return as_utf8(f"{self.file}: {self.reason}")


@public
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
        inner: Paths of nodes that have the attribute as others below them do, `a/c` beside `a/c/x`. They are no leaves,
            so `leaves` and `scan` do not give their files.
    """

    ingested: int = 0
    skipped: int = 0
    commits: int = 0
    failures: tuple[FileFailure, ...] = ()
    inner: tuple[tuple[str, ...], ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        # Without what it did not have once, where that says nothing: stamps of inputs are made of this.
        return {name: value for name, value in vars(self).items() if name != "inner" or value}

    def __str__(self) -> str:
        parts = [
            counted(self.ingested, "file") + " ingested",
            *([f"{self.skipped:,} skipped"] if self.skipped else []),
            *([f"{len(self.failures):,} failed"] if self.failures else []),
            *([f"{counted(len(self.inner), 'node')} with a file above others"] if self.inner else []),
            commits_text(self.commits, self.ingested > 0),
        ]
        above = [f"{as_text(path)}: is no leaf, so scan() does not give its file; rename it" for path in self.inner]
        return "\n  ".join([", ".join(parts), *map(str, self.failures), *map(as_utf8, above)])
