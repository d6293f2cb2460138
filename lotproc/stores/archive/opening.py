"""Opening an archive's files in one state of it, although a writer may be at work beside it."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterable, Sequence

from ...errors import CodecError, DamagedStoreError, ForeignFileError
from ..codecs import Codec, check_codec
from .keys import KeyFile, open_keys
from .names import (
    Found,
    Pattern,
    Source,
    found_files,
    has_signs,
    is_pattern,
    matcher,
    shard_number,
    shard_path,
)
from .shards import Shard

__all__ = ["OpenFiles", "check_codecs", "check_next", "is_nothing", "open_settled"]

#: How often files are looked at again that change while they are opened.
TRIES = 50


class OpenFiles:
    """The shards of an archive, and what each has beside it: keys, nothing, or why its keys can't be read."""

    def __init__(self) -> None:
        self.shards: list[Shard] = []
        self.keys: list[KeyFile | Exception | None] = []

    def add(self, found: Found, *, check: bool) -> None:
        """Open a shard and its keys; only what is wrong with the shard is raised."""
        shard = Shard(found.path, found.file, check=check)
        self.shards.append(shard)
        try:
            self.keys.append(open_keys(shard))
        except (OSError, DamagedStoreError, ForeignFileError) as error:
            error.__traceback__ = error.__context__ = error.__cause__ = None  # without frames, and the files there
            self.keys.append(error)

    def is_sure(self) -> bool:
        """Whether nothing hints at a writer who has replaced a file in between: keys that fit are those of a shard."""
        return all(shard.notes is not None for shard in self.shards) and not any(
            isinstance(keys, Exception) for keys in self.keys
        )

    def close(self) -> None:
        """Let the files go; who is still reading keys keeps theirs."""
        for shard in self.shards:
            shard.close()
        self.shards, self.keys = [], []


def open_settled(source: Source, *, check: bool, may_be_new: bool) -> OpenFiles:
    """Open the files of an archive, all of the same state.

    A file that is named is replaced in one step. What is listed may change while it is, so it is listed again.

    Args:
        source: What `as_source` returned.
        check: Whether checksums are looked at.
        may_be_new: Whether there may be no archive yet.

    Raises:
        FileNotFoundError: There is none.
        ForeignFileError: A file is no archive.
        DamagedStoreError: A file can't be read, or a shard is missing.
    """
    shown = source if isinstance(source, str) else ", ".join(source)
    was_problem = False
    for _ in range(TRIES):
        found = found_files(source)
        if not found:
            if may_be_new:
                return OpenFiles()
            hint = "; a pattern is given as a str" if has_signs(source) and not isinstance(source, Pattern) else ""
            raise FileNotFoundError(f'there is no archive {shown}; Archive(..., "w") makes one{hint}')
        if may_be_new and len(found) == 1 and is_nothing(found[0].file):
            return OpenFiles()
        is_named = len(found) == 1 and found[0].path == source
        opened, problem = OpenFiles(), None
        try:
            try:
                for one in found:
                    opened.add(one, check=check)
                if not is_named:
                    _check_set(source, opened.shards)
                elif opened.is_sure():
                    return opened
            except (FileNotFoundError, DamagedStoreError) as error:
                problem = error
            is_settled = found_files(source) == found and all(map(_is_there, opened.shards))
            if is_settled and problem is None:
                return opened
        except BaseException:
            opened.close()
            raise
        opened.close()
        if is_settled and was_problem and problem is not None:
            raise problem
        was_problem = is_settled  # a file may have gone and come back, so one look is not enough
    raise DamagedStoreError(f"the files of {shown} changed while they were opened, {TRIES} times in a row")


def is_nothing(path: str) -> bool:
    """Whether a file is not there, or empty, as those of `tempfile` are at first."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def check_codecs(name: str, codec: Codec, shards: Iterable[Shard]) -> None:
    """Refuse shards that another codec wrote."""
    for shard in shards:
        if shard.notes is not None:
            if shard.notes.codec != codec.name:
                known = f'codec="{shard.notes.codec}"' if shard.notes.codec != "custom" else "its pair of functions"
                raise CodecError(
                    f"{name}: the records of {shard.path} were written with the codec {shard.notes.codec!r}, not "
                    f"{codec.name!r}",
                    hint=f"open it with {known}",
                )
        elif len(shard):
            check_codec(name, codec, shard.view[: shard.ends[0]])


def check_next(shard: Shard, following: str | None = None) -> None:
    """Refuse a shard as the last one that was followed by another one when it was written.

    Args:
        shard: The shard.
        following: What that other one is called, where it is known.
    """
    if shard.notes is not None and shard.notes.follows:
        raise DamagedStoreError(
            f"{shard.path} is not the last shard of its archive, and {following or 'the next one'} is not there",
            hint="to read only some of the shards, give a list of them",
        )


def _check_set(source: Source, shards: Sequence[Shard]) -> None:
    """Refuse shards of which some are missing, or are of another set by the same name: somebody has copied them so."""
    known: dict[str, tuple[str, str]] = {}
    paths = {shard.path for shard in shards}
    for shard in shards:
        numbered = shard_number(shard.path)
        if numbered is None or shard.notes is None or shard.notes.set_id is None:
            continue
        base, number = numbered
        other, path = known.setdefault(base, (shard.notes.set_id, shard.path))
        if other != shard.notes.set_id:
            raise DamagedStoreError(
                f"{path} and {shard.path} are shards of two archives of the same name",
                hint="one of them was replaced, and not all its shards are here",
            )
        following = shard_path(base, number + 1)
        if following not in paths and _is_meant(source, following):
            check_next(shard, following)


def _is_meant(source: Source, path: str) -> bool:
    """Whether a shard is one of those that were asked for, beside the one before it."""
    if isinstance(source, tuple):
        return False
    return not is_pattern(source) or fnmatch.fnmatch(os.path.basename(path), matcher(os.path.basename(source)))


def _is_there(shard: Shard) -> bool:
    """Whether the file is still the one that was mapped."""
    try:
        status = os.stat(shard.file)
    except FileNotFoundError:
        return False
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) == shard.identity
