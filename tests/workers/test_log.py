"""What happens on the way of a run is logged, and shown to nobody who has not asked for it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lotdb import BaseNode
from trees import opened
from ZODB.MappingStorage import MappingStorage

import lotproc as lp

RECORDS = [lp.NodeRecord((f"clip_{n}",), f"clip_{n}", {"n": n}) for n in range(6)]


def invert(record: lp.NodeRecord) -> float:
    if record.attributes["n"] == 4:
        os._exit(1) if os.environ.get("LOTPROC_TEST_DIES") else None
    return 1 / (record.attributes["n"] - 1)


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


@pytest.mark.parametrize("mode", ["sync", "thread"])
def test_failures_and_what_is_tried_again_and_commits(caplog: pytest.LogCaptureFixture, mode: str) -> None:
    caplog.set_level("INFO", "lotproc")
    with opened(MappingStorage()) as root:
        results = lp.parallel_map(lp.outputs(invert), [RECORDS], mode=mode, on_error="collect", retries=2)  # type: ignore[call-overload]
        lp.write(lp.inline("_p"), root, results, commit_every=1)
    (failed,) = told(caplog, logging.WARNING)
    assert "clip_1" in failed
    assert "ZeroDivisionError" in failed
    again = [text for text in told(caplog, logging.INFO) if "again" in text]
    assert len(again) == 2
    assert all("clip_1" in text for text in again)
    (commit,) = [text for text in told(caplog, logging.INFO) if "commit" in text]
    assert "5 results, 1 failed" in commit


def test_what_is_left_out_by_a_scan(caplog: pytest.LogCaptureFixture) -> None:
    root = BaseNode("root")
    root.gn("clip").set_attribute("n", lambda: None)
    assert list(lp.snapshot("n", lp.leaves(root), on_error="skip")) == []
    (failed,) = told(caplog, logging.WARNING)
    assert "clip" in failed


def test_a_worker_that_is_lost(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOTPROC_TEST_DIES", "1")
    found = list(lp.parallel_map(lp.outputs(invert), [RECORDS[3:]], max_workers=1, on_error="collect"))
    assert [type(item) for item in found[0]] == [lp.ProcessResult, lp.Failure, lp.ProcessResult]
    assert any("was lost" in text for text in told(caplog, logging.WARNING))


def sleep_but_first(record: lp.NodeRecord) -> float:
    if record.attributes["n"]:
        time.sleep(60)
    return 0.5


def test_workers_that_an_early_close_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "lotproc")
    batches = [[record] for record in RECORDS[:3]]
    results = lp.parallel_map(lp.outputs(sleep_but_first), batches, max_workers=2, ordered=True)
    next(results)
    time.sleep(0.5)  # until the others are at work
    results.close()
    assert not caplog.records


def test_a_worker_that_is_ended_for_its_timeout(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "lotproc")
    batches = [[record] for record in RECORDS[:2]]
    options = {"max_workers": 1, "timeout": 0.5, "on_error": "collect"}
    found = list(lp.parallel_map(lp.outputs(sleep_but_first), batches, **options))
    assert [type(item) for batch in found for item in batch] == [lp.ProcessResult, lp.Failure]
    (failed,) = told(caplog, logging.WARNING)  # the failure, once
    assert "clip_1" in failed
    (stopped,) = told(caplog, logging.INFO)
    assert "timeout" in stopped
    assert "was lost" not in stopped


INTERRUPTED = """
import logging, signal, threading, time
import lotproc as lp
logging.basicConfig(level="INFO")
signal.signal(signal.SIGINT, signal.default_int_handler)
records = [lp.NodeRecord((f"clip_{n}",), f"clip_{n}", {"n": n}) for n in range(3)]
def work(record):
    if record.attributes["n"]:
        time.sleep(60)
    return 0.5
results = lp.parallel_map(lp.outputs(work), [[record] for record in records], max_workers=2)
next(results)
time.sleep(0.5)
HOW
"""


@pytest.mark.parametrize(
    "how",
    [
        "threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start(); next(results)",
        "raise SystemExit",  # with the iterator left open
    ],
)
def test_workers_that_end_with_their_program(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.replace("HOW", how)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=50,
    )
    assert "worker process" not in done.stderr
    assert done.returncode == (0 if how == "raise SystemExit" else -2 if os.name == "posix" else done.returncode)


PROGRAM = """
import lotproc as lp
records = [lp.NodeRecord((f"clip_{n}",), f"clip_{n}", {"n": n}) for n in range(3)]
list(lp.parallel_map(lp.outputs(lambda record: 1 / record.attributes["n"]), [records], mode="sync", on_error="skip"))
"""


@pytest.mark.parametrize("asks", [False, True])
def test_nothing_is_shown_to_those_who_have_not_asked(asks: bool) -> None:
    program = ("import logging; logging.basicConfig()\n" if asks else "") + PROGRAM
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert ("clip_0" in done.stderr) == asks
    assert asks or not done.stderr
