"""For eyes: a tree in a terminal or a notebook, and how far a stream is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
from lotdb import BaseNode, BlobObject, DataObject, PathFileObj

from ._html import block, details, escaped, grid
from ._nodes import is_closed
from ._public import public
from ._reprs import named
from ._stage import check_count, stage
from ._stamps import INPUTS, VERSION
from .bars import bar, total_of
from .errors import ArgumentTypeError, as_utf8, brief, got
from .payloads import PayloadHandle

__all__ = ["TreeView", "progress", "show"]

T = TypeVar("T")

#: Rows of a view, at most; nobody reads more, and a huge tree must not take long.
MAX_ROWS = 200
#: Attributes shown of one node.
MAX_ATTRIBUTES = 8
#: Characters shown of a file's name.
MAX_TEXT = 40
#: Rows of a view whose branches are all open in a notebook.
SMALL = 40
#: Children counted beyond the ones shown, and attributes looked at.
MAX_COUNTED = 1_000
#: What lotproc and lotdb note for themselves beside a result or the content of a file. It is not shown.
NOTES = frozenset((VERSION, INPUTS, "_source_filename", "_source_filepath", "_source_format", "_source_samplerate_hz"))


@overload
def show(root: BaseNode, *, depth: int | None = None, limit: int = 10) -> TreeView: ...
@overload
def show(*, depth: int | None = None, limit: int = 10) -> Callable[[BaseNode], TreeView]: ...
@stage("root")
def show(*, depth: int | None = None, limit: int = 10) -> Callable[[BaseNode], TreeView]:
    """Show a tree: keys, attributes and the shapes of payloads.

    >>> from lotdb import BaseNode
    >>> from lotproc import show
    >>> root = BaseNode("corpus")
    >>> for key in ("clip_1", "clip_2", "clip_3"):
    ...     _ = root.gns(["ann", key]).set_attribute("seconds", 1.5)
    >>> show(root, limit=2)
    corpus
    └── ann
        ├── clip_1  seconds=1.5
        ├── clip_2  seconds=1.5
        └── … 1 more

    Args:
        root: Any lotdb node, in memory or persistent.
        depth: Levels below `root` to show; `None`: all.
        limit: Children to show of each node.

    Returns:
        A `TreeView`, text when printed, and in a notebook branches to open and close, with a table of neighbours that
        have the same attributes. What lotproc notes for itself (`_version`, `_inputs`, `_source_...`) is left out.
        Lazy; it reads the tree when it is displayed, at most 200 rows of it, so it returns at once on a tree of any
        size. Reads only. For the connection's thread only.

    Raises:
        ArgumentError: `depth` is negative, or `limit` less than 1.
        ArgumentTypeError: `root` is no node, or an option no number.
    """
    if depth is not None:
        check_count("show", "depth", depth, minimum=0)
    check_count("show", "limit", limit)
    return lambda root: TreeView(root, depth, limit)


class _Row(NamedTuple):
    """One line of a view: a node, or a note on what is left out."""

    last: tuple[bool, ...]  # for each level from below the root: whether it is the last of its siblings
    key: str
    attributes: list[tuple[str, str]]
    is_node: bool
    more: int = 0  # how many it stands for, of a note
    stops: bool = False  # whether the view ends here


@public
class TreeView:
    """A tree for eyes, read anew each time it is displayed; made by `show`."""

    def __init__(self, root: BaseNode, depth: int | None, limit: int) -> None:
        self._root, self._depth, self._limit = root, depth, limit

    def __repr__(self) -> str:
        return "\n".join(
            _guides(row.last)
            + _one_line(row.key)
            + "".join(f"  {_one_line(name)}={_one_line(value)}" for name, value in row.attributes)
            for row in self._rows()
        )

    def _repr_html_(self) -> str:
        rows = list(self._rows())
        below: dict[int, list[tuple[_Row, str]]] = {}  # by depth: what waits for the node above it, the last one first
        is_cut, cut_at = bool(rows[1:]) and rows[-1].stops, len(rows)
        for row in reversed(rows):
            depth = len(row.last)
            inside = below.pop(depth + 1, [])[::-1]
            # Of the branches that the view ends in, nobody knows how many there are.
            is_whole = not is_cut or depth >= cut_at
            cut_at = min(cut_at, depth) if is_cut and not row.stops else cut_at
            below.setdefault(depth, []).append(
                (row, _branch(row, inside, is_whole, is_open=len(rows) <= SMALL or depth < 1))
            )
        return block(*(drawn for _, drawn in below[0]))

    def _rows(self) -> Iterator[_Row]:
        if is_closed(self._root):
            yield _Row((), "… the connection of the tree is closed; display it before that", [], False, stops=True)
            return
        rows = self._all_rows()
        yield from islice(rows, MAX_ROWS)
        if next(rows, None) is not None:
            yield _Row(
                (True,), f"… stopped after {MAX_ROWS} rows; narrow it with depth= or limit=", [], False, stops=True
            )

    def _all_rows(self) -> Iterator[_Row]:
        stack: list[tuple[BaseNode | None, _Row]] = [
            (self._root, _Row((), self._root.key, _described(self._root), True))
        ]
        while stack:
            node, row = stack.pop()
            yield row
            if node is not None and (self._depth is None or len(row.last) < self._depth):
                stack += reversed(list(self._below(node, row.last)))

    def _below(self, node: BaseNode, last: tuple[bool, ...]) -> Iterator[tuple[BaseNode | None, _Row]]:
        keys = iter(node.node_storage.keys())
        shown = list(islice(keys, min(self._limit, MAX_ROWS)))
        more = sum(1 for _ in islice(keys, MAX_COUNTED))
        for key in shown:
            child = node.node_storage[key]
            yield child, _Row((*last, not more and key == shown[-1]), key, _described(child), True)
        if more:
            count = f"{more:,}{' or' if more == MAX_COUNTED else ''} more"
            yield None, _Row((*last, True), f"… {count}", [], False, more)


def _branch(row: _Row, inside: list[tuple[_Row, str]], is_whole: bool, *, is_open: bool) -> str:
    """A row as HTML, with what is below it."""
    if not row.is_node:
        return f"<i>{escaped(row.key)}</i>"
    if not inside:
        return _label(row)
    count = len(inside) + sum(below.more - 1 for below, _ in inside if not below.is_node)
    more = " or more" if any(below.more == MAX_COUNTED for below, _ in inside) else ""
    counted = f' <span class="pale">({count:,}{more})</span>' if is_whole else ""
    items = []
    for names, alike in groupby(inside, lambda item: _columns(*item)):
        group = list(alike)
        if names and len(group) > 1:
            cells = [
                [f"<b>{_text(below.key)}</b>", *(_text(value) for _, value in below.attributes)] for below, _ in group
            ]
            items.append(f"<li>{grid(['', *map(_text, names)], cells)}</li>")
        else:
            items += [f"<li>{drawn}</li>" for _, drawn in group]
    return details(_label(row) + counted, f"<ul>{''.join(items)}</ul>", is_open=is_open)


def _columns(row: _Row, drawn: str) -> tuple[str, ...]:
    """The names of the attributes of a node without branches, which may be a row of a table."""
    return () if drawn.startswith("<details") else tuple(name for name, _ in row.attributes)


def _label(row: _Row) -> str:
    attributes = "".join(f' <span class="pale">{_text(name)}=</span>{_text(value)}' for name, value in row.attributes)
    return f"<b>{_text(row.key)}</b>{attributes}"


def _text(text: str) -> str:
    return escaped(_one_line(text))


def _one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)


def _guides(last: tuple[bool, ...]) -> str:
    if not last:
        return ""
    return "".join("    " if is_last else "│   " for is_last in last[:-1]) + ("└── " if last[-1] else "├── ")


def _described(node: BaseNode) -> list[tuple[str, str]]:
    some = (name for name in islice(node.attribute_storage.keys(), MAX_COUNTED) if name not in NOTES)
    names = sorted(some, key=lambda name: name.startswith("_"))
    described = [(name, _brief(node.attribute_storage[name])) for name in names[:MAX_ATTRIBUTES]]
    return [*described, ("…", "")] if len(names) > MAX_ATTRIBUTES else described


def _brief(value: Any) -> str:
    """A value in a few characters; of an array or a payload its dtype and shape."""
    if isinstance(value, DataObject):
        if value.shape:
            rate = f" at {value.samplerate_hz:g} Hz" if value.samplerate_hz else ""
            return f"<{value.dtype} {value.shape}{rate}>"
        return f"<{value.get_metadata('payload_kind', 'empty')}>"
    if isinstance(value, PayloadHandle):
        return f"<{value}>"
    if isinstance(value, BlobObject):
        return f"<{value.content_type}>"
    if isinstance(value, PathFileObj):
        text = as_utf8(named(value.path))
        return text if len(text) <= MAX_TEXT else f"…{text[1 - MAX_TEXT :]}"
    if isinstance(value, np.ndarray):
        return f"<{value.dtype} {value.shape}>"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return f"{value:.6g}" if value % 1 else repr(value)
    return brief(value)


@overload
def progress(items: Iterable[T], *, total: int | None = None, desc: str | None = None) -> Iterator[T]: ...
@overload
def progress(*, total: int | None = None, desc: str | None = None) -> Callable[[Iterable[T]], Iterator[T]]: ...
@stage("items")
def progress(*, total: int | None = None, desc: str | None = None) -> Callable[[Iterable[T]], Iterator[T]]:
    """Pass items through and show how many there were: of batches, how many were in them.

    >>> from lotproc import progress
    >>> list(progress([1, 2, 3], desc="clips"))
    [1, 2, 3]

    Behind `parallel_map` it counts finished results, behind `chunked` records. Where it is not known how many will
    come, as behind `pending`, the bar says "of ?"; `status` counts them, for `total`.

    Args:
        items: Any iterable. A list or a tuple among them is a batch, and counts as what it holds.
        total: How many will come, where it is known; else what `items` hold, if they have a length.
        desc: A word in front of the bar, to tell several bars apart.

    Returns:
        An iterator of the same items, in their order. Lazy; holds one item. A bar (of tqdm) on stderr from the first
        item on, in a notebook a widget, which needs the package `ipywidgets`; where stderr is no terminal, and in a
        notebook without that package, a line a minute and one at the end; where there is no stderr, or it is closed,
        nothing.

    Raises:
        ArgumentError: `total` is negative.
        ArgumentTypeError: `total` is no number, or `desc` no str.
    """
    if total is not None:
        check_count("progress", "total", total, minimum=0)
    if desc is not None and not isinstance(desc, str):
        raise ArgumentTypeError("progress: desc", expected="a str", got=got(desc))
    return lambda items: bar(items, total_of(items) if total is None else total, desc)
