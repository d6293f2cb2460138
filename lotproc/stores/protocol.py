"""The protocol of stores: what each of them is, as a source of records and as a sink for results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from .._public import public
from .._reprs import short
from ..errors import ArgumentError, CodecError, NoSuchKeyError, ReadOnlyStoreError, as_text
from .codecs import NAMED, Codec, json_metadata

__all__ = [
    *("OUTPUT", "Item", "Store", "StoredPayload", "StoredRecord", "Writer"),
    *("as_attributes", "as_item", "no_such_key"),
]

S = TypeVar("S", bound="Store")

Path: TypeAlias = "tuple[str, ...]"

#: What the value is called among the attributes of a record, unless it is told.
OUTPUT = "result"


class Item(NamedTuple):
    """What is to be stored under a path.

    Args:
        path: The keys of the record.
        value: The value.
        metadata: What is known of it; `None` where there is nothing, which is not the same as an empty dict.
    """

    path: Path
    value: Any
    metadata: Mapping[str, Any] | None


class StoredRecord(NamedTuple):
    """What is stored under a path.

    Args:
        path: The keys of the record.
        metadata: What is known of it; `None` where there is nothing.
        load: Reads the value; to be called before the next record is asked for, or not at all.
        payload: The value, to be read wherever and whenever; `None` where it is not in a store yet.
    """

    path: Path
    metadata: Mapping[str, Any] | None
    load: Callable[[], Any]
    payload: StoredPayload | None


class Writer(Protocol):
    """Takes items; what it has taken shows in the store from `commit` on, or earlier.

    One that finds many at once has `find_many` as well: what `find` gives for each of some paths, in a list.
    """

    def find(self, path: Path) -> StoredRecord | None:
        """What there is under a path, with what this writer has taken; its payload may be `None`."""

    def put(self, items: Sequence[Item]) -> None:
        """Take a batch, in place of what is there; when one item can't be stored, none of the batch is."""

    def commit(self) -> None:
        """What was taken is there, durably, when this returns."""


@public
class Store(ABC):
    """A source of records and a sink for results: what every store is, and what one of your own has to be.

    `DirectoryStore`, `LmdbStore` and `Archive` are stores. Whatever takes one of them, such as `records`, `write`,
    `pending` and `copy`, calls what is here and nothing else of it. One of your own has `records`, `find` and
    `writing`, and overrides what it can do better; `lotproc.testing` has the tests that it should pass.

    A path is a tuple of str. The empty one, of the root's record, is a path, too.
    """

    #: How values become bytes, and what values the store can hold.
    #:
    #: :meta hide-value:
    codec: Codec = NAMED["pickle"]
    #: Whether there is metadata beside the value. Where there is none, a result is stored as a dict.
    has_metadata: bool = False
    #: Whether records can be deleted.
    can_delete: bool = False
    #: Results after which `write` commits by itself, where it is not told when; with `None` at its end.
    commits_every: int | None = None

    @abstractmethod
    def records(self) -> Iterator[StoredRecord]:
        """All that is stored, each path once, in the store's order, without holding more than one record."""

    @abstractmethod
    def find(self, path: Path) -> StoredRecord | None:
        """What is under a path; `None` where nothing is.

        Raises:
            ArgumentError, ArgumentTypeError: It can't be one of this store's.
        """

    @abstractmethod
    def writing(self) -> AbstractContextManager[Writer]:
        """A writer for one run; leaving the block with an error drops what was not committed, as far as that goes.

        Raises:
            ReadOnlyStoreError: The store was opened for reading.
        """

    def load(self, key: Any) -> Any:
        """The value that a `StoredPayload` of this store means by its key: the path, unless the store has better ones.

        Raises:
            NoSuchKeyError: It is not there any more.
            DamagedStoreError: Its bytes can't be read.
        """
        found = self.find(key)
        if found is None:
            raise no_such_key(self, key)
        return found.load()

    def find_many(self, paths: Iterable[Path]) -> Iterator[StoredRecord | None]:
        """What is under each of some paths, as `find` gives it; each to be used before the next is asked for."""
        return map(self.find, paths)

    def delete_many(self, paths: Iterable[Path]) -> None:
        """Delete what is under some paths, with its metadata; a path with nothing under it is passed over.

        Raises:
            ReadOnlyStoreError: Nothing can be deleted from this store (`can_delete` says so), or not now.
        """
        raise ReadOnlyStoreError(f"{self!r}: what is stored there can't be deleted")

    def paths(self) -> Iterator[Path]:
        """The paths of all records, each once, in the store's order."""
        return (record.path for record in self.records())

    def __len__(self) -> int:
        """How many records there are; where nothing can be deleted, those that were replaced may count, too."""
        return sum(1 for _ in self.paths())

    def is_below(self, other: Store) -> bool:
        """Whether what is written here shows in the other store, too: it is the same one, or this is a part of it."""
        return self == other

    def close(self) -> None:  # noqa: B027
        """End the use of the store; what was written in it is kept."""

    def _repr_html_(self) -> str:
        from .._html import Text, card, pairs  # here, since a worker shows nothing

        beside = Text("beside the values" if self.has_metadata else "none")
        return card("store", repr(self), pairs([("codec", Text(self.codec.name)), ("metadata", beside)]))

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


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
        return self.store.load(self.key)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.read(), dtype) if copy else np.asarray(self.read(), dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredPayload):
            return NotImplemented
        return (self.store, self.key) == (other.store, other.key)

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<{short(self.key)} in {self.store!r}>"

    def _repr_html_(self) -> str:
        from .._html import card, escaped

        return card("StoredPayload", short(self.key), f"<div>in {escaped(repr(self.store))}</div>")


def as_item(name: str, store: Store, path: Path, attributes: Mapping[str, Any], output: str) -> Item:
    """How the attributes of a record are stored.

    Where the store has metadata and JSON can hold all attributes but the output, the output is the value and they are
    metadata. Else the value is a dict of all of them.
    """
    has_output = output in attributes
    if has_output and store.has_metadata:
        metadata = json_metadata({name: value for name, value in attributes.items() if name != output})
        if metadata is not None:
            return Item(path, attributes[output], metadata)
    if store.codec.holds_mappings:
        return Item(path, dict(attributes), None)
    if has_output and len(attributes) == 1:
        return Item(path, attributes[output], None)
    where = f"{name}: the record at {as_text(path)}"
    if not has_output:
        raise CodecError(
            f'{where} has no output ({output!r}), and codec "{store.codec.name}" can hold nothing else',
            hint='codec "pickle" holds all its attributes',
        )
    why = "JSON can't hold exactly" if store.has_metadata else "have no place in this store"
    raise CodecError(
        f"{where} has attributes that {why}: {', '.join(repr(name) for name in attributes if name != output)}",
        hint='codec "pickle" holds them',
    )


def as_attributes(name: str, path: Path, metadata: Mapping[str, Any] | None, value: Any, output: str) -> dict[str, Any]:
    """The attributes of a record, from what is stored: the inverse of `as_item`."""
    if metadata is None and isinstance(value, Mapping):
        return dict(value)
    if metadata is not None and output in metadata:
        raise ArgumentError(
            f"{name}: the metadata",
            f"has {output!r}, which is what its value is to be called",
            path=path,
            hint="choose another output_attribute",
        )
    return {**(metadata or {}), output: value}


def no_such_key(store: Store, key: object, hint: str | None = None) -> NoSuchKeyError:
    """The error for a key that is not there."""
    return NoSuchKeyError(f"{store!r} has nothing under {key!r}", hint=hint)
