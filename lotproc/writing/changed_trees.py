"""Trees of children that are stored in parts, changed outside of every connection, and the records of what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from BTrees.OOBTree import OOBTree, OOBucket
from lotdb import BaseNode
from ZODB.serialize import ObjectWriter
from ZODB.utils import z64

from .._jar import RecordJar
from ..zodb.appending import ChangedRecord
from ..zodb.encoding import KNOWN, encoded_children, part_record, tree_record
from ..zodb.plain_buckets import PlainBucket
from ..zodb.records import NotServed, Reference, UnusualRecord
from .stored_nodes import StoredNodes

__all__ = ["ChangedTrees"]

_KNOWN = frozenset(KNOWN)


class ChangedTrees(RecordJar):
    """BTrees that can be changed: what they take for their connection, which gives the records of those that were.

    In place of nodes they hold references, ids with classes: that takes a third of the time of an object for each. A
    part in which a node is of a class that is not known, or lies in another database, holds objects.

    Args:
        stored: What reads their records.
        connection: A connection to the database.
        new_oid: Gives an id that no object has.
    """

    def __init__(self, stored: StoredNodes, connection: Any, new_oid: Callable[[], bytes]) -> None:
        super().__init__(stored.load, connection.db(), connection._normal_storage)
        self._stored = stored
        self.new_oid = new_oid
        self.current: dict[bytes, bytes] = {}  # objects that have to be unchanged, and their transactions
        self._changed: list[Any] = []
        self._made: list[ChangedRecord] = []

    def put(self, oid: bytes, children: Mapping[str, tuple[bytes, type[BaseNode]]]) -> None:
        """Put new children into the tree with this id.

        Where they come in no order, nearly every one changes a bucket of its own. Most of these are changed as text, so
        that 100,000 are written in three fifths of the time.
        """
        buckets: dict[bytes, tuple[PlainBucket, bytes, dict[str, Any]]] = {}
        others: dict[str, Any] = {}
        for key, child in children.items():
            *above, (bucket, part, tid) = self._stored.way(oid, key)
            if not isinstance(part, PlainBucket):
                others[key] = child
            elif bucket in buckets:
                buckets[bucket][2][key] = child
            else:
                buckets[bucket] = part, tid, {key: child}
                self.current.update((passed, stored_by) for passed, _, stored_by in above)
        for bucket, (plain, tid, some) in buckets.items():
            record = plain.record_with(some)
            if record is None:
                others.update(some)
            else:
                self._made.append((bucket, tid, record))
        if others:
            self._part(oid, OOBTree).update(others)

    def _part(self, oid: bytes, kind: Any) -> Any:
        part = self._cache.get(oid)
        if part is None:
            if kind not in (OOBTree, OOBucket):
                raise UnusualRecord
            part = kind.__new__(kind)
            self._cache.new_ghost(oid, part)
        return part

    def setstate(self, ghost: Any) -> None:
        if type(ghost) in (OOBTree, OOBucket):
            try:
                state, is_bucket, tid = self._stored.tree_state(ghost._p_oid)
                ghost.__setstate__(self._with_references(state, is_bucket))
            except UnusualRecord:
                pass
            else:
                ghost._p_serial = tid
                return
        super().setstate(ghost)

    def _with_references(self, state: Any, is_bucket: bool) -> Any:
        """The state of a tree, or of a part of one, in which nodes stay references.

        Raises:
            UnusualRecord: They can't.
        """
        try:
            if state is None:
                return None
            if is_bucket or len(state) == 1:
                bucket = state if is_bucket else state[0][0]
                if not _are_usual(bucket[0][::2], bucket[0][1::2]):
                    raise UnusualRecord
                return (bucket[0], *(self._part(*part) for part in bucket[1:])) if is_bucket else state
            parts, first = state
            return tuple([part if type(part) is str else self._part(*part) for part in parts]), self._part(*first)
        except UnusualRecord:
            raise
        except Exception as error:
            raise UnusualRecord from error

    def close(self) -> None:
        """Let go of the records."""
        super().close()
        del self._stored

    # What the trees call

    def register(self, changed: Any) -> None:
        if changed._p_serial != z64:
            self._changed.append(changed)

    def readCurrent(self, read: Any) -> None:
        if read._p_serial != z64:
            self.current[read._p_oid] = read._p_serial

    def get_connection(self, name: str) -> Any:
        raise NotServed  # a reference to another database

    # What they have become

    def records(self) -> Iterator[ChangedRecord]:
        """What has to be stored."""
        yield from self._made
        waiting = list(self._changed)

        def reference(part: Any) -> tuple[bytes, type]:
            if part._p_oid is None:  # a part was parted
                part._p_oid, part._p_jar = self.new_oid(), self
                waiting.append(part)
            return part._p_oid, type(part)

        for part in waiting:
            self.current.pop(part._p_oid, None)
            yield part._p_oid, part._p_serial, self._record(part, reference)

    def _record(self, part: Any, reference: Callable[[Any], tuple[bytes, type]]) -> bytes:
        state = part.__getstate__()
        if type(part) is OOBTree and len(state) > 1:
            return part_record(part, reference, encoded_children)
        if all(isinstance(child, tuple) for child in part.values()):
            return tree_record(dict(part)) if type(part) is OOBTree else part_record(part, reference, encoded_children)
        for key, child in part.items():
            if isinstance(child, tuple):
                part[key] = self._ghost(child[0])
        for following in state[1:]:
            reference(following)
        record: bytes = ObjectWriter(part).serialize(part)
        return record

    def _ghost(self, oid: bytes) -> BaseNode:
        """A new node with this id, to refer to."""
        ghost = self._cache.get(oid)
        if ghost is None:
            ghost = BaseNode.__new__(BaseNode)
            self._cache.new_ghost(oid, ghost)
        return ghost


def _are_usual(keys: Sequence[Any], references: Sequence[Any]) -> bool:
    """Whether these are references, by name, to nodes of known classes in the same database."""
    if not (
        set(map(type, keys)) <= {str} and set(map(type, references)) <= {Reference} and set(map(len, references)) <= {2}
    ):
        return False
    oids = [oid for oid, _ in references]
    return (
        _KNOWN.issuperset([kind for _, kind in references])
        and set(map(type, oids)) <= {bytes}
        and set(map(len, oids)) <= {8}
    )
