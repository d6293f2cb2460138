"""Traversals against the plain-dict oracle of `trees`: in memory, and in a FileStorage that was opened again."""

from __future__ import annotations

import glob as glob_module
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings, strategies as st
from lotdb import LOTDB, BaseNode, DataNode
from recording import examples
from toolz import pipe
from trees import (
    ORDERS,
    PLAIN_KEYS,
    UNUSUAL_KEYS,
    NodePath,
    Tree,
    as_dict,
    build,
    chain_of,
    depth_of,
    keys,
    leaf_paths,
    path_matches,
    paths_at,
    planted,
    pre_order,
    saved,
    stored,
    subtree_at,
    trees,
    unsaved,
)

import lotproc as lp

#: What is told of globs like these is held by `test_pattern_languages`.
pytestmark = pytest.mark.filterwarnings("ignore:.* looks like a regular expression")

PLACES = ["memory", "storage"]
in_both_places = pytest.mark.parametrize("place", PLACES)
in_every_order = pytest.mark.parametrize("order", list(ORDERS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traversal")


def paths_of(nodes: Iterator[BaseNode]) -> list[NodePath]:
    return [tuple(node.gps()) for node in nodes]


# `skip` for lotproc and for the oracle: nothing, a glob on keys, a function of the key, a function of an attribute.
Skips = tuple[Any, Callable[[NodePath], Any]]


def skipping_glob(pattern: str) -> Skips:
    return pattern, lambda path: path_matches([pattern], path[-1:])


def skipping_keys(skipped: set[str]) -> Skips:
    return (lambda node: node.key in skipped), lambda path: path[-1] in skipped


def skipping_depth(depth: int) -> Skips:
    return (lambda node: node.get_attribute("depth") == depth), lambda path: len(path) == depth


skips: st.SearchStrategy[Skips] = st.one_of(
    st.just((None, lambda path: False)),
    st.sampled_from(["_*", "*", "a*", "?", "[ab]*", "[!a]*", "a", "[*]", "*[*/]*", "[0-9]*"]).map(skipping_glob),
    keys.map(lambda key: glob_module.escape(key).replace("/", "[/]")).map(skipping_glob),
    st.sets(keys).map(skipping_keys),
    st.integers(1, 4).map(skipping_depth),
)


# --- Every traversal is the oracle's -------------------------------------------------------------------------------


@in_both_places
@given(tree=trees, skip=skips)
@example(tree={}, skip=skipping_glob("*"))
@example(tree={"ann": {"_proc": {"summary": {}}}}, skip=skipping_glob("_*"))
def test_leaves_are_those_of_the_oracle(place: str, folder: Path, tree: Tree, skip: Skips) -> None:
    with planted(place, folder, tree) as root:
        assert paths_of(lp.leaves(root, skip=skip[0])) == leaf_paths(tree, skip[1])


@in_both_places
@given(tree=trees, skip=skips, depth=st.integers(0, 6))
def test_a_level_is_that_of_the_oracle(place: str, folder: Path, tree: Tree, skip: Skips, depth: int) -> None:
    with planted(place, folder, tree) as root:
        assert paths_of(lp.level(depth, root, skip=skip[0])) == paths_at(depth, tree, skip[1])


@in_both_places
@given(tree=trees, skip=skips)
def test_the_deepest_level_is_that_of_the_deepest_node_that_is_not_skipped(
    place: str, folder: Path, tree: Tree, skip: Skips
) -> None:
    with planted(place, folder, tree) as root:
        deepest = depth_of(tree, skip[1])
        assert paths_of(lp.level("deepest", root, skip=skip[0])) == paths_at(deepest, tree, skip[1])


@in_both_places
@given(tree=trees, skip=skips)
def test_children_are_level_one(place: str, folder: Path, tree: Tree, skip: Skips) -> None:
    with planted(place, folder, tree) as root:
        assert paths_of(lp.children(root, skip=skip[0])) == paths_at(1, tree, skip[1])


@in_both_places
@in_every_order
@given(tree=trees, skip=skips, depths=st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 5))))
def test_a_walk_is_that_of_the_oracle_in_order(
    place: str, folder: Path, order: str, tree: Tree, skip: Skips, depths: tuple[int, int | None]
) -> None:
    minimum, maximum = depths
    assume(maximum is None or minimum <= maximum)
    last = depth_of(tree) if maximum is None else maximum
    with planted(place, folder, tree) as root:
        found = paths_of(lp.walk(root, order=order, min_depth=minimum, max_depth=maximum, skip=skip[0]))
        assert found == [path for path in ORDERS[order](tree, skip[1]) if minimum <= len(path) <= last]


@given(tree=trees)
def test_leaves_and_levels_are_those_of_lotdb(tree: Tree) -> None:
    root = build(tree)
    assert list(lp.leaves(root)) == list(root.iterate_tree_leaves())
    assert list(lp.level("deepest", root)) == list(root.iterate_tree_level("deepest"))
    assert list(lp.level(2, root)) == list(root.iterate_tree_level(2))


@in_both_places
@given(tree=trees, skip=skips, data=st.data())
def test_below_a_node_in_the_middle_a_traversal_is_that_of_the_tree_below_it(
    place: str, folder: Path, tree: Tree, skip: Skips, data: st.DataObject
) -> None:
    start = data.draw(st.sampled_from(pre_order(tree)))
    below = subtree_at(tree, start)
    with planted(place, folder, tree) as root:
        node = root.get_node_path(start, create=False)
        # Whether a branch is skipped depends on its whole path, also for the oracle.
        expected = leaf_paths(below, lambda path: skip[1]((*start, *path)))
        assert paths_of(lp.leaves(node, skip=skip[0])) == [(*start, *path) for path in expected]


def test_a_root_whose_key_matches_skip_is_not_skipped() -> None:
    root = BaseNode("_root")
    root.gn("a")
    assert [node.key for node in lp.walk(root, skip="_*")] == ["_root", "a"]


def test_a_leaf_whose_only_child_is_skipped_is_a_leaf() -> None:
    root = build({"ann": {"clip": {"_proc": {"summary": {}}}}})
    assert paths_of(lp.leaves(root, skip="_*")) == [("ann", "clip")]
    assert paths_of(lp.level("deepest", root, skip="_*")) == [("ann", "clip")]


def test_data_nodes_are_walked_like_others() -> None:
    root = BaseNode("root")
    root.get_data_node(["ann", "clip"], samplerate_hz=10.0).gn("part")
    assert [type(node) for node in lp.walk(root)] == [BaseNode, BaseNode, DataNode, BaseNode]


# --- Globs ----------------------------------------------------------------------------------------------------------

wild = st.sampled_from(
    ["*", "**", "?", "??", "a*", "*b", "*a*", "[ab]*", "[!a]*", "[!_]*", "_*", "[*]", "*[*]*", "[/]"]
)
literal = st.sampled_from([*PLAIN_KEYS, "a/b", "_proc", " ", "é", "日本", "10", "!a", "<b>&", "a\nb", "\\", "]"])
components = st.one_of(wild, literal, st.sampled_from(UNUSUAL_KEYS).map(glob_module.escape))
patterns = st.lists(components, min_size=1, max_size=5)


@st.composite
def trees_and_patterns(draw: st.DrawFn) -> tuple[Tree, list[str]]:
    """A tree and a pattern, half of the time made from the path of one of its nodes, so that it matches something."""
    tree = draw(trees)
    if draw(st.booleans()):
        return tree, draw(patterns)
    path = draw(st.sampled_from(pre_order(tree)))
    pattern = [draw(st.one_of(st.just(glob_module.escape(key)), st.just("*"), st.just("**"))) for key in path]
    for _ in range(draw(st.integers(0 if pattern else 1, 2))):
        pattern.insert(draw(st.integers(0, len(pattern))), "**")
    return tree, pattern


@in_both_places
@given(trees_and_patterns())
@example(({"a": {"a": {"a": {}}}}, ["**", "a", "**", "a", "**"]))
@example(({"a": {"b": {}}, "b": {}}, ["**", "b"]))
@example(({"a": {"b": {}}}, ["a", "**"]))
@example(({"a/b": {"c": {}}}, ["a/b", "c"]))
def test_a_glob_is_that_of_the_oracle(place: str, folder: Path, tree_and_pattern: tuple[Tree, list[str]]) -> None:
    tree, pattern = tree_and_pattern
    expected = [path for path in pre_order(tree) if path_matches(pattern, path)]
    with planted(place, folder, tree) as root:
        assert paths_of(lp.glob(tuple(pattern), root)) == expected
        assert paths_of(lp.glob(pattern, root)) == expected
        if not any("/" in component for component in pattern):
            assert paths_of(lp.glob("/".join(pattern), root)) == expected


@pytest.mark.filterwarnings("ignore:match_path. .* no path had as many")
@given(trees_and_patterns(), st.data())
def test_a_glob_is_a_walk_whose_relative_paths_match(
    tree_and_pattern: tuple[Tree, list[str]], data: st.DataObject
) -> None:
    tree, pattern = tree_and_pattern
    root = build(tree)
    start = data.draw(st.sampled_from(pre_order(tree)))
    node = root.get_node_path(start, create=False)
    relative = [lp.NodeRecord(tuple(below.gps())[len(start) :], below.key) for below in lp.walk(node)]
    expected = [(*start, *record.path) for record in lp.match_path(pattern, relative)]
    assert paths_of(lp.glob(pattern, node)) == expected


@given(tree=trees)
def test_globs_that_are_other_traversals(tree: Tree) -> None:
    root = build(tree)
    assert list(lp.glob("**", root)) == list(lp.walk(root))
    assert list(lp.glob("*", root)) == list(lp.children(root))
    assert list(lp.glob("*/*", root)) == list(lp.level(2, root))
    assert list(lp.glob("**/*", root)) == list(lp.walk(root, min_depth=1))
    assert list(lp.glob("**/**", root)) == list(lp.walk(root))


def test_a_glob_sees_letter_case_and_line_breaks() -> None:
    root = build({"Ann": {}, "ann": {}, "a\nn": {}})
    assert paths_of(lp.glob("ann", root)) == [("ann",)]
    assert paths_of(lp.glob("[A]nn", root)) == [("Ann",)]
    assert paths_of(lp.glob("a?n", root)) == [("a\nn",), ("ann",)]


# --- Reading changes nothing, and touches no more than it must ------------------------------------------------------

TRAVERSALS: dict[str, Callable[[BaseNode], Iterator[BaseNode]]] = {
    "leaves": lp.leaves(),
    "leaves, skipping keys": lp.leaves(skip="_*"),
    "leaves, skipping nodes": lp.leaves(skip=lambda node: node.get_attribute("absent") is not None),
    "level": lp.level(2),
    "deepest": lp.level("deepest"),
    "children": lp.children(),
    "pre": lp.walk(),
    "post": lp.walk(order="post"),
    "breadth": lp.walk(order="breadth"),
    "glob": lp.glob("**/*"),
    "glob, literal": lp.glob("a/b/absent"),
}
every_traversal = pytest.mark.parametrize("traversal", TRAVERSALS.values(), ids=TRAVERSALS.keys())


@given(tree=trees)
def test_reading_registers_nothing(folder: Path, tree: Tree) -> None:
    with stored(folder, tree) as root:
        for name, traversal in TRAVERSALS.items():
            for node in traversal(root):
                assert node.get_attribute("depth") is not None
                assert unsaved(root) == [], name
            assert unsaved(root) == [], name
        assert as_dict(root) == tree


@every_traversal
def test_nothing_is_read_before_the_first_node_is_asked_for(
    folder: Path, traversal: Callable[[BaseNode], Iterator[BaseNode]]
) -> None:
    with stored(folder, {"a": {"b": {}}}) as root:
        root._p_deactivate()
        assert is_ghost(root)
        loaded = loads(root)
        nodes = traversal(root)
        assert is_ghost(root)
        assert loads(root) == loaded
        nodes.close()
        assert is_ghost(root)


def is_ghost(node: BaseNode) -> bool:
    return node._p_changed is None


def loads(root: BaseNode) -> int:
    """How many objects the connection has loaded from its storage."""
    return root._p_jar.getTransferCounts()[0]


def touched(root: BaseNode, oids: dict[NodePath, bytes]) -> set[NodePath]:
    """The nodes whose state the connection has."""
    cache = root._p_jar._cache
    return {path for path, oid in oids.items() if (node := cache.get(oid)) is not None and not is_ghost(node)}


def cold(database: LOTDB, connection_id: str) -> tuple[BaseNode, dict[NodePath, bytes]]:
    """A connection that has read nothing, and the object ids of all nodes by path."""
    warm = database.open_connection(connection_id="ids")
    oids: dict[NodePath, bytes] = {}
    stack: list[tuple[NodePath, BaseNode]] = [((), warm)]
    while stack:
        path, node = stack.pop()
        oids[path] = node._p_oid
        stack += [((*path, key), child) for key, child in node.node_storage.items()]
    # Opened while the other is in use, so that it gets a cache of its own.
    root = database.open_connection(connection_id=connection_id)
    database.close_connection("ids")
    return root, oids


@given(tree=trees, depth=st.integers(0, 4))
def test_no_node_past_max_depth_is_touched(folder: Path, tree: Tree, depth: int) -> None:
    database, _ = saved(folder, tree)
    with closing(database):
        stages = [lp.walk(max_depth=depth, order=order) for order in ORDERS] + [lp.level(depth)]
        for number, stage in enumerate(stages):
            root, oids = cold(database, f"walk {number}")
            nodes = list(stage(root))  # kept, so that they stay in the cache
            assert {path for path in touched(root, oids) if len(path) > depth} == set(), stage
            assert len(nodes) == sum(
                len(path) <= depth if number < len(ORDERS) else len(path) == depth for path in oids
            )


@given(tree=trees)
def test_a_branch_skipped_by_its_key_is_not_touched(folder: Path, tree: Tree) -> None:
    tree = {**tree, "_skipped": {"below": {"deep": {}}}, "a": {"_proc": {"b": {}}}}
    database, _ = saved(folder, tree)
    with closing(database):
        for number, stage in enumerate([lp.leaves(skip="_*"), *(lp.walk(skip="_*", order=order) for order in ORDERS)]):
            root, oids = cold(database, f"walk {number}")
            nodes = list(stage(root))
            assert nodes
            assert not {path for path in touched(root, oids) if any(key.startswith("_") for key in path)}


@given(tree=trees, data=st.data())
def test_a_glob_touches_only_nodes_below_which_it_may_match(folder: Path, tree: Tree, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(pre_order(tree)))
    assume(path)
    database, _ = saved(folder, tree)
    with closing(database):
        root, oids = cold(database, "glob")
        nodes = list(
            lp.glob([glob_module.escape(key) if glob_module.escape(key) != key else key for key in path], root)
        )
        assert len(nodes) == 1
        assert touched(root, oids) <= {path[:length] for length in range(len(path) + 1)}


def test_plain_components_of_a_glob_are_looked_up_and_not_searched(folder: Path) -> None:
    # 2,000 keys lie in more than 60 buckets; a lookup loads one of them.
    tree = {f"speaker_{number:04d}": {"a": {}} for number in range(2_000)}
    database, _ = saved(folder, tree)
    with closing(database):
        for pattern in ("speaker_1210/a", "speaker_1210/**", "speaker_1210", "no_such_speaker", "speaker_1210/absent"):
            root = database.open_connection(connection_id=pattern)
            before = loads(root)
            found = paths_of(lp.glob(pattern, root))
            assert all(path[0] == "speaker_1210" for path in found)
            assert loads(root) - before <= 12, pattern
            assert unsaved(root) == []


def test_nodes_come_one_at_a_time(folder: Path) -> None:
    tree = {f"s{number:02d}": {f"c{clip}": {} for clip in range(10)} for number in range(50)}
    database, _ = saved(folder, tree)
    with closing(database):
        for number, stage in enumerate([lp.leaves(), lp.walk(), lp.walk(order="breadth"), lp.glob("*/c3")]):
            root, oids = cold(database, f"connection {number}")
            nodes = stage(root)
            next(nodes)
            assert len(touched(root, oids)) <= 4, stage
            nodes.close()


# --- As deep, as wide and as large as trees go -----------------------------------------------------------------------

LENGTH = 3_000
CHAIN = {
    "leaves": (lp.leaves(), [LENGTH]),
    "level": (lp.level(LENGTH - 1), [LENGTH - 1]),
    "deepest": (lp.level("deepest"), [LENGTH]),
    "children": (lp.children(), [1]),
    "pre": (lp.walk(), range(LENGTH + 1)),
    "post": (lp.walk(order="post"), range(LENGTH, -1, -1)),
    "breadth": (lp.walk(order="breadth"), range(LENGTH + 1)),
    "glob": (lp.glob("**/n77*"), [78, *range(771, 781)]),
    "glob, literal": (lp.glob(chain_of(LENGTH)), [LENGTH]),
}


@pytest.fixture(scope="module", params=PLACES)
def chain(request: pytest.FixtureRequest, folder: Path) -> Iterator[BaseNode]:
    if request.param == "memory":
        root = BaseNode("root")
        root.gns(chain_of(LENGTH))
        yield root
        return
    database = LOTDB(path=str(folder / "chain"), name="tree", new=True)
    database.open_connection().gns(chain_of(LENGTH))
    database.commit()
    database.close()
    database = LOTDB(path=str(folder / "chain"), name="tree")
    yield database.open_connection()
    database.close()


@pytest.mark.parametrize(("traversal", "depths"), CHAIN.values(), ids=CHAIN.keys())
def test_a_chain_of_three_thousand_nodes_is_traversed(
    chain: BaseNode, traversal: Callable[[BaseNode], Iterator[BaseNode]], depths: Any
) -> None:
    every = [chain.key, *chain_of(LENGTH)]
    assert [node.key for node in traversal(chain)] == [every[depth] for depth in depths]


def test_the_paths_of_a_chain_of_three_thousand_nodes_are_right(chain: BaseNode) -> None:
    (record,) = pipe(chain, lp.leaves(), lp.snapshot(...))
    assert record.path == tuple(chain_of(LENGTH))
    (middle,) = pipe(chain, lp.level(1_500), lp.snapshot(()))
    assert middle.path == tuple(chain_of(1_500))
    assert len(list(lp.match_path(("n0", "**", "n2999"), lp.leaves(chain)))) == 1


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    """10 speakers of 500 clips, with two attributes each."""
    tree = {f"s{speaker:02d}": {f"c{clip:03d}": {} for clip in range(500)} for speaker in range(10)}
    with stored(tmp_path_factory.mktemp("large"), tree) as root:
        yield root


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    """250 speakers of 200 clips, which are one node each; their keys lie in about 13 objects for each speaker."""
    database = LOTDB(path=str(tmp_path_factory.mktemp("many")), name="tree", new=True)
    with closing(database):
        root = database.open_connection()
        for speaker in range(250):
            node = root.gn(f"s{speaker:03d}")
            node.set_attribute("depth", 1)
            leaf = node.gn("c000")  # in the place of all clips
            leaf.set_attribute("depth", 2)
            node.node_storage.update({f"c{clip:03d}": leaf for clip in range(200)})
        root.set_attribute("depth", 0)
        database.commit()
        yield root


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    """One node with 2,500 children, whose keys sort unlike their numbers."""
    with stored(tmp_path_factory.mktemp("wide"), {"all": {f"c{clip}": {} for clip in range(2_500)}}) as root:
        yield root


def most_loaded(root: BaseNode, nodes: Iterator[BaseNode]) -> tuple[int, int]:
    """How many nodes come, and how many objects the connection held at most while they came and were read."""
    cache = root._p_jar._cache
    root._p_jar.cacheMinimize()
    count = most = 0
    for node in nodes:
        assert node.get_attribute("depth") is not None
        count += 1
        most = max(most, cache.cache_non_ghost_count)
    return count, most


# A node is three objects, and the cache is trimmed to its 400 every so often; the rest is room for windows of keys.
MOST = 400 + 3 * 500 + 1_000


@pytest.mark.parametrize(
    ("traversal", "count"),
    [
        (lp.leaves(), 5_000),
        (lp.leaves(skip=lambda node: node.get_attribute("absent") is not None), 5_000),
        (lp.level(2), 5_000),
        (lp.level("deepest"), 5_000),
        (lp.walk(), 5_011),
        (lp.walk(order="post"), 5_011),
        (lp.walk(order="breadth"), 5_011),
        (lp.glob("*/c*"), 5_000),
        (lp.glob("**/c49?"), 100),
    ],
    ids=["leaves", "leaves with a predicate", "level", "deepest", "pre", "post", "breadth", "glob", "glob **"],
)
def test_memory_is_flat_on_a_large_tree(
    large: BaseNode, traversal: Callable[[BaseNode], Iterator[BaseNode]], count: int
) -> None:
    assert large._p_jar._cache.cache_size == 400
    found, most = most_loaded(large, traversal(large))
    assert found == count
    assert most <= MOST


@pytest.mark.parametrize(
    ("traversal", "count"),
    [(lp.leaves(skip="c*"), 250), (lp.walk(skip="c*"), 251), (lp.glob("*/c19[9]"), 250), (lp.glob("**/c19[9]"), 250)],
    ids=["leaves", "walk", "glob", "glob **"],
)
def test_memory_is_flat_where_most_clips_are_passed_over_by_their_keys(
    many: BaseNode, traversal: Callable[[BaseNode], Iterator[BaseNode]], count: int
) -> None:
    found, most = most_loaded(many, traversal(many))
    assert found == count
    assert max(most, many._p_jar._cache.cache_non_ghost_count) <= MOST


def test_memory_is_flat_where_a_predicate_skips_everything(large: BaseNode) -> None:
    cache = large._p_jar._cache
    large._p_jar.cacheMinimize()
    most = 0

    def skip(node: BaseNode) -> bool:
        nonlocal most
        most = max(most, cache.cache_non_ghost_count)
        return node.get_attribute("depth") == 2

    assert [leaf.key for leaf in lp.leaves(large, skip=skip)] == [f"s{speaker:02d}" for speaker in range(10)]
    assert most <= MOST


@pytest.mark.parametrize(
    "traversal",
    [
        lp.leaves(),
        lp.level(2),
        lp.walk(min_depth=2),
        lp.walk(order="post", min_depth=2),
        lp.walk(order="breadth", min_depth=2),
        lp.glob("all/*"),
        lp.glob("**/c*"),
    ],
    ids=["leaves", "level", "pre", "post", "breadth", "glob", "glob **"],
)
def test_a_very_wide_node_comes_in_order_with_flat_memory(
    wide: BaseNode, traversal: Callable[[BaseNode], Iterator[BaseNode]]
) -> None:
    assert [node.key for node in traversal(wide)] == sorted(f"c{clip}" for clip in range(2_500))
    found, most = most_loaded(wide, traversal(wide))
    assert found == 2_500
    assert most <= MOST


@pytest.mark.parametrize("count", [1_023, 1_024, 1_025, 2_047, 2_048, 2_049, 3_000])
def test_no_child_is_lost_or_doubled_where_a_window_of_keys_ends(count: int) -> None:
    root = build({f"c{clip}": {} for clip in range(count)})
    assert [node.key for node in lp.children(root)] == sorted(f"c{clip}" for clip in range(count))


def test_a_walk_does_not_move_the_view_of_its_connection(folder: Path) -> None:
    database, root = saved(folder, {f"c{clip:04d}": {} for clip in range(2_000)})
    with closing(database):
        root.node_storage.keys()
        nodes = lp.leaves(root)
        first = next(nodes)
        other = database.open_connection(connection_id="other")
        other.get_node("c1999", create=False).set_attribute("depth", "changed elsewhere")
        database.commit("other")
        seen = {leaf.key: leaf.get_attribute("depth") for leaf in nodes}
        assert first.key == "c0000"
        assert seen["c1999"] == 1


def test_a_walk_keeps_changes_that_are_not_committed(folder: Path) -> None:
    database, root = saved(folder, {f"c{clip:04d}": {} for clip in range(2_000)})
    with closing(database):
        for leaf in lp.leaves(root):
            leaf.set_attribute("seen", leaf.key)
        assert [leaf.get_attribute("seen") for leaf in lp.leaves(root)] == [f"c{clip:04d}" for clip in range(2_000)]
        database.abort()
        assert [leaf.get_attribute("seen") for leaf in lp.leaves(root)] == [None] * 2_000


# --- Writing while walking ------------------------------------------------------------------------------------------

#: Keys that no drawn tree has: one that sorts before all others, and one that sorts after them.
FIRST, LAST = "\x00\x00first", "\U0010ffff\U0010fffflast"

WRITERS: dict[str, Callable[[BaseNode, BaseNode], Any]] = {
    "below the node, before all": lambda root, node: node.gns([FIRST, "summary"]),
    "below the node, after all": lambda root, node: node.gns([LAST, "summary"]),
    "beside the node, before all": lambda root, node: (node.parent or node).gns([FIRST, node.key]),
    "beside the node, right after it": lambda root, node: (node.parent or node).gns([node.key + LAST, "new"]),
    "beside the node, after all": lambda root, node: (node.parent or node).gns([LAST, node.key]),
    "a mirror below the root": lambda root, node: root.gns([LAST, *node.gps()]),
    "an attribute": lambda root, node: node.set_attribute("seen", True),
}
writers = st.sampled_from(list(WRITERS))


def with_commits(root: BaseNode, number: int) -> None:
    """Every other time commit, every third time drop all that the connection has loaded."""
    if root._p_jar is None:
        return
    if number % 2:
        root._p_jar.transaction_manager.commit()
    if number % 3 == 2:
        root._p_jar.cacheMinimize()


@in_both_places
@given(writer=writers, tree=trees)
def test_writing_while_walking_leaves_gives_each_original_leaf_once(
    place: str, folder: Path, writer: str, tree: Tree
) -> None:
    root, close = open_tree(place, folder, tree)
    with close:
        seen = []
        for number, leaf in enumerate(lp.leaves(root)):
            seen.append(tuple(leaf.gps()))
            WRITERS[writer](root, leaf)
            with_commits(root, number)
        assert seen == leaf_paths(tree)


@in_both_places
@in_every_order
@given(writer=writers, tree=trees)
def test_writing_while_walking_gives_each_original_node_once(
    place: str, folder: Path, order: str, writer: str, tree: Tree
) -> None:
    root, close = open_tree(place, folder, tree)
    with close:
        seen = []
        for number, node in enumerate(lp.walk(root, order=order)):
            seen.append(tuple(node.gps()))
            WRITERS[writer](root, node)
            with_commits(root, number)
        assert seen == ORDERS[order](tree)


@in_both_places
@given(writer=writers, tree=trees)
def test_writing_while_globbing_gives_each_original_node_once(
    place: str, folder: Path, writer: str, tree: Tree
) -> None:
    root, close = open_tree(place, folder, tree)
    with close:
        seen = []
        for number, node in enumerate(lp.glob("**/*", root)):
            seen.append(tuple(node.gps()))
            WRITERS[writer](root, node)
            with_commits(root, number)
        assert seen == pre_order(tree)[1:]


def open_tree(place: str, folder: Path, tree: Tree) -> tuple[BaseNode, Any]:
    if place == "memory":
        return build(tree), closing(Nothing())
    database, root = saved(folder, tree)
    return root, closing(database)


class Nothing:
    def close(self) -> None:
        pass


@in_both_places
@given(tree=trees, data=st.data())
def test_a_branch_deleted_before_it_is_entered_is_left_out(
    place: str, folder: Path, tree: Tree, data: st.DataObject
) -> None:
    originals = leaf_paths(tree)
    assume(len(originals) > 1)
    stop = data.draw(st.integers(0, len(originals) - 2))
    entered = {originals[stop][:length] for length in range(len(originals[stop]) + 1)}
    later = [path for path in pre_order(tree) if path > originals[stop] and path not in entered]
    gone = data.draw(st.sampled_from(later))
    root, close = open_tree(place, folder, tree)
    with close:
        seen = []
        for number, leaf in enumerate(lp.leaves(root)):
            seen.append(tuple(leaf.gps()))
            if number == stop:
                root.get_node_path(gone[:-1], create=False).delete_node(gone[-1])
            with_commits(root, number)
        # Sorted depth first is the order of tuples. A node whose last child is deleted before it is entered is a leaf.
        pruned = deepcopy(tree)
        del subtree_at(pruned, gone[:-1])[gone[-1]]
        left = [path for path in leaf_paths(pruned) if path > originals[stop]]
        assert seen == originals[: stop + 1] + left


@in_both_places
@in_every_order
@given(tree=trees, skip=st.sampled_from([None, "?????????*", lambda node: False]), data=st.data())
def test_what_is_deleted_before_a_walk_reaches_it_is_left_out_with_all_below_it(
    place: str, folder: Path, order: str, skip: Any, tree: Tree, data: st.DataObject
) -> None:
    originals = ORDERS[order](tree)
    stop = data.draw(st.integers(0, len(originals) - 1))
    last = originals[stop]
    later = [path for path in originals[stop + 1 :] if order == "breadth" or path > last]
    assume(later)
    gone = data.draw(st.sampled_from(later))
    root, close = open_tree(place, folder, tree)
    with close:
        seen = []
        for number, node in enumerate(lp.walk(root, order=order, skip=skip)):
            seen.append(tuple(node.gps()))
            if number == stop:
                root.get_node_path(gone[:-1], create=False).delete_node(gone[-1])
        left = [path for path in originals[stop + 1 :] if path[: len(gone)] != gone]
        assert seen == originals[: stop + 1] + left


@in_both_places
def test_a_mirror_into_a_root_of_three_thousand_children_is_not_visited(place: str, folder: Path) -> None:
    tree: Tree = {f"c{clip:04d}": {} for clip in range(3_000)}
    root, close = open_tree(place, folder, tree)
    with close:
        seen = []
        for number, leaf in enumerate(lp.leaves(root)):
            seen.append(leaf.key)
            root.gns(["~mirror", *leaf.gps()])
            if number % 500 == 250:
                with_commits(root, 5)
        assert seen == sorted(tree)
        assert len(list(lp.leaves(root))) == 6_000


def test_a_mirror_into_a_branch_that_was_there_and_is_skipped_is_not_visited() -> None:
    root = build({"a": {"b": {}}, "_mirror": {}})
    seen = []
    for leaf in lp.leaves(root, skip="_*"):
        seen.append(tuple(leaf.gps()))
        root.gns(["_mirror", *leaf.gps()])
    assert seen == [("a", "b")]


# --- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        (lambda root: lp.level(-1, root), lp.ArgumentError, "-1"),
        (lambda root: lp.level("deep", root), lp.ArgumentError, "'deep'"),
        (lambda root: lp.level(1.5, root), lp.ArgumentTypeError, "float 1.5"),
        (lambda root: lp.level(True, root), lp.ArgumentTypeError, "bool True"),
        (lambda root: lp.level(None, root), lp.ArgumentTypeError, "None"),
        (lambda root: lp.walk(root, order="depth"), lp.ArgumentError, "'depth'"),
        (lambda root: lp.walk(root, order=None), lp.ArgumentError, "None"),
        (lambda root: lp.walk(root, min_depth=-1), lp.ArgumentError, "min_depth must be at least 0, got -1"),
        (lambda root: lp.walk(root, max_depth=-2), lp.ArgumentError, "max_depth must be at least 0, got -2"),
        (lambda root: lp.walk(root, max_depth="2"), lp.ArgumentTypeError, "str '2'"),
        (lambda root: lp.leaves(root, skip=3), lp.ArgumentTypeError, "skip .* int 3"),
        (lambda root: lp.leaves(root, skip=""), lp.PatternError, "''"),
        (lambda root: lp.walk(root, skip="[a"), lp.PatternError, r"'\[a'"),
        (lambda root: lp.children(root, skip=["_*"]), lp.ArgumentTypeError, "list"),
        (lambda root: lp.glob("a/[b", root), lp.PatternError, r"'\[b'"),
        (lambda root: lp.glob("a//b", root), lp.PatternError, "'a//b'"),
        (lambda root: lp.glob("/a", root), lp.PatternError, "'/a'"),
        (lambda root: lp.glob("", root), lp.PatternError, "''"),
        (lambda root: lp.glob((), root), lp.PatternError, r"\(\)"),
        (lambda root: lp.glob("a**/b", root), lp.PatternError, r"'a\*\*'"),
        (lambda root: lp.glob(("a", 1), root), lp.ArgumentTypeError, "int 1"),
        (lambda root: lp.glob(1, root), lp.ArgumentTypeError, "int 1"),
        (lambda root: lp.glob(b"a", root), lp.ArgumentTypeError, "bytes b'a'"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(bad: Callable[[BaseNode], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        bad(BaseNode("root"))


UNCLOSED = ["[", "a[", "[a", "[!", "[!a", "[a]b[", "[]", "[!]", "a[]b", "[a][]", "**[", "[]a"]


@pytest.mark.parametrize("pattern", UNCLOSED)
def test_a_bracket_that_is_never_closed_is_refused_with_the_pattern(pattern: str) -> None:
    # By the rules of fnmatch, a "]" right behind "[" or "[!" is one of the characters of the class, and closes nothing.
    with pytest.raises(lp.PatternError, match="without its ']'") as caught:
        lp.glob((pattern,), BaseNode("root"))
    assert repr(pattern) in str(caught.value)
    with pytest.raises(lp.PatternError, match="without its ']'"):
        lp.leaves(BaseNode("root"), skip=pattern)


CLOSED = ["[]]", "[!]]", "[[]", "[a[]", "[]a]", "[!]a]", "[][]", "[[]]", "[a]]", "]", "a]", "[a-]", "[--0]", "[z-a]"]


@pytest.mark.parametrize("pattern", CLOSED)
def test_a_bracket_that_is_closed_matches_as_fnmatch_does(pattern: str) -> None:
    root = build({key: {} for key in ["]", "[", "a", "[]", "[]]", "a]", "-", "!", "b", "[a", "["]})
    expected = [path for path in pre_order(as_dict(root)) if path_matches([pattern], path)]
    assert paths_of(lp.glob((pattern,), root)) == expected


def has_open_bracket(pattern: str) -> bool:
    """Whether fnmatch, reading from the left, meets a "[" that nothing closes, and takes it for the character."""
    start = pattern.find("[")
    while start >= 0:
        first = start + 1 + pattern.startswith("!", start + 1)
        end = pattern.find("]", first + 1)  # a "]" in the first place is one of the characters
        if end < 0:
            return True
        start = pattern.find("[", end + 1)
    return False


@given(pattern=st.text("[]!-a*?^\\&|~", min_size=1, max_size=6), key=st.text("[]!-a^\\&|~", min_size=1, max_size=3))
@settings(max_examples=examples(300))
def test_a_glob_is_refused_where_a_bracket_is_open_and_else_matches_as_fnmatch_does(pattern: str, key: str) -> None:
    found = found_or_refused(pattern, build({key: {}}))
    if has_open_bracket(pattern) or ("**" in pattern and pattern != "**"):
        assert isinstance(found, str)
        assert repr(pattern) in found
    else:
        assert found == [path for path in [(), (key,)] if path_matches([pattern], path)]


def found_or_refused(pattern: str, root: BaseNode) -> list[NodePath] | str:
    try:
        return paths_of(lp.glob((pattern,), root))
    except lp.PatternError as error:
        return str(error)


ROOTS = [None, 3, "root", [], {"a": {}}, BaseNode]


@pytest.mark.parametrize("root", ROOTS)
@every_traversal
def test_a_root_that_is_no_node_is_refused_at_the_call(
    traversal: Callable[[Any], Iterator[BaseNode]], root: object
) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="expected a lotdb node as the root"):
        traversal(root)


def test_a_database_in_place_of_its_root_is_refused_with_a_hint(folder: Path) -> None:
    database, _ = saved(folder, {})
    with closing(database), pytest.raises(lp.ArgumentTypeError, match=r"root = db\.open_connection\(\)"):
        lp.leaves(database)


def test_an_error_of_a_skip_function_comes_through() -> None:
    def skip(node: BaseNode) -> bool:
        raise ZeroDivisionError(node.key)

    with pytest.raises(ZeroDivisionError, match="a"):
        list(lp.leaves(build({"a": {}}), skip=skip))


def test_a_walk_between_depths_that_no_node_can_have_is_empty() -> None:
    assert list(lp.walk(build({"a": {"b": {"c": {}}}}), min_depth=3, max_depth=2)) == []


@pytest.mark.parametrize("stage", [lp.leaves(), lp.walk(), lp.level(1), lp.children(), lp.glob("**")], ids=repr)
def test_the_root_of_a_closed_connection_is_refused_at_once(tmp_path: Path, stage: Any) -> None:
    database = LOTDB(path=str(tmp_path), name="tree", new=True)
    root = database.open_connection()
    root.gn("a")
    database.commit()
    database.close()
    with pytest.raises(lp.ArgumentError, match="the connection of its root is closed") as caught:
        stage(root)
    assert caught.value.hint is not None


@pytest.mark.parametrize("stage", [lp.leaves(), lp.walk(), lp.level(1), lp.children(), lp.glob("**")], ids=repr)
def test_a_walk_that_begins_when_the_connection_is_closed_says_so(
    tmp_path: Path, stage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with lp.open_root(tmp_path / "tree.fs", create=True) as root:
        root.gn("a").set_attribute("n", 1)
        lp.commit(root)
    with lp.open_root(tmp_path / "tree.fs") as root:
        nodes, records = stage(root), lp.snapshot("n", stage(root))
    for items in (nodes, records):
        with pytest.raises(lp.ArgumentError, match="closed before the first node was taken; take what you need while"):
            next(items)
    assert caplog.text == ""


@pytest.mark.parametrize("stage", [lp.leaves, lp.walk, lp.children, partial(lp.level, 1), partial(lp.scan, "n")])
def test_a_path_as_skip_is_refused_since_it_is_compared_with_keys(stage: Any) -> None:
    with pytest.raises(lp.PatternError) as caught:
        stage(skip="ann/*")
    assert caught.value.hint is not None
    root = build({"dF/F": {}, "x": {}})
    assert paths_of(lp.leaves(root, skip="dF[/]F")) == [("x",)]
