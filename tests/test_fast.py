"""Fast ways can be turned off: by the environment, here and in worker processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import lotproc as lp

def is_fast(batch):
    from lotproc._fast import FAST
    return FAST

print(is_fast([]), *lp.parallel_map(is_fast, [[1]], max_workers=1))
"""


@pytest.mark.parametrize(("value", "is_fast"), [("1", False), ("0", True)])
def test_a_switch_in_the_environment_turns_fast_ways_off_here_and_in_workers(value: str, is_fast: bool) -> None:
    environment = {**os.environ, "LOTPROC_SLOW": value}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, check=True)
    assert done.stdout.split() == [str(is_fast).encode()] * 2
