"""How far a job is: what is done, new, made by another version or from other inputs, failed, left over (`status`)."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias, overload

from lotdb import BaseNode

from ._marked import Marked, marked_by, stamped
from ._public import public
from ._stage import check_count, check_root, stage
from ._undone import Results, check_results, lookup_of
from ._windows import in_windows
from .errors import as_text
from .leftovers import Sources, left_over
from .models import Failure
from .stores.protocol import Store
from .write_policies import Policy, as_policy, has_base
from .writing.ledger import check_ledger, outstanding_failures

__all__ = ["Status", "status"]

_Path: TypeAlias = "tuple[str, ...]"
_Counts: TypeAlias = "Counter[tuple[_Path, str]]"

#: Parts that are shown; a `Status` has all.
MOST_SHOWN = 20
#: What records are counted as, and how that is shown.
STATES = {
    "done": "done",
    "new": "new",
    "other_version": "other version",
    "other_inputs": "other inputs",
    "unstamped": "unstamped inputs",
    "failed": "failed",
}


@public
@dataclass(frozen=True, repr=False)
class Status:
    """How far a job is; made by `status`, text when printed, and a table in a notebook.

    Args:
        done: Records whose result is there and up to date.
        new: Those that have none.
        other_version: Those whose result was made by another version, or by nobody knows which.
        other_inputs: Those whose result was made from other inputs.
        unstamped: Those whose result does not say from which inputs it was made.
        failed: Those that failed, by the ledger, and are not done; and failures among the records.
        obsolete: Results whose source is not among the records; `None` where the policy has no base to know them by.
        parts: The same for each part of the records, by the keys that its paths begin with.
    """

    done: int = 0
    new: int = 0
    other_version: int = 0
    other_inputs: int = 0
    unstamped: int = 0
    failed: int = 0
    obsolete: int | None = None
    parts: Mapping[_Path, Status] = field(default_factory=dict, hash=False)

    @property
    def records(self) -> int:
        """How many records there are."""
        return sum(getattr(self, state) for state in STATES)

    def __repr__(self) -> str:
        rows = [["", *(title for title, _ in self._columns())], *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
        return "\n".join([*lines, *self._more()])

    def _repr_html_(self) -> str:
        from ._html import block, escaped, grid

        table = grid(
            ["", *(title for title, _ in self._columns())], [map(escaped, row) for row in self._rows()], numbers=True
        )
        return block(table, *(f"<div>{line}</div>" for line in self._more()))

    def _columns(self) -> list[tuple[str, str]]:
        """Titles and names of what is shown: what there is none of in all is left out."""
        shown = [(title, name) for name, title in STATES.items() if name == "done" or getattr(self, name)]
        return [("records", "records"), *shown, *([("obsolete", "obsolete")] if self.obsolete else [])]

    def _rows(self) -> Iterator[list[str]]:
        for name, part in [("in all", self), *((as_text(path), each) for path, each in self._shown())]:
            yield [name, *(f"{getattr(part, column) or 0:,}" for _, column in self._columns())]

    def _shown(self) -> list[tuple[_Path, Status]]:
        return list(islice(self.parts.items(), MOST_SHOWN))

    def _more(self) -> list[str]:
        more = len(self.parts) - MOST_SHOWN
        return [f"… {more:,} more"] if more > 0 else []


@overload
def status(
    policy: Policy,
    root: BaseNode | Store,
    records: Iterable[Any],
    *,
    version: str | None = None,
    inputs: bool = False,
    ledger: str | os.PathLike[str] | None = None,
    by: int | None = None,
) -> Status: ...
@overload
def status(
    policy: Policy,
    root: BaseNode | Store,
    *,
    version: str | None = None,
    inputs: bool = False,
    ledger: str | os.PathLike[str] | None = None,
    by: int | None = None,
) -> Callable[[Iterable[Any]], Status]: ...
@stage("records")
def status(
    policy: Policy,
    root: BaseNode | Store,
    *,
    version: str | None = None,
    inputs: bool = False,
    ledger: str | os.PathLike[str] | None = None,
    by: int | None = None,
) -> Callable[[Iterable[Any]], Status]:
    """Count how far a job is: what `pending` would leave out as done, and why it would give the rest.

    >>> from lotdb import BaseNode
    >>> from lotproc import ProcessResult, inline, leaves, status, write
    >>> root, policy = BaseNode("root"), inline("_proc")
    >>> for path in (["ann", "clip_1"], ["ann", "clip_2"], ["bob", "clip_1"]):
    ...     _ = root.gns(path)
    >>> _ = write(policy, root, [ProcessResult(("ann", "clip_1"), 0.5)], version="f0-2")
    >>> status(policy, root, leaves(root, skip="_proc"), version="f0-2", by=1)
            records  done  new
    in all        3     1    2
    ann           2     1    1
    bob           1     0    1

    It only reads, and may be called from another program while the job runs, on a database that is opened with
    `read_only=True`: it shows what is committed when that is opened.

    Args:
        policy: The `write`'s, as `pending` takes it.
        root: The `write`'s target: a node, in memory or persistent, or a store.
        records: Records, or live nodes without `inputs`, as `pending` takes them; in the order of paths, where the
            policy is one of lotproc's with a base, so that results without a source can be told.
        version: What the results' `_version` has to be; `None` for anything.
        inputs: Whether results must have been made from the records' attributes as they are now.
        ledger: The file that `write(..., ledger=...)` keeps, or will make.
        by: Count the parts as well that so many of the first keys make, as `1` for each speaker.

    Returns:
        A `Status`. Each record counts once, as "done", else as "failed", else by the first reason for which it is not
        done. `pending` with the same options gives what is not "done", and with `failed="skip"` also not "failed".
        `obsolete` counts what `obsolete` gives without a version. Not lazy; holds a window of records, and the paths
        that failed.

    Raises:
        ArgumentError, ArgumentTypeError, DamagedDatabaseError: As `pending` and `obsolete` raise them.
    """
    policy = as_policy("status", policy)
    check_results("status", version, inputs)
    if not isinstance(root, Store):
        check_root("status", root, "a lotdb node or a store")
    if by is not None:
        check_count("status", "by", by)
    if ledger is not None:
        ledger = check_ledger("status", ledger)
    marked = marked_by("status", policy, root) if has_base(policy) else None

    def run(records: Iterable[Any]) -> Status:
        failed = () if ledger is None else outstanding_failures("status", ledger, may_be_new=True)
        lookup = lookup_of("status", root, policy)
        counts: _Counts = Counter()
        try:
            counter = _Counter(Results("status", policy, lookup, version, inputs), frozenset(failed), by, counts)
            counted = in_windows(records, counter.of_many, counter.of_one)
            if marked is None:
                deque(counted, maxlen=0)
            else:
                _count_left_over(root, marked, counted, by, counts)
        finally:
            lookup.close()
        return _status(counts, by, has_marks=marked is not None)

    return run


class _Counter:
    """Counts windows of records, and gives them on."""

    def __init__(self, results: Results, failed: Container[_Path], by: int | None, counts: _Counts) -> None:
        self._results, self._failed, self._by, self._counts = results, failed, by, counts

    def of_many(self, items: list[Any]) -> list[Any]:
        """Count them."""
        records = [item for item in items if type(item) is not Failure]
        paths = self._results.paths(records)
        there = self._results.there(records, paths)[0] if records else []
        states = ["done"] * len(paths)
        rows = [row for row, is_there in enumerate(there) if not is_there]
        reasons = self._results.reasons([paths[row] for row in rows]) if rows else []
        for row, reason in zip(rows, reasons, strict=True):
            states[row] = "failed" if paths[row] in self._failed else reason
        paths += [item.path or () for item in items if type(item) is Failure]
        states += ["failed"] * (len(items) - len(records))
        parts = [()] * len(paths) if self._by is None else [path[: self._by] for path in paths]
        self._counts.update(zip(parts, states, strict=True))
        return items

    def of_one(self, item: Any) -> list[Any]:
        """The same of one, with its path where that can't be told."""
        return self._results.of_one(item, self.of_many)


def _count_left_over(
    root: BaseNode | Store, marked: Marked, records: Iterable[Any], by: int | None, counts: _Counts
) -> None:
    results, close = stamped("status", root, marked)
    try:
        for item in left_over(results, marked, Sources("status", records)):
            if type(item) is not Failure:
                counts[(marked.source(item.path) or ())[: by or 0], "obsolete"] += 1
    finally:
        close()


def _status(counts: _Counts, by: int | None, *, has_marks: bool) -> Status:
    of_each: dict[_Path, Counter[str]] = {}
    for (part, state), count in counts.items():
        of_each.setdefault(part, Counter())[state] = count
    in_all: Counter[str] = sum(of_each.values(), Counter())
    parts = {} if by is None else {part: _of(of_each[part], has_marks) for part in sorted(of_each)}
    return _of(in_all, has_marks, parts)


def _of(counts: Counter[str], has_marks: bool, parts: Mapping[_Path, Status] | None = None) -> Status:
    obsolete = counts["obsolete"] if has_marks else None
    return Status(**{state: counts[state] for state in STATES}, obsolete=obsolete, parts=parts or {})
