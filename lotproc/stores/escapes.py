"""Keys as text that files and databases can hold: percent-encoded, and back as they were."""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["escaped", "unescaped"]

#: What some file system or encoding can't hold, or gives a meaning of its own; the dot, too, because endings have one.
_ODD = re.compile('[%./\\\\<>:"|?*\0-\x1f\x7f\ud800-\udfff]')


def escaped(key: str) -> str:
    """A key without odd characters; no two keys become the same.

    >>> escaped("dF/F"), escaped(".."), escaped("")
    ('dF%2FF', '%2E%2E', '%')
    """
    return _ODD.sub(_percent, key) or "%"


def unescaped(text: str) -> str | None:
    """The key that was escaped; None for what `escaped` does not give.

    >>> unescaped("dF%2FF"), unescaped("100%")
    ('dF/F', None)
    """
    try:
        key = "" if text == "%" else unquote(text, errors="surrogatepass")
    except UnicodeDecodeError:
        return None
    return key if escaped(key) == text else None


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode(errors="surrogatepass"))
