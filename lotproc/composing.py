"""Stages one behind the other: `pipe` and `compose_left`, the functions of toolz, with types through ten steps."""

from toolz import compose_left, pipe

__all__ = ["compose_left", "pipe"]
