"""How far a job is, held against a few lines over dicts, and against what `pending` and `obsolete` give."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import LOTDB, BaseNode
from recording import PLACES, Path, database, target_at

import lotproc as lp
from lotproc._stamps import inputs_stamp

SPEAKERS, CLIPS = ["ann", "bob", "<c&d>"], ["1", "2", "_p"]
paths = st.tuples(st.sampled_from(SPEAKERS), st.sampled_from(CLIPS[:2]))
#: What is known of the result of each: its version, and the number that it was made from, if it says so.
results = st.dictionaries(
    paths, st.tuples(st.sampled_from(["v1", "v2", None]), st.sampled_from([0, 1, None])), max_size=6
)
records = st.dictionaries(paths, st.integers(0, 1), max_size=6)
policies = st.sampled_from([lp.inline("_p"), lp.mirror("_p", "f"), lp.inline(), lambda result: ("out", *result.path)])


def expected(results: dict[Path, Any], n: int, path: Path, failed: set[Path], version: str | None, inputs: bool) -> str:
    """What the record at a path counts as, naively."""
    reason = "done"
    if path not in results:
        reason = "new"
    elif version is not None and results[path][0] != version:
        reason = "other_version"
    elif inputs and results[path][1] is None:
        reason = "unstamped"
    elif inputs and results[path][1] != n:
        reason = "other_inputs"
    return "failed" if reason != "done" and path in failed else reason


def as_counts(status: lp.Status) -> Counter[str]:
    states = ("done", "new", "other_version", "other_inputs", "unstamped", "failed")
    return Counter({state: count for state in states if (count := getattr(status, state))})


@settings(deadline=None, max_examples=80)
@given(
    policy=policies,
    results=results,
    records=records,
    failed=st.sets(paths, max_size=2),
    unread=st.sets(st.sampled_from(["zoe", "zora"]), max_size=2),
    version=st.sampled_from([None, "v1"]),
    inputs=st.booleans(),
    by=st.sampled_from([None, 1, 2, 5]),
    place=st.sampled_from(PLACES),
)
def test_it_counts_what_pending_and_obsolete_give(
    policy: Any,
    results: dict[Path, Any],
    records: dict[Path, int],
    failed: set[Path],
    unread: set[str],
    version: str | None,
    inputs: bool,
    by: int | None,
    place: str,
) -> None:
    with database() as db, tempfile.TemporaryDirectory() as folder:
        target = target_at(place, db, folder)
        for its_version in ("v1", "v2", None):
            written = [
                lp.ProcessResult(path, 1, inputs=None if n is None else inputs_stamp("test", path, {"n": n}))
                for path, (its, n) in results.items()
                if its == its_version
            ]
            lp.write(policy, target, written, version=its_version)
        if place == "database":
            db.commit()
        ledger = pathlib.Path(folder, "ledger.jsonl")
        lp.write(lp.mirror(), BaseNode("other"), [lp.Failure(path, "E", "") for path in failed], ledger=ledger)
        items: list[Any] = [lp.NodeRecord(path, path[-1], {"n": n}) for path, n in sorted(records.items())]
        items += [lp.Failure((key,), "ValueError", "it can't be read") for key in sorted(unread)]

        options: Any = {"version": version, "inputs": inputs}
        status = lp.status(policy, target, items, ledger=ledger, by=by, **options)
        states = {path: expected(results, n, path, failed, version, inputs) for path, n in records.items()}
        states |= {(key,): "failed" for key in unread}
        assert as_counts(status) == Counter(states.values())
        assert status.records == len(items)

        assert len(list(lp.pending(policy, target, items, **options))) == len(items) - status.done
        left = lp.pending(policy, target, items, ledger=ledger, failed="skip", **options)
        assert len(list(left)) == len(items) - status.done - (status.failed - len(unread))

        parts: dict[Path, Counter[str]] = {}
        for path, state in states.items():
            parts.setdefault(path[:by], Counter())[state] += 1
        if getattr(policy, "base_path", ()):
            gone = [path for path, stamps in results.items() if stamps != (None, None) and path not in records]
            gone = [path for path in gone if path[0] not in unread]
            assert status.obsolete == len(gone) == len(list(lp.obsolete(policy, target, [*items[: len(records)]])))
            for path in gone:
                parts.setdefault(path[:by], Counter())
        else:
            assert status.obsolete is None
        assert {path: as_counts(part) for path, part in status.parts.items()} == (parts if by else {})
        assert list(status.parts) == sorted(status.parts)
        if isinstance(target, lp.Store):
            target.close()


WORKING = """
import sys
from lotdb import LOTDB
import lotproc as lp

def told():
    for line in sys.stdin:
        yield lp.ProcessResult(tuple(line.split()), 1)
        print("taken", flush=True)

db = LOTDB(path=sys.argv[1], name="test.fs")
lp.write(lp.inline("_proc"), db.open_connection(), told(), version="v1", commit_every=2)
db.close()
"""


def test_a_second_program_looks_while_the_first_one_works(tmp_path: pathlib.Path) -> None:
    db = LOTDB(path=str(tmp_path), name="test.fs", new=True)
    root = db.open_connection()
    for n in range(5):
        root.gns(["ann", f"clip_{n}"])
    db.commit()
    db.close()
    command = [sys.executable, "-c", WORKING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for n in range(4):
            program.stdin.write(f"ann clip_{n}\n")
            program.stdin.flush()
            assert program.stdout.readline() == "taken\n"
            looking = LOTDB(path=str(tmp_path), name="test.fs", read_only=True)
            try:
                root = looking.open_connection()
                status = lp.status(lp.inline("_proc"), root, lp.scan((), root, skip="_*"), version="v1")
                done = (n + 1) // 2 * 2  # two at a time are committed
                assert (status.done, status.new, status.obsolete) == (done, 5 - done, 0)
            finally:
                looking.close()
        program.stdin.close()
        assert program.wait() == 0


def test_it_shows_itself_as_a_table() -> None:
    parts = {(f"speaker_{n:02}",): lp.Status(done=n, failed=1, obsolete=0) for n in range(25)}
    parts[("<b>",)] = lp.Status(new=1200, obsolete=3)
    whole = lp.Status(done=300, new=1200, failed=25, obsolete=3, parts=dict(sorted(parts.items())))
    lines = str(whole).splitlines()
    assert lines[0].split() == ["records", "done", "new", "failed", "obsolete"]
    assert lines[1].split() == ["in", "all", "1,525", "300", "1,200", "25", "3"]
    assert lines[2].split() == ["<b>", "1,200", "0", "1,200", "0", "3"]
    assert len(lines) == 2 + 20 + 1
    assert lines[-1].split() == ["…", "6", "more"]
    shown = whole._repr_html_()
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown
    assert shown.count("<tr>") == 1 + 1 + 20
    assert repr(lp.Status(obsolete=None)).split() == ["records", "done", "in", "all", "0", "0"]


@pytest.mark.parametrize(
    "options", [{"by": 0}, {"by": "speaker"}, {"version": ""}, {"inputs": 1}, {"ledger": "no/such/folder/run.jsonl"}]
)
def test_what_can_not_be_counted_is_refused_at_once(options: Any) -> None:
    with pytest.raises(lp.LotprocError):
        lp.status(lp.inline("_p"), BaseNode("root"), **options)


def test_records_that_are_not_in_order_are_refused_where_what_is_left_over_is_told() -> None:
    items = [lp.NodeRecord(("b",), "b"), lp.NodeRecord(("a",), "a")]
    with pytest.raises(lp.ArgumentError) as caught:
        lp.status(lp.inline("_p"), BaseNode("root"), items)
    assert caught.value.path == ("a",)
    assert lp.status(lp.inline(), BaseNode("root"), items).records == 2
