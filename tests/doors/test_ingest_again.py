"""The same folder again: the tree is what the folder is, or was, and nothing else is touched."""

from __future__ import annotations

import os
import pickle
import shutil
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from lotdb import BaseNode
from recording import database, examples

import lotproc as lp
from lotproc import _gone, ingest

Keys = tuple[str, ...]

#: Files and folders that meet: `a.txt` beside `a/`, and one stem with two suffixes.
FILES = ["a.txt", "a.bin", "b.txt", "a/c.txt", "a/c/d.txt", "a/c/e/f.txt", "x/a.txt", "x/y/b.bin", "x/y/.b.txt"]
PATTERNS: dict[str, Any] = {
    "**/*.txt": lambda parts: parts[-1].endswith(".txt"),
    "**/*.bin": lambda parts: parts[-1].endswith(".bin"),
    "a/**/*.txt": lambda parts: parts[0] == "a" and parts[-1].endswith(".txt"),
    "*/*": lambda parts: len(parts) == 2,
}
SKIPS: dict[Any, Any] = {
    ".*": lambda parts: any(part.startswith(".") for part in parts),
    None: lambda parts: False,
    "c": lambda parts: "c" in parts,
    "a/c": lambda parts: parts[:2] == ("a", "c"),
}
changes = st.tuples(st.sampled_from(["write", "write", "remove", "remove folder"]), st.sampled_from(FILES))
runs = st.fixed_dictionaries(
    {
        "patterns": st.sampled_from([["**/*.txt"]] * 4 + [["**/*.bin"], ["a/**/*.txt"], ["*/*", "**/*.bin"]]),
        "skip": st.sampled_from([".*", ".*", None, "c", "a/c"]),
        "gone": st.sampled_from([None, "report", "delete", "delete"]),
        "if_exists": st.sampled_from(["update", "update", "skip", "replace"]),
    }
)
#: What is in the tree before: nodes of no file, with something on them or below.
PLANTS: list[Keys] = [("x",), ("x", "a", "_proc"), ("a", "c", "notes"), ("z",)]
NUMBERS = count(1)


def write(file: Path) -> None:
    """Other content, at another time."""
    number = next(NUMBERS)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"%d" % number)
    os.utime(file, ns=(number * 10**9,) * 2)


def change(folder: Path, how: str, name: str) -> None:
    file = folder / name
    if how == "write":
        write(file)
    elif how == "remove":
        file.unlink(missing_ok=True)
    elif file.parent != folder:
        shutil.rmtree(file.parent, ignore_errors=True)


def listed(folder: Path, run: dict[str, Any], key: str) -> dict[Keys, Path]:
    """What a run finds in the folder."""
    found = {}
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.is_file() and is_for(run, parts):
            found[(*parts[:-1], file.stem if key == "stem" else file.name)] = file
    return found


def is_for(run: dict[str, Any], parts: Keys) -> bool:
    return any(PATTERNS[each](parts) for each in run["patterns"]) and not SKIPS[run["skip"]](parts)


def expected(
    known: dict[Keys, tuple[Path, bytes]], folder: Path, run: dict[str, Any], key: str, content: bool
) -> tuple[dict[Keys, tuple[Path, bytes]], list[lp.IndexedFile]] | None:
    """What the nodes have behind a run, and which files are gone; `None` where it is refused."""
    there = {path: (file, file.read_bytes()) for path, file in listed(folder, run, key).items()}
    after, gone = dict(known), []
    for path, (file, data) in there.items():
        before = known[path][0] if path in known else None
        is_read_again = content and run["if_exists"] == "update" and before == file
        is_free = before is None or (run["gone"] and not before.is_file())
        if is_free or is_read_again or run["if_exists"] == "replace":
            after[path] = file, data
    for path, (file, _) in known.items():
        parts = file.relative_to(folder).parts
        if run["gone"] and path not in there and not file.is_file() and is_for(run, parts):
            gone.append(lp.IndexedFile(path, file))
    if run["gone"] == "delete":
        if gone and not there:
            return None
        for each in gone:
            del after[each.path]
    return after, sorted(gone, key=lambda each: each.path)


def has(root: BaseNode, content: bool) -> dict[Keys, Any]:
    """What the nodes of a tree have, by their paths."""
    found = {}
    for node in lp.walk(root, min_depth=1):
        value = node.attribute_storage.get("data" if content else "file")
        if value is not None:
            found[tuple(node.gps())] = value.read_bytes() if content else value.path
    return found


@pytest.mark.filterwarnings("ignore:index_files. none of")
@given(
    steps=st.lists(st.tuples(st.lists(changes, max_size=5), runs), min_size=1, max_size=5),
    key=st.sampled_from(["stem", "name"]),
    content=st.booleans(),
    where=st.sampled_from(["memory", 1, 2, "auto", None]),
    is_fast=st.booleans(),
    planted=st.booleans(),
)
@example(  # one stem, of another file now
    steps=[
        ([("write", "a.txt")], {"patterns": ["**/*.txt"], "skip": ".*", "gone": None, "if_exists": "update"}),
        (
            [("remove", "a.txt"), ("write", "a.bin")],
            {"patterns": ["**/*.bin"], "skip": ".*", "gone": "delete", "if_exists": "skip"},
        ),
    ],
    key="stem",
    content=False,
    where="auto",
    is_fast=True,
    planted=False,
)
@settings(deadline=None, max_examples=examples(200))
def test_the_tree_is_what_the_folder_is(
    steps: list[Any],
    key: Any,
    content: bool,
    where: Any,
    is_fast: bool,
    planted: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"again_{next(NUMBERS)}"
    folder.mkdir()
    with ExitStack() as at, mock.patch.object(ingest, "FAST", is_fast), mock.patch.object(_gone, "FAST", is_fast):
        at.callback(shutil.rmtree, folder)
        db = None if where == "memory" else at.enter_context(database())
        root = BaseNode("root") if db is None else db.open_connection()
        for path in PLANTS if planted else ():
            root.gns(path).set_attribute("label", "mine")
        if db is not None:
            db.commit()
        known: dict[Keys, tuple[Path, bytes]] = {}
        stays = set(PLANTS if planted else ())
        for made, run in steps:
            for how, name in made:
                change(folder, how, name)
            due = expected(known, folder, run, key, content)
            options = {"content": content, "if_exists": run["if_exists"], "gone": run["gone"]}
            if db is not None:
                options["commit_every"] = where
            files = lp.index_files(folder, run["patterns"], skip=run["skip"], key=key)
            before = has(root, content)
            if due is None:
                with pytest.raises(lp.ArgumentError) as caught:
                    lp.ingest_files(root, files, **options)
                assert caught.value.hint
                assert has(root, content) == before
                continue
            report = lp.ingest_files(root, files, **options)
            known, gone = due
            assert report.gone == tuple(gone)
            assert report.failures == ()
            found = has(root, content)
            assert found == {path: data if content else file for path, (file, data) in known.items()}
            assert report.ingested == len(set(found) - set(before)) + len(report.updated)
            assert set(report.updated) >= {path for path in before if path in found and before[path] != found[path]}
            assert report.ingested + report.skipped == len(listed(folder, run, key))
            if run["gone"] == "delete":
                gone_paths = {each.path for each in gone}
                stays -= {path for path in stays for each in gone_paths if path[: len(each)] == each}
                for leaf in lp.leaves(root):
                    path = tuple(leaf.gps())
                    assert path in known or path in PLANTS or path == ()
                assert stays <= set(paths_of(root))
            if db is not None and where is not None:
                db.abort()
                assert has(root, content) == found


def files_at(folder: Path, *names: str) -> None:
    for name in names:
        write(folder / name)


def paths_of(root: BaseNode) -> list[Keys]:
    return [tuple(node.gps()) for node in lp.walk(root, min_depth=1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


@pytest.mark.parametrize("place", ["memory", "database"])
def test_results_go_with_their_node_and_those_elsewhere_are_obsolete(folder: Path, place: str) -> None:
    files_at(folder, "ann/1.wav", "ann/2.wav", "bob/1.wav")
    with database() as db:
        top = BaseNode("top") if place == "memory" else db.open_connection()
        root = top.gns(["corpus"])
        lp.ingest_files(root, lp.index_files(folder), commit_every=None)
        results = [lp.ProcessResult(tuple(node.gps()), 1) for node in lp.leaves(root)]
        for policy in (lp.inline("_proc", "f0"), lp.mirror("features")):
            lp.write(policy, top, results, version="1")
        top.gns(["corpus", "bob", "1"]).set_attribute("label", "by hand")
        if place == "database":
            db.commit()
        shutil.rmtree(folder / "bob")
        report = lp.ingest_files(root, lp.index_files(folder), gone="report")
        assert [each.path for each in report.gone] == [("bob", "1")]
        assert (report.deleted, report.commits) == (0, 0)
        report = lp.ingest_files(root, lp.index_files(folder), gone="delete")
        # bob/1, what is below it, and bob
        assert (report.deleted, report.commits) == (4, int(place == "database"))
        assert paths_of(root)[0] == ("corpus", "ann")
        assert ("corpus", "bob") not in paths_of(root)
        left = lp.obsolete(lp.mirror("features"), top, lp.leaves(root, skip="_proc"))
        assert [record.path for record in left] == [("features", "corpus", "bob", "1")]


def test_a_node_with_another_file_loses_its_own_alone(folder: Path) -> None:
    files_at(folder, *(f"{number}.{suffix}" for number in (1, 2, 3) for suffix in ("wav", "TextGrid")))
    with database() as db:
        root = db.open_connection()
        for pattern in ("*.wav", "*.TextGrid"):
            lp.ingest_files(root, lp.index_files(folder, pattern), attribute=pattern[2:])
        (folder / "1.TextGrid").unlink()
        report = lp.ingest_files(root, lp.index_files(folder, "*.TextGrid"), attribute="TextGrid", gone="delete")
        assert ([each.file.name for each in report.gone], report.deleted, report.commits) == (["1.TextGrid"], 0, 1)
        db.abort()
        both = ["TextGrid", "wav"]
        assert [sorted(node.attribute_storage) for node in lp.leaves(root)] == [["wav"], both, both]
        (folder / "2.wav").unlink()
        (folder / "2.TextGrid").unlink()
        for pattern, deleted in (("*.wav", 0), ("*.TextGrid", 1)):
            report = lp.ingest_files(root, lp.index_files(folder, pattern), attribute=pattern[2:], gone="delete")
            assert (len(report.gone), report.deleted) == (1, deleted)
        assert paths_of(root) == [("1",), ("3",)]


def test_content_that_is_gone_takes_what_came_with_it_along(folder: Path) -> None:
    files_at(folder, "a.txt", "a/b.txt")
    root = BaseNode("root")
    lp.ingest_files(root, lp.index_files(folder, "**"), content=True)
    root.gn("a").set_attribute("label", 1)
    (folder / "a.txt").unlink()
    report = lp.ingest_files(root, lp.index_files(folder, "**"), content=True, gone="delete")
    assert ([each.path for each in report.gone], report.deleted, report.inner) == ([("a",)], 0, ())
    assert sorted(root.gn("a").attribute_storage) == ["label"]
    assert root.gns(["a", "b"]).read_data()


def test_what_the_listing_does_not_cover_stays(folder: Path, tmp_path: Path) -> None:
    files_at(folder, "a.wav", "b.wav", "in/c.wav", ".h/d.wav")
    files_at(tmp_path / "other", "e.wav")
    root = BaseNode("root")
    lp.ingest_files(root, lp.index_files(folder, skip=None))
    lp.ingest_files(root, lp.index_files(tmp_path / "other"))
    for key, file in (("moved", folder / "b.wav"), ("mine", folder / "never.wav")):
        lp.ingest_files(root, [lp.IndexedFile((key,), folder / "a.wav")])
        root.gn(key).get_attribute("file").filepath = str(file)
    root.gn("text").set_attribute("file", str(folder / "text.wav"))
    before = paths_of(root)
    shutil.rmtree(folder / "in")
    shutil.rmtree(folder / ".h")
    shutil.rmtree(tmp_path / "other")
    (folder / "b.wav").unlink()
    for pattern, skip, gone in (
        ("a*.wav", ".*", []),
        ("**/*.wav", ["in", ".*", "b.*"], []),
        ("**/*.wav", ["in/c.*", "b.wav"], [(".h", "d")]),
        ("**/*.wav", ".*", [("b",), ("in", "c")]),
    ):
        report = lp.ingest_files(root, lp.index_files(folder, pattern, skip=skip), gone="report")
        assert [each.path for each in report.gone] == gone
    assert paths_of(root) == before
    lp.ingest_files(root, lp.index_files(folder), gone="delete")
    assert set(before) - set(paths_of(root)) == {("b",), ("in",), ("in", "c")}


def test_a_folder_that_cannot_be_listed_deletes_nothing_below_it(folder: Path) -> None:
    files_at(folder, "a/1.wav", "a/2.wav", "b/1.wav", "b/c/2.wav", "c/1.wav")
    root = BaseNode("root")
    lp.ingest_files(root, lp.index_files(folder))
    before = has(root, False)
    (folder / "c" / "1.wav").unlink()
    files = lp.index_files(folder)
    next(files)  # one that ingest does not get is there all the same
    shutil.rmtree(folder / "b")
    report = lp.ingest_files(root, files, gone="delete")
    assert [failure.file for failure in report.failures] == [folder / "b"]
    assert [each.path for each in report.gone] == [("c", "1")]
    assert has(root, False) == {path: file for path, file in before.items() if path[0] != "c"}


def test_no_file_at_all_deletes_nothing(folder: Path) -> None:
    files_at(folder, "a.wav", "b/c.wav")
    root = BaseNode("root")
    lp.ingest_files(root, lp.index_files(folder))
    before = has(root, False)
    for name in ("a.wav", "b/c.wav"):
        (folder / name).unlink()
    assert len(lp.ingest_files(root, lp.index_files(folder), gone="report").gone) == 2
    with pytest.raises(lp.ArgumentError) as caught:
        lp.ingest_files(root, lp.index_files(folder), gone="delete")
    assert "delete()" in str(caught.value.hint)
    shutil.rmtree(folder)
    with pytest.raises(lp.ArgumentError):
        lp.ingest_files(root, lp.index_files(folder), gone="delete")
    assert has(root, False) == before


def test_files_behind_a_link_are_not_gone(folder: Path, tmp_path: Path) -> None:
    files_at(folder, "a/1.wav", "b/1.wav")
    root = BaseNode("root")
    lp.ingest_files(root, lp.index_files(folder))
    shutil.move(folder / "b", tmp_path / "elsewhere")
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    report = lp.ingest_files(root, lp.index_files(folder), gone="delete")
    assert (report.gone, len(has(root, False))) == ((), 2)


def test_what_is_of_another_folder_stays_also_where_this_one_has_a_file_for_it(folder: Path, tmp_path: Path) -> None:
    files_at(tmp_path / "other", "a.wav")
    files_at(folder, "a.wav", "b.wav")
    root = BaseNode("root")
    lp.ingest_files(root, lp.index_files(tmp_path / "other"))
    shutil.rmtree(tmp_path / "other")
    report = lp.ingest_files(root, lp.index_files(folder), gone="delete")
    assert (report.ingested, report.skipped, report.gone, report.updated) == (1, 1, (), ())
    assert has(root, False) == {("a",): tmp_path / "other" / "a.wav", ("b",): folder / "b.wav"}


@pytest.mark.parametrize("backend", ["blob", "zarr"])
@pytest.mark.parametrize("commit_every", ["memory", None, 1, 1000])
def test_content_of_a_folder_that_was_moved_takes_over_the_new_place(
    tmp_path: Path, commit_every: Any, backend: Any
) -> None:
    if backend == "zarr":
        pytest.importorskip("zarr")
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "s").mkdir(parents=True)
    for name in "1234":
        np.save(here / "s" / f"{name}.npy", np.arange(3))
    with database() as db:
        in_memory = commit_every == "memory"
        root = BaseNode("root") if in_memory else db.open_connection()
        options: dict[str, Any] = {"content": True, "backend": backend, "database": db}
        options |= {} if in_memory else {"commit_every": commit_every}

        def again(folder: Path, **more: Any) -> lp.IngestReport:
            report = lp.ingest_files(root, lp.index_files(folder, "**/*.npy"), **options, **more)
            if commit_every is None:
                db.commit()
            elif not in_memory:
                db.abort()
            return report

        again(here)
        stamps = [(record.attributes["data"], record.path) for record in lp.snapshot("data", lp.leaves(root))]
        here.rename(there)
        (there / "s" / "1.npy").unlink()
        np.save(there / "s" / "2.npy", np.arange(5))
        report = again(there, gone="delete")
        assert (report.ingested, report.skipped, report.deleted, report.gone) == (0, 3, 0, ())
        assert report.moved == (("s", "3"), ("s", "4"))
        assert report.elsewhere == tuple(lp.IndexedFile(("s", n), here / "s" / f"{n}.npy") for n in "12")
        assert report.commits == {"memory": 0, None: 0, 1: 2, 1000: 1}[commit_every]
        if commit_every == 1000:
            assert next(each.counts for each in lp.history(root)) == {"ingested": 0, "moved": 2}
        assert root.gns(["s", "3"]).get_attribute("_source_filepath").path == there / "s" / "3.npy"
        # results of what is as it was are not pending for that
        assert [(record.attributes["data"], record.path) for record in lp.snapshot("data", lp.leaves(root))] == stamps
        (there / "s" / "3.npy").unlink()
        np.save(there / "s" / "4.npy", np.arange(6))
        report = again(there, gone="delete")
        assert ([each.path for each in report.gone], report.updated) == ([("s", "3")], (("s", "4"),))
        assert len(report.elsewhere) == 2
        assert again(there, gone="report", if_exists="replace").elsewhere == report.elsewhere[:1]
        assert root.gns(["s", "2"]).read_data().shape == (5,)


def test_a_folder_that_was_copied_takes_over_nothing(folder: Path, tmp_path: Path) -> None:
    files_at(folder, "a.txt", "b.txt")
    root = BaseNode("root")
    lp.ingest_files(root, lp.index_files(folder, "*"), content=True)
    shutil.copytree(folder, tmp_path / "copy")
    again = lp.index_files(tmp_path / "copy", "*")
    assert lp.ingest_files(root, again, content=True, gone="delete") == lp.IngestReport(skipped=2)
    (folder / "a.txt").unlink()
    for if_exists in ("skip", "update"):
        again = lp.index_files(tmp_path / "copy", "*")
        report = lp.ingest_files(root, again, content=True, if_exists=if_exists)
        assert report.moved == ((("a",),) if if_exists == "update" else ())


def test_a_run_that_fails_takes_back_new_places(folder: Path, tmp_path: Path) -> None:
    files_at(folder, "a.txt")
    root = BaseNode("root")
    lp.ingest_files(root, lp.index_files(folder, "*"), content=True)
    folder.rename(tmp_path / "moved")
    files = [lp.IndexedFile(("a",), tmp_path / "moved" / "a.txt"), None]
    before = root.gn("a").get_attribute("_source_filepath").path
    with pytest.raises(lp.ArgumentTypeError):
        lp.ingest_files(root, files, content=True)  # type: ignore[arg-type]
    assert root.gn("a").get_attribute("_source_filepath").path == before
    assert root.gn("a").get_attribute("data").get_metadata("ingested_from")[0] == str(before)


def test_a_new_place_is_committed_where_the_file_cannot_be_read_any_more(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "a.npy", np.arange(3))
    with database() as db:
        root = db.open_connection()
        lp.ingest_files(root, lp.index_files(folder, "*"), content=True)
        folder.rename(tmp_path / "moved")
        with mock.patch.object(ingest, "read", side_effect=ingest.Unusable("it is broken")):
            again = lp.index_files(tmp_path / "moved", "*")
            report = lp.ingest_files(root, again, content=True, samplerate_hz=5)
        assert report.failures[0].reason == "it is broken; its node keeps what was read before"
        assert (report.moved, report.commits) == ((("a",),), 1)


def test_what_was_read_of_a_broken_file_stays_and_is_told(folder: Path) -> None:
    np.save(folder / "a.npy", np.arange(3))
    root = BaseNode("root")
    lp.ingest_files(root, lp.index_files(folder, "*"), content=True)
    for name in ("a.npy", "b.npy"):
        (folder / name).write_bytes(b"no array")
    reasons = [each.reason for each in lp.ingest_files(root, lp.index_files(folder, "*"), content=True).failures]
    assert [reason.endswith("; its node keeps what was read before") for reason in reasons] == [True, False]
    assert root.gn("a").read_data().shape == (3,)


def test_references_to_another_folder_that_are_broken_are_told(folder: Path, tmp_path: Path) -> None:
    files_at(folder, "a.wav", "s/b.wav", "s/c.wav")
    root = BaseNode("root")
    lp.ingest_files(root, lp.index_files(folder))
    folder.rename(tmp_path / "moved")
    (tmp_path / "moved" / "s" / "c.wav").unlink()
    report = lp.ingest_files(root, lp.index_files(tmp_path / "moved"), gone="report")
    assert [each.path for each in report.elsewhere] == [("a",), ("s", "b"), ("s", "c")]
    lines = str(report).splitlines()
    assert lines[0] == "0 files ingested, 2 skipped, 3 gone elsewhere, nothing to commit"
    assert [line.startswith(f"  3 nodes are of files that are gone from {folder},") for line in lines[1:]] == [True]
    assert "3 gone elsewhere" in report._repr_html_()
    report = lp.ingest_files(root, lp.index_files(tmp_path / "moved"), if_exists="replace", gone="report")
    assert [each.path for each in report.elsewhere] == [("s", "c")]
    assert "1 node is of a file that is gone from" in str(report)


def test_gone_needs_a_whole_folder(folder: Path) -> None:
    files_at(folder, "a.wav")
    root = BaseNode("root")
    for files in ([], list(lp.index_files(folder)), filter(None, lp.index_files(folder))):
        with pytest.raises(lp.ArgumentTypeError) as caught:
            lp.ingest_files(root, files, gone="delete")
        assert "skip=" in str(caught.value.hint)
    assert paths_of(root) == []


@pytest.mark.parametrize("commit_every", ["memory", None, 1])
def test_a_deletion_that_fails_undoes_what_was_not_committed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, commit_every: Any
) -> None:
    files_at(folder, "a.wav", "a/b.wav", "c.wav")
    with database() as db:
        root = BaseNode("root") if commit_every == "memory" else db.open_connection()
        options = {} if commit_every == "memory" else {"commit_every": commit_every}
        lp.ingest_files(root, lp.index_files(folder), **options)
        if commit_every is None:
            db.commit()
        before = has(root, False)
        files_at(folder, "new.wav")
        for name in ("a.wav", "c.wav"):
            (folder / name).unlink()
        monkeypatch.setattr(ingest, "delete", mock.Mock(side_effect=OSError("the disk is full")))
        with pytest.raises(OSError, match="full"):
            lp.ingest_files(root, lp.index_files(folder), gone="delete", **options)
        committed = {("new",): folder / "new.wav"} if commit_every == 1 else {}
        lost = [("a",)] if commit_every == 1 else []  # committed before the deletion
        assert has(root, False) == {path: file for path, file in (before | committed).items() if path not in lost}


def test_data_of_ones_own_stay_and_so_does_content_of_older_versions(folder: Path) -> None:
    for name in ("a.npy", "b.npy", "c.npy"):
        np.save(folder / name, np.arange(3))
    root = BaseNode("root")
    lp.ingest_files(root, lp.index_files(folder, "*"), content=True)
    root.gn("a").write_data(np.arange(2), backend="blob", data_attribute="data")  # in place of what was read
    del root.gn("b").get_attribute("data").metadata["ingested_from"]  # as they were without it
    for name in ("a.npy", "b.npy", "c.npy"):
        np.save(folder / name, np.arange(5))
    report = lp.ingest_files(root, lp.index_files(folder, "*"), content=True)
    assert (report.ingested, report.skipped, report.updated) == (1, 2, (("c",),))
    assert [len(node.read_data()) for node in lp.leaves(root)] == [2, 3, 5]
    assert lp.ingest_files(root, lp.index_files(folder, "*"), content=True) == lp.IngestReport(skipped=3)
    report = lp.ingest_files(root, lp.index_files(folder, "*"), content=True, samplerate_hz=100)
    assert report.updated == (("c",),)
    report = lp.ingest_files(root, lp.index_files(folder, "*"), content=True, if_exists="replace")
    assert report.updated == (("a",), ("b",), ("c",))


def test_a_commit_says_what_it_deleted(folder: Path) -> None:
    files_at(folder, "a.wav", "b.wav")
    with database() as db:
        root = db.open_connection()
        lp.ingest_files(root, lp.index_files(folder))
        (folder / "b.wav").unlink()
        lp.ingest_files(root, lp.index_files(folder), gone="delete")
        assert next((each.stage, each.counts) for each in lp.history(root)) == ("delete", {"deleted": 1})


# --- The report -------------------------------------------------------------------------------------------------------

LONG = lp.IngestReport(
    30,
    commits=1,
    updated=tuple((f"u{number}", "<b>") for number in range(25)),
    gone=tuple(lp.IndexedFile((f"g{number}",), Path(f"/x/<g{number}>.wav")) for number in range(300)),
    deleted=301,
)


def test_a_report_as_text_has_the_beginning_of_each_list() -> None:
    lines = str(LONG).splitlines()
    assert lines[0] == "30 files ingested, 25 of them again, 300 gone, 301 nodes deleted, 1 commit"
    assert lines[1] == "  u0/<b>: was ingested again"
    assert lines[21:23] == ["  … 5 more", "  /x/<g0>.wav: is gone"]
    assert lines[-1] == "  … 280 more"


def test_a_report_as_html_has_lists_that_open() -> None:
    text = LONG._repr_html_()
    assert text.count("<details>") == text.count("</details>") == 2
    assert text.count("<li>") == text.count("</li>") == 25 + 200 + 1
    assert "100 more" in text
    assert "&lt;g0&gt;" in text
    assert "<g0>" not in text
    assert "<details>" not in lp.IngestReport()._repr_html_()


@pytest.mark.parametrize(("number", "is_open"), [(1, True), (20, True), (21, False)])
def test_failures_that_are_few_are_seen_at_once(number: int, is_open: bool) -> None:
    failed = tuple(lp.FileFailure(Path(f"/x/{n}.wav"), (str(n),), "it is empty") for n in range(number))
    written = tuple(lp.Failure((str(n),), "ValueError", "it is empty") for n in range(number))
    for report in (lp.IngestReport(failures=failed), lp.WriteReport(failures=written)):
        assert ('<details open="open">' in report._repr_html_()) == is_open
        assert ("<details>" in report._repr_html_()) != is_open


def test_a_report_without_what_it_did_not_have_once_is_pickled_as_it_was() -> None:
    report = lp.IngestReport(1)
    assert sorted(report.__getstate__()) == ["commits", "failures", "ingested", "skipped"]
    assert pickle.loads(pickle.dumps(report)) == report
    assert pickle.loads(pickle.dumps(LONG)) == LONG


@pytest.mark.parametrize("gone", ["report", "delete"])
@pytest.mark.parametrize("first", ["stem", "name"])
def test_files_that_were_ingested_under_another_key_are_told(folder: Path, first: Any, gone: Any) -> None:
    for name in ("a.txt", "x/b.txt"):
        write(folder / name)
    root = BaseNode("root")
    lp.ingest_files(root, lp.index_files(folder, "**/*.txt", key=first))
    other: Any = "name" if first == "stem" else "stem"
    with pytest.warns(UserWarning, match=r"2 files .* another key="):
        report = lp.ingest_files(root, lp.index_files(folder, "**/*.txt", key=other), gone=gone)
    assert (report.ingested, report.gone) == (2, ())  # and nothing is deleted that somebody may have labelled
    assert len(list(lp.leaves(root))) == 4
