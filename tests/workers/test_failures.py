"""What becomes of records that fail, of workers that die or take too long, and of a run that is interrupted."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import active_children, get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import LOTDB, BaseNode
from recording import InlineExecutor, Source, database, examples
from toolz import compose_left

import lotproc as lp
from lotproc._fast import FAST

MODES = ("sync", "thread", "process")
WORKERS = 2


def records(count: int) -> list[lp.NodeRecord]:
    return [lp.NodeRecord(("ann", f"clip_{n:04}"), f"clip_{n:04}", {"n": n}) for n in range(count)]


def path(n: int) -> tuple[str, str]:
    return ("ann", f"clip_{n:04}")


def worker_pids() -> list[Any]:
    """The worker processes that there are."""
    return [process.pid for process in active_children() if process.name == "lotproc worker"]


def flat(items: Iterable[Any]) -> list[Any]:
    """The results and failures of a stream, batch by batch."""
    return [item for batch in items for item in (batch if isinstance(batch, list) else [batch])]


class Work:
    """A processor of records, of which some raise, kill their worker, or end it."""

    def __init__(
        self,
        raising: Iterable[int] = (),
        killing: Iterable[int] = (),
        ending: Iterable[int] = (),
        giving_none: Iterable[int] = (),
    ) -> None:
        self.raising, self.killing, self.ending = frozenset(raising), frozenset(killing), frozenset(ending)
        self.giving_none = frozenset(giving_none)

    def __call__(self, record: lp.NodeRecord) -> lp.ProcessResult | None:
        n = record.attributes["n"]
        if n in self.raising:
            raise ValueError(f"number {n} is bad")
        if n in self.killing:
            os.kill(os.getpid(), signal.SIGKILL)
        if n in self.ending:
            os._exit(7)
        if n in self.giving_none:
            return None
        return lp.ProcessResult(record.path, output=2 * n)


class ValueOf:
    """The output of what another function makes of a record."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self.work = work

    def __call__(self, record: lp.NodeRecord) -> Any:
        return self.work(record).output


PROCESSORS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "a function of a record": lp.each,
    "a function of a record that returns a value": lambda work: lp.outputs(ValueOf(work)),
    "a generator of results": lambda work: lambda batch: (work(record) for record in batch),
    "a tuple of results": lambda work: lambda batch: tuple(work(record) for record in batch),
}

jobs = st.tuples(st.integers(0, 24), st.integers(1, 9))
some = st.sets(st.integers(0, 23), max_size=8)


# Laws


@settings(max_examples=examples(80))
@given(
    job=jobs,
    bad=some,
    giving_none=some,
    mode=st.sampled_from(MODES),
    workers=st.integers(1, 3),
    buffersize=st.integers(1, 5),
    ordered=st.booleans(),
    kind=st.sampled_from(list(PROCESSORS)),
    retries=st.integers(0, 2),
)
def test_good_records_give_what_they_would_give_alone_and_each_bad_one_comes_once(
    job: tuple[int, int],
    bad: set[int],
    giving_none: set[int],
    mode: Any,
    workers: int,
    buffersize: int,
    ordered: bool,
    kind: str,
    retries: int,
) -> None:
    count, size = job
    if "value" in kind:  # for which None is one
        giving_none = set()
    expected: list[Any] = [path(n) if n in bad else lp.ProcessResult(path(n), output=2 * n) for n in range(count)]
    for n in (giving_none - bad) & set(range(count)):
        expected[n] = None
    results = lp.parallel_map(
        PROCESSORS[kind](Work(bad, giving_none=giving_none)),
        lp.chunked(size, records(count)),
        mode=mode,
        max_workers=workers,
        buffersize=buffersize,
        ordered=ordered,
        on_error="collect",
        retries=retries,
    )
    batches = [flat([list(batch)]) for batch in results]
    found = [item.path if isinstance(item, lp.Failure) else item for batch in batches for item in batch]
    assert found == expected if ordered else Counter(map(repr, found)) == Counter(map(repr, expected))
    assert len(batches) == -(-count // size)
    for failure in (item for batch in batches for item in batch if isinstance(item, lp.Failure)):
        assert (failure.error, failure.attempts) == ("ValueError", retries + 1)
        assert failure.message == f"number {int(failure.path[1][-4:])} is bad"
        assert "in __call__" in failure.traceback
        assert "tasks.py" not in failure.traceback  # it begins where the user's code does
        assert failure.traceback.splitlines()[-1].startswith(("ValueError: number", "lotproc:"))
        assert pickle.loads(pickle.dumps(failure)) == failure


@settings(max_examples=6)  # each death costs the start of another worker
@given(
    job=st.tuples(st.integers(0, 10), st.integers(1, 5)),
    raising=st.sets(st.integers(0, 9), max_size=2),
    killing=st.sets(st.integers(0, 9), max_size=2),
    ending=st.sets(st.integers(0, 9), max_size=1),
    workers=st.integers(1, 3),
    ordered=st.booleans(),
)
def test_a_record_that_kills_its_worker_costs_that_record_and_no_other(
    job: tuple[int, int], raising: set[int], killing: set[int], ending: set[int], workers: int, ordered: bool
) -> None:
    count, size = job
    results = lp.parallel_map(
        lp.each(Work(raising, killing, ending)),
        lp.chunked(size, records(count)),
        max_workers=workers,
        ordered=ordered,
        on_error="collect",
    )
    found = {item.path: item for item in flat(results)}
    assert list(found) == [path(n) for n in range(count)] or not ordered
    assert len(found) == count
    for n in range(count):
        item = found[path(n)]
        if n in raising:
            assert (item.error, item.message) == ("ValueError", f"number {n} is bad")
        elif n in killing:
            assert (item.error, item.message) == (
                "WorkerDiedError",
                "its worker process was killed by SIGKILL; was memory short?",
            )
        elif n in ending:
            assert (item.error, item.message) == ("WorkerDiedError", "its worker process ended with exit code 7")
        else:
            assert item == lp.ProcessResult(path(n), output=2 * n)


@settings(max_examples=examples(60))
@given(job=jobs, bad=some, mode=st.sampled_from(MODES), ordered=st.booleans())
def test_skipped_records_leave_the_others_in_their_batches(
    job: tuple[int, int], bad: set[int], mode: Any, ordered: bool
) -> None:
    count, size = job
    results = lp.parallel_map(
        lp.each(Work(bad)), lp.chunked(size, records(count)), mode=mode, ordered=ordered, on_error="skip", max_workers=2
    )
    numbers = [[n for n in range(start, min(start + size, count)) if n not in bad] for start in range(0, count, size)]
    expected = [[lp.ProcessResult(path(n), output=2 * n) for n in batch] for batch in numbers]
    found = list(results)
    assert found == expected if ordered else sorted(map(repr, found)) == sorted(map(repr, expected))


@settings(max_examples=examples(60))
@given(job=jobs, bad=some, mode=st.sampled_from(MODES))
def test_a_function_gets_each_failure_and_says_what_takes_its_place(
    job: tuple[int, int], bad: set[int], mode: Any
) -> None:
    count, size = job
    seen: list[lp.Failure] = []

    def instead(failure: lp.Failure) -> lp.ProcessResult | None:
        seen.append(failure)
        return lp.ProcessResult(failure.path, output=-1) if int(failure.path[1][-4:]) % 2 else None

    batches = lp.chunked(size, records(count))
    found = flat(lp.parallel_map(lp.each(Work(bad)), batches, mode=mode, on_error=instead, max_workers=2))
    assert [failure.path for failure in seen] == [path(n) for n in sorted(bad) if n < count]
    assert found == [
        lp.ProcessResult(path(n), output=-1 if n in bad else 2 * n) for n in range(count) if n not in bad or n % 2
    ]


@settings(max_examples=examples(60))
@given(
    fails=st.lists(st.integers(0, 4), min_size=1, max_size=9),
    size=st.integers(1, 4),
    retries=st.integers(0, 3),
    mode=st.sampled_from(["sync", "thread"]),
    collect=st.booleans(),
)
def test_a_record_is_tried_as_often_as_it_takes_and_may(
    fails: list[int], size: int, retries: int, mode: Any, collect: bool
) -> None:
    """Each record fails so many times, however it is run."""
    left = dict(enumerate(fails))

    def work(record: lp.NodeRecord) -> int:
        n: int = record.attributes["n"]
        if left[n]:
            left[n] -= 1
            raise OSError("not now")
        return n

    oracle, expected, in_time = dict(enumerate(fails)), [], True

    def runs(numbers: Iterable[int]) -> bool:
        """Run some records together: the first that still fails ends it."""
        for n in numbers:
            if oracle[n]:
                oracle[n] -= 1
                return False
        return True

    for start in range(0, len(fails), size):
        numbers = range(start, min(start + size, len(fails)))
        if collect:
            if runs(numbers):
                expected += numbers
                continue
            for n in numbers:
                tried = 1 if len(numbers) == 1 else 0
                done = any(runs([n]) for _ in range(retries + 1 - tried))
                expected.append(n if done else (path(n), retries + 1))
        elif any(runs(numbers) for _ in range(retries + 1)):  # the batch as it is
            expected += numbers
        else:
            in_time = False
            break
    options = {"mode": mode, "max_workers": 1, "buffersize": 1, "retries": retries}
    batches = lp.chunked(size, records(len(fails)))
    if collect or in_time:
        found = flat(lp.parallel_map(lp.each(work), batches, on_error="collect" if collect else "raise", **options))
        assert [(f.path, f.attempts) if isinstance(f, lp.Failure) else f for f in found] == expected
        assert left == oracle
    else:
        with pytest.raises(OSError, match="not now"):
            list(lp.parallel_map(lp.each(work), batches, **options))


class Flaky:
    """A processor of records that fails so many times with each of them, in whatever process; it counts its calls."""

    def __init__(self, folder: Path, fails: list[int], unsent: Iterable[int] = ()) -> None:
        self.folder, self.fails, self.unsent = folder, fails, frozenset(unsent)

    def __call__(self, record: lp.NodeRecord) -> lp.ProcessResult:
        n = record.attributes["n"]
        with open(self.folder / str(n), "ab") as calls:
            calls.write(b".")
            calls.flush()
            made = calls.tell()
        if made <= self.fails[n]:
            raise OSError(f"not now: {n}")
        return lp.ProcessResult(record.path, output=threading.Lock() if n in self.unsent else n)

    def calls(self) -> list[int]:
        """How often it was called with each record."""
        files = [self.folder / str(n) for n in range(len(self.fails))]
        return [file.stat().st_size if file.exists() else 0 for file in files]


#: Processors of whose results some are kept where a record fails, and others, that are called again with all of it.
LIFTED: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "each": lp.each,
    "outputs": lambda work: lp.outputs(ValueOf(work)),
}
WHOLE: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "a stage behind it": lambda work: compose_left(lp.each(work), list),
    "a stage before it": lambda work: compose_left(list, lp.each(work)),
    "two of them": lambda work: compose_left(lp.each(work), lp.each(_same)),
    "one in a function": lambda work: lambda batch: lp.each(work, batch)[::-1][::-1],
}


@settings(max_examples=examples(60))
@given(
    fails=st.lists(st.sampled_from([0, 0, 0, 1, 2, 9]), max_size=14),
    size=st.integers(1, 8),
    retries=st.integers(0, 2),
    mode=st.sampled_from(MODES),
    kind=st.sampled_from([*LIFTED, *WHOLE]),
    as_tuples=st.booleans(),
)
def test_what_was_made_before_a_record_failed_is_kept_and_all_else_as_if_the_whole_batch_ran_again(
    fails: list[int], size: int, retries: int, mode: Any, kind: str, as_tuples: bool
) -> None:
    def run(mode: Any) -> tuple[list[Any], list[int]]:
        with tempfile.TemporaryDirectory() as folder:
            flaky = Flaky(Path(folder), fails)
            batches = (tuple(batch) if as_tuples else batch for batch in lp.chunked(size, records(len(fails))))
            options = {"mode": mode, "max_workers": WORKERS, "retries": retries, "on_error": "collect"}
            found = flat(map(list, lp.parallel_map({**LIFTED, **WHOLE}[kind](flaky), batches, **options)))
            return found, flaky.calls()

    found, calls = run(mode)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lotproc.workers.tasks.FAST", False)
        expected, most = run("sync")
    assert list(map(_untraced, found)) == list(map(_untraced, expected))
    assert mode != "sync" or found == expected  # with the same tracebacks, too
    batches = [range(start, min(start + size, len(fails))) for start in range(0, len(fails), size)]
    before = {n for batch in batches for n in itertools.takewhile(lambda n: not fails[n], batch)}
    is_kept = FAST and kind in LIFTED
    assert calls == [1 if is_kept and n in before else count for n, count in enumerate(most)]


def _untraced(item: Any) -> Any:
    return dataclasses.replace(item, traceback="") if isinstance(item, lp.Failure) else item


@pytest.mark.parametrize("kind", LIFTED)
def test_of_results_that_can_not_travel_alone_the_others_are_kept(kind: str, tmp_path: Path) -> None:
    flaky = Flaky(tmp_path, [0, 0, 1, 0], unsent={1})
    found = flat(lp.parallel_map(LIFTED[kind](flaky), [records(4)], on_error="collect", max_workers=1))
    assert [getattr(item, "error", item.path) for item in found] == [path(0), "NotPicklableError", path(2), path(3)]
    assert flaky.calls() == ([1, 2, 2, 1] if FAST else [2, 2, 2, 1])


# Single cases


def test_only_the_named_errors_are_tried_again() -> None:
    calls: list[str] = []

    def work(record: lp.NodeRecord) -> None:
        calls.append(record.key)
        raise (OSError if record.attributes["n"] == 0 else ValueError)("bad")

    for kinds in (OSError, (KeyError, OSError)):
        calls.clear()
        failures = flat(
            lp.parallel_map(
                lp.each(work), [[r] for r in records(2)], mode="sync", on_error="collect", retries=2, retry_on=kinds
            )
        )
        assert [failure.attempts for failure in failures] == [3, 1]
        assert Counter(calls) == {"clip_0000": 3, "clip_0001": 1}


def mean(batch: list[lp.NodeRecord]) -> float:
    return sum(record.attributes["n"] for record in batch) / len(batch)


@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_a_worker_that_dies_by_chance_changes_no_result(on_error: Any, tmp_path: Path) -> None:
    def work(batch: list[lp.NodeRecord]) -> float:
        died = tmp_path / batch[0].key
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return mean(batch)

    batches = list(lp.chunked(4, records(6)))
    assert list(lp.parallel_map(work, batches, max_workers=2, on_error=on_error)) == list(map(mean, batches))


def test_where_errors_are_raised_parts_of_a_batch_never_pass_for_its_result() -> None:
    def work(batch: list[lp.NodeRecord]) -> float:
        if len(batch) > 2:
            os._exit(9)
        return mean(batch)

    with pytest.raises(lp.WorkerDiedError, match="the batch as a whole: its worker process ended with exit code 9"):
        list(lp.parallel_map(work, [records(4)], max_workers=2))


@pytest.mark.parametrize("mode", MODES)
def test_iterators_as_batches_are_gone_through_once_and_lose_nothing(mode: Any, tmp_path: Path) -> None:
    def work(batch: Iterable[lp.NodeRecord]) -> list[int]:
        found = []
        for record in batch:
            if record.attributes["n"] == 2 and not (tmp_path / "failed").exists():
                (tmp_path / "failed").touch()
                raise OSError("not now")
            found.append(record.attributes["n"])
        return found

    batches = (iter(records(4)) for _ in range(2))
    assert list(lp.parallel_map(work, batches, mode=mode, max_workers=1, retries=1)) == [[0, 1, 2, 3]] * 2
    (tmp_path / "failed").unlink()
    found = flat(lp.parallel_map(work, [iter(records(4))], mode=mode, max_workers=1, on_error="collect"))
    assert found == [0, 1, 2, 3]


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_that_only_fails_as_a_whole_costs_nothing(mode: Any) -> None:
    def work(batch: list[lp.NodeRecord]) -> list[str]:
        if len(batch) > 1:
            raise MemoryError("too much at once")
        return [record.key for record in batch]

    found = flat(lp.parallel_map(work, [records(3)], mode=mode, on_error="collect"))
    assert found == ["clip_0000", "clip_0001", "clip_0002"]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_no_batch_of_records_fails_as_a_whole(mode: Any) -> None:
    def work(number: int) -> float:
        return 1 / number

    found = list(lp.parallel_map(work, [1, 0, 2], mode=mode, on_error="collect"))
    assert found[::2] == [1.0, 0.5]
    assert (found[1].path, found[1].item, str(found[1])) == (
        None,
        "int 0",
        "int 0: ZeroDivisionError: division by zero",
    )
    assert list(lp.parallel_map(work, [1, 0, 2], mode=mode, on_error="skip")) == [1.0, 0.5]
    assert list(lp.parallel_map(len, [[], 3, [1]], mode=mode, on_error=lambda failure: failure.item)) == [0, "int 3", 1]


def test_failures_go_through_the_stages_behind_untouched() -> None:
    halfway = lp.parallel_map(lp.each(Work({1})), [records(3)], mode="sync", on_error="collect")
    (batch,) = lp.parallel_map(lp.each(lambda result: result.output), halfway, mode="thread")
    assert [batch[0], batch[1].path, batch[2]] == [0, path(1), 4]


@pytest.mark.parametrize("mode", MODES)
def test_a_single_record_as_a_batch_has_its_failure_in_its_place(mode: Any) -> None:
    found = list(lp.parallel_map(Work({1}), records(3), mode=mode, on_error="collect"))
    assert [item.path for item in found] == [path(0), path(1), path(2)]
    assert [type(item) for item in found] == [lp.ProcessResult, lp.Failure, lp.ProcessResult]


def test_a_result_or_a_record_that_can_not_travel_costs_one_record() -> None:
    def work(record: lp.NodeRecord) -> Any:
        return threading.Lock() if record.attributes["n"] == 1 else record.attributes["n"]

    found = flat(lp.parallel_map(lp.each(work), [records(3)], on_error="collect"))
    assert [found[0], found[1].path, found[2]] == [0, path(1), 2]
    assert found[1].error == "NotPicklableError"
    assert "cannot pickle" in found[1].message
    unsent = [*records(2), lp.NodeRecord(path(2), "clip_0002", {"n": threading.Lock()})]
    found = flat(lp.parallel_map(lp.each(Work()), [unsent], on_error="collect"))
    assert [item.path for item in found] == [path(0), path(1), path(2)]
    assert found[2].error == "NotPicklableError"


@pytest.mark.parametrize("mode", [*MODES, "executor"])
def test_errors_that_are_no_fault_of_a_record_end_the_run_whatever_on_error_is(mode: Any) -> None:
    with ThreadPoolExecutor(1) as threads:
        where: dict[str, Any] = {"executor": threads} if mode == "executor" else {"mode": mode}
        for on_error in ("collect", "skip", lambda failure: None):
            with pytest.raises(lp.LiveNodeError):
                list(lp.parallel_map(len, [[1], [BaseNode("root")]], on_error=on_error, **where))
            with pytest.raises(OSError, match="the disk is gone"):
                list(lp.parallel_map(len, Source([[1]], OSError("the disk is gone")), on_error=on_error, **where))
            with pytest.raises(LookupError, match="in on_error"):
                list(lp.parallel_map(lambda batch: 1 / 0, [[1]], on_error=_raise_lookup_error, **where))


def _raise_lookup_error(failure: lp.Failure) -> None:
    raise LookupError("in on_error")


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_a_processor_that_calls_exit_costs_its_record(mode: Any) -> None:
    def work(record: lp.NodeRecord) -> int:
        if record.attributes["n"] == 1:
            sys.exit("usage: convert FILE")
        return 0

    found = flat(lp.parallel_map(lp.each(work), [records(3)], mode=mode, on_error="collect"))
    assert (found[1].path, found[1].message) == (path(1), "SystemExit: usage: convert FILE")
    with pytest.raises(lp.ProcessorError, match="SystemExit: usage: convert FILE"):
        list(lp.parallel_map(lp.each(work), [records(3)], mode=mode))


def test_in_line_exit_is_for_the_program() -> None:
    with pytest.raises(SystemExit):
        list(lp.parallel_map(lambda batch: sys.exit(3), [records(1)], mode="sync", on_error="collect"))


# Executors that are handed in


@pytest.fixture(scope="module", params=["threads", "processes", "inline"])
def executor(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "inline":
        yield InlineExecutor()
    elif request.param == "threads":
        with ThreadPoolExecutor(WORKERS) as threads:
            yield threads
    else:
        with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as processes:
            yield processes


@settings(max_examples=examples(30))
@given(job=jobs, bad=some, ordered=st.booleans())
def test_on_any_executor_each_bad_record_comes_once(
    executor: Any, job: tuple[int, int], bad: set[int], ordered: bool
) -> None:
    count, size = job
    work = lp.each(Work(bad))
    found = flat(
        lp.parallel_map(work, lp.chunked(size, records(count)), executor=executor, ordered=ordered, on_error="collect")
    )
    assert sorted(item.path for item in found) == [path(n) for n in range(count)]
    assert {item.path for item in found if isinstance(item, lp.Failure)} == {path(n) for n in bad if n < count}


def test_an_executor_that_loses_a_batch_has_it_run_again_in_halves() -> None:
    class Losing(InlineExecutor):
        """As Dask does when the same task killed several workers: it fails, and the others go on."""

        def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
            is_probe = len(args) == 1
            if not is_probe and any(record.attributes["n"] == 5 for record in pickle.loads(args[-1])[1]):
                return super().submit(functools.partial(_raise, RuntimeError("attempted to run on 3 workers")))
            return super().submit(fn, *args)

    found = flat(lp.parallel_map(lp.each(Work()), lp.chunked(4, records(9)), executor=Losing(), on_error="collect"))
    assert [item.path for item in found] == [path(n) for n in range(9)]
    assert [item.path for item in found if isinstance(item, lp.Failure)] == [path(5)]


def _raise(error: Exception) -> None:
    raise error


def test_an_executor_that_is_broken_ends_the_run() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        results = lp.parallel_map(os._exit, [3], executor=processes, on_error="collect")
        with pytest.raises(BrokenExecutor) as raised:
            list(results)
    assert isinstance(raised.value, lp.WorkerDiedError)
    assert isinstance(raised.value.__cause__, BrokenExecutor)
    assert raised.value.path is None  # that of no record
    assert "pending" in (raised.value.hint or "")


# Workers


def test_a_worker_that_takes_too_long_is_stopped_and_its_record_is_found(tmp_path: Path) -> None:
    def work(record: lp.NodeRecord) -> str:
        if record.attributes["n"] == 2:
            (tmp_path / f"{os.getpid()}").touch()
            os.read(os.pipe()[0], 1)  # for ever
        return record.key

    found = flat(lp.parallel_map(lp.each(work), [records(4)], max_workers=2, timeout=1, on_error="collect"))
    assert [found[0], found[1], found[3]] == ["clip_0000", "clip_0001", "clip_0003"]
    assert str(found[2]) == (
        "ann/clip_0002: WorkerTimeoutError: it took longer than timeout=1 s, and its worker process was stopped"
    )
    with pytest.raises(lp.WorkerTimeoutError, match="parallel_map: ann/clip_0002: it took longer than timeout=0.5 s"):
        list(lp.parallel_map(lp.each(work), [records(4)[2:]], timeout=0.5))
    stopped = {int(file.name) for file in tmp_path.iterdir()}
    assert stopped
    assert stopped.isdisjoint(worker_pids())


def test_a_dead_worker_is_tried_again_where_that_is_asked_for(tmp_path: Path) -> None:
    def work(record: lp.NodeRecord) -> int:
        with open(tmp_path / record.key, "ab") as tries:
            tries.write(b".")
            tries.flush()
            if tries.tell() < 4:
                os.kill(os.getpid(), signal.SIGKILL)
        return record.attributes["n"]

    found = flat(lp.parallel_map(lp.each(work), [records(1)], on_error="collect", retries=2, max_workers=1))
    assert found == [0]
    (tmp_path / "clip_0000").unlink()
    found = flat(lp.parallel_map(lp.each(work), [records(1)], on_error="collect", retries=9, retry_on=OSError))
    assert [failure.attempts for failure in found] == [2]


def test_a_worker_that_dies_names_its_record_and_the_batches_before_it_come_first() -> None:
    arrived: list[Any] = []
    with pytest.raises(lp.WorkerDiedError, match="ann/clip_0005: its worker process was killed by SIGKILL") as raised:
        arrived.extend(lp.parallel_map(lp.each(Work(killing={5})), lp.chunked(2, records(12)), max_workers=2))
    assert [result.path for batch in arrived for result in batch] == [path(n) for n in range(4)]
    assert raised.value.path == path(5)
    assert raised.value.__notes__ == ["lotproc: in batch 2, ann/clip_0004 to ann/clip_0005"]


def test_workers_killed_at_random_lose_nothing() -> None:
    """Whatever dies, whenever it does: each record gives its result, once, and the run ends; a soak does it longer."""

    def work(record: lp.NodeRecord) -> tuple[int, int]:
        time.sleep(0.001)
        return record.attributes["n"], os.getpid()

    kills, pulled = 0, 0
    is_over = threading.Event()

    def kill() -> None:
        nonlocal kills
        before = 0
        while not is_over.wait(random.uniform(0.05, 0.6)):
            workers = worker_pids()
            if workers and pulled > before:  # on a slow machine, not one after the other while they begin
                before = pulled
                with suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(random.choice(workers), signal.SIGKILL)
                    kills += 1

    def source() -> Iterator[lp.NodeRecord]:
        nonlocal pulled
        while kills < 7:
            yield lp.NodeRecord(path(pulled), "clip", {"n": pulled})
            pulled += 1

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        results = lp.parallel_map(
            lp.each(work), lp.chunked(20, source()), max_workers=WORKERS, on_error="collect", retries=50
        )
        found = flat(results)
    finally:
        is_over.set()
        killer.join()
    assert [item[0] for item in found] == list(range(len(found)))
    assert len({item[1] for item in found}) > 2


def test_a_batch_that_does_not_fit_into_a_worker_costs_what_does_not_fit() -> None:
    def begin() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    batch = [lp.NodeRecord((key,), key, {"data": bytes(size)}) for key, size in (("a", 9), ("b", 200 << 20))]
    found = flat(
        lp.parallel_map(
            lp.each(lambda record: record.key), [batch], max_workers=1, initializer=begin, on_error="collect"
        )
    )
    assert [found[0], found[1].path, found[1].error] == ["a", ("b",), "WorkerDiedError"]


@pytest.mark.parametrize("mode", MODES)
def test_an_initializer_is_called_once_in_each_worker_before_its_first_batch(mode: Any, tmp_path: Path) -> None:
    def begin() -> None:
        (tmp_path / f"{os.getpid()} {threading.get_ident()}").touch()

    def work(batch: list[int]) -> str:
        return f"{os.getpid()} {threading.get_ident()}"

    used = set(lp.parallel_map(work, [[n] for n in range(12)], mode=mode, max_workers=2, initializer=begin))
    assert used <= {file.name for file in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) <= (1 if mode == "sync" else 2)


@pytest.mark.parametrize("mode", MODES)
def test_an_initializer_that_fails_ends_the_run(mode: Any) -> None:
    def begin() -> None:
        raise OSError("no model here")

    with pytest.raises(lp.NotReadyError, match="OSError: no model here") as raised:
        list(lp.parallel_map(len, [[1]], mode=mode, initializer=begin, on_error="collect"))
    assert isinstance(raised.value.__cause__, OSError)


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_an_initializer_that_calls_exit_ends_the_run(mode: Any) -> None:
    with pytest.raises(lp.NotReadyError, match="SystemExit.* 3|SystemExit.3"):
        list(lp.parallel_map(len, [[1]], mode=mode, initializer=functools.partial(sys.exit, 3)))


def test_workers_that_die_before_they_begin_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lotproc.workers.pool.MOST_STARTS", 3)
    with pytest.raises(lp.NotReadyError, match="3 worker processes in turn ended before .* exit code 4"):
        list(lp.parallel_map(len, [[1]], initializer=functools.partial(os._exit, 4), on_error="collect"))


def killed_at_first(log: Path, times: int) -> None:
    """Kill the worker that this is called in, so many times."""
    with log.open("ab") as file:
        file.write(b".")
    if log.stat().st_size <= times:
        os.kill(os.getpid(), signal.SIGKILL)


def test_workers_that_somebody_kills_before_they_begin_are_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lotproc.workers.pool.MOST_STARTS", 2)
    begin = functools.partial(killed_at_first, tmp_path / "log", 3)
    assert list(lp.parallel_map(len, [[1]], initializer=begin, max_workers=1)) == [1]
    assert (tmp_path / "log").stat().st_size == 4


def test_workers_that_are_killed_for_too_long_before_they_begin_end_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lotproc.workers.pool.MOST_STARTS", 2)
    monkeypatch.setattr("lotproc.workers.pool.MOST_SECONDS", 0.0)
    begin = functools.partial(killed_at_first, tmp_path / "log", 4)
    with pytest.raises(lp.NotReadyError) as raised:
        list(lp.parallel_map(len, [[1]], initializer=begin, max_workers=1))
    assert "SIGKILL" in str(raised.value.hint)
    assert (tmp_path / "log").stat().st_size == 2


def test_workers_that_end_before_they_read_what_they_are_told_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lotproc.workers.pool.MOST_STARTS", 2)
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    monkeypatch.setattr(sys, "argv", ["more than a pipe holds" * 10_000])
    with pytest.raises(lp.NotReadyError) as raised:
        list(lp.parallel_map(len, [[1]], initializer=int, max_workers=1))
    assert "exit code 0" in str(raised.value.hint)


def test_a_processor_that_can_not_be_loaded_in_a_worker_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    only_here = ModuleType("only_here")
    exec("def work(batch):\n    return len(batch)\n", vars(only_here))
    monkeypatch.setitem(sys.modules, "only_here", only_here)
    with pytest.raises(lp.NotReadyError, match="ModuleNotFoundError: No module named 'only_here'"):
        list(lp.parallel_map(only_here.work, [[1]], on_error="collect", max_workers=1))


def test_a_worker_gets_so_many_batches_and_no_more() -> None:
    pids = list(
        lp.parallel_map(lambda batch: os.getpid(), [[n] for n in range(5)], max_workers=1, max_tasks_per_child=3)
    )
    assert sorted(Counter(pids).values()) == [2, 3]
    again = list(lp.parallel_map(lambda batch: os.getpid(), [[1]], max_workers=1))
    assert not set(again) & set(pids)


def test_kept_workers_are_where_their_caller_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(batch: list[int]) -> Any:
        os.environ["OF_THE_WORKER"] = "1"
        return os.getpid(), os.getcwd(), os.environ.get("LOTPROC_TEST"), sys.path[0]

    def call() -> Any:
        (found,) = lp.parallel_map(work, [[1]], max_workers=1)
        return found

    first = call()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOTPROC_TEST", "é")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert call() == (first[0], str(tmp_path), "é", str(tmp_path))
    monkeypatch.undo()
    assert call() == first


def test_a_child_that_a_processor_forks_and_forgets_answers_for_nobody() -> None:
    def work(batch: list[int]) -> list[int]:
        if batch == [1]:
            child = os.fork()
            if child == 0:
                raise ValueError("in the child")
            os.waitpid(child, 0)
        return [10 * number for number in batch]

    batches = [[n] for n in range(4)]
    assert list(lp.parallel_map(work, batches, max_workers=1, on_error="collect")) == [[0], [10], [20], [30]]
    assert list(lp.parallel_map(sum, [[1, 2]], max_workers=1)) == [3]


def test_a_kept_worker_that_does_not_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    (pid,) = lp.parallel_map(lambda batch: os.getpid(), [[1]], max_workers=1)
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr("lotproc.workers.pool.PATIENCE", 0.2)
    assert list(lp.parallel_map(sum, [[1, 2]], max_workers=1)) == [3]


@pytest.mark.parametrize("mode", MODES)
def test_errors_of_classes_that_no_module_has_come_out_as_they_are(mode: Any) -> None:
    class MyError(Exception):
        pass

    def work(batch: list[int]) -> None:
        raise MyError("mine")

    with pytest.raises(MyError, match="mine") as raised:
        list(lp.parallel_map(work, [[1]], mode=mode))
    assert raised.value.__notes__ == ["lotproc: in batch 0, int 1"]


@pytest.mark.parametrize("mode", MODES)
def test_errors_that_say_nothing_or_too_much_are_told_all_the_same(mode: Any) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def work(number: int) -> None:
        raise Mute if number else ValueError("x" * 10_000_000)

    mute, loud = lp.parallel_map(work, [1, 0], mode=mode, on_error="collect")
    assert mute.error.endswith("Mute")
    assert mute.message == "it can't say what it is: RuntimeError"
    assert len(loud.message) < 30_000
    assert len(pickle.dumps(loud)) < 100_000


def test_an_error_in_on_error_says_for_which_failure() -> None:
    with pytest.raises(LookupError) as raised:
        list(lp.parallel_map(lambda batch: 1 / 0, [records(1)], mode="sync", on_error=_raise_lookup_error))
    assert raised.value.__notes__ == ["lotproc: in on_error, for ann/clip_0000: ZeroDivisionError: division by zero"]


def test_failures_make_a_table_also_without_paths() -> None:
    failures = [lp.Failure(("a", "b"), "ValueError", "bad"), lp.Failure(None, "OSError", "gone", item="int 3")]
    assert list(lp.to_rows(failures)) == [
        {"TreeLevel_1": "a", "TreeLevel_2": "b", "error": "ValueError", "message": "bad", "attempts": 1},
        {"error": "OSError", "message": "gone", "attempts": 1, "item": "int 3"},
    ]


# Programs around a call

PROGRAMS = {
    "it ends while a thread of it is at work": """
import threading, time
import lotproc as lp

list(lp.parallel_map(len, [[1], [2]], max_workers=2))
begun = threading.Event()

def source():
    yield from ([1], [2])
    begun.set()
    yield from ([n] for n in range(100))

def work(batch):
    time.sleep(1000)

def run():
    print(len(list(lp.parallel_map(work, source(), max_workers=2, buffersize=3, on_error="collect"))))

threading.Thread(target=run, daemon=True).start()
begun.wait()
print("end")
""",
    "it ends around a call": """
import time
import traceback
import lotproc as lp

def wait(seconds):
    time.sleep(seconds)

processes = lp.parallel_map(wait, [0, 1000], max_workers=1)
threads = lp.parallel_map(wait, [0, 1000], mode="thread", max_workers=1)
next(processes), next(threads)
print("end")
""",
    "it is spawned": """
import multiprocessing
import lotproc as lp

def double(batch):
    return [2 * number for number in batch]

def child():
    assert list(lp.parallel_map(double, [[1], [2]], max_workers=1)) == [[2], [4]]
    print("end", flush=True)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join()
""",
    "it is a daemon": """
import multiprocessing
import lotproc as lp

def child():
    try:
        list(lp.parallel_map(len, [[1]], max_workers=1))
    except lp.NotReadyError as error:
        assert 'use mode="thread"' in str(error), error
        print("end", flush=True)

if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
    process.start()
    process.join()
""",
    "it is interrupted twice": """
import os, signal, threading, time
import lotproc as lp
from lotproc.workers.pool import process_pool

signal.signal(signal.SIGINT, signal.default_int_handler)

def work(number):
    if number == 0:
        return
    os.kill(os.getppid(), signal.SIGINT)
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(1000)

for _ in range(2):
    try:
        list(lp.parallel_map(work, [0, 1, 1, 1], max_workers=3))
    except KeyboardInterrupt:
        pass
    try:
        time.sleep(0.1)  # the rest of the signals
    except KeyboardInterrupt:
        pass

left = [thread for thread in threading.enumerate() if thread.name.startswith("lotproc")]
assert not left, left
kept = process_pool()
assert len(kept.all) == len(kept.idle), kept.all
print("end")
""",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_ends_and_leaves_nothing_when(program: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROGRAMS[program])
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50, start_new_session=True)
    assert (done.stdout, done.returncode) == ("end\n", 0), done.stderr
    if program != "it ends while a thread of it is at work":  # which may still tell that its call is over
        assert "Traceback" not in done.stderr, done.stderr


@settings(max_examples=8)
@given(
    count=st.integers(0, 30),
    first=st.tuples(st.sampled_from([*MODES, "executor"]), st.integers(1, 4), st.booleans()),
    second=st.tuples(st.sampled_from([*MODES, "executor"]), st.integers(1, 4), st.booleans()),
    size=st.integers(1, 3),
    bad=st.sets(st.integers(0, 29), max_size=5),
    killing=st.sets(st.integers(0, 29), max_size=1),
    stop=st.integers(0, 12),
)
def test_the_bound_holds_through_chained_stages_that_fail_and_stop_early(
    executor: Any, count: int, first: Any, second: Any, size: int, bad: set[int], killing: set[int], stop: int
) -> None:
    if first[0] != "process":
        killing = set()
    pulled, given, in_flight = 0, 0, []

    def source() -> Iterator[lp.NodeRecord]:
        nonlocal pulled
        for record in records(count):
            pulled += 1
            in_flight.append(pulled - given)
            yield record

    def staged(fn: Any, batches: Any, stage: Any) -> Iterator[Any]:
        mode, buffersize, ordered = stage
        place = {"executor": executor} if mode == "executor" else {"mode": mode, "max_workers": 2}
        return lp.parallel_map(fn, batches, buffersize=buffersize, ordered=ordered, on_error="collect", **place)

    counted = Source(source())
    halfway = staged(lp.each(Work(bad, killing)), lp.chunked(size, counted), first)
    results = staged(lp.each(_same), halfway, second)
    for batch in results:
        given += len(batch)
        stop -= 1
        if stop <= 0:
            break
    results.close()
    bounds = [1 if mode == "sync" else buffersize for mode, buffersize, _ in (first, second)]
    assert max(in_flight, default=0) <= size * (bounds[0] + bounds[1])
    assert counted.closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lotproc")]


def _same(item: Any) -> Any:
    return item


def test_closing_ends_worker_processes_that_are_at_work(tmp_path: Path) -> None:
    def work(batch: list[int]) -> int:
        if batch[0]:
            (tmp_path / str(os.getpid())).touch()
            os.read(os.pipe()[0], 1)  # for ever
        return batch[0]

    results = lp.parallel_map(work, [[1], [0]], max_workers=2, buffersize=2, ordered=False)
    assert next(results) == 0
    while not (at_work := list(tmp_path.iterdir())):
        time.sleep(0.001)
    results.close()
    assert int(at_work[0].name) not in worker_pids()


# Partitions


@settings(max_examples=8)
@given(
    tree=st.sets(st.tuples(st.sampled_from("abc"), st.sampled_from("de"), st.sampled_from("fghij")), min_size=1),
    data=st.data(),
    parts=st.integers(1, 4),
    mode=st.sampled_from(["sync", "process"]),
)
def test_a_bad_node_of_a_partition_costs_that_node(
    tree: set[tuple[str, ...]], data: Any, parts: int, mode: Any
) -> None:
    bad = data.draw(st.sets(st.sampled_from(sorted(tree)), max_size=3))
    killing = data.draw(st.sets(st.sampled_from(sorted(tree)), max_size=1)) if mode == "process" else set()
    with database() as db:
        root = db.open_connection()
        for leaf in tree:
            root.gns(leaf).gns(["_proc", "old"])
        db.commit()

        def work(record: lp.NodeRecord) -> lp.ProcessResult:
            if record.path in killing:
                os.kill(os.getpid(), signal.SIGKILL)
            if record.path in bad:
                raise ValueError("bad")
            return lp.ProcessResult(record.path)

        results = lp.parallel_map(
            compose_left(lp.scan((), skip="_*"), lp.each(work)),
            lp.partitions(parts, root),
            mode=mode,
            max_workers=2,
            on_error="collect",
        )
        found = flat(flat(results))
    failures = [item for item in found if isinstance(item, lp.Failure)]
    assert sorted(failure.path for failure in failures) == sorted(bad | killing)
    assert sorted(item.path for item in found) == sorted(tree)


# Interrupts

PROGRAM = """
import os, signal, sys, threading, time
import lotproc as lp
from lotdb import LOTDB

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
mode, folder = sys.argv[1:]

def work(record):
    if record.attributes["n"] == 7:
        os.write(1, b"%d at work\\n" % os.getpid())
        os.read(os.pipe()[0], 1)  # for ever
    return lp.ProcessResult(record.path, output=record.attributes["n"])

if __name__ == "__main__":
    records = [lp.NodeRecord((f"clip_{n}",), f"clip_{n}", {"n": n}) for n in range(9)]
    database = LOTDB(path=folder, name="results.fs", new=True)
    root = database.open_connection()
    results = lp.parallel_map(
        lp.each(work), lp.chunked(1, records), mode=mode, max_workers=2, buffersize=4, on_error="collect"
    )
    try:
        lp.write(lp.mirror(), root, results, commit_every=2)
    except KeyboardInterrupt as interrupt:
        print(interrupt.report, flush=True)
        raise
"""


@pytest.mark.parametrize("mode", ["sync", "thread", "process"])
def test_an_interrupt_ends_the_run_its_workers_and_the_program_and_keeps_what_was_committed(
    mode: str, tmp_path: Path
) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    try:
        worker = int(program.stdout.readline().split()[0])
        program.send_signal(signal.SIGINT)
        output, errors = program.communicate(timeout=100)  # both streams end when no process is left to hold them
    finally:
        program.kill()
    assert program.returncode != 0
    assert "\nKeyboardInterrupt\n" in f"{errors}\n"
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    db = LOTDB(path=str(tmp_path), name="results.fs")
    keys = sorted(db.open_connection().all_node_keys())
    db.close()
    assert keys == [f"clip_{n}" for n in range(len(keys))]
    assert len(keys) in ((6,) if mode == "sync" else (0, 2, 4, 6))
    assert output == f"{lp.WriteReport(written=len(keys), commits=len(keys) // 2)}\n"


def test_an_interrupt_that_another_thread_takes_ends_the_run() -> None:
    released = threading.Event()

    def is_waiting() -> bool:
        """Whether the main thread waits for a result."""
        names = [frame.name for frame in traceback.extract_stack(sys._current_frames()[main])]
        return "next" in names

    def work(batch: list[int]) -> None:
        while not all(is_waiting() for _ in range(100) if not time.sleep(0.001)):  # for long enough to be asleep
            pass
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        slept.append(not released.wait(30))

    slept: list[bool] = []
    main = threading.get_ident()

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(lp.parallel_map(work, [[1]], mode="thread"))
        assert not slept
    finally:
        signal.signal(signal.SIGINT, handler)
        released.set()
