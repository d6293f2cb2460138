"""From a URI to the open storage that it names: a file, ZEO, PostgreSQL, or whatever zodburi knows."""

from __future__ import annotations

import math
import os
import re
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
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
from ..errors import (
    ArgumentError,
    DamagedDatabaseError,
    ForeignFileError,
    LotprocError,
    ServerError,
    StoreLockedError,
)

__all__ = ["Wish", "check_uri", "opened_storage", "shown"]

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://|(demo):")
_ASK = "name its host, port and user, and give the password as PGPASSWORD or in PGPASSFILE, or in a zconfig:// file"
ZEO_PORT = 9991


@dataclass(frozen=True)
class Wish:
    """How a storage is to be opened.

    Args:
        name: The function that asks.
        uri: What names it, checked.
        create: Whether it may be made, if it is not there.
        read_only: Whether it is only read.
        timeout: Seconds that its server has to answer.
        resources: What is closed with it, such as a folder for the blobs of a server.
    """

    name: str
    uri: str
    create: bool
    read_only: bool
    timeout: float
    resources: ExitStack = field(default_factory=ExitStack)

    def no_tree(self, what: str) -> ArgumentError:
        """The error where no tree is, for something that could have one."""
        return ArgumentError(
            f"{self.name}: {what} at {shown(self.uri)}",
            hint="create=True makes a new tree" if not self.create else None,
        )

    def locked(self) -> StoreLockedError:
        """The error of a file that somebody else has open for writing."""
        hint = None if self.read_only else "close it there, or give read_only=True"
        return StoreLockedError(f"{self.name}: {shown(self.uri)} is open for writing elsewhere", hint=hint)

    def unreachable(self, error: BaseException | str) -> ServerError:
        """The error of a server that is not there, refuses, or does not answer."""
        why = error if isinstance(error, str) else _in_words(error)
        return ServerError(f"{self.name}: the server of {shown(self.uri)}", expected="there and to let us in", got=why)

    def options(self, query: str, known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
        """The options in the query of the URI."""
        found: dict[str, Any] = {}
        for option, value in parse_qsl(query, keep_blank_values=True):
            if option not in known:
                raise ArgumentError(
                    f"{self.name}: the option {option!r} of {shown(self.uri)}",
                    expected=f"one of {', '.join(map(repr, known))}",
                    hint="a zconfig:// file has all options of a storage",
                )
            try:
                found[option] = known[option](value)
            except ValueError:
                raise ArgumentError(
                    f"{self.name}: the option {option!r} of {shown(self.uri)} can't be", got=repr(value)
                ) from None
        return found

    def folder_for_blobs(self) -> str:
        """A folder for the blobs that are read from a server, which goes with the storage."""
        return self.resources.enter_context(tempfile.TemporaryDirectory(prefix="lotproc-blobs-"))


def shown(uri: str) -> str:
    """A URI as errors show it: without options, and without anything in front of the host."""
    scheme = _SCHEME.match(uri)
    if scheme is None or scheme[0].lower() == "file://":
        return uri
    if scheme[2]:
        return "demo:..."
    return scheme[0] + uri[scheme.end() :].rpartition("@")[2].partition("?")[0]


def check_uri(name: str, uri: str) -> None:
    """Refuse a URI with a password in it: it would be in every message, pickle and ledger that names the storage."""
    scheme = _SCHEME.match(uri)
    if scheme is None or scheme[0].lower() == "file://":
        return
    before, at, _ = uri[scheme.end() :].partition("?")[0].rpartition("@")
    if not at:
        before = uri[scheme.end() :].rpartition("@")[0].partition("?")[0]  # a ? in a password that is not escaped
    in_options = any(
        re.search("passw|secret", unquote(part.partition("=")[0]), re.I) and part.partition("=")[2]
        for part in re.split("[?&#]", uri)[1:]
        if not part.lower().startswith(("passfile=", "sslkey="))
    )
    if before.partition(":")[2] or in_options:
        raise ArgumentError(f"{name}: a URI must hold no password", hint=_ASK)


def opened_storage(wish: Wish) -> tuple[Any, dict[str, Any]]:
    """The storage that a URI names, with a tree or `create`, and options of the database."""
    scheme = _SCHEME.match(wish.uri)
    kind = "" if scheme is None else (scheme[1] or scheme[2]).lower()
    if kind == "file" and "?" not in wish.uri:
        path = wish.uri[len("file://") :]
        return _file(wish, url2pathname(path.removeprefix("localhost") if path[:10] == "localhost/" else path)), {}
    if not kind:
        return _file(wish, wish.uri), {}
    if kind == "zeo":
        return _checked(wish, _zeo(wish)), {}
    if kind in ("postgresql", "postgres"):
        return _postgres(wish), {}
    return _by_zodburi(wish)


def _checked(wish: Wish, storage: Any) -> Any:
    """The storage, if there is something in it, or `create`; closed otherwise."""
    try:
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


def _in_words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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
        raise DamagedDatabaseError(f"{wish.name}: {path} can't be opened: {_in_words(error)}") from error
    return _checked(wish, storage)


# --- ZEO -------------------------------------------------------------------------------------------------------------


def _flag(text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true"):
        raise ValueError(text)
    return text.lower() in ("1", "true")


def _zeo(wish: Wish) -> Any:
    """A client of a ZEO server, by `zeo://host:port` or `zeo:///path/of/a/socket`."""
    client = needed("ZEO.ClientStorage", "zeo", f"{wish.name}() of zeo://")
    exceptions = needed("ZEO.Exceptions", "zeo", f"{wish.name}() of zeo://")
    try:
        parts = urlsplit(wish.uri)
        address: Any = (parts.hostname or "localhost", parts.port or ZEO_PORT) if parts.netloc else parts.path
    except ValueError:
        raise ArgumentError(f"{wish.name}: {shown(wish.uri)}", expected="zeo://host:port or zeo:///socket") from None
    options = wish.options(parts.query, {"storage": str, "blob_dir": str, "shared_blob_dir": _flag, "cache_size": int})
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
    try:
        # `server_sync`: a transaction that begins sees what others have committed by then.
        return client.ClientStorage(
            address, wait_timeout=wish.timeout, server_sync=True, read_only=wish.read_only, **options
        )
    except exceptions.ClientDisconnected as error:
        storage = options.get("storage", "1")
        raise wish.unreachable(f"no answer about a storage {storage!r} in {wish.timeout:g} s") from error


# --- PostgreSQL ------------------------------------------------------------------------------------------------------

#: The options of a URI that are those of the storage; all others are those of libpq.
_STORAGE_OPTIONS: dict[str, Callable[[str], Any]] = {
    "keep_history": _flag,
    "blob_dir": str,
    "shared_blob_dir": _flag,
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
        raise ArgumentError(f"{wish.name}: {shown(wish.uri)} can't be read: {_in_words(error)}") from None
    if fields.get("password") or fields.get("sslpassword"):
        raise ArgumentError(f"{wish.name}: a URI must hold no password", hint=_ASK)
    fields.setdefault("connect_timeout", str(max(1, math.ceil(wish.timeout))))
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
        raise ArgumentError(f"{wish.name}: {shown(wish.uri)} can't be read: {_in_words(error)}") from error
    try:
        storage = factory()
    except LotprocError:
        raise
    except LockError as error:
        raise wish.locked() from error
    except Exception as error:
        # The text of a connection that can't be read may hold a password.
        why = type(error).__name__ if type(error).__name__ == "ProgrammingError" else error
        raise wish.unreachable(why) from (None if isinstance(why, str) else error)
    _checked(wish, storage)
    if wish.read_only and not storage.isReadOnly():
        storage.close()
        raise ArgumentError(
            f"{wish.name}: {shown(wish.uri)} opens for writing",
            hint="say read-only in its configuration, or leave read_only=True away",
        )
    return storage, options
