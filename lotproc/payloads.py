"""Handles to array payloads: small references that open where they are used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lotdb import BlobObject, DataObject
from ZODB.blob import Blob

from ._extras import needed
from .errors import add_note

__all__ = ["PayloadHandle"]


@dataclass(frozen=True)
class PayloadHandle:
    """A reference to a payload: what it is, and where it lies.

    It holds no data. For what is not committed yet it is good until the commit, which moves the file. It pickles
    small, and reads the file where and when it is asked to, in any process that can see it. `numpy.asarray(handle)`
    is the array.

    Args:
        kind: "array", "bytes", "text" or "table".
        file: The blob's file, or the zarr store's folder.
        dataset: The path inside the zarr store; `None` for blobs.
        shape: The array's shape, time first; `None` for what is no array.
        dtype: The array's dtype, as numpy writes it; `None` for what is no array.
        samplerate_hz: Samples per second, where it is known.
        encoding: The text's encoding, for "text" and "table".
    """

    kind: str
    file: Path
    dataset: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    samplerate_hz: float | None = None
    encoding: str = "utf-8"

    @classmethod
    def of(cls, stored: DataObject | BlobObject | Blob) -> PayloadHandle:
        """The handle for a payload object of a live tree."""
        if isinstance(stored, Blob):
            return cls("bytes", _file_of(stored))
        if isinstance(stored, BlobObject):
            kind = "array" if stored.get_metadata("format") == "npy" else "bytes"
            return cls(
                kind, _file_of(stored.blob), shape=stored.get_metadata("shape"), dtype=stored.get_metadata("dtype")
            )
        kind = stored.get_metadata("payload_kind", "array")
        is_array = kind == "array"
        if stored.blob_object is None and stored.store_path is None:
            raise TypeError("it is a data object that nothing was written to")
        if stored.backend == "zarr":
            file = Path(stored.store_path.filepath).absolute()
            dataset = stored.dataset_path.as_linux_path().lstrip("/")
        else:
            file, dataset = _file_of(stored.blob_object.blob), None
        return cls(
            kind,
            file,
            dataset,
            shape=stored.shape if is_array else None,
            dtype=stored.dtype if is_array else None,
            samplerate_hz=stored.samplerate_hz,
            encoding=stored.get_metadata("text_encoding", "utf-8"),
        )

    def read(self) -> Any:
        """Read the whole payload: an array, bytes, a str, or for a table a pandas DataFrame.

        Raises:
            MissingExtraError: The payload needs zarr or pandas, which is not installed.
            FileNotFoundError: The file is gone, or not visible from this machine.
        """
        try:
            return self._read()
        except FileNotFoundError as error:
            add_note(error, "lotproc: a payload was replaced or committed after its record was made, or lies elsewhere")
            raise

    def _read(self) -> Any:
        if self.dataset is not None:
            zarr = needed("zarr", "zarr", f"the payload in {self.file}")
            return np.asarray(zarr.open_array(store=str(self.file), mode="r", path=self.dataset)[:])
        if self.kind == "array":
            return np.load(self.file, allow_pickle=False)
        if self.kind == "bytes":
            return self.file.read_bytes()
        if self.kind == "text":
            return self.file.read_bytes().decode(self.encoding)
        pandas = needed("pandas", "pandas", f"the table in {self.file}")
        return pandas.read_csv(self.file, encoding=self.encoding)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if self.kind != "array":
            raise TypeError(f"the payload in {self.file} is {self.kind}, not an array; use read()")
        return np.asarray(self.read(), dtype=dtype)

    def __str__(self) -> str:
        if self.kind != "array":
            return self.kind
        rate = f" at {self.samplerate_hz:g} Hz" if self.samplerate_hz else ""
        return f"{self.dtype} {self.shape}{rate}"


def _file_of(blob: Blob) -> Path:
    """The file of a blob, committed or not."""
    with blob.open("r") as file:
        return Path(file.name).absolute()
