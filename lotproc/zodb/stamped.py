"""Which nodes have stamps: told from the records of their attributes, most of them without unpickling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from BTrees.OOBTree import OOBTree
from ZODB.serialize import ObjectWriter

from .._stamps import DIGEST, INPUTS, INPUTS_WITH_FILES, VERSION, is_inputs_stamp
from .encoding import attributes_record
from .record_arrays import Bytes, Flags, Records, rows_at
from .records import EMPTY_TREE, TREE, are_sorted_names, attributes_in, pickled_text
from .shapes import Shape

__all__ = ["StampReader", "has_stamps"]


def has_stamps(attributes: Any, version: str | None, digest: str | None) -> bool:
    """Whether something with a `get` for the attributes of a node has these stamps; `None` for any."""
    if version is not None and not (isinstance(stored := attributes.get(VERSION), str) and stored == version):
        return False
    return digest is None or is_inputs_stamp(attributes.get(INPUTS), digest)


class StampReader:
    """Reads records of attributes for their stamps."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[str | None, bool, bool], list[_StampShape]] = {}

    def read(self, records: Records, version: str | None, digests: list[str] | None) -> tuple[Flags, list[int]]:
        """Which records have these stamps, a digest for each, and the rows of which only the real classes can tell."""
        has_digest, with_files, expected = digests is not None, False, None
        if digests is not None:
            width = max(map(len, digests), default=DIGEST)
            with_files = width > DIGEST
            padded = [digest.ljust(width) for digest in digests]  # those without files equal no stamp with files
            expected = np.frombuffer("".join(padded).encode(), np.uint8).reshape(-1, width)
        shapes = self._shapes.get((version, has_digest, with_files))
        if shapes is None:
            shapes = _stamp_shapes(version, has_digest=has_digest, with_files=with_files)
            self._shapes[version, has_digest, with_files] = shapes
        shapes.sort(key=lambda shape: -shape.hits)

        have, rows = np.zeros(len(records.starts), np.bool_), np.arange(len(records.starts))
        for shape in shapes:
            if not len(rows):
                break
            decided, same = shape.read(records, rows, expected)
            have[rows[same]] = True
            rows = rows[~decided]
            shape.hits += int(decided.sum())
        untold = []
        for row in rows.tolist():
            attributes = _stamps_in(records.one(row), INPUTS if version is None else VERSION)
            if attributes is None:
                untold.append(row)
            else:
                have[row] = has_stamps(attributes, version, None if digests is None else digests[row])
        return have, untold


class _StampShape:
    """The shape of what the records of attributes begin with, if the first of them are stamps.

    Args:
        record: The beginning of one of them, up to the end of the last stamp that matters.
        known: How many bytes tell that these stamps come first, the last one's value not included.
        digest: Where the stamp of inputs is, with files behind the digest of values or without, which then stands for
            any files; `None` if there is none.
        counts: Whether the digest has to be the expected one.
        settled: Whether such a record has the stamps at all; if not, its beginning alone says so.
    """

    def __init__(self, record: bytes, known: int, digest: slice | None, *, counts: bool, settled: bool) -> None:
        places = [] if digest is None else [digest]
        self._whole, self._known = Shape(record, places), Shape(record[:known], places)
        self._digest = digest if counts else None
        self._settled = settled
        self.hits = 0  # records that began like this

    def read(self, records: Records, rows: Any, digests: Bytes | None) -> tuple[Flags, Flags]:
        """Which of the records in these rows begin like this, and which have the very stamps."""
        same = _begin_like(self._whole, records, rows)
        decided = same if same.all() else _begin_like(self._known, records, rows)
        if not self._settled:
            return decided, np.zeros(len(rows), np.bool_)
        if self._digest is not None and digests is not None:
            size = self._digest.stop - self._digest.start
            block = rows_at(records.array, records.starts[rows[same]] + self._digest.start, size)
            same = same.copy()
            same[same] = (block == digests[rows[same], :size]).all(axis=1)
        return decided, same


def _begin_like(shape: Shape, records: Records, rows: Any) -> Flags:
    """Which of the records in these rows begin with bytes of this shape."""
    found: Flags = records.lengths[rows] >= shape.length
    matches = shape.matches(rows_at(records.array, records.starts[rows[found]], shape.length))
    if matches is not None:
        found[found] = matches
    return found


def _stamp_shapes(version: str | None, *, has_digest: bool, with_files: bool = False) -> list[_StampShape]:
    """All that records of attributes with these stamps may begin with, as they are written live and in bulk."""
    if version in (VERSION, INPUTS):
        return []  # a pickle would refer to the name
    sizes = [DIGEST, INPUTS_WITH_FILES] if with_files else [DIGEST]
    versions = {} if version is None else {VERSION: version}
    stamped = [{INPUTS: "0" * size, **versions} for size in sizes]
    if versions:
        stamped.append(versions)
    header = len(pickled_text(""))
    found: dict[bytes, _StampShape] = {}
    for stamps in stamped:
        attributes: dict[str, Any]
        for attributes in ({**stamps, "result": 0.5}, {**stamps}):
            for encode in (attributes_record, _stored_live):
                record = encode(attributes)
                place, digest = len(TREE), None
                for name, value in stamps.items():  # sorted, as they are stored
                    text = pickled_text(name)
                    place = record.index(pickled_text(value), record.index(text, place) + len(text))
                    if name == INPUTS:
                        digest = slice(place + header, place + header + len(value))
                beginning = record[: place + len(pickled_text(value))]
                known = place + (1 if VERSION in stamps else header)
                settled = INPUTS in stamps or not has_digest
                found[beginning] = _StampShape(beginning, known, digest, counts=has_digest, settled=settled)
    return list(found.values())


def _stored_live(attributes: Mapping[str, Any]) -> bytes:
    """The record that ZODB makes of a tree of attributes."""
    record: bytes = ObjectWriter().serialize(OOBTree(attributes))
    return record


def _stamps_in(record: bytes, last: str) -> dict[str, Any] | None:
    """The stamps in the record of a tree of attributes, up to the one called `last`.

    `None` if only the real classes can tell.
    """
    if record == EMPTY_TREE:
        return {}
    if not record.startswith(TREE):
        return None
    first = len(TREE) + 2  # behind the number of the protocol
    first += record.startswith(b"(", first)
    if record.startswith(b"X", first):
        length = int.from_bytes(record[first + 1 : first + 5], "little")
        if record[first + 5 : first + 5 + length] > last.encode():
            return {}  # the names are sorted, so they are not there
    found = attributes_in(record, 0, len(record), (VERSION, INPUTS))
    if found is None or not are_sorted_names(found[0]):
        return None
    names, values = found
    return {name: values[names.index(name)] for name in (VERSION, INPUTS) if name in names}
