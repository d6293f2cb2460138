"""The tree at an earlier transaction, what lotproc committed, and what differs between two streams."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from lotdb import LOTDB, BaseNode
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from recording import examples, open_files
from toolz import concat
from trees import AnyStorage, exactly, opened, values
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.tests.MVCCMappingStorage import MVCCMappingStorage

import lotproc as lp

STORAGES: dict[str, Any] = {
    "file": lambda folder: FileStorage(str(folder / "data.fs")),
    "any": lambda folder: AnyStorage(str(folder / "data.fs")),
    "mapping": lambda folder: MappingStorage(),
    "keeps views": lambda folder: MVCCMappingStorage(),
}


numbers = itertools.count()


@pytest.fixture(scope="module", params=list(STORAGES))
def anywhere(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    with opened(STORAGES[request.param](tmp_path_factory.mktemp("storage"))) as root:
        yield root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[BaseNode]:
    with closing(LOTDB(path=str(tmp_path / "db"), name="corpus", new=True)) as database:
        yield database.open_connection()


def commit(root: BaseNode) -> bytes:
    root._p_jar.transaction_manager.commit()
    return lp.transaction_of(root)


def now(root: BaseNode) -> list[Any]:
    return [exactly(record) for record in lp.scan(..., root)]


# --- Earlier transactions -------------------------------------------------------------------------------------------


def test_a_tree_is_as_it_was(anywhere: BaseNode) -> None:
    """Whatever is committed: attributes, new nodes, nodes that go, and a tree of children that splits."""
    seen: list[tuple[bytes, list[Any]]] = [(lp.transaction_of(anywhere), now(anywhere))]
    for step in range(6):
        speaker = anywhere.gn(f"s{step % 3}")
        for clip in range(20 * step):
            speaker.gn(f"c{clip:03}").set_attribute("n", step * clip)
        if step == 4:
            del anywhere.node_storage["s0"]
        seen.append((commit(anywhere), now(anywhere)))
    for transaction, records in seen:
        assert [exactly(record) for record in lp.scan(..., anywhere, at=transaction)] == records
        if type(anywhere._p_jar.db().storage) is FileStorage:
            parts = lp.partitions(3, anywhere, at=transaction)
            assert [exactly(record) for record in concat(lp.scan(..., part) for part in parts)] == records
    assert len({transaction for transaction, _ in seen}) == 7


def test_a_time_is_the_last_commit_up_to_it(root: BaseNode) -> None:
    report = lp.write(lp.mirror(), root, [lp.ProcessResult(("a",), 1)], commit_every=10)
    assert report.commits == 1
    (first,) = lp.history(root)
    before = first.time - timedelta(microseconds=2)
    while datetime.now(timezone.utc) <= first.time + timedelta(milliseconds=1):
        time.sleep(0.001)  # so that the second has a time of its own
    lp.write(lp.mirror(), root, [lp.ProcessResult(("a",), 2)], commit_every=10)
    other_zone = first.time.astimezone(timezone(timedelta(hours=9)))
    for moment, expected in ((first.time, 1), (other_zone, 1), (datetime.now(timezone.utc), 2)):
        assert [record.attributes["result"] for record in lp.scan("result", root, at=moment)] == [expected]
    assert list(lp.scan((), root.gn("a"), at=first.transaction))
    with pytest.raises(lp.ArgumentError, match="'a' was not there"):
        lp.scan((), root.gn("a"), at=before)
    with pytest.raises(lp.ArgumentError, match="later than what is read"):
        lp.scan((), root, at=datetime.now(timezone.utc) + timedelta(hours=1))
    with pytest.raises(lp.ArgumentError, match="later than what is read"):
        lp.scan((), root, since=datetime.now(timezone.utc) + timedelta(hours=1))
    with pytest.raises(lp.ArgumentError, match="later than what is read") as caught:
        lp.scan((), root, at=first.transaction, since=lp.transaction_of(root))
    assert "sync" not in str(caught.value.hint)  # which would change nothing
    with pytest.raises(lp.ArgumentError, match="later than what is read"):
        lp.partitions(2, root, at=b"\xff" * 7 + b"\xfe")


@pytest.mark.parametrize("at", ["yesterday", 5, b"1234", None.__class__])
def test_what_is_no_moment_is_refused_at_once(at: Any) -> None:
    for stage in (lp.scan((), at=b"12345678"), lp.partitions(2, at=b"12345678")):
        assert stage
    with pytest.raises(lp.ArgumentTypeError) as caught:
        lp.scan((), at=at)
    assert caught.value.hint is not None
    with pytest.raises(lp.ArgumentError, match="zone"):
        lp.partitions(2, at=datetime(2026, 1, 1))


def test_a_partition_has_a_transaction_of_its_own(root: BaseNode) -> None:
    root.gn("a")
    then = commit(root)
    (part,) = lp.partitions(1, root)
    with pytest.raises(lp.ArgumentError, match="partition"):
        lp.scan((), part, at=then)


def test_history_that_was_packed_is_told_before_the_first_record(tmp_path: Path) -> None:
    with opened(FileStorage(str(tmp_path / "data.fs"))) as root:
        seen = []
        for number in range(3):
            root.gn("a").set_attribute("n", number)
            seen.append(commit(root))
        root._p_jar.db().pack(time.time() + 1)
        with pytest.raises(lp.ArgumentError, match="was packed"):
            lp.scan("n", root, at=seen[0])
        assert [record.attributes["n"] for record in lp.scan("n", root, at=seen[-1])] == [2]
        root.gn("a").set_attribute("n", 3)
        commit(root)
        assert [record.attributes["n"] for record in lp.scan("n", root, at=seen[-1])] == [2]


def test_a_storage_without_history_says_so(tmp_path: Path) -> None:
    storage = MappingStorage()
    storage.keep_history = False  # as a RelStorage without history has it
    with opened(storage) as root:
        root.gn("a")
        then = commit(root)
        with pytest.raises(lp.ArgumentError, match="keeps no history"):
            lp.scan((), root, at=then)


# --- What is new since then -----------------------------------------------------------------------------------------

tops, clips = st.sampled_from("ab"), st.sampled_from(["c1", "c2", "c3"])
edits = st.one_of(
    st.tuples(st.just("set"), st.one_of(st.just(()), st.tuples(tops), st.tuples(tops, clips)), st.sampled_from("xyz")),
    st.tuples(st.just("new"), st.tuples(tops, st.sampled_from(["n1", "n2"])), st.just("x")),
    st.tuples(st.just("inside"), st.tuples(tops, clips), st.sampled_from("pq")),
    st.tuples(st.just("result"), st.tuples(tops, clips), st.sampled_from(["f0", "other"])),
)


@pytest.mark.filterwarnings("ignore:.* no (node had an attribute|record had a result)")
@settings(max_examples=examples(60))
@given(
    first=st.lists(edits, max_size=8),
    then=st.lists(edits, max_size=4),
    names=st.sampled_from([("x",), ("x", "p"), ("p",), ...]),
    inherit=st.sampled_from([(), ("y",), ("y", "z")]),
    below=st.booleans(),
    many=st.booleans(),
)
def test_what_is_new_is_what_is_read_from_something_that_was_stored(
    anywhere: BaseNode, first: Any, then: Any, names: Any, inherit: Any, below: bool, many: bool
) -> None:
    top = anywhere.gn(f"example {next(numbers)}")
    for path in ([top, clip] for top in "ab" for clip in ("c1", "c2", "c3")):
        clip = top.gns(path)
        clip.set_attribute("x", 0)
        for name in "pq":
            clip.set_attribute(name, PersistentMapping({"inside": PersistentList([0])}))
        if many:
            for number in range(60):  # so that the tree of attributes splits
                clip.set_attribute(f"m{number}", number)
    has = {(one, two): {"x", "p", "q"} for one in "ab" for two in ("c1", "c2", "c3")}
    done(top, first, has)
    since = commit(anywhere)
    touched = done(top, then, has)
    commit(anywhere)
    options: dict[str, Any] = {"inherit": inherit, "skip": "_*"}
    if below:
        options["below"] = {"f0": lp.inline("_proc", "f0")}
    whole = {record.path[1:]: exactly(record) for record in lp.scan(names, top, **options)}
    expected = []
    for path in whole:
        wanted = ["x", "p"] if names is ... else names
        new = ("attributes", path) in touched or any(("inside", path, name) in touched for name in wanted)
        new = new or (names is ... and ("inside", path, "q") in touched)
        for name in inherit:
            for depth in range(len(path), -1, -1):
                new = new or ("attributes", path[:depth]) in touched
                if name in has.get(path[:depth], ()):
                    break
        if new or (below and ("result", path, "f0") in touched):
            expected.append(whole[path])
    assert [exactly(record) for record in lp.scan(names, top, since=since, **options)] == expected
    assert list(lp.scan(names, top, since=lp.transaction_of(anywhere), **options)) == []
    assert [exactly(record) for record in lp.scan(names, top, since=bytes(8), **options)] == list(whole.values())
    if type(anywhere._p_jar.db().storage) is FileStorage:
        parts = lp.partitions(2, top)
        found = concat(lp.scan(names, part, since=since, **options) for part in parts)
        assert [exactly(record) for record in found] == expected


def done(top: BaseNode, edits: Any, has: dict[Any, set[str]]) -> set[Any]:
    """Make changes, and tell what was stored by that."""
    touched = set()
    for number, (what, path, name) in enumerate(edits):
        if what == "result":
            if path in has:
                top.gns([*path, "_proc", name]).set_attribute("result", [number, name])
                touched.add(("result", path, name))
        elif what == "inside":
            top.gns(list(path)).get_attribute(name)["inside"].append(number)
            touched.add(("inside", path, name))
        else:
            node = top.gns(list(path)) if path else top
            node.set_attribute(name, [number])
            has.setdefault(path, set()).add(name)
            touched.add(("attributes", path))
    return touched


def test_a_payload_that_is_written_anew_is_new(root: BaseNode) -> None:
    for key in "ab":
        root.get_data_node([key], backend="blob").write_data(np.arange(3.0))
    then = commit(root)
    root.gn("b").write_data(np.arange(4.0))
    commit(root)
    assert [record.key for record in lp.scan((), root, payload="data", since=then)] == ["b"]
    with pytest.raises(lp.ArgumentError, match="payload function"):
        lp.scan((), payload=len, since=then)  # type: ignore[arg-type]


# --- What was committed ---------------------------------------------------------------------------------------------


def own(result: lp.ProcessResult) -> tuple[str, ...]:
    return ("own", *result.path)


def test_history_has_each_commit_with_its_counts_the_newest_first(root: BaseNode, tmp_path: Path) -> None:
    results = [lp.ProcessResult((f"n{number}",), number) for number in range(5)]
    lp.write(lp.mirror(), root, results, commit_every=2)
    root.gn("by hand")
    commit(root)
    lp.write(lp.inline("_proc", "f0"), root, results, version="f0-2", commit_every=10)
    lp.write(lp.inline("_proc", "f0"), root, results, if_exists="skip", commit_every=10)  # nothing to commit
    lp.write(own, root, results[:1], commit_every=10)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "x.txt").write_text("x")
    lp.ingest_files(root, lp.index_files(tmp_path / "files", "*"), commit_every=10)
    lp.delete(root, [("n3",), ("n4",), ("n5",)], commit_every=10)
    lp.write(lp.mirror("not told"), root, results)
    commit(root)
    commits = list(lp.history(root))
    told = [(each.stage, each.policy, each.version, dict(each.counts)) for each in commits]
    assert told == [
        ("delete", "", None, {"deleted": 2, "absent": 1}),
        ("ingest_files", "", None, {"ingested": 1}),
        ("write", "own", None, {"written": 1}),
        ("write", "inline('_proc', 'f0')", "f0-2", {"written": 5}),
        ("write", "mirror()", None, {"written": 1}),
        ("write", "mirror()", None, {"written": 2}),
        ("write", "mirror()", None, {"written": 2}),
    ]
    assert [each.transaction for each in commits] == sorted((each.transaction for each in commits), reverse=True)
    assert all(abs(each.time - datetime.now(timezone.utc)) < timedelta(minutes=10) for each in commits)
    leaves = [sum(1 for _ in lp.scan((), root, at=each.transaction)) for each in commits[4:]]
    assert leaves == [5, 4, 2]
    log = root._p_jar.db().undoLog(0, 100)
    assert [entry["description"] for entry in log if entry["description"]][2] == "write own: 1 written"


def test_a_description_of_the_callers_own_stays(root: BaseNode) -> None:
    root._p_jar.transaction_manager.get().note("the third try")
    lp.write(lp.mirror(), root, [lp.ProcessResult(("a",), 1)], commit_every=1)
    assert root._p_jar.db().undoLog(0, 1)[0]["description"] == "the third try\nwrite mirror(): 1 written"
    assert len(list(lp.history(root))) == 1


def test_a_commit_by_hand_is_in_the_history_and_keeps_the_note_that_was_made(root: BaseNode) -> None:
    root.gn("a").set_attribute("n", 1)
    lp.commit(root)
    root._p_jar.transaction_manager.get().note("ages of all")
    root.gn("a").set_attribute("n", 2)
    lp.commit(root)
    lp.commit(root)  # nothing
    last, first = lp.history(root)
    assert (first.stage, first.policy, first.version, first.counts) == ("commit", "", None, {})
    assert str(first).endswith("  commit")
    log = root._p_jar.db().undoLog(0, 2)
    assert [entry["description"] for entry in log] == ["ages of all\ncommit", "commit"]
    assert last.transaction == lp.transaction_of(root)


def test_an_item_of_the_history_is_a_moment(root: BaseNode) -> None:
    for n in (1, 2):
        root.gn("a").set_attribute("n", n)
        lp.commit(root)
    last, first = lp.history(root)
    assert [record.attributes["n"] for record in lp.scan("n", root, at=first)] == [1]
    assert [record.attributes["n"] for record in lp.scan("n", root, since=first)] == [2]
    assert list(lp.scan("n", root, since=last)) == []
    assert [record.attributes["n"] for part in lp.partitions(1, root, at=first) for record in lp.scan("n", part)] == [1]
    (change,) = lp.diff(lp.scan("n", root, at=first), lp.scan("n", root))
    assert change.kind == "changed"


def test_what_others_commit_is_in_the_history_once_it_is_seen(root: BaseNode) -> None:
    database: DB = root._p_jar.db()
    root._p_jar.sync()
    other = database.open()
    lp.write(lp.mirror(), other.root.stt, [lp.ProcessResult(("a",), 1)], commit_every=1)
    assert list(lp.history(root)) == []
    root._p_jar.sync()
    assert len(list(lp.history(root))) == 1
    other.close()


def test_a_long_history_is_read_page_by_page(root: BaseNode) -> None:
    for number in range(130):
        lp.write(lp.mirror(), root, [lp.ProcessResult(("a",), number)], version=str(number), commit_every=1)
    assert [each.version for each in lp.history(root)] == [str(number) for number in reversed(range(130))]


def test_a_history_that_is_read_when_the_tree_is_closed_says_so(tmp_path: Path) -> None:
    with lp.open_root(tmp_path / "tree.fs", create=True) as root:
        for number in range(130):
            lp.write(lp.mirror(), root, [lp.ProcessResult(("a",), number)], commit_every=1)
        not_begun, begun = lp.history(root), lp.history(root)
        next(begun)
    for commits in (not_begun, begun):
        with pytest.raises(lp.ArgumentError, match="history: the connection of its root was closed before"):
            list(commits)


def test_a_storage_without_a_log_says_so() -> None:
    with opened(MappingStorage()) as root, pytest.raises(lp.ArgumentError, match="keeps no log"):
        lp.history(root)
    for function in (lp.history, lp.transaction_of):
        with pytest.raises(lp.ArgumentError, match="in memory"):
            function(BaseNode("root"))
        with pytest.raises(lp.ArgumentTypeError):
            function("root")  # type: ignore[arg-type]


# --- Differences ----------------------------------------------------------------------------------------------------

paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(tuple)
sides = st.dictionaries(paths, st.dictionaries(st.sampled_from("xy"), values, max_size=2), max_size=6)


@given(before=sides, after=sides, same=sides)
def test_a_diff_is_that_of_two_dicts(before: Any, after: Any, same: Any) -> None:
    before, after = {**before, **same}, {**after, **same}

    def records(side: Any) -> list[lp.NodeRecord]:
        found = [lp.NodeRecord(path, path[-1], attributes) for path, attributes in sorted(side.items())]
        return [record for record in found if all(can_be_told(value) for value in record.attributes.values())]

    old, new = ({record.path: record for record in records(side)} for side in (before, after))
    changes = {change.path: change for change in lp.diff(records(before), records(after))}
    assert list(changes) == sorted(changes)
    for path in old.keys() | new.keys():
        change = changes.pop(path, None)
        if path not in old or path not in new:
            assert change is not None
            assert change.kind == ("removed" if path in old else "added")
            assert (change.before, change.after) == (old.get(path), new.get(path))
            continue
        names = old[path].attributes.keys() | new[path].attributes.keys()
        differing = [name for name in sorted(names) if told(old[path], name) != told(new[path], name)]
        assert (() if change is None else change.names) == tuple(differing)
        assert (change is None) is (not differing)
    assert changes == {}


def told(record: lp.NodeRecord, name: str) -> Any:
    """What an attribute is known by: whether it is there, and the stamp of a record that has it alone."""
    if name not in record.attributes:
        return None
    (kept,) = lp.pending(
        lp.mirror(), BaseNode("root"), [lp.NodeRecord(("a",), "a", {name: record.attributes[name]})], inputs=True
    )
    return (kept.inputs or "")[:32]


def can_be_told(value: Any) -> bool:
    try:
        told(lp.NodeRecord(("a",), "a", {"x": value}), "x")
    except lp.ArgumentTypeError:
        return False
    return True


def test_changes_are_lines_and_a_table() -> None:
    old = [lp.NodeRecord((key,), key, {"f0": f0}) for key, f0 in (("a", 1.0), ("b", math.nan), ("c", np.arange(2)))]
    new = [lp.NodeRecord((key,), key, {"f0": f0}) for key, f0 in (("b", math.nan), ("c", np.arange(3)), ("d", None))]
    failure = lp.Failure(("bb",), "ValueError", "it is empty")
    changes = list(lp.diff(old, [*new[:1], failure, *new[1:]]))
    assert [str(change) for change in changes] == [
        "- a",
        "bb: ValueError: it is empty",
        "~ c: f0 array([0, 1]) -> array([0, 1, 2])",
        "+ d",
    ]
    rows = list(lp.to_rows(change for change in changes if isinstance(change, lp.Change)))
    assert [row["kind"] for row in rows] == ["removed", "changed", "added"]


def test_streams_out_of_order_and_used_ones_are_refused() -> None:
    records = [lp.NodeRecord((key,), key) for key in "ab"]
    for before, after in ((records[::-1], []), ([], records[::-1]), ([*records, records[-1]], records)):
        with pytest.raises(lp.ArgumentError) as caught:
            list(lp.diff(before, after))
        assert caught.value.path in (("a",), ("b",))
    with pytest.raises(lp.ArgumentTypeError):
        list(lp.diff(records, [3]))  # type: ignore[list-item]
    both = iter(records)
    for stage in (lp.diff, lp.join):
        with pytest.raises(lp.ArgumentError, match="same iterator"):
            list(stage(both, both))
    compare = lp.diff(iter(records))
    assert [change.kind for change in compare([])] == ["removed", "removed"]
    with pytest.raises(lp.ArgumentError, match="used"):
        compare([])


def test_both_sides_are_closed_with_the_changes(root: BaseNode) -> None:
    for number in range(3):
        root.gn(f"n{number}")
    then = commit(root)
    closed = []

    def side(name: str) -> Iterator[lp.NodeRecord]:
        try:
            yield from lp.scan((), root, at=then)
        finally:
            closed.append(name)

    files = open_files()
    changes = lp.diff(side("before"), (record for record in side("after") if record.key != "n0"))
    assert next(changes).kind == "removed"
    changes.close()  # type: ignore[attr-defined]
    assert sorted(closed) == ["after", "before"]
    assert not open_files() - files
