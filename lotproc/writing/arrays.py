"""Arrays among results: stored as the payloads that lotdb's `DataNode.read_data` reads."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from io import BytesIO
from typing import Any, Literal, TypeAlias
from urllib.parse import quote
from uuid import uuid4

import numpy as np
from lotdb import BaseNode, DataNode, DataObject, DataWriter, PathFileObj
from ZODB.interfaces import IBlobStorage

from .._extras import needed
from .._items import node_path
from .._nodes import class_name, connection_of, is_broken, missing_class, zarr_folder
from ..errors import ArgumentError, DetachError, as_text
from ..payloads import PayloadHandle

__all__ = ["Arrays", "as_data_node", "check_arrays", "payload_names", "sample_rate", "store_payload"]

Arrays: TypeAlias = Literal["inline", "blob", "zarr"]

#: What a zarr path holds of a node's path: this many keys, and this many characters of each.
MOST_KEYS, LONGEST = 8, 100
#: Bytes that are compared at a time.
BLOCK = 1 << 20


def check_arrays(name: str, root: BaseNode, arrays: Arrays) -> None:
    """Refuse a tree whose database can't hold payloads of this kind."""
    connection = connection_of(root)
    if arrays == "zarr":
        needed("zarr", "zarr", f'{name}: arrays="zarr"')
        if zarr_folder(connection) is None:
            raise ArgumentError(
                f'{name}: arrays="zarr" puts arrays beside the file of a database, and {root.key!r} has none',
                hint='use arrays="inline", or arrays="blob" where there is a directory for blobs',
            )
    if arrays == "blob" and connection is not None and not IBlobStorage.providedBy(connection.db().storage):
        raise ArgumentError(
            f'{name}: arrays="blob" needs a database with a directory for blobs, and that of {root.key!r} has none',
            hint='open it with one, or use arrays="inline"',
        )


def payload_names(attributes: Mapping[str, Any], arrays: Arrays) -> list[str]:
    """The attributes that are stored as payloads: arrays that have a time axis, and come back as they were."""
    if arrays == "inline":
        return []
    return [
        name
        for name, value in attributes.items()
        if type(value) in (np.ndarray, np.memmap) and value.ndim > 0 and _comes_back(value.dtype, arrays)
    ]


@lru_cache(maxsize=1024)
def _comes_back(dtype: np.dtype[Any], arrays: Arrays) -> bool:
    """Whether arrays of this dtype are read as they were written: there are some that npy files or zarr don't know."""
    if dtype.hasobject:
        return False
    try:
        written = np.ones(1, dtype)
        if arrays == "blob":
            file = BytesIO()
            np.save(file, written, allow_pickle=False)
            file.seek(0)
            read = np.load(file)
        else:
            zarr = needed("zarr", "zarr", 'arrays="zarr"')
            store: dict[str, Any] = {}
            with _exact_zarr():
                zarr.open(store=store, mode="w", shape=written.shape, dtype=dtype)[:] = written
            read = zarr.open(store=store, mode="r")[:]
    except Exception:  # whatever they make of it
        return False
    return bool(read.dtype == dtype) and read.tobytes() == written.tobytes()


def sample_rate(attributes: Mapping[str, Any]) -> float | None:
    """The sample rate that a result gives for its arrays."""
    rate = attributes.get("samplerate_hz")
    return float(rate) if isinstance(rate, (int, float, np.number)) and 0 < rate < math.inf else None


def as_data_node(node: BaseNode, data_attribute: str, arrays: Arrays, samplerate_hz: float | None) -> BaseNode:
    """The same node as a `DataNode`, if it can be one: of no class of its own, and below its parent."""
    parent = node.parent
    if type(node) is not BaseNode or parent is None or parent.node_storage.get(node.key) is not node:
        return node
    for stored in (node, *node.node_storage.values()):  # all of them will have new records
        stored._p_activate()
        missing = class_name(stored) if is_broken(stored) else missing_class(vars(stored))
        if missing is not None:
            raise DetachError(
                f"write: {as_text(node_path(node))} can't become a DataNode, with which it and its children are "
                f"stored again: one of them is or holds a {missing}, which can't be imported",
                hint=f'install what {missing} is in, or use arrays="inline"',
            )
    made = DataNode.from_tree(node, samplerate_hz, data_backend=arrays, data_attribute=data_attribute)
    for name, value in vars(node).items():
        if name not in vars(made):
            setattr(made, name, value)
    parent.node_storage[node.key] = made
    return made


def store_payload(
    node: BaseNode, name: str, array: np.ndarray[Any, Any], arrays: Arrays, samplerate_hz: float | None
) -> None:
    """Store an array as the payload `name` of a node, unless it is there already; by default at the node's rate."""
    if samplerate_hz is None and isinstance(node, DataNode):
        samplerate_hz = node.samplerate_hz
    stored = node.get_attribute(name)
    if _is_stored(stored, array, arrays) and stored.samplerate_hz == samplerate_hz:
        if arrays == "zarr":
            _tell_where(stored)
        return
    options = {"samplerate_hz": samplerate_hz, "data_attribute": name, "backend": arrays}
    if arrays == "blob":
        DataWriter.write_array(node, array, **options)
        return
    # A path that nothing was written to before: what zarr overwrites, no transaction brings back.
    keys = [quote(key, safe="", errors="surrogatepass")[:LONGEST] for key in (*node_path(node), name)[-MOST_KEYS:]]
    dataset = "/".join([*(f"+{key}" for key in keys), uuid4().hex])
    with _exact_zarr():
        DataWriter.write_array(
            node,
            array,
            zarr_store_path=PathFileObj(filepath=zarr_folder(connection_of(node))),
            dataset_path=PathFileObj(filepath=dataset),
            **options,
        )


def _exact_zarr() -> Any:
    """A context in which zarr writes every byte.

    Its format 3 does not keep the byte order of a dtype, and gives structured arrays back wrong where that is not the
    machine's. Chunks that equal zero are left out, those of -0.0 too, unless they are asked for. zarr 2 is exact.
    """
    config = getattr(needed("zarr", "zarr", 'arrays="zarr"'), "config", None)
    return nullcontext() if config is None else config.set({"default_zarr_format": 2, "array.write_empty_chunks": True})


def _is_stored(stored: Any, array: np.ndarray[Any, Any], arrays: Arrays) -> bool:
    """Whether a payload is this array, to the byte."""
    if (
        not isinstance(stored, DataObject)
        or stored.backend != arrays
        or stored.get_metadata("payload_kind") != "array"
        or stored.shape != array.shape
        or stored.dtype != str(array.dtype)
    ):
        return False
    try:
        read = PayloadHandle.of(stored).read()
    except Exception:  # it is gone or damaged: then it is written anew
        return False
    return bool(read.dtype == array.dtype) and read.shape == array.shape and _same_bytes(read, array)


def _tell_where(stored: DataObject) -> None:
    """Bring the path up to date that lotdb reads an array by, if nothing is there because the database was moved."""
    if not os.path.exists(stored.store_path.filepath):
        stored.store_path = PathFileObj(filepath=str(PayloadHandle.of(stored).file))
        stored.set_metadata("zarr_store_path", stored.store_path)


def _same_bytes(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    step = max(1, BLOCK * len(left) // max(1, left.nbytes))
    return all(
        left[start : start + step].tobytes() == right[start : start + step].tobytes()
        for start in range(0, len(left), step)
    )
