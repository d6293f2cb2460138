"""Objects read from records at one transaction, outside of every connection; what the states of BTrees hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from traceback import walk_tb
from typing import Any, NamedTuple, TypeAlias

from BTrees.OOBTree import OOBTree, OOBucket
from lotdb import BaseNode
from persistent import PickleCache
from transaction.interfaces import TransientError
from ZODB.blob import Blob
from ZODB.broken import Broken
from ZODB.POSException import ConnectionStateError, ReadOnlyError, StorageError
from ZODB.serialize import ObjectReader
from ZODB.utils import u64

from ._nodes import class_name
from .errors import DamagedDatabaseError, OutOfViewError, ServerError, as_text

__all__ = [
    *(
        "Items",
        "Parts",
        "RecordJar",
        "at_path",
        "checked_node",
        "costs_one",
        "damaged",
        "gone",
        "is_lost",
        "items_or_parts_in",
        "path_and_root",
    ),
    "unreadable",
]

#: Objects that a jar keeps when it trims its cache.
KEPT = 400
#: Nodes between two trims of the cache.
TRIM_EVERY = 200
#: The modules that ask servers through database drivers.
_ASK_SERVERS = ("relstorage.", "lotproc.zodb.rows")


class RecordJar:
    """What persistent objects take for their connection: it loads them from the records of one transaction.

    The objects have their real classes and load their state when it is asked for, as those of a connection do, so
    whatever reads a live node reads one from here in the same way. They can't be changed.

    Args:
        load: A function from an object's id to its record and the transaction that stored it.
        db: The ZODB database, which knows the classes.
        storage: What knows the files of blobs.
        sibling: A function from the name of another database to a new jar of its objects.
    """

    def __init__(
        self,
        load: Callable[[bytes], tuple[bytes, bytes]],
        db: Any,
        storage: Any,
        sibling: Callable[[str], RecordJar] | None = None,
    ) -> None:
        self._load = load
        self._db = db
        self._storage = storage  # blobs look for it under this name
        self._sibling = sibling
        self._family: dict[str, RecordJar] = {db.database_name: self}
        self._held: dict[bytes, tuple[bytes, bytes]] = {}
        self._untrimmed = 0
        self._buckets: set[bytes] = set()  # those of trees, as far as they were not loaded yet
        self._cache = PickleCache(self, KEPT)
        self._reader = ObjectReader(self, self._cache, db.classFactory)

    def db(self) -> Any:
        return self._db

    def get(self, oid: bytes) -> Any:
        """The object with this id."""
        found = self._cache.get(oid)
        if found is None:
            data, _ = self._taken(oid)
            try:
                found = self._reader.getGhost(data)
            except Exception as error:
                raise unreadable(oid, error) from error
            self._cache.new_ghost(oid, found)
        return found

    def stored_by(self, oid: bytes) -> bytes:
        """The transaction that stored an object."""
        return self._taken(oid)[1]

    def hold(self, records: dict[bytes, tuple[bytes, bytes]]) -> None:
        """Take these records from here, in place of those that were given before, where they will be asked for soon."""
        self._held = records

    def _taken(self, oid: bytes) -> tuple[bytes, bytes]:
        return self._held.get(oid) or self._load(oid)

    def get_connection(self, name: str) -> RecordJar:
        """The jar of another database that objects here refer to."""
        found = self._family.get(name)
        if found is None:
            assert self._sibling is not None
            found = self._family[name] = self._sibling(name)
            found._family = self._family
        return found

    def node(self, oid: bytes) -> BaseNode:
        """The lotdb node with this id; now and then, what the nodes before it take in memory is dropped."""
        self._untrimmed += 1
        if self._untrimmed >= TRIM_EVERY:
            self._untrimmed = 0
            self.cacheGC()
        return checked_node(oid, self.get(oid))

    def cacheGC(self) -> None:
        """Drop the states of objects that were not used lately, as a connection's function of this name does."""
        self._cache.incrgc()

    def close(self) -> None:
        """Let go of the records. Objects that were not loaded yet can't be after this."""
        for jar in self._family.values():
            del jar._load, jar._sibling

    def setstate(self, ghost: Any) -> None:
        """Load an object; objects call this themselves."""
        oid = ghost._p_oid
        data, tid = self._taken(oid)
        try:
            state = self._reader.getState(data)
            self._check_full(ghost, state)
            ghost.__setstate__(state)
        except Exception as error:
            raise unreadable(oid, error) from error
        ghost._p_serial = tid
        self._cache.update_object_size_estimation(oid, len(data))
        ghost._p_estimated_size = len(data)
        if isinstance(ghost, Blob):
            ghost._p_blob_uncommitted = None
            ghost._p_blob_committed = self._storage.loadBlob(oid, tid)

    def _check_full(self, ghost: Any, state: Any) -> None:
        """Refuse a bucket of a tree in which there is nothing: no tree keeps one, and BTrees end the process there."""
        if type(ghost) is OOBTree and state is not None:
            if len(state) > 1:
                self._buckets.update(part._p_oid for part in state[0][::2] if type(part) is OOBucket)
                return
            ((state,),) = state
        elif ghost._p_oid in self._buckets:
            self._buckets.discard(ghost._p_oid)
        else:
            return
        if len(state[0]) < 2:
            raise ValueError("there is a bucket with nothing in it")

    def register(self, changed: Any) -> None:
        raise ReadOnlyError("these are committed records, which nothing changes")

    def readCurrent(self, read: Any) -> None:
        """Part of the protocol of connections."""


def checked_node(oid: bytes, node: Any) -> BaseNode:
    """The object with this id, if it is a lotdb node with all its parts.

    Raises:
        DamagedDatabaseError: It is not.
    """
    if not isinstance(node, BaseNode):
        raise damaged(oid, f"is no lotdb node but a {type(node).__qualname__}")
    try:
        parts = node.parent, node.key, node.node_storage, node.attribute_storage
    except AttributeError as error:
        raise unreadable(oid, error) from error
    if any(isinstance(part, Broken) for part in parts):
        raise damaged(oid, "refers to an object whose class can't be found")
    for part in parts[2:]:
        if isinstance(part, BaseNode) or not hasattr(type(part), "keys"):
            what = "a node" if isinstance(part, BaseNode) else f"a {type(part).__qualname__}"
            raise damaged(oid, f"has {what} where the tree of its children or of its attributes should be")
    return node


def path_and_root(node: BaseNode) -> tuple[tuple[str, ...], BaseNode]:
    """The path of a node, whose parents may be damaged, and the root of its tree."""
    keys: list[str] = []
    seen: set[tuple[int, bytes]] = set()  # also of sibling databases, which have ids of their own
    oid = node._p_oid
    try:
        while (parent := node.parent) is not None:
            place = id(node._p_jar), node._p_oid
            if place in seen:
                raise damaged(oid, "has itself among its parents")
            seen.add(place)
            keys.append(node.key)
            node = parent
    except AttributeError as error:
        raise damaged(oid, f"is not what a lotdb node should be: {error}") from error
    return tuple(reversed(keys)), node


class Parts(NamedTuple):
    """How a BTree that has split, or a part of one, is parted.

    Args:
        bounds: The first key that may be in each part but the first.
        parts: What refers to the parts.
    """

    bounds: Sequence[Any]
    parts: Sequence[Any]


#: The keys and the values of a small BTree, or of a bucket.
Items: TypeAlias = "tuple[Sequence[Any], Sequence[Any]]"


def items_or_parts_in(state: Any, *, is_bucket: bool = False) -> Items | Parts:
    """What the state of a BTree, or of one of its buckets, holds; whatever error comes where it is none."""
    if state is None:
        return (), ()
    if not is_bucket:
        if len(state) > 1:
            parts = _tuple_in(state, 1)
            return Parts(parts[1::2], parts[::2])
        ((_,),) = state
        state = _tuple_in(_tuple_in(state, 1), 1)  # all in one bucket, which is stored with the tree
    items = _tuple_in(state, 0)
    return items[::2], items[1::2]


def _tuple_in(state: Any, odd: int) -> Any:
    """The first item of a tuple, if it is one itself, no reference, and as long as it can be: an odd number or not."""
    if type(state) is tuple and type(state[0]) is tuple and state[0] and len(state[0]) % 2 == odd:
        return state[0]
    raise TypeError


def costs_one(error: Exception) -> bool:
    """Whether an error is that of one node, and not of the connection, or of the storage as a whole."""
    return not isinstance(error, (TransientError, ConnectionStateError, StorageError)) and not is_lost(error)


def is_lost(error: BaseException) -> bool:
    """Whether an error is that of a lost connection to the server of a tree, ours or what a driver says of it."""
    if isinstance(error, ServerError):
        return True
    # By their names, since none of them need be installed.
    name = class_name(error)
    if name == "ZEO.Exceptions.ClientDisconnected":
        return True
    modules = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    if name == "builtins.TypeError":  # of Python 3.13.0, where something is written to what was just closed
        return modules[-1:] == ["asyncio.selector_events"] and any(each.startswith("ZEO.") for each in modules)
    # Of psycopg2 one without a class of its own, too, where no answer came. Not those of a program's own database.
    of_drivers = {kind.__name__ for kind in type(error).__mro__ if not kind.__module__.startswith("sqlite3")}
    if name != "psycopg2.DatabaseError" and of_drivers.isdisjoint(("OperationalError", "InterfaceError")):
        return False
    return any(each.startswith(_ASK_SERVERS) for each in modules)


def damaged(oid: bytes, what: str) -> DamagedDatabaseError:
    """The error for a record that says of its object what can't be."""
    return DamagedDatabaseError(f"the record of object {u64(oid):#x} {what}")


def gone(oid: bytes, before: bytes) -> DamagedDatabaseError:
    """The error for an object that something refers to and that is not there."""
    return damaged(
        oid, f"is not there as of the transaction before {u64(before):#x}; was the database packed, or cut, since?"
    )


def unreadable(oid: bytes, error: Exception) -> Exception:
    """The error for a record that some other error comes of."""
    reason = error.__cause__ or error
    if isinstance(reason, Exception) and (isinstance(reason, OutOfViewError) or is_lost(reason)):
        return reason
    return damaged(oid, f"can't be read: {type(reason).__name__}: {reason}")


def at_path(stage_name: str, path: Iterable[str], error: Exception) -> Exception:
    """The error, with the path if it tells only of an object."""
    kind = type(error)
    if kind not in (DamagedDatabaseError, OutOfViewError):
        return error
    with_path = kind(f"{stage_name}: {as_text(path)}: {error}")
    vars(with_path).update(vars(error), path=tuple(path))  # also what to do
    with_path.__cause__ = error
    return with_path
