"""A name that nothing in a stream had is told of once, when the stream has ended, with the name that comes nearest."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from lotdb import BaseNode, add_blob
from toolz import compose_left, concat, pipe
from trees import commit, opened
from ZODB.FileStorage import FileStorage

import lotproc as lp
from lotproc.folds import stats, top, total

names_of_nodes = st.lists(st.sets(st.sampled_from(["speaker", "seconds", "unit"])), max_size=6)


def file_with_blobs(folder: Path) -> FileStorage:
    return FileStorage(str(folder / "data.fs"), blob_dir=str(folder / "blobs"))


@pytest.fixture(scope="module")
def in_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseNode]:
    with opened(file_with_blobs(tmp_path_factory.mktemp("names"))) as root:
        yield root


def planted(root: BaseNode, nodes: list[set[str]]) -> BaseNode:
    for key in list(root.node_storage):
        del root.node_storage[key]
    root.attribute_storage.clear()
    for number, names in enumerate(nodes):
        for name in sorted(names):
            root.gn(f"top_{number % 3}").gn(f"n{number}").set_attribute(name, number)
    commit(root)
    return root


def told(read: Callable[[], Any]) -> list[str]:
    """The texts of the warnings; each is shown at a line of this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read()
    assert [warning.filename for warning in caught] == [__file__] * len(caught)
    assert {warning.category for warning in caught} <= {UserWarning}
    return [str(warning.message) for warning in caught]


SOURCES: dict[str, Callable[[Any, BaseNode], Any]] = {
    "snapshot": lambda name, root: lp.snapshot(name, lp.leaves(root)),
    "scan": lambda name, root: lp.scan(name, root),
    "scan and its payload": lambda name, root: lp.scan(name, root, payload=lambda node: 1),
    "scan of a part": lambda name, root: lp.scan(name, lp.partitions(1, root)[0]),
    "scan where": lambda name, root: lp.scan((), root, where={name: lambda value: value == -1}),
    "where": lambda name, root: lp.where(name, -1, lp.leaves(root)),
    "where on records": lambda name, root: lp.where(name, -1, lp.scan(..., root)),
    "rollup": lambda name, root: lp.rollup(total(name), lp.scan(..., root)),
    "rollup of nodes": lambda name, root: lp.rollup({"a": top(1, name), "b": stats(name)}, lp.leaves(root)),
    "rollup over parts": lambda name, root: lp.parallel_map(
        compose_left(lp.scan(...), lp.rollup(total(name), partial=True)), lp.partitions(3, root), mode="thread"
    ),
    "in batches": lambda name, root: pipe(root, lp.scan(name), lp.chunked(2), lp.progress()),
    "pipeline": lambda name, root: (
        lp.Pipeline.from_root(root).traverse().buffer(1).prepare(attribute_names=[name]).process(list).run()
    ),
    "over parts": lambda name, root: lp.parallel_map(
        compose_left(lp.scan(name), list), lp.partitions(3, root), mode="thread"
    ),
    "over parts in line": lambda name, root: lp.parallel_map(
        compose_left(lp.scan((), where={name: 1}), list), lp.partitions(3, root), mode="sync"
    ),
}


@pytest.mark.parametrize("source", SOURCES)
@given(nodes=names_of_nodes, name=st.sampled_from(["speaker", "spekaer", "unit"]))
def test_one_warning_if_no_node_had_the_name(in_file: BaseNode, source: str, nodes: list[set[str]], name: str) -> None:
    root = planted(in_file, [names for names in nodes if names])
    had = set().union(*nodes)
    leaves = [set(leaf.attribute_storage) for leaf in lp.leaves(root)]
    texts = told(lambda: list(SOURCES[source](name, root)))
    assert len(texts) == (name not in had and bool(leaves))
    for text in texts:
        assert "no node had an attribute" in text
        assert repr(name) in text
        if name == "spekaer" and "speaker" in had:
            assert "the nearest that there was is 'speaker'" in text


@pytest.mark.parametrize("source", SOURCES)
def test_a_stream_that_was_not_read_to_its_end_tells_nothing(in_file: BaseNode, source: str) -> None:
    root = planted(in_file, [{"speaker"}] * 6)
    if source != "pipeline":
        assert told(lambda: next(iter(SOURCES[source]("spekaer", root)), None)) == [] or "where" in source
    assert len(told(lambda: list(SOURCES[source]("spekaer", root)))) == 1


def test_a_part_alone_does_not_tell_what_another_may_have(in_file: BaseNode) -> None:
    root = planted(in_file, [{"speaker"}] * 3)
    fold = total("spekaer")
    assert told(lambda: list(lp.rollup(fold, lp.scan(..., root), partial=True))) == []
    assert len(told(lambda: list(lp.rollup(fold, lp.scan(..., root))))) == 1


def test_names_of_payloads_and_several_names_at_once(in_file: BaseNode) -> None:
    root = planted(in_file, [{"speaker", "unit"}] * 3)
    add_blob(root.gn("top_0").gn("n0"), data=b"bytes", blob_attribute="audio")
    commit(root)
    assert told(lambda: list(lp.scan((), root, payload="audio"))) == []
    for read in (
        lambda: list(lp.scan(("unti", "speaker"), root, payload="adio")),
        lambda: list(lp.snapshot(("unti", "speaker"), lp.leaves(root), payload="adio")),
    ):
        [text] = told(read)
        assert "'adio' (the nearest that there was is 'audio')" in text
        assert "'unti' (the nearest that there was is 'unit')" in text


def test_names_of_records_in_stores(tmp_path: Path) -> None:
    store = lp.DirectoryStore(str(tmp_path / "store"))
    assert told(lambda: list(lp.records("seconds", store))) == []
    store.put(("a",), [1], metadata={"seconds": 1.5})
    assert told(lambda: list(lp.records(("seconds", "result"), store))) == []
    [text] = told(lambda: list(lp.records("secnods", store)))
    assert "'secnods' (the nearest that there was is 'seconds')" in text


def same(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, 1)


def test_the_nearest_may_differ_in_how_its_letters_are_made() -> None:
    root = BaseNode("root")
    root.gn("Jo\u0308rg").set_attribute("gro\u0308\u00dfe", 1)
    with pytest.warns(UserWarning, match="no node had an attribute 'gr.*in another Unicode form"):
        list(lp.snapshot("gr\u00f6\u00dfe", lp.leaves(root)))
    results = [lp.ProcessResult(("J\u00f6rg",), 1)]
    with pytest.raises(lp.NoSuchKeyError, match='there is J.*another Unicode form: unicodedata.normalize."NFC"'):
        lp.write(lp.mirror(), root, results, if_missing="error")


def test_over_parts_in_processes_once_and_only_if_no_part_had_it(in_file: BaseNode) -> None:
    root = planted(in_file, [{"speaker"}, {"unit"}, {"unit"}] * 4)
    parts = lp.partitions(3, root)
    assert len(parts) > 1
    run = compose_left(lp.scan(["speaker", "untis"]), lp.each(same))
    results: list[Any] = []
    [text] = told(lambda: results.extend(concat(lp.parallel_map(run, parts, mode="process", max_workers=2))))
    assert "'untis' (the nearest that there was is 'unit')" in text
    assert len(results) == 12


@pytest.mark.parametrize("where", ["memory", "database", "store"])
@pytest.mark.parametrize("mode", ["sync", "thread"])
def test_a_write_warns_after_its_last_commit(tmp_path: Path, where: str, mode: Any) -> None:
    with ExitStack() as stack:
        root = stack.enter_context(opened(FileStorage(str(tmp_path / "data.fs"))))
        planted(root, [{"speaker"}] * 6)
        target: Any = {"memory": BaseNode("target"), "database": root, "store": None}[where]
        if target is None:
            target = lp.DirectoryStore(str(tmp_path / "store"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match="scan: no node had an attribute 'spekaer' .*'speaker'") as caught:
                pipe(
                    root,
                    lp.scan("spekaer"),
                    lp.chunked(2),
                    lp.parallel_map(lp.each(same), mode=mode),
                    lp.write(lp.mirror("out"), target, commit_every=2 if where == "database" else None),
                )
        assert caught.value.report.written == 6
        if where == "database":
            assert caught.value.report.commits == 3
            root._p_jar.transaction_manager.abort()
        written = list(lp.records("result", target))
        assert len([record for record in written if record.attributes["result"] == 1]) == 6


def test_a_write_that_fails_tells_nothing_of_names() -> None:
    root = BaseNode("root")
    root.gn("a").set_attribute("speaker", 1)

    def read() -> None:
        with pytest.raises(lp.ResultError):
            lp.write(lp.inline("_proc"), root, lp.snapshot("spekaer", lp.leaves(root)))

    assert told(read) == []


@pytest.mark.parametrize("how", ["snapshot", "scan", "scan and its payload"])
def test_a_missing_name_can_be_an_error(in_file: BaseNode, how: str) -> None:
    root = planted(in_file, [{"speaker"}, {"speaker"}, {"unit"}, {"speaker"}])

    def read(names: Any, **options: Any) -> Any:
        if how == "snapshot":
            return lp.snapshot(names, lp.leaves(root), missing="error", **options)
        more = {"payload": lambda node: 1} if "payload" in how else {}
        return lp.scan(names, root, missing="error", **more, **options)

    paths = [node.path for node in lp.scan((), root)]
    lacking = [number for number, leaf in enumerate(lp.leaves(root)) if "speaker" not in leaf.attribute_storage]
    assert [record.path for record in read(())] == paths
    stream = read("speaker")
    assert [next(stream).path for _ in range(lacking[0])] == paths[: lacking[0]]
    with pytest.raises(lp.ArgumentError, match=f"{how[:4]}.*{'/'.join(paths[lacking[0]])} has no attribute 'speaker'"):
        next(stream)
    collected = list(read("speaker", on_error="collect"))
    assert [type(item) is lp.Failure for item in collected] == [number in lacking for number in range(4)]
    with pytest.raises(lp.ArgumentError, match="'spekaer' .the nearest that there was is 'speaker'"):
        next(read("spekaer"))
    if how != "snapshot":
        assert len(list(read("speaker", where={"speaker": lambda value: value is not None}))) == 3
