"""Two streams compared by path: what was added, removed and changed between them (`diff`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, overload

from ._items import no_item
from ._nodes import out_of_order
from ._public import public
from ._reprs import bounded_repr
from ._stage import check_items, stage
from ._stamps import digest_of
from .errors import as_text, brief
from .models import MOST_ATTRIBUTES, Failure, NodeRecord

__all__ = ["Change", "diff"]

Kind: TypeAlias = Literal["added", "removed", "changed"]

#: What the name of a payload is, where it differs.
PAYLOAD = "payload"
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
#: Values of these types that are equal have the same digest; but for 0.0, which equals -0.0.
_PLAIN = frozenset((str, int, bool, bytes, float, type(None)))


@public
@dataclass(frozen=True)
class Change:
    """What became of the record at one path, as `diff` gives it.

    >>> from lotproc import Change, NodeRecord
    >>> before, after = (NodeRecord(("ann",), "ann", {"age": age}) for age in (30, 31))
    >>> print(Change(("ann",), "changed", before, after, ("age",)))
    ~ ann: age 30 -> 31

    Args:
        path: The path.
        kind: "added", "removed" or "changed".
        before: The record as it was; `None` for an added one.
        after: The record as it is; `None` for a removed one.
        names: The attributes that differ, sorted; with "payload" behind them if that does.
    """

    path: tuple[str, ...]
    kind: Kind
    before: NodeRecord | None
    after: NodeRecord | None
    names: tuple[str, ...] = ()

    @property
    def attributes(self) -> dict[str, Any]:
        """What a table of changes shows beside the path."""
        return {"kind": self.kind, "names": ", ".join(self.names)}

    def __str__(self) -> str:
        what = f"{_SIGNS[self.kind]} {as_text(self.path)}"
        if self.before is None or self.after is None:
            return what
        told = (f"{name} {_told(self.before, name)} -> {_told(self.after, name)}" for name in self.names)
        return f"{what}: {', '.join(told)}"

    __repr__ = bounded_repr

    def _repr_html_(self) -> str:
        from ._html import card, cell, escaped, grid

        sides = [record for record in (self.before, self.after) if record is not None]
        names = self.names or tuple(sides[0].attributes)
        rows = [
            [escaped(name), *(cell(record.attributes.get(name, record.payload), is_drawn=False) for record in sides)]
            for name in names[:MOST_ATTRIBUTES]
        ]
        heads = ["", *(side for side in ("before", "after") if getattr(self, side) is not None)]
        return card(f"Change: {self.kind}", as_text(self.path), grid(heads, rows))


def _told(record: NodeRecord, name: str) -> str:
    if name in record.attributes:
        return brief(record.attributes[name])
    return brief(record.payload) if name == PAYLOAD else "absent"


@overload
def diff(before: Iterable[NodeRecord | Failure], after: Iterable[NodeRecord | Failure]) -> Iterator[Change]: ...
@overload
def diff(
    before: Iterable[NodeRecord | Failure],
) -> Callable[[Iterable[NodeRecord | Failure]], Iterator[Change]]: ...
@stage("after", stream="before")
def diff(before: Iterable[Any]) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """Compare two streams of records: what was added, removed or changed from the one to the other.

    >>> from lotproc import NodeRecord, diff
    >>> def records(**seconds):
    ...     return [NodeRecord((key,), key, {"seconds": s}) for key, s in seconds.items()]
    >>> before = records(a=1.0, b=2.0, c=float("nan"))
    >>> after = records(b=2.5, c=float("nan"), d=1.0)
    >>> for change in diff(before, after):
    ...     print(change)
    - a
    ~ b: seconds 2.0 -> 2.5
    + d

    The tree then and now: `diff(scan(..., root, at=then, skip="_proc"), scan(..., root, skip="_proc"))`. Without
    `skip`, a clip below which results were written since is no leaf any more, and told as removed.

    Args:
        before: Records in the order of paths; an iterator can be used once, and is closed with what this returns.
        after: The same, to be compared with them. A `Failure` on either side is handed on.

    Returns:
        An iterator of `Change`s, in the order of paths, of which `to_dataframe` makes a table. Values are compared by
        their digests, as those of `pending(..., inputs=True)` are: by type and to the bit, in which one NaN is like the
        other; handles by what they say of their payloads. Lazy; holds one record of each side.

    Raises:
        ArgumentError: A side is not in the order of paths, or has a path twice; names the path.
        ArgumentTypeError: Something came that is no record, or a value has no digest; names path and attribute.
    """
    check_items("diff", "before", before)

    def run(after: Iterable[Any]) -> Iterator[Any]:
        left, right = _in_order("before", before), _in_order("after", after)
        old: Any = next(left, None)
        new: Any = next(right, None)
        while old is not None or new is not None:
            if type(old) is Failure:
                yield old
                old = next(left, None)
            elif type(new) is Failure:
                yield new
                new = next(right, None)
            elif new is None or (old is not None and old.path < new.path):
                yield Change(old.path, "removed", old, None)
                old = next(left, None)
            elif old is None or new.path < old.path:
                yield Change(new.path, "added", None, new)
                new = next(right, None)
            else:
                names = _differing(old, new)
                if names:
                    yield Change(new.path, "changed", old, new, names)
                old, new = next(left, None), next(right, None)

    return run


def _in_order(side: str, records: Iterable[Any]) -> Iterator[Any]:
    last: tuple[str, ...] | None = None
    for record in records:
        if not isinstance(record, (NodeRecord, Failure)):
            raise no_item(f"diff: {side}", record, "a NodeRecord")
        if type(record) is not Failure:
            if last is not None and record.path <= last:  # type: ignore[operator]
                raise out_of_order(f"diff: {side}: the record", record.path, last)  # type: ignore[arg-type]
            last = record.path
        yield record


def _differing(old: NodeRecord, new: NodeRecord) -> tuple[str, ...]:
    names = sorted(old.attributes.keys() | new.attributes.keys())
    differing = [
        name
        for name in names
        if (name in old.attributes) is not (name in new.attributes)
        or not _alike(new.path, name, old.attributes.get(name), new.attributes.get(name))
    ]
    if not _alike(new.path, PAYLOAD, old.payload, new.payload):
        differing.append(PAYLOAD)
    return tuple(differing)


def _alike(path: tuple[str, ...], name: str, old: Any, new: Any) -> bool:
    if type(old) is not type(new):
        return False
    if type(old) in _PLAIN and old == new and old:
        return True
    return digest_of("diff", path, {name: old}) == digest_of("diff", path, {name: new})
