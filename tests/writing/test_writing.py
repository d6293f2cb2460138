"""Results back into a tree: as a dict would take them, whole or not at all."""

from __future__ import annotations

import collections
import enum
import inspect
import io
import itertools
import os
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
from BTrees.OOBTree import OOBTree
from hypothesis import given, settings, strategies as st
from lotdb import LOTDB, BaseNode, BlobObject
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from recording import Path, Source, Tree, committed, contents, database, examples, in_bytes, plant
from ZODB.blob import Blob
from ZODB.POSException import ConflictError

from lotproc import (
    ArgumentError,
    ArgumentTypeError,
    ExistsError,
    InlineWritePolicy,
    LotprocError,
    NodeRecord,
    NoSuchKeyError,
    NotPicklableError,
    ProcessResult,
    ReadOnlyTreeError,
    ResultError,
    Write,
    WriteReport,
    chunked,
    each,
    fresh,
    inline,
    leaves,
    mirror,
    parallel_map,
    pending,
    plan,
    snapshot,
    write,
)
from lotproc._values import same
from lotproc.writing import conflicts as _conflicts, planning as _planning

#: Paths at random may be those of results.
pytestmark = pytest.mark.filterwarnings("ignore:.* is itself at", "ignore:.* both go to")

#: In tests of it; else it is more.
SAVEPOINT_EVERY = 500

keys = st.sampled_from(["a", "b", "_proc"])
paths = st.lists(keys, max_size=3).map(tuple)
names = st.sampled_from(["x", "y", "result"])
trees = st.dictionaries(paths, st.dictionaries(names, st.integers(0, 9), max_size=2), max_size=5)
results = st.builds(
    ProcessResult,
    path=paths,
    output=st.integers(10, 99),
    attributes=st.dictionaries(st.sampled_from(["x", "y"]), st.integers(10, 99), max_size=2),
    relative_path=st.lists(keys, max_size=1).map(tuple),
)
nests = st.recursive(results, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
policies = st.builds(
    lambda make, base: make(*base), st.sampled_from([inline, mirror, fresh]), st.lists(keys, max_size=2)
)
#: `if_exists` and `if_missing`.
words = st.sampled_from(
    [
        *(("merge", "make"), ("replace", "make"), ("skip", "make"), ("error", "make")),
        *(("merge", "error"), ("replace", "error"), ("skip", "error")),
    ]
)
counts = st.none() | st.integers(1, 6)


def flat(nest: Any) -> list[ProcessResult]:
    return [result for item in nest for result in flat(item)] if isinstance(nest, list) else [nest]


def as_iterables(nest: Any) -> Any:
    """The nest with other iterables in place of its lists."""
    if not isinstance(nest, list):
        return nest
    items = [as_iterables(item) for item in nest]
    return (items, tuple(items), iter(items), (item for item in items))[len(items) % 4]


def complete(tree: Tree) -> Tree:
    """The tree with the nodes that its paths run through."""
    whole: Tree = {(): {}}
    for path in tree:
        for depth in range(len(path) + 1):
            whole.setdefault(path[:depth], {})
    for path, attributes in tree.items():
        whole[path] = dict(attributes)
    return whole


class Oracle:
    """What `write` does, done to a dict."""

    def __init__(
        self, tree: Tree, policy: Any, if_exists: str, commit_every: int | None = None, if_missing: str = "make"
    ) -> None:
        self.tree, self.saved = tree, complete(tree)
        self.policy, self.if_exists, self.commit_every = policy, if_exists, commit_every
        self.if_missing = if_missing
        self.written = self.skipped = self.commits = self.uncommitted = self.committed = 0
        self.last_path: Path | None = None

    def batch(self, nest: Any) -> None:
        for result in flat(nest):
            self.one(result)
        if self.commit_every is not None and self.uncommitted >= self.commit_every:
            self.commit()

    def one(self, result: ProcessResult) -> None:
        path = self.policy(result)
        if self.if_exists == "replace" and path == result.path and isinstance(self.policy, InlineWritePolicy):
            raise ArgumentError  # the processed node itself
        attributes = {**result.attributes, "result": result.output}
        if path in self.tree:
            if self.if_exists == "error":
                raise ExistsError
            if self.if_exists == "skip":
                self.skipped += 1
                return
            if self.if_exists == "replace":
                self.tree[path] = {}
        elif self.if_missing == "error":
            raise NoSuchKeyError
        for depth in range(len(path) + 1):
            self.tree.setdefault(path[:depth], {})
        self.tree[path].update(attributes)
        self.written += 1
        self.uncommitted += 1
        self.last_path = path

    def commit(self) -> None:
        self.saved = {path: dict(attributes) for path, attributes in self.tree.items()}
        self.commits += 1
        self.uncommitted = 0
        self.committed = self.written

    def end(self) -> None:
        if self.commit_every is not None and self.uncommitted:
            self.commit()

    @property
    def report(self) -> WriteReport:
        return WriteReport(self.written, self.skipped, self.commits, self.last_path)


def applied(oracle: Oracle, batches: list[Any]) -> type[Exception] | None:
    """Run the oracle; where `write` must fail, say how."""
    try:
        for batch in batches:
            oracle.batch(batch)
        oracle.end()
    except (ExistsError, ArgumentError, NoSuchKeyError) as error:
        return type(error)
    return None


# plan


@settings(max_examples=examples(60))
@given(batches=st.lists(nests, max_size=5), policy=policies, attribute=st.sampled_from(["result", "out", None]))
def test_a_plan_is_the_policy_applied_to_each_result_in_order(
    batches: list[Any], policy: Any, attribute: str | None
) -> None:
    planned = list(plan(policy, map(as_iterables, batches), output_attribute=attribute))
    assert planned == [
        Write(policy(result), {**result.attributes, **({attribute: result.output} if attribute else {})})
        for result in flat(batches)
    ]
    assert list(plan(policy, output_attribute=attribute)(batches)) == planned


class Word(str):
    """A key that is more than a str."""


odd_paths = st.lists(keys | keys | st.sampled_from(["", None, Word("w")]), max_size=3)
odd_results = st.builds(
    ProcessResult,
    path=st.one_of(odd_paths.map(tuple), odd_paths, st.sampled_from(["ab", None])),
    output=st.sampled_from([1, {"a": [1.5]}, [{1}], iter([1]), np.arange(2), [[[[[[[[1]]]]]]]]]),
    attributes=st.one_of(
        st.just({}),
        st.dictionaries(
            names | st.sampled_from(["_version", "_inputs", 1]), st.sampled_from([1, [2], {3}]), max_size=2
        ),
        st.sampled_from([None, []]),
    ),
    relative_path=st.sampled_from([(), (), (), ("r",), [], "", None]),
    inputs=st.sampled_from([None, None, "in1", Word("w"), b"1"]),
)


@settings(max_examples=examples(200))
@given(
    batch=st.lists(odd_results, max_size=3),
    policy=policies,
    attribute=st.sampled_from(["result", "_version", "_inputs", None]),
    version=st.sampled_from([None, None, "v1"]),
)
def test_results_are_planned_together_as_one_by_one(batch: Any, policy: Any, attribute: Any, version: Any) -> None:
    outcomes = []
    for is_fast in (True, False):
        with mock.patch.object(_planning, "FAST", is_fast):
            try:
                made = list(plan(policy, [batch], output_attribute=attribute, version=version))
                outcomes.append([(type(write.path), write.path, [*write.attributes.items()]) for write in made])
            except LotprocError as error:
                outcomes.append((type(error), str(error)))  # type: ignore[arg-type]
    assert same(*outcomes)


def test_a_plan_pulls_batch_by_batch_and_nothing_before_it_is_asked() -> None:
    source = Source([[ProcessResult(("a",)), ProcessResult(("b",))], ProcessResult(("c",))])
    planned = plan(mirror(), source)
    assert source.pulled == 0
    assert [next(planned).path, source.pulled] == [("a",), 1]
    assert [next(planned).path, source.pulled] == [("b",), 1]
    assert [next(planned).path, source.pulled] == [("c",), 2]


def test_a_plan_changes_neither_results_nor_what_they_hold() -> None:
    result = ProcessResult(("a",), output=[1], attributes={"x": 1})
    (planned,) = plan(mirror(), [result])
    assert planned.attributes == {"x": 1, "result": [1]}
    assert result == ProcessResult(("a",), output=[1], attributes={"x": 1})


def test_results_may_be_nested_as_deep_as_they_like() -> None:
    nest: Any = ProcessResult(("a",), 1)
    for _ in range(5_000):
        nest = [nest]
    root = BaseNode("root")
    assert write(mirror(), root, nest).written == 1
    assert contents(root) == {(): {}, ("a",): {"result": 1}}


class Speaker(str, enum.Enum):
    ANN = "ann"


@pytest.mark.parametrize("key", [np.str_("ann"), Speaker.ANN], ids=["numpy", "enum"])
def test_a_key_of_a_kind_of_str_is_written_where_the_plan_says(key: str) -> None:
    root, result = BaseNode("root"), ProcessResult((key,), 1)
    (planned,) = plan(mirror(), [result])
    assert planned.path == ("ann",)
    assert write(mirror(), root, [result]).last_path == ("ann",)
    assert contents(root) == {(): {}, ("ann",): {"result": 1}}
    with pytest.raises(ExistsError):
        write(mirror(), root, [result], if_exists="error")


# write against a dict


@settings(max_examples=examples(150))
@given(tree=trees, batches=st.lists(nests, max_size=5), policy=policies, how=words)
def test_a_tree_in_memory_takes_results_as_a_dict_does(
    tree: Tree, batches: list[Any], policy: Any, how: tuple[str, str]
) -> None:
    root = BaseNode("root")
    plant(root, tree)
    before = contents(root)
    if_exists, if_missing = how
    oracle = Oracle(complete(tree), policy, if_exists, if_missing=if_missing)
    assert before == oracle.tree
    error = applied(oracle, batches)
    if error is None:
        report = write(policy, root, map(as_iterables, batches), if_exists=if_exists, if_missing=if_missing)
        assert contents(root) == oracle.tree
        assert report == oracle.report
    else:
        with pytest.raises((error, ArgumentError) if if_exists == "replace" else error):  # plans come first
            write(policy, root, map(as_iterables, batches), if_exists=if_exists, if_missing=if_missing)
        assert contents(root) == before


@settings(max_examples=examples(80))
@given(tree=trees, batches=st.lists(nests, max_size=5), policy=policies, how=words, commit_every=counts)
def test_a_database_takes_results_as_a_dict_does_and_commits_whole_batches(
    tree: Tree, batches: list[Any], policy: Any, how: tuple[str, str], commit_every: int | None
) -> None:
    if_exists, if_missing = how
    options: Any = {"if_exists": if_exists, "if_missing": if_missing, "commit_every": commit_every}
    with database() as db:
        root = db.open_connection()
        plant(root, tree)
        db.commit()
        oracle = Oracle(complete(tree), policy, if_exists, commit_every, if_missing)
        steps = Oracle(complete(tree), policy, if_exists, commit_every, if_missing)

        def source() -> Iterator[Any]:
            for batch in batches:
                assert committed(db) == steps.saved  # whole batches, as soon as there are enough results
                yield as_iterables(batch)
                steps.batch(batch)

        error = applied(oracle, batches)
        if error is None:
            report = write(policy, root, source(), **options)
            assert report == oracle.report
            assert contents(root) == oracle.tree
            assert committed(db) == oracle.saved
            db.commit()
            assert committed(db) == oracle.tree
        else:
            with pytest.raises((error, ArgumentError) if if_exists == "replace" else error) as caught:
                write(policy, root, source(), **options)
            report = caught.value.report  # type: ignore[attr-defined]
            assert (report.commits, report.written) == (oracle.commits, oracle.committed)
            assert contents(root) == committed(db) == oracle.saved
            db.commit()
            assert committed(db) == oracle.saved


def test_a_report_reads_as_a_sentence() -> None:
    assert str(WriteReport()) == "0 results written, nothing to commit"
    assert str(WriteReport(written=1, commits=1)) == "1 result written, 1 commit"
    assert str(WriteReport(written=1200, skipped=3, commits=2)) == "1,200 results written, 3 skipped, 2 commits"


def test_paths_start_at_the_target_and_those_of_inline_where_the_records_come_from() -> None:
    for database_or_memory in (True, False):
        with database() as db:
            root = db.open_connection() if database_or_memory else BaseNode("root")
            session = root.gns(["ann", "session"])
            session.gn("clip").set_attribute("x", 1)
            records = list(snapshot("x", leaves(session)))
            found = [ProcessResult(record.path, output=record.attributes["x"]) for record in records]
            write(inline("_proc"), session, found)
            assert contents(root)[("ann", "session", "clip", "_proc")] == {"result": 1}
            assert list(session.node_storage) == ["clip"]
            write(mirror("copy"), session, found)
            assert contents(session)[("copy", "ann", "session", "clip")] == {"result": 1}
            assert len(contents(root)) == 9


@pytest.mark.parametrize("relative_path", [(), ("sub",)])
@pytest.mark.parametrize("persistent", [False, True])
def test_replace_never_drops_the_attributes_of_the_processed_node(
    persistent: bool, relative_path: tuple[str, ...]
) -> None:
    with database() as db:
        root = db.open_connection() if persistent else BaseNode("root")
        plant(root, {("ann", "clip"): {"x": 1}})
        found = [ProcessResult(("ann", "clip"), 2, relative_path=relative_path)]
        if relative_path:
            write(inline(), root, found, if_exists="replace")
            assert contents(root)[("ann", "clip", "sub")] == {"result": 2}
        else:
            with pytest.raises(ArgumentError, match="would drop the attributes of the processed node ann/clip itself"):
                write(inline(), root.gn("ann"), found, if_exists="replace")
        assert contents(root)[("ann", "clip")] == {"x": 1}
        write(inline(), root, found, if_exists="merge")
        assert contents(root)[("ann", "clip")]["x"] == 1


def test_children_stay_whatever_happens_to_the_attributes() -> None:
    for word in ("merge", "replace", "skip"):
        root = BaseNode("root")
        plant(root, {("a",): {"x": 1}, ("a", "b"): {"y": 2}})
        write(mirror(), root, [ProcessResult(("a",), 3)], if_exists=word)
        assert contents(root)[("a", "b")] == {"y": 2}


def test_any_function_from_a_result_to_a_path_is_a_policy() -> None:
    root = BaseNode("root")
    write(lambda result: ("flat", "-".join(result.path)), root, [ProcessResult(("a", "b"), 1)])
    assert contents(root) == {(): {}, ("flat",): {}, ("flat", "a-b"): {"result": 1}}


@pytest.mark.parametrize("ask", [lambda policy, item: list(plan(policy, [item])), lambda *of: list(pending_of(*of))])
def test_the_error_of_a_policy_of_ones_own_names_the_result(ask: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(AttributeError) as caught:
        ask(lambda result: result.pth, ProcessResult(("ann", "clip"), 1))
    assert any("ann/clip" in note for note in caught.value.__notes__)


def pending_of(policy: Any, item: ProcessResult) -> Iterator[Any]:
    return pending(policy, BaseNode("root"), [NodeRecord(item.path, item.path[-1], {})])


def test_without_output_attribute_only_the_attributes_are_written() -> None:
    root = BaseNode("root")
    write(mirror(), root, [ProcessResult(("a",), 1, {"result": 2}), ProcessResult(("b",), 3)], output_attribute=None)
    assert contents(root) == {(): {}, ("a",): {"result": 2}, ("b",): {}}


# A failed write leaves no trace


class Named:
    """An error or an item that spoils a write, with the error that it leads to."""

    def __init__(self, error: type[BaseException], *, item: Any = None, raises: BaseException | None = None) -> None:
        self.error, self.item, self.raises = error, item, raises


SPOILERS: dict[str, Callable[[], Named]] = {
    "source raises": lambda: Named(OSError, raises=OSError("gone")),
    "interrupt": lambda: Named(KeyboardInterrupt, raises=KeyboardInterrupt()),
    "a str": lambda: Named(ResultError, item="ann"),
    "an empty str": lambda: Named(ResultError, item=""),
    "bytes": lambda: Named(ResultError, item=b"ann"),
    "a bytearray": lambda: Named(ResultError, item=bytearray(b"ann")),
    "a dict": lambda: Named(ResultError, item={"path": ("a",)}),
    "an empty dict": lambda: Named(ResultError, item={}),
    "None": lambda: Named(ResultError),
    "a number": lambda: Named(ResultError, item=3),
    "a record": lambda: Named(ResultError, item=NodeRecord(("a",), "a")),
    "a live node": lambda: Named(ResultError, item=BaseNode("a")),
    "an empty key": lambda: Named(ArgumentError, item=ProcessResult(("a", ""), 1)),
    "an empty relative key": lambda: Named(ArgumentError, item=ProcessResult(("a",), 1, relative_path=("",))),
    "a key that is no str": lambda: Named(ArgumentTypeError, item=ProcessResult(("a", 3), 1)),  # type: ignore[arg-type]
    "a path that is a str": lambda: Named(ArgumentTypeError, item=ProcessResult("a", 1)),  # type: ignore[arg-type]
    "a path that is None": lambda: Named(ArgumentTypeError, item=ProcessResult(None, 1)),  # type: ignore[arg-type]
    "a name that is no str": lambda: Named(ResultError, item=ProcessResult(("a",), 1, {3: 1})),  # type: ignore[dict-item]
    "attributes that are none": lambda: Named(ResultError, item=ProcessResult(("a",), 1, [1])),  # type: ignore[arg-type]
    "two outputs": lambda: Named(ArgumentError, item=ProcessResult(("a",), 1, {"result": 2})),
    "a map": lambda: Named(NotPicklableError, item=ProcessResult(("a",), map(int, "12"))),
    "an attribute that holds a generator": lambda: Named(
        NotPicklableError, item=ProcessResult(("a",), 1, {"x": {"y": [(number for number in "12")]}})
    ),
    "an iterable that raises": lambda: Named(OSError, item=Source([ProcessResult(("a",), 1)], OSError("gone"))),
}
STORABLE_ONLY_IN_MEMORY: dict[str, Callable[[], Named]] = {
    "an output that can't be stored": lambda: Named(NotPicklableError, item=ProcessResult(("a",), threading.Lock())),
    "an attribute that can't be stored": lambda: Named(
        NotPicklableError, item=ProcessResult(("a",), 1, {"x": [lambda: 0]})
    ),
}
ALL_SPOILERS = {**SPOILERS, **STORABLE_ONLY_IN_MEMORY}

good = st.lists(results, max_size=4)
spoiled_batches = st.tuples(st.lists(good, max_size=4), good, good, st.booleans())


def spoiled(spoiler: Named, before: list[Any], first: list[Any], rest: list[Any], nested: bool) -> Source:
    """Good batches, then one with the spoiler in its midst, then more."""
    if spoiler.raises is not None:
        return Source([*before, first], spoiler.raises)
    item = [spoiler.item] if nested else spoiler.item
    return Source([*before, [*first, item, *rest], *before])


@settings(max_examples=examples(100))
@given(tree=trees, name=st.sampled_from(list(SPOILERS)), batches=spoiled_batches, policy=policies)
def test_a_failed_write_leaves_a_tree_in_memory_as_it_was(tree: Tree, name: str, batches: Any, policy: Any) -> None:
    root = BaseNode("root")
    plant(root, tree)
    before = contents(root)
    spoiler = SPOILERS[name]()
    source = spoiled(spoiler, *batches)
    with pytest.raises(spoiler.error):
        write(policy, root, source)
    assert contents(root) == before
    assert source.closed


@settings(max_examples=examples(80))
@given(
    tree=trees,
    mine=trees,
    name=st.sampled_from(list(ALL_SPOILERS)),
    batches=spoiled_batches,
    policy=policies,
    if_exists=st.sampled_from(["merge", "skip", "replace"]),
)
def test_a_failed_write_leaves_a_database_and_uncommitted_changes_as_they_were(
    tree: Tree, mine: Tree, name: str, batches: Any, policy: Any, if_exists: str
) -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, tree)
        db.commit()
        plant(root, mine)  # changes of the caller, not committed yet
        before = contents(root)
        nodes = db.db.objectCount() + 3 * (len(before) - len(committed(db)))  # a node is three objects
        spoiler = ALL_SPOILERS[name]()
        source = spoiled(spoiler, *batches)
        with pytest.raises((spoiler.error, ArgumentError) if if_exists == "replace" else spoiler.error):
            write(policy, root, source, if_exists=if_exists)
        assert contents(root) == before
        assert committed(db) == complete(tree)
        assert source.closed
        db.commit()
        assert committed(db) == contents(root) == before
        assert db.db.objectCount() == nodes


@pytest.mark.parametrize("name", ALL_SPOILERS)
def test_after_a_failed_write_nothing_is_registered_and_the_next_write_works(name: str) -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, {("a", "b"): {"x": 1}})
        db.commit()
        spoiler = ALL_SPOILERS[name]()
        good = [ProcessResult(("a", "b"), 1), ProcessResult(("c",), 2)]
        with pytest.raises(spoiler.error):
            write(inline("_proc"), root, spoiled(spoiler, [good], good, good, False))
        assert root._p_jar._registered_objects == []
        assert write(inline("_proc"), root, good, commit_every=10).commits == 1
        assert set(committed(db)) == {(), ("a",), ("a", "b"), ("a", "b", "_proc"), ("c",), ("c", "_proc")}


@settings(max_examples=examples(80))
@given(
    mine=trees,
    name=st.sampled_from(list(ALL_SPOILERS)),
    batches=spoiled_batches,
    policy=policies,
    commit_every=st.integers(1, 5),
)
def test_a_failed_write_that_commits_keeps_whole_batches_and_nothing_of_the_rest(
    mine: Tree, name: str, batches: Any, policy: Any, commit_every: int
) -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, mine)  # not committed before the first commit of the write
        before, first, rest, nested = batches
        spoiler = ALL_SPOILERS[name]()
        oracle = Oracle(complete(mine), policy, "merge", commit_every)
        whole = [*before, first] if spoiler.raises is not None else before
        applied_batches = [oracle.batch(batch) for batch in whole]
        assert len(applied_batches) == len(whole)
        with pytest.raises(spoiler.error):
            write(policy, root, spoiled(spoiler, before, first, rest, nested), commit_every=commit_every)
        assert committed(db) == (oracle.saved if oracle.commits else {(): {}})
        assert contents(root) == oracle.saved if oracle.commits else complete(mine)
        db.commit()
        assert committed(db) == oracle.saved


@pytest.mark.parametrize("commit_every", [None, 2])
def test_an_existing_node_stops_a_write_that_is_told_to_and_nothing_stays(commit_every: int | None) -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, {("a",): {"x": 1}})
        db.commit()
        batches = [[ProcessResult(("b",), 1)], [ProcessResult(("c",), 2), ProcessResult(("a",), 3)]]
        with pytest.raises(ExistsError, match=r'write: a is already there; if_exists="merge"'):
            write(mirror(), root, batches, if_exists="error", commit_every=commit_every)
        assert contents(root) == committed(db) == {(): {}, ("a",): {"x": 1}}


@settings(max_examples=examples(60))
@given(found=st.lists(st.lists(keys, min_size=1, max_size=3).map(tuple), max_size=3))
def test_a_write_told_to_stop_at_existing_nodes_stops_at_those_it_makes_itself_too(found: list[Path]) -> None:
    made = [{path[:depth] for depth in range(1, len(path) + 1)} for path in found]
    clashes = any(path in earlier for i, path in enumerate(found) for earlier in made[:i])
    root = BaseNode("root")
    if clashes:
        with pytest.raises(ExistsError):
            write(mirror(), root, [ProcessResult(path, 1) for path in found], if_exists="error")
        assert contents(root) == {(): {}}
    else:
        assert write(mirror(), root, [ProcessResult(path, 1) for path in found], if_exists="error").written == len(
            found
        )


def test_the_error_says_what_came_and_from_which_batch() -> None:
    fine = [ProcessResult(("a",), 1)]
    with pytest.raises(ResultError, match=r"write: batch 2 \(counted from 0\): .* got float 0\.5"):
        write(mirror(), BaseNode("root"), [fine, fine, [fine, 0.5]])
    with pytest.raises(ResultError, match=r"plan: batch 0 .* got None; .* ProcessResult\(record\.path"):
        list(plan(mirror(), [None]))
    with pytest.raises(ResultError, match="write: expected ProcessResults, nested in any iterables, got dict"):
        write(mirror(), BaseNode("root"), {"a": fine})
    locked = ProcessResult(("a", "b"), 1, {"x": threading.Lock()})
    with database() as db, pytest.raises(NotPicklableError, match=r"write: attribute 'x' at a/b can't .*, got lock"):
        write(mirror(), db.open_connection(), [locked])


UNSTORABLE: dict[str, Callable[[LOTDB], Any]] = {
    "lock": lambda db: threading.Lock(),
    "generator": lambda db: (number for number in range(3)),
    "lambda in a list": lambda db: [lambda: 0],
    "local class": lambda db: type("Local", (), {})(),
    "what only the newest pickles take": lambda db: pickle.PickleBuffer(b"abc"),
    "persistent mapping of a lambda": lambda db: PersistentMapping(f=lambda: 0),
    "BTree of a lambda": lambda db: OOBTree({"f": lambda: 0}),
    "tree with a lambda": lambda db: [tree_with_a_lambda()],
    "node of another connection": lambda db: db.open_connection(connection_id="another"),
}


def tree_with_a_lambda() -> BaseNode:
    tree = BaseNode("tree")
    tree.gn("leaf").set_attribute("f", lambda: 0)
    return tree


@pytest.mark.parametrize("commit_every", [None, 1])
@pytest.mark.parametrize("kind", UNSTORABLE)
def test_what_a_database_can_not_store_is_refused_while_its_name_is_known(kind: str, commit_every: int | None) -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, {("mine",): {"x": 1}})
        source = Source([[ProcessResult(("a",), 1), ProcessResult(("b",), UNSTORABLE[kind](db))]])
        with pytest.raises(NotPicklableError, match="write: attribute 'result' at b can't be stored"):
            write(mirror(), root, source, commit_every=commit_every)
        assert source.closed
        db.commit()
        assert committed(db) == {(): {}, ("mine",): {"x": 1}}


async def soon() -> int:
    return 1


async def several() -> AsyncIterator[int]:
    yield 1


class Counting:
    """An iterator of a class of its own, which can be pickled."""

    def __iter__(self) -> Counting:
        return self

    def __next__(self) -> int:
        return 1


#: What can be read only once, and what to do about it.
LAZY: dict[str, tuple[Callable[[], Any], str]] = {
    "generator": (lambda: (number for number in range(3)), "a generator, .*make a list of it"),
    "map": (lambda: map(str, range(3)), "a map, .*make a list of it"),
    "zip": (lambda: zip("ab", "cd", strict=True), "a zip, .*make a list of it"),
    "iterator of a list": (lambda: iter([1]), "a list_iterator, .*make a list of it"),
    "chain": (lambda: itertools.chain("ab"), "a chain, .*make a list of it"),
    "iterator of another class": (Counting, "a Counting, .*make a list of it"),
    "iterator of an array": (lambda: np.arange(3).flat, "a flatiter, .*make a list of it"),
    "file": (lambda: open(os.devnull, "rb"), "an open file; read it"),  # noqa: SIM115
    "file in memory": (lambda: io.BytesIO(b"abc"), "an open file; read it"),
    "asynchronous generator": (several, "make a list of it, with `async for`"),
    "coroutine": (soon, "await it"),
}
#: Where it can hide.
HIDDEN: dict[str, Callable[[Any], Any]] = {
    "itself": lambda lazy: lazy,
    "list": lambda lazy: [1, [2, lazy]],
    "dict": lambda lazy: {"x": {"y": lazy}},
    "named tuple": lambda lazy: inspect.Attribute("name", "kind", object, lazy),
    "set": lambda lazy: {lazy},
    "key": lambda lazy: {lazy: 1},
    "data class": lambda lazy: Write(("a",), {"x": lazy}),
    "array": lambda lazy: np.array([None, lazy], dtype=object),
    "kind of dict": lambda lazy: collections.OrderedDict(x=lazy),
    "persistent list": lambda lazy: PersistentList([lazy]),
}


@pytest.mark.parametrize("kind", LAZY)
@pytest.mark.parametrize("place", HIDDEN)
def test_what_can_be_read_only_once_is_no_value(kind: str, place: str) -> None:
    make, advice = LAZY[kind]
    lazy = make()
    try:
        value = HIDDEN[place](lazy)
    except TypeError:  # not every one can be a key
        return
    root = BaseNode("root")
    for result in (ProcessResult(("a", "b"), value), ProcessResult(("a", "b"), 1, {"x": value})):
        name = "result" if result.output is value else "x"
        with pytest.raises(NotPicklableError, match=f"write: attribute '{name}' at a/b can't be stored: it .*{advice}"):
            write(mirror(), root, [[ProcessResult(("c",), 1), result]])
        with pytest.raises(NotPicklableError, match=f"plan: attribute '{name}' at a/b"):
            list(plan(mirror(), [result]))
    assert contents(root) == {(): {}}
    assert len(list(plan(mirror(), [ProcessResult(("a",), value)], output_attribute=None))) == 1  # it is not asked for
    if inspect.iscoroutine(lazy):
        lazy.close()
    if isinstance(lazy, io.IOBase):
        lazy.close()


def test_values_that_hold_themselves_are_looked_through_once() -> None:
    value: list[Any] = [1]
    value.append({"again": value})
    root = BaseNode("root")
    write(mirror(), root, [ProcessResult(("a",), value)])
    assert root.gn("a").get_attribute("result") is value


def test_a_missing_node_is_named_with_the_nearest_that_is_there() -> None:
    root = BaseNode("root")
    root.gns(["ann", "clip_1"])
    for path, nearest in {
        ("ann", "clip_2"): "ann/clip_1",
        ("ann", "notes"): "ann",
        ("bob", "clip_1"): "the root",
        ("anne", "clip_1"): "ann",
    }.items():
        with pytest.raises(NoSuchKeyError, match=f"write: nothing is at {'/'.join(path)}; .* there is {nearest}; if_m"):
            write(mirror(), root, [ProcessResult(path, 1)], if_missing="error")
    assert write(mirror(), root, [ProcessResult(("ann", "clip_1"), 1)], if_missing="error").written == 1
    assert contents(root) == {(): {}, ("ann",): {}, ("ann", "clip_1"): {"result": 1}}


@pytest.mark.parametrize(("there", "asked"), [("Zoe\u0308", "Zo\xeb"), ("\xe9", "e\u0301")])
def test_a_missing_node_like_one_that_is_there_has_its_accents_in_another_form(there: str, asked: str) -> None:
    root = BaseNode("root")
    root.gns([there, "clip_1"])
    for path in ((asked,), (asked, "clip_1")):
        with pytest.raises(NoSuchKeyError, match=f"there is {there}, with accents in another .*normalize"):
            write(mirror(), root, [ProcessResult(path, 1)], if_missing="error")


def test_a_tree_in_memory_holds_anything() -> None:
    root, lock = BaseNode("root"), threading.Lock()
    write(mirror(), root, [ProcessResult(("a",), lock)])
    assert root.gn("a").get_attribute("result") is lock


# Outputs that are objects of their own


def blob_object(data: bytes) -> BlobObject:
    blob = BlobObject()
    blob.write_bytes(data)
    return blob


def bare_blob(data: bytes) -> Blob:
    blob = Blob()
    with blob.open("w") as file:
        file.write(data)
    return blob


def read(value: Any) -> bytes:
    if isinstance(value, BlobObject):
        return value.read_bytes()
    if isinstance(value, Blob):
        with value.open("r") as file:
            return file.read()  # type: ignore[no-any-return]
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return value["data"]  # type: ignore[no-any-return]


OBJECTS: dict[str, Callable[[bytes], Any]] = {
    "BlobObject": blob_object,
    "Blob": bare_blob,
    "OOBTree": lambda data: OOBTree({"data": data}),
    "PersistentMapping": lambda data: PersistentMapping(data=data),
    "array": lambda data: np.frombuffer(data, dtype=np.uint8),
}


@pytest.mark.parametrize("commit_every", [None, 1, 100])
@pytest.mark.parametrize("kind", OBJECTS)
def test_blobs_trees_and_arrays_are_outputs_too(kind: str, commit_every: int | None) -> None:
    with database() as db:
        root = db.open_connection()

        def found(data: bytes) -> list[list[ProcessResult]]:
            return [[ProcessResult((key,), OBJECTS[kind](data))] for key in "abc"]

        with pytest.raises(ResultError):
            write(mirror(), root, [[*itertools.chain(*found(b"wrong"))], None], commit_every=None)
        assert contents(root) == {(): {}}
        write(mirror("right"), root, found(b"right"), commit_every=commit_every)
        db.commit()
        look = db.open_connection(connection_id="look")
        assert set(contents(look)) == {(), ("right",), ("right", "a"), ("right", "b"), ("right", "c")}
        for key in "abc":
            assert read(look.get_node_path(["right", key]).get_attribute("result")) == b"right"


# Long writes


def many(count: int, size: int = 250) -> Iterator[list[ProcessResult]]:
    return chunked(size, (ProcessResult((f"s{i % 7}", f"clip_{i:05}"), i) for i in range(count)))


@pytest.mark.parametrize("kind", ["numbers", "blobs"])
def test_a_long_write_that_fails_is_undone_and_one_that_succeeds_is_there(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_conflicts, "SAVEPOINT_EVERY", SAVEPOINT_EVERY)
    count = SAVEPOINT_EVERY + 150

    def batches(end: BaseException | None) -> Source:
        found = many(count)
        if kind == "blobs":
            found = ([*batch, ProcessResult(("blob", str(i)), blob_object(b"data"))] for i, batch in enumerate(found))
        return Source(found, end)

    with database() as db:
        root = db.open_connection()
        plant(root, {("mine",): {"x": 1}})
        objects = db.db.objectCount()
        with pytest.raises(OSError, match="gone"):
            write(inline("_proc"), root, batches(OSError("gone")))
        assert contents(root) == {(): {}, ("mine",): {"x": 1}}
        db.commit()
        assert committed(db) == {(): {}, ("mine",): {"x": 1}}
        assert db.db.objectCount() == objects + 3
        report = write(inline("_proc"), root, batches(None))
        assert report.written == count + (-(-count // 250) if kind == "blobs" else 0)
        assert report.commits == 0
        assert committed(db) == {(): {}, ("mine",): {"x": 1}}
        db.commit()
        after = committed(db)
        for i in (0, SAVEPOINT_EVERY, count - 1):
            assert after[(f"s{i % 7}", f"clip_{i:05}", "_proc")] == {"result": i}
        assert sum(path[-1:] == ("_proc",) for path in after) == report.written


def test_what_waits_to_be_stored_stays_bounded_in_a_long_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conflicts, "SAVEPOINT_EVERY", SAVEPOINT_EVERY)
    count, size = 3 * SAVEPOINT_EVERY, 100
    with database(cache_size=200) as db:
        root = db.open_connection()
        plant(root, {(f"clip_{i:05}",): {} for i in range(count)})
        db.commit()
        waiting, cached = [], []

        def source() -> Iterator[list[ProcessResult]]:
            for batch in chunked(size, (ProcessResult((f"clip_{i:05}",), i) for i in range(count))):
                waiting.append(len(root._p_jar._registered_objects))
                cached.append(root._p_jar._cache.ringlen())
                yield batch

        assert write(inline("_proc"), root, source()).written == count
        # a result changes one object, the children of its clip
        assert SAVEPOINT_EVERY - size <= max(waiting) <= SAVEPOINT_EVERY
        whole = 6 * count  # objects that a write without savepoints would hold
        assert max(cached) < whole / 2
        db.abort()


def test_a_branch_that_is_not_saved_yet_is_a_target_too() -> None:
    with database() as db:
        root = db.open_connection()
        branch = root.gn("branch")
        branch.set_attribute("x", 1)
        with pytest.raises(ResultError):
            write(mirror(), branch, [[ProcessResult(("a",), 1)], None])
        assert contents(root) == {(): {}, ("branch",): {"x": 1}}
        write(mirror(), branch, [ProcessResult(("a",), 1)], commit_every=1)
        assert committed(db) == {(): {}, ("branch",): {"x": 1}, ("branch", "a"): {"result": 1}}


@pytest.mark.parametrize("tries", [1, 2])
def test_a_commit_that_conflicts_is_tried_again_or_leaves_what_was_committed_before_it(
    tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_conflicts, "MOST_TRIES", tries)
    with database() as db:
        root = db.open_connection()
        plant(root, {("a",): {"x": 1}, ("b",): {"x": 1}})
        db.commit()
        before = committed(db)

        def source() -> Iterator[list[ProcessResult]]:
            yield [ProcessResult(("a",), 1)]
            other = db.open_connection(connection_id="other")
            other.gn("b").set_attribute("x", 2)
            db.commit("other")
            db.close_connection("other")
            yield [ProcessResult(("c",), 2), ProcessResult(("b",), 3, {"x": 4})]

        if tries > 1:
            assert write(inline(), root, source(), commit_every=1) == WriteReport(3, 0, 2, ("b",))
            assert contents(root) == committed(db)
            assert committed(db) == {
                **before,
                **{("a",): {"x": 1, "result": 1}, ("b",): {"x": 4, "result": 3}, ("c",): {"result": 2}},
            }
            return
        with pytest.raises(ConflictError) as raised:
            write(inline(), root, source(), commit_every=1)
        assert raised.value.report == WriteReport(1, 0, 1, ("a",))
        assert raised.value.__notes__ == [
            "lotproc: it was tried 1 time",
            "lotproc: before this, 1 result in 1 commit went into the database, and stay; the rest was undone",
        ]
        assert contents(root) == committed(db) == {**before, ("a",): {"x": 1, "result": 1}, ("b",): {"x": 2}}
        assert root._p_jar._registered_objects == []
        write(inline(), root, [ProcessResult(("b",), 3, {"x": 4})], commit_every=1)
        assert committed(db)[("b",)] == {"x": 4, "result": 3}


def test_a_savepoint_of_the_caller_stays_good() -> None:
    with database() as db:
        root = db.open_connection()
        transactions = root._p_jar.transaction_manager
        plant(root, {("first",): {}})
        savepoint = transactions.savepoint()
        plant(root, {("second",): {}})
        with pytest.raises(ResultError):
            write(mirror(), root, [[ProcessResult(("a",), 1)], None])
        write(mirror(), root, [[ProcessResult(("b",), 1)]])
        assert set(contents(root)) == {(), ("first",), ("second",), ("b",)}
        savepoint.rollback()
        assert set(contents(root)) == {(), ("first",)}


# Refused at once


def refused(target: Any, error: type[Exception], message: str, policy: Any = None, **options: Any) -> None:
    policy = mirror() if policy is None else policy
    source = Source([[ProcessResult(("a",), 1)]])
    with pytest.raises(error, match=message):
        write(policy, target, **options)
    with pytest.raises(error, match=message):
        write(policy, target, source, **options)
    assert source.pulled == 0
    assert issubclass(error, LotprocError)


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "if_exists": ({"if_exists": "overwrite"}, ArgumentError, "if_exists must be one of 'merge', .* got 'overwrite'"),
    "if_exists as None": ({"if_exists": None}, ArgumentError, "if_exists must be one of .* got None"),
    "policy": ({"policy": "inline"}, ArgumentTypeError, r"policy must be inline\(\.\.\.\), .* got str 'inline'"),
    "output_attribute": ({"output_attribute": 3}, ArgumentTypeError, "output_attribute must be a str or None, got int"),
    "commit_every 0": ({"commit_every": 0}, ArgumentError, "commit_every must be at least 1, got 0"),
    "commit_every -1": ({"commit_every": -1}, ArgumentError, "commit_every must be at least 1, got -1"),
    "commit_every 1.5": ({"commit_every": 1.5}, ArgumentTypeError, "commit_every must be a whole number, got float"),
    "commit_every True": ({"commit_every": True}, ArgumentTypeError, "commit_every must be a whole number, got bool"),
}


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_refused_at_once(case: str, persistent: bool) -> None:
    options, error, message = BAD_OPTIONS[case]
    with database() as db:
        refused(db.open_connection() if persistent else BaseNode("root"), error, message, **options)
        assert committed(db) == {(): {}}


def test_what_is_no_tree_is_refused_at_once() -> None:
    with database() as db:
        refused(db, ArgumentTypeError, r"write: .* got LOTDB .*open it first: root = db")
    for target in (None, "root", {}):
        refused(target, ArgumentTypeError, "write: expected a lotdb node, a DirectoryStore, an LmdbStore or an Archive")


def test_commit_every_on_a_tree_in_memory_is_refused_at_once() -> None:
    refused(BaseNode("mem").gn("child"), ArgumentError, "commit_every=5 needs a tree in a database", commit_every=5)


@pytest.mark.parametrize("commit_every", [None, 1])
def test_a_database_that_can_only_be_read_is_refused_at_once(tmp_path: Any, commit_every: int | None) -> None:
    LOTDB(path=str(tmp_path), name="test.fs", new=True).close()
    db = LOTDB(path=str(tmp_path), name="test.fs", read_only=True)
    try:
        root = db.open_connection()
        refused(root, ReadOnlyTreeError, "read-only; open the database without", commit_every=commit_every)
        assert contents(root) == {(): {}}
    finally:
        db.close()


@pytest.mark.parametrize("data", [None, 3, BaseNode("root"), ProcessResult(("a",))])
def test_results_that_are_no_iterable_are_refused(data: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="write: results must be an iterable"):
        write(mirror(), BaseNode("root"), data)


# Writing what is walked


def corpus(root: BaseNode, speakers: int, clips: int) -> list[Path]:
    wanted = [(f"s{s}", f"clip_{c}") for s in range(speakers) for c in range(clips)]
    plant(root, {path: {"x": i} for i, path in enumerate(wanted)})
    return wanted


@pytest.mark.parametrize(
    "policy", [inline("_proc", "sum"), inline(), mirror("zz_mirror"), mirror("_a"), mirror("_a", "b")]
)
@pytest.mark.parametrize("commit_every", [None, 1, 7])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_writing_into_the_tree_that_is_walked_visits_each_leaf_once(
    policy: Any, commit_every: int | None, size: int
) -> None:
    with database() as db:
        root = db.open_connection()
        wanted = corpus(root, 3, 5)
        db.commit()
        seen = []

        def work(record: NodeRecord) -> ProcessResult:
            seen.append(record.path)
            return ProcessResult(record.path, 2 * record.attributes["x"])

        records = chunked(size, snapshot("x", leaves(root)))
        report = write(policy, root, parallel_map(each(work), records, mode="sync"), commit_every=commit_every)
        assert seen == wanted
        assert report.written == len(wanted)
        db.commit()
        after = committed(db)
        for i, path in enumerate(wanted):
            assert after[policy(ProcessResult(path))]["result"] == 2 * i
            assert after[path]["x"] == i


@pytest.mark.parametrize("policy", [inline("_proc"), mirror("zz_mirror"), mirror("_a")])
@pytest.mark.parametrize("mode", ["sync", "thread"])
def test_writing_below_a_root_of_1000_children_visits_each_once(policy: Any, mode: str) -> None:
    with database(cache_size=200) as db:
        root = db.open_connection()
        wanted = [(f"clip_{i:04}",) for i in range(1_000)]
        plant(root, {path: {"x": 1} for path in wanted})
        db.commit()
        records = chunked(64, snapshot("x", leaves(root)))
        results = parallel_map(each(lambda r: ProcessResult(r.path, r.path)), records, mode=mode, max_workers=2)
        report = write(policy, root, results, commit_every=100)
        assert report.written == 1_000
        after = committed(db)
        assert sorted(values["result"] for values in after.values() if "result" in values) == wanted
        assert [after[policy(ProcessResult(path))] for path in wanted] == [{"result": path} for path in wanted]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("if_exists", ["merge", "replace", "skip"])
def test_an_inline_pipeline_run_twice_leaves_the_same_tree(persistent: bool, if_exists: str) -> None:
    with database() as db:
        root = db.open_connection() if persistent else BaseNode("root")
        wanted = corpus(root, 3, 4)

        def ranged(record: NodeRecord) -> ProcessResult:
            return ProcessResult(record.path, np.arange(record.attributes["x"]), {"from": record.key})

        def run() -> tuple[WriteReport, dict[Path, dict[str, bytes]]]:
            records = chunked(5, snapshot("x", leaves(root, skip="_*")))
            results = parallel_map(each(ranged), records, mode="sync")
            options: dict[str, Any] = {"commit_every": 6} if persistent else {}
            report = write(inline("_proc", "range"), root, results, if_exists=if_exists, **options)
            return report, in_bytes(committed(db) if persistent else contents(root))

        first, once = run()
        second, twice = run()
        assert once == twice
        assert len(once) == 1 + 3 + 3 * len(wanted)
        assert first.written == second.written + second.skipped == len(wanted)
        assert second.skipped == (len(wanted) if if_exists == "skip" else 0)


def test_a_run_that_changes_nothing_stores_nothing() -> None:
    results = [
        ProcessResult(("a",), {"n": [1, 2.5, None, "x"]}, {"b": b"b", "t": (1,), "array": np.arange(3)}),
        ProcessResult(("b",), float("nan"), {"zero": 0.0, "big-endian": np.arange(3, dtype=">i4")}),
    ]
    with database() as db:
        root = db.open_connection()
        write(mirror(), root, results)
        db.commit()
        db.minimize_cache()
        assert write(mirror(), root, results).written == 2
        assert root._p_jar._registered_objects == []
        changed = [ProcessResult(("b",), float("nan"), {"zero": -0.0})]
        write(mirror(), root, changed)
        db.commit()
        assert str(root.get_node("b").get_attribute("zero")) == "-0.0"
        write(mirror(), root, [ProcessResult(("b",), float("nan"), {"zero": 0})])
        db.commit()
        assert type(root.get_node("b").get_attribute("zero")) is int


@settings(max_examples=examples(30))
@given(
    stored=st.lists(st.integers(0, 3), max_size=2),
    then=st.lists(st.integers(0, 3), max_size=2),
    new=st.lists(st.integers(0, 3), max_size=2),
    others=st.sampled_from([0, 100]),
    is_saved=st.booleans(),
    commit_every=st.sampled_from([None, 1]),
)
def test_what_is_written_is_stored_whatever_was_changed_in_place(
    stored: list[int], then: list[int], new: list[int], others: int, is_saved: bool, commit_every: int | None
) -> None:
    """ZODB is not told of a list that changes, so what memory holds is not always what the database holds."""
    with database() as db:
        root = db.open_connection()
        node = root.gn("a")
        plant(root, {("a",): {f"{number:02}": [number] for number in range(others)}})
        node.set_attribute("result", list(stored))
        db.commit()
        if is_saved:
            root.gn("b")
            root._p_jar.transaction_manager.savepoint()
        node.get_attribute("result")[:] = then
        assert write(mirror(), root, [ProcessResult(("a",), list(new))], commit_every=commit_every).written == 1
        if not is_saved and commit_every is None:
            assert bool(root._p_jar._registered_objects) == (new != stored or new != then)
        db.commit()
        assert committed(db)[("a",)]["result"] == new
