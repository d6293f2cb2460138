"""Tables: the rows equal a plain oracle, whatever the batches; what fails leaves no trace."""

from __future__ import annotations

import datetime as dt
import os
import pathlib
import pickle
import re
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from lotdb import LOTDB, BaseNode, utils
from toolz import pipe

from lotproc.errors import ArgumentError, ArgumentTypeError, LiveNodeError, MissingExtraError, got
from lotproc.export import node_list_to_dataframe, to_arrow, to_dataframe, to_parquet, to_rows, tree_to_dataframe
from lotproc.models import NodeRecord, ProcessResult, Write
from lotproc.payloads import PayloadHandle
from lotproc.snapshots import snapshot
from lotproc.traversal import leaves

UTC = dt.timezone.utc
BERLIN = dt.timezone(dt.timedelta(hours=2))

#: One strategy a column, so that no column mixes kinds; floats that are whole come back as what they equal.
COLUMNS = {
    "number": st.integers(-(2**50), 2**50) | st.floats(allow_nan=False),
    "text": st.text(),
    "flag": st.booleans(),
    "data": st.binary(),
    "many": st.lists(st.integers(-(2**50), 2**50) | st.none()),
    "nested": st.lists(st.lists(st.text())),
    "when": st.datetimes(dt.datetime(1700, 1, 1)),
    "moment": st.datetimes(dt.datetime(1700, 1, 1), timezones=st.sampled_from([UTC, BERLIN])),
    "day": st.dates(dt.date(1700, 1, 1)),
    "fixed": st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.text()}),
    "nothing": st.none(),
}
PATHS = st.lists(st.text(min_size=1), max_size=4).map(tuple)
RECORDS = st.lists(
    st.builds(
        lambda path, attributes: NodeRecord(path, path[-1] if path else "root", attributes),
        PATHS,
        st.fixed_dictionaries({}, optional={name: st.none() | values for name, values in COLUMNS.items()}),
    )
)


def record(path: str, **attributes: Any) -> NodeRecord:
    keys = tuple(path.split("/"))
    return NodeRecord(keys, keys[-1], attributes)


def oracle(records: list[NodeRecord]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and full rows, by the plainest means."""
    deepest = max((len(record.path) for record in records), default=0)
    columns = [f"TreeLevel_{n + 1}" for n in range(deepest)]
    for item in records:
        columns += [name for name in item.attributes if name not in columns]
    rows = []
    for item in records:
        row: dict[str, Any] = dict.fromkeys(columns)
        for n, key in enumerate(item.path):
            row[f"TreeLevel_{n + 1}"] = key
        row.update(item.attributes)
        rows.append(row)
    return columns, rows


# --- rows -------------------------------------------------------------------------------------------------------------


@given(records=RECORDS)
def test_rows_are_the_oracles_without_what_is_absent(records: list[NodeRecord]) -> None:
    columns, rows = oracle(records)
    found = list(to_rows(records))
    assert [{**dict.fromkeys(columns), **row} for row in found] == rows
    assert [set(row) for row in found] == [
        {*item.attributes, *(f"TreeLevel_{n + 1}" for n in range(len(item.path)))} for item in records
    ]


def test_rows_are_lazy_and_close_their_source() -> None:
    events: list[Any] = []

    def source() -> Iterator[NodeRecord]:
        try:
            for number in range(3):
                events.append(number)
                yield record("a", n=number)
        finally:
            events.append("closed")

    rows = to_rows(source())
    assert events == []
    assert next(rows) == {"TreeLevel_1": "a", "n": 0}
    assert events == [0]
    rows.close()  # type: ignore[attr-defined]
    assert events == [0, "closed"]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (np.arange(3), [0, 1, 2]),
        (np.array([[1.5], [2.5]]), [[1.5], [2.5]]),
        (np.array(7), 7),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([{1, 2}, None], dtype=object), [[1, 2], None]),
        (np.array([(1, "a")], dtype=[("n", int), ("s", "U1")]), [[1, "a"]]),
        (np.datetime64("2020-01-01T00:00:00.5", "ns"), dt.datetime(2020, 1, 1, 0, 0, 0, 500_000)),
        (np.array(["2020-01-01"], dtype="M8[ns]"), [dt.datetime(2020, 1, 1)]),
        (np.array(["2020-01-01"], dtype="M8[D]"), [dt.date(2020, 1, 1)]),
        (np.timedelta64(1500, "ns"), np.timedelta64(1500, "ns")),
        (np.timedelta64(2000, "ns"), dt.timedelta(microseconds=2)),
        (np.timedelta64(3, "M"), np.timedelta64(3, "M")),
        (np.datetime64("20000-01-01"), np.datetime64("20000-01-01")),
        (np.datetime64("NaT", "ns"), None),
        (np.array([["20000-01-01", "NaT"]], "M8[D]"), [[np.datetime64("20000-01-01"), None]]),
        (np.array([(1, "2020-01-01")], dtype=[("n", int), ("t", "M8[ns]")]), [[1, dt.datetime(2020, 1, 1)]]),
        (np.ma.masked_array(np.array([1, 2000], "m8[ns]"), [True, False]), [None, dt.timedelta(microseconds=2)]),
        ("caf\udce9", "caf\\udce9"),
        (["é", "\udce9"], ["é", "\\udce9"]),
        (np.array(["\udce9"]), ["\\udce9"]),
        (pathlib.PurePosixPath("/caf\udce9"), "/caf\\udce9"),
        ({"\udce9": {"\udce9"}}, {"\\udce9": ["\\udce9"]}),
        (pathlib.PurePosixPath("/a/b.wav"), "/a/b.wav"),
        (pathlib.PureWindowsPath("C:/b.wav"), "C:\\b.wav"),
        (PayloadHandle("array", Path("x"), shape=(8, 1), dtype="float32", samplerate_hz=16000.0), None),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset("ba"), ["a", "b"]),
        ({frozenset("ba"), frozenset("c")}, [["a", "b"], ["c"]]),
        ({1, "a"}, ["a", 1]),
        ((1, (2, 3)), [1, [2, 3]]),
        ({"a": np.arange(2), "b": [np.int8(1), Path("x")]}, {"a": [0, 1], "b": [1, "x"]}),
        ([1, "a", None], [1, "a", None]),
        ({"a": {"b": 1}}, {"a": {"b": 1}}),
        (None, None),
    ],
)
def test_cells(value: Any, cell: Any) -> None:
    (row,) = to_rows([record("a", x=value)])
    cell = str(value) if isinstance(value, PayloadHandle) else cell
    assert row["x"] == cell
    assert type(row["x"]) is type(cell)


def test_anything_with_a_path_and_attributes_is_a_record() -> None:
    items = [ProcessResult(("a",), attributes={"x": 1}), Write(("b", "c"), {"x": 2})]
    assert list(to_rows(items)) == [
        {"TreeLevel_1": "a", "x": 1},
        {"TreeLevel_1": "b", "TreeLevel_2": "c", "x": 2},
    ]


def test_a_result_is_a_row_with_its_relative_path_and_its_output() -> None:
    result = ProcessResult(("a",), output=0.5, attributes={"unit": "s"}, relative_path=("v2",))
    assert list(to_rows([result])) == [{"TreeLevel_1": "a", "TreeLevel_2": "v2", "unit": "s", "result": 0.5}]
    with pytest.raises(ArgumentError, match="the result at a has an attribute 'result'"):
        list(to_rows([ProcessResult(("a",), output=1, attributes={"result": 2})]))
    with pytest.raises(ArgumentTypeError, match="got list .*toolz.concat in front"):
        list(to_rows([[result]]))


@pytest.mark.parametrize("name", ["TreeLevel_1", "TreeLevel_7"])
def test_an_attribute_with_the_name_of_a_level(name: str) -> None:
    items = [record("a"), record("b", **{name: 1})]
    with pytest.raises(ArgumentError, match=f"to_rows: the attribute '{name}' at b has the name of a level column"):
        list(to_rows(items))


def test_names_like_those_of_levels_are_free() -> None:
    (row,) = to_rows([record("a", TreeLevel_0=1, TreeLevel=2)])
    assert row == {"TreeLevel_1": "a", "TreeLevel_0": 1, "TreeLevel": 2}


@pytest.mark.parametrize("item", ["text", 3, ("a", "b"), NodeRecord("abc", "c"), NodeRecord((1,), "1")])  # type: ignore[arg-type,unused-ignore]
def test_what_is_no_record(item: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="to_rows: "):
        list(to_rows([item]))


def test_an_attribute_name_that_is_no_str() -> None:
    with pytest.raises(ArgumentTypeError, match="name of an attribute at a must be a str, got int 1"):
        list(to_rows([NodeRecord(("a",), "a", {1: 2})]))  # type: ignore[dict-item,unused-ignore]


def test_a_live_node() -> None:
    root = BaseNode("root")
    root.gns(["ann", "clip"])
    with pytest.raises(LiveNodeError, match="ann/clip is a live node; put snapshot"):
        list(to_rows(leaves(root)))


# --- pandas -----------------------------------------------------------------------------------------------------------


@given(records=RECORDS)
@settings(deadline=None)
def test_dataframe_rows_are_the_oracles(records: list[NodeRecord]) -> None:
    pd = pytest.importorskip("pandas")
    columns, rows = oracle(records)
    frame = to_dataframe(records)
    assert list(frame.columns) == columns
    assert list(frame.index) == list(range(len(rows)))
    for name in columns:
        for found, row in zip(frame[name], rows, strict=True):
            if name.startswith("TreeLevel_"):
                assert found == row[name]
            elif row[name] is None:
                assert found is None or pd.isna(found)
            else:
                assert found == row[name]


def test_missing_levels_are_none_and_rows_without_columns_are_counted() -> None:
    pytest.importorskip("pandas")
    frame = to_dataframe([record("a"), record("a/b")])
    assert frame["TreeLevel_2"].tolist() == [None, "b"]
    assert to_dataframe([NodeRecord((), "root")]).shape == (1, 0)
    assert to_dataframe([]).shape == (0, 0)


def _corpus(root: BaseNode) -> BaseNode:
    for speaker in ("ann", "bob"):
        for clip in range(3):
            node = root.gns([speaker, "day", f"clip_{clip}"])
            node.set_attribute("seconds", clip + 0.5)
            node.set_attribute("label", f"{speaker}-{clip}")
            node.set_attribute("audio", np.arange(clip + 1))
    return root


@pytest.fixture
def with_append(monkeypatch: pytest.MonkeyPatch) -> None:
    """lotdb 1.1.3 uses a method that pandas 3 no longer has."""
    pd = pytest.importorskip("pandas")

    def append(self: Any, other: Any, ignore_index: bool) -> Any:
        return pd.concat([self, other], ignore_index=ignore_index)

    monkeypatch.setattr(pd.DataFrame, "_append", append, raising=False)


@pytest.mark.usefixtures("with_append")
def test_the_same_frames_as_lotdb() -> None:
    pd = pytest.importorskip("pandas")
    names = ["seconds", "label", "audio", "absent"]
    root = _corpus(BaseNode("root"))
    for tree in (root, root.gn("ann"), root.gns(["bob", "day"])):
        ours = tree_to_dataframe(tree, names)
        pd.testing.assert_frame_equal(ours, utils.tree_to_dataframe(tree, names), check_dtype=False)
    nodes = list(root.iterate_tree_level(2))
    ours = node_list_to_dataframe(nodes, names)
    pd.testing.assert_frame_equal(ours, utils.node_list_to_dataframe(nodes, names), check_dtype=False)
    pd.testing.assert_frame_equal(node_list_to_dataframe([], names), utils.node_list_to_dataframe([], names))
    childless = BaseNode("root")
    assert tree_to_dataframe(childless, []).shape == utils.tree_to_dataframe(childless, []).shape == (1, 0)


def test_a_childless_root_is_one_row() -> None:
    pytest.importorskip("pandas")
    root = BaseNode("root")
    root.set_attribute("x", 1)
    assert tree_to_dataframe(root, ["x"]).to_dict("list") == {"x": [1]}


def test_ragged_trees_and_keys_like_the_roots() -> None:
    pytest.importorskip("pandas")
    root = BaseNode("root")
    for path in (["a"], ["b", "root", "c"], ["root", "d"]):
        root.gns(path)
    frame = tree_to_dataframe(root, ["x"])
    assert frame.values.tolist() == [["a", None, None, None], ["b", "root", "c", None], ["root", "d", None, None]]
    nodes = [root.gns(["b", "root"]), root]
    assert node_list_to_dataframe(iter(nodes), []).values.tolist() == [["b", "root"], [None, None]]


def test_a_deep_tree() -> None:
    pytest.importorskip("pandas")
    node = root = BaseNode("root")
    for _ in range(2000):
        node = node.gn("x")
    assert tree_to_dataframe(root, []).shape == (1, 2000)


def test_reading_registers_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    db = LOTDB(path=str(tmp_path), name="db")
    root = _corpus(db.open_connection())
    db.commit()
    db.minimize_cache()
    tree_to_dataframe(root, ["absent"])
    node_list_to_dataframe(leaves(root), ["absent"])
    with pytest.warns(UserWarning, match="snapshot: no node had an attribute 'absent'"):
        to_dataframe(snapshot(["absent"], leaves(root)))
    assert not root._p_jar._registered_objects
    db.close()


@pytest.mark.parametrize("function", [tree_to_dataframe, lambda tree, names: node_list_to_dataframe([tree], names)])
def test_attribute_lists_that_cannot_be(function: Any) -> None:
    pytest.importorskip("pandas")
    root = BaseNode("root")
    with pytest.raises(ArgumentError, match="'TreeLevel_2' has the name of a level column"):
        function(root, ["TreeLevel_2"])
    with pytest.raises(ArgumentError, match="the attribute 'x' comes twice"):
        function(root, ["x", "y", "x"])
    for wrong in ("seconds", 3, [1]):
        with pytest.raises(ArgumentTypeError):
            function(root, wrong)


def test_nodes_that_are_none() -> None:
    pytest.importorskip("pandas")
    with pytest.raises(ArgumentTypeError, match="expected a live node, got NodeRecord"):
        node_list_to_dataframe([record("a")], [])  # type: ignore[list-item,unused-ignore]
    with pytest.raises(ArgumentTypeError, match="tree_to_dataframe: expected a lotdb node"):
        tree_to_dataframe("root", [])


# --- arrow and parquet ------------------------------------------------------------------------------------------------


def read(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(path)


def same_rows(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert list(row) == list(wanted)
        assert row == wanted


@given(records=RECORDS, batch_size=st.integers(1, 4))
@settings(deadline=None)
def test_what_is_written_reads_back(
    records: list[NodeRecord], batch_size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path_factory.getbasetemp() / "law.parquet"
    columns, rows = oracle(records)
    assert to_parquet(path, records, batch_size=batch_size) == len(records)
    whole, table = to_arrow(records), read(path)
    assert table.column_names == whole.column_names == columns
    if columns:
        same_rows(whole.to_pylist(), rows)
        same_rows(table.to_pylist(), rows)
    # One batch or many, the types are the same, but for the names that Parquet gives to the items of lists.
    to_parquet(path, records)
    assert read(path).schema == table.schema


def test_it_streams_in_row_groups(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    pulled = []

    def source() -> Iterator[NodeRecord]:
        for number in range(25):
            pulled.append(number)
            yield record(f"clip_{number:02}", n=number)

    waiting = to_parquet(tmp_path / "x.parquet", batch_size=10)
    assert not pulled
    assert pipe(source(), waiting) == 25
    groups = pq.ParquetFile(tmp_path / "x.parquet").metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [10, 10, 5]
    assert pickle.loads(pickle.dumps(waiting)) == waiting


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_schema_widens(tmp_path: Path, batch_size: int) -> None:
    pytest.importorskip("pyarrow")
    records = [
        NodeRecord((), "root"),
        record("a", late=None, number=1, items=[], fixed={}),
        record("a/b", number=2.5, items=[1], fixed={"x": 1}),
        record("a/b/c", late="now", items=[0.5], new=True, fixed={"y": "z"}),
    ]
    to_parquet(tmp_path / "x.parquet", records, batch_size=batch_size)
    table = read(tmp_path / "x.parquet")
    assert table.column_names == [
        "TreeLevel_1",
        "TreeLevel_2",
        "TreeLevel_3",
        "late",
        "number",
        "items",
        "fixed",
        "new",
    ]
    assert table["number"].to_pylist() == [None, 1.0, 2.5, None]
    assert table["items"].to_pylist() == [None, [], [1.0], [0.5]]
    assert table["late"].to_pylist() == [None, None, None, "now"]
    assert table["fixed"].to_pylist()[2:] == [{"x": 1, "y": None}, {"x": None, "y": "z"}]
    assert table["TreeLevel_3"].to_pylist() == [None, None, None, "c"]


def test_nothing_but_empty_dicts(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    to_parquet(tmp_path / "x.parquet", [record("a", x={}), record("b", x=None)], batch_size=1)
    assert read(tmp_path / "x.parquet").to_pylist() == [
        {"TreeLevel_1": "a", "x": None},
        {"TreeLevel_1": "b", "x": None},
    ]


def test_no_records(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    assert to_arrow([]).num_rows == 0
    assert to_parquet(tmp_path / "x.parquet", []) == 0
    assert read(tmp_path / "x.parquet").num_rows == 0
    pd = pytest.importorskip("pandas")
    assert len(pd.read_parquet(tmp_path / "x.parquet")) == 0


MIXED = [
    (1, "x", "int"),
    ("x", b"x", "str"),
    (True, 1, "bool"),
    (2.5, True, "float"),
    ([1], 1, "list"),
    ([1], ["x"], "int"),
    ([2.5, 1], [True], "float"),
    ({"k": 1}, {"k": "x"}, "int"),
    (dt.date(2020, 1, 1), dt.datetime(2020, 1, 1, 12), "date"),
    (dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1, tzinfo=BERLIN), "datetime"),
    ([dt.datetime(2020, 1, 1)], [dt.datetime(2020, 1, 1, tzinfo=UTC)], "datetime"),
]


@pytest.mark.parametrize("batch_size", [1, 10])
@pytest.mark.parametrize(("one", "other", "kind"), MIXED)
def test_kinds_that_do_not_mix(tmp_path: Path, one: Any, other: Any, kind: str, batch_size: int) -> None:
    pytest.importorskip("pyarrow")
    records = [record("ann/a", label=None), record("ann/b", label=one), record("bob/c", label=other)]
    for make in (to_arrow, to_parquet(tmp_path / "x.parquet", batch_size=batch_size)):
        with pytest.raises(ArgumentTypeError, match="the column 'label'") as caught:
            make(records)
        error = caught.value
        assert (error.path, error.expected) == (("bob", "c"), f"{kind}, as at ann/b")
    assert os.listdir(tmp_path) == []


def test_kinds_that_do_not_mix_inside_one_value() -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(ArgumentTypeError, match=r"'x' \(in \[\]\)") as caught:
        to_arrow([record("a", x=[1, "b"])])
    assert (caught.value.path, caught.value.expected, caught.value.got) == (("a",), "int, as at a", "str 'b'")


@pytest.mark.parametrize("value", [1 + 2j, object(), 2**70, {1: 2}, slice(3)])
def test_values_that_arrow_does_not_know(tmp_path: Path, value: Any) -> None:
    pytest.importorskip("pyarrow")
    records = [record("a"), record("b", x=None), record("c", x=value), record("d", x=value)]
    with pytest.raises(ArgumentTypeError, match="to_parquet: the column 'x'") as caught:
        to_parquet(tmp_path / "x.parquet", records)
    assert (caught.value.path, caught.value.got) == (("c",), got(value))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("batch_size", [1, 2, 10])
@pytest.mark.parametrize(
    "values",
    [
        [2**53 + 1, 0.5],
        [0.5, 1, -(2**53) - 1],
        [1, 2**63, 0.5],
        [-1, 0, 2**63],
        [2**64 - 1, 1, -1],
        [1, None, 2**64],
        [[0.5], [2**53 + 1, 1]],
        [[1, 2**53 + 1, 2], [0.5]],
        [[1, 2**63, 2]],
        [{"a": 1}, {"a": 2**63}],
    ],
)
def test_an_int_that_a_column_can_not_hold_is_named_and_not_what_it_is_beside(
    tmp_path: Path, values: list[Any], batch_size: int
) -> None:
    pytest.importorskip("pyarrow")
    number = max(re.findall(r"\d{10,}", repr(values)))
    to_blame = next(row for row, value in enumerate(values) if number in repr(value))
    for make in (to_arrow, to_parquet(tmp_path / "x.parquet", batch_size=batch_size)):
        with pytest.raises(ArgumentTypeError, match="the column 'x'") as caught:
            make([record(f"r{row}", x=value) for row, value in enumerate(values)])
        assert caught.value.path == (f"r{to_blame}",)
        assert number in str(caught.value.got)
        assert "int" in str(caught.value.expected)
    assert os.listdir(tmp_path) == []


#: Values of all kinds, of which two may not be in one column, and some in none.
ANY_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1]),
    st.sampled_from([0.5, float("nan"), "text", b"bytes", 1j, uuid.UUID(int=1), Decimal("1.5"), Decimal("1e30")]),
    st.sampled_from([dt.date(2020, 1, 1), dt.datetime(2020, 1, 1), dt.datetime(9999, 1, 1), dt.timedelta(1)]),
    st.sampled_from([dt.datetime(2020, 1, 1, tzinfo=UTC), dt.time(12), dt.time(12, tzinfo=UTC)]),
    st.sampled_from([np.datetime64(1, "ns"), np.timedelta64(1, "ns"), np.timedelta64(1, "Y")]),
    st.sampled_from([[], [1], [0.5], [2**53 + 1], [2**63], ["text"], [1, "text"], {"a": 1}, {"a": 0.5}, {"a": "text"}]),
)


@given(values=st.lists(ANY_VALUES, min_size=1, max_size=5), batch_size=st.integers(1, 5))
@settings(deadline=None)
def test_an_error_names_a_record_that_is_to_blame(
    values: list[Any], batch_size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("pyarrow")
    records = [record(f"r{row}", x=value, y=0) for row, value in enumerate(values)]
    path = tmp_path_factory.getbasetemp() / "blame.parquet"
    for make in (to_arrow, to_parquet(path, batch_size=batch_size)):
        error = error_of(make, records)
        if error is None:
            continue
        assert "the column 'x'" in str(error)
        (named,) = error.path or ()
        value = values[int(named[1:])]
        # It does not go alone, or not with one of the others.
        pairs = [[one for one in records if one.path in (error.path, other.path)] for other in records]
        assert any(error_of(make, pair) for pair in pairs)
        if {type(each) for each in values} <= {int, float, type(None)}:
            assert type(value) is int
            assert error.got == got(value)
            assert value > 2**53 or value < -(2**53)


def error_of(make: Callable[[Any], Any], records: list[NodeRecord]) -> ArgumentTypeError | None:
    try:
        make(records)
    except ArgumentTypeError as error:
        return error
    return None


@pytest.mark.parametrize("batch_size", [1, 10])
def test_ints_beyond_int64_are_uint64(tmp_path: Path, batch_size: int) -> None:
    pa = pytest.importorskip("pyarrow")
    values = [1, 2**63, None, np.uint64(2**64 - 1), 0]
    records = [record(f"r{row}", x=value) for row, value in enumerate(values)]
    to_parquet(tmp_path / "x.parquet", records, batch_size=batch_size)
    for table in (to_arrow(records), read(tmp_path / "x.parquet")):
        assert table["x"].type == pa.uint64()
        assert table["x"].to_pylist() == values


def test_uuids_and_decimals_at_least_do_not_vanish(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    records = [record("a", x=None), record("b", x=uuid.UUID(int=1))]
    try:
        table = to_arrow(records)
    except ArgumentTypeError:  # an older pyarrow
        return
    assert table["x"].to_pylist() == [None, uuid.UUID(int=1)]
    assert isinstance(table, pa.Table)


@pytest.mark.parametrize("error", [RuntimeError("source"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_closes_the_source(tmp_path: Path, error: BaseException) -> None:
    pytest.importorskip("pyarrow")
    closed = []

    def source() -> Iterator[NodeRecord]:
        try:
            yield record("a", x=1)
            yield record("b", x=2)
            raise error
        finally:
            closed.append(True)

    path = tmp_path / "x.parquet"
    to_parquet(path, [record("old", x=1)])
    with pytest.raises(type(error)):
        to_parquet(path, source(), batch_size=1)
    assert closed == [True]
    assert os.listdir(tmp_path) == ["x.parquet"]
    assert read(path)["TreeLevel_1"].to_pylist() == ["old"]


def test_the_target_shows_nothing_before_the_end(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"

    def source() -> Iterator[NodeRecord]:
        for number in range(3):
            assert not path.exists()
            yield record("a", x=number)

    to_parquet(str(path), source(), batch_size=1)
    assert os.listdir(tmp_path) == ["x.parquet"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize(
    ("path", "options", "error", "message"),
    [
        ("none/x.parquet", {}, ArgumentError, "there is no folder"),
        ("", {}, ArgumentError, "is a folder"),
        ("x.parquet", {"batch_size": 0}, ArgumentError, "batch_size must be at least 1"),
        ("x.parquet", {"batch_size": 1.5}, ArgumentTypeError, "batch_size must be a whole number"),
    ],
)
def test_arguments_are_checked_before_any_work(
    tmp_path: Path, path: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(error, match=f"to_parquet: .*{message}"):
        to_parquet(tmp_path / path, **options)


def test_a_path_that_is_none() -> None:
    with pytest.raises(ArgumentTypeError, match="path must be a str or a path, got int 3"):
        to_parquet(3)  # type: ignore[call-overload,unused-ignore]


def test_from_a_tree_to_a_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    db = LOTDB(path=str(tmp_path), name="db")
    root = _corpus(db.open_connection())
    db.commit()
    names = ["seconds", "label", "audio"]
    assert pipe(root, leaves(), snapshot(names), to_parquet(tmp_path / "x.parquet", batch_size=4)) == 6
    first = read(tmp_path / "x.parquet").to_pylist()[0]
    levels = {"TreeLevel_1": "ann", "TreeLevel_2": "day", "TreeLevel_3": "clip_0"}
    assert first == {**levels, "seconds": 0.5, "label": "ann-0", "audio": [0]}
    assert not root._p_jar._registered_objects
    db.close()


# --- odd values -------------------------------------------------------------------------------------------------------

#: Seconds of numpy's units of time that have a length.
SECONDS = {"W": 604800, "D": 86400, "h": 3600, "m": 60, "s": 1} | {
    unit: Fraction(1, 1000**n) for n, unit in enumerate(("ms", "us", "ns", "ps", "fs", "as"), 1)
}
EPOCH = dt.datetime(1970, 1, 1)


def told(value: Any) -> Any:
    """What a value or a cell says, in one form for Python, numpy, pandas and Arrow."""
    if hasattr(value, "to_datetime64") and value == value:
        value = value.to_datetime64()
    if hasattr(value, "to_timedelta64") and value == value:
        value = value.to_timedelta64()
    if isinstance(value, (np.datetime64, np.timedelta64)):
        if np.isnat(value):
            return None
        unit, step = np.datetime_data(value.dtype)
        number = int(value.astype("i8")) * step
        if unit in ("Y", "M"):
            if isinstance(value, np.timedelta64):
                return ("months", number * (12 if unit == "Y" else 1))
            return told(value.astype("M8[D]"))
        return ("time", number * SECONDS[unit])
    if isinstance(value, dt.datetime):
        return ("time", Fraction((value - EPOCH) // dt.timedelta(microseconds=1), 10**6)) if value == value else None
    if isinstance(value, dt.date):
        return ("time", (value - EPOCH.date()).days * 86400)
    if isinstance(value, dt.timedelta):
        return ("time", Fraction(value // dt.timedelta(microseconds=1), 10**6))
    if isinstance(value, str):
        return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in value)
    if isinstance(value, dict):  # a table has all keys in all dicts
        return {told(key): told(item) for key, item in value.items() if told(item) is not None} or None
    if isinstance(value, (list, tuple, np.ndarray)):
        return list(map(told, value))
    if value is None or type(value).__name__ == "NAType" or value != value:
        return None
    return bool(value) if isinstance(value, (bool, np.bool_)) else value


def arrow_told(scalar: Any) -> Any:
    """The same of a value of an Arrow table, whatever of it Python can hold."""
    pa = pytest.importorskip("pyarrow")
    if not scalar.is_valid:
        return None
    if isinstance(scalar, pa.Date32Scalar):
        return ("time", scalar.value * 86400)
    if isinstance(scalar, (pa.TimestampScalar, pa.DurationScalar)):
        return ("time", scalar.value * SECONDS[scalar.type.unit])
    if isinstance(scalar, pa.ListScalar):
        return [arrow_told(item) for item in scalar.values]
    if isinstance(scalar, pa.StructScalar):
        return {key: arrow_told(item) for key, item in scalar.items() if arrow_told(item) is not None} or None
    return scalar.as_py()


def numpy_times(kind: str, units: str) -> st.SearchStrategy[Any]:
    numbers = st.integers(-(10**4), 10**4) | st.integers(-(2**62), 2**62) | st.integers(-(10**15), 10**15)
    return st.builds(
        lambda number, unit: np.array(number, f"{kind}8[{unit}]")[()], numbers, st.sampled_from(units.split())
    )


odd_texts = st.text(st.characters(min_codepoint=1, exclude_categories=[]) | st.sampled_from("\udce9\ud800"), max_size=5)
odd_trees = st.recursive(
    st.none() | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
)
moments = st.datetimes() | numpy_times("M", "h m s ms us ns ps")
#: Values of one kind a column, of which Arrow may not hold all.
ODD = {
    "whole": st.integers(-(10**3), 10**3) | st.integers(-(2**70), 2**70),
    "number": st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False),
    "flag": st.booleans() | st.booleans().map(np.bool_),
    "text": odd_texts,
    "moment": moments,
    "day": st.dates() | numpy_times("M", "Y M W D"),
    "span": st.timedeltas() | numpy_times("m", "W D h m s ms us ns ps") | numpy_times("m", "Y M"),
    "moments": st.lists(moments, max_size=3),
    "array": st.sampled_from(["M8[s]", "M8[ns]", "m8[us]", "m8[ns]", "M8[D]"]).flatmap(
        lambda dtype: st.lists(st.integers(-(10**13), 10**13), max_size=3).map(lambda numbers: np.array(numbers, dtype))
    ),
    "tree": odd_trees,
    "named": st.dictionaries(odd_texts, odd_texts, max_size=2),
}


@st.composite
def odd_records(draw: st.DrawFn) -> list[NodeRecord]:
    """Records of one attribute, with missing values among them."""
    name = draw(st.sampled_from(list(ODD)))
    values = draw(st.lists(st.none() | ODD[name], min_size=1, max_size=6))
    keys = draw(st.lists(odd_texts.filter(bool), min_size=1, max_size=2))
    return [
        NodeRecord((*keys, str(number)), str(number), {name + "\udce9": value}) for number, value in enumerate(values)
    ]


@given(records=odd_records(), batch_size=st.integers(1, 4))
@settings(deadline=None)
def test_odd_values_say_the_same_in_a_table_or_are_refused_with_column_and_path(
    records: list[NodeRecord], batch_size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    (name,) = records[0].attributes
    column = told(name)
    wanted = [told(item.attributes[name]) for item in records]
    levels = [told(item.path) for item in records]

    rows = list(to_rows(records))
    assert [told(row[column]) for row in rows] == wanted
    assert [
        [row[f"TreeLevel_{n + 1}"] for n in range(len(level))] for row, level in zip(rows, levels, strict=True)
    ] == levels

    frame = to_dataframe(records)
    assert [told(cell) for cell in frame[column]] == wanted
    frame.to_csv(tmp_path_factory.getbasetemp() / "odd.csv")
    there = [value for value in wanted if value is not None]
    if there and len(there) < len(wanted):
        if name.startswith("flag"):
            assert str(frame[column].dtype) == "boolean"
        if name.startswith("whole"):
            fits = [dtype for dtype in ("int64", "uint64") if all(_fits(value, dtype) for value in there)]
            assert str(frame[column].dtype).lower() == (fits[0] if fits else "object")

    path = tmp_path_factory.getbasetemp() / "odd.parquet"
    for write in (lambda: to_arrow(records), lambda: (to_parquet(path, records, batch_size=batch_size), read(path))[1]):
        try:
            table = write()
        except ArgumentTypeError as error:
            said, path_named = str(error), error.path or ()
        else:
            assert [arrow_told(value) for value in table[column]] == wanted
            assert table["TreeLevel_1"].to_pylist() == [level[0] for level in levels]
            continue
        assert f"column {column!r}" in said
        assert list(path_named) in [list(item.path) for item in records]
        assert name[:4] in ("whol", "numb", "mome", "day\udce9", "span", "arra", "tree")
        assert not name.startswith("whole") or not any(
            all(_fits(value, dtype) for value in there) for dtype in ("int64", "uint64")
        )
        if name.startswith(("moment\udce9", "span")):
            assert not any(
                all(
                    tag == "time" and (n := time / SECONDS[unit]) == int(n) and _fits(int(n), "int64")
                    for tag, time in there
                )
                for unit in ("us", "ns", "ms")[: 3 if any(isinstance(row[column], np.generic) for row in rows) else 1]
            )


def _fits(value: int, dtype: str) -> bool:
    return bool(np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)


@pytest.mark.parametrize(
    "values",
    [
        [np.datetime64("20000-01-01"), dt.date(2020, 1, 1)],
        [np.datetime64("20000-01-01T00:00", "s"), dt.datetime(2020, 1, 1, 0, 0, 0, 5)],
        [dt.datetime(2020, 1, 1), np.datetime64(1, "ns"), None],
        [dt.timedelta(1), np.timedelta64(1, "ns")],
        [[dt.datetime(2020, 1, 1)], [np.datetime64(1, "ns")], []],
        [{"t": [np.timedelta64(1, "ns")]}, {"t": []}, {"u": 1}],
        [{"y": 1, "z": {}}, {"y": 2}],
        [{"day": np.datetime64("20000-01-01"), "t": dt.datetime(2020, 1, 1), "d": dt.timedelta(1)}, None],
        [[{}], [None], []],
        [{"z": [{}]}, {"z": [{"a": {}}]}],
        [{"z": {}}, {"z": {"t": np.datetime64(1, "ns")}}, {"z": {"t": None, "l": []}}],
    ],
)
@pytest.mark.parametrize("batch_size", [1, 10])
def test_what_arrow_has_to_hold(tmp_path: Path, values: list[Any], batch_size: int) -> None:
    pytest.importorskip("pyarrow")
    records = [record(f"r{number}", x=value) for number, value in enumerate([*values, *values[::-1]])]
    wanted = [told(item.attributes["x"]) for item in records]
    to_parquet(tmp_path / "x.parquet", records, batch_size=batch_size)
    for table in (to_arrow(records), read(tmp_path / "x.parquet")):
        assert [arrow_told(value) for value in table["x"]] == wanted


@pytest.mark.parametrize("batch_size", [1, 10])
@pytest.mark.parametrize(
    "value",
    [np.timedelta64(3, "M"), np.timedelta64(1, "ps"), np.datetime64("9999-01-01T00:00:00.000000001", "ns"), 2**64],
)
def test_what_arrow_can_not_hold(tmp_path: Path, value: Any, batch_size: int) -> None:
    pytest.importorskip("pyarrow")
    near = {
        dt.timedelta: np.timedelta64(1, "ns"),
        np.datetime64: dt.datetime(9999, 1, 1),
        np.timedelta64: dt.timedelta(1),
        int: 1,
    }[type(value)]
    records = [record("a", x=near), record("b", x=value)]
    with pytest.raises(ArgumentTypeError, match="to_parquet: the column 'x' at [ab] "):
        to_parquet(tmp_path / "x.parquet", records, batch_size=batch_size)
    assert os.listdir(tmp_path) == []


def test_times_of_pandas_keep_their_nanoseconds() -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    values = {"t": pd.Timestamp("2020-01-01T00:00:00.000000001"), "d": pd.Timedelta(1, "ns"), "n": pd.NaT}
    table = to_arrow([record("a", **values)])
    assert {name: arrow_told(table[name][0]) for name in values} == {
        name: told(value) for name, value in values.items()
    }
    with pytest.raises(ArgumentTypeError, match="'t' at a holds .*, with nanoseconds and a time zone"):
        to_arrow([record("a", t=values["t"].tz_localize("UTC"))])


def test_a_zone_of_a_time_of_day_is_not_dropped(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    noon = dt.time(12, tzinfo=UTC)
    for value in (noon, [noon], {"t": noon}):
        with pytest.raises(ArgumentTypeError, match=r"'x'( \(in .*\))? at b holds .*, a time of day"):
            to_arrow([record("a", x=None), record("b", x=value)])


@pytest.mark.parametrize("number", [np.longdouble("1.1"), np.clongdouble(np.longdouble("1.1")), 2**53 + 1])
@pytest.mark.parametrize("beside", [None, 1.0, 1j])
def test_a_number_that_no_dtype_of_both_holds_is_not_rounded(number: Any, beside: Any) -> None:
    pytest.importorskip("pandas")
    frame = to_dataframe([record("a", x=number), record("b", x=beside)])
    assert frame["x"].iloc[0] == number


def test_a_value_that_holds_itself_is_refused_with_its_column_and_path() -> None:
    value: list[Any] = [1]
    value.append(value)
    with pytest.raises(ArgumentTypeError, match="to_rows: the attribute 'x' at a holds itself, or is nested too deep"):
        list(to_rows([record("a", x=value)]))


def test_zones_mix_at_any_depth(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    values = [[{"t": dt.datetime(2020, 1, 1, tzinfo=zone)}] for zone in (UTC, BERLIN)]
    records = [record("a", x=value) for value in values]
    to_parquet(tmp_path / "x.parquet", records, batch_size=1)
    assert read(tmp_path / "x.parquet")["x"].to_pylist() == to_arrow(records)["x"].to_pylist() == values


@pytest.mark.parametrize("make", [to_rows, to_dataframe, to_arrow])
def test_names_that_would_share_a_column_are_refused(make: Any) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    with pytest.raises(ArgumentError, match="would share a column"):
        list(make([record("a", **{"\udce9": 1}), record("b", **{"\\udce9": 2})]))
    with pytest.raises(ArgumentTypeError, match="'x' at a has two keys that are one"):
        list(make([record("a", x={"\udce9": 1, "\\udce9": 2})]))


def test_whole_numbers_stay_whole_beside_missing_ones_in_lotdbs_frames_too() -> None:
    pytest.importorskip("pandas")
    root = BaseNode("root")
    far = np.datetime64("20000-01-01T00:00", "s")
    for key, values in {"a": (2**53 + 1, True, far), "b\udce9": (None, None, None), "c": (-1, False, None)}.items():
        for name, value in zip(("n", "flag", "t"), values, strict=True):
            root.gn(key).set_attribute(name, value)
    frame = tree_to_dataframe(root, ["n", "flag", "t"])
    assert list(map(str, frame.dtypes[1:3])) == ["Int64", "boolean"]
    assert frame["TreeLevel_1"].tolist() == ["a", "b\\udce9", "c"]
    assert [list(map(told, frame[name])) for name in ("n", "flag", "t")] == [
        [2**53 + 1, None, -1],
        [True, None, False],
        [told(far), None, None],
    ]
    without = to_dataframe([record("a", n=1, flag=True)])
    assert list(map(str, without.dtypes[1:])) == ["int64", "bool"]


# --- missing extras ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("pandas", "pandas", lambda folder: to_dataframe()),
        ("pyarrow", "arrow", lambda folder: to_arrow()),
        ("pyarrow", "arrow", lambda folder: to_parquet(folder / "x.parquet")),
        ("pandas", "pandas", lambda folder: tree_to_dataframe(BaseNode("root"), [])),
        ("pandas", "pandas", lambda folder: node_list_to_dataframe([], [])),
    ],
)
def test_a_missing_package_is_named_before_any_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, call: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(MissingExtraError, match=rf"\(\) needs {package}, .*; pip install \"lotproc\[{extra}\]\""):
        call(tmp_path)
