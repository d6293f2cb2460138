"""Results of results, and results of several records at one place, draw one warning; nothing else does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from lotdb import BaseNode

import lotproc as lp
from lotproc import pipe

few = st.lists(st.sampled_from(["a", "_p", "_q"]), max_size=4).map(tuple)
batches_of_paths = st.lists(st.lists(few, max_size=3), max_size=4)


def said_by(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


def results_at(paths: Iterable[tuple[str, ...]], **options: Any) -> list[lp.ProcessResult]:
    return [lp.ProcessResult(path, output=1, **options) for path in paths]


WRITERS: dict[str, Callable[..., Any]] = {
    "write": lambda policy, batches, **options: lp.write(policy, BaseNode("root"), batches, **options),
    "plan": lambda policy, batches: list(lp.plan(policy, batches)),
}
every_writer = pytest.mark.parametrize("name", WRITERS)


# --- Results of results ----------------------------------------------------------------------------------------------


@every_writer
@given(base=few, paths=batches_of_paths)
def test_a_warning_where_the_first_of_a_batch_is_itself_a_result(
    name: str, base: tuple[str, ...], paths: list[list[tuple[str, ...]]]
) -> None:
    said = said_by(lambda: WRITERS[name](lp.inline(*base), [results_at(batch) for batch in paths]))
    firsts = [batch[0] for batch in paths if batch]
    assert len(said) == (bool(base) and any(path[-len(base) :] == base for path in firsts))


@every_writer
@pytest.mark.parametrize("policy", [lp.mirror("_p"), lp.fresh(), lambda result: (*result.path, "_p", str(id(result)))])
def test_no_warning_by_other_policies(name: str, policy: Any) -> None:
    assert not said_by(lambda: WRITERS[name](policy, [results_at([("a", "_p"), ("_p",)])]))


def test_a_run_that_takes_its_results_for_records(tmp_path: Path) -> None:
    policy = lp.inline("_p", "v2")
    with lp.open_root(tmp_path / "t.fs", create=True) as root:
        for clip in ("clip_1", "clip_2"):
            root.gns(["ann", clip])
        lp.commit(root)

        def run(**skip: Any) -> lp.WriteReport:
            records = list(lp.pending(policy, root, lp.scan((), root, **skip)))
            results = [lp.ProcessResult(record.path, output=1) for record in records]
            return lp.write(policy, root, results, commit_every=10)

        assert not said_by(run)
        assert not said_by(lambda: run(skip="_p"))
        (said,) = said_by(run)
    assert said.startswith("write: ann/clip_1/_p/v2 is itself at '_p/v2', where inline('_p', 'v2') puts results")
    assert "skip='_p'" in said


def test_a_warning_for_each_call(tmp_path: Path) -> None:
    write = lp.write(lp.inline("_p"), BaseNode("root"))
    assert len(said_by(lambda: (write(results_at([("_p",)])), write(results_at([("_p",)]))))) == 2


def test_a_warning_of_a_store(tmp_path: Path) -> None:
    store = lp.DirectoryStore(tmp_path / "results")
    assert len(said_by(lambda: pipe(results_at([("a", "_p"), ("b", "_p")]), lp.write(lp.inline("_p"), store)))) == 1


def test_a_warning_by_a_target() -> None:
    target = lp.InlineTarget(BaseNode("root"))
    assert len(said_by(lambda: target.write_many(results_at([("a", "_proc"), ("b", "_proc")])))) == 1
    target = lp.MirrorTarget(BaseNode("root"))
    assert not said_by(lambda: target.write_many([results_at([("a", "_proc")]), results_at([("a", "_proc")])]))


# --- Two results at one place ----------------------------------------------------------------------------------------


def of_the_last_key(result: lp.ProcessResult) -> tuple[str, ...]:
    return (result.path[-1], "_p")


TWO = [("ann", "clip_1"), ("bob", "clip_1")]


@pytest.mark.parametrize("batches", [results_at(TWO), [results_at(TWO)], [results_at(TWO[:1]), results_at(TWO[1:])]])
@pytest.mark.parametrize("if_exists", ["merge", "replace"])
def test_a_warning_where_one_result_takes_the_place_of_another(batches: Any, if_exists: str) -> None:
    (said,) = said_by(lambda: WRITERS["write"](of_the_last_key, batches * 2, if_exists=if_exists))
    assert said.startswith("write: the results of ann/clip_1 and bob/clip_1 both go to clip_1/_p by of_the_last_key")


@pytest.mark.parametrize(
    "batch",
    [
        results_at([("ann", "clip_1"), ("bob", "clip_2")]),
        results_at([("ann", "clip_1")] * 2),  # one record, whose results are one after the other
    ],
)
def test_no_warning_where_none_is_lost(batch: list[lp.ProcessResult]) -> None:
    assert not said_by(lambda: WRITERS["write"](of_the_last_key, [batch]))


def test_no_warning_where_results_come_together() -> None:
    batch = [lp.ProcessResult(path, attributes={path[0]: 1}) for path in TWO]
    options: dict[str, Any] = {"output_attribute": None, "version": "v1"}
    assert not said_by(lambda: WRITERS["write"](of_the_last_key, [batch], **options))
    assert not said_by(lambda: WRITERS["write"](of_the_last_key, [results_at(TWO)], if_exists="skip"))
