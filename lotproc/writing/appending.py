"""`if_exists="append"`: arrays put behind those that are there, along the first axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from lotdb import BaseNode, DataNode, DataObject

from .._jar import is_lost
from .._nodes import find
from ..errors import ArgumentError, PayloadError, got
from ..models import Write
from ..payloads import PayloadHandle
from .arrays import Arrays, payload_names, sample_rate
from .options import Options

__all__ = ["appended", "check_appendable", "check_appends", "rate_of"]


def check_appendable(name: str, path: tuple[str, ...], attributes: Mapping[str, Any], arrays: Arrays) -> None:
    """Refuse arrays that stay among the attributes, where the next one would take their place."""
    payloads = payload_names(attributes, arrays)
    for attribute, value in attributes.items():
        if isinstance(value, np.ndarray) and attribute not in payloads:
            raise ArgumentError(
                f"{name}: attribute {attribute!r}",
                path=path,
                expected=f"an array that arrays={arrays!r} stores as a payload, to be appended to",
                got=f"{type(value).__name__} of {_form(value)}",
            )


def rate_of(value: Any, attributes: Mapping[str, Any]) -> float | None:
    """The sample rate of an array: its own where it is that of a handle or a payload, or its result's."""
    return getattr(value, "samplerate_hz", None) or sample_rate(attributes)


def check_appends(writes: Iterable[Write], root: BaseNode, options: Options) -> None:
    """Refuse what can't be appended in a tree in memory, in which nothing is undone, before the first is applied."""
    coming: dict[tuple[tuple[str, ...], str], tuple[Any, float | None]] = {}  # without their samples
    rates: dict[tuple[str, ...], float | None] = {}  # those of the nodes
    for planned in writes:
        path, attributes = planned.path, planned.attributes
        check_appendable(options.name, path, attributes, options.arrays)
        node = find(root, path)
        arrays = sorted(filter(_is_array, attributes.values()), key=lambda array: isinstance(array, DataObject))
        if isinstance(node, DataNode):
            rates[path] = node.samplerate_hz
        elif arrays and (node is None or type(node) is BaseNode):  # as `apply` makes a DataNode of it
            rates.setdefault(path, rate_of(arrays[0], attributes))
        for name, value in attributes.items():
            there = None if node is None else node.get_attribute(name, None)
            stored, stored_rate = coming.get((path, name), (there, None))
            rate = rate_of(value, attributes)
            joined, rate = appended(options.name, path, name, stored, value, rate, stored_rate)
            if isinstance(joined, np.ndarray):
                joined, rate = joined[:0].copy(), rate or rates.get(path)
            coming[path, name] = joined, rate


def appended(
    name: str,
    path: tuple[str, ...],
    attribute: str,
    stored: Any,
    value: Any,
    samplerate_hz: float | None,
    stored_rate: float | None = None,
) -> tuple[Any, float | None]:
    """What an attribute is to be, and its sample rate: an array behind the one that is there; other values as they are.

    Args:
        name: What writes, for errors.
        path: The node's path.
        attribute: The attribute's name.
        stored: What is there; `None` where nothing is.
        value: What comes.
        samplerate_hz: Its sample rate.
        stored_rate: That of an array that is there and does not know its own.

    Raises:
        ArgumentError: One of them is no array, or they differ in dtype, in shape beyond the first axis, or in rate.
        PayloadError: The array that is there can't be read.
    """
    what = f"{name}: attribute {attribute!r}"
    if stored is None or not (_is_array(stored) or _is_array(value)):
        return value, samplerate_hz
    if not _is_array(value):
        raise ArgumentError(what, path=path, expected="an array, as the one that is there", got=got(value))
    if not _is_array(stored):
        raise ArgumentError(what, "can't be appended to: it is no array", path=path, got=got(stored))
    try:
        old = _array(stored)
    except (MemoryError, ImportError):
        raise
    except Exception as error:
        if is_lost(error):
            raise
        raise PayloadError(what, f"can't be appended to, since it can't be read: {error}", path=path) from error
    new = _array(value)
    if old.dtype != new.dtype or old.shape[1:] != new.shape[1:]:
        shape = "".join(f", {length}" for length in old.shape[1:]) or ","
        raise ArgumentError(what, path=path, expected=f"{old.dtype} of shape (n{shape})", got=_form(new))
    rate = getattr(stored, "samplerate_hz", stored_rate)
    if rate is not None and samplerate_hz not in (None, rate):
        raise ArgumentError(what, path=path, expected=f"an array at {rate:g} Hz", got=f"one at {samplerate_hz:g} Hz")
    return np.concatenate([old, new], dtype=old.dtype), samplerate_hz or rate


def _is_array(value: Any) -> bool:
    """Whether a value is an array with a first axis, or a payload of one."""
    if isinstance(value, DataObject):
        return bool(value.get_metadata("payload_kind", "array") == "array")
    return isinstance(value, np.ndarray) and value.ndim > 0


def _array(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(PayloadHandle.of(value) if isinstance(value, DataObject) else value)


def _form(array: np.ndarray[Any, Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"
