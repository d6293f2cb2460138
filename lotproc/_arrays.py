"""Arrays among results: stored as the payloads that lotdb's `DataNode.read_data` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import quote
from uuid import uuid4

import numpy as np
from lotdb import BaseNode, DataNode, DataObject, DataWriter, PathFileObj
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import IBlobStorage

from ._extras import needed
from ._nodes import connection_of, node_path
from .errors import ArgumentError

__all__ = ["Arrays", "as_data_node", "check_arrays", "payload_names", "store_payload"]

Arrays: TypeAlias = Literal["inline", "blob", "zarr"]

#: Characters of a key that are part of a zarr path.
LONGEST = 100


def check_arrays(name: str, root: BaseNode, arrays: Arrays) -> None:
    """Refuse a tree whose database can't hold payloads of this kind."""
    connection = connection_of(root)
    if arrays == "zarr":
        needed("zarr", "zarr", f'{name}: arrays="zarr"')
        if _zarr_store(root) is None:
            raise ArgumentError(
                f'{name}: arrays="zarr" puts arrays beside the file of a database, and {root.key!r} has none; use '
                f'arrays="blob"'
            )
    if arrays == "blob" and connection is not None and not IBlobStorage.providedBy(connection.db().storage):
        raise ArgumentError(
            f'{name}: arrays="blob" needs a database with a directory for blobs, and that of {root.key!r} has none; '
            f'open it with one, or use arrays="inline"'
        )


def payload_names(attributes: Mapping[str, Any], arrays: Arrays) -> list[str]:
    """The attributes that are stored as payloads: arrays that have a time axis, and no Python objects in them."""
    if arrays == "inline":
        return []
    return [
        name
        for name, value in attributes.items()
        if isinstance(value, np.ndarray) and value.ndim > 0 and not value.dtype.hasobject
    ]


def as_data_node(node: BaseNode, data_attribute: str, arrays: Arrays) -> BaseNode:
    """The same node as a `DataNode`, if it can be one: not the root, and of no class of its own."""
    parent = node.parent
    if type(node) is not BaseNode or parent is None:
        return node
    made = DataNode.from_tree(node, samplerate_hz=None, data_backend=arrays, data_attribute=data_attribute)
    parent.node_storage[node.key] = made
    return made


def store_payload(node: BaseNode, name: str, array: np.ndarray[Any, Any], arrays: Arrays) -> None:
    """Store an array as the payload `name` of a node, unless it is there already."""
    if _is_stored(node.get_attribute(name), array, arrays):
        return
    if arrays == "blob":
        DataWriter.write_array(node, array, data_attribute=name, backend="blob")
        return
    # A path that nothing was written to before: what zarr overwrites, no transaction brings back.
    keys = [quote(key, safe="")[:LONGEST] for key in (*node_path(node), name)]
    dataset = "/".join([*(f"+{key}" for key in keys), uuid4().hex])
    DataWriter.write_array(
        node,
        array,
        data_attribute=name,
        backend="zarr",
        zarr_store_path=PathFileObj(filepath=str(_zarr_store(node))),
        dataset_path=PathFileObj(filepath=dataset),
    )


def _is_stored(stored: Any, array: np.ndarray[Any, Any], arrays: Arrays) -> bool:
    """Whether a payload is this array, to the byte."""
    return (
        isinstance(stored, DataObject)
        and stored.backend == arrays
        and stored.get_metadata("payload_kind") == "array"
        and stored.shape == array.shape
        and stored.dtype == str(array.dtype)
        and stored.read().tobytes() == array.tobytes()
    )


def _zarr_store(node: BaseNode) -> Path | None:
    """Where lotdb keeps the zarr arrays of the database that a node lies in."""
    connection = connection_of(node)
    storage = None if connection is None else connection.db().storage
    return Path(f"{storage.getName()}.data.zarr").absolute() if isinstance(storage, FileStorage) else None
