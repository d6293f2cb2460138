"""What is taken is given again: a value that could be stored and not be read is refused when it is written."""

from __future__ import annotations

import datetime
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree
from hypothesis import given, settings, strategies as st
from lotdb import LOTDB, BaseNode, PathFileObj
from persistent import Persistent
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from persistent.wref import WeakRef
from recording import examples
from ZODB.blob import Blob

import lotproc as lp


class Own(Persistent):
    """A persistent class that lotproc knows nothing of."""


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Holder) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]


class NotMadeAgain:
    """Its pickle calls it with one argument, as those of errors with more do."""

    def __init__(self, path: str, line: int) -> None:
        self.text = f"{path}:{line}"

    def __reduce__(self) -> Any:
        return NotMadeAgain, (self.text,)


class Odd:
    def __setstate__(self, state: object) -> None:
        raise ValueError("an old state")

    def __getstate__(self) -> object:
        return 1


PLAIN: dict[str, Callable[[BaseNode], Any]] = {
    "a number": lambda root: 1,
    "a time": lambda root: datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
    "an object": lambda root: Holder({"x": [1]}),
    "a class": lambda root: Own,
    "a set": lambda root: {1, 2},
}
#: In a tree they are read as their plain kin.
KIN: dict[str, Callable[[BaseNode], Any]] = {
    "a persistent mapping": lambda root: PersistentMapping(x=1),
    "a persistent list": lambda root: PersistentList([1]),
    "a BTree": lambda root: OOBTree({1: 2}),
    "a blob": lambda root: Blob(b"abc"),
    "a file": lambda root: PathFileObj("/data/a.wav"),
}
LOST: dict[str, Callable[[BaseNode], Any]] = {
    "a node of the tree": lambda root: root.gn("node"),
    "a node of a new tree": lambda root: BaseNode("new"),
    "an object of a persistent class": lambda root: Own(),
    "a persistent counter": lambda root: Length(1),
    "a weak reference": lambda root: WeakRef(root.gn("node")),
    "an object that no pickle makes again": lambda root: NotMadeAgain("a.wav", 3),
    "an object that takes no state": lambda root: Odd(),
}
AROUND: dict[str, Callable[[Any], Any]] = {
    "in a list": lambda value: [value],
    "in a tuple": lambda value: (0, value),
    "in a dict": lambda value: {"x": value},
    "in an object": Holder,
    "in a persistent mapping": lambda value: PersistentMapping(x=value),
    "in a BTree": lambda value: OOBTree({"x": value}),
}
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    database = LOTDB(path=str(tmp_path_factory.mktemp("kept")), name="kept", new=True)
    root = database.open_connection()
    root.gn("node").set_attribute("x", 1)
    database.commit()
    yield root
    database.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("stores")


def written(root: BaseNode, value: Any, commit_every: int | None) -> tuple[str, str]:
    """Write a value to a tree, and say where."""
    path = ("t", f"n{next(NUMBERS)}")
    lp.write(lp.mirror(), root, [lp.ProcessResult(path, value)], commit_every=commit_every)
    root._p_jar.transaction_manager.commit()
    return path


@settings(max_examples=examples(60), deadline=None)
@given(
    name=st.sampled_from([*PLAIN, *KIN, *LOST]),
    around=st.lists(st.sampled_from([*AROUND]), max_size=3),
    commit_every=st.sampled_from([None, 1]),
)
def test_what_a_tree_takes_is_read_again(
    name: str, around: list[str], commit_every: int | None, root: BaseNode
) -> None:
    value = {**PLAIN, **KIN, **LOST}[name](root)
    for way in around:
        value = AROUND[way](value)
    before = len(root.gn("t").node_storage)
    try:
        path = written(root, value, commit_every)
    except lp.NotPicklableError:
        assert name in LOST or "in an object" in around
        root._p_jar.sync()
        assert len(root.gn("t").node_storage) == before
        return
    assert name not in LOST
    (record,) = lp.scan("result", root, path="/".join(path))
    (other,) = lp.snapshot("result", [root.get_node_path(path, create=False)])
    if name in PLAIN and not any("persistent" in way or "BTree" in way for way in around):
        assert record.attributes["result"] == other.attributes["result"] == value


@pytest.mark.parametrize("name", [name for name in LOST if "node" in name or "persistent" in name])
def test_what_to_store_in_place_of_something_live_is_told(name: str, root: BaseNode) -> None:
    with pytest.raises(lp.NotPicklableError) as caught:
        written(root, LOST[name](root), 1)
    assert caught.value.path is not None
    assert caught.value.path[0] == "t"
    assert caught.value.hint is not None


STORES: dict[str, Callable[[pathlib.Path], Any]] = {
    "directory": lp.DirectoryStore,
    "LMDB": lambda path: pytest.importorskip("lmdb") and lp.LmdbStore(path),
    "archive": lambda path: lp.Archive(path.with_suffix(".rox"), "w", codec="pickle"),
}


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", [*KIN, *LOST])
@pytest.mark.parametrize("way", [None, *AROUND])
def test_a_store_takes_nothing_that_belongs_to_a_database_or_is_not_read_again(
    kind: str, name: str, way: str | None, root: BaseNode, folder: pathlib.Path
) -> None:
    value = {**KIN, **LOST}[name](root)
    with pytest.raises(lp.NotPicklableError), STORES[kind](folder / kind) as store:
        lp.write(lp.mirror(), store, [lp.ProcessResult(("t",), value if way is None else AROUND[way](value))])


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", PLAIN)
def test_a_store_gives_the_others_again(kind: str, name: str, root: BaseNode, folder: pathlib.Path) -> None:
    store, value = STORES[kind](folder / f"{kind}{next(NUMBERS)}"), [PLAIN[name](root)]
    with store:
        lp.write(lp.mirror(), store, [lp.ProcessResult(("t",), value)])
        if kind != "archive":
            assert [record.attributes["result"] for record in lp.records("result", store)] == [value]
