"""Whether fast ways are taken: `LOTPROC_SLOW=1` in the environment has all go the way that it must equal."""

from __future__ import annotations

import os

__all__ = ["FAST"]

FAST = os.environ.get("LOTPROC_SLOW", "") in ("", "0")
