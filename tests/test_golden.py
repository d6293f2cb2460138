"""What an older lotproc has pickled and stored is read on, and counts as what it was."""

from __future__ import annotations

import pickle
import pickletools
import shutil
from pathlib import Path
from typing import Any

import golden_values
import numpy as np
import pytest
from lotdb import LOTDB

import lotproc as lp

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "golden")
    return tmp_path / "golden"


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist())
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, BaseException):
        assert (found.args, vars(found), str(found)) == (expected.args, vars(expected), str(expected))
    else:
        assert (repr(found), found) == (repr(expected), expected)


@pytest.mark.parametrize("kind", ["values", "errors"])
def test_what_was_pickled_is_what_it_was(kind: str) -> None:
    found, expected = pickle.loads((GOLDEN / f"{kind}.pickle").read_bytes()), getattr(golden_values, kind)()
    assert_same(found, {name: expected[name] for name in found})  # there may be new ones since


def test_stages_that_were_pickled_are_the_same_stages() -> None:
    found, expected = pickle.loads((GOLDEN / "stages.pickle").read_bytes()), golden_values.stages()
    assert [*map(repr, found.values())] == [*map(repr, expected.values())]
    simple = [name for name in expected if name not in ("composed", "parallel_map")]  # which hold functions
    assert [found[name] for name in simple] == [expected[name] for name in simple]


@pytest.mark.parametrize("kind", golden_values.STORES)
def test_stores_hold_what_they_held(kind: str, folder: Path) -> None:
    if kind == "lmdb":
        pytest.importorskip("lmdb")
    with golden_values.opened(golden_values.STORES[kind](folder, "r")) as store:
        for path, output, attributes in golden_values.entries():
            [record] = [record for record in lp.records(..., store) if record.path == path]
            if isinstance(output, dict):
                assert_same(dict(record.attributes["result"]), output)
            else:
                assert_same(record.attributes["result"], output)
            assert {name: record.attributes[name] for name in attributes} == attributes


def moved(data: bytes, folder: Path) -> bytes:
    """A pickle in which the folder is another one than that where it was made."""
    operations = list(pickletools.genops(data))
    made = []
    for (operation, text, start), (_, _, end) in zip(
        operations, [*operations[1:], (None, None, len(data))], strict=True
    ):
        code = data[start:end]
        if operation.name == "BINUNICODE":
            if text == "golden":  # of the parts of a path; an absolute one stands for itself
                text = str(folder)
            text = str(text).replace("/tmp/golden", str(folder)).encode()
            code = b"X" + len(text).to_bytes(4, "little") + text
        made.append(code)
    return b"".join(made)


def test_stores_that_were_pickled_are_opened_and_their_values_read(folder: Path) -> None:
    pytest.importorskip("lmdb")
    kept = pickle.loads(moved((GOLDEN / "stored.pickle").read_bytes(), folder))
    assert list(kept) == list(golden_values.STORES)
    for name, (store, payloads) in kept.items():
        assert repr(store) == repr(golden_values.STORES[name](folder, "r"))
        with golden_values.opened(store):
            for payload, (_, output, _) in zip(payloads, golden_values.entries(), strict=True):
                value = payload.read()
                is_all = isinstance(value, dict) and "result" in value  # of a store without metadata
                assert_same(value["result"] if is_all else value, output)


def test_a_tree_holds_what_it_held_and_what_was_done_is_done(folder: Path) -> None:
    database = LOTDB(path=str(folder), name="tree.fs")
    root = database.open_connection()
    for path, output, _ in golden_values.entries():
        node = root.get_node_path(list(path), create=False)
        found = node.get_attribute("result")
        if not isinstance(output, dict):
            assert_same(found, output)
            continue
        with found["copy"].open("r") as file:
            assert file.read() == output["copy"].content
        assert_same({**found, "copy": None}, {**output, "copy": None})
    [record] = lp.scan("result", root.get_node_path(["a", "y"], create=False))
    assert record.attributes["result"]["copy"].read() == golden_values.COPY.content
    assert [record.key for record in golden_values.left(root)] == []
    database.close()
