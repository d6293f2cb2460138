"""Results back into a tree: planned as values, then applied, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from lotdb import BaseNode

from ._arrays import Arrays, as_data_node, check_arrays, payload_names, sample_rate, store_payload
from ._bulk import Bulk, NotServed
from ._nodes import connection_of
from ._stage import check_choice, check_root, stage
from ._transactions import already_there, check_storable, check_writable, plain_pickle, undone_on_failure
from .errors import ArgumentError, ArgumentTypeError, ResultError, as_text, got
from .models import ProcessResult, Write, written_attributes
from .reports import WriteReport
from .write_policies import checked_path

__all__ = ["plan", "write"]

Policy: TypeAlias = Callable[[ProcessResult], "tuple[str, ...]"]
IfExists: TypeAlias = Literal["merge", "replace", "skip", "error"]

_ABSENT = object()
#: Results between two savepoints, which check that they can be stored and bound what is held in memory.
SAVEPOINT_EVERY = 2_000
#: Results that wait at most to be written as records, and nodes that are remembered at most meanwhile.
MOST_WAITING = 10_000
MOST_NODES = 100_000


@overload
def plan(policy: Policy, results: Iterable[Any], *, output_attribute: str | None = "result") -> Iterator[Write]: ...
@overload
def plan(policy: Policy, *, output_attribute: str | None = "result") -> Callable[[Iterable[Any]], Iterator[Write]]: ...
@stage("results")
def plan(policy: Policy, *, output_attribute: str | None = "result") -> Callable[[Iterable[Any]], Iterator[Write]]:
    """Say what `write` would write, without touching any tree.

    >>> from lotproc import ProcessResult, inline, plan
    >>> results = [ProcessResult(("clip_1",), output=0.5, attributes={"unit": "s"})]
    >>> list(plan(inline("_proc"), results))
    [Write(path=('clip_1', '_proc'), attributes={'unit': 's', 'result': 0.5})]

    Args:
        policy: `inline(...)`, `mirror(...)`, `fresh(...)`, or any function from a result to a path.
        results: `ProcessResult`s, nested in any iterables: what `parallel_map` gives.
        output_attribute: The attribute that holds the result's output; `None` leaves the output out.

    Returns:
        An iterator of `Write`s, in the order of the results. Lazy; holds one batch.

    Raises:
        ArgumentTypeError: `policy` is not callable, or `output_attribute` no str.
        ResultError: Something came that is no result; says what, and from which batch.
        ArgumentError: The policy gave an empty key, or a result has its output's name among its attributes.
    """
    _check_plan("plan", policy, output_attribute)
    return lambda results: chain.from_iterable(_planned("plan", policy, output_attribute, results))


@overload
def write(
    policy: Policy,
    target: BaseNode,
    results: Iterable[Any],
    *,
    output_attribute: str | None = "result",
    if_exists: IfExists = "merge",
    commit_every: int | None = None,
    arrays: Arrays = "inline",
) -> WriteReport: ...
@overload
def write(
    policy: Policy,
    target: BaseNode,
    *,
    output_attribute: str | None = "result",
    if_exists: IfExists = "merge",
    commit_every: int | None = None,
    arrays: Arrays = "inline",
) -> Callable[[Iterable[Any]], WriteReport]: ...
@stage("results")
def write(
    policy: Policy,
    target: BaseNode,
    *,
    output_attribute: str | None = "result",
    if_exists: IfExists = "merge",
    commit_every: int | None = None,
    arrays: Arrays = "inline",
) -> Callable[[Iterable[Any]], WriteReport]:
    """Write results into a tree: this runs the pipeline.

    >>> from lotdb import BaseNode
    >>> from lotproc import ProcessResult, inline, write
    >>> root = BaseNode("root")
    >>> report = write(inline("_proc"), root, [ProcessResult(("clip_1",), output=0.5)])
    >>> report.written, root.get_node_path(["clip_1", "_proc"]).get_attribute("result")
    (1, 0.5)

    A `write` that fails leaves no trace: what it had applied since the last commit is undone, and changes that were
    there before it stay. For a tree in memory all results are planned before the first is applied.

    With `commit_every`, results that make new nodes are written as whole records, several times as fast as through live
    nodes; the tree shows them from the commit on.

    Args:
        policy: `inline(...)`, `mirror(...)`, `fresh(...)`, or any function from a result to a path.
        target: The node below which the policy's paths start. `inline` always starts at the root of the target's tree,
            as the records' paths do.
        results: `ProcessResult`s, nested in any iterables: what `parallel_map` gives. Each item is a batch.
        output_attribute: The attribute that holds the result's output; `None` leaves the output out.
        if_exists: What to do where the node is already there. "merge": set the result's attributes, keep the others;
            "replace": drop the others; "skip": leave the node as it is; "error": stop. Children always stay.
        commit_every: Commit as soon as this many results are written and their batch is whole, and at the end.
            `None`: the caller commits.
        arrays: Where outputs and attributes go that are numpy arrays. "inline": into the node's attributes, as they
            are. "blob", "zarr": into lotdb payloads, which `DataNode.read_data` reads; new nodes, and `BaseNode`s
            that are there, become `DataNode`s for that, all but `target` itself. A result's attribute
            `samplerate_hz`, if it has one, is their sample rate. What a payload can't give back as it was stays
            inline: arrays inside of lists and dicts, without dimensions, of Python objects, of a subclass. What zarr
            writes lies outside of transactions: what an undone write leaves there is not referred to.

    Returns:
        A `WriteReport`. Not lazy; pulls all results, holding one batch (on a tree in memory all planned writes). For
        the connection's thread only.

    Raises:
        ArgumentError: An option is out of range; `commit_every` on a tree in memory; a result has an empty key in its
            path, or its output's name among its attributes; `if_exists="replace"` would replace the processed node
            itself.
        ArgumentTypeError: `target` is no node, or an option has the wrong type.
        ReadOnlyTreeError: The target's connection is read-only.
        ResultError: Something came that is no result; says what, and from which batch.
        NotPicklableError: An output or an attribute can't be stored in the database; says which.
        ExistsError: A node is already there, with `if_exists="error"`.
    """
    _check_plan("write", policy, output_attribute)
    check_root("write", target)
    check_choice("write", "if_exists", if_exists, ("merge", "replace", "skip", "error"))
    check_choice("write", "arrays", arrays, ("inline", "blob", "zarr"))
    check_writable("write", target, commit_every)
    check_arrays("write", target, arrays)
    if getattr(policy, "starts_at_top", False):
        while target.parent is not None:
            target = target.parent
        if if_exists == "replace":
            policy = _never_the_source(policy)

    def run(results: Iterable[Any]) -> WriteReport:
        batches = _planned("write", policy, output_attribute, results)
        to = _Destination(target, if_exists, arrays)
        if connection_of(target) is None:
            return _write_in_memory(to, list(chain.from_iterable(batches)))
        return _write_persistent(to, batches, commit_every)

    return run


def _check_plan(name: str, policy: Policy, output_attribute: str | None) -> None:
    if not callable(policy):
        raise ArgumentTypeError(
            f"{name}: policy must be inline(...), mirror(...), fresh(...) or a function; got {got(policy)}"
        )
    if output_attribute is not None and not isinstance(output_attribute, str):
        raise ArgumentTypeError(f"{name}: output_attribute must be a str or None, got {got(output_attribute)}")


def _never_the_source(policy: Policy) -> Policy:
    """The policy, made to refuse paths at which "replace" would drop the attributes of the processed node."""

    def guarded(result: ProcessResult) -> tuple[str, ...]:
        path = policy(result)
        if path == tuple(result.path):
            raise ArgumentError(
                f'write: if_exists="replace" would drop the attributes of the processed node {as_text(path)} itself; '
                f"give inline() a base path, or the result a relative_path"
            )
        return path

    return guarded


def _planned(name: str, policy: Policy, output_attribute: str | None, results: Iterable[Any]) -> Iterator[list[Write]]:
    """The writes of each batch."""
    if isinstance(results, (str, bytes, bytearray, Mapping)):
        raise ResultError(f"{name}: expected ProcessResults, nested in any iterables; got {got(results)}")

    def planned(result: ProcessResult) -> Write:
        path = checked_path("the policy's path", policy(result), of=result.path)
        return Write(path, written_attributes(name, result, output_attribute))

    for index, batch in enumerate(results):
        if type(batch) is ProcessResult:
            yield [planned(batch)]
        else:
            yield [planned(result) for result in _flat(name, index, batch)]


def _flat(name: str, index: int, batch: Any) -> Iterator[ProcessResult]:
    """The results of a batch, however deep they are nested."""
    levels = [iter((batch,))]
    while levels:
        item = next(levels[-1], levels)
        if item is levels:
            levels.pop()
        elif isinstance(item, ProcessResult):
            yield item
        elif _can_hold_results(item):
            levels.append(iter(item))
        else:
            raise ResultError(
                f"{name}: batch {index} (counted from 0): expected ProcessResults, nested in any iterables; got "
                f"{got(item)}. "
                f"A processor returns ProcessResult(path=record.path, output=...)"
            )


def _can_hold_results(item: Any) -> bool:
    if isinstance(item, (str, bytes, bytearray, Mapping)):
        return False
    try:
        iter(item)
    except TypeError:  # also of an array without dimensions, which is an Iterable by its type
        return False
    return True


@dataclass
class _Counts:
    """What was written so far; the fields are those of the report."""

    written: int = 0
    skipped: int = 0
    commits: int = 0
    last_path: tuple[str, ...] | None = None

    def report(self) -> WriteReport:
        return WriteReport(**vars(self))


@dataclass(frozen=True)
class _Destination:
    """Where results are written, and how."""

    root: BaseNode
    if_exists: IfExists
    arrays: Arrays


def _write_in_memory(to: _Destination, writes: list[Write]) -> WriteReport:
    if to.if_exists == "error":
        coming: set[tuple[str, ...]] = set()
        for planned in writes:
            if planned.path in coming or _find(to.root, planned.path) is not None:
                raise already_there(planned)
            coming.update(planned.path[:depth] for depth in range(len(planned.path) + 1))
    counts = _Counts()
    _apply(writes, to, counts)
    return counts.report()


def _write_persistent(to: _Destination, batches: Iterable[list[Write]], commit_every: int | None) -> WriteReport:
    in_bulk = commit_every is not None and commit_every <= MOST_WAITING
    counts = _Counts()
    with undone_on_failure(to.root) as commit:
        before, span = 0, _Span(to, counts, in_bulk=in_bulk)
        for batch in batches:
            span.write(batch)
            if commit_every is not None and counts.written - before >= commit_every:
                span.finish()
                commit()
                counts.commits += 1
                before, span = counts.written, _Span(to, counts, in_bulk=in_bulk)
        if commit_every is not None and counts.written > before:
            span.finish()
            commit()
            counts.commits += 1
    return counts.report()


class _Span:
    """The batches from one commit to the next.

    They wait, to be written as records, as long as they only make new nodes; otherwise they are applied to live nodes.
    """

    def __init__(self, to: _Destination, counts: _Counts, *, in_bulk: bool) -> None:
        self._to = to
        self._counts = counts
        self._connection = connection_of(to.root)
        self._waiting: list[Write] = []
        self._bulk = self._opened() if in_bulk else None
        self._unsaved = 0

    def _opened(self) -> Bulk | None:
        try:
            return Bulk(self._to.root, self._to.if_exists)
        except NotServed:
            return None

    def write(self, batch: list[Write]) -> None:
        """Take a batch."""
        plain = True
        for planned in batch:  # all of them, before the first is applied
            values = planned.attributes
            payloads = payload_names(values, self._to.arrays)
            if payloads:
                values = {name: value for name, value in values.items() if name not in payloads}
            plain = check_storable("write", planned.path, values, self._connection) and not payloads and plain
        if self._bulk is not None:
            if self._bulk.size > MOST_NODES and not self._waiting:
                self._bulk = self._opened()  # it only remembers nodes that were skipped
            if self._bulk is not None and plain and self._take_up(self._bulk, batch):
                return
            self._go_live()
        before = self._counts.written
        _apply(batch, self._to, self._counts)
        self._unsaved += self._counts.written - before
        if self._unsaved >= SAVEPOINT_EVERY:
            self._connection.transaction_manager.savepoint(optimistic=True)
            self._unsaved = 0

    def finish(self) -> None:
        """Store what waits; what is in live nodes is left to the commit of their transaction."""
        if self._bulk is not None:
            try:
                self._bulk.commit()
            except NotServed:
                self._go_live()

    def _take_up(self, bulk: Bulk, batch: list[Write]) -> bool:
        """Let a batch wait, if it can be written as records and does not make too much wait."""
        if len(self._waiting) + len(batch) > MOST_WAITING or bulk.size > MOST_NODES:
            return False
        try:
            taken = [planned for planned in batch if bulk.add(planned)]
        except NotServed:
            return False
        self._waiting += taken
        self._counts.written += len(taken)
        self._counts.skipped += len(batch) - len(taken)
        if taken:
            self._counts.last_path = taken[-1].path
        return True

    def _go_live(self) -> None:
        """Apply what waits to live nodes, and all that comes until the next commit."""
        waiting, self._waiting, self._bulk = self._waiting, [], None
        _apply(waiting, self._to, _Counts())  # they are counted
        self._unsaved = len(waiting)


def _apply(writes: Iterable[Write], to: _Destination, counts: _Counts) -> None:
    """Write to live nodes."""
    for planned in writes:
        node = _find(to.root, planned.path)
        if node is None:
            node = to.root.get_node_path(planned.path)
        elif to.if_exists == "skip":
            counts.skipped += 1
            continue
        elif to.if_exists == "error":
            raise already_there(planned)
        elif to.if_exists == "replace":
            for name in set(node.all_attribute_keys()) - planned.attributes.keys():
                node.delete_attribute(name)
        payloads = payload_names(planned.attributes, to.arrays)
        rate = sample_rate(planned.attributes)
        if payloads and node is not to.root:
            node = as_data_node(node, payloads[-1], to.arrays, rate)  # the output is the last
        for name, value in planned.attributes.items():
            if name in payloads:
                store_payload(node, name, value, to.arrays, rate)
            elif not _stored_already(node, name, value):
                node.set_attribute(name, value)
        counts.written += 1
        counts.last_path = planned.path


def _stored_already(node: BaseNode, name: str, value: Any) -> bool:
    """Whether an attribute has this value, to the byte: a run that changes nothing must not make the database grow."""
    stored = node.get_attribute(name, _ABSENT)
    if type(stored) is not type(value):
        return False
    if isinstance(value, np.ndarray) and not value.dtype.isnative:  # which is how the database gives it back
        value = value.astype(value.dtype.newbyteorder("="))
    pickled = plain_pickle(value)
    return pickled is not None and pickled == plain_pickle(stored)


def _find(root: BaseNode, path: tuple[str, ...]) -> BaseNode | None:
    node: BaseNode | None = root
    for key in path:
        if node is None:
            return None
        node = node.node_storage.get(key)
    return node
