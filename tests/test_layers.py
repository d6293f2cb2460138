"""The rooms of the package: imports go one way between them, and none in a circle; every example in them is run."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from rooms import PACKAGE, PICTURE, ROOT, TREES, imported, picture, room_of

import lotproc


@pytest.mark.parametrize("module", TREES)
def test_a_module_imports_only_from_its_own_room_and_from_those_below(module: str) -> None:
    row, room = room_of(module)
    others = {other: room_of(other) for other in imported(module)}
    wrong = [other for other, (below, name) in others.items() if name != room and below <= row]
    assert not wrong, f"{module} is of the room {room}, and these are not below it"


def test_the_picture_of_the_rooms_is_that_of_the_code() -> None:
    """`python tests/rooms.py` draws it anew."""
    assert PICTURE.read_text(encoding="utf-8") == picture()


def test_no_circles() -> None:
    TopologicalSorter({module: set(imported(module)) for module in TREES}).prepare()


def test_no_module_is_called_like_a_public_function() -> None:
    functions = {
        node.name: module
        for module, tree in TREES.items()
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_")
    }
    assert not {
        f"{function} in {module}"
        for function, module in functions.items()
        if function in TREES or f"stores.{function}" in TREES
    }


@pytest.mark.parametrize("module", TREES)
def test_every_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(TREES[module])


def test_what_is_public_says_that_it_comes_from_lotproc() -> None:
    """What is pickled by a name keeps that name, in whatever file it lies."""
    public = {name: getattr(lotproc, name) for name in lotproc.__all__ if name != "pipe"}
    named = {name: value for name, value in public.items() if inspect.isroutine(value) or inspect.isclass(value)}
    assert len(named) > 100
    assert {value.__module__ for value in named.values()} == {"lotproc"}
    assert {name: getattr(lotproc, value.__qualname__) for name, value in named.items()} == named


def test_every_example_is_run() -> None:
    """Those in folders that came later, too."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-qp",
        "no:cacheprovider",
        "lotproc",
        "docs",
        "README.md",
    ]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = {line.partition("::")[0] for line in collected.splitlines() if "::" in line}
    sources = [*PACKAGE.rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    example = re.compile(r"^ *>>> |^```py", re.MULTILINE)
    written = {str(path.relative_to(ROOT)) for path in sources if example.search(path.read_text(encoding="utf-8"))}
    assert found == written
