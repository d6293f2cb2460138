"""Jobs in sessions of their own: who is in them, and real signals for them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, NamedTuple

LOOK_EVERY = 0.005  # seconds
#: Seconds that are waited for what should end by itself.
PATIENCE = 5.0
#: Seconds after which an undisturbed job is given up.
HANGS = 300.0


class Member(NamedTuple):
    """A process of a session."""

    pid: int
    command: str

    @property
    def is_worker(self) -> bool:
        return "lotproc-worker" in self.command


class Job:
    """A job of `benchmarks.soak_jobs`, started in a session of its own; what is left of it at the end is killed.

    Args:
        name: Which.
        folder: Where its output goes.
        options: What the job takes.
    """

    #: Where the jobs are.
    module = "benchmarks.soak_jobs"

    def __init__(self, name: str, folder: Path, /, **options: Any) -> None:
        self._output, self._errors = folder / "stdout", folder / "stderr"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, name, json.dumps(options)],
                cwd=Path(__file__).parents[1],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        self.session = self._process.pid
        self._end = monotonic() + HANGS

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for member in self.members():
            kill(member.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def is_over(self) -> bool:
        """Whether the job's own process has ended.

        Raises:
            TimeoutError: It hangs.
        """
        if self._process.poll() is not None:
            return True
        if monotonic() > self._end:
            raise TimeoutError(f"the job hangs: {self.members()}")
        return False

    def members(self) -> list[Member]:
        """The living processes of the session, those that lost their parent among them."""
        self._process.poll()  # takes it away if it is dead
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    fields = (folder / "stat").read_text().rpartition(") ")[2].split()
                    if int(fields[3]) == self.session and fields[0] not in "ZX":
                        command = (folder / "cmdline").read_text().replace("\0", " ")
                        found.append(Member(int(folder.name), command))
                except (OSError, IndexError):  # it has just gone
                    continue
        return found

    def workers(self) -> list[int]:
        return [member.pid for member in self.members() if member.is_worker]

    def signal_all(self, number: signal.Signals) -> None:
        """A signal to the job and its workers, as the keyboard of a terminal sends it."""
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(self.session, number)

    def signal_parent(self, number: signal.Signals) -> None:
        """A signal to the job's own process alone."""
        self._process.send_signal(number)

    def kill_a_worker(self, choose: random.Random) -> bool:
        """Kill one of the workers; whether there was one."""
        workers = self.workers()
        return bool(workers) and kill(choose.choice(workers), signal.SIGKILL)

    def ended(self, seconds: float = HANGS) -> int | None:
        """Wait for the job's own process; its exit code, or `None` if it takes longer."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def left(self, seconds: float = PATIENCE) -> list[Member]:
        """Wait until all of the session are gone; those that are still there after so many seconds."""
        end = monotonic() + seconds
        while (members := self.members()) and monotonic() < end:
            sleep(LOOK_EVERY)
        return members

    def told(self) -> dict[str, Any]:
        """What it said last; nothing if it did not get that far."""
        facts = self.all_told()
        return facts[-1] if facts else {}

    def all_told(self) -> list[dict[str, Any]]:
        """All that it said; without what it is about to say."""
        lines = self._output.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def errors(self) -> str:
        """What it said of errors."""
        return self._errors.read_text(errors="replace")


def kill(pid: int, number: signal.Signals) -> bool:
    """Send a signal; whether the process was still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
