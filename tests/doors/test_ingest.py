"""Files to nodes: every file is found, and each is attached whole, skipped or reported."""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from lotdb import LOTDB, BaseNode, DataNode, PathFileObj, utils
from toolz import pipe

from lotproc import (
    ArgumentError,
    ArgumentTypeError,
    ExistsError,
    FileFailure,
    IndexedFile,
    IngestReport,
    LotprocError,
    MissingExtraError,
    NotPicklableError,
    PatternError,
    ReadOnlyTreeError,
    index_files,
    ingest_files,
    loading,
    to_rows,
)

NAMES = st.sampled_from(
    ["a", "B", "b", "a-b", "a.b", ".wav", "x.wav", "x.WAV", "x.txt", "a.wav", "é.Wav", "a b", "[x]"]
)
#: Folders as nested dicts; a file is None.
FOLDERS = st.recursive(
    st.dictionaries(NAMES, st.none(), max_size=5),
    lambda inner: st.dictionaries(NAMES, st.none() | inner, max_size=5),
    max_leaves=12,
)
NUMBERS = count()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[LOTDB]:
    database = LOTDB(path=str(tmp_path / "db"), name="db")
    yield database
    database.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def make(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for name, inner in content.items():
        if inner is None:
            (folder / name).write_bytes(b"x")
        else:
            make(folder / name, inner)
    return folder


def made(folder: Path, *names: str) -> list[Path]:
    """New files, each with its own name as its content."""
    files = [folder / name for name in names]
    for name, file in zip(names, files, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return files


def numbered(folder: Path, number: int) -> list[IndexedFile]:
    """Files for the nodes n0, n1, ..."""
    files = made(folder, *(f"{i}.txt" for i in range(number)))
    return [IndexedFile((f"n{i}",), file) for i, file in enumerate(files)]


def content_of(node: BaseNode) -> Any:
    """A tree as plain values."""
    attributes = {
        key: (value.filepath, value.root, value.file) if isinstance(value, PathFileObj) else value
        for key, value in node.attribute_storage.items()
    }
    return type(node).__name__, attributes, {key: content_of(child) for key, child in node.node_storage.items()}


def files_of(folder: Path) -> list[IndexedFile]:
    """All files, by their stems, also where several have one."""
    found = index_files(folder, "**", skip=None, key="name")
    return [IndexedFile((*item.path[:-1], os.path.splitext(item.file.name)[0]), item.file) for item in found]


def write_wav(path: Path, samples: int = 100, rate: int = 8000) -> bytes:
    """A mono file of 16 bits, by hand, so that no package is needed."""
    data = np.arange(samples, dtype="<i2").tobytes()
    sound = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    header = struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE") + sound + struct.pack("<4sI", b"data", len(data))
    path.write_bytes(header + data)
    return header + data


# --- index_files ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:index_files. none of")
@given(content=FOLDERS)
@settings(deadline=None)
def test_all_files_that_rglob_finds_in_its_sorted_order(
    content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    top = make(tmp_path_factory.getbasetemp() / f"law_{next(NUMBERS)}", content)
    everything = sorted(path for path in top.rglob("*") if path.is_file())
    found = list(index_files(top, "**", skip=None, key="name"))
    assert [item.file for item in found] == everything
    assert [item.path for item in found] == [path.relative_to(top).parts for path in everything]
    seen = [path for path in everything if not any(part.startswith(".") for part in path.relative_to(top).parts)]
    expected = [path for path in seen if path.name.casefold().endswith(".wav")]
    paths = [(*path.relative_to(top).parts[:-1], os.path.splitext(path.name)[0]) for path in expected]
    if len(set(paths)) < len(paths):
        with pytest.raises(ArgumentError, match='key="name"') as caught:
            list(index_files(top))
        assert caught.value.path in [path for path in paths if paths.count(path) > 1]
    else:
        assert list(index_files(top)) == [*map(IndexedFile, paths, expected)]
    shutil.rmtree(top)


@pytest.mark.filterwarnings("ignore:index_files. no file in")
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.wav", ["top.wav"]),
        ("*/*.wav", ["ann/clip.WAV", "bob/clip.wav"]),
        ("ANN/**/*.Wav", ["ann/clip.WAV", "ann/deep/er/clip.wav"]),
        ("**/er/*", ["ann/deep/er/clip.wav"]),
        ("**/clip.[!t]*", ["ann/clip.WAV", "ann/deep/er/clip.wav", "bob/clip.wav"]),
    ],
)
def test_patterns(folder: Path, pattern: str, expected: list[str]) -> None:
    for name in ("ann/clip.WAV", "ann/clip.txt", "ann/deep/er/clip.wav", "bob/clip.wav", "top.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    found = [item.file.relative_to(folder).as_posix() for item in index_files(folder, pattern)]
    assert found == expected


def test_folders_that_cannot_match_are_not_entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(folder / "x", {"a": {"b": {"f.wav": None}}, "b": {"f.wav": None}, "c.wav": {"f.wav": None}})
    entered = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: entered.append(Path(path).name) or scandir(path))
    monkeypatch.setattr("lotproc.indexing._tell_of_nothing", lambda *args: None)  # which looks into all of them
    assert [item.path for item in index_files(folder, "x/a/*/*.wav")] == [("x", "a", "b", "f")]
    assert entered == ["files", "files", "x", "a", "b"]  # the first time to see whether it can be listed
    entered.clear()
    assert list(index_files(folder, "x/*.wav")) == []
    assert entered == ["files", "files", "x"]


def test_it_is_lazy_and_a_folder_that_cannot_be_listed_stands_in_its_place(folder: Path) -> None:
    make(folder / "x", {"a": {"f.wav": None}, "b": {"f.wav": None}, "b.wav": None, "c": {"f.wav": None}})
    found = index_files(folder)
    assert next(found).path == ("x", "a", "f")
    shutil.rmtree(folder / "x" / "b")
    gone = next(found)
    assert (gone.path, gone.file) == (("x", "b"), folder / "x" / "b")
    assert "FileNotFoundError" in str(gone.reason)
    assert [(item.path, item.reason) for item in found] == [(("x", "b"), None), (("x", "c", "f"), None)]


def test_files_that_were_left_out_are_a_table(folder: Path) -> None:
    (folder / "nowhere.wav").symlink_to(folder / "gone.wav")
    report = ingest_files(BaseNode("root"), index_files(folder))
    (row,) = to_rows(report.failures)
    assert row == {
        "TreeLevel_1": "nowhere",
        "file": str(folder / "nowhere.wav"),
        "reason": report.failures[0].reason,
    }


def test_a_folder_whose_path_is_too_long_is_named(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=descriptor)
        descriptor, before = os.open("d" * 250, os.O_RDONLY, dir_fd=descriptor), descriptor
        os.close(before)
    os.close(descriptor)
    (folder / "z.wav").touch()
    root = BaseNode("root")
    report = ingest_files(root, index_files(folder))
    assert (report.ingested, [set(failure.path) for failure in report.failures]) == (1, [{"d" * 250}])
    assert "File name too long" in report.failures[0].reason
    shutil.rmtree(folder / ("d" * 250))


@pytest.mark.parametrize("content", [False, True])
def test_a_folder_that_cannot_be_listed_costs_what_is_in_it_each_time(folder: Path, db: LOTDB, content: bool) -> None:
    inner = {"a": {"f.txt": None}, "b": {"f.txt": None}, "b.txt": None, "c": {"f.txt": None}}
    make(folder / "x", inner)

    def while_a_folder_goes() -> Iterator[IndexedFile]:
        (folder / "x" / "b").mkdir(exist_ok=True)
        for item in index_files(folder, "**/*.txt"):
            yield item
            shutil.rmtree(folder / "x" / "b", ignore_errors=True)

    root = db.open_connection()
    for ingested in (3, 0):
        report = ingest_files(root, while_a_folder_goes(), content=content)
        assert (report.ingested, report.skipped) == (ingested, 3 - ingested)
        assert [(failure.path, failure.file) for failure in report.failures] == [(("x", "b"), folder / "x" / "b")]


def test_links(folder: Path) -> None:
    make(folder / "real", {"f.wav": None})
    (folder / "loop").symlink_to(folder)
    (folder / "link.wav").symlink_to(folder / "real" / "f.wav")
    (folder / "nowhere.wav").symlink_to(folder / "gone.wav")
    (folder / "self.wav").symlink_to(folder / "self.wav")
    os.mkfifo(folder / "pipe.wav")
    assert [item.path for item in index_files(folder)] == [("link",), ("nowhere",), ("real", "f"), ("self",)]


def test_very_deep_folders(tmp_path: Path) -> None:
    depth = 1200
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        descriptor, before = os.open("d", os.O_RDONLY, dir_fd=descriptor), descriptor
        os.close(before)
    os.close(os.open("f.wav", os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)
    (found,) = index_files(tmp_path)
    assert found.path == ("d",) * depth + ("f",)
    found.file.unlink()  # what cleans up after tests recurses
    for inner in list(found.file.parents)[:depth]:
        inner.rmdir()
    assert os.listdir(tmp_path) == []


def test_a_relative_folder_gives_absolute_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "f.wav").touch()
    monkeypatch.chdir(folder.parent)
    assert list(index_files("files")) == [IndexedFile(("f",), folder / "f.wav")]


def test_folders_and_patterns_that_cannot_be(folder: Path) -> None:
    (folder / "f.wav").touch()
    with pytest.raises(ArgumentError, match="gone' is not there"):
        index_files(folder / "gone")
    with pytest.raises(ArgumentError, match=r"f\.wav' is no folder"):
        index_files(folder / "f.wav")
    for name in (folder / "f.wav" / "x", folder / ("x" * 300), folder / "\0"):
        with pytest.raises(ArgumentError, match="index_files"):
            index_files(name)
    with pytest.raises(ArgumentTypeError, match="folder must be a str or a path, got int 3"):
        index_files(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="pattern must be a str"):
        index_files(folder, ("**", "x"))  # type: ignore[arg-type]
    for pattern in ("", "a//b", "[x", "./*.wav", "../*.wav"):
        with pytest.raises(PatternError, match="index_files"):
            index_files(folder, pattern)


# --- ingest_files, by reference ---------------------------------------------------------------------------------------


@given(content=FOLDERS)
@settings(deadline=None)
def test_every_file_is_a_reference_or_in_the_report(
    content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    top = make(tmp_path_factory.getbasetemp() / f"law_{next(NUMBERS)}", content)
    root = BaseNode("root")
    report = pipe(files_of(top), ingest_files(root))
    first: dict[tuple[str, ...], str] = {}
    for item in files_of(top):
        first.setdefault(item.path, str(item.file))
    assert report.ingested == len(first)
    assert report.ingested + len(report.failures) == len(files_of(top))
    for path, file in first.items():
        assert root.get_node_path(path, create=False).get_attribute("file").filepath == file
    before = content_of(root)
    again = ingest_files(root, files_of(top))
    assert (again.ingested, again.skipped, again.failures) == (0, len(first), report.failures)
    assert content_of(root) == before
    shutil.rmtree(top)


def test_relative_files_are_made_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = made(folder, "sub/x.wav")
    monkeypatch.chdir(folder)
    root = BaseNode("root")
    assert ingest_files(root, [IndexedFile(("x",), Path("sub/x.wav"))], attribute="audio") == IngestReport(ingested=1)
    monkeypatch.chdir("/")
    assert root.gn("x").get_attribute("audio").filepath == str(file)
    assert type(root.gn("x")) is BaseNode


def test_a_reference_is_opened_once_and_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [IndexedFile((file.stem,), file) for file in made(folder, "a.wav", "b.npy", "c.txt")]
    root = BaseNode("root")
    root.gn("b").set_attribute("file", "there already")
    opened = []
    original = Path.open

    def recorded(path: Path, *args: Any, **kwargs: Any) -> Any:
        handle = original(path, *args, **kwargs)
        opened.append((path, handle))
        return handle

    monkeypatch.setattr(Path, "open", recorded)
    for method in ("read_bytes", "read_text"):
        monkeypatch.setattr(Path, method, lambda path: pytest.fail(f"{path} was read"))
    assert ingest_files(root, files) == IngestReport(ingested=2, skipped=1)
    assert [path for path, _ in opened] == [files[0].file, files[2].file]
    assert all(handle.closed for _, handle in opened)


@pytest.mark.parametrize("nested", [False, True])
def test_references_to_what_cannot_be_opened_are_reported_and_leave_no_trace(
    folder: Path, db: LOTDB, nested: bool
) -> None:
    (whole,) = made(folder, "whole.wav")
    (folder / "folder.wav").mkdir()
    (folder / "nowhere.wav").symlink_to(folder / "gone.wav")
    (folder / "self.wav").symlink_to(folder / "self.wav")
    reasons = {
        "gone.wav": "FileNotFoundError: No such file or directory",
        "nowhere.wav": "FileNotFoundError: No such file or directory",
        "no_folder/x.wav": "FileNotFoundError: No such file or directory",
        "whole.wav/x.wav": "NotADirectoryError: Not a directory",
        "folder.wav": "IsADirectoryError: Is a directory",
        "self.wav": "OSError: Too many levels of symbolic links",
        "x" * 300: "OSError: File name too long",
    }
    prefix = ("deep", "er") if nested else ()
    files = [IndexedFile((*prefix, name), folder / name) for name in reasons]
    root = db.open_connection()
    existing = root.gns(["deep"]) if nested else root
    db.commit()
    before = content_of(root)
    report = ingest_files(root, files, commit_every=1)
    failures = tuple(FileFailure(item.file, item.path, reasons[item.path[-1]]) for item in files)
    assert report == IngestReport(failures=failures)
    assert content_of(root) == before
    assert not existing.node_storage
    assert not existing.attribute_storage
    assert not root._p_jar._registered_objects
    assert str(report).splitlines() == [
        "0 files ingested, 7 failed, nothing to commit",
        *(f"  {folder / name}: {reason}" for name, reason in reasons.items()),
    ]
    # What is whole is attached all the same, before and after.
    around = [IndexedFile((*prefix, key), whole) for key in ("first", "last")]
    report = ingest_files(root, [around[0], *files, around[1]], commit_every=1)
    assert report == IngestReport(2, commits=2, failures=failures)
    assert list(existing.gns(prefix[1:]).node_storage if nested else existing.node_storage) == ["first", "last"]


def test_a_file_that_is_gone_leaves_the_reference_that_is_there(folder: Path) -> None:
    (file,) = made(folder, "a.wav")
    root = BaseNode("root")
    ingest_files(root, [IndexedFile(("a",), file)])
    before = content_of(root)
    stored = root.gn("a").get_attribute("file")
    gone = IndexedFile(("a",), folder / "gone.wav")
    failure = FileFailure(gone.file, ("a",), "FileNotFoundError: No such file or directory")
    assert ingest_files(root, [gone], if_exists="replace") == IngestReport(failures=(failure,))
    assert content_of(root) == before
    assert root.gn("a").get_attribute("file") is stored


def test_after_a_file_that_is_gone_another_one_may_have_the_node(folder: Path) -> None:
    (file,) = made(folder, "a.txt")
    root = BaseNode("root")
    report = ingest_files(root, [IndexedFile(("a",), folder / "a.npy"), IndexedFile(("a",), file)])
    assert (report.ingested, [failure.file.name for failure in report.failures]) == (1, ["a.npy"])
    assert root.gn("a").get_attribute("file").filepath == str(file)


@pytest.mark.parametrize("nested", [False, True])
def test_a_reference_that_lotdb_would_rewrite_is_reported_and_leaves_no_trace(
    folder: Path, db: LOTDB, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    assert PathFileObj(filepath="/mnt/D/x").filepath == "/mnt/d/x"  # what lotdb does, here to a folder that can be made
    filepath = PathFileObj.filepath

    def rewritten(reference: PathFileObj, value: str) -> None:
        filepath.fset(reference, value.replace(f"{folder}/D/", f"{folder}/d/"))

    monkeypatch.setattr(PathFileObj, "filepath", property(filepath.fget, rewritten))
    other, before, after = made(folder, "D/x.txt", "before.txt", "d.txt")
    prefix = ("deep", "er") if nested else ()
    files = [IndexedFile((*prefix, file.stem), file) for file in (before, other, after)]
    reason = f"lotdb would refer to {folder}/d/x.txt in its place; move it, or use content=True"
    failures = (FileFailure(other, files[1].path, reason),)
    root = db.open_connection()
    assert ingest_files(root, files[1:2], commit_every=1) == IngestReport(failures=failures)
    assert not root.node_storage
    assert not root.attribute_storage
    assert not root._p_jar._registered_objects
    assert ingest_files(root, files, commit_every=1) == IngestReport(2, commits=2, failures=failures)
    assert list(root.gns(prefix).node_storage if nested else root.node_storage) == ["before", "d"]
    # The advice in the reason holds.
    assert ingest_files(root, files[1:2], content=True, commit_every=None) == IngestReport(1)
    assert root.get_node_path(files[1].path, create=False).read_data() == "D/x.txt"


def test_existing_nodes_keep_what_they_have(folder: Path) -> None:
    (file,) = made(folder, "a.wav")
    root = BaseNode("root")
    root.gns(["a", "below"])
    root.gn("a").set_attribute("label", 1)
    node = root.gn("a")
    assert ingest_files(root, [IndexedFile(("a",), file)]) == IngestReport(ingested=1)
    assert root.gn("a") is node
    assert sorted(node.attribute_storage) == ["file", "label"]
    assert node.get_attribute("label") == 1
    assert node.get_attribute("file").filepath == str(file)
    assert list(node.node_storage) == ["below"]


def test_if_exists(folder: Path) -> None:
    old, *files = made(folder, "1/a.wav", "2/a.wav", "2/b.wav")
    root = BaseNode("root")
    ingest_files(root, [IndexedFile(("a",), old)])
    stored = root.gn("a").get_attribute("file")
    new = [IndexedFile((file.stem,), file) for file in files]
    assert ingest_files(root, new[:1], if_exists="skip") == IngestReport(skipped=1)
    message = f"ingest_files: a has 'file' already, and {files[0]} was to set it"
    with pytest.raises(ExistsError, match=f"^{re.escape(message)}$"):
        ingest_files(root, new, if_exists="error")
    assert list(root.node_storage) == ["a"]
    assert ingest_files(root, [IndexedFile(("a",), old)], if_exists="replace") == IngestReport(skipped=1)
    assert root.gn("a").get_attribute("file") is stored
    assert stored.filepath == str(old)
    assert ingest_files(root, new, if_exists="replace") == IngestReport(ingested=2, updated=(("a",),))
    assert root.gn("a").get_attribute("file").filepath == str(files[0])
    assert root.gn("b").get_attribute("file").filepath == str(files[1])


def test_an_attribute_that_is_none_is_absent(folder: Path) -> None:
    (file,) = made(folder, "a.wav")
    root = BaseNode("root")
    root.gn("a").ga("file")  # lotdb stores a None where it is asked for what isn't there
    assert ingest_files(root, [IndexedFile(("a",), file)], if_exists="error") == IngestReport(ingested=1)
    assert root.gn("a").get_attribute("file").filepath == str(file)


@pytest.mark.parametrize("there", [True, False])
def test_a_second_file_for_a_node_is_reported_whatever_if_exists(folder: Path, there: bool) -> None:
    first, second = made(folder, "clip.txt", "clip.wav")
    if not there:
        second.unlink()
    files = [IndexedFile(("a", "clip"), first), IndexedFile(("a", "clip"), second)]
    for if_exists in ("skip", "replace", "error"):
        root = BaseNode("root")
        report = ingest_files(root, files, if_exists=if_exists)  # type: ignore[call-overload]
        reason = f"the node a/clip came from {first} already"
        assert report == IngestReport(ingested=1, failures=(FileFailure(second, ("a", "clip"), reason),))
        assert root.gns(["a", "clip"]).get_attribute("file").filepath == str(first)


def test_the_same_file_twice_is_no_failure(folder: Path) -> None:
    (file,) = made(folder, "a.wav")
    files = [IndexedFile(("a",), file)] * 2
    assert ingest_files(BaseNode("root"), files) == IngestReport(ingested=1, skipped=1)


def test_below_a_branch(folder: Path, db: LOTDB) -> None:
    (file,) = made(folder, "a.wav")
    root = db.open_connection()
    branch = root.gns(["corpus", "raw"])
    assert ingest_files(branch, [IndexedFile(("a",), file)], commit_every=1) == IngestReport(1, commits=1)
    assert [leaf.gps() for leaf in root.iterate_tree_leaves()] == [["corpus", "raw", "a"]]
    db.abort()
    assert root.get_node_path(["corpus", "raw", "a"], create=False).get_attribute("file").filepath == str(file)


# --- ingest_files, with content ---------------------------------------------------------------------------------------


def test_content_comes_back(folder: Path, db: LOTDB) -> None:
    for package in ("scipy", "pandas", "PIL"):
        pytest.importorskip(package)
    from PIL import Image

    make(folder / "ann", {})
    write_wav(folder / "ann" / "clip.WAV")
    np.save(folder / "array.npy", np.arange(6.0).reshape(3, 2))
    (folder / "table.csv").write_text("a,b\n1,2\n")
    (folder / "text.txt").write_text("héllo", encoding="utf-8")
    (folder / "raw.bin").write_bytes(b"\0\1")
    (folder / "empty.txt").touch()
    (folder / "nothing.bin").touch()
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    Image.fromarray(image).save(folder / "image.png")

    root = db.open_connection()
    assert ingest_files(root, index_files(folder, "**"), content=True, commit_every=3) == IngestReport(8, commits=3)
    db.close_connection()
    root = db.open_connection()
    clip = root.gns(["ann", "clip"])
    assert (type(clip), type(root.gn("ann"))) == (DataNode, BaseNode)
    np.testing.assert_array_equal(clip.read_data(), np.arange(100)[:, None])
    assert clip.get_attribute("data").samplerate_hz == 8000
    assert clip.get_attribute("_source_filepath").filepath == str(folder / "ann" / "clip.WAV")
    assert clip.get_attribute("_source_samplerate_hz") == 8000
    np.testing.assert_array_equal(root.gn("array").read_data(), np.arange(6.0).reshape(3, 2))
    np.testing.assert_array_equal(root.gn("image").read_data(), image)
    assert root.gn("table").read_data().to_dict("list") == {"a": [1], "b": [2]}
    assert root.gn("text").read_data() == "héllo"
    assert root.gn("raw").read_data() == b"\0\1"
    assert root.gn("empty").read_data() == ""
    assert root.gn("nothing").read_data() == b""


def _bad_npy(folder: Path) -> None:
    np.save(folder / "whole.npy", np.arange(1000))
    whole = (folder / "whole.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-100])
    (folder / "head.npy").write_bytes(whole[:20])
    (folder / "wrong.npy").write_bytes(b"no array at all")
    (folder / "empty.npy").touch()
    np.save(folder / "scalar.npy", np.float64(3))
    np.save(folder / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "whole.npy").unlink()


def _bad_wav(folder: Path) -> None:
    pytest.importorskip("scipy")
    whole = write_wav(folder / "whole.wav", 1000)
    for length in (0, 4, 20, 40, 44, 45, 500, len(whole) - 1):
        (folder / f"cut_{length}.wav").write_bytes(whole[:length])
    (folder / "wrong.wav").write_bytes(b"no sound" * 100)
    write_wav(folder / "no_samples.wav", 0)
    (folder / "whole.wav").unlink()


def _bad_images(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg"):
        image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(folder / f"whole.{suffix}")
        whole = (folder / f"whole.{suffix}").read_bytes()
        (folder / f"whole.{suffix}").unlink()
        (folder / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
        (folder / f"head_{suffix}.{suffix}").write_bytes(whole[:10])
        (folder / f"wrong_{suffix}.{suffix}").write_bytes(b"no image")
        (folder / f"empty_{suffix}.{suffix}").touch()


def _bad_tables(folder: Path) -> None:
    pytest.importorskip("pandas")
    (folder / "empty.csv").touch()
    (folder / "ragged.csv").write_text("a,b\n1,2\n1,2,3,4\n")


def _bad_others(folder: Path) -> None:
    (folder / "latin.txt").write_bytes("é".encode("latin-1"))
    (folder / "nowhere.txt").symlink_to(folder / "gone")


@pytest.mark.parametrize("make_files", [_bad_npy, _bad_wav, _bad_images, _bad_tables, _bad_others])
@pytest.mark.parametrize("nested", [False, True])
def test_what_cannot_be_read_is_reported_and_leaves_no_trace(
    folder: Path, db: LOTDB, make_files: Any, nested: bool
) -> None:
    make_files(folder)
    prefix = ("deep", "er") if nested else ()
    # Each file gets a node of its own: cut.png and cut.jpg are no collision here.
    files = [IndexedFile((*prefix, item.file.name), item.file) for item in files_of(folder)]
    root = db.open_connection()
    existing = root.gns(["deep"]) if nested else root
    db.commit()
    report = ingest_files(root, files, content=True, commit_every=1)
    assert [failure.file for failure in report.failures] == [item.file for item in files]
    assert (report.ingested, report.skipped, report.commits) == (0, 0, 0)
    assert all(failure.reason for failure in report.failures)
    assert not existing.node_storage
    assert not existing.attribute_storage
    assert not root._p_jar._registered_objects
    assert str(report).count("\n") == len(files)
    assert str(files[0].file) in str(report)


def test_a_report_names_files_as_they_are_named_from_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy")
    (file,) = made(folder / "recordings", "a.wav")
    report = ingest_files(BaseNode("root"), index_files(folder / "recordings"), content=True)
    assert report.failures[0].file == file
    assert f"  {file}: " in str(report)
    monkeypatch.chdir(folder)
    assert "  recordings/a.wav: " in str(report)
    assert "<li>recordings/a.wav: " in report._repr_html_()
    assert str(report.failures[0]).startswith("recordings/a.wav: ")


#: How programs write the sizes of a WAV file that they can't go back to; `None` for the right ones.
UNKNOWN = [None, (0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (0x7FFFF024, 0x7FFFF000), (36, 0), (0xFFFFFFFF, None), (0, None)]


def wav_of(
    order: str, channels: int, bits: int, rate: int, frame: int, sound: bytes, sizes: Any = None, before: bytes = b""
) -> bytes:
    form = struct.pack(order + "HHIIHH", 1, channels, rate, (rate * frame) & 0xFFFFFFFF, frame & 0xFFFF, bits)
    chunks = [(b"fmt ", form), *([(b"LIST", before)] if before else [])]
    body = b"WAVE" + b"".join(struct.pack(order + "4sI", name, len(data)) + data for name, data in chunks)
    riff, data = sizes or (None, None)
    riff = len(body) + 8 + len(sound) if riff is None else riff
    data = len(sound) if data is None else data
    kind = b"RIFF" if order == "<" else b"RIFX"
    return struct.pack(order + "4sI", kind, riff) + body + struct.pack(order + "4sI", b"data", data) + sound


def samples_of(order: str, channels: int, bits: int, frame: int, sound: bytes) -> list[list[int]]:
    """The samples, byte by byte: those of 24 bits in the upper ones of 32, as scipy has them."""
    size = frame // channels
    ends = range(size, len(sound) // frame * frame + 1, size)
    byte_order: Any = "little" if order == "<" else "big"
    flat = [int.from_bytes(sound[end - size : end], byte_order, signed=bits > 8) << (8 * (size == 3)) for end in ends]
    return [flat[start : start + channels] for start in range(0, len(flat), channels)]


@given(
    order=st.sampled_from("<<>"),
    channels=st.integers(0, 3),
    bits=st.sampled_from([0, 8, 16, 16, 24, 32]),
    rate=st.sampled_from([0, 1, 8000]),
    wrong=st.sampled_from([0, 0, 0, 1, -1, 3]),
    sound=st.binary(max_size=40),
    sizes=st.sampled_from(UNKNOWN),
    before=st.sampled_from([b"", b"INFOIART", b"12"]),
)
@settings(deadline=None)
def test_sound_is_what_its_bytes_say_or_the_file_is_reported(
    order: str,
    channels: int,
    bits: int,
    rate: int,
    wrong: int,
    sound: bytes,
    sizes: Any,
    before: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pytest.importorskip("scipy")
    file = tmp_path_factory.getbasetemp() / "law.wav"
    frame = channels * bits // 8 + wrong
    file.write_bytes(wav_of(order, channels, bits, rate, frame, sound, sizes, before))
    root = BaseNode("root")
    report = ingest_files(root, [IndexedFile(("a",), file)], content=True)
    frames = {channels * bits // 8, *([4 * channels] if bits > 16 else [])}
    is_right = 0 not in (channels, bits, rate) and frame in frames and len(sound) >= frame
    if before and sizes == (36, 0):
        is_right = False  # so it does have an end, which lies before the sound
    if sizes is None and is_right and len(sound) % frame:
        is_right = bool(report.ingested)  # a part of a sample at the end: left out, or refused
    assert report.ingested == is_right, report.failures
    if is_right:
        node = root.gn("a")
        assert node.read_data().tolist() == samples_of(order, channels, bits, frame, sound)
        assert node.get_attribute("data").samplerate_hz == rate


def test_a_wav_file_with_two_sounds_is_reported(folder: Path) -> None:
    pytest.importorskip("scipy")
    whole = wav_of("<", 1, 16, 8000, 2, b"\1\0\2\0") + struct.pack("<4sI", b"data", 2) + b"\3\0"
    (folder / "a.wav").write_bytes(whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:])
    (failure,) = ingest_files(BaseNode("root"), files_of(folder), content=True).failures
    assert "two chunks of sound" in failure.reason


def test_a_palette_is_colours(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    numbers = np.array([[0, 1], [2, 1]], np.uint8)
    palette = [(10, 20, 30), (40, 50, 60), (70, 80, 90)]
    for name, options in (("plain", {}), ("clear", {"transparency": bytes([255, 0, 128])})):
        picture = image.fromarray(numbers)
        picture.putpalette([value for colour in palette for value in colour])
        picture.save(folder / f"{name}.png", **options)
    root = BaseNode("root")
    assert ingest_files(root, files_of(folder), content=True).ingested == 2
    assert root.gn("plain").read_data().tolist() == [[list(palette[n]) for n in row] for row in numbers]
    clear = [[[*palette[n], (255, 0, 128)[n]] for n in row] for row in numbers]
    assert root.gn("clear").read_data().tolist() == clear
    assert root.gn("clear").get_attribute("data").get_metadata("image_mode") == "RGBA"


def png(bits: int, kind: int, line: bytes) -> bytes:
    """A picture of one pixel."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, bits, kind, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" + line))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [*chunks, (b"IEND", b"")]
    )


def test_pictures_with_more_bits_than_pillow_reads_are_reported(folder: Path) -> None:
    pytest.importorskip("PIL")
    (folder / "colour.png").write_bytes(png(16, 2, bytes(range(6))))
    (folder / "grey.png").write_bytes(png(16, 0, b"\1\2"))
    root = BaseNode("root")
    (failure,) = ingest_files(root, files_of(folder), content=True).failures
    assert (failure.path, "16 bits" in failure.reason) == (("colour",), True)
    assert root.gn("grey").read_data().tolist() == [[258]]


@given(
    header=st.lists(st.sampled_from(["a", "b", "é"]), min_size=1, max_size=3, unique=True),
    rows=st.lists(st.lists(st.sampled_from(["1", "2.50", "007", "x y", '"q,q"', str(2**70)]), min_size=1, max_size=5)),
    end=st.sampled_from(["\n", "\r\n"]),
    start=st.sampled_from(["", "\ufeff"]),
)
@settings(deadline=None)
def test_a_table_is_kept_as_it_is_or_reported(
    header: list[str], rows: list[list[str]], end: str, start: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pandas = pytest.importorskip("pandas")
    file = tmp_path_factory.getbasetemp() / "law.csv"
    data = (start + end.join(",".join(row) for row in [header, *rows])).encode()
    file.write_bytes(data)
    root = BaseNode("root")
    report = ingest_files(root, [IndexedFile(("a",), file)], content=True)
    is_right = all(len(row) <= len(header) for row in rows)
    assert report.ingested == is_right
    if is_right:
        stored = root.gn("a").get_attribute("data")
        assert stored.read_bytes() == data
        table = root.gn("a").read_data()
        assert list(table.columns) == stored.get_metadata("columns") == header
        text = pandas.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
        assert len(table) == len(text) == len(rows)
        pandas.testing.assert_frame_equal(table, pandas.read_csv(file))


def test_text_keeps_the_ends_of_its_lines(folder: Path) -> None:
    (folder / "a.txt").write_bytes("é\r\nb\n\rc".encode())
    root = BaseNode("root")
    ingest_files(root, files_of(folder), content=True)
    assert root.gn("a").get_attribute("data").read_bytes() == (folder / "a.txt").read_bytes()
    assert root.gn("a").read_data() == "é\r\nb\n\rc"


def test_names_that_are_no_utf_8_are_ingested_and_reported_in_letters(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.npy")
    try:
        (folder / name).touch()
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    root = BaseNode("root")
    ingest_files(root, files_of(folder))
    assert root.gn(name[:-4]).get_attribute("file").path == folder / name
    report = ingest_files(root, files_of(folder), content=True)
    assert "caf\\udce9.npy: " in str(report)
    str(report).encode()


def test_a_failure_leaves_an_existing_value(folder: Path) -> None:
    root = BaseNode("root")
    np.save(folder / "a.npy", np.arange(3))
    ingest_files(root, files_of(folder), content=True)
    before = content_of(root)
    (folder / "a.npy").write_bytes(b"")
    report = ingest_files(root, files_of(folder), content=True, if_exists="replace")
    assert [failure.path for failure in report.failures] == [("a",)]
    assert content_of(root) == before


def test_after_a_failure_another_file_may_have_the_node(folder: Path) -> None:
    (folder / "a.npy").touch()
    (folder / "a.txt").write_text("fine")
    root = BaseNode("root")
    report = ingest_files(root, files_of(folder), content=True)
    assert [failure.file.name for failure in report.failures] == ["a.npy"]
    assert root.gn("a").read_data() == "fine"


def test_chunks_that_scipy_does_not_know_are_no_warning(folder: Path) -> None:
    pytest.importorskip("scipy")
    whole = write_wav(folder / "a.wav")
    more = whole + struct.pack("<4sI4s", b"odd ", 4, b"abcd")
    (folder / "a.wav").write_bytes(more[:4] + struct.pack("<I", len(more) - 8) + more[8:])
    root = BaseNode("root")
    assert ingest_files(root, files_of(folder), content=True) == IngestReport(1)
    assert root.gn("a").read_data().shape == (100, 1)


def test_content_into_existing_nodes(folder: Path) -> None:
    np.save(folder / "a.npy", np.arange(3))
    np.save(folder / "b.npy", np.arange(4))
    root = BaseNode("root")
    root.gns(["a", "below"])
    root.gn("a").set_attribute("label", 1)
    root.get_data_node(["b"], samplerate_hz=50.0).write_data(np.arange(2), backend="blob", data_attribute="old")
    nodes = root.gn("a"), root.gn("b")
    report = ingest_files(root, files_of(folder), content=True, attribute="x", samplerate_hz=100)
    assert report.ingested == 2
    assert (root.gn("a"), root.gn("b")) == nodes
    assert type(nodes[0]) is BaseNode
    assert nodes[0].get_attribute("label") == 1
    assert list(nodes[0].node_storage) == ["below"]
    assert nodes[0].get_attribute("x").read().tolist() == [0, 1, 2]
    assert (nodes[1].samplerate_hz, nodes[1].data_attribute) == (50.0, "old")
    assert nodes[1].get_attribute("x").samplerate_hz == 100.0
    assert nodes[1].read_data().tolist() == [0, 1]


def test_new_data_nodes_know_their_data(folder: Path) -> None:
    np.save(folder / "a.npy", np.arange(3))
    root = BaseNode("root")
    ingest_files(root, files_of(folder), content=True, attribute="imu", samplerate_hz=100.0)
    node = root.gn("a")
    assert (node.data_attribute, node.data_backend, node.samplerate_hz) == ("imu", "blob", 100.0)
    assert node.read_seconds(0, 0.02).tolist() == [0, 1]


def test_zarr(folder: Path, db: LOTDB) -> None:
    pytest.importorskip("zarr")
    np.save(folder / "a.npy", np.arange(3))
    (folder / "bad.npy").touch()
    root = db.open_connection()
    branch = root.gn("raw")
    files = [IndexedFile(("deep", *item.path), item.file) for item in files_of(folder)]
    report = ingest_files(branch, files, content=True, backend="zarr", database=db, commit_every=1)
    assert (report.ingested, len(report.failures)) == (1, 1)
    node = root.get_node_path(["raw", "deep", "a"], create=False)
    assert node.get_attribute("data").dataset_path.as_linux_path() == "raw/deep/a/data"
    assert node.read_data().tolist() == [0, 1, 2]


# --- commits and errors -----------------------------------------------------------------------------------------------


def test_commits(folder: Path, db: LOTDB) -> None:
    root = db.open_connection()
    files = numbered(folder, 7)
    assert ingest_files(root, files[:1], commit_every=None) == IngestReport(1)
    db.abort()
    assert not root.node_storage
    assert ingest_files(root, files[:1]) == IngestReport(1, commits=1)  # every 1,000 files, and at the end
    root.delete_node(files[0].path[0])
    db.commit()
    assert ingest_files(root, files, commit_every=3) == IngestReport(7, commits=3)
    db.abort()
    assert list(root.node_storage) == [item.path[0] for item in files]
    assert ingest_files(root, files, commit_every=3) == IngestReport(skipped=7)
    assert str(ingest_files(root, files, commit_every=3)) == "0 files ingested, 7 skipped, nothing to commit"


@pytest.mark.parametrize("commit_every", [1, 2])
def test_a_commit_that_fails_undoes_all_that_is_uncommitted_and_leaves_a_connection_that_works(
    folder: Path, db: LOTDB, commit_every: int
) -> None:
    from ZODB.POSException import ConflictError

    theirs, *ours = made(folder, "other.wav", "n0.wav", "n1.wav", "n2.wav")
    files = [IndexedFile((file.stem,), file) for file in ours]
    mine, other = db.open_connection(), db.open_connection(connection_id="other")

    mine.set_attribute("label", "uncommitted")
    ingest_files(other, [IndexedFile(("a",), theirs)], commit_every=1)
    with pytest.raises(ConflictError):
        ingest_files(mine, [IndexedFile(("a",), ours[0]), *files[1:]], commit_every=commit_every)
    assert list(mine.node_storage) == ["a"]
    assert mine.gn("a").get_attribute("file").filepath == str(theirs)
    assert not mine.attribute_storage  # the commit that failed held this too
    assert ingest_files(mine, files, commit_every=commit_every).ingested == 3
    db.abort()
    assert sorted(mine.node_storage) == ["a", "n0", "n1", "n2"]


def test_a_commit_that_fails_leaves_what_was_committed_before(folder: Path, db: LOTDB) -> None:
    from ZODB.POSException import ConflictError

    files = numbered(folder, 5)
    mine, other = db.open_connection(), db.open_connection(connection_id="other")

    def source() -> Iterator[IndexedFile]:
        yield from files[:3]
        other._p_jar.sync()
        assert list(other.node_storage) == ["n0", "n1"]
        ingest_files(other, [IndexedFile(("n3",), files[4].file)], commit_every=1)
        yield from files[3:]

    with pytest.raises(ConflictError):
        ingest_files(mine, source(), commit_every=2)
    for _ in range(2):
        assert list(mine.node_storage) == ["n0", "n1", "n3"]
        assert mine.gn("n3").get_attribute("file").filepath == str(files[4].file)
        db.abort()
    assert ingest_files(mine, files, commit_every=2) == IngestReport(2, 3, 1)
    db.abort()
    assert list(mine.node_storage) == [item.path[0] for item in files]


#: What ends a run, after the files before it: the item that does, or the error that the source raises.
ENDS: dict[str, tuple[Any, type[BaseException]]] = {
    "exists": (("there",), ExistsError),
    "missing extra": (("extra",), MissingExtraError),
    "source": (RuntimeError("source"), RuntimeError),
    "interrupt": (KeyboardInterrupt(), KeyboardInterrupt),
    "no file": ("a.wav", ArgumentTypeError),
    "no path": ((), ArgumentError),
}


def ending(files: list[IndexedFile], end: Any, file: Path, closed: list[bool]) -> Iterator[IndexedFile]:
    try:
        yield from files
        if isinstance(end, BaseException):
            raise end
        yield IndexedFile(end, file) if isinstance(end, tuple) else end
        pytest.fail("the run went on")
    finally:
        closed.append(True)


@pytest.fixture
def without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, "PIL", None)


def plain(node: BaseNode) -> Any:
    """`content_of`, with data as what is read of it."""
    name, attributes, children = content_of(node)
    read = {key: value.read() if hasattr(value, "read") else value for key, value in attributes.items()}
    return name, read, {key: plain(node.node_storage[key]) for key in children}


@pytest.mark.usefixtures("without_pillow")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("commit_every", [None, 1, 2, 3, 5])
@pytest.mark.parametrize("content", [False, True])
def test_an_error_that_ends_the_run_undoes_all_since_the_last_commit(
    folder: Path, db: LOTDB, end: str, commit_every: int | None, content: bool
) -> None:
    if end == "missing extra":
        content = True
    last, error = ENDS[end]
    files = numbered(folder, 4)
    extra, other = made(folder, "extra.png", "other.txt")
    attribute = "data" if content else "file"
    if_exists = "error" if end == "exists" else "replace"
    root = db.open_connection()
    root.gn("n4").set_attribute("label", "committed")
    root.gn("there").set_attribute(attribute, "committed")
    if if_exists == "replace":
        root.gn("n3").set_attribute(attribute, "committed")
    db.commit()
    committed = plain(root)
    root.gn("n4").set_attribute("label", "uncommitted")
    root.gns(["mine", "too"]).set_attribute("x", 1)
    uncommitted = plain(root)
    files = [*files[:3], IndexedFile(("deep", "er"), other), files[3]]
    last_commit = 0 if commit_every is None else len(files) // commit_every * commit_every

    # The same, on a tree in memory, with the files up to the last commit.
    expected = BaseNode("db")
    expected.gn("n4").set_attribute("label", "uncommitted")
    expected.gn("there").set_attribute(attribute, "committed")
    if if_exists == "replace":
        expected.gn("n3").set_attribute(attribute, "committed")
    expected.gns(["mine", "too"]).set_attribute("x", 1)
    assert plain(expected) == uncommitted
    ingest_files(expected, files[:last_commit], content=content, if_exists=if_exists)

    closed: list[bool] = []
    source = ending(files, last, extra, closed)
    with pytest.raises(error):
        ingest_files(root, source, content=content, if_exists=if_exists, commit_every=commit_every)
    assert closed == [True]
    assert plain(root) == plain(expected)

    # The caller's changes are uncommitted as before, unless a commit of the run took them along.
    db.abort()
    assert plain(root) == (plain(expected) if last_commit else committed)

    # The connection still works, and holds nothing that was undone.
    report = ingest_files(root, files, content=content, if_exists="skip")
    assert report.failures == ()
    assert report.ingested == len(files) - last_commit - (if_exists == "replace" and last_commit < 5)
    db.commit()
    db.close_connection()
    root = db.open_connection()
    assert all(plain(root)[2][f"n{i}"][1][attribute] is not None for i in range(4))


def test_what_the_caller_changed_can_be_committed_after_an_error(folder: Path, db: LOTDB) -> None:
    root = db.open_connection()
    root.gns(["mine", "too"]).set_attribute("x", 1)
    before = content_of(root)
    with pytest.raises(RuntimeError):
        ingest_files(root, ending(numbered(folder, 3), RuntimeError("source"), folder, []), content=True)
    assert content_of(root) == before
    db.commit()
    db.close_connection()
    assert content_of(db.open_connection()) == before


@pytest.mark.usefixtures("without_pillow")
@pytest.mark.parametrize("end", ENDS)
def test_in_memory_an_error_that_ends_the_run_undoes_all(folder: Path, end: str) -> None:
    last, error = ENDS[end]
    files = numbered(folder, 3)
    (extra,) = made(folder, "extra.png")
    content, if_exists = end == "missing extra", "error" if end == "exists" else "replace"
    roots = BaseNode("root"), BaseNode("root")
    for root in roots:
        root.gn("there").set_attribute("file", "before")
        if if_exists == "replace":
            root.gn("n0").set_attribute("file", "before")
    with pytest.raises(error):
        ingest_files(roots[0], ending(files, last, extra, []), content=content, if_exists=if_exists)
    assert plain(roots[0]) == plain(roots[1])


def test_a_run_that_ends_keeps_what_was_committed_and_closes_its_source(folder: Path, db: LOTDB) -> None:
    root = db.open_connection()
    closed: list[bool] = []
    with pytest.raises(RuntimeError, match="^source$"):
        ingest_files(root, ending(numbered(folder, 3), RuntimeError("source"), folder, closed), commit_every=2)
    assert list(root.node_storage) == ["n0", "n1"]
    db.abort()
    assert list(root.node_storage) == ["n0", "n1"]
    assert closed == [True]


@pytest.mark.parametrize("commit_every", [None, 1])
def test_a_read_only_database(db: LOTDB, tmp_path: Path, commit_every: int | None) -> None:
    db.close()
    readonly = LOTDB(path=str(tmp_path / "db"), name="db", read_only=True)
    message = "ingest_files: the connection of 'db' is read-only; open the database without read_only=True"
    try:
        root = readonly.open_connection()
        with pytest.raises(ReadOnlyTreeError, match=f"^{re.escape(message)}$"):
            ingest_files(root, commit_every=commit_every)
        assert not root.node_storage
    finally:
        readonly.close()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"commit_every": 2}, ArgumentError, "commit_every=2 needs a tree in a database; 'root' is in memory$"),
        ({"commit_every": 0}, ArgumentError, "commit_every must be at least 1"),
        ({"backend": "hdf5"}, ArgumentError, "backend must be one of 'blob', 'zarr'"),
        ({"if_exists": "merge"}, ArgumentError, "if_exists must be one of 'update', 'skip', 'replace', 'error'"),
        ({"gone": True}, ArgumentError, "gone must be one of 'report', 'delete'"),
        ({"attribute": ""}, ArgumentTypeError, "attribute must be the name"),
        ({"attribute": 3}, ArgumentTypeError, "attribute must be the name"),
        ({"samplerate_hz": 0}, ArgumentError, "samplerate_hz must be more than 0"),
        ({"samplerate_hz": "8k"}, ArgumentTypeError, "samplerate_hz must be a number"),
        ({"content": True, "backend": "zarr"}, ArgumentError, "needs database="),
        ({"content": True, "backend": "zarr", "database": "db"}, ArgumentError, "needs database=.*, got str 'db'"),
    ],
)
def test_options_are_checked_before_any_file(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"ingest_files: .*{message}"):
        ingest_files(BaseNode("root"), **options)


def test_roots_and_files_that_are_none() -> None:
    with pytest.raises(ArgumentTypeError, match="ingest_files: expected a lotdb node"):
        ingest_files("root")  # type: ignore[call-overload]
    with pytest.raises(ArgumentTypeError, match=r"expected an IndexedFile, got str 'a\.wav'; index_files"):
        ingest_files(BaseNode("root"), ["a.wav"])  # type: ignore[list-item]
    for path in ((), ("",), ("a", ""), "abc", (1,)):
        with pytest.raises(ArgumentError, match=r"the path of /a\.wav must be a tuple of keys"):
            ingest_files(BaseNode("root"), [IndexedFile(path, Path("/a.wav"))])  # type: ignore[arg-type]


FORMATS = [("a.wav", "scipy", "scipy"), ("a.csv", "pandas", "pandas"), ("a.png", "PIL", "Pillow")]


@pytest.mark.parametrize(("name", "module", "package"), FORMATS)
def test_a_missing_package_ends_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str
) -> None:
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    (folder / name).touch()
    root = BaseNode("root")
    with pytest.raises(MissingExtraError, match=rf'needs {package}, .*; pip install "lotproc\[files\]"'):
        ingest_files(root, files_of(folder), content=True)
    assert not root.node_storage


def test_missing_zarr_ends_the_run(folder: Path, db: LOTDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    np.save(folder / "a.npy", np.arange(3))
    root = db.open_connection()
    with pytest.raises(MissingExtraError, match=r'needs zarr, .*; pip install "lotproc\[zarr\]"'):
        ingest_files(root, files_of(folder), content=True, backend="zarr", database=db)
    assert not root.node_storage


def test_without_extras_what_needs_none_is_read(folder: Path) -> None:
    (folder / "a.txt").write_text("fine")
    (folder / "a.wav").touch()
    root = BaseNode("root")
    files = [IndexedFile((item.file.suffix,), item.file) for item in files_of(folder)]
    if importlib.util.find_spec("scipy") is None:
        with pytest.raises(LotprocError):
            ingest_files(root, files, content=True)
        assert list(root.node_storage) == []
        assert ingest_files(root, files[:1], content=True).ingested == 1
    else:
        assert len(ingest_files(root, files, content=True).failures) == 1
    assert list(root.node_storage) == [".txt"]


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (IngestReport(), "0 files ingested, nothing to commit"),
        (IngestReport(1), "1 file ingested, not committed"),
        (IngestReport(2, 1), "2 files ingested, 1 skipped, not committed"),
        (IngestReport(2, 1, 1), "2 files ingested, 1 skipped, 1 commit"),
        (IngestReport(2000, 3000, 1000), "2,000 files ingested, 3,000 skipped, 1,000 commits"),
        (
            IngestReport(2, 1, 1, (FileFailure(Path("/a"), ("a",), "it is empty"),)),
            "2 files ingested, 1 skipped, 1 failed, 1 commit\n  /a: it is empty",
        ),
        (
            IngestReport(failures=(FileFailure(Path("/a"), ("a",), "one"), FileFailure(Path("/b"), ("b",), "two"))),
            "0 files ingested, 2 failed, nothing to commit\n  /a: one\n  /b: two",
        ),
    ],
)
def test_a_report_as_text(report: IngestReport, text: str) -> None:
    assert str(report) == text


def test_reports_pickle_and_stages_with_a_root_do_not() -> None:
    failure = FileFailure(Path("/a.wav"), ("a",), "it is empty")
    report = IngestReport(1234, 1, 2, (failure,))
    assert pickle.loads(pickle.dumps(report)) == report
    assert str(report) == "1,234 files ingested, 1 skipped, 1 failed, 2 commits\n  /a.wav: it is empty"
    waiting = ingest_files(BaseNode("root"), content=True)
    assert repr(waiting) == "ingest_files(<root>, content=True)"
    with pytest.raises(NotPicklableError):  # what it ingests would go into a copy of the tree
        pickle.dumps(waiting)


# --- lotdb's functions ------------------------------------------------------------------------------------------------

SEPARATORS = st.fixed_dictionaries(
    {},
    optional={
        "parameter_separator": st.sampled_from([None, "-", ".", "_~_"]),
        "parameter_seperator": st.sampled_from([None, "-", "b"]),
        "file_extension": st.sampled_from(["wav", "WAV", "txt", "b"]),
        "filepath_attribute": st.just("audio"),
    },
)


@given(content=FOLDERS, options=SEPARATORS, relative=st.booleans())
@settings(deadline=None)
def test_the_same_trees_as_lotdb(
    content: dict[str, Any], options: dict[str, Any], relative: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    top = make(tmp_path_factory.getbasetemp() / f"law_{next(NUMBERS)}" / "top", content)
    given_path = os.path.relpath(top) if relative else f"{top}/"
    for name in (
        "load_files_directory",
        "load_files_folder",
        "load_small_files_directory",
        "load_small_files_folder",
    ):
        ours, theirs = BaseNode("root"), BaseNode("root")
        number = getattr(loading, name)(ours, given_path, **options)
        assert number == getattr(utils, name)(theirs, given_path, **options)
        keys_split_together = number != sum("audio" in key or "_pfo" in key for key in _attributes(ours))
        if keys_split_together:  # then the last one wins, which in lotdb is any
            assert _keys(ours) == _keys(theirs)
        else:
            assert content_of(ours) == content_of(theirs)
    shutil.rmtree(top.parent)


def _attributes(node: BaseNode) -> Iterator[str]:
    yield from node.attribute_storage
    for child in node.node_storage.values():
        yield from _attributes(child)


def _keys(node: BaseNode) -> dict[str, Any]:
    return {key: _keys(child) for key, child in node.node_storage.items()}


@pytest.mark.parametrize("given_path", [".", "..", "../files", "sub/", "sub/../sub"])
def test_odd_ways_to_name_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, given_path: str) -> None:
    make(folder / "sub", {"a.wav": None, "in": {"b.wav": None}})
    monkeypatch.chdir(folder)
    ours, theirs = BaseNode("root"), BaseNode("root")
    number = loading.load_files_directory(ours, given_path)
    assert number == utils.load_files_directory(theirs, given_path) == 2
    assert content_of(ours) == content_of(theirs)


def test_in_sorted_order_the_last_file_of_a_node_wins(folder: Path) -> None:
    for name in ("a-b.wav", "a_~_b.wav", "a_~_b-.wav"):
        (folder / name).touch()
    root = BaseNode("root")
    assert loading.load_files_folder(root, folder) == 3
    assert sorted(root.node_storage) == ["a", "a-b"]
    (folder / "x").mkdir()
    (folder / "x" / "y.wav").touch()
    (folder / "x-y.wav").touch()
    root = BaseNode("root")
    loading.load_files_directory(root, folder, "-")
    assert (
        PurePosixPath(root.gns(["files", "x", "y"]).get_attribute("_pfo_audio_wav").filepath) == folder / "x" / "y.wav"
    )


def test_both_spellings(folder: Path) -> None:
    (folder / "a-b.wav").touch()
    for option in ({"parameter_separator": "-"}, {"parameter_seperator": "-"}):
        root = BaseNode("root")
        loading.load_files_directory(root, str(folder), **option)
        assert _keys(root) == {"files": {"a": {"b": {}}}}
    root = BaseNode("root")
    loading.load_files_folder(root, str(folder), None, "-")
    assert _keys(root) == {"a": {"b": {}}}


def test_folders_that_are_not_there_and_trees_that_are_none(folder: Path) -> None:
    assert loading.load_files_directory(BaseNode("root"), folder / "gone") == 0
    with pytest.raises(FileNotFoundError):
        loading.load_files_folder(BaseNode("root"), folder / "gone")
    for function in (loading.load_files_directory, loading.load_files_folder):
        with pytest.raises(ArgumentTypeError, match="expected a lotdb node"):
            function("root", folder)


@pytest.mark.parametrize("content", [False, True])
def test_a_pipe_is_reported_and_not_waited_for(folder: Path, content: bool) -> None:
    os.mkfifo(folder / "pipe.wav")
    report = ingest_files(BaseNode("root"), [IndexedFile(("pipe",), folder / "pipe.wav")], content=content)
    assert [failure.reason for failure in report.failures] == ["it is no regular file"]
