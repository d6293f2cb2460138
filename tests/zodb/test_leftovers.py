"""Which results are no longer wanted, held against a few lines over a dict; and that nobody else's are among them."""

from __future__ import annotations

import tempfile
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings, strategies as st
from lotdb import BaseNode
from recording import PLACES, Path, Source, contents, database, target_at
from trees import unsaved

import lotproc as lp
from lotproc import _marked
from lotproc._fast import FAST
from lotproc.zodb.chains import ChainReader
from lotproc.zodb.children import ChildReader

keys = st.sampled_from(["a", "b", "_p", "f"])
paths = st.lists(keys, max_size=4).map(tuple)
#: Nodes with stamps, `None` for one without a version that has the other stamp; and without any.
results = st.dictionaries(paths.filter(bool), st.sampled_from(["v1", "v2", None, "no stamps"]), max_size=7)
policies = st.sampled_from([lp.inline("_p"), lp.inline("_p", "f"), lp.mirror("_p"), lp.fresh("_p", "f")])


def stamps(version: str | None) -> dict[str, Any]:
    if version == "no stamps":
        return {"other": 1}
    return {"_inputs": "0" * 32} if version is None else {"_version": version}


def expected(
    policy: Any, results: dict[Path, str | None], records: set[Path], failed: set[Path], version: str | None
) -> list[Path]:
    """What `obsolete` gives, naively."""
    stamped = {path: its for path, its in results.items() if its != "no stamps"}
    base, inline = policy.base_path, isinstance(policy, lp.InlineWritePolicy)
    candidates = set()
    for path, its in stamped.items():
        is_there = path[-len(base) :] == base if inline else path[: len(base)] == base
        source = path[: -len(base)] if inline else path[len(base) :]
        heads = {source[:depth] for depth in range(len(source) + 1)}
        has_source = source in records if inline else bool(heads & records)
        has_source = has_source or bool(heads & failed)
        is_above = inline and any(each[: len(path)] == path for each in records | failed)
        if is_there and not is_above and (not has_source or (version is not None and its != version)):
            candidates.add(path)
    return sorted(
        path
        for path in candidates
        if all(
            each in candidates or (inline and its == stamped[path])
            for each, its in stamped.items()
            if each[: len(path)] == path
        )
    )


@settings(deadline=None, max_examples=150)
@given(
    policy=policies,
    results=results,
    records=st.sets(paths, max_size=5),
    failed=st.sets(paths, max_size=1),
    version=st.sampled_from([None, "v1"]),
    place=st.sampled_from(PLACES),
)
@example(lp.inline("_p"), {("a", "_p"): "v1", ("a", "_p", "f"): "v2"}, set(), set(), None, "database")
@example(lp.inline("_p"), {("a", "_p"): "v1", ("a", "_p", "f"): "v1"}, set(), set(), None, "database")
@example(lp.mirror("_p"), {("_p", "a"): "v1", ("_p", "a", "b"): "v1"}, {("a", "b")}, set(), None, "database")
@example(lp.mirror("_p"), {("_p", "a", "b"): "v1"}, {("a",)}, set(), None, "memory")
@example(lp.inline("_p"), {("a", "_p"): "v1"}, {("a", "_p")}, set(), None, "database")
def test_what_is_obsolete_is_what_a_dict_says(
    policy: Any, results: Any, records: set[Path], failed: set[Path], version: str | None, place: str
) -> None:
    with database() as db, tempfile.TemporaryDirectory() as folder:
        target = target_at(place, db, folder)
        if isinstance(target, lp.Store):
            written = [lp.ProcessResult(path, 1, stamps(its)) for path, its in results.items()]
            lp.write(lp.mirror(), target, written)
        else:
            for path, its in results.items():
                for name, value in stamps(its).items():
                    target.gns(path).set_attribute(name, value)
        if place == "database":
            db.commit()
        sources = [
            *(lp.NodeRecord(path, path[-1] if path else "") for path in records - failed),
            *(lp.Failure(path, "ValueError", "it can't be read") for path in failed),
        ]
        sources.sort(key=lambda item: item.path or ())
        source = Source(sources)
        found = lp.obsolete(policy, target, version=version)(source)
        assert source.pulled == 0
        given = list(found)
        assert [item.path for item in given if isinstance(item, lp.NodeRecord)] == expected(
            policy, results, records, failed, version
        )
        assert {item.path for item in given if isinstance(item, lp.Failure)} == failed
        if place == "database":
            assert unsaved(target) == []
        before = set(target.paths() if isinstance(target, lp.Store) else contents(target))
        lp.delete(target, given)
        after = set(target.paths() if isinstance(target, lp.Store) else contents(target))
        gone = [item.path for item in given if isinstance(item, lp.NodeRecord)]
        assert after == {path for path in before if not any(path[: len(each)] == each for each in gone)}
        if isinstance(target, lp.Store):
            target.close()


@pytest.mark.parametrize("every", [None, 2])
def test_what_is_obsolete_is_deleted_while_it_is_found(every: int | None) -> None:
    with database() as db:
        root = db.open_connection()
        policy = lp.inline("_proc", "f0")
        clips = [(f"speaker_{n % 3}", f"clip_{n}") for n in range(30)]
        lp.write(policy, root, [lp.ProcessResult(path, 1) for path in clips], version="v1", commit_every=10)
        root.node_storage["speaker_1"].set_attribute("n", 1)  # so that live nodes are looked through, too
        db.commit()
        kept = lp.scan((), root, skip="_*", path="speaker_[02]/*")
        report = lp.delete(root, lp.obsolete(policy, root, kept), commit_every=every)
        assert (report.deleted, report.absent) == (10, 0)
        assert {path[0] for path in contents(root) if path[2:] == ("_proc", "f0")} == {"speaker_0", "speaker_2"}
        db.commit()
        rewritten = lp.obsolete(policy, root, lp.scan((), root, skip="_*"), version="v2")
        assert len(list(rewritten)) == 20


def test_a_part_of_a_tree_may_be_the_target_of_a_mirror() -> None:
    root = BaseNode("root")
    derived = root.gns(["x", "derived"])
    lp.write(lp.mirror("f"), derived, [lp.ProcessResult(("a",), 1), lp.ProcessResult(("b",), 1)], version="v")
    found = list(lp.obsolete(lp.mirror("f"), derived, [lp.NodeRecord(("a",), "a")]))
    assert [record.path for record in found] == [("x", "derived", "f", "b")]
    assert lp.delete(derived, found).deleted == 1
    assert list(lp.obsolete(lp.mirror("g"), derived, [])) == []


def test_what_can_not_be_told_from_other_jobs_results_is_refused() -> None:
    root = BaseNode("root")
    for policy in (lp.inline(), lp.mirror(), lp.fresh(), lambda result: result.path):
        with pytest.raises(lp.ArgumentError) as caught:
            lp.obsolete(policy, root, [])
        assert caught.value.expected
        assert caught.value.hint
    for version in ("", 3):
        with pytest.raises(lp.ArgumentError if version == "" else lp.ArgumentTypeError):
            lp.obsolete(lp.inline("_p"), root, [], version=version)  # type: ignore[call-overload]
    with pytest.raises(lp.ArgumentTypeError):
        lp.obsolete("_p", root, [])  # type: ignore[call-overload]
    with pytest.raises(lp.ArgumentTypeError):
        lp.obsolete(lp.inline("_p"), "root", [])  # type: ignore[call-overload]


def test_records_out_of_order_are_refused() -> None:
    root = BaseNode("root")
    lp.write(lp.inline("_p"), root, [lp.ProcessResult((key,), 1) for key in "ab"], version="v")
    with pytest.raises(lp.ArgumentError) as caught:
        list(lp.obsolete(lp.inline("_p"), root, [lp.NodeRecord(("b",), "b"), lp.NodeRecord(("a",), "a")]))
    assert caught.value.path == ("a",)


@pytest.mark.parametrize("in_bulk", [True, False])
@pytest.mark.parametrize("base", [("_p",), ("_p", "f"), ("_p", "x", "f")])
def test_results_that_are_alone_are_read_together_and_the_same(base: Path, in_bulk: bool) -> None:
    with database() as db:
        root = db.open_connection()
        policy = lp.inline(*base)
        clips = [(f"speaker_{n % 3}", f"clip_{n:03}") for n in range(200)]
        results = [lp.ProcessResult(path, n) for n, path in enumerate(clips) if n % 7]
        lp.write(policy, root, results, version="v1", commit_every=50 if in_bulk else None)
        db.commit()
        for n, path in enumerate(clips):
            if n % 11 == 0:
                root.gns([*path, "_p", "beside"])
            if n % 13 == 0:
                root.gns([*path, *base, "below"]).set_attribute("_version", "v2" if n % 2 else "v1")
            if n % 17 == 0:
                root.gns([*path, *base]).delete_attribute("_version")
            if n % 19 == 0:
                root.gns([*path, "own"]).set_attribute("_version", "v1")
        for deep in (("_p", "f", *base), ("_p", *base), (*base, *base)):
            root.gns(["deep", *deep]).set_attribute("_version", "v1")
        db.commit()
        marked = _marked.marked_by("obsolete", policy, root)
        found, close = _marked.stamped("obsolete", root, marked)
        together = list(found)
        close()
        with patch.object(ChainReader, "leaves", lambda *args: {}):
            found, close = _marked.stamped("obsolete", root, marked)
            assert list(found) == together
            close()
        root.set_attribute("n", 1)  # so that live nodes are gone through
        assert list(_marked.stamped("obsolete", root, marked)[0]) == together
        db.abort()
        with patch.object(ChildReader, "begin", autospec=True, side_effect=ChildReader.begin) as listed:
            found, close = _marked.stamped("obsolete", root, marked)
            assert len(list(found)) == len(together)
            close()
        assert listed.call_count < 200 or not FAST  # more than that would be all clips, and what is below them
