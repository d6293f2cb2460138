"""What is asked of items, nodes or records, without loading lotdb for it: their paths, or what came in their place."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ._is_node import is_node
from .errors import ArgumentTypeError, got

if TYPE_CHECKING:
    from lotdb import BaseNode

__all__ = ["no_item", "node_path", "path_of"]


def path_of(name: str, item: Any) -> tuple[str, ...]:
    """The path of a live node, or of anything detached that has a `path`."""
    if is_node(item):
        return node_path(item)
    try:
        return tuple(item.path)
    except (AttributeError, TypeError):
        raise no_item(name, item) from None


def node_path(node: BaseNode, root: BaseNode | None = None) -> tuple[str, ...]:
    """The keys from below `root` (by default the root of the whole tree) down to `node`.

    The same as `node.gps()`, which recurses and so ends in a RecursionError on deep trees.
    """
    keys, plain = [], sys.modules["lotdb"].BaseNode
    while node is not root:
        if type(node) is plain:  # without the calls of its properties
            parent, key = node._parent, node._key
        else:
            parent, key = node.parent, node.key
        if parent is None:
            break
        keys.append(key)
        node = parent
    keys.reverse()
    return tuple(keys)


def no_item(name: str, item: object, expected: str = "a node or a record") -> ArgumentTypeError:
    """The error for something in a stream that a stage can't work on."""
    hint = "put it before chunked(), or toolz.concat in front" if isinstance(item, (list, tuple)) else None
    if is_node(item):
        hint = "put snapshot(...) in front, which makes records of nodes"
    return ArgumentTypeError(f"{name}:", expected=expected, got=got(item), hint=hint)
