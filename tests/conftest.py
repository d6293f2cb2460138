"""What all tests share: one profile of hypothesis, without deadlines, because shared machines stall; and a fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from recording import open_files

settings.register_profile("lotproc", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lotproc")


@pytest.fixture
def no_file_stays_open() -> Iterator[None]:
    before = open_files()
    yield
    assert open_files() == before
