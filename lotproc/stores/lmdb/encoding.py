"""Encoding keys and values of an LMDB store, and decoding them; errors name the key."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice, repeat
from typing import Any

from ..._fast import FAST
from ..._values import PLAIN, is_flat
from ...errors import (
    ArgumentError,
    ArgumentTypeError,
    CodecError,
    DamagedStoreError,
    DetachError,
    NotPicklableError,
    add_note,
    as_text,
    brief,
    got,
)
from ..codecs import NAMES_A_CLASS, Codec, is_kept
from .keys import MAX_KEY, KeyForm

__all__ = ["MAX_VALUE", "Encoding", "is_iterable"]

#: Items that are encoded at a time.
AT_ONCE = 128
MAX_VALUE = 2**32 - 1


class Encoding:
    """Makes bytes of the keys and values of a store, and values of the bytes; for any thread."""

    def __init__(self, name: str, form: KeyForm, codec: Codec) -> None:
        self.form, self._name, self._codec = form, name, codec
        #: Whether keys that are text are plain UTF-8, and whether values are pickles: both have quicker ways.
        self.is_plain, self.pickles = form.is_plain, codec.name == "pickle"

    def key(self, key: Any) -> bytes:
        """A key, to look for."""
        if type(key) is str and self.is_plain:
            try:
                data = key.encode()
            except UnicodeError:  # which the form tells of
                return self.form.to_bytes(key)
            if 0 < len(data) <= MAX_KEY:
                return data
        return self.form.to_bytes(key)

    def encoded(self, value: Any, key: object) -> bytes:
        """The bytes of a value; errors name the key."""
        try:
            data = self._codec.encode(value)
        except (NotPicklableError, CodecError) as error:
            raise type(error)(f"{self._name}: the value of {brief(key)}: {error}") from error
        except (MemoryError, OSError):
            raise
        except Exception as error:
            add_note(error, f"{self._name}: while encoding the value of {brief(key)}")
            raise
        encoded = data if isinstance(data, bytes) else bytes(data)
        if len(encoded) > MAX_VALUE:
            raise CodecError(
                f"{self._name}: the value of {brief(key)} has {len(encoded):,} bytes, and LMDB takes {MAX_VALUE:,}"
            )
        return encoded

    def encoded_many(self, values: Sequence[Any], paths: Iterable[tuple[str, ...]]) -> list[bytes]:
        """The bytes of the values at some paths; errors name the path."""
        if FAST and self.pickles:
            # As below, without a call and a name for each: a third of the time.
            try:
                made = list(map(pickle.dumps, values, repeat(5)))
            except Exception:
                pass  # below it is told which it is
            else:
                if all(
                    len(data) <= MAX_VALUE and (NAMES_A_CLASS not in data or is_kept(value))
                    for data, value in zip(made, values, strict=True)
                ):
                    return made
        return [self.encoded(value, as_text(path)) for value, path in zip(values, paths, strict=True)]

    def decoded(self, key: bytes, data: Any) -> Any:
        """A value; errors name the key."""
        try:
            return self._codec.decode(data)
        except (MemoryError, OSError):
            raise
        except Exception as error:
            with suppress(ArgumentError):
                key = self.form.to_key(key)
            if isinstance(error, DetachError):
                raise DetachError(f"{self._name}: the value of {brief(key)} can't be read: {error}") from error
            raise DamagedStoreError(
                f"{self._name}: the value of {brief(key)} can't be decoded with codec {self._codec.name!r}: "
                f"{type(error).__name__}: {error}",
                hint="it is damaged, or was written otherwise",
            ) from error

    def pairs(self, call: str, items: Any) -> Iterable[Any]:
        """The pairs of what a call was given."""
        if isinstance(items, Mapping):
            return items.items()
        if not is_iterable(items):
            raise ArgumentTypeError(
                f"{self._name}: {call} takes a mapping, or pairs of a key and a value", got=got(items)
            )
        pairs: Iterable[Any] = items
        return pairs

    def items(self, items: Iterable[Any]) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Encoded keys and their values: a few at a time, in the loops of C, and without holding many values."""
        left = iter(items)
        count = 1
        while some := list(islice(left, count)):
            yield self._some(some)
            count = min(2 * count, AT_ONCE)

    def _some(self, items: list[Any]) -> tuple[list[bytes], list[bytes]]:
        if self.pickles and self.is_plain:
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
                    f"{self._name}: put_many takes a mapping, or pairs of a key and a value", got=got(item)
                ) from None
            encoded.append(self.form.to_new(key))
            stored.append(self.encoded(value, key))
        return encoded, stored


def is_iterable(given: Any) -> bool:
    """Whether a `for` loop takes it."""
    try:
        iter(given)
    except TypeError:
        return False
    return True
