"""Statistics of arrays as columns of tables: those that numpy finds, of arrays in attributes and of payloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays
from lotdb import LOTDB, BaseNode, DataWriter
from recording import examples

import lotproc as lp

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ALL = ("shape", "dtype", "seconds", "mean", "std", "min", "max", "peak")
ARRAYS = arrays.arrays(
    st.sampled_from(["i2", "u1", "f4", "f8", "?"]), arrays.array_shapes(min_side=0, max_dims=2, max_side=4)
)


def oracle(array: Any, rate: float | None = None) -> dict[str, Any]:
    wide = array.astype(np.float64)
    numbers: tuple[Any, ...] = (None,) * 5
    if array.size:
        numbers = (wide.mean(), wide.std(), wide.min(), wide.max(), np.abs(wide).max())
    seconds = None if rate is None else array.shape[0] / rate
    return dict(zip(ALL, (list(array.shape), str(array.dtype), seconds, *numbers), strict=True))


def told(row: dict[str, Any], name: str = "x") -> dict[str, Any]:
    return {statistic: row[f"{name}_{statistic}"] for statistic in ALL}


@given(found=st.lists(st.none() | ARRAYS, max_size=4), order=st.permutations(ALL))
@settings(max_examples=examples(60))
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning", "ignore:.*no record had an attribute 'y'")
def test_they_are_what_numpy_finds(found: list[Any], order: list[str]) -> None:
    records = [lp.NodeRecord(("clip",), "clip", {"a": 1, "x": array, "z": 2}) for array in found]
    rows = list(lp.to_rows(records, payload_columns={"x": order, "y": "mean"}))
    for row, array in zip(rows, found, strict=True):
        assert list(row) == ["TreeLevel_1", "a", *(f"x_{statistic}" for statistic in order), "z"]
        if array is None:
            assert set(told(row).values()) == {None}
        else:
            expected = oracle(array)
            np.testing.assert_equal(told(row), {**expected, "mean": told(row)["mean"], "std": told(row)["std"]})
            for name in ("mean", "std"):
                assert expected[name] is None or told(row)[name] == pytest.approx(expected[name], nan_ok=True)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[BaseNode]:
    database = LOTDB(path=str(tmp_path), name="corpus", new=True)
    root = database.open_connection()
    for number, backend in enumerate(("blob", "zarr", "blob")):
        if backend == "zarr":
            pytest.importorskip("zarr")
        rate = 4.0 if number < 2 else None
        store = {"zarr_store_path": str(tmp_path / "store.zarr")} if backend == "zarr" else {}
        node = root.gns(["ann", f"clip_{number}"])
        DataWriter.write_array(node, np.arange(number, 10, dtype="f4"), rate, backend=backend, **store)
    root.gns(["ann", "clip_3"])
    database.commit()
    yield root
    database.close()


@pytest.mark.filterwarnings("default")  # zarr's own
def test_they_are_columns_of_payloads_in_every_table(root: BaseNode, tmp_path: Path) -> None:
    options: Any = {"levels": ("speaker", "clip"), "payload_columns": {"data": ALL}}

    def scan() -> Any:
        return lp.scan("data", root)

    rates = (4.0, 4.0, None)
    expected = [oracle(np.arange(number, 10, dtype="f4"), rate) for number, rate in enumerate(rates)]
    rows = list(lp.to_rows(scan(), **options))
    assert [told(row, "data") for row in rows] == [*expected, dict.fromkeys(ALL)]
    assert [row["clip"] for row in rows] == [f"clip_{number}" for number in range(4)]
    lp.to_parquet(tmp_path / "a.parquet", scan(), **options)
    for table in (lp.to_arrow(scan(), **options), pq.read_table(tmp_path / "a.parquet")):
        assert table.to_pylist() == rows
    frame = lp.to_dataframe(scan(), **options)
    assert list(frame.columns) == list(rows[0])
    assert frame["data_peak"].tolist()[:3] == [9, 9, 9]
    nothing = lp.scan("data", root, path="no/*")
    assert lp.to_arrow(nothing, **options).schema.names == list(rows[0])


@pytest.mark.filterwarnings("default")  # zarr's own
def test_what_a_handle_knows_is_told_without_reading_it(root: BaseNode) -> None:
    records = list(lp.scan("data", root))
    for record in records[:1]:
        Path(record.attributes["data"].file).unlink()
        (row,) = lp.to_rows([record], payload_columns={"data": ["shape", "dtype", "seconds"]})
        assert (row["data_shape"], row["data_dtype"], row["data_seconds"]) == ([10], "float32", 2.5)
        with pytest.raises(FileNotFoundError):
            list(lp.to_rows([record], payload_columns={"data": "mean"}))


def test_the_output_of_a_result_is_one() -> None:
    result = lp.ProcessResult(("a",), output=np.array([1, -3]))
    (row,) = lp.to_rows([result], payload_columns={"result": ["peak"]})
    assert row == {"TreeLevel_1": "a", "result_peak": 3}
    failure = lp.Failure(("a",), "ValueError", "no")
    assert list(lp.to_rows([failure], payload_columns={"result": ["peak"]})) == list(lp.to_rows([failure]))


@pytest.mark.parametrize("value", ["text", 3, np.array(["a"]), np.array([1j]), [1, 2]])
def test_what_is_no_array_of_numbers_is_refused(value: Any) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="to_rows: the attribute 'x'") as caught:
        list(lp.to_rows([lp.NodeRecord(("a",), "a", {"x": value})], payload_columns={"x": ["mean"]}))
    assert caught.value.path == ("a",)


def test_an_attribute_has_the_name_of_a_column() -> None:
    for attributes in ({"x": np.ones(2), "x_mean": 1}, {"x_mean": 1, "x": np.ones(2)}):
        with pytest.raises(lp.ArgumentError, match="x_mean") as caught:
            list(lp.to_rows([lp.NodeRecord(("a",), "a", attributes)], payload_columns={"x": "mean"}))
        assert caught.value.path == ("a",)


@pytest.mark.parametrize("wrong", [["mean"], "mean", {"x": "median"}, {"x": ["mean", 3]}, {3: "mean"}, {"x": None}])
@pytest.mark.parametrize("name", ["to_rows", "to_arrow", "to_dataframe", "to_parquet"])
def test_wrong_statistics_are_refused_at_once(name: str, wrong: Any) -> None:
    make = getattr(lp, name)
    arguments = ("a.parquet",) if name == "to_parquet" else ()
    with pytest.raises((lp.ArgumentError, lp.ArgumentTypeError), match=f"{name}: payload_columns"):
        make(*arguments, payload_columns=wrong)


def test_it_is_lazy_and_closes_its_source() -> None:
    events: list[Any] = []

    def source() -> Iterator[lp.NodeRecord]:
        try:
            for number in range(3):
                events.append(number)
                yield lp.NodeRecord(("a",), "a", {"x": np.ones(number)})
        finally:
            events.append("closed")

    rows: Any = lp.to_rows(source(), payload_columns={"x": "shape"})
    assert events == []
    assert next(rows) == {"TreeLevel_1": "a", "x_shape": [0]}
    rows.close()
    assert events == [0, "closed"]


@pytest.mark.parametrize("table", ["to_rows", "to_arrow", "to_dataframe", "to_parquet"])
def test_a_name_that_no_record_has_is_told_with_the_nearest(tmp_path: Path, table: str) -> None:
    def make(*found: Any, **columns: str) -> None:
        function: Any = getattr(lp, table)
        made = function(*[tmp_path / "t.parquet"][: table == "to_parquet"], list(found), payload_columns=columns)
        list(made) if table == "to_rows" else None

    failure = lp.Failure(("bob",), "ValueError", "it is empty")
    array = lp.NodeRecord(("ann",), "ann", {"data": np.arange(3)})
    with pytest.warns(UserWarning, match=rf"{table}: payload_columns: .* 'dat' \(.* is 'data'\)"):
        make(array, failure, dat="peak")
    with pytest.warns(UserWarning, match="'dat'") as caught:
        make(array, array, dat="peak", data="peak")
    assert len(caught) == 1
    make(failure, dat="peak")  # of what failed nobody knows
    make(array, lp.NodeRecord(("bob",), "bob"), data="peak")
    make(dat="peak")
