"""The LMDB store against a dict, beside the package whose files it has, and what that package gets wrong."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from other_places import OTHERS, as_nobody, in_child, on_readonly_media, put_in_place, without_locks
from recording import examples

from lotproc.errors import (
    ArgumentError,
    ArgumentTypeError,
    DamagedStoreError,
    ForeignFileError,
    LotprocError,
    NoSuchKeyError,
    NotPicklableError,
    ReadOnlyStoreError,
    StoreClosedError,
    StoreFullError,
    StoreLockedError,
)
from lotproc.stores.lmdb.errors import os_error
from lotproc.stores.lmdb.keys import KeyForm
from lotproc.stores.protocol import Item

lmdb = pytest.importorskip("lmdb")

from lotproc.stores import LmdbStore  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_file_stays_open")

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def original(path: Path, **options: Any) -> Any:
    """The store of the package whose files these are."""
    return pytest.importorskip("lmdb_object_store").LmdbObjectStore(str(path), **{"key_encoding": "utf-8", **options})


def script(text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )


# --- Against a dict ----------------------------------------------------------------------------------------------

KEYS = ["a", "ann", "ann/x", "ann/x/y", "ann!", "anna", "b", "é", "/", "a//b", "z" * 511]
keys = st.sampled_from(KEYS)
#: Small ones, and some around the size from which on a value has pages of its own.
values = st.integers() | st.sampled_from([2_000, 2_030, 2_050, 20_000]).map(bytes)


class StoreIsADict(RuleBasedStateMachine):
    """One folder or one file, opened by this store or by the original in turn, against a dict."""

    folder: Path
    store: LmdbStore
    number = 0

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        type(self).number += 1
        self.path = self.folder / str(self.number)
        self.subdir = data.draw(st.booleans())
        self.model: dict[str, Any] = {}
        self.reopen(data)

    @rule(data=st.data())
    def reopen(self, data: st.DataObject) -> None:
        if hasattr(self, "store"):
            self.store.close(strict=True)
        self.store = LmdbStore(
            self.path,
            data.draw(st.integers(1, 5)),
            autoflush_on_read=data.draw(st.booleans()),
            max_buffer_bytes=data.draw(st.sampled_from([1, 5_000, 1 << 20])),
            map_size=data.draw(st.sampled_from([1 << 15, 1 << 20])),
            check=True,
            sync=False,
            subdir=self.subdir,
        )

    @rule(changes=st.lists(st.tuples(keys, st.none() | values), max_size=5))
    def change_with_the_original(self, changes: list[tuple[str, Any]]) -> None:
        self.store.close(strict=True)
        with original(self.path, map_size=1 << 20, sync=False, subdir=self.subdir) as other:
            assert other.get_many(KEYS, decode_keys=True)[0] == self.model
            for key, value in changes:
                if value is None:
                    other.delete(key)
                    self.model.pop(key, None)
                else:
                    other.put(key, value)
                    self.model[key] = value
        self.store = LmdbStore(self.path, check=True, sync=False, subdir=self.subdir)

    @rule(key=keys, value=values)
    def put(self, key: str, value: Any) -> None:
        self.store[key] = value
        self.model[key] = value

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.store.delete(key)
        self.model.pop(key, None)

    @rule(key=keys)
    def remove(self, key: str) -> None:
        if key in self.model:
            del self.store[key]
            del self.model[key]
        else:
            with pytest.raises(NoSuchKeyError):
                del self.store[key]

    @rule(key=keys, default=st.integers())
    def pop(self, key: str, default: int) -> None:
        assert self.store.pop(key, default) == self.model.pop(key, default)

    @rule(key=keys, default=st.integers())
    def setdefault(self, key: str, default: int) -> None:
        assert self.store.setdefault(key, default) == self.model.setdefault(key, default)

    @rule()
    def popitem(self) -> None:
        if self.model:
            key, value = self.store.popitem()
            assert key == min(self.model, key=str.encode)
            assert self.model.pop(key) == value

    @rule(items=st.lists(st.tuples(keys, values), max_size=8), as_mapping=st.booleans())
    def put_many(self, items: list[tuple[str, Any]], as_mapping: bool) -> None:
        self.store.put_many(dict(items) if as_mapping else iter(items))
        self.model.update(items)

    @rule(items=st.dictionaries(keys, values, max_size=3))
    def update(self, items: dict[str, Any]) -> None:
        self.store.update(items, b=1)
        self.model.update(items, b=1)

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.model.clear()

    @rule()
    def flush(self) -> None:
        self.store.flush()

    @rule(asked=st.lists(keys, max_size=6))
    def get_many(self, asked: list[str]) -> None:
        found, missing = self.store.get_many(iter(asked), decode_keys=True)
        assert found == {key: self.model[key] for key in asked if key in self.model}
        assert missing == [key for key in asked if key not in self.model]

    @rule(key=keys)
    def read(self, key: str) -> None:
        assert (key in self.store) == (key in self.model) == self.store.exists(key)
        assert self.store.get(key, "none") == self.model.get(key, "none")
        if key not in self.model:
            with pytest.raises(NoSuchKeyError):
                self.store[key]

    @rule(start=st.none() | keys, stop=st.none() | keys, prefix=st.none() | keys | st.just(""), reverse=st.booleans())
    def scan(self, start: str | None, stop: str | None, prefix: str | None, reverse: bool) -> None:
        span = [
            key
            for key in sorted(self.model, key=str.encode, reverse=reverse)
            if (start is None or key.encode() >= start.encode())
            and (stop is None or key.encode() < stop.encode())
            and key.startswith(prefix or "")
        ]
        options: dict[str, Any] = {"start": start, "stop": stop, "prefix": prefix, "reverse": reverse}
        assert list(self.store.keys(**options)) == span
        assert list(self.store.values(**options)) == [self.model[key] for key in span]
        assert list(self.store.items(**options)) == [(key, self.model[key]) for key in span]
        assert list(reversed(self.store.keys(**options))) == span[::-1]
        assert len(self.store.values(**options)) == len(span)

    @rule(at=st.integers(0, 8), changes=st.lists(st.tuples(keys, values), max_size=3))
    def write_while_iterating(self, at: int, changes: list[tuple[str, Any]]) -> None:
        """What was there when it began, unless the map has to grow, which 20 KB in a map of 32 may need."""
        before = dict(self.model)
        seen = []
        for index, (key, value) in enumerate(self.store.items()):
            seen.append(key)
            assert value in (before.get(key, value), self.model[key])
            if index == at:
                self.store.put_many(changes)
                self.model.update(changes)
        assert sorted(set(seen), key=str.encode) == seen
        assert set(before) <= set(seen) <= set(self.model)

    @invariant()
    def holds_the_same(self) -> None:
        if hasattr(self, "store"):
            assert len(self.store) == len(self.model)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close(strict=True)
            assert dict(items_of(self.path, subdir=self.subdir)) == self.model
            shutil.rmtree(self.path) if self.subdir else self.path.unlink()


def items_of(path: Path, **options: Any) -> list[tuple[Any, Any]]:
    with LmdbStore(path, readonly=True, check=True, **options) as store:
        return list(store.items())


def test_any_calls_do_what_they_do_to_a_dict_also_by_the_original(tmp_path: Path) -> None:
    StoreIsADict.folder = tmp_path
    run_state_machine_as_test(StoreIsADict, settings=settings(max_examples=examples(50), stateful_step_count=40))


paths = st.lists(st.sampled_from(["a", "b", "ann", "anna", "!", "é"]), max_size=4).map(tuple)


@settings(max_examples=15)
@given(stored=st.sets(paths, max_size=12), prefix=paths)
def test_a_path_as_prefix_is_a_subtree(tmp_path_factory: Any, stored: set[Any], prefix: Any) -> None:
    with LmdbStore(tmp_path_factory.mktemp("store")) as store:
        store.put_many((path, path) for path in stored)
        below = {path for path in stored if path[: len(prefix)] == prefix}
        found = list(store.values(prefix=prefix))
        assert set(found) == below
        assert len(found) == len(below)
        assert list(store.values(prefix=prefix, reverse=True)) == found[::-1]
        assert {entry.path for entry in store.records()} == stored


odd_texts = st.lists(st.sampled_from(["/", "a", "%", "2F", "25", "\x1blotproc:", "é", "\ud800"]), max_size=6).map(
    "".join
)


@given(st.text(min_size=1, max_size=8) | st.text("/a", min_size=1, max_size=5) | odd_texts.filter(bool))
def test_each_key_has_one_path_and_each_path_one_key(text: str) -> None:
    form = KeyForm("LmdbStore", "utf-8", "strict", None)
    try:
        key = form.to_bytes(text)
    except ArgumentError:
        assert any("\ud800" <= character <= "\udfff" for character in text)
        return
    assert form.to_bytes(form.to_path(key)) == key


FORMS = [
    ("utf-8", "strict"),
    (None, "strict"),
    ("utf-16-le", "strict"),
    ("utf-8", "surrogatepass"),
    ("utf-7", "strict"),
]


@given(st.lists(odd_texts | st.text(max_size=5), max_size=4).map(tuple), st.sampled_from(FORMS))
def test_each_path_comes_back_as_it_was(path: tuple[str, ...], encoding: tuple[str | None, str]) -> None:
    form = KeyForm("LmdbStore", *encoding, None)
    assert form.to_path(form.to_bytes(path)) == path
    text = "/".join(path)
    if path and all(path) and text.count("/") == len(path) - 1 and "\x1b" not in text and text.isascii():
        assert form.to_bytes(path) == text.encode(encoding[0] or "utf-8")  # as it always was


some_paths = st.lists(st.sampled_from(["a", "b", "speaker_01", "k" * 300]), max_size=3).map(tuple)
odd_paths = st.lists(odd_texts | st.text(max_size=5) | st.sampled_from([None, 3]), max_size=3).map(tuple)


@given(
    st.lists(some_paths | some_paths | odd_paths, max_size=5), st.sampled_from(FORMS), st.sampled_from([None, "NFC"])
)
def test_the_keys_of_many_paths_are_those_of_each(paths: Any, encoding: Any, normalize: Any) -> None:
    form = KeyForm("LmdbStore", *encoding, normalize)
    try:
        expected: Any = [form.to_bytes(path) for path in paths]
    except LotprocError as error:
        expected = type(error), str(error)
    try:
        found: Any = form.of_paths(paths)
    except LotprocError as error:
        found = type(error), str(error)
    assert found == expected


# --- Keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "error", "says"),
    [
        ("", ArgumentError, "1 to 511 bytes"),
        (b"", ArgumentError, "1 to 511 bytes"),
        ("k" * 512, ArgumentError, "has 512"),
        ("é" * 256, ArgumentError, "has 512"),
        (("a" * 300, "b" * 300), ArgumentError, "has 601"),
        (("a", "/" * 170), ArgumentError, "has 521"),  # when it is escaped
        ("\udcff", ArgumentError, "can't be written in utf-8"),
        (None, ArgumentTypeError, "must be bytes"),
        (3, ArgumentTypeError, "got int 3"),
        (("a", 3), ArgumentTypeError, "tuple of str"),
    ],
)
def test_a_key_that_can_t_be_is_refused_by_every_call_and_harms_nothing(
    path: Path, key: Any, error: type[Exception], says: str
) -> None:
    with LmdbStore(path) as store:
        store["a"] = 1
        calls: list[Callable[[], Any]] = [
            lambda: store.put(key, 1),
            lambda: store.get(key),
            lambda: store[key],
            lambda: key in store,
            lambda: store.exists(key),
            lambda: store.delete(key),
            lambda: store.pop(key, None),
            lambda: store.setdefault(key, 1),
            lambda: store.put_many([("b", 1), (key, 2)]),
            lambda: store.update({key: 1}),
            lambda: store.get_many(["a", key]),
            lambda: store.__delitem__(key),
        ]
        for call in calls:
            with pytest.raises(error, match=says):
                call()
    assert items_of(path) == [("a", 1)]


def test_a_bad_key_or_value_does_not_lose_what_else_is_buffered(path: Path) -> None:
    """The original takes an empty key, and then loses all that is buffered with it, with no more than a log line."""
    with LmdbStore(path) as store:
        for number in range(900):
            store[f"{number}"] = number
        for key in ("", "k" * 512):
            with pytest.raises(ArgumentError):
                store[key] = 1
        with pytest.raises(NotPicklableError, match=r"the value of 'bad': can't pickle this function"):
            store["bad"] = lambda: None
    assert len(items_of(path)) == 900


def test_bytes_of_every_kind_are_keys_and_without_an_encoding_the_only_ones(path: Path) -> None:
    with LmdbStore(path, key_encoding=None) as store:
        store[b"\xff"] = 1
        store[bytearray(b"b")] = 2
        store[memoryview(b"m")] = 3
        store["ann", "x"] = 4
        assert list(store) == [b"ann/x", b"b", b"m", b"\xff"]
        assert store.get_many([b"b", bytearray(b"?")]) == ({b"b": 2}, [b"?"])
        with pytest.raises(ArgumentTypeError, match="open the store with key_encoding='utf-8'"):
            store["text"] = 1
        with pytest.raises(ArgumentError, match="can't decode keys"):
            store.get_many([b"b"], decode_keys=True)
    with LmdbStore(path) as store:
        with pytest.raises(ArgumentError, match="key_encoding=None"):
            list(store)
        with pytest.raises(ArgumentError, match="key_encoding=None"):
            list(store.items())
        with pytest.raises(ArgumentError, match="key_encoding=None"):
            list(store.records())
        assert list(store.values()) == [4, 2, 3, 1]


def test_a_bytes_key_that_is_no_text_is_refused_where_it_would_be_stored(path: Path) -> None:
    """One such key would make listing raise for the whole store; other programs may have written one."""
    with LmdbStore(path, key_encoding=None) as store:
        store[b"\xff"] = 1
        store[b"\xfe"] = 2
    with LmdbStore(path) as store:
        calls: list[Callable[[], Any]] = [
            lambda: store.put(b"\xfd", 1),
            lambda: store.put(bytearray(b"\xfd"), 1),
            lambda: store.put(b"\xff", 1),
            lambda: store.setdefault(memoryview(b"\xfd"), 1),
            lambda: store.put_many([("a", 1), (b"\xfd", 1)]),
            lambda: store.update({b"\xfd": 1}),
        ]
        for call in calls:
            with pytest.raises(ArgumentError, match=r"store'\): .* is no text in utf-8 .*key_encoding=None"):
                call()
        assert store[b"\xff"] == store.get(b"\xff") == store.setdefault(b"\xff", 3) == 1
        assert b"\xff" in store
        assert b"\xfd" not in store
        del store[b"\xff"]
        assert store.pop(b"\xfe") == 2
        store["é".encode()] = 3
        assert list(store.items()) == [("é", 3)]
    with LmdbStore(path, key_encoding="latin-1") as store:
        store[b"\xff"] = 4
        assert list(store) == ["Ã©", "ÿ"]


def test_what_is_no_keys_or_pairs_is_refused_by_calls_for_many(path: Path) -> None:
    with LmdbStore(path) as store:
        store["a"] = 1
        for keys in ("abc", b"abc", bytearray(b"a"), memoryview(b"a"), None, 3):
            with pytest.raises(ArgumentTypeError, match=r"store'\): get_many takes keys, as a list"):
                store.get_many(keys)  # type: ignore[arg-type]
        for items in (None, 3):
            with pytest.raises(
                ArgumentTypeError, match=r"put_many takes a mapping, or pairs of a key and a value, got"
            ):
                store.put_many(items)  # type: ignore[arg-type]
            with pytest.raises(ArgumentTypeError, match="update takes a mapping, or pairs"):
                store.update(items)
        assert store.get_many(("a", "b")) == ({b"a": 1}, ["b"])
        with pytest.raises(ArgumentTypeError, match="of a generator"):
            store.get_many(failing())
        with pytest.raises(ArgumentError, match=rf"LmdbStore\('{path}'\): a key must have 1 to 511 bytes"):
            store.get("")


def failing() -> Iterator[str]:
    yield "a"
    raise ArgumentTypeError("of a generator")


def test_text_is_normalized_and_encoded_as_told(path: Path) -> None:
    with LmdbStore(path, key_encoding="latin-1", key_errors="replace", str_normalize="NFC") as store:
        store[unicodedata.normalize("NFD", "é")] = 1
        store["€"] = 2
        assert list(store) == ["?", "é"]
        assert store["é"] == 1
        assert store.get_many([b"\xe9", b"x", "y"], decode_keys=True) == ({"é": 1}, ["x", "y"])
        assert store.get_many(["y", b"x"], decode_not_found=True) == ({}, ["y", "x"])


def test_what_can_t_be_decoded_or_encoded_names_the_key(path: Path) -> None:
    with lmdb.open(str(path)) as env, env.begin(write=True) as transaction:
        transaction.put(b"a", pickle.dumps(1))
        transaction.put(b"b", pickle.dumps(2)[:-1])
        transaction.put(b"c", pickle.dumps(3))
    with LmdbStore(path) as store:
        for read in (lambda: store["b"], lambda: store.get_many(["a", "b"]), lambda: list(store.values())):
            with pytest.raises(DamagedStoreError, match="the value of 'b' can't be decoded with codec 'pickle'"):
                read()
        items = iter(store.items())
        assert next(items) == ("a", 1)
        with pytest.raises(DamagedStoreError, match="'b'"):
            next(items)
        assert list(store) == ["a", "b", "c"]
    with LmdbStore(path.with_name("text"), codec=(str.encode, bytes.decode)) as store:
        with pytest.raises(TypeError) as caught:
            store["number"] = 3
        assert "the value of 'number'" in caught.value.__notes__[0]
        assert len(store) == 0


# --- The buffer and the end --------------------------------------------------------------------------------------


def stored(path: Path) -> int:
    """Records that another process would see."""
    text = "import lmdb, sys\nwith lmdb.open(sys.argv[1], readonly=True) as env: print(env.stat()['entries'])"
    return int(script(text, path).stdout)


def test_the_buffer_is_stored_by_count_by_bytes_and_by_reads(path: Path) -> None:
    with LmdbStore(path, batch_size=3, max_buffer_bytes=1000) as store:
        store["a"] = 1
        store["b"] = 2
        assert "a" in store
        assert "x" not in store
        assert store["b"] == 2
        assert not store.exists("x", flush=False)
        assert stored(path) == 0
        store["c"] = 3
        assert stored(path) == 3
        store["d"] = "x" * 1000
        assert stored(path) == 4
        store["e"] = 1
        assert store.get("x") is None
        assert stored(path) == 5
        store["f"] = 1
        assert not store.exists("x")
        assert stored(path) == 6
    with LmdbStore(path, autoflush_on_read=False) as store:
        store["g"] = 1
        del store["a"]
        assert (store.get("x"), len(store), list(store)) == (None, 6, ["b", "c", "d", "e", "f", "g"])
        assert stored(path) == 6
        assert store.exists("x", flush=True) is False
        assert stored(path) == 6
        store.flush()
        assert "a" not in store


def full_store(path: Path, **options: Any) -> LmdbStore:
    """A store whose map can't grow, with more in its buffer than there is room for."""
    store = LmdbStore(path, max_map_size=1 << 17, batch_size=1000, **options)
    for number in range(500):
        store[f"{number:03}"] = b"x" * 500
    return store


def test_a_with_block_that_could_not_store_everything_raises(path: Path) -> None:
    """The original stores 0 of 500, and says so in a log line."""
    with pytest.raises(StoreFullError, match="max_map_size is 131,072") as caught, full_store(path):
        pass
    if sys.version_info >= (3, 11):
        assert "500 changes that were buffered are lost" in caught.value.__notes__[0]
    with pytest.raises(KeyError, match="mine") as mine, full_store(path):
        raise KeyError("mine")
    assert any("500 changes" in note for note in mine.value.__notes__)
    assert items_of(path) == []


def test_close_raises_when_strict_and_else_warns_and_closes_in_any_case(path: Path, caplog: Any) -> None:
    store = full_store(path)
    with pytest.raises(StoreFullError):
        store.close(strict=True)
    store.close(strict=True)
    store = full_store(path)
    with caplog.at_level(logging.ERROR), pytest.warns(RuntimeWarning, match="500 changes that were buffered are lost"):
        store.close()
    assert "500 changes" in caplog.text
    with pytest.raises(StoreClosedError, match="open it again"):
        store["000"]
    assert items_of(path) == []


def test_a_full_store_keeps_its_buffer_and_takes_deletions(path: Path) -> None:
    with LmdbStore(path, max_map_size=1 << 18, batch_size=1) as store:

        def fill() -> None:
            for number in range(1000):
                store[f"{number:03}"] = b"x" * 1000

        with pytest.raises(StoreFullError):
            fill()
        count = len(store)
        assert 50 < count < 1000
        assert f"{count:03}" not in store
        for number in range(count):
            store.delete(f"{number:03}")
        assert len(store) == 0
        store["new"] = b"y" * 50_000
        assert store["new"] == b"y" * 50_000
    store = full_store(path)
    with pytest.raises(StoreFullError):
        store.flush()
    assert store["000"] == b"x" * 500
    for number in range(10, 500):
        store.delete(f"{number:03}")
    store.close(strict=True)
    assert [key for key, _ in items_of(path)] == [f"{number:03}" for number in range(10)] + ["new"]


def filled(path: Path, **options: Any) -> tuple[LmdbStore, int]:
    """A store with a full map and a buffer that is nearly full, and how many records it has."""
    store = LmdbStore(path, max_map_size=MIB, batch_size=10, **options)
    for number in range(10_000):
        try:
            store[f"{number:04}"] = b"x" * 1000
        except StoreFullError:
            return store, number
    raise AssertionError


@pytest.mark.parametrize("autoflush", [True, False])
def test_a_full_store_is_read_with_what_waits_in_its_buffer(path: Path, autoflush: bool, caplog: Any) -> None:
    store, count = filled(path, autoflush_on_read=autoflush)
    waiting = len(store._buffer.pending) if store._buffer else 0
    assert waiting == 9
    names = [f"{number:04}" for number in range(count)]
    assert store["0001"] == store[names[-1]] == b"x" * 1000
    assert len(store) == count
    assert list(store) == names
    assert [key for key, _ in store.items(reverse=True)] == names[::-1]
    assert store.get_many(["0001", names[-1], "?"])[1] == ["?"]
    assert store.exists("0001")
    assert "?" not in store
    assert store.find(("0001",)) is not None
    assert caplog.text.count("reads go on without") == autoflush
    assert stored(path) == count - waiting
    assert store.pop("0000") == b"x" * 1000
    assert store.popitem()[0] == "0001"
    assert list(store) == names[2:]
    for name in names[2:60]:
        del store[name]
    store.flush()
    assert stored(path) == len(store) == count - 60
    store.close(strict=True)
    assert [key for key, _ in items_of(path)] == names[60:]


def test_a_deletion_is_stored_at_once_when_nothing_else_has_room(path: Path) -> None:
    store, count = filled(path)
    store.delete("0001")  # the tenth change: the buffer is stored
    assert stored(path) == count - 9 - 1
    with pytest.raises(StoreFullError, match="delete records and flush"):
        store.flush()
    store.delete("0001")
    for _ in range(3):
        size = store._buffer.size if store._buffer else 0
        with pytest.raises(StoreFullError):
            store["new"] = b"x" * 1000
        assert store._buffer is not None
        assert store._buffer.size == size
    assert "new" not in store
    assert len(store) == count - 1
    store.clear()
    assert len(store) == stored(path) == 0
    store["new"] = b"x" * 500_000
    store.close(strict=True)
    assert [key for key, _ in items_of(path)] == ["new"]


def test_a_deletion_that_a_refused_value_would_have_replaced_stays(path: Path) -> None:
    store, _ = filled(path)
    store.clear()
    store.put_many((f"{number:04}", b"x" * 1000) for number in range(400))
    store.delete("0000")
    for number in range(7):
        store[f"a{number}"] = b"x" * 100_000
    store.delete("0001")
    with pytest.raises(StoreFullError):
        store["0000"] = b"x" * 100_000
    assert "0000" not in store
    assert "0001" not in store
    for number in range(7):
        store[f"a{number}"] = b""
    store.close(strict=True)
    assert [key for key, _ in items_of(path)][:1] == ["0002"]


def test_reads_go_on_where_the_disk_has_no_room(path: Path) -> None:
    resource = pytest.importorskip("resource")

    def run() -> tuple[Any, ...]:
        with LmdbStore(path) as store:
            store["a"] = 1
            store.flush()
            store["b"] = os.urandom(3 * MIB)
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))
            found = store["a"], list(store), len(store)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            return found

    assert in_child(run) == (1, ["a", "b"], 2)
    assert [key for key, _ in items_of(path)] == ["a", "b"]


def test_what_the_disk_has_no_room_for_stays_in_the_buffer(path: Path) -> None:
    resource = pytest.importorskip("resource")

    def run() -> tuple[int, str, int, int]:
        with LmdbStore(path) as store:
            store["a"] = os.urandom(3 * MIB)
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))
            try:
                store.flush()
                code, said = 0, ""
            except OSError as error:
                code, said = error.errno or 0, str(error)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            kept = len(store["a"])
            store.flush()
            return code, said, kept, len(store)

    code, said, kept, count = in_child(run)
    assert (errno.errorcode.get(code), kept, count) == ("EFBIG", 3 * MIB, 1)
    assert "no file of this process may be larger than 1,048,576 bytes" in said
    assert str(path) in said
    assert len(items_of(path)) == 1


def test_a_full_disk_is_called_one_and_what_it_has_no_room_for_stays(tmp_path: Path) -> None:
    """LMDB tells of an input/output error where a part of what it writes still fits."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if sys.platform != "linux" or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be made here")
    try:
        with LmdbStore(tmp_path / "store") as store:
            store["a"] = 1
            store.flush()
            store["b"] = os.urandom(3 * MIB)
            for _ in range(2):
                with pytest.raises(OSError, match=r"store.*No space left.*bytes are free.*make room") as caught:
                    store.flush()
                assert caught.value.errno == errno.ENOSPC
            assert len(store["b"]) == 3 * MIB
            del store["b"]
            with pytest.raises(OSError, match="temporary file for put_many.*No space left") as caught:
                store.put_many((f"{number}", os.urandom(MIB)) for number in range(40))
            assert caught.value.errno == errno.ENOSPC
            assert dict(store) == {"a": 1}
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_an_input_error_is_a_full_disk_only_where_the_disk_has_no_room(tmp_path: Path) -> None:
    error = os_error(errno.EIO, "it", str(tmp_path / "data.mdb"), 1 << 60)
    assert error.errno == errno.ENOSPC
    assert "1,152,921,504,606,846,976 bytes of records were to be written" in str(error)
    assert os_error(errno.EIO, "it", str(tmp_path), 0).errno == errno.EIO
    assert "make room" not in str(os_error(errno.EACCES, "it", str(tmp_path), 1 << 60))


def test_a_store_can_be_one_file_and_is_the_original_s_then_as_well(path: Path) -> None:
    with LmdbStore(path, subdir=False) as store:
        store["a"] = 1
        store.put_many({"b": 2})
    with original(path, subdir=False) as other:
        assert (other.get("a"), other.get("b")) == (1, 2)
        other.put("c", 3)
    assert path.is_file()
    with lmdb.open(str(path), subdir=False) as env:
        for compact in (False, True):
            env.copy(f"{path}-{compact}", compact=compact)
    for copied in (path, Path(f"{path}-False"), Path(f"{path}-True")):
        with LmdbStore(copied, subdir=False, check=True) as store:
            assert dict(store) == {"a": 1, "b": 2, "c": 3}
            store["d"] = 4
            store.flush()
            store.verify()
    with pytest.raises(OSError, match="Not a directory"):
        LmdbStore(path)


def test_the_format_does_not_depend_on_the_environment(path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("LMDB_DEFAULT_LIB_VERSION", "1")
    for _ in range(2):
        with LmdbStore(path) as store:
            assert store.setdefault("a", 1) == 1


def test_what_is_closed_says_so_and_closing_again_is_nothing(path: Path) -> None:
    with LmdbStore(path) as store:
        store["a"] = 1
        items = iter(store.items())
    store.close()
    for call in (
        lambda: store.put("a", 1),
        lambda: store["a"],
        lambda: len(store),
        lambda: next(iter(store)),
        lambda: next(items),
        lambda: store.flush(),
        lambda: store.clear(),
        lambda: "a" in store,
        lambda: store.put_many([]),
        lambda: store.verify(),
        lambda: store.__enter__(),
    ):
        with pytest.raises(StoreClosedError):
            call()
    assert repr(store) == f"LmdbStore({str(path)!r})"


def test_a_store_that_nobody_closes_is_stored_with_a_warning(path: Path) -> None:
    store = LmdbStore(path)
    store["a"] = 1
    with pytest.warns(ResourceWarning, match="was not closed"):
        del store
    assert items_of(path) == [("a", 1)]
    answer = script(
        "import sys\nfrom lotproc.stores import LmdbStore\nstore = LmdbStore(sys.argv[1])\nstore['b'] = 2", path
    )
    assert answer.returncode == 0
    assert [key for key, _ in items_of(path)] == ["a", "b"]


def test_reading_only(path: Path) -> None:
    with LmdbStore(path) as store:
        store["a"] = 1
    with LmdbStore(path, readonly=True) as store:
        assert dict(store) == {"a": 1}
        for call in (
            lambda: store.put("a", 1),
            lambda: store.delete("a"),
            lambda: store.flush(),
            lambda: store.clear(),
            lambda: store.put_many({}),
            lambda: store.popitem(),
            lambda: store.writing().__enter__(),
        ):
            with pytest.raises(ReadOnlyStoreError, match="reading only"):
                call()
    with pytest.raises(FileNotFoundError):
        LmdbStore(path / "none", readonly=True)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"batch_size": 0}, ArgumentError, "at least 1"),
        ({"batch_size": "many"}, ArgumentTypeError, "whole number"),
        ({"max_buffer_bytes": 0}, ArgumentError, "at least 1"),
        ({"map_size": 2**20, "max_map_size": 2**19}, ArgumentError, "no more than max_map_size"),
        ({"codec": "xml"}, ArgumentError, "codec"),
        ({"key_encoding": "utf-9"}, ArgumentError, "encoding"),
        ({"key_encoding": "base64"}, ArgumentError, "encoding"),
        ({"key_encoding": 8}, ArgumentTypeError, "key_encoding"),
        ({"key_errors": "loose"}, ArgumentError, "key_errors"),
        ({"str_normalize": "NFX"}, ArgumentError, "NFKD"),
        ({"writemap": True}, ArgumentError, "full disk"),
        ({"mapsize": 3}, ArgumentTypeError, "no option 'mapsize'"),
        ({"readonly": 1}, ArgumentTypeError, "readonly must be True or False"),
        ({"check": 1}, ArgumentTypeError, "check"),
    ],
)
def test_options_that_can_t_be_are_refused_at_once(
    path: Path, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        LmdbStore(path, **options)
    assert not path.exists()


# --- put_many ----------------------------------------------------------------------------------------------------


def test_put_many_streams_in_bounded_memory_and_leaves_no_file(path: Path, monkeypatch: Any) -> None:
    """The original holds all that a generator gives."""
    monkeypatch.setattr("lotproc.stores.lmdb.store.SPOOL", MIB)
    with LmdbStore(path, map_size=MIB) as store:
        tracemalloc.start()
        store.put_many((f"{number % 1500:05}", os.urandom(10_000)) for number in range(2_000))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 * MIB
        assert len(store) == 1500
        assert sorted(os.listdir(path)) == ["data.mdb", "lock.mdb"]
        store.put_many((f"{number % 3}", number) for number in range(300_000) if number < 9 or number > 299_990)
        assert [store[key] for key in "012"] == [299_997, 299_998, 299_999]


@pytest.mark.parametrize("bad", [("", 1), ("k", lambda: None), "abc", 3])
def test_put_many_with_one_bad_item_leaves_nothing_of_the_call(path: Path, bad: Any) -> None:
    with LmdbStore(path) as store:
        store["before"] = 1
        with pytest.raises(LotprocError):
            store.put_many([*((f"{number}", number) for number in range(1000)), bad])
        with pytest.raises(ZeroDivisionError):
            store.put_many((f"{number}", 1 // (500 - number)) for number in range(1000))
        assert dict(store) == {"before": 1}


def test_put_many_may_read_and_write_the_store_that_it_writes(path: Path) -> None:
    with LmdbStore(path, map_size=MIB) as store:
        store.put_many((f"{number:04}", b"x" * 1000) for number in range(2000))

        def doubled() -> Iterator[tuple[str, bytes]]:
            for key, value in store.items():
                store["count"] = int(store.get("count", 0)) + 1
                yield f"{key}'", value * 2

        store.put_many(doubled())
        assert store["count"] == 2000
        assert len(store) == 4001


def test_put_many_that_finds_no_room_leaves_nothing(path: Path) -> None:
    with LmdbStore(path, max_map_size=MIB) as store:
        store["a"] = 1
        with pytest.raises(StoreFullError, match="larger max_map_size"):
            store.put_many((f"{number}", os.urandom(1000)) for number in range(2000))
        assert dict(store) == {"a": 1}
    with LmdbStore(path, map_size=1 << 16) as store:
        store.put_many((f"{number}", os.urandom(1000)) for number in range(2000))
        assert len(store) == 2001


# --- The size of the map -----------------------------------------------------------------------------------------


def map_size_of(path: Path) -> int:
    """What the file says of the map that it was written with."""
    data = (path / "data.mdb").read_bytes()
    return max(int(struct.unpack_from("=Q", data, page + 32)[0]) for page in (0, 4096))


def test_the_map_does_not_grow_with_each_reopening(path: Path) -> None:
    for _ in range(30):
        with LmdbStore(path, map_size=1 << 16) as store:
            store.put_many((f"{number}", os.urandom(20_000)) for number in range(100))
            assert len(store) == 100
            size = store._environment.map_size
    assert 2 * MIB < size == map_size_of(path) < 200 * MIB


def test_a_map_is_as_large_as_before_when_it_is_opened_again(path: Path) -> None:
    with LmdbStore(path, map_size=100 * MIB) as store:
        store["a"] = 1
    for options in ({}, {"readonly": True}, {"map_size": MIB}, {"map_size": 1, "max_map_size": 1 << 30}):
        with LmdbStore(path, **options) as store:  # type: ignore[arg-type]
            assert store._environment.map_size == 100 * MIB
    with LmdbStore(path, map_size=200 * MIB) as store:
        assert store._environment.map_size == 200 * MIB
    with LmdbStore(path, readonly=True), LmdbStore(path) as store:
        assert store._environment.map_size == 100 * MIB
    with LmdbStore(path, max_map_size=MIB) as store:
        assert store._environment.map_size == MIB


@pytest.mark.parametrize("size", [46 << 40, 2**62, 2**64 - 1])
def test_a_map_that_was_absurdly_large_is_opened_all_the_same(path: Path, size: int) -> None:
    with LmdbStore(path) as store:
        store["a"] = 1
    with open(path / "data.mdb", "r+b") as file:
        for page in (0, 4096):
            file.seek(page + 32)
            file.write(struct.pack("=Q", size))
    assert map_size_of(path) == size
    assert items_of(path) == [("a", 1)]
    with LmdbStore(path) as store:
        store.put_many((f"{number}", os.urandom(20_000)) for number in range(100))
        assert store._environment.map_size == 1 << 40
    with original(path, map_size=200 * MIB) as other:
        assert other.get("a") == 1


def test_where_there_is_no_address_space_for_the_map_a_smaller_one_will_do(path: Path) -> None:
    """LMDB gives up its map before it takes a new one, and would crash on what is used next."""
    resource = pytest.importorskip("resource")
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("the system does not tell what is used")
    with LmdbStore(path, map_size=1 << 39) as store:
        store["a"] = 1

    def run() -> tuple[int, int, str, int]:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + (512 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        with LmdbStore(path) as store:
            size = store._environment.map_size
            items = iter(store.items())
            next(items)
            try:
                store._environment.grow(None, wanted=1 << 39)
                code, said = 0, ""
            except OSError as error:
                code, said = error.errno or 0, str(error)
            store["b"] = 2
            store.flush()
            assert list(items) == [("b", 2)]
            return size, code, said, len(store)

    size, code, said, count = in_child(run)
    assert (size, errno.errorcode.get(code), count) == (64 * MIB, "ENOMEM", 2)
    assert "ulimit -v" in said


def test_a_full_map_stays_full_also_where_the_file_had_a_larger_one(path: Path) -> None:
    with LmdbStore(path) as store:
        store["a"] = 1
    store = full_store(path)
    for _ in range(2):
        with pytest.raises(StoreFullError):
            store.flush()
    store.clear()
    store.close(strict=True)


# --- Threads, growth, one environment ------------------------------------------------------------------------------


def test_the_map_grows_beside_threads_that_read_and_iterate(path: Path) -> None:
    """The original crashes when it grows the map while another thread reads."""
    with LmdbStore(path, map_size=1 << 16, batch_size=20) as store:
        store.put_many((f"a{number:03}", number) for number in range(200))
        done = threading.Event()

        def read() -> int:
            rounds = 0
            while not done.is_set():
                assert [store[f"a{number:03}"] for number in range(0, 200, 9)] == list(range(0, 200, 9))
                assert list(store.values(prefix="a")) == list(range(200))
                assert len(store.get_many([f"a{number:03}" for number in range(50)])[0]) == 50
                rounds += 1
            return rounds

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read) for _ in range(3)]
            sizes = set()
            try:
                for number in range(300):
                    store[f"b{number:03}"] = b"x" * 300_000
                    sizes.add(store._environment.map_size)
            finally:
                done.set()
            assert all(reader.result() > 0 for reader in readers)
        assert len(sizes) > 1
        assert len(store) == 500


def test_the_map_grows_under_an_open_iteration_of_the_same_thread(path: Path) -> None:
    with LmdbStore(path, map_size=1 << 18, batch_size=1) as store:
        store.put_many((f"{number:04}", number) for number in range(2000))
        for what, expected in ((store, "0000"), (reversed(store), "1999")):
            items = iter(what)
            seen = [next(items)]
            size = store._environment.map_size
            store["zz"] = os.urandom(size)
            assert store._environment.map_size > size
            del store["zz"]
            seen += items
            assert seen[0] == expected
            assert sorted(seen) == [f"{number:04}" for number in range(2000)]


def test_an_iteration_sees_what_was_there_when_it_began(path: Path) -> None:
    with LmdbStore(path) as store:
        store.put_many((f"{number:04}", number) for number in range(3000))
        items = iter(store.items())
        next(items)
        for key, value in store.items():
            store[f"{key}x"] = value  # would never end if it were seen
        store.clear()
        assert len(list(items)) == 2999
        assert len(store) == 0


@pytest.mark.parametrize("what", ["read", "read many", "count", "write", "write many", "begin", "go on", "open"])
def test_a_map_that_another_process_made_larger_is_taken_on(path: Path, what: str) -> None:
    """In the original every later call fails."""
    with LmdbStore(path, map_size=1 << 16) as store:
        store.put_many((f"{number:04}", number) for number in range(1000))
        items = iter(store.items())
        next(items)
        grow = (
            "import lmdb, pickle, sys\nwith lmdb.open(sys.argv[1], map_size=1 << 22) as env:\n"
            "    with env.begin(write=True) as transaction:\n"
            "        transaction.put(b'one', pickle.dumps(b'x' * (1 << 20)))"
        )
        assert script(grow, path).returncode == 0
        if what == "read":
            assert len(store["one"]) == MIB
        elif what == "read many":
            assert store.get_many(["0000", "two"]) == ({b"0000": 0}, ["two"])
        elif what == "write":
            store["two"] = 2
            store.flush()
        elif what == "write many":
            store.put_many({"two": 2})
        elif what == "begin":
            assert len(list(store.values(prefix="0"))) == 1000
        elif what == "open":
            with LmdbStore(path) as another:
                assert len(another["one"]) == MIB
        assert len(store) in (1001, 1002)
        assert [value for key, value in items if key < "one"] == list(range(1, 1000))
        assert len(store["one"]) == MIB


def test_stores_of_one_file_share_what_is_open(path: Path, tmp_path: Path) -> None:
    """LMDB allows a file to be open once in a process."""
    with LmdbStore(path) as first:
        first["a"] = 1
        first.flush()
        (tmp_path / "link").symlink_to(path)
        with LmdbStore(tmp_path / "link") as second, LmdbStore(path, readonly=True) as reader:
            assert second == first != LmdbStore
            assert hash(second) == hash(first)
            second["b"] = 2
            second.flush()
            assert dict(first) == dict(second) == dict(reader) == {"a": 1, "b": 2}
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda number: LmdbStore(path).close(), range(20)))
            with pytest.raises(ArgumentError, match="has the store open with sync=True"):
                LmdbStore(path, sync=False)
        first["c"] = os.urandom(70 * MIB)
        assert len(first) == 3
    with LmdbStore(path, readonly=True) as reader:
        items = iter(reader.items())
        assert next(items) == ("a", 1)
        with LmdbStore(path) as writer:
            writer["d"] = 4
            writer.flush()
            assert reader["d"] == 4
            assert [key for key, _ in items] == ["b", "c", "d"]
        assert reader["b"] == 2
    with lmdb.open(str(path)), pytest.raises(StoreLockedError, match="other code has"):
        LmdbStore(path)


def test_threads_write_and_read_all_at_once(path: Path) -> None:
    with LmdbStore(path, batch_size=7, map_size=1 << 16) as store:

        def work(thread: int) -> None:
            for number in range(60):
                store[f"{thread}/{number}"] = number
                assert store[f"{thread}/{number}"] == number
                if number % 7 == 0:
                    store.put_many((f"{thread}/m{number}/{index}", b"x" * 500) for index in range(5))
                if number % 11 == 0:
                    assert store.pop(f"{thread}/{number}") == number
                if number % 13 == 0:
                    assert len(list(store.items(prefix=(f"{thread}",)))) > 0

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert len(store) == 4 * (60 - 6 + 9 * 5)


# --- Processes ---------------------------------------------------------------------------------------------------


def test_use_after_a_fork_is_an_error_that_says_so(path: Path) -> None:
    with LmdbStore(path) as store:
        store.put_many((f"{number:04}", number) for number in range(2000))
        store["buffered"] = 1
        items = iter(store.items())
        next(items)

        def use() -> list[str]:
            said = []
            for call in (
                lambda: store["0001"],
                lambda: store["buffered"],
                lambda: store.put("x", 1),
                lambda: store.put_many({"x": 1}),
                lambda: store.flush(),
                lambda: len(store),
                lambda: next(iter(store)),
                lambda: list(items),
                lambda: store.clear(),
            ):
                try:
                    said.append(f"no error: {call()!r}")
                except StoreClosedError as error:
                    said.append(str(error))
            items.close()  # type: ignore[attr-defined]
            store.close(strict=True)
            return said

        said = in_child(use)
        assert len(said) == 9
        assert all("before this process was forked" in text for text in said), said
        assert len(list(items)) == 2000
        assert store["buffered"] == 1
        assert len(store) == 2001


def test_a_pickled_store_reads_where_it_arrives_in_this_process_and_in_others(path: Path) -> None:
    with LmdbStore(path, key_encoding="latin-1", codec="npy") as store:
        store["a"] = np.arange(5)
        data = pickle.dumps(store)
        payload = pickle.dumps(next(store.records()).payload)
        copy = pickle.loads(data)
        assert (copy == store, repr(copy)) == (True, repr(store))
        assert copy["a"].tolist() == [0, 1, 2, 3, 4]
        with pytest.raises(ReadOnlyStoreError):
            copy["b"] = np.arange(2)
        del copy
        read = in_child(lambda: (pickle.loads(payload).read().tolist(), list(pickle.loads(data))))
        assert read == ([0, 1, 2, 3, 4], ["a"])
        text = "import pickle, sys; print(list(map(int, pickle.loads(bytes.fromhex(sys.argv[1])).__array__())))"
        assert script(text, payload.hex()).stdout == "[0, 1, 2, 3, 4]\n"
        store["b"] = np.arange(2)
        assert len(store) == 2


def test_a_forked_child_that_opened_the_file_takes_no_reader_from_its_parent(path: Path) -> None:
    with LmdbStore(path) as store:
        store.put_many((f"{number:04}", number) for number in range(1000))
        items = iter(store.items())
        next(items)

        def write() -> None:
            with LmdbStore(path) as mine:
                for _ in range(5):
                    mine.put_many((f"{number:04}", -1) for number in range(1000))

        assert in_child(write) is None
        assert [value for _, value in items] == list(range(1, 1000))
        assert set(store.values()) == {-1}


KILLED = """
import os, sys
from lotproc.stores import LmdbStore
path, last = sys.argv[1], int(sys.argv[2])
step = 0
with LmdbStore(path, batch_size=10, map_size=1 << 16) as store:
    write = store._environment.write
    def counted(work, *rest):
        global step
        def worked(transaction):
            global step
            work(transaction)
            step += 1
            if step == last:
                os.kill(os.getpid(), 9)
        write(worked, *rest)
        os.write(1, b"%d " % store._environment.stat()["entries"])
        step += 1
        if step == last:
            os.kill(os.getpid(), 9)
    store._environment.write = counted
    for number in range(1000):
        store[f"{number:05}"] = str(number) * 100
"""


@pytest.mark.parametrize("step", [1, 2, 5, 20])
def test_a_process_that_is_killed_leaves_what_was_flushed(path: Path, step: int) -> None:
    answer = script(KILLED, path, step)
    assert answer.returncode == -signal.SIGKILL, answer.stderr
    with LmdbStore(path, check=True) as store:
        flushed = len(store)
        acknowledged = int((answer.stdout.split() or ["0"])[-1])
        assert flushed in (acknowledged, acknowledged + 10)
        assert dict(store) == {f"{number:05}": str(number) * 100 for number in range(flushed)}
    with original(path) as other:
        assert len(other.get_many([f"{number:05}" for number in range(1000)])[0]) == flushed


# --- Files that are damaged, or somebody else's ------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all that the format has: levels, free pages, values on pages of their own."""
    path = tmp_path_factory.mktemp("sample") / "store"
    with LmdbStore(path, batch_size=50) as store:
        for number in range(900):
            store[f"{number % 700:04}"] = (number, b"x" * (number % 90))
        store["large"] = b"y" * 30_000
        store["gone"] = b"z" * 30_000
        store.flush()
        del store["gone"]
        store.flush()
        store["last"] = 1
    return path


READ = """
import pickle, sys
from lotproc.errors import LotprocError
from lotproc.stores import LmdbStore
for path in sys.argv[1:]:
    print(path, flush=True)
    try:
        with LmdbStore(path) as store:
            for key in list(store): store.get(key)
            store["new"] = 1
            store.flush()
            store.delete("0001")
            store.flush()
            store.put_many((f"{number:05}", b"x" * 50) for number in range(300))
            store.clear()
    except (LotprocError, OSError) as error:
        pass
    except Exception as error:  # of a pickle
        print(repr(error))
"""


def test_damaged_files_are_errors_and_never_a_signal(sample: Path, tmp_path: Path) -> None:
    data = (sample / "data.mdb").read_bytes()
    rng = random.Random(5)
    folders = []
    for number in range(100):
        damaged = bytearray(data)
        kind = number % 4
        if kind == 0:
            del damaged[rng.randrange(len(data)) :]
        else:
            page = rng.randrange(len(data) // 4096) if kind < 3 else rng.randrange(2)
            at = page * 4096 + (rng.randrange(4096) if kind == 1 else rng.randrange(160))
            damaged[at] ^= 1 << rng.randrange(8)
        folder = tmp_path / f"{number}"
        folder.mkdir()
        (folder / "data.mdb").write_bytes(damaged)
        folders.append(folder)
    answer = script(READ, *folders)
    assert answer.returncode == 0, (answer.stdout.splitlines()[-1], answer.stderr)


@pytest.mark.parametrize("size", [1, 100, 4096, 8191, 8192, 12_288, 0.5, -4096, -1])
def test_a_file_that_was_cut_off_is_an_error_and_stays_as_it_is(sample: Path, tmp_path: Path, size: float) -> None:
    """LMDB itself ends in SIGBUS."""
    whole = (sample / "data.mdb").read_bytes()
    data = whole[: size if isinstance(size, int) else int(len(whole) * size)]
    (tmp_path / "data.mdb").write_bytes(data)
    with pytest.raises((DamagedStoreError, ForeignFileError), match="cut off|has .* bytes|no LMDB file|two pages"):
        LmdbStore(tmp_path, check=False)
    assert (tmp_path / "data.mdb").read_bytes() == data


def test_an_empty_file_becomes_a_store_when_it_is_opened_for_writing(path: Path) -> None:
    """LMDB leaves one when the process ends while it makes the file."""
    path.mkdir()
    (path / "data.mdb").touch()
    with pytest.raises(DamagedStoreError, match="is empty.*open it for writing"):
        LmdbStore(path, readonly=True)
    assert os.path.getsize(path / "data.mdb") == 0
    with LmdbStore(path) as store:
        assert dict(store) == {}
        store["a"] = 1
    assert items_of(path) == [("a", 1)]


@pytest.mark.parametrize("data", [b"text, and more of it" * 1000, b"\0" * 9000, struct.pack("=QQIIQ", 0, 8, 1, 2, 3)])
def test_a_foreign_file_is_refused_and_stays_as_it_is(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "data.mdb").write_bytes(data)
    with pytest.raises(ForeignFileError, match="no LMDB file"):
        LmdbStore(tmp_path)
    assert (tmp_path / "data.mdb").read_bytes() == data
    with pytest.raises(ForeignFileError):
        LmdbStore(tmp_path / "data.mdb", subdir=False)


def test_a_file_of_lmdb_1_and_one_of_named_databases_are_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "names"), max_dbs=2) as env:
        env.open_db(b"one")
    with lmdb.open(str(tmp_path / "many"), max_dbs=200) as env:
        for number in range(200):
            env.open_db(f"{number}".encode())
    shutil.copytree(tmp_path / "names", tmp_path / "pairs")
    data = bytearray((tmp_path / "pairs" / "data.mdb").read_bytes())
    data[92] = data[4096 + 92] = 4  # MDB_DUPSORT, which the package sets for no main database
    (tmp_path / "pairs" / "data.mdb").write_bytes(data)
    for name, holds in (("names", "named databases"), ("many", "named databases"), ("pairs", "a database with flags")):
        for check in (None, True, False):
            with pytest.raises(ForeignFileError, match=f"{name}/data.mdb holds {holds}.* no store of records"):
                LmdbStore(tmp_path / name, check=check)
    try:
        env = lmdb.open(str(tmp_path / "new"), lib_version=1)
    except (TypeError, lmdb.Error):
        pytest.skip("this lmdb has one version of LMDB")
    with env, env.begin(write=True) as transaction:
        transaction.put(b"a", b"b")
    with pytest.raises(ForeignFileError, match="data version 3"):
        LmdbStore(tmp_path / "new")


def test_what_is_at_the_offsets_that_are_checked(sample: Path, tmp_path: Path) -> None:
    """The offsets of the format, each seen to be looked at."""
    data = (sample / "data.mdb").read_bytes()
    newer = max((0, 4096), key=lambda page: struct.unpack_from("=Q", data, page + 144)[0])
    entries, root, last = (struct.unpack_from("=Q", data, newer + at)[0] for at in (120, 128, 136))
    assert (entries, last) == (702, len(data) // 4096 - 1)
    page = root * 4096
    assert struct.unpack_from("=QHH", data, page) == (root, 0, 1)
    for at, says in (
        (newer + 40, "pages are said|differ"),
        (newer + 47, "levels"),
        (newer + 94, "not as LMDB writes it"),
        (newer + 97, "more pages are said to be used"),
        (newer + 129, "page"),
        (newer + 137, "cut off"),
        (page, "not as LMDB writes it"),
        (page + 10, "not as LMDB writes it"),
    ):
        damaged = bytearray(data)
        damaged[at] ^= 4
        (tmp_path / "data.mdb").write_bytes(damaged)
        with pytest.raises(DamagedStoreError, match=says):
            LmdbStore(tmp_path)


@pytest.mark.parametrize("size", [3_000, 20_000])
def test_pages_that_are_free_may_be_missing_at_the_end_and_no_others(path: Path, size: int) -> None:
    """What is put and deleted in one transaction is never written, where the file had free pages before."""
    kept, large = pickle.dumps(bytes(size), 5), bytes(20_000)
    with lmdb.open(str(path), map_size=1 << 30, sync=False) as env:
        for number in range(4):
            with env.begin(write=True) as transaction:
                for index in range(30):
                    transaction.put(b"%04d" % index, kept)
                for index in range(1, 30 if number else 0):
                    transaction.delete(b"%04d" % index)
        with env.begin(write=True) as transaction:
            for index in range(1000, 1100):
                transaction.put(b"%04d" % index, large)
            for index in range(1000, 1100):
                transaction.delete(b"%04d" % index)
            transaction.put(b"0001", kept)
    data = (path / "data.mdb").read_bytes()
    last = max(struct.unpack_from("=QQ", data, page + 136)[::-1] for page in (0, 4096))[1]
    assert len(data) < (last + 1) * 4096
    refused = 0
    for cut in (0, *range(4096, len(data), len(data) // 10), len(data) - 8192):
        (path / "data.mdb").write_bytes(data[: len(data) - cut])
        try:
            with LmdbStore(path, check=True) as store:
                assert dict(store) == {"0000": bytes(size), "0001": bytes(size)}
        except DamagedStoreError:
            assert cut
            refused += 1
    assert refused


@pytest.mark.parametrize(
    ("was", "is_now", "says"),
    [(b"\4\x000350", b"\4\x009350", "out of order"), (struct.pack("=Q", 702), struct.pack("=Q", 703), "702 .* 703")],
)
def test_what_a_check_of_all_records_finds(sample: Path, tmp_path: Path, was: bytes, is_now: bytes, says: str) -> None:
    shutil.copytree(sample, tmp_path / "store")
    with LmdbStore(tmp_path / "store", check=True) as store:
        store.verify()
    data = (tmp_path / "store" / "data.mdb").read_bytes()
    (tmp_path / "store" / "data.mdb").write_bytes(data.replace(was, is_now))
    with pytest.raises(DamagedStoreError, match=says):
        LmdbStore(tmp_path / "store", check=True)
    with LmdbStore(tmp_path / "store") as store, pytest.raises(DamagedStoreError, match=says):
        store.verify()


# --- Codecs, as a source and a sink --------------------------------------------------------------------------------


# --- Files of others, and places that differ ---------------------------------------------------------------------


def opened(path: Path, **options: Any) -> str:
    """What a store has, or why it can't be opened."""
    try:
        with LmdbStore(path, codec="json", **options) as store:
            return f"read {store['a']}"
    except (OSError, ForeignFileError) as error:
        return str(error)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("subdir", [True, False])
def test_what_is_no_regular_file_is_refused_at_once_and_nothing_behind_it_is_touched(
    tmp_path: Path, subdir: bool, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious " * 3000)
    for number, name in enumerate(("data.mdb", "lock.mdb") if subdir else ("", "-lock")):
        path = tmp_path / f"store{number}"
        with LmdbStore(path, subdir=subdir, codec="json") as store:
            store["a"] = 1
        bad = path / name if subdir else Path(f"{path}{name}")
        put_in_place(bad, kind, victim)
        before = sorted(os.listdir(tmp_path))
        for options in ({}, {"readonly": True}, {"readonly": True, "check": False}):
            assert f"{bad} is a" in in_child(partial(opened, path, subdir=subdir, **options))
        if "lock" in name:  # which is not there for somebody who does without
            assert in_child(partial(opened, path, subdir=subdir, readonly=True, lock=False)) == "read 1"
        assert victim.read_bytes() == b"precious " * 3000
        assert sorted(os.listdir(tmp_path)) == before


def test_a_link_that_comes_after_the_check_is_not_joined(path: Path, tmp_path: Path) -> None:
    """A store that is open is not another one's way to it."""
    (tmp_path / "other").mkdir()
    with LmdbStore(path) as store:
        store["a"] = 1
        (tmp_path / "other" / "data.mdb").symlink_to(path / "data.mdb")
        with pytest.raises(ForeignFileError, match="other/data.mdb is a symbolic link"):
            LmdbStore(tmp_path / "other")


@pytest.mark.parametrize("subdir", [True, False])
def test_read_only_media_are_read_with_readonly_as_the_error_says(tmp_path: Path, subdir: bool) -> None:
    def read(**options: Any) -> Any:
        with LmdbStore(tmp_path / "store", subdir=subdir, **options) as store:
            return dict(store), pickle.loads(pickle.dumps(store))["a"]

    def reads() -> Any:
        with pytest.raises(OSError, match=f"{tmp_path}.*can only be read; open it with readonly=True") as caught:
            read()
        assert caught.value.errno == errno.EROFS
        return read(readonly=True), read(readonly=True, lock=False)

    with LmdbStore(tmp_path / "store", subdir=subdir) as store:
        store["a"] = 1
    for _ in range(2):  # with a table of readers, and without one
        assert on_readonly_media(tmp_path, reads) == (({"a": 1}, 1), ({"a": 1}, 1))
        (tmp_path / "store" / "lock.mdb" if subdir else tmp_path / "store-lock").unlink(missing_ok=True)


def test_without_permission_the_error_says_which_options_do() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "store"

        def reads() -> Any:
            return [opened(path), opened(path, readonly=True), opened(path, readonly=True, lock=False)]

        with LmdbStore(path, codec="json") as store:
            store["a"] = 1
        for _ in range(2):
            first, second, third = as_nobody(reads)
            assert all(text in first for text in (f"may not write to {path}", "open it with readonly=True"))
            assert all(text in second for text in (f"{path}/lock.mdb, which this process may not", "lock=False"))
            assert third == "read 1"
            (path / "lock.mdb").unlink(missing_ok=True)
        with LmdbStore(path, codec="json"):
            os.chmod(path / "lock.mdb", 0o666)
        assert as_nobody(lambda: opened(path, readonly=True)) == "read 1"
        os.chmod(path / "data.mdb", 0o600)
        assert f"{path}/data.mdb" in as_nobody(lambda: opened(path, readonly=True))


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_and_read_without_them(path: Path, code: int) -> None:
    with LmdbStore(path) as store:
        store["a"] = 1
    before = (path / "data.mdb").read_bytes()

    def reads() -> Any:
        for options in ({}, {"readonly": True}):
            with pytest.raises(OSError, match="has no locks|lacks .* locks.*readonly=True, lock=False") as caught:
                LmdbStore(path, **options)
            assert caught.value.errno == code
        with LmdbStore(path, readonly=True, lock=False) as store:
            return dict(store)

    assert without_locks(code, reads) == {"a": 1}
    assert (path / "data.mdb").read_bytes() == before


def test_no_number_in_the_first_pages_makes_a_signal_of_reading(sample: Path, tmp_path: Path) -> None:
    """Each field of the newer of the two meta pages, or of both, with the numbers at which arithmetic goes wrong."""
    data = (sample / "data.mdb").read_bytes()
    fields = [(at, "=Q") for at in range(0, 152, 8)] + [(40, "=I"), (44, "=H"), (46, "=H"), (92, "=H"), (94, "=H")]
    numbers = (0, 1, 2**16 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)
    folders = []
    for pages in ([1], [0, 1]):
        for at, form in fields:
            for number in numbers:
                if number < 1 << 8 * struct.calcsize(form):
                    damaged = bytearray(data)
                    for page in pages:
                        struct.pack_into(form, damaged, page * 4096 + at, number)
                    folder = tmp_path / f"{len(folders)}"
                    folder.mkdir()
                    (folder / "data.mdb").write_bytes(damaged)
                    folders.append(folder)
    answer = script(READ, *folders)
    assert answer.returncode == 0, (answer.stdout.splitlines()[-1], answer.stderr)


def test_arrays_and_buffers_stay_when_the_map_moves(path: Path) -> None:
    with LmdbStore(path, codec="npy", map_size=MIB) as store:
        store["a"] = np.arange(100_000)
        store.flush()
        one, (two,) = store["a"], list(store.values())
        store["b"] = np.zeros(20_000_000, np.uint8)
        assert one.sum() == two.sum() == 4_999_950_000
    assert one.sum() == 4_999_950_000
    with LmdbStore(path.with_name("bytes"), codec="bytes") as store:
        data = np.arange(3, dtype=np.uint8)
        store["a"] = data
        data[:] = 9
        assert store["a"] == b"\0\1\2"


def test_what_a_writer_took_is_in_the_file_from_commit_on_or_when_there_is_no_room_for_more(path: Path) -> None:
    with LmdbStore(path, max_buffer_bytes=1000) as store, store.writing() as writer:
        writer.put([Item(("a",), b"x" * 300, None)])
        with pytest.raises(NotPicklableError, match="'x/y'"):
            writer.put([Item(("b",), 3, None), Item(("x", "y"), lambda: None, None)])
        writer.put([Item(("c",), b"x" * 300, None)])
        assert stored(path) == 0
        writer.commit()
        assert stored(path) == 2
        for key in "def":
            writer.put([Item((key,), b"x" * 600, None)])
        assert stored(path) == 4
        writer.commit()
        assert stored(path) == 5


def test_without_lmdb_the_error_says_what_to_install(path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ImportError, match=r"lotproc\[lmdb\]"):
        LmdbStore(path)
