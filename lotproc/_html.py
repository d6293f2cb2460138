"""How things look in a notebook: boxes, tables and branches to open, in one style that is made for dark and light.

All text goes through `escaped`; the other functions take and give HTML. It is well-formed, so that it can be checked,
and says the same where a site takes the style away.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from ._reprs import cut, short

__all__ = ["Text", "block", "boxes", "card", "cell", "details", "escaped", "grid", "pairs"]

#: Characters of a text, at most.
MOST = 2_000
#: Plots in one table, at most: each may read a file.
MOST_PLOTS = 4
#: Colours are those of the page around it, paler: so there is nothing to choose for a dark one. What is important
#: here, or named twice, is so because notebooks have rules of their own for tables and lists.
STYLE = (
    "<style>"
    ".lotproc{font-family:var(--jp-code-font-family,ui-monospace,monospace);font-size:var(--jp-code-font-size,13px);"
    "line-height:1.5;color:inherit}"
    ".lotproc table{border-collapse:collapse;border:0;margin:.2em 0!important;font-size:inherit;color:inherit}"
    ".lotproc.lotproc table :is(tr,th,td){background:none!important;border:0;text-align:left;"
    "vertical-align:top;padding:.1em 1.2em .1em 0;max-width:none;white-space:pre-wrap;overflow-wrap:anywhere}"
    ".lotproc.lotproc table :is(tr+tr,tbody tr)>*{border-top:1px solid rgba(128,128,128,.25)}"
    ".lotproc.lotproc table .n{text-align:right}.lotproc .pale{opacity:.7;font-weight:normal}"
    ".lotproc.lotproc table :is(thead,thead+tbody) :is(th,td){overflow-wrap:break-word;max-width:24em}"
    ".lotproc.lotproc table tr>:first-child:first-child{overflow-wrap:break-word;max-width:14em}"
    ".lotproc summary{cursor:pointer}.lotproc details>:not(summary){margin:0 0 0 1.2em!important}"
    ".lotproc pre{margin:.2em 0;white-space:pre-wrap;font-size:inherit;color:inherit;background:none}"
    ".lotproc ul{list-style:none!important}.lotproc details>ul{padding:0!important}"
    ".lotproc .box{display:inline-block;border:1px solid rgba(128,128,128,.6);border-radius:4px;padding:.1em .6em;"
    "margin:.15em 0;vertical-align:middle;max-width:32em}"
    ".lotproc .box .pale{font-size:.85em;line-height:1.3}"
    ".lotproc svg{display:block;margin:.2em 0;max-width:100%}"
    "</style>"
)


def escaped(text: str, most: int = MOST) -> str:
    """A text for HTML: in one line, of bounded length, of characters that can be printed."""
    return html.escape(cut(text, most))


def block(*parts: str) -> str:
    """What a `_repr_html_` gives."""
    return f'<div class="lotproc">{STYLE}{"".join(parts)}</div>'


def card(kind: str, title: str, *parts: str) -> str:
    """The whole of one thing: what it is, its name or what is said of it, and what it has."""
    return block(f'<div><span class="pale">{escaped(kind)}</span> <b>{escaped(title)}</b></div>', *parts)


class Text(str):
    """What a cell shows as it is, without quotes."""

    __slots__ = ()


def cell(value: object, *, is_drawn: bool = True) -> str:
    """A value in a few words; an array with a plot, or what has one, where that is wanted."""
    if type(value) is Text:
        return escaped(value)
    if not is_drawn:
        return escaped(short(value))
    drawn = getattr(type(value), "_html_cell_", None)
    if drawn is not None:
        return str(drawn(value))
    if type(value).__name__ == "ndarray":
        from ._plots import plotted  # here, where there is an array: a worker starts without numpy

        return escaped(short(value)) + plotted(value)
    return escaped(short(value))


def pairs(values: Iterable[tuple[str, Any]]) -> str:
    """A table of names and values, of which the first few arrays are drawn."""
    rows, plots = [], 0
    for name, value in values:
        shown = cell(value, is_drawn=plots < MOST_PLOTS)
        plots += "<svg" in shown
        rows.append((f'<span class="pale">{escaped(name)}</span>', shown))
    return grid((), rows)


def grid(heads: Sequence[str], rows: Iterable[Iterable[str]], *, numbers: bool = False) -> str:
    """A table of cells in HTML; with numbers from the second column on."""
    kinds = ["", *[' class="n"' if numbers else ""] * 1_000]
    head = "".join(f"<th{kind}>{text}</th>" for kind, text in zip(kinds, heads, strict=False))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{text}</td>' for kind, text in zip(kinds, row, strict=False))}</tr>" for row in rows
    )
    above = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f"<table>{above}<tbody>{body}</tbody></table>" if body or above else ""


def details(title: str, inside: str, *, is_open: bool = False) -> str:
    """What opens and closes."""
    opened = ' open="open"' if is_open else ""
    return f"<details{opened}><summary>{title}</summary>{inside}</details>"


def boxes(steps: Iterable[tuple[str, str]]) -> str:
    """A line of boxes: in each a text, and what is said of it below."""
    drawn = (
        f'<span class="box">{escaped(text)}' + (f'<div class="pale">{escaped(note)}</div>' if note else "") + "</span>"
        for text, note in steps
    )
    return f"<div>{' <span>→</span> '.join(drawn)}</div>"
