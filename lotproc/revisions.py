"""The transactions of a tree: which one is seen (`transaction_of`), and what lotproc has committed (`history`)."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from lotdb import BaseNode
from ZODB.utils import p64, u64

from ._nodes import closed_since, is_closed
from ._public import public
from ._showing import told
from ._spelling import spelled
from ._stage import check_root
from .commits import DESCRIPTION, Commit
from .errors import ArgumentError
from .scanning import checked_connection
from .zodb.pinned import view_of

__all__ = ["history", "transaction_of"]

#: Transactions of which the log is read together, at first and at most.
FIRST_PAGE, LARGEST_PAGE = 100, 10_000


@public
@spelled
def transaction_of(root: BaseNode) -> bytes:
    """The id of the last transaction that the connection of a tree sees: what to remember of a run.

    >>> import tempfile
    >>> from lotdb import LOTDB
    >>> from lotproc import scan, transaction_of
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     database = LOTDB(path=folder, name="corpus", new=True)
    ...     root = database.open_connection()
    ...     _ = root.gn("ann").set_attribute("age", 30)
    ...     database.commit()
    ...     then = transaction_of(root)
    ...     _ = root.gn("ann").set_attribute("age", 31)
    ...     database.commit()
    ...     records = [*scan("age", root, at=then), *scan("age", root)]
    ...     database.close()
    >>> [record.attributes["age"] for record in records]
    [30, 31]

    Args:
        root: A node of a tree in a database.

    Returns:
        The id as ZODB's 8 bytes, which sort as the transactions do. `.hex()` is a text of it, and `bytes.fromhex` takes
        that back.

    Raises:
        ArgumentError: `root` is in memory, was never committed, or its connection is closed.
        ArgumentTypeError: `root` is no node.
    """
    check_root("transaction_of", root)
    return _before(view_of(checked_connection("transaction_of", root, "ignore")))


@public
@spelled
def history(root: BaseNode) -> Iterator[Commit]:
    """List what lotproc has committed to the database of a tree, the newest first.

    >>> import tempfile
    >>> from lotdb import LOTDB
    >>> from lotproc import ProcessResult, history, mirror, write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     database = LOTDB(path=folder, name="corpus", new=True)
    ...     root = database.open_connection()
    ...     results = [ProcessResult(("ann",), 0.5)]
    ...     report = write(mirror(), root, results, version="1", commit_every=1000)
    ...     commits = list(history(root))
    ...     database.close()
    >>> for commit in commits:
    ...     print(commit.stage, commit.policy, commit.version, commit.counts)
    write mirror() 1 {'written': 1}

    `write`, `delete` and `ingest_files` describe the commits that they make themselves, with `commit_every`, and so
    does `commit`. ZODB's own tools show the same, as the description of the transaction.

    Args:
        root: A node of a tree in a database.

    Returns:
        An iterator of `Commit`s, as far back as the log of the storage goes, which a pack ends. What other programs
        have committed since the connection's transaction began is not seen. Lazy; holds up to 10,000 of them.

    Raises:
        ArgumentError: The storage keeps no log, as only those do that can undo; or `root` is in memory, was never
            committed, or its connection is closed, also by the time that the log is read.
        ArgumentTypeError: `root` is no node.
    """
    check_root("history", root)
    connection = checked_connection("history", root, "ignore")
    database = connection.db()
    if not database.supportsUndo():
        raise ArgumentError(
            f"history: the storage of {root.key!r}, a {type(database.storage).__qualname__}, keeps no log",
            hint="a FileStorage does, and others that can undo",
        )
    return told(_commits(root, database, view_of(connection)), root, history, {})


def _commits(root: BaseNode, database: Any, view: bytes) -> Iterator[Commit]:
    first, size = 0, FIRST_PAGE
    while page := _page(root, database, first, size):
        for entry in page:
            said = entry.get(DESCRIPTION)
            transaction = b64decode(entry["id"] + b"\n")
            if isinstance(said, dict) and transaction < view:
                time = datetime.fromtimestamp(entry["time"], timezone.utc)
                yield Commit(transaction, time, said["stage"], said["policy"], said["version"], said["counts"])
        first, size = first + len(page), min(4 * size, LARGEST_PAGE)


def _page(root: BaseNode, database: Any, first: int, size: int) -> Any:
    """A part of the log; that of a closed database would be empty."""
    if is_closed(root):
        raise closed_since("history", "its log was read")
    return database.undoLog(first, first + size)


def _before(tid: bytes) -> bytes:
    found: bytes = p64(u64(tid) - 1)
    return found
