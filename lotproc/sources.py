"""Records from wherever they are kept: a store or a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import EllipsisType
from typing import Any, TypeAlias, overload

from lotdb import BaseNode

from ._missing import Sought
from ._stage import stage
from .errors import ArgumentTypeError, got
from .models import NodeRecord, node_record
from .snapshots import Names, checked_names, snapshot
from .stores.protocol import OUTPUT, Store, as_attributes
from .traversal import walk

__all__ = ["Source", "as_store", "records", "with_attributes"]

Source: TypeAlias = "Store | BaseNode"


@overload
def records(names: Names, source: Source, *, output_attribute: str = "result") -> Iterator[NodeRecord]: ...
@overload
def records(names: Names, *, output_attribute: str = "result") -> Callable[[Source], Iterator[NodeRecord]]: ...
@stage("source")
def records(names: Names, *, output_attribute: str = OUTPUT) -> Callable[[Source], Iterator[NodeRecord]]:
    """Read what a store holds as records, for every stage that takes records.

    >>> import tempfile
    >>> from lotproc import records
    >>> from lotproc.stores import DirectoryStore
    >>> store = DirectoryStore(tempfile.mkdtemp())
    >>> store.put(("ann", "clip_1"), [0.1, 0.2], metadata={"duration": 1.2})
    >>> for record in records("duration", store):
    ...     print(record.path, record.attributes, record.payload.read())
    ('ann', 'clip_1') {'duration': 1.2} [0.1, 0.2]

    A record's path is its key. Its attributes come from the metadata of the store's entry; where it has none, from its
    value, if that is a mapping. The output of a result, which `write` stores as the value, is the attribute `result`.

    Args:
        names: The attributes to take: one name, several, or `...` for all, the value included. An absent one is `None`;
            of one that no entry had there is a warning at the end.
        source: A `DirectoryStore`, an `LmdbStore`, an `Archive` or another `Store`; or a node of a tree, of which all
            nodes below it that have attributes are taken.
        output_attribute: What the value is called among the attributes; as for `write`.

    Returns:
        An iterator of records, in the order of the store, which is that of paths for a directory, that of keys for
        LMDB, and that of writing for an archive. Lazy; holds one record. The payload of a record is a `StoredPayload`,
        which reads the value when `payload.read()` is called, in any process that sees the files. A value is read
        before that only if there is no metadata and a name is asked for, or if its own name is.

    Raises:
        ArgumentTypeError: `names` are no names, or `source` is no store and no node.
        ArgumentError: There is metadata with the name of the value; says where.
        DamagedStoreError: A value can't be read; names its path.
    """
    taken = checked_names("records", names)
    if not isinstance(output_attribute, str):
        raise ArgumentTypeError("records: output_attribute", expected="a str", got=got(output_attribute))

    def run(source: Source) -> Iterator[NodeRecord]:
        if isinstance(source, BaseNode):
            return iter(snapshot(taken, with_attributes(source)))
        return _records(taken, output_attribute, as_store("records", source))

    return run


def as_store(name: str, store: object) -> Store:
    """Refuse what is no store, where a tree would do as well."""
    if not isinstance(store, Store):
        raise ArgumentTypeError(
            f"{name}:",
            expected="a store, such as a DirectoryStore, an LmdbStore or an Archive, or a lotdb node",
            got=got(store),
        )
    return store


def with_attributes(root: BaseNode) -> Iterator[BaseNode]:
    """The nodes of a tree that have attributes, in order."""
    return (node for node in walk(root) if node.attribute_storage)


def _records(names: tuple[str, ...] | EllipsisType, output: str, store: Store) -> Iterator[NodeRecord]:
    in_values = names is not ... and (output in names or (bool(names) and store.codec.holds_mappings))
    sought = Sought("records", () if names is ... else names)
    for path, metadata, load, payload in store.records():
        if names is ...:
            attributes = as_attributes("records", path, metadata, load(), output)
        else:
            found: Mapping[str, Any] = metadata or {}
            if in_values and (metadata is None or output in names):
                found = as_attributes("records", path, metadata, load(), output)
            attributes = {name: found.get(name) for name in names}
            if sought.wanted:
                sought.look(found, path)
        yield node_record(path, path[-1] if path else "", attributes, payload)
    sought.end()
