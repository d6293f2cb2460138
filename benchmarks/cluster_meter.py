"""CPU of a client and of its server, and what of it goes by while others can't commit."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, TypeAlias
from unittest import mock

import psutil

from benchmarks.cluster_costs import POSTGRES, ZEO

#: Seconds of CPU of this process and of the server, and the time without that for which they stood in line for a core.
Look: TypeAlias = "tuple[float, float, float]"


class Meter:
    """The CPU of this process and of those below another one, and the time.

    Args:
        first: The other one: of a server, or this one, if it has started them.
    """

    def __init__(self, first: psutil.Process) -> None:
        self._first, self._own = first, 0.0
        self.find()

    def find(self) -> None:
        """See which processes there are."""
        start = process_time()
        self._processes = [process.pid for process in self._first.children(recursive=True)]
        self._own += process_time() - start  # what it takes to look does not count

    def now(self) -> Look:
        start = process_time()
        times = self._first.cpu_times()  # of processes that have ended, too
        cpu, queued = map(sum, zip(*map(cpu_of, self._processes), strict=True)) if self._processes else (0.0, 0.0)
        server = cpu + times.children_user + times.children_system
        look = start - self._own, server, perf_counter() - queued - cpu_of(os.getpid())[1]
        self._own += process_time() - start
        return look


def cpu_of(process: int) -> tuple[float, float]:
    """The seconds that a process has had a core, and has waited for one, by now; Linux alone tells it so exactly."""
    cpu = queued = 0
    for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with suppress(OSError):  # it has ended
            times = thread.read_text().split()
            cpu, queued = cpu + int(times[0]), queued + int(times[1])
    return cpu / 1e9, queued / 1e9


def since(before: Look, now: Look) -> Look:
    client, server, wall = (end - begin for begin, end in zip(before, now, strict=True))
    return client, server, wall


class Commits:
    """What goes on while others can't commit: PostgreSQL's lock, a vote and what is behind it on others."""

    client = server = 0.0

    def __init__(self, storage: str, meter: Meter) -> None:
        self._meter, self._start = meter, meter.now()
        self._waits: list[float] = []
        if storage == POSTGRES:
            from relstorage.adapters.postgresql.adapter import PostgreSQLAdapter as Kind

            names = "lock_database_and_move", "lock_database_and_move"
        else:
            if storage == ZEO:
                from ZEO.ClientStorage import ClientStorage as Kind
            else:
                from ZODB.FileStorage import FileStorage as Kind
            names = "tpc_vote", "tpc_finish"
        self._patches = [mock.patch.object(Kind, name, self._around(name, Kind, names)) for name in set(names)]

    def _around(self, name: str, kind: Any, names: tuple[str, str]) -> Callable[..., Any]:
        call = getattr(kind, name)

        def watched(*args: Any, **options: Any) -> Any:
            if name == names[0]:
                self._meter.find()  # a server of PostgreSQL may have a new process for this
                self._start = self._meter.now()
            done = call(*args, **options)
            if name == names[1]:
                client, server, wall = since(self._start, self._meter.now())
                self.client += client
                self.server += server
                self._waits.append(max(0.0, wall - client - server))
            return done

        return watched

    @property
    def wait(self) -> float:
        """What a commit waits for the disk, as a rule."""
        return median(self._waits)

    def __enter__(self) -> Commits:
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *error: object) -> None:
        for patch in self._patches:
            patch.stop()
