"""The ledger against a list of events: what is whole in the file counts, wherever a crash has torn it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from lotproc.errors import ArgumentError, ArgumentTypeError
from lotproc.models import Failure
from lotproc.writing.ledger import Ledger, outstanding_failures

pytestmark = pytest.mark.usefixtures("no_file_stays_open")

ROOT = Path(__file__).resolve().parents[2]

PATHS: list[tuple[str, ...]] = [(), ("a",), ("a", "b"), ("a/b",), ("b\n", ""), ("\udcff",), ("é\u2028\0",), ('"]}',)]

#: Any text, lone surrogates too; of a pair of them JSON can't tell that it was no single character.
texts = st.text(st.characters()).filter(lambda text: not re.search("[\ud800-\udbff][\udc00-\udfff]", text))


def committed(ledger: Ledger, **counts: Any) -> None:
    ledger.commit(**{"written": 1, "skipped": 0, "failed": 0, "seconds": 0.5, "last_path": None, **counts})


def failure(*path: str) -> Failure:
    return Failure(path, "ValueError", "the file is empty")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """What all lines hold; all of them are whole."""
    return [json.loads(line) for line in path.read_bytes().decode().splitlines()]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for the many examples of a law."""
    return tmp_path_factory.mktemp("ledger") / "run.jsonl"


# --- Any runs, torn anywhere -----------------------------------------------------------------------------------------

#: A line as the model knows it: what adds a path (none for a failure without one), or what takes paths away.
Event = tuple[str, frozenset[tuple[str, ...]]]


def outstanding_after(events: list[Event]) -> set[tuple[str, ...]]:
    state: dict[tuple[str, ...], bool] = {}
    for kind, paths in events:
        state.update(dict.fromkeys(paths, kind == "failure"))
    return {path for path, failed in state.items() if failed}


@dataclass
class Model:
    """What should be in the file: each line with the place where it ends."""

    path: Path
    lines: list[tuple[int, Event]] = field(default_factory=list)
    kept: list[Event] = field(default_factory=list)
    last: dict[tuple[str, ...], str] = field(default_factory=dict)

    @property
    def events(self) -> list[Event]:
        return [event for _, event in self.lines]

    def step(self, ledger: Ledger, what: str, path: tuple[str, ...] | None) -> None:
        if what == "failed":
            ledger.failed(Failure(path, "ValueError", "bad", item="no path" if path is None else ""))
            self.kept.append(("failure", frozenset() if path is None else frozenset([path])))
            if path is not None:
                self.last[path] = what
        elif what == "wrote":
            assert path is not None
            ledger.wrote(path)
            self.last[path] = what
        elif what == "drop":
            ledger.drop_recovered()
            self.last.clear()
        elif what == "flush":
            self.flushed(ledger.flush)
        else:
            wrote = {path for path, happened in self.last.items() if happened == "wrote"}
            recovered = wrote & outstanding_after(self.events + self.kept)
            self.kept.append(("commit", frozenset(recovered)))
            self.flushed(lambda: committed(ledger))
            self.last.clear()
        assert (ledger.kept > 0) == bool(self.kept)
        assert ledger.outstanding == outstanding_after(self.events + self.kept)

    def flushed(self, flush: Any) -> None:
        """Flush, and see that there is one line for each event more."""
        start = self.path.stat().st_size
        flush()
        end = start
        for line in self.path.read_bytes()[start:].split(b"\n"):
            if line:
                event = self.kept.pop(0)
                assert json.loads(line)["event"] == event[0]
                self.lines.append((end + len(line), event))
            end += len(line) + 1
        assert self.kept == []

    def torn(self, size: int) -> None:
        os.truncate(self.path, size)
        self.lines = [(end, event) for end, event in self.lines if end <= size]
        self.kept, self.last = [], {}


steps = st.one_of(
    st.tuples(st.just("failed"), st.sampled_from([None, *PATHS])),
    st.tuples(st.just("wrote"), st.sampled_from(PATHS)),
    st.tuples(st.sampled_from(["commit", "flush", "drop"]), st.none()),
)


@given(data=st.data())
def test_any_runs_torn_anywhere_leave_what_whole_lines_say(file: Path, data: st.DataObject) -> None:
    file.unlink(missing_ok=True)
    model = Model(file)
    for run in data.draw(st.lists(st.lists(steps, max_size=12), min_size=1, max_size=4), label="runs"):
        with Ledger("write", file) as ledger:
            assert ledger.outstanding == outstanding_after(model.events)
            for what, path in run:
                model.step(ledger, what, path)
            ledger.drop_recovered()
            model.flushed(ledger.flush)
        assert outstanding_failures("failed", file) == sorted(outstanding_after(model.events))
        model.torn(data.draw(st.integers(0, file.stat().st_size), label="torn at"))
        assert outstanding_failures("failed", file) == sorted(outstanding_after(model.events))


def test_a_file_torn_at_each_of_its_bytes_goes_on_below(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with Ledger("write", whole) as ledger:
        ledger.failed(failure("a"))
        committed(ledger, failed=1)
        ledger.wrote(("a",))
        committed(ledger)
    data = whole.read_bytes()
    ends = [match.start() for match in re.finditer(b"\n", data)]
    torn = tmp_path / "torn"
    for size in range(len(data) + 1):
        torn.write_bytes(data[:size])
        with Ledger("write", torn) as ledger:
            assert ledger.outstanding == ({("a",)} if ends[0] <= size < ends[2] else set())
            ledger.failed(failure("b"))
        assert torn.read_bytes().startswith(data[:size])
        assert json.loads(torn.read_bytes().splitlines()[-1])["path"] == ["b"]
        assert ("b",) in outstanding_failures("failed", torn)


def test_a_line_that_another_process_has_torn_meanwhile_is_not_glued_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Ledger("write", path) as ledger:
        committed(ledger)
        with open(path, "ab") as other:
            other.write(b'{"event": "failure", "ti')
        ledger.failed(failure("a"))
        committed(ledger)
    assert outstanding_failures("failed", path) == [("a",)]
    assert path.read_bytes().count(b"\n") == 4


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\0" * 5_000,
        b"\xff\xfe",
        b"[1]",
        b"null",
        b"[" * 100_000,
        b"9" * 5_000,
        b'{"event": "failure"}',
        b'{"event": "failure", "path": null}',
        b'{"event": "failure", "path": "b"}',
        b'{"event": "failure", "path": [1]}',
        b'{"event": "commit", "recovered": [["a"',
        b'{"event": "commit", "recovered": {"a": 1}}',
        b'{"event": "commit", "recovered": [3, null, [["a"]]]}',
        b'{"event": ["failure"], "path": ["b"]}',
        b'{"event": "later version", "path": ["b"], "recovered": [["a"]]}',
    ],
    ids=lambda line: line[:50].decode("latin-1"),
)
def test_a_line_in_the_middle_that_says_nothing_is_skipped(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "run.jsonl"
    with Ledger("write", path) as ledger:
        ledger.failed(failure("a"))
    with open(path, "ab") as other:
        other.write(line + b"\n")
    with Ledger("write", path) as ledger:
        assert ledger.outstanding == {("a",)}
        ledger.failed(failure("c"))
    assert outstanding_failures("failed", path) == [("a",), ("c",)]


# --- What the lines hold ---------------------------------------------------------------------------------------------


@given(path=st.lists(texts).map(tuple), error=texts, message=texts, traceback=texts, attempts=st.integers(1))
def test_any_text_comes_back(
    file: Path, path: tuple[str, ...], error: str, message: str, traceback: str, attempts: int
) -> None:
    file.unlink(missing_ok=True)
    with Ledger("write", file) as ledger:
        ledger.failed(Failure(path, error, message, traceback, attempts, "not shown"))
        committed(ledger, last_path=path)
    first, second = lines_of(file)
    assert first.pop("time")
    assert {**first, "path": tuple(first["path"])} == {
        **{"event": "failure", "path": path, "error": error, "message": message},
        **{"traceback": traceback, "attempts": attempts},
    }
    assert tuple(second["last_path"]) == path
    assert outstanding_failures("failed", file) == [path]
    with Ledger("write", file) as ledger:
        ledger.wrote(path)
        committed(ledger)
    assert outstanding_failures("failed", file) == []


@given(item=texts)
def test_a_failure_without_a_path_says_what_failed(file: Path, item: str) -> None:
    file.unlink(missing_ok=True)
    with Ledger("write", file) as ledger:
        ledger.failed(Failure(None, "ValueError", "bad", item=item))
        assert ledger.outstanding == set()
    (line,) = lines_of(file)
    assert (line["path"], line["item"]) == (None, item)
    assert outstanding_failures("failed", file) == []


def test_the_lines_of_a_small_run(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    before = datetime.now(timezone.utc)
    with Ledger("write", path) as ledger:
        ledger.failed(Failure(("ann", "clip_1"), "ValueError", "bad", "Traceback: ...", 3))
        ledger.commit(written=7, skipped=2, failed=1, seconds=1.23456, last_path=("bob", "clip_2"))
    with Ledger("write", path) as ledger:
        ledger.wrote(("bob", "clip_3"))
        ledger.wrote(("ann", "clip_1"))
        ledger.commit(written=1, skipped=0, failed=0, seconds=2, last_path=None)
    after = datetime.now(timezone.utc)
    lines = lines_of(path)
    for line in lines:
        time = line.pop("time")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
        seconds = datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()
        assert before.timestamp() - 0.001 <= seconds <= after.timestamp()
    assert lines == [
        {
            **{"event": "failure", "path": ["ann", "clip_1"], "error": "ValueError", "message": "bad", "attempts": 3},
            "traceback": "Traceback: ...",
        },
        {
            **{"event": "commit", "written": 7, "skipped": 2, "failed": 1, "seconds": 1.235},
            "last_path": ["bob", "clip_2"],
        },
        {
            **{"event": "commit", "written": 1, "skipped": 0, "failed": 0, "seconds": 2, "last_path": None},
            "recovered": [["ann", "clip_1"]],
        },
    ]
    assert path.read_bytes().startswith(b'{"event": "failure", "time": "')


def test_a_commit_is_one_write_and_then_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    write, fsync = os.write, os.fsync

    def writing(file: int, data: bytes) -> int:
        calls.append("write")
        return write(file, data)

    def syncing(file: int) -> None:
        calls.append("fsync")
        fsync(file)

    monkeypatch.setattr(os, "write", writing)
    monkeypatch.setattr(os, "fsync", syncing)
    with Ledger("write", tmp_path / "run.jsonl") as ledger:
        for number in range(100):
            ledger.failed(failure(str(number)))
        assert calls == []
        committed(ledger)
        assert calls == ["write", "fsync"]
        ledger.flush()
        assert calls == ["write", "fsync"]
        ledger.failed(failure("last"))
        ledger.flush()
        assert calls == ["write", "fsync", "write"]
    assert calls == ["write", "fsync", "write", "fsync"]


def test_a_transaction_that_failed_recovers_nothing_and_its_failures_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Ledger("write", path) as ledger:
        ledger.failed(failure("a"))
    with Ledger("write", path) as ledger:
        ledger.wrote(("a",))
        ledger.failed(failure("b"))
        ledger.drop_recovered()
        committed(ledger)
    assert outstanding_failures("failed", path) == [("a",), ("b",)]


def test_what_fails_after_its_result_is_outstanding_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Ledger("write", path) as ledger:
        ledger.failed(failure("a"))
        ledger.wrote(("a",))
        ledger.failed(failure("a"))
        committed(ledger)
        assert outstanding_failures("failed", path) == [("a",)]
        ledger.wrote(("a",))
        committed(ledger)
        assert outstanding_failures("failed", path) == []
        ledger.failed(failure("a"))
    assert outstanding_failures("failed", path) == [("a",)]


def test_a_run_that_raises_keeps_its_failures(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"

    def run() -> None:
        with Ledger("write", path) as ledger:
            ledger.failed(failure("a"))
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert outstanding_failures("failed", path) == [("a",)]


def test_a_ledger_can_be_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    ledger = Ledger("write", path)
    with ledger:
        ledger.failed(failure("a"))
    with Ledger("write", path) as other:
        other.wrote(("a",))
        committed(other)
    with ledger:
        assert ledger.outstanding == set()
        ledger.failed(failure("b"))
        ledger.wrote(("b",))
    with ledger:  # what the run before had noted and not committed is not its own
        committed(ledger)
    assert outstanding_failures("failed", path) == [("b",)]


def test_what_is_recovered_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Ledger("write", path) as ledger:
        for start in range(0, 4_000, 100):
            names = [f"clip_{number}" for number in range(start, start + 100)]
            for name in names:
                ledger.failed(Failure((name,), "ValueError", "bad", "x" * 2_000))
            ledger.flush()
            for name in names:
                ledger.wrote((name,))
            committed(ledger)
        assert ledger.outstanding == set()
    assert path.stat().st_size > 8_000_000
    tracemalloc.start()
    try:
        assert outstanding_failures("failed", path) == []
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


# --- Other processes, crashes, full disks ----------------------------------------------------------------------------

APPENDING = """
import sys
from lotproc.writing.ledger import Ledger
from lotproc.models import Failure

path, me, runs, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with Ledger("write", path) as ledger:
    for number in range(runs):
        ledger.failed(Failure((me, str(number)), "ValueError", "bad", "x" * size))
        ledger.commit(written=number, skipped=0, failed=1, seconds=0, last_path=(me,))
        print(number, flush=True)
"""


def appending(path: Path, me: str, runs: int, size: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", APPENDING, str(path), me, str(runs), str(size)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_processes_append_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    programs = [appending(path, me, 60, 20_000) for me in ("a", "b", "c")]
    for program in programs:
        program.communicate()
        assert program.returncode == 0
    # An end of the file that was seen while another process was writing gives an empty line.
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    for me in ("a", "b", "c"):
        mine = [line for line in lines if me in (line.get("path") or line.get("last_path"))]
        assert [line["event"] for line in mine] == ["failure", "commit"] * 60
        assert [line["written"] for line in mine[1::2]] == list(range(60))
    assert len(lines) == 360
    assert len(outstanding_failures("failed", path)) == 180


def test_after_a_kill_all_that_was_committed_is_there(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    program = appending(path, "a", 1_000_000, 300_000)
    assert program.stdout is not None
    try:
        for number in range(10):
            assert program.stdout.readline() == f"{number}\n"
    finally:
        os.kill(program.pid, signal.SIGKILL)
        said = 10 + len(re.findall(r"\d+\n", program.communicate()[0]))
    assert program.returncode == -signal.SIGKILL
    left = path.read_bytes()
    whole = [json.loads(line) for line in left.split(b"\n")[:-1]]
    assert [line["event"] for line in whole] == (["failure", "commit"] * len(whole))[: len(whole)]
    assert len(whole) >= 2 * said
    with Ledger("write", path) as ledger:
        assert {("a", str(number)) for number in range(said)} <= ledger.outstanding
        ledger.failed(failure("b"))
    assert path.read_bytes().startswith(left)
    assert ("b",) in outstanding_failures("failed", path)


FULL = """
import errno, json, os, resource, sys
from contextlib import contextmanager
from lotproc.writing.ledger import Ledger, outstanding_failures
from lotproc.models import Failure

soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

@contextmanager
def at_most(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

def run(path, size):
    ledger = Ledger("write", path).__enter__()
    for name in "ab":
        ledger.failed(Failure((name,), "ValueError", "bad"))
    commit = lambda: ledger.commit(written=1, skipped=0, failed=2, seconds=0, last_path=None)
    told = False
    with at_most(size):
        try:
            commit()
        except OSError as error:
            told = error.errno == errno.EFBIG and path in error.__notes__[0]
    whole = outstanding_failures("failed", path)
    if told:
        commit()
    ledger.__exit__(None, None, None)
    lines = []
    for line in open(path, "rb"):
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    print(json.dumps([told, whole, [line["event"] + "".join(line.get("path", "")) for line in lines]]))

for size in range(int(sys.argv[2]) + 1):
    path = os.path.join(sys.argv[1], str(size))
    run(path, size)
    os.unlink(path)
"""


def test_a_disk_that_is_full_at_any_byte_is_told_and_each_line_comes_once(tmp_path: Path) -> None:
    with Ledger("write", tmp_path / "whole") as ledger:
        for name in "ab":
            ledger.failed(Failure((name,), "ValueError", "bad"))
        ledger.commit(written=1, skipped=0, failed=2, seconds=0, last_path=None)
    ends = [match.start() for match in re.finditer(b"\n", (tmp_path / "whole").read_bytes())]
    command = [sys.executable, "-c", FULL, str(tmp_path), str(ends[-1] + 2)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    told = done.stdout.splitlines()
    assert len(told) == ends[-1] + 3
    for size, line in enumerate(told):
        whole = [[name] for name, end in zip("ab", ends, strict=False) if end <= size]
        # Where only the end of the last line is missing, nothing is.
        assert json.loads(line) == [size < ends[-1], whole, ["failurea", "failureb", "commit"]], size


FULL_AT_THE_END = """
import resource, sys
from lotproc.writing.ledger import Ledger
from lotproc.models import Failure

resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for error in (None, KeyError("the run's own")):
    try:
        with Ledger("write", sys.argv[1]) as ledger:
            ledger.failed(Failure(("a",), "ValueError", "bad"))
            if error:
                raise error
    except Exception as raised:
        print(type(raised).__name__, *raised.__notes__)
"""


def test_a_full_disk_at_the_end_does_not_hide_the_error_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    command = [sys.executable, "-c", FULL_AT_THE_END, str(path)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == f"OSError write: while writing the ledger {path}"
    assert second.startswith(f"KeyError write: and the ledger {path} can't be written: ")
    assert path.stat().st_size == 100


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, 3, b"run.jsonl", ["run.jsonl"], object])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="write: ledger must be the path of a file, got "):
        Ledger("write", path)
    with pytest.raises(ArgumentTypeError, match="failed: ledger must be the path of a file, got "):
        outstanding_failures("failed", path)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("", "got ''"),
        ("a\0b", "got 'a.x00b'"),
        (".", "is a directory, and should be a regular file"),
        ("absent/run.jsonl", "a folder that is not there; make .*/absent first"),
        ("file/run.jsonl", "a folder that is not there; make .*/file first"),
        ("pipe", "is a named pipe, and should be a regular file"),
        ("link", "is a symbolic link, and should be a regular file"),
        ("link to nothing", "is a symbolic link, and should be a regular file"),
        ("link to a pipe", "is a symbolic link, and should be a regular file"),
    ],
)
def test_a_path_that_can_be_no_ledger_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for link, target in (("link", "file"), ("link to nothing", "new"), ("link to a pipe", "pipe")):
        (tmp_path / link).symlink_to(target)
    with pytest.raises(ArgumentError, match=f"write: .*{text}"):
        Ledger("write", path)
    with pytest.raises(ArgumentError, match=f"failed: .*{text}"):
        outstanding_failures("failed", path)
    if text.endswith("should be a regular file"):  # also where it has come into the place of one meanwhile
        ledger = Ledger("write", "run.jsonl")
        shutil.rmtree("run.jsonl", ignore_errors=True)
        os.rename(path, "run.jsonl") if path != "." else os.mkdir("run.jsonl")
        with pytest.raises(ArgumentError, match=f"write: .*run.jsonl {text}"), ledger:
            pass
        assert not os.path.exists("new")
        assert Path("file").read_bytes() == b""


FOREIGN: list[tuple[bytes, int]] = [
    (b"path,error\na,b\n", 1),
    (b"\n\r\n \nhello", 4),
    (b'{\n  "event": "failure"\n}\n', 2),
    (b'{"event": "failing\nhello\n', 1),
    (b'{"ev\nhello\n', 2),
    (b"{}\n", 1),
    (b"[]\n", 1),
    (b'{"event": "request", "time": "2026-11-24"}\n', 1),
    (b'{"event": ["commit"]}\n', 1),
    (b"\x80\x04\x95\n\n", 1),
    (b"\xff" * 3_000_000, 1),
    (b"[" * 100_000, 1),
]


@pytest.mark.parametrize(("content", "line"), FOREIGN, ids=[repr(content[:30]) for content, _ in FOREIGN])
def test_a_foreign_file_is_refused_and_stays_as_it_is(tmp_path: Path, content: bytes, line: int) -> None:
    path = tmp_path / "foreign"
    ledger = Ledger("write", path)
    path.write_bytes(content)
    text = f"{re.escape(str(path))} is no ledger; its line {line} should be .*, got .*Name a new file"
    with pytest.raises(ArgumentError, match=f"write: {text}") as caught:
        Ledger("write", path)
    assert len(str(caught.value)) < 400 + len(str(path))
    with pytest.raises(ArgumentError, match=f"failed: {text}"):
        outstanding_failures("failed", path)
    with pytest.raises(ArgumentError, match=f"write: {text}"), ledger:  # it came after the ledger was made
        pass
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"\0" * 10_000,
        b"{",
        b'{"event": "comm',
        b'\n{"e\n{"event": "failure", "time": "2026-\n',
        b'{"error":"E","event":"failure","path":["z"]}\n',
        b'{ "event" : "commit" }',
    ],
)
def test_what_a_ledger_may_have_become_is_gone_on_with(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    outstanding = [("z",)] if b"z" in content else []
    assert outstanding_failures("failed", path) == outstanding
    with Ledger("write", path) as ledger:
        ledger.failed(failure("a"))
    assert outstanding_failures("failed", path) == [("a",), *outstanding]
    assert path.read_bytes().startswith(content)


def test_a_ledger_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with pytest.raises(ArgumentError, match=f"failed: there is no ledger {re.escape(str(path))}; write"):
        outstanding_failures("failed", path)


def test_nothing_is_made_before_it_is_opened_and_the_folder_of_then_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = Ledger("write", "run.jsonl")
    assert os.listdir(tmp_path) == []
    monkeypatch.chdir("/")
    with ledger:
        committed(ledger)
    assert os.listdir(tmp_path) == ["run.jsonl"]


def test_a_folder_that_vanishes_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    ledger = Ledger("write", tmp_path / "folder" / "run.jsonl")
    (tmp_path / "folder").rmdir()
    with pytest.raises(FileNotFoundError) as caught, ledger:
        pass
    assert caught.value.__notes__ == [f"write: while opening the ledger {ledger.path}"]


def test_a_failure_made_by_hand_may_hold_the_error_itself(tmp_path: Path) -> None:
    with Ledger("write", tmp_path / "run.jsonl") as ledger:
        ledger.failed(Failure(("a",), "ValueError", ValueError("the file is empty")))  # type: ignore[arg-type]
    assert lines_of(tmp_path / "run.jsonl")[0]["message"] == "the file is empty"
