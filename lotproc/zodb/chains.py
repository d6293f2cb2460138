"""Chains of nodes with one child each, which are read without a window for each node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DamagedDatabaseError, LotprocError
from .attributes import AttributeReader, Wanted
from .bounds import UNBOUND
from .branches import Branch, Entry, Failed
from .pinned import PinnedStorage
from .record_arrays import Oids, Records, beginning_with
from .records import EMPTY_TREE
from .shapes import NodeReader, TreeReader

__all__ = ["ChainReader"]


class ChainReader:
    """Reads nodes at the ends of chains.

    Args:
        storage: The records, at one transaction.
        wanted: What the scan gives.
        reader: Reads the records of nodes.
        trees: Reads those of the trees of their children.
        skips: A test of keys; branches that pass it do not exist.
    """

    def __init__(
        self,
        storage: PinnedStorage,
        wanted: Wanted,
        reader: NodeReader,
        trees: TreeReader,
        skips: Callable[[str], object] | None,
    ) -> None:
        self._storage = storage
        self._wanted = wanted
        self._reader = reader
        self._trees = trees
        self._skips = skips
        #: Whether nothing is asked of nodes that have one child each, but what is at the end of such a chain.
        self.can_be_followed = (
            storage.plain_classes
            and (wanted.depth, wanted.among, wanted.skip_node, wanted.pattern) == (None, None, None, None)
            and not wanted.taken.inherit
        )

    def end(self, branch: Branch, key: str, oid: bytes) -> tuple[Branch, str, bytes]:
        """The end of the chain of nodes with one child each that begins with a child of a branch.

        Given as its parent, its key and its id: a twentieth of the time that a window for each node takes.
        """
        load = self._storage.load
        keys, oids, tree = [key], [branch.oid, oid], b""
        try:
            while True:
                node = self._reader.one(load(oids[-1])[0])
                if node is None or node[:2] != (oids[-2], keys[-1].encode("utf-8", "surrogatepass")):
                    break
                record = load(node[2])[0]
                child = self._trees.only_one(record)
                if child is None:
                    break
                below = child[0].decode("utf-8", "surrogatepass")
                if self._skips is not None and self._skips(below):
                    break
                keys.append(below)
                oids.append(child[1])
                tree = record
        except (LotprocError, UnicodeDecodeError):  # which is told of where that node is read by itself
            pass
        if len(keys) == 1:
            return branch, key, oid
        last = Branch(oids[-2], (*branch.path, *keys[:-1]), tree, branch, UNBOUND)
        last.depth, last.passed = branch.depth + len(keys) - 1, oids[1:-2]
        return last, keys[-1], oids[-1]

    def leaves(
        self,
        branches: list[Branch],
        keys: list[str],
        oids: Oids,
        rows: Any,
        trees: Records,
        attributes_of: AttributeReader,
    ) -> dict[int, Entry | None]:
        """What the nodes in these rows give below which there is one leaf and nothing else, at the end of the chain.

        Four times as fast as branch by branch, which gives the same.
        """
        among, chain = self._wanted.among, self._wanted.chain
        oids = oids[rows]
        attributes = oids
        try:
            for key in chain:
                children, found = self._trees.only(trees, key)
                rows, parents, oids = rows[found], oids[found], children[found]
                nodes = self._reader.read(self._storage.load_many(oids), [key] * len(oids))
                usual = nodes.usual & (nodes.parents == parents).all(axis=1) & self._storage.plain_classes
                rows, oids, attributes = rows[usual], oids[usual], nodes.attributes[usual]
                trees = self._storage.load_many(nodes.children[usual])
        except DamagedDatabaseError:
            return {}  # which is told of one by one
        is_end = (trees.lengths == len(EMPTY_TREE)) & beginning_with(EMPTY_TREE, trees)
        for place in np.flatnonzero(is_end).tolist():
            row = int(rows[place])
            is_end[place] = among is not None and not among(branches[row].path, keys[row])
        given = rows[is_end].tolist()
        paths = [(*branches[row].path, keys[row], *chain) for row in given]
        records = attributes_of.many(paths, oids[is_end], attributes[is_end], Failed)
        return dict(zip(given, records, strict=False))
