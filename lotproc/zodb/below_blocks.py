"""What was written for the nodes of a block, read back as columns beside theirs: `below=` of a scan that is a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np

from .._windows import in_windows
from ..derived import Derived
from ..errors import ServerError
from ..models import NodeRecord, node_record
from ..snapshots import Taken
from ..write_policies import Policy, targets_of
from .attributes import Wanted
from .blocks import Block, BlockReader, Piece
from .column_arrays import ABSENT, NOTHING, Column, nothing
from .lookup import LiveLookup, RecordLookup
from .pinned import PinnedStorage
from .record_arrays import Flags

__all__ = ["BelowBlocks"]

_Path: TypeAlias = "tuple[str, ...]"

#: Blocks of which most rows could not be read in this way, one behind the other, after which no more are tried.
MISSES = 3


class BelowBlocks:
    """Adds what was written for nodes to pieces of blocks, and to records among them.

    A third of the time that records take.

    Args:
        storage: The records of the database.
        derived: What adds it to records.
        lookup: Gives what looks for results by path.
    """

    def __init__(
        self, storage: PinnedStorage, derived: Derived, lookup: Callable[[], LiveLookup | RecordLookup]
    ) -> None:
        self._derived, self._lookup, self._misses = derived, lookup, 0
        self._policies = [_OfPolicy(storage, policy, names) for policy, names in derived.policies]

    def added(self, items: Iterable[Any]) -> Iterator[Any]:
        """The pieces and records with what was written for them."""
        source = _Source(items)
        while not source.is_ended:
            yield from self._of_records(source.records())
            piece = source.piece()
            if piece is not None:
                yield from self._of_piece(piece)
        self._derived.end()

    def _of_records(self, records: Iterable[Any]) -> Iterator[Any]:
        derived, lookup = self._derived, self._lookup
        return in_windows(
            records,
            lambda window: derived.of_many(window, lookup().attributes_at) if window else [],
            lambda record: derived.of_one(record, lookup().attributes_at),
        )

    def _of_piece(self, piece: Piece) -> Iterator[Any]:
        block, told = self._joined(piece)
        for is_told, rows in groupby(range(piece.stop - piece.start), told.__getitem__):
            some = list(rows)
            if is_told:
                yield Piece(block, some[0], some[-1] + 1)
            else:
                start = piece.start
                yield from self._of_records(_records_of(piece.block, start + some[0], start + some[-1] + 1))

    def _joined(self, piece: Piece) -> tuple[Block, list[bool]]:
        """A block of the rows of a piece, with columns of what was written for them; and which of them it tells."""
        old, start, stop = piece
        count = stop - start
        told = np.zeros(count, np.bool_)
        columns = {name: column.rows(start, stop) for name, column in old.columns.items()}
        if self._misses < MISSES:
            paths = [old.path(row) for row in range(start, stop)]
            try:
                found = [each.columns_at(self._lookup(), paths) for each in self._policies]
            except ServerError:
                raise
            except Exception:  # of which its records tell
                found = []
            if found and all(each is not None for each in found):
                told[:] = True
                for more, are_told, _, _ in found:  # type: ignore[misc]
                    columns.update(more)
                    told &= are_told
                if told.any():
                    for more, _, is_there, layouts in found:  # type: ignore[misc]
                        self._derived.note(more, is_there=is_there, layouts=layouts)
            self._misses = 0 if 2 * int(told.sum()) >= count else self._misses + 1
        layouts = [list(dict.fromkeys([*names, *self._derived.names])) for names in old.layouts]
        rows = slice(start, stop)
        return Block(old.above, old.place[rows], old.keys[rows], layouts, old.layout[rows], columns), told.tolist()


class _OfPolicy:
    """What is read of the results under one policy.

    Args:
        storage: The records of the database.
        policy: The policy.
        names: Names, and the attributes of results that get them.
    """

    def __init__(self, storage: PinnedStorage, policy: Policy, names: dict[str, str]) -> None:
        self._policy, self.names = policy, names
        self._layouts = _Layouts()
        wanted = Wanted(Taken(tuple(dict.fromkeys(names.values()))))
        self._reader = BlockReader(storage, wanted, self._layouts)  # type: ignore[arg-type]

    def columns_at(
        self, lookup: LiveLookup | RecordLookup, paths: list[_Path]
    ) -> tuple[dict[str, Column], Flags, bool, list[Sequence[str]]] | None:
        """Columns of what was written for these paths; the rows that they tell, whether any was there, and with what.

        `None` where only objects tell.
        """
        targets, tail = targets_of(self._policy, paths)
        found = lookup.trees_at(targets, tail) if isinstance(lookup, RecordLookup) else None
        if found is None:
            return None
        trees, rows, others = found
        told = np.ones(len(paths), np.bool_)
        told[others] = False
        columns = {attribute: nothing(len(paths)) for attribute in self.names.values()}
        self._layouts.clear()
        if len(rows):
            block, are_read, _ = self._reader.read([()], np.zeros(len(rows), np.intp), [""] * len(rows), trees, ())
            told[rows[~are_read]] = False
            columns = {name: _spread(column, rows[are_read], len(paths)) for name, column in block.columns.items()}
        is_there = bool(len(rows) or len(others))
        return {name: columns[each] for name, each in self.names.items()}, told, is_there, [*self._layouts]


class _Layouts(list[Sequence[str]]):
    """Remembers the names that there are, as `Sought` looks for them."""

    wanted: frozenset[str] = frozenset()

    def look(self, there: Sequence[str], path: _Path) -> None:
        self.append(there)


class _Source:
    """Records and pieces, in their order; pieces that follow one another in a block come as one.

    Args:
        items: The records and pieces.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._items, self._next, self._error = iter(items), None, None
        self.is_ended = False

    def records(self) -> Iterator[Any]:
        """The records up to the next piece."""
        while type(item := self._pulled()) is not Piece and not self.is_ended:
            yield item
        self._next = item

    def piece(self) -> Piece | None:
        """The piece that comes next, if there is one."""
        piece, self._next = self._next, None
        if piece is None:
            return None
        try:
            while type(item := self._pulled()) is Piece and item.block is piece.block and item.start == piece.stop:
                piece = Piece(piece.block, piece.start, item.stop)
            self._next = item
        except Exception as error:
            self._error = error
        return piece

    def _pulled(self) -> Any:
        if self._error is not None:
            raise self._error
        item, self._next = self._next, None
        if item is None:
            item = next(self._items, None)
            self.is_ended = item is None
        return item


def _spread(column: Column, rows: Any, count: int) -> Column:
    """A column of so many rows, in which these have the values of another one, and the others none."""
    spread, lengths = nothing(count), np.zeros(count, np.int64)
    spread.kinds[rows] = np.where(column.kinds == ABSENT, NOTHING, column.kinds)
    spread.bits[rows] = column.bits
    lengths[rows] = np.diff(column.ends)
    np.cumsum(lengths, out=spread.ends[1:])
    return spread._replace(text=column.text)


def _records_of(block: Block, start: int, stop: int) -> Iterator[NodeRecord]:
    """The records of some rows of a block."""
    values = {name: column.rows(start, stop).values() for name, column in block.columns.items()}
    for place, row in enumerate(range(start, stop)):
        path = block.path(row)
        attributes = {name: values[name][place] for name in block.layouts[block.layout[row]]}
        yield node_record(path, path[-1], attributes, None)
