"""Optional packages: imported where they are used, with an error that says how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import MissingExtraError

__all__ = ["needed"]


def needed(module: str, extra: str, purpose: str) -> Any:
    """Import an optional module, or say which extra brings it.

    >>> needed("no_package.table", "tables", "to_table()")
    Traceback (most recent call last):
    ...
    lotproc.MissingExtraError: to_table() needs no_package, which is not installed; ...
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise  # it is there, and something that it needs is not
        raise MissingExtraError.of(package, extra, purpose) from None
