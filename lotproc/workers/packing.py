"""Pickles to worker processes and back: tasks, batches and outcomes as bytes, and what is refused or warned of."""

from __future__ import annotations

import os
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, lru_cache, partial
from io import BytesIO
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, TypeAlias

import cloudpickle

from .._fast import FAST
from .._pickling import VALUES, by_value, dumps_detached
from ..errors import LiveNodeError, NotPicklableError, as_text, got, warn
from ..models import ProcessResult
from .arithmetic import Arithmetic, within
from .environment import is_of_user, module_file
from .errors import ErrorOutcome, not_loaded, outcome_of
from .memory import Memories, Memory, OutOfBand, has_memory
from .tasks import Outcome, Task

__all__ = [
    *("Initializer", "Parcel", "Returned", "check_picklable", "loaded", "packed_batch", "packed_task", "parcel"),
    *("run_packed", "run_task"),
]

Initializer: TypeAlias = "Callable[[], object] | None"


class Parcel(NamedTuple):
    """A packed batch.

    Args:
        packed: All of it, or all but its large arrays.
        memory: What holds these.
    """

    packed: bytes
    memory: Memory | None = None


class Returned(NamedTuple):
    """A packed outcome, and the large arrays that are not in it."""

    packed: bytes | memoryview
    buffers: list[bytes | bytearray]


def check_picklable(task: Task, initializer: Initializer) -> None:
    """Refuse what can't be sent to a process, and warn of what does not do there what it does here."""
    _sendable("processor", task.fn, task.fn, _watching())
    if initializer is not None:
        _sendable("initializer", initializer, initializer)


def packed_task(task: Task, initializer: Initializer = None) -> bytes:
    """A task and what comes before it as bytes, by value where it can't be imported."""
    return _sendable("processor", task.fn, (task, initializer))


def packed_batch(batch: Any, out_of_band: OutOfBand | None = None) -> bytes:
    """A batch and the caller's arithmetic as bytes: in one go, and refused where it would take a tree along."""
    try:
        return dumps_detached((Arithmetic.changed(), batch), pickler=by_value(), out_of_band=out_of_band)
    except LiveNodeError as error:
        what = f"parallel_map: a batch can't leave its process: {error}"
        raise LiveNodeError(what, hint="snapshot(...) it first") from None
    except Exception as error:
        raise NotPicklableError(f"parallel_map: {got(batch)} can't be sent to a process: {error}") from error


def parcel(batch: Any, memories: Memories) -> Parcel:
    """A packed batch whose large arrays are in shared memory, as they are now."""
    if has_memory():
        out_of_band = OutOfBand()
        packed = packed_batch(batch, out_of_band)
        if not out_of_band.buffers:
            return Parcel(packed)
        if memory := memories.of(out_of_band.buffers):
            return Parcel(packed, memory)
    return Parcel(packed_batch(batch))


def run_packed(
    task: Task, batch: bytes, memory: Memory | None = None, own: Arithmetic | None = None
) -> tuple[bytes, bool]:
    """The packed outcome of a packed batch, and whether its large arrays are in the memory, where the batch's were.

    The arithmetic is that which came with it, unless there is an `own` one.
    """
    arithmetic, unpacked = pickle.loads(batch, buffers=memory.read() if memory else None)
    return within(own or arithmetic, task, unpacked, partial(_packed_outcome, memory))  # type: ignore[no-any-return]


def run_task(packed: bytes, batch: bytes) -> bytes | ErrorOutcome:
    """The same where the task is packed, too, and the outcome is all in one; or its error."""
    try:
        task = _loaded_task(packed)
    except Exception as error:
        return ErrorOutcome(not_loaded(error), is_nobodys=True)
    return outcome_of(lambda: run_packed(task, batch)[0])  # type: ignore[no-any-return]


@lru_cache(maxsize=8)
def _loaded_task(packed: bytes) -> Task:
    """The task, loaded once a worker and not once a batch."""
    task, _ = pickle.loads(packed)
    return task  # type: ignore[no-any-return]


def loaded(outcome: Any) -> Any:
    """An outcome, which may be packed."""
    if type(outcome) is Returned:
        return pickle.loads(outcome.packed, buffers=outcome.buffers)
    return pickle.loads(outcome) if type(outcome) is bytes else outcome


def _packed_outcome(memory: Memory | None, outcome: Outcome) -> tuple[bytes, bool]:
    """An outcome as bytes, and whether its large arrays are in the memory and not among these.

    Raises:
        NotPicklableError: It can't be; says which part of it.
    """
    try:
        if memory:
            out_of_band = OutOfBand()
            packed = _dumps(outcome, out_of_band)
            if not out_of_band.buffers:
                return packed, False
            with suppress(OSError):  # there is no room for them
                memory.write(out_of_band.buffers)
                return packed, True
        return _dumps(outcome), False
    except MemoryError:
        raise
    except Exception as error:
        from .._values import iterator_in  # here, since a worker seldom needs it

        what, value = next(_unpicklable(outcome.result), ("what fn returned", outcome.result))
        advice = iterator_in(value) or got(value)
        what = f"parallel_map: {what} can't be sent back from a worker process: {error}"
        raise NotPicklableError(what, hint=advice) from error


def _dumps(value: Any, out_of_band: OutOfBand | None = None) -> bytes:
    """The pickle of a value, with functions and classes that can't be imported."""
    buffer = BytesIO()
    _results_pickler()(buffer, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=out_of_band).dump(value)
    return buffer.getvalue()


@cache
def _results_pickler() -> Any:
    """The pickler of cloudpickle, in half the time for results."""

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            return value.__reduce_ex__(4) if type(value) in VALUES else super().reducer_override(value)

    return Pickler if FAST else cloudpickle.Pickler


def _unpicklable(result: Any) -> Iterator[tuple[str, Any]]:
    """The parts of results that can't be pickled, and what they are."""
    if isinstance(result, (list, tuple)):
        for item in result:
            yield from _unpicklable(item)
    elif isinstance(result, ProcessResult):
        named = ((f"attribute {name!r}", value) for name, value in result.attributes.items())
        for what, value in (("the output", result.output), *named):
            try:
                _dumps(value)
            except Exception:
                yield f"{what} of the result at {as_text(result.path)}", value


@cache
def _watching() -> Any:
    """A pickler that warns of generators of random numbers, which would be the same in each worker."""
    import numpy as np

    base = by_value()

    class Pickler(base):  # type: ignore[misc, valid-type]
        def reducer_override(self, value: Any) -> Any:
            used = [value]
            if isinstance(value, FunctionType):  # one that is imported by its name is no part of the pickle
                used += [value.__globals__.get(name) for name in value.__code__.co_names]
            for found in used:
                if isinstance(found, (np.random.Generator, np.random.RandomState, random.Random)):
                    warn(
                        f"parallel_map: the processor takes a generator of random numbers to workers, {got(found)}; "
                        f"all of them draw the same from it; use lotproc.rng(record): its numbers are the record's own"
                    )
            return super().reducer_override(value)

    return Pickler


def _sendable(what: str, fn: object, value: object, pickler: Any = None) -> bytes:
    for module in _new_strays():
        cloudpickle.register_pickle_by_value(module)
    try:
        return dumps_detached(value, pickler=pickler or by_value())
    except Warning:  # made an error by the user
        raise
    except LiveNodeError as error:
        raise LiveNodeError(
            f"parallel_map: the {what} {got(fn)} can't leave its process: {error}",
            hint="pass what it needs as records or plain values",
        ) from None
    except Exception as error:
        raise NotPicklableError(
            f"parallel_map: the {what} {got(fn)} can't be sent to a process: {error}",
            hint='create what it holds inside it, or use mode="thread"',
        ) from error


#: The names of modules that were looked for already.
_looked_for: set[str] = set()


def _new_strays() -> Iterator[ModuleType]:
    """Loaded modules that no other process could import by their names, of those that were not looked at before.

    Such are a module that was loaded from its path, and the main program where `multiprocessing` has spawned this one.
    """
    if _looked_for.issuperset(sys.modules):
        return
    for name in set(sys.modules) - _looked_for:
        _looked_for.add(name)
        module = sys.modules.get(name)
        file = module_file(module)
        if is_of_user(file) and file.endswith(".py") and name != "__main__" and not _is_found(name, file):
            assert module is not None
            if module.__name__ == name:
                yield module


def _is_found(name: str, file: str) -> bool:
    """Whether an import of a name would load a file."""
    parent = name.rpartition(".")[0]
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    try:
        specs = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next(filter(None, specs), None)
        return spec is not None and spec.origin is not None and os.path.samefile(spec.origin, file)
    except Exception:  # what a finder of somebody's own can't answer is left as it is
        return True
