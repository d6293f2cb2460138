"""New nodes written as records: encoded outside of every connection, and stored in one transaction of the storage."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
from BTrees.OOBTree import OOBTree
from lotdb import BaseNode
from ZODB.Connection import TransactionMetaData
from ZODB.serialize import ObjectWriter
from ZODB.utils import z64

from .._jar import RecordJar
from .._nodes import find
from .._stamps import STAMPS, VERSION
from ..errors import DamagedDatabaseError
from ..models import Write
from ..zodb.appending import NewRecord, check_there, new_oids, store_new
from ..zodb.encoding import (
    INLINE,
    KNOWN,
    NotServed,
    Reference,
    attributes_record,
    new_node_encoder,
    read_node,
    read_record,
    tree_record,
    tree_records,
)
from ..zodb.pinned import PinnedStorage, as_oids, pinned_in_thread, view_of
from ..zodb.records import EMPTY_TREE, NODE, NodeReader, beginning_with
from .transactions import already_there

__all__ = ["Bulk", "NotServed", "decoded", "is_clean", "part_of"]

#: Nodes read, from which on it pays to open the file once more and read the records from there.
MANY = 50
#: Parts of a tree that are read together, when one is asked for after the one before it.
AHEAD = 32

_Record: TypeAlias = "tuple[bytes, bytes, bytes]"


_STR = frozenset({str})
#: What most nodes have of most things, so that they need no dict of their own; nothing is ever put into it.
_NOTHING: dict[str, Any] = {}


class _Found:
    """A node that is there.

    Args:
        oid: Its id.
        kind: Its class.
    """

    __slots__ = ("below", "kind", "new", "oid", "serial", "stored", "tree")

    def __init__(self, oid: bytes, kind: type) -> None:
        self.oid = oid
        self.kind = kind
        self.below: dict[str, _Found | _New] = _NOTHING  # children that writes run through
        self.new: dict[str, _New] = _NOTHING  # those of them that are to be made
        self.tree = b""  # the id of its tree of children; empty as long as it was not read
        self.serial = z64  # the transaction that stored that tree
        self.stored: dict[str, Reference] | None = None  # its items; None if it is stored in parts


class _New:
    """A node to be made."""

    __slots__ = ("attributes", "below", "new", "oid", "tree")

    kind = BaseNode

    def __init__(self) -> None:
        self.attributes: Mapping[str, Any] = _NOTHING
        self.below: dict[str, Any] = _NOTHING
        self.new: dict[str, _New] = _NOTHING
        self.oid = self.tree = b""  # given when it is stored


class Bulk:
    """Planned writes that make new nodes, kept until they are stored together.

    Args:
        root: The node below which the paths of the writes start.
        if_exists: What to do where a node is there already, as in `write`.
        version: What "skip" leaves alone has this version; `None`: any.

    Raises:
        NotServed: The connection has changes that are not committed, or the node is of an unknown class.
    """

    def __init__(self, root: BaseNode, if_exists: str, version: str | None = None) -> None:
        self._connection = root._p_jar
        if self._connection is None or not is_clean(self._connection) or type(root) not in KNOWN:
            raise NotServed
        self._if_exists = if_exists
        self._version = version
        self._view = view_of(self._connection)
        self._load = self._connection._normal_storage.load
        self._loads = 0
        self._pinned: PinnedStorage | None = None  # what reads faster, once it is worth its making
        self._reader = NodeReader()
        self._ahead: dict[bytes, tuple[bytes, bytes]] = {}  # childless nodes: their trees, and who stored these
        self._root = _Found(root._p_oid, type(root))
        self._parts: dict[bytes, Any] = {}  # of trees that are stored in parts
        self._changed: list[_Found] = []  # nodes that get new children
        self._paths: list[tuple[str, ...]] = []  # where they are
        self._made = 0  # nodes to be made
        self.size = 1  # nodes that are held, there or to be made

    def add(self, planned: Write) -> bool:
        """Take up a write; whether it will be written, and not skipped.

        Raises:
            NotServed: It would change a node that is there, or one of a class that is not known.
            ExistsError: The node is there, with `if_exists="error"`.
        """
        place: Any = self._root
        makes = False
        for depth, key in enumerate(planned.path):
            below = place.below.get(key)
            if below is None:
                is_found = type(place) is _Found
                below = self._look_up(place, key) if is_found else None
                if place.below is _NOTHING:
                    place.below = {}
                if below is None:
                    if place.new is _NOTHING:
                        place.new = {} if is_found else place.below
                        if is_found:
                            self._changed.append(place)
                            self._paths.append(planned.path[:depth])
                    below = place.new[key] = _New()
                    self._made += 1
                    makes = True
                place.below[key] = below
                self.size += 1
            place = below
        if not makes:
            if self._if_exists == "error":
                raise already_there("write", planned.path)
            if self._if_exists == "skip" and self._version is None:
                return False
            if type(place) is _Found:
                raise NotServed
            if self._if_exists == "skip" and place.attributes.get(VERSION) == self._version:
                return False
        attributes = planned.attributes
        if not _STR.issuperset(map(type, attributes)):
            attributes = {str(name): value for name, value in attributes.items()}
        if not place.attributes or self._if_exists == "replace":
            place.attributes = attributes
        else:  # stamps that are left would say that this result is another one
            kept = {name: value for name, value in place.attributes.items() if name not in STAMPS}
            place.attributes = {**kept, **attributes}
        return True

    def overtaken(self, root: BaseNode) -> tuple[str, ...] | None:
        """The path of a node that live nodes have otherwise than what was taken up: made since, gone, or another one.

        Args:
            root: The node at which this began.
        """
        for path, place in zip(self._paths, self._changed, strict=True):
            node = find(root, path)
            if node is None or node._p_oid != place.oid:
                return path
            for key in place.new:
                if key in node.node_storage:
                    return (*path, key)
        return None

    def commit(self) -> None:
        """Store what was taken up, in one transaction.

        Raises:
            NotServed: Something takes live nodes after all; nothing was stored.
            ConflictError: Somebody else changed what this changes; nothing was stored.
        """
        connection = self._connection
        if not is_clean(connection) or view_of(connection) != self._view:
            raise NotServed
        if not self._made:
            return
        storage = connection.db()._mvcc_storage.new_instance()
        try:
            new, changed, current = self._encoded(storage)
            if max(map(len, map(itemgetter(-1), (*new, *changed)))) >= connection.large_record_size:
                raise NotServed  # ZODB has something to say about these
            transaction = connection.transaction_manager.get()
            meta = TransactionMetaData(transaction.user, transaction.description, transaction.extension)
            try:
                storage.tpc_begin(meta)
                check_there(connection.db().storage, (oid for oid, serial, _ in changed if serial != z64))
                store_new(storage, new, meta)
                for oid, serial, data in changed:
                    storage.store(oid, serial, data, "", meta)
                for oid, serial in current.items():
                    storage.checkCurrentSerialInTransaction(oid, serial, meta)
                storage.tpc_vote(meta)
                storage.tpc_finish(meta)
            except BaseException:
                try:
                    storage.tpc_abort(meta)
                finally:
                    connection.transaction_manager.abort()  # the connection has to see what was in the way
                raise
        finally:
            storage.release()

    # Reading what is there

    def _look_up(self, place: _Found, key: str) -> _Found | None:
        """The child of a node, if it is there."""
        if not place.tree:
            self._read(place)
        items = self._in_parts(place.tree, key) if place.stored is None else place.stored
        reference = items.get(key)
        if reference is None:
            return None
        if not _is_known(reference):
            raise NotServed
        return _Found(*reference)

    def _read(self, place: _Found) -> None:
        known = self._ahead.pop(place.oid, None)
        if known is not None:
            place.tree, place.serial = known
            place.stored = {}
            return
        self._loads += 1
        if self._loads == MANY:
            self._pinned = pinned_in_thread(self._view, self._connection)
            self._load = self._pinned.load
        node = decoded(read_node, self._load(place.oid)[0])
        if node is None or node[0] is not place.kind:
            raise NotServed
        data, serial = self._load(node[1])
        if data == EMPTY_TREE:
            place.stored = {}
        else:
            kind, state = decoded(read_record, data)
            if kind is not OOBTree:
                raise NotServed
            if state is None or len(state) == 1:
                place.stored = _items(state)
            else:
                self._parts[node[1]] = _bounds_and_parts(state)
        place.tree, place.serial = node[1], serial

    def _in_parts(self, oid: bytes, key: str) -> dict[str, Reference]:
        """The items of the part of a tree in which a key would be."""
        while True:
            part = self._parts.get(oid)
            if part is None:
                part = self._parts[oid] = decoded(part_of, self._load(oid)[0])
            if type(part) is dict:
                return part
            bounds, parts = part
            number = bisect_right(bounds, key)
            oid = parts[number][0]
            if self._pinned is not None and number and oid not in self._parts and parts[number - 1][0] in self._parts:
                self._read_ahead(parts[number : number + AHEAD], self._pinned)

    def _read_ahead(self, parts: Iterable[Reference], pinned: PinnedStorage) -> None:
        """Read parts of a tree, and the nodes in them, many at once: it seems that all of them will be asked for."""
        oids = [oid for oid, _ in parts]
        children: dict[bytes, str] = {}
        try:
            found = pinned.load_many(as_oids(oids))
            for oid, start, length in zip(oids, found.starts.tolist(), found.lengths.tolist(), strict=True):
                part = self._parts[oid] = decoded(part_of, found.data[start : start + length])
                if type(part) is not dict:
                    return
                children.update({child[0]: key for key, child in part.items() if _is_known(child, BaseNode)})
            records = pinned.load_many(as_oids(list(children)))
            nodes = self._reader.read(records, list(children.values()))
            usual = np.flatnonzero(nodes.usual & beginning_with(NODE, records))
            trees = pinned.load_many(nodes.children[usual])
        except DamagedDatabaseError:
            return  # what is damaged is told of when it is asked for
        childless = (trees.lengths == len(EMPTY_TREE)) & beginning_with(EMPTY_TREE, trees)
        nodes_oids = list(children)
        for row, tree, tid in zip(
            usual[childless].tolist(), nodes.children[usual][childless], trees.tids[childless], strict=True
        ):
            self._ahead[nodes_oids[row]] = tree.tobytes(), tid.tobytes()

    # Encoding

    def _encoded(self, storage: Any) -> tuple[list[NewRecord], list[_Record], dict[bytes, bytes]]:
        """New and changed records, and objects that must not have changed by then with their transactions."""
        new: list[NewRecord] = []
        changed: list[_Record] = []
        jar = _WritableJar(self._connection._normal_storage, self._connection.db(), storage.new_oid)
        oids = iter(new_oids(storage, 3 * self._made))
        waiting: list[Any] = list(self._changed)
        for place in waiting:
            encode = new_node_encoder(place.kind)
            for key, child in place.new.items():
                child.oid, child.tree, attributes = next(oids), next(oids), next(oids)
                new.append((child.oid, encode(place.oid, key, child.tree, attributes)))
                if len(child.attributes) <= INLINE:
                    new.append((attributes, attributes_record(child.attributes)))
                else:
                    jar.new_tree(attributes).update(child.attributes)
                if child.new:
                    waiting.append(child)
                else:
                    new.append((child.tree, EMPTY_TREE))
            references = {key: (child.oid, BaseNode) for key, child in place.new.items()}
            if type(place) is _New:
                new += tree_records(place.tree, references, storage.new_oid)
            elif _fits(place):
                changed.append((place.tree, place.serial, tree_record({**place.stored, **references})))
            else:
                tree = jar.get(place.tree)
                for key, child in place.new.items():
                    tree[key] = jar.ghost(child.oid)
        changed += jar.records()
        return new, changed, jar.current


def _fits(place: _Found) -> bool:
    """Whether the tree of children will fit into one record, and holds nodes of known classes alone."""
    stored = place.stored
    return stored is not None and len(stored) + len(place.new) <= INLINE and all(map(_is_known, stored.values()))


class _WritableJar(RecordJar):
    """A jar whose objects can be changed: it gives the records of those that were."""

    def __init__(self, storage: Any, db: Any, new_oid: Callable[[], bytes]) -> None:
        super().__init__(storage.load, db, storage)
        self.new_oid = new_oid
        self.current: dict[bytes, bytes] = {}  # objects that have to be unchanged, and their transactions
        self._changed: list[Any] = []

    def new_tree(self, oid: bytes) -> Any:
        """A tree that gets this id."""
        tree = OOBTree()
        tree._p_oid, tree._p_jar = oid, self
        self._changed.append(tree)
        return tree

    def ghost(self, oid: bytes) -> BaseNode:
        """A node with this id, to refer to."""
        ghost = BaseNode.__new__(BaseNode)
        self._cache.new_ghost(oid, ghost)
        return ghost

    def register(self, changed: Any) -> None:
        if changed._p_serial != z64:
            self._changed.append(changed)

    def readCurrent(self, read: Any) -> None:
        if read._p_serial != z64:
            self.current[read._p_oid] = read._p_serial

    def get_connection(self, name: str) -> Any:
        raise NotServed  # a reference to another database

    def records(self) -> Iterator[_Record]:
        """What has to be stored."""
        for changed in self._changed:
            writer = ObjectWriter(changed)
            for item in writer:
                self.current.pop(item._p_oid, None)
                yield item._p_oid, item._p_serial, writer.serialize(item)


def is_clean(connection: Any) -> bool:
    """Whether a commit of the connection's transaction would do nothing at all."""
    transactions = connection.transaction_manager
    if transactions.explicit or connection._storage is not connection._normal_storage:
        return False
    transaction = transactions.get()
    hooks = (*transaction.getBeforeCommitHooks(), *transaction.getAfterCommitHooks())
    return not (transaction._resources or transaction.isDoomed() or hooks)


def _is_known(reference: Reference, *kinds: type) -> bool:
    """Whether it refers to a node of a known class, or of these, in the same database."""
    return type(reference) is tuple and reference[1] in (kinds or KNOWN) and type(reference[0]) is bytes


def _items(state: Any) -> dict[str, Reference]:
    """The items of a tree that are in its own record."""
    if state is None:
        return {}
    items = state[0][0][0]
    return dict(zip(items[::2], items[1::2], strict=True))


def part_of(record: bytes) -> Any:
    """A part of a tree of children or attributes: its items, or the keys at which it is parted and its parts."""
    kind, state = read_record(record)
    if kind is not OOBTree:  # a bucket
        return dict(zip(state[0][::2], state[0][1::2], strict=True))
    return _items(state) if state is None or len(state) == 1 else _bounds_and_parts(state)


def _bounds_and_parts(state: Any) -> tuple[tuple[str, ...], tuple[Reference, ...]]:
    """The keys at which a tree is parted, and its parts."""
    return state[0][1::2], state[0][::2]


def decoded(decode: Callable[[bytes], Any], data: bytes) -> Any:
    """What a function makes of a record.

    Raises:
        NotServed: It can't be read without live nodes.
    """
    try:
        return decode(data)
    except Exception as error:  # a class that is not there, a record of another kind: the live tree knows, or says
        raise NotServed from error
