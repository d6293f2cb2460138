"""Parts of a corpus by a hash of the path: a training and a test set, a sample, a part for each of several programs."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from numbers import Real
from typing import Any, TypeVar, overload

from ._items import no_item, path_of
from ._stage import check_choice, check_count, stage
from .errors import ArgumentError, ArgumentTypeError, brief, got
from .models import Failure
from .sampling import path_bytes

__all__ = ["sample", "split"]

T = TypeVar("T")

#: How far a sum of fractions may be from 1: that of thirds, or of 32-bit numbers.
NOISE = 1e-6
#: Bits of a number that is drawn: as many as a float holds exactly.
BITS = 53


@overload
def split(
    parts: Mapping[str, float], items: Iterable[T], *, part: str, by: int | None = 1, seed: int = 0
) -> Iterator[T]: ...
@overload
def split(
    parts: Mapping[str, float], *, part: str, by: int | None = 1, seed: int = 0
) -> Callable[[Iterable[T]], Iterator[T]]: ...
@overload
def split(parts: Mapping[str, float], items: Any, *, part: None = None, by: int | None = 1, seed: int = 0) -> str: ...
@overload
def split(
    parts: Mapping[str, float], *, part: None = None, by: int | None = 1, seed: int = 0
) -> Callable[[Any], str]: ...
@stage("items", single="part")
def split(
    parts: Mapping[str, float], *, part: str | None = None, by: int | None = 1, seed: int = 0
) -> Callable[[Any], Any]:
    """Divide a corpus into parts, a speaker as a whole: a function from an item to its part, or a stage that keeps one.

    >>> from lotproc import NodeRecord, split
    >>> speakers = ("ann", "bob", "eve")
    >>> clips = [NodeRecord((name, clip), clip) for name in speakers for clip in "12"]
    >>> parts = {"train": 0.8, "test": 0.2}
    >>> part_of = split(parts)
    >>> [part_of(clip) for clip in clips]
    ['test', 'test', 'train', 'train', 'train', 'train']
    >>> [clip.path for clip in split(parts, clips, part="test")]
    [('ann', '1'), ('ann', '2')]

    An item's part depends on the first keys of its path, the seed and the fractions alone. It is the same on every
    machine, and stays what it is when other items come or go. So no part has exactly its fraction: of `n` speakers,
    the share of one with fraction `p` is off by about `sqrt(p * (1 - p) / n)`. With few speakers, look at what came out
    (`collections.Counter(map(split(parts), clips))`), or choose the parts by hand.

    Args:
        parts: The fraction of each part, by its name; together 1. Their order counts: items of "train" stay there when
            `{"train": 0.8, "test": 0.2}` becomes `{"train": 0.8, "dev": 0.1, "test": 0.1}`.
        items: Without `part`, one item: a node, a record, anything with a path, or a path as a tuple of keys. With
            `part`, an iterable of such items; a `Failure` among them is kept, in every part.
        part: The part to keep.
        by: How many keys of the path are never divided: 1 for speakers where these are the first level. A path that is
            shorter counts as a whole; with `None` every path does.
        seed: A whole number, at least 0; another one gives other parts.

    Returns:
        Without `part` the name of the item's part. With `part` an iterator of the items kept, in their order. Lazy;
        holds one item. Where the items are left out, a function or a stage that waits for them, which can be pickled.

    Raises:
        ArgumentError: The fractions do not sum to 1, or one of them is negative; there is no such `part`; `by` is less
            than 1; or `seed` is negative.
        ArgumentTypeError: An option has the wrong type, or an item has no path.

    An item is drawn by BLAKE2 (RFC 7693) of its keys and the seed. What `sample` draws is independent of that.
    """
    names, bounds = _bounds(parts)
    draw = _drawing("split", by, seed, b"split")

    def part_of(item: Any) -> str:
        return names[bisect_right(bounds, draw(item) / (1 << BITS))]

    def part_of_one(item: Any) -> str:
        if isinstance(item, (list, Iterator)):
            hint = f'of many items, split(..., part="{names[0]}") keeps one part'
            raise ArgumentTypeError("split:", expected="one item", got=got(item), hint=hint)
        return part_of(item)

    if part is None:
        return part_of_one
    check_choice("split", "part", part, tuple(parts))

    def run(items: Iterable[T]) -> Iterator[T]:
        return (item for item in items if type(item) is Failure or part_of(item) == part)

    return run


@overload
def sample(fraction: float, items: Iterable[T], *, by: int | None = None, seed: int = 0) -> Iterator[T]: ...
@overload
def sample(fraction: float, *, by: int | None = None, seed: int = 0) -> Callable[[Iterable[T]], Iterator[T]]: ...
@overload
def sample(*, items: Iterable[T], rank: int, world: int, by: int | None = None, seed: int = 0) -> Iterator[T]: ...
@overload
def sample(*, rank: int, world: int, by: int | None = None, seed: int = 0) -> Callable[[Iterable[T]], Iterator[T]]: ...
@stage("items", instead=("fraction", "rank"))
def sample(
    fraction: float | None = None,
    *,
    rank: int | None = None,
    world: int | None = None,
    by: int | None = None,
    seed: int = 0,
) -> Callable[[Iterable[T]], Iterator[T]]:
    """Keep a fraction of the items, always the same ones; or the share of one of several programs.

    >>> from lotproc import NodeRecord, sample
    >>> keys = [f"clip_{number}" for number in range(10)]
    >>> clips = [NodeRecord((key,), key) for key in keys]
    >>> [clip.key for clip in sample(0.3, clips)]
    ['clip_0', 'clip_2', 'clip_5']
    >>> for rank in range(2):  # in two programs
    ...     print([clip.key for clip in sample(rank=rank, world=2)(clips)])
    ['clip_1', 'clip_4', 'clip_6']
    ['clip_0', 'clip_2', 'clip_3', 'clip_5', 'clip_7', 'clip_8', 'clip_9']

    Whether an item is kept depends on its path and the seed alone, not on what else there is. A larger fraction keeps
    all that a smaller one keeps, and more.

    Args:
        fraction: About how many of the items to keep, from 0 to 1.
        items: Nodes, records, anything with a path, or paths as tuples of keys; a `Failure` among them is kept.
        rank: In place of `fraction`: the number of this program, from 0. Each item belongs to one rank.
        world: How many programs there are.
        by: How many keys of the path are never divided, as for `split`; `None`: the whole path counts.
        seed: A whole number, at least 0; another one keeps other items.

    Returns:
        An iterator of the items kept, in their order. Lazy; holds one item.

    Raises:
        ArgumentError: `fraction` is not from 0 to 1, or `rank` not below `world`; both are given, or one of the latter
            is missing; `by` is less than 1; or `seed` is negative.
        ArgumentTypeError: An option has the wrong type, or an item has no path.

    Items are drawn as `split` draws them; fractions, ranks and parts are independent of each other.
    """
    if fraction is None and rank is not None and world is not None:
        check_count("sample", "world", world)
        check_count("sample", "rank", rank, minimum=0)
        if rank >= world:
            raise ArgumentError("sample: rank", expected=f"below world, which is {world}", got=f"{rank}")
        draw = _drawing("sample", by, seed, b"rank")
        return lambda items: (item for item in items if type(item) is Failure or draw(item) % world == rank)
    if fraction is None or rank is not None or world is not None:
        given = {"fraction": fraction, "rank": rank, "world": world}
        said = ", ".join(f"{name}={brief(value)}" for name, value in given.items() if value is not None)
        hint = None if fraction is None or isinstance(fraction, Real) else "sample(rank=0, world=4)(items)"
        raise ArgumentError("sample:", expected="a fraction, or rank and world", got=said or "none of them", hint=hint)
    limit = _fraction("sample: fraction", fraction) * (1 << BITS)
    draw = _drawing("sample", by, seed, b"sample")
    return lambda items: (item for item in items if type(item) is Failure or draw(item) < limit)


def _drawing(name: str, by: int | None, seed: int, purpose: bytes) -> Callable[[Any], int]:
    """The function that draws a whole number below `1 << BITS` for an item.

    Never to be changed: it says what is in the test sets of all users.
    """
    if by is not None:
        check_count(name, "by", by)
    check_count(name, "seed", seed, minimum=0)
    start = blake2b(b"%d" % int(seed), digest_size=8, person=purpose)

    @lru_cache(maxsize=1)  # most items of a sorted stream have the same first keys as the one before
    def drawn(keys: tuple[str, ...]) -> int:
        known = start.copy()
        known.update(path_bytes(keys))
        return int.from_bytes(known.digest(), "big") >> (64 - BITS)

    return lambda item: drawn(_path(name, item)[:by])


def _path(name: str, item: Any) -> tuple[str, ...]:
    if not isinstance(item, tuple) or hasattr(item, "path"):
        return path_of(name, item)
    if not all(isinstance(key, str) for key in item):
        raise no_item(name, item)
    return item


def _bounds(parts: Mapping[str, float]) -> tuple[list[str], list[float]]:
    """The names of the parts that get something, and where one ends and the next begins."""
    if not isinstance(parts, Mapping) or not all(isinstance(name, str) for name in parts):
        expected = "a mapping from names to fractions, as {'train': 0.8, 'test': 0.2}"
        raise ArgumentTypeError("split: parts", expected=expected, got=got(parts))
    fractions = {name: _fraction(f"split: the fraction of {name!r}", value) for name, value in parts.items()}
    total = math.fsum(fractions.values())
    if abs(total - 1) > NOISE:
        raise ArgumentError("split: parts", expected="fractions that sum to 1", got=f"a sum of {total:.12g}")
    names = [name for name, value in fractions.items() if value]
    return names, list(accumulate(fractions[name] for name in names))[:-1]  # the last has what is left


def _fraction(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentTypeError(what, expected="a number", got=got(value))
    if not 0 <= float(value) <= 1 + NOISE:
        raise ArgumentError(what, expected="from 0 to 1", got=f"{value}")
    return float(value)
