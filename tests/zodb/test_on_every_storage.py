"""What is done with a tree on any storage gives what it gives with one in a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lotdb import BaseNode
from servers import in_rows, in_rows_without_history, on_zeo, zeo_server
from trees import opened
from view_writer import relational
from ZODB.blob import BlobStorage
from ZODB.FileStorage import FileStorage

import lotproc as lp

SPEAKERS, CLIPS = 4, 12
INLINE, MIRROR = lp.inline("_p"), lp.mirror("features")

#: In parts of the tale no node has a result yet.
pytestmark = pytest.mark.filterwarnings("ignore:.* no node had an attribute")


def plain(record: Any) -> Any:
    """A record, with what a handle stands for in place of the handle."""
    if isinstance(record, lp.NodeRecord):
        payload = record.payload
        return record.path, dict(record.attributes), payload.read().tobytes() if payload is not None else None
    return record


def tale(root: BaseNode) -> Iterator[Any]:
    """All that is done with a tree, and what comes of it."""
    commit = root._p_jar.transaction_manager.commit
    for speaker in range(SPEAKERS):
        above = root.gn(f"speaker_{speaker}")
        above.set_attribute("age", 30 + speaker)
        for clip in range(CLIPS):
            above.gn(f"clip_{clip:02}").set_attribute("n", 100 * speaker + clip)
    commit()
    first = lp.transaction_of(root)
    records = list(lp.scan("n", root, inherit="age"))
    yield list(map(plain, records))

    def halves() -> Iterator[list[lp.ProcessResult]]:
        for batch in lp.chunked(5, records):
            yield [lp.ProcessResult(record.path, record.attributes["n"] / 2) for record in batch]

    yield lp.write(INLINE, root, halves(), version="1", commit_every=13)
    arrays = [[lp.ProcessResult(record.path, np.arange(record.attributes["n"]))] for record in records[:9]]
    yield lp.write(MIRROR, root, arrays, arrays="blob", version="1", commit_every=4)
    second = lp.transaction_of(root)
    yield [record.path for record in lp.pending(INLINE, root, records, version="2")]
    yield [record.path for record in lp.pending(MIRROR, root, records, version="1")]
    below = {"half": lp.Below(INLINE, "result", version="1")}
    yield list(map(plain, lp.scan("n", root, inherit="age", below=below, skip="[_f]*")))
    yield list(map(plain, lp.scan((), root, path="features/**", payload="result")))
    yield list(map(plain, lp.snapshot("n", lp.leaves(root, skip="[_f]*"))))
    yield lp.delete(root, [("speaker_1",), ("speaker_2", "clip_03"), ("none",)], commit_every=1)
    for record in records[:3]:
        root.gns(record.path).set_attribute("n", -1)
    commit()
    yield list(map(plain, lp.scan("n", root, since=second, skip="[_f]*")))
    yield lp.status(INLINE, root, records, version="1")
    with closing(lp.scan("n", root, on_error="collect")) as scanned:
        yield list(map(plain, scanned))
    if getattr(root._p_jar.db().storage, "keep_history", True):
        yield [(commit.stage, commit.policy, commit.version, commit.counts) for commit in lp.history(root)]
        then = list(map(plain, lp.scan("n", root, at=first, inherit="age")))
        yield then == list(map(plain, records))
        changes = lp.diff(lp.scan("n", root, at=first), lp.scan("n", root, skip="[_f]*"))
        yield [(change.path, change.kind) for change in changes]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    with lp.open_root(tmp_path_factory.mktemp("file") / "corpus.fs", create=True) as root:
        return list(tale(root))


@contextmanager
def in_two_folders(folder: Path, _: Any) -> Iterator[BaseNode]:
    storage = FileStorage(str(folder / "corpus.fs"))
    with opened(BlobStorage(str(folder / "blobs"), storage)) as root:
        yield root


@contextmanager
def in_sqlite(folder: Path, _: Any, *, history: bool = True) -> Iterator[BaseNode]:
    pytest.importorskip("relstorage")
    with opened(relational(folder, history=history)) as root:
        yield root


def in_sqlite_without_history(folder: Path, request: Any) -> Any:
    return in_sqlite(folder, request, history=False)


@contextmanager
def root_on(kind: Any, folder: Path, request: pytest.FixtureRequest) -> Iterator[BaseNode]:
    with kind(folder, request) as found:
        if isinstance(found, BaseNode):
            yield found
        else:
            with lp.open_root(found, create=True) as root:
                yield root


KINDS: list[Any] = [on_zeo, in_rows, in_rows_without_history, in_two_folders, in_sqlite, in_sqlite_without_history]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_it_is_the_same_tale(kind: Any, expected: list[Any], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with root_on(kind, tmp_path, request) as root:
        keeps_history = getattr(root._p_jar.db().storage, "keep_history", True)
        for number, found in enumerate(tale(root)):
            assert found == expected[number], number
        assert number == len(expected) - (1 if keeps_history else 4)
        if not keeps_history:
            for asked in (lambda: lp.scan("n", root, at=lp.transaction_of(root)), lambda: lp.history(root)):
                with pytest.raises(lp.ArgumentError):
                    list(asked())


def test_arrays_for_which_there_is_no_folder(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    with zeo_server(tmp_path) as uri, lp.open_root(uri, create=True) as root:
        with pytest.raises(lp.ArgumentError) as raised:
            lp.write(INLINE, root, arrays="zarr")
        assert "blob" in (raised.value.hint or "")
