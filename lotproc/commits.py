"""What a commit says of itself in its transaction: which stage made it, under which policy, and how much it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ._public import public
from ._reprs import bounded_repr
from .models import html_of

__all__ = ["DESCRIPTION", "Commit", "commit_text"]

#: The name in a transaction's extension that it stands under.
DESCRIPTION = "lotproc"


@public
@dataclass(frozen=True)
class Commit:
    """One commit of lotproc, as `history` gives it.

    >>> from datetime import datetime, timezone
    >>> from lotproc import Commit
    >>> time = datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc)
    >>> counts = {"written": 1200}
    >>> print(Commit(bytes(8), time, "write", "inline('_proc')", "f0-2", counts))
    2026-03-01 12:30:00+00:00  write inline('_proc'), version 'f0-2': 1,200 written

    Args:
        transaction: Its id, as ZODB's 8 bytes: `scan(..., at=commit)` reads the tree as it was behind it.
        time: When it was made.
        stage: What made it: "write", "delete", "ingest_files" or "commit".
        policy: The write policy in words; empty where there is none.
        version: The version of the results.
        counts: How much it holds, by the names that reports have for it; empty for what was changed by hand.
    """

    transaction: bytes
    time: datetime
    stage: str
    policy: str = ""
    version: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        text = commit_text(self.stage, self.policy, self.version, self.counts)
        return f"{self.time.isoformat(' ', 'seconds')}  {text}"

    __repr__ = bounded_repr

    def _repr_html_(self) -> str:
        return html_of(self, str(self), [("transaction", self.transaction)])


def commit_text(stage: str, policy: str, version: str | None, counts: Mapping[str, Any]) -> str:
    """What is said, in words."""
    told = ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)
    by = f"{stage} {policy}".strip() + (f", version {version!r}" if version is not None else "")
    return f"{by}: {told or 'nothing'}" if counts else by
