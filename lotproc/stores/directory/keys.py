"""Where an entry's files are: from a key to paths, and from the names of files to keys."""

from __future__ import annotations

import os
from functools import lru_cache

from ..._files import linked_inside
from ...errors import ArgumentError, ArgumentTypeError, as_text, brief, got
from ..escapes import escaped, unescaped

__all__ = ["ESCAPED", "HIDDEN", "PAIR", "TEMPORARY", "EntryPaths", "Layout"]

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


class EntryPaths:
    """Where the files of one entry are.

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

    def hidden(self, token: str) -> tuple[str, str]:
        """Where a new value and new metadata are until they take their places; dirdb takes neither for an entry."""
        stem = f"{self.directory}{os.sep}{HIDDEN}{token}"
        return f"{stem}.value{TEMPORARY}", f"{stem}.meta{TEMPORARY}"


class Layout:
    """Where the entries of a store lie in its directory.

    Args:
        store: For messages.
        root: The directory, its real path.
        suffix: What the names of values' files end in.
    """

    __slots__ = ("root", "store", "suffix")

    def __init__(self, store: object, root: str, suffix: str) -> None:
        self.store, self.root, self.suffix = store, root, suffix

    def of(self, key: object) -> EntryPaths:
        """The files of the entry under a key, checked."""
        store = self.store
        path = _as_path(store, key)
        for name in path:
            if type(name) is not str:
                if not isinstance(name, str):
                    raise ArgumentTypeError(
                        f"{store!r}: a key", expected="a tuple of str", got=f"{got(name)} in {brief(key)}"
                    )
                path = tuple(map(str.__str__, path))  # of a subclass, such as numpy's
        if isinstance(key, str):
            _check_text(store, key)
        for name in path[:-1]:
            _check_size(store, _spelled(name, self.suffix).rpartition(os.sep)[2], len(self.suffix))
        if path:
            _check_size(store, path[-1] if _is_name(path[-1]) else escaped(path[-1]), len(self.suffix))
        paths = self.at(path)
        if len(paths.data) * 3 >= MAX_PATH and len(os.fsencode(paths.data)) + len(HIDDEN) + 60 >= MAX_PATH:
            raise ArgumentError(
                f"{store!r}: the path of {brief(as_text(path))} is longer than {MAX_PATH:,} bytes",
                hint="nest less deeply",
            )
        if len(path) > 1 or len(paths.directory) > len(self.root):
            _check_links(self.root, paths.directory)
        return paths

    def at(self, path: tuple[str, ...]) -> EntryPaths:
        """The files of the entry with this path, which was checked or found."""
        directory, name = self.folder(path[:-1]), path[-1] if path else ""
        if path and not _is_name(name):
            return EntryPaths(path, f"{directory}{os.sep}{ESCAPED}", escaped(name), self.suffix)
        return EntryPaths(path, directory, name, self.suffix)

    def folder(self, path: tuple[str, ...]) -> str:
        """The nested directory with this path."""
        folder = self.root
        for name in path:
            folder = f"{folder}{os.sep}{_spelled(name, self.suffix)}"
        return folder

    def nested(self, key: object) -> str:
        """Where the nested directory under a key is, below the root; checked."""
        path = _as_path(self.store, key)
        if not path:
            raise ArgumentError(f"{self.store!r}: a nested directory needs a name, got ()")
        if isinstance(key, str):
            _check_text(self.store, key)
        self.of((*path, "x"))
        return self.folder(path)[len(self.root) + 1 :]

    def is_nested(self, name: str) -> bool:
        """Whether a directory of this name can hold entries."""
        return _is_nested(name, self.suffix)

    def name_of(self, found: str, *, nested: bool, is_escaped: bool) -> str | None:
        """The last name of the key that a value's file, without its suffix, or a nested directory is of.

        None if it is no key's. `is_escaped` says whether it was found where names are escaped.
        """
        if not is_escaped:
            return found if (self.is_nested(found) if nested else found not in ("", ".", "..")) else None
        name = unescaped(found)
        if name is None or (_is_name(name) and (not nested or self.is_nested(name))):  # which is not written there
            return None
        return name


def _as_path(store: object, key: object) -> tuple[str, ...]:
    """The record path that a key means, not checked any further."""
    if isinstance(key, tuple):
        return key
    if isinstance(key, str):
        return (key,)
    raise ArgumentTypeError(f"{store!r}: a key", expected="a str or a tuple of str", got=got(key))


def _is_nested(name: str, suffix: str) -> bool:
    return not (
        name.endswith((suffix, META, LOCK)) or (name[:1] == "." and (name.endswith(PAIR) or name.startswith(HIDDEN)))
    )


@lru_cache(maxsize=4096)
def _spelled(name: str, suffix: str) -> str:
    """How a nested directory is called."""
    return name if _is_name(name) and _is_nested(name, suffix) else f"{ESCAPED}{os.sep}{escaped(name)}"


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
        raise ArgumentError(f"{store!r}: the name {brief(name)} has {size:,} bytes", hint=f"the most is {longest}")


def _check_links(root: str, directory: str) -> None:
    """Refuse a way to an entry that a symbolic link leads out of the store."""
    at = root
    for name in directory[len(root) + 1 :].split(os.sep):
        at = f"{at}{os.sep}{name}"
        if os.path.islink(at):
            linked_inside(at, root)
