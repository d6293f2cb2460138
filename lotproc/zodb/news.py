"""Whether what is read from a node was stored since a transaction: its attributes, and persistent values in them."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterable, Iterator
from io import BytesIO
from types import EllipsisType
from typing import Any

import numpy as np
from lotdb import BaseNode
from persistent import Persistent
from ZODB.blob import Blob
from ZODB.utils import u64

from ..snapshots import Taken
from .record_arrays import Flags, Oids

__all__ = ["are_later", "attributes_have_news", "has_news", "names_with_news"]


def are_later(tids: Oids, since: bytes) -> Flags:
    """Which of these transactions are not before that one."""
    later: Flags = np.ascontiguousarray(tids).view(">u8").ravel() >= u64(since)
    return later


def has_news(node: BaseNode, taken: Taken, since: bytes) -> bool:
    """Whether anything that is taken of a node of a `RecordJar` was stored by that transaction or later.

    What can't be read counts, so that it is told of.
    """
    try:
        node._p_activate()
        payload = {taken.payload} if isinstance(taken.payload, str) else set()
        own = ... if taken.names is ... else {*taken.names, *payload}
        return bool(
            node._p_serial >= since
            or attributes_have_news(node.attribute_storage, own, since)
            or names_with_news(node, taken.inherit, since)
        )
    except Exception:
        return True


def names_with_news(node: BaseNode, names: Iterable[str], since: bytes) -> frozenset[str]:
    """Those attributes for which something new is met on the way from a node to the nearest above that has them."""
    found = set()
    for name in names:
        above: BaseNode | None = node
        try:
            while above is not None:
                stored = above.attribute_storage
                if attributes_have_news(stored, {name}, since):
                    found.add(name)
                    break
                above = None if name in stored else above.parent
        except Exception:
            found.add(name)
    return frozenset(found)


def attributes_have_news(stored: Any, names: Collection[str] | EllipsisType, since: bytes) -> bool:
    """Whether a tree of attributes, or what some of its values are made of, was stored by that transaction or later."""
    if _is_new(stored, since) or any(_is_new(part, since) for part in _parts(stored)):
        return True
    return any(
        _is_new(inside, since)
        for name in (stored.keys() if names is ... else names)
        if name in stored
        for inside in _persistent_inside(stored[name])
    )


def _is_new(stored: Any, since: bytes) -> bool:
    stored._p_activate()
    return bool(stored._p_serial is not None and stored._p_serial >= since)


def _parts(tree: Any) -> Iterator[Any]:
    """The parts of a BTree that has split."""
    waiting = [tree]
    while waiting:
        state = waiting.pop().__getstate__()
        if isinstance(state, tuple) and len(state) > 1 and isinstance(state[0], tuple):
            parts = [part for part in state[0][::2] if isinstance(part, Persistent)]
            yield from parts
            waiting += [part for part in parts if hasattr(part, "_firstbucket")]


class _Finder(pickle.Pickler):
    """Finds the persistent objects in a value, without going into them."""

    def __init__(self) -> None:
        super().__init__(BytesIO(), protocol=5)
        self.found: list[Any] = []

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Persistent):
            return None
        self.found.append(value)
        return ""

    def reducer_override(self, value: Any) -> Any:
        return (list, ()) if type(value) is np.ndarray and not value.dtype.hasobject else NotImplemented


def _persistent_inside(value: Any) -> Iterator[Any]:
    """The persistent objects in a value, and those in these; no nodes, which are no values."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        finder = _Finder()
        finder.dump(waiting.pop())
        for inside in finder.found:
            if id(inside) not in seen and not isinstance(inside, BaseNode):
                seen.add(id(inside))
                yield inside
                inside._p_activate()
                if not isinstance(inside, Blob):  # whose data are a file
                    waiting.append(inside.__getstate__())
