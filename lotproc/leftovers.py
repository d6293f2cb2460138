"""Results that are no longer wanted: their source is gone, or another version made them (`obsolete`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, overload

from lotdb import BaseNode

from ._items import path_of
from ._marked import Marked, marked_by, stamped
from ._nodes import out_of_order
from ._stage import stage, until_closed
from ._stamps import VERSION
from .errors import ArgumentError, ArgumentTypeError, got
from .models import Failure, NodeRecord
from .stores.protocol import Store
from .write_policies import Policy

__all__ = ["Sources", "left_over", "obsolete"]

_Path: TypeAlias = "tuple[str, ...]"


@overload
def obsolete(
    policy: Policy, target: BaseNode | Store, records: Iterable[Any], *, version: str | None = None
) -> Iterator[NodeRecord]: ...
@overload
def obsolete(
    policy: Policy, target: BaseNode | Store, *, version: str | None = None
) -> Callable[[Iterable[Any]], Iterator[NodeRecord]]: ...
@stage("records")
def obsolete(
    policy: Policy, target: BaseNode | Store, *, version: str | None = None
) -> Callable[[Iterable[Any]], Iterator[NodeRecord]]:
    """Find the results whose source is not among the records any more, or which another version made.

    >>> from lotdb import BaseNode
    >>> from lotproc import ProcessResult, delete, inline, leaves, obsolete, write
    >>> root, policy = BaseNode("root"), inline("_proc", "f0")
    >>> clips = [root.gn(f"clip_{number}") for number in range(3)]
    >>> results = [ProcessResult((clip.key,), 0.5) for clip in clips]
    >>> _ = write(policy, root, results, version="f0-2")
    >>> [record.path for record in obsolete(policy, root, clips[1:])]
    [('clip_0', '_proc', 'f0')]
    >>> print(delete(root, obsolete(policy, root, clips[1:])))
    1 node deleted, not committed

    Results are known by two marks: they lie where the base of the policy says, `inline("_proc", "f0")` at
    `.../_proc/f0`, and `mirror("features")` below `features`; and they carry a stamp, `_version` or `_inputs`, which
    `write(..., version=...)` and `pending(..., inputs=True)` give them. Nothing else is found.

    What `delete` would take along counts, too: a result stays out of this where one of the records lies at or below it;
    or another result that is not obsolete, or that may be another job's, since its version is another one. A result of
    a `mirror` whose path continues that of a record is one of that record, with a relative path.

    Args:
        policy: The `write`'s: `inline(...)`, `mirror(...)` or `fresh(...)` with a base.
        target: The `write`'s: a node, in memory or persistent, or a store.
        records: All sources that there are: records or live nodes, in the order of paths, as `scan` and `leaves` give
            them. What is at or below the path of a `Failure` among them has its source; a `Failure` is handed on.
        version: Results of other versions are obsolete as well, and those of none; `None`: any version will do.

    Returns:
        An iterator of records of the results, with their stamps as attributes, in the order of paths. They are what
        `delete` takes, and can be looked at before. Lazy, but for a store, of which it holds the paths of all results;
        else it holds results that lie in one another. A database is read as `pending` reads it.

    Raises:
        ArgumentError: `policy` has no base, or is none of lotproc's, so that other jobs' results could not be told from
            its own; `version` is empty; or the records are not in the order of paths.
        ArgumentTypeError: An option has the wrong type, or something among the records has no path.
        DamagedDatabaseError: A record of the database is missing or can't be read.
    """
    marked = marked_by("obsolete", policy, target)
    if version is not None and not isinstance(version, str):
        raise ArgumentTypeError("obsolete: version", expected="a str or None", got=got(version))
    if version == "":
        raise ArgumentError("obsolete: version must not be empty", hint="leave it out where any version will do")

    def run(records: Iterable[Any]) -> Iterator[NodeRecord]:
        results, close = stamped("obsolete", target, marked)
        return until_closed(left_over(results, marked, Sources("obsolete", records), version), close)

    return run


# Results beside records


class Sources:
    """The records, in the order of paths, beside which the results are gone through."""

    def __init__(self, name: str, records: Iterable[Any]) -> None:
        self._name, self._source = name, iter(records)
        self._next: tuple[_Path, bool] | None = None  # the one after the last place, and whether it failed
        self._last: _Path = ()
        self._above: list[tuple[_Path, bool]] = []  # those at or above the last place that was asked for
        self._began = self._any_failed = False
        self._failures: list[Failure] = []

    def lacks(self, source: _Path, path: _Path, marked: Marked, version: str | None, its_version: object) -> bool:
        """Whether the result at a path, which comes after those that were asked for, is obsolete.

        Args:
            source: The path of its source.
            path: Its own.
            marked: The places of the results.
            version: What it has to be; `None` for anything.
            its_version: What it is.
        """
        inline = marked.is_inline
        self._go_to(path if inline else source)
        if inline and self._has_below(path):
            return False
        return (version is not None and its_version != version) or not self._has(source, or_above=not inline)

    @property
    def has_met(self) -> bool:
        """Whether failures were met."""
        return bool(self._failures)

    def met(self) -> list[Failure]:
        """The failures that were met, which are to be handed on."""
        met, self._failures = self._failures, []
        return met

    def rest(self) -> None:
        """Go through those that are left."""
        if not self._began:
            self._pull()
        while self._next is not None:
            self._pull()

    def _go_to(self, place: _Path) -> None:
        if not self._began:
            self._pull()
        following = self._next
        while following is not None and following[0] <= place:
            if place[: len(following[0])] == following[0]:
                self._above.append(following)
            self._pull()
            following = self._next
        for above, _ in self._above:
            if place[: len(above)] != above:
                self._above = [each for each in self._above if place[: len(each[0])] == each[0]]
                break

    def _pull(self) -> None:
        self._began, self._next = True, None
        for item in self._source:
            if type(item) is NodeRecord and type(item.path) is tuple:
                path, failed = item.path, False
            else:
                failed = isinstance(item, Failure)
                if failed:
                    self._failures.append(item)
                    self._any_failed = self._any_failed or item.path is None
                    if item.path is None:
                        continue
                path = path_of(self._name, item)
            if path < self._last:
                raise out_of_order(f"{self._name}: the record", path, self._last)
            self._last, self._next = path, (path, failed)
            return

    def _has(self, source: _Path, *, or_above: bool) -> bool:
        """Whether this is one of them, or of those that could not be read."""
        for path, failed in self._above:
            if path == source or ((failed or or_above) and source[: len(path)] == path):
                return True
        return self._any_failed

    def _has_below(self, place: _Path) -> bool:
        """Whether one is at or below the last place."""
        if self._next is not None and self._next[0][: len(place)] == place:
            return True
        return bool(self._above) and self._above[-1][0] == place  # the longest comes last


def left_over(
    results: Iterable[NodeRecord], marked: Marked, sources: Sources, version: str | None = None
) -> Iterator[Any]:
    """The results that are obsolete, of all that carry stamps in their places and below, and the failures met."""
    group: list[_Found] = []  # what is obsolete at and below one place, until all that is there was seen
    above: list[_Found] = []  # those of them that are at or above the last one
    for result in results:
        path, its_version = result.path, result.attributes[VERSION]
        if above:
            above = [found for found in above if path[: len(found.record.path)] == found.record.path]
        if group and not above:
            yield from (found.record for found in group if not found.stays)
            group = []
        source = marked.source(path)
        if source is not None and sources.lacks(source, path, marked, version, its_version):
            found = _Found(result)
            group.append(found)
            above.append(found)
        else:
            for found in above:
                is_extra = marked.is_inline and its_version == found.record.attributes[VERSION]
                found.stays = found.stays or not is_extra
        if sources.has_met:
            yield from sources.met()
    yield from (found.record for found in group if not found.stays)
    sources.rest()
    yield from sources.met()


class _Found:
    """A result that is obsolete, and whether it stays all the same, since something else lies below it."""

    __slots__ = ("record", "stays")

    def __init__(self, record: NodeRecord) -> None:
        self.record, self.stays = record, False
