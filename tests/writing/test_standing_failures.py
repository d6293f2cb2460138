"""What failed and stands: told with its reasons, and left out or done again by `pending`, held against a dict."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode

import lotproc as lp

POLICY = lp.inline("_proc")
KEYS = ["a", "b", "c", "d"]
keys = st.sampled_from(KEYS)
#: Runs, each of the records that it fails on, with its reason.
runs = st.lists(st.dictionaries(keys, st.sampled_from(["", "it is empty", 'é"\n\0']), max_size=3), max_size=4)


@settings(deadline=None, max_examples=40)
@given(runs=runs, failed=st.sampled_from(["skip", "retry"]), size=st.integers(1, 4))
def test_what_stands_is_what_a_dict_says(
    tmp_path_factory: pytest.TempPathFactory, runs: list[dict[str, str]], failed: Any, size: int
) -> None:
    ledger = tmp_path_factory.mktemp("run") / "ledger.jsonl"
    root = BaseNode("root")
    records = [lp.NodeRecord((key,), key) for key in KEYS]
    standing: dict[str, str] = {}
    done: set[str] = set()
    for number, run in enumerate(runs):
        todo = list(lp.pending(POLICY, root, records, ledger=ledger, failed=failed))
        expected = [key for key in KEYS if key not in done and not (failed == "skip" and key in standing)]
        assert [record.key for record in todo] == expected
        results = [
            lp.Failure(record.path, "ValueError", run[record.key], f"line {number}", number + 1)
            if record.key in run
            else lp.ProcessResult(record.path, 1)
            for record in todo
        ]
        lp.write(POLICY, root, lp.chunked(size, results), ledger=ledger)
        for key in expected:
            if key in run:
                standing[key] = run[key]
            else:
                standing.pop(key, None)
                done.add(key)
        given = lp.failures(ledger)
        assert {failure.path: failure.message for failure in given} == {(key,): why for key, why in standing.items()}
        assert [failure.path for failure in given] == sorted((key,) for key in standing)
        assert [failure for failure in given if failure.attempts == number + 1] == [
            item for item in results if isinstance(item, lp.Failure)
        ]
        table = [row["error"] for row in lp.to_rows(given)]
        assert table == ["ValueError"] * len(standing)
        inverted = [record.key for record in lp.pending(POLICY, root, records, invert=True)]
        assert inverted == [key for key in KEYS if key in done]


def test_a_line_that_lacks_what_a_failure_says_is_a_failure(tmp_path: pathlib.Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    lines = [
        {"event": "failure", "path": ["a"]},
        {"event": "failure", "path": ["b"], "error": 3, "attempts": "x"},
        {"event": "failure", "path": None, "error": "ValueError"},
        {"event": "failure", "path": "c", "error": "ValueError"},
    ]
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert lp.failures(ledger) == [lp.Failure(("a",), "", ""), lp.Failure(("b",), "3", "")]


def test_a_ledger_that_is_still_to_be_made_is_none_to_read_failures_from(tmp_path: pathlib.Path) -> None:
    with pytest.raises(lp.ArgumentError):
        lp.failures(tmp_path / "none.jsonl")
    with pytest.raises(lp.ArgumentTypeError):
        lp.failures(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"ledger": "run.jsonl"},
        {"failed": "skip"},
        {"ledger": "run.jsonl", "failed": "again"},
        {"ledger": "run.jsonl", "failed": "skip", "invert": True},
        {"ledger": "no/such/folder/run.jsonl", "failed": "skip"},
    ],
)
def test_choices_that_do_not_go_together_are_refused_at_once(options: Any) -> None:
    with pytest.raises(lp.ArgumentError):
        lp.pending(POLICY, BaseNode("root"), **options)


def test_an_inversion_is_true_or_false() -> None:
    with pytest.raises(lp.ArgumentTypeError) as caught:
        lp.pending(POLICY, BaseNode("root"), invert=1)  # type: ignore[call-overload]
    assert caught.value.got
