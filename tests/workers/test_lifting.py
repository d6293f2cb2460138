"""`outputs` is `each` with the result made around the value, in every mode; what is a result already is refused."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from lotdb import BaseNode
from toolz import pipe

import lotproc as lp

values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)
paths = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(tuple)
failures = st.builds(lp.Failure, st.none() | st.just(("a",)), st.just("ValueError"), st.text(max_size=3))
#: Of a stream, all records have inputs, or none.
batches = st.builds(
    lambda found, inputs, failed: [
        *(lp.NodeRecord(path, path[-1], {"value": value}, inputs=inputs) for path, value in found.items()),
        *failed,
    ],
    st.dictionaries(paths, values, max_size=6),
    st.sampled_from([None, "0" * 32]),
    st.lists(failures, max_size=2),
).flatmap(st.permutations)


def value(record: Any) -> Any:
    return record.attributes["value"]


def result(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, value(record))


def told(results: list[Any]) -> list[Any]:
    return [(item, getattr(item, "inputs", None)) for item in results]


@given(batch=batches)
def test_outputs_is_each_with_the_result_made_around_the_value(batch: list[Any]) -> None:
    wanted = told(lp.each(result, batch))
    assert told(lp.outputs(value, batch)) == wanted
    assert told(pickle.loads(pickle.dumps(lp.outputs(value)))(iter(batch))) == wanted
    for mode in ("sync", "thread"):
        (found,) = lp.parallel_map(lp.outputs(value), [batch], mode=mode)  # type: ignore[call-overload]
        assert told(found) == wanted


def test_on_worker_processes_too_and_for_lambdas() -> None:
    batch = [lp.NodeRecord((key,), key, {"value": number}) for number, key in enumerate("abc")]
    (found,) = lp.parallel_map(lp.outputs(lambda record: 2 * record.attributes["value"]), [batch], max_workers=1)
    assert found == [lp.ProcessResult((key,), 2 * number) for number, key in enumerate("abc")]


def frames(record: lp.NodeRecord) -> Iterator[int]:
    if record.key == "bad":
        raise ValueError("no frames")
    yield from range(3)


def test_what_a_generator_yields_is_one_output_and_what_it_raises_its_records() -> None:
    good, bad = lp.NodeRecord(("good",), "good"), lp.NodeRecord(("bad",), "bad")
    assert lp.outputs(frames, [good]) == [lp.ProcessResult(("good",), [0, 1, 2])]
    with pytest.raises(ValueError, match="no frames") as raised:
        lp.outputs(frames, [good, bad])
    assert raised.value.__notes__ == ["lotproc: at bad, record 1 of its batch"]
    (found,) = lp.parallel_map(lp.outputs(frames), [[good, bad]], mode="sync", on_error="collect")
    assert (found[0].output, found[1].path) == ([0, 1, 2], ("bad",))


def results(record: lp.NodeRecord) -> Iterator[lp.ProcessResult]:
    yield result(record)


@pytest.mark.parametrize(
    "fn",
    [
        result,
        results,
        lambda record: [result(record)],
        lambda record: (1, result(record)),
        lambda record: lp.Failure((), "E", ""),
    ],
)
def test_a_result_where_its_output_belongs_is_refused(fn: Any) -> None:
    batch = [lp.NodeRecord(("a", "b"), "b", {"value": 1})]
    with pytest.raises(lp.ResultError) as raised:
        lp.outputs(fn, batch)
    assert raised.value.path == ("a", "b")
    assert "each(fn)" in str(raised.value.hint)


def test_what_has_no_path_and_what_is_no_function_is_refused() -> None:
    with pytest.raises(lp.ArgumentTypeError):
        lp.outputs("rms")  # type: ignore[call-overload]
    with pytest.raises(lp.ArgumentTypeError):
        lp.outputs(len, [[1, 2]])


def test_results_of_a_processor_before_keep_what_tells_them_apart() -> None:
    before = [lp.ProcessResult(("a",), 1, relative_path=(key,), inputs="0" * 32) for key in "xy"]
    found = lp.outputs(attrgetter("output"), before)
    assert found == before
    assert [item.inputs for item in found] == ["0" * 32] * 2


def test_a_run_writes_plain_values_none_included_once(tmp_path: Path) -> None:
    root = BaseNode("root")
    for key, number in (("a", 1), ("b", None)):
        root.gn(key).set_attribute("value", number)

    def run() -> int:
        report = pipe(
            root,
            lp.leaves(skip="_*"),
            lp.snapshot("value"),
            lp.pending(lp.inline("_out"), root, inputs=True),
            lp.chunked(2),
            lp.parallel_map(lp.outputs(value), mode="sync"),
            lp.write(lp.inline("_out"), root),
        )
        return int(report.written)

    assert run() == 2
    assert [root.gns([key, "_out"]).get_attribute("result", ...) for key in "ab"] == [1, None]
    assert run() == 0
    root.gn("b").set_attribute("value", 2)
    assert run() == 1


@pytest.mark.parametrize("value", [3, None, "text", {"a": 1}, np.float64(1)], ids=str)
def test_a_plain_value_of_each_is_refused_where_it_is_planned_with_what_makes_a_result_of_it(value: Any) -> None:
    batches = [[lp.NodeRecord(("a",), "a")]]
    ends: list[Any] = [lp.plan(lp.mirror()), lp.write(lp.mirror(), BaseNode("root"))]
    for end in ends:
        with pytest.raises(lp.ResultError) as caught:
            list(end(map(lp.each(lambda record: value), batches)))
        assert "each(fn)" in str(caught.value.hint)
        assert "outputs(fn)" in str(caught.value.hint)
    [write] = lp.plan(lp.mirror(), map(lp.outputs(lambda record: value), batches))
    assert write.attributes == {"result": value}
