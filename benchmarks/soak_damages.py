"""Ways to damage files: what disks, transfers and people do to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random


def damage_files(folder: Path, choose: Random) -> str:
    """Damage one or two files in a folder; says how."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.name.endswith((".lock", "lock.mdb"))
    )
    told = []
    for _ in range(choose.choice((1, 1, 1, 2))):
        files = [path for path in files if path.stat().st_size]
        if not files:
            break
        path, how = choose.choice(files), choose.choice(list(DAMAGES))
        data = bytearray(path.read_bytes())
        other = choose.choice(files).read_bytes()
        where = DAMAGES[how](data, other, choose)
        path.write_bytes(data)
        told.append(f"{path.relative_to(folder)}: {how} at {where}")
    return ", ".join(told)


def _at(data: bytearray, choose: Random) -> int:
    """A place: anywhere, or near one of the ends, where the structure of files is."""
    size = len(data)
    near = min(size, choose.choice((16, 200, 5_000)))
    return choose.choice((choose.randrange(size), choose.randrange(near), size - 1 - choose.randrange(near)))


def _flip(data: bytearray, other: bytes, choose: Random) -> int:
    for _ in range(choose.choice((1, 1, 1, 8))):
        at = _at(data, choose)
        data[at] ^= 1 << choose.randrange(8)
    return at


def _overwrite(data: bytearray, other: bytes, choose: Random) -> int:
    at = _at(data, choose)
    length = min(choose.choice((1, 2, 4, 8, 64, 4096)), len(data) - at)
    data[at : at + length] = choose.choice((bytes(length), b"\xff" * length, choose.randbytes(length)))
    return at


def _truncate(data: bytearray, other: bytes, choose: Random) -> int:
    at = _at(data, choose)
    del data[at:]
    return at


def _truncate_pages(data: bytearray, other: bytes, choose: Random) -> int:
    at = choose.randrange(0, len(data), 4096)
    del data[at:]
    return at


def _swap_tail(data: bytearray, other: bytes, choose: Random) -> int:
    """The end of another file, or of another part of it, in the place of this one's end."""
    length = min(len(data), len(other), choose.choice((8, 24, 24, 40, 400, 4096)))
    data[len(data) - length :] = other[len(other) - length :]
    return len(data) - length


def _swap_pages(data: bytearray, other: bytes, choose: Random) -> int:
    """Two parts of the file change places."""
    size = choose.choice((8, 64, 4096, 4096))
    if len(data) < 2 * size:
        return _flip(data, other, choose)
    one, two = (choose.randrange(len(data) // size) * size for _ in range(2))
    data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]
    return one


def _insert(data: bytearray, other: bytes, choose: Random) -> int:
    at = _at(data, choose)
    data[at:at] = choose.choice((other, data[:at]))[: choose.choice((1, 8, 24, 4096))]
    return at


def _cut(data: bytearray, other: bytes, choose: Random) -> int:
    at = _at(data, choose)
    del data[at : at + choose.choice((1, 8, 24, 4096))]
    return at


DAMAGES: dict[str, Callable[[bytearray, bytes, Random], int]] = {
    "bits are flipped": _flip,
    "bytes are overwritten": _overwrite,
    "it is cut off": _truncate,
    "it is cut off after a page": _truncate_pages,
    "it has the end of another": _swap_tail,
    "two parts are swapped": _swap_pages,
    "bytes are inserted": _insert,
    "bytes are taken out": _cut,
}
