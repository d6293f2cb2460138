"""Open the root of a tree by the path or the URI of its storage, and commit what was changed in it by hand."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from lotdb import BaseNode

from ._interrupts import uninterrupted
from ._nodes import connection_of, has_changes
from ._public import public
from ._reprs import short
from ._spelling import spelled
from ._stage import check_open
from .errors import ArgumentError, ArgumentTypeError, UncommittedError, add_note, got
from .writing.transactions import check_writable, commit_all, describe, drop_all
from .zodb.answers import answered
from .zodb.appending import clear_remains
from .zodb.places import connected, opened_database
from .zodb.uris import Wish, check_uri, shown

__all__ = ["commit", "open_root"]


@public
@spelled
def open_root(
    uri: str | os.PathLike[str], *, create: bool = False, read_only: bool = False, timeout: float = 10
) -> AbstractContextManager[BaseNode]:
    """Open the root of a tree in a file, behind a ZEO server, in PostgreSQL, or in any other storage of ZODB.

    >>> from lotproc import commit, open_root, scan
    >>> with open_root("corpus.fs", create=True) as root:
    ...     _ = root.gns(["ann", "clip_1"]).set_attribute("seconds", 1.5)
    ...     commit(root)
    >>> with open_root("corpus.fs", read_only=True) as root:
    ...     for record in scan("seconds", root):
    ...         print(record.path, record.attributes)
    ('ann', 'clip_1') {'seconds': 1.5}

    Everything that takes a root works with it, on each storage in the same way. What `LOTDB(path=..., name=...)` made
    is opened by its file, and what is made here in a file is opened by LOTDB.

    Args:
        uri: The storage. Passwords are refused in it, since it comes into messages and logs.

            - A path, or `file:///data/corpus.fs`: a file, with its blobs beside it in `corpus.fs.blobs`.
            - `zeo://host:port`, or `zeo:///path/of/a/socket`, with the options `storage`, `blob_dir`,
              `shared_blob_dir`, `blob_cache_size` and `cache_size`, in bytes. Needs `lotproc[zeo]`.
            - `postgresql://user@host:port/database`, as libpq reads it: `host=` is the folder of a socket, and the
              password comes from PGPASSWORD or the file that PGPASSFILE names. With the options `blob_dir`,
              `shared_blob_dir`, `blob_cache_size`, `cache_local_mb`, and `keep_history=false` for a new tree that keeps
              no old rows. Needs `lotproc[postgres]`.
            - `zconfig:///etc/zodb.conf#name`: a storage or database of a configuration file. This and all else
              that zodburi knows needs `lotproc[zeo]`.

            Of a server, blobs that are read are kept in `blob_dir`, which programs on one machine may share, by default
            in a temporary folder that goes with the root; and no more of them than `blob_cache_size` bytes, if given.
        create: Make what is not there: the file, the tables, the tree. What is there stays.
        read_only: Refuse to write. A file is opened beside one who writes to it.
        timeout: Seconds that a server has to answer when it is opened, and about those after which a connection is
            given up whose other side is gone without a word. PostgreSQL counts whole ones. What zodburi opens has times
            of its own.

    Returns:
        A context manager that gives the root, with a connection and a transaction manager of its own. It is for one
        thread. At its end the database is closed; a block may open it again.

    Raises:
        ArgumentError: The URI can't be read or has a password; no tree is there; or what is there is no lotdb tree.
        ArgumentTypeError: An option has the wrong type.
        ServerError: A server is not there, refuses, or does not answer in time.
        StoreLockedError: The file is open for writing elsewhere.
        ForeignFileError: The file is something else than a database.
        DamagedDatabaseError: The file is damaged.
        UncommittedError: At the end: changes were not committed, and are lost.
        MissingExtraError: A package is missing; names the extra.
    """
    if not isinstance(uri, (str, os.PathLike)):
        raise ArgumentTypeError("open_root: uri", expected="a path or a URI", got=got(uri))
    for option, value in (("create", create), ("read_only", read_only)):
        if not isinstance(value, bool):
            raise ArgumentTypeError(f"open_root: {option}", expected="True or False", got=got(value))
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise ArgumentTypeError("open_root: timeout", expected="a number of seconds", got=got(timeout))
    if not 0 < timeout < math.inf:
        raise ArgumentError("open_root: timeout", expected="more than 0 seconds, and finite", got=str(timeout))
    place = os.fspath(uri)
    if not isinstance(place, str) or not place:
        raise ArgumentError("open_root: uri", expected="a path or a URI", got=got(place))
    check_uri("open_root", place)
    return Unopened(Wish("open_root", place, create, read_only, timeout))


class Unopened(AbstractContextManager[BaseNode]):
    """What `open_root` gives: it opens the tree where a `with` block begins, and says so where it is taken for one."""

    #: What to do where it is taken for a root.
    hint = "enter it: with lotproc.open_root(...) as root:"

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._opened: list[AbstractContextManager[BaseNode]] = []

    def __enter__(self) -> BaseNode:
        opened = _opened(self._wish)
        root = opened.__enter__()
        self._opened.append(opened)
        return root

    def __exit__(self, *error: Any) -> bool | None:
        return self._opened.pop().__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        if name[:1] == "_":  # of which Python asks, also before there is anything to show
            raise AttributeError(name)
        raise AttributeError(f"{self!r} has no attribute {name!r}; {self.hint}")

    def __repr__(self) -> str:
        state = "entered" if self._opened else "not entered: with it as root"
        return f"<open_root({short(shown(self._wish.uri))}), {state}>"

    def _repr_html_(self) -> str:
        from ._html import block, escaped

        return block(escaped(repr(self)))


@contextmanager
def _opened(wish: Wish) -> Iterator[BaseNode]:
    with opened_database(wish) as database, connected(database) as connection:
        yield _tree(wish, connection)
        if has_changes(connection):
            if wish.read_only:
                raise UncommittedError(
                    f"{wish.name}: the tree in {shown(wish.uri)} was changed, and is open to be read only: it is lost",
                    hint="gn() and gns() make a node where none is; get_node_path() and glob() only look",
                )
            raise UncommittedError(
                f"{wish.name}: changes of the tree in {shown(wish.uri)} were not committed, and are lost",
                hint="call lotproc.commit(root) before the end of the block, or give write() a commit_every",
            )


def _tree(wish: Wish, connection: Any) -> BaseNode:
    """The root of the tree, which is made if it may be."""
    top = connection.root()
    if "stt" not in top and wish.create:
        for attempt in connection.transaction_manager.attempts():  # another one may make it too
            with attempt:
                if "stt" not in top:
                    top["stt"] = BaseNode(_key(wish.uri))
    if "stt" not in top:
        raise wish.no_tree("no tree is in what is")
    root = top["stt"]
    if not isinstance(root, BaseNode):
        raise ArgumentError(f"{wish.name}: the root of {shown(wish.uri)}", expected="a lotdb node", got=got(root))
    return root


def _key(uri: str) -> str:
    """The key of a new root: the name of the file, as LOTDB has it, or of the database."""
    return os.path.basename(shown(uri).rpartition("://")[2]) or "root"


@public
@spelled
def commit(root: BaseNode) -> None:
    """Commit what was changed in a tree by hand; where nothing was, it does nothing.

    >>> from lotproc import commit, open_root
    >>> with open_root("speakers.fs", create=True) as root:
    ...     _ = root.gns(["ann"]).set_attribute("age", 31)
    ...     commit(root)

    What `write`, `delete` and `ingest_files` do is committed by their `commit_every`. `history` lists all of them.

    Args:
        root: The root of a tree in a database, or any node of it.

    Raises:
        ArgumentTypeError: It is no node.
        ArgumentError: The tree is in memory.
        ReadOnlyTreeError: It was opened to be read only.
        ServerError: The tree's server was lost.
        ConflictError: That of ZODB: another program has changed the same nodes meanwhile. Whatever the error is, the
            tree is then as it was committed last, and the changes have to be made again.
    """
    if not isinstance(root, BaseNode):
        hint = root.hint if isinstance(root, Unopened) else None
        raise ArgumentTypeError("commit: root", expected="a node of a tree", got=got(root), hint=hint)
    check_open("commit", root)
    connection = connection_of(root)
    if connection is None:
        raise ArgumentError(
            f"commit: {root.key!r}", expected="a tree in a database", got="one in memory, which has nothing to commit"
        )
    check_writable("commit", root, None)
    with answered(), uninterrupted():
        try:
            if has_changes(connection):
                describe(connection, "commit", "", None, {})
            commit_all(connection)
        except BaseException as error:
            drop_all(connection)
            if isinstance(error, OSError):
                clear_remains(connection.db().storage)
            add_note(error, "lotproc: what was changed since the last commit is dropped; make the changes again")
            raise
