"""From live nodes to detached records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Any, NamedTuple, TypeAlias, overload

from lotdb import BaseNode, BlobObject, DataObject
from ZODB.blob import Blob
from ZODB.POSException import StateLoadError

from ._detaching import ATOMS, detached
from ._items import no_item, node_path
from ._jar import costs_one
from ._missing import Missing, Sought
from ._nodes import CarriedPaths, find
from ._salvaging import salvaged_at
from ._stage import check_choice, check_on_error, root_hint, stage
from .derived import Below, BelowOption, Derived, checked_below
from .errors import (
    ArgumentError,
    ArgumentTypeError,
    DamagedDatabaseError,
    DetachError,
    add_note,
    as_text,
    brief,
    got,
)
from .models import Failure, NodeRecord, OnError, failure_at, in_its_place, node_record
from .payloads import PayloadHandle

__all__ = ["snapshot"]

Names: TypeAlias = "str | Iterable[str] | EllipsisType"

#: Attributes that a node has from the nearest node above it, if it has none itself.
Inherit: TypeAlias = "str | Iterable[str]"

NO_RESULTS: BelowOption = {}

#: Where a record's payload comes from: a function of the node, or the name of one of its data attributes.
Payload: TypeAlias = "str | Callable[[BaseNode], Any] | None"


@overload
def snapshot(
    names: Names,
    nodes: Iterable[BaseNode],
    *,
    inherit: Inherit = (),
    below: BelowOption = NO_RESULTS,
    payload: Payload = None,
    on_error: OnError = "raise",
    missing: Missing = "warn",
) -> Iterator[NodeRecord]: ...
@overload
def snapshot(
    names: Names,
    *,
    inherit: Inherit = (),
    below: BelowOption = NO_RESULTS,
    payload: Payload = None,
    on_error: OnError = "raise",
    missing: Missing = "warn",
) -> Callable[[Iterable[BaseNode]], Iterator[NodeRecord]]: ...
@stage("nodes")
def snapshot(
    names: Names,
    *,
    inherit: Inherit = (),
    below: BelowOption = NO_RESULTS,
    payload: Payload = None,
    on_error: OnError = "raise",
    missing: Missing = "warn",
) -> Callable[[Iterable[BaseNode]], Iterator[NodeRecord]]:
    """Turn live nodes into detached records, which are safe to send anywhere.

    >>> from lotdb import BaseNode
    >>> from lotproc import leaves, snapshot
    >>> root = BaseNode("root")
    >>> _ = root.gns(["ann", "1"]).set_attribute("duration", 1.2)
    >>> list(snapshot("duration", leaves(root)))
    [NodeRecord(path=('ann', '1'), key='1', attributes={'duration': 1.2}, payload=None)]

    >>> from lotdb import add_blob
    >>> _ = add_blob(root.gns(["ann", "1"]), data=b"RIFF", blob_attribute="audio")
    >>> [record.payload.read() for record in snapshot((), leaves(root), payload="audio")]
    [b'RIFF']

    Values are copied, so nothing that is done to a record reaches the tree. lotdb's `PathFileObj` becomes a
    `pathlib.Path`, data objects and blobs become a `PayloadHandle`, and persistent mappings, lists and BTrees become
    a dict, a list or a set. What one value shares inside of itself stays shared, also where it holds itself.

    A node that can't be read need not end it: with `on_error="collect"` it costs one `Failure`, which the stages behind
    hand on.

    >>> import threading
    >>> from lotproc import snapshot
    >>> _ = root.gns(["ann", "2"]).set_attribute("duration", threading.Lock())
    >>> for item in snapshot("duration", leaves(root), on_error="collect"):
    ...     attributes = item.attributes
    ...     print(item.path, attributes.get("duration"), attributes.get("error"))
    ('ann', '1') 1.2 None
    ('ann', '2') None DetachError

    Args:
        names: The attributes to take: one name, several, or `...` for all. An absent attribute is `None`, as in lotdb.
        nodes: Live nodes. A `Failure` among them is handed on.
        inherit: More attributes, each taken from the nearest node that has it: from the node itself on, up to the root
            of the tree. One that is there as `None` counts; where nobody has it, it is `None`.
        below: Results that were written for the node, by the names that they get: a write policy, which says where the
            result is, read from its attribute "result"; a policy with the name of another attribute; or a `Below`, to
            take one version only. `None` where there is none. Payloads are handles.
        payload: The name of a data attribute: a `PayloadHandle` to it becomes the record's `payload`, or `None` where
            it is absent. Or a function of the live node: a copy of what it returns.
        on_error: What becomes of a node that can't be read. "raise": the error comes out; "skip": the node is left
            out; "collect": a `Failure` takes its place; a function, called with the `Failure`: what it returns takes
            its place, unless that is `None`.
        missing: What becomes of a name that a node has not, nor any above it where it is inherited. "warn": a warning
            at the end of the nodes if none of them had it, which names the nearest name that there was; it may be
            misspelt. "error": an error at the first node that lacks one.

    Returns:
        An iterator of records, in the order of the nodes. Lazy; holds one record. It only reads; the connection has
        nothing to commit afterwards. For the connection's thread only; the records are free.

    Raises:
        ArgumentTypeError: `names` are no names, `payload` neither a name nor a function, or an item is no live node.
        ArgumentError: With `missing="error"`, a node lacks an attribute.
        DetachError: An attribute or a payload can't be taken out of the tree, or its class can't be imported; names its
            path, its name and the class.
        DamagedDatabaseError: The attributes of a node can't be read; names its path.
        Exception: Whatever `payload` raises, with a note that names the path.
    """
    taken = checked_taken("snapshot", names, inherit, payload)
    results = checked_below("snapshot", below, taken.named)
    check_on_error("snapshot", on_error)
    check_choice("snapshot", "missing", missing, ("warn", "error"))
    if not results:
        return lambda nodes: _records(nodes, taken, on_error, missing)
    return lambda nodes: _with_results(nodes, taken, results, on_error, missing)


class Taken(NamedTuple):
    """What is taken of each node.

    Args:
        names: The attributes, or `...` for all.
        inherit: More of them, which may be those of a node above it.
        payload: As `snapshot` takes it.
    """

    names: tuple[str, ...] | EllipsisType = ()
    inherit: tuple[str, ...] = ()
    payload: Payload = None

    @property
    def named(self) -> list[str]:
        """The names of attributes that records get, as far as they are known."""
        return [*(() if self.names is ... else self.names), *self.inherit]

    @property
    def asked_for(self) -> list[str]:
        """The names of attributes that nodes are asked for."""
        return [*self.named, *([self.payload] if isinstance(self.payload, str) else [])]


def _records(nodes: Iterable[BaseNode], taken: Taken, on_error: OnError, missing: Missing) -> Iterator[NodeRecord]:
    """`record_of` for each node, with what it calls written out: this is where reading a warm tree spends its time."""
    looking = Sought("snapshot", taken.asked_for, missing)
    wanted = looking.wanted
    names, inherit, payload = taken
    paths = CarriedPaths()
    node: Any = None
    path: tuple[str, ...] = ()
    for following in nodes:
        last, node = node, following
        try:
            if (
                type(node) is paths.kind
                and node._parent is paths.parent
                and paths.connection._needs_to_join
                and paths.connection.opened is paths.opened
                and paths.boundaries.count == paths.count
            ):
                path = (*paths.prefix, node._key)
            elif isinstance(node, BaseNode):
                path = paths.of(node, last, path)
            else:
                raise no_item("snapshot", node, "a live node")
            stored = node.attribute_storage
            handed_down = nearest("snapshot", node, inherit, path, looking) if inherit else _NONE
            if wanted:
                looking.look({*stored, *handed_down} if handed_down else stored, path)
            attributes = {}
            for name in stored.keys() if names is ... else names:
                value = stored[name] if name in stored else None  # noqa: SIM401, since a BTree takes longer for one `get`
                if type(value) not in ATOMS:
                    value = detached("snapshot", value, f"attribute {name!r}", path)
                attributes[name] = value
            if inherit:
                add_inherited("snapshot", attributes, inherit, handed_down)
            carried = None if payload is None else payload_of("snapshot", node, stored, payload, path)
            record: Any = node_record(path, path[-1] if path else node.key, attributes, carried)
        except ArgumentTypeError:
            if type(node) is not Failure:
                raise
            record, node = node, None
        except Exception as error:
            record = _despite(error, node, taken, on_error, looking)
            node = None  # whose path may not be known
        if record is not None:
            yield record
    looking.end()


def _with_results(
    nodes: Iterable[BaseNode], taken: Taken, below: Mapping[str, Below], on_error: OnError, missing: Missing
) -> Iterator[Any]:
    """The records of nodes, with what was written for them."""
    node: Any = None

    def remembered() -> Iterator[BaseNode]:
        nonlocal node
        for each in nodes:
            node = each
            yield node

    def attributes_at(
        paths: Sequence[tuple[str, ...]], tail: tuple[str, ...], names: frozenset[str], since: bytes | None = None
    ) -> tuple[list[Any], list[bool]]:
        top = node
        while top.parent is not None:
            top = top.parent
        found = [find(top, path + tail) for path in paths]
        return [None if each is None else each.attribute_storage for each in found], [False] * len(found)

    derived = Derived("snapshot", below, on_error=on_error)
    for record in _records(remembered(), taken, on_error, missing):
        yield from derived.of_one(record, attributes_at)
    derived.end()


def _despite(error: Exception, node: BaseNode, taken: Taken, on_error: OnError, looking: Sought) -> Any:
    """What there is in place of the record of a node at which an error came."""
    try:
        path = node_path(node)
    except Exception:  # of an unreadable node
        path = None
    if path is not None and isinstance(error, StateLoadError):
        try:
            return record_of("snapshot", node, taken, path, looking)
        except Exception as again:
            error = again
    if on_error == "raise" or not costs_one(error):
        raise error
    return in_its_place(on_error, failure_at(path, error, item="" if path is not None else got(node)))


def record_of(
    stage_name: str,
    node: BaseNode,
    taken: Taken,
    path: tuple[str, ...] | None = None,
    looking: Sought | None = None,
) -> NodeRecord:
    """The record of a live node; `path` where it is known already."""
    if path is None:
        path = node_path(node)
    payload = taken.payload
    handed_down = nearest(stage_name, node, taken.inherit, path, looking)

    def attributes_of(stored: Any) -> dict[str, Any]:
        if looking is not None and looking.wanted:
            looking.look({*stored, *handed_down} if handed_down else stored, path)
        names = stored.keys() if taken.names is ... else taken.names
        attributes = {name: detached(stage_name, stored.get(name), f"attribute {name!r}", path) for name in names}
        add_inherited(stage_name, attributes, taken.inherit, handed_down)
        return attributes

    stored: Any = node.attribute_storage
    try:
        if isinstance(payload, str):
            stored.get(payload)
        attributes = attributes_of(stored)
    except (StateLoadError, DamagedDatabaseError) as error:
        stored = salvaged_at(stage_name, stored, error, path)
        attributes = attributes_of(stored)
    carried = None if payload is None else payload_of(stage_name, node, stored, payload, path)
    return node_record(path, node.key, attributes, carried)


# --- What a node has from those above it ----------------------------------------------------------------------------

#: Attributes by name: each as the nearest node has it, with the path of that.
Inherited: TypeAlias = "Mapping[str, tuple[Any, tuple[str, ...]]]"
_NONE: Inherited = {}


def nearest(
    stage_name: str, node: BaseNode, names: Iterable[str], path: tuple[str, ...], looking: Sought | None = None
) -> Inherited:
    """Those of some attributes that a live node, or the nearest one above it, has."""
    found = {}
    for name in names:
        above: BaseNode | None = node
        owner = path
        while above is not None:
            stored = above.attribute_storage
            try:
                has, value = name in stored, stored.get(name)
            except (StateLoadError, DamagedDatabaseError) as error:
                stored = salvaged_at(stage_name, stored, error, owner)
                has, value = name in stored, stored.get(name)
            if has:
                found[name] = value, owner
                break
            if looking is not None and looking.wanted:
                looking.remember(stored)
            above, owner = above.parent, owner[:-1]
    return found


def add_inherited(stage_name: str, attributes: dict[str, Any], names: tuple[str, ...], found: Inherited) -> None:
    """Add what was found of these names, and `None` for the others; one that is there already is the node's own."""
    for name in names:
        if name not in attributes:
            value, owner = found.get(name, (None, ()))
            attributes[name] = detached(stage_name, value, f"attribute {name!r}", owner)


# --- Checks ---------------------------------------------------------------------------------------------------------


def checked_taken(stage_name: str, names: Names, inherit: Inherit, payload: Payload) -> Taken:
    """What is to be taken of each node, if it can be."""
    taken = Taken(
        checked_names(stage_name, names),
        _checked_names(stage_name, "inherit", inherit),
        payload,
    )
    twice = set(taken.inherit) & set(() if taken.names is ... else taken.names)
    if twice:
        raise ArgumentError(
            f"{stage_name}: {min(twice)!r} stands among the names and in inherit=",
            hint="take it out of the names: what the node has itself comes first anyway",
        )
    if payload is not None and not isinstance(payload, str) and not callable(payload):
        raise ArgumentTypeError(
            f"{stage_name}: payload", expected="the name of a data attribute or a function of a node", got=got(payload)
        )
    return taken


def checked_names(stage_name: str, names: Names) -> tuple[str, ...] | EllipsisType:
    """The names of attributes as a tuple; `...` stays as it is."""
    return names if names is ... else _checked_names(stage_name, "names", names)


def _checked_names(stage_name: str, argument: str, names: object) -> tuple[str, ...]:
    """The names of attributes as a tuple."""
    if isinstance(names, str):
        return (names,)
    if not isinstance(names, Iterable) or isinstance(names, bytes):
        expected = "a str, several, or ... for all" if argument == "names" else "a str or several"
        raise ArgumentTypeError(
            f"{stage_name}: {argument}", expected=expected, got=got(names), hint=root_hint(stage_name, names)
        )
    found = tuple(names)
    for name in found:
        if not isinstance(name, str):
            raise ArgumentTypeError(
                f"{stage_name}: the name of an attribute",
                expected="a str",
                got=f"{got(name)} in {brief(found)}",
                hint=f"the names come first: {stage_name}(names, ...)" if argument == "names" else None,
            )
    return found


def payload_of(
    stage_name: str, node: BaseNode, stored: Any, payload: str | Callable[[BaseNode], Any], path: tuple[str, ...]
) -> Any:
    """What a record carries as its payload: a handle to the attribute of that name, or what the function returns."""
    if isinstance(payload, str):
        return handle_of(stage_name, stored.get(payload), payload, path)
    try:
        value = payload(node)
    except Exception as error:
        add_note(error, f"lotproc: in the payload function of {stage_name}, at {as_text(path)}")
        raise
    return detached(stage_name, value, "the payload", path)


def handle_of(stage_name: str, value: Any, name: str, path: tuple[str, ...]) -> PayloadHandle | None:
    """The handle to what the data attribute `name` holds; None where the node has no such attribute."""
    if value is None:
        return None
    if isinstance(value, (DataObject, BlobObject, Blob)):
        try:
            return PayloadHandle.of(value)
        except TypeError as error:
            reason = str(error)
    else:
        reason = f"expected a DataObject, a BlobObject or a Blob, got {got(value)}"
    raise DetachError(
        f"{stage_name}: attribute {name!r}",
        f"can't be the payload: {reason}",
        path=path,
        hint="name another attribute, or take what you need with a function as payload=",
    )
