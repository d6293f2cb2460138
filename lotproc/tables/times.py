"""Times of numpy and pandas in tables: Python's where these say the same, and else as they are, to the last digit."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["common_unit", "kind_of_time", "plain_time", "plain_times"]

#: The units in which Arrow and pandas hold times, those that they take for Python's first.
UNITS = ("us", "ns", "ms")


def plain_times(times: Any) -> Any:
    """An array of times, or a single one of numpy's, as nested lists of Python's; of numpy's where one is too long.

    >>> plain_times(np.array(["2020-01-01T00:00:00.5"], "M8[ns]"))
    [datetime.datetime(2020, 1, 1, 0, 0, 0, 500000)]
    >>> plain_times(np.array(["2020-01-01", "20000-01-01"], "M8[D]"))
    [np.datetime64('2020-01-01'), np.datetime64('20000-01-01')]
    """
    if isinstance(times, np.ma.MaskedArray):
        times = np.where(np.ma.getmaskarray(times), np.array("NaT", times.dtype), times.data)
    kind = times.dtype.kind
    is_fine = np.datetime_data(times.dtype)[0] in ("ns", "ps", "fs", "as")
    cut = times.astype(f"{kind}8[us]") if is_fine else times  # of what is finer numpy makes bare ints
    plain = cut.tolist()
    if not np.all((cut.astype(times.dtype) == times) | np.isnat(times)) or _has_ints(plain):
        return _as_numpy_has_them(times)
    return plain


def _has_ints(plain: Any) -> bool:
    return any(map(_has_ints, plain)) if isinstance(plain, list) else isinstance(plain, int)


def _as_numpy_has_them(times: Any) -> Any:
    if isinstance(times, np.ndarray) and times.ndim:
        return list(map(_as_numpy_has_them, times))
    return None if np.isnat(times) else times[()]


def plain_time(time: Any) -> Any:
    """A time of a subclass of Python's, as pandas has them: numpy's where it says more than Python's can."""
    if time != time:
        return None
    convert = getattr(time, "to_datetime64", None) or getattr(time, "to_timedelta64", None)
    if convert is None or getattr(time, "tzinfo", None) is not None:
        return time
    plain = plain_times(convert())
    return plain if isinstance(plain, np.generic) else time


def kind_of_time(time: np.datetime64 | np.timedelta64) -> str:
    """What Python would call it."""
    if isinstance(time, np.timedelta64):
        return "timedelta"
    return "date" if np.datetime_data(time.dtype)[0] in ("Y", "M", "W", "D") else "datetime"


def common_unit(times: Iterable[Any]) -> str | None:
    """The unit in which numpy holds each of some times exactly, which are all of one kind, numpy's or Python's.

    >>> common_unit([dt.datetime(2020, 1, 1), np.datetime64(1, "ns")])
    'ns'
    """
    given = list(map(_as_numpy, times))
    if any(time is None for time in given):
        return None
    if any(isinstance(time, np.datetime64) and kind_of_time(time) == "date" for time in given):
        return "D" if all(_fits(time, "D") for time in given) else None
    return next((unit for unit in UNITS if all(_fits(time, unit) for time in given)), None)


def _as_numpy(time: Any) -> Any:
    if isinstance(time, dt.timedelta):
        span = np.timedelta64(time)
        return span if span.tolist() == time else None  # numpy cuts those of 292,000 years and more
    return time if isinstance(time, np.generic) else np.datetime64(time)


def _fits(time: Any, unit: str) -> bool:
    if time.dtype.kind == "m" and np.datetime_data(time.dtype)[0] in ("Y", "M", "generic"):
        return False  # they have no length in days
    try:
        return bool(time.astype(f"{time.dtype.kind}8[{unit}]").astype(time.dtype) == time)
    except OverflowError:
        return False
