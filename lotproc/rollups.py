"""Values that move up a tree: for each branch a fold of all records below it, in one pass (`rollup`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Literal, TypeAlias, overload

from . import folds
from ._items import no_item, path_of
from ._missing import Sought
from ._nodes import attributes_of, out_of_order
from ._stage import check_count, stage
from .errors import ArgumentError, ArgumentTypeError, got
from .folds import Fold, together
from .models import Accumulator, Failure, NodeRecord, ProcessResult

__all__ = ["rollup"]

Folds: TypeAlias = "Fold | Mapping[str, Fold]"
Depths: TypeAlias = "int | Iterable[int] | None"
_Path: TypeAlias = "tuple[str, ...]"
_SORT = "sort the records by path, or take them from scan(), leaves() or records() of a tree"
_IN_ORDER = "let parallel_map give the parts in their order, with ordered=True"
#: What is given for a branch and its accumulator; `None` for nothing.
_Make: TypeAlias = Callable[[_Path, Any], "ProcessResult | Accumulator | None"]


@overload
def rollup(
    fold: Folds, records: Iterable[Any], *, depths: Depths = None, partial: Literal[False] = False
) -> Iterator[ProcessResult]: ...
@overload
def rollup(
    fold: Folds, records: Iterable[Any], *, depths: Depths = None, partial: Literal[True]
) -> Iterator[Accumulator]: ...
@overload
def rollup(
    fold: Folds, *, depths: Depths = None, partial: Literal[False] = False
) -> Callable[[Iterable[Any]], Iterator[ProcessResult]]: ...
@overload
def rollup(
    fold: Folds, *, depths: Depths = None, partial: Literal[True]
) -> Callable[[Iterable[Any]], Iterator[Accumulator]]: ...
@stage("records")
def rollup(fold: Folds, *, depths: Depths = None, partial: bool = False) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """Fold the records below each branch of a tree into one result: a speaker's seconds, a corpus' mean.

    >>> from lotproc import NodeRecord, rollup
    >>> from lotproc.folds import total
    >>> paths = [("ann", "clip_1"), ("ann", "clip_2"), ("bob", "clip_1")]
    >>> records = [NodeRecord(path, path[-1], {"seconds": 0.5}) for path in paths]
    >>> for result in rollup(total("seconds"), records):
    ...     print(result.path, result.output)
    ('ann',) 1.0
    ('bob',) 0.5
    () 1.5

    Over parts of a stream, in worker processes say, `partial=True` gives accumulators, which another `rollup` puts
    together. That gives the same, to the bit, whatever the parts are:

    >>> from lotproc import chunked, parallel_map
    >>> in_workers = rollup(total("seconds"), partial=True)
    >>> parts = parallel_map(in_workers, chunked(2, records), mode="thread")
    >>> [result.output for result in rollup(total("seconds"), parts, depths=0)]
    [1.5]

    So do workers that read `partitions` of a database themselves:
    `parallel_map(compose_left(scan("seconds"), rollup(total("seconds"), partial=True)))` between `partitions(64)` and
    `rollup(total("seconds"))`.

    Args:
        fold: One of `lotproc.folds`, or a mapping from names to several, whose values come as a dict, in one pass.
        records: Records or nodes, in path order, as traversals and `scan` give them; or accumulators of the same fold,
            part after part in that order, or lists of them, as `parallel_map` gives. A record counts for each branch
            above it, that of the root, `()`, included, and not for itself. A `Failure` is handed on.
        depths: The depths of the branches to give, 0 that of the root: one, or several; `None` for all.
        partial: Give accumulators, for a `rollup` with the same fold to finish.

    Returns:
        An iterator of `ProcessResult`s with the path of the branch and the fold's value as output, or of
        `Accumulator`s; children before their parents. Lazy; holds one accumulator for each level. If no record had an
        attribute that the fold looks at, there is a warning at the end.

    Raises:
        ArgumentError: `fold` or `depths` is empty, or a depth is negative; records or parts are out of path order, or
            accumulators are those of another fold; names the path.
        ArgumentTypeError: An option has the wrong type; an item has no path, a value is no number; records and
            accumulators come mixed.
        Exception: Whatever the functions of `fold` raise.
    """
    whole = _checked_fold(fold)
    name = fold.told if isinstance(fold, Fold) else f"{{{', '.join(f'{key!r}: {fold[key].told}' for key in fold)}}}"
    wanted = _checked_depths(depths)
    if not isinstance(partial, bool):
        raise ArgumentTypeError("rollup: partial", expected="True or False", got=got(partial))

    def make(path: _Path, value: Any) -> ProcessResult | Accumulator | None:
        if wanted is not None and len(path) not in wanted:
            return None
        return Accumulator(path, value, name) if partial else ProcessResult(path, whole.finish(value))

    def run(records: Iterable[Any]) -> Iterator[Any]:
        items = iter(records)
        for item in items:
            if type(item) is not Failure:
                rest = chain((item,), items)
                if isinstance(item, (Accumulator, list, tuple)):
                    yield from _put_together(rest, whole, name, make)
                else:
                    yield from _folded(rest, whole, make, is_part=partial)
                return
            yield item

    return run


def _checked_fold(fold: object) -> Fold:
    """The one fold, or all in one."""
    if isinstance(fold, Fold):
        return fold
    for part in [fold] if not isinstance(fold, Mapping) else fold.values():
        if not isinstance(part, Fold):
            expected = "a Fold, as those of lotproc.folds, or a mapping from names to Folds"
            name = getattr(part, "__name__", "")
            hint = f"call it: {name}(...)" if getattr(folds, name, None) is part else None
            raise ArgumentTypeError("rollup: fold", expected=expected, got=got(part), hint=hint)
    if not fold:
        raise ArgumentError("rollup: fold", expected="at least one Fold", got=got(fold))
    return together(fold)  # type: ignore[arg-type]


def _checked_depths(depths: Depths) -> Collection[int] | None:
    if depths is None:
        return None
    several = frozenset(depths) if isinstance(depths, Iterable) else (depths,)
    for depth in several:
        check_count("rollup", "depths", depth, minimum=0)
    if not several:
        raise ArgumentError("rollup: depths", expected="at least one depth", got=got(depths), hint="None gives all")
    return several


#: The accumulator of a branch of which only branches below have got records so far.
_EMPTY = object()


def _folded(items: Iterable[Any], fold: Fold, make: _Make, *, is_part: bool) -> Iterator[Any]:
    """Fold records. Each is lifted into its deepest branch, which goes into the one above when it is closed."""
    lift, combine = fold.lift, fold.combine
    sought = Sought("rollup", fold.names, is_part=is_part)
    wanted = sought.wanted
    branch: _Path = ()
    values: list[Any] = []  # the accumulators of the branch and those above it, from the root on
    last: _Path = ()
    for item in items:
        if type(item) is NodeRecord and type(item.path) is tuple:
            path = item.path
        elif type(item) is Failure:
            yield item
            continue
        else:
            path = _path_of(item)
        if path < last:
            raise out_of_order("rollup: the record", path, last, _SORT)
        last = path
        if wanted:
            sought.look(attributes_of("rollup", item), path)
        if path[:-1] != branch or not values:
            if not path:  # the root is below no branch
                continue
            shared = 0
            for key, other in zip(branch, path[:-1], strict=False):
                if key != other:
                    break
                shared += 1
            yield from _closed(branch, values, shared + 1, combine, make)
            branch = path[:-1]
            values += [_EMPTY] * (len(path) - len(values))
        value = values[-1]
        values[-1] = lift(item) if value is _EMPTY else combine(value, lift(item))
    yield from _closed(branch, values, 0, combine, make)
    sought.end()


def _closed(
    branch: _Path, values: list[Any], left: int, combine: Callable[[Any, Any], Any], make: _Make
) -> Iterator[Any]:
    """What is made of the open branches, the deepest first, but for so many that are left open."""
    while len(values) > left:
        value = values.pop()
        made = make(branch[: len(values)], value)
        if made is not None:
            yield made
        if values:
            values[-1] = value if values[-1] is _EMPTY else combine(values[-1], value)


def _put_together(items: Iterable[Any], fold: Fold, name: str, make: _Make) -> Iterator[Any]:
    """Put accumulators of parts together. What is above a branch holds already what the branch has of the same part.

    Each part ends with its last branch and those above it, of which the next part may have more: they are kept.
    """
    kept: list[tuple[_Path, Any]] = []  # each above the next one
    for item in _flat(items):
        if type(item) is Failure:
            yield item
            continue
        path = _checked_path(item, name)
        while kept and _parts_from(kept[-1][0], path):
            last, value = kept.pop()
            if path < last:
                raise out_of_order("rollup: the accumulator", path, last, _IN_ORDER)
            made = make(last, value)
            if made is not None:
                yield made
        place = len(kept)
        while place and len(kept[place - 1][0]) > len(path):
            place -= 1
        if place and kept[place - 1][0] == path:
            kept[place - 1] = path, fold.combine(kept[place - 1][1], item.value)
        else:
            kept.insert(place, (path, item.value))
    for path, value in reversed(kept):
        made = make(path, value)
        if made is not None:
            yield made


def _flat(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from item
        else:
            yield item


def _parts_from(path: _Path, other: _Path) -> bool:
    """Whether neither of two branches is above the other, or the same."""
    shared = min(len(path), len(other))
    return path[:shared] != other[:shared]


def _path_of(item: Any) -> _Path:
    if isinstance(item, Accumulator):
        raise ArgumentTypeError(
            "rollup: among records,", path=item.path, expected="no accumulator", hint="give one or the other"
        )
    return path_of("rollup", item)


def _checked_path(item: Any, fold: str) -> _Path:
    if not isinstance(item, Accumulator):
        raise no_item("rollup", item, "an Accumulator, as from the rollup(..., partial=True) of each part")
    if item.fold != fold:
        raise ArgumentError(
            "rollup: the accumulator",
            path=item.path,
            expected=f"one of {fold}",
            got=f"one of {item.fold}",
            hint="give both rollups the same fold",
        )
    return item.path
