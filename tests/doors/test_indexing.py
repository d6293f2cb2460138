"""Which files of a folder are found: several patterns, what is left out, and the keys they get."""

from __future__ import annotations

import fnmatch
import os
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode

import lotproc as lp

FILES = ["a.wav", "A.txt", ".a.wav", "x/a.wav", "x/.b/c.wav", "x/b/c.wav", "x/b/C.TextGrid", "y/x/a.wav", "y/[z].wav"]
PATTERNS = ["**/*.wav", "*.wav", "x/**", "**/b/*", "**/*.textgrid", "*/*", "**/a.*", "**/[[]z].wav", "**"]
NAMES = [".*", "b", "A*", "*.txt", "x"]
PATHS: dict[str, Any] = {
    "x/*": lambda parts: parts[0] == "x" and len(parts) > 1,
    "Y/X": lambda parts: parts[:2] == ("y", "x"),
    "**/b/c.*": lambda parts: parts[-2:-1] == ("b",) and parts[-1].startswith("c."),
}
NUMBERS = count()


def is_skipped(parts: tuple[str, ...], skip: list[str]) -> bool:
    small = tuple(part.lower() for part in parts)
    by_name = any(fnmatch.fnmatchcase(part, glob.lower()) for part in small for glob in skip if glob not in PATHS)
    return by_name or any(PATHS[glob](small) for glob in skip if glob in PATHS)


@pytest.mark.filterwarnings("ignore:index_files. none of")
@given(
    files=st.sets(st.sampled_from(FILES)),
    patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3),
    skip=st.lists(st.sampled_from([*NAMES, *PATHS]), max_size=3),
)
@settings(deadline=None)
def test_what_any_pattern_finds_but_for_what_is_left_out(
    files: set[str], patterns: list[str], skip: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    top = tmp_path_factory.getbasetemp() / f"listed_{next(NUMBERS)}"
    top.mkdir()
    for name in files:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    of_each = [{item.file for item in lp.index_files(top, each, skip=None, key="name")} for each in patterns]
    expected = sorted(file for file in set().union(*of_each) if not is_skipped(file.relative_to(top).parts, skip))
    found = list(lp.index_files(top, patterns, skip=skip, key="name"))
    assert found == [lp.IndexedFile(file.relative_to(top).parts, file) for file in expected]
    shutil.rmtree(top)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ann/clip.wav", "ann/clip.TextGrid", "ann/._clip.wav", ".cache/old.wav", "drafts/clip.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_sound_and_its_transcript_go_in_by_their_names(folder: Path) -> None:
    files = lp.index_files(folder, ["**/*.wav", "**/*.TextGrid"], skip=[".*", "drafts"], key="name")
    assert [item.path for item in files] == [("ann", "clip.TextGrid"), ("ann", "clip.wav")]
    assert [item.path for item in lp.index_files(folder)] == [("ann", "clip"), ("drafts", "clip")]
    hidden = [item.file.name for item in lp.index_files(folder, skip=None)]
    assert hidden == ["old.wav", "._clip.wav", "clip.wav", "clip.wav"]


def test_folders_in_which_no_pattern_can_match_are_not_entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: entered.append(Path(path).name) or scandir(path))
    monkeypatch.setattr("lotproc.indexing._tell_of_nothing", lambda *args: None)  # which looks into all of them
    assert [item.path for item in lp.index_files(folder, ["drafts/*.wav", "ann/*/*", "*.wav"])] == [("drafts", "clip")]
    assert entered == [folder.name, folder.name, "ann", "drafts"]  # the first time to see whether it can be listed
    entered.clear()
    assert list(lp.index_files(folder, ["a*", "d*", "**/x*"], skip=["ann", "drafts/*", ".*"])) == []
    assert entered == [folder.name, folder.name, "drafts"]
    entered.clear()
    assert list(lp.index_files(folder, ["a*", "d*"])) == []
    assert entered == [folder.name, folder.name]


def test_two_files_of_one_stem_are_refused_before_any_of_their_folder(folder: Path) -> None:
    (folder / "ann" / "a.wav").touch()
    root = BaseNode("root")
    with pytest.raises(lp.ArgumentError) as caught:
        lp.ingest_files(root, lp.index_files(folder, "**"))
    assert caught.value.path == ("ann", "clip")
    assert 'key="name"' in str(caught.value.hint)
    assert all(name in str(caught.value) for name in ("clip.wav", "clip.TextGrid"))
    assert not root.node_storage
    assert len(list(lp.index_files(folder, "**", skip=["*.textgrid", ".*"]))) == 3


def test_a_pattern_for_what_is_left_out_is_refused(folder: Path) -> None:
    for pattern in (".cache/*.wav", "**/.*", "**/._*.wav"):
        with pytest.raises(lp.PatternError) as caught:
            lp.index_files(folder, ["**/*.wav", pattern])
        assert "skip=None" in str(caught.value.hint)
        assert list(lp.index_files(folder, pattern, skip=None))
        assert lp.index_files(folder, pattern, skip="drafts")


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ([("**", "*.wav")], {}, lp.ArgumentTypeError),
        ([["*.wav", 3]], {}, lp.ArgumentTypeError),
        ([None], {}, lp.ArgumentTypeError),
        ([[]], {}, lp.PatternError),
        ([["*.wav", "a//b"]], {}, lp.PatternError),
        ([], {"skip": 3}, lp.ArgumentTypeError),
        ([], {"skip": (".*",)}, lp.ArgumentTypeError),
        ([], {"skip": ["[x"]}, lp.PatternError),
        ([], {"skip": ["./x"]}, lp.PatternError),
        ([], {"skip": ""}, lp.PatternError),
        ([], {"key": "path"}, lp.ArgumentError),
        ([], {"key": None}, lp.ArgumentError),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    folder: Path, arguments: list[Any], options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match="index_files"):
        lp.index_files(folder, *arguments, **options)


@pytest.mark.parametrize("glob", ["*.{wav,mp3}", "{a,b}", "x{a,}y", "[x]{a,b}"])
def test_braces_are_refused_wherever_there_are_globs(folder: Path, glob: str) -> None:
    root = BaseNode("root")
    takers: list[Any] = [
        lambda: lp.index_files(folder, glob),
        lambda: lp.index_files(folder, f"**/{glob}"),
        lambda: lp.index_files(folder, skip=["x", glob]),
        lambda: lp.leaves(root, skip=glob),
        lambda: lp.walk(root, skip=glob),
        lambda: lp.glob(glob, root),
        lambda: lp.match_path(f"a/{glob}"),
        lambda: lp.match_path(("a", glob)),
        lambda: lp.scan((), path=glob),
        lambda: lp.scan((), skip=glob),
        lambda: lp.partitions(2, skip=glob),
        lambda: lp.match_path("a/{b/c,d}/*"),
    ]
    for take in takers:
        with pytest.raises(lp.PatternError) as caught:
            take()
        assert caught.value.hint


def test_braces_that_stand_for_themselves(folder: Path) -> None:
    names = ["{a,b}.wav", "{a}.wav", "a,b.wav"]
    for name in names:
        (folder / name).touch()
    found = [[item.file.name for item in lp.index_files(folder, glob)] for glob in ("[{]a,b}.*", "{a}.wav", "a,b.*")]
    assert found == [[name] for name in names]


def test_a_glob_in_place_of_a_regular_expression_is_told_where_globs_go() -> None:
    for stage, where in ((lambda: lp.match_key("*.wav"), "match_path"), (lambda: lp.scan((), where="*.wav"), "path=")):
        with pytest.raises(lp.PatternError) as caught:
            stage()
        assert f"{where}" in str(caught.value.hint)
        assert "'**/*.wav'" in str(caught.value.hint)
    with pytest.raises(lp.PatternError) as caught:
        lp.match_key("(a")
    assert caught.value.hint is None


def test_the_iterator_says_what_it_is_and_can_be_closed(folder: Path) -> None:
    files = lp.index_files(folder)
    assert repr(files) == f"<files of {str(folder)!r}>"
    assert iter(files) is files
    assert next(files).path == ("ann", "clip")
    files.close()  # type: ignore[attr-defined]
    assert list(files) == []


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (
            "*.wav",
            ["none of the 3 files", "'*.wav'", "'ann/clip.wav'", "; '**/*.wav' looks into the folders below, too"],
        ),
        ("CLIP.wav", ["'CLIP.wav'", "; '**/CLIP.wav' looks"]),
        ("ann/*.wave", ["'ann/clip.wav'"]),
        (["**/*.flac", "**/*.mp3"], ["'**/*.flac' or '**/*.mp3'"]),
        ("*/old.wav", ["; skip= leaves out 1 file that would"]),
        ("ann", ["the nearest is 'ann/clip.wav'"]),
    ],
)
def test_a_pattern_that_no_file_matches_is_told_at_the_end(folder: Path, pattern: Any, said: list[str]) -> None:
    with pytest.warns(UserWarning, match="^index_files: none of") as caught:
        assert list(lp.index_files(folder, pattern)) == []
    [warning] = caught
    assert all(part in str(warning.message) for part in said)
    assert warning.filename == __file__
    with pytest.warns(UserWarning, match="^index_files: none of") as caught:
        lp.ingest_files(BaseNode("root"), lp.index_files(folder, pattern))
    assert caught[0].filename == __file__


def test_a_folder_without_files_but_hidden_ones_is_not_worth_a_warning(tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    (tmp_path / ".DS_Store").touch()
    assert list(lp.index_files(tmp_path)) == []


def test_of_a_large_folder_only_some_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lotproc.indexing.LOOKED", 5)
    for number in range(9):
        (tmp_path / f"{number}.txt").touch()
    with pytest.warns(UserWarning, match="none of the more than 5 files"):
        assert list(lp.index_files(tmp_path)) == []


def test_how_many_more_pairs_there_are_is_told(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac", "b.wav", "b.flac", "c.wav"):
        (tmp_path / name).touch()
    with pytest.raises(lp.ArgumentError, match=r"'a.flac' and 'a.wav' \(and 1 more "):
        list(lp.index_files(tmp_path, "*"))
