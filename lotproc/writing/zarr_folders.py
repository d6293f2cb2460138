"""Folders of zarr arrays whose nodes were deleted: removed after the commit, if nothing else refers to the array."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from lotdb import BaseNode, DataObject
from transaction import TransactionManager
from ZODB.serialize import referencesf
from ZODB.utils import z64

from .._nodes import zarr_folder
from ..errors import add_note
from ..payloads import PayloadHandle
from ..traversal import walk

__all__ = ["remove_zarr", "zarr_arrays"]

#: Where an array lies below the folder of the database's arrays.
_Place: TypeAlias = "tuple[str, ...]"
#: What the record of a payload begins with, somewhere: its class.
_CLASS = f"c{DataObject.__module__}\n{DataObject.__qualname__}\n".encode()


def zarr_arrays(node: BaseNode, connection: Any) -> Iterator[_Place]:
    """The arrays that the attributes of a node, and of those below it, have in the database's own folder."""
    folder = zarr_folder(connection)
    if folder is None or not os.path.isdir(folder):
        return
    for each in walk(node):
        for value in each.attribute_storage.values():
            place = _place(value, folder)
            if place:
                yield place


def remove_zarr(connection: Any, places: Iterable[_Place]) -> None:
    """Remove arrays that nothing in the database, as it is committed now, refers to any more.

    A copy of a node has the same array. So all that can be reached from the database's root is looked through.
    """
    gone, folder = set(places), zarr_folder(connection)
    if not gone or folder is None:
        return
    kept = set(_referred(connection.db(), folder))
    above = {place[:depth] for place in kept for depth in range(len(place))}
    for place in sorted(gone):
        if place in above or any(place[:depth] in kept for depth in range(1, len(place) + 1)):
            continue
        try:
            shutil.rmtree(os.path.join(folder, *place))
        except FileNotFoundError:
            continue
        except OSError as error:
            add_note(error, "lotproc: the node was deleted, and the folder of its array could not be removed")
            raise


def _referred(db: Any, folder: str) -> Iterator[_Place]:
    """The arrays that are referred to by anything that can be reached from the root of the database."""
    connection = db.open(transaction_manager=TransactionManager())
    try:
        waiting, seen = [z64], {z64}
        while waiting:
            oid = waiting.pop()
            data, _ = connection._storage.load(oid)
            if _CLASS in data:
                place = _place(connection.get(oid), folder)
                if place:
                    yield place
                connection.cacheGC()
            for other in referencesf(data):
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
    finally:
        connection.close()


def _place(value: Any, folder: str) -> _Place | None:
    if not isinstance(value, DataObject) or value.backend != "zarr" or value.dataset_path is None:
        return None
    handle = PayloadHandle.of(value)
    place = tuple(Path(handle.dataset or "").parts)
    if handle.file != Path(folder).absolute() or ".." in place:
        return None
    return place
