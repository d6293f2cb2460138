"""For eyes: what a write did, where its time went, and what failed."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ._html import block
from ._public import public
from ._spelling import spelled
from .errors import MAX_BRIEF, ArgumentTypeError, got
from .file_models import IngestReport
from .models import Failure, MapReport, WriteReport, counted

__all__ = ["RunSummary", "run_summary"]

#: Maps shown, types of errors, and failures of each; more are counted.
MAX_MAPS = 20
MAX_TYPES = 20
MAX_EXAMPLES = 3
#: Seconds that a run must take before its rate and the parts of its time mean something.
MEASURED = 0.001
#: Seconds that a run must take before its summary says which side is the slower one.
MIN_SECONDS = 0.1
#: Seconds of a run below which the start of worker processes may be most of what they are waited for.
START_SECONDS = 5.0
#: The width of a share of 100 %: in characters, and in pixels.
BAR, BAR_PIXELS = 20, 160

WAITING, WRITING, READING = "waiting for workers", "writing", "reading"

#: Characters of a map's name.
MAX_NAME = 30
#: The least share of the time in which workers that are waited for are busy where more of them would help.
BUSY = 0.5

COLUMNS = ("map", "workers", "batches", "work", "busy", "input wait", "worker wait", "consumer wait")


@public
@spelled
def run_summary(report: WriteReport) -> RunSummary:
    """Show what a `write` did: counts, where the time went, in each `parallel_map` too, and the failures by type.

    >>> from lotproc import Failure, MapReport, WriteReport
    >>> from lotproc.summaries import run_summary
    >>> failure = Failure(("ann", "clip_1"), "ValueError", "the file is empty")
    >>> run_summary(
    ...     WriteReport(
    ...         written=120, commits=2,
    ...         failed=1, failures=(failure,), errors={"ValueError": 1},
    ...         seconds=12.5, waiting=10.0, writing=2.0,
    ...         maps=(MapReport("rate", "thread", 4, 8, 12.4, 48.1, 0.3, 10.0, 2.1),),
    ...     )
    ... )
    120 results written, 1 failed, 2 commits
    12.5 s, 9.6 results/s
      waiting for workers  10.0 s  80 %  ████████████████
      writing               2.0 s  16 %  ███
      reading               0.5 s   4 %  █
      map    workers  batches    work  busy  input wait  worker wait  consumer wait
      rate  4 thread        8  48.1 s  97 %       0.3 s       10.0 s          2.1 s
    rate is the slower side, busy 97 %: more workers would help, or a faster processor.
    1 failure
      1 ValueError
          ann/clip_1: the file is empty

    Args:
        report: What `write` returned.

    Returns:
        A `RunSummary`, text when printed, and HTML in a notebook. It shows up to 20 maps, as `MapReport` has them
        (the work is that of all workers added up, the waits are by the clock); of the failures the 20 most frequent
        types of errors, and up to three examples of each, from those that the report holds.

    Raises:
        ArgumentTypeError: `report` is no `WriteReport`.
    """
    if not isinstance(report, WriteReport):
        hint = "an IngestReport prints itself" if isinstance(report, IngestReport) else "write(...) returns one"
        hint = "give it the .report" if hasattr(report, "report") else hint
        raise ArgumentTypeError("run_summary:", expected="a WriteReport", got=got(report), hint=hint)
    return RunSummary(report)


class _Share(NamedTuple):
    """A part of the time."""

    name: str
    seconds: float
    share: float


class _Group(NamedTuple):
    """The failures of one type; `more` of them are not among the examples."""

    failures: int
    error: str
    examples: list[str]
    more: int


@public
@dataclass(frozen=True, repr=False)
class RunSummary:
    """A report for eyes; made by `run_summary`."""

    report: WriteReport

    def __repr__(self) -> str:
        return "\n".join(map(str.rstrip, self._lines()))

    def _lines(self) -> Iterator[str]:
        yield str(self.report)
        yield _rate(self.report)
        shares = _shares(self.report)
        times = [_time(share.seconds, of=self.report.seconds) for share in shares]
        percents = [_percent(share.share) for share in shares]
        for share, time, percent in zip(shares, _aligned(times), _aligned(percents), strict=True):
            yield f"  {share.name:{len(WAITING)}}  {time}  {percent}  {_bar(share.share)}"
        table, more_maps = _table(self.report)
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for name, *cells in table:
            aligned = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            yield "  ".join(["", name.ljust(widths[0]), *aligned])
        if more_maps:
            yield f"  … {counted(more_maps, 'more map')}"
        if conclusion := _conclusion(self.report, shares):
            yield conclusion
        failed, groups, more_types = _grouped(self.report)
        if failed:
            yield counted(failed, "failure")
        for group, number in zip(groups, _aligned([f"{group.failures:,}" for group in groups]), strict=True):
            yield f"  {number} {group.error}"
            yield from (f"      {example}" for example in group.examples)
            if group.more and group.examples:
                yield f"      … {group.more:,} more"
        if more_types:
            yield f"  … {counted(more_types, 'more type')}"

    def _repr_html_(self) -> str:
        report = self.report
        parts = [f"<div><b>{html.escape(str(report))}</b></div><div>{_rate(report)}</div>"]
        shares = _shares(report)
        if shares:
            rows = [_html_row(share, _time(share.seconds, of=report.seconds)) for share in shares]
            parts.append(f"{_TABLE}{''.join(rows)}</table>")
        table, more_maps = _table(report)
        if table:
            parts.append(f"{_TABLE}{''.join(map(_html_cells, table))}</table>")
        if more_maps:
            parts.append(f"<div><i>… {counted(more_maps, 'more map')}</i></div>")
        if conclusion := _conclusion(report, shares):
            parts.append(f"<div>{html.escape(conclusion)}</div>")
        failed, groups, more_types = _grouped(report)
        if failed:
            parts.append(f"<div><b>{counted(failed, 'failure')}</b></div>{_LIST}")
            parts += map(_html_group, groups)
            if more_types:
                parts.append(f"<li><i>… {counted(more_types, 'more type')}</i></li>")
            parts.append("</ul>")
        return block(*parts)


_TABLE = '<table style="border-collapse:collapse;margin:.3em 1em">'
_LIST = '<ul style="list-style:none;margin:0;padding-left:1.5em">'


def _html_cells(cells: Sequence[str]) -> str:
    """A row of a table, whose first cell is a name."""
    sides = ["left", *["right"] * (len(cells) - 1)]
    written = (
        f'<td style="text-align:{side};padding:0 .6em">{html.escape(cell)}</td>'
        for cell, side in zip(cells, sides, strict=True)
    )
    return f"<tr>{''.join(written)}</tr>"


def _html_row(share: _Share, time: str) -> str:
    row = _html_cells((share.name, time, _percent(share.share)))
    size = f"width:{share.share * BAR_PIXELS:.0f}px;height:.8em"
    bar = f'<span style="display:inline-block;{size};background:currentColor;opacity:.5"></span>'
    return row.replace("</tr>", f'<td style="text-align:left;padding:0 .6em">{bar}</td></tr>')


def _html_group(group: _Group) -> str:
    items = [f"<li>{html.escape(example)}</li>" for example in group.examples]
    if group.more and items:
        items.append(f"<li><i>… {group.more:,} more</i></li>")
    below = f"{_LIST}{''.join(items)}</ul>" if items else ""
    return f"<li>{group.failures:,} <b>{html.escape(group.error)}</b>{below}</li>"


def _rate(report: WriteReport) -> str:
    """The time that a run took, and the results in a second of it, or in a minute or an hour if they are few."""
    if report.seconds < MEASURED:
        return f"{'under 1 ms' if report.seconds > 0 else '– s'}, – results/s"
    results, took = report.written + report.skipped, _time(report.seconds, of=report.seconds)
    rates = [(unit, results * seconds / report.seconds) for unit, seconds in (("s", 1), ("min", 60), ("h", 3_600))]
    unit, rate = next((pair for pair in rates if pair[1] >= 1 or not results), rates[-1])
    return f"{took}, {rate:,.{1 if 0 < rate < 100 else 0}f} results/{unit}"


def _time(seconds: float, *, of: float) -> str:
    """A time as people read it, in milliseconds if the whole of which it is a part is short.

    >>> _time(0.04, of=0.5), _time(0.04, of=5), _time(62, of=90), _time(7260, of=8000)
    ('40 ms', '0.0 s', '1 min 02 s', '2 h 01 min')
    """
    if of < 1:
        return f"{seconds * 1_000:.0f} ms"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def _shares(report: WriteReport) -> list[_Share]:
    """The parts of the time; none if it is not known, or too short."""
    if report.seconds < MEASURED:
        return []
    waiting, writing = max(report.waiting, 0.0), max(report.writing, 0.0)
    reading = max(report.seconds - waiting - writing, 0.0)
    whole = waiting + writing + reading
    parts = ((WAITING, waiting), (WRITING, writing), (READING, reading))
    return [_Share(name, seconds, seconds / whole) for name, seconds in parts]


def _table(report: WriteReport) -> tuple[list[tuple[str, ...]], int]:
    """The cells of what is shown of the maps, and how many more there are."""
    if not report.maps or report.seconds < MEASURED:
        return [], 0
    rows = [
        (
            _name(map),
            map.mode if map.mode == "sync" else f"{map.workers:,} {_one_line(map.mode, MAX_NAME)}",
            f"{map.batches:,}",
            _time(map.working, of=report.seconds),
            _percent(map.busy),
            *(_time(wait, of=report.seconds) for wait in (map.input_wait, map.worker_wait, map.consumer_wait)),
        )
        for map in report.maps[:MAX_MAPS]
    ]
    return [COLUMNS, *rows], len(report.maps) - len(rows)


def _name(map: MapReport) -> str:
    return _one_line(map.name, MAX_NAME).strip() or "?"


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _aligned(texts: list[str]) -> list[str]:
    width = max(map(len, texts), default=0)
    return [text.rjust(width) for text in texts]


def _bar(share: float) -> str:
    return "█" * round(share * BAR) or ("▏" if share else "")


def _conclusion(report: WriteReport, shares: list[_Share]) -> str:
    """Which side is the slower one, where there is enough time to tell."""
    if report.seconds < MIN_SECONDS:
        return ""
    most = next((share.name for share in shares if share.share > 0.5), "")
    if most == WAITING:
        return _slow_workers(report.maps, report.seconds)
    if most == WRITING:
        return "Writing is the slower side: more workers would not help, more results between commits may."
    if most == READING:
        return _slow_reading(report, shares[-1].seconds)
    return ""


def _slow_workers(maps: tuple[MapReport, ...], seconds: float) -> str:
    slow = max(maps, key=lambda map: map.worker_wait, default=None)
    if slow is None:
        return "The workers are the slower side: more of them would help, or a faster processor."
    if slow.mode == "sync":
        return f"What {_name(slow)} does in line is the slower side: workers would help, or a faster processor."
    if slow.mode == "async" and slow.busy < BUSY:
        more = "a higher rate= or buffersize= would help"
        return f"{_name(slow)} waits for its turns, busy {_percent(slow.busy)}: {more}."
    if slow.mode == "process" and slow.busy < BUSY and seconds < START_SECONDS:
        why = "the start of worker processes counts, so a run as short as this does not tell whether more would help"
        return f"{_name(slow)} was waited for, busy {_percent(slow.busy)}: {why}."
    more = "more workers would help, or a faster processor"
    if slow.busy < BUSY:
        more = "more workers would not help, batches of another size may"
    return f"{_name(slow)} is the slower side, busy {_percent(slow.busy)}: {more}."


def _slow_reading(report: WriteReport, reading: float) -> str:
    others = [map for map in report.maps if map.mode != "sync"]
    # What is neither one's waiting is done on the way to the workers and back.
    sending = sum(map.seconds - map.input_wait - map.worker_wait - map.consumer_wait for map in others)
    if sending > reading / 2:
        return "Sending to workers and back is the slower side: less in each record would help, a handle for an array."
    if not report.maps and report.waiting <= 0:  # what is processed may hide in what counts as reading
        return "Reading is the slower side, or what is processed outside of parallel_map()."
    busy = f" (busy {_percent(max(map.busy for map in others))})" if others else ""
    return f"Reading is the slower side: more workers{busy} would not help, scan() in place of leaves() may."


def _grouped(report: WriteReport) -> tuple[int, list[_Group], int]:
    """How many failures there are, the most frequent types of them, and how many types more."""
    # The report counts them all and holds the first; one made by hand may hold some that it does not count.
    counts = Counter(report.errors) | Counter(failure.error for failure in report.failures)
    types = sorted(counts, key=lambda error: (-counts[error], error))
    examples: dict[str, list[str]] = {error: [] for error in types[:MAX_TYPES]}
    for failure in report.failures:
        shown = examples.get(failure.error)
        if shown is not None and len(shown) < MAX_EXAMPLES:
            shown.append(_example(failure))
    groups = [
        _Group(counts[error], _one_line(error), shown, counts[error] - len(shown)) for error, shown in examples.items()
    ]
    return max(report.failed, counts.total()), groups, len(types) - len(groups)


def _example(failure: Failure) -> str:
    tried = f" ({failure.attempts} attempts)" if failure.attempts > 1 else ""
    said = filter(None, [_one_line(failure.where), _one_line(failure.message)])
    return (": ".join(said) or "no message") + tried


def _one_line(text: str, most: int = MAX_BRIEF) -> str:
    start = text[: most + 1]
    line = start if start.isprintable() else repr(start)
    return line if len(line) <= most else f"{line[: most - 1]}…"
