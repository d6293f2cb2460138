"""What runs in a worker process: it processes one batch after the other, until its parent lets it go or is gone.

A message of the parent is a letter and, behind it, a pickle. The worker answers each with such a message.
"""

from __future__ import annotations

import atexit
import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from struct import Struct
from threading import Lock, Thread
from time import sleep
from typing import Any

from .arithmetic import changed_by
from .environment import LoadedCode
from .errors import ErrorOutcome
from .info import be_worker
from .memory import Memory, receive_memory, too_many_files
from .packing import run_packed

__all__ = ["BATCH", "DONE", "END_SECONDS", "PLACE", "PREPARE", "REST", "STALE", "WITH_MEMORY", "serve"]

#: What a parent says: here is what to do with batches; here is a batch; wait, there may be more from another call.
PREPARE, BATCH, REST = b"P", b"B", b"R"
#: What a worker answers: here is the outcome, if one was asked for; here is the error; take another, files were
#: changed that I have loaded.
DONE, FAILED, STALE = b"D", b"F", b"S"
#: What stands before what a worker is prepared with: its number, and how many there are.
PLACE = Struct(">II")
#: What both say: the same as `BATCH` or `DONE`, and the large arrays are in the memory that came with the batch.
WITH_MEMORY = b"M"

#: Seconds that a worker without work stays for the next call; starting one costs 0.1 s, and what its processor imports.
IDLE_SECONDS = 60
#: Seconds after which a worker looks whether its parent is still there.
LOOK_EVERY = 1.0
#: Seconds that the threads of a worker have to end when it ends; so many more has what it has registered for its end.
END_SECONDS = 2.0


def serve(connection: Any) -> None:
    """Work for the process at the other end of a connection."""
    # The parent ends its workers itself. A handler, since what is ignored would be ignored by their children too.
    signal.signal(signal.SIGINT, lambda *_: None)
    _fill_standard_streams()
    worker, parent = os.getpid(), os.getppid()
    inbox: SimpleQueue[tuple[bytes, Memory | None] | None] = SimpleQueue()
    is_busy = False

    def receive() -> None:
        try:
            while True:
                while not connection.poll(LOOK_EVERY):
                    if os.getppid() != parent:  # it is gone, and a child of its holds on to our pipe
                        return
                message = connection.recv_bytes()
                inbox.put((message, receive_memory(connection) if message[:1] == WITH_MEMORY else None))
                del message
        except (EOFError, OSError):
            pass  # the parent is gone, or wants us to go
        finally:  # also where there is no memory for a message
            inbox.put(None)
            if is_busy:
                _kill_this_process()

    Thread(target=receive, name="lotproc inbox", daemon=True).start()
    code = LoadedCode()
    task: Any = None
    timeout: float | None = None
    with suppress(Empty):  # there was no other call
        while (received := inbox.get(timeout=timeout)) is not None:
            is_busy = True
            message, memory = received
            kind, packed = message[:1], memoryview(message)[1:]
            del received, message
            timeout = IDLE_SECONDS if kind == REST else None
            if kind == REST:
                task = None
                code.note(thoroughly=True)
                is_busy = False
                continue
            answer, outcome = DONE, b""
            try:
                if kind == WITH_MEMORY and memory is None:
                    raise too_many_files()
                if kind in (BATCH, WITH_MEMORY):
                    outcome, is_in_memory = task(packed, memory)
                    answer = WITH_MEMORY if is_in_memory else DONE
                elif code.is_stale():
                    answer = STALE
                else:
                    task = _prepared(packed)
            except BaseException as error:
                answer, outcome = FAILED, pickle.dumps(ErrorOutcome(error))
            del packed, memory
            if os.getpid() != worker:  # a child that a processor forked, and did not end
                os._exit(1)
            code.note()
            is_busy = False  # from the answer on: the parent may let us go as soon as it has it
            try:
                connection.send_bytes(answer + outcome)
            except OSError:  # the parent is gone
                break
            del outcome
    _end_in_time()


def _fill_standard_streams() -> None:
    """Open what this process lacks of stdin, stdout and stderr, so that no file is opened in the place of one."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _kill_this_process() -> None:
    """End it at once, with whatever it has started, as its parent would."""
    from loky.backend.utils import kill_process_tree

    try:
        kill_process_tree(multiprocessing.current_process())
    finally:
        os._exit(1)


def _end_in_time() -> None:
    """See to it that this process ends within seconds from now, whatever threads and children it has.

    They get their time first, then what was registered with `atexit` gets its own.
    """
    begun = Lock()
    # It comes before all others. Where the main thread and the one below both come to it, the second waits for ever.
    atexit.register(begun.acquire)

    def end() -> None:
        sleep(END_SECONDS)
        try:
            for child in multiprocessing.active_children():
                child.kill()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(0)

    Thread(target=end, name="lotproc end", daemon=True).start()
    # This needs no Python to run: it also ends a thread that never lets go of the interpreter.
    faulthandler.dump_traceback_later(2 * END_SECONDS, exit=True, file=os.open(os.devnull, os.O_WRONLY))


def _prepared(packed: Any) -> Callable[[Any, Memory | None], tuple[bytes, bool]]:
    """What processes packed batches from now on: with the arithmetic of the caller, or that of an initializer."""
    be_worker(*PLACE.unpack(packed[: PLACE.size]), in_thread=False)
    environment, packed_task = pickle.loads(packed[PLACE.size :])
    environment.take()
    task, initializer = pickle.loads(packed_task)
    environment.take_filters()
    own = changed_by(initializer)
    return partial(run_packed, task, own=own)
