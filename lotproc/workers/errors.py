"""Errors that travel between processes: they keep their type, arguments, message and causes, and the lines of code."""

from __future__ import annotations

import copyreg
import pickle
import re
import sys
import traceback
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Any

from .._pickling import by_value, dumps_detached
from .._tracebacks import formatted, said, users_frames
from ..errors import NotReadyError, ProcessorError, add_note, got

__all__ = ["ErrorOutcome", "not_loaded", "outcome_of"]


class ErrorOutcome:
    """Comes in place of an outcome where the processor raised an error. In its own process it holds that very error.

    An error is made anew from its type and its arguments, without a call of its constructor, which may take others.
    Its traceback begins where the user's code does. Attributes and causes that can't be pickled stay behind, and a note
    says so; an error that can't be had elsewhere at all becomes a `ProcessorError` that quotes it.

    Args:
        error: The error.
        is_nobodys: It is no record's fault, and ends the run.
    """

    def __init__(self, error: BaseException, *, is_nobodys: bool = False) -> None:
        self.error, self.is_nobodys = error, is_nobodys

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (_packed(self.error), _quoted(self.error), self.is_nobodys)


def outcome_of(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, or the `ErrorOutcome` of its error; what ends a program goes its own way."""
    try:
        return call(*arguments)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        return ErrorOutcome(error)


def not_loaded(reason: BaseException) -> NotReadyError:
    """The error for a worker in which the processor can't be loaded, or what comes before it fails."""
    error = NotReadyError(
        "parallel_map: a worker process can't begin, since its initializer or the loading of the processor failed: "
        f"{type(reason).__qualname__}: {reason}"
    )
    error.__cause__ = reason
    return error


def _arrived(packed: bytes, quote: str, is_nobodys: bool = False) -> ErrorOutcome:
    try:
        return ErrorOutcome(pickle.loads(packed), is_nobodys=is_nobodys)
    except Exception as error:  # its class can't be imported here, say
        told = ProcessorError(quote.partition("\n")[0])
        add_note(told, f"lotproc: as itself it can't be had in this process: {error!r}\n{quote}")
        return ErrorOutcome(told, is_nobodys=is_nobodys)


def _quoted(error: BaseException) -> str:
    """An error in words, with where it happened behind the first line."""
    # The formatted traceback has the notes, but not in Python 3.10.
    notes = [] if hasattr(error, "add_note") else getattr(error, "__notes__", [])
    return "\n".join([f"{type(error).__qualname__}: {said(error)}", *map(str, notes), formatted(error)])


def _packed(error: BaseException) -> bytes:
    """An error as bytes that give it back as it is, as far as it can be pickled."""
    packed = _dumps(error)
    if packed is None:
        _leave_behind(error)
        packed = _dumps(error)
    if packed is None:
        first, _, rest = _quoted(error).partition("\n")
        told = ProcessorError(first)
        add_note(told, rest)
        packed = pickle.dumps(told)
    return packed


def _dumps(error: BaseException) -> bytes | None:
    """The pickle of an error; `None` where what comes out of it is not what went in."""
    try:
        packed = dumps_detached(error, pickler=_pickler())
        again = pickle.loads(packed)
    except Exception:
        return None
    is_same = type(again) is type(error) and _ADDRESS.sub("", said(again)) == _ADDRESS.sub("", said(error))
    return packed if is_same else None


#: Where an object is that a message shows; one that was made anew is somewhere else.
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")


def _leave_behind(error: BaseException) -> None:
    """Take from an error, which nobody needs any more where it was raised, what can't be pickled."""
    for name, value in list(vars(error).items()):
        try:
            pickle.loads(dumps_detached(value, pickler=_pickler()))
        except Exception:
            del error.__dict__[name]
            add_note(error, f"lotproc: its attribute {name!r} can't be pickled, and stays where it was: {got(value)}")
    is_explicit = error.__suppress_context__
    for name in ("__cause__", "__context__"):
        other = getattr(error, name)
        if other is not None and other is not error:
            setattr(error, name, _arrived(_packed(other), "").error)
    error.__suppress_context__ = is_explicit


@cache
def _pickler() -> Any:
    """A pickler that takes errors apart in its own way, wherever they are."""
    base = by_value()

    class Pickler(base):  # type: ignore[misc, valid-type]
        def reducer_override(self, value: Any) -> Any:
            return _reduced(value) if isinstance(value, BaseException) else super().reducer_override(value)

    return Pickler


def _reduced(error: BaseException) -> tuple[Any, ...]:
    kind = type(error)
    base = _base_of(kind)
    # What `copyreg` has for it is left aside: tblib, which distributed brings, calls the constructors of all of them.
    usual = (
        kind.__reduce__ is base.__reduce__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__setstate__ is BaseException.__setstate__
    )
    reduced: Any = error.__reduce__() if usual else error.__reduce_ex__(4)
    make, arguments = reduced[:2]
    attributes = reduced[2] if len(reduced) > 2 else None
    if usual:
        make, arguments = _made, (kind, arguments)
        names: Any = copyreg._slotnames(kind)  # type: ignore[attr-defined]
        attributes = {**(attributes or {}), **{name: getattr(error, name) for name in names if hasattr(error, name)}}
    frames = [
        (frame.filename, frame.lineno, frame.name) for frame in traceback.extract_tb(users_frames(error.__traceback__))
    ]
    causes = error.__cause__, error.__context__, error.__suppress_context__
    return make, arguments, (attributes, usual, causes, frames), None, None, _restore


def _base_of(kind: type[BaseException]) -> Any:
    """The class of Python's own that instances of a class of errors are made by."""
    base: Any = kind
    while base.__flags__ & 1 << 9:  # made by a `class` statement
        base = base.__base__
    return base


def _made(kind: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    """An error with its arguments, whatever the constructors of its class take."""
    base = _base_of(kind)
    error: BaseException = base.__new__(kind, *arguments)
    base.__init__(error, *arguments)
    return error


def _restore(error: BaseException, parts: tuple[Any, ...]) -> None:
    """Give an error that was made anew its attributes, its causes and the lines that it came through."""
    attributes, usual, (cause, context, is_explicit), frames = parts
    if not usual and attributes is not None:
        error.__setstate__(attributes)
    elif usual:
        for name, value in attributes.items():
            try:
                object.__setattr__(error, name, value)  # whatever its class says, which may be that it is frozen
            except AttributeError:  # a property of that name
                error.__dict__[name] = value
    error.__cause__, error.__context__, error.__suppress_context__ = cause, context, is_explicit
    if frames:
        error.__traceback__ = _traceback(frames)


def _traceback(frames: list[tuple[str, int, str]]) -> TracebackType | None:
    """A traceback through these places, which shows the lines of the files that are here."""
    found = None
    for file, line, name in reversed(frames):
        code = _STUB.replace(co_filename=file, co_firstlineno=line, co_name=name)
        try:
            exec(code, {})
        except ZeroDivisionError as error:
            made = error.__traceback__
            assert made is not None
            assert made.tb_next is not None
            found = TracebackType(found, made.tb_next.tb_frame, made.tb_next.tb_lasti, line)
    return found


_STUB = compile("1 / 0", "", "exec")
if sys.version_info >= (3, 11):  # where within its line an instruction is; it is not known, so no marks are shown
    _STUB = _STUB.replace(co_linetable=b"\xe8\x00" * (len(_STUB.co_code) // 2))
