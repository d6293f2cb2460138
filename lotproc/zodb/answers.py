"""Servers that do not answer: what each driver says of a connection that is lost, said in one way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .._jar import is_lost
from ..errors import ServerError
from .uris import in_words

__all__ = ["answered"]


@contextmanager
def answered() -> Iterator[None]:
    """A block that asks a server.

    Raises:
        ServerError: Its connection is lost.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ServerError) or not is_lost(error):
            raise
        raise ServerError(
            "the server of a tree",
            expected="one that answers",
            got=in_words(error),
            hint="open the root anew; what was committed is there",
        ) from error
