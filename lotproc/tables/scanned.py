"""What `scan` gives: an iterator of records, which is a table, too, to whatever reads streams of Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .._extras import needed
from .._html import block, escaped
from .._showing import AT_END, Trail, trail_html
from .._stage import until_closed
from ..errors import ArgumentError
from ..models import NodeRecord
from ..zodb.pinned import PinnedStorage
from .arrow import stream_of
from .levels import Levels
from .payload_columns import Statistics, described, described_names

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Scanned", "as_columns", "levels_for"]


#: Names that its repr shows.
SHOWN = 5


class Scanned(Iterator[NodeRecord]):
    """The records of a scan; and the same scan, begun anew, as record batches of Arrow.

    Args:
        storage: The records of the database.
        read: What scans them: a function from a storage, and whether pieces of blocks are wanted in place of records.
        names: The attributes that each record has, as far as they are known.
        takes_all: Whether each has all others of its node as well.
        levels: What the columns of the levels are called in a table.
    """

    def __init__(
        self,
        storage: PinnedStorage,
        read: Callable[[PinnedStorage, bool], Iterator[Any]],
        names: Sequence[str],
        *,
        takes_all: bool,
        levels: Levels,
    ) -> None:
        self._storage, self._read, self.names, self._takes_all = storage, read, names, takes_all
        self.levels = levels
        self._items: Any = None  # once it is begun
        #: Lets go of the storage, if that is needed, at the end, or where this is dropped before.
        self._held: Any = until_closed(iter(()), storage.close) if storage.must_close else None
        self._schema: pa.Schema | None = None
        #: What the stage says of it.
        self.trail: Trail | None = None

    def __repr__(self) -> str:
        names = [*(["all attributes"] if self._takes_all else []), *map(repr, self.names)] or ["no attributes"]
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        state = AT_END if self.is_at_end else ", not begun" if self._items is None else ", begun"
        return f"<scan of {', '.join(names[:SHOWN])}{more}{state}>"

    def _repr_html_(self) -> str:
        return trail_html(self.trail, is_at_end=self.is_at_end) if self.trail else block(escaped(repr(self)))

    @property
    def is_at_end(self) -> bool:
        """Whether all records were given, or it was closed."""
        return self._items is not None and self._items.gi_frame is None

    def __iter__(self) -> Iterator[NodeRecord]:
        return self

    def __next__(self) -> NodeRecord:
        item: NodeRecord = next(self._items or self._begun(False))
        return item

    def close(self) -> None:
        """End the scan."""
        (self._items or self._begun(False)).close()

    def pieces(self) -> Iterator[Any]:
        """The rest of the records; if none was given so far, pieces of blocks in place of all that can be in them."""
        items: Iterator[Any] = self._items or self._begun(True)
        return items

    def _begun(self, in_blocks: bool) -> Any:
        """The items, of which none was given so far."""
        items, held = self._read(self._storage, in_blocks), self._held
        self._items = items if held is None else until_closed(items, held.close)
        self._held = None
        return self._items

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The same scan, of the same transaction and from its beginning, as a stream of Arrow's record batches."""
        needed("pyarrow", "arrow", "a scan that is read as a table")
        if not hasattr(self._storage.db, "_mvcc_storage"):  # which ZODB takes away when it closes
            raise ArgumentError("scan: the database is closed", hint="open it again, and scan anew")
        storage = self._storage.again()
        items = self._read(storage, True)
        if storage.must_close:
            items = until_closed(items, storage.close)
        stream = stream_of("scan", items, self.names, self._schema, self.levels)
        self._schema = stream.schema
        return stream.__arrow_c_stream__(requested_schema)


def as_columns(
    name: str, records: Iterable[Any], levels: Levels, statistics: Statistics
) -> tuple[Iterable[Any], Sequence[str], Levels]:
    """The same records, the attributes that all of them have, if that is known, and the names of levels.

    Pieces of blocks in place of those of a scan that is not begun, unless arrays in them are to be described.
    """
    levels = levels_for(records, levels)
    names = records.names if isinstance(records, Scanned) else ()
    if statistics:
        return described(name, records, statistics), described_names(names, statistics), levels
    return (records.pieces() if isinstance(records, Scanned) else records), names, levels


def levels_for(records: Iterable[Any], levels: Levels) -> Levels:
    """The names of levels that were given, or else those of the scan that the records are."""
    return records.levels if levels is None and isinstance(records, Scanned) else levels
