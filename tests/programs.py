"""Programs in pages: what has a file's name is written to it; commands of a console are run, their output is checked.

```{code-block} python
:caption: hello.py

print("hello")
```

```console
$ python hello.py
hello
```
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sybil import Document, Example, Region
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer, RawFencedCodeBlockLexer

__all__ = ["consoles", "files", "files_of", "first_block", "run"]

_NAMED = re.compile(r"\{code-block\} \S+\n:caption: (?P<name>\S+)\n+")


def files(document: Document) -> Iterator[Region]:
    """Parse blocks with the names of files, which are written to the current directory."""
    for region in RawFencedCodeBlockLexer(_NAMED)(document):
        region.parsed, region.evaluator = region.lexemes["source"], _write
        yield region


def _write(example: Example) -> None:
    Path(example.region.lexemes["name"]).write_text(example.parsed)


def consoles(document: Document) -> Iterator[Region]:
    """Parse blocks of a console, whose commands begin with `$`; what they print on stdout must be there."""
    for region in FencedCodeBlockLexer("console")(document):
        region.parsed, region.evaluator = region.lexemes["source"], _check
        yield region


def _check(example: Example) -> str | None:
    for command, expected in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n?)*)", example.parsed, re.MULTILINE):
        done = run(command, stderr=subprocess.PIPE)
        if done.returncode or done.stdout.strip() != expected.strip():
            return f"$ {command}\n{done.stdout}\n{done.stderr}\nEnded with {done.returncode}; expected:\n{expected}"
    return None


def run(command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command with the Python that runs this, and what is installed for it.

    Args:
        command: As in a shell, without what only a shell does.
        options: More of `subprocess.run`. In `env` there is what is to be added.
    """
    name, *arguments = shlex.split(command)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **options.pop("env", {})}
    program = sys.executable if name == "python" else name
    return subprocess.run(
        [program, *arguments], env=environment, stdout=subprocess.PIPE, text=True, timeout=300, **options
    )


def files_of(page: Path) -> dict[str, str]:
    """The files that are in a page, by their names."""
    blocks = re.findall(rf"^```{_NAMED.pattern}(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return dict(blocks)


def first_block(page: Path) -> str:
    """The first Python in a page, which makes its data."""
    found = re.search(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, page
    return found[1]
