"""Nodes that are there, found through their records: what new nodes are hung below without a live node."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from lotdb import BaseNode
from ZODB.utils import z64

from .._jar import Parts
from .._nodes import plain_file
from ..errors import DamagedDatabaseError
from ..zodb.ahead import held
from ..zodb.encoding import KNOWN, read_node
from ..zodb.pinned import PinnedStorage, pinned_in_thread
from ..zodb.plain_buckets import PlainBucket
from ..zodb.record_arrays import as_oids, beginning_with
from ..zodb.records import EMPTY_TREE, NODE, NotServed, Reference, items_or_parts_of, tree_state
from ..zodb.shapes import NodeReader

__all__ = ["NOTHING", "Node", "StoredNodes", "is_known"]

#: What is known of a part of a tree.
_Part: TypeAlias = "dict[str, Reference] | Parts | PlainBucket"

#: Records read, from which on it pays to open the file once more and read them from there; nodes read, from which on
#: it seems that all below a wide one will be read.
MANY = 50
#: Parts of a tree that are read together, when one is asked for after the one before it.
AHEAD = 32

#: What most nodes have of most things, so that they need no dict of their own; nothing is ever put into it.
NOTHING: dict[str, Any] = {}


class Node:
    """A node that writes run through.

    Args:
        oid: Its id, if it is there; one to be made gets its own when it is stored.
        kind: Its class.
    """

    __slots__ = ("attributes", "below", "is_there", "kind", "new", "oid", "serial", "stored", "tree")

    def __init__(self, oid: bytes = b"", kind: type = BaseNode) -> None:
        self.oid = oid
        self.kind = kind
        self.is_there = bool(oid)
        self.attributes: Mapping[str, Any] = NOTHING  # of one to be made
        self.below: dict[str, Node] = NOTHING  # children that writes run through
        self.new: dict[str, Node] = NOTHING  # those of them that are to be made
        self.tree = b""  # the id of its tree of children; empty as long as it was not read
        self.serial = z64  # the transaction that stored that tree
        self.stored: dict[str, Reference] | None = None  # its items; None if it is stored in parts


class StoredNodes:
    """Finds the children of nodes in the records of a database, at one transaction.

    Args:
        connection: A connection to the database.
        view: The transaction.
    """

    def __init__(self, connection: Any, view: bytes) -> None:
        self._connection, self._view = connection, view
        self._load: Callable[[bytes], tuple[bytes, bytes]] = connection._normal_storage.load
        self._loads = self._reads = 0  # of records, and of nodes
        self._pinned: PinnedStorage | None = None  # what reads faster, once it is worth its making
        self._reader = NodeReader()
        self._expected: dict[bytes, tuple[bytes, bytes]] = {}  # records that were read ahead, until they are asked for
        self._ahead: dict[bytes, tuple[bytes, bytes]] = {}  # childless nodes: their trees, and who stored these
        self._parts: dict[bytes, tuple[_Part, bytes]] = {}  # of trees that are stored in parts
        self._states: dict[bytes, tuple[Any, bool, bytes]] = {}  # some of the same, as `tree_state` gives them

    def child(self, node: Node, key: str) -> Node | None:
        """The child of a node, if it is there.

        Raises:
            NotServed: It can't be found without live nodes, or is of a class that is not known.
        """
        if not node.tree:
            self._read(node)
        reference = self.way(node.tree, key)[-1][1].get(key) if node.stored is None else node.stored.get(key)
        if reference is None:
            return None
        if not is_known(reference):
            raise NotServed
        return Node(*reference)

    def load(self, oid: bytes) -> tuple[bytes, bytes]:
        """A record and the transaction that stored it."""
        if self._expected and (found := self._expected.pop(oid, None)) is not None:
            return found
        self._loads += 1
        if self._loads == MANY:
            self._pinned = self._pinned or pinned_in_thread(self._view, self._connection)
            self._load = self._pinned.load
        return self._load(oid)

    @cached_property
    def are_far(self) -> bool:
        """Whether each record is a question to a server, which can be asked for many at once."""
        if plain_file(self._connection.db().storage) is not None:
            return False
        self._pinned = pinned_in_thread(self._view, self._connection)
        return self._pinned.is_far

    def expect(self, wanted: Iterable[tuple[Node, str]]) -> None:
        """Read what tells of the children of nodes with some keys, many at once: where each record is a question.

        What can't be read so is left to be told of where it is asked for.
        """
        wanted, pinned = list(wanted), self._pinned
        if pinned is None:
            return
        unread = list({node.oid: node for node, _ in wanted if not node.tree and node.oid not in self._ahead}.values())
        with suppress(KeyError, NotServed):
            if len(unread) > 1:
                trees = [read_node(record)[1] for record in self._read_many([node.oid for node in unread], pinned)]
                self._read_many(trees, pinned)
                for node in unread:
                    self._read(node)
            parted = {(node.tree, key) for node, key in wanted if node.tree and node.stored is None}
            while parted:
                known = [(self._parts[oid][0], key) for oid, key in parted if oid in self._parts]
                within = [(part, key) for part, key in known if isinstance(part, Parts)]
                parted = {(part.parts[bisect_right(part.bounds, key)], key) for part, key in within}
                missing = list({oid: None for oid, _ in parted if oid not in self._parts})
                for oid, record in zip(missing, self._read_many(missing, pinned), strict=True):
                    self._take(oid, record, self._expected.pop(oid)[1])

    def _read_many(self, oids: Sequence[bytes], pinned: PinnedStorage) -> list[bytes]:
        """Many records, which are kept until they are asked for; a `KeyError` where one of them is not there."""
        found = held(pinned, oids)
        self._expected.update(found)
        return [found[oid][0] for oid in oids]

    def tree_state(self, oid: bytes) -> tuple[Any, bool, bytes]:
        """The state of a tree or of a part of one, whether it is a bucket, and the transaction that stored it.

        Raises:
            UnusualRecord: It is nothing of the kind.
        """
        found = self._states.get(oid)
        if found is None:
            data, tid = self.load(oid)
            found = *tree_state(data), tid
        return found

    def _part(self, oid: bytes) -> tuple[_Part, bytes]:
        """What a tree, or a part of one, holds by key, or how it is parted; and the transaction that stored it."""
        part = self._parts.get(oid)
        if part is None:
            data, tid = self.load(oid)
            part = ({} if data == EMPTY_TREE else self._take(oid, data, tid)), tid
        return part

    def _take(self, oid: bytes, data: bytes, tid: bytes) -> _Part:
        """Keep what a record holds, if it is a part of a tree, or one that has parts."""
        part: _Part | None = PlainBucket.of(data)
        if part is None:
            state, is_bucket = tree_state(data)
            found = items_or_parts_of(state, is_bucket)
            part = found if isinstance(found, Parts) else dict(zip(*found, strict=True))
            if not (is_bucket or isinstance(part, Parts)):
                return part
            self._states[oid] = state, is_bucket, tid
        self._parts[oid] = part, tid
        return part

    def _read(self, node: Node) -> None:
        known = self._ahead.pop(node.oid, None)
        if known is not None:
            node.tree, node.serial = known
            node.stored = {}
            return
        self._reads += 1
        kind, tree = read_node(self.load(node.oid)[0])
        if kind is not node.kind:
            raise NotServed
        part, node.serial = self._part(tree)
        node.stored = part if isinstance(part, dict) else None
        node.tree = tree

    def way(self, oid: bytes, key: str) -> list[tuple[bytes, Any, bytes]]:
        """The parts of a tree from its top to where a key would be: id, what it holds, transaction that stored it."""
        way = []
        while True:
            part, tid = self._part(oid)
            way.append((oid, part, tid))
            if not isinstance(part, Parts):
                return way
            oids = part.parts
            number = bisect_right(part.bounds, key)
            oid = oids[number]
            if self._reads < MANY or self._pinned is None:  # new nodes beside those that are there, perhaps
                continue
            if number and oid not in self._parts and oids[number - 1] in self._parts:
                self._read_ahead(oids[number : number + AHEAD], self._pinned)

    def _read_ahead(self, oids: Sequence[bytes], pinned: PinnedStorage) -> None:
        """Read parts of a tree, and the nodes in them, many at once: it seems that all of them will be asked for."""
        children: dict[bytes, str] = {}
        try:
            found = pinned.load_many(as_oids(oids))
            for row, oid in enumerate(oids):
                part = self._take(oid, found.one(row), found.tids[row].tobytes())
                if isinstance(part, Parts):
                    return
                children.update({child[0]: key for key, child in part.items() if is_known(child, BaseNode)})
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


def is_known(reference: Reference, *kinds: type) -> bool:
    """Whether it refers to a node of a known class, or of these, in the same database."""
    return type(reference) is Reference and reference[1] in (kinds or KNOWN) and type(reference[0]) is bytes
