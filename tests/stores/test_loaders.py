"""What feeds a training loop: batches in random order and batches of tokens, by one program or by several."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode
from recording import examples, open_files

import lotproc as lp

KINDS = ["file", "archive", "directory", "lmdb", "list"]
MOST = 12
#: Two epochs as they were first drawn, which no version of numpy and no machine draws otherwise.
GOLDEN = [[[9, 2, 4, 7, 5, 0, 8, 6, 3, 1]], [[4, 5, 2, 3], [6, 0, 1, 7], [8, 9]]]


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before, threads = open_files(), threading.active_count()
    yield
    assert not open_files() - before
    assert threading.active_count() == threads


def records_of(count: int) -> list[tuple[tuple[str, ...], int, dict[str, Any]]]:
    """Records, in the order of their paths."""
    return [((f"{number:02}", "clip"), number, {"n": number}) for number in range(count)]


def source_of(kind: str, folder: Path, count: int) -> Any:
    """The records in a store, in the order of their numbers; in LMDB they have no attributes."""
    records = records_of(count)
    if kind == "list":
        return [value for _, value, _ in records]
    store: Any
    if kind in ("file", "archive"):
        with lp.Archive(folder / "a.rox", "w", codec="json", max_shard_bytes=300, durable=False) as store:
            store.write_records(records)
        return str(folder / "a.rox") if kind == "file" else lp.Archive(folder / "a.rox", codec="json")
    if kind == "directory":
        store = lp.DirectoryStore(folder / "d", codec="json", durable=False)
        for path, value, attributes in records:
            store.put(path, value, metadata=attributes)
        return store
    pytest.importorskip("lmdb")
    store = lp.LmdbStore(folder / "l", codec="json", map_size=1 << 20)
    store.put_many(("/".join(path), value) for path, value, _ in records)
    return store


def let_go(source: Any) -> None:
    if isinstance(source, lp.Store):
        source.close()


def cut(items: Any, size: int, drop_last: bool, world: int) -> list[Any]:
    """All batches of all ranks, in their order."""
    batches = [items[at : at + size] for at in range(0, len(items), size)]
    if drop_last:
        batches = batches[: len(items) // size // world * world]
    return batches


@pytest.mark.parametrize("kind", KINDS)
@given(
    count=st.integers(0, MOST),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 2**70),
    epoch=st.integers(0, 3),
    world=st.integers(1, 4),
    start=st.integers(0, 5),
    drop_last=st.booleans(),
    prefetch=st.integers(1, 3),
)
@settings(max_examples=examples(25))
def test_an_epoch_is_a_permutation_that_ranks_share_and_a_start_goes_on_with(
    tmp_path_factory: Any, kind: str, count: int, batch_size: int, seed: int, epoch: int, world: int, start: int,
    drop_last: bool, prefetch: int,
) -> None:  # fmt: skip
    source = source_of(kind, tmp_path_factory.mktemp("loaded"), count)
    order = {"seed": seed, "epoch": epoch}
    whole = list(itertools.chain.from_iterable(lp.shuffled(source, 3, **order)))
    assert sorted(whole) == list(range(count))
    assert whole == list(itertools.chain.from_iterable(lp.shuffled(range(count), 3, **order)))
    batches = cut(whole, batch_size, drop_last, world)
    for rank in range(world):
        mine = batches[rank::world]
        options = {"rank": rank, "world": world, "drop_last": drop_last, "prefetch": prefetch, "start": start, **order}
        found = lp.shuffled(source, batch_size, **options)
        if start <= len(mine):
            assert list(found) == mine[start:]
        else:
            with pytest.raises(lp.ArgumentError, match="shuffled: start"):
                next(found)
    let_go(source)


@pytest.mark.parametrize("kind", ["file", "archive", "directory", "lmdb"])
@given(
    count=st.integers(0, MOST),
    chosen=st.lists(st.integers(0, MOST - 1), unique=True),
    fields=st.sampled_from(["value", "path", "attributes"])
    | st.lists(st.sampled_from(["value", "path", "attributes"]), min_size=1, max_size=3).map(tuple),
    seed=st.integers(0, 5),
)
@settings(max_examples=examples(15))
def test_fields_and_paths_say_what_comes(
    tmp_path_factory: Any, kind: str, count: int, chosen: list[int], fields: Any, seed: int
) -> None:
    source = source_of(kind, tmp_path_factory.mktemp("loaded"), count)
    records = records_of(count)
    chosen = [number for number in chosen if number < count]
    paths = (records[number][0] for number in chosen)
    found = [r for batch in lp.shuffled(source, 4, seed=seed, fields=fields, paths=paths) for r in batch]

    def wanted(number: int) -> Any:
        path, value, attributes = records[number]
        parts = {"value": value, "path": path, "attributes": {} if kind == "lmdb" else attributes}
        return parts[fields] if isinstance(fields, str) else tuple(parts[name] for name in fields)

    order = [number for batch in lp.shuffled(chosen, 4, seed=seed) for number in batch]
    assert found == [wanted(number) for number in order]
    let_go(source)


def test_an_order_is_the_same_on_every_machine() -> None:
    assert list(lp.shuffled(range(10), 10, seed=1)) == GOLDEN[0]
    assert list(lp.shuffled(range(10), 4, seed=1, epoch=2**40)) == GOLDEN[1]


def test_records_without_a_path_have_their_number_and_the_root_has_its_own(tmp_path: Path) -> None:
    with lp.Archive(tmp_path / "a.rox", "w", durable=False) as archive:
        archive.write([b"0", b"1"])
        archive.write_records([((), b"2", None), (("1",), b"3", {"a": 1})])
    options: Any = {"seed": 0, "fields": ("path", "attributes")}
    (batch,) = lp.shuffled(tmp_path / "a.rox", 9, **options)
    assert sorted(batch, key=repr) == [(("0",), {}), (("1",), {"a": 1}), (("1",), {}), ((), {})]
    with lp.Archive(tmp_path / "a.rox") as archive:  # the second was replaced
        (batch,) = lp.shuffled(archive, 9, **options, paths=archive.paths())
        assert sorted(batch, key=repr) == [(("0",), {}), (("1",), {"a": 1}), ((), {})]


def test_a_training_set_is_what_split_gives(tmp_path: Path) -> None:
    store = source_of("directory", tmp_path, MOST)
    parts = {"train": 0.5, "test": 0.5}
    taken = {
        part: {
            path
            for batch in lp.shuffled(store, 2, seed=0, fields="path", paths=lp.split(parts, store.paths(), part=part))
            for path in batch
        }
        for part in parts
    }
    assert all(taken.values())
    assert taken["train"].isdisjoint(taken["test"])
    assert taken["train"] | taken["test"] == set(store.paths())


def test_a_tree_is_a_list_of_its_records() -> None:
    root = BaseNode("corpus")
    for number in range(5):
        root.gns(["ann", str(number)]).set_attribute("n", number)
    records = list(lp.snapshot("n", lp.leaves(root)))
    batches = lp.shuffled(records, 2, seed=0, collate=lambda some: [record.attributes["n"] for record in some])
    assert sorted(itertools.chain.from_iterable(batches)) == [0, 1, 2, 3, 4]
    with pytest.raises(lp.ArgumentTypeError) as caught:
        lp.shuffled(root, 2, seed=0)  # type: ignore[arg-type]
    assert "scan" in str(caught.value.hint)


def test_what_is_gone_is_told_where_its_batch_is_asked_for(tmp_path: Path) -> None:
    store = source_of("directory", tmp_path, 3)
    batches = lp.shuffled(store, 1, seed=0, paths=[("00", "clip"), ("nobody",)])
    with pytest.raises(lp.NoSuchKeyError, match="nobody"):
        list(batches)
    archive = source_of("archive", tmp_path, 3)
    with archive, pytest.raises(lp.NoSuchKeyError, match="nobody"):
        next(lp.shuffled(archive, 1, seed=0, paths=[("nobody",)]))


@given(
    sizes=st.lists(st.integers(0, 30), max_size=8),
    codec=st.sampled_from(["bytes", "npy", "json", "pickle"]),
    limit=st.sampled_from([None, 450]),
    length=st.integers(1, 7),
    batch_size=st.integers(1, 4),
    world=st.integers(1, 3),
    start=st.integers(0, 4),
    drop_last=st.booleans(),
)
@settings(max_examples=examples(60))
def test_tokens_are_one_stream_whatever_the_codec_and_the_shards(
    tmp_path_factory: Any, sizes: list[int], codec: str, limit: Any, length: int, batch_size: int, world: int,
    start: int, drop_last: bool,
) -> None:  # fmt: skip
    file = tmp_path_factory.mktemp("tokens") / "t.rox"
    tokens = np.arange(sum(sizes), dtype=np.int16)
    with lp.Archive(file, "w", codec=codec, max_shard_bytes=limit, durable=False) as archive:
        parts = np.split(tokens, np.cumsum(sizes))[:-1]
        archive.write([part.tolist() for part in parts] if codec == "json" else parts)
    rows = tokens[: len(tokens) // length * length].reshape(-1, length)
    batches = cut(rows, batch_size, drop_last, world)
    for rank in range(world):
        mine = batches[rank::world]
        found = lp.token_batches(
            file, np.int16, length, batch_size=batch_size, start=start, rank=rank, world=world, drop_last=drop_last
        )
        if start <= len(mine):
            np.testing.assert_equal(list(found), mine[start:])
        else:
            with pytest.raises(lp.ArgumentError, match="token_batches: start"):
                list(found)


@pytest.mark.parametrize("value", [[1, 70_000], [0.5], ["a"], {"a": 1}, [[1], [2, 3]], None])
def test_what_is_no_token_is_refused(tmp_path: Path, value: Any) -> None:
    with lp.Archive(tmp_path / "t.rox", "w", codec="json") as archive:
        archive.write([[1, 2], value])
    with pytest.raises(lp.CodecError, match="record 1"):
        list(lp.token_batches(tmp_path / "t.rox", np.uint16, 5))


def test_an_archive_that_a_pair_of_functions_wrote_is_opened_with_it(tmp_path: Path) -> None:
    pair = (lambda value: value.encode(), lambda data: data.decode())
    with lp.Archive(tmp_path / "a.rox", "w", codec=pair) as archive:
        archive.write(["a"])
    for loader in (
        lambda source: lp.shuffled(source, 1, seed=0),
        lambda source: lp.token_batches(source, np.uint8, 1),
    ):
        with pytest.raises(lp.CodecError, match="pair of functions"):
            next(loader(tmp_path / "a.rox"))
    with lp.Archive(tmp_path / "a.rox", codec=pair) as archive:
        assert list(lp.shuffled(archive, 1, seed=0)) == [["a"]]
    with pytest.raises(FileNotFoundError):
        next(lp.shuffled(tmp_path / "nothing.rox", 1, seed=0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 1}, {"rank": -1}, {"world": 0}, {"start": -1}, {"start": 1.5}, {"epoch": -1}, {"drop_last": "x"},
        {"fields": "key"}, {"fields": []}, {"fields": ["value", "key"]}, {"fields": {"value"}}, {"paths": "ann"},
        {"paths": 5},
    ],
)  # fmt: skip
def test_wrong_options_are_refused_at_once(tmp_path: Path, wrong: Any) -> None:
    (name,) = wrong
    with pytest.raises((lp.ArgumentError, lp.ArgumentTypeError), match=f"shuffled: {name}"):
        lp.shuffled(tmp_path / "a.rox", 1, **{"seed": 0, **wrong})
    if name in ("rank", "world", "start", "drop_last"):
        with pytest.raises((lp.ArgumentError, lp.ArgumentTypeError), match=f"token_batches: {name}"):
            lp.token_batches(tmp_path / "a.rox", "u1", 1, **wrong)


@pytest.mark.parametrize("source", [5, None, {"a": 1}, {"a"}, iter("ab")])
def test_a_source_that_is_none(source: Any) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="shuffled: source"):
        lp.shuffled(source, 1, seed=0)
    for options in ({"fields": "path"}, {"paths": []}):
        with pytest.raises(lp.ArgumentError, match=f"shuffled: {next(iter(options))}"):
            lp.shuffled([1, 2], 1, seed=0, **options)


def told(archive: lp.Archive, connection: Any) -> None:
    connection.send([archive[number].tobytes() for number in range(len(archive))])
    connection.close()


@pytest.mark.parametrize("way", ["fork", "spawn"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_an_archive_is_a_map_style_dataset(tmp_path: Path, way: str) -> None:
    values = [b"%d" % number for number in range(9)]
    with lp.Archive(tmp_path / "a.rox", "w", max_shard_bytes=300) as archive:
        archive.write(values)
    context: Any = multiprocessing.get_context(way)
    with lp.Archive(tmp_path / "a.rox") as archive:
        assert (len(archive), archive[np.int64(3)].tobytes()) == (9, b"3")  # it is open when the worker starts
        assert [record.tobytes() for record in pickle.loads(pickle.dumps(archive))] == values
        ours, theirs = context.Pipe()
        worker = context.Process(target=told, args=(archive, theirs))
        worker.start()
        theirs.close()
        with ours:
            assert ours.recv() == values
        worker.join()
        worker.close()
