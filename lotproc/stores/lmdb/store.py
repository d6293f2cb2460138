"""A store of values in an LMDB database: one file, sorted by key, with transactions."""

from __future__ import annotations

import os
import pickle
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from ..._log import log
from ..._public import public
from ..._spelling import spelled_class
from ..._values import is_flat
from ...errors import (
    ArgumentError,
    ArgumentTypeError,
    DamagedStoreError,
    NoSuchKeyError,
    ReadOnlyStoreError,
    StoreClosedError,
    add_note,
    got,
)
from ..codecs import NAMES_A_CLASS, CodecLike, as_codec, check_codec
from ..protocol import Writer, no_such_key
from .buffer import LmdbWriter, WriteBuffer
from .encoding import MAX_VALUE, Encoding
from .files import StoreFiles, check_file
from .keys import MAX_KEY, Form, Key, KeyForm
from .options import DEFAULT_BUFFER, options_of_lmdb
from .reading import EVERYTHING, MISSING, LmdbReading
from .scan import chunks
from .sharing import acquire
from .spool import Spool, store_pairs

__all__ = ["LmdbStore"]


#: Bytes of encoded items that are kept in memory, and from which on room is made for them beforehand.
SPOOL, MANY = 32 << 20, 1 << 20


@public
@spelled_class
class LmdbStore(LmdbReading, MutableMapping[Any, Any]):
    """A mapping that is kept in an LMDB database; the files are those of the package lmdb-object-store.

    >>> from lotproc.stores import LmdbStore
    >>> with LmdbStore("features") as store:
    ...     store["ann/clip_1"] = {"energy": 0.5}
    ...     # the path of a record: the same as "ann/clip_2"
    ...     store["ann", "clip_2"] = {"energy": 0.7}
    ...     store["anna"] = {"energy": 0.1}
    ...     list(store.keys(prefix=("ann",)))
    ['ann/clip_1', 'ann/clip_2']
    >>> with LmdbStore("features", readonly=True) as store:
    ...     store["ann/clip_2"]
    {'energy': 0.7}

    **Keys** are text, bytes of any kind, or record paths; LMDB sorts them by their bytes. A path is its keys joined by
    "/", the root's is "/"; iterating gives text. A key of a path that can't be joined so, such as "dF/F" or "", is
    written with percent signs behind a mark, `"\\x1blotproc:dF%2FF"`; keys without the mark are what they are.

    **Writing.** A value is encoded at once, so that errors show where they are made, and waits in a buffer until
    `batch_size` changes or `max_buffer_bytes` are there, or `flush`, `close`, or a read that is not answered from the
    buffer comes. What was flushed is on the disk, in one transaction: a crash leaves all of it or nothing. A `with`
    block ends with an error if not everything could be stored. When the disk has no room, that error is an `OSError`
    with ENOSPC, or EFBIG for a limit of the process; nothing of the transaction is stored, and the buffer stays.

    **Growing.** The map of the file grows as needed, to `max_map_size` at most, also beside readers and when another
    process makes it grow.

    **Reading** sees what was put, also when there is no room to store it: then it stays in the buffer, and a warning
    is logged. Iterating gives what was there when it began, in the order of the keys; when the map
    has to grow meanwhile, what comes after the key that was reached is given as it is then.

    **Threads and processes.** A store may be used from any thread; readers do not wait for each other. All stores of
    one file in a process share what LMDB has opened. Any number of processes may read and write; LMDB lets one write
    at a time. After a fork a store that was opened before it raises `StoreClosedError`; a pickled store opens the file
    where it is unpickled, for reading.

    **Files from strangers.** With the codec "pickle", reading a value can run any code that its writer wanted: open
    files of people you trust, or use "json", "npy" or "bytes", which run none. No value has a checksum in this format,
    and LMDB trusts its files: before it gets one, the file's size and its first pages are checked, which tells a file
    that was cut off; damage further in can be an error, a wrong value, or the end of the process, as with LMDB itself.
    What is no regular file, or is a link, is refused in the place of the two files, and so is one with several names
    (hard links) that would be written to. Reading changes nothing but the table of readers, `lock.mdb` or `NAME-lock`.

    **Read-only media.** Open it with `readonly=True`: where nothing can be written, it is read without a table of
    readers. Where this process may not write to that table, or the file system has no locks, `lock=False` does without
    it; then nobody may write to the store meanwhile.

    **Empty files.** LMDB makes its data file empty and then writes the first pages, so a crash just then can leave a
    file of 0 bytes. Opened for writing it becomes an empty store; opened for reading it is an error.

    The format: LMDB 0.9 (https://www.symas.com/lmdb), its unnamed database, values of pickle protocol 5.

    Args:
        path: The folder of the two files; it is made if its own folder is there. With `subdir=False`, the data file.
        batch_size: Changes that are stored together.
        codec: How values become bytes: "pickle", "json", "npy", "bytes", or two functions.
        autoflush_on_read: Whether reads store what is buffered first, unless the buffer has the answer. Reads find
            buffered values in any case.
        key_encoding: The encoding of keys that are text; with `None` keys are bytes, and iterating gives bytes.
        key_errors: What to do with characters that the encoding lacks: "strict", "ignore", "replace", ...
        str_normalize: The Unicode form that text keys are brought to: "NFC", "NFD", "NFKC", "NFKD", or `None`.
        max_buffer_bytes: Bytes of keys and values after which the buffer is stored, and that a run of `write` holds.
        map_size: Bytes that the map has at first. It has more where the file is larger, or was written with a larger
            map: then as many as that had, up to 1 TiB and to `max_map_size`, if the system has room for it.
        max_map_size: Bytes that the map may grow to.
        check: Whether all records are read once when the store is opened, as `verify` does. The file's size and its
            first pages are checked always.
        lmdb_options: For `lmdb.open`: `readonly`, `subdir`, `sync`, `metasync`, `lock`, `create`, `mode`, `readahead`,
            `meminit`, `max_readers`, `max_dbs`, `max_spare_txns`. With `sync=False` or `metasync=False` a crash of
            the machine can take back what was flushed, and with the first damage the file. With `lock=False` no other
            process may write. `writemap` is refused, because a full disk would end the process then.

    Raises:
        ArgumentError: An option can't be used, or not beside the stores of the same file that are open.
        ArgumentTypeError: An option is of a wrong type, or unknown.
        CodecError: The values are of another codec.
        ForeignFileError: A file is none of LMDB 0.9, is no regular file, or is a link; it is left as it is.
        DamagedStoreError: The file is cut off or damaged, or is empty and opened for reading only.
        MissingExtraError: The package `lmdb` is not installed.
        OSError: The files can't be opened so; where other options would do, it names them.
    """

    has_metadata = False
    commits_every = 1000

    def __init__(
        self,
        path: str | os.PathLike[str],
        batch_size: int = 1000,
        *,
        codec: CodecLike = "pickle",
        autoflush_on_read: bool = True,
        key_encoding: str | None = "utf-8",
        key_errors: str = "strict",
        str_normalize: Form | None = None,
        max_buffer_bytes: int = DEFAULT_BUFFER,
        map_size: int | None = None,
        max_map_size: int | None = None,
        check: bool | None = None,
        **lmdb_options: Any,
    ) -> None:
        options = {
            "batch_size": batch_size,
            "codec": codec,
            "autoflush_on_read": autoflush_on_read,
            "key_encoding": key_encoding,
            "key_errors": key_errors,
            "str_normalize": str_normalize,
            "max_buffer_bytes": max_buffer_bytes,
            "map_size": map_size,
            "max_map_size": max_map_size,
            "check": check,
            **lmdb_options,
        }
        self._set_up(path, options)
        self._open()
        try:
            self._check_codec()
            if check:
                self.verify()
        except BaseException:
            self.close()
            raise

    def _set_up(self, path: Any, options: dict[str, Any]) -> None:
        """Check what was given; nothing is opened yet."""
        text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
        if not isinstance(text, str):
            raise ArgumentTypeError("LmdbStore: path", expected="the path of a folder", got=got(path))
        if not text or "\0" in text:
            raise ArgumentError("LmdbStore: path", expected="the path of a folder", got=f"{text!r}")
        #: The path that the store was given.
        self.path = text
        self._given = options
        self.codec = as_codec("LmdbStore", options["codec"])
        self._lmdb_options = options_of_lmdb(options)
        self.batch_size, self.autoflush_on_read = options["batch_size"], options["autoflush_on_read"]
        form = KeyForm(repr(self), options["key_encoding"], options["key_errors"], options["str_normalize"]).checked()
        self._form, self._encoding = form, Encoding(repr(self), form, self.codec)
        self._is_plain, self._pickles = self._encoding.is_plain, self._encoding.pickles
        self._is_readonly: bool = self._lmdb_options["readonly"]
        self._max_map_size: int | None = options["max_map_size"]
        self._files = StoreFiles(os.path.abspath(text), self._lmdb_options.pop("subdir", True))
        self._opening = threading.Lock()
        self._buffer: WriteBuffer | None = None
        self._is_closed = False

    def _open(self) -> WriteBuffer:
        """Open the files, once."""
        with self._opening:
            if self._is_closed:
                raise StoreClosedError(f"{self!r} is closed", hint="open it again")
            if self._buffer is None:
                environment = acquire(repr(self), self._files, self._lmdb_options, max_size=self._max_map_size)
                buffer = WriteBuffer(environment, self.batch_size, self._given["max_buffer_bytes"], self._max_map_size)
                self._finalizer = weakref.finalize(self, buffer.abandon, repr(self))
                self._buffer = buffer
            return self._buffer

    def _check_codec(self) -> None:
        for chunk in chunks(self._environment, EVERYTHING, reverse=False, values=True, check=lambda: None):
            check_codec(repr(self), self.codec, chunk[0][1])
            break

    def _writable(self) -> WriteBuffer:
        buffer = self._buffer or self._open()
        if self._is_readonly:
            raise ReadOnlyStoreError(
                f"{self!r} is open for reading only", hint="open it without readonly=True to write"
            )
        return buffer

    # --- The end -------------------------------------------------------------------------------------------------

    def close(self, *, strict: bool = False) -> None:
        """Store what is buffered, and close the store, whatever happens; once is enough.

        Args:
            strict: Whether it is an error if something can't be stored; else it is logged, and a warning says how many
                changes are lost.

        Raises:
            StoreFullError: With `strict`, there is no room for what is buffered. The store is closed all the same.
            OSError: With `strict`, it can't be written.
        """
        with self._opening:
            buffer, self._buffer, self._is_closed = self._buffer, None, True
        if buffer is None:
            return
        self._finalizer.detach()
        problem = buffer.finish()
        if problem is None:
            return
        lost = f"{self!r} was closed, and {len(buffer.pending):,} changes that were buffered are lost: {problem}"
        if strict:
            add_note(problem, lost)
            raise problem
        log.error("%s", lost, exc_info=problem)
        warnings.warn(lost, RuntimeWarning, stacklevel=2)

    def __enter__(self) -> LmdbStore:
        if self._is_closed:
            raise StoreClosedError(f"{self!r} is closed", hint="open it again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close(strict=True)
        except Exception as problem:
            if error is None:
                raise
            for note in [str(problem), *getattr(problem, "__notes__", [])]:
                add_note(error, f"LmdbStore: and {note}")

    def __reduce__(self) -> tuple[Any, ...]:
        buffer = self._buffer
        if buffer is not None and not buffer.environment.is_forked:
            buffer.flush()
        kept = {**self._given, "readonly": True, "map_size": None, "max_map_size": None, "check": False}
        return _reopened, (type(self), self._files.path, kept)

    def __repr__(self) -> str:
        return f"LmdbStore({self.path!r})"

    # Not that of a mapping: two stores are equal where each would show what is written to the other.
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LmdbStore):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return type(self), os.path.realpath(self._files.data), self.codec.name

    # --- Writing -------------------------------------------------------------------------------------------------

    def put(self, key: Key, value: Any) -> None:
        """Encode a value, and buffer it under a key.

        Raises:
            ArgumentError: The key is empty, too long, can't be encoded, or is of bytes that are no text in the encoding
                (such keys of other programs can be read and deleted).
            ArgumentTypeError: The key is of a type that no key has.
            NotPicklableError: The value can't be pickled.
            CodecError: The codec can't hold the value.
            StoreFullError: The buffer is full, and there is no room for it in the map. What was put before stays in
                it; this value does not.
            ReadOnlyStoreError: The store was opened for reading.
        """
        buffer = self._buffer
        if buffer is None or self._is_readonly:
            buffer = self._writable()
        try:
            # As below, for most calls: without a call for the key and one for the value.
            encoded = key.encode() if self._is_plain and type(key) is str else self._form.to_new(key)
            data = pickle.dumps(value, 5) if self._pickles else self._encoding.encoded(value, key)
            if self._pickles and NAMES_A_CLASS in data and not is_flat(value):
                data = self._encoding.encoded(value, key)  # which looks for iterators
        except Exception:
            encoded, data = self._form.to_new(key), self._encoding.encoded(value, key)
        if not 0 < len(encoded) <= MAX_KEY or len(data) > MAX_VALUE:
            encoded, data = self._encoding.key(key), self._encoding.encoded(value, key)
        size = len(encoded) + len(data)
        with buffer.lock:
            pending = buffer.pending
            if not (
                buffer.is_finished or len(pending) + 1 >= buffer.max_entries or buffer.size + size >= buffer.max_bytes
            ):  # the same as below, for most calls and without one
                pending[encoded] = data
                buffer.size += size
                return
            buffer.put(encoded, data)

    __setitem__ = put

    def delete(self, key: Key) -> None:
        """Delete a key, if it is there; raises as `put` does.

        In a store that is full, what is to be deleted when the buffer is stored is stored without the rest of it.
        """
        self._writable().put(self._encoding.key(key), None)

    def __delitem__(self, key: Key) -> None:
        buffer = self._writable()
        with buffer.lock:
            if not self.exists(key, flush=False):
                raise no_such_key(self, key)
            self.delete(key)

    def put_many(self, items: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> None:
        """Store pairs of a key and a value, of any number, in one transaction: all of them, or none.

        They are encoded as they come, and wait in memory, or from 32 MiB on in a temporary file beside the store's own.
        What is buffered is stored before them. Of equal keys the last one's value stays.

        Args:
            items: A mapping, or any iterable of pairs; it may itself read this store and write to it.

        Raises:
            ArgumentError: A key can't be one.
            ArgumentTypeError: It is no iterable, an item is no pair, or a key is of a type that no key has.
            NotPicklableError: A value can't be pickled.
            CodecError: The codec can't hold a value.
            StoreFullError: There is no room for them in the map.
            OSError: They can't be written, for want of room on the disk (ENOSPC) or otherwise.
            ReadOnlyStoreError: The store was opened for reading.
        """
        buffer = self._writable()
        environment = buffer.environment
        if environment.is_forked:
            environment.refuse_fork()
        pairs = self._encoding.pairs("put_many", items)
        spool = Spool(self._files.folder, SPOOL)
        try:
            for keys, values in self._encoding.items(pairs):
                spool.add(keys, values)
            with buffer.lock:
                self._writable().flush()
                wanted = spool.size + spool.size // 2
                if spool.size > MANY and environment.room() < wanted:
                    environment.grow(self._max_map_size, wanted=environment.map_size + wanted)

                def work(transaction: Any) -> None:
                    store_pairs(transaction, spool.chunks())

                environment.write(work, self._max_map_size, spool.size)
        finally:
            spool.close()

    def update(self, other: Any = (), /, **values: Any) -> None:
        """Store what is in a mapping, in pairs, or in keywords, in one transaction; see `put_many`."""
        if hasattr(other, "keys") and not isinstance(other, Mapping):
            other = ((key, other[key]) for key in other.keys())  # noqa: SIM118
        items = self._encoding.pairs("update", other)
        self.put_many(pair for some in (items, values.items()) for pair in some)

    def pop(self, key: Key, default: Any = MISSING) -> Any:
        """Delete a key, and give the value that it had; raises as `put` and `get` do."""
        buffer = self._writable()
        with buffer.lock:
            found = self._lookup(self._encoding.key(key))
            if found is MISSING:
                if default is MISSING:
                    raise no_such_key(self, key)
                return default
            self.delete(key)
            return found

    def popitem(self) -> tuple[Any, Any]:
        """Delete the first key, and give it with its value."""
        buffer = self._writable()
        with buffer.lock:
            for key, value in self.items():
                self.delete(key)
                return key, value
        raise NoSuchKeyError(f"{self!r} is empty")

    def setdefault(self, key: Key, default: Any = None) -> Any:
        """The value of a key, which is `default` from now on if there is none."""
        buffer = self._writable()
        with buffer.lock:
            found = self._lookup(self._encoding.key(key))
            if found is MISSING:
                self.put(key, default)
                return default
            return found

    def clear(self) -> None:
        """Delete all keys, in one transaction; what is buffered is dropped."""
        self._writable().clear()

    def flush(self) -> None:
        """Store what is buffered, in one transaction; it is on the disk when this returns, if `sync` is on.

        Raises:
            StoreFullError: There is no room for it; it stays buffered, except deletions, which are stored. Delete
                records and flush again, or open the store with a larger `max_map_size`. Room comes from pages of which
                all records are deleted, so delete neighbours.
            OSError: It can't be written, for want of room on the disk (ENOSPC) or otherwise; it stays buffered.
        """
        self._writable().flush()

    def verify(self) -> None:
        """Read all that is stored, and check its order and its number; `check=True` does so at opening.

        Nothing has a checksum: of what was changed LMDB notices a part, and crashes on another part. Values are not
        decoded.

        Raises:
            DamagedStoreError: It is damaged.
        """
        environment = self._environment
        check_file(repr(self), self._files.data)
        transaction = environment.begin(buffers=False)
        try:
            count, last = 0, b""
            for key, _ in transaction.cursor():
                if key <= last:
                    raise DamagedStoreError(f"{self!r} is damaged: its keys are out of order after {last!r}")
                count, last = count + 1, key
            told = transaction.stat()["entries"]
            if count != told:
                raise DamagedStoreError(f"{self!r} is damaged: it has {count:,} records, and is said to have {told:,}")
        except environment.lmdb.Error as error:
            environment.fail(error)
        finally:
            environment.end(transaction)

    # --- As a source and a sink ----------------------------------------------------------------------------------

    can_delete = True

    def delete_many(self, paths: Iterable[tuple[str, ...]]) -> None:
        """Delete what is under some paths, and store that; a path with nothing under it is passed over."""
        for path in [*paths]:
            self.delete(path)
        self.flush()

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        buffer = self._writable()
        self.flush()
        yield LmdbWriter(self._encoding, buffer, self._find_all)


def _reopened(kind: type[LmdbStore], path: str, options: dict[str, Any]) -> LmdbStore:
    """A store that opens its files, for reading, when it is used."""
    store = kind.__new__(kind)
    store._set_up(path, options)
    return store


_reopened.__module__ = "lotproc.stores.lmdb"  # pickles name it
