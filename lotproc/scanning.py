"""From a tree to records without loading it: straight from the committed records of its storage."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, Literal, TypeAlias, overload

from lotdb import BaseNode

from ._missing import Missing
from ._nodes import connection_of, has_changes, plain_file, unwrapped
from ._patterns import PathPattern, regex
from ._places import place_of
from ._stage import check_choice, check_count, check_on_error, stage
from .derived import BelowOption, Derived, checked_below
from .errors import ArgumentError, ArgumentTypeError, UncommittedError, got
from .filters import attribute_test
from .models import NodeRecord, OnError, Place
from .snapshots import NO_RESULTS, Inherit, Names, Payload, checked_taken
from .tables.levels import LevelNames, checked_levels
from .tables.rows import check_names
from .tables.scanned import Scanned
from .traversal import Skip, check_level, skip_tests
from .zodb.attributes import Wanted
from .zodb.below_blocks import BelowBlocks
from .zodb.bounds import UNBOUND, Bounds
from .zodb.lookup import lookup_at_top
from .zodb.moments import Moment, check_seen, checked_moment, first_after, pinned_then
from .zodb.partitioning import starts_of_parts
from .zodb.pinned import PinnedStorage, pinned_view
from .zodb.places import opened_place
from .zodb.scanner import Scanner

__all__ = ["partitions", "scan"]

_Condition: TypeAlias = "str | re.Pattern[str] | Mapping[str, Any]"
Where: TypeAlias = "_Condition | Iterable[_Condition] | None"
Uncommitted: TypeAlias = Literal["error", "ignore"]


@overload
def scan(
    names: Names,
    root: BaseNode | Place,
    *,
    inherit: Inherit = (),
    below: BelowOption = NO_RESULTS,
    where: Where = None,
    path: str | Sequence[str] | None = None,
    skip: Skip = None,
    level: int | Literal["deepest"] | None = None,
    payload: Payload = None,
    levels: LevelNames = None,
    at: Moment | None = None,
    since: Moment | None = None,
    uncommitted: Uncommitted = "error",
    on_error: OnError = "raise",
    missing: Missing = "warn",
) -> Iterator[NodeRecord]: ...
@overload
def scan(
    names: Names,
    *,
    inherit: Inherit = (),
    below: BelowOption = NO_RESULTS,
    where: Where = None,
    path: str | Sequence[str] | None = None,
    skip: Skip = None,
    level: int | Literal["deepest"] | None = None,
    payload: Payload = None,
    levels: LevelNames = None,
    at: Moment | None = None,
    since: Moment | None = None,
    uncommitted: Uncommitted = "error",
    on_error: OnError = "raise",
    missing: Missing = "warn",
) -> Callable[[BaseNode | Place], Iterator[NodeRecord]]: ...
@stage("root", also=Place)
def scan(
    names: Names,
    *,
    inherit: Inherit = (),
    below: BelowOption = NO_RESULTS,
    where: Where = None,
    path: str | Sequence[str] | None = None,
    skip: Skip = None,
    level: int | Literal["deepest"] | None = None,
    payload: Payload = None,
    levels: LevelNames = None,
    at: Moment | None = None,
    since: Moment | None = None,
    uncommitted: Uncommitted = "error",
    on_error: OnError = "raise",
    missing: Missing = "warn",
) -> Callable[[BaseNode | Place], Iterator[NodeRecord]]:
    """Read the records of a tree's leaves from its database, many times as fast as through its nodes.

    >>> import tempfile
    >>> from lotdb import LOTDB
    >>> from lotproc import scan
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     database = LOTDB(path=folder, name="corpus", new=True)
    ...     root = database.open_connection()
    ...     for number in range(3):
    ...         clip = root.gns(["ann", f"clip_{number}"])
    ...         _ = clip.set_attribute("seconds", number * 0.5)
    ...     database.commit()
    ...     for record in scan("seconds", root, where={"seconds": lambda s: s > 0}):
    ...         print(record.path, record.attributes)
    ...     database.close()
    ('ann', 'clip_1') {'seconds': 0.5}
    ('ann', 'clip_2') {'seconds': 1.0}

    The records are those that `snapshot(names, leaves(root, skip=skip))` would give, in the same order. They are read
    at one transaction: the one that the root's connection saw when `scan` was called. What is committed later, also by
    the pipeline that reads the records, is not seen. No node is loaded into the connection. Where the storage keeps the
    views of connections itself, as RelStorage does, it is asked for one more, until the iterator ends or is closed.

    Args:
        names: The attributes to take: one name, several, or `...` for all. An absent attribute is `None`.
        root: A node of a tree in a database, or one of its `partitions`, which is opened where it is used.
        inherit: More attributes, each taken from the nearest node that has it, as in `snapshot`: an attribute of the
            speaker is one of each of its clips. A node above others is decoded once.
        below: Results that were written for the node, as in `snapshot`. They are looked up many at once, by path, also
            in branches that `skip` leaves out.
        where: What a node must have to be given: a regular expression that is found in its key, a mapping from names
            of attributes, also of inherited ones and of results, to values or tests of them, as `where` takes them, or
            several of both. A test is given `None` where a node has not got the attribute. Applied before anything is
            decoded that it does not need.
        path: A glob that the paths of the nodes must match, as `match_path` takes it. Branches in which no path can
            match are not read.
        skip: Branches that do not exist for this scan: a glob on their keys, or a function of their top nodes.
        level: Give the nodes at this depth below `root`, or at the "deepest", instead of the leaves.
        payload: The name of a data attribute: a `PayloadHandle` to it becomes the record's `payload`, or `None` where
            it is absent. Or a function of the node, which must not change it: a copy of what it returns.
        levels: The names of the levels of the paths, from the top down: what the columns of the keys are called where
            the scan is read as a table, as in `to_arrow`. By default TreeLevel_1 and so on.
        at: Read the tree as it was behind an earlier transaction: its id, as `transaction_of` gives it, an item of
            `history`, or a time with its zone. By default it is the one that the connection of `root` sees.
        since: Give only records of which something is new: of nodes that were stored behind this transaction, which is
            given as `at` is, or whose attributes were, any of them, or persistent values and payloads in them, or
            attributes of the nodes that they inherit from, or the results that are read below. What is written below a
            node makes nothing of it new. What was removed, or became a leaf by that, is told by `diff`.
        uncommitted: "error" refuses a connection with changes that are not committed; "ignore" reads what is.
        on_error: What becomes of a node that can't be read, as in `snapshot`: "raise", "skip", "collect" or a function
            of its `Failure`. Where the children of a node can't be read, or listed, it costs one for that branch.
        missing: What becomes of a name, in `names`, in `where` or as `payload`, that a node has not, as in `snapshot`:
            "warn" or "error". Of a partition it is told by `parallel_map`, if no other one had it.

    Returns:
        An iterator of records, depth first, sorted by key. Lazy; holds up to about 1,000 records for each depth of the
        tree. "deepest" goes through the whole tree once before its first record. It may be used in any thread.

        It is a table, too, for what reads Arrow's streams: `duckdb.sql("select ... from clips")`, and
        `polars.DataFrame(clips)` and `pyarrow.table(clips)` take a scan named `clips` itself, with the columns of
        `to_arrow`. Each such stream is a scan of the same transaction from the beginning, also of one that was begun,
        closed or used up. It holds a window of up to 4,096 nodes, and a batch of 10,000 rows. The first batch sets the
        columns and their types; what does not fit later is an error with path and column. `to_arrow`, `to_parquet` and
        `to_dataframe` decode a scan that was not begun in the same way; of one that was begun they take what is left.

    Raises:
        ArgumentError: `root` is in memory, was never committed, or its connection is closed; the file of a partition is
            not there; `level` is negative; others wrote over what the connection sees in a storage without history; or
            what was there at `at` is not known any more, or that is later than what is seen.
            With `missing="error"`, a node lacks an attribute.
        ArgumentTypeError: `root` is no node or partition, or an option has the wrong type.
        PatternError: `where` or `skip` holds a pattern that can't be read.
        UncommittedError: The connection has changes that are not committed.
        DetachError: An attribute or a payload can't be taken out of the tree, or its class can't be imported; names its
            path, its name and the class.
        DamagedDatabaseError: A record is missing or can't be read; names the object's id and the path.
        Exception: Whatever a test in `where`, `skip` or `payload` raises.
    """
    taken = checked_taken("scan", names, inherit, payload)
    results = checked_below("scan", below, taken.named)
    named_levels = checked_levels("scan", levels)
    check_names("scan", [*taken.named, *results] if named_levels else [], levels=named_levels)
    check_choice("scan", "uncommitted", uncommitted, ("error", "ignore"))
    check_on_error("scan", on_error)
    at, since = checked_moment("scan", "at", at), checked_moment("scan", "since", since)
    if since is not None and callable(payload):
        raise ArgumentError(
            "scan: since= can't tell what a payload function reads", hint="name the data attribute instead"
        )
    check_choice("scan", "missing", missing, ("warn", "error"))
    if level is not None:
        check_level("scan", "level", level)
    key, tests = _tests(where)
    skip_key, skip_node = skip_tests("scan", skip)
    pattern = None if path is None else PathPattern("scan", path)
    own_tests = tuple((name, test) for name, test in tests if name not in results)
    tests_of_results = [test for name, test in tests if name in results]
    first = None if since is None else first_after(since)
    wanted = Wanted(taken, key, own_tests, skip_key, skip_node, pattern, level, on_error, missing)
    wanted = replace(wanted, since=first, marks=bool(results))

    def run(root: BaseNode | Place) -> Iterator[NodeRecord]:
        if isinstance(root, Place):
            if at is not None:
                raise ArgumentError("scan: a partition has a transaction of its own", hint="give at= to partitions()")
            storage, oid, bounds = opened_place("scan", root), root.root, Bounds(root.start, root.stop)
        else:
            checked_connection("scan", root, uncommitted)
            storage, oid, bounds = pinned_then("scan", root, at), root._p_oid, UNBOUND
        if since is not None:
            try:
                is_now = at is None and not isinstance(root, Place)
                check_seen("scan", "since", since, storage.before, is_now=is_now)
            except ArgumentError:
                storage.close()
                raise
        is_part = bounds != UNBOUND
        simple = replace(wanted, is_part=is_part)
        # Of results it has to be enough to know what they are.
        are_looked_at = tests_of_results or first is not None or any(each.version for each in results.values())
        in_columns = replace(simple, blocks=not (payload or (results and are_looked_at)))

        def read(storage: PinnedStorage, in_blocks: bool) -> Iterator[Any]:
            records: Iterator[Any] = Scanner(storage, in_columns if in_blocks else simple).records(oid, bounds)
            if results:
                derived = Derived("scan", results, tests_of_results, on_error, is_part=is_part, since=first)
                lookup = lookup_at_top(storage, oid)
                if in_blocks and in_columns.blocks:
                    return BelowBlocks(storage, derived, lookup).added(records)
                records = derived.added(records, lambda *args: lookup().attributes_at(*args))
            return records

        known = [*taken.named, *results]
        return Scanned(storage, read, known, takes_all=taken.names is ..., levels=named_levels)

    return run


def _tests(where: Where) -> tuple[Callable[[str], object] | None, tuple[tuple[str, Callable[[Any], bool]], ...]]:
    """`where` as a test of keys and tests of attributes."""
    if where is None:
        return None, ()
    conditions = [where] if isinstance(where, (str, re.Pattern, Mapping)) else where
    if not isinstance(conditions, Iterable):
        raise ArgumentTypeError(
            "scan: where",
            expected="a regular expression for keys, a mapping from attributes to tests, or several of these",
            got=got(where),
        )
    patterns: list[Callable[[str], object]] = []
    tests: list[tuple[str, Callable[[Any], bool]]] = []
    for condition in conditions:
        if isinstance(condition, Mapping):
            tests += [(name, attribute_test("scan", name, test)) for name, test in condition.items()]
        elif isinstance(condition, (str, re.Pattern)):
            patterns.append(regex("scan", condition).search)
        else:
            raise ArgumentTypeError(
                "scan: where takes regular expressions for keys, and mappings like {'seconds': 1.5} from "
                "attributes to tests",
                got=f"{got(condition)} among them",
            )
    if len(patterns) < 2:
        return patterns[0] if patterns else None, tuple(tests)
    return (lambda key: all(found(key) for found in patterns)), tuple(tests)


@overload
def partitions(
    n: int, root: BaseNode, *, skip: Skip = None, at: Moment | None = None, uncommitted: Uncommitted = "error"
) -> list[Place]: ...
@overload
def partitions(
    n: int, *, skip: Skip = None, at: Moment | None = None, uncommitted: Uncommitted = "error"
) -> Callable[[BaseNode], list[Place]]: ...
@stage("root")
def partitions(
    n: int, *, skip: Skip = None, at: Moment | None = None, uncommitted: Uncommitted = "error"
) -> Callable[[BaseNode], list[Place]]:
    """Part a tree into references to pieces of similar size, which workers open and `scan` themselves.

    >>> import tempfile
    >>> from lotdb import LOTDB
    >>> from lotproc import partitions, scan
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     database = LOTDB(path=folder, name="corpus", new=True)
    ...     root = database.open_connection()
    ...     for number in range(4):
    ...         _ = root.gns([f"speaker_{number}", "clip"])
    ...     database.commit()
    ...     for part in partitions(2, root):
    ...         print(["/".join(record.path) for record in scan((), part)])
    ...     database.close()
    ['speaker_0/clip', 'speaker_1/clip']
    ['speaker_2/clip', 'speaker_3/clip']

    Together they are the whole tree, each node in one of them, in the order of the tree, at the transaction that the
    root's connection sees. Where the storage is open for writing, its index is saved, so that it opens quickly.

    Args:
        n: About how many pieces.
        root: A node of a tree in a file, or on a server where `open_root` opened it.
        skip: Branches that do not count; give it to `scan` as well.
        at: The tree as it was behind an earlier transaction, as in `scan`.
        uncommitted: "error" refuses a connection with changes that are not committed; "ignore" takes what is.

    Returns:
        A list of at most `n` partitions, which pickle. The sizes are estimated from a part of the records.

    Raises:
        ArgumentError: `n` is less than 1, or `root` is in memory, was never committed, or lies in a storage that can't
            be opened from elsewhere.
        ArgumentTypeError: `root` is no node, or an option has the wrong type.
        UncommittedError: The connection has changes that are not committed.
        DamagedDatabaseError: A record is missing or can't be read.
    """
    check_count("partitions", "n", n)
    check_choice("partitions", "uncommitted", uncommitted, ("error", "ignore"))
    skip_key, _ = skip_tests("partitions", skip)
    at = checked_moment("partitions", "at", at)

    def run(root: BaseNode) -> list[Place]:
        connection = checked_connection("partitions", root, uncommitted)
        storage = connection.db().storage
        pinned = pinned_then("partitions", root, at)
        with closing(pinned):
            whole = place_of(root, uncommitted=True)
            if whole is None:
                raise ArgumentError(
                    f"partitions: {root.key!r} lies in a {type(unwrapped(storage)).__qualname__}, which can't be "
                    "opened from elsewhere",
                    hint="a file can, and what open_root() opened on a server. Give the root itself to scan()",
                )
            if (file := plain_file(storage)) is not None:
                _save_index(file)
            starts = starts_of_parts(n, pinned, root._p_oid, skip_key)
            whole = replace(whole, before=pinned.before, stored=pinned.load(root._p_oid)[1])
        return [replace(whole, start=start, stop=stop) for start, stop in zip(starts, [*starts[1:], ()], strict=True)]

    return run


def pinned_storage(name: str, root: BaseNode, uncommitted: Uncommitted) -> PinnedStorage:
    """The storage of a tree, at the transaction that its connection sees; to be closed."""
    return pinned_view(checked_connection(name, root, uncommitted))


def checked_connection(name: str, root: BaseNode, uncommitted: Uncommitted) -> Any:
    """The connection of a tree whose committed records can be read."""
    connection = connection_of(root)
    if connection is None:
        raise ArgumentError(
            f"{name}: {root.key!r} is the root of a tree in memory",
            hint=f"{name} reads the records of a database. Use leaves() and snapshot(), or save the tree first",
        )
    if uncommitted == "error" and has_changes(connection):
        raise UncommittedError(
            f"{name}: the connection of {root.key!r} has changes that are not committed, and {name} reads what is",
            hint='commit or abort them, or give uncommitted="ignore"',
        )
    saved = connection._savepoint_storage
    oid = root._p_oid
    if oid is None or oid in connection._added or (saved is not None and oid in saved.creating):
        raise ArgumentError(f"{name}: {root.key!r} was never committed", hint="commit it first")
    return connection


def _save_index(storage: Any) -> None:
    """Save the index of a storage as closing it would, if it can be and the saved one is older."""
    if storage.isReadOnly():
        return
    with storage._lock:
        try:
            with open(f"{storage._file_name}.index", "rb") as file:
                if pickle.load(file) == storage._pos:
                    return
        except (OSError, pickle.UnpicklingError, EOFError):
            pass
        with suppress(OSError):  # without it, opening takes longer
            storage._save_index()
