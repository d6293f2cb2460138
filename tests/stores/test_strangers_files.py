"""Folders of strangers: whatever is in the place of a store's file, reading touches nothing outside and ends."""

from __future__ import annotations

import copyreg
import errno
import gc
import importlib.util
import os
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from other_places import as_nobody, in_child, on_readonly_media
from recording import open_files

import lotproc as lp

fcntl = pytest.importorskip("fcntl")


pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and devices in folders are Unix's")

RESULTS = [lp.ProcessResult((name, "x"), output=[name], attributes={"n": 1}) for name in "ab"]

# --- A store: how it is filled, and all the ways to read it -----------------------------------------------------------


def filled_directory(folder: Path) -> None:
    """A store with metadata, a lock, an escaped key, and changes that killed writers have left in two ways."""
    store = lp.DirectoryStore(folder, codec="json", durable=False)
    lp.write(lp.mirror(), store, RESULTS)
    store.put(("dF/F", "x"), 1, {"n": 2})
    with store.entry(("a", "x")):
        pass
    for key, begun in (
        (("b", "x"), "replace replace"),
        (("new",), "replace replace"),
        (("a", "gone"), "remove remove"),
    ):
        entries, paths = store._entries, store._entries.layout.of(key)
        token = entries.prepare(paths, entries.dumping(list(key)), b'{"n": 3}').token
        Path(paths.journal).write_text(f"lotproc {token} {begun}\n")


def read_directory(folder: Path) -> Any:
    store = lp.DirectoryStore(folder, codec="json", create=False)
    with suppress(lp.NoSuchKeyError):
        store.stat(("b", "x"))
    found = {record.path: record.attributes for record in lp.records(..., store)}
    return found, {path: (store.get(path), path in store) for path in found}


def written_directory(folder: Path) -> None:
    """Change all that there is, in all the ways."""
    store = lp.DirectoryStore(folder, codec="json", durable=False, lock_timeout=5)
    lp.write(lp.mirror(), store, RESULTS)
    with store.entry(("a", "x")) as entry:
        entry.meta.n = 4
    store["dF/F", "x"] = 2
    store.update_meta("new", {"n": 5})
    for path in list(store):
        del store[path]


def filled_lmdb(folder: Path, subdir: bool) -> None:
    folder.mkdir(exist_ok=True)
    with lp.LmdbStore(folder / "d", codec="json", sync=False, subdir=subdir) as store:
        store.update({"a/x": 1, "b": [2, "x" * 5000]})


def read_lmdb(folder: Path, subdir: bool) -> Any:
    """As the errors say: without the table of readers where it can't be written."""
    for lock in (True, False):
        try:
            with lp.LmdbStore(folder / "d", codec="json", readonly=True, lock=lock, subdir=subdir) as store:
                return {record.path: record.attributes for record in lp.records(..., store)}, dict(store)
        except OSError as error:
            if not lock or "lock=False" not in str(error):
                raise
    return None


def written_lmdb(folder: Path, subdir: bool) -> None:
    with lp.LmdbStore(folder / "d", codec="json", sync=False, subdir=subdir) as store:
        store["new"] = 1
        del store["b"]
        store.put_many({"c": "y" * 10_000})


def filled_archive(folder: Path, limit: int | None) -> None:
    """One that a writer has left who was killed as new files were to get their names, and an older one beside it."""
    folder.mkdir(exist_ok=True)
    records = [(("a", str(number)), [number], {"n": number}) for number in range(12)]
    for name in ("d.rox", "e.rox"):
        with lp.Archive(folder / name, "w", codec="json", durable=False, max_shard_bytes=limit) as archive:
            archive.write_records(records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lotproc.stores.archive.writing.complete", lambda *_, **options: None)
        with lp.Archive(folder / "d.rox", "w", codec="json", durable=False, max_shard_bytes=limit) as archive:
            archive.write_records(reversed(records))
    assert (folder / ".d.rox-pending").exists()


def read_archive(folder: Path, limit: int | None) -> Any:
    """One file as a pattern finds it: a link that is named by the user is followed, as that to a folder is."""
    found = []
    for name in ("d.rox", "e.rox"):
        with lp.Archive(f"{folder}/{name}" if limit else f"{folder}/{name[0]}.ro?", codec="json") as archive:
            found.append([(record.path, record.attributes) for record in lp.records(..., archive)])
            found.append([(archive.path(number), archive.attributes(number), archive[number]) for number in range(12)])
            archive.verify()
    return found


def written_archive(folder: Path, limit: int | None) -> None:
    for name, mode in (("d.rox", "a"), ("e.rox", "a"), ("d.rox", "w"), ("e.rox", "w")):
        options: dict[str, Any] = {"codec": "json", "max_shard_bytes": limit, "durable": False, "lock_timeout": 5}
        with lp.Archive(folder / name, mode, **options) as archive:  # type: ignore[arg-type]
            archive.append([1], ("new",), {"n": 4})


def with_option(value: Any, *functions: Callable[[Path, Any], Any]) -> list[Callable[[Path], Any]]:
    return [lambda folder, function=function: function(folder, value) for function in functions]


LMDB = filled_lmdb, read_lmdb, written_lmdb
ARCHIVE = filled_archive, read_archive, written_archive

#: By name: what fills a folder, what reads all of it, what writes all of it, and the files that reading may write to.
STORES: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any], Callable[[Path], None], frozenset[str]]] = {
    "directory": (filled_directory, read_directory, written_directory, frozenset()),
    "archive": (*with_option(None, *ARCHIVE), frozenset()),
    "shards": (*with_option(400, *ARCHIVE), frozenset()),
}
#: Those whose locks are taken by Python.
LOCKED = list(STORES)
if importlib.util.find_spec("lmdb") is not None:
    STORES["lmdb"] = (*with_option(True, *LMDB), frozenset({"lock.mdb"}))
    STORES["lmdb in a file"] = (*with_option(False, *LMDB), frozenset({"d-lock"}))

# --- What a stranger can put in the place of a file -------------------------------------------------------------------


def link(path: Path, outside: Path) -> None:
    """To a copy of the file, which would do for it."""
    shutil.copy(path, outside / "copy")
    path.unlink()
    path.symlink_to(outside / "copy")


def link_to_zeros(path: Path, outside: Path) -> None:
    """To a file that begins as a torn one, or as a database does."""
    (outside / "zeros").write_bytes(bytes(100) + b"precious" * 1000)
    path.unlink()
    path.symlink_to(outside / "zeros")


def link_to_nothing(path: Path, outside: Path) -> None:
    """Which must not be made."""
    path.unlink()
    path.symlink_to(outside / "new")


def link_to_a_directory(path: Path, outside: Path) -> None:
    (outside / "folder").mkdir()
    path.unlink()
    path.symlink_to(outside / "folder")


def link_to_a_pipe(path: Path, outside: Path) -> None:
    os.mkfifo(outside / "pipe")
    path.unlink()
    path.symlink_to(outside / "pipe")


def hard_link(path: Path, outside: Path) -> None:
    (outside / "precious").write_bytes(b"")
    path.unlink()
    path.hardlink_to(outside / "precious")


def pipe(path: Path, outside: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path, outside: Path) -> None:
    path.unlink()
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # zeros without end
    except PermissionError:
        pytest.skip("only root makes devices")


def directory(path: Path, outside: Path) -> None:
    path.unlink()
    path.mkdir()


def sock(path: Path, outside: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as opened:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket is a short one
        try:
            opened.bind(path.name)
        finally:
            os.chdir(here)


STRANGE = [
    link,
    link_to_zeros,
    link_to_nothing,
    link_to_a_directory,
    link_to_a_pipe,
    hard_link,
    pipe,
    device,
    directory,
    sock,
]


def everything(folder: Path, but: frozenset[str] = frozenset()) -> dict[str, Any]:
    """All that is in a folder, to the byte and the time of its last change; links and pipes as such."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if path.name not in but:
            data = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
            target = os.readlink(path) if path.is_symlink() else None
            changed = None if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
            found[str(path.relative_to(folder))] = (status.st_mode, status.st_ino, changed, data, target)
    return found


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    """Also where an error was raised, nobody collects garbage, and copies of errors keep all, as tblib's do."""
    gc.collect()
    before = open_files()
    gc.disable()
    try:
        with mock.patch.dict(copyreg.dispatch_table):
            pytest.importorskip("tblib.pickling_support").install()
            yield
        assert not open_files() - before
    finally:
        gc.enable()


@contextmanager
def ending(what: str) -> Iterator[None]:
    """An error in place of a wait without end."""

    def end(*_: Any) -> None:
        raise AssertionError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def with_strange_files(
    kind: str, strange: Callable[[Path, Path], None], folder: Path
) -> Iterator[tuple[str, Path, Path]]:
    """For each file of a store, a copy of the store with something else in its place, and a folder outside."""
    STORES[kind][0](folder / "store")
    files = sorted(path.relative_to(folder / "store") for path in (folder / "store").rglob("*") if path.is_file())
    assert len(files) > 1
    for number, name in enumerate(files):
        theirs = folder / f"store_{number}"
        outside = folder / f"{theirs.name}_outside"  # whose path begins as that of the store
        shutil.copytree(folder / "store", theirs)
        outside.mkdir()
        strange(theirs / name, outside)
        yield str(name), theirs, outside


@pytest.mark.parametrize("strange", STRANGE, ids=lambda strange: strange.__name__)
@pytest.mark.parametrize("kind", STORES)
def test_reading_a_strangers_folder_touches_nothing_and_ends(
    kind: str, strange: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    _, read, _, written = STORES[kind]
    whole, told = None, 0
    for name, theirs, outside in with_strange_files(kind, strange, tmp_path):
        whole = whole or read(tmp_path / "store")
        around, inside = everything(outside), everything(theirs, written)
        with ending(f"reading with {strange.__name__} as {name}"):
            said = ""
            try:
                found = read(theirs)
            except lp.LotprocError as error:
                said = str(error)
            if said:
                assert theirs.name in said, name
                told += 1
            # What was not looked at changes nothing, and nobody's value comes up in the place of another one.
            elif strange not in (directory, link_to_a_directory, hard_link):
                assert found == whole, name
        assert everything(outside) == around, name
        assert everything(theirs, written) == inside, name
    assert told


@pytest.mark.parametrize("strange", STRANGE, ids=lambda strange: strange.__name__)
@pytest.mark.parametrize("kind", STORES)
def test_writing_into_a_strangers_folder_touches_nothing_outside_and_ends(
    kind: str, strange: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    for name, theirs, outside in with_strange_files(kind, strange, tmp_path):
        around = everything(outside)
        with ending(f"writing with {strange.__name__} as {name}"):
            said = theirs.name
            try:
                STORES[kind][2](theirs)
            except (lp.LotprocError, OSError) as error:
                said = str(error)
            assert theirs.name in said, name
        assert everything(outside) == around, name


# --- Where nothing can be written -------------------------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may come to."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.parametrize("kind", STORES)
def test_all_can_be_read_on_a_read_only_medium(kind: str, open_folder: Path) -> None:
    fill, read, _, _ = STORES[kind]
    fill(open_folder / "store")
    before = everything(open_folder)
    found = on_readonly_media(open_folder / "store", lambda: read(open_folder / "store"))
    assert everything(open_folder) == before
    assert found == read(open_folder / "store")


@pytest.mark.parametrize("kind", STORES)
def test_all_can_be_read_by_a_user_who_may_not_write(kind: str, open_folder: Path) -> None:
    fill, read, _, written = STORES[kind]
    fill(open_folder / "store")
    for path in (open_folder / "store", *(open_folder / "store").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = everything(open_folder, written)
    somebody_else = as_nobody if os.geteuid() == 0 else in_child
    found = somebody_else(lambda: (os.access(open_folder / "store", os.W_OK), read(open_folder / "store")))
    assert everything(open_folder, written) == before
    assert found == (False, read(open_folder / "store"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("kind", LOCKED)
def test_without_locks_all_can_be_read_and_a_write_leaves_nothing(
    kind: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill, read, write, _ = STORES[kind]
    fill(tmp_path / "store")
    whole, before = read(tmp_path / "store"), everything(tmp_path)

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    for call in ("flock", "lockf", "fcntl"):
        monkeypatch.setattr(fcntl, call, refuse)
    assert read(tmp_path / "store") == whole
    with pytest.raises(lp.ReadOnlyStoreError, match="store.* can only be read: the file system of .* has no locks"):
        write(tmp_path / "store")
    assert everything(tmp_path) == before
