"""A ZEO server for tests of several programs at one tree."""

from __future__ import annotations

import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def server(folder: pathlib.Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A ZEO server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ZEO.runzeo", "-a", f"127.0.0.1:{port}", "-f", str(folder / "shared.fs")]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True, cwd=folder)
    try:
        yield port, process
    finally:
        process.terminate()
        process.wait()
