"""From any store or tree to any other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from time import perf_counter
from typing import Any, Literal, TypeAlias

from lotdb import BaseNode

from ._detaching import detached
from ._items import node_path
from ._nodes import connection_of
from ._public import public
from ._spelling import spelled
from ._stage import check_choice
from .bars import bar
from .errors import ArgumentError, ArgumentTypeError, as_text, brief, got
from .models import Write, WriteReport
from .sources import Source, as_store
from .stores.protocol import OUTPUT, Item, Store, StoredRecord, Writer, as_attributes, as_item
from .traversal import walk
from .writing.conflicts import opened_tree
from .writing.handles import as_payload, checked_values
from .writing.into_store import check_store, opened_store
from .writing.options import Options
from .writing.payload_copies import PayloadCopy
from .writing.progress import Done, Progress, apply_batches
from .writing.storable import stored_attributes
from .writing.transactions import check_writable

__all__ = ["PayloadCopy", "copy"]

Present: TypeAlias = Literal["replace", "skip", "error"]


@public
@spelled
def copy(
    source: Source,
    target: Source,
    *,
    output_attribute: str = OUTPUT,
    if_exists: Present = "replace",
    commit_every: int | None = None,
    progress: bool | None = None,
) -> WriteReport:
    """Copy everything from a store or a tree into another one.

    >>> import tempfile
    >>> from lotdb import BaseNode
    >>> from lotproc import copy
    >>> from lotproc.stores import DirectoryStore
    >>> root = BaseNode("corpus")
    >>> _ = root.gns(["ann", "clip_1"]).set_attribute("duration", 1.2)
    >>> store = DirectoryStore(tempfile.mkdtemp())
    >>> print(copy(root, store))
    1 result written, 1 commit
    >>> store["ann", "clip_1"]
    {'duration': 1.2}

    Between stores, values and metadata stay as they are. Where the target has no metadata, they become a dict, with the
    value as `result`. A node of a tree is a dict of its attributes, detached as by `snapshot`. Its payloads go along
    with all their data, as `PayloadCopy`s, and become payloads again in a tree. Nodes without attributes are
    copied where they have no children; elsewhere their children's paths tell of them.

    Args:
        source: A `DirectoryStore`, an `LmdbStore`, an `Archive`, or a node: all that is below it, itself included.
        target: Another one. Paths are the same as in the source; those of trees begin below the node that is given.
        output_attribute: What a value is called where it becomes an attribute beside its metadata.
        if_exists: What to do where the path is there already. "replace": put what the source has in its place, though
            the children of a node stay; "skip": leave it as it is; "error": stop.
        commit_every: Commit as soon as this many are written, as `write` does; a tree in a database is not committed
            otherwise, a store is when all is written.
        progress: Whether to show a bar that counts what is copied; `None`: where stderr is a terminal.

    Returns:
        A `WriteReport`. It holds one record at a time; on a tree in memory all of them; an archive that is read keeps
        the place of each key.

    Raises:
        ArgumentTypeError: `source` or `target` is neither a store nor a node.
        ArgumentError: The target is the source or lies in it; a key can't be one of the target's; or there is metadata
            with the name of the value.
        CodecError, NotPicklableError: The target can't hold a value; names its path.
        DetachError: An attribute can't be taken out of the tree, or its class not be imported; names its path, its name
            and the class.
        ExistsError: A path is there already, with `if_exists="error"`.
    """
    check_choice("copy", "if_exists", if_exists, ("replace", "skip", "error"))
    if progress is not None and not isinstance(progress, bool):
        raise ArgumentTypeError("copy: progress", expected="True, False or None", got=got(progress))
    for end in (source, target):
        if not isinstance(end, BaseNode):
            as_store("copy", end)
    if not isinstance(output_attribute, str):
        raise ArgumentTypeError("copy: output_attribute", expected="a str", got=got(output_attribute))
    if _is_inside(source, target):
        raise ArgumentError(f"copy: the target {brief(target)} is the source {brief(source)}, or lies in it")
    options = Options("copy", commit_every, if_exists, output=output_attribute)
    if isinstance(target, Store):
        check_store(options, target)
    else:
        check_writable("copy", target, commit_every)
    entries = source.records() if isinstance(source, Store) else _nodes(source)
    total = len(source) if isinstance(source, Store) else None
    done, start = Progress(repr(target) if isinstance(target, Store) else "the database"), perf_counter()
    try:
        hidden = None if progress is None else not progress
        with closing(bar(entries, total, "copy", hidden=hidden)) as shown:
            if isinstance(target, Store):
                items = _items(target, options, done)
                apply_batches(shown, opened_store(target, items, commit_every, done), done)
            else:
                apply_batches(_planned(shown, target, options), opened_tree(target, options, done), done)
    finally:
        if isinstance(entries, Generator):
            entries.close()
    return done.report(perf_counter() - start)


def _is_inside(source: Source, target: Source) -> bool:
    """Whether what is written would come up in what is still to be read."""
    if isinstance(source, BaseNode):
        node = target if isinstance(target, BaseNode) else None
        while node is not None and node is not source:
            node = node.parent
        return node is source
    return not isinstance(target, BaseNode) and target.is_below(source)


def _nodes(root: BaseNode) -> Iterator[StoredRecord]:
    """The nodes of a tree as a store would give them."""
    for node in walk(root):
        path = node_path(node, root)
        values = stored_attributes("copy", path, node)
        if values or (node is not root and not node.node_storage):
            yield StoredRecord(path, None, partial(_detached, path, values), None)


def _detached(path: tuple[str, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: detached("copy", value, f"attribute {name!r}", path, payload=PayloadCopy.of)
        for name, value in values.items()
    }


def _items(store: Store, options: Options, progress: Progress) -> Callable[[Writer, StoredRecord], list[Item]]:
    """A function that gives what is to be put for an entry."""

    def items(writer: Writer, entry: StoredRecord) -> list[Item]:
        if options.if_exists != "replace" and writer.find(entry.path) is not None:
            if options.if_exists == "error":
                raise options.already_there(entry.path)
            progress.add(Done(skipped=1))
            return []
        value = entry.load()
        progress.add(Done(1, 0, entry.path))
        if entry.metadata is None:
            as_it_is = store.codec.holds_mappings or not isinstance(value, Mapping)
        else:
            as_it_is = store.has_metadata
        if as_it_is:
            return [Item(entry.path, value, entry.metadata)]
        attributes = as_attributes("copy", entry.path, entry.metadata, value, options.output)
        return [as_item("copy", store, entry.path, attributes, options.output)]

    return items


def _planned(entries: Iterable[StoredRecord], root: BaseNode, options: Options) -> Iterator[list[Write]]:
    """The entries as writes into a tree."""
    connection = connection_of(root)
    for entry in entries:
        attributes = as_attributes("copy", entry.path, entry.metadata, entry.load(), options.output)
        for name, value in attributes.items():
            if not isinstance(name, str):
                raise ArgumentTypeError(
                    f"copy: what is at {as_text(entry.path)} can't be attributes: the name of one",
                    expected="a str",
                    got=got(name),
                )
            checked_values("copy", entry.path, {name: value})
            attributes[name] = as_payload("copy", entry.path, name, value, connection)
        yield [Write(entry.path, attributes)]
