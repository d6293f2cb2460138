"""Worker processes: they end with their program, share its CPUs, run its code as it is now, and are like it."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from recording import examples

import lotproc as lp
from lotproc.workers.backends import cpu_count

CPUS = cpu_count()


def called(fn: Callable[[Any], Any], batch: Any = None, **options: Any) -> Any:
    """What a function makes of a batch in a worker process."""
    (result,) = lp.parallel_map(fn, [batch], **{"max_workers": 1, **options})
    return result


# They end

ENDING = """
import atexit, ctypes, multiprocessing, os, signal, sys, threading
from multiprocessing.connection import Client
import lotproc as lp
from lotproc.workers import process

address, how, what = sys.argv[1:]

def work(number):
    process.END_SECONDS = 1.0  # of the worker, so that this takes less time
    if not hasattr(sys, "kept"):
        sys.kept = Client(address)  # at its end when this process is gone, and its children
        atexit.register(sys.kept.send, "at the end")
        if what == "a thread":
            threading.Thread(target=threading.Event().wait).start()
        elif what == "a child":
            multiprocessing.get_context("fork").Process(target=signal.pause).start()
        elif what == "a handler of its end":
            atexit.register(threading.Event().wait)
        elif what == "a thread that holds the interpreter":
            atexit.register(ctypes.PyDLL(None).pause)
    if how == "killed at work":
        sys.kept.send("at work")
        signal.pause()
    return os.getpid()

if how == "after so many batches":
    options = {"max_tasks_per_child": 1}
elif how == "after the call":
    options = {"initializer": os.getpid}
else:
    options = {}
list(lp.parallel_map(work, [1, 2], max_workers=1, **options))
print("at rest", flush=True)
if how != "with the program":
    sys.stdin.read()
"""

#: How the worker comes to its end, what keeps it from ending, and whether its handlers of `atexit` are called.
ENDS = [
    ("after so many batches", "a thread", True),
    ("after so many batches", "nothing", True),
    ("after the call", "a child", True),
    ("with the program", "a thread", True),
    ("with the program", "a handler of its end", False),
    ("with the program", "a thread that holds the interpreter", False),
    ("killed at rest", "a thread", True),
    ("killed at work", "a child", False),
]


def heard(connection: Connection) -> Iterator[Any]:
    """What a process says until it is gone."""
    while True:
        assert connection.poll(60), "it is still there"
        try:
            yield connection.recv()
        except EOFError:
            return


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Listener, subprocess.Popen[bytes]]]]:
    """For each way to end, a program, and where its worker reports; begun together, since most of it is waiting."""
    begun = []
    with ExitStack() as stack:
        for how, what, _ in ENDS:
            socket = str(tmp_path_factory.mktemp("ending") / "socket")
            listener = stack.enter_context(Listener(socket))
            command = [sys.executable, "-c", ENDING, socket, how, what]
            program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.enter_context(program)
            stack.callback(program.kill)
            begun.append((listener, program))
        yield begun


@pytest.mark.parametrize("end", ENDS)
def test_a_worker_ends_and_its_program_whatever_keeps_it(end: tuple[str, str, bool], ending: Any) -> None:
    how, _, is_handled = end
    listener, program = ending[ENDS.index(end)]
    with listener.accept() as worker:
        said = heard(worker)
        if how == "killed at work":
            assert next(said) == "at work"
        if how == "killed at rest":
            assert program.stdout is not None
            assert program.stdout.readline() == b"at rest\n"
        if how.startswith("killed"):
            program.kill()
        assert list(said) == (["at the end"] if is_handled else [])
    program.communicate(timeout=60)
    assert program.returncode == (-signal.SIGKILL if how.startswith("killed") else 0)


# They share the CPUs


def blas_threads(batch: Any) -> int:
    """How many threads a product of matrices is made with here."""
    import numpy as np
    import threadpoolctl

    np.ones((64, 64)) @ np.ones((64, 64))
    return max(found["num_threads"] for found in threadpoolctl.threadpool_info() if found["user_api"] == "blas")


@pytest.fixture
def no_thread_limits(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.endswith("_THREADS")]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_workers_together_have_as_many_threads_of_blas_as_there_are_cpus(no_thread_limits: pytest.MonkeyPatch) -> None:
    for workers in (1, CPUS, 1, CPUS + 1):
        assert called(blas_threads, max_workers=workers) == max(1, CPUS // workers)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_the_limits_of_threads_are_those_that_the_user_has_set_by_now(
    name: str, no_thread_limits: pytest.MonkeyPatch
) -> None:
    for workers, limit in ((1, 1), (CPUS, CPUS), (CPUS, 1), (CPUS, None)):
        if limit is None:
            no_thread_limits.delenv(name)
        else:
            no_thread_limits.setenv(name, str(limit))
        assert called(blas_threads, max_workers=workers) == (1 if limit is None else limit)


# They run the code that is there


def in_a_function(folder: Path, name: str) -> Callable[[Any], Any]:
    return lambda batch: importlib.import_module(name).VALUE


def by_a_module_between(folder: Path, name: str) -> Callable[[Any], Any]:
    (folder / f"between_{name}.py").write_text(f"import {name} as found\n")
    return lambda batch: importlib.import_module(f"between_{name}").found.VALUE


def in_a_namespace(folder: Path, name: str) -> Callable[[Any], Any]:
    (folder / f"space_{name}").mkdir()
    (folder / f"space_{name}" / "inside.py").symlink_to(folder / f"{name}.py")
    return lambda batch: importlib.import_module(f"space_{name}.inside").VALUE


def from_its_path(folder: Path, name: str) -> Callable[[Any], Any]:
    def work(batch: Any) -> Any:
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        return sys.modules[name].VALUE

    return work


def that_is_kept_elsewhere(folder: Path, name: str) -> Callable[[Any], Any]:
    def work(batch: Any) -> Any:
        kept = vars(sys).setdefault("kept_by_the_test", {})
        if name not in kept:
            kept[name] = importlib.import_module(name)
            sys.modules[f"{name}_too"] = kept[name]
            del sys.modules[name]
        return kept[name].VALUE

    return work


@pytest.mark.parametrize(
    "imported", [in_a_function, by_a_module_between, in_a_namespace, from_its_path, that_is_kept_elsewhere]
)
def test_an_edited_module_runs_as_it_is_now_whoever_imported_it(
    imported: Callable[[Path, str], Callable[[Any], Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"edited_{imported.__name__}"
    work = imported(tmp_path, name)
    # In turn a change of the time alone, of the size alone, and of nothing.
    for value, second in (("1", 100), ("2", 200), ("33", 200), ("33", 200)):
        (tmp_path / f"{name}.py").write_text(f"VALUE = {value}\n")
        os.utime(tmp_path / f"{name}.py", (second, second))
        assert called(work) == int(value)


def test_a_module_that_is_edited_while_a_batch_runs_is_loaded_again_for_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "edited_at_work.py"
    module.write_text("VALUE = 'old'\n")

    def work(text: str | None) -> Any:
        import edited_at_work  # type: ignore[import-not-found]

        if text is not None:
            module.write_text(text)
        return edited_at_work.VALUE

    assert called(work, "VALUE = 'new, and longer'\n") == "old"
    assert called(work) == "new, and longer"


def test_what_nobody_edits_keeps_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "never_edited.py").write_text("")

    def work(batch: Any) -> int:
        import never_edited  # type: ignore[import-not-found] # noqa: F401

        return os.getpid()

    assert len({called(work) for _ in range(3)}) == 1


@pytest.mark.parametrize("is_shadowed", [False, True])
def test_a_module_that_was_loaded_from_its_path_goes_along(
    is_shadowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"plug_in_{is_shadowed}"
    file = tmp_path / "plug_in.py"
    file.write_text(
        "from functools import lru_cache\n\nclass Sum:\n    def __init__(self, value):\n        self.value = value\n\n"
        "@lru_cache\ndef more():\n    return 1\n\ndef work(batch):\n    return Sum(batch.value + more())\n"
    )
    if is_shadowed:  # an import of its name finds another one
        (tmp_path / "shadow").mkdir()
        (tmp_path / "shadow" / f"{name}.py").write_text("def work(batch):\n    return 'of the wrong module'\n")
        monkeypatch.syspath_prepend(str(tmp_path / "shadow"))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    for options in ({}, {"executor": ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))}):
        result = called(module.work, module.Sum(1), **options)
        assert type(result) is module.Sum
        assert result.value == 2
    options["executor"].shutdown()


# They are like their program


def test_workers_follow_when_their_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    worker = called(lambda batch: os.getpid())
    monkeypatch.chdir(tmp_path)
    folder.rmdir()
    assert called(lambda batch: (os.getpid(), os.getcwd())) == (worker, str(tmp_path))


def test_without_a_folder_of_its_own_a_program_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    with pytest.raises(lp.NotReadyError, match=r"working directory is gone.* os\.chdir"):
        called(sum, [1])
    assert called(sum, [1], mode="thread") == 1


def own_sum(numbers: list[int]) -> int:
    return sum(numbers)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("default:.*fork.*:DeprecationWarning")
def test_processes_of_any_kind_start_in_a_worker(method: str) -> None:
    def work(batch: list[int]) -> Any:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as executor:
            return executor.submit(own_sum, batch).result()

    assert called(work, [1, 2]) == 3


def test_the_kind_of_process_that_a_worker_starts_is_that_of_its_program() -> None:
    assert called(lambda batch: multiprocessing.get_start_method()) == multiprocessing.get_start_method()


def depth(levels: int) -> int:
    return 1 + depth(levels - 1) if levels else 0


def test_workers_recurse_as_deep_as_their_program() -> None:
    limit = sys.getrecursionlimit()
    try:
        for most in (limit, 9_000, limit):
            sys.setrecursionlimit(most)
            assert called(lambda batch: sys.getrecursionlimit()) == most
        sys.setrecursionlimit(9_000)
        assert called(depth, 5_000) == 5_000
    finally:
        sys.setrecursionlimit(limit)


class OwnWarning(UserWarning):
    pass


KINDS: list[type[Warning]] = [UserWarning, DeprecationWarning, OwnWarning, ResourceWarning]
filters = st.tuples(st.sampled_from(["ignore", "error"]), st.sampled_from(["", "a.c", "x"]), st.sampled_from(KINDS))


@settings(max_examples=examples(30))
@given(entries=st.lists(filters, max_size=3), message=st.sampled_from(["abc", "xyz"]), kind=st.sampled_from(KINDS))
def test_a_warning_is_an_error_where_it_would_be_one_in_line(entries: Any, message: str, kind: type[Warning]) -> None:
    def warned(batch: Any) -> bool:
        try:
            warnings.warn(message, kind, stacklevel=1)
        except Warning:
            return True
        return False

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for action, pattern, category in entries:
            warnings.filterwarnings(action, pattern, category)
        assert called(warned) == warned(None)


def like_its_program(folder: Path) -> Any:
    """What a process has that its program may change: the mask of new files' modes, the CPUs, the time zone."""
    file = folder / f"{os.getpid()}"
    file.unlink(missing_ok=True)
    file.touch()
    return oct(file.stat().st_mode), sorted(os.sched_getaffinity(0)), time.strftime("%Z", time.localtime(0))


@settings(max_examples=10)
@given(mask=st.sampled_from([0o22, 0o77]), cpus=st.integers(1, CPUS), zone=st.sampled_from(["UTC", "JST-9"]))
def test_kept_workers_are_like_their_program_as_it_is_now(
    tmp_path_factory: pytest.TempPathFactory, mask: int, cpus: int, zone: str
) -> None:
    folder = tmp_path_factory.mktemp("modes")
    old_mask, old_cpus = os.umask(mask), os.sched_getaffinity(0)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TZ", zone)
            time.tzset()
            os.sched_setaffinity(0, sorted(old_cpus)[:cpus])
            assert called(like_its_program, folder) == like_its_program(folder)
    finally:
        os.umask(old_mask)
        os.sched_setaffinity(0, old_cpus)
        time.tzset()


OPTIONS = """
import os, sys
import lotproc as lp

def options(batch):
    names = [name for name in os.environ if name.startswith("PYTHON")]
    return sys.flags.optimize, sys.flags.utf8_mode, sys.dont_write_bytecode, names

found = list(lp.parallel_map(options, [1], max_workers=1))
sys.exit(0 if found == [options(1)] else f"{found} and not {options(1)}")
"""


@pytest.mark.parametrize("given", [["-OO", "-X", "utf8"], ["-B", "-X", "utf8=0"]])
def test_workers_have_the_options_that_python_was_called_with(given: list[str]) -> None:
    subprocess.run([sys.executable, *given, "-c", OPTIONS], check=True, timeout=60)


STREAMS = """
import os, sys
import lotproc as lp

how, answer = sys.argv[1:]
if how == "none":
    sys.stdout = sys.stderr = None
elif how == "closed":
    sys.stdout.close()
    sys.stderr.close()
elif how == "no way to flush":
    class Stream:
        def write(self, text):
            pass
    sys.stdout = sys.stderr = Stream()
elif how == "descriptors":
    for number in range(3):
        os.close(number)
elif how == "stdout's descriptor":
    os.close(1)

def work(number):
    print("printed", flush=True)
    print("printed", file=sys.stderr, flush=True)
    os.system("echo printed; echo printed >&2")
    with open(f"{answer}.{number}", "w") as file:
        assert file.fileno() > 2
    if number == 3:
        os._exit(4)
    return number

found = list(lp.parallel_map(work, [1, 2, 3, 4], max_workers=1, on_error="collect"))
with open(answer, "w") as file:
    file.write(repr([getattr(item, "error", item) for item in found]))
os._exit(0)
"""


@pytest.mark.parametrize("how", ["none", "closed", "no way to flush", "descriptors", "stdout's descriptor"])
def test_workers_start_and_print_where_the_program_has_no_standard_streams(how: str, tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    done = subprocess.run([sys.executable, "-c", STREAMS, how, answer], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert answer.read_text() == "[1, 2, 'WorkerDiedError', 4]"
    assert "Traceback" not in done.stderr


UNWAITED = """
import os, signal
import lotproc as lp

signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def work(number):
    if number == 2:
        os._exit(4)
    if number == 3:
        signal.pause()
    return number

found = list(lp.parallel_map(work, [1, 2, 3, 4], max_workers=2, on_error="collect", timeout=1))
print([getattr(item, "error", item) for item in found])
print(found[1].message)
"""


def test_a_program_that_ignores_sigchld_knows_when_its_workers_end() -> None:
    done = subprocess.run([sys.executable, "-c", UNWAITED], capture_output=True, text=True, timeout=60)
    assert done.stdout == (
        "[1, 'WorkerDiedError', 'WorkerTimeoutError', 4]\n"
        "its worker process ended; of what is not known, since this program ignores SIGCHLD\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


def in_new_worker(*expressions: str) -> list[Any]:
    """What expressions give, one after the other, in a worker that is started for them and has no module of ours."""
    batches = [[expression] for expression in expressions]
    return [value for [value] in lp.parallel_map(lp.each(eval), batches, initializer=int, max_workers=1)]


def test_a_worker_starts_without_what_its_first_batch_does_not_need() -> None:
    heavy = "{'loky', 'lotdb', 'numpy', 'persistent', 'ZODB'}"
    assert in_new_worker(f"sorted({heavy}.intersection(__import__('sys').modules))") == [[]]


def test_numpy_calculates_as_the_caller_says_in_a_worker_that_has_yet_to_load_it() -> None:
    geterr, seterr = "__import__('numpy').geterr()", "__import__('numpy').seterr(all='raise')"
    with np.errstate(divide="ignore", over="raise"):
        assert in_new_worker(geterr) == [np.geterr()]
    assert in_new_worker(seterr, geterr) == [np.geterr()] * 2
