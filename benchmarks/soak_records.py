"""Records that tell whether they are whole: each says what it is, and ends in a checksum."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any


class TornError(Exception):
    """A record is not what was written, or not where it was written."""


def record(key: str, step: int, size: int) -> bytes:
    """What step number so-and-so stores under a key: some text, so many bytes, and a checksum."""
    head = f"{key}\0{step}\0{size}\0".encode()
    data = head + (hashlib.blake2b(head).digest() * (size // 64 + 1))[:size]
    return data + zlib.crc32(data).to_bytes(4, "little")


def step_of(key: str, data: Any) -> int:
    """Which step stored a record under a key.

    >>> step_of("ann", record("ann", 3, 100))
    3

    Raises:
        TornError: None did.
    """
    data = bytes(data)
    if len(data) < 4 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise TornError(f"a record of {len(data)} bytes under {key!r} is not what was written: {data[:40]!r}")
    name, step, size, _ = data.split(b"\0", 3)
    if name.decode() != key or data != record(key, int(step), int(size)):
        raise TornError(f"under {key!r} is the record of {name.decode()!r}")
    return int(step)


def key_of(data: Any) -> str:
    """Under which key a record says that it was stored."""
    return bytes(data).split(b"\0", 1)[0].decode(errors="replace")


def note(key: str, step: int) -> dict[str, Any]:
    """The metadata of a record."""
    return {"step": step, "text": f"{key}, step {step}. " * (step % 50)}


def step_of_note(key: str, metadata: Mapping[str, Any] | None) -> int | None:
    """Which step stored metadata for a key; `None`: there is none.

    Raises:
        TornError: None did.
    """
    if metadata is None:
        return None
    step = metadata.get("step")
    if not isinstance(step, int) or dict(metadata) != note(key, step):
        raise TornError(f"the metadata of {key!r} is not what was written: {str(metadata)[:80]}")
    return step
