"""What a batch is made of: what may be in one, the records that can be run alone, its halves, its name in messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from .._fast import FAST
from .._is_node import is_node
from .._items import path_of
from ..errors import ArgumentTypeError, LiveNodeError, as_text, got
from ..models import NodeRecord, Partition, ProcessResult

if TYPE_CHECKING:
    from lotdb import BaseNode

__all__ = ["Unit", "detached", "halves", "is_divisible", "named", "span", "units_of", "where"]

#: Types that are no nodes and hold none.
_PLAIN = {type(None), bool, int, float, str, bytes}


class Unit(NamedTuple):
    """The least part of a batch that can be processed by itself.

    Args:
        batch: It, as a batch.
        item: What it is named by: its record, or the whole batch where that can't be divided.
    """

    batch: Any
    item: Any


def is_divisible(batch: object) -> bool:
    """Whether it is a batch of records, and not something that is one unit as a whole."""
    return (type(batch) in (list, tuple) and bool(batch)) or isinstance(batch, Partition)


def units_of(batch: Any) -> list[Unit]:
    """The parts of a batch that can be processed by themselves: its records, or the nodes of a partition."""
    if isinstance(batch, Partition):
        try:
            nodes = _nodes_of(batch)
        except Exception:  # whatever keeps it from being read keeps it from being divided
            nodes = []
        return nodes or [Unit(batch, batch)]
    if not is_divisible(batch):
        return [Unit(batch, batch)]
    return [Unit(batch[index : index + 1], record) for index, record in enumerate(batch)]


def halves(batch: Any, units: list[Unit]) -> tuple[Any, Any]:
    """A batch in two, between its units."""
    middle = len(units) // 2
    if isinstance(batch, Partition):
        border = units[middle].batch.start
        return replace(batch, stop=border), replace(batch, start=border)
    return batch[:middle], batch[middle:]


def _nodes_of(partition: Partition) -> list[Unit]:
    """Parts of a partition that have one node each, which a scan may give or not.

    The nodes are the leaves from its start on, each behind those of its parents that did not come yet.
    """
    # Here, since it is a seventh of what a worker loads at its start.
    from ..zodb.bounds import Bounds
    from ..zodb.places import opened_place
    from ..zodb.scanner import Scanner

    scanner = Scanner(opened_place("parallel_map", partition))
    top = scanner.path_of(partition.root)
    nodes: list[tuple[str, ...]] = []
    before: tuple[str, ...] | None = None
    for record in scanner.records(partition.root, Bounds(partition.start)):
        leaf = record.path[len(top) :]
        for depth in range(len(leaf) + 1):
            path = leaf[:depth]
            is_new = before is None or before[:depth] != path
            if is_new and path >= partition.start and (not partition.stop or path < partition.stop):
                nodes.append(path)
        if partition.stop and leaf >= partition.stop:
            break
        before = leaf
    borders = [partition.start, *nodes[1:], partition.stop]
    return [
        Unit(replace(partition, start=start, stop=stop), NodeRecord((*top, *node), node[-1] if node else ""))
        for node, start, stop in zip(nodes, borders, borders[1:], strict=False)
    ]


def named(item: Any) -> tuple[tuple[str, ...] | None, str]:
    """The path of an item; or `None`, and what it is."""
    if isinstance(item, Partition):
        return None, f"the partition {item}"
    try:
        return path_of("each", item), ""
    except ArgumentTypeError:
        return None, got(item)


def where(item: Any) -> str:
    """An item as people read it: its path, or what it is."""
    path, what = named(item)
    return what if path is None else as_text(path)


def span(batch: Any) -> str:
    """The paths that a batch runs over, for an error."""
    if isinstance(batch, Partition):
        return f", {batch}"
    if not isinstance(batch, (list, tuple)) or not batch:
        return ""
    first, last = where(batch[0]), where(batch[-1])
    return f", {first}" if len(batch) == 1 else f", {first} to {last}"


def detached(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, if they hold no live node; iterators, which can't be sent or gone through twice, as lists.

    Raises:
        LiveNodeError: One holds such a node.
    """
    for index, batch in enumerate(batches):
        if isinstance(batch, Iterator):
            batch = list(batch)
        if (node := _live_node(batch)) is not None:
            raise LiveNodeError(
                f"parallel_map: batch {index} holds a live node",
                path=path_of("parallel_map", node),
                hint="a ZODB connection belongs to one thread, so turn nodes into records with snapshot(...) first",
            )
        yield batch


def _is_plain(record: NodeRecord) -> bool:
    """Whether a record holds nothing that could be a node or hold one."""
    return type(record.payload) in _PLAIN and _PLAIN.issuperset(map(type, record.attributes.values()))


def _live_node(value: object, levels: int = 3) -> BaseNode | None:
    """A live node in a batch: one of its items, or one level down in an item or in what a record or a result holds."""
    if is_node(value):
        return value
    if levels == 0:
        return None
    if isinstance(value, NodeRecord):
        parts: Iterable[object] = (value.payload, *value.attributes.values())
    elif isinstance(value, ProcessResult):
        parts = (value.output, *value.attributes.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    elif isinstance(value, dict):
        parts = value.values()
    else:
        return None
    for part in parts:
        if FAST and type(part) is NodeRecord and _is_plain(part):  # as most are; in half the time
            continue
        if type(part) not in _PLAIN and (node := _live_node(part, levels - 1)) is not None:
            return node
    return None
