"""The bytes of a shard: the records, where each ends, lotproc's notes with checksums, and the footer.

    payload | <i8 end of each record | <u4 checksum of each group | notes (JSON) | <II8s tail | <qq8s footer

Payload, ends and footer are the format ROXXEL01 of roxxel 0.1.0, which ignores what lies between ends and footer.

A group is the records that start within the same 16 KiB of the payload. Its checksum is the CRC-32 of their bytes. So a
record's group is known from where it starts, and appending goes on with the last group's checksum.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from ...errors import DamagedStoreError, ForeignFileError

__all__ = ["FOOTER", "GROUP_BITS", "KeysNote", "Notes", "built_end", "group_count", "read_footer", "read_notes"]

FOOTER = struct.Struct("<qq8s")
MAGIC = b"ROXXEL01"
#: Bytes of notes, the CRC-32 of group checksums and notes, and the magic.
TAIL = struct.Struct("<II8s")
TAIL_MAGIC = b"LOTPROC1"
#: A group is as many bytes of the payload as these bits can number.
GROUP_BITS = 14
#: The most bytes that notes can have, without the codec's name; and those that are read at all.
MAX_NOTES, MAX_READ = 256, 1 << 12


class KeysNote(NamedTuple):
    """How much of the file of keys beside a shard counts.

    Args:
        size: Bytes from its start.
        crc: Their CRC-32.
        id: What the file is known by.
    """

    size: int
    crc: int
    id: str


class Notes(NamedTuple):
    """What lotproc notes in a shard.

    Args:
        records: The number of records.
        payload: Their bytes.
        codec: The codec's name.
        set_id: What the shards that belong together have in common; `None` for an archive of one file.
        index_crc: The CRC-32 of the ends.
        payload_crc: The CRC-32 of the payload.
        keys: What there is of keys.
        follows: Whether another shard was written that follows. Where not, one may have been added later.
        origin: What an archive of one file has been known by since it was made; appending leaves it.
    """

    records: int
    payload: int
    codec: str
    set_id: str | None
    index_crc: int
    payload_crc: int
    keys: KeysNote | None
    follows: bool = False
    origin: str | None = None


def group_count(payload: int) -> int:
    """Groups in a payload of so many bytes; the last one may be empty."""
    return (payload >> GROUP_BITS) + 1


def most_bytes(ends: Any, records: Any, codec: str) -> Any:
    """How large a shard can be whose records, so many, end there; numbers or arrays."""
    return ends + 8 * records + 4 * ((ends >> GROUP_BITS) + 1) + MAX_NOTES + len(codec) + TAIL.size + FOOTER.size


def built_end(notes: Notes, groups: bytes) -> bytes:
    """All that comes after the ends of the records."""
    fields = notes._asdict()
    fields["keys"] = None if notes.keys is None else notes.keys._asdict()
    if not notes.follows:
        del fields["follows"]
    if notes.origin is None:
        del fields["origin"]
    text = json.dumps({"version": 1, **fields}, separators=(",", ":")).encode("ascii")
    crc = zlib.crc32(text, zlib.crc32(groups))
    tail = TAIL.pack(len(text), crc, TAIL_MAGIC)
    return b"".join([groups, text, tail, FOOTER.pack(notes.records, notes.payload, MAGIC)])


def read_footer(path: str, start: bytes, end: bytes, size: int) -> tuple[int, int]:
    """The number of records and the bytes of the payload.

    Args:
        path: The file, for errors.
        start: Its first 8 bytes, or all of them.
        end: Its last 24 bytes, or all of them.
        size: Its size.

    Raises:
        ForeignFileError: It is no archive, or one of another version.
        DamagedStoreError: It can't be as large as the footer says.
    """
    magic = end[-len(MAGIC) :]
    if not size:
        raise ForeignFileError(f"{path} is empty, so it is no archive", hint='Archive(..., "a") or "w" makes one of it')
    if magic != MAGIC or size < FOOTER.size:
        for found in (magic, start):
            if re.fullmatch(rb"ROXXEL\d\d", found) and found != MAGIC:
                raise ForeignFileError(
                    f"{path} is an archive of the format {found.decode()}", hint=f"lotproc knows {MAGIC.decode()} only"
                )
        raise ForeignFileError(
            f"{path} is no archive: it ends in {magic!r}, not in {MAGIC!r}",
            hint="it is something else, or an archive that was cut off. Move it away if it is not needed",
        )
    records, payload, _ = FOOTER.unpack(end[-FOOTER.size :])
    if records < 0 or payload < 0 or payload + 8 * records + FOOTER.size > size:
        raise DamagedStoreError(
            f"{path} is damaged: its footer tells of {records:,} records of {payload:,} bytes in all, "
            f"which do not fit into its {size:,} bytes"
        )
    return records, payload


def read_notes(path: str, data: memoryview, records: int, payload: int) -> tuple[Notes, np.ndarray[Any, Any]] | None:
    """The notes and the checksums of the groups; None for a shard that lotproc did not write.

    Args:
        path: The file, for errors.
        data: What the file holds.
        records: The number of records, from the footer.
        payload: The bytes of the payload, from the footer.

    Raises:
        DamagedStoreError: There is something between ends and footer, and it is not what lotproc wrote.
    """
    start, stop = payload + 8 * records, len(data) - FOOTER.size
    if start == stop:
        return None
    try:
        length, crc, magic = TAIL.unpack(data[max(start, stop - TAIL.size) : stop])
        notes_start = start + 4 * group_count(payload)
        if magic != TAIL_MAGIC or notes_start + length + TAIL.size != stop or length > MAX_READ:
            raise ValueError("they are not what lotproc writes there")
        if zlib.crc32(data[start : stop - TAIL.size]) != crc:
            raise ValueError("their checksum is wrong")
        notes = _as_notes(json.loads(bytes(data[notes_start : notes_start + length])))
        if (notes.records, notes.payload) != (records, payload):
            raise ValueError(f"they tell of {notes.records:,} records, the footer of {records:,}")
        if zlib.crc32(data[payload:start]) != notes.index_crc:
            raise ValueError("the checksum of the records' ends is wrong")
    except (struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedStoreError(
            f"{path} is damaged: it has {stop - start:,} bytes before its footer that can't be read: {error}",
            hint="Archive(..., check=False) reads it without them",
        ) from error
    return notes, np.frombuffer(data, "<u4", group_count(payload), start)


def _as_notes(value: Any) -> Notes:
    if not isinstance(value, dict) or value.pop("version") != 1:
        raise ValueError("a later version of lotproc wrote them")
    keys = value["keys"]
    value["keys"] = None if keys is None else KeysNote(**keys)
    notes = Notes(**value)
    for noted, kinds in ((notes, _KINDS), (notes.keys, _KEYS_KINDS)):
        if noted is not None and not all(map(_is_one, noted, kinds)):
            raise ValueError("they are not of the kinds that lotproc writes")
    return notes


#: What each note must be.
_KINDS = (int, int, str, str | None, int, int, KeysNote | None, bool, str | None)
_KEYS_KINDS = (int, int, str)


def _is_one(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) and not (kind is int and value < 0)
