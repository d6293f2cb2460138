"""Files in folders, found by their paths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ._attaching import reason_of
from ._patterns import PathPattern
from ._public import public
from .errors import ArgumentError, ArgumentTypeError, PatternError, got
from .file_models import IndexedFile

__all__ = ["index_files"]


@public
def index_files(folder: str | os.PathLike[str], pattern: str = "**/*.wav") -> Iterator[IndexedFile]:
    """Find the files in a folder whose path matches a pattern.

    >>> import pathlib, tempfile
    >>> from lotproc import index_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pathlib.Path(folder, "ann").mkdir()
    ...     pathlib.Path(folder, "ann", "clip_1.WAV").touch()
    ...     [found.path for found in index_files(folder)]
    [('ann', 'clip_1')]

    Args:
        folder: The folder to search.
        pattern: Components with `*`, `?` and `[...]`, between slashes; `**` stands for any number of folders, none
            included. Letter case doesn't count.

    Returns:
        An iterator of `IndexedFile`, depth first, sorted by name in each folder. Lazy; folders that can't match are not
        entered, nor are links to folders; holds the matching names in the folders along the current path. A folder in
        it that can't be listed stands in its place, with the `reason`, and `ingest_files` reports it.

    Raises:
        ArgumentError: `folder` is not there, is no folder, or can't be listed.
        ArgumentTypeError: `folder` is no path, or `pattern` no str.
        PatternError: `pattern` is no path pattern.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise ArgumentTypeError("index_files: folder", expected="a str or a path", got=got(folder))
    if not isinstance(pattern, str):
        raise ArgumentTypeError("index_files: pattern", expected="a str like '**/*.wav'", got=got(pattern))
    if not {".", ".."}.isdisjoint(pattern.split("/")):
        why, hint = "has a component that is no name of a file", "it begins in the folder: '**/*.wav'"
        raise PatternError(f"index_files: the path pattern {pattern!r}", why, hint=hint)
    top = Path(folder).absolute()
    try:
        os.scandir(top).close()
    except (OSError, ValueError) as error:
        reason = f"can't be listed: {getattr(error, 'strerror', error)}"
        words: dict[type[Exception], str] = {FileNotFoundError: "is not there", NotADirectoryError: "is no folder"}
        raise ArgumentError(f"index_files: {str(top)!r}", words.get(type(error), reason)) from error
    return _found(top, PathPattern("index_files", pattern.casefold()))


def _found(top: Path, pattern: PathPattern) -> Iterator[IndexedFile]:
    stack: list[tuple[tuple[str, ...], Path, Iterator[tuple[str, frozenset[int], bool]]]]
    stack = [((), top, _listing(top, pattern, pattern.start))]
    while stack:
        keys, folder, entries = stack[-1]
        for name, positions, is_folder in entries:
            if is_folder:
                below = folder / name
                try:
                    listed = _listing(below, pattern, positions)
                except OSError as error:
                    yield IndexedFile((*keys, name), below, f"the folder can't be listed: {reason_of(error)}")
                    continue
                stack.append(((*keys, name), below, listed))
                break
            yield IndexedFile((*keys, os.path.splitext(name)[0]), folder / name)
        else:
            stack.pop()


def _listing(
    folder: Path, pattern: PathPattern, positions: frozenset[int]
) -> Iterator[tuple[str, frozenset[int], bool]]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            after = pattern.step(positions, entry.name.casefold())
            if entry.is_dir(follow_symlinks=False):
                if after and pattern.literals(after) != []:  # no keys at all could come next
                    found.append((entry.name, after, True))
            elif pattern.accepts(after) and (entry.is_file(follow_symlinks=False) or _is_file(entry.path)):
                found.append((entry.name, after, False))
    return iter(sorted(found))


def _is_file(path: str) -> bool:
    """Whether it is a file, or a link to nowhere: a file that can't be read, as whoever reads it will say."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))
