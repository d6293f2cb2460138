"""From one commit to the next: batches go into a tree or a store one by one, and are committed where that is due."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Protocol, TypeVar

from .progress import Progress

__all__ = ["Target", "apply_batches"]

T_contra = TypeVar("T_contra", contravariant=True)
T = TypeVar("T")


class Target(Protocol[T_contra]):
    """What batches go into: a tree in memory, a tree in a database, or a store. It counts what it applies."""

    #: Results after which to commit, as soon as their batch is whole; `None`: not before the end.
    commit_every: int | None

    def take(self, batch: T_contra) -> None:
        """Apply a batch, or let it wait for the commit."""

    def commit(self) -> None:
        """Commit what was taken, and count that."""

    def finish(self) -> None:
        """All batches were taken."""


def apply_batches(batches: Iterable[T], opened: AbstractContextManager[Target[T]], progress: Progress) -> None:
    """Apply batch by batch, and commit as asked; a failure undoes, and takes back, what came since the last commit."""
    with progress.taken_back_on_failure(), opened as target:
        every = target.commit_every
        for batch in batches:
            start = perf_counter()
            target.take(batch)
            if every is not None and progress.new >= every:
                target.commit()
            progress.writing += perf_counter() - start
        start = perf_counter()
        target.finish()
        progress.writing += perf_counter() - start
