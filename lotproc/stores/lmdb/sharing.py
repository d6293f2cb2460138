"""Sharing an LMDB environment: LMDB forbids to have a file open twice in a process, or across a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..._extras import needed
from ..._files import check_regular
from ...errors import ArgumentError
from .environment import Environment
from .files import StoreFiles, check_file, identity

__all__ = ["acquire", "release"]

#: Bytes up to which the map is at first what it was when the file was written. Maps need no memory, but address space,
#: of which a process has some 128 TiB; and what damage makes of a size should not matter.
MAX_KEPT = 1 << 40


class Registry:
    """The environments that are open; for any thread that has its lock."""

    def __init__(self) -> None:
        #: By the identity of their data files.
        self.open: dict[tuple[object, ...], Environment] = {}
        #: Those of parent processes: kept, so that nothing ever closes them here.
        self.inherited: list[Environment] = []
        self._renew_locks()

    def _renew_locks(self) -> None:
        self.lock = threading.RLock()
        #: Notified when an environment is closed.
        self.closed = threading.Condition(self.lock)

    def remove(self, environment: Environment) -> None:
        """Note that an environment is closed."""
        with self.lock:
            if self.open.get(environment.identity) is environment:
                del self.open[environment.identity]
            self.closed.notify_all()

    def after_fork(self) -> None:
        """Called in a child process: what is open is its parent's."""
        self._renew_locks()
        for environment in self.open.values():
            environment.forked()
            self.inherited.append(environment)
        self.open.clear()


_registry = Registry()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_registry.after_fork)


@contextmanager
def _unknown_to_parents(files: StoreFiles) -> Iterator[None]:
    """Let a forked process open a file that its parent has open.

    The package `lmdb` remembers which files are open in its process, and forgets to forget them after a fork. Closing
    what was inherited would take the parent's place in the table of readers away, so that is no way.
    """
    wanted = identity(files.data)
    identities = getattr(needed("lmdb", "lmdb", "LmdbStore"), "_envid", None)
    if identities is None or all(environment.identity != wanted for environment in _registry.inherited):
        yield
        return
    before, pid = identities.env_keys, os.getpid()
    identities.env_keys = lambda path, subdir: tuple((pid, *key) for key in before(path, subdir))
    try:
        yield
    finally:
        identities.env_keys = before


#: Options that make a difference for what the data of a commit means; two writing stores must agree on them.
_AGREED = ("sync", "metasync", "lock")


def acquire(name: str, files: StoreFiles, options: dict[str, Any], *, max_size: int | None) -> Environment:
    """The environment of a file, opened if this process has not; `release` is to be called once for each call.

    Args:
        name: The store, for errors.
        files: Its files.
        options: For `lmdb.open`, all that matter.
        max_size: Bytes that the map may grow to.
    """
    check_regular(files.data, is_written=not options["readonly"])
    with _registry.lock:
        while True:
            environment = _registry.open.get(identity(files.data))
            if environment is None:
                kept = check_file(name, files.data, readonly=options["readonly"])
                kept = min(kept, max_size or MAX_KEPT, MAX_KEPT)
                opening = partial(_unknown_to_parents, files)
                environment = Environment(name, files, options, kept, opening, _registry.remove)
                _registry.open[environment.identity] = environment
            elif environment.is_closing:
                _registry.closed.wait()
                continue
            else:
                _join(name, environment, options)
            environment.users += 1
            return environment


def _join(name: str, environment: Environment, options: dict[str, Any]) -> None:
    """See that one more store can use an environment that is open."""
    if options["readonly"]:
        return
    if environment.is_readonly:
        environment.make_writable(name, options)
        return
    for option in _AGREED:
        has, wants = environment.options.get(option, True), options.get(option, True)
        if has != wants:
            raise ArgumentError(
                f"{name}: this process has the store open with {option}={has}, and LMDB opens a file once in a "
                f"process; expected the same, got {option}={wants}",
                hint="close the other one, or open both alike",
            )
    environment.ensure_size(options["map_size"])


def release(environment: Environment) -> None:
    """One user less; the last one closes the environment. In a forked process nothing is touched."""
    if environment.is_forked:
        return
    with _registry.lock:
        environment.users -= 1
        if environment.users:
            return
        environment.is_closing = True  # nobody joins it any more
    environment.close()
