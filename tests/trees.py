"""Trees for property tests, and the plain-dict oracle that they are held against.

A tree is a nested dict, {key: subtree}; a node of it is named by its path, a tuple of keys, () being the root. What a
traversal must give is written here once, naively: over dicts, by recursion, with nothing of lotproc.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from lotdb import LOTDB, BaseNode

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
