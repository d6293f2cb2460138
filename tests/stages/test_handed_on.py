"""A `Failure` goes through every stage as it is, and changes nothing of what becomes of the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from lotdb import BaseNode
from toolz import compose_left, concat
from trees import opened
from ZODB.MappingStorage import MappingStorage

import lotproc as lp
from lotproc.folds import count, total

Stage = Callable[[Iterable[Any]], Iterable[Any]]


def same(record: Any) -> lp.ProcessResult:
    if record.attributes["number"] == 3:
        raise ValueError("three")
    return lp.ProcessResult(record.path, record.attributes["number"])


def number(record: Any) -> int:
    return int(same(record).output)


def of_batch(records: list[Any]) -> list[lp.ProcessResult]:
    return list(map(same, records))


def key_of(record: Any) -> Any:
    return record.attributes["number"] // 2


def flat(run: Callable[[Any], Any]) -> Stage:
    return lambda items: concat(run(items))


def in_order(items: Iterable[Any]) -> list[Any]:
    """The same items, the records at their places sorted by path."""
    items = list(items)
    found = iter(sorted((item for item in items if type(item) is not lp.Failure), key=lambda record: record.path))
    return [item if type(item) is lp.Failure else next(found) for item in items]


def done() -> BaseNode:
    root = BaseNode("root")
    for key in "ace":
        root.gns([key, "_proc"])
    return root


#: Every stage that takes a stream and gives one, over records. `parallel_map` skips what fails in it, and nothing else.
STAGES: dict[str, Stage] = {
    "match_key": lp.match_key("[ab]"),
    "match_key inverted": lp.match_key("[ab]", invert=True),
    "match_path": lp.match_path("a*"),
    "match_path inverted": lp.match_path("a*", invert=True),
    "where": lp.where("number", lambda number: number > 2),
    "where inverted": lp.where("number", lambda number: number > 2, invert=True),
    "pending": lp.pending(lp.inline("_proc"), done()),
    "pending by a function": lp.pending(lambda result: (*result.path, "_proc"), done(), version="1"),
    "pending with inputs": lp.pending(lp.inline("_proc"), done(), inputs=True),
    "chunked": flat(lp.chunked(2)),
    "chunked_by a path": flat(lp.chunked_by(1)),
    "chunked_by a function": flat(lp.chunked_by(key_of)),
    "chunked_bytes": flat(lp.chunked_bytes(200)),
    "chunked_bytes by size": flat(lp.chunked_bytes(3, size=lambda record: record.attributes["number"])),
    "gather": lambda items: lp.gather(1, in_order(items)),
    "join": lambda items: lp.join([lp.NodeRecord((key,), key, {"of": 1}) for key in "ac"], in_order(items), on=1),
    "join, mapping": lp.join({("b", "x"): {}, ("c", "x"): {}}, how="anti"),
    "sample": lp.sample(0.5),
    "sample by rank": lp.sample(rank=0, world=2),
    "split": lp.split({"train": 0.5, "test": 0.5}, part="test"),
    "progress": lp.progress(),
    "rollup": lambda items: lp.rollup(total("number"), in_order(items)),
    "rollup of parts": lambda items: lp.rollup(
        count(), map(list, map(lp.rollup(count(), partial=True), lp.chunked(2, in_order(items))))
    ),
    "each": flat(compose_left(lp.chunked(3), lp.parallel_map(lp.each(same), mode="sync", on_error="skip"))),
    "each on threads": flat(
        compose_left(lp.chunked(3), lp.parallel_map(lp.each(same), mode="thread", on_error="skip"))
    ),
    "outputs": flat(compose_left(lp.chunked(3), lp.parallel_map(lp.outputs(number), mode="sync", on_error="skip"))),
    "batch": flat(compose_left(lp.chunked(3), lp.parallel_map(of_batch, mode="sync", on_error="skip"))),
    "batch on threads": flat(compose_left(lp.chunked(1), lp.parallel_map(of_batch, mode="thread", on_error="skip"))),
    "pipeline": lambda items: concat(
        lp.Pipeline.from_iterable(items)
        .filter(lambda record: record.attributes["number"] < 5)
        .filter_key("[a-f]")
        .prepare(lambda record: record)
        .buffer(2)
        .filter(lambda record: record.attributes["number"] != 1)
        .process(of_batch, mode="sync", on_error="skip")
        .run()
    ),
}

records = st.builds(
    lambda key, number: lp.NodeRecord((key, "x"), "x" if number % 2 else key, {"number": number}),
    st.sampled_from("abcdef"),
    st.integers(0, 6),
)
failures = st.builds(
    lp.Failure, st.one_of(st.none(), st.tuples(st.sampled_from("abcdef"))), st.just("ValueError"), st.text(max_size=3)
)
streams = st.lists(st.one_of(records, failures), max_size=20)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.filterwarnings("ignore:.* no node had an attribute", "ignore:join. no record was at")
@pytest.mark.filterwarnings("ignore:match_path. .* no path had as many")
@given(stream=streams)
def test_every_stage_hands_failures_on(name: str, stream: list[Any]) -> None:
    stage = STAGES[name]
    given_failures = [item for item in stream if type(item) is lp.Failure]
    others = [item for item in stream if type(item) is not lp.Failure]
    found = list(stage(iter(stream)))
    assert list(map(id, filter(lambda item: type(item) is lp.Failure, found))) == list(map(id, given_failures))
    assert [item for item in found if type(item) is not lp.Failure] == list(stage(iter(others)))
    if "batch" not in name and name != "pipeline":  # which gets records only, so that failures come behind its results
        places = {id(item): place for place, item in enumerate(stream)}
        order = [places[id(item)] for item in found if id(item) in places]
        assert order == sorted(order)


def test_failures_come_back_from_processes_as_they_were() -> None:
    failure = lp.Failure(("b",), "OSError", "no", "traceback", 2)
    items = [lp.NodeRecord(("a",), "a", {"number": 1}), failure, lp.NodeRecord(("c",), "c", {"number": 3})]
    for fn in (lp.each(same), of_batch):
        [found] = lp.parallel_map(fn, [items], mode="process", max_workers=1, on_error="skip")
        assert sorted(found, key=lambda item: item.path) == [lp.ProcessResult(("a",), 1), failure]


@given(stream=streams)
def test_snapshots_hand_failures_on(stream: list[Any]) -> None:
    root = BaseNode("root")
    for item in stream:
        if type(item) is not lp.Failure:
            root.gns(list(item.path)).set_attribute("number", 1)
    nodes = [root.gns(list(item.path)) if type(item) is not lp.Failure else item for item in stream]
    found = list(lp.snapshot("number", nodes))
    assert [item for item in found if type(item) is lp.Failure] == [i for i in stream if type(i) is lp.Failure]
    assert [item.path for item in found] == [item.path for item in stream]


@given(stream=streams)
def test_failures_in_tables_are_rows_of_their_own(stream: list[Any]) -> None:
    rows = list(lp.to_rows(stream))
    assert len(rows) == len(stream)
    for item, row in zip(stream, rows, strict=True):
        levels = {f"TreeLevel_{number}": key for number, key in enumerate(item.path or (), 1)}
        if type(item) is lp.Failure:
            what = {"item": item.item} if item.path is None else {}
            assert row == {**levels, "error": item.error, "message": item.message, "attempts": 1, **what}
        else:
            assert row == {**levels, **item.attributes}


@given(stream=streams)
def test_every_table_has_a_row_for_each_failure(stream: list[Any]) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    assert lp.to_arrow(stream).num_rows == len(lp.to_dataframe(stream)) == len(stream)


@pytest.mark.parametrize("where", ["memory", "database", "store"])
@given(stream=streams)
def test_writes_report_failures_and_note_them_in_the_ledger(
    tmp_path_factory: pytest.TempPathFactory, where: str, stream: list[Any]
) -> None:
    folder: Path = tmp_path_factory.mktemp("ledger")
    results = [item if type(item) is lp.Failure else lp.ProcessResult(item.path, 1) for item in stream]
    given_failures = tuple(item for item in stream if type(item) is lp.Failure)
    assert len(list(lp.plan(lp.mirror(), results))) == len(stream) - len(given_failures)
    with opened(MappingStorage()) as root:
        target: Any = {"memory": BaseNode("target"), "database": root}.get(where)
        target = lp.DirectoryStore(str(folder / "store")) if target is None else target
        report = lp.write(lp.mirror(), target, results, ledger=folder / "run.jsonl")
        root._p_jar.transaction_manager.abort()
    assert (report.failed, report.failures) == (len(given_failures), given_failures)
    lines = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    noted = [line for line in lines if line["event"] == "failure"]
    assert [line["path"] and tuple(line["path"]) for line in noted] == [failure.path for failure in given_failures]
    assert [line["message"] for line in noted] == [failure.message for failure in given_failures]


def test_what_could_not_be_read_comes_into_the_report_and_is_tried_again(tmp_path: Path) -> None:
    root = BaseNode("root")
    for key in "abc":
        root.gn(key).set_attribute("number", root if key == "b" else 1)
    ledger = tmp_path / "run.jsonl"

    def run() -> lp.WriteReport:
        nodes = lp.leaves(root, skip="_*") if not ledger.exists() else lp.retry_failed(ledger, root)
        read = lp.snapshot("number", nodes, on_error="collect")
        results = lp.parallel_map(lp.each(same), lp.chunked(2, read), mode="sync")
        return lp.write(lp.inline("_proc"), root, results, ledger=ledger)

    report = run()
    assert (report.written, report.failed, report.errors) == (2, 1, {"DetachError": 1})
    root.gn("b").set_attribute("number", 2)
    assert run().written == 1
