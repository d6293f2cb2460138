"""The databases that the soak program works on, and how it checks them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from lotdb import BaseNode
from ZODB.scripts import fsrefs, fstest

from benchmarks.soak_jobs import BATCH, VERSION
from benchmarks.trees import NAME, leaf_path, opened
from lotproc.resuming import retry_failed

Tree: TypeAlias = "dict[tuple[str, ...], dict[str, Any]]"

LEAVES = 2_000
RESULT = ("_proc", "double")


def build_numbers(folder: Path, *, stale: bool) -> None:
    """Build a tree of numbers; with `stale`, each has a result of another version already."""
    with opened(folder, new=True) as database:
        root = database.open_connection()
        for number in range(LEAVES):
            leaf = root.gns(list(leaf_path(number)))
            leaf.set_attribute("n", number)
            if stale:
                result = leaf.gns(list(RESULT))
                result.set_attribute("result", -1)
                result.set_attribute("_version", "v0")
        database.commit()


def contents(folder: Path) -> Tree:
    """All nodes with their attributes, by plain lotdb."""
    tree: Tree = {}
    with opened(folder) as database:
        waiting: list[tuple[tuple[str, ...], BaseNode]] = [((), database.open_connection())]
        while waiting:
            path, node = waiting.pop()
            tree[path] = dict(node.attribute_storage.items())
            waiting += [((*path, key), child) for key, child in node.node_storage.items()]
    return tree


def finished(base: Tree) -> Tree:
    """The tree when all is done."""
    tree = {path: dict(attributes) for path, attributes in base.items()}
    for number in range(LEAVES):
        path = leaf_path(number)
        tree.setdefault((*path, RESULT[0]), {})
        tree[(*path, *RESULT)] = {"result": 2 * number, "_version": VERSION}
    return tree


def done(tree: Tree) -> int:
    """How many results are there."""
    return sum(tree.get((*leaf_path(number), *RESULT), {}).get("_version") == VERSION for number in range(LEAVES))


def problems_midway(tree: Tree, base: Tree) -> Iterator[str]:
    """What is wrong with what an ended job has left: it must be whole batches, from the first on, and nothing else."""
    count = done(tree)
    if count % BATCH and count != LEAVES:
        yield f"{count} results are committed, which are not whole batches"
    whole = finished(base)
    expected = {path: dict(attributes) for path, attributes in base.items()}
    for number in range(count):
        for depth in (1, 2):
            path = (*leaf_path(number), *RESULT[:depth])
            expected[path] = whole[path]
    yield from differences(tree, expected)


def differences(tree: Tree, expected: Tree) -> Iterator[str]:
    for what, paths in (
        ("missing", expected.keys() - tree.keys()),
        ("too much", tree.keys() - expected.keys()),
        ("wrong", {path for path in expected.keys() & tree.keys() if expected[path] != tree[path]}),
    ):
        if paths:
            first = min(paths)
            yield f"{len(paths)} nodes {what}, first {'/'.join(first)}: {tree.get(first)}, not {expected.get(first)}"


def unsound(folder: Path) -> Iterator[str]:
    """What ZODB's own checkers say of a database that is not open."""
    file = str(folder / NAME)
    try:
        fstest.check(file)
        said = io.StringIO()
        with redirect_stdout(said):
            fsrefs.main(file)
    except Exception as error:
        yield f"checking the database: {type(error).__name__}: {error}"
    else:
        if said.getvalue():
            yield f"fsrefs: {said.getvalue()[:500]}"


def looked_at(folder: Path, room: Path) -> tuple[Tree, list[str]]:
    """The tree in a database and what the checkers say, seen in a copy in `room`: opening may mend what is torn."""
    with TemporaryDirectory(dir=room) as copies:
        copy = Path(shutil.copytree(folder, Path(copies, "copy")))
        tree = contents(copy)
        return tree, list(unsound(copy))


def problems_of_ledger(file: Path, folder: Path) -> Iterator[str]:
    """What is wrong with a ledger at the end: it knows of more than there is, or of failures where nothing failed."""
    if not file.exists():
        yield "there is no ledger"
        return
    written = 0
    for line in file.read_bytes().splitlines():
        try:
            written += json.loads(line).get("written", 0)
        except ValueError:  # torn
            continue
    if written > LEAVES:
        yield f"the ledger says that {written} results were written, of {LEAVES}"
    with opened(folder) as database:
        failed = [node.key for node in retry_failed(file, database.open_connection())]
    if failed:
        yield f"the ledger has failures: {failed[:5]}"
