"""Bulk writing: records written behind the connections are what plain lotdb would have written."""

from __future__ import annotations

import datetime
import errno
import gc
import io
import itertools
import os
import pathlib
import pickle
import pickletools
import re
import signal
import sys
import tempfile
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from typing import Any
from unittest import mock

import numpy as np
import pytest
import ZODB
from BTrees.check import check
from BTrees.OOBTree import OOBTree, OOBucket
from hypothesis import assume, example, given, settings, strategies as st
from lotdb import LOTDB, BaseNode
from lotdb.tree import DataNode
from persistent.mapping import PersistentMapping
from recording import Path, contents, database, examples
from transaction import TransactionManager
from trees import fast_ways, keys
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.FileStorage.FileStorage import FileStorageQuotaError
from ZODB.MappingStorage import MappingStorage
from ZODB.mvccadapter import MVCCAdapterInstance
from ZODB.POSException import ConflictError, POSKeyError
from ZODB.scripts import fsrefs, fstest

from lotproc import (
    ExistsError,
    LotprocError,
    NotPicklableError,
    ProcessResult,
    WriteReport,
    fresh,
    inline,
    mirror,
    write,
)
from lotproc.errors import UncommittedError
from lotproc.writing import (
    bulk as _bulk,
    conflicts as _conflicts,
    storable as _storable,
    stored_nodes as _stored_nodes,
)
from lotproc.zodb import appending as _appending, encoding as _encoding
from lotproc.zodb.pinned import pinned_in_thread
from lotproc.zodb.plain_buckets import PlainBucket
from lotproc.zodb.records import EMPTY_TREE, NotServed, UnusualRecord, children_or_parts, class_and_state, stored_node

pytestmark = [  # what is written in bulk, and how; `test_two_planes` holds the rest with and without
    fast_ways,
    pytest.mark.filterwarnings("ignore:.* is itself at"),  # paths at random may be those of results
]


class Special(BaseNode):
    """A node of a class of one's own."""


# --- The two planes -------------------------------------------------------------------------------------------------


class Served:
    """Counts what went through the record plane."""

    def __init__(self) -> None:
        self.transactions = 0
        self.records = 0


@contextmanager
def served() -> Iterator[Served]:
    count, store_new = Served(), _bulk.store_new

    def counted(storage: Any, records: Any, transaction: Any) -> None:
        count.transactions += 1
        count.records += len(records)
        store_new(storage, records, transaction)

    with mock.patch.object(_bulk, "store_new", counted):
        yield count


@contextmanager
def live_only() -> Iterator[Served]:
    def refuse(*_: Any, **__: Any) -> None:
        raise _bulk.NotServed

    with mock.patch.object(_conflicts, "Bulk", refuse):
        yield Served()


PLANES = {"records": served, "live": live_only}


@contextmanager
def no_live_nodes() -> Iterator[None]:
    """Nobody asks a live node for a child, made or not."""
    with mock.patch.object(BaseNode, "get_node", side_effect=AssertionError("a live node was asked")):
        yield


def shape(root: BaseNode) -> list[Any]:
    """All that can be seen of a tree, node by node."""
    found: list[Any] = []
    waiting: list[tuple[Path, BaseNode, BaseNode | None]] = [((), root, root.parent)]
    while waiting:
        path, node, parent = waiting.pop()
        assert node.parent is parent
        for tree in (node.node_storage, node.attribute_storage):
            check(tree)
            tree._check()
            assert type(tree) is OOBTree
        state = {name: value for name, value in vars(node).items() if not hasattr(value, "_p_oid")}
        attributes = [(name, in_bytes(value)) for name, value in node.attribute_storage.items()]
        found.append((path, type(node), state, attributes))
        for key, child in node.node_storage.items():
            assert type(key) is str
            assert child.key == key or path == ()
            waiting.append(((*path, key), child, node))
    return sorted(found, key=lambda node: node[0])


def in_bytes(value: Any) -> bytes:
    if hasattr(value, "_p_oid"):
        return pickle.dumps((type(value), dict(value)))
    return pickle.dumps(value)


def assert_sound(file: str) -> None:
    """ZODB's own checkers find nothing."""
    fstest.check(file)
    found = io.StringIO()
    with (
        closing(FileStorage(file, read_only=True)) as storage,
        mock.patch.object(fsrefs, "FileStorage", return_value=storage),
        redirect_stdout(found),
    ):
        fsrefs.main(file)
    assert found.getvalue() == ""


def file_of(db: LOTDB) -> str:
    return str(db.db.storage.getName())


# --- The same tree --------------------------------------------------------------------------------------------------

odd_text = st.text(max_size=5) | st.sampled_from(["\ud800", "a\x00b", "_parent", "node_storage", "é" * 300])
plain_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**90), 2**90),
    st.floats(),
    odd_text,
    st.binary(max_size=300),
)
shared = [1, "shared"]
values = st.one_of(
    plain_values,
    st.lists(plain_values, max_size=3),
    st.dictionaries(odd_text, plain_values, max_size=3),
    st.tuples(plain_values, plain_values),
    st.sampled_from(
        [
            *(np.arange(5), np.float32(2.5), np.zeros((2, 3)), np.array(["a", None], dtype=object), np.str_("text")),
            *(pathlib.PurePosixPath("a/b"), datetime.datetime(2024, 1, 2), [shared, shared], {1: shared}, 2**2000),
        ]
    ),
)
persistent_values = st.builds(lambda value: PersistentMapping(x=value), plain_values) | st.builds(
    lambda value: [OOBTree({"x": value})], plain_values
)
names = st.sampled_from(["x", "y", "é", "\ud800", ""]) | odd_text
some_attributes = st.dictionaries(names.filter(lambda name: name != "result"), values, max_size=3)
many_attributes = st.integers(28, 70).map(lambda count: {f"a{(i * 37) % 100:02}": i for i in range(count)})
few_keys = st.sampled_from(["a", "b", "_proc", "k1"])
paths = st.lists(few_keys | few_keys | keys | odd_text.filter(bool), max_size=4).map(tuple)
results = st.builds(
    ProcessResult,
    path=paths,
    output=values,
    attributes=st.one_of(some_attributes, some_attributes, many_attributes),
    relative_path=st.lists(few_keys, max_size=2).map(tuple),
    inputs=st.sampled_from([None, None, "in1", "in2"]),
)
persistent_results = st.builds(ProcessResult, path=paths, output=persistent_values)
wide_batches = st.builds(
    lambda path, numbers: [ProcessResult((*path, f"n{number:03}"), number) for number in numbers],
    paths,
    st.lists(st.integers(0, 400), max_size=80),
)
batches = st.lists(
    st.one_of(st.lists(results, max_size=5), wide_batches, st.lists(results | persistent_results, max_size=3)),
    max_size=5,
)
kinds = st.sampled_from([BaseNode, BaseNode, BaseNode, DataNode, Special])
existing_trees = st.lists(st.tuples(paths, kinds, some_attributes), max_size=6)
widths = st.dictionaries(paths, st.sampled_from([0, 0, 1, 29, 30, 31, 100]), max_size=2)
policies = st.builds(
    lambda make, base: make(*base), st.sampled_from([inline, mirror, fresh]), st.lists(few_keys, max_size=2)
)
words = st.sampled_from(["merge", "merge", "replace", "skip", "error"])


def plant(root: BaseNode, tree: list[Any], wide: dict[Path, int]) -> None:
    for path, kind, attributes in tree:
        node = root
        for key in path:
            if key not in node.node_storage:
                node.add_tree(kind(key))
            node = node.get_node(key)
        for name, value in attributes.items():
            node.set_attribute(name, value)
    for path, width in wide.items():
        node = root.get_node_path(path)
        for number in range(width):
            node.gn(f"n{3 * number:03}")


def attempted(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (LotprocError, ConflictError) as error:
        return type(error), str(error).split(" (oid")[0]


def changed_further(root: BaseNode) -> None:
    """What plain lotdb may do with the tree afterwards."""
    nodes = [root]
    for node in nodes:
        children = node.all_nodes()
        for number, child in enumerate(children):
            child.set_attribute("later", number)
            if number % 3 == 1:
                node.delete_node(child.key)
            elif number % 3 == 2:
                child.key = f"renamed {child.key}"
        for name in node.all_attribute_keys()[1::2]:
            node.delete_attribute(name)
        nodes += node.all_nodes()
        node.gn("new").gn("newer").set_attribute("x", 1)
        if len(nodes) > 200:
            break


def everything(plane: str, tree: Any, wide: Any, target: Path, do: Callable[[BaseNode], Any]) -> list[Any]:
    """What can be seen during the life of a database, from all sides."""
    with database() as db:
        root = db.open_connection()
        plant(root, tree, wide)
        root.get_node_path(target)
        db.commit()
        early = db.open_connection(connection_id="early")
        seen = [shape(early)]
        with PLANES[plane]():
            outcome = attempted(lambda: do(root.get_node_path(target)))
        seen += [outcome, shape(root)]
        assert shape(db.open_connection(connection_id="late")) == seen[-1]
        db.abort("early")
        assert shape(early) == seen[-1]
        assert_sound(file_of(db))
        changed_further(early)
        db.commit("early")
        db.abort()
        seen.append(shape(root))
        assert shape(early) == seen[-1]
        db.db.pack()
        db.db.cacheMinimize()
        assert shape(root) == seen[-1]
        assert_sound(file_of(db))
        seen.append(len(seen[-1]))
        objects = db.db.objectCount()
        db.db.pack()
        assert db.db.objectCount() == objects
        return seen


@settings(max_examples=examples(40))
@given(
    tree=existing_trees,
    wide=widths,
    target=st.just(()) | st.just(("a",)),
    found=batches,
    policy=policies,
    if_exists=words,
    version=st.none() | st.just("v1"),
    commit_every=st.sampled_from([1, 2, 5, 50, 1000]),
)
def test_both_planes_write_the_same_tree(
    tree: Any,
    wide: Any,
    target: Path,
    found: list[Any],
    policy: Any,
    if_exists: Any,
    version: str | None,
    commit_every: int,
) -> None:
    def do(root: BaseNode) -> Any:
        own = pickle.loads(pickle.dumps(found))  # persistent objects belong to one database
        return write(policy, root, own, if_exists=if_exists, version=version, commit_every=commit_every)

    assert everything("records", tree, wide, target, do) == everything("live", tree, wide, target, do)


COUNTS = [1, 29, 30, 31, 61, 120]


@pytest.mark.parametrize(("order", "there"), [("sorted", 0), ("sorted", 29), ("reversed", 31), ("mixed", 120)])
def test_wide_nodes(there: int, order: str) -> None:
    deep = order == "mixed"

    numbers = {"sorted": range(1000), "reversed": range(999, -1, -1), "mixed": [i * 381 % 1000 for i in range(1000)]}

    def do(root: BaseNode) -> Any:
        reports = []
        for count in COUNTS:
            path = ("wide",) if deep else ()
            found = [ProcessResult((*path, f"{count}", f"k{i:03}"), i) for i in numbers[order][:count]]
            found += [ProcessResult((*path, f"m{count}.{i:03}"), i) for i in numbers[order][:count]]
            reports.append(write(mirror(), root, found, commit_every=1000))
        return reports

    wide = {("wide",) if deep else (): there}
    assert everything("records", [], wide, (), do) == everything("live", [], wide, (), do)


@given(
    kinds=st.lists(st.sampled_from([BaseNode, BaseNode, DataNode, Special]), min_size=1, max_size=7),
    inner=st.integers(1, 9),
    left_out=st.integers(2, 9),
)
@example(kinds=[BaseNode], inner=9, left_out=9)
@settings(max_examples=6)
def test_results_below_nodes_that_are_read_ahead(kinds: list[type], inner: int, left_out: int) -> None:
    numbers = range(130)
    tree = [(("wide", f"n{number:03}"), kinds[number % len(kinds)], {"number": number}) for number in numbers]
    tree += [(("wide", f"n{number:03}", "below"), BaseNode, {}) for number in numbers if number % inner == 0]
    found = [ProcessResult(("wide", f"n{number:03}"), number) for number in numbers if number % left_out]
    ahead = []

    def do(root: BaseNode) -> Any:
        read_ahead = _stored_nodes.StoredNodes._read_ahead

        def watched(stored: _stored_nodes.StoredNodes, *args: Any) -> None:
            read_ahead(stored, *args)
            ahead.append(len(stored._ahead))

        with (
            mock.patch.object(_stored_nodes, "MANY", 20),
            mock.patch.object(_stored_nodes.StoredNodes, "_read_ahead", watched),
        ):
            return write(inline("_proc", "summary"), root, [[result] for result in found], commit_every=200)

    assert everything("records", tree, {}, (), do) == everything("live", tree, {}, (), do)
    if kinds == [BaseNode] and inner > 1:
        assert any(ahead)


@pytest.mark.parametrize("count", [29, 30, 31, 60, 61, 5000])
def test_nodes_with_many_attributes(count: int) -> None:
    def do(root: BaseNode) -> Any:
        attributes = {f"a{(i * 7919) % 10000:04}": [i, None, "x"][i % 3] for i in range(count - 1)}
        attributes["z"] = np.arange(3)
        return write(mirror(), root, [ProcessResult(("a",), 1, attributes), ProcessResult(("b",), 2)], commit_every=9)

    assert everything("records", [], {}, (), do) == everything("live", [], {}, (), do)


inner_values = st.one_of(
    st.lists(plain_values, max_size=2),
    st.dictionaries(odd_text, plain_values, max_size=2),
    st.sampled_from([(1, [2]), {1, 2}, np.arange(3), datetime.datetime(2024, 1, 2), pathlib.PurePosixPath("a")]),
)


@settings(max_examples=examples(40))
@given(once=inner_values, other=inner_values, more=st.sampled_from([0, 0, 27, 28, 60]))
def test_values_share_in_the_tree_what_they_shared_before(once: Any, other: Any, more: int) -> None:
    """Between attributes and output as well, as far as one record holds them."""

    def stored(plane: str) -> dict[str, bytes]:
        with database() as db:
            root = db.open_connection()
            filling = {f"m{number:02}": once if number % 7 == 0 else number for number in range(more)}
            attributes = {"a": once, "b": [once, other], "z": {"once": once}, **filling}
            with PLANES[plane]() as count:
                write(mirror(), root, [ProcessResult(("n",), (other, once), attributes)], commit_every=1)
            assert plane == "live" or count.transactions == 1
            found = dict(db.open_connection(connection_id="late").get_node("n").attribute_storage.items())
            kept = [(name, value is found["a"]) for name, value in found.items()]
            return {name: in_bytes(value) for name, value in found.items()} | {"": pickle.dumps(kept)}

    assert stored("records") == stored("live")
    if not more:
        with database() as db:
            write(mirror(), db.open_connection(), [ProcessResult(("n",), (other, once), {"a": once})], commit_every=1)
            node = db.open_connection(connection_id="late").get_node("n")
            assert node.get_attribute("result")[1] is node.get_attribute("a")


def test_plain_values_are_not_pickled_to_see_whether_they_can_be() -> None:
    with database() as db:
        root = db.open_connection()
        found = [
            ProcessResult((f"n{i}",), {"mean": i / 7, "all": [i, (i, "x")]}, {"y": np.arange(3)}) for i in range(9)
        ]
        with mock.patch.object(_storable, "zodb_pickle", None):
            write(mirror(), root, [found], commit_every=5)
            with pytest.raises(NotPicklableError):
                write(mirror(), root, [ProcessResult(("odd",), {1, 2})], commit_every=5)
        assert len(contents(root)) == 1 + len(found)


@pytest.mark.parametrize("plane", PLANES)
def test_an_array_whose_type_holds_what_can_not_be_pickled_is_refused_by_name(plane: str) -> None:
    odd = np.dtype("f8", metadata={"unit": lambda: "s"})
    for kind in (odd, np.dtype([("x", odd)])):
        with database() as db, PLANES[plane]():
            root = db.open_connection()
            with pytest.raises(NotPicklableError) as caught:
                write(
                    mirror(),
                    root,
                    [ProcessResult(("a",), 1), ProcessResult(("b",), [np.zeros(2, kind)])],
                    commit_every=9,
                )
            assert caught.value.path == ("b",)
            assert set(contents(root)) == {()}


def test_a_chain_of_nodes_is_written_in_one_pass() -> None:
    """Each below the one before it; no key is looked for that was there in the path before."""
    keys = [f"k{number}" for number in range(1_500)]
    chain = [[ProcessResult(tuple(keys[: depth + 1]), depth)] for depth in range(len(keys))]
    with database() as db:
        root = db.open_connection()
        steps = itertools.count()
        child = _stored_nodes.StoredNodes.child

        def counted(*args: Any) -> Any:
            next(steps)
            return child(*args)

        with served() as count, mock.patch.object(_stored_nodes.StoredNodes, "child", counted):
            assert write(mirror(), root, chain, commit_every=500).commits == count.transactions == 3
        assert next(steps) <= 3 * len(keys)
        node = db.open_connection(connection_id="late")
        for depth, key in enumerate(keys):
            (node,) = node.node_storage.values()
            assert (node.key, node.get_attribute("result")) == (key, depth)


def test_a_tree_of_several_levels_grows_at_all_ends() -> None:
    with database() as db:
        root = db.open_connection()
        wanted = set()
        for start, count in ((0, 8_000), (20_000, 500), (9_000, 300)):
            found = [(f"k{i:05}",) for i in range(start, start + count)]
            wanted.update(found)
            with served() as count_of, no_live_nodes():
                report = write(mirror(), root, map(ProcessResult, found), commit_every=1000)
            assert report.written == len(found)
            assert count_of.transactions == report.commits
        assert type(root.node_storage.__getstate__()[0][0]) is OOBTree
        late = db.open_connection(connection_id="late")
        assert {path for path, *_ in shape(late)} == {(), *wanted}
        assert shape(root) == shape(late)
        for (key,) in sorted(wanted)[::2]:
            root.delete_node(key)
        db.commit()
        shape(root)
        assert_sound(file_of(db))


# --- The record plane serves where it can ---------------------------------------------------------------------------


def inlined(count: int, start: int = 0) -> list[ProcessResult]:
    return [ProcessResult((f"s{i // 50}", f"clip_{i:03}"), i / 2, {"unit": "s"}) for i in range(start, start + count)]


@pytest.mark.parametrize("policy", [inline("_proc", "sum"), mirror("mirror"), fresh()])
@pytest.mark.parametrize("commit_every", [1, 7, 100, 10_000])
def test_new_nodes_are_made_without_live_ones(policy: Any, commit_every: int) -> None:
    with database() as db:
        root = db.open_connection()
        if policy != fresh():
            plant(root, [(result.path, BaseNode, {}) for result in inlined(120)], {})
            db.commit()
        with served() as count, no_live_nodes():
            report = write(policy, root, inlined(120), commit_every=commit_every)
        assert count.transactions == report.commits == -(-120 // commit_every)
        assert report == WriteReport(120, 0, report.commits, policy(inlined(120)[-1]))
        assert count.records >= 3 * 120
        assert root._p_jar._registered_objects == []
        for result in inlined(120):
            node = root.get_node_path(policy(result), create=False)
            assert dict(node.attribute_storage) == {"result": result.output, "unit": "s"}


def test_skipping_and_overwriting_what_waits_needs_no_live_nodes() -> None:
    with database() as db:
        root = db.open_connection()
        with served() as count, no_live_nodes():
            found = [ProcessResult(("a", "b"), 1, {"x": 1}), ProcessResult(("a", "b"), 2), ProcessResult(("a",), 3)]
            write(mirror("merge"), root, found, commit_every=9)
            write(mirror("replace"), root, found, commit_every=9, if_exists="replace")
            assert write(mirror("skip"), root, found, commit_every=9, if_exists="skip").skipped == 2
            assert write(mirror("skip"), root, found, commit_every=9, if_exists="skip").skipped == 3
            with pytest.raises(ExistsError, match="error/a/b is already there"):
                write(mirror("error"), root, found, commit_every=9, if_exists="error")
            with pytest.raises(ExistsError, match="skip/a is already there"):
                write(mirror("skip"), root, found[2:], commit_every=9, if_exists="error")
        assert count.transactions == 3
        assert contents(root) == {
            (): {},
            **{("merge",): {}, ("merge", "a"): {"result": 3}, ("merge", "a", "b"): {"x": 1, "result": 2}},
            **{("replace",): {}, ("replace", "a"): {"result": 3}, ("replace", "a", "b"): {"result": 2}},
            **{("skip",): {}, ("skip", "a"): {}, ("skip", "a", "b"): {"x": 1, "result": 1}},
        }


def test_what_is_skipped_over_and_over_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conflicts, "MOST_NODES", 20)
    with database() as db:
        root = db.open_connection()
        write(mirror(), root, inlined(200), commit_every=1000)
        sizes = []
        add = _bulk.Bulk.add

        def watched(bulk: _bulk.Bulk, planned: Any) -> bool:
            sizes.append(bulk.size)
            return add(bulk, planned)

        with mock.patch.object(_bulk.Bulk, "add", watched), served() as count:
            batches = ([result] for result in inlined(210))
            report = write(mirror(), root, batches, commit_every=1000, if_exists="skip")
        assert (report.written, report.skipped, report.commits) == (10, 200, 1)
        assert max(sizes) <= 23
        assert count.transactions <= 1
        assert len(contents(root)) == 1 + 5 + 210


def test_only_so_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conflicts, "MOST_WAITING", 50)
    monkeypatch.setattr(_conflicts, "SAVEPOINT_EVERY", 20)
    with database() as db:
        root = db.open_connection()
        for commit_every, serves in ((50, True), (51, False)):
            with served() as count:
                report = write(
                    mirror(f"{commit_every}"), root, ([each] for each in inlined(99)), commit_every=commit_every
                )
            assert (report.written, report.commits) == (99, 2)
            assert count.transactions == (2 if serves else 0)
        with served() as count:  # a single batch that is too much
            report = write(mirror("one"), root, [inlined(10), inlined(120)], commit_every=50)
        assert (report.written, report.commits, count.transactions) == (130, 1, 0)
        assert len(contents(root)) == 1 + 3 * 1 + (2 + 99) + (2 + 99) + (3 + 120)


def test_a_commit_is_one_transaction_with_what_the_caller_says_about_it() -> None:
    with database() as db:
        root = db.open_connection()
        transactions = root._p_jar.transaction_manager
        before = len(list(db.db.storage.iterator()))
        transactions.get().note("the first")
        transactions.get().setUser("ann")
        transactions.get().setExtendedInfo("run", 7)
        with served() as count:
            write(mirror(), root, inlined(20), commit_every=10)
            assert write(mirror(), root, [[], []], commit_every=10) == WriteReport()
        stored = list(db.db.storage.iterator())[before:]
        assert count.transactions == len(stored) == 2
        own = [{name: value for name, value in each.extension.items() if name != "lotproc"} for each in stored]
        said = b"write mirror(): 10 written"
        assert (stored[0].description, stored[0].user, own[0]) == (b"the first\n" + said, b"/ ann", {"run": 7})
        assert (stored[1].description, stored[1].user, own[1]) == (said, b"", {})


def test_results_show_from_the_commit_on() -> None:
    with database() as db:
        root = db.open_connection()
        seen = []

        def source() -> Iterator[list[ProcessResult]]:
            for start in range(0, 40, 10):
                seen.append(len(contents(root)) - 1)
                yield inlined(10, start)

        write(lambda result: result.path[1:], root, source(), commit_every=20)
        assert seen == [0, 0, 20, 20]


def test_no_file_stays_open_after_a_commit() -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, [(result.path, BaseNode, {}) for result in inlined(120)], {("wide",): 100})
        db.commit()
        held = []

        def watched(before: bytes, connection: Any) -> Any:
            pinned = pinned_in_thread(before, connection)
            held.append(weakref.ref(pinned))
            return pinned

        gc.collect()
        gc.disable()
        try:
            with mock.patch.object(_stored_nodes, "pinned_in_thread", watched):
                write(inline("_proc"), root, [inlined(60), inlined(60, 60)], commit_every=60)
                write(mirror("wide"), root, [inlined(60)], commit_every=60)
            assert [pinned() for pinned in held] == [None, None]
        finally:
            gc.enable()


def test_paths_go_as_deep_as_they_like() -> None:
    with database() as db:
        root = db.open_connection()
        path = tuple(f"n{i}" for i in range(3_000))
        with served() as count, no_live_nodes():
            write(mirror(), root, [ProcessResult(path, 1), ProcessResult((*path, "below"), 2)], commit_every=1)
        assert count.transactions == 2
        assert root.get_node_path([*path, "below"], create=False).get_attribute("result") == 2


# --- Where it can't, the live plane does ----------------------------------------------------------------------------


def uncommitted(root: BaseNode) -> None:
    root.gn("mine").set_attribute("x", 1)


def in_a_savepoint(root: BaseNode) -> None:
    uncommitted(root)
    root._p_jar.transaction_manager.savepoint()


def hooked(root: BaseNode) -> None:
    root._p_jar.transaction_manager.get().addBeforeCommitHook(lambda: uncommitted(root))


def joined(root: BaseNode) -> None:
    other = ZODB.DB(MappingStorage()).open(root._p_jar.transaction_manager)
    other.root.x = 1


HINDRANCES = {hinder.__name__: hinder for hinder in (uncommitted, in_a_savepoint, hooked, joined)}


@pytest.mark.parametrize("name", HINDRANCES)
def test_changes_of_others_in_the_transaction_are_committed_with_the_first_results(name: str) -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, [(("s0",), BaseNode, {})], {})
        db.commit()
        HINDRANCES[name](root)
        transactions = len(list(db.db.storage.iterator()))
        with served() as count:
            report = write(mirror(), root.get_node("s0"), ([each] for each in inlined(30)), commit_every=10)
        assert (report.written, report.commits) == (30, 3)
        assert count.transactions == 2
        assert len(list(db.db.storage.iterator())) == transactions + 3
        late = contents(db.open_connection(connection_id="late"))
        assert contents(root) == late
        assert (("mine",) in late) == (name != "joined")
        assert sum("result" in values for values in late.values()) == 30


@pytest.mark.parametrize("name", [*HINDRANCES, "commit", "abort"])
def test_a_source_may_use_the_connection(name: str) -> None:
    with database() as db:
        root = db.open_connection()

        def source() -> Iterator[list[ProcessResult]]:
            yield inlined(5)
            if name in HINDRANCES:
                HINDRANCES[name](root)
            else:
                other = db.open_connection(connection_id="other")
                other.gn("s0").gn("theirs")
                db.commit("other")
                getattr(db, name)()
            yield inlined(5, 5)

        report = write(mirror(), root, source(), commit_every=10)
        assert (report.written, report.commits) == (10, 1)
        late = contents(db.open_connection(connection_id="late"))
        assert sum("result" in values for values in late.values()) == 10
        assert name == "joined" or {("mine",), ("s0", "theirs")} & late.keys()


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("what", ["made", "gone", "another one", "moved"])
def test_a_source_that_changes_what_waits_is_told_so_and_nothing_is_left(what: str, commits: bool) -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, [(("a", "b"), BaseNode, {"x": 1})], {})
        db.commit()

        def source() -> Iterator[list[ProcessResult]]:
            yield [ProcessResult(("a", "b", "c"), 1)]
            if what == "made":
                root.gns(["a", "b", "c"]).set_attribute("result", 2)
            elif what == "moved":
                root.get_node_path(["a", "b"]).key = "d"
            else:
                root.get_node("a").delete_node("b")
            if what == "another one":
                root.gns(["a", "b"])
            if commits:
                db.commit()
            yield [ProcessResult(("d",), 1)]

        with (
            served() as count,
            pytest.raises(UncommittedError, match=r"the source of the results changed a/b") as raised,
        ):
            write(mirror(), root, source(), commit_every=9)
        assert count.transactions == 0
        assert raised.value.report == WriteReport()  # type: ignore[attr-defined]
        late = contents(db.open_connection(connection_id="late"))
        assert contents(root) == late
        assert (late == {(): {}, ("a",): {}, ("a", "b"): {"x": 1}}) == (not commits)
        assert ("d",) not in late


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("commit_every", [None, 9])
def test_a_source_that_aborts_takes_no_results_away_in_silence(commit_every: int | None, plane: str) -> None:
    with database() as db:
        root = db.open_connection()

        def source() -> Iterator[list[ProcessResult]]:
            yield [ProcessResult(("a",), 1)]
            db.abort()
            yield [ProcessResult(("b",), 2)]

        with PLANES[plane]():
            outcome = attempted(lambda: write(mirror(), root, source(), commit_every=commit_every))
        if commit_every is None:
            assert outcome[0] is UncommittedError
            assert "aborted the transaction, and 1 result with it" in outcome[1]
            assert contents(root) == {(): {}}
        else:
            assert outcome == WriteReport(2, 0, 1, ("b",))
            assert contents(root) == {(): {}, ("a",): {"result": 1}, ("b",): {"result": 2}}


def test_changes_that_a_source_made_are_undone_when_it_fails() -> None:
    with database() as db:
        root = db.open_connection()

        def source() -> Iterator[list[ProcessResult]]:
            yield inlined(5)
            uncommitted(root)
            yield inlined(5, 5)
            raise OSError("gone")

        with pytest.raises(OSError, match="gone"):
            write(mirror(), root, source(), commit_every=100)
        assert contents(root) == {(): {}}
        assert root._p_jar._registered_objects == []


VALUES: dict[str, Callable[[], Any]] = {
    "a persistent mapping": lambda: PersistentMapping(x=1),
    "a list with a BTree": lambda: [OOBTree({"x": 1})],
}


@pytest.mark.parametrize("name", VALUES)
def test_persistent_values_are_stored_as_objects_of_their_own(name: str) -> None:
    with database() as db:
        root = db.open_connection()
        with served() as count:
            found = [[ProcessResult(("a",), 1)], [ProcessResult(("b",), VALUES[name]())], [ProcessResult(("c",), 2)]]
            report = write(mirror(), root, found, commit_every=2)
        assert (report.written, report.commits, count.transactions) == (3, 2, 1)
        late = db.open_connection(connection_id="late")
        value = late.get_node("b").get_attribute("result")
        value = value[0] if isinstance(value, list) else value
        assert value._p_oid is not None
        assert value._p_jar is late._p_jar
        assert set(contents(late)) == {(), ("a",), ("b",), ("c",)}


def test_a_value_that_became_persistent_while_it_waited_is_stored_as_such() -> None:
    with database() as db:
        root = db.open_connection()
        value: list[Any] = [1]

        def source() -> Iterator[list[ProcessResult]]:
            yield [ProcessResult(("a",), value)]
            value.append(PersistentMapping(x=1))
            yield [ProcessResult(("b",), 2)]

        assert write(mirror(), root, source(), commit_every=2).written == 2
        late = db.open_connection(connection_id="late")
        assert late.get_node("a").get_attribute("result")[1]._p_jar is late._p_jar


@pytest.mark.parametrize("kind", [DataNode, Special])
@pytest.mark.parametrize("above", [True, False])
def test_below_and_beside_nodes_of_other_classes(kind: type, above: bool) -> None:
    with database() as db:
        root = db.open_connection()
        root.add_tree(kind("a"))
        root.gn("b")
        db.commit()
        with served() as count:
            write(inline("_proc"), root, [ProcessResult(("a" if above else "b",), 1)], commit_every=1)
            write(mirror("beside"), root, [ProcessResult((), 1)], commit_every=1)
        assert count.transactions == (2 if kind is DataNode or not above else 1)
        late = db.open_connection(connection_id="late")
        assert type(late.get_node("a")) is kind
        assert late.get_node_path(["a" if above else "b", "_proc"], create=False).get_attribute("result") == 1


def test_beside_nodes_of_a_class_that_is_gone(tmp_path: pathlib.Path) -> None:
    found = [ProcessResult((key, "new"), 1) for key in ("few", "many")]
    shapes = []
    for plane in PLANES:
        module = types.ModuleType("gone_for_a_while")
        kind = type("Gone", (BaseNode,), {"__module__": module.__name__})
        module.Gone = kind  # type: ignore[attr-defined]
        with mock.patch.dict(sys.modules, {module.__name__: module}):
            db = LOTDB(path=str(tmp_path), name=plane, new=True)
            root = db.open_connection()
            for key in ("few", "many"):
                root.gn(key).add_tree(kind("old"))
            for number in range(60):
                root.get_node("many").gn(f"n{number}")
            db.commit()
            db.close()
        db = LOTDB(path=str(tmp_path), name=plane)
        with PLANES[plane]():
            assert attempted(lambda db=db: write(mirror(), db.open_connection(), found, commit_every=10))
        db.close()
        with mock.patch.dict(sys.modules, {module.__name__: module}):
            db = LOTDB(path=str(tmp_path), name=plane)
            shapes.append([(path, kind.__name__, values) for path, kind, _, values in shape(db.open_connection())])
            db.close()
        assert_sound(str(tmp_path / plane))
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 3 + 60 + 2 + 2
    assert sum(kind == "Gone" for _, kind, _ in shapes[0]) == 2


def test_errors_name_what_can_not_be_stored_before_anything_of_the_batch_is_taken() -> None:
    with database() as db:
        root = db.open_connection()
        found = [[ProcessResult(("a",), 1)], [ProcessResult(("b",), 1), ProcessResult(("c",), lambda: 0)]]
        with served() as count, pytest.raises(NotPicklableError, match="attribute 'result' at c can't be stored"):
            write(mirror(), root, found, commit_every=1)
        assert count.transactions == 1
        assert contents(root) == {(): {}, ("a",): {"result": 1}}


def test_a_warning_about_large_records_is_given_as_ever() -> None:
    with database() as db:
        root = db.open_connection()
        root._p_jar.large_record_size = 1000
        with served() as count, pytest.warns(UserWarning, match=r"object you're saving is large"):
            write(mirror(), root, [ProcessResult(("a",), b"x" * 1000)], commit_every=1)
        assert count.transactions == 0
        assert contents(root)[("a",)] == {"result": b"x" * 1000}


# --- Conflicts ------------------------------------------------------------------------------------------------------


def wide_tree(root: BaseNode, width: int = 300) -> None:
    plant(root, [(("few", f"k{i}"), BaseNode, {"x": 1}) for i in range(3)], {("wide",): width, ("edge",): 30})


def delete_many(root: BaseNode) -> None:
    for key in root.get_node("wide").all_node_keys()[:70]:
        root.get_node("wide").delete_node(key)


def add_many(path: Path) -> Callable[[BaseNode], None]:
    return lambda root: plant(root, [((*path, f"o{i}"), BaseNode, {}) for i in range(50)], {})


OTHERS: dict[str, Callable[[BaseNode], Any]] = {
    "nothing": lambda root: None,
    "same node": lambda root: root.gns(["few", "k1", "_proc"]),
    "same node, wide": lambda root: root.gns(["wide", "n001"]),
    "other child of the same empty node": lambda root: root.gns(["few", "k1", "other"]),
    "other child of the same node": lambda root: root.gns(["few", "k7"]),
    "other leaf": lambda root: root.gns(["few", "k2", "_proc"]),
    "attribute of the leaf": lambda root: root.gns(["few", "k1"]).set_attribute("x", 2),
    "neighbour in the wide node": lambda root: root.gns(["wide", "n002"]),
    "far away in the wide node": lambda root: root.gns(["wide", "n296"]),
    "many in the wide node": add_many(("wide",)),
    "many gone from the wide node": delete_many,
    "one more at the edge": lambda root: root.gns(["edge", "o1"]),
    "many at the edge": add_many(("edge",)),
    "leaf deleted": lambda root: root.get_node("few").delete_node("k1"),
    "parent deleted": lambda root: root.delete_node("few"),
    "wide node deleted": lambda root: root.delete_node("wide"),
    "leaf renamed": lambda root: setattr(root.gns(["few", "k1"]), "key", "k9"),
}
MINE: dict[str, list[Path]] = {
    "below a leaf": [("few", "k1", "_proc")],
    "beside": [("few", "k5")],
    "much into the wide node": [("wide", f"n{3 * i + 1:03}") for i in range(70)],
    "at the edge": [("edge", "n001")],
    "elsewhere": [("elsewhere", "a")],
    "everywhere": [("few", "k1", "_proc"), ("few", "k5"), ("wide", "n001"), ("edge", "n001")],
}


@pytest.mark.parametrize(("mine", "tries"), [*((mine, 1) for mine in MINE), ("everywhere", 2)])
def test_changes_in_between_have_the_same_outcome(mine: str, tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one try they conflict, or not; where it is tried again, the results are applied to what is there then."""
    monkeypatch.setattr(_conflicts, "MOST_TRIES", tries)
    monkeypatch.setattr(_conflicts, "FIRST_PAUSE", 0)
    conflicts = {"records": 0, "live": 0}
    for other in OTHERS:
        outcomes = []
        for plane in PLANES:
            with database() as db:
                root = db.open_connection()
                wide_tree(root, 100)
                db.commit()
                theirs = db.open_connection(connection_id="theirs")

                def source(db: LOTDB = db, theirs: BaseNode = theirs, other: str = other) -> Iterator[Any]:
                    OTHERS[other](theirs)
                    db.commit("theirs")
                    yield [ProcessResult(path, 7) for path in MINE[mine]]

                before = contents(root)
                with PLANES[plane]() as count:
                    outcome = attempted(
                        lambda root=root, source=source: write(mirror(), root, source(), commit_every=99)
                    )
                if plane == "records" and tries == 1:
                    assert count.transactions == 1
                fresh_look = db.open_connection(connection_id="late")
                late, tree = shape(fresh_look), contents(fresh_look)
                assert contents(root) == tree
                db.commit("theirs")
                assert contents(theirs) == tree
                outcomes.append((outcome if isinstance(outcome, WriteReport) else outcome[0], late))
                if not isinstance(outcome, WriteReport):
                    conflicts[plane] += 1
                    assert issubclass(outcome[0], ConflictError)
                    assert not any(dict(node[3]).get("result") for node in late)
                elif other == "nothing":
                    assert len(late) > len(before)
                # the connection works and the storage is free
                write(mirror("again"), root, [ProcessResult(("a",), 1)], commit_every=1)
                root.gn("and by hand")
                db.commit()
                if plane == "records":
                    assert_sound(file_of(db))
        assert outcomes[0] == outcomes[1], other
    assert conflicts["records"] == conflicts["live"]
    merged = mine in ("elsewhere", "beside")  # BTrees merge new keys of one bucket
    assert (conflicts["records"] > 0) == (tries == 1 and not merged)


def test_no_more_results_than_may_be_held_are_applied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conflicts, "MOST_WAITING", 20)
    for count in (20, 21):
        with database() as db:
            root = db.open_connection()
            wide_tree(root, 3)
            db.commit()
            before = len(contents(root))
            theirs = db.open_connection(connection_id="theirs")

            def source(db: LOTDB = db, theirs: BaseNode = theirs, count: int = count) -> Iterator[Any]:
                yield [ProcessResult(("few", "k1", "_proc", f"{number}"), number) for number in range(count)]
                OTHERS["same node"](theirs)
                db.commit("theirs")

            outcome = attempted(lambda root=root, source=source: write(mirror(), root, source(), commit_every=99))
            assert isinstance(outcome, WriteReport) is (count == 20)
            assert len(contents(root)) == before + 1 + (20 if count == 20 else 0)


def packed_away(db: LOTDB, theirs: BaseNode, *paths: Path) -> None:
    for path in paths:
        theirs.get_node_path(path[:-1]).delete_node(path[-1])
    db.commit("theirs")
    db.db.pack()


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize("when", ["before the batches", "between them", "after them"])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("policy", [inline(), inline("_proc")])
def test_results_for_what_others_delete_and_pack_away_are_applied_to_what_is_there_then(
    policy: Any, plane: str, when: str, cold: bool
) -> None:
    with database() as db:
        root = db.open_connection()
        wide_tree(root)
        db.commit()
        if cold:
            root._p_jar.cacheMinimize()
        theirs = db.open_connection(connection_id="theirs")
        gone = (("few", "k1"), ("wide",))
        paths = [("few", "k1"), ("few", "k2"), *(("wide", f"n{3 * i:03}") for i in range(120))]

        def source() -> Iterator[list[ProcessResult]]:
            if when == "before the batches":
                packed_away(db, theirs, *gone)
            yield [ProcessResult(path, 7) for path in paths[:60]]
            if when == "between them":
                packed_away(db, theirs, *gone)
            yield [ProcessResult(path, 7) for path in paths[60:]]
            if when == "after them":
                packed_away(db, theirs, *gone)

        with PLANES[plane]():
            report = write(policy, root, source(), commit_every=1000)
        assert (report.written, report.commits) == (122, 1)
        late = contents(db.open_connection(connection_id="late"))
        assert contents(root) == late
        for path in paths:
            assert late[policy(ProcessResult(path))]["result"] == 7
        assert "x" not in late[("few", "k1")]
        assert_sound(file_of(db))


@pytest.mark.parametrize("plane", PLANES)
def test_what_is_really_lost_is_told_and_not_tried_again_and_again(plane: str) -> None:
    with database() as db:
        root = db.open_connection()
        wide_tree(root)
        db.commit()
        oid = root.get_node("few").node_storage._p_oid
        del db.db.storage._index[oid]
        root._p_jar.cacheMinimize()
        with PLANES[plane](), pytest.raises((POSKeyError, LotprocError)):
            write(mirror(), root, [ProcessResult(("few", "k1", "new"), 7)], commit_every=9)
        write(mirror(), root, [ProcessResult(("elsewhere",), 7)], commit_every=9)


@pytest.mark.parametrize("plane", PLANES)
def test_two_writers_into_one_wide_node_lose_nothing(plane: str) -> None:
    with database() as db:
        roots = [db.open_connection(connection_id=name) for name in "ab"]
        plant(roots[0], [], {("wide",): 200})
        db.commit("a")
        db.commit("b")
        first, second = ([[ProcessResult(("wide", f"n{3 * i + turn:03}"), i)] for i in range(60)] for turn in (1, 2))
        written = {()}
        for batches in zip(first, second, strict=True):
            for root, batch in zip(roots, batches, strict=True):
                with PLANES[plane]():
                    while True:
                        try:
                            write(mirror(), root, [batch], commit_every=1)
                            break
                        except ConflictError:
                            continue
                written.add(batch[0].path)
        late = contents(db.open_connection(connection_id="late"))
        assert {path for path, values in late.items() if "result" in values} == written - {()}
        assert len(late) == 2 + 200 + 120


# --- Crashes and failing storages -----------------------------------------------------------------------------------

PLACES: dict[str, tuple[Any, str]] = {
    "store": (FileStorage, "store"),
    "append": (_appending, "_append"),
    "store_new": (_bulk, "store_new"),
    "vote": (FileStorage, "tpc_vote"),
    "_finish": (FileStorage, "_finish"),
    "finish": (FileStorage, "tpc_finish"),
    "release": (MVCCAdapterInstance, "release"),
}


def write_and_be_killed(folder: str, place: str, call: int, when: str) -> None:
    """Write in a process of its own, which is killed before or after a call of a function."""
    db = LOTDB(path=folder, name="test.fs")
    root = db.open_connection()
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), itertools.count(1)

    def wrapped(*args: Any, **options: Any) -> Any:
        dies = next(calls) == call
        if dies and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **options)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)
    batches = ([ProcessResult((f"s{i}", f"c{j:02}"), i) for j in range(40)] for i in range(6))
    write(mirror(), root, batches, commit_every=80)


CRASHES = [
    *(
        (place, call, when)
        for place in ("vote", "_finish", "finish", "store_new")
        for call in (1, 2)
        for when in ("before", "after")
    ),
    *(("append", call, when) for call in (1, 2, 3, 4) for when in ("before", "after")),  # new records, and changed ones
    *(("store", call, when) for call in (1, 2, 3) for when in ("before", "after")),
    ("release", 2, "before"),
]


def assert_whole_batches(db: LOTDB, size: int, at_least: int = 0) -> int:
    """Each batch is there as a whole or not at all, in order; gives how many there are."""
    tree = contents(db.open_connection(connection_id="whole"))
    batches = {path[0] for path in tree if path}
    assert batches == {f"s{i}" for i in range(len(batches))}
    for batch in batches:
        values = [tree[path] for path in tree if path[:1] == (batch,) and len(path) == 2]
        assert values == [{"result": int(batch[1:])}] * size
    assert len(batches) >= at_least
    db.close_connection("whole")
    return len(batches)


@pytest.mark.parametrize(("place", "call", "when"), CRASHES)
def test_a_process_killed_at_any_point_leaves_whole_batches(
    tmp_path: pathlib.Path, place: str, call: int, when: str
) -> None:
    db = LOTDB(path=str(tmp_path), name="test.fs", new=True)
    db.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which pytest may have
        pid = os.fork()
    if pid == 0:
        try:
            write_and_be_killed(str(tmp_path), place, call, when)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    db = LOTDB(path=str(tmp_path), name="test.fs")
    commits = {"finish": call - (when == "before"), "release": call, "store": 0, "append": (call - 1) // 2}.get(
        place, call - 1
    )
    if place == "_finish" and when == "after":
        commits = call
    found = assert_whole_batches(db, 40)
    assert found == 2 * commits or place == "store"
    assert found % 2 == 0
    assert_sound(str(tmp_path / "test.fs"))
    root = db.open_connection()
    rest = ([ProcessResult((f"s{i}", f"c{j:02}"), i) for j in range(40)] for i in range(found, 6))
    write(mirror(), root, rest, commit_every=80)
    assert assert_whole_batches(db, 40) == 6
    db.close()
    assert_sound(str(tmp_path / "test.fs"))


@pytest.fixture(scope="module")
def cut_here() -> Iterator[tuple[bytes, list[int]]]:
    """The bytes of a database that was written in three transactions, and the places where these end."""
    with tempfile.TemporaryDirectory() as folder:
        db = LOTDB(path=folder, name="test.fs", new=True)
        root = db.open_connection()
        ends = [db.db.storage.getSize()]
        for number in range(3):
            with served() as count:
                write(
                    mirror(),
                    root,
                    [ProcessResult((f"s{number}", f"c{i:02}"), number) for i in range(40)],
                    commit_every=40,
                )
            assert count.transactions == 1
            ends.append(db.db.storage.getSize())
        db.close()
        yield pathlib.Path(folder, "test.fs").read_bytes(), ends


@settings(max_examples=examples(60))
@given(where=st.floats(0, 1), near=st.none() | st.tuples(st.integers(0, 3), st.integers(-60, 60)))
def test_a_file_cut_at_any_byte_holds_whole_batches(cut_here: Any, where: float, near: tuple[int, int] | None) -> None:
    data, ends = cut_here
    cut = ends[0] + int(where * (len(data) - ends[0])) if near is None else ends[near[0]] + near[1]
    cut = min(max(cut, ends[0]), len(data))
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "test.fs").write_bytes(data[:cut])
        db = LOTDB(path=folder, name="test.fs")
        assert assert_whole_batches(db, 40) == sum(end <= cut for end in ends) - 1
        write(mirror("more"), db.open_connection(), [ProcessResult(("a",), 1)], commit_every=1)
        db.close()
        assert_sound(os.path.join(folder, "test.fs"))


class Failing(FileStorage):
    """A FileStorage that fails when told to."""

    calls: dict[str, int]
    fail: tuple[str, int] | None = None

    def _step(self, name: str) -> None:
        if self.fail is not None and self.fail[0] == name:
            self.fail = (name, self.fail[1] - 1)
            if not self.fail[1]:
                self.fail = None
                raise OSError(errno.ENOSPC, "No space left on device")

    def store(self, *args: Any) -> Any:
        self._step("store")
        return super().store(*args)

    def tpc_vote(self, *args: Any) -> Any:
        self._step("vote")
        return super().tpc_vote(*args)

    def tpc_begin(self, *args: Any, **options: Any) -> Any:
        self._step("begin")
        return super().tpc_begin(*args, **options)


def tree_in(storage: Any) -> tuple[Any, BaseNode, TransactionManager]:
    db = ZODB.DB(storage)
    transactions = TransactionManager()
    connection = db.open(transactions)
    connection.root.stt = BaseNode("root")
    transactions.commit()
    return db, connection.root.stt, transactions


@pytest.mark.parametrize("where", [("store", 1), ("store", 50), ("store", 301), ("vote", 1), ("vote", 2), ("begin", 2)])
def test_a_full_disk_leaves_what_was_committed_and_a_connection_that_works(
    tmp_path: pathlib.Path, where: tuple[str, int]
) -> None:
    storage = Failing(str(tmp_path / "test.fs"))
    db, root, transactions = tree_in(storage)
    storage.fail = where
    batches = [[ProcessResult((f"s{i}", f"c{j}"), i) for j in range(40)] for i in range(4)]
    with served() as count, pytest.raises(OSError, match="No space left"):
        write(mirror(), root, batches, commit_every=80)
    committed = count.transactions - (where[0] != "begin")
    assert len(contents(root)) == 1 + 82 * committed
    root.gn("by hand")
    transactions.commit()
    assert write(mirror("again"), root, batches, commit_every=80).written == 160
    assert len(contents(db.open(TransactionManager()).root.stt)) == 2 + 82 * committed + 1 + 164
    db.close()
    assert_sound(str(tmp_path / "test.fs"))


def test_a_disk_that_gets_full_while_the_file_is_written() -> None:
    module = sys.modules[FileStorage.__module__]

    def half(source: Any, target: Any, length: int) -> None:
        target.write(source.read(length // 2))
        raise OSError(errno.ENOSPC, "No space left on device")

    with database() as db:
        root = db.open_connection()
        write(mirror(), root, inlined(10), commit_every=10)
        before = shape(root)
        with mock.patch.object(module, "cp", half), served() as count, pytest.raises(OSError, match="No space left"):
            write(mirror("lost"), root, inlined(40), commit_every=10)
        assert count.transactions == 1
        assert shape(root) == before
        root.gn("by hand")
        db.commit()
        write(mirror("again"), root, inlined(40), commit_every=10)
        assert len(shape(db.open_connection(connection_id="late"))) == len(before) + 1 + 42
        assert_sound(file_of(db))


def test_a_quota_holds(tmp_path: pathlib.Path) -> None:
    db, root, transactions = tree_in(FileStorage(str(tmp_path / "test.fs"), quota=100_000))
    with served() as count:
        write(mirror(), root, [[ProcessResult((f"c{i}",), i) for i in range(40)]], commit_every=40)
        with pytest.raises(FileStorageQuotaError):
            write(mirror("b"), root, [inlined(2_000)], commit_every=2_000)
    assert count.transactions == 2
    assert len(contents(root)) == 41
    root.gn("by hand")
    transactions.commit()
    db.close()
    assert os.path.getsize(tmp_path / "test.fs") < 100_000
    assert_sound(str(tmp_path / "test.fs"))


# --- Any storage ----------------------------------------------------------------------------------------------------

STORAGES: dict[str, Callable[[str], Any]] = {
    "memory": lambda file: MappingStorage(),
    "demo": lambda file: DemoStorage(),
    "demo over a file": lambda file: DemoStorage(base=FileStorage(file)),
    "file": FileStorage,
    "file with blobs": lambda file: FileStorage(file, blob_dir=f"{file}.blobs"),
    "a kind of file": Failing,
}


@pytest.mark.parametrize("name", STORAGES)
def test_any_storage_will_do(tmp_path: pathlib.Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conflicts, "MOST_TRIES", 1)
    shapes = []
    for plane in PLANES:
        db, root, _ = tree_in(STORAGES[name](str(tmp_path / f"{plane}.fs")))
        early = db.open(TransactionManager())
        assert len(shape(early.root.stt)) == 1
        with PLANES[plane]() as count:
            report = write(inline("_proc"), root, inlined(200), commit_every=70)
            report = write(inline("_proc", "x"), root, inlined(200), commit_every=70)
        assert count.transactions == (6 if plane == "records" else 0)
        assert report.commits == 3
        early.transaction_manager.abort()
        assert shape(early.root.stt) == shape(root)
        shapes.append(shape(root))

        def conflicting(early: Any = early) -> Iterator[list[ProcessResult]]:
            early.root.stt.gns(["s0", "clip_000", "y"])
            early.transaction_manager.commit()
            yield [ProcessResult(("s0", "clip_000", "y"), 1)]

        with pytest.raises(ConflictError):
            write(mirror(), root, conflicting(), commit_every=1)
        write(mirror("again"), root, inlined(3), commit_every=1)
        shapes.append(shape(root))
        db.close()
    assert shapes[:2] == shapes[2:]


def test_a_connection_of_another_transaction_mode_is_served_as_ever() -> None:
    db = ZODB.DB(MappingStorage())
    connection = db.open()  # the transaction manager of the thread
    connection.root.stt = BaseNode("root")
    connection.transaction_manager.commit()
    with served() as count:
        write(mirror(), connection.root.stt, inlined(10), commit_every=5)
    assert count.transactions == 2
    assert len(contents(connection.root.stt)) == 12
    connection.close()
    db.close()


# --- Records --------------------------------------------------------------------------------------------------------


@settings(max_examples=examples(60))
@given(key=odd_text.filter(bool) | keys, attributes=st.dictionaries(odd_text, values, max_size=4), below=paths)
@pytest.mark.parametrize("kind", [BaseNode, DataNode])
def test_a_record_is_what_zodb_makes_of_the_node(kind: type, key: str, attributes: dict[str, Any], below: Path) -> None:
    db, root, transactions = tree_in(MappingStorage())
    parent = root.add_tree(kind("parent"))
    node = parent.gn(key)
    for name, value in attributes.items():
        node.set_attribute(name, value)
    for child in below:
        node.gn(child)
    transactions.commit()
    oids = [each._p_oid for each in (parent, node, node.node_storage, node.attribute_storage)]
    stored = [db.storage.loadBefore(oid, b"\x7f" + b"\xff" * 7)[0] for oid in oids]
    encode = _encoding.new_node_encoder(kind)
    ours = encode(oids[0], key, oids[2], oids[3])
    assert class_and_state(ours) == class_and_state(stored[1])
    assert ours == stored[1] or key in vars(node)  # a string that is there twice is stored once
    assert _encoding.read_node(ours) == (BaseNode, oids[2])
    assert _encoding.read_node(stored[1]) == (BaseNode, oids[2])
    assert _encoding.read_node(stored[0]) == (kind, parent.node_storage._p_oid)
    children = {name: (child._p_oid, BaseNode) for name, child in node.node_storage.items()}
    ours = _encoding.tree_record(children) if children else EMPTY_TREE
    assert class_and_state(ours) == class_and_state(stored[2])
    assert (stored[2] == EMPTY_TREE) == (not below)
    kind_of, state = class_and_state(_encoding.attributes_record(attributes))
    assert kind_of is OOBTree
    assert pickle.dumps(state) == pickle.dumps(class_and_state(stored[3])[1])
    db.close()


plain_keys = st.text("CX ~a0", min_size=1, max_size=4)
odd_keys = plain_keys | st.sampled_from(["é", "k" * 255, "k" * 256, "new\nline"])


def bucket_record(children: dict[str, tuple[bytes, type]], following: bytes | None) -> bytes:
    bucket, after = OOBucket(children), OOBucket()
    if following is not None:
        bucket.__setstate__((bucket.__getstate__()[0], after))
    return _encoding.part_record(bucket, lambda part: (following, type(part)), _encoding.encoded_children)


@settings(max_examples=examples(100))
@given(
    children=st.dictionaries(odd_keys, st.binary(min_size=8, max_size=8), min_size=1, max_size=30),
    data=st.data(),
    kind=st.sampled_from([BaseNode, BaseNode, DataNode]),
    following=st.none() | st.binary(min_size=8, max_size=8),
)
def test_a_bucket_with_more_children_is_what_part_record_makes_of_it(
    children: dict[str, bytes], data: Any, kind: type, following: bytes | None
) -> None:
    new = set(data.draw(st.lists(st.sampled_from(sorted(children)), max_size=3)))
    every = {key: (oid, kind) for key, oid in children.items()}
    there = {key: child for key, child in every.items() if key not in new}
    assume(there)
    plain = PlainBucket.of(bucket_record(there, following))
    is_plain = all(re.fullmatch("[ -~]{1,255}", key) for key in there) and kind is BaseNode
    assert (plain is not None) == is_plain
    if plain is not None:
        assert dict(plain.items()) == there
        assert {key: plain.get(key) for key in every} == {**dict.fromkeys(every), **there}
        record = plain.record_with({key: every[key] for key in new})
        can_be = all(re.fullmatch("[ -~]{1,255}", key) for key in new)
        assert record == (bucket_record(every, following) if can_be else None)


def test_a_bucket_that_would_split_takes_objects() -> None:
    children = {f"k{number:02}": (bytes([number] * 8), BaseNode) for number in range(31)}
    last = {"k30": children.pop("k30")}
    plain = PlainBucket.of(bucket_record(children, None))
    assert plain is not None
    assert plain.record_with(last) is None
    assert plain.record_with({}) == bucket_record(children, None)


@pytest.mark.parametrize("following", [None, b"n" * 8])
def test_a_bucket_with_any_other_byte_is_read_as_it_is_or_not_as_a_plain_one(following: bytes | None) -> None:
    record = bucket_record({f"k{number}": (bytes([7 + number] * 8), BaseNode) for number in range(2)}, following)
    assert PlainBucket.of(record) is not None
    assert PlainBucket.of(record + b".") is None
    for at, byte in itertools.product(range(len(record)), range(256)):
        changed = record[:at] + bytes([byte]) + record[at + 1 :]
        plain = PlainBucket.of(changed)
        if plain is not None:
            kind, (items, *_) = class_and_state(changed)
            assert kind is OOBucket
            assert list(plain.items()) == list(zip(items[::2], items[1::2], strict=True))
            assert children_or_parts(changed)  # which looks at the order


@pytest.mark.parametrize("deep", [False, True])
def test_results_in_no_order_go_into_a_wide_node_commit_by_commit(deep: bool) -> None:
    above = ("wide",) if deep else ()

    def do(root: BaseNode) -> Any:
        found = [ProcessResult((*above, f"n{i * 381 % 1000:03}"), i) for i in range(600)]
        found += [ProcessResult((*above, f"é{i}" if i % 3 else "k" * (200 + i)), i) for i in range(100)]
        return write(mirror(), root, found, commit_every=40, if_exists="skip", version="v1")

    wide = {above: 100}
    assert everything("records", [], wide, (), do) == everything("live", [], wide, (), do)


@pytest.mark.parametrize("plain", [True, False])
def test_buckets_split_alike_whether_they_are_changed_as_text_or_as_objects(plain: bool) -> None:
    with database() as db, mock.patch.object(PlainBucket, "of", PlainBucket.of if plain else lambda record: None):
        root = db.open_connection()
        for turn in range(12):
            found = [ProcessResult((f"n{i * 381 % 1000:03}",), i) for i in range(turn * 40, turn * 40 + 40)]
            write(mirror(), root, found, commit_every=100)
        expected: Any = OOBTree()
        for turn in range(12):
            expected.update({f"n{i * 381 % 1000:03}": i for i in range(turn * 40, turn * 40 + 40)})
        parts = [list(part) for part in root.node_storage.__getstate__()[0][::2]]
        assert parts == [list(part) for part in expected.__getstate__()[0][::2]]


def numbers_in_billions(data: bytes) -> bool:
    """Whether a pickle numbers an object so high that the unpickler would take gigabytes to make room."""
    stream = io.BytesIO(data)
    try:
        for _ in ("class", "state"):
            for operation, argument, _ in pickletools.genops(stream):
                if "PUT" in operation.name and int(argument) > 1000:
                    return True
    except Exception:  # where the unpickler will stop, too
        pass
    return False


@settings(max_examples=examples(200))
@given(at=st.integers(0, 1000), byte=st.integers(0, 255))
def test_a_node_is_read_as_it_is_or_not_at_all(at: int, byte: int) -> None:
    data = bytearray(_encoding.new_node_encoder(BaseNode)(b"p" * 8, "\x00" * 3, b"c" * 8, b"a" * 8))
    right = _encoding.read_node(bytes(data))
    data[at % len(data)] = byte
    assume(not numbers_in_billions(bytes(data)))
    assume(data.count(b"\x00" * 3 + b"q\x06"))  # the key is nobody's business here
    try:
        node = stored_node(bytes(data), of_any_class=True)
        expected = (node.kind, node.children) if node.kind in _encoding.KNOWN else None
    except UnusualRecord:
        expected = None
    try:
        found = _encoding.read_node(bytes(data))
    except NotServed:
        found = None
    assert right == (BaseNode, b"c" * 8)
    assert found == expected


def test_records_are_stored_one_by_one_where_a_file_is_not_written_as_known() -> None:
    with database() as db:
        root = db.open_connection()
        with mock.patch.object(_appending, "_HEADER", _appending.Struct("<8s8sQQHQ")), served() as count:
            write(mirror(), root, inlined(50), commit_every=50)
        assert count.transactions == 1
        assert len(shape(db.open_connection(connection_id="late"))) == 52
        assert shape(root)
        assert_sound(file_of(db))


def test_ids_are_never_given_twice() -> None:
    with database() as db:
        instance = db.db._mvcc_storage.new_instance()
        given_out = list(
            itertools.chain.from_iterable(
                [*_appending.new_oids(instance, count), instance.new_oid()] for count in (1, 2, 255, 256, 300, 70_000)
            )
        )
        assert len(set(given_out)) == len(given_out)
        assert given_out == sorted(given_out)
        instance.release()
