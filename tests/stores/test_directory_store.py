"""The directory store against a dict, beside dirdb; and whole after kills, at whatever step they come."""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import math
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from recording import examples

import lotproc as lp
from lotproc import _locks as locks
from lotproc.errors import (
    ArgumentError,
    ArgumentTypeError,
    CodecError,
    DamagedStoreError,
    ForeignFileError,
    NoSuchKeyError,
    NotPicklableError,
    ReadOnlyStoreError,
    StoreClosedError,
    StoreLockedError,
)
from lotproc.stores.directory import DirectoryStore, reading as reading, scan as scan
from lotproc.stores.directory.metadata import Metadata
from lotproc.stores.protocol import Item

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="a file that is open can't be replaced there"),
    pytest.mark.usefixtures("no_file_stays_open"),
]


#: How processes are made; from Python 3.12 on, forking one that has threads warns.
FORK = "fork" if sys.version_info < (3, 12) else "forkserver"


@pytest.fixture(scope="module", autouse=True)
def processes_can_be_made() -> None:
    """The server that forks stays, with files of its own."""
    process = multiprocessing.get_context(FORK).Process(target=int)
    process.start()
    process.join()


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", durable=False, lock_timeout=5)


def files(store: DirectoryStore) -> list[str]:
    """All files of a store, but those of locks."""
    root = Path(store._directory)
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and not path.name.endswith(".lock")
    )


def original(store: DirectoryStore) -> Any:
    return pytest.importorskip("dirdb").dirdb(store._directory)


# --- Any changes, against a dict, with dirdb taking part --------------------------------------------------------------

#: Names that no file can have, and what they are escaped as, which is a name, too.
ODD = ["dF/F", "dF%2FF", "100%", "%", "", ".", "..", "%2E", "/", "a\0b", "\ud800", "\udcc3\udca9", "%ED%A0%80"]
names = st.one_of(
    st.sampled_from(["a", "b", "a.b", "a-", "x.json", ".hidden", "..a", "a b", "é", "ä.lock", "clip_1", "\udcff"]),
    st.sampled_from(ODD),
    st.text(max_size=8),
)
directories = st.sampled_from(["a", "b", "é", "ann", "x.json", ".lotproc-escaped", "a.pickle", *ODD])
paths = st.one_of(
    st.tuples(names), st.tuples(directories, names), st.tuples(directories, directories, names), st.just(())
)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
metadata = st.dictionaries(
    st.one_of(st.text(max_size=5), st.sampled_from(["items", "keys", "__class__", "shape"])),
    st.recursive(
        leaves, lambda each: st.lists(each, max_size=2) | st.dictionaries(st.text(max_size=3), each, max_size=2)
    ),
    max_size=3,
)
values = st.one_of(leaves, st.binary(max_size=20), st.lists(st.integers(), max_size=3))


def is_plain(key: tuple[str, ...]) -> bool:
    """Whether the files of a key are called as it is, so that dirdb knows them by it."""
    try:
        return (
            bool(key)
            and all(
                os.fsdecode(os.fsencode(name)) == name and name not in ("", ".", "..") and not {"/", "\0"} & {*name}
                for name in key
            )
            and not any(name.endswith((".json", ".pickle")) or name[0] == "." for name in key[:-1])
        )
    except UnicodeError:
        return False


class AgainstDict(RuleBasedStateMachine):
    """A store is what a dict of pairs would be, whoever writes it and whichever is asked."""

    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.pairs: dict[tuple[str, ...], tuple[Any, dict[str, Any] | None]] = {}

    @initialize()
    def opened(self) -> None:
        self.store = DirectoryStore(self.folder.name, durable=False)

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(target=keys, key=paths)
    def some_key(self, key: tuple[str, ...]) -> tuple[str, ...]:
        return key

    @rule(key=keys, value=values)
    def set_value(self, key: tuple[str, ...], value: Any) -> None:
        self.store[key] = value
        self.pairs[key] = (value, self.pairs.get(key, (None, None))[1])

    @rule(key=keys, value=values, meta=st.none() | metadata)
    def put(self, key: tuple[str, ...], value: Any, meta: dict[str, Any] | None) -> None:
        self.store.put(key, value, meta)
        self.pairs[key] = (value, meta)

    @rule(key=keys, value=values, meta=st.none() | metadata)
    def locked_put(self, key: tuple[str, ...], value: Any, meta: dict[str, Any] | None) -> None:
        self.store.save_data(key, value, meta)
        self.pairs[key] = (value, meta if meta is not None else self.pairs.get(key, (None, None))[1])

    @rule(key=keys, name=st.text(max_size=3), item=leaves)
    def change_metadata(self, key: tuple[str, ...], name: str, item: Any) -> None:
        if key in self.pairs:
            with self.store.entry(key) as entry:
                entry.meta[name] = item
            value, meta = self.pairs[key]
            self.pairs[key] = (value, {**(meta or {}), name: item})

    @rule(key=keys, meta=st.none() | metadata)
    def set_metadata(self, key: tuple[str, ...], meta: dict[str, Any] | None) -> None:
        if key in self.pairs:
            self.store.entry(key).meta = meta
            self.pairs[key] = (self.pairs[key][0], meta)

    @rule(key=keys)
    def delete(self, key: tuple[str, ...]) -> None:
        if self.pairs.pop(key, None) is None:
            with pytest.raises(NoSuchKeyError):
                del self.store[key]
        else:
            del self.store[key]

    @rule(key=keys, value=values)
    def pop_or_default(self, key: tuple[str, ...], value: Any) -> None:
        assert self.store.pop(key, value) == self.pairs.pop(key, (value, None))[0]

    @rule(items=st.lists(st.tuples(paths, values, st.none() | metadata), max_size=3))
    def write(self, items: list[tuple[Any, Any, Any]]) -> None:
        with self.store.writing() as writer:
            writer.put([Item(*item) for item in items])
            writer.commit()
        self.pairs.update({path: (value, meta) for path, value, meta in items})

    @rule(key=keys, value=values, meta=metadata)
    def dirdb_writes(self, key: tuple[str, ...], value: Any, meta: dict[str, Any]) -> None:
        dirdb = pytest.importorskip("dirdb").dirdb
        if is_plain(key) and meta and not {"items", "keys", "__class__"} & {*meta}:  # which dirdb takes for its own
            os.makedirs(os.path.join(self.folder.name, *key[:-1]), exist_ok=True)
            dirdb(os.path.join(self.folder.name, *key[:-1])).save_data(key[-1], value, meta)
            self.pairs[key] = (value, meta)

    @rule()
    def dirdb_reads(self) -> None:
        dirdb = pytest.importorskip("dirdb").dirdb
        here = {key: pair for key, pair in self.pairs.items() if is_plain(key)}
        for key, (value, meta) in here.items():
            database = dirdb(os.path.join(self.folder.name, *key[:-1]))
            assert key[-1] in database
            assert database.get_data(key[-1]) == value
            assert database[key[-1]].meta == (meta or {})
            assert database[key[-1]]._suffix("json").exists() == (meta is not None)
        assert sorted(entry.name for entry in dirdb(self.folder.name)) == sorted(
            key[0] for key in here if len(key) == 1
        )

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = pickle.loads(pickle.dumps(DirectoryStore(self.folder.name, durable=False)))

    @rule(key=keys)
    def one(self, key: tuple[str, ...]) -> None:
        assert (key in self.store) == bool(self.store.entry(key)) == (key in self.pairs)
        assert self.store.get(key, "nothing") == self.pairs.get(key, ("nothing", None))[0]
        found = self.store.find(key)
        assert (found and (found.load(), found.metadata)) == self.pairs.get(key)

    @invariant()
    def all(self) -> None:
        assert list(self.store) == sorted(self.pairs)
        assert len(self.store) == len(self.pairs)
        assert list(self.store.items()) == [(key, self.pairs[key][0]) for key in sorted(self.pairs)]
        assert list(self.store.values()) == [self.pairs[key][0] for key in sorted(self.pairs)]
        assert {key: (load(), meta) for key, meta, load, _ in self.store.records()} == self.pairs
        assert not [name for name in files(self.store) if name.endswith((".tmp", ".pair"))]


def test_a_store_is_what_a_dict_would_be() -> None:
    run_state_machine_as_test(AgainstDict, settings=settings(max_examples=examples(20), stateful_step_count=25))


@given(meta=metadata)
@settings(max_examples=examples(25))
def test_metadata_is_written_as_dirdb_writes_it(meta: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    store = DirectoryStore(tmp_path_factory.mktemp("s"), durable=False)
    store.put("a", 1, meta)
    text = Path(store._directory, "a.json").read_text("ascii")
    assert text == json.dumps(meta)
    assert copy.deepcopy(store.entry("a").meta) == meta


# --- Keys ------------------------------------------------------------------------------------------------------------

BAD = ["", ".", "..", "a/b", "../x", "/etc", "a\0b", "x" * 249, "é" * 125, "\ud800", "\udcc3\udca9"]


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_a_name_that_no_file_can_have_is_refused_everywhere(store: DirectoryStore, name: str) -> None:
    keys = [name, (name,), ("a", name)] if len(name) > 100 else [name]  # others are escaped in a tuple
    for key in keys:
        for use in (
            lambda key: key in store,
            store.get,
            store.__getitem__,
            store.__delitem__,
            store.entry,
            store.pop,
            lambda key: store.put(key, 1),
            lambda key: store.__setitem__(key, 1),
            store.find,
        ):
            with pytest.raises(ArgumentError):
                use(key)
    assert files(store) == []


def test_a_str_with_a_separator_is_told_of_tuples(store: DirectoryStore) -> None:
    with pytest.raises(ArgumentError, match=r"give a tuple, such as \('ann', 'clip_1'\)"):
        store["ann/clip_1"] = 1


@pytest.mark.parametrize("name", ["x.pickle", "x.json", "x.lock", ".x.pair", ".lotproc-1.value.tmp"])
def test_a_directory_is_never_where_a_file_of_an_entry_would_be(store: DirectoryStore, name: str) -> None:
    store[(name, "y")] = 1
    assert store.subdb(name)["y"] == 1
    store[name] = 2
    store["x"] = 1
    with store.entry("x"):
        store.put("x", 3, {"a": 1})
    assert list(store.items()) == sorted([((name,), 2), ((name, "y"), 1), (("x",), 3)])
    assert [list(each) for each in store.subdirs()] == [[("y",)]]


def test_what_was_not_written_there_is_no_escaped_entry(store: DirectoryStore) -> None:
    """A name with percent signs is a key as it stands, but where lotproc wrote it for another one."""
    store.update({"dF%2FF": 1, "100%": 2, ("dF%2FF", "a%2Eb"): 3, ("dF/F",): 4, ("dF/F", "a"): 5, ("b", ""): 6})
    escaped = Path(store._directory, ".lotproc-escaped")
    assert sorted(path.name for path in escaped.iterdir()) == ["dF%2FF", "dF%2FF.pickle"]
    for name in ("plain", "a%2fb", "100%", "%41", "%FF", "a/b", ".lotproc-escaped"):
        (escaped / f"{name.replace('/', '_')}.pickle").write_bytes(pickle.dumps("not by us"))
        (escaped / name / "x").mkdir(parents=True)
    assert dict(store) == {
        ("dF%2FF",): 1, ("100%",): 2, ("dF%2FF", "a%2Eb"): 3, ("dF/F",): 4, ("dF/F", "a"): 5, ("b", ""): 6
    }  # fmt: skip
    assert sorted(entry.name for entry in original(store)) == ["100%", "dF%2FF"]


def test_the_longest_name_fits_with_all_that_is_written(store: DirectoryStore) -> None:
    for name in ("x" * 248, "é" * 124):
        with store.entry((name,)) as entry:
            entry.put_data(1, {"a": 1})
        assert store.entry(name).read() == (1, {"a": 1})


def test_a_path_that_is_too_long_is_refused(store: DirectoryStore) -> None:
    with pytest.raises(ArgumentError, match="nest less deeply"):
        store[("d" * 200,) * 20] = 1
    deep = (*("d",) * 300, "x")
    store[deep] = 1
    assert list(store) == [deep]


def test_a_str_of_a_subclass_is_its_text(store: DirectoryStore) -> None:
    store[(np.str_("a"), np.str_("b"))] = 1
    store[np.str_("c")] = 2
    assert [type(name) for path in store for name in path] == [str] * 3


def test_the_roots_record_is_the_file_without_a_name(store: DirectoryStore) -> None:
    with store.entry(()) as entry:
        entry.put_data("root", {"a": 1})
    store["b"] = 2
    assert files(store) == [".json", ".pickle", "b.pickle"]
    assert list(store) == [(), ("b",)]
    assert [entry.name for entry in original(store)] == ["b"]
    store.subdb("a")[()] = 1
    assert list(store) == [(), ("b",)]  # that of a nested directory is seen there alone
    assert list(store.subdb("a")) == [()]


def test_entries_come_before_those_below_them_whatever_the_window(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = sorted(
        [("a",), ("a", "b"), ("a", "b", "c"), ("a.b",), ("a-",), ("b", "a"), *((f"{n:03}",) for n in range(40))]
    )
    for key in reversed(keys):
        store[key] = key
    for window in (1, 2, 7, 1000):
        monkeypatch.setattr(scan, "WINDOW", window)
        assert list(store) == keys
    assert [entry.path for entry in store.entries(nested=False)] == [key for key in keys if len(key) == 1]
    assert sorted(store.entries(), reverse=True)[0].path == keys[-1]


def test_a_link_is_followed_within_the_store_alone(store: DirectoryStore, tmp_path: Path) -> None:
    store[("a", "b")] = 1
    DirectoryStore(tmp_path / "else")["c"] = 2
    os.symlink("a", tmp_path / "store" / "link")
    os.symlink(tmp_path / "store", tmp_path / "store" / "a" / "loop")
    os.symlink("b.pickle", tmp_path / "store" / "a" / "same.pickle")
    assert list(store) == [("a", "b"), ("a", "same")]  # what links to directories lead to is there without them
    assert store["link", "b"] == store["a", "loop", "a", "b"] == store["a", "same"] == 1
    store["a", "same"] = 2
    assert (store["a", "same"], store["a", "b"]) == (2, 1)
    os.symlink(tmp_path / "else", tmp_path / "store" / "out")
    out = f"{tmp_path / 'store' / 'out'} is a symbolic link out of .*, to {tmp_path / 'else'}, which is not followed"
    for use in (
        lambda: list(store),
        lambda: list(store.subdirs()),
        lambda: store["out", "c"],
        lambda: ("out", "c") in store,
        lambda: store.put(("out", "c"), 3),
        lambda: store.subdb("out"),
        lambda: store.entry(("out", "d")).__enter__(),
    ):
        with pytest.raises(ForeignFileError, match=out):
            use()
    assert os.listdir(tmp_path / "else") == ["c.pickle"]


# --- What is refused changes nothing ---------------------------------------------------------------------------------


class Breaks:
    def __reduce__(self) -> Any:
        raise RuntimeError("no")


@pytest.mark.parametrize("bad", [{"a": {1}}, {1: 2}, {"a": [{2: 3}]}, {"a": b""}, {"a": math}, [1]], ids=repr)
def test_metadata_that_json_can_not_hold_changes_nothing(store: DirectoryStore, bad: Any) -> None:
    store.put("a", "old", {"old": 1})
    entry = store.entry("a")
    with pytest.raises(CodecError, match="a: "):
        entry.put_data("new", bad)
    with pytest.raises(CodecError):
        store.put("a", "new", bad)
    with pytest.raises(CodecError):
        entry.meta = bad
    with pytest.raises(CodecError), store.writing() as writer:
        writer.put([Item(("b",), 1, None), Item(("a",), "new", bad)])
    if isinstance(bad, dict):
        with pytest.raises(CodecError), store.entry("a") as entry:
            entry.meta.update(bad)
        assert not locks.is_held(entry._paths.lock)
    assert store.entry("a").read() == ("old", {"old": 1})
    assert files(store) == ["a.json", "a.pickle"]


def test_a_value_that_can_not_be_pickled_changes_nothing(store: DirectoryStore) -> None:
    store.put("a", "old", {"old": 1})
    for bad in ([bytes(200_000), lambda: None], Breaks()):
        for use in (lambda bad: store.put("a", bad, {"new": 1}), lambda bad: store.__setitem__("a", bad)):
            with pytest.raises(NotPicklableError, match="the value of a: can't pickle"):
                use(bad)
        with pytest.raises(NotPicklableError, match="of n/a"), store.writing() as writer:
            writer.put([Item(("b",), 1, {}), Item(("n", "a"), bad, None)])
    assert store.entry("a").read() == ("old", {"old": 1})
    assert files(store) == ["a.json", "a.pickle"]


def test_numbers_of_numpy_and_tuples_are_metadata_and_nan_is_what_dirdb_makes_of_it(store: DirectoryStore) -> None:
    entry = store.entry("a")
    entry.put_data(np.ones(3), meta={"shape": (5, 5), "mean": np.float32(0.5), "n": np.int64(3), "worst": math.nan})
    meta = store.entry("a").meta
    assert (meta.shape, meta.mean, meta.n) == ([5, 5], 0.5, 3)
    assert math.isnan(meta.worst)
    assert math.isnan(original(store)["a"].meta["worst"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a limit of the size of files is Unix's")
def test_a_full_disk_leaves_the_old_pair(store: DirectoryStore) -> None:
    """A limit of the size of files stands for the disk's."""
    store.put("a", "old", {"old": 1})
    script = f"""
import resource, signal
from lotproc.stores.directory import DirectoryStore
store = DirectoryStore({store._directory!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit, value, meta in ((5000, bytes(200_000), {{"a": 1}}), (5000, 1, {{"a": "x" * 9000}}), (10, 1, {{}})):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        store.put("a", value, meta)
    except OSError as error:
        print(error.errno, *getattr(error, "__notes__", []))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.count("while writing a") == 3 or sys.version_info < (3, 11)
    assert len(done.stdout.splitlines()) == 3, done.stderr
    assert store.entry("a").read() == ("old", {"old": 1})
    assert files(store) == ["a.json", "a.pickle"]


# --- Killed at every step --------------------------------------------------------------------------------------------

#: What is done to the entry, from ("old", {"old": 1}), and what it is then.
CHANGES: dict[str, tuple[str, tuple[Any, Any] | None]] = {
    "both": ('store.put("a", "new", {"new": 2})', ("new", {"new": 2})),
    "metadata goes": ('store.put("a", "new")', ("new", None)),
    "deleted": ('del store["a"]', None),
    "value": ('store["a"] = "new"', ("new", {"old": 1})),
    "metadata": ('store.entry("a").meta = {"new": 2}', ("old", {"new": 2})),
}


#: Makes each change in children that are killed at each step of those that the system is asked for, one after another.
KILLING = """
import json, os, pickle, signal, sys
from lotproc.stores.protocol import Item
from lotproc.stores.directory import DirectoryStore
root, changes = sys.argv[1], json.loads(sys.argv[2])

def counting(function, left):
    def counted(*args, **kwargs):
        if not left.pop():
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return counted

def seen(folder):  # as dirdb would see it
    try:
        with open(folder + "/a.pickle", "rb") as file:
            value = pickle.load(file)
    except FileNotFoundError:
        return None
    try:
        with open(folder + "/a.json") as file:
            return value, json.load(file)
    except FileNotFoundError:
        return value, None

def everything(folder):
    found = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            found[name] = file.read(), os.fstat(file.fileno()).st_mtime_ns, os.fstat(file.fileno()).st_ino
    return found

for change in changes:
    for durable in (False, True):
        for step in range(100):
            folder = f"{root}/{change}-{durable}-{step}"
            store = DirectoryStore(folder, durable=durable)
            store.put("a", "old", {"old": 1})
            child = os.fork()
            if not child:
                count = [False] + [True] * step
                for name in ("open", "pwrite", "unlink", "replace", "fsync", "ftruncate", "close", "access"):
                    setattr(os, name, counting(getattr(os, name), count))
                exec(changes[change])
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if os.WIFEXITED(status):
                assert status == 0
                break
            by_dirdb, left = seen(folder), everything(folder)
            store = DirectoryStore(folder)
            listed = [entry[:2] + (entry.load(),) for entry in store.records()]
            entry = store.entry("a")
            mine = entry.read() if entry else None
            assert listed == ([(("a",), mine[1], mine[0])] if mine else []), (listed, mine)
            assert store.get("a") == (mine and mine[0]), (store.get("a"), mine)
            assert dict(entry.meta) == (mine and mine[1] or {}) or mine is None
            assert everything(folder) == left  # reading writes nothing
            with store.writing() as writer:  # of another entry
                writer.put([Item(("b",), 1, None)])
            assert seen(folder) == mine
            assert not os.path.exists(folder + "/.a.pair")
            store.put("a", "next", None)
            assert seen(folder) == ("next", None)
            print(json.dumps([change, by_dirdb, mine]))
        else:
            raise AssertionError
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_killed_writer_leaves_the_old_pair_or_the_new_one(tmp_path: Path) -> None:
    args = [
        sys.executable,
        "-c",
        KILLING,
        str(tmp_path),
        json.dumps({name: code for name, (code, _) in CHANGES.items()}),
    ]
    done = subprocess.run(args, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Any]] = {name: [] for name in CHANGES}
    for name, by_dirdb, mine in map(json.loads, done.stdout.splitlines()):
        old, new = ["old", {"old": 1}], CHANGES[name][1] and list(CHANGES[name][1])
        assert mine in (old, new)
        # Before lotproc has come back dirdb sees one of them, too, or the new metadata with the old value.
        assert by_dirdb in (old, new, ["old", new and new[1]])
        found[name].append(mine)
    for name, all_found in found.items():
        assert len(all_found) > 6, name
        assert ["old", {"old": 1}] in all_found
        assert (CHANGES[name][1] and list(CHANGES[name][1])) in all_found


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("durable", [False, True])
def test_an_error_at_any_step_leaves_the_old_pair_or_the_new_one(
    change: str, durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = ("old", {"old": 1}), CHANGES[change][1]

    def failing(function: Any, left: list[bool]) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            if left and not left.pop():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return function(*args, **options)

        return counted

    for step in range(100):
        store = DirectoryStore(tmp_path / str(step), durable=durable)
        store.put("a", *old)
        left = [False] + [True] * step
        error = None
        with monkeypatch.context() as patch:
            for name in ("open", "write", "unlink", "replace", "fsync", "ftruncate"):
                patch.setattr(os, name, failing(getattr(os, name), left))
            try:
                exec(CHANGES[change][0], {"store": store})
            except OSError as raised:
                error = raised
        if left:
            break
        entry = store.entry("a")
        found = entry.read() if entry else None
        assert found in (old, new)
        assert error is not None or found == new
        store.put("b", 1)
        assert (entry.read() if entry else None) == found
        store.put("a", "next", {"next": 1})
        assert store.entry("a").read() == ("next", {"next": 1})
        assert not os.path.exists(tmp_path / str(step) / ".a.pair")
    assert step > 0


def test_what_is_left_of_a_killed_writer_is_removed_when_it_is_a_day_old(store: DirectoryStore) -> None:
    store["a"] = 1
    store[("n", "a")] = 1
    root = Path(store._directory)
    for folder in (root, root / "n"):
        for name, age in ((".lotproc-1-1.value.tmp", 90_000), (".lotproc-1-2.meta.tmp", 80_000)):
            (folder / name).write_bytes(b"")
            os.utime(folder / name, (time.time() - age,) * 2)
    assert sorted(entry.name for entry in original(store)) == ["a"]
    assert list(store) == [("a",), ("n", "a")]
    assert len([name for name in files(store) if "lotproc" in name]) == 4
    with store.writing() as writer:
        writer.put([Item(("n", "b"), 1, None), Item(("c",), 1, None)])
    assert [name for name in files(store) if "lotproc" in name] == [".lotproc-1-2.meta.tmp", "n/.lotproc-1-2.meta.tmp"]


def test_a_new_entry_whose_writer_was_killed_at_the_end_is_found(store: DirectoryStore) -> None:
    """The journal is all that tells of it."""
    entries = store._entries
    paths = entries.layout.of(("n", "a"))
    change = entries.prepare(paths, entries.dumping("new"), b'{"new": 1}')
    Path(paths.journal).write_text(f"lotproc {change.token} replace replace\n")
    assert list(store) == [("n", "a")]
    assert ("n", "a") in store
    assert store.entry(("n", "a")).read() == ("new", {"new": 1})
    assert store.stat(("n", "a")).meta_size == len('{"new": 1}')
    assert len(files(store)) == 3
    store.entry(("n", "a")).meta = {"newer": 1}
    assert store.entry(("n", "a")).read() == ("new", {"newer": 1})
    assert files(store) == ["n/a.json", "n/a.pickle"]


def test_a_torn_journal_is_none_and_one_of_somebody_else_is_left_alone(store: DirectoryStore) -> None:
    store.put("a", "old", {"old": 1})
    journal = Path(store._directory, ".a.pair")
    for torn in (b"", b"lotp", b"lotproc ", b"\0" * 40, b"lotproc abc-1 repl"):
        journal.write_bytes(torn)
        assert store.entry("a").read() == ("old", {"old": 1})
        assert journal.exists()
        store.put("a", "old", {"old": 1})
        assert not journal.exists()
    for mine in (b"a file of mine", bytes(4096) + b"a database of mine"):
        journal.write_bytes(mine)
        for use in (lambda: store["a"], lambda: store.put("a", 1, {})):
            with pytest.raises(ForeignFileError, match="give it another name"):
                use()
        assert list(store) == [("a",)]
        assert journal.read_bytes() == mine
    os.unlink(journal)
    (journal.parent / "mine").touch()
    os.link(journal.parent / "mine", journal)
    with pytest.raises(ForeignFileError, match="has other names"):
        store.put("a", 1, {})
    assert (journal.parent / "mine").read_bytes() == b""


def test_a_journal_that_comes_back_after_all_was_done_does_nothing(store: DirectoryStore) -> None:
    """A power failure may bring back a name whose removal was not synced."""
    for meta in ("replace", "remove"):
        for value in ("replace", "remove"):
            store.put("a", "newer", {"newer": 1})
            Path(store._directory, ".a.pair").write_text(f"lotproc abc-1 {meta} {value}\n")
            assert store.entry("a").read() == ("newer", {"newer": 1})
            store["a"] = "newest"  # what the journal says is looked at, and was done
            assert store.entry("a").read() == ("newest", {"newer": 1})


# --- Beside each other -----------------------------------------------------------------------------------------------


def test_readers_beside_writers_see_pairs_that_were_put(store: DirectoryStore) -> None:
    """Two threads put pairs, with and without metadata, small and large; what is read is always one of them."""
    stop = threading.Event()
    problems: list[BaseException] = []

    def writing(number: int) -> None:
        mine = DirectoryStore(store._directory, durable=False)
        try:
            for step in range(10_000_000):
                if stop.is_set():
                    return
                mark = step * 2 + number
                mine.put("a", [mark, bytes(step % 3 * 40_000)], {"mark": mark} if mark % 3 else None)
        except BaseException as error:
            problems.append(error)

    store.put("a", [0, b""], None)
    threads = [threading.Thread(target=writing, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        seen = set()
        while len(seen) < 60 and not problems:
            (mark, _), meta = store.entry("a").read()
            assert meta == ({"mark": mark} if mark % 3 else None)
            assert store["a"][0] >= 0
            found = store.records()
            entry = next(found)
            mark = entry.load()[0]
            found.close()  # type: ignore[attr-defined]
            assert entry.metadata == ({"mark": mark} if mark % 3 else None)
            seen.add(mark)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not problems


def test_a_pair_that_is_put_between_two_openings_is_read_as_one(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", "old", {"old": 1})
    opened: list[str] = []
    open_regular = reading.open_regular

    def opening(path: str, **options: Any) -> int:
        descriptor = open_regular(path, **options)
        opened.append(path)
        if len(opened) == 1:
            store.put("a", "new", {"new": 1})
        return descriptor

    monkeypatch.setattr(reading, "open_regular", opening)
    assert store.entry("a").read() == ("new", {"new": 1})


HOLDING = """
import sys
from {module} import {name}
entry = {open}
with entry:
    print("held", flush=True)
    sys.stdin.read(1)
"""


@contextlib.contextmanager
def held(store: DirectoryStore, by: str) -> Iterator[subprocess.Popen[str]]:
    """The lock of an entry, held by another process, of lotproc or of dirdb."""
    if by == "dirdb":
        script = HOLDING.format(module="dirdb", name="dirdb", open=f"dirdb({store._directory!r})['a']")
    else:
        script = HOLDING.format(
            module="lotproc.stores.directory",
            name="DirectoryStore",
            open=f"DirectoryStore({store._directory!r}).entry('a')",
        )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("by", ["lotproc", "dirdb"])
def test_a_lock_keeps_others_out_and_tells_who_has_it(store: DirectoryStore, by: str) -> None:
    pytest.importorskip("dirdb")
    impatient = DirectoryStore(store._directory, lock_timeout=0)
    with impatient.entry("a"):  # what is written of this holder does not stand for the next
        pass
    with held(store, by) as process:
        since = r" since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ" if by == "lotproc" else ""
        with pytest.raises(StoreLockedError, match=f"a is locked by process {process.pid} on .*{since}; waited 0 s"):
            impatient.entry("a").__enter__()
        with pytest.raises(StoreLockedError):
            impatient.save_data("a", 1)
        store["a"] = 1  # a lock keeps out only those who lock, as dirdb's does
        process.send_signal(signal.SIGKILL)
        process.wait()
        with store.entry("a") as entry:
            assert entry.get_data() == 1


def test_dirdb_waits_for_a_lock_that_is_held_here(store: DirectoryStore) -> None:
    filelock = pytest.importorskip("filelock")
    with store.entry("a") as entry:
        outside = filelock.FileLock(entry._paths.lock, timeout=0)
        with pytest.raises(filelock.Timeout):
            outside.acquire()
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()} on "):
            locks_in_a_thread(DirectoryStore(store._directory, lock_timeout=0))
    with outside:
        pass


def locks_in_a_thread(store: DirectoryStore, key: str = "a") -> None:
    raised: list[BaseException] = []

    def lock() -> None:
        try:
            with store.entry(key):
                pass
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=lock)
    thread.start()
    thread.join()
    for error in raised:
        raise error


def test_a_lock_is_taken_again_in_its_thread(store: DirectoryStore) -> None:
    again = DirectoryStore(store._directory, lock_timeout=0)
    with store.entry("a") as entry, store.entry("a"), again.entry("a") as other, other:
        store.save_data("a", 1, {"n": 1})
        assert again.get_data("a") == 1
        entry.meta.n += 1
        with pytest.raises(StoreLockedError):
            locks_in_a_thread(again)
    assert store.entry("a").meta == {"n": 2}
    locks_in_a_thread(again)


def test_a_file_by_the_name_of_a_lock_is_left_as_it_is(store: DirectoryStore) -> None:
    mine = Path(store._directory, "poetry.lock")
    mine.write_bytes(b"# a file of mine\n")
    with store.entry("poetry") as entry:
        entry.put_data(1)
        with pytest.raises(StoreLockedError):
            locks_in_a_thread(DirectoryStore(store._directory, lock_timeout=0), "poetry")
    assert mine.read_bytes() == b"# a file of mine\n"


WRITES: dict[str, Any] = {
    "set": lambda store: store.__setitem__(("new", "a"), 1),
    "put": lambda store: store.put(("new", "a"), 1, {"n": 1}),
    "delete": lambda store: store.__delitem__("a"),
    "pop": lambda store: store.pop("a"),
    "clear": lambda store: store.clear(),
    "metadata": lambda store: store.update_meta("a", {"n": 2}),
    "no metadata": lambda store: setattr(store.entry("a"), "meta", None),
    "lock": lambda store: store.entry(("new", "a")).__enter__(),
    "results": lambda store: lp.write(lp.mirror(), store, [lp.ProcessResult(("new", "a"), output=1)]),
}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("way", WRITES)
def test_without_locks_nothing_is_written_and_nothing_left(
    store: DirectoryStore, way: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", 1, {"n": 1})
    with store.entry("a"):  # the lock's file stays, which says nothing of a writer
        pass
    before = sorted(Path(store._directory).rglob("*"))

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    store = DirectoryStore(store._directory, durable=False)
    with pytest.raises(ReadOnlyStoreError, match="can only be read: the file system of .* has no locks"):
        WRITES[way](store)
    assert sorted(Path(store._directory).rglob("*")) == before
    assert (store["a"], store.get_data("a"), store.entry("a").meta, list(store)) == (1, 1, {"n": 1}, [("a",)])


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM], ids=errno.errorcode.__getitem__)
def test_where_no_lock_can_be_made_a_value_is_read_without(
    store: DirectoryStore, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store["a"] = 1

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks, "open_regular", refuse)
    assert store.get_data("a") == 1
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        store.save_data("a", 2)
    assert store["a"] == 1


def add_one(store: DirectoryStore) -> None:
    for _ in range(20):
        with store.entry("a") as entry:
            entry.put_data(entry.get_data() + 1, {"n": entry.meta.n + 1})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_counting_in_threads_and_forked_processes_loses_nothing(store: DirectoryStore) -> None:
    store.put("a", 0, {"n": 0})
    context = multiprocessing.get_context(FORK)
    processes = [context.Process(target=add_one, args=(store,)) for _ in range(2)]
    for process in processes:
        process.start()
    threads = [threading.Thread(target=add_one, args=(store,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for worker in (*threads, *processes):
        worker.join()
    for process in processes:
        assert process.exitcode == 0
        process.close()
    assert store.entry("a").read() == (80, {"n": 80})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_does_not_have_the_lock_of_its_parent(store: DirectoryStore) -> None:
    script = f"""
import os
from lotproc.errors import StoreLockedError
from lotproc.stores.directory import DirectoryStore
store = DirectoryStore({store._directory!r}, lock_timeout=0)
entry = store.entry("a")
with entry:
    entry.meta.n = 1
    child = os.fork()
    if not child:
        try:
            store.save_data("a", 1)
        except StoreLockedError:
            entry.__exit__(None, None, None)  # gives nothing back, and saves nothing
            os._exit(0 if not os.path.exists(entry._paths.meta) else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    if not os.fork():
        os.read(0, 1)  # lives on, and does not keep the lock
        os._exit(0)
with store.entry("a"):
    print("taken", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
    assert store.entry("a").meta == {"n": 1}


# --- Entries ---------------------------------------------------------------------------------------------------------


def test_the_seeds_example(store: DirectoryStore) -> None:
    assert "foo" not in store
    entry = store.entry("foo")
    assert not entry
    assert not entry.has_data()
    entry.put_data(np.ones((5, 5)), meta={"shape": (5, 5)})
    assert entry.name in store
    assert entry
    with entry:
        entry.meta = None
        assert files(store) == ["foo.pickle"]
        entry.meta = {"test": [1, 2]}
        entry.meta.test.append(3)
        assert original(store)["foo"].meta == {"test": [1, 2]}
    assert original(store)["foo"].meta == {"test": [1, 2, 3]}
    store.entry("bar").put_data([1] * 1000)
    with store.entry("foo") as again:
        assert again.meta == {"test": [1, 2, 3]}
        assert again.get_data().shape == (5, 5)
    assert [entry.name for entry in store.entries()] == ["bar", "foo"]
    assert [(each.path, each.stat().meta_size) for each in store.entries()] == [(("bar",), None), (("foo",), 19)]
    del store["foo"]
    assert files(store) == ["bar.pickle"]


def test_metadata_is_saved_only_if_it_was_changed(store: DirectoryStore) -> None:
    store.entry("a").put_data(1, {"a": {"b": [1]}})
    file = Path(store._directory, "a.json")
    before = file.stat().st_ino
    with store.entry("a") as entry:
        assert entry.meta.a.b == [1]
    assert file.stat().st_ino == before
    with store.entry("b") as entry:
        assert entry.meta == {}
        entry.put_data(1)
    assert not Path(store._directory, "b.json").exists()
    with store.entry("a") as entry:
        entry.meta.a.b.append(2)
    assert store.entry("a").meta == {"a": {"b": [1, 2]}}
    with store.entry("a") as entry:
        entry.meta.clear()
    assert file.read_text() == "{}"


def test_after_an_error_in_its_block_metadata_is_what_it_was(store: DirectoryStore) -> None:
    entry = store.entry("a")
    entry.put_data(1, {"n": 0})
    with pytest.raises(ZeroDivisionError), entry:
        entry.meta.n = 2 / entry.meta.pop("n")
    assert entry.meta == store.entry("a").meta == {"n": 0}
    with store.entry("a"):
        pass


def test_metadata_in_memory_is_read_anew_under_the_lock(store: DirectoryStore) -> None:
    store.put("a", 1, {"n": 1})
    entry = store.entry("a")
    assert entry.meta.n == 1
    store.entry("a").meta = {"n": 5}
    with entry:
        entry.meta.n += 1
    assert store.entry("a").meta == {"n": 6}


def test_a_value_and_what_was_changed_in_the_metadata_are_stored_together(store: DirectoryStore) -> None:
    entry = store.entry("a")
    entry.put_data(1, {"n": 1})
    entry.meta.n = 2
    entry.put_data(2)
    assert store.entry("a").read() == (2, {"n": 2})
    store.update_meta("a", {"n": 3})
    assert store.entry("a").read() == (2, {"n": 3})
    store.update_meta("a", None)
    assert store.entry("a").read() == (2, None)


def test_entries_sort_and_are_equal_by_their_keys(store: DirectoryStore) -> None:
    a, b = store.entry("a"), store.entry(("a", "b"))
    assert a < b
    assert a == DirectoryStore(store._directory).entry(("a",))
    assert len({a, b, store.entry("a")}) == 2
    assert a != "a"
    assert repr(b) == f"<entry a/b of {store!r}>"


def test_what_is_known_of_the_files(store: DirectoryStore) -> None:
    with pytest.raises(NoSuchKeyError, match="has nothing under"):
        store.stat("a")
    before = time.time() - 1
    store.put("a", b"x" * 1000, {"n": 1})
    known = store.stat("a")
    assert known.size == len(pickle.dumps(b"x" * 1000, 5))
    assert known.meta_size == len('{"n": 1}')
    assert known.meta_modified is not None
    assert before < known.modified < before + 60
    with pytest.raises(AttributeError):
        known.size = 3  # type: ignore[misc]


def test_deletion_takes_the_metadata_with_it(store: DirectoryStore) -> None:
    store.put("a", 1, {"n": 1})
    store.entry("a").delete()
    with pytest.raises(NoSuchKeyError):
        store.entry("a").delete()
    store.entry("b").meta = {"n": 1}  # before there is a value, as dirdb allows
    with pytest.raises(NoSuchKeyError):
        del store["b"]
    store["b"] = 1
    assert store.entry("b").read() == (1, {"n": 1})
    store.entry("b").delete()
    store.entry("b").meta = {"n": 1}
    store.entry("b").delete()
    assert files(store) == []


def test_nested_databases(store: DirectoryStore) -> None:
    sub = store.subdb("ann")
    sub["clip_1"] = 1
    store[("bob", "x", "y")] = 2
    assert sub.durable is store.durable
    assert [(repr(each), list(each)) for each in store.subdirs()] == [
        (f"DirectoryStore({os.path.join(store._name, 'ann')!r})", [("clip_1",)]),
        (f"DirectoryStore({os.path.join(store._name, 'bob')!r})", [("x", "y")]),
    ]
    assert store.subdb(("bob", "x")) == next(store.subdb("bob").subdirs())
    assert sorted(each.directory.name for each in original(store).subdirs()) == ["ann", "bob"]
    with pytest.raises(ArgumentError, match="create=True makes it"):
        store.subdb("carl", create=False)
    with pytest.raises(ArgumentError):
        store.subdb("../x")
    with pytest.raises(ArgumentError, match="needs a name"):
        store.subdb(())


# --- Metadata --------------------------------------------------------------------------------------------------------


def test_metadata_is_a_dict_whose_methods_stay() -> None:
    meta = Metadata({"items": 1, "keys": {"values": 2}, "a": {"b": {"c": 1}}})
    assert meta["items"] == 1
    assert dict(meta.items()) == meta == {"items": 1, "keys": {"values": 2}, "a": {"b": {"c": 1}}}
    assert meta.a.b.c == 1
    meta.a.b = {"d": {"e": 2}}
    assert meta.a.b.d.e == 2
    meta.setdefault("f", {"g": 1}).g = 2
    meta |= {"h": {"i": 3}}
    assert (meta.f.g, meta.h.i) == (2, 3)
    del meta.f
    for use in (lambda: meta.f, lambda: delattr(meta, "items"), lambda: setattr(meta, "keys", 1)):
        with pytest.raises(AttributeError):
            use()
    assert "a" in dir(meta)
    for copied in (copy.copy(meta), meta.copy(), copy.deepcopy(meta)):
        assert type(copied) is Metadata
        assert copied == meta
    pickled = pickle.loads(pickle.dumps(meta))
    assert (type(pickled), type(pickled["a"])) == (dict, dict)
    assert pickled == meta


@pytest.mark.parametrize(
    "text", [b"", b'{"a": ', b"[1]", b"\xff", b"[" * 100_000, b"3"], ids=lambda text: repr(text[:9])
)
def test_metadata_that_is_no_json_is_damaged(store: DirectoryStore, text: bytes) -> None:
    store["a"] = 1
    Path(store._directory, "a.json").write_bytes(text)
    for read in (lambda: store.entry("a").meta, store.entry("a").read, lambda: list(store.records())):
        with pytest.raises(DamagedStoreError, match=r"the metadata at a can't be read as JSON: .*a\.json"):
            read()
    assert store["a"] == 1
    store.put("a", 2, {"n": 1})
    assert store.entry("a").read() == (2, {"n": 1})


# --- Values and codecs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_damaged_value_is_an_error_or_the_value(store: DirectoryStore, size: int) -> None:
    value = {"text": "x" * 50, "data": bytes(size)}
    store["a"] = value
    file = Path(store._directory, "a.pickle")
    data = file.read_bytes()
    for length in {0, 1, 10, len(data) // 2, len(data) - 1}:
        file.write_bytes(data[:length])
        with pytest.raises(DamagedStoreError, match=r"the value at a can't be read with codec 'pickle': .*a\.pickle"):
            store["a"]
        DirectoryStore(store._directory)  # half a value keeps nobody from the others


def test_all_protocols_are_read_and_5_is_written(store: DirectoryStore) -> None:
    for protocol in range(6):
        Path(store._directory, "a.pickle").write_bytes(pickle.dumps({"a": [1, "é"]}, protocol))
        assert DirectoryStore(store._directory)["a"] == {"a": [1, "é"]}
    store["a"] = 1
    assert Path(store._directory, "a.pickle").read_bytes()[:2] == b"\x80\x05"


@pytest.mark.parametrize(
    ("codec", "value", "suffix"),
    [
        ("json", {"a": [1]}, ".json-value"),
        ("npy", np.arange(5), ".npy"),
        ("npy", np.arange(100_000), ".npy"),
        ("bytes", b"x" * 100_000, ".bytes"),
        ((str.encode, bytes.decode), "text", ".value"),
        ((str.encode, bytes.decode), "text" * 50_000, ".value"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_values_by_codec(tmp_path: Path, codec: Any, value: Any, suffix: str) -> None:
    store = DirectoryStore(tmp_path, codec=codec)
    store.put(("n", "a"), value, {"n": 1})
    assert files(store) == sorted(["n/a.json", f"n/a{suffix}"])
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    np.testing.assert_array_equal(again[("n", "a")], value)
    array = store[("n", "a")]
    store[("n", "a")] = value  # a memory map keeps what it maps
    np.testing.assert_array_equal(array, value)
    with pytest.raises(CodecError, match=f"such as a{suffix}; open it with codec="):
        DirectoryStore(tmp_path)
    del array


def test_a_directory_of_another_codec_is_refused(tmp_path: Path) -> None:
    DirectoryStore(tmp_path)["a"] = np.ones(3)
    with pytest.raises(CodecError, match=r"such as a\.pickle; open it with codec='pickle'"):
        DirectoryStore(tmp_path, codec="npy")
    (tmp_path / "a.pickle").rename(tmp_path / "a.npy")
    with pytest.raises(CodecError, match='the first is a pickle; open it with codec="pickle"'):
        DirectoryStore(tmp_path, codec="npy")


def test_an_array_is_written_and_read_without_another_copy_of_it(store: DirectoryStore) -> None:
    array = np.random.default_rng(0).random(2_000_000)
    store["warm"] = array[:10]
    tracemalloc.start()
    try:
        store["a"] = array
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        read = store["a"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written < 1_000_000
    assert peak < array.nbytes + 1_000_000
    np.testing.assert_array_equal(read, array)
    read[0] = 1  # and is the reader's own


def test_permissions_stay(store: DirectoryStore) -> None:
    store.put("a", 1, {"n": 1})
    for name in ("a.pickle", "a.json"):
        os.chmod(Path(store._directory, name), 0o600)
    store.put("a", 2, {"n": 2})
    store["a"] = 3
    assert [Path(store._directory, name).stat().st_mode & 0o777 for name in ("a.pickle", "a.json")] == [0o600] * 2


def test_a_directory_in_the_place_of_a_value_is_left_alone(store: DirectoryStore) -> None:
    Path(store._directory, "a.pickle").mkdir()
    with pytest.raises(OSError, match="directory"):
        store["a"] = 1
    assert Path(store._directory, "a.pickle").is_dir()
    with pytest.raises(OSError, match="directory"):
        store.put("a", 1, {"n": 1})
    with pytest.raises(NoSuchKeyError):
        del store["a"]
    assert "a" not in store
    assert list(store) == files(store) == []


# --- The store -------------------------------------------------------------------------------------------------------


def test_what_is_no_argument_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for arguments, options in (
        ((3,), {}),
        ((b"a",), {}),
        (("",), {}),
        (("a\0",), {}),
        ((tmp_path / "file",), {}),
        ((tmp_path / "none",), {"create": False}),
        ((tmp_path,), {"codec": "yaml"}),
        ((tmp_path,), {"codec": 3}),
        ((tmp_path,), {"lock_timeout": -1}),
        ((tmp_path,), {"lock_timeout": math.nan}),
        ((tmp_path,), {"lock_timeout": "1"}),
        ((tmp_path,), {"durable": 1}),
    ):
        with pytest.raises((ArgumentError, ArgumentTypeError), match="DirectoryStore"):
            DirectoryStore(*arguments, **options)
    assert os.listdir(tmp_path) == ["file"]


def test_a_closed_store_says_so(store: DirectoryStore) -> None:
    entry = store.entry("a")
    with store:
        store["a"] = 1
    store.close()
    for use in (
        lambda: store["a"],
        lambda: "a" in store,
        lambda: list(store),
        lambda: len(store),
        lambda: store.put("a", 1),
        lambda: entry.get_data(),
        lambda: entry.put_data(1),
        lambda: entry.meta,
        lambda: entry.__enter__(),
        lambda: store.subdb("a"),
        lambda: list(store.subdirs()),
        lambda: list(store.records()),
        lambda: store.writing().__enter__(),
        lambda: store.__enter__(),
        lambda: bool(entry),
    ):
        with pytest.raises(StoreClosedError, match="open it again"):
            use()


def test_stores_are_equal_where_they_are_the_same(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "s")
    os.symlink(tmp_path / "s", tmp_path / "t")
    assert store == DirectoryStore(tmp_path / "t")
    assert hash(store) == hash(DirectoryStore(tmp_path / "t"))
    assert store != DirectoryStore(tmp_path / "s", codec="json")
    assert store != DirectoryStore(tmp_path / "u")
    assert store != {}
    assert repr(store) == f"DirectoryStore({str(tmp_path / 's')!r})"


def test_durable_writes_are_synced_before_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file before it takes its place, and each directory after; a store that is not durable syncs nothing."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: (steps.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}"))), fsync(file))[1]
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("> " + os.path.basename(b)), replace(a, b))[1])
    store = DirectoryStore(tmp_path / "s")
    assert steps == [tmp_path.name]
    steps.clear()
    store[("n", "a")] = 1
    assert [step for step in steps if not step.endswith("tmp")] == ["s", "> a.pickle", "n"]
    assert len(steps) == 4
    steps.clear()
    store.put(("n", "a"), 1, {})
    assert [step for step in steps if not step.endswith("tmp")] == [".a.pair", "n", "> a.json", "> a.pickle", "n"]
    steps.clear()
    with store.writing() as writer:
        writer.put([Item(("n", name), 1, None) for name in "bcd"])
        assert "n" not in steps
        writer.commit()
    assert steps[-1] == "n"
    steps.clear()
    fast = DirectoryStore(tmp_path / "s", durable=False)
    fast.put("a", 1, {})
    fast["a"] = 2
    del fast["a"]
    assert [step for step in steps if not step.startswith(">")] == []


@pytest.mark.parametrize("codec", ["pickle", "json", (str.encode, bytes.decode)])
def test_an_entry_goes_elsewhere_with_its_store(codec: Any, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", codec=codec)
    store["a", "x"] = "text"
    assert pickle.loads(pickle.dumps(store.entry(("a", "x")))).get_data() == "text"
