"""Decoding the records of trees that have split into buckets, many at once: the ids of these, and the keys between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from BTrees.OOBTree import OOBucket

from .._jar import Parts, items_or_parts_in
from .record_arrays import Oids, Records, as_oids
from .records import TREE, are_sorted_names, class_and_state, is_reference
from .shapes import TREE_SHAPES, Shape, Shapes

__all__ = ["PartedReader"]


class _PartedShape(Shape):
    """The shape of the records of trees that have split into buckets at the same keys: all but the ids of these.

    Args:
        record: One of them.
        bounds: The keys at which they have split.
        oids: Where the ids of their parts are.
        more: Where the id of the first one is again, if it is.
    """

    def __init__(self, record: bytes, bounds: Sequence[str], oids: list[slice], more: list[slice]) -> None:
        super().__init__(record, (*oids, *more))
        self.bounds = bounds
        self.oid_bytes = np.array([range(oid.start, oid.stop) for oid in oids], np.intp)

    @classmethod
    def learned(cls, record: bytes) -> _PartedShape | None:
        """The shape of a record, if the parts that differ can be told from the rest."""
        parts = _buckets_in(record)
        if parts is None:
            return None
        places: list[slice] = []
        place = 0
        for oid in parts.parts:
            start = record.find(b"C\x08" + oid, place) + 2
            if start < 2:
                return None
            place = start + 8
            places.append(slice(start, place))
        again = record.find(b"C\x08" + parts.parts[0], place) + 2
        more = [slice(again, again + 8)] if again >= 2 else []
        changed = bytearray(record)
        other = [(number + 1).to_bytes(8, "big") for number in range(len(places))]
        for oid, where in zip([*other, other[0]], [*places, *more], strict=False):
            changed[where] = oid
        # Other bytes in these places have to change these parts, and nothing else.
        return cls(record, parts.bounds, places, more) if _buckets_in(bytes(changed)) == (parts.bounds, other) else None


def _buckets_in(record: bytes) -> Parts | None:
    """How the record of a tree is parted, if it is into buckets, and says of them what BTrees do."""
    if not record.startswith(TREE):
        return None
    try:
        _, state = class_and_state(record)
        found = items_or_parts_in(state)
        if not isinstance(found, Parts) or not all(is_reference(each, OOBucket) for each in (*found.parts, state[1])):
            return None
        oids = [oid for oid, _ in found.parts]
        return Parts(found.bounds, oids) if are_sorted_names(found.bounds) and state[1][0] == oids[0] else None
    except Exception:  # damaged, or of a class that is not there
        return None


class PartedReader:
    """Reads the records of trees that have split into buckets, and learns their shapes as it goes."""

    def __init__(self) -> None:
        self._shapes = Shapes(_PartedShape.learned, TREE_SHAPES, tries=1)

    def read(self, records: Records) -> Iterator[tuple[Any, Sequence[str], Oids]]:
        """Some rows, the keys at which all of these have split, and the ids of their parts: an array for each row.

        What is no such tree is left out.
        """
        for shape, rows, block in self._shapes.sorted(records):
            if shape is not None:
                yield rows, shape.bounds, block[:, shape.oid_bytes]
                continue
            for row in rows:
                parts = _buckets_in(records.one(row))
                if parts is not None:
                    yield np.array([row]), parts.bounds, as_oids(parts.parts)[np.newaxis]
