"""Where a conflict is retried: a tree in a database between two commits, and what its source or others do meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import sleep
from typing import Any, ClassVar

from lotdb import BaseNode
from transaction._transaction import Status
from transaction.interfaces import TransientError
from ZODB.POSException import POSKeyError, StorageError

from .._interrupts import uninterrupted
from .._nodes import connection_of
from ..errors import DamagedDatabaseError, UncommittedError, add_note, as_text
from ..models import Write, counted
from ..zodb.records import NotServed
from .bulk import Bulk
from .live_nodes import MemoryTree, apply, check_batch, check_there
from .options import Options
from .progress import Done, Progress, Target
from .transactions import Changes, is_clean, undone_on_failure

__all__ = ["MOST_WAITING", "DatabaseTree", "opened_tree"]

#: Results between two savepoints, which check that they can be stored and bound what is held in memory.
SAVEPOINT_EVERY = 2_000
#: Results that wait at most to be written as records, or are kept at most to be applied again; and nodes that are
#: remembered at most meanwhile.
MOST_WAITING = 10_000
MOST_NODES = 100_000
#: How often a commit is tried that others are in the way of, and seconds to wait after the first time, up to the most.
MOST_TRIES = 30
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0
NOT_AGAIN = (
    "lotproc: results that others are in the way of are applied again only where the connection has nothing else to "
    f"commit, and no more than {MOST_WAITING:,} of them go into one commit"
)


@contextmanager
def opened_tree(root: BaseNode, options: Options, progress: Progress) -> Iterator[Target[list[Write]]]:
    """A tree as a target, in memory or in a database; a failure undoes what came since the last commit."""
    if connection_of(root) is None:
        yield MemoryTree(root, options, progress)
    else:
        with undone_on_failure(root) as changes:
            yield DatabaseTree(root, options, progress, changes)


class DatabaseTree:
    """A tree in a database.

    Batches wait, to be written as records, as long as they only make new nodes; otherwise they are applied to live
    nodes. Between two of them their source may do anything to the tree.

    What else may be done to a tree, batch by batch, is a subclass with a `_write` of its own.
    """

    #: What a commit says that it applied, and passed over.
    counted: ClassVar[tuple[str, str]] = ("written", "skipped")

    def __init__(self, root: BaseNode, options: Options, progress: Progress, changes: Changes) -> None:
        self._root, self._options, self._progress, self._changes = root, options, progress, changes
        every = self.commit_every = options.commit_every
        #: Whether new nodes may be written as records; there are none where none are made.
        self._in_bulk = every is not None and every <= MOST_WAITING and options.if_missing == "make"
        self._connection = connection_of(root)
        self._transactions = self._connection.transaction_manager
        #: All batches since the last commit, to apply them again; `None` where there is more to the transaction.
        self._batches: list[list[Any]] | None = None
        self._begin()

    def take(self, batch: list[Any]) -> None:
        self._look()
        if self._batches is not None:
            self._batches.append(batch)
            if self._applied + len(batch) > MOST_WAITING:
                self._batches = None  # too much to hold
        self._with_retries(lambda: self._write(batch), lambda: None)
        if self._bulk is None:
            self._remember()

    def commit(self) -> None:
        self._look()
        self._store_with_retries(self._progress.commit)

    def finish(self) -> None:
        self._look()
        if self.commit_every is not None and self._progress.has_news:
            self.commit()

    # From a commit on

    def _begin(self) -> None:
        """Start with what is in the tree now."""
        self._base = self._progress.done
        self._batches = [] if self.commit_every is not None and is_clean(self._connection) else None
        self._open()

    def _open(self) -> None:
        self._waiting: list[Write] = []
        self._unsaved = 0
        self._bulk = self._opened_bulk()
        self._remember()

    def _opened_bulk(self) -> Bulk | None:
        try:
            return Bulk(self._root, self._options) if self._in_bulk else None
        except NotServed:
            return None

    @property
    def _applied(self) -> int:
        """Results since then."""
        return self._progress.done.written - self._base.written

    # Batches

    def _write(self, batch: list[Any]) -> None:
        check_there(batch, self._root, self._options)
        plain = check_batch(batch, self._options, self._connection)
        if self._bulk is not None:
            if self._bulk.size > MOST_NODES and not self._waiting:
                self._bulk = self._opened_bulk()  # it only remembers nodes that were skipped
            if self._bulk is not None and plain and self._take_up(self._bulk, batch):
                return
            self._go_live()
        self._count(apply(batch, self._root, self._options))

    def _count(self, done: Done) -> None:
        """Count what was applied to live nodes, and see now and then that it can be stored."""
        self._progress.add(done)
        self._unsaved += done.written
        if self._unsaved >= SAVEPOINT_EVERY:
            self._transactions.savepoint(optimistic=True)
            self._unsaved = 0

    def _take_up(self, bulk: Bulk, batch: list[Write]) -> bool:
        """Let a batch wait, if it can be written as records and does not make too much wait."""
        if len(self._waiting) + len(batch) > MOST_WAITING or bulk.size > MOST_NODES:
            return False
        try:
            coming, self._progress.coming = self._progress.coming, []
            if coming:
                with suppress(NotServed):  # which is told where it is the turn of the one that it is about
                    bulk.expect(coming)
            else:
                bulk.expect(batch)
            taken = [planned for planned in batch if bulk.add(planned)]
        except NotServed:
            return False
        self._waiting += taken
        self._progress.add(Done(len(taken), len(batch) - len(taken), taken[-1].path if taken else None))
        return True

    def _go_live(self) -> None:
        """Apply what waits, which is counted already, to live nodes, and all that comes until the next commit."""
        waiting, self._waiting, self._bulk = self._waiting, [], None
        apply(waiting, self._root, self._options)
        self._unsaved = len(waiting)

    def _store(self, count: Callable[[], None]) -> None:
        """Commit what was applied, and count it."""
        if self.commit_every is not None:
            self._describe()
        if self._bulk is not None:
            with uninterrupted():
                try:
                    self._bulk.commit()
                    self._changes.commit()
                    count()
                    return
                except NotServed:
                    pass
            self._go_live()
        with uninterrupted():
            self._changes.commit()
            count()

    def _describe(self) -> None:
        done, before, options = self._progress.done, self._base, self._options
        numbers = done.written - before.written, done.skipped - before.skipped
        told = {name: number for name, number in zip(self.counted, numbers, strict=True) if number}
        self._changes.describe(options.name, options.policy, options.version, told)

    # Others who commit

    def _store_with_retries(self, count: Callable[[], None]) -> None:
        self._with_retries(lambda: self._store(count), lambda: self._store(count))
        self._begin()

    def _with_retries(self, do: Callable[[], None], then: Callable[[], None]) -> None:
        """Do it; where others are in the way, apply all batches to what they have made, and do the rest."""
        pause = FIRST_PAUSE
        unread = 0
        for number in range(1, MOST_TRIES + 1):
            try:
                if number > 1:
                    self._changes.start_over()
                    self._apply_again()
                    do = then
                do()
                return
            except (TransientError, POSKeyError, DamagedDatabaseError) as error:
                if isinstance(error, StorageError):  # it is gone, and nobody in the way
                    raise
                # What is not there may have been packed away by somebody; if it still is not, it is lost.
                unread += not isinstance(error, TransientError)
                if self._batches is None:
                    add_note(error, NOT_AGAIN)
                    raise
                if unread > 1:
                    raise
                if number == MOST_TRIES:
                    add_note(error, f"lotproc: it was tried {counted(MOST_TRIES, 'time')}")
                    raise
            sleep(random.uniform(0, pause))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _apply_again(self) -> None:
        """Apply all batches to what is in the tree by now."""
        self._progress.done = self._base
        self._open()
        for batch in self._batches or ():
            self._write(batch)

    # The source of the results, on the same connection

    def _remember(self) -> None:
        connection, self._transaction = self._connection, self._transactions.get()
        self._counts = len(connection._registered_objects), len(self._transaction._resources)
        self._modified = connection._modified  # another list from each commit on that had changes

    def _look(self) -> None:
        """See whether the source has changed the tree, committed or aborted, and take it in the order of events.

        Raises:
            UncommittedError: That can't be: it aborted what can't be applied again, or changed what waits to be made.
        """
        connection, before, now = self._connection, self._transaction, self._transactions.get()
        if now is before and self._counts == (len(connection._registered_objects), len(now._resources)):
            return
        is_unchanged = is_clean(connection)
        has_committed = connection._modified is not self._modified
        if now is before:
            self._apply_before_changes()
        elif self._waiting:
            if has_committed or not is_unchanged:
                self._apply_before_changes()
            else:
                self._apply_again()  # to what others have committed by now
            if before.status is Status.COMMITTED and is_unchanged:
                self._store_with_retries(self._progress.keep)  # as if the source had done that itself
        elif before.status is Status.COMMITTED or not self._applied:
            self._progress.keep()  # what was applied was committed with the rest
            self._begin()
        elif self._batches is not None and is_unchanged and not has_committed:
            self._apply_again()
        else:
            raise UncommittedError(
                f"{self._options.name}: the source of the results aborted the transaction, and "
                f"{counted(self._applied, 'result')} with it",
                hint="let it abort before or after the call, or use a connection of its own",
            )
        if now is before or not is_unchanged:
            self._batches = None  # to apply them again would take the source's own changes away
        self._remember()

    def _apply_before_changes(self) -> None:
        """Apply what waits as if that had been done before the source changed the tree."""
        if self._bulk is None:
            return
        path = self._bulk.overtaken(self._root)
        if path is not None:
            raise UncommittedError(
                f"{self._options.name}: the source of the results changed {as_text(path)}, where results wait "
                "that came before",
                hint="let it change the tree before or after the call, or elsewhere than results go",
            )
        self._go_live()
