"""Which files an archive has: one, the shards of a set, those that a pattern matches, or a list of them."""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from ..._files import linked_inside, open_regular
from ...errors import ArgumentError, ArgumentTypeError, DamagedStoreError, got

__all__ = [
    "Found",
    "Pattern",
    "Source",
    "as_source",
    "base_of",
    "found_files",
    "has_signs",
    "hidden",
    "is_pattern",
    "is_temporary",
    "matcher",
    "naturally",
    "read_pending",
    "real_inside",
    "shard_number",
    "shard_path",
    "shards_of",
    "stem",
]

#: How the files of an archive are given, with absolute paths.
Source: TypeAlias = "str | tuple[str, ...]"


class Pattern(str):
    """An absolute path that may be a pattern; another str is a path as it stands."""

    __slots__ = ()


class Found(NamedTuple):
    """A file of an archive.

    Args:
        path: What it is called.
        file: Where it lies now.
    """

    path: str
    file: str


def as_source(path: Any) -> Source:
    """The absolute paths that are meant, or the one path or pattern."""
    if isinstance(path, (str, os.PathLike)):
        text = _absolute(path)
        return Pattern(text) if isinstance(path, str) and has_signs(path) else text
    if isinstance(path, (list, tuple)):
        if not path:
            raise ArgumentError("Archive: path must name at least one file, got an empty list")
        return tuple(map(_absolute, path)) if len(path) > 1 else _absolute(path[0])
    raise ArgumentTypeError("Archive: path", expected="a path, a pattern or a list of paths", got=got(path))


def _absolute(path: Any) -> str:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise ArgumentTypeError("Archive: path", expected="a path, a pattern or a list of paths", got=got(path))
    if not text or "\0" in text:
        raise ArgumentError("Archive: path", expected="the path of a file", got=f"{text!r}")
    return os.path.abspath(text)


def has_signs(source: Source) -> bool:
    """Whether a path has what means something in a pattern."""
    return isinstance(source, str) and ("*" in source or "?" in source)


def is_pattern(path: str) -> bool:
    """Whether a path is a pattern: it was given as a str, has `*` or `?`, and is no file as it stands."""
    return isinstance(path, Pattern) and not os.path.exists(path)


def matcher(pattern: str) -> str:
    """A pattern as `glob` and `fnmatch` know it, to which `[` means something too."""
    return pattern.replace("[", "[[]")


def naturally(paths: Iterable[str]) -> list[str]:
    """Sorted so that numbers count as such.

    >>> naturally(["part_10000", "part_9998"])
    ['part_9998', 'part_10000']
    """
    return sorted(paths, key=_natural)


def _natural(path: str) -> tuple[list[str | int], str]:
    parts = _DIGITS.split(path)  # text and numbers in turn
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], path


_DIGITS = re.compile("([0-9]+)")
_TEMPORARY = re.compile(r"[0-9a-f]{16}(-keys)?\.tmp")
_NUMBER = re.compile(r"_([0-9]{4,})\.rox\Z")


def stem(path: str) -> str:
    """A path without the ending `.rox`, if it has it: what shards are called after."""
    return path[:-4] if path.endswith(".rox") else path


def shard_path(base: str, number: int) -> str:
    """The path of a shard.

    >>> shard_path("data", 12)
    'data_0012.rox'
    """
    return f"{base}_{number:04d}.rox"


def shard_number(path: str) -> tuple[str, int] | None:
    """The base and the number of a shard, by its path; None for what is called otherwise."""
    match = _NUMBER.search(path)
    if match is None or shard_path(base := path[: match.start()], number := int(match[1])) != path:
        return None
    return base, number


def base_of(path: str) -> str:
    """What all shards that may belong together have in common; one writer at a time is at work there."""
    numbered = shard_number(path)
    return stem(path) if numbered is None else numbered[0]


def shards_of(base: str) -> list[str]:
    """The shards of a set that there are, in order."""
    paths = glob.glob(f"{glob.escape(base)}_[0-9][0-9][0-9][0-9]*.rox")
    numbered = [(found[1], path) for path in paths if (found := shard_number(path)) is not None and found[0] == base]
    return [path for _, path in sorted(numbered)]


def hidden(base: str, ending: str) -> str:
    """A file beside an archive that neither patterns nor people come across."""
    folder, name = os.path.split(base)
    return os.path.join(folder, f".{name}.rox-{ending}")


def read_pending(base: str) -> tuple[dict[str, str], set[str]] | None:
    """What is being replaced, or was when somebody was killed: where the new files lie, and the old ones that go.

    Raises:
        ForeignFileError: What tells it is no regular file.
        DamagedStoreError: It is damaged, or tells of files that are not this archive's.
    """
    path = hidden(base, "pending")
    try:
        with open(path, "rb", opener=open_regular) as file:
            text = file.read()
    except FileNotFoundError:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedStoreError(f"{path} is damaged: {error}", hint=f"it tells how {base} is replaced") from error

    def full(name: Any, is_meant: Callable[[str], bool]) -> str:
        there = os.path.join(os.path.dirname(base), name) if isinstance(name, str) else ""
        if not there or os.path.basename(name) != name or not is_meant(there):
            raise DamagedStoreError(f"{path} is damaged: {got(name)} is no name of a file of this archive")
        return there

    def is_own(file: str) -> bool:
        return base in (base_of(file), base_of(file.removesuffix(".keys")))

    def is_new(file: str) -> bool:
        return is_temporary(base, file)

    try:
        moves = {full(to, is_own): full(at, is_new) for at, to in value["moves"]}
        return moves, {full(name, is_own) for name in value["deletes"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedStoreError(f"{path} is damaged: {error!r}") from error


def is_temporary(base: str, path: str) -> bool:
    """Whether a file is one that a writer makes, until it gets its name."""
    start = hidden(base, "")
    return path.startswith(start) and _TEMPORARY.fullmatch(path[len(start) :]) is not None


def real_inside(path: str) -> str:
    """The real path of a file; a link is followed if it stays in its folder.

    Raises:
        ForeignFileError: It is a link that leads elsewhere.
    """
    if os.path.islink(path):
        return linked_inside(path, os.path.realpath(os.path.dirname(path)))
    return os.path.realpath(path)


def found_files(source: Source) -> list[Found]:
    """The files of an archive, in order; none where there are none.

    Where a set of shards is being replaced, it is the new one, although its files still have other names.

    Raises:
        ForeignFileError: A file that nobody named is a link out of its folder.
    """
    if isinstance(source, tuple):
        pending = _pending(base_of(os.path.realpath(path)) for path in source)
        return [_found(path, pending, is_named=True) for path in source]
    if is_pattern(source):
        # A folder may match by chance. What else is no file is told of when it is opened.
        paths = {path for path in glob.glob(matcher(source)) if path.endswith(".rox") or not os.path.isdir(path)}
        pending = _pending([*map(base_of, paths), *_bases_beside(source)])
        deleted = {path for _, deletes in pending for path in deletes}
        new = {path for moves, _ in pending for path in moves}
        paths = (paths - deleted) | {path for path in new if fnmatch.fnmatch(path, matcher(source))}
        return [_found(path, pending) for path in naturally(paths)]
    pending = _pending([base_of(os.path.realpath(source))])
    moves = {path for moves, _ in pending for path in moves}
    if os.path.exists(source) or source in moves:
        return [_found(source, pending, is_named=True)]
    base = stem(source)
    deleted = {path for _, deletes in pending for path in deletes}
    shards = [path for path in {*shards_of(base), *moves} - deleted if shard_number(path) and base_of(path) == base]
    return [_found(path, pending) for path in naturally(shards)]


_Pending: TypeAlias = "list[tuple[dict[str, str], set[str]]]"


def _pending(bases: Iterable[str]) -> _Pending:
    return [found for base in dict.fromkeys(bases) if (found := read_pending(base)) is not None]


def _bases_beside(pattern: str) -> Iterator[str]:
    """What is being replaced in the folders that a pattern names."""
    for path in glob.glob(os.path.join(os.path.dirname(matcher(pattern)), ".*.rox-pending")):
        folder, name = os.path.split(path)
        yield os.path.join(folder, name[1 : -len(".rox-pending")])


def _found(path: str, pending: _Pending, *, is_named: bool = False) -> Found:
    """Where a file is; links are followed that the user named, or that stay in their folder."""
    real = path
    if os.path.islink(path) or pending:
        real = os.path.realpath(path) if is_named else real_inside(path)
    for moves, _ in pending:
        file = moves.get(real)
        if file is not None and os.path.lexists(file):
            return Found(path, file)
    return Found(path, real)
