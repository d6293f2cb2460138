"""From a tree to its nodes: lazily, in sorted depth-first order, as deep and as wide as trees go.

Reading changes nothing: no stage here creates a node, and after it the connection has nothing to commit. The child
keys of a node are copied before any of them is followed, so a tree may be written to while it is walked: no node
comes twice, a child that its parent lost is left out, and what the same pipeline writes below a node that was entered
is not visited.
"""

from __future__ import annotations

import pickle
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, Literal, TypeAlias, overload

from lotdb import BaseNode

from ._nodes import closed_since, connection_of, is_closed
from ._patterns import PathPattern, has_slash, key_glob, warn_of_a_regex
from ._stage import check_choice, check_count, stage
from .errors import ArgumentError, ArgumentTypeError, PatternError, got

__all__ = ["children", "glob", "leaves", "level", "walk"]

Skip: TypeAlias = "str | Callable[[BaseNode], Any] | None"
Order: TypeAlias = Literal["pre", "post", "breadth"]
_Skip: TypeAlias = "tuple[Callable[[str], object] | None, Callable[[BaseNode], Any] | None]"
_Siblings: TypeAlias = "Iterator[BaseNode | None]"

#: Keys of one node that are held as they are; those of wider nodes wait packed, which takes a tenth of the memory.
WINDOW = 1024
#: Keys in one object of a BTree, at the least.
BUCKET = 15
#: Nodes between two trims of the connection's cache.
TRIM_EVERY = 200


@overload
def leaves(root: BaseNode, *, skip: Skip = None) -> Iterator[BaseNode]: ...
@overload
def leaves(*, skip: Skip = None) -> Callable[[BaseNode], Iterator[BaseNode]]: ...
@stage("root")
def leaves(*, skip: Skip = None) -> Callable[[BaseNode], Iterator[BaseNode]]:
    """Walk the leaves of a tree.

    >>> from lotdb import BaseNode
    >>> from lotproc import leaves
    >>> root = BaseNode("root")
    >>> for path in (["ann", "clip_1"], ["ann", "clip_2"], ["bob"]):
    ...     _ = root.gns(path)
    >>> [leaf.key for leaf in leaves(root)]
    ['clip_1', 'clip_2', 'bob']

    Args:
        root: Any lotdb node, in memory or persistent. A root without children is its own leaf.
        skip: Branches that do not exist for this walk: a glob on their keys (`"_proc"`), or a function that is true for
            their top nodes. A node all of whose children are skipped is a leaf.

    Returns:
        An iterator of live nodes, depth first, sorted by key. Lazy; holds the path to the current leaf and the keys of
        the siblings along it, and trims the connection's cache as it goes. For the connection's thread only.

    Raises:
        ArgumentTypeError: `root` is no node, or `skip` neither a glob nor a function.
        PatternError: `skip` is a glob that can't be read.
    """
    skipped = skip_tests("leaves", skip)
    return lambda root: _leaves(root, skipped)


@overload
def level(n: int | Literal["deepest"], root: BaseNode, *, skip: Skip = None) -> Iterator[BaseNode]: ...
@overload
def level(n: int | Literal["deepest"], *, skip: Skip = None) -> Callable[[BaseNode], Iterator[BaseNode]]: ...
@stage("root")
def level(n: int | Literal["deepest"], *, skip: Skip = None) -> Callable[[BaseNode], Iterator[BaseNode]]:
    """Walk the nodes at one depth.

    >>> from lotdb import BaseNode
    >>> from lotproc import level
    >>> root = BaseNode("root")
    >>> for path in (["ann", "clip_1"], ["ann", "clip_2"], ["bob"]):
    ...     _ = root.gns(path)
    >>> [node.key for node in level(1, root)]
    ['ann', 'bob']
    >>> [node.key for node in level("deepest", root)]
    ['clip_1', 'clip_2']

    Args:
        n: The depth below `root`, which itself is at 0; or "deepest", the depth of the deepest node.
        root: Any lotdb node, in memory or persistent.
        skip: Branches that do not exist for this walk: a glob on their keys, or a function of their top nodes.

    Returns:
        An iterator of live nodes, depth first, sorted by key. Lazy, and touches no node below depth `n`; "deepest"
        walks the whole tree once before its first node. Holds the path to the current node and the keys of the
        siblings along it. For the connection's thread only.

    Raises:
        ArgumentError: `n` is negative, or another word than "deepest".
        ArgumentTypeError: `root` is no node, `n` no number, or `skip` neither a glob nor a function.
        PatternError: `skip` is a glob that can't be read.
    """
    check_level("level", "n", n)
    skipped = skip_tests("level", skip)

    def run(root: BaseNode) -> Iterator[BaseNode]:
        depth = _depth_of(root, skipped) if isinstance(n, str) else n
        yield from _depth_first(root, skipped, depth, depth)

    return run


@overload
def children(root: BaseNode, *, skip: Skip = None) -> Iterator[BaseNode]: ...
@overload
def children(*, skip: Skip = None) -> Callable[[BaseNode], Iterator[BaseNode]]: ...
@stage("root")
def children(*, skip: Skip = None) -> Callable[[BaseNode], Iterator[BaseNode]]:
    """Walk the direct children of a node: the same as `level(1, root)`.

    >>> from lotdb import BaseNode
    >>> from lotproc import children
    >>> root = BaseNode("root")
    >>> _ = root.gn("bob"), root.gn("ann")
    >>> [node.key for node in children(root)]
    ['ann', 'bob']

    Args:
        root: Any lotdb node, in memory or persistent.
        skip: Branches that do not exist for this walk: a glob on their keys, or a function of their top nodes.

    Returns:
        An iterator of live nodes, sorted by key. Lazy; holds one node and the keys of the others. For the connection's
        thread only.

    Raises:
        ArgumentTypeError: `root` is no node, or `skip` neither a glob nor a function.
        PatternError: `skip` is a glob that can't be read.
    """
    skipped = skip_tests("children", skip)
    return lambda root: _depth_first(root, skipped, 1, 1)


@overload
def walk(
    root: BaseNode, *, order: Order = "pre", min_depth: int = 0, max_depth: int | None = None, skip: Skip = None
) -> Iterator[BaseNode]: ...
@overload
def walk(
    *, order: Order = "pre", min_depth: int = 0, max_depth: int | None = None, skip: Skip = None
) -> Callable[[BaseNode], Iterator[BaseNode]]: ...
@stage("root")
def walk(
    *, order: Order = "pre", min_depth: int = 0, max_depth: int | None = None, skip: Skip = None
) -> Callable[[BaseNode], Iterator[BaseNode]]:
    """Walk all nodes of a tree.

    >>> from lotdb import BaseNode
    >>> from lotproc import walk
    >>> root = BaseNode("root")
    >>> _ = root.gns(["ann", "clip_1"]), root.gn("bob")
    >>> [node.key for node in walk(root)]
    ['root', 'ann', 'clip_1', 'bob']
    >>> [node.key for node in walk(root, order="post", min_depth=1)]
    ['clip_1', 'ann', 'bob']

    Args:
        root: Any lotdb node, in memory or persistent.
        order: "pre": a node before its children; "post": after them; "breadth": level by level.
        min_depth: The depth of the first nodes to give; `root` is at depth 0.
        max_depth: The depth of the last ones; no node below it is touched. `None`: all.
        skip: Branches that do not exist for this walk: a glob on their keys, or a function of their top nodes.

    Returns:
        An iterator of live nodes; siblings come sorted by key. Lazy; "pre" and "post" hold the path to the current node
        and the keys of the siblings along it, "breadth" holds one level of nodes. For the connection's thread only.

    Raises:
        ArgumentError: `order` is unknown, or a depth is negative.
        ArgumentTypeError: `root` is no node, a depth no number, or `skip` neither a glob nor a function.
        PatternError: `skip` is a glob that can't be read.
    """
    check_choice("walk", "order", order, tuple(_ORDERS))
    check_count("walk", "min_depth", min_depth, minimum=0)
    if max_depth is not None:
        check_count("walk", "max_depth", max_depth, minimum=0)
    skipped = skip_tests("walk", skip)

    in_order = _ORDERS[order]
    return lambda root: in_order(root, skipped, min_depth, max_depth)


@overload
def glob(pattern: str | Sequence[str], root: BaseNode) -> Iterator[BaseNode]: ...
@overload
def glob(pattern: str | Sequence[str]) -> Callable[[BaseNode], Iterator[BaseNode]]: ...
@stage("root")
def glob(pattern: str | Sequence[str]) -> Callable[[BaseNode], Iterator[BaseNode]]:
    """Find the nodes whose path below `root` matches a pattern.

    >>> from lotdb import BaseNode
    >>> from lotproc import glob
    >>> root = BaseNode("root")
    >>> for speaker, session in (("ann", "a"), ("ann", "b"), ("bob", "a")):
    ...     _ = root.gns([speaker, session, "clip_1"])
    >>> ["/".join(node.gps()) for node in glob("ann/*/clip_?", root)]
    ['ann/a/clip_1', 'ann/b/clip_1']
    >>> len(list(glob("**/clip_1", root)))
    3

    Args:
        pattern: Components with `*`, `?` and `[...]`, between slashes; `**` stands for any number of components, none
            included. A tuple of components where keys hold slashes. Letter case counts.
        root: Any lotdb node, in memory or persistent.

    Returns:
        An iterator of live nodes, each once, a node before those below it, siblings sorted by key. Lazy; plain
        components are looked up, not searched, and branches that can't match are not entered. For the connection's
        thread only.

    Raises:
        ArgumentTypeError: `root` is no node.
        PatternError: `pattern` is no path pattern.
    """
    compiled = PathPattern("glob", pattern)
    return lambda root: _matching(root, compiled)


def _matching(root: BaseNode, pattern: PathPattern) -> Iterator[BaseNode]:
    trim = trimmer(root)

    def below(node: BaseNode, positions: frozenset[int]) -> Iterator[tuple[BaseNode, frozenset[int]]]:
        literals = pattern.literals(positions)
        keys = chain.from_iterable(_frozen_keys(node, trim)) if literals is None else literals
        return _follow(node, keys, positions)

    def _follow(
        node: BaseNode, keys: Iterable[str], positions: frozenset[int]
    ) -> Iterator[tuple[BaseNode, frozenset[int]]]:
        for key in keys:
            after = pattern.step(positions, key)
            if after and (child := node.node_storage.get(key)) is not None:
                trim()
                yield child, after

    stack = [iter([(root, pattern.start)])]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
            continue
        node, positions = found
        stack.append(below(node, positions))
        if pattern.accepts(positions):
            yield node


def _leaves(root: BaseNode, skip: _Skip) -> Iterator[BaseNode]:
    trim = trimmer(root)
    stack: list[_Siblings] = [iter((root,))]
    while stack:
        for node in stack[-1]:
            if node is None:
                continue
            if node.node_storage:
                below = _children(node, skip, trim)
                first = next((child for child in below if child is not None), None)
                if first is not None:
                    stack.append(chain((first,), below))
                    break
            yield node
        else:
            stack.pop()


def _depth_first(
    root: BaseNode, skip: _Skip, min_depth: int, max_depth: int | None, *, post: bool = False
) -> Iterator[BaseNode]:
    """The nodes between two depths, each before what is below it, or after."""
    trim = trimmer(root)
    stack: list[_Siblings] = [iter((root,))]
    above: list[BaseNode] = []
    while stack:
        depth = len(above)
        for node in stack[-1]:
            if node is None:
                continue
            below = _children(node, skip, trim) if depth != max_depth and node.node_storage else None
            if depth >= min_depth and (below is None or not post):
                yield node
            if below is not None:
                above.append(node)
                stack.append(below)
                break
        else:
            stack.pop()
            if above:
                node = above.pop()
                if post and len(above) >= min_depth:
                    yield node


def _breadth_first(root: BaseNode, skip: _Skip, min_depth: int, max_depth: int | None) -> Iterator[BaseNode]:
    trim = trimmer(root)
    queue: deque[tuple[int, _Siblings]] = deque([(0, iter((root,)))])
    while queue:
        depth, siblings = queue.popleft()
        for node in siblings:
            if node is None:
                continue
            if depth != max_depth and node.node_storage:
                queue.append((depth + 1, _children(node, skip, trim)))
            if depth >= min_depth:
                yield node


_ORDERS: dict[str, Callable[..., Iterator[BaseNode]]] = {
    "pre": _depth_first,
    "post": partial(_depth_first, post=True),
    "breadth": _breadth_first,
}


def _depth_of(root: BaseNode, skip: _Skip) -> int:
    """The depth of the deepest node."""
    trim = trimmer(root)
    stack: list[_Siblings] = [iter((root,))]
    deepest = 0
    while stack:
        for node in stack[-1]:
            if node is None:
                continue
            deepest = max(deepest, len(stack) - 1)
            if node.node_storage:
                stack.append(_children(node, skip, trim))
                break
        else:
            stack.pop()
    return deepest


def _children(node: BaseNode, skip: _Skip, trim: Callable[[int], None]) -> _Siblings:
    """Copy the child keys now; follow them when asked, and give None for a child that is gone by then."""
    windows = _frozen_keys(node, trim)
    follow = node.node_storage.get
    skip_key, skip_node = skip

    def followed() -> Iterator[_Siblings]:
        for window in windows:
            keys = window if skip_key is None else [key for key in window if not skip_key(key)]
            for start in range(0, len(keys), TRIM_EVERY):
                part = keys[start : start + TRIM_EVERY]
                trim(len(part))
                yield map(follow, part)

    children = chain.from_iterable(followed())
    if skip_node is None:
        return children
    return (child for child in children if child is not None and not skip_node(child))


def _frozen_keys(node: BaseNode, trim: Callable[[int], None]) -> Iterator[list[str]]:
    """The child keys as they are now, whatever happens to the node later: lists of at most `WINDOW`."""
    keys = iter(node.node_storage.keys())
    first = list(islice(keys, WINDOW))
    trim(len(first) // BUCKET)
    if len(first) < WINDOW:
        return iter((first,))
    packed = []
    while window := list(islice(keys, WINDOW)):
        packed.append(zlib.compress(pickle.dumps(window, protocol=5), level=1))
        trim(WINDOW // BUCKET)
    return chain((first,), (pickle.loads(zlib.decompress(window)) for window in packed))


def trimmer(root: BaseNode) -> Callable[..., None]:
    """A function to call for each node: now and then it lets the connection drop what it no longer needs.

    `cacheGC` keeps the connection's view where it is, unlike `abort`, and never drops changes. A walk asks for one when
    its first node is taken, so a connection that was closed by then is refused here.
    """
    connection = connection_of(root)
    if is_closed(root):
        raise closed_since("walk", "the first node was taken")
    seen = 0

    def trim(objects: int = 1) -> None:
        nonlocal seen
        seen += objects
        if seen >= TRIM_EVERY and connection is not None:
            seen = 0
            connection.cacheGC()

    return trim


def check_level(name: str, argument: str, level: int | str) -> None:
    """Refuse what is no depth of nodes."""
    if isinstance(level, str):
        if level != "deepest":
            raise ArgumentError(
                f"{name}: {argument}", expected="a number of at least 0, or 'deepest'", got=f"{level!r}"
            )
    else:
        check_count(name, argument, level, minimum=0)


def skip_tests(name: str, skip: Skip) -> _Skip:
    """`skip` as a test of keys, which needs no node, and a test of nodes."""
    if skip is None:
        return None, None
    if isinstance(skip, str):
        if has_slash(skip):
            hint = "give a glob on one key, or a function of a node; '[/]' stands for the character itself"
            raise PatternError(f"{name}: skip={skip!r}", "is a path, and keys are compared one by one", hint=hint)
        skips = key_glob(name, skip)
        warn_of_a_regex(name, skip)
        return skips, None
    if callable(skip):
        return None, skip
    raise ArgumentTypeError(f"{name}: skip", expected="a glob on keys or a function of a node", got=got(skip))
