"""The layers in docs/design.md hold: a module imports only from rows above its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TREES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "lotproc").glob("*.py"))}


def documented_rows() -> dict[str, int]:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| *(\d+) *\|([^|]*)\|", design, re.MULTILINE)
    return {module: int(row) for row, modules in rows for module in re.findall(r"`(\w+)`", modules)}


ROWS = documented_rows()


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules of lotproc that a module imports, anywhere in its code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = ".".join(filter(None, ["lotproc" if node.level else "", node.module]))
            names = [source]
            if source == "lotproc":  # `from . import errors` names a module, `from lotproc import leaves` does not
                names = [f"lotproc.{alias.name}" if alias.name in TREES else source for alias in node.names]
        else:
            continue
        for name in names:
            package, _, module = name.partition(".")
            if package == "lotproc":
                yield module.split(".")[0] or "__init__"


def test_every_module_is_in_the_table() -> None:
    assert sorted(ROWS) == sorted(TREES)


@pytest.mark.parametrize("module", TREES)
def test_a_module_imports_only_from_rows_above(module: str) -> None:
    row = ROWS[module]
    wrong = {other for other in imported(TREES[module]) if ROWS[other] >= row and not ROWS[other] == row == 0}
    assert not wrong, f"{module} is in row {row} and imports {sorted(wrong)}, which are not above it"


def test_no_circles() -> None:
    TopologicalSorter({module: set(imported(tree)) for module, tree in TREES.items()}).prepare()


def test_no_module_is_called_like_a_public_function() -> None:
    functions = {
        node.name: module
        for module, tree in TREES.items()
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_")
    }
    assert not {f"{function} in {module}" for function, module in functions.items() if function in TREES}


@pytest.mark.parametrize("module", TREES)
def test_every_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(TREES[module])
