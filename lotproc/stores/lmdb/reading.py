"""Reading an LMDB store: values by key, views of its keys, values and items in order, and the store as a source."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from contextlib import suppress
from functools import partial
from typing import Any, Literal

from ..._fast import FAST
from ...errors import ArgumentError, ArgumentTypeError, StoreClosedError, got
from ..codecs import unpickled
from ..protocol import Store, StoredPayload, StoredRecord, no_such_key
from .buffer import WriteBuffer
from .encoding import Encoding, is_iterable
from .environment import Environment
from .keys import Key, KeyForm, Range
from .scan import chunks, merged

__all__ = ["EVERYTHING", "MISSING", "LmdbReading"]

#: Bytes from which on a pickle is read where it lies in the map, and not copied first.
LARGE = 64 << 10
EVERYTHING: list[Range] = [(b"", None)]
MISSING: Any = object()


class LmdbReading(Store, Mapping[Any, Any]):
    """An LMDB store, as far as it reads; for any thread."""

    autoflush_on_read: bool
    _encoding: Encoding
    _form: KeyForm
    #: Whether keys that are text are plain UTF-8, and whether values are pickles: both have quicker ways.
    _is_plain: bool
    _pickles: bool
    _is_closed: bool
    _buffer: WriteBuffer | None

    @abstractmethod
    def _open(self) -> WriteBuffer:
        """Open the files, once."""

    @property
    def _environment(self) -> Environment:
        return (self._buffer or self._open()).environment

    # --- Reading -------------------------------------------------------------------------------------------------

    def _held(self, buffer: WriteBuffer, key: bytes, flush: bool) -> Any:
        """What the buffer holds under a key, `None` for a deletion; `MISSING`: the file may have it."""
        held = buffer.pending.get(key, MISSING)
        if held is MISSING and flush:
            buffer.flush_to_read()
        return held

    def _lookup(self, key: bytes) -> Any:
        """The value of a key, or `MISSING`."""
        buffer = self._buffer or self._open()
        if buffer.pending and (held := self._held(buffer, key, self.autoflush_on_read)) is not MISSING:
            return MISSING if held is None else self._encoding.decoded(key, held)
        environment = buffer.environment
        transaction = environment.begin()
        try:
            data = transaction.get(key)
            if data is None:
                return MISSING
            if self._pickles and len(data) >= LARGE:
                return self._encoding.decoded(key, data)
            data = bytes(data)
        finally:
            environment.end(transaction)
        if self._pickles:
            try:
                return unpickled(data)
            except Exception:  # which comes again
                pass
        return self._encoding.decoded(key, data)

    def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, or `default`.

        Raises:
            ArgumentError: It can't be a key.
            ArgumentTypeError: It is of a type that no key has.
            DamagedStoreError: The value can't be decoded.
        """
        found = self._lookup(self._encoding.key(key))
        return default if found is MISSING else found

    def __getitem__(self, key: Key) -> Any:
        found = self._lookup(self._encoding.key(key))
        if found is MISSING:
            raise no_such_key(self, key)
        return found

    def get_many(
        self, keys: Iterable[Key], *, decode_keys: bool = False, decode_not_found: bool | None = None
    ) -> tuple[dict[Any, Any], list[Any]]:
        """The values of many keys, from one snapshot.

        Args:
            keys: Any iterable of keys.
            decode_keys: Whether the keys of what is found are text; else they are bytes.
            decode_not_found: Whether bytes in the list of what is missing become text; `None`: as `decode_keys`.

        Returns:
            What was found, by key in the order asked for, and the keys that were not, as they were given.

        Raises:
            ArgumentTypeError: `keys` is no iterable of keys, or is one key.
            ArgumentError: A key can't be one, or text is asked for in a store with `key_encoding=None`.
            DamagedStoreError: A value can't be decoded.
        """
        decode_not_found = decode_keys if decode_not_found is None else decode_not_found
        if (decode_keys or decode_not_found) and self._form.encoding is None:
            raise ArgumentError(
                f"{self!r}: get_many can't decode keys with key_encoding=None", hint="open the store with an encoding"
            )
        if isinstance(keys, (str, bytes, bytearray, memoryview)) or not is_iterable(keys):
            raise ArgumentTypeError(
                f"{self!r}: get_many takes keys, as a list of them", got=got(keys), hint="get is for one key"
            )
        given = list(keys)
        wanted = list(map(self._encoding.key, given))
        buffer = self._buffer or self._open()
        held: dict[bytes, bytes | None] = {}
        if buffer.pending:
            waiting = ((key, buffer.pending.get(key, MISSING)) for key in wanted)
            held = {key: value for key, value in waiting if value is not MISSING}
            if self.autoflush_on_read and len(held) < len(set(wanted)):
                buffer.flush_to_read()
        stored = [key for key in dict.fromkeys(wanted) if key not in held]
        pairs: Iterable[tuple[bytes, bytes | None]] = zip(stored, self._read(stored), strict=True)
        if held:
            held.update(pairs)
            pairs = ((key, held[key]) for key in dict.fromkeys(wanted))
        decoded = self._encoding.decoded
        found = {key: decoded(key, value) for key, value in pairs if value is not None}
        missing = [
            self._form.to_text(bytes(key)) if decode_not_found and not isinstance(key, (str, tuple)) else key
            for key, encoded in zip(given, wanted, strict=True)
            if encoded not in found
        ]
        return ({self._form.to_text(key): value for key, value in found.items()} if decode_keys else found), missing

    def exists(self, key: Key, *, flush: bool | None = None) -> bool:
        """Whether there is a key.

        Args:
            key: The key.
            flush: Whether what is buffered is stored first, unless it has the answer; `None`: as
                `autoflush_on_read`.
        """
        data = self._encoding.key(key)
        buffer = self._buffer or self._open()
        flush = self.autoflush_on_read if flush is None else flush
        if buffer.pending and (held := self._held(buffer, data, flush)) is not MISSING:
            return held is not None
        environment = buffer.environment
        transaction = environment.begin()
        try:
            return transaction.get(data) is not None
        finally:
            environment.end(transaction)

    def __contains__(self, key: object) -> bool:
        return self.exists(key, flush=False)  # type: ignore[arg-type]

    def __len__(self) -> int:
        buffer = self._buffer or self._open()
        if buffer.pending and self.autoflush_on_read:
            buffer.flush_to_read()
        with buffer.lock:
            count: int = buffer.environment.stat()["entries"]
            if buffer.pending:
                stored = self._read(list(buffer.pending))
                for value, before in zip(buffer.pending.values(), stored, strict=True):
                    count += (value is not None) - (before is not None)
            return count

    def _read(self, keys: list[bytes]) -> list[bytes | None]:
        """What the file has under some keys, from one snapshot."""
        environment = self._environment
        transaction = environment.begin(buffers=False)
        try:
            return list(map(transaction.get, keys))
        finally:
            environment.end(transaction)

    # --- Iterating -----------------------------------------------------------------------------------------------

    def keys(
        self,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        stop: Key | None = None,
        reverse: bool = False,
    ) -> LmdbKeysView:
        """A lazy view of the keys, in the order of their bytes.

        Args:
            prefix: What they start with; with the path of a record: that record and all below it.
            start: The first one.
            stop: The one to stop before.
            reverse: Whether the last one comes first.
        """
        return LmdbKeysView(self, self._form.ranges(prefix, start, stop), reverse)

    def values(
        self,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        stop: Key | None = None,
        reverse: bool = False,
    ) -> LmdbValuesView:
        """A lazy view of the values, in the order of their keys; the arguments are those of `keys`."""
        return LmdbValuesView(self, self._form.ranges(prefix, start, stop), reverse)

    def items(
        self,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        stop: Key | None = None,
        reverse: bool = False,
    ) -> LmdbItemsView:
        """A lazy view of pairs of a key and its value, in the order of the keys; the arguments are those of `keys`."""
        return LmdbItemsView(self, self._form.ranges(prefix, start, stop), reverse)

    def __iter__(self) -> Iterator[Any]:
        return self._iterate(EVERYTHING, False, "keys")

    def __reversed__(self) -> Iterator[Any]:
        return self._iterate(EVERYTHING, True, "keys")

    def _iterate(self, ranges: list[Range], reverse: bool, what: Literal["keys", "values", "items"]) -> Iterator[Any]:
        for chunk in self._chunks(ranges, reverse, values=what != "keys"):
            if what == "keys":
                yield from self._keys_of(chunk)
                continue
            keys, stored = zip(*chunk, strict=True)
            values: Iterable[Any]
            try:
                values = list(map(self.codec.decode, stored))
            except (MemoryError, OSError):
                raise
            except Exception:  # one after the other: up to the one that can't be
                values = map(self._encoding.decoded, keys, stored)
            yield from zip(self._keys_of(keys), values, strict=False) if what == "items" else values

    def _keys_of(self, keys: Iterable[bytes]) -> Iterable[Any]:
        if self._form.encoding is None:
            return keys
        if self._is_plain:
            with suppress(UnicodeError):
                return list(map(bytes.decode, keys))
        return map(self._form.to_text, keys)

    def _chunks(self, ranges: list[Range], reverse: bool, *, values: bool) -> Iterator[list[Any]]:
        """Pairs of bytes or keys, in chunks, as they are with what is buffered."""
        buffer = self._buffer or self._open()
        if buffer.pending and self.autoflush_on_read:
            buffer.flush_to_read()
        if not buffer.pending:
            return self._stored(ranges, reverse, values)
        with buffer.lock:
            pending = {
                key: value
                for key, value in buffer.pending.items()
                if any(first <= key and (stop is None or key < stop) for first, stop in ranges)
            }
        return merged(self._stored(ranges, reverse, values), pending, reverse=reverse, values=values)

    def _stored(self, ranges: list[Range], reverse: bool, values: bool) -> Iterator[list[Any]]:
        return chunks(self._environment, ranges, reverse=reverse, values=values, check=self._check_open)

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreClosedError(f"{self!r} is closed", hint="open it again")

    # --- As a source ---------------------------------------------------------------------------------------------

    def paths(self) -> Iterator[tuple[str, ...]]:
        """The paths that the keys mean, in the order of the keys."""
        for chunk in self._chunks(EVERYTHING, False, values=False):
            yield from map(self._form.to_path, chunk)

    def records(self) -> Iterator[StoredRecord]:
        is_plain = self._is_plain
        for chunk in self._chunks(EVERYTHING, False, values=True):
            for key, data in chunk:
                path = self._form.to_path(key)
                payload = StoredPayload(self, key.decode() if is_plain else key)
                yield StoredRecord(path, None, partial(self._encoding.decoded, key, data), payload)

    def find(self, path: tuple[str, ...]) -> StoredRecord | None:
        key = self._form.to_bytes(path)
        return self._record(path, key) if self.exists(key) else None

    def _record(self, path: tuple[str, ...], key: bytes) -> StoredRecord:
        shown = key.decode() if self._is_plain else key
        return StoredRecord(path, None, partial(self.load, shown), StoredPayload(self, shown))

    def _find_all(self, paths: Sequence[tuple[str, ...]], keys: Sequence[bytes]) -> list[StoredRecord | None]:
        """What is under each of some paths, whose keys are given: in one transaction, a fifth of the time of `find`."""
        buffer = self._buffer or self._open()
        if not FAST or buffer.pending:
            return [
                self._record(path, key) if self.exists(key) else None for path, key in zip(paths, keys, strict=True)
            ]
        environment = buffer.environment
        transaction = environment.begin()
        try:
            there = [transaction.get(key) is not None for key in keys]
        finally:
            environment.end(transaction)
        if not any(there):
            return [None] * len(there)
        return [self._record(path, key) if has else None for path, key, has in zip(paths, keys, there, strict=True)]

    def load(self, key: Any) -> Any:
        return self[key]


class _View:
    """Some keys of a store, in one order, with what `keys`, `values` and `items` have in common."""

    _what: Literal["keys", "values", "items"]

    def __init__(self, store: LmdbReading, ranges: list[Range], reverse: bool) -> None:
        self._mapping, self._ranges, self._reverse = store, ranges, reverse

    def __len__(self) -> int:
        if self._ranges == EVERYTHING:
            return len(self._mapping)
        return sum(map(len, self._mapping._chunks(self._ranges, self._reverse, values=False)))

    def __iter__(self) -> Iterator[Any]:
        return self._mapping._iterate(self._ranges, self._reverse, self._what)

    def __reversed__(self) -> Iterator[Any]:
        return self._mapping._iterate(self._ranges, not self._reverse, self._what)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._mapping!r}>"

    def _has(self, key: Any) -> bool:
        data = self._mapping._form.to_bytes(key)
        is_in = any(first <= data and (stop is None or data < stop) for first, stop in self._ranges)
        return is_in and data in self._mapping


class LmdbKeysView(_View, KeysView[Any]):
    """Keys of an LMDB store."""

    _what = "keys"

    def __contains__(self, key: object) -> bool:
        return self._has(key)


class LmdbValuesView(_View, ValuesView[Any]):
    """Values of an LMDB store, in the order of their keys."""

    _what = "values"

    def __contains__(self, value: object) -> bool:
        return any(value is found or value == found for found in self)


class LmdbItemsView(_View, ItemsView[Any, Any]):
    """Pairs of a key and its value of an LMDB store."""

    _what = "items"

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2 or not self._has(item[0]):
            return False
        found = self._mapping.get(item[0], MISSING)
        return found is not MISSING and (found is item[1] or found == item[1])
