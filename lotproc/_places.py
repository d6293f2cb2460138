"""Where a tree, or a blob of one, can be opened elsewhere: by the file or the URI of its storage."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from lotdb import BaseNode
from ZODB.blob import Blob, BushyLayout
from ZODB.utils import z64

from ._jar import RecordJar
from ._nodes import connection_of, has_changes, plain_file, unwrapped
from .models import Place

__all__ = ["ServerBlob", "is_file", "place_of", "remember_uri", "server_blob"]

#: The storages that several processes can have open.
_SHARED = ("ClientStorage", "RelStorage")


@dataclass(frozen=True, repr=False)
class ServerBlob(os.PathLike[str]):
    """The blob of a tree on a server: a path-like object, which fetches it where its path is asked for.

    Args:
        uri: The server.
        oid: The blob's object id there.
        tid: The transaction that stored it.
    """

    uri: str
    oid: bytes
    tid: bytes

    @property
    def inside(self) -> str:
        """Where it is in a folder of blobs, as ZODB lays them out."""
        path: str = BushyLayout().getBlobFilePath(self.oid, self.tid)
        return path.replace(os.sep, "/")


class _Opened(NamedTuple):
    uri: str
    blob: Callable[[bytes, bytes], ServerBlob]


#: By which URIs databases were opened, and what makes references to their blobs.
_opened: WeakKeyDictionary[Any, _Opened] = WeakKeyDictionary()


def remember_uri(database: Any, uri: str, blob: Callable[[bytes, bytes], ServerBlob]) -> None:
    """Note by which URI a database was opened, and what makes a `ServerBlob` of an object id and a transaction."""
    _opened[database] = _Opened(uri, blob)


def _shared(database: Any) -> _Opened | None:
    """How a database was opened, if it can be so in other processes too."""
    return _opened.get(database) if type(unwrapped(database.storage)).__name__ in _SHARED else None


def server_blob(blob: Blob) -> ServerBlob | None:
    """What refers to a committed blob of a tree on a server, which is not fetched for it; `None` for other blobs."""
    jar = blob._p_jar
    opened = None if jar is None else _shared(jar.db())
    if opened is None or blob._p_changed or getattr(jar, "_savepoint_storage", None) is not None:
        return None
    if blob._p_changed is None:  # to activate it fetches its file
        tid = jar.stored_by(blob._p_oid) if isinstance(jar, RecordJar) else jar._storage.load(blob._p_oid)[1]
    else:
        tid = blob._p_serial
    return None if tid == z64 else opened.blob(blob._p_oid, tid)


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
    opened = _shared(database)
    return None if opened is None else Place(opened.uri, None, None, root._p_oid, stored=root._p_serial)


def is_file(place: Place) -> bool:
    """Whether it is in a file, which one process alone can write to."""
    return "://" not in place.uri
