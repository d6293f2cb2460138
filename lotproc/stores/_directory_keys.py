"""Where an entry's files are: from a key to paths, if they can be made."""

from __future__ import annotations

import os

from ..errors import ArgumentError, ArgumentTypeError, as_text, brief, got

__all__ = ["HIDDEN", "LOCK", "META", "PAIR", "TEMPORARY", "Place", "check_directory", "is_nested", "place_of"]

META, LOCK = ".json", ".lock"
#: `.NAME.pair` is there while an entry's two files are being changed; files of other writers begin with HIDDEN.
PAIR, HIDDEN, TEMPORARY = ".pair", ".lotproc-", ".tmp"
#: Bytes that the name of a file can have, and a path with the byte that ends it.
MAX_NAME, MAX_PATH = 255, 4096

_ON_WINDOWS = os.name == "nt"
_BAD = {"/", "\0", *('<>:"\\|?*' if _ON_WINDOWS else ""), *filter(None, (os.sep, os.altsep))}


class Place:
    """The files of one entry."""

    __slots__ = ("data", "directory", "journal", "lock", "meta", "path")

    def __init__(self, directory: str, path: tuple[str, ...], suffix: str) -> None:
        self.path = path
        name = path[-1] if path else ""
        for key in path[:-1]:
            directory = f"{directory}{os.sep}{key}"
        self.directory = directory
        stem = f"{directory}{os.sep}{name}"
        self.data, self.meta, self.lock = stem + suffix, stem + META, stem + LOCK
        self.journal = f"{directory}{os.sep}.{name}{PAIR}"


def _as_path(store: object, key: object) -> tuple[str, ...]:
    """The record path that a key means, not checked any further."""
    if isinstance(key, tuple):
        return key
    if isinstance(key, str):
        return (key,)
    raise ArgumentTypeError(f"{store!r}: a key must be a str or a tuple of str, got {got(key)}")


def place_of(store: object, directory: str, suffix: str, key: object) -> Place:
    """The files of the entry under a key, checked."""
    path = _as_path(store, key)
    for name in path:
        if type(name) is not str:
            if not isinstance(name, str):
                raise ArgumentTypeError(f"{store!r}: a key must be a tuple of str, got {got(name)} in {brief(key)}")
            path = tuple(map(str.__str__, path))  # of a subclass, such as numpy's
        _check_name(store, key, name, len(suffix))
    if len(path) > 1:
        for name in path[:-1]:
            if not is_nested(name, suffix):
                raise ArgumentError(
                    f"{store!r}: {brief(name)} in {as_text(path)} can't be the name of a nested directory, because the "
                    "files of an entry could have that name; choose another"
                )
    place = Place(directory, path, suffix)
    if len(place.data) * 3 >= MAX_PATH and len(os.fsencode(place.data)) + len(HIDDEN) + 60 >= MAX_PATH:
        raise ArgumentError(
            f"{store!r}: the path of {brief(as_text(path))} is longer than {MAX_PATH:,} bytes; nest less deeply"
        )
    return place


def check_directory(store: object, key: object, suffix: str) -> tuple[str, ...]:
    """The path of a nested directory, checked."""
    path = _as_path(store, key)
    if not path:
        raise ArgumentError(f"{store!r}: a nested directory needs a name, got ()")
    return place_of(store, "", suffix, (*path, "x")).path[:-1]


def is_nested(name: str, suffix: str) -> bool:
    """Whether a directory of this name can hold entries."""
    return not (
        name.endswith((suffix, META, LOCK)) or (name[:1] == "." and (name.endswith(PAIR) or name.startswith(HIDDEN)))
    )


def _check_name(store: object, key: object, name: str, suffix: int) -> None:
    if name in ("", ".", "..") or not _BAD.isdisjoint(name):
        hint = ""
        if isinstance(key, str) and not _BAD.isdisjoint(name) and "\0" not in name:
            hint = f"; for nested directories give a tuple, such as {brief(tuple(filter(None, name.split('/'))))}"
        raise ArgumentError(f"{store!r}: {brief(name)} can't be the name of a file{hint}")
    size = len(name)
    if not name.isascii():
        try:
            data = os.fsencode(name)
            fits = os.fsdecode(data) == name
        except UnicodeError:
            fits = False
        if not fits:
            raise ArgumentError(
                f"{store!r}: {name!a} can't be the name of a file: the file system's encoding can't hold it"
            )
        size = len(data)
    longest = MAX_NAME - max(suffix, len(PAIR) + 1)
    if size > longest:
        raise ArgumentError(f"{store!r}: the name {brief(name)} has {size:,} bytes; the most is {longest}")
