"""Workers of Dask that write to PostgreSQL are killed: the run goes on, and ends in the tree of an undisturbed run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from jobs import RESULTS, fill, nodes, of_a_part, undisturbed
from recording import examples
from servers import Postgres, end_of_workers

import lotproc as lp

pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask, as it goes


@pytest.fixture(scope="module")
def dask() -> Iterator[Any]:
    """A client whose cluster has two workers of two threads each, and keeps them, however often they die."""
    distributed = pytest.importorskip("distributed")
    import dask as settings_of_dask

    options = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "dashboard_address": ":0"}
    with (
        settings_of_dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        distributed.LocalCluster(**options, silence_logs=50) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@settings(max_examples=examples(7))
@given(at=st.integers(0, RESULTS - 1), late=st.integers(0, 5))
def test_a_worker_is_killed(
    dask: Any, postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory, at: int, late: int
) -> None:
    """From outside, at one of the results, as it is made or a moment later."""
    file = str(tmp_path_factory.mktemp("at") / "victim")

    def work(record: lp.NodeRecord) -> int:
        n: int = record.attributes["n"]
        if n == at and not os.path.exists(file):
            with open(file + ".part", "x") as told:
                told.write(str(os.getpid()))
            os.rename(file + ".part", file)
            time.sleep(0.01 * late)
        return 2 * n

    def kill() -> None:
        while not os.path.exists(file):
            time.sleep(0.001)
        os.kill(int(Path(file).read_text()), signal.SIGKILL)

    uri, policy = postgres_server.uri(), lp.inline("_p")
    with lp.open_root(uri, create=True) as root:
        fill(root)
    dask.wait_for_workers(2)
    killer = threading.Thread(target=kill)
    killer.start()
    with lp.open_root(uri) as root:
        parts = lp.partitions(3, root, skip="_*")
        reports = list(lp.parallel_map(of_a_part(policy, root, work), parts, executor=dask.get_executor()))
    killer.join()
    assert sum(report.written for report in reports) <= RESULTS
    with lp.open_root(uri) as root:
        assert nodes(root) == undisturbed(policy)
        again = lp.pending(policy, root, lp.scan("n", root, skip="_*"), version="1")
        assert list(again) == []
    end_of_workers()
