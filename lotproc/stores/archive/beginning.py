"""Where a writer of an archive writes to, and what it goes on from or replaces."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from ..._files import open_regular
from ...errors import ArgumentError, DamagedStoreError
from ..codecs import Codec
from .format import FOOTER, read_footer
from .keys import keys_path
from .names import Found, Source, base_of, found_files, is_pattern, real_inside, shard_number, shards_of, stem
from .opening import check_codecs, check_next, is_nothing
from .shards import Shard
from .writing import Session, Target

__all__ = ["Place"]


class Place:
    """Where an archive is written.

    Args:
        name: What the archive is called in errors.
        source: Its files.
        limit: Bytes of a shard at most.
    """

    def __init__(self, name: str, source: Source, limit: int | None) -> None:
        self._name, self._source, self._limit = name, source, limit

    def base(self) -> str:
        """What all files of the archive have in common; one writer at a time is at work there.

        Raises:
            ForeignFileError: The file is a link out of its folder, where nobody asked to write.
        """
        if self._is_several():
            return base_of(real_inside(self._last_of_several().path))
        real = real_inside(self._source_path())
        return base_of(real) if self._limit is None and not _means_shards(real) else stem(real)

    def begin(self, codec: Codec, *, is_new: bool, check: bool, durable: bool) -> tuple[Session, int | None]:
        """Begin writing, under the lock.

        Args:
            codec: The codec.
            is_new: Whether what is there is to be replaced.
            check: Whether checksums are looked at.
            durable: Whether to wait for the disk.

        Returns:
            The session, and the number of records that there are, where that is known.
        """
        target, files = self._target(is_new)
        files = [path for path in files if not is_nothing(path)]
        old, number, replaced, set_id, before = None, 0, [], None, None
        if not is_new:
            if files:
                old = Shard(files[-1], files[-1], check=check)
            try:
                if old is not None:
                    check_codecs(self._name, codec, [old])
                    set_id = _set_id_of(old, files)
                if old is not None and target.path is None:
                    check_next(old)
                if len(files) < 2:
                    before = 0 if old is None else len(old)
                if target.path is None and files:
                    found = shard_number(files[-1])
                    number = 0 if found is None else found[1] + 1
            except BaseException:
                if old is not None:
                    old.close()
                raise
        else:
            for path in files:
                _check_is_archive(path)
            replaced = [*files, *filter(os.path.exists, map(keys_path, files))]
        origin = None
        if target.path is None:
            set_id = set_id or os.urandom(8).hex()
        elif old is None:
            origin = os.urandom(8).hex()
        elif old.notes is not None:
            origin = old.notes.origin
        ids = set_id, origin
        return Session(target, old, number, replaced, self._limit, codec.name, *ids, durable=durable), before

    def _is_several(self) -> bool:
        return isinstance(self._source, tuple) or is_pattern(self._source)

    def _source_path(self) -> str:
        assert isinstance(self._source, str)
        return self._source

    def _last_of_several(self) -> Found:
        found = found_files(self._source)
        if not found:
            raise FileNotFoundError(f"no file matches {self._source}; name the file to make, without a pattern")
        return found[-1]

    def _target(self, is_new: bool) -> tuple[Target, list[str]]:
        """Where to write, and the files that are there."""
        if self._is_several():
            real = real_inside(self._last_of_several().path)
            numbered = shard_number(real)
            if numbered is not None:
                return Target(numbered[0], None), shards_of(numbered[0])
            if self._limit is not None:
                raise ArgumentError(
                    f"{self._name}: the last file, {real}, is no shard, so max_shard_bytes can't be used"
                )
            return Target(base_of(real), real), [real]
        real = real_inside(self._source_path())
        if self._limit is not None and os.path.exists(real) and not is_nothing(real):
            raise ArgumentError(
                f"{self._name}: {real} is one file, and with max_shard_bytes there would be shards beside it; "
                "leave max_shard_bytes away, or move the file"
            )
        if self._limit is not None or (not is_new and _means_shards(real)):
            return Target(stem(real), None), shards_of(stem(real))
        return Target(base_of(real), real), [real] if os.path.exists(real) else []


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
