"""Handles to payloads of a tree on a server: small, made without its blobs, and read anywhere, also later."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lotdb import BaseNode, add_blob
from servers import Postgres, counted_questions, end_of_workers, in_rows, in_rows_without_history, on_zeo

import lotproc as lp
from lotproc._fast import FAST
from lotproc._places import ServerBlob
from lotproc.zodb.places import close_servers

NODES = 12


@pytest.fixture(params=[on_zeo, in_rows, in_rows_without_history], ids=lambda kind: kind.__name__)
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A storage with a tree of payloads of all kinds, as another program made it."""
    with request.param(tmp_path, request) as found:
        with lp.open_root(found, create=True) as root:
            fill(root)
        yield f"{found}{'&' if '?' in found else '?'}blob_dir={tmp_path / 'cache'}"
        end_of_workers()


def fill(root: BaseNode, nodes: int = NODES) -> None:
    for number in range(nodes):
        sound = root.get_data_node(["ann", f"clip_{number:02}"], samplerate_hz=4.0, backend="blob")
        sound.write_data(array(number))
        add_blob(sound, "note", f"of {number}".encode())
    root._p_jar.transaction_manager.commit()


def array(number: int) -> Any:
    return np.arange(number, number + 10, dtype=np.float32)


def fetched(uri: str) -> list[Path]:
    """The blobs that are in the cache."""
    return list(Path(uri.rpartition("blob_dir=")[2]).rglob("*.blob"))


def read(record: lp.NodeRecord) -> Any:
    return record.payload.read(), record.attributes["note"].read()


def test_they_are_read_where_they_are_needed(uri: str) -> None:
    with lp.open_root(uri) as root:
        scanned = list(lp.scan("note", root, payload="data"))
        assert not fetched(uri)
        root._p_jar.cacheMinimize()
        assert list(lp.snapshot("note", lp.leaves(root), payload="data")) == scanned
        assert not fetched(uri)
        assert max(len(pickle.dumps(record.payload)) for record in scanned) < 1024
    assert all(isinstance(record.payload.file, ServerBlob) for record in scanned)
    for number, record in enumerate(scanned):  # the root is closed
        assert np.array_equal(record.payload.read_seconds(0.5, 1.0), array(number)[2:4])
        assert len(fetched(uri)) == number + 1
    mapped = np.asarray(scanned[3].payload)
    assert np.array_equal(mapped, array(3))
    assert not mapped.flags.writeable
    assert [block.tolist() for block in scanned[1].payload.blocks(6)] == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10]]
    assert Path(scanned[0].attributes["note"].file).read_bytes() == b"of 0"
    elsewhere = list(lp.parallel_map(lp.each(read), [scanned], mode="process", max_workers=1))
    for number, (sound, note) in enumerate(elsewhere[0]):
        assert np.array_equal(sound, array(number))
        assert note == f"of {number}".encode()
    in_threads = lp.parallel_map(lp.each(read), lp.chunked(1, scanned), mode="thread", max_workers=4)
    assert [note for batch in in_threads for _, note in batch] == [f"of {number}".encode() for number in range(NODES)]
    assert "open-sesame" not in repr(scanned[0].payload)
    assert repr(scanned[0].payload.file).startswith("<blob 0x")


def test_what_is_not_committed_is_here(uri: str) -> None:
    with lp.open_root(uri) as root:
        node = root.node_storage["ann"].node_storage["clip_00"]
        (before,) = lp.snapshot((), [node], payload="data")
        node.write_data(array(70))
        (changed,) = lp.snapshot((), [node], payload="data")
        assert np.array_equal(changed.payload.read(), array(70))
        root._p_jar.transaction_manager.savepoint()
        (saved,) = lp.snapshot((), [node], payload="data")
        assert np.array_equal(saved.payload.read(), array(70))
        assert np.array_equal(before.payload.read(), array(0))
        root._p_jar.transaction_manager.abort()


def test_what_was_replaced(uri: str) -> None:
    with lp.open_root(uri) as root:
        records = list(lp.scan((), root, payload="data"))
        assert np.array_equal(records[0].payload.read(), array(0))
        for number in range(2):
            root.node_storage["ann"].node_storage[f"clip_{number:02}"].write_data(array(80))
        root._p_jar.transaction_manager.commit()
        root._p_jar.db().pack()
        new = list(lp.scan((), root, payload="data"))
        assert np.array_equal(new[1].payload.read(), array(80))
        assert np.array_equal(records[2].payload.read(), array(2))
        with pytest.raises(lp.PayloadError) as raised:
            records[1].payload.read()
        assert "new record" in (raised.value.hint or "")


def test_inputs_are_known_again(uri: str) -> None:
    policy = lp.inline("_p")
    with lp.open_root(uri) as root:

        def left() -> list[Any]:
            return list(lp.pending(policy, root, lp.scan("data", root, skip="_*"), inputs=True))

        results = list(lp.outputs(lambda record: 1)(left()))
        lp.write(policy, root, results, commit_every=5)
        assert left() == []
        assert [record.path for record in lp.pending(policy, root, snapshots(root), inputs=True)] == []
        root.node_storage["ann"].node_storage["clip_03"].write_data(array(90))
        root._p_jar.transaction_manager.commit()
        assert [record.path for record in left()] == [("ann", "clip_03")]


def snapshots(root: BaseNode) -> Iterator[lp.NodeRecord]:
    return lp.snapshot("data", lp.leaves(root, skip="_*"))


def test_they_are_copied_with_their_data(uri: str, tmp_path: Path) -> None:
    with lp.open_root(uri) as root, lp.open_root(tmp_path / "other.fs", create=True) as other:
        results = [lp.ProcessResult(record.path, record.payload) for record in lp.scan((), root, payload="data")]
        lp.write(lp.fresh(), other, results, commit_every=5)
        copies = list(lp.scan("result", other))
        assert [record.attributes["result"].read().tolist() for record in copies] == [
            array(number).tolist() for number in range(NODES)
        ]


def test_a_server_that_is_gone(tmp_path: Path) -> None:
    with on_zeo(tmp_path, None) as uri:
        with lp.open_root(uri, create=True) as root:
            fill(root, 1)
            (record,) = lp.scan((), root, payload="data")
        close_servers()
    with pytest.raises(lp.ServerError):
        record.payload.read()


@pytest.mark.skipif(not FAST, reason="the fast way is turned off")
@pytest.mark.parametrize("history", [True, False])
def test_few_queries(postgres_server: Postgres, history: bool) -> None:
    """Handles are made from records that are read many at once; so are the places where a tree is parted."""
    with lp.open_root(postgres_server.uri(keep_history=history), create=True) as root:
        fill(root, 600)
        for speaker in range(300):
            root.gns([f"speaker_{speaker:03}", "session", "clip"]).set_attribute("n", 1)
        root._p_jar.transaction_manager.commit()
        with counted_questions() as questions:
            records = list(lp.scan((), root, payload="data", path="ann/*"))
            assert len(records) == 600
            assert questions()[0] < 60
            assert len(lp.partitions(8, root)) > 4
            assert questions()[0] < 60
