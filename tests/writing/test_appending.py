"""`if_exists="append"`: pieces, appended in any way, are the array that was written at once; or nothing has changed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from lotdb import LOTDB, BaseNode, DataNode, DataObject, DataWriter
from recording import Source, contents
from transaction import TransactionManager
from trees import opened, unsaved
from ZODB.FileStorage import FileStorage

import lotproc as lp
from lotproc import ArgumentError, ProcessResult, inline, mirror, write

pytest.importorskip("zarr")

both = pytest.mark.parametrize("arrays", ["blob", "zarr"])


@contextmanager
def database() -> Iterator[tuple[LOTDB, BaseNode]]:
    with tempfile.TemporaryDirectory() as folder:
        db = LOTDB(path=folder, name="tree", new=True)
        try:
            yield db, db.open_connection()
        finally:
            db.close()


def same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def read(root: BaseNode) -> dict[Any, Any]:
    """All attributes, of payloads what they hold and their rate."""

    def exact(value: Any) -> Any:
        if isinstance(value, DataObject):
            array = value.read()
            return value.backend, str(array.dtype), array.shape, array.tobytes(), value.samplerate_hz
        return value

    return {path: {name: exact(value) for name, value in values.items()} for path, values in contents(root).items()}


@st.composite
def jobs(draw: st.DrawFn) -> tuple[list[ProcessResult], list[list[ProcessResult]]]:
    """Whole results, and the same in batches of pieces: those of each path in their order, one of them at least."""
    whole, pieces = [], []
    for key in draw(st.sampled_from(["a", "ab", "abc"])):
        dtype = draw(st.sampled_from(["<f4", ">i2", "<c16", "?", "<U2", "M8[s]"]))
        arrays = {
            name: draw(hnp.arrays(dtype, (draw(st.integers(0, 9)), *draw(hnp.array_shapes(min_dims=0, max_dims=2)))))
            for name in ("result", "second")
        }
        cuts = sorted(draw(st.lists(st.integers(0, 9), max_size=3)))
        starts, stops = [0, *cuts], [*cuts, 9]
        more = draw(st.sampled_from([{}, {"samplerate_hz": 8.0}]))

        def result(part: slice, n: int, key: str = key, arrays: Any = arrays, more: Any = more) -> ProcessResult:
            return ProcessResult((key,), arrays["result"][part], {"second": arrays["second"][part], "n": n, **more})

        whole.append(result(slice(None), len(cuts)))
        pieces.append([result(slice(*ends), n) for n, ends in enumerate(zip(starts, stops, strict=True))])
    order = draw(st.permutations([number for number, of_path in enumerate(pieces) for _ in of_path]))
    left = [iter(of_path) for of_path in pieces]
    stream = [next(left[number]) for number in order]
    size = draw(st.integers(1, 4))
    return whole, [stream[start : start + size] for start in range(0, len(stream), size)]


# --- Laws ------------------------------------------------------------------------------------------------------------


@both
@given(job=jobs(), commit_every=st.sampled_from([None, 1, 3]), runs=st.sampled_from([1, 2]), data=st.data())
@settings(max_examples=25)
def test_pieces_that_are_appended_are_the_array_that_is_written_at_once(
    arrays: Any, job: Any, commit_every: int | None, runs: int, data: st.DataObject
) -> None:
    whole, batches = job
    with database() as (_, root):
        write(mirror(), root, whole, arrays=arrays)
        expected = read(root)
    cut = data.draw(st.integers(0, len(batches))) if runs == 2 else len(batches)
    with database() as (db, root):
        for part in (batches[:cut], batches[cut:]):
            write(mirror(), root, part, arrays=arrays, if_exists="append", commit_every=commit_every)
        assert read(root) == expected
        db.commit()
        root._p_jar.cacheMinimize()
        assert read(root) == expected
        assert all(type(node) is DataNode for node in root.node_storage.values())
        for record in lp.scan(("result", "second"), root):
            for name, handle in record.attributes.items():
                assert handle.read().tobytes() == expected[record.path][name][3]


@given(job=jobs())
@settings(max_examples=25)
def test_pieces_in_memory_are_that_too(job: Any) -> None:
    whole, batches = job
    at_once, root = BaseNode("root"), BaseNode("root")
    write(mirror(), at_once, whole, arrays="blob")
    write(mirror(), root, batches, arrays="blob", if_exists="append")
    assert read(root) == read(at_once)


@both
@pytest.mark.parametrize("commit_every", [None, 2])
def test_a_write_that_fails_leaves_the_old_array(arrays: Any, commit_every: int | None) -> None:
    class Stop(Exception):
        pass

    with database() as (db, root):
        write(mirror(), root, [ProcessResult(("a",), np.arange(3.0))], arrays=arrays)
        db.commit()
        before = read(root)
        pieces = [[ProcessResult(("a",), np.full(2, float(n)))] for n in range(3)]
        with pytest.raises(Stop):
            write(mirror(), root, Source(pieces, Stop()), arrays=arrays, if_exists="append", commit_every=commit_every)
        assert unsaved(root) == []
        root._p_jar.cacheMinimize()
        kept = [0, 1, 2] if commit_every is None else [0, 1, 2, 0, 0, 1, 1]
        assert root.get_node("a").read_data().tolist() == kept
        assert (read(root) == before) is (commit_every is None)


@both
def test_what_is_not_committed_is_seen_by_nobody_else_and_can_be_taken_back(arrays: Any) -> None:
    with database() as (db, root):
        write(mirror(), root, [ProcessResult(("a",), np.arange(3))], arrays=arrays)
        db.commit()
        look = db.open_connection(connection_id="look")
        write(mirror(), root, [ProcessResult(("a",), np.arange(2))], arrays=arrays, if_exists="append")
        assert look.get_node("a").read_data().tolist() == [0, 1, 2]
        assert root.get_node("a").read_data().tolist() == [0, 1, 2, 0, 1]
        db.abort()
        assert root.get_node("a").read_data().tolist() == [0, 1, 2]


@both
def test_what_others_append_meanwhile_stays_and_nothing_is_appended_twice(arrays: Any, tmp_path: Path) -> None:
    with opened(FileStorage(str(tmp_path / "tree"), blob_dir=str(tmp_path / "blobs"))) as root:
        write(mirror(), root, [ProcessResult(("a",), np.array([0]))], arrays=arrays, commit_every=1)
        other = root._p_jar.db().open(TransactionManager())
        try:
            theirs = other.root()[next(iter(other.root()))]

            def results() -> Iterator[ProcessResult]:
                yield ProcessResult(("a",), np.array([1]))
                write(mirror(), theirs, [ProcessResult(("a",), [2, 3] @ np.eye(2, dtype=int))], **options)
                yield ProcessResult(("a",), np.array([4]))

            options: Any = {"arrays": arrays, "if_exists": "append", "commit_every": 2}
            write(mirror(), root, results(), **options)
        finally:
            other.close()
        assert root.get_node("a").read_data().tolist() == [0, 2, 3, 1, 4]


# --- Arrays of all kinds ---------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("there", ["inline", "blob", "zarr"])
def test_an_array_is_appended_wherever_it_lay(arrays: Any, there: Any) -> None:
    with database() as (db, root):
        write(mirror(), root, [ProcessResult(("a",), np.arange(3), {"note": "kept"})], arrays=there)
        db.commit()
        write(mirror(), root, [ProcessResult(("a",), np.arange(2))], arrays=arrays, if_exists="append")
        db.commit()
        assert root.get_node("a").get_attribute("note") == "kept"
        stored = root.get_node("a").get_attribute("result")
        assert (stored.backend, stored.read().tolist()) == (arrays, [0, 1, 2, 0, 1])


@both
def test_a_handle_is_appended_as_the_array_that_it_stands_for(arrays: Any) -> None:
    with database() as (db, root):
        DataWriter.write_array(root.get_node("from"), np.arange(3.0), samplerate_hz=4.0)
        db.commit()
        handle = next(iter(lp.snapshot("data", [root.get_node("from")]))).attributes["data"]
        for _ in range(2):
            write(mirror(), root, [ProcessResult(("a",), handle)], arrays=arrays, if_exists="append")
            db.commit()
        stored = root.get_node("a").get_attribute("result")
        assert (stored.backend, stored.samplerate_hz) == (arrays, 4.0)
        assert stored.read().tolist() == [0, 1, 2, 0, 1, 2]


def test_a_handle_is_appended_in_memory_with_its_rate() -> None:
    root = BaseNode("root")
    DataWriter.write_array(root.get_node("from"), np.arange(3.0), samplerate_hz=4.0)
    handle = next(iter(lp.snapshot("data", [root.get_node("from")]))).attributes["data"]
    write(mirror(), root, [ProcessResult(("a",), handle)] * 2, arrays="blob", if_exists="append")
    stored = root.get_node("a").get_attribute("result")
    assert (stored.samplerate_hz, stored.read().tolist()) == (4.0, [0, 1, 2, 0, 1, 2])


@both
@pytest.mark.parametrize("path", [("a",), ()], ids=["a new node", "the root, which has no rate"])
def test_a_piece_without_a_rate_has_that_of_the_array_and_an_empty_one_changes_nothing(
    arrays: Any, path: tuple[str, ...]
) -> None:
    with database() as (db, root):
        write(mirror(), root, [ProcessResult(path, np.arange(3), {"samplerate_hz": 4})], arrays=arrays)
        write(mirror(), root, [ProcessResult(path, np.arange(2))], arrays=arrays, if_exists="append")
        stored = root.get_node_path(path).get_attribute("result")
        assert (stored.samplerate_hz, stored.sample_count) == (4.0, 5)
        db.commit()
        write(mirror(), root, [ProcessResult(path, np.arange(0))], arrays=arrays, if_exists="append")
        assert unsaved(root) == []


# --- Refused ---------------------------------------------------------------------------------------------------------

OLD = np.zeros((3, 2), "f4")
REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({"x": np.zeros((2, 3), "f4")}, "float32 of shape (n, 2)", "float32 of shape (2, 3)"),
    ({"x": np.zeros(2, "f4")}, "float32 of shape (n, 2)", "float32 of shape (2,)"),
    ({"x": np.zeros((1, 2, 1), "f4")}, "float32 of shape (n, 2)", "float32 of shape (1, 2, 1)"),
    ({"x": np.zeros((2, 2), "f8")}, "float32 of shape (n, 2)", "float64 of shape (2, 2)"),
    ({"x": np.zeros((2, 2), ">f4")}, "float32 of shape (n, 2)", ">f4 of shape (2, 2)"),
    ({"x": OLD, "samplerate_hz": 9}, "an array at 8 Hz", "one at 9 Hz"),
    ({"x": [[0.0, 0.0]]}, "an array, as the one that is there", "list [[0.0, 0.0]]"),
    ({"x": None}, "an array, as the one that is there", "None"),
    ({"note": OLD}, None, "str 'a text'"),
]


@pytest.mark.parametrize("place", ["memory", "blob", "zarr"])
@pytest.mark.parametrize(("piece", "expected", "found"), REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    place: str, piece: dict[str, Any], expected: str | None, found: str
) -> None:
    with database() as (db, persistent):
        root = BaseNode("root") if place == "memory" else persistent
        arrays: Any = "blob" if place == "memory" else place
        options: Any = {"arrays": arrays, "output_attribute": None}
        whole = ProcessResult(("a",), None, {"x": OLD, "note": "a text", "samplerate_hz": 8})
        write(mirror(), root, [whole], **options)
        db.commit()
        before = read(root)
        good = [ProcessResult((key,), None, {"x": OLD}) for key in ("a", "new")]
        with pytest.raises(ArgumentError) as caught:
            write(mirror(), root, [good, [ProcessResult(("a",), None, piece)]], if_exists="append", **options)
        assert caught.value.path == ("a",)
        assert (caught.value.expected, caught.value.got) == (expected, found)
        assert read(root) == before
        assert unsaved(persistent) == []


@pytest.mark.parametrize("node", ["DataNode", "BaseNode", "nothing"])
def test_in_memory_no_rate_that_an_array_will_have_is_overlooked(node: str) -> None:
    """All is refused before anything is applied, also where an array takes the rate of its node."""
    root = BaseNode("root")
    if node == "DataNode":
        root.get_data_node(["a"], samplerate_hz=8.0, backend="blob")
    elif node == "BaseNode":
        root.get_node("a")
    first = {"y": np.arange(3), **({} if node == "DataNode" else {"samplerate_hz": 8})}
    before = read(root)
    with pytest.raises(ArgumentError):
        write(
            mirror(),
            root,
            [
                ProcessResult(("a",), 0, first),
                ProcessResult(("a",), 0, {"x": np.arange(2)}),  # at the rate of its node
                ProcessResult(("a",), 0, {"x": np.arange(2), "samplerate_hz": 9}),
            ],
            arrays="blob",
            if_exists="append",
        )
    assert read(root) == before


@pytest.mark.parametrize("commit_every", [None, 1])
@pytest.mark.parametrize("array", [np.array(1.5), np.array([{}, None]), np.ma.array([1], mask=[True])])
def test_an_array_that_stays_inline_can_not_be_appended(array: Any, commit_every: int | None) -> None:
    for arrays in ("blob", "zarr"):
        with database() as (_, root):
            with pytest.raises(ArgumentError) as caught:
                write(
                    mirror(),
                    root,
                    [ProcessResult(("a",), array)],
                    arrays=arrays,  # type: ignore[arg-type]
                    if_exists="append",
                    commit_every=commit_every,
                )
            assert caught.value.path == ("a",)
            assert contents(root) == {(): {}}
    root = BaseNode("root")
    with pytest.raises(ArgumentError):
        write(mirror(), root, [ProcessResult(("a",), array)], arrays="blob", if_exists="append")
    assert contents(root) == {(): {}}


def test_append_needs_payloads(tmp_path: Path) -> None:
    source = Source([ProcessResult(("a",), np.arange(3))])
    for target in (BaseNode("root"), lp.DirectoryStore(tmp_path / "store")):
        with pytest.raises(ArgumentError) as caught:
            write(inline("_proc"), target, source, if_exists="append")
        assert (caught.value.expected, caught.value.got) == ("'blob' or 'zarr'", "'inline'")
    with pytest.raises(ArgumentError):
        write(inline("_proc"), lp.DirectoryStore(tmp_path / "store"), source, if_exists="append", arrays="blob")
    assert source.pulled == 0


@both
def test_an_array_whose_file_is_gone_is_an_error_with_its_path(arrays: Any) -> None:
    with database() as (db, root):
        write(mirror(), root, [ProcessResult(("a",), np.arange(3))], arrays=arrays)
        db.commit()
        stored = root.get_node("a").get_attribute("result")
        file = Path(stored.blob_object.blob.committed() if arrays == "blob" else stored.store_path.filepath)
        file.rename(f"{file}.gone")
        root._p_jar.cacheMinimize()
        with pytest.raises(lp.PayloadError) as caught:
            write(mirror(), root, [ProcessResult(("a",), np.arange(3))], arrays=arrays, if_exists="append")
        assert caught.value.path == ("a",)
        assert unsaved(root) == []
