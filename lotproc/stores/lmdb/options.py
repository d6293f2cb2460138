"""The options of an LMDB store: what they are if they are not given, and which can't be."""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError, ArgumentTypeError, got

__all__ = ["DEFAULT_BUFFER", "checked", "options_of_lmdb"]

DEFAULT_MAP_SIZE = 64 << 20
DEFAULT_BUFFER = 16 << 20

#: The options of `lmdb.open` that may be given, with what they must be.
_OPTIONS: dict[str, type] = {
    "subdir": bool,
    "readonly": bool,
    "metasync": bool,
    "sync": bool,
    "mode": int,
    "create": bool,
    "readahead": bool,
    "meminit": bool,
    "max_readers": int,
    "max_dbs": int,
    "max_spare_txns": int,
    "lock": bool,
}
_REFUSED = {
    "writemap": "a full disk would end the process",
    "map_async": "it is for writemap, with which a full disk would end the process",
    "lib_version": "stores have the file format of LMDB 0.9",
}
#: Options that are the store's own, not LMDB's.
_OWN = frozenset(
    [
        "batch_size", "codec", "autoflush_on_read", "key_encoding", "key_errors", "str_normalize", "max_buffer_bytes",
        "map_size", "max_map_size", "check",
    ]
)  # fmt: skip


def checked(options: dict[str, Any]) -> None:
    """Refuse numbers and switches of the store's own that can't be."""
    for option in ("batch_size", "max_buffer_bytes", "map_size", "max_map_size"):
        value = options[option]
        if value is None and option.endswith("map_size"):
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise ArgumentTypeError(f"LmdbStore: {option} must be a whole number, got {got(value)}")
        if value < 1:
            raise ArgumentError(f"LmdbStore: {option} must be at least 1, got {value}")
    for option in ("autoflush_on_read", "check"):
        if not isinstance(options[option], bool) and not (option == "check" and options[option] is None):
            raise ArgumentTypeError(f"LmdbStore: {option} must be True or False, got {got(options[option])}")
    limit = options["max_map_size"]
    if limit is not None and (options["map_size"] or 0) > limit:
        raise ArgumentError(
            f"LmdbStore: map_size must be no more than max_map_size, {limit:,} bytes; got {options['map_size']:,}"
        )


def options_of_lmdb(options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that are for `lmdb.open`, and its map_size."""
    size, limit = options["map_size"] or DEFAULT_MAP_SIZE, options["max_map_size"]
    given = _known({key: options[key] for key in options if key not in _OWN})
    return {**given, "map_size": size if limit is None else min(size, limit)}


def _known(options: dict[str, Any]) -> dict[str, Any]:
    for option, value in options.items():
        if option in _REFUSED:
            raise ArgumentError(f"LmdbStore: the option {option} can't be used: {_REFUSED[option]}; leave it out")
        if option not in _OPTIONS:
            raise ArgumentTypeError(
                f"LmdbStore: there is no option {option!r}; those for LMDB are {', '.join(_OPTIONS)}"
            )
        kind = _OPTIONS[option]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ArgumentTypeError(f"LmdbStore: {option} must be a {kind.__name__}, got {got(value)}")
    return {"readonly": False, **options}
