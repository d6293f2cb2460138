"""What entries a directory has, in the order of their paths, however many they are."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain

from ..._files import linked_inside, open_regular
from ...errors import ForeignFileError
from .keys import ESCAPED, HIDDEN, PAIR, TEMPORARY, EntryPaths, Layout

__all__ = ["entries", "first_values", "subdirectories", "sweep"]

#: Names of a directory that are held at a time; for more of them it is read again.
WINDOW = 50_000
#: Seconds after which a hidden file that nobody has put in its place is a killed writer's.
LEFT = 86_400.0

#: A name and whether it is that of a nested directory, so that an entry comes before what is nested below it.
Found = tuple[str, bool]


def entries(layout: Layout, has: Callable[[EntryPaths], bool], *, nested: bool = True) -> Iterator[tuple[str, ...]]:
    """The paths of all entries: depth first, sorted by name.

    A link to a directory within the store is passed over, since what it leads to is listed where it lies.

    Args:
        layout: Where they are.
        has: Whether there is an entry; asked of the root's, and of those whose change has not come to its end.
        nested: Whether to go into nested directories.

    Raises:
        ForeignFileError: There is a link to a directory out of the store.
    """
    if has(layout.at(())):
        yield ()
    stack: list[tuple[tuple[str, ...], Iterator[Found]]] = [((), _sorted(layout, (), has))]
    while stack:
        path, names = stack[-1]
        for name, is_directory in names:
            below = (*path, name)
            if not is_directory:
                yield below
            elif nested:
                stack.append((below, _sorted(layout, below, has)))
                break
        else:
            stack.pop()


def subdirectories(layout: Layout) -> list[str]:
    """The keys of the directories in a directory that can hold entries, sorted."""
    return sorted(name for name, is_directory in _names(layout, layout.root) if is_directory)


def first_values(layout: Layout, suffixes: tuple[str, ...], most: int) -> Iterator[str]:
    """Files of values, with any of some suffixes, as they are found among the first so many names."""
    waiting = [layout.root]
    while waiting:
        directory = waiting.pop()
        with suppress(FileNotFoundError, PermissionError), os.scandir(directory) as found:
            for item in found:
                most -= 1
                if most < 0:
                    return
                if item.is_dir():
                    if (item.name == ESCAPED or layout.is_nested(item.name)) and not item.is_symlink():
                        waiting.append(item.path)
                elif item.name.endswith(suffixes):
                    yield item.path


def sweep(layout: Layout, paths: EntryPaths, complete: Callable[[EntryPaths], None]) -> None:
    """Make the changes that killed writers have left in the directory of an entry, and remove their hidden files."""
    left = []
    for item in _hidden(paths.directory):
        if item.name.endswith(PAIR):
            name = item.name[1 : -len(PAIR)]
            with suppress(OSError, ForeignFileError):  # of no concern to who writes another entry
                complete(EntryPaths((*paths.path[:-1], name), paths.directory, name, layout.suffix))
        elif item.name.startswith(HIDDEN) and item.name.endswith(TEMPORARY):
            left.append(item.path)
    for hidden in left:
        with suppress(OSError):
            if time.time() - os.lstat(hidden).st_mtime > LEFT:
                os.unlink(hidden)


def _sorted(layout: Layout, path: tuple[str, ...], has: Callable[[EntryPaths], bool]) -> Iterator[Found]:
    directory = layout.folder(path)
    # Of these the names of files do not tell: a value may still have another one, or be one that is to go.
    changing: dict[str, bool] = {}
    for name in _changing(layout, directory):
        with suppress(PermissionError, ForeignFileError):
            changing[name] = has(layout.at((*path, name)))
    last: Found | None = None
    while True:
        found = chain(
            ((name, False) for name, is_there in changing.items() if is_there),
            (item for item in _names(layout, directory) if item[1] or item[0] not in changing),
        )
        window = heapq.nsmallest(WINDOW, found if last is None else (item for item in found if item > last))
        yield from window
        if len(window) < WINDOW:
            return
        last = window[-1]


def _names(layout: Layout, directory: str) -> Iterator[Found]:
    """The names of entries and of nested directories, as they are found; escaped ones as the keys that they are."""
    waiting = [directory]
    while waiting:
        at = waiting.pop()
        is_escaped = at is not directory
        try:
            found = os.scandir(at)
        except FileNotFoundError:
            if at == layout.root:
                raise
            return
        with found:
            for item in found:
                stem = item.name
                is_value = stem.endswith(layout.suffix)
                if is_value:
                    stem = stem[: -len(layout.suffix)]
                name = layout.name_of(stem, nested=not is_value, is_escaped=is_escaped)
                if name is None:
                    if stem == ESCAPED and not is_escaped and _is_own_directory(layout.root, item):
                        waiting.append(item.path)
                elif is_value:
                    if not item.is_dir():
                        yield name, False
                elif _is_own_directory(layout.root, item):
                    yield name, True


def _is_own_directory(root: str, item: os.DirEntry[str]) -> bool:
    """Whether it is a directory, and no link to one."""
    if not item.is_dir():
        return False
    if item.is_symlink():
        linked_inside(item.path, root)
        return False
    return True


def _changing(layout: Layout, directory: str) -> Iterator[str]:
    """The last names of the keys of entries that are being changed, or were when a writer was killed."""
    for is_escaped, folder in enumerate((directory, os.path.join(directory, ESCAPED))):
        for item in _hidden(folder):
            if item.name.endswith(PAIR):
                stem = item.name[1 : -len(PAIR)]
                name = layout.name_of(stem, nested=False, is_escaped=bool(is_escaped))
                if name is not None:
                    if not item.is_file(follow_symlinks=False):  # it may hide an entry, so it is told of
                        os.close(open_regular(item.path))
                    yield name


def _hidden(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return [item for item in found if item.name[:1] == "."]
    except (FileNotFoundError, NotADirectoryError):
        return []
