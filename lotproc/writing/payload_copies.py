"""A payload of a tree with all its data, as it goes into a store, and becomes a payload again (`PayloadCopy`)."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lotdb import BlobObject, DataObject
from ZODB.blob import Blob

from .._extras import needed
from .._public import public
from .._reprs import bounded_repr
from ..models import html_of_fields
from ..payloads import PayloadHandle
from ..stores.codecs import NAMED

__all__ = ["PayloadCopy"]

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

    __repr__ = bounded_repr
    _repr_html_ = html_of_fields

    @classmethod
    def of(cls, stored: DataObject | BlobObject | Blob) -> PayloadCopy:
        """The copy of a payload object of a live tree."""
        handle = PayloadHandle.of(stored)
        in_blob = handle.dataset is None
        content = Path(handle.file).read_bytes() if in_blob else bytes(NAMED["npy"].encode(handle.read()))
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
            content = Path(handle.file).read_bytes() if handle.dataset is None else bytes(NAMED["npy"].encode(array))
            rate = rate or samplerate_hz
            form = {"dtype": str(array.dtype), "shape": tuple(array.shape)}
            about.update(form, samplerate_hz=rate, time_axis=0)
            kind, blob = "application/x-npy", {"format": "npy", **form}
        else:
            content, blob = Path(handle.file).read_bytes(), {}
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
