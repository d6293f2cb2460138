"""What records have besides: attributes of the nodes above, results below; and the part of a tree on a glob."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from lotdb import LOTDB, BaseNode, add_blob
from toolz import compose_left, concat, pipe
from trees import (
    AnyStorage,
    Packed,
    Planned,
    commit,
    data_nodes,
    exactly,
    fast_ways,
    grow,
    keys,
    opened,
    planned_trees,
    unsaved,
)
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

import lotproc as lp

#: Many names here are those of no node, on purpose; what is told of them has tests of its own below.
quiet = pytest.mark.filterwarnings("ignore:.* no (node had an attribute|record had a result)")


kinds = st.one_of(st.just(BaseNode), st.just(BaseNode), st.just(Packed), data_nodes)
numbers = itertools.count()


class CountingStorage(MappingStorage):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[bytes] = []

    def loadBefore(self, oid: bytes, tid: bytes) -> Any:
        self.loaded.append(oid)
        return super().loadBefore(oid, tid)


STORAGES: dict[str, Callable[[Path], Any]] = {
    "file": lambda folder: FileStorage(str(folder / "data.fs")),
    "any": lambda folder: AnyStorage(str(folder / "data.fs")),
    "mapping": lambda folder: MappingStorage(),
}


@pytest.fixture(scope="module", params=list(STORAGES))
def anywhere(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    with opened(STORAGES[request.param](tmp_path_factory.mktemp("storage"))) as root:
        yield root


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[BaseNode]:
    """Two speakers with an age, two sessions each, two clips each, in a database file."""
    with closing(LOTDB(path=str(tmp_path / "corpus"), name="corpus", new=True)) as database:
        root = database.open_connection()
        for age, speaker in enumerate(("ann", "bob"), 30):
            root.gn(speaker).set_attribute("age", age)
            for day, clip in itertools.product(("monday", "tuesday"), ("c1", "c2")):
                root.gns([speaker, day, clip]).set_attribute("seconds", 1.5)
        database.commit()
        yield root


def grown(anywhere: BaseNode, planned: Planned, above: dict[str, Any]) -> BaseNode:
    """A tree of an example, saved, with attributes of a node above its root."""
    anywhere._p_jar.transaction_manager.abort()  # what a failed example left
    top = anywhere.gn(f"example {next(numbers)}")
    for name, value in above.items():
        top.set_attribute(name, value)
    grow(top, "root", planned)
    commit(anywhere)
    return top.node_storage["root"]


def everywhere(root: BaseNode, names: Any, **options: Any) -> list[Any]:
    """The records of a scan, which have to be those of its partitions and, where it can be asked so, of live nodes."""
    records = [exactly(record) for record in lp.scan(names, root, **options)]
    storage = root._p_jar.db().storage
    if type(storage) is FileStorage:
        parts = lp.partitions(3, root)
        assert [exactly(record) for record in concat(lp.scan(names, part, **options) for part in parts)] == records
    if not {"where", "path"} & options.keys():
        live = [exactly(record) for record in lp.snapshot(names, lp.leaves(root), **options)]
        assert live == records
    assert unsaved(root) == []
    return records


# --- Down: attributes of the nodes above ----------------------------------------------------------------------------


@quiet
@given(
    planned=planned_trees(kinds),
    above=st.dictionaries(
        st.sampled_from("abc"), st.one_of(st.none(), st.integers(), st.lists(st.integers())), max_size=2
    ),
    names=st.sampled_from([(), ("n17",), ("a",), ...]),
    inherit=st.sampled_from([("b",), ("b", "c"), ("c", "b", "data"), ("nobody",)]),
)
def test_an_inherited_attribute_is_that_of_the_nearest_node_that_has_it(
    anywhere: BaseNode, planned: Planned, above: dict[str, Any], names: Any, inherit: tuple[str, ...]
) -> None:
    root = grown(anywhere, planned, above)
    own = {record.path: dict(record.attributes) for record in lp.snapshot(..., [root.parent, *lp.walk(root)])}
    expected = []
    for record in lp.snapshot(names, lp.leaves(root)):
        attributes = dict(record.attributes)
        for name in inherit:
            owners = [record.path[:depth] for depth in range(len(record.path), 0, -1)]
            values = (own[owner][name] for owner in owners if name in own[owner])
            attributes.setdefault(name, next(values, None))
        expected.append(exactly(lp.NodeRecord(record.path, record.key, attributes)))
    assert everywhere(root, names, inherit=inherit) == expected

    def is_wanted(value: Any) -> bool:
        return value is not None

    found = [exactly(record) for record in lp.scan(names, root, inherit=inherit, where={inherit[0]: is_wanted})]
    records = lp.scan(names, root, inherit=inherit)
    assert found == [exactly(record) for record in lp.where(inherit[0], is_wanted, records)]


def test_what_is_there_as_none_counts_and_what_nobody_has_is_told(corpus: BaseNode) -> None:
    corpus.gns(["ann", "monday"]).set_attribute("age", None)
    commit(corpus)
    ages = [record.attributes["age"] for record in lp.scan((), corpus, inherit="age")]
    assert ages == [None, None, 30, 30, 31, 31, 31, 31]
    for records in (
        lp.scan("seconds", corpus, inherit="agee"),
        lp.snapshot("seconds", lp.leaves(corpus), inherit="agee"),
    ):
        with pytest.warns(UserWarning, match="no node had an attribute 'agee' .*'age'"):
            assert {record.attributes["agee"] for record in records} == {None}
    for records in (
        lp.scan("seconds", corpus, inherit="agee", missing="error"),
        lp.snapshot("seconds", lp.leaves(corpus), inherit="agee", missing="error"),
    ):
        with pytest.raises(lp.ArgumentError, match=r"ann/monday/c1 has no attribute 'agee'"):
            list(records)
    assert len(list(lp.scan("seconds", corpus, inherit="age", missing="error"))) == 8


@pytest.mark.parametrize("stage", [lp.scan, lp.snapshot])
def test_names_that_can_not_be_inherited_are_refused_at_once(stage: Any) -> None:
    with pytest.raises(lp.ArgumentError, match="'age' stands among the names and in inherit="):
        stage(("age", "sex"), inherit="age")
    with pytest.raises(lp.ArgumentTypeError) as caught:
        stage("age", inherit=...)
    assert caught.value.expected == "a str or several"
    with pytest.raises(lp.ArgumentTypeError):
        stage("age", inherit=["sex", 3])


def test_what_is_inherited_is_each_records_own_copy(corpus: BaseNode) -> None:
    corpus.gn("ann").set_attribute("tags", ["a"])
    commit(corpus)
    for records in (lp.scan((), corpus, inherit="tags"), lp.snapshot((), lp.leaves(corpus), inherit="tags")):
        first, second, *_ = records
        first.attributes["tags"].append("b")
        assert second.attributes["tags"] == ["a"]


def test_what_can_not_be_read_above_costs_only_those_that_need_it(corpus: BaseNode) -> None:
    corpus.gn("ann").set_attribute("made_by", lambda: None)  # a function of a test can't be taken out of the tree
    corpus.gn("ann").set_attribute("made_by", Unknown())
    corpus.gns(["ann", "monday", "c2"]).set_attribute("made_by", "hand")
    commit(corpus)
    for records in (
        lp.scan((), corpus, inherit="made_by", on_error="collect"),
        lp.snapshot((), lp.leaves(corpus), inherit="made_by", on_error="collect"),
    ):
        found = [(type(item), item.path[1:]) for item in records if item.path[0] == "ann"]
        assert found == [
            (lp.Failure, ("monday", "c1")),
            (lp.NodeRecord, ("monday", "c2")),
            (lp.Failure, ("tuesday", "c1")),
            (lp.Failure, ("tuesday", "c2")),
        ]
    with pytest.raises(lp.DetachError) as caught:
        list(lp.scan((), corpus, inherit="made_by"))
    assert caught.value.path == ("ann",)


class Unknown:
    """Can be stored, and not be taken out."""

    def __init__(self) -> None:
        self.node = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        if protocol < 5:  # as ZODB stores it
            return Unknown, ()
        raise TypeError("it stays where it is")


@fast_ways
def test_a_node_above_others_is_decoded_once() -> None:
    storage = CountingStorage()
    with opened(storage) as root:
        for number in range(200):
            root.gns(["ann", f"clip_{number:03}"]).set_attribute("seconds", 1.0)
        root.gn("ann").set_attribute("age", 30)
        commit(root)
        without = pipe(lp.scan("seconds", root), list)
        storage.loaded.clear()
        assert pipe(lp.scan("seconds", root), list) == without
        read = len(storage.loaded)
        storage.loaded.clear()
        assert {record.attributes["age"] for record in lp.scan("seconds", root, inherit="age")} == {30}
        assert len(storage.loaded) <= read + 3  # the attributes of the speaker, and those of the root with its record


# --- The part of a tree on a glob -----------------------------------------------------------------------------------

components = st.one_of(
    st.sampled_from(["*", "**", "a", "b", "?", "a*", "[ab]*", "root", "example*"]),
    keys.filter(lambda key: not set(key) & set("[*")),
)


@quiet
@pytest.mark.filterwarnings("ignore:match_path. .* no path had as many")
@given(
    planned=planned_trees(kinds, keys=keys),
    pattern=st.lists(components, min_size=1, max_size=5),
    beginning=st.sampled_from([["example*", "root"], ["**"], []]),
    level=st.sampled_from([None, 0, 1, 2, "deepest"]),
    skip=st.sampled_from([None, "a*"]),
)
def test_a_scan_along_a_glob_is_that_of_what_matches_it(
    anywhere: BaseNode, planned: Planned, pattern: list[str], beginning: list[str], level: Any, skip: Any
) -> None:
    root = grown(anywhere, planned, {})
    glob = (*beginning, *pattern)
    records = lp.scan("a", root, level=level, skip=skip)
    expected = [exactly(record) for record in lp.match_path(glob, records)]
    assert everywhere(root, "a", path=glob, level=level, skip=skip) == expected


def test_branches_that_can_not_match_are_not_read() -> None:
    storage = CountingStorage()
    with opened(storage) as root:
        for speaker, clip in itertools.product(range(10), range(30)):
            root.gns([f"speaker_{speaker}", "monday", f"clip_{clip:02}"]).set_attribute("seconds", 1.0)
        commit(root)
        storage.loaded.clear()
        assert len(list(lp.scan("seconds", root))) == 300
        whole = len(storage.loaded)
        storage.loaded.clear()
        assert len(list(lp.scan("seconds", root, path="speaker_3/**"))) == 30
        assert len(storage.loaded) < whole / 8
        with pytest.raises(lp.PatternError):
            lp.scan("seconds", path="a**b")


# --- Across: what was written for a record --------------------------------------------------------------------------

#: Paths at random may be those of results.
pytestmark = pytest.mark.filterwarnings("ignore:.* is itself at")

POLICIES = [
    lp.inline("_proc"),
    lp.inline("_proc", "f0"),
    lp.inline(),
    lp.mirror("features"),
    lp.fresh("features", "f0"),
]


def elsewhere(result: lp.ProcessResult) -> tuple[str, ...]:
    """A policy of one's own."""
    return ("of", *reversed(result.path))


@given(data=st.data(), policy=st.sampled_from([*POLICIES, elsewhere]), planned=planned_trees(kinds, keys=keys))
@quiet
def test_a_record_has_beside_it_what_was_written_for_it(
    anywhere: BaseNode, data: Any, policy: Any, planned: Planned
) -> None:
    root = grown(anywhere, planned, {})
    top = root.parent
    while top.parent is not None:
        top = top.parent
    records = list(lp.snapshot("a", lp.leaves(root)))
    some = [record for record in records if data.draw(st.booleans())]
    values = st.one_of(st.none(), st.integers(), st.lists(st.floats()), st.just(np.arange(3.0)))
    written = {}
    for record in some:
        output, mean, version = data.draw(values), data.draw(values), data.draw(st.sampled_from(["v1", "v2"]))
        result = lp.ProcessResult(record.path, output, {"mean": mean})
        lp.write(policy, top, [result], version=version)
        written[record.path] = {"result": output, "mean": mean, "_version": version}
    commit(anywhere)
    below = {"out": policy, "f0": (policy, "mean"), "new": lp.Below(policy, version="v2"), "none": lp.inline("none")}
    leaves = list(lp.snapshot("a", lp.leaves(root, skip="_*" if policy != elsewhere else None)))
    expected = []
    for record in leaves:
        stored = written.get(record.path, {})
        attributes = {
            **record.attributes,
            "out": stored.get("result"),
            "f0": stored.get("mean"),
            "new": stored.get("result") if stored.get("_version") == "v2" else None,
            "none": None,
        }
        expected.append(exactly(lp.NodeRecord(record.path, record.key, attributes)))
    options: dict[str, Any] = {"skip": "_*"} if policy != elsewhere else {}
    scanned = list(lp.scan("a", root, below=below, **options))
    mine = [exactly(record) for record in scanned]
    of_leaves = {record[0]: record for record in expected}
    assert [record for record in mine if record[0] in of_leaves] == expected
    assert [exactly(record) for record in lp.snapshot("a", lp.leaves(root, **options), below=below)] == mine
    assert unsaved(root) == []
    tested = lp.scan("a", root, below=below, where={"out": lambda value: value is not None}, **options)
    kept = [record.path for record in scanned if record.attributes["out"] is not None]
    assert [record.path for record in tested] == kept


def rms(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, record.attributes["seconds"] * 2)


def log_of(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, math.log(record.attributes["f0"]))


def test_what_was_made_of_results_is_pending_when_these_are_made_anew(corpus: BaseNode) -> None:
    """One stage's results are the next one's inputs."""
    f0, log = lp.inline("_proc", "f0"), lp.inline("_proc", "log")

    def pending() -> list[lp.NodeRecord]:
        records = lp.scan((), corpus, below={"f0": f0}, skip="_*")
        return list(lp.pending(log, corpus, records, inputs=True))

    lp.write(f0, corpus, map(rms, lp.scan("seconds", corpus, skip="_*")), commit_every=3)
    assert len(pending()) == 8
    lp.write(log, corpus, lp.parallel_map(lp.each(log_of), lp.chunked(2, pending()), mode="sync"), commit_every=3)
    assert pending() == []
    changed = lp.ProcessResult(("bob", "monday", "c2"), 7.0)
    lp.write(f0, corpus, [changed], commit_every=3)
    assert [(record.path, record.attributes) for record in pending()] == [(changed.path, {"f0": 7.0})]


def test_payloads_of_results_are_handles_also_in_partitions_and_workers(corpus: BaseNode) -> None:
    clip = corpus.gns(["ann", "monday", "c1", "_proc"])
    add_blob(clip, data=b"RIFF", blob_attribute="result")
    commit(corpus)
    options: dict[str, Any] = {"below": {"audio": lp.inline("_proc")}, "skip": "_*"}
    expected = [lp.PayloadHandle.of(clip.get_attribute("result")), *[None] * 7]
    assert [record.attributes["audio"] for record in lp.scan((), corpus, **options)] == expected
    live = lp.snapshot((), lp.leaves(corpus, skip="_*"), below=options["below"])
    assert [record.attributes["audio"] for record in live] == expected
    results = lp.parallel_map(compose_left(lp.scan((), **options), read), lp.partitions(2, corpus), mode="process")
    assert [result.output for result in concat(results)] == [b"RIFF"]


def read(records: Any) -> list[lp.ProcessResult]:
    handles = ((record.path, record.attributes["audio"]) for record in records)
    return [lp.ProcessResult(path, handle.read()) for path, handle in handles if handle is not None]


def test_a_result_that_can_not_be_read_costs_its_record_and_one_that_lacks_the_attribute_is_told(
    corpus: BaseNode,
) -> None:
    lp.write(lp.inline("_proc"), corpus, map(rms, lp.scan("seconds", corpus)))
    corpus.gns(["ann", "tuesday", "c1", "_proc"]).set_attribute("result", Unknown())
    commit(corpus)
    below = {"out": lp.inline("_proc")}
    for records in (
        lp.scan((), corpus, below=below, skip="_*", on_error="collect"),
        lp.snapshot((), lp.leaves(corpus, skip="_*"), below=below, on_error="collect"),
    ):
        assert [item.path for item in records if isinstance(item, lp.Failure)] == [("ann", "tuesday", "c1")]
    with pytest.raises(lp.DetachError) as caught:
        list(lp.scan((), corpus, below=below, skip="_*"))
    assert caught.value.path == ("ann", "tuesday", "c1", "_proc")
    for records in (
        lp.scan((), corpus, below={"out": (lp.inline("_proc"), "resultt")}, skip="_*"),
        lp.snapshot((), lp.leaves(corpus, skip="_*"), below={"out": (lp.inline("_proc"), "resultt")}),
    ):
        with pytest.warns(UserWarning, match="no node had an attribute 'resultt' .*'result'"):
            list(records)
    for below in ({"out": lp.Below(lp.inline("_proc"), version="gone")}, {"out": lp.inline("_prok")}):
        no_result_is_told(corpus, below)


def no_result_is_told(corpus: BaseNode, below: Any) -> None:
    """A policy under which there is nothing, and a version that no result has."""
    in_parts = lp.parallel_map(lp.scan((), below=below, skip="_*"), lp.partitions(2, corpus), mode="thread")
    for records in (
        lp.scan((), corpus, below=below, skip="_*"),
        lp.snapshot((), lp.leaves(corpus, skip="_*"), below=below),
        in_parts,
    ):
        with pytest.warns(UserWarning, match=r"no record had a result under \"out=inline\('_pro"):
            list(records)


@pytest.mark.parametrize("stage", [lp.scan, lp.snapshot])
@pytest.mark.parametrize(
    "below",
    [
        "f0",
        {"f0": "_proc"},
        {"f0": (lp.inline("_proc"), 3)},
        {3: lp.inline("_proc")},
        {"seconds": lp.inline("_proc")},
        {"age": lp.inline("_proc")},
    ],
)
def test_what_can_not_be_read_below_is_refused_at_once(stage: Any, below: Any) -> None:
    with pytest.raises((lp.ArgumentError, lp.ArgumentTypeError), match=r"below"):
        stage("seconds", inherit="age", below=below)
    with pytest.raises(lp.ArgumentError):
        lp.Below(lp.inline("_proc"), version="")
