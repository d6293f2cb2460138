"""How a worker process starts: with an interpreter of its own, and without the main program, which needs no guard then.

It is a process of `multiprocessing` that is spawned, but for what is left out, and for its environment. One of loky's
takes three times as long until it can begin, since it loads loky first.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import BytesIO
from multiprocessing import popen_spawn_posix, process, reduction, resource_tracker, util
from multiprocessing.context import SpawnProcess, set_spawning_popen
from typing import Any

__all__ = ["SpawnedWorker"]

#: What the interpreter runs. The last argument says who it is, to people who list processes.
_CODE = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd={}, pipe_handle={})"
_ARGUMENTS = ("--multiprocessing-fork", "lotproc-worker")


class SpawnedWorker(SpawnProcess):
    """A process that was started with some variables of the environment, beside those of this one."""

    def __init__(self, *, env: dict[str, str], **options: Any) -> None:
        super().__init__(**options)
        self.env = env

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return _Popen(process_obj)


class _Popen(popen_spawn_posix.Popen):
    def __init__(self, process_obj: SpawnedWorker) -> None:
        self._fds: list[int] = []
        self.returncode = None
        self._launch(process_obj)  # and flush no standard streams, which may be broken: nothing is copied of them

    def _launch(self, process_obj: SpawnedWorker) -> None:
        from loky.backend.fork_exec import fork_exec

        tracker = resource_tracker.getfd()  # so that shared memory is not taken away with a worker that has used it
        message = BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(_told(process_obj.name), message)
            reduction.dump(process_obj, message)
        finally:
            set_spawning_popen(None)
        self.sentinel, held = os.pipe()  # it ends with the process, which holds the other end
        theirs, ours = os.pipe()
        self.finalizer = util.Finalize(self, _close, (self.sentinel, ours))
        try:
            command = [sys.executable, "-c", _CODE.format(tracker, theirs), *_ARGUMENTS]
            self.pid = fork_exec(command, [*self._fds, tracker, held, theirs], env=process_obj.env)
        finally:
            os.close(held)
            os.close(theirs)
        with suppress(BrokenPipeError), open(ours, "wb", closefd=False) as file:  # if it is gone, who asks it will see
            file.write(message.getbuffer())


def _close(*numbers: int) -> None:
    for number in numbers:
        os.close(number)


def _told(name: str) -> dict[str, Any]:
    """What it is told of this process before all else."""
    return {
        "name": name,
        "authkey": process.current_process().authkey,
        "log_to_stderr": util._log_to_stderr,  # type: ignore[attr-defined]
        "sys_path": [path or process.ORIGINAL_DIR for path in sys.path],  # type: ignore[attr-defined]
        "sys_argv": sys.argv,
        "orig_dir": process.ORIGINAL_DIR,  # type: ignore[attr-defined]
    }
