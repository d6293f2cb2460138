"""Files that get nodes of their own, which refer to them: looked up many at once, and stored as records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from lotdb import BaseNode

from ..errors import DamagedDatabaseError, ExistsError
from ..models import Write
from ..zodb.file_records import FileAttribute
from ..zodb.lookup import RecordLookup
from ..zodb.pinned import pinned_in_thread, view_of
from ..zodb.records import NotServed
from .bulk import Bulk
from .options import Options

__all__ = ["NewFiles"]

_Path: TypeAlias = "tuple[str, ...]"


class NewFiles:
    """Files for new nodes, kept until these are stored together; and which nodes have theirs.

    Args:
        name: What writes, for errors.
        root: The node below which the paths start.
        attribute: What is to refer to the files.

    Raises:
        NotServed: The connection has changes that are not committed, or the tree takes live nodes.
    """

    def __init__(self, name: str, root: BaseNode, attribute: FileAttribute) -> None:
        self._bulk: Bulk | None = Bulk(root, Options(name, if_exists="error"))
        self._connection = root._p_jar
        if len(self._connection.db().databases) > 1:
            raise NotServed
        self._attribute = attribute
        self._lookup = RecordLookup(pinned_in_thread(view_of(self._connection), self._connection), root._p_oid)
        self._waiting: list[tuple[_Path, Path]] = []
        self.remember()

    def remember(self) -> None:
        """Take the changes of the connection that are not committed for its user's own."""
        self._transaction = self._connection.transaction_manager.get()
        self._changes = len(self._connection._registered_objects), len(self._transaction._resources)

    def is_alone(self) -> bool:
        """Whether nobody else has changed the tree through its connection since, nor ended the transaction."""
        transaction = self._connection.transaction_manager.get()
        changes = len(self._connection._registered_objects), len(transaction._resources)
        return transaction is self._transaction and changes == self._changes

    def have(self, paths: Sequence[_Path]) -> list[bool | None]:
        """Whether the node at each path has the attribute, and not as `None`; `None` where its records are damaged.

        What is not committed does not count.
        """
        try:
            return [*self._lookup.have(self._attribute, paths)]
        except DamagedDatabaseError:  # which live nodes tell of, if it matters
            return [None] if len(paths) == 1 else [have for path in paths for have in self.have([path])]

    def node_before(self, path: _Path) -> BaseNode | None:
        """The node at a path as it is without what is not committed."""
        return self._lookup.node(path)

    def add(self, path: _Path, file: Path) -> bool:
        """Take up a file, whose path is absolute; whether that can be done without live nodes."""
        reference = None if self._bulk is None else self._attribute.reference(str(file))
        if self._bulk is None or reference is None:
            return False
        try:
            self._bulk.add(Write(path, reference))
        except (NotServed, ExistsError):  # it would not be new
            return False
        self._waiting.append((path, file))
        return True

    def taken_out(self) -> list[tuple[_Path, Path]]:
        """What waits, which is to be attached to live nodes; no more is taken up."""
        waiting, self._waiting, self._bulk = self._waiting, [], None
        return waiting

    def commit(self) -> bool:
        """Store what waits in one transaction; whether that can be done without live nodes.

        Raises:
            ConflictError: Somebody else changed what this changes; nothing was stored.
        """
        try:
            if self._bulk is not None:
                self._bulk.commit()
        except NotServed:
            return False
        return self._bulk is not None
