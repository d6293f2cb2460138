"""Names of arguments: a wrong one is told with the nearest that there is; and those that earlier libraries have."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, TypeVar

from .errors import ArgumentTypeError

__all__ = ["also_named", "check_names", "spelled", "spelled_class"]

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

#: The flags of code that takes any number of arguments; `inspect`, which names them, is slow to import.
CO_VARARGS, CO_VARKEYWORDS = 4, 8


def check_names(function: str, given: Iterable[str], known: Iterable[str], others: Iterable[str] = ()) -> None:
    """Refuse a keyword that a function does not take, with the nearest of those that it takes.

    >>> check_names("write", ["comit_every"], ["policy", "target", "commit_every"])
    Traceback (most recent call last):
    ...
    lotproc.ArgumentTypeError: write: there is no argument 'comit_every';
    did you mean 'commit_every'?
    """
    names = list(known)
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, 2)
            every = f"it takes {', '.join([*names, *others]) or 'none'}"
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else every
            raise ArgumentTypeError(f"{function}: there is no argument {name!r}", hint=hint)


def spelled(function: F) -> F:
    """Have a function name the nearest argument where it is given a keyword that it does not take.

    Stages do so by themselves. Python's own error names it from 3.13 on.
    """
    code: Any = getattr(function, "__code__")  # noqa: B009  # as mypy has it, not every callable has one
    if code.co_flags & CO_VARKEYWORDS:
        return function
    count = code.co_argcount + code.co_kwonlyargcount
    known = [name for name in code.co_varnames[:count] if name not in ("self", "cls")]
    others = [f"*{code.co_varnames[count]}"] if code.co_flags & CO_VARARGS else []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True  # for IPython and pytest
        if kwargs:
            is_class = function.__name__ == "__init__"
            check_names(type(args[0]).__name__ if is_class else function.__qualname__, kwargs, known, others)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def spelled_class(made: C) -> C:
    """Have a class do so; not one of records or results, whose making would take twice as long."""
    made.__init__ = spelled(made.__init__)  # type: ignore[misc]
    return made


def also_named(**others: str) -> Callable[[F], F]:
    """Have a function take arguments under other names, too: `theirs="ours"`."""

    def decorate(function: F) -> F:
        function = spelled(function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for theirs, ours in others.items():
                if theirs in kwargs:
                    if ours in kwargs:
                        what = f"{theirs}= is another name of {ours}=, so give one of them"
                        raise ArgumentTypeError(f"{function.__qualname__}: {what}")
                    kwargs[ours] = kwargs.pop(theirs)
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate
