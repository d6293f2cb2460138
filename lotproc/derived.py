"""What was written for a record under a write policy, read back beside its own attributes: `below=`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ZODB.POSException import StateLoadError

from ._detaching import detached
from ._jar import costs_one
from ._missing import Note, Sought, tell
from ._public import public
from ._reprs import bounded_repr
from ._salvaging import salvaged_at
from ._spelling import spelled_class
from ._stamps import VERSION
from ._windows import in_windows
from .errors import ArgumentError, ArgumentTypeError, DamagedDatabaseError, got
from .models import NodeRecord, OnError, failure_at, html_of_fields, in_its_place, node_record
from .write_policies import Policy, policy_text, targets_of

__all__ = ["AttributesAt", "Below", "BelowOption", "Derived", "checked_below"]

_Path: TypeAlias = "tuple[str, ...]"


@public
@spelled_class
@dataclass(frozen=True)
class Below:
    """What `below=` reads of a result: which attribute, and whether any version will do.

    >>> from lotproc import Below, inline
    >>> Below(inline("_proc", "f0"), "mean", version="f0-2").name
    'mean'

    Args:
        policy: The write policy of the results: it says where the one of a record is, from the root of the whole tree.
        name: The attribute of that node.
        version: What its attribute `_version` has to be, so that nothing stale is read; `None` for anything.
    """

    policy: Policy
    name: str = "result"
    version: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.policy):
            expected = "a policy like inline(...), one with the name of an attribute, or a Below"
            raise ArgumentTypeError("below: the policy of results", expected=expected, got=got(self.policy))
        if not isinstance(self.name, str):
            raise ArgumentTypeError("below: the name of an attribute", expected="a str", got=got(self.name))
        if self.version is not None and not isinstance(self.version, str):
            raise ArgumentTypeError("below: version", expected="a str or None", got=got(self.version))
        if self.version == "":
            raise ArgumentError("below: version must not be empty", hint="leave it out where any version will do")

    __repr__ = bounded_repr
    _repr_html_ = html_of_fields


#: What `below` takes for each name: a policy, one with the name of an attribute, or a `Below`.
BelowOption: TypeAlias = "Mapping[str, Policy | tuple[Policy, str] | Below]"


def checked_below(stage_name: str, below: BelowOption, others: Collection[str]) -> dict[str, Below]:
    """What is to be read of results, by the names that it gets; refused if one stands among other names."""
    if not isinstance(below, Mapping):
        hint = f'{stage_name}(..., below={{"f0": inline("_proc", "f0")}})'
        raise ArgumentTypeError(f"{stage_name}: below", expected="a mapping from names", got=got(below), hint=hint)
    checked = {}
    for name, value in below.items():
        if isinstance(value, tuple) and len(value) == 2:
            value = Below(*value)
        elif not isinstance(value, Below):
            value = Below(value)
        if not isinstance(name, str):
            raise ArgumentTypeError(f"{stage_name}: the name of an attribute in below", expected="a str", got=got(name))
        if name in others:
            raise ArgumentError(
                f"{stage_name}: {name!r} stands among the names or in inherit=, and in below=",
                hint="give what is read below another name",
            )
        checked[name] = value
    return checked


class AttributesAt(Protocol):
    """Finds the attributes of the nodes at some paths, each with a tail behind it."""

    def __call__(
        self, paths: Sequence[_Path], tail: _Path, names: frozenset[str], since: bytes | None = None, /
    ) -> tuple[list[Any], list[bool]]:
        """Something with a `get` for those with these names; `None` where no node is. And which are new since then."""


class Derived:
    """Adds to records what was written for them.

    Args:
        stage: The stage, for errors and warnings.
        below: What to read, by the names that it gets.
        tests: Tests of what was read; records that do not pass them are left out.
        on_error: What becomes of a record of which something can't be read.
        is_part: Whether the stream is only a part of one.
        since: Records of which nothing is new are `Unchanged`, and left out unless a result of theirs was stored by
            this transaction or later.
    """

    def __init__(
        self,
        stage: str,
        below: Mapping[str, Below],
        tests: Sequence[Callable[[Any], bool]] = (),
        on_error: OnError = "raise",
        *,
        is_part: bool = False,
        since: bytes | None = None,
    ) -> None:
        self._since = since
        self._stage, self._below, self._tests, self._on_error = stage, below, tests, on_error
        self._sought = {name: Sought(stage, [each.name], is_part=is_part) for name, each in below.items()}
        #: What is read of the results of each policy: all at once, where several names are of one.
        self._names: dict[int, set[str]] = {}
        for each in below.values():
            self._names.setdefault(id(each.policy), {VERSION}).add(each.name)
        self._unmet = dict.fromkeys(below)  # those of which no record had a result so far
        self._had_records, self._is_part = False, is_part

    def added(self, records: Iterator[Any], attributes_at: AttributesAt) -> Iterator[Any]:
        """The records with what was written for them, in windows; what is no record is handed on."""
        yield from in_windows(
            records,
            lambda window: self.of_many(window, attributes_at),
            lambda record: self.of_one(record, attributes_at),
        )
        self.end()

    def end(self) -> None:
        """The stream was read to its end: tell of attributes that no result had, and of policies that found none."""
        for name, sought in self._sought.items():
            sought.end()
            if self._had_records:
                each = self._below[name]
                version = "" if each.version is None else f", version={each.version!r}"
                what = frozenset([f"{name}={policy_text(each.policy)}{version}"])
                unmet = what if name in self._unmet else frozenset()
                tell(Note(self._stage, what, unmet, frozenset(), self._is_part, "no record had a result under"))

    @property
    def names(self) -> list[str]:
        """The names that records get, in their order."""
        return list(self._below)

    @property
    def policies(self) -> list[tuple[Policy, dict[str, str]]]:
        """The policies of the results, each with the names that are given, and what attributes they stand for."""
        found: dict[int, tuple[Policy, dict[str, str]]] = {}
        for name, each in self._below.items():
            found.setdefault(id(each.policy), (each.policy, {}))[1][name] = each.name
        return list(found.values())

    def note(self, names: Iterable[str], *, is_there: bool, layouts: Iterable[Collection[str]]) -> None:
        """Note of results that were read elsewhere: if there were any, and lists of the attributes that they had."""
        self._had_records = True
        for name in names:
            if is_there:
                self._unmet.pop(name, None)
            for layout in layouts:
                if self._sought[name].wanted:
                    self._sought[name].look(layout, ())

    def of_many(self, window: list[Any], attributes_at: AttributesAt) -> list[Any]:
        """A window of records, each with what was written for it."""
        records = [item for item in window if isinstance(item, NodeRecord)]
        are_new = [type(record) is NodeRecord for record in records]
        paths = [record.path for record in records]
        more: list[dict[str, Any]] = [dict(record.attributes) for record in records]
        looked: dict[int, tuple[list[_Path], _Path, list[Any]]] = {}
        for name, each in self._below.items():
            policy = id(each.policy)
            if policy not in looked:
                targets, tail = targets_of(each.policy, paths)
                found, news = attributes_at(targets, tail, frozenset(self._names[policy]), self._since)
                are_new = [is_new or is_news for is_new, is_news in zip(are_new, news, strict=True)]
                looked[policy] = targets, tail, found
            targets, tail, found = looked[policy]
            self._had_records = self._had_records or bool(records)
            for attributes, stored, target in zip(more, found, targets, strict=True):
                attributes[name] = None if stored is None else self._value(name, each, stored, target + tail)
        made = iter(
            node_record(old.path, old.key, attributes, old.payload) if is_new else None
            for old, attributes, is_new in zip(records, more, are_new, strict=True)
        )
        given = [next(made) if isinstance(item, NodeRecord) else item for item in window]
        return [item for item in given if item is not None and (type(item) is not NodeRecord or self._passes(item))]

    def _passes(self, record: NodeRecord) -> bool:
        return all(test(record) for test in self._tests)

    def of_one(self, record: Any, attributes_at: AttributesAt) -> list[Any]:
        """The same of one record; what takes its place where something of it can't be read."""
        try:
            return self.of_many([record], attributes_at)
        except Exception as error:
            if self._on_error == "raise" or not costs_one(error):
                raise
            instead = in_its_place(self._on_error, failure_at(record.path, error))
            return [] if instead is None else [instead]

    def _value(self, name: str, each: Below, stored: Any, path: _Path) -> Any:
        try:
            value, version = stored.get(each.name), stored.get(VERSION)
        except (StateLoadError, DamagedDatabaseError) as error:
            stored = salvaged_at(self._stage, stored, error, path)
            value, version = stored.get(each.name), stored.get(VERSION)
        if each.version is not None and not (isinstance(version, str) and version == each.version):
            return None
        self._unmet.pop(name, None)
        sought = self._sought[name]
        if sought.wanted:
            sought.look(stored.keys(), path)
        return detached(self._stage, value, f"attribute {each.name!r}", path)
