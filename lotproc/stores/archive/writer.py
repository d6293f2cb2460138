"""Encoding records for an archive, and its writer, which takes the results of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ...errors import ArgumentTypeError, CodecError, NotPicklableError, add_note, as_text, got
from ..codecs import Codec
from ..protocol import Item, StoredRecord
from .keys import as_line, as_path
from .writing import Session

__all__ = ["ArchiveWriter", "Encoding"]


class Encoding:
    """Makes of values what a session takes, with errors that name the archive and the record."""

    def __init__(self, name: str, codec: Codec) -> None:
        self._name, self.codec = name, codec

    def record(self, path: Any, value: Any, attributes: Any) -> tuple[bytes | memoryview, bytes | None]:
        """A record's bytes, and its line in the file of keys if it has one."""
        line = None if path is None and attributes is None else as_line(path, attributes)
        return self._value(value, "a record" if path is None else f"the record at {as_text(path)}"), line

    def records(self, records: Iterable[Any]) -> Iterator[tuple[bytes | memoryview, bytes | None]]:
        """Records one after the other, each given as its path, value and attributes."""
        for number, record in enumerate(records):
            try:
                path, value, attributes = record
            except (TypeError, ValueError) as error:
                raise ArgumentTypeError(
                    f"{self._name}: write_records() takes records that are (path, value, attributes), where path and "
                    "attributes may be None",
                    hint=f"record {number:,} is {got(record)}",
                ) from error
            yield self.record(path, value, attributes)

    def numbered(self, number: Callable[[], int]) -> Callable[[Any], bytes | memoryview]:
        """What makes bytes of one value after the other.

        Args:
            number: Tells the number of the value, for errors.
        """
        return lambda value: self._value(value, lambda: f"value {number():,}")

    def _value(self, value: Any, what: str | Callable[[], str]) -> bytes | memoryview:
        try:
            data = self.codec.encode(value)
        except (CodecError, NotPicklableError) as error:
            raise type(error)(f"{self._name}: {what if isinstance(what, str) else what()}: {error}") from error
        except Exception as error:
            add_note(error, f"{self._name}: while encoding {what if isinstance(what, str) else what()}")
            raise
        return data if type(data) is bytes else memoryview(data).cast("B")


class ArchiveWriter:
    """Takes items for an archive; they show from `commit` on.

    Args:
        stored: What the archive has under a path.
        begun: Returns what is being written.
        encoding: Makes bytes of the items.
        finish: Lets what was written show.
    """

    def __init__(
        self,
        stored: Callable[[tuple[str, ...]], StoredRecord | None],
        begun: Callable[[], Session],
        encoding: Encoding,
        finish: Callable[[], None],
    ) -> None:
        self._stored, self._begun, self._encoding, self._finish = stored, begun, encoding, finish
        #: Where each path is among what was taken, with its attributes; only if somebody asks.
        self._taken: dict[bytes, tuple[int, bytes]] | None = None

    def find(self, path: tuple[str, ...]) -> StoredRecord | None:
        """What there is under a path, with what was taken."""
        session, text = self._begun(), as_path(path)
        if self._taken is None:
            self._taken = {}
            for number, line in session.lines():
                self._note(number, line)
        taken = self._taken.get(text)
        if taken is None:
            return self._stored(path)
        number, attributes = taken
        metadata = json.loads(attributes) if attributes else None
        return StoredRecord(tuple(path), metadata, lambda: self._encoding.codec.decode(session.find(number)), None)

    def put(self, items: Sequence[Item]) -> None:
        """Take a batch, or none of it if one of them can't be stored."""
        session = self._begun()
        records = [self._encoding.record(path, value, metadata) for path, value, metadata in items]
        first = session.taken
        session.take_few(records)
        if self._taken is not None:
            for number, (_, line) in enumerate(records, first):
                self._note(number, line or b"null\n")

    def commit(self) -> None:
        """Finish what was taken."""
        self._finish()
        self._taken = None

    def _note(self, number: int, line: bytes) -> None:
        assert self._taken is not None
        path, _, attributes = line[:-1].partition(b"\t")
        self._taken[path] = number, attributes
