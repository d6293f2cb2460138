"""From one commit to the next: batches applied, counted and told to the ledger; where one fails, not counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from time import perf_counter
from typing import NamedTuple, Protocol, TypeVar

from .._clock import Clock
from .._log import log
from .._missing import noting, tell_all
from ..errors import add_note, as_text
from ..models import MOST_FAILURES, Failure, MapReport, ProcessResult, Write, WriteReport, counted
from .ledger import Ledger

__all__ = ["Done", "Progress", "Target", "apply_batches", "reported"]

T_contra = TypeVar("T_contra", contravariant=True)
T = TypeVar("T")

#: Bytes of failures that wait for the commit, to be written with it.
MOST_KEPT = 1 << 20


class Done(NamedTuple):
    """What was applied of some results; of a `delete`, what was deleted of some nodes, and skipped as absent."""

    written: int = 0
    skipped: int = 0
    last_path: tuple[str, ...] | None = None

    def and_then(self, later: Done) -> Done:
        last_path = self.last_path if later.last_path is None else later.last_path
        return Done(self.written + later.written, self.skipped + later.skipped, last_path)


class Progress:
    """What a run has done so far.

    Args:
        target: What it writes to, for the note of an error.
        ledger: What failures and commits are told to.
        deletes: Whether it deletes, and writes nothing.
    """

    def __init__(self, target: str, ledger: Ledger | None = None, *, deletes: bool = False) -> None:
        self._target, self._ledger, self._deletes = target, ledger, deletes
        #: What was applied; it goes back to what it was where that is undone.
        self.done = Done()
        #: Writes that are planned and have yet to come, which a tree on a server looks up together.
        self.coming: list[Write] = []
        #: Seconds for applying and committing.
        self.writing = 0.0
        self._commits = self._failed = 0
        self._failures: list[Failure] = []
        self._errors: Counter[str] = Counter()
        self._kept = self.done  # what stays, whatever comes
        self._begin()

    def _begin(self) -> None:
        #: What the ledger was told of by now, and since when it was told nothing.
        self._told, self._told_failed, self._since = self.done, self._failed, perf_counter()

    def note(self, batch: Sequence[ProcessResult | Failure]) -> None:
        """Count the failures of a batch, and tell the ledger whose last word is one, and whose a result."""
        failures, ledger = [item for item in batch if isinstance(item, Failure)], self._ledger
        if failures:
            self._failed += len(failures)
            self._failures += failures[: MOST_FAILURES - len(self._failures)]
            self._errors.update(failure.error for failure in failures)
        if ledger is not None and (failures or ledger.outstanding):
            last_words = {tuple(item.path): item for item in batch if item.path is not None}
            for failure in failures:
                ledger.failed(failure)
            for path, item in last_words.items():
                if isinstance(item, ProcessResult):
                    ledger.wrote(path)
            if ledger.kept > MOST_KEPT:
                ledger.flush()

    def add(self, done: Done) -> None:
        """Count what was applied."""
        self.done = self.done.and_then(done)

    @property
    def age(self) -> float:
        """Seconds since the last commit, or since this began."""
        return perf_counter() - self._since

    @property
    def new(self) -> int:
        """The results that a commit would store."""
        return self.done.written - self._told.written

    @property
    def has_news(self) -> bool:
        """Whether a commit would store something, or tell the ledger something."""
        return self.new > 0 or (self._ledger is not None and self._ledger.has_recovered)

    def keep(self) -> None:
        """What was applied stays, since somebody else committed it."""
        self._kept = self.done

    def commit(self) -> None:
        """What was applied was committed."""
        self._commits += 1
        done, told = self.done, self._told
        told_of = done.written - told.written, self._failed - self._told_failed, as_text(done.last_path or ())
        log.info("commit %d: %d results, %d failed, the last at %s", self._commits, *told_of)
        self.finish()

    def finish(self) -> None:
        """What was applied stays, and the ledger is told."""
        self.keep()
        if self._ledger is not None:
            self._ledger.commit(
                written=self.new,
                skipped=self.done.skipped - self._told.skipped,
                failed=self._failed - self._told_failed,
                seconds=perf_counter() - self._since,
                last_path=self.done.last_path,
            )
        self._begin()

    @contextmanager
    def taken_back_on_failure(self) -> Iterator[None]:
        """Forget what did not stay where something fails, and say what stays in the target."""
        try:
            yield
        except BaseException as error:
            self.done = self._kept
            if self._ledger is not None:
                self._ledger.drop_recovered()
            if self._commits:
                noun, went = ("node", "were deleted from") if self._deletes else ("result", "went into")
                done = f"{counted(self.done.written, noun)} in {counted(self._commits, 'commit')} {went} {self._target}"
                stay = "are gone" if self._deletes else "stay"
                add_note(error, f"lotproc: before this, {done}, and {stay}; the rest was undone")
            raise

    def report(self, seconds: float, maps: tuple[MapReport, ...] = ()) -> WriteReport:
        applied, left = self.done.written, self.done.skipped
        return WriteReport(
            written=0 if self._deletes else applied,
            skipped=0 if self._deletes else left,
            commits=self._commits,
            last_path=self.done.last_path,
            failed=self._failed,
            failures=tuple(self._failures),
            errors=dict(self._errors),
            seconds=seconds,
            waiting=sum(map.worker_wait for map in maps),
            writing=self.writing,
            deleted=applied if self._deletes else None,
            absent=left if self._deletes else 0,
            maps=maps,
        )


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


def apply_batches(
    batches: Iterable[T],
    opened: AbstractContextManager[Target[T]],
    progress: Progress,
    commit_within: float | None = None,
) -> None:
    """Apply batch by batch, and commit as asked; a failure undoes, and takes back, what came since the last commit."""
    with progress.taken_back_on_failure(), opened as target:
        every = target.commit_every
        for batch in batches:
            start = perf_counter()
            target.take(batch)
            is_due = every is not None and progress.new >= every
            if is_due or (commit_within is not None and progress.has_news and progress.age >= commit_within):
                target.commit()
            progress.writing += perf_counter() - start
        start = perf_counter()
        target.finish()
        progress.writing += perf_counter() - start


def reported(run: Callable[[], None], progress: Progress) -> WriteReport:
    """Run it, and report what was done; whatever is raised has the report as well."""
    start = perf_counter()

    def done() -> WriteReport:
        maps = clock.maps()  # before the time is taken, of which theirs is a part
        return progress.report(perf_counter() - start, maps)

    with Clock() as clock, noting() as notes:
        try:
            run()
        except BaseException as error:
            with suppress(AttributeError):  # of the few errors that take no attribute
                error.report = done()  # type: ignore[attr-defined]
            raise
    report = done()
    try:
        tell_all(notes)  # not before, since a warning can be made an error, and must undo nothing
    except Warning as warning:
        warning.report = report  # type: ignore[attr-defined]
        raise
    return report
