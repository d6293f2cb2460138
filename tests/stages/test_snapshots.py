"""Records are detached: equal to what was stored, in plain types, and nothing done to them reaches the tree."""

from __future__ import annotations

import collections
import contextlib
import datetime
import decimal
import enum
import importlib
import io
import itertools
import pickle
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import FrozenInstanceError, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from BTrees.fsBTree import fsBTree
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree
from hypothesis import example, given, settings, strategies as st
from lotdb import LOTDB, BaseNode, DataNode, DataObject, PathFileObj, add_blob
from persistent import Persistent
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from trees import (
    Tree,
    as_dict,
    attributes_of,
    build,
    keys,
    leaf_paths,
    planted,
    pre_order,
    saved,
    stored,
    trees,
    unsaved,
)
from ZODB.POSException import ConflictError

import lotproc as lp

#: Many names here are those of no node, on purpose; what is told of them is held by `test_missing_names`.
pytestmark = pytest.mark.filterwarnings("ignore:.* no node had an attribute")

PLACES = ["memory", "storage"]
in_both_places = pytest.mark.parametrize("place", PLACES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("snapshots")


class NothingPersistent(pickle.Pickler):
    """A pickler that refuses persistent objects, wherever in a value they are."""

    def persistent_id(self, value: Any) -> None:
        assert not isinstance(value, Persistent), f"a persistent {type(value).__name__} in a record"


def assert_detached(record: lp.NodeRecord) -> None:
    """A record pickles, comes back the same, and holds no persistent object."""
    buffer = io.BytesIO()
    NothingPersistent(buffer, protocol=5).dump(record)
    copy = pickle.loads(buffer.getvalue())
    assert same(copy.attributes, record.attributes)
    assert (copy.path, copy.key) == (record.path, record.key)


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def spoil(value: Any) -> None:
    """Change all of a value that can be changed."""
    if isinstance(value, dict):
        for item in value.values():
            spoil(item)
        value.clear()
    elif isinstance(value, list):
        for item in value:
            spoil(item)
        value.append("spoiled")
    elif isinstance(value, tuple):
        for item in value:
            spoil(item)
    elif isinstance(value, set):
        value.add("spoiled")
    elif isinstance(value, np.ndarray):
        value.fill(0)
    elif isinstance(value, Segment):
        value.labels.append("spoiled")


def snapshot_of(root: BaseNode, *names: str) -> lp.NodeRecord:
    (record,) = lp.snapshot(names or ..., [root])
    return record


@dataclass
class Segment:
    start: float
    labels: list[str] = field(default_factory=list)


@dataclass
class Holder:
    inside: Any


class Kind(enum.Enum):
    SPEECH = 1


class Counter(Persistent):
    count = 0


class Reading(PersistentMapping):
    pass


# --- Names -----------------------------------------------------------------------------------------------------------


@in_both_places
@given(tree=trees)
def test_all_attributes_of_all_nodes(place: str, folder: Path, tree: Tree) -> None:
    with planted(place, folder, tree) as root:
        records = list(lp.snapshot(..., lp.walk(root)))
        assert [record.path for record in records] == pre_order(tree)
        assert [record.attributes for record in records] == [attributes_of(path) for path in pre_order(tree)]
        assert [record.key for record in records] == [root.key, *(path[-1] for path in pre_order(tree)[1:])]
        assert all(record.payload is None for record in records)


@in_both_places
@given(tree=trees, names=st.lists(st.sampled_from(["depth", "even", "name", "absent", "also absent"]), max_size=4))
def test_the_attributes_that_are_named_and_none_for_those_that_are_absent(
    place: str, folder: Path, tree: Tree, names: list[str]
) -> None:
    with planted(place, folder, tree) as root:
        expected = [{name: attributes_of(path).get(name) for name in names} for path in leaf_paths(tree)]
        for given_names in (names, tuple(names), dict.fromkeys(names), dict.fromkeys(names).keys()):
            records = list(lp.snapshot(given_names, lp.leaves(root)))
            assert [record.attributes for record in records] == expected
            assert all(list(record.attributes) == list(dict.fromkeys(names)) for record in records)


def test_one_name_is_a_name_and_not_its_letters() -> None:
    root = BaseNode("root")
    root.set_attribute("ab", 1)
    assert snapshot_of(root, "ab").attributes == {"ab": 1}
    assert [record.attributes for record in lp.snapshot("ab", [root])] == [{"ab": 1}]


@pytest.mark.parametrize("partial", [False, True])
def test_names_may_come_from_a_generator(partial: bool) -> None:
    root = build({})
    names = (name for name in ["depth", "name"])
    records = lp.snapshot(names)([root]) if partial else lp.snapshot(names, [root])
    assert [record.attributes for record in records] == [{"depth": 0, "name": ""}]


def test_a_stage_with_names_from_a_generator_can_be_used_again() -> None:
    stage = lp.snapshot(name for name in ["depth"])
    assert [[record.attributes for record in stage([build({})])] for _ in range(2)] == [[{"depth": 0}]] * 2


def test_an_attribute_that_is_none_is_there() -> None:
    root = BaseNode("root")
    root.set_attribute("empty", None)
    assert snapshot_of(root).attributes == {"empty": None}


@given(names=st.lists(keys, max_size=5))
def test_any_name_is_a_name(names: list[str]) -> None:
    root = BaseNode("root")
    for name in names:
        root.set_attribute(name, f"value of {name}")
    assert snapshot_of(root).attributes == {name: f"value of {name}" for name in names}
    assert snapshot_of(root, *names, "¬").attributes == {"¬": None} | {name: f"value of {name}" for name in names}


@given(tree=trees)
def test_snapshots_register_nothing(folder: Path, tree: Tree) -> None:
    with stored(folder, tree) as root:
        for names in (..., "depth", "absent", ["absent", "name"], ()):
            for record in lp.snapshot(names, lp.walk(root), payload=lambda node: node.get_attribute("absent")):
                assert record.path is not None
                assert unsaved(root) == []
        assert as_dict(root) == tree


def test_paths_start_below_the_root_of_the_whole_tree() -> None:
    root = build({"ann": {"clip": {}}})
    (record,) = lp.snapshot((), lp.leaves(root.get_node("ann", create=False)))
    assert record.path == ("ann", "clip")
    assert isinstance(record.path, tuple)


# --- Values ----------------------------------------------------------------------------------------------------------

# Pairs of a value as it is stored and the plain value that a record must hold.
Pair = tuple[Any, Any]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.binary(max_size=5),
    st.datetimes(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.just(Kind.SPEECH),
)
atoms: st.SearchStrategy[Pair] = st.one_of(
    scalars.map(lambda value: (value, value)),
    st.lists(st.sampled_from("ab"), max_size=3).map(lambda labels: (Segment(1.5, labels), Segment(1.5, list(labels)))),
    st.lists(st.integers(0, 9), max_size=3).map(lambda values: (np.array(values), np.array(values))),
    st.sampled_from(["/data/a b.wav", "a/é.wav", "b"]).map(lambda path: (PathFileObj(filepath=path), Path(path))),
    st.sets(st.text("ab", max_size=2), max_size=3).flatmap(
        lambda values: st.sampled_from([(set(values), values), (frozenset(values), frozenset(values))])
    ),
)


def listed(pairs: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    kinds = st.sampled_from([(list, list), (tuple, tuple), (PersistentList, list)])
    return st.builds(
        lambda kind, items: (kind[0](item[0] for item in items), kind[1](item[1] for item in items)),
        kinds,
        st.lists(pairs, max_size=3),
    )


def mapped(pairs: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    return st.builds(
        lambda kind, items: (
            kind({key: item[0] for key, item in items.items()}),
            {key: item[1] for key, item in items.items()},
        ),
        st.sampled_from([dict, PersistentMapping, OOBTree, Reading]),
        st.dictionaries(keys, pairs, max_size=3),
    )


values = st.recursive(atoms, lambda pairs: st.one_of(listed(pairs), mapped(pairs)), max_leaves=6)


def with_value(place: str, folder: Path, value: Any) -> Any:
    """A root with one attribute, "value"; in a storage that was opened again, if that is the place."""
    if place == "memory":
        root = BaseNode("root")
        root.set_attribute("value", value)
        return closing(Holding(root))
    database, root = saved(folder, {})
    root.set_attribute("value", value)
    database.commit()
    database.close()
    database = LOTDB(path=database.path, name=database.name)
    return closing(Holding(database.open_connection(), database))


class Holding:
    def __init__(self, root: BaseNode, database: LOTDB | None = None) -> None:
        self.root, self.database = root, database

    def close(self) -> None:
        if self.database is not None:
            assert unsaved(self.root) == []
            self.database.close()


@in_both_places
@given(pair=values)
def test_a_value_becomes_its_plain_kin_and_nothing_done_to_it_reaches_the_tree(
    place: str, folder: Path, pair: Pair
) -> None:
    value, expected = pair
    with with_value(place, folder, value) as holding:
        record = snapshot_of(holding.root, "value")
        assert same(record.attributes["value"], expected)
        assert_detached(record)
        spoil(record.attributes["value"])
        record.attributes.clear()
        assert same(snapshot_of(holding.root, "value").attributes["value"], expected)
        assert same(snapshot_of(holding.root).attributes["value"], expected)


MAPPING_FAMILIES = ["OO", "OI", "OL", "OU", "OQ", "IO", "II", "IF", "IU", "LO", "LL", "LF", "LQ", "UO", "UU", "UF"]
MAPPING_FAMILIES += ["UI", "QO", "QQ", "QF", "QL"]


@pytest.mark.parametrize("family", MAPPING_FAMILIES)
def test_btrees_of_every_family_become_dicts_and_sets(folder: Path, family: str) -> None:
    module = importlib.import_module(f"BTrees.{family}BTree")
    made_of = {"O": str, "F": float}
    plain_keys = [made_of.get(family[0], int)(number) for number in range(100)]
    plain = {key: made_of.get(family[1], int)(number) for number, key in enumerate(plain_keys)}
    for kind, expected in (
        (f"{family}BTree", plain),
        (f"{family}Bucket", plain),
        (f"{family}TreeSet", set(plain)),
        (f"{family}Set", set(plain)),
    ):
        for place in PLACES:
            with with_value(place, folder, getattr(module, kind)(expected)) as holding:
                record = snapshot_of(holding.root)
                assert same(record.attributes["value"], expected), kind
                assert_detached(record)


def test_a_btree_of_bytes_becomes_a_dict() -> None:
    tree = fsBTree()
    tree[b"ab"] = b"abcdef"
    root = BaseNode("root")
    root.set_attribute("value", tree)
    assert snapshot_of(root).attributes == {"value": {b"ab": b"abcdef"}}


def test_a_counter_of_btrees_is_refused_like_other_persistent_objects() -> None:
    root = build({"ann": {}})
    root.get_node("ann", create=False).set_attribute("count", Length(3))
    with pytest.raises(lp.DetachError, match=r"'count' at ann .*Length, which has no plain kin"):
        list(lp.snapshot("count", lp.leaves(root)))


ARRAYS = {
    "plain": np.arange(6, dtype="<i2").reshape(2, 3),
    "big endian": np.arange(3, dtype=">f8"),
    "a view of every other element": np.arange(20.0)[::2],
    "fortran order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 3)),
    "no dimension": np.array(3.5),
    "text": np.array(["a", "bc"]),
    "structured": np.array([(1, 2.5)], dtype=[("n", "i4"), ("x", "f8")]),
    "complex": np.array([1 + 2j]),
    "bool": np.array([True, False]),
    "dates": np.array(["2024-01-01"], dtype="datetime64[D]"),
    "objects": np.array([[1], "a"], dtype=object),
}


@in_both_places
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_arrays_are_copied(place: str, folder: Path, array: np.ndarray[Any, Any]) -> None:
    with with_value(place, folder, array) as holding:
        stored_array = holding.root.get_attribute("value")
        record = snapshot_of(holding.root)
        copy = record.attributes["value"]
        assert type(copy) is np.ndarray
        assert copy.dtype == stored_array.dtype  # numpy makes the byte order native when it unpickles
        assert np.array_equal(copy, array)
        assert not np.shares_memory(copy, stored_array)
        assert copy.flags.writeable
        assert_detached(record)
        if array.dtype.hasobject:
            copy[0].append(2)
        elif array.dtype.kind in "ifc":
            copy.fill(7)
        assert np.array_equal(snapshot_of(holding.root).attributes["value"], stored_array)
        assert np.array_equal(stored_array, array)


def test_a_masked_array_stays_masked() -> None:
    root = BaseNode("root")
    root.set_attribute("value", np.ma.masked_array([1, 2], mask=[True, False]))
    copy = snapshot_of(root).attributes["value"]
    assert isinstance(copy, np.ma.MaskedArray)
    copy[1] = 9
    assert root.get_attribute("value").tolist() == [None, 2]


OTHERS = {
    "ordered": collections.OrderedDict(b=1, a=[2]),
    "default": collections.defaultdict(list, a=[1]),
    "counted": collections.Counter("aab"),
    "deque": collections.deque([1, [2]]),
    "bytearray": bytearray(b"ab"),
    "range": range(3),
    "numpy scalar": np.float32(1.5),
    "time zone": datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
    "date": datetime.date(2024, 1, 1),
    "decimal": decimal.Decimal("1.50"),
    "uuid": uuid.UUID(int=3),
    "path": Path("/data/a.wav"),
    "enum": Kind.SPEECH,
    "class": Segment,
    "function": len,
    "ellipsis": ...,
    "deep": [[[[{"a": ({"b": [1]},)}]]]],
}


@in_both_places
@pytest.mark.parametrize("value", OTHERS.values(), ids=OTHERS.keys())
def test_values_of_other_classes_are_copied_as_they_are(place: str, folder: Path, value: Any) -> None:
    with with_value(place, folder, value) as holding:
        record = snapshot_of(holding.root)
        assert record.attributes["value"] == value
        assert type(record.attributes["value"]) is type(value)
        assert_detached(record)


@pytest.mark.parametrize("value", [v for v in OTHERS.values() if isinstance(v, (dict, list, collections.deque))])
def test_containers_of_other_classes_are_new(value: Any) -> None:
    root = BaseNode("root")
    root.set_attribute("value", value)
    assert snapshot_of(root).attributes["value"] is not value


def test_persistent_mappings_and_lists_that_lotdb_uses_come_as_dicts() -> None:
    root = BaseNode("root")
    root.set_attribute("value", PersistentMapping(files=PersistentList([PathFileObj(filepath="/a/b.wav")])))
    assert snapshot_of(root).attributes == {"value": {"files": [Path("/a/b.wav")]}}


def test_a_path_becomes_that_of_this_platform(folder: Path) -> None:
    for filepath in ("/data/a.wav", "relative/a.wav", "C:\\data\\a.wav"):
        stored_path = PathFileObj(filepath=filepath)
        with with_value("storage", folder, stored_path) as holding:
            assert snapshot_of(holding.root).attributes["value"] == Path(stored_path.filepath)


# --- Payloads --------------------------------------------------------------------------------------------------------


def test_the_payload_is_what_the_function_makes_of_the_live_node() -> None:
    root = build({"a": {}, "b": {}})
    records = list(lp.snapshot("depth", lp.leaves(root), payload=lambda node: (node.key, node.get_attribute("name"))))
    assert [record.payload for record in records] == [("a", "a"), ("b", "b")]
    assert [record.attributes for record in records] == [{"depth": 1}, {"depth": 1}]


def test_the_payload_function_is_called_once_for_each_node_and_not_before() -> None:
    called = []
    records = lp.snapshot((), lp.leaves(build({"a": {}, "b": {}})), payload=lambda node: called.append(node.key))
    assert called == []
    next(records)
    assert called == ["a"]
    assert len(list(records)) == 1
    assert called == ["a", "b"]


def test_an_array_that_the_function_reads_is_the_payload(folder: Path) -> None:
    database, root = saved(folder, {})
    with closing(database):
        node = root.get_data_node(["clip"], samplerate_hz=10.0, backend="blob")
        node.write_data(np.arange(30.0))
        database.commit()
        (record,) = lp.snapshot((), lp.leaves(root), payload=lambda node: node.read_seconds(1.0, 2.0))
        assert record.payload.tolist() == list(range(10, 20))
        assert unsaved(root) == []


def test_a_stored_object_as_payload_becomes_its_plain_kin(folder: Path) -> None:
    database, root = saved(folder, {})
    with closing(database):
        root.set_attribute("file", PathFileObj(filepath="/data/a.wav"))
        root.set_attribute("tags", PersistentList([PersistentMapping(a=1)]))
        add_blob(root, data=b"bytes")
        database.commit()
        for name, expected in (("file", Path("/data/a.wav")), ("tags", [{"a": 1}])):
            (record,) = lp.snapshot((), [root], payload=lambda node, name=name: node.get_attribute(name))
            assert same(record.payload, expected)
            assert_detached(record)
        (record,) = lp.snapshot((), [root], payload=lambda node: node.get_attribute("_blob"))
        assert record.payload.read() == b"bytes"
        assert_detached(record)


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"file": value}, lambda value: (value,)])
def test_no_persistent_object_comes_into_a_record_inside_a_payload(wrap: Callable[[Any], Any]) -> None:
    root = build({"ann": {}})
    root.get_node("ann", create=False).set_attribute("file", PathFileObj(filepath="/data/a.wav"))
    with contextlib.suppress(lp.DetachError):  # refused is as good
        (record,) = lp.snapshot((), lp.leaves(root), payload=lambda node: wrap(node.get_attribute("file")))
        assert_detached(record)


@pytest.mark.parametrize("value", [[1, 2], {"a": [1]}, np.arange(3.0), Segment(1.0, ["a"])], ids=repr)
def test_nothing_done_to_a_payload_reaches_the_tree(value: Any) -> None:
    root = BaseNode("root")
    root.set_attribute("value", value)
    before = pickle.dumps(value)
    (record,) = lp.snapshot((), [root], payload=lambda node: node.get_attribute("value"))
    spoil(record.payload)
    assert pickle.dumps(root.get_attribute("value")) == before


def test_a_live_node_as_payload_is_refused() -> None:
    with pytest.raises(lp.DetachError, match="the payload at ann can't be detached: it is a live node, ann"):
        list(lp.snapshot((), lp.leaves(build({"ann": {}})), payload=lambda node: node))


def test_an_error_of_the_payload_function_comes_through_and_tells_the_path() -> None:
    def payload(node: BaseNode) -> Any:
        raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError, match="on purpose") as caught:
        list(lp.snapshot((), lp.leaves(build({"ann": {"clip": {}}})), payload=payload))
    assert any("ann/clip" in note for note in getattr(caught.value, "__notes__", []))


# --- Payloads by name ------------------------------------------------------------------------------------------------


def with_audio(root: BaseNode, key: str, samples: np.ndarray[Any, Any], backend: str = "blob") -> DataNode:
    node = root.get_data_node([key], samplerate_hz=10.0, backend=backend, data_attribute="audio")
    node.write_data(samples)
    return node


def test_a_data_attribute_that_is_named_becomes_a_handle_and_an_absent_one_none(folder: Path) -> None:
    database, root = saved(folder, {"b": {}})
    with closing(database):
        with_audio(root, "a", np.arange(30.0))
        database.commit()
        first, second = lp.snapshot("depth", lp.leaves(root), payload="audio")
        assert isinstance(first.payload, lp.PayloadHandle)
        assert (first.payload.shape, first.payload.dtype, first.payload.samplerate_hz) == ((30,), "float64", 10.0)
        assert first.payload.read().tolist() == list(range(30))
        assert first.attributes == {"depth": None}
        assert second.payload is None
        assert second.attributes == {"depth": 1}
        assert unsaved(root) == []
        assert_detached(first)
        copy = pickle.loads(pickle.dumps(first))
        assert copy == first
        assert copy.payload.read().tolist() == list(range(30))


def test_any_node_has_payloads_by_name(folder: Path) -> None:
    database, root = saved(folder, {"a": {}})
    with closing(database):
        leaf = root.get_node("a", create=False)
        add_blob(leaf, data=b"bytes")
        leaf.set_attribute("raw", leaf.get_attribute("_blob").blob)
        leaf.set_attribute("empty", None)
        database.commit()
        stage = lp.snapshot((), payload="_blob")
        assert [record.payload.read() for record in pickle.loads(pickle.dumps(stage))([leaf])] == [b"bytes"]
        assert [record.payload.read() for record in lp.snapshot((), [leaf], payload="raw")] == [b"bytes"]
        assert [record.payload for record in lp.snapshot((), [leaf], payload="empty")] == [None]
        assert [record.payload for record in lp.snapshot((), [leaf], payload="absent")] == [None]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "expected a DataObject, a BlobObject or a Blob, got float 1.5"),
        (PathFileObj(filepath="/data/a.wav"), "expected a DataObject, a BlobObject or a Blob, got .*PathFileObj"),
        (Counter(), "expected a DataObject, a BlobObject or a Blob, got .*Counter"),
        (DataObject(backend="blob"), "it is a data object that nothing was written to"),
    ],
)
def test_a_named_payload_that_is_no_payload_is_refused_with_path_and_name(value: Any, text: str) -> None:
    root = build({"ann": {"clip": {}}})
    root.get_node_path(["ann", "clip"], create=False).set_attribute("audio", value)
    with pytest.raises(lp.DetachError, match=f"snapshot: attribute 'audio' at ann/clip can't be the payload: {text}"):
        list(lp.snapshot((), lp.leaves(root), payload="audio"))


@pytest.mark.parametrize("payload", [3, ["audio"], b"audio", ...])
def test_a_payload_that_is_neither_a_name_nor_a_function_is_refused_at_once(payload: Any) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="snapshot: payload must be the name of a data attribute or a funct"):
        lp.snapshot((), payload=payload)


# --- Paths are those of the moment -----------------------------------------------------------------------------------


def commit(manager: Any) -> None:
    try:
        manager.commit()
    except ConflictError:
        manager.abort()


class Changes:
    """What may be done to a tree between two records."""

    def __init__(self, root: BaseNode, other: BaseNode | None = None) -> None:
        self.root, self.other = root, other
        self.savepoint: Any = None
        self.number = 0

    def make(self, change: str, node: BaseNode) -> None:
        self.number += 1
        if change == "rename":
            node.key = f"renamed {self.number}"
        elif change == "move":
            if node.parent is not None:
                self.root.add_tree(node)
        elif change == "put in between":
            if node.parent is not None:
                node.parent.gn(f"between {self.number}").add_tree(node)
        else:
            getattr(self, change.replace(" ", "_"))(self.root._p_jar.transaction_manager)

    def commit(self, manager: Any) -> None:
        self.savepoint = None
        commit(manager)

    def abort(self, manager: Any) -> None:
        self.savepoint = None
        manager.abort()

    def set_savepoint(self, manager: Any) -> None:
        self.savepoint = manager.savepoint()

    def roll_back(self, manager: Any) -> None:
        if self.savepoint is not None:
            self.savepoint.rollback()

    def drop_what_is_loaded(self, manager: Any) -> None:
        self.root._p_jar.cacheMinimize()

    def rename_elsewhere(self, manager: Any) -> None:
        elsewhere = self.other._p_jar.transaction_manager
        elsewhere.begin()
        for child in self.other.all_nodes():
            child.key = f"renamed elsewhere {self.number} {child.key}"
        commit(elsewhere)

    def look_again(self, manager: Any) -> None:
        self.savepoint = None
        manager.begin()


# What is done before each record: changes, and the number of the node that each is made to.
Steps = list[list[tuple[str, int]]]

IN_MEMORY = ["rename", "move", "put in between"]
IN_STORAGE = [*IN_MEMORY, "commit", "abort", "set savepoint", "roll back", "drop what is loaded"]
IN_STORAGE += ["rename elsewhere", "look again"]


def steps_of(kinds: list[str]) -> st.SearchStrategy[Steps]:
    change = st.tuples(st.sampled_from(kinds), st.integers(0, 9))
    return st.lists(st.one_of(st.just([]), st.lists(change, max_size=3)), min_size=1, max_size=30)


def assert_paths_of_the_moment(nodes: list[BaseNode], changes: Changes, steps: Steps) -> None:
    """Snapshots of nodes that come again and again while their tree changes have the paths of that moment."""
    expected = []

    def given_out() -> Iterator[BaseNode]:
        for node in itertools.cycle(nodes):
            expected.append((tuple(node.gps()), node.key))
            yield node

    records = lp.snapshot((), given_out())
    for step in steps:
        for change, number in step:
            changes.make(change, nodes[number % len(nodes)])
        record = next(records)
        assert (record.path, record.key) == expected[-1]


orders = st.sampled_from(["pre", "post", "breadth"])
# In pre-order: the root, a, b, c, d, e, f, g, h.
SMALL: Tree = {"a": {"b": {"c": {}, "d": {}}, "e": {"f": {}}}, "g": {"h": {}}}


@given(tree=trees, order=orders, steps=steps_of(IN_MEMORY))
@example(tree=SMALL, order="pre", steps=[[], [], [], [], [("rename", 1)], [("move", 2)]])
def test_paths_in_memory_are_those_of_the_moment(tree: Tree, order: Any, steps: Steps) -> None:
    root = build(tree)
    assert_paths_of_the_moment(list(lp.walk(root, order=order)), Changes(root), steps)


@given(tree=trees, order=orders, steps=steps_of(IN_STORAGE))
@example(tree=SMALL, order="pre", steps=[[], [], [], [], [("rename", 1)], [("abort", 0)]])
@example(tree=SMALL, order="pre", steps=[[], [], [], [], [("rename", 1), ("commit", 0)]])
@example(tree=SMALL, order="pre", steps=[[], [], [("rename", 1), ("commit", 0)], []])
@example(tree=SMALL, order="pre", steps=[[], [], [], [], [("rename", 1), ("set savepoint", 0)]])
@example(tree=SMALL, order="pre", steps=[[], [("set savepoint", 0), ("rename", 1)], [("roll back", 0)], []])
@example(tree=SMALL, order="pre", steps=[[], [], [], [], [("rename elsewhere", 0)], [("look again", 0)]])
@example(tree=SMALL, order="pre", steps=[[], [], [], [], [("rename elsewhere", 0), ("look again", 0)]])
@example(tree=SMALL, order="post", steps=[[], [], [("rename", 1), ("commit", 0)], []])
@settings(deadline=None)
def test_paths_in_a_storage_are_those_of_the_moment(folder: Path, tree: Tree, order: Any, steps: Steps) -> None:
    database, root = saved(folder, tree)
    with closing(database):
        other = database.open_connection(connection_id="other")
        assert_paths_of_the_moment(list(lp.walk(root, order=order)), Changes(root, other), steps)


def test_paths_are_those_of_the_moment_after_a_connection_was_closed_and_opened_again(folder: Path) -> None:
    database, root = saved(folder, {"a": {"b": {}, "c": {}, "d": {}, "e": {}}})
    with closing(database):
        other = database.open_connection(connection_id="other")
        connection, manager = root._p_jar, root._p_jar.transaction_manager
        records = lp.snapshot((), list(lp.leaves(root)))
        assert [next(records).path for _ in range(2)] == [("a", "b"), ("a", "c")]
        connection.close()
        other.get_node("a", create=False).key = "renamed"
        database.commit("other")
        assert next(records).path == ("a", "d")
        assert connection.db().open(manager) is connection
        assert next(records).path == ("renamed", "e")


def test_nodes_that_were_loaded_are_snapshot_after_their_database_was_closed(folder: Path) -> None:
    database, root = saved(folder, SMALL)
    nodes = list(lp.walk(root))
    expected = [(tuple(node.gps()), dict(node.attribute_storage)) for node in nodes]
    database.close()
    assert [(record.path, record.attributes) for record in lp.snapshot(..., nodes)] == expected


@given(tree=trees, data=st.data())
def test_nodes_may_come_in_any_order_and_from_several_trees(folder: Path, tree: Tree, data: st.DataObject) -> None:
    database, root = saved(folder, tree)
    with closing(database):
        other = database.open_connection(connection_id="other")
        nodes = [node for top in (root, other, build(tree)) for node in lp.walk(top)]
        nodes.append(root.gn("not saved").gn("yet"))
        if data.draw(st.booleans()):
            database.abort()
        drawn = data.draw(st.lists(st.sampled_from(nodes), max_size=30))
        assert [record.path for record in lp.snapshot((), drawn)] == [tuple(node.gps()) for node in drawn]


class Named(BaseNode):
    """Keeps its name to itself."""

    @property
    def key(self) -> str:
        return f"the {self._key}"


class Adopted(BaseNode):
    @property
    def parent(self) -> BaseNode | None:
        return self._parent and self._parent.parent


class Ordinary(BaseNode):
    pass


KINDS = [BaseNode, Named, Adopted, Ordinary, DataNode]


@in_both_places
@given(kinds=st.lists(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), min_size=1, max_size=6))
@example(kinds=[[BaseNode, BaseNode, Named, BaseNode]])
@example(kinds=[[BaseNode], [Named], [BaseNode, BaseNode]])
def test_subclasses_that_tell_another_key_or_parent_are_believed(
    place: str, folder: Path, kinds: list[list[type[BaseNode]]]
) -> None:
    root, database = BaseNode("root"), None
    if place == "storage":
        database, root = saved(folder, {})
    above = root
    for siblings in kinds:
        for number, kind in enumerate(siblings):
            above.node_storage[f"n{number}"] = child = kind(f"n{number}", above)
        above = child
    if database is not None:
        database.commit()
    for order in ("pre", "post", "breadth"):
        nodes = list(lp.walk(root, order=order))
        records = list(lp.snapshot((), nodes))
        assert [record.path for record in records] == [tuple(node.gps()) for node in nodes]
        assert [record.key for record in records] == [node.key for node in nodes]
    if database is not None:
        database.close()


# --- A record is a record, however it was made -----------------------------------------------------------------------


@given(path=st.lists(keys, max_size=3).map(tuple), attributes=st.dictionaries(keys, st.integers()))
def test_a_record_of_a_snapshot_is_one_that_is_written_out(path: tuple[str, ...], attributes: dict[str, int]) -> None:
    node = BaseNode("root").gns(path)
    for name, value in attributes.items():
        node.set_attribute(name, value)
    (record,) = lp.snapshot(..., [node], payload=lambda node: 3)
    same_record = lp.NodeRecord(path, node.key, attributes, 3)
    assert type(record) is lp.NodeRecord
    assert record == same_record
    assert pickle.loads(pickle.dumps(record)) == record
    assert vars(record) == vars(same_record)
    by_name = lp.NodeRecord(path, node.key, dict(sorted(attributes.items())), 3)
    assert repr(record) == repr(by_name)
    assert replace(record, key="b") == replace(same_record, key="b")
    with pytest.raises(FrozenInstanceError):
        record.key = "b"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del record.path
    with pytest.raises(TypeError, match="unhashable"):
        hash(record)
    assert hash(replace(record, attributes=())) == hash(replace(same_record, attributes=()))


# --- What can't be detached ------------------------------------------------------------------------------------------


UNDETACHABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "a live node": (lambda: BaseNode("another"), "live node"),
    "a live node inside": (lambda: [{"a": DataNode("another")}], "live node"),
    "a persistent class of one's own": (Counter, r"test_snapshots\.Counter"),
    "one inside a mapping": (lambda: PersistentMapping(a=[Counter()]), r"test_snapshots\.Counter"),
    "a path inside a dataclass": (lambda: Holder(PathFileObj(filepath="/a")), "persistent PathFileObj inside"),
    "a node inside a dataclass": (lambda: Holder([BaseNode("a")]), "persistent BaseNode inside"),
    "a node inside an array": (lambda: np.array([BaseNode("a"), 1], dtype=object), "persistent BaseNode inside"),
    "a lambda": (lambda: lambda: None, "lambda"),
    "a generator": (lambda: (n for n in [1]), "generator"),
    "a lock inside": (lambda: {"lock": threading.Lock()}, "lock"),
}


@pytest.mark.parametrize(("make", "text"), UNDETACHABLE.values(), ids=UNDETACHABLE.keys())
@pytest.mark.parametrize("names", [..., "value", ["depth", "value"]])
def test_what_cannot_be_detached_is_named_with_its_path(make: Callable[[], Any], text: str, names: Any) -> None:
    root = build({"ann": {"clip": {}}})
    root.get_node_path(["ann", "clip"], create=False).set_attribute("value", make())
    with pytest.raises(lp.DetachError, match=text) as caught:
        list(lp.snapshot(names, lp.leaves(root)))
    assert isinstance(caught.value, lp.LotprocError)
    assert "attribute 'value' at ann/clip can't be detached" in str(caught.value)
    assert "payload=" in str(caught.value)
    assert isinstance(caught.value, TypeError)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)


def test_what_is_not_asked_for_need_not_be_detached() -> None:
    root = BaseNode("root")
    root.set_attribute("counter", Counter())
    root.set_attribute("value", 1)
    assert snapshot_of(root, "value").attributes == {"value": 1}
    with pytest.raises(lp.DetachError, match="attribute 'counter' at the root"):
        snapshot_of(root)


def test_the_records_before_one_that_fails_come_first() -> None:
    root = build({"a": {}, "b": {}})
    root.get_node("b", create=False).set_attribute("value", Counter())
    records = lp.snapshot("value", lp.leaves(root))
    assert next(records).path == ("a",)
    with pytest.raises(lp.DetachError, match="at b "):
        next(records)


@pytest.mark.parametrize("item", [lp.NodeRecord(("a",), "a"), None, "a", [BaseNode("a")], BaseNode])
def test_an_item_that_is_no_live_node_is_refused(item: Any) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="snapshot: expected a live node, got"):
        list(lp.snapshot("depth", [item]))


@pytest.mark.parametrize("names", [3, None, True, [3], ["a", None], b"ab", [["a"]]])
def test_names_that_are_no_names_are_refused_at_once(names: Any) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="snapshot: "):
        lp.snapshot(names)


# --- Deep and many ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deep(folder: Path) -> Iterator[BaseNode]:
    database = LOTDB(path=str(folder / "deep"), name="tree", new=True)
    node = database.open_connection()
    for number in range(3_000):
        node = node.gn(f"n{number}")
        if number % 1_000 == 0:
            node.set_attribute("number", number)
    database.commit()
    database.close()
    database = LOTDB(path=str(folder / "deep"), name="tree")
    yield database.open_connection()
    database.close()


def test_a_chain_of_three_thousand_nodes_is_snapshot(deep: BaseNode) -> None:
    nodes = lp.where("number", lambda number: number is not None, lp.walk(deep, order="post"))
    records = list(lp.snapshot(..., nodes))
    assert [record.attributes["number"] for record in records] == list(range(2_000, -1, -1_000))
    for record in records:
        assert record.path == tuple(f"n{above}" for above in range(record.attributes["number"] + 1))
        assert_detached(record)
    assert unsaved(deep) == []


@pytest.mark.parametrize("order", ["pre", "post", "breadth"])
def test_the_paths_of_a_whole_chain_load_each_node_about_once(deep: BaseNode, order: Any) -> None:
    # To read each path from its root would load 4,500,000 times: the cache holds 400 objects.
    deep._p_jar.cacheMinimize()
    before = deep._p_jar.getTransferCounts()[0]
    expected = range(3_001) if order != "post" else range(3_000, -1, -1)
    for record, depth in zip(lp.snapshot((), lp.walk(deep, order=order)), expected, strict=True):
        assert len(record.path) == depth
        assert record.path[-1:] == ((f"n{depth - 1}",) if depth else ())
    assert deep._p_jar.getTransferCounts()[0] - before < 18_000


def test_records_outlive_their_tree(folder: Path) -> None:
    database, root = saved(folder, {"a": {"b": {}}})
    records = list(lp.snapshot(..., lp.walk(root)))
    database.close()
    assert [record.attributes["depth"] for record in records] == [0, 1, 2]
    for record in records:
        assert_detached(record)
