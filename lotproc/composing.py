"""Stages one behind the other: `pipe` and `compose_left`, the functions of toolz, with types through ten steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolz import functoolz, pipe

from ._public import public
from ._reprs import cut
from ._showing import argument_text, stages_of
from ._stage import Stage

__all__ = ["compose_left", "pipe"]


class Compose(functoolz.Compose):  # type: ignore[misc]  # toolz has no types
    """What `compose_left` makes: that of toolz, which shows its steps in the order in which they run."""

    __slots__ = ()
    __doc__ = vars(functoolz.Compose)["__doc__"]  # of each one, what it does

    def __reduce__(self) -> tuple[Any, ...]:
        return compose_left, tuple(stages_of(self))

    def __repr__(self) -> str:
        return cut(argument_text(self))

    def _repr_html_(self) -> str:
        from ._html import block, boxes  # here, since a worker shows nothing

        steps = stages_of(self)
        notes = [step.holds if isinstance(step, Stage) else "" for step in steps]
        return block(boxes(zip(map(argument_text, steps), notes, strict=True)))


@public
def compose_left(*steps: Callable[..., Any]) -> Callable[..., Any]:
    """Make one function of several: what is given to it goes to the first, what comes out to the next, and so on.

    >>> from lotproc import chunked, compose_left, match_key
    >>> compose_left(match_key("^clip_"), chunked(128))
    compose_left(match_key('^clip_'), chunked(128))

    Args:
        steps: The functions, stages among them, in the order in which they run.

    Returns:
        A function. It is toolz's, pickles where its steps do, and equals one of the same steps; of one step it is that,
        of none the function that returns what it is given.

    Raises:
        TypeError: A step can't be called, once it is its turn.
    """
    if len(steps) > 1:
        return Compose(steps[::-1])
    return steps[0] if steps else functoolz.identity  # type: ignore[no-any-return]
