"""Keep the nodes or records that match: by key, by path, by attribute."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
from lotdb import BaseNode
from ZODB.broken import broken_cache
from ZODB.POSException import StateLoadError

from ._items import path_of
from ._missing import REMEMBERED, Note, Sought, tell
from ._nodes import attributes_of, key_of, missing_class
from ._patterns import PathPattern, regex as compiled
from ._public import public
from ._salvaging import Unreadable, salvaged
from ._spelling import spelled
from ._stage import stage
from .errors import ArgumentTypeError, DetachError, add_note, as_text, got
from .models import Failure

__all__ = ["filter_node_list", "match_key", "match_path", "where"]

T = TypeVar("T")

#: What is said of a pattern that could match no path in a stream, as "clip_*" where "**/clip_*" was meant.
_OF_ANOTHER_LENGTH = "'**' stands for any number of keys, and no path had as many as are in"


@overload
def match_key(regex: str | re.Pattern[str], items: Iterable[T], *, invert: bool = False) -> Iterator[T]: ...
@overload
def match_key(regex: str | re.Pattern[str], *, invert: bool = False) -> Callable[[Iterable[T]], Iterator[T]]: ...
@stage("items")
def match_key(regex: str | re.Pattern[str], *, invert: bool = False) -> Callable[[Iterable[T]], Iterator[T]]:
    """Keep the items in whose key a regular expression is found.

    >>> from lotproc import NodeRecord, match_key
    >>> records = [NodeRecord((key,), key) for key in ("clip_001", "notes")]
    >>> [record.key for record in match_key("^clip_", records)]
    ['clip_001']

    Args:
        regex: A str or a compiled pattern, searched as `re.search` does: anchor it with `^` and `$` where needed. For
            globs there is `match_path("**/*.wav")`.
        items: Nodes or records; a `Failure` among them is kept.
        invert: Keep those that do not match.

    Returns:
        An iterator of the items kept, in their order. Lazy; holds one item.

    Raises:
        PatternError: `regex` is no regular expression.
    """
    search = compiled("match_key", regex).search
    return lambda items: (
        item for item in items if type(item) is Failure or (search(key_of("match_key", item)) is None) is bool(invert)
    )


@overload
def match_path(pattern: str | Sequence[str], items: Iterable[T], *, invert: bool = False) -> Iterator[T]: ...
@overload
def match_path(pattern: str | Sequence[str], *, invert: bool = False) -> Callable[[Iterable[T]], Iterator[T]]: ...
@stage("items")
def match_path(pattern: str | Sequence[str], *, invert: bool = False) -> Callable[[Iterable[T]], Iterator[T]]:
    """Keep the items whose whole path matches a glob.

    >>> from lotproc import NodeRecord, match_path
    >>> paths = [("ann", "a", "clip_1"), ("bob", "b", "clip_1")]
    >>> records = [NodeRecord(path, path[-1]) for path in paths]
    >>> [record.path for record in match_path("a*/**/clip_?", records)]
    [('ann', 'a', 'clip_1')]

    Args:
        pattern: Components with `*`, `?` and `[...]`, between slashes; `**` stands for any number of components, none
            included. A tuple of components where keys hold slashes. Letter case counts.
        items: Nodes or records; a `Failure` among them is kept. Paths start below the root of the whole tree.
        invert: Keep those that do not match.

    Returns:
        An iterator of the items kept, in their order. Lazy; holds one item. If no path had as many keys as the pattern
        takes, there is a warning at the end.

    Raises:
        PatternError: `pattern` is no path pattern.
    """
    compiled_pattern = PathPattern("match_path", pattern)
    fits, matches, inverted = compiled_pattern.fits, compiled_pattern.matches, bool(invert)
    sought = frozenset([pattern if isinstance(pattern, str) else as_text(pattern)])

    def run(items: Iterable[T]) -> Iterator[T]:
        left = iter(items)
        others: set[str] = set()
        for item in left:
            path = None if type(item) is Failure else path_of("match_path", item)
            if path is None or matches(path) is not inverted:
                yield item
            if path is not None and fits(len(path)):
                tell(Note("match_path", sought, frozenset(), frozenset()))
                break
            if path is not None and len(others) < REMEMBERED:
                others.add(as_text(path))
        else:
            if others:
                tell(Note("match_path", sought, sought, frozenset(others), said=_OF_ANOTHER_LENGTH))
        yield from (
            item for item in left if type(item) is Failure or matches(path_of("match_path", item)) is not inverted
        )

    return run


@overload
def where(name: str, test: Any, items: Iterable[T], *, invert: bool = False) -> Iterator[T]: ...
@overload
def where(name: str, test: Any, *, invert: bool = False) -> Callable[[Iterable[T]], Iterator[T]]: ...
@stage("items")
def where(name: str, test: Any, *, invert: bool = False) -> Callable[[Iterable[T]], Iterator[T]]:
    """Keep the items that have an attribute with some value.

    >>> from lotproc import NodeRecord, where
    >>> a = NodeRecord(("a",), "a", {"seconds": 1.0})
    >>> b = NodeRecord(("b",), "b", {"seconds": 3.0})
    >>> [record.key for record in where("seconds", lambda seconds: seconds > 2, [a, b])]
    ['b']
    >>> [record.key for record in where("seconds", 1.0, [a, b])]
    ['a']

    Args:
        name: The attribute. Where it is absent its value is `None`, as in lotdb.
        test: The value that the attribute must equal (arrays: in shape and every element), or a function of the value
            that is true for those to keep. It is called with `None` for an item that has not got the attribute, so
            `lambda s: s is not None and s > 2` where some have not.
        items: Nodes or records; a `Failure` among them is kept.
        invert: Keep those that do not match.

    Returns:
        An iterator of the items kept, in their order. Lazy; holds one item. If no item had the attribute, there is a
        warning at the end, which names the nearest name that there was.

    Raises:
        ArgumentTypeError: `name` is no str.
        DetachError: The class of a value can't be imported; names the path, the attribute and the class.
        Exception: Whatever `test` raises, with a note that names the path, the attribute and its value.
    """
    matches = attribute_test("where", name, test)

    def run(items: Iterable[T]) -> Iterator[T]:
        left = iter(items)
        sought = Sought("where", (name,))
        for item in left:
            if type(item) is Failure or matches(item) is not bool(invert):
                yield item
            if type(item) is not Failure:
                sought.look(_attributes("where", item), path_of("where", item))
                if not sought.wanted:
                    break
        yield from (item for item in left if type(item) is Failure or matches(item) is not bool(invert))
        sought.end()

    return run


def attribute_test(stage_name: str, name: str, test: Any) -> Callable[[Any], bool]:
    """The test behind `where`, of one node or record."""
    if not isinstance(name, str):
        raise ArgumentTypeError(f"{stage_name}: the name of an attribute", expected="a str", got=got(name))

    def matches(item: Any) -> bool:
        try:
            value = attributes_of(stage_name, item).get(name)
        except StateLoadError:
            value = _attributes(stage_name, item).get(name)
        if broken_cache or type(value) is Unreadable:
            _check_whole(stage_name, item, name, value)
        try:
            return bool(test(value)) if callable(test) else _equal(value, test)
        except Exception as error:
            path = as_text(path_of(stage_name, item))
            add_note(error, f"lotproc: in the test of {name!r} at {path}, where the attribute is {got(value)}")
            raise

    return matches


def _check_whole(stage_name: str, item: Any, name: str, value: Any) -> None:
    """Refuse a value that can't be read as what it was, or that holds something that can't."""
    missing = missing_class(value, through_persistent=True)
    if missing or type(value) is Unreadable:
        reason = f"its class can't be imported: {missing}" if missing else value.reason
        where = as_text(path_of(stage_name, item))
        raise DetachError(f"{stage_name}: attribute {name!r} of {where} can't be read: {reason}")


def _attributes(stage_name: str, item: Any) -> Any:
    """The attributes of a node or a record, with a `get`; of a node also where one of them can't be read."""
    attributes = item.attribute_storage if isinstance(item, BaseNode) else attributes_of(stage_name, item)
    try:
        next(iter(attributes), None)
    except StateLoadError as error:
        return salvaged(attributes, error)
    return attributes


def _equal(value: Any, expected: Any) -> bool:
    if isinstance(value, np.ndarray) or isinstance(expected, np.ndarray):
        return type(value) is type(expected) and np.array_equal(value, expected)
    return bool(value == expected)


@public
@spelled
def filter_node_list(filter_str: str, node_list: Iterable[T], invers: bool = False) -> list[T]:
    """Keep the nodes in whose key a regular expression is found: `match_key` with the arguments of lotdb's function.

    >>> from lotdb import BaseNode
    >>> from lotproc import filter_node_list
    >>> nodes = [BaseNode("clip_1"), BaseNode("notes")]
    >>> [node.key for node in filter_node_list("clip", nodes)]
    ['clip_1']

    Args:
        filter_str: The regular expression.
        node_list: Nodes or records.
        invers: Keep those that do not match.

    Returns:
        A list, in the order of `node_list`.

    Raises:
        PatternError: `filter_str` is no regular expression.
    """
    return list(match_key(filter_str, node_list, invert=invers))
