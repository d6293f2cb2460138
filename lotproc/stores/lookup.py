"""Whether results are in a store, and with which stamps: what `zodb.lookup` does for trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from .._stamps import INPUTS, VERSION, is_inputs_stamp
from .protocol import Store, StoredRecord

__all__ = ["StoreLookup", "stamps_of"]

_Path: TypeAlias = "tuple[str, ...]"


class StoreLookup:
    """Looks for results in a store. A value is read only where stamps are asked for and there is no metadata."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def are_there(
        self, paths: Sequence[_Path], tail: _Path = (), version: str | None = None, digests: Sequence[str] | None = None
    ) -> list[bool]:
        """As `Lookup` says."""
        found = []
        for index, entry in enumerate(self._store.find_many(path + tail for path in paths)):
            is_there = entry is not None
            if entry is not None and (version is not None or digests is not None):
                stamps = stamps_of(entry)
                is_there = (version is None or stamps.get(VERSION) == version) and (
                    digests is None or is_inputs_stamp(stamps.get(INPUTS), digests[index])
                )
            found.append(is_there)
        return found

    def attributes_at(
        self, paths: Sequence[_Path], tail: _Path, names: frozenset[str], since: bytes | None = None
    ) -> tuple[list[Any], list[bool]]:
        """The stamps of the records at these paths, each with the tail behind it; `None` where none is.

        What is new is not known.
        """
        entries = self._store.find_many(path + tail for path in paths)
        found = [None if entry is None else stamps_of(entry) for entry in entries]
        return found, [False] * len(found)

    def close(self) -> None:
        """Nothing is held."""


def stamps_of(entry: StoredRecord) -> dict[str, Any]:
    """The stamps that are stored with a record, by name."""
    attributes = entry.load() if entry.metadata is None else entry.metadata
    if not isinstance(attributes, Mapping):
        return {}
    return {name: attributes[name] for name in (VERSION, INPUTS) if name in attributes}
