"""Where to part a tree, so that the parts have similar sizes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

from .._jar import Parts
from .ahead import Held, held
from .pinned import PinnedStorage
from .records import UnusualRecord, children_or_parts, stored_node

__all__ = ["starts_of_parts"]

_Path: TypeAlias = "tuple[str, ...]"

#: Pieces are parted until they are this many times smaller than a part, and this many times smaller than the whole.
SMALL = 1.5
FEWEST = 32
#: So many times as many pieces are not exceeded, whatever their sizes.
MOST = 10
#: Levels that are looked at to estimate a size.
DEPTH = 50


@dataclass
class _Piece:
    """A run of nodes in the order of the tree: from a path to the next piece's, and about how many leaves it has."""

    start: _Path
    size: float = 1.0
    smaller: Callable[[], list[_Piece]] = field(default=list)


def starts_of_parts(
    n: int, storage: PinnedStorage, root: bytes, skip_key: Callable[[str], object] | None
) -> list[_Path]:
    """The paths below a root at which up to `n` parts of similar size begin; the first is the root itself.

    The largest piece is parted again and again, until each is small against a part. Sizes are estimated: what
    has ten children is ten times as large as the child in the middle.
    """
    sizes = _Sizes(storage, skip_key)
    number = count()
    whole = sizes.of_node((), root)
    total = whole.size
    heap = [(-whole.size, next(number), whole)]
    final: list[_Piece] = []
    enough = max(SMALL * n, FEWEST)
    while heap and -heap[0][0] > total / enough and len(heap) + len(final) < MOST * enough:
        *_, piece = heapq.heappop(heap)
        smaller = piece.smaller()
        if not smaller:
            final.append(piece)
            continue
        total += sum(small.size for small in smaller) - piece.size
        for small in smaller:
            heapq.heappush(heap, (-small.size, next(number), small))
    pieces = sorted([*final, *(piece for *_, piece in heap)], key=lambda piece: piece.start)

    part = sum(piece.size for piece in pieces) / n
    starts: list[_Path] = [()]
    before = 0.0
    for piece in pieces:
        if len(starts) < n and before + piece.size / 2 >= len(starts) * part and piece.start > starts[-1]:
            starts.append(piece.start)
        before += piece.size
    return starts


class _Sizes:
    """Estimates the sizes of subtrees."""

    def __init__(self, storage: PinnedStorage, skip_key: Callable[[str], object] | None) -> None:
        self._storage = storage
        self._skips = skip_key or (lambda key: False)
        self._held: Held = {}  # records that were read ahead

    def of_node(self, path: _Path, oid: bytes, depth: int = 0, start: _Path | None = None) -> _Piece:
        """The piece that a node with all below it is."""
        piece = _Piece(path if start is None else start)
        if depth < DEPTH:
            try:
                tree = stored_node(self._load(oid), of_any_class=True).children
                return self._of_tree(path, piece.start, tree, depth)
            except UnusualRecord:
                pass
        return piece

    def _of_tree(self, path: _Path, start: _Path, oid: bytes, depth: int) -> _Piece:
        """The piece that a tree of children, or a part of one, is; `path` is that of their parent."""
        found = children_or_parts(self._load(oid))
        if isinstance(found, Parts):
            starts, parts = [start, *((*path, key) for key in found.bounds)], found.parts
            middle = self._of_tree(path, start, parts[len(parts) // 2], depth)

            def pieces() -> list[_Piece]:
                self._read_ahead([], parts, depth)
                return [self._of_tree(path, first, oid, depth) for first, oid in zip(starts, parts, strict=True)]

            return _Piece(start, len(parts) * middle.size, pieces)
        kept = [(key, oid) for key, oid in zip(*found, strict=True) if not self._skips(key)]
        if not kept:
            return _Piece(start)
        key, oid = kept[len(kept) // 2]

        def smaller() -> list[_Piece]:
            self._read_ahead([oid for _, oid in kept], [], depth)
            return [
                self.of_node((*path, key), oid, depth, start if number == 0 else None)
                for number, (key, oid) in enumerate(kept)
            ]

        return _Piece(start, len(kept) * self.of_node((*path, key), oid, depth + 1).size, smaller)

    def _load(self, oid: bytes) -> bytes:
        return (self._held.pop(oid, None) or self._storage.load(oid))[0]

    def _read_ahead(self, nodes: Iterable[bytes], trees: Iterable[bytes], depth: int) -> None:
        """Read records that sizes are told by many at once, where each is a question to a server.

        Level by level, of nodes and trees: of what is in their middle.
        """
        self._held = {}
        while self._storage.is_far and (nodes or trees) and depth < DEPTH:
            trees = list(trees)
            for record, _ in self._hold(nodes):
                with suppress(UnusualRecord):
                    trees.append(stored_node(record, of_any_class=True).children)
            nodes = []
            while trees:
                parts = []
                for record, _ in self._hold(trees):
                    with suppress(UnusualRecord):
                        found = children_or_parts(record)
                        if isinstance(found, Parts):
                            parts.append(found.parts[len(found.parts) // 2])
                        elif kept := [oid for key, oid in zip(*found, strict=True) if not self._skips(key)]:
                            nodes.append(kept[len(kept) // 2])
                trees = parts
            depth += 1

    def _hold(self, oids: Iterable[bytes]) -> Iterable[tuple[bytes, bytes]]:
        found = held(self._storage, oids)
        self._held.update(found)
        return found.values()
