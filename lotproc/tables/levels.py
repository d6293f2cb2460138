"""The columns of a table that hold the keys of a path: TreeLevel_1 and so on, or by names of the user's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from ..errors import ArgumentError, ArgumentTypeError, as_utf8, got

__all__ = ["LEVEL", "LevelNames", "Levels", "check_depth", "checked_levels", "in_order", "level_names", "levels_of"]

Path: TypeAlias = "tuple[str, ...]"
#: How names of levels are given, and what is made of them.
LevelNames: TypeAlias = "str | Sequence[str] | None"
Levels: TypeAlias = "tuple[str, ...] | None"

LEVEL = re.compile(r"TreeLevel_([1-9][0-9]*)")


def checked_levels(name: str, levels: LevelNames) -> Levels:
    """Refuse what can't be the names of columns."""
    if levels is None:
        return None
    names = (levels,) if isinstance(levels, str) else tuple(levels) if isinstance(levels, (list, tuple)) else ()
    if not names or not all(isinstance(level, str) for level in names):
        expected = "a name for each level, from the top down"
        raise ArgumentTypeError(f"{name}: levels", expected=expected, got=got(levels))
    if len(set(names)) < len(names):
        raise ArgumentError(f"{name}: levels", expected="names, none of them twice", got=f"{names!r}")
    if wrong := [level for level in names if not level or as_utf8(level) != level]:
        raise ArgumentError(f"{name}: levels", expected="names of columns", got=f"{wrong[0]!r} among them")
    return names


def check_depth(name: str, levels: Levels, path: Path, *, may_be_less: bool = False) -> None:
    """Refuse a path whose keys are not those of the levels.

    Args:
        name: The function that the user called, for errors.
        levels: The names of the levels.
        path: The path.
        may_be_less: Whether it may end sooner, as that of a branch that failed.
    """
    if levels is None or len(path) == len(levels) or (may_be_less and len(path) < len(levels)):
        return
    raise ArgumentError(
        f"{name}: levels",
        expected=f"a name for each key of a path, which are {len(path)} here",
        got=f"{', '.join(map(repr, levels))}",
        path=path,
        hint="take the nodes of one depth, as level= and path= of scan() do; without levels= the columns are "
        "TreeLevel_1 and so on, as many as the deepest path needs",
    )


def levels_of(path: Path) -> dict[str, Any]:
    """The keys of a path, by column."""
    keys = path if "".join(path).isascii() else map(as_utf8, path)
    return {f"TreeLevel_{number}": key for number, key in enumerate(keys, 1)}


def level_names(levels: Levels) -> dict[str, str]:
    """What the columns become that are called TreeLevel_1 and so on until a table is done."""
    return {f"TreeLevel_{number}": level for number, level in enumerate(levels or (), 1)}


def in_order(names: Iterable[str]) -> list[str]:
    """The levels by number, then the others in the order in which they first come."""

    def position(name: str) -> float:
        level = LEVEL.fullmatch(name)
        return int(level[1]) if level else float("inf")

    return sorted(dict.fromkeys(names), key=position)
