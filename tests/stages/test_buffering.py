"""Batches against itertools: nothing is lost, doubled or moved, and no batch is larger than it may be."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from trees import NodePath, Tree, build, keys, paths, planted, pre_order, stored, trees, unsaved

import lotproc as lp

items = st.lists(st.one_of(st.integers(-3, 3), st.text(max_size=3), st.none()), max_size=30)
blobs = st.lists(st.binary(max_size=12), max_size=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("buffering")


def flat(batches: Any) -> list[Any]:
    return list(chain.from_iterable(batches))


# --- By count --------------------------------------------------------------------------------------------------------


@given(items, st.integers(1, 40))
def test_chunked_is_slices_of_n(items: list[Any], n: int) -> None:
    batches = list(lp.chunked(n, items))
    assert batches == [items[start : start + n] for start in range(0, len(items), n)]
    assert flat(batches) == items
    assert all(type(batch) is list for batch in batches)


@given(items, st.integers(1, 5), st.integers(1, 5))
def test_batches_of_batches_keep_the_order(items: list[Any], n: int, m: int) -> None:
    assert flat(flat(lp.chunked(m, lp.chunked(n, items)))) == items


def test_batches_are_new_lists() -> None:
    batches = lp.chunked(2, [1, 2, 3, 4])
    first = next(batches)
    first.clear()
    assert next(batches) == [3, 4]


def test_any_whole_number_is_a_count() -> None:
    assert list(lp.chunked(np.int64(2), "abc")) == [["a", "b"], ["c"]]


# --- By key ----------------------------------------------------------------------------------------------------------

KEY_FUNCTIONS: list[Callable[[Any], Any]] = [
    type,
    bool,
    repr,
    lambda item: None,
    lambda item: isinstance(item, int) and item > 0,
]


@given(items, st.sampled_from(KEY_FUNCTIONS))
def test_chunked_by_a_function_is_groupby(items: list[Any], key: Callable[[Any], Any]) -> None:
    batches = list(lp.chunked_by(key, items))
    assert batches == [list(group) for _, group in groupby(items, key)]
    assert flat(batches) == items
    assert all(type(batch) is list and batch for batch in batches)
    assert all(key(left[-1]) != key(right[0]) for left, right in pairwise(batches))


@given(st.lists(paths.filter(bool), max_size=20), st.integers(1, 4))
def test_chunked_by_a_number_is_groupby_of_that_many_keys(paths: list[NodePath], n: int) -> None:
    records = [lp.NodeRecord(path, path[-1]) for path in paths]
    batches = list(lp.chunked_by(n, records))
    assert batches == [list(group) for _, group in groupby(records, lambda record: record.path[:n])]
    assert flat(batches) == records


@pytest.mark.parametrize("place", ["memory", "storage"])
@given(tree=trees, n=st.integers(1, 3))
def test_live_nodes_and_their_records_are_batched_alike(place: str, folder: Path, tree: Tree, n: int) -> None:
    with planted(place, folder, tree) as root:
        nodes = list(lp.leaves(root))
        by_node = [[tuple(node.gps()) for node in batch] for batch in lp.chunked_by(n, nodes)]
        by_record = [[record.path for record in batch] for batch in lp.chunked_by(n, lp.snapshot((), nodes))]
        assert by_node == by_record == [list(group) for _, group in groupby(flat(by_node), lambda path: path[:n])]
        # In sorted order each prefix comes once.
        prefixes = [batch[0][:n] for batch in by_node]
        assert len(set(prefixes)) == len(prefixes)


def test_a_speakers_clips_come_as_one_batch() -> None:
    root = build({"ann": {"a": {"1": {}, "2": {}}, "b": {"1": {}}}, "bob": {"a": {"1": {}}}})
    records = lp.snapshot("depth", lp.leaves(root))
    assert [[record.path[0] for record in batch] for batch in lp.chunked_by(1, records)] == [["ann"] * 3, ["bob"]]


def test_only_consecutive_items_come_together() -> None:
    assert list(lp.chunked_by(str.upper, "aAba")) == [["a", "A"], ["b"], ["a"]]


def test_paths_shorter_than_the_number_are_keys_of_their_own() -> None:
    records = [lp.NodeRecord(path, "x") for path in [("a",), ("a", "b"), ("a", "b", "c")]]
    assert [len(batch) for batch in lp.chunked_by(2, records)] == [1, 2]


@pytest.mark.parametrize("item", [3, None, [lp.NodeRecord(("a",), "a")], object()])
def test_a_number_needs_items_with_paths(item: Any) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="chunked_by: expected a node or a record, got"):
        list(lp.chunked_by(1, [item]))


# --- By bytes --------------------------------------------------------------------------------------------------------


def greedy(items: list[Any], limit: int, size: Callable[[Any], int]) -> list[list[Any]]:
    """The batches written naively: an item starts a new one where the last one has no room for it."""
    batches: list[list[Any]] = []
    for item in items:
        if batches and sum(map(size, batches[-1])) + size(item) <= limit:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


def pickled_size(item: object) -> int:
    return len(pickle.dumps(item, protocol=5))


@given(blobs, st.integers(1, 30))
def test_chunked_bytes_fills_each_list_as_far_as_it_goes(blobs: list[bytes], limit: int) -> None:
    batches = list(lp.chunked_bytes(limit, blobs, size=len))
    assert batches == greedy(blobs, limit, len)
    assert flat(batches) == blobs
    assert all(type(batch) is list and batch for batch in batches)
    for batch in batches:
        assert sum(map(len, batch)) <= limit or len(batch) == 1


@given(blobs, st.integers(1, 120))
def test_by_default_the_size_is_that_of_the_pickle(blobs: list[bytes], limit: int) -> None:
    records = [lp.NodeRecord((str(n),), str(n), {"blob": blob}) for n, blob in enumerate(blobs)]
    assert list(lp.chunked_bytes(limit * 5, records)) == greedy(records, limit * 5, pickled_size)
    assert list(lp.chunked_bytes(limit, blobs)) == greedy(blobs, limit, pickled_size)


def test_a_larger_item_comes_alone_and_splits_nothing_else() -> None:
    sizes = [1, 1, 9, 1, 1]
    assert list(lp.chunked_bytes(3, sizes, size=int)) == [[1, 1], [9], [1, 1]]
    assert list(lp.chunked_bytes(3, [9, 9], size=int)) == [[9], [9]]
    assert list(lp.chunked_bytes(3, [3, 1, 2, 3], size=int)) == [[3], [1, 2], [3]]


def test_items_without_a_size_fill_no_batch() -> None:
    assert list(lp.chunked_bytes(1, [0, 0, 1, 0, 1], size=int)) == [[0, 0, 1, 0], [1]]


def test_each_item_is_measured_once() -> None:
    measured = []

    def size(item: int) -> int:
        measured.append(item)
        return 1

    list(lp.chunked_bytes(2, range(5), size=size))
    assert measured == [0, 1, 2, 3, 4]


def test_live_nodes_are_measured_by_a_given_size_only(folder: Path) -> None:
    with stored(folder, {"ann": {"a": {}, "b": {}, "c": {}}}) as root:
        batches = list(lp.chunked_bytes(2, lp.leaves(root), size=lambda node: 1))
        assert [[node.key for node in batch] for batch in batches] == [["a", "b"], ["c"]]
        with pytest.raises(lp.LiveNodeError, match=r"ann/a is a live node.*snapshot\(\)"):
            list(lp.chunked_bytes(2, lp.leaves(root)))
        assert unsaved(root) == []


def test_an_item_that_cannot_be_measured_is_named() -> None:
    with pytest.raises(lp.NotPicklableError, match=r"chunked_bytes: can't measure <function .*lambda.*give size="):
        list(lp.chunked_bytes(2, [lambda: None]))


# --- All of them -----------------------------------------------------------------------------------------------------


@given(tree=trees, n=st.integers(1, 5), key=keys)
def test_batches_put_together_are_what_came(tree: Tree, n: int, key: str) -> None:
    records = [lp.NodeRecord(path, path[-1] if path else key) for path in pre_order(tree)]
    for stage in (lp.chunked(n), lp.chunked_by(n), lp.chunked_bytes(n * 50)):
        assert flat(stage(records)) == records
        assert flat(stage(record for record in records)) == records
