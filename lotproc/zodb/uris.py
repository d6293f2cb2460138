"""URIs of storages: what they may hold, how errors show them, and what is wished of what they name."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from ..errors import ArgumentError, ServerError, StoreLockedError

__all__ = ["Wish", "check_uri", "in_words", "kind_of", "no_password", "shown"]

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://|(demo):")
_ASK = "name its host, port and user, and give the password as PGPASSWORD or in PGPASSFILE, or in a zconfig:// file"


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
        why = error if isinstance(error, str) else in_words(error)
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
        raise no_password(name)


def kind_of(uri: str) -> str:
    """The scheme of a URI; nothing for a path."""
    scheme = _SCHEME.match(uri)
    return "" if scheme is None else (scheme[1] or scheme[2]).lower()


def no_password(name: str) -> ArgumentError:
    """The error of a URI with a password in it."""
    return ArgumentError(f"{name}: a URI must hold no password", hint=_ASK)


def in_words(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
