"""One file and its node: whether it can be read, and a reference to it or its content attached."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from stat import S_ISREG
from typing import Any

from lotdb import BaseNode, DataNode, DataWriter, PathFileObj

from ._contents import attach_content
from .errors import MissingExtraError

__all__ = ["Unusable", "check_opens", "check_regular", "opens", "read", "reason_of", "refer", "refers"]

#: Modules that lotdb imports to read files: what to install, and the extra that brings it.
_EXTRAS = {
    "scipy": ("scipy", "files"),
    "soundfile": ("soundfile", "files"),
    "pandas": ("pandas", "files"),
    "PIL": ("Pillow", "files"),
    "zarr": ("zarr", "zarr"),
}


class Unusable(Exception):
    """A file that is to be reported and left out."""


def reason_of(error: Exception) -> str:
    """Why a file or a folder can't be read, in one line; of the system's errors without the path, which is told."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())}"


def refers(stored: Any, file: Path) -> bool:
    return isinstance(stored, PathFileObj) and stored.path == file


def check_regular(file: Path) -> None:
    if os.path.exists(file) and not (os.path.isfile(file) or os.path.isdir(file)):
        raise Unusable("it is no regular file")  # reading a pipe would wait for a writer


def opens(file: Path) -> bool:
    """Whether it is a regular file that can be opened: a quarter of the time that it takes to find what is wrong."""
    name = str(file)
    try:
        if not S_ISREG(os.stat(name).st_mode):
            return False
        os.close(os.open(name, os.O_RDONLY))
    except (OSError, ValueError):
        return False
    return True


def check_opens(file: Path) -> None:
    """Refuse a file that can't be opened, as whoever follows a reference to it will do."""
    try:
        file.open("rb").close()
    except (OSError, ValueError) as error:  # of values: a name that no file can have
        raise Unusable(reason_of(error)) from error


def refer(node: BaseNode, file: Path, attribute: str) -> None:
    """Attach a reference to a file."""
    found = DataWriter.attach_file_reference(node, filepath_attribute=attribute, filepath=str(file)).path
    if found != file and not (
        found.exists() and found.samefile(file)
    ):  # lotdb takes /mnt/D for a drive of Windows: /mnt/d
        raise Unusable(f"lotdb would refer to {found} in its place; move it, or use content=True")


def read(node: DataNode, file: Path, attribute: str, backend: str, samplerate_hz: float | None, database: Any) -> None:
    """Attach the content of a file."""
    with warnings.catch_warnings():
        # scipy only warns of a wav file that was cut off; what else it warns of is no concern: chunks beside the sound.
        warnings.filterwarnings("error", message="Reached EOF prematurely")
        warnings.filterwarnings("ignore", message=r"Chunk \(non-data\)|Incomplete chunk ID")
        # lotdb leaves it to the garbage collector to close an image that is damaged.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            attach_content(node, file, attribute, backend=backend, samplerate_hz=samplerate_hz, database=database)
        except ImportError as error:
            package = (error.name or "").partition(".")[0]
            if package not in _EXTRAS:
                raise
            raise MissingExtraError.of(*_EXTRAS[package], f"ingest_files: {file}") from error
        except Exception as error:
            reason = reason_of(error)
        else:
            return
        raise Unusable(reason)  # out here the error is gone, and with it what lotdb had opened
