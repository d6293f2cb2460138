"""An LMDB environment that all stores of a process share: LMDB forbids to have one file open twice.

What LMDB asks of its users is kept here: the map is never exchanged under an open transaction, an environment is never
used after a fork or without a map, and no file is handed to it that would crash it.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

from ..._extras import needed
from ..._files import check_regular
from ...errors import ArgumentError, StoreClosedError, StoreFullError, StoreLockedError
from .errors import meaning
from .files import StoreFiles, check_file, identity

__all__ = ["Environment", "acquire"]

#: What the map grows by at least and at most, unless more is wanted.
MIN_GROWTH, MAX_GROWTH = 64 << 20, 1 << 40
#: Bytes up to which the map is at first what it was when the file was written. Maps need no memory, but address space,
#: of which a process has some 128 TiB; and what damage makes of a size should not matter.
MAX_KEPT = 1 << 40


class Parked(Protocol):
    """A read transaction that is open while nobody uses it."""

    def drop(self) -> None:
        """Abort it; nobody has a transaction at work."""


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
    """

    def __init__(self, name: str, files: StoreFiles, options: dict[str, Any], kept: int = 0) -> None:
        self.lmdb = needed("lmdb", "lmdb", "LmdbStore")
        self.files, self.options = files, dict(options)
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
        self.parked: set[Parked] = set()
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
            with _unknown_to_parents(self.lmdb, self.files):
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
                    raise StoreClosedError(f"the LMDB store {self.files.path} is closed; open it again")
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
                f"the LMDB store {self.files.path} can't be {what} while one of its values is being decoded in the "
                f"same thread; do it afterwards"
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

    def unpark(self, parked: Parked) -> None:
        """End a transaction that is open while nobody uses it."""
        with self._lock:
            self.parked.discard(parked)
            parked.drop()

    # --- The map -------------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Have no transaction open on the environment in this process; scans go on where they were, later."""
        with self.write_lock(), self._lock:
            self._is_wanted_alone = self._is_restricted = True
            try:
                while any(count.inside for count in list(self._counts)):
                    self._changed.wait()
                for parked in self.parked:
                    parked.drop()
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
            raise StoreClosedError(f"the LMDB store {self.files.path} is closed; open it again")
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
                    f"{max_size:,}; delete records and flush (deletions are stored first; a page has room again when "
                    f"all its records are deleted, so delete neighbours), or open it with a larger max_map_size"
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

    def release(self) -> None:
        """One user less; the last one closes the environment. In a forked process nothing is touched."""
        if self.is_forked:
            return
        with registry.lock:
            self.users -= 1
            if self.users:
                return
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
            registry.remove(self)

    def refuse_fork(self) -> NoReturn:
        raise StoreClosedError(
            f"the LMDB store {self.files.path} was opened before this process was forked, and LMDB can't be used "
            f"across a fork; open it in the child, or send the store to it (pickling a store reopens it)"
        )

    def forked(self) -> None:
        """Called in a child process: the environment is its parent's, and so are its locks, in whatever state."""
        self.is_forked = self._is_restricted = True
        self._mine = threading.local()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._writing = threading.RLock()


class Registry:
    """The environments that are open; for any thread that has its lock."""

    def __init__(self) -> None:
        #: By the identity of their data files.
        self.open: dict[tuple[object, ...], Environment] = {}
        #: Those of parent processes: kept, so that nothing ever closes them here.
        self.inherited: list[Environment] = []
        self._renew_locks()

    def _renew_locks(self) -> None:
        self.lock = threading.RLock()
        #: Notified when an environment is closed.
        self.closed = threading.Condition(self.lock)

    def remove(self, environment: Environment) -> None:
        """Note that an environment is closed."""
        with self.lock:
            if self.open.get(environment.identity) is environment:
                del self.open[environment.identity]
            self.closed.notify_all()

    def after_fork(self) -> None:
        """Called in a child process: what is open is its parent's."""
        self._renew_locks()
        for environment in self.open.values():
            environment.forked()
            self.inherited.append(environment)
        self.open.clear()


registry = Registry()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=registry.after_fork)


@contextmanager
def _unknown_to_parents(lmdb: Any, files: StoreFiles) -> Iterator[None]:
    """Let a forked process open a file that its parent has open.

    The package `lmdb` remembers which files are open in its process, and forgets to forget them after a fork. Closing
    what was inherited would take the parent's place in the table of readers away, so that is no way.
    """
    wanted = identity(files.data)
    identities = getattr(lmdb, "_envid", None)
    if identities is None or all(environment.identity != wanted for environment in registry.inherited):
        yield
        return
    before, pid = identities.env_keys, os.getpid()
    identities.env_keys = lambda path, subdir: tuple((pid, *key) for key in before(path, subdir))
    try:
        yield
    finally:
        identities.env_keys = before


#: Options that make a difference for what the data of a commit means; two writing stores must agree on them.
_AGREED = ("sync", "metasync", "lock")


def acquire(name: str, files: StoreFiles, options: dict[str, Any], *, max_size: int | None) -> Environment:
    """The environment of a file, opened if this process has not; `release` is to be called once for each call.

    Args:
        name: The store, for errors.
        files: Its files.
        options: For `lmdb.open`, all that matter.
        max_size: Bytes that the map may grow to.
    """
    check_regular(files.data, is_written=not options["readonly"])
    with registry.lock:
        while True:
            environment = registry.open.get(identity(files.data))
            if environment is None:
                kept = check_file(name, files.data, readonly=options["readonly"])
                environment = Environment(name, files, options, min(kept, max_size or MAX_KEPT, MAX_KEPT))
                registry.open[environment.identity] = environment
            elif environment.is_closing:
                registry.closed.wait()
                continue
            else:
                _join(name, environment, options)
            environment.users += 1
            return environment


def _join(name: str, environment: Environment, options: dict[str, Any]) -> None:
    """See that one more store can use an environment that is open."""
    if options["readonly"]:
        return
    if environment.is_readonly:
        environment.make_writable(name, options)
        return
    for option in _AGREED:
        has, wants = environment.options.get(option, True), options.get(option, True)
        if has != wants:
            raise ArgumentError(
                f"{name}: this process has the store open with {option}={has}, and LMDB opens a file once in a "
                f"process; expected the same, got {option}={wants}; close the other one, or open both alike"
            )
    environment.ensure_size(options["map_size"])
