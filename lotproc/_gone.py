"""Nodes whose file is gone: found among all below a root, and what is deleted with them."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set as AbstractSet
from pathlib import Path
from typing import TypeAlias

from lotdb import BaseNode, DataNode, DataObject, PathFileObj

from ._contents import SOURCE, is_gone
from ._fast import FAST
from ._items import node_path
from ._nodes import connection_of, find, has_changes
from .file_models import IndexedFile
from .indexing import FolderFiles
from .scanning import scan
from .traversal import walk

__all__ = ["Deletions", "attributes_of_file", "nodes_without_file"]

_Path: TypeAlias = "tuple[str, ...]"


def nodes_without_file(
    root: BaseNode,
    attribute: str,
    content: bool,
    sources: Mapping[_Path, Path],
    files: FolderFiles,
    unlisted: AbstractSet[Path],
) -> tuple[list[IndexedFile], list[IndexedFile], list[IndexedFile], list[_Path]]:
    """The nodes whose file is gone from the folder: those that another file is for, with that, and others, with theirs.

    Of the latter only those whose file would be among these files if it were there, and not in a folder that could not
    be listed. Then the nodes whose file is gone from elsewhere, with that; and those whose file is there, and is on
    another node as well, since it was given another key.

    Args:
        root: The node below which they are.
        attribute: What has the file.
        content: Whether it has what is in the file, or a reference.
        sources: The files that are there, by the paths of their nodes.
        files: All that are in the folder.
        unlisted: The folders in it that could not be listed.
    """
    replaced, gone, elsewhere, doubled = [], [], [], []
    for path, node in _suspects(root, attribute, {} if content else sources):
        name = _file_of(node, attribute)
        if name is None:
            continue
        there = sources.get(path)
        if there is not None and str(there) == name:
            continue
        file = Path(name)
        if not is_gone(name):
            if there is None and any(sources.get((*path[:-1], key)) == file for key in (file.name, file.stem)):
                doubled.append(path)
            continue
        if files.folder not in file.parents:
            elsewhere.append(IndexedFile(path, file))
        elif there is not None:
            replaced.append(IndexedFile(path, there))
        elif files.has_place_for(file, path) and unlisted.isdisjoint([file, *file.parents]):
            gone.append(IndexedFile(path, file))
    return replaced, gone, elsewhere, doubled


def _suspects(root: BaseNode, attribute: str, sources: Mapping[_Path, Path]) -> Iterator[tuple[_Path, BaseNode]]:
    """The nodes that may have another file than the one that is there: of leaves with references, only those."""
    connection = connection_of(root)
    if not FAST or not sources or connection is None or has_changes(connection):
        yield from ((node_path(node, root), node) for node in walk(root, min_depth=1))
        return
    paths: set[_Path] = set()
    heads: set[_Path] = set()
    start = len(node_path(root))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an attribute that no leaf has
        for record in scan(attribute, root, on_error="skip"):  # in a fifth of the time of a walk
            path = record.path[start:]
            heads.add(path[:-1])
            value = record.attributes[attribute]
            if value is not None and value != sources.get(path):
                paths.add(path)
    paths.update(head[:depth] for head in heads for depth in range(1, len(head) + 1))
    for path in sorted(paths):
        node = find(root, path) if path else None
        if node is not None:
            yield path, node


def _file_of(node: BaseNode, attribute: str) -> str | None:
    """The file that an attribute refers to, or was read from; `None` for all that ingest did not put there."""
    attributes = node.attribute_storage
    value = attributes.get(attribute)
    if isinstance(value, PathFileObj):
        return str(value.path)
    if not isinstance(value, DataObject):
        return None
    source = value.get_metadata(SOURCE)
    if isinstance(source, tuple) and source:
        return str(source[0])
    source = attributes.get("_source_filepath")
    return str(source.path) if isinstance(source, PathFileObj) else None


class Deletions:
    """What is deleted where files are gone.

    A node goes with all that is below it, and so do those above that stand for nothing then: no other node below, and
    no attribute. One that has another file, or has one below it, loses only its own.

    Args:
        root: The node below which the paths begin.
        attribute: What has the files.
        gone: Paths of nodes whose files are gone.
    """

    def __init__(self, root: BaseNode, attribute: str, gone: Iterable[_Path]) -> None:
        self._root, self._attribute = root, attribute
        #: The nodes that go, with all below them, and those that lose their file alone.
        self.paths: list[_Path] = []
        self.kept: list[tuple[_Path, BaseNode]] = []
        #: How many go, with those below them.
        self.nodes = 0
        paths = set(gone)
        going: set[_Path] = set()
        for path in sorted(paths):
            node = find(root, path)
            if node is None or any(path[:depth] in going for depth in range(1, len(path))):
                continue
            number = self._count(node, path, paths)
            if number is None:
                self.kept.append((path, node))
            else:
                going.add(path)
                self.nodes += number
        self._add_empty(going)
        self.paths = sorted(going)

    def _count(self, top: BaseNode, path: _Path, gone: set[_Path]) -> int | None:
        """How many nodes there are at and below one; `None` if any of them has a file that is not gone."""
        number = 0
        for node in walk(top):
            number += 1
            is_gone = (*path, *node_path(node, top)) in gone
            for name in node.attribute_storage:
                is_its = name.startswith("_source_") or (is_gone and name == self._attribute)
                if not is_its and _file_of(node, name) is not None:
                    return None
        return number

    def _add_empty(self, going: set[_Path]) -> None:
        for depth in range(max(map(len, going), default=0), 1, -1):
            below: dict[_Path, list[_Path]] = defaultdict(list)
            for path in going:
                if len(path) == depth:
                    below[path[:-1]].append(path)
            for path, paths in below.items():
                node = find(self._root, path)
                if node is not None and len(node.node_storage) == len(paths) and _stands_for_nothing(node):
                    going.difference_update(paths)
                    going.add(path)
                    self.nodes += 1


def _stands_for_nothing(node: BaseNode) -> bool:
    values = node.attribute_storage.values()
    return type(node) in (BaseNode, DataNode) and all(value is None for value in values)


def attributes_of_file(node: BaseNode, attribute: str) -> Iterator[str]:
    """The attributes that came with a file."""
    yield attribute
    if not isinstance(node.attribute_storage.get(attribute), PathFileObj):
        yield from [name for name in node.attribute_storage if name.startswith("_source_")]
