"""What all tests share: profiles of hypothesis, without deadlines, because shared machines stall; and a fixture."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from recording import THOROUGH, open_files
from servers import Postgres, postgres

from lotproc._fast import FAST

# The quick one is for every day and every Python; `pytest --hypothesis-profile=thorough` looks further, and "long" is
# for kills of servers.
for name, most in (("quick", 15), ("thorough", THOROUGH), ("long", 125)):
    settings.register_profile(name, deadline=None, max_examples=most, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("quick")


def pytest_report_header() -> str:
    """Say in each log which ways were tested."""
    return f"fast ways: {'on' if FAST else 'off'}"


def pytest_collection_finish() -> None:
    """Let a collection of garbage pass over what is there for all tests, which are half a million objects."""
    gc.freeze()


@pytest.fixture
def no_file_stays_open() -> Iterator[None]:
    """No file that is opened during the test is open after it; one that an earlier test forgot may close meanwhile."""
    before = open_files()
    yield
    assert not open_files() - before


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server, the same for all tests of a process; without its packages they are skipped."""
    with postgres() as server:
        yield server
