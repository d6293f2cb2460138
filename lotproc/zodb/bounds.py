"""Which part of a tree a scan gives: what lies between two paths, and what a pattern of paths can match."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from .._patterns import PathPattern
from .records import Children

__all__ = ["UNBOUND", "Bounds", "chosen"]

_Path: TypeAlias = "tuple[str, ...]"


class Bounds(NamedTuple):
    """What is given of a node and of all below it.

    Args:
        lower: The path below the node from which on nodes are given; empty for none.
        upper: The path below it up to which they are, itself not included; empty for none.
        pattern: What the paths of the nodes must match; `None` for anything.
        positions: Where in the pattern the node is.
    """

    lower: _Path = ()
    upper: _Path = ()
    pattern: PathPattern | None = None
    positions: frozenset[int] = frozenset()

    def matching(self, pattern: PathPattern, path: _Path) -> Bounds:
        """The same bounds for the node at this path, of which only what matches the pattern is given."""
        bounds = Bounds((), (), pattern, pattern.start)
        for key in path:
            bounds = bounds.below(key)
        return bounds._replace(lower=self.lower, upper=self.upper)

    def below(self, key: str) -> Bounds:
        """What they mean below the child with this key."""
        lower, upper, pattern, positions = self
        if pattern is not None:
            positions = pattern.step(positions, key)
            if pattern.accepts_all(positions):
                pattern, positions = None, frozenset()
        return Bounds(
            lower[1:] if lower[:1] == (key,) else (), upper[1:] if upper[:1] == (key,) else (), pattern, positions
        )

    def within(self, children: Children) -> Children:
        """The children that are, or have below them, something that is given."""
        lower, upper, pattern, positions = self
        if not lower and not upper and pattern is not None and pattern.after_any(positions):
            return children
        return chosen(
            children,
            lambda key, _: (
                (not lower or key >= lower[0])
                and (not upper or key < upper[0] or (key == upper[0] and len(upper) > 1))
                and (pattern is None or pattern.step(positions, key))
            ),
        )

    @property
    def includes_node(self) -> bool:
        """Whether the node itself is given; one with a lower bound below it comes before that bound."""
        return not self.lower and (self.pattern is None or self.pattern.accepts(self.positions))


#: All of a tree.
UNBOUND = Bounds()


def chosen(children: Children, test: Callable[[str, bytes], object]) -> Children:
    """The children that pass a test of their keys and ids."""
    kept = [(key, oid) for key, oid in zip(*children, strict=True) if test(key, oid)]
    return Children([key for key, _ in kept], [oid for _, oid in kept])
