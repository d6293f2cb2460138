"""Code on the site fits its box, so that nobody has to scroll a line to the side to read it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rooms import ROOT, TREES

#: Characters of a line of code, where the window is 1300 pixels wide.
WIDTH = 86

DOCUMENTS = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
]


def code_of(document: str) -> Iterator[tuple[int, str]]:
    """The lines of the blocks of code of a page in Markdown, with their numbers."""
    around: list[tuple[str, bool]] = []  # fences that are open, and whether what they hold is code
    for number, line in enumerate(document.splitlines(), 1):
        opening = re.match(r"\s*(`{3,}|:{3,})(.*)", line)
        if around and line.strip().startswith(around[-1][0]) and not line.strip(" `:"):
            around.pop()
        elif around and around[-1][1]:
            yield number, line
        elif opening:
            directive = re.match(r"\{(.*?)\}", opening[2].strip())
            around.append((opening[1], directive is None or directive[1].startswith("code")))


def examples_of(docstring: str) -> Iterator[str]:
    """The lines of the examples of a docstring, and of their outputs."""
    shown = False
    for line in docstring.splitlines():
        shown = bool(line.strip()) and (shown or line.lstrip().startswith(">>>"))
        if shown:
            yield line


def test_the_lines_of_code_are_found() -> None:
    page = "text\n```python\na\n```\n:::{tip}\ntext\n```{code-cell}\n:::\nb\n```\ntext\n:::\n```\nc\n\n```\ntext"
    assert list(code_of(page)) == [(3, "a"), (8, ":::"), (9, "b"), (14, "c"), (15, "")]
    docstring = "text\n\n>>> a\nb\n\ntext\n    >>> c\n    ... d"
    assert list(examples_of(docstring)) == [">>> a", "b", "    >>> c", "    ... d"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_in_a_document_fits_its_box(path: Path) -> None:
    document = path.read_text(encoding="utf-8")
    included = [path.parent / name for name in re.findall(r"\{literalinclude\} (\S+)", document)]
    assert not [(number, line) for number, line in code_of(document) if len(line) > WIDTH]
    assert not [line for file in included for line in file.read_text("utf-8").splitlines() if len(line) > WIDTH]


@pytest.mark.parametrize("module", TREES)
def test_examples_in_docstrings_fit_their_box(module: str) -> None:
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(TREES[module]) if isinstance(node, nodes)]
    assert not [line for text in docstrings for line in examples_of(text) if len(line) > WIDTH]
