"""Where the files of an LMDB store are, and what tells one from another."""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["Place", "identity"]


class Place(NamedTuple):
    """Where an environment's files are.

    Args:
        path: The folder with the two files, or the data file, as the store was told.
        subdir: Whether it is the folder.
    """

    path: str
    subdir: bool

    @property
    def data(self) -> str:
        return os.path.join(self.path, "data.mdb") if self.subdir else self.path

    @property
    def lock(self) -> str:
        """The table of readers, which LMDB writes to also where it only reads."""
        return os.path.join(self.path, "lock.mdb") if self.subdir else f"{self.path}-lock"

    @property
    def folder(self) -> str:
        return self.path if self.subdir else os.path.dirname(self.path)


def identity(path: str) -> tuple[object, ...]:
    """What tells a file, however it is named."""
    try:
        status = os.stat(path)
    except OSError:
        return (os.path.realpath(path),)
    return (status.st_dev, status.st_ino) if status.st_ino else (os.path.realpath(path),)
