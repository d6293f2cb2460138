"""The lessons, which the build of the site executes: what holds of all five."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LESSONS = sorted((Path(__file__).parents[2] / "docs" / "learn").glob("[0-9]*.md"))
CELL = re.compile(r"```\{code-cell\}\n(.*?)```", re.DOTALL)


def cells_of(lesson: Path) -> list[str]:
    return CELL.findall(lesson.read_text(encoding="utf-8"))


def test_all_lessons_begin_with_the_same_corpus() -> None:
    assert len(LESSONS) == 5
    assert len({cells_of(lesson)[0] for lesson in LESSONS}) == 1


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_the_code_of_a_lesson_fits_its_box(lesson: Path) -> None:
    assert [line for cell in cells_of(lesson) for line in cell.splitlines() if len(line) > 76] == []


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_lesson_ends_with_what_was_seen_and_can_be_downloaded(lesson: Path) -> None:
    seen = lesson.read_text(encoding="utf-8").partition("\n## What you have seen\n")[2]
    assert seen.count("\n- ") == 3
    assert "[download it](index.md#run-them-yourself)" in seen
    assert f"{{nb-download}}`{lesson.stem}.ipynb`" in (lesson.parent / "index.md").read_text(encoding="utf-8")
    for following in LESSONS[LESSONS.index(lesson) + 1 :][:1]:
        assert f"]({following.name})" in seen
