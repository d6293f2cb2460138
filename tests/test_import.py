"""Importing lotproc is quiet and light."""

from __future__ import annotations

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
