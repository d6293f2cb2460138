"""What a worker process has in common with its program: folder, environment, filters of warnings, loaded code."""

from __future__ import annotations

import multiprocessing
import os
import site
import sys
import sysconfig
import time
import warnings
from types import ModuleType
from typing import Any, NamedTuple

from ..errors import NotReadyError

__all__ = ["Environment", "Inherited", "LoadedCode", "is_of_user", "module_file"]

#: How many threads to start is read from these where nothing more particular is set, such as OPENBLAS_NUM_THREADS:
#: by OpenMP, OpenBLAS, MKL, BLIS and numexpr from the first; by Apple's Accelerate; by Numba.
_THREADS = ("OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS")


class Inherited(NamedTuple):
    """What a process has from its start and keeps: a worker that was started with something else can't take a call.

    Args:
        variables: Those of the environment that are read once, by Python or by libraries as they are loaded.
        others: The user and the groups, the CPUs that it may use, and the mode mask of new files.
    """

    variables: dict[str, str]
    others: tuple[object, ...]

    @classmethod
    def now(cls, environment: Environment) -> Inherited:
        """That of a worker that this process starts now, which is to have an environment."""
        variables = {name: value for name, value in environment.variables.items() if name.endswith("_THREADS")}
        # The options that Python was called with: a worker is started without them.
        variables["PYTHONUTF8"] = str(sys.flags.utf8_mode)
        variables["PYTHONOPTIMIZE"] = str(sys.flags.optimize or "")
        variables["PYTHONDONTWRITEBYTECODE"] = "1" if sys.dont_write_bytecode else ""
        asked = ("getresuid", "getresgid", "getgroups")
        cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        return cls(variables, (*(getattr(os, name)() for name in asked if hasattr(os, name)), cpus, _mask()))


def _mask() -> bytes | None:
    """The mode mask of new files, where it can be read without being changed for a moment, for all threads."""
    try:
        with open("/proc/self/status", "rb", buffering=0) as file:
            return next((line for line in file.read(1000).splitlines() if line.startswith(b"Umask:")), None)
    except OSError:
        return None


class Environment(NamedTuple):
    """What a process has from the one that started it, and what that may have changed since."""

    folder: str
    path: list[str]
    variables: dict[str, str]
    recursion_limit: int
    start_method: str | None
    filters: list[tuple[Any, ...]]

    @classmethod
    def here(cls, threads: int) -> Environment:
        """That of this process, for workers that may start so many threads of a numeric library each.

        Raises:
            NotReadyError: The working directory is gone.
        """
        try:
            folder = os.getcwd()
        except OSError as error:
            raise NotReadyError(
                "parallel_map: worker processes can't be where this program is, "
                f"since its working directory is gone ({error})",
                hint='os.chdir(...) to one that is there, or use mode="thread" or mode="sync"',
            ) from None
        variables = {**dict.fromkeys(_THREADS, str(threads)), **os.environ}
        method = multiprocessing.get_start_method(allow_none=True)
        return cls(folder, list(sys.path), variables, sys.getrecursionlimit(), method, _filters())

    def take(self) -> None:
        """Make it that of this process."""
        try:
            is_there = self.folder == os.getcwd()
        except OSError:  # where it was is gone
            is_there = False
        if not is_there:
            os.chdir(self.folder)
        if self.path != sys.path:
            sys.path[:] = self.path
        if self.variables != (variables := dict(os.environ)):
            for name in variables.keys() - self.variables.keys():
                del os.environ[name]
            os.environ.update(self.variables)
            if hasattr(time, "tzset"):
                time.tzset()
        sys.setrecursionlimit(self.recursion_limit)
        # A worker was spawned, which makes that the method for its own processes.
        multiprocessing.set_start_method(self.start_method, force=True)

    def take_filters(self) -> None:
        """Make the filters of warnings those of this process, behind those that what it imported has added since.

        To be called when the processor is loaded: a filter whose class of warnings no module here has is left out.
        """
        found = []
        for action, message, (home, name), *rest in self.filters:
            category = getattr(sys.modules.get(home), name, None)
            if isinstance(category, type):
                found.append((action, message, category, *rest))
        own = [entry for entry in warnings.filters if entry not in found and entry not in _taken]
        warnings.filters[:] = [*own, *found]  # type: ignore[index]
        _taken[:] = found
        with warnings.catch_warnings():
            pass  # which has them read again


#: The filters of warnings that this process did not add itself.
_taken: list[Any] = list(warnings.filters)


def _filters() -> list[tuple[Any, ...]]:
    """The filters of warnings, each with the name of its class in place of the class, which others may not have."""
    return [
        (action, message, (category.__module__, category.__qualname__), *rest)
        for action, message, category, *rest in warnings.filters
        if isinstance(category, type)
    ]


class LoadedCode:
    """The files that this process has loaded modules from, those where nobody edits left out, and how they were.

    What matters is how a file was when it was loaded. That is looked up a moment later, so one that was changed in that
    moment counts as changed.
    """

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, int] | None] = {}
        self._modules: dict[str, object] = {}
        self._since = time.time_ns()

    def note(self, *, thoroughly: bool = False) -> None:
        """Take in what was loaded since the last time; unless `thoroughly`, if there are more or fewer modules now."""
        since, self._since = self._since, time.time_ns()
        known = self._modules
        if len(sys.modules) == len(known) and not (thoroughly and sys.modules != known):
            return
        self._modules = dict(sys.modules)
        files = {module_file(module) for name, module in self._modules.items() if known.get(name) is not module}
        for file in filter(is_of_user, files - self._files.keys()):
            state = _state(file)
            self._files[file] = (-1, -1) if state is not None and since <= state[0] <= self._since else state

    def is_stale(self) -> bool:
        """Whether any of it was changed since."""
        return any(_state(file) != state for file, state in self._files.items())


def module_file(module: object) -> str:
    """The file of a module, or nothing; a module that loads itself when it is used stays as it is."""
    is_one = issubclass(type(module), ModuleType)
    file = object.__getattribute__(module, "__dict__").get("__file__") if is_one else None
    return file if isinstance(file, str) else ""


def is_of_user(file: str) -> bool:
    """Whether a module's file may be worked on while a program runs."""
    return file != "" and not file.startswith(_INSTALLED)


def _state(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


#: Where modules lie that nobody edits while a program runs.
_INSTALLED = tuple(
    os.path.join(folder, "")
    for folder in {
        *(path for name, path in sysconfig.get_paths().items() if name.endswith("lib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    }
)
