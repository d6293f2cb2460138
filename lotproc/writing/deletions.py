"""What is deleted from, between two commits: a tree in memory, a tree in a database, or a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

from lotdb import BaseNode

from .._interrupts import uninterrupted
from .._nodes import connection_of, find, top_of
from ..stores.protocol import Store
from .conflicts import DatabaseTree
from .options import Options
from .progress import Done, Progress, Target
from .transactions import Changes, undone_on_failure
from .zarr_folders import remove_zarr, zarr_arrays

__all__ = ["opened"]

_Path: TypeAlias = "tuple[str, ...]"


def opened(
    target: BaseNode | Store, commit_every: int | None, progress: Progress
) -> AbstractContextManager[Target[list[_Path]]]:
    """A tree or a store as what paths are deleted from, those of trees from the top of the whole tree on."""
    if isinstance(target, Store):
        return _at_the_end(_StoredRecords(target, commit_every, progress))
    top = top_of(target)
    if connection_of(top) is None:
        return _at_the_end(_NodesInMemory(top, progress))
    return _opened_tree(top, commit_every, progress)


@contextmanager
def _at_the_end(target: Target[list[_Path]]) -> Iterator[Target[list[_Path]]]:
    yield target


@contextmanager
def _opened_tree(top: BaseNode, commit_every: int | None, progress: Progress) -> Iterator[Target[list[_Path]]]:
    tree: _StoredNodes | None = None
    try:
        with undone_on_failure(top) as changes:
            tree = _StoredNodes(top, commit_every, progress, changes)
            yield tree
    finally:
        if tree is not None:
            tree.remove_arrays()


class _StoredNodes(DatabaseTree):
    """The nodes of a tree in a database."""

    counted = ("deleted", "absent")

    def __init__(self, top: BaseNode, commit_every: int | None, progress: Progress, changes: Changes) -> None:
        self._deleted: list[_Path] = []  # zarr arrays whose nodes were deleted since the last commit
        self._committed: list[_Path] = []  # those before it
        super().__init__(top, Options("delete", commit_every, if_missing="error"), progress, changes)

    def _begin(self) -> None:
        self._committed += self._deleted
        super()._begin()

    def _open(self) -> None:
        self._deleted = []
        super()._open()

    def _write(self, batch: list[_Path]) -> None:
        self._count(_delete(self._root, batch, self._find_arrays))

    def _find_arrays(self, node: BaseNode) -> None:
        self._deleted += zarr_arrays(node, self._connection)

    def finish(self) -> None:
        super().finish()
        if self._deleted:  # the caller commits
            self._transactions.get().addAfterCommitHook(_removed, (self._connection, self._deleted))

    def remove_arrays(self) -> None:
        """Remove the zarr arrays whose nodes are gone from the database."""
        remove_zarr(self._connection, self._committed)


def _removed(is_committed: bool, connection: Any, arrays: list[_Path]) -> None:
    if is_committed:
        remove_zarr(connection, arrays)


def _delete(top: BaseNode, batch: Iterable[_Path], met: Callable[[BaseNode], object] | None = None) -> Done:
    deleted, absent, last_path = 0, 0, None
    for path in batch:
        parent = find(top, path[:-1])
        node = None if parent is None else parent.node_storage.get(path[-1])
        if parent is None or node is None:
            absent += 1
            continue
        if met is not None:
            met(node)
        del parent.node_storage[path[-1]]
        deleted, last_path = deleted + 1, path
    return Done(deleted, absent, last_path)


class _NodesInMemory:
    """The nodes of a tree in memory, which go when all items have come."""

    def __init__(self, top: BaseNode, progress: Progress) -> None:
        self._top, self._progress = top, progress
        self.commit_every: int | None = None
        self._paths: list[_Path] = []

    def take(self, batch: list[_Path]) -> None:
        self._paths += batch

    def commit(self) -> None:
        """Nothing is committed in memory."""

    def finish(self) -> None:
        self._progress.add(_delete(self._top, self._paths))
        self._progress.finish()


class _StoredRecords:
    """The records of a store, which go when all items have come: what is below a path is found by a look at all."""

    def __init__(self, store: Store, commit_every: int | None, progress: Progress) -> None:
        self._store, self._progress = store, progress
        self._every = commit_every or store.commits_every
        self.commit_every: int | None = None
        self._batches: list[list[_Path]] = []

    def take(self, batch: list[_Path]) -> None:
        self._batches.append(batch)

    def commit(self) -> None:
        """It commits when all items have come."""

    def finish(self) -> None:
        records: dict[_Path, list[_Path]] = {path: [] for batch in self._batches for path in batch}
        for path in self._store.paths():
            for depth in range(1, len(path) + 1):
                if path[:depth] in records:
                    records[path[:depth]].append(path)
        gone: set[_Path] = set()
        going: list[_Path] = []
        done = Done()
        for batch in self._batches:
            for path in batch:
                found = [each for each in records.pop(path, ()) if each not in gone]  # none for one that comes again
                gone.update(found)
                going += found
                done = done.and_then(Done(1, 0, path) if found else Done(skipped=1))
            if self._every is not None and done.written >= self._every:
                self._delete(going, done)
                going, done = [], Done()
        self._delete(going, done)

    def _delete(self, going: list[_Path], done: Done) -> None:
        with uninterrupted():
            if going:
                self._store.delete_many(going)
            self._progress.add(done)
            if going:
                self._progress.commit()
