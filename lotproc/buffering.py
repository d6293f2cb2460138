"""Items gathered into batches: by count, by key, by bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, TypeVar, overload

import more_itertools
from lotdb import BaseNode

from ._items import node_path, path_of
from ._pickling import dumps_detached
from ._stage import check_count, stage
from .errors import ArgumentTypeError, LiveNodeError, NotPicklableError, got
from .models import Failure

__all__ = ["chunked", "chunked_by", "chunked_bytes"]

T = TypeVar("T")


@overload
def chunked(n: int, items: Iterable[T]) -> Iterator[list[T]]: ...
@overload
def chunked(n: int) -> Callable[[Iterable[T]], Iterator[list[T]]]: ...
@stage("items")
def chunked(n: int) -> Callable[[Iterable[T]], Iterator[list[T]]]:
    """Batch items into lists of at most `n`.

    >>> from lotproc import chunked
    >>> list(chunked(2, ["a", "b", "c"]))
    [['a', 'b'], ['c']]

    Args:
        n: Items in a batch, at least 1; the last batch may have fewer.
        items: Any iterable: nodes, records, anything.

    Returns:
        An iterator of lists, in the order of the items. Lazy; pulls `n` items for each list, and holds one list.

    Raises:
        ArgumentError: `n` is less than 1.
    """
    check_count("chunked", "n", n)
    return lambda items: more_itertools.chunked(items, n)


@overload
def chunked_by(key: int | Callable[[T], Any], items: Iterable[T]) -> Iterator[list[T]]: ...
@overload
def chunked_by(key: int) -> Callable[[Iterable[T]], Iterator[list[T]]]: ...
@overload
def chunked_by(key: Callable[[T], Any]) -> Callable[[Iterable[T]], Iterator[list[T]]]: ...
@overload
def chunked_by(key: Callable[[Any], Any]) -> Callable[[Iterable[Any]], Iterator[list[Any]]]: ...  # a lambda
@stage("items")
def chunked_by(key: int | Callable[[T], Any]) -> Callable[[Iterable[T]], Iterator[list[T]]]:
    """Batch consecutive items that have the same key, so that a speaker's clips come as one list.

    >>> from lotproc import NodeRecord, chunked_by
    >>> paths = [("ann", "1"), ("ann", "2"), ("bob", "1")]
    >>> records = [NodeRecord(path, path[-1]) for path in paths]
    >>> [len(batch) for batch in chunked_by(1, records)]
    [2, 1]

    Args:
        key: A function of an item; or a number n of path components, at least 1: items are together while the first n
            keys of their paths are the same.
        items: Any iterable; of records or nodes where `key` is a number. A `Failure` comes with its path, or else with
            the item before it.

    Returns:
        An iterator of lists, in the order of the items. Lazy; holds one list, as long as the run of its key, and the
        item after it.

    Raises:
        ArgumentError: `key` is a number less than 1.
    """
    if not callable(key):
        check_count("chunked_by", "key", key)

    def run(items: Iterable[T]) -> Iterator[list[T]]:
        return (list(group) for _, group in groupby(items, _key_of_all(key)))

    return run


def _key_of_all(key: int | Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The key of any item: a `Failure` that has none is with what came before it."""
    last: Any = None

    def key_of(item: Any) -> Any:
        nonlocal last
        if type(item) is not Failure:
            last = key(item) if callable(key) else path_of("chunked_by", item)[:key]
        elif not callable(key) and item.path is not None:
            last = item.path[:key]
        return last

    return key_of


@overload
def chunked_bytes(limit: int, items: Iterable[T], *, size: Callable[[T], int] | None = None) -> Iterator[list[T]]: ...
@overload
def chunked_bytes(limit: int, *, size: None = None) -> Callable[[Iterable[T]], Iterator[list[T]]]: ...
@overload
def chunked_bytes(limit: int, *, size: Callable[[T], int]) -> Callable[[Iterable[T]], Iterator[list[T]]]: ...
@stage("items")
def chunked_bytes(limit: int, *, size: Callable[[T], int] | None = None) -> Callable[[Iterable[T]], Iterator[list[T]]]:
    """Batch items into lists of at most `limit` bytes; a larger item comes alone.

    >>> from lotproc import chunked_bytes
    >>> items = [b"12345", b"12345", b"1", b"a larger item"]
    >>> [len(batch) for batch in chunked_bytes(10, items, size=len)]
    [2, 1, 1]

    Args:
        limit: Bytes in a batch, at least 1.
        items: Any iterable of detached values, or of anything that `size` can measure.
        size: A function from an item to its bytes. By default the length of its pickle, which is what it costs to send
            the item to a worker process.

    Returns:
        An iterator of lists, in the order of the items. Lazy; holds one list and the item after it.

    Raises:
        ArgumentError: `limit` is less than 1.
        LiveNodeError: An item is or holds a live node, and no `size` was given.
        NotPicklableError: An item can't be pickled, and no `size` was given.
    """
    check_count("chunked_bytes", "limit", limit)
    if size is not None and not callable(size):
        raise ArgumentTypeError("chunked_bytes: size", expected="a function of an item", got=got(size))

    def measured(item: T) -> int:
        if size is None or type(item) is Failure:
            return _pickled_size(item)
        check_count("chunked_bytes", f"the size of {got(item)}", bytes_ := size(item), minimum=0)
        return bytes_

    def run(items: Iterable[T]) -> Iterator[list[T]]:
        return map(list, more_itertools.constrained_batches(items, limit, get_len=measured, strict=False))

    return run


def _pickled_size(item: object) -> int:
    if isinstance(item, BaseNode):
        raise LiveNodeError(
            "chunked_bytes: what is",
            "is a live node, which has no size",
            path=node_path(item),
            hint="snapshot() it first, or give size=",
        )
    try:
        return len(dumps_detached(item))
    except LiveNodeError as error:
        raise LiveNodeError(
            f"chunked_bytes: can't measure {got(item)}: {error}", hint="snapshot() nodes first, or give size="
        ) from None
    except Exception as error:
        raise NotPicklableError(f"chunked_bytes: can't measure {got(item)}: {error}", hint="give size=") from error
