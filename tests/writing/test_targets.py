"""Targets: a policy bound to a root, which does what `write` does and remembers the paths."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode
from recording import committed, contents, database, examples, plant

from lotproc import (
    ArgumentError,
    ArgumentTypeError,
    InlineTarget,
    InlineWritePolicy,
    MirrorTarget,
    NewDatabaseTarget,
    NotPicklableError,
    ProcessResult,
    ReadOnlyTreeError,
    ResultError,
    WriteTarget,
    fresh,
    inline,
    mirror,
    write,
)

#: Paths at random may be those of results.
pytestmark = pytest.mark.filterwarnings("ignore:.* is itself at", "ignore:.* both go to")

keys = st.sampled_from(["a", "b", "_proc"])
bases = st.lists(keys, max_size=2).map(tuple)
results = st.lists(
    st.builds(
        ProcessResult,
        path=st.lists(keys, max_size=3).map(tuple),
        output=st.integers(),
        attributes=st.dictionaries(st.just("x"), st.integers()),
        relative_path=bases,
    ),
    max_size=5,
)
TARGETS: list[tuple[Any, Any]] = [(InlineTarget, inline), (MirrorTarget, mirror), (NewDatabaseTarget, fresh)]


@settings(max_examples=examples(60))
@given(base=bases, found=results, kind=st.sampled_from(TARGETS), attribute=st.sampled_from(["result", "out", None]))
def test_a_target_writes_what_its_policy_writes(
    base: tuple[str, ...], found: list[ProcessResult], kind: tuple[Any, Any], attribute: str | None
) -> None:
    make, policy = kind
    root, expected = BaseNode("root"), BaseNode("root")
    target = make(root=root, output_attribute=attribute, base_path=base)
    write(policy(*base), expected, found, output_attribute=attribute)
    target.write_many(found)
    assert contents(root) == contents(expected)
    assert target.written_paths == [policy(*base)(result) for result in found]
    assert [target.target_path(result) for result in found] == target.written_paths
    assert all(type(path) is tuple for path in target.written_paths)


@settings(max_examples=examples(40))
@given(found=results)
def test_one_by_one_is_the_same_as_all_at_once(found: list[ProcessResult]) -> None:
    one, many = InlineTarget(BaseNode("root")), InlineTarget(BaseNode("root"))
    for result in found:
        assert one.write(result) is None
    many.write_many(iter([found]))
    assert contents(one.root) == contents(many.root)
    assert one.written_paths == many.written_paths


def test_the_defaults_are_those_of_the_documentation() -> None:
    result = ProcessResult(("a", "b"), 1, {"x": 2})
    for make, path in (
        (InlineTarget, ("a", "b", "_proc")),
        (MirrorTarget, ("a", "b")),
        (NewDatabaseTarget, ("a", "b")),
    ):
        target = make(BaseNode("root"))
        target.write(result)
        assert target.written_paths == [path]
        assert contents(target.root)[path] == {"x": 2, "result": 1}
        assert isinstance(target, WriteTarget)


def test_arguments_may_be_given_by_position_in_the_documented_order() -> None:
    result = ProcessResult(("a",), 1)
    for make in (InlineTarget, MirrorTarget, NewDatabaseTarget):
        target = make(BaseNode("root"), "out", ("base",))
        target.write(result)
        assert contents(target.root)[target.written_paths[0]] == {"out": 1}
        assert "base" in target.written_paths[0]
    target = WriteTarget(BaseNode("root"), InlineWritePolicy(("runs", "1")), "out")
    target.write(result)
    assert contents(target.root)[("a", "runs", "1")] == {"out": 1}


def test_a_base_path_may_be_a_list_and_a_policy_any_function() -> None:
    assert InlineTarget(BaseNode("r"), base_path=["x", "y"]).target_path(ProcessResult(("a",))) == ("a", "x", "y")  # type: ignore[arg-type]
    target = WriteTarget(BaseNode("root"), policy=lambda result: ("flat", result.path[-1]))
    target.write(ProcessResult(("a", "b"), 1))
    assert target.written_paths == [("flat", "b")]


def test_written_paths_are_tuples_even_where_a_policy_gives_lists() -> None:
    target = WriteTarget(BaseNode("root"), policy=lambda result: ["flat", result.path[-1]])  # type: ignore[arg-type, return-value]
    target.write(ProcessResult(("a", "b"), 1))
    assert target.written_paths == [("flat", "b")]
    assert target.target_path(ProcessResult(("a", "b"))) == ("flat", "b")


def test_results_may_be_nested_and_written_paths_go_on_growing() -> None:
    target = MirrorTarget(BaseNode("root"))
    target.write_many([ProcessResult(("a",)), [(ProcessResult(("b",)) for _ in range(2))]])
    target.write_many([])
    target.write(ProcessResult(("c",)))
    assert target.written_paths == [("a",), ("b",), ("b",), ("c",)]


@pytest.mark.parametrize("bad", ["text", None, ProcessResult(("a", "")), [ProcessResult(("b",)), 3]])
def test_a_write_that_fails_writes_nothing_and_adds_no_path(bad: Any) -> None:
    target = MirrorTarget(BaseNode("root"))
    target.write(ProcessResult(("first",), 1))
    with pytest.raises((ResultError, ArgumentError)):
        target.write_many([ProcessResult(("second",), 2), bad])
    assert target.written_paths == [("first",)]
    assert contents(target.root) == {(): {}, ("first",): {"result": 1}}


def test_in_a_database_the_caller_commits_and_a_failure_keeps_what_was_there() -> None:
    with database() as db:
        root = db.open_connection()
        plant(root, {("a",): {"x": 1}})
        target = InlineTarget(root)
        target.write(ProcessResult(("a",), 1))
        with pytest.raises(NotPicklableError):
            target.write_many([ProcessResult(("b",), 1), ProcessResult(("c",), threading.Lock())])
        assert committed(db) == {(): {}}
        db.commit()
        assert committed(db) == contents(root) == {(): {}, ("a",): {"x": 1}, ("a", "_proc"): {"result": 1}}
        assert target.written_paths == [("a", "_proc")]


def test_inline_writes_where_the_records_come_from_whatever_node_the_target_names() -> None:
    root = BaseNode("root")
    target = InlineTarget(root.gns(["ann", "session"]))
    target.write(ProcessResult(("ann", "session", "clip"), 1))
    assert set(contents(root)) == {(), *(("ann", "session", "clip", "_proc")[:depth] for depth in range(1, 5))}


def test_what_can_not_be_written_to_is_refused_when_the_target_is_made(tmp_path: Any) -> None:
    with database() as db, pytest.raises(ArgumentTypeError, match="open it first"):
        InlineTarget(db)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="expected a lotdb node"):
        MirrorTarget(None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="policy must be"):
        WriteTarget(BaseNode("root"), policy="inline")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="output_attribute must be a str or None"):
        MirrorTarget(BaseNode("root"), output_attribute=3)  # type: ignore[arg-type]
    for base_path, error in ((("a", ""), ArgumentError), (("a", 3), ArgumentTypeError), ("text", ArgumentTypeError)):
        with pytest.raises(error, match="base_path"):
            NewDatabaseTarget(BaseNode("root"), base_path=base_path)  # type: ignore[arg-type]


def test_a_database_that_can_only_be_read_is_refused_when_the_target_is_made(tmp_path: Any) -> None:
    from lotdb import LOTDB

    LOTDB(path=str(tmp_path), name="t.fs", new=True).close()
    db = LOTDB(path=str(tmp_path), name="t.fs", read_only=True)
    try:
        with pytest.raises(ReadOnlyTreeError):
            NewDatabaseTarget(db.open_connection())
    finally:
        db.close()


def test_a_repr_says_what_is_written_where() -> None:
    target = InlineTarget(BaseNode("corpus"), output_attribute=None)
    assert repr(target) == "InlineTarget(<corpus>, InlineWritePolicy(base_path=('_proc',)), output_attribute=None)"
