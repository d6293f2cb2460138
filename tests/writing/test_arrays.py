"""Arrays among results: stored as payloads, read back to the byte, in a tree that is otherwise what inline makes it."""

from __future__ import annotations

import itertools
import os
import pickle
import shutil
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ZODB
from hypothesis import example, given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from lotdb import LOTDB, BaseNode, DataNode, DataObject, DataWriter
from recording import Source, contents, examples
from trees import awkward_keys, exactly, opened, unsaved
from ZODB.blob import BlobStorage
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

import lotproc as lp
from lotproc import ArgumentError, ExistsError, MissingExtraError, ProcessResult, inline, mirror, write

pytest.importorskip("zarr")

both = pytest.mark.parametrize("arrays", ["blob", "zarr"])

#: Byte orders, structures, strings, times; all of them are known to npy files and to zarr.
DTYPES: list[Any] = [
    *("<f4", "<f8", ">f8", "<f2", "u1", "<i8", ">i2", "?", "<c16", ">c8", "<U3", ">U2", "S2", "M8[s]", ">m8[ms]"),
    [("a", ">i2"), ("b", "<f8"), ("c", "U2")],
    [("a", "<i2"), ("b", "S2")],
]
shapes = hnp.array_shapes(max_dims=3, max_side=4, min_side=0)


@st.composite
def payloads(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Arrays of any dtype, shape and order in memory."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if dtype.kind == "V" and dtype.names is None:
        array = np.frombuffer(draw(st.binary(min_size=24, max_size=24)), dtype).reshape(4, 2)
    else:
        array = draw(hnp.arrays(dtype, shapes))
    match draw(st.integers(0, 4)):
        case 0:
            array = np.asfortranarray(array)
        case 1:
            array = np.repeat(array, 2, axis=0)[::2]
        case 2:
            array = array[::-1]
        case 3:
            array = np.broadcast_to(array, (2, *array.shape))
    return array


#: What stays in the attributes: no time axis, Python objects, a class of its own, dtypes that files don't know.
STAYS: list[Any] = [
    np.array(1.5),
    np.array([1, "a", None], dtype=object),
    np.array([(1, None)], dtype=[("a", "i4"), ("b", object)]),
    np.ma.array([1, 2], mask=[True, False]),
    np.array([(1,)], dtype=[("a", "i4")]).view(np.recarray),
    np.zeros(2, np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2]})),
    *(1.5, "text", None, [np.arange(2)], {"a": np.arange(2)}, np.float32(1)),
]
values = st.one_of(payloads(), payloads(), st.sampled_from(STAYS))
keys = st.one_of(
    st.sampled_from(["a", "A", "a/b", "a.b", "..", ".", "%2F", "a%2Fb", "é", "日本", "\ud800", "+a", "k" * 300]),
    awkward_keys.filter(bool),
)


class Clip(BaseNode):
    """A node of a class of its own."""


def start(root: BaseNode) -> None:
    """Nodes of every kind that results can find, with children and attributes."""
    for kind in (BaseNode, Clip):
        node = kind(kind.__name__, root)
        root.node_storage[node.key] = node
        node.set_attribute("kept", [kind.__name__])
        node.get_node("child").set_attribute("n", 1)
    node = root.get_data_node(["DataNode"], samplerate_hz=8.0, backend="blob", data_attribute="own")
    node.write_data(np.arange(16.0))
    node.get_node("child").set_attribute("n", 2)


paths = st.one_of(
    st.sampled_from([(), ("BaseNode",), ("Clip",), ("DataNode",), ("BaseNode", "child"), ("DataNode", "child")]),
    st.lists(keys, min_size=1, max_size=3).map(tuple),
)
results = st.builds(
    ProcessResult,
    path=paths,
    output=values,
    attributes=st.dictionaries(st.one_of(st.sampled_from(["x", "kept", "a/b", "../x"]), keys), values, max_size=2),
)
batches = st.lists(
    results.filter(lambda result: "result" not in result.attributes), max_size=5, unique_by=lambda result: result.path
)


@contextmanager
def database() -> Iterator[LOTDB]:
    with tempfile.TemporaryDirectory() as folder:
        db = LOTDB(path=folder, name="tree", new=True)
        try:
            yield db
        finally:
            db.close()


@contextmanager
def started() -> Iterator[tuple[LOTDB, BaseNode]]:
    with database() as db:
        root = db.open_connection()
        start(root)
        db.commit()
        yield db, root


def same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def exact(value: Any) -> Any:
    """A value, or what a payload holds, to the byte, but for the byte order: an array inline loses it on its way."""
    if isinstance(value, DataObject):
        value = value.read()
    if type(value) is np.ndarray and not value.dtype.hasobject:
        value = value.astype(value.dtype.newbyteorder("="))
        return str(value.dtype), value.shape, value.tobytes()
    return exactly(value)


def read(root: BaseNode) -> dict[Any, Any]:
    """All nodes and what their attributes hold. Every node has to be the child of the parent that it names."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for key, child in node.node_storage.items():
            assert child.parent is node
            assert child.key == key
            waiting.append(child)
    return {path: {name: exact(value) for name, value in values.items()} for path, values in contents(root).items()}


def payloads_of(root: BaseNode) -> list[DataObject]:
    return [value for values in contents(root).values() for value in values.values() if isinstance(value, DataObject)]


def files(db: LOTDB) -> dict[str, int]:
    """The size of every file around the database; not of the locks and temporary files of ZODB."""
    found = [path for path in Path(db.path).rglob("*") if path.is_file()]
    return {str(path.relative_to(db.path)): path.stat().st_size for path in found if path.suffix != ".lock"}


@contextmanager
def reopened(db: LOTDB) -> Iterator[BaseNode]:
    db.close()
    again = LOTDB(path=db.path, name=db.name)
    try:
        yield again.open_connection()
    finally:
        again.close()


# --- The same tree as with arrays="inline" ----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("commit_every", [None, 2])
@given(batch=batches, if_exists=st.sampled_from(["merge", "replace", "skip"]))
@example(batch=[ProcessResult(("BaseNode",), np.array([(1, 2.0)], [("a", ">i2"), ("b", "f8")]))], if_exists="merge")
@example(batch=[ProcessResult(("a",), np.full(3, complex(-0.0, -0.0)))], if_exists="merge")
@example(batch=[ProcessResult((key,), np.arange(size)) for size, key in enumerate(["a", "A", "a/b"])], if_exists="skip")
@example(batch=[ProcessResult(("k" * 300,) * depth, np.arange(depth)) for depth in (1, 30)], if_exists="merge")
@settings(max_examples=examples(25))
def test_the_tree_is_that_of_inline_with_payloads_in_place_of_arrays(
    arrays: Any, commit_every: int | None, batch: list[ProcessResult], if_exists: Any
) -> None:
    with started() as (_, plain):
        report = write(mirror(), plain, batch, if_exists=if_exists, commit_every=commit_every)
        expected = read(plain)
    with started() as (db, root):
        before = {path: type(root.get_node_path(path, create=False)) for path in contents(root)}
        around = set(files(db))
        options: Any = {"if_exists": if_exists, "commit_every": commit_every, "arrays": arrays}
        assert write(mirror(), root, batch, **options) == report
        assert read(root) == expected
        db.commit()
        outside = {name for name in set(files(db)) - around if not name.startswith(("tree.blobs/", "tree.data.zarr/"))}
        assert outside == set()
        stored = files(db)
        write(mirror(), root, batch, **options)
        db.commit()
        assert files(db) == stored

        with reopened(db) as again:
            assert read(again) == expected
            datasets = [payload.dataset_path.filepath for payload in payloads_of(again) if payload.dataset_path]
            assert len(datasets) == len(set(datasets))
            made: set[Any] = set()  # on the way to the results before
            for result in batch:
                node = again.get_node_path(result.path, create=False)
                kind = before.get(result.path)
                was_made = result.path in made
                made |= {result.path[:depth] for depth in range(len(result.path))}
                if if_exists == "skip" and (kind is not None or was_made):
                    assert type(node) is (kind or BaseNode)
                    continue
                written = {**result.attributes, "result": result.output}
                for name, value in written.items():
                    stays = any(value is kept for kept in STAYS)
                    assert isinstance(node.get_attribute(name), DataObject) is not stays
                    if not stays and isinstance(node, DataNode) and name:
                        assert same(node.read_data(data_attribute=name), value)
                arrays_in_it = [value for value in written.values() if not any(value is kept for kept in STAYS)]
                if kind in (Clip, DataNode) or not result.path:
                    assert type(node) is (kind or BaseNode)
                elif arrays_in_it:
                    assert type(node) is DataNode
                    assert same(node.read_data(), arrays_in_it[-1])
                else:
                    assert type(node) is BaseNode


@both
def test_a_node_that_is_there_becomes_a_data_node_with_all_it_had(arrays: Any) -> None:
    with started() as (db, root):
        node = root.get_node("BaseNode")
        node.extra = ["its own"]
        db.commit()
        write(inline(), root, [ProcessResult(("BaseNode",), np.arange(3), {"second": np.arange(4)})], arrays=arrays)
        db.commit()
        with reopened(db) as again:
            made = again.get_node_path(["BaseNode"], create=False)
            assert type(made) is DataNode
            assert (made.key, made.extra, made.samplerate_hz) == ("BaseNode", ["its own"], None)
            assert (made.data_attribute, made.data_backend) == ("result", arrays)
            assert made.parent is again
            assert made.get_attribute("kept") == ["BaseNode"]
            assert made.get_node("child", create=False).parent is made
            assert made.read_data().tolist() == [0, 1, 2]
            assert made.read_data(data_attribute="second").tolist() == [0, 1, 2, 3]


@both
def test_a_data_node_keeps_its_own_data_and_how_it_stores_them(arrays: Any) -> None:
    with started() as (db, root):
        write(inline(), root, [ProcessResult(("DataNode",), np.arange(3))], arrays=arrays)
        db.commit()
        with reopened(db) as again:
            node = again.get_node_path(["DataNode"], create=False)
            assert (node.data_attribute, node.data_backend, node.samplerate_hz) == ("own", "blob", 8.0)
            assert same(node.read_data(), np.arange(16.0))
            assert node.read_data(data_attribute="result").tolist() == [0, 1, 2]
            assert node.get_attribute("result").samplerate_hz == 8.0


@both
@pytest.mark.parametrize("key", ["new", "BaseNode", "DataNode"])
def test_a_result_may_give_the_sample_rate_of_its_arrays(arrays: Any, key: str) -> None:
    with started() as (_, root):
        for rate in (100, 50.0):
            result = ProcessResult((key,), np.arange(300), {"samplerate_hz": rate})
            write(inline(), root, [result], arrays=arrays)
            node = root.get_node(key)
            assert node.read_seconds(1, 2, data_attribute="result").tolist() == list(range(int(rate), int(2 * rate)))
        assert node.samplerate_hz == {"new": 100.0, "BaseNode": 100.0, "DataNode": 8.0}[key]


@both
@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), "100", None])
def test_what_is_no_sample_rate_is_an_attribute_like_any_other(arrays: Any, rate: Any) -> None:
    with started() as (_, root):
        write(inline(), root, [ProcessResult(("new",), np.arange(3), {"samplerate_hz": rate})], arrays=arrays)
        assert root.get_node("new").samplerate_hz is None
        assert root.get_node("new").get_attribute("result").samplerate_hz is None


@both
def test_new_data_of_a_data_node_have_its_sample_rate(arrays: Any) -> None:
    with started() as (_, root):
        write(inline(), root, [ProcessResult(("DataNode",), np.arange(32))], output_attribute="own", arrays=arrays)
        node = root.get_node("DataNode")
        assert (node.data_attribute, node.data_backend, node.samplerate_hz) == ("own", "blob", 8.0)
        assert node.read_seconds(1, 1.5).tolist() == [8, 9, 10, 11]


@both
def test_nodes_of_a_class_of_their_own_and_the_root_stay_what_they_are(arrays: Any) -> None:
    with started() as (db, root):
        write(inline(), root, [ProcessResult(path, np.arange(3)) for path in [("Clip",), ()]], arrays=arrays)
        db.commit()
        with reopened(db) as again:
            assert type(again) is BaseNode
            assert type(again.get_node("Clip", create=False)) is Clip
            for node in (again, again.get_node("Clip", create=False)):
                assert node.get_attribute("result").read().tolist() == [0, 1, 2]


@both
def test_the_node_that_is_written_to_stays_the_one_that_the_caller_holds(arrays: Any) -> None:
    with started() as (_, root):
        target = root.get_node("BaseNode")
        write(mirror(), target, [ProcessResult((), np.arange(3)), ProcessResult(("new",), np.arange(2))], arrays=arrays)
        assert root.get_node("BaseNode") is target
        assert target.get_node("new", create=False).parent is target
        read(root)


def test_a_node_below_another_parent_too_is_replaced_below_its_own_alone() -> None:
    with started() as (db, root):
        node = root.get_node("BaseNode")
        other = root.get_node("other")
        other.node_storage["link"] = node
        db.commit()
        write(mirror(), root, [ProcessResult(("BaseNode",), np.arange(3))], arrays="blob")
        assert type(root.get_node("BaseNode")) is DataNode
        assert other.get_node("link") is node
        assert node.get_attribute("result").read().tolist() == [0, 1, 2]
        write(mirror(), root, [ProcessResult(("other", "link"), np.arange(4))], arrays="blob")
        assert set(contents(root)) >= {("BaseNode",), ("other", "link")}
        assert root.node_storage["BaseNode"].read_data().tolist() == [0, 1, 2, 3]


def test_a_memory_mapped_array_is_a_payload(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "array", dtype="f4", mode="w+", shape=(3,))
    root = BaseNode("root")
    write(mirror(), root, [ProcessResult(("a",), mapped)], arrays="blob")
    assert same(root.get_node("a").read_data(), np.zeros(3, "f4"))


@pytest.mark.parametrize(
    "array",
    [
        *(np.ones(2, "g"), np.ones(2, "G"), np.ones(2, "V0"), np.ones(2, "M8"), np.ones(2, [("a", "i2", (2,))])),
        *(np.ones(2, [("x", [("y", "f4")])]), np.ones(2, np.dtype([("a", "i1"), ("b", "f8")], align=True))),
    ],
)
def test_what_not_every_zarr_gives_back_comes_back_as_it_was(array: np.ndarray[Any, Any]) -> None:
    with started() as (db, root):
        write(mirror(), root, [ProcessResult(("a",), array, {"x": np.arange(2)})], arrays="zarr")
        db.commit()
        with reopened(db) as again:
            node = again.get_node("a", create=False)
            stored = node.get_attribute("result")
            assert same(stored.read() if isinstance(stored, DataObject) else stored, array)
            assert node.read_data(data_attribute="x").tolist() == [0, 1]


# --- zarr -------------------------------------------------------------------------------------------------------------


def test_zarr_stays_as_it_was_set_and_does_not_warn() -> None:
    import zarr

    config = getattr(zarr, "config", None)
    before = config and (config.get("default_zarr_format"), config.get("array.write_empty_chunks"))
    with started() as (_, root), warnings.catch_warnings():
        warnings.simplefilter("error")
        write(mirror(), root, [ProcessResult(("a",), np.array(["a", "é"])), ProcessResult(("b",), np.arange(3))])
        write(
            mirror("z"),
            root,
            [ProcessResult((f"a{index}",), np.ones(2, dtype)) for index, dtype in enumerate(DTYPES)],
            arrays="zarr",
        )
    assert before == (config and (config.get("default_zarr_format"), config.get("array.write_empty_chunks")))


def test_a_chain_of_nodes_deeper_than_paths_are_long() -> None:
    with started() as (db, root):
        path = ("key",) * 2000
        write(mirror(), root, [ProcessResult(path, np.arange(3))], arrays="zarr")
        db.commit()
        assert root.get_node_path(path, create=False).read_data().tolist() == [0, 1, 2]


def moved(where: Path) -> str:
    os.rename(where / "one", where / "two")
    return "tree"


def copied(where: Path) -> str:
    """And what it was copied from is written to."""
    shutil.copytree(where / "one", where / "two")
    with in_folder(where / "one", "tree") as (db, root):
        DataWriter.write_array(
            root.get_node("lotdb"), np.arange(4.0) + 100, data_attribute="result", backend="zarr", database=db
        )
    return "tree"


def renamed(where: Path) -> str:
    os.rename(where / "one", where / "two")
    for path in (where / "two").iterdir():
        path.rename(path.with_name(path.name.replace("tree", "other")))
    return "other"


def linked(where: Path) -> str:
    """Opened by another path, and by no other when the file's path is asked for."""
    os.symlink(where / "one", where / "two")
    return "tree"


def left(where: Path) -> str:
    """Only the database goes, and the arrays stay where they were written to."""
    (where / "two").mkdir()
    for path in (where / "one").iterdir():
        if path.name != "tree.data.zarr":
            path.rename(where / "two" / path.name)
    return "tree"


@contextmanager
def in_folder(path: Path, name: str, **options: Any) -> Iterator[tuple[LOTDB, BaseNode]]:
    db = LOTDB(path=str(path), name=name, **options)
    try:
        yield db, db.open_connection()
    finally:
        db.close()


@contextmanager
def opened_around(path: Path, name: str) -> Iterator[BaseNode]:
    """The same tree, from a storage for blobs that is put around that of the file."""
    db = ZODB.DB(BlobStorage(str(path / f"{name}.blobs"), FileStorage(str(path / name))))
    try:
        yield db.open().root.stt
    finally:
        db.close()


def sums(part: lp.Partition) -> list[Any]:
    return [
        ProcessResult(record.path, output=float(record.attributes["result"].read().sum()))
        for record in lp.scan("result", part)
    ]


@pytest.mark.filterwarnings("default")  # zarr's own
@pytest.mark.parametrize("goes", [moved, copied, renamed, linked, left], ids=lambda goes: goes.__name__)
@pytest.mark.parametrize("is_relative", [False, True])
def test_arrays_in_zarr_go_where_the_database_goes(
    goes: Callable[[Path], str], is_relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = {("ours",): np.arange(4.0), ("lotdb",): np.arange(4.0) + 1}
    result = ProcessResult(("ours",), output=expected["ours",], attributes={"samplerate_hz": 4})
    with in_folder(Path("one") if is_relative else tmp_path / "one", "tree", new=True) as (db, root):
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")  # the database is where it was opened
        write(mirror(), root, [result], arrays="zarr", commit_every=1)
        monkeypatch.chdir("..")
        DataWriter.write_array(
            root.gn("lotdb"), expected["lotdb",], data_attribute="result", backend="zarr", database=db, samplerate_hz=4
        )
        db.commit()
        assert root.get_node("ours").read_data().tolist() == [0, 1, 2, 3]
    name = goes(tmp_path)
    monkeypatch.chdir("/")
    with in_folder(tmp_path / "two", name) as (db, root):
        for records in (list(lp.scan("result", root)), list(lp.snapshot("result", lp.leaves(root)))):
            found = {record.path: record.attributes["result"] for record in records}
            assert found.keys() == expected.keys()
            if is_relative and goes is left:  # lotdb kept no more than a path to be taken from where it was then
                del found["lotdb",]
            for path, handle in found.items():
                assert same(handle.read(), expected[path])
                assert handle.read_seconds(0.25, 0.5).tolist() == expected[path][1:2].tolist()
        if is_relative and goes is left:
            return
        process = lp.parallel_map(sums, mode="process", max_workers=1)
        results = itertools.chain.from_iterable(process(lp.partitions(2, root)))
        assert {one.path: one.output for one in results} == {path: array.sum() for path, array in expected.items()}
        store = lp.DirectoryStore(tmp_path / "store", durable=False)
        lp.copy(root, store, progress=False)
        assert {path: value["result"].read().tolist() for path, value in store.items()} == {
            path: array.tolist() for path, array in expected.items()
        }
        write(mirror(), root, [result], arrays="zarr", commit_every=1)  # tells lotdb where it is now
        assert same(root.get_node("ours").read_data(), expected["ours",])
        (again,) = lp.snapshot("result", [root.get_node("ours")])
        assert again.attributes["result"].dataset == found["ours",].dataset
    with opened_around(tmp_path / "two", name) as root:
        assert {record.path: record.attributes["result"].read().sum() for record in lp.scan("result", root)} == {
            path: array.sum() for path, array in expected.items()
        }


@both
def test_a_value_that_is_replaced_is_there_until_the_commit(arrays: Any) -> None:
    with started() as (db, root):
        for array in (np.arange(3), np.arange(4), np.arange(4.0)):
            write(mirror(), root, [ProcessResult(("a",), array)], arrays=arrays)
            db.commit()
            assert same(root.get_node("a").read_data(), array)
        look = db.open_connection(connection_id="look")
        write(mirror(), root, [ProcessResult(("a",), np.zeros(4))], arrays=arrays)
        assert same(look.get_node("a").read_data(), np.arange(4.0))
        assert same(root.get_node("a").read_data(), np.zeros(4))
        db.abort()
        assert same(root.get_node("a").read_data(), np.arange(4.0))


@pytest.mark.parametrize("words", list(itertools.permutations(["inline", "blob", "zarr"], 2)))
def test_an_array_moves_to_where_the_last_write_puts_it(words: tuple[Any, Any]) -> None:
    with started() as (db, root):
        for arrays in words:
            write(mirror(), root, [ProcessResult(("a",), np.arange(3), {"n": 1})], arrays=arrays)
            db.commit()
        stored = root.get_node("a").get_attribute("result")
        assert getattr(stored, "backend", "inline") == words[1]
        assert read(root)[("a",)] == {"n": exact(1), "result": exact(np.arange(3))}


@both
def test_a_payload_whose_file_is_gone_is_written_anew(arrays: Any) -> None:
    with started() as (db, root):
        results = [ProcessResult(("a",), np.arange(3))]
        write(mirror(), root, results, arrays=arrays)
        db.commit()
        (payload,) = (value for value in payloads_of(root) if value.sample_count == 3)
        if arrays == "blob":
            os.remove(payload.blob_object.blob.committed())
        else:
            os.rename(payload.store_path.filepath, payload.store_path.filepath + ".gone")
        root._p_jar.cacheMinimize()
        write(mirror(), root, results, arrays=arrays)
        db.commit()
        assert root.get_node("a").read_data().tolist() == [0, 1, 2]


# --- Failures ---------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


@both
@pytest.mark.parametrize("commit_every", [None, 1])
def test_a_write_that_fails_leaves_what_was_committed(arrays: Any, commit_every: int | None) -> None:
    with started() as (db, root):
        old = [ProcessResult(path, np.arange(9)) for path in [("a",), ("BaseNode",), ("DataNode",)]]
        write(mirror(), root, old[:1], arrays=arrays)
        db.commit()
        before = read(root)
        new = Source([[ProcessResult(result.path, np.zeros(5)) for result in old]], Stop())
        with pytest.raises(Stop):
            write(mirror(), root, new, arrays=arrays, commit_every=commit_every)
        if commit_every is None:
            assert read(root) == before
            assert type(root.get_node("BaseNode")) is BaseNode
            assert root.get_node("BaseNode").get_node("child").parent is root.get_node("BaseNode")
        else:
            assert {key: values["result"] for key, values in read(root).items() if "result" in values} == {
                result.path: exact(np.zeros(5)) for result in old
            }
        assert unsaved(root) == []
        expected = read(root)
        with reopened(db) as again:
            assert read(again) == expected


@both
def test_a_payload_that_can_not_be_stored_undoes_its_write(arrays: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with started() as (db, root):
        write(mirror(), root, [ProcessResult(("a",), np.arange(9))], arrays=arrays)
        db.commit()
        before = read(root)
        calls = itertools.count()
        write_array = DataWriter.write_array

        def full_disk(*args: Any, **options: Any) -> DataObject:
            if next(calls) == 2:
                raise OSError("no space left on device")
            return write_array(*args, **options)

        monkeypatch.setattr(DataWriter, "write_array", full_disk)
        with pytest.raises(OSError, match="no space left"):
            write(mirror(), root, [ProcessResult((key,), np.zeros(9)) for key in ("a", "BaseNode", "c")], arrays=arrays)
        assert read(root) == before
        assert unsaved(root) == []


@both
def test_a_node_that_is_there_stops_a_write_that_is_told_to(arrays: Any) -> None:
    with started() as (_, root):
        before = read(root)
        found = [ProcessResult(("a",), np.arange(3)), ProcessResult(("BaseNode",), np.arange(3))]
        with pytest.raises(ExistsError):
            write(mirror(), root, found, arrays=arrays, if_exists="error")
        assert read(root) == before


# --- Trees that can't hold them ---------------------------------------------------------------------------------------


def refused(root: BaseNode, arrays: Any, error: type[Exception], message: str) -> None:
    source = Source([ProcessResult(("a",), np.arange(3))])
    with pytest.raises(error, match=message):
        write(mirror(), root, arrays=arrays)
    with pytest.raises(error, match=message):
        write(mirror(), root, source, arrays=arrays)
    assert source.pulled == 0
    assert contents(root) == {(): {}}


@pytest.mark.parametrize("word", ["BLOB", "npy", "", None, True, 1])
def test_another_word_is_refused_at_once(word: Any) -> None:
    refused(BaseNode("root"), word, ArgumentError, "write: arrays must be one of .inline., .blob., .zarr.")


def test_a_tree_in_memory_takes_blobs() -> None:
    root = BaseNode("root")
    start(root)
    results = [ProcessResult(path, np.arange(3)) for path in [("a", "b"), ("BaseNode",), ("Clip",)]]
    write(mirror(), root, results, arrays="blob")
    write(mirror(), root, results, arrays="blob")
    expected = read(root)
    assert expected[("a", "b")]["result"] == exact(np.arange(3))
    assert root.get_node_path(["a", "b"]).read_data().tolist() == [0, 1, 2]
    with database() as db:
        db.open_connection().add_tree(root)
        db.commit()
        with reopened(db) as again:
            assert read(again.get_node("root")) == expected


def test_a_tree_in_memory_has_no_place_for_zarr() -> None:
    refused(BaseNode("root"), "zarr", ArgumentError, "beside the file of a database, and 'root' has none")


@pytest.mark.parametrize("arrays", ["blob", "zarr"])
def test_a_storage_in_memory_has_no_place_for_payloads(arrays: Any) -> None:
    with opened(MappingStorage()) as root:
        refused(root, arrays, ArgumentError, "and (that of )?'root' has none")


def test_a_database_without_a_directory_for_blobs_takes_zarr_alone(tmp_path: Path) -> None:
    with opened(FileStorage(str(tmp_path / "tree"))) as root:
        refused(root, "blob", ArgumentError, "needs a database with a directory for blobs")
        write(mirror(), root, [ProcessResult(("a",), np.arange(3))], arrays="zarr", commit_every=1)
        assert root.get_node("a").read_data().tolist() == [0, 1, 2]
    assert (tmp_path / "tree.data.zarr").is_dir()


def test_any_storage_with_blobs_takes_blobs() -> None:
    with opened(DemoStorage()) as root:
        write(mirror(), root, [ProcessResult(("a",), np.arange(3))], arrays="blob", commit_every=1)
        root._p_jar.cacheMinimize()
        assert root.get_node("a").read_data().tolist() == [0, 1, 2]


def test_without_zarr_the_error_names_the_extra_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with database() as db:
        root = db.open_connection()
        monkeypatch.setitem(sys.modules, "zarr", None)
        refused(root, "zarr", MissingExtraError, "zarr")
        write(mirror(), root, [ProcessResult(("a",), np.arange(3))], arrays="blob")
        assert root.get_node("a").read_data().tolist() == [0, 1, 2]


# --- Handles, memory --------------------------------------------------------------------------------------------------


@both
@given(array=payloads())
@settings(max_examples=15)
def test_handles_of_what_was_written_read_the_array(arrays: Any, array: np.ndarray[Any, Any]) -> None:
    with database() as db:
        root = db.open_connection()
        write(mirror(), root, [ProcessResult(("a", "b"), array)], arrays=arrays, commit_every=1)
        (live,) = lp.snapshot((), lp.leaves(root), payload="result")
        (scanned,) = lp.scan((), root, payload="result")
        for record in (live, scanned):
            handle = pickle.loads(pickle.dumps(record.payload))
            assert isinstance(handle, lp.PayloadHandle)
            assert handle.shape == array.shape
            assert same(handle.read(), array)
            assert same(np.asarray(handle), array)
            blocks = list(handle.blocks(2))
            assert [block.tobytes() for block in blocks] == [
                array[at : at + 2].tobytes() for at in range(0, len(array), 2)
            ]


def peak(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layout", ["C", "F", "strided"])
@both
def test_a_big_array_is_not_pickled_nor_held_more_often_than_read(arrays: Any, layout: str) -> None:
    array: np.ndarray[Any, Any] = np.random.default_rng(0).random((4096, 2048))
    array = {"C": array, "F": np.asfortranarray(array), "strided": array[::2, ::2]}[layout]
    with database() as db:
        root = db.open_connection()
        results = [ProcessResult(("a",), array)]
        write(mirror(), root, [ProcessResult(("b",), np.arange(3))], arrays=arrays)  # imports what it needs
        db.commit()
        size = files(db)["tree"]
        assert peak(lambda: write(mirror(), root, results, arrays=arrays)) < array.nbytes
        db.commit()
        assert files(db)["tree"] - size < 10_000
        assert peak(lambda: write(mirror(), root, results, arrays=arrays)) < array.nbytes * 2
        assert unsaved(root) == []
