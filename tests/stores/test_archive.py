"""The archive against a list, written in turn by lotproc and by roxxel; then what is promised, line by line."""

from __future__ import annotations

import contextlib
import errno
import gc
import glob
import io
import json
import os
import pickle
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from other_places import OTHERS, as_nobody, in_child, on_readonly_media, put_in_place, without_locks
from recording import examples, open_files

from lotproc.errors import (
    ArgumentError,
    ArgumentTypeError,
    CodecError,
    DamagedStoreError,
    ForeignFileError,
    NoSuchKeyError,
    NotPicklableError,
    ReadOnlyStoreError,
    StoreClosedError,
    StoreLockedError,
)
from lotproc.stores import shuffled, token_batches
from lotproc.stores.archive import Archive
from lotproc.stores.archive.format import FOOTER, TAIL, TAIL_MAGIC, group_count
from lotproc.stores.archive.keys import KeysNote, keys_path
from lotproc.stores.archive.shards import Shard
from lotproc.stores.protocol import Item

roxxel = pytest.importorskip("roxxel")

ROOT = Path(__file__).resolve().parents[2]


def rox(path: Any) -> Any:
    return roxxel.Roxxel(list(map(str, path)) if isinstance(path, list) else str(path))


def rox_write(path: Any, records: list[bytes], **options: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        rox(path).write(records, **options)


def rox_read(path: Any) -> list[bytes]:
    with rox(path) as archive:
        return [record.tobytes() for record in archive]


def read(path: Any, **options: Any) -> list[bytes]:
    with Archive(path, **options) as archive:
        return [record.tobytes() for record in archive]


def write(path: Any, records: Any, mode: Any = "w", **options: Any) -> None:
    with Archive(path, mode, durable=False, **options) as archive:
        archive.write(records)


def names(folder: Path) -> list[str]:
    """What a person sees in a folder."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before, threads = open_files(), threading.active_count()
    yield
    if open_files() - before:
        gc.collect()
    assert not open_files() - before
    assert threading.active_count() == threads


# --- Against a list --------------------------------------------------------------------------------------------------

payloads = st.binary(max_size=40) | st.integers(0, 40_000).map(lambda size: bytes([size % 251]) * size)
paths = st.lists(st.text(max_size=3) | st.sampled_from(["0", "1", "7"]), max_size=2).map(tuple)
attributes = st.none() | st.dictionaries(
    st.text(max_size=2), st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
)


class Machine(RuleBasedStateMachine):
    """An archive that is written by lotproc and by roxxel, and what should be in it."""

    folder: Path

    @initialize(limit=st.sampled_from([None, 600, 30_000]))
    def begin(self, limit: int | None) -> None:
        self.limit = limit
        self.base = self.folder / f"data{len(list(self.folder.iterdir()))}.rox"
        self.pattern: Any = self.base if limit is None else str(self.base)[:-4] + "_*.rox"
        self.records: list[bytes] = []
        self.keys: list[tuple[str, ...] | None] = []
        self.known: list[dict[str, Any] | None] = []

    def added(self, records: list[bytes], keys: Any = None, known: Any = None) -> None:
        self.records += records
        self.keys += keys or [None] * len(records)
        self.known += known or [None] * len(records)

    @rule(records=st.lists(payloads, min_size=1, max_size=8), mode=st.sampled_from("aaw"))
    def write(self, records: list[bytes], mode: Any) -> None:
        write(self.base, iter(records), mode, max_shard_bytes=self.limit)
        if mode == "w":
            self.records, self.keys, self.known = [], [], []
        self.added(records)

    @rule(records=st.lists(st.tuples(st.none() | paths, payloads, attributes), min_size=1, max_size=6))
    def write_records(self, records: list[Any]) -> None:
        with Archive(self.base, "a", durable=False, max_shard_bytes=self.limit) as archive:
            for path, value, known in records[:2]:
                archive.append(value, path, known)
            archive.write_records(records[2:])
        self.added([value for _, value, _ in records], [path for path, *_ in records], [known for *_, known in records])

    @rule(records=st.lists(payloads, min_size=1, max_size=4))
    def roxxel_writes(self, records: list[bytes]) -> None:
        kept = [record for record in records if record]
        if kept and (not self.records or any(self.records)):  # it overwrites an archive of empty records
            rox_write(self.base, kept, max_shard_bytes=self.limit)
            self.added(kept)

    @rule(records=st.lists(payloads, max_size=4))
    def write_badly(self, records: list[bytes]) -> None:
        with pytest.raises(CodecError), Archive(self.base, "a", durable=False, max_shard_bytes=self.limit) as archive:
            archive.write([*records, "no bytes"])

    @precondition(lambda self: self.records)
    @invariant()
    def reads_the_same(self) -> None:
        assert read(self.pattern) == self.records
        if any(self.records):
            assert rox_read(sorted(self.base.parent.glob(Path(self.pattern).name))) == self.records
        with Archive(self.base) as archive:
            newest = {(str(number),) if path is None else path: number for number, path in enumerate(self.keys)}
            assert [archive.path(number) for number in range(len(archive))] == self.keys
            assert [archive.attributes(number) for number in range(len(archive))] == self.known
            assert list(archive.paths()) == [path for path, _ in sorted(newest.items(), key=lambda item: item[1])]
            assert {path: archive.index_of(path) for path in newest} == newest
            archive.verify()


def test_any_writing_in_turns_with_roxxel(tmp_path: Path) -> None:
    run_state_machine_as_test(
        type("Bound", (Machine,), {"folder": tmp_path}),
        settings=settings(max_examples=examples(20), stateful_step_count=8),
    )


@pytest.fixture(scope="module")
def three_shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[bytes]]:
    folder = tmp_path_factory.mktemp("three")
    records = [bytes([number]) * (number % 7) for number in range(60)]
    write(folder / "data.rox", records, max_shard_bytes=520)
    assert len(list(folder.glob("data_*.rox"))) > 2
    return str(folder / "data_*.rox"), records


@given(data=st.data())
@settings(max_examples=examples(20))
def test_it_is_indexed_as_a_list_is(three_shards: tuple[str, list[bytes]], data: st.DataObject) -> None:
    path, records = three_shards
    total = len(records)
    with Archive(path) as archive:
        number = data.draw(st.integers(-total, total - 1))
        small: Any = np.int8(number)
        assert archive[number].tobytes() == archive[small].tobytes() == records[number]
        part = data.draw(st.slices(total))
        assert [record.tobytes() for record in archive[part]] == records[part]
        wanted = data.draw(st.lists(st.integers(-total, total - 1)))
        for index in (wanted, np.array(wanted, np.int64)):
            assert [record.tobytes() for record in archive[index]] == [records[number] for number in wanted]
        mask = np.array(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)))
        assert [record.tobytes() for record in archive[mask]] == [
            r for r, is_in in zip(records, mask, strict=True) if is_in
        ]
        assert records[number] in archive
        assert archive.index(records[number]) == records.index(records[number])
        assert archive.count(records[number]) == records.count(records[number])


@pytest.mark.parametrize("index", [60, -61, [0, 60], np.array([-61]), np.ones(59, bool)])
def test_there_are_not_so_many_records(three_shards: tuple[str, list[bytes]], index: Any) -> None:
    with Archive(three_shards[0]) as archive, pytest.raises(IndexError, match="60 records"):
        archive[index]


@pytest.mark.parametrize("index", ["a", ("a",), 1.5, None, [1.5], np.zeros((2, 2), int)])
def test_what_is_no_index(three_shards: tuple[str, list[bytes]], index: Any) -> None:
    with Archive(three_shards[0]) as archive, pytest.raises(ArgumentTypeError, match="Archive"):
        archive[index]


# --- The format ------------------------------------------------------------------------------------------------------


def test_records_are_views_of_the_file(tmp_path: Path) -> None:
    tokens = np.arange(10, dtype=np.uint16)
    write(tmp_path / "a.rox", [tokens[:4], bytearray(tokens[4:6]), tokens[6:].data])
    archive = Archive(tmp_path / "a.rox")
    assert archive.raw_data.view(np.uint16).tolist() == list(range(10))
    assert archive.index_table.tolist() == [8, 12, 20]
    record = archive[1]
    assert np.shares_memory(record, archive.raw_data)
    assert not record.flags.writeable
    archive.close()
    assert record.view(np.uint16).tolist() == [4, 5]


def test_the_payload_starts_like_another_version(tmp_path: Path) -> None:
    write(tmp_path / "a.rox", [b"ROXXEL02 is what it is about"])
    assert read(tmp_path / "a.rox") == [b"ROXXEL02 is what it is about"]


def test_several_shards_have_no_one_array(three_shards: tuple[str, list[bytes]]) -> None:
    with Archive(three_shards[0]) as archive:
        with pytest.raises(ArgumentError, match="raw_shards"):
            _ = archive.raw_data
        assert b"".join(part.tobytes() for part in archive.raw_shards) == b"".join(three_shards[1])


def test_natural_order(tmp_path: Path) -> None:
    for number in (9998, 9999, 10000):
        write(tmp_path / f"data_{number}.rox", [b"%d" % number])
    assert read(str(tmp_path / "data_*.rox")) == read(tmp_path / "data.rox") == [b"9998", b"9999", b"10000"]
    write(str(tmp_path / "data_*.rox"), [b"more"], "a", max_shard_bytes=1)
    assert read(str(tmp_path / "data_*.rox"))[-2:] == [b"10000", b"more"]
    assert (tmp_path / "data_10001.rox").exists()


def test_no_shard_is_too_large_and_the_last_one_is_filled_first(tmp_path: Path) -> None:
    write(tmp_path / "d.rox", [b"x" * 50] * 30, max_shard_bytes=1000)
    write(tmp_path / "d.rox", [b"y" * 50] * 3 + [b"large" * 400] + [b"z"], "a", max_shard_bytes=1000)
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("d_*.rox"))]
    assert sizes[-2] > 2000
    assert all(size <= 1000 for size in sizes[:-2])
    with Archive(tmp_path / "d_0000.rox") as first, Archive(sorted(map(str, tmp_path.glob("d_*")))[1:-2]) as middle:
        full = len(first)
        assert len(middle) == full * (len(sizes) - 3) or len(middle) < full * (len(sizes) - 3)
        assert len(middle) > full * (len(sizes) - 4)


def test_a_smaller_set_replaces_a_larger_one(tmp_path: Path) -> None:
    write(tmp_path / "d.rox", [b"x" * 50] * 60, max_shard_bytes=1000)
    write(tmp_path / "d.rox", [b"y"], max_shard_bytes=1000)
    assert names(tmp_path) == ["d_0000.rox"]


def test_shards_of_two_sets_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "d.rox", [b"x" * 50] * 60, max_shard_bytes=1000)
    old = (tmp_path / "d_0001.rox").read_bytes()
    write(tmp_path / "d.rox", [b"y" * 50] * 60, max_shard_bytes=1000)
    (tmp_path / "d_0001.rox").write_bytes(old)
    with pytest.raises(DamagedStoreError, match="two archives"):
        read(tmp_path / "d.rox")


@pytest.mark.parametrize("missing", [1, 2, -1])
def test_a_missing_shard_is_noticed(tmp_path: Path, missing: int) -> None:
    write(tmp_path / "d.rox", [b"x" * 50] * 60, max_shard_bytes=1000)
    shards = sorted(tmp_path.glob("d_*.rox"))
    for shard in shards[missing:]:
        shard.unlink()
    for path in (tmp_path / "d.rox", tmp_path / "d_*.rox"):
        with pytest.raises(DamagedStoreError, match=f"{shards[missing].name} is not there"):
            read(str(path))
    with pytest.raises(DamagedStoreError, match="not the last shard"):
        write(tmp_path / "d.rox", [b"y"], "a", max_shard_bytes=1000)
    left = shards[:missing]
    assert set(read(left[0])) == set(read(str(tmp_path / "d_?000.rox"))) == {b"x" * 50}
    if len(left) > 1:
        assert set(read([left[-1], left[0]])) == {b"x" * 50}


def test_a_shard_in_the_middle_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "d.rox", [b"x" * 50] * 60, max_shard_bytes=1000)
    (tmp_path / "d_0001.rox").unlink()
    with pytest.raises(DamagedStoreError, match=r"d_0001\.rox is not there"):
        read(tmp_path / "d.rox")


def test_shards_that_were_added_later_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path / "d.rox", [b"x" * 50] * 60, max_shard_bytes=1000)
    last = sorted(tmp_path.glob("d_*.rox"))[-1]
    content = last.read_bytes()
    write(tmp_path / "d.rox", [b"y" * 50] * 60, "a", max_shard_bytes=1000)
    assert len(read(tmp_path / "d.rox")) == 120
    for shard in sorted(tmp_path.glob("d_*.rox")):
        if shard > last:
            shard.unlink()
    last.write_bytes(content)
    assert read(tmp_path / "d.rox") == [b"x" * 50] * 60


def test_what_a_taken_back_write_notes(tmp_path: Path) -> None:
    with Archive(tmp_path / "d.rox", "w", max_shard_bytes=100_000) as archive:
        archive.write([b"first"])
        with pytest.raises(CodecError):
            archive.write([*[b"x" * 1000] * 2000, "no bytes"])
    assert read(tmp_path / "d.rox") == [b"first"]


def test_an_empty_archive(tmp_path: Path) -> None:
    write(tmp_path / "a.rox", [])
    assert read(tmp_path / "a.rox") == []
    write(tmp_path / "a.rox", [b"", b""], "a")
    assert read(tmp_path / "a.rox") == [b"", b""]


@pytest.mark.parametrize("mode", ["r", "w", "a"])
@pytest.mark.parametrize(
    "content", [b"somebody else's file", b"x" * 100, b"1" * 50 + b"ROXXEL02", b"ROXXEL02" + b"1" * 50]
)
def test_a_foreign_file_is_left_alone(tmp_path: Path, mode: Any, content: bytes) -> None:
    file = tmp_path / "a.rox"
    file.write_bytes(content)
    with pytest.raises(ForeignFileError, match="ROXXEL01"), Archive(file, mode):
        pass
    assert file.read_bytes() == content
    assert names(tmp_path) == ["a.rox"]


# --- Crashes ---------------------------------------------------------------------------------------------------------

#: Forks for each line that it reads, a child that writes and kills itself at a step; says how each ended.
WRITERS = """
import os, sys
from lotproc.stores.archive import Archive
for line in sys.stdin:
    folder, step, limit, mode = eval(line)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    seen = 0
    def hook(event, arguments):
        global seen
        if event in ("open", "os.rename", "os.remove", "os.truncate", "shutil.copymode") and folder in repr(arguments):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), 9)
    sys.addaudithook(hook)
    with Archive(folder + "/d.rox", mode, max_shard_bytes=limit) as archive:
        archive.write_records((("new", str(number)), b"n" * 50, {"n": number}) for number in range(12))
    os._exit(0)
"""


@pytest.fixture(scope="module")
def killed_at() -> Iterator[Any]:
    """Write in a process that kills itself at a step, and tell how it ended."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITERS], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None

        def run(*job: Any) -> int:
            print(repr(job), file=writers.stdin, flush=True)
            return int(writers.stdout.readline())  # type: ignore[union-attr]

        yield run


@pytest.mark.parametrize(("limit", "mode"), [(None, "a"), (1000, "a"), (1000, "w"), (None, "w")])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path, killed_at: Any, limit: int | None, mode: str
) -> None:
    old = [b"o%d" % number * 20 for number in range(20)]
    new = [b"n" * 50] * 12
    whole = new if mode == "w" else old + new
    old_keys = {("old", str(number)): number for number in range(20)}
    new_keys = {("new", str(number)): len(whole) - 12 + number for number in range(12)}
    with Archive(tmp_path / "d.rox", "w", max_shard_bytes=limit, durable=False) as archive:
        archive.write_records((path, old[number], None) for path, number in old_keys.items())
    step, ended = 1, False
    states = set()
    while not ended:
        folder = tmp_path / str(step)
        folder.mkdir()
        for file in tmp_path.glob("d*"):
            shutil.copyfile(file, folder / file.name)
        with Archive(folder / "d.rox") as reader:
            code = killed_at(str(folder), step, limit, mode)
            assert code in (0, -signal.SIGKILL)
            assert [record.tobytes() for record in reader] == old
            assert {path: reader.index_of(path) for path in reader.paths()} == old_keys
        found = read(folder / "d.rox")
        assert found in (old, whole)
        if limit == 1000:  # where names are left to be changed
            assert on_readonly_media(folder, partial(read, folder / "d.rox")) == found
        states.add(len(found))
        with Archive(folder / "d.rox") as archive:
            keys = (old_keys if found == old or mode == "a" else {}) | ({} if found == old else new_keys)
            assert {path: archive.index_of(path) for path in archive.paths()} == keys
        write(folder / "d.rox", [b"next"], "a", max_shard_bytes=limit)
        assert read(folder / "d.rox") == [*found, b"next"]
        assert rox_read(sorted(folder.glob("*.rox"))) == [*found, b"next"]
        assert not [*folder.glob(".*.tmp"), *folder.glob(".*pending")]
        ended = code == 0
        step += 2
    assert states == {20, len(whole)}


def test_a_full_disk_leaves_the_old_records(tmp_path: Path) -> None:
    import resource

    write(tmp_path / "a.rox", [b"old"] * 10)
    before = (tmp_path / "a.rox").read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    archive = Archive(tmp_path / "a.rox", "a")
    try:
        archive.append(b"kept")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        with pytest.raises(OSError, match=r"large: '.*/a\.rox'") as caught:
            archive.write([b"x" * 100_000] * 20)
        assert "as it was" in caught.value.__notes__[0]
        assert read(tmp_path / "a.rox") == [b"old"] * 10
        assert (tmp_path / "a.rox").read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
        archive.close()
    assert read(tmp_path / "a.rox") == [b"old"] * 10 + [b"kept"]


def test_a_failing_iterable_takes_back_its_own_records_only(tmp_path: Path) -> None:
    def records() -> Iterator[bytes]:
        yield from [b"x" * 1000] * 2000
        raise RuntimeError("no more")

    with Archive(tmp_path / "a.rox", "w", max_shard_bytes=100_000) as archive:
        assert archive.write([b"first"] * 3) == 3
        with pytest.raises(RuntimeError, match="no more"):
            archive.write(records())
        assert archive.append(b"last") == 3
    assert read(tmp_path / "a.rox") == [b"first"] * 3 + [b"last"]
    assert names(tmp_path) == ["a_0000.rox"]


def test_an_error_in_the_block_leaves_the_old_archive(tmp_path: Path) -> None:
    write(tmp_path / "a.rox", [b"old"])
    for mode in ("a", "w"):
        with pytest.raises(ZeroDivisionError), Archive(tmp_path / "a.rox", mode) as archive:  # noqa: PT012
            archive.write([b"new"])
            _ = 1 // 0
        assert read(tmp_path / "a.rox") == [b"old"]
    assert not list(tmp_path.glob(".*.tmp"))


# --- One call at a time ----------------------------------------------------------------------------------------------

USES: dict[str, Any] = {
    "append": lambda archive: archive.append(b"inside"),
    "write": lambda archive: archive.write([b"inside"]),
    "write_records": lambda archive: archive.write_records([(("k",), b"inside", None)]),
    "flush": lambda archive: archive.flush(),
    "close": lambda archive: archive.close(),
    "with": lambda archive: archive.__enter__().__exit__(None, None, None),
    "open": lambda archive: archive.open(),
    "lotproc": lambda archive: archive.writing().__enter__(),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("method", ["write", "write_records"])
def test_what_is_written_can_not_write_itself(tmp_path: Path, use: str, method: str) -> None:
    write(tmp_path / "a.rox", [b"old"])

    def values() -> Iterator[Any]:
        for number in range(10):
            assert [record.tobytes() for record in archive] == [b"old"]
            value = b"%d" % number * 100_000
            yield value if method == "write" else (("path", str(number)), value, None)
            if number == 7:
                USES[use](archive)

    with Archive(tmp_path / "a.rox", "a", durable=False) as archive:
        assert archive.append(b"before") == 1
        with pytest.raises(ArgumentError, match=rf"in the middle of {method}\(...\)"):
            getattr(archive, method)(values())
        assert archive.append(b"after") == 2
    assert read(tmp_path / "a.rox") == [b"old", b"before", b"after"]


def test_a_failed_run_leaves_what_was_appended_before(tmp_path: Path) -> None:
    def run(archive: Archive, *, commits: bool) -> None:
        with archive.writing() as writer:
            writer.put([Item(("k",), b"from the run" * 100_000, None)])
            if commits:
                writer.commit()
                writer.put([Item(("lost",), b"", None)])
            raise ZeroDivisionError

    with Archive(tmp_path / "a.rox", "w", durable=False) as archive:
        archive.append(b"before")
        with pytest.raises(ZeroDivisionError):
            run(archive, commits=False)
        assert archive.append(b"after") == 1
        with pytest.raises(ZeroDivisionError):
            run(archive, commits=True)
        assert archive.append(b"end") == 3
    assert read(tmp_path / "a.rox") == [b"before", b"after", b"from the run" * 100_000, b"end"]


@pytest.mark.parametrize("use", ["append", "flush", "close"])
def test_another_thread_waits_for_what_is_written(tmp_path: Path, use: str) -> None:
    results: list[Any] = []
    archive = Archive(tmp_path / "a.rox", "w", durable=False)
    other = threading.Thread(target=lambda: results.append(USES[use](archive)))

    def values() -> Iterator[bytes]:
        for number in range(10):
            yield b"%d" % number
            if number == 4:
                other.start()
                other.join(0.05)  # it would take its chance

    assert archive.write(values()) == 10
    other.join()
    archive.close()
    assert results == [10 if use == "append" else None]
    assert len(read(tmp_path / "a.rox")) == 10 + (use == "append")


def test_what_is_written_waits_for_a_thread_that_waits_for_it(tmp_path: Path) -> None:
    errors: list[Exception] = []
    archive = Archive(tmp_path / "a.rox", "w", lock_timeout=0)

    def append() -> None:
        try:
            archive.append(b"inside")
        except Exception as error:
            errors.append(error)

    def values() -> Iterator[bytes]:
        yield b"x"
        thread = threading.Thread(target=append)
        thread.start()
        thread.join()

    with archive:
        assert archive.write(values()) == 1
    assert [str(error).partition(" is in ")[2][:33] for error in errors] == ["the middle of write(...) in anoth"]
    assert isinstance(errors[0], StoreLockedError)


def test_threads_begin_together(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "a.rox", "w", lock_timeout=5, durable=False)
    numbers: list[int] = []
    together = threading.Barrier(4)

    def append() -> None:
        together.wait()
        numbers.extend(archive.append(b"x") for _ in range(50))

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    archive.close()
    assert sorted(numbers) == list(range(200))
    assert len(read(tmp_path / "a.rox")) == 200


def test_a_fork_does_not_wait_for_a_thread_that_it_does_not_have(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "a.rox", "w")

    def values() -> Iterator[bytes]:
        yield b"x"
        child = os.fork()
        if not child:
            try:
                archive.append(b"y")
            except StoreClosedError:
                os._exit(5)
            os._exit(6)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5

    with archive:
        assert archive.write(values()) == 1
    assert read(tmp_path / "a.rox") == [b"x"]


@pytest.mark.parametrize("codec", ["bytes", "json"])
@pytest.mark.parametrize("limit", [None, 600])
def test_it_is_closed_while_somebody_goes_through_it(tmp_path: Path, codec: Any, limit: int | None) -> None:
    values = [b"%d" % number for number in range(100)] if codec == "bytes" else list(range(100))
    write(tmp_path / "a.rox", values, codec=codec, max_shard_bytes=limit)
    archive = Archive(tmp_path / "a.rox", codec=codec)
    for goes in (iter(archive), archive.paths(), token_batches(archive, "u1", 3)):
        next(goes)
    going = [iter(archive), archive.paths(), token_batches(archive, "u1", 3)]
    for goes in going:
        next(goes)
    thread = threading.Thread(target=archive.close)
    thread.start()
    thread.join()
    for goes in going:
        with pytest.raises(StoreClosedError, match=r"a\.rox.*is closed"):
            next(goes)


def test_going_through_it_goes_on_while_it_is_written(tmp_path: Path) -> None:
    write(tmp_path / "a.rox", [b"%d" % number for number in range(10_000)])
    with Archive(tmp_path / "a.rox", "a", durable=False) as archive:
        records = iter(archive)
        found = [next(records).tobytes()]
        archive.append(b"more")
        archive.flush()
        found += [record.tobytes() for record in records]
        assert len(archive) == 10_001
    assert found == [b"%d" % number for number in range(10_000)]


def test_it_is_never_closed(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "a.rox", "w")
    archive.append(b"lost")
    with pytest.warns(ResourceWarning, match="1 records"):  # noqa: PT031
        del archive
        gc.collect()
    assert names(tmp_path) == []


# --- Readers beside a writer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", [1, 2])
@pytest.mark.parametrize("path", ["d.rox", "d_*.rox"])
def test_a_listing_may_see_a_part_of_what_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: int, path: str
) -> None:
    listed, replaced = glob.glob, os.replace
    listings: list[list[str]] = []

    def replace(*names: Any) -> None:
        replaced(*names)
        listings.append(listed(str(tmp_path / "d_*.rox")))

    def slow(pattern: str, **options: Any) -> list[str]:
        if "d_" not in pattern or listings:
            return listed(pattern, **options)
        listings.append([])
        monkeypatch.setattr(os, "replace", replace)
        write(tmp_path / "d.rox", [b"x" * 50] * 60, max_shard_bytes=1000)
        monkeypatch.setattr(os, "replace", replaced)
        return next(found for found in listings if len(found) == seen)

    monkeypatch.setattr(glob, "glob", slow)
    # A listing of shards, which a slow file system gave while a writer was renaming them.
    if "*" in path:
        (tmp_path / "d_0000.rox").touch()  # so that there is something to find out what is being replaced
    assert read(str(tmp_path / path)) == [b"x" * 50] * 60
    assert len(listings) > 3


def kept(archive: Archive) -> Any:
    numbers = range(len(archive))
    return [(archive.path(n), archive.attributes(n), archive[n].tobytes()) for n in numbers], list(archive.paths())


@pytest.mark.parametrize("limit", [None, 1000])
@pytest.mark.parametrize("is_read_before", [True, False])
def test_readers_that_are_open_keep_their_keys(tmp_path: Path, limit: int | None, is_read_before: bool) -> None:
    def add(text: str, mode: Any) -> None:
        with Archive(tmp_path / "d.rox", mode, max_shard_bytes=limit, durable=False) as archive:
            archive.write_records(((text, str(n)), text.encode() * 10, {"n": n}) for n in range(20))

    add("old", "w")
    reader, another = Archive(tmp_path / "d.rox").open(), Archive(tmp_path / "d.rox").open()
    expected = [(("old", str(n)), {"n": n}, b"old" * 10) for n in range(20)], [("old", str(n)) for n in range(20)]
    if is_read_before:
        assert kept(reader) == kept(another) == expected
    begun = another.paths()
    if is_read_before:
        assert next(begun) == ("old", "0")
    add("more", "a")
    assert kept(reader) == expected
    add("new", "w")
    write(tmp_path / "d.rox", [b"no keys"], max_shard_bytes=limit)
    assert kept(reader) == expected
    assert list(begun)[-1] == ("old", "19")
    reader.verify()
    before = open_files()
    reader.close()
    another.close()
    del begun
    assert before - open_files()
    assert kept(Archive(tmp_path / "d.rox")) == ([(None, None, b"no keys")], [("0",)])


@pytest.mark.parametrize("limit", [None, 1000])
@pytest.mark.parametrize("has_keys", [True, False])
@pytest.mark.parametrize("is_foreign", [True, False])
def test_an_archive_is_replaced_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None, has_keys: bool, is_foreign: bool
) -> None:
    def add(text: str, has_keys: bool) -> None:
        with Archive(tmp_path / "d.rox", "w", max_shard_bytes=limit, durable=False) as archive:
            archive.write_records(((text, str(n)) if has_keys else None, text.encode() * 20, None) for n in range(20))

    add("old", True)
    if is_foreign:
        rox_write(tmp_path / "d.rox", [b"roxxel's"], max_shard_bytes=limit)
    status, calls = os.fstat, iter(range(10**6))

    def late(descriptor: int) -> os.stat_result:
        found = status(descriptor)
        if next(calls) == 0:
            add("new", has_keys)
        return found

    monkeypatch.setattr(os, "fstat", late)
    with Archive(tmp_path / "d.rox") as archive:
        records, paths = kept(archive)
    wanted = [(("new", str(n)) if has_keys else None, None, b"new" * 20) for n in range(20)]
    # All of it is old, or all of it is new.
    if records != wanted:
        assert {text[:3] for _, _, text in records[:20]} == {b"old"}
        assert paths[:20] == [("old", str(n)) for n in range(20)]
    else:
        assert paths == [("new", str(n)) if has_keys else (str(n),) for n in range(20)]


def test_keys_where_files_can_not_be_read_at_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Archive(tmp_path / "a.rox", "w") as archive:
        archive.write_records(((str(n),), b"x", {"n": "long" * 20_000}) for n in range(30))
    expected = kept(Archive(tmp_path / "a.rox"))
    monkeypatch.delattr(os, "pread")  # as on Windows
    assert kept(Archive(tmp_path / "a.rox")) == expected


def test_what_is_wrong_with_keys_does_not_keep_from_reading(tmp_path: Path) -> None:
    with Archive(tmp_path / "d.rox", "w", max_shard_bytes=1000) as archive:
        archive.write_records((("a", str(n)), b"x" * 50, None) for n in range(30))
    (tmp_path / "d_0001.rox.keys").write_bytes(b"other keys\n")
    assert read(tmp_path / "d.rox") == [b"x" * 50] * 30
    with Archive(tmp_path / "d.rox") as archive:
        for _ in range(2):
            with pytest.raises(DamagedStoreError, match=r"d_0001\.rox\.keys has other keys"):
                archive.path(0)


# --- Damage ----------------------------------------------------------------------------------------------------------


def test_damage_is_an_error_or_the_right_value(tmp_path: Path) -> None:
    records = [bytes([number]) * 300 for number in range(200)]
    file = tmp_path / "a.rox"
    write(file, records)
    whole = file.read_bytes()
    rng = np.random.default_rng(5)
    other = tmp_path / "other.rox"
    write(other, records[:150])
    changed = [other.read_bytes()[-24:].rjust(len(whole), b"\0"), whole[:-24] + other.read_bytes()[-24:]]
    changed += [whole[: int(size)] for size in rng.integers(0, len(whole), 30)]
    near_end = [*range(len(whole) - 320, len(whole), 3), *rng.integers(0, len(whole), 60).tolist()]
    for at in near_end:
        changed.append(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
    for content in changed:
        file.write_bytes(content)
        found: dict[int, bytes] = {}
        try:
            archive = Archive(file).open()
        except (DamagedStoreError, ForeignFileError):
            continue
        with archive:
            for number in rng.permutation(len(archive)).tolist():
                with contextlib.suppress(DamagedStoreError):
                    found[number] = archive[number].tobytes()
            assert all(records[number] == value for number, value in found.items())
            assert len(archive) == 200
            if len(found) == 200:
                archive.verify()
            else:
                with pytest.raises(DamagedStoreError):
                    archive.verify()
                with pytest.raises(DamagedStoreError):
                    list(archive)
                with pytest.raises(DamagedStoreError):
                    archive[np.arange(200)]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.rox"
    with Archive(file, "w") as archive:
        archive.write_records((("clip", str(number)), bytes(20_000), None) for number in range(5))
    with open(file, "r+b") as opened:
        opened.seek(50_000)
        opened.write(b"x")
    with Archive(file) as archive:
        with pytest.raises(DamagedStoreError, match=r"a\.rox.*record 2 "):
            archive[2]
        with pytest.raises(DamagedStoreError, match="record 2 is not what was written: clip/2"):
            archive.verify()
        taken: list[Any] = []
        with pytest.raises(DamagedStoreError):
            taken.extend(archive)
        assert archive[3].tobytes() == bytes(20_000)
    assert len(read(file, check=False)) == 5


@pytest.mark.parametrize("footer", [(-1, 5), (2**60, 3), (1, -3), (0, 3), (1, 2), (2, 2**62)])
def test_a_footer_that_lies(tmp_path: Path, footer: tuple[int, int]) -> None:
    rox_write(tmp_path / "a.rox", [b"abc"])
    content = (tmp_path / "a.rox").read_bytes()[:-24] + struct.pack("<qq8s", *footer, b"ROXXEL01")
    (tmp_path / "a.rox").write_bytes(content)
    with pytest.raises(DamagedStoreError, match=r"a\.rox is damaged"):
        read(tmp_path / "a.rox")


# --- Keys ------------------------------------------------------------------------------------------------------------


def test_attributes_that_json_would_change_are_refused(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.rox", "w") as archive:
        with pytest.raises(CodecError, match=r"ann/clip.*'span'"):
            archive.append(b"x", ("ann", "clip"), {"span": (0, 1), "seconds": 1.5})
        for path in ("ann", [1], 5):
            with pytest.raises(ArgumentTypeError, match="tuple of keys"):
                archive.append(b"x", path)  # type: ignore[arg-type]
        archive.append(b"x", ("a/b", "\udcff", ""), {"n": np.float64(0.1)})
    with Archive(tmp_path / "a.rox") as archive:
        assert archive.index_of(("a/b", "\udcff", "")) == 0
        assert archive.attributes(0) == {"n": 0.1}
        for missing in ((), ("a", "b"), ("0",), ("1",)):
            with pytest.raises(NoSuchKeyError):
                archive.index_of(missing)


def test_the_keys_are_lost(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.rox", "w") as archive:
        archive.append(b"x", ("a",))
    content = (tmp_path / "a.rox.keys").read_bytes()
    (tmp_path / "a.rox.keys").write_bytes(content.replace(b'"a"', b'"b"'))
    for _ in range(2):
        with Archive(tmp_path / "a.rox") as archive:
            assert archive[0].tobytes() == b"x"
            with pytest.raises(DamagedStoreError, match=r"a\.rox\.keys"):
                archive.index_of(("a",))
            with pytest.raises(DamagedStoreError, match=r"a\.rox\.keys"):
                archive.verify()
        (tmp_path / "a.rox.keys").unlink(missing_ok=True)


def test_another_archive_does_not_get_the_keys(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.rox", "w") as archive:
        archive.append(b"x", ("a",))
    (tmp_path / "a.rox").unlink()
    rox_write(tmp_path / "a.rox", [b"y"])
    with Archive(tmp_path / "a.rox") as archive:
        assert archive.path(0) is None


def test_a_writer_finds_what_was_taken_and_names_what_can_not_be(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.rox", "a", codec="pickle") as store:
        store.append(0, ("appended",), {"n": 0})
        with store.writing() as writer:
            writer.put([Item(("a",), 1, {"n": 1})])
            with pytest.raises(NotPicklableError, match="record at c"):
                writer.put([Item(("d",), 1, None), Item(("c",), lambda: 0, None)])
            writer.put([Item(("a",), [3], {})])
            for path, value, known in ((("appended",), 0, {"n": 0}), (("a",), [3], {})):
                assert (found := writer.find(path)) is not None
                assert (found.load(), found.metadata) == (value, known)
            assert writer.find(("d",)) is None
            writer.commit()
        assert [record.path for record in store.records()] == [("appended",), ("a",)]


def taken(path: Path) -> Any:
    """Payloads that went to another process."""
    return [entry.payload for entry in pickle.loads(pickle.dumps(list(Archive(path, codec="json").records())))]


@pytest.mark.parametrize("limit", [None, 600])
def test_a_payload_is_of_its_record_or_of_none(tmp_path: Path, limit: int | None) -> None:
    def put(mode: Any, keys: Any) -> None:
        with Archive(tmp_path / "a.rox", mode, codec="json", max_shard_bytes=limit, durable=False) as archive:
            archive.write_records(((key,), key, {}) for key in keys)

    old = [f"{number:03d}" for number in range(30)]
    put("w", old)
    payloads, others, fewer = taken(tmp_path / "a.rox"), taken(tmp_path / "a.rox"), taken(tmp_path / "a.rox")
    assert len(set(payloads)) == 30
    assert payloads == others
    put("a", [f"more{number}" for number in range(30)])
    assert [payload.read() for payload in payloads] == old
    put("w", [f"x{number:02d}" for number in range(30)])
    for payload in others:
        with pytest.raises(NoSuchKeyError, match=r"a\.rox.*was written anew"):
            payload.read()
    assert payloads[0].read() == old[0]  # which has the old files open
    put("w", ["y00"])
    for payload in fewer:
        with pytest.raises(NoSuchKeyError, match=r"a\.rox.*was written anew"):
            payload.read()
    for payload in (*payloads[:1], *others[:1], *fewer[:1]):
        payload.store.close()


def test_a_payload_of_what_roxxel_wrote(tmp_path: Path) -> None:
    rox_write(tmp_path / "a.rox", [b'"a"', b'"bb"'])
    first, second, third = (taken(tmp_path / "a.rox") for _ in range(3))
    rox_write(tmp_path / "a.rox", [b'"c"'])
    assert [payload.read() for payload in first] == ["a", "bb"]
    write(tmp_path / "a.rox", ["d"], "a", codec="json")
    assert [payload.read() for payload in second] == ["a", "bb"]
    (tmp_path / "a.rox").unlink()
    rox_write(tmp_path / "a.rox", [b'"ccc"', b'"d"'])
    for payload in third:
        with pytest.raises(NoSuchKeyError, match="was written anew"):
            payload.read()


def test_appending_leaves_payloads_whoever_does_it(tmp_path: Path) -> None:
    write(tmp_path / "a.rox", ["a"], codec="json")
    first, second = taken(tmp_path / "a.rox"), taken(tmp_path / "a.rox")
    rox_write(tmp_path / "a.rox", [b'"b"'])
    assert [payload.read() for payload in first] == ["a"]
    write(tmp_path / "a.rox", ["c"], "a", codec="json")
    assert [payload.read() for payload in second] == ["a"]


# --- Codecs, processes, threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        ("pickle", {"a": (1, 2)}),
        ("json", [1, None]),
        ("npy", np.arange(6).reshape(2, 3)),
        ((str.encode, bytes.decode), "é"),
    ],
)
def test_codecs(tmp_path: Path, codec: Any, value: Any) -> None:
    write(tmp_path / "a.rox", [value, value], codec=codec)
    with Archive(tmp_path / "a.rox", codec=codec) as archive:
        for found in [archive[0], *archive, *archive[::-1], next(archive.records()).load()]:
            np.testing.assert_equal(found, value)
        assert value in archive


def test_roxxels_pickles_are_told_from_json(tmp_path: Path) -> None:
    rox_write(tmp_path / "a.rox", [pickle.dumps(5)])
    assert list(Archive(tmp_path / "a.rox", codec="pickle")) == [5]
    with pytest.raises(CodecError, match="pickle"):
        Archive(tmp_path / "a.rox", codec="json").open()


@pytest.mark.parametrize("codec", ["bytes", "json"])
@pytest.mark.parametrize("before", [0, 3])
def test_a_value_is_named_by_its_number(tmp_path: Path, codec: Any, before: int) -> None:
    good: Any = [b"0" * 300_000, b"1", bytearray(b"2" * 300_000)] if codec == "bytes" else [0, "1" * 600_000, 2]
    with Archive(tmp_path / "a.rox", "w", codec=codec, durable=False) as archive:
        archive.write(good[:before])
        for kind in (list, iter):
            with pytest.raises(CodecError, match="value 3: "):
                archive.write(kind([*good, {3} if codec == "json" else "three", good[0]]))


def test_what_is_no_record(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.rox", "w") as archive:
        wrong: Any
        for wrong in ((("a",), b"x"), 5):
            with pytest.raises(ArgumentTypeError, match=r"\(path, value, attributes\).*record 1 is"):
                archive.write_records([(("a",), b"x", None), wrong])
        wrong = None
        for use in (archive.write, archive.write_records):
            with pytest.raises(ArgumentTypeError, match=r"Archive.*takes an iterable of .*, got None"):
                use(wrong)
    assert read(tmp_path / "a.rox") == []


def test_brackets_are_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]"
    folder.mkdir()
    for path in (folder / "x.rox", str(folder / "x.rox")):
        write(path, [b"x" * 50] * 30, max_shard_bytes=600)
        assert read(str(folder / "x_*.rox")) == read(path) == [b"x" * 50] * 30
    (folder / "x_0001.rox").rename(folder / "away")
    with pytest.raises(DamagedStoreError, match="not there"):
        read(str(folder / "x_*.rox"))


@pytest.mark.skipif(os.name == "nt", reason="such names can't be there")
def test_a_path_object_and_a_list_are_no_patterns(tmp_path: Path) -> None:
    write(tmp_path / "a?*.rox", [b"1"])
    write(tmp_path / "ab.rox", [b"2"])
    assert names(tmp_path) == ["a?*.rox", "ab.rox"]
    with Archive(tmp_path / "a?*.rox") as archive:
        assert list(pickle.loads(pickle.dumps(archive))) == list(archive) == [ord("1")]
    assert read([tmp_path / "ab.rox", str(tmp_path / "a?*.rox")]) == [b"2", b"1"]
    (tmp_path / "a?*.rox").unlink()
    assert read(str(tmp_path / "a?*.rox")) == [b"2"]
    assert list(pickle.loads(pickle.dumps(Archive(str(tmp_path / "a?*.rox"))))) == [ord("2")]
    assert Archive(str(tmp_path / "a?*.rox")) != Archive(tmp_path / "a?*.rox")
    for path in (tmp_path / "a?*.rox", [tmp_path / "ab.rox", str(tmp_path / "a?*.rox")]):
        with pytest.raises(FileNotFoundError, match=r"as a str$" if isinstance(path, Path) else None):
            read(path)
    with pytest.raises(ArgumentError, match=r"taken for a pattern"):
        Archive(str(tmp_path / "a?*.rox"), "w")


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.rox").touch()
    with pytest.raises(ForeignFileError, match=r"a\.rox is empty"):
        read(tmp_path / "a.rox")


def test_an_unused_writer_leaves_the_old_archive(tmp_path: Path) -> None:
    write(tmp_path / "a.rox", [b"old"])
    Archive(tmp_path / "a.rox", "w").close()
    assert read(tmp_path / "a.rox") == [b"old"]
    with Archive(tmp_path / "a.rox", "w"):
        pass
    assert read(tmp_path / "a.rox") == []


APPENDING = """
import sys
from lotproc.stores.archive import Archive
for number in range(10):
    with Archive(sys.argv[1], "a") as archive:
        archive.write([b"x"])
"""


def test_a_second_writer_is_told(tmp_path: Path) -> None:
    with Archive(tmp_path / "a.rox", "w") as first:
        first.write([b"first"])
        with pytest.raises(StoreLockedError, match=rf"a\.rox'.*process {os.getpid()}"):
            Archive(tmp_path / "a.rox", "a", lock_timeout=0).open()
    writers = [subprocess.Popen([sys.executable, "-c", APPENDING, str(tmp_path / "a.rox")], cwd=ROOT) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert read(tmp_path / "a.rox") == [b"first"] + [b"x"] * 20


def test_descriptors(tmp_path: Path) -> None:
    write(tmp_path / "d.rox", [b"x" * 50] * 60, max_shard_bytes=1000)
    shards = len(names(tmp_path))
    before = open_files()
    with Archive(tmp_path / "d.rox") as archive:
        assert len(archive) == 60
        assert (open_files() - before).total() <= shards
    with Archive(tmp_path / "k.rox", "w", max_shard_bytes=1000) as archive:
        archive.write_records((("a", str(n)), b"x" * 50, None) for n in range(60))
    with Archive(tmp_path / "k.rox") as archive:
        shards = len(list(tmp_path.glob("k_*.rox")))
        assert len(list(archive.paths())) == 60
        assert (open_files() - before).total() <= shards * (1 if sys.version_info >= (3, 13) else 2)


def test_what_a_failed_call_has_written_by_then_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lotproc.stores.archive.writing.CHUNK", 100)

    def records(count: int, key: str) -> Iterator[Any]:
        for number in range(count):
            yield (key, f"{number}"), b"x" * 60, {"n": number}

    def torn() -> Iterator[Any]:
        yield from records(7, "torn")
        raise ZeroDivisionError

    with Archive(tmp_path / "a.rox", "w") as archive:
        archive.write_records(records(4, "first"))
        with pytest.raises(ZeroDivisionError):
            archive.write_records(torn())
        archive.write_records(records(5, "last"))
    with Archive(tmp_path / "a.rox") as archive:
        archive.verify()
        assert [archive.path(number)[0] for number in range(len(archive))] == 4 * ["first"] + 5 * ["last"]
        assert {bytes(value) for value in archive} == {b"x" * 60}


def test_closed_and_read_only(tmp_path: Path) -> None:
    write(tmp_path / "a.rox", [b"x"])
    archive = Archive(tmp_path / "a.rox")
    for write_to in (lambda: archive.append(b"y"), archive.writing().__enter__):
        with pytest.raises(ReadOnlyStoreError, match="for reading"):
            write_to()
    assert len(archive) == 1
    archive.close()
    archive.close()
    for use in (
        lambda: archive[0],
        lambda: len(archive),
        lambda: list(archive),
        archive.open,
        lambda: archive.write([]),
    ):
        with pytest.raises(StoreClosedError, match="closed"):
            use()


def test_flush_shows_what_was_written_and_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "a.rox", [b"old"])
    with Archive(tmp_path / "a.rox", "w") as archive:
        archive.write([b"1"])
        assert len(archive) == 0
        archive.flush()
        assert [record.tobytes() for record in archive] == read(tmp_path / "a.rox") == [b"1"]
        assert archive.append(b"2") == 1
    assert read(tmp_path / "a.rox") == [b"1", b"2"]


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((5,), {}, ArgumentTypeError),
        (([],), {}, ArgumentError),
        (("",), {}, ArgumentError),
        (("a", "x"), {}, ArgumentError),
        (("a*.rox", "w"), {}, ArgumentError),
        ((["a", "b"], "w"), {}, ArgumentError),
        (("a",), {"max_shard_bytes": 0}, ArgumentError),
        (("a",), {"max_shard_bytes": 1.5}, ArgumentTypeError),
        (("a",), {"lock_timeout": -1}, ArgumentError),
        (("a",), {"check": "x"}, ArgumentTypeError),
        (("a",), {"durable": None}, ArgumentTypeError),
    ],
)
def test_bad_arguments(arguments: Any, options: Any, error: Any) -> None:
    with pytest.raises(error, match="Archive"):
        Archive(*arguments, **options)


def test_nothing_is_there(tmp_path: Path) -> None:
    for path in ("a.rox", "a_*.rox"):
        with pytest.raises(FileNotFoundError, match="no archive"):
            len(Archive(str(tmp_path / path)))
    with pytest.raises(FileNotFoundError, match="no file matches"):
        Archive(str(tmp_path / "a_*.rox"), "a").open()


# --- Files of others, and places that differ --------------------------------------------------------------------------


def outcome(path: Path, mode: Any, **options: Any) -> str:
    """What comes of one use of everything that an archive has beside it."""
    try:
        with Archive(path, mode, durable=False, lock_timeout=0, **options) as archive:
            if mode != "r":
                archive.append(b"new", ("new",), {"n": 1})
                return "written"
            return f"{len(archive)} records, the first is {archive.path(0)} {archive.attributes(0)}"
    except (ForeignFileError, DamagedStoreError) as error:
        return f"refused: {error}"


def tree(folder: Path) -> dict[str, Any]:
    """All that is in a folder: files with what they hold, others with what they are."""
    found = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        found[str(path.relative_to(folder))] = path.read_bytes() if stat.S_ISREG(mode) else stat.S_IFMT(mode)
    return found


BESIDE = [".d.rox-lock", ".d.rox-pending"]


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize(
    ("limit", "name"),
    [
        *((None, name) for name in ("d.rox.keys", *BESIDE)),
        *((100, name) for name in ("d_0000.rox", "d_0001.rox", "d_0001.rox.keys", *BESIDE)),
    ],
)
def test_what_is_no_regular_file_is_refused_at_once_and_nothing_behind_it_is_touched(
    tmp_path: Path, limit: int | None, name: str, kind: str
) -> None:
    for mode in ("r", "a", "w"):
        folder, victim = tmp_path / mode / "theirs", tmp_path / mode / "victim"
        with Archive(folder / "d.rox", "w", max_shard_bytes=limit, durable=False) as archive:
            archive.write_records((("a", str(n)), b"x" * 100, {"n": n}) for n in range(2))
        # A link to what would fit is refused too: it is not asked what is behind it.
        victim.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"precious" * 5000)
        before = victim.read_bytes()
        put_in_place(folder / name, kind, victim)
        shown = tree(folder)
        said = in_child(partial(outcome, folder / "d.rox", mode, max_shard_bytes=limit))
        if mode == "r" and name == ".d.rox-lock":
            assert said == "2 records, the first is ('a', '0') {'n': 0}"
        elif said == "written":  # by a writer who has nothing to do with it: it adds a shard, or writes no keys there
            assert (mode == "a" and name.startswith("d_")) or (name.endswith(".keys") and kind == "link to nothing")
        else:
            assert said.startswith(f"refused: {folder / name} is a")
            assert {path: what for path, what in tree(folder).items() if path not in BESIDE} == {
                path: what for path, what in shown.items() if path not in BESIDE
            }
        assert victim.read_bytes() == before
        assert sorted(os.listdir(victim.parent)) == ["theirs", "victim"]


def test_a_link_that_is_named_is_followed_to_the_archive_and_its_keys(tmp_path: Path) -> None:
    """As in a cache of downloads, where files lie by their checksums, and links have their names."""
    for folder in ("real", "links", "cache"):
        (tmp_path / folder).mkdir()
    with Archive(tmp_path / "real" / "a.rox", "w") as archive:
        archive.append(b"x", ("a",))
    (tmp_path / "links" / "b.rox").symlink_to(tmp_path / "real" / "a.rox")
    (tmp_path / "cache" / "c.rox").symlink_to(tmp_path / "real" / "a.rox")
    (tmp_path / "cache" / "c.rox.keys").symlink_to(tmp_path / "real" / "a.rox.keys")
    for path in (tmp_path / "links" / "b.rox", tmp_path / "cache" / "c.rox"):
        with Archive(tmp_path / "real" / "a.rox", "a") as archive:
            archive.append(b"y", ("b", path.name))
        for mode in ("a", "w"):
            with pytest.raises(ForeignFileError, match=rf"{path.name} is a symbolic link out of .*, to .*real/a\.rox"):
                Archive(path, mode).open()
        with Archive(path) as archive:
            assert archive.path(len(archive) - 1) == ("b", path.name)
    with pytest.raises(ForeignFileError, match=r"links/b\.rox is a symbolic link out of .*links, to .*real/a\.rox"):
        Archive(f"{tmp_path}/links/*.rox").open()
    os.symlink("a.rox", tmp_path / "real" / "z.rox")  # which leads nowhere else
    with Archive(tmp_path / "real" / "z.rox", "a") as archive:
        archive.append(b"z", ("z",))
    assert len(read(f"{tmp_path}/real/*.rox")) == 8


@pytest.mark.parametrize(
    "told",
    [
        {"moves": [], "deletes": ["thesis.txt"]},
        {"moves": [["thesis.txt", "d.rox"]], "deletes": []},
        {"moves": [[".d.rox-0123456789abcdef.tmp", "thesis.txt"]], "deletes": []},
        {"moves": [], "deletes": ["../thesis.txt"]},
        {"moves": [["../thesis.txt", "d.rox"]], "deletes": []},
        {"moves": [], "deletes": [".."]},
        {"moves": [], "deletes": ["d.rox", "dd.rox"]},
        {"moves": [["a", "b", "c"]], "deletes": [7]},
        [],
        "9" * 5000,
    ],
)
def test_what_is_being_replaced_are_files_of_the_archive_alone(tmp_path: Path, told: Any) -> None:
    """A note of a writer who was killed tells the next one what to rename and to delete."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    write(folder / "d.rox", [b"x"])
    for name in ("thesis.txt", "dd.rox", ".d.rox-0123456789abcdef.tmp", "../thesis.txt"):
        (folder / name).write_text("precious")
    text = told if isinstance(told, str) else json.dumps(told)
    for pending in (text, "[" * 100_000, "{" * 5):
        (folder / ".d.rox-pending").write_text(pending)
        for mode in ("r", "a", "w"):
            with pytest.raises(DamagedStoreError, match=r"theirs/\.d\.rox-pending is damaged"):
                Archive(folder / "d.rox", mode).open()
    for name in ("thesis.txt", "dd.rox", "../thesis.txt"):
        assert (folder / name).read_text() == "precious"


def forged(path: Path, notes: Any = None, lines: bytes | None = None) -> None:
    """Give a shard other notes, or its keys other lines, with checksums that are right."""
    shard = Shard(str(path), str(path), check=True)
    assert shard.notes is not None
    if lines is not None:
        assert shard.notes.keys is not None
        first = Path(keys_path(str(path))).read_bytes().splitlines(keepends=True)[0]
        Path(keys_path(str(path))).write_bytes(first + lines)
        notes = shard.notes._replace(keys=KeysNote(len(first + lines), zlib.crc32(first + lines), shard.notes.keys.id))
        notes = {"version": 1, **notes._asdict(), "keys": notes.keys._asdict()}
    whole = path.read_bytes()
    start = len(shard.view) + 8 * len(shard)
    groups = whole[start : start + 4 * group_count(len(shard.view))]
    text = notes if isinstance(notes, bytes) else json.dumps(notes).encode()
    tail = TAIL.pack(len(text), zlib.crc32(text, zlib.crc32(groups)), TAIL_MAGIC)
    shard.close()
    path.write_bytes(whole[:start] + groups + text + tail + whole[-FOOTER.size :])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 8) | st.sampled_from([2**63, 10**30, 1.5, "", "a", "0", "5"]),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.sampled_from(["first", "commit", "a"]), parts),
    max_leaves=5,
)
BOMBS = [b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000, b"9" * 100_000, b"\xff\xfe", b"", b"[1e999]", b"NaN"]
texts = st.sampled_from(BOMBS) | json_values.map(lambda value: json.dumps(value).encode())
key_lines = st.builds(lambda path, attributes: path + attributes, texts, st.just(b"") | texts.map(lambda t: b"\t" + t))


@settings(max_examples=examples(80))
@given(lines=st.lists(key_lines, max_size=5), begins=st.booleans())
def test_any_keys_are_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], begins: bool
) -> None:
    path = tmp_path_factory.mktemp("keys") / "d.rox"
    with Archive(path, "w", durable=False) as archive:
        archive.write_records((("a", str(n)), b"x", None) for n in range(3))
    forged(path, lines=b'{"first":0}\n' * begins + b"".join(line.replace(b"\n", b"") + b"\n" for line in lines))
    uses: list[Any] = [
        lambda archive: list(archive.paths()),
        lambda archive: list(archive.records()),
        lambda archive: [(archive.path(n), archive.attributes(n)) for n in range(3)],
        lambda archive: archive.index_of(("5",)),
        lambda archive: archive.index_of(("a",)),
        lambda archive: archive.verify(),
    ]
    with Archive(path) as archive:
        for use in uses:
            with contextlib.suppress(DamagedStoreError, NoSuchKeyError):
                use(archive)
        assert [record.tobytes() for record in archive] == [b"x"] * 3


@settings(max_examples=examples(60))
@given(
    text=texts
    | st.dictionaries(
        st.sampled_from(["records", "payload", "codec", "set_id", "keys", "follows", "origin"]), json_values
    )
    | st.dictionaries(st.sampled_from(["size", "crc", "id"]), json_values).map(lambda keys: {"keys": keys})
)
def test_any_notes_are_read_or_refused_in_words(tmp_path_factory: pytest.TempPathFactory, text: Any) -> None:
    path = tmp_path_factory.mktemp("notes") / "d.rox"
    with Archive(path, "w", durable=False) as archive:
        archive.write_records((("a", str(n)), b"x", None) for n in range(3))
    with Archive(path) as archive:
        notes = archive.open()._opened()[0].notes
    assert notes is not None
    known = {"version": 1, **notes._asdict(), "keys": notes.keys and notes.keys._asdict()}
    if isinstance(text, dict):
        keys = {**known["keys"], **text["keys"]} if isinstance(text.get("keys"), dict) else text.get("keys")
        text = json.dumps({**known, **text, "keys": keys}).encode()
    forged(path, text)
    with contextlib.suppress(DamagedStoreError, CodecError), Archive(path) as archive:
        assert len(archive) == 3
        list(archive.paths())
    with Archive(path, check=False) as archive, contextlib.suppress(DamagedStoreError, CodecError):
        assert [record.tobytes() for record in archive] == [b"x"] * 3


@pytest.mark.parametrize("limit", [None, 1000])
def test_read_only_media_are_read_and_writing_is_refused_in_words(tmp_path: Path, limit: int | None) -> None:
    def uses() -> Any:
        with Archive(tmp_path / "d.rox") as archive:
            found = [(path, archive[number].tobytes()) for number, path in enumerate(archive.paths())]
            archive.verify()
            assert pickle.loads(pickle.dumps(archive))[0].tobytes() == b"0"
        assert sum(batch.size for batch in token_batches(tmp_path / "d.rox", np.uint8, 5)) == 90 // 5 * 5
        assert len(list(shuffled(tmp_path / "d.rox", 1, seed=1))) == 50
        for mode in ("a", "w"):
            with pytest.raises(
                OSError, match=r'd\.rox.* can.t be written to.*to read, open it with mode "r"'
            ) as caught:
                Archive(tmp_path / "d.rox", mode).open()
            assert caught.value.errno == errno.EROFS
        return found

    with Archive(tmp_path / "d.rox", "w", max_shard_bytes=limit) as archive:
        archive.write_records((("a", str(n)), str(n).encode(), {"n": n}) for n in range(50))
    assert on_readonly_media(tmp_path, uses) == [(("a", str(n)), str(n).encode()) for n in range(50)]


def test_files_of_somebody_else_are_read_and_writing_is_refused_in_words() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "d.rox"
        with Archive(path, "w") as archive:
            archive.append(b"x", ("a",))
        assert as_nobody(lambda: outcome(path, "r")) == "1 records, the first is ('a',) None"
        for _ in range(2):
            for mode in ("a", "w"):
                with pytest.raises(PermissionError, match=r'd\.rox.* can.t be written to.*open it with mode "r"'):
                    as_nobody(lambda mode=mode: outcome(path, mode))
            (path.parent / ".d.rox-lock").unlink(missing_ok=True)
        os.chmod(path, 0o600)
        with pytest.raises(PermissionError, match=r"d\.rox"):
            as_nobody(lambda: outcome(path, "r"))


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.parametrize("is_left", [True, False])
def test_without_locks_nothing_is_written_and_a_lock_file_is_not_taken_for_a_writer(
    tmp_path: Path, code: int, is_left: bool
) -> None:
    def uses() -> str:
        for mode in ("a", "w"):
            with pytest.raises(ReadOnlyStoreError, match=r"d\.rox.* can only be read: the file system .* has no locks"):
                outcome(tmp_path / "d.rox", mode)
        return outcome(tmp_path / "d.rox", "r")

    with Archive(tmp_path / "d.rox", "w") as archive:
        archive.append(b"x", ("a",))
    if not is_left:
        (tmp_path / ".d.rox-lock").unlink()
    before = tree(tmp_path)
    assert without_locks(code, uses) == "1 records, the first is ('a',) None"
    assert tree(tmp_path) == before


# --- Loading ---------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(0, 30), max_size=12),
    length=st.integers(1, 7),
    batch_size=st.integers(1, 4),
    drop_last=st.booleans(),
)
@settings(max_examples=examples(20))
def test_tokens_go_across_shards(
    tmp_path_factory: Any, sizes: list[int], length: int, batch_size: int, drop_last: bool
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    tokens = np.arange(sum(sizes), dtype=np.int16)
    write(folder / "t.rox", np.split(tokens, np.cumsum(sizes))[:-1], max_shard_bytes=450)
    batches = list(token_batches(folder / "t.rox", np.int16, length, batch_size=batch_size, drop_last=drop_last))
    rows = len(tokens) // length
    if drop_last:
        rows -= rows % batch_size
    np.testing.assert_equal(
        np.concatenate([*batches, np.zeros((0, length), np.int16)]), tokens[: rows * length].reshape(-1, length)
    )
    assert all(batch.shape == (batch_size, length) for batch in batches[:-1])


def test_shuffled_is_the_same_for_the_same_seed(three_shards: tuple[str, list[bytes]]) -> None:
    path, records = three_shards

    def order(**options: Any) -> list[bytes]:
        return [record.tobytes() for batch in shuffled(path, 7, **options) for record in batch]

    assert sorted(order(seed=1)) == sorted(records)
    assert order(seed=1) == order(seed=1, epoch=0, prefetch=1) != order(seed=1, epoch=1)
    assert len(order(seed=1, drop_last=True)) == 56


def test_shuffled_ends_its_thread_whenever_it_is_closed(three_shards: tuple[str, list[bytes]]) -> None:
    before, threads = open_files(), threading.active_count()
    for taken in range(4):
        batches = shuffled(three_shards[0], 5, seed=0, prefetch=2)
        for _ in range(taken):
            next(batches)
        batches.close()  # type: ignore[attr-defined]
        assert not open_files() - before
        assert threading.active_count() == threads
    next(dropped := shuffled(three_shards[0], 5, seed=0))
    del dropped
    assert not open_files() - before
    assert threading.active_count() == threads

    def fail(records: list[Any]) -> None:
        raise ZeroDivisionError("in the thread")

    with pytest.raises(ZeroDivisionError, match="in the thread"):
        next(shuffled(three_shards[0], 5, seed=0, collate=fail))
    with Archive(three_shards[0]) as archive:
        assert len(list(shuffled(archive, 60, seed=0))) == 1
        assert len(archive) == 60


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"seed": -1}, {"prefetch": 0}, {"seed": "x"}, {"collate": 5}])
def test_bad_arguments_of_loaders(options: Any) -> None:
    with pytest.raises(
        ValueError if isinstance(next(iter(options.values())), int) and "collate" not in options else TypeError,
        match="shuffled",
    ):
        shuffled("a.rox", **{"batch_size": 1, "seed": 0, **options})
    with pytest.raises((ArgumentError, ArgumentTypeError), match="token_batches"):
        token_batches("a.rox", object, 1)
    wrong: Any = "x"
    with pytest.raises(ArgumentTypeError, match="token_batches: drop_last"):
        token_batches("a.rox", "u1", 1, drop_last=wrong)
    with pytest.raises(ArgumentTypeError, match="shuffled: drop_last"):
        shuffled("a.rox", 1, seed=0, drop_last=wrong)
