"""Records that will be asked for one by one, read many at once: where each is a question to a server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pickle import BINPERSID
from typing import TypeAlias

from ZODB.serialize import referencesf

from ..errors import DamagedDatabaseError, OutOfViewError
from .pinned import PinnedStorage
from .record_arrays import Records, as_oids
from .records import UnusualRecord, stored_node

__all__ = ["Held", "held", "held_objects"]

#: Records by the ids of their objects, each with the transaction that stored it.
Held: TypeAlias = "dict[bytes, tuple[bytes, bytes]]"

#: References that are followed from a tree of attributes on: to a data object, what it knows of itself, its blob.
DEPTH = 5
#: Records that are held at most; behind these the others are asked for one by one.
MOST = 5000


def held(storage: PinnedStorage, oids: Iterable[bytes]) -> Held:
    """Records of objects; none if one of them is not there, which is told of where that is asked for by itself."""
    each = list(dict.fromkeys(oids))
    try:
        return storage.load_many(as_oids(each)).by_oid(each)
    except (DamagedDatabaseError, OutOfViewError):
        return {}


def held_objects(storage: PinnedStorage, nodes: Sequence[bytes], trees: Records) -> Held:
    """The records that nodes are read from, and all that is stored in their attributes.

    Args:
        storage: The records.
        nodes: The ids of the nodes.
        trees: The records of the trees of their attributes.
    """
    found = held(storage, nodes)
    waiting: list[bytes] = []
    for row, node in enumerate(nodes):
        record = trees.one(row)
        with suppress(KeyError, UnusualRecord):
            found[stored_node(found[node][0], of_any_class=True).attributes] = record, trees.tids[row].tobytes()
        waiting += _references(record)
    for _ in range(DEPTH):
        waiting = [oid for oid in waiting if oid not in found]
        if not waiting or len(found) + len(waiting) > MOST:
            break
        more = held(storage, waiting)
        found.update(more)
        waiting = []
        for record, _ in more.values():
            if b"node_storage" not in record:  # a node, below and above which the whole tree is
                waiting += _references(record)
    return found


def _references(record: bytes) -> list[bytes]:
    """The ids of the objects that a record refers to; few refer to any, and most are known by a look."""
    references: list[bytes] = referencesf(record) if BINPERSID in record else []
    return references
