"""What a scan has on its way: branches whose children are still to come, and what stands for records in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from .._jar import at_path
from ..models import NodeRecord
from .attributes import NOTHING_ABOVE
from .blocks import Piece
from .bounds import Bounds
from .records import Children

__all__ = ["Branch", "Elsewhere", "Entry", "Failed"]

_Path: TypeAlias = "tuple[str, ...]"


class Branch:
    """A node whose children are still to come.

    Args:
        oid: Its id.
        path: Its path, from the root of the whole tree.
        tree: The record of the tree of its children.
        above: The branch that it is a child of; `None` for the root of the scan.
        bounds: What of it is given.
    """

    __slots__ = (
        "above",
        "bounds",
        "depth",
        "handed_down",
        "is_looked_at",
        "listed",
        "oid",
        "own",
        "passed",
        "path",
        "ready",
        "siblings",
        "tree",
        "windows",
    )

    def __init__(self, oid: bytes, path: _Path, tree: bytes, above: Branch | None, bounds: Bounds) -> None:
        self.oid, self.path, self.tree, self.above, self.bounds = oid, path, tree, above, bounds
        #: The ids of nodes between the branch above and this one.
        self.passed: Sequence[bytes] = ()
        #: What its children inherit.
        self.handed_down = NOTHING_ABOVE
        #: Its depth below the root of the scan.
        self.depth: int = above.depth + 1 if above else 0
        #: Its children, where they were listed together with those of others, and whether that was tried.
        self.listed: Children | None = None
        self.is_looked_at = False
        #: Its children, a window at a time, once this is begun.
        self.windows: Iterator[Children] | None = None
        #: What it gives itself, before what is below it.
        self.own: NodeRecord | Failed | None = None
        #: What comes below it, once it is decoded.
        self.ready: Iterable[Entry | None] | None = None
        #: The branches that were decoded with it and still wait, up to the last, itself included; if there are any.
        self.siblings: deque[Branch] | None = None


class Failed:
    """Stands for what can't be read, a node or what is below one, behind all records that come before it."""

    def __init__(self, path: _Path, error: Exception) -> None:
        self.path, self.error = path, at_path("scan", path, error)


class Elsewhere:
    """The records of a node in a sibling database, and of what is below it."""

    def __init__(self, records: Iterator[NodeRecord]) -> None:
        self.records = records


Entry: TypeAlias = "NodeRecord | Piece | Branch | Failed | Elsewhere"
