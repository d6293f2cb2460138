"""Measures what a job costs on a file, on ZEO and on PostgreSQL: one worker, on this machine.

CPU is what the system counts for the processes, so that whatever else the machine does matters little. Of all rounds
the least counts. Round trips are how much longer it takes through a proxy that delays what is sent.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from time import sleep
from typing import Any

import psutil
from toolz import pipe

import lotproc as lp
from benchmarks.cluster_costs import FILE, POSTGRES, SPAN, ZEO, Costs, Work
from benchmarks.cluster_meter import Commits, Look, Meter, since
from benchmarks.corpora import JOB
from benchmarks.engines import awake
from benchmarks.measuring import WARM_UP, in_fresh_process
from benchmarks.servers import BATCH, Server, build_in_postgres, doubled, in_postgres, on_zeo
from benchmarks.sides import built
from benchmarks.trees import NAME, build, leaf_path

#: Seconds by which the two proxies delay what is sent, either way.
DELAYS = 0.001, 0.010
#: Spans that are read and written through these, and results that are committed one by one.
SPANS, SINGLE = 3, 40
#: Those of them while nobody else can commit: from the answer to a vote to its end. PostgreSQL gets all in one message.
TRIPS_OF_COMMIT = {FILE: 0, ZEO: 1, POSTGRES: 0}


@contextmanager
def in_file(folder: Path) -> Iterator[str]:
    """The path of the tree that was built in a file."""
    yield str(folder / NAME)


#: How a tree on each storage is served and built, and whether what is served is a copy of what was built.
SERVED: dict[str, tuple[Server, Callable[[Path, int], None], bool]] = {
    FILE: (in_file, build, False),
    ZEO: (on_zeo, build, False),
    POSTGRES: (in_postgres, build_in_postgres, True),
}


def measured_costs(leaves: int, rounds: int, folder: Path) -> dict[str, Costs]:
    """The costs on each storage."""
    found: dict[str, Costs] = {}
    for storage, (_, make, _) in SERVED.items():
        source, small = built(make, leaves, folder), built(make, WARM_UP, folder)
        each = [in_fresh_process(measured_round, storage, source, leaves, small) for _ in range(rounds)]
        least = {
            step: tuple(min(looks) for looks in zip(*(steps[step] for steps in each), strict=True)) for step in each[0]
        }
        trips = dict.fromkeys(least, 0.0)
        if storage != FILE:
            fast, slow = (in_fresh_process(timed_through, storage, source, delay) for delay in DELAYS)
            trips |= {step: max(0.0, slow[step] - fast[step]) / 2 / (DELAYS[1] - DELAYS[0]) for step in slow}
        archived, stored = least.pop("archived")[0], least.pop("stored")[0]
        if found:  # what a worker does by itself is measured where nothing else is going on
            archived = found[FILE].archived
        for step in ("write", "one"):
            trips[step] -= min(trips[step], TRIPS_OF_COMMIT[storage])
        trips |= dict.fromkeys(("commit", "commit_one"), TRIPS_OF_COMMIT[storage])
        works = {step: Work(client, server, trips[step], disk) for step, (client, server, disk) in least.items()}
        found[storage] = Costs(**works, archived=archived, stored=stored)
        print(f"{storage}: measured", file=sys.stderr, flush=True)
    return found


@contextmanager
def served(storage: str, source: Path) -> Iterator[tuple[str, Path]]:
    """The URI of a tree that may be written to, and the folder that it is in."""
    serve, _, is_copied = SERVED[storage]
    with TemporaryDirectory(dir=source.parent) as place:
        folder = source if is_copied else Path(shutil.copytree(source, Path(place, "copy")))
        with serve(folder) as uri:
            yield uri, folder


def meter_of(storage: str, folder: Path) -> Meter:
    """What looks at the processes of a server; of a file, at the worker processes."""
    first = psutil.Process()
    if storage == POSTGRES:
        first = psutil.Process(int((folder / "cluster" / "postmaster.pid").read_text().split()[0]))
    return Meter(first)


# --- A job -----------------------------------------------------------------------------------------------------------


def results(root: Any) -> Iterator[Any]:
    """What a worker makes of its part: the leaves, read and processed."""
    processed = lp.parallel_map(lp.outputs(doubled), mode="sync")
    return pipe(root, lp.scan("duration", skip="_*"), lp.chunked(BATCH), processed)


def by_workers(root: Any) -> Iterator[Any]:
    """The same by a worker process, to which the parent sends what it reads."""
    return lp.parallel_map(lp.outputs(doubled), lp.chunked(BATCH, lp.scan("duration", root, skip="_*")), max_workers=1)


def measured_round(storage: str, source: Path, leaves: int, small: Path) -> dict[str, Look]:
    """Seconds of CPU of client and server, and of waiting for the disk, of each step."""
    if storage == FILE:
        list(lp.parallel_map(awake, range(4), max_workers=1))
    measured_steps(storage, small, WARM_UP)
    return measured_steps(storage, source, leaves)


def measured_steps(storage: str, source: Path, leaves: int) -> dict[str, Look]:
    spans, is_file = leaves / SPAN, storage == FILE
    some = [lp.ProcessResult(leaf_path(index), 1.0) for index in range(min(leaves, SINGLE))]
    with served(storage, source) as (uri, folder):
        meter = meter_of(storage, folder)

        def measured(work: Callable[[], object]) -> tuple[float, float, Commits]:
            meter.find()
            with Commits(storage, meter) as commits:
                before = meter.now()
                work()
                meter.find()
                client, server, _ = since(before, meter.now())
            return client, server, commits

        with lp.open_root(uri) as root:
            read = measured(lambda: sum(1 for _ in lp.scan("duration", root, skip="_*")))
        with lp.open_root(uri) as root:
            job = measured(
                lambda: lp.write(JOB, root, by_workers(root) if is_file else results(root), commit_every=SPAN)
            )
            one = measured(lambda: lp.write(lp.mirror("_ones"), root, some, commit_every=1))
            stored = size_of(root, uri, storage)
            with TemporaryDirectory() as place, lp.Archive(Path(place, "some.rox"), "w", codec="pickle") as archive:
                archived = measured(lambda: lp.write(lp.mirror(), archive, results(root)))

    found = {
        "read": (read[0] / spans, read[1] / spans, 0.0),
        "archived": ((archived[0] - read[0]) / spans, 0.0, 0.0),
        "stored": (stored / leaves, 0.0, 0.0),
    }
    for work, count, names in ((job, spans, ("write", "commit")), (one, len(some), ("one", "commit_one"))):
        client, server, commits = work
        if is_file:  # here the parent is the server, and does all but what the workers do
            found |= {names[0]: (server / count, client / count, 0.0), names[1]: (0.0, 0.0, commits.wait)}
            continue
        before = read if work is job else (0.0, 0.0)
        outside = client - before[0] - commits.client, server - before[1] - commits.server
        found[names[0]] = max(0.0, outside[0] / count), max(0.0, outside[1] / count), 0.0
        found[names[1]] = commits.client / count, commits.server / count, commits.wait
    return found


def size_of(root: Any, uri: str, storage: str) -> int:
    """The bytes of the storage."""
    if storage == POSTGRES:
        import psycopg2

        with psycopg2.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_database_size(current_database())")
            return int(cursor.fetchone()[0])
    return int(root._p_jar.db().getSize())


# --- Round trips -----------------------------------------------------------------------------------------------------


def timed_through(storage: str, source: Path, delay: float) -> dict[str, float]:
    """How long steps take through a proxy that delays what is sent, either way."""
    some = [lp.ProcessResult(leaf_path(index), 1.0) for index in range(SPANS * SPAN)]
    with served(storage, source) as (uri, folder), TemporaryDirectory() as place:
        path, here, through = in_its_place(storage, uri, place)
        Thread(target=asyncio.run, args=(delayed(path, here, delay),), daemon=True).start()
        while not os.path.exists(here):
            sleep(0.01)
        with lp.open_root(through) as root:
            lp.write(lp.inline("_warm"), root, lp.chunked(BATCH, some[:SPAN]), commit_every=SPAN)
            steps = {
                "read": (
                    SPANS,
                    lambda: sum(1 for _ in zip(range(SPANS * SPAN), lp.scan("duration", root), strict=False)),
                ),
                "write": (SPANS, lambda: lp.write(JOB, root, lp.chunked(BATCH, some), commit_every=SPAN)),
                "one": (10, lambda: lp.write(lp.mirror("_ones"), root, some[:10], commit_every=1)),
            }
            found = {}
            meter = meter_of(storage, folder)
            for step, (count, work) in steps.items():
                start = meter.now()
                work()
                found[step] = since(start, meter.now())[-1] / count
            return found


def in_its_place(storage: str, uri: str, place: str) -> tuple[str, str, str]:
    """The socket of a server, one in another folder that stands for it, and the URI of that."""
    if storage == POSTGRES:
        folder, name = uri.rpartition("host=")[2], ".s.PGSQL.5432"
        return f"{folder}/{name}", f"{place}/{name}", uri.replace(folder, place)
    return uri.removeprefix("zeo://"), f"{place}/zeo", f"zeo://{place}/zeo"


async def delayed(path: str, here: str, delay: float) -> None:
    """Hand on what comes to a socket, and what its server answers, after a delay."""

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(handed_on(reader, there_writer, delay), handed_on(there_reader, writer, delay))

    async with await asyncio.start_unix_server(both, here) as server:
        await server.serve_forever()


async def handed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    loop = asyncio.get_running_loop()
    while data := await reader.read(1 << 16):
        loop.call_later(delay, writer.write, data)
    loop.call_later(delay, writer.close)
