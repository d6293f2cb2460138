"""Attributes of what has the same path elsewhere: in another stream, a store, a mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, TypeAlias, overload

from ._join_sides import Attributes, Other, Side, side_of
from ._nodes import out_of_order
from ._stage import check_choice, check_count, check_record, stage
from .errors import ArgumentError, ArgumentTypeError, got
from .models import Failure, NodeRecord, node_record

__all__ = ["join"]

_Path: TypeAlias = "tuple[str, ...]"
How: TypeAlias = Literal["left", "inner", "anti"]

_SORT = "sort them, or let join() look up in a mapping: {record.path: record.attributes for record in other}"


@overload
def join(
    other: Other,
    records: Iterable[NodeRecord | Failure],
    *,
    on: int | None = None,
    how: How = "left",
    prefix: str = "",
) -> Iterator[NodeRecord]: ...
@overload
def join(
    other: Other, *, on: int | None = None, how: How = "left", prefix: str = ""
) -> Callable[[Iterable[NodeRecord | Failure]], Iterator[NodeRecord]]: ...
@stage("records", stream="other")
def join(
    other: Other, *, on: int | None = None, how: How = "left", prefix: str = ""
) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """Add the attributes of what has the same path elsewhere: in another tree, a store, or a table.

    >>> from lotproc import NodeRecord, join
    >>> clips = [
    ...     NodeRecord(("ann", "1"), "1", {"f0": 210.0}),
    ...     NodeRecord(("bob", "1"), "1", {"f0": 120.0}),
    ... ]
    >>> speakers = {"ann": {"age": 31}, "bob": {"age": 47}}
    >>> for clip in join(speakers, clips, on=1):
    ...     print(clip.path, clip.attributes)
    ('ann', '1') {'f0': 210.0, 'age': 31}
    ('bob', '1') {'f0': 120.0, 'age': 47}

    A stream is read beside the records, in one pass over both. In a store and a mapping each path is looked up.

    All records get the same attributes: those of the first record of a stream or of a store, or all those in a mapping.
    Where it is an empty stream or store, they get none.

    Args:
        other: What is joined. An iterable of records in the order of paths, as `scan` and `snapshot` give them, or of
            results, which count as `write` would store them, their output as `result`; an iterator can be used once.
            Or a `Store`, whose records have the attributes that `records(..., store)` gives them, the value included.
            Or a mapping from paths to mappings of attributes, as `table_by_path` makes it; a str among its keys is a
            path of one key. It is used as it is when `join` is called.
        records: Records; in the order of paths where `other` is a stream.
        on: Take only so many of the first keys of a record's path, as `1` for a table of speakers beside their clips.
            `None`: the whole path. A path that is shorter is taken whole.
        how: "left": all records, with `None` for what has no match; "inner": only those that have one; "anti": only
            those that have none, as they are.
        prefix: What is put in front of the names of the other side.

    Returns:
        An iterator of records, in their order, which keep their payloads. Payloads of the other side are left out. A
        `Failure` among the records is handed on; one of the other side takes the place of the records that are, or
        whose match would be, at its path or below. Lazy; holds one record of each side. A stream of the other side is
        read as far as the records go, and closed with them. The keys of a mapping that were those of no record are told
        in one warning at the end, from all parts of a run over partitions together.

    Raises:
        ArgumentError: The name of an attribute is on both sides; records or a stream are not in the order of paths; a
            path comes twice on the other side; a stream or a store has attributes that its first record has not; an
            iterator is used twice; or a record has been through `pending(..., inputs=True)`, which did not know of
            what is added.
        ArgumentTypeError: `other` is none of these, a key of a mapping no path, or an option has the wrong type; or
            something came that is no record.
    """
    if on is not None:
        check_count("join", "on", on)
    check_choice("join", "how", how, ("left", "inner", "anti"))
    if not isinstance(prefix, str):
        raise ArgumentTypeError("join: prefix", expected="a str", got=got(prefix))
    opened = side_of(other, reads=how != "anti")
    return lambda records: _joined(opened(), records, on, how, prefix)


def _joined(side: Side, records: Iterable[Any], on: int | None, how: How, prefix: str) -> Iterator[Any]:
    absent: dict[str, None] | None = None
    added: dict[str, Any] = {}
    last: _Path | None = None
    found: Attributes | Failure | None = None
    for record in records:
        if type(record) is Failure:
            yield record
            continue
        check_record("join", record, "whose digest does not count what is joined")
        path = tuple(record.path)
        key = path if on is None else path[:on]
        if absent is None:
            absent = {} if how == "anti" else {prefix + name: None for name in side.names()}
        if not absent.keys().isdisjoint(record.attributes):
            raise _clash(path, absent.keys() & record.attributes.keys(), prefix)
        if key != last:
            if side.in_order and last is not None and key < last:
                raise out_of_order("join: the record", path, last, _SORT)
            last, found = key, side.at(key)
            if how != "anti" and found is not None and type(found) is not Failure:
                added = _named_alike(key, absent, {prefix + name: value for name, value in found.items()})  # type: ignore[union-attr]
        if type(found) is Failure:
            yield _at(path, found)
        elif how == "anti":
            if found is None:
                yield record
        elif found is not None or how == "left":
            yield _with(record, path, absent if found is None else added)
    side.end()


def _named_alike(path: _Path, absent: dict[str, None], found: dict[str, Any]) -> dict[str, Any]:
    """What is added to a record: the same names for all, so that a table of the records has whole columns."""
    if others := found.keys() - absent.keys():
        raise ArgumentError(
            "join: the other side's record",
            "has attributes that its first one has not",
            path=path,
            got=", ".join(map(repr, sorted(others))),
            hint="take attributes by their names, as in scan(['f0', 'unit'], ...) and records(['f0', 'unit'], ...)",
        )
    return {**absent, **found}


def _clash(path: _Path, names: Iterable[str], prefix: str) -> ArgumentError:
    return ArgumentError(
        "join: the record",
        f"has what would be added: {', '.join(map(repr, sorted(names)))}",
        path=path,
        hint=f"give {'another' if prefix else 'a'} prefix=, as in join(..., prefix='other_')",
    )


def _with(record: NodeRecord, path: _Path, added: Attributes) -> NodeRecord:
    attributes = {**record.attributes, **added}
    if type(record) is NodeRecord:
        return node_record(path, record.key, attributes, record.payload)
    return replace(record, attributes=attributes)


def _at(path: _Path, failure: Failure) -> Failure:
    """A failure of the other side, as that of a record."""
    if failure.path == path:
        return failure
    return replace(failure, path=path, message=f"what is joined, at {failure.where}: {failure.message}")
