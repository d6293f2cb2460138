"""Feeding a training loop from an archive: batches of consecutive tokens, and batches of records in random order."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..._public import public
from ...errors import ArgumentError, ArgumentTypeError, DamagedStoreError, got
from .reading import check_flag
from .store import Archive

__all__ = ["shuffled", "token_batches"]

#: An archive, or what `Archive` takes for a path.
Source: TypeAlias = "Archive | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"


@public
def token_batches(
    archive: Source, dtype: npt.DTypeLike, length: int, *, batch_size: int = 1, drop_last: bool = False
) -> Iterator[np.ndarray[Any, Any]]:
    """Go through all payload bytes of an archive as one stream of tokens, whatever the records are.

    >>> import numpy as np
    >>> from lotproc.stores import Archive
    >>> from lotproc.stores.archive.loading import token_batches
    >>> with Archive("tokens.rox", "w") as archive:
    ...     archive.write(np.arange(start, start + 5, dtype=np.uint16) for start in (0, 5))
    2
    >>> for batch in token_batches("tokens.rox", np.uint16, 3, batch_size=2):
    ...     print(batch.tolist())
    [[0, 1, 2], [3, 4, 5]]
    [[6, 7, 8]]

    A batch within one shard is a read-only view of the file; one that goes over the end of a shard is a copy. Checksums
    are looked at as it goes. It holds one batch at most.

    Args:
        archive: The archive, which stays open, or its path, which is opened and closed again.
        dtype: What a token is.
        length: Tokens of a row.
        batch_size: Rows of a batch.
        drop_last: Whether to leave the last rows out where they don't fill a batch.

    Returns:
        An iterator of arrays with `batch_size` rows of `length` tokens; the last may have fewer rows. Tokens at the end
        that don't fill a row are left out. Closing it closes the archive that it opened.

    Raises:
        ArgumentError, ArgumentTypeError: An argument can't be used.
        DamagedStoreError: The payload is not what was written, or ends within a token.
    """
    kind = _dtype(dtype)
    check_flag("token_batches", "drop_last", drop_last)
    length, batch_size = _count("token_batches", "length", length), _count("token_batches", "batch_size", batch_size)
    return _token_batches(_archive(archive), not isinstance(archive, Archive), kind, length, batch_size, drop_last)


def _token_batches(
    archive: Archive, owned: bool, dtype: np.dtype[Any], length: int, batch_size: int, drop_last: bool
) -> Iterator[np.ndarray[Any, Any]]:
    row = length * dtype.itemsize
    size = batch_size * row
    rest = bytearray()
    total = 0
    try:
        for shard in archive._opened():
            at, stop = 0, len(shard.raw)
            total += stop
            while at < stop:
                reach = min(at + size - len(rest), stop)
                shard.check_bytes(at, reach)
                if reach - at == size:
                    yield shard.raw[at:reach].view(dtype).reshape(batch_size, length)
                else:
                    rest += shard.view[at:reach]
                    if len(rest) == size:
                        yield np.frombuffer(bytes(rest), dtype).reshape(batch_size, length)
                        rest.clear()
                archive._check_open()
                at = reach
        if total % dtype.itemsize:
            raise DamagedStoreError(
                f"{archive!r}: its {total:,} bytes of payload are no whole number of {dtype} of {dtype.itemsize} bytes"
            )
        rows = len(rest) // row
        if rows and not drop_last:
            yield np.frombuffer(bytes(rest[: rows * row]), dtype).reshape(rows, length)
    finally:
        if owned:
            archive.close()


@public
def shuffled(
    archive: Source,
    batch_size: int,
    *,
    seed: int,
    epoch: int = 0,
    prefetch: int = 4,
    collate: Callable[[list[Any]], Any] | None = None,
    drop_last: bool = False,
) -> Iterator[Any]:
    """Go through all records in random order, in batches that a thread reads ahead.

    >>> from lotproc.stores import Archive
    >>> from lotproc.stores.archive.loading import shuffled
    >>> with Archive("clips.rox", "w") as archive:
    ...     archive.write([b"a", b"b", b"c", b"d", b"e"])
    5
    >>> batches = shuffled("clips.rox", 2, seed=1, collate=lambda records: b"".join(records))
    >>> sorted(b"".join(batches))
    [97, 98, 99, 100, 101]

    The thread starts when the first batch is asked for. It ends, and the archive is closed if it was opened here, when
    all batches were taken, when the iterator is closed or dropped, and on an error, which is raised where the batch is
    asked for. Until then up to `prefetch` batches are held.

    Args:
        archive: The archive, which stays open, or its path, which is opened and closed again.
        batch_size: Records of a batch.
        seed: The order is the same for the same seed and epoch. It takes 8 bytes for each record.
        epoch: The number of the pass.
        prefetch: Batches that are read ahead.
        collate: Makes a batch of a list of records, in the thread, as `numpy.stack` does for arrays of one shape.
        drop_last: Whether to leave the last batch out where it has fewer records.

    Returns:
        An iterator of lists of records, or of what `collate` makes of them. For one thread at a time.

    Raises:
        ArgumentError, ArgumentTypeError: An argument can't be used.
    """
    batch_size, prefetch = _count("shuffled", "batch_size", batch_size), _count("shuffled", "prefetch", prefetch)
    seed, epoch = _count("shuffled", "seed", seed, least=0), _count("shuffled", "epoch", epoch, least=0)
    check_flag("shuffled", "drop_last", drop_last)
    if collate is not None and not callable(collate):
        raise ArgumentTypeError("shuffled: collate", expected="a function of a list of records", got=got(collate))
    make = collate or _touched
    return _shuffled(
        _archive(archive), not isinstance(archive, Archive), batch_size, (seed, epoch), prefetch, make, drop_last
    )


def _shuffled(
    archive: Archive,
    owned: bool,
    batch_size: int,
    seed: tuple[int, int],
    prefetch: int,
    make: Callable[[list[Any]], Any],
    drop_last: bool,
) -> Iterator[Any]:
    ready: queue.SimpleQueue[tuple[Any, BaseException | None, bool]] = queue.SimpleQueue()
    free = threading.Semaphore(prefetch)
    is_over = threading.Event()

    def read() -> None:
        try:
            order = np.random.default_rng(seed).permutation(len(archive))
            stop = len(order) - len(order) % batch_size if drop_last else len(order)
            for start in range(0, stop, batch_size):
                free.acquire()
                if is_over.is_set():
                    return
                ready.put((make(archive[order[start : start + batch_size]]), None, False))
            ready.put((None, None, True))
        except BaseException as error:
            ready.put((None, error, True))

    thread = threading.Thread(target=read, name="lotproc-shuffled", daemon=True)
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
        if owned:
            archive.close()


def _touched(records: list[Any]) -> list[Any]:
    """The records, with their pages in memory."""
    for record in records:
        if isinstance(record, np.ndarray) and record.dtype == np.uint8 and record.ndim == 1:
            record[::4096].max(initial=0)
    return records


def _archive(archive: Any) -> Archive:
    return archive if isinstance(archive, Archive) else Archive(archive)


def _count(name: str, what: str, value: Any, *, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ArgumentTypeError(f"{name}: {what}", expected="a whole number", got=got(value))
    if value < least:
        raise ArgumentError(f"{name}: {what}", expected=f"at least {least}", got=f"{value}")
    return int(value)


def _dtype(dtype: Any) -> np.dtype[Any]:
    try:
        kind: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise ArgumentTypeError("token_batches: dtype", expected="a dtype", got=got(dtype)) from error
    if dtype is None or kind.hasobject or not kind.itemsize or kind.subdtype is not None:
        raise ArgumentError("token_batches: dtype", expected="that of numbers", got=got(dtype))
    return kind
