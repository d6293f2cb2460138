"""A glob where a regular expression is taken, and the other way round, is told; what is meant is not."""

from __future__ import annotations

import copy
import fnmatch
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st
from lotdb import BaseNode

import lotproc as lp
from lotproc._syntaxes import as_glob, as_regex, looks_like_a_glob, looks_like_a_regex

keys = st.text("ab1_-. +$^|(*?[\\", max_size=8)
globs = st.text("ab1_-.*?", min_size=1, max_size=8)
#: Regular expressions of the pieces that people write.
regexes = st.builds(
    lambda begin, pieces, end: begin + "".join(pieces) + end,
    st.sampled_from(["", "^"]),
    st.lists(
        st.sampled_from(
            ["a", "b", "1", "_", "-", ".", ".*", ".+", r"\.", r"\d", r"\d+", r"\w*", "[ab]", "[0-9]+", r"\*"]
        )
    ),
    st.sampled_from(["", "$"]),
)


@given(regex=regexes, key=keys)
def test_the_glob_of_a_regular_expression_matches_wherever_that_is_found(regex: str, key: str) -> None:
    glob = as_glob(regex)
    assert glob is not None
    if re.search(regex, key):
        assert fnmatch.fnmatchcase(key, glob)


@given(regex=st.text("a.*+?()[]{}|^$\\d1", max_size=8), key=keys)
def test_of_any_other_it_does_too_or_there_is_none(regex: str, key: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            is_found = re.search(regex, key) is not None
    except re.error:
        assume(False)
    glob = as_glob(regex)
    if is_found and glob is not None:
        assert fnmatch.fnmatchcase(key, glob)


@given(glob=globs, key=keys)
def test_the_regular_expression_of_a_glob_is_found_where_that_matches(glob: str, key: str) -> None:
    assert bool(re.search(as_regex(glob), key)) == fnmatch.fnmatchcase(key, glob)


@given(key=st.text(), glob=globs, regex=regexes)
def test_what_is_of_its_own_language_is_no_other(key: str, glob: str, regex: str) -> None:
    assert not looks_like_a_glob(re.escape(key))
    assert not looks_like_a_regex(glob)
    assert not looks_like_a_glob(as_regex(glob))
    assert not looks_like_a_glob(f"^{regex}")


@pytest.mark.parametrize("glob", ["clip_*.wav", "_*", "clip_*", "clip_?", "clip_??.wav", "speaker-*"])
def test_globs_that_are_regular_expressions_as_well_are_told_apart(glob: str) -> None:
    assert looks_like_a_glob(glob)


@pytest.mark.parametrize(
    "regex", ["clip", "clips?", "colou?r", "clip_.*", "^_", "a.b", "[0-9]*", r"\d+", "(a|b)*", "a.wav"]
)
def test_regular_expressions_are_told_apart(regex: str) -> None:
    assert not looks_like_a_glob(regex)


GLOB_TAKERS: dict[str, Callable[[str, Path], Any]] = {
    "leaves": lambda glob, folder: lp.leaves(skip=glob),
    "level": lambda glob, folder: lp.level(2, skip=glob),
    "children": lambda glob, folder: lp.children(skip=glob),
    "walk": lambda glob, folder: lp.walk(skip=glob),
    "glob": lambda glob, folder: lp.glob(glob),
    "match_path": lambda glob, folder: lp.match_path(glob),
    "scan": lambda glob, folder: lp.scan((), path=glob),
    "scan, skip": lambda glob, folder: lp.scan((), skip=glob),
    "partitions": lambda glob, folder: lp.partitions(2, skip=glob),
    "index_files": lambda glob, folder: lp.index_files(folder, glob),
    "index_files, skip": lambda glob, folder: lp.index_files(folder, skip=glob),
}
REGEX_TAKERS: dict[str, Callable[[str], Any]] = {
    "match_key": lambda regex: lp.match_key(regex),
    "scan": lambda regex: lp.scan((), where=regex),
    "scan, several": lambda regex: lp.scan((), where=[regex, {"seconds": 1.0}]),
    "filter_node_list": lambda regex: lp.filter_node_list(regex, []),
}


@pytest.mark.parametrize("take", GLOB_TAKERS.values(), ids=GLOB_TAKERS)
@pytest.mark.parametrize(
    ("glob", "instead"), [("^Clip_", "'Clip_*'"), (r"clip_\d+\.wav$", "*clip_*.wav'"), ("a|b", "")]
)
def test_a_regular_expression_where_a_glob_is_taken_is_told(
    take: Callable[[str, Path], Any], glob: str, instead: str, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="looks like a regular expression") as caught:
        take(glob, tmp_path)
    [warning] = caught
    assert repr(glob) in str(warning.message)
    assert instead in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize("take", REGEX_TAKERS.values(), ids=REGEX_TAKERS)
def test_a_glob_where_a_regular_expression_is_taken_is_told(take: Callable[[str], Any]) -> None:
    with pytest.warns(UserWarning, match="looks like a glob") as caught:
        take("clip_*.wav")
    [warning] = caught
    assert repr(r"^clip_.*\.wav$") in str(warning.message)
    assert warning.filename == __file__


def test_what_is_meant_can_be_said() -> None:
    lp.match_key(re.compile("clip_*.wav"))
    lp.leaves(skip="[^]_*")
    lp.match_path(("ann", "^clip"))
    root = BaseNode("root")
    root.gn("^clip")
    assert [node.key for node in lp.glob(("^clip",), root)] == ["^clip"]
    assert [node.key for node in lp.leaves(root, skip="[^]clip")] == ["root"]


def test_it_is_told_where_it_is_written_and_not_again_where_it_is_unpickled_or_copied() -> None:
    with pytest.warns(UserWarning, match="looks like"):
        stages = [lp.leaves(skip="^_"), lp.match_key("_*")]
    for stage in stages:
        assert pickle.loads(pickle.dumps(stage)) == copy.copy(stage) == stage


def test_a_pattern_of_files_that_can_find_nothing_is_told_what_it_looks_like(tmp_path: Path) -> None:
    with pytest.raises(lp.PatternError, match="looks like a regular expression") as caught:
        lp.index_files(tmp_path, r".*\.wav$")
    assert caught.value.hint is not None
    assert "'**/*.wav'" in caught.value.hint


# --- A pattern of paths of another length ----------------------------------------------------------------------------


@given(
    pattern=st.lists(st.sampled_from(["*", "**", "a", "?"]), min_size=1, max_size=4),
    paths=st.lists(st.lists(st.sampled_from("ab"), max_size=4).map(tuple), max_size=5),
    invert=st.booleans(),
)
def test_only_where_no_path_could_match_by_its_length_it_is_told(
    pattern: list[str], paths: list[tuple[str, ...]], invert: bool
) -> None:
    least = len(pattern) - pattern.count("**")
    fits = [len(path) == least or (len(path) > least and "**" in pattern) for path in paths]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        records = [lp.NodeRecord(path, "key") for path in paths]
        kept = list(lp.match_path(pattern, records, invert=invert))
    if paths and not any(fits):
        [warning] = caught
        assert "no path had as many" in str(warning.message)
        assert kept == (records if invert else [])
    else:
        assert not caught


def test_the_nearest_path_is_told_also_over_parts() -> None:
    batches = [[lp.NodeRecord(("ann", key), key)] for key in ("clip_1", "notes")]
    whole = lp.compose_left(lp.match_path("clip_*"), list)
    for mode in ("sync", "thread"):
        with pytest.warns(UserWarning, match="'clip_\\*' \\(the nearest that there was is 'ann/clip_1'\\)") as caught:
            assert list(lp.parallel_map(whole, batches, mode=mode)) == [[], []]
        assert len(caught) == 1
    batches.append([lp.NodeRecord(("clip_2",), "clip_2")])
    assert [len(kept) for kept in lp.parallel_map(whole, batches, mode="thread")] == [0, 0, 1]
