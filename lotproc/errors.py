"""Errors for people: where it happened, what was expected, what came, what to do.

Every error that lotproc raises on its own account is a `LotprocError` and also the built-in error
that a Python programmer would expect (`ValueError` for a bad value, `TypeError` for a wrong type).
All of them survive pickling, so they arrive whole from worker processes.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from reprlib import Repr
from unicodedata import normalize

from ._is_node import is_node
from ._public import public

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "CodecError",
    "DamagedDatabaseError",
    "DamagedStoreError",
    "DetachError",
    "ExistsError",
    "ForeignFileError",
    "LiveNodeError",
    "LotprocError",
    "MissingExtraError",
    "NoSuchKeyError",
    "NotPicklableError",
    "NotReadyError",
    "OutOfViewError",
    "PatternError",
    "PayloadError",
    "ProcessorError",
    "ReadOnlyStoreError",
    "ReadOnlyTreeError",
    "ResultError",
    "ServerError",
    "StoreClosedError",
    "StoreFullError",
    "StoreLockedError",
    "UncommittedError",
    "WorkerDiedError",
    "WorkerTimeoutError",
]


class LotprocError(Exception):
    """The root of all errors that lotproc raises on its own account.

    >>> error = LotprocError(
    ...     "write: the attribute 'n'",
    ...     path=("ann", "clip_1"),
    ...     expected="a number",
    ...     got="None",
    ... )
    >>> print(error)
    write: the attribute 'n' at ann/clip_1 must be a number, got None
    >>> error.path
    ('ann', 'clip_1')

    Args:
        what: What is wrong: the function, and its argument, attribute or file.
        why: What is wrong with it, where that is not told by `expected`.
        path: The path of the node or the record that it is about.
        expected: What it must be; where `what` ends with a colon, what was expected in its place.
        got: What came, in brief.
        hint: What to do.
    """

    #: These are `None` where they say nothing.
    path: tuple[str, ...] | None = None
    expected: str | None = None
    got: str | None = None
    hint: str | None = None

    def __init__(
        self,
        what: str = "",
        why: str = "",
        *,
        path: Iterable[str] | None = None,
        expected: str | None = None,
        got: str | None = None,
        hint: str | None = None,
    ) -> None:
        fields = {"path": None if path is None else tuple(path), "expected": expected, "got": got, "hint": hint}
        # Only those that are there, so that an error from an older version, which had none, is the same.
        vars(self).update((name, value) for name, value in fields.items() if value is not None)
        super().__init__(
            what
            + ("" if path is None else f" at {as_text(path)}")
            + ("" if expected is None else f" expected {expected}" if what.endswith(":") else f" must be {expected}")
            + (why and f" {why}")
            + ("" if got is None else f", got {got}")
            + ("" if hint is None else f"; {hint}")
        )


class ArgumentError(LotprocError, ValueError):
    """An argument has the right type and a value that can't be used."""


class ArgumentTypeError(LotprocError, TypeError):
    """An argument has a type that can't be used."""


class PatternError(ArgumentError):
    """A regular expression or a glob that can't be read."""


class LiveNodeError(ArgumentTypeError):
    """A live node came where only detached records may go."""


class DetachError(LotprocError, TypeError):
    """An attribute or a payload that can't be taken out of its tree, or not be stored again."""


class ResultError(LotprocError, TypeError):
    """A processor returned something that is no `ProcessResult`."""


class NotPicklableError(LotprocError, TypeError):
    """Something that has to travel or be stored can't be pickled."""


class ProcessorError(LotprocError, RuntimeError):
    """Stands for an error of a processor that can't come out of a worker process as what it is."""


class WorkerDiedError(LotprocError, BrokenExecutor):
    """A worker process ended while it was at work: it was killed, ran out of memory, or crashed."""


class WorkerTimeoutError(LotprocError, TimeoutError):
    """A worker process was at work for longer than it may be, and was stopped."""


class NotReadyError(LotprocError, RuntimeError):
    """A worker can't begin: its initializer fails, or the processor can't be loaded there."""


class ExistsError(LotprocError, ValueError):
    """Something is already there, and the call was told not to touch it."""


class DamagedDatabaseError(LotprocError, RuntimeError):
    """A record of the database is missing or can't be read."""


class OutOfViewError(ArgumentError):
    """What the root's connection sees can't be read beside it: others have written over it, or it lies elsewhere."""


class UncommittedError(LotprocError, RuntimeError):
    """Changes of the tree that are not committed are in the way, or were aborted that should have been."""


class PayloadError(LotprocError, ValueError):
    """A payload's file does not hold what its record says."""


class ReadOnlyTreeError(LotprocError, RuntimeError):
    """Writing was asked of a tree whose connection can only read."""


class ServerError(LotprocError, ConnectionError):
    """The server of a storage can't be reached, refuses, or does not answer in time."""


class NoSuchKeyError(LotprocError, KeyError):
    """A store has nothing under a key, or a tree no node at a path."""

    __str__ = Exception.__str__  # a KeyError shows the repr of what it is given


class CodecError(LotprocError, ValueError):
    """A value that the store's codec can't hold, or a store that another codec wrote."""


class DamagedStoreError(LotprocError, RuntimeError):
    """What a store's file holds can't be read."""


class ForeignFileError(LotprocError, ValueError):
    """A file that is none of the store's kind, or of a later version; it is never overwritten."""


class ReadOnlyStoreError(LotprocError, RuntimeError):
    """Writing was asked of a store that was opened for reading, or that lies where there are no locks."""


class StoreClosedError(LotprocError, RuntimeError):
    """A store was used after it was closed, or in a process that was forked from the one that opened it."""


class StoreFullError(LotprocError, RuntimeError):
    """A store is as large as it may become."""


class StoreLockedError(LotprocError, TimeoutError):
    """Somebody else holds a lock."""


class MissingExtraError(LotprocError, ImportError):  # type: ignore[misc]  # ImportError has a path of its own
    """An optional package is needed that is not installed."""

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> MissingExtraError:
        """The error for `package`, which `pip install lotproc[extra]` would bring."""
        return cls(f"{purpose} needs {package}, which is not installed", hint=f'pip install "lotproc[{extra}]"')


for _name in __all__:
    public(globals()[_name])


def as_utf8(text: str) -> str:
    """A text as tables and terminals can hold it: what is no UTF-8, as in names of files of old, comes escaped.

    >>> as_utf8("caf\\udce9.wav")
    'caf\\\\udce9.wav'
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def as_text(path: Iterable[str]) -> str:
    """A node path as people read it.

    >>> as_text(("speaker_01", "clip_001"))
    'speaker_01/clip_001'
    >>> as_text(())
    'the root'
    """
    keys = list(map(str, path))
    if len(keys) > 20:
        keys = [*keys[:5], "…", *keys[-5:]]
    return as_utf8("/".join(keys)) or "the root"


def other_form(there: Iterable[str], wanted: Iterable[str]) -> str:
    """What to say of texts that look alike, and are not the same: file names of a Mac have accents in another form.

    >>> other_form(["Jo\u0308rg"], ["J\u00f6rg"]).partition(":")[0]
    ', with accents in another Unicode form'
    >>> other_form(["ann "], ["ann"]), other_form(["anna"], ["ann"])
    (', with other spaces in it', '')
    """
    found, sought = "/".join(map(str, there)), "/".join(map(str, wanted))
    if normalize("NFC", found) == normalize("NFC", sought):
        return ', with accents in another Unicode form: unicodedata.normalize("NFC", ...) makes them alike'
    return ", with other spaces in it" if found.split() == sought.split() else ""


#: Characters of a value in a message.
MAX_BRIEF = 120


class _Repr(Repr):
    """Looks at no more of a value than it shows."""

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value) if len(value) <= self.maxother else f"{repr(value[: self.maxother])[: self.maxother]}…"

    def repr_bytearray(self, value: bytearray, level: int) -> str:
        return f"bytearray({self.repr_bytes(bytes(value[: self.maxother + 1]), level)})"


_repr = _Repr()
_repr.maxstring = 40
_repr.maxother = 80
_repr.maxlevel = 2


def brief(value: object) -> str:
    """The repr of a value in a few characters, however large or deep it is.

    >>> brief(list(range(1000)))
    '[0, 1, 2, 3, 4, 5, ...]'
    """
    if is_node(value):  # whose own repr counts all its children
        return f"<{value.key}>"
    text = _repr.repr(value)
    return text if len(text) <= MAX_BRIEF else f"{text[: MAX_BRIEF - 1]}…"


def got(value: object) -> str:
    """Name a value that was not expected: its type and its repr, in brief.

    >>> got(3)
    'int 3'
    >>> got(None)
    'None'
    >>> from functools import partial
    >>> got(partial(print, 1))
    'functools.partial(<built-in function print>, 1)'
    """
    text, kind = brief(value), type(value).__name__
    constructor = text.partition("(")[0].rpartition(".")[2]  # of a repr that begins with the module, too
    is_named = value is None or isinstance(value, type) or kind == constructor or kind in text[: len(kind) + 1]
    return text if is_named else f"{kind} {text}"


@contextmanager
def unwarned() -> Iterator[None]:
    """Say nothing inside: what is made again, where it is unpickled, was warned of where it was made."""
    token = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(token)


_is_quiet: ContextVar[bool] = ContextVar("_is_quiet", default=False)


def warn(text: str) -> None:
    """Warn of something in the user's code, at the line of it that called lotproc."""
    if _is_quiet.get():
        return
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, UserWarning, stacklevel=level)


#: Packages whose code may lie between a warning and the user's line.
_BETWEEN = frozenset({"lotproc", "cloudpickle", "more_itertools", "toolz", "tqdm"})


def add_note(error: BaseException, note: str) -> None:
    """Say where an error of somebody else's code happened, without changing its type.

    The note is printed below the traceback from Python 3.11 on; Python 3.10 only keeps it in `__notes__`.
    """
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        error.__dict__["__notes__"] = [*getattr(error, "__notes__", []), note]
