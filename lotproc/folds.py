"""What is made of many records, for `rollup`: counts, exact sums, statistics, the largest; or a fold of your own.

    >>> from lotproc import NodeRecord, rollup
    >>> from lotproc.folds import count, total
    >>> a = NodeRecord(("ann", "a"), "a", {"seconds": 1.5})
    >>> b = NodeRecord(("ann", "b"), "b", {"seconds": 2.0})
    >>> folds = {"clips": count(), "seconds": total("seconds")}
    >>> [(result.path, result.output) for result in rollup(folds, [a, b])]
    [(('ann',), {'clips': 2, 'seconds': 3.5}), ((), {'clips': 2, 'seconds': 3.5})]

Numbers are ints, floats, bools, and those of numpy. Of records whose attribute is `None`, or absent, only `count` takes
notice. A NaN counts: what it goes into is NaN.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from math import isqrt, nan
from sys import intern
from typing import Any, TypeAlias

import numpy as np

from ._items import path_of
from ._nodes import attributes_of
from ._reprs import cut
from ._spelling import spelled
from ._stage import check_count, check_function
from .errors import ArgumentTypeError, got
from .models import NodeRecord, as_told, html_of

__all__ = ["Fold", "count", "stats", "top", "total"]


def __dir__() -> list[str]:
    return sorted(__all__)  # and not what is imported here


@dataclass(frozen=True, eq=False, repr=False)
class Fold:
    """How one value is made of many records, in any number of parts.

    >>> from lotproc import NodeRecord, rollup
    >>> from lotproc.folds import Fold
    >>> units = Fold(
    ...     lambda record: {record.attributes["unit"]},
    ...     lambda left, right: left | right,
    ...     sorted,
    ... )
    >>> found = {"a": "s", "b": "Hz", "c": "s"}
    >>> records = [NodeRecord((key,), key, {"unit": unit}) for key, unit in found.items()]
    >>> [result.output for result in rollup(units, records)]
    [['Hz', 's']]

    Args:
        lift: Makes an accumulator of a record.
        combine: Makes one accumulator of two, of which the left is that of earlier records, and changes neither. How
            they are bracketed must make no difference: `combine(combine(a, b), c)` is `combine(a, combine(b, c))`.
        finish: Makes the value of an accumulator.
        names: The attributes that `lift` looks at. If no record had one of them, `rollup` warns of it.

    It pickles when its functions do; accumulators travel from worker processes, so they must pickle too.
    """

    lift: Callable[[Any], Any]
    combine: Callable[[Any, Any], Any]
    finish: Callable[[Any], Any]
    names: tuple[str, ...] = ()
    #: The function of this module that made it, and with what.
    _call: tuple[Callable[..., Fold], tuple[Any, ...]] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_function("Fold", "lift", self.lift, "a function of a record")
        check_function("Fold", "combine", self.combine, "a function of two accumulators")
        check_function("Fold", "finish", self.finish, "a function of an accumulator")

    def __repr__(self) -> str:
        return cut(self.told)

    def _repr_html_(self) -> str:
        return html_of(self, "", [("fold", as_told(self.told)), ("names", self.names)])

    @property
    def told(self) -> str:
        """What it is in words, by which an accumulator knows it again."""
        if self._call is not None:
            function, args = self._call
            return f"{function.__name__}({', '.join(map(repr, args))})"
        # The same in every process, so that it tells whose an accumulator is.
        functions = (self.lift, self.combine, self.finish)
        return f"Fold({', '.join(getattr(part, '__qualname__', type(part).__qualname__) for part in functions)})"

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if isinstance(other, Fold) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Any, ...]:
        return self._call or (self.lift, self.combine, self.finish, self.names)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call or (Fold, (self.lift, self.combine, self.finish, self.names))


@spelled
def count() -> Fold:
    """Count the records.

    >>> from lotproc import NodeRecord, rollup
    >>> from lotproc.folds import count
    >>> records = [NodeRecord(("a",), "a"), NodeRecord(("b",), "b")]
    >>> [result.output for result in rollup(count(), records)]
    [2]

    Returns:
        A `Fold` whose value is an int.
    """
    return Fold(_one, operator.add, int, _call=(count, ()))


def _one(record: Any) -> int:
    return 1


# Exact sums: every finite float is a whole number of 2 ** -1074, so that a sum of them is one of whole numbers. These
# have no order and no rounding, and Python's own division rounds once, at the end.

_SCALE = 1074

#: The sum of the finite numbers, in units of 2 ** -_SCALE; whether one of them was a float; the sum of all others.
_Sum: TypeAlias = tuple[int, bool, float]
_NOTHING: _Sum = (0, False, 0.0)


@spelled
def total(name: str) -> Fold:
    """Add up an attribute, exactly, as `math.fsum` does.

    >>> from lotproc import NodeRecord, rollup
    >>> from lotproc.folds import total
    >>> seconds = {"a": 1e16, "b": 1.0, "c": -1e16}
    >>> records = [NodeRecord((key,), key, {"seconds": s}) for key, s in seconds.items()]
    >>> [result.output for result in rollup(total("seconds"), records)]
    [1.0]

    Args:
        name: The attribute.

    Returns:
        A `Fold` whose value is a float, rounded once, at the end, so that it is the same in every order; of ints alone
        an int, 0 of nothing. What is too large for a float is infinite.

    Raises:
        ArgumentTypeError: `name` is no str; in `rollup`, a value is no real number.
    """
    _check_name("total", name)
    return Fold(partial(_lifted_sum, name), _added, _finished_sum, (name,), _call=(total, (name,)))


def _lifted_sum(name: str, record: Any) -> _Sum:
    value = _number("total", name, record)
    return _NOTHING if value is None else _sum(value)


def _sum(value: int | float) -> _Sum:
    if type(value) is int:
        return value << _SCALE, False, 0.0
    try:
        numerator, denominator = value.as_integer_ratio()
    except (OverflowError, ValueError):  # it is infinite, or NaN
        return 0, True, value
    return numerator << (_SCALE + 1 - denominator.bit_length()), True, 0.0


def _added(left: _Sum, right: _Sum) -> _Sum:
    return left[0] + right[0], left[1] or right[1], left[2] + right[2]


def _finished_sum(accumulated: _Sum) -> int | float:
    scaled, has_float, special = accumulated
    if special != 0:
        return _one_nan(special)
    return _divided(scaled, 1 << _SCALE) if has_float else scaled >> _SCALE


def _divided(numerator: int, denominator: int) -> float:
    """The quotient as the nearest float, or infinity."""
    try:
        return numerator / denominator
    except OverflowError:
        return float("inf" if numerator > 0 else "-inf")


def _one_nan(value: float) -> float:
    """The same value; of a NaN always the same one, since they differ in bits that say where they come from."""
    return value if value == value else nan


@spelled
def stats(name: str) -> Fold:
    """Describe an attribute by count, sum, mean, standard deviation, least and largest value.

    >>> from lotproc import NodeRecord, rollup
    >>> from lotproc.folds import stats
    >>> seconds = {"a": 1.0, "b": 4.0, "c": None}
    >>> records = [NodeRecord((key,), key, {"seconds": s}) for key, s in seconds.items()]
    >>> [result.output for result in rollup(stats("seconds"), records)]
    [{'count': 2, 'sum': 5.0, 'mean': 2.5, 'std': 1.5, 'min': 1.0, 'max': 4.0}]

    Args:
        name: The attribute.

    Returns:
        A `Fold` whose value is a dict. Its "count" is that of the values that are not `None`; "sum" is what `total`
        gives; "mean" and "std", the standard deviation of a population (`ddof=0`), are exact and rounded once; "min"
        and "max" are of equal values the first. Where there is no value, count and sum are 0, the others `None`.

    Raises:
        ArgumentTypeError: `name` is no str; in `rollup`, a value is no real number.
    """
    _check_name("stats", name)
    return Fold(partial(_lifted_stats, name), _joined_stats, _finished_stats, (name,), _call=(stats, (name,)))


#: How many values there are, their sum, that of the squares of the finite ones in units of 2 ** -(2 * _SCALE), the
#: least and the largest.
_Stats: TypeAlias = tuple[int, _Sum, int, Any, Any]


def _lifted_stats(name: str, record: Any) -> _Stats:
    value = _number("stats", name, record)
    if value is None:
        return 0, _NOTHING, 0, None, None
    summed = _sum(value)
    return 1, summed, summed[0] * summed[0], value, value


def _joined_stats(left: _Stats, right: _Stats) -> _Stats:
    if not (left[0] and right[0]):
        return left if left[0] else right
    least, other_least, largest, other_largest = left[3], right[3], left[4], right[4]
    return (
        left[0] + right[0],
        _added(left[1], right[1]),
        left[2] + right[2],
        least if least <= other_least or least != least else other_least,
        largest if largest >= other_largest or largest != largest else other_largest,
    )


def _finished_stats(accumulated: _Stats) -> dict[str, Any]:
    number, summed, squares, least, largest = accumulated
    found = {"count": number, "sum": _finished_sum(summed), "mean": None, "std": None, "min": None, "max": None}
    if number:
        scaled, _, special = summed
        found["mean"] = _divided(scaled, number << _SCALE) if special == 0 else _one_nan(special)
        # the mean of the squares less the square of the mean
        found["std"] = _deviation(number * squares - scaled * scaled, number) if special == 0 else nan
        found["min"], found["max"] = _one_nan(least), _one_nan(largest)
    return found


def _deviation(square: int, number: int) -> float:
    """The root of a whole number, in units of 2 ** -_SCALE, by a number, rounded once."""
    # So many bits that a half between two floats, times the number, is a whole root. One bit more, which says that the
    # root has a fraction, is then as good as all its digits.
    bits = 2 * (number.bit_length() + 56)
    shift = max(0, bits - square.bit_length() + 1) // 2
    root = isqrt(square << 2 * shift)
    has_fraction = root * root != square << 2 * shift
    return _divided(2 * root + has_fraction, number << (_SCALE + shift + 1))


@spelled
def top(n: int, name: str) -> Fold:
    """Find the records with the largest values of an attribute.

    >>> from lotproc import NodeRecord, rollup
    >>> from lotproc.folds import top
    >>> seconds = {"a": 1.0, "b": 4.0, "c": 2.5}
    >>> records = [NodeRecord((key,), key, {"seconds": s}) for key, s in seconds.items()]
    >>> [result.output for result in rollup(top(2, "seconds"), records)]
    [[(4.0, ('b',)), (2.5, ('c',))]]

    Args:
        n: How many, at least 1.
        name: The attribute.

    Returns:
        A `Fold` whose value is a list of pairs of value and path, the largest first, a NaN before all others, equal
        values by path.

    Raises:
        ArgumentError: `n` is less than 1.
        ArgumentTypeError: An argument has the wrong type; in `rollup`, a value is no real number.
    """
    check_count("top", "n", n)
    _check_name("top", name)
    return Fold(partial(_lifted_top, name), partial(_joined_top, n), _finished_top, (name,), _call=(top, (n, name)))


#: What sorts as the values shall come, then the path, then the value.
_Top: TypeAlias = tuple[tuple[bool, "int | float", tuple[str, ...], "int | float"], ...]


def _lifted_top(name: str, record: Any) -> _Top:
    value = _number("top", name, record)
    if value is None:
        return ()
    # several NaNs count as equal, and stay in the order of their paths, in which they come
    return ((value == value, -value, path_of("top", record), value),)


def _joined_top(n: int, left: _Top, right: _Top) -> _Top:
    if not right or (len(left) == n and left[-1] <= right[0]):
        return left
    return tuple(sorted(left + right)[:n])


def _finished_top(accumulated: _Top) -> list[tuple[int | float, tuple[str, ...]]]:
    # Equal keys are one object, so that what is equal has the same pickle, and is not stored again.
    return [(_one_nan(value), tuple([intern(str(key)) for key in path])) for _, _, path, value in accumulated]


# Several


def together(folds: Mapping[str, Fold]) -> Fold:
    """Several folds as one, whose value is a dict."""
    parts = tuple(folds.values())
    lifts, combines = [part.lift for part in parts], [part.combine for part in parts]

    def lift(record: Any) -> tuple[Any, ...]:
        return tuple([lifted(record) for lifted in lifts])

    def combine(left: tuple[Any, ...], right: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple([combined(*pair) for combined, *pair in zip(combines, left, right, strict=True)])

    def finish(accumulated: tuple[Any, ...]) -> dict[str, Any]:
        return {name: part.finish(value) for (name, part), value in zip(folds.items(), accumulated, strict=True)}

    names = tuple(dict.fromkeys(chain.from_iterable(part.names for part in parts)))
    return Fold(lift, combine, finish, names)


# Values


def _check_name(fold: str, name: object) -> None:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"{fold}: the name of an attribute", expected="a str", got=got(name))


def _number(fold: str, name: str, record: Any) -> int | float | None:
    """An attribute as a number of Python, without loss."""
    attributes = record.attributes if type(record) is NodeRecord else attributes_of(fold, record)
    value = attributes.get(name)
    kind = type(value)
    if kind is float or kind is int or value is None:
        return value
    if isinstance(value, (int, np.bool_, np.integer)) and not isinstance(value, np.timedelta64):
        return int(value)
    if isinstance(value, (float, np.float16, np.float32)):
        return float(value)
    hint = None
    if isinstance(value, (str, bytes)):
        hint = "where() keeps the records that have a number"
    elif hasattr(value, "__float__"):
        hint = "make floats of the values where they are written, or before"
    raise ArgumentTypeError(
        f"{fold}: attribute {name!r}", path=path_of(fold, record), expected="a real number", got=got(value), hint=hint
    )
