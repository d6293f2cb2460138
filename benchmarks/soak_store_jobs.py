"""What the soak program does with stores in processes of their own.

`python -m benchmarks.soak_store_jobs NAME OPTIONS` with options in JSON; a job prints what it found, as lines of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from dirdb import dirdb  # type: ignore[import-untyped]
from lmdb_object_store import LmdbObjectStore
from roxxel import Roxxel  # type: ignore[import-untyped]

from benchmarks.soak_histories import HISTORIES, ArchiveHistory, History
from benchmarks.soak_jobs import tell
from benchmarks.soak_processes import LOOK_EVERY, Job
from benchmarks.soak_records import record, step_of
from benchmarks.soak_store_damage_jobs import build, damage
from benchmarks.soak_store_reading import READERS, Log, logged
from lotproc.errors import StoreFullError
from lotproc.stores import Archive


class StoreJob(Job):
    """A job of this module."""

    module = "benchmarks.soak_store_jobs"


def at_once(call: Callable[[], Any]) -> Any:
    return call()


# Writers


def change(kind: str, log: str, until: str | None = None, **of: Any) -> None:
    """Do step after step, in sessions of a few, until it is killed, or until there is a file."""
    history = HISTORIES[kind](**of)
    writes = Log(Path(log))
    number = 0
    while until is None or not os.path.exists(until):
        with history.session() as store:
            for _ in range(Random(f"session {history.seed} {number}").choice((1, 5, 50))):
                with writes.step():
                    history.apply(store, number, at_once)
                number += 1
    tell(steps=number)


class Patience:
    """Calls again what failed, when there is the file that says that there is room."""

    def __init__(self, again: str) -> None:
        self._again = again
        self.is_over = False

    def __call__(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (OSError, StoreFullError) as error:
            self.wait(error)
            return call()

    def wait(self, error: Exception) -> None:
        if self.is_over:
            raise error
        self.is_over = True
        tell(error=type(error).__name__, errno=getattr(error, "errno", None), message=str(error))
        while not os.path.exists(self._again):
            time.sleep(LOOK_EVERY)


def fill(kind: str, log: str, again: str, opens_anew: bool, most: int, more: int, **of: Any) -> None:
    """Do step after step until the disk is full; when there is room, go on, in the same session or in a new one."""
    history = HISTORIES[kind](**of)
    writes, patience = Log(Path(log)), Patience(again)
    number, end = 0, most
    while number < end:
        try:
            with history.session() as store:
                while number < end:
                    with writes.step():
                        history.apply(store, number, at_once if opens_anew else patience)
                    number += 1
                    if patience.is_over and end == most:
                        end = number + more
        except (OSError, StoreFullError) as error:
            if not opens_anew:
                raise
            patience.wait(error)
    tell(steps=number)


# Readers


def look(kind: str, order: list[str], goes_on: bool, **of: Any) -> None:
    """Tell what lotproc and the original find, in turn; and whether more can be written."""
    history = HISTORIES[kind](**of)
    for who in order:
        try:
            found = history.seen_by_lotproc() if who == "lotproc" else history.seen_by_original()
            tell(who=who, found=found)
        except Exception as error:
            tell(who=who, error=f"{type(error).__name__}: {error}")
    if goes_on:
        try:
            _go_on(kind, history)
            tell(who="a writer", found={})
        except Exception as error:
            tell(who="a writer", error=f"{type(error).__name__}: {error}")


def _go_on(kind: str, history: History) -> None:
    """Write one more, by lotproc and by the original."""
    mine, its = record("mine", 1, 10), record("its", 1, 10)
    if isinstance(history, ArchiveHistory):
        before = len(history.seen_by_lotproc())
        with history.opened("a") as archive:
            archive.append(mine)
        with Archive(history.path) as archive, Roxxel(list(map(str, sorted(history.folder.glob("*.rox"))))) as original:
            step_of("mine", archive[before])
            if list(map(bytes, archive)) != [bytes(original[number]) for number in range(len(original))]:
                raise AssertionError(f"it finds {len(original)} records, and lotproc {len(archive)}")
        return
    with history.session() as store:
        store["mine"] = mine
    if kind == "LMDB":
        with LmdbObjectStore(str(history.folder), key_encoding="utf-8") as store:
            step_of("mine", store["mine"])
            store["its"] = its
    else:
        step_of("mine", dirdb(history.folder).get_data("mine"))
        dirdb(history.folder)["its"].put_data(its)
    with history.session() as store:
        step_of("its", store["its"])


def read_beside(kind: str, log: str, seconds: float, **of: Any) -> None:
    """Read at random for so many seconds beside a writer; tell how much, and what was wrong."""
    history = HISTORIES[kind](**of)
    while not logged(Path(log))[0]:  # the writer has not made the store yet
        time.sleep(LOOK_EVERY)
    reader = READERS[kind](history, Path(log))
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            try:
                reader.read()
            except Exception as error:
                reader.wrong.append(f"{type(error).__name__}: {error}"[:500])
    finally:
        reader.close()
    tell(reads=reader.reads, kinds=dict(reader.kinds), wrong=len(reader.wrong), some=reader.wrong[:5])


JOBS: dict[str, Callable[..., None]] = {
    "change": change,
    "fill": fill,
    "look": look,
    "read_beside": read_beside,
    "build": build,
    "damage": damage,
}

if __name__ == "__main__":
    JOBS[sys.argv[1]](**json.loads(sys.argv[2]))
