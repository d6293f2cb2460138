"""Values of attributes, many nodes at once: from trees that have split, too, and with the files that they refer to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from lotdb import PathFileObj

from .._detaching import ATOMS
from .._jar import Items
from ..errors import DamagedDatabaseError
from .files import FileReader
from .parted import PartedReader
from .pinned import PinnedStorage
from .record_arrays import Flags, Oids, Records, beginning_with
from .records import BUCKET, TREE, is_reference, items_in

__all__ = ["ValueReader", "have_split"]

#: What is read of a tree: names, values, and whether some of these may be references.
_Read: TypeAlias = "tuple[Items, bool] | None"
#: The keys between which those of a part of a tree lie.
_Limits: TypeAlias = "tuple[str | None, str | None]"


class ValueReader:
    """Reads the records of trees of attributes.

    Args:
        storage: The records, at one transaction.
    """

    def __init__(self, storage: PinnedStorage) -> None:
        self._storage = storage
        self._parted = PartedReader()
        self._files = FileReader(storage)

    def read(
        self, records: Records, needed: frozenset[str] | None = None, *, all_names: bool = False
    ) -> list[Items | None]:
        """The names and the values in each record; `None` for what only objects of the real classes can tell.

        Args:
            records: Those of the trees.
            needed: The names that matter: other values may be references. `None` for all.
            all_names: Whether all names are to be given; otherwise those that are not needed may be left out.
        """
        trees = beginning_with(TREE, records)
        split = trees & have_split(records)
        read: list[_Read] = [
            items_in(records.data, start, stop, TREE) if is_whole else None
            for (start, stop), is_whole in zip(records.bounds(), (trees & ~split).tolist(), strict=True)
        ]
        if split.any():
            self._read_parted(records, np.flatnonzero(split), None if all_names else needed, read)
        self._follow(read, needed)
        return [None if each is None else each[0] for each in read]

    def _read_parted(self, records: Records, rows: Any, needed: frozenset[str] | None, read: list[_Read]) -> None:
        """Read the trees in these rows, which have split: of each those parts alone in which the needed names are.

        A twentieth of the time that objects take.
        """
        trees: list[tuple[list[int], list[_Limits]]] = []
        oids: list[Oids] = []
        for alike, bounds, parts in self._parted.read(records.some(rows)):
            limits = list(zip((None, *bounds), (*bounds, None), strict=True))
            wanted = list(range(len(limits)))
            if needed is not None:
                wanted = sorted({bisect_right(bounds, name) for name in needed})
            trees.append((rows[alike].tolist(), [limits[number] for number in wanted]))
            oids.append(parts[:, wanted].reshape(-1, 8))
        if not trees:
            return
        try:
            buckets = self._storage.load_many(np.concatenate(oids))
        except DamagedDatabaseError:
            return  # which is told of where each is read by itself
        usual = zip(buckets.bounds(), beginning_with(BUCKET, buckets).tolist(), strict=True)
        in_buckets = (
            items_in(buckets.data, start, stop, BUCKET) if is_bucket else None for (start, stop), is_bucket in usual
        )
        for alike, limits in trees:
            for row in alike:
                read[row] = _joined([(limit, next(in_buckets)) for limit in limits])

    def _follow(self, read: list[_Read], needed: frozenset[str] | None) -> None:
        """Put paths in the places of references to files; what refers to something else is not told."""
        files: dict[int, dict[int, bytes]] = {}
        for row, found in enumerate(read):
            if found is None or not found[1]:
                continue
            files[row] = {}
            for number, (name, value) in enumerate(zip(*found[0], strict=True)):
                if type(value) in ATOMS or not (needed is None or name in needed):
                    continue
                if not is_reference(value, PathFileObj):
                    read[row] = None
                    break
                files[row][number] = value[0]
        oids = dict.fromkeys(oid for of_row in files.values() for oid in of_row.values())
        paths = self._files.read(oids) if oids else {}
        for row, of_row in files.items():
            found = read[row]
            if found is None:
                continue
            if not paths.keys() >= set(of_row.values()):
                read[row] = None
                continue
            (names, values), _ = found
            values = list(values)
            for number, oid in of_row.items():
                values[number] = paths[oid]
            read[row] = (names, values), False


def have_split(records: Records) -> Flags:
    """Which records of trees may be of ones that have split: their states begin with a reference."""
    at = np.minimum(records.starts + len(TREE) + 2, len(records.array) - 2)  # behind the number of the protocol
    first = records.array[at]
    split: Flags = (first == ord("C")) | ((first == ord("(")) & (records.array[at + 1] == ord("C")))
    return split


def _joined(parts: Sequence[tuple[_Limits, _Read]]) -> _Read:
    """What stands in some parts of one tree."""
    names: list[str] = []
    values: list[Any] = []
    refers = False
    for (lowest, highest), read in parts:
        if read is None:
            return None
        (keys, items), has_references = read
        try:
            if not keys or (lowest is not None and keys[0] < lowest) or (highest is not None and keys[-1] >= highest):
                return None  # where nothing looks for it
        except TypeError:
            return None
        names += keys
        values += items
        refers = refers or has_references
    return (names, values), refers
