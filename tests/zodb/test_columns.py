"""A scan as columns: the same tables as through records, whatever lies in the tree; and what reads streams of Arrow."""

from __future__ import annotations

import datetime as dt
import gc
import os
import re
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, strategies as st
from lotdb import BaseNode, DataNode
from toolz import pipe
from trees import AWKWARD_KEYS, AnyStorage, Packed, Planned, commit, data_nodes, grow, keys, opened, planned_trees
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.tests.MVCCMappingStorage import MVCCMappingStorage

import lotproc as lp
from lotproc import _fast, export
from lotproc.tables import arrow, batches, scanned
from lotproc.zodb import attributes, children, scanner

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
pq = pytest.importorskip("pyarrow.parquet")

UTC, BERLIN = dt.timezone.utc, dt.timezone(dt.timedelta(hours=2))

# --- One law: columns are what records give --------------------------------------------------------------------------

#: What drifts from one to the next of these is a number, or a text, for some rows, and something else after them.
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "float": st.floats(),
    "int": st.integers(-(2**31) - 2, 2**31 + 2),
    "long": st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1]),
    "str": st.text(max_size=5) | st.sampled_from(["x" * 70, "é" * 300, "a\x00", "caf\udce9", "\ud800"]),
    "bytes": st.binary(max_size=5) | st.sampled_from([b"\xff" * 300, b"8 bytes!"]),
    "bool": st.booleans(),
    "none": st.none(),
    "time": st.datetimes() | st.datetimes().map(lambda time: time.replace(fold=1)),
    "zoned": st.datetimes(
        dt.datetime(1700, 1, 1), timezones=st.sampled_from([UTC, dt.timezone(dt.timedelta(hours=2))])
    ),
    "numpy": st.floats(width=32).map(np.float32) | st.floats().map(np.float64),
    "numpy int": st.integers(-9, 9).map(np.int16) | st.integers(0, 2**64 - 1).map(np.uint64),
    "numpy flag": st.booleans().map(np.bool_),
    "numpy time": st.sampled_from([np.datetime64("2020-01-01T00:00:00.000000001", "ns"), np.datetime64("NaT", "s")]),
    "day": st.dates(dt.date(1700, 1, 1)),
    "list": st.lists(st.integers(0, 9), max_size=2),
    "dict": st.fixed_dictionaries({"a": st.integers(0, 9)}),
    "array": st.integers(0, 2).map(np.arange),
}
COMMON = ["float", "int", "str", "bytes", "bool", "none", "time", "numpy"]
NAMES = ["a", "b", "é", "x\udce9", "TreeLevel_9", "none of these"]


@st.composite
def corpora(draw: st.DrawFn) -> Planned:
    """Trees of speakers and clips; most attributes are of one kind, some drift to another."""
    names = draw(st.lists(st.sampled_from(NAMES[:4]), min_size=1, max_size=3, unique=True))
    names += draw(st.sampled_from([[], [], [], ["TreeLevel_9"]]))
    kinds = {
        name: draw(st.lists(st.sampled_from([*COMMON, *COMMON, *KINDS]), min_size=1, max_size=2)) for name in names
    }
    all_have = draw(st.booleans())

    def attributes() -> dict[str, Any]:
        has = [name for name in names if all_have or draw(st.booleans())]
        return {name: draw(KINDS[draw(st.sampled_from(kinds[name]))]) for name in has}

    def below(depth: int) -> dict[str, Planned]:
        if depth == 0:
            return {}
        some = draw(st.lists(keys | st.sampled_from(AWKWARD_KEYS), max_size=6 if depth == 1 else 3, unique=True))
        kind = draw(st.just(BaseNode) if draw(st.integers(0, 3)) else data_nodes)
        return {
            key: Planned(kind, attributes(), below(draw(st.just(depth - 1) | st.integers(0, depth - 1))))
            for key in some
        }

    return Planned(BaseNode, {}, below(3))


@st.composite
def wide_corpora(draw: st.DrawFn) -> Planned:
    """Trees of nodes with so many attributes that the trees of these split: most alike, some with others among them."""
    names = [f"{first}{number:02}" for first in draw(st.sampled_from(["a", "aéz"])) for number in range(40)]
    names += draw(st.sampled_from([["a", "b", "é"], ["a", "é"], ["b", "x\udce9"]]))
    kinds = {name: draw(st.sampled_from(COMMON)) for name in draw(st.lists(st.sampled_from(names), max_size=3))}
    odd = draw(st.sampled_from(names))

    def attributes(number: int) -> dict[str, Any]:
        values = {name: draw(KINDS[kinds[name]]) if name in kinds else number / 4 for name in names}
        change = draw(st.sampled_from(["none", "none", "none", "less", "odd", "more"]))
        if change == "less":
            del values[odd]
        elif change == "odd":
            values[odd] = draw(KINDS[draw(st.sampled_from(list(KINDS)))])
        elif change == "more":
            values["b00"] = "more"
        return values

    clips = draw(st.integers(2, 6))
    return Planned(
        BaseNode,
        {},
        {
            speaker: Planned(
                BaseNode,
                attributes(0) if draw(st.booleans()) else {},
                {f"{number}": Planned(BaseNode, attributes(number), {}) for number in range(clips)},
            )
            for speaker in ("ann", "bob")
        },
    )


def outcome(make: Callable[[], Any]) -> Any:
    """What a call returns, or what it raises, in a form that can be compared; and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            table = make()
        except Exception as error:
            notes = getattr(error, "__notes__", ())
            table = type(error), getattr(error, "path", None), without_places(str(error)), notes
    if isinstance(table, pd.DataFrame):
        table = list(table.dtypes.items()), len(table), without_places(repr(table.to_dict("list")))
    elif isinstance(table, pa.Table):
        table.validate(full=True)
        table = table.schema, table.num_rows, without_places(repr([column.to_pylist() for column in table.columns]))
    return table, [str(warning.message) for warning in caught]


def without_rows(make: Callable[[Any], Any], names: list[str]) -> Any:
    """A table that has the columns of these attributes, and no rows."""
    table = make([lp.NodeRecord((), "", dict.fromkeys(names))])
    return table.slice(0, 0) if isinstance(table, pa.Table) else table.iloc[:0]


def without_places(text: str) -> str:
    """A text without the places in memory of the objects that it tells of."""
    return re.sub(r"0x[0-9a-f]{6,}", "0x", text)


def to_parquet_and_back(records: Any, folder: Path, batch_size: int) -> Any:
    lp.to_parquet(folder / "table.parquet", records, batch_size=batch_size)
    return pq.read_table(folder / "table.parquet")


# Tests for `where`, which may ask for more than a table shows, and may raise.


def is_there(value: Any) -> bool:
    return value is not None


def is_short(value: Any) -> bool:
    return len(value) < 3


def repr_of_type(value: Any) -> bool:
    return len(repr((type(value), getattr(value, "fold", 0)))) % 2 == 0


STORAGES: dict[str, Callable[[Path], Any]] = {
    "file": lambda folder: FileStorage(str(folder / "tree.fs"), create=True),
    "any": lambda folder: AnyStorage(str(folder / "tree.fs"), create=True),
    "memory": lambda folder: MappingStorage(),
    "keeps views": lambda folder: MVCCMappingStorage(),
}
options = st.fixed_dictionaries(
    {
        "names": st.just(...) | st.lists(st.sampled_from(NAMES), max_size=3, unique=True),
        "inherit": st.just(()) | st.just(("a",)) | st.just(("b", "é")),
        "on_error": st.sampled_from(["raise", "collect", "skip"]),
        "missing": st.sampled_from(["warn", "warn", "warn", "error"]),
    },
    optional={
        "skip": st.sampled_from(["*a*", "_*"]),
        "where": st.sampled_from(["a|b", {"a": bool}, {"b": is_there}, {"a": is_short}, {"é": repr_of_type, "b": None}])
        | st.sampled_from([["a", {"none of these": None}], {"x\udce9": is_there, "a": bool}]),
        "path": st.sampled_from(["*/*", "**/a*"]),
        "level": st.sampled_from([0, 1, 2, "deepest"]),
        "below": st.just({"f0": lp.inline("a")}),
        "payload": st.just("data"),
    },
)


@pytest.mark.parametrize("storage", STORAGES)
@given(
    planned=st.one_of(corpora(), corpora(), planned_trees(st.just(BaseNode))),
    options=options,
    window=st.sampled_from([2, 5, 4096]),
    batch=st.sampled_from([1, 3, 10_000]),
    parts=st.booleans(),
)
def test_a_table_of_a_scan_is_that_of_its_records(
    tmp_path_factory: Any, storage: str, planned: Planned, options: Any, window: int, batch: int, parts: bool
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    with (
        opened(STORAGES[storage](folder)) as root,
        mock.patch.object(children, "FIRST_WINDOW", min(window, 32)),
        mock.patch.object(scanner, "BLOCK", window),
        mock.patch.object(arrow, "BATCH", batch),
        mock.patch.object(export, "BATCH", batch),
    ):
        for key, below in planned.below.items():
            grow(root, key, below)
        commit(root)
        more = dict(options)
        names = more.pop("names")
        if names is not ...:
            names = [name for name in names if name not in more["inherit"]]
        tops = lp.partitions(2, root) if parts and storage == "file" else [root]
        for make in (lp.to_arrow, lp.to_dataframe, lambda records: to_parquet_and_back(records, folder, batch)):
            for top in tops:
                expected, warned = outcome(lambda: make(record for record in lp.scan(names, top, **more)))  # noqa: B023
                if expected[1] == 0:  # without rows
                    known = [*(() if names is ... else names), *more["inherit"], *more.get("below", ())]
                    expected, _ = outcome(lambda: without_rows(make, known))  # noqa: B023
                    if expected[0] is lp.ArgumentError:  # of a name that no column may have
                        expected = lp.ArgumentError, None, expected[2].replace(" at the root", ""), ()
                found, told = outcome(lambda: make(lp.scan(names, top, **more)))  # noqa: B023
                assert found == expected
                # Results are looked up many at once, so the end of the scan, where names that no node had are told, may
                # have been reached before an error or not.
                assert told == warned or ("below" in more and isinstance(found[0], type) and [] in (told, warned))


def test_a_test_sees_what_a_record_has(tmp_path: Path) -> None:
    count = 20
    days = [dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 2)]
    with opened(FileStorage(str(tmp_path / "tree.fs"), create=True)) as root:
        for speaker, day in zip(["ann", "bob"], days, strict=True):
            root.gn(speaker).attribute_storage.update({"day": day, "n": np.int16(count)})
            for clip in range(count):
                values = {"n": np.float32(clip) if clip % 2 else float(clip), "clip_day": days[clip % 2]}
                root.gns([speaker, f"{clip:02}"]).attribute_storage.update(values)
        commit(root)
        for where, expected_count in (
            ({"n": lambda value: isinstance(value, np.floating)}, count),
            ({"n": lambda value: type(value) is float, "day": days[0]}, count // 2),
            ({"clip_day": days[1], "day": days[0]}, count // 2),
            ({"day": days[0], "n": lambda value: value >= 10}, count // 2),
        ):
            options: dict[str, Any] = {"inherit": "day", "where": where}
            expected = lp.to_arrow(record for record in lp.scan(..., root, **options))
            assert expected.num_rows == expected_count
            assert lp.to_arrow(lp.scan(..., root, **options)).equals(expected)
            assert lp.to_arrow(lp.scan("n", root, **options)).num_rows == expected_count


@given(
    planned=wide_corpora(),
    names=st.just(...)
    | st.lists(st.sampled_from(["a00", "a20", "a39", "b00", "x\udce9", "0a20"]), max_size=3, unique=True),
    inherit=st.sampled_from([(), (), ("a",), ("a", "b")]),
    where=st.sampled_from([None, None, {"a": bool}, {"a01": is_there}]),
    window=st.sampled_from([3, 4096]),
)
def test_a_table_of_nodes_with_many_attributes_is_that_of_their_records(
    tmp_path_factory: Any, planned: Planned, names: Any, inherit: Any, where: Any, window: int
) -> None:
    storage = FileStorage(str(tmp_path_factory.mktemp("tree") / "tree.fs"), create=True)
    with opened(storage) as root, mock.patch.object(scanner, "BLOCK", window):
        for key, below in planned.below.items():
            grow(root, key, below)
        commit(root)
        options: dict[str, Any] = {"inherit": inherit, "where": where, "path": "*/*"}
        expected, warned = outcome(lambda: lp.to_arrow(record for record in lp.scan(names, root, **options)))
        if expected[1] != 0:
            assert outcome(lambda: lp.to_arrow(lp.scan(names, root, **options))) == (expected, warned)


def test_the_nearest_name_is_that_of_all_parts_of_a_tree(tmp_path: Path) -> None:
    with opened(FileStorage(str(tmp_path / "tree.fs"), create=True)) as root:
        root.gn("node").attribute_storage.update({f"a{number:02}": number for number in range(40)})
        commit(root)
        with pytest.warns(UserWarning, match="'0a20' .* is 'a20'"):
            assert lp.to_arrow(lp.scan("0a20", root)).num_rows == 1


results = st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([*COMMON, *COMMON, "str", *KINDS]), min_size=1)


@pytest.mark.parametrize("storage", STORAGES)
@given(
    data=st.data(), window=st.sampled_from([2, 5, 4096]), is_part=st.booleans(), version=st.sampled_from(["1", None])
)
def test_a_table_of_what_was_written_below_is_that_of_its_records(
    tmp_path_factory: Any, storage: str, data: st.DataObject, window: int, is_part: bool, version: str | None
) -> None:
    own, policy = lp.inline("_own", "x"), lp.inline("_r")
    kinds = data.draw(results)
    with (
        opened(STORAGES[storage](tmp_path_factory.mktemp("tree"))) as root,
        mock.patch.object(scanner, "BLOCK", window),
        mock.patch.object(arrow, "BATCH", 3),
        mock.patch.object(export, "BATCH", 3),
    ):
        clips = [(f"s{number // 4}", f"c{number}") for number in range(data.draw(st.integers(1, 11)))]
        lp.write(
            lp.mirror(), root, [lp.ProcessResult(clip, number) for number, clip in enumerate(clips)], commit_every=9
        )
        for policy_of, chance in ((policy, 7), (own, 3)):
            made = [
                lp.ProcessResult(
                    clip,
                    attributes={
                        name: data.draw(KINDS[kind]) for name, kind in kinds.items() if data.draw(st.integers(0, 7))
                    },
                )
                for clip in clips
                if data.draw(st.integers(0, 7)) < chance
            ]
            every = data.draw(st.sampled_from([5, None]))  # as records, or through live nodes
            lp.write(policy_of, root, made, output_attribute=None, version=version, commit_every=every)
        for clip in clips if data.draw(st.booleans()) else ():
            if data.draw(st.booleans()):  # a result of another kind than the others
                node = root.gns(clip)
                node.node_storage["_r"] = data.draw(st.sampled_from([DataNode, Packed]))("_r", node)
                node.node_storage["_r"].attribute_storage.update({"a": 1.5, "b": None})
        commit(root)
        policies = st.sampled_from([policy, policy, policy, lp.inline("_r"), own, lp.inline("nowhere")])
        attribute = st.sampled_from(["a", "b", *kinds, *kinds, "none of these"])
        one = st.tuples(policies, attribute) | st.tuples(policies, attribute) | st.just(lp.Below(policy, "a", "1"))
        below = data.draw(st.dictionaries(st.sampled_from(["f0", "f1", "result"]), one, min_size=1))
        names = data.draw(st.sampled_from([(), ("result",), ..., ...]))
        if names == ("result",):
            below.pop("result", None)
        more = {"below": below, "skip": "_*", "on_error": data.draw(st.sampled_from(["raise", "collect"]))}
        for top in lp.partitions(2, root) if is_part and storage == "file" else [root]:
            for make in (lp.to_arrow, lp.to_dataframe):
                expected, warned = outcome(lambda: make(record for record in lp.scan(names, top, **more)))  # noqa: B023
                if expected[1] == 0:
                    known = [*(() if names is ... else names), *below]
                    expected, _ = outcome(lambda: without_rows(make, known))  # noqa: B023
                assert outcome(lambda: make(lp.scan(names, top, **more))) == (expected, warned)  # noqa: B023


@pytest.mark.skipif(not _fast.FAST, reason="fast ways are turned off")
def test_what_was_written_below_comes_in_blocks() -> None:
    clips = [(f"s{number // 50}", f"c{number:03}") for number in range(400)]
    with opened(MappingStorage()) as root:
        results = [lp.ProcessResult(clip, [1] if clip == clips[130] else 1.5) for clip in clips]
        lp.write(lp.inline("_r"), root, results, version="1", commit_every=100)
        scanned = lp.scan((), root, below={"r": lp.inline("_r")}, skip="_*")
        rows = [getattr(piece, "path", None) or piece.stop - piece.start for piece in scanned.pieces()]
        assert [row for row in rows if isinstance(row, tuple)] == [clips[130]]
        assert sum(row for row in rows if isinstance(row, int)) == 399
        assert len(rows) < 10


class Damaged(MappingStorage):
    """A storage that gives one record with another byte in it."""

    damage: tuple[bytes, int, int] | None = None

    def loadBefore(self, oid: bytes, tid: bytes) -> Any:
        found = super().loadBefore(oid, tid)
        if found is None or self.damage is None or self.damage[0] != oid:
            return found
        data = bytearray(found[0])
        data[self.damage[1]] ^= self.damage[2]
        return (bytes(data), *found[1:])


def test_any_other_byte_in_a_record_gives_the_same_table_or_the_same_error() -> None:
    storage = Damaged()
    with opened(storage) as root:
        for number in range(3):
            node = root.gns(["ann", f"clip_{number}"])
            node.attribute_storage.update(
                {"b": b"some bytes", "d": dt.datetime(2020, 1, 2, 3, 4, 5, 6), "f": np.float64(1.5), "i": 300, "s": "é"}
            )
        commit(root)
        branch = root.gn("ann")
        leaf = branch.gn("clip_1")
        for each in (leaf.attribute_storage, leaf.node_storage, leaf, branch.node_storage):
            oid = each._p_oid
            for place in range(0, len(storage.load(oid)[0]), 3):
                storage.damage = oid, place, 1 if place % 2 else 0x80
                options: dict[str, Any] = {"on_error": "collect", "missing": "warn", "uncommitted": "ignore"}
                expected = outcome(lambda: lp.to_arrow(record for record in lp.scan(..., root, **options)))  # noqa: B023
                assert outcome(lambda: lp.to_arrow(lp.scan(..., root, **options))) == expected, (oid, place)  # noqa: B023
        storage.damage = None


def test_any_other_byte_in_a_part_of_a_tree_that_has_split_gives_the_same_table_or_the_same_error(
    tmp_path: Path,
) -> None:
    storage = FileStorage(str(tmp_path / "tree.fs"), create=True)
    with opened(storage) as root:
        for number in range(3):
            values = {f"a{place:02}": place + number / 4 for place in range(31)} | {"b": "text", "c": None}
            root.gns(["ann", f"{number}"]).attribute_storage.update(values)
        commit(root)
        tree = root.gn("ann").gn("1").attribute_storage
        first = tree._firstbucket
        file = os.open(tmp_path / "tree.fs", os.O_RDWR)
        options: dict[str, Any] = {"on_error": "collect", "uncommitted": "ignore"}
        for each in (tree, first, first._next):
            start, length = storage._index[each._p_oid] + 42, len(storage.load(each._p_oid)[0])
            for place in range(start, start + length, 19):
                byte = os.pread(file, 1, place)
                os.pwrite(file, bytes([byte[0] ^ (1 if place % 2 else 0x80)]), place)
                for names in (..., ["a03", "b"]):
                    expected = outcome(lambda: lp.to_arrow(record for record in lp.scan(names, root, **options)))  # noqa: B023
                    assert outcome(lambda: lp.to_arrow(lp.scan(names, root, **options))) == expected, place  # noqa: B023
                os.pwrite(file, byte, place)
        os.close(file)


# --- What reads streams of Arrow -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    """3 speakers, each with 100 clips, each with its seconds."""
    with opened(FileStorage(str(tmp_path_factory.mktemp("corpus") / "tree.fs"), create=True)) as root:
        for speaker in ("ann", "bob", "cy"):
            root.gn(speaker).set_attribute("speaker", speaker.title())
            for number in range(100):
                root.gns([speaker, f"clip_{number:03}"]).attribute_storage.update(
                    {"seconds": number / 4, "take": number}
                )
        commit(root)
        yield root


@pytest.fixture
def small_steps() -> Iterator[None]:
    with mock.patch.object(scanner, "BLOCK", 32), mock.patch.object(arrow, "BATCH", 50):
        yield


def corpus_of(root: BaseNode, **options: Any) -> Any:
    return lp.scan(["seconds", "take"], root, inherit="speaker", **options)


SUMS = [("Ann", 1237.5), ("Bob", 1237.5), ("Cy", 1237.5)]


@pytest.mark.usefixtures("small_steps")
def test_duckdb_reads_a_scan(root: BaseNode) -> None:
    duckdb = pytest.importorskip("duckdb")
    corpus = corpus_of(root)
    assert isinstance(next(corpus), lp.NodeRecord)  # a scan that is begun is read from its beginning all the same
    query = "select speaker, sum(seconds) from corpus group by speaker order by speaker"
    assert duckdb.sql(query).fetchall() == SUMS
    assert duckdb.sql(query).fetchall() == SUMS
    by_level = "select TreeLevel_1, max(take) from corpus where TreeLevel_2 like 'clip_0%' group by 1 order by 1"
    assert duckdb.sql(by_level).fetchall() == [("ann", 99), ("bob", 99), ("cy", 99)]
    assert len(list(corpus)) == 299


@pytest.mark.usefixtures("small_steps")
def test_polars_reads_a_scan(root: BaseNode) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(corpus_of(root))
    assert frame.columns == ["TreeLevel_1", "TreeLevel_2", "seconds", "take", "speaker"]
    assert frame.group_by("speaker").agg(polars.col("seconds").sum()).sort("speaker").rows() == SUMS


@pytest.mark.usefixtures("small_steps")
def test_pyarrow_reads_a_scan(root: BaseNode) -> None:
    expected = lp.to_arrow(corpus_of(root))
    corpus = corpus_of(root)
    assert pa.table(corpus).equals(expected)
    with pa.RecordBatchReader.from_stream(corpus) as reader:
        assert [batch.num_rows for batch in reader] == [50] * 6
    floats = pa.schema([field.with_type(pa.float64()) if field.name == "take" else field for field in expected.schema])
    assert pa.RecordBatchReader.from_stream(corpus, schema=floats).read_all() == expected.cast(floats)


@pytest.mark.parametrize("at", ["a stream", "a batch"])
def test_a_table_without_rows_has_the_columns_that_are_known(root: BaseNode, at: str) -> None:
    nothing: Any = lp.scan(["seconds", "take"], root, inherit="speaker", below={"f0": lp.inline("f0")}, path="no/*")
    table = pa.table(nothing) if at == "a stream" else lp.to_arrow(nothing)
    assert table.schema == pa.schema([(name, pa.null()) for name in ("seconds", "take", "speaker", "f0")])
    assert lp.to_arrow(lp.scan(..., root, path="no/*")).num_columns == 0
    rest = lp.scan("take", root)
    assert len(list(rest)) == 300
    with pytest.warns(UserWarning, match="were used up before"):
        assert lp.to_arrow(rest).schema.names == ["take"]
    if at == "a stream":
        duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
        assert duckdb.sql("select seconds, count(*) from nothing group by seconds").fetchall() == []
        assert polars.DataFrame(nothing).columns == ["seconds", "take", "speaker", "f0"]


def test_a_closed_database_is_no_table(tmp_path: Path) -> None:
    with opened(FileStorage(str(tmp_path / "tree.fs"), create=True)) as root:
        root.gn("a").set_attribute("n", 1)
        commit(root)
        scanned = lp.scan("n", root)
        assert pa.table(scanned).num_rows == 1
    with pytest.raises(lp.ArgumentError) as caught:
        pa.table(scanned)
    assert caught.value.hint is not None


def test_a_pipe_ends_in_a_table(root: BaseNode) -> None:
    assert pipe(root, lp.scan("take"), lp.to_arrow())["take"].to_pylist() == [*range(100)] * 3


# --- How it is read --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not _fast.FAST, reason="fast ways are turned off")
@pytest.mark.parametrize("storage", STORAGES)
def test_no_record_is_made_of_usual_nodes(storage: str, tmp_path: Path) -> None:
    values = {
        "b": b"x",
        "d": dt.datetime(2020, 1, 1),
        "e": dt.datetime(2020, 1, 2),
        "f": 1.5,
        "g": np.float64(2),
        "i": 7,
    }
    values |= {"l": 2**40, "n": None, "p": np.float64(3), "s": "é" * 100, "t": True, "z": -1}
    with opened(STORAGES[storage](tmp_path)) as root:
        for number in range(40):
            root.gns([f"{number % 3}", f"{number}"]).attribute_storage.update(values)
            if storage == "file":  # in which parts of trees that have split are read together
                more = {f"more_{place:02}": place for place in range(100)}
                root.gns([f"{number % 3}", f"{number}"]).attribute_storage.update(more)
        commit(root)
        for options in ({}, {"where": {"s": bool}}):
            expected = lp.to_arrow(record for record in lp.scan(..., root, **options))
            with mock.patch.object(attributes.AttributeReader, "many", side_effect=AssertionError):
                assert lp.to_arrow(lp.scan(..., root, **options)).equals(expected)
                assert pa.table(lp.scan(..., root, **options)).equals(expected)


@pytest.mark.skipif(not _fast.FAST, reason="fast ways are turned off")
@pytest.mark.usefixtures("small_steps")
def test_no_more_is_held_than_a_window_and_a_batch(root: BaseNode, tmp_path: Path) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0
    make = batches.Batch.__init__

    def made(batch: Any, rows: Any) -> None:
        nonlocal most
        alive.add(batch)
        most = max(most, len(alive))
        make(batch, rows)

    loaded = 0
    load = scanner.BlockReader.read

    def counted(reader: Any, above: Any, place: Any, keys: Any, *more: Any) -> Any:
        nonlocal loaded
        loaded += len(keys)
        return load(reader, above, place, keys, *more)

    gc.collect()
    with mock.patch.object(batches.Batch, "__init__", made), mock.patch.object(scanner.BlockReader, "read", counted):
        reader = pa.RecordBatchReader.from_stream(corpus_of(root))
        next(reader)
        assert loaded <= 50 + 2 * 32
        reader.read_all()
        lp.to_parquet(tmp_path / "table.parquet", corpus_of(root), batch_size=50)
    assert loaded == 600
    assert most <= 2


def test_what_comes_behind_the_first_batch_and_does_not_fit_is_refused(tmp_path: Path) -> None:
    later = {"int": 1.5, "nothing": "text", "new": 1, "struct": {"b": 1}}
    with opened(FileStorage(str(tmp_path / "tree.fs"), create=True)) as root, mock.patch.object(arrow, "BATCH", 10):
        for number in range(15):
            root.gn(f"{number:03}").attribute_storage.update(
                {"int": 1, "nothing": None, "struct": {"a": 1}, "wide": 0.5}
            )
        root.gn("013").attribute_storage["wide"] = 1  # which a float holds
        commit(root)
        assert pa.table(lp.scan(..., root)).num_rows == 15
        for name, value in later.items():
            root.gn("012").attribute_storage[name] = value
            commit(root)
            with pytest.raises(Exception, match=f"'{name}'.* 012"):
                pa.table(lp.scan([name, "wide"], root))
            with pytest.raises(lp.ArgumentTypeError) as caught:
                list(scanned.stream_of("scan", lp.scan(..., root) if name == "new" else lp.scan(name, root), (), None))
            assert caught.value.path == ("012",)
            assert caught.value.hint
            del root.gn("012").attribute_storage[name]
        root.gn("012").gn("deeper")
        commit(root)
        with pytest.raises(Exception, match=r"TreeLevel_2.* 012/deeper"):
            pa.table(lp.scan("wide", root))


@pytest.mark.parametrize("storage", ["file", "keeps views"])
def test_each_stream_is_a_scan_of_the_same_transaction(storage: str, tmp_path: Path) -> None:
    with opened(STORAGES[storage](tmp_path)) as root:
        root.gn("a").set_attribute("v", 1)
        commit(root)
        corpus, other = lp.scan("v", root), lp.scan("v", root)
        other.close()
        assert list(other) == []
        root.gn("a").set_attribute("v", 2)
        root.gn("b").set_attribute("v", 3)
        commit(root)
        for scan in (corpus, other):
            assert pa.table(scan).to_pylist() == [{"TreeLevel_1": "a", "v": 1}]
            assert pa.table(scan).to_pylist() == [{"TreeLevel_1": "a", "v": 1}]
        assert lp.to_arrow(corpus).to_pylist() == [{"TreeLevel_1": "a", "v": 1}]
        assert list(corpus) == []
        assert pa.table(corpus).num_rows == 1


def test_the_repr_of_a_scan_says_what_it_takes_and_how_far_it_is(root: BaseNode) -> None:
    corpus = corpus_of(root)
    assert repr(corpus) == "<scan of 'seconds', 'take', 'speaker', not begun>"
    next(corpus)
    assert repr(corpus) == "<scan of 'seconds', 'take', 'speaker', begun>"
    corpus.close()
    assert repr(corpus) == "<scan of 'seconds', 'take', 'speaker', at its end>"
    assert repr(lp.scan(..., root)) == "<scan of all attributes, not begun>"
    assert repr(lp.scan((), root)) == "<scan of no attributes, not begun>"
    assert repr(lp.scan([f"a{n}" for n in range(1000)], root, missing="warn")).count("'a") == 5
    whole = lp.scan((), root)
    deque(whole, maxlen=0)
    assert "at its end" in repr(whole)


def test_a_table_of_a_scan_that_was_begun_has_the_rest(root: BaseNode) -> None:
    corpus = corpus_of(root)
    fresh = repr(corpus)
    for _ in range(250):
        next(corpus)
    assert fresh != repr(corpus)  # which says that it was begun
    assert lp.to_arrow(corpus).num_rows == 50
