"""Whatever reads a tree sees what the root's connection sees: on every storage, after every kind of commit."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings, strategies as st
from lotdb import LOTDB, BaseNode, PathFileObj, add_blob
from recording import examples
from servers import Postgres
from toolz import concat
from transaction import TransactionManager
from trees import Tree, exactly, opened, scanned_live, trees
from view_writer import CHANGES, CLIPS, change, clip, relational
from ZEO.ClientStorage import ClientStorage
from zeo_server import server
from ZODB.blob import BlobStorage
from ZODB.DB import DB
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSError, UndoError
from ZODB.tests.MVCCMappingStorage import MVCCMappingStorage

import lotproc as lp
from lotproc._fast import FAST
from lotproc.writing import stored_nodes as _stored_nodes
from lotproc.zodb import appending as _appending
from lotproc.zodb.pinned import PinnedFile, PinnedStorage, pinned_view
from lotproc.zodb.storages import opened_storage
from lotproc.zodb.uris import Wish

#: Not every tree here has payloads; what is told of names that no node has is held by `test_missing_names`.
pytestmark = pytest.mark.filterwarnings("ignore:.* no node had an attribute")

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
            with mock.patch.object(gc, "collect"):  # which RelStorage calls eight times in a pack
                self.db.pack(time.time() + 1)
            self.packed = True
            return
        if what == "undo":
            manager = TransactionManager()
            with closing(self.db.open(manager)) as connection:
                manager.begin()
                for last in connection._normal_storage.undoLog(0, 1) if self.undoes else ():
                    self.db.undo(last["id"], manager.get())
                    self.behind = True
                try:
                    manager.commit()
                except UndoError:  # it is older than the last pack
                    manager.abort()
            return
        if who == "own":
            self.move_view()
        else:
            self.behind = True
        value = next(values)
        if who == "program" and self.program is not None:
            assert self.program.stdin is not None
            assert self.program.stdout is not None
            print(what, number, value, sep=",", file=self.program.stdin, flush=True)
            assert self.program.stdout.readline() == "done\n"
        else:
            change(self.root if who == "own" else self.other, what, number, value)

    def move_view(self) -> None:
        self.root._p_jar.transaction_manager.begin()
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
    gone = (lp.LotprocError, POSError, OSError) if world.gone else ()
    with suppress(*gone):
        scanned = list(lp.scan("v", root))
        waiting = list(lp.scan("v", root, skip="_*"))
        left = {version: list(lp.pending(INLINE, root, waiting, version=version)) for version in (None, "1")}
        payloads = [record.payload.read() for record in lp.scan((), root, payload="data") if record.payload]
        parted = [list(lp.scan("v", part)) for part in lp.partitions(2, root)] if world.is_file else [scanned]
        root._p_jar.cacheMinimize()
        assert [(record.path, record.attributes["v"]) for record in scanned] == loop(root)
        assert [exactly(record) for record in scanned] == scanned_live("v", root)
        assert list(concat(parted)) == scanned
        blobs = [node.get_attribute("data", None) for node in lp.leaves(root)]
        assert payloads == [Path(blob.blob.committed()).read_bytes() for blob in blobs if blob is not None]
        for version, records in left.items():
            results = {record.path: root.gns(record.path).node_storage.get("_p") for record in waiting}
            assert records == [
                record
                for record in waiting
                if (result := results[record.path]) is None
                or (version is not None and result.get_attribute("_version", None) != version)
            ]


INLINE = lp.inline("_p")


@contextmanager
def world_of(storage: Any, command: list[Any] | None = None, **about: Any) -> Iterator[World]:
    with ExitStack() as stack:
        root = stack.enter_context(opened(storage))
        connection = stack.enter_context(closing(root._p_jar.db().open(TransactionManager())))
        program = None
        if command is not None:
            program = subprocess.Popen(
                [sys.executable, str(Path(__file__).parents[1] / "view_writer.py"), *map(str, command)],
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
        storage = ClientStorage(("127.0.0.1", port), wait_timeout=100, server_sync=True)
        with world_of(storage, ["zeo", port], undoes=True) as world:
            yield world


def in_rows(folder: Path) -> Any:
    return world_of(relational(folder, history=True), ["history", folder], undoes=True)


def in_rows_without_history(folder: Path) -> Any:
    return world_of(relational(folder, history=False), ["no history", folder], keeps_all=False)


@contextmanager
def in_postgres(server: Postgres, **about: Any) -> Iterator[World]:
    uri = server.uri(keep_history=str(about.get("keeps_all", True)))
    wish = Wish("test", uri, create=True, read_only=False, timeout=60)
    with wish.resources, world_of(opened_storage(wish)[0], ["uri", uri], **about) as world:
        yield world


def in_postgres_with_history(server: Postgres) -> Any:
    return in_postgres(server, undoes=True)


def in_postgres_without_history(server: Postgres) -> Any:
    return in_postgres(server, keeps_all=False)


POSTGRES: list[Callable[[Postgres], Any]] = [in_postgres_with_history, in_postgres_without_history]
WORLDS: list[Callable[[Path], Any]] = [
    *(in_file, in_wrapped_file, in_memory, in_demo, in_views, on_server, in_rows, in_rows_without_history),
]


@pytest.fixture(scope="module", params=[*WORLDS, *POSTGRES], ids=lambda make: make.__name__)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    make = request.param
    place = request.getfixturevalue("postgres_server") if make in POSTGRES else tmp_path_factory.mktemp(make.__name__)
    with mock.patch.object(_stored_nodes, "MANY", 3), make(place) as world:
        yield world


steps = st.tuples(
    st.sampled_from(["own", "other", "program"]),
    st.sampled_from([*CHANGES, "undo", "pack"]),
    st.integers(0, CLIPS - 1),
)


@example(steps=[(("program", "payload", number), True) for number in range(3)])
@settings(max_examples=4, phases=[Phase.explicit, Phase.generate])  # to make a failure shorter would take minutes
@given(steps=st.lists(st.tuples(steps, st.booleans()), min_size=3, max_size=7))
def test_all_that_reads_sees_what_the_connection_sees(world: World, steps: Any) -> None:
    world.move_view()
    root = world.root
    for key in list(root.node_storage):
        root.delete_node(key)
    for number in range(CLIPS):
        root.gns(clip(number)).set_attribute("v", -number)
    root._p_jar.transaction_manager.commit()
    check(world)
    for step, moves in steps:
        world.step(*step)
        check(world)
        if moves:
            world.move_view()
            check(world)


# --- What is opened for it is closed ---------------------------------------------------------------------------------


@contextmanager
def counted_instances(db: Any) -> Iterator[list[str]]:
    """The instances of a storage that were made and not released since; names stand for them."""
    is_open: list[str] = []
    numbers = count()
    make = db._mvcc_storage.new_instance

    def made() -> Any:
        instance, name, release = make(), f"instance {next(numbers)}", None
        release = instance.release

        def released() -> None:
            is_open.remove(name)
            release()

        instance.release = released
        is_open.append(name)
        return instance

    with mock.patch.object(db._mvcc_storage, "new_instance", made):
        yield is_open


@pytest.mark.parametrize("make", [MVCCMappingStorage, "rows"])
def test_what_was_opened_to_read_is_closed_at_every_end(make: Any, tmp_path: Path) -> None:
    storage = relational(tmp_path, history=True) if make == "rows" else make()
    with opened(storage) as root:
        for number in range(100):
            root.gns(["a", f"{number:03}"]).set_attribute("v", number)
        root._p_jar.transaction_manager.commit()

        def fails(node: BaseNode) -> Any:
            raise RuntimeError("no")

        def ways() -> Iterator[Any]:
            yield lp.scan("v", root)
            yield lp.scan("v", root, level="deepest")
            yield lp.scan("v", root, payload=fails)
            yield lp.pending(lp.inline("_p"), root, lp.scan("v", root))
            yield lp.pending(lp.inline("_p"), root, map(fails, lp.leaves(root)))

        gc.collect()
        gc.disable()  # what is dropped is closed at once, and not some day
        try:
            with counted_instances(root._p_jar.db()) as is_open:
                for items in ways():  # to the end, be it an error
                    assert is_open
                    with suppress(RuntimeError):
                        assert len(list(items)) == 100
                    assert not is_open
                for items in ways():
                    items.close()
                    assert not is_open
                for items in ways():
                    del items
                    assert not is_open
                for number, items in enumerate(ways()):
                    if number < 2:
                        next(items)
                    items.close()
                    assert not is_open
                lp.write(
                    lp.inline("_p"), root, [[lp.ProcessResult(("a", f"{n:03}"), n)] for n in range(100)], commit_every=9
                )
                assert not is_open
                with pytest.raises(lp.ArgumentError, match="later than what is read"):
                    lp.scan("v", root, since=b"\x7f" + bytes(7))
                assert not is_open
                late = lp.scan("v", root)
        finally:
            gc.enable()
    late.close()  # the database is closed by now


# --- Views that are gone ---------------------------------------------------------------------------------------------


def test_rows_that_others_wrote_over_are_told_of_and_the_next_transaction_reads_on(tmp_path: Path) -> None:
    with (
        opened(relational(tmp_path, history=False)) as root,
        closing(root._p_jar.db().open(TransactionManager())) as connection,
    ):
        for number in range(CLIPS):
            root.gns(clip(number)).set_attribute("v", number)
        lp.write(lp.inline("_p"), root, [lp.ProcessResult(clip(3), 3)], commit_every=1, version="1")
        before = lp.scan("v", root, skip="_*")
        change(connection.root.stt, "set", 5, 50)
        lp.write(lp.inline("_p"), connection.root.stt, [lp.ProcessResult(clip(3), 3)], commit_every=1, version="2")
        assert [record.attributes["v"] for record in before] == sorted(range(CLIPS), key=clip)  # opened in time
        with pytest.raises(
            lp.ArgumentError, match=r"scan: b/clip_05: .*written or removed by others.*begin a transaction"
        ) as raised:
            list(lp.scan("v", root, skip="_*"))
        assert not isinstance(raised.value, lp.DamagedDatabaseError)
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
        items = [lp.NodeRecord(clip(number), clip(number)[1]) for number in range(CLIPS)]
        with pytest.raises(lp.ArgumentError, match=r"pending: b/clip_03: .*written or removed by others"):
            list(lp.pending(lp.inline("_p"), root, items, version="1"))
        root._p_jar.transaction_manager.abort()
        assert {record.path: record.attributes["v"] for record in lp.scan("v", root, skip="_*")}[clip(5)] == 50


@pytest.mark.parametrize("make", [in_file, in_memory, in_rows])
def test_connections_to_the_past(make: Any, tmp_path: Path) -> None:
    with make(tmp_path) as world:
        root = world.root
        for number in range(CLIPS):
            change(root, "set", number, number)
        tids = sorted(
            {node._p_serial for node in lp.walk(root)} | {node.attribute_storage._p_serial for node in lp.leaves(root)}
        )
        assert len(tids) > 6
        for tid in tids[3:]:
            with closing(world.db.open(TransactionManager(), before=tid)) as past:
                old = past.root.stt
                assert [exactly(record) for record in lp.scan("v", old)] == scanned_live("v", old)
                assert len(list(lp.scan("v", old))) < CLIPS


@pytest.mark.parametrize("make", [in_file, in_memory, in_views, in_rows])
def test_explicit_transactions(make: Any, tmp_path: Path) -> None:
    with make(tmp_path) as world:
        change(world.other, "set", 0, 1)
        manager = TransactionManager(explicit=True)
        with closing(world.db.open(manager)) as connection:
            manager.begin()
            root = connection.root.stt
            assert [record.attributes["v"] for record in lp.scan("v", root)] == [1]
            change(world.other, "set", 0, 2)
            assert [record.attributes["v"] for record in lp.scan("v", root)] == [1]
            root.gns(clip(1)).set_attribute("v", 3)
            manager.commit()
            assert [record.attributes["v"] for record in lp.scan("v", root)] == [2, 3]
            manager.begin()
            assert [exactly(record) for record in lp.scan("v", root)] == scanned_live("v", root)
            manager.abort()


# --- Files -----------------------------------------------------------------------------------------------------------


class Voter:
    """Takes part in a commit: it is asked for its vote when the storage has given its own."""

    def __init__(self, manager: Any, then: Callable[[], None]) -> None:
        self.transaction_manager, self.tpc_vote = manager, lambda transaction: then()

    def sortKey(self) -> str:
        return "~"

    def tpc_begin(self, transaction: Any) -> None: ...

    commit = tpc_finish = tpc_abort = abort = tpc_begin


def test_a_file_opened_within_a_commit_ends_at_the_last_whole_transaction(tmp_path: Path) -> None:
    with closing(LOTDB(path=str(tmp_path), name="tree", new=True)) as database, ExitStack() as stack:
        root = database.open_connection()
        for key in ("old", "z"):
            root.gn(key).set_attribute("v", 1)
        database.commit()
        parts: list[lp.Partition] = []
        readers: list[BaseNode] = []

        def read() -> None:
            reader = stack.enter_context(closing(LOTDB(path=str(tmp_path), name="tree", read_only=True)))
            readers.append(reader.open_connection())
            parts.extend(lp.partitions(2, readers[0]))
            list(lp.scan("v", parts[0]))  # opens the file for parts, within the commit too

        for key in ("old", "z", "new"):
            root.gn(key).set_attribute("v", 2)
        manager = root._p_jar.transaction_manager
        manager.get().join(Voter(manager, read))
        database.commit()
        seen = scanned_live("v", readers[0])
        assert [exactly(record) for record in lp.scan("v", readers[0])] == seen
        assert [exactly(record) for part in parts for record in lp.scan("v", part)] == seen
        now = [exactly(record) for part in lp.partitions(2, root) for record in lp.scan("v", part)]
        assert now == scanned_live("v", root) != seen


def test_a_file_that_ends_before_its_partition(tmp_path: Path) -> None:
    with closing(LOTDB(path=str(tmp_path), name="tree", new=True)) as database:
        root = database.open_connection()
        root.gn("a").set_attribute("v", 1)
        database.commit()
        old = (tmp_path / "tree").read_bytes()
        root.gn("a").set_attribute("v", 2)
        database.commit()
        (part,) = lp.partitions(1, root)
    (tmp_path / "tree").unlink()
    (tmp_path / "tree.index").unlink()
    (tmp_path / "tree").write_bytes(old)
    with pytest.raises(lp.DamagedDatabaseError, match="ends before the transaction"):
        list(lp.scan("v", part))


def test_a_file_with_a_directory_for_blobs_around_it_is_read_and_written_as_a_file(tmp_path: Path) -> None:
    with opened(BlobStorage(str(tmp_path / "blobs"), FileStorage(str(tmp_path / "data.fs")))) as root:
        for number in range(CLIPS):
            add_blob(root.gns(clip(number)), "data", b"%d" % number)
        root._p_jar.transaction_manager.commit()
        assert type(pinned_view(root._p_jar)) is (PinnedFile if FAST else PinnedStorage)
        assert (_appending._plain_file(root._p_jar._normal_storage) is not None) is FAST
        records = list(concat(lp.scan((), part, payload="data") for part in lp.partitions(2, root)))
        assert sorted(int(record.payload.read()) for record in records) == list(range(CLIPS))
        results = [lp.ProcessResult(clip(0), np.arange(9.0))]
        lp.write(lp.inline("_p"), root, results, commit_every=1, arrays="zarr")
        assert (tmp_path / "data.fs.data.zarr").is_dir()


# --- Sibling databases -----------------------------------------------------------------------------------------------


@contextmanager
def siblings(second: Any) -> Iterator[tuple[BaseNode, Any]]:
    """The root of a tree in one database, and the connection to another one that goes with it."""
    databases: dict[str, Any] = {}
    with (
        closing(DB(MappingStorage(), database_name="one", databases=databases)) as one,
        closing(DB(second, database_name="two", databases=databases)),
    ):
        manager = TransactionManager()
        connection = one.open(manager)
        connection.root.stt = BaseNode("root")
        manager.commit()
        yield connection.root.stt, connection.get_connection("two")
        manager.abort()
        connection.close()


def grow(root: BaseNode, tree: Tree, moves: Any) -> None:
    """Plant a tree whose branches lie in another database than their parents where `moves` says so."""
    stack = [(root, tree, ())]
    while stack:
        node, subtree, path = stack.pop()
        home = node._p_jar
        elsewhere = home.get_connection("two" if home.db().database_name == "one" else "one")
        for key, below in subtree.items():
            child = BaseNode(key, parent=node)
            (elsewhere if moves((*path, key)) else home).add(child)
            child.set_attribute("v", "/".join((*path, key)))
            if moves((*path, key, "?")):
                stored = PathFileObj(filepath="/x/y.wav")
                elsewhere.add(stored)
                child.set_attribute("file", stored)
            node.node_storage[key] = child
            root._p_jar.transaction_manager.savepoint()  # its parts belong to its database from now on
            stack.append((child, below, (*path, key)))
    root._p_jar.transaction_manager.commit()


@example(tree={"^a$": {}, "a": {"a": {}}}, salt=1, skip=None)  # nodes of one id in one path
@settings(max_examples=examples(25))
@given(tree=trees, salt=st.integers(0, 99), skip=st.sampled_from([None, "a*", lambda node: node.key < "b"]))
def test_nodes_and_values_in_sibling_databases(tree: Tree, salt: int, skip: Any) -> None:
    with siblings(MVCCMappingStorage() if salt % 2 else MappingStorage()) as (root, two):
        grow(root, tree, lambda path: zlib.crc32(repr((salt, path)).encode()) % 3 == 0)
        root._p_jar.cacheMinimize()
        for level in (None, 0, 1, 2, 3, "deepest"):
            live = scanned_live(["v", "file"], root, skip=skip, level=level)
            assert [exactly(record) for record in lp.scan(["v", "file"], root, skip=skip, level=level)] == live
        for node in lp.level(1, root):
            assert [exactly(record) for record in lp.scan("v", node)] == scanned_live("v", node)
        records = list(lp.snapshot("v", lp.walk(root)))
        for node in (root, *lp.level(1, root)):
            for policy in (lp.mirror(), lp.inline("a"), lp.inline("a", "b"), lp.fresh("a")):
                missing = list(lp.pending(policy, node, records))
                two.root()["changed"] = True  # makes it look at live nodes
                assert missing == list(lp.pending(policy, node, records))
                two.transaction_manager.abort()


def test_what_others_commit_to_a_sibling_database(tmp_path: Path) -> None:
    for second in (MappingStorage(), MVCCMappingStorage()):
        with siblings(second) as (root, two):
            grow(root, {"a": {"x": {}}, "b": {}}, lambda path: path == ("a",))
            manager = TransactionManager()
            with closing(root._p_jar.db().open(manager)) as connection:
                connection.root.stt.gns(["a", "x"]).set_attribute("v", "other")
                manager.commit()
                assert [exactly(record) for record in lp.scan("v", root)] == scanned_live("v", root)
                manager.abort()
            two.transaction_manager.abort()
            assert [record.attributes["v"] for record in lp.scan("v", root)] == ["other", "b"]
            root.gns(["a", "x"]).set_attribute("v", "not committed")
            with pytest.raises(lp.UncommittedError):
                lp.scan("v", root)


def test_a_part_of_a_tree_in_several_databases_says_what_it_lacks(tmp_path: Path) -> None:
    databases: dict[str, Any] = {}
    with (
        closing(DB(FileStorage(str(tmp_path / "one.fs")), database_name="one", databases=databases)) as one,
        closing(DB(MappingStorage(), database_name="two", databases=databases)),
    ):
        manager = TransactionManager()
        connection = one.open(manager)
        connection.root.stt = BaseNode("root")
        manager.commit()
        grow(connection.root.stt, {"a": {}}, lambda path: path == ("a",))
        assert len(list(lp.scan("v", connection.root.stt))) == 1
        (part,) = lp.partitions(1, connection.root.stt)
        with pytest.raises(lp.ArgumentError, match="refers to the database 'two'.*from its root"):
            list(lp.scan("v", part))
        connection.close()
