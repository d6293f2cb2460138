"""The values that flow through a pipeline: records, results, writes and the report of a write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["NodeRecord", "ProcessResult", "Write", "WriteReport"]


@dataclass(frozen=True)
class NodeRecord:
    """What a processor gets: one node, detached from its tree.

    Holds plain values only, so it is safe in any thread, process or machine.

    >>> record = NodeRecord(path=("speaker_01", "clip_001"), key="clip_001", attributes={"duration": 1.2})
    >>> record.attributes["duration"]
    1.2

    Args:
        path: The node's keys from below the root of its tree down to itself; empty for the root.
        key: The node's own key.
        attributes: The attributes that were asked for, by name; absent ones are `None`.
        payload: Whatever `snapshot(..., payload=function)` took from the node.
    """

    path: tuple[str, ...]
    key: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    payload: Any = None


@dataclass(frozen=True)
class ProcessResult:
    """What a processor returns: an output and attributes for the node at `path`.

    >>> ProcessResult(path=("speaker_01", "clip_001"), output=0.5).path
    ('speaker_01', 'clip_001')

    Args:
        path: The path of the record that was processed.
        output: Any value that can be pickled; stored as the attribute that `write` calls `output_attribute`.
        attributes: More attributes for the written node, by name.
        relative_path: Keys to append to the path that the write policy makes.
    """

    path: tuple[str, ...]
    output: Any = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    relative_path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Lists are what `node.gps()` gives; a str stays as it is, for the policy to refuse.
        for name in ("path", "relative_path"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))


@dataclass(frozen=True)
class Write:
    """One planned write: the attributes to set on the node at `path`, below the target's root.

    >>> Write(path=("clip_001", "_proc"), attributes={"result": 0.5})
    Write(path=('clip_001', '_proc'), attributes={'result': 0.5})
    """

    path: tuple[str, ...]
    attributes: Mapping[str, Any]


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
    """

    written: int = 0
    skipped: int = 0
    commits: int = 0
    last_path: tuple[str, ...] | None = None

    def __str__(self) -> str:
        parts = [_counted(self.written, "result") + " written"]
        if self.skipped:
            parts.append(f"{self.skipped} skipped")
        parts.append(_counted(self.commits, "commit") if self.commits else "not committed")
        return ", ".join(parts)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
