"""Where a writer of an archive writes to, and what it goes on from or replaces."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from ..._files import open_regular
from ...errors import ArgumentError, DamagedStoreError
from ..codecs import Codec
from .format import FOOTER, read_footer
from .keys import keys_path
from .names import Source, base_of, found_files, is_pattern, real_inside, shard_number, shards_of, stem
from .opening import check_codecs, check_next, is_nothing
from .shards import Shard

__all__ = ["Target", "begin", "writing_base"]


class Target(NamedTuple):
    """Where a session writes to, and what it notes in each shard.

    Args:
        base: What the archive's files have in common.
        path: The one file, or None for a set of shards.
        limit: Bytes of a shard at most.
        codec: The codec's name.
        durable: Whether to wait for the disk.
        number: The number of the first new shard, for a set.
        replaced: The files that are there and have to go.
        set_id: What the shards of a set have in common.
        origin: What an archive of one file is known by.
        before: The number of records that there are, where that is known.
    """

    base: str
    path: str | None
    limit: int | None
    codec: str
    durable: bool
    number: int
    replaced: list[str]
    set_id: str | None
    origin: str | None
    before: int | None


def begin(
    name: str, source: Source, limit: int | None, codec: Codec, *, is_new: bool, check: bool, durable: bool
) -> tuple[Target, Shard | None]:
    """Where to write, and the last of the shards that stay; the lock is held. What `is_new` replaces what is there."""
    base, path, files = _files_of(name, source, limit, is_new)
    files = [path for path in files if not is_nothing(path)]
    old, number, replaced, set_id, origin = None, 0, [], None, None
    if is_new:
        for file in files:
            _check_is_archive(file)
        replaced = [*files, *filter(os.path.exists, map(keys_path, files))]
    elif files:
        old = Shard(files[-1], files[-1], check=check)
        try:
            check_codecs(name, codec, [old])
            set_id = _set_id_of(old, files)
            if path is None:
                check_next(old)
        except BaseException:
            old.close()
            raise
        found = shard_number(files[-1])
        number = 0 if found is None else found[1] + 1
    if path is None:
        set_id = set_id or os.urandom(8).hex()
    elif old is None:
        origin = os.urandom(8).hex()
    elif old.notes is not None:
        origin = old.notes.origin
    before = None if is_new or len(files) > 1 else 0 if old is None else len(old)
    return Target(base, path, limit, codec.name, durable, number, replaced, set_id, origin, before), old


def writing_base(source: Source, limit: int | None) -> str:
    """What all files of the archive have in common; one writer at a time is at work there.

    Raises:
        ForeignFileError: The file is a link out of its folder, where nobody asked to write.
    """
    if not isinstance(source, str) or is_pattern(source):
        return base_of(_last_of_several(source))
    real = real_inside(source)
    return base_of(real) if limit is None and not _means_shards(real) else stem(real)


def _last_of_several(source: Source) -> str:
    found = found_files(source)
    if not found:
        raise FileNotFoundError(f"no file matches {source}; name the file to make, without a pattern")
    return real_inside(found[-1].path)


def _files_of(name: str, source: Source, limit: int | None, is_new: bool) -> tuple[str, str | None, list[str]]:
    """What the files have in common, the one file if it is one, and the files that are there."""
    if not isinstance(source, str) or is_pattern(source):
        real = _last_of_several(source)
        numbered = shard_number(real)
        if numbered is not None:
            return numbered[0], None, shards_of(numbered[0])
        if limit is not None:
            raise ArgumentError(f"{name}: the last file, {real}, is no shard, so max_shard_bytes can't be used")
        return base_of(real), real, [real]
    real = real_inside(source)
    if limit is not None and os.path.exists(real) and not is_nothing(real):
        raise ArgumentError(
            f"{name}: {real} is one file, and with max_shard_bytes there would be shards beside it",
            hint="leave max_shard_bytes away, or move the file",
        )
    if limit is not None or (not is_new and _means_shards(real)):
        return stem(real), None, shards_of(stem(real))
    return base_of(real), real, [real] if os.path.exists(real) else []


def _means_shards(real: str) -> bool:
    return not os.path.exists(real) and bool(shards_of(stem(real)))


def _check_is_archive(path: str) -> None:
    """Refuse to replace what is no archive; a damaged one may be replaced."""
    with open(path, "rb", opener=open_regular) as file:
        start = file.read(8)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - FOOTER.size))
        with suppress(DamagedStoreError):
            read_footer(path, start, file.read(), size)


def _set_id_of(old: Shard, files: Sequence[str]) -> str | None:
    """The id of the set that a shard belongs to, although another program may have appended to it."""
    if old.notes is not None:
        return old.notes.set_id
    for path in reversed(files[:-1]):
        shard = Shard(path, path, check=True)
        noted = None if shard.notes is None else shard.notes.set_id
        shard.close()
        if noted is not None:
            return noted
    return None
