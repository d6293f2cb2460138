"""A damaged database gives an error that says where, or what it holds; never a wrong record, and never no end."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings, strategies as st
from lotdb import BaseNode
from persistent.mapping import PersistentMapping
from recording import examples
from transaction import TransactionManager
from trees import AnyStorage, commit, exactly, opened, plant
from ZODB.DB import DB
from ZODB.FileStorage import FileIterator, FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import u64

import lotproc as lp

#: More records and more levels than any of these trees has.
MANY = 500
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def files_left_open_are_closed() -> Iterator[None]:
    """A FileStorage that can't read its file leaves it open; let no later test be blamed for that."""
    yield
    gc.collect()


#: What these bytes do in a pickle: reserve memory for a memo of gigabytes, and crash older Pythons.
LEFT_OUT = (ord("r"), 0x96)
#: What makes tuples in a pickle, and what makes something else of what a tuple would be made of.
TUPLES = b"\x85\x86\x87t)Q"
#: The bytes before the data of a record in the file.
HEADER = 42


@pytest.fixture(autouse=True, scope="module")
def limited_memory() -> Iterator[None]:
    """A damaged pickle may ask for any amount of memory, which Linux would try to give."""
    used = Path("/proc/self/statm")
    if not used.exists():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(used.read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**31, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """ZODB logs the damage that it finds."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def live(root: BaseNode) -> list[Any]:
    """The records of live nodes, where neither the tree nor the parents of a node go round in circles."""
    records = []
    for node in islice(lp.leaves(root), MANY):
        above: BaseNode | None = node
        for _ in range(MANY):
            above = above.parent if above is not None else None
        assert above is None, "the parents of a node have no end"
        records += lp.snapshot(..., [node])
    assert len(records) < MANY, "the tree has no end"
    return [exactly(record) for record in records]


def scanned(root: BaseNode) -> list[Any]:
    return [exactly(record) for record in islice(lp.scan(..., root), MANY)]


def attempt(read: Callable[[BaseNode], list[Any]], root: BaseNode) -> Any:
    """What is read, or the error."""
    try:
        return read(root)
    except Exception as error:
        return error


def assert_says_where(error: Exception) -> None:
    assert isinstance(error, (lp.LotprocError, MemoryError)), repr(error)
    assert isinstance(error, MemoryError) or "scan: " in str(error)


def assert_no_wrong_record(root: BaseNode, original: list[Any]) -> Any:
    """`scan` gives what live nodes give, or what there was before the damage, or an error that says where."""
    found = attempt(scanned, root)
    if isinstance(found, Exception):
        assert_says_where(found)
    elif found != original:
        assert found == attempt(live, root)
    return found


# --- Bytes of a file -------------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """A small database: its file, its index, its records, and where the data of each object lie in the file."""

    data: bytes
    index: bytes
    records: list[Any]
    places: dict[str, list[range]]

    def __repr__(self) -> str:
        return f"<{len(self.data):,} bytes>"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    file = tmp_path_factory.mktemp("sample") / "data.fs"
    with opened(FileStorage(str(file))) as root:
        plant(root, {"ann": {f"c{number}": {} for number in range(4)}, "bob": {"x": {"y": {"z": {}}}}})
        root.gn("ann").gn("c1").set_attribute("list", ["a", {"b": 1.5}])
        root.get_data_node(["eve", "data"], samplerate_hz=8.0)
        root.gn("eve").gn("map").set_attribute("map", PersistentMapping({"k": [1]}))
        commit(root)
        node = root.gn("ann").gn("c2")
        of_interest = {
            "leaf": [node, node.node_storage, node.attribute_storage],
            "branch": [node.parent, node.parent.node_storage, node.parent.attribute_storage],
            "root": [root, root.node_storage],
        }
        oids = {name: [item._p_oid for item in items] for name, items in of_interest.items()}
        records = live(root)
    found = {
        record.oid: range(record.pos, record.pos + HEADER + len(record.data))
        for transaction in FileIterator(str(file))
        for record in transaction
    }
    places = {name: [found[oid] for oid in several] for name, several in oids.items()}
    return Sample(file.read_bytes(), Path(f"{file}.index").read_bytes(), records, places)


@contextmanager
def damaged(folder: Path, sample: Sample, data: bytes, kind: Any = FileStorage) -> Iterator[BaseNode | None]:
    """The root of a database whose file holds these bytes; None if it can't be opened so far."""
    file = folder / "data.fs"
    file.write_bytes(data)
    Path(f"{file}.index").write_bytes(sample.index)
    try:
        database = DB(kind(str(file), read_only=True))
    except Exception:
        yield None
        return
    try:
        connection = database.open(TransactionManager())
        try:
            root = connection.root.stt
            assert root.key == "root"
        except Exception:
            root = None
        yield root
    finally:
        database.close()


def with_byte(data: bytes, place: int, value: int) -> bytes:
    return data[:place] + bytes([value]) + data[place + 1 :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage")


@pytest.mark.parametrize("kind", [FileStorage, AnyStorage])
@settings(max_examples=examples(300))
@given(number=st.integers(0, 1 << 20), value=st.integers(0, 255).filter(lambda value: value not in LEFT_OUT))
@example(number=1781, value=115)  # an object that changes as it is loaded, which nothing may
def test_any_byte_of_the_file(sample: Sample, folder: Path, kind: Any, number: int, value: int) -> None:
    place = 4 + number % (len(sample.data) - 4)
    with damaged(folder, sample, with_byte(sample.data, place, value), kind) as root:
        if root is not None:
            assert_no_wrong_record(root, sample.records)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("node", ["leaf", "branch"])
def test_each_byte_of_a_node_and_its_trees(sample: Sample, folder: Path, node: str, which: int) -> None:
    errors = 0
    for place in sample.places[node][which]:
        value = sample.data[place] ^ (1 if place % 2 else 0x80)
        if value not in LEFT_OUT:
            with damaged(folder, sample, with_byte(sample.data, place, value)) as root:
                assert root is not None
                errors += isinstance(assert_no_wrong_record(root, sample.records), Exception)
    # Of a branch no attribute is read.
    assert errors == 0 if (node, which) == ("branch", 2) else errors > 10


@settings(max_examples=examples(100))
@given(data=st.data())
def test_a_stretch_of_the_file_is_overwritten(sample: Sample, folder: Path, data: st.DataObject) -> None:
    place = data.draw(st.integers(4, len(sample.data) - 1), "place")
    junk = data.draw(st.sampled_from([b"\0" * 4096, b"\xff" * 4096, sample.data[: len(sample.data) // 2]]), "junk")
    junk = junk[: data.draw(st.integers(1, 300), "length")]
    changed = (sample.data[:place] + junk + sample.data[place + len(junk) :])[: len(sample.data)]
    with damaged(folder, sample, changed) as root:
        if root is not None:
            assert_no_wrong_record(root, sample.records)


def test_a_file_that_was_cut(sample: Sample, folder: Path) -> None:
    """Cut while it is open: its index says where things should be."""
    errors = 0
    for length in range(len(sample.data), 0, -23):
        with damaged(folder, sample, sample.data) as root:
            assert root is not None
            os.truncate(folder / "data.fs", length)
            found = attempt(scanned, root)
            if isinstance(found, Exception):
                assert_says_where(found)
                errors += 1
            else:
                assert found == sample.records
    assert errors > 50


@pytest.mark.parametrize("lies", [("root", 0), ("root", 1), ("branch", 0), ("branch", 1), ("leaf", 0), ("leaf", 2)])
def test_an_index_that_leads_to_another_record(sample: Sample, folder: Path, lies: tuple[str, int]) -> None:
    place = sample.places[lies[0]][lies[1]].start
    with damaged(folder, sample, sample.data) as root:
        assert root is not None
        index = root._p_jar.db().storage._index
        for others in sample.places.values():
            for other in others:
                if other.start != place:
                    index[sample.data[place : place + 8]] = other.start
                    with pytest.raises(lp.DamagedDatabaseError):
                        scanned(root)


def test_a_file_that_was_cut_before_it_is_opened(sample: Sample, folder: Path) -> None:
    for length in range(len(sample.data) - 1, 0, -53):
        with damaged(folder, sample, sample.data[:length]) as root:
            if root is not None:
                assert_no_wrong_record(root, sample.records)


def test_the_error_names_the_object_and_the_path(sample: Sample, folder: Path) -> None:
    place = sample.places["leaf"][0][HEADER]  # the first byte of the pickle
    oid = u64(sample.data[sample.places["leaf"][0].start :][:8])
    with damaged(folder, sample, with_byte(sample.data, place, 0)) as root:
        assert root is not None
        records = lp.scan(..., root)
        assert [next(records).path for _ in range(2)] == [("ann", "c0"), ("ann", "c1")]
        with pytest.raises(lp.DamagedDatabaseError, match=f"scan: ann/c2: .*object {oid:#x}"):
            next(records)
    attributes = sample.places["leaf"][2]
    oid = u64(sample.data[attributes.start :][:8])
    with damaged(folder, sample, with_byte(sample.data, attributes[HEADER], 0)) as root:
        with pytest.raises(lp.DamagedDatabaseError, match=f"scan: ann/c2: .*object {oid:#x}"):
            list(lp.scan(..., root))
        assert len(list(lp.scan((), root, where="c1"))) == 1


# --- Records of a storage --------------------------------------------------------------------------------------------


class DoctoredStorage(MappingStorage):
    """Gives other records than were stored, or none."""

    def __init__(self) -> None:
        super().__init__()
        self.doctored: dict[bytes, bytes | None] = {}

    def loadBefore(self, oid: bytes, tid: bytes) -> Any:
        found = super().loadBefore(oid, tid)
        if oid in self.doctored:
            data = self.doctored[oid]
            if data is None:
                raise POSKeyError(oid)
            return data, *found[1:]
        return found


@contextmanager
def doctored(count: int) -> Iterator[tuple[BaseNode, DoctoredStorage, list[Any]]]:
    """A tree with that many siblings, in a storage that can be made to lie."""
    storage = DoctoredStorage()
    with opened(storage) as root:
        plant(root, {"ann": {f"c{number:03}": {} for number in range(count)}, "bob": {}})
        commit(root)
        yield root, storage, live(root)


@pytest.mark.parametrize("change", [lambda byte: byte ^ 0x80, lambda byte: (byte + 1) % 256])
def test_a_record_that_differs_from_the_learned_one_in_any_byte(change: Callable[[int], int]) -> None:
    with doctored(40) as (root, storage, original):
        node = root.gn("ann").gn("c020")
        oid = node._p_oid
        data, _ = storage.load(oid)
        for place, byte in enumerate(data):
            if change(byte) not in LEFT_OUT:
                storage.doctored[oid] = with_byte(data, place, change(byte))
                root._p_jar.cacheMinimize()
                found = assert_no_wrong_record(root, original)
                if not isinstance(found, Exception):
                    assert found[:20] == original[:20]
                    assert found[21:] == original[21:]


@settings(max_examples=examples(30))
@given(data=st.data())
def test_several_of_many_siblings_differ(data: st.DataObject) -> None:
    with doctored(200) as (root, storage, original):
        for number in data.draw(st.sets(st.integers(0, 199), min_size=1, max_size=5), "which"):
            node = root.gn("ann").gn(f"c{number:03}")
            oid = data.draw(st.sampled_from([node, node.node_storage, node.attribute_storage]))._p_oid
            record, _ = storage.load(oid)
            place = data.draw(st.integers(0, len(record) - 1), "place")
            value = data.draw(st.integers(0, 255).filter(lambda value: value not in LEFT_OUT), "value")
            storage.doctored[oid] = with_byte(record, place, value)
        root._p_jar.cacheMinimize()
        assert_no_wrong_record(root, original)


def test_records_that_are_longer_or_shorter_than_they_were() -> None:
    with doctored(40) as (root, storage, original):
        node = root.gn("ann").gn("c020")
        for oid in [item._p_oid for item in (node, node.node_storage, node.attribute_storage)]:
            data, _ = storage.load(oid)
            for record in (b"", data[:-1], data[: len(data) // 2], data + b".", data + data, data + b"\0" * 5000):
                storage.doctored = {oid: record}
                root._p_jar.cacheMinimize()
                assert_no_wrong_record(root, original)


def test_an_empty_tree_of_children_that_was_pickled_otherwise() -> None:
    with doctored(40) as (root, storage, original):
        oid = root.gn("ann").gn("c020").node_storage._p_oid
        for record in (
            b"\x80\x02cBTrees.OOBTree\nOOBTree\nq\x01.\x80\x02N.",
            b"cBTrees.OOBTree\nOOBTree\n.N.",
            b"\x80\x03(cBTrees.OOBTree\nOOBTree\nNt.N.",
        ):
            storage.doctored = {oid: record}
            root._p_jar.cacheMinimize()
            assert_no_wrong_record(root, original)


@pytest.mark.parametrize(
    ("of", "path"),
    [
        (lambda root: root.gn("ann"), "ann"),
        (lambda root: root.gn("ann").node_storage, "ann"),
        (lambda root: root.gn("ann").gn("c020"), "ann/c020"),
        (lambda root: root.gn("ann").gn("c020").node_storage, "ann/c020"),
        (lambda root: root.gn("ann").gn("c020").attribute_storage, "ann/c020"),
        (lambda root: root.node_storage, "the root"),
    ],
)
def test_an_object_that_is_missing(of: Callable[[BaseNode], Any], path: str, tmp_path: Path) -> None:
    with doctored(40) as (root, storage, _):
        oid = of(root)._p_oid
        storage.doctored[oid] = None
        root._p_jar.cacheMinimize()
        with pytest.raises(lp.DamagedDatabaseError, match=f"scan: {path}: .*object {u64(oid):#x} "):
            list(lp.scan(..., root))
    with opened(FileStorage(str(tmp_path / "data.fs"))) as root:
        plant(root, {"ann": {f"c{number:03}": {} for number in range(40)}})
        commit(root)
        oid = of(root)._p_oid
        del root._p_jar.db().storage._index[oid]
        with pytest.raises(lp.DamagedDatabaseError, match=f"scan: {path}: .*object {u64(oid):#x} "):
            list(lp.scan(..., root))


def test_what_comes_before_the_damage_is_given() -> None:
    with doctored(200) as (root, storage, original):
        storage.doctored[root.gn("ann").gn("c150")._p_oid] = b"junk"
        root._p_jar.cacheMinimize()
        records = lp.scan(..., root)
        assert [exactly(record) for record in islice(records, 150)] == original[:150]
        with pytest.raises(lp.DamagedDatabaseError, match="ann/c150"):
            next(records)
        assert next(iter(lp.scan(..., root, skip="ann"))).path == ("bob",)


def test_the_record_of_another_object() -> None:
    """A node, a tree of children or of attributes where something else should be."""
    with doctored(40) as (root, storage, original):
        ann, bob = root.gn("ann"), root.gn("bob")
        leaf = ann.gn("c020")
        objects = [root, ann, ann.node_storage, bob, leaf, leaf.attribute_storage, leaf.node_storage]
        oids = [item._p_oid for item in objects]
        for oid in oids[1:]:
            for other in oids:
                storage.doctored = {oid: storage.load(other)[0]}
                root._p_jar.cacheMinimize()
                found = attempt(scanned, root)
                if isinstance(found, Exception):
                    assert_says_where(found)
                elif found != original and len(found) < MANY:
                    assert found == attempt(live, root)


@pytest.mark.parametrize("name", ["node_storage", "attribute_storage"])
def test_a_node_where_a_tree_should_be(name: str) -> None:
    with opened(MappingStorage()) as root:
        plant(root, {"a": {}, "b": {}})
        setattr(root.gn("a"), name, root.gn("b"))
        commit(root)
        with pytest.raises(lp.DamagedDatabaseError, match="scan: a: .*has a node where"):
            list(lp.scan(..., root))


@pytest.mark.parametrize("kind", [FileStorage, MappingStorage])
def test_a_tree_that_goes_round_in_circles(kind: Any, tmp_path: Path) -> None:
    storage = kind(str(tmp_path / "data.fs")) if kind is FileStorage else kind()
    with opened(storage) as root:
        plant(root, {"a": {"b": {"c": {}}}})
        root.gn("a").gn("b").node_storage["a"] = root.gn("a")
        commit(root)
        with pytest.raises(lp.DamagedDatabaseError, match=r"0x"):
            for _ in islice(lp.scan((), root), MANY):
                pass


@pytest.mark.parametrize("number", [0, 1])
def test_each_byte_of_a_bucket_of_a_wide_node(number: int) -> None:
    with doctored(40) as (root, storage, original):
        tree = root.gn("ann").node_storage
        bucket = tree.__getstate__()[0][2 * number]
        data, _ = storage.load(bucket._p_oid)
        errors = 0
        for place, byte in enumerate(data):
            for value in (byte ^ 1, *(TUPLES if bytes([byte]) in TUPLES else ())):
                if value not in LEFT_OUT:
                    storage.doctored = {bucket._p_oid: with_byte(data, place, value)}
                    root._p_jar.cacheMinimize()
                    errors += isinstance(assert_no_wrong_record(root, original), Exception)
        assert errors > 100


def test_another_thing_in_place_of_what_a_tree_holds(sample: Sample, folder: Path) -> None:
    """One byte makes a tuple in the state of a tree a longer or a shorter one, or an object with an id."""
    places = [place for of_node in sample.places.values() for where in of_node for place in where]
    for place in places:
        if sample.data[place : place + 1] in TUPLES:
            for value in TUPLES:
                with damaged(folder, sample, with_byte(sample.data, place, value)) as root:
                    if root is not None:
                        assert_no_wrong_record(root, sample.records)
