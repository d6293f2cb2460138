"""`join` against a plain dict, for each kind of other side; what can't be joined is an error with its path."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode
from recording import Source
from toolz import compose_left, concat, pipe
from trees import commit, opened
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

import lotproc as lp

NodePath = tuple[str, ...]
Table = dict[NodePath, dict[str, Any]]

#: What is told of keys that matched nothing is held by tests of its own.
pytestmark = pytest.mark.filterwarnings("ignore:join. no record was at", "ignore:.* no node had an attribute")

#: Those of one LMDB key and another sort unlike their paths.
keys = st.sampled_from(["a", "a-1", "b", "c/d", "é"])
paths = st.lists(keys, min_size=1, max_size=3).map(tuple)
values = st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2)


@st.composite
def record_lists(draw: st.DrawFn) -> list[lp.NodeRecord]:
    """Records in the order of paths, some of one path."""
    found = sorted(draw(st.lists(paths, max_size=10)))
    return [lp.NodeRecord(path, path[-1], {"f0": draw(values)}, draw(st.sampled_from([None, b"x"]))) for path in found]


@st.composite
def tables(draw: st.DrawFn, ragged: bool = False, leaves: bool = False) -> Table:
    """Attributes by path: for all the same, or any; at any paths, or only where none is below another."""
    found = sorted(draw(st.sets(paths, max_size=8)))
    if leaves:
        found = [path for path in found if not any(o[: len(path)] == path and o != path for o in found)]
    if ragged:
        return {path: draw(st.dictionaries(st.sampled_from(["age", "", "result"]), values)) for path in found}
    return {path: {"age": draw(values), "result": draw(values)} for path in found}


def oracle(
    table: Table, names: list[str], records: list[lp.NodeRecord], on: int | None, how: str, prefix: str
) -> list[lp.NodeRecord]:
    """What `join` has to give."""
    joined = []
    for record in records:
        found = table.get(record.path[:on])
        if how == "anti":
            joined += [record] if found is None else []
        elif found is not None or how == "left":
            added = {prefix + name: (found or {}).get(name) for name in names}
            joined.append(lp.NodeRecord(record.path, record.key, {**record.attributes, **added}, record.payload))
    return joined


def results_of(table: Table) -> list[lp.ProcessResult]:
    found = []
    for path, attributes in sorted(table.items()):
        others = {name: value for name, value in attributes.items() if name != "result"}
        found.append(lp.ProcessResult(path[:1], attributes["result"], others, relative_path=path[1:]))
    return found


def nodes_of(table: Table) -> list[lp.NodeRecord]:
    return [lp.NodeRecord(path, path[-1], attributes, payload=1) for path, attributes in sorted(table.items())]


def filled(root: BaseNode, table: Table) -> BaseNode:
    for path, attributes in table.items():
        node = root.get_node_path(path)
        for name, value in attributes.items():
            node.set_attribute(name, value)
    return root


Opened = Callable[[Table, Path], AbstractContextManager[Any]]


@contextmanager
def as_directory(table: Table, folder: Path) -> Iterator[Any]:
    with lp.DirectoryStore(folder, durable=False) as store:
        lp.write(lp.mirror(), store, results_of(table))
        yield store


@contextmanager
def as_records_of_a_directory(table: Table, folder: Path) -> Iterator[Any]:
    with as_directory(table, folder) as store:
        yield lp.records(..., store)


@contextmanager
def as_lmdb(table: Table, folder: Path) -> Iterator[Any]:
    with lp.LmdbStore(folder) as store:
        lp.write(lp.mirror(), store, results_of(table))
        yield store


@contextmanager
def as_archive(table: Table, folder: Path) -> Iterator[Any]:
    with lp.Archive(folder, mode="w", codec="pickle") as store:
        lp.write(lp.mirror(), store, reversed(results_of(table)))
    with lp.Archive(folder, codec="pickle") as store:
        yield store


@contextmanager
def as_live_leaves(table: Table, folder: Path) -> Iterator[Any]:
    yield lp.snapshot(("age", "result"), lp.leaves(filled(BaseNode("root"), table))) if table else ()


@contextmanager
def as_scan(table: Table, folder: Path) -> Iterator[Any]:
    with opened(MappingStorage()) as root:
        filled(root, table)
        commit(root)
        yield lp.scan(("age", "result"), root) if table else ()


@contextmanager
def as_it_is(make: Callable[[Table], Any], table: Table) -> Iterator[Any]:
    yield make(table)


def made_by(make: Callable[[Table], Any]) -> Opened:
    return lambda table, folder: as_it_is(make, table)


#: How a table becomes the other side; and what it may be: "ragged", with other names at each path, or "leaves" only.
KINDS: dict[str, tuple[Opened, dict[str, bool]]] = {
    "list": (made_by(nodes_of), {}),
    "generator": (made_by(lambda table: iter(nodes_of(table))), {}),
    "results": (made_by(results_of), {}),
    "dict": (made_by(dict), {"ragged": True}),
    "dict with str": (
        made_by(lambda table: {path[0] if len(path) == 1 else path: value for path, value in table.items()}),
        {"ragged": True},
    ),
    "directory": (as_directory, {}),
    "records of a directory": (as_records_of_a_directory, {}),
    "lmdb": (as_lmdb, {}),
    "archive": (as_archive, {}),
    "live leaves": (as_live_leaves, {"leaves": True}),
    "scan": (as_scan, {"leaves": True}),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(
    records=record_lists(),
    on=st.none() | st.integers(1, 3),
    how=st.sampled_from(["left", "inner", "anti"]),
    prefix=st.sampled_from(["", "of_"]),
    data=st.data(),
)
def test_joined_is_what_a_dict_would_tell(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    records: list[lp.NodeRecord],
    on: int | None,
    how: Any,
    prefix: str,
    data: st.DataObject,
) -> None:
    if kind == "lmdb":
        pytest.importorskip("lmdb")
    as_other, shape = KINDS[kind]
    table = data.draw(tables(**shape))
    names = sorted({name for attributes in table.values() for name in attributes})
    wanted = oracle(table, names, records, on, how, prefix)
    with as_other(table, tmp_path_factory.mktemp("other") / "data.rox") as other:
        found = list(lp.join(other, iter(records), on=on, how=how, prefix=prefix))
    assert found == wanted
    assert [item.key for item in found] == [item.key for item in wanted]
    if how == "left":
        assert {tuple(item.attributes) for item in found} <= {tuple(found[0].attributes) if found else ()}


@given(records=st.lists(paths.map(lambda path: lp.NodeRecord(path, "x")), max_size=6), on=st.none() | st.integers(1, 2))
def test_a_mapping_takes_records_in_any_order_and_a_stream_does_not(
    records: list[lp.NodeRecord], on: int | None
) -> None:
    asked = [record.path[:on] for record in records]
    wrong = next((n for n in range(1, len(asked)) if asked[n] < asked[n - 1]), None)
    assert len(list(lp.join({}, records, on=on))) == len(records)
    if wrong is None:
        assert list(lp.join([], records, on=on)) == records
        return
    with pytest.raises(lp.ArgumentError) as raised:
        list(lp.join([], records, on=on))
    assert (raised.value.path, bool(raised.value.hint)) == (records[wrong].path, True)


@given(found=st.lists(paths, max_size=6))
def test_an_other_side_out_of_order_or_with_a_path_twice_is_an_error_with_the_path(found: list[NodePath]) -> None:
    wrong = next((n for n in range(1, len(found)) if found[n] <= found[n - 1]), None)
    other = [lp.NodeRecord(path, "x", {"age": 1}) for path in found]
    records = [lp.NodeRecord(("ü",), "ü")]  # after all of them
    if wrong is None:
        assert len(list(lp.join(other, records))) == 1
        return
    with pytest.raises(lp.ArgumentError) as raised:
        list(lp.join(other, records))
    assert raised.value.path == found[wrong]
    assert (raised.value.hint is None) is (found[wrong] == found[wrong - 1])  # which no order mends


def test_a_path_that_comes_twice_is_told_where_it_is_matched_last() -> None:
    other = [lp.NodeRecord(("a",), "a", {"age": 1}), lp.NodeRecord(("a",), "a", {"age": 2})]
    with pytest.raises(lp.ArgumentError) as raised:
        next(lp.join(other, [lp.NodeRecord(("a",), "a")]))
    assert raised.value.path == ("a",)


def test_records_in_the_order_of_lmdb_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    clips = [lp.NodeRecord(path, "x") for path in (("a", "x"), ("a-1", "x"))]
    with lp.LmdbStore(tmp_path / "store") as store:
        lp.write(lp.mirror(), store, [lp.ProcessResult(clip.path, 1) for clip in clips])
        with pytest.raises(lp.ArgumentError) as raised:
            list(lp.join(lp.records("result", store), clips))
        assert "give the store itself" in str(raised.value.hint)
        assert raised.value.path == ("a", "x")
        in_order = sorted(lp.records("result", store), key=lambda record: record.path)
        assert list(lp.join(in_order, clips)) == list(lp.join(store, clips))


# --- What can not be joined ------------------------------------------------------------------------------------------

CLIP = lp.NodeRecord(("ann", "1"), "1", {"f0": 1.0})


@pytest.mark.parametrize(
    ("other", "record", "options"),
    [
        ({CLIP.path: {"f0": 2}}, CLIP, {}),
        ({("bob",): {"f0": 2}}, CLIP, {}),  # also where nothing matches
        (
            [lp.NodeRecord(("bob",), "bob", {"of_f0": 2})],
            lp.NodeRecord(CLIP.path, "1", {"of_of_f0": 1}),
            {"prefix": "of_"},
        ),
    ],
)
def test_names_on_both_sides_are_an_error_that_shows_prefix(other: Any, record: Any, options: dict[str, str]) -> None:
    with pytest.raises(lp.ArgumentError) as raised:
        list(lp.join(other, [record], **options))
    assert (raised.value.path, "prefix=" in str(raised.value.hint)) == (CLIP.path, True)
    assert list(lp.join(other, [record], prefix="another_"))


@pytest.mark.parametrize("how", ["left", "inner"])
def test_a_later_record_of_the_other_side_must_not_have_more_attributes(how: Any) -> None:
    other = [lp.NodeRecord(("a",), "a", {"age": 1}), lp.NodeRecord(("b",), "b", {"sex": "f"})]
    records = [lp.NodeRecord((key,), key) for key in "ab"]
    with pytest.raises(lp.ArgumentError) as raised:
        list(lp.join(other, records, how=how))
    assert (raised.value.path, raised.value.got) == (("b",), "'sex'")


def test_records_that_have_been_through_pending_are_refused() -> None:
    records = lp.pending(lp.inline("_proc"), BaseNode("root"), [CLIP], inputs=True)
    with pytest.raises(lp.ArgumentError) as raised:
        list(lp.join({}, records))
    assert raised.value.path == CLIP.path
    assert "in front of pending()" in str(raised.value.hint)


@pytest.mark.parametrize("item", [3, BaseNode("a"), [CLIP], lp.Failure(None, "E", "")])
def test_what_is_no_record_is_refused_on_either_side(item: Any) -> None:
    if type(item) is not lp.Failure:
        with pytest.raises(lp.ArgumentTypeError):
            list(lp.join({}, [item]))
    with pytest.raises(lp.ArgumentTypeError):
        list(lp.join([item], [CLIP]))


def test_an_iterator_is_used_once() -> None:
    stage = lp.join(iter([lp.NodeRecord(("ann",), "ann", {"age": 1})]), on=1)
    assert next(stage([CLIP])).attributes["age"] == 1
    with pytest.raises(lp.ArgumentError):
        stage([CLIP])


# --- Failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["left", "inner", "anti"])
def test_a_failure_of_the_other_side_takes_the_place_of_what_it_hides(how: Any) -> None:
    failure = lp.Failure(("b",), "ValueError", "unreadable")
    other = [lp.NodeRecord(("a", "1"), "1", {"age": 1}), failure, lp.NodeRecord(("c",), "c", {"age": 3})]
    records = [lp.NodeRecord(path, path[-1]) for path in (("a", "2"), ("b",), ("b", "1"), ("ba",), ("c",))]
    found = list(lp.join(other, records, how=how))
    failed = {item.path: item.message for item in found if type(item) is lp.Failure}
    assert failed == {("b",): "unreadable", ("b", "1"): "what is joined, at b: unreadable"}
    there = {"left": ["2", "ba", "c"], "inner": ["c"], "anti": ["2", "ba"]}[how]
    assert [item.key for item in found if type(item) is not lp.Failure] == there
    assert [item.path for item in found] == sorted(item.path for item in found)


def test_what_is_there_below_a_failure_is_joined_and_a_failure_first_hides_no_names() -> None:
    other = [lp.Failure(("a",), "ValueError", "no"), lp.NodeRecord(("a", "1"), "1", {"age": 1})]
    records = [lp.NodeRecord(path, path[-1]) for path in (("a",), ("a", "1"), ("a", "2"), ("b",))]
    found = list(lp.join(iter(other), records))
    assert [type(item) for item in found] == [lp.Failure, lp.NodeRecord, lp.Failure, lp.NodeRecord]
    assert [item.attributes for item in found[1::2]] == [{"age": 1}, {"age": None}]


# --- Laziness --------------------------------------------------------------------------------------------------------


def test_both_sides_are_read_as_far_as_is_needed_and_closed() -> None:
    def endless(name: str) -> Iterator[lp.NodeRecord]:
        for number in count():
            yield lp.NodeRecord((f"{number:09}",), "x", {name: number})

    other, records = Source(endless("n")), Source(endless("m"))
    joined = lp.join(other, records)
    assert (other.pulled, records.pulled) == (0, 0)
    assert [item.attributes for item in islice(joined, 1000)] == [{"m": n, "n": n} for n in range(1000)]
    assert (other.pulled, records.pulled) == (1001, 1000)
    joined.close()
    assert other.closed
    assert records.closed


def test_the_other_side_is_closed_when_nothing_was_asked_for() -> None:
    other = Source([])
    lp.join(other, []).close()
    assert other.closed


# --- Keys that matched nothing ---------------------------------------------------------------------------------------


def told(read: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read()
    assert [warning.filename for warning in caught] == [__file__] * len(caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("how", ["left", "inner", "anti"])
def test_keys_that_matched_nothing_are_told_once_at_the_end(how: Any) -> None:
    speakers: Any = {"ann": {"age": 1}, "bbo": {"age": 2}, **{f"x{n:02}": {} for n in range(20)}}
    clips = [lp.NodeRecord((speaker, "1"), "1") for speaker in ("ann", "bob")]
    (text,) = told(lambda: list(lp.join(speakers, clips, on=1, how=how)))
    assert "'bbo' (the nearest that there was is 'bob')" in text
    assert "'ann'" not in text
    assert text.endswith("and 11 more")
    assert ("'x08'" in text, "'x09'" in text) == (True, False)
    assert told(lambda: next(lp.join(speakers, iter([*clips, *clips]), on=1))) == []  # not read to its end
    assert told(lambda: list(lp.join({"ann": {}, "bob": {}}, clips, on=1, how=how))) == []
    assert told(lambda: list(lp.join(speakers, [], how=how))) == []
    assert told(lambda: list(lp.join([lp.NodeRecord(("x",), "x")], clips, how=how))) == []


@pytest.mark.parametrize("mode", ["sync", "thread", "process"])
def test_over_partitions_only_what_no_part_had_is_told(tmp_path: Path, mode: Any) -> None:
    with opened(FileStorage(str(tmp_path / "tree.fs"))) as root:
        for number in range(40):
            root.gns([f"s{number:02}", "clip"]).set_attribute("n", number)
        commit(root)
        speakers = {f"s{number:02}": {"age": number} for number in range(41)}
        chain = compose_left(lp.scan("n"), lp.join(speakers, on=1), list)
        found: list[Any] = []
        parts = lp.partitions(4, root)
        assert len(parts) > 1
        texts = told(lambda: found.extend(concat(lp.parallel_map(chain, parts, mode=mode, max_workers=2))))
        assert [record.attributes for record in found] == [{"n": n, "age": n} for n in range(40)]
        assert len(texts) == 1
        assert "'s40'" in texts[0]
        assert "'s00'" not in texts[0]


# --- In runs ---------------------------------------------------------------------------------------------------------


def test_a_clip_is_pending_when_what_was_joined_to_it_changed() -> None:
    root = BaseNode("root")
    for speaker, clip in (("ann", "1"), ("ann", "2"), ("bob", "1")):
        root.gns([speaker, clip]).set_attribute("f0", 1.0)
    speakers = {"ann": {"age": 31}, "bob": {"age": 47}}

    def run() -> list[NodePath]:
        done: list[NodePath] = []

        def note(record: lp.NodeRecord) -> int:
            done.append(record.path)
            return int(record.attributes["age"])

        pipe(
            lp.snapshot("f0", lp.leaves(root, skip="_*")),
            lp.join(speakers, on=1),
            lp.pending(lp.inline("_age"), root, inputs=True),
            lp.chunked(2),
            lp.parallel_map(lp.outputs(note), mode="sync"),
            lp.write(lp.inline("_age"), root),
        )
        return done

    assert len(run()) == 3
    assert run() == []
    speakers["ann"]["age"] = 32
    assert run() == [("ann", "1"), ("ann", "2")]


def test_a_stage_with_a_mapping_pickles() -> None:
    stage = lp.join({"ann": {"age": 31}}, on=1, how="inner")
    assert list(pickle.loads(pickle.dumps(stage))([CLIP])) == list(stage([CLIP]))


def test_a_table_of_speakers_beside_clips_hints_at_on() -> None:
    clips = [lp.NodeRecord((speaker, "c1"), "c1") for speaker in ("ann", "bob")]
    with pytest.warns(UserWarning, match=r"on=1 compares"):
        list(lp.join({"ann": {"age": 3}, "bob": {"age": 4}}, clips))
