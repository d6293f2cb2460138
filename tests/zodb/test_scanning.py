"""`scan` gives what `snapshot` of live leaves gives, from committed records, at one transaction."""

from __future__ import annotations

import itertools
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree
from hypothesis import given, strategies as st
from lotdb import LOTDB, BaseNode, BlobObject, DataNode, add_blob
from persistent import Persistent
from persistent.mapping import PersistentMapping
from toolz import pipe
from trees import (
    AWKWARD_KEYS,
    AnyStorage,
    Packed,
    Planned,
    Tree,
    awkward_keys,
    chain_of,
    commit,
    data_nodes,
    depth_of,
    exactly,
    fast_ways,
    grow,
    keys,
    leaf_paths,
    opened,
    planned_trees,
    plant,
    scanned_live,
    stored,
    trees,
    unsaved,
    values,
)
from ZODB.blob import Blob
from ZODB.DB import DB
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import IPrefetchStorage
from ZODB.MappingStorage import MappingStorage
from zope.interface import implementer

import lotproc as lp
from lotproc.zodb.pinned import PinnedStorage

#: Many names here are those of no node, on purpose; what is told of them is held by `test_missing_names`.
pytestmark = pytest.mark.filterwarnings("ignore:.* no node had an attribute")


def assert_scanned(root: BaseNode, names: Any = ..., **options: Any) -> list[lp.NodeRecord]:
    """`scan` gives what `snapshot` does, and leaves the connection as it was."""
    cache = root._p_jar._cache
    size, loaded = len(cache), [oid for oid, _ in cache.lru_items()]
    records = list(lp.scan(names, root, **options))
    assert len(cache) <= size
    assert [oid for oid, _ in cache.lru_items()] == loaded
    assert unsaved(root) == []
    assert [exactly(record) for record in records] == scanned_live(names, root, **options)
    return records


def paths_of(records: Any) -> list[tuple[str, ...]]:
    return [record.path for record in records]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scans")


# --- Storages --------------------------------------------------------------------------------------------------------


@implementer(IPrefetchStorage)
class PrefetchingStorage(MappingStorage):
    """Remembers what it was told to fetch, and what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: list[list[bytes]] = []
        self.transactions: set[bytes] = set()
        self.loaded: list[bytes] = []

    def prefetch(self, oids: Any, tid: bytes) -> None:
        self.windows.append(list(oids))
        self.transactions.add(tid)

    def loadBefore(self, oid: bytes, tid: bytes) -> Any:
        self.loaded.append(oid)
        return super().loadBefore(oid, tid)


def storage_of(kind: str, folder: Path) -> Any:
    if kind == "demo":
        base = FileStorage(str(folder / "base.fs"))
        with opened(base) as root:
            plant(root, {"base": {"a": {}, "b": {}}})
            commit(root)
        return DemoStorage(base=FileStorage(str(folder / "base.fs"), read_only=True))
    return {
        "file": lambda: FileStorage(str(folder / "data.fs")),
        "any": lambda: AnyStorage(str(folder / "data.fs")),
        "mapping": MappingStorage,
        "prefetching": PrefetchingStorage,
    }[kind]()


STORAGES = ["file", "any", "mapping", "demo", "prefetching"]


@pytest.fixture(scope="module", params=STORAGES)
def anywhere(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    """The root of a tree in a storage of each kind."""
    with opened(storage_of(request.param, tmp_path_factory.mktemp("storage"))) as root:
        yield root


@pytest.fixture(scope="module")
def in_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    """The root of a tree in a FileStorage with blobs."""
    with closing(LOTDB(path=str(tmp_path_factory.mktemp("file")), name="tree", new=True)) as database:
        yield database.open_connection()


numbers = itertools.count()


def fresh(root: BaseNode) -> BaseNode:
    """A new node below a root, whose own tree is that of one example."""
    root._p_jar.transaction_manager.abort()  # what a failed example left
    node = root.gn(f"example {next(numbers)}")
    commit(root)
    return node


# --- Classes of nodes ------------------------------------------------------------------------------------------------


class Sensor(BaseNode):
    """Has state of its own, and some that is never stored."""

    def __init__(self, key: str, parent: BaseNode | None = None) -> None:
        super().__init__(key, parent)
        self.unit = "mV"
        self.alias = self._key
        self.gains = {"Q": [1.0, parent]}
        self._v_seen = 3


class Twin(BaseNode):
    """Has a second tree, and its children and its key twice."""

    def __init__(self, key: str, parent: BaseNode | None = None) -> None:
        super().__init__(key, parent)
        self.more = OOBTree({"a": 1})
        self.children = self.node_storage
        self.again = str(key)


class Loud(BaseNode):
    """Gives another key than it stores."""

    @property
    def key(self) -> str:
        return self._key + "!"


class Adopted(BaseNode):
    """Keeps its parent somewhere else."""

    @property
    def parent(self) -> Any:
        return self.__dict__.get("up")

    @property
    def _parent(self) -> Any:
        return self.up

    @_parent.setter
    def _parent(self, parent: Any) -> None:
        self.up = parent


class Bracketed(BaseNode):
    """Stores its state in the same form, with another key in it."""

    def __getstate__(self) -> Any:
        state = super().__getstate__()
        return {**state, "_key": f"[{state['_key']}]"}

    def __setstate__(self, state: Any) -> None:
        super().__setstate__({**state, "_key": state["_key"][1:-1]})


class Swapped(BaseNode):
    """Stores its two trees under each other's names."""

    def __getstate__(self) -> Any:
        state = super().__getstate__()
        nodes, attributes = state["node_storage"], state["attribute_storage"]
        return {**state, "node_storage": attributes, "attribute_storage": nodes}

    def __setstate__(self, state: Any) -> None:
        nodes, attributes = state["attribute_storage"], state["node_storage"]
        super().__setstate__({**state, "node_storage": nodes, "attribute_storage": attributes})


class Aloof(BaseNode):
    """Takes its grandparent for its parent."""

    @property
    def parent(self) -> Any:
        above = self._parent
        return above if above is None or above._parent is None else above._parent


class Noisy(Loud):
    """Differs from `Quiet` in its name alone, as far as records tell."""


class Quiet(BaseNode):
    pass


class Slotted(BaseNode):
    __slots__ = ("extra",)

    def __init__(self, key: str, parent: BaseNode | None = None) -> None:
        super().__init__(key, parent)
        self.extra = key


class Measured(BaseNode):
    """Has properties, one of them by the name of an attribute."""

    @property
    def a(self) -> str:
        return "the property"

    @property
    def node_count(self) -> int:
        return len(self.node_storage)


class Made(BaseNode):
    """Is made with arguments."""

    def __getnewargs__(self) -> tuple[str]:
        return ("made",)

    def __new__(cls, *args: Any, **kwargs: Any) -> Made:
        return BaseNode.__new__(cls)


class Derived(BaseNode):
    """Takes its attributes from a tree of another name."""

    @property
    def attribute_storage(self) -> Any:
        return self.own

    @attribute_storage.setter
    def attribute_storage(self, tree: Any) -> None:
        self.own = tree


class SmallTree(OOBTree):
    """A tree of several levels with few keys."""

    max_leaf_size = 2
    max_internal_size = 2


class Branching(BaseNode):
    def __init__(self, key: str, parent: BaseNode | None = None) -> None:
        super().__init__(key, parent)
        self.node_storage = SmallTree()
        self.attribute_storage = SmallTree()


KINDS = [
    BaseNode,
    Swapped,
    Aloof,
    Noisy,
    Quiet,
    Sensor,
    Twin,
    Loud,
    Adopted,
    Packed,
    Bracketed,
    Slotted,
    Measured,
    Made,
    Derived,
    Branching,
]
kinds = st.one_of(st.just(BaseNode), st.just(BaseNode), data_nodes, st.sampled_from([*KINDS, DataNode]))


# --- The law ---------------------------------------------------------------------------------------------------------


@given(planned=planned_trees(kinds))
def test_scan_is_snapshot_of_leaves(anywhere: BaseNode, planned: Planned) -> None:
    root = grow(fresh(anywhere), "top", planned)
    commit(anywhere)
    assert_scanned(root)
    assert_scanned(root, ["a", "absent", "Q"])
    assert_scanned(root, ())


@given(planned=planned_trees(kinds, keys=keys), depth=st.one_of(st.integers(0, 4), st.just("deepest")), data=st.data())
def test_scan_is_snapshot_of_leaves_or_levels_with_skip(
    anywhere: BaseNode, planned: Planned, depth: int | str, data: st.DataObject
) -> None:
    root = grow(fresh(anywhere), "top", planned)
    commit(anywhere)
    pattern = data.draw(st.sampled_from(["a*", "?", "*", "_*", "[ab]*", "[!a]*", "no such key"]), "pattern")
    for skip in (pattern, lambda node: re.search("[a_]", node.key), lambda node: node.get_attribute("a") is not None):
        assert_scanned(root, "a", skip=skip)
        assert_scanned(root, "a", skip=skip, level=depth)
    assert_scanned(root, "a", level=depth)


@given(tree=trees, depth=st.integers(0, 4))
def test_the_paths_are_those_of_the_tree(folder: Path, tree: Tree, depth: int) -> None:
    with stored(folder, tree) as root:
        assert paths_of(lp.scan((), root)) == leaf_paths(tree)
        assert {len(path) for path in paths_of(lp.scan((), root, level="deepest"))} == {depth_of(tree)}
        assert unsaved(root) == []


@pytest.mark.parametrize("kind", KINDS)
def test_many_nodes_of_each_class(anywhere: BaseNode, kind: Callable[[str, BaseNode], BaseNode]) -> None:
    root = fresh(anywhere)
    for number in range(120):
        leaf = Planned(kind, {"a": number}, {})
        grow(root, f"{number:03}", Planned(kind, {}, {"leaf": leaf}) if number % 3 == 0 else leaf)
    commit(root)
    records = assert_scanned(root)
    assert [record.attributes for record in records] == [{"a": number} for number in range(120)]
    assert records[1].key == ("001!" if issubclass(kind, Loud) else "001")


def test_records_that_differ_in_nothing_but_the_name_of_the_class(anywhere: BaseNode) -> None:
    root = fresh(anywhere)
    for number in range(100):
        grow(root, f"{number:03}", Planned(Noisy if number % 7 == 3 else Quiet, {"a": number}, {}))
    commit(root)
    records = assert_scanned(root)
    assert [record.key for record in records] == [f"{n:03}!" if n % 7 == 3 else f"{n:03}" for n in range(100)]


def test_data_nodes_whose_key_is_the_name_of_their_data(anywhere: BaseNode) -> None:
    root = fresh(anywhere)
    for number in range(40):
        word = "".join(["da", "ta"])
        grow(root, f"{number}", Planned(BaseNode, {}, {word: Planned(DataNode, {"a": number}, {})}))
        named = DataNode(word, None, 8000.0, "zarr", word)
        named._parent = root.gn(f"{number}").gn("below")
        named.parent.node_storage[word] = named
    commit(root)
    records = assert_scanned(root)
    assert len(records) == 80
    assert {record.key for record in records} == {"data"}


@pytest.mark.parametrize("length", [1, 2, 3, 254, 255, 256, 257, 5000, 70_000])
def test_keys_of_every_length(anywhere: BaseNode, length: int) -> None:
    root = fresh(anywhere)
    for letter in "abcé日":
        root.gn(letter * length).gn("leaf")
        root.gn(letter + "x" * (length - 1))
    commit(root)
    assert_scanned(root)


def test_awkward_keys_side_by_side(anywhere: BaseNode) -> None:
    root = fresh(anywhere)
    for key in AWKWARD_KEYS:
        root.gn(key).set_attribute(key, key)
        for below in AWKWARD_KEYS[:8]:
            root.gn("below").gn(key).gn(below)
    commit(root)
    assert len(assert_scanned(root)) == 9 * len(set(AWKWARD_KEYS))


@given(names=st.lists(awkward_keys, max_size=4))
def test_any_names(in_file: BaseNode, names: list[str]) -> None:
    root = fresh(in_file)
    for number, name in enumerate([*names, "other"]):
        root.gn("a").set_attribute(name, number)
    commit(root)
    (record,) = assert_scanned(root, names)
    assert list(record.attributes) == list(dict.fromkeys(names))
    assert_scanned(root, [*names, "¬", *names])
    assert_scanned(root, (name for name in ()))


def test_one_name_is_a_name_and_not_its_letters(in_file: BaseNode) -> None:
    root = fresh(in_file)
    root.gn("leaf").set_attribute("ab", 1)
    commit(root)
    (record,) = lp.scan("ab", root)
    assert record.attributes == {"ab": 1}


@given(value=values)
def test_a_value_that_two_attributes_share_is_copied_for_each(in_file: BaseNode, value: Any) -> None:
    root = fresh(in_file)
    root.gn("leaf").set_attribute("left", [value])
    root.gn("leaf").set_attribute("right", root.gn("leaf").get_attribute("left"))
    commit(root)
    for _ in range(2):
        (record,) = assert_scanned(root)
        assert record.attributes["left"] is not record.attributes["right"]
        record.attributes["left"].append("spoiled")
        assert len(record.attributes["right"]) == 1


def test_records_share_nothing_with_one_another(in_file: BaseNode) -> None:
    root = fresh(in_file)
    shared = PersistentMapping({"inside": [1]})
    array = np.zeros(3)
    for key in "abc":
        root.gn(key).set_attribute("mapping", shared)
        root.gn(key).set_attribute("array", array)
        root.gn(key).set_attribute("list", ["x"])
    commit(root)
    expected = scanned_live(..., root)
    for record in lp.scan(..., root):
        assert exactly(record) == expected.pop(0)
        record.attributes["mapping"]["inside"].append(2)
        record.attributes["array"][:] = 7
        record.attributes["list"].clear()


@pytest.mark.parametrize("count", [0, 1, 2, 14, 15, 16, 29, 30, 31, 60, 200])
def test_nodes_of_many_attributes(anywhere: BaseNode, count: int) -> None:
    root = fresh(anywhere)
    for key in "abc":
        for number in range(count):
            root.gn(key).set_attribute(f"n{number}", number)
        root.gn(key).set_attribute("list", [key])
    commit(root)
    assert len(assert_scanned(root)[0].attributes) == count + 1
    assert_scanned(root, ["n0", f"n{count - 1}", f"n{count}", "list"])


def test_attributes_that_were_deleted_again(anywhere: BaseNode) -> None:
    root = fresh(anywhere)
    for number in range(200):
        root.gn("leaf").set_attribute(f"n{number}", [number])
        root.gn("other").set_attribute("a", number)
    commit(root)
    for number in range(199):
        root.gn("leaf").delete_attribute(f"n{number}")
    root.gn("other").delete_attribute("a")
    commit(root)
    assert [record.attributes for record in assert_scanned(root)] == [{"n199": [199]}, {}]


# --- Payloads and other persistent values ----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[FileStorage, AnyStorage])
def with_payloads(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    pytest.importorskip("zarr")
    folder = tmp_path_factory.mktemp("payloads")
    with opened(request.param(str(folder / "data.fs"), blob_dir=str(folder / "blobs"))) as root:
        for number in range(40):
            for backend in ("blob", "zarr"):
                node = root.get_data_node(["clips", f"{backend}_{number}"], samplerate_hz=8.0, backend=backend)
                if number < 3:
                    options = {"zarr_store_path": str(folder / "arrays.zarr")} if backend == "zarr" else {}
                    node.write_data(np.arange(number + 4.0), **options)
                node.set_attribute("number", number)
        add_blob(root.gn("others").gn("blob object"), "data", b"bytes")
        array = BlobObject()
        array.write_array(np.eye(2))
        root.gn("others").gn("blob array").set_attribute("data", array)
        root.gn("others").gn("blob").set_attribute("data", Blob(b"plain"))
        root.gn("others").gn("nested").set_attribute("list", [array, {"again": array}])
        commit(root)
        yield root


def test_payloads_as_attributes(with_payloads: BaseNode) -> None:
    records = assert_scanned(with_payloads)
    assert_scanned(with_payloads, "data")
    handle = next(record for record in records if record.key == "zarr_2").attributes["data"]
    assert handle.read().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("names", [(), "number", ...])
def test_a_payload_by_name(with_payloads: BaseNode, names: Any) -> None:
    records = assert_scanned(with_payloads, names, payload="data")
    by_key = {record.key: record.payload for record in records}
    assert by_key["blob_1"].read().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert by_key["blob array"].read().tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert by_key["blob"].read() == b"plain"
    assert by_key["blob_7"] is None
    assert by_key["nested"] is None
    assert len(pickle.dumps(by_key["blob_1"])) < 1000


def test_a_payload_by_function(with_payloads: BaseNode) -> None:
    def payload(node: BaseNode) -> Any:
        above = node.parent.parent
        return [node.gps(), type(node).__name__, node.get_attribute("number"), above.key, len(node.parent.node_storage)]

    assert_scanned(with_payloads, "number", payload=payload)
    assert_scanned(with_payloads, (), payload=payload, skip="blob*")


def test_a_payload_function_reads_blobs(with_payloads: BaseNode) -> None:
    branch = with_payloads.get_node("clips", create=False)
    records = assert_scanned(
        branch, (), payload=lambda node: node.read_data() if node.has_data() else None, skip=lambda n: "zarr" in n.key
    )
    assert exactly(records[1].payload) == exactly(np.arange(5.0))


def test_a_payload_function_can_change_nothing(with_payloads: BaseNode) -> None:
    before = scanned_live(..., with_payloads)
    with suppress(lp.LotprocError, Exception):
        list(lp.scan((), with_payloads, payload=lambda node: node.set_attribute("changed", 1)))
    assert unsaved(with_payloads) == []
    commit(with_payloads)
    assert scanned_live(..., with_payloads) == before


def test_a_payload_function_that_raises(with_payloads: BaseNode) -> None:
    records = lp.scan("number", with_payloads, payload=lambda node: 1 / (node.get_attribute("number") - 2))
    assert [next(records).key for _ in range(2)] == ["blob_0", "blob_1"]
    for _ in range(10):
        next(records)
    with pytest.raises(ZeroDivisionError) as caught:
        list(records)
    assert "clips/blob_2" in str(caught.value.__notes__)


class Counter(Persistent):
    count = 0


@pytest.mark.parametrize("value", [Counter(), Length(3), [1, Counter()], "the node"])
def test_what_cant_be_detached(in_file: BaseNode, value: Any) -> None:
    root = fresh(in_file)
    root.gn("a").set_attribute("odd", 1)
    root.gn("b").set_attribute("odd", root if value == "the node" else pickle.loads(pickle.dumps(value)))
    root.gn("b").set_attribute("even", 2)
    commit(root)
    assert_scanned(root, "even")
    records = lp.scan(["odd", "even"], root)
    assert next(records).attributes == {"odd": 1, "even": None}
    with pytest.raises(lp.DetachError) as scanned:
        next(records)
    with pytest.raises(lp.DetachError) as live:
        scanned_live(["odd", "even"], root)
    assert str(scanned.value) == str(live.value).replace("snapshot:", "scan:")


# --- Shapes of trees -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with nodes of 1, 30, 31, 1,000 and 5,000 children, and a chain of 3,000."""
    path = tmp_path_factory.mktemp("wide") / "data.fs"
    with opened(FileStorage(str(path))) as root:
        for count in (1, 30, 31, 1000, 2_100):
            for number in range(count):
                root.gn(f"{count}").gn(f"n{number}")
            root.gn(f"{count}").gn("n0").set_attribute("number", count)
        for name, length in (("chain", 3_000), ("short chain", 1000)):
            node = root.gn(name)
            for key in chain_of(length):
                node = node.gn(key)
            node.set_attribute("number", -1)
        for number in range(100):  # children of several windows, some of which have children of their own
            node = root.gn("mixed").gn(f"n{number}")
            for below in range(number % 4):
                node.gn(f"_b{below}").gn("leaf").set_attribute("number", number)
        commit(root)
    return path


@pytest.fixture(scope="module", params=[FileStorage, AnyStorage])
def wide(request: pytest.FixtureRequest, wide_file: Path) -> Iterator[BaseNode]:
    with opened(request.param(str(wide_file), read_only=True)) as root:
        yield root


def test_a_wide_and_deep_tree(wide: BaseNode) -> None:
    records = assert_scanned(wide, "number")
    assert len(records) == 1 + 30 + 31 + 1000 + 2_100 + 2 + 150 + 25
    assert records[-2].path == ("mixed", "n99", "_b2", "leaf")


@pytest.mark.parametrize("count", [1, 30, 31, 1000])
def test_each_branch_of_a_wide_tree(wide: BaseNode, count: int) -> None:
    branch = wide.get_node(f"{count}", create=False)
    assert len(assert_scanned(branch, "number")) == count
    assert assert_scanned(branch, "number", level=0)[0].path == (f"{count}",)
    assert_scanned(branch, "number", level=1)
    assert_scanned(branch, "number", level="deepest")
    assert assert_scanned(branch, "number", level=2) == []


def test_levels_of_a_wide_and_a_deep_tree(wide: BaseNode) -> None:
    mixed, chain = wide.get_node("mixed", create=False), wide.get_node("short chain", create=False)
    for depth in (0, 1, 2, 3, 4, "deepest"):
        assert_scanned(mixed, "number", level=depth)
    assert assert_scanned(chain, "number", level=999)[0].key == "n998"
    assert assert_scanned(chain, "number", level="deepest")[0].attributes == {"number": -1}


@pytest.mark.parametrize("skip", ["n*", "n1*", "*5*", "[!n]*", "_b1", "leaf", "?[12]"])
def test_wide_nodes_with_skipped_children(wide: BaseNode, skip: str) -> None:
    for key in ("1", "30", "31", "1000", "mixed"):
        branch = wide.get_node(key, create=False)
        records = assert_scanned(branch, "number", skip=skip)
        assert list(lp.scan("number", branch, skip=lambda node: fnmatchcase(node.key, skip))) == records


def test_all_children_of_a_wide_node_are_skipped(wide: BaseNode) -> None:
    for count in (1, 30, 31, 1000, 2_100):
        branch = wide.get_node(f"{count}", create=False)
        assert paths_of(lp.scan((), branch, skip="n*")) == [(f"{count}",)]
        last = sorted(f"n{number}" for number in range(count))[-1]
        assert paths_of(lp.scan((), branch, skip=lambda node, last=last: node.key != last)) == [(f"{count}", last)]


def test_every_node_of_a_tree_as_the_root(anywhere: BaseNode) -> None:
    root = fresh(anywhere)
    plant(root, {"a": {"b": {"c": {}, "d": {"e": {}}}, "f": {}}, "g": {}})
    commit(root)
    for node in list(lp.walk(root)):
        assert_scanned(node)
        assert_scanned(node, level=1)


def test_nodes_that_were_renamed_moved_shared_and_emptied(anywhere: BaseNode) -> None:
    root = fresh(anywhere)
    plant(root, {key: {below: {"leaf": {}} for below in "xyz"} for key in "abcd"})
    commit(root)
    a, b, c, d = (root.gn(key) for key in "abcd")
    a.gn("x").key = "renamed"
    b.add_tree(a.gn("y"))
    c.node_storage["shared"] = a.gn("z")
    c.node_storage["x"] = a.gn("z").gn("leaf")
    for key in "xyz":
        d.delete_node(key)
    commit(root)
    records = assert_scanned(root)
    assert (*root.gps(), "d") in paths_of(records)
    assert paths_of(records).count((*root.gps(), "a", "z", "leaf")) == 3
    for depth in (0, 1, 2, 3, 4):
        assert_scanned(root, level=depth)
    for skip in ("shared", "z", "leaf", "x"):
        assert_scanned(root, skip=skip)


def test_a_node_under_another_key_than_its_own(anywhere: BaseNode) -> None:
    root = fresh(anywhere)
    for number in range(50):
        root.gn("a").gn(f"{number}").set_attribute("number", number)
        root.gn("b").node_storage[f"other {number}"] = root.gn("a").gn(f"{number}")
        root.gn("c").node_storage[f"{number}"] = root.gn("a").gn(f"{number}")
    commit(root)
    assert len(assert_scanned(root)) == 150
    assert_scanned(root, skip="other*")


def test_a_data_node_made_from_a_node_with_children(anywhere: BaseNode) -> None:
    root = fresh(anywhere)
    plant(root, {"a": {"b": {"c": {}, "d": {}}}})
    commit(root)
    root.get_data_node(["a", "b"], samplerate_hz=2.0)
    root.get_data_node(["a", "b", "c"], samplerate_hz=2.0)
    commit(root)
    assert_scanned(root)


def test_an_empty_database(anywhere: BaseNode, tmp_path: Path) -> None:
    with opened(FileStorage(str(tmp_path / "empty.fs"))) as root:
        assert assert_scanned(root) == [lp.NodeRecord((), "root")]
        assert assert_scanned(root, level=1) == []


# --- Storages and connections ----------------------------------------------------------------------------------------


@fast_ways
def test_a_storage_that_fetches_many_records_at_once() -> None:
    storage = PrefetchingStorage()
    with opened(storage) as root:
        plant(root, {f"{number:02}": {f"{below:02}": {} for below in range(40)} for number in range(40)})
        commit(root)
        expected = scanned_live(..., root)
        storage.windows.clear(), storage.transactions.clear(), storage.loaded.clear()
        assert [exactly(record) for record in lp.scan(..., root)] == expected
        fetched = [oid for window in storage.windows for oid in window]
        assert max(map(len, storage.windows)) <= 3000
        assert len(storage.windows) < len(fetched) / 50
        assert set(storage.loaded) <= {*fetched, root._p_oid, root.node_storage._p_oid}
        (transaction,) = storage.transactions
        assert transaction > root._p_jar.db().lastTransaction()


def test_a_historical_connection(tmp_path: Path) -> None:
    for kind in (FileStorage, AnyStorage):
        storage = kind(str(tmp_path / f"{kind.__name__}.fs"))
        with opened(storage) as root:
            expected = {}
            for number in range(5):
                root.gn(f"{number}").set_attribute("number", number)
                root.gn("0").set_attribute("number", number)
                root.delete_node(f"{number - 1}" if number > 1 else "none")
                commit(root)
                expected[storage.lastTransaction()] = scanned_live(..., root)
            for tid, records in expected.items():
                connection = root._p_jar.db().open(at=tid)
                past = connection.root.stt
                assert [exactly(record) for record in assert_scanned(past)] == records
                connection.close()


class New(BaseNode):
    """What `Old` was renamed to."""

    @property
    def key(self) -> str:
        return f"new {self._key}"


class Old(BaseNode):
    pass


class OldValue:
    def __init__(self, number: int = 0) -> None:
        self.number = number


class NewValue(OldValue):
    def __repr__(self) -> str:
        return f"NewValue({self.number})"


class Renaming(DB):
    """A database that knows classes under other names."""

    def classFactory(self, connection: Any, module: str, name: str) -> Any:
        return super().classFactory(connection, module, name.replace("Old", "New"))


@pytest.mark.parametrize("kind", [FileStorage, AnyStorage])
def test_a_database_that_knows_classes_under_other_names(tmp_path: Path, kind: Any) -> None:
    file = str(tmp_path / "data.fs")
    with opened(kind(file)) as root:
        for number in range(40):
            grow(root, f"n{number}", Planned(Old, {"number": number, "value": OldValue(number)}, {}))
            grow(root, f"b{number}", Planned(BaseNode, {"value": [OldValue(number)]}, {}))
        commit(root)
    with opened(kind(file, read_only=True), factory=Renaming) as root:
        assert_scanned(root, "number")
        assert_scanned(root)


def test_classes_that_cant_be_imported_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(FileStorage(str(tmp_path / "data.fs"))) as root:
        grow(root, "a", Planned(Old, {"number": 1}, {}))
        grow(root, "b", Planned(BaseNode, {"number": 1, "value": OldValue(2)}, {}))
        commit(root)
        monkeypatch.delattr(sys.modules[__name__], "Old")
        monkeypatch.delattr(sys.modules[__name__], "OldValue")
        records = lp.scan("number", root)
        with pytest.raises(lp.DamagedDatabaseError, match=r"a: .*0x"):
            next(records)


# --- where -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[FileStorage, AnyStorage])
def clips(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    """Speakers with clips, which have a number, and every third of them a list."""
    with opened(request.param(str(tmp_path_factory.mktemp("clips") / "data.fs"))) as root:
        for speaker in ("ann", "bob"):
            for number in range(60):
                node = root.gn(speaker).gn(f"clip_{number}" if number % 4 else f"note_{number}")
                node.set_attribute("number", number)
                if number % 3 == 0:
                    node.set_attribute("list", [speaker, number])
        commit(root)
        yield root


def is_list_of_ann(value: Any) -> bool:
    return value is not None and value[0] == "ann"


CONDITIONS: list[Any] = [
    "clip",
    "^clip_1",
    "_1$",
    "no such key",
    re.compile("CLIP_[12]", re.IGNORECASE),
    {"number": 7},
    {"number": lambda number: number is not None and number > 30},
    {"number": 7.0, "list": None},
    {"list": is_list_of_ann},
    {"list": None},
    {"list": ["bob", 3]},
    {"absent": None},
    {"absent": 1},
    {"number": np.arange(3)},
    {},
]


def passes(record: lp.NodeRecord, condition: Any) -> bool:
    if isinstance(condition, dict):
        return all(list(lp.where(name, test, [record])) for name, test in condition.items())
    return bool(list(lp.match_key(condition, [record])))


@given(
    conditions=st.lists(st.sampled_from(range(len(CONDITIONS))), max_size=3),
    names=st.sampled_from([(), "number", "list", ["absent", "number"], ...]),
    depth=st.sampled_from([None, None, 0, 1, 2, "deepest"]),
    skip=st.sampled_from([None, None, "ann", "note*", lambda node: node.key.endswith("3")]),
)
def test_where_is_a_filter_behind_the_snapshot(
    clips: BaseNode, conditions: list[int], names: Any, depth: Any, skip: Any
) -> None:
    chosen = [CONDITIONS[number] for number in conditions]
    nodes = list(lp.leaves(clips, skip=skip) if depth is None else lp.level(depth, clips, skip=skip))
    whole = list(lp.snapshot(..., nodes))
    expected = [
        exactly(record)
        for record, all_of_it in zip(lp.snapshot(names, nodes), whole, strict=True)
        if all(passes(all_of_it, condition) for condition in chosen)
    ]
    wheres = [chosen, tuple(chosen), iter(chosen)] + ([chosen[0]] if len(chosen) == 1 else [])
    for where in wheres if chosen else [None, []]:
        records = lp.scan(names, clips, where=where, skip=skip, level=depth)
        assert [exactly(record) for record in records] == expected


def test_a_test_runs_only_for_nodes_whose_key_matches(clips: BaseNode) -> None:
    seen: list[Any] = []
    records = list(lp.scan((), clips, where=["note", {"number": lambda number: seen.append(number) or True}]))
    assert len(records) == 30
    assert sorted(seen) == sorted(2 * list(range(0, 60, 4)))


def test_a_test_that_raises(clips: BaseNode) -> None:
    for names in ((), "list"):
        records = lp.scan(names, clips, where={"number": lambda number: 10 // (number - 18)})
        before = list(
            itertools.takewhile(lambda record: record.key != "clip_18", lp.snapshot("number", lp.leaves(clips)))
        )
        for record in before:
            if 10 // (record.attributes["number"] - 18):
                assert next(records).path == record.path
        with pytest.raises(ZeroDivisionError) as caught:
            next(records)
        (note,) = caught.value.__notes__
        assert "ann/clip_18" in note
        assert "'number'" in note
        assert "18" in note


def test_what_only_its_class_can_read_is_dropped_again(tmp_path: Path) -> None:
    with opened(FileStorage(str(tmp_path / "data.fs"))) as root:
        for number in range(1_500):
            root.node_storage[f"{number:04}"] = Packed(f"{number:04}", root)
        commit(root)
        jars, make = [], PinnedStorage.jar
        with mock.patch.object(PinnedStorage, "jar", lambda storage: jars.append(make(storage)) or jars[-1]):
            most = [jars[0]._cache.cache_non_ghost_count for _ in lp.scan((), root)]
    assert len(most) == 1_500
    assert max(most) < 400 + 3 * 200 + 100  # it keeps 400, and looks every 200 nodes, each of which is three objects


class Unreadable:
    """Can't be unpickled."""

    def __setstate__(self, state: Any) -> None:
        raise RuntimeError("this is not to be read")

    def __getstate__(self) -> Any:
        return {"a": 1}


@pytest.mark.parametrize("kind", [FileStorage, AnyStorage])
def test_nothing_is_decoded_that_is_not_needed(tmp_path: Path, kind: Any) -> None:
    with opened(kind(str(tmp_path / "data.fs"))) as root:
        for number in range(40):
            root.gn(f"good_{number}").set_attribute("a", number)
            root.gn(f"other_{number}").set_attribute("a", Unreadable())
            root.gn(f"other_{number}").gn("below").set_attribute("a", Unreadable())
        commit(root)
        assert len(list(lp.scan(..., root, where="good"))) == 40
        assert len(list(lp.scan(..., root, where=["good", {"a": lambda a: a < 5}]))) == 5
        assert len(list(lp.scan(..., root, skip="other*"))) == 40
        assert len(list(lp.scan(..., root, skip="other*", level=1))) == 40
        assert list(lp.scan(..., root, level=3)) == []
        with pytest.raises(lp.LotprocError, match="other_0"):
            list(lp.scan(..., root))


@pytest.mark.parametrize("where", [3, [3], [None], {3: 1}, [{"a": 1}, b"a"], object()])
def test_wrong_conditions(clips: BaseNode, where: Any) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="scan"):
        lp.scan((), where=where)
    with pytest.raises(lp.ArgumentTypeError, match="scan"):
        lp.scan((), clips, where=where)


@pytest.mark.parametrize("options", [{"where": "("}, {"where": ["a", "["]}, {"skip": "[a"}, {"skip": ""}])
def test_patterns_that_cant_be_read(options: dict[str, Any]) -> None:
    with pytest.raises(lp.PatternError, match="scan"):
        lp.scan((), **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"level": -1}, lp.ArgumentError),
        ({"level": "deep"}, lp.ArgumentError),
        ({"level": 1.5}, lp.ArgumentTypeError),
        ({"level": True}, lp.ArgumentTypeError),
        ({"payload": 3}, lp.ArgumentTypeError),
        ({"uncommitted": "no"}, lp.ArgumentError),
        ({"skip": 3}, lp.ArgumentTypeError),
        ({"names": 3}, lp.ArgumentTypeError),
        ({"names": ["a", 3]}, lp.ArgumentTypeError),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="scan"):
        lp.scan(**{"names": (), **options})


# --- What is not committed -------------------------------------------------------------------------------------------


def change(root: BaseNode) -> None:
    root.gn("a").set_attribute("number", 2)


def add(root: BaseNode) -> None:
    root.gn("new").set_attribute("number", 3)


def add_to_connection(root: BaseNode) -> None:
    root._p_jar.add(BaseNode("loose"))


def delete(root: BaseNode) -> None:
    root.delete_node("a")


def savepoint(root: BaseNode) -> None:
    change(root)
    root._p_jar.transaction_manager.savepoint()


def new_in_savepoint(root: BaseNode) -> None:
    add(root)
    root._p_jar.transaction_manager.savepoint()


@pytest.mark.parametrize("storage", [FileStorage, AnyStorage])
@pytest.mark.parametrize("to_do", [change, add, add_to_connection, delete, savepoint, new_in_savepoint])
def test_a_connection_with_uncommitted_changes(tmp_path: Path, storage: Any, to_do: Callable[..., None]) -> None:
    with opened(storage(str(tmp_path / "data.fs"))) as root:
        root.gn("a").set_attribute("number", 1)
        root.gn("b")
        commit(root)
        committed = assert_scanned(root)
        to_do(root)
        with pytest.raises(lp.UncommittedError, match=r"'root'.*commit.*uncommitted=\"ignore\""):
            lp.scan(..., root)
        waiting = lp.scan(...)
        with pytest.raises(lp.UncommittedError):
            waiting(root)
        changed = unsaved(root)
        assert list(lp.scan(..., root, uncommitted="ignore")) == committed
        assert unsaved(root) == changed
        commit(root)
        assert_scanned(root)


def test_a_savepoint_without_changes_and_an_abort_change_nothing(in_file: BaseNode) -> None:
    root = fresh(in_file)
    root.gn("a")
    commit(root)
    root._p_jar.transaction_manager.savepoint()
    assert_scanned(root)
    change(root)
    root._p_jar.transaction_manager.abort()
    assert_scanned(root)
    savepoint(root)
    root._p_jar.transaction_manager.abort()
    assert_scanned(root)


def test_a_change_between_the_call_and_the_first_record_is_not_seen(in_file: BaseNode) -> None:
    root = fresh(in_file)
    root.gn("a").set_attribute("number", 1)
    commit(root)
    expected = scanned_live(..., root)
    records = lp.scan(..., root)
    change(root)
    add(root)
    commit(root)
    assert [exactly(record) for record in records] == expected


def test_trees_that_are_in_no_database(in_file: BaseNode) -> None:
    with pytest.raises(lp.ArgumentError, match=r"scan: 'root'.*memory"):
        lp.scan((), BaseNode("root"))
    root = fresh(in_file)
    new = root.gn("new")
    below = new.gn("below")
    for uncommitted in ("error", "ignore"):
        for node in (new, below):
            with pytest.raises(lp.LotprocError, match="commit"):
                lp.scan((), node, uncommitted=uncommitted)
    root._p_jar.transaction_manager.savepoint()
    for node in (new, below):
        with pytest.raises(lp.ArgumentError, match="never committed"):
            lp.scan((), node, uncommitted="ignore")


@pytest.mark.parametrize("root", [None, "root", 3, [], object()])
def test_what_is_no_root(root: Any) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="scan"):
        lp.scan((), root)


def test_the_connection_may_be_closed_once_scan_was_called(tmp_path: Path) -> None:
    database = LOTDB(path=str(tmp_path), name="tree", new=True)
    root = database.open_connection()
    root.gn("a")
    database.commit()
    records = lp.scan((), root)
    database.close_connection()
    assert paths_of(records) == [("a",)]
    database.close()


# --- One transaction -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed database of 20 speakers with 80 clips each, more than a scan holds at once."""
    folder = tmp_path_factory.mktemp("clips")
    with closing(LOTDB(path=str(folder), name="tree", new=True)) as database:
        root = database.open_connection()
        for speaker, clip in itertools.product(range(20), range(80)):
            root.gns([f"s{speaker:02}", f"c{clip:03}"]).set_attribute("number", clip)
        database.commit()
    return folder


@contextmanager
def copied(folder: Path, to: Path, **options: Any) -> Iterator[tuple[LOTDB, BaseNode]]:
    """A copy of a database, open."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    with closing(LOTDB(path=str(to), name="tree", **options)) as database:
        yield database, database.open_connection()


CLIPS = [(f"s{speaker:02}", f"c{clip:03}") for speaker, clip in itertools.product(range(20), range(80))]


def disturb(database: LOTDB, turn: int) -> None:
    """Change, delete and add nodes everywhere, through another connection."""
    with database.connection("another") as root:
        for key in sorted({path[0] for path in CLIPS} & set(root.all_node_keys())):
            speaker = root.gn(key)
            clips = speaker.all_nodes()
            clips[turn].set_attribute("number", -turn)
            clips[-turn - 1].gn("_proc").set_attribute("result", turn)
            speaker.delete_node(clips[turn + 20].key)
            speaker.gn(f"new {turn}").set_attribute("number", turn)
        root.delete_node(f"s{turn * 3:02}")
        root.gn(f"a{turn}").gn("b")
        database.commit("another")


@pytest.mark.parametrize(
    ("read", "packed"),
    [
        (0, False),
        pytest.param(1, True, marks=fast_ways),
        (100, False),
        pytest.param(1_100, True, marks=fast_ways),
    ],
)
def test_what_is_committed_meanwhile_is_not_seen(clips_folder: Path, tmp_path: Path, packed: bool, read: int) -> None:
    with copied(clips_folder, tmp_path) as (database, root):
        records = lp.scan("number", root)
        begun = list(itertools.islice(records, read))
        for turn in range(3):
            disturb(database, turn)
            if packed:
                database.db.pack(time.time() + 1)
            begun += itertools.islice(records, 40)
        begun += records
        assert paths_of(begun) == CLIPS
        assert [record.attributes["number"] for record in begun] == 20 * list(range(80))
        root._p_jar.transaction_manager.begin()
        assert len(assert_scanned(root)) > 1_200


def test_what_is_committed_meanwhile_is_not_seen_through_any_storage(clips_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(clips_folder, tmp_path, dirs_exist_ok=True)
    with opened(AnyStorage(str(tmp_path / "tree"), blob_dir=str(tmp_path / "tree.blobs"))) as root:
        records = lp.scan("number", root)
        begun = [next(records)]
        for clip in root.gn("s10").all_nodes():
            clip.set_attribute("number", -1)
        root.delete_node("s11")
        root.gn("s05").gn("new")
        root._p_jar.transaction_manager.commit()
        begun += records
        assert paths_of(begun) == CLIPS
        assert {record.attributes["number"] for record in begun} == set(range(80))
        assert len(assert_scanned(root)) == 19 * 80 + 1


@fast_ways
def test_a_pack_under_a_payload_function_and_unusual_nodes(tmp_path: Path) -> None:
    with closing(LOTDB(path=str(tmp_path), name="tree", new=True)) as database:
        root = database.open_connection()
        for number in range(300):
            planned = Planned(Packed, {"number": PersistentMapping({"n": number})}, {})
            grow(root, f"{number:03}", planned)
            add_blob(root.gn(f"{number:03}"), "data", b"%d" % number)
        database.commit()
        expected = scanned_live("number", root, payload=lambda node: node.get_attribute("number")["n"])
        records = lp.scan("number", root, payload=lambda node: node.get_attribute("number")["n"])
        begun = [next(records)]
        with database.connection("another") as other:
            for node in other.all_nodes():
                node.get_attribute("number")["n"] = -1
            database.commit("another")
        database.db.pack(time.time() + 1)
        begun += records
        assert [exactly(record) for record in begun] == expected


def test_a_commit_just_before_the_view_of_the_connection_moves(clips_folder: Path, tmp_path: Path) -> None:
    with copied(clips_folder, tmp_path) as (database, root):
        disturb(database, 1)
        assert paths_of(lp.scan((), root)) == CLIPS  # as the connection sees it still
        root._p_jar.transaction_manager.begin()
        assert len(list(lp.scan((), root))) < len(CLIPS)
        assert_scanned(root)


def undo_last(database: LOTDB) -> None:
    manager = database.conn_dict["standard"][1]
    database.db.undo(database.db.undoLog(0, 1)[0]["id"], manager.get())
    manager.commit()


def test_nodes_whose_last_change_was_undone(clips_folder: Path, tmp_path: Path) -> None:
    with copied(clips_folder, tmp_path) as (database, root):
        for speaker in root.all_nodes():
            for clip in speaker.all_nodes():
                clip.set_attribute("number", -5)
            speaker.key = speaker.key + "!"
        database.commit()
        changed = assert_scanned(root)
        undo_last(database)
        assert paths_of(assert_scanned(root)) == CLIPS
        undo_last(database)
        assert assert_scanned(root) == changed
        undo_last(database)
        assert paths_of(assert_scanned(root)) == CLIPS
        database.db.pack(time.time() + 1)
        root._p_jar.transaction_manager.begin()
        assert paths_of(assert_scanned(root)) == CLIPS


def test_the_creation_of_a_node_is_undone(clips_folder: Path, tmp_path: Path) -> None:
    with copied(clips_folder, tmp_path) as (database, root):
        root.gn("s00").gn("c000").gn("below").set_attribute("number", 1)
        database.commit()
        before = root._p_jar.db().lastTransaction()
        expected = scanned_live(..., root)
        undo_last(database)
        assert paths_of(assert_scanned(root)) == CLIPS
        past = database.db.open(at=before).root.stt
        assert [exactly(record) for record in lp.scan(..., past)] == expected
        past._p_jar.close()


WRITER = """
import sys, time
from lotdb import LOTDB
database = LOTDB(path=sys.argv[1], name="tree")
root = database.open_connection()
for turn in range(4):
    for speaker in root.all_nodes():
        clips = speaker.all_nodes()
        clips[turn].set_attribute("number", -1)
        speaker.delete_node(clips[turn + 20].key)
        speaker.gn(f"new {turn}").gn("below")
    database.commit()
    print("committed", flush=True)
    sys.stdin.readline()
database.db.pack(time.time() + 1)
database.close()
"""


def test_another_process_writes_and_packs(clips_folder: Path, tmp_path: Path) -> None:
    with copied(clips_folder, tmp_path, read_only=True) as (_, root), ExitStack() as stack:
        records = lp.scan("number", root)
        begun = [next(records)]
        writer = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert writer.stdin is not None
        assert writer.stdout is not None
        for _ in range(4):
            assert writer.stdout.readline() == "committed\n"
            begun += itertools.islice(records, 200)
            assert paths_of(assert_scanned(root, "number")) == CLIPS
            writer.stdin.write("go on\n")
            writer.stdin.flush()
        assert writer.wait() == 0
        begun += records
        assert paths_of(begun) == CLIPS
        assert [record.attributes["number"] for record in begun] == 20 * list(range(80))
        assert paths_of(lp.scan((), root)) == CLIPS
    with closing(LOTDB(path=str(tmp_path), name="tree", read_only=True)) as database:
        assert len(assert_scanned(database.open_connection())) == len(CLIPS)


# --- How it is read --------------------------------------------------------------------------------------------------


class CountingStorage(FileStorage):
    """Counts what is read."""

    count = 0

    def loadBefore(self, oid: bytes, tid: bytes) -> Any:
        self.count += 1
        return super().loadBefore(oid, tid)


def test_the_first_record_comes_before_the_rest_is_read(clips_folder: Path) -> None:
    with opened(CountingStorage(str(clips_folder / "tree"), read_only=True)) as root:
        storage = root._p_jar.db().storage
        storage.count = 0
        records = lp.scan("number", root)
        called = storage.count
        next(records)
        first = storage.count
        rest = list(records)
        assert len(rest) == len(CLIPS) - 1
        assert called <= 1
        assert first < storage.count / 10


def test_the_first_record_comes_before_all_branches_beside_its_own_are_read(tmp_path: Path) -> None:
    paths = [(f"s{number:04}", "clip") for number in range(1_000)]
    with closing(LOTDB(path=str(tmp_path), name="tree", new=True)) as database:
        root = database.open_connection()
        lp.write(lp.fresh(), root, [[lp.ProcessResult(path, 1.0) for path in paths]], commit_every=1_000)
    with opened(CountingStorage(str(tmp_path / "tree"), read_only=True)) as root:
        storage = root._p_jar.db().storage
        storage.count = 0
        records = lp.scan("result", root)
        first = next(records)
        assert storage.count < 400
        assert paths_of([first, *records]) == paths


def test_a_scan_may_be_closed_early_and_two_may_be_read_in_turn(clips_folder: Path, tmp_path: Path) -> None:
    with copied(clips_folder, tmp_path) as (_, root):
        left, right, closed = lp.scan("number", root), lp.scan((), root, level=1), lp.scan(..., root)
        next(closed)
        closed.close()  # type: ignore[attr-defined]
        assert list(closed) == []
        begun: list[Any] = []
        for record in right:
            assert len(record.path) == 1
            begun += itertools.islice(left, 100)
        assert paths_of([*begun, *left]) == CLIPS


def test_a_scan_in_other_threads(clips_folder: Path, tmp_path: Path) -> None:
    with copied(clips_folder, tmp_path) as (_, root):
        found: list[Any] = []
        # The iterators are made in this thread and read in others.
        threads = [
            threading.Thread(target=lambda records: found.append(paths_of(records)), args=[lp.scan("number", root)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == 4 * [CLIPS]
        assert unsaved(root) == []


def summarize(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, output=record.attributes["number"] * 2)


@pytest.mark.parametrize("commit_every", [7, 500])
def test_writing_to_the_tree_that_is_scanned(clips_folder: Path, tmp_path: Path, commit_every: int) -> None:
    with copied(clips_folder, tmp_path) as (_, root):
        seen: list[Any] = []

        def noted(record: lp.NodeRecord) -> lp.NodeRecord:
            seen.append(record.path)
            return record

        report = pipe(
            lp.scan("number", root),
            lambda records: (summarize(noted(record)) for record in records),
            lp.write(lp.inline("_proc", "summary"), root, commit_every=commit_every),
        )
        assert report.written == len(CLIPS)
        assert seen == CLIPS
        assert paths_of(lp.scan((), root, skip="_proc")) == CLIPS
        again = list(lp.scan("result", root))
        assert paths_of(again) == [(*path, "_proc", "summary") for path in CLIPS]
        assert [record.attributes["result"] for record in again] == 20 * [2 * number for number in range(80)]


def test_a_scan_in_a_pipeline_with_processes(clips_folder: Path, tmp_path: Path) -> None:
    with copied(clips_folder, tmp_path) as (_, root):
        outputs = pipe(
            root,
            lp.scan("number", where="c00", skip="s1*"),
            lp.chunked(9),
            lp.parallel_map(len, max_workers=2, mode="process"),
            list,
        )
        assert sum(outputs) == 100


def test_the_stage_pickles_and_can_be_used_again(clips_folder: Path, tmp_path: Path) -> None:
    with copied(clips_folder, tmp_path) as (_, root):
        stage = pickle.loads(pickle.dumps(lp.scan(["number"], where=["^c01", {"number": 15}], skip="s1*", level=2)))
        for _ in range(2):
            assert paths_of(stage(root)) == [(f"s{number:02}", "c015") for number in range(10)]
        assert repr(lp.scan("number", skip="_*")) == "scan('number', skip='_*')"


def test_a_connection_that_was_closed_is_refused(tmp_path: Path) -> None:
    with closing(LOTDB(path=str(tmp_path), name="tree", new=True)) as database:
        root = database.open_connection()
        database.close_connection()
        for stage in (lp.scan("x"), lp.partitions(2)):
            with pytest.raises(lp.ArgumentError, match="the connection of its root is closed; open it again"):
                stage(root)


def test_what_is_no_root_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with closing(LOTDB(path=str(tmp_path), name="tree", new=True)) as database:
        parts = lp.partitions(2, database.open_connection())
    for wrong, hint in [
        (parts, r"one by one, as parallel_map\(compose_left\(scan"),
        (str(tmp_path), "open it first"),
        (tmp_path, "open it first"),
        (None, "got None"),
    ]:
        with pytest.raises(lp.ArgumentTypeError, match=f"scan: expected a lotdb node.*{hint}"):
            lp.scan("x", wrong)  # type: ignore[call-overload]
    with pytest.raises(lp.ArgumentTypeError, match=r"only scan\(\), pending\(\) and write\(\) take places"):
        lp.leaves(parts[0])  # type: ignore[call-overload]
    with pytest.raises(lp.ArgumentTypeError, match=r"scan it first: compose_left\(scan"):
        lp.each(len, parts[0])  # type: ignore[call-overload]
