"""Planned writes into a tree: to live nodes or as records, batch by batch, from one commit to the next."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from time import perf_counter, sleep
from typing import Any, TypeAlias

import numpy as np
from lotdb import BaseNode, DataObject
from transaction._transaction import Status
from transaction.interfaces import TransientError
from ZODB.POSException import POSKeyError, StorageError

from .._interrupts import uninterrupted
from .._nodes import connection_of, find
from .._stamps import STAMPS, VERSION
from ..errors import DamagedDatabaseError, UncommittedError, add_note, as_text
from ..models import Write, counted
from ..zodb.arrays import Arrays, as_data_node, payload_names, sample_rate, store_payload
from .bulk import Bulk, NotServed, decoded, is_clean, part_of
from .ledger import Ledger
from .payload_copies import stand_ins, with_payloads, without_stand_ins
from .tally import IfExists, IfMissing, Mark, Planned, Tally, note_batch, tell, told_on_failure
from .transactions import (
    Changes,
    already_there,
    check_classes,
    check_storable,
    not_there,
    plain_pickle,
    undone_on_failure,
)

__all__ = ["Destination", "apply_in_memory", "apply_to_database"]

Path: TypeAlias = "tuple[str, ...]"

_ABSENT = object()
#: Values that nobody can change in place.
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
#: Results between two savepoints, which check that they can be stored and bound what is held in memory.
SAVEPOINT_EVERY = 2_000
#: Results that wait at most to be written as records, or are kept at most to be applied again; and nodes that are
#: remembered at most meanwhile.
MOST_WAITING = 10_000
MOST_NODES = 100_000
#: Keys among which one is looked for that was meant.
MOST_COMPARED = 1_000
#: How often a commit is tried that others are in the way of, and seconds to wait after the first time, up to the most.
MOST_TRIES = 30
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0
NOT_AGAIN = (
    "lotproc: results that others are in the way of are applied again only where the connection has nothing else to "
    f"commit, and no more than {MOST_WAITING:,} of them go into one commit"
)


@dataclass(frozen=True)
class Destination:
    """Where results are written, and how."""

    root: BaseNode
    if_exists: IfExists
    arrays: Arrays
    version: str | None
    if_missing: IfMissing = "make"


def apply_in_memory(to: Destination, batches: Iterable[Planned], tally: Tally, ledger: Ledger | None) -> None:
    """Apply everything, or nothing; the last thing that may fail is the pulling of the batches."""
    writes: list[Write] = []
    for batch in batches:
        note_batch(batch, tally, ledger)
        writes += [
            Write(planned.path, with_payloads(planned.path, planned.attributes, to.arrays, None))
            for planned in batch.writes
        ]
    _check_there(writes, to)
    if to.if_exists == "error":
        coming: set[Path] = set()
        for planned in writes:
            if planned.path in coming or find(to.root, planned.path) is not None:
                raise already_there("write", planned.path)
            coming.update(planned.path[:depth] for depth in range(len(planned.path) + 1))
    start = perf_counter()
    _apply(writes, to, tally)
    tally.writing += perf_counter() - start
    if ledger is not None:  # what is applied to a tree in memory stays
        tell(ledger, tally, Mark(0, 0, None), 0, tally.writing)


def apply_to_database(
    to: Destination, batches: Iterable[Planned], commit_every: int | None, tally: Tally, ledger: Ledger | None
) -> None:
    """Apply batch by batch, and commit where that is asked for; a failure takes the tally back to the last commit."""
    with told_on_failure(tally, ledger, "the database"), undone_on_failure(to.root) as changes:
        span = _Span(to, tally, commit_every, ledger, changes)
        for batch in batches:
            note_batch(batch, tally, ledger)
            start = perf_counter()
            span.write(batch.writes)
            if commit_every is not None and span.new >= commit_every:
                span.commit()
                span = _Span(to, tally, commit_every, ledger, changes)
            tally.writing += perf_counter() - start
        span.look()
        if commit_every is not None and (span.new or (ledger is not None and ledger.has_recovered)):
            start = perf_counter()
            span.commit()
            tally.writing += perf_counter() - start


class _Span:
    """The batches from one commit to the next.

    They wait, to be written as records, as long as they only make new nodes; otherwise they are applied to live nodes.
    Between two of them their source may do anything to the tree.
    """

    def __init__(
        self, to: Destination, tally: Tally, commit_every: int | None, ledger: Ledger | None, changes: Changes
    ) -> None:
        self._to = to
        self._tally = tally
        #: Whether new nodes may be written as records; there are none where none are made.
        self._in_bulk = commit_every is not None and commit_every <= MOST_WAITING and to.if_missing == "make"
        self._commits = commit_every is not None
        self._ledger = ledger
        self._changes = changes
        self._connection = connection_of(to.root)
        self._transactions = self._connection.transaction_manager
        self._mark = tally.mark()
        self._failed, self._start = tally.failed, perf_counter()
        self._begin()

    def _begin(self) -> None:
        """Start with what is in the tree now."""
        self._base = self._tally.mark()
        #: All batches since then, to apply them again; `None` where there is more to the transaction.
        self._batches: list[list[Write]] | None = [] if self._commits and is_clean(self._connection) else None
        self._open()

    def _open(self) -> None:
        self._waiting: list[Write] = []
        self._unsaved = 0
        self._bulk = self._opened() if self._in_bulk else None
        self._remember()

    def _opened(self) -> Bulk | None:
        try:
            return Bulk(self._to.root, self._to.if_exists, self._to.version)
        except NotServed:
            return None

    @property
    def new(self) -> int:
        """The results that a commit would store."""
        return self._tally.written - self._mark.written

    # What others do meanwhile

    def _remember(self) -> None:
        connection, self._transaction = self._connection, self._transactions.get()
        self._counts = len(connection._registered_objects), len(self._transaction._resources)
        self._modified = connection._modified  # another list from each commit on that had changes

    def look(self) -> None:
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
                self._in_tries(self._keep, self._keep)
        elif before.status is Status.COMMITTED or self._tally.written == self._base.written:
            self._tally.keep()  # what was applied was committed with the rest
            self._begin()
        elif self._batches is not None and is_unchanged and not has_committed:
            self._apply_again()
        else:
            raise UncommittedError(
                f"write: the source of the results aborted the transaction, and "
                f"{counted(self._tally.written - self._base.written, 'result')} with it; let it abort before or after "
                f"the call, or use a connection of its own"
            )
        if now is before or not is_unchanged:
            self._batches = None  # to apply them again would take the source's own changes away
        self._remember()

    def _keep(self) -> None:
        """Commit the results before a commit of the source, as if it had done that itself."""
        self._store(self._tally.keep)
        self._begin()

    def _apply_before_changes(self) -> None:
        """Apply what waits as if that had been done before the source changed the tree."""
        if self._bulk is None:
            return
        path = self._bulk.overtaken(self._to.root)
        if path is not None:
            raise UncommittedError(
                f"write: the source of the results changed {as_text(path)}, where results wait that came before; let "
                f"it change the tree before or after the call, or elsewhere than results go"
            )
        self._go_live()

    def _apply_again(self) -> None:
        """Apply all batches to what is in the tree by now."""
        self._tally.back_to(self._base)
        self._open()
        for batch in self._batches or ():
            self._write(batch)

    def _in_tries(self, do: Callable[[], None], then: Callable[[], None]) -> None:
        """Do it; where others are in the way, apply all batches to what they have made, and do the rest."""
        pause = FIRST_PAUSE
        unread = 0
        for number in range(1, MOST_TRIES + 1):
            try:
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

            def do() -> None:
                self._changes.start_over()
                self._apply_again()
                then()

    # Batches

    def write(self, batch: list[Write]) -> None:
        """Take a batch."""
        self.look()
        if self._batches is not None:
            self._batches.append(batch)
            if self._tally.written - self._base.written + len(batch) > MOST_WAITING:
                self._batches = None  # too much to hold
        self._in_tries(lambda: self._write(batch), lambda: None)
        if self._bulk is None:
            self._remember()

    def _write(self, batch: list[Write]) -> None:
        _check_there(batch, self._to)
        plain = True
        for planned in batch:  # all of them, before the first is applied
            values = planned.attributes
            payloads, handles = payload_names(values, self._to.arrays), stand_ins(values)
            if payloads or handles:
                values = {name: without_stand_ins(value) for name, value in values.items() if name not in payloads}
            whole = check_storable("write", planned.path, values, self._connection)
            plain = plain and whole and not payloads and not handles
        if self._bulk is not None:
            if self._bulk.size > MOST_NODES and not self._waiting:
                self._bulk = self._opened()  # it only remembers nodes that were skipped
            if self._bulk is not None and plain and self._take_up(self._bulk, batch):
                return
            self._go_live()
        before = self._tally.written
        _apply(batch, self._to, self._tally)
        self._unsaved += self._tally.written - before
        if self._unsaved >= SAVEPOINT_EVERY:
            self._transactions.savepoint(optimistic=True)
            self._unsaved = 0

    def commit(self) -> None:
        """Commit what was taken; where others are in the way, apply it to what they have made, and try again."""
        self.look()
        self._in_tries(lambda: self._store(self._tell), lambda: self._store(self._tell))

    def _store(self, then: Callable[[], None]) -> None:
        if self._bulk is not None:
            with uninterrupted():
                try:
                    self._bulk.commit()
                    self._changes.commit()
                    then()
                    return
                except NotServed:
                    pass
            self._go_live()
        with uninterrupted():
            self._changes.commit()
            then()

    def _tell(self) -> None:
        self._tally.commit()
        if self._ledger is not None:
            tell(self._ledger, self._tally, self._mark, self._failed, perf_counter() - self._start)

    def _take_up(self, bulk: Bulk, batch: list[Write]) -> bool:
        """Let a batch wait, if it can be written as records and does not make too much wait."""
        if len(self._waiting) + len(batch) > MOST_WAITING or bulk.size > MOST_NODES:
            return False
        try:
            taken = [planned for planned in batch if bulk.add(planned)]
        except NotServed:
            return False
        self._waiting += taken
        self._tally.written += len(taken)
        self._tally.skipped += len(batch) - len(taken)
        if taken:
            self._tally.last_path = taken[-1].path
        return True

    def _go_live(self) -> None:
        """Apply what waits to live nodes, and all that comes until the next commit."""
        waiting, self._waiting, self._bulk = self._waiting, [], None
        _apply(waiting, self._to, Tally())  # they are counted
        self._unsaved = len(waiting)


def _apply(writes: Iterable[Write], to: Destination, tally: Tally) -> None:
    """Write to live nodes."""
    connection = connection_of(to.root)
    for planned in writes:
        node = find(to.root, planned.path)
        if node is None:
            node = to.root.get_node_path(planned.path)
        elif to.if_exists == "skip" and (to.version is None or to.version == node.get_attribute(VERSION, None)):
            tally.skipped += 1
            continue
        elif to.if_exists == "error":
            raise already_there("write", planned.path)
        else:  # stamps that are left would say that this result is another one
            check_classes("write", planned.path, node, None if to.if_exists == "replace" else planned.attributes)
            stale = node.all_attribute_keys() if to.if_exists == "replace" else STAMPS
            for name in set(stale) - planned.attributes.keys():
                if name in node.attribute_storage:
                    node.delete_attribute(name)
        attributes = with_payloads(planned.path, planned.attributes, to.arrays, connection, node)
        payloads = payload_names(attributes, to.arrays)
        rate = sample_rate(attributes)
        if payloads and node is not to.root:
            node = as_data_node(node, payloads[-1], to.arrays, rate)  # the output is the last
        for name, value in attributes.items():
            if isinstance(value, DataObject) and node is not to.root:
                node = as_data_node(node, name, "blob", value.samplerate_hz)
        read: dict[bytes, Any] = {}
        for name, value in attributes.items():
            if name in payloads:
                own = getattr(planned.attributes[name], "samplerate_hz", None)  # that of a handle
                store_payload(node, name, value, to.arrays, own or rate)
            elif not _stored_already(node, name, value, read):
                node.set_attribute(name, value)
        tally.written += 1
        tally.last_path = planned.path


def _check_there(writes: Iterable[Write], to: Destination) -> None:
    """Refuse what would make nodes, if none are to be made."""
    if to.if_missing == "error":
        for planned in writes:
            if find(to.root, planned.path) is None:
                raise not_there("write", planned.path, _nearest(to.root, planned.path))


def _nearest(node: BaseNode, path: Path) -> Path:
    """The path of a node that is there: with a key like the first that is missing, or else of the node above."""
    for depth, key in enumerate(path):
        child = node.node_storage.get(key)
        if child is None:
            alike = get_close_matches(key, islice(node.node_storage.keys(), MOST_COMPARED), 1)
            return (*path[:depth], *alike)
        node = child
    return path


def _stored_already(node: BaseNode, name: str, value: Any, read: dict[bytes, Any]) -> bool:
    """Whether an attribute has this value, to the byte: a run that changes nothing must not make the database grow.

    Args:
        node: The node.
        name: The name of the attribute.
        value: What it is to be.
        read: Records of the node's attributes that were read already.
    """
    stored = node.get_attribute(name, _ABSENT)
    if type(stored) is not type(value):
        return False
    if isinstance(value, np.ndarray) and not value.dtype.isnative:  # which is how the database gives it back
        value = value.astype(value.dtype.newbyteorder("="))
    pickled = plain_pickle(value)
    if pickled is None or pickled != plain_pickle(stored):
        return False
    return type(value) in _ATOMS or pickled == plain_pickle(_in_database(node.attribute_storage, name, read))


def _in_database(tree: Any, name: str, read: dict[bytes, Any]) -> Any:
    """An attribute as the database has it; in memory it may have been changed in place, which nobody was told of.

    Nothing if that can't be known without more ado, or the tree will be stored anyway.
    """
    if tree._p_jar is None or tree._p_changed:
        return _ABSENT
    oid = tree._p_oid
    try:
        while True:
            if oid not in read:
                read[oid] = decoded(part_of, tree._p_jar._storage.load(oid)[0])
            if type(read[oid]) is dict:
                return read[oid].get(name, _ABSENT)
            bounds, parts = read[oid]
            oid = parts[bisect_right(bounds, name)][0]
    except NotServed:
        return _ABSENT
