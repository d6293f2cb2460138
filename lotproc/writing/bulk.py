"""New nodes written as records: encoded outside of every connection, and stored in one transaction of the storage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from operator import itemgetter
from typing import Any

from lotdb import BaseNode
from ZODB.Connection import TransactionMetaData
from ZODB.utils import z64

from .._fast import FAST
from .._nodes import find
from .._stamps import VERSION
from ..models import Write
from ..zodb.appending import (
    ChangedRecord,
    NewRecord,
    check_still_connected,
    check_there,
    ids_from,
    is_last_before,
    store_changed,
    store_new,
    times_connected,
)
from ..zodb.encoding import (
    INLINE,
    KNOWN,
    attributes_record,
    attributes_records,
    new_node_encoder,
    tree_record,
    tree_records,
)
from ..zodb.file_records import FileReference
from ..zodb.pinned import view_of
from ..zodb.records import EMPTY_TREE, NotServed
from .changed_trees import ChangedTrees
from .options import Options, merged
from .stored_nodes import NOTHING, Node, StoredNodes, is_known
from .transactions import is_clean

__all__ = ["Bulk"]

_STR = frozenset({str})


class Bulk:
    """Planned writes that make new nodes, kept until they are stored together.

    Args:
        root: The node below which the paths of the writes start.
        options: What to do where a node is there already.

    Raises:
        NotServed: The connection has changes that are not committed, or the node is of an unknown class.
    """

    def __init__(self, root: BaseNode, options: Options) -> None:
        self._connection = root._p_jar
        if not FAST or self._connection is None or not is_clean(self._connection) or type(root) not in KNOWN:
            raise NotServed
        self._options = options
        self._view = view_of(self._connection)
        self._stored = StoredNodes(self._connection, self._view)
        self._root = Node(root._p_oid, type(root))
        self._changed: list[Node] = []  # nodes that get new children
        self._paths: list[tuple[str, ...]] = []  # where they are
        self._made = 0  # nodes to be made
        self._last: tuple[str, ...] = ()  # the path that was taken up last
        self._above = [self._root]  # the nodes on it
        self.size = 1  # nodes that are held, there or to be made

    def expect(self, batch: Sequence[Write]) -> None:
        """Read what the writes of a batch run through, many records at once, where each is a question to a server.

        Raises:
            NotServed: One runs through a node of a class that is not known.
        """
        if len(batch) < 2 or not self._stored.are_far:
            return
        waiting = [(self._root, planned.path) for planned in batch]
        depth = 0
        while waiting := [(node, path) for node, path in waiting if node.is_there and len(path) > depth]:
            wanted = [(node, path[depth]) for node, path in waiting]
            self._stored.expect((node, key) for node, key in wanted if key not in node.below)
            below = [self._known(node, key) for node, key in wanted]
            waiting = [(child, path) for child, (_, path) in zip(below, waiting, strict=True) if child is not None]
            depth += 1

    def _known(self, node: Node, key: str) -> Node | None:
        """The child of a node that is there, if it is there too, or to be made."""
        child = node.below.get(key)
        if child is None and (child := self._stored.child(node, key)) is not None:
            if node.below is NOTHING:
                node.below = {}
            node.below[key] = child
            self.size += 1
        return child

    def add(self, planned: Write) -> bool:
        """Take up a write; whether it will be written, and not skipped.

        Raises:
            NotServed: It would change a node that is there, or one of a class that is not known.
            ExistsError: The node is there, with `if_exists="error"`.
        """
        path, above, makes = planned.path, self._above, False
        shared = self._shared(path)
        self._last = ()  # as long as it is not clear that this will be taken up
        del above[shared + 1 :]
        node = above[shared]
        for depth in range(shared, len(path)):
            key = path[depth]
            below = node.below.get(key)
            if below is None:
                below = self._stored.child(node, key) if node.is_there else None
                if node.below is NOTHING:
                    node.below = {}
                if below is None:
                    if node.new is NOTHING:
                        node.new = {} if node.is_there else node.below
                        if node.is_there:
                            self._changed.append(node)
                            self._paths.append(path[:depth])
                    below = node.new[key] = Node()
                    self._made += 1
                    makes = True
                node.below[key] = below
                self.size += 1
            node = below
            above.append(node)
        self._last = path
        if not makes:
            if self._options.if_exists == "error":
                raise self._options.already_there(path)
            if self._options.skips(partial(_version_of, node)):
                return False
            if node.is_there:
                raise NotServed
        attributes = planned.attributes
        if not _STR.issuperset(map(type, attributes)):
            attributes = {str(name): value for name, value in attributes.items()}
        is_alone = not node.attributes or self._options.if_exists == "replace"
        node.attributes = attributes if is_alone else merged(node.attributes, attributes)
        return True

    def _shared(self, path: tuple[str, ...]) -> int:
        """How many keys a path begins with as the one before it does: without a step for each, if it is below it."""
        last = self._last
        known = len(last)
        if path[:known] == last:
            return known
        if path[: known - 1] == last[:-1]:
            return known - 1
        return next(depth for depth, (key, other) in enumerate(zip_longest(path, last)) if key != other)

    def overtaken(self, root: BaseNode) -> tuple[str, ...] | None:
        """The path of a node that live nodes have otherwise than what was taken up: made since, gone, or another one.

        Args:
            root: The node at which this began.
        """
        for path, changed in zip(self._paths, self._changed, strict=True):
            node = find(root, path)
            if node is None or node._p_oid != changed.oid:
                return path
            for key in changed.new:
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
            connected = times_connected(connection.db().storage)
            new, changed, current = self._encoded(storage)
            if max(map(len, map(itemgetter(-1), (*new, *changed)))) >= connection.large_record_size:
                raise NotServed  # ZODB has something to say about these
            transaction = connection.transaction_manager.get()
            meta = TransactionMetaData(transaction.user, transaction.description, transaction.extension)
            try:
                storage.tpc_begin(meta)
                check_still_connected(connection.db().storage, connected)
                check_there(connection.db().storage, (oid for oid, serial, _ in changed if serial != z64))
                store_new(storage, new, meta)
                store_changed(storage, changed, meta, self._view)
                if current and not is_last_before(storage, self._view):
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

    # Encoding

    def _encoded(self, storage: Any) -> tuple[list[NewRecord], list[ChangedRecord], dict[bytes, bytes]]:
        """New and changed records, and objects that must not have changed by then with their transactions."""
        new: list[NewRecord] = []
        changed: list[ChangedRecord] = []
        new_oid = ids_from(storage, 3 * self._made)
        trees = ChangedTrees(self._stored, self._connection, new_oid)
        waiting = list(self._changed)
        for node in waiting:
            encode = new_node_encoder(node.kind)
            references: dict[str, tuple[bytes, type[BaseNode]]] = {}
            for key, child in node.new.items():
                oid, child.tree, attributes = new_oid(), new_oid(), new_oid()
                child.oid = oid
                references[key] = oid, BaseNode
                new.append((oid, encode(node.oid, key, child.tree, attributes)))
                if type(child.attributes) is FileReference:
                    new += child.attributes.records(attributes, new_oid)
                elif len(child.attributes) <= INLINE:
                    new.append((attributes, attributes_record(child.attributes)))
                else:
                    new += attributes_records(attributes, child.attributes, new_oid)
                if child.new:
                    waiting.append(child)
                else:
                    new.append((child.tree, EMPTY_TREE))
            if not node.is_there:
                new += tree_records(node.tree, references, new_oid)
            elif node.stored is not None and _fits(node.stored, references):
                changed.append((node.tree, node.serial, tree_record({**node.stored, **references})))
            else:
                trees.put(node.tree, references)
        changed += trees.records()
        trees.close()
        return new, changed, trees.current


def _version_of(node: Node) -> Any:
    if node.is_there:
        raise NotServed
    return node.attributes.get(VERSION)


def _fits(stored: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a tree of children will fit into one record, and holds nodes of known classes alone."""
    return len(stored) + len(new) <= INLINE and all(map(is_known, stored.values()))
