"""The reference of the site: each name on one page, and words of other tools that lead to names."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import lotproc

EXTENSION = Path(__file__).parents[2] / "docs" / "extension"


@pytest.fixture(scope="module")
def public_names() -> ModuleType:
    """The module of the site that reads the names; it needs nothing that the tests have not."""
    spec = importlib.util.spec_from_file_location("public_names", EXTENSION / "public_names.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_name_is_on_one_page(public_names: ModuleType) -> None:
    by_task = public_names.names_by_task()
    assert Counter(name for names in by_task.values() for name in names) == Counter(lotproc.__all__)
    assert public_names.pages_of_tasks().keys() == by_task.keys()
    pages = public_names.pages_of_names()
    assert pages.keys() == set(lotproc.__all__)
    own = [page.lower() for page in pages.values() if page.startswith("names/")]  # as some file systems see them
    assert len(set(own)) == len(own)


def test_the_older_names_are_those_that_are_not_offered(public_names: ModuleType) -> None:
    by_task = public_names.names_by_task()
    assert set(by_task[public_names.OLDER]) == set(lotproc.__all__) - set(dir(lotproc))
    older = (EXTENSION.parent / "reference" / "older.md").read_text(encoding="utf-8")
    told = older.replace("add_…_stage", "add_write_stage add_processing_stage add_preparation_stage")
    told = told.replace("build_…_pipeline", "build_selection_pipeline build_node_process_pipeline")
    assert not [name for name in by_task[public_names.OLDER] if name not in told]


def test_words_of_other_tools_lead_to_what_is_there(public_names: ModuleType) -> None:
    words = public_names.other_words()
    assert {"map", "group", "fold", "merge", "cache", "checkpoint"} <= words.keys()
    targets = {target for targets in words.values() for target in targets}
    assert not [target for target in targets if not public_names.page_of(target)]
    assert len({word.lower() for word in words}) == len(words)


def test_the_reference_lists_all_its_pages() -> None:
    docs = EXTENSION.parent
    listed = (docs / "api.md").read_text(encoding="utf-8").splitlines()
    assert not [file for file in docs.glob("reference/*.md") if f"reference/{file.stem}" not in listed]
