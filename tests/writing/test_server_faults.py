"""Workers that write are killed, and so is their server: run again, they end in the tree of an undisturbed run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from jobs import RESULTS, fill, nodes, of_a_part, undisturbed
from recording import examples
from servers import Postgres, end_of_workers, listens, postgres, zeo_server

import lotproc as lp

#: How often a run is begun at most: once more after each thing that is killed, and as long as a server comes up.
MOST_RUNS = 8


@dataclass
class Server:
    """A server that comes up again when it is killed.

    Args:
        uri: A database in it, without a tree.
        kill: Kills it.
        is_up: Whether it answers.
    """

    uri: Callable[[], str]
    kill: Callable[[], None]
    is_up: Callable[[], bool]


@dataclass(frozen=True)
class KillServer:
    """Kills a server, whose number is in a file."""

    number: Path

    def __call__(self) -> None:
        os.kill(int(self.number.read_text()), signal.SIGKILL)


@dataclass(frozen=True)
class KillPostgres:
    """Kills one of its processes, for which it ends all connections, and starts again by itself."""

    folder: Path

    def __call__(self) -> None:
        import psycopg2

        connection = psycopg2.connect(host=str(self.folder), user="postgres", dbname="postgres")
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname LIKE 'test%' AND backend_type = 'client backend'"
            )
            number = cursor.fetchone()[0]
        connection.close()
        os.kill(number, signal.SIGKILL)


@dataclass(frozen=True)
class Deadly:
    """Gives the results, and at one of them kills something, once.

    Args:
        flag: A file that tells that this was done.
        at: The number of the result.
        kill: Kills it.
    """

    flag: Path
    at: int
    kill: Callable[[], None]

    def __call__(self, record: lp.NodeRecord) -> int:
        n: int = record.attributes["n"]
        if n == self.at and not self.flag.exists():
            self.flag.touch()
            self.kill()
        return 2 * n


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def on_zeo(folder: Path, _: Any) -> Iterator[Server]:
    with zeo_server(folder, again=True) as uri:
        names = iter(range(10**6))
        yield Server(
            lambda: f"{uri}#{next(names)}", KillServer(folder / "zeo.log.pid"), lambda: listens(uri[len("zeo://") :])
        )


@contextmanager
def in_postgres(_: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    server: Postgres = request.getfixturevalue("postgres_server")
    yield Server(server.uri, KillPostgres(server.folder), server.is_up)


@contextmanager
def in_postgres_of_its_own(_: Path, __: Any) -> Iterator[Server]:
    with postgres(again=True) as server:
        yield Server(server.uri, KillServer(server.folder / "log.pid"), server.is_up)


@pytest.fixture(scope="module", params=[on_zeo, in_postgres, in_postgres_of_its_own], ids=lambda kind: kind.__name__)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with request.param(tmp_path_factory.mktemp("faults"), request) as found:
        yield found
        end_of_workers()


def run(policy: Any, branch: Any, fn: Any) -> lp.WriteReport:
    """One run: workers scan, process and write parts of the tree, and leave out what is done."""
    reports = lp.parallel_map(
        of_a_part(policy, branch, fn), lp.partitions(3, branch, skip="_*"), mode="process", max_workers=2
    )
    return sum(reports, lp.WriteReport())


@settings(max_examples=examples(8))
@given(at=st.integers(0, RESULTS - 1), victim=st.sampled_from(["worker", "server"]))
def test_what_is_killed_is_run_again(
    server: Server, tmp_path_factory: pytest.TempPathFactory, at: int, victim: str
) -> None:
    policy = lp.inline("_p")
    expected = undisturbed(policy)
    flag = tmp_path_factory.mktemp("at") / "killed"
    fn = Deadly(flag, at, kill_this_process if victim == "worker" else server.kill)
    uri = server.uri()
    uri, _, name = uri.partition("#")
    name = f"branch_{name}"
    with lp.open_root(uri, create=True) as root:
        fill(root, name)
    for number in range(MOST_RUNS):
        try:
            with lp.open_root(uri) as root:
                run(policy, root.node_storage[name], fn)
            break
        except Exception:
            assert flag.exists()
            assert number < MOST_RUNS - 1
            until = time.monotonic() + 60
            while not server.is_up():
                assert time.monotonic() < until
    with lp.open_root(uri) as root:
        assert run(policy, root.node_storage[name], fn).written == 0
        assert flag.exists()
        found = nodes(root.node_storage[name])
    assert found == expected
