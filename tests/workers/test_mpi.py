"""MPI, through the executor of mpi4py: all that works on our own processes works there, but for workers that die."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytest.importorskip("mpi4py")

PROGRAM = """
import os
from mpi4py.futures import MPIPoolExecutor
import lotproc as lp

def main():
    records = [lp.NodeRecord((f"clip_{n:03}",), f"clip_{n:03}", {"n": n}) for n in range(20)]

    class Local:
        def __init__(self, n):
            self.n = n

    def invert(record):
        return 1 / (record.attributes["n"] - 3)

    with MPIPoolExecutor() as executor:
        numbers = [[n] for n in range(50)]
        results = lp.parallel_map(lambda batch: [Local(2 * n) for n in batch], numbers, executor=executor)
        assert [[local.n for local in batch] for batch in results] == [[2 * n] for n in range(50)]
        pulled = []
        def source():
            for number in range(100):
                pulled.append(number)
                yield [number]
        begun = lp.parallel_map(sum, source(), executor=executor)
        assert not pulled and next(begun) == 0 and len(pulled) <= 5
        begun.close()
        try:
            list(lp.parallel_map(lp.outputs(invert), [records], executor=executor))
        except ZeroDivisionError as error:
            assert "clip_003" in error.__notes__[0] if hasattr(error, "__notes__") else True
        else:
            raise AssertionError
        batches = lp.chunked(4, records)
        found = [
            item
            for batch in lp.parallel_map(lp.outputs(invert), batches, executor=executor, on_error="collect")
            for item in batch
        ]
        assert [item.path for item in found] == [record.path for record in records]
        assert [item.path for item in found if isinstance(item, lp.Failure)] == [("clip_003",)]
        infos = set(lp.parallel_map(lambda batch: (os.getpid(), lp.worker_info()), numbers, executor=executor))
        assert {info for _, info in infos} == {lp.WorkerInfo(0, 2), lp.WorkerInfo(1, 2)}, infos
        assert len(infos) == 2
    print("done")

if __name__ == "__main__":
    main()
"""


def test_it_is_map(tmp_path: Path) -> None:
    mpirun = shutil.which("mpirun", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None:
        pytest.skip("there is no mpirun")
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [mpirun, "--allow-run-as-root", "--oversubscribe", "-n", "3", sys.executable, "-m", "mpi4py.futures"]
    done = subprocess.run([*command, str(tmp_path / "program.py")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["done"]
