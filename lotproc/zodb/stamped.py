"""Which trees of attributes have stamps: told from their records, most of them without unpickling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from BTrees.OOBTree import OOBTree
from ZODB.serialize import ObjectWriter

from .._stamps import DIGEST, INPUTS, INPUTS_WITH_FILES, VERSION
from .encoding import attributes_record
from .pinned import Records, rows_at
from .records import EMPTY_TREE, TREE, class_and_state
from .shapes import Bytes, Flags, pickled_text

__all__ = ["Beginning", "beginnings", "stamps_in"]


class Beginning:
    """What the records of attributes begin with, if the first of them are stamps.

    Args:
        record: The beginning of one of them, up to the end of the last stamp that matters.
        known: How many bytes tell that these stamps come first, the last one's value not included.
        digest: Where the stamp of inputs is; `None` if there is none.
        size: Its bytes: with files behind the digest of values, or without, which then stands for any files.
        counts: Whether the digest has to be the expected one.
        settled: Whether such a record has the stamps at all; if not, its beginning alone says so.
    """

    def __init__(
        self, record: bytes, known: int, digest: int | None, size: int, *, counts: bool, settled: bool
    ) -> None:
        self._sample = np.frombuffer(record, np.uint8)
        self._known = known
        self._digest = digest
        self._size = size
        self._counts = counts
        self._settled = settled
        self.hits = 0  # records that began like this
        self._same = np.full(len(record), 0xFF, np.uint8)
        if digest is not None:
            self._same[digest : digest + size] = 0

    def read(self, records: Records, rows: Any, digests: Bytes | None) -> tuple[Flags, Flags]:
        """Which of the records in these rows begin like this, and which have the very stamps."""
        length = len(self._sample)
        same = records.lengths[rows] >= length
        decided = records.lengths[rows] >= self._known
        if same.all():
            block = rows_at(records.array, records.starts[rows], length)
            differs = (block ^ self._sample) & self._same
            same = ~differs.any(axis=1)
            decided = same if same.all() else ~differs[:, : self._known].any(axis=1)
        else:
            block = rows_at(records.array, records.starts[rows[decided]], self._known)
            differs = (block ^ self._sample[: self._known]) & self._same[: self._known]
            decided[decided] = ~differs.any(axis=1)
            block = rows_at(records.array, records.starts[rows[same]], length)
            same[same] = ~((block ^ self._sample) & self._same).any(axis=1)
        if not self._settled:
            return decided, np.zeros(len(rows), np.bool_)
        if self._counts and self._digest is not None and digests is not None:
            block = rows_at(records.array, records.starts[rows[same]] + self._digest, self._size)
            same = same.copy()
            same[same] = (block == digests[rows[same], : self._size]).all(axis=1)
        return decided, same


def beginnings(version: str | None, *, has_digest: bool, with_files: bool = False) -> list[Beginning]:
    """All that records of attributes with these stamps may begin with, as they are written live and in bulk."""
    if version in (VERSION, INPUTS):
        return []  # a pickle would refer to the name
    sizes = [DIGEST, INPUTS_WITH_FILES] if with_files else [DIGEST]
    versions = {} if version is None else {VERSION: version}
    shapes = [{INPUTS: "0" * size, **versions} for size in sizes]
    if versions:
        shapes.append(versions)
    found: dict[bytes, Beginning] = {}
    for stamps in shapes:
        attributes: dict[str, Any]
        for attributes in ({**stamps, "result": 0.5}, {**stamps}):
            for encode in (attributes_record, _stored_live):
                record = encode(attributes)
                place, digest_place = len(TREE), None
                for name, value in stamps.items():  # sorted, as they are stored
                    place = record.index(
                        pickled_text(value), record.index(pickled_text(name), place) + len(pickled_text(name))
                    )
                    if name == INPUTS:
                        digest_place = place + len(pickled_text(""))
                beginning = record[: place + len(pickled_text(value))]
                known = place + (1 if VERSION in stamps else len(pickled_text("")))
                settled = INPUTS in stamps or not has_digest
                size = len(stamps.get(INPUTS, ""))
                found[beginning] = Beginning(beginning, known, digest_place, size, counts=has_digest, settled=settled)
    return list(found.values())


def _stored_live(attributes: Mapping[str, Any]) -> bytes:
    """The record that ZODB makes of a tree of attributes."""
    record: bytes = ObjectWriter().serialize(OOBTree(attributes))
    return record


def stamps_in(record: bytes, last: str) -> dict[str, Any] | None:
    """The stamps in the record of a tree of attributes, up to the one called `last`.

    `None` if only the real classes can tell.
    """
    if record == EMPTY_TREE:
        return {}
    first = len(TREE) + 2  # behind the number of the protocol
    first += record.startswith(b"(", first)
    if record.startswith(TREE) and record.startswith(b"X", first):
        length = int.from_bytes(record[first + 1 : first + 5], "little")
        if record[first + 5 : first + 5 + length] > last.encode():
            return {}  # the names are sorted, so they are not there
    try:
        kind, state = class_and_state(record)
        if kind is not OOBTree or len(state) != 1:
            return None
        items = state[0][0][0]
        names = list(items[::2])
        if set(map(type, names)) <= {str} and names == sorted(names):
            return {name: items[2 * names.index(name) + 1] for name in (VERSION, INPUTS) if name in names}
    except Exception:  # a class that is not there, or nothing that lotdb makes
        pass
    return None
