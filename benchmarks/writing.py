"""Writing into trees and LMDB: `write` against loops over lotdb, and against itself where results are of another shape.

What is written goes to a copy, is committed inside the timed part, and is read back outside it, by plain lotdb.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import lmdb_object_store

import lotproc as lp
from benchmarks import loops
from benchmarks.corpora import wide_values
from benchmarks.measuring import Measured, check, seconds
from benchmarks.rows import FASTER, LONGER, Row, row
from benchmarks.sides import Side
from benchmarks.store_files import MAP_SIZE, build_nothing, lmdb_contents
from benchmarks.trees import Digest, build, build_empty, digest, duration, leaf_path, opened, text
from lotproc.stores import LmdbStore

COMMIT_EVERY = 1_000
BATCH = 100
SUMMARY = ("_proc", "summary")
KEYS = ("mean", "std", "min", "max", "rms")


def number(index: int) -> float:
    return 2 * duration(index)


def numbers(index: int) -> dict[str, float]:
    """A dict of 5 numbers."""
    return {key: duration(index) + place for place, key in enumerate(KEYS)}


def as_number(value: Any) -> float:
    return sum(value.values()) if isinstance(value, dict) else value


def read_back(folder: Path, leaves: int, base: tuple[str, ...] = ()) -> Digest:
    """What plain lotdb reads of the results below (or at) the leaves: about 2,000 of them, spread evenly."""
    with opened(folder, read_only=True) as database:
        root = database.open_connection()
        paths = [(*leaf_path(index), *base) for index in sample(leaves)]
        found = (root.get_node_path(path, create=False).get_attribute("result") for path in paths)
        return digest(zip(paths, map(as_number, found), strict=True))


def expected_results(leaves: int, base: tuple[str, ...] = ()) -> Digest:
    """The digest of what `read_back` reads where each leaf has its duration, doubled."""
    return digest(((*leaf_path(index), *base), number(index)) for index in sample(leaves))


def sample(leaves: int) -> range:
    return range(0, leaves, max(1, leaves // 2_000))


def write_inline(folder: Path, leaves: int, output: Callable[[int], Any] = number) -> Measured:
    results = [lp.ProcessResult(leaf_path(index), output(index)) for index in range(leaves)]
    return timed_write(folder, leaves, lp.inline(*SUMMARY), results, SUMMARY)


def write_new(folder: Path, leaves: int, output: Callable[[int], Any] = number) -> Measured:
    results = [
        lp.ProcessResult(leaf_path(index), output(index), attributes={"text": text(index)}) for index in range(leaves)
    ]
    return timed_write(folder, leaves, lp.fresh(), results, ())


def timed_write(
    folder: Path, leaves: int, policy: Any, results: list[lp.ProcessResult], base: tuple[str, ...]
) -> Measured:
    batches = list(lp.chunked(BATCH, results))
    gc.freeze()  # what is to be written is not looked through again and again
    with opened(folder) as database:
        root = database.open_connection()
        value = seconds(lambda: lp.write(policy, root, batches, commit_every=COMMIT_EVERY))
    return Measured(value, read_back(folder, leaves, base))


def loop_inline(folder: Path, leaves: int, output: Callable[[int], Any] = number) -> Measured:
    planned = [((*leaf_path(index), *SUMMARY), {"result": output(index)}) for index in range(leaves)]
    return timed_loop(folder, leaves, planned, SUMMARY)


def loop_new(folder: Path, leaves: int, output: Callable[[int], Any] = number) -> Measured:
    planned = [(leaf_path(index), {"text": text(index), "result": output(index)}) for index in range(leaves)]
    return timed_loop(folder, leaves, planned, ())


def timed_loop(
    folder: Path, leaves: int, planned: Iterable[tuple[Sequence[str], dict[str, Any]]], base: tuple[str, ...]
) -> Measured:
    gc.freeze()
    with opened(folder) as database:
        root = database.open_connection()
        value = seconds(lambda: loops.write(database, root, planned))
    return Measured(value, read_back(folder, leaves, base))


# Other shapes


def write_wide(folder: Path, leaves: int, attributes: int) -> Measured:
    """Results with many attributes."""
    results = [lp.ProcessResult(leaf_path(index), attributes=wide_values(index, attributes)) for index in range(leaves)]
    with opened(folder) as database:
        root = database.open_connection()
        value = seconds(lambda: write_attributes(root, results))
    with opened(folder, read_only=True) as database:
        last = database.open_connection().get_node_path(leaf_path(leaves - 1), create=False).attribute_storage
        check(Digest(len(last), sum(last.values()), 0), Digest(attributes, sum(results[-1].attributes.values()), 0))
    return Measured(value, None)


def write_attributes(root: Any, results: list[lp.ProcessResult]) -> None:
    lp.write(lp.fresh(), root, results, output_attribute=None, commit_every=COMMIT_EVERY)


def write_into_one(folder: Path, leaves: int, *, shuffled: bool) -> Measured:
    """All below one node."""
    results = [lp.ProcessResult((f"clip_{index:08d}",), number(index)) for index in range(leaves)]
    if shuffled:
        Random(1).shuffle(results)
    with opened(folder) as database:
        root = database.open_connection()
        value = seconds(lambda: lp.write(lp.fresh(), root, results, commit_every=COMMIT_EVERY))
    with opened(folder, read_only=True) as database:
        root = database.open_connection()
        keys = list(root.node_storage)
        found = digest(((key,), root.node_storage[key].get_attribute("result")) for key in keys[:: len(keys) // 20])
        return Measured(value, found._replace(leaves=len(keys)))


# Into LMDB


def write_lmdb(folder: Path, records: int) -> Measured:
    """In batches, as `parallel_map` gives them: each item is one, and so would be each result by itself."""
    results = [lp.ProcessResult(leaf_path(index), number(index)) for index in range(records)]
    batches = list(lp.chunked(BATCH, results))
    with LmdbStore(folder, map_size=MAP_SIZE, sync=False) as store:
        value = seconds(lambda: lp.write(lp.mirror(), store, batches))
    return Measured(value, of_lmdb(folder))


def put_many(folder: Path, records: int) -> Measured:
    with LmdbStore(folder, map_size=MAP_SIZE, sync=False) as store:
        items = list(pairs(records))
        value = seconds(lambda: store.put_many(items))
    return Measured(value, of_lmdb(folder))


def original_put_many(folder: Path, records: int) -> Measured:
    options = {"key_encoding": "utf-8", "map_size": MAP_SIZE, "sync": False}
    with lmdb_object_store.LmdbObjectStore(str(folder), COMMIT_EVERY, **options) as store:
        items = list(pairs(records))
        value = seconds(lambda: store.put_many(items))
    return Measured(value, of_lmdb(folder))


def pairs(records: int) -> Iterator[tuple[str, dict[str, float]]]:
    """What `write` stores of the results."""
    return (("/".join(leaf_path(index)), {"result": number(index)}) for index in range(records))


def of_lmdb(folder: Path) -> Digest:
    return digest((key.split("/"), value["result"]) for key, value in lmdb_contents(folder))


LOOP = "`gns` + `set_attribute` + commit every 1,000"


def rows(leaves: int) -> list[Row]:
    half = leaves // 2  # the loops take long
    into_lmdb = partial(row, size=leaves, build=build_nothing, writes=True)
    return [
        *(
            row(
                f"{what}, {of}",
                LOOP,
                partial(ours, output=output),
                partial(loop, output=output),
                target,
                FASTER,
                size=half,
                build=build_,
                writes=True,
            )
            for output, of, targets in ((numbers, "dicts of 5 numbers", (3.5, 3.5)), (number, "a float", (4, 3)))
            for (what, ours, loop, build_), target in zip(
                (
                    ("new nodes in a fresh database", write_new, loop_new, build_empty),
                    ("inline results two levels down", write_inline, loop_inline, build),
                ),
                targets,
                strict=True,
            )
        ),
        *(wide_row(attributes, leaves) for attributes in (31, 100, 300)),
        row(
            f"{leaves:,} results into one node, in random order",
            "sorted",
            partial(write_into_one, shuffled=True),
            partial(write_into_one, shuffled=False),
            1.5,
            LONGER,
            size=leaves,
            build=build_empty,
            writes=True,
        ),
        into_lmdb("`write` into an `LmdbStore`, `sync=False`", "its `put_many`", write_lmdb, put_many, 4, LONGER),
        into_lmdb(
            "`write` into an `LmdbStore`, `sync=False`",
            "lmdb-object-store's `put_many`",
            write_lmdb,
            original_put_many,
            4,
            LONGER,
        ),
    ]


def wide_row(attributes: int, leaves: int) -> Row:
    def side(attributes: int) -> Side:
        size = 3 * leaves // attributes
        return Side(partial(write_wide, attributes=attributes), size, build_empty, size * attributes)

    what = f"`write` of results with {attributes} attributes, a value"
    return Row(what, "with 30", side(attributes), side(30), 1.3, LONGER, writes=True)
