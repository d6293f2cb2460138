"""Reprs of bounded length: a value in one line, however large or deep it is, an object as the call that makes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import fields
from itertools import islice
from os import getcwd
from pathlib import PurePath
from typing import Any

from ._is_node import is_node

__all__ = ["bounded_repr", "called", "cut", "named", "repr_of_changed", "short"]

#: Characters of a whole repr, and of one text in it, at most.
MOST = 1_000
MOST_OF_A_TEXT = 120
MOST_OF_AN_OBJECT = 300
#: Items shown of a container, of one in it, and of one in that; what is deeper is not looked at.
ITEMS = (20, 10, 5)
#: Numbers of an array that is shown by them, and not by dtype and shape.
FEW_NUMBERS = 6

_BRACKETS: dict[type, tuple[str, str]] = {
    dict: ("{", "}"),
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
    deque: ("deque([", "])"),
}


def short(value: object) -> str:
    """The repr of a value, where it is small; else the beginning of it. Never more than a line, and never an error.

    Nothing is read from a storage for it: of a persistent object it is the type.

    >>> short({"name": "ann", "ages": list(range(100))})
    "{'name': 'ann', 'ages': [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...]}"
    """
    return cut(_shown(value, 0))


def called(name: str, arguments: Iterable[tuple[str, Any]]) -> str:
    """An object as the call that makes it.

    >>> called("Clip", [("seconds", 1.5), ("words", ("a", "b"))])
    "Clip(seconds=1.5, words=('a', 'b'))"
    """
    return cut(f"{name}({', '.join(f'{argument}={short(value)}' for argument, value in arguments)})")


def bounded_repr(self: Any) -> str:
    """The repr of a dataclass, in one line of bounded length."""
    return called(
        type(self).__qualname__, [(each.name, getattr(self, each.name)) for each in fields(self) if each.repr]
    )


def repr_of_changed(self: Any) -> str:
    """The same, without what is as it is by default."""
    blank = type(self)()
    told = [(each.name, getattr(self, each.name)) for each in fields(self)]
    return called(type(self).__qualname__, [(name, value) for name, value in told if value != getattr(blank, name)])


def named(file: PurePath) -> str:
    """A file as it is named from the working directory, where it lies below that.

    >>> named(PurePath("/data/a.wav")), named(PurePath(getcwd(), "recordings", "a.wav"))
    ('/data/a.wav', 'recordings/a.wav')
    """
    try:
        return str(file.relative_to(getcwd()))
    except (OSError, ValueError):  # there is no such directory any more, or the file lies elsewhere
        return str(file)


def cut(text: str, most: int = MOST) -> str:
    """A text in one line of characters that can be printed, and no more of them than that."""
    text = text[: most + 1]  # first, so that no more of a huge one is looked at
    if not text.isprintable():
        text = " ".join(text.split())
        text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _shown(value: Any, depth: int) -> str:
    kind = type(value)
    try:
        if isinstance(value, (str, bytes, bytearray)):
            return _of_text(value)
        if is_node(value):  # whose own repr counts all its children
            return f"<{cut(value.key, MOST_OF_A_TEXT)}>"
        if hasattr(kind, "_p_jar"):  # persistent: to show more of it could read it from its storage
            return f"<{kind.__name__}>"
        if isinstance(value, tuple(_BRACKETS)):
            return _of_container(value, depth)
        if isinstance(value, Mapping) and len(value) > ITEMS[0]:
            return f"<{kind.__name__} of {len(value):,}>"
        shape = None if kind.__module__.startswith("lotproc") else getattr(value, "shape", None)
        if isinstance(shape, tuple) and shape and not _is_small(value, shape):
            return cut(f"<{getattr(value, 'dtype', kind.__name__)} {shape}>", MOST_OF_A_TEXT)
        return cut(repr(value), MOST_OF_AN_OBJECT)
    except Exception:  # of somebody else's repr, say
        return f"<{kind.__name__}>"


def _of_text(value: str | bytes | bytearray) -> str:
    if len(value) <= MOST_OF_A_TEXT:
        return repr(value)
    text, end = repr(value[:MOST_OF_A_TEXT]), 2 if isinstance(value, bytearray) else 1
    return f"{text[:-end]}…{text[-end:]}"


def _of_container(value: Any, depth: int) -> str:
    kind = type(value)
    base = next(each for each in kind.__mro__ if each in _BRACKETS)
    if depth == len(ITEMS):
        return "..." if kind is base else f"<{kind.__name__}>"
    some = islice(value.items() if base is dict else value, ITEMS[depth])
    shown = [[_shown(part, depth + 1) for part in (item if base is dict else (item,))] for item in some]
    items = [": ".join(parts) for parts in shown]
    opened, closed = _BRACKETS[base]
    names = getattr(kind, "_fields", None)
    if names is not None:  # a named tuple
        items = [f"{name}={item}" for name, item in zip(names, items, strict=False)]
        opened = f"{kind.__name__}("
    elif not items and base in (set, frozenset):
        opened, closed = f"{base.__name__}(", ")"
    if len(value) > ITEMS[depth]:
        items.append("...")
    elif opened == "(" and len(items) == 1:
        closed = ",)"
    text = opened + ", ".join(items) + closed
    return text if names is not None or kind.__repr__ is base.__repr__ else f"{kind.__name__}({text})"


def _is_small(value: Any, shape: tuple[Any, ...]) -> bool:
    return (
        type(value).__name__ == "ndarray" and len(shape) == 1 and shape[0] <= FEW_NUMBERS and not value.dtype.hasobject
    )
