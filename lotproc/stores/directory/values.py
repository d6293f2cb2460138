"""Values and metadata read from an entry's files, by the store's codec."""

from __future__ import annotations

import mmap
import os
import pickle
from typing import Any

from ...errors import DamagedStoreError, DetachError, as_text
from ..codecs import Codec, importable, unpickled
from .keys import Place
from .metadata import Metadata, metadata_from

__all__ = ["OpenValue", "decoded", "parsed"]

#: Bytes up to which a value is read in one piece.
SMALL = 1 << 16


class OpenValue:
    """A value's file, kept open, so that it can be read whatever takes its place; closed when it is dropped."""

    __slots__ = ("_codec", "_descriptor", "_place", "_store")

    def __init__(self, store: object, codec: Codec, place: Place, descriptor: int) -> None:
        self._descriptor = descriptor
        self._store, self._codec, self._place = store, codec, place

    def read(self) -> Any:
        """Read the value; any number of times."""
        return decoded(self._store, self._codec, self._place, self._descriptor)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close


def decoded(store: object, codec: Codec, place: Place, descriptor: int) -> Any:
    """The value in an open file, which stays open.

    Raises:
        DamagedStoreError: The codec can't read it.
        DetachError: Its class can't be imported.
    """
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        data = os.read(descriptor, SMALL)
        if len(data) < SMALL:
            return codec.decode(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        if codec.keeps:  # the value is a view of the file
            return codec.decode(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        with open(os.dup(descriptor), "rb") as file:
            if codec.decode is unpickled:  # arrays go from the file to where they stay
                try:
                    return importable(pickle.load(file))
                except (ImportError, AttributeError):  # of which `unpickled` tells
                    file.seek(0)
            return codec.decode(file.read())
    except (MemoryError, OSError):
        raise
    except DetachError as error:
        raise DetachError(f"{store!r}: the value of {as_text(place.path)} can't be read: {error}") from error
    except Exception as error:
        raise DamagedStoreError(
            f"{store!r}: the value of {as_text(place.path)} can't be read with codec {codec.name!r}: "
            f"{type(error).__name__}: {error}; its file is {place.data}"
        ) from error


def parsed(store: object, place: Place, text: bytes) -> Metadata:
    """Metadata from the bytes of its file.

    Raises:
        DamagedStoreError: They are not a JSON object.
    """
    try:
        return metadata_from(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedStoreError(
            f"{store!r}: the metadata of {as_text(place.path)} can't be read as JSON: {error}; its file is {place.meta}"
        ) from error
