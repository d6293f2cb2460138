"""References to files, many at once: from the records of lotdb's `PathFileObj`s to paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lotdb import PathFileObj
from persistent import Persistent
from persistent.list import PersistentList

from ..errors import DamagedDatabaseError
from .pinned import PinnedStorage
from .record_arrays import Flags, Oids, Records, as_oids, rows_at
from .records import class_and_state, is_reference, pickled_text
from .shapes import Shape

__all__ = ["FileReader"]

#: Shapes of records that are learned: few, since only the folder's id and the file's name differ.
SHAPES = 8
#: Folders that are remembered.
FOLDERS = 4096

_PARTS, _NAME = "root_path_list", "_file"


class FileReader:
    """Reads the records of references to files, most of which lie in a folder that was met before.

    A sixth of the time that objects take.

    Args:
        storage: The records, at one transaction.
    """

    def __init__(self, storage: PinnedStorage) -> None:
        self._storage = storage
        self._shapes: list[_FileShape] = []
        #: What comes before the name in each path, by the shape and by the record of the folder; `None` where only
        #: objects can tell.
        self._folders: dict[tuple[int, bytes], str | None] = {}

    def read(self, oids: Iterable[bytes]) -> dict[bytes, Path]:
        """The paths in the records of objects with these ids, but for those that only objects can tell."""
        each = list(oids)
        found: dict[bytes, Path] = {}
        try:
            records = self._storage.load_many(as_oids(each))
            for number, rows, folders in self._alike(records):
                self._read(number, records, rows, self._storage.load_many(folders), each, found)
        except DamagedDatabaseError:
            return {}  # which is told of one by one
        return found

    def _alike(self, records: Records) -> Iterable[tuple[int, Any, Oids]]:
        """The rows of records of one shape after the other, and the ids of the records of their folders."""
        rows = np.arange(len(records.starts))
        number = 0
        while len(rows) and number < SHAPES:
            if number == len(self._shapes):
                shape = _FileShape.learned(records.one(rows[0]))
                if shape is None:
                    return
                self._shapes.append(shape)
            matching = self._shapes[number].matching(records, rows)
            yield number, rows[matching], self._shapes[number].folders(records, rows[matching])
            rows = rows[~matching]
            number += 1

    def _read(
        self,
        number: int,
        records: Records,
        rows: Any,
        folders: Records,
        oids: Sequence[bytes],
        found: dict[bytes, Path],
    ) -> None:
        shape = self._shapes[number]
        before, after = shape.beginning.length, len(shape.end)
        for row, (start, stop), folder in zip(
            rows.tolist(), records.some(rows).bounds(), folders.bounds(), strict=True
        ):
            key = number, folders.data[folder[0] : folder[1]]
            if key not in self._folders:
                if len(self._folders) >= FOLDERS:
                    self._folders.clear()
                self._folders[key] = shape.folder(key[1])
            path = self._folders[key]
            name: bytes = records.data[start + before : stop - after]
            if path is not None and name:
                try:
                    found[oids[row]] = Path(path + name.decode("utf-8", "surrogatepass"))
                except UnicodeDecodeError:  # nothing that was stored
                    continue


class _FileShape:
    """What the records of references have in common: all but the id of the folder and the name of the file.

    Args:
        record: One of them.
        state: Its state.
        folder: Where the id of the folder's record is.
        name: Where the name is.
    """

    def __init__(self, record: bytes, state: dict[str, Any], folder: slice, name: slice) -> None:
        self._state = state
        self._folder = folder
        length = slice(name.start - 4, name.start)
        self.beginning = Shape(record[: name.start], [folder, length])
        self.end = record[name.stop :]

    @classmethod
    def learned(cls, record: bytes) -> _FileShape | None:
        """The shape of a record, if it is that of a reference as lotdb makes it."""
        state = _state_in(record, PathFileObj)
        if state is None or not is_reference(state.get(_PARTS), PersistentList) or type(state.get(_NAME)) is not str:
            return None
        oid, text = b"C\x08" + state[_PARTS][0], pickled_text(state[_NAME])
        if record.count(oid) != 1 or record.count(text) != 1 or len(text) == len(pickled_text("")):
            return None
        at_oid, at_name = record.index(oid) + 2, record.index(text)
        # Another id and another name in these places have to change these parts, and nothing else.
        other = b"\x01" * 8, "~~" + state[_NAME]
        changed = (
            record[:at_oid]
            + other[0]
            + record[at_oid + 8 : at_name]
            + pickled_text(other[1])
            + record[at_name + len(text) :]
        )
        expected = {**state, _PARTS: (other[0], PersistentList), _NAME: other[1]}
        if at_name < at_oid or _state_in(changed, PathFileObj) != expected:
            return None
        return cls(record, state, slice(at_oid, at_oid + 8), slice(at_name + 5, at_name + len(text)))

    def matching(self, records: Records, rows: Any) -> Flags:
        """Which of the records in these rows have this shape."""
        lengths = records.lengths[rows] - (self.beginning.length + len(self.end))
        matching: Flags = lengths > 0
        starts = records.starts[rows[matching]]
        block = rows_at(records.array, starts, self.beginning.length)
        alike = np.ascontiguousarray(block[:, -4:]).view("<u4").ravel() == lengths[matching]
        begin_alike = self.beginning.matches(block)
        if begin_alike is not None:
            alike &= begin_alike
        ends = rows_at(records.array, starts + records.lengths[rows[matching]] - len(self.end), len(self.end))
        matching[matching] = alike & (ends == np.frombuffer(self.end, np.uint8)).all(axis=1)
        return matching

    def folders(self, records: Records, rows: Any) -> Oids:
        """The ids of the folders' records of those in these rows, which have this shape."""
        oids: Oids = rows_at(records.array, records.starts[rows] + self._folder.start, 8)
        return oids

    def folder(self, record: bytes) -> str | None:
        """What comes before the name in the path of each file in the folder with this record, as lotdb tells it."""
        state = _state_in(record, PersistentList)
        parts = None if state is None or list(state) != ["data"] else state["data"]
        if type(parts) is not list or not set(map(type, parts)) <= {str}:
            return None
        told = set()
        for name in ("~", "!!"):
            reference = PathFileObj.__new__(PathFileObj)
            reference.__setstate__({**self._state, _PARTS: PersistentList(parts), _NAME: name})
            try:
                path, filepath = reference.path, reference.filepath
            except Exception:  # something is missing in it
                return None
            told.add(filepath[: -len(name)] if filepath.endswith(name) and path == Path(filepath) else None)
        return told.pop() if len(told) == 1 else None


def _state_in(record: bytes, kind: Any) -> dict[str, Any] | None:
    """The state of an object of this class, if the record is of one, which keeps it as persistent objects do."""
    if kind.__setstate__ is not Persistent.__setstate__ or kind.__getattribute__ is not Persistent.__getattribute__:
        return None
    try:
        found, state = class_and_state(record)
    except Exception:  # damaged, or of something else, whose class may be gone
        return None
    return state if found is kind and type(state) is dict else None
