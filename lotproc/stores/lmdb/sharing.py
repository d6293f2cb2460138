"""Which LMDB environments are open in this process, one for each file, and what a fork makes of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .place import Place, identity

if TYPE_CHECKING:
    from .environment import Environment

__all__ = ["Registry", "registry", "telling_of_a_fork"]


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


registry = Registry()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=registry.after_fork)


@contextmanager
def telling_of_a_fork(lmdb: Any, place: Place) -> Iterator[None]:
    """Let a forked process open a file that its parent has open.

    The package `lmdb` remembers which files are open in its process, and forgets to forget them after a fork. Closing
    what was inherited would take the parent's place in the table of readers away, so that is no way.
    """
    wanted = identity(place.data)
    identities = getattr(lmdb, "_envid", None)
    if identities is None or all(environment.identity != wanted for environment in registry.inherited):
        yield
        return
    before, pid = identities.env_keys, os.getpid()
    identities.env_keys = lambda path, subdir: tuple((pid, *key) for key in before(path, subdir))
    try:
        yield
    finally:
        identities.env_keys = before
