"""What values hold, and whether two of them are the same: as Python and pickles say, where these have an answer."""

from __future__ import annotations

import collections
import pickle
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from recording import examples

import lotproc as lp
from lotproc._values import inside, is_flat, same

DTYPES = ["<f4", ">f8", "i2", "?", "<c8", "U2", "S3", "M8[s]", [("a", "i2"), ("b", "<f4")]]
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=2, max_side=2, min_side=0))
)
few_arrays = st.sampled_from(
    [
        *(np.arange(2), np.arange(2.0), np.arange(2, dtype="i2"), np.array([0, 1], dtype=">i8"), np.arange(2)[None]),
        *(np.array([0.0]), np.array([-0.0]), np.array([np.nan]), np.array([]), np.array(1), np.zeros((0, 2))),
        *(np.array([1, None], dtype=object), np.array([np.arange(2), "x"], dtype=object)),
        *(np.ma.array([1, 2], mask=[True, False]), np.ma.array([1, 2], mask=[False, False]), np.array([1, 2])),
    ]
)
numbers = st.integers(0, 2) | st.floats(allow_nan=False, width=32)
plain = st.none() | st.text(max_size=1) | numbers
values = st.recursive(
    plain | arrays | few_arrays,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.tuples(inner, inner),
        st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2),
    ),
    max_leaves=4,
)


def spelled(value: Any) -> Any:
    """A value with something in place of each array that Python can compare."""
    if isinstance(value, np.ma.MaskedArray):
        return ("masked", spelled(np.asarray(value.filled())), value.mask.tolist())
    if isinstance(value, np.ndarray):
        content = spelled(value.tolist()) if value.dtype.hasobject else value.tobytes()
        return ("array", value.dtype.descr, value.shape, content)
    if isinstance(value, dict):
        return {name: spelled(item) for name, item in value.items()}
    return type(value)(map(spelled, value)) if isinstance(value, (list, tuple)) else value


KINDS = {
    "record": lambda value: lp.NodeRecord(("a",), "a", {"x": value}, value),
    "result": lambda value: lp.ProcessResult(("a",), value, {"x": value}),
    "write": lambda value: lp.Write(("a",), {"x": value}),
    "record in a record": lambda value: lp.NodeRecord(("a",), "a", {"x": [lp.Write((), {"x": value})]}),
    "failure": lambda value: lp.Failure(("a",), "ValueError", "no", item=value),
}


@pytest.mark.parametrize("kind", KINDS)
@given(left=values, right=values)
@example(left=np.zeros(6), right=np.zeros((2, 3)))
@example(left=np.zeros(2, "i4"), right=np.zeros(2, "u4"))
def test_records_are_equal_where_all_that_they_hold_is(kind: str, left: Any, right: Any) -> None:
    make = KINDS[kind]
    copied = pickle.loads(pickle.dumps(left, 5))
    assert make(left) == make(left) == make(copied)
    is_same = bool(spelled(left) == spelled(right))
    assert (make(left) == make(right)) is is_same
    assert (make(right) == make(left)) is is_same
    assert (make(left) != make(right)) is not is_same
    assert make(left) != "another thing"


def test_what_else_records_are_compared_by_stays() -> None:
    record = lp.NodeRecord(("a",), "a", {"x": np.arange(3)}, inputs="digest")
    assert record == replace(record, inputs="another")
    assert record != replace(record, key="b")
    assert record != lp.NodeRecord(("a",), "a", {"y": np.arange(3)})
    assert lp.ProcessResult(("a",), np.arange(3)) != lp.Write(("a",), {"result": np.arange(3)})
    failure = lp.Failure(("a",), "ValueError", "no")
    assert len({failure, replace(failure), replace(failure, attempts=2)}) == 2
    assert hash(lp.NodeRecord(("a",), "a", (), 1)) == hash((("a",), "a", (), 1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unhashable"):
        hash(record)


@dataclass
class Features:
    """What a processor may return."""

    values: Any


def test_what_can_not_say_whether_it_is_equal_is_asked_in_another_way() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"x": [1.0, np.nan]})
    assert same([table], [table.copy()])
    assert not same([table], [table + 1])
    assert not same(table, np.arange(2))
    assert same(Features(np.arange(2)), Features(np.arange(2)))
    assert not same(Features(np.arange(2)), Features(np.arange(3)))
    assert same({"x": np.float32(1)}, {"x": np.float32(1)})
    assert not same(np.float32(1), [])  # which numpy compares item by item
    assert same(np.array([1, 2]).view(np.recarray), np.array([1, 2]))
    padded = np.dtype({"names": ["a", "b"], "formats": ["i1", "i4"], "offsets": [0, 4]})
    left, right = np.frombuffer(bytes(8), padded), np.frombuffer(b"\0\xff\xff\xff" + bytes(4), padded)
    assert same(left, right)


@settings(max_examples=examples(50))
@given(values)
def test_all_that_a_value_holds_is_looked_at(value: Any) -> None:
    needle = object()
    for hay in ([value, needle], {"x": (value, [needle])}, collections.deque([{needle}, value]), Features([needle])):
        assert any(item is needle for item in inside(hay))
        assert not is_flat(hay)
    assert not is_flat(value) or {dict, list, tuple, np.ndarray}.issuperset(map(type, inside(value)))
