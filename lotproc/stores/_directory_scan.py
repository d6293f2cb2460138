"""What entries a directory has, in the order of their paths, however many they are."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from ..errors import ForeignFileError
from ._directory_keys import HIDDEN, PAIR, TEMPORARY, is_nested

__all__ = ["entries", "first_values", "subdirectories"]

#: Names of a directory that are held at a time; for more of them it is read again.
WINDOW = 50_000
#: Seconds after which a hidden file that nobody has put in its place is a killed writer's.
LEFT = 86_400.0

#: A name and whether it is that of a nested directory, so that an entry comes before what is nested below it.
Found = tuple[str, bool]


def entries(
    root: str, suffix: str, complete: Callable[[tuple[str, ...]], None], *, nested: bool = True
) -> Iterator[tuple[str, ...]]:
    """The paths of all entries: depth first, sorted by name.

    Args:
        root: The directory.
        suffix: What the files of values end in.
        complete: Called with the path of each entry whose change has not come to its end.
        nested: Whether to go into nested directories.
    """
    stack: list[tuple[tuple[str, ...], Iterator[Found]]] = [((), _sorted(root, (), suffix, complete))]
    while stack:
        path, names = stack[-1]
        for name, is_directory in names:
            if not is_directory:
                yield (*path, name) if name else path
            elif nested:
                below = (*path, name)
                stack.append((below, _sorted(os.path.join(root, *below), below, suffix, complete)))
                break
        else:
            stack.pop()


def subdirectories(root: str, suffix: str) -> list[str]:
    """The names of the directories in a directory that can hold entries, sorted."""
    with os.scandir(root) as found:
        return sorted(item.name for item in found if is_nested(item.name, suffix) and _is_directory(root, item))


def first_values(root: str, suffixes: tuple[str, ...], most: int) -> Iterator[str]:
    """Files of values as they are found, among the first so many names."""
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        with suppress(FileNotFoundError, PermissionError), os.scandir(directory) as found:
            for item in found:
                most -= 1
                if most < 0:
                    return
                if item.is_dir():
                    if is_nested(item.name, suffixes[0]) and not item.is_symlink():
                        waiting.append(item.path)
                elif item.name.endswith(suffixes):
                    yield item.path


def _sorted(
    directory: str, path: tuple[str, ...], suffix: str, complete: Callable[[tuple[str, ...]], None]
) -> Iterator[Found]:
    _mend(directory, path, complete)
    window = heapq.nsmallest(WINDOW, _names(directory, path, suffix))
    while window:
        yield from window
        if len(window) < WINDOW:
            return
        last = window[-1]
        window = heapq.nsmallest(WINDOW, (item for item in _names(directory, path, suffix) if item > last))


def _names(directory: str, path: tuple[str, ...], suffix: str) -> Iterator[Found]:
    try:
        found = os.scandir(directory)
    except FileNotFoundError:
        if not path:
            raise
        return
    with found:
        for item in found:
            name = item.name
            if name.endswith(suffix):
                stem = name[: -len(suffix)]
                # Without a name there is the root's record alone.
                if stem not in (".", "..") and (stem or not path) and not item.is_dir():
                    yield stem, False
            elif is_nested(name, suffix) and _is_directory(directory, item):
                yield name, True


def _is_directory(directory: str, item: os.DirEntry[str]) -> bool:
    if not item.is_dir():
        return False
    if not item.is_symlink():
        return True
    here, there = os.path.realpath(directory), os.path.realpath(item.path)
    return not os.path.join(here, "").startswith(os.path.join(there, ""))  # a link to above would have no end


def _mend(directory: str, path: tuple[str, ...], complete: Callable[[tuple[str, ...]], None]) -> None:
    """Complete what killed writers have left in a directory, and remove their hidden files."""
    pending, left = [], []
    try:
        with os.scandir(directory) as found:
            for item in found:
                name = item.name
                if name[:1] == ".":
                    if name.endswith(PAIR):
                        pending.append(name[1 : -len(PAIR)])
                    elif name.startswith(HIDDEN) and name.endswith(TEMPORARY):
                        left.append(item.path)
    except FileNotFoundError:
        return
    for name in pending:
        if name or not path:
            with suppress(PermissionError, ForeignFileError):
                complete((*path, name) if name else path)
    for hidden in left:
        with suppress(OSError):
            if time.time() - os.lstat(hidden).st_mtime > LEFT:
                os.unlink(hidden)
