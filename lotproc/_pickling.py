"""Pickles that take no tree along; and those that take functions along, for processes that could not import them."""

from __future__ import annotations

import pickle
import sys
from collections import ChainMap
from collections.abc import Callable
from contextlib import suppress
from functools import cache, lru_cache
from io import BytesIO
from operator import attrgetter
from types import CodeType
from typing import Any, ClassVar

import cloudpickle
from cloudpickle.cloudpickle import list_registry_pickle_by_value

from ._fast import FAST
from .errors import LiveNodeError
from .models import NodeRecord, ProcessResult

__all__ = ["VALUES", "by_value", "dumps_detached"]

#: What there are thousands of in a pickle, and is no such thing itself.
VALUES = {NodeRecord, ProcessResult}


def _loaded(module: str, *names: str) -> tuple[type, ...]:
    """Classes, if their module is loaded: a worker starts without it, and has no instances of them then."""
    found = sys.modules.get(module)
    return tuple(getattr(found, name) for name in names if hasattr(found, name))


def _live() -> tuple[type, ...]:
    """What belongs to a database."""
    databases = (*_loaded("lotdb", "LOTDB"), *_loaded("ZODB.DB", "DB"), *_loaded("ZODB.Connection", "Connection"))
    return *_loaded("persistent", "Persistent"), *databases


def _refuse_live(value: object) -> None:
    """Stop where a pickle would take a whole tree along."""
    if isinstance(value, _loaded("persistent", "Persistent")):
        raise LiveNodeError(f"it holds a persistent {type(value).__qualname__} inside")
    if isinstance(value, _live()):
        raise LiveNodeError(f"it holds an open database inside, a {type(value).__qualname__}")


def dumps_detached(value: Any, *, protocol: int = 5, pickler: Any = pickle.Pickler, out_of_band: Any = None) -> bytes:
    """The pickle of a value, if nothing in it belongs to a database; buffers may be left out, as those of `pickle`."""
    buffer = BytesIO()
    _guarded(pickler, _live())(buffer, protocol=protocol, buffer_callback=out_of_band).dump(value)
    return buffer.getvalue()


@cache
def by_value() -> Any:
    """cloudpickle's pickler, which takes functions along, with the names of their files: tracebacks show lines by them.

    From its version 3.1 on cloudpickle leaves these out.
    """
    reduced = cloudpickle.Pickler.dispatch_table[CodeType]

    def with_file(code: CodeType) -> Any:
        make, parts = reduced(code)
        return make, tuple(code.co_filename if part == "<dynamic-code>" else part for part in parts)

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table: ClassVar[Any] = ChainMap(
            {CodeType: with_file, _CACHED: _reduced_cached}, cloudpickle.Pickler.dispatch_table
        )

    return Pickler


_CACHED = type(lru_cache(len))


def _reduced_cached(fn: Any) -> Any:
    """What `lru_cache` has made of a function: by its name; else, where cloudpickle fails, it is made anew, empty."""
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    sent = ["__main__", *list_registry_pickle_by_value()]
    if not any(f"{module}.".startswith(f"{one}.") for one in sent):
        with suppress(AttributeError):
            if attrgetter(name)(sys.modules.get(str(module))) is fn:
                return name
    return _cached, (fn.__wrapped__, fn.cache_parameters())


def _cached(fn: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return lru_cache(**parameters)(fn)


@cache
def _guarded(pickler: type, live: tuple[type, ...]) -> Any:
    """A pickler of the same kind that refuses what belongs to a database.

    `persistent_id` is asked of every str and number, too; `reducer_override` of all but these and plain containers. A
    batch of records is packed in a seventh of the time.
    """
    if not FAST:
        return type(pickler.__name__, (pickler,), {"persistent_id": staticmethod(_refuse_live)})
    theirs = getattr(pickler, "reducer_override", None)

    def reducer_override(self: Any, value: Any) -> Any:
        if type(value) in VALUES:
            return value.__reduce_ex__(4)  # without a look into the tables of what is pickled in another way
        if isinstance(value, live):
            _refuse_live(value)
        return NotImplemented if theirs is None else theirs(self, value)

    return type(pickler.__name__, (pickler,), {"reducer_override": reducer_override})
