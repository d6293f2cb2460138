"""One measurement: in a process of its own, so that nothing is left over from another."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from typing import Any, TypeVar

from benchmarks.trees import Digest

T = TypeVar("T")

#: Leaves, records, files or seconds of sound that every process works on first, to import and start what it needs.
WARM_UP = 20
SAMPLE_EVERY = 0.005  # seconds


@dataclass(frozen=True)
class Measured:
    """What one side took (seconds, megabytes, or calls), what it found, and what else should be known."""

    value: float
    digest: Digest | None
    note: str = ""


def measured(run: Callable[[Path, int], Measured], folder: Path, size: int, warm_up_folder: Path) -> Measured:
    """Run one side, with its code loaded, its workers started, and its files in the operating system's cache."""
    run(warm_up_folder, WARM_UP)
    for file in folder.rglob("*"):
        if file.is_file():
            read_whole(file)
    gc.collect()
    return run(folder, size)


def in_fresh_process(function: Callable[..., T], *arguments: Any, command: Sequence[str] = (sys.executable,)) -> T:
    """Call a function in a new process, which ends as any program does; the command runs a module of Python."""
    sent = pickle.dumps((function, arguments))
    done = subprocess.run([*command, "-m", "benchmarks.child"], input=sent, stdout=subprocess.PIPE, check=True)
    return pickle.loads(done.stdout)


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    start = perf_counter()
    work()
    return perf_counter() - start


def check(found: Digest | None, expected: Digest) -> None:
    """Look at what one side found, where its digest can't be that of the other."""
    if found != expected:
        raise AssertionError(f"found {found}, expected {expected}")


def read_whole(file: Path) -> None:
    with file.open("rb") as opened:
        while opened.read(1 << 20):
            pass


class PeakMemory:
    """The most memory that this process holds inside the `with` block, above what it holds at its start, in MB.

    Anonymous memory is what counts: pages of a mapped file can be dropped at any time, and are not held.
    """

    def __init__(self, *kinds: str) -> None:
        self._kinds = kinds or ("RssAnon",)

    def __enter__(self) -> PeakMemory:
        self._start = self._peak = held_memory(*self._kinds)
        self._end = Event()
        self._thread = Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(SAMPLE_EVERY):
            self._peak = max(self._peak, held_memory(*self._kinds))

    @property
    def megabytes(self) -> float:
        return self._peak - self._start


def held_memory(*kinds: str) -> float:
    """The memory of this process that is of these kinds, in MB; Linux alone tells it."""
    lines = (line.partition(":") for line in Path("/proc/self/status").read_text().splitlines())
    kilobytes = {name: int(value.split()[0]) for name, _, value in lines if name in kinds}
    if len(kilobytes) < len(kinds):
        raise OSError("this system does not tell what memory a process has")
    return sum(kilobytes.values()) * 1024 / 1e6
