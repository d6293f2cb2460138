"""Servers that are slow, silent, cut off or on another host: an error that says so, and never a hang."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import pytest
from servers import Postgres, end_of_workers, fill, postgres, zeo_server

import lotproc as lp
from lotproc.zodb.places import close_servers

SPEAKERS, CLIPS = 12, 60
#: Seconds that a server has to answer, and seconds after which a test that is still waiting has shown that it hangs.
TIMEOUT, HANGS = 2, 120


class Proxy:
    """Stands between a client and a server at a socket: both go through one of its own, as long as it wants.

    Args:
        server: The path of the server's socket.
        path: The path of its own.
    """

    def __init__(self, server: str, path: str) -> None:
        self.pause, self.is_silent = 0.0, False
        self._server, self._over = server, Event()
        self._lock = Lock()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        self._open: list[socket.socket] = []
        self._left: int | None = None
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listening.accept()[0]
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._open += [client, server]  # not before: what is cut as it connects would end this thread
                Thread(target=self._pass, args=(client, server), daemon=True).start()
                Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counts: bool = False) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                while self.is_silent and not self._over.wait(0.02):
                    pass
                self._over.wait(self.pause)
                if counts:
                    self._count()
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _count(self) -> None:
        with self._lock:
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    self._left = None
                    self.cut()

    def cut_after(self, pieces: int | None) -> None:
        """End all connections, once, after so many pieces of data that come from the server; `None`: not any more."""
        with self._lock:
            self._left = pieces

    def cut(self) -> None:
        """End all connections."""
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._over.set()
        self._listening.close()
        self.cut()
        for each in self._open:
            each.close()


@contextmanager
def behind_zeo(folder: Path, _: Any) -> Iterator[tuple[str, Proxy]]:
    with zeo_server(folder) as uri:
        path = f"{uri[len('zeo://') :]}.proxy"
        with closing(Proxy(uri[len("zeo://") :], path)) as proxy:
            yield f"zeo://{path}", proxy


@contextmanager
def behind_postgres(folder: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, Proxy]]:
    server: Postgres = request.getfixturevalue("postgres_server")
    name = ".s.PGSQL.5432"
    with closing(Proxy(str(server.folder / name), str(server.folder / ".s.PGSQL.7000"))) as proxy:
        yield f"{server.uri()}&port=7000", proxy
    (server.folder / ".s.PGSQL.7000").unlink()


@pytest.fixture(params=[behind_zeo, behind_postgres], ids=lambda kind: kind.__name__)
def behind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Proxy]]:
    with request.param(tmp_path, request) as found:
        yield found
        end_of_workers()


@contextmanager
def alarm() -> Iterator[None]:
    """End the block with an error that nothing catches where it hangs."""

    def hangs(*_: Any) -> None:
        os.abort()

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_slow_connection(behind: tuple[str, Proxy]) -> None:
    uri, proxy = behind
    proxy.pause = 0.003
    with alarm(), lp.open_root(uri, create=True) as root:
        fill(root, SPEAKERS, CLIPS)
        records = list(lp.scan("n", root))
        assert len(records) == SPEAKERS * CLIPS
        results = [[lp.ProcessResult(record.path, 1) for record in records]]
        assert lp.write(lp.inline("_p"), root, results, commit_every=1000).written == len(records)


def test_a_server_that_says_nothing(behind: tuple[str, Proxy]) -> None:
    uri, proxy = behind
    with lp.open_root(uri, create=True) as root:
        fill(root, SPEAKERS, CLIPS)
    proxy.is_silent = True
    with alarm(), pytest.raises(lp.ServerError), lp.open_root(uri, timeout=TIMEOUT):
        raise AssertionError


def read_records(root: Any, _: Any, on_error: Any) -> None:
    assert len(list(lp.scan("n", root, on_error=on_error, skip="_p", payload="data"))) == SPEAKERS * CLIPS


def read_nodes(root: Any, _: Any, on_error: Any) -> None:
    found = list(lp.snapshot("n", lp.leaves(root, skip="_p"), on_error=on_error))
    assert len(found) == SPEAKERS * CLIPS
    assert not any(isinstance(each, lp.Failure) for each in found)


def write_below(root: Any, records: list[Any], _: Any) -> None:
    lp.write(lp.inline("_p"), root, [[lp.ProcessResult(record.path, 1)] for record in records], commit_every=50)


def write_attributes(root: Any, records: list[Any], _: Any) -> None:
    lp.write(lp.fresh(), root, [[lp.ProcessResult(record.path, 1)] for record in records], commit_every=50)


def delete_results(root: Any, records: list[Any], _: Any) -> None:
    lp.delete(root, [(*record.path, "_p") for record in records], commit_every=50)


READS = [(read_records, "raise"), (read_records, "collect"), (read_nodes, "raise"), (read_nodes, "collect")]


@pytest.mark.parametrize(
    ("use", "on_error"), [*READS, *((use, None) for use in (write_below, write_attributes, delete_results))]
)
def test_a_connection_that_is_cut(behind: tuple[str, Proxy], use: Any, on_error: Any) -> None:
    """The error is that of the server, also where the errors of single nodes are collected; and nothing is lost."""
    uri, proxy = behind
    with lp.open_root(uri, create=True) as root:
        fill(root, SPEAKERS, CLIPS)
        whole = list(lp.scan("n", root))
    lost = 0
    for after in (0, 1, 2, 5, 12, 30):
        try:
            with alarm(), lp.open_root(uri, timeout=TIMEOUT) as root:
                proxy.cut_after(after)
                use(root, whole, on_error)
        except lp.ServerError:
            lost += 1
        proxy.cut_after(None)
    assert lost or "zeo" in uri  # a client of ZEO connects again by itself
    with lp.open_root(uri) as root:
        use(root, whole, on_error)
        assert list(lp.scan("n", root, skip="_p")) == whole


@pytest.mark.parametrize("after", range(12))
def test_a_connection_that_is_cut_as_it_is_made(behind: tuple[str, Proxy], after: int) -> None:
    uri, proxy = behind
    with lp.open_root(uri, create=True) as root:
        fill(root, 1, 1)
    proxy.cut_after(after)
    with alarm(), suppress(lp.ServerError), lp.open_root(uri, timeout=TIMEOUT):
        proxy.cut_after(None)
    proxy.cut_after(None)
    with lp.open_root(uri, timeout=TIMEOUT) as root:
        assert len(list(lp.scan("n", root))) == 1


def test_what_is_lost_is_closed(behind: tuple[str, Proxy]) -> None:
    uri, proxy = behind
    with lp.open_root(uri, create=True) as root:
        fill(root, SPEAKERS, CLIPS)
        (part,) = lp.partitions(1, root)
        (record,) = lp.scan((), root, path="speaker_00/clip_00", payload="data")
    with alarm():
        assert len(list(lp.scan("n", part))) == SPEAKERS * CLIPS
        assert record.payload.read() == b"of the first"
        proxy.cut()
        close_servers()
        assert len(list(lp.scan("n", part))) == SPEAKERS * CLIPS


# --- Another host ----------------------------------------------------------------------------------------------------

HERE, THERE, HOST = "10.213.7.1", "10.213.7.2", "lotproc-test"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def other_host() -> Iterator[str]:
    """A network of two hosts on this machine: its other host, from which this one is seen at an address."""
    name = f"{HOST}-{os.getpid()}"
    with ExitStack() as stack:
        try:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
            here, there = f"lp{os.getpid()}a"[-14:], f"lp{os.getpid()}b"[-14:]
            ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
            ip("address", "add", f"{HERE}/24", "dev", here)
            ip("link", "set", here, "up")
            ip("-n", name, "address", "add", f"{THERE}/24", "dev", there)
            ip("-n", name, "link", "set", there, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"this machine makes no network of its own: {error}")
        yield name


#: What the other host runs: it opens places and handles by what it gets, and says what it found.
PROGRAM = """
import json, pickle, sys
import lotproc as lp

parts, records = pickle.load(sys.stdin.buffer)
print(json.dumps([
    [record.attributes["n"] for part in parts for record in lp.scan("n", part)],
    [record.payload.read().decode() for record in records],
]))
"""


def on_other_host(name: str, program: str, sent: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["ip", "netns", "exec", name, sys.executable, "-c", program], input=sent, capture_output=True, timeout=HANGS
    )


@pytest.mark.parametrize("kind", ["zeo", "postgres"])
def test_places_and_handles_on_another_host(kind: str, other_host: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        if kind == "zeo":
            uri = stack.enter_context(zeo_server(tmp_path, address=(HERE, 9991)))
        else:
            server = stack.enter_context(postgres(address=HERE))
            uri = server.uri().replace("@/", f"@{HERE}/").partition("?")[0]
        with lp.open_root(uri, create=True) as root:
            fill(root, SPEAKERS, CLIPS)
            parts = lp.partitions(3, root)
            records = list(lp.scan((), root, path="speaker_00/clip_00", payload="data"))
        done = on_other_host(other_host, PROGRAM, pickle.dumps((parts, records)))
        assert done.returncode == 0, done.stderr.decode()
        numbers, payloads = json.loads(done.stdout)
        assert numbers == [100 * speaker + clip for speaker in range(SPEAKERS) for clip in range(CLIPS)]
        assert payloads == ["of the first"]
        done = on_other_host(other_host, LOST.format(uri=uri, timeout=TIMEOUT))
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.split() == [b"ServerError"]


#: The other host loses the network in the middle of a scan, without a word to anyone.
LOST = """
import subprocess
import lotproc as lp

try:
    with lp.open_root({uri!r}, timeout={timeout}, read_only=True) as root:
        scanned = lp.scan("n", root)
        next(scanned)
        names = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout.split()
        name = next(each.partition("@")[0] for each in names if each.startswith("lp"))
        subprocess.run(["ip", "link", "set", name, "down"], check=True)
        print(len(list(lp.scan("n", root))))
except lp.ServerError as error:
    print(type(error).__name__)
"""
