"""One hypothesis profile for all tests: no deadlines, because shared machines stall."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("lotproc", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lotproc")
