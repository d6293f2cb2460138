"""The options of a write, and what becomes of what is there already (`if_exists`), or is not (`if_missing`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from .._stage import check_choice
from .._stamps import STAMPS
from ..errors import ArgumentError, ExistsError, NoSuchKeyError, as_text, other_form
from ..stores.protocol import OUTPUT
from .arrays import Arrays

__all__ = ["IfExists", "IfMissing", "Options", "merged"]

IfExists: TypeAlias = Literal["merge", "replace", "append", "skip", "error"]
IfMissing: TypeAlias = Literal["make", "error"]


class Options(NamedTuple):
    """How a target is written to.

    Args:
        name: What writes, for errors.
        commit_every: Results after which to commit; `None`: the caller commits, or a store when it suits it.
        if_exists: What to do about what is there.
        if_missing: What to do where nothing is there.
        version: What is skipped has this version; `None`: any.
        arrays: Where arrays go in a tree.
        output: The name of the attribute that is the value in a store, where others are metadata.
        policy: Where results go, in words.
    """

    name: str
    commit_every: int | None = None
    if_exists: IfExists = "merge"
    if_missing: IfMissing = "make"
    version: str | None = None
    arrays: Arrays = "inline"
    output: str = OUTPUT
    policy: str = ""

    def check(self) -> None:
        """Refuse what is no choice, or no choice together."""
        check_choice(self.name, "if_exists", self.if_exists, ("merge", "replace", "append", "skip", "error"))
        check_choice(self.name, "if_missing", self.if_missing, ("make", "error"))
        if self.if_exists == self.if_missing == "error":
            raise ArgumentError(
                f'{self.name}: with if_exists="error" and if_missing="error" there is nothing to write to'
            )
        check_choice(self.name, "arrays", self.arrays, ("inline", "blob", "zarr"))
        if self.if_exists == "append" and self.arrays == "inline":
            raise ArgumentError(
                f'{self.name}: with if_exists="append" arrays', expected="'blob' or 'zarr'", got=f"{self.arrays!r}"
            )

    def skips(self, version: Callable[[], object]) -> bool:
        """Whether what is there stays as it is; its version is asked for only where that counts."""
        return self.if_exists == "skip" and (self.version is None or self.version == version())

    def already_there(self, path: tuple[str, ...]) -> ExistsError:
        """The error for a path where something is, with `if_exists="error"`."""
        others = '"merge", "replace" or "skip"' if self.name == "write" else '"replace" or "skip"'
        return ExistsError(f"{self.name}: {as_text(path)} is already there", hint=f"if_exists={others} would go on")

    def not_there(self, path: tuple[str, ...], nearest: tuple[str, ...] | None = None) -> NoSuchKeyError:
        """The error for a path where nothing is, with `if_missing="error"`."""
        hint = ""
        if nearest is not None:
            sought = path[: len(nearest)]
            form = other_form(nearest, sought) if nearest != sought else ""
            hint = f"; the nearest that is there is {as_text(nearest)}{form}"
        return NoSuchKeyError(
            f"{self.name}: nothing is at {as_text(path)}{hint}", hint='if_missing="make" would make it'
        )


def merged(there: Mapping[str, Any], coming: Mapping[str, Any]) -> dict[str, Any]:
    """What is there with what comes; stamps that stayed would say that this result is another one."""
    return {**{name: value for name, value in there.items() if name not in STAMPS}, **coming}
