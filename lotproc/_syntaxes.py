"""What looks like a regular expression where a glob is taken, or the other way round, and how the other one says it.

Both are valid there, and find nothing or too much in silence: the glob `^clip_` matches the key "^clip_" alone, and the
regular expression `clip_*` is found in each key with "clip" in it.
"""

from __future__ import annotations

import re

__all__ = ["as_glob", "as_regex", "looks_like_a_glob", "looks_like_a_regex"]

#: A whole `[...]`; by the rules of fnmatch a `]` right behind `[` or `[!` is one of its characters.
CLASS = re.compile(r"\[(?:!|(?!!))(?:\]|(?=[^\]]))[^\]]*\]")
#: Where a component begins; what a regular expression has for a kind of character or for a dot; alternatives; an end
#: behind something.
_OF_A_REGEX = re.compile(r"(?:^|/)\^.|\\[.dwsDWS]|[^|]\|[^|]|[^/$]\$$")
#: Nothing that regular expressions have and globs have not.
_PLAIN = re.compile(r"(?:[^\\^$(){}|+.*?\[]|\.(?![*?+])|(?<=[\w\- ])\*|(?<=[\w\- ?])\?)+")
#: A star or a question mark behind a plain character, as globs have them: in front of a suffix, or at the end.
_OF_A_GLOB = re.compile(r"[\w\- ]\*+(?:\.\w+)?$|[\w\- ]\?+\.\w+$|[_\- ]\?+$|\*\w*\.\w+$")
#: The pieces of a regular expression that a glob can say, and how.
_PIECES = re.compile(
    r"(?P<many>(?:\.|\\[dwDWS]|\[[\w\-]+\])(?:[*+]\??|\{\d+(?:,\d*)?\}))|(?P<one>\.|\\[dwDWS])|(?P<some>\[[\w\-]+\])"
    r"|\\(?P<itself>[^\w\s])|(?P<plain>[^\\^$.*+?()\[\]{}|])"
)


def looks_like_a_regex(glob: str) -> bool:
    """Whether a glob has what only regular expressions need.

    >>> [looks_like_a_regex(glob) for glob in ("^clip_", r".*\\.wav$", "a|b")]
    [True, True, True]
    >>> [looks_like_a_regex(glob) for glob in ("clip_*", ".*", "5$/hour")]
    [False, False, False]
    """
    return _OF_A_REGEX.search(CLASS.sub("", glob)) is not None


def looks_like_a_glob(regex: str) -> bool:
    """Whether a regular expression has nothing that globs have not, and a star or a question mark as these have it.

    >>> [looks_like_a_glob(regex) for regex in ("clip_*.wav", "clip_*", "clip_?")]
    [True, True, True]
    >>> [looks_like_a_glob(regex) for regex in ("clip_.*", "^clip_*", "clips?")]
    [False, False, False]
    """
    return _PLAIN.fullmatch(regex) is not None and _OF_A_GLOB.search(regex) is not None


def as_glob(regex: str) -> str | None:
    r"""A glob on a whole key that matches wherever a regular expression is found; `None` where no simple one does.

    >>> [as_glob(regex) for regex in (r"^clip_\d+\.wav$", "^_", r".*\.wav$", "(a|b)+")]
    ['clip_*.wav', '_*', '*.wav', None]
    """
    inside = regex.removeprefix("^")
    is_ended = inside.endswith("$") and not inside.endswith("\\$")
    inside = inside.removesuffix("$") if is_ended else inside
    made = "" if regex.startswith("^") else "*"
    position = 0
    while position < len(inside):
        piece = _PIECES.match(inside, position)
        if piece is None:
            return None
        position = piece.end()
        made += {"many": "*", "one": "?"}.get(str(piece.lastgroup)) or str(piece[str(piece.lastgroup)])
        if piece.lastgroup in ("plain", "itself", "some", "one") and inside[position : position + 1] in {*"*+?{"}:
            return None  # what is repeated, as no glob can say
        if piece.lastgroup == "itself" and made[-1] in "*?[":
            made = f"{made[:-1]}[{made[-1]}]"
    return re.sub(r"\*+", "*", made if is_ended else f"{made}*")


def as_regex(glob: str) -> str:
    r"""A regular expression that is found where a glob of plain characters, `*` and `?` matches the whole key.

    >>> as_regex("clip_*.wav"), as_regex("clip_*"), as_regex("*_?")
    ('^clip_.*\\.wav$', '^clip_', '_.$')
    """
    said = "".join({"*": ".*", "?": "."}.get(character) or re.escape(character) for character in glob.rstrip("*"))
    said = re.sub(r"(?:\.\*)+", ".*", said).replace(r"\-", "-").replace(r"\ ", " ")
    begins = f"^{said}"
    whole = begins if glob.endswith("*") else f"{begins}$"
    return whole.removeprefix("^.*") or whole
