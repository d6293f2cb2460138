"""Values of classes that can't be imported: they are not stored again beside what is written, nor copied."""

from __future__ import annotations

import pathlib
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
from lotdb import LOTDB, BaseNode
from recording import database
from ZODB.broken import broken_cache

from lotproc import DetachError, IndexedFile, ProcessResult, copy, ingest_files, inline, mirror, records, write
from lotproc.stores import Archive, DirectoryStore

LAB = """
import persistent


class Span:
    def __init__(self, lo, hi):
        self.lo, self.hi = lo, hi

    def __eq__(self, other):
        return vars(self) == vars(other)


class Made(Span):
    def __reduce__(self):
        return make, (self.lo, self.hi)


class Items(dict):
    pass


class Kept(persistent.Persistent):
    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return self.value == other.value


def make(lo, hi):
    return Made(lo, hi)
"""
#: Values of classes that will be gone, and what is missing then.
OF_THE_LAB: dict[str, tuple[Callable[[Any], Any], str]] = {
    "object": (lambda lab: lab.Span(1, 2), "a_lab.Span"),
    "made by a function": (lambda lab: lab.Made(1, 2), "a_lab.make"),
    "kind of dict": (lambda lab: lab.Items(x=1), "Items"),
    "in a list": (lambda lab: [1, {"x": (lab.Made(1, 2),)}], "a_lab.make"),
    "in an array": (lambda lab: np.array([None, lab.Span(1, 2)], dtype=object), "a_lab.Span"),
    "in another object": (lambda lab: types.SimpleNamespace(x=lab.Span(1, 2)), "a_lab.Span"),
    "class": (lambda lab: lab.Span, "a_lab.Span"),
}


@contextmanager
def a_lab() -> Iterator[Any]:
    """A module that can be imported inside, and is gone outside."""
    module = types.ModuleType("a_lab")
    exec(LAB, vars(module))
    with mock.patch.dict(sys.modules, {module.__name__: module}):
        yield module


@contextmanager
def after_the_lab(tmp_path: pathlib.Path, make: Callable[[Any], Any]) -> Iterator[LOTDB]:
    """A database whose node `a` has a value of a class that is gone; when it is there again, the value is as it was."""
    with a_lab() as lab:
        db = LOTDB(path=str(tmp_path), name="tree", new=True)
        root = db.open_connection()
        root.gn("a").set_attribute("span", make(lab))
        root.gn("a").gn("child").set_attribute("x", 1)
        db.commit()
        db.close()
    broken_cache.clear()
    db = LOTDB(path=str(tmp_path), name="tree")
    yield db
    db.close()
    with a_lab() as lab:
        broken_cache.clear()
        db = LOTDB(path=str(tmp_path), name="tree")
        node = db.open_connection().get_node_path(["a"], create=False)
        stored = node.get_attribute("span")
        assert pickle.dumps(stored) == pickle.dumps(make(lab))
        assert list(node.attribute_storage) == ["span"]
        assert list(node.node_storage) == ["child"]
        db.close()


@pytest.mark.parametrize("kind", OF_THE_LAB)
@pytest.mark.parametrize("commit_every", [None, 1, 100])
def test_a_value_of_a_class_that_is_gone_is_not_stored_again(
    tmp_path: pathlib.Path, kind: str, commit_every: int | None
) -> None:
    make, missing = OF_THE_LAB[kind]
    named = rf"(attribute 'span' at a|the attributes at a) .*{missing}"
    with after_the_lab(tmp_path, make) as db:
        root = db.open_connection()
        for results, options in (
            ([ProcessResult(("b",), 1), ProcessResult(("a",), 1)], {}),
            ([ProcessResult(("b",), 1), ProcessResult(("a",), np.arange(3))], {"arrays": "blob"}),
            ([ProcessResult(("a",), 1)], {"if_missing": "error"}),
        ):
            with pytest.raises(DetachError, match=f"write: {named}"):
                write(mirror(), root, [results], commit_every=commit_every, **options)
            db.commit()
            assert list(root.node_storage) == ["a"]
        with pytest.raises(DetachError, match=f"ingest_files: {named}"):
            ingest_files(root, [IndexedFile(("a",), pathlib.Path(__file__))])
        # what makes no record of it again is done as ever
        assert write(inline("_proc"), root, [ProcessResult(("a",), 1)], commit_every=100).written == 1
        write(mirror(), root, [ProcessResult(("a",), 1)], if_exists="skip", commit_every=commit_every)
        root.get_node("a").delete_node("_proc")
        db.commit()


@pytest.mark.parametrize("kind", sorted(set(OF_THE_LAB) - {"kind of dict"}))
def test_a_value_of_a_class_that_is_gone_can_be_replaced(tmp_path: pathlib.Path, kind: str) -> None:
    with a_lab() as lab:
        db = LOTDB(path=str(tmp_path), name="tree", new=True)
        root = db.open_connection()
        for key in "ab":
            root.gn(key).set_attribute("span", OF_THE_LAB[kind][0](lab))
        db.commit()
        db.close()
    broken_cache.clear()
    db = LOTDB(path=str(tmp_path), name="tree")
    root = db.open_connection()
    value = root.gn("a").get_attribute("span")
    for target in (mirror(), mirror("new")):
        with pytest.raises(DetachError, match=f"write: attribute 'x' at (new/)?b .*{OF_THE_LAB[kind][1]}"):
            write(target, root, [ProcessResult(("b",), 1, {"x": [value]})], commit_every=1, if_exists="replace")
    write(mirror(), root, [ProcessResult(("a",), 1, {"span": None})], commit_every=1)
    write(mirror(), root, [ProcessResult(("b",), 1)], commit_every=1, if_exists="replace")
    assert [node.get_attribute("span", "gone") for node in root.all_nodes()] == [None, "gone"]
    db.close()


@pytest.mark.parametrize("target", ["memory", "database", "directory", "archive"])
@pytest.mark.parametrize("kind", OF_THE_LAB)
def test_a_value_of_a_class_that_is_gone_is_not_copied(tmp_path: pathlib.Path, kind: str, target: str) -> None:
    make, missing = OF_THE_LAB[kind]
    with after_the_lab(tmp_path, make) as db, database() as other:
        to: Any = {
            "memory": lambda: BaseNode("root"),
            "database": other.open_connection,
            "directory": lambda: DirectoryStore(tmp_path / "store"),
            "archive": lambda: Archive(tmp_path / "store.rox", "a", codec="pickle"),
        }[target]()
        with pytest.raises(DetachError, match=rf"(attribute 'span'|the attributes) at a .*{missing}"):
            copy(db.open_connection(), to, commit_every=None if target == "memory" else 1)
        assert list(records((), to)) == [] or target != "memory"


@pytest.mark.parametrize("where", ["node", "child", "class of a child"])
def test_a_node_is_not_made_anew_where_that_stores_what_is_gone(tmp_path: pathlib.Path, where: str) -> None:
    with a_lab() as lab:
        db = LOTDB(path=str(tmp_path), name="tree", new=True)
        root = db.open_connection()
        if where == "class of a child":
            lab.Gone = type("Gone", (BaseNode,), {"__module__": "a_lab"})
            root.gn("a").add_tree(lab.Gone("child"))
        else:
            root.gn("a").gn("child")
            root.get_node_path(["a"] if where == "node" else ["a", "child"]).extra = lab.Made(1, 2)
        db.commit()
        db.close()
    broken_cache.clear()
    db = LOTDB(path=str(tmp_path), name="tree")
    root = db.open_connection()
    with pytest.raises(DetachError, match=r"write: a can't become a DataNode, .* a_lab\.(make|Gone), "):
        write(mirror(), root, [ProcessResult(("a",), np.arange(3))], arrays="blob", commit_every=1)
    assert write(mirror(), root, [ProcessResult(("a",), np.arange(3))], commit_every=1).written == 1
    db.close()


def test_a_reference_to_an_object_of_a_class_that_is_gone_stays_a_reference(tmp_path: pathlib.Path) -> None:
    with a_lab() as lab:
        db = LOTDB(path=str(tmp_path), name="tree", new=True)
        db.open_connection().gn("a").set_attribute("kept", lab.Kept([1]))
        db.commit()
        db.close()
    broken_cache.clear()
    db = LOTDB(path=str(tmp_path), name="tree")
    assert write(mirror(), db.open_connection(), [ProcessResult(("a",), 1)], commit_every=1).written == 1
    db.close()
    with a_lab() as lab:
        broken_cache.clear()
        db = LOTDB(path=str(tmp_path), name="tree")
        assert db.open_connection().gn("a").get_attribute("kept") == lab.Kept([1])
        db.close()
