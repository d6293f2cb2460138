"""Specifications, and the one-call helper on top: the same pipeline, however it is spelled."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import pickle
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode
from recording import contents, examples, plant

from lotproc import (
    ArgumentError,
    InlineTarget,
    MirrorTarget,
    NodeRecord,
    Pipeline,
    PreparationSpec,
    ProcessingSpec,
    ProcessResult,
    SelectionSpec,
    add_preparation_stage,
    add_processing_stage,
    add_write_stage,
    build_node_process_pipeline,
    build_selection_pipeline,
    node_process_cruncher,
)

CORPUS = {
    ("ann", "a", "clip_1"): {"x": 1, "y": 7},
    ("ann", "a", "clip_2"): {"x": 2},
    ("ann", "notes"): {"x": 3},
    ("bob", "b", "clip_3"): {"x": 4},
}


def corpus() -> BaseNode:
    root = BaseNode("corpus")
    plant(root, CORPUS)
    return root


def doubled(records: list[NodeRecord]) -> list[ProcessResult]:
    return [ProcessResult(record.path, {**record.attributes}, {"n": len(records)}) for record in records]


selections = st.fixed_dictionaries(
    {},
    optional={
        "traversal": st.sampled_from(["leaves", "level"]),
        "level": st.sampled_from([0, 1, 2, 3, "deepest"]),
        "filter_fn": st.sampled_from([None, lambda node: node.get_attribute("x") != 2]),
        "filter_key_pattern": st.sampled_from(["clip", "notes", "."]),
        "invert_filter": st.booleans(),
    },
).filter(lambda fields: not fields.get("invert_filter") or fields.get("filter_key_pattern") is not None)
preparations = st.fixed_dictionaries(
    {},
    optional={
        "buffer_size": st.integers(1, 5),
        "prepare_fn": st.just(None),
        "attribute_names": st.sampled_from([None, ["x"], ["y", "x"], "y"]),
        "include_all_attributes": st.booleans(),
    },
).filter(lambda fields: not fields.get("include_all_attributes") or fields.get("attribute_names") is None)
processings = st.fixed_dictionaries(
    {}, optional={"mode": st.sampled_from(["sync", "thread", "process"]), "workers": st.just(2)}
).map(lambda fields: {**fields, "workers": 2} if fields.get("mode") == "process" else fields)


def by_hand(root: BaseNode, selection: Any, preparation: Any, processing: Any) -> Pipeline:
    pipeline = Pipeline.from_root(root).traverse(
        selection.get("traversal", "leaves"), selection.get("level", "deepest")
    )
    if selection.get("filter_fn") is not None:
        pipeline = pipeline.filter(selection["filter_fn"])
    if "filter_key_pattern" in selection:
        pipeline = pipeline.filter_key(selection["filter_key_pattern"], selection.get("invert_filter", False))
    pipeline = pipeline.buffer(preparation.get("buffer_size", 1000)).prepare(
        None, preparation.get("attribute_names"), preparation.get("include_all_attributes", False)
    )
    return pipeline.process(doubled, processing.get("mode", "sync"), processing.get("workers"))


@pytest.mark.filterwarnings("ignore:.* no node had an attribute")  # where a filter leaves none that has it
@settings(max_examples=examples(80))
@given(selection=selections, preparation=preparations, processing=processings)
def test_specifications_keywords_and_methods_make_the_same_pipeline(
    selection: dict[str, Any], preparation: dict[str, Any], processing: dict[str, Any]
) -> None:
    root = corpus()
    expected = by_hand(root, selection, preparation, processing).run()
    specified = build_node_process_pipeline(
        root,
        doubled,
        selection=SelectionSpec(**selection),
        preparation=PreparationSpec(**preparation),
        processing=ProcessingSpec(**processing),
    )
    assert specified.run() == expected
    assert node_process_cruncher(root, doubled, **selection, **preparation, **processing) == expected
    staged = build_selection_pipeline(root, SelectionSpec(**selection))
    staged = add_preparation_stage(staged, PreparationSpec(**preparation))
    staged = add_processing_stage(staged, doubled, ProcessingSpec(**processing))
    assert staged.run() == expected

    twin, target = corpus(), MirrorTarget(BaseNode("mirror"))
    node_process_cruncher(twin, doubled, **selection, **preparation, **processing, target=target)
    results = list(itertools.chain.from_iterable(expected))
    assert target.written_paths == [result.path for result in results]
    after = contents(target.root)
    assert all(after[result.path] == {"result": result.output, **result.attributes} for result in results)


def test_the_cruncher_has_all_the_fields_of_the_specifications_with_their_defaults() -> None:
    parameters = inspect.signature(node_process_cruncher).parameters
    fields = [f for spec in (SelectionSpec, PreparationSpec, ProcessingSpec) for f in dataclasses.fields(spec)]
    assert list(parameters) == ["root", "fn", *(field.name for field in fields), "target"]
    for field in fields:
        assert parameters[field.name].default == field.default
        assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY


def test_the_specifications_have_the_documented_fields_in_the_documented_order() -> None:
    def defaults(spec: Any) -> dict[str, Any]:
        return {field.name: field.default for field in dataclasses.fields(spec)}

    assert list(defaults(SelectionSpec).items()) == [
        ("traversal", "leaves"),
        ("level", "deepest"),
        ("filter_fn", None),
        ("filter_key_pattern", None),
        ("invert_filter", False),
        ("skip", None),
    ]
    assert list(defaults(PreparationSpec).items()) == [
        ("buffer_size", 1000),
        ("prepare_fn", None),
        ("attribute_names", None),
        ("include_all_attributes", False),
    ]
    assert list(defaults(ProcessingSpec).items()) == [("mode", "sync"), ("workers", None)]


@pytest.mark.parametrize("spec", [SelectionSpec("level", 2), PreparationSpec(3), ProcessingSpec("thread", 2)])
def test_a_specification_is_a_frozen_value(spec: Any) -> None:
    assert pickle.loads(pickle.dumps(spec)) == spec == dataclasses.replace(spec)
    assert spec != type(spec)()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, dataclasses.fields(spec)[0].name, None)


def test_without_specifications_all_leaves_come_in_one_batch_without_attributes() -> None:
    (batch,) = build_node_process_pipeline(corpus(), list).run()
    assert [(record.path, record.attributes) for record in batch] == [(path, {}) for path in CORPUS]
    assert repr(build_selection_pipeline(corpus())) == "Pipeline.from_root(<corpus>).traverse('leaves')"
    assert add_processing_stage(add_preparation_stage(build_selection_pipeline(corpus())), len).run() == [4]


def test_prepare_fn_makes_what_the_processor_gets() -> None:
    assert node_process_cruncher(corpus(), list, prepare_fn=lambda node: node.key, buffer_size=3) == [
        ["clip_1", "clip_2", "notes"],
        ["clip_3"],
    ]


def test_a_write_stage_ends_the_pipeline_and_none_leaves_it() -> None:
    root = corpus()
    pipeline = build_node_process_pipeline(root, doubled)
    assert add_write_stage(pipeline, None) is pipeline
    target = InlineTarget(root)
    assert add_write_stage(pipeline, target).run() is target
    assert target.written_paths == [(*path, "_proc") for path in CORPUS]


def test_building_runs_nothing() -> None:
    root, calls = corpus(), []
    before = contents(root)
    pipeline = build_node_process_pipeline(
        root,
        calls.append,
        selection=SelectionSpec(filter_fn=calls.append),
        preparation=PreparationSpec(prepare_fn=calls.append),
        target=InlineTarget(root),
    )
    assert repr(pipeline).startswith("Pipeline.from_root(<corpus>)")
    assert calls == []
    assert contents(root) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"traversal": "all"}, "must be one of 'leaves', 'level', got 'all'"),
        ({"traversal": "level", "level": -1}, "at least 0, got -1"),
        ({"filter_key_pattern": "clip_("}, r"clip_\("),
        ({"invert_filter": True}, "invert_filter=True has no filter to invert"),
        ({"buffer_size": 0}, "at least 1, got 0"),
        ({"prepare_fn": len, "attribute_names": ["x"]}, "not both"),
        ({"attribute_names": ["x"], "include_all_attributes": True}, "not both"),
        ({"mode": "fork"}, "must be one of 'sync', 'thread', 'process', 'async', got 'fork'"),
        ({"workers": 0}, "at least 1, got 0"),
    ],
)
def test_bad_options_are_refused_before_any_work(options: dict[str, Any], message: str) -> None:
    root, calls = corpus(), []
    before = contents(root)
    with pytest.raises(ArgumentError, match=message):
        node_process_cruncher(root, calls.append, **options, target=InlineTarget(root))
    assert calls == []
    assert contents(root) == before


def test_an_empty_tree_is_its_own_leaf() -> None:
    ((record,),) = node_process_cruncher(BaseNode("empty"), list)
    assert (record.path, record.key) == ((), "empty")


def test_invert_filter_inverts_the_pattern_or_where_there_is_none_the_function() -> None:
    root = BaseNode("root")
    for key in ("clip_1", "clip_2", "notes"):
        root.gn(key)

    def kept(**options: Any) -> list[str]:
        return node_process_cruncher(root, lambda records: [record.key for record in records], **options)[0]

    assert kept(filter_fn=lambda node: node.key == "clip_1", invert_filter=True) == ["clip_2", "notes"]
    assert kept(filter_fn=lambda node: node.key != "clip_1", filter_key_pattern="clip", invert_filter=True) == ["notes"]


def test_a_specification_with_an_iterator_of_names_can_be_used_twice() -> None:
    root = BaseNode("root")
    root.set_attribute("x", 1)
    spec = PreparationSpec(attribute_names=iter(["x"]))
    for _ in range(2):
        pipeline = build_node_process_pipeline(root, lambda records: records[0].attributes, preparation=spec)
        assert pipeline.run() == [{"x": 1}]
