"""Summaries against counts made by hand: readable for any report, and HTML that says what the text does."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, strategies as st

import lotproc as lp
from lotproc.errors import ArgumentTypeError
from lotproc.file_models import IngestReport
from lotproc.models import Failure, MapReport, WriteReport
from lotproc.summaries import COLUMNS, MAX_MAPS, MAX_TYPES, RunSummary, run_summary

#: Any text, with what HTML and lines take for their own.
texts = st.text(st.characters()) | st.text("<>&'\"\n ab") | st.sampled_from(["word " * 1_000, "\ud800" * 1_000])

failures = st.builds(
    Failure,
    path=st.none() | st.lists(texts, max_size=3).map(tuple),
    error=st.sampled_from(["ValueError", "KeyError", "<b>", ""]) | texts,
    message=texts,
    attempts=st.integers(1, 3),
    item=texts,
)

times = st.floats(0, 1e7) | st.floats(0, 0.2)

maps = st.builds(
    MapReport,
    name=st.sampled_from(["decode", "<lambda>", ""]) | texts,
    mode=st.sampled_from(["sync", "thread", "ClientExecutor"]) | texts,
    workers=st.integers(1, 10**4),
    batches=st.integers(0, 10**9),
    seconds=times,
    working=times,
    input_wait=times,
    worker_wait=times,
    consumer_wait=times,
)


@st.composite
def reports(draw: st.DrawFn, most_maps: int = MAX_MAPS + 2) -> WriteReport:
    held = draw(st.lists(failures, max_size=12))
    counts = Counter(failure.error for failure in held)
    counts.update(draw(st.dictionaries(st.sampled_from(["ValueError", "OSError"]) | texts, st.integers(1, 10**7))))
    numbers = st.integers(0, 10**9)
    return WriteReport(
        written=draw(numbers),
        skipped=draw(numbers),
        commits=draw(numbers),
        failed=counts.total(),
        failures=tuple(held),
        errors=counts,
        seconds=draw(times),
        waiting=draw(times),
        writing=draw(times),
        maps=tuple(draw(st.lists(maps, max_size=most_maps))),
    )


def report_of(*held: Failure, **fields: Any) -> WriteReport:
    errors = Counter(failure.error for failure in held)
    return WriteReport(**{"failed": len(held), "failures": held, "errors": errors, **fields})


def failures_in(summary: RunSummary) -> list[str]:
    """The lines on failures."""
    lines = str(summary).split("\n")
    start = next(index for index, line in enumerate(lines) if re.fullmatch(r"[\d,]+ failures?", line))
    return lines[start:]


def shown_in(summary: RunSummary) -> Any:
    """Its HTML, without its style."""
    top = ElementTree.fromstring(summary._repr_html_())
    top.remove(top[0])
    return top


# --- Any report ------------------------------------------------------------------------------------------------------


@given(report=reports())
def test_the_text_is_a_few_lines_that_can_be_printed(report: WriteReport) -> None:
    lines = str(run_summary(report)).split("\n")
    assert len(lines) <= 9 + MAX_MAPS + MAX_TYPES * 5
    for line in lines:
        assert line.isprintable()
        assert len(line) <= 300
        assert line == line.rstrip() != ""
    assert lines[0] == str(report)
    assert repr(run_summary(report)) == str(run_summary(report))


@given(report=reports())
def test_the_html_is_well_formed_and_says_what_the_text_does(report: WriteReport) -> None:
    summary = run_summary(report)
    top = shown_in(summary)
    bars = re.compile(r"[█▏\s]")
    assert bars.sub("", "".join(top.itertext())) == bars.sub("", str(summary))
    assert {element.tag for element in top.iter()} <= {"div", "b", "i", "span", "table", "tr", "td", "ul", "li"}
    assert {name for element in top.iter() for name in element.attrib} <= {"style", "class"}


@given(report=reports())
def test_the_failures_are_counted_by_type_the_most_frequent_first(report: WriteReport) -> None:
    if not report.failed:
        assert "failure" not in str(run_summary(report))
        return
    first, *lines = failures_in(run_summary(report))
    assert first == f"{report.failed:,} failure{'' if report.failed == 1 else 's'}"
    expected = sorted(report.errors.values(), reverse=True)[:MAX_TYPES]
    top = shown_in(run_summary(report))
    items = [item for item in top.findall("ul/li") if item[0].tag == "b"]
    assert [int(item.text.replace(",", "")) for item in items if item.text] == expected
    hidden = len(report.errors) - len(expected)
    assert bool(hidden) == ("more type" in lines[-1])


@given(report=reports())
def test_at_most_three_examples_of_each_type_are_shown_and_the_rest_is_counted(report: WriteReport) -> None:
    held = Counter(failure.error for failure in report.failures)
    ranked = sorted(report.errors, key=lambda error: (-report.errors[error], error))[:MAX_TYPES]
    top = shown_in(run_summary(report))
    items = [item for item in top.findall("ul/li") if item[0].tag == "b"]
    for error, item in zip(ranked, items, strict=True):
        below = item.findall("ul/li")
        notes = [note.text for example in below for note in example.findall("i")]
        examples = min(held[error], 3)
        assert len(below) - len(notes) == examples
        more = report.errors[error] - examples
        assert notes == ([f"… {more:,} more"] if examples and more else [])


@given(report=reports(most_maps=0))
def test_the_times_add_up_and_the_largest_share_is_the_slower_side(report: WriteReport) -> None:
    text = str(run_summary(report))
    shares = [int(share) for share in re.findall(r"^  (?:waiting for workers|writing|reading) .* (\d+) %", text, re.M)]
    if report.seconds < 0.001:
        assert shares == []
        assert "– results/s" in text
        return
    assert len(shares) == 3
    assert 98 <= sum(shares) <= 102
    words = ["The workers are the slower side", "Writing is the slower side", "Reading is the slower side"]
    said = [words.index(word) for word in words if word in text]
    if report.seconds < 0.1:
        assert said == []
    elif max(shares) > 51:
        assert said == [shares.index(max(shares))]
    elif max(shares) < 50:
        assert said == []


@given(report=reports())
def test_the_maps_are_a_table_in_their_order(report: WriteReport) -> None:
    tables = ElementTree.fromstring(run_summary(report)._repr_html_()).findall("table")
    if report.seconds < 0.001 or not report.maps:
        assert len(tables) == (report.seconds >= 0.001)
        return
    head, *rows = [[cell.text or "" for cell in row] for row in tables[1]]
    assert tuple(head) == COLUMNS
    assert len(rows) == min(len(report.maps), MAX_MAPS)
    for row, one in zip(rows, report.maps, strict=False):
        assert len(row[0]) <= 30
        if one.name.isprintable() and one.name.strip() == one.name and 0 < len(one.name) <= 30:
            assert row[0] == one.name
        assert row[2] == f"{one.batches:,}"
        assert abs(int(row[4].removesuffix(" %")) - 100 * one.busy) <= 0.5
    lines = str(run_summary(report)).split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith(f"  {COLUMNS[0]} "))
    assert len({len(line) for line in lines[start : start + 1 + len(rows)]}) == 1
    assert ("more map" in lines[start + 1 + len(rows)]) == (len(report.maps) > MAX_MAPS)


# --- Examples --------------------------------------------------------------------------------------------------------


def test_the_text_of_a_small_run() -> None:
    report = report_of(
        Failure(("ann", "clip_1"), "ValueError", "the file is empty"),
        Failure(("ann", "clip_7"), "WorkerDiedError", "its worker was killed by SIGKILL", attempts=3),
        Failure(("bob", "clip_4"), "ValueError", "the file is empty"),
        written=120,
        commits=2,
        seconds=12.4,
        waiting=11.1,
        writing=0.9,
    )
    assert str(run_summary(report)).split("\n") == [
        "120 results written, 3 failed, 2 commits",
        "12.4 s, 9.7 results/s",
        "  waiting for workers  11.1 s  90 %  ██████████████████",
        "  writing               0.9 s   7 %  █",
        "  reading               0.4 s   3 %  █",
        "The workers are the slower side: more of them would help, or a faster processor.",
        "3 failures",
        "  2 ValueError",
        "      ann/clip_1: the file is empty",
        "      bob/clip_4: the file is empty",
        "  1 WorkerDiedError",
        "      ann/clip_7: its worker was killed by SIGKILL (3 attempts)",
    ]


def test_the_text_of_two_maps() -> None:
    decode = MapReport("decode", "process", 2, 1_000, 95.0, 176.0, 1.0, 84.0, 8.0)
    embed = MapReport("embed", "RayExecutor", 8, 1_000, 95.5, 120.0, 87.0, 1.5, 6.0)
    report = WriteReport(written=64_000, commits=64, seconds=96.0, waiting=85.5, writing=6.0, maps=(decode, embed))
    assert str(run_summary(report)).split("\n") == [
        "64,000 results written, 64 commits",
        "1 min 36 s, 667 results/s",
        "  waiting for workers  1 min 26 s  89 %  ██████████████████",
        "  writing                   6.0 s   6 %  █",
        "  reading                   4.5 s   5 %  █",
        "  map           workers  batches        work  busy  input wait  worker wait  consumer wait",
        "  decode      2 process    1,000  2 min 56 s  93 %       1.0 s   1 min 24 s          8.0 s",
        "  embed   8 RayExecutor    1,000  2 min 00 s  16 %  1 min 27 s        1.5 s          6.0 s",
        "decode is the slower side, busy 93 %: more workers would help, or a faster processor.",
    ]


def test_the_text_of_a_run_of_millions() -> None:
    report = WriteReport(
        written=12_345_678,
        skipped=1_000,
        commits=1_235,
        failed=2_000_041,
        failures=tuple(Failure((f"clip_{number}",), "ValueError", "bad") for number in range(1_000)),
        errors={"OSError": 41, "ValueError": 2_000_000},
        seconds=7_265,
        waiting=65,
        writing=7_199,
    )
    assert str(run_summary(report)).split("\n") == [
        "12,345,678 results written, 1,000 skipped, 2,000,041 failed, 1,235 commits",
        "2 h 01 min, 1,699 results/s",
        "  waiting for workers  1 min 05 s   1 %  ▏",
        "  writing              2 h 00 min  99 %  ████████████████████",
        "  reading                   1.0 s   0 %  ▏",
        "Writing is the slower side: more workers would not help, more results between commits may.",
        "2,000,041 failures",
        "  2,000,000 ValueError",
        "      clip_0: bad",
        "      clip_1: bad",
        "      clip_2: bad",
        "      … 1,999,997 more",
        "         41 OSError",
    ]


def test_the_text_of_a_run_that_did_nothing() -> None:
    assert str(run_summary(WriteReport())) == "0 results written, nothing to commit\n– s, – results/s"


@pytest.mark.parametrize(
    ("seconds", "written", "text"),
    [
        (0.0, 5, "– s, – results/s"),
        (0.0009, 5, "under 1 ms, – results/s"),
        (0.04, 5, "40 ms, 125 results/s"),
        (0.04, 0, "40 ms, 0 results/s"),
        (2.0, 5_000, "2.0 s, 2,500 results/s"),
        (2.0, 5, "2.0 s, 2.5 results/s"),
        (59.96, 60, "1 min 00 s, 1.0 results/s"),
        (100.0, 5, "1 min 40 s, 3.0 results/min"),
        (3_599.7, 3, "1 h 00 min, 3.0 results/h"),
        (360_000.0, 3, "100 h 00 min, 0.0 results/h"),
    ],
)
def test_times_and_rates_have_the_unit_that_suits_them(seconds: float, written: int, text: str) -> None:
    lines = str(run_summary(WriteReport(written=written, commits=1, seconds=seconds))).split("\n")
    assert lines[1] == text


@pytest.mark.parametrize(
    ("seconds", "waiting", "writing", "text"),
    [
        (10, 6, 1, "The workers are the slower side"),
        (10, 1, 6, "Writing is the slower side"),
        (10, 1, 1, "Reading is the slower side: more workers would not help"),
        (10, 0, 1, "Reading is the slower side, or what is processed outside of parallel_map()"),
        (10, 4, 3, None),
        (10, 5, 0, None),
        (0.09, 0.08, 0, None),
        (0.1, 0.08, 0, "The workers are the slower side"),
    ],
)
def test_the_slower_side_is_named_where_there_is_one(
    seconds: float, waiting: float, writing: float, text: str | None
) -> None:
    shown = str(run_summary(WriteReport(seconds=seconds, waiting=waiting, writing=writing)))
    assert (text or "") in shown
    assert ("slower side" in shown) == (text is not None)


BUSY = MapReport("decode", "thread", 2, 5, seconds=10.0, working=19.0, worker_wait=9.0)
IDLE = MapReport("decode", "thread", 2, 5, seconds=10.0, working=2.0, worker_wait=9.0)
ASKING = MapReport("ask", "async", 2, 5, seconds=10.0, working=2.0, worker_wait=9.0)
IN_LINE = MapReport("embed", "sync", 1, 5, seconds=10.0, working=8.0, worker_wait=8.0)
STARVED = MapReport("decode", "thread", 2, 5, seconds=10.0, working=2.0, input_wait=9.0)
SENDING = MapReport("decode", "process", 2, 5, seconds=10.0, working=2.0, input_wait=1.0)


@pytest.mark.parametrize(
    ("waiting", "maps", "text"),
    [
        (9.0, [BUSY], "decode is the slower side, busy 95 %: more workers would help, or a faster processor."),
        (9.0, [IDLE], "decode is the slower side, busy 10 %: more workers would not help, batches of another size"),
        (9.0, [ASKING], "ask waits for its turns, busy 10 %: a higher rate= or buffersize= would help."),
        (9.0, [BUSY, STARVED], "decode is the slower side, busy 95 %"),
        (9.0, [STARVED, IN_LINE], "What embed does in line is the slower side: workers would help"),
        (9.0, [IN_LINE], "What embed does in line is the slower side: workers would help"),
        (0.5, [STARVED], "Reading is the slower side: more workers (busy 10 %) would not help, scan()"),
        (0.5, [STARVED, BUSY], "Reading is the slower side: more workers (busy 95 %) would not help, scan()"),
        (0.0, [STARVED], "Reading is the slower side: more workers (busy 10 %) would not help, scan()"),
        (0.5, [IN_LINE], "Reading is the slower side: more workers would not help, scan()"),
        (0.5, [SENDING], "Sending to workers and back is the slower side"),
    ],
)
def test_maps_tell_which_side_is_the_slower_one(waiting: float, maps: list[MapReport], text: str) -> None:
    report = WriteReport(seconds=10.0, waiting=waiting, maps=tuple(maps))
    assert text in str(run_summary(report))


@pytest.mark.parametrize(
    ("seconds", "mode", "working", "blames"),
    [
        (2.0, "process", 0.1, False),
        (2.0, "process", 3.6, True),
        (2.0, "thread", 0.1, True),
        (30.0, "process", 0.1, True),
    ],
)
def test_a_processor_is_not_blamed_for_the_start_of_its_workers(
    seconds: float, mode: str, working: float, blames: bool
) -> None:
    row = MapReport("decode", mode, 2, 5, seconds=seconds, working=working, worker_wait=seconds)
    shown = str(run_summary(WriteReport(written=5, seconds=seconds, waiting=0.9 * seconds, maps=(row,))))
    assert ("slower side" in shown) == blames
    assert ("start" in shown) != blames


def test_reading_is_never_negative() -> None:
    shown = str(run_summary(WriteReport(seconds=1.0, waiting=0.75, writing=0.75)))
    assert re.findall(r"(\d+\.\d s +\d+ %)", shown) == ["0.8 s  50 %", "0.8 s  50 %", "0.0 s   0 %"]


def test_a_message_of_many_lines_is_one_line_and_cut() -> None:
    report = report_of(
        Failure(("a",), "E", "first\nsecond\x1b[31m"),
        Failure(("b",), "E", "long " * 1_000),
        Failure(None, "E", "", item="<a record>"),
    )
    assert failures_in(run_summary(report)) == [
        "3 failures",
        "  3 E",
        r"      a: 'first\nsecond\x1b[31m'",
        f"      b: {('long ' * 1_000)[:119]}…",
        "      <a record>",
    ]


def test_many_types_of_errors_are_cut() -> None:
    held = [Failure((str(number),), f"Error{number:03d}", "bad") for number in range(100)]
    lines = failures_in(run_summary(report_of(*held)))
    assert lines[1:3] == ["  1 Error000", "      0: bad"]
    assert len(lines) == 1 + 2 * MAX_TYPES + 1
    assert lines[-1] == "  … 80 more types"
    assert failures_in(run_summary(report_of(*held[: MAX_TYPES + 1])))[-1] == "  … 1 more type"
    assert "more" not in failures_in(run_summary(report_of(*held[:MAX_TYPES])))[-1]


def test_failures_that_a_report_made_by_hand_does_not_count_are_shown() -> None:
    report = WriteReport(failures=(Failure(("a",), "ValueError", "bad"),))
    assert failures_in(run_summary(report)) == ["1 failure", "  1 ValueError", "      a: bad"]
    assert failures_in(run_summary(WriteReport(failed=3))) == ["3 failures"]


def test_the_html_of_a_small_run() -> None:
    report = report_of(Failure(("<a>",), "E", "x < y & z"), written=1, seconds=2.0, waiting=1.5)
    top = shown_in(run_summary(report))
    assert [cell.text for cell in top.findall("table/tr/td") if cell.text] == [
        *("waiting for workers", "1.5 s", "75 %"),
        *("writing", "0.0 s", "0 %"),
        *("reading", "0.5 s", "25 %"),
    ]
    widths = [re.findall(r"width:(\d+)px", span.get("style", "")) for span in top.iter("span")]
    assert widths == [["120"], ["0"], ["40"]]
    assert [item.text for item in top.findall("ul/li/ul/li")] == ["<a>: x < y & z"]


def test_a_summary_is_a_value() -> None:
    report = report_of(Failure(("a",), "E", "bad"), written=1)
    assert run_summary(report) == run_summary(report)
    assert run_summary(report).report is report
    assert str(pickle.loads(pickle.dumps(run_summary(report)))) == str(run_summary(report))


def test_the_report_of_a_write() -> None:
    from lotdb import BaseNode

    results = [lp.ProcessResult(path=("clip_1",), output=0.5)]
    report = lp.write(lp.inline("_proc", "result"), BaseNode("root"), results)
    assert str(run_summary(report)).startswith("1 result written, not committed\n")
    assert "parallel_map" not in str(run_summary(report))
    work = lp.parallel_map(lp.each(lambda result: result), mode="thread", max_workers=3)
    report = lp.write(lp.inline("_proc", "result"), BaseNode("root"), work([results]))
    assert re.search(r"^  <lambda> +3 thread +1 ", str(run_summary(replace(report, seconds=1.0))), re.M)
    assert "\n" not in str(report)


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (None, "got None; write"),
        (3, "got int 3; write"),
        ("120 results written", "got str .*; write"),
        (IngestReport(ingested=2), "got IngestReport.*; an IngestReport prints itself"),
        (lp.chunked(3), "got .*; write"),
    ],
)
def test_what_is_no_report_is_refused(report: Any, text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"run_summary: expected a WriteReport, {text}"):
        run_summary(report)
