"""Runs that stop and go on: what is stamped, reported, kept in the ledger, and done again."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from lotdb import LOTDB, BaseNode
from recording import committed, contents, database, examples, plant
from toolz import compose_left, pipe
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError, ReadOnlyError
from ZODB.scripts import fstest

import lotproc as lp
from lotproc._interrupts import uninterrupted
from lotproc.writing import conflicts as _conflicts, transactions as _transactions

RESULT = ("_proc", "double")
TO = lp.inline(*RESULT)


def doubled(record: lp.NodeRecord) -> lp.ProcessResult:
    n = record.attributes["n"]
    if n is None or n < 0:
        raise ValueError(f"n is {n}")
    return lp.ProcessResult(record.path, output=2 * n)


def lines(ledger: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ledger.read_text().splitlines()]


def names(number: int) -> str:
    return f"clip_{number}"


# A machine that runs, crashes, changes and resumes


class Crash(BaseException):
    """The end of the program, as far as a `write` can tell."""


class Runs(RuleBasedStateMachine):
    """A tree whose results are made in runs that may be cut short, against a dict of what has to be there."""

    @initialize(count=st.integers(1, 12), bad=st.sets(st.integers(0, 11), max_size=3))
    def plant(self, count: int, bad: set[int]) -> None:
        self.opened = database()
        self.db = self.opened.__enter__()
        self.ledger = pathlib.Path(self.db.path, "ledger.jsonl")
        self.root = self.db.open_connection()
        self.inputs = {names(n): -1 if n in bad else n for n in range(count)}
        for key, n in self.inputs.items():
            self.root.gn(key).set_attribute("n", n)
        self.db.commit()
        self.results: dict[str, dict[str, Any]] = {}  # what is committed below each leaf
        self.failed: set[str] = set()
        self.digests: dict[str, int] = {}  # the input that the result of each leaf was made from

    def teardown(self) -> None:
        if hasattr(self, "opened"):
            self.opened.__exit__(None, None, None)

    @rule(n=st.integers(-1, 40), data=st.data())
    def change_an_input(self, n: int, data: Any) -> None:
        key = data.draw(st.sampled_from(sorted(self.inputs)))
        self.inputs[key] = n
        self.root.gn(key).set_attribute("n", n)
        self.db.commit()

    @rule(
        version=st.sampled_from(["v1", "v2"]),
        inputs=st.booleans(),
        plane=st.sampled_from(["scan", "live"]),
        mode=st.sampled_from(["sync", "thread"]),
        size=st.integers(1, 5),
        every=st.integers(1, 6),
        crash=st.none() | st.integers(0, 12),
    )
    def run(self, version: str, inputs: bool, plane: str, mode: Any, size: int, every: int, crash: int | None) -> None:
        """Process what is pending; after some records the program ends."""
        todo = [key for key in sorted(self.inputs) if not self._is_done(key, version, inputs)]
        if plane == "scan":
            records = lp.scan("n", self.root, skip="_*")
        else:
            records = lp.snapshot("n", lp.leaves(self.root, skip="_*"))
        records = lp.pending(TO, self.root, records, version=version, inputs=inputs)
        self._run(records, todo, version, inputs=inputs, mode=mode, size=size, every=every, crash=crash)

    @precondition(lambda self: self.ledger.exists())
    @rule(version=st.sampled_from(["v1", "v2"]), size=st.integers(1, 5), every=st.integers(1, 6))
    def retry(self, version: str, size: int, every: int) -> None:
        assert [node.key for node in lp.retry_failed(self.ledger, self.root)] == sorted(self.failed)
        records = pipe(self.root, lp.retry_failed(self.ledger), lp.snapshot("n"))
        self._run(records, sorted(self.failed), version, size=size, every=every)

    def _run(
        self,
        records: Any,
        todo: list[str],
        version: str,
        *,
        inputs: bool = False,
        mode: Any = "sync",
        size: int,
        every: int,
        crash: int | None = None,
    ) -> None:
        seen: list[str] = []

        def source() -> Iterator[lp.NodeRecord]:
            for record in records:
                if crash is not None and len(seen) == crash:
                    raise Crash
                seen.append(record.key)
                yield record

        results = lp.parallel_map(
            lp.each(doubled), lp.chunked(size, source()), mode=mode, max_workers=1, buffersize=1, on_error="collect"
        )
        try:
            report = lp.write(TO, self.root, results, commit_every=every, version=version, ledger=self.ledger)
        except Crash as error:
            report = error.report  # type: ignore[attr-defined]
            assert seen == todo[:crash]
        else:
            assert seen == todo
        done = seen[: len(seen) // size * size] if len(seen) < len(todo) else seen
        failures = [key for key in done if self.inputs[key] < 0]
        assert [failure.path for failure in report.failures] == [(key,) for key in failures]
        good = [key for key in done if self.inputs[key] >= 0]
        written, waiting = [], []
        for start in range(0, len(done), size):  # commits come after whole batches
            waiting += [key for key in done[start : start + size] if key in good]
            if len(waiting) >= every:
                written, waiting = [*written, *waiting], []
        if (len(seen) == len(todo) and crash is None) or report.written == len(good):
            written = good
        assert (report.written, report.failed) == (len(written), len(failures))
        for key in written:
            stamps = {"_version": version, **({"_inputs": ...} if inputs else {})}
            self.results[key] = {"result": 2 * self.inputs[key], **stamps}
            self.digests.pop(key, None)
            if inputs:
                self.digests[key] = self.inputs[key]
        self.failed = (self.failed | set(failures)) - set(written)
        self._check()

    def _is_done(self, key: str, version: str, inputs: bool) -> bool:
        result = self.results.get(key)
        return (
            result is not None
            and result["_version"] == version
            and (not inputs or self.digests.get(key) == self.inputs[key])
        )

    def _check(self) -> None:
        tree = committed(self.db)
        assert contents(self.root) == tree
        found = {path[0]: dict(values) for path, values in tree.items() if path[1:] == RESULT}
        for values in found.values():
            if "_inputs" in values:
                values["_inputs"] = ...
        assert found == self.results
        told = {tuple(line["path"]) for line in lines(self.ledger) if line["event"] == "failure"}
        assert told >= {(key,) for key in self.failed}
        assert [node.key for node in lp.retry_failed(self.ledger, self.root)] == sorted(self.failed)


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=examples(40), stateful_step_count=12)


# Stamps


@pytest.mark.parametrize("commit_every", [None, 5])
def test_what_is_written_is_stamped_and_stale_stamps_go(commit_every: int | None) -> None:
    with database() as db:
        root = db.open_connection()
        for number in range(3):
            root.gn(names(number)).set_attribute("n", number)
        db.commit()

        def run(**options: Any) -> dict[str, Any]:
            records = lp.snapshot("n", lp.leaves(root, skip="_*"))
            if options.pop("inputs", False):
                records = lp.pending(TO, root, records, inputs=True)
            results = lp.parallel_map(lp.each(doubled), lp.chunked(2, records), mode="sync")
            lp.write(TO, root, results, commit_every=commit_every, **options)
            return contents(root)[("clip_1", *RESULT)]

        assert run() == {"result": 2}
        assert run(version="v1") == {"result": 2, "_version": "v1"}
        stamped = run(version="v2", inputs=True)
        assert stamped.keys() == {"result", "_version", "_inputs"}
        root.gn("clip_1").set_attribute("n", 5)
        db.commit()
        other = run(version="v2", inputs=True)
        assert (other["result"], other["_version"]) == (10, "v2")
        assert other["_inputs"] != stamped["_inputs"]
        assert run(version="v3") == {"result": 10, "_version": "v3"}
        assert run(if_exists="replace") == {"result": 10}


def test_a_plan_shows_the_stamps() -> None:
    results = [lp.ProcessResult(("a",), 1, inputs="12ab")]
    (planned,) = lp.plan(TO, results, version="v1")
    assert planned.attributes == {"result": 1, "_version": "v1", "_inputs": "12ab"}
    assert [planned.path for planned in lp.plan(TO, [[lp.Failure(("b",), "E", "m")], results])] == [("a", *RESULT)]


@pytest.mark.parametrize("mode", ["sync", "thread", "process"])
@pytest.mark.parametrize("processor", ["each", "nested"])
def test_the_inputs_of_records_reach_their_results(mode: Any, processor: str) -> None:
    def nested(batch: list[lp.NodeRecord]) -> Any:
        return (
            [[doubled(record)], (lp.ProcessResult(record.path, relative_path=("b",)) for _ in "1")] for record in batch
        )

    records = [lp.NodeRecord((names(n),), names(n), {"n": n}, inputs=f"{n:032}") for n in range(4)]
    fn = nested if processor == "nested" else lp.each(doubled)
    writes = list(lp.plan(lp.mirror(), lp.parallel_map(fn, lp.chunked(3, records), mode=mode, max_workers=1)))
    assert len(writes) == (8 if processor == "nested" else 4)
    assert all(write.attributes["_inputs"] == f"{int(write.path[0][5:]):032}" for write in writes)


@pytest.mark.parametrize("way", ["plain map", "single records", "a deque", "partitions"])
def test_the_inputs_of_records_reach_their_results_in_every_way_to_process_them(way: str) -> None:
    with database() as db:
        root = db.open_connection()
        for n in range(4):
            root.gn(names(n)).set_attribute("n", n)
        db.commit()
        runs = []
        for _ in range(2):
            records = lp.pending(TO, root, lp.scan("n", root, skip="_*"), version="v1", inputs=True)
            if way == "plain map":
                results: Any = map(doubled_each, lp.chunked(2, records))
            elif way == "single records":
                results = lp.parallel_map(doubled, records, mode="sync")
            elif way == "a deque":
                results = lp.parallel_map(
                    lambda batch: deque(map(doubled, batch)), lp.chunked(3, records), mode="process", max_workers=1
                )
            else:
                (part,) = lp.partitions(1, root)
                todo = lp.pending(TO, part, version="v1", inputs=True)
                work = compose_left(lp.scan("n", skip="_*"), todo, lp.each(doubled))
                results = lp.parallel_map(work, [part], max_workers=1)
            runs.append(lp.write(TO, root, results, commit_every=9, version="v1").written)
    assert runs == [4, 0]


doubled_each = lp.each(doubled)


# Reports and ledgers


@pytest.mark.parametrize("commit_every", [None, 3, 100])
@pytest.mark.parametrize("persistent", [True, False])
def test_failures_are_counted_and_kept_and_stop_nothing(
    commit_every: int | None, persistent: bool, tmp_path: pathlib.Path
) -> None:
    with database() as db:
        root = db.open_connection() if persistent else BaseNode("root")
        if not persistent:
            commit_every = None
        failures = [lp.Failure((names(n),), "ValueError" if n % 3 else "OSError", f"no {n}") for n in range(1200)]
        stream = [[lp.ProcessResult((names(n),), n), failures[n]] for n in range(1200)]
        ledger = tmp_path / "ledger.jsonl"
        report = lp.write(lp.mirror(), root, stream, commit_every=commit_every, ledger=ledger)
    assert (report.written, report.failed, len(report.failures)) == (1200, 1200, 1000)
    assert report.failures == tuple(failures[:1000])
    assert report.errors == {"OSError": 400, "ValueError": 800}
    found = lines(ledger)
    commits = [line for line in found if line["event"] == "commit"]
    assert [line["path"] for line in found if line["event"] == "failure"] == [[names(n)] for n in range(1200)]
    assert report.commits == (0 if commit_every is None else -(-1200 // commit_every))
    assert len(commits) == (report.commits if persistent else 1)  # what is applied in memory stays
    assert len(found) == 1200 + len(commits)
    if commits:
        assert sum(line["written"] for line in commits) == 1200
        assert sum(line["failed"] for line in commits) == 1200
        assert commits[-1]["last_path"] == [names(1199)]
        assert sum(line["seconds"] for line in commits) <= report.seconds + len(commits) * 0.0005  # each is rounded


def test_a_report_tells_the_time_of_waiting_from_that_of_writing() -> None:
    held, root = threading.Event(), BaseNode("root")

    def work(batch: list[int]) -> list[lp.ProcessResult]:
        held.wait()
        return [lp.ProcessResult((names(batch[0]),), 1)]

    releasing = threading.Timer(0.2, held.set)
    releasing.start()
    report = lp.write(lp.mirror(), root, lp.parallel_map(work, [[1], [2]], mode="thread"))
    releasing.join()
    assert 0 < report.writing < report.waiting < report.seconds
    assert report == lp.WriteReport(2, 0, 0, (names(2),))


@pytest.mark.parametrize("commit_every", [None, 2])
def test_an_error_carries_the_report_of_what_stays(commit_every: int | None, tmp_path: pathlib.Path) -> None:
    def stream() -> Iterator[list[Any]]:
        yield [lp.ProcessResult(("a",), 1), lp.ProcessResult(("b",), 2)]
        yield [lp.ProcessResult(("c",), 3), lp.Failure(("d",), "ValueError", "bad")]
        raise OSError("the source is gone")

    with database() as db:
        root = db.open_connection()
        with pytest.raises(OSError, match="the source is gone") as raised:
            lp.write(lp.mirror(), root, stream(), commit_every=commit_every, ledger=tmp_path / "ledger.jsonl")
        assert contents(root) == committed(db)
        report = raised.value.report  # type: ignore[attr-defined]
    failure = lp.Failure(("d",), "ValueError", "bad")
    if commit_every is None:
        assert report == lp.WriteReport(failed=1, failures=(failure,), errors={"ValueError": 1})
        assert not hasattr(raised.value, "__notes__")
    else:
        assert report == lp.WriteReport(2, 0, 1, ("b",), 1, (failure,), {"ValueError": 1})
        assert raised.value.__notes__ == [
            "lotproc: before this, 2 results in 1 commit went into the database, and stay; the rest was undone"
        ]
    assert [line["event"] for line in lines(tmp_path / "ledger.jsonl")] == ["commit"] * bool(commit_every) + ["failure"]


def test_a_failure_that_gets_a_result_later_is_no_failure_any_more(tmp_path: pathlib.Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    with database() as db:
        root = db.open_connection()
        plant(root, {("a",): {"n": 1}, ("b",): {"n": -1}, ("c",): {"n": None}})
        db.commit()

        def run(source: Any) -> lp.WriteReport:
            return pipe(
                source,
                lp.snapshot("n"),
                lp.chunked(1),
                lp.parallel_map(lp.each(doubled), mode="sync", on_error="collect"),
                lp.write(TO, root, commit_every=1, version="v1", ledger=ledger),
            )

        assert run(lp.leaves(root, skip="_*")).failed == 2
        assert [node.key for node in lp.retry_failed(ledger, root)] == ["b", "c"]
        root.gn("b").set_attribute("n", 4)
        db.commit()
        report = run(lp.retry_failed(ledger, root))
        assert (report.written, report.failed) == (1, 1)
        assert [node.key for node in lp.retry_failed(ledger, root)] == ["c"]
        root.gn("c").set_attribute("n", 5)
        db.commit()
        assert run(lp.retry_failed(ledger, root)).written == 1
        assert list(lp.retry_failed(ledger, root)) == []


@settings(max_examples=examples(60))
@given(
    before=st.sets(st.sampled_from("abc")),
    batches=st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=4), max_size=5),
    every=st.integers(1, 5),
    ends=st.booleans(),
)
def test_the_last_word_on_a_record_counts(
    before: set[str], batches: list[list[tuple[str, bool]]], every: int, ends: bool
) -> None:
    """Failures count when they are told, results when they are committed, each in its turn."""

    def source() -> Iterator[list[Any]]:
        for batch in batches:
            yield [lp.ProcessResult((key,), 1) if good else lp.Failure((key,), "E", "") for key, good in batch]
        if not ends:
            raise OSError("gone")

    with database() as db:
        root, ledger = db.open_connection(), pathlib.Path(db.path, "ledger.jsonl")
        plant(root, {(key,): {} for key in "abc"})
        db.commit()
        lp.write(lp.mirror(), root, [lp.Failure((key,), "E", "") for key in sorted(before)], ledger=ledger)
        failed, made_good, waiting = set(before), set(), 0
        for batch in batches:
            for key, good in batch:
                if good:
                    made_good.add(key)
                else:
                    failed.add(key)
                    made_good.discard(key)
            waiting += sum(good for _, good in batch)
            if waiting >= every:
                failed, made_good, waiting = failed - made_good, set(), 0
        if ends:
            failed -= made_good
        try:
            lp.write(lp.mirror("out"), root, source(), commit_every=every, ledger=ledger)
        except OSError:
            assert not ends
        assert [node.key for node in lp.retry_failed(ledger, root)] == sorted(failed)


def test_in_memory_a_failure_is_made_good_without_a_commit(tmp_path: pathlib.Path) -> None:
    root, ledger = BaseNode("root"), tmp_path / "ledger.jsonl"
    root.gn("a")
    lp.write(TO, root, [lp.Failure(("a",), "ValueError", "bad")], ledger=ledger)
    assert [node.key for node in lp.retry_failed(ledger, root)] == ["a"]
    lp.write(TO, root, [lp.ProcessResult(("a",), 1)], ledger=ledger)
    assert list(lp.retry_failed(ledger, root)) == []


def test_a_failure_is_made_good_by_a_result_that_was_there(tmp_path: pathlib.Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    with database() as db:
        root = db.open_connection()
        lp.write(TO, root, [lp.ProcessResult(("a",), 1), lp.Failure(("a",), "E", "")], commit_every=1, ledger=ledger)
        assert [node.key for node in lp.retry_failed(ledger, root)] == ["a"]
        report = lp.write(TO, root, [lp.ProcessResult(("a",), 1)], commit_every=1, if_exists="skip", ledger=ledger)
        assert (report.written, report.skipped) == (0, 1)
        assert list(lp.retry_failed(ledger, root)) == []


@pytest.mark.parametrize("commit_every", [None, 1])
def test_with_a_version_what_has_another_one_is_not_skipped(commit_every: int | None) -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, {("a", *RESULT): {"result": 0, "_version": "v1"}, ("b", *RESULT): {"result": 0, "_version": "v2"}})
        db.commit()
        results = [[lp.ProcessResult((key,), 5)] for key in "abc"]
        report = lp.write(TO, root, results, if_exists="skip", version="v2", commit_every=commit_every)
        assert (report.written, report.skipped) == (2, 1)
        found = {path[0]: values["result"] for path, values in contents(root).items() if path[1:] == RESULT}
        assert found == {"a": 5, "b": 0, "c": 5}


# Conflicts


@settings(max_examples=examples(30))
@given(batches=st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3), max_size=6), every=st.integers(1, 4))
def test_results_that_others_are_in_the_way_of_are_applied_again(batches: list[list[str]], every: int) -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, {("a",): {"x": 0}, ("b",): {"x": 0}})
        db.commit()
        other = db.open_connection(connection_id="other")

        def source() -> Iterator[list[lp.ProcessResult]]:
            for number, batch in enumerate(batches):
                other._p_jar.transaction_manager.begin()
                other.gn(batch[0]).set_attribute(f"theirs_{number}", number)
                db.commit("other")
                yield [lp.ProcessResult((key,), number, {f"mine_{number}": number}) for key in batch]

        report = lp.write(lp.mirror(), root, source(), commit_every=every)
        expected: dict[str, dict[str, int]] = {"a": {"x": 0}, "b": {"x": 0}}
        for number, batch in enumerate(batches):
            for key in batch:
                expected.setdefault(key, {}).update({"result": number, f"mine_{number}": number})
            expected[batch[0]][f"theirs_{number}"] = number
        assert report.written == sum(map(len, batches))
        assert {path[0]: values for path, values in committed(db).items() if path} == expected
        db.close_connection("other")


@pytest.mark.parametrize("why", ["changes of the caller", "too many results"])
def test_what_can_not_be_applied_again_is_not(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, {("a",): {"x": 0}, ("b",): {"x": 0}})
        db.commit()
        if why == "changes of the caller":
            root.gn("b").set_attribute("x", 1)
        else:
            monkeypatch.setattr(_conflicts, "MOST_WAITING", 1)

        def source() -> Iterator[list[lp.ProcessResult]]:
            other = db.open_connection(connection_id="other")
            other.gn("a").set_attribute("result", 3)
            db.commit("other")
            db.close_connection("other")
            yield [lp.ProcessResult(("a",), 1), lp.ProcessResult(("b",), 1)]

        with pytest.raises(ConflictError) as raised:
            lp.write(lp.mirror(), root, source(), commit_every=9)
        assert raised.value.__notes__[-1] == _conflicts.NOT_AGAIN
        assert contents(root) == committed(db) == {(): {}, ("a",): {"x": 0, "result": 3}, ("b",): {"x": 0}}


# Disks, storages, interrupts

FULL = """
import resource, signal, sys
import lotproc as lp
from lotdb import LOTDB

folder, ledger, every, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
database = LOTDB(path=folder, name="results.fs", new=True)
root = database.open_connection()
for n in range(2_500):
    root.gn(f"clip_{n:04}")
database.commit()

def run():
    records = lp.pending(lp.mirror("out"), root, lp.snapshot((), lp.leaves(root, skip="out")), version="v1")
    results = ([lp.ProcessResult(record.path, "x" * 100)] for record in records)
    return lp.write(lp.mirror("out"), root, results, commit_every=every, ledger=ledger, version="v1")

_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
try:
    run()
except OSError as error:
    print(error.report.written, error.report.commits, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
if sys.argv[5] == "same process":
    print(len(root.get_node_path(["out"]).all_node_keys()) if "out" in root.all_node_keys() else 0)
    print(run().written)
    database.close()
"""


@pytest.mark.parametrize(
    ("every", "room", "how"),
    [
        (100, 150_000, "another process"),
        (100, 1_000_000, "same process"),
        (200, 277_777, "same process"),
        (20_000, 277_777, "another process"),
    ],
)
def test_a_full_disk_ends_the_run_with_what_was_committed_intact(
    every: int, room: int, how: str, tmp_path: pathlib.Path
) -> None:
    """A limit on the size of files stands for the end of the disk: the file takes what fits, then there is an error."""
    limit = 1_250_000 + room if every < 1_000 else room
    command = [sys.executable, "-c", FULL, str(tmp_path), str(tmp_path / "ledger.jsonl"), str(every), str(limit), how]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    written, commits, *again = map(int, told.stdout.split())
    assert (written > 0) == (every < 1_000)
    assert written == every * commits
    clips = [f"clip_{n:04}" for n in range(2_500)]
    if how == "same process":
        assert again == [written, 2_500 - written]
        written = 2_500
    db = LOTDB(path=str(tmp_path), name="results.fs")
    try:
        root = db.open_connection()
        tree = contents(root)
        assert sorted(path[1] for path in tree if path[:1] == ("out",) and len(path) == 2) == clips[:written]
        assert all(tree[("out", clip)] == {"result": "x" * 100, "_version": "v1"} for clip in clips[:written])
        records = (lp.NodeRecord((clip,), clip) for clip in clips)
        left = list(lp.pending(lp.mirror("out"), root, records, version="v1"))
        assert [record.key for record in left] == clips[written:]
    finally:
        db.close()


CLOSED = """
import os, resource, signal, sys
import lotproc as lp
from lotdb import LOTDB

folder, plane, every, step = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
results = [lp.ProcessResult((f"c{n % 90}",), "x" * (n * 997 % 2000)) for n in range(100)]

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))

for room in range(500, 130_000, step):
    for goes_on in (True, False):
        name = f"{room}-{goes_on}.fs"
        database = LOTDB(path=folder, name=name, new=True)
        root = database.open_connection()
        for n in range(90 if plane == "live" else 1):
            root.gn(f"c{n}")
        database.commit()
        limit(os.path.getsize(os.path.join(folder, name)) + room)
        try:
            lp.write(lp.mirror(), root, [[each] for each in results], commit_every=every)
            written = 100
        except OSError as error:
            written = error.report.written
        if goes_on:  # in the same process, once there is room again
            limit(most)
            root.gn("after")
            database.commit()
        database.close()
        limit(most)
        print(name, written, flush=True)
"""


@pytest.mark.parametrize("every", [40, 1000])
@pytest.mark.parametrize("plane", ["records", "live"])
def test_after_a_full_disk_what_is_committed_then_and_later_opens_again(
    plane: str, every: int, tmp_path: pathlib.Path
) -> None:
    command = [sys.executable, "-c", CLOSED, str(tmp_path), plane, str(every), "16180"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    failed = 0
    for line in told.stdout.splitlines():
        name, written = line.split()
        failed += int(written) < 100
        fstest.check(str(tmp_path / name))
        db = LOTDB(path=str(tmp_path), name=name)
        try:
            tree = contents(db.open_connection())
            wanted = {(f"c{n % 90}",): "x" * (n * 997 % 2000) for n in range(int(written))}
            assert {path: values["result"] for path, values in tree.items() if values} == wanted
            assert (("after",) in tree) == ("True" in name)
        finally:
            db.close()
    assert failed


def test_a_database_that_turns_read_only_ends_the_run_with_what_was_committed_intact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with database() as db:
        root = db.open_connection()

        def source() -> Iterator[list[lp.ProcessResult]]:
            yield [lp.ProcessResult(("a",), 1)]
            monkeypatch.setattr(root._p_jar.db().storage, "_is_read_only", True)
            yield [lp.ProcessResult(("b",), 1)]

        with pytest.raises(ReadOnlyError) as raised:
            lp.write(lp.mirror(), root, source(), commit_every=1)
        assert raised.value.report == lp.WriteReport(1, 0, 1, ("a",))
        monkeypatch.undo()
        assert contents(root) == committed(db) == {(): {}, ("a",): {"result": 1}}


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGALRM]


class Ended(BaseException):
    """What a handler raises."""


@pytest.mark.parametrize("plane", ["records", "live"])
@pytest.mark.parametrize("where", ["tpc_begin", "tpc_vote", "tpc_finish"])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_the_middle_of_a_commit_waits_for_its_end(
    number: signal.Signals, where: str, plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, armed = getattr(FileStorage, where), [False]

    def interrupted(*args: Any, **options: Any) -> Any:
        if armed[0]:
            signal.raise_signal(number)
        return whole(*args, **options)

    def end(*_: Any) -> None:
        raise Ended

    monkeypatch.setattr(FileStorage, where, interrupted)
    handler = signal.signal(number, end)
    try:
        with database() as db:
            root = db.open_connection()
            root.gn("kept").set_attribute("x", 1)
            db.commit()
            key = "kept" if plane == "live" else "new"
            armed[0] = True
            with pytest.raises(Ended) as raised:
                lp.write(lp.mirror(), root, [[lp.ProcessResult((name,), 1)] for name in (key, "b")], commit_every=1)
            armed[0] = False
            assert signal.getsignal(number) is end
            assert raised.value.report == lp.WriteReport(1, 0, 1, (key,))  # type: ignore[attr-defined]
            tree = committed(db)
            assert tree == contents(root)
            assert tree[(key,)]["result"] == 1
            assert ("b",) not in tree
            lp.write(lp.mirror(), root, [lp.ProcessResult(("b",), 1)], commit_every=1)
            assert ("b",) in committed(db)
    finally:
        signal.signal(number, handler)


def test_a_signal_while_a_failed_write_is_undone_waits_for_the_end_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def signalled(changes: _transactions.Changes) -> None:
        signal.raise_signal(signal.SIGTERM)
        undo(changes)

    def end(*_: Any) -> None:
        raise Ended

    def source() -> Iterator[lp.ProcessResult]:
        yield lp.ProcessResult(("a",), 1)
        raise OSError("gone")

    undo = _transactions.Changes.undo
    monkeypatch.setattr(_transactions.Changes, "undo", signalled)
    handler = signal.signal(signal.SIGTERM, end)
    try:
        with database() as db:
            root = db.open_connection()
            with pytest.raises(Ended):
                lp.write(lp.mirror(), root, source())
            assert contents(root) == {(): {}}
    finally:
        signal.signal(signal.SIGTERM, handler)


@given(
    came=st.lists(st.sampled_from(SIGNALS), max_size=6),
    raising=st.sets(st.sampled_from(SIGNALS)),
    unhandled=st.sets(st.sampled_from(SIGNALS)),
    fails=st.booleans(),
)
def test_handlers_are_called_afterwards_in_order_with_their_frames(
    came: list[signal.Signals], raising: set[signal.Signals], unhandled: set[signal.Signals], fails: bool
) -> None:
    calls: list[tuple[int, str]] = []

    def handle(number: int, frame: Any) -> None:
        calls.append((number, frame.f_code.co_name))
        if number in raising:
            raise Ended(number)

    def inside() -> None:
        for number in came:
            signal.raise_signal(number)

    before = {n: signal.signal(n, signal.SIG_IGN if n in unhandled else handle) for n in SIGNALS}
    handled = [number for number in came if number not in unhandled]
    raised = [number for number in handled if number in raising]
    error: BaseException | None = None
    try:
        try:
            with uninterrupted():
                inside()
                assert calls == []
                if fails:
                    raise OSError("gone")
        except BaseException as caught:
            error = caught
        assert [signal.getsignal(n) for n in SIGNALS] == [signal.SIG_IGN if n in unhandled else handle for n in SIGNALS]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert calls == [(number, "inside") for number in handled]
    if raised:
        assert isinstance(error, Ended)
        assert error.args == (raised[-1],)
    else:
        assert isinstance(error, OSError) == fails


def test_a_handler_that_is_set_inside_stays() -> None:
    before = signal.getsignal(signal.SIGTERM)
    first, second = (lambda *_: None), (lambda *_: None)
    try:
        signal.signal(signal.SIGTERM, first)
        with uninterrupted():
            signal.signal(signal.SIGTERM, second)
        assert signal.getsignal(signal.SIGTERM) is second
    finally:
        signal.signal(signal.SIGTERM, before)


STOPPED = """
import os, signal, sys
import lotproc as lp
from lotdb import LOTDB
from ZODB.FileStorage import FileStorage

folder, name, handled = sys.argv[1:]
number = signal.Signals[name]
whole, is_on = FileStorage.tpc_vote, False

def vote(*args):
    result = whole(*args)
    if is_on:
        os.kill(os.getpid(), number)
    return result

FileStorage.tpc_vote = vote  # before a connection takes it
database = LOTDB(path=folder, name="results.fs", new=True)
root = database.open_connection()

def end(number, frame):
    sys.exit(3)

signal.signal(number, end if handled == "handled" else signal.SIG_DFL)  # under nohup, one is ignored
is_on = True
lp.write(lp.mirror(), root, [[lp.ProcessResult((key,), 1)] for key in "ab"], commit_every=1)
"""


@pytest.mark.parametrize("handled", ["handled", "by the system"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM, signal.SIGHUP])
def test_a_program_that_is_stopped_in_a_commit_ends_after_it_if_it_handles_that(
    number: signal.Signals, handled: str, tmp_path: pathlib.Path
) -> None:
    command = [sys.executable, "-c", STOPPED, str(tmp_path), number.name, handled]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == (3 if handled == "handled" else -number), ended.stderr
    db = LOTDB(path=str(tmp_path), name="results.fs")
    try:
        tree = contents(db.open_connection())
        assert tree == ({(): {}, ("a",): {"result": 1}} if handled == "handled" else {(): {}})
    finally:
        db.close()


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "version as a number": ({"version": 3}, lp.ArgumentTypeError, "write: version must be a str or None, got int 3"),
    "empty version": ({"version": ""}, lp.ArgumentError, "write: version must not be empty"),
    "ledger as a number": ({"ledger": 3}, lp.ArgumentTypeError, "write: ledger must be the path of a file, got int 3"),
    "ledger in no folder": ({"ledger": "/no/such/folder/x"}, lp.ArgumentError, "in a folder that is not there"),
    "ledger that is another file": ({"ledger": __file__}, lp.ArgumentError, "is no ledger"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_options_are_refused_at_once(case: str) -> None:
    options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        lp.write(lp.mirror(), BaseNode("root"), **options)


def test_a_stamp_among_the_attributes_is_refused_and_nothing_is_written() -> None:
    root = BaseNode("root")
    results = [lp.ProcessResult(("a",), 1), lp.ProcessResult(("b",), 1, {"_version": "mine"})]
    with pytest.raises(
        lp.ArgumentError, match="the result at b has an attribute '_version', which is where its stamp goes"
    ):
        lp.write(lp.mirror(), root, results, version="v1")
    assert contents(root) == {(): {}}
    assert lp.write(lp.mirror(), root, results).written == 2
