"""What values hold, iterators that can't be kept among it; and whether two values are the same, arrays too."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from functools import lru_cache
from io import IOBase
from itertools import repeat
from typing import Any

import numpy as np
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping

__all__ = ["PLAIN", "inside", "is_flat", "iterator_in", "same"]

#: Types whose values hold nothing else.
PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes}).union(
    kind for kind in np.sctypeDict.values() if not issubclass(kind, (np.void, np.object_))
)

#: Levels of dicts and lists that are looked at in the short way.
DEPTH = 6

_MAPPINGS = (dict, PersistentMapping)
_SEQUENCES = (list, tuple, set, frozenset, deque, PersistentList)


def is_flat(value: Any, depth: int = DEPTH) -> bool:
    """Whether a value is plain, or holds what is plain alone; told in a moment, for most values that there are.

    So it can be pickled, and nothing in it is persistent or an iterator. What holds more levels, or holds itself, is
    not flat.
    """
    kind = type(value)
    if kind in PLAIN:
        return True
    if kind is np.ndarray:
        dtype = value.dtype  # which can hold anything in its metadata, or in those of its fields
        return not dtype.hasobject and dtype.names is None and dtype.metadata is None
    if kind is dict:
        parts = value.values()
        if not PLAIN.issuperset(map(type, value)):
            return False
    elif kind is list or kind is tuple:
        parts = value
    else:
        return False
    if PLAIN.issuperset(map(type, parts)):
        return True
    others = [part for part in parts if type(part) not in PLAIN]
    return depth > 0 and all(map(is_flat, others, repeat(depth - 1)))


def inside(value: Any) -> Iterator[Any]:
    """A value and what it holds, each once and without what is plain.

    It looks into dicts, lists, tuples, sets, arrays of objects, data classes, and all that is derived from these; into
    no other objects, whose affair it is what they keep for themselves.
    """
    waiting, seen = [value], {}
    while waiting:
        item = waiting.pop()
        if type(item) in PLAIN or id(item) in seen:
            continue
        seen[id(item)] = item  # kept, so that its id is given to nothing else
        yield item
        for parts in _parts(item):
            if not PLAIN.issuperset(map(type, parts)):
                waiting += parts


def _parts(value: Any) -> tuple[Iterable[Any], ...]:
    if isinstance(value, _MAPPINGS):
        return value.keys(), value.values()
    if isinstance(value, _SEQUENCES):
        return (value,)
    if isinstance(value, np.ndarray):
        return (value.ravel().tolist(),) if value.dtype.hasobject else ()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return ([getattr(value, field.name, None) for field in dataclasses.fields(value)],)
    return ()


def iterator_in(value: Any) -> str | None:
    """Why a value can't be kept that is, or holds, what can be read only once; and what to do."""
    if is_flat(value):
        return None
    for item in inside(value):
        kind: Any = type(item)
        advice = _advice(kind)
        if advice is not None:
            return f"it {'is' if item is value else 'holds'} a {kind.__qualname__}, {advice}"
    return None


@lru_cache(maxsize=1024)
def _advice(kind: Any) -> str | None:
    if issubclass(kind, IOBase):
        return "an open file; read it, or give its path"
    if issubclass(kind, Iterator):
        return "which gives its items only once; make a list of it"
    if issubclass(kind, AsyncIterator):
        return "which gives its items only once; make a list of it, with `async for`"
    if issubclass(kind, Coroutine):
        return "whose result nobody waited for; await it"
    return None


# Comparing


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal, with arrays in them, at any depth.

    >>> import numpy as np
    >>> same({"x": [np.array([1.0, np.nan])]}, {"x": [np.array([1.0, np.nan])]})
    True
    >>> same(np.array([1]), np.array([1.0]))
    False

    Arrays are equal where dtype, shape and bytes are: a NaN is equal to the same NaN in the same place, and 0.0 is not
    -0.0. Mappings, lists and tuples are compared item by item, everything else as Python does.
    """
    if left is right:
        return True
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return isinstance(left, np.ndarray) and isinstance(right, np.ndarray) and _same_arrays(left, right)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    for kind in (list, tuple):
        if isinstance(left, kind) and isinstance(right, kind):
            return len(left) == len(right) and all(map(same, left, right))
    try:
        return bool(left == right)
    except (ValueError, TypeError):  # tables, data classes that hold arrays: they have no one answer
        if type(left) is not type(right):
            return False
        if hasattr(left, "equals"):
            return bool(left.equals(right))
        return dataclasses.is_dataclass(left) and all(
            same(getattr(left, field.name), getattr(right, field.name)) for field in dataclasses.fields(left)
        )


def _same_arrays(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if isinstance(left, np.ma.MaskedArray) or isinstance(right, np.ma.MaskedArray):
        return _same_arrays(np.ma.getmaskarray(left), np.ma.getmaskarray(right)) and _same_arrays(
            np.ma.filled(left), np.ma.filled(right)
        )
    if left.dtype.names:  # what lies between the fields does not count
        return all(_same_arrays(left[name], right[name]) for name in left.dtype.names)
    if left.dtype.hasobject:
        return same(left.tolist(), right.tolist())
    return left.tobytes() == right.tobytes()
