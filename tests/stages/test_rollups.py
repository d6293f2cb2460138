"""`rollup` gives for each branch what a plain loop over all records below it would, to the bit, in any parts."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from trees import NodePath, Tree, build, exactly, paths, post_order

import lotproc as lp
from lotproc.folds import Fold, count, stats, top, total

# --- The oracle -----------------------------------------------------------------------------------------------------

#: Attributes by path, for a stream in path order.
Values = dict[NodePath, Any]


def branches(values: Values) -> dict[NodePath, Values]:
    """What is below each branch, children before their parents."""
    tree: Tree = {}
    for path in values:
        subtree = tree
        for key in path:
            subtree = subtree.setdefault(key, {})
    found = {}
    for branch in post_order(tree):
        below = {path: values[path] for path in values if len(path) > len(branch) and path[: len(branch)] == branch}
        if below:
            found[branch] = below
    return found


def nearest(number: Fraction) -> float:
    try:
        return number.numerator / number.denominator
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def numbers(values: Values) -> list[Any]:
    return [plain(value) for value in values.values() if value is not None]


def plain(value: Any) -> Any:
    return int(value) if isinstance(value, (int, np.integer, np.bool_)) else float(value)


def summed(values: list[Any]) -> Any:
    if all(type(value) is int for value in values):
        return sum(values)
    special = specials(values)
    if special:
        return sum(special) if sum(special) == sum(special) else math.nan
    return nearest(sum(map(Fraction, values), Fraction(0)))


def specials(values: list[Any]) -> list[float]:
    return [value for value in values if type(value) is float and not math.isfinite(value)]


def is_root(root: float, square: Fraction) -> bool:
    """Whether a float is the nearest one to the root of a number."""
    above = Fraction(root) + (Fraction(math.ulp(root)) / 2)
    below = Fraction(root) - Fraction(math.ulp(math.nextafter(root, 0))) / 2
    return below <= 0 <= square <= above**2 if root == 0 else below**2 <= square <= above**2


def check_stats(found: dict[str, Any], values: list[Any]) -> None:
    assert list(found) == ["count", "sum", "mean", "std", "min", "max"]
    assert found["count"] == len(values)
    assert exactly(found["sum"]) == exactly(summed(values))
    if not values:
        assert [found[name] for name in ("mean", "std", "min", "max")] == [None] * 4
        return
    has_nan = any(value != value for value in values)
    assert exactly(found["min"]) == exactly(math.nan if has_nan else min(values))
    assert exactly(found["max"]) == exactly(math.nan if has_nan else max(values))
    special = specials(values)
    if special:
        assert exactly(found["mean"]) == exactly(summed(special))
        assert math.isnan(found["std"])
        return
    exact = list(map(Fraction, values))
    mean = sum(exact, Fraction(0)) / len(exact)
    assert exactly(found["mean"]) == exactly(nearest(mean))
    variance = sum(((value - mean) ** 2 for value in exact), Fraction(0)) / len(exact)
    if math.isinf(found["std"]):
        assert variance > Fraction(1.7e308) ** 2
    else:
        assert is_root(found["std"], variance)


def best(n: int, values: Values) -> list[tuple[Any, NodePath]]:
    pairs = [(plain(value), path) for path, value in values.items() if value is not None]
    return sorted(pairs, key=lambda pair: (pair[0] == pair[0], -pair[0] if pair[0] == pair[0] else 0, pair[1]))[:n]


# --- Streams --------------------------------------------------------------------------------------------------------

values: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.integers(-(2**80), 2**80),
    st.sampled_from([0, 1, -1, 1.0, -0.0, 0.1, 10**400, -(10**400), 2**1023, True]),
    st.floats(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([1e308, -1e308, 1.7976931348623157e308, 5e-324, 1e-310, 2.0**-537, math.inf, -math.inf, math.nan]),
    st.sampled_from([np.float32(0.1), np.float64(0.1), np.int8(-7), np.uint64(2**63), np.bool_(True), np.float16(2)]),
)
streams: st.SearchStrategy[Values] = st.one_of(
    st.dictionaries(paths, values, max_size=12),
    st.dictionaries(st.lists(st.sampled_from("ab"), max_size=4).map(tuple), values, max_size=20),
    st.dictionaries(st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(tuple), st.floats(), max_size=20),
).map(lambda values: dict(sorted(values.items())))
depths_given: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.integers(0, 4), st.sets(st.integers(0, 5), min_size=1, max_size=3)
)


def records(values: Values) -> list[lp.NodeRecord]:
    return [lp.NodeRecord(path, path[-1] if path else "root", {"n": value}) for path, value in values.items()]


def keys_of(record: lp.NodeRecord) -> list[str]:
    return [record.key]


def joined(left: list[str], right: list[str]) -> list[str]:
    return left + right


#: One whose order of combining shows.
in_turn = Fold(keys_of, joined, list)
FOLDS: dict[str, Any] = {
    "count": count(),
    "total": total("n"),
    "stats": stats("n"),
    "top": top(3, "n"),
    "function": in_turn,
    "several": {"count": count(), "total": total("n"), "best": top(1, "n")},
}


def cut(items: list[Any], places: list[int]) -> list[list[Any]]:
    """The items in consecutive parts, some of them empty."""
    ends = [0, *sorted(min(place, len(items)) for place in places), len(items)]
    return [items[start:end] for start, end in pairwise(ends)]


def to_the_bit(results: Any) -> list[tuple[NodePath, bytes]]:
    return [(result.path, pickled_alone(result.output)) for result in results]


def pickled_alone(value: Any) -> bytes:
    """The pickle of a value, whichever of its equal parts are one object."""
    buffer = BytesIO()
    pickler = pickle.Pickler(buffer)
    pickler.fast = True  # it remembers none of them
    pickler.dump(value)
    return buffer.getvalue()


#: Their deviation is above the middle of two floats by less than any of the digits that are looked at; and so small
#: that the digits have to be made.
HALF_WAY = [math.ldexp(number, -1074) for number in (2**53, 2**53 + 2, -(2**53), -(2**53) - 2)]
TINY = [2.0**-1021, 5 * 2.0**-1022, 2.0**-1021]


# --- The law --------------------------------------------------------------------------------------------------------


@given(values=streams, depths=depths_given)
@example(values={("a",): 1e308, ("b",): 1e308, ("c", "x"): -1e308}, depths=None)
@example(values={("a",): 1, ("b",): 1.0}, depths=None)
@example(values={("a",): math.nan, ("b",): 1.0, ("c",): math.nan, ("d",): math.nan, ("e",): math.nan}, depths=None)
@example(values=dict(zip([("a",), ("b",), ("c",), ("d",)], HALF_WAY, strict=True)), depths=None)
@example(values=dict(zip([("a",), ("b",), ("c",)], TINY, strict=True)), depths=None)
@example(values={("a",): 5e-324, ("b",): -5e-324, ("c",): 0.0}, depths=None)
def test_each_branch_has_what_a_loop_over_its_records_gives(values: Values, depths: Any) -> None:
    expected = branches(values)
    if depths is not None:
        asked = {depths} if isinstance(depths, int) else depths
        expected = {branch: below for branch, below in expected.items() if len(branch) in asked}
    for name, fold in FOLDS.items():
        found = list(lp.rollup(fold, iter(records(values)), depths=depths))
        assert [result.path for result in found] == list(expected)
        for result, below in zip(found, expected.values(), strict=True):
            output = result.output
            if name == "count":
                assert exactly(output) == exactly(len(below))
            elif name == "total":
                assert exactly(output) == exactly(summed(numbers(below)))
            elif name == "stats":
                check_stats(output, numbers(below))
            elif name == "top":
                assert exactly(output) == exactly(best(3, below))
            elif name == "function":
                assert output == [path[-1] for path in below]
            else:
                total_ = summed(numbers(below))
                assert exactly(output) == exactly({"count": len(below), "total": total_, "best": best(1, below)})


@given(values=streams, places=st.lists(st.integers(0, 20), max_size=6), again=st.integers(0, 6), depths=depths_given)
@example(values={("a",): math.inf, ("b",): -math.inf, ("c",): math.nan}, places=[1], again=1, depths=None)
@example(values={("ann", "clip_1"): 1, ("ann", "clip_2"): 2}, places=[1], again=1, depths=None)
@pytest.mark.parametrize("name", FOLDS)
def test_any_parts_give_the_same_to_the_bit(
    name: str, values: Values, places: list[int], again: int, depths: Any
) -> None:
    fold, items = FOLDS[name], records(values)
    whole = to_the_bit(lp.rollup(fold, items, depths=depths))
    parts = [list(lp.rollup(fold, part, partial=True)) for part in cut(items, places)]
    assert to_the_bit(lp.rollup(fold, parts, depths=depths)) == whole
    assert to_the_bit(lp.rollup(fold, (item for part in parts for item in part), depths=depths)) == whole
    asked = [list(lp.rollup(fold, part, partial=True, depths=depths)) for part in cut(items, places)]
    assert to_the_bit(lp.rollup(fold, asked)) == whole
    # parts of parts, which have travelled
    larger = [list(lp.rollup(fold, part, partial=True)) for part in cut(parts, [again])]
    travelled = [pickle.loads(pickle.dumps(part)) for part in larger]
    assert to_the_bit(lp.rollup(fold, travelled, depths=depths)) == whole


@given(
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False)),
    places=st.lists(st.integers(0, 20), max_size=3),
)
def test_sums_are_those_of_fsum(numbers: list[float], places: list[int]) -> None:
    values = {(f"{place:04}",): number for place, number in enumerate(numbers)}
    parts = [list(lp.rollup(total("n"), part, partial=True)) for part in cut(records(values), places)]
    found = [result.output for result in lp.rollup(total("n"), parts)]
    try:
        expected = math.fsum(numbers)
    except OverflowError:
        return
    assert list(map(exactly, found)) == [exactly(expected)] * bool(numbers)


@given(values=streams)
def test_nodes_give_what_their_records_give(values: Values) -> None:
    tree: Tree = {}
    for path in values:
        subtree = tree
        for key in path:
            subtree = subtree.setdefault(key, {})
    root = build(tree)
    leaves = list(lp.leaves(root))
    for fold in (count(), total("depth"), top(2, "depth"), {"n": stats("depth")}):
        live = to_the_bit(lp.rollup(fold, leaves))
        assert live == to_the_bit(lp.rollup(fold, lp.snapshot("depth", leaves)))


# --- What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"), [("b", "a"), ("a/b", "a"), ("a/b/c", "a/a"), ("a-1/x", "a/x"), ("b", "a/x/y")]
)
def test_records_out_of_path_order(first: str, second: str) -> None:
    items = [lp.NodeRecord(tuple(path.split("/")), "x", {"n": 1}) for path in (first, second)]
    with pytest.raises(lp.ArgumentError) as caught:
        list(lp.rollup(count(), items))
    assert caught.value.path == tuple(second.split("/"))
    assert "sort" in str(caught.value.hint)


@given(values=streams, places=st.lists(st.integers(1, 20), min_size=1, max_size=2))
def test_parts_out_of_path_order(values: Values, places: list[int]) -> None:
    """Only what lies in one branch alone can change places, where nothing tells of it."""
    items = records(values)
    first, *others = cut(items, places)
    swapped = [list(lp.rollup(count(), part, partial=True)) for part in (*others, first)]
    try:
        found = to_the_bit(lp.rollup(count(), swapped))
    except lp.ArgumentError as error:
        refused = error
    else:
        assert found == to_the_bit(lp.rollup(count(), items))
        return
    assert refused.path is not None
    assert "ordered=True" in str(refused.hint)


NO_NUMBERS = {
    "text": "1.5",
    "bytes": b"1",
    "complex": 1j,
    "decimal": Decimal("0.1"),
    "fraction": Fraction(1, 3),
    "longdouble": np.longdouble("0.1"),
    "span": np.timedelta64(1, "s"),
    "time": np.datetime64("2026-01-01"),
    "array": np.array(1.0),
    "list": [1.0],
}


@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS.keys())
@pytest.mark.parametrize("fold", [total("n"), stats("n"), top(1, "n")], ids=str)
def test_what_is_no_real_number(fold: Fold, value: Any) -> None:
    if isinstance(value, np.longdouble) and np.finfo(np.longdouble).eps == np.finfo(float).eps:
        return
    items = records({("a", "x"): 1.0, ("a", "y"): value})
    with pytest.raises(lp.ArgumentTypeError) as caught:
        list(lp.rollup(fold, items))
    assert (caught.value.path, caught.value.expected) == (("a", "y"), "a real number")
    assert "'n'" in str(caught.value)


def part_of(fold: Any) -> list[lp.Accumulator]:
    return list(lp.rollup(fold, records({("a", "x"): 1}), partial=True))


MIXED: dict[str, tuple[Any, type[Exception]]] = {
    "record behind accumulators": (lambda: [*part_of(count()), *records({("b", "x"): 1})], lp.ArgumentTypeError),
    "accumulator behind records": (lambda: [*records({("a", "x"): 1}), *part_of(count())], lp.ArgumentTypeError),
    "batches of records": (lambda: [records({("a", "x"): 1})], lp.ArgumentTypeError),
    "another fold": (lambda: [part_of(total("n"))], lp.ArgumentError),
    "another fold later": (lambda: [part_of(count()), part_of(in_turn)], lp.ArgumentError),
    "several folds": (lambda: [part_of({"count": count()})], lp.ArgumentError),
}


@pytest.mark.parametrize(("items", "error"), MIXED.values(), ids=MIXED.keys())
def test_what_does_not_go_together(items: Callable[[], list[Any]], error: type[Exception]) -> None:
    with pytest.raises(error):
        list(lp.rollup(count(), items()))


def test_accumulators_are_not_written() -> None:
    for call in (lambda items: list(lp.plan(lp.mirror(), items)), lp.write(lp.mirror(), build({}))):
        with pytest.raises(lp.ResultError) as caught:
            call([part_of(count())])
        assert "rollup(fold)" in str(caught.value.hint)
    with pytest.raises(lp.ArgumentTypeError):
        list(lp.to_rows(part_of(count())))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: total(3), lp.ArgumentTypeError),
        (lambda: stats(None), lp.ArgumentTypeError),
        (lambda: top(0, "n"), lp.ArgumentError),
        (lambda: top("n", 3), lp.ArgumentTypeError),
        (lambda: Fold(3, max, int), lp.ArgumentTypeError),
        (lambda: Fold(int, None, int), lp.ArgumentTypeError),
    ],
)
def test_folds_check_their_arguments(make: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


# --- Folds as values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["count", "total", "stats", "top", "function"])
def test_folds_pickle_compare_and_show_their_call(name: str) -> None:
    fold = FOLDS[name]
    copy = pickle.loads(pickle.dumps(fold))
    assert copy == fold
    assert hash(copy) == hash(fold)
    assert repr(copy) == repr(fold)
    assert [other for other in map(FOLDS.get, FOLDS) if other == fold] == [fold]
    if name != "function":
        assert eval(repr(fold)) == fold


def test_it_holds_one_accumulator_a_level() -> None:
    alive, most = 0, 0

    class Counted:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def stream() -> Iterator[lp.NodeRecord]:
        for number in range(1000):
            yield lp.NodeRecord((f"{number // 100:02}", f"{number // 10:03}", f"{number:04}"), "x")

    fold = Fold(lambda record: Counted(), lambda left, right: Counted(), lambda value: None)
    assert len(list(lp.rollup(fold, stream()))) == 111
    assert most <= 3 + 2  # one a level, and what is being combined
    most = 0
    parts = map(lp.rollup(fold, partial=True), lp.chunked(7, stream()))
    assert len(list(lp.rollup(fold, (item for part in parts for item in part)))) == 111
    assert most <= 2 * (3 + 2)  # those of the part, and those that wait for the next one
