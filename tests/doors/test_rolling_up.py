"""Totals of a tree in a database: over its parts in worker processes, written, and written again where they changed."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lotdb import LOTDB, BaseNode
from toolz import compose_left, pipe
from ZODB.FileStorage.FileStorage import FileIterator

import lotproc as lp
from lotproc.folds import count, stats, top, total

FOLD = {"clips": count(), "seconds": total("seconds"), "described": stats("seconds"), "longest": top(2, "seconds")}


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[BaseNode]:
    """Speakers with sessions with clips, not all of them of one depth."""
    database = LOTDB(path=str(tmp_path), name="corpus", new=True)
    root = database.open_connection()
    for speaker in range(7):
        root.gn(f"speaker_{speaker}").set_attribute("seconds", -1e9)  # its own, which counts for the root alone
        for session in range(speaker % 3):
            for clip in range(5):
                node = root.gns([f"speaker_{speaker}", f"session_{session}", f"clip_{clip}"])
                node.set_attribute("seconds", None if clip == 3 else clip * 0.1 + 1e-9 * speaker)
    database.commit()
    yield root
    database.close()


def stored_since(root: BaseNode, last: bytes) -> list[bytes]:
    """The ids of all objects that were stored after a transaction."""
    name = root._p_jar.db().storage._file_name
    return [record.oid for transaction in FileIterator(name) if transaction.tid > last for record in list(transaction)]


def run(root: BaseNode, if_exists: Any, commit_every: int | None, *, in_parts: bool = False) -> lp.WriteReport:
    records = lp.scan("seconds", skip="_*")
    parts = compose_left(records, lp.rollup(FOLD, partial=True))
    report: lp.WriteReport = pipe(
        lp.parallel_map(parts, lp.partitions(4, root), mode="thread") if in_parts else records(root),
        lp.rollup(FOLD),
        lp.write(lp.inline("_proc"), root, if_exists=if_exists, commit_every=commit_every, version="1"),
    )
    root._p_jar.transaction_manager.commit()
    return report


def test_parts_in_two_processes_give_what_the_tree_gives(corpus: BaseNode) -> None:
    parts = lp.partitions(6, corpus)
    assert len(parts) > 3
    whole = [(result.path, pickle.dumps(result.output)) for result in lp.rollup(FOLD, lp.scan("seconds", corpus))]
    assert len(whole) == 1 + 4 + 6  # those with clips below
    in_parts = pipe(
        parts,
        lp.parallel_map(compose_left(lp.scan("seconds"), lp.rollup(FOLD, partial=True)), max_workers=2),
        lp.rollup(FOLD),
    )
    assert [(result.path, pickle.dumps(result.output)) for result in in_parts] == whole


@pytest.mark.parametrize("if_exists", ["replace", "merge"])
@pytest.mark.parametrize("commit_every", [None, 4])
def test_what_did_not_change_is_not_stored_again(corpus: BaseNode, if_exists: Any, commit_every: int | None) -> None:
    database = corpus._p_jar.db()
    assert run(corpus, if_exists, commit_every).written == 11
    last = database.lastTransaction()
    for in_parts in (False, True):
        assert run(corpus, if_exists, commit_every, in_parts=in_parts).written == 11
        assert database.lastTransaction() == last  # there was nothing to commit
    corpus.gns(["speaker_5", "session_1", "clip_2"]).set_attribute("seconds", 1.5)
    corpus._p_jar.transaction_manager.commit()
    last = database.lastTransaction()
    run(corpus, if_exists, commit_every)
    above = [corpus, corpus.gn("speaker_5"), corpus.gns(["speaker_5", "session_1"])]
    results = [node.gn("_proc").attribute_storage._p_oid for node in above]
    assert sorted(stored_since(corpus, last)) == sorted(results)
    assert corpus.gn("_proc").get_attribute("result")["longest"][0] == (1.5, ("speaker_5", "session_1", "clip_2"))
