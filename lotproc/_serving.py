"""What runs in a worker process: it processes one batch after the other, until its parent lets it go or is gone.

A message of the parent is a letter and, behind it, a pickle. The worker answers each with such a message.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from ._arithmetic import Arithmetic, changed_by, within
from ._raised import Raised
from ._tasks import Task

__all__ = ["BATCH", "DONE", "IDLE_SECONDS", "PREPARE", "REST", "Surroundings", "packed_result", "serve"]

#: What a parent says: here is what to do with batches; here is a batch; wait, there may be more from another call.
PREPARE, BATCH, REST = b"P", b"B", b"R"
#: What a worker answers: here is the result; here is the error.
DONE, FAILED = b"D", b"F"

#: Seconds that a worker without work stays for the next call; starting one costs about 0.3 s.
IDLE_SECONDS = 60
#: Seconds after which a worker looks whether its parent is still there.
LOOK_EVERY = 1.0


def serve(connection: Any) -> None:
    """Work for the process at the other end of a connection."""
    # The parent ends its workers itself. A handler, since what is ignored would be ignored by their children too.
    signal.signal(signal.SIGINT, lambda *_: None)
    worker, parent = os.getpid(), os.getppid()
    inbox: SimpleQueue[bytes | None] = SimpleQueue()
    is_busy = False

    def receive() -> None:
        try:
            while True:
                while not connection.poll(LOOK_EVERY):
                    if os.getppid() != parent:  # it is gone, and a child of its holds on to our pipe
                        return
                inbox.put(connection.recv_bytes())
        except (EOFError, OSError):
            pass  # the parent is gone, or wants us to go
        finally:  # also where there is no memory for a message
            inbox.put(None)
            if is_busy:
                os._exit(1)

    Thread(target=receive, name="lotproc inbox", daemon=True).start()
    task: Any = None
    timeout: float | None = None
    while True:
        is_busy = False
        try:
            message = inbox.get(timeout=timeout)
        except Empty:
            return
        if message is None:
            return
        is_busy = True
        kind, packed = message[:1], message[1:]
        del message
        timeout = IDLE_SECONDS if kind == REST else None
        if kind == REST:
            task = None
            continue
        try:
            if kind == PREPARE:
                task, answer = _prepared(packed), b""
            else:
                answer = task(packed)
            kind = DONE
        except BaseException as error:
            kind, answer = FAILED, pickle.dumps(Raised(error))
        del packed
        if os.getpid() != worker:  # a child that a processor forked, and did not end
            os._exit(1)
        try:
            connection.send_bytes(kind + answer)
        except OSError:  # the parent is gone
            return
        del answer


class Surroundings(NamedTuple):
    """What a process has from the one that started it, and what that may have changed since."""

    folder: str
    path: list[str]
    environment: dict[str, str]

    @classmethod
    def here(cls) -> Surroundings:
        """Those of this process."""
        return cls(os.getcwd(), list(sys.path), dict(os.environ))

    def take(self) -> None:
        """Make them those of this process."""
        if self.folder != os.getcwd():
            os.chdir(self.folder)
        if self.path != sys.path:
            sys.path[:] = self.path
        if self.environment != os.environ:
            for name in os.environ.keys() - self.environment.keys():
                del os.environ[name]
            os.environ.update(self.environment)


def _prepared(packed: bytes) -> Callable[[bytes], bytes]:
    """What processes packed batches from now on: with the arithmetic of the caller, or that of an initializer."""
    surroundings, packed_task = pickle.loads(packed)
    surroundings.take()
    task, initializer = pickle.loads(packed_task)
    own = changed_by(initializer)
    return partial(packed_result, task, own=own)


def packed_result(task: Task, packed: bytes, *, own: Arithmetic | None = None) -> bytes:
    """What a task makes of a packed batch, packed; with the batch comes the arithmetic to use, unless it is `own`."""
    import cloudpickle

    arithmetic, batch = pickle.loads(packed)
    pack = partial(cloudpickle.dumps, protocol=pickle.HIGHEST_PROTOCOL)
    return within(own or arithmetic, task, batch, pack)  # type: ignore[no-any-return]
