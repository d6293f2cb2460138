"""The public names by task, from the comments of `lotproc/__init__.pyi`; and what other tools call what they do.

Needs nothing but Python, so that the tests can read it, too.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
PACKAGE = DOCS.parent / "lotproc"

#: The task of names that have others now. They stand in the stub where they came from.
OLDER = "Older names"
#: Tasks whose names are short to describe: they are on the page of the task, and have none of their own.
ON_ONE_PAGE = ("Errors", OLDER)


def older_names() -> set[str]:
    """The names that work and are not offered, from `lotproc/__init__.py`."""
    for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_OLDER":
            return {str(part.value) for part in ast.walk(node.value) if isinstance(part, ast.Constant)}
    raise LookupError("lotproc/__init__.py has no _OLDER")


@cache
def names_by_task() -> dict[str, list[str]]:
    """Each task with its names, in the order of the stub; the older names are the last one."""
    older = older_names()
    tasks: dict[str, list[str]] = {}
    heading = ""
    for line in (PACKAGE / "__init__.pyi").read_text(encoding="utf-8").splitlines()[1:]:
        if line.startswith("# "):
            heading = line[2:]
        elif found := re.fullmatch(r"from \S+ import \w+ as (\w+)", line):
            tasks.setdefault(OLDER if found[1] in older else heading, []).append(found[1])
    tasks[OLDER] = tasks.pop(OLDER)
    return tasks


@cache
def pages_of_tasks() -> dict[str, str]:
    """Each task with its page, which is written by hand and names it in `{names} TASK`."""
    found: dict[str, str] = {}
    for file in sorted((DOCS / "reference").glob("*.md")):
        for task in re.findall(r"^```{names} (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE):
            if task in found:
                raise ValueError(f"two pages have the names of {task!r}: {found[task]} and {file.name}")
            found[task] = f"reference/{file.stem}"
    return found


@cache
def pages_of_names() -> dict[str, str]:
    """Each name with its page: one of its own, or that of its task.

    Case alone does not tell files apart everywhere, so the page of `Write` has another name than that of `write`.
    """
    tasks = names_by_task()
    lower = {name for names in tasks.values() for name in names if name.islower()}
    of_tasks = pages_of_tasks()
    pages: dict[str, str] = {}
    for task, names in tasks.items():
        for name in names:
            own = f"{name}_class" if name not in lower and name.lower() in lower else name
            pages[name] = of_tasks[task] if task in ON_ONE_PAGE else f"names/{own}"
    return pages


def other_words() -> dict[str, list[str]]:
    """What other tools call what is here: each word of `docs/other_words.txt`, with what it leads to."""
    words: dict[str, list[str]] = {}
    for line in (DOCS / "other_words.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            same, _, targets = line.partition(": ")
            for word in same.split(", "):
                if word in words:
                    raise ValueError(f"docs/other_words.txt has {word!r} twice")
                words[word] = targets.split(", ")
    return words


def page_of(target: str) -> str | None:
    """The page that a word leads to: that of a name, or a file of `docs`; `None` where there is none."""
    if target.endswith(".md"):
        return target.removesuffix(".md") if (DOCS / target).exists() else None
    return pages_of_names().get(target)
