"""How the keys and values of an LMDB store become bytes, and values again; errors name the key."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice, repeat
from typing import Any

from ..._values import PLAIN, is_flat
from ...errors import (
    ArgumentError,
    ArgumentTypeError,
    CodecError,
    DamagedStoreError,
    DetachError,
    NotPicklableError,
    add_note,
    brief,
    got,
)
from ..protocol import Store
from .keys import MAX_KEY, KeyForm

__all__ = ["MAX_VALUE", "LmdbRecords", "is_iterable"]

#: Items that are encoded at a time.
AT_ONCE = 128
MAX_VALUE = 2**32 - 1


class LmdbRecords(Store):
    """An LMDB store, as far as it encodes and decodes; for any thread."""

    _form: KeyForm
    #: Whether keys that are text are plain UTF-8, and whether values are pickles: both have quicker ways.
    _is_plain: bool
    _pickles: bool

    def _key(self, key: Any) -> bytes:
        if type(key) is str and self._is_plain:
            try:
                data = key.encode()
            except UnicodeError:  # which the form tells of
                return self._form.to_bytes(key)
            if 0 < len(data) <= MAX_KEY:
                return data
        return self._form.to_bytes(key)

    def _encoded(self, value: Any, key: object) -> bytes:
        """The bytes of a value; errors name the key."""
        try:
            data = self.codec.encode(value)
        except (NotPicklableError, CodecError) as error:
            raise type(error)(f"{self!r}: the value of {brief(key)}: {error}") from error
        except (MemoryError, OSError):
            raise
        except Exception as error:
            add_note(error, f"{self!r}: while encoding the value of {brief(key)}")
            raise
        encoded = data if isinstance(data, bytes) else bytes(data)
        if len(encoded) > MAX_VALUE:
            raise CodecError(
                f"{self!r}: the value of {brief(key)} has {len(encoded):,} bytes, and LMDB takes {MAX_VALUE:,}"
            )
        return encoded

    def _decoded(self, key: bytes, data: Any) -> Any:
        try:
            return self.codec.decode(data)
        except (MemoryError, OSError):
            raise
        except Exception as error:
            with suppress(ArgumentError):
                key = self._form.to_key(key)
            if isinstance(error, DetachError):
                raise DetachError(f"{self!r}: the value of {brief(key)} can't be read: {error}") from error
            raise DamagedStoreError(
                f"{self!r}: the value of {brief(key)} can't be decoded with codec {self.codec.name!r}: "
                f"{type(error).__name__}: {error}; it is damaged, or was written otherwise"
            ) from error

    def _pairs(self, call: str, items: Any) -> Iterable[Any]:
        """The pairs of what a call was given."""
        if isinstance(items, Mapping):
            return items.items()
        if not is_iterable(items):
            raise ArgumentTypeError(
                f"{self!r}: {call} takes a mapping, or pairs of a key and a value; got {got(items)}"
            )
        pairs: Iterable[Any] = items
        return pairs

    def _encoded_items(self, items: Iterable[Any]) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Encoded keys and their values: a few at a time, in the loops of C, and without holding many values."""
        left = iter(items)
        count = 1
        while some := list(islice(left, count)):
            yield self._encoded_some(some)
            count = min(2 * count, AT_ONCE)

    def _encoded_some(self, items: list[Any]) -> tuple[list[bytes], list[bytes]]:
        if self._pickles and self._is_plain:
            try:
                keys, values = zip(*items, strict=True)
                texts = list(map(str.encode, keys))
                data = list(map(pickle.dumps, values, repeat(5)))
                if not (PLAIN.issuperset(map(type, values)) or all(map(is_flat, values))):
                    raise TypeError  # iterators are looked for
                if all(texts) and max(map(len, texts)) <= MAX_KEY and max(map(len, data)) <= MAX_VALUE:
                    return texts, data
            except Exception:  # other keys than text, or a value of another kind: one after the other
                pass
        encoded, stored = [], []
        for item in items:
            try:
                key, value = item
            except (TypeError, ValueError):
                raise ArgumentTypeError(
                    f"{self!r}: put_many takes a mapping, or pairs of a key and a value; got {got(item)}"
                ) from None
            encoded.append(self._form.to_new(key))
            stored.append(self._encoded(value, key))
        return encoded, stored


def is_iterable(given: Any) -> bool:
    """Whether a `for` loop takes it."""
    try:
        iter(given)
    except TypeError:
        return False
    return True
