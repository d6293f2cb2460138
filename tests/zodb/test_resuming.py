"""`pending` keeps what has no result yet, as a plain look into the tree would tell; `retry_failed` what failed."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from BTrees.OOBTree import OOBTree
from hypothesis import given, settings, strategies as st
from lotdb import LOTDB, BaseNode, PathFileObj
from recording import Source, examples
from test_scanning import KINDS, kinds, storage_of
from toolz import compose_left, pipe
from trees import (
    AnyStorage,
    Planned,
    chain_of,
    commit,
    exactly,
    fast_ways,
    grow,
    opened,
    planned_trees,
    plant,
    stored,
    trees,
    unsaved,
)
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

import lotproc as lp
from lotproc import _windows, resuming
from lotproc._stamps import DIGEST, INPUTS, VERSION, inputs_stamp
from lotproc.models import Failure
from lotproc.resuming import pending, retry_failed
from lotproc.writing.ledger import Ledger
from lotproc.zodb import lookup as _lookup

#: Some names here are those of no node, on purpose; what is told of them is held by `test_missing_names`.
pytestmark = pytest.mark.filterwarnings("ignore:.* no node had an attribute")

NodePath = tuple[str, ...]
Policy = Callable[[lp.ProcessResult], NodePath]
numbers = itertools.count()


def inputs_digest(name: str, path: NodePath, attributes: Any) -> str:
    """The part of a stamp that counts values, without the files behind them."""
    return inputs_stamp(name, path, attributes)[:DIGEST]


# --- The oracle -----------------------------------------------------------------------------------------------------


def beside(result: lp.ProcessResult) -> NodePath:
    """A policy of the user's own, with a result beside the node."""
    return (*result.path[:-1], "out", *result.path[-1:], "x")


beside.starts_at_top = True  # type: ignore[attr-defined]


def anew(result: lp.ProcessResult) -> NodePath:
    """One for a tree of its own."""
    return ("new", *result.path)


POLICIES: list[Policy] = [
    *(
        lp.inline(),
        lp.inline("_proc"),
        lp.inline("_proc", "summary"),
        lp.mirror(),
        lp.mirror("out"),
        lp.fresh("a", "b"),
    ),
    *(beside, anew),
]


def left(
    policy: Policy,
    root: BaseNode,
    items: Iterable[Any],
    version: str | None = None,
    inputs: bool = False,
    invert: bool = False,
) -> list[Any]:
    """What `pending` has to give."""
    top = root
    while getattr(policy, "starts_at_top", False) and top.parent is not None:
        top = top.parent
    kept = []
    for item in items:
        found: BaseNode | None = top
        for key in policy(lp.ProcessResult(path_of(item))):
            found = None if found is None else found.node_storage.get(key)
        stamp = inputs_stamp("test", path_of(item), item.attributes) if inputs else None
        done = (
            found is not None
            and (len(found.attribute_storage) > 0 or len(found.node_storage) == 0 or inputs or version is not None)
            and (version is None or _same(found.attribute_storage.get(VERSION), version))
            and (
                stamp is None
                or _same(found.attribute_storage.get(INPUTS), stamp)
                or _same(found.attribute_storage.get(INPUTS), stamp.partition(".")[0])
            )
        )
        if done == invert:
            kept.append(replace(item, inputs=stamp) if inputs else item)
    return kept


def _same(value: Any, stamp: str) -> bool:
    return isinstance(value, str) and value == stamp


def told(items: Iterable[Any]) -> list[Any]:
    """Items that can be compared to the last bit."""
    return [(exactly(item), item.inputs) if isinstance(item, lp.NodeRecord) else item for item in items]


def path_of(item: Any) -> NodePath:
    return tuple(item.gps()) if isinstance(item, BaseNode) else item.path


SOURCES: dict[str, Callable[[BaseNode], list[Any]]] = {
    "leaves": lambda root: list(lp.leaves(root, skip="_*")),
    "walk": lambda root: list(lp.walk(root)),
    "snapshot": lambda root: list(lp.snapshot(("a", "b"), lp.leaves(root, skip="_*"))),
    "scan": lambda root: list(lp.scan(("a", "b"), root, skip="_*", uncommitted="ignore")),
}


def check(root: BaseNode, policy: Policy, version: str | None, inputs: bool) -> None:
    """`pending` is the oracle for every source of items, and changes nothing."""
    is_stored = root._p_jar is not None
    before = unsaved(root) if is_stored else []
    for name, source in SOURCES.items():
        if (is_stored or name != "scan") and not (inputs and name in ("leaves", "walk")):
            items = source(root)
            wanted = left(policy, root, items, version, inputs)
            found = list(pending(policy, root, iter(items), version=version, inputs=inputs))
            assert told(found) == told(wanted), name
            wanted = left(policy, root, items, version, inputs, invert=True)
            found = list(pending(policy, root, iter(items), version=version, inputs=inputs, invert=True))
            assert told(found) == told(wanted), name
    if is_stored:
        assert list(map(id, unsaved(root))) == list(map(id, before))


# --- The law --------------------------------------------------------------------------------------------------------

versions = st.sampled_from(["v1", "v1", "v1", "v2", "", "_version", 1, None, b"v1", ...])
inputs_stamps = st.sampled_from(
    ["right", "right", "values", "0" * 32, "other values", "other files", "short", None, ...]
)
more = st.sampled_from(
    [
        {},
        {"result": 0.5},
        {"result": 0.5},
        {"A": 1, "result": [1, "v1"]},
        {"_a": "v1"},
        {"__a": {"_version": "v1"}},
        {"A" * 300: "x", "z": None},
        {f"n{number}": number for number in range(70)},
        {f"A{number}": number for number in range(70)},
    ]
)


@st.composite
def stamps(draw: st.DrawFn) -> dict[str, Any]:
    """The attributes of a result, some of which may be stamps; `...` stands for those that are left out."""
    attributes = {VERSION: draw(versions), INPUTS: draw(inputs_stamps), **draw(more)}
    return {name: value for name, value in attributes.items() if value is not ...}


def stamp_like(kind: Any, record: lp.NodeRecord) -> Any:
    """The stamp of a record, with its files or without, or one that is like it and differs."""
    stamp = inputs_stamp("test", record.path, record.attributes)
    values = inputs_digest("test", record.path, record.attributes)
    files = stamp[len(values) :] or "." + "2" * 32
    stamps = {
        "right": stamp,
        "values": values,
        "other values": "1" * 32 + files,
        "other files": values + "." + "3" * 32,
    }
    return stamps.get(kind, kind)


def results_of(data: st.DataObject, records: list[lp.NodeRecord]) -> list[lp.ProcessResult]:
    """Results of some of the records."""
    results = []
    for record in records:
        attributes = data.draw(st.none() | stamps())
        if attributes is not None:
            if INPUTS in attributes:
                attributes[INPUTS] = stamp_like(attributes[INPUTS], record)
            results.append(lp.ProcessResult(record.path, attributes=attributes))
    return results


def write_live(policy: Policy, root: BaseNode, results: list[lp.ProcessResult]) -> None:
    """Make the nodes of results with nothing but lotdb."""
    top = root
    while getattr(policy, "starts_at_top", False) and top.parent is not None:
        top = top.parent
    for result in results:
        node = top.get_node_path(policy(result))
        for name, value in result.attributes.items():
            node.set_attribute(name, value)


@pytest.fixture(scope="module", params=["file", "any", "prefetching", "memory"])
def anywhere(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    """The root of a tree in memory, or in a storage of each kind."""
    if request.param == "memory":
        yield BaseNode("root")
    else:
        with opened(storage_of(request.param, tmp_path_factory.mktemp("storage"))) as root:
            yield root


@given(planned=planned_trees(kinds), policy=st.sampled_from(POLICIES), data=st.data())
def test_pending_is_what_a_look_into_the_tree_tells(
    anywhere: BaseNode, planned: Planned, policy: Policy, data: st.DataObject
) -> None:
    is_stored = anywhere._p_jar is not None
    if is_stored:
        anywhere._p_jar.transaction_manager.abort()  # what a failed example left
    root = grow(anywhere, f"example {next(numbers)}", planned)
    if is_stored:
        commit(anywhere)
    root = anywhere.node_storage[root._key]
    version = data.draw(st.sampled_from(["v1", "v1", "_version", None]))
    inputs = data.draw(st.booleans())
    with (
        patch.object(_windows, "FIRST_WINDOW", data.draw(st.sampled_from([1, 3, 16]))),
        patch.object(_lookup, "FEW", data.draw(st.sampled_from([0, 6]))),
        patch.object(_lookup, "MOST_HELD", data.draw(st.sampled_from([0, 50_000]))),
    ):
        check(root, policy, version, inputs)
        results = results_of(data, list(lp.snapshot(("a", "b"), lp.leaves(root, skip="_*"))))
        if is_stored and data.draw(st.booleans()):
            lp.write(policy, root, results, output_attribute=None, commit_every=1000)
        else:
            write_live(policy, root, results)
        if is_stored:
            check(root, policy, version, inputs)  # with changes that are not committed, if it was written live
            commit(root)
        check(root, policy, version, inputs)
        write_live(policy, root, results_of(data, list(lp.snapshot(("a", "b"), lp.leaves(root, skip="_*")))))
        check(root, policy, version, inputs)


few_keys = st.sampled_from(["a", "b", "_p"])
few_paths = st.lists(few_keys, min_size=1, max_size=3).map(tuple)


@given(
    results=st.lists(st.tuples(few_paths, st.lists(few_keys, max_size=2).map(tuple)), max_size=6),
    paths=st.lists(few_paths, min_size=1, max_size=8),
    policy=st.sampled_from([lp.inline("_p"), lp.inline("_p", "f"), lp.mirror("out")]),
)
@pytest.mark.filterwarnings("ignore:.* is itself at")
def test_a_tree_and_a_store_agree_on_what_is_pending(
    anywhere: BaseNode, results: list[tuple[NodePath, NodePath]], paths: list[NodePath], policy: Policy
) -> None:
    written = [lp.ProcessResult(path, output=1, relative_path=relative) for path, relative in results]
    top = f"example {next(numbers)}"
    below = [replace(result, path=(top, *result.path)) for result in written]
    records = [lp.NodeRecord((top, *path), path[-1]) for path in paths]
    is_stored = anywhere._p_jar is not None
    with tempfile.TemporaryDirectory() as folder, lp.DirectoryStore(folder) as store:
        lp.write(policy, store, below)
        expected = list(pending(policy, store, records))
        lp.write(policy, anywhere, below)
        assert list(pending(policy, anywhere, records)) == expected  # through live nodes
        if is_stored:
            commit(anywhere)
            with patch.object(_lookup, "FEW", 0):
                assert list(pending(policy, anywhere, records)) == expected


def test_one_result_of_several_does_not_make_a_record_done(anywhere: BaseNode) -> None:
    key = f"windows {next(numbers)}"
    anywhere.gn(key).gn("clip")
    record = lp.NodeRecord((key, "clip"), "clip")
    for number in range(2):
        result = lp.ProcessResult(record.path, output=1, relative_path=(f"w{number}",))
        lp.write(lp.inline("_p"), anywhere, [result])
        if anywhere._p_jar is not None:
            commit(anywhere)
        assert list(pending(lp.inline("_p"), anywhere, [record])) == [record]
        assert lp.status(lp.inline("_p"), anywhere, [record]).new == 1
        assert list(pending(lp.inline("_p", f"w{number}"), anywhere, [record])) == []


def test_a_result_is_pending_again_when_a_file_behind_its_record_changes(anywhere: BaseNode, tmp_path: Path) -> None:
    root = anywhere.gn(f"files {next(numbers)}")
    files = [tmp_path / name for name in "abcde"]
    for file in files:
        file.write_text("one")
        root.gn(file.name).set_attribute("file", [PathFileObj(filepath=str(file))])
    if root._p_jar is not None:
        commit(root)
    names = [file.name for file in files]

    def run(**options: Any) -> list[str]:
        records = lp.snapshot("file", lp.leaves(root, skip="_*"))
        todo = list(pending(lp.inline("_n"), root, records, version="1", inputs=True))
        results = [lp.ProcessResult(record.path, 1, inputs=record.inputs) for record in todo]
        lp.write(lp.inline("_n"), root, results, version="1", **options)
        if root._p_jar is not None:
            commit(root)
        return [record.key for record in todo]

    assert run() == names
    assert run() == []
    files[0].write_text("longer")
    os.utime(files[1], ns=(1, 1))
    files[2].unlink()
    files[3].touch()
    os.utime(files[3], ns=(2, 2))
    assert run() == ["a", "b", "c", "d"]
    assert run() == []  # what was missing is missing still
    files[2].write_text("again")
    assert run() == ["c"]
    stamp = root.gn("e").gn("_n").get_attribute(INPUTS)
    root.gn("e").gn("_n").set_attribute(INPUTS, stamp.partition(".")[0])  # as it was before there were files in it
    root.gn("a").gn("_n").set_attribute(INPUTS, "0" * 32)
    if root._p_jar is not None:
        commit(root)
    files[4].write_text("no one knows")
    assert run() == ["a"]


def test_results_in_a_store_are_pending_again_when_a_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    records = [lp.NodeRecord(("a",), "a", {"file": file}), lp.NodeRecord(("b",), "b", {"file": None})]
    with lp.DirectoryStore(tmp_path / "store") as store:

        def run() -> list[str]:
            todo = list(pending(lp.mirror(), store, records, inputs=True))
            lp.write(lp.mirror(), store, [lp.ProcessResult(item.path, 1, inputs=item.inputs) for item in todo])
            return [item.key for item in todo]

        assert run() == ["a", "b"]
        assert run() == []
        file.write_text("longer")
        assert run() == ["a"]
        old = replace(records[0], inputs=inputs_digest("test", (), records[0].attributes))
        lp.write(lp.mirror(), store, [lp.ProcessResult(old.path, 1, inputs=old.inputs)], if_exists="replace")
        assert run() == []


@pytest.mark.filterwarnings("ignore:.* is itself at")
@given(
    tree=trees,
    policy=st.sampled_from(POLICIES),
    n=st.integers(1, 4),
    at_top=st.booleans(),
    inputs=st.booleans(),
    data=st.data(),
)
def test_partitions_are_looked_up_where_they_lie(
    in_file: BaseNode, tree: Any, policy: Policy, n: int, at_top: bool, inputs: bool, data: st.DataObject
) -> None:
    in_file._p_jar.transaction_manager.abort()
    example = in_file.gn(f"example {next(numbers)}")
    plant(example, {"top": tree})
    commit(in_file)
    root = example if at_top else example.node_storage["top"]
    names = ("depth", "even")
    records = list(lp.scan(names, root))
    lp.write(policy, root, results_of(data, records), output_attribute=None, commit_every=1000)
    wanted = told(left(policy, root, lp.scan(names, root, skip="_*"), "v1", inputs))
    found = []
    for part in lp.partitions(n, root, skip="_*"):
        work = compose_left(lp.scan(names, skip="_*"), pending(policy, part, version="v1", inputs=inputs), list)
        found += pickle.loads(pickle.dumps(work))(part)
    assert told(found) == wanted


@pytest.fixture(scope="module")
def in_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    """The root of a tree in a FileStorage."""
    with closing(LOTDB(path=str(tmp_path_factory.mktemp("file")), name="tree", new=True)) as database:
        yield database.open_connection()


widths = st.sampled_from([0, 1, 2, 29, 30, 31, 60, 61, 200])


@given(
    shape=st.lists(widths, min_size=1, max_size=6),
    key=st.sampled_from([str, "clip_{:04}".format, "é{}".format, "{:>05}".format, lambda number: "x" * (number + 1)]),
    policy=st.sampled_from(POLICIES),
    live=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_wide_trees_in_any_order(
    in_file: BaseNode, shape: list[int], key: Callable[[int], str], policy: Policy, live: bool, seed: int
) -> None:
    in_file._p_jar.transaction_manager.abort()
    root = in_file.gn(f"example {next(numbers)}")
    for number, width in enumerate(shape):
        for clip in range(width):
            root.gns([f"s{number}", key(clip)]).set_attribute("a", clip)
    commit(in_file)
    records = list(lp.scan("a", root))
    choice = random.Random(seed)
    share = choice.choice([0.02, 0.5, 0.98, 1])
    done = [record for record in records if choice.random() < share]
    results = [
        lp.ProcessResult(
            record.path,
            attributes={
                VERSION: choice.choice(["v1", "v1", "v1", "v2"]),
                INPUTS: inputs_digest("test", (), record.attributes),
                "result": choice.choice([1, "x"]),
            },
        )
        for record in done
    ]
    if live:
        write_live(policy, root, results)
        commit(root)
    else:
        lp.write(policy, root, results, output_attribute=None, commit_every=10_000)
    for _ in range(2):
        for version, inputs in (("v1", False), (None, False), ("v1", True), (None, True)):
            found = list(pending(policy, root, records, version=version, inputs=inputs))
            assert told(found) == told(left(policy, root, records, version, inputs))
        choice.shuffle(records)
        records = records[:300]


def check_all(root: BaseNode, policy: Policy) -> None:
    """`pending` of all leaves at once, in their order and in another, with all options."""
    records = list(lp.scan("a", root, skip="_*", uncommitted="ignore"))
    for version, inputs in itertools.product(("v1", None), (False, True)):
        wanted = left(policy, root, records, version, inputs)
        assert told(pending(policy, root, records, version=version, inputs=inputs)) == told(wanted)
        assert told(pending(policy, root, records[::-1], version=version, inputs=inputs)) == told(wanted[::-1])
        some = records[:: 1 + len(records) // 200]
        assert told(chain_each(policy, root, some, version, inputs)) == told(left(policy, root, some, version, inputs))


def chain_each(policy: Policy, root: BaseNode, records: list[Any], version: Any, inputs: bool) -> list[Any]:
    """The same, one record at a time."""
    with patch.object(_windows, "FIRST_WINDOW", 1), patch.object(_windows, "WINDOW", 1):
        return list(pending(policy, root, records, version=version, inputs=inputs))


VERSIONS = ["v1", "v2", "", "_version", 1, None, b"v1", np.str_("v1"), "v" * 300, ...]
DIGESTS = ["right", "values", "0" * 32, "other values", "other files", "short", 1, ...]
MORE: list[dict[str, Any]] = [
    *({}, {"result": 0.5}, {"A": 1}, {"_a": "v1"}, {"_m": 1, "z": [1, "v1"]}, {"__a": {VERSION: "v1"}}),
    *({"A" * 300: "x"}, {"\ud800": 1}, {"_version ": "v1"}, {"_inputs": "x" * 31}, {"~": "v1", "é": 1}),
    *({f"n{number}": number for number in range(70)}, {f"A{number}": number for number in range(70)}),
]


@pytest.mark.parametrize("in_bulk", [True, False])
def test_stamps_of_every_kind(tmp_path: Path, in_bulk: bool) -> None:
    combinations = list(itertools.product(VERSIONS, DIGESTS, MORE))
    with stored(tmp_path, {f"{number:05}": {} for number in range(len(combinations))}) as root:
        for number, node in enumerate(root.node_storage.values()):
            if number % 3:  # most records have a file behind them, some have none, and windows mix both
                node.set_attribute("a", PathFileObj(filepath=str(tmp_path / "t.fs" / f"{number % 5}")))
        commit(root)
        records = {record.key: record for record in lp.scan("a", root)}
        results = []
        for number, (version, digest, others) in enumerate(combinations):
            attributes = {**others, VERSION: version, INPUTS: digest}
            attributes[INPUTS] = stamp_like(digest, records[f"{number:05}"])
            attributes = {name: value for name, value in attributes.items() if value is not ...}
            results.append(lp.ProcessResult((f"{number:05}",), attributes=attributes))
        lp.write(lp.inline("_proc"), root, results, output_attribute=None, commit_every=10_000 if in_bulk else None)
        if not in_bulk:  # which commits itself
            check_all(root, lp.inline("_proc"))
            commit(root)
        check_all(root, lp.inline("_proc"))


def test_results_among_siblings_with_keys_of_one_length(tmp_path: Path) -> None:
    names = ("_proc", "_aaaa", "_zzzz", "_b", "_cc", "_bb", "_c", "_é__")
    subsets = [subset for size in range(4) for subset in itertools.combinations(names, size)]
    with stored(
        tmp_path, {f"{number:03}": {key: {} for key in subset} for number, subset in enumerate(subsets)}
    ) as root:
        for subset in lp.leaves(root, skip="_*"):
            for node in lp.children(subset):
                if len(subset.key) % 2:
                    node.set_attribute(VERSION, "v1")
        commit(root)
        for key in names:
            check_all(root, lp.inline(key))


@pytest.mark.parametrize("factory", ["plain", "own"])
def test_nodes_of_all_classes_side_by_side(tmp_path: Path, factory: str) -> None:
    factories = {"plain": DB, "own": FactoryDB}
    with opened(FileStorage(str(tmp_path / "data.fs")), factory=factories[factory]) as root:
        for number in range(2):
            for kind in KINDS:
                for made in range(4):
                    key = f"{kind.__name__:_>9} {number} {made}".replace("_", "~")
                    node = grow(root, key, Planned(kind, {"a": made, VERSION: "v1"}, {}))
                    if made:
                        proc = grow(node, "_proc", Planned(KINDS[(made + number - 1) % len(KINDS)], {"result": 1}, {}))
                        proc.set_attribute(VERSION, "v1" if made > 1 else "v2")
                        if made > 2:
                            proc.set_attribute(INPUTS, inputs_digest("", (), {"a": made}))
        commit(root)
        for policy in (lp.inline("_proc"), lp.inline("_proc", "_proc"), lp.inline()):
            check_all(root, policy)


class Stamped(BaseNode):
    """What a database with a factory of its own makes of every `BaseNode`: all of them have a stamp."""

    @property
    def attribute_storage(self) -> Any:
        return OOBTree({**self.__dict__["attribute_storage"], VERSION: "v1"})

    @attribute_storage.setter
    def attribute_storage(self, tree: Any) -> None:
        self.__dict__["attribute_storage"] = tree


class FactoryDB(DB):
    """A database that knows its classes by more than their names."""

    def classFactory(self, connection: Any, module: str, name: str) -> Any:
        return Stamped if name == "BaseNode" else super().classFactory(connection, module, name)


# --- Trees that are large in one way or another ---------------------------------------------------------------------


def test_a_wide_tree_takes_several_windows(tmp_path: Path) -> None:
    clips = {f"{number:05}": {} for number in range(2_500)}
    with stored(tmp_path, {"ann": clips, "bob": {}}) as root:
        results = [lp.ProcessResult(("ann", key), 0.5, {VERSION: "v1"}) for key in clips if int(key) % 3]
        lp.write(lp.inline("_proc"), root, results, commit_every=20_000)
        for policy in (lp.inline("_proc"), lp.mirror("ann"), lambda result: (*result.path, "_proc")):
            records = list(lp.scan((), root, skip="_*"))
            wanted = told(left(policy, root, records, "v1"))
            assert told(pending(policy, root, records, version="v1")) == wanted
            assert told(pending(policy, root, records[::-1], version="v1")) == wanted[::-1]
            wide_apart = [records[0], records[-2], records[2000]]
            assert told(pending(policy, root, wide_apart, version="v1")) == told(left(policy, root, wide_apart, "v1"))
        root.gn("bob").set_attribute("changed", True)
        assert [node.key for node in pending(lp.inline("_proc"), root, lp.leaves(root, skip="_*"), version="v1")] == [
            *(key for key in clips if not int(key) % 3),
            "bob",
        ]


def test_a_deep_tree(tmp_path: Path) -> None:
    path = tuple(chain_of(3_000))
    for place in ("memory", "storage"):
        with ExitStack() as stack:
            root = BaseNode("root") if place == "memory" else stack.enter_context(stored(tmp_path, {}))
            root.gns([*path, "_proc"]).set_attribute(VERSION, "v1")
            for name in ("changed", "committed"):
                if place == "storage" and name == "committed":
                    commit(root)
                records = list(lp.snapshot((), lp.leaves(root, skip="_*")))
                assert [len(record.path) for record in records] == [3_000]
                records += [lp.NodeRecord(path[:number], "") for number in range(0, 3_000, 500)]
                kept = list(pending(lp.inline("_proc"), root, records, version="v1"))
                assert kept == records[1:]
                assert list(pending(lp.inline("n0"), root, records)) == records  # n0 is a way to others


@fast_ways
def test_what_is_remembered_of_a_tree_is_bounded(tmp_path: Path) -> None:
    tree = {f"s{number:03}": {f"clip_{clip:04}": {} for clip in range(100)} for number in range(40)}
    most = []

    def remembered(parent: Any) -> int:
        return len(parent.items) + len(parent.below) + sum(map(remembered, filter(None, parent.below.values())))

    def watched(lookup: Any, *args: Any) -> list[bool]:
        found = are_there(lookup, *args)
        most.append(remembered(lookup._root))
        return found

    are_there = _lookup.RecordLookup._are_there
    with (
        stored(tmp_path, tree) as root,
        patch.object(_lookup, "MOST_HELD", 1_000),
        patch.object(_lookup.RecordLookup, "_are_there", watched),
    ):
        assert len(list(pending(lp.inline("_proc"), root, lp.scan((), root)))) == 4_000
    assert 100 < max(most) < 1_000 + 1_024 + 2 * 100


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BaseNode, list[str]]]:
    """The root of a tree that has split, and the keys that it could have: every second one is there."""
    keys = [f"k{number:04}" for number in range(2_000)]
    keys[100:160] = [f"k{number:04}{'é' * (number % 4)}" for number in range(100, 160)]
    with stored(tmp_path_factory.mktemp("large"), {key: {} for key in keys[::2]}) as root:
        yield root, keys


@settings(max_examples=examples(25))
@given(
    rows=st.lists(st.one_of(st.integers(0, 1_999), st.integers(90, 170)), max_size=40),
    held=st.sampled_from([0, 20, 50_000]),
    window=st.sampled_from([1, 8, 64]),
)
def test_keys_in_no_order_of_a_tree_that_is_too_large_to_be_held(
    large: tuple[BaseNode, list[str]], rows: list[int], held: int, window: int
) -> None:
    root, keys = large
    records = [lp.NodeRecord((keys[row],), keys[row]) for row in rows]
    with patch.object(_lookup, "MOST_HELD", held), patch.multiple(_windows, FIRST_WINDOW=window, WINDOW=window):
        missing = list(pending(lp.mirror(), root, records))
        there = list(pending(lp.mirror(), root, records, invert=True))
    assert [record.key for record in missing] == [keys[row] for row in rows if row % 2]
    assert [record.key for record in there] == [keys[row] for row in rows if not row % 2]


# --- Nothing is read that is not needed -----------------------------------------------------------------------------


class Costly:
    """A value that can't be read any more."""

    loaded = 0

    def __setstate__(self, state: Any) -> None:
        Costly.loaded += 1

    def __getstate__(self) -> Any:
        return {"a": 1}


@fast_ways
@pytest.mark.parametrize("in_bulk", [True, False])
def test_values_of_results_are_not_unpickled(tmp_path: Path, in_bulk: bool) -> None:
    with stored(tmp_path, {"a": {}, "b": {}, "c": {}}) as root:
        results = [
            lp.ProcessResult(("a",), Costly(), {VERSION: "v1", INPUTS: inputs_digest("", (), {})}),
            lp.ProcessResult(("b",), Costly(), {VERSION: "v2"}),
            lp.ProcessResult(("c",), Costly()),
        ]
        if in_bulk:
            lp.write(lp.inline("_proc"), root, results, commit_every=10)
        else:
            lp.write(lp.inline("_proc"), root, results)
            commit(root)
        cache = root._p_jar._cache
        cache.minimize()
        Costly.loaded = 0
        records = [lp.NodeRecord((key,), key) for key in "abc"]

        def keys_left(**options: Any) -> list[str]:
            return [record.key for record in pending(lp.inline("_proc"), root, records, **options)]

        assert keys_left() == []
        assert keys_left(version="v1") == ["b", "c"]
        assert keys_left(version="v1", inputs=True) == ["b", "c"]
        assert keys_left(inputs=True) == ["b", "c"]
        assert Costly.loaded == 0
        assert {oid for oid, item in cache.lru_items() if item._p_changed is not None} == {root._p_oid}
        assert unsaved(root) == []


@fast_ways
def test_without_stamps_the_attributes_of_results_are_not_read(tmp_path: Path) -> None:
    with opened(CountingStorage(str(tmp_path / "data.fs"))) as root:
        plant(root, {"a": {}, "b": {}})
        proc = root.gns(["a", "_proc"])
        proc.set_attribute("result", 1)
        commit(root)
        records = list(lp.scan((), root, skip="_*"))
        clip = root.node_storage["a"]
        not_read = {proc.attribute_storage._p_oid, clip.attribute_storage._p_oid}
        storage = root._p_jar.db().storage
        storage.loaded.clear()
        assert [record.key for record in pending(lp.inline("_proc"), root, records)] == ["b"]
        assert clip._p_oid in storage.loaded
        assert not not_read & set(storage.loaded)


class CountingStorage(AnyStorage):
    """Remembers what was asked of it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.loaded: list[bytes] = []

    def loadBefore(self, oid: bytes, tid: bytes) -> Any:
        self.loaded.append(oid)
        return super().loadBefore(oid, tid)


# --- A stage --------------------------------------------------------------------------------------------------------


def records_of(count: int) -> list[lp.NodeRecord]:
    return [lp.NodeRecord((f"clip_{number:04}",), f"clip_{number:04}") for number in range(count)]


def test_it_reads_ahead_in_windows_that_grow_and_closes_its_source() -> None:
    source = Source(records_of(5_000))
    kept = pending(lp.inline("_proc"), BaseNode("root"), source)
    assert source.pulled == 0
    pulled = []
    for _ in range(5_000):
        next(kept)
        pulled.append(source.pulled)
    assert pulled[0] == 16
    windows = [later - sooner for sooner, later in zip([0, *pulled], pulled, strict=False) if later > sooner]
    assert windows[:8] == [16, 32, 64, 128, 256, 512, 1024, 1024]
    assert source.pulled == 5_000
    kept.close()  # type: ignore[attr-defined]
    assert source.closed


def test_live_nodes_come_in_smaller_windows() -> None:
    root = BaseNode("root")
    source = Source([root.gn(f"{number:04}") for number in range(1_000)])
    kept = pending(lp.inline("_proc"), root, source)
    pulled = [source.pulled for _ in kept]
    assert {later - sooner for sooner, later in itertools.pairwise(pulled)} == {0, 32, 64, 128, 1000 - 880}


def test_a_stage_that_is_never_pulled_closes_its_source() -> None:
    source = Source(records_of(3))
    pending(lp.inline(), BaseNode("root"), source).close()  # type: ignore[attr-defined]
    assert (source.pulled, source.closed) == (0, True)


@pytest.mark.parametrize("place", ["memory", "storage"])
@pytest.mark.parametrize("number", [0, 1, 15, 16, 17, 100])
def test_errors_come_behind_the_items_before_them(tmp_path: Path, place: str, number: int) -> None:
    with ExitStack() as stack:
        root = BaseNode("root") if place == "memory" else stack.enter_context(stored(tmp_path, {}))
        records = records_of(200)
        bad: list[tuple[list[Any], Any, Any]] = [
            (
                [*records[:number], "no record"],
                lp.inline(),
                "pending: expected a node or a record, got str 'no record'",
            ),
            ([*records[:number], lp.NodeRecord(("a", ""), "")], lp.mirror(), "path: key 1 of .* is empty"),
            (
                [*records[:number], lp.NodeRecord(("a", 1), "")],
                lp.inline(),
                "path: key 1 of .* must be a str, got int 1",
            ),  # type: ignore[arg-type]
            ([*records[: number + 1]], lambda result: _fails_at(number, result), f"policy at {number}"),
            (
                [*records[: number + 1]],
                lambda result: _empty_at(number, result),
                "the policy's path: .* of the result at",
            ),
        ]
        for items, policy, message in bad:
            kept, error = until_error(pending(policy, root, [*items, *records]))
            assert kept == records[:number]
            assert re.search(message, str(error))
        kept, error = until_error(pending(lp.inline(), root, Source(records[:number], OSError("the source"))))
        assert kept == records[:number]
        assert repr(error) == "OSError('the source')"
        unknown = lp.NodeRecord(("x",), "x", {"a": lambda: None})
        kept, error = until_error(pending(lp.inline(), root, [*records[:number], unknown, *records], inputs=True))
        assert kept == records[:number]
        assert "attribute 'a' at x has no digest" in str(error)


def until_error(items: Iterator[Any]) -> tuple[list[Any], Exception]:
    """What comes before the error, and the error."""
    kept = []
    try:
        for item in items:
            kept.append(item)
    except Exception as error:
        return kept, error
    raise AssertionError(f"there was no error behind {kept}")


def _fails_at(number: int, result: lp.ProcessResult) -> NodePath:
    if result.path == (f"clip_{number:04}",):
        raise RuntimeError(f"policy at {number}")
    return ("x", *result.path)


def _empty_at(number: int, result: lp.ProcessResult) -> NodePath:
    return ("x", "" if result.path == (f"clip_{number:04}",) else "y")


@pytest.mark.parametrize("version", [None, "v1"])
def test_a_damaged_record_is_told_of_behind_the_items_before_it(tmp_path: Path, version: str | None) -> None:
    with stored(tmp_path, {f"{number:03}": {} for number in range(100)}) as root:
        lp.write(lp.inline("_proc"), root, [lp.ProcessResult((f"{n:03}",), 1) for n in range(100)], commit_every=1000)
        records = list(lp.scan((), root, skip="_*"))
        node = root.node_storage["050"]
        broken = (node.node_storage["_proc"] if version else node)._p_oid
        index = root._p_jar.db().storage._index
        del index[broken]
        kept, error = until_error(
            pending(lp.inline("_proc"), root, [lp.NodeRecord(("x",), "x"), *records], version=version)
        )
        assert [record.key for record in kept] == ["x", *(f"{n:03}" for n in range(50) if version)]
        assert type(error) is lp.DamagedDatabaseError
        assert re.match("pending: 050: the record of object .* is not there", str(error))


@fast_ways
def test_children_in_parts_without_an_end_are_damage(tmp_path: Path) -> None:
    with (
        stored(tmp_path, {f"{number:03}": {} for number in range(100)}) as root,
        patch.object(_lookup, "MOST_PARTED", 0),
        pytest.raises(lp.DamagedDatabaseError, match=r"pending: 007: the record of .* parted without an end"),
    ):
        list(pending(lp.inline(), root, [lp.NodeRecord(("007",), "007")]))


def test_items_that_are_no_records_have_no_inputs() -> None:
    root = BaseNode("root")
    with pytest.raises(lp.ArgumentTypeError, match=r"live node ann/clip_1, .*; put snapshot\(\.\.\.\) in front"):
        list(pending(lp.inline(), root, [root.gns(["ann", "clip_1"])], inputs=True))
    with pytest.raises(lp.ArgumentTypeError, match="expected a NodeRecord, as inputs=True needs it, got ProcessResult"):
        list(pending(lp.inline(), root, [lp.ProcessResult(("a",))], inputs=True))


def test_whatever_has_a_path_can_be_pending() -> None:
    root = BaseNode("root")
    root.gns(["a", "_proc"])
    items = [lp.ProcessResult(("a",)), lp.NodeRecord(["b"], "b"), root.gn("c"), lp.Write(("a",), {})]  # type: ignore[arg-type]
    assert list(pending(lp.inline("_proc"), root, items)) == items[1:3]


class Labelled(lp.NodeRecord):
    """A record of somebody's own."""


def test_records_keep_their_class_and_what_they_carry() -> None:
    records = [lp.NodeRecord(("a",), "a", {"x": 1}, payload=7), Labelled(("b",), "b", {"x": 1})]
    kept = list(pending(lp.inline("_proc"), BaseNode("root"), records, inputs=True))
    assert kept == records
    assert [record.inputs for record in records] == [None, None]
    assert [type(record) for record in kept] == [lp.NodeRecord, Labelled]
    assert {record.inputs for record in kept} == {inputs_digest("", (), {"x": 1})}
    assert kept[0].payload == 7


def test_the_view_is_the_one_at_which_the_items_came(tmp_path: Path) -> None:
    with stored(tmp_path, {"a": {}, "b": {}}) as root:
        kept = pending(lp.inline("_proc"), root, lp.scan((), root, skip="_*"))
        root.gns(["b", "_proc"])
        commit(root)
        assert [record.key for record in kept] == ["a", "b"]
        assert [record.key for record in pending(lp.inline("_proc"), root, lp.scan((), root, skip="_*"))] == ["a"]


def test_results_written_by_the_same_pipeline_do_not_disturb_it(tmp_path: Path) -> None:
    with stored(tmp_path, {f"{number:04}": {} for number in range(500)}) as root:

        def run(most: int) -> lp.WriteReport:
            return pipe(
                lp.leaves(root, skip="_*"),
                pending(lp.inline("_proc"), root, version="v1"),
                lambda nodes: itertools.islice(nodes, most),
                lp.snapshot("depth"),
                lp.chunked(10),
                lp.parallel_map(lp.each(_double), mode="sync"),
                lp.write(lp.inline("_proc"), root, commit_every=50),
            )

        assert [run(most).written for most in (30, 400, 1000, 1000)] == [30, 400, 70, 0]


def _double(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, 2 * record.attributes["depth"], {VERSION: "v1"})


def test_workers_leave_out_what_is_done_in_their_partition(tmp_path: Path) -> None:
    with stored(tmp_path, {f"s{s}": {f"{number:03}": {} for number in range(50)} for s in range(4)}) as root:
        done = [
            lp.ProcessResult((f"s{s}", f"{number:03}"), 1, {VERSION: "v1"}) for s in range(4) for number in range(45)
        ]
        lp.write(lp.inline("_proc"), root, done, commit_every=1000)
        parts = lp.partitions(4, root, skip="_*")
        work = compose_left(
            lp.scan("depth", skip="_*"), pending(lp.inline("_proc"), parts[0], version="v1"), lp.each(_double)
        )
        results = list(lp.parallel_map(compose_left(work, list), parts, mode="process", max_workers=2))
        paths = [result.path for batch in results for result in batch]
        assert paths == [(f"s{s}", f"{number:03}") for s in range(4) for number in range(45, 50)]


# --- Arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((7, BaseNode()), {}, r"pending: policy must be inline\(\.\.\.\), .* a function, or an object .*, got int 7"),
        ((lp.inline(), "tree.fs"), {}, "pending: expected a lotdb node as the root of a tree, got str 'tree.fs'"),
        ((lp.inline(), BaseNode()), {"version": 3}, "pending: version must be a str or None, got int 3"),
        ((lp.inline(), BaseNode()), {"version": ""}, "pending: version must not be empty; leave it out"),
        ((lp.inline(), BaseNode()), {"inputs": 1}, "pending: inputs must be True or False, got int 1"),
    ],
)
def test_arguments_are_checked_at_once(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(lp.LotprocError, match=message):
        pending(*arguments, **options)


def test_it_needs_items_an_open_connection_and_a_file(tmp_path: Path) -> None:
    root = BaseNode("root")
    with pytest.raises(lp.ArgumentTypeError, match="pending: items must be an iterable, got the node 'root'"):
        pending(lp.inline(), root, root)  # type: ignore[call-overload]
    with stored(tmp_path, {"a": {}}) as saved:
        part = lp.partitions(1, saved)[0]
        made_before = pending(lp.inline(), saved)
    source = Source([])
    with pytest.raises(lp.ArgumentError, match="pending: the connection of its root is closed"):
        made_before(source)
    assert source.closed
    with pytest.raises(lp.ArgumentError, match="pending: the connection of its root is closed"):
        pending(lp.inline(), saved)
    with pytest.raises(lp.ArgumentError, match="the database of a partition, is not there"):
        pending(lp.inline(), replace(part, uri=str(tmp_path / "gone.fs")), [])


def test_a_branch_that_was_never_saved_is_looked_up_live(tmp_path: Path) -> None:
    with stored(tmp_path, {"a": {}}) as saved:
        branch = BaseNode("branch", parent=saved)
        branch.gns(["out", "a"])
        assert list(pending(lp.mirror("out"), branch, lp.leaves(saved))) == []
        assert unsaved(saved) == []


# --- What failed ----------------------------------------------------------------------------------------------------


def ledger_of(folder: Path, *paths: NodePath) -> Path:
    with Ledger("write", folder / "run.jsonl") as ledger:
        for path in paths:
            ledger.failed(Failure(path, "ValueError", "it is empty"))
    return folder / "run.jsonl"


@given(tree=trees, data=st.data())
def test_the_nodes_that_failed_are_found_again(in_file: BaseNode, tree: Any, data: st.DataObject) -> None:
    in_file._p_jar.transaction_manager.abort()
    example = in_file.gn(f"example {next(numbers)}")
    plant(example, {"top": tree})
    commit(in_file)
    folder = Path(in_file._p_jar.db().storage._file_name).parent
    with patch.object(resuming, "outstanding_failures") as outstanding:
        for root in (example, example.node_storage["top"], in_file):
            nodes = {tuple(node.gps()): node for node in lp.walk(example)}
            failed = [path for path in nodes if data.draw(st.booleans())]
            gone = [(*path, "gone\n") for path in failed[:2]]
            outstanding.return_value = [*reversed(failed), *gone, *failed[:1]]
            found = list(retry_failed(folder / "run.jsonl", root))
            above = tuple(root.gps())
            assert found == [nodes[path] for path in sorted(failed) if path[: len(above)] == above]
    assert unsaved(in_file) == []


def test_a_ledger_is_read_when_the_first_node_is_asked_for(tmp_path: Path) -> None:
    root = BaseNode("root")
    plant(root, {"ann": {"a": {}, "b": {}}, "bob": {}})
    nodes = retry_failed(tmp_path / "run.jsonl", root)
    ledger = ledger_of(tmp_path, ("bob",), ("ann", "b"), ("ann", "gone"), ("ann", "b"))
    assert [node.key for node in nodes] == ["b", "bob"]
    assert [node.key for node in retry_failed(str(ledger))(root.gn("ann"))] == ["b"]
    with Ledger("write", ledger) as again:
        again.wrote(("bob",))
        again.commit(written=1, skipped=0, failed=0, seconds=0.1, last_path=("bob",))
    stage = pickle.loads(pickle.dumps(retry_failed(ledger)))
    assert [node.key for node in stage(root)] == ["b"]


def test_a_ledger_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="retry_failed: ledger must be the path of a file, got int 7"):
        retry_failed(7)  # type: ignore[call-overload]
    with pytest.raises(lp.ArgumentTypeError, match="retry_failed: expected a lotdb node"):
        retry_failed(tmp_path / "run.jsonl", "root")  # type: ignore[call-overload]
    with pytest.raises(lp.ArgumentError, match="retry_failed: there is no ledger"):
        list(retry_failed(tmp_path / "run.jsonl", BaseNode()))
