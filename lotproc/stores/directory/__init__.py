"""A store in a directory: a file for each value, and one of JSON for its metadata."""

from .entry import DirectoryEntry, EntryStat
from .store import DirectoryStore, _unpickled

__all__ = ["DirectoryEntry", "DirectoryStore", "EntryStat", "_unpickled"]
