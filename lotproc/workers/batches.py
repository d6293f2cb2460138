"""What a batch is made of: for messages that name it, and for running a part of it again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .._nodes import path_of
from ..errors import ArgumentTypeError, as_text, got
from ..models import Partition
from ..zodb.places import opened_partition
from ..zodb.scanner import Scanner, Wanted

__all__ = ["Units", "is_divisible", "span", "units_of", "where"]

_Path = tuple[str, ...]


class Units:
    """The least parts of a batch that can be processed by themselves: its records.

    This one is for a batch that has no parts.
    """

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return 1

    def batch(self, start: int, stop: int) -> Any:
        """A batch of some of the units."""
        return self._batch

    def named(self, index: int) -> tuple[_Path | None, str]:
        """The path of a unit; or `None`, and what it is."""
        return named(self._batch)


class _Records(Units):
    """Those of a list or a tuple."""

    def __len__(self) -> int:
        return len(self._batch)

    def batch(self, start: int, stop: int) -> Any:
        return self._batch[start:stop]

    def named(self, index: int) -> tuple[_Path | None, str]:
        return named(self._batch[index])


class _Nodes(Units):
    """Those of a partition: parts of it that have one node each, which a scan may give or not."""

    def __init__(self, partition: Partition) -> None:
        super().__init__(partition)
        self._top, self._below = _nodes_of(partition)

    def __len__(self) -> int:
        return len(self._below)

    def batch(self, start: int, stop: int) -> Any:
        part: Partition = self._batch
        if start:
            part = replace(part, start=self._below[start])
        return part if stop == len(self) else replace(part, stop=self._below[stop])

    def named(self, index: int) -> tuple[_Path | None, str]:
        return (*self._top, *self._below[index]), ""


def is_divisible(batch: object) -> bool:
    """Whether it is a batch of records, and not something that is one unit as a whole."""
    return (type(batch) in (list, tuple) and bool(batch)) or isinstance(batch, Partition)


def units_of(batch: Any) -> Units:
    """The parts of a batch that can be processed by themselves."""
    if not is_divisible(batch):
        return Units(batch)
    if not isinstance(batch, Partition):
        return _Records(batch)
    try:
        nodes = _Nodes(batch)
    except Exception:  # whatever keeps it from being read keeps it from being divided
        return Units(batch)
    return nodes if len(nodes) else Units(batch)


def _nodes_of(partition: Partition) -> tuple[_Path, list[_Path]]:
    """The path of the root of a partition's tree, and the paths below it of all nodes in the partition.

    They are the leaves from its start on, each behind those of its parents that did not come yet.
    """
    scanner = Scanner(opened_partition("parallel_map", partition), Wanted())
    top = scanner.path_of(partition.root)
    nodes: list[_Path] = []
    before: _Path | None = None
    for record in scanner.records(partition.root, partition.start):
        leaf = record.path[len(top) :]
        for depth in range(len(leaf) + 1):
            path = leaf[:depth]
            is_new = before is None or before[:depth] != path
            if is_new and path >= partition.start and (not partition.stop or path < partition.stop):
                nodes.append(path)
        if partition.stop and leaf >= partition.stop:
            break
        before = leaf
    return top, nodes


def named(item: Any) -> tuple[_Path | None, str]:
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
