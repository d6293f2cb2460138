"""Workers, a server, commits that wait for one another, and a network, as discrete events.

Work is simulated a span at a time, that is a thousand leaves from their reading to the commit of their results. What
has found its pace after some thousand commits goes on at it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import simpy

from benchmarks.cluster_costs import FILE, POSTGRES, SPAN, Costs, Work

#: Spans that are simulated, if there are as many: so many, or so many for each worker.
SPANS, SPANS_OF_WORKER = 1_000, 20
#: Seconds after which another process gets its turn at a core; and of a long step the most turns.
TURN, MOST_TURNS = 0.05, 20
#: Spans of which the results go into one archive.
SPANS_OF_ARCHIVE = 10

Steps = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Setting:
    """What is simulated.

    Args:
        storage: Where the tree is.
        workers: How many workers there are.
        work: Seconds that the user's processor takes for a leaf.
        archives: Whether results go into archives, and only references to these into the tree.
        network: Seconds of a round trip.
        server_cores: Cores of the machine of the server, or of the only one.
        one_machine: Whether the workers are on it too, as they always are with a file; otherwise each has its own core.
    """

    storage: str
    workers: int
    work: float = 0.0
    archives: bool = False
    network: float = 0.0005
    server_cores: int = 16
    one_machine: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Args:
        seconds: The time for all leaves.
        busy: Of everything that only so many can use at a time, the share of the time that it was in use.
    """

    seconds: float
    busy: dict[str, float]

    @property
    def bottleneck(self) -> str:
        return max(self.busy, key=self.busy.__getitem__)


def steps(costs: Costs, setting: Setting) -> tuple[Work, Work, Work, int]:
    """How a worker goes on: it reads and processes a span, once or several times, writes, and commits."""
    read, write, commit, every = costs.read, costs.write, costs.commit, 1
    more = SPAN * setting.work
    if setting.archives:
        more += costs.archived
        write, commit, every = costs.one, costs.commit_one, SPANS_OF_ARCHIVE
    elif setting.storage == FILE:  # the parent reads and writes; what the worker does, it does at once
        read, write = Work(client=write.client), replace(write, client=0.0)
    return replace(read, client=read.client + more), write, commit, every


class Station:
    """Something that only so many can use at a time; the others stand in a line."""

    def __init__(self, environment: simpy.Environment, capacity: int) -> None:
        self.line, self.capacity, self.used = simpy.Resource(environment, capacity), capacity, 0.0


class Simulation:
    """A run of a job; the names of its stations are those that a reader is told.

    Args:
        costs: What it costs on this storage.
        setting: What is simulated.
        spans: How many spans there are.
    """

    def __init__(self, costs: Costs, setting: Setting, spans: int) -> None:
        self.costs, self.setting, self.left = costs, setting, spans
        self.environment = simpy.Environment()
        self.over = self.environment.event()
        self.begun = 0
        workers, is_file = setting.workers, setting.storage == FILE
        #: With a file, batches on their way; on a server every worker goes for its own.
        self.loops = 2 * workers if is_file and not setting.archives else workers
        self.network, self.commits = self._station(self.loops), self._station(1)
        self.cores, pool, process = self._station(setting.server_cores), self._station(workers), self._station(1)
        self.stations = {"workers": pool, "commits": self.commits, "network": self.network}
        #: What a client and a server need for their work, each of those within the one before it.
        self.clients: list[Station] = [pool]
        self.servers: list[Station] = []
        if setting.storage != POSTGRES:  # one process, which does one thing at a time
            self.servers.append(process)
            self.stations["parent" if is_file else "server"] = process
        if is_file or setting.one_machine:
            self.clients.append(self.cores)
            self.servers.append(self.cores)
            self.stations["cores"] = self.cores
        elif setting.storage == POSTGRES:
            self.servers.append(self.cores)
            self.stations["server"] = self.cores

    def _station(self, capacity: int) -> Station:
        return Station(self.environment, capacity)

    def run(self) -> tuple[float, dict[str, float]]:
        """The seconds until the last commit, and the share of them in which each station was in use."""
        for _ in range(self.loops):
            self.environment.process(self._worker())
        self.environment.run(self.over)
        now = self.environment.now
        return now, {name: station.used / station.capacity / now for name, station in self.stations.items()}

    def _worker(self) -> Steps:
        setting, env = self.setting, self.environment
        read, write, commit, every = steps(self.costs, setting)
        while self.left > 0:
            spans = min(every, self.left)
            self.left -= spans
            self.begun += 1
            for _ in range(spans):
                yield from self._step(read)
            yield from self._step(write)
            if setting.storage == FILE:  # the parent commits, and is not in its own way
                yield from self._step(commit)
            else:
                with self.commits.line.request() as turn:
                    yield turn
                    start = env.now
                    yield from self._step(commit)
                    self.commits.used += env.now - start
            self.begun -= 1
            if not self.left and not self.begun:
                self.over.succeed()

    def _step(self, work: Work) -> Steps:
        yield from self._trips(work.trips)
        yield from self._used(work.server, *self.servers)
        yield from self._used(work.client, *self.clients)
        if self.setting.storage == POSTGRES:
            yield self.environment.timeout(work.disk)
        else:  # one process, which waits
            yield from self._used(work.disk, self.servers[0])

    def _trips(self, number: float) -> Steps:
        return self._used(number * self.setting.network, self.network)

    def _used(self, seconds: float, *stations: Station) -> Steps:
        """Use some stations together: the last of them, if that is a core of many, a turn at a time."""
        if not seconds:
            return
        with ExitStack() as held:
            for station in stations[:-1]:
                yield held.enter_context(station.line.request())
            left = seconds
            longest = max(TURN, seconds / MOST_TURNS) if stations[-1] is self.cores else seconds
            while left > 0:
                turn = min(left, longest)
                with stations[-1].line.request() as request:
                    yield request
                    yield self.environment.timeout(turn)
                left -= turn
        for station in stations:
            station.used += seconds


def simulated(costs: Costs, setting: Setting, leaves: int) -> Outcome:
    """The time that a job takes for so many leaves, and what was in use."""
    all_spans = -(-leaves // SPAN)
    in_turn = SPANS_OF_ARCHIVE * setting.workers  # so that in what goes on at this pace no worker is left over
    spans = min(all_spans, -(-max(SPANS, SPANS_OF_WORKER * setting.workers) // in_turn) * in_turn)
    seconds, busy = _run(costs, setting, spans)
    return Outcome(seconds * all_spans / spans, busy)


@cache
def _run(costs: Costs, setting: Setting, spans: int) -> tuple[float, dict[str, float]]:
    return Simulation(costs, setting, spans).run()
