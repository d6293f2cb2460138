"""Filters against `re`, `fnmatch` and plain Python: on live nodes and on records, in memory and in a FileStorage."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from lotdb import BaseNode
from lotdb.utils import filter_node_list as lotdb_filter_node_list
from trees import (
    NodePath,
    Tree,
    as_dict,
    attributes_of,
    build,
    keys,
    path_matches,
    paths,
    planted,
    pre_order,
    stored,
    trees,
    unsaved,
)

import lotproc as lp

#: Many names here are those of no node, on purpose; what is told of them is held by `test_missing_names`.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.* no node had an attribute"),
    pytest.mark.filterwarnings("ignore:match_path. .* no path had as many"),
]

PLACES = ["memory", "storage"]
in_both_places = pytest.mark.parametrize("place", PLACES)

regexes: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(["", ".", "^a", "b$", "[0-9]+", r"\*", "^_", "(?i)A", "b|c", r"\s", "^.$", r"[^\w]", r"\Aab?\Z"]),
    keys.map(re.escape),
)
pattern_lists = st.lists(
    st.sampled_from(["*", "**", "?", "a", "b", "a*", "[ab]*", "[!a]*", "_*", "a/b", "é", "[*]"]), min_size=1, max_size=4
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("filters")


def record_at(path: NodePath) -> lp.NodeRecord:
    return lp.NodeRecord(path, path[-1] if path else "root", attributes_of(path))


def both_kinds(root: BaseNode, tree: Tree) -> Iterator[tuple[list[Any], Callable[[Any], NodePath]]]:
    """All nodes below a root, live and as records, each time with a function that gives the path of an item."""
    yield list(lp.walk(root, min_depth=1)), lambda node: tuple(node.gps())
    yield [record_at(path) for path in pre_order(tree)[1:]], lambda record: record.path


# --- Keys ------------------------------------------------------------------------------------------------------------


@in_both_places
@given(tree=trees, regex=regexes, invert=st.booleans(), compiled=st.booleans())
def test_match_key_is_a_search_in_the_key(
    place: str, folder: Path, tree: Tree, regex: str, invert: bool, compiled: bool
) -> None:
    expected = [path for path in pre_order(tree)[1:] if bool(re.search(regex, path[-1])) is not invert]
    pattern = re.compile(regex) if compiled else regex
    with planted(place, folder, tree) as root:
        for items, path_of in both_kinds(root, tree):
            assert [path_of(item) for item in lp.match_key(pattern, items, invert=invert)] == expected


@given(tree=trees, regex=regexes)
def test_a_filter_and_its_inverse_part_the_items(tree: Tree, regex: str) -> None:
    nodes = list(lp.walk(build(tree)))
    kept = list(lp.match_key(regex, nodes))
    left = list(lp.match_key(regex, nodes, invert=True))
    assert [node for node in nodes if node in kept] == kept
    assert [node for node in nodes if node not in kept] == left


@given(tree=trees, regex=regexes, invers=st.booleans())
def test_filter_node_list_is_that_of_lotdb(tree: Tree, regex: str, invers: bool) -> None:
    nodes = list(lp.walk(build(tree)))
    found = lp.filter_node_list(regex, nodes, invers)
    assert isinstance(found, list)
    assert found == lotdb_filter_node_list(regex, nodes, invers)
    assert lp.filter_node_list(filter_str=regex, node_list=nodes, invers=invers) == found


def test_a_compiled_pattern_keeps_its_flags() -> None:
    records = [record_at(("Clip",)), record_at(("note",))]
    assert [r.key for r in lp.match_key(re.compile("clip", re.IGNORECASE), records)] == ["Clip"]
    assert list(lp.match_key("clip", records)) == []


def test_the_root_has_a_key_too() -> None:
    root = BaseNode("corpus")
    assert list(lp.match_key("corp", [root])) == [root]


# --- Paths -----------------------------------------------------------------------------------------------------------


@in_both_places
@given(tree=trees, pattern=pattern_lists, invert=st.booleans())
def test_match_path_is_that_of_the_oracle(
    place: str, folder: Path, tree: Tree, pattern: list[str], invert: bool
) -> None:
    expected = [path for path in pre_order(tree)[1:] if path_matches(pattern, path) is not invert]
    with planted(place, folder, tree) as root:
        for items, path_of in both_kinds(root, tree):
            assert [path_of(item) for item in lp.match_path(tuple(pattern), items, invert=invert)] == expected
            if "a/b" not in pattern:
                assert [path_of(item) for item in lp.match_path("/".join(pattern), items, invert=invert)] == expected


@given(path=paths, pattern=pattern_lists)
def test_match_path_of_one_record_is_that_of_the_oracle(path: NodePath, pattern: list[str]) -> None:
    assert bool(list(lp.match_path(pattern, [record_at(path)]))) is path_matches(pattern, path)


def test_paths_start_below_the_root_of_the_whole_tree() -> None:
    root = build({"ann": {"a": {"clip": {}}}})
    below = root.get_node_path(["ann", "a"], create=False)
    assert [node.key for node in lp.match_path("ann/a/clip", lp.leaves(below))] == ["clip"]
    assert list(lp.match_path("clip", lp.leaves(below))) == []


@pytest.mark.parametrize("pattern", ["**", "**/**", ("**",)])
def test_two_stars_match_the_root(pattern: Any) -> None:
    root = BaseNode("root")
    assert list(lp.match_path(pattern, [root])) == [root]
    assert list(lp.match_path("*", [root])) == []


# --- Attributes ------------------------------------------------------------------------------------------------------


@in_both_places
@given(tree=trees, name=st.sampled_from(["depth", "even", "name", "absent"]), data=st.data(), invert=st.booleans())
def test_where_compares_the_attribute_and_an_absent_one_is_none(
    place: str, folder: Path, tree: Tree, name: str, data: st.DataObject, invert: bool
) -> None:
    there = {None, *(attributes_of(path).get(name) for path in pre_order(tree))}
    value = data.draw(st.sampled_from(sorted(there, key=repr)))
    expected = [path for path in pre_order(tree)[1:] if (attributes_of(path).get(name) == value) is not invert]
    with planted(place, folder, tree) as root:
        for items, path_of in both_kinds(root, tree):
            assert [path_of(item) for item in lp.where(name, value, items, invert=invert)] == expected


@in_both_places
@given(tree=trees, depth=st.integers(0, 4), invert=st.booleans())
def test_where_calls_a_function_of_the_value(place: str, folder: Path, tree: Tree, depth: int, invert: bool) -> None:
    expected = [path for path in pre_order(tree)[1:] if (len(path) > depth) is not invert]
    with planted(place, folder, tree) as root:
        for items, path_of in both_kinds(root, tree):
            kept = lp.where("depth", lambda value: value > depth, items, invert=invert)
            assert [path_of(item) for item in kept] == expected


def test_what_a_function_returns_counts_as_true_or_false() -> None:
    records = [lp.NodeRecord((key,), key, {"value": value}) for key, value in zip("abcd", [0, 1, "", "x"], strict=True)]
    assert [record.key for record in lp.where("value", lambda value: value, records)] == ["b", "d"]
    assert [record.key for record in lp.where("value", lambda value: value, records, invert=True)] == ["a", "c"]


@pytest.mark.parametrize("invert", [False, True])
def test_an_array_equals_one_of_the_same_shape_and_elements(invert: bool) -> None:
    values = {
        "same": np.arange(3),
        "another dtype": np.arange(3.0),
        "others": np.arange(1, 4),
        "shorter": np.arange(2),
        "broadcast": np.zeros((2, 3)),
        "list": [0, 1, 2],
        "scalar": 0,
        "none": None,
    }
    records = [lp.NodeRecord((key,), key, {"value": value}) for key, value in values.items()]
    kept = {record.key for record in lp.where("value", np.arange(3), records, invert=invert)}
    assert kept == ({"same", "another dtype"} if not invert else values.keys() - {"same", "another dtype"})


def test_an_array_equals_no_scalar() -> None:
    records = [lp.NodeRecord(("a",), "a", {"value": np.zeros(3)}), lp.NodeRecord(("b",), "b", {"value": 0})]
    assert [record.key for record in lp.where("value", 0, records)] == ["b"]


@pytest.mark.parametrize("value", [1, 1.5, "x", b"x", (1, 2), [1, 2], {"a": 1}, {1}, None, True, Path("/data")])
def test_any_value_can_be_asked_for(value: Any) -> None:
    root = build({"a": {}, "b": {}})
    root.get_node("a", create=False).set_attribute("value", value)
    root.get_node("b", create=False).set_attribute("value", "another")
    assert [node.key for node in lp.where("value", value, lp.leaves(root))] == ["a"]


def test_nan_equals_nothing() -> None:
    assert list(lp.where("value", math.nan, [lp.NodeRecord(("a",), "a", {"value": math.nan})])) == []


def test_an_error_of_the_test_keeps_its_type_and_tells_path_attribute_and_value() -> None:
    nodes = lp.leaves(build({"ann": {"clip": {}}}))
    with pytest.raises(TypeError) as caught:
        list(lp.where("absent", lambda value: value > 2, nodes))
    (note,) = caught.value.__notes__
    assert "ann/clip" in note
    assert "'absent'" in note
    assert "None" in note
    assert not isinstance(caught.value, lp.LotprocError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# --- Live nodes and records alike ------------------------------------------------------------------------------------


@given(tree=trees, regex=regexes, pattern=pattern_lists, depth=st.integers(0, 3))
def test_filters_before_and_after_snapshot_keep_the_same(
    tree: Tree, regex: str, pattern: list[str], depth: int
) -> None:
    root = build(tree)
    for kept in (lp.match_key(regex), lp.match_path(pattern), lp.where("depth", depth), lp.where("even", bool)):
        before = list(lp.snapshot(..., kept(lp.walk(root))))
        assert list(kept(lp.snapshot(..., lp.walk(root)))) == before


@given(tree=trees, regex=regexes, pattern=pattern_lists)
def test_filters_commute(tree: Tree, regex: str, pattern: list[str]) -> None:
    root = build(tree)
    by_key, by_path = lp.match_key(regex), lp.match_path(pattern)
    assert list(by_key(by_path(lp.walk(root)))) == list(by_path(by_key(lp.walk(root))))


@given(tree=trees)
def test_filtering_registers_nothing_and_creates_no_attribute(folder: Path, tree: Tree) -> None:
    with stored(folder, tree) as root:
        stages = [
            lp.match_key("a"),
            lp.match_path("**/a"),
            lp.where("absent", 3),
            lp.where("absent", lambda value: True),
        ]
        for stage in stages:
            list(stage(lp.walk(root)))
            assert unsaved(root) == []
        assert as_dict(root) == tree


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", [None, 3, "clip", ("ann", "clip"), [], {"key": "clip"}, object()])
@pytest.mark.parametrize("stage", [lp.match_key("a"), lp.match_path("a"), lp.where("a", 1)])
def test_an_item_that_is_no_node_and_no_record_is_refused(stage: Any, item: Any) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="expected a node or a record, got"):
        list(stage([item]))


@pytest.mark.parametrize("regex", ["(", "[", "*", "a{2,1}", "(?P<n>a)(?P<n>b)", "\\", "(?<=a*)b"])
def test_a_bad_regex_is_refused_with_the_pattern(regex: str) -> None:
    with pytest.raises(lp.PatternError) as caught:
        lp.match_key(regex)
    assert repr(regex) in str(caught.value)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(lp.PatternError):
        lp.filter_node_list(regex, [])
