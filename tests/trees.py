"""Trees for property tests, and the plain-dict oracle that they are held against.

A tree is a nested dict, {key: subtree}; a node of it is named by its path, a tuple of keys, () being the root. What a
traversal must give is written here once, naively: over dicts, by recursion, with nothing of lotproc.
"""

from __future__ import annotations

import enum
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
from BTrees.IFBTree import IFBTree
from BTrees.IIBTree import IITreeSet
from BTrees.LOBTree import LOBTree
from BTrees.OIBTree import OIBTree
from BTrees.OOBTree import OOBTree, OOBucket, OOSet
from hypothesis import strategies as st
from lotdb import LOTDB, BaseNode, DataNode, PathFileObj
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from transaction import TransactionManager
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

import lotproc as lp
from lotproc._fast import FAST

#: For a test of what only a fast way does: how little it reads, or that it holds a file that was closed or packed.
fast_ways = pytest.mark.skipif(not FAST, reason="fast ways are turned off")

Tree = dict[str, Any]
NodePath = tuple[str, ...]
Skip = Callable[[NodePath], Any]

#: Keys that are easy to get wrong: characters of globs, regexes, paths and HTML, and keys that sort unlike they look.
UNUSUAL_KEYS = [
    *("*", "**", "?", "[", "]", "[ab]", "a*", "!a", "a/b", "/", "\\", ".", "..", "^a$", "(", " ", "a b", " a", "<b>&"),
    *("_proc", "_", "_a", "0", "1", "10", "2", "-1", "é", "e\u0301", "ß", "日本", "\U0001f600", "A", "a\nb", "\x00"),
]
PLAIN_KEYS = ["a", "b", "c", "ab", "ba", "a1", "b1"]

keys: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(PLAIN_KEYS),
    st.sampled_from(UNUSUAL_KEYS),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4),
)
trees: st.SearchStrategy[Tree] = st.recursive(
    st.just({}), lambda subtrees: st.dictionaries(keys, subtrees, max_size=4), max_leaves=16
)
paths: st.SearchStrategy[NodePath] = st.lists(keys, max_size=4).map(tuple)


# --- From a dict to nodes -------------------------------------------------------------------------------------------


def attributes_of(path: NodePath) -> dict[str, Any]:
    """The attributes that `build` gives the node at `path`; those at odd depths lack `even`."""
    attributes = {"depth": len(path), "name": "/".join(path)}
    return attributes if len(path) % 2 else {**attributes, "even": True}


def plant(root: BaseNode, tree: Tree) -> BaseNode:
    """Add a tree below a node, with attributes, without recursion."""
    stack: list[tuple[BaseNode, Tree, NodePath]] = [(root, tree, ())]
    while stack:
        node, subtree, path = stack.pop()
        for name, value in attributes_of(path).items():
            node.set_attribute(name, value)
        stack += [(node.gn(key), below, (*path, key)) for key, below in subtree.items()]
    return root


def build(tree: Tree) -> BaseNode:
    """The tree in memory, with attributes."""
    return plant(BaseNode("root"), tree)


def saved(tmp_path: Path, tree: Tree) -> tuple[LOTDB, BaseNode]:
    """The tree with attributes in a FileStorage of its own below `tmp_path`, closed and opened again.

    Close the database when done.
    """
    folder = tempfile.mkdtemp(dir=tmp_path)
    database = LOTDB(path=folder, name="tree", new=True)
    plant(database.open_connection(), tree)
    database.commit()
    database.close()
    database = LOTDB(path=folder, name="tree")
    return database, database.open_connection()


@contextmanager
def stored(tmp_path: Path, tree: Tree) -> Iterator[BaseNode]:
    """`saved` for a `with` statement: gives the root, and closes the database at the end."""
    database, root = saved(tmp_path, tree)
    try:
        yield root
    finally:
        database.close()


@contextmanager
def planted(place: str, tmp_path: Path, tree: Tree) -> Iterator[BaseNode]:
    """The tree in "memory" or in a "storage". One that was stored has to have nothing to commit afterwards."""
    if place == "memory":
        root = build(tree)
        yield root
        assert as_dict(root) == tree
    else:
        with stored(tmp_path, tree) as root:
            yield root
            assert unsaved(root) == []
            assert as_dict(root) == tree


def unsaved(root: BaseNode) -> list[Any]:
    """What a commit would store."""
    connection = root._p_jar
    return [*connection._registered_objects, *connection._added.values()]


def as_dict(root: BaseNode) -> Tree:
    """The tree below a node, read with nothing but lotdb; holds that the attributes are those that `build` gave."""
    tree: Tree = {}
    stack: list[tuple[BaseNode, Tree, NodePath]] = [(root, tree, ())]
    while stack:
        node, subtree, path = stack.pop()
        assert dict(node.attribute_storage) == attributes_of(path)
        for key, child in node.node_storage.items():
            subtree[key] = {}
            stack.append((child, subtree[key], (*path, key)))
    return tree


def chain_of(length: int) -> list[str]:
    """The keys of a tree that is one long chain."""
    return [f"n{number}" for number in range(length)]


# --- The oracle -----------------------------------------------------------------------------------------------------


def nothing(path: NodePath) -> bool:
    """The `skip` that skips no branch."""
    return False


def subtree_at(tree: Tree, path: NodePath) -> Tree:
    for key in path:
        tree = tree[key]
    return tree


def pre_order(tree: Tree, skip: Skip = nothing, path: NodePath = ()) -> list[NodePath]:
    found = [path]
    for key in sorted(tree):
        if not skip((*path, key)):
            found += pre_order(tree[key], skip, (*path, key))
    return found


def post_order(tree: Tree, skip: Skip = nothing, path: NodePath = ()) -> list[NodePath]:
    found = []
    for key in sorted(tree):
        if not skip((*path, key)):
            found += post_order(tree[key], skip, (*path, key))
    return [*found, path]


def breadth_order(tree: Tree, skip: Skip = nothing) -> list[NodePath]:
    return sorted(pre_order(tree, skip), key=len)  # sorting is stable


ORDERS = {"pre": pre_order, "post": post_order, "breadth": breadth_order}


def leaf_paths(tree: Tree, skip: Skip = nothing) -> list[NodePath]:
    visible = pre_order(tree, skip)
    inner = {path[:-1] for path in visible if path}
    return [path for path in visible if path not in inner]


def paths_at(depth: int, tree: Tree, skip: Skip = nothing) -> list[NodePath]:
    return [path for path in pre_order(tree, skip) if len(path) == depth]


def path_matches(pattern: Sequence[str], path: NodePath) -> bool:
    """Whether a path matches a glob, one component at a time, each as the standard library would have it."""
    if not pattern:
        return not path
    first, *rest = pattern
    if first == "**":
        return any(path_matches(rest, path[start:]) for start in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], first) and path_matches(rest, path[1:])


def depth_of(tree: Tree, skip: Skip = nothing) -> int:
    return max(map(len, pre_order(tree, skip)))


# --- Trees of every kind of node and attribute ------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "r"


@dataclass(frozen=True)
class Segment:
    start: float
    labels: tuple[Any, ...] = ()


class Packed(BaseNode):
    """Stores its state in another form, so that only its class can read it."""

    def __getstate__(self) -> Any:
        state = super().__getstate__()
        return (1, [state["_key"], state["_parent"]], state["node_storage"], state["attribute_storage"])

    def __setstate__(self, state: Any) -> None:
        _, (key, parent), nodes, attributes = state
        super().__setstate__({"_key": key, "_parent": parent, "node_storage": nodes, "attribute_storage": attributes})


@dataclass
class Planned:
    """A node to be made: how, with what attributes, and with what below it."""

    kind: Callable[[str, BaseNode | None], BaseNode]
    attributes: dict[str, Any]
    below: dict[str, Planned]


def grow(parent: BaseNode, key: str, planned: Planned) -> BaseNode:
    """Make the node that was planned, as the child of `parent` with this key, and all below it."""
    node = planned.kind(key, parent)
    parent.node_storage[key] = node
    for name, value in planned.attributes.items():
        node.set_attribute(name, value)
    for name, below in planned.below.items():
        grow(node, name, below)
    return node


#: Keys that a reader of records could take for something else, of every length that pickle writes differently.
AWKWARD_KEYS = [
    *("_key", "_parent", "node_storage", "attribute_storage", "BaseNode", "lotdb.tree", "data", "Q", "QQ", "}q", "."),
    *("k" * 255, "k" * 256, "é" * 128, "k" * 5000, "\ud800", "\udfff!", "C\x08\x00\x00\x00\x00\x00\x00\x00\x01"),
    *("\x00\x00\x00\x00\x00\x00\x00\x02", "X\x01\x00\x00\x00a"),
]


@st.composite
def _awkward_keys(draw: st.DrawFn) -> str:
    return draw(keys) if draw(st.booleans()) else draw(st.sampled_from(AWKWARD_KEYS))


awkward_keys = _awkward_keys()

atoms: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.sampled_from([255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**63, 2**2100]),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=6),
    st.text("Qq\x00.\ud800é", max_size=6),
    st.binary(max_size=6),
    st.sampled_from([b"Q" * 300, "Q" * 300, ..., Color.RED, range(3), Segment(1.5, ("a", None)), int, BaseNode]),
    st.datetimes(),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(),
    st.fractions(),
    st.uuids(),
    st.sampled_from([PurePosixPath("/data/a b.wav"), Path("é/b"), PureWindowsPath("C:\\a")]),
    st.sampled_from([np.float32(0.1), np.int64(-7), np.str_("Q"), np.datetime64("2026-01-01"), np.bool_(True)]),
)
arrays: st.SearchStrategy[Any] = st.builds(
    lambda shape, dtype: np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(["f4", ">f8", "i1", "?", "U3", "S2", "complex64", "O", "M8[s]"]),
)
names_of_things: st.SearchStrategy[str] = st.text("abQ", max_size=2)
persistent: st.SearchStrategy[Any] = st.one_of(
    st.lists(names_of_things, max_size=3).map(lambda items: PathFileObj(filepath="/".join(["/data", *items]))),
    st.dictionaries(st.integers(-3, 3), st.floats(width=32), max_size=3).map(IFBTree),
    st.dictionaries(st.integers(-3, 3), atoms, max_size=3).map(LOBTree),
    st.dictionaries(names_of_things, st.integers(-3, 3), max_size=3).map(OIBTree),
    st.dictionaries(names_of_things, atoms, max_size=3).map(OOBucket),
    st.sets(st.integers(-3, 3), max_size=3).map(IITreeSet),
    st.sets(names_of_things, max_size=3).map(OOSet),
)
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(atoms, atoms, arrays, persistent),
    lambda items: st.one_of(
        st.lists(items, max_size=3),
        st.lists(items, max_size=3).map(tuple),
        st.lists(items, max_size=3).map(PersistentList),
        st.dictionaries(names_of_things, items, max_size=3),
        st.dictionaries(names_of_things, items, max_size=3).map(PersistentMapping),
        st.dictionaries(names_of_things, items, max_size=3).map(OOBTree),
        st.sets(names_of_things, max_size=3),
        st.frozensets(st.integers(), max_size=3),
        items.map(lambda item: [item, item]),
    ),
    max_leaves=6,
)
attribute_names: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(["a", "b", "Q", "data"]), st.sampled_from(["a", "b"]), awkward_keys
)


@st.composite
def attribute_dicts(draw: st.DrawFn) -> dict[str, Any]:
    """Attributes: few or many of them, plain or nested, or one value under two names."""
    match draw(st.integers(0, 5)):
        case 0 | 1:
            return draw(st.dictionaries(attribute_names, values, max_size=3))
        case 2 | 3:
            return draw(st.dictionaries(attribute_names, atoms, max_size=5))
        case 4:
            value = draw(values)
            return {"a": value, "b": value}
    usual, unusual = draw(atoms), draw(values)
    return {f"n{number}": unusual if number == 17 else usual for number in range(70)}


data_nodes: st.SearchStrategy[Any] = st.builds(
    lambda rate, backend, name: lambda key, parent: DataNode(key, parent, rate, backend, name),
    st.sampled_from([None, 8000.0, 16000, 44100.5]),
    st.sampled_from(["blob", "zarr"]),
    st.one_of(st.just("data"), awkward_keys),
)


def planned_trees(
    kinds: st.SearchStrategy[Any], max_leaves: int = 12, keys: st.SearchStrategy[str] = awkward_keys
) -> st.SearchStrategy[Planned]:
    """Trees whose nodes are made by any of `kinds`."""
    return st.recursive(
        st.builds(Planned, kinds, attribute_dicts(), st.just({})),
        lambda below: st.builds(Planned, kinds, attribute_dicts(), st.dictionaries(keys, below, max_size=4)),
        max_leaves=max_leaves,
    )


def exactly(value: Any) -> Any:
    """A stand-in for a value that is equal only to that of the same value, of the same types all the way down."""
    kind = type(value)
    if isinstance(value, lp.NodeRecord):
        return (value.path, value.key, exactly(dict(value.attributes)), exactly(value.payload))
    if kind is dict:
        return kind, [(exactly(key), exactly(item)) for key, item in value.items()]
    if kind in (list, tuple):
        return kind, [exactly(item) for item in value]
    if kind in (set, frozenset):
        return kind, sorted(repr(exactly(item)) for item in value)
    if kind is np.ndarray:
        return kind, value.dtype.str, value.shape, exactly(value.tolist())
    return kind, repr(value)


# --- Databases ------------------------------------------------------------------------------------------------------


class AnyStorage(FileStorage):
    """A storage of which nothing is known but what every storage can do."""


@contextmanager
def opened(storage: Any, *, factory: Any = DB, **options: Any) -> Iterator[BaseNode]:
    """The root of a tree in any storage, which is made if there is none; closed at the end."""
    database = factory(storage)
    manager = TransactionManager()
    try:
        connection = database.open(manager, **options)
        if not hasattr(connection.root, "stt"):
            connection.root.stt = BaseNode("root")
            manager.commit()
        yield connection.root.stt
        manager.abort()
        connection.close()
    finally:
        database.close()


def commit(root: BaseNode) -> None:
    """Commit, and forget what was in memory: some values come out of a pickle other than they went in."""
    root._p_jar.transaction_manager.commit()
    root._p_jar.cacheMinimize()


def scanned_live(names: Any, root: BaseNode, *, skip: Any = None, level: Any = None, payload: Any = None) -> Any:
    """What `scan` must give: the records of the live nodes, to be compared with those of `scan` by `exactly`."""
    nodes = lp.leaves(root, skip=skip) if level is None else lp.level(level, root, skip=skip)
    return [exactly(record) for record in lp.snapshot(names, nodes, payload=payload)]
