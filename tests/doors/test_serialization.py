"""save_to_file and load_from_file: what is saved comes back, and what fails leaves no trace."""

from __future__ import annotations

import os
import pickle
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from lotdb import BaseNode, utils

from lotproc.errors import ArgumentTypeError, NotPicklableError
from lotproc.serialization import load_from_file, save_to_file

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@given(oject=PLAIN)
def test_what_is_saved_comes_back(oject: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round"
    save_to_file(oject, path)
    assert load_from_file(path) == oject
    assert load_from_file(f"{path}.pyobj") == oject


@given(oject=PLAIN)
def test_lotdb_reads_and_writes_the_same_files(oject: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.getbasetemp() / "shared")
    save_to_file(oject, path)
    assert utils.load_from_file(f"{path}.pyobj") == oject
    utils.save_to_file(oject, path)
    assert load_from_file(path) == oject


def test_a_tree_in_memory_comes_back(tmp_path: Path) -> None:
    root = BaseNode("root")
    root.gns(["ann", "clip_1"]).set_attribute("audio", np.arange(3))
    save_to_file(root, tmp_path / "tree")
    (leaf,) = load_from_file(tmp_path / "tree").iterate_tree_leaves()
    assert leaf.gps() == ["ann", "clip_1"]
    np.testing.assert_array_equal(leaf.get_attribute("audio"), np.arange(3))


def test_protocol_5(tmp_path: Path) -> None:
    save_to_file([1], tmp_path / "x")
    assert (tmp_path / "x.pyobj").read_bytes()[:2] == b"\x80\x05"


def test_the_suffix_is_always_added(tmp_path: Path) -> None:
    save_to_file(1, tmp_path / "x.pyobj")
    save_to_file(2, tmp_path / "v1.5")
    assert sorted(os.listdir(tmp_path)) == ["v1.5.pyobj", "x.pyobj.pyobj"]
    assert load_from_file(tmp_path / "v1.5") == 2


def test_the_default_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_to_file({"a": 1})
    assert os.listdir(tmp_path) == ["saved_obj.pyobj"]
    assert load_from_file("saved_obj") == {"a": 1}


def test_the_name_as_given_comes_first(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pickle.dumps("as given"))
    save_to_file("with suffix", tmp_path / "x")
    assert load_from_file(tmp_path / "x") == "as given"


def test_a_folder_of_the_same_name_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    save_to_file(1, tmp_path / "x")
    assert load_from_file(tmp_path / "x") == 1


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_open(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save_to_file(1, tmp_path / "x")
        (tmp_path / "y").touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.pyobj").stat().st_mode) == stat.S_IMODE((tmp_path / "y").stat().st_mode)


def test_an_older_file_keeps_its_permissions_and_links_to_it_stay(tmp_path: Path) -> None:
    real = tmp_path / "real.pyobj"
    save_to_file(1, tmp_path / "real")
    real.chmod(0o640)
    (tmp_path / "link.pyobj").symlink_to(real)
    save_to_file(2, tmp_path / "link")
    assert (tmp_path / "link.pyobj").is_symlink()
    assert load_from_file(real) == 2
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


class Breaks:
    """Fails when it is pickled, after some megabytes that were pickled before it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def _deep(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


@pytest.mark.parametrize("oject", [lambda: None, threading.Lock(), _deep(100_000)], ids=["lambda", "lock", "deep"])
def test_what_cannot_be_pickled_leaves_the_old_file(tmp_path: Path, oject: Any) -> None:
    save_to_file("old", tmp_path / "x")
    with pytest.raises(NotPicklableError, match="save_to_file: can't pickle"):
        save_to_file([bytes(5_000_000), oject], tmp_path / "x")
    assert load_from_file(tmp_path / "x") == "old"
    assert os.listdir(tmp_path) == ["x.pyobj"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()])
def test_any_failure_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    save_to_file("old", tmp_path / "x")
    with pytest.raises(type(error)):
        save_to_file([bytes(5_000_000), Breaks(error)], tmp_path / "x")
    assert load_from_file(tmp_path / "x") == "old"
    assert os.listdir(tmp_path) == ["x.pyobj"]


def test_a_failure_at_the_very_end_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.pyobj").mkdir()
    with pytest.raises(OSError, match=r"x\.pyobj"):
        save_to_file(1, tmp_path / "x")
    assert os.listdir(tmp_path) == ["x.pyobj"]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_to_file(1, tmp_path / "none" / "x")


def test_a_missing_file_names_both(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_from_file(tmp_path / "x")
    assert f"'{tmp_path}/x'" in str(caught.value)
    assert f"'{tmp_path}/x.pyobj'" in str(caught.value)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pyobj").write_bytes(pickle.dumps([1, 2], protocol=5)[:-3])
    with pytest.raises((pickle.UnpicklingError, EOFError)) as caught:
        load_from_file(tmp_path / "x")
    assert any("x.pyobj" in note for note in caught.value.__notes__)  # type: ignore[attr-defined,unused-ignore]


class NeedsFile:
    def __reduce__(self) -> Any:
        return open, ("/no/such/file",)


def test_a_file_that_the_object_misses_is_not_mistaken_for_its_own(tmp_path: Path) -> None:
    save_to_file(NeedsFile(), tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="/no/such/file"):
        load_from_file(tmp_path / "x.pyobj")


@pytest.mark.parametrize("path", [3, b"x"])
def test_a_path_that_is_none(path: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="save_to_file: path must be"):
        save_to_file(1, path)
    with pytest.raises(ArgumentTypeError, match="load_from_file: path must be"):
        load_from_file(path)
