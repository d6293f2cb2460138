"""Run again what is not done yet: leave out what has its result, and come back to what failed."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator
from functools import cache
from itertools import chain, groupby
from typing import Any, Literal, TypeAlias, TypeVar, overload

from lotdb import BaseNode

from ._items import node_path
from ._public import public
from ._spelling import spelled
from ._stage import check_choice, check_root, stage, until_closed
from ._undone import Results, check_results, lookup_of, with_inputs
from ._windows import in_windows
from .errors import ArgumentError, ArgumentTypeError, got
from .models import Failure, Place
from .stores.protocol import Store
from .write_policies import Policy, as_policy
from .writing.ledger import check_ledger, outstanding_failures, standing_failures
from .zodb.lookup import LiveLookup

__all__ = ["failures", "pending", "retry_failed"]

T = TypeVar("T")
_Path: TypeAlias = "tuple[str, ...]"


@overload
def pending(
    policy: Policy,
    root: BaseNode | Place | Store,
    items: Iterable[T],
    *,
    version: str | None = None,
    inputs: bool = False,
    invert: bool = False,
    ledger: str | os.PathLike[str] | None = None,
    failed: Literal["skip", "retry"] | None = None,
) -> Iterator[T]: ...
@overload
def pending(
    policy: Policy,
    root: BaseNode | Place | Store,
    *,
    version: str | None = None,
    inputs: bool = False,
    invert: bool = False,
    ledger: str | os.PathLike[str] | None = None,
    failed: Literal["skip", "retry"] | None = None,
) -> Callable[[Iterable[T]], Iterator[T]]: ...
@stage("items", place="root")
def pending(
    policy: Policy,
    root: BaseNode | Place | Store,
    *,
    version: str | None = None,
    inputs: bool = False,
    invert: bool = False,
    ledger: str | os.PathLike[str] | None = None,
    failed: Literal["skip", "retry"] | None = None,
) -> Callable[[Iterable[T]], Iterator[T]]:
    """Keep the items whose result is not there yet, so that a pipeline that is run again does only what is left.

    >>> from lotdb import BaseNode
    >>> from lotproc import inline, leaves, pending
    >>> root = BaseNode("root")
    >>> _ = root.gns(["clip_1", "_proc"]).set_attribute("_version", "mfcc-3")
    >>> _ = root.gns(["clip_2", "_proc"]).set_attribute("_version", "mfcc-2")
    >>> _ = root.gns(["clip_3"])
    >>> clips = list(leaves(root, skip="_proc"))
    >>> [clip.key for clip in pending(inline("_proc"), root, clips)]
    ['clip_3']
    >>> [clip.key for clip in pending(inline("_proc"), root, clips, version="mfcc-3")]
    ['clip_2', 'clip_3']

    What is left out is what `write(policy, root, version=...)` has written, or anything else that is at the same path
    with the same stamps. Nothing else of a result is looked at.

    Of an item that gives several results, the one without a relative path is looked for. If all have one, the item is
    pending each time: a node without attributes that `write` has made above others is no result. Let a stage in front
    of `pending` make several records of one, whose paths are those of the results, and write with `mirror()`.

    Args:
        policy: The `write`'s: `inline(...)`, `mirror(...)`, `fresh(...)`, or any function from a result to a path.
        root: The `write`'s target: a store, or a node, in memory or persistent; or one of the `partitions` of a tree,
            which is read as it is by then. Sent to another process, a root in a file or on a server is a `Place`.
        items: Nodes or records; a `Failure` among them is kept.
        version: What the result's attribute `_version` has to be; `None` for anything.
        inputs: Whether the result must have been made from these attributes: whether its attribute `_inputs` is the
            stamp of the record's, as they are now. Blobs are not read: they count by what their handles say and by
            their place in the database, which changes when one is written anew. The files at the paths among the
            values, and those of zarr arrays, are not read either: their sizes and modification times count, looked up
            here, where this runs. A file that is gone counts as changed. A stored stamp without files, as older
            versions wrote them, counts by the values alone. Takes records, which are given on with their stamp, for
            `write` to store it.
        invert: Give the others: what is done and up to date.
        ledger: The file that `write(..., ledger=...)` keeps, or will make; read when the first item is asked for.
        failed: With a ledger: whether to "skip" what failed by it and did not succeed since, so that a crasher does not
            cost its time in each run, or to "retry" it. What failed is skipped also where its inputs changed since.

    Returns:
        An iterator of the items kept, in their order. Lazy; holds up to 1,024 records, or 128 live nodes. It only
        reads. A store is read as it is when the items come. A database is read at the transaction that the connection
        of `root` sees then; where that has changes that are not committed, through its live nodes, which show them.
        Then, and with live items, it is for the connection's thread only.

    Raises:
        ArgumentError: `version` is empty; one of `ledger` and `failed` is given without the other, or with `invert`;
            the ledger is something else than one; the connection of `root` is closed; the file of a partition is not
            there; the policy gave an empty key; or others wrote over what the connection sees in a storage without
            history.
        ArgumentTypeError: An option has the wrong type; with `inputs=True` an item is no record, or has an attribute
            that has no digest.
        DamagedDatabaseError: A record is missing or can't be read; names the object's id and the path.
        Exception: Whatever `policy` raises.
    """
    policy = as_policy("pending", policy)
    check_results("pending", version, inputs)
    if not isinstance(root, (Place, Store)):
        check_root("pending", root)
    if not isinstance(invert, bool):
        raise ArgumentTypeError("pending: invert", expected="True or False", got=got(invert))
    if (ledger is None) != (failed is None):
        raise ArgumentError(
            "pending: ledger= and failed= go together", hint='pending(..., ledger="run.jsonl", failed="skip")'
        )
    if ledger is not None:
        check_choice("pending", "failed", failed, ("skip", "retry"))
        ledger = check_ledger("pending", ledger)
        if invert:
            raise ArgumentError("pending: invert=True gives what is done, of which a ledger says nothing")

    def run(items: Iterable[T]) -> Iterator[T]:
        lookup = lookup_of("pending", root, policy)
        results = Results("pending", policy, lookup, version, inputs)
        passed_over = _failed_in(ledger) if ledger is not None and failed == "skip" else None
        chosen = _Filter(results, invert, passed_over)
        return until_closed(in_windows(items, chosen.of_many, chosen.of_one), lookup.close)

    return run


class _Filter:
    """Tells of windows of items which of them are pending, or which are not."""

    def __init__(self, results: Results, invert: bool, passed_over: Callable[[], Container[_Path]] | None) -> None:
        self._results, self._invert, self._passed_over = results, invert, passed_over

    def of_many(self, items: list[Any]) -> list[Any]:
        """Those of the items that are given; a `Failure` is handed on."""
        if Failure in set(map(type, items)):
            runs = groupby(items, lambda item: type(item) is Failure)
            return list(chain.from_iterable(run if failed else self.of_many(list(run)) for failed, run in runs))
        paths = self._results.paths(items)
        there, stamps = self._results.there(items, paths)
        if self._passed_over is not None:
            failed = self._passed_over()
            there = [is_there or path in failed for is_there, path in zip(there, paths, strict=True)]
        invert = self._invert
        if stamps is None:
            return [item for item, is_there in zip(items, there, strict=True) if is_there == invert]
        return [
            with_inputs(item, stamp)
            for item, stamp, is_there in zip(items, stamps, there, strict=True)
            if is_there == invert
        ]

    def of_one(self, item: Any) -> list[Any]:
        """The same of one item, with its path where that can't be told."""
        return self._results.of_one(item, self.of_many)


def _failed_in(ledger: str | os.PathLike[str]) -> Callable[[], Container[_Path]]:
    """A function that gives what failed by a ledger, as it is when that is asked for first."""
    return cache(lambda: frozenset(outstanding_failures("pending", ledger, may_be_new=True)))


@overload
def retry_failed(ledger: str | os.PathLike[str], root: BaseNode) -> Iterator[BaseNode]: ...
@overload
def retry_failed(ledger: str | os.PathLike[str]) -> Callable[[BaseNode], Iterator[BaseNode]]: ...
@stage("root")
def retry_failed(ledger: str | os.PathLike[str]) -> Callable[[BaseNode], Iterator[BaseNode]]:
    """Walk the nodes that failed, by a ledger of failures, to process them once more.

    >>> from lotdb import BaseNode
    >>> from lotproc import Failure, ProcessResult, inline, retry_failed, write
    >>> root = BaseNode("root")
    >>> _ = root.gns(["ann", "clip_1"]), root.gns(["ann", "clip_2"])
    >>> result = ProcessResult(("ann", "clip_1"), 0.5)
    >>> failure = Failure(("ann", "clip_2"), "ValueError", "it is empty")
    >>> report = write(inline("_proc"), root, [result, failure], ledger="run.jsonl")
    >>> [clip.key for clip in retry_failed("run.jsonl", root)]
    ['clip_2']

    Args:
        ledger: The file that `write(..., ledger=...)` keeps.
        root: A node of the tree.

    Returns:
        An iterator of the live nodes at or below `root` whose last failure was not made good, each once, sorted by
        path. What is gone from the tree is left out. Lazy: the ledger is read when the first node is asked for; holds
        the paths in it. For the connection's thread only.

    Raises:
        ArgumentError: The file is not there, or something else than a ledger.
        ArgumentTypeError: `ledger` is no path, or `root` no node.
    """
    if not isinstance(ledger, (str, os.PathLike)):
        raise ArgumentTypeError("retry_failed: ledger", expected="the path of a file", got=got(ledger))
    return lambda root: _failed(ledger, root)


def _failed(ledger: str | os.PathLike[str], root: BaseNode) -> Iterator[BaseNode]:
    above = node_path(root)
    find = LiveLookup(root).find
    for path in sorted(set(outstanding_failures("retry_failed", ledger))):
        if path[: len(above)] == above:
            node = find(path[len(above) :])
            if node is not None:
                yield node


@public
@spelled
def failures(ledger: str | os.PathLike[str]) -> list[Failure]:
    """Read the failures that stand in a ledger, with their reasons, for tables and for eyes.

    >>> from lotdb import BaseNode
    >>> from lotproc import Failure, ProcessResult, failures, inline, to_rows, write
    >>> root = BaseNode("root")
    >>> result = ProcessResult(("ann",), 0.5)
    >>> failure = Failure(("bob",), "ValueError", "no sound")
    >>> report = write(inline("_proc"), root, [result, failure], ledger="standing.jsonl")
    >>> print(*failures("standing.jsonl"))
    bob: ValueError: no sound
    >>> list(to_rows(failures("standing.jsonl")))
    [{'TreeLevel_1': 'bob', 'error': 'ValueError', 'message': 'no sound', 'attempts': 1}]

    Args:
        ledger: The file that `write(..., ledger=...)` keeps.

    Returns:
        The last `Failure` of each record that failed, in any run, and has no result since; sorted by path. What failed
        without a path is left out, since nobody can tell whether it succeeded later.

    Raises:
        ArgumentError: The file is not there, or something else than a ledger.
        ArgumentTypeError: `ledger` is no path.
    """
    return standing_failures("failures", ledger)
