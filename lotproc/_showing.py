"""How stages show themselves: as calls, and as a line of boxes; and iterators by the stages that they go through."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, takewhile
from os.path import basename
from pathlib import PurePath
from typing import Any, NamedTuple, TypeAlias, TypeVar
from weakref import ref

from ._is_node import is_node
from ._reprs import cut, short

__all__ = [
    *("AT_END", "Call", "Stream", "Trail", "argument_text", "inside", "is_used_up", "positional_in", "stages_of"),
    *("to_come", "told", "trail_html"),
]


T = TypeVar("T")

#: What an iterator went through last, a function and its arguments; and what it went through before that, or what is
#: known of the data. A tuple, since one is made each time that a stage gets its data.
Trail: TypeAlias = "tuple[Callable[..., Any], Mapping[str, Any], Any]"

#: What an iterator says of itself that has given its last item, or was closed.
AT_END = ", at its end"
#: Data that is named by its length.
_SIZED = frozenset((list, tuple, dict, set, frozenset, range))


class Call(NamedTuple):
    """A call of a stage's function, as far as its arguments are there."""

    function: Callable[..., Any]
    given: Mapping[str, Any]

    def __str__(self) -> str:
        in_place = list(takewhile(self.given.__contains__, positional_in(inspect.signature(self.function))))
        names = ["" if name in in_place else f"{name}=" for name in self.given]
        given = map("{}{}".format, names, map(argument_text, self.given.values()))
        return cut(f"{self.function.__name__}({', '.join(given)})")

    @property
    def holds(self) -> str:
        """What it holds while it runs, as its docstring says."""
        returns = " ".join((self.function.__doc__ or "").partition("Returns:")[2].partition("Raises:")[0].split())
        found = re.search(r"(?:^|[,.;:] |and |it )holds (.+?)[,.;:](?:\s|$)", returns, re.IGNORECASE)
        return f"holds {found[1]}" if found else ""


class Stream(chain):  # type: ignore[type-arg]
    """The iterator that a stage gives: the items of another one, at the speed of C, which knows its trail.

    It is made by `told`, which is called each time that a stage gets its data, and so does as little as it can.
    """

    __slots__ = ("items", "trail")
    items: Iterator[Any]
    trail: Trail

    def close(self) -> None:
        """End it, and close what it reads."""
        if hasattr(self.items, "close"):
            self.items.close()

    @property
    def is_at_end(self) -> bool:
        """Whether nothing more can come, as far as it can be told: by the generator that is inside, mostly."""
        return getattr(self.items, "gi_frame", self) is None

    def __repr__(self) -> str:
        return cut(f"<{trail_text(self.trail)}{AT_END if self.is_at_end else ''}>")

    def _repr_html_(self) -> str:
        return trail_html(self.trail, is_at_end=self.is_at_end)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"cannot pickle the iterator {self!r}")


def told(result: Iterator[T], data: Any, function: Callable[..., Any], given: Mapping[str, Any]) -> Iterator[T]:
    """An iterator that a function made of data, so that it tells where its items come from."""
    made: Any = result
    if type(result).__module__ in ("builtins", "itertools"):  # others may have methods of their own
        made = Stream(result)
        made.items = result
    elif not (type(result).__module__.startswith("lotproc.") and hasattr(result, "trail")):
        return result
    made.trail = (function, given, _known_of(data))
    return made  # type: ignore[no-any-return]


def _known_of(data: Any) -> Any:
    """What is kept of data, to tell what it was: its trail, a text, or a reference to a root."""
    kind = type(data)
    if kind is Stream:
        return data.trail
    if kind in _SIZED:
        return f"a {kind.__name__} of {len(data)}"
    if is_node(data):  # of which nothing is asked now: that would change what its connection keeps in its cache
        return ref(data)
    if kind.__module__.startswith("lotproc"):  # a scan, which has a trail, or a store or a place
        return getattr(data, "trail", None) or re.sub("^<(.*)>$", r"\1", short(data))
    return short(str(data)) if isinstance(data, (str, PurePath)) else f"a {kind.__name__}"


def _steps(trail: Trail) -> tuple[str, list[Call]]:
    """Where items come from, in a few words, and the calls that they go through, the last one first."""
    calls: list[Call] = []
    before: Any = trail
    while isinstance(before, tuple):
        function, given, before = before
        calls.append(Call(function, given))
    root = before() if isinstance(before, ref) else None
    source = before if isinstance(before, str) else "a tree" if root is None else _tree_text(root)
    return source, calls


def trail_text(trail: Trail) -> str:
    """What an iterator goes through, the last first."""
    source, calls = _steps(trail)
    return " of ".join([*(str(call).removesuffix("()") for call in calls), source])


def trail_html(trail: Trail, *, is_at_end: bool = False) -> str:
    """The same as a line of boxes, in the order in which items go."""
    from ._html import block, boxes  # here, since a worker shows nothing

    source, calls = _steps(trail)
    told = boxes([(source, ""), *((str(call), call.holds) for call in reversed(calls))])
    return block(told, *(['<div class="pale">at its end: make it again</div>'] if is_at_end else []))


def inside(items: Any) -> Any:
    """The iterator in a stream, which gives the same items: for a stage that reads it."""
    return items.items if type(items) is Stream else items


def is_used_up(items: Any) -> bool:
    """Whether this is an iterator of lotproc's own that has given its last item, or was closed."""
    # Asked of the class, since a node would be loaded.
    return hasattr(type(items), "is_at_end") and type(items).__module__.startswith("lotproc.") and items.is_at_end


def positional_in(signature: inspect.Signature) -> list[str]:
    """The names of the positional arguments of a stage's function; the data is the last."""
    return [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]


def to_come(call: Call) -> inspect.Signature:
    """The signature of what is still to come; once it is the data alone, without the options."""
    signature = inspect.signature(call.function)
    rest = [parameter for name, parameter in signature.parameters.items() if name not in call.given]
    is_data = sum(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in rest) == 1
    return signature.replace(parameters=rest[:1] if is_data else rest)


def stages_of(steps: Any) -> list[Any]:
    """The functions that one is composed of by toolz or cytoolz, first to last."""
    if any(kind.__name__ == "Compose" for kind in type(steps).__mro__) and hasattr(steps, "funcs"):
        return [steps.first, *steps.funcs]
    return [steps]


def argument_text(value: Any) -> str:
    """What an argument is called: a function or a class by its name, steps in a row in the order in which they run."""
    if len(steps := stages_of(value)) > 1:
        return f"compose_left({', '.join(map(argument_text, steps))})"
    if inspect.isroutine(value) or type(value) is type:
        return cut(value.__name__)
    return "..." if value is ... else short(value)


def _tree_text(root: Any) -> str:
    """The key of a root; of one that is not loaded yet, so that it would have to be read, its file."""
    if root._p_changed is not None or root._p_jar is None:
        return cut(root.key)
    file = basename(getattr(root._p_jar.db().storage, "_file_name", "")) or "a tree"
    top = root._p_jar._cache.get(bytes(8))  # the database's own root
    is_top = top is not None and top._p_changed is not None and top.get("stt") is root
    return cut(file if is_top else f"a node of {file}")
