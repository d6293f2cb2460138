"""The options of an LMDB store: what each may be, and which are for LMDB."""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError, ArgumentTypeError, got

__all__ = ["DEFAULT_BUFFER", "options_of_lmdb"]

DEFAULT_MAP_SIZE = 64 << 20
DEFAULT_BUFFER = 16 << 20

#: The options of the store's own that are no text, and those of `lmdb.open` that may be given.
_OWN: dict[str, type] = {
    **dict.fromkeys(("batch_size", "max_buffer_bytes", "map_size", "max_map_size"), int),
    **dict.fromkeys(("autoflush_on_read", "check"), bool),
}
_OF_LMDB: dict[str, type] = {
    **dict.fromkeys(("subdir", "readonly", "metasync", "sync", "create", "readahead", "meminit", "lock"), bool),
    **dict.fromkeys(("mode", "max_readers", "max_dbs", "max_spare_txns"), int),
}
_WORDS = {int: "a whole number", bool: "True or False"}
_MAY_BE_NONE = ("map_size", "max_map_size", "check")
_REFUSED = {
    "writemap": "a full disk would end the process",
    "map_async": "it is for writemap, with which a full disk would end the process",
    "lib_version": "stores have the file format of LMDB 0.9",
}
#: What the codec and the form of keys see to.
_OF_KEYS_AND_VALUES = ("codec", "key_encoding", "key_errors", "str_normalize")


def options_of_lmdb(options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that are for `lmdb.open`; all are checked."""
    for option, value in options.items():
        kind = _OWN.get(option) or _OF_LMDB.get(option)
        if option in _REFUSED:
            raise ArgumentError(
                f"LmdbStore: the option {option} can't be used: {_REFUSED[option]}", hint="leave it out"
            )
        if option in _OF_KEYS_AND_VALUES or (value is None and option in _MAY_BE_NONE):
            continue
        if kind is None:
            raise ArgumentTypeError(
                f"LmdbStore: there is no option {option!r}", hint=f"those for LMDB are {', '.join(_OF_LMDB)}"
            )
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ArgumentTypeError(f"LmdbStore: {option}", expected=f"{_WORDS[kind]}", got=got(value))
        if option in _OWN and kind is int and options[option] < 1:
            raise ArgumentError(f"LmdbStore: {option}", expected="at least 1", got=f"{value}")
    size, limit = options["map_size"], options["max_map_size"]
    if size is not None and limit is not None and size > limit:
        raise ArgumentError(
            "LmdbStore: map_size", expected=f"no more than max_map_size, {limit:,} bytes", got=f"{size:,}"
        )
    size = size or DEFAULT_MAP_SIZE
    given = {option: value for option, value in options.items() if option in _OF_LMDB}
    return {"readonly": False, **given, "map_size": size if limit is None else min(size, limit)}
