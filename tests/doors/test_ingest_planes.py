"""Files that are stored as records, many at once: the tree, the report and the error are those of live nodes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings, strategies as st
from lotdb import LOTDB, BaseNode, DataNode, PathFileObj
from recording import database, examples
from trees import AWKWARD_KEYS, Packed
from ZODB.scripts import fstest
from ZODB.serialize import referencesf

import lotproc as lp
from lotproc import ingest

Keys = tuple[str, ...]

#: Paths of nodes: some are above others, and some have many siblings.
PATHS: list[Keys] = [
    *[("a",), ("a", "b"), ("a", "b", "c"), ("a", "d"), ("e",), ("é", "\ud800")],
    *[("many", f"n{number:02}") for number in range(35)],
    *[(key[:100], "x") for key in AWKWARD_KEYS],
]
NAMES = ["1.wav", "2.wav", "in/1.wav", "in/deep/3.wav", "posix", "\udce9", "mnt", "x\\y", "é" * 100, "never there"]
#: Mostly the same few, so that things meet.
paths = st.sampled_from([*PATHS[:3], PATHS[6]] * 40 + PATHS)

#: What other programs leave in a tree: a node with something, or none.
NODES = ["none", "label", "text", "reference", "data", "packed", "many", "other class", "delete"]
plants = st.tuples(st.sampled_from(NODES), paths)
#: What becomes of files.
KINDS = ["file", "changed", "gone", "folder", "nowhere", "pipe", "link", "closed"]
#: What a source of files does between two of them.
WHAT = ["same again", "set label", "set file", "commit", "others", "in the way", "look", "file, set", "set, file"]
sources = st.lists(
    st.tuples(st.just("file"), paths, st.sampled_from(NAMES)) | st.tuples(st.sampled_from(WHAT), paths),
    max_size=12,
)
runs = st.fixed_dictionaries(
    {"items": sources, "ends": st.booleans(), "many": st.booleans()},
    optional={
        "if_exists": st.sampled_from(["skip", "skip", "replace", "error"]),
        "commit_every": st.sampled_from([1, 2, 3, 7, "auto", None]),
        "attribute": st.sampled_from(["file", "file", "file", "a", "z", "\x01" * 7 + "\x02"]),
    },
)
steps = st.lists(
    st.tuples(st.just("plant"), plants)
    | st.tuples(st.just("become"), st.tuples(st.sampled_from(NAMES), st.sampled_from(KINDS)))
    | st.tuples(st.just("run"), runs),
    min_size=1,
    max_size=6,
)


def plant(root: BaseNode, how: str, path: Keys) -> None:
    """What another program does to a node."""
    above = root.gns(path[:-1]) if path[:-1] else root
    if how == "delete":
        if path[-1] in above.node_storage:
            above.delete_node(path[-1])
        return
    if path[-1] not in above.node_storage:
        kind = {"data": DataNode, "packed": Packed}.get(how, BaseNode)
        above.node_storage[path[-1]] = kind(path[-1], above)
    node = above.node_storage[path[-1]]
    if how in ("none", "label", "text"):
        values = {"none": ("file", None), "label": ("label", 1), "text": ("file", "text")}
        node.set_attribute(*values[how])
    elif how == "reference":
        node.set_attribute("file", PathFileObj(filepath="/else/where.wav"))
    elif how == "many":
        for number in range(40):
            node.set_attribute(f"f{number}", number)
    elif how == "other class":
        node.set_attribute("a", lp.Failure(("x",), "Error", "of a class"))


def become(folder: Path, name: str, kind: str) -> None:
    """Make something else of a file."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    elif file.is_symlink() or file.exists():
        file.unlink()
    if kind in ("file", "changed", "closed"):
        file.write_text(kind)
        file.chmod(0 if kind == "closed" else 0o600)
    elif kind == "folder":
        file.mkdir()
    elif kind == "nowhere":
        file.symlink_to(folder / "nothing")
    elif kind == "link":
        file.symlink_to(__file__)
    elif kind == "pipe":
        os.mkfifo(file)


def items_of(run: dict[str, Any], folder: Path, root: BaseNode, theirs: BaseNode) -> Iterator[lp.IndexedFile]:
    """The files of a run; what the source of them does to the tree meanwhile, and others."""
    last = lp.IndexedFile(("first",), folder / "1.wav")
    done = [what for what, *_ in run["items"]]
    if run["many"]:
        for path in PATHS[6:41]:
            yield lp.IndexedFile(path, folder / "1.wav")
    for number, (what, path, *name) in enumerate(run["items"]):
        if what == "file":
            last = lp.IndexedFile(path, folder / name[0])
            yield last
        elif what == "same again":
            yield last
        elif what == "set label":
            root.gns(path).set_attribute("label", number)
        elif what in ("set file", "file, set", "set, file"):
            if what == "file, set":
                yield lp.IndexedFile(path, folder / "1.wav")
            root.gns(path).set_attribute("file", f"set {number}")
            if what == "set, file":
                yield lp.IndexedFile(path, folder / "1.wav")
        elif what == "commit" and not run["ends"] and run.get("if_exists") != "error" and "in the way" not in done:
            root._p_jar.transaction_manager.commit()  # what waits is committed later, which only a failure shows
        elif what in ("others", "in the way"):
            theirs._p_jar.sync()
            above = ("others",) if what == "others" else ()
            theirs.gns((*above, *path)).set_attribute("file", number)
            theirs._p_jar.transaction_manager.commit()
        elif what == "look":
            [leaf.gps() for leaf in root.iterate_tree_leaves()]
    if run["ends"]:
        raise RuntimeError("the source")


def outcome(run: dict[str, Any], folder: Path, root: BaseNode, theirs: BaseNode) -> Any:
    options = {name: run[name] for name in ("if_exists", "commit_every", "attribute") if name in run}
    try:
        return lp.ingest_files(root, items_of(run, folder, root, theirs), **options)
    except Exception as error:
        return type(error), getattr(error, "path", None)


def stored(root: BaseNode) -> Any:
    """A tree as plain values."""
    attributes = {}
    for key, value in root.attribute_storage.items():
        attributes[key] = value
        if isinstance(value, PathFileObj):
            attributes[key] = {**value.__getstate__(), "root_path_list": list(value.root_path_list)}
    parents = [type(child) for child in root.node_storage.values() if child.parent is not root]
    return type(root), attributes, parents, {key: stored(child) for key, child in root.node_storage.items()}


def records_of_references(root: BaseNode) -> list[bytes]:
    """The records of all references to files, without the ids in them, in the order of the tree."""
    load = root._p_jar._storage.load
    found = []
    for node in walked(root):
        values = list(node.attribute_storage.values())
        # A name that is one of the words in the record is told there by a reference to that, in live nodes.
        if len(values) == 1 and isinstance(values[0], PathFileObj) and values[0].file != "posix":
            for each in (node.attribute_storage, values[0], values[0].root_path_list):
                record = load(each._p_oid)[0]
                for oid in referencesf(record):
                    record = record.replace(oid, b"")
                found.append(record)
    return found


def walked(node: BaseNode) -> Iterator[BaseNode]:
    yield node
    for child in node.node_storage.values():
        yield from walked(child)


class Plane:
    """A database, and what is done with it on one of the planes."""

    def __init__(self, folder: Path, at: ExitStack, *, is_fast: bool) -> None:
        self.folder, self.is_fast, self.is_alone = folder, is_fast, True
        self.db: LOTDB = at.enter_context(database())
        self.root = self.db.open_connection()
        self.theirs = self.db.open_connection(connection_id="theirs")

    def step(self, what: str, detail: Any) -> Any:
        if what == "plant":
            self.theirs._p_jar.sync()
            plant(self.theirs, *detail)
            self.theirs._p_jar.transaction_manager.commit()
            self.root._p_jar.sync()
            return None
        with mock.patch.object(ingest, "FAST", self.is_fast):
            found = outcome(detail, self.folder, self.root, self.theirs)
        uncommitted = stored(self.root)
        self.root._p_jar.transaction_manager.abort()
        self.root._p_jar.cacheMinimize()
        committed = stored(self.root)
        self.is_alone &= "commit" not in [what for what, *_ in detail["items"]]  # else that commit has some of it
        said = [one.counts for one in lp.history(self.root) if self.is_alone and one.stage == "ingest_files"]
        return found, uncommitted, committed, records_of_references(self.root), said


NUMBERS = count()


@given(steps=steps)
@example(  # a node that only its class can read, and what its source gives it behind the file
    steps=[
        ("plant", ("packed", ("a",))),
        ("run", {"items": [("file", ("a",), "1.wav"), ("set file", ("a",))], "ends": False, "many": False}),
    ]
)
@settings(deadline=None, max_examples=examples(60))
def test_both_planes_leave_one_tree_and_one_report(steps: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / f"planes_{next(NUMBERS)}"
    with ExitStack() as at:
        at.callback(shutil.rmtree, folder)
        for name in NAMES:
            become(folder, name, "gone" if name == "never there" else "file")
        planes = [Plane(folder, at, is_fast=is_fast) for is_fast in (True, False)]
        for what, detail in steps:
            if what == "become":
                become(folder, *detail)
            else:
                fast, slow = (plane.step(what, detail) for plane in planes)
                assert fast == slow


ABOVE_OTHERS: list[Keys] = [("a",), ("a", "b"), ("a", "b", "c"), ("a", "d"), ("e", "f", "g"), ("e",), ("h",)]


@given(
    runs=st.lists(st.lists(st.sampled_from(ABOVE_OTHERS), max_size=5), max_size=4),
    commit_every=st.sampled_from([1, 2, "auto", None]),
    is_fast=st.booleans(),
    results=st.sets(st.sampled_from(ABOVE_OTHERS)),
)
@settings(deadline=None, max_examples=examples(60))
def test_the_report_names_files_that_are_on_no_leaves(
    runs: list[list[Keys]], commit_every: Any, is_fast: bool, results: set[Keys]
) -> None:
    have: set[Keys] = set()
    with database() as db, mock.patch.object(ingest, "FAST", is_fast):
        root = db.open_connection()
        for path in results:
            root.gns([*path, "_result"]).set_attribute("result", 1)
        db.commit()
        for run in runs:
            new = set(run) - have
            have |= new
            report = lp.ingest_files(
                root, [lp.IndexedFile(path, Path(__file__)) for path in run], commit_every=commit_every
            )
            expected = {
                path for path in have for other in have if is_above(path, other) and (other in run or path in new)
            }
            assert report.inner == tuple(sorted(expected))
            assert (report.ingested, report.failures) == (len(new), ())
            assert all(f"{'/'.join(path)}: is no leaf" in str(report) for path in expected)


def is_above(path: Keys, other: Keys) -> bool:
    return len(path) < len(other) and other[: len(path)] == path


def test_a_file_beside_a_folder_of_its_name_is_told_whichever_comes_first(tmp_path: Path) -> None:
    for name in ("a/c/x.wav", "a/c.wav", "a/d.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for files in (list(lp.index_files(tmp_path)), [*lp.index_files(tmp_path)][::-1]):
        root = BaseNode("root")
        assert lp.ingest_files(root, files) == lp.IngestReport(3, inner=(("a", "c"),))
        assert [leaf.gps() for leaf in lp.leaves(root)] == [["a", "c", "x"], ["a", "d"]]
        root.gns(["a", "c"]).attribute_storage.clear()
        root.gns(["a", "c"]).set_attribute("notes", "what is below has a file, and this none")
        assert lp.ingest_files(root, [each for each in files if each.path != ("a", "c")]).inner == ()


@pytest.fixture
def many(tmp_path: Path) -> list[lp.IndexedFile]:
    files = []
    for number in range(200):
        file = tmp_path / "files" / f"s{number // 40}" / f"{number % 40:02}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        files.append(lp.IndexedFile((file.parent.name, file.stem), file))
    return files


@pytest.fixture
def without_live_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No node may be made, looked at or given an attribute one by one."""
    monkeypatch.setattr(ingest, "FAST", True)
    for name in ("_parent", "refer", "stored_attributes"):
        monkeypatch.setattr(ingest, name, lambda *args: pytest.fail(f"it takes live nodes: {args}"))


@pytest.mark.usefixtures("without_live_nodes")
def test_new_files_are_stored_and_known_again_without_live_nodes(many: list[lp.IndexedFile]) -> None:
    new = [lp.IndexedFile((*item.path[:-1], f"{item.path[-1]}+"), item.file) for item in many[::20]]
    with database() as db:
        root = db.open_connection()
        assert lp.ingest_files(root, many[:150], commit_every=60) == lp.IngestReport(150, commits=3)
        assert lp.ingest_files(root, [*many, *new]) == lp.IngestReport(60, 150, 1)
        assert lp.ingest_files(root, [*many, *new]) == lp.IngestReport(skipped=210)
        assert not [node for node in root._p_jar._cache.lru_items() if type(node) is PathFileObj]
        db.close_connection()
        root = db.open_connection()
        for item in [*many, *new]:
            node = root.get_node_path(item.path, create=False)
            assert node.get_attribute("file").path == item.file
            assert (type(node), list(node.node_storage)) == (BaseNode, [])
        fstest.check(root._p_jar.db().storage.getName())


@pytest.mark.usefixtures("without_live_nodes")
def test_nodes_that_have_other_attributes_too_are_known_again(many: list[lp.IndexedFile]) -> None:
    with database() as db:
        root = db.open_connection()
        lp.ingest_files(root, many)
        for number, item in enumerate(many):
            root.get_node_path(item.path, create=False).set_attribute("abc"[number % 3], number)
        db.commit()
        assert lp.ingest_files(root, many) == lp.IngestReport(skipped=200)


def test_one_file_that_takes_a_live_node_does_not_slow_down_the_others(
    many: list[lp.IndexedFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "FAST", True)
    with database() as db:
        root = db.open_connection()
        lp.ingest_files(root, many[1:])
        root.gns(many[0].path).set_attribute("label", 1)
        db.commit()
        attached = []
        monkeypatch.setattr(ingest, "refer", lambda *args, refer=ingest.refer: attached.append(refer(*args)))
        looked = []
        monkeypatch.setattr(
            ingest, "_parent", lambda *args, parent=ingest._parent: looked.append(args) or parent(*args)
        )
        assert lp.ingest_files(root, many) == lp.IngestReport(1, 199, 1)
        assert (len(attached), len(looked)) == (1, 1)
