"""For eyes: how far a stream is, as a bar in a terminal or a notebook, and as lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any, TypeVar

__all__ = ["bar", "total_of"]

T = TypeVar("T")

#: Seconds between two looks of a bar, and between two lines where there is no terminal.
SECONDS_OF_BAR, SECONDS_OF_LINES = 0.1, 60.0
#: What is shown where it is not known how many there will be.
OF_UNKNOWN = "{n_fmt} of ? [{elapsed}, {rate_fmt}]"
#: A line without a bar in it.
OF_TOTAL = "{n_fmt} of {total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"


def _size(item: object) -> int:
    return len(item) if type(item) in (list, tuple) else 1  # type: ignore[arg-type]


def total_of(items: Any) -> int | None:
    """What items hold, where that can be known beforehand."""
    if isinstance(items, (list, tuple)):
        return sum(map(_size, items))
    try:
        return len(items)
    except TypeError:
        return None


def bar(
    items: Iterable[T], total: int | None, desc: str | None, *, hidden: bool | None = False
) -> Generator[T, None, None]:
    """The same items, counted where people see it; `hidden` of `None` says that only a terminal is such a place."""
    if hidden:
        yield from items
        return
    with _shown(total, desc, hidden) as (seconds, tell):
        new, due = 0, perf_counter() + seconds
        try:
            for item in items:
                yield item
                new += _size(item)
                if perf_counter() >= due:
                    tell(new)
                    new, due = 0, perf_counter() + seconds
        finally:
            tell(new)


@contextmanager
def _shown(total: int | None, desc: str | None, hidden: bool | None) -> Iterator[tuple[float, Callable[[int], Any]]]:
    """How often it is to be told how many more there were, and what is told."""
    stream = sys.stderr
    if stream is None or getattr(stream, "closed", False):  # a service has none, say
        yield SECONDS_OF_LINES, lambda number: None
        return
    from tqdm.auto import tqdm

    is_notebook = any(kind.__name__ == "tqdm_notebook" for kind in tqdm.__mro__)
    before = f"{desc}: " if desc else ""
    if is_notebook or stream.isatty():
        form = None if total is not None else f"{before}{OF_UNKNOWN}"
        with tqdm(total=total, desc=desc, miniters=1, mininterval=0, bar_format=form) as shown:
            yield SECONDS_OF_BAR, shown.update
    elif hidden is None:
        yield SECONDS_OF_LINES, lambda number: None
    else:
        count, start = 0, perf_counter()
        form = f"{before}{OF_UNKNOWN if total is None else OF_TOTAL}"

        def line(number: int) -> None:
            nonlocal count
            count += number
            with suppress(OSError, ValueError):  # it was closed since
                print(tqdm.format_meter(count, total, perf_counter() - start, bar_format=form), file=stream, flush=True)

        yield SECONDS_OF_LINES, line
