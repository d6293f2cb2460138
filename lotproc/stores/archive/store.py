"""A record archive: one file, or numbered shards, of records that are read straight from a memory map."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from ..._public import public
from ..._reprs import short
from ..._spelling import spelled_class
from ...errors import (
    ArgumentError,
    ArgumentTypeError,
    DamagedStoreError,
    ReadOnlyStoreError,
    StoreClosedError,
    StoreLockedError,
    got,
)
from ..codecs import CodecLike
from ..protocol import Writer, no_such_key
from .keys import as_path
from .names import Pattern, as_source, is_pattern
from .publishing import Lock
from .reading import ArchiveRecords, check_flag, same
from .shards import Shard
from .target import begin, writing_base
from .writer import ArchiveWriter, Encoding
from .writing import Session

__all__ = ["Archive"]


@public
@spelled_class
class Archive(ArchiveRecords):
    """A sequence of records in one file or in numbered shards, read without a copy; the format of roxxel 0.1.0.

    >>> from lotproc.stores import Archive
    >>> with Archive("clips.rox", "w") as archive:
    ...     archive.write([b"first", b"", b"third"])
    3
    >>> archive = Archive("clips.rox")
    >>> len(archive), archive[0].tobytes(), archive[-1].tobytes()
    (3, b'first', b'third')
    >>> [record.tobytes() for record in archive[[2, 0]]]
    [b'third', b'first']

    Records may have a path and attributes, which JSON has to hold exactly:

    >>> with Archive("clips.rox", "a") as archive:
    ...     archive.append(b"fourth", ("ann", "clip_4"), {"seconds": 1.5})
    3
    >>> archive = Archive("clips.rox")
    >>> archive.index_of(("ann", "clip_4")), archive.path(3), archive.attributes(3)
    (3, ('ann', 'clip_4'), {'seconds': 1.5})
    >>> archive.verify()

    With codec "bytes" a record is a read-only array of bytes, a view of the file; with another one it is the value that
    was written.

    An archive that is opened for reading shows what was there when it was first read from, with keys and attributes,
    whatever writers do meanwhile. It opens its files then. For each shard it keeps one descriptor, or from Python 3.13
    on none, and one more where the shard has keys. It may be read from any threads. It pickles as its path and options:
    who gets it opens it anew, for reading.

    What is written shows when it is finished: by `flush`, by `close`, or at the end of a `with` block. Until then the
    old archive stays as it is, for readers that have it open and for new ones, and if the block is left with an error,
    or the process is killed, or the disk is full, it stays for good. The last shard is copied to go on with it, because
    the format has its index at the end; so finish seldom, or give `max_shard_bytes`. Several shards take the places of
    old ones in one step for readers of lotproc; others may see some of both, for a moment, or after a crash until the
    next writer comes. One writer is at work at a time; the next one waits, be it another archive object, another
    process, or another thread with the same object. What `write` goes through may read the archive, but not write to
    it.

    Checksums are between index and footer, where roxxel ignores them: one for the records that start within the same
    16 KiB. They are looked at when a record is first read. Keys and attributes are in `NAME.keys`, beside the shard.
    When roxxel appends to an archive, it drops the checksums, and its records have no keys.

    Records are never changed in place: `write` of lotproc with "merge" or "replace" adds one with the same path, which
    counts from then on. A `copy` to a new archive leaves the old ones out.

    **Files from strangers.** With codec "pickle", reading a record can run any code that its writer wanted: open files
    of people you trust, or use "bytes", "npy" or "json", which run none. Reading writes nothing. What is no regular
    file is refused in the place of any file of the archive. A link that you name is followed to read, with the keys
    beside it or beside what it leads to. A link that a pattern or a listing of shards finds, or that you name to write,
    is followed if it stays in its folder.

    **Read-only media** are read like others. Where a file system has no locks, an archive can only be read.

    Where a shard is missing that was written together with the one before it, that is an error; a list of files may
    leave some out.

    Args:
        path: The file; or a pattern, as `"clips_*.rox"`; or a list of files. A str with `*` or `?` is a pattern, unless
            there is such a file; a `pathlib.Path` and what is in a list never are. With a pattern or a list, "a" goes
            on with the last one, and "w" is refused. Where `clips.rox` is not there, but `clips_0000.rox` is, the
            shards are meant.
        mode: "r" to read; "a" to append to what there is, or to make it; "w" to make a new archive, that takes the
            place of the old one when it is finished. It begins with the first use: a `with` block that writes nothing
            makes an empty archive, and an object that is closed unused leaves the old one.
        max_shard_bytes: The bytes that a shard may have, with its index and checksums. Then the shards are called
            `clips_0000.rox` and so on, for a path `clips.rox`. A larger record gets a shard of its own.
        codec: How values become bytes: "bytes", "npy", "json", "pickle", or a pair of functions.
        durable: Whether to wait until what is finished is on the disk. Without it, a power failure may damage it; a
            crash of the process does not.
        check: Whether to look at checksums.
        lock_timeout: Seconds to wait for another writer, or for a thread that is in the middle of `write`; `None` waits
            for as long as it takes.

    Raises:
        ArgumentError, ArgumentTypeError: An argument can't be used.

    Any use raises:
        FileNotFoundError: There is no such archive; modes "a" and "w" make it.
        ForeignFileError: A file is no archive, or one of another version, or no regular file. It is never overwritten.
        DamagedStoreError: A file can't be read, or a record is not what was written.
        CodecError: Another codec wrote the archive.
        StoreClosedError: It was closed.
    """

    has_metadata = True
    commits_every = None

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        mode: Literal["r", "w", "a"] = "r",
        *,
        max_shard_bytes: int | None = None,
        codec: CodecLike = "bytes",
        durable: bool = True,
        check: bool = True,
        lock_timeout: float | None = 60.0,
    ) -> None:
        self._session: Session | None = None
        self._lock: Lock | None = None
        source = as_source(path)
        if mode not in ("r", "w", "a"):
            raise ArgumentError("Archive: mode", expected='"r", "w" or "a"', got=f"{mode!r}")
        if mode == "w" and (isinstance(source, tuple) or is_pattern(source)):
            raise ArgumentError(
                f'Archive: mode "w" makes a new archive, so path must be the path of a file, got {got(path)}'
                + (", which was taken for a pattern (a pathlib.Path never is)" if isinstance(source, str) else "")
                + '; with max_shard_bytes, "clips.rox" becomes clips_0000.rox and so on'
            )
        check_flag("Archive", "durable", durable)
        check_flag("Archive", "check", check)
        _check_number("max_shard_bytes", max_shard_bytes, "a number of bytes", (int, np.integer), least=1)
        _check_number("lock_timeout", lock_timeout, "seconds", (int, float), least=0)
        self.mode, self._limit = mode, None if max_shard_bytes is None else int(max_shard_bytes)
        self._durable, self._lock_timeout = bool(durable), lock_timeout
        self._begin_turns()
        #: How many records are finished, where a writer knows.
        self._before: int | None = None
        super().__init__(source, codec, check=bool(check), may_be_new=mode == "a")
        self._is_unseen = mode == "w"
        self._encoding = Encoding(repr(self), self.codec)

    # --- Opening and closing ---

    def open(self) -> Archive:
        """Open the files now, for what is wrong with them to be told now; a writer takes the lock.

        Returns:
            The archive itself.

        Raises:
            StoreLockedError: Another writer is at work, and did not end within `lock_timeout`.
            ReadOnlyStoreError: The file system has no locks.
        """
        self._check_open()
        with self._turn("open()"):
            self._opened() if self.mode == "r" else self._begun()
        return self

    def close(self) -> None:
        """Finish what was written, and let the files go; arrays that were taken from them stay good.

        Raises:
            ArgumentError: It is called from what a running `write` goes through; nothing of that is stored.
            StoreLockedError: Another thread is in the middle of `write`, and did not end within `lock_timeout`.
            OSError: The disk is full, or it fails. The old archive is as it was, and what was written is lost.
        """
        if self._is_closed:
            return
        with self._turn("close()"):
            try:
                if self._session is not None and self._session.pid == os.getpid():
                    self._session.commit()
            finally:
                self._discard()

    def __enter__(self) -> Archive:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            with self._turn("close()"):
                self._discard()

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None:
            taken, owned = session.taken, session.pid == os.getpid()
            self._discard()
            if taken and owned:
                warnings.warn(
                    f"{self!r} was never closed: {taken:,} records that were written are lost", ResourceWarning, 2
                )

    def _discard(self) -> None:
        """Let go of everything, and of what is not finished."""
        self._is_closed = True
        self._end_session()
        self._unlock()
        self._drop()

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    # --- One call at a time ---

    def _begin_turns(self) -> None:
        """Nobody has a turn; so it is in a fork too, which does not have the thread that had it."""
        self._turns, self._pid = threading.Lock(), os.getpid()
        self._thread: int | None = None
        self._call = ""

    @contextmanager
    def _turn(self, call: str) -> Iterator[None]:
        turn = self._take_turn(call)
        try:
            yield
        finally:
            self._thread = None
            turn.release()

    def _take_turn(self, call: str) -> threading.Lock:
        """Wait until no other thread is in the middle of a call that writes or finishes; gives what is to be released.

        Args:
            call: What is called; one that goes through an iterable of the user's ends in "(...)".

        Raises:
            ArgumentError: This thread is in the middle of one.
            StoreLockedError: Another thread is, for too long.
        """
        if self._pid != os.getpid():
            self._begin_turns()
        if self._thread == threading.get_ident():
            raise ArgumentError(
                f"{self!r} is in the middle of {self._call}",
                hint=f"what it goes through can't call {call} meanwhile: yield the records instead, or call it "
                "afterwards",
            )
        turn, timeout = self._turns, self._lock_timeout
        if not turn.acquire(False):
            while not turn.acquire(timeout=-1 if timeout is None else max(timeout, 0.01)):
                if self._call.endswith("(...)"):  # another one ends by itself
                    raise StoreLockedError(
                        f"{self!r} is in the middle of {self._call} in another thread, which did not end within "
                        f"{timeout:g} s, so {call} was not done",
                        hint="wait for longer with Archive(..., lock_timeout=...)",
                    )
        self._thread, self._call = threading.get_ident(), call
        return turn

    # --- Reading ---

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """The number of the first record that is equal to a value; for a path, see `index_of`.

        Raises:
            ValueError: There is none.
        """
        for number in range(*slice(start, stop).indices(len(self))):
            if same(self[number], value):
                return number
        raise ArgumentError(f"{self!r} has no record that is equal to {got(value)}")

    def count(self, value: Any) -> int:
        """How many records are equal to a value."""
        return sum(same(record, value) for record in self)

    @property
    def raw_data(self) -> np.ndarray[Any, Any]:
        """All payload bytes of the one shard as a flat array, unchecked and not copied; for `raw_data.view(np.uint16)`.

        Raises:
            ArgumentError: There are several shards; `raw_shards` has an array for each.
        """
        return self._only_shard("raw_data", "raw_shards has an array for each, token_batches goes through them").raw

    @property
    def raw_shards(self) -> list[np.ndarray[Any, Any]]:
        """For each shard, all its payload bytes as a flat array, as `raw_data` for one."""
        return [shard.raw for shard in self._opened()]

    @property
    def index_table(self) -> np.ndarray[Any, Any]:
        """Where each record of the one shard ends in `raw_data`, as an array of 64-bit numbers.

        Raises:
            ArgumentError: There are several shards.
        """
        return self._only_shard("index_table", "open one of them to have its table").index

    def _only_shard(self, name: str, hint: str) -> Shard:
        shards = self._opened()
        if not shards:
            raise FileNotFoundError(f"{self!r} has no file yet; write to it and finish with flush() or close()")
        if len(shards) > 1:
            raise ArgumentError(f"{self!r}: {name} is of one shard, and there are {len(shards):,}", hint=f"{hint}")
        return shards[0]

    # --- Keys, attributes, checksums ---

    def path(self, index: int) -> tuple[str, ...] | None:
        """The path of a record; None if it has none."""
        line = self._line(index)
        return None if line is None else line.as_path()

    def attributes(self, index: int) -> dict[str, Any] | None:
        """The attributes of a record; None if it has none."""
        line = self._line(index)
        return None if line is None else line.as_attributes()

    def index_of(self, path: Sequence[str]) -> int:
        """The number of the record with a path; of several, the newest.

        A record that was written without a path has its number for one, as a single key: `("12",)`.

        Raises:
            NoSuchKeyError: There is none.
            ArgumentTypeError: It is no path.
        """
        number = self._path_index().find(as_path(path))
        if number is None:
            raise no_such_key(self, tuple(path))
        return number

    def paths(self) -> Iterator[tuple[str, ...]]:
        """The paths of all records in order, each once, where its newest record is."""
        return (path for _, path, _ in self._keyed())

    def verify(self) -> None:
        """Read everything, and compare it with the checksums.

        An archive that roxxel has written or appended to has none; then only its structure is looked at.

        Raises:
            DamagedStoreError: It is not what was written; it names the shards, and the records and paths that it can.
        """
        problems = list(self._problems())
        if problems:
            shown = problems[:20] + ([f"and {len(problems) - 20:,} more"] if len(problems) > 20 else [])
            raise DamagedStoreError(f"{self!r} is damaged:\n" + "\n".join(shown))

    # --- Writing ---

    def write(self, values: Iterable[Any]) -> int:
        """Add records without keys: all of them or, if one of them or the iterable fails, none.

        Args:
            values: With codec "bytes", any of bytes, bytearrays, memoryviews and arrays; empty ones count. About half a
                megabyte of them is held.

        Returns:
            How many.

        Raises:
            ReadOnlyStoreError: The archive was opened for reading.
            CodecError, NotPicklableError: A value that the codec can't hold, named by its number among the values.
            ArgumentError: The iterable calls a method of this archive that writes or finishes.
            OSError: The disk is full, or it fails.
            StoreLockedError: Another writer is at work.
        """
        if isinstance(values, (bytes, bytearray, memoryview, str)):
            raise ArgumentTypeError(
                f"{self!r}: write() takes an iterable of values", got=got(values), hint="append() takes one"
            )
        values = self._iterator("write", "values", values)
        with self._turn("write(...)"):
            session = self._begun()
            before = session.taken
            encode = self._encoding.numbered(lambda: session.taken - before)
            if self._is_bytes:
                return session.take_plain(values, encode)
            return session.take_plain(map(encode, values), memoryview)

    def write_records(self, records: Iterable[tuple[Any, Any, Any]]) -> int:
        """Add records with keys: all of them or, if one of them or the iterable fails, none.

        Args:
            records: Of each the path, the value and the attributes. The path is a tuple of str, or None; the attributes
                are a mapping that JSON can hold exactly, or None. Where a path is there already, it is from now on that
                of the new record.

        Returns:
            How many.

        Raises:
            CodecError, NotPicklableError: A value or an attribute that can't be stored, with its path.
            ArgumentError, ReadOnlyStoreError, OSError, StoreLockedError: As for `write`.
        """
        records = self._iterator("write_records", "records, each (path, value, attributes)", records)
        with self._turn("write_records(...)"):
            return self._begun().take(self._encoding.records(records))

    def _iterator(self, method: str, what: str, values: Any) -> Iterator[Any]:
        try:
            return iter(values)
        except TypeError as error:
            raise ArgumentTypeError(f"{self!r}: {method}() takes an iterable of {what}", got=got(values)) from error

    def append(self, value: Any, path: Sequence[str] | None = None, attributes: Mapping[str, Any] | None = None) -> int:
        """Add one record; it shows when it is finished, as with `write`.

        Returns:
            The number that it will have.

        It raises what `write_records` does.
        """
        turn = self._take_turn("append()")
        try:
            session = self._begun()
            session.take_few([self._encoding.record(path, value, attributes)])
            if self._before is None:
                self._before = len(self)
            return self._before + session.taken - 1
        finally:
            self._thread = None
            turn.release()

    def flush(self) -> None:
        """Finish what was written so far: it shows, and is on the disk where the archive is durable.

        Raises:
            ReadOnlyStoreError: The archive was opened for reading.
            ArgumentError: It is called from what a running `write` goes through; nothing of that is stored.
            OSError: The disk is full, or it fails. What was written is still there to be finished.
        """
        with self._turn("flush()"):
            self._finish()

    def _finish(self) -> None:
        self._begun().commit()
        self._is_unseen = False
        self._end_session()
        self._drop()

    def _begun(self) -> Session:
        """What is being written."""
        self._check_open()
        session = self._session
        if session is not None:
            if session.pid != os.getpid():
                raise StoreClosedError(
                    f"{self!r} was opened for writing by another process", hint="open it in this one"
                )
            return session
        if self.mode == "r":
            raise ReadOnlyStoreError(
                f"{self!r} was opened for reading", hint='Archive(..., "a") appends, "w" writes it anew'
            )
        if self._lock is None:
            self._lock = Lock(repr(self), writing_base(self._source, self._limit), self._lock_timeout)
        self._drop()  # another writer may have been there since it was read
        try:
            target, old = begin(
                repr(self),
                self._source,
                self._limit,
                self.codec,
                is_new=self._is_unseen,
                check=self._check,
                durable=self._durable,
            )
        except BaseException:
            self._unlock()
            raise
        self._before, self._session = target.before, Session(target, old)
        return self._session

    # --- A source and a sink ---

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        with self._turn("lotproc.write(...) or copy(...)"):
            was_closed = self._session is None
            session = self._begun()
            undo = session.undoing()
            try:
                yield ArchiveWriter(self.find, self._begun, self._encoding, self._finish)
            except BaseException:
                if self._session is session and not session.is_decided:  # with what was appended before, which stays
                    undo()
                else:
                    self._end_session()
                raise
            finally:
                if was_closed and self._session is not None and not self._session.taken:
                    self._end_session()
                if was_closed and self._session is None:
                    self._unlock()

    # --- What it is ---

    def __repr__(self) -> str:
        shown = repr(self._source) if isinstance(self._source, str) else short(list(self._source))
        return f"Archive({shown}{'' if self.mode == 'r' else f', {self.mode!r}'})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Archive):
            return NotImplemented
        return bool(self._identity() == other._identity())

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> Any:
        source = self._source
        real = os.path.realpath(source) if isinstance(source, str) else tuple(map(os.path.realpath, source))
        return real, isinstance(source, Pattern), self.codec.name

    def __reduce__(self) -> Any:
        source: Any = list(self._source)
        if isinstance(self._source, str):
            source = str(self._source) if isinstance(self._source, Pattern) else Path(self._source)
        return _reopened, (source, self._codec_given, self._check)


def _check_number(what: str, value: Any, words: str, kinds: Any, least: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ArgumentTypeError(f"Archive: {what}", expected=f"{words} or None", got=got(value))
    if not value >= least:
        raise ArgumentError(f"Archive: {what}", expected=f"at least {least}", got=f"{value}")


def _reopened(source: Any, codec: CodecLike, check: bool) -> Archive:
    return Archive(source, codec=codec, check=check)


_reopened.__module__ = "lotproc.stores.archive"  # pickles name it
