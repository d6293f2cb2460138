"""Planned writes applied to live nodes, of a tree in memory at the end and all at once."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import partial
from itertools import islice
from typing import Any
from unicodedata import normalize

import numpy as np
from lotdb import BaseNode, DataObject

from .._fast import FAST
from .._jar import RecordJar
from .._nodes import connection_of, find
from .._stamps import STAMPS, VERSION
from ..errors import DamagedDatabaseError
from ..models import Write
from .appending import appended, check_appendable, check_appends, rate_of
from .arrays import as_data_node, payload_names, sample_rate, store_payload
from .handles import Flat, handle_names, with_payloads, without_handles
from .options import Options
from .progress import Done, Progress
from .storable import check_classes, check_storable, plain_pickle

__all__ = ["MemoryTree", "apply", "check_batch", "check_there"]

_ABSENT = object()
#: Values that nobody can change in place.
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
#: Keys among which one is looked for that was meant.
MOST_COMPARED = 1_000


class MemoryTree:
    """A tree in memory, to which everything is applied, or nothing; what may fail comes before."""

    def __init__(self, root: BaseNode, options: Options, progress: Progress) -> None:
        self._root, self._options, self._progress = root, options, progress
        self.commit_every: int | None = None
        self._writes: list[Write] = []

    def take(self, batch: list[Write]) -> None:
        self._writes += [
            Write(planned.path, with_payloads(planned.path, planned.attributes, self._options.arrays, None))
            for planned in batch
        ]

    def commit(self) -> None:
        """Nothing is committed in memory."""

    def finish(self) -> None:
        check_there(self._writes, self._root, self._options)
        if self._options.if_exists == "append":
            check_appends(self._writes, self._root, self._options)
        if self._options.if_exists == "error":
            coming: set[tuple[str, ...]] = set()
            for planned in self._writes:
                if planned.path in coming or find(self._root, planned.path) is not None:
                    raise self._options.already_there(planned.path)
                coming.update(planned.path[:depth] for depth in range(len(planned.path) + 1))
        self._progress.add(apply(self._writes, self._root, self._options))
        self._progress.finish()


def check_there(writes: Iterable[Write], root: BaseNode, options: Options) -> None:
    """Refuse what would make nodes, if none are to be made."""
    if options.if_missing == "error":
        for planned in writes:
            if find(root, planned.path) is None:
                raise options.not_there(planned.path, _nearest(root, planned.path))


def _nearest(node: BaseNode, path: tuple[str, ...]) -> tuple[str, ...]:
    """The path of a node that is there: with a key like the first that is missing, or else of the node above."""
    for depth, key in enumerate(path):
        child = node.node_storage.get(key)
        if child is None:
            keys = list(islice(node.node_storage.keys(), MOST_COMPARED))
            same = [other for other in keys if normalize("NFC", other) == normalize("NFC", key)]
            return (*path[:depth], *(same[:1] or get_close_matches(key, keys, 1)))
        node = child
    return path


def check_batch(writes: Iterable[Write], options: Options, connection: Any) -> bool:
    """Refuse what can't be stored, before the first is applied; whether all are plain values, which records can hold.

    Raises:
        NotPicklableError, DetachError: As `check_storable` does.
    """
    plain = True
    takes_flat = FAST and options.arrays == "inline"
    for planned in writes:
        values = planned.attributes
        if takes_flat and type(values) is Flat:
            continue  # to pickle it here took half as long as all the rest of writing it
        if options.if_exists == "append":
            check_appendable(options.name, planned.path, values, options.arrays)
        payloads, handles = payload_names(values, options.arrays), handle_names(values)
        if payloads or handles:
            values = {name: without_handles(value) for name, value in values.items() if name not in payloads}
        whole = check_storable(options.name, planned.path, values, connection)
        plain = plain and whole and not payloads and not handles
    return plain


def apply(writes: Iterable[Write], root: BaseNode, options: Options) -> Done:
    """Write to live nodes."""
    connection = connection_of(root)
    jar = None if connection is None else RecordJar(connection._storage.load, connection.db(), connection._storage)
    arrays, replaces, skips = options.arrays, options.if_exists == "replace", options.if_exists == "skip"
    appends = options.if_exists == "append"
    written, skipped, last_path = 0, 0, None
    for planned in writes:
        node = find(root, planned.path)
        if node is None:
            node = root.get_node_path(planned.path)
        elif skips and options.skips(partial(node.get_attribute, VERSION, None)):
            skipped += 1
            continue
        elif options.if_exists == "error":
            raise options.already_there(planned.path)
        else:  # stamps that are left would say that this result is another one
            check_classes(options.name, planned.path, node, None if replaces else planned.attributes)
            stale = node.all_attribute_keys() if replaces else STAMPS
            for name in set(stale) - planned.attributes.keys():
                if name in node.attribute_storage:
                    node.delete_attribute(name)
        attributes = with_payloads(planned.path, planned.attributes, arrays, connection, None if appends else node)
        payloads = payload_names(attributes, arrays)
        rate = sample_rate(attributes)
        if payloads and node is not root:
            node = as_data_node(node, payloads[-1], arrays, rate)  # the output is the last
        for name, value in attributes.items():
            if isinstance(value, DataObject) and node is not root:
                node = as_data_node(node, name, "blob", value.samplerate_hz)
        for name, value in attributes.items():
            own = rate_of(planned.attributes[name], attributes)
            if appends:
                joined, own = appended(options.name, planned.path, name, node.get_attribute(name, None), value, own)
                if joined is not value:
                    store_payload(node, name, joined, arrays, own)
                    continue
            if name in payloads:
                store_payload(node, name, value, arrays, own)
            elif not _stored_already(node, name, value, jar):
                node.set_attribute(name, value)
        written, last_path = written + 1, planned.path
    return Done(written, skipped, last_path)


def _stored_already(node: BaseNode, name: str, value: Any, jar: RecordJar | None) -> bool:
    """Whether an attribute has this value, to the byte: a run that changes nothing must not make the database grow.

    Args:
        node: The node.
        name: The name of the attribute.
        value: What it is to be.
        jar: Reads what the database has.
    """
    stored = node.get_attribute(name, _ABSENT)
    if type(stored) is not type(value):
        return False
    if isinstance(value, np.ndarray) and not value.dtype.isnative:  # which is how the database gives it back
        value = value.astype(value.dtype.newbyteorder("="))
    pickled = plain_pickle(value)
    if pickled is None or pickled != plain_pickle(stored):
        return False
    return type(value) in _ATOMS or pickled == plain_pickle(_in_database(node.attribute_storage, name, jar))


def _in_database(tree: Any, name: str, jar: RecordJar | None) -> Any:
    """An attribute as the database has it; in memory it may have been changed in place, which nobody was told of.

    Nothing if that can't be known without more ado, or the tree will be stored anyway.
    """
    if jar is None or tree._p_jar is None or tree._p_changed:
        return _ABSENT
    try:
        found = jar.get(tree._p_oid).get(name, _ABSENT)
    except DamagedDatabaseError:
        return _ABSENT
    jar.cacheGC()
    return found
