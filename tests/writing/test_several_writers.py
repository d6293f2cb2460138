"""Several programs write to one tree, through a real ZEO server: all finish, and nothing is lost."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from recording import contents
from test_bulk import assert_sound
from trees import opened
from ZEO.ClientStorage import ClientStorage
from zeo_server import server

import lotproc as lp

HERE = pathlib.Path(__file__).parents[1]
CLIPS = 60
NAMES = ("one", "two")


def connected(port: int, patience: float = 100) -> Any:
    """The root of the tree; `patience` is how many seconds the client waits for a server that is not there."""
    return opened(ClientStorage(("127.0.0.1", port), wait_timeout=patience))


def plant(port: int, *branch: str) -> None:
    with connected(port) as root:
        for n in range(CLIPS):
            root.gns([*branch, f"speaker_{n % 3}", f"clip_{n:03}"]).set_attribute("n", n)
        root._p_jar.transaction_manager.commit()


def clip(n: int) -> tuple[str, str]:
    return f"speaker_{n % 3}", f"clip_{n:03}"


@pytest.fixture(scope="module")
def two_writers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, list[subprocess.Popen[str]]]]:
    """The port of a server, and two programs that are connected to it."""
    folder = tmp_path_factory.mktemp("two_writers")
    with server(folder) as (port, _), ExitStack() as stack:
        with connected(port):
            pass  # makes the tree's root, which two at once can't
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, str(HERE / "zeo_writer.py"), str(port), name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for name in NAMES
        ]
        assert [next(iter(writer.stdout or ())) for writer in writers] == ["ready\n"] * 2
        yield port, writers
        for writer in writers:
            writer.communicate()
        assert [writer.returncode for writer in writers] == [0, 0]
    assert_sound(str(folder / "shared.fs"))


@pytest.mark.parametrize(("policy", "every"), [("mirror", 1), ("mirror", 20_000), ("inline", 10), ("mine", 10)])
def test_writers_into_one_tree_all_finish_and_lose_nothing(two_writers: Any, policy: str, every: int) -> None:
    """Onto the same nodes; below the same leaves; and new children of the same parents."""
    port, writers = two_writers
    branch = f"{policy}_{every}"
    plant(port, branch)
    for writer in writers:
        writer.stdin.write(f"{branch} {policy} {every}\n")
        writer.stdin.flush()
    assert [writer.stdout.readline().split()[0] for writer in writers] == [str(CLIPS)] * 2
    with connected(port) as root:
        tree = contents(root.get_node(branch))
    for n in range(CLIPS):
        if policy == "mirror":
            both = tree[("out", *clip(n))]
            assert (both["result"], both["one"], both["two"]) == (n, n, n)
            assert both["_version"] in NAMES
        for name in NAMES:
            if policy == "inline":
                assert tree[(*clip(n), "_proc", name)] == {"result": n, name: n, "_version": name}
            elif policy == "mine":
                assert tree[(clip(n)[0], f"{name}_{clip(n)[1]}")] == {"result": n, name: n, "_version": name}


def test_a_storage_that_goes_away_ends_the_run_with_what_was_committed_intact(tmp_path: pathlib.Path) -> None:
    with server(tmp_path) as (port, process):
        plant(port)
        with connected(port, patience=3) as root:

            def results() -> Iterator[list[lp.ProcessResult]]:
                for n in range(CLIPS):
                    if n == 42:
                        os.kill(process.pid, signal.SIGKILL)
                        process.wait()
                    yield [lp.ProcessResult(clip(n), n)]

            with pytest.raises(lp.ServerError) as raised:
                lp.write(lp.inline("_proc"), root, results(), commit_every=5)
            report = raised.value.report  # type: ignore[attr-defined]
    (tmp_path / "shared.fs.lock").unlink()
    assert (report.written, report.commits) == (40, 8)
    with server(tmp_path) as (port, _), connected(port) as root:
        done = {path[:2] for path, values in contents(root).items() if path[2:] == ("_proc",) and "result" in values}
        assert done == {clip(n) for n in range(report.written)}
        left = lp.pending(lp.inline("_proc"), root, lp.scan("n", root, skip="_*", where="^clip"))
        assert len(list(left)) == CLIPS - len(done)
    assert_sound(str(tmp_path / "shared.fs"))
