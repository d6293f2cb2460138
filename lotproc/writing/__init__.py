"""From results to a tree or a store: planned, then applied between two commits."""

from .deleting import delete
from .planning import plan
from .running import write

__all__ = ["delete", "plan", "write"]
