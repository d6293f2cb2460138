"""Names of attributes that nothing in a stream had: a warning at its end, also where the stream runs in parts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Literal, NamedTuple, TypeAlias

from .errors import ArgumentError, as_text, other_form, warn

__all__ = ["REMEMBERED", "Missing", "Note", "Notes", "Sought", "noting", "tell", "tell_all"]

#: What becomes of a name that a node has not: a warning if none had it; or an error.
Missing: TypeAlias = Literal["warn", "error"]

#: Nodes whose names are remembered, and names, to say which comes near to one that none of them had.
LOOKED, REMEMBERED = 1000, 1000
#: Names that a warning shows.
SHOWN = 10


class Note(NamedTuple):
    """What a stream, or a part of one, found of the names that it looked for.

    Args:
        stage: The stage that looked.
        names: These names.
        missing: Those of them that nothing had.
        others: Names that there were besides.
        is_part: Whether it saw only a part of what there is.
        said: What is said of those that are missing.
    """

    stage: str
    names: frozenset[str]
    missing: frozenset[str]
    others: frozenset[str]
    is_part: bool = False
    said: str = "no node had an attribute"


class Sought:
    """Looks for names of attributes in a stream, and tells at its end which of them nothing had.

    Args:
        stage: The stage, for the warning.
        names: The names.
        missing: "error" raises one for the first that has not all of them.
        is_part: Whether the stream is only a part of one.
        said: What is said of those that are missing, if it is something else.
    """

    def __init__(
        self,
        stage: str,
        names: Iterable[str],
        missing: Missing = "warn",
        *,
        is_part: bool = False,
        said: str = "no node had an attribute",
    ) -> None:
        self._stage, self._names, self._is_part, self._said = stage, frozenset(names), is_part, said
        self._raises = missing == "error"
        #: Those to look for: the ones that nothing had so far, or all where each has to have them.
        self.wanted = set(self._names)
        self._others: set[str] = set()
        self._looked = 0

    def look(self, there: Collection[str], path: Iterable[str]) -> None:
        """Look among the names of the attributes of a node; where nothing is `wanted` there is no need to."""
        absent = {name for name in self.wanted if name not in there}
        if self._raises:
            if absent:
                what = f"{self._stage}: {as_text(path)} has no attribute {_said(sorted(absent), there)}"
                hint = 'leave it out of the names, or give missing="warn" where not every node has it'
                raise ArgumentError(what, hint=hint)
            return
        self._looked += 1
        if len(absent) < len(self.wanted):
            self.wanted &= absent
        self.remember(there)

    def remember(self, there: Iterable[str]) -> None:
        """Remember the names of attributes that there are, for as long as some are wanted."""
        if self.wanted and self._looked <= LOOKED and len(self._others) < REMEMBERED:
            self._others.update(there)

    def end(self, but: Collection[str] = ()) -> None:
        """The stream was read to its end: tell what nothing in it had, but these names."""
        if self._looked and not self._raises:
            missing = self.wanted.difference(but)
            others = frozenset(self._others)
            tell(Note(self._stage, self._names, frozenset(missing), others, self._is_part, self._said))


class Notes(dict[object, Note]):
    """What was noted, without what says nothing new: a stream in a million parts leaves one note."""

    def add(self, note: Note) -> None:
        """Take up a note; parts of one stream come together."""
        if not note.is_part:
            self[note] = note
            return
        key = note.stage, note.names
        other = self.get(key, note)
        self[key] = note._replace(missing=note.missing & other.missing, others=note.others | other.others)

    def add_parts(self, notes: Iterable[Note]) -> None:
        """Take up what was noted in a part of a stream."""
        for note in notes:
            self.add(note._replace(is_part=True))


_noted: ContextVar[Notes | None] = ContextVar("_noted", default=None)


@contextmanager
def noting() -> Iterator[Notes]:
    """Gather what is told inside, for `tell_all` to tell later, or elsewhere."""
    notes = Notes()
    token = _noted.set(notes)
    try:
        yield notes
    finally:
        _noted.reset(token)


def tell(note: Note) -> None:
    """Warn of names that nothing had; not yet where notes are gathered, and not by a part alone."""
    notes = _noted.get()
    if notes is not None:
        notes.add(note)
    elif note.missing and not note.is_part:
        missing = sorted(note.missing)
        more = f" and {len(missing) - SHOWN:,} more" if len(missing) > SHOWN else ""
        warn(f"{note.stage}: {note.said} {_said(missing[:SHOWN], note.others)}{more}")


def tell_all(notes: Notes) -> None:
    """Tell what was gathered; the parts of a stream are whole now."""
    for note in notes.values():
        tell(note._replace(is_part=False))


def _said(names: list[str], others: Iterable[str]) -> str:
    """Names, each with the one that comes nearest to it."""
    near = {
        name: get_close_matches(name, [other for other in others if isinstance(other, str)], 1, 0) for name in names
    }
    return ", ".join(
        f"{name!r} (the nearest that there was is {near[name][0]!r}{other_form(near[name], [name])})"
        if near[name]
        else repr(name)
        for name in names
    )
