"""Importing lotproc is quiet and light."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import lotproc

#: lotdb is not heavy, but half the price of an import; it is loaded with the first name that needs it.
HEAVY = ["PIL", "lotdb", "numpy", "lmdb", "loky", "pandas", "pyarrow", "rich", "scipy", "tqdm", "zarr"]


def test_import_warns_of_nothing_and_loads_no_optional_package() -> None:
    code = f"import sys, lotproc; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")


def test_every_public_name_is_there() -> None:
    # Names are loaded on first use, so a wrong one would not be noticed by importing the package.
    assert len(set(lotproc.__all__)) == len(lotproc.__all__)
    for name in lotproc.__all__:
        getattr(lotproc, name)


def test_older_names_are_there_and_not_offered() -> None:
    offered = set(dir(lotproc))
    older = lotproc._OLDER  # type: ignore[attr-defined]
    assert older < set(lotproc.__all__) == offered | older
    assert not older & offered


def test_a_name_that_is_misspelt_is_told_with_what_python_needs_to_name_the_nearest() -> None:
    with pytest.raises(AttributeError) as caught:
        lotproc.leafs  # type: ignore[attr-defined]  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("leafs", lotproc)


@pytest.mark.parametrize("name", ["lotproc.folds", "lotproc.executors", "lotproc.testing", "lotproc.stores"])
def test_completion_offers_what_is_public(name: str) -> None:
    module = importlib.import_module(name)
    assert dir(module) == sorted(module.__all__)


@pytest.mark.parametrize("package", ["pytest", "hypothesis"])
def test_what_the_tests_of_stores_need_is_named(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import lotproc.testing"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).resolve().parent.parent, capture_output=True, text=True
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"lotproc.MissingExtraError: lotproc.testing needs {package}, which is not installed; pip")


def test_assertions_in_the_tests_of_stores_show_their_values() -> None:
    tests = importlib.import_module(importlib.import_module("lotproc.testing").StoreTests.make.__module__)
    assert "@pytest_ar" in vars(tests)  # which pytest adds to what it rewrites
