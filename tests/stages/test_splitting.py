"""`split` and `sample`: nobody is divided, nothing moves when others come, and the shares are those of chance."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from lotdb import BaseNode
from toolz import pipe
from trees import UNUSUAL_KEYS, build

import lotproc as lp
from lotproc.sampling import path_bytes

NodePath = tuple[str, ...]

keys = st.sampled_from([*"abc", *UNUSUAL_KEYS, "\udce9"]) | st.text(max_size=3)
paths = st.lists(keys, max_size=4).map(tuple)
seeds = st.integers(0, 1 << 70)
bys = st.none() | st.integers(1, 5)


@st.composite
def fractions(draw: st.DrawFn) -> dict[str, float]:
    """Parts of some size, none among them, whose fractions sum to 1 but for the noise of floats."""
    weights = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any))
    return {f"part {number}": weight / sum(weights) for number, weight in enumerate(weights)}


def record(*path: str) -> lp.NodeRecord:
    return lp.NodeRecord(path, path[-1] if path else "root")


def drawn(path: NodePath, by: int | None, seed: int, purpose: str) -> int:
    """The hash, spelled out."""
    text = str(seed).encode()
    for key in path if by is None else path[:by]:
        data = key.encode("utf-8", "surrogatepass")
        text += b"/" + str(len(data)).encode() + b":" + data
    return int(blake2b(text, digest_size=8, person=purpose.encode()).hexdigest(), 16) >> 11


# --- Laws ------------------------------------------------------------------------------------------------------------


@given(parts=fractions(), items=st.lists(paths, max_size=12), by=bys, seed=seeds)
def test_split_gives_each_item_the_part_that_its_hash_falls_in(
    parts: dict[str, float], items: list[NodePath], by: int | None, seed: int
) -> None:
    part_of = lp.split(parts, by=by, seed=seed)
    for path in items:
        share, expected = drawn(path, by, seed, "split") / 2**53, [name for name in parts if parts[name]][-1]
        upto = 0.0
        for name, fraction in parts.items():
            upto += fraction
            if fraction and share < upto:
                expected = name
                break
        assert part_of(path) == part_of(record(*path)) == part_of(lp.ProcessResult(path)) == expected
        assert lp.split(parts, path, by=by, seed=seed) == expected
        assert parts[expected] > 0


@given(parts=fractions(), items=st.lists(paths, max_size=12), by=bys, seed=seeds, data=st.data())
def test_the_parts_partition_the_stream_whatever_else_is_in_it(
    parts: dict[str, float], items: list[NodePath], by: int | None, seed: int, data: st.DataObject
) -> None:
    kept = {name: list(lp.split(parts, items, part=name, by=by, seed=seed)) for name in parts}
    part_of = lp.split(parts, by=by, seed=seed)
    assert kept == {name: [path for path in items if part_of(path) == name] for name in parts}
    left = data.draw(st.lists(st.sampled_from(items), unique=True)) if items else []
    for name in parts:  # the others are gone, and the order is another
        assert list(lp.split(parts, part=name, by=by, seed=seed)(left)) == [path for path in left if path in kept[name]]


@given(prefix=st.lists(keys, min_size=1, max_size=3).map(tuple), below=st.lists(paths, min_size=2), seed=seeds)
def test_what_shares_the_first_keys_is_never_divided(prefix: NodePath, below: list[NodePath], seed: int) -> None:
    items, by = [(*prefix, *path) for path in below], len(prefix)
    assert len(set(map(lp.split({"a": 0.5, "b": 0.5}, by=by, seed=seed), items))) == 1
    assert list(lp.sample(0.5, items, by=by, seed=seed)) in ([], items)
    assert list(lp.sample(rank=0, world=2, by=by, seed=seed)(items)) in ([], items)


@given(path=paths, more=st.integers(0, 3), seed=seeds)
def test_more_keys_than_a_path_has_are_the_whole_path(path: NodePath, more: int, seed: int) -> None:
    parts = {str(number): 0.125 for number in range(8)}
    whole = lp.split(parts, path, by=None, seed=seed)
    assert lp.split(parts, path, by=max(1, len(path) + more), seed=seed) == whole


@given(items=st.lists(paths, max_size=20), world=st.integers(1, 7), by=bys, seed=seeds)
def test_the_ranks_partition_the_stream(items: list[NodePath], world: int, by: int | None, seed: int) -> None:
    shares = [list(lp.sample(rank=rank, world=world, by=by, seed=seed)(items)) for rank in range(world)]
    assert shares == [
        [path for path in items if drawn(path, by, seed, "rank") % world == rank] for rank in range(world)
    ]


@given(items=st.lists(paths, max_size=20), some=st.floats(0, 1), more=st.floats(0, 1), by=bys, seed=seeds)
def test_a_larger_sample_holds_a_smaller_one(
    items: list[NodePath], some: float, more: float, by: int | None, seed: int
) -> None:
    some, more = sorted((some, more))
    kept = list(lp.sample(some, items, by=by, seed=seed))
    assert kept == [path for path in items if drawn(path, by, seed, "sample") / 2**53 < some]
    larger = list(lp.sample(more, items, by=by, seed=seed))
    assert [path for path in larger if path in kept] == kept
    assert list(lp.sample(1, items, by=by, seed=seed)) == items
    assert list(lp.sample(0, items, by=by, seed=seed)) == []


@given(left=paths, right=paths)
def test_no_two_paths_are_drawn_by_the_same_bytes(left: NodePath, right: NodePath) -> None:
    assert (path_bytes(left) == path_bytes(right)) == (left == right)


# --- Shares ----------------------------------------------------------------------------------------------------------


def chi_square(counts: list[int], expected: list[float]) -> float:
    return float(sum((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True)))


ITEMS = [(f"speaker_{speaker:02}", f"clip_{clip:03}") for speaker in range(40) for clip in range(100)]
#: The values that chi-square exceeds once in 1,000 times, for 1 to 9 degrees of freedom.
RARE = [0, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32, 26.12, 27.88]


@pytest.mark.parametrize("seed", range(5))
def test_shares_hold_within_the_laws_of_chance(seed: int) -> None:
    parts = {"train": 0.7, "dev": 0.1, "test": 0.2}
    counts = Counter(map(lp.split(parts, by=None, seed=seed), ITEMS))
    expected = [fraction * len(ITEMS) for fraction in parts.values()]
    assert chi_square([counts[name] for name in parts], expected) < RARE[2]
    kept = len(list(lp.sample(0.3, ITEMS, seed=seed)))
    assert chi_square([kept, len(ITEMS) - kept], [0.3 * len(ITEMS), 0.7 * len(ITEMS)]) < RARE[1]
    shares = [len(list(lp.sample(rank=rank, world=8, seed=seed)(ITEMS))) for rank in range(8)]
    assert chi_square(shares, [len(ITEMS) / 8] * 8) < RARE[7]


def test_parts_samples_ranks_and_seeds_are_independent() -> None:
    half = {"a": 0.5, "b": 0.5}
    marks: list[Callable[[NodePath], bool]] = [
        lambda path: lp.split(half, path, by=None) == "a",
        lambda path: lp.split(half, path, by=None, seed=1) == "a",
        lambda path: bool(list(lp.sample(0.5, [path]))),
        lambda path: bool(list(lp.sample(0.5, [path], seed=1))),
        lambda path: bool(list(lp.sample(rank=0, world=2)([path]))),
    ]
    table = np.array([[mark(path) for mark in marks] for path in ITEMS[:1000]])
    for left in range(len(marks)):
        for right in range(left):
            cells = Counter(zip(table[:, left].tolist(), table[:, right].tolist(), strict=True))
            both = [cells[x, y] for x in (True, False) for y in (True, False)]
            assert chi_square(both, [250.0] * 4) < RARE[3]


def test_a_part_in_front_keeps_its_items_when_the_rest_is_divided_anew() -> None:
    two, three = lp.split({"train": 0.8, "test": 0.2}), lp.split({"train": 0.8, "dev": 0.1, "test": 0.1})
    speakers = [(str(number),) for number in range(500)]
    assert {three(path) for path in speakers if two(path) == "train"} == {"train"}
    assert {three(path) for path in speakers if two(path) == "test"} == {"dev", "test"}


# --- For good --------------------------------------------------------------------------------------------------------

GOLDEN = [(), ("ann",), ("ann", "clip_1"), ("ann", "clip_2"), ("bob", "clip_1"), ("é", "\udce9"), ("a/b",), ("a", "b")]
PARTS = {"train": 0.7, "dev": 0.1, "test": 0.2}


def test_nothing_ever_changes_its_part() -> None:
    """If this fails, mend the code: the test sets of all users would change."""
    one, other = lp.split(PARTS), lp.split(PARTS, by=None, seed=7)
    assert [*map(one, GOLDEN)] == ["train", "test", "test", "test", "train", "train", "train", "train"]
    assert [*map(other, GOLDEN)] == ["train", "train", "test", "test", "test", "train", "train", "dev"]
    assert [GOLDEN.index(path) for path in lp.sample(0.5, GOLDEN)] == [0, 2, 3, 4, 6, 7]
    ranks = [[GOLDEN.index(path) for path in lp.sample(rank=rank, world=3)(GOLDEN)] for rank in range(3)]
    assert ranks == [[0, 6], [4], [1, 2, 3, 5, 7]]
    assert [drawn(path, 1, 0, "split") for path in GOLDEN[:4]] == [1606480219977013, *[8479159046493797] * 3]


def test_another_process_with_other_hashes_gives_the_same() -> None:
    part_of = lp.split(PARTS, by=2, seed=3)
    code = "import pickle, sys; part_of, items = pickle.load(sys.stdin.buffer); print(*map(part_of, items))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((part_of, ITEMS[:300])),
        capture_output=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONHASHSEED": "99"},
    )
    assert done.stdout.decode().split() == [*map(part_of, ITEMS[:300])], done.stderr.decode()


# --- Items, and what is refused --------------------------------------------------------------------------------------


def test_live_nodes_and_records_have_the_same_part() -> None:
    root = build({key: {clip: {} for clip in "123"} for key in "abcdefgh"})
    part_of = lp.split({"a": 0.5, "b": 0.5})
    assert {part_of(node) for node in root.node_storage.values()} == {"a", "b"}
    for node, found in zip(lp.leaves(root), pipe(root, lp.leaves(), lp.snapshot(())), strict=True):
        assert part_of(node) == part_of(found) == part_of(found.path)
    kept = pipe(root, lp.leaves(), lp.split({"a": 0.5, "b": 0.5}, part="a"), lp.sample(0.5), list)
    assert 0 < len(kept) < 24
    assert all(isinstance(node, BaseNode) for node in kept)


def test_failures_are_kept_in_every_part_and_rank() -> None:
    failure = lp.Failure(("ann", "clip_1"), "ValueError", "too short")
    for stage in (
        *(lp.split({"a": 0.5, "b": 0.5}, part=name) for name in "ab"),
        *(lp.sample(rank=rank, world=2) for rank in range(2)),
        lp.sample(0.0),
    ):
        assert [item for item in stage([failure, record("x")]) if item is failure] == [failure]


def test_sums_of_thirds_and_tenths_and_of_32_bits_are_1() -> None:
    third = 1 / 3
    for values in ([third] * 3, [0.1] * 10, [0.3333333] * 3, [np.float32(0.8), np.float32(0.2)], [1], [0, 1, 0]):
        parts = dict(zip(map(str, range(10)), values, strict=False))
        assert lp.split(parts, ("ann",)) in parts


def test_what_noise_leaves_goes_to_the_last_part_that_gets_something() -> None:
    rare = ("1168852",)  # the first whole number that is drawn so far up
    assert drawn(rare, 1, 0, "split") / 2**53 > 0.9999991
    assert lp.split({"a": 0.9999991, "nothing": 0}, rare) == "a"


WRONG: list[tuple[Callable[[], Any], type[Exception], dict[str, Any]]] = [
    (lambda: lp.split({"a": 0.8, "b": 0.1}), lp.ArgumentError, {"got": "a sum of 0.9"}),
    (lambda: lp.split({"a": 0.333, "b": 0.333, "c": 0.333}), lp.ArgumentError, {"got": "a sum of 0.999"}),
    (lambda: lp.split({}), lp.ArgumentError, {"expected": "fractions that sum to 1", "got": "a sum of 0"}),
    (lambda: lp.split({"a": 1.5, "b": -0.5}), lp.ArgumentError, {"expected": "from 0 to 1", "got": "1.5"}),
    (lambda: lp.split({"b": -0.5, "a": 1.5}), lp.ArgumentError, {"expected": "from 0 to 1", "got": "-0.5"}),
    (lambda: lp.split({"a": float("nan")}), lp.ArgumentError, {"got": "nan"}),
    (lambda: lp.split({"a": "1"}), lp.ArgumentTypeError, {"expected": "a number", "got": "str '1'"}),
    (lambda: lp.split({"a": True}), lp.ArgumentTypeError, {"got": "bool True"}),
    (lambda: lp.split([0.8, 0.2]), lp.ArgumentTypeError, {"got": "list [0.8, 0.2]"}),
    (lambda: lp.split({3: 1.0}), lp.ArgumentTypeError, {"got": "dict {3: 1.0}"}),
    (lambda: lp.split({"a": 1.0}, part="b"), lp.ArgumentError, {"expected": "one of 'a'", "got": "'b'"}),
    (lambda: lp.split({"a": 1.0}, by=0), lp.ArgumentError, {"expected": "at least 1", "got": "0"}),
    (lambda: lp.split({"a": 1.0}, by="speaker"), lp.ArgumentTypeError, {"got": "str 'speaker'"}),
    (lambda: lp.split({"a": 1.0}, seed=-1), lp.ArgumentError, {"expected": "at least 0", "got": "-1"}),
    (lambda: lp.split({"a": 1.0}, seed=0.5), lp.ArgumentTypeError, {"got": "float 0.5"}),
    (lambda: lp.split({"a": 1.0}, 3), lp.ArgumentTypeError, {"got": "int 3"}),
    (lambda: lp.split({"a": 1.0})("ann"), lp.ArgumentTypeError, {"got": "str 'ann'"}),
    (lambda: lp.split({"a": 1.0})(("ann", 3)), lp.ArgumentTypeError, {"got": "tuple ('ann', 3)"}),
    (lambda: lp.split({"a": 1.0})([record("ann")]), lp.ArgumentTypeError, {}),
    (lambda: list(lp.split({"a": 1.0}, [3], part="a")), lp.ArgumentTypeError, {"got": "int 3"}),
    (lambda: lp.split({"a": 1.0}, record("ann"), part="a"), lp.ArgumentTypeError, {"expected": "an iterable"}),
    (lambda: lp.sample(1.1), lp.ArgumentError, {"expected": "from 0 to 1", "got": "1.1"}),
    (lambda: lp.sample(-0.1), lp.ArgumentError, {"expected": "from 0 to 1", "got": "-0.1"}),
    (lambda: lp.sample("0.1"), lp.ArgumentTypeError, {"got": "str '0.1'"}),
    (lambda: lp.sample(0.1, by=0), lp.ArgumentError, {"got": "0"}),
    (lambda: lp.sample(0.1, world=2), lp.ArgumentError, {"got": "fraction=0.1, world=2"}),
    (lambda: lp.sample(0.1, rank=0, world=2), lp.ArgumentError, {"got": "fraction=0.1, rank=0, world=2"}),
    (lambda: lp.sample(rank=0), lp.ArgumentError, {"got": "rank=0"}),
    (lambda: lp.sample(None), lp.ArgumentError, {"expected": "a fraction, or rank and world", "got": "none of them"}),
    (lambda: lp.sample(ITEMS[:1], rank=0, world=2), lp.ArgumentError, {"hint": "sample(rank=0, world=4)(items)"}),
    (lambda: lp.sample(rank=2, world=2), lp.ArgumentError, {"expected": "below world, which is 2", "got": "2"}),
    (lambda: lp.sample(rank=-1, world=2), lp.ArgumentError, {"expected": "at least 0", "got": "-1"}),
    (lambda: lp.sample(rank=0, world=0), lp.ArgumentError, {"expected": "at least 1", "got": "0"}),
    (lambda: lp.sample(rank="0", world=2), lp.ArgumentTypeError, {"got": "str '0'"}),
]


@pytest.mark.parametrize(("wrong", "error", "fields"), WRONG)
def test_what_divides_nothing_is_refused(
    wrong: Callable[[], Any], error: type[Exception], fields: dict[str, Any]
) -> None:
    with pytest.raises(error) as caught:
        wrong()
    assert {name: getattr(caught.value, name) for name in fields} == fields


def test_rank_and_world_stand_in_for_the_fraction() -> None:
    shares = [[*lp.sample(rank=rank, world=2)(ITEMS)] for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == ITEMS
    assert [*lp.sample(items=ITEMS, rank=0, world=2)] == shares[0]
    assert [*lp.sample(items=ITEMS)(0.2)] == [*lp.sample(0.2, ITEMS)]
    assert repr(lp.sample(rank=0, world=2)) == "sample(rank=0, world=2)"
    with pytest.raises(lp.ArgumentTypeError):
        lp.sample()
