"""What every store is: a source of records, and a sink for results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from .._public import public
from ..errors import ArgumentError, CodecError, NoSuchKeyError, as_text
from .codecs import Codec, json_metadata

__all__ = ["OUTPUT", "Entry", "Item", "Store", "StoredPayload", "Writer", "as_attributes", "as_item", "no_such_key"]

Path: TypeAlias = "tuple[str, ...]"

#: What the value is called among the attributes of a record, unless it is told.
OUTPUT = "result"


class Item(NamedTuple):
    """What is stored under a path.

    Args:
        path: The keys of the record.
        value: The value.
        metadata: What is known of it; `None` where there is nothing, which is not the same as an empty dict.
    """

    path: Path
    value: Any
    metadata: Mapping[str, Any] | None


class Entry(NamedTuple):
    """What `Store._entries` gives for each key.

    Args:
        path: The keys of the record.
        metadata: What is known of it; `None` where there is nothing.
        load: Reads the value; to be called before the next entry is asked for, or not at all.
        payload: The value, to be read wherever and whenever; `None` where the entry is none of a store.
    """

    path: Path
    metadata: Mapping[str, Any] | None
    load: Callable[[], Any]
    payload: StoredPayload | None


class Writer(Protocol):
    """Takes items; what it has taken shows in the store from `commit` on, or earlier."""

    def find(self, path: Path) -> Entry | None:
        """What there is under a path, with what this writer has taken; its payload may be `None`."""

    def put(self, items: Sequence[Item]) -> None:
        """Take a batch; when one item can't be stored, none of the batch is."""

    def commit(self) -> None:
        """What was taken is there, durably, when this returns."""


class Store(ABC):
    """A source of records and a sink for results: a directory, an LMDB database, an archive."""

    #: How values become bytes.
    codec: Codec
    #: Whether there is metadata beside the value.
    has_metadata: bool
    #: Results after which `write` commits by itself, where it is not told when; None: at its end.
    commits_every: int | None = None

    @abstractmethod
    def _entries(self) -> Iterator[Entry]:
        """All that is stored, in the store's order, without holding more than one entry."""

    def _find(self, path: Path) -> Entry | None:
        """What is under a path; `None` where nothing is. An error for what can't be a key."""
        raise NotImplementedError

    @abstractmethod
    def _load(self, key: Any) -> Any:
        """The value that a `StoredPayload` means by its key."""

    @abstractmethod
    def _writing(self) -> AbstractContextManager[Writer]:
        """A writer for one run; leaving the block with an error drops what was not committed, as far as that goes."""


@public
class StoredPayload:
    """A value in a store, to be read where and when it is needed: `read()`, or `numpy.asarray(payload)` for arrays.

    It holds no data. It goes wherever the store's files can be seen, and opens them there.
    """

    __slots__ = ("key", "store")

    def __init__(self, store: Store, key: Any) -> None:
        self.store, self.key = store, key

    def read(self) -> Any:
        """Read the value.

        Raises:
            NoSuchKeyError: It is not there any more.
            DamagedStoreError: Its bytes can't be read.
        """
        return self.store._load(self.key)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.read(), dtype) if copy else np.asarray(self.read(), dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredPayload):
            return NotImplemented
        return (self.store, self.key) == (other.store, other.key)

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<{self.key!r} in {self.store!r}>"


def as_item(name: str, store: Store, path: Path, attributes: Mapping[str, Any], output: str) -> Item:
    """How the attributes of a record are stored.

    Where the store has metadata and JSON can hold all attributes but the output, the output is the value and they are
    metadata. Else the value is a dict of all of them.
    """
    has_output = output in attributes
    if has_output:
        others = {attribute: value for attribute, value in attributes.items() if attribute != output}
        metadata = json_metadata(others) if store.has_metadata else None
        if metadata is not None:
            return Item(path, attributes[output], metadata)
    if store.codec.holds_mappings:
        return Item(path, dict(attributes), None)
    if has_output and not others:
        return Item(path, attributes[output], None)
    where = f"{name}: the record at {as_text(path)}"
    if not has_output:
        raise CodecError(
            f'{where} has no output ({output!r}), and codec "{store.codec.name}" can hold nothing else; codec "pickle" '
            f"holds all its attributes"
        )
    why = "JSON can't hold exactly" if store.has_metadata else "have no place in this store"
    raise CodecError(f'{where} has attributes that {why}: {", ".join(map(repr, others))}; codec "pickle" holds them')


def as_attributes(name: str, path: Path, metadata: Mapping[str, Any] | None, value: Any, output: str) -> dict[str, Any]:
    """The attributes of a record, from what is stored: the inverse of `as_item`."""
    if metadata is None and isinstance(value, Mapping):
        return dict(value)
    if metadata is not None and output in metadata:
        raise ArgumentError(
            f"{name}: the metadata of {as_text(path)} has {output!r}, which is what its value is to be called; choose "
            f"another output_attribute"
        )
    return {**(metadata or {}), output: value}


def no_such_key(store: Store, key: object) -> NoSuchKeyError:
    """The error for a key that is not there."""
    return NoSuchKeyError(f"{store!r} has nothing under {key!r}")
