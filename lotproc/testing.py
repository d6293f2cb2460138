"""The tests that every store should pass, for stores of your own; they need pytest and hypothesis."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import MissingExtraError

__all__ = ["StoreTests"]

for _package in ("pytest", "hypothesis"):
    if find_spec(_package) is None:
        raise MissingExtraError(
            f"lotproc.testing needs {_package}, which is not installed", hint="pip install pytest hypothesis"
        )

import pytest  # noqa: E402

# So that an assertion that fails there shows its values, as those of test modules do. It has to be said first.
pytest.register_assert_rewrite("lotproc._store_tests")

from ._store_tests import StoreTests  # noqa: E402

StoreTests.__module__ = __name__


def __dir__() -> list[str]:
    return sorted(__all__)
