"""Every example is a test: the Python blocks of README.md and docs/, and the doctests in lotproc's docstrings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from typing import Any

import programs
import pytest
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser
from sybil.sybil import SybilCollection

OPTIONS = ELLIPSIS | NORMALIZE_WHITESPACE


class ConsoleBlockParser(PythonCodeBlockParser):
    """The blocks marked `pycon`, where `PythonCodeBlockParser` takes those marked `python`."""

    def __init__(self, doctest_optionflags: int = 0) -> None:
        super().__init__(doctest_optionflags=doctest_optionflags)
        self.codeblock_parser = CodeBlockParser("pycon", PythonEvaluator())


@pytest.fixture(scope="module")
def temporary_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run the examples of one document where the files that they make do no harm."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("examples"))
    yield
    os.chdir(before)


def as_script(namespace: dict[str, Any]) -> None:
    """Let the functions of a document travel to worker processes as those of a script do."""
    namespace["__name__"] = "__main__"


#: The page whose examples need servers.
SERVERS = "servers.md"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers for that page, without a tree; it is skipped where their packages are missing."""
    from servers import postgres, zeo_server

    with postgres() as server, zeo_server(tmp_path_factory.mktemp("zeo")) as uri, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CORPUS_ON_ZEO", uri)
        patch.setenv("CORPUS_IN_POSTGRES", server.uri())
        yield


#: The pages with programs of other packages, and the one of them that needs a server.
PEERS, ON_A_SERVER = "coming_from/*.md", "coming_from/datajoint.md"


@pytest.fixture(scope="module")
def database_server() -> Iterator[None]:
    """A server for DataJoint, where that is installed."""
    from servers import datajoint_server

    with datajoint_server() as settings, pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield


PYTHON = [PythonCodeBlockParser(doctest_optionflags=OPTIONS), ConsoleBlockParser(OPTIONS), SkipParser()]
PROGRAMS = [*PYTHON, programs.files, programs.consoles]


def pages_like(pattern: str, *excludes: str, parsers: Sequence[Any] = PYTHON, fixtures: Sequence[str] = ()) -> Sybil:
    """Documents in Markdown, each of them one script in a directory of its own."""
    return Sybil(
        parsers=parsers,
        patterns=[pattern],
        excludes=excludes,
        setup=as_script,
        fixtures=["temporary_directory", *fixtures],
    )


pages = [
    pages_like("*.md", SERVERS, PEERS),
    pages_like(SERVERS, fixtures=["corpora"]),
    pages_like(PEERS, ON_A_SERVER, parsers=PROGRAMS),
    pages_like(ON_A_SERVER, parsers=PROGRAMS, fixtures=["database_server"]),
]

# Read from the source, because stages are wrapped functions, which the standard doctest finder passes over.
docstrings = Sybil(
    parsers=[DocTestParser(optionflags=OPTIONS)],
    patterns=["lotproc/*.py", "lotproc/*/*.py", "lotproc/*/*/*.py", "docs/extension/reference.py"],
    fixtures=["temporary_directory"],
)

pytest_collect_file = SybilCollection([*pages, docstrings]).pytest()
