"""`partitions` are the whole tree, each node in one of them, of similar sizes, and can be scanned anywhere."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from lotdb import LOTDB, BaseNode, DataNode, add_blob
from toolz import compose_left, concat, pipe
from trees import (
    Planned,
    Tree,
    chain_of,
    commit,
    data_nodes,
    exactly,
    fast_ways,
    grow,
    keys,
    opened,
    planned_trees,
    plant,
    scanned_live,
    stored,
    trees,
    unsaved,
)
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

import lotproc as lp

#: Some names here are those of no node, on purpose; what is told of them is held by `test_missing_names`.
pytestmark = pytest.mark.filterwarnings("ignore:.* no node had an attribute")


class Loud(BaseNode):
    """Gives another key than it stores."""

    @property
    def key(self) -> str:
        return self._key + "!"


def parted(n: int, root: BaseNode, names: Any = ..., skip: Any = None, **options: Any) -> list[list[lp.NodeRecord]]:
    """The records of each partition, which have to be those of the whole tree."""
    parts = lp.partitions(n, root, skip=skip)
    assert unsaved(root) == []
    assert 1 <= len(parts) <= n
    found = [list(lp.scan(names, pickle.loads(pickle.dumps(part)), skip=skip, **options)) for part in parts]
    assert [exactly(record) for record in concat(found)] == [
        exactly(record) for record in lp.scan(names, root, skip=skip, **options)
    ]
    return found


def paths_of(records: Any) -> list[tuple[str, ...]]:
    return [record.path for record in records]


@pytest.fixture(scope="module")
def in_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    with closing(LOTDB(path=str(tmp_path_factory.mktemp("file")), name="tree", new=True)) as database:
        yield database.open_connection()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("partitions")


# --- The law ---------------------------------------------------------------------------------------------------------

counts = st.one_of(st.integers(1, 8), st.integers(1, 1000))
skips = st.sampled_from([None, None, "a*", "?", "[!a]*", "no such key", lambda node: node.key < "b"])


@given(tree=trees, n=counts, skip=skips, depth=st.sampled_from([None, None, None, 0, 1, 2, 3, "deepest"]))
def test_partitions_are_the_whole_tree(folder: Path, tree: Tree, n: int, skip: Any, depth: Any) -> None:
    with stored(folder, tree) as root:
        found = parted(n, root, skip=skip, level=depth)
        assert [exactly(record) for record in concat(found)] == scanned_live(..., root, skip=skip, level=depth)


wide_trees = st.recursive(
    st.just({}),
    lambda below: st.one_of(
        st.dictionaries(keys, below, max_size=4),
        st.builds(lambda count, below: {f"n{number}": below for number in range(count)}, st.integers(0, 90), below),
    ),
    max_leaves=5,
)


@given(tree=wide_trees, n=counts, skip=st.one_of(skips, st.just("n1*")), depth=st.sampled_from([None, None, 1, 2]))
def test_partitions_of_wide_trees_and_of_branches(in_file: BaseNode, tree: Tree, n: int, skip: Any, depth: Any) -> None:
    in_file._p_jar.transaction_manager.abort()
    in_file.delete_node("tree")
    plant(in_file.gn("tree"), tree if len(str(tree)) < 10_000 else {"large": {}})
    commit(in_file)
    parted(n, in_file.gn("tree"), skip=skip, level=depth)
    for child in in_file.gn("tree").all_nodes()[:2]:
        parted(n, child, skip=skip, level=depth)


@given(planned=planned_trees(st.one_of(st.sampled_from([BaseNode, DataNode, Loud]), data_nodes)), n=counts)
def test_partitions_of_trees_of_all_kinds(in_file: BaseNode, planned: Planned, n: int) -> None:
    in_file._p_jar.transaction_manager.abort()
    in_file.delete_node("kinds")
    grow(in_file.gn("kinds"), "top", planned)
    commit(in_file)
    parted(n, in_file.gn("kinds"))
    parted(n, in_file.gn("kinds"), ["a", "b"], where={"a": None})


def test_a_deep_chain(in_file: BaseNode) -> None:
    node = in_file.gn("chain")
    for key in chain_of(1500):
        node.gn("a"), node.gn("z")
        node = node.gn(key)
    commit(in_file)
    parted(7, in_file.gn("chain"), ())


# --- Sizes -----------------------------------------------------------------------------------------------------------


def balanced() -> Tree:
    return {f"a{a:02}": {f"b{b}": {f"c{c:02}": {} for c in range(20)} for b in range(10)} for a in range(20)}


def mostly_one() -> Tree:
    return {
        **{f"a{a:02}": {f"c{c:02}": {} for c in range(20)} for a in range(20)},
        "a07": {f"b{b}": {f"c{c:03}": {} for c in range(120)} for b in range(30)},
    }


def one_wide() -> Tree:
    return {"before": {"a": {}}, "wide": {f"n{number}": {} for number in range(5000)}, "then": {"a": {}}}


def deep_in_one_branch() -> Tree:
    return {"a": {}, "b": {"c": {"d": {"e": {f"n{n}": {"x": {}, "y": {}} for n in range(1000)}}}}, "f": {}}


TREES = [balanced, mostly_one, one_wide, deep_in_one_branch]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Databases of some larger trees, closed."""
    folders = {}
    for make in TREES:
        folder = folders[make.__name__] = tmp_path_factory.mktemp(make.__name__)
        with closing(LOTDB(path=str(folder), name="tree", new=True)) as database:
            root = database.open_connection()
            for path, number in [(path, number) for number, path in enumerate(_leaf_paths(make()))]:
                root.gns(path).set_attribute("number", number)
            database.commit()
    return folders


def _leaf_paths(tree: Tree, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [leaf for key in sorted(tree) for leaf in _leaf_paths(tree[key], (*path, key))] if tree else [path]


@pytest.mark.parametrize("tree", [make.__name__ for make in TREES])
def test_the_largest_part_is_at_most_twice_the_average(files: dict[str, Path], tree: str) -> None:
    with closing(LOTDB(path=str(files[tree]), name="tree", read_only=True)) as database:
        root = database.open_connection()
        leaves = len(list(lp.scan((), root)))
        for n in (2, 5, 16):
            sizes = [len(list(lp.scan((), part))) for part in lp.partitions(n, root)]
            assert sum(sizes) == leaves
            assert max(sizes) <= 2 * leaves / n, f"{n}: {sizes}"


def test_a_partition_is_a_small_value(files: dict[str, Path]) -> None:
    for folder in files.values():
        with closing(LOTDB(path=str(folder), name="tree", read_only=True)) as database:
            parts = lp.partitions(16, database.open_connection())
            assert all(len(pickle.dumps(part)) < 1000 for part in parts)
            assert pickle.loads(pickle.dumps(parts)) == parts
            assert len(set(parts)) == len(parts) > 8
            assert str(folder) in str(parts[0])


def test_skipped_branches_do_not_count(files: dict[str, Path]) -> None:
    with closing(LOTDB(path=str(files["mostly_one"]), name="tree", read_only=True)) as database:
        root = database.open_connection()
        sizes = [len(records) for records in parted(4, root, (), skip="a07")]
        assert sum(sizes) == 19 * 20
        assert max(sizes) <= 2 * sum(sizes) / 4


# --- Elsewhere -------------------------------------------------------------------------------------------------------


def test_in_worker_processes(files: dict[str, Path]) -> None:
    with closing(LOTDB(path=str(files["balanced"]), name="tree")) as database:
        root = database.open_connection()
        found = pipe(
            root,
            lp.partitions(8),
            lp.parallel_map(compose_left(lp.scan("number"), list), max_workers=2, mode="process"),
            concat,
            list,
        )
        assert [exactly(record) for record in found] == scanned_live("number", root)


def test_each_part_is_processed_where_it_is_read(files: dict[str, Path], tmp_path: Path) -> None:
    def plus_one(record: lp.NodeRecord) -> lp.ProcessResult:
        return lp.ProcessResult(record.path, output=record.attributes["number"] + 1)

    shutil.copytree(files["balanced"], tmp_path, dirs_exist_ok=True)
    with closing(LOTDB(path=str(tmp_path), name="tree")) as database:
        root = database.open_connection()
        work = compose_left(
            lp.scan("number", where="c1"),
            lp.chunked(64),
            lp.parallel_map(lp.each(plus_one), mode="sync"),
            list,
        )
        report = pipe(
            root,
            lp.partitions(6),
            lp.parallel_map(work, max_workers=2, mode="process"),
            lp.write(lp.inline("_proc"), root, commit_every=500),
        )
        assert report.written == 20 * 10 * 10
        results = list(lp.scan("result", root, where="_proc"))
        numbers = [record.attributes["number"] for record in lp.scan("number", root, where="c1", skip="_proc")]
        assert [record.attributes["result"] for record in results] == [number + 1 for number in numbers]


SCAN = """
import pickle, sys
import lotproc as lp
for part in pickle.load(sys.stdin.buffer):
    for record in lp.scan("number", part):
        print(*record.path, record.attributes["number"])
"""


@pytest.mark.parametrize("relative", [False, True])
def test_in_a_process_of_another_folder(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    folder = files["deep_in_one_branch"]
    monkeypatch.chdir(folder.parent)
    with closing(LOTDB(path=folder.name if relative else str(folder), name="tree")) as database:
        root = database.open_connection()
        parts = lp.partitions(5, root)
        expected = [" ".join((*record.path, str(record.attributes["number"]))) for record in lp.scan("number", root)]
    path = os.pathsep.join([str(Path(lp.__file__).parent.parent), *sys.path])
    output = subprocess.run(
        [sys.executable, "-c", SCAN],
        input=pickle.dumps(parts),
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
    ).stdout
    assert output.decode().splitlines() == expected


def test_at_the_same_transaction_although_newer_ones_follow(files: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(files["balanced"], tmp_path, dirs_exist_ok=True)
    with closing(LOTDB(path=str(tmp_path), name="tree")) as database:
        root = database.open_connection()
        expected = scanned_live("number", root)
        old = lp.partitions(6, root)
        begun = [exactly(record) for record in lp.scan("number", old[0])]  # opens the file now
        for a in root.all_nodes():
            for b in a.all_nodes():
                b.delete_node("c03")
                b.gn("c05").set_attribute("number", -1)
                b.gn("new").gn("below")
        root.delete_node("a11")
        database.commit()
        new = lp.partitions(6, root)
        assert [*begun, *(exactly(record) for part in old[1:] for record in lp.scan("number", part))] == expected
        assert [exactly(record) for part in new for record in lp.scan("number", part)] == scanned_live("number", root)
        assert [exactly(record) for part in old for record in lp.scan("number", part)] == expected
        read = pipe(old, lp.parallel_map(compose_left(lp.scan("number"), list), max_workers=2, mode="process"), concat)
        assert [exactly(record) for record in read] == expected


@fast_ways
def test_after_a_pack_a_part_is_right_or_an_error(files: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(files["balanced"], tmp_path, dirs_exist_ok=True)
    with closing(LOTDB(path=str(tmp_path), name="tree")) as database:
        root = database.open_connection()
        expected = scanned_live("number", root)
        parts = lp.partitions(4, root)
        begun = lp.scan("number", parts[0])
        first = [next(begun)]
        database.db.pack(time.time() + 1)  # drops nothing that the parts need
        assert [exactly(record) for record in concat(lp.scan("number", part) for part in parts)] == expected
        root.gn("a19").gn("b0").gn("c00").set_attribute("number", -1)
        database.commit()
        database.db.pack(time.time() + 1)
        assert [exactly(record) for record in concat(lp.scan("number", part) for part in parts[:2])] == expected[:2000]
        with pytest.raises(lp.DamagedDatabaseError, match=r"a19/b0/c00.*0x.*packed"):
            list(lp.scan("number", parts[-1]))
        assert [exactly(record) for record in [*first, *begun]] == expected[:1000]


@fast_ways
def test_parts_of_many_files_in_turn(tmp_path: Path) -> None:
    """More databases than are kept open; their scans go on, blobs included."""
    with ExitStack() as stack:
        scans = []
        expected = []
        for number in range(8):
            folder = tmp_path / f"{number}"
            root = stack.enter_context(closing(LOTDB(path=str(folder), name="tree", new=True))).open_connection()
            for leaf in range(100):
                root.gn(f"{leaf:02}").set_attribute("number", number + leaf)
                add_blob(root.gn(f"{leaf:02}"), "data", b"%d" % (number + leaf))
            commit(root)
            (part,) = lp.partitions(1, root)
            scans.append(lp.scan("number", part, payload="data"))
            expected.append([number + leaf for leaf in range(100)])
        rounds = list(zip(*scans, strict=True))
        found = [[record.attributes["number"] for record in records] for records in zip(*rounds, strict=True)]
        read = [[int(record.payload.read()) for record in records] for records in zip(*rounds, strict=True)]
        assert found == expected
        assert read == expected


def test_one_part_in_many_threads(files: dict[str, Path]) -> None:
    with closing(LOTDB(path=str(files["balanced"]), name="tree", read_only=True)) as database:
        root = database.open_connection()
        parts = lp.partitions(4, root)
        expected = list(lp.scan("number", root))
    found: dict[int, Any] = {}

    def read(turn: int) -> None:
        found[turn] = [record for part in parts for record in lp.scan("number", part)]

    threads = [threading.Thread(target=read, args=[turn]) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), expected)


def test_payloads_of_a_part(tmp_path: Path) -> None:
    with closing(LOTDB(path=str(tmp_path), name="tree", new=True)) as database:
        root = database.open_connection()
        for number in range(50):
            node = root.get_data_node([f"{number:02}"], samplerate_hz=2.0, backend="blob")
            node.write_data(np.arange(number + 1), database=database)
        database.commit()
        parts = lp.partitions(3, root)
    records = [record for part in parts for record in lp.scan((), part, payload="data")]
    assert [len(record.payload.read()) for record in records] == list(range(1, 51))


# --- Errors ----------------------------------------------------------------------------------------------------------


def test_trees_that_cant_be_opened_from_elsewhere(in_file: BaseNode, tmp_path: Path) -> None:
    with pytest.raises(lp.ArgumentError, match=r"partitions: 'root'.*in memory"):
        lp.partitions(2, BaseNode("root"))
    with pytest.raises(lp.ArgumentError, match=r"never committed"):
        lp.partitions(2, in_file.gn("new"), uncommitted="ignore")
    in_file._p_jar.transaction_manager.abort()
    storages = [MappingStorage(), DemoStorage(base=FileStorage(str(tmp_path / "base.fs")))]
    for storage in storages:
        with (
            opened(storage) as root,
            pytest.raises(lp.ArgumentError, match=rf"{type(storage).__name__}.*can't be opened from elsewhere"),
        ):
            lp.partitions(2, root)


def test_uncommitted_changes(in_file: BaseNode) -> None:
    in_file.gn("committed").gn("leaf")
    commit(in_file)
    before = paths_of(lp.scan((), in_file))
    in_file.gn("changed")
    with pytest.raises(lp.UncommittedError, match="partitions: .*commit"):
        lp.partitions(2, in_file)
    parts = lp.partitions(2, in_file, uncommitted="ignore")
    assert paths_of(concat(lp.scan((), part) for part in parts)) == before
    in_file._p_jar.transaction_manager.abort()


@pytest.mark.parametrize(("n", "error"), [(0, lp.ArgumentError), (-1, lp.ArgumentError), (1.5, lp.ArgumentTypeError)])
def test_wrong_numbers(n: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="partitions: n"):
        lp.partitions(n)


def test_a_partition_is_no_root_for_other_stages(in_file: BaseNode) -> None:
    (part,) = lp.partitions(1, in_file)
    for stage in (lp.leaves(), lp.partitions(2)):
        with pytest.raises(lp.ArgumentTypeError, match="expected a lotdb node"):
            stage(part)


def test_the_file_is_gone_or_another_one(files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(files["one_wide"], folder)
    with closing(LOTDB(path=str(folder), name="tree")) as database:
        root = database.open_connection()
        parts = lp.partitions(2, root)
    shutil.move(folder, tmp_path / "moved")
    with pytest.raises(lp.ArgumentError, match=rf"{folder}.* is not there.*partitions\(\) again"):
        list(lp.scan((), parts[1]))
    with pytest.raises(lp.ArgumentError, match=str(folder)):
        list(pipe(parts, lp.parallel_map(compose_left(lp.scan(()), list), max_workers=2, mode="process")))
    folder.mkdir()
    (folder / "tree").write_bytes(b"this is no database at all")
    with pytest.raises(lp.DamagedDatabaseError, match=str(folder)):
        list(lp.scan((), parts[1]))
    (folder / "tree").unlink()
    shutil.rmtree(folder)
    shutil.move(tmp_path / "moved", folder)
    assert sum(len(list(lp.scan((), part))) for part in parts) == 5002
