"""Planned writes into a store: what `_applying` does to trees."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

from .._interrupts import uninterrupted
from .._stage import check_count
from .._stamps import STAMPS, VERSION
from ..errors import ArgumentError
from ..models import Write
from ..stores.protocol import OUTPUT, Item, Store, StoredRecord, Writer, as_attributes, as_item
from .ledger import Ledger
from .payload_copies import with_copies
from .tally import IfExists, IfMissing, Planned, Tally, note_batch, tell, told_on_failure
from .transactions import already_there, not_there

__all__ = ["Shelf", "apply_to_store", "check_store", "put_batches"]

T = TypeVar("T")


class Shelf(NamedTuple):
    """A store to be written to, and how.

    Args:
        store: The store.
        if_exists: What to do about what is there.
        output: The name of the attribute that is the value, where others are metadata.
        version: What is skipped has this version; `None`: any.
        if_missing: What to do where nothing is there.
    """

    store: Store
    if_exists: IfExists
    output: str = OUTPUT
    version: str | None = None
    if_missing: IfMissing = "make"


def check_store(name: str, store: Store, commit_every: int | None, arrays: str) -> None:
    """Refuse options that a store has no use for."""
    if commit_every is not None:
        check_count(name, "commit_every", commit_every)
    if arrays != "inline":
        raise ArgumentError(f'{name}: arrays="{arrays}" is for trees; {store!r} takes arrays as they are')


def apply_to_store(
    to: Shelf, batches: Iterable[Planned], commit_every: int | None, tally: Tally, ledger: Ledger | None
) -> None:
    """Put batch by batch, and commit where that is due; a failure takes the tally back to the last commit."""

    def items(writer: Writer, batch: Planned) -> list[Item]:
        note_batch(batch, tally, ledger)
        return _items(to, writer, batch.writes, tally)

    put_batches(to.store, batches, items, commit_every, tally, ledger)


def put_batches(
    store: Store,
    batches: Iterable[T],
    items_of: Callable[[Writer, T], list[Item]],
    commit_every: int | None,
    tally: Tally,
    ledger: Ledger | None = None,
) -> None:
    """Put what is made of each batch, by a function that counts what it makes."""
    every = commit_every or store.commits_every
    with told_on_failure(tally, ledger, repr(store)), store.writing() as writer:
        span = _Span(writer, tally, ledger)
        for batch in batches:
            start = perf_counter()
            writer.put(items_of(writer, batch))
            if every is not None and span.new >= every:
                span.commit()
                span = _Span(writer, tally, ledger)
            tally.writing += perf_counter() - start
        if span.new or (ledger is not None and ledger.has_recovered):
            start = perf_counter()
            span.commit()
            tally.writing += perf_counter() - start


class _Span:
    """The batches from one commit to the next."""

    def __init__(self, writer: Writer, tally: Tally, ledger: Ledger | None) -> None:
        self._writer, self._tally, self._ledger = writer, tally, ledger
        self._mark, self._failed, self._start = tally.mark(), tally.failed, perf_counter()

    @property
    def new(self) -> int:
        """The results that a commit would store."""
        return self._tally.written - self._mark.written

    def commit(self) -> None:
        with uninterrupted():
            self._writer.commit()
            self._tally.commit()
            if self._ledger is not None:
                tell(self._ledger, self._tally, self._mark, self._failed, perf_counter() - self._start)


def _items(to: Shelf, writer: Writer, writes: Iterable[Write], tally: Tally) -> list[Item]:
    """What is to be put for the writes of a batch: the last word on each path."""
    coming: dict[Any, dict[str, Any]] = {}
    for planned in writes:
        there = coming.get(planned.path)
        if there is None and (to.if_exists != "replace" or to.if_missing == "error"):
            found = writer.find(planned.path)
            if found is None and to.if_missing == "error":
                raise not_there("write", planned.path, None)
            if to.if_exists != "replace":
                there = None if found is None else _attributes(found, planned, to.output)
        if there is None or to.if_exists == "replace":
            attributes = dict(with_copies(planned.path, planned.attributes, to.store.codec))
        elif to.if_exists == "skip" and to.version in (None, there.get(VERSION)):
            tally.skipped += 1
            continue
        elif to.if_exists == "error":
            raise already_there("write", planned.path)
        else:  # stamps that are left would say that this result is another one
            attributes = {name: value for name, value in there.items() if name not in STAMPS}
            attributes.update(with_copies(planned.path, planned.attributes, to.store.codec))
        coming[planned.path] = attributes
        tally.written += 1
        tally.last_path = planned.path
    return [as_item("write", to.store, path, attributes, to.output) for path, attributes in coming.items()]


def _attributes(found: StoredRecord, coming: Write, output: str) -> dict[str, Any]:
    """The attributes of what is there; a value that is to be replaced anyway is not read."""
    if found.metadata is not None and output in coming.attributes:
        return dict(found.metadata)
    return as_attributes("write", coming.path, found.metadata, found.load(), output)
