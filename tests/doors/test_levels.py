"""Tables whose levels have names: those without names, renamed; and what has not as many keys is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import LOTDB, BaseNode
from recording import examples

import lotproc as lp

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = ("speaker", "Größe", "clip", "TreeLevel_1")
ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={"n": st.none() | st.integers(-9, 9), "text": st.text("aé", max_size=2), "many": st.lists(st.booleans())},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("levels")


def parquet(folder: Path, records: Any, **options: Any) -> Any:
    lp.to_parquet(folder / "a.parquet", records, batch_size=3, **options)
    return pq.read_table(folder / "a.parquet")


@given(
    depth=st.integers(1, 4),
    rows=st.lists(st.tuples(st.lists(st.text("aé\udce9", max_size=2), min_size=4, max_size=4), ATTRIBUTES), max_size=8),
    failed=st.lists(st.integers(0, 4)),
)
@settings(max_examples=examples(60))
def test_named_levels_are_those_without_names_renamed(folder: Path, depth: int, rows: Any, failed: Any) -> None:
    names = NAMES[:depth]
    records: list[Any] = [lp.NodeRecord(tuple(keys[:depth]), keys[depth - 1], attributes) for keys, attributes in rows]
    records += [lp.Failure(("x",) * length or None, "ValueError", "x") for length in failed if length <= depth]
    renamed = {f"TreeLevel_{number}": name for number, name in enumerate(names, 1)}
    assert list(lp.to_rows(records, levels=names)) == [
        {renamed.get(name, name): value for name, value in row.items()} for row in lp.to_rows(records)
    ]
    for make in (lp.to_arrow, lambda *args, **options: parquet(folder, *args, **options)):
        plain, named = make(records), make(records, levels=list(names))
        assert named.schema.names[:depth] == list(names)  # all of them, also where no path has a key
        assert named.schema.names[depth:] == [name for name in plain.schema.names if name not in renamed]
        for old, new in renamed.items():
            there = old in plain.schema.names
            assert named[new].to_pylist() == (plain[old].to_pylist() if there else [None] * len(records))
        for name in named.schema.names[depth:]:
            assert named[name].equals(plain[name])
    frame, plain = lp.to_dataframe(records, levels=names), lp.to_dataframe(records)
    assert list(frame.columns[:depth]) == list(names)
    assert len(frame) == len(records)
    for old, new in renamed.items():
        assert list(frame[new]) == (list(plain[old]) if old in plain else [None] * len(records))
    for name in frame.columns[depth:]:
        pd.testing.assert_series_equal(frame[name], plain[name])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Any:
    database = LOTDB(path=str(tmp_path_factory.mktemp("levels")), name="corpus", new=True)
    root = database.open_connection()
    for speaker in ("ann", "bob"):
        root.gn(speaker).set_attribute("age", 31)
        for number in range(30):
            root.gns([speaker, f"clip_{number}"]).set_attribute("n", number)
    database.commit()
    yield root
    database.close()


LEVELS = ("speaker", "clip")


def test_a_scan_has_them_itself_in_every_table(root: BaseNode, folder: Path) -> None:
    def scan() -> Any:
        return lp.scan("n", root, inherit="age", levels=LEVELS)

    columns = ["speaker", "clip", "n", "age"]
    expected = lp.to_arrow(lp.scan("n", root, inherit="age")).rename_columns(columns)
    named = scan()
    for _ in range(2):  # each stream is one of its own
        assert pa.table(named).equals(expected)
    assert lp.to_arrow(named).equals(expected)
    assert lp.to_arrow(lp.scan("n", root, inherit="age"), levels=LEVELS).equals(expected)
    assert lp.to_arrow(scan(), levels=("who", "what")).schema.names == ["who", "what", "n", "age"]
    assert parquet(folder, scan()).equals(expected)
    assert list(lp.to_dataframe(scan()).columns) == columns
    assert list(lp.to_rows(scan())) == expected.to_pylist()
    begun = scan()
    assert next(begun).path == ("ann", "clip_0")
    assert lp.to_arrow(begun).equals(expected.slice(1))
    nothing = lp.scan("n", root, path="no/*", levels=LEVELS)
    for table in (pa.table(nothing), lp.to_arrow(nothing)):
        assert (table.num_rows, table.schema.names) == (0, ["speaker", "clip", "n"])


def test_duckdb_and_polars_see_them(root: BaseNode) -> None:
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    corpus = lp.scan("n", root, levels=LEVELS)
    assert duckdb.sql("select speaker, max(n) from corpus group by speaker order by speaker").fetchall() == [
        ("ann", 29),
        ("bob", 29),
    ]
    assert polars.DataFrame(corpus).columns == ["speaker", "clip", "n"]


def test_the_two_functions_of_lotdb_take_them(root: BaseNode) -> None:
    for frame in (
        lp.tree_to_dataframe(root, ["n"], levels=LEVELS),
        lp.node_list_to_dataframe(list(lp.leaves(root)), ["n"], levels=LEVELS),
    ):
        assert list(frame.columns) == ["speaker", "clip", "n"]
        assert frame["clip"].tolist()[:2] == ["clip_0", "clip_1"]
    with pytest.raises(lp.ArgumentError) as caught:
        lp.node_list_to_dataframe([root.gn("ann")], ["n"], levels=LEVELS)
    assert caught.value.path == ("ann",)


WAYS: dict[str, Any] = {
    "to_rows": lambda records, levels: list(lp.to_rows(records, levels=levels)),
    "to_arrow": lambda records, levels: lp.to_arrow(records, levels=levels),
    "to_dataframe": lambda records, levels: lp.to_dataframe(records, levels=levels),
    "to_parquet": lambda records, levels: lp.to_parquet("table.parquet", records, levels=levels),
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("is_scan", [False, True])
def test_a_ragged_tree_says_so(root: BaseNode, name: str, is_scan: bool, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for levels in (("speaker",), ("speaker", "session", "clip")):
        records = lp.scan("n", root)
        with pytest.raises(lp.ArgumentError, match=f"{name}: levels") as caught:
            WAYS[name](records if is_scan else list(records), levels)
        assert caught.value.path == ("ann", "clip_0")
        assert "scan" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WAYS)
def test_an_attribute_is_no_level(root: BaseNode, name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lp.ArgumentError, match="'n'.* has the name of a level column") as caught:
        WAYS[name]([lp.NodeRecord(("a",), "a", {"n": 1})], ("n",))
    assert caught.value.path == ("a",)
    scan = lp.scan("n", root)
    if name != "to_rows":  # which looks at each record
        with pytest.raises(lp.ArgumentError, match="'n'.* has the name of a level column") as caught:
            WAYS[name](scan, ("speaker", "n"))
        assert caught.value.path is None
    with pytest.raises(lp.ArgumentError, match="'age' has the name of a level column"):
        lp.scan("n", root, inherit="age", levels=("age", "clip"))


@pytest.mark.parametrize("wrong", [(), 3, ("a", "a"), ("a", 3), ("",), ("caf\udce9",), {"a"}, iter("ab")])
@pytest.mark.parametrize(
    "make", [lp.to_rows, lp.to_arrow, lp.to_dataframe, lambda **given: lp.to_parquet("a.parquet", **given),
             lambda **given: lp.scan("n", **given)],
)  # fmt: skip
def test_names_that_are_none_are_refused_at_once(make: Any, wrong: Any) -> None:
    with pytest.raises((lp.ArgumentError, lp.ArgumentTypeError), match="levels"):
        make(levels=wrong)


def test_one_level_may_be_a_str() -> None:
    assert list(lp.to_rows([lp.NodeRecord(("a",), "a", {})], levels="clip")) == [{"clip": "a"}]
