"""What is public says `lotproc` as its module, so that what users pickle names no file that may move."""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ["public"]

T = TypeVar("T", bound=Any)


def public(thing: T) -> T:
    """Let a class or a function say that it is found in `lotproc`, or in another module that stays where it is.

    A decorator, above `dataclass`: an annotation or a value in the body of a class would be a field of it.
    """
    thing.__module__ = "lotproc"
    return thing
