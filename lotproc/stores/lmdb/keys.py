"""The keys of an LMDB store: from bytes, text and record paths to the bytes that LMDB sorts by, and back."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from ...errors import ArgumentError, ArgumentTypeError, brief, got
from ..escapes import escaped, unescaped

__all__ = ["MAX_KEY", "Key", "KeyForm", "Range", "after", "intersected"]

#: What the methods of an LMDB store take as a key.
Key: TypeAlias = "str | bytes | bytearray | memoryview | tuple[str, ...]"
#: Keys from the first one on and before the second one, `None` for no end.
Range: TypeAlias = "tuple[bytes, bytes | None]"
Form: TypeAlias = Literal["NFC", "NFD", "NFKC", "NFKD"]

#: What an escaped key of a path begins with. No text is impossible as a key, but nobody has written this one before.
MARK = "\x1blotproc:"
#: Bytes of the longest key; it is fixed when LMDB is built, and this is what all packages of it have.
MAX_KEY = 511


class KeyForm(NamedTuple):
    """How keys are written.

    A record's path is its keys, joined by "/"; the root's is "/". So that each key has one path and each path one key,
    a text that would have empty parts ("a//b", "/a") is a path of one key. A key of a path that can't be joined
    ("dF/F", "") or encoded is escaped, behind a mark; without the mark, a percent sign is one.

    Args:
        name: Whose keys they are, for errors.
        encoding: How text is encoded; `None`: only bytes are keys.
        errors: What is done with characters that the encoding lacks.
        normalize: The Unicode form that text is brought to, if any.
    """

    name: str
    encoding: str | None
    errors: str
    normalize: Form | None

    def checked(self) -> KeyForm:
        """This form, if it can be used."""
        for option, value in (("key_encoding", self.encoding), ("str_normalize", self.normalize)):
            if value is not None and not isinstance(value, str):
                raise ArgumentTypeError(f"{self.name}: {option}", expected="a str or None", got=got(value))
        if not isinstance(self.errors, str):
            raise ArgumentTypeError(f"{self.name}: key_errors", expected="a str", got=got(self.errors))
        try:
            if self.encoding is not None:
                "a/b".encode(self.encoding)
        except LookupError:
            raise ArgumentError(
                f"{self.name}: key_encoding",
                expected="an encoding of text, as 'utf-8', or None",
                got=f"{self.encoding!r}",
            ) from None
        try:
            codecs.lookup_error(self.errors)
        except LookupError:
            raise ArgumentError(
                f"{self.name}: key_errors",
                expected="'strict', 'ignore', 'replace' or another error handler",
                got=f"{self.errors!r}",
            ) from None
        if self.normalize not in (None, "NFC", "NFD", "NFKC", "NFKD"):
            raise ArgumentError(
                f"{self.name}: str_normalize",
                expected="'NFC', 'NFD', 'NFKC', 'NFKD' or None",
                got=f"{self.normalize!r}",
            )
        return self

    @property
    def is_plain(self) -> bool:
        """Whether `str.encode` and `bytes.decode`, as they are, do for text."""
        return self.encoding in ("utf-8", "utf8", "UTF-8") and self.errors == "strict" and self.normalize is None

    def to_bytes(self, key: Any) -> bytes:
        """A key as LMDB takes it."""
        data = self._prefix(key)
        if not 0 < len(data) <= MAX_KEY:
            raise ArgumentError(
                f"{self.name}: a key must have 1 to {MAX_KEY} bytes when it is encoded",
                hint=f"{brief(key)} has {len(data)}",
            )
        return data

    def of_paths(self, paths: Sequence[tuple[str, ...]]) -> list[bytes]:
        """The keys of records' paths, as LMDB takes them: together, for most paths that there are."""
        try:
            texts = list(map("/".join, paths))
            joined = "".join(texts)
            if (
                self.is_plain
                and joined.isascii()
                and joined.count("/") == sum(map(len, paths)) - len(paths)  # none has one inside of a key
                and all(map(all, paths))
                and all(texts)
                and MARK not in joined
                and max(map(len, texts)) <= MAX_KEY
            ):
                return list(map(str.encode, texts))
        except (TypeError, ValueError):
            pass  # one is no path, or there is none
        return list(map(self.to_bytes, paths))

    def to_new(self, key: Any) -> bytes:
        """A key that something is to be stored under: iterating must be able to give it."""
        data = self.to_bytes(key)
        if self.encoding is not None and isinstance(key, (bytes, bytearray, memoryview)):
            self.to_text(data)
        return data

    def _prefix(self, key: Any) -> bytes:
        """A key, or what keys start with, in bytes."""
        if type(key) is bytes:
            return key
        if isinstance(key, (bytes, bytearray, memoryview)):
            return bytes(key)
        if isinstance(key, tuple):
            return self._encoded(self.path_text(key), self.encoding or "utf-8")
        if isinstance(key, str):
            if self.encoding is None:
                raise ArgumentTypeError(
                    f"{self.name}: with key_encoding=None keys",
                    expected="bytes, or tuples of str",
                    got=got(key),
                    hint="open the store with key_encoding='utf-8' for keys of text",
                )
            return self._encoded(key, self.encoding)
        raise ArgumentTypeError(
            f"{self.name}: a key",
            expected=f"bytes, {'a str, ' if self.encoding else ''}or a record's path (a tuple of str)",
            got=got(key),
        )

    def _encoded(self, text: str, encoding: str) -> bytes:
        try:
            return (unicodedata.normalize(self.normalize, text) if self.normalize else text).encode(
                encoding, self.errors
            )
        except UnicodeError as error:
            raise ArgumentError(
                f"{self.name}: the key {brief(text)} can't be written in {encoding} with "
                f"key_errors={self.errors!r}: {error}"
            ) from error

    def path_text(self, path: tuple[Any, ...]) -> str:
        """The text of a record's path."""
        if not path:
            return "/"
        try:
            text = "/".join(path)
        except TypeError:  # which the loop tells of
            text = ""
        if text.isascii() and text.count("/") == len(path) - 1 and all(path) and MARK not in text:  # nearly always
            return text
        for key in path:
            if not isinstance(key, str):
                raise ArgumentTypeError(
                    f"{self.name}: a record's path", expected="a tuple of str", got=f"{brief(path)} with {got(key)}"
                )
        if self.normalize:  # which may make a slash of another character
            path = tuple(unicodedata.normalize(self.normalize, key) for key in path)
        is_alone = len(path) == 1
        return "/".join(f"{MARK}{escaped(key)}" if self._is_odd(key, is_alone) else key for key in path)

    def _is_odd(self, key: str, is_alone: bool) -> bool:
        """Whether a key of a path is escaped."""
        if not key or ("/" in key and (not is_alone or key == "/" or all(key.split("/")))):
            return True
        if self._unmarked(key, is_alone) != key:  # as it stands it would be read as another one
            return True
        if key.isascii():
            return False
        try:
            key.encode(self.encoding or "utf-8", self.errors)
        except UnicodeError:
            return True
        return False

    def _unmarked(self, part: str, is_alone: bool) -> str:
        """The key that a part of a path's text means."""
        if not part.startswith(MARK):
            return part
        key = unescaped(part[len(MARK) :])
        return part if key is None or not self._is_odd(key, is_alone) else key

    def to_text(self, key: bytes) -> str:
        """The text that a key holds."""
        encoding = self.encoding or "utf-8"
        try:
            return key.decode(encoding, self.errors)
        except (UnicodeError, TypeError, LookupError) as error:  # a TypeError: of a handler that is for encoding only
            raise ArgumentError(
                f"{self.name}: the key {brief(key)} is no text in {encoding} ({error})",
                hint="open the store with key_encoding=None to have its keys as bytes",
            ) from error

    def to_key(self, key: bytes) -> Any:
        """A key as iterating gives it."""
        return key if self.encoding is None else self.to_text(key)

    def to_path(self, key: bytes) -> tuple[str, ...]:
        """The record's path that a key means."""
        text = self.to_text(key)
        if text == "/":
            return ()
        path = tuple(text.split("/"))
        if not all(path):
            return (text,)
        return tuple(self._unmarked(part, len(path) == 1) for part in path) if MARK in text else path

    def ranges(self, prefix: Any, start: Any, stop: Any) -> list[Range]:
        """Where the keys are that a scan is about, in order.

        Args:
            prefix: What keys start with; a path: that record, and all below it.
            start: The first key.
            stop: The key to stop before.
        """
        first = b"" if start is None else self._prefix(start)
        last = None if stop is None else self._prefix(stop)
        if prefix is None or prefix == ():
            found: list[Range] = [(b"", None)]
        elif isinstance(prefix, tuple):
            itself = self.to_bytes(prefix)
            below = self._encoded(self.path_text(prefix) + "/", self.encoding or "utf-8")
            found = sorted([(itself, itself + b"\0"), (below, after(below))])
        else:
            begin = self._prefix(prefix)
            found = [(begin, after(begin))]
        return intersected(found, first, last)


def after(prefix: bytes) -> bytes | None:
    """The first key after all those that start with a prefix; None if there is none.

    >>> after(b"ann/")
    b'ann0'
    """
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def intersected(ranges: Sequence[Range], first: bytes, last: bytes | None) -> list[Range]:
    """The parts of ranges between two keys.

    >>> intersected([(b"a", b"c"), (b"d", None)], b"b", b"e")
    [(b'b', b'c'), (b'd', b'e')]
    """
    found = []
    for begin, end in ranges:
        begin = max(begin, first)
        end = last if end is None else end if last is None else min(end, last)
        if end is None or begin < end:
            found.append((begin, end))
    return found
