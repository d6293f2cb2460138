"""`gather` against plain dicts: one record for each branch, with the values of all in it; and runs over it, twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode
from recording import Source
from toolz import concat, pipe
from trees import commit, keys, opened, paths, stored
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

import lotproc as lp

NodePath = tuple[str, ...]

names = st.sampled_from(["f0", "unit", "path", ""])
attributes = st.dictionaries(names, st.none() | st.integers() | st.lists(st.integers(), max_size=2), max_size=3)
payloads = st.sampled_from([None, None, None, b"sound"])


@st.composite
def streams(draw: st.DrawFn) -> list[lp.NodeRecord]:
    """Records sorted by path, some of one path."""
    found = sorted(draw(st.lists(paths, max_size=12)))
    return [lp.NodeRecord(path, path[-1] if path else "top", draw(attributes), draw(payloads)) for path in found]


@given(records=streams(), by=st.integers(1, 4))
def test_gathered_is_what_a_dict_of_the_branches_holds(records: list[lp.NodeRecord], by: int) -> None:
    branches: dict[NodePath, list[lp.NodeRecord]] = {}
    for record in records:
        branches.setdefault(record.path[:by], []).append(record)
    gathered = list(lp.gather(by, iter(records)))
    assert [record.path for record in gathered] == list(branches)
    for record, members in zip(gathered, branches.values(), strict=True):
        assert record.key == (record.path[-1] if record.path else "top")
        there = {name for member in members for name in member.attributes}
        assert record.attributes == {
            **{name: [member.attributes.get(name) for member in members] for name in there},
            "paths": [member.path for member in members],
        }
        wanted = [member.payload for member in members]
        assert record.payload == (wanted if any(wanted) else None)
        assert record.inputs is None


@given(records=st.lists(paths.map(lambda path: lp.NodeRecord(path, "x")), max_size=8), by=st.integers(1, 3))
def test_a_branch_that_comes_before_one_that_was_given_is_an_error_with_its_path(
    records: list[lp.NodeRecord], by: int
) -> None:
    prefixes = [record.path[:by] for record in records]
    wrong = next((n for n in range(1, len(records)) if prefixes[n] < prefixes[n - 1]), None)
    if wrong is None:
        assert len(list(lp.gather(by, records))) == len(set(prefixes))
        return
    with pytest.raises(lp.ArgumentError) as raised:
        list(lp.gather(by, records))
    assert raised.value.path == records[wrong].path
    assert raised.value.hint


def test_it_holds_one_branch_and_the_record_after() -> None:
    source = Source(lp.NodeRecord((str(n // 100).zfill(3), str(n)), str(n)) for n in range(100_000))
    found = list(islice(lp.gather(1, source), 2))
    assert [len(record.attributes["paths"]) for record in found] == [100, 100]
    assert source.pulled == 201


def test_failures_come_when_they_come() -> None:
    one, two = lp.NodeRecord(("a", "1"), "1", {"n": 1}), lp.NodeRecord(("a", "3"), "3", {"n": 3})
    failure = lp.Failure(("a", "2"), "ValueError", "no")
    found = list(lp.gather(1, [one, failure, two]))
    assert found == [failure, lp.NodeRecord(("a",), "a", {"n": [1, 3], "paths": [one.path, two.path]})]


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (lp.NodeRecord(("a", "1"), "1", {"paths": 1}), lp.ArgumentError),
        (lp.NodeRecord(("a", "1"), "1", inputs="0" * 32), lp.ArgumentError),
        (lp.ProcessResult(("a", "1")), lp.ArgumentTypeError),
        (BaseNode("a"), lp.ArgumentTypeError),
        ([lp.NodeRecord(("a", "1"), "1")], lp.ArgumentTypeError),
    ],
)
def test_what_can_not_be_a_member_is_refused(item: Any, error: type[lp.LotprocError]) -> None:
    with pytest.raises(error) as raised:
        list(lp.gather(1, [item]))
    assert type(raised.value) is error
    assert raised.value.path == (("a", "1") if error is lp.ArgumentError else None)
    assert raised.value.hint or not isinstance(item, (lp.NodeRecord, list))


# --- Runs over branches, again and again -----------------------------------------------------------------------------


def mean(record: Any) -> Any:
    values = [value for value in record.attributes["f0"] if value is not None]
    return sum(values) / len(values) if values else None


def mean_result(record: Any) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, mean(record))


LIFTED = [lp.outputs(mean), lp.each(mean_result)]
SOURCES: dict[str, Callable[[BaseNode], Iterator[Any]]] = {
    "scan": lambda root: lp.scan("f0", root, skip="_*"),
    "snapshot": lambda root: lp.snapshot("f0", lp.leaves(root, skip="_*")),
}

clips = st.dictionaries(
    st.tuples(st.sampled_from(["ann", "bob", "cy"]), st.sampled_from("123")),
    st.sampled_from([1.0, 2.0]),
    min_size=1,
    max_size=9,
)


@pytest.mark.parametrize("storage", ["file", "memory"])
@pytest.mark.filterwarnings("ignore:.* no node had an attribute")
@settings(max_examples=25)
@given(
    source=st.sampled_from(sorted(SOURCES)),
    lift=st.sampled_from(["outputs", "each"]),
    states=st.lists(clips, max_size=3),
)
def test_a_speaker_is_pending_when_one_of_his_clips_changed_came_or_went_and_not_else(
    storage: str, tmp_path_factory: pytest.TempPathFactory, source: str, lift: Any, states: list[dict[NodePath, float]]
) -> None:
    file = FileStorage(str(tmp_path_factory.mktemp("gather") / "tree.fs")) if storage == "file" else MappingStorage()
    with opened(file) as root:
        results = root.gn("_results")
        before: dict[NodePath, float] = {}
        done: dict[str, dict[NodePath, float]] = {}  # by speaker, the clips that his result was made of
        for state in states:
            for path in before.keys() - state.keys():
                root.get_node_path(path[:1]).delete_node(path[1])
                if not any(other[0] == path[0] for other in state):
                    root.delete_node(path[0])
            for path, value in state.items():
                root.get_node_path(path).set_attribute("f0", value)
            commit(root)
            before = state
            speakers: dict[str, dict[NodePath, float]] = {}
            for path, value in sorted(state.items()):
                speakers.setdefault(path[0], {})[path] = value
            todo: list[Any] = list(
                lp.pending(lp.mirror(), results, lp.gather(1, SOURCES[source](root)), inputs=True, version="1")
            )
            assert [record.key for record in todo] == [key for key in speakers if done.get(key) != speakers[key]]
            fn = (
                lp.outputs(mean) if lift == "outputs" else lp.each(lambda item: lp.ProcessResult(item.path, mean(item)))
            )
            lp.write(lp.mirror(), results, concat(lp.parallel_map(fn, [todo], mode="sync")), version="1")
            commit(root)
            done |= speakers
            for key, members in speakers.items():
                found = results.get_node_path([key]).get_attribute("result")
                assert found == sum(members.values()) / len(members)


def test_what_goes_and_comes_back_to_a_branch_in_a_store_counts(tmp_path: Path) -> None:
    with stored(tmp_path, {"ann": {"1": {}, "2": {}}}) as root, lp.DirectoryStore(tmp_path / "store") as store:

        def run(skip: str) -> int:
            report = pipe(
                lp.scan("name", root, skip=skip),
                lp.gather(1),
                lp.pending(lp.mirror(), store, inputs=True),
                lp.chunked(8),
                lp.parallel_map(lp.outputs(lambda record: record.attributes["name"]), mode="thread"),
                lp.write(lp.mirror(), store),
            )
            return int(report.written)

        assert [run("_*"), run("_*"), run("2"), run("2"), run("_*")] == [1, 0, 1, 0, 1]
        assert store["ann"] == ["ann/1", "ann/2"]


@given(key=keys)
def test_the_record_of_a_tree_that_is_only_a_root_keeps_its_key(key: str) -> None:
    (record,) = lp.gather(2, [lp.NodeRecord((), key)])
    assert (record.path, record.key) == ((), key)
