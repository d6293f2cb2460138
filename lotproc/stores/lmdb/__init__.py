"""A store in an LMDB database."""

from .store import LmdbStore, _reopened

__all__ = ["LmdbStore", "_reopened"]
