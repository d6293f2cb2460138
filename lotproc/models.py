"""The values that flow through a pipeline: files, records, results, writes, and the reports at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ArgumentError, ResultError, as_text, got

__all__ = [
    *("FileFailure", "IndexedFile", "IngestReport", "NodeRecord", "Partition", "ProcessResult", "Write", "WriteReport"),
]


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
        payload: What `snapshot(..., payload=...)` took from the node: a `PayloadHandle`, or what a function returned.
    """

    path: tuple[str, ...]
    key: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    payload: Any = None


def node_record(path: tuple[str, ...], key: str, attributes: Mapping[str, Any], payload: Any) -> NodeRecord:
    """Make a `NodeRecord` in less than half the time, for stages that make millions.

    The constructor of a frozen dataclass goes through `object.__setattr__` for each field.
    """
    record = object.__new__(NodeRecord)
    fields = record.__dict__
    fields["path"] = path
    fields["key"] = key
    fields["attributes"] = attributes
    fields["payload"] = payload
    return record


@dataclass(frozen=True)
class Partition:
    """A part of a tree in a database file: a reference that can be sent wherever that file can be opened.

    `partitions` makes them, and `scan` takes them in place of a root.

    Args:
        file: The database file.
        blobs: The directory of its blobs, if it has one.
        before: The transaction before which the tree is read, as ZODB's 8 bytes.
        root: The id of the tree's root in the database, as ZODB's 8 bytes.
        start: The path below the root at which the part begins; empty for the root itself.
        stop: The path below the root at which it ends, itself not included; empty for the end of the tree.
    """

    file: str
    blobs: str | None
    before: bytes
    root: bytes
    start: tuple[str, ...]
    stop: tuple[str, ...]

    def __str__(self) -> str:
        stop = f"before {as_text(self.stop)}" if self.stop else "the end"
        return f"from {as_text(self.start)} to {stop}, in {self.file}"


#: Stands for attributes that were not given, so that each result has a dict of its own.
_NONE: Mapping[str, Any] = {}


@dataclass(frozen=True, init=False)
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

    def __init__(
        self,
        path: Iterable[str],
        output: Any = None,
        attributes: Mapping[str, Any] = _NONE,
        relative_path: Iterable[str] = (),
    ) -> None:
        fields = self.__dict__  # for speed, as in `node_record`
        # Lists are what `node.gps()` gives; a str stays as it is, for the policy to refuse.
        fields["path"] = tuple(path) if type(path) is list else path
        fields["output"] = output
        fields["attributes"] = {} if attributes is _NONE else attributes
        fields["relative_path"] = tuple(relative_path) if type(relative_path) is list else relative_path


@dataclass(frozen=True, init=False)
class Write:
    """One planned write: the attributes to set on the node at `path`, below the target's root.

    >>> Write(path=("clip_001", "_proc"), attributes={"result": 0.5})
    Write(path=('clip_001', '_proc'), attributes={'result': 0.5})
    """

    path: tuple[str, ...]
    attributes: Mapping[str, Any]

    def __init__(self, path: tuple[str, ...], attributes: Mapping[str, Any]) -> None:
        fields = self.__dict__
        fields["path"] = path
        fields["attributes"] = attributes


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
        parts = [
            _counted(self.written, "result") + " written",
            *([f"{self.skipped:,} skipped"] if self.skipped else []),
            _commits(self.commits),
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class IndexedFile:
    """A file, and the path of its node.

    Args:
        path: Keys from below the root: the folders, and the file's name without its suffix.
        file: The file itself, absolute.
    """

    path: tuple[str, ...]
    file: Path


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
            _counted(self.ingested, "file") + " ingested",
            *([f"{self.skipped:,} skipped"] if self.skipped else []),
            *([f"{len(self.failures):,} failed"] if self.failures else []),
            _commits(self.commits),
        ]
        return "\n  ".join([", ".join(parts), *map(str, self.failures)])


def written_attributes(name: str, result: ProcessResult, output_attribute: str | None) -> dict[str, Any]:
    """The attributes of a result as they are written: its output is one of them, if it has a name."""
    if not isinstance(result.attributes, Mapping):
        raise ResultError(
            f"{name}: the attributes of the result at {as_text(result.path)} must be a mapping, got "
            f"{got(result.attributes)}"
        )
    attributes = dict(result.attributes)
    for attribute in attributes:
        if not isinstance(attribute, str):
            raise ResultError(
                f"{name}: the result at {as_text(result.path)} has an attribute whose name is no str: {got(attribute)}"
            )
    if output_attribute is not None:
        if output_attribute in attributes:
            raise ArgumentError(
                f"{name}: the result at {as_text(result.path)} has an attribute {output_attribute!r}, which is where "
                f"its output goes; rename it, or let plan() or write() choose another output_attribute"
            )
        attributes[output_attribute] = result.output
    return attributes


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _commits(number: int) -> str:
    return _counted(number, "commit") if number else "not committed"
