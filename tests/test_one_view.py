"""Whatever reads a tree sees what the root's connection sees: on every storage, after every kind of commit."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import LOTDB, BaseNode, PathFileObj, add_blob
from test_several_writers import server
from toolz import concat
from transaction import TransactionManager
from trees import exactly, opened, scanned_live
from view_writer import CHANGES, CLIPS, change, clip, relational
from ZEO.ClientStorage import ClientStorage
from ZODB.blob import BlobStorage
from ZODB.DB import DB
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSError
from ZODB.tests.MVCCMappingStorage import MVCCMappingStorage

import lotproc as lp
from lotproc import _bulk

values = count(1)


@dataclass
class World:
    """A database that is read by one connection and written by it, by another one, and by another program.

    Args:
        root: The tree of the connection that reads.
        other: The same of another connection.
        program: Another program that writes, where the storage takes one.
        keeps_all: Whether the storage has records as they were.
        undoes: Whether it undoes transactions.
        is_file: Whether it is a file that can be parted.
    """

    root: BaseNode
    other: BaseNode
    program: subprocess.Popen[str] | None
    keeps_all: bool = True
    undoes: bool = False
    is_file: bool = False
    undoable: int = 0
    behind: bool = False  # whether others have committed since the reader's view began
    packed: bool = False  # whether the database was packed since

    @property
    def db(self) -> Any:
        return self.root._p_jar.db()

    @property
    def gone(self) -> bool:
        """Whether what the reader sees may be gone from the storage."""
        return self.behind and (self.packed or not self.keeps_all)

    def step(self, who: str, what: str, number: int) -> None:
        """Make a commit, or more than one."""
        if what == "pack":
            self.db.pack(time.time() + 1)
            self.undoable = 0
            self.packed = True
            return
        if what == "undo":
            if self.undoes and self.undoable:
                manager = TransactionManager()
                with closing(self.db.open(manager)) as connection:
                    (last,) = connection._normal_storage.undoLog(0, 1)
                    self.db.undo(last["id"], manager.get())
                    manager.commit()
                self.behind = True
            return
        if who == "own":
            self.move_view()
        else:
            self.behind = True
        value = next(values)
        self.undoable += 1
        if who == "program" and self.program is not None:
            assert self.program.stdin is not None
            assert self.program.stdout is not None
            print(what, number, value, sep=",", file=self.program.stdin, flush=True)
            assert self.program.stdout.readline() == "done\n"
        else:
            change(self.root if who == "own" else self.other, what, number, value)

    def move_view(self) -> None:
        self.root._p_jar.transaction_manager.abort()
        self.root._p_jar.sync()
        self.behind = self.packed = False


def loop(root: BaseNode) -> list[tuple[tuple[str, ...], Any]]:
    """The leaves as a plain loop finds them."""
    found = []
    stack: list[tuple[tuple[str, ...], BaseNode]] = [((), root)]
    while stack:
        path, node = stack.pop()
        if node.node_storage:
            stack += [((*path, key), child) for key, child in reversed(list(node.node_storage.items()))]
        else:
            found.append((path, node.get_attribute("v", None)))
    return found


def check(world: World) -> None:
    """All that reads gives what a plain loop over the connection's nodes finds, if that is still to be had."""
    root = world.root
    try:
        scanned = list(lp.scan("v", root))
        waiting = list(lp.scan("v", root, skip="_*"))
        policy = lp.inline("_p")
        left = {version: list(lp.pending(policy, root, waiting, version=version)) for version in (None, "1")}
    except lp.LotprocError as error:
        assert world.gone, error
        assert "transaction" in str(error)
        return
    root._p_jar.cacheMinimize()
    try:
        found = loop(root)
        assert [exactly(record) for record in scanned] == scanned_live("v", root)
    except POSError as error:
        assert world.gone, error
        return
    assert [(record.path, record.attributes["v"]) for record in scanned] == found
    for version, records in left.items():
        results = {record.path: root.gns(record.path).node_storage.get("_p") for record in waiting}
        assert records == [
            record
            for record in waiting
            if (result := results[record.path]) is None
            or (version is not None and result.get_attribute("_version", None) != version)
        ]
    if world.is_file:
        parts = lp.partitions(2, root)
        assert list(concat(lp.scan("v", part) for part in parts)) == scanned


@contextmanager
def world_of(storage: Any, command: list[Any] | None = None, **about: Any) -> Iterator[World]:
    with ExitStack() as stack:
        root = stack.enter_context(opened(storage))
        connection = stack.enter_context(closing(root._p_jar.db().open(TransactionManager())))
        program = None
        if command is not None:
            program = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "view_writer.py"), *map(str, command)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(program.communicate)
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        yield World(root, connection.root.stt, program, **about)
        connection.transaction_manager.abort()


def in_file(folder: Path) -> Any:
    return world_of(FileStorage(str(folder / "data.fs"), blob_dir=str(folder / "blobs")), undoes=True, is_file=True)


def in_wrapped_file(folder: Path) -> Any:
    return world_of(BlobStorage(str(folder / "blobs"), FileStorage(str(folder / "data.fs"))), undoes=True, is_file=True)


def in_memory(folder: Path) -> Any:
    return world_of(MappingStorage())


def in_demo(folder: Path) -> Any:
    return world_of(DemoStorage(base=FileStorage(str(folder / "base.fs"))))


def in_views(folder: Path) -> Any:
    return world_of(MVCCMappingStorage())


@contextmanager
def on_server(folder: Path) -> Iterator[World]:
    with server(folder) as (port, _):
        storage = ClientStorage(("127.0.0.1", port), wait_timeout=100)
        with world_of(storage, ["zeo", port], undoes=True) as world:
            yield world


def in_rows(folder: Path) -> Any:
    return world_of(relational(folder, history=True), ["history", folder], undoes=True)


def in_rows_without_history(folder: Path) -> Any:
    return world_of(relational(folder, history=False), ["no history", folder], keeps_all=False)


WORLDS: list[Callable[[Path], Any]] = [
    *(in_file, in_wrapped_file, in_memory, in_demo, in_views, on_server, in_rows, in_rows_without_history),
]


@pytest.fixture(scope="module", params=WORLDS, ids=lambda make: make.__name__)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        mock.patch.object(_bulk, "MANY", 3),
        request.param(tmp_path_factory.mktemp(request.param.__name__)) as world,
    ):
        yield world


steps = st.tuples(
    st.sampled_from(["own", "other", "program"]),
    st.sampled_from([*CHANGES, "undo", "pack"]),
    st.integers(0, CLIPS - 1),
)


@settings(max_examples=10)
@given(steps=st.lists(st.tuples(steps, st.booleans()), min_size=3, max_size=8))
def test_all_that_reads_sees_what_the_connection_sees(world: World, steps: Any) -> None:
    world.move_view()
    root = world.root
    for key in list(root.node_storage):
        root.delete_node(key)
    for number in range(CLIPS):
        root.gns(clip(number)).set_attribute("v", -number)
    root._p_jar.transaction_manager.commit()
    world.undoable = 0
    check(world)
    for step, moves in steps:
        world.step(*step)
        check(world)
        if moves:
            world.move_view()
            check(world)
