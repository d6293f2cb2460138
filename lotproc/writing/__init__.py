"""From results to a tree or a store: planned, then applied between two commits."""

from .planning import plan
from .running import write

__all__ = ["plan", "write"]
