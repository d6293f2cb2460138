"""Where an entry's files are: from a key to paths, and from the names of files to keys."""

from __future__ import annotations

import os
from functools import lru_cache

from ..._files import linked_inside
from ...errors import ArgumentError, ArgumentTypeError, as_text, brief, got
from ..escapes import escaped, unescaped

__all__ = [
    "ESCAPED",
    "HIDDEN",
    "LOCK",
    "META",
    "PAIR",
    "TEMPORARY",
    "Place",
    "check_directory",
    "folder_of",
    "is_nested",
    "name_of",
    "place_at",
    "place_of",
]

META, LOCK = ".json", ".lock"
#: `.NAME.pair` is there while an entry's two files are being changed; files of other writers begin with HIDDEN.
PAIR, HIDDEN, TEMPORARY = ".pair", ".lotproc-", ".tmp"
#: Where files and directories are whose keys can't be their names; there, these are escaped. The directory is no key's,
#: because a name that begins with HIDDEN never was that of a nested one. So a name with percent signs anywhere else is
#: the key as it stands.
ESCAPED = f"{HIDDEN}escaped"
#: Bytes that the name of a file can have, and a path with the byte that ends it.
MAX_NAME, MAX_PATH = 255, 4096

_ON_WINDOWS = os.name == "nt"
_BAD = {"/", "\0", *('<>:"\\|?*' if _ON_WINDOWS else ""), *filter(None, (os.sep, os.altsep))}


class Place:
    """The files of one entry.

    Args:
        path: Its key.
        directory: The directory that they are in.
        name: What their names begin with.
        suffix: What that of the value ends in.
    """

    __slots__ = ("data", "directory", "journal", "lock", "meta", "path")

    def __init__(self, path: tuple[str, ...], directory: str, name: str, suffix: str) -> None:
        self.path, self.directory = path, directory
        stem = f"{directory}{os.sep}{name}"
        self.data, self.meta, self.lock = stem + suffix, stem + META, stem + LOCK
        self.journal = f"{directory}{os.sep}.{name}{PAIR}"


def place_at(root: str, path: tuple[str, ...], suffix: str) -> Place:
    """The files of the entry with this path, which was checked or found."""
    directory, name = folder_of(root, path[:-1], suffix), path[-1] if path else ""
    if path and not _is_name(name):
        return Place(path, f"{directory}{os.sep}{ESCAPED}", escaped(name), suffix)
    return Place(path, directory, name, suffix)


def folder_of(root: str, path: tuple[str, ...], suffix: str) -> str:
    """The nested directory with this path."""
    for name in path:
        root = f"{root}{os.sep}{_spelled(name, suffix)}"
    return root


def name_of(found: str, suffix: str, *, nested: bool, is_escaped: bool) -> str | None:
    """The last name of the key that a value's file, without its suffix, or a nested directory is of.

    None if it is no key's. `is_escaped` says whether it was found where names are escaped.
    """
    if not is_escaped:
        return found if (is_nested(found, suffix) if nested else found not in ("", ".", "..")) else None
    name = unescaped(found)
    if name is None or (_is_name(name) and (not nested or is_nested(name, suffix))):  # which is not written there
        return None
    return name


def place_of(store: object, root: str, suffix: str, key: object) -> Place:
    """The files of the entry under a key, checked."""
    path = _as_path(store, key)
    for name in path:
        if type(name) is not str:
            if not isinstance(name, str):
                raise ArgumentTypeError(f"{store!r}: a key must be a tuple of str, got {got(name)} in {brief(key)}")
            path = tuple(map(str.__str__, path))  # of a subclass, such as numpy's
    if isinstance(key, str):
        _check_text(store, key)
    for name in path[:-1]:
        _check_size(store, _spelled(name, suffix).rpartition(os.sep)[2], len(suffix))
    if path:
        _check_size(store, path[-1] if _is_name(path[-1]) else escaped(path[-1]), len(suffix))
    place = place_at(root, path, suffix)
    if len(place.data) * 3 >= MAX_PATH and len(os.fsencode(place.data)) + len(HIDDEN) + 60 >= MAX_PATH:
        raise ArgumentError(
            f"{store!r}: the path of {brief(as_text(path))} is longer than {MAX_PATH:,} bytes; nest less deeply"
        )
    if len(path) > 1 or len(place.directory) > len(root):
        _check_links(root, place.directory)
    return place


def check_directory(store: object, root: str, key: object, suffix: str) -> str:
    """Where a nested directory is, below the root; checked."""
    path = _as_path(store, key)
    if not path:
        raise ArgumentError(f"{store!r}: a nested directory needs a name, got ()")
    if isinstance(key, str):
        _check_text(store, key)
    place_of(store, root, suffix, (*path, "x"))
    return folder_of("", path, suffix)[1:]


def is_nested(name: str, suffix: str) -> bool:
    """Whether a directory of this name can hold entries."""
    return not (
        name.endswith((suffix, META, LOCK)) or (name[:1] == "." and (name.endswith(PAIR) or name.startswith(HIDDEN)))
    )


def _as_path(store: object, key: object) -> tuple[str, ...]:
    """The record path that a key means, not checked any further."""
    if isinstance(key, tuple):
        return key
    if isinstance(key, str):
        return (key,)
    raise ArgumentTypeError(f"{store!r}: a key must be a str or a tuple of str, got {got(key)}")


@lru_cache(maxsize=4096)
def _spelled(name: str, suffix: str) -> str:
    """How a nested directory is called."""
    return name if _is_name(name) and is_nested(name, suffix) else f"{ESCAPED}{os.sep}{escaped(name)}"


def _is_name(name: str) -> bool:
    """Whether a file can be called so."""
    if name in ("", ".", "..") or not _BAD.isdisjoint(name):
        return False
    return name.isascii() or _is_encodable(name)


def _is_encodable(name: str) -> bool:
    try:
        return os.fsdecode(os.fsencode(name)) == name
    except UnicodeError:
        return False


def _check_text(store: object, key: str) -> None:
    """A str is the name of a file, and not a path."""
    if not _is_name(key):
        hint = f"; to store it under an escaped name give a tuple, {brief((str(key),))}"
        if not _BAD.isdisjoint(key) and "\0" not in key:
            hint = f"; for nested directories give a tuple, such as {brief(tuple(filter(None, key.split('/'))))}"
        raise ArgumentError(f"{store!r}: {brief(key)} can't be the name of a file{hint}")


def _check_size(store: object, name: str, suffix: int) -> None:
    size = len(name)
    if not name.isascii():
        if not _is_encodable(name):
            raise ArgumentError(
                f"{store!r}: {name!a} can't be the name of a file: the file system's encoding can't hold it"
            )
        size = len(os.fsencode(name))
    longest = MAX_NAME - max(suffix, len(PAIR) + 1)
    if size > longest:
        raise ArgumentError(f"{store!r}: the name {brief(name)} has {size:,} bytes; the most is {longest}")


def _check_links(root: str, directory: str) -> None:
    """Refuse a way to an entry that a symbolic link leads out of the store."""
    at = root
    for name in directory[len(root) + 1 :].split(os.sep):
        at = f"{at}{os.sep}{name}"
        if os.path.islink(at):
            linked_inside(at, root)
