"""The other side of a join: a mapping, a store or a stream, asked for one path after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from lotdb import BaseNode

from ._items import no_item, path_of
from ._missing import REMEMBERED, Note, tell
from ._nodes import out_of_order
from ._stage import check_items
from .errors import ArgumentError, ArgumentTypeError, as_text, got
from .models import Failure, ProcessResult, written_attributes
from .stores.protocol import OUTPUT, Store, StoredRecord, as_attributes

__all__ = ["Attributes", "Other", "Side", "side_of"]

_Path: TypeAlias = "tuple[str, ...]"
Attributes: TypeAlias = "Mapping[str, Any]"
Other: TypeAlias = "Iterable[Any] | Store | Mapping[Any, Mapping[str, Any]]"

_SORT = (
    "LMDB and archives have orders of their own: give the store itself, or "
    "sorted(other, key=lambda record: record.path)"
)


class Side(Protocol):
    """The other side of a join."""

    #: Whether paths are asked for in their order only.
    in_order: bool

    def names(self) -> Iterable[str]:
        """The attributes that all records get."""

    def at(self, path: _Path) -> Attributes | Failure | None:
        """What is at a path; a `Failure` where that can't be told."""

    def end(self) -> None:
        """All records have come."""


def side_of(other: Any, *, reads: bool) -> Callable[[], Side]:
    """What opens the other side, once for each stream of records; what can't be one is refused here.

    Args:
        other: What was given.
        reads: Whether values are asked for, and not only whether something is there.
    """
    if isinstance(other, Store):
        return lambda: _Stored(other, reads)
    if isinstance(other, Mapping):
        entries = _entries(other)
        return lambda: _Mapped(entries)
    if isinstance(other, (str, bytes)) or hasattr(other, "columns"):
        raise ArgumentTypeError(
            "join: other",
            expected="records, a store or a mapping",
            got=got(other) if isinstance(other, (str, bytes)) else f"a {type(other).__qualname__}",
            hint="table_by_path(table, key=...) makes a mapping of a file or a table",
        )
    check_items("join", "other", other)
    return lambda: _Merged(other)


# --- A mapping ------------------------------------------------------------------------------------------------------


def _entries(mapping: Mapping[Any, Any]) -> dict[_Path, Attributes]:
    entries: dict[_Path, Attributes] = {}
    for key, attributes in mapping.items():
        path = (key,) if isinstance(key, str) else key
        if type(path) is not tuple or not all(isinstance(part, str) for part in path):
            raise ArgumentTypeError("join: a key of the mapping", expected="a path: a tuple of str", got=got(key))
        if path in entries:
            raise ArgumentError("join: the mapping", "has two entries", path=path, hint="as a str and as a tuple")
        if not isinstance(attributes, Mapping) or not all(isinstance(name, str) for name in attributes):
            raise ArgumentTypeError(
                "join: the value of the mapping", path=path, expected="a mapping of attributes", got=got(attributes)
            )
        entries[path] = attributes
    return entries


class _Mapped:
    """A mapping, in which each path is looked up."""

    in_order = False

    def __init__(self, entries: dict[_Path, Attributes]) -> None:
        self._entries = entries
        self._matched: set[_Path] = set()
        self._others: set[str] = set()  # paths of records that were no keys, to say which comes near to one
        self._depth = 0  # of the deepest of them

    def names(self) -> Iterable[str]:
        return dict.fromkeys(name for attributes in self._entries.values() for name in attributes)

    def at(self, path: _Path) -> Attributes | None:
        found = self._entries.get(path)
        if found is not None:
            self._matched.add(path)
        elif len(self._others) < REMEMBERED:
            self._others.add(as_text(path))
            self._depth = max(self._depth, len(path))
        return found

    def end(self) -> None:
        if self._matched or self._others:
            missing = self._entries.keys() - self._matched
            said = "no record was at these keys of the mapping:"
            longest = max(map(len, self._entries), default=0)
            if not self._matched and 0 < longest < self._depth:
                said = f"no record was at these keys, shorter than paths of records (on={longest} compares beginnings):"
            keys, others = frozenset(map(as_text, self._entries)), frozenset(self._others)
            tell(Note("join", keys, frozenset(map(as_text, missing)), others, said=said))


# --- A store --------------------------------------------------------------------------------------------------------


class _Stored:
    """A store, in which each path is looked up."""

    in_order = False

    def __init__(self, store: Store, reads: bool) -> None:
        self._store, self._reads = store, reads

    def names(self) -> Iterable[str]:
        records = self._store.records()
        try:
            first = next(records, None)
            return () if first is None else _read(first)
        finally:
            getattr(records, "close", bool)()  # it may keep a file open

    def at(self, path: _Path) -> Attributes | None:
        found = self._store.find(path)
        if found is None or not self._reads:
            return None if found is None else {}
        return _read(found)

    def end(self) -> None:
        """What is in a store and was not asked for is not told."""


def _read(record: StoredRecord) -> dict[str, Any]:
    return as_attributes("join", record.path, record.metadata, record.load(), OUTPUT)


# --- A stream -------------------------------------------------------------------------------------------------------


class _Merged:
    """A stream in the order of paths, which goes along with the records."""

    in_order = True

    def __init__(self, other: Iterable[Any]) -> None:
        self._source = iter(other)
        self._ahead: deque[tuple[_Path, Attributes | Failure]] = deque()  # what was pulled and not passed
        self._last: _Path | None = None  # the path of the last record that was pulled
        self._failed: tuple[_Path, Failure] | None = None  # what may stand for a branch that can't be read

    def names(self) -> Iterable[str]:
        while not self._ahead or type(self._ahead[-1][1]) is Failure:
            if not self._pull():
                return ()
        return tuple(self._ahead[-1][1])  # type: ignore[arg-type]

    def at(self, path: _Path) -> Attributes | Failure | None:
        while (self._ahead or self._pull()) and self._ahead[0][0] <= path:
            place, found = self._ahead.popleft()
            if type(found) is Failure:
                self._failed = place, found
            elif place == path:
                if not self._ahead:
                    self._pull()  # so that a second one is told of
                return found
        if self._failed is not None and path[: len(self._failed[0])] == self._failed[0]:
            return self._failed[1]
        return None

    def end(self) -> None:
        """What the records did not come to is left."""

    def _pull(self) -> bool:
        for item in self._source:
            if type(item) is Failure and item.path is not None:
                self._ahead.append((tuple(item.path), item))
                return True
            path, attributes = _entry(item)
            if self._last is not None and path <= self._last:
                if path == self._last:
                    raise ArgumentError("join: the other side's record", "comes twice", path=path)
                raise out_of_order("join: the other side's record", path, self._last, _SORT)
            self._last = path
            self._ahead.append((path, attributes))
            return True
        return False


def _entry(item: Any) -> tuple[_Path, Attributes]:
    if isinstance(item, ProcessResult):
        return (*item.path, *item.relative_path), written_attributes("join", item, OUTPUT)
    attributes = getattr(item, "attributes", None)
    if isinstance(item, BaseNode) or not isinstance(attributes, Mapping):
        raise no_item("join: in the other side", item, "a record or a result")
    return path_of("join", item), attributes
