"""Steps that files are changed by: made under a hidden name, written to the disk, put in their place."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import IO, Any

from ..._files import make_directories, new_file
from .keys import HIDDEN, TEMPORARY

__all__ = ["new_token", "temporary", "write_new"]


def new_token() -> str:
    """Part of the names of hidden files that nobody else has."""
    return f"{secrets.token_hex(8)}-{os.getpid()}"


def temporary(directory: str, token: str, kind: str) -> str:
    """Where a new file is until it takes its place; dirdb takes no such name for an entry."""
    return f"{directory}{os.sep}{HIDDEN}{token}.{kind}{TEMPORARY}"


def write_new(path: str, target: str, write: Callable[[IO[bytes]], Any], durable: bool) -> None:
    """Make a file that is to take the place of another; its directory, too, if that is not there."""
    try:
        with new_file(path, target, durable=durable) as file:
            write(file)
    except FileNotFoundError:
        if os.path.isdir(os.path.dirname(path)):
            raise
        make_directories(os.path.dirname(path), durable=durable)
        write_new(path, target, write, durable)
