"""What type checkers make of lotproc. Checked by mypy, never run.

lotdb has no type hints, so its `BaseNode` is `Any` here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from lotdb import BaseNode
from typing_extensions import assert_type

from lotproc import (
    Accumulator,
    Failure,
    FreshWritePolicy,
    InlineWritePolicy,
    MirrorWritePolicy,
    NodeRecord,
    Partition,
    PayloadHandle,
    ProcessResult,
    RunSummary,
    Status,
    Store,
    Write,
    WriteReport,
    children,
    chunked,
    chunked_by,
    chunked_bytes,
    compose_left,
    delete,
    each,
    failures,
    folds,
    fresh,
    gather,
    glob,
    inline,
    join,
    leaves,
    level,
    match_key,
    match_path,
    mirror,
    obsolete,
    outputs,
    parallel_map,
    partitions,
    pending,
    pipe,
    plan,
    progress,
    retry_failed,
    rollup,
    run_summary,
    sample,
    scan,
    show,
    snapshot,
    split,
    stage,
    status,
    table_by_path,
    to_parquet,
    to_rows,
    walk,
    where,
    write,
)

Nodes = Iterator[BaseNode]
NodesOf = Callable[[BaseNode], Nodes]
Records = Iterator[NodeRecord]
Batch = list[NodeRecord]


def traversal(root: BaseNode) -> None:
    assert_type(leaves(root), Nodes)
    assert_type(leaves(root, skip="_*"), Nodes)
    assert_type(leaves(skip="_*"), NodesOf)
    assert_type(level(2, root), Nodes)
    assert_type(level("deepest", skip="_*"), NodesOf)
    assert_type(children(root), Nodes)
    assert_type(children(), NodesOf)
    assert_type(walk(root, order="post", max_depth=3), Nodes)
    assert_type(walk(order="breadth"), NodesOf)
    assert_type(glob("speaker_*/**", root), Nodes)
    assert_type(glob(("a/b", "*")), NodesOf)


def filters(records: Iterable[NodeRecord]) -> None:
    assert_type(match_key("^clip_", records), Records)
    assert_type(match_key("^clip_", records, invert=True), Records)
    assert_type(match_path("speaker_*/**", records), Records)
    assert_type(where("duration", 1.2, records), Records)
    assert_type(where("duration", callable, records), Records)
    assert_type(match_key("^clip_")(records), Records)
    assert_type(match_path("speaker_*/**", invert=True)(records), Records)
    assert_type(where("duration", 1.2)(records), Records)
    waiting: Callable[[Iterable[NodeRecord]], Records] = match_key("^clip_")
    assert_type(waiting(records), Records)


@stage("records")
def longer(seconds: float, *, attribute: str = "duration") -> Callable[[Iterable[NodeRecord]], Records]:
    return lambda records: (record for record in records if record.attributes[attribute] > seconds)


@stage("records")
def numbered(*, attribute: str = "number") -> Callable[[Iterable[NodeRecord]], Records]:
    return iter


@stage("records")
def between(low: float, high: float, *, attribute: str) -> Callable[[Iterable[NodeRecord]], Records]:
    return lambda records: (record for record in records if low <= record.attributes[attribute] < high)


@stage("records")
def near(x: float, y: float, z: float, *, by: int = 1) -> Callable[[Iterable[NodeRecord]], dict[str, NodeRecord]]:
    return lambda records: {record.key: record for record in records}


@stage("root")
def many(a: int, b: int, c: int, d: int) -> Callable[[BaseNode], int]:
    return lambda root: a + b + c + d


def stages_of_ones_own(root: BaseNode, records: list[NodeRecord]) -> None:
    assert_type(numbered(), Callable[[Iterable[NodeRecord]], Records])
    assert_type(numbered(attribute="n"), Callable[[Iterable[NodeRecord]], Records])
    assert_type(numbered(records), Records)
    assert_type(numbered(records, attribute="n"), Records)
    assert_type(longer(1.0, records, attribute="s"), Records)
    assert_type(longer(1.0, attribute="s"), Callable[[Iterable[NodeRecord]], Records])
    assert_type(longer(seconds=1.0), Callable[[Iterable[NodeRecord]], Records])
    assert_type(between(1.0, 2.0, attribute="s"), Callable[[Iterable[NodeRecord]], Records])
    assert_type(between(1.0, 2.0, records, attribute="s"), Records)
    assert_type(near(1.0, 2.0, 3.0, records), dict[str, NodeRecord])
    assert_type(near(1.0, 2.0, 3.0, by=2), Callable[[Iterable[NodeRecord]], dict[str, NodeRecord]])
    between(1.0)(high=2.0, attribute="s")(records)
    between(low=1.0, high=2.0, attribute="s")(records)
    many(1, 2, 3, 4)(root)
    many(1, 2, 3, 4, root)
    numbered(atribute="n")  # type: ignore[call-overload]
    numbered(records, attribute=3)  # type: ignore[call-overload]
    numbered(3)  # type: ignore[call-overload]
    longer("1")  # type: ignore[call-overload]
    longer("1", records)  # type: ignore[call-overload]
    longer(1.0, atribute="s")  # type: ignore[call-overload]
    longer(1.0, records, atribute="s")  # type: ignore[call-overload]
    longer(1.0, 3)  # type: ignore[call-overload]
    between(1.0, "2", attribute="s")  # type: ignore[call-overload]
    between(1.0, 2.0, records)  # type: ignore[call-overload]
    near(1.0, 2.0, 3.0, records, by="s")  # type: ignore[call-overload]


def in_a_row(root: BaseNode, records: list[NodeRecord]) -> None:
    batches = pipe(root, leaves(), snapshot("s"), match_key("^clip"), longer(2.0), chunked(8))
    assert_type(batches, Iterator[list[NodeRecord]])
    assert_type(pipe(batches, parallel_map(outputs(seconds_of)), write(inline("_p"), root)), WriteReport)
    assert_type(pipe(records, sample(0.1), split({"a": 1.0}, part="a"), gather(1), chunked_by(1)), Iterator[Batch])
    steps = compose_left(longer(1.0, attribute="s"), chunked(8), parallel_map(each(summarize)))
    assert_type(steps(records), Iterator[list[ProcessResult]])
    assert_type(longer(1.0), Callable[[Iterable[NodeRecord]], Records])
    assert_type(longer(1.0, records), Records)
    pipe(1, chunked(8))  # type: ignore[arg-type]
    pipe(records, longer(1.0), write(inline("_p"), root), chunked(8))  # type: ignore[misc]
    stage("records")(len)  # type: ignore[arg-type]


def splitting(record: NodeRecord, records: Iterable[NodeRecord]) -> None:
    parts = {"train": 0.8, "test": 0.2}
    assert_type(split(parts), Callable[[Any], str])
    assert_type(split(parts, by=2, seed=1)(record), str)
    assert_type(split(parts, record), str)
    assert_type(split(parts, ("ann", "clip_1"), by=None), str)
    assert_type(split(parts, records, part="train"), Records)
    assert_type(split(parts, part="train", by=None)(records), Records)
    assert_type(sample(0.1, records, by=1), Records)
    assert_type(sample(0.1)(records), Records)
    assert_type(sample(rank=0, world=4)(records), Records)
    sample(records, rank=0, world=4)  # type: ignore[call-overload]


def buffering(records: Iterable[NodeRecord]) -> None:
    assert_type(chunked(128, records), Iterator[list[NodeRecord]])
    assert_type(chunked(128)(records), Iterator[list[NodeRecord]])
    assert_type(chunked_by(1, records), Iterator[list[NodeRecord]])
    assert_type(chunked_by(1)(records), Iterator[list[NodeRecord]])
    assert_type(chunked_by(lambda record: record.key, records), Iterator[list[NodeRecord]])
    assert_type(chunked_bytes(1 << 20, records), Iterator[list[NodeRecord]])
    assert_type(chunked_bytes(1 << 20)(records), Iterator[list[NodeRecord]])
    assert_type(chunked_bytes(10, [b"12345"], size=len), Iterator[list[bytes]])


def gathering(records: Iterable[NodeRecord]) -> None:
    assert_type(gather(1, records), Records)
    assert_type(gather(1)(records), Records)
    gather("speaker", records)  # type: ignore[call-overload]


def joining(records: Iterable[NodeRecord], store: Store) -> None:
    assert_type(join({"ann": {"age": 31}}, records, on=1), Records)
    assert_type(join(store, records, how="inner", prefix="old_"), Records)
    waiting: Callable[[Iterable[NodeRecord]], Records] = join(records, how="anti")
    assert_type(waiting(records), Records)
    table = table_by_path("speakers.csv", key="speaker")
    assert_type(table["ann",], dict[str, Any])
    assert_type(table.results(), Iterator[ProcessResult])
    assert_type(join(table, records, on=1), Records)
    join(records, records, how="outer")  # type: ignore[call-overload]


def snapshots(nodes: Iterable[BaseNode]) -> None:
    assert_type(snapshot("duration", nodes), Records)
    assert_type(snapshot(["duration", "rate"], nodes, payload=lambda node: node.key), Records)
    assert_type(snapshot("duration", nodes, payload="data"), Records)
    assert_type(snapshot(..., payload="data"), Callable[[Iterable[BaseNode]], Records])
    assert_type(snapshot(...), Callable[[Iterable[BaseNode]], Records])
    assert_type(chunked(2, match_key("^clip_", snapshot("duration")(nodes))), Iterator[list[NodeRecord]])


def scans(root: BaseNode, part: Partition, nodes: Iterable[BaseNode]) -> None:
    assert_type(scan("duration", root), Records)
    assert_type(scan(["duration"], part, where="^clip_", skip="_*", level="deepest", payload="data"), Records)
    assert_type(scan(..., root, where={"duration": 1.2}, uncommitted="ignore"), Records)
    assert_type(scan("duration", where=["^clip_", {"duration": bool}], level=2)(root), Records)
    assert_type(scan("duration")(part), Records)
    assert_type(partitions(64, root), list[Partition])
    assert_type(partitions(64, skip="_*", uncommitted="ignore")(root), list[Partition])
    assert_type(list(parallel_map(scan("duration"), partitions(64, root))), list[Records])


def payloads(handle: PayloadHandle) -> None:
    assert_type(handle.blocks(16_000), Iterator[np.ndarray[Any, Any]])
    assert_type(handle.blocks(1.0, unit="seconds"), Iterator[np.ndarray[Any, Any]])
    assert_type(handle.blocks(400, hop=160, last="pad"), Iterator[np.ndarray[Any, Any]])
    handle.blocks(400, last="cut")  # type: ignore[arg-type]
    assert_type(len(handle), int)
    handle.read("1")  # type: ignore[arg-type]
    assert_type(handle.read_seconds(0.5, 2), np.ndarray[Any, Any])
    assert_type(handle.shape, tuple[int, ...] | None)
    assert_type(handle.samplerate_hz, float | None)


def summarize(record: NodeRecord) -> ProcessResult:
    return ProcessResult(record.path, output=len(record.attributes))


def seconds_of(record: NodeRecord) -> float | None:
    return len(record.attributes) / 2 or None


def parallel(records: list[NodeRecord], batches: Iterable[list[NodeRecord]]) -> None:
    assert_type(each(summarize, records), list[ProcessResult])
    assert_type(each(summarize)(records), list[ProcessResult])
    assert_type(parallel_map(each(summarize), batches), Iterator[list[ProcessResult]])
    assert_type(parallel_map(each(summarize), mode="thread")(batches), Iterator[list[ProcessResult]])
    assert_type(outputs(seconds_of)(records), list[ProcessResult])
    assert_type(outputs(seconds_of, records), list[ProcessResult])
    assert_type(parallel_map(outputs(seconds_of), batches), Iterator[list[ProcessResult]])
    parallel_map(each(summarize), batches, on_error="collect", retries=2, retry_on=(OSError, TimeoutError))
    parallel_map(each(summarize), on_error=lambda failure: print(failure.message), timeout=1.5)(batches)
    parallel_map(each(summarize), initializer=print, max_tasks_per_child=9, on_error="skip")(batches)


def writing(root: BaseNode, batches: Iterable[list[ProcessResult]]) -> None:
    assert_type(plan(inline("_proc"), batches), Iterator[Write])
    assert_type(plan(mirror(), output_attribute=None)(batches), Iterator[Write])
    assert_type(write(inline("_proc"), root, batches), WriteReport)
    assert_type(write(mirror("features"), root, if_exists="skip", commit_every=8)(batches), WriteReport)
    assert_type(write(inline("_proc"), root, batches, arrays="blob"), WriteReport)
    assert_type(write(mirror(), root, arrays="zarr")(batches), WriteReport)
    assert_type(write(mirror(), root, batches, arrays="blob", if_exists="append"), WriteReport)
    assert_type(write(mirror(), root, batches, version="v1", ledger="runs.jsonl"), WriteReport)
    assert_type(write(mirror(), root, commit_every=10, commit_within=30.0)(batches), WriteReport)
    assert_type(plan(mirror(), batches, version="v1"), Iterator[Write])
    assert_type(run_summary(write(mirror(), root, batches)), RunSummary)
    assert_type(write(mirror(), root, batches).failures, tuple[Failure, ...])


def resuming(root: BaseNode, part: Partition, records: Iterable[NodeRecord], nodes: Iterable[BaseNode]) -> None:
    assert_type(pending(inline("_proc"), root, nodes), Nodes)
    assert_type(pending(inline("_proc"), root, records, version="v1", inputs=True), Records)
    waiting: Callable[[Iterable[NodeRecord]], Records] = pending(mirror(), part, version="v1")
    assert_type(waiting(records), Records)
    assert_type(retry_failed("runs.jsonl", root), Nodes)
    assert_type(retry_failed("runs.jsonl"), NodesOf)
    assert_type(pending(mirror(), part, records, ledger="runs.jsonl", failed="skip"), Records)
    assert_type(failures("runs.jsonl"), list[Failure])
    assert_type(obsolete(mirror("f"), root, nodes, version="v1"), Records)
    assert_type(delete(root, obsolete(mirror("f"), root, records)), WriteReport)
    assert_type(status(mirror(), root, records, by=1), Status)
    assert_type(status(mirror(), root)(nodes).parts, Mapping[tuple[str, ...], Status])
    deleting: Callable[[Iterable[object]], WriteReport] = delete(root, commit_every=10)
    assert_type(deleting([("ann",)]), WriteReport)


def values(record: NodeRecord) -> None:
    assert_type(record.path, tuple[str, ...])
    assert_type(record.payload, Any)
    assert_type(inline("_proc"), InlineWritePolicy)
    assert_type(mirror(), MirrorWritePolicy)
    assert_type(fresh("run_1"), FreshWritePolicy)
    assert_type(inline("_proc")(ProcessResult(record.path)), tuple[str, ...])


def rollups(records: list[NodeRecord], root: BaseNode) -> None:
    seconds = folds.total("seconds")
    assert_type(rollup(seconds, records), Iterator[ProcessResult])
    assert_type(rollup({"n": folds.count(), "seconds": seconds}, depths=[0, 1])(records), Iterator[ProcessResult])
    parts = parallel_map(rollup(seconds, partial=True), [records])
    assert_type(rollup(seconds, records, partial=True), Iterator[Accumulator])
    assert_type(rollup(seconds)(parts), Iterator[ProcessResult])


def mistakes(root: BaseNode, records: Iterable[NodeRecord], handle: PayloadHandle) -> None:
    # Each of these must be an error; mypy's warning about unused ignores says so if it is none.
    parallel_map(len, [[1]], on_error="ignore")  # type: ignore[call-overload]
    parallel_map(len, [[1]], max_worker=2)  # type: ignore[call-overload]
    parallel_map(len, retries="2")  # type: ignore[call-overload]
    walk(root, order="random")  # type: ignore[call-overload]
    level("highest", root)  # type: ignore[call-overload]
    chunked("128", records)  # type: ignore[call-overload]
    match_key("^clip_", records, True)  # type: ignore[call-overload]
    write(mirror(), root, [], arrays="npy")  # type: ignore[call-overload]
    scan("duration", root, uncommitted="read")  # type: ignore[call-overload]
    rollup(folds.total, records)  # type: ignore[call-overload]
    partitions("64", root)  # type: ignore[call-overload]
    handle.blocks(1, unit="minutes")  # type: ignore[arg-type]


def lambdas(records: list[NodeRecord]) -> None:
    """Lambdas have no types of their own; mypy takes them in partial calls all the same, and pyright those of data."""
    each(lambda record: ProcessResult(record.path))(records)  # pyright: ignore
    parallel_map(lambda batch: len(batch), mode="thread")([records])  # pyright: ignore
    chunked_by(lambda record: record.key)(records)  # pyright: ignore
    assert_type(each(lambda record: ProcessResult(record.path), records), list[ProcessResult])


def views_and_tables(root: BaseNode, records: list[NodeRecord]) -> None:
    assert_type(progress(records, total=3), Records)
    assert_type(progress(desc="clips")(records), Records)
    show(root, depth=2)
    show(limit=3)(root)
    assert_type(list(to_rows(records)), list[dict[str, Any]])
    assert_type(to_parquet("clips.parquet", records), int)
    assert_type(to_parquet("clips.parquet")(records), int)
