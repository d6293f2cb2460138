"""From a URI to the open storage that it names: a file, ZEO, PostgreSQL, or whatever zodburi knows."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from zc.lockfile import LockError
from ZODB._compat import FILESTORAGE_MAGIC
from ZODB.FileStorage import FileStorage
from ZODB.FileStorage.FileStorage import FileStorageError
from ZODB.FileStorage.format import CorruptedError
from ZODB.interfaces import IMVCCStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import load_current, z64

from .._extras import needed
from ..errors import ArgumentError, DamagedDatabaseError, ForeignFileError, LotprocError
from .answers import answered
from .uris import Wish, in_words, kind_of, no_password, shown

__all__ = ["BY_URI", "opened_storage"]

#: The schemes of servers that are told by the URI alone, and by no configuration.
BY_URI = ("zeo", "postgresql", "postgres")

ZEO_PORT = 9991


def opened_storage(wish: Wish) -> tuple[Any, dict[str, Any]]:
    """The storage that a URI names, with a tree or `create`, and options of the database."""
    kind = kind_of(wish.uri)
    if kind == "file" and "?" not in wish.uri:
        path = wish.uri[len("file://") :]
        return _file(wish, url2pathname(path.removeprefix("localhost") if path[:10] == "localhost/" else path)), {}
    if not kind:
        return _file(wish, wish.uri), {}
    if kind == "zeo":
        return _checked(wish, _zeo(wish)), {}
    if kind in BY_URI:
        return _postgres(wish), {}
    return _by_zodburi(wish)


def _checked(wish: Wish, storage: Any) -> Any:
    """The storage, if there is something in it, or `create`; closed otherwise."""
    try:
        with answered():
            if not wish.create and not _has_root(storage):
                raise wish.no_tree("no tree is in what is")
    except BaseException:
        storage.close()
        raise
    return storage


def _has_root(storage: Any) -> bool:
    """Whether anything was ever written to a storage; a database that is opened writes its root."""
    keeps_views = IMVCCStorage.providedBy(storage)
    reader = storage.new_instance() if keeps_views else storage
    try:
        if keeps_views:
            reader.poll_invalidations()
        load_current(reader, z64)
    except POSKeyError:
        return False
    finally:
        if keeps_views:
            reader.release()
    return True


# --- Files -----------------------------------------------------------------------------------------------------------


def _file(wish: Wish, path: str) -> Any:
    """A FileStorage with its blobs beside it, as LOTDB has it."""
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise ArgumentError(f"{wish.name}: {path}", expected="the file of a database", got="something else")
        if not wish.create:
            raise wish.no_tree("no database is")
        if wish.read_only:
            raise ArgumentError(f"{wish.name}: create=True and read_only=True", "exclude each other")
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    elif os.path.getsize(path):
        with open(path, "rb") as file:
            if file.read(len(FILESTORAGE_MAGIC)) != FILESTORAGE_MAGIC:
                raise ForeignFileError(f"{wish.name}: {path}", expected="the file of a database", got="something else")
    blobs = f"{path}.blobs"
    try:
        storage = FileStorage(
            path, read_only=wish.read_only, blob_dir=None if wish.read_only and not os.path.isdir(blobs) else blobs
        )
    except LockError as error:
        raise wish.locked() from error
    except (FileStorageError, CorruptedError) as error:
        raise DamagedDatabaseError(f"{wish.name}: {path} can't be opened: {in_words(error)}") from error
    return _checked(wish, storage)


# --- Connections that are lost ---------------------------------------------------------------------------------------


def _patience(timeout: float) -> dict[str, int]:
    """How long a system waits for the other side of a connection, by the names that libpq has for that."""
    seconds = max(1, math.ceil(timeout / 6))
    return {
        "keepalives": 1,
        "keepalives_idle": 3 * seconds,
        "keepalives_interval": seconds,
        "keepalives_count": 3,
        "tcp_user_timeout": 6000 * seconds,
    }


def _notice_silence(connection: socket.socket, timeout: float) -> None:
    """Have the system end a connection whose other side is gone without a word, as where a machine lost its power."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    patience = _patience(timeout)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, ours in (
        ("TCP_KEEPIDLE", "keepalives_idle"),
        ("TCP_KEEPINTVL", "keepalives_interval"),
        ("TCP_KEEPCNT", "keepalives_count"),
        ("TCP_USER_TIMEOUT", "tcp_user_timeout"),
    ):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), patience[ours])


# --- ZEO -------------------------------------------------------------------------------------------------------------


def _flag(text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true"):
        raise ValueError(text)
    return text.lower() in ("1", "true")


_ZEO_OPTIONS: dict[str, Callable[[str], Any]] = {
    "storage": str,
    "blob_dir": str,
    "shared_blob_dir": _flag,
    "blob_cache_size": int,
    "cache_size": int,
}


def _zeo(wish: Wish) -> Any:
    """A client of a ZEO server, by `zeo://host:port` or `zeo:///path/of/a/socket`."""
    client = needed("ZEO.ClientStorage", "zeo", f"{wish.name}() of zeo://")
    exceptions = needed("ZEO.Exceptions", "zeo", f"{wish.name}() of zeo://")
    try:
        parts = urlsplit(wish.uri)
        address: Any = (parts.hostname or "localhost", parts.port or ZEO_PORT) if parts.netloc else unquote(parts.path)
    except ValueError:
        raise ArgumentError(f"{wish.name}: {shown(wish.uri)}", expected="zeo://host:port or zeo:///socket") from None
    options = wish.options(parts.query, _ZEO_OPTIONS)
    if "blob_dir" not in options:
        options["blob_dir"] = wish.folder_for_blobs()
    try:  # a client would wait for a server that is not there
        if parts.netloc:
            socket.create_connection(address, wish.timeout).close()
        else:
            with closing(socket.socket(socket.AF_UNIX)) as tried:
                tried.settimeout(wish.timeout)
                tried.connect(address)
    except OSError as error:
        raise wish.unreachable(error) from error

    class ClientStorage(client.ClientStorage):  # type: ignore[misc,name-defined]
        def notify_connected(self, connection: Any, *args: Any) -> None:
            self._oids: list[bytes] = []  # a server that was killed, and started again, may give them to others
            _notice_silence(connection.protocol.sm_protocol.transport.get_extra_info("socket"), wish.timeout)
            super().notify_connected(connection, *args)

    try:
        # `server_sync`: a transaction that begins sees what others have committed by then.
        return ClientStorage(address, wait_timeout=wish.timeout, server_sync=True, read_only=wish.read_only, **options)
    except exceptions.ClientDisconnected as error:
        storage = options.get("storage", "1")
        raise wish.unreachable(f"no answer about a storage {storage!r} in {wish.timeout:g} s") from error


# --- PostgreSQL ------------------------------------------------------------------------------------------------------

#: The options of a URI that are those of the storage; all others are those of libpq.
_STORAGE_OPTIONS: dict[str, Callable[[str], Any]] = {
    "keep_history": _flag,
    "blob_dir": str,
    "shared_blob_dir": _flag,
    "blob_cache_size": int,
    "cache_local_mb": int,
}


def _postgres(wish: Wish) -> Any:
    """A RelStorage in a PostgreSQL database."""
    purpose = f"{wish.name}() of postgresql://"
    driver = needed("psycopg2", "postgres", purpose)
    adapters = needed("relstorage.adapters.postgresql", "postgres", purpose)
    make = needed("relstorage.storage", "postgres", purpose).RelStorage
    options_of = needed("relstorage.options", "postgres", purpose).Options

    address, _, query = wish.uri.partition("?")
    own = [part for part in query.split("&") if unquote(part.partition("=")[0]) in _STORAGE_OPTIONS]
    others = [part for part in query.split("&") if part and part not in own]
    options = wish.options("&".join(own), _STORAGE_OPTIONS)
    try:
        fields = driver.extensions.parse_dsn("?".join([address, *(["&".join(others)] if others else [])]))
    except driver.ProgrammingError as error:
        raise ArgumentError(f"{wish.name}: {shown(wish.uri)} can't be read: {in_words(error)}") from None
    if fields.get("password") or fields.get("sslpassword"):
        raise no_password(wish.name)
    fields = {"connect_timeout": max(1, math.ceil(wish.timeout)), **_patience(wish.timeout), **fields}
    dsn = driver.extensions.make_dsn(**fields)
    try:
        with closing(driver.connect(dsn)) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("SELECT to_regclass('object_state'), to_regclass('current_object')")
            has_tables, has_history = (found is not None for found in cursor.fetchone())
    except driver.OperationalError as error:
        raise wish.unreachable(error) from error
    if not has_tables and (wish.read_only or not wish.create):
        raise wish.no_tree("no tree is in the database")
    if has_tables and options.setdefault("keep_history", has_history) != has_history:
        raise ArgumentError(
            f"{wish.name}: keep_history of {shown(wish.uri)}",
            expected=f"{has_history}, as the database was made, or left out",
            got=f"{options['keep_history']}",
        )
    if "blob_dir" not in options:
        options["blob_dir"] = wish.folder_for_blobs()
    about = options_of(read_only=wish.read_only, create_schema=not has_tables, **options)
    try:
        storage = make(adapters.PostgreSQLAdapter(dsn=dsn, options=about), options=about)
    except driver.Error as error:
        raise wish.unreachable(error) from error
    return _checked(wish, storage)


# --- Whatever zodburi knows ------------------------------------------------------------------------------------------


def _by_zodburi(wish: Wish) -> tuple[Any, dict[str, Any]]:
    """The storage of a configuration file, or of any other URI that zodburi knows."""
    scheme = wish.uri.partition(":")[0]
    zodburi = needed("zodburi", "zeo", f"{wish.name}() of {scheme}:")
    if scheme == "file" and not wish.create and not os.path.isfile(urlsplit(wish.uri).path):
        raise wish.no_tree("no database is")  # it would be made
    try:
        factory, options = zodburi.resolve_uri(wish.uri)
    except zodburi.NoResolverForScheme:
        raise ArgumentError(
            f"{wish.name}: {shown(wish.uri)}",
            expected="a path, or a URI of file, zeo, postgresql, zconfig, or of what zodburi knows",
        ) from None
    except Exception as error:
        raise ArgumentError(f"{wish.name}: {shown(wish.uri)} can't be read: {in_words(error)}") from error
    try:
        storage = factory()
    except LotprocError:
        raise
    except LockError as error:
        raise wish.locked() from error
    except Exception as error:
        raise wish.unreachable(error) from error
    _checked(wish, storage)
    if wish.read_only and not storage.isReadOnly():
        storage.close()
        raise ArgumentError(
            f"{wish.name}: {shown(wish.uri)} opens for writing",
            hint="say read-only in its configuration, or leave read_only=True away",
        )
    return storage, options
