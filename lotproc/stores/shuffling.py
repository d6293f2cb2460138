"""Feeding a training loop: batches of records in random order, from an archive, another store or a list."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias

import numpy as np

from .._is_node import is_node
from .._public import public
from .._showing import told
from .._spelling import spelled
from .._stage import check_choice, check_count, check_function
from ..errors import ArgumentError, ArgumentTypeError, got
from .archive.loading import Files, Share, opened, share_of
from .archive.names import as_source
from .archive.store import Archive
from .protocol import Path, Store, no_such_key

__all__ = ["shuffled"]

Numbers: TypeAlias = "np.ndarray[Any, Any]"

#: What can be told of a record.
FIELDS = ("value", "path", "attributes")


@public
@spelled
def shuffled(
    source: Store | Files | Sequence[Any],
    batch_size: int,
    *,
    seed: int,
    epoch: int = 0,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    fields: str | Sequence[str] = "value",
    paths: Iterable[Path] | None = None,
    prefetch: int = 4,
    collate: Callable[[list[Any]], Any] | None = None,
    drop_last: bool = False,
) -> Iterator[Any]:
    """Go through all records in random order, in batches that a thread reads ahead.

    >>> from lotproc import Archive, shuffled
    >>> with Archive("clips.rox", "w") as archive:
    ...     archive.write_records(
    ...         ((name,), name.encode(), {"number": n}) for n, name in enumerate("abcde")
    ...     )
    5
    >>> batches = shuffled("clips.rox", 2, seed=1, collate=b"".join)
    >>> sorted(b"".join(batches))
    [97, 98, 99, 100, 101]
    >>> fields = ("path", "attributes")
    >>> for batch in shuffled("clips.rox", 2, seed=1, fields=fields, start=1):
    ...     print(batch)
    [(('a',), {'number': 0}), (('d',), {'number': 3})]
    [(('b',), {'number': 1})]

    The order of an epoch depends on the seed, the epoch and the number of records alone; it is the same on every
    machine. `start` goes on in the middle of it, as long as the records are the same. Of several programs, each takes
    every `world`-th batch; together they have each record once.

    A tree is read as a list of its records: `shuffled(list(scan("audio", root)), 32, seed=1, collate=...)`, where
    `collate` reads what their handles stand for.

    The thread starts when the first batch is asked for. It ends, and the archive is closed if it was opened here, when
    all batches were taken, when the iterator is closed or dropped, and on an error, which is raised where the batch is
    asked for. Until then up to `prefetch` batches are held, and 16 bytes for each record; of a store that is no archive
    the list of its paths as well.

    Args:
        source: An archive or another store, which stays open; the path of an archive, or a list of those of its shards,
            which is opened with the codec that wrote it, and closed again; or a list of anything else, whose items
            are the records. Of an archive, records that were replaced count, too, unless `paths` are given.
        batch_size: Records of a batch.
        seed: A whole number, at least 0.
        epoch: The number of the pass; another one has another order.
        start: Batches of this rank to pass over, unread, to go on where another run has stopped.
        rank: The number of this program, from 0.
        world: How many programs there are.
        fields: What a record is: "value", "path" or "attributes", or several of them, which make it a tuple. Attributes
            are what the store has beside the value, as a dict.
        paths: The records to take, by default all: `split({"train": 0.9, "test": 0.1}, store.paths(), part="train")`.
        prefetch: Batches that are read ahead.
        collate: Makes a batch of a list of records, in the thread, as `numpy.stack` does for arrays of one shape.
        drop_last: Whether to leave out what does not fill a batch on every rank; all ranks have the same number of
            batches then.

    Returns:
        An iterator of lists of records, or of what `collate` makes of them. For one thread at a time; records are read
        in another one.

    Raises:
        ArgumentError, ArgumentTypeError: An argument can't be used; `start` is beyond the end, which is told when the
            first batch is asked for.
        NoSuchKeyError: There is nothing under a path.
        CodecError: A pair of functions wrote the archive; open it with it.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("prefetch", prefetch, 1),
        ("seed", seed, 0),
        ("epoch", epoch, 0),
    ):
        check_count("shuffled", name, value, minimum=least)
    share = share_of("shuffled", start, rank, world, drop_last)
    if collate is not None:
        check_function("shuffled", "collate", collate, "a function of a list of records")
    names = _checked_fields(fields)
    if not _is_stored(source) and (names != "value" or paths is not None):
        given = "fields" if paths is None else "paths"
        raise ArgumentError(f"shuffled: {given}", "are those of a store, and the items of a list come as they are")
    if paths is not None and (isinstance(paths, str) or not isinstance(paths, Iterable)):
        raise ArgumentTypeError("shuffled: paths", expected="paths, each a tuple of keys", got=got(paths))
    make = collate or _touched
    batches = _shuffled(source, names, paths, int(batch_size), (int(seed), int(epoch)), share, int(prefetch), make)
    return told(batches, source, shuffled, {"batch_size": batch_size, "seed": seed, "epoch": epoch})


def _checked_fields(fields: Any) -> str | tuple[str, ...]:
    if isinstance(fields, str):
        check_choice("shuffled", "fields", fields, FIELDS)
        return fields
    if not isinstance(fields, (list, tuple)) or not fields:
        expected = f"one or several of {', '.join(map(repr, FIELDS))}"
        raise ArgumentTypeError("shuffled: fields", expected=expected, got=got(fields))
    for name in fields:
        check_choice("shuffled", "fields", name, FIELDS)
    return tuple(fields)


def _is_stored(source: Any) -> bool:
    """Whether it is a store, or files of an archive; else it is a list of records."""
    if isinstance(source, Store):
        return True
    first = source[0] if isinstance(source, (list, tuple)) and source else source
    if isinstance(first, (str, os.PathLike)):
        as_source(source)
        return True
    is_list = hasattr(source, "__len__") and hasattr(source, "__getitem__") and not isinstance(source, Mapping)
    if is_node(source) or not is_list:
        hint = "list(scan(..., root)) has the records of a tree" if is_node(source) else None
        expected = "an archive, its path, another store, or a list of records"
        raise ArgumentTypeError("shuffled: source", expected=expected, got=got(source), hint=hint)
    return False


def _shuffled(
    source: Any,
    fields: str | tuple[str, ...],
    paths: Iterable[Path] | None,
    batch_size: int,
    seed: tuple[int, int],
    share: Share,
    prefetch: int,
    make: Callable[[list[Any]], Any],
) -> Iterator[Any]:
    with ExitStack() as stack:
        if not isinstance(source, Store) and _is_stored(source):
            source = stack.enter_context(opened(source))
        count, read = _reading(source, fields, paths)
        # random numbers as they come from the generator, which numpy keeps as they are, where permutations may change
        order = np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")
        batches = share.of(count // batch_size if share.drop_last else -(-count // batch_size))
        jobs = (order[number * batch_size : (number + 1) * batch_size] for number in batches)
        yield from _ahead(lambda numbers: make(read(numbers)), jobs, prefetch)


def _ahead(work: Callable[[Any], Any], jobs: Iterable[Any], most: int) -> Iterator[Any]:
    """What comes of each job, worked on by a thread that is so many of them ahead."""
    ready: queue.SimpleQueue[tuple[Any, BaseException | None, bool]] = queue.SimpleQueue()
    free = threading.Semaphore(most)
    is_over = threading.Event()

    def run() -> None:
        try:
            for job in jobs:
                free.acquire()
                if is_over.is_set():
                    return
                ready.put((work(job), None, False))
            ready.put((None, None, True))
        except BaseException as error:
            ready.put((None, error, True))

    thread = threading.Thread(target=run, name="lotproc-shuffled", daemon=True)
    try:
        thread.start()
        while True:
            batch, error, is_last = ready.get()
            if error is not None:
                raise error
            if is_last:
                return
            free.release()
            yield batch
            del batch
    finally:
        is_over.set()
        free.release()
        if thread.ident is not None:
            thread.join()


def _reading(
    source: Any, fields: str | tuple[str, ...], paths: Iterable[Path] | None
) -> tuple[int, Callable[[Numbers], list[Any]]]:
    """How many records there are, and what reads those with some numbers."""
    if isinstance(source, Archive):
        places = None if paths is None else np.array([source.index_of(path) for path in paths], np.int64)
        columns = [_of_archive(source, name) for name in ([fields] if isinstance(fields, str) else fields)]

        def read(numbers: Numbers) -> list[Any]:
            numbers = numbers if places is None else places[numbers]
            found = [column(numbers) for column in columns]
            return found[0] if isinstance(fields, str) else list(zip(*found, strict=True))

        return len(source) if places is None else len(places), read
    if isinstance(source, Store):
        known = list(source.paths() if paths is None else paths)
        return len(known), lambda numbers: list(_of_store(source, fields, [known[number] for number in numbers]))
    return len(source), lambda numbers: [source[number] for number in numbers.tolist()]


def _of_archive(archive: Archive, field: str) -> Callable[[Numbers], list[Any]]:
    if field == "value":
        return archive.__getitem__
    if field == "attributes":
        return lambda numbers: [archive.attributes(number) or {} for number in numbers.tolist()]

    def paths(numbers: Numbers) -> list[Path]:
        known = [archive.path(number) for number in numbers.tolist()]
        # a record without one has its number, as everywhere
        return [(str(n),) if path is None else path for n, path in zip(numbers.tolist(), known, strict=True)]

    return paths


def _of_store(store: Store, fields: str | tuple[str, ...], paths: list[Path]) -> Iterator[Any]:
    for path, record in zip(paths, store.find_many(paths), strict=True):
        if record is None:
            raise no_such_key(store, path)
        found = [
            record.load() if name == "value" else path if name == "path" else dict(record.metadata or {})
            for name in ([fields] if isinstance(fields, str) else fields)
        ]
        yield found[0] if isinstance(fields, str) else tuple(found)


def _touched(records: list[Any]) -> list[Any]:
    """The records, with their pages in memory."""
    for record in records:
        if isinstance(record, np.ndarray):
            if record.dtype == np.uint8 and record.ndim == 1:
                record[::4096].max(initial=0)
        elif type(record) is tuple:
            _touched([*record])
    return records
