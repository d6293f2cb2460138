"""Other names of arguments, which programs that were written for earlier libraries use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import ArgumentTypeError

__all__ = ["also_named"]

F = TypeVar("F", bound=Callable[..., Any])


def also_named(**others: str) -> Callable[[F], F]:
    """Have a function take arguments under other names, too: `theirs="ours"`."""

    def decorate(function: F) -> F:
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
