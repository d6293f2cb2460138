"""The object facade: an immutable record of stages that runs when it is told to."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode
from recording import Source, committed, contents, database, examples, plant
from toolz import pipe

import lotproc as lp
from lotproc import (
    ArgumentError,
    ArgumentTypeError,
    InlineTarget,
    LiveNodeError,
    LotprocError,
    MirrorTarget,
    NodeRecord,
    PatternError,
    Pipeline,
    ProcessResult,
    chunked,
    each,
    inline,
    leaves,
    level,
    match_key,
    parallel_map,
    snapshot,
    write,
)

CORPUS = {
    ("ann", "clip_1"): {"x": 1, "y": "one"},
    ("ann", "clip_2"): {"x": 2},
    ("ann", "notes"): {"x": 3},
    ("bob", "clip_3"): {"x": 4},
    ("carl",): {"x": 5},
}
PATHS = list(CORPUS)


@pytest.fixture
def root() -> BaseNode:
    root = BaseNode("corpus")
    plant(root, CORPUS)
    return root


def paths(records: list[NodeRecord]) -> list[tuple[str, ...]]:
    return [record.path for record in records]


def doubled(records: list[NodeRecord]) -> list[ProcessResult]:
    return [ProcessResult(record.path, output=2 * record.attributes["x"]) for record in records]


# The same as the stages


@pytest.mark.filterwarnings("ignore:.* no node had an attribute")
@settings(max_examples=examples(60))
@given(
    pattern=st.none() | st.sampled_from(["clip_", "^n", "nothing", "[13]$"]),
    invert=st.booleans(),
    size=st.integers(1, 7),
    late=st.booleans(),
    names=st.sampled_from([None, ["x"], ["y", "x"], ...]),
    mode=st.sampled_from(["sync", "thread", "process"]),
    depth=st.none() | st.sampled_from([0, 1, 2, "deepest"]),
)
def test_a_pipeline_gives_what_its_stages_give(
    pattern: str | None, invert: bool, size: int, late: bool, names: Any, mode: str, depth: Any
) -> None:
    root = BaseNode("corpus")
    plant(root, CORPUS)
    pipeline = Pipeline.from_root(root)
    pipeline = pipeline.traverse() if depth is None else pipeline.traverse("level", depth)
    nodes = list(leaves(root) if depth is None else level(depth, root))
    if late:
        pipeline = pipeline.buffer(size)
        expected = list(chunked(size, nodes))
    if pattern is not None:
        pipeline = pipeline.filter_key(pattern, invert=invert)
        if late:
            expected = [kept for batch in expected if (kept := list(match_key(pattern, batch, invert=invert)))]
        else:
            nodes = list(match_key(pattern, nodes, invert=invert))
    if not late:
        pipeline = pipeline.buffer(size)
        expected = list(chunked(size, nodes))
    if names is ...:
        pipeline = pipeline.prepare(include_all_attributes=True)
    else:
        pipeline = pipeline.prepare(attribute_names=names)
    found = pipeline.process(list, mode=mode, workers=2).run()
    assert found == [list(snapshot(names or (), batch)) for batch in expected]


def test_with_a_target_run_writes_as_write_does_and_returns_the_target(root: BaseNode) -> None:
    twin = BaseNode("corpus")
    plant(twin, CORPUS)
    target = InlineTarget(root)
    pipeline = Pipeline.from_root(root).traverse().buffer(2).prepare(attribute_names=["x"]).process(doubled)
    assert pipeline.write(target).run() is target
    stages = (snapshot("x"), chunked(2), parallel_map(doubled, mode="sync"), write(inline("_proc"), twin))
    pipe(twin, leaves(), *stages)
    assert contents(root) == contents(twin)
    assert target.written_paths == [(*path, "_proc") for path in PATHS]


def test_without_a_target_run_returns_what_the_processor_returned_batch_by_batch(root: BaseNode) -> None:
    pipeline = Pipeline.from_root(root).traverse("leaves").buffer(2).prepare().process(len)
    assert pipeline.run() == [2, 2, 1]
    assert pipeline.run() == [2, 2, 1]


def test_unbuffered_items_reach_the_processor_as_lists_of_one(root: BaseNode) -> None:
    found = Pipeline.from_root(root).traverse().prepare().process(paths, mode="thread").run()
    assert found == [[path] for path in PATHS]
    assert Pipeline.from_iterable([1, 2]).process(lambda batch: batch).run() == [[1], [2]]


def test_without_a_processor_run_returns_the_items(root: BaseNode) -> None:
    assert Pipeline.from_iterable("abc").run() == ["a", "b", "c"]
    assert Pipeline.from_iterable("abc").buffer(2).run() == [["a", "b"], ["c"]]
    assert [node.key for node in Pipeline.from_root(root).traverse().run()] == [path[-1] for path in PATHS]


def test_results_made_elsewhere_can_be_written_by_a_pipeline() -> None:
    root = BaseNode("root")
    Pipeline.from_iterable([ProcessResult(("a",), 1), [ProcessResult(("b",), 2)]]).write(MirrorTarget(root)).run()
    assert contents(root) == {(): {}, ("a",): {"result": 1}, ("b",): {"result": 2}}


def test_from_iterable_takes_records_nodes_and_anything(root: BaseNode) -> None:
    records = list(snapshot("x", leaves(root)))
    assert Pipeline.from_iterable(records).filter_key("clip").buffer(9).process(paths).run() == [
        [path for path in PATHS if "clip" in path[-1]]
    ]
    nodes = list(leaves(root))
    assert Pipeline.from_iterable(nodes).prepare(attribute_names="x").buffer(9).process(list).run() == [records]
    assert Pipeline.from_iterable(range(5)).filter(lambda n: n % 2).buffer(2).process(sum).run() == [4]


@pytest.mark.parametrize("depth", [0, 1, 2, 3, "deepest"])
def test_traverse_by_level(root: BaseNode, depth: Any) -> None:
    found = Pipeline.from_root(root).traverse("level", level=depth).prepare().buffer(99).process(paths).run()
    expected = {0: [()], 1: [("ann",), ("bob",), ("carl",)], 2: PATHS[:4], 3: [], "deepest": PATHS[:4]}[depth]
    assert [path for batch in found for path in batch] == expected


def test_by_default_level_means_the_deepest(root: BaseNode) -> None:
    found = Pipeline.from_root(root).traverse("level").prepare().buffer(99).process(paths).run()
    assert found == [PATHS[:4]]


def test_filter_takes_a_function_of_a_node_and_filter_key_a_pattern_to_keep_or_drop(root: BaseNode) -> None:
    walk = Pipeline.from_root(root).traverse()

    def keys(pipeline: Pipeline) -> list[str]:
        return [node.key for node in pipeline.run()]

    assert keys(walk.filter(lambda node: node.get_attribute("x") > 3)) == ["clip_3", "carl"]
    assert keys(walk.filter_key(r"clip_\d")) == ["clip_1", "clip_2", "clip_3"]
    assert keys(walk.filter_key("clip", invert=True)) == keys(walk.filter_key("clip", True)) == ["notes", "carl"]
    assert keys(walk.filter_key(re.compile("CLIP", re.IGNORECASE)).filter(lambda n: n.key != "clip_2")) == [  # type: ignore[arg-type]
        "clip_1",
        "clip_3",
    ]


def test_after_buffer_filters_go_over_the_items_of_each_batch_and_drop_empty_batches(root: BaseNode) -> None:
    batches = Pipeline.from_root(root).traverse().buffer(2)
    assert batches.filter_key("clip").prepare().process(paths).run() == [PATHS[:2], [("bob", "clip_3")]]
    assert batches.filter(lambda node: node.key == "carl").prepare().process(paths).run() == [[("carl",)]]
    assert batches.filter_key("nothing").prepare().process(paths).run() == []


def test_prepare_takes_no_attributes_some_all_or_a_function(root: BaseNode) -> None:
    walk = Pipeline.from_root(root).traverse().filter_key("clip_1|clip_2").buffer(9)

    def attributes(**options: Any) -> Any:
        return [r.attributes for r in walk.prepare(**options).process(list).run()[0]]

    assert attributes() == [{}, {}]
    assert attributes(attribute_names=["x", "y"]) == [{"x": 1, "y": "one"}, {"x": 2, "y": None}]
    assert attributes(attribute_names="y") == [{"y": "one"}, {"y": None}]
    assert attributes(attribute_names=(name for name in "x")) == [{"x": 1}, {"x": 2}]
    assert attributes(include_all_attributes=True) == [{"x": 1, "y": "one"}, {"x": 2}]
    assert walk.prepare(lambda node: node.key).process(list).run() == [["clip_1", "clip_2"]]
    assert walk.prepare(fn=lambda node: (node.key, len(node.gps()))).process(list).run() == [
        [("clip_1", 2), ("clip_2", 2)]
    ]


def test_a_pipeline_of_generator_names_can_run_again(root: BaseNode) -> None:
    pipeline = Pipeline.from_root(root).traverse().prepare(attribute_names=(n for n in "xy")).buffer(9).process(list)
    assert pipeline.run() == pipeline.run()


@pytest.mark.parametrize("mode", ["sync", "thread", "process"])
def test_the_processor_runs_in_the_mode_that_was_asked_for(root: BaseNode, mode: str) -> None:
    import os

    prepared = Pipeline.from_root(root).traverse().buffer(2).prepare()
    where = set(prepared.process(lambda _: (os.getpid(), threading.get_ident()), mode=mode, workers=2).run())
    here = (os.getpid(), threading.get_ident())
    assert (here in where) is (mode == "sync")
    assert all((pid == here[0]) is (mode != "process") for pid, _ in where)


def test_live_nodes_are_refused_by_the_processor(root: BaseNode) -> None:
    for mode in ("sync", "thread", "process"):
        with pytest.raises(LiveNodeError, match=r"ann/clip_1.*snapshot"):
            Pipeline.from_root(root).traverse().buffer(2).process(len, mode=mode, workers=2).run()


# Immutable, and quiet until run


def test_every_method_gives_a_new_pipeline_and_leaves_the_old_one(root: BaseNode) -> None:
    target = InlineTarget(root)
    calls: list[Callable[[Pipeline], Pipeline]] = [
        lambda p: p.traverse(),
        lambda p: p.filter(bool),
        lambda p: p.filter_key("clip"),
        lambda p: p.buffer(2),
        lambda p: p.prepare(attribute_names=["x"]),
        lambda p: p.process(doubled),
        lambda p: p.write(target),
    ]
    pipeline, before = Pipeline.from_root(root), []
    for call in calls:
        before.append((pipeline, repr(pipeline), pipeline.steps))
        following = call(pipeline)
        assert following is not pipeline
        assert repr(following) != repr(pipeline)
        pipeline = following
    assert [(p, repr(p), p.steps) for p, *_ in before] == before
    with pytest.raises(AttributeError):
        pipeline.source = None  # type: ignore[misc]
    assert contents(root) == {(): {}, ("ann",): {}, ("bob",): {}, **CORPUS}
    assert target.written_paths == []


def test_a_beginning_can_be_continued_in_several_ways(root: BaseNode) -> None:
    clips = Pipeline.from_root(root).traverse().filter_key("clip").buffer(2)
    few, many = clips.prepare().process(len), clips.prepare(attribute_names=["x"]).process(doubled)
    assert few.run() == [2, 1]
    assert [result.output for batch in many.run() for result in batch] == [2, 4, 8]
    assert few.run() == [2, 1]


def test_nothing_runs_before_run(root: BaseNode) -> None:
    ran = []
    source = Source(list(snapshot("x", leaves(root))))
    pipeline = (
        Pipeline.from_iterable(source)
        .filter(lambda item: ran.append("filter") or True)
        .buffer(2)
        .prepare(lambda item: ran.append("prepare") or item)
        .process(lambda batch: ran.append("process") or [])
        .write(MirrorTarget(root))
    )
    before = contents(root)
    assert repr(pipeline) == str(pipeline)
    assert source.pulled == 0
    assert ran == []
    pipeline.run()
    assert source.pulled == 5
    assert set(ran) == {"filter", "prepare", "process"}
    assert contents(root) == before


def test_the_repr_shows_the_stages_as_they_were_called(root: BaseNode) -> None:
    pipeline = (
        Pipeline.from_root(root)
        .traverse("level", level=2)
        .filter(callable)
        .filter_key("clip", invert=True)
        .buffer(128)
        .prepare(attribute_names=["x"])
        .process(doubled, mode="thread", workers=3)
        .write(InlineTarget(root))
    )
    assert repr(pipeline) == (
        "Pipeline.from_root(<corpus>).traverse('level', level=2).filter(callable).filter_key('clip', invert=True)"
        ".buffer(128).prepare(attribute_names=['x']).process(doubled, mode='thread', workers=3)"
        ".write(InlineTarget(<corpus>, InlineWritePolicy(base_path=('_proc',)), output_attribute='result'))"
    )
    assert repr(Pipeline.from_iterable([1]).process(len)) == "Pipeline.from_iterable(...).process(len, mode='sync')"
    assert repr(Pipeline.from_iterable([1]).prepare(include_all_attributes=True)) == (
        "Pipeline.from_iterable(...).prepare(include_all_attributes=True)"
    )


def test_it_pulls_no_more_than_a_batch_at_a_time_when_it_runs_in_line() -> None:
    source = Source(range(100))
    pulled: list[int] = []
    Pipeline.from_iterable(source).buffer(10).process(lambda batch: pulled.append(source.pulled)).run()
    assert pulled == list(range(10, 101, 10))


# Failures


def test_a_failed_run_leaves_no_trace_and_can_be_run_again() -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, CORPUS)
        db.commit()
        broken = True

        def work(records: list[NodeRecord]) -> Iterator[ProcessResult]:
            for record in records:
                if broken and record.key == "carl":
                    raise ZeroDivisionError("carl")
                yield ProcessResult(record.path, record.attributes["x"])

        target = InlineTarget(root)
        pipeline = Pipeline.from_root(root).traverse().buffer(2).prepare(attribute_names=["x"]).process(work)
        with pytest.raises(ZeroDivisionError) as raised:
            pipeline.write(target).run()
        assert raised.value.__notes__ == ["lotproc: in batch 2, carl"]
        assert contents(root) == committed(db)
        assert target.written_paths == []
        assert root._p_jar._registered_objects == []
        broken = False
        pipeline.write(target).run()
        assert target.written_paths == [(*path, "_proc") for path in PATHS]
        db.commit()
        assert [committed(db)[path]["result"] for path in target.written_paths] == [1, 2, 3, 4, 5]


def test_multiprocessing_requires_buffered_batches_before_process(root: BaseNode) -> None:
    for pipeline in (
        Pipeline.from_root(root).traverse(),
        Pipeline.from_iterable([]),
        Pipeline.from_root(root).traverse().prepare(),
    ):
        with pytest.raises(ValueError, match="Multi") as raised:
            pipeline.process(len, mode="process")
        assert str(raised.value) == "Multiprocessing requires buffered batches before process(...)"
        assert isinstance(raised.value, LotprocError)


WRONG: dict[str, tuple[Callable[[BaseNode], Any], type[Exception], str]] = {
    "no node": (
        lambda root: Pipeline.from_root("tree"),
        ArgumentTypeError,
        "Pipeline.from_root: expected a lotdb node",
    ),  # type: ignore[arg-type]
    "no items": (lambda root: Pipeline.from_iterable(3), ArgumentTypeError, "items must be an iterable, got int 3"),  # type: ignore[arg-type]
    "a node for items": (lambda root: Pipeline.from_iterable(root), ArgumentTypeError, "items must be an iterable"),  # type: ignore[arg-type]
    "traversal": (
        lambda root: Pipeline.from_root(root).traverse("all"),
        ArgumentError,
        "must be one of 'leaves', 'level'",
    ),  # type: ignore[arg-type]
    "level word": (lambda root: Pipeline.from_root(root).traverse("level", "top"), ArgumentError, "deepest"),  # type: ignore[arg-type]
    "level -1": (lambda root: Pipeline.from_root(root).traverse("level", -1), ArgumentError, "at least 0, got -1"),
    "traverse twice": (
        lambda root: Pipeline.from_root(root).traverse().traverse(),
        ArgumentError,
        "once",
    ),
    "traverse items": (lambda root: Pipeline.from_iterable([]).traverse(), ArgumentError, "from_root"),
    "predicate": (lambda root: Pipeline.from_iterable([]).filter("clip"), ArgumentTypeError, "got str 'clip'"),  # type: ignore[arg-type]
    "pattern": (lambda root: Pipeline.from_iterable([]).filter_key("clip_("), PatternError, r"clip_\("),
    "pattern of another type": (lambda root: Pipeline.from_iterable([]).filter_key(3), ArgumentTypeError, "got int 3"),  # type: ignore[arg-type]
    "buffer 0": (lambda root: Pipeline.from_iterable([]).buffer(0), ArgumentError, "at least 1, got 0"),
    "buffer None": (lambda root: Pipeline.from_iterable([]).buffer(None), ArgumentTypeError, "got None"),  # type: ignore[arg-type]
    "buffer twice": (lambda root: Pipeline.from_iterable([]).buffer(1).buffer(2), ArgumentError, "once"),
    "prepare fn": (
        lambda root: Pipeline.from_iterable([]).prepare(3),
        ArgumentTypeError,
        "function of a node, got int 3",
    ),  # type: ignore[arg-type]
    "prepare both": (lambda root: Pipeline.from_iterable([]).prepare(len, ["x"]), ArgumentError, "not both"),
    "prepare all and some": (
        lambda root: Pipeline.from_iterable([]).prepare(None, ["x"], True),
        ArgumentError,
        "attribute_names or include_all_attributes=True, not both",
    ),
    "names": (lambda root: Pipeline.from_iterable([]).prepare(attribute_names=[3]), ArgumentTypeError, "got int 3"),  # type: ignore[list-item]
    "names that are none": (lambda root: Pipeline.from_iterable([]).prepare(attribute_names=3), ArgumentTypeError, "3"),  # type: ignore[arg-type]
    "prepare results": (lambda root: Pipeline.from_iterable([]).process(len).prepare(), ArgumentError, "process"),
    "filter results": (
        lambda root: Pipeline.from_iterable([]).process(len).filter(len),
        ArgumentError,
        "process",
    ),
    "buffer results": (lambda root: Pipeline.from_iterable([]).process(len).buffer(2), ArgumentError, "process"),
    "processor": (lambda root: Pipeline.from_iterable([]).process("len"), ArgumentTypeError, "got str 'len'"),  # type: ignore[arg-type]
    "mode": (lambda root: Pipeline.from_iterable([]).process(len, mode="fork"), ArgumentError, "got 'fork'"),  # type: ignore[arg-type]
    "workers": (lambda root: Pipeline.from_iterable([]).process(len, workers=0), ArgumentError, "at least 1, got 0"),
    "process twice": (lambda root: Pipeline.from_iterable([]).process(len).process(len), ArgumentError, "process"),
    "process live root": (lambda root: Pipeline.from_root(root).process(len), ArgumentError, "traverse"),
    "buffer live root": (lambda root: Pipeline.from_root(root).buffer(2), ArgumentError, "traverse"),
    "filter live root": (lambda root: Pipeline.from_root(root).filter_key("a"), ArgumentError, "traverse"),
    "target": (lambda root: Pipeline.from_iterable([]).write(root), ArgumentTypeError, "InlineTarget or another Write"),  # type: ignore[arg-type]
    "target class": (lambda root: Pipeline.from_iterable([]).write(InlineTarget), ArgumentTypeError, "WriteTarget"),  # type: ignore[arg-type]
    "write twice": (
        lambda root: Pipeline.from_iterable([]).write(InlineTarget(root)).write(InlineTarget(root)),
        ArgumentError,
        "write",
    ),
    "process after write": (
        lambda root: Pipeline.from_iterable([]).write(InlineTarget(root)).process(len),
        ArgumentError,
        r"process.* comes after write\(\.\.\.\)",
    ),
    "run without traverse": (lambda root: Pipeline.from_root(root).run(), ArgumentError, r"call traverse\(\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_is_refused_when_it_is_made(root: BaseNode, case: str) -> None:
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call(root)
    assert contents(root) == {(): {}, ("ann",): {}, ("bob",): {}, **CORPUS}


def test_an_inline_pipeline_that_skips_its_results_is_run_again_with_the_same_tree() -> None:
    root = BaseNode("root")
    root.gns(["ann", "clip"])
    target = InlineTarget(root)
    again = (
        Pipeline.from_root(root)
        .traverse("leaves", skip="_proc")
        .buffer(2)
        .prepare()
        .process(lp.each(copied))
        .write(target)
    )
    assert "traverse('leaves', skip='_proc')" in repr(again)
    for _ in range(2):
        again.run()
        assert [leaf.gps() for leaf in lp.leaves(root)] == [["ann", "clip", "_proc"]]
    with pytest.raises(lp.PatternError):
        Pipeline.from_root(root).traverse("level", skip="[")


def copied(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, output=record.key)


def test_processing_takes_the_options_of_parallel_map_and_the_target_keeps_the_failures() -> None:
    root = BaseNode("root")
    for key, x in (("a", 2), ("b", 0), ("c", 4)):
        root.gn(key).set_attribute("x", x)
    pipeline = (
        Pipeline.from_root(root)
        .traverse()
        .buffer(2)
        .prepare(attribute_names=["x"])
        .process(each(halved), on_error="collect", retries=1)
    )
    assert repr(pipeline).endswith(".process(each(halved), mode='sync', on_error='collect', retries=1)")
    target = pipeline.write(InlineTarget(root=root)).run()
    assert target.written_paths == [("a", "_proc"), ("c", "_proc")]
    assert [(failure.path, failure.attempts) for failure in target.report.failures] == [(("b",), 2)]
    with pytest.raises(ArgumentError, match="retries must be at least 0, got -1"):
        Pipeline.from_iterable([]).process(len, retries=-1)
    with pytest.raises(ArgumentTypeError, match="no argument 'retry'; did you mean 'retry_on' or 'retries'"):
        Pipeline.from_iterable([]).process(len, retry=1)


def halved(record: NodeRecord) -> ProcessResult:
    return ProcessResult(record.path, output=8 / record.attributes["x"])
