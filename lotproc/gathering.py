"""Records of one branch gathered into one record, to be worked on as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

from ._nodes import attributes_of, out_of_order
from ._stage import check_count, check_record, stage
from .errors import ArgumentError
from .models import Failure, NodeRecord

__all__ = ["gather"]

#: The attribute that the paths of the members are in.
PATHS = "paths"
#: LMDB sorts "a-1/x" before "a/x", and an archive has what was written first first.
SORTED = "sort what is no tree: sorted(records, key=lambda record: record.path)"


@overload
def gather(by: int, records: Iterable[NodeRecord | Failure]) -> Iterator[NodeRecord]: ...
@overload
def gather(by: int) -> Callable[[Iterable[NodeRecord | Failure]], Iterator[NodeRecord]]: ...
@stage("records")
def gather(by: int) -> Callable[[Iterable[NodeRecord]], Iterator[NodeRecord]]:
    """Make one record of all that have the same first keys in their paths: of a speaker's clips, the speaker.

    >>> from lotproc import NodeRecord, gather
    >>> first = NodeRecord(("ann", "1"), "1", {"f0": 210.0})
    >>> second = NodeRecord(("ann", "2"), "2", {"f0": 190.0})
    >>> for speaker in gather(1, [first, second]):
    ...     print(speaker.path, speaker.attributes)
    ('ann',) {'f0': [210.0, 190.0], 'paths': [('ann', '1'), ('ann', '2')]}

    What works on records works on these: `each`, `outputs`, `write`, and `pending(..., inputs=True)` behind it, for
    which a speaker is pending when a clip of his has changed, has come or is gone.

    Args:
        by: How many keys of the path, at least 1. A record whose path is shorter is gathered by its whole path.
        records: Records, sorted by path, as all that reads a tree gives them. Partitions may part a branch: give whole
            trees to `scan`, or gather what comes back from the workers.

    Returns:
        An iterator of records, in order. The path of one is what its members' paths begin with; its attributes are
        lists of the members' values, in the members' order, with `None` where a member lacks an attribute, and `paths`,
        the list of the members' paths; its payload is the list of theirs, `None` where none has one. A `Failure` is
        handed on when it comes, before the record of the members around it, which is made without it. Lazy; holds the
        members of one record, and the record after them.

    Raises:
        ArgumentError: `by` is less than 1; the records are not in the order of paths; a record has an attribute
            `paths`; or it has been through `pending(..., inputs=True)`, behind which members may be missing.
        ArgumentTypeError: Something came that is no record.
    """
    check_count("gather", "by", by)

    def run(records: Iterable[Any]) -> Iterator[Any]:
        members: list[NodeRecord] = []
        group: tuple[str, ...] = ()
        for record in records:
            if type(record) is Failure:
                yield record
                continue
            _check(record)
            prefix = record.path[:by]
            if members and prefix != group:
                if prefix < group:
                    raise out_of_order("gather: the record", record.path, members[-1].path, SORTED)
                yield _gathered(group, members)
                members = []
            group = prefix
            members.append(record)
        if members:
            yield _gathered(group, members)

    return run


def _check(record: Any) -> None:
    check_record("gather", record, "behind which others of its branch may be missing")
    if PATHS in attributes_of("gather", record):
        raise ArgumentError(
            "gather: the record",
            f"has an attribute {PATHS!r}, which is where the paths of the members go",
            path=record.path,
            hint="rename it, or leave it out of the names",
        )


def _gathered(path: tuple[str, ...], members: list[NodeRecord]) -> NodeRecord:
    names = dict.fromkeys(name for member in members for name in member.attributes)
    attributes: dict[str, Any] = {name: [member.attributes.get(name) for member in members] for name in names}
    attributes[PATHS] = [member.path for member in members]
    payload = [member.payload for member in members]
    has_any = any(one is not None for one in payload)
    return NodeRecord(path, path[-1] if path else members[0].key, attributes, payload if has_any else None)
