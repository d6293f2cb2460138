"""Whole runs, from a tree to the tree, as people have them: in a script, twice, on big trees, on every executor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode
from recording import committed, contents, database, examples, in_bytes, plant
from toolz import compose_left, pipe

import lotproc as lp

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import multiprocessing
import os
import sys

from lotdb import LOTDB
from toolz import pipe

import lotproc as lp

OFFSET = 10


class Doubler:  # defined in the script, as are the functions below
    def __call__(self, seconds):
        return 2 * seconds + OFFSET


def features(record):
    return lp.ProcessResult(record.path, Doubler()(record.attributes["seconds"]), {"pid": os.getpid()})


def nested(records):
    for record in records:
        yield (features(record) for _ in range(2))


def run(root, processor):
    return pipe(
        root,
        lp.leaves(skip="_*"),
        lp.match_key("^clip_"),
        lp.snapshot("seconds"),
        lp.chunked(3),
        lp.parallel_map(processor, max_workers=2),
        lp.write(lp.inline("_proc", "double"), root, commit_every=4),
    )


if __name__ == "__main__":
    db = LOTDB(path=sys.argv[1], name="corpus.fs", new=True)
    root = db.open_connection()
    for speaker in "ab":
        for clip in range(5):
            root.gns([speaker, f"clip_{clip}"]).set_attribute("seconds", clip)
        root.gns([speaker, "notes"])
    db.commit()
    print(run(root, lp.each(features)))
    print(run(root, nested))
    print(run(root, lambda records: map(features, records)))
    look = db.open_connection(connection_id="look")
    found = [node.get_attribute("result") for node in lp.glob("**/_proc/double", look)]
    pids = {node.get_attribute("pid") for node in lp.glob("**/_proc/double", look)}
    print(found, os.getpid() in pids)
    print([node.key for node in lp.leaves(look, skip="_*")].count("notes"))
    db.close()
    with open(sys.argv[2], "w") as file:
        print(*(process.pid for process in multiprocessing.active_children()), *pids, file=file)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_script_on_processes_runs_quietly_and_leaves_no_process(tmp_path: Path) -> None:
    script, pids = tmp_path / "script.py", tmp_path / "pids.txt"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(tmp_path / "data"), str(pids)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    expected = [
        "10 results written, 2 commits",
        "20 results written, 4 commits",
        "10 results written, 2 commits",
        f"{[10, 12, 14, 16, 18] * 2} False",
        "2",
    ]
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, expected, "")
    workers = {int(pid) for pid in pids.read_text(encoding="utf-8").split()}
    assert workers
    assert [pid for pid in workers if alive(pid)] == []


UNFINISHED = """
import lotproc as lp

if __name__ == "__main__":
    results = lp.parallel_map(sum, ([number] for number in range(100)), mode={mode!r}, max_workers=2)
    print(next(results))
"""


@pytest.mark.parametrize("mode", ["sync", "thread", "process"])
def test_a_script_that_ends_halfway_ends_quietly(tmp_path: Path, mode: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNFINISHED.format(mode=mode), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def double(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, 2 * record.attributes["x"], {"key": record.key})


keys = st.sampled_from(["a", "b", "c", "_d"])
trees = st.dictionaries(
    st.lists(keys, min_size=1, max_size=4).map(tuple),
    st.fixed_dictionaries({"x": st.integers(0, 99)}),
    max_size=8,
)


def whole(tree: Any) -> Any:
    """The tree with all inner nodes, each with an x."""
    full = {path[:depth]: {"x": 0} for path in tree for depth in range(len(path) + 1)} or {(): {"x": 0}}
    return {**full, **tree}


def leaf_paths(tree: Any) -> list[Any]:
    """Leaves of a dict tree, sorted, for which branches that start with _ do not exist."""
    seen = [path for path in tree if not any(key.startswith("_") for key in path)]
    return sorted(path for path in seen if not any(other[: len(path)] == path != other for other in seen))


@settings(max_examples=examples(60))
@given(
    tree=trees,
    size=st.integers(1, 4),
    commit_every=st.none() | st.integers(1, 4),
    mode=st.sampled_from(["sync", "thread", "process"]),
    persistent=st.booleans(),
    ordered=st.booleans(),
)
def test_an_inline_pipeline_writes_below_each_leaf_once_and_again_the_same(
    tree: Any, size: int, commit_every: int | None, mode: str, persistent: bool, ordered: bool
) -> None:
    tree = whole(tree)
    with database() as db:
        root = db.open_connection() if persistent else BaseNode("root")
        plant(root, tree)
        run = compose_left(
            lp.leaves(skip="_*"),
            lp.snapshot("x"),
            lp.chunked(size),
            lp.parallel_map(lp.each(double), mode=mode, max_workers=2, ordered=ordered),
            lp.write(lp.inline("_proc"), root, commit_every=commit_every if persistent else None),
        )
        paths = leaf_paths(tree)
        expected = dict(tree)
        for path in paths:
            key = path[-1] if path else root.key
            expected[(*path, "_proc")] = {"result": 2 * tree[path]["x"], "key": key}
        reports, states = [], []
        for _ in range(2):
            reports.append(run(root))
            if persistent:
                db.commit()
            states.append(committed(db) if persistent else contents(root))
        assert reports[0].written == reports[1].written == len(paths)
        assert states[0] == expected
        assert in_bytes(states[0]) == in_bytes(states[1])


def test_planning_a_whole_pipeline_shows_what_writing_it_would_do_and_changes_nothing() -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, {("ann", f"clip_{i}"): {"x": i} for i in range(5)})
        db.commit()
        results = compose_left(
            lp.leaves(), lp.snapshot("x"), lp.chunked(2), lp.parallel_map(lp.each(double), mode="sync")
        )
        planned = list(lp.plan(lp.inline("_proc"), results(root)))
        assert root._p_jar._registered_objects == []
        assert lp.write(lp.inline("_proc"), root, results(root)).written == len(planned) == 5
        after = contents(root)
        assert [after[write.path] for write in planned] == [write.attributes for write in planned]


def test_a_long_pipeline_holds_few_batches_and_nothing_pending() -> None:
    count, size = 4_000, 50
    pulled = written = 0
    most = waiting = 0
    with database(cache_size=100) as db:
        root = db.open_connection()
        plant(root, {(f"s{i % 5}", f"clip_{i:04}"): {"x": i} for i in range(count)})
        db.commit()

        def counted(nodes: Iterator[Any]) -> Iterator[Any]:
            nonlocal pulled
            for node in nodes:
                pulled += 1
                yield node

        def noted(batches: Iterator[Any]) -> Iterator[Any]:
            nonlocal written, most, waiting
            for batch in batches:
                most = max(most, pulled - written)
                waiting = max(waiting, len(root._p_jar._registered_objects))
                yield batch
                written += len(batch)

        report = pipe(
            root,
            lp.leaves(skip="_*"),
            counted,
            lp.snapshot("x"),
            lp.chunked(size),
            lp.parallel_map(lp.each(double), mode="thread", max_workers=2, buffersize=3),
            noted,
            lp.write(lp.inline("_proc"), root, commit_every=200),
        )
        assert (report.written, report.commits) == (count, count // 200)
        assert most <= 3 * size
        assert waiting == 0  # what is to be written waits as records, not as changed nodes
        assert len(committed(db)) == 1 + 5 + 2 * count


def test_a_run_that_was_interrupted_keeps_whole_batches_and_a_second_run_completes_it() -> None:
    with database() as db:
        root = db.open_connection()
        clips = [("ann", f"clip_{i}") for i in range(10)]
        plant(root, {path: {"x": i} for i, path in enumerate(clips)})
        db.commit()
        before = committed(db)
        broken = True

        def work(record: lp.NodeRecord) -> lp.ProcessResult:
            if broken and record.key == "clip_7":
                raise OSError("unreadable")
            return double(record)

        def run() -> lp.WriteReport:
            records = lp.chunked(2, lp.snapshot("x", lp.leaves(root, skip="_*")))
            results = lp.parallel_map(lp.each(work), records, mode="thread", max_workers=2)
            return lp.write(lp.inline("_proc"), root, results, commit_every=2, if_exists="skip")

        with pytest.raises(OSError, match="unreadable") as raised:
            run()
        assert raised.value.__notes__ == [
            "lotproc: at ann/clip_7, record 1 of its batch",
            "lotproc: in batch 3, ann/clip_6 to ann/clip_7",
            "lotproc: before this, 6 results in 3 commits went into the database, and stay; the rest was undone",
        ]
        done = committed(db)
        assert contents(root) == done
        assert set(done) - set(before) == {(*path, "_proc") for path in clips[:6]}
        broken = False
        report = run()
        assert (report.written, report.skipped) == (4, 6)
        assert set(committed(db)) - set(before) == {(*path, "_proc") for path in clips}


def test_several_sinks_may_follow_one_another_from_the_same_beginning() -> None:
    root, other = BaseNode("root"), BaseNode("other")
    plant(root, {("ann", f"clip_{i}"): {"x": i} for i in range(3)})
    beginning = compose_left(
        lp.leaves(skip="_*"), lp.snapshot("x"), lp.chunked(2), lp.parallel_map(lp.each(double), mode="sync")
    )
    lp.write(lp.inline("_proc"), root, beginning(root))
    lp.write(lp.fresh("run_1"), other, beginning(root))
    inline, fresh = contents(root), contents(other)
    for i in range(3):
        assert inline[("ann", f"clip_{i}", "_proc")] == fresh[("run_1", "ann", f"clip_{i}")]
