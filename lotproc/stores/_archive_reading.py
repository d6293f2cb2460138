"""The module that pickles of the first version name; what it held is in `archive.reading`."""

from .archive.reading import RecordPlace

__all__ = ["RecordPlace"]
