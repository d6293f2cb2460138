"""`delete`: nodes, and records of stores, removed with all below them, in whole batches, and reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, overload

from lotdb import BaseNode

from .._items import no_item, node_path, path_of
from .._nodes import top_of
from .._stage import check_count, check_root, stage
from ..errors import ArgumentError, ArgumentTypeError, ReadOnlyStoreError, as_text, got
from ..models import Failure, ProcessResult, WriteReport
from ..stores.protocol import Store
from .deletions import opened
from .progress import Progress, apply_batches, reported
from .transactions import check_writable

__all__ = ["delete"]

_Path: TypeAlias = "tuple[str, ...]"


@overload
def delete(target: BaseNode | Store, items: Iterable[Any], *, commit_every: int | None = None) -> WriteReport: ...
@overload
def delete(target: BaseNode | Store, *, commit_every: int | None = None) -> Callable[[Iterable[Any]], WriteReport]: ...
@stage("items")
def delete(target: BaseNode | Store, *, commit_every: int | None = None) -> Callable[[Iterable[Any]], WriteReport]:
    """Delete the nodes at the paths of some items, with all below them; or the records of a store.

    >>> from lotdb import BaseNode
    >>> from lotproc import delete, leaves
    >>> root = BaseNode("root")
    >>> for path in (["ann", "clip_1"], ["ann", "clip_2"], ["bob", "clip_1"]):
    ...     _ = root.gns(path)
    >>> print(delete(root, [("ann", "clip_2"), ("bob",), ("carl",)]))
    2 nodes deleted, 1 absent, not committed
    >>> [node.gps() for node in leaves(root)]
    [['ann', 'clip_1']]

    `list(items)` says beforehand what would be deleted.

    The items may come from a walk or a scan of the same tree: a walk passes over what is gone, and a scan reads the
    tree as it was when it was called. A `delete` that fails leaves no trace, and conflicts with others who commit are
    handled, as `write` does both. A store's records are deleted after the last item has come.

    Payloads go along. Blobs belong to the transaction, and packing the database frees their files. The folders of zarr
    arrays beside the database are removed once the commit that deletes their nodes is done, also where the caller
    commits, and only those to which nothing else in the database refers, which copies of a node do; to know that, all
    of the database is read once.

    Args:
        target: A node: the root, or one below which all items lie. Or a store that can delete.
        items: Live nodes, records, or paths, which are tuples of keys: those of trees from below the root of the whole
            tree down, as those of records are. One by one, or in lists, each of which is a batch: it is deleted as a
            whole, or not at all. A `Failure` among them is counted, and kept in the report.
        commit_every: Commit as soon as this many nodes are deleted and their batch is whole, and at the end. `None`:
            the caller commits; a store, which has no other way, when it suits it.

    Returns:
        A `WriteReport`. Its `deleted` counts the nodes that were deleted, each with all below it, `absent` the paths at
        which there was nothing. What is at or below another item of its batch, or of the last one before, counts with
        that. Not lazy; pulls all items. It holds one batch; with `commit_every` the paths since the last commit, up to
        10,000; for a tree in memory and for a store all paths. For the connection's thread only.

    Raises:
        ArgumentError: `commit_every` is less than 1, or `target` a tree in memory that has none; an item is `target`
            itself, lies outside of it, or is a node of another tree.
        ArgumentTypeError: `target` is neither a node nor a store; or an item has no path, or is a `ProcessResult`,
            whose path is that of its source.
        ReadOnlyTreeError, ReadOnlyStoreError: Nothing can be deleted there.
        UncommittedError, ConflictError, OSError: As `write` raises them.
    """
    if not isinstance(target, Store):
        check_root("delete", target, "a lotdb node or a store")
        check_writable("delete", target, commit_every)
    else:
        if commit_every is not None:
            check_count("delete", "commit_every", commit_every)
        if not target.can_delete:
            raise ReadOnlyStoreError(f"delete: nothing can be deleted from {target!r}", hint="copy what is to stay")

    def run(items: Iterable[Any]) -> WriteReport:
        if isinstance(items, (str, bytes)):
            raise _no_path(items)
        progress = Progress(repr(target) if isinstance(target, Store) else "the database", deletes=True)
        batches = _batches(items, _Paths(target), progress)
        return reported(lambda: apply_batches(batches, opened(target, commit_every, progress), progress), progress)

    return run


# From items to paths


class _Paths:
    """Gives the path of an item below the top of the target's tree, and refuses what is not below the target."""

    def __init__(self, target: BaseNode | Store) -> None:
        self._target = target
        self._top = None if isinstance(target, Store) else top_of(target)
        self._above: _Path = () if isinstance(target, Store) else node_path(target)

    def of(self, item: Any) -> _Path:
        if isinstance(item, tuple) and not hasattr(item, "path"):
            path: tuple[Any, ...] = item
        elif isinstance(item, (ProcessResult, str, bytes)):
            raise _no_path(item)
        else:
            if isinstance(item, BaseNode) and self._top is not None and not _is_same(top_of(item), self._top):
                raise ArgumentError("delete: the node", "is one of another tree", path=node_path(item))
            path = path_of("delete", item)
        if not all(isinstance(key, str) for key in path):
            raise ArgumentTypeError("delete: a path", expected="a tuple of str", got=got(path))
        path = tuple(map(str.__str__, path))
        if path == self._above:
            raise ArgumentError(
                f"delete: {self._target!r} itself is among the items", hint="give what lies below it, or its parent"
            )
        if path[: len(self._above)] != self._above:
            raise ArgumentError(
                "delete: the item",
                f"is not below the node {as_text(self._above)}, which was given",
                path=path,
                hint="paths begin below the root of the whole tree",
            )
        return path


def _no_path(item: object) -> ArgumentTypeError:
    hint = "a path is a tuple of keys, and paths come in a list: [('ann', 'clip_1')]"
    if isinstance(item, ProcessResult):
        hint = "a result's path is that of its source; give where it went, as plan(...) says"
    return ArgumentTypeError("delete:", expected="a node, a record or a path", got=got(item), hint=hint)


def _is_same(one: BaseNode, other: BaseNode) -> bool:
    """Whether two are one node, seen through one connection or through two."""
    if one is other:
        return True
    mine, others = one._p_jar, other._p_jar
    return mine is not None and others is not None and mine.db() is others.db() and one._p_oid == other._p_oid


def _batches(items: Iterable[Any], paths: _Paths, progress: Progress) -> Iterator[list[_Path]]:
    """The paths of each batch, sorted, without those that are at or below others, or below the last one before."""
    last: _Path | None = None
    for item in items:
        found, failures = [], []
        for each in _flat(item):
            if isinstance(each, Failure):
                failures.append(each)
            else:
                found.append(paths.of(each))
        progress.note(failures)
        batch = []
        for path in sorted(found):
            if last is None or path[: len(last)] != last:
                batch.append(path)
                last = path
        yield batch


def _flat(item: Any) -> Iterator[Any]:
    """The items of a batch, however deep they are nested; a tuple of keys is one of them, and so is an empty one."""
    waiting = [iter((item,))]
    while waiting:
        item = next(waiting[-1], waiting)
        if item is waiting:
            waiting.pop()
        elif hasattr(item, "path") or isinstance(item, (BaseNode, str, bytes)) or _is_path(item):
            yield item
        elif isinstance(item, Iterable) and not isinstance(item, Mapping):
            waiting.append(iter(item))
        else:
            raise no_item("delete", item, "a node, a record or a path")


def _is_path(item: Any) -> bool:
    return isinstance(item, tuple) and (not item or isinstance(item[0], str))
