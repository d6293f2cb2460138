"""Places open for reading and writing: one database for each storage and process, opened anew after a fork."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from multiprocessing import util
from threading import Lock
from typing import Any, NamedTuple

from lotdb import BaseNode
from transaction import TransactionManager
from ZODB._compat import FILESTORAGE_MAGIC
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import p64, u64, z64

from .._places import ServerBlob, is_file, remember_uri
from ..errors import ArgumentError, DamagedDatabaseError, LotprocError, PayloadError, ServerError
from ..models import Place
from .answers import answered
from .filestorage import FileIndex, last_complete
from .pinned import PinnedStorage, keeps_views, pinned_at
from .storages import BY_URI, opened_storage
from .uris import Wish, kind_of, shown

__all__ = ["close_servers", "connected", "opened_database", "opened_place", "writable_root"]

#: Databases of files that stay open.
KEPT_OPEN = 4
#: Seconds that a server has to answer when it is opened.
TIMEOUT = 10


class _File(NamedTuple):
    """A file as it was when it was opened.

    Args:
        path: Its path.
        identity: Which file it is.
        size: How large it was.
        changed: When it was changed: the end of a commit makes it no larger.
    """

    path: str
    identity: tuple[int, int]
    size: int
    changed: int


class _Server(NamedTuple):
    """A server that was asked for something.

    Args:
        database: Its database.
        resources: What is closed with it.
        idle: Instances of its storage that fetch blobs, where it gives each connection one.
    """

    database: DB
    resources: ExitStack
    idle: list[Any]

    def close(self) -> None:
        """Close it with all that is open for it; what is lost is closed."""
        with self.resources, suppress(ServerError), answered(), closing(self.database):
            for instance in self.idle:
                instance.release()


#: What is open in this process: files, with what finds their records, the one that was asked for last at the end;
#: servers, by their URIs and whether they are only read; and those whose root somebody has open.
_files: dict[_File, tuple[DB, FileIndex]] = {}
_servers: dict[tuple[str, bool], _Server] = {}
_rooted: dict[str, list[_Server]] = {}
_lock = Lock()
#: What the process that this one was forked from has open. It is kept, since to close it here would end it there.
_of_parents: list[Any] = []


def _after_fork() -> None:
    global _lock
    _of_parents.append((_files.copy(), _servers.copy(), _rooted.copy()))
    for opened in _files, _servers, _rooted:
        opened.clear()
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def close_servers() -> None:
    """Close the databases of servers that are open in this process."""
    while _servers:
        _, server = _servers.popitem()
        server.close()


@contextmanager
def opened_database(wish: Wish) -> Iterator[DB]:
    """The database that a URI names, with a tree or `create`, for whoever wants its root."""
    server = _opened(wish)
    rooted = _rooted.setdefault(wish.uri, [])
    rooted.append(server)
    try:
        yield server.database
    finally:
        rooted.remove(server)
        server.close()


def _opened(wish: Wish) -> _Server:
    with ExitStack() as opening:
        opening.enter_context(wish.resources)
        storage, options = opened_storage(wish)
        try:
            with answered():
                database = DB(storage, **options)
        except BaseException:
            storage.close()
            raise
        opening.pop_all()
    remember_uri(database, wish.uri, partial(_FetchedBlob, wish.uri))
    return _Server(database, wish.resources, [])


@contextmanager
def connected(database: DB) -> Iterator[Any]:
    """A connection to a database with a transaction manager of its own; what is not committed at the end is undone.

    Raises:
        ServerError: Its server was lost, also as it was asked inside.
    """
    with answered(), _connected(database) as connection:
        yield connection


@contextmanager
def _connected(database: DB) -> Iterator[Any]:
    manager = TransactionManager()
    connection = database.open(manager)

    def end() -> None:
        manager.abort()
        connection.close()

    try:
        yield connection
    except BaseException:
        with suppress(Exception):  # less than what is told, or the same
            end()
        raise
    end()


def opened_place(name: str, place: Place, *, now: bool = False) -> PinnedStorage:
    """The records of a place, at its transaction; to be closed.

    Args:
        name: What asks for them.
        place: The place.
        now: Read them as they are by now.

    Raises:
        ArgumentError, DamagedDatabaseError: The file is not there, or it is another one.
        ServerError: The server is not there, or does not answer.
        OutOfViewError: Its transaction is not there any more.
    """
    before = None if now else place.before
    if is_file(place):
        pinned = pinned_at(before, *_opened_file(name, place, now=before is None))
    else:
        pinned = pinned_at(before, _opened_server(name, place, read_only=True))
    try:
        if place.stored is not None and pinned.load(place.root)[1] != place.stored:
            raise _another(name, place)
    except BaseException:
        pinned.close()
        raise
    return pinned


@contextmanager
def writable_root(name: str, place: Place) -> Iterator[BaseNode]:
    """The root of a place on a server, with a connection of its own, as it is by now."""
    with connected(_opened_server(name, place, read_only=False)) as connection:
        try:
            root = connection.get(place.root)
            root._p_activate()
        except POSKeyError as error:
            raise _another(name, place) from error
        if place.stored not in (None, root._p_serial):
            raise _another(name, place)
        yield root


def _another(name: str, place: Place) -> DamagedDatabaseError:
    return DamagedDatabaseError(
        f"{name}: {shown(place.uri)} has another tree than the one that the place was made of",
        hint="make the place anew, by partitions() for instance",
    )


# --- Servers ---------------------------------------------------------------------------------------------------------


def _opened_server(name: str, place: Place, *, read_only: bool) -> DB:
    """The database of a place on a server, as it is by now."""
    server = _server(name, place.uri, read_only=read_only)
    if not keeps_views(server.database):  # which is not told at once of what others commit
        try:
            _sync(server)
        except ServerError:  # a client of ZEO that lost its server may never find it again
            _forget(server)
            server = _server(name, place.uri, read_only=read_only)
            _sync(server)
        if place.before is not None and server.database.storage.lastTransaction() < _last(place):
            raise _too_old(name, place)
    return server.database


def _sync(server: _Server) -> None:
    with answered():
        server.database.storage.sync()


def _forget(server: _Server) -> None:
    """Close the database of a server that is lost, so that it is opened anew."""
    with _lock:
        for key, known in list(_servers.items()):
            if known is server:
                del _servers[key]
                break
        else:  # it is that of a root which somebody has open
            return
    with suppress(Exception):
        server.close()


def _server(name: str, uri: str, *, read_only: bool) -> _Server:
    with _lock:
        known = _servers.get((uri, False)) or _servers.get((uri, read_only))
        if known is None:
            if not _servers:
                util.Finalize(None, close_servers, exitpriority=10)
            # What is configured says by itself whether it is only read.
            wish = Wish(name, uri, create=False, read_only=read_only and kind_of(uri) in BY_URI, timeout=TIMEOUT)
            known = _servers[uri, read_only] = _opened(wish)
    return known


class _FetchedBlob(ServerBlob):
    """A blob that is fetched from its server, into the folder for blobs that its URI names, or this process has."""

    def __repr__(self) -> str:
        return f"<blob {u64(self.oid):#x} of {shown(self.uri)}>"

    def __fspath__(self) -> str:
        try:
            server = _rooted[self.uri][-1]
        except LookupError:
            server = _server("the blob of a payload", self.uri, read_only=True)
        try:
            if not keeps_views(server.database):
                with answered():
                    return str(server.database.storage.loadBlob(self.oid, self.tid))
            return self._by_instance(server)
        except ServerError:
            _forget(server)
            raise
        except (POSKeyError, AssertionError) as error:  # RelStorage has no better one for a blob that it has no row of
            raise PayloadError(
                f"{self!r} is not there any more as transaction {u64(self.tid):#x} stored it",
                hint="it was replaced or removed since, and packed away: take a new record of its node",
            ) from error

    def _by_instance(self, server: _Server) -> str:
        """Its path, by an instance of the storage, each of which is for one thread at a time."""
        try:
            instance = server.idle.pop()
        except IndexError:
            instance = server.database._mvcc_storage.new_instance()
        try:
            with answered():
                instance.poll_invalidations()
                path = str(instance.loadBlob(self.oid, self.tid))
                instance.afterCompletion()  # no transaction stays open that nobody needs
        except BaseException:
            instance.release()
            raise
        server.idle.append(instance)
        return path


# --- Files -----------------------------------------------------------------------------------------------------------


def _opened_file(name: str, place: Place, *, now: bool) -> tuple[DB, FileIndex]:
    """The database of a place in a file, open for reading; one that is open already, if that has what is to be read.

    One that has not is closed later: a scan may still read it.
    """
    with _lock:
        try:
            found = os.stat(place.uri)
        except OSError as error:
            raise _unopened(name, place, error) from error
        file = _File(place.uri, (found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns)
        for known in reversed(_files):
            is_it = known == file if now else known[:2] == file[:2]
            if is_it and last_complete(_files[known][0].storage) >= _last(place):
                opened = _files[known] = _files.pop(known)
                return opened
        try:
            with open(place.uri, "rb") as beginning:
                if beginning.read(len(FILESTORAGE_MAGIC)) != FILESTORAGE_MAGIC:
                    raise ValueError("this is no FileStorage")
            storage = FileStorage(place.uri, read_only=True, blob_dir=place.blobs)
            if last_complete(storage) < _last(place):
                storage.close()
                raise _too_old(name, place)
            before = _files.pop(file, None)
            if before is not None:  # opened within the commit that ended since
                before[0].close()
            _files[file] = DB(storage), FileIndex(storage)
        except LotprocError:
            raise
        except Exception as error:
            raise _unopened(name, place, error) from error
        if len(_files) > KEPT_OPEN:
            _files.pop(next(iter(_files)))[0].close()
        return _files[file]


def _unopened(name: str, place: Place, error: Exception) -> LotprocError:
    if isinstance(error, FileNotFoundError):
        return ArgumentError(
            f"{name}: {place.uri}, the database of a partition, is not there",
            hint="was it moved, or can't this machine see it? Call partitions() again",
        )
    return DamagedDatabaseError(
        f"{name}: {place.uri}, the database of a partition, can't be opened: {type(error).__name__}: {error}"
    )


def _too_old(name: str, place: Place) -> DamagedDatabaseError:
    return DamagedDatabaseError(
        f"{name}: {shown(place.uri)} ends before the transaction that the place was made at",
        hint="is it an older copy of the database? Make the place anew, by partitions() for instance",
    )


def _last(place: Place) -> bytes:
    """The last transaction that a place may see."""
    last: bytes = z64 if place.before is None else p64(u64(place.before) - 1)
    return last
