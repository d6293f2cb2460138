"""Where the results of a policy are, and which nodes or records there carry stamps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from lotdb import BaseNode

from ._items import node_path
from ._missing import Sought
from ._nodes import connection_of, find, has_changes, top_of
from ._stage import check_open, check_root
from ._stamps import INPUTS, STAMPS, VERSION
from .errors import ArgumentError, ArgumentTypeError, got
from .models import NodeRecord, node_record
from .scanning import pinned_storage
from .snapshots import Taken
from .stores.lookup import stamps_of
from .stores.protocol import Store
from .traversal import walk
from .write_policies import InlineWritePolicy, Policy, has_base
from .zodb.attributes import Wanted
from .zodb.scanner import Scanner

__all__ = ["Marked", "marked_by", "stamped"]

_Path: TypeAlias = "tuple[str, ...]"


class Marked(NamedTuple):
    """The places of a policy's results.

    Args:
        above: The path of the node, in the whole tree, at which a mirrored tree of paths begins; empty for `inline`.
        base: What paths of results begin with, or for `inline` end with.
        is_inline: Which of both.
    """

    above: _Path
    base: _Path
    is_inline: bool

    def source(self, path: _Path) -> _Path | None:
        """The path of the source of a result at this place; `None` if no result is there."""
        if self.is_inline:
            return path[: -len(self.base)] if path[-len(self.base) :] == self.base else None
        start = self.above + self.base
        return path[len(start) :] if path[: len(start)] == start else None


def marked_by(name: str, policy: Policy, target: BaseNode | Store) -> Marked:
    """Where the results of a policy are; refused where that can't be told."""
    if not isinstance(target, Store):
        check_root(name, target, "a lotdb node or a store")
    if not callable(policy):
        raise ArgumentTypeError(f"{name}: policy", expected="inline(...), mirror(...) or fresh(...)", got=got(policy))
    if not has_base(policy):
        raise ArgumentError(
            f"{name}: policy",
            expected="inline(...), mirror(...) or fresh(...) with a base",
            got=got(policy),
            hint="by the base its results are told from those of other jobs: inline('_proc', 'f0')",
        )
    is_inline = isinstance(policy, InlineWritePolicy)
    above = () if is_inline or isinstance(target, Store) else node_path(target)
    return Marked(above, policy.base_path, is_inline)  # type: ignore[attr-defined]


def stamped(name: str, target: BaseNode | Store, marked: Marked) -> tuple[Iterator[NodeRecord], Callable[[], object]]:
    """What carries stamps in these places and below them, in the order of paths; and what lets go of the database."""
    if isinstance(target, Store):
        return _stamped_in_store(target, marked), bool
    check_open(name, target)
    connection = connection_of(target)
    start = top_of(target) if marked.is_inline else find(target, marked.base)
    if start is None:
        return iter(()), bool
    if connection is None or start._p_oid is None or has_changes(connection):
        return _with_stamps(_live(start, marked)), bool
    storage = pinned_storage(name, start, "error")
    # Where a key comes twice in the base, a part of it may lead to a result, too.
    chain = marked.base if marked.is_inline and len(set(marked.base)) == len(marked.base) else ()
    wanted = Wanted(Taken(STAMPS), among=_among(marked), chain=chain)
    found = Scanner(storage, wanted, sought=Sought(name, ())).records(start._p_oid)
    return _with_stamps(found), storage.close


def _among(marked: Marked) -> Callable[[_Path, str], bool]:
    """Whether a node is, or is below, a place of a result."""
    if not marked.is_inline:
        return lambda above, key: True
    *heads, last = marked.base
    size = len(heads)

    @lru_cache(maxsize=1024)  # siblings have one path above them
    def seen(above: _Path) -> tuple[bool, bool]:
        places = range(len(above) - size)
        below = any(above[place : place + size + 1] == marked.base for place in places)
        return below, list(above[len(above) - size :]) == heads

    def among(above: _Path, key: str) -> bool:
        below, ends = seen(above)
        return below or (ends and key == last)

    return among


def _live(start: BaseNode, marked: Marked) -> Iterator[NodeRecord]:
    among, above = _among(marked), node_path(start)
    for node in walk(start):
        path = above + node_path(node, start)
        if path and among(path[:-1], path[-1]):
            yield node_record(path, path[-1], {name: node.get_attribute(name, None) for name in STAMPS}, None)


def _stamped_in_store(store: Store, marked: Marked) -> Iterator[NodeRecord]:
    among = _among(marked)
    found = []
    for entry in store.records():
        path = tuple(entry.path)
        if path and (among(path[:-1], path[-1]) if marked.is_inline else marked.source(path) is not None):
            stamps = stamps_of(entry)
            if stamps:
                found.append((path, stamps))
    for path, stamps in sorted(found, key=itemgetter(0)):
        yield node_record(path, path[-1], {name: stamps.get(name) for name in STAMPS}, None)


def _with_stamps(records: Iterable[NodeRecord]) -> Iterator[NodeRecord]:
    for record in records:
        stamps = record.attributes
        if isinstance(stamps[VERSION], str) or isinstance(stamps[INPUTS], str):
            yield record
