"""Servers that do not answer: what each driver says of a connection that is lost, said in one way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .._nodes import class_name
from ..errors import ServerError
from .uris import in_words

__all__ = ["answered"]


@contextmanager
def answered(storage: Any) -> Iterator[None]:
    """A block that asks a server, by a storage or an instance of one.

    Raises:
        ServerError: Its connection is lost.
    """
    try:
        yield
    except Exception as error:
        if not _is_lost(storage, error):
            raise
        raise ServerError(
            "the server of a tree",
            expected="to answer",
            got=in_words(error),
            hint="open the root anew; what was committed is there",
        ) from error


def _is_lost(storage: Any, error: Exception) -> bool:
    # By their names, since neither need be installed: what ZEO raises, and psycopg2 where no answer came from a server,
    # whose errors have classes of their own.
    if class_name(error) in ("ZEO.Exceptions.ClientDisconnected", "psycopg2.DatabaseError"):
        return True
    adapter = getattr(storage, "_adapter", None)
    return adapter is not None and isinstance(error, adapter.driver.disconnected_exceptions)
