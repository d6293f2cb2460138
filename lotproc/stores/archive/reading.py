"""Reading an archive as a sequence: by number, by slice, by index array, one after the other; and by path."""

from __future__ import annotations

import functools
import itertools
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from ...errors import ArgumentTypeError, DamagedStoreError, DetachError, NoSuchKeyError, StoreClosedError, as_text, got
from ..codecs import CodecLike, as_codec
from ..protocol import Store, StoredPayload, StoredRecord
from .format import GROUP_BITS
from .keys import KeyLine, as_path
from .names import Source
from .opening import OpenFiles, check_codecs, open_settled
from .path_index import PathIndex
from .shards import Shard, among

__all__ = ["ArchiveRecords", "RecordPlace", "check_flag", "same"]

#: Records and bytes of them that iteration looks ahead.
WINDOW, WINDOW_BYTES = 1 << 12, 1 << 20


class RecordPlace(NamedTuple):
    """Which record a payload is, whatever becomes of the archive.

    Args:
        record: Its number.
        start: Where its bytes start in its shard.
        stop: Where they end.
        origin: What the archive has been known by since it was made, as far as that is known.
    """

    record: int
    start: int
    stop: int
    origin: str | None


class ArchiveRecords(Store, Sequence[Any]):
    """The records of an archive, whose files are opened when they are first needed.

    Args:
        source: Its files.
        codec: How values become bytes.
        check: Whether checksums are looked at.
        may_be_new: Whether there may be no archive yet.
    """

    #: Which are quicker to get than what is in the dict.
    __slots__ = ("_checked", "_ends", "_fast", "_is_closed", "_raw")

    def __init__(self, source: Source, codec: CodecLike, *, check: bool, may_be_new: bool) -> None:
        self._source, self._check, self._may_be_new = source, check, may_be_new
        self.codec, self._codec_given = as_codec("Archive", codec), codec
        self._is_bytes = self.codec.name == "bytes"
        self._opening = threading.Lock()
        self._is_closed = False
        #: Whether the files that are there are not those of this archive.
        self._is_unseen = False
        self._let_go()

    def _drop(self) -> None:
        """Let go of what is mapped; who is still reading it keeps it until that is done."""
        with self._opening:
            self._let_go()

    def _let_go(self) -> None:
        self._files = OpenFiles()
        #: What `[...]` needs to be quick: the number of records that it works for, where they end, the groups that need
        #: no check, and the payload.
        self._fast: int = 0
        self._ends: Any = None
        self._checked: Any = None
        self._raw: Any = None
        self._shards: list[Shard] | None = None
        self._bounds: list[int] = []
        self._index: PathIndex | None = None

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreClosedError(f"{self!r} is closed", hint="make a new one to go on")

    def _opened(self) -> list[Shard]:
        """The shards, mapped."""
        shards = self._shards
        if shards is None or self._is_closed:
            with self._opening:
                self._check_open()
                shards = self._shards
                if shards is None:
                    shards = self._map()
        return shards

    def _map(self) -> list[Shard]:
        if self._is_unseen:
            files = OpenFiles()
        else:
            files = open_settled(self._source, check=self._check, may_be_new=self._may_be_new)
        shards = files.shards
        try:
            check_codecs(repr(self), self.codec, shards)
        except BaseException:
            files.close()
            raise
        self._files, self._bounds = files, list(itertools.accumulate(map(len, shards)))
        if len(shards) == 1 and self._is_bytes:
            self._ends, self._checked, self._raw = shards[0].ends, shards[0].checked, shards[0].raw
            self._fast = len(shards[0])
        self._shards = shards
        return shards

    def __len__(self) -> int:
        bounds = self._bounds
        if not bounds:
            self._opened()
            bounds = self._bounds
        return bounds[-1] if bounds else 0

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray[Any, Any]) -> list[Any]: ...
    def __getitem__(self, index: Any) -> Any:
        """The record with a number, or a list of the records of a slice, of a list of numbers, or of an index array.

        Raises:
            IndexError: There are not so many records.
            DamagedStoreError: A record is not what was written, or its codec can't read it.
        """
        if index.__class__ is not int:
            try:
                index = index.__index__()
            except (AttributeError, TypeError):
                return self._several(index)
        if 0 <= index < self._fast:
            try:
                start = self._ends[index - 1] if index else 0
                if self._checked[start >> GROUP_BITS]:
                    return self._raw[start : self._ends[index]]
            except TypeError:  # another thread let the files go just now
                pass
        return self._one(index)

    def __iter__(self) -> Iterator[Any]:
        """All records in order."""
        for shard, first in self._parts():
            get = self._getter(shard)
            at, stop = 0, len(shard)
            while at < stop:
                reach = bisect_right(shard.ends, shard.start(at) + WINDOW_BYTES, at, min(at + WINDOW, stop))
                reach = max(reach, at + 1)
                ends = shard.index[at:reach].tolist()
                try:
                    shard.check(at, reach)
                except DamagedStoreError:  # up to the damaged ones, they can be read
                    for number in range(at, reach):
                        yield self._one(first + number)
                    raise
                start = shard.start(at)
                if get is None:
                    raw = shard.raw
                    for end in ends:
                        if self._is_closed:
                            self._check_open()
                        yield raw[start:end]
                        start = end
                else:
                    for number, end in enumerate(ends, first + at):
                        if self._is_closed:
                            self._check_open()
                        yield get(number, start, end)
                        start = end
                at = reach

    def __contains__(self, value: object) -> bool:
        return any(same(record, value) for record in self)

    def _parts(self) -> Iterator[tuple[Shard, int]]:
        """Each shard, with the number of its first record."""
        first = 0
        for shard in self._opened():
            yield shard, first
            first += len(shard)

    def _place(self, number: int) -> tuple[Shard, int]:
        """The shard of a record, and its number there."""
        shards = self._opened()
        total = self._bounds[-1] if self._bounds else 0
        index = number + total if number < 0 else number
        if not 0 <= index < total:
            self._check_open()
            raise IndexError(f"{self!r} has {total:,} records, there is no record {number:,}")
        if len(shards) == 1:
            return shards[0], index
        part = bisect_right(self._bounds, index)
        return shards[part], index - (self._bounds[part - 1] if part else 0)

    def _one(self, number: int) -> Any:
        shard, record = self._place(number)
        start = shard.start(record)
        if not shard.checked[start >> GROUP_BITS]:
            shard.check(record, record + 1)
        if self._is_bytes:
            return shard.raw[start : shard.ends[record]]
        return self._decoded(shard, number if number >= 0 else number + len(self), start, shard.ends[record])

    def _several(self, index: Any) -> list[Any]:
        if isinstance(index, slice):
            first, stop, step = index.indices(len(self))
            numbers = np.arange(first, stop, step)
        else:
            numbers = self._numbers(index)
        if len(self._opened()) == 1:
            return self._of_shard(self._opened()[0], 0, numbers)
        parts = np.searchsorted(self._bounds, numbers, "right")
        found: list[Any] = [None] * len(numbers)
        for part in np.unique(parts).tolist():
            wanted = np.flatnonzero(parts == part)
            first = self._bounds[part - 1] if part else 0
            records = self._of_shard(self._opened()[part], first, numbers[wanted] - first)
            for place, record in zip(wanted.tolist(), records, strict=True):
                found[place] = record
        return found

    def _numbers(self, index: Any) -> np.ndarray[Any, Any]:
        """The numbers that an index array means, none of them negative."""
        total = len(self)
        if not isinstance(index, (Sequence, np.ndarray)) or isinstance(index, (str, bytes)):
            raise ArgumentTypeError(
                f"{self!r}: a record is asked for by its number, a slice or an index array, got {got(index)}"
                + ("; by its path with index_of()" if isinstance(index, (str, tuple)) else "")
            )
        numbers = np.asarray(index) if len(index) else np.zeros(0, np.int64)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iub":
            hint = "; for a path, see index_of()" if isinstance(index, tuple) else ""
            raise ArgumentTypeError(
                f"{self!r}: an index array has one dimension of whole numbers, got {got(index)}{hint}"
            )
        if numbers.dtype == bool:
            if len(numbers) != total:
                raise IndexError(f"{self!r} has {total:,} records, and the mask is for {len(numbers):,}")
            return np.flatnonzero(numbers)
        numbers = numbers.astype(np.int64)
        if len(numbers) and not (-total <= int(numbers.min()) and int(numbers.max()) < total):
            bad = numbers[(numbers < -total) | (numbers >= total)][0]
            raise IndexError(f"{self!r} has {total:,} records, there is no record {bad:,}")
        return np.where(numbers < 0, numbers + total, numbers)

    def _of_shard(self, shard: Shard, first: int, numbers: np.ndarray[Any, Any]) -> list[Any]:
        if not len(numbers):
            return []
        stops = shard.index[numbers]
        starts = np.where(numbers > 0, shard.index[np.maximum(numbers, 1) - 1], 0)
        checked = np.frombuffer(shard.checked, np.uint8)[starts >> GROUP_BITS]
        for number in numbers[checked == 0].tolist():
            shard.check(number, number + 1)
        places = zip(starts.tolist(), stops.tolist(), strict=True)
        get = self._getter(shard)
        if get is None:
            raw = shard.raw
            return [raw[start:stop] for start, stop in places]
        return [get(number, *place) for number, place in zip((numbers + first).tolist(), places, strict=True)]

    def _getter(self, shard: Shard) -> Any:
        """What makes values of the bytes of a shard; None for arrays of bytes."""
        return None if self._is_bytes else functools.partial(self._decoded, shard)

    def _decoded(self, shard: Shard, number: int, start: int, stop: int) -> Any:
        """A record's value."""
        try:
            return self.codec.decode(shard.view[start:stop])
        except (MemoryError, OSError):
            raise
        except DetachError as error:
            line = self._line(number)
            path = None if line is None else line.as_path()
            where = f"record {number:,}" if path is None else as_text(path)
            raise DetachError(f"{self!r}: the value of {where} can't be read: {error}") from error
        except Exception as error:
            raise DamagedStoreError(
                f"{self!r}: record {number:,} in {shard.path} can't be read with the codec {self.codec.name!r}: {error}"
            ) from error

    def _path_index(self) -> PathIndex:
        shards, index = self._opened(), self._index
        if index is None:
            self._index = index = PathIndex(shards, self._files.keys)
        return index

    def _line(self, index: int) -> KeyLine | None:
        """The path and the attributes of a record, if it has any."""
        try:
            number = index.__index__()
        except (AttributeError, TypeError):
            raise ArgumentTypeError(f"{self!r}: a record is asked for by its number", got=got(index)) from None
        shard, record = self._place(number)
        return self._path_index().line(self._opened().index(shard), record)

    def find(self, path: Any) -> StoredRecord | None:
        number = self._path_index().find(as_path(path))
        if number is None:
            return None
        line, (shard, record) = self._line(number), self._place(number)
        attributes = None if line is None else line.as_attributes()
        return self._stored_record(shard, shard.origin(), record, number, tuple(path), attributes)

    def _stored_record(
        self, shard: Shard, origin: str | None, record: int, number: int, path: tuple[str, ...], attributes: Any
    ) -> StoredRecord:
        ends = shard.ends
        place = RecordPlace(number, ends[record - 1] if record else 0, ends[record], origin)
        return StoredRecord(path, attributes, functools.partial(self.load, place), StoredPayload(self, place))

    def _problems(self) -> Iterator[str]:
        """What is wrong with any record, with its shard, and its path where that is known."""
        keys = None
        try:
            keys = self._path_index()
        except DamagedStoreError as error:
            yield str(error)
        for part, (shard, first) in enumerate(self._parts()):
            for start, stop in shard.damaged_groups():
                text = f"{shard.path}: {among(start, stop)} is not what was written"
                lines = [] if keys is None else [keys.line(part, record) for record in range(start, stop)[:20]]
                paths = [as_text(path) for line in lines if line is not None and (path := line.as_path()) is not None]
                text += f" (record {first + start:,} of the archive)" if first and stop - start == 1 else ""
                yield text + (f": {', '.join(paths)}" if paths else "")

    def _keyed(self) -> Iterator[tuple[int, tuple[str, ...], dict[str, Any] | None]]:
        for keyed in self._path_index().newest():
            if self._is_closed:
                self._check_open()
            yield keyed

    def records(self) -> Iterator[StoredRecord]:
        parts, stop = iter(list(self._parts())), 0
        for number, path, attributes in self._keyed():
            while number >= stop:
                shard, first = next(parts)
                stop, origin = first + len(shard), shard.origin()
            yield self._stored_record(shard, origin, number - first, number, path, attributes)

    def load(self, key: RecordPlace) -> Any:
        number, start, stop, origin = key
        try:
            shard, record = self._place(number)
        except IndexError:
            raise self._written_anew(number) from None
        now = shard.origin()
        is_another = now != origin and now is not None and origin is not None
        if is_another or (shard.start(record), shard.ends[record]) != (start, stop):
            raise self._written_anew(number)
        shard.check(record, record + 1)
        return self._decoded(shard, number, start, stop)

    def _written_anew(self, number: int) -> NoSuchKeyError:
        return NoSuchKeyError(
            f"{self!r} was written anew since its record {number:,} was taken from it, which is not there any more",
            hint="take the records from it again",
        )


def check_flag(name: str, what: str, value: Any) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentTypeError(f"{name}: {what}", expected="True or False", got=got(value))


def same(record: Any, value: Any) -> bool:
    """Whether a record is equal to a value, arrays as a whole."""
    if isinstance(record, np.ndarray) and isinstance(value, (bytes, bytearray, memoryview)):
        return bool(record.tobytes() == bytes(value))
    if isinstance(record, np.ndarray) or isinstance(value, np.ndarray):
        return isinstance(value, np.ndarray) and bool(np.array_equal(record, value))
    return bool(record == value)
