"""References to files as records: those that lotdb would store for new ones, and which nodes have one already."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from BTrees.OOBTree import OOBTree
from lotdb import PathFileObj
from ZODB.serialize import ObjectWriter

from .record_arrays import Records, rows_at
from .records import TREE, attributes_in, pickled_text
from .shapes import Shape

__all__ = ["FileAttribute", "FileReference"]

#: Folders whose records are remembered.
FOLDERS = 1_000

_FILE, _FOLDER = b"\x01" * 7 + b"\x02", b"\x01" * 7 + b"\x03"
_SAMPLE = "sample"


class FileReference(dict[str, Any]):
    """The attributes of a new node that are a reference to a file alone.

    Its value is none that could be written with others: its records are made as they are.

    Args:
        attribute: What it is the value of.
        folder: The record of the folder's path.
        name: The file's name in there.
    """

    __slots__ = ("_attribute", "_folder", "_name")

    def __init__(self, attribute: FileAttribute, folder: bytes, name: str) -> None:
        self[attribute.name] = attribute.sample
        self._attribute, self._folder, self._name = attribute, folder, name

    def records(self, oid: bytes, new_oid: Callable[[], bytes]) -> list[tuple[bytes, bytes]]:
        """The ids and the records of the tree of attributes, of the reference, and of the folder in that.

        Args:
            oid: The id that the tree gets.
            new_oid: Gives an id that no object has.
        """
        (before, after), (before_folder, before_name, end) = self._attribute.tree, self._attribute.file
        file, folder = new_oid(), new_oid()
        return [
            (oid, b"".join((before, file, after))),
            (file, b"".join((before_folder, folder, before_name, pickled_text(self._name), end))),
            (folder, self._folder),
        ]


class FileAttribute:
    """An attribute that is a reference to a file, as lotdb makes it.

    Args:
        name: Its name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._folders: dict[str, bytes | None] = {}
        self.sample = reference = PathFileObj(filepath=f"/folder/{_SAMPLE}")
        attributes = OOBTree({name: reference})
        reference._p_oid, reference.root_path_list._p_oid = _FILE, _FOLDER
        reference._p_jar = reference.root_path_list._p_jar = attributes._p_jar = SimpleNamespace(new_oid=None)
        tree, file = (bytes(ObjectWriter(each).serialize(each)) for each in (attributes, reference))
        text = pickled_text(_SAMPLE)
        self.tree = _around(tree, _FILE)
        self.file = (*_around(file[: file.index(text)], _FOLDER), file[file.index(text) + len(text) :])
        #: What the records of attributes are like where there is no other one.
        self._shape = Shape(tree, [slice(len(self.tree[0]), len(self.tree[0]) + 8)])

    def reference(self, file: str) -> FileReference | None:
        """The reference to a file, given by its absolute path; `None` where lotdb would refer to it in another way."""
        folder, _, name = file.rpartition("/")
        if folder not in self._folders:
            if len(self._folders) == FOLDERS:
                self._folders.clear()
            self._folders[folder] = _folder_record(folder)
        record = self._folders[folder]
        return None if record is None else FileReference(self, record, name)

    def is_there(self, records: Records) -> list[bool | None]:
        """Which records of attributes have this one, and not as `None`; `None` for what only objects can tell."""
        alone = records.lengths == self._shape.length
        matches = self._shape.matches(rows_at(records.array, records.starts[alone], self._shape.length))
        if matches is not None:
            alone[alone] = matches
        found: list[bool | None] = alone.tolist()
        if not alone.all():
            bounds = list(records.bounds())
            for row in np.flatnonzero(~alone).tolist():
                found[row] = self._is_in(records.data, *bounds[row])
        return found

    def _is_in(self, data: Any, start: int, stop: int) -> bool | None:
        items = attributes_in(data, start, stop, ()) if data[start : start + len(TREE)] == TREE else None
        return None if items is None else dict(zip(*items, strict=True)).get(self.name) is not None


def _around(record: bytes, oid: bytes) -> tuple[bytes, bytes]:
    """What is before and behind an id in a record."""
    before, _, after = record.rpartition(oid)
    return before, after


def _folder_record(folder: str) -> bytes | None:
    """The record of a folder in references to the files in it; `None` where these would not say the file's path.

    A name of one letter is the one that lotdb may take for a drive: `/mnt/d`.
    """
    file = f"{folder}/d"
    reference = PathFileObj(filepath=file)
    expected = {"_path_style": "posix", "_drive": "", "_is_absolute": True, "_file": "d"}
    folders = reference.root_path_list
    if reference.filepath != file or reference.__getstate__() != {**expected, "root_path_list": folders}:
        return None
    return bytes(ObjectWriter().serialize(folders))
