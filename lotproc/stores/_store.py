"""The module that pickles of the first version name; what it held is in `protocol`."""

from .protocol import StoredPayload

__all__ = ["StoredPayload"]
