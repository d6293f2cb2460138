"""A traceback has the lines of the user's code, and hardly any of lotproc's between them."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lotdb import BaseNode

import lotproc as lp


def tree() -> BaseNode:
    root = BaseNode("root")
    for key in ("clip_1", "clip_2"):
        root.gn(key).set_attribute("n", 1)
    return root


def fails(value: Any) -> Any:
    return value.nothing


def through(*steps: Callable[[Any], Any]) -> Any:
    return list(lp.pipe(tree(), lp.leaves(), *steps))


def processed(mode: Any) -> Any:
    steps = lp.snapshot("n"), lp.chunked(1), lp.parallel_map(lp.outputs(fails), mode=mode)
    return lp.pipe(tree(), lp.leaves(), *steps, lp.write(lp.inline("_p"), tree()))


CALLS: dict[str, Callable[[], Any]] = {
    "a test": lambda: through(lp.where("n", fails), lp.snapshot("n"), lp.chunked(2)),
    "a payload": lambda: through(lp.snapshot("n", payload=fails), lp.chunked(2), lp.progress()),
    "a key": lambda: through(lp.snapshot("n"), lp.chunked_by(fails)),
    "a policy": lambda: lp.write(fails, tree(), [lp.ProcessResult(("clip_1",), 1)]),
    "a source": lambda: lp.write(lp.mirror(), tree(), (fails(record) for record in through(lp.snapshot("n")))),
    "each": lambda: lp.each(fails, [1]),
    "in line": lambda: processed("sync"),
    "a thread": lambda: processed("thread"),
    "a process": lambda: processed("process"),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_goes_from_the_users_call_to_the_users_function(name: str) -> None:
    with pytest.raises(AttributeError) as raised:
        CALLS[name]()
    frames = traceback.extract_tb(raised.value.__traceback__)
    assert frames[-1].name == "fails"
    ours = [frame.name for frame in frames if "lotproc" in Path(frame.filename).parts]
    assert len(ours) <= 3, ours


def test_an_error_of_our_own_keeps_its_last_line() -> None:
    with pytest.raises(lp.ArgumentError) as raised:
        lp.chunked(0)
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert names[-1] == "check_count"
    assert set(names[1:-1]) <= {"call"}


def test_who_looks_for_a_fault_in_lotproc_gets_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOTPROC_ALL_FRAMES", "1")
    done = subprocess.run(
        [sys.executable, "-c", "import lotproc\nlotproc.chunked(0)"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert "in chunked" in done.stderr
