"""Feeding a training loop from an archive as one stream of tokens; and archives opened with the codec they have."""

from __future__ import annotations

import itertools
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..._public import public
from ..._showing import told
from ..._spelling import spelled
from ..._stage import check_count
from ...errors import ArgumentError, ArgumentTypeError, CodecError, DamagedStoreError, got
from .names import as_source, found_files
from .reading import check_flag
from .shards import Shard
from .store import Archive

__all__ = ["Files", "Share", "opened", "share_of", "token_batches"]

#: What `Archive` takes for a path.
Files: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"


@public
@spelled
def token_batches(
    archive: Archive | Files,
    dtype: npt.DTypeLike,
    length: int,
    *,
    batch_size: int = 1,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
) -> Iterator[np.ndarray[Any, Any]]:
    """Go through an archive as one stream of tokens, whatever the records are.

    >>> import numpy as np
    >>> from lotproc import Archive, token_batches
    >>> with Archive("tokens.rox", "w") as archive:
    ...     archive.write(np.arange(n, n + 5, dtype=np.uint16) for n in (0, 5))
    2
    >>> for batch in token_batches("tokens.rox", np.uint16, 3, batch_size=2):
    ...     print(batch.tolist())
    [[0, 1, 2], [3, 4, 5]]
    [[6, 7, 8]]
    >>> batches = token_batches("tokens.rox", np.uint16, 3, rank=1, world=2)
    >>> [batch.tolist() for batch in batches]
    [[[3, 4, 5]]]

    With codec "bytes" the payload is the stream. A batch within one shard is a read-only view of the file, one that
    goes over the end of a shard is a copy, and what comes before `start` is not read. With another codec the stream is
    of the numbers in the records, which are arrays or lists, and what comes before `start` is read, too. Checksums are
    looked at as it goes.

    Args:
        archive: The archive, which stays open; or its path, which is opened with the codec that wrote it, and closed.
        dtype: What a token is.
        length: Tokens of a row.
        batch_size: Rows of a batch.
        start: Batches of this rank to pass over, to go on where another run has stopped.
        rank: The number of this program, from 0: it gets every `world`-th batch.
        world: How many programs there are.
        drop_last: Whether to leave the last rows out where they don't fill a batch on every rank; all ranks have the
            same number of batches then.

    Returns:
        An iterator of arrays with `batch_size` rows of `length` tokens; the last may have fewer rows. Tokens at the end
        that don't fill a row are left out. Closing it closes the archive that it opened. It holds one batch, with
        another codec than "bytes" also a record.

    Raises:
        ArgumentError, ArgumentTypeError: An argument can't be used. A `start` beyond the end is told of when it is
            reached.
        CodecError: A record's value is none of such numbers, or a pair of functions wrote the archive: open it with it.
        DamagedStoreError: The payload is not what was written, or ends within a token.
    """
    kind = _dtype(dtype)
    check_count("token_batches", "length", length)
    check_count("token_batches", "batch_size", batch_size)
    share = share_of("token_batches", start, rank, world, drop_last)
    if not isinstance(archive, Archive):
        as_source(archive)
    batches = _token_batches(archive, kind, int(length), int(batch_size), share)
    return told(batches, archive, token_batches, {"dtype": kind, "length": length, "batch_size": batch_size})


class Share(NamedTuple):
    """Which batches one of several programs gets: every `world`-th, without the first ones.

    Args:
        name: The function that the user called, for errors.
        start: How many of its batches it passes over.
        rank: Its number.
        world: How many programs there are.
        drop_last: Whether all have the same number of batches.
    """

    name: str
    start: int
    rank: int
    world: int
    drop_last: bool

    def of(self, batches: int) -> range:
        """The numbers of its batches, of so many.

        Raises:
            ArgumentError: It has none any more.
        """
        mine = range(self.rank, batches - batches % self.world if self.drop_last else batches, self.world)
        if self.start > len(mine):
            expected = f"at most {len(mine)}, which are all batches of rank {self.rank}"
            raise ArgumentError(f"{self.name}: start", expected=expected, got=f"{self.start}")
        return mine[self.start :]

    def takes(self, batch: int) -> bool:
        """Whether a batch is one of them, if it is there."""
        return batch % self.world == self.rank and batch // self.world >= self.start


def share_of(name: str, start: int, rank: int, world: int, drop_last: bool) -> Share:
    """Refuse what says nothing of which batches a program gets."""
    check_flag(name, "drop_last", drop_last)
    check_count(name, "start", start, minimum=0)
    check_count(name, "world", world)
    check_count(name, "rank", rank, minimum=0)
    if rank >= world:
        raise ArgumentError(f"{name}: rank", expected=f"below world, which is {world}", got=f"{rank}")
    return Share(name, int(start), int(rank), int(world), bool(drop_last))


@contextmanager
def opened(archive: Archive | Files) -> Iterator[Archive]:
    """An archive, which stays open; or one at a path, opened with the codec that its first shard names, and closed."""
    if isinstance(archive, Archive):
        yield archive
        return
    codec = "bytes"  # that of files that name none
    for found in found_files(as_source(archive))[:1]:
        shard = Shard(found.path, found.file, check=False)
        noted = shard.notes
        shard.close()
        # a pair of functions has no name: who opens it with "bytes" is told so
        codec = noted.codec if noted is not None and noted.codec != "custom" else codec
    with Archive(archive, codec=codec) as found_one:
        yield found_one


def _token_batches(
    source: Archive | Files, dtype: np.dtype[Any], length: int, batch_size: int, share: Share
) -> Iterator[np.ndarray[Any, Any]]:
    row = length * dtype.itemsize
    with opened(source) as archive:
        cut = _of_payload if archive.codec.name == "bytes" else _of_values
        for batch in cut(archive, dtype, row, batch_size, share):
            yield batch.view(dtype).reshape(-1, length)
            archive._check_open()


def _of_payload(
    archive: Archive, dtype: np.dtype[Any], row: int, batch_size: int, share: Share
) -> Iterator[np.ndarray[Any, Any]]:
    """The bytes of batches, cut out where they lie."""
    shards = archive._opened()
    ends = list(itertools.accumulate(len(shard.raw) for shard in shards))
    total = ends[-1] if ends else 0
    if total % dtype.itemsize:
        raise DamagedStoreError(
            f"{archive!r}: its {total:,} bytes of payload are no whole number of {dtype} of {dtype.itemsize} bytes"
        )
    size, rows = row * batch_size, total // row
    for number in share.of(rows // batch_size if share.drop_last else -(-rows // batch_size)):
        at, stop = number * size, min((number + 1) * size, rows * row)
        parts = []
        while at < stop:
            part = bisect_right(ends, at)
            shard = shards[part]
            origin = ends[part] - len(shard.raw)
            begin, end = at - origin, min(stop - origin, len(shard.raw))
            shard.check_bytes(begin, end)
            parts.append(shard.raw[begin:end])
            at = origin + end
        yield parts[0] if len(parts) == 1 else np.concatenate(parts)


def _of_values(
    archive: Archive, dtype: np.dtype[Any], row: int, batch_size: int, share: Share
) -> Iterator[np.ndarray[Any, Any]]:
    """The bytes of batches of the numbers in values."""
    size, number = row * batch_size, 0
    rest = bytearray()
    kept: np.ndarray[Any, Any] | None = None
    for record, value in enumerate(archive):
        rest += _tokens(archive, record, value, dtype)
        at = 0
        while at + size <= len(rest):
            if share.takes(number):
                kept = np.frombuffer(bytes(rest[at : at + size]), np.uint8)
            number, at = number + 1, at + size
            if kept is not None and (not share.drop_last or number % share.world == 0):  # every rank has one
                yield kept
                kept = None
        del rest[:at]
    left = len(rest) // row * row
    if left and not share.drop_last:
        if share.takes(number):
            yield np.frombuffer(bytes(rest[:left]), np.uint8)
        number += 1
    share.of(number)  # which tells of a start beyond the end


def _tokens(archive: Archive, record: int, value: Any, dtype: np.dtype[Any]) -> bytes:
    """The numbers in a record's value, as bytes of tokens."""
    try:
        array = np.asarray(value)
        with np.errstate(invalid="ignore"):
            tokens = array.astype(dtype, copy=False)
        is_number = array.dtype.kind in "iufb" or not array.size
        is_same = array.dtype == dtype or (is_number and np.array_equal(tokens, array, equal_nan=True))
    except (TypeError, ValueError, OverflowError):
        is_same = False
    if not is_same:
        raise CodecError(f"{archive!r}: record {record:,} is no array or list of {dtype}", got=got(value))
    return tokens.tobytes()


def _dtype(dtype: Any) -> np.dtype[Any]:
    try:
        kind: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise ArgumentTypeError("token_batches: dtype", expected="a dtype", got=got(dtype)) from error
    if dtype is None or kind.hasobject or not kind.itemsize or kind.subdtype is not None:
        raise ArgumentError("token_batches: dtype", expected="that of numbers", got=got(dtype))
    return kind
