"""Globs on keys and on paths, in one syntax: `*`, `?`, `[...]` in a component, `**` for any number of them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence

from ._syntaxes import CLASS, as_glob, as_regex, looks_like_a_glob, looks_like_a_regex
from .errors import ArgumentTypeError, PatternError, got, warn

__all__ = ["PathPattern", "check_braces", "has_slash", "key_glob", "regex", "told_of_a_regex", "warn_of_a_regex"]

_WILDCARDS = re.compile(r"[*?\[]")
#: What a shell would take for several patterns: `{wav,mp3}`.
_BRACES = re.compile(r"\{[^{}]*,[^{}]*\}")
#: What takes globs where a regular expression was expected.
_FOR_GLOBS = {"match_key": "match_path('**/{}')", "scan": "path='**/{}'"}


def regex(name: str, pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    """Compile a regular expression, or say what is wrong with it; one that looks like a glob draws a warning."""
    if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
        return pattern
    if not isinstance(pattern, str):
        raise ArgumentTypeError(f"{name}: a regular expression", expected="a str or a compiled one", got=got(pattern))
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        instead = _FOR_GLOBS.get(name) if "*" in pattern or "?" in pattern else None
        hint = instead and f"for a glob there is {instead.format(pattern)}"
        raise PatternError(f"{name}: {pattern!r}", f"is no regular expression: {error}", hint=hint) from None
    if looks_like_a_glob(pattern):
        instead = _FOR_GLOBS.get(name, "").format(pattern)
        warn(
            f"{name}: {pattern!r} looks like a glob, and is read as a regular expression, in which '*' and '?' say how "
            f"often what is before them comes; write {as_regex(pattern)!r}{f', or {instead}' if instead else ''}, or "
            "re.compile() it, if it is meant"
        )
    return compiled


def key_glob(name: str, pattern: str) -> Callable[[str], object]:
    """Compile a glob on one key to a function that is truthy where the key matches."""
    if not isinstance(pattern, str):
        raise ArgumentTypeError(f"{name}: a glob", expected="a str", got=got(pattern))
    if not pattern:
        raise PatternError(f"{name}: the glob '' matches no key", hint="give at least one character")
    check_braces(name, pattern)
    if "[" in CLASS.sub("", pattern):
        raise PatternError(
            f"{name}: the glob {pattern!r} has a '[' without its ']'", hint="write '[[]' for the character itself"
        )
    return re.compile(fnmatch.translate(pattern)).match


def told_of_a_regex(glob: str, *, is_path: bool = False) -> str | None:
    """What to write in place of a glob that looks like a regular expression; `None` for others."""
    if not looks_like_a_regex(glob):
        return None
    if "|" in CLASS.sub("", glob):
        return "it has no alternatives: give each of them by itself, in a list where one is taken"
    instead = as_glob(glob)
    begin = "**/" if is_path and not glob.startswith("^") and "/" not in glob else ""
    rule = f"it matches the whole {'path' if is_path else 'key'}, '*' stands for any characters and '?' for one"
    return rule if instead is None else f"{rule}: {begin + instead!r}"


def warn_of_a_regex(name: str, glob: str, *, is_path: bool = False) -> None:
    """Warn of a glob that looks like a regular expression, which would find nothing in silence."""
    told = told_of_a_regex(glob, is_path=is_path)
    if told:
        warn(f"{name}: {glob!r} looks like a regular expression, and is read as a glob; {told}")


def check_braces(name: str, glob: str) -> None:
    """Refuse `{wav,mp3}`, which is no part of a glob here, and would find nothing in silence."""
    if _BRACES.search(CLASS.sub("", glob)):
        raise PatternError(
            f"{name}: the glob {glob!r}",
            "has braces, which stand for themselves alone",
            hint="give each of the patterns by itself, in a list where one is taken; '[{]' is the character",
        )


def has_slash(glob: str) -> bool:
    """Whether a glob has a slash, outside of `[...]`."""
    return "/" in CLASS.sub("", glob)


def _anything(key: str) -> bool:
    """The test behind `*`."""
    return True


class PathPattern:
    """A glob on paths, matched one component at a time.

    A path runs through the pattern as a set of positions: from `start`, each key `step`s to the next set; the path
    matches if the last set `accepts`. So a walk decides at every node whether to go on, and sees no node twice.

    >>> pattern = PathPattern("glob", "speaker_*/**/clip_001")
    >>> pattern.matches(("speaker_01", "session_a", "clip_001"))
    True

    Args:
        name: The function that takes it, for errors.
        pattern: A str, or its components.
        written: The str as the user wrote it, where that is another.
    """

    def __init__(self, name: str, pattern: str | Sequence[str], written: str | None = None) -> None:
        if not isinstance(pattern, (str, list, tuple)):
            raise ArgumentTypeError(
                f"{name}: a path pattern",
                expected="a str like 'speaker_*/**' or a tuple of components",
                got=got(pattern),
            )
        if isinstance(pattern, str):
            check_braces(name, pattern)  # of which a slash may be a part
        components = pattern.split("/") if isinstance(pattern, str) else list(pattern)
        if not components:
            raise PatternError(f"{name}: the path pattern {pattern!r} has no component")
        if "" in components:
            raise PatternError(f"{name}: the path pattern {pattern!r} has an empty component")
        #: One entry a component: None for `**`, else a function that matches one key.
        self._tests: list[Callable[[str], object] | None] = []
        #: The components that are plain keys, by position.
        self._literals: dict[int, str] = {}
        #: Where one more key leads, whichever it is; None where that depends on the key.
        self._after_any: dict[frozenset[int], frozenset[int] | None] = {}
        self._closed: dict[frozenset[int], frozenset[int]] = {}
        for position, component in enumerate(components):
            if component == "**":
                self._tests.append(None)
                continue
            test = key_glob(name, component)
            if "**" in component:
                raise PatternError(
                    f"{name}: in {pattern!r}, '**'", expected=f"a component of its own, not part of {component!r}"
                )
            if component == "*":
                test = _anything
            elif not _WILDCARDS.search(component):
                self._literals[position] = component
                test = component.__eq__
            self._tests.append(test)
        if isinstance(pattern, str):  # components, one by one, are meant as they are
            warn_of_a_regex(name, pattern if written is None else written, is_path=True)

    @property
    def start(self) -> frozenset[int]:
        """The positions before the first key."""
        return self._skip_stars({0})

    def fits(self, length: int) -> bool:
        """Whether a path of so many keys may match."""
        least = sum(test is not None for test in self._tests)
        return length == least or (length > least and least < len(self._tests))

    def step(self, positions: frozenset[int], key: str) -> frozenset[int]:
        """The positions after one more key; empty where nothing below can match."""
        known = self.after_any(positions)
        if known is not None:
            return known
        after = set()
        for position in positions:
            if position == len(self._tests):
                continue
            test = self._tests[position]
            if test is None:
                after.add(position)
            elif test(key):
                after.add(position + 1)
        return self._skip_stars(after)

    def after_any(self, positions: frozenset[int]) -> frozenset[int] | None:
        """The positions after one more key, whichever it is; None where that depends on the key."""
        if positions not in self._after_any:
            waiting = positions - {len(self._tests)}
            tests = {position: self._tests[position] for position in waiting}
            known = None
            if all(test is None or test is _anything for test in tests.values()):
                known = self._skip_stars({position + (test is not None) for position, test in tests.items()})
            self._after_any[positions] = known
        return self._after_any[positions]

    def accepts(self, positions: frozenset[int]) -> bool:
        """Whether a path that ends here matches."""
        return len(self._tests) in positions

    def accepts_all(self, positions: frozenset[int]) -> bool:
        """Whether all paths that begin with the one here match: a `**` at the end was reached."""
        last = len(self._tests) - 1
        return last in positions and self._tests[last] is None

    def literals(self, positions: frozenset[int]) -> list[str] | None:
        """The only keys that can match next, sorted; None where children must be searched."""
        waiting = positions - {len(self._tests)}
        if not waiting <= self._literals.keys():
            return None
        return sorted({self._literals[position] for position in waiting})

    def matches(self, path: Iterable[str]) -> bool:
        """Whether a whole path matches."""
        positions = self.start
        for key in path:
            positions = self.step(positions, key)
            if not positions:
                return False
        return self.accepts(positions)

    def _skip_stars(self, positions: set[int]) -> frozenset[int]:
        """Add the positions behind each `**`, which may stand for no component at all."""
        given = frozenset(positions)
        known = self._closed.get(given)
        if known is None:
            closed = set(positions)
            for position in positions:
                while position < len(self._tests) and self._tests[position] is None:
                    position += 1
                    closed.add(position)
            known = self._closed[given] = frozenset(closed)
        return known
