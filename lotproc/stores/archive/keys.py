"""The file of keys and attributes beside a shard: lines of JSON, of which the shard notes how many count.

    {"lotproc":"keys","version":1,"id":"7f0c..."}         the first line
    {"first":120}                                          the next lines are of the records from 120 on
    ["ann","clip_1"]<tab>{"seconds":1.5}                   a path, and attributes if there are any
    null                                                   a record that has no key
    {"commit":[122,5120,305419896,19088743]}               records, payload, and the checksums of ends and payload

Lines are only ever added, so a reader that knows how many count can go on reading. A tab can't be in JSON, and the same
path is the same text, so paths are compared without being parsed.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import threading
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..._files import open_regular
from ...errors import ArgumentError, ArgumentTypeError, CodecError, DamagedStoreError, as_text, got
from ..codecs import json_metadata
from .format import KeysNote
from .names import base_of, read_pending
from .shards import Shard

__all__ = ["KeyFile", "KeyLine", "KeySpool", "as_line", "as_path", "keys_path", "noted_keys", "open_keys"]

#: Bytes of lines that are read in one go.
BLOCK = 1 << 20


class KeyLine(NamedTuple):
    """A record that has a path or attributes.

    Args:
        record: Its number.
        path: Its path as text; `b"null"` where it has none.
        attributes: Its attributes as text; empty where it has none.
        file: The file of keys.
    """

    record: int
    path: bytes
    attributes: bytes
    file: str

    def as_path(self) -> tuple[str, ...] | None:
        """The path."""
        keys = self._loaded(self.path)
        if keys is None:
            return None
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise self._damage(self.path)
        return tuple(keys)

    def as_attributes(self) -> dict[str, Any] | None:
        """The attributes; None where there are none."""
        value = self._loaded(self.attributes) if self.attributes else None
        if value is not None and not isinstance(value, dict):
            raise self._damage(self.attributes)
        return value

    def _loaded(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._damage(text) from error

    def _damage(self, text: bytes) -> DamagedStoreError:
        return DamagedStoreError(
            f"{self.file} is damaged: for record {self.record:,} of its shard it has {got(text[:100])}, which is no "
            "path and attributes"
        )


def keys_path(shard: str) -> str:
    """The file of keys of a shard."""
    return f"{shard}.keys"


def as_path(path: Any) -> bytes:
    """A path as text, the same for the same path.

    Raises:
        ArgumentTypeError: It is no path.
        ArgumentError: It has text that JSON would make something else of.
    """
    if not isinstance(path, (tuple, list)) or not all(isinstance(key, str) for key in path):
        hint = f'for a single key, ("{path}",)' if isinstance(path, str) else None
        raise ArgumentTypeError("Archive: a path", expected="a tuple of keys, each a str", got=got(path), hint=hint)
    text = _compact([str(key) for key in path])
    if "\\ud" in text and json.loads(text) != list(path):
        raise ArgumentError(f"Archive: the path {path!r} has two halves of a character side by side, which JSON joins")
    return text.encode("ascii")


def as_line(path: Any, attributes: Any) -> bytes:
    """The line of a record.

    Raises:
        ArgumentTypeError, ArgumentError: The path is none.
        CodecError: JSON can't hold the attributes exactly.
    """
    text = b"null" if path is None else as_path(path)
    if attributes is None:
        return text + b"\n"
    where = "a record without a path" if path is None else f"the record at {as_text(path)}"
    if not isinstance(attributes, Mapping) or not all(isinstance(name, str) for name in attributes):
        raise ArgumentTypeError(
            f"Archive: the attributes of {where}", expected="a mapping from names to values", got=got(attributes)
        )
    exact = json_metadata(dict(attributes))
    line = "" if exact is None else _compact(exact)
    if exact is None or ("\\ud" in line and json.loads(line) != exact):
        bad = [name for name, value in attributes.items() if not _is_exact(name, value)]
        raise CodecError(
            f"Archive: {where} has attributes that JSON can't hold exactly: "
            + ", ".join(f"{name!r} ({got(attributes[name])})" for name in bad)
        )
    return b"".join([text, b"\t", line.encode("ascii"), b"\n"])


def _is_exact(name: str, value: Any) -> bool:
    exact = json_metadata({name: value})
    return exact is not None and ("\\ud" not in (line := _compact(exact)) or bool(json.loads(line) == exact))


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


class KeySpool:
    """Lines that are being written, to be put at the end of a file of keys or to become one.

    Args:
        path: A new file.
        old: How much of the file there is counts; None for a new one.
    """

    def __init__(self, path: str, old: KeysNote | None) -> None:
        self.path, self.old = path, old
        self.id = secrets.token_hex(8) if old is None else old.id
        self.crc = 0 if old is None else old.crc
        self.size = 0
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115
        if old is None:
            self.put(_first_line(self.id))

    def put(self, lines: bytes) -> None:
        """Add lines; when they don't fit on the disk, none of them is there."""
        write_all(self._file, lines, self.size)
        self.size += len(lines)
        self.crc = zlib.crc32(lines, self.crc)

    def state(self) -> tuple[int, int]:
        """What `restore` takes."""
        return self.size, self.crc

    def restore(self, state: tuple[int, int]) -> None:
        """Drop what was put since."""
        self.size, self.crc = state
        if self._file.closed:
            self._file = open(self.path, "r+b", buffering=0)  # noqa: SIM115
        self._file.truncate(self.size)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines that were put, each with the number of its record in the shard."""
        record = 0
        with open(self.path, "rb") as file:
            for line in file:
                if line.startswith(b"{"):
                    record = _parsed(line).get("first", 0)
                else:
                    yield record, line
                    record += 1

    def finish(self, commit: Sequence[int], *, durable: bool) -> KeysNote:
        """Add the line that says what the lines belong to, and close the file."""
        self.put(_compact({"commit": commit}).encode("ascii") + b"\n")
        if durable:
            os.fsync(self._file.fileno())
        self.close()
        return KeysNote(self.size + (0 if self.old is None else self.old.size), self.crc, self.id)

    def add_to(self, path: str, *, durable: bool) -> None:
        """Put the lines behind those of the file that count."""
        assert self.old is not None
        with open(path, "r+b", buffering=0, opener=open_regular) as file, open(self.path, "rb") as lines:
            file.truncate(self.old.size)  # what a writer left that was killed
            at = self.old.size
            while block := lines.read(1 << 20):
                write_all(file, block, at)
                at += len(block)
            if durable:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_all(file: Any, data: bytes | memoryview, at: int) -> None:
    """Write at the end of a file, whose end is there; a failure leaves it as it was.

    Raises:
        OSError: The disk is full, or it fails.
    """
    try:
        file.seek(at)
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
    except BaseException:
        file.truncate(at)
        raise


class KeyFile:
    """The file of keys beside a shard, held open: where each line is, not what it says.

    A writer may add lines to it, or replace it; what counts stays as it is. It is closed with the last one who has it,
    such as an iterator over the keys. Any threads and forks may read from it.

    Args:
        path: What it is called.
        file: Where it lies now.
    """

    def __init__(self, path: str, file: str) -> None:
        self.path = path
        #: The records that have a line, where it starts, and the hash of its path; in order.
        self.records, self._starts, self.hashes = array("q"), array("q"), array("q")
        #: The records whose path is a single key that looks like a number.
        self.numbers: list[int] = []
        self._size = 0
        self._seeking = threading.Lock()
        self._descriptor = -1
        self._descriptor = open_regular(file)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def is_of(self, note: KeysNote | None) -> bool:
        """Whether it is the file that a shard notes."""
        line = b"" if note is None else _first_line(note.id)
        return self._read(0, len(line)) == line

    def noted(self, shard: Shard) -> KeysNote | None:
        """How much of it counts for a shard that has no notes, as `noted_keys` says."""
        found, crc = None, 0
        known = _parsed(next((line for _, line in self._lines(1 << 12)), b""))
        if known.get("lotproc") != "keys" or known.get("version") != 1 or not isinstance(known.get("id"), str):
            return None
        for start, line in self._lines(os.fstat(self._descriptor).st_size):
            crc = zlib.crc32(line, crc)
            if line.startswith(b'{"commit"') and _is_start(shard, _parsed(line).get("commit")):
                found = KeysNote(start + len(line), crc, known["id"])
        return found

    def learn(self, shard: Shard) -> None:
        """Find out where the lines are.

        Raises:
            DamagedStoreError: The file is not what the shard notes.
        """
        note = self.noted(shard) if shard.notes is None else shard.notes.keys
        if note is None:
            return
        records, starts, hashes, numbers = array("q"), array("q"), array("q"), []
        crc, record = 0, -1
        for start, line in self._lines(note.size):
            crc = zlib.crc32(line, crc)
            if line.startswith(b"{"):
                first = _parsed(line).get("first", record)
                if type(first) is not int or not record <= first <= len(shard):
                    raise DamagedStoreError(f"{self.path} is damaged: it has {got(line[:100])} where records begin")
                record = first
            elif record >= 0:
                path = line[:-1].partition(b"\t")[0]
                records.append(record)
                starts.append(start)
                hashes.append(hash(path))
                if path[2:3].isdigit() and b"," not in path:
                    numbers.append(record)
                record += 1
        if record > len(shard):
            raise DamagedStoreError(f"{self.path} is damaged: it has keys for more records than {shard.path} has")
        if crc != note.crc:
            raise DamagedStoreError(
                f"{self.path} is damaged: it is not what {shard.path} notes", hint="its keys can't be read"
            )
        self.records, self._starts, self.hashes, self.numbers, self._size = records, starts, hashes, numbers, note.size

    def lines(self) -> Iterator[KeyLine]:
        """The records that have a line, in order."""
        number = 0
        for start, line in self._lines(self._size):
            if number == len(self._starts):
                return
            if start == self._starts[number]:
                yield self._keyed(self.records[number], line)
                number += 1

    def line(self, record: int) -> KeyLine | None:
        """The line of a record; None where it has none."""
        number = bisect_left(self.records, record)
        if number == len(self.records) or self.records[number] != record:
            return None
        start = self._starts[number]
        stop = self._starts[number + 1] if number + 1 < len(self._starts) else self._size
        data = self._read(start, stop - start)
        return self._keyed(record, data[: data.find(b"\n") + 1])

    def _keyed(self, record: int, line: bytes) -> KeyLine:
        path, _, attributes = line[:-1].partition(b"\t")
        return KeyLine(record, path, attributes, self.path)

    def _lines(self, stop: int) -> Iterator[tuple[int, bytes]]:
        """The whole lines up to a place, each with where it starts."""
        start, at, rest = 0, 0, b""
        while block := self._read(at, min(stop - at, BLOCK)):
            at += len(block)
            for line in io.BytesIO(rest + block):
                if not line.endswith(b"\n"):
                    rest = line
                    break
                yield start, line
                start += len(line)
            else:
                rest = b""

    def _read(self, at: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, at)
        with self._seeking:
            os.lseek(self._descriptor, at, os.SEEK_SET)
            return os.read(self._descriptor, size)


def open_keys(shard: Shard) -> KeyFile | None:
    """Open the keys of a shard that was just opened; None where it has none.

    Raises:
        DamagedStoreError: The file is not there, or is one of other keys; both may be so for a moment while a writer
            replaces it.
    """
    path = keys_path(shard.path)
    if shard.notes is not None and shard.notes.keys is None:
        return None
    for place in _places(path, shard.path):
        with suppress(FileNotFoundError):
            file = KeyFile(path, place)
            if shard.notes is None or file.is_of(shard.notes.keys):
                return file
    if shard.notes is None:
        return None
    if not os.path.exists(path):
        raise DamagedStoreError(
            f"{path} is not there: it has the keys of the archive's records, and goes where the archive goes"
        )
    raise DamagedStoreError(f"{path} has other keys than those of {shard.path}, which are lost or elsewhere")


def _places(path: str, shard: str) -> Iterator[str]:
    """Where the file of keys is, or is until it gets its name."""
    real = os.path.realpath(shard)
    if os.path.islink(shard):  # which the user named, so there may be a link to the keys too
        yield os.path.realpath(path)
        path = keys_path(real)
    yield path
    pending = read_pending(base_of(real))
    if pending is not None:
        yield pending[0].get(keys_path(real), path)
        yield path  # where it has just got its name


def noted_keys(shard: Shard) -> KeysNote | None:
    """How much of the file beside a shard counts.

    A shard that another program has appended to has no notes. Then it is all up to the last commit whose records are
    still what the shard starts with.
    """
    if shard.notes is not None:
        return shard.notes.keys
    file = open_keys(shard)
    return None if file is None else file.noted(shard)


def _is_start(shard: Shard, commit: Any) -> bool:
    """Whether a shard starts with the records of a commit."""
    if not isinstance(commit, list) or len(commit) != 4 or not all(isinstance(number, int) for number in commit):
        return False
    records, payload, index_crc, payload_crc = commit
    if not 0 <= records <= len(shard) or shard.start(records) != payload:
        return False
    if zlib.crc32(shard.index[:records].data) != index_crc:
        return False
    return bool(zlib.crc32(shard.view[:payload]) == payload_crc)


def _first_line(id: str) -> bytes:
    return _compact({"lotproc": "keys", "version": 1, "id": id}).encode("ascii") + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
