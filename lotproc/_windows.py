"""Items answered many at once, in windows that grow; an error comes behind all that is before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from lotdb import BaseNode

from .errors import ServerError

__all__ = ["in_windows"]

#: Items that are answered together: at first few, so that the first comes soon, then up to this many records or nodes.
FIRST_WINDOW = 16
WINDOW = 1024
LIVE_WINDOW = 128


def in_windows(
    items: Iterable[Any], answer: Callable[[list[Any]], list[Any]], answer_one: Callable[[Any], list[Any]]
) -> Iterator[Any]:
    """What a function of many items gives for all of them, window by window.

    Where it raises, what `answer_one` gives for each item takes its place, up to the one at which that raises too. A
    server that is lost is not asked again.
    """
    source = iter(items)
    size = FIRST_WINDOW
    error: Exception | None = None
    ended = False
    while not ended:
        window: list[Any] = []
        try:
            for item in islice(source, size):
                window.append(item)  # one by one, since an error must not take them along
        except Exception as failed:
            error = failed
        ended = error is not None or len(window) < size
        try:
            given = answer(window)
        except ServerError:
            raise
        except Exception:
            given = []
            try:
                for item in window:
                    given += answer_one(item)
            except Exception as failed:
                error, ended = failed, True
        yield from given
        is_live = any(issubclass(kind, BaseNode) for kind in set(map(type, window)))
        size = min(2 * size, LIVE_WINDOW if is_live else WINDOW)
    if error is not None:
        raise error
