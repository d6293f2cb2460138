"""Files to nodes: find them in folders, attach them to a tree, by reference or with what is in them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from numbers import Real
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal, TypeAlias, overload

from lotdb import BaseNode, DataNode, DataWriter, PathFileObj

from ._contents import attach_content
from ._fast import FAST
from ._interrupts import uninterrupted
from ._nodes import connection_of, find
from ._patterns import PathPattern
from ._public import public
from ._stage import check_choice, check_root, stage
from .errors import ArgumentError, ArgumentTypeError, ExistsError, MissingExtraError, PatternError, as_text, got
from .file_models import FileFailure, IndexedFile, IngestReport
from .traversal import walk
from .writing.conflicts import MOST_WAITING
from .writing.new_files import NewFiles
from .writing.storable import check_classes, stored_attributes
from .writing.transactions import check_writable, undone_on_failure
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
IfExists: TypeAlias = Literal["skip", "replace", "error"]

_Path: TypeAlias = "tuple[str, ...]"
_Checked: TypeAlias = "tuple[_Path, Path, str | None]"

_ABSENT = object()
_STR = frozenset({str})

#: Files that are looked up together.
WINDOW = 1_000
#: Nodes below one that gets a file, among which others with one are looked for.
LOOKED_AT = 100

#: Modules that lotdb imports to read files: what to install, and the extra that brings it.
_EXTRAS = {
    "scipy": ("scipy", "files"),
    "pandas": ("pandas", "files"),
    "PIL": ("Pillow", "files"),
    "zarr": ("zarr", "zarr"),
}


@public
def index_files(folder: str | os.PathLike[str], pattern: str = "**/*.wav") -> Iterator[IndexedFile]:
    """Find the files in a folder whose path matches a pattern.

    >>> import pathlib, tempfile
    >>> from lotproc import index_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pathlib.Path(folder, "ann").mkdir()
    ...     pathlib.Path(folder, "ann", "clip_1.WAV").touch()
    ...     [found.path for found in index_files(folder)]
    [('ann', 'clip_1')]

    Args:
        folder: The folder to search.
        pattern: Components with `*`, `?` and `[...]`, between slashes; `**` stands for any number of folders, none
            included. Letter case doesn't count.

    Returns:
        An iterator of `IndexedFile`, depth first, sorted by name in each folder. Lazy; folders that can't match are not
        entered, nor are links to folders; holds the matching names in the folders along the current path. A folder in
        it that can't be listed stands in its place, with the `reason`, and `ingest_files` reports it.

    Raises:
        ArgumentError: `folder` is not there, is no folder, or can't be listed.
        ArgumentTypeError: `folder` is no path, or `pattern` no str.
        PatternError: `pattern` is no path pattern.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise ArgumentTypeError("index_files: folder", expected="a str or a path", got=got(folder))
    if not isinstance(pattern, str):
        raise ArgumentTypeError("index_files: pattern", expected="a str like '**/*.wav'", got=got(pattern))
    if not {".", ".."}.isdisjoint(pattern.split("/")):
        why, hint = "has a component that is no name of a file", "it begins in the folder: '**/*.wav'"
        raise PatternError(f"index_files: the path pattern {pattern!r}", why, hint=hint)
    top = Path(folder).absolute()
    try:
        os.scandir(top).close()
    except (OSError, ValueError) as error:
        reason = f"can't be listed: {getattr(error, 'strerror', error)}"
        words: dict[type[Exception], str] = {FileNotFoundError: "is not there", NotADirectoryError: "is no folder"}
        raise ArgumentError(f"index_files: {str(top)!r}", words.get(type(error), reason)) from error
    return _found(top, PathPattern("index_files", pattern.casefold()))


def _found(top: Path, pattern: PathPattern) -> Iterator[IndexedFile]:
    stack: list[tuple[tuple[str, ...], Path, Iterator[tuple[str, frozenset[int], bool]]]]
    stack = [((), top, _listing(top, pattern, pattern.start))]
    while stack:
        keys, folder, entries = stack[-1]
        for name, positions, is_folder in entries:
            if is_folder:
                below = folder / name
                try:
                    listed = _listing(below, pattern, positions)
                except OSError as error:
                    yield IndexedFile((*keys, name), below, f"the folder can't be listed: {_in_words(error)}")
                    continue
                stack.append(((*keys, name), below, listed))
                break
            yield IndexedFile((*keys, os.path.splitext(name)[0]), folder / name)
        else:
            stack.pop()


def _listing(
    folder: Path, pattern: PathPattern, positions: frozenset[int]
) -> Iterator[tuple[str, frozenset[int], bool]]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            after = pattern.step(positions, entry.name.casefold())
            if entry.is_dir(follow_symlinks=False):
                if after and pattern.literals(after) != []:  # no keys at all could come next
                    found.append((entry.name, after, True))
            elif pattern.accepts(after) and (entry.is_file(follow_symlinks=False) or _is_file(entry.path)):
                found.append((entry.name, after, False))
    return iter(sorted(found))


def _in_words(error: OSError) -> str:
    return f"{type(error).__name__}: {error.strerror}"


def _is_file(path: str) -> bool:
    """Whether it is a file, or a link to nowhere: a file that can't be read, as whoever reads it will say."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


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
    if_exists: IfExists = "skip",
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
    if_exists: IfExists = "skip",
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
    if_exists: IfExists = "skip",
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

    A file that can't be read leaves no trace in the tree and is in the report, as is a second file for a node that
    has one from this run. An error that ends the run undoes what was not committed; in memory, all that was attached.
    Arrays in a zarr store lie outside the database: one that was replaced stays so.

    A file whose name without its suffix is that of a folder beside it (`a/c.wav`, `a/c/x.wav`) is attached to a node
    with nodes below it. That is no leaf, so `leaves` and `scan` do not give it. The report names it among its `inner`
    nodes: rename one of the two before more is computed, or deleted as `obsolete`.

    With commits, references for new nodes are stored as whole records, in a fifth of the time that live nodes take; the
    tree shows them from the commit on. What the source of the files changes in the tree meanwhile comes where it came.

    Args:
        root: The lotdb node to attach below, in memory or persistent.
        files: From `index_files`, or any `IndexedFile`s.
        content: Read the files (wav, npy, csv, txt, png and jpg as what they are, others as bytes) into data nodes;
            else store references to them, and only look whether they can be opened. Of a wav file whose header leaves
            the size open, as programs that write to a pipe do, what is there is read. The pixels of a picture with a
            palette are its colours. A table is kept byte for byte.
        attribute: The attribute to set: by default "file" for a reference, "data" for content. Content also sets
            lotdb's `_source_...` attributes. A node that is there keeps its others, its children and its class.
        backend: Where arrays go: "blob" or "zarr".
        samplerate_hz: Samples per second; by default what a wav file says.
        database: The `LOTDB` whose zarr store to use; needed for "zarr".
        if_exists: What to do where the node has the attribute: "skip" the file, "replace" the value, or an "error". To
            replace a reference by the same one counts as skipped.
        commit_every: Commit whenever so many files were attached, and at the end. "auto": every 1,000 files, if the
            tree is in a database. `None`: the caller commits.

    Returns:
        A report. Takes the files in their order, one at a time, or with `if_exists="skip"` and references up to 1,000
        at once, never more than the next commit needs. Holds one file's content and the paths of all. For the
        connection's thread only.

    Raises:
        ArgumentError: An option can't be used, or there is nothing to commit to: the tree is in memory.
        ArgumentTypeError: `root` is no node, an item no `IndexedFile`, or an option of a wrong type.
        ExistsError: A node has the attribute, with `if_exists="error"`.
        MissingExtraError: A package to read a file with is not installed.
        ReadOnlyTreeError: The database is open for reading only.
    """
    name = "ingest_files"
    check_root(name, root)
    check_choice(name, "backend", backend, ("blob", "zarr"))
    check_choice(name, "if_exists", if_exists, ("skip", "replace", "error"))
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

    def attach(path: _Path, file: Path, put: Callable[[Any, str, Any], None], *, is_checked: bool = False) -> bool:
        """Attach one file; says whether there was anything to do.

        One that was checked before can be opened, and what its node got since came later.
        """
        parent = _parent(root, path)
        existing = parent.node_storage.get(path[-1])
        stored = None if existing is None else stored_attributes(name, path, existing).get(attribute)
        if stored is not None:
            if is_checked or if_exists == "skip" or (if_exists == "replace" and not content and _refers(stored, file)):
                return False
            if if_exists == "error":
                raise ExistsError(f"{name}: {as_text(path)} has {attribute!r} already, and {file} was to set it")
        if not is_checked:
            _check_regular(file)
            if not content:
                _check_opens(file)
        # The node knows its parent, as a zarr path needs it; its parent gets to know it when all is read.
        if content:
            node: BaseNode = DataNode(path[-1], parent, samplerate_hz, backend, attribute)
            _read(node, file, attribute, backend, samplerate_hz, database)
        else:
            node = BaseNode(path[-1], parent)
            _refer(node, file, attribute)
        if existing is None:
            for linked in _unlinked(node, root):
                put(linked.parent.node_storage, linked.key, linked)
        else:
            check_classes(name, path, existing, node.attribute_storage)
            for key, value in node.attribute_storage.items():
                put(existing.attribute_storage, key, value)
        return True

    def run(files: Iterable[IndexedFile]) -> IngestReport:
        sources: dict[_Path, Path] = {}
        failures = []
        inner: set[_Path] = set()  # nodes that got a file above those of others
        ingested = skipped = commits = waiting = 0
        new: NewFiles | None = None  # what new nodes wait in, where they can be stored as records

        def begin() -> None:
            nonlocal new
            new = None
            if file_attribute is not None:
                with suppress(NotServed):
                    new = NewFiles(name, root, file_attribute)

        def attach_what_waits() -> None:
            for path, file in () if new is None else new.taken_out():
                attach(path, file, put, is_checked=True)

        def commit() -> None:
            nonlocal commits, waiting
            changes.describe(name, "", None, {"ingested": waiting})
            with uninterrupted():
                is_stored = new is not None and new.commit()
                if is_stored:
                    changes.commit()
            if not is_stored:
                attach_what_waits()
                with uninterrupted():
                    changes.commit()
            commits, waiting = commits + 1, 0
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
                if _opens(file):
                    if new.add(path, file):
                        return True
                elif there is False:
                    _check_regular(file)
                    _check_opens(file)
            attach_what_waits()
            comes_first = is_changed and there is False  # what the source gave the node since came later
            try:
                attached = attach(path, file, put, is_checked=comes_first) or comes_first
                node = new.node_before(path) if new is not None and comes_first else find(root, path)
                if attached and node is not None and _is_above(node, attribute):
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

        with undone_on_failure(root) as changes, _undone_in_memory(root) as put:
            begin()
            source = iter(files)
            end: Exception | bool = False
            while not end:
                # Only what may be skipped has to be looked up; and nothing is pulled behind a file that ends the run.
                lookup = new if if_exists == "skip" else None
                most = 1 if lookup is None or commit_every is None else min(WINDOW, commit_every - waiting)
                window, changed, end = pulled(source, most)
                have = lookup.have([path for path, _, _ in window]) if lookup and window else [None] * len(window)
                for number, ((path, file, reason), there) in enumerate(zip(window, have, strict=True)):
                    if number == changed:
                        attach_what_waits()
                        new = there = None
                    if reason is not None:
                        failures.append(FileFailure(file, path, reason))
                        continue
                    try:
                        known = sources.get(path, file)
                        if known is not file and known != file:
                            raise _Unusable(f"the node {as_text(path)} came from {known} already")
                        attached = take(path, file, there, is_changed=changed is not None and path not in sources)
                    except _Unusable as unusable:
                        failures.append(FileFailure(file, path, str(unusable)))
                        continue
                    sources[path] = file
                    ingested += attached
                    skipped += not attached
                    waiting += attached
                    if waiting and waiting == commit_every:
                        commit()
            if isinstance(end, Exception):
                raise end
            if waiting and commit_every is not None:
                commit()
            report = IngestReport(ingested, skipped, commits, tuple(failures), inner_nodes())
        return report

    return run


class _Unusable(Exception):
    """A file that is to be reported and left out."""


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


@contextmanager
def _undone_in_memory(root: BaseNode) -> Iterator[Callable[[Any, str, Any], None]]:
    """Gives a function that puts a value into a storage, and puts the old ones back when the block fails.

    Only for trees in memory; a database undoes by itself.
    """
    in_memory = connection_of(root) is None
    replaced: list[tuple[Any, str, Any]] = []

    def put(storage: Any, key: str, value: Any) -> None:
        if in_memory:
            replaced.append((storage, key, storage.get(key, _ABSENT)))
        storage[key] = value

    try:
        yield put
    except BaseException:
        for storage, key, value in reversed(replaced):
            if value is _ABSENT:
                del storage[key]
            else:
                storage[key] = value
        raise


def _refers(stored: Any, file: Path) -> bool:
    return isinstance(stored, PathFileObj) and stored.path == file


def _check_regular(file: Path) -> None:
    if os.path.exists(file) and not (os.path.isfile(file) or os.path.isdir(file)):
        raise _Unusable("it is no regular file")  # reading a pipe would wait for a writer


def _opens(file: Path) -> bool:
    """Whether it is a regular file that can be opened: a quarter of the time that it takes to find what is wrong."""
    name = str(file)
    try:
        if not S_ISREG(os.stat(name).st_mode):
            return False
        os.close(os.open(name, os.O_RDONLY))
    except (OSError, ValueError):
        return False
    return True


def _check_opens(file: Path) -> None:
    """Refuse a file that can't be opened, as whoever follows a reference to it will do."""
    try:
        file.open("rb").close()
    except OSError as error:
        raise _Unusable(_in_words(error)) from error
    except ValueError as error:  # a name that no file can have
        raise _Unusable(f"{type(error).__name__}: {error}") from error


def _refer(node: BaseNode, file: Path, attribute: str) -> None:
    """Attach a reference to a file."""
    found = DataWriter.attach_file_reference(node, filepath_attribute=attribute, filepath=str(file)).path
    if found != file and not (
        found.exists() and found.samefile(file)
    ):  # lotdb takes /mnt/D for a drive of Windows: /mnt/d
        raise _Unusable(f"lotdb would refer to {found} in its place; move it, or use content=True")


def _read(node: DataNode, file: Path, attribute: str, backend: str, samplerate_hz: float | None, database: Any) -> None:
    """Attach the content of a file."""
    with warnings.catch_warnings():
        # scipy only warns of a wav file that was cut off; what else it warns of is no concern: chunks beside the sound.
        warnings.filterwarnings("error", message="Reached EOF prematurely")
        warnings.filterwarnings("ignore", message=r"Chunk \(non-data\)|Incomplete chunk ID")
        # lotdb leaves it to the garbage collector to close an image that is damaged.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            attach_content(node, file, attribute, backend=backend, samplerate_hz=samplerate_hz, database=database)
        except ImportError as error:
            package = (error.name or "").partition(".")[0]
            if package not in _EXTRAS:
                raise
            raise MissingExtraError.of(*_EXTRAS[package], f"ingest_files: {file}") from error
        except Exception as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            reason = f"{type(error).__name__}: {' '.join(text.split())}"
        else:
            return
        raise _Unusable(reason)  # out here the error is gone, and with it what lotdb had opened


@public
def load_files_directory(
    tree: BaseNode,
    dir_path: str | os.PathLike[str],
    parameter_separator: str | None = None,
    parameter_seperator: str | None = None,
    filepath_attribute: str = "_pfo_audio_wav",
    file_extension: str = "wav",
) -> int:
    """Attach references to all files below a folder: lotdb's function, in sorted order.

    >>> import os, tempfile
    >>> from lotdb import BaseNode
    >>> from lotproc import load_files_directory
    >>> root = BaseNode("root")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     os.makedirs(os.path.join(folder, "speakers", "ann"))
    ...     open(os.path.join(folder, "speakers", "ann", "clip_1.wav"), "x").close()
    ...     load_files_directory(root, os.path.join(folder, "speakers"))
    1
    >>> [leaf.gps() for leaf in root.iterate_tree_leaves()]
    [['speakers', 'ann', 'clip_1']]

    Args:
        tree: The node to attach below: the folder's own name comes first, then the folders in it, then the file's name.
        dir_path: The folder. As in lotdb, one that isn't there, or that can't be read, counts as empty.
        parameter_separator: Splits a file's name, without its suffix, into several keys.
        parameter_seperator: The same, in lotdb's older spelling; counts where the other is `None`.
        filepath_attribute: The attribute to set, whether it is there or not.
        file_extension: The suffix of the files, without its dot. Letter case counts.

    Returns:
        The number of files. Writes at once, and commits nothing. For the connection's thread only.
    """
    check_root("load_files_directory", tree)
    separator = parameter_seperator if parameter_separator is None else parameter_separator
    top = os.path.normpath(dir_path)
    count = 0
    for folder, folders, names in os.walk(dir_path):
        folders.sort()  # the order in which os.walk goes on
        keys = Path(os.path.relpath(folder, start=os.path.dirname(top))).parts or (os.path.basename(top),)
        count += _attach(tree, keys, folder, names, separator, filepath_attribute, file_extension)
    return count


@public
def load_files_folder(
    tree: BaseNode,
    folder_path: str | os.PathLike[str],
    parameter_separator: str | None = "_~_",
    parameter_seperator: str | None = None,
    filepath_attribute: str = "_pfo_audio_wav",
    file_extension: str = "wav",
) -> int:
    """Attach references to the files in one folder: lotdb's function, in sorted order.

    >>> import os, tempfile
    >>> from lotdb import BaseNode
    >>> from lotproc import load_files_folder
    >>> root = BaseNode("root")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     open(os.path.join(folder, "ann_~_clip_1.wav"), "x").close()
    ...     load_files_folder(root, folder)
    1
    >>> [leaf.gps() for leaf in root.iterate_tree_leaves()]
    [['ann', 'clip_1']]

    Args:
        tree: The node to attach below: the keys are the parts of the file's name.
        folder_path: The folder; those in it are not entered.
        parameter_separator: Splits a file's name, without its suffix, into keys; `None` where it is one key.
        parameter_seperator: The same, in lotdb's older spelling; counts only with `parameter_separator=None`.
        filepath_attribute, file_extension: As in `load_files_directory`.

    Returns:
        The number of files. Writes at once, and commits nothing. For the connection's thread only.

    Raises:
        OSError: The folder can't be read.
    """
    check_root("load_files_folder", tree)
    separator = parameter_seperator if parameter_separator is None else parameter_separator
    folder = os.fspath(folder_path)
    return _attach(tree, (), folder, os.listdir(folder), separator, filepath_attribute, file_extension)


def _attach(
    tree: BaseNode,
    keys: tuple[str, ...],
    folder: str,
    names: Iterable[str],
    separator: str | None,
    attribute: str,
    extension: str,
) -> int:
    matching = sorted(name for name in names if name.endswith(f".{extension}"))
    for name in matching:
        stem = os.path.splitext(name)[0]
        node = tree.gns([*keys, *([stem] if separator is None else stem.split(separator))])
        DataWriter.attach_file_reference(node, filepath_attribute=attribute, root=folder, file=name)
    return len(matching)


load_small_files_directory = load_files_directory
load_small_files_folder = load_files_folder
