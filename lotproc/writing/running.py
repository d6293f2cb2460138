"""`write`: results planned, applied to a tree or a store, committed and reported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, overload

from lotdb import BaseNode

from .._places import is_file
from .._stage import check_count, check_root, stage
from ..errors import ArgumentError
from ..models import Failure, Place, ProcessResult, Write, WriteReport
from ..stores.protocol import OUTPUT, Store
from ..write_policies import policy_text
from ..zodb.places import writable_root
from .arrays import Arrays, check_arrays
from .conflicts import MOST_WAITING, opened_tree
from .into_store import check_store, opened_store, planned_items
from .ledger import Ledger
from .mistaken_places import warned_of
from .options import IfExists, IfMissing, Options
from .planning import Policy, flat_batches, is_plain, planner
from .progress import Progress, Target, apply_batches, reported
from .transactions import check_within, check_writable

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    class _Options(TypedDict, total=False):
        """Those of `write`, once for both its overloads."""

        output_attribute: str | None
        if_exists: IfExists
        if_missing: IfMissing
        commit_every: int | None
        commit_within: float | None
        arrays: Arrays
        version: str | None
        ledger: str | os.PathLike[str] | None


__all__ = ["write"]

#: Single results of a list that are looked up together.
AHEAD = 100

_ON_FILES = "let the workers return results, and write() them here; or put the tree on a server"


@overload
def write(
    policy: Policy,
    target: BaseNode | Store | Place,
    results: Iterable[Any],
    **options: Unpack[_Options],
) -> WriteReport: ...
@overload
def write(
    policy: Policy,
    target: BaseNode | Store | Place,
    **options: Unpack[_Options],
) -> Callable[[Iterable[Any]], WriteReport]: ...
@stage("results", place="target")
def write(
    policy: Policy,
    target: BaseNode | Store | Place,
    *,
    output_attribute: str | None = "result",
    if_exists: IfExists = "merge",
    if_missing: IfMissing = "make",
    commit_every: int | None = None,
    commit_within: float | None = None,
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
            as the records' paths do. Or a `DirectoryStore`, an `LmdbStore`, an `Archive`. Or the `Place` of a tree on a
            server, which a root becomes where the stage is sent to another process: there it is opened with a
            connection of its own, and all is committed, 10,000 results at a time without a `commit_every`.
        results: `ProcessResult`s, nested in any iterables: what `parallel_map` gives. Each item is a batch, also in a
            list of single ones, for which a server is asked 100 at a time. A `Failure` among them is counted, and kept
            in the report.
        output_attribute: The attribute that holds the result's output; `None` leaves the output out.
        if_exists: What to do where the node is already there. "merge": set the result's attributes, keep the others;
            "replace": drop the others; "append": "merge", with arrays put behind those that are there, along the first
            axis, for results that come in pieces; it needs `arrays` "blob" or "zarr", and refuses another dtype, shape
            or sample rate; "skip": leave the node as it is, if it has the `version` that is given; "error": stop.
            Children always stay. Each array that is appended is stored anew, with what was there.
        if_missing: What to do where no node is, or nothing under the key of a store. "make": make it, and the nodes
            above it. "error": stop, before anything of the batch is applied: for metadata of nodes that are there.
        commit_every: Commit as soon as this many results are written and their batch is whole, and at the end.
            `None`: the caller commits; a store commits when it suits it, and at the end.
        commit_within: Commit as well as soon as a batch is whole so many seconds after the last commit, and at the end:
            a crash then costs no more than their work, and that on one batch. For slow processors, beside
            `commit_every` or alone; alone, a tree is also committed whenever 10,000 results are written.
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
        ArgumentError: An option is out of range; `commit_every` or `commit_within` on a tree in memory; a result has an
            empty key in its path, or its output's name or that of a stamp among its attributes; `ledger` can't be one,
            or is a file of another kind; `if_exists="replace"` would replace the processed node itself; an array can't
            be appended to what is there, or `if_exists="append"` has no `arrays`; `if_exists` and
            `if_missing` are both "error"; a payload needs blobs, and the database has no directory for them.
        ArgumentTypeError: `target` is neither a node nor a store, or an option has the wrong type.
        ReadOnlyTreeError, ReadOnlyStoreError: The target can only be read.
        ResultError: Something came that is no result; says what, and from which batch.
        NotPicklableError: An output or an attribute can't be stored, or not be read again: it can't be pickled, its
            pickle makes no value, or it is or holds an iterator, a live node or another persistent object without
            plain kin (in a store: any), or a handle where nothing can take its place; says which, and what to do. A
            tree in memory takes all but iterators.
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
        ServerError: The tree's server was lost; what was committed is there.
        OSError: The disk is full; what was committed is intact, and the same process can go on once there is room, or
            close the database.
    """
    starts_at_top = not isinstance(target, Store) and getattr(policy, "starts_at_top", False)
    spares_source = starts_at_top and if_exists == "replace"
    plain = planner("write", policy, output_attribute, version, spares_source=spares_source)
    check_within("write", target, commit_within)
    if commit_within is not None and commit_every is None and isinstance(target, BaseNode):
        commit_every = MOST_WAITING
    if isinstance(target, Place):
        if is_file(target):
            raise ArgumentError(f"write: {target.uri} is a file, which one process alone can write to", hint=_ON_FILES)
        commit_every = MOST_WAITING if commit_every is None else commit_every
    output = output_attribute or OUTPUT
    options = Options("write", commit_every, if_exists, if_missing, version, arrays, output, policy_text(policy))
    if not isinstance(target, (Store, Place)):
        check_root("write", target, "a lotdb node, a DirectoryStore, an LmdbStore or an Archive")
    options.check()
    if isinstance(target, Store):
        check_store(options, target)
    elif isinstance(target, Place):
        check_count("write", "commit_every", commit_every)
    else:
        target = _checked_root(target, options, starts_at_top=starts_at_top)
    if ledger is not None:
        Ledger("write", ledger)

    def run(results: Iterable[Any]) -> WriteReport:
        book = None if ledger is None else Ledger("write", ledger)
        progress = Progress(repr(target) if isinstance(target, Store) else "the database", book)
        planned = warned_of("write", policy, plain, overwrites=if_exists in ("merge", "replace"))

        def applied() -> None:
            with book or nullcontext():
                batches: Iterable[list[Write]] = _noted(flat_batches("write", results), planned, progress)
                if is_plain(results) and commit_every is not None and not isinstance(target, Store):
                    batches = _looked_up_together(results, planned, progress, commit_every)
                opened = _opened(target, options, progress, starts_at_top=starts_at_top)
                apply_batches(batches, opened, progress, commit_within)

        return reported(applied, progress)

    return run


def _noted(
    batches: Iterable[list[ProcessResult | Failure]],
    planned: Callable[[list[ProcessResult | Failure]], list[Write]],
    progress: Progress,
) -> Iterator[list[Write]]:
    """The planned writes of each batch, whose failures are counted."""
    for batch in batches:
        writes = planned(batch)
        progress.note(batch)
        yield writes


def _looked_up_together(
    results: Sequence[ProcessResult],
    planned: Callable[[list[ProcessResult | Failure]], list[Write]],
    progress: Progress,
    commit_every: int,
) -> Iterator[list[Write]]:
    """The planned writes of results that are batches of one, of which the tree may look up the next ones together.

    They come one by one, as ever, and nothing can happen between two of a list: so nothing but the look-ups is another.
    """
    commits = -(-commit_every // AHEAD)
    most = -(-commit_every // commits)  # at most so many, and none beyond a commit, behind which all is looked up anew
    for start in range(0, len(results), most):
        window = results[start : start + most]
        writes: list[list[Write]] = []
        failed: Exception | None = None
        try:
            writes += (planned([result]) for result in window)
        except Exception as error:
            failed = error  # which has its turn behind those before it
        progress.coming = [write for each in writes for write in each]
        for result, each in zip(window, writes, strict=False):
            progress.note([result])
            yield each
        if failed is not None:
            raise failed


def _opened(
    target: BaseNode | Store | Place, options: Options, progress: Progress, *, starts_at_top: bool
) -> AbstractContextManager[Target[list[Write]]]:
    if isinstance(target, Store):
        return opened_store(target, planned_items(target, options, progress), options.commit_every, progress)
    if isinstance(target, Place):
        return _opened_place(target, options, progress, starts_at_top=starts_at_top)
    return opened_tree(target, options, progress)


@contextmanager
def _opened_place(
    place: Place, options: Options, progress: Progress, *, starts_at_top: bool
) -> Iterator[Target[list[Write]]]:
    with (
        writable_root("write", place) as root,
        opened_tree(_checked_root(root, options, starts_at_top=starts_at_top), options, progress) as tree,
    ):
        yield tree


def _checked_root(root: BaseNode, options: Options, *, starts_at_top: bool) -> BaseNode:
    """The node below which paths start, if it can be written to as asked."""
    check_writable("write", root, options.commit_every)
    check_arrays("write", root, options.arrays)
    while starts_at_top and root.parent is not None:
        root = root.parent
    return root
