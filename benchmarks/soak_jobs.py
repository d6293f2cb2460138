"""What the soak program disturbs: jobs as users write them, in processes of their own.

`python -m benchmarks.soak_jobs NAME OPTIONS` with options in JSON; a job ends by printing what it did, in JSON as well.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from lotdb import BaseNode
from toolz import concat, pipe

import lotproc as lp
from benchmarks.trees import opened
from lotproc.resuming import pending

POLICY = lp.inline("_proc", "double")
VERSION = "v1"
BATCH = 50
WORKERS = 2
WORK_SECONDS = 0.0002
#: Numbers in the array that one in so many records has.
SAMPLES, SAMPLES_EVERY = 1 << 14, 32


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


class Counter:
    """Counts what passes."""

    def __init__(self) -> None:
        self.passed = 0

    def __call__(self, records: Iterable[lp.NodeRecord]) -> Iterator[lp.NodeRecord]:
        for record in records:
            self.passed += 1
            yield record


class Double:
    """A processor that takes its time: a little processor time, and for one in so many records a nap."""

    def __init__(self, nap_every: int = 0, nap_seconds: float = 0.0) -> None:
        self.nap_every, self.nap_seconds = nap_every, nap_seconds

    def __call__(self, record: lp.NodeRecord) -> lp.ProcessResult:
        number = record.attributes["n"]
        end = time.perf_counter() + WORK_SECONDS
        while time.perf_counter() < end:
            pass
        if self.nap_every and number % self.nap_every == 0:
            time.sleep(self.nap_seconds)
        return doubled(record)


def doubled(record: lp.NodeRecord) -> lp.ProcessResult:
    """All in a record twice: its number, and its samples where it has some."""
    samples = {name: 2 * value for name, value in record.attributes.items() if name == "samples"}
    return lp.ProcessResult(record.path, output=2 * record.attributes["n"], attributes=samples)


def double(
    folder: str,
    ledger: str,
    commit_every: int,
    mode: Any = "process",
    nap_every: int = 0,
    nap_seconds: float = 0.0,
    again: str | None = None,
) -> None:
    """Double every number in a tree, but for those that are doubled already.

    Where the disk is full, do it again on the same connection as soon as there is the file `again`.
    """
    processor = Double(nap_every, nap_seconds)
    with opened(Path(folder)) as database:
        root = database.open_connection()
        try:
            _double(root, ledger, commit_every, mode, processor)
        except OSError:
            if again is None:
                raise
            while not os.path.exists(again):
                time.sleep(0.005)
            _double(root, ledger, commit_every, mode, processor)


def _double(root: BaseNode, ledger: str, commit_every: int, mode: Any, processor: Double) -> None:
    counter = Counter()
    try:
        report = pipe(
            root,
            lp.scan("n", skip="_*"),
            pending(POLICY, root, version=VERSION),
            counter,
            lp.chunked(BATCH),
            lp.parallel_map(lp.each(processor), mode=mode, max_workers=WORKERS),
            lp.write(POLICY, root, commit_every=commit_every, version=VERSION, ledger=ledger),
        )
    except BaseException as error:
        report = getattr(error, "report", None)
        told = {"written": report.written, "commits": report.commits} if report else {}
        tell(processed=counter.passed, error=type(error).__name__, errno=getattr(error, "errno", None), **told)
        raise
    tell(processed=counter.passed, written=report.written, commits=report.commits)


def records(numbers: Iterable[int]) -> Iterator[lp.NodeRecord]:
    """Records, one in so many of them with an array that is too large for the pipe to a worker."""
    for n in numbers:
        samples = {} if n % SAMPLES_EVERY else {"samples": np.full(SAMPLES, n)}
        yield lp.NodeRecord((f"clip_{n:07}",), f"clip_{n:07}", {"n": n, **samples})


class Culprits:
    """A processor that notes in a file which of some records it was called with, and kills its process."""

    def __init__(self, numbers: list[int], notes: str) -> None:
        self.numbers, self.notes = frozenset(numbers), notes

    def __call__(self, record: lp.NodeRecord) -> lp.ProcessResult:
        number = record.attributes["n"]
        if number in self.numbers:
            with open(self.notes, "a") as notes:
                notes.write(f"{number}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return doubled(record)


def kill_workers(size: int, culprits: list[int], notes: str) -> None:
    """Process numbers of which some kill their worker."""
    results = lp.parallel_map(
        lp.each(Culprits(culprits, notes)), lp.chunked(4, records(range(size))), max_workers=WORKERS, on_error="collect"
    )
    _tell_results(results, size)


def work_until(seconds: float) -> None:
    """Process numbers for so many seconds, 5 ms each."""
    end = time.monotonic() + seconds
    counter = Counter()
    numbers = (n for n in count() if time.monotonic() < end or n % 20)

    def batches() -> Iterator[list[lp.NodeRecord]]:
        for batch in lp.chunked(20, counter(records(numbers))):
            yield batch
            if time.monotonic() >= end:
                return

    processor = lp.each(Double(nap_every=1, nap_seconds=0.005))
    results = lp.parallel_map(processor, batches(), max_workers=WORKERS, on_error="collect", retries=20)
    _tell_results(results, lambda: counter.passed)


def _tell_results(results: Iterable[Any], size: Any) -> None:
    """Tell which numbers failed and why, and which have no result that is right, in their order."""
    found = list(concat(results))
    total = size() if callable(size) else size
    failures = [(int((item.path or ("",))[0][5:]), item.error) for item in found if isinstance(item, lp.Failure)]
    failed = {number for number, _ in failures}
    expected = map(doubled, records(range(total)))
    wrong = [
        number
        for number, (have, want) in enumerate(zip(found, expected, strict=False))
        if have != want and number not in failed
    ]
    tell(records=total, items=len(found), failures=failures, wrong=wrong)


JOBS: dict[str, Callable[..., None]] = {"double": double, "kill_workers": kill_workers, "work_until": work_until}

if __name__ == "__main__":
    JOBS[sys.argv[1]](**json.loads(sys.argv[2]))
