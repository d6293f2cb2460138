"""`commit_within`: what is whole is committed in time, by a clock that the test sets."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st
from lotdb import BaseNode
from recording import committed, database

import lotproc as lp
from lotproc.writing import progress as _progress


class Stop(Exception):
    """The end of a source."""


class Clock:
    """Stands for `perf_counter`."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


#: Batches: for each the seconds that it takes, and how many results it holds.
batches = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 4.0, 9.0]), st.integers(0, 3)), max_size=8)


@settings(deadline=None, max_examples=60)
@given(
    batches=batches, within=st.sampled_from([0.5, 4.0, 10.0]), every=st.none() | st.integers(1, 6), stops=st.booleans()
)
@example(batches=[(4.0, 1), (0.0, 1)], within=4.0, every=None, stops=True)
def test_what_is_whole_is_committed_in_time(
    batches: list[tuple[float, int]], within: float, every: int | None, stops: bool
) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch, database() as db:
        patch.setattr(_progress, "perf_counter", clock)
        root = db.open_connection()
        paths = [[(f"{number}", f"{row}") for row in range(size)] for number, (_, size) in enumerate(batches)]
        kept: list[tuple[str, str]] = []  # what the oracle has committed
        commits, waiting, last = 0, list[tuple[str, str]](), clock.now

        def source() -> Iterator[Any]:
            nonlocal commits, waiting, last
            for (seconds, _), batch in zip(batches, paths, strict=True):
                assert {path for path in committed(db) if len(path) == 2} == set(kept)
                clock.now += seconds
                waiting += batch
                if waiting and (clock.now - last >= within or (every is not None and len(waiting) >= every)):
                    kept.extend(waiting)
                    commits, waiting, last = commits + 1, [], clock.now
                yield [lp.ProcessResult(path, 1) for path in batch]
            if stops:
                raise Stop

        if stops:
            with pytest.raises(Stop) as caught:
                lp.write(lp.mirror(), root, source(), commit_within=within, commit_every=every)
            report = caught.value.report  # type: ignore[attr-defined]
        else:
            report = lp.write(lp.mirror(), root, source(), commit_within=within, commit_every=every)
            kept += waiting
            commits += bool(waiting)
        assert (report.commits, report.written) == (commits, len(kept))
        assert {path for path in committed(db) if len(path) == 2} == set(kept)


def test_a_store_commits_in_time(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(_progress, "perf_counter", clock)

    def source() -> Iterator[Any]:
        for number in range(4):
            clock.now += 3
            yield lp.ProcessResult((f"{number}",), 1)
        raise Stop

    pytest.importorskip("lmdb")
    with lp.LmdbStore(tmp_path / "store.lmdb") as store:
        with pytest.raises(Stop) as caught:
            lp.write(lp.mirror(), store, source(), commit_within=5)
        assert caught.value.report.commits == 2  # type: ignore[attr-defined]
        assert sorted(store.paths()) == [("0",), ("1",), ("2",), ("3",)]


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), True, "30", None])
def test_only_a_time_is_taken(seconds: Any) -> None:
    with database() as db:
        root = db.open_connection()
        if seconds is None:
            with pytest.raises(lp.ArgumentError) as caught:
                lp.write(lp.mirror(), BaseNode("root"), commit_within=1.0)
            assert caught.value.hint
            return
        with pytest.raises(lp.ArgumentTypeError if isinstance(seconds, (bool, str)) else lp.ArgumentError) as caught:
            lp.write(lp.mirror(), root, commit_within=seconds)
        assert caught.value.expected
