"""Attributes of many nodes at once: trees that have split and references to files give what objects give."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, strategies as st
from lotdb import BaseNode, PathFileObj
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from trees import AnyStorage, attribute_dicts, commit, exactly, fast_ways, opened, values
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

import lotproc as lp
from lotproc.zodb.values import ValueReader

#: Some names here are those of no node, on purpose; `told` compares what is told of them.
pytestmark = pytest.mark.filterwarnings("ignore:.* no node had an attribute")


@pytest.fixture(scope="module", params=[FileStorage, AnyStorage])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    """The root of a tree in a file."""
    with opened(request.param(str(tmp_path_factory.mktemp("values") / "data.fs"))) as root:
        yield root


def fresh(root: BaseNode) -> BaseNode:
    """A new node below a root, whose own tree is that of one example."""
    root._p_jar.transaction_manager.abort()  # what a failed example left
    node = root.gn(f"example {len(root.node_storage)}")
    commit(root)
    return node


def told(read: Any) -> tuple[Any, list[str]]:
    """What is read, or the error, and what it warns of, whichever stage it is."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = [exactly(record) for record in read()]
        except lp.LotprocError as error:
            found = [type(error), str(error).replace("scan: ", "").replace("snapshot: ", "")]
    return found, [str(each.message).replace("scan: ", "").replace("snapshot: ", "") for each in caught]


def assert_same(root: BaseNode, names: Any, **options: Any) -> Any:
    """`scan` gives, raises and warns what `snapshot` of the leaves does."""
    found = told(lambda: lp.scan(names, root, **options))
    assert found == told(lambda: lp.snapshot(names, lp.leaves(root), **options))
    return found


def assert_no_wrong_record(root: BaseNode, names: Any, original: list[Any]) -> None:
    """What `scan` gives of a damaged tree is what objects give one by one, or what there was before the damage."""
    found, _ = told(lambda: lp.scan(names, root, on_error="collect"))
    with mock.patch.object(ValueReader, "read", lambda self, records, *_, **__: [None] * len(records.starts)):
        one_by_one, _ = told(lambda: lp.scan(names, root, on_error="collect"))
    assert len(found) == len(one_by_one) == len(original)
    assert all(item in each for item, *each in zip(found, one_by_one, original, strict=True))


# --- Files ------------------------------------------------------------------------------------------------------------

parts = st.text(st.sampled_from("aQé ~.!\\C\x08日\ud800"), min_size=1, max_size=4)
filepaths = st.one_of(
    st.sampled_from(["", "/", "a", "/a", "/mnt/c/a.wav", "/mnt/c", ".", "a/"]),
    st.sampled_from(["C:\\a\\b.wav", "C:b.wav", "\\\\host\\share\\a", "c:\\"]),
    st.lists(parts, min_size=1, max_size=4).map("/".join),
    st.lists(parts, min_size=1, max_size=4).map(lambda keys: "/data/" + "/".join(keys)),
    st.tuples(st.sampled_from(["/data/ann", "/data/bob", "data"]), parts).map("/".join),
)


@given(
    nodes=st.lists(
        st.one_of(
            filepaths.map(lambda path: {"file": path}),
            st.tuples(filepaths, filepaths).map(lambda pair: {"again": pair[0], "file": pair[1]}),
            st.dictionaries(st.sampled_from(["a", "file", "z"]), values, max_size=3),
        ),
        min_size=1,
        max_size=8,
    ),
    shared=st.booleans(),
)
def test_files_are_the_paths_that_objects_give(place: BaseNode, nodes: list[dict[str, Any]], shared: bool) -> None:
    root = fresh(place)
    known: dict[str, PathFileObj] = {}
    for number, attributes in enumerate(nodes):
        for name, value in attributes.items():
            if type(value) is str and name in ("file", "again"):
                value = known.setdefault(value, PathFileObj(filepath=value)) if shared else PathFileObj(filepath=value)
            root.gn(str(number)).set_attribute(name, value)
    root.set_attribute("above", PathFileObj(filepath="/data/above"))
    commit(root)
    for names in (..., "file", ("a", "file"), "a", ()):
        assert_same(root, names)
        assert_same(root, names, inherit="above")
    assert_same(root, (), inherit=("above", "file"))
    has_suffix = lp.scan("a", root, where={"file": lambda file: isinstance(file, Path) and len(file.name) > 2})
    assert [record.path for record in has_suffix] == [
        record.path
        for record in lp.snapshot("file", lp.leaves(root))
        if isinstance(file := record.attributes["file"], Path) and len(file.name) > 2
    ]


class Marked(PathFileObj):
    """Refers to something else than it says."""

    @property
    def path(self) -> Path:
        return super().path.with_suffix(".marked")


class Folders(PersistentList):
    """A list that is read backwards."""

    def __iter__(self) -> Iterator[Any]:
        return reversed(self.data)


def odd_files() -> dict[str, Any]:
    """References that differ from others in one thing each."""
    odd = {name: PathFileObj(filepath="/data/ann/c.wav") for name in "abcdefgh"}
    odd["a"].more = 1
    odd["b"].root_path_list = ["data", "bob"]
    odd["c"].root_path_list = Folders(["data", "bob"])
    odd["d"].root_path_list.more = 1
    odd["e"]._file = ""
    odd["f"]._is_absolute = None
    odd["g"]._path_style = "other"
    odd["h"].root_path_list = PersistentList(["data", "an/n"])
    odd["i"] = Marked(filepath="/data/ann/c.wav")
    odd["j"] = [PathFileObj(filepath="/data/ann/c.wav")]
    odd["k"] = PersistentMapping(file=PathFileObj(filepath="/data/ann/c.wav"))
    odd["l"] = PersistentList(["data", "ann"])
    odd["m"] = None
    odd["n"] = "C\x08\x00\x00\x00\x00\x00\x00\x00\x01"
    return odd


@pytest.mark.parametrize("odd_first", [True, False])
def test_odd_files_among_others(place: BaseNode, odd_first: bool) -> None:
    root = fresh(place)
    for number in range(40):
        root.gn(f"{number:03}").set_attribute("file", PathFileObj(filepath=f"/data/ann/{number}.wav"))
    for number, value in enumerate(odd_files().values()):
        root.gn(f"{'!' if odd_first else '~'}{number:03}").set_attribute("file", value)
        root.gn("020").gn(f"{number:03}").set_attribute("file", value)
    commit(root)
    (records, _) = assert_same(root, "file")
    assert any("c.marked" in repr(record) for record in records)


def test_a_class_of_files_that_keeps_its_state_otherwise(place: BaseNode, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fresh(place)
    for number in range(3):
        root.gn(str(number)).set_attribute("file", PathFileObj(filepath=f"/data/{number}.wav"))
    commit(root)
    before, _ = assert_same(root, "file")
    monkeypatch.setattr(
        PathFileObj,
        "__setstate__",
        lambda self, state: self.__dict__.update({**state, "_file": state["_file"].replace("1", "one")}),
        raising=False,
    )
    root._p_jar.cacheMinimize()
    after, _ = assert_same(root, "file")
    assert [before != after, "one.wav" in repr(after)] == [True, True]
    root._p_jar.cacheMinimize()
    monkeypatch.undo()
    monkeypatch.setattr(PathFileObj, "path", property(lambda self: Path("/elsewhere", self._file)))
    found, _ = assert_same(root, "file")
    assert "/elsewhere/2.wav" in repr(found)


class LyingStorage(MappingStorage):
    """Gives other records than were stored."""

    def __init__(self) -> None:
        super().__init__()
        self.instead: dict[bytes, bytes] = {}

    def loadBefore(self, oid: bytes, tid: bytes) -> Any:
        data, *more = super().loadBefore(oid, tid)
        return self.instead.get(oid, data), *more

    def load(self, oid: bytes, version: str = "") -> Any:
        data, tid = super().load(oid, version)
        return self.instead.get(oid, data), tid


@contextmanager
def lying() -> Iterator[tuple[BaseNode, LyingStorage]]:
    storage = LyingStorage()
    with opened(storage) as root:
        yield root, storage


def test_records_of_files_that_differ_in_a_byte() -> None:
    with lying() as (root, storage):
        for number in range(6):
            root.gn(str(number)).set_attribute("file", PathFileObj(filepath=f"/data/{number}.wav"))
        commit(root)
        original, _ = told(lambda: lp.scan("file", root))
        reference = root.gn("3").get_attribute("file")
        reference._p_activate()
        for stored in (reference, reference.root_path_list):
            stored._p_activate()
            data, _ = storage.load(stored._p_oid)
            for place in range(len(data)):
                if data[place] ^ 1 in (ord("r"), 0x96):  # which reserve memory for gigabytes
                    continue
                storage.instead = {stored._p_oid: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]}
                root._p_jar.cacheMinimize()
                assert_no_wrong_record(root, "file", original)


def test_a_file_or_its_folder_that_is_gone(place: BaseNode) -> None:
    with lying() as (root, storage):
        for number in range(6):
            root.gn(str(number)).set_attribute("file", PathFileObj(filepath=f"/data/{number}.wav"))
            root.gn(str(number)).set_attribute("number", number)
        commit(root)
        reference = root.gn("3").get_attribute("file")
        reference._p_activate()
        for oid in (reference._p_oid, reference.root_path_list._p_oid):
            history = storage._data.pop(oid)
            root._p_jar.cacheMinimize()
            found = list(lp.scan("file", root, on_error="collect"))
            assert [type(item) is lp.Failure for item in found] == [number == 3 for number in range(6)]
            assert_same(root, "number")
            storage._data[oid] = history


# --- Trees that have split --------------------------------------------------------------------------------------------


def split_names(count: int) -> list[str]:
    return [f"n{number:04}" for number in range(count)]


@given(
    counts=st.lists(st.integers(0, 70), min_size=1, max_size=5),
    more=attribute_dicts(),
    step=st.integers(1, 7),
    asked=st.lists(st.integers(-1, 71), max_size=4),
)
def test_trees_that_have_split(
    place: BaseNode, counts: list[int], more: dict[str, Any], step: int, asked: list[int]
) -> None:
    root = fresh(place)
    for key, count in enumerate(counts):
        node = root.gn(str(key))
        for name in split_names(count)[::step]:
            node.set_attribute(name, f"{name} of {key}")
        if key % 2:
            for name, value in more.items():
                node.set_attribute(name, value)
    commit(root)
    names = [f"n{number:04}" if number >= 0 else "a" for number in asked]
    for each in (..., names, [*names, "Q"], "n0014", "n0015"):
        assert_same(root, each)
        assert_same(root, each, missing="error")
    assert_same(root, (), inherit=names)


@pytest.mark.parametrize("count", [29, 30, 31, 32, 45, 100, 300])
def test_each_of_many_names(place: BaseNode, count: int) -> None:
    root = fresh(place)
    for key in range(40):
        for number, name in enumerate(split_names(count)):
            root.gn(f"{key:02}").set_attribute(name, (key, number, "Q"))
    commit(root)
    for number in {0, 1, 13, 14, 15, 16, 29, 30, 31, count - 1, count} & set(range(count + 1)):
        records, warned = assert_same(root, f"n{number:04}")
        assert len(records) == 40
        assert len(warned) == (number == count)
    assert_same(root, ...)


def test_a_tree_in_parts_of_parts(place: BaseNode) -> None:
    root = fresh(place)
    for name in split_names(9_000):
        root.gn("a").set_attribute(name, 1)
    root.gn("b").set_attribute("n8000", 2)
    commit(root)
    records, _ = assert_same(root, ("n8000", "n0001"))
    assert len(records) == 2


def test_parts_of_trees_that_differ_in_a_byte() -> None:
    with lying() as (root, storage):
        for key in "abc":
            for name in split_names(32):
                root.gn(key).set_attribute(name, key)
        commit(root)
        original = {
            names: told(functools.partial(lp.scan, names, root))[0] for names in ("n0014", ("n0015", "n0031"), ...)
        }
        tree = root.gn("b").attribute_storage
        tree._p_activate()
        last = tree._firstbucket
        last._p_activate()
        for stored in (tree, tree._firstbucket, last._next):
            data, _ = storage.load(stored._p_oid)
            # Of the tree only the key at which it has split: BTrees crash where something else is not as they made it.
            places = range(data.index(b"n0015"), data.index(b"n0015") + 5) if stored is tree else range(0, len(data), 5)
            for place in places:
                if data[place] ^ 1 in (ord("r"), 0x96):
                    continue
                storage.instead = {stored._p_oid: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]}
                for names in original:
                    root._p_jar.cacheMinimize()
                    assert_no_wrong_record(root, names, original[names])


@fast_ways
def test_only_parts_that_may_have_the_names_are_read() -> None:
    class Counting(MappingStorage):
        count = 0

        def loadBefore(self, oid: bytes, tid: bytes) -> Any:
            self.count += 1
            return super().loadBefore(oid, tid)

    storage = Counting()
    with opened(storage) as root:
        for key in range(400):
            for name in split_names(100):
                root.gn(f"{key:03}").set_attribute(name, key)
        commit(root)
        counts = []
        for names in ("n0007", ("n0007", "n0080"), ...):
            storage.count = 0
            assert len(list(lp.scan(names, root))) == 400
            counts.append(storage.count / 400)
        # A node, its two trees, and the parts: one, two, or all; of the first nodes all, to look for the names.
        assert 4 < counts[0] < 5 < counts[1] < 6 < 9 < counts[2]
