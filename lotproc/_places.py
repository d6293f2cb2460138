"""Where a tree can be opened elsewhere: the `Place` of a live root, by the file or the URI of its storage."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from lotdb import BaseNode

from ._nodes import connection_of, has_changes, plain_file, unwrapped
from .models import Place

__all__ = ["is_file", "place_of", "remember_uri"]

#: The URIs that databases were opened by.
_uris: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
#: The storages that several processes can have open.
_SHARED = ("ClientStorage", "RelStorage")


def remember_uri(database: Any, uri: str) -> None:
    """Note by which URI a database was opened."""
    _uris[database] = uri


def place_of(root: BaseNode, *, uncommitted: bool = False) -> Place | None:
    """The place of the tree below a node, as it is committed; `None` where that can't be opened elsewhere.

    Args:
        root: The node.
        uncommitted: Whether its connection may have changes that are not committed.
    """
    connection = connection_of(root)
    if connection is None or getattr(connection, "opened", None) is None or root._p_oid is None:
        return None
    if not uncommitted and has_changes(connection):
        return None
    database = connection.db()
    storage, file = database.storage, plain_file(database.storage)
    root._p_activate()
    if file is not None:
        blobs = file.blob_dir if storage is file else storage.fshelper.base_dir
        return Place(file._file_name, blobs, None, root._p_oid, stored=root._p_serial)
    uri = _uris.get(database)
    if uri is None or type(unwrapped(storage)).__name__ not in _SHARED:
        return None
    return Place(uri, None, None, root._p_oid, stored=root._p_serial)


def is_file(place: Place) -> bool:
    """Whether it is in a file, which one process alone can write to."""
    return "://" not in place.uri
