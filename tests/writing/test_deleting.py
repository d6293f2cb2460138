"""What is deleted is gone with all below it, in whole batches, and nothing else changes."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode
from recording import Path, Source, Tree, committed, contents, database, in_bytes, plant
from toolz import pipe
from ZODB.blob import Blob

import lotproc as lp

keys = st.sampled_from(["a", "b", "c"])
paths = st.lists(keys, min_size=1, max_size=3).map(tuple)
trees = st.dictionaries(paths, st.dictionaries(st.sampled_from("xy"), st.integers(0, 9), max_size=2), max_size=8)
batches = st.lists(st.lists(paths, max_size=4), max_size=5)


class Oracle:
    """What `delete` does, done to a dict."""

    def __init__(self, tree: Tree, commit_every: int | None) -> None:
        self.tree, self.saved, self.commit_every = dict(tree), dict(tree), commit_every
        self.deleted = self.absent = self.commits = self.uncommitted = self.kept = 0
        self.last: Path | None = None

    def batch(self, batch: list[Path]) -> None:
        for path in sorted(batch):
            if self.last is not None and path[: len(self.last)] == self.last:
                continue
            self.last = path
            below = [each for each in self.tree if each[: len(path)] == path]
            for each in below:
                del self.tree[each]
            self.deleted += bool(below)
            self.absent += not below
            self.uncommitted += bool(below)
        if self.commit_every is not None and self.uncommitted >= self.commit_every:
            self.commit()

    def commit(self) -> None:
        self.saved, self.uncommitted, self.kept = dict(self.tree), 0, self.deleted
        self.commits += 1

    def end(self) -> None:
        if self.commit_every is not None and self.uncommitted:
            self.commit()

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.deleted, self.absent, self.commits


def complete(tree: Tree) -> Tree:
    """The tree with the nodes that its paths run through."""
    whole: Tree = {(): {}}
    for path in tree:
        whole.update({path[:depth]: {} for depth in range(len(path)) if path[:depth] not in tree})
    return {**whole, **tree}


def as_items(batch: list[Path], root: BaseNode) -> Any:
    """The paths as whatever stands for them: nodes, records, paths, nested in lists."""
    items: list[Any] = []
    for number, path in enumerate(batch):
        node = root
        for key in path:
            node = node.node_storage.get(key) if node is not None else None
        if number % 3 == 0 and node is not None:
            items.append(node)
        else:
            items.append(path if number % 3 == 1 else [lp.NodeRecord(path, path[-1])])
    return items[0] if len(items) == 1 else items


def counts(report: lp.WriteReport) -> tuple[int, int, int]:
    assert (report.written, report.skipped) == (0, 0)
    return report.deleted, report.absent, report.commits


class Stop(Exception):
    """The end of a source."""


@settings(deadline=None, max_examples=60)
@given(tree=trees, batches=batches, every=st.none() | st.integers(1, 4), stops=st.booleans(), is_stored=st.booleans())
def test_a_tree_is_what_a_dict_would_be(
    tree: Tree, batches: list[list[Path]], every: int | None, stops: bool, is_stored: bool
) -> None:
    every = every if is_stored else None
    oracle = Oracle(complete(tree), every)
    with database() as db:
        root = db.open_connection() if is_stored else BaseNode("root")
        plant(root, tree)
        if is_stored:
            db.commit()
        before = in_bytes(contents(root))
        items = [as_items(batch, root) for batch in batches]
        for batch in batches:
            oracle.batch(batch)
        if stops:
            with pytest.raises(Stop) as caught:
                lp.delete(root, Source(items, Stop()), commit_every=every)
            assert counts(caught.value.report) == (oracle.kept, caught.value.report.absent, oracle.commits)  # type: ignore[attr-defined]
            expected = oracle.saved
        else:
            oracle.end()
            assert counts(lp.delete(root, items, commit_every=every)) == oracle.counts
            expected = oracle.tree
        assert in_bytes(contents(root)) == {path: before[path] for path in expected}
        if is_stored:
            assert committed(db) == {path: complete(tree)[path] for path in oracle.saved}


@contextmanager
def directory(folder: pathlib.Path) -> Iterator[lp.Store]:
    with lp.DirectoryStore(folder / "directory") as store:
        yield store


@contextmanager
def lmdb(folder: pathlib.Path) -> Iterator[lp.Store]:
    pytest.importorskip("lmdb")
    with lp.LmdbStore(folder / "store.lmdb") as store:
        yield store


@pytest.mark.parametrize("opened", [directory, lmdb])
@settings(deadline=None, max_examples=15)
@given(tree=trees, batches=batches, every=st.none() | st.integers(1, 4), stops=st.booleans())
def test_a_store_is_what_a_dict_would_be(
    tmp_path_factory: pytest.TempPathFactory,
    opened: Callable[[pathlib.Path], Any],
    tree: Tree,
    batches: list[list[Path]],
    every: int | None,
    stops: bool,
) -> None:
    oracle = Oracle(tree, every)
    with opened(tmp_path_factory.mktemp("store")) as store:
        lp.write(lp.mirror(), store, [lp.ProcessResult(path, attributes) for path, attributes in tree.items()])
        before = {path: store[path] for path in store.paths()}
        if stops:
            with pytest.raises(Stop):
                lp.delete(store, Source(batches, Stop()), commit_every=every)
        else:
            for batch in batches:
                oracle.batch(batch)
            oracle.end()
            report = lp.delete(store, batches, commit_every=every)
            assert counts(report)[:2] == oracle.counts[:2]
            assert every is None or report.commits == oracle.commits
        assert {path: store[path] for path in store.paths()} == {path: before[path] for path in oracle.tree}


def filled(root: BaseNode) -> None:
    plant(root, {(speaker, f"clip_{n}", "_proc"): {"n": n} for speaker in "ab" for n in range(4)})


@pytest.mark.parametrize("every", [None, 1, 3])
@pytest.mark.parametrize("source", ["walk", "leaves", "scan", "pending"])
def test_the_items_may_come_from_the_same_tree(source: str, every: int | None) -> None:
    with database() as db:
        root = db.open_connection()
        filled(root)
        db.commit()
        items: Any = {
            "walk": lambda: lp.walk(root, min_depth=2),
            "leaves": lambda: lp.leaves(root),
            "scan": lambda: lp.chunked(3, lp.scan((), root)),
            "pending": lambda: lp.pending(lp.inline("none"), root, lp.scan((), root)),
        }[source]()
        report = lp.delete(root, items, commit_every=every)
        assert (report.deleted, report.absent) == (8, 0)
        gone = 2 if source == "walk" else 3
        assert max(map(len, contents(root))) == gone - 1
        assert (len(contents(root)) == 3) == (source == "walk")


def test_others_who_commit_meanwhile_lose_nothing() -> None:
    with database() as db:
        root = db.open_connection()
        filled(root)
        db.commit()
        other = db.open_connection(connection_id="other")

        def items() -> Iterator[list[Path]]:
            yield [("a", "clip_0"), ("a", "clip_1")]
            other.gns(["a", "new"]).set_attribute("n", 1)  # in the very tree of children
            other.node_storage["a"].delete_node("clip_1")
            db.commit("other")
            yield [("b",)]

        report = lp.delete(root, items(), commit_every=3)
        assert (report.deleted, report.absent) == (2, 1)
        left = {path for path in committed(db) if len(path) == 2}
        assert left == {("a", "clip_2"), ("a", "clip_3"), ("a", "new")}


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_a_kill_leaves_whole_batches(taken: int, tmp_path: pathlib.Path) -> None:
    from lotdb import LOTDB

    db = LOTDB(path=str(tmp_path), name="test.fs", new=True)
    filled(db.open_connection())
    db.commit()
    db.close()
    told = ["a/clip_0 b/clip_0", "a/clip_1", "a/clip_2 b/clip_1", "b/clip_2"]
    command = [sys.executable, str(pathlib.Path(__file__).with_name("deleter.py")), str(tmp_path), "3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for line in told[:taken]:
            program.stdin.write(line + "\n")
            program.stdin.flush()
            assert program.stdout.readline() == "taken\n"
        program.kill()
    db = LOTDB(path=str(tmp_path), name="test.fs")
    try:
        left = {path for path in contents(db.open_connection()) if len(path) == 2}
        gone = [tuple(path.split("/")) for line in (told[:2] if taken > 1 else ()) for path in line.split()]
        assert left == {(speaker, f"clip_{n}") for speaker in "ab" for n in range(4)} - set(gone)
    finally:
        db.close()


# Payloads


def arrays_in(root: BaseNode) -> list[pathlib.Path]:
    folder = pathlib.Path(f"{root._p_jar.db().storage._file_name}.data.zarr")
    return sorted(path.parent for path in folder.rglob(".zarray"))


def with_arrays(root: BaseNode) -> None:
    """Two clips with a zarr array each, of which the second has a copy."""
    results = [lp.ProcessResult(("ann", f"clip_{n}"), np.arange(5.0) + n) for n in range(2)]
    lp.write(lp.inline("_proc"), root, results, arrays="zarr")
    root.gn("copies").add_tree(root.gns(["ann", "clip_1"]), copy=True)
    root._p_jar.transaction_manager.commit()


@pytest.mark.parametrize("every", [None, 1])
def test_zarr_folders_go_once_that_is_committed_and_nothing_else_has_them(every: int | None) -> None:
    pytest.importorskip("zarr")
    with database() as db:
        root = db.open_connection()
        with_arrays(root)
        assert len(arrays_in(root)) == 2
        lp.delete(root, [("ann",)], commit_every=every)
        assert every is not None or len(arrays_in(root)) == 2  # nothing is committed yet
        db.commit()
        (left,) = arrays_in(root)
        assert root.gns(["copies", "clip_1", "_proc"]).get_attribute("result").read().tolist() == [1, 2, 3, 4, 5]
        lp.delete(root, [("copies",)], commit_every=1)
        assert not left.exists()


def test_zarr_folders_stay_where_the_delete_fails_or_is_aborted() -> None:
    pytest.importorskip("zarr")
    with database() as db:
        root = db.open_connection()
        with_arrays(root)
        before = arrays_in(root)
        with pytest.raises(Stop):
            lp.delete(root, Source([("ann",)], Stop()))
        db.commit()
        assert arrays_in(root) == before
        lp.delete(root, [("ann",)])
        db.abort()
        db.commit()
        assert arrays_in(root) == before
        kept = root._p_jar.transaction_manager.savepoint()
        lp.delete(root, [("ann",)])
        kept.rollback()  # the hook that removes folders stays, and finds that all are needed
        root.set_attribute("n", 1)
        db.commit()
        assert arrays_in(root) == before
        with pytest.raises(Stop):
            lp.delete(root, Source([("copies",), ("ann", "clip_1"), ("ann", "clip_0")], Stop()), commit_every=2)
        assert len(arrays_in(root)) == 1
        assert ("ann", "clip_0") in committed(db)


def test_blobs_go_with_the_transaction(tmp_path: pathlib.Path) -> None:
    with database() as db:
        root = db.open_connection()
        for key in ("a", "b"):
            root.gn(key).set_attribute("data", Blob(key.encode()))
        db.commit()
        lp.delete(root, [("a",)], commit_every=1)
        root._p_jar.db().pack()  # until then, it has history
        blobs = pathlib.Path(root._p_jar.db().storage.fshelper.base_dir).rglob("*.blob")
        assert [path.read_bytes() for path in blobs] == [b"b"]


# What is refused


def test_what_is_no_place_in_the_tree_is_refused_and_nothing_happens() -> None:
    with database() as db:
        root = db.open_connection()
        filled(root)
        db.commit()
        before = contents(root)
        ann = root.node_storage["a"]
        refused: list[tuple[BaseNode, Any, Any]] = [
            (root, (), ()),
            (root, root, ()),
            (ann, ann, None),
            (ann, ("b",), ("b",)),
            (root, BaseNode("other").gn("a"), ("a",)),
        ]
        for target, item, path in refused:
            with pytest.raises(lp.ArgumentError) as caught:
                lp.delete(target, [("a", "clip_0"), [("a", "clip_1"), item]], commit_every=None)
            assert path in ((), None) or caught.value.path == path
            assert caught.value.hint or caught.value.path
        for item in ("a", b"a", 3, {"a": 1}, lp.ProcessResult(("a",)), ("a", 1), None):
            with pytest.raises(lp.ArgumentTypeError) as wrong:
                lp.delete(root, [item])
            assert wrong.value.got
        assert contents(root) == before
        with pytest.raises(lp.ArgumentError):
            lp.delete(BaseNode("root"), [], commit_every=1)
        with pytest.raises(lp.ArgumentTypeError):
            lp.delete("root", [])  # type: ignore[call-overload]


def test_what_can_only_be_read_is_refused_at_once(tmp_path: pathlib.Path) -> None:
    with lp.Archive(tmp_path / "a.rox", "w") as archive:
        lp.write(lp.mirror(), archive, [lp.ProcessResult(("a",), b"1")])
    with pytest.raises(lp.ReadOnlyStoreError):
        lp.delete(lp.Archive(tmp_path / "a.rox"))


def test_failures_among_the_items_are_counted() -> None:
    root = pipe(BaseNode("root"), lambda root: (filled(root), root)[1])
    failure = lp.Failure(("a", "clip_0"), "ValueError", "it can't be read")
    report = lp.delete(root, [failure, [("a",), failure]])
    assert (report.deleted, report.failed, report.failures) == (1, 2, (failure, failure))
    assert ("a",) not in contents(root)
