"""What the first description of lotproc shows, in a test each; and all the names that it and its successors promise."""

from __future__ import annotations

import ast
import importlib
import pickle
from pathlib import Path
from typing import Any

import pytest
from lotdb import LOTDB, BaseNode
from recording import committed, contents

import lotproc
import lotproc.errors

NAMES = {
    "traversal": "children glob leaves level walk",
    "filters": "filter_node_list match_key match_path where",
    "models": "NodeRecord ProcessResult Write WriteReport",
    "snapshots": "snapshot",
    "buffering": "chunked chunked_by chunked_bytes",
    "parallel": "each parallel_map",
    "write_policies": "FreshWritePolicy InlineWritePolicy MirrorWritePolicy fresh inline mirror",
    "writing": "plan write",
    "targets": "InlineTarget MirrorTarget NewDatabaseTarget WriteTarget",
    "pipeline": "Pipeline",
    "processors": "PreparationSpec ProcessingSpec SelectionSpec add_preparation_stage add_processing_stage "
    "add_write_stage build_node_process_pipeline build_selection_pipeline node_process_cruncher",
    "ingest": "index_files ingest_files load_files_directory load_files_folder load_small_files_directory "
    "load_small_files_folder",
    "export": "node_list_to_dataframe to_arrow to_dataframe to_parquet to_rows tree_to_dataframe",
    "serialization": "load_from_file save_to_file",
    "views": "progress show",
    "errors": "LotprocError",
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in NAMES for name in NAMES[module].split()])
def test_every_documented_name_imports_from_its_module_and_from_lotproc(module: str, name: str) -> None:
    there = getattr(importlib.import_module(f"lotproc.{module}"), name)
    assert getattr(lotproc, name) is there
    assert name in importlib.import_module(f"lotproc.{module}").__all__
    assert there.__doc__


def test_all_is_what_the_stub_names() -> None:
    stub = ast.parse(Path(lotproc.__file__).with_name("__init__.pyi").read_text(encoding="utf-8"))
    names = {alias.asname for node in ast.walk(stub) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(lotproc.__all__) == names
    assert names >= {name for module in NAMES for name in NAMES[module].split()}
    assert names - lotproc._OLDER == set(dir(lotproc))  # type: ignore[attr-defined]


def errors_below(error: type[Exception]) -> list[type[Exception]]:
    return [error, *(leaf for child in error.__subclasses__() for leaf in errors_below(child))]


@pytest.mark.parametrize("error", errors_below(lotproc.LotprocError))
def test_every_error_survives_pickling_with_its_notes(error: type[Exception]) -> None:
    original = error("ann/clip_1: expected this, got that")
    lotproc.errors.add_note(original, "lotproc: in batch 3")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copy: Any = pickle.loads(pickle.dumps(original, protocol=protocol))
        assert (type(copy), copy.args, str(copy)) == (error, original.args, str(original))
        assert copy.__notes__ == ["lotproc: in batch 3"]


def test_every_error_is_public_and_also_the_built_in_error_one_would_expect() -> None:
    for error in errors_below(lotproc.LotprocError):
        assert getattr(lotproc, error.__name__) is error
        if error is not lotproc.LotprocError:
            expected = ValueError, TypeError, KeyError, RuntimeError, ImportError, TimeoutError, ConnectionError
            assert issubclass(error, expected)


# The examples


def summaries(records: list[Any]) -> list[Any]:
    from lotproc.models import ProcessResult

    return [
        ProcessResult(path=r.path, output={"duration": r.attributes.get("duration")}, attributes={"processed": True})
        for r in records
    ]


CLIP_1, CLIP_2 = ("speaker_01", "session_a", "clip_001"), ("speaker_01", "session_a", "clip_002")


@pytest.mark.parametrize("source", ["lotproc", "modules"])
def test_a_summary_is_written_inline_below_each_clip_of_a_database(tmp_path: Path, source: str) -> None:
    if source == "lotproc":
        from lotproc import InlineTarget, Pipeline
    else:
        from lotproc.pipeline import Pipeline
        from lotproc.targets import InlineTarget
    db = LOTDB(path=str(tmp_path / "data"), name="lotdb.fs", new=True)
    try:
        root = db.open_connection()
        root.gns([*CLIP_1]).set_attribute("duration", 1.2)
        root.gns([*CLIP_2]).set_attribute("duration", 1.4)
        root.gns(["speaker_01", "session_a", "notes"]).set_attribute("duration", 99.0)
        pipeline = Pipeline.from_root(root).traverse("leaves").filter_key(r"clip_.*").buffer(128)
        pipeline = pipeline.prepare(attribute_names=["duration"]).process(summaries)
        target = pipeline.write(InlineTarget(root=root, base_path=("_proc", "summary"))).run()
        assert target.written_paths == [(*CLIP_1, "_proc", "summary"), (*CLIP_2, "_proc", "summary")]
        db.commit()
        tree = committed(db)
    finally:
        db.close()
    assert tree == {
        (): {},
        ("speaker_01",): {},
        ("speaker_01", "session_a"): {},
        ("speaker_01", "session_a", "notes"): {"duration": 99.0},
        CLIP_1: {"duration": 1.2},
        CLIP_2: {"duration": 1.4},
        (*CLIP_1, "_proc"): {},
        (*CLIP_2, "_proc"): {},
        (*CLIP_1, "_proc", "summary"): {"processed": True, "result": {"duration": 1.2}},
        (*CLIP_2, "_proc", "summary"): {"processed": True, "result": {"duration": 1.4}},
    }


def test_prepare_makes_records_of_path_key_and_the_selected_attributes() -> None:
    from lotproc import NodeRecord, Pipeline

    root = BaseNode("root")
    clip = root.gns([*CLIP_1])
    clip.set_attribute("duration", 1.2)
    clip.set_attribute("speaker", "nobody asked for this")
    batches = Pipeline.from_root(root).traverse("leaves").buffer(2).prepare(attribute_names=["duration"])
    assert batches.run() == [[NodeRecord(path=CLIP_1, key="clip_001", attributes={"duration": 1.2})]]
    assert batches.run()[0][0].payload is None


@pytest.mark.parametrize("source", ["lotproc", "modules"])
def test_upper_case_keys_are_mirrored_into_another_tree_in_memory(source: str) -> None:
    if source == "lotproc":
        from lotproc import MirrorTarget, Pipeline, ProcessResult
    else:
        from lotproc.models import ProcessResult
        from lotproc.pipeline import Pipeline
        from lotproc.targets import MirrorTarget

    def upper(records: list[Any]) -> list[Any]:
        return [ProcessResult(path=r.path, output=r.key.upper(), relative_path=("derived",)) for r in records]

    tree, mirrored = BaseNode("root"), BaseNode("mirror")
    tree.gns([*CLIP_1])
    pipeline = Pipeline.from_root(tree).traverse("leaves").buffer(64).prepare().process(upper, mode="sync")
    target = MirrorTarget(root=mirrored, output_attribute="value")
    assert pipeline.write(target).run() is target
    assert contents(mirrored) == {
        **{CLIP_1[:depth]: {} for depth in range(4)},
        (*CLIP_1, "derived"): {"value": "CLIP_001"},
    }
    assert contents(tree) == {CLIP_1[:depth]: {} for depth in range(4)}


@pytest.mark.parametrize("source", ["lotproc", "modules"])
def test_features_go_to_a_database_of_their_own(tmp_path: Path, source: str) -> None:
    if source == "lotproc":
        from lotproc import NewDatabaseTarget, Pipeline, ProcessResult
    else:
        from lotproc.models import ProcessResult
        from lotproc.pipeline import Pipeline
        from lotproc.targets import NewDatabaseTarget

    def features(records: list[Any]) -> list[Any]:
        found = []
        for record in records:
            duration = record.attributes.get("duration")
            about = {"source_duration": duration, "processor": "features"}
            found.append(ProcessResult(record.path, {"feature": duration * 2}, about, ("derived", "features")))
        return found

    other = ("speaker_02", "session_b", "clip_002")
    original = LOTDB(path=str(tmp_path / "source_data"), name="source.fs", new=True)
    derived = LOTDB(path=str(tmp_path / "derived_data"), name="derived.fs", new=True)
    try:
        root, fresh_root = original.open_connection(), derived.open_connection()
        root.gns([*CLIP_1]).set_attribute("duration", 1.2)
        root.gns([*other]).set_attribute("duration", 0.8)
        original.commit()
        before = committed(original)
        pipeline = Pipeline.from_root(root).traverse("leaves").buffer(64).prepare(attribute_names=["duration"])
        pipeline.process(features).write(NewDatabaseTarget(root=fresh_root, output_attribute="result")).run()
        assert committed(derived) == {(): {}}
        derived.commit()
        original.commit()
        after = committed(derived)
        assert committed(original) == before
    finally:
        original.close()
        derived.close()
    assert {path: values for path, values in after.items() if values} == {
        (*path, "derived", "features"): {
            "result": {"feature": duration * 2},
            "source_duration": duration,
            "processor": "features",
        }
        for path, duration in ((CLIP_1, 1.2), (other, 0.8))
    }
    assert len(after) == 1 + 2 * 5


@pytest.mark.parametrize("source", ["lotproc", "modules"])
def test_a_target_may_be_put_together_from_a_policy_and_a_root(source: str) -> None:
    if source == "lotproc":
        from lotproc import InlineWritePolicy, ProcessResult, WriteTarget
    else:
        from lotproc.models import ProcessResult
        from lotproc.targets import WriteTarget
        from lotproc.write_policies import InlineWritePolicy
    root = BaseNode("root")
    policy = InlineWritePolicy(base_path=("results", "run_001"))
    target = WriteTarget(root=root, policy=policy, output_attribute="result")
    target.write(ProcessResult(path=CLIP_1, output=3))
    assert target.target_path(ProcessResult(path=CLIP_2)) == (*CLIP_2, "results", "run_001")
    assert contents(root)[(*CLIP_1, "results", "run_001")] == {"result": 3}


@pytest.mark.parametrize("source", ["lotproc", "modules"])
def test_a_pipeline_may_be_built_from_specifications(source: str) -> None:
    if source == "lotproc":
        from lotproc import (
            InlineTarget,
            PreparationSpec,
            ProcessingSpec,
            SelectionSpec,
            build_node_process_pipeline,
        )
    else:
        from lotproc.processors import (
            PreparationSpec,
            ProcessingSpec,
            SelectionSpec,
            build_node_process_pipeline,
        )
        from lotproc.targets import InlineTarget
    root = BaseNode("root")
    root.gns([*CLIP_1]).set_attribute("duration", 1.2)
    root.gns([*CLIP_2]).set_attribute("duration", 1.4)
    pipeline = build_node_process_pipeline(
        root,
        summaries,
        selection=SelectionSpec(filter_key_pattern=r"clip_001"),
        preparation=PreparationSpec(buffer_size=32, attribute_names=["duration"]),
        processing=ProcessingSpec(mode="sync"),
        target=InlineTarget(root=root, base_path=("_proc", "spec")),
    )
    assert ("_proc",) not in contents(root)
    assert pipeline.run().written_paths == [(*CLIP_1, "_proc", "spec")]
    assert contents(root)[(*CLIP_1, "_proc", "spec")] == {"processed": True, "result": {"duration": 1.2}}
    assert CLIP_2 in contents(root)
    assert (*CLIP_2, "_proc") not in contents(root)


def test_the_cruncher_does_the_same_in_one_call() -> None:
    from lotproc import InlineTarget
    from lotproc.processors import node_process_cruncher

    root = BaseNode("root")
    root.gns([*CLIP_1]).set_attribute("duration", 1.2)
    root.gns([*CLIP_2]).set_attribute("duration", 1.4)
    target = InlineTarget(root=root, base_path=("_proc", "cruncher"))
    options: dict[str, Any] = {"filter_key_pattern": "clip_002", "buffer_size": 32, "attribute_names": ["duration"]}
    assert node_process_cruncher(root, summaries, **options, target=target) is target
    assert contents(root)[(*CLIP_2, "_proc", "cruncher")] == {"processed": True, "result": {"duration": 1.4}}
