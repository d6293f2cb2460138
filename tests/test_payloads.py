"""Payload handles read what lotdb reads, wherever and whenever they are read."""

from __future__ import annotations

import csv
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from lotdb import LOTDB, BaseNode, DataObject, DataWriter, add_blob
from lotdb.blobs import BlobWriter
from trees import unsaved

import lotproc as lp


@pytest.fixture
def database(tmp_path: Path) -> Iterator[LOTDB]:
    database = LOTDB(path=str(tmp_path), name="tree", new=True)
    yield database
    database.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LOTDB]:
    """One database for all examples of a property."""
    database = LOTDB(path=str(tmp_path_factory.mktemp("payloads")), name="tree", new=True)
    database.open_connection()
    yield database
    database.close()


def root_of(database: LOTDB) -> BaseNode:
    if "standard" not in database.conn_dict:
        return database.open_connection()
    return database.conn_dict["standard"][0].root.stt


def handle_of(node: BaseNode, name: str = "data") -> lp.PayloadHandle:
    (record,) = lp.snapshot(name, [node])
    handle = record.attributes[name]
    assert isinstance(handle, lp.PayloadHandle)
    return handle


def same_array(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind in "fc")


arrays = hnp.arrays(
    dtype=st.sampled_from(["<f4", "<f8", ">i2", "u1", "<i8", "<c16", "?", "<U3"]),
    shape=hnp.array_shapes(max_dims=3, max_side=4, min_side=0),
)


# --- Blobs -----------------------------------------------------------------------------------------------------------


@given(array=arrays, rate=st.one_of(st.none(), st.floats(1, 96_000)))
def test_the_handle_of_an_array_in_a_blob_reads_that_array(
    shared: LOTDB, array: np.ndarray[Any, Any], rate: float | None
) -> None:
    node = root_of(shared).gn("clip")
    data = DataWriter.write_array(node, array, samplerate_hz=rate)
    shared.commit()
    handle = handle_of(node)
    assert same_array(handle.read(), array)
    assert same_array(handle.read(), data.read())
    assert same_array(np.asarray(handle), array)
    assert (handle.kind, handle.shape, handle.dtype) == ("array", array.shape, str(array.dtype))
    assert handle.samplerate_hz == rate
    assert handle.dataset is None
    assert unsaved(node) == []


def test_a_handle_acts_as_an_array_where_numpy_takes_one(database: LOTDB) -> None:
    node = root_of(database).get_data_node(["clip"], samplerate_hz=8.0, backend="blob")
    node.write_data(np.arange(6.0).reshape(3, 2))
    database.commit()
    handle = handle_of(node)
    assert np.asarray(handle, dtype="int8").tolist() == [[0, 1], [2, 3], [4, 5]]
    assert np.asarray(handle, dtype="int8").dtype == np.int8
    assert np.mean(handle) == 2.5
    assert np.array(handle).shape == (3, 2)
    assert str(handle) == "float64 (3, 2) at 8 Hz"


def test_a_handle_that_is_read_gives_an_array_of_its_own(database: LOTDB) -> None:
    node = root_of(database)
    DataWriter.write_array(node, np.arange(3))
    database.commit()
    handle = handle_of(node)
    first = handle.read()
    first[0] = 99
    assert handle.read().tolist() == [0, 1, 2]


@given(data=st.binary(max_size=40))
def test_the_handle_of_bytes_reads_those_bytes(shared: LOTDB, data: bytes) -> None:
    node = root_of(shared).gn("bytes")
    DataWriter.write_bytes(node, data)
    add_blob(node, data=data)
    node.set_attribute("bare", node.get_attribute("_blob").blob)
    shared.commit()
    for name in ("data", "_blob", "bare"):
        handle = handle_of(node, name)
        assert handle.kind == "bytes"
        assert handle.read() == data
        assert (handle.shape, handle.dtype) == (None, None)
        assert str(handle) == "bytes"
    assert unsaved(node) == []


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20), encoding=st.sampled_from(["utf-8", "utf-16"])
)
def test_the_handle_of_a_text_reads_that_text(shared: LOTDB, text: str, encoding: str) -> None:
    node = root_of(shared).gn("text")
    data = DataWriter.write_text(node, text, encoding=encoding)
    shared.commit()
    handle = handle_of(node)
    assert handle.kind == "text"
    assert handle.read() == data.read() == text


def test_line_ends_of_a_text_stay_as_they_are(database: LOTDB) -> None:
    node = root_of(database)
    DataWriter.write_text(node, "one\r\ntwo\rthree\n")
    database.commit()
    assert handle_of(node).read() == "one\r\ntwo\rthree\n"


def test_the_handle_of_a_table_reads_what_lotdb_reads(database: LOTDB, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with (tmp_path / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["name", "seconds"], ["é", 1.5], ["b", 2.5]])
    node = root_of(database).get_data_node(["table"], backend="blob")
    node.attach_file(str(tmp_path / "table.csv"), database=database)
    database.commit()
    handle = handle_of(node)
    assert handle.kind == "table"
    pandas.testing.assert_frame_equal(handle.read(), node.read_data())


def test_the_handle_of_an_array_blob_reads_that_array(database: LOTDB) -> None:
    node = root_of(database)
    array = np.arange(6.0).reshape(2, 3)
    BlobWriter.write_array(node, array)
    database.commit()
    handle = handle_of(node, "_blob_array")
    assert (handle.kind, handle.shape, handle.dtype) == ("array", (2, 3), "float64")
    assert same_array(handle.read(), array)


def test_a_file_attached_by_content_reads_as_it_did(database: LOTDB, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    (tmp_path / "a.bin").write_bytes(b"\x00\x01")
    for name, expected in (("a.npy", [0, 1, 2, 3, 4]), ("a.bin", b"\x00\x01")):
        node = root_of(database).get_data_node([name], backend="blob")
        node.attach_file(str(tmp_path / name), database=database, samplerate_hz=2.0)
        database.commit()
        read = handle_of(node).read()
        assert (read.tolist() if isinstance(read, np.ndarray) else read) == expected


@pytest.mark.parametrize("write", [DataWriter.write_bytes, DataWriter.write_text], ids=["bytes", "text"])
def test_what_is_no_array_is_no_array(database: LOTDB, write: Callable[..., DataObject]) -> None:
    node = root_of(database)
    write(node, b"abc" if write is DataWriter.write_bytes else "abc")
    database.commit()
    handle = handle_of(node)
    with pytest.raises(TypeError, match=r"not an array; use read\(\)"):
        np.asarray(handle)


# --- Uncommitted, in memory, and gone --------------------------------------------------------------------------------


def test_a_payload_that_is_not_committed_yet_can_be_read(database: LOTDB) -> None:
    node = root_of(database)
    DataWriter.write_array(node, np.arange(3))
    assert handle_of(node).read().tolist() == [0, 1, 2]


def test_a_payload_of_a_tree_in_memory_can_be_read() -> None:
    root = BaseNode("root")
    DataWriter.write_array(root, np.arange(3))
    add_blob(root, data=b"abc")
    assert handle_of(root).read().tolist() == [0, 1, 2]
    assert handle_of(root, "_blob").read() == b"abc"


@pytest.mark.parametrize("backend", ["blob", "zarr"])
def test_a_data_object_without_data_is_a_detach_error(backend: str) -> None:
    root = BaseNode("root")
    root.gn("ann").set_attribute("data", DataObject(backend=backend))
    with pytest.raises(lp.DetachError, match="attribute 'data' of ann can't be detached") as caught:
        list(lp.snapshot("data", lp.leaves(root)))
    assert "NoneType" not in str(caught.value)


def test_a_file_that_is_gone_is_a_file_not_found(database: LOTDB) -> None:
    node = root_of(database)
    DataWriter.write_array(node, np.arange(3))
    database.commit()
    handle = handle_of(node)
    handle.file.chmod(0o600)
    handle.file.unlink()
    with pytest.raises(FileNotFoundError):
        handle.read()


# --- Values that travel ----------------------------------------------------------------------------------------------


def test_a_handle_is_a_small_frozen_value(database: LOTDB) -> None:
    node = root_of(database)
    DataWriter.write_array(node, np.zeros(1_000_000, dtype="float32"), samplerate_hz=16_000.0)
    database.commit()
    handle = handle_of(node)
    assert len(pickle.dumps(handle, protocol=5)) < 1_000
    assert pickle.loads(pickle.dumps(handle)) == handle
    assert hash(handle) == hash(handle_of(node))
    assert handle == handle_of(node)
    with pytest.raises(AttributeError):
        handle.kind = "bytes"
    assert handle.file.is_absolute()


def test_a_handle_reads_after_its_database_is_closed_and_in_another_process(tmp_path: Path) -> None:
    database = LOTDB(path=str(tmp_path), name="tree", new=True)
    root = database.open_connection()
    DataWriter.write_array(root.gn("clip"), np.arange(5))
    database.commit()
    database.close()
    database = LOTDB(path=str(tmp_path), name="tree", read_only=True)
    (record,) = lp.snapshot(..., lp.leaves(database.open_connection()))
    database.close()
    assert record.attributes["data"].read().tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "record.pickle").write_bytes(pickle.dumps(record))
    code = (
        "import pickle, sys\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    print(pickle.load(file).attributes['data'].read().sum())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "record.pickle")],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
    )
    assert (done.stdout.strip(), done.returncode) == ("10", 0), done.stderr


def test_handles_of_a_relative_database_read_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = LOTDB(path="data", name="tree", new=True)
    root = database.open_connection()
    DataWriter.write_array(root, np.arange(3))
    database.commit()
    handle = handle_of(root)
    database.close()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert handle.read().tolist() == [0, 1, 2]


# --- Zarr, and what is not installed ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")  # zarr's own
def test_the_handle_of_an_array_in_zarr_reads_that_array(database: LOTDB) -> None:
    pytest.importorskip("zarr")
    root = root_of(database)
    array = np.arange(12, dtype="int16").reshape(6, 2)
    for path in (["ann", "a"], ["ann", "b"]):
        node = root.get_data_node(path, samplerate_hz=2.0, backend="zarr")
        node.write_data(array if path[-1] == "a" else array + 1, database=database)
    database.commit()
    first, second = (record.attributes["data"] for record in lp.snapshot("data", lp.leaves(root)))
    assert same_array(first.read(), array)
    assert same_array(second.read(), array + 1)
    assert (first.kind, first.shape, first.dtype, first.samplerate_hz) == ("array", (6, 2), "int16", 2.0)
    assert first.dataset
    assert pickle.loads(pickle.dumps(first)) == first
    assert np.asarray(first).sum() == array.sum()
    assert unsaved(root) == []


@pytest.mark.filterwarnings("default")  # zarr's own
def test_zarr_handles_of_a_relative_database_read_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("zarr")
    monkeypatch.chdir(tmp_path)
    database = LOTDB(path="data", name="tree", new=True)
    node = database.open_connection().get_data_node(["clip"], samplerate_hz=2.0, backend="zarr")
    node.write_data(np.arange(3), database=database)
    database.commit()
    handle = handle_of(node)
    database.close()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert handle.read().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("package", "handle"),
    [
        ("zarr", lp.PayloadHandle("array", Path("data.zarr"), dataset="clip/data", shape=(3,), dtype="int64")),
        ("pandas", lp.PayloadHandle("table", Path("table.blob"))),
    ],
)
def test_a_missing_extra_is_named(package: str, handle: lp.PayloadHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails, as where it is not installed
    with pytest.raises(lp.MissingExtraError, match=rf'pip install "lotproc\[{package}\]"') as caught:
        handle.read()
    assert str(handle.file) in str(caught.value)
    assert isinstance(caught.value, ImportError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
