"""The contract of stores, as tests; in a module of its own, so that pytest can rewrite its assertions."""

# mypy: allow-untyped-decorators

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import cloudpickle
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from lotdb import BaseNode

from .copying import copy
from .errors import ExistsError, LotprocError, NoSuchKeyError, ReadOnlyStoreError
from .models import NodeRecord, ProcessResult
from .resuming import pending
from .sources import records
from .stores.protocol import Item, Store, StoredPayload
from .write_policies import inline, mirror
from .writing import write

__all__ = ["StoreTests"]

_Path: TypeAlias = "tuple[str, ...]"
_Stored: TypeAlias = "dict[_Path, tuple[Any, Mapping[str, Any] | None]]"

#: Names that some file system, database or separator can't hold as they are, and some that they may become.
ODD = ["dF/F", "dF%2FF", "100%", "%", "", ".", "..", "/", "a\0b", "x.json", "\ud800"]
names = st.sampled_from(["a", "b", "ab", "a.b", "é", "0", "_proc", "x" * 100, *ODD])
paths = st.lists(names, max_size=3).map(tuple)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3), each, max_size=3),
    max_leaves=5,
)
values = st.one_of(plain, st.binary(max_size=20), st.tuples(plain), st.just(b"x" * 5000))
metadata = st.none() | st.dictionaries(st.text(max_size=3), plain, max_size=3)
items = st.builds(Item, paths, values, metadata)

results = st.builds(
    ProcessResult,
    path=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=2).map(tuple),
    output=values,
    attributes=st.dictionaries(st.sampled_from(["unit", "rms", "x"]), plain | values, max_size=3),
)
batches = st.lists(st.lists(results, max_size=4), max_size=4)

# Every class that inherits a test runs it on an object of its own.
_law = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.differing_executors])


class StoreTests:
    """The contract of stores, as tests; make a class of your own that says how a store is made, and let pytest run it.

    >>> from lotproc.stores import DirectoryStore
    >>> from lotproc.testing import StoreTests
    >>> class TestDirectory(StoreTests):
    ...     def make(self, folder, *, reading=False):
    ...         return DirectoryStore(folder / "store", durable=False)
    >>> TestDirectory().test_a_batch_is_stored_as_a_whole_or_not_at_all()

    The store has to hold what can be pickled.
    """

    def make(self, folder: Path, *, reading: bool = False) -> Store:
        """The store in a folder: an empty one, where there is none yet. It is closed after use, and made again.

        Args:
            folder: A folder of this test's own.
            reading: Whether the store is only to be read.
        """
        raise NotImplementedError

    @given(st.lists(st.tuples(st.lists(st.lists(items, max_size=3), max_size=3), st.lists(paths, max_size=2))))
    @_law
    def test_it_keeps_what_a_dict_keeps(self, runs: list[tuple[list[list[Item]], list[_Path]]]) -> None:
        """From one run of writing to the next, with deletions between."""
        expected: _Stored = {}
        with _folder() as folder:
            for written, deleted in runs:
                with self.make(folder) as store:
                    with store.writing() as writer:
                        for batch in written:
                            if not store.has_metadata:
                                batch = [item._replace(metadata=None) for item in batch]
                            writer.put(batch)
                            expected.update({item.path: (item.value, item.metadata) for item in batch})
                            for item in batch:
                                found = writer.find(item.path)
                                assert found is not None
                                assert (found.load(), found.metadata) == expected[item.path]
                        assert writer.find(("nothing", "is", "here")) is None
                        writer.commit()
                    if store.can_delete:
                        store.delete_many(iter(deleted))
                        expected = {path: pair for path, pair in expected.items() if path not in deleted}
                with self.make(folder, reading=True) as store:
                    _check(store, expected)

    def test_it_is_empty_first_and_the_same_as_itself(self) -> None:
        with _folder() as folder, self.make(folder) as store:
            _put(store, [])
            _check(store, {})
            assert store.is_below(store)
            assert repr(store)

    def test_a_batch_is_stored_as_a_whole_or_not_at_all(self) -> None:
        with _folder() as folder:
            with self.make(folder) as store:
                _put(store, [Item(("a",), "old", None)])
            with pytest.raises(LotprocError), self.make(folder) as store:
                _put(store, [Item(("b",), 1, None), Item(("a",), lambda: None, None)])
            with self.make(folder, reading=True) as store:
                _check(store, {("a",): ("old", None)})

    def test_what_was_committed_stays_when_a_run_fails(self) -> None:
        def fail(folder: Path) -> None:
            with self.make(folder) as store, store.writing() as writer:
                writer.put([Item(("a",), 1, None)])
                writer.commit()
                writer.put([Item(("b",), 2, None), Item(("c",), 3, None)])
                raise ZeroDivisionError

        with _folder() as folder:
            with pytest.raises(ZeroDivisionError):
                fail(folder)
            with self.make(folder, reading=True) as store:
                assert sorted(store.paths()) in ([("a",)], [("a",), ("b",), ("c",)])

    def test_deleting(self) -> None:
        with _folder() as folder:
            with self.make(folder) as store:
                _put(store, [Item((name,), name, None) for name in "abc"])
            if not store.can_delete:
                with pytest.raises(ReadOnlyStoreError), self.make(folder) as store:
                    store.delete_many([("a",)])
            else:
                with self.make(folder) as store:
                    payload = _payload(store, ("a",))
                    store.delete_many([("a",), ("nothing",), ("b",)])
                    with pytest.raises(NoSuchKeyError):
                        payload.read()
            left = "c" if store.can_delete else "abc"
            with self.make(folder, reading=True) as store:
                _check(store, {(name,): (name, None) for name in left})

    def test_a_payload_is_read_wherever_it_goes(self) -> None:
        with _folder() as folder:
            with self.make(folder) as store:
                _put(store, [Item(("a", "b"), [1, (2, "x")], None)])
            with self.make(folder, reading=True) as store:
                payload = pickle.loads(cloudpickle.dumps(_payload(store, ("a", "b"))))
                assert payload.read() == [1, (2, "x")]
                payload.store.close()

    @given(st.lists(st.tuples(batches, st.sampled_from(["merge", "replace", "skip", "error"])), max_size=3))
    @_law
    def test_write_leaves_what_it_leaves_in_a_tree(self, runs: list[tuple[list[list[ProcessResult]], Any]]) -> None:
        root = BaseNode("root")
        with _folder() as folder:
            for written, if_exists in runs:
                reports: list[Any] = []
                with self.make(folder) as store:
                    for target in (root, store):
                        try:
                            commit_every = 3 if target is store else None
                            report = write(
                                inline("_proc"), target, written, if_exists=if_exists, commit_every=commit_every
                            )
                            reports.append((report.written, report.skipped, report.last_path))
                        except ExistsError:
                            reports.append("is there")
                assert reports[0] == reports[1]
                if reports[0] == "is there":  # what came before it has been committed here, and not there
                    return
                with self.make(folder, reading=True) as store:
                    assert _attributes(store) == _attributes(root)

    def test_what_is_pending(self) -> None:
        sources = [NodeRecord((f"clip_{number}",), f"clip_{number}", {}) for number in range(4)]

        def left(store: Store, version: str) -> list[str]:
            return [record.key for record in pending(inline("_proc"), store, sources, version=version)]

        with _folder() as folder:
            with self.make(folder) as store:
                write(inline("_proc"), store, [ProcessResult(record.path, 1) for record in sources[:2]], version="1")
            with self.make(folder, reading=True) as store:
                assert left(store, "1") == ["clip_2", "clip_3"]
                assert len(left(store, "2")) == 4

    @given(st.dictionaries(paths, values, max_size=6))
    @_law
    def test_a_tree_is_copied_there_and_back(self, nodes: dict[_Path, Any]) -> None:
        root, back = BaseNode("root"), BaseNode("back")
        for path, value in nodes.items():
            root.gns(list(path)).set_attribute("value", value)
        with _folder() as folder, _folder() as other:
            with self.make(folder) as store:
                copy(root, store, progress=False)
            with self.make(folder, reading=True) as store:
                copy(store, back, progress=False)
                with self.make(other) as second:
                    copy(store, second, progress=False)
            with self.make(other, reading=True) as second:
                assert _attributes(second) == _attributes(back) == _attributes(root)

    def test_results_of_a_pipeline_come_back_as_records(self) -> None:
        with _folder() as folder:
            with self.make(folder) as store:
                report = write(mirror(), store, [ProcessResult(("ann", "1"), [0.5], {"unit": "s"})])
                assert report.written == 1
            with self.make(folder, reading=True) as store:
                found = [(record.path, dict(record.attributes)) for record in records(["unit", "result"], store)]
                assert found == [(("ann", "1"), {"unit": "s", "result": [0.5]})]


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _put(store: Store, batch: list[Item]) -> None:
    with store.writing() as writer:
        writer.put(batch)
        writer.commit()


def _payload(store: Store, path: _Path) -> StoredPayload:
    found = store.find(path)
    assert found is not None
    assert found.payload is not None
    return found.payload


def _attributes(source: Any) -> dict[_Path, dict[str, Any]]:
    return {record.path: dict(record.attributes) for record in records(..., source)}


def _check(store: Store, expected: _Stored) -> None:
    """Whether a store has what is expected, whichever way it is asked."""
    assert isinstance(store, Store)
    found = list(store.paths())
    assert sorted(found) == sorted(expected)
    assert len(store) == len(expected) or (not store.can_delete and len(store) > len(expected))
    seen = []
    for record in store.records():
        value, known = expected[record.path]
        assert (record.load(), record.metadata) == (value, known)
        assert record.payload is not None
        assert record.payload.read() == store.load(record.payload.key) == value
        seen.append(record.path)
    assert seen == found
    for path, one in zip(found, store.find_many(iter(found)), strict=True):
        assert one is not None
        assert (one.path, one.load(), one.metadata) == (path, *expected[path])
    assert store.find(("nothing", "is", "here")) is None
