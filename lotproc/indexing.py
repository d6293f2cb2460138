"""Files in folders, found by their paths."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from difflib import get_close_matches
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ._attaching import reason_of
from ._patterns import PathPattern, has_slash, key_glob, told_of_a_regex, warn_of_a_regex
from ._public import public
from ._reprs import cut, named
from ._spelling import spelled
from ._stage import check_choice
from .errors import ArgumentError, ArgumentTypeError, PatternError, as_text, got, warn
from .file_models import IndexedFile
from .models import counted

__all__ = ["FolderFiles", "Key", "index_files"]

#: Where none was found: files that are looked at to say so, and names that are compared with the pattern.
LOOKED, COMPARED = 10_000, 1_000

Key: TypeAlias = Literal["stem", "name"]

#: A name in a folder; its key; of a folder, where a path is in the patterns after it.
_Entry: TypeAlias = "tuple[str, str, Any]"


@public
@spelled
def index_files(
    folder: str | os.PathLike[str],
    pattern: str | list[str] = "**/*.wav",
    *,
    skip: str | list[str] | None = ".*",
    key: Key = "stem",
) -> Iterator[IndexedFile]:
    """Find the files in a folder whose path matches a pattern, or one of several.

    >>> import pathlib, tempfile
    >>> from lotproc import index_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pathlib.Path(folder, "ann").mkdir()
    ...     for name in ("clip_1.WAV", "clip_1.TextGrid", ".clip_1.wav"):
    ...         pathlib.Path(folder, "ann", name).touch()
    ...     [found.path for found in index_files(folder)]
    ...     patterns = ["**/*.wav", "**/*.TextGrid"]
    ...     [found.path for found in index_files(folder, patterns, key="name")]
    [('ann', 'clip_1')]
    [('ann', 'clip_1.TextGrid'), ('ann', 'clip_1.WAV')]

    Args:
        folder: The folder to search.
        pattern: Components with `*`, `?` and `[...]`, between slashes; `**` stands for any number of folders, none
            included. Letter case doesn't count. Several come in a list.
        skip: What is left out, files and folders with all in them: a glob on their names, or with a slash in it on
            their paths, or a list of these. By default what is hidden, whose name begins with a dot; `None` leaves out
            nothing, and `[".*", "drafts"]` more.
        key: The last key of a file's path: its name without the suffix, which is its "stem", or the whole "name".

    Returns:
        An iterator of `IndexedFile`, depth first, sorted by name in each folder. Lazy; folders that can't match are not
        entered, nor are links to folders; holds the matching names in the folders along the current path. A folder in
        it that can't be listed stands in its place, with the `reason`, and `ingest_files` reports it. Where no file of
        some matches, there is a warning at the end, which names the nearest one.

    Raises:
        ArgumentError: `folder` is not there, is no folder, or can't be listed. As soon as it is met: two files have one
            stem and would be one node.
        ArgumentTypeError: `folder` is no path, `pattern` or `skip` no str or list of them.
        PatternError: A pattern can't be read, or what it asks for is left out by `skip`.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise ArgumentTypeError("index_files: folder", expected="a str or a path", got=got(folder))
    check_choice("index_files", "key", key, ("stem", "name"))
    patterns = _several("pattern", pattern, "a str like '**/*.wav' or a list of them")
    if not patterns:
        raise PatternError("index_files: pattern", "is an empty list, which matches no file")
    skipped = _Skipped([] if skip is None else _several("skip", skip, "a glob, a list of them, or None"))
    for each in patterns:
        skipped.check_wanted(each)
    wanted = [PathPattern("index_files", each.casefold(), each) for each in patterns]
    top = Path(folder).absolute()
    try:
        os.scandir(top).close()
    except (OSError, ValueError) as error:
        reason = f"can't be listed: {getattr(error, 'strerror', error)}"
        words: dict[type[Exception], str] = {FileNotFoundError: "is not there", NotADirectoryError: "is no folder"}
        raise ArgumentError(f"index_files: {str(top)!r}", words.get(type(error), reason)) from error
    return FolderFiles(top, wanted[0] if len(wanted) == 1 else _Several(wanted), skipped, key, patterns)


class FolderFiles(Iterator[IndexedFile]):
    """The files of a folder, and which others would be among them; made by `index_files`."""

    def __init__(
        self, folder: Path, pattern: PathPattern | _Several, skipped: _Skipped, key: Key, written: list[str]
    ) -> None:
        self.folder = folder
        #: The files that are left, without a call of this between them.
        self.left = _found(folder, pattern, skipped, key, written)
        self._pattern, self._skipped, self._written = pattern, skipped, written

    def __next__(self) -> IndexedFile:
        return next(self.left)

    def __repr__(self) -> str:
        return cut(f"<files of {str(self.folder)!r}>")

    def _repr_html_(self) -> str:
        from ._html import card, pairs  # here, since a worker shows nothing

        told = pairs([("pattern", self._written), ("skip", self._skipped.globs)])
        return card("files of", str(self.folder), told)

    def close(self) -> None:
        """Let go of the folders that are being listed."""
        self.left.close()

    def has_place_for(self, file: Path, path: tuple[str, ...]) -> bool:
        """Whether a file that is not there would be given if it were, by its name or its stem for a node's path."""
        try:
            *folders, name = file.relative_to(self.folder).parts
        except ValueError:
            return False
        if path[:-1] != tuple(folders) or path[-1] not in (name, os.path.splitext(name)[0]):
            return False
        parts = (*folders, name)
        return self._pattern.matches(part.casefold() for part in parts) and not self._skipped.has(parts)


def _several(argument: str, given: Any, expected: str) -> list[str]:
    patterns = given if isinstance(given, list) else [given]
    for each in patterns:
        if not isinstance(each, str):
            hint = "several come in a list" if isinstance(each, tuple) else None
            raise ArgumentTypeError(f"index_files: {argument}", expected=expected, got=got(each), hint=hint)
        if not {".", ".."}.isdisjoint(each.split("/")):
            why, hint = "has a component that is no name of a file", "it begins in the folder: '**/*.wav'"
            raise PatternError(f"index_files: the path pattern {each!r}", why, hint=hint)
    return patterns


class _Several:
    """Several patterns as one: a place in it is the places in each."""

    def __init__(self, patterns: list[PathPattern]) -> None:
        self._patterns = patterns
        self.start = tuple(pattern.start for pattern in patterns)

    def step(self, positions: tuple[frozenset[int], ...], key: str) -> tuple[frozenset[int], ...]:
        return tuple(map(PathPattern.step, self._patterns, positions, repeat(key)))

    def accepts(self, positions: tuple[frozenset[int], ...]) -> bool:
        return any(map(PathPattern.accepts, self._patterns, positions))

    def literals(self, positions: tuple[frozenset[int], ...]) -> list[str] | None:
        return [] if all(each == [] for each in map(PathPattern.literals, self._patterns, positions)) else None

    def matches(self, path: Iterable[str]) -> bool:
        keys = tuple(path)
        return any(pattern.matches(keys) for pattern in self._patterns)


class _Skipped:
    """What is left out: by its name, wherever it is, or by its path."""

    def __init__(self, globs: list[str]) -> None:
        self.globs = globs
        names = [glob.casefold() for glob in globs if not has_slash(glob)]
        for name in names:
            key_glob("index_files", name)
        for glob in globs:
            if not has_slash(glob):
                warn_of_a_regex("index_files", glob)
        self._name = re.compile("|".join(map(fnmatch.translate, names))).match if names else None
        self._paths = [PathPattern("index_files", glob.casefold(), glob) for glob in globs if has_slash(glob)]

    def test_in(self, keys: tuple[str, ...]) -> Callable[[str], object] | None:
        """What is true of the names, in small letters, that are left out in a folder; `None` if there are none."""
        if not self._paths:
            return self._name
        above, of_name = tuple(key.casefold() for key in keys), self._name
        return lambda name: (
            (of_name is not None and of_name(name)) or any(path.matches((*above, name)) for path in self._paths)
        )

    def has(self, path: tuple[str, ...]) -> bool:
        """Whether a path, or a folder above it, is left out."""
        tests = ((self.test_in(path[:depth]), path[depth].casefold()) for depth in range(len(path)))
        return any(test is not None and bool(test(name)) for test, name in tests)

    def check_wanted(self, pattern: str) -> None:
        """Refuse a pattern for names that begin with a dot where these are left out."""
        for component in pattern.split("/"):
            if component.startswith(".") and self._name is not None and self._name(component.casefold()):
                what, told = f"index_files: the path pattern {pattern!r}", told_of_a_regex(pattern, is_path=True)
                if told:
                    raise PatternError(what, "looks like a regular expression, where a glob is taken", hint=told)
                why = f"finds nothing, since skip={self.globs!r} leaves out {component!r}"
                raise PatternError(what, why, hint="skip=None leaves out nothing")


def _found(
    top: Path, pattern: Any, skipped: _Skipped, key: Key, written: list[str]
) -> Generator[IndexedFile, None, None]:
    is_empty = True
    stack: list[tuple[tuple[str, ...], Path, Iterator[_Entry]]]
    stack = [((), top, _listing(top, (), pattern, pattern.start, skipped, key))]
    while stack:
        keys, folder, entries = stack[-1]
        for name, last_key, positions in entries:
            if positions is None:
                is_empty = False
            else:
                below = folder / name
                try:
                    listed = _listing(below, (*keys, name), pattern, positions, skipped, key)
                except OSError as error:
                    is_empty = False
                    yield IndexedFile((*keys, name), below, f"the folder can't be listed: {reason_of(error)}")
                    continue
                stack.append(((*keys, name), below, listed))
                break
            yield IndexedFile((*keys, last_key), folder / name)
        else:
            stack.pop()
    if is_empty:
        _tell_of_nothing(top, pattern, skipped, written)


def _tell_of_nothing(top: Path, pattern: Any, skipped: _Skipped, written: list[str]) -> None:
    """Warn that no file matches, where there are some: with the nearest, and with what would find it."""
    walked = (Path(folder, name).relative_to(top).parts for folder, _, names in os.walk(top) for name in names)
    small = {path: tuple(key.casefold() for key in path) for path in islice(walked, LOOKED + 1)}
    left = {path: keys for path, keys in small.items() if not skipped.has(path)}
    lost = sum(map(pattern.matches, small.values()))
    if not left and not lost:
        return
    hint = f"; skip= leaves out {counted(lost, 'file')} that would" if lost else ""
    for glob in written:
        deep = f"**/{glob}"
        if not glob.startswith("**/") and any(map(PathPattern("", deep.casefold(), "").matches, left.values())):
            hint = f"; {deep!r} looks into the folders below, too"
    texts = {"/".join(keys): as_text(path) for path, keys in islice((left or small).items(), COMPARED)}
    nearest = texts[get_close_matches(written[0].casefold(), texts, 1, 0)[0]]
    number = f"more than {LOOKED:,} files" if len(small) > LOOKED else counted(len(left), "file")
    said = " or ".join(map(repr, written))
    warn(f"index_files: none of the {number} in {named(top)!r} matches {said}; the nearest is {nearest!r}{hint}")


def _listing(
    folder: Path, keys: tuple[str, ...], pattern: Any, positions: Any, skipped: _Skipped, key: Key
) -> Iterator[_Entry]:
    is_skipped = skipped.test_in(keys)
    files: list[str] = []
    folders: list[_Entry] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.casefold()
            if is_skipped is not None and is_skipped(name):
                continue
            after = pattern.step(positions, name)
            if entry.is_dir(follow_symlinks=False):
                if after and pattern.literals(after) != []:  # no keys at all could come next
                    folders.append((entry.name, entry.name, after))
            elif after and pattern.accepts(after) and (entry.is_file(follow_symlinks=False) or _is_file(entry.path)):
                files.append(entry.name)
    files.sort()
    last_keys = [os.path.splitext(name)[0] for name in files] if key == "stem" else files
    if len(set(last_keys)) < len(files):
        raise _one_node(keys, files)
    found: Iterable[_Entry] = zip(files, last_keys, repeat(None))
    return iter(sorted([*found, *folders]) if folders else found)


def _one_node(keys: tuple[str, ...], names: list[str]) -> ArgumentError:
    """The error of two files of a folder that would be one node."""
    first: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(name)[0]
        if stem in first:
            break
        first[stem] = name
    more = len(names) - len({os.path.splitext(each)[0] for each in names}) - 1
    others = f" (and {more:,} more in this folder are like it)" if more else ""
    return ArgumentError(
        f"index_files: {first[stem]!r} and {name!r}{others} would both be the node",
        path=(*keys, stem),
        hint='key="name" keeps the suffix in the key; skip= leaves one of them out',
    )


def _is_file(path: str) -> bool:
    """Whether it is a file, or a link to nowhere: a file that can't be read, as whoever reads it will say."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))
