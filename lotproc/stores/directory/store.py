"""A directory as a store: each value a file, with its metadata as JSON beside it, in the format of dirdb."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, TypeAlias

from ..._files import make_directories, open_regular
from ..._public import public
from ..._spelling import spelled_class
from ...errors import (
    ArgumentError,
    ArgumentTypeError,
    CodecError,
    ForeignFileError,
    NoSuchKeyError,
    ReadOnlyStoreError,
    as_text,
    got,
)
from ..codecs import NAMED, CodecLike, as_codec, check_codec, wrong_codec
from ..protocol import Path, Store, StoredRecord
from .changes import Entries
from .entry import DirectoryEntry, EntryStat
from .keys import EntryPaths, Layout
from .metadata import metadata_text
from .scan import entries, first_values, subdirectories
from .writer import DirectoryWriter

__all__ = ["DirectoryStore"]

#: What a key may be: a record path, or its only name.
Key: TypeAlias = "str | tuple[str, ...]"

#: Names that are looked at, when a directory is opened, for a value of another codec.
LOOKED_AT = 1_000
#: Seconds to wait for a lock.
LOCK_TIMEOUT = 60.0
#: Codecs by what their files end in.
_CODECS = {codec.suffix: repr(name) for name, codec in NAMED.items()} | {".value": "its pair of functions"}


@public
@spelled_class
class DirectoryStore(Store, MutableMapping[Key, Any]):
    """Values in files, by record path, with JSON metadata: what dirdb reads and writes.

    >>> from lotproc.stores import DirectoryStore
    >>> store = DirectoryStore("features")
    >>> store["foo"] = [1, 2, 3]  # the file features/foo.pickle
    >>> # ann/clip_1.pickle and ann/clip_1.json
    >>> store.put(("ann", "clip_1"), "a value", {"seconds": 1.5})
    >>> list(store)
    [('ann', 'clip_1'), ('foo',)]
    >>> store["foo"], "bar" in store, len(store)
    ([1, 2, 3], False, 2)
    >>> store.entry(("ann", "clip_1")).meta.seconds
    1.5

    A key is a tuple of names, all but the last of which are nested directories; a str is the key of one name.
    Iterating gives the tuples of the whole tree, sorted, each before those below it; what is written meanwhile may be
    among them.
    The root's record, `()`, is the file without a name, `.pickle`. dirdb does not see that one, and does not look into
    nested directories. A name in a tuple that no file can have, such as "dF/F", "" or "..", is written with percent
    signs, in a directory `.lotproc-escaped` beside the others: `.lotproc-escaped/dF%2FF.pickle`. So are names of nested
    directories that end as those of the store's own files do, in ".pickle", ".json" or ".lock". Names elsewhere are
    keys as they stand, also those with percent signs. Where the file system does not tell "A" from "a", keys that
    differ in nothing else are one.

    Every change is whole: a crash, a full disk or a value that can't be stored leaves the old value with its metadata,
    or the new one with its own. Readers beside writers never see half of one. Where both files change, the change is
    first written down in a hidden file, `.NAME.pair`. If the writer is killed, readers here see the change as made, and
    whoever next writes the entry makes it. dirdb, should it come first, may see the new metadata with the old value.
    (What dirdb itself writes is not whole; a reader that meets half of it here gets a DamagedStoreError.) `write` and
    `copy` also make such changes of other entries in the directories that they write to, and remove the hidden files of
    killed writers there when they are a day old.

    Reading writes nothing, and needs neither locks nor the permission to write. It opens regular files only, and
    follows no symbolic link out of the directory: that is an error that names the link. A link to a file in the
    directory is read, and replaced when its entry is written. One to a directory in it leads on where a key names it,
    and is passed over by iterating, since what it leads to is listed where it lies.

    For any number of threads and processes. Two writers of one entry: the last wins, whole. To read, change and write
    without another in between, lock the entry: `with store.entry(key) as entry:`. As with dirdb, with whose locks these
    work, that keeps out only those who lock. Methods that lock: `save_data`, `get_data` and `update_meta`.

    A pickle can run any code when it is read: read only directories whose writers you trust, or use another codec.

    Args:
        path: The directory.
        codec: How values are stored: "pickle" (as dirdb does), "json", "npy", "bytes", or (encode, decode).
        create: Whether to make the directory if it is not there.
        lock_timeout: Seconds to wait for the lock of an entry; None: for ever.
        durable: Whether a change is on the disk when it is made, so that it outlasts a power failure. Without, it
            outlasts a killed process all the same, and takes a fraction of the time.

    Raises:
        ArgumentError, ArgumentTypeError: An argument can't be used; the directory is not there and not to be made.
        CodecError: The directory has values of another codec.
    """

    has_metadata = can_delete = True
    commits_every = 1

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        codec: CodecLike = "pickle",
        create: bool = True,
        lock_timeout: float | None = LOCK_TIMEOUT,
        durable: bool = True,
    ) -> None:
        self._set(path, codec, lock_timeout, durable)
        if not os.path.isdir(self._directory):
            if os.path.exists(self._directory):
                raise ArgumentError(f"{self!r}: path", expected=f"a directory, but {self._directory} is a file")
            if not create:
                raise ArgumentError(f"{self!r}: there is no directory {self._directory}", hint="create=True makes it")
            make_directories(self._directory, durable=durable)
        self._check_codec()

    def _set(
        self, path: str | os.PathLike[str], codec: CodecLike, lock_timeout: float | None, durable: bool
    ) -> DirectoryStore:
        """What the store is, without a look at its files."""
        name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
        if not isinstance(name, str):
            raise ArgumentTypeError("DirectoryStore: path", expected="the path of a directory", got=got(path))
        if not name or "\0" in name:
            raise ArgumentError("DirectoryStore: path", expected="the path of a directory", got=f"{name!r}")
        if lock_timeout is not None:
            if isinstance(lock_timeout, bool) or not isinstance(lock_timeout, (int, float)):
                raise ArgumentTypeError(
                    "DirectoryStore: lock_timeout", expected="a number of seconds or None", got=got(lock_timeout)
                )
            if math.isnan(lock_timeout) or lock_timeout < 0:
                raise ArgumentError("DirectoryStore: lock_timeout", expected="0 or more seconds", got=f"{lock_timeout}")
        if not isinstance(durable, bool):
            raise ArgumentTypeError("DirectoryStore: durable", expected="True or False", got=got(durable))
        self.codec = as_codec("DirectoryStore", codec)
        self.lock_timeout, self.durable = lock_timeout, durable
        self._name, self._codec = name, codec
        self._directory = os.path.realpath(name)
        layout = Layout(self, self._directory, self.codec.suffix)
        self._entries = Entries(self, layout, self.codec, lock_timeout, durable)
        self._swept: set[str] = set()  # directories in which nothing is left of killed writers
        return self

    def _check_codec(self) -> None:
        """Refuse a directory whose values another codec wrote: by their names, and by the first of them."""
        other = None
        for file in first_values(self._entries.layout, (*_CODECS, self.codec.suffix), LOOKED_AT):
            if file.endswith(self.codec.suffix):
                try:
                    descriptor = open_regular(file)
                except (FileNotFoundError, ForeignFileError):
                    continue
                with open(descriptor, "rb") as opened:
                    data = opened.read(64)
                    if len(data) == 64:
                        opened.seek(-1, os.SEEK_END)
                        data += opened.read()
                    # Half a value is no reason to keep the others closed: the codec is known by the names.
                    if wrong_codec(self.codec, data) not in (None, "something else"):
                        check_codec(repr(self), self.codec, data)
                return
            other = file
        if other is not None:
            named = next(codec for suffix, codec in _CODECS.items() if other.endswith(suffix))
            raise CodecError(
                f"{self!r}: its values are not of the codec {self.codec.name!r}, but such as {os.path.basename(other)}",
                hint=f"open it with codec={named}",
            )

    # --- A mapping ---------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Key) -> Any:
        """The value under a key."""
        return self._entries.value(self._paths(key))

    def __setitem__(self, key: Key, value: Any) -> None:
        """Store a value; metadata that is there stays, as it does with dirdb. `put` replaces both."""
        self._entries.put(self._paths(key), value, ...)

    def __delitem__(self, key: Key) -> None:
        """Remove a value and its metadata, both or none. Directories and locks' files stay: others may use them."""
        self._entries.delete(self._paths(key))

    def __contains__(self, key: object) -> bool:
        return self._entries.has(self._paths(key))

    def values(self) -> ValuesView[Any]:
        """The values, each read as it comes; one that is removed meanwhile is passed over."""
        return _Values(self)

    def items(self) -> ItemsView[Key, Any]:
        """The keys and values, each read as it comes; one that is removed meanwhile is passed over."""
        return _Items(self)

    def clear(self) -> None:
        """Remove all values with their metadata, also in nested directories; metadata without a value stays."""
        self.delete_many(self.paths())

    # --- Values with metadata ----------------------------------------------------------------------------------------

    def put(self, key: Key, value: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Store a value together with its metadata, both or neither.

        Args:
            key: The record's path.
            value: What the codec can hold.
            metadata: What JSON can hold; None: there is to be none, and what was there is removed.

        Raises:
            NotPicklableError, CodecError: The value or the metadata can't be stored; nothing is changed.
        """
        paths = self._paths(key)
        text = None if metadata is None else metadata_text(f"{self!r}: {as_text(paths.path)}", metadata)
        self._entries.put(paths, value, text)

    def entry(self, key: Key) -> DirectoryEntry:
        """The entry of a key, whether it is there or not; nothing is read yet."""
        return DirectoryEntry(self._entries, self._paths(key))

    def entries(self, *, nested: bool = True) -> Iterator[DirectoryEntry]:
        """The entries, sorted; with `nested=False` those of this directory alone, as dirdb has them."""
        self._entries.check_open()
        layout = self._entries.layout
        paths = entries(layout, self._entries.has, nested=nested)
        return (DirectoryEntry(self._entries, layout.at(path)) for path in paths)

    def stat(self, key: Key) -> EntryStat:
        """Sizes and times of an entry's files."""
        return self.entry(key).stat()

    def save_data(self, key: Key, value: Any, meta: Mapping[str, Any] | None = None) -> None:
        """Lock an entry and store a value in it; with metadata that is not None, both, else what was there stays."""
        with self.entry(key) as entry:
            entry.put_data(value, meta)

    def get_data(self, key: Key) -> Any:
        """Lock an entry and read its value; where nothing can be written, no lock among it, read it without."""
        entry = self.entry(key)
        try:
            entry.__enter__()
        except ReadOnlyStoreError:
            return entry.get_data()
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            return entry.get_data()
        try:
            return entry.get_data()
        finally:
            entry.__exit__(None, None, None)

    def update_meta(self, key: Key, meta: Mapping[str, Any] | None) -> None:
        """Lock an entry and replace its metadata; None removes it."""
        with self.entry(key) as entry:
            entry.meta = meta

    # --- Nested databases --------------------------------------------------------------------------------------------

    def subdb(self, name: Key, *, create: bool = True) -> DirectoryStore:
        """A nested directory as a store of its own, with the same options; it is made if it is not there.

        Its root's record is seen in it alone, not from here.
        """
        self._entries.check_open()
        return DirectoryStore(
            os.path.join(self._name, self._entries.layout.nested(name)),
            codec=self._codec,
            create=create,
            lock_timeout=self.lock_timeout,
            durable=self.durable,
        )

    def subdirs(self) -> Iterator[DirectoryStore]:
        """The nested directories of this one, as stores, sorted by name."""
        self._entries.check_open()
        names = subdirectories(self._entries.layout)
        return (self.subdb((name,), create=False) for name in names)

    def is_below(self, other: Store) -> bool:
        """Whether this is the other store's directory, or one that is nested in it."""
        if not isinstance(other, DirectoryStore):
            return False
        return f"{self._directory}{os.sep}".startswith(f"{other._directory}{os.sep}")

    # --- Its life ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the use of this object; there is nothing to be written any more."""
        self._entries.is_closed = True

    def __enter__(self) -> DirectoryStore:
        self._entries.check_open()
        return self

    def __repr__(self) -> str:
        return f"DirectoryStore({self._name!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DirectoryStore):
            return NotImplemented
        return (self._directory, self.codec.name) == (other._directory, other.codec.name)

    def __hash__(self) -> int:
        return hash((self._directory, self.codec.name))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._directory, self._codec, self.lock_timeout, self.durable)

    # --- A source and a sink -----------------------------------------------------------------------------------------

    def paths(self) -> Iterator[Path]:
        """The keys of all entries, sorted, each before those below it."""
        self._entries.check_open()
        return entries(self._entries.layout, self._entries.has)

    __iter__ = paths

    def records(self) -> Iterator[StoredRecord]:
        """What is stored, in the order of the paths; the file of a value stays open until the next one comes."""
        return self._entries.records(map(self._entries.layout.at, self.paths()))

    def find(self, path: Path) -> StoredRecord | None:
        return self._entries.find(self._paths(path))

    def load(self, key: Any) -> Any:
        return self[key]

    def writing(self) -> AbstractContextManager[DirectoryWriter]:
        self._entries.check_open()
        return nullcontext(DirectoryWriter(self._entries, self._swept))

    def delete_many(self, paths: Iterable[Path]) -> None:
        """Delete what is under some paths, each entry whole; a path with nothing under it is passed over."""
        for path in paths:
            with suppress(NoSuchKeyError):
                del self[path]

    def _paths(self, key: object) -> EntryPaths:
        if self._entries.is_closed:
            self._entries.check_open()
        return self._entries.layout.of(key)


class _Items(ItemsView[Key, Any]):
    _mapping: DirectoryStore

    def __iter__(self) -> Iterator[tuple[Key, Any]]:
        for path in self._mapping:
            try:
                value = self._mapping[path]
            except NoSuchKeyError:
                continue
            yield path, value


class _Values(ValuesView[Any]):
    _mapping: DirectoryStore

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping.items())


def _unpickled(directory: str, codec: CodecLike, lock_timeout: float | None, durable: bool) -> DirectoryStore:
    """A store that was pickled; its directory is looked at when it is used."""
    return DirectoryStore.__new__(DirectoryStore)._set(directory, codec, lock_timeout, durable)


_unpickled.__module__ = "lotproc.stores.directory"  # pickles name it
