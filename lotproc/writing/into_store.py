"""Planned writes into a store: merged with what is there, put batch by batch, and committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from .._interrupts import uninterrupted
from .._stage import check_count
from .._stamps import VERSION
from ..errors import ArgumentError
from ..models import Write
from ..stores.protocol import Item, Store, StoredRecord, Writer, as_attributes, as_item
from .handles import Flat, with_copies
from .options import Options, merged
from .progress import Done, Progress

__all__ = ["check_store", "opened_store", "planned_items"]

T = TypeVar("T")
Path: TypeAlias = "tuple[str, ...]"


def check_store(options: Options, store: Store) -> None:
    """Refuse options that a store has no use for."""
    if options.commit_every is not None:
        check_count(options.name, "commit_every", options.commit_every)
    if options.arrays != "inline":
        raise ArgumentError(
            f'{options.name}: arrays="{options.arrays}" is for trees', hint=f"{store!r} takes arrays as they are"
        )


class _StoreTarget(Generic[T]):
    """A store, and a function that gives what is to be put for a batch, and counts it."""

    def __init__(
        self, writer: Writer, items_of: Callable[[Writer, T], list[Item]], every: int | None, progress: Progress
    ) -> None:
        self._writer, self._items_of, self._progress = writer, items_of, progress
        self.commit_every = every

    def take(self, batch: T) -> None:
        self._writer.put(self._items_of(self._writer, batch))

    def commit(self) -> None:
        with uninterrupted():
            self._writer.commit()
            self._progress.commit()

    def finish(self) -> None:
        if self._progress.has_news:
            self.commit()


@contextmanager
def opened_store(
    store: Store, items_of: Callable[[Writer, T], list[Item]], every: int | None, progress: Progress
) -> Iterator[_StoreTarget[T]]:
    """A store as a target; what it has not committed is dropped when something fails, as far as that goes."""
    with store.writing() as writer:
        yield _StoreTarget(writer, items_of, every or store.commits_every, progress)


def planned_items(store: Store, options: Options, progress: Progress) -> Callable[[Writer, list[Write]], list[Item]]:
    """A function that gives what is to be put for the writes of a batch: the last word on each path."""

    def items(writer: Writer, writes: list[Write]) -> list[Item]:
        coming: dict[Any, dict[str, Any]] = {}
        written, skipped, last_path = 0, 0, None
        looks = options.if_exists != "replace" or options.if_missing == "error"
        stored = _found(writer, dict.fromkeys(planned.path for planned in writes)) if looks else {}
        for planned in writes:
            there = coming.get(planned.path)
            if there is None and looks:
                found = stored[planned.path]
                if found is None and options.if_missing == "error":
                    raise options.not_there(planned.path)
                there = None if found is None else _attributes(found, planned, options)
            if there is not None and options.if_exists == "error":
                raise options.already_there(planned.path)
            if there is not None and options.skips(partial(there.get, VERSION)):
                skipped += 1
                continue
            attributes = planned.attributes
            if type(attributes) is not Flat:
                attributes = with_copies(planned.path, attributes, store.codec)
            if there is None or options.if_exists == "replace":
                coming[planned.path] = dict(attributes)
            else:
                coming[planned.path] = merged(there, attributes)
            written, last_path = written + 1, planned.path
        progress.add(Done(written, skipped, last_path))
        return [as_item(options.name, store, path, values, options.output) for path, values in coming.items()]

    return items


def _found(writer: Writer, paths: Iterable[Path]) -> dict[Path, StoredRecord | None]:
    """What there is under each of some paths: together, if the writer knows how to."""
    find_many = getattr(writer, "find_many", None)
    paths = [*paths]
    return dict(zip(paths, map(writer.find, paths) if find_many is None else find_many(paths), strict=True))


def _attributes(found: StoredRecord, coming: Write, options: Options) -> dict[str, Any]:
    """The attributes of what is there, as far as they matter: a value that is to be replaced anyway is not read."""
    if options.if_exists == "replace" or (found.metadata is not None and options.output in coming.attributes):
        return dict(found.metadata or {})
    return as_attributes(options.name, coming.path, found.metadata, found.load(), options.output)
