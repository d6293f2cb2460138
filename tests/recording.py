"""What the tests of processing and writing share: sources and executors that keep a record, and trees as dicts."""

from __future__ import annotations

import importlib.util
import os
import pickle
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

from hypothesis import settings
from lotdb import LOTDB, BaseNode

import lotproc as lp

Path = tuple[str, ...]
Tree = dict[Path, dict[str, Any]]

#: Examples of a law that says nothing else, in a thorough run.
THOROUGH = 40


def examples(most: int) -> int:
    """How many examples of a law are tried: so many in a thorough run, and else their share of what the profile has."""
    return most * settings.default.max_examples // THOROUGH


def open_files() -> Counter[str]:
    """The files and folders that this process holds open; pipes are of worker processes, which come and go.

    Compare as `not open_files() - before`: what an earlier test forgot may close meanwhile."""
    found = []
    for number in os.listdir("/dev/fd"):
        with suppress(OSError):  # that of the listing itself
            found.append(os.readlink(f"/dev/fd/{number}"))
    return Counter(path for path in found if path.startswith("/") and not path.startswith("/dev/"))


class Source:
    """An iterator that counts what is pulled from it, notices when it is closed, and may end in an error."""

    def __init__(self, items: Iterable[Any], error: BaseException | None = None) -> None:
        self.items = iter(items)
        self.error = error
        self.pulled = 0
        self.closed = False

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Any:
        for item in self.items:
            self.pulled += 1
            return item
        if self.error is not None:
            raise self.error
        raise StopIteration

    def close(self) -> None:
        self.closed = True


class InlineExecutor:
    """The least an executor can be: `submit` alone, which does the work at once, and how many workers it has."""

    max_workers = 2

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class HeldExecutor:
    """Holds every call back until the test releases it."""

    max_workers = 2

    def __init__(self) -> None:
        self.held: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        self.held.append((Future(), fn, args))
        return self.held[-1][0]

    def release(self, index: int) -> None:
        future, fn, args = self.held[index]
        future.set_result(fn(*args))


@contextmanager
def database(**options: Any) -> Iterator[LOTDB]:
    """A database in a file, in a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        db = LOTDB(path=directory, name="test.fs", new=True, **options)
        try:
            yield db
        finally:
            db.close()


#: Where results may be written to, as `target_at` opens it.
PLACES = ["memory", "database", "uncommitted", "directory"]
if importlib.util.find_spec("lmdb") is not None:
    PLACES.append("lmdb")


def target_at(place: str, db: LOTDB, folder: str) -> Any:
    """A target at one of the places: a tree in memory, that of a database, or a store in a folder."""
    if place in ("database", "uncommitted"):
        return db.open_connection()
    if place == "directory":
        return lp.DirectoryStore(folder)
    return lp.LmdbStore(f"{folder}/store.lmdb") if place == "lmdb" else BaseNode("root")


def contents(root: BaseNode) -> Tree:
    """All nodes below and including the root, with their attributes. Reads what is there and nothing else."""
    tree: Tree = {}
    waiting: list[tuple[Path, BaseNode]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        tree[path] = dict(node.attribute_storage.items())
        waiting += [((*path, key), child) for key, child in node.node_storage.items()]
    return tree


def committed(db: LOTDB) -> Tree:
    """What a connection of its own sees."""
    root = db.open_connection(connection_id="fresh look")
    try:
        return contents(root)
    finally:
        db.close_connection("fresh look")


def in_bytes(tree: Tree) -> dict[Path, dict[str, bytes]]:
    """The tree with every value as its bytes."""
    return {path: {name: pickle.dumps(value) for name, value in values.items()} for path, values in tree.items()}


def plant(root: BaseNode, tree: Tree) -> None:
    """Make the nodes of a tree below the root."""
    for path, attributes in tree.items():
        node = root.get_node_path(path)
        for name, value in attributes.items():
            node.set_attribute(name, value)
