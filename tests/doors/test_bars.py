"""How far a stream is: counted in results, on terminals and in logs, and never in the way of what passes through."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, strategies as st

import lotproc as lp
from lotproc.bars import SECONDS_OF_LINES


@given(items=st.lists(st.integers() | st.lists(st.integers(), max_size=4) | st.tuples(st.integers()), max_size=20))
def test_it_passes_items_through_and_counts_what_is_in_them(items: list[Any]) -> None:
    count = sum(len(item) if isinstance(item, (list, tuple)) else 1 for item in items)
    options: dict[str, Any]
    for stream, options in ((items, {}), (iter(items), {}), (iter(items), {"total": count, "desc": "clips"})):
        with mock.patch("sys.stderr") as stderr:
            stderr.closed, stderr.isatty = False, lambda: False
            assert list(lp.progress(stream, **options)) == items
        (line,) = [call.args[0] for call in stderr.write.call_args_list if call.args[0] != "\n"]
        known = "?" if stream is not items and "total" not in options else count
        assert f"{count} of {known} [" in line
        assert line.startswith("clips: ") == ("desc" in options)


def test_a_log_has_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 10_000, 7))
    with mock.patch("lotproc.bars.perf_counter", side_effect=clock):
        list(lp.progress(iter([[1, 2, 3]] * 100), total=300))
    lines = capsys.readouterr().err.splitlines()
    counts = [int(line.split(" of ")[0]) for line in lines]
    assert counts == sorted(counts)
    assert counts[-1] == 300
    assert 2 <= len(lines) <= 3 * 100 * 7 / SECONDS_OF_LINES


def test_it_shows_nothing_before_it_begins_and_all_where_it_is_closed(capsys: pytest.CaptureFixture[str]) -> None:
    out = lp.progress([1, 2, 3])
    assert capsys.readouterr() == ("", "")
    next(out)
    next(out)
    out.close()  # type: ignore[attr-defined]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1 of 3" in captured.err  # the second was not asked for more
    assert captured.err.endswith("\n")


def on_terminal(code: str) -> str:
    """What a program shows on a terminal, as its stderr."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    try:
        process = subprocess.Popen([sys.executable, "-c", f"import lotproc as lp\n{code}"], stderr=theirs)
        os.close(theirs)
        shown = b"".join(parts(ours))
        assert process.wait() == 0
    finally:
        os.close(ours)
    return shown.decode()


def parts(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # the program has ended
            return
        if not part:
            return
        yield part


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("list(lp.progress([[1, 2], [3]]))", "3/3"),
        ("list(lp.progress(iter([[1, 2], [3]]), desc='clips'))", "clips: 3 of ? ["),
        ("list(lp.progress(iter([[1, 2], [3]]), total=4))", "3/4"),
        ("list(lp.progress(lp.progress([1, 2], desc='inner'), desc='outer'))", "outer: "),
        ("list(lp.progress(lp.progress([1, 2], desc='inner'), desc='outer'))", "inner: 100%"),
    ],
)
def test_a_terminal_has_bars(code: str, expected: str) -> None:
    assert expected in on_terminal(code)


def test_wrong_options() -> None:
    with pytest.raises(lp.ArgumentError):
        lp.progress(total=-1)
    for options in ({"total": "3"}, {"desc": 3}):
        with pytest.raises(lp.ArgumentTypeError):
            lp.progress(**options)  # type: ignore[call-overload]
