"""Handles to payloads as results: what is stored is the payload, with its data, wherever the handle came from."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from lotdb import LOTDB, BaseNode, BlobObject, BlobWriter, DataObject, DataWriter, PathFileObj, add_blob
from recording import examples
from ZODB.blob import Blob
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage

import lotproc as lp
from lotproc import ProcessResult
from lotproc.stores import DirectoryStore

try:
    import zarr  # noqa: F401
except ModuleNotFoundError:
    ARRAYS = ["inline", "blob"]
else:
    ARRAYS = ["inline", "blob", "zarr"]


def bare_blob(node: BaseNode) -> None:
    blob = Blob()
    with blob.open("w") as file:
        file.write(b"bare")
    node.set_attribute("data", blob)


def table(node: BaseNode) -> None:
    pandas = pytest.importorskip("pandas")
    DataWriter.write_table(node, pandas.DataFrame({"x": [1, 2], "é": ["a", "b"]}), encoding="utf-8")


def in_zarr(node: BaseNode, array: Any, rate: float | None) -> None:
    pytest.importorskip("zarr")
    store = PathFileObj(filepath=f"{node.parent._p_jar.db().storage.getName()}.data.zarr")
    DataWriter.write_array(node, array, rate, backend="zarr", zarr_store_path=store)


#: Payloads of every kind, by what puts one into a node.
PAYLOADS: dict[str, Callable[[BaseNode, Any, float | None], Any]] = {
    "blob": lambda node, array, rate: DataWriter.write_array(node, array, rate),
    "zarr": in_zarr,
    "BlobObject of an array": lambda node, array, rate: BlobWriter.write_array(node, array, "data"),
    "BlobObject": lambda node, array, rate: add_blob(node, "data", b"RIFF"),
    "Blob": lambda node, array, rate: bare_blob(node),
    "bytes": lambda node, array, rate: DataWriter.write_bytes(node, b"abc"),
    "text": lambda node, array, rate: DataWriter.write_text(node, "é\n", encoding="latin-1"),
    "table": lambda node, array, rate: table(node),
}
#: Where the handle is in the value.
PLACES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda handle: handle,
    "list": lambda handle: [1, handle, [handle]],
    "dict": lambda handle: {"x": {"y": handle}, "z": np.arange(2)},
    "tuple": lambda handle: (handle, "text"),
}
arrays_of_any_kind = hnp.arrays(
    st.sampled_from(["<f4", "i2", ">f8", "<c8"]), hnp.array_shapes(min_dims=1, max_dims=2, max_side=3, min_side=0)
)
rates = st.sampled_from([None, 8.0])


@contextmanager
def database(name: str) -> Iterator[LOTDB]:
    with tempfile.TemporaryDirectory() as folder:
        db = LOTDB(path=folder, name=name, new=True)
        try:
            yield db
        finally:
            db.close()


def read(value: Any) -> Any:
    """A value with the data in place of each payload, in a form that can be compared."""
    if isinstance(value, (lp.PayloadHandle, lp.PayloadCopy)):
        value = value.read()
    if type(value).__name__ == "DataFrame":
        return value.to_dict()
    if isinstance(value, np.ndarray):
        value = value.astype(value.dtype.newbyteorder("="))
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {name: read(item) for name, item in value.items()}
    return type(value)(map(read, value)) if isinstance(value, (list, tuple)) else value


def handles(value: Any) -> Iterator[lp.PayloadHandle]:
    if isinstance(value, lp.PayloadHandle):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from handles(item)


@pytest.mark.parametrize("arrays", ARRAYS)
@given(
    payload=st.sampled_from(sorted(PAYLOADS)),
    array=arrays_of_any_kind,
    rate=rates,
    place=st.sampled_from(sorted(PLACES)),
    as_attribute=st.booleans(),
    commit_every=st.sampled_from([None, 1, 10]),
    if_exists=st.sampled_from(["merge", "replace"]),
)
@settings(max_examples=examples(25))
def test_another_database_holds_the_data(
    payload: str, arrays: Any, array: Any, rate: Any, place: str, as_attribute: bool, commit_every: Any, if_exists: Any
) -> None:
    with database("one") as one, database("two") as two:
        root, to = one.open_connection(), two.open_connection()
        for key in "ab":
            PAYLOADS[payload](root.gn(key), array, rate)
        one.commit()
        to.gn("a").set_attribute("kept", 1)
        two.commit()
        records = list(lp.scan("data", root))
        results = [
            ProcessResult(record.path, None, {"x": PLACES[place](record.attributes["data"])})
            if as_attribute
            else ProcessResult(record.path, PLACES[place](record.attributes["data"]))
            for record in records
        ]
        options: Any = {"arrays": arrays, "commit_every": commit_every, "if_exists": if_exists}
        lp.write(lp.mirror(), to, [results], **options)
        two.commit()
        expected = [read(PLACES[place](record.attributes["data"])) for record in records]
        one.close()
        shutil.rmtree(one.path)
        for look in (lp.scan, lambda names, root: lp.snapshot(names, lp.leaves(root))):
            found = [record.attributes for record in look(..., to)]
            values = [attributes["x" if as_attribute else "result"] for attributes in found]
            assert list(map(read, values)) == expected
            assert [attributes.get("kept") for attributes in found] == [1 if if_exists == "merge" else None, None]
            for value in values:
                assert list(handles(value))
                for handle in handles(value):
                    assert handle.file.is_relative_to(two.path)
                    assert handle.kind == next(handles(records[0].attributes["data"])).kind
                    if handle.kind == "array":
                        assert handle.samplerate_hz == next(handles(records[0].attributes["data"])).samplerate_hz
                        is_in_zarr = arrays == "zarr" and place == "itself"
                        assert (handle.dataset is not None) is is_in_zarr


@pytest.mark.parametrize("arrays", ARRAYS)
def test_the_same_again_stores_nothing(arrays: Any) -> None:
    with database("one") as one, database("two") as two:
        root, to = one.open_connection(), two.open_connection()
        for name, make in PAYLOADS.items():
            make(root.gn(name), np.arange(3.0), 4.0)
        one.commit()
        results = [ProcessResult(record.path, record.attributes["data"]) for record in lp.scan("data", root)]
        lp.write(lp.mirror(), to, results, arrays=arrays, commit_every=100)
        size = Path(two.path, "two").stat().st_size if Path(two.path, "two").exists() else two.db.getSize()
        blobs = sorted(Path(two.path).rglob("*.blob"))
        assert lp.write(lp.mirror(), to, results, arrays=arrays, commit_every=100).written == len(PAYLOADS)
        assert two.db.getSize() <= size
        assert sorted(Path(two.path).rglob("*.blob")) == blobs
        # its own payload, given back, stays as it is
        before = root.gn("blob").get_attribute("data")
        (record,) = lp.snapshot(..., [root.gn("blob")])
        lp.write(lp.inline(), root, [ProcessResult(record.path, 1, record.attributes)], commit_every=1)
        assert root.gn("blob").get_attribute("data") is before


def test_a_result_gives_the_rate_that_a_handle_does_not_know() -> None:
    with database("one") as one:
        root, to = one.open_connection(), BaseNode("memory")
        DataWriter.write_array(root.gn("a"), np.arange(3))
        one.commit()
        (record,) = lp.scan("data", root)
        lp.write(lp.mirror(), to, [ProcessResult(("a",), record.attributes["data"], {"samplerate_hz": 2.0})])
        assert to.gn("a").get_attribute("result").samplerate_hz == 2.0
        assert to.gn("a").read_data(data_attribute="result").tolist() == [0, 1, 2]


STORES: dict[str, Any] = {"pickle": None, "npy": "array", "bytes": "bytes", "json": "text"}


@pytest.mark.parametrize("codec", STORES)
def test_a_store_holds_the_data_as_its_codec_does(codec: str, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", codec=codec)
    with database("one") as one:
        root = one.open_connection()
        for name, make in PAYLOADS.items():
            make(root.gn(name), np.arange(3.0), 4.0)
        one.commit()
        records = [
            record for record in lp.scan("data", root) if STORES[codec] in (None, record.attributes["data"].kind)
        ]
        assert records
        lp.write(lp.mirror(), store, [ProcessResult(record.path, record.attributes["data"]) for record in records])
        expected = {record.path: read(record.attributes["data"]) for record in records}
        if codec == "pickle":
            lp.write(lp.mirror(), store, [ProcessResult(("list",), [records[0].attributes["data"]])])
            expected["list",] = [read(records[0].attributes["data"])]
    assert {record.path: read(record.attributes["result"]) for record in lp.records("result", store)} == expected
    # what a store holds is a handle too, to whoever takes it out
    root = BaseNode("root")
    found = [ProcessResult(record.path, record.payload) for record in lp.records((), store)]
    lp.write(lp.mirror(), root, found)
    shutil.rmtree(tmp_path / "store")
    kinds = (DataObject, BlobObject, Blob) if codec == "pickle" else (np.ndarray, bytes, str)
    for record, live in zip(lp.snapshot("result", lp.leaves(root)), lp.leaves(root), strict=True):
        assert read(record.attributes["result"]) == expected[record.path]
        assert isinstance(live.get_attribute("result"), (*kinds, list))


@dataclass
class Held:
    """What a processor may return."""

    handle: Any


def test_where_the_data_can_not_be_put_the_handle_is_refused() -> None:
    with database("one") as one:
        root = one.open_connection()
        DataWriter.write_array(root.gn("a"), np.arange(3))
        one.commit()
        (record,) = lp.scan("data", root)
        handle = record.attributes["data"]
        for value in (Held(handle), {handle}, record, np.array([handle, None], dtype=object), {handle: 1}):
            message = "write: attribute 'result' at (x/)?a can't be stored: it holds a handle .*what its read"
            with pytest.raises(lp.NotPicklableError, match=message):
                lp.write(lp.mirror("x"), BaseNode("memory"), [ProcessResult(("a",), value)])
            with pytest.raises(lp.NotPicklableError, match="plan: attribute 'result' at a"):
                list(lp.plan(lp.mirror(), [ProcessResult(("a",), value)]))
        bare = DB(MappingStorage())
        connection = bare.open()
        connection.root()["tree"] = to = BaseNode("tree")
        connection.transaction_manager.commit()
        for commit_every in (None, 1):
            with pytest.raises(lp.ArgumentError, match="write: attribute 'result' at a .* directory for blobs"):
                lp.write(lp.mirror(), to, [ProcessResult(("a",), handle)], commit_every=commit_every)
        assert not to.node_storage
        bare.close()
        handle.file.unlink()
        for target in (BaseNode("memory"), root):
            with pytest.raises(lp.PayloadError, match="write: attribute 'result' at x/a is.* can't be read: FileNotF"):
                lp.write(lp.mirror("x"), target, [ProcessResult(("b",), 1), ProcessResult(("a",), handle)])
            assert "x" not in target.node_storage
