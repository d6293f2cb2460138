"""A tree is opened by the path or the URI of its storage, or an error says at once what is wrong, and no password."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from lotdb import LOTDB, BaseNode, add_blob
from servers import Postgres, in_rows, on_zeo, zeo_server
from toolz import pipe
from transaction import TransactionManager
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, ReadOnlyError

import lotproc as lp

Place = Callable[[], str]


@contextmanager
def path_of_a_file(folder: Path, _: Any) -> Iterator[str]:
    yield str(folder / "new" / "corpus.fs")


@contextmanager
def uri_of_a_file(folder: Path, _: Any) -> Iterator[str]:
    yield f"file://{folder}/a%20corpus.fs"


@contextmanager
def zodburi_of_a_file(folder: Path, _: Any) -> Iterator[str]:
    pytest.importorskip("zodburi")
    yield f"file://{folder}/corpus.fs?blobstorage_dir={folder}/blobs"


@contextmanager
def rows_without_history(folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.getfixturevalue("postgres_server").uri(keep_history="false", blob_dir=folder / "blobs")


@contextmanager
def configured(folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    pytest.importorskip("zodburi")
    server: Postgres = request.getfixturevalue("postgres_server")
    database = server.uri().partition("@/")[2].partition("?")[0]
    (folder / "zodb.conf").write_text(
        f"""%import relstorage
        <zodb other>
          <mappingstorage/>
        </zodb>
        <zodb tree>
          <relstorage>
            blob-dir {folder}/cache
            <postgresql>
              dsn host={server.folder} user=postgres dbname={database}
            </postgresql>
          </relstorage>
        </zodb>"""
    )
    yield f"zconfig://{folder}/zodb.conf#tree"


KINDS: list[Any] = [
    *(path_of_a_file, uri_of_a_file, zodburi_of_a_file, on_zeo, in_rows, rows_without_history, configured),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place without a tree."""
    with request.param(tmp_path, request) as found:
        yield found


def fill(root: BaseNode) -> None:
    for number in range(40):
        clip = root.gns(["ann", f"clip_{number:02}"])
        clip.set_attribute("n", number)
    add_blob(clip, "data", b"of the last")
    lp.commit(root)


def test_the_same_pipeline_on_every_storage(uri: str, no_file_stays_open: None) -> None:
    threads = threading.active_count()
    with pytest.raises(lp.ArgumentError) as raised, lp.open_root(uri):
        raise AssertionError
    assert raised.value.hint is not None
    with pytest.raises(lp.ArgumentError), lp.open_root(uri, read_only=True):
        raise AssertionError

    with lp.open_root(uri, create=True) as root:
        fill(root)
        report = pipe(
            root,
            lp.scan("n"),
            lp.chunked(7),
            lp.parallel_map(lp.outputs(lambda record: 2 * record.attributes["n"]), mode="sync"),
            lp.write(lp.inline("_p"), root, commit_every=16, version="1"),
        )
        assert report.written == 40
    with lp.open_root(uri, create=True) as root, ExitStack() as others:  # what is there stays
        if "blobstorage_dir" in uri:
            with pytest.raises(lp.StoreLockedError):
                others.enter_context(lp.open_root(uri))
            other = root
        else:
            other = others.enter_context(lp.open_root(uri, read_only="zconfig:" not in uri))
        for each in (root, other):
            records = list(lp.scan("n", each, skip="_*"))
            assert [record.attributes["n"] for record in records] == list(range(40))
            assert list(lp.pending(lp.inline("_p"), each, records, version="1")) == []
            assert [record.attributes["result"] for record in lp.scan("result", each, where="^_p$")] == [
                2 * number for number in range(40)
            ]
            (payload,) = filter(None, (record.payload for record in lp.scan((), each, skip="_*", payload="data")))
            assert payload.read() == b"of the last"
    assert threading.active_count() == threads


def test_what_is_only_read_is_not_written(uri: str, tmp_path: Path) -> None:
    with lp.open_root(uri, create=True) as root:
        fill(root)
    if uri.startswith("zconfig:") or "blobstorage_dir" in uri:  # which say in their own way that they only read
        with pytest.raises(lp.ArgumentError), lp.open_root(uri, read_only=True):
            raise AssertionError
        return
    with lp.open_root(uri, read_only=True) as root:
        root.gn("new")
        with pytest.raises(ReadOnlyError):
            root._p_jar.transaction_manager.commit()
        root._p_jar.transaction_manager.abort()
        root.gn("new")
        with pytest.raises(lp.ReadOnlyTreeError):
            lp.commit(root)
        root._p_jar.transaction_manager.abort()
    with lp.open_root(uri, read_only=True) as root:
        assert list(root.node_storage) == ["ann"]


def test_what_was_changed_by_hand_is_committed(uri: str) -> None:
    with lp.open_root(uri, create=True) as root:
        node = root.gns(["ann", "clip"])
        lp.commit(node)  # any node will do
        before = lp.transaction_of(root)
        lp.commit(root)  # there is nothing
        assert lp.transaction_of(root) == before
    with lp.open_root(uri) as root, closing(root._p_jar.db().open(TransactionManager())) as connection:
        other = connection.root()["stt"]
        root.get_node_path(["ann"]).set_attribute("age", 31)
        other.get_node_path(["ann"]).set_attribute("age", 32)
        lp.commit(root)
        with pytest.raises(ConflictError):
            lp.commit(other)
        assert other.get_node_path(["ann"]).get_attribute("age") == 31  # that of the other one
        other.get_node_path(["ann"]).set_attribute("age", 33)
        lp.commit(other)
    with lp.open_root(uri) as root:
        assert root.get_node_path(["ann"]).get_attribute("age") == 33


def test_what_can_not_be_committed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(lp.ArgumentTypeError):
        lp.commit("corpus.fs")  # type: ignore[arg-type]
    with pytest.raises(lp.ArgumentError, match="in memory"):
        lp.commit(BaseNode("corpus"))
    with lp.open_root(tmp_path / "corpus.fs", create=True) as root:
        root.gn("ann").set_attribute("lock", threading.Lock())
        with pytest.raises(TypeError, match="pickle"):
            lp.commit(root)
        assert list(root.node_storage) == []  # and the tree works again
        root.gn("bob")
        lp.commit(root)
    with pytest.raises(lp.ArgumentError, match="closed"):
        lp.commit(root)


#: A tree that finds no room for a commit, and some later.
FULL = """
import resource, signal, sys
import lotproc as lp

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
with lp.open_root("corpus.fs", create=True) as root:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    for size in (60_000, 60_000, 50):
        root.gn(f"of_{size}").set_attribute("text", "x" * size)
        try:
            lp.commit(root)
        except OSError:
            print("full")
        root.gn(f"of_{size}_again").set_attribute("text", "y")
        lp.commit(root)
with lp.open_root("corpus.fs", read_only=True) as root:
    print(*(record.key for record in lp.scan((), root)))
"""


def test_a_full_disk_leaves_what_was_committed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["full", "of_50", "of_50_again", "of_60000", "of_60000_again"]


def test_a_node_that_was_made_by_a_look_is_told_of(tmp_path: Path) -> None:
    """`gn` makes what is not there."""
    with lp.open_root(tmp_path / "corpus.fs", create=True) as root:
        add_blob(root.gns(["Ann"]), "data", b"of Ann")
        lp.commit(root)
    with (
        pytest.raises(lp.UncommittedError, match="read only.*gn.. .*get_node_path") as raised,
        lp.open_root(tmp_path / "corpus.fs", read_only=True) as root,
    ):
        root.gn("Anne").get_attribute("age")
    assert "commit(" not in str(raised.value)


def test_a_tree_that_was_copied_without_its_blobs_says_so(tmp_path: Path) -> None:
    with lp.open_root(tmp_path / "corpus.fs", create=True) as root:
        add_blob(root.gns(["Ann"]), "data", b"of Ann")
        lp.commit(root)
    (tmp_path / "copy.fs").write_bytes((tmp_path / "corpus.fs").read_bytes())
    with (
        lp.open_root(tmp_path / "copy.fs", read_only=True) as root,
        pytest.raises(lp.DetachError, match="'data' at Ann can't be detached: no folder of blobs.*corpus.fs.blobs"),
    ):
        list(lp.snapshot("data", lp.leaves(root)))
    with lp.open_root(tmp_path / "copy.fs", read_only=True) as root, pytest.raises(lp.DetachError, match="blobs"):
        list(lp.scan("data", root))


def test_changes_that_are_not_committed_are_told_of(uri: str) -> None:
    with pytest.raises(lp.UncommittedError), lp.open_root(uri, create=True) as root:
        root.gn("new")
    with pytest.raises(KeyError, match="mine"), lp.open_root(uri) as root:
        raise KeyError("mine", root.gn("new").key)
    with lp.open_root(uri) as root:
        assert list(root.node_storage) == []


def test_lotdb_opens_what_is_made_here_and_the_other_way_round(tmp_path: Path) -> None:
    with lp.open_root(tmp_path / "corpus", create=True) as root:
        fill(root)
    with closing(LOTDB(path=str(tmp_path), name="corpus")) as database:
        root = database.open_connection()
        assert root.key == "corpus"
        assert root.gns(["ann", "clip_39"]).get_attribute("data").read_bytes() == b"of the last"
        root.gns(["bob", "clip"]).set_attribute("n", 7)
        database.commit()
    with lp.open_root(f"file://{tmp_path}/corpus") as root:
        assert [record.attributes["n"] for record in lp.scan("n", root)] == [*range(40), 7]
        assert list(root.gns(["bob", "clip"]).gps()) == ["bob", "clip"]


def test_opening_to_read_makes_no_file(tmp_path: Path) -> None:
    with closing(LOTDB(path=str(tmp_path), name="corpus", new=True)):
        pass
    for leftover in ("corpus.blobs/tmp", "corpus.blobs/.layout", "corpus.blobs", "corpus.lock", "corpus.tmp"):
        path = tmp_path / leftover
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with lp.open_root(tmp_path / "corpus", read_only=True) as root:
        assert list(lp.scan((), root)) != []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# --- What is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://ann:hush@localhost/corpus",
        "postgres://ann:hush@[::1]:5432/corpus",
        "postgresql://ann:hu/hush@localhost/corpus",
        "postgresql://ann:hu?hush@localhost/corpus",
        "postgresql://ann:a@hush@localhost/corpus",
        "postgresql://ann@localhost/corpus?password=hush",
        "postgresql://ann@localhost/corpus?p%61ssword=hush",
        "postgresql://localhost/corpus?sslpassword=hush",
        "zeo://ann:hush@localhost:9991",
        "zeo://localhost:9991?username=ann&password=hush",
        "mysql://ann:hush@localhost/corpus",
        "demo:(zeo://localhost?password=hush)/(file:///x)",
    ],
)
def test_a_password_in_a_uri_is_refused(uri: str) -> None:
    with pytest.raises(lp.ArgumentError) as raised:
        lp.open_root(uri)
    assert "PGPASSWORD" in (raised.value.hint or "")
    assert "hush" not in f"{raised.value} {raised.value!r} {pickle.dumps(raised.value)!r} {raised.value.__cause__}"


@pytest.mark.parametrize(
    "uri", ["postgresql://ann:@nowhere.invalid/x", "postgresql://ann@nowhere.invalid/x?passfile=y"]
)
def test_what_is_no_password(uri: str) -> None:
    pytest.importorskip("psycopg2")
    with pytest.raises(lp.ServerError), lp.open_root(uri):
        raise AssertionError


def test_passwords_come_from_around(postgres_server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, secret = postgres_server.uri(user=postgres_server.locked), postgres_server.password
    for name in ("PGPASSWORD", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    wrong = tmp_path / "wrong"
    wrong.write_text("*:*:*:*:wrong password")
    right = tmp_path / "right"
    right.write_text(f"*:*:*:*:{secret}")
    for file in (wrong, right):
        file.chmod(0o600)

    for name, value in (("PGPASSWORD", ""), ("PGPASSWORD", "wrong password"), ("PGPASSFILE", str(wrong))):
        with monkeypatch.context() as around:
            around.setenv(name, value)
            with pytest.raises(lp.ServerError) as raised, lp.open_root(uri):
                raise AssertionError
            assert "wrong password" not in f"{raised.value!r} {raised.value.__cause__!r}"
    for name, value in (("PGPASSWORD", secret), ("PGPASSFILE", str(right))):
        with monkeypatch.context() as around:
            around.setenv(name, value)
            with lp.open_root(uri, create=True) as root:
                database = root._p_jar.db()
                said = f"{database!r} {database.storage!r} {database.storage._adapter!r} {vars(database.storage)!r}"
                assert secret not in said
                report = lp.write(
                    lp.mirror(), root, [lp.ProcessResult(("a",), 1)], commit_every=1, ledger=tmp_path / f"{name}.jsonl"
                )
                assert report.written == 1
            assert secret not in (tmp_path / f"{name}.jsonl").read_text()


def test_passwords_of_a_configuration_file_are_in_no_error(postgres_server: Postgres, tmp_path: Path) -> None:
    pytest.importorskip("zodburi")
    file = tmp_path / "zodb.conf"
    for dsn in (
        f"host={postgres_server.folder} user={postgres_server.locked} dbname=x password=hush",
        f"host={postgres_server.folder} user=postgres dbname=x password=hush hush",
        f"host={postgres_server.folder} user=postgres dbname=x password='hush",
    ):
        file.write_text(f"%import relstorage\n<relstorage>\n<postgresql>\ndsn {dsn}\n</postgresql>\n</relstorage>\n")
        with pytest.raises(lp.ServerError) as raised, lp.open_root(f"zconfig://{file}"):
            raise AssertionError
        shown = "".join(traceback.format_exception(raised.value))
        assert "hush" not in shown
        assert "hush" not in repr(vars(raised.value))


def test_no_server(tmp_path: Path) -> None:
    pytest.importorskip("psycopg2")
    pytest.importorskip("ZEO")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        for uri in (
            f"postgresql://127.0.0.1:{port}/x",
            f"postgresql:///x?host={tmp_path}",
            "postgresql://nowhere.invalid/x",
            f"zeo://127.0.0.1:{port}",
            f"zeo://{tmp_path}/socket",
            "zeo://nowhere.invalid",
        ):
            with pytest.raises(lp.ServerError) as raised, lp.open_root(uri, create=True):
                raise AssertionError
            assert isinstance(raised.value, ConnectionError)
            assert raised.value.got


def test_a_server_that_says_nothing(no_file_stays_open: None) -> None:
    pytest.importorskip("psycopg2")
    pytest.importorskip("ZEO")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        for scheme in ("postgresql", "zeo"):
            with pytest.raises(lp.ServerError), lp.open_root(f"{scheme}://127.0.0.1:{port}", timeout=0.3):
                raise AssertionError


def test_another_storage_of_a_server(tmp_path: Path) -> None:
    with (
        zeo_server(tmp_path) as uri,
        pytest.raises(lp.ServerError) as raised,
        lp.open_root(f"{uri}?storage=other", timeout=0.3),
    ):
        raise AssertionError
    assert "'other'" in (raised.value.got or "")


def test_nothing_is_made_where_no_tree_is(postgres_server: Postgres, tmp_path: Path) -> None:
    import psycopg2

    uri = postgres_server.uri()
    for read_only in (False, True):
        for place in (uri, tmp_path / "nothing.fs", f"file://{tmp_path}/nothing.fs"):
            with pytest.raises(lp.ArgumentError), lp.open_root(place, read_only=read_only):
                raise AssertionError
    assert os.listdir(tmp_path) == []
    with closing(psycopg2.connect(uri)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        assert cursor.fetchone() == (0,)


def test_a_database_without_a_tree_and_one_with_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.fs"
    with closing(LOTDB(path=str(tmp_path), name="other.fs", new=True)) as database, database.db.transaction() as made:
        del made.root.stt
    with pytest.raises(lp.ArgumentError), lp.open_root(path):
        raise AssertionError
    with closing(LOTDB(path=str(tmp_path), name="other.fs")) as database, database.db.transaction() as made:
        made.root.stt = {"a": 1}
    with pytest.raises(lp.ArgumentError) as raised, lp.open_root(path, create=True):
        raise AssertionError
    assert "dict" in (raised.value.got or "")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    other = tmp_path / "table.csv"
    other.write_text("path,seconds\n")
    for read_only in (False, True):
        with pytest.raises(lp.ForeignFileError), lp.open_root(other, read_only=read_only):
            raise AssertionError
    assert os.listdir(tmp_path) == ["table.csv"]
    assert other.read_text() == "path,seconds\n"
    with pytest.raises(lp.ArgumentError), lp.open_root(tmp_path, create=True):
        raise AssertionError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # FileStorage leaves the file open
def test_a_file_that_is_damaged(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.fs"
    with lp.open_root(damaged, create=True) as root:
        fill(root)
    (tmp_path / "damaged.fs.index").unlink()
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:200] + bytes(99) + whole[299:])
    with pytest.raises(lp.DamagedDatabaseError), lp.open_root(damaged, read_only=True):
        raise AssertionError


def test_a_file_that_is_open_elsewhere(tmp_path: Path) -> None:
    with lp.open_root(tmp_path / "corpus.fs", create=True):
        with pytest.raises(lp.StoreLockedError) as raised, lp.open_root(tmp_path / "corpus.fs"):
            raise AssertionError
        assert "read_only=True" in (raised.value.hint or "")
        with lp.open_root(tmp_path / "corpus.fs", read_only=True) as root:
            assert root.key == "corpus.fs"


def test_history_that_is_not_as_the_tables_are(postgres_server: Postgres) -> None:
    uri = postgres_server.uri()
    with lp.open_root(f"{uri}&keep_history=false", create=True) as root:
        fill(root)
    with lp.open_root(uri) as root:  # it tells itself
        assert not root._p_jar.db().storage.keep_history
    with pytest.raises(lp.ArgumentError) as raised, lp.open_root(f"{uri}&keep_history=true"):
        raise AssertionError
    assert "False" in (raised.value.expected or "")


@pytest.mark.parametrize(
    ("uri", "needs"),
    [
        ("zeo://localhost:1", ["ZEO"]),
        ("postgresql://localhost:1/x", ["psycopg2", "relstorage"]),
        ("zconfig:///nothing.conf", ["zodburi"]),
    ],
)
def test_a_missing_extra_is_named(uri: str, needs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for package in needs:
        for module in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, module)
        found = importlib.import_module

        def missing(name: str, package: str = package, found: Any = found) -> Any:
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
            return found(name)

        with monkeypatch.context() as without:
            without.setattr(importlib, "import_module", missing)
            with pytest.raises(lp.MissingExtraError) as raised, lp.open_root(uri):
                raise AssertionError
        extra = "postgres" if uri.startswith("postgres") else "zeo"
        assert f"lotproc[{extra}]" in (raised.value.hint or "")


@pytest.mark.parametrize(
    "uri",
    [
        "nothing://localhost",
        "zeo://localhost:port",
        "zeo://localhost?cache=big",
        "zeo://localhost?cache_size=big",
        "postgresql://localhost/x?keep_histroy=true",
        "postgresql://localhost/x?keep_history=perhaps",
        "zconfig:///nothing.conf",
        "file:///nothing.fs?blobstorage_dir=/nothing",
    ],
)
def test_a_uri_that_can_not_be_read(uri: str) -> None:
    pytest.importorskip("zodburi")
    pytest.importorskip("psycopg2")
    with pytest.raises(lp.ArgumentError), lp.open_root(uri):
        raise AssertionError


@pytest.mark.parametrize(
    ("uri", "options", "kind"),
    [
        (3, {}, lp.ArgumentTypeError),
        ("", {}, lp.ArgumentError),
        ("x", {"create": 1}, lp.ArgumentTypeError),
        ("x", {"read_only": None}, lp.ArgumentTypeError),
        ("x", {"timeout": "1"}, lp.ArgumentTypeError),
        ("x", {"timeout": 0}, lp.ArgumentError),
        ("x", {"timeout": float("inf")}, lp.ArgumentError),
    ],
)
def test_arguments_are_checked_at_once(uri: Any, options: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        lp.open_root(uri, **options)


def test_a_storage_that_fails_to_open_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("zodburi")
    closed = []
    monkeypatch.setattr(MappingStorage, "close", lambda storage: closed.append(storage))
    with pytest.raises(lp.ArgumentError), lp.open_root("memory://x"):
        raise AssertionError
    assert len(closed) == 1
    with lp.open_root("memory://x?connection_pool_size=3", create=True) as root:
        database: DB = root._p_jar.db()
        assert database.getPoolSize() == 3


# --- What was not entered --------------------------------------------------------------------------------------------


def test_what_is_not_entered_says_so_and_how(tmp_path: Path) -> None:
    opening: Any = lp.open_root(tmp_path / "tree.fs", create=True)
    assert re.fullmatch(r"<open_root\('.*tree\.fs'\), not entered: with it as root>", repr(opening))
    assert "not entered" in opening._repr_html_()
    calls: list[Callable[[], Any]] = [
        *(lambda: lp.leaves(opening), lambda: lp.write(lp.mirror(), opening, []), lambda: lp.commit(opening)),
        *(lambda: lp.history(opening), lambda: opening.gn("a")),
    ]
    for call in calls:
        with pytest.raises((lp.ArgumentTypeError, AttributeError), match=r"enter it: with lotproc\.open_root"):
            call()
    copy.copy(opening)
    with opening as root:
        assert repr(opening).endswith(", entered>")
        root.gn("a")
        lp.commit(root)
    assert "not entered" in repr(opening)
    with opening as root:
        assert [node.key for node in lp.leaves(root)] == ["a"]
