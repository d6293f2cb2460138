"""Trees are opened by their places in other processes, read there at one transaction, and written to on servers."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lotdb import BaseNode
from servers import end_of_workers, fill, in_file, in_rows, in_rows_without_history, on_zeo
from toolz import compose_left
from trees import exactly, opened
from ZODB.MappingStorage import MappingStorage

import lotproc as lp
from lotproc.zodb import places
from lotproc.zodb.places import close_servers

SPEAKERS, CLIPS = 6, 20


SHARED: list[Any] = [on_zeo, in_rows, in_rows_without_history]


@pytest.fixture
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A storage with a tree."""
    with request.param(tmp_path, request) as found:
        with lp.open_root(found, create=True) as root:
            fill(root, SPEAKERS, CLIPS)
        yield found
        end_of_workers()


on_all = pytest.mark.parametrize("uri", [in_file, *SHARED], indirect=True, ids=lambda kind: kind.__name__)
on_servers = pytest.mark.parametrize("uri", SHARED, indirect=True, ids=lambda kind: kind.__name__)


def double(record: lp.NodeRecord) -> int:
    value: int = 2 * record.attributes["n"]
    return value


def writing(policy: Any, root: Any, **options: Any) -> Any:
    """What is done with a part of a tree: scanned, processed and written, by whoever has it."""
    return compose_left(
        lp.scan("n", skip="_*", path="speaker_*/*"),
        lp.pending(policy, root, version="1"),
        lp.chunked(16),
        lp.parallel_map(lp.outputs(double), mode="sync"),
        lp.write(policy, root, version="1", **options),
    )


def all_of(root: BaseNode) -> list[Any]:
    """All nodes of a tree with what they have, but for the times of blobs."""
    return [
        (path, {name: value for name, value in node.attribute_storage.items() if name != "data"})
        for path, node in ((_path(node), node) for node in lp.walk(root))
    ]


def _path(node: BaseNode) -> tuple[str, ...]:
    path: list[str] = []
    while node.parent is not None:
        path.append(node.key)
        node = node.parent
    return tuple(reversed(path))


def expected(policy: Any) -> list[Any]:
    """The same of a tree that was written to by one program, without any server."""
    with opened(MappingStorage()) as root:
        for speaker in range(SPEAKERS):
            for clip in range(CLIPS):
                root.gns([f"speaker_{speaker:02}", f"clip_{clip:02}"]).set_attribute("n", 100 * speaker + clip)
        root._p_jar.transaction_manager.commit()
        writing(policy, root)(root)
        return all_of(root)


# --- Reading ---------------------------------------------------------------------------------------------------------


@on_all
@pytest.mark.parametrize("mode", ["sync", "process"])
def test_parts_are_the_whole_wherever_they_are_read(uri: str, mode: Any) -> None:
    with lp.open_root(uri) as root:
        whole = [exactly(record) for record in lp.scan("n", root)]
        parts = lp.partitions(4, root)
        assert len(parts) > 2
        assert max(len(pickle.dumps(part)) for part in parts) < 1024
        if mode == "process":  # what comes later is not seen
            root.gns(["speaker_00", "clip_new"]).set_attribute("n", 0)
            root._p_jar.transaction_manager.commit()
            if "keep_history=false" in uri:
                parts = lp.partitions(4, root)
                whole = [exactly(record) for record in lp.scan("n", root)]
        found = lp.parallel_map(compose_left(lp.scan("n"), list), parts, mode=mode, max_workers=2)
        assert [exactly(record) for batch in found for record in batch] == whole


@on_all
def test_handles_are_read_elsewhere(uri: str) -> None:
    with lp.open_root(uri) as root:
        parts = lp.partitions(2, root)
        read = compose_left(lp.scan((), payload="data", path="speaker_00/clip_00"), lp.each(payload_of))
        found = lp.parallel_map(read, parts, mode="process", max_workers=1)
        assert [item for batch in found for item in batch] == [b"of the first"]


def payload_of(record: lp.NodeRecord) -> Any:
    return record.payload.read()


@on_all
def test_pending_travels_and_reads_what_is_there_by_then(uri: str) -> None:
    policy = lp.inline("_p")
    with lp.open_root(uri) as root:
        stage = lp.pending(policy, root, version="1")
        there = pickle.loads(pickle.dumps(stage))
        records = list(lp.scan("n", root, skip="_*"))
        assert len(list(there(records))) == len(records)
        done = [lp.ProcessResult(record.path, 1) for record in records[:7]]
        begun = there(records)
        lp.write(policy, root, done, commit_every=3, version="1")
        assert list(begun) == records
        assert list(there(records)) == records[7:]
        (part,) = lp.partitions(1, root)
        lp.write(policy, root, [lp.ProcessResult(records[7].path, 1)], commit_every=1, version="1")
        assert list(lp.pending(policy, part, records, version="1")) == records[8:]


def test_a_scan_goes_on_while_pending_reads_the_file_anew(tmp_path: Path) -> None:
    policy = lp.inline("_p")
    with lp.open_root(tmp_path / "corpus.fs", create=True) as root:
        fill(root, SPEAKERS, CLIPS)
        (part,) = lp.partitions(1, root)
        scanned = lp.scan("n", part)
        records = [next(scanned)]
        for version in range(3):  # the file grows
            lp.write(policy, root, [lp.ProcessResult(records[0].path, 1)], commit_every=1, version=str(version))
            assert list(lp.pending(policy, part, records, version=str(version))) == []
        assert len([*records, *scanned]) == SPEAKERS * CLIPS


def test_what_has_no_place_says_so(tmp_path: Path) -> None:
    with opened(MappingStorage()) as root:
        with pytest.raises(lp.ArgumentError) as raised:
            lp.partitions(2, root)
        assert "open_root" in (raised.value.hint or "")
        with pytest.raises(lp.NotPicklableError):
            pickle.dumps(lp.pending(lp.inline("_p"), root))
    with lp.open_root(tmp_path / "corpus.fs", create=True) as root:
        fill(root, SPEAKERS, CLIPS)
        pickle.dumps(lp.pending(lp.inline("_p"), root))
        with pytest.raises(lp.NotPicklableError):
            pickle.dumps(lp.write(lp.inline("_p"), root))
        (part,) = lp.partitions(1, root)
        with pytest.raises(lp.ArgumentError):
            lp.write(lp.inline("_p"), part)
        root.set_attribute("n", 1)
        with pytest.raises(lp.NotPicklableError):
            pickle.dumps(lp.pending(lp.inline("_p"), root))
        root._p_jar.transaction_manager.abort()


def test_another_file_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "corpus.fs"
    with lp.open_root(path, create=True) as root:
        fill(root, SPEAKERS, CLIPS)
    shutil.copy(path, tmp_path / "older.fs")
    with lp.open_root(path) as root:
        root.set_attribute("n", 1)
        root._p_jar.transaction_manager.commit()
        (part,) = lp.partitions(1, root)
    for other in ("older.fs", "another.fs"):
        if other == "another.fs":
            with lp.open_root(tmp_path / other, create=True) as root:
                fill(root, SPEAKERS, CLIPS)
        os.replace(tmp_path / other, path)
        with pytest.raises(lp.DamagedDatabaseError):
            lp.scan("n", part)
    os.remove(path)
    with pytest.raises(lp.ArgumentError):
        lp.scan("n", part)


@on_servers
def test_another_tree_on_the_server(uri: str) -> None:
    with lp.open_root(uri) as root:
        (part,) = lp.partitions(1, root)
    other = replace(part, stored=b"\0" * 8)
    with pytest.raises(lp.DamagedDatabaseError):
        lp.scan("n", other)
    with pytest.raises(lp.DamagedDatabaseError):
        lp.write(lp.inline("_p"), other, [lp.ProcessResult(("speaker_00", "clip_00"), 1)])


@on_all
def test_a_place_after_a_fork(uri: str) -> None:
    with lp.open_root(uri) as root:
        (part,) = lp.partitions(1, root)
        count = len(list(lp.scan("n", part)))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if len(list(lp.scan("n", part))) == count else 1
                close_servers()
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert len(list(lp.scan("n", part))) == count


def test_a_server_that_was_lost_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = pytest.importorskip("ZEO.Exceptions")
    with on_zeo(tmp_path, None) as uri:
        with lp.open_root(uri, create=True) as root:
            fill(root, SPEAKERS, CLIPS)
            (part,) = lp.partitions(1, root)
        count = len(list(lp.scan("n", part)))
        (server,) = places._servers.values()

        def lost() -> None:
            raise exceptions.ClientDisconnected("timed out waiting for connection")

        monkeypatch.setattr(server.database.storage, "sync", lost)
        assert len(list(lp.scan("n", part))) == count
        assert server not in places._servers.values()
        end_of_workers()


def test_places_of_older_versions() -> None:
    state = {"file": "/data/c.fs", "blobs": None, "before": b"1" * 8, "root": b"2" * 8, "start": (), "stop": ("b",)}
    old = object.__new__(lp.Partition)
    old.__setstate__(state)
    assert old == lp.Place("/data/c.fs", None, b"1" * 8, b"2" * 8, (), ("b",))


# --- Writing ---------------------------------------------------------------------------------------------------------


@on_servers
@pytest.mark.parametrize("policy", [lp.inline("_p"), lp.mirror("features")], ids=["inline", "mirror"])
def test_workers_write_their_parts(uri: str, policy: Any) -> None:
    with lp.open_root(uri) as root:
        parts = lp.partitions(4, root, skip="_*")
        if "keep_history" in uri:  # others may write over what was there then
            parts = [replace(part, before=None) for part in parts]
        work = writing(policy, root)
        for written in (SPEAKERS * CLIPS, 0):
            reports = list(lp.parallel_map(work, parts, mode="process", max_workers=2))
            total = sum(reports, lp.WriteReport())
            assert len(reports) == len(parts)
            assert (total.written, total.failed) == (written, 0)
            root._p_jar.transaction_manager.begin()
            assert all_of(root) == expected(policy)


def test_reports_add_up() -> None:
    failures = tuple(lp.Failure((str(number),), "ValueError", "no") for number in range(700))
    one = lp.WriteReport(1, 2, 3, ("a",), 700, failures, {"ValueError": 700}, 1.0, 2.0, 3.0)
    two = lp.WriteReport(4, 5, 6, None, 701, failures, {"ValueError": 700, "KeyError": 1}, 4.0, 5.0, 6.0)
    total = one + two
    assert (total.written, total.skipped, total.commits, total.last_path, total.failed) == (5, 7, 9, ("a",), 1401)
    assert total.failures == (failures + failures)[:1000]
    assert total.errors == {"ValueError": 1400, "KeyError": 1}
    assert (total.seconds, total.waiting, total.writing) == (5.0, 7.0, 9.0)
    assert sum([one], lp.WriteReport()) == one
    assert total.deleted is None
    assert (lp.WriteReport(deleted=3, absent=1) + lp.WriteReport(deleted=2)).deleted == 5
