"""The values of ingest: files, and the report at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._public import public
from ._reprs import bounded_repr, named, repr_of_changed
from .errors import as_text, as_utf8
from .models import as_told, commits_text, counted, html_of

__all__ = ["FileFailure", "IndexedFile", "IngestReport"]

#: Lines of each list of a report, at most: in a terminal, and in a notebook, where lists are closed at first, but
#: for failures that are no more than the former.
MOST_LINES = 20
MOST_ROWS = 200


@public
@dataclass(frozen=True)
class IndexedFile:
    """A file, and the path of its node.

    Args:
        path: Keys from below the root: the folders, and the file's name, with its suffix or without.
        file: The file itself, absolute.
        reason: Why it is left out: it is a folder that could not be listed. `None` for a file.
    """

    path: tuple[str, ...]
    file: Path
    reason: str | None = None

    __repr__ = bounded_repr

    def _repr_html_(self) -> str:
        reason = [] if self.reason is None else [("reason", as_told(self.reason))]
        return html_of(self, as_text(self.path), [("file", as_told(named(self.file))), *reason])


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
        return as_utf8(f"{named(self.file)}: {self.reason}")

    __repr__ = bounded_repr

    def _repr_html_(self) -> str:
        told = [("file", as_told(named(self.file))), ("reason", as_told(self.reason))]
        return html_of(self, as_text(self.path), told)


@public
@dataclass(frozen=True)
class IngestReport:
    """What `ingest_files` did: text when printed, and HTML in a notebook.

    >>> from pathlib import Path
    >>> from lotproc import FileFailure, IngestReport
    >>> failure = FileFailure(Path("a.wav"), ("a",), "it is empty")
    >>> print(IngestReport(ingested=2, commits=1, failures=(failure,)))
    2 files ingested, 1 failed, 1 commit
      a.wav: it is empty

    Args:
        ingested: Files attached, those of `updated` among them.
        skipped: Files left out because their node had the attribute already.
        commits: Transactions committed; 0 where the caller commits.
        failures: Files that can't be read, or whose node belongs to another file of the same run.
        inner: Paths of nodes that have the attribute as others below them do, `a/c` beside `a/c/x`. They are no leaves,
            so `leaves` and `scan` do not give their files.
        updated: Paths of nodes that had the attribute, and got it anew.
        gone: The nodes whose file is gone, and these files; with `gone="report"` or `"delete"`.
        deleted: Nodes deleted with `gone="delete"`: those of files that are gone, all that were below them, and those
            above them that stood for nothing any more.
        moved: Paths of nodes whose file is the one that was read, at another place: they say now that it is there.
        elsewhere: With `gone=`, the nodes whose file is gone from outside of the folder, and these files.
    """

    ingested: int = 0
    skipped: int = 0
    commits: int = 0
    failures: tuple[FileFailure, ...] = ()
    inner: tuple[tuple[str, ...], ...] = ()
    updated: tuple[tuple[str, ...], ...] = ()
    gone: tuple[IndexedFile, ...] = ()
    deleted: int = 0
    moved: tuple[tuple[str, ...], ...] = ()
    elsewhere: tuple[IndexedFile, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        # Without what it did not have once, where that says nothing: stamps of inputs are made of this.
        return {name: value for name, value in vars(self).items() if name in _FIRST or value}

    def __str__(self) -> str:
        lines = [self._counts()]
        for _, found in self._lists():
            lines += found[:MOST_LINES]
            if len(found) > MOST_LINES:
                lines.append(f"… {len(found) - MOST_LINES:,} more")
        return "\n  ".join(lines)

    def _repr_html_(self) -> str:
        from ._html import card, details, escaped  # here, since a worker shows nothing

        parts = []
        for title, found in self._lists():
            items = [f"<li>{escaped(line)}</li>" for line in found[:MOST_ROWS]]
            if len(found) > MOST_ROWS:
                items.append(f"<li><i>… {len(found) - MOST_ROWS:,} more</i></li>")
            is_open = title == "failed" and len(found) <= MOST_LINES
            parts.append(details(f"{len(found):,} {title}", f"<ul>{''.join(items)}</ul>", is_open=is_open))
        return card("IngestReport", self._counts(), *parts)

    __repr__ = repr_of_changed

    def _counts(self) -> str:
        parts = [
            counted(self.ingested, "file") + " ingested",
            *([f"{len(self.updated):,} of them again"] if self.updated else []),
            *([f"{self.skipped:,} skipped"] if self.skipped else []),
            *([f"{len(self.moved):,} moved"] if self.moved else []),
            *([f"{len(self.failures):,} failed"] if self.failures else []),
            *([f"{counted(len(self.inner), 'node')} with a file above others"] if self.inner else []),
            *([f"{len(self.gone):,} gone"] if self.gone else []),
            *([f"{len(self.elsewhere):,} gone elsewhere"] if self.elsewhere else []),
            *([f"{counted(self.deleted, 'node')} deleted"] if self.deleted else []),
            commits_text(self.commits, self.ingested > 0 or self.deleted > 0 or bool(self.moved)),
        ]
        return ", ".join(parts)

    def _lists(self) -> list[tuple[str, list[str]]]:
        """What there are lists of, and the lines of each that is not empty."""
        above = [f"{as_text(path)}: is no leaf, so scan() does not give its file; rename it" for path in self.inner]
        lists = {
            "failed": [*map(str, self.failures)],
            "with a file above others": [*map(as_utf8, above)],
            "ingested again": [as_utf8(f"{as_text(path)}: was ingested again") for path in self.updated],
            "gone": [as_utf8(f"{named(each.file)}: is gone") for each in self.gone],
            "gone elsewhere": [*map(as_utf8, _told_of_elsewhere(self.elsewhere))],
        }
        return [(title, lines) for title, lines in lists.items() if lines]


def _told_of_elsewhere(files: Iterable[IndexedFile]) -> Iterator[str]:
    """A line for each folder that files are gone from: the one that had them at the paths of their nodes."""
    folders = Counter(_folder_of(each) for each in files)
    for folder, number in folders.items():
        nodes = "1 node is of a file that is" if number == 1 else f"{number:,} nodes are of files that are"
        hint = 'if_exists="replace" takes what that has for the same nodes, delete() removes the others'
        yield f"{nodes} gone from {named(folder)}, outside of the folder that was ingested: {hint}"


def _folder_of(each: IndexedFile) -> Path:
    above = each.file.parents
    depth = len(each.path) - 1
    is_at_path = depth < len(above) and each.file.parts[-depth - 1 : -1] == each.path[:-1]
    return above[depth] if is_at_path else each.file.parent


#: What a report had from the beginning.
_FIRST = frozenset({"ingested", "skipped", "commits", "failures"})
