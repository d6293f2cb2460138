"""Large arrays to worker processes and back: the same arrays as in one pickle, and nothing of them is left anywhere."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from pickle import PickleBuffer, dumps, loads
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from recording import examples

import lotproc as lp
from lotproc._fast import FAST
from lotproc.workers import memory
from lotproc.workers.memory import LARGE, Memories

WORKERS = 2
IS_USED = FAST and hasattr(os, "memfd_create")


class Own(np.ndarray[Any, Any]):
    """An array of a class of the user's."""


class Samples:
    """Says itself that its data may be left out of a pickle."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Samples, (PickleBuffer(self.data),)


DTYPES = ["u1", "<f4", ">i2", "c16", "?", "M8[s]", "S3", "U2", [("a", "<f8"), ("b", "u1", (3,))]]
SIZES = [0, 8, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE]


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    count = draw(st.sampled_from(SIZES)) // dtype.itemsize
    columns = draw(st.sampled_from([1, 2, 5]))
    array = np.random.default_rng(count).bytes(count // columns * columns * dtype.itemsize)
    made: Any = np.frombuffer(bytearray(array), dtype.str if dtype.names is None else dtype)
    if dtype.kind == "?":
        made = made.view("u1") % 2 == 1
    made = made.reshape(-1, columns, order=draw(st.sampled_from("CF")))
    if draw(st.booleans()):
        made = made[draw(st.sampled_from([slice(None, None, 2), slice(1, None), slice(None, None, -1)]))]
    if draw(st.booleans()):
        made = made.view(Own)
    made.flags.writeable = draw(st.booleans()) and made.flags.writeable
    return made


held = st.one_of(
    arrays(),
    st.sampled_from(SIZES).map(bytearray).map(Samples),
    st.sampled_from(SIZES).map(bytes).map(Samples),
    st.sampled_from(SIZES).map(bytes),
    st.integers(),
    st.just(np.array([None, "a", 2.5], dtype=object)),
)


def told(value: Any, seen: dict[int, tuple[int, Any]] | None = None) -> Any:
    """All that is to be the same of a value, what it shares with others among it."""
    seen = {} if seen is None else seen
    if not isinstance(value, (int, str)):
        if id(value) in seen:
            return "seen", seen[id(value)][0]
        seen[id(value)] = len(seen), value  # held, so that no other gets its id
    if isinstance(value, (list, tuple)):
        return type(value), [told(item, seen) for item in value]
    if isinstance(value, (lp.NodeRecord, lp.ProcessResult)):
        return type(value), told(list(vars(value).values()), seen)
    if isinstance(value, dict):
        return list(value), told(list(value.values()), seen)
    if isinstance(value, Samples):
        return Samples, type(value.data), bytes(value.data)
    if isinstance(value, np.ndarray):
        flags = value.flags
        kept = flags.c_contiguous, flags.f_contiguous, flags.writeable, flags.owndata, flags.aligned
        return (
            type(value),
            value.dtype,
            value.shape,
            value.strides,
            kept,
            str(value) if value.dtype.hasobject else value.tobytes(),
        )
    return type(value), value


def changed(batch: Any) -> Any:
    """What came, before and after all in it that can be was changed."""
    before = told(batch)
    for item in batch:
        for value in item.attributes["all"]:
            if isinstance(value, np.ndarray) and value.flags.writeable:
                value[...] = np.zeros((), value.dtype)
    return before, batch


@settings(max_examples=examples(60), deadline=None)
@given(
    batches=st.lists(st.lists(st.lists(held, max_size=4), min_size=1, max_size=3), max_size=4),
    is_shared=st.booleans(),
    room=st.sampled_from(["enough", "none", "no such memory", "no files"]),
    buffersize=st.integers(1, 3),
)
def test_arrays_come_and_go_as_in_one_pickle(batches: Any, is_shared: bool, room: str, buffersize: int) -> None:
    sent = [[lp.NodeRecord(("a",), "a", {"all": values}) for values in batch] for batch in batches]
    if is_shared and sent:
        sent.append([*sent[0], *sent[0], lp.NodeRecord(("b",), "b", {"all": sent[0][0].attributes["all"]})])
    expected = []
    for batch in sent:
        before, after = changed(loads(dumps(batch, 5)))
        expected.append((before, told(loads(dumps(after, 5)))))
    own = [told(batch) for batch in sent]
    with pytest.MonkeyPatch.context() as patch:
        if room == "none":
            patch.setattr(os, "pwrite", failing(errno.ENOSPC))
        elif room == "no files":
            patch.setattr(os, "memfd_create", failing(errno.EMFILE), raising=False)
        elif room == "no such memory":
            patch.delattr(os, "memfd_create", raising=False)
        results = lp.parallel_map(changed, sent, max_workers=WORKERS, buffersize=buffersize)
        assert [(before, told(after)) for before, after in results] == expected
    assert [told(batch) for batch in sent] == own


def failing(code: int) -> Any:
    def fail(*arguments: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


def record(n: int, size: int = 2 * LARGE) -> lp.NodeRecord:
    return lp.NodeRecord((f"clip_{n}",), f"clip_{n}", {"n": n, "samples": np.full(size // 8, n, dtype="<f8")})


def doubled(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, 2 * record.attributes["samples"])


def pieces() -> list[int]:
    """The sizes of the pieces of shared memory that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}").startswith("/memfd:lotproc"):
                found.append(os.fstat(int(number)).st_size)
        except OSError:  # that of the listing itself
            pass
    return found


@pytest.mark.parametrize("has_arrays", [True, False])
def test_there_is_a_piece_of_memory_for_each_batch_in_flight_and_none_when_they_are_done(has_arrays: bool) -> None:
    size = 2 * LARGE if has_arrays else 8
    work = lp.each(lambda record: lp.ProcessResult(record.path, np.full(LARGE, record.attributes["n"])))
    batches = lp.chunked(4, (record(n, size) for n in range(80)))
    most = 0
    for n, batch in enumerate(lp.parallel_map(work, batches, max_workers=WORKERS, buffersize=3)):
        assert [result.output[-1] for result in batch] == list(range(4 * n, 4 * n + 4))
        most = max(most, len(pieces()))
    assert most <= 3
    assert (most > 0) is IS_USED
    assert pieces() == []
    results = lp.parallel_map(work, [[record(n)] for n in range(9)], max_workers=WORKERS)
    next(results)
    results.close()
    assert pieces() == []


def test_of_a_large_batch_nothing_is_kept_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_KEPT", 4 * LARGE)
    memories = Memories()
    small, large = (memories.of([memoryview(bytes(size))]) for size in (LARGE, 5 * LARGE))
    assert small is not None
    assert large is not None
    for piece in (small, large):
        memories.give_back(piece)
    del piece, large
    assert len(pieces()) == 1
    again = memories.of([memoryview(b"abc"), memoryview(bytearray(b"de"))])
    assert again is small
    assert again.read() == [b"abc", bytearray(b"de")]


def test_what_a_source_does_with_an_array_later_changes_no_batch() -> None:
    def source() -> Iterator[list[lp.NodeRecord]]:
        samples = np.zeros(LARGE)
        for n in range(12):
            samples[:] = n
            yield [lp.NodeRecord((str(n),), str(n), {"samples": samples})]
            samples[:] = -1

    found = lp.parallel_map(lp.each(doubled), source(), max_workers=WORKERS, buffersize=4)
    assert [batch[0].output[-1] for batch in found] == [2 * n for n in range(12)]


def no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE, LARGE))


def no_files() -> None:
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, lowest))


def test_where_a_worker_has_no_room_its_arrays_come_by_the_pipe() -> None:
    found = lp.parallel_map(lp.each(doubled), [[record(n)] for n in range(4)], max_workers=1, initializer=no_room)
    assert [batch[0].output[-1] for batch in found] == [0, 2, 4, 6]


def test_a_worker_that_may_open_no_more_files_costs_the_records_with_large_arrays() -> None:
    batches = [[record(n, 8 if n < 2 else 2 * LARGE)] for n in range(4)]
    results = lp.parallel_map(
        lp.each(doubled), batches, max_workers=1, initializer=no_files, on_error=lambda failure: failure.message
    )
    found = [item for batch in results for item in batch]
    expected = (
        [f"[Errno {errno.EMFILE}] a batch with large arrays can't be had: Too many open files"] if IS_USED else []
    )
    assert [item for item in found if isinstance(item, str)] == 2 * expected
    assert [item.output[-1] for item in found if not isinstance(item, str)] == ([0, 2] if IS_USED else [0, 2, 4, 6])


def test_workers_that_are_killed_with_arrays_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    def work(record: lp.NodeRecord) -> lp.ProcessResult:
        died = tmp_path / record.key
        if record.attributes["n"] % 3 == 0 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return doubled(record)

    batches = [[record(n), record(n + 1)] for n in range(0, 12, 2)]
    found = lp.parallel_map(lp.each(work), batches, max_workers=WORKERS)
    assert [result.output[-1] for batch in found for result in batch] == [2 * n for n in range(12)]
    assert pieces() == []


PROGRAM = """
import signal
import numpy as np
import lotproc as lp

def work(record):
    print("at work", flush=True)
    signal.pause()

batches = [[lp.NodeRecord((str(n),), str(n), {"samples": np.zeros(1 << 18)})] for n in range(4)]
list(lp.parallel_map(lp.each(work), batches, max_workers=1))
"""


def test_no_process_is_left_to_hold_the_memory_of_a_program_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"at work\n"
        program.kill()
        assert program.stdout.read() == b""  # until the worker is gone, too; the memory has no name
