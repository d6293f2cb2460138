"""Run again what is not done yet: leave out what has its result, and come back to what failed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, groupby
from typing import Any, TypeAlias, TypeVar, overload

from lotdb import BaseNode

from ._jar import at_path
from ._nodes import CarriedPaths, connection_of, no_item, node_path, path_of
from ._stage import check_root, stage
from ._stamps import inputs_stamp
from ._windows import in_windows
from .errors import ArgumentError, ArgumentTypeError, DamagedDatabaseError, OutOfViewError, as_text, got
from .models import Failure, NodeRecord, Partition
from .scanning import has_changes, pinned_storage
from .stores.lookup import StoreLookup
from .stores.protocol import Store
from .write_policies import Policy, targets_of
from .writing.ledger import outstanding_failures
from .zodb.lookup import LiveLookup, Lookup, RecordLookup, root_of
from .zodb.partitioning import opened_partition
from .zodb.pinned import until_closed

__all__ = ["pending", "retry_failed"]

T = TypeVar("T")
_Path: TypeAlias = "tuple[str, ...]"


@overload
def pending(
    policy: Policy,
    root: BaseNode | Partition | Store,
    items: Iterable[T],
    *,
    version: str | None = None,
    inputs: bool = False,
) -> Iterator[T]: ...
@overload
def pending(
    policy: Policy, root: BaseNode | Partition | Store, *, version: str | None = None, inputs: bool = False
) -> Callable[[Iterable[T]], Iterator[T]]: ...
@stage("items")
def pending(
    policy: Policy, root: BaseNode | Partition | Store, *, version: str | None = None, inputs: bool = False
) -> Callable[[Iterable[T]], Iterator[T]]:
    """Keep the items whose result is not there yet, so that a pipeline that is run again does only what is left.

    >>> from lotdb import BaseNode
    >>> from lotproc import inline, leaves, pending
    >>> root = BaseNode("root")
    >>> _ = root.gns(["clip_1", "_proc"]).set_attribute("_version", "mfcc-3")
    >>> _ = root.gns(["clip_2", "_proc"]).set_attribute("_version", "mfcc-2")
    >>> _ = root.gns(["clip_3"])
    >>> [clip.key for clip in pending(inline("_proc"), root, leaves(root, skip="_*"))]
    ['clip_3']
    >>> [clip.key for clip in pending(inline("_proc"), root, leaves(root, skip="_*"), version="mfcc-3")]
    ['clip_2', 'clip_3']

    What is left out is what `write(policy, root, version=...)` has written, or anything else that is at the same path
    with the same stamps. Nothing else of a result is looked at. Of an item that gives several results, the one without
    a relative path is looked for.

    Args:
        policy: The `write`'s: `inline(...)`, `mirror(...)`, `fresh(...)`, or any function from a result to a path.
        root: The `write`'s target: a store, or a node, in memory or persistent; or one of the `partitions` of a tree,
            so that it can be sent to worker processes:
            `parallel_map(compose_left(scan(...), pending(policy, partition), each(fn)))`.
        items: Nodes or records; a `Failure` among them is kept.
        version: What the result's attribute `_version` has to be; `None` for anything.
        inputs: Whether the result must have been made from these attributes: whether its attribute `_inputs` is the
            stamp of the record's, as they are now. Blobs are not read: they count by what their handles say and by
            their place in the database, which changes when one is written anew. The files at the paths among the
            values, and those of zarr arrays, are not read either: their sizes and modification times count, looked up
            here, where this runs. A file that is gone counts as changed. A stored stamp without files, as older
            versions wrote them, counts by the values alone. Takes records, which are given on with their stamp, for
            `write` to store it.

    Returns:
        An iterator of the items kept, in their order. Lazy; holds up to 1,024 records, or 128 live nodes. It only
        reads. A store is read as it is when the items come. A database is read at the transaction that the connection
        of `root` sees then; where that has changes that are not committed, through its live nodes, which show them.
        Then, and with live items, it is for the connection's thread only.

    Raises:
        ArgumentError: `version` is empty; the connection of `root` is closed; the file of a partition is not there;
            the policy gave an empty key; or others wrote over what the connection sees in a storage without history.
        ArgumentTypeError: An option has the wrong type; with `inputs=True` an item is no record, or has an attribute
            that has no digest.
        DamagedDatabaseError: A record is missing or can't be read; names the object's id and the path.
        Exception: Whatever `policy` raises.
    """
    if not callable(policy):
        raise ArgumentTypeError(
            "pending: policy", expected="inline(...), mirror(...), fresh(...) or a function", got=got(policy)
        )
    if not isinstance(root, (Partition, Store)):
        check_root("pending", root)
    if version is not None and not isinstance(version, str):
        raise ArgumentTypeError("pending: version", expected="a str or None", got=got(version))
    if version == "":
        raise ArgumentError("pending: version must not be empty", hint="leave it out where any version will do")
    if not isinstance(inputs, bool):
        raise ArgumentTypeError("pending: inputs", expected="True or False", got=got(inputs))
    at_top = bool(getattr(policy, "starts_at_top", False))

    def run(items: Iterable[T]) -> Iterator[T]:
        lookup = _lookup(root, at_top=at_top)
        stale = _Filter(policy, lookup, version, inputs)
        return until_closed(in_windows(items, stale.pending, stale.pending_one), lookup.close)

    return run


def _lookup(root: BaseNode | Partition | Store, *, at_top: bool) -> Lookup:
    """What looks for results in a store, below a root, or below the top of its tree."""
    if isinstance(root, Store):
        return StoreLookup(root)
    if isinstance(root, Partition):
        storage = opened_partition("pending", root)
        return RecordLookup(storage, root_of(storage, root.root) if at_top else root.root)
    connection = root._p_jar if root._p_jar is not None else connection_of(root)
    if connection is not None and connection.opened is None:
        raise ArgumentError("pending: the connection of its root is closed", hint="open it again, and take its root")
    is_saved = connection is not None and root._p_oid is not None and not has_changes(connection)
    while at_top and root.parent is not None:
        root = root.parent  # which may lie in another database than what is below it
    return RecordLookup(pinned_storage("pending", root, "error"), root._p_oid) if is_saved else LiveLookup(root)


class _Filter:
    """Tells of windows of items which of them are pending."""

    def __init__(self, policy: Policy, lookup: Lookup, version: str | None, inputs: bool) -> None:
        self._policy = policy
        self._lookup = lookup
        self._version = version
        self._inputs = inputs
        self._carried = CarriedPaths()
        self._last: tuple[BaseNode | None, _Path] = (None, ())

    def pending(self, items: list[Any]) -> list[Any]:
        """Those of the items whose result is not there; a `Failure` is handed on."""
        if Failure in set(map(type, items)):
            runs = groupby(items, lambda item: type(item) is Failure)
            return list(chain.from_iterable(run if failed else self.pending(list(run)) for failed, run in runs))
        paths = self._paths(items)
        stamps = None
        if self._inputs:
            stamps = [inputs_stamp("pending", path, item.attributes) for item, path in zip(items, paths, strict=True)]
        targets, tail = targets_of(self._policy, paths)
        there = self._lookup.are_there(targets, tail, self._version, stamps)
        if stamps is None:
            return [item for item, is_there in zip(items, there, strict=True) if not is_there]
        return [
            _with_inputs(item, stamp)
            for item, stamp, is_there in zip(items, stamps, there, strict=True)
            if not is_there
        ]

    def pending_one(self, item: Any) -> list[Any]:
        """The same of one item, with its path where that can't be told."""
        self._last = None, ()
        try:
            return self.pending([item])
        except (DamagedDatabaseError, OutOfViewError) as error:
            failed = at_path("pending", path_of("pending", item), error)
        raise failed

    def _paths(self, items: list[Any]) -> list[_Path]:
        if set(map(type, items)) <= _RECORDS:
            paths = [item.path for item in items]
            return paths if set(map(type, paths)) <= _TUPLES else [path_of("pending", item) for item in items]
        paths = []
        last, path = self._last
        for item in items:
            if self._inputs and not isinstance(item, NodeRecord):
                raise _no_record(item)
            if isinstance(item, BaseNode):
                path = self._carried.of(item, last, path)
                last = item
            else:
                path = path_of("pending", item)
                last = None
            paths.append(path)
        self._last = last, path
        return paths


_RECORDS, _TUPLES = frozenset({NodeRecord}), frozenset({tuple})


def _with_inputs(record: NodeRecord, stamp: str) -> NodeRecord:
    if type(record) is not NodeRecord:
        return replace(record, inputs=stamp)
    copy = object.__new__(NodeRecord)  # for speed, as in `node_record`
    copy.__dict__.update(record.__dict__, inputs=stamp)
    return copy


def _no_record(item: object) -> ArgumentTypeError:
    if isinstance(item, BaseNode):
        return ArgumentTypeError(
            f"pending: with inputs=True it needs records, and got the live node {as_text(node_path(item))}, "
            "which does not say what is taken of it",
            hint="put snapshot(...) in front",
        )
    return no_item("pending", item, "a NodeRecord, as inputs=True needs it")


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
    >>> results = [ProcessResult(("ann", "clip_1"), 0.5), Failure(("ann", "clip_2"), "ValueError", "it is empty")]
    >>> report = write(inline("_proc"), root, results, ledger="run.jsonl")
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
