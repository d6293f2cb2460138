"""Payloads with all their data: what goes into a store for them, and what handles among results become."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from lotdb import BaseNode, BlobObject, DataObject
from ZODB.blob import Blob
from ZODB.interfaces import IBlobStorage

from .._extras import needed
from .._public import public
from .._values import inside, is_flat, iterator_in
from ..errors import ArgumentError, MissingExtraError, NotPicklableError, PayloadError, as_text
from ..payloads import PayloadHandle
from ..stores.codecs import NAMED, Codec
from ..stores.protocol import StoredPayload
from ..zodb.arrays import Arrays, payload_names, sample_rate

__all__ = [
    *("PayloadCopy", "as_payload", "checked_values", "stand_ins", "with_copies", "with_payloads"),
    "without_stand_ins",
]

_CONTENT_TYPES = {"bytes": "application/octet-stream", "text": "text/plain", "table": "text/csv"}


@public
@dataclass(frozen=True)
class PayloadCopy:
    """A payload of a tree with all its data: what `copy` puts into a store for it, and makes a payload of again.

    Args:
        kind: "DataObject", "BlobObject" or "Blob": what it was in the tree, and will be again.
        content: The bytes of its blob; for what lay in zarr, those of an npy file.
        payload: "array", "bytes", "text" or "table".
        samplerate_hz: Samples per second, where that is known.
        metadata: What lotdb keeps beside the payload.
        blob_metadata: What lotdb keeps beside the blob.
    """

    kind: str
    content: bytes = field(repr=False)
    payload: str = "bytes"
    samplerate_hz: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    blob_metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, stored: DataObject | BlobObject | Blob) -> PayloadCopy:
        """The copy of a payload object of a live tree."""
        handle = PayloadHandle.of(stored)
        content = bytes(NAMED["npy"].encode(handle.read())) if handle.dataset is not None else handle.file.read_bytes()
        if isinstance(stored, Blob):
            return cls("Blob", content)
        metadata = stored.metadata_dict()
        if isinstance(stored, BlobObject):
            return cls("BlobObject", content, handle.kind, blob_metadata=metadata)
        if stored.blob_object is None:  # it lay in zarr, which a copy leaves
            metadata = {name: value for name, value in metadata.items() if not name.startswith("zarr_")}
            metadata["backend"] = "blob"
            blob = {"content_type": stored.content_type, "format": "npy", "dtype": stored.dtype, "shape": stored.shape}
        else:
            blob = stored.blob_object.metadata_dict()
        metadata["content_type"] = stored.content_type
        return cls("DataObject", content, handle.kind, stored.samplerate_hz, metadata, blob)

    @classmethod
    def of_handle(cls, handle: PayloadHandle, samplerate_hz: float | None = None) -> PayloadCopy:
        """The copy of what a handle stands for, with what the handle says of it: a `DataObject`, as lotdb writes it.

        Args:
            handle: The handle.
            samplerate_hz: That of an array whose handle knows none.
        """
        rate = handle.samplerate_hz
        about: dict[str, Any] = {"backend": "blob", "payload_kind": handle.kind}
        if handle.kind == "array":
            array = np.asarray(handle)  # which checks that the file is what it was
            content = handle.file.read_bytes() if handle.dataset is None else bytes(NAMED["npy"].encode(array))
            rate = rate or samplerate_hz
            form = {"dtype": str(array.dtype), "shape": tuple(array.shape)}
            about.update(form, samplerate_hz=rate, time_axis=0)
            kind, blob = "application/x-npy", {"format": "npy", **form}
        else:
            content, blob = handle.file.read_bytes(), {}
            about["byte_length"] = len(content)
            kind = _CONTENT_TYPES[handle.kind]
            if handle.kind != "bytes":
                about["text_encoding"] = handle.encoding
        about["content_type"] = blob["content_type"] = kind
        return cls("DataObject", content, handle.kind, rate, about, blob)

    def read(self) -> Any:
        """The payload as `PayloadHandle.read` gives it: an array, bytes, a str, or a pandas DataFrame."""
        if self.payload == "array":
            return np.load(io.BytesIO(self.content), allow_pickle=False)
        if self.payload == "bytes":
            return self.content
        text = self.content.decode(self.metadata.get("text_encoding", "utf-8"))
        if self.payload == "text":
            return text
        return needed("pandas", "pandas", "a table").read_csv(io.StringIO(text))

    def restored(self) -> DataObject | BlobObject | Blob:
        """A new payload object for a tree, with its data in a blob."""
        if self.kind == "Blob":
            blob = Blob()
            with blob.open("w") as file:
                file.write(self.content)
            return blob
        held = BlobObject(metadata=self.blob_metadata)
        held.write_bytes(self.content)
        if self.kind == "BlobObject":
            return held
        metadata = dict(self.metadata)
        data = DataObject("blob", self.samplerate_hz, content_type=metadata.pop("content_type"), metadata=metadata)
        data.blob_object = held
        return data


#: What stands for data that lie elsewhere.
_HANDLES = (PayloadHandle, StoredPayload)
_STAND_INS = (*_HANDLES, PayloadCopy)


class _Marked(dict[str, Any]):
    """Attributes among which are handles to payloads or copies of them: others are not looked through again."""


def checked_values(name: str, path: tuple[str, ...], attributes: dict[str, Any]) -> dict[str, Any]:
    """Refuse attributes that can't be kept: iterators, and handles in places where nothing else can be put.

    Returns:
        The attributes, which `stand_ins` and what comes after it take.
    """
    marked = False
    for attribute, value in attributes.items():
        if is_flat(value):
            continue
        reason = iterator_in(value)
        if reason is None and _has_stand_ins(value):
            marked = True
            if any(isinstance(item, _HANDLES) for item in inside(without_stand_ins(value))):
                reason = (
                    "it holds a handle to a payload, which is stored as its data in dicts, lists and tuples alone; put "
                    "it into one of these, or store what its read() returns"
                )
        if reason is not None:
            raise NotPicklableError(f"{name}: attribute {attribute!r} of {as_text(path)} can't be stored: {reason}")
    return _Marked(attributes) if marked else attributes


def stand_ins(attributes: Mapping[str, Any]) -> list[str]:
    """The attributes that are, or hold, handles to payloads or copies of them."""
    if type(attributes) is not _Marked:
        return []
    return [name for name, value in attributes.items() if _has_stand_ins(value)]


def _has_stand_ins(value: Any) -> bool:
    return not is_flat(value) and any(isinstance(item, _STAND_INS) for item in inside(value))


def without_stand_ins(value: Any) -> Any:
    """A value with `None` in place of each of them."""
    return _replaced(value, lambda item: None)


def as_payload(name: str, path: tuple[str, ...], attribute: str, value: Any, connection: Any) -> Any:
    """A value with payloads where it has copies of them, or handles to them; the same object where it has none.

    Raises:
        ArgumentError: The database of the connection takes no blobs; a tree in memory, without one, does.
    """
    made = _replaced(value, _restored)
    if made is not value and connection is not None and not IBlobStorage.providedBy(connection.db().storage):
        raise ArgumentError(
            f"{name}: attribute {attribute!r} of {as_text(path)} is a payload, or a handle to one, which needs a "
            f"database with a directory for blobs, and there is none; open it with one, or store what its read() "
            f"returns"
        )
    return made


def with_payloads(
    path: tuple[str, ...], attributes: Mapping[str, Any], arrays: Arrays, connection: Any, node: BaseNode | None = None
) -> Mapping[str, Any]:
    """Attributes as a tree takes them: payloads in place of what stands for them.

    Args:
        path: Where they are written, for errors.
        attributes: The attributes.
        arrays: What `write` does with arrays.
        connection: The tree's.
        node: The node that gets them; what it has already is left out.

    Returns:
        The attributes; arrays that go to zarr are still arrays.

    Raises:
        ArgumentError: The database takes no blobs.
        PayloadError: A payload can't be read.
    """
    names = stand_ins(attributes)
    if not names:
        return attributes
    made = dict(attributes)
    for name in names:
        value = attributes[name]
        read = _read(path, name, value, partial(_with_data, samplerate_hz=sample_rate(attributes)))
        if arrays == "zarr" and isinstance(read, PayloadCopy) and read.payload == "array":
            array = read.read()
            if payload_names({name: array}, arrays):
                made[name] = array
                continue
        if node is not None and _is_there(node.get_attribute(name), value, read):
            del made[name]
            continue
        made[name] = as_payload("write", path, name, read, connection)
    return made


def with_copies(path: tuple[str, ...], attributes: Mapping[str, Any], codec: Codec) -> Mapping[str, Any]:
    """Attributes as a store takes them: copies of payloads, if it pickles them, else the data, in place of handles.

    Raises:
        PayloadError: A payload can't be read.
    """
    names = stand_ins(attributes)
    if not names:
        return attributes
    make = _with_data if codec.name == "pickle" else _data
    return {**attributes, **{name: _read(path, name, attributes[name], make) for name in names}}


def _with_data(item: Any, samplerate_hz: float | None = None) -> Any:
    """A copy of the payload that a handle stands for, or the value of a store."""
    if isinstance(item, StoredPayload):
        return item.read()
    return PayloadCopy.of_handle(item, samplerate_hz) if isinstance(item, PayloadHandle) else item


def _data(item: Any) -> Any:
    data = item.read()
    return data.read() if isinstance(data, PayloadCopy) else data


def _read(path: tuple[str, ...], name: str, value: Any, make: Callable[[Any], Any]) -> Any:
    try:
        return _replaced(value, make)
    except (MemoryError, MissingExtraError):
        raise
    except Exception as error:
        raise PayloadError(
            f"write: attribute {name!r} of {as_text(path)} is, or holds, a handle to a payload that can't be read: "
            f"{type(error).__name__}: {error}"
        ) from error


def _is_there(stored: Any, value: Any, read: Any) -> bool:
    """Whether what is stored is the payload already."""
    if not (isinstance(read, PayloadCopy) and isinstance(stored, (DataObject, BlobObject, Blob))):
        return False
    try:
        return bool(PayloadHandle.of(stored) == value or PayloadCopy.of(stored) == read)
    except Exception:  # it is gone or damaged: then it is written anew
        return False


def _restored(item: Any) -> Any:
    data = _with_data(item)
    return data.restored() if isinstance(data, PayloadCopy) else _replaced(data, _restored)


def _replaced(value: Any, make: Callable[[Any], Any]) -> Any:
    """A value with something else for each handle and each copy in it; the same object where it has none.

    What it shares stays shared.
    """
    if not _has_stand_ins(value):
        return value
    done: dict[int, Any] = {}

    def replaced(item: Any) -> Any:
        if id(item) in done:
            return done[id(item)]
        made: Any = item
        if isinstance(item, _STAND_INS):
            made = make(item)
        elif type(item) is dict:
            made = done[id(item)] = {}  # before what is in it, which may be itself
            made.update((key, replaced(part)) for key, part in item.items())
        elif type(item) is list:
            made = done[id(item)] = []
            made += map(replaced, item)
        elif type(item) is tuple:
            made = tuple(map(replaced, item))
        done[id(item)] = made
        return made

    return replaced(value)
