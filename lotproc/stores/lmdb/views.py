"""What `keys`, `values` and `items` of an LMDB store return: lazy, and of all keys or of some ranges of them."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import TYPE_CHECKING, Any

from .keys import Range

if TYPE_CHECKING:
    from .reading import LmdbReading

__all__ = ["LmdbItemsView", "LmdbKeysView", "LmdbValuesView"]


class _Ranged:
    """Some keys of a store, in one order.

    Args:
        store: The store.
        ranges: Where the keys are, ascending.
        reverse: Whether the last one comes first.
    """

    _mapping: LmdbReading

    def __init__(self, store: LmdbReading, ranges: list[Range], reverse: bool) -> None:
        self._mapping = store
        self._ranges, self._reverse = ranges, reverse

    def __len__(self) -> int:
        if self._ranges == [(b"", None)]:
            return len(self._mapping)
        return sum(map(len, self._mapping._chunks(self._ranges, self._reverse, values=False)))

    def _has(self, key: Any) -> bool:
        data = self._mapping._form.to_bytes(key)
        is_in = any(first <= data and (stop is None or data < stop) for first, stop in self._ranges)
        return is_in and data in self._mapping

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._mapping!r}>"


class LmdbKeysView(_Ranged, KeysView[Any]):
    """Keys of an LMDB store."""

    def __contains__(self, key: object) -> bool:
        return self._has(key)

    def __iter__(self) -> Iterator[Any]:
        return self._mapping._iterate(self._ranges, self._reverse, "keys")

    def __reversed__(self) -> Iterator[Any]:
        return self._mapping._iterate(self._ranges, not self._reverse, "keys")


class LmdbValuesView(_Ranged, ValuesView[Any]):
    """Values of an LMDB store, in the order of their keys."""

    def __contains__(self, value: object) -> bool:
        return any(value is found or value == found for found in self)

    def __iter__(self) -> Iterator[Any]:
        return self._mapping._iterate(self._ranges, self._reverse, "values")

    def __reversed__(self) -> Iterator[Any]:
        return self._mapping._iterate(self._ranges, not self._reverse, "values")


class LmdbItemsView(_Ranged, ItemsView[Any, Any]):
    """Pairs of a key and its value of an LMDB store."""

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2 or not self._has(item[0]):
            return False
        missing = object()
        found = self._mapping.get(item[0], missing)
        return found is not missing and (found is item[1] or found == item[1])

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._iterate(self._ranges, self._reverse, "items")

    def __reversed__(self) -> Iterator[tuple[Any, Any]]:
        return self._mapping._iterate(self._ranges, not self._reverse, "items")
