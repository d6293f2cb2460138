"""What all stores have in common, and with trees: mappings, sources of records, sinks for results; and copies."""

from __future__ import annotations

import json
import os
import pickle
import re
import tempfile
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from lotdb import LOTDB, BaseNode, DataWriter, add_blob
from other_places import as_nobody, on_readonly_media
from recording import examples
from toolz import pipe

import lotproc as lp
from lotproc.stores import Archive, DirectoryStore, LmdbStore
from lotproc.testing import StoreTests

try:
    import lmdb  # noqa: F401
except ModuleNotFoundError:
    MAPPINGS = ["directory"]
else:
    MAPPINGS = ["directory", "lmdb"]

STORES = [*MAPPINGS, "archive"]
SINKS = [*STORES, "database"]
SOURCES = [*SINKS, "memory"]


@dataclass
class Place:
    """Somewhere to keep records: a store, or a tree in a database."""

    kind: str
    folder: Path

    @contextmanager
    def open(self, *, reading: bool = False, **options: Any) -> Iterator[Any]:
        if self.kind == "database":
            there = (self.folder / "tree.fs").exists()
            database = LOTDB(path=str(self.folder), name="tree.fs", new=not there)
            try:
                yield database.open_connection()
            finally:
                database.close()
            return
        store: Any
        if self.kind == "directory":
            store = DirectoryStore(self.folder / "store", durable=False, **options)
        elif self.kind == "lmdb":
            store = LmdbStore(self.folder / "store", sync=False, **options)
        else:
            options.setdefault("codec", "pickle")
            store = Archive(self.folder / "store.rox", "r" if reading else "a", durable=False, **options)
        with store:
            yield store


@contextmanager
def place(kind: str) -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as folder:
        yield Place(kind, Path(folder))


# --- The contract of stores -------------------------------------------------------------------------------------------


class TestDirectoryStore(StoreTests):
    def make(self, folder: Path, *, reading: bool = False) -> DirectoryStore:
        return DirectoryStore(folder / "store", durable=False)


@pytest.mark.skipif("lmdb" not in MAPPINGS, reason="lmdb is not installed")
class TestLmdbStore(StoreTests):
    def make(self, folder: Path, *, reading: bool = False) -> LmdbStore:
        return LmdbStore(folder / "store", sync=False)


class TestArchive(StoreTests):
    def make(self, folder: Path, *, reading: bool = False) -> Archive:
        return Archive(folder / "store.rox", "r" if reading else "a", codec="pickle", durable=False)


# --- Mappings ---------------------------------------------------------------------------------------------------------

#: Keys that some store can't hold as they are, beside those that they become, which are keys, too.
ODD = [
    "dF/F",
    "dF%2FF",
    "100%",
    "%",
    "",
    ".",
    "..",
    "/",
    "a\0b",
    "x.json",
    ".lotproc-escaped",
    "\ud800",
    "\x1blotproc:a%2Fb",
]
KEYS = ["a", "b", "ab", "a.b", "é", "0", "_proc", "x" * 100, *ODD]
paths = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3).map(tuple)
plain_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda items: st.one_of(st.lists(items, max_size=3), st.dictionaries(st.text(max_size=3), items, max_size=3)),
    max_leaves=5,
)
values = st.one_of(plain_values, st.binary(max_size=20), st.tuples(plain_values), st.just(b"x" * 5000))


def path_of(store: Any, key: Any) -> tuple[str, ...]:
    """The path that a key of a store means, as `records` gives it."""
    return store._form.to_path(key.encode()) if isinstance(key, str) else key


class Mapping(RuleBasedStateMachine):
    """A store against a dict, from one opening to the next."""

    kind: str

    @initialize()
    def begin(self) -> None:
        self.room = place(self.kind)
        self.place = self.room.__enter__()
        self.oracle: dict[tuple[str, ...], Any] = {}
        self._open()

    def _open(self) -> None:
        self.opened = self.place.open()
        self.store: MutableMapping[Any, Any] = self.opened.__enter__()

    @rule(path=paths, value=values)
    def set(self, path: tuple[str, ...], value: Any) -> None:
        self.store[path] = self.oracle[path] = value

    @rule(path=paths)
    def get(self, path: tuple[str, ...]) -> None:
        assert (path in self.store) == (path in self.oracle)
        assert self.store.get(path, "nothing") == self.oracle.get(path, "nothing")
        if path not in self.oracle:
            with pytest.raises(lp.NoSuchKeyError, match=re.escape(repr(path[-1]))):
                self.store[path]

    @rule(path=paths)
    def delete(self, path: tuple[str, ...]) -> None:
        if path in self.oracle:
            del self.store[path], self.oracle[path]
        else:
            with pytest.raises(KeyError):
                del self.store[path]

    @rule(path=paths)
    def pop(self, path: tuple[str, ...]) -> None:
        assert self.store.pop(path, None) == self.oracle.pop(path, None)

    @rule(path=paths, value=values)
    def setdefault(self, path: tuple[str, ...], value: Any) -> None:
        assert self.store.setdefault(path, value) == self.oracle.setdefault(path, value)

    @rule()
    def popitem(self) -> None:
        if self.oracle:
            key, value = self.store.popitem()
            assert self.oracle.pop(path_of(self.store, key)) == value
        else:
            with pytest.raises(KeyError):
                self.store.popitem()

    @rule(items=st.dictionaries(paths, values, max_size=5))
    def update(self, items: dict[tuple[str, ...], Any]) -> None:
        self.store.update(items)
        self.oracle.update(items)

    @rule(path=paths)
    def fail_to_set(self, path: tuple[str, ...]) -> None:
        with pytest.raises(lp.NotPicklableError):
            self.store[path] = lambda: None

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.oracle.clear()

    @rule()
    def reopen(self) -> None:
        self.opened.__exit__(None, None, None)
        self._open()

    @invariant()
    def is_the_same(self) -> None:
        if not hasattr(self, "store"):
            return
        assert len(self.store) == len(self.oracle)
        assert {path_of(self.store, key): value for key, value in self.store.items()} == self.oracle
        assert sorted(path_of(self.store, key) for key in self.store) == sorted(self.oracle)
        assert sorted(record.path for record in lp.records((), self.store)) == sorted(self.oracle)
        assert all(key in self.store for key in self.store)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.opened.__exit__(None, None, None)
            self.room.__exit__(None, None, None)


@pytest.mark.parametrize("kind", MAPPINGS)
def test_a_store_is_a_dict(kind: str) -> None:
    machine = type(f"Mapping_{kind}", (Mapping,), {"kind": kind})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples(20), stateful_step_count=20))


def test_what_they_are() -> None:
    with place("archive") as there, there.open() as archive:
        assert isinstance(archive, Sequence)
    for kind in MAPPINGS:
        with place(kind) as there, there.open() as store:
            assert isinstance(store, MutableMapping)


@pytest.mark.parametrize("kind", MAPPINGS)
@pytest.mark.parametrize("key", ["", ("x" * 600,), ("a", "x" * 600), ("/" * 600,)])
def test_a_wrong_key_is_refused_wherever_it_comes(kind: str, key: Any) -> None:
    with place(kind) as there, there.open() as store:
        store["a"] = 1
        for use in (
            store.__getitem__,
            store.__contains__,
            store.__delitem__,
            store.get,
            store.pop,
            lambda key: store.__setitem__(key, 2),
        ):
            with pytest.raises(lp.ArgumentError):
                use(key)
        with pytest.raises(lp.ArgumentError):
            store.update([("b", 1), (key, 2)])
        assert store["a"] == 1


@pytest.mark.parametrize("kind", MAPPINGS)
@pytest.mark.parametrize("key", [5, None, 1.5, ("a", 5), [["a"]]])
def test_a_key_of_a_wrong_type_is_refused(kind: str, key: Any) -> None:
    with place(kind) as there, there.open() as store:
        for use in (store.__getitem__, store.__contains__, lambda key: store.__setitem__(key, 2)):
            with pytest.raises(lp.ArgumentTypeError):
                use(key)
        assert len(store) == 0


# --- Codecs -----------------------------------------------------------------------------------------------------------


def packed(value: Any) -> bytes:
    return b"\x00packed" + json.dumps(value).encode()


def unpacked(data: bytes) -> Any:
    assert type(data) is bytes
    assert data.startswith(b"\x00packed")
    return json.loads(data[7:])


CODECS: dict[str, tuple[Any, Any]] = {
    "pickle": ("pickle", {"a": (1, b"x")}),
    "json": ("json", {"a": [1, None, "é"]}),
    "npy": ("npy", np.arange(6, dtype=">i2").reshape(2, 3)),
    "bytes": ("bytes", b"\x00\xff" * 10),
    "custom": ((packed, unpacked), ["x", 1]),
}


def put(there: Place, codec: Any, value: Any) -> None:
    with there.open(codec=codec) as store:
        lp.write(lp.mirror(), store, [lp.ProcessResult(("ann", "clip"), output=value)])


def only_value(store: Any) -> Any:
    (record,) = lp.records((), store)
    assert record.path == ("ann", "clip")
    return record.payload.read()


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", CODECS)
def test_a_codec_gives_back_what_it_got(kind: str, name: str) -> None:
    codec, value = CODECS[name]
    with place(kind) as there:
        put(there, codec, value)
        with there.open(reading=True, codec=codec) as store:
            found = only_value(store)
            if kind == "lmdb" and store.codec.holds_mappings:
                found = found["result"]
            assert np.array_equal(found, value) if name in ("npy", "bytes") else found == value
            ((_, attributes),) = [(record.path, record.attributes) for record in lp.records(..., store)]
            assert (
                np.array_equal(attributes.pop("result"), value) if name == "npy" else attributes.popitem()[1] == value
            )
            assert attributes == {}


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("wrote", ["pickle", "json", "npy"])
@pytest.mark.parametrize("reads", ["pickle", "json", "npy"])
def test_a_store_with_another_codec_is_refused_at_opening(kind: str, wrote: str, reads: str) -> None:
    if wrote == reads:
        return
    with place(kind) as there:
        put(there, *CODECS[wrote])
        with pytest.raises(lp.CodecError, match=reads), there.open(reading=True, codec=reads):
            pass
        with there.open(reading=True, codec=wrote) as store:
            only_value(store)


@pytest.mark.parametrize("kind", STORES)
def test_a_codec_that_there_is_not(kind: str) -> None:
    for codec, error in (("yaml", lp.ArgumentError), ((len,), lp.ArgumentTypeError), (None, lp.ArgumentTypeError)):
        refused = pytest.raises(error, match="codec must be one of 'pickle'")
        with place(kind) as there, refused, there.open(codec=codec):
            pass


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize(
    ("codec", "value"),
    [
        ("json", {1: "a key that is no str"}),
        ("json", {"a": {1, 2}}),
        ("json", b"bytes"),
        ("npy", [1, 2]),
        ("npy", np.array([None])),
        ("npy", np.ma.masked_array([1, 2], [True, False])),
        ("bytes", np.array([None, "x"], dtype=object)),
        ("bytes", np.ma.masked_array([1, 2], [True, False])),
        ("bytes", "text"),
        ("pickle", lambda: None),
        ("pickle", map(str, "ab")),
        ("pickle", [{"x": iter([1])}]),
    ],
)
def test_a_value_that_the_codec_cant_hold_changes_nothing(kind: str, codec: str, value: Any) -> None:
    good = CODECS[codec][1]
    with place(kind) as there:
        put(there, codec, good)
        results = [lp.ProcessResult(("ann", "other"), output=good), lp.ProcessResult(("ann", "clip"), output=value)]
        wrong = pytest.raises((lp.CodecError, lp.NotPicklableError), match="ann/clip")
        with wrong, there.open(codec=codec) as store:
            lp.write(lp.mirror(), store, [results])
        with there.open(reading=True, codec=codec) as store:
            assert [record.path for record in lp.records((), store)] == [("ann", "clip")]


@pytest.mark.parametrize("kind", STORES)
def test_an_iterator_is_no_value_whichever_way_it_comes(kind: str) -> None:
    wrong = pytest.raises(lp.NotPicklableError, match="holds a zip, which gives its items only once; make a list")
    lazy = [zip("ab", "cd", strict=True)]
    with place(kind) as there:
        with there.open(codec="pickle") as store:
            with wrong:
                store.write_records([(("a",), lazy, None)]) if kind == "archive" else store.__setitem__("a", lazy)
            with wrong:
                store.put_many([("b", 1), ("a", lazy)]) if kind == "lmdb" else lp.copy(kept(lazy), store)
            lp.write(lp.mirror(), store, [lp.ProcessResult(("b",), 1)])
        with there.open(reading=True, codec="pickle") as store:
            assert [record.path for record in lp.records((), store)] == [("b",)]


def kept(value: Any) -> BaseNode:
    """A tree in memory that holds a value."""
    root = BaseNode("root")
    root.gn("a").set_attribute("result", value)
    return root


# --- Sinks and sources, a tree among them -----------------------------------------------------------------------------

names = st.sampled_from(["unit", "rms", "span", "x"])
attributes = st.dictionaries(names, st.one_of(plain_values, values, st.just(np.float64(0.5))), max_size=3)
results = st.builds(
    lp.ProcessResult,
    path=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=2).map(tuple),
    output=values,
    attributes=attributes,
)
batches = st.lists(st.lists(results, max_size=4), max_size=4)


def contents(source: Any) -> dict[tuple[str, ...], dict[str, Any]]:
    return {record.path: dict(record.attributes) for record in lp.records(..., source)}


def outcome(kind: str, runs: list[tuple[list[list[Any]], dict[str, Any]]]) -> Any:
    """What several runs of `write` report, and what there is in the end."""
    with place(kind) as there:
        reports: list[Any] = []
        for written, options in runs:
            with there.open() as target:
                try:
                    report = lp.write(lp.inline("_proc"), target, written, commit_every=3, **options)
                    reports.append((report.written, report.skipped, report.last_path))
                except lp.ExistsError:
                    reports.append("exists")
                except lp.NoSuchKeyError as error:
                    reports.append(("missing", error.report.written))  # type: ignore[attr-defined]
        with there.open(reading=True) as source:
            return reports, contents(source)


@pytest.mark.parametrize("kind", SINKS)
@given(if_exists=st.sampled_from(["merge", "replace", "skip"]), there=batches, then=st.lists(results, max_size=6))
@settings(max_examples=examples(60))
def test_nothing_is_made_that_is_not_to_be_made(kind: str, if_exists: str, there: Any, then: list[Any]) -> None:
    """A batch that would make something is not written at all, others as without the option."""
    first = (there, {})
    paths = {result.path for batch in there for result in batch}
    fits = all(result.path in paths for result in then)
    reports, found = outcome(kind, [first, ([then], {"if_exists": if_exists, "if_missing": "error"})])
    if fits:
        assert (reports, found) == outcome(kind, [first, ([then], {"if_exists": if_exists})])
    else:
        assert reports[-1] == ("missing", 0)
        assert found == outcome(kind, [first])[1]


@pytest.mark.parametrize("kind", SINKS)
def test_versions_and_stamps(kind: str) -> None:
    def result(key: str, output: int) -> lp.ProcessResult:
        return lp.ProcessResult((key,), output=output)

    first = [[result("a", 1), result("b", 1)]]
    second = [[result("a", 2), result("c", 2)]]
    runs = [(first, {"version": "v1"}), (second, {"version": "v1", "if_exists": "skip"})]
    reports, found = outcome(kind, runs)
    assert [report[:2] for report in reports] == [(2, 0), (1, 1)]
    assert found["a", "_proc"] == {"result": 1, "_version": "v1"}
    reports, found = outcome(kind, [*runs, (second, {"version": "v2", "if_exists": "skip"})])
    assert reports[-1][:2] == (2, 0)
    assert found["a", "_proc"] == {"result": 2, "_version": "v2"}
    # a result without a stamp takes a stale one away
    _, found = outcome(kind, [*runs, ([[result("a", 3)]], {})])
    assert found["a", "_proc"] == {"result": 3}


@pytest.mark.parametrize("kind", SINKS)
def test_a_path_that_is_there_already(kind: str) -> None:
    with place(kind) as there:
        with there.open() as target:
            lp.write(lp.mirror(), target, [lp.ProcessResult(("a",), output=1)], commit_every=1)
        again = [[lp.ProcessResult(("b",), output=2), lp.ProcessResult(("a",), output=2)]]
        with pytest.raises(lp.ExistsError, match="a is already there"), there.open() as target:
            lp.write(lp.mirror(), target, again, if_exists="error", commit_every=1)
        with there.open(reading=True) as source:
            assert contents(source) == {("a",): {"result": 1}}


@pytest.mark.parametrize("kind", SINKS)
def test_a_failure_and_a_ledger(kind: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    failure = lp.Failure(("b",), "ValueError", "it is empty")
    with place(kind) as there, there.open() as target:
        report = lp.write(
            lp.mirror(), target, [[lp.ProcessResult(("a",), output=1), failure]], ledger=ledger, commit_every=1
        )
    assert (report.written, report.failed, report.commits) == (1, 1, 1)
    root = BaseNode("root")
    root.gn("a"), root.gn("b")
    assert [node.key for node in lp.retry_failed(ledger, root)] == ["b"]


@pytest.mark.parametrize("kind", SINKS)
def test_an_error_of_the_source_leaves_whole_batches(kind: str) -> None:
    def source() -> Iterator[list[lp.ProcessResult]]:
        for number in range(3):
            yield [lp.ProcessResult((f"{number}{letter}",), output=number) for letter in "ab"]
        raise ZeroDivisionError

    with place(kind) as there:
        with pytest.raises(ZeroDivisionError) as caught, there.open() as target:
            lp.write(lp.mirror(), target, source(), commit_every=4)
        report = caught.value.report  # type: ignore[attr-defined]
        with there.open(reading=True) as reader:
            found = contents(reader)
        assert len(found) % 2 == 0
        assert len(found) >= report.written >= 4


@pytest.mark.parametrize("kind", SINKS)
def test_what_is_pending(kind: str) -> None:
    sources = [lp.NodeRecord((f"clip_{n}",), f"clip_{n}", {"n": n}) for n in range(6)]

    def left(target: Any, **options: Any) -> list[str]:
        return [record.key for record in lp.pending(lp.inline("_proc"), target, sources, **options)]

    with place(kind) as there:
        with there.open() as target:
            known = lp.pending(lp.inline("_proc"), target, sources[:4], inputs=True)
            process = lp.each(lambda record: lp.ProcessResult(record.path, output=record.attributes["n"]))
            results = lp.parallel_map(process, lp.chunked(2, known), mode="sync")
            lp.write(lp.inline("_proc"), target, results, version="v1", commit_every=1)
        with there.open(reading=True) as target:
            assert left(target) == left(target, version="v1") == left(target, inputs=True) == ["clip_4", "clip_5"]
            assert len(left(target, version="v2")) == 6
            sources[0] = lp.NodeRecord(("clip_0",), "clip_0", {"n": "another"})
            assert left(target, inputs=True) == ["clip_0", "clip_4", "clip_5"]


def doubled(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(
        record.path, output=2 * np.asarray(record.payload), attributes={"n": record.attributes["n"]}
    )


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("mode", ["thread", "process"])
def test_a_pipeline_from_a_store_to_itself(kind: str, mode: Any) -> None:
    sent = [lp.ProcessResult((f"clip_{n}",), output=np.arange(n), attributes={"n": n}) for n in range(10)]
    with place(kind) as there:
        with there.open(codec="pickle") as store:
            lp.write(lp.mirror(), store, sent)
        with there.open(reading=True) as source, place(kind) as other, other.open() as target:
            process = lp.each(doubled if kind != "lmdb" else doubled_mapping)
            steps = (lp.records("n"), lp.where("n", lambda n: n > 2), lp.chunked(3))
            report = pipe(
                source, *steps, lp.parallel_map(process, mode=mode, max_workers=2), lp.write(lp.inline("_proc"), target)
            )
            assert report.written == 7
            target.close()
            with other.open(reading=True) as made:
                found = contents(made)
        assert sorted(found) == [(f"clip_{n}", "_proc") for n in range(3, 10)]
        for (clip, _), attributes in found.items():
            assert attributes["n"] == int(clip[5:])
            assert np.array_equal(attributes["result"], 2 * np.arange(attributes["n"]))


def doubled_mapping(record: lp.NodeRecord) -> lp.ProcessResult:
    value = record.payload.read()
    return lp.ProcessResult(record.path, output=2 * value["result"], attributes={"n": value["n"]})


@pytest.mark.parametrize("kind", STORES)
def test_a_value_is_read_only_if_it_must_be(kind: str) -> None:
    loads: list[bytes] = []

    def decode(data: bytes) -> Any:
        loads.append(data)
        return pickle.loads(data)

    codec = (pickle.dumps, decode)
    sent = [lp.ProcessResult(("a",), output=[1], attributes={"unit": "s"})]
    with place(kind) as there:
        with there.open(codec=codec) as store:
            lp.write(lp.mirror(), store, sent)
        loads.clear()
        with there.open(reading=True, codec=codec) as store:
            assert [record.attributes for record in lp.records((), store)] == [{}]
            assert not loads
            assert [record.attributes for record in lp.records("unit", store)] == [{"unit": "s"}]
            assert bool(loads) == (kind == "lmdb")
            with pytest.warns(UserWarning, match="records: no node had an attribute 'no'"):
                assert [record.attributes for record in lp.records(["result", "no"], store)] == [
                    {"result": [1], "no": None}
                ]


@pytest.mark.parametrize("kind", STORES)
def test_a_store_that_is_closed_says_so(kind: str) -> None:
    with place(kind) as there:
        with there.open() as store:
            lp.write(lp.mirror(), store, [lp.ProcessResult(("a",), output=1)])
        with there.open(reading=True) as store:
            (record,) = lp.records((), store)
        for use in (lambda: list(lp.records((), store)), lambda: len(store), record.payload.read):
            with pytest.raises(lp.StoreClosedError, match="closed"):
                use()
        store.close()


@pytest.mark.parametrize("kind", STORES)
def test_a_store_pickles_and_so_do_its_payloads(kind: str) -> None:
    with place(kind) as there:
        with there.open() as store:
            lp.write(lp.mirror(), store, [lp.ProcessResult(("a",), output=1)])
        with there.open(reading=True) as store:
            records = pickle.loads(pickle.dumps(list(lp.records("result", store))))
            assert [record.attributes for record in records] == [{"result": 1}]
            (record,) = records
            assert record.payload.store == store
            assert record.payload.read() == ({"result": 1} if kind == "lmdb" else 1)
            assert repr(there.folder / "store").strip("'").rsplit("/", 1)[-1][:5] in repr(record.payload)
            record.payload.store.close()


@pytest.mark.parametrize("kind", SOURCES)
def test_wrong_arguments(kind: str) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="records: expected a store, such as a DirectoryStore"):
        lp.records("a", {"a": 1})  # type: ignore[call-overload]
    with pytest.raises(lp.ArgumentTypeError, match="records: names must be"):
        lp.records(5)  # type: ignore[call-overload]
    with pytest.raises(lp.ArgumentTypeError, match="copy: expected a store, such as a DirectoryStore"):
        lp.copy({}, BaseNode("root"))  # type: ignore[arg-type]
    if kind in STORES:
        with place(kind) as there, there.open() as store:
            with pytest.raises(lp.ArgumentError, match='arrays="blob" is for trees'):
                lp.write(lp.mirror(), store, arrays="blob")
            with pytest.raises(lp.ArgumentError, match="commit_every must be at least 1"):
                lp.write(lp.mirror(), store, commit_every=0)
            with pytest.raises(lp.ArgumentError, match="copy: the target .* is the source"):
                lp.copy(store, store)


# --- Copies -----------------------------------------------------------------------------------------------------------


def corpus(root: BaseNode) -> BaseNode:
    """A tree with every kind of thing that is to be copied."""
    root.set_attribute("title", "all of it")
    for speaker in ("ann", "bob"):
        for number in range(3):
            clip = root.gns([speaker, f"clip_{number}"])
            clip.set_attribute("duration", 0.5 * number)
            clip.set_attribute("rms", np.float32(0.1))
            clip.set_attribute("labels", ("a", {"b"}, None, 1j))
            clip.set_attribute("spectrum", np.arange(4, dtype="f4"))
        root.gn(speaker).set_attribute("age", 40)
    root.gns(["empty", "leaf"])
    audio = root.get_data_node(["ann", "audio"], samplerate_hz=4.0, backend="blob")
    audio.write_data(np.arange(10, dtype="i2"))
    add_blob(root.gns(["ann", "clip_0"]), data=b"RIFF", blob_attribute="raw")
    text = root.get_data_node(["ann", "text"], backend="blob")
    DataWriter.write_text(text, "grüße")
    return root


def described(root: BaseNode) -> dict[tuple[str, ...], dict[str, Any]]:
    """A tree as plain values, payloads with what they hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, lp.PayloadHandle):
            read = value.read()
            return (value.kind, value.samplerate_hz, value.shape, value.dtype, pickle.dumps(read))
        return pickle.dumps(value, 5)

    return {
        record.path: {name: plain(value) for name, value in record.attributes.items()}
        for record in lp.snapshot(..., lp.walk(root))
    }


@contextmanager
def blob_database(folder: Path) -> Iterator[BaseNode]:
    database = LOTDB(path=str(folder), name="corpus.fs", new=True)
    try:
        yield database.open_connection()
    finally:
        database.close()


@pytest.mark.parametrize("kind", STORES)
def test_a_tree_goes_into_a_store_and_comes_back_unchanged(kind: str, tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    with blob_database(tmp_path / "from") as source, blob_database(tmp_path / "to") as target, place(kind) as there:
        corpus(source)
        source._p_jar.transaction_manager.commit()
        before = described(source)
        with there.open() as store:
            report = lp.copy(source, store, progress=False)
            assert report.written == 12
        with there.open(reading=True) as store:
            back = lp.copy(store, target, commit_every=4, progress=False)
        assert back.written == 12
        assert described(target) == before
        node = target.get_node_path(["ann", "audio"])
        assert node.read_data().tolist() == list(range(10))
        with there.open() as store:
            assert lp.copy(source, store, if_exists="skip", progress=False).skipped == 12
            with pytest.raises(lp.ExistsError, match="copy: the root is already there"):
                lp.copy(source, store, if_exists="error", progress=False)


odd_keys = st.sampled_from(["a", "b", *ODD]) | st.text(max_size=4)
trees = st.dictionaries(st.lists(odd_keys, min_size=1, max_size=3).map(tuple), st.integers(), max_size=6)


def of_today(there: Place, keys: list[str]) -> dict[tuple[str, ...], dict[str, Any]]:
    """What stores have from before, under keys with percent signs: written as the packages whose files they are do."""
    if there.kind == "directory":
        (there.folder / "store").mkdir()
        for key in keys:
            (there.folder / "store" / f"{key}.pickle").write_bytes(pickle.dumps({"key": key}))
    else:
        with there.open() as store:
            if there.kind == "lmdb":
                store.put_many((key, {"key": key}) for key in keys)
            else:
                store.write({"key": key} for key in keys)
    return {(key if there.kind != "archive" else str(number),): {"key": key} for number, key in enumerate(keys)}


@pytest.mark.parametrize("kind", STORES)
@given(trees, st.lists(st.sampled_from(["dF%2FF", "100%", "%", "%2F", "%2E", "a%00b"]), max_size=4, unique=True))
@settings(max_examples=examples(30))
def test_any_keys_go_into_a_store_and_come_back_beside_what_was_there(
    kind: str, tree: dict[tuple[str, ...], int], before: list[str]
) -> None:
    root, back = BaseNode("root"), BaseNode("back")
    for path, number in tree.items():
        root.gns(list(path)).set_attribute("n", number)
    with place(kind) as there:
        expected = of_today(there, before)
        with there.open() as store:
            known = contents(store)
            assert sorted(known.values(), key=str) == sorted(expected.values(), key=str)
            assert kind == "archive" or known == expected
            lp.copy(root, store, progress=False)
            expected = {**known, **{path: {"n": number} for path, number in tree.items()}}
        with there.open(reading=True) as store:
            assert contents(store) == expected
            lp.copy(store, back, progress=False)
            records = list(lp.records((), store))
            for record in records:
                if record.path in tree:
                    assert store.find(record.path).load() == {"n": tree[record.path]}
                    assert record.payload.read() == {"n": tree[record.path]}
            named = [record for record in records if all(record.path)]  # no result can have an empty key
            assert list(lp.pending(lp.mirror(), store, named)) == []
            left = [record.path for record in lp.pending(lp.InlineWritePolicy(("dF/F",)), store, named)]
            assert left == [record.path for record in named if (*record.path, "dF/F") not in expected]
        assert contents(back) == expected


@pytest.mark.parametrize("first", STORES)
@pytest.mark.parametrize("second", STORES)
def test_from_store_to_store(first: str, second: str) -> None:
    sent = [
        lp.ProcessResult(("ann", "1"), output=b"abc", attributes={"unit": "s"}),
        lp.ProcessResult(("ann", "2"), output=(1, 2), attributes={"span": (0, 1)}),
        lp.ProcessResult(("ann",), output={"mean": 1}),
    ]
    with place(first) as one, place(second) as two:
        with one.open() as source:
            lp.write(lp.mirror(), source, sent)
        with one.open(reading=True) as source:
            expected = contents(source)
            with two.open() as target:
                assert lp.copy(source, target, progress=False).written == 3
        with two.open(reading=True) as target:
            assert contents(target) == expected
        assert len(expected) == 3


def of_somebody_else(folder: Path, work: Any) -> Any:
    return as_nobody(work)


#: What LMDB is told where its table of readers can't be written.
READING: dict[str, dict[str, Any]] = {"lmdb": {"readonly": True}}


@pytest.mark.parametrize("where", [on_readonly_media, of_somebody_else])
@pytest.mark.parametrize("first", STORES)
@pytest.mark.parametrize("second", STORES)
def test_a_store_is_copied_from_where_nothing_can_be_written(first: str, second: str, where: Any) -> None:
    options = {**READING.get(first, {}), **({"lock": False} if first == "lmdb" and where is of_somebody_else else {})}
    with place(first) as one, tempfile.TemporaryDirectory() as folder:
        os.chmod(one.folder, 0o755)
        os.chmod(folder, 0o777)
        with one.open() as source:
            lp.write(lp.mirror(), source, [lp.ProcessResult(("ann", str(n)), output=n) for n in range(3)])

        def copied() -> Any:
            there = Place(second, Path(folder))
            with one.open(reading=True, **options) as source:
                with there.open() as target:
                    assert lp.copy(source, target, progress=False).written == 3
                with there.open(reading=True) as target:
                    assert contents(target) == contents(source)
                with pytest.raises(OSError, match=str(one.folder)), one.open() as target:
                    lp.write(lp.mirror(), target, [lp.ProcessResult(("ann", "new"), output=1)])
                return contents(source)

        assert where(one.folder, copied) == {("ann", str(n)): {"result": n} for n in range(3)}


@pytest.mark.parametrize("kind", STORES)
def test_what_cant_be_copied_is_named(kind: str) -> None:
    root = BaseNode("root")
    root.gns(["a", "b"]).set_attribute("seconds", 1.5)
    with place(kind) as there, pytest.raises(lp.CodecError, match="a/b"), there.open(codec="npy") as store:
        lp.copy(root, store, progress=False)


def test_what_would_never_end_is_refused() -> None:
    root = BaseNode("root")
    with pytest.raises(lp.ArgumentError, match="or lies in it"):
        lp.copy(root, root.gns(["a", "b"]))
    with place("directory") as there, there.open() as store:
        with pytest.raises(lp.ArgumentError, match="or lies in it"):
            lp.copy(store, store.subdb("nested"))
        store.put("r", 5)
        assert lp.copy(store.subdb("nested"), store, progress=False).written == 0


@pytest.mark.parametrize("kind", SOURCES[1:])
def test_metadata_by_the_name_of_the_value_is_not_lost(kind: str) -> None:
    if kind == "archive":  # it keeps both
        return
    with place("directory") as one, one.open() as source, place(kind) as two:
        source.put("r", 5, {"result": 7})
        with pytest.raises(lp.ArgumentError, match="records: the metadata at r has 'result'"):
            list(lp.records(..., source))
        assert [record.attributes for record in lp.records(..., source, output_attribute="value")] == [
            {"result": 7, "value": 5}
        ]
        target: Any = BaseNode("root")
        with two.open() if kind != "memory" else nullcontext(target) as target:
            with pytest.raises(lp.ArgumentError, match="copy: the metadata at r has 'result'"):
                lp.copy(source, target, progress=False)
            assert lp.copy(source, target, output_attribute="value", progress=False).written == 1
            assert contents(target) == {("r",): {"result": 7, "value": 5}}


@pytest.mark.parametrize("kind", STORES)
def test_a_target_of_a_pipeline(kind: str) -> None:
    root = BaseNode("root")
    root.gns(["ann", "clip"]).set_attribute("n", 1)
    process = lp.each(lambda record: lp.ProcessResult(record.path, output=record.attributes["n"]))
    with place(kind) as there:
        with there.open() as store:
            target = lp.MirrorTarget(root=store)
            assert repr(store) in repr(target)
            pipeline = lp.Pipeline.from_root(root).traverse().buffer(2).prepare(attribute_names=["n"])
            pipeline.process(process, mode="sync").write(target).run()
            assert target.written_paths == [("ann", "clip")]
        with there.open(reading=True) as store:
            assert contents(store) == {("ann", "clip"): {"result": 1}}


def test_the_bar_shows_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    root = BaseNode("root")
    root.gn("a").set_attribute("n", 1)
    with place("directory") as there, there.open() as store:
        lp.copy(root, store, progress=True)
        assert "copy: 1 of ? [" in capsys.readouterr().err
        lp.copy(store, BaseNode("other"))
        assert capsys.readouterr().err == ""
