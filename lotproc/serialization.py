"""Any object to a file and back, as a pickle, under the names that lotdb uses."""

from __future__ import annotations

import os
import pickle
from typing import Any

from ._files import replacing
from ._public import public
from ._spelling import also_named, spelled
from .errors import ArgumentTypeError, NotPicklableError, add_note, got

__all__ = ["load_from_file", "save_to_file"]

SUFFIX = ".pyobj"


@public
@also_named(obj="oject", object="oject")
def save_to_file(oject: Any, path: str | os.PathLike[str] | None = None) -> None:
    """Save an object to the file `path` + ".pyobj", all of it or nothing.

    >>> import os, tempfile
    >>> from lotproc import load_from_file, save_to_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_to_file({"threshold": 0.5}, os.path.join(folder, "settings"))
    ...     print(os.listdir(folder), load_from_file(os.path.join(folder, "settings")))
    ['settings.pyobj'] {'threshold': 0.5}

    The object is written to a new file in the same folder, which then takes the place of the old one: a reader sees the
    old object or the new one, and a failure of any kind leaves the old file as it was. Safe beside other threads and
    processes; the last one to finish wins.

    Args:
        oject: Anything that pickles. A live node drags its whole tree along.
        path: Where to save it; `None` is "saved_obj" in the current folder. The suffix is always added.

    Raises:
        NotPicklableError: The object can't be pickled.
        OSError: The file can't be written.
    """
    with replacing(_checked("save_to_file", "saved_obj" if path is None else path) + SUFFIX) as file:
        _dump(oject, file)


@public
@spelled
def load_from_file(path: str | os.PathLike[str]) -> Any:
    """Load an object that `save_to_file` saved.

    Warning:
        A pickle can run any code when it is loaded: load only files from people you trust.

    >>> import os, tempfile
    >>> from lotproc import load_from_file, save_to_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_to_file([1, 2], os.path.join(folder, "numbers"))
    ...     load_from_file(os.path.join(folder, "numbers.pyobj"))
    [1, 2]

    Args:
        path: The file, with its suffix or without: the name as given comes first.

    Returns:
        The object.

    Raises:
        FileNotFoundError: There is no such file under either name.
        Exception: Whatever unpickling raises, with a note that names the file.
    """
    name = _checked("load_from_file", path)
    for candidate in (name, name + SUFFIX):
        try:
            with open(candidate, "rb") as file:
                return _load(file)
        except (FileNotFoundError, IsADirectoryError) as error:
            if error.filename != candidate:  # raised by the object itself as it was loaded
                raise
    raise FileNotFoundError(f"load_from_file: there is no file {name!r}, and no {name + SUFFIX!r}")


def _dump(oject: Any, file: Any) -> None:
    try:
        pickle.dump(oject, file, protocol=5)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # The object's repr may be as endless as its pickle.
        raise NotPicklableError(f"save_to_file: can't pickle this {type(oject).__name__}: {error}") from error


def _load(file: Any) -> Any:
    try:
        return pickle.load(file)
    except Exception as error:
        add_note(error, f"lotproc: while loading {file.name}")
        raise


def _checked(name: str, path: str | os.PathLike[str]) -> str:
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(text, str):
        raise ArgumentTypeError(f"{name}: path", expected="a str or a path", got=got(path))
    return text
