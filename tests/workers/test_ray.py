"""Ray, through an executor of ours: all that works on our own processes works there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from toolz import concat

import lotproc as lp
from lotproc.executors import RayExecutor

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def executor() -> Iterator[Any]:
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"})
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    with RayExecutor() as executor:
        yield executor
    ray.shutdown()


def records(count: int) -> list[lp.NodeRecord]:
    return [lp.NodeRecord((f"clip_{n:03}",), f"clip_{n:03}", {"n": n}) for n in range(count)]


def test_it_is_map(executor: Any) -> None:
    class Local:
        def __init__(self, n: int) -> None:
            self.n = n

    results = lp.parallel_map(lambda batch: [Local(2 * n) for n in batch], [[n] for n in range(50)], executor=executor)
    assert [[local.n for local in batch] for batch in results] == [[2 * n] for n in range(50)]


def test_errors_and_failures(executor: Any) -> None:
    def invert(record: lp.NodeRecord) -> float:
        return 1 / (record.attributes["n"] - 3)

    with pytest.raises(ZeroDivisionError) as raised:
        list(lp.parallel_map(lp.outputs(invert), [records(5)], executor=executor))
    assert "clip_003" in raised.value.__notes__[0]
    found = list(concat(lp.parallel_map(lp.outputs(invert), [records(5)], executor=executor, on_error="collect")))
    assert [item.path for item in found if isinstance(item, lp.Failure)] == [("clip_003",)]


def test_who_kills_its_worker_is_found(executor: Any) -> None:
    def work(record: lp.NodeRecord) -> int:
        if record.attributes["n"] in (5, 6):
            os._exit(1)
        return 1

    batches = lp.chunked(4, records(20))
    found = list(concat(lp.parallel_map(lp.outputs(work), batches, executor=executor, on_error="collect")))
    assert [item.path for item in found] == [(f"clip_{n:03}",) for n in range(20)]
    assert [item.path for item in found if isinstance(item, lp.Failure)] == [("clip_005",), ("clip_006",)]


def test_which_worker(executor: Any) -> None:
    found = set(
        lp.parallel_map(lambda batch: (os.getpid(), lp.worker_info()), [[n] for n in range(30)], executor=executor)
    )
    assert len(found) == 2
    assert {info for _, info in found} == {lp.WorkerInfo(0, 2), lp.WorkerInfo(1, 2)}


def test_wrong_numbers() -> None:
    with pytest.raises(lp.ArgumentError):
        RayExecutor(0)
    with pytest.raises(lp.ArgumentTypeError):
        RayExecutor("two")  # type: ignore[arg-type]
