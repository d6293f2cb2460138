"""An open LMDB environment: its transactions, and its map, which grows.

What LMDB asks of its users is kept here: the map is never exchanged under an open transaction, and an environment is
never used after a fork or without a map.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn

from ..._extras import needed
from ..._files import check_regular
from ...errors import StoreClosedError, StoreFullError, StoreLockedError
from .errors import meaning
from .files import StoreFiles, identity

__all__ = ["Environment"]

#: What the map grows by at least and at most, unless more is wanted.
MIN_GROWTH, MAX_GROWTH = 64 << 20, 1 << 40


class _Count:
    """How many transactions one thread is inside of."""

    __slots__ = ("__weakref__", "inside")

    def __init__(self) -> None:
        self.inside = 0


class Environment:
    """One open LMDB environment; for any thread.

    Args:
        name: The store that opens it, for errors.
        files: Its files.
        options: For `lmdb.open`.
        kept: Bytes that the map should have at first, if there is address space for them.
        opening: Entered while LMDB opens the files.
        on_close: Called when it is closed.
    """

    def __init__(
        self,
        name: str,
        files: StoreFiles,
        options: dict[str, Any],
        kept: int,
        opening: Callable[[], AbstractContextManager[None]],
        on_close: Callable[[Environment], None],
    ) -> None:
        self.lmdb = needed("lmdb", "lmdb", "LmdbStore")
        self.files, self.options = files, dict(options)
        self._opening, self._on_close = opening, on_close
        self.users = 0
        self.is_forked = self.is_closing = False
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        #: One write transaction at a time in this process; LMDB sees to those of others.
        self._writing = threading.RLock()
        #: How many transactions each thread is inside of.
        self._mine = threading.local()
        self._counts: weakref.WeakSet[_Count] = weakref.WeakSet()
        self._is_wanted_alone = False
        #: Whether `enter` has to look closer: somebody wants to be alone, it is closed or forked.
        self._is_restricted = False
        #: What aborts the read transactions that are open while nobody uses them.
        self.idle: set[Callable[[], None]] = set()
        self._env: Any = self._opened(name, kept)
        self.identity = identity(files.data)

    def _opened(self, name: str, kept: int) -> Any:
        asked = self.options["map_size"]
        options = {**self.options, "map_size": max(asked, kept)}
        if "LMDB_DEFAULT_LIB_VERSION" in os.environ and not os.path.exists(self.files.data):
            options = {**options, "lib_version": 0}  # the format is the store's to choose
        if options.get("lock", True):
            check_regular(self.files.lock, is_written=True)  # LMDB follows links, and writes over what is there
        try:
            with self._opening():
                return self.lmdb.open(self.files.path, subdir=self.files.subdir, **options)
        except self.lmdb.Error as error:
            if kept > asked and getattr(error, "code", None) == errno.ENOMEM:
                return self._opened(name, 0)
            self.fail(error, name)

    @property
    def is_readonly(self) -> bool:
        return bool(self.options["readonly"])

    # --- Transactions --------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Count this thread as one that is inside a transaction; it waits while the map is exchanged."""
        try:
            mine = self._mine.count
        except AttributeError:
            mine = self._mine.count = _Count()
            with self._lock:
                self._counts.add(mine)
        # No lock: each thread writes its own count, and then looks whether somebody wants to be alone; who wants to be
        # says so first, and then looks at the counts. One of the two sees the other.
        mine.inside += 1
        if self._is_restricted and mine.inside == 1:
            mine.inside = 0
            if self.is_forked:
                self.refuse_fork()
            with self._lock:
                while self._is_wanted_alone:
                    self._changed.wait()
                if self._env is None:
                    raise StoreClosedError(f"the LMDB store {self.files.path} is closed", hint="open it again")
                mine.inside = 1

    def leave(self) -> None:
        """The end of what `enter` began."""
        mine = self._mine.count
        mine.inside -= 1
        if self._is_restricted and mine.inside == 0:
            with self._lock:
                self._changed.notify_all()
            if self.is_closing and not self.is_forked:
                self._shut()

    def _is_inside(self) -> bool:
        """Whether this thread is inside a transaction."""
        mine = getattr(self._mine, "count", None)
        return mine is not None and mine.inside > 0

    def begin(self, *, buffers: bool = True) -> Any:
        """A read transaction, for the thread that calls; it ends with `end`."""
        while True:
            self.enter()
            try:
                return self._env.begin(buffers=buffers)
            except self.lmdb.MapResizedError:
                self.leave()
                self.adopt()
            except BaseException as error:
                self.leave()
                if isinstance(error, self.lmdb.Error):
                    self.fail(error)
                raise

    def end(self, transaction: Any) -> None:
        """End a read transaction."""
        try:
            transaction.abort()
        finally:
            self.leave()

    def write(self, work: Callable[[Any], Any], max_size: int | None, size: int = 0) -> Any:
        """Run `work` in a write transaction; anew, when the map had to grow for it.

        Args:
            work: Is given the transaction.
            max_size: Bytes that the map may grow to.
            size: Bytes that are written, about; for an error when there is no room for them.

        Raises:
            StoreFullError: The map can't grow so far.
            OSError: There is no room on the disk, or something else is wrong with it.
        """
        with self.write_lock():
            while True:
                try:
                    self.enter()
                    try:
                        with self._env.begin(write=True) as transaction:
                            return work(transaction)
                    finally:
                        self.leave()
                except self.lmdb.MapFullError as error:
                    self.grow(max_size, error)
                except self.lmdb.MapResizedError:
                    self.adopt()
                except self.lmdb.Error as error:
                    self.fail(error, size=size)

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Be the only writer of this process."""
        self._check_outside("written to")
        with self._writing:
            yield

    def _check_outside(self, what: str) -> None:
        if self.is_forked:
            self.refuse_fork()
        if self._is_inside():
            raise StoreLockedError(
                f"the LMDB store {self.files.path} can't be {what} while one of its values is being decoded in "
                "the same thread",
                hint="do it afterwards",
            )

    def stat(self) -> dict[str, int]:
        """What LMDB says of the tree of records: `entries`, `overflow_pages` and others."""
        self.enter()
        try:
            found: dict[str, int] = self._env.stat()
            return found
        finally:
            self.leave()

    def clear(self, max_size: int | None) -> None:
        """Delete all records."""
        self.write(lambda transaction: transaction.drop(self._env.open_db(), delete=False), max_size)

    def sync(self) -> None:
        """Wait until everything is on the disk, whatever the options say."""
        self.enter()
        try:
            self._env.sync(True)
        except self.lmdb.Error as error:
            self.fail(error)
        finally:
            self.leave()

    def end_idle(self, abort: Callable[[], None]) -> None:
        """End a transaction that is open while nobody uses it."""
        with self._lock:
            self.idle.discard(abort)
            abort()

    # --- The map -------------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Have no transaction open on the environment in this process; scans go on where they were, later."""
        with self.write_lock(), self._lock:
            self._is_wanted_alone = self._is_restricted = True
            try:
                while any(count.inside for count in list(self._counts)):
                    self._changed.wait()
                for abort in self.idle:
                    abort()
                yield
            finally:
                self._is_wanted_alone = False
                self._is_restricted = self._env is None or self.is_closing
                self._changed.notify_all()

    def adopt(self) -> None:
        """Make the map as large as what another process has written, and more, so that this is not needed often."""
        with self._alone():
            if self._env is not None:
                size, used = self._sizes()
                if used > size:
                    self._exchange(max(used, size + min(size, MAX_GROWTH)), used)

    def _sizes(self) -> tuple[int, int]:
        """Bytes of the map, and of the file's pages that are or were in use; by whichever process."""
        if self._env is None:
            raise StoreClosedError(f"the LMDB store {self.files.path} is closed", hint="open it again")
        info, psize = self._env.info(), self._env.stat()["psize"]
        return int(info["map_size"]), (int(info["last_pgno"]) + 1) * int(psize)

    def _exchange(self, size: int, before: int) -> None:
        """Have a map of another size; if that can't be, of a size as before. Nobody has a transaction open."""
        try:
            self._env.set_mapsize(size)
        except self.lmdb.Error as problem:
            # LMDB has given its map up by now, and would crash.
            env, self._env = self._env, None
            env.close()
            self._env = self._opened("", before)
            self.fail(problem)

    @property
    def map_size(self) -> int:
        self.enter()
        try:
            return int(self._env.info()["map_size"])
        finally:
            self.leave()

    def room(self) -> int:
        """Bytes of the map that no page has used yet."""
        self.enter()
        try:
            size, used = self._sizes()
            return size - used
        finally:
            self.leave()

    def grow(self, max_size: int | None, error: BaseException | None = None, wanted: int = 0) -> None:
        """Make the map larger: by all of its size, or by 64 MiB if that is more, or to what is wanted."""
        with self._alone():
            size, used = self._sizes()
            new = max(size + min(size, MAX_GROWTH), size + MIN_GROWTH, wanted, used)
            if max_size is not None:
                new = min(new, max_size)
            if new > size:
                self._exchange(new, size)
            elif error is not None:
                raise StoreFullError(
                    f"the LMDB store {self.files.path} is full: its map has {size:,} bytes, and max_map_size is "
                    f"{max_size:,}; delete records and flush (deletions are stored first",
                    hint="a page has room again when all its records are deleted, so delete neighbours), or open "
                    "it with a larger max_map_size",
                ) from error

    def shrink(self, size: int | None) -> None:
        """Have no more room in the map than of a size, as far as it is not used already."""
        if size is not None:
            with self._alone():
                before, used = self._sizes()
                if before > size:
                    self._exchange(max(size, used), before)

    def ensure_size(self, size: int) -> None:
        """Have a map of at least this size."""
        if self.map_size < size:
            self.grow(size, wanted=size)

    def make_writable(self, name: str, options: dict[str, Any]) -> None:
        """Open the files for writing, which were open for reading only."""
        with self._alone():
            before, self.options = self.options, dict(options)
            size, _ = self._sizes()
            self._env.close()
            self._env = None
            try:
                self._env = self._opened(name, size)
            except BaseException:
                self.options = before
                self._env = self._opened(name, size)
                raise

    def fail(self, error: Any, name: str = "", size: int = 0) -> NoReturn:
        """Raise what an error of LMDB means here."""
        raise meaning(self.lmdb, error, self.files, name, size, is_readonly=self.is_readonly) from error

    # --- The end -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close it for good, as soon as nobody is inside a transaction."""
        self.is_closing = self._is_restricted = True
        if not self._is_inside():  # else a value that is being decoded closes its store: `leave` will do it
            self._shut()

    def _shut(self) -> None:
        try:
            with self._alone():
                env, self._env = self._env, None
                if env is not None:
                    env.close()
        finally:
            self._on_close(self)

    def refuse_fork(self) -> NoReturn:
        raise StoreClosedError(
            f"the LMDB store {self.files.path} was opened before this process was forked, and LMDB can't be "
            "used across a fork",
            hint="open it in the child, or send the store to it (pickling a store reopens it)",
        )

    def forked(self) -> None:
        """Called in a child process: the environment is its parent's, and so are its locks, in whatever state."""
        self.is_forked = self._is_restricted = True
        self._mine = threading.local()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._writing = threading.RLock()
