"""Which transaction a moment is, and whether the storage still has what was there then."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, TypeAlias

from persistent.TimeStamp import TimeStamp
from ZODB.utils import p64, u64, z64

from .._nodes import plain_file, unwrapped
from ..commits import Commit
from ..errors import ArgumentError, ArgumentTypeError, got
from .pinned import PinnedStorage, pinned_view, view_of

__all__ = ["Moment", "check_seen", "checked_moment", "first_after", "pinned_then"]

#: A transaction's id, as ZODB's 8 bytes, what `history` gives of it, or a time with its zone.
Moment: TypeAlias = "bytes | datetime | Commit"


def checked_moment(name: str, argument: str, moment: Any) -> bytes | datetime | None:
    """The id of a transaction, or a time, if it is given; refuse what is neither."""
    if moment is None:
        return None
    if isinstance(moment, Commit):
        moment = moment.transaction
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            hint = f"give it a zone: {argument}=datetime(..., tzinfo=timezone.utc)"
            raise ArgumentError(f"{name}: {argument}", expected="a time with its zone", got=got(moment), hint=hint)
    elif type(moment) is not bytes or len(moment) != 8:
        raise ArgumentTypeError(
            f"{name}: {argument}",
            expected="the id of a transaction, 8 bytes, a Commit of history(), or a datetime with its zone",
            got=got(moment),
            hint="transaction_of(root) gives the id of the one that is seen now",
        )
    return moment  # type: ignore[no-any-return]


def first_after(moment: bytes | datetime) -> bytes:
    """The first id that no transaction up to a moment has."""
    if isinstance(moment, bytes):
        following: bytes = p64(u64(moment) + 1)
        return following
    # All of its microsecond belongs to it, since times of commits are told in these.
    utc = moment.astimezone(timezone.utc) + timedelta(microseconds=1)
    stamp: bytes = TimeStamp(
        utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second + utc.microsecond / 1e6
    ).raw()
    return stamp


def check_seen(name: str, argument: str, moment: bytes | datetime, view: bytes, *, is_now: bool = True) -> None:
    """Refuse a moment that is later than what is read, up to a transaction that is not.

    Args:
        is_now: What is read is what a connection sees now, not what was there at a moment that was given.
    """
    if first_after(moment) > view and (isinstance(moment, bytes) or moment > datetime.now(timezone.utc)):
        newer = "begin a transaction there (connection.sync(), or abort what is begun), or "
        hint = f"{newer if is_now else ''}give an earlier one"
        raise ArgumentError(f"{name}: {argument}", "is later than what is read", got=got(moment), hint=hint)


def pinned_then(name: str, root: Any, at: bytes | datetime | None) -> PinnedStorage:
    """The records that the connection of a saved node sees, or saw then; to be closed.

    Raises:
        ArgumentError: That is later than what it sees, or no more there, or the node was not there yet.
    """
    connection = root._p_jar
    if at is None:
        return pinned_view(connection)
    view, before = view_of(connection), first_after(at)
    check_seen(name, "at", at, view)
    storage = connection.db().storage
    packed = _last_packed(storage)
    if packed is None or before <= packed:
        why = "keeps no history" if packed is None else "was packed: what was there before is gone"
        raise ArgumentError(
            f"{name}: at", f"can't be had: the {type(unwrapped(storage)).__qualname__} {why}", got=got(at)
        )
    pinned = pinned_view(connection, min(before, view))
    try:
        pinned.load(root._p_oid)
    except Exception as error:
        pinned.close()
        raise ArgumentError(
            f"{name}: {root.key!r} was not there at {got(at)}, or that is no longer known",
            hint="history(root) lists what was committed since",
        ) from error
    return pinned


def _last_packed(storage: Any) -> bytes | None:
    """The last transaction that a pack has gone through, as far as it can be told; `None` where no history is kept."""
    if getattr(storage, "keep_history", True) is False:  # RelStorage says so
        return None
    last: bytes = z64
    if plain_file(storage) is not None:
        transactions = unwrapped(storage).iterator()
        try:
            for transaction in transactions:
                if transaction.status != "p":
                    break
                last = transaction.tid
        finally:
            getattr(transactions, "close", bool)()
    return last
