"""The children of branches, window by window, without those that are skipped or out of bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, count
from typing import Any

from lotdb import BaseNode

from .._jar import RecordJar, checked_node, damaged, unreadable
from ..errors import LotprocError
from .attributes import Wanted
from .bounds import UNBOUND, Bounds, chosen
from .branches import Branch
from .listing import listed_together
from .pinned import PinnedStorage
from .records import Children, children_in

__all__ = ["NO_WINDOWS", "ChildReader"]

#: Children that are read together: at first few, so that the first record comes soon.
FIRST_WINDOW = 32
#: Keys of which it is remembered whether they are skipped.
KEYS_TESTED = 1024

NO_WINDOWS: Iterator[Any] = iter(())


class ChildReader:
    """Lists the children of branches.

    Args:
        storage: The records, at one transaction.
        jar: What loads objects from them.
        wanted: What the scan gives.
    """

    def __init__(self, storage: PinnedStorage, jar: RecordJar, wanted: Wanted) -> None:
        self._storage = storage
        self._jar = jar
        #: The test of keys of branches to skip, of which many are the same.
        self.skips = None if wanted.skip_key is None else lru_cache(KEYS_TESTED)(wanted.skip_key)
        self._skip_node = wanted.skip_node
        #: Nodes that lie in sibling databases, by ids that stand for them among those of this one.
        self.elsewhere: dict[bytes, BaseNode] = {}
        #: How many children there are in a window, about.
        self.window = FIRST_WINDOW
        self._stand_ins = count(2**64 - 1, -1)  # as no storage gives them

    def next_window(self, branch: Branch) -> Children | None:
        """The children in a branch's next window."""
        children, branch.listed = branch.listed, None
        if children is not None and len(children.keys) < self.window:
            if branch.bounds != UNBOUND:
                children = branch.bounds.within(children)
            branch.windows = NO_WINDOWS
            return children if children.keys else None
        if branch.windows is None:
            branch.windows = self._windows(self._parts(branch), branch.bounds)
        return next(branch.windows, None)

    def list_together(self, branches: Iterable[Branch], most: int) -> None:
        """List the children of as many of these branches as are decoded together."""
        listed = listed_together((branch.tree for branch in branches), most, self._storage)
        for branch, children in zip(branches, listed, strict=False):
            branch.listed, branch.is_looked_at = children, True

    def begin(self, branch: Branch) -> bool:
        """Begin to list the children of a branch; tell whether it has any that exist for this scan."""
        if self.skips is None and self._skip_node is None:
            return True
        parts = map(self._not_skipped, self._parts(branch))
        first = next((part for part in parts if part.keys), None)
        if first is None:
            return False
        branch.windows, branch.is_looked_at = self._windows(chain([first], parts), branch.bounds), True
        return True

    def _windows(self, parts: Iterable[Children], bounds: Bounds) -> Iterator[Children]:
        """The same children in windows, as far as they are within bounds.

        None is larger, so that the first record, which comes of a small one, comes in half the time.
        """
        keys: list[str] = []
        oids: list[bytes] = []
        for part in parts if bounds == UNBOUND else map(bounds.within, parts):
            keys += part.keys
            oids += part.oids
            start = 0
            while len(keys) - start >= self.window:
                stop = start + self.window
                yield Children(keys[start:stop], oids[start:stop])
                start = stop
            keys, oids = keys[start:], oids[start:]
        if keys:
            yield Children(keys, oids)

    def _parts(self, branch: Branch) -> Iterator[Children]:
        given = 0
        try:
            for part in children_in(branch.tree, self._storage):
                yield part
                given += len(part.keys)
            return
        except LotprocError:
            raise
        except Exception:  # not what lotdb makes; the class of the tree may know it
            tree = self.node(branch.oid).node_storage
        try:
            items = [(str(key), self._id_of(child)) for key in tree if (child := tree.get(key)) is not None][given:]
        except (AttributeError, TypeError) as error:
            raise unreadable(branch.oid, error) from error
        if any(len(oid) != 8 for _, oid in items):
            raise damaged(branch.oid, "has a child with an id that can't be one")
        yield Children([key for key, _ in items], [oid for _, oid in items])

    def _id_of(self, child: BaseNode) -> bytes:
        """The id of a child; or what stands for it, if it lies in another database, where ids are other ones."""
        if child._p_jar is self._jar:
            oid: bytes = child._p_oid
            return oid
        stand_in = next(self._stand_ins).to_bytes(8, "big")
        self.elsewhere[stand_in] = child
        return stand_in

    def _not_skipped(self, children: Children) -> Children:
        skip_key, skip_node = self.skips, self._skip_node
        return chosen(
            children,
            lambda key, oid: not (skip_key and skip_key(key)) and not (skip_node and skip_node(self.node(oid))),
        )

    def node(self, oid: bytes) -> BaseNode:
        """A node as an object of its class, loaded from the records."""
        return checked_node(oid, self.elsewhere[oid]) if oid in self.elsewhere else self._jar.node(oid)
