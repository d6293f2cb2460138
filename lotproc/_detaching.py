"""Values copied out of a tree: plain ones that share nothing with it, and among themselves what they did."""

from __future__ import annotations

import datetime
import decimal
import pathlib
import pickle
import uuid
from collections.abc import Callable
from functools import partial
from io import BytesIO
from types import FunctionType
from typing import Any

import numpy as np
from lotdb import BaseNode, BlobObject, DataObject, PathFileObj
from persistent import Persistent
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob

from ._items import node_path
from ._nodes import class_name, is_broken
from ._pickling import dumps_detached
from ._salvaging import Unreadable
from ._values import is_flat
from .errors import DamagedDatabaseError, DetachError, LiveNodeError, as_text
from .payloads import PayloadHandle

__all__ = ["ATOMS", "IN_ITS_PLACE", "check_readable", "detached"]

#: What to store in place of something live.
IN_ITS_PLACE = "store plain values in its place: of a node its path, or the attributes that snapshot() takes from it"

#: Types whose values never change and hold nothing else.
ATOMS = frozenset(
    (
        *(type(None), type(...), bool, int, float, complex, str, bytes, decimal.Decimal, uuid.UUID),
        *(datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone),
        *(pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath),
    )
)


def detached(
    stage_name: str,
    value: Any,
    what: str,
    path: tuple[str, ...],
    payload: Callable[[Any], Any] = PayloadHandle.of,
) -> Any:
    """A copy of a value that shares nothing with the tree; `what` of the node at `path` it is, errors tell.

    It shares inside of itself what the value does. What stands for a payload object in it is made by `payload`.
    """
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is np.ndarray and not value.dtype.hasobject:
        return value.copy("A")
    if kind in _FLAT and ATOMS.issuperset(map(type, value)):
        return kind(value)
    if kind is dict and ATOMS.issuperset(map(type, value.values())) and ATOMS.issuperset(map(type, value)):
        return value.copy()
    copier = _Copier(payload)
    try:
        return copier.copied(value)
    except DamagedDatabaseError:
        raise
    except Exception as error:
        reason = str(copier.problem_inside() or error)
    # Raised here, without the error behind it: a recursion has a traceback of a thousand frames, and some libraries
    # pickle errors with their tracebacks.
    hint = "leave it out of the names, or take what you need with a function as payload="
    if reason == "Blobs are not supported":  # so ZODB says where a file was opened without the folder of its blobs
        reason, hint = (
            "no folder of blobs is there",
            "the folder .blobs belongs beside the file of a tree, as in corpus.fs.blobs",
        )
    raise DetachError(f"{stage_name}: {what}", f"can't be detached: {reason}", path=path, hint=hint)


def check_readable(value: Any, *, in_tree: bool) -> None:
    """Refuse what can be stored, and not be read again. It is copied for that, if it is more than plain values.

    In a tree, persistent objects are read as their plain kin; in a store they would be pickled with all that they hold.

    Raises:
        LiveNodeError: It is or holds what belongs to a database.
        TypeError: No value can be made of its pickle.
        Exception: It can't be pickled.
    """
    kind = type(value)
    if kind in ATOMS or is_flat(value):
        return
    parts = value.values() if kind is dict else value if kind in _FLAT else [value]
    if ATOMS.issuperset(map(type, parts)) and (kind is not dict or ATOMS.issuperset(map(type, value))):
        return
    if isinstance(value, BaseNode):
        raise LiveNodeError(f"it is a live node, {as_text(node_path(value))}")
    make: Callable[[], Any]
    if in_tree:
        copier = _Copier(lambda payload: None)
        copier.pack(value)
        make = copier.unpacked
    else:
        buffers: list[Any] = []
        make = partial(pickle.loads, dumps_detached(value, out_of_band=buffers.append), buffers=buffers)
    try:
        make()
    except MemoryError:
        raise
    except Exception as error:
        raise TypeError(f"it could not be read again: {type(error).__name__}: {error}") from error


#: Containers that hold nothing but their items.
_FLAT = frozenset((list, tuple, set, frozenset))


def _taken_over(number: int) -> Any:
    """Stands in the pickle of a copy for what does not go through it."""
    raise NotImplementedError


class _Copier(pickle.Pickler):
    """Copies a value by pickling it, which keeps what it shares, and takes the time that a pickle takes.

    Persistent objects become their plain kin on the way. Arrays and atoms are handed over beside the pickle.
    """

    def __init__(self, payload: Callable[[Any], Any]) -> None:
        self._buffer = BytesIO()
        super().__init__(self._buffer, 5)
        self._payload = payload
        self._beside: list[Any] = []
        self._has_persistent = False
        #: Objects of other classes, which are copied as they are.
        self._others: list[Any] = []

    def copied(self, value: Any) -> Any:
        self.pack(value)
        return self.unpacked()

    def pack(self, value: Any) -> None:
        """Refuse what has no plain kin."""
        self.dump(value)
        if self._has_persistent and (problem := self.problem_inside()):
            raise problem

    def unpacked(self) -> Any:
        self._buffer.seek(0)
        return _CopyReader(self._buffer, self._beside).load()

    def problem_inside(self) -> LiveNodeError | None:
        """What is wrong if an object holds a persistent one, which would be something else in a copy of it."""
        try:
            dumps_detached(self._others)
        except LiveNodeError as error:
            return error
        except Exception:  # of which `copied` tells
            pass
        return None

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind in ATOMS:
            return self._as_it_is(value)
        if kind is np.ndarray and not value.dtype.hasobject:
            return self._as_it_is(value.copy("A"))
        if is_broken(value):
            raise TypeError(f"its class can't be imported: {class_name(value)}")
        if kind is Unreadable:
            raise TypeError(value.reason)
        if isinstance(value, Persistent):
            self._has_persistent = True
            return self._plain_kin(value)
        if not isinstance(value, (type, FunctionType)):  # which are named, and not copied
            self._others.append(value)
        return NotImplemented

    def _as_it_is(self, value: Any) -> Any:
        self._beside.append(value)
        return _taken_over, (len(self._beside) - 1,)

    def _plain_kin(self, value: Any) -> Any:
        if isinstance(value, PersistentMapping):
            return dict, (), None, None, iter(value.items())
        if isinstance(value, PersistentList):
            return list, (), None, iter(value)
        if isinstance(value, PathFileObj):
            return self._as_it_is(value.path)
        if isinstance(value, (DataObject, BlobObject, Blob)):
            return self._as_it_is(self._payload(value))
        if type(value).__module__.startswith("BTrees."):
            if hasattr(value, "items"):
                return dict, (), None, None, iter(value.items())
            if hasattr(value, "__iter__"):
                return set, (list(value),)
        if isinstance(value, BaseNode):
            raise LiveNodeError(f"it is a live node, {as_text(node_path(value))}")
        raise LiveNodeError(f"it is a persistent {class_name(value)}, which has no plain kin")


class _CopyReader(pickle.Unpickler):
    """Reads what a `_Copier` wrote; `beside` is what did not go through the pickle."""

    def __init__(self, buffer: BytesIO, beside: list[Any]) -> None:
        super().__init__(buffer)
        self._beside = beside

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        return self._beside.__getitem__ if found is _taken_over else found
