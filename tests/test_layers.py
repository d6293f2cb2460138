"""The layers in docs/design.md hold: a module imports only from rows above its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lotproc"


def name_of(path: Path) -> str:
    """The name of a module below the package; that of a subpackage for its `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def documented_rows() -> dict[str, int]:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| *(\d+) *\|([^|]*)\|", design, re.MULTILINE)
    return {module: int(row) for row, modules in rows for module in re.findall(r"`([\w.]+)`", modules)}


ROWS = documented_rows()


def imported(module: str) -> Iterator[str]:
    """The modules of lotproc that a module imports, anywhere in its code, but for type checkers alone."""
    above = ["lotproc", *module.split(".")[:-1]]
    waiting: list[ast.AST] = [TREES[module]]
    while waiting:
        node = waiting.pop()
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            waiting += ast.iter_child_nodes(node)
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


def test_every_module_is_in_the_table() -> None:
    assert sorted(ROWS) == sorted(TREES)


@pytest.mark.parametrize("module", TREES)
def test_a_module_imports_only_from_rows_above(module: str) -> None:
    row = ROWS[module]
    wrong = {other for other in imported(module) if ROWS[other] >= row and not ROWS[other] == row == 0}
    assert not wrong, f"{module} is in row {row} and imports {sorted(wrong)}, which are not above it"


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
        if function in {name.rpartition(".")[2] for name in TREES}
    }


@pytest.mark.parametrize("module", TREES)
def test_every_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(TREES[module])
