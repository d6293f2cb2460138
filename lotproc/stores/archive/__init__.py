"""A store in files that are written once: a record archive, in one shard or many."""

from .store import Archive, _reopened

__all__ = ["Archive", "_reopened"]
