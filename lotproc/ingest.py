"""Files to nodes: attached to a tree, by reference or with what is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

from lotdb import BaseNode, DataNode, PathFileObj

from ._attaching import Unusable, check_opens, check_regular, opens, read, refer, refers
from ._contents import SOURCE, is_changed, place_before
from ._fast import FAST
from ._gone import Deletions, attributes_of_file, nodes_without_file
from ._interrupts import uninterrupted
from ._items import node_path
from ._nodes import connection_of, find
from ._stage import check_choice, check_root, stage
from .errors import ArgumentError, ArgumentTypeError, ExistsError, as_text, got, warn
from .file_models import FileFailure, IndexedFile, IngestReport
from .indexing import FolderFiles, index_files
from .loading import (
    load_files_directory,
    load_files_folder,
    load_small_files_directory,
    load_small_files_folder,
)
from .models import counted
from .traversal import walk
from .writing.conflicts import MOST_WAITING
from .writing.deleting import delete
from .writing.new_files import NewFiles
from .writing.storable import check_classes, stored_attributes
from .writing.transactions import ABSENT, Put, check_writable, undone_on_failure
from .zodb.file_records import FileAttribute
from .zodb.records import NotServed

__all__ = [
    "index_files",
    "ingest_files",
    "load_files_directory",
    "load_files_folder",
    "load_small_files_directory",
    "load_small_files_folder",
]

Backend: TypeAlias = Literal["blob", "zarr"]
IfExists: TypeAlias = Literal["update", "skip", "replace", "error"]
Gone: TypeAlias = Literal["report", "delete"]

_Path: TypeAlias = "tuple[str, ...]"
_Paths: TypeAlias = "dict[_Path, None]"
_Checked: TypeAlias = "tuple[_Path, Path, str | None]"

_STR = frozenset({str})

#: Files that are looked up together.
WINDOW = 1_000
#: Nodes below one that gets a file, among which others with one are looked for.
LOOKED_AT = 100


@overload
def ingest_files(
    root: BaseNode,
    files: Iterable[IndexedFile],
    *,
    content: bool = False,
    attribute: str | None = None,
    backend: Backend = "blob",
    samplerate_hz: float | None = None,
    database: Any = None,
    if_exists: IfExists = "update",
    gone: Gone | None = None,
    commit_every: int | Literal["auto"] | None = "auto",
) -> IngestReport: ...
@overload
def ingest_files(
    root: BaseNode,
    *,
    content: bool = False,
    attribute: str | None = None,
    backend: Backend = "blob",
    samplerate_hz: float | None = None,
    database: Any = None,
    if_exists: IfExists = "update",
    gone: Gone | None = None,
    commit_every: int | Literal["auto"] | None = "auto",
) -> Callable[[Iterable[IndexedFile]], IngestReport]: ...
@stage("files")
def ingest_files(
    root: BaseNode,
    *,
    content: bool = False,
    attribute: str | None = None,
    backend: Backend = "blob",
    samplerate_hz: float | None = None,
    database: Any = None,
    if_exists: IfExists = "update",
    gone: Gone | None = None,
    commit_every: int | Literal["auto"] | None = "auto",
) -> Callable[[Iterable[IndexedFile]], IngestReport]:
    """Attach files to the nodes of a tree, by reference or with their content.

    >>> import pathlib, tempfile
    >>> from lotdb import BaseNode
    >>> from lotproc import index_files, ingest_files
    >>> root = BaseNode("root")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pathlib.Path(folder, "clip_1.wav").touch()
    ...     print(ingest_files(root, index_files(folder)))
    1 file ingested, not committed
    >>> root.get_node("clip_1").get_attribute("file").path.name
    'clip_1.wav'

    A file that can't be read leaves no trace in the tree and is in the report; a node that has what was read of it
    when it was whole keeps that. In the report is also a second file for a node that has one from this run. An error
    that ends the run undoes what was not committed; in memory, all that was attached. Arrays in a zarr store lie
    outside the database: one that was replaced stays so.

    A file whose name without its suffix is that of a folder beside it (`a/c.wav`, `a/c/x.wav`) is attached to a node
    with nodes below it. That is no leaf, so `leaves` and `scan` do not give it. The report names it among its `inner`
    nodes: rename one of the two before more is computed, or deleted as `obsolete`.

    Of the same folder again, what is new comes in, and content whose file was changed is read again. With `gone=`,
    nodes below `root` whose file is not there any more are told, too, or deleted: those that an earlier run put there
    from this folder, whose file would be among those that `index_files` gives now, by its patterns and its `skip`, and
    does not lie in a folder that could not be listed. Where another file of the folder is for such a node now,
    `clip.flac` in place of `clip.wav`, it gets that. A node is deleted as `delete` does it, in commits of its own: with
    all that is on it and below it, results too, while those elsewhere are `obsolete` then. With it go the nodes above
    that have nothing on them or below them any more. Where another file is on the node or below it, it loses its own
    alone.

    Of a folder that was moved or renamed, content is not read again. A node whose file has the same name, size and time
    as the one that it was read from, of which none is at the old place any more, takes over the new place, and the
    report counts it as moved. With `gone=` the report also has the nodes whose file is gone from `elsewhere`, outside
    of this folder, as those of files that were deleted or changed when they were moved, and of all references to them.
    These nodes stay: `if_exists="replace"` gives them the file of this folder, if there is one, and `delete` removes
    the others.

    With commits, references for new nodes are stored as whole records, in a fifth of the time that live nodes take; the
    tree shows them from the commit on. What the source of the files changes in the tree meanwhile comes where it came.

    Args:
        root: The lotdb node to attach below, in memory or persistent.
        files: From `index_files`, or any `IndexedFile`s.
        content: Read the files (sound, npy, csv, txt, png and jpg as what they are, others as bytes) into data nodes;
            else store references to them, and only look whether they can be opened. Sound is wav, and what soundfile
            reads: flac, ogg, oga, opus, mp3, aiff, aif, aifc, au, snd, w64, rf64; ints where the file has ints, else
            32-bit floats, time first, then channels. It also reads wav that is compressed (mu-law, A-law, ADPCM). Of a
            wav file whose header leaves the size open, as programs that write to a pipe do, what is there is read. The
            pixels of a picture with a palette are its colours. A table is kept byte for byte.
        attribute: The attribute to set: by default "file" for a reference, "data" for content. Content also sets
            lotdb's `_source_...` attributes. A node that is there keeps its others, its children and its class.
        backend: Where arrays go: "blob" or "zarr".
        samplerate_hz: Samples per second; by default what a file of sound says.
        database: The `LOTDB` whose zarr store to use; needed for "zarr".
        if_exists: What to do where the node has the attribute: "skip" the file; "update", which skips it unless the
            value is the content of this file, and the file has another size or time since, or `samplerate_hz` is
            another; "replace" the value; or an "error". To replace a reference by the same one counts as skipped.
        gone: What becomes of nodes whose file is gone: "report" tells them, "delete" deletes them. Goes through all
            nodes below `root`, and needs what `index_files` gives, as it is.
        commit_every: Commit whenever so many files were attached, and at the end. "auto": every 1,000 files, if the
            tree is in a database. `None`: the caller commits.

    Returns:
        A report. Takes the files in their order, one at a time; references up to 1,000 at once, unless `if_exists` is
        "replace" or "error", but never more than the next commit needs. Holds one file's content and the paths of all.
        For the connection's thread only.

    Raises:
        ArgumentError: An option can't be used, or there is nothing to commit to: the tree is in memory. With
            `gone="delete"`, there is no file at all, as where a disk is not mounted.
        ArgumentTypeError: `root` is no node, an item no `IndexedFile`, or an option of a wrong type. With `gone=`, the
            files are not what `index_files` gives.
        ExistsError: A node has the attribute, with `if_exists="error"`.
        MissingExtraError: A package to read a file with is not installed.
        ReadOnlyTreeError: The database is open for reading only.
    """
    name = "ingest_files"
    check_root(name, root)
    check_choice(name, "backend", backend, ("blob", "zarr"))
    check_choice(name, "if_exists", if_exists, ("update", "skip", "replace", "error"))
    if gone is not None:
        check_choice(name, "gone", gone, ("report", "delete"))
    if attribute is None:
        attribute = "data" if content else "file"
    if not isinstance(attribute, str) or not attribute:
        raise ArgumentTypeError(f"{name}: attribute", expected="the name of an attribute", got=got(attribute))
    if samplerate_hz is not None:
        if not isinstance(samplerate_hz, Real):
            raise ArgumentTypeError(f"{name}: samplerate_hz", expected="a number", got=got(samplerate_hz))
        if not samplerate_hz > 0:
            raise ArgumentError(f"{name}: samplerate_hz", expected="more than 0", got=f"{samplerate_hz}")
    if content and backend == "zarr" and not hasattr(database, "data_store_path"):
        raise ArgumentError(f'{name}: backend="zarr" needs database=, the LOTDB whose store to use', got=got(database))
    if commit_every == "auto":
        commit_every = None if connection_of(root) is None else 1_000
    check_writable(name, root, commit_every)
    in_bulk = FAST and not content and commit_every is not None and commit_every <= MOST_WAITING
    file_attribute = FileAttribute(attribute) if in_bulk else None

    def is_kept(stored: Any, file: Path) -> bool:
        """Whether what a node has stays."""
        if content:
            return if_exists == "skip" or (if_exists == "update" and not is_changed(stored, file, samplerate_hz))
        return if_exists in ("skip", "update") or (if_exists == "replace" and refers(stored, file))

    def attach(
        path: _Path,
        file: Path,
        put: Put,
        updated: _Paths,
        moved: _Paths,
        *,
        is_checked: bool = False,
        is_due: bool = False,
    ) -> bool:
        """Attach one file; says whether there was anything to read.

        One that was checked before can be opened, and what its node got since came later. One that is due takes the
        place of what is there.
        """
        parent = _parent(root, path)
        existing = parent.node_storage.get(path[-1])
        attributes = {} if existing is None else stored_attributes(name, path, existing)
        stored = attributes.get(attribute)
        before = place_before(stored, file) if content and if_exists == "update" else None
        if stored is not None and before is not None:
            put(stored.metadata, SOURCE, (str(file), *before[1:]))
            if isinstance(attributes.get("_source_filepath"), PathFileObj):
                put(existing.attribute_storage, "_source_filepath", PathFileObj(filepath=str(file)))
            moved[path] = None
        if stored is not None:
            if is_checked or (not is_due and is_kept(stored, file)):
                return False
            if not is_due and if_exists == "error":
                raise ExistsError(f"{name}: {as_text(path)} has {attribute!r} already, and {file} was to set it")
        try:
            if not is_checked:
                check_regular(file)
                if not content:
                    check_opens(file)
            # The node knows its parent, as a zarr path needs it; its parent gets to know it when all is read.
            if content:
                node: BaseNode = DataNode(path[-1], parent, samplerate_hz, backend, attribute)
                read(node, file, attribute, backend, samplerate_hz, database)
            else:
                node = BaseNode(path[-1], parent)
                refer(node, file, attribute)
        except Unusable as unusable:
            if stored is not None and content:
                raise Unusable(f"{unusable}; its node keeps what was read before") from unusable
            raise
        if existing is None:
            for linked in _unlinked(node, root):
                put(linked.parent.node_storage, linked.key, linked)
        else:
            check_classes(name, path, existing, node.attribute_storage)
            for key, value in node.attribute_storage.items():
                put(existing.attribute_storage, key, value)
        if stored is not None:
            updated[path] = None
        return True

    def run(files: Iterable[IndexedFile]) -> IngestReport:
        if gone is not None and not isinstance(files, FolderFiles):
            expected, hint = "what index_files() gives, as it is, with gone=", "its skip= leaves files out"
            raise ArgumentTypeError(f"{name}: files", expected=expected, got=got(files), hint=hint)
        sources: dict[_Path, Path] = {}
        failures = []
        unlisted: set[Path] = set()  # folders that could not be listed
        inner: set[_Path] = set()  # nodes that got a file above those of others
        updated: _Paths = {}  # nodes that got another value, in their order
        moved: _Paths = {}  # nodes whose file has another place
        ingested = skipped = commits = waiting = moved_before = 0
        new: NewFiles | None = None  # what new nodes wait in, where they can be stored as records

        def begin() -> None:
            nonlocal new
            new = None
            if file_attribute is not None:
                with suppress(NotServed):
                    new = NewFiles(name, root, file_attribute)

        def attach_what_waits() -> None:
            for path, file in () if new is None else new.taken_out():
                attach(path, file, put, updated, moved, is_checked=True)

        def due() -> int:
            """How many changes the next commit has."""
            return waiting + len(moved) - moved_before

        def commit(**counts: int) -> None:
            nonlocal commits, waiting, moved_before
            if len(moved) > moved_before:
                counts["moved"] = len(moved) - moved_before
            changes.describe(name, "", None, {"ingested": waiting, **counts})
            with uninterrupted():
                is_stored = new is not None and new.commit()
                if is_stored:
                    changes.commit()
            if not is_stored:
                attach_what_waits()
                with uninterrupted():
                    changes.commit()
            commits, waiting, moved_before = commits + 1, 0, len(moved)
            begin()

        def pulled(source: Iterator[Any], most: int) -> tuple[list[_Checked], int | None, Exception | bool]:
            """The next files; how many of them came before their source changed the tree; the error or end behind."""
            window: list[_Checked] = []
            end: Exception | bool = True
            try:
                for item in islice(source, most):
                    window.append(_checked(item))
                    if new is not None and not new.is_alone():
                        return window, len(window) - 1, False
                end = len(window) < most
            except Exception as error:
                end = error
            return window, None if new is None or new.is_alone() else len(window), end

        def take(path: _Path, file: Path, there: bool | None, *, is_changed: bool) -> bool:
            """Attach one file, or let it wait; says whether there was anything to do, as of when it came."""
            if there:
                return False
            if new is not None:
                if opens(file):
                    if new.add(path, file):
                        return True
                elif there is False:
                    check_regular(file)
                    check_opens(file)
            attach_what_waits()
            comes_first = is_changed and there is False  # what the source gave the node since came later
            try:
                attached = attach(path, file, put, updated, moved, is_checked=comes_first) or comes_first
                if attached:
                    node = new.node_before(path) if new is not None and comes_first else find(root, path)
                    if node is not None and _is_above(node, attribute):
                        inner.add(path)
                return attached
            finally:
                if new is not None:
                    new.remember()

        def inner_nodes() -> tuple[_Path, ...]:
            """The nodes with a file of which some lie above others, in this run or since another."""
            heads = {path[:-1] for path in sources}
            above = {head[:depth] for head in heads for depth in range(1, len(head) + 1)}
            others = list(above - inner)
            have = new.have(others) if others and new is not None and new.is_alone() else [None] * len(others)
            found = zip(others, have, strict=True)
            inner.update(
                path for path, has_one in found if has_one or (has_one is None and _has(root, path, attribute))
            )
            return tuple(sorted(inner))

        def attach_others(others: Iterable[IndexedFile]) -> None:
            """Attach files that were skipped for another one in their node, which is gone."""
            nonlocal ingested, skipped, waiting, new
            for each in others:
                skipped -= 1
                try:
                    attach(each.path, each.file, put, updated, moved, is_due=True)
                except Unusable as unusable:
                    failures.append(FileFailure(each.file, each.path, str(unusable)))
                    continue
                ingested, waiting, new = ingested + 1, waiting + 1, None
                if commit_every is not None and due() >= commit_every:
                    commit()
            if due() and commit_every is not None:
                commit()

        def delete_without(without: Iterable[IndexedFile]) -> int:
            """Delete the nodes whose file is gone; says how many went."""
            nonlocal commits, inner, new
            new = None  # what it knows is over
            going = Deletions(root, attribute, (each.path for each in without))
            for _, node in going.kept:
                for each in [*attributes_of_file(node, attribute)]:
                    put(node.attribute_storage, each, ABSENT)
            if going.kept and commit_every is not None:
                commit(detached=len(going.kept))
                new = None
            above = node_path(root)
            commits += delete(root, [(*above, *path) for path in going.paths], commit_every=commit_every).commits
            nodes = ((path, find(root, path)) for path in inner)
            inner = {path for path, node in nodes if node is not None and _is_above(node, attribute)}
            return going.nodes

        with undone_on_failure(root) as changes, Put(root) as put:
            begin()
            source = files.left if isinstance(files, FolderFiles) else iter(files)
            end: Exception | bool = False
            while not end:
                # Only what may be skipped has to be looked up; and nothing is pulled behind a file that ends the run.
                lookup = new if if_exists in ("skip", "update") else None
                most = 1 if lookup is None or commit_every is None else min(WINDOW, commit_every - waiting)
                window, changed, end = pulled(source, most)
                have = lookup.have([path for path, _, _ in window]) if lookup and window else [None] * len(window)
                for number, ((path, file, reason), there) in enumerate(zip(window, have, strict=True)):
                    if number == changed:
                        attach_what_waits()
                        new = there = None
                    if reason is not None:
                        failures.append(FileFailure(file, path, reason))
                        unlisted.add(file)
                        continue
                    try:
                        known = sources.get(path, file)
                        if known is not file and known != file:
                            raise Unusable(f"the node {as_text(path)} came from {known} already")
                        attached = take(path, file, there, is_changed=changed is not None and path not in sources)
                    except Unusable as unusable:
                        failures.append(FileFailure(file, path, str(unusable)))
                        continue
                    sources[path] = file
                    ingested += attached
                    skipped += not attached
                    waiting += attached
                    if commit_every is not None and due() >= commit_every:
                        commit()
            if isinstance(end, Exception):
                raise end
            if due() and commit_every is not None:
                commit()
            without: list[IndexedFile] = []
            elsewhere: list[IndexedFile] = []
            doubled: list[_Path] = []
            deleted = 0
            if isinstance(files, FolderFiles) and gone is not None:
                found = nodes_without_file(root, attribute, content, sources, files, unlisted)
                others, without, elsewhere, doubled = found
                attach_others(others)
                if gone == "delete" and without:
                    if not sources and len(failures) == len(unlisted):
                        raise _nothing_there(files, len(without))
                    deleted = delete_without(without)
            report = IngestReport(
                ingested,
                skipped,
                commits,
                tuple(failures),
                inner_nodes(),
                tuple(updated),
                tuple(without),
                deleted,
                tuple(moved),
                tuple(elsewhere),
            )
        if doubled:
            files_are = f"{counted(len(doubled), 'file')} of the folder {'is' if len(doubled) == 1 else 'are'}"
            what = "was the folder ingested with another key= before? Delete the nodes of one kind"
            warn(f"ingest_files: {files_are} on another node as well, {as_text(doubled[0])} first: {what}")
        return report

    return run


def _checked(item: Any) -> _Checked:
    if not isinstance(item, IndexedFile):
        raise ArgumentTypeError(
            "ingest_files:", expected="an IndexedFile", got=got(item), hint="index_files() makes them"
        )
    path, file = item.path, item.file
    if type(path) is tuple and path and all(path) and _STR.issuperset(map(type, path)) and isinstance(file, Path):
        return path, file if file.is_absolute() else file.absolute(), item.reason
    path = tuple(path)
    if isinstance(item.path, str) or not path or not all(isinstance(key, str) and key for key in path):
        raise ArgumentError(f"ingest_files: the path of {item.file}", expected="a tuple of keys", got=got(item.path))
    return path, Path(item.file).absolute(), item.reason


def _parent(root: BaseNode, path: tuple[str, ...]) -> BaseNode:
    """The node above `path`. From the first one that isn't there on, new ones that know their parents only."""
    node = root
    for key in path[:-1]:
        child = node.node_storage.get(key)
        node = BaseNode(key, node) if child is None else child
    return node


def _has(root: BaseNode, path: _Path, attribute: str) -> bool:
    with suppress(Exception):  # what can't be read stops nobody who does not ask for it
        node = find(root, path)
        return node is not None and node.attribute_storage.get(attribute) is not None
    return False


def _is_above(node: BaseNode, attribute: str) -> bool:
    """Whether there is a node with the attribute among the first below one."""
    with suppress(Exception):
        below = islice(walk(node, min_depth=1), LOOKED_AT)
        return any(each.attribute_storage.get(attribute) is not None for each in below)
    return False


def _unlinked(node: BaseNode, root: BaseNode) -> Iterator[BaseNode]:
    """A new node and its parents, up to the first that is known to its own parent."""
    while node is not root and node.parent.node_storage.get(node.key) is None:
        yield node
        node = node.parent


def _nothing_there(files: FolderFiles, number: int) -> ArgumentError:
    return ArgumentError(
        f"ingest_files: {str(files.folder)!r}",
        f"has no file that matches, and gone='delete' would delete all that have one, {counted(number, 'node')}",
        hint="is its disk there? If all of it is to go, delete() the nodes",
    )
