"""Batches of a table's rows: those of records, and those that a scan has decoded to columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from ..zodb.blocks import Block, Piece
from ..zodb.column_arrays import Column, column_of, joined, nothing
from .levels import LEVEL, Levels, check_depth, in_order, level_names
from .rows import Path, Row, Rows

__all__ = ["Batch", "batches"]


def batches(
    name: str, items: Iterable[Any], size: int, names: Iterable[str] = (), levels: Levels = None
) -> Iterator[Batch]:
    """The rows of records, and of pieces of blocks among them, in batches of so many.

    Args:
        name: The function that the user called, for errors.
        items: The records and pieces.
        size: Rows in a batch; the last one may have fewer.
        names: The attributes that all records have, if that is known: where there is none, a batch without rows has
            their columns.
        levels: What the levels are called in the end; each of them has its column.
    """
    rows = Rows(name, levels)
    known = dict.fromkeys(names)
    if levels:
        rows.name(known.keys())  # before anything is read
    batch = Batch(rows)
    is_empty = True
    for item in items:
        is_empty = False
        if type(item) is not Piece:
            batch.add_record(item)
            if batch.size == size:
                yield batch
                batch = Batch(rows)
            continue
        block, start, stop = item
        while start < stop:
            end = min(stop, start + size - batch.size)
            batch.add_rows(block, start, end)
            start = end
            if batch.size == size:
                yield batch
                batch = Batch(rows)
    if is_empty and (known or levels):
        rows.name(known.keys())
        yield Batch(rows, list(known))
    elif batch.size:
        yield batch


class Batch:
    """Some rows of a table, in their order.

    Args:
        rows: What makes the rows of the table.
        known: Attributes whose columns it has without any row.
    """

    def __init__(self, rows: Rows, known: Sequence[str] = ()) -> None:
        self._rows, self._known = rows, known
        self.size = 0
        #: Rows of blocks, with the place of the first of them, and those of records.
        self.pieces: list[tuple[int, Block, int, int]] = []
        self._records: list[tuple[int, Path, Row]] = []

    def add_record(self, record: Any) -> None:
        """Add the row of a record."""
        self._records.append((self.size, *self._rows.of(record)))
        self.size += 1

    def add_rows(self, block: Block, start: int, stop: int) -> None:
        """Add rows of a block."""
        if self._rows.levels is not None and block.depth != len(self._rows.levels):
            check_depth(self._rows.called, self._rows.levels, block.path(start))
        if not self._rows.columns.keys() >= block.columns.keys():
            for row, layout in block.layouts_of(start, stop):
                self._rows.name(dict.fromkeys(layout).keys(), block.path(row))
        place = self.size
        if self.pieces:
            first, last, begin, end = self.pieces[-1]
            if last is block and end == start and first + end - begin == place:
                place, _, start, _ = self.pieces.pop()
        self.pieces.append((place, block, start, stop))
        self.size = place + stop - start

    @property
    def is_of_blocks(self) -> bool:
        """Whether all of the rows are those of blocks."""
        return bool(self.pieces) and not self._records

    @cached_property
    def names(self) -> list[str]:
        """The names of the columns, in their order."""
        found: list[tuple[int, Iterable[str]]] = [(0, level_names(self._rows.levels))]
        found += [(0, [self._rows.columns[attribute] for attribute in self._known])]
        found += [(place, row) for place, _, row in self._records]
        for place, block, start, stop in self.pieces:
            levels = [f"TreeLevel_{number}" for number in range(1, block.depth + 1)]
            layouts = [layout for _, layout in block.layouts_of(start, stop)]
            columns = [self._rows.columns[attribute] for layout in layouts for attribute in layout]
            found.append((place, [*levels, *columns]))
        found.sort(key=itemgetter(0))
        return in_order(chain.from_iterable(names for _, names in found))

    @cached_property
    def paths(self) -> list[Path]:
        """The paths of the rows."""
        paths: list[Path] = [()] * self.size
        for place, block, start, stop in self.pieces:
            paths[place : place + stop - start] = map(block.path, range(start, stop))
        for place, path, _ in self._records:
            paths[place] = path
        return paths

    def path(self, row: int) -> Path:
        """The path of a row."""
        for place, block, start, stop in self.pieces:
            if place <= row < place + stop - start:
                return block.path(start + row - place)
        return next(path for place, path, _ in self._records if place == row)

    @cached_property
    def _order(self) -> Any:
        """Which row comes when, of all of blocks and then all of records."""
        places = [np.arange(place, place + stop - start) for place, _, start, stop in self.pieces]
        return np.argsort(np.concatenate([*places, [place for place, _, _ in self._records]]), kind="stable")

    def column(self, name: str) -> Column | None:
        """The values of an attribute, if those of some rows are columns already, and the others can be."""
        attribute = self._rows.attributes.get(name)
        if not self.pieces or attribute is None:
            return None
        parts = [
            block.columns[attribute].rows(start, stop) if attribute in block.columns else nothing(stop - start)
            for _, block, start, stop in self.pieces
        ]
        if not self._records:
            return joined(parts)
        others = column_of([row.get(name) for _, _, row in self._records])
        return None if others is None else joined([*parts, others]).take(self._order)

    def values(self, name: str) -> list[Any]:
        """The values of a column, as Python has them."""
        if not self.pieces:
            return [row.get(name) for _, _, row in self._records]
        level = LEVEL.fullmatch(name)
        attribute = self._rows.attributes.get(name)
        values: list[Any] = [None] * self.size
        for place, block, start, stop in self.pieces:
            if level is not None:
                values[place : place + stop - start] = block.keys_at(int(level[1]), start, stop)
            elif attribute in block.columns:
                values[place : place + stop - start] = block.columns[attribute].rows(start, stop).values()
        for place, _, row in self._records:
            values[place] = row.get(name)
        return values
