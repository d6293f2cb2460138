"""Results back into a tree: planned as values, then applied, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, Literal, TypeAlias, overload

from lotdb import BaseNode

from ._nodes import connection_of
from ._stage import check_choice, check_root, stage
from ._transactions import check_storable, check_writable, plain_pickle, undone_on_failure
from .errors import ArgumentError, ArgumentTypeError, ExistsError, ResultError, as_text, got
from .models import ProcessResult, Write, WriteReport, written_attributes
from .write_policies import checked_path

__all__ = ["plan", "write"]

Policy: TypeAlias = Callable[[ProcessResult], "tuple[str, ...]"]
IfExists: TypeAlias = Literal["merge", "replace", "skip", "error"]

_ABSENT = object()
#: Results between two savepoints, which check that they can be stored and bound what is held in memory.
SAVEPOINT_EVERY = 2_000


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
) -> WriteReport: ...
@overload
def write(
    policy: Policy,
    target: BaseNode,
    *,
    output_attribute: str | None = "result",
    if_exists: IfExists = "merge",
    commit_every: int | None = None,
) -> Callable[[Iterable[Any]], WriteReport]: ...
@stage("results")
def write(
    policy: Policy,
    target: BaseNode,
    *,
    output_attribute: str | None = "result",
    if_exists: IfExists = "merge",
    commit_every: int | None = None,
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
    check_writable("write", target, commit_every)
    if getattr(policy, "starts_at_top", False):
        while target.parent is not None:
            target = target.parent
        if if_exists == "replace":
            policy = _never_the_source(policy)

    def run(results: Iterable[Any]) -> WriteReport:
        batches = _planned("write", policy, output_attribute, results)
        if connection_of(target) is None:
            return _write_in_memory(target, list(chain.from_iterable(batches)), if_exists)
        return _write_persistent(target, batches, if_exists, commit_every)

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

    return ([planned(result) for result in _flat(name, index, batch)] for index, batch in enumerate(results))


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


def _write_in_memory(root: BaseNode, writes: list[Write], if_exists: IfExists) -> WriteReport:
    if if_exists == "error":
        coming: set[tuple[str, ...]] = set()
        for planned in writes:
            if planned.path in coming or _find(root, planned.path) is not None:
                raise _exists(planned)
            coming.update(planned.path[:depth] for depth in range(len(planned.path) + 1))
    return _applied(root, writes, if_exists, WriteReport())


def _write_persistent(
    root: BaseNode, batches: Iterable[list[Write]], if_exists: IfExists, commit_every: int | None
) -> WriteReport:
    connection = connection_of(root)
    report = WriteReport()
    uncommitted = unsaved = 0
    with undone_on_failure(root) as commit:
        for batch in batches:
            for planned in batch:
                check_storable("write", planned, connection)
            written = report.written
            report = _applied(root, batch, if_exists, report)
            uncommitted += report.written - written
            unsaved += report.written - written
            if commit_every is not None and uncommitted >= commit_every:
                commit()
                report = replace(report, commits=report.commits + 1)
                uncommitted = unsaved = 0
            elif unsaved >= SAVEPOINT_EVERY:
                connection.transaction_manager.savepoint(optimistic=True)
                unsaved = 0
        if commit_every is not None and uncommitted:
            commit()
            report = replace(report, commits=report.commits + 1)
    return report


def _applied(root: BaseNode, writes: Iterable[Write], if_exists: IfExists, report: WriteReport) -> WriteReport:
    written, skipped, last_path = report.written, report.skipped, report.last_path
    for planned in writes:
        node = _find(root, planned.path)
        if node is None:
            node = root.get_node_path(planned.path)
        elif if_exists == "skip":
            skipped += 1
            continue
        elif if_exists == "error":
            raise _exists(planned)
        elif if_exists == "replace":
            for name in set(node.all_attribute_keys()) - planned.attributes.keys():
                node.delete_attribute(name)
        for name, value in planned.attributes.items():
            if not _stored_already(node, name, value):
                node.set_attribute(name, value)
        written += 1
        last_path = planned.path
    return replace(report, written=written, skipped=skipped, last_path=last_path)


def _stored_already(node: BaseNode, name: str, value: Any) -> bool:
    """Whether an attribute has this value, to the byte: a run that changes nothing must not make the database grow."""
    stored = node.get_attribute(name, _ABSENT)
    if type(stored) is not type(value):
        return False
    pickled = plain_pickle(value)
    return pickled is not None and pickled == plain_pickle(stored)


def _find(root: BaseNode, path: tuple[str, ...]) -> BaseNode | None:
    node: BaseNode | None = root
    for key in path:
        if node is None:
            return None
        node = node.node_storage.get(key)
    return node


def _exists(planned: Write) -> ExistsError:
    return ExistsError(
        f'write: the node {as_text(planned.path)} is already there; if_exists="merge", "replace" or "skip" would go on'
    )
