"""Payload handles read what lotdb reads, wherever and whenever they are read."""

from __future__ import annotations

import csv
import dataclasses
import mmap
import pickle
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from lotdb import LOTDB, BaseNode, BlobObject, DataObject, DataWriter, add_blob
from lotdb.blobs import BlobWriter
from trees import unsaved

import lotproc as lp
from lotproc.errors import PayloadError


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
    with pytest.raises(lp.DetachError, match="attribute 'data' at ann can't be detached") as caught:
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


# --- Parts of an array -----------------------------------------------------------------------------------------------

BACKENDS = ["blob", pytest.param("zarr", marks=pytest.mark.filterwarnings("default"))]  # zarr's own warnings

plain_arrays = hnp.arrays(
    dtype=st.sampled_from(["<f4", "<f8", ">i2", "u1", "<i8", "?"]),
    shape=st.tuples(st.integers(0, 40)) | st.tuples(st.integers(0, 40), st.integers(1, 3)),
).flatmap(lambda array: st.sampled_from([array, np.asfortranarray(array)]))
rates = st.sampled_from([0.5, 1.0, 3.0, 7.5, 44.1, 16_000.0])
chunk_lengths = st.integers(1, 12)


def stored(
    database: LOTDB, backend: str, array: np.ndarray[Any, Any], rate: float | None, chunk_length: int = 5
) -> tuple[DataObject, lp.PayloadHandle]:
    """An array in a tree, as lotdb reads it and as a handle does."""
    if backend == "zarr":
        pytest.importorskip("zarr")
    node = root_of(database).gn(backend)
    chunks = (chunk_length, *(max(1, n) for n in array.shape[1:])) if backend == "zarr" else None
    data = DataWriter.write_array(node, array, rate, backend=backend, database=database, chunks=chunks)
    database.commit()
    return data, handle_of(node)


def outcome(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What a call gives, or that it is refused."""
    try:
        given = call(*args, **options)
        return given if isinstance(given, np.ndarray) else list(given)
    except ValueError:
        return "refused"


def same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and left.shape == right.shape and same_array(left, right)
    return len(left) == len(right) and all(map(same, left, right)) if isinstance(left, list) else left == right


@pytest.mark.parametrize("backend", BACKENDS)
@given(array=plain_arrays, rate=rates, data=st.data())
def test_seconds_are_read_as_lotdb_reads_them(
    shared: LOTDB, backend: str, array: np.ndarray[Any, Any], rate: float, data: st.DataObject
) -> None:
    live, handle = stored(shared, backend, array, rate)
    quarters = st.integers(-8, 4 * len(array) + 8)  # of samples: on one, between two, outside
    times = quarters.map(lambda quarter: quarter / 4 / rate)
    start, stop = sorted(data.draw(st.tuples(times, times)), reverse=data.draw(st.integers(0, 3)) == 0)
    start, stop = data.draw(st.sampled_from([(start, stop)] * 3 + [(None, stop), (start, None), (None, None)]))
    part = outcome(handle.read_seconds, start, stop)
    assert same(part, outcome(live.read_seconds, start, stop))
    if isinstance(part, np.ndarray):
        part[...] = 1  # it is the reader's own
        assert same(handle.read(), live.read())


@pytest.mark.parametrize("backend", BACKENDS)
@given(array=plain_arrays, rate=rates, chunk_length=chunk_lengths, data=st.data())
def test_blocks_are_those_of_lotdb(
    shared: LOTDB, backend: str, array: np.ndarray[Any, Any], rate: float, chunk_length: int, data: st.DataObject
) -> None:
    live, handle = stored(shared, backend, array, rate, chunk_length)
    if data.draw(st.booleans()):
        size, unit = data.draw(st.integers(-1, 45)), "samples"
    else:
        size, unit = data.draw(st.floats(-1, 45)) / rate, "seconds"
    blocks = outcome(handle.blocks, size, unit=unit)
    # lotdb refuses when the first block is asked for.
    assert same(blocks, outcome(lambda: list(live.iter_blocks(size, unit))))
    if blocks != "refused":
        assert not any(block.flags.writeable for block in blocks)


KINDS = ["blob", "uncommitted", pytest.param("zarr", marks=pytest.mark.filterwarnings("default"))]
lasts = st.sampled_from(["keep", "drop", "pad"])
any_arrays = hnp.arrays(
    dtype=st.sampled_from(["<f4", ">i2", "u1", "<c16", "?", "<U3"]),
    shape=hnp.array_shapes(max_dims=3, max_side=12, min_side=0),
).flatmap(lambda array: st.sampled_from([array, np.asfortranarray(array)]))


def of_kind(
    shared: LOTDB, folder: Path, kind: str, array: np.ndarray[Any, Any]
) -> tuple[lp.PayloadHandle, np.ndarray[Any, Any]]:
    """A handle, and the array that it reads: of zarr, in which a byte order may be another one, what lotdb reads."""
    if kind == "zarr":
        live, handle = stored(shared, "zarr", array, None, 3)
        return handle, live.read()
    handle = handle_of_file(folder, array)
    if kind == "blob":
        return handle, array
    handle.file.replace(folder / "a.uncommitted")
    return dataclasses.replace(handle, file=folder / "a.uncommitted"), array


@pytest.mark.parametrize("kind", KINDS)
@given(array=any_arrays, data=st.data())
def test_a_handle_is_sliced_as_numpy_slices(
    shared: LOTDB, tmp_path_factory: pytest.TempPathFactory, kind: str, array: np.ndarray[Any, Any], data: st.DataObject
) -> None:
    handle, array = of_kind(shared, tmp_path_factory.getbasetemp(), kind, array)
    assert len(handle) == len(dataclasses.replace(handle, shape=None)) == len(array)
    assert handle
    ends = st.none() | st.integers(-15, 15)
    part = slice(data.draw(ends), data.draw(ends), data.draw(st.none() | st.integers(-5, 5).filter(bool)))
    found = handle[part]
    assert same(found, array[part])
    assert not found.flags.writeable
    assert (maps_of(found) is not None) == (kind == "blob" and array.size > 0)
    index = data.draw(st.integers(-15, 15))
    if -len(array) <= index < len(array):
        assert same_array(np.asarray(handle[index]), np.asarray(array[index]))
        assert type(handle[np.int64(index)]) is type(array[index])
    else:
        with pytest.raises(lp.ArgumentError) as caught:
            handle[index]
        assert caught.value.expected == f"an index of its {len(array)} samples"
        assert caught.value.got == f"int {index}"


@pytest.mark.parametrize("kind", KINDS)
@given(array=any_arrays, start=st.none() | st.integers(0, 15), stop=st.none() | st.integers(0, 15))
def test_stretches_are_read_as_numpy_slices(
    shared: LOTDB,
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    array: np.ndarray[Any, Any],
    start: int | None,
    stop: int | None,
) -> None:
    handle, array = of_kind(shared, tmp_path_factory.getbasetemp(), kind, array)
    if (start or 0) > min(len(array), len(array) if stop is None else stop):
        with pytest.raises(lp.ArgumentError):
            handle.read(start, stop)
        return
    found = handle.read(start, stop)
    assert same(found, array[start:stop])
    found[...] = np.ones(1, array.dtype)  # it is the reader's own
    assert same(handle.read(), array)


def plain_blocks(array: np.ndarray[Any, Any], size: int, hop: int, last: str) -> list[np.ndarray[Any, Any]]:
    """The windows of numpy, and what is to become of what they leave."""
    whole: list[np.ndarray[Any, Any]] = []
    if len(array) >= size:
        windows = np.lib.stride_tricks.sliding_window_view(array, size, axis=0)
        whole = [np.moveaxis(window, -1, 0) for window in windows[::hop]]
    seen = (len(whole) - 1) * hop + size if whole else 0
    left = array[len(whole) * hop :]
    if last == "drop" or seen >= len(array) or len(left) == 0:
        return whole
    if last == "pad":
        filled = np.zeros((size, *array.shape[1:]), array.dtype)
        filled[: len(left)] = left
        return [*whole, filled]
    return [*whole, left]


@pytest.mark.parametrize("kind", KINDS)
@given(array=any_arrays, size=st.integers(1, 15), hop=st.none() | st.integers(1, 15), last=lasts)
def test_blocks_with_a_hop_are_the_windows_of_numpy(
    shared: LOTDB,
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    array: np.ndarray[Any, Any],
    size: int,
    hop: int | None,
    last: Any,
) -> None:
    handle, array = of_kind(shared, tmp_path_factory.getbasetemp(), kind, array)
    blocks = list(handle.blocks(size, hop=hop, last=last))
    assert same(blocks, plain_blocks(array, size, hop or size, last))
    assert not any(block.flags.writeable for block in blocks)
    if kind == "blob" and array.size:
        assert all(maps_of(block) is not None for block in blocks if last != "pad")


@given(length=st.integers(0, 60), size=st.integers(1, 20), data=st.data())
def test_blocks_that_overlap_hold_every_sample_and_no_block_adds_nothing(
    tmp_path_factory: pytest.TempPathFactory, length: int, size: int, data: st.DataObject
) -> None:
    hop = data.draw(st.integers(1, size))
    handle = handle_of_file(tmp_path_factory.getbasetemp(), np.arange(length))
    blocks = [block.tolist() for block in handle.blocks(size, hop=hop)]
    assert sorted({sample for block in blocks for sample in block}) == list(range(length))
    assert all(after[-1] > before[-1] for before, after in pairwise(blocks))
    assert all(len(block) == size for block in blocks[:-1])


def test_sizes_and_hops_in_seconds_are_rounded_to_samples(tmp_path: Path) -> None:
    handle = handle_of_file(tmp_path, np.arange(1_000), samplerate_hz=100.0)
    blocks = list(handle.blocks(0.025, hop=0.07, unit="seconds"))  # 0.07 * 100 is a little more than 7 in floats
    assert [int(block[0]) for block in blocks] == list(range(0, 1_000, 7))
    assert {len(block) for block in blocks[:-1]} == {3}
    handle = dataclasses.replace(handle, samplerate_hz=22_050.0)
    assert [int(block[0]) for block in handle.blocks(0.02, hop=0.01, unit="seconds")][:2] == [0, 220]


@pytest.mark.filterwarnings("default")  # zarr's own
def test_parts_of_a_zarr_array_are_read_without_the_other_chunks(database: LOTDB) -> None:
    array = np.arange(1, 41).reshape(20, 2)
    handle = stored(database, "zarr", array, 1.0, 5)[1]
    assert handle.dataset
    chunks = sorted(
        file for file in (handle.file / handle.dataset).rglob("*") if file.is_file() and "z" not in file.name
    )
    assert len(chunks) == 4
    for chunk in chunks[:2] + chunks[3:]:  # the samples 10 to 15 are left
        chunk.write_bytes(b"no chunk")
    for read in (handle.read, handle.__getitem__, lambda part: list(handle.blocks(20))):
        with pytest.raises(Exception):  # noqa: B017, PT011  # whatever zarr makes of them
            read(slice(None) if read != handle.read else 0)
    assert same_array(handle[10:15], array[10:15])
    assert same_array(handle[14:9:-2], array[14:9:-2])
    assert same_array(handle[12], array[12])
    assert same_array(handle.read(11, 14), array[11:14])
    assert same_array(handle[3:3], array[3:3])


def test_parts_of_a_blob_are_read_without_the_rest(database: LOTDB) -> None:
    array = np.arange(1_000_000, dtype="float64")
    handle = stored(database, "blob", array, None)[1]
    part, peak = memory_taken(lambda: handle.read(500_000, 501_000))
    assert same_array(part, array[500_000:501_000])
    assert maps_of(part) is None
    assert peak < array.nbytes / 20
    view, peak = memory_taken(lambda: handle[1_000:900_000])
    assert maps_of(view) is not None
    assert peak < array.nbytes / 20


@pytest.mark.parametrize(
    ("wrong", "error", "fields"),
    [
        (lambda handle: handle.read(-1), lp.ArgumentError, {"expected": "at least 0", "got": "-1"}),
        (lambda handle: handle.read(0, -1), lp.ArgumentError, {"expected": "at least 0", "got": "-1"}),
        (lambda handle: handle.read(0.5), lp.ArgumentTypeError, {"got": "float 0.5"}),
        (lambda handle: handle.read("1"), lp.ArgumentTypeError, {"got": "str '1'"}),
        (lambda handle: handle[1.0], lp.ArgumentTypeError, {"got": "float 1.0"}),
        (lambda handle: handle[True], lp.ArgumentTypeError, {"got": "bool True"}),
        (lambda handle: handle[0.5:2], lp.ArgumentTypeError, {"got": "slice(0.5, 2, None)"}),
        (lambda handle: handle[1:2, 0], lp.ArgumentTypeError, {}),
        (lambda handle: handle[::0], lp.ArgumentError, {"expected": "other than 0"}),
        (lambda handle: handle[3], lp.ArgumentError, {"expected": "an index of its 3 samples", "got": "int 3"}),
        (lambda handle: handle.blocks(2, hop=0), lp.ArgumentError, {"expected": "more than 0", "got": "int 0"}),
        (lambda handle: handle.blocks(2, hop=-1), lp.ArgumentError, {"expected": "more than 0", "got": "int -1"}),
        (lambda handle: handle.blocks(2, hop=0.5), lp.ArgumentError, {"hint": "or unit='seconds'?"}),
        (lambda handle: handle.blocks(2, hop="1"), lp.ArgumentTypeError, {"got": "str '1'"}),
        (
            lambda handle: handle.blocks(1, hop=0.01, unit="seconds"),
            lp.ArgumentError,
            {"expected": "at least half a sample", "got": "float 0.01"},
        ),
        (lambda handle: handle.blocks(2, last="cut"), lp.ArgumentError, {"got": "'cut'"}),
        (
            lambda handle: dataclasses.replace(handle, samplerate_hz=None).blocks(2, hop=1, unit="seconds"),
            lp.ArgumentError,
            {"hint": "use samples: blocks(size), or read(start, stop)"},
        ),
        (lambda handle: dataclasses.replace(handle, kind="text").read(0, 1), lp.ArgumentTypeError, {}),
        (lambda handle: dataclasses.replace(handle, kind="bytes")[0:1], lp.ArgumentTypeError, {"hint": "use read()"}),
        (lambda handle: len(dataclasses.replace(handle, kind="bytes")), lp.ArgumentTypeError, {"hint": "use read()"}),
        (lambda handle: len(dataclasses.replace(handle, shape=())), lp.ArgumentError, {"hint": "use read()"}),
        (lambda handle: dataclasses.replace(handle, shape=())[0], lp.ArgumentError, {"hint": "use read()"}),
    ],
)
def test_parts_that_there_are_not_are_refused(
    tmp_path: Path, wrong: Callable[[Any], Any], error: type[Exception], fields: dict[str, Any]
) -> None:
    with pytest.raises(error) as caught:
        wrong(handle_of_file(tmp_path, np.arange(3), samplerate_hz=4.0))
    assert isinstance(caught.value, lp.LotprocError)
    assert {name: getattr(caught.value, name) for name in fields} == fields


def test_a_handle_is_not_gone_through_sample_by_sample(tmp_path: Path) -> None:
    for handle in (handle_of_file(tmp_path, np.arange(3)), lp.PayloadHandle("text", tmp_path / "gone.blob")):
        with pytest.raises(TypeError):
            iter(handle)
        assert not isinstance(handle, Iterable)
        assert handle  # a text has no length, and is no reason for an error


@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_of_a_data_node(database: LOTDB, backend: str) -> None:
    if backend == "zarr":
        pytest.importorskip("zarr")
    node = root_of(database).get_data_node(["clip"], samplerate_hz=4.0, backend=backend)
    node.write_data(np.arange(10), database=database)
    database.commit()
    blocks = handle_of(node).blocks(1.5, unit="seconds")
    assert next(blocks).tolist() == [0, 1, 2, 3, 4, 5]
    assert [block.tolist() for block in blocks] == [[6, 7, 8, 9]]
    assert same(list(handle_of(node).blocks(3)), list(node.iter_data_blocks(3)))


def maps_of(array: Any) -> mmap.mmap | None:
    """The memory map that an array lies in."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, mmap.mmap) else None


def memory_taken(call: Callable[[], Any]) -> tuple[Any, int]:
    """What a call gives, and the bytes of memory that it took at its peak; memory maps take none."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_seconds_of_a_blob_are_read_without_the_rest(database: LOTDB) -> None:
    array = np.arange(1_000_000, dtype="float64")
    handle = stored(database, "blob", array, 1_000.0)[1]
    part, peak = memory_taken(lambda: handle.read_seconds(500, 501))
    assert same_array(part, array[500_000:501_000])
    assert maps_of(part) is None
    assert peak < array.nbytes / 20


def test_blocks_of_a_blob_are_consecutive_parts_of_one_memory_map(database: LOTDB) -> None:
    array = np.arange(1_000_000, dtype="float64")
    handle = stored(database, "blob", array, None)[1]
    blocks, peak = memory_taken(lambda: list(handle.blocks(30_001)))
    assert peak < array.nbytes / 20
    addresses = [block.__array_interface__["data"][0] for block in blocks]
    lengths = [block.nbytes for block in blocks]
    assert [address - addresses[0] for address in addresses] == [sum(lengths[:n]) for n in range(len(lengths))]
    assert sum(lengths) == array.nbytes
    assert maps_of(blocks[0]) is not None
    assert {id(maps_of(block)) for block in blocks} == {id(maps_of(blocks[0]))}


@pytest.mark.filterwarnings("default")  # zarr's own
@given(length=st.integers(0, 60), chunk_length=chunk_lengths, step=st.integers(1, 70))
def test_blocks_read_each_chunk_of_a_zarr_array_once(shared: LOTDB, length: int, chunk_length: int, step: int) -> None:
    zarr = pytest.importorskip("zarr")
    handle = stored(shared, "zarr", np.arange(2 * length).reshape(length, 2), None, chunk_length)[1]
    read: list[int] = []
    sizes: list[int] = []

    class Counting:
        def __init__(self, array: Any) -> None:
            self.array, self.shape, self.chunks = array, array.shape, array.chunks

        def __getitem__(self, part: slice) -> Any:
            read.extend(range(part.start // chunk_length, -(-part.stop // chunk_length)))
            sizes.append(part.stop - part.start)
            return self.array[part]

    with pytest.MonkeyPatch.context() as patch:
        open_array = zarr.open_array
        patch.setattr(zarr, "open_array", lambda **options: Counting(open_array(**options)))
        blocks = list(handle.blocks(step))
    assert [len(block) for block in blocks] == [min(step, length - start) for start in range(0, length, step)]
    assert read == list(range(-(-length // chunk_length)))
    assert max(sizes, default=0) < step + chunk_length  # never more than a block and the chunk that it ends in


@pytest.mark.filterwarnings("default")  # zarr's own
@given(
    length=st.integers(0, 60), chunk_length=chunk_lengths, size=st.integers(1, 30), hop=st.integers(1, 30), last=lasts
)
def test_blocks_that_overlap_or_leave_gaps_read_each_chunk_that_they_need_once(
    shared: LOTDB, length: int, chunk_length: int, size: int, hop: int, last: Any
) -> None:
    zarr = pytest.importorskip("zarr")
    array = np.arange(length)
    handle = stored(shared, "zarr", array, None, chunk_length)[1]
    read: list[int] = []

    class Counting:
        def __init__(self, array: Any) -> None:
            self.array, self.shape, self.chunks = array, array.shape, array.chunks

        def __getitem__(self, part: slice) -> Any:
            read.extend(range(part.start // chunk_length, -(-part.stop // chunk_length)))
            return self.array[part]

    with pytest.MonkeyPatch.context() as patch:
        open_array = zarr.open_array
        patch.setattr(zarr, "open_array", lambda **options: Counting(open_array(**options)))
        blocks = list(handle.blocks(size, hop=hop, last=last))
    assert same(blocks, plain_blocks(array, size, hop, last))
    needed = {
        sample // chunk_length
        for start in range(0, len(blocks) * hop, hop)
        for sample in range(start, min(start + size, length))
    }
    assert read == sorted(needed)


def test_blocks_are_lazy_and_check_their_arguments_at_the_call(tmp_path: Path) -> None:
    handle = lp.PayloadHandle("array", tmp_path / "gone.blob", shape=(3,), dtype="int64")
    blocks = handle.blocks(1)  # the file is opened with the first block
    with pytest.raises(FileNotFoundError):
        next(blocks)
    for size, unit, error, message in [
        (0, "samples", lp.ArgumentError, "blocks: size must be more than 0, got int 0"),
        (-0.5, "samples", lp.ArgumentError, "size must be more than 0, got float -0.5"),
        (1.5, "samples", lp.ArgumentError, r"a whole number of samples, got float 1.5; or unit='seconds'\?"),
        (float("nan"), "samples", lp.ArgumentError, "size must be a finite number"),
        ("1", "samples", lp.ArgumentTypeError, "size must be a number, got str '1'"),
        (None, "samples", lp.ArgumentTypeError, "size must be a number, got None"),
        (True, "samples", lp.ArgumentTypeError, "size must be a number, got bool True"),
        (1, "minutes", lp.ArgumentError, "unit must be one of 'samples', 'seconds', got 'minutes'"),
        (1, "seconds", lp.ArgumentError, r"gone.blob was stored without samplerate_hz; use samples: blocks\(size\)"),
    ]:
        with pytest.raises(error, match=message):
            handle.blocks(size, unit=unit)
    assert len(handle_of_file(tmp_path, np.arange(3)).blocks(np.int64(2)).__next__()) == 2


def test_seconds_that_cant_be_read_are_refused(tmp_path: Path) -> None:
    handle = handle_of_file(tmp_path, np.arange(8), samplerate_hz=4.0)
    with pytest.raises(lp.ArgumentError, match="nothing lies between 1.5 and 1 s: .*a.blob has 8 samples at 4 Hz"):
        handle.read_seconds(1.5, 1)
    with pytest.raises(lp.ArgumentError, match="nothing lies between 3 and None s"):
        handle.read_seconds(3)
    with pytest.raises(lp.ArgumentError, match="nothing lies between 3 and 4 s"):
        handle.read_seconds(3, 4)
    with pytest.raises(lp.ArgumentError, match="read_seconds: stop must be a finite number"):
        handle.read_seconds(0, float("inf"))
    with pytest.raises(lp.ArgumentTypeError, match="read_seconds: start must be a number, got str '1'"):
        handle.read_seconds("1")
    handle = dataclasses.replace(handle, samplerate_hz=None)
    with pytest.raises(lp.ArgumentError, match="read_seconds: stop is in seconds, .* without samplerate_hz"):
        handle.read_seconds(None, 1)
    assert handle.read_seconds().tolist() == list(range(8))  # as in lotdb


@pytest.mark.parametrize("kind", ["bytes", "text", "table"])
def test_what_is_no_array_has_no_parts(kind: str) -> None:
    handle = lp.PayloadHandle(kind, Path("a.blob"))
    with pytest.raises(lp.ArgumentTypeError, match=rf"read_seconds: .*a.blob is {kind}, not an array; use read\(\)"):
        handle.read_seconds(0, 1)
    with pytest.raises(lp.ArgumentTypeError, match=rf"blocks: .*a.blob is {kind}, not an array"):
        handle.blocks(1)


def test_a_single_number_has_no_parts(database: LOTDB) -> None:
    node = root_of(database)
    BlobWriter.write_array(node, np.array(5.0))
    database.commit()
    handle = handle_of(node, "_blob_array")
    assert (handle.read(), np.asarray(handle).shape) == (5.0, ())
    with pytest.raises(lp.ArgumentError, match="blocks: .* is a single number, without a time axis"):
        handle.blocks(1)
    with pytest.raises(lp.ArgumentError, match="read_seconds: .* is a single number"):
        handle.read_seconds()


# --- numpy.asarray ---------------------------------------------------------------------------------------------------


def test_a_committed_blob_as_an_array_is_a_read_only_memory_map(database: LOTDB) -> None:
    array = np.arange(6.0).reshape(3, 2)
    handle = stored(database, "blob", array, None)[1]
    mapped = np.asarray(handle)
    assert type(mapped) is np.ndarray
    assert maps_of(mapped) is not None
    assert not mapped.flags.writeable
    assert maps_of(handle.__array__(copy=False)) is not None
    for copied in (np.array(handle), handle.__array__(copy=True), np.asarray(handle, dtype="int8")):
        assert maps_of(copied) is None
        copied[...] = 9
    assert same_array(np.asarray(handle), array)
    with pytest.raises(ValueError, match=r"can't be had with copy=False; leave it out"):
        handle.__array__(dtype="int8", copy=False)


@pytest.mark.filterwarnings("default")  # zarr's own
def test_a_zarr_array_as_an_array_is_a_copy(database: LOTDB) -> None:
    handle = stored(database, "zarr", np.arange(6), None)[1]
    np.asarray(handle)[:] = 9
    assert np.array(handle).tolist() == list(range(6))
    with pytest.raises(ValueError, match=r"can't be had with copy=False"):
        handle.__array__(copy=False)


def test_an_array_of_a_blob_that_can_still_change_keeps_its_values(database: LOTDB) -> None:
    node = root_of(database)
    BlobWriter.write_array(node, np.arange(10_000))
    handle = handle_of(node, "_blob_array")
    array, blocks = np.asarray(handle), handle.blocks(6_000)
    first = next(blocks)
    assert not first.flags.writeable
    with pytest.raises(ValueError, match=r"can't be had with copy=False"):
        handle.__array__(copy=False)
    node.get_attribute("_blob_array").write_array(np.zeros(1))  # in the same file, which a memory map would not survive
    assert array.tolist() == list(range(10_000))
    assert [*first, *next(blocks)] == list(range(10_000))
    with pytest.raises(PayloadError):
        handle.read()


# --- The file of a blob ----------------------------------------------------------------------------------------------


def test_a_handle_is_of_what_the_connection_sees(database: LOTDB) -> None:
    node = root_of(database)
    blob_object: BlobObject = add_blob(node, data=b"first")
    database.commit()
    jar = node._p_jar
    assert handle_of(node, "_blob").read() == b"first"
    committed = handle_of(node, "_blob")
    blob_object.write_bytes(b"second")
    assert handle_of(node, "_blob").read() == b"second"
    jar.transaction_manager.savepoint()
    assert handle_of(node, "_blob").read() == b"second"
    blob_object.write_bytes(b"third")
    assert handle_of(node, "_blob").read() == b"third"
    assert committed.read() == b"first"
    database.abort()
    assert handle_of(node, "_blob") == committed
    blob_object.blob._p_deactivate()
    assert lp.PayloadHandle.of(blob_object.blob) == committed


# --- Files that are not what they were -------------------------------------------------------------------------------

READERS: list[Callable[[lp.PayloadHandle], Any]] = [
    lambda handle: handle.read(),
    np.asarray,
    np.array,
    lambda handle: handle.read_seconds(0, 100),
    lambda handle: np.concatenate(list(handle.blocks(3))) if 0 not in handle.shape else [*handle.blocks(3), handle],
    lambda handle: handle[:],
    lambda handle: handle.read(0),
]


def handle_of_file(
    folder: Path, array: np.ndarray[Any, Any], version: tuple[int, int] | None = None, **fields: Any
) -> lp.PayloadHandle:
    """A handle to an npy file as it lies in a blob directory."""
    with (folder / "a.blob").open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    return lp.PayloadHandle("array", folder / "a.blob", shape=array.shape, dtype=str(array.dtype), **fields)


@pytest.mark.parametrize("array", [np.arange(7, dtype="float64"), np.zeros((0, 2), dtype="int16")], ids=["7", "0"])
@pytest.mark.parametrize("suffix", [".blob", ".uncommitted"])
def test_a_file_that_was_cut_off_anywhere_is_an_error(tmp_path: Path, array: np.ndarray[Any, Any], suffix: str) -> None:
    handle = handle_of_file(tmp_path, array, samplerate_hz=1.0)
    whole = handle.file.read_bytes()
    handle = dataclasses.replace(handle, file=tmp_path / f"cut{suffix}")
    for length in range(len(whole)):
        handle.file.write_bytes(whole[:length])
        for read in READERS:
            with pytest.raises(PayloadError, match=rf"cut{suffix} is not the payload it was: expected {array.dtype}"):
                read(handle)
    handle.file.write_bytes(whole + b"\0")
    for read in READERS:
        with pytest.raises(PayloadError, match=f"its array ends at byte {len(whole)} of {len(whole) + 1};"):
            read(handle)
    handle.file.write_bytes(whole)
    assert same_array(handle.read(), array)


def test_a_header_that_was_changed_anywhere_never_gives_other_data(tmp_path: Path) -> None:
    array = np.arange(6, dtype="float32").reshape(3, 2)
    handle = handle_of_file(tmp_path, array, samplerate_hz=1.0)
    whole = handle.file.read_bytes()
    refused = 0
    for position in range(len(whole) - array.nbytes):
        for byte in {whole[position] ^ 1, whole[position] ^ 8, 0, ord("\n"), ord(">"), 255} - {whole[position]}:
            handle.file.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
            for read in READERS:
                try:
                    assert same_array(np.asarray(read(handle)).reshape(-1, 2), array)
                except PayloadError:
                    refused += 1
    assert refused > 1_000


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (np.arange(3, dtype="int32"), r"expected int64 \(3,\) at 2 Hz, got int32 \(3,\)"),
        (np.arange(4), r"expected int64 \(3,\) at 2 Hz, got shape \(4,\)"),
        (np.arange(3).reshape(3, 1), r"got shape \(3, 1\)"),
        (np.arange(3, dtype=">i8"), r"got >i8 \(3,\)"),
    ],
    ids=["dtype", "length", "dimensions", "byte order"],
)
def test_another_array_in_the_file_is_an_error(tmp_path: Path, other: np.ndarray[Any, Any], found: str) -> None:
    handle = handle_of_file(tmp_path, np.arange(3), samplerate_hz=2.0)
    handle_of_file(tmp_path, other)
    for read in READERS:
        with pytest.raises(PayloadError, match=found) as caught:
            read(handle)
        assert str(handle.file) in str(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_another_structure_in_the_file_is_an_error(tmp_path: Path) -> None:
    handle = handle_of_file(tmp_path, np.zeros(3, dtype=[("a", "<i4")]), samplerate_hz=1.0)
    handle_of_file(tmp_path, np.zeros(3, dtype=[("a", "<f4")]))
    for read in READERS:
        with pytest.raises(PayloadError, match=r"got \[\('a', '<f4'\)\] \(3,\)"):
            read(handle)


def test_pickled_objects_in_the_file_are_not_loaded(tmp_path: Path) -> None:
    handle = handle_of_file(tmp_path, np.arange(3), samplerate_hz=1.0)
    np.save(tmp_path / "objects.npy", np.array([{}, None, 1]), allow_pickle=True)
    (tmp_path / "objects.npy").replace(handle.file)
    for read in READERS:
        with pytest.raises(PayloadError, match=r"can't be read \(.*[Oo]bject"):
            read(handle)


def test_an_empty_array_behind_a_header_of_whole_pages_is_read(tmp_path: Path) -> None:
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (0,), }".ljust(mmap.ALLOCATIONGRANULARITY - 11) + b"\n"
    (tmp_path / "a.blob").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    handle = lp.PayloadHandle("array", tmp_path / "a.blob", shape=(0,), dtype="int64", samplerate_hz=1.0)
    assert [len(read(handle)) for read in READERS[:4]] == [0, 0, 0, 0]
    assert list(handle.blocks(1)) == []


@pytest.mark.filterwarnings("default")  # zarr's own
def test_another_array_in_the_zarr_store_is_an_error(database: LOTDB) -> None:
    handle = stored(database, "zarr", np.arange(3), 2.0)[1]
    stored(database, "zarr", np.arange(4), 2.0)
    for read in READERS:
        with pytest.raises(PayloadError, match=r"expected int64 \(3,\) at 2 Hz, got shape \(4,\)") as caught:
            read(handle)
        assert f"{handle.dataset} in {handle.file}" in str(caught.value)


@pytest.mark.parametrize("read", READERS)
def test_every_reader_says_what_may_have_become_of_a_file_that_is_gone(
    tmp_path: Path, read: Callable[[lp.PayloadHandle], Any]
) -> None:
    handle = lp.PayloadHandle("array", tmp_path / "gone.blob", shape=(3,), dtype="int64", samplerate_hz=1.0)
    with pytest.raises(FileNotFoundError) as caught:
        read(handle)
    (note,) = caught.value.__notes__
    assert "was replaced or committed after its record was made" in note


@pytest.mark.filterwarnings("default")  # zarr's own
@pytest.mark.parametrize("gone", ["store", "array"])
def test_a_zarr_array_that_is_gone_is_an_error(database: LOTDB, gone: str) -> None:
    handle = stored(database, "zarr", np.arange(3), 2.0)[1]
    assert handle.dataset
    shutil.rmtree(handle.file if gone == "store" else handle.file / handle.dataset)
    for read in READERS:
        with pytest.raises((FileNotFoundError, PayloadError)) as caught:
            read(handle)
        assert str(handle.file) in str(caught.value)


def test_pickled_objects_are_not_read(database: LOTDB) -> None:
    node = root_of(database)
    BlobWriter.write_array(node, np.array([{}, None]), allow_pickle=True)
    database.commit()
    for read in READERS[:3]:
        with pytest.raises(PayloadError, match="holds pickled Python objects"):
            read(handle_of(node, "_blob_array"))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(6, 2),
        np.asfortranarray(np.arange(12.0).reshape(6, 2)),
        np.array([(1, 2.5), (3, 4.5), (5, 6.5), (7, 8.5)], dtype=[("a", "<i4"), ("b", ">f8")]),
        np.zeros(5, dtype=np.dtype([("a", "i1"), ("b", "<i4")], align=True)),
        np.zeros(4, dtype=[("a", "<f4", (2, 2)), ("b", [("c", "<U3")])]),
        np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]"),
        np.recarray(4, dtype=[("a", "<i4")]),
    ],
    ids=["C", "Fortran", "structured", "aligned", "nested", "dates", "records"],
)
def test_every_kind_of_npy_file_is_read(tmp_path: Path, array: np.ndarray[Any, Any], version: tuple[int, int]) -> None:
    handle = handle_of_file(tmp_path, array, version, samplerate_hz=1.0)
    for read in READERS:
        assert np.array_equal(read(handle), array)
    assert [len(block) for block in handle.blocks(1)] == [1] * len(array)


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


def test_a_handle_with_a_long_path_pickles_small_and_opens_in_another_process(tmp_path: Path) -> None:
    folder = tmp_path / ("speakers " * 20) / ("sessions " * 20)
    folder.mkdir(parents=True)
    handle = handle_of_file(folder, np.arange(10.0), samplerate_hz=4.0)
    assert len(str(handle.file)) > 350
    assert len(pickle.dumps(handle)) < 1_000
    code = (
        "import pickle, sys\n"
        "import numpy\n"
        "handle = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(numpy.asarray(handle).sum(), handle.read_seconds(1, 1.5).tolist())\n"
        "print([block.sum() for block in handle.blocks(1, unit='seconds')] == [6, 22, 17])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, pickle.dumps(handle).hex()],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["45.0 [4.0, 5.0]", "True"], done.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_read_one_handle_at_once(database: LOTDB, backend: str) -> None:
    array = np.arange(30_000).reshape(-1, 2)
    handle = stored(database, backend, array, 100.0, chunk_length=1_000)[1]
    together = threading.Barrier(8)
    good: list[bool] = []

    def read(number: int) -> None:
        together.wait()
        blocks = np.concatenate(list(handle.blocks(700 + number)))
        part = handle.read_seconds(number, 100)
        good.append(same(blocks, array) and same(part, array[100 * number : 10_000]) and same(handle.read(), array))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 8


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
        cwd=Path(__file__).resolve().parents[2],
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
