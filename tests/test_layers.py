"""The rooms of the package: imports go one way between them, and none in a circle; every example in them is run."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lotproc

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lotproc"

#: Rooms from the top down: a module imports only from its own room and from rows below. Rooms of one row do not know
#: each other. What is in no folder and not named here is foundation.
ROWS: list[dict[str, str]] = [
    {"facade": "__init__ targets pipeline processors"},
    {"doors": "scanning resuming parallel sources copying ingest export serialization views summaries testing"},
    {"workers": "workers", "writing": "writing", "tables": "tables"},
    {"stores": "stores"},
    {"zodb": "zodb"},
    {"stages": "traversal filters buffering write_policies snapshots payloads sampling _stamps"},
]


def name_of(path: Path) -> str:
    """The name of a module below the package; that of a folder for its `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
ROOMS = {
    module: next(
        (
            (row, room)
            for row, rooms in enumerate(ROWS)
            for room in rooms
            if module.split(".")[0] in rooms[room].split()
        ),
        (len(ROWS), "foundation"),
    )
    for module in TREES
}


def imported(module: str) -> Iterator[str]:
    """The modules of lotproc that a module imports, anywhere in its code, for type checkers too."""
    is_folder = (PACKAGE / module.replace(".", "/") / "__init__.py").exists()
    above = ["lotproc", *module.split(".")] if is_folder else ["lotproc", *module.split(".")[:-1]]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = above[: len(above) - node.level + 1] if node.level else []
            source = ".".join(filter(None, [*package, node.module]))
            # `from . import errors` names a module, `from lotproc import leaves` does not
            inside = [f"{source}.{alias.name}" for alias in node.names]
            names = [name if name.partition(".")[2] in TREES else source for name in inside]
        else:
            continue
        for name in names:
            package_name, _, rest = name.partition(".")
            if package_name == "lotproc":
                yield rest or "__init__"


@pytest.mark.parametrize("module", TREES)
def test_a_module_imports_only_from_its_own_room_and_from_those_below(module: str) -> None:
    wrong = [
        other for other in imported(module) if ROOMS[other] != ROOMS[module] and ROOMS[other][0] <= ROOMS[module][0]
    ]
    assert not wrong, f"{module} is of the {ROOMS[module][1]}, and these are not below it"


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
    public = {name: getattr(lotproc, name) for name in lotproc.__all__}
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
    sources = [*PACKAGE.rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    example = re.compile(r"^ *>>> |^```py", re.MULTILINE)
    written = {str(path.relative_to(ROOT)) for path in sources if example.search(path.read_text(encoding="utf-8"))}
    assert found == written
