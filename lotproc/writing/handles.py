"""Handles to payloads among results: read, and replaced by the payloads that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lotdb import BaseNode, BlobObject, DataObject
from ZODB.blob import Blob
from ZODB.interfaces import IBlobStorage

from .._jar import is_lost
from .._values import inside, is_flat, iterator_in
from ..errors import ArgumentError, MissingExtraError, NotPicklableError, PayloadError
from ..payloads import PayloadHandle
from ..stores.codecs import Codec
from ..stores.protocol import StoredPayload
from .arrays import Arrays, payload_names, sample_rate
from .payload_copies import PayloadCopy

__all__ = ["Flat", "as_payload", "checked_values", "handle_names", "with_copies", "with_payloads", "without_handles"]

#: What stands for a payload, whose data lie elsewhere, and what has them.
_UNREAD = (PayloadHandle, StoredPayload)
_HANDLES = (*_UNREAD, PayloadCopy)


class _Marked(dict[str, Any]):
    """Attributes among which are handles to payloads or copies of them: others are not looked through again."""


class Flat(dict[str, Any]):
    """Attributes that were all flat when they were planned: the database can store them, and there is no handle."""


def checked_values(name: str, path: tuple[str, ...], attributes: dict[str, Any]) -> dict[str, Any]:
    """Refuse attributes that can't be kept: iterators, and handles in places where nothing else can be put.

    Returns:
        The attributes, which `handle_names` and what comes after it take.
    """
    if all(map(is_flat, attributes.values())):
        return Flat(attributes)
    marked = False
    for attribute, value in attributes.items():
        if is_flat(value):
            continue
        reason = iterator_in(value)
        if reason is None and _has_handles(value):
            marked = True
            if any(isinstance(item, _UNREAD) for item in inside(without_handles(value))):
                reason = (
                    "it holds a handle to a payload, which is stored as its data in dicts, lists and tuples alone; put "
                    "it into one of these, or store what its read() returns"
                )
        if reason is not None:
            raise NotPicklableError(f"{name}: attribute {attribute!r}", f"can't be stored: {reason}", path=path)
    return _Marked(attributes) if marked else attributes


def handle_names(attributes: Mapping[str, Any]) -> list[str]:
    """The attributes that are, or hold, handles to payloads or copies of them."""
    if type(attributes) is not _Marked:
        return []
    return [name for name, value in attributes.items() if _has_handles(value)]


def _has_handles(value: Any) -> bool:
    return not is_flat(value) and any(isinstance(item, _HANDLES) for item in inside(value))


def without_handles(value: Any) -> Any:
    """A value with `None` in place of each handle."""
    return _replaced(value, lambda item: None)


def as_payload(name: str, path: tuple[str, ...], attribute: str, value: Any, connection: Any) -> Any:
    """A value with payloads where it has copies of them, or handles to them; the same object where it has none.

    Raises:
        ArgumentError: The database of the connection takes no blobs; a tree in memory, without one, does.
    """
    made = _replaced(value, _restored)
    if made is not value and connection is not None and not IBlobStorage.providedBy(connection.db().storage):
        raise ArgumentError(
            f"{name}: attribute {attribute!r}",
            "is a payload, or a handle to one, which needs a database with a directory for blobs, and there is none",
            path=path,
            hint="open it with one, or store what its read() returns",
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
    names = handle_names(attributes)
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
    names = handle_names(attributes)
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
        if is_lost(error):
            raise
        raise PayloadError(
            f"write: attribute {name!r}",
            f"is, or holds, a handle to a payload that can't be read: {type(error).__name__}: {error}",
            path=path,
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
    if not _has_handles(value):
        return value
    done: dict[int, Any] = {}

    def replaced(item: Any) -> Any:
        if id(item) in done:
            return done[id(item)]
        made: Any = item
        if isinstance(item, _HANDLES):
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
