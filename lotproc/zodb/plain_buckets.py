"""Buckets of children as lotproc writes them: keys found, and children put in, without an object for each child."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

from lotdb import BaseNode

from .encoding import BUCKET_REFERENCE, INLINE, class_name
from .records import BUCKET, Reference

__all__ = ["PlainBucket"]

_BEGIN, _NAME, _BUCKET_REFERENCE = (
    part.decode("latin-1") for part in (BUCKET + b"\x80\x03(", class_name(BaseNode) + b"q", BUCKET_REFERENCE)
)
#: A child: the length of its key, its key, its id, and its class, which the first one names, and others refer to.
_CHILD = re.compile(f"X(.)\0\0\0([ -~]+)C\x08.{{8}}(?:h|{re.escape(_NAME)})\0\x86Q", re.DOTALL)
_BEFORE_KEY, _BEFORE_CLASS, _BESIDE_KEY = 5, 15, 19
#: What stands behind the last one: of the last bucket, and of one that another follows.
_END = re.compile(f"t\x85\\.|tC\x08.{{8}}{re.escape(_BUCKET_REFERENCE)}\x86\\.", re.DOTALL)
_PLAIN_KEY = re.compile("[ -~]{1,255}")


class PlainBucket:
    """The record of a bucket whose children all are `BaseNode`s with short keys of ASCII, as `part_record` makes it.

    Args:
        keys: Their keys.
        children: The children as text, a character for each byte, all as those that refer to the name of their class.
        end: What stands behind them.
    """

    __slots__ = ("_children", "_end", "_keys")

    def __init__(self, keys: list[str], children: str, end: str) -> None:
        self._keys, self._children, self._end = keys, children, end

    @classmethod
    def of(cls, record: bytes) -> PlainBucket | None:
        """What a record says, if it is such a one to the byte."""
        text = record.decode("latin-1")
        if not text.startswith(_BEGIN):
            return None
        start = len(_BEGIN)
        found = _CHILD.findall(text, start)
        if not found:
            return None
        lengths, keys = zip(*found, strict=True)
        named = start + _BEFORE_CLASS + len(keys[0])
        stop = start + sum(map(len, keys)) + len(keys) * _BESIDE_KEY + len(_NAME) - 1
        if not (
            text.startswith(_NAME, named)
            and _END.fullmatch(text, stop)  # so nothing else is between the children
            and "".join(lengths) == "".join(map(chr, map(len, keys)))
            and sorted({*keys}) == [*keys]
        ):
            return None
        children = f"{text[start:named]}h{text[named + len(_NAME) : stop]}"
        return cls([*keys], children, text[stop:])

    def items(self) -> Iterator[tuple[str, Reference]]:
        """The keys and the children."""
        for number, key in enumerate(self._keys):
            yield key, self._child(number)

    def get(self, key: str) -> Reference | None:
        """The child with this key."""
        return self._child(self._keys.index(key)) if key in self._keys else None

    def record_with(self, children: Mapping[str, tuple[bytes, Any]]) -> bytes | None:
        """The record with new children, given as ids and classes, put in; `None` where it would be of another kind."""
        if len(self._keys) + len(children) > INLINE:
            return None  # it would split
        changed = PlainBucket([*self._keys], self._children, self._end)
        for key, (oid, kind) in children.items():
            if kind is not BaseNode or not _PLAIN_KEY.fullmatch(key):
                return None
            changed._put(key, oid)
        named = _BEFORE_CLASS + len(changed._keys[0])
        begin, rest = changed._children[:named], changed._children[named + 1 :]
        return f"{_BEGIN}{begin}{_NAME}{rest}{changed._end}".encode("latin-1")

    def _put(self, key: str, oid: bytes) -> None:
        number = bisect_left(self._keys, key)
        at = self._at(number)
        child = f"X{chr(len(key))}\0\0\0{key}C\x08{oid.decode('latin-1')}h\0\x86Q"
        self._children = f"{self._children[:at]}{child}{self._children[at:]}"
        self._keys.insert(number, key)

    def _child(self, number: int) -> Reference:
        oid = self._at(number + 1) - (_BESIDE_KEY - _BEFORE_KEY - 2)
        return Reference((self._children[oid : oid + 8].encode("latin-1"), BaseNode))

    def _at(self, number: int) -> int:
        """Where in the text a child begins."""
        return sum(map(len, self._keys[:number])) + number * _BESIDE_KEY
