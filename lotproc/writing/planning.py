"""Results back into a tree: planned as values, then applied, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from time import perf_counter
from typing import Any, TypeAlias, overload

from lotdb import BaseNode

from .._clock import ticking
from .._missing import noting, tell_all
from .._nodes import connection_of
from .._stage import check_choice, check_root, stage
from .._stamps import INPUTS, VERSION
from ..errors import ArgumentError, ArgumentTypeError, ResultError, as_text, got
from ..models import Failure, ProcessResult, Write, WriteReport, written_attributes
from ..stores.protocol import OUTPUT, Store
from ..write_policies import checked_path
from ..zodb.arrays import Arrays, check_arrays
from .ledger import Ledger
from .payload_copies import checked_values
from .store import Shelf, apply_to_store, check_store
from .tally import IfExists, IfMissing, Planned, Tally
from .transactions import check_writable
from .tree import Destination, apply_in_memory, apply_to_database

__all__ = ["plan", "write"]

Policy: TypeAlias = Callable[[ProcessResult], "tuple[str, ...]"]


@overload
def plan(
    policy: Policy, results: Iterable[Any], *, output_attribute: str | None = "result", version: str | None = None
) -> Iterator[Write]: ...
@overload
def plan(
    policy: Policy, *, output_attribute: str | None = "result", version: str | None = None
) -> Callable[[Iterable[Any]], Iterator[Write]]: ...
@stage("results")
def plan(
    policy: Policy, *, output_attribute: str | None = "result", version: str | None = None
) -> Callable[[Iterable[Any]], Iterator[Write]]:
    """Say what `write` would write, without touching any tree.

    >>> from lotproc import ProcessResult, inline, plan
    >>> results = [ProcessResult(("clip_1",), output=0.5, attributes={"unit": "s"})]
    >>> list(plan(inline("_proc"), results))
    [Write(path=('clip_1', '_proc'), attributes={'unit': 's', 'result': 0.5})]

    Args:
        policy: `inline(...)`, `mirror(...)`, `fresh(...)`, or any function from a result to a path.
        results: `ProcessResult`s, nested in any iterables: what `parallel_map` gives.
        output_attribute: The attribute that holds the result's output; `None` leaves the output out.
        version: What `write` would stamp the nodes with.

    Returns:
        An iterator of `Write`s, in the order of the results; a `Failure` among them is left out. Lazy; holds one batch.

    Raises:
        ArgumentTypeError: `policy` is not callable, or `output_attribute` or `version` no str.
        ResultError: Something came that is no result; says what, and from which batch.
        NotPicklableError: An output or an attribute is or holds an iterator; says which, and what to do.
        ArgumentError: The policy gave an empty key, or a result has its output's name among its attributes.
    """
    planner = _Planner("plan", policy, output_attribute, version)
    return lambda results: (write for batch in planner.planned(results) for write in batch.writes)


@overload
def write(
    policy: Policy,
    target: BaseNode | Store,
    results: Iterable[Any],
    *,
    output_attribute: str | None = "result",
    if_exists: IfExists = "merge",
    if_missing: IfMissing = "make",
    commit_every: int | None = None,
    arrays: Arrays = "inline",
    version: str | None = None,
    ledger: str | os.PathLike[str] | None = None,
) -> WriteReport: ...
@overload
def write(
    policy: Policy,
    target: BaseNode | Store,
    *,
    output_attribute: str | None = "result",
    if_exists: IfExists = "merge",
    if_missing: IfMissing = "make",
    commit_every: int | None = None,
    arrays: Arrays = "inline",
    version: str | None = None,
    ledger: str | os.PathLike[str] | None = None,
) -> Callable[[Iterable[Any]], WriteReport]: ...
@stage("results")
def write(
    policy: Policy,
    target: BaseNode | Store,
    *,
    output_attribute: str | None = "result",
    if_exists: IfExists = "merge",
    if_missing: IfMissing = "make",
    commit_every: int | None = None,
    arrays: Arrays = "inline",
    version: str | None = None,
    ledger: str | os.PathLike[str] | None = None,
) -> Callable[[Iterable[Any]], WriteReport]:
    """Write results into a tree or a store: this runs the pipeline.

    >>> from lotdb import BaseNode
    >>> from lotproc import ProcessResult, inline, write
    >>> root = BaseNode("root")
    >>> report = write(inline("_proc"), root, [ProcessResult(("clip_1",), output=0.5)])
    >>> report.written, root.get_node_path(["clip_1", "_proc"]).get_attribute("result")
    (1, 0.5)

    A `write` that fails leaves no trace: what it had applied since the last commit is undone, and changes that were
    there before it stay. For a tree in memory all results are planned before the first is applied.

    What makes the results may change the tree between two batches: that comes after the results before it. If it
    commits, it commits these too; if it aborts, they are applied again.

    With `commit_every`, results that make new nodes are written as whole records, several times as fast as through live
    nodes; the tree shows them from the commit on. Several programs may write to one tree, through ZEO for instance:
    where one is in the way of another, its results are applied again to what is there by then.

    A store commits by itself: when `write` returns, everything is in it. There the output of a result is the value, and
    its other attributes are metadata, if the store has metadata and JSON holds them exactly, but for numbers of numpy,
    which become Python's; else the value is a dict of all attributes. A `write` that fails leaves in a store what was
    committed: LMDB commits about a thousand results at a time, a directory each batch, an archive all at the end.

    What is written is whole. A `PayloadHandle` among outputs and attributes, in lists, dicts and tuples too, is stored
    as the payload it stands for, with its data and its sample rate: in a tree as a `DataObject`, whose array is in
    zarr with `arrays="zarr"`, and else in a blob, as all that is in lists, dicts and tuples; in a store whose codec is
    "pickle" as a `PayloadCopy`, with other codecs as what its `read()` gives. A value of a store, as its records have
    it, is read. Iterators are refused, which would be empty after one look; so are values whose class can't be
    imported, among those too that would be stored again since a result is merged into their node.

    Whatever is raised has a `report`, which says what was committed before.

    Args:
        policy: `inline(...)`, `mirror(...)`, `fresh(...)`, or any function from a result to a path.
        target: The node below which the policy's paths start; `inline` always starts at the root of the target's tree,
            as the records' paths do. Or a `DirectoryStore`, an `LmdbStore`, an `Archive`.
        results: `ProcessResult`s, nested in any iterables: what `parallel_map` gives. Each item is a batch. A `Failure`
            among them is counted, and kept in the report.
        output_attribute: The attribute that holds the result's output; `None` leaves the output out.
        if_exists: What to do where the node is already there. "merge": set the result's attributes, keep the others;
            "replace": drop the others; "skip": leave the node as it is, if it has the `version` that is given;
            "error": stop. Children always stay.
        if_missing: What to do where no node is, or nothing under the key of a store. "make": make it, and the nodes
            above it. "error": stop, before anything of the batch is applied: for metadata of nodes that are there.
        commit_every: Commit as soon as this many results are written and their batch is whole, and at the end.
            `None`: the caller commits; a store commits when it suits it, and at the end.
        arrays: Where outputs and attributes go that are numpy arrays. "inline": into the node's attributes, as they
            are. "blob", "zarr": into lotdb payloads, which `DataNode.read_data` reads; new nodes, and `BaseNode`s
            that are there, become `DataNode`s for that, all but `target` itself. A result's attribute
            `samplerate_hz`, if it has one, is their sample rate. What a payload can't give back as it was stays
            inline: arrays inside of lists and dicts, without dimensions, of Python objects, of a subclass. What zarr
            writes lies outside of transactions: what an undone write leaves there is not referred to. A store takes
            "inline" alone.
        version: The name of what made the results, "mfcc-3" say. It becomes the attribute `_version` of each written
            node, by which `pending(..., version="mfcc-3")` knows what is done. Choose another one whenever the same
            records would give other results. Results whose records went through `pending(..., inputs=True)` get
            `_inputs` as well.
        ledger: A file to append to, with a line of JSON for each failure and for each commit; `retry_failed` reads it.
            A regular file, or to be made; a link to one is refused.
            Failures wait for the commit that comes next. A record that failed counts as failed until a commit of
            `write` holds a result with its path that came later; of what the caller commits, the ledger knows
            nothing.

    Returns:
        A `WriteReport`. Not lazy; pulls all results. It holds one batch; with `commit_every` also the results since the
        last commit, up to 10,000; on a tree in memory all planned writes. For the connection's thread only.

    Raises:
        ArgumentError: An option is out of range; `commit_every` on a tree in memory; a result has an empty key in its
            path, or its output's name or that of a stamp among its attributes; `ledger` can't be one, or is a file
            of another kind; `if_exists="replace"` would replace the processed node itself; `if_exists` and
            `if_missing` are both "error"; a payload needs blobs, and the database has no directory for them.
        ArgumentTypeError: `target` is neither a node nor a store, or an option has the wrong type.
        ReadOnlyTreeError, ReadOnlyStoreError: The target can only be read.
        ResultError: Something came that is no result; says what, and from which batch.
        NotPicklableError: An output or an attribute can't be stored: it can't be pickled, or is or holds an iterator,
            or a handle where nothing can take its place; says which, and what to do.
        DetachError: The class of an output or an attribute can't be imported, or that of one that is there already and
            would be stored again; names path, attribute and class.
        PayloadError: The payload that a handle stands for can't be read; says which.
        NoSuchKeyError: Nothing is at a path, with `if_missing="error"`; names it, and in a tree the nearest that is.
        CodecError: The codec of a store can't hold a result; says which.
        ExistsError: A node is already there, with `if_exists="error"`.
        UncommittedError: What makes the results changed the tree where results wait that came before, or aborted
            results that can't be applied again.
        ConflictError: Others were in the way of a commit, 30 times in turn; or once, where the results can't be applied
            again: the connection had something else to commit, or more than 10,000 results belong to the commit.
        OSError: The disk is full; what was committed is intact, and the same process can go on once there is room, or
            close the database.
    """
    planner = _Planner("write", policy, output_attribute, version)
    if not isinstance(target, Store):
        check_root("write", target, "a lotdb node, a DirectoryStore, an LmdbStore or an Archive")
    check_choice("write", "if_exists", if_exists, ("merge", "replace", "skip", "error"))
    check_choice("write", "if_missing", if_missing, ("make", "error"))
    if if_exists == if_missing == "error":
        raise ArgumentError('write: with if_exists="error" and if_missing="error" there is nothing to write to')
    check_choice("write", "arrays", arrays, ("inline", "blob", "zarr"))
    if isinstance(target, Store):
        check_store("write", target, commit_every, arrays)
    else:
        check_writable("write", target, commit_every)
        check_arrays("write", target, arrays)
    if ledger is not None:
        Ledger("write", ledger)
    if getattr(policy, "starts_at_top", False) and not isinstance(target, Store):
        while target.parent is not None:
            target = target.parent
        if if_exists == "replace":
            planner.policy = _never_the_source(policy)

    def run(results: Iterable[Any]) -> WriteReport:
        tally, start = Tally(), perf_counter()
        book = None if ledger is None else Ledger("write", ledger)
        with ticking() as waited, noting() as notes:
            try:
                with book or nullcontext():
                    batches = planner.planned(results, book)
                    if isinstance(target, Store):
                        shelf = Shelf(target, if_exists, output_attribute or OUTPUT, version, if_missing)
                        apply_to_store(shelf, batches, commit_every, tally, book)
                    else:
                        to = Destination(target, if_exists, arrays, version, if_missing)
                        if connection_of(target) is None:
                            apply_in_memory(to, batches, tally, book)
                        else:
                            apply_to_database(to, batches, commit_every, tally, book)
            except BaseException as error:
                with suppress(AttributeError):  # of the few errors that take no attribute
                    error.report = tally.report(perf_counter() - start, waited.seconds)  # type: ignore[attr-defined]
                raise
        report = tally.report(perf_counter() - start, waited.seconds)
        try:
            tell_all(notes)  # not before, since a warning can be made an error, and must undo nothing
        except Warning as warning:
            warning.report = report  # type: ignore[attr-defined]
            raise
        return report

    return run


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


class _Planner:
    """Makes plans of results.

    Args:
        name: The stage, for errors.
        policy: Where results go.
        output_attribute: The attribute for their outputs, if any.
        version: What their nodes are stamped with, if anything.
    """

    def __init__(self, name: str, policy: Policy, output_attribute: str | None, version: str | None) -> None:
        if not callable(policy):
            raise ArgumentTypeError(
                f"{name}: policy must be inline(...), mirror(...), fresh(...) or a function; got {got(policy)}"
            )
        if output_attribute is not None and not isinstance(output_attribute, str):
            raise ArgumentTypeError(f"{name}: output_attribute must be a str or None, got {got(output_attribute)}")
        if version is not None and not isinstance(version, str):
            raise ArgumentTypeError(f"{name}: version must be a str or None, got {got(version)}")
        if version == "":
            raise ArgumentError(f"{name}: version must not be empty; name what makes the results")
        self.name, self.policy, self.output_attribute, self.version = name, policy, output_attribute, version

    def planned(self, results: Iterable[Any], ledger: Ledger | None = None) -> Iterator[Planned]:
        """The plan of each batch; it says which records have results now, if the ledger has something to ask."""
        if isinstance(results, (str, bytes, bytearray, Mapping)):
            raise ResultError(f"{self.name}: expected ProcessResults, nested in any iterables; got {got(results)}")
        for index, batch in enumerate(results):
            items = [batch] if type(batch) is ProcessResult else list(_flat(self.name, index, batch))
            found = [item for item in items if isinstance(item, ProcessResult)]
            failures = [item for item in items if isinstance(item, Failure)]
            writes = list(map(self._write, found))
            sources: list[tuple[str, ...]] = []
            if ledger is not None and (failures or ledger.outstanding):
                last_words = {tuple(item.path): item for item in items if item.path is not None}
                sources = [path for path, item in last_words.items() if isinstance(item, ProcessResult)]
            yield Planned(writes, failures, sources)

    def _write(self, result: ProcessResult) -> Write:
        path = checked_path("the policy's path", self.policy(result), of=result.path)
        attributes = written_attributes(self.name, result, self.output_attribute)
        if self.version is not None:
            self._stamp(attributes, VERSION, self.version, result)
        if result.inputs is not None:
            self._stamp(attributes, INPUTS, result.inputs, result)
        return Write(path, checked_values(self.name, path, attributes))

    def _stamp(self, attributes: dict[str, Any], name: str, value: str, result: ProcessResult) -> None:
        if name in attributes:
            raise ArgumentError(
                f"{self.name}: the result at {as_text(result.path)} has an attribute {name!r}, which is where its "
                f"stamp goes; rename it"
            )
        attributes[name] = value


def _flat(name: str, index: int, batch: Any) -> Iterator[ProcessResult | Failure]:
    """The results and failures of a batch, however deep they are nested."""
    levels = [iter((batch,))]
    while levels:
        item = next(levels[-1], levels)
        if item is levels:
            levels.pop()
        elif isinstance(item, (ProcessResult, Failure)):
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
