"""Names of arguments and policies as programs for earlier libraries have them: they mean what ours mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lotdb import BaseNode

import lotproc as lp


@pytest.fixture
def root() -> BaseNode:
    root = BaseNode("root")
    for key in ("clip_1", "clip_2"):
        root.gn(key).set_attribute("seconds", 1.5)
    return root


def count(records: list[Any]) -> list[lp.ProcessResult]:
    return [lp.ProcessResult(record.path, len(record.key)) for record in records]


def test_arguments_by_their_other_names(root: BaseNode, tmp_path: Path) -> None:
    start = lp.Pipeline.from_root(root)
    theirs = start.traverse(strategy="leaves").buffer(2).prepare().process(processor=count).run()  # type: ignore[call-arg]
    assert theirs == start.traverse("leaves").buffer(2).prepare().process(count).run()
    assert lp.node_process_cruncher(root, processor=count) == theirs  # type: ignore[call-arg]
    assert lp.build_node_process_pipeline(root, processor=count).run() == theirs  # type: ignore[call-arg]
    lp.save_to_file(obj={"a": 1}, path=str(tmp_path / "saved"))  # type: ignore[call-arg]
    assert lp.load_from_file(tmp_path / "saved") == {"a": 1}
    with pytest.raises(lp.ArgumentTypeError, match=r"processor= .* fn="):
        start.traverse().process(count, processor=count, fn=count)  # type: ignore[call-arg, misc]


class UnderRun:
    def __init__(self, run: str) -> None:
        self.run = run

    def target_path(self, result: lp.ProcessResult) -> tuple[str, ...]:
        return ("runs", self.run, *result.path)


def test_an_object_with_a_target_path_is_a_policy(root: BaseNode) -> None:
    policy: Any = UnderRun("1")
    results = count(list(lp.snapshot("seconds", lp.leaves(root))))
    assert [planned.path for planned in lp.plan(policy, [results])] == [("runs", "1", r.path[0]) for r in results]
    lp.write(policy, root, [results[:1]])
    records = list(lp.snapshot("seconds", lp.leaves(root, skip="runs")))
    assert [record.path for record in lp.pending(policy, root, records)] == [("clip_2",)]
    assert lp.status(policy, root, records).new == 1
    target = lp.WriteTarget(root, policy)
    target.write(results[1])
    assert target.written_paths == [("runs", "1", "clip_2")]
    for wrong in (None, "inline", object()):
        with pytest.raises(lp.ArgumentTypeError):
            lp.write(wrong, root, [])  # type: ignore[arg-type]


def test_targets_tell_the_base_of_their_policy(root: BaseNode) -> None:
    assert lp.InlineTarget(root, base_path=("_p", "q")).base_path == ("_p", "q")
    assert lp.MirrorTarget(root).base_path == lp.NewDatabaseTarget(root).base_path == ()
    with pytest.raises(AttributeError):
        lp.WriteTarget(root, lambda result: result.path).base_path  # noqa: B018
