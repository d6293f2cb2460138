"""`table_by_path`: what a program writes with csv comes back as it was; every kind of table gives the same mapping."""

from __future__ import annotations

import csv
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from lotdb import BaseNode
from toolz import pipe
from trees import commit, opened
from ZODB.MappingStorage import MappingStorage

import lotproc as lp

NodePath = tuple[str, ...]

keys = st.sampled_from(["007", "7", "é", " a", "a,b", 'say "a"', "two\nlines", "1.0"])
paths = st.tuples(keys, keys)
numbers = {
    "int": st.none() | st.integers(-(10**20), 10**20),
    "float": st.none() | st.floats(),
    "text": st.none() | st.sampled_from(["a", "é", "007", "1_0", "0x1", "١", "true", "NA", " 1", "1 ", "--1", "."]),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], dict[NodePath, dict[str, Any]]]:
    """The names of the attributes, and these by path; each column is of one kind."""
    kinds = draw(st.lists(st.sampled_from(sorted(numbers)), max_size=3))
    names = [f"{kind} {number}" for number, kind in enumerate(kinds)]
    found = draw(st.lists(paths, unique=True, max_size=6))
    rows = {path: {name: draw(numbers[name.partition(" ")[0]]) for name in names} for path in found}
    return names, rows


def same(found: Any, wanted: Any) -> bool:
    both_nan = isinstance(found, float) and isinstance(wanted, float) and math.isnan(found) and math.isnan(wanted)
    return both_nan or (type(found) is type(wanted) and found == wanted)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def written(file: Path, lines: list[list[Any]], *, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with open(file, "w", encoding=encoding, newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(lines)
    return file


@pytest.mark.parametrize(
    ("suffix", "delimiter", "encoding"), [(".csv", ",", "utf-8"), (".CSV", ",", "utf-8-sig"), (".tsv", "\t", "utf-8")]
)
@given(table=tables())
def test_what_csv_wrote_comes_back_to_the_letter(
    folder: Path, suffix: str, delimiter: str, encoding: str, table: Any
) -> None:
    names, rows = table
    cells = [["session", *names, "speaker"]]
    for (speaker, session), attributes in rows.items():
        values = [repr(value) if isinstance(value, float) else value for value in attributes.values()]
        cells.append([session, *values, speaker])
    file = written(folder / f"table{suffix}", cells, delimiter=delimiter, encoding=encoding)
    found = lp.table_by_path(file, key=["speaker", "session"])
    assert list(found) == list(rows)
    assert len(found) == len(rows)
    for path, attributes in rows.items():
        assert list(found[path]) == names
        for name, value in attributes.items():
            assert same(found[path][name], value), (name, value, found[path][name])
    assert [result.path for result in found.results()] == sorted(rows)
    copy = pickle.loads(pickle.dumps(found))
    assert (list(copy), repr(copy)) == (list(found), repr(found))


@given(
    cells=st.lists(st.sampled_from(["", "1", "-2", "+3", "007", "1.5", "1e3", ".5", "nan", "-inf", "a"]), min_size=1)
)
def test_a_column_is_numbers_where_each_of_its_cells_is_one(folder: Path, cells: list[str]) -> None:
    file = written(folder / "numbers.csv", [["key", "x"], *([f"k{n}", cell] for n, cell in enumerate(cells))])
    there = [cell for cell in cells if cell]
    if all(cell in ("1", "-2", "+3") for cell in there):
        kind: Callable[[str], Any] = int
    else:
        kind = str if {"007", "a"} & set(there) else float
    found = [attributes["x"] for attributes in lp.table_by_path(file, key="key").values()]
    assert all(map(same, found, [kind(cell) if cell else None for cell in cells]))


@pytest.mark.parametrize("number", ["9" * 5000, "1e999", "-1e999"])
def test_a_number_that_python_can_not_hold_is_text(folder: Path, number: str) -> None:
    file = written(folder / "long.csv", [["key", "x"], ["a", number], ["b", "1.5"]])
    assert lp.table_by_path(file, key="key")["a",] == {"x": number}


# --- Data frames -----------------------------------------------------------------------------------------------------


def frames(pandas: Any, folder: Path) -> dict[str, Any]:
    """One table in every form that there is."""
    frame = pandas.DataFrame(
        {
            "speaker": ["ann", "bob"],
            "session": ["007", "7"],
            "age": pandas.array([31, None], "Int64"),
            "f0": [0.5, None],
        }
    )
    forms = {"pandas": frame}
    try:
        import pyarrow
    except ImportError:
        return forms
    frame.to_parquet(folder / "frame.parquet")
    return {**forms, "parquet": folder / "frame.parquet", "arrow": pyarrow.Table.from_pandas(frame)}


def test_every_form_of_a_table_gives_the_same(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    wanted = {("ann", "007"): {"age": 31, "f0": 0.5}, ("bob", "7"): {"age": None, "f0": None}}
    for name, form in frames(pandas, tmp_path).items():
        found = lp.table_by_path(form, key=["speaker", "session"])
        assert found == wanted, name
        assert type(found["ann", "007"]["age"]) is int
    file = written(
        tmp_path / "a.csv", [["speaker", "session", "age", "f0"], ["ann", "007", 31, 0.5], ["bob", "7", "", ""]]
    )
    assert lp.table_by_path(file, key=("speaker", "session")) == wanted


@pytest.mark.parametrize("form", ["pandas", "parquet", "arrow"])
def test_numbers_as_keys_of_a_frame_are_refused(tmp_path: Path, form: str) -> None:
    pandas = pytest.importorskip("pandas")
    if form != "pandas":
        pytest.importorskip("pyarrow")
    table = frames(pandas, tmp_path)[form]
    with pytest.raises(lp.ArgumentTypeError) as raised:
        lp.table_by_path(table, key=["age"])
    assert (raised.value.got, "astype(str)" in str(raised.value.hint)) == ("int 31", True)
    with pytest.raises(lp.ArgumentError) as missing:
        lp.table_by_path(table, key="note")
    assert missing.value.got == "'note'"


def test_missing_keys_of_a_frame_are_empty() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"speaker": ["ann", None], "age": [1, 2]})
    with pytest.raises(lp.ArgumentError, match="row 1 "):
        lp.table_by_path(frame, key="speaker")
    frame.columns = ["speaker", 3]
    with pytest.raises(lp.ArgumentError) as raised:
        lp.table_by_path(frame, key="speaker")
    assert raised.value.got == "int 3"


def test_a_key_in_the_index_of_a_frame_is_told_how_it_becomes_a_column() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [1]}, index=pandas.Index(["ann"], name="speaker"))
    for key, hinted in (("speaker", True), ("note", False)):
        with pytest.raises(lp.ArgumentError) as raised:
            lp.table_by_path(frame, key=key)
        assert ("reset_index()" in str(raised.value.hint)) == hinted
    assert lp.table_by_path(frame.reset_index(), key="speaker") == {("ann",): {"age": 1}}


def test_a_table_itself_is_no_results() -> None:
    table = lp.PathTable(["age"], {("ann",): [31]})
    with pytest.raises(lp.ResultError) as raised:
        lp.write(lp.mirror(), BaseNode("root"), table)  # type: ignore[arg-type]
    assert "table.results()" in str(raised.value.hint)


# --- What is refused -------------------------------------------------------------------------------------------------

WRONG_FILES: dict[str, tuple[str, ...]] = {
    "an empty key": ("speaker,age\nann,1\n,2\n", "line 3"),
    "a path twice": ('speaker,age\nann,1\nbob,"2\n"\n\nann,3\n', "line 2", "line 6", "more columns in key="),
    "too many cells": ("speaker,age\n\nann,1,2\n", "line 3"),
    "too few cells": ("speaker,age\nann,1\nbob\n", "line 3"),
    "a quote that does not end": ('speaker,age\nann,"1\nbob,2\n', "line 2"),
    "no such column": ("speker,age\nann,1\n", "'speker', 'age'"),
    "semicolons": ("speaker;age\nann;1\n", "sep=';', dtype={'speaker': str}"),
    "a column without a name": (",speaker,age\n0,ann,1\n", "index=False"),
    "a column twice": ("speaker,age,age\nann,1,2\n", "'age' comes twice"),
    "nothing": ("", "is empty"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_file_is_refused_with_the_line(tmp_path: Path, name: str) -> None:
    text, *said = WRONG_FILES[name]
    file = tmp_path / "table.csv"
    file.write_text(text)
    with pytest.raises(lp.ArgumentError) as raised:
        lp.table_by_path(file, key="speaker")
    assert [part for part in [*said, str(file)] if part not in str(raised.value)] == []
    assert raised.value.path == (("ann",) if name == "a path twice" else None)


def test_other_encodings_and_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes("speaker\nJosé\n".encode("latin-1"))
    with pytest.raises(lp.ArgumentError) as raised:
        lp.table_by_path(file, key="speaker")
    assert raised.value.expected == "text in UTF-8"
    assert "line 2" in str(raised.value)
    assert "encoding='cp1252', dtype={'speaker': str}" in str(raised.value.hint)
    file.write_bytes("speaker\nJosé\n".encode("utf-16"))
    with pytest.raises(lp.ArgumentError, match="encoding='utf-16'"):
        lp.table_by_path(file, key="speaker")
    with pytest.raises(lp.ArgumentError) as raised:
        lp.table_by_path("table.xlsx", key="speaker")
    assert raised.value.got == "'.xlsx'"
    with pytest.raises(FileNotFoundError):
        lp.table_by_path(tmp_path / "none.csv", key="speaker")
    for wrong in (3, {"a": 1}, None):
        with pytest.raises(lp.ArgumentTypeError):
            lp.table_by_path(wrong, key="speaker")


@pytest.mark.parametrize("key", [3, None, [], ["a", "a"], ["a", 3]])
def test_a_wrong_key_is_refused(key: Any) -> None:
    with pytest.raises((lp.ArgumentError, lp.ArgumentTypeError)):
        lp.table_by_path("none.csv", key=key)


# --- In runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", ["memory", "live", "bulk", "store"])
def test_metadata_goes_onto_nodes_that_are_there_and_beside_what_is_below(tmp_path: Path, plane: str) -> None:
    """All that is there keeps its other attributes; where one is not, nothing of the table is written."""
    good = written(tmp_path / "good.csv", [["speaker", "age"], ["bob", 47], ["ann", 31]])
    typo = written(tmp_path / "typo.csv", [["speaker", "age"], ["bbo", 48], ["ann", 32]])
    with opened(MappingStorage()) as persistent, lp.DirectoryStore(tmp_path / "store") as store:
        root = BaseNode("root") if plane == "memory" else persistent
        for speaker in ("ann", "bob"):
            root.gn(speaker).set_attribute("sex", "f")
            root.gns([speaker, "1"]).set_attribute("f0", 1.0)
            store.put((speaker,), {"sex": "f"})
        commit(persistent)
        target: Any = store if plane == "store" else root
        options: dict[str, Any] = {"commit_every": 10} if plane == "bulk" else {}

        def attributes(speaker: str) -> dict[str, Any]:
            return dict(store[speaker] if plane == "store" else root.gn(speaker).attribute_storage)

        def put(file: Path) -> Any:
            results = list(lp.table_by_path(file, key="speaker").results())
            return lp.write(lp.mirror(), target, [results], output_attribute=None, if_missing="error", **options)

        with pytest.raises(lp.NoSuchKeyError):
            put(typo)
        assert [attributes(speaker) for speaker in ("ann", "bob")] == [{"sex": "f"}] * 2
        assert put(good).written == 2
        assert [attributes(speaker) for speaker in ("ann", "bob")] == [{"sex": "f", "age": 31}, {"sex": "f", "age": 47}]
        if plane != "store":
            table = lp.table_by_path(good, key="speaker")
            clips = pipe(root, lp.leaves(), lp.snapshot("f0"), lp.join(table, on=1), list)
            assert [clip.attributes for clip in clips] == [{"f0": 1.0, "age": 31}, {"f0": 1.0, "age": 47}]


def test_a_key_with_a_blank_in_the_header_is_told(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("speaker ,age\nann,31\n")
    with pytest.raises(lp.ArgumentError, match=r"did you mean 'speaker ', with other spaces in it\?"):
        lp.table_by_path(file, key="speaker")
