"""Values come out of a tree as they are, with what they share; or an error comes out, which may cost one node only."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, strategies as st
from lotdb import BaseNode
from persistent import Persistent
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from toolz import compose_left, concat
from trees import AnyStorage, commit, keys, opened
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import StorageError
from ZODB.utils import p64, u64

import lotproc as lp


class Box:
    """An object of a class of one's own."""

    inside: Any = None


# --- Graphs of objects ------------------------------------------------------------------------------------------------

PLAIN = {PersistentMapping: dict, PersistentList: list}


@st.composite
def graphs(draw: st.DrawFn) -> Any:
    """A value whose parts hold one another in any way, in circles too."""
    kinds = draw(st.sampled_from([[list, dict, tuple, Box], [list, dict, tuple, PersistentMapping, PersistentList]]))
    chosen = draw(st.lists(st.sampled_from([*kinds, np.ndarray]), min_size=1, max_size=8))
    parts: list[Any] = []
    for number, kind in enumerate(chosen):
        if kind is tuple:  # which can hold only what is there already
            parts.append(tuple(draw(st.lists(st.sampled_from(parts), max_size=3))) if parts else ())
        else:
            parts.append(np.full(3, number) if kind is np.ndarray else kind())
    atoms = st.one_of(st.integers(), st.text(max_size=3), st.none())
    for part in parts:
        items = draw(st.lists(st.one_of(st.sampled_from(parts), atoms), max_size=3))
        if isinstance(part, (list, PersistentList)):
            part.extend(items)
        elif isinstance(part, (dict, PersistentMapping)):
            part.update({f"k{number}": item for number, item in enumerate(items)})
        elif isinstance(part, Box):
            part.inside = items
    return draw(st.sampled_from(parts))


def graph_of(value: Any) -> list[Any]:
    """The parts of a value as they are met, each with its plain kind, and with the numbers of what it holds."""
    numbers: dict[int, int] = {}
    parts: list[Any] = []

    def number_of(part: Any) -> Any:
        if isinstance(part, (int, str, type(None))):
            return "atom", part
        if id(part) not in numbers:
            numbers[id(part)] = len(parts)
            parts.append(part)
        return numbers[id(part)]

    number_of(value)
    described = []
    for part in parts:  # which grow
        if isinstance(part, np.ndarray):
            items: list[Any] = [("array", part.tolist())]
        elif isinstance(part, Box):
            items = [number_of(part.inside)]
        elif isinstance(part, (dict, PersistentMapping)):
            items = [(key, number_of(item)) for key, item in part.items()]
        else:
            items = [number_of(item) for item in part]
        described.append((PLAIN.get(type(part), type(part)).__name__, items))
    return described


def mutable_parts(value: Any) -> set[int]:
    found: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if id(part) in found or isinstance(part, (int, str, type(None))):
            continue
        found[id(part)] = part
        if isinstance(part, (dict, PersistentMapping)):
            waiting += part.values()
        elif isinstance(part, Box):
            waiting.append(part.inside)
        elif not isinstance(part, np.ndarray):
            waiting += part
    return {number for number, part in found.items() if not isinstance(part, tuple)}


@given(value=graphs())
def test_a_record_has_the_parts_of_a_value_as_they_hold_one_another(value: Any) -> None:
    def assert_whole(record: Any, root: BaseNode) -> None:
        copy, live = record.attributes["value"], root.gn("a").get_attribute("value")
        assert graph_of(copy) == graph_of(live)
        assert not mutable_parts(copy) & mutable_parts(live)
        sent = pickle.loads(pickle.dumps(record))
        assert graph_of(sent.attributes["value"]) == graph_of(live)

    in_memory = BaseNode("root")
    in_memory.gn("a").set_attribute("value", value)
    [record] = lp.snapshot("value", lp.leaves(in_memory))
    assert_whole(record, in_memory)
    with opened(MappingStorage()) as root:
        root.gn("a").set_attribute("value", value)
        commit(root)
        for source in (lp.scan(..., root), lp.snapshot("value", lp.leaves(root))):
            [record] = source
            assert_whole(record, root)


@pytest.mark.parametrize("of", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: (inner,)])
def test_values_that_are_nested_as_deep_as_a_pickle_may_be(of: Callable[[Any], Any]) -> None:
    def nested(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = of(value)
        return value

    def pickles(value: Any) -> bool:
        try:
            pickle.dumps(value)
        except RecursionError:
            return False
        return True

    deepest = max(depth for depth in range(0, 2000, 10) if pickles(nested(depth)))
    value = nested(deepest - 20)  # for the calls between this one and the pickler
    root = BaseNode("root")
    root.set_attribute("value", value)
    [record] = lp.snapshot("value", [root])
    assert pickle.dumps(record.attributes["value"]) == pickle.dumps(value)


def test_one_array_under_many_names_is_one_array() -> None:
    window = np.zeros(10_000)
    root = BaseNode("root")
    root.set_attribute("steps", [{"window": window, "box": Box(), "step": number} for number in range(300)])
    for step in root.get_attribute("steps"):
        step["box"].inside = window
    [record] = lp.snapshot("steps", [root])
    first, *others = record.attributes["steps"]
    assert first["window"] is not window
    assert all(step["window"] is first["window"] is step["box"].inside for step in others)
    assert len(pickle.dumps(record)) < 2 * window.nbytes


def test_an_object_that_holds_something_persistent_is_refused_wherever_else_that_is() -> None:
    shared = PersistentMapping(a=1)
    box = Box()
    box.inside = shared
    root = BaseNode("root")
    for value in ([shared, box], [box, shared]):
        root.set_attribute("value", value)
        with pytest.raises(lp.DetachError, match="it holds a persistent PersistentMapping inside"):
            list(lp.snapshot("value", [root]))


# --- Values that can't be read ----------------------------------------------------------------------------------------

GONE = "gone_lab"
SOURCE = """
import enum

class Color(enum.Enum):
    RED = 1

class Munch(dict):
    pass

class Row(list):
    pass

class Span:
    def __reduce__(self):
        return make, ()

def make():
    return Span()

class Late:
    pass
"""


class Refusing:
    """Can be stored, and not be read again."""

    def __getstate__(self) -> Any:
        return {"a": 1}

    def __setstate__(self, state: Any) -> None:
        raise RuntimeError("no state is good enough")


class Counter(Persistent):
    pass


@contextmanager
def lab() -> Iterator[Any]:
    """A module that is there for as long as the block."""
    module = sys.modules[GONE] = types.ModuleType(GONE)
    exec(SOURCE, module.__dict__)
    try:
        yield module
    finally:
        del sys.modules[GONE]


#: Values that can't be read any more: how each is made, and what an error must say of it.
ODD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an enum": (lambda lab: lab.Color.RED, "gone_lab.Color"),
    "a class": (lambda lab: lab.Color, "gone_lab.Color"),
    "a dict": (lambda lab: lab.Munch(rate=4), "gone_lab.Munch"),
    "a list": (lambda lab: lab.Row([1, 2]), "gone_lab.Row"),
    "a function's": (lambda lab: lab.Span(), "gone_lab.make"),
    "in a list": (lambda lab: [1, {"a": (lab.Late(),)}], "gone_lab.Late"),
    "a key": (lambda lab: {lab.Color.RED: 1}, "gone_lab.Color"),
    "in an array": (lambda lab: np.array([lab.Late(), 1], dtype=object), "gone_lab.Late"),
    "in an object": (lambda lab: boxed(lab.Munch(a=1)), "gone_lab.Munch"),
    "in a mapping": (lambda lab: PersistentMapping(a=lab.Late()), "gone_lab.Late"),
    "refusing": (lambda lab: [Refusing()], "no state is good enough"),
    "persistent": (lambda lab: Counter(), "Counter"),
}


def boxed(value: Any) -> Box:
    box = Box()
    box.inside = value
    return box


#: A tree of two levels, and for each leaf which of its attributes are odd, and how.
plans = st.dictionaries(
    keys,
    st.dictionaries(keys, st.dictionaries(st.sampled_from("abc"), st.sampled_from([None, None, *ODD])), min_size=1),
    min_size=1,
    max_size=4,
)
Plan = dict[str, dict[str, dict[str, "str | None"]]]


def leaves_of(plan: Plan) -> list[tuple[tuple[str, str], dict[str, str | None]]]:
    return [((top, key), plan[top][key]) for top in sorted(plan) for key in sorted(plan[top])]


@contextmanager
def planted(storage: Any, plan: Plan) -> Iterator[BaseNode]:
    with opened(storage) as root:
        with lab() as module:
            for path, odd in leaves_of(plan):
                node = root.gns(list(path))
                for name, what in odd.items():
                    node.set_attribute(name, [path, name] if what is None else ODD[what][0](module))
            root.gn("always").gn("there").set_attribute("d", 1)
            commit(root)
        yield root


def oracle(plan: Plan, names: Any) -> list[tuple[tuple[str, ...], Any]]:
    """The path of each leaf, with its attributes, or with the texts of which an error has to have one."""
    expected: list[tuple[tuple[str, ...], Any]] = []
    for path, odd in [*leaves_of(plan), (("always", "there"), {"d": None})]:
        asked = sorted(odd) if names is ... else names
        texts = [ODD[str(odd[name])][1] for name in asked if odd.get(name) is not None]
        values = {name: (1 if name == "d" else [path, name]) if name in odd else None for name in asked}
        expected.append((path, tuple(texts) or values))
    return sorted(expected, key=lambda item: item[0])


pytestmark = pytest.mark.filterwarnings("ignore:.* no node had an attribute")


@given(
    plan=plans.filter(lambda plan: "always" not in plan),
    names=st.sampled_from([..., (), ("a",), ("a", "c"), ("b", "d")]),
    storage=st.sampled_from([MappingStorage, FileStorage, AnyStorage]),
    read=st.sampled_from(["scan", "scan level", "snapshot"]),
)
def test_what_cant_be_read_costs_its_node(
    tmp_path_factory: pytest.TempPathFactory, plan: Plan, names: Any, storage: Any, read: str
) -> None:
    file = () if storage is MappingStorage else (str(tmp_path_factory.mktemp("odd") / "data.fs"),)
    expected = oracle(plan, names)

    def items(**options: Any) -> Iterator[Any]:
        if read == "snapshot":
            return iter(lp.snapshot(names, lp.leaves(root), **options))
        return iter(lp.scan(names, root, level=2 if read == "scan level" else None, **options))

    def is_right(item: Any, path: tuple[str, ...], what: Any) -> bool:
        if isinstance(what, tuple):
            return type(item) is lp.Failure and item.path == path and item.error == "DetachError"
        return type(item) is lp.NodeRecord and (item.path, item.attributes) == (path, what)

    with planted(storage(*file), plan) as root:
        collected = list(items(on_error="collect"))
        assert len(collected) == len(expected)
        for item, (path, what) in zip(collected, expected, strict=True):
            assert is_right(item, path, what)
            if isinstance(what, tuple):
                assert any(text in item.message for text in what)
                assert "/".join(path) in item.message
                assert "DetachError" in item.traceback
        good = [item for item in collected if type(item) is lp.NodeRecord]
        assert list(items(on_error="skip")) == good
        seen: list[lp.Failure] = []
        told = list(items(on_error=lambda failure: seen.append(failure) or (failure.path[-1] > "b" and failure.path)))
        assert [failure.path for failure in seen] == [path for path, what in expected if isinstance(what, tuple)]
        assert len(told) == len(expected)
        stream = items()
        until = next((number for number, (_, what) in enumerate(expected) if isinstance(what, tuple)), len(expected))
        assert [next(stream) for _ in range(until)] == good[:until]
        if until == len(expected):
            assert next(stream, None) is None
        else:
            with pytest.raises(lp.DetachError) as caught:
                next(stream)
            assert "/".join(expected[until][0]) in str(caught.value)
            assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


@pytest.mark.parametrize("on_error", ["collect", "skip", lambda failure: None])
def test_a_storage_that_fails_costs_more_than_one_node(on_error: Any) -> None:
    with opened(MappingStorage()) as root:
        for number in range(3):
            root.gn(f"{number}").set_attribute("a", number)
        commit(root)
        nodes = list(lp.leaves(root))
        for read in (lambda: lp.snapshot("a", nodes, on_error=on_error), lambda: lp.scan("a", root, on_error=on_error)):
            root._p_jar.cacheMinimize()
            assert [node.key for node in nodes] == ["0", "1", "2"]  # which can be read, and their attributes can't
            with (
                mock.patch.object(MappingStorage, "loadBefore", side_effect=StorageError("its server is gone")),
                pytest.raises(StorageError),
            ):
                list(read())


@pytest.mark.parametrize("what", [what for what in ODD if what != "persistent"])
def test_a_value_that_is_tested_is_whole(what: str) -> None:
    plan: Plan = {"x": {"one": {"a": None}, "two": {"a": what, "b": None}}}
    text = ODD[what][1]
    with planted(MappingStorage(), plan) as root:
        [found] = lp.where("b", lambda value: value is not None, lp.leaves(root))
        assert found.key == "two"
        for source in (
            lp.scan((), root, where={"a": lambda value: True}),
            lp.scan(..., root, payload=lambda node: node.get_attribute("a") if node.key == "two" else None),
            lp.where("a", lambda value: True, lp.leaves(root)),
        ):
            stream = iter(source)
            assert [next(stream).key for _ in range(2)] == ["there", "one"]
            with pytest.raises(lp.DetachError, match=text):
                next(stream)


@pytest.mark.parametrize("what", ["an enum", "a class", "a function's", "in a list", "in a mapping"])
def test_what_a_payload_function_returns_is_whole(what: str) -> None:
    text = ODD[what][1]
    with planted(MappingStorage(), {"x": {"one": {"a": what}}}) as root:
        for source in (
            lp.scan((), root, payload=lambda node: [node.get_attribute("a")]),
            lp.snapshot((), lp.leaves(root), payload=lambda node: [node.get_attribute("a")]),
        ):
            assert next(source).path == ("always", "there")
            with pytest.raises(lp.DetachError, match=f"the payload at x/one .*{text}"):
                next(source)


def test_a_large_tree_of_attributes_with_values_that_cant_be_read() -> None:
    with opened(MappingStorage()) as root:
        with lab() as module:
            for number in range(100):
                root.gn("a").set_attribute(f"n{number:02}", module.Munch(a=1) if number % 40 == 7 else number)
            commit(root)
        good = [f"n{number:02}" for number in range(100) if number % 40 != 7]
        for source in (lp.scan(good, root), lp.snapshot(good, lp.leaves(root))):
            [record] = source
            assert record.attributes == {name: int(name[1:]) for name in good}
        for source in (lp.scan(["n08", "n47"], root), lp.snapshot(["n08", "n47"], lp.leaves(root))):
            with pytest.raises(lp.DetachError, match=r"'n47' at a .*gone_lab\.Munch"):
                list(source)


@pytest.mark.parametrize("make", ["DirectoryStore", "LmdbStore", "Archive"])
@pytest.mark.parametrize("inside", [False, True])
def test_stores_name_the_class_that_is_missing(tmp_path: Path, make: str, inside: bool) -> None:
    if make == "LmdbStore":
        pytest.importorskip("lmdb")
    place = str(tmp_path / "store")
    options = {"codec": "pickle"} if make == "Archive" else {}
    with lab() as module:
        odd = module.Munch(a=1)
        values = [1, [odd] if inside else odd]
        store = getattr(lp, make)(place, **options, **({"mode": "w"} if make == "Archive" else {}))
        lp.write(lp.mirror(), store, [lp.ProcessResult((key,), value) for key, value in zip("ab", values, strict=True)])
        getattr(store, "close", lambda: None)()
    store = getattr(lp, make)(place, **options)
    stream = lp.records("result", store)
    assert next(stream).attributes == {"result": 1}
    with pytest.raises(lp.DetachError, match=r"value (of|at) '?b'? can't be read: .*gone_lab\.Munch"):
        next(stream)
    with pytest.raises(lp.DetachError, match=r"gone_lab\.Munch"):
        list(lp.records((), store))[1].payload.read()


# --- Branches that can't be read --------------------------------------------------------------------------------------


def spoil(root: BaseNode, *oids: bytes) -> None:
    """Write junk in the place of objects, in a transaction of its own."""
    storage = root._p_jar.db().storage
    from ZODB.Connection import TransactionMetaData

    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    for oid in oids:
        storage.store(oid, storage.load(oid)[1], b"junk", "", transaction)
    storage.tpc_vote(transaction)
    storage.tpc_finish(transaction)
    root._p_jar.newTransaction(None)
    root._p_jar.cacheMinimize()


@pytest.mark.parametrize("width", [3, 40, 1500])
@pytest.mark.parametrize("what", ["children", "node", "leaf", "attributes"])
def test_a_damaged_branch_costs_one_failure_also_over_partitions(tmp_path: Path, width: int, what: str) -> None:
    with opened(FileStorage(str(tmp_path / "data.fs"))) as root:
        for top in "abc":
            for number in range(width):
                root.gns([top, f"n{number:04}"]).set_attribute("number", number)
        commit(root)
        branch = root.gn("b")
        leaf = branch.gn(f"n{width // 2:04}")
        target = {"children": branch.node_storage, "node": branch, "leaf": leaf, "attributes": leaf.attribute_storage}
        failing = ("b",) if what in ("children", "node") else ("b", leaf.key)
        oid = target[what]._p_oid
        parts = lp.partitions(5, root)
        spoil(root, oid)
        before = p64(u64(root._p_jar.db().storage.lastTransaction()) + 1)
        whole = list(lp.scan("number", root, on_error="collect"))
        assert [item.path for item in whole if type(item) is lp.Failure] == [failing]
        paths = [(top, f"n{number:04}") for top in "abc" for number in range(width)]
        assert [item.path for item in whole if type(item) is lp.NodeRecord] == [
            path for path in paths if path[: len(failing)] != failing
        ]
        [failure] = [item for item in whole if type(item) is lp.Failure]
        assert failure.error == "DamagedDatabaseError"
        assert "0x" in failure.message

        moved = [replace(part, before=before) for part in parts]
        in_parts = list(concat(lp.scan("number", part, on_error="collect") for part in moved))
        assert [(type(item), item.path) for item in in_parts] == [(type(item), item.path) for item in whole]
        found = lp.parallel_map(
            compose_left(lp.scan("number", on_error="collect"), lp.each(lambda record: record)), moved, mode="thread"
        )
        assert [(type(item), item.path) for item in concat(found)] == [(type(item), item.path) for item in whole]
        with pytest.raises(lp.DamagedDatabaseError, match=f"scan: {'/'.join(failing)}: "):
            list(lp.scan("number", root))


@pytest.mark.parametrize("on_error", ["", "ignore", None, 3])
def test_what_is_no_way_to_deal_with_errors_is_refused(on_error: Any) -> None:
    for stage in (lp.scan, lp.snapshot):
        with pytest.raises(lp.ArgumentError, match="on_error must be one of 'raise', 'skip', 'collect'"):
            stage("a", on_error=on_error)
        with pytest.raises(lp.ArgumentError, match="missing must be one of 'warn', 'error'"):
            stage("a", missing=on_error)
