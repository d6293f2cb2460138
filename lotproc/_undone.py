"""Which items have their result already, many at once: what `pending` and `status` ask of a tree or a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from lotdb import BaseNode

from ._items import no_item, node_path, path_of
from ._jar import at_path
from ._nodes import CarriedPaths, connection_of, has_changes
from ._stage import check_open
from ._stamps import INPUTS, STAMPS, inputs_stamp
from .errors import ArgumentError, ArgumentTypeError, DamagedDatabaseError, OutOfViewError, as_text, got
from .models import NodeRecord, Place
from .scanning import pinned_storage
from .stores.lookup import StoreLookup
from .stores.protocol import Store
from .write_policies import Policy, targets_of
from .zodb.lookup import LiveLookup, Lookup, RecordLookup, root_of
from .zodb.places import opened_place
from .zodb.stamped import has_stamps

__all__ = ["Results", "check_results", "lookup_of", "with_inputs"]

_Path: TypeAlias = "tuple[str, ...]"


def check_results(name: str, version: str | None, inputs: bool) -> None:
    """Refuse what does not say which results are meant."""
    if version is not None and not isinstance(version, str):
        raise ArgumentTypeError(f"{name}: version", expected="a str or None", got=got(version))
    if version == "":
        raise ArgumentError(f"{name}: version must not be empty", hint="leave it out where any version will do")
    if not isinstance(inputs, bool):
        raise ArgumentTypeError(f"{name}: inputs", expected="True or False", got=got(inputs))


def lookup_of(name: str, root: BaseNode | Place | Store, policy: Policy) -> Lookup:
    """What looks for the results of a policy in a store, below a root, or below the top of its tree."""
    at_top = bool(getattr(policy, "starts_at_top", False))
    if isinstance(root, Store):
        return StoreLookup(root)
    if isinstance(root, Place):
        storage = opened_place(name, root, now=True)
        return RecordLookup(storage, root_of(storage, root.root) if at_top else root.root)
    check_open(name, root)
    connection = connection_of(root)
    is_saved = connection is not None and root._p_oid is not None and not has_changes(connection)
    while at_top and root.parent is not None:
        root = root.parent  # which may lie in another database than what is below it
    return RecordLookup(pinned_storage(name, root, "error"), root._p_oid) if is_saved else LiveLookup(root)


class Results:
    """Tells of windows of items which of them have their results.

    Args:
        name: The stage, for errors.
        policy: Where the results are.
        lookup: What looks there.
        version: What made them; `None` for anything.
        inputs: Whether they must be made from the items' attributes as they are now.
    """

    def __init__(self, name: str, policy: Policy, lookup: Lookup, version: str | None, inputs: bool) -> None:
        self._name, self._policy, self._lookup = name, policy, lookup
        self._version, self._inputs = version, inputs
        self._carried = CarriedPaths()
        self._last: tuple[BaseNode | None, _Path] = (None, ())

    def of_one(self, item: Any, of_many: Callable[[list[Any]], list[Any]]) -> list[Any]:
        """What a function of many items gives for one, whose path stands in an error that can't tell it."""
        self._last = None, ()  # it may be something else than what follows in a walk
        try:
            return of_many([item])
        except (DamagedDatabaseError, OutOfViewError) as error:
            failed = at_path(self._name, path_of(self._name, item), error)
        raise failed

    def there(self, items: list[Any], paths: list[_Path]) -> tuple[list[bool], list[str] | None]:
        """Whether each has its result, and the stamps of the items' attributes where these count."""
        stamps = None
        if self._inputs:
            stamps = [inputs_stamp(self._name, path, item.attributes) for item, path in zip(items, paths, strict=True)]
        targets, tail = targets_of(self._policy, paths)
        return self._lookup.are_there(targets, tail, self._version, stamps), stamps

    def reasons(self, paths: list[_Path]) -> list[str]:
        """Why these, which have no result as it must be, have none: "new", "other_version" and so on."""
        targets, tail = targets_of(self._policy, paths)
        found, _ = self._lookup.attributes_at(targets, tail, frozenset(STAMPS))
        return [self._reason(attributes) for attributes in found]

    def _reason(self, attributes: Any) -> str:
        if attributes is None or not (self._version or self._inputs):  # a way to other results may be there
            return "new"
        if not has_stamps(attributes, self._version, None):
            return "other_version"
        return "other_inputs" if isinstance(attributes.get(INPUTS), str) else "unstamped"

    def paths(self, items: list[Any]) -> list[_Path]:
        """The paths of items."""
        if set(map(type, items)) <= _RECORDS:
            paths = [item.path for item in items]
            return paths if set(map(type, paths)) <= _TUPLES else [path_of(self._name, item) for item in items]
        paths = []
        last, path = self._last
        for item in items:
            if self._inputs and not isinstance(item, NodeRecord):
                raise _no_record(self._name, item)
            if isinstance(item, BaseNode):
                path = self._carried.of(item, last, path)
                last = item
            else:
                path = path_of(self._name, item)
                last = None
            paths.append(path)
        self._last = last, path
        return paths


_RECORDS, _TUPLES = frozenset({NodeRecord}), frozenset({tuple})


def with_inputs(record: NodeRecord, stamp: str) -> NodeRecord:
    """A record that knows the stamp of its attributes."""
    if type(record) is not NodeRecord:
        return replace(record, inputs=stamp)
    copy = object.__new__(NodeRecord)  # for speed, as in `node_record`
    copy.__dict__.update(record.__dict__, inputs=stamp)
    return copy


def _no_record(name: str, item: object) -> ArgumentTypeError:
    if isinstance(item, BaseNode):
        return ArgumentTypeError(
            f"{name}: with inputs=True it needs records, and got the live node {as_text(node_path(item))}, "
            "which does not say what is taken of it",
            hint="put snapshot(...) in front",
        )
    return no_item(name, item, "a NodeRecord, as inputs=True needs it")
