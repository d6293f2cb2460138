"""The rows of the benchmark for stores: lotproc's against the packages whose files they read and write."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks import (
    store_archive_sides as archive,
    store_directory_sides as directory,
    store_files as files,
    store_lmdb_sides as lmdb,
)
from benchmarks.rows import EXTRA_MEMORY, Row
from benchmarks.sides import Run, Side

ARRAY_MB = 80

LMDB_STORE = "lmdb-object-store"
DIRDB = "dirdb, locked as well; it never syncs"
ROXXEL = "roxxel, which never syncs"
NOT_DURABLE = "the same with `durable=False`"


def rows(records: int) -> list[Row]:
    """The rows, for so many records of 100 B; some have five times as many, those with a file for each have fewer."""
    many, few, fewer = 5 * records, max(20, records // 50), max(20, records // 500)

    def row(work: str, peer: str, ours: Run, theirs: Run, target: float | None = None, **more: Any) -> Row:
        size, build = more.pop("size", records), more.pop("build", files.build_nothing)
        more.setdefault("writes", build is files.build_nothing)
        return Row(work, peer, Side(ours, size, build), Side(theirs, size, build), target, **more)

    return [
        # LMDB
        row("LMDB `put_many`, `sync=False`", f"{LMDB_STORE}, the same", lmdb.put_many, lmdb.original_put_many, 1.2),
        row(
            "LMDB `put_many`, `sync=False`",
            "raw `lmdb`, pickling, `put`, one transaction",
            lmdb.put_many,
            lmdb.raw_put_all,
            0.8,
        ),
        row(
            "LMDB `put_many`, `sync=False`",
            "raw `lmdb`, pickling, one `putmulti`",
            lmdb.put_many,
            lmdb.raw_putmulti,
            0.8,
        ),
        row("LMDB buffered `put`, `sync=False`", f"{LMDB_STORE}, the same", lmdb.put, lmdb.original_put, 1.2),
        row(
            "LMDB buffered `put`, `sync=False`",
            "raw `lmdb`, pickling, `put`, 1,000 in a transaction",
            lmdb.put,
            lmdb.raw_put,
            0.8,
        ),
        *(
            row(
                f"LMDB {call}, {what}",
                f"{LMDB_STORE}, the same",
                partial(ours, sync=sync, shuffled=not sync),
                partial(theirs, sync=sync, shuffled=not sync),
            )
            for call, ours, theirs in (
                ("`put_many`", lmdb.put_many, lmdb.original_put_many),
                ("buffered `put`", lmdb.put, lmdb.original_put),
            )
            for what, sync in (
                ("waiting for the disk", True),
                ("keys in no order, `sync=False`", False),
            )
        ),
        row(
            "LMDB iteration of all items",
            f"{LMDB_STORE}'s `get_many` in batches of 1,000",
            lmdb.items,
            lmdb.original_get_many,
            2,
            build=files.build_lmdb,
        ),
        row(
            "LMDB iteration of all items",
            "a raw cursor, decoding and unpickling",
            lmdb.items,
            lmdb.raw_items,
            0.8,
            build=files.build_lmdb,
        ),
        # Archives
        row(
            "archive, all records in random order",
            "roxxel's `rox[i]`",
            archive.random_reads,
            archive.original_random_reads,
            5,
            build=files.build_archive,
        ),
        row(
            "archive, iteration",
            "iterating over roxxel's",
            archive.iterate,
            archive.original_iterate,
            10,
            build=files.build_archive,
        ),
        row("archive, writing, `durable=False`", ROXXEL, archive.write, archive.original_write, 1),
        row("archive, writing, durable", NOT_DURABLE, partial(archive.write, durable=True), archive.write),
        row(
            f"archive, one record appended to {many:,}, `durable=False`",
            ROXXEL,
            archive.append,
            archive.original_append,
            10,
            size=many,
            build=files.build_archive,
            writes=True,
        ),
        row(
            f"archive, one record appended to {many:,}, durable",
            NOT_DURABLE,
            partial(archive.append, durable=True),
            archive.append,
            size=many,
            build=files.build_archive,
            writes=True,
        ),
        row(
            f"archive in shards of 1 MiB, one record appended to {many:,}, `durable=False`",
            f"{ROXXEL}, with the same shards",
            archive.append_to_shard,
            archive.original_append_to_shard,
            size=many,
            build=files.build_shards,
            writes=True,
        ),
        Row(
            f"archive in shards of 1 MiB, one record appended to {many:,}, `durable=False`",
            f"{ROXXEL}, one file",
            Side(archive.append_to_shard, many, files.build_shards),
            Side(archive.original_append, many, files.build_archive),
            writes=True,
        ),
        # Directories
        row(
            f"directory, locked put of {few:,} new entries of 100 B, `durable=False`",
            DIRDB,
            directory.put_small,
            directory.original_put_small,
            3,
            size=few,
        ),
        row(
            f"directory, locked put of {few:,} new entries of 100 B, durable",
            NOT_DURABLE,
            partial(directory.put_small, durable=True),
            directory.put_small,
            size=few,
        ),
        row(
            f"directory, locked get of {few:,} entries of 100 B",
            "dirdb, locked as well",
            directory.get,
            directory.original_get,
            3,
            size=few,
            build=files.build_small_entries,
        ),
        row(
            f"directory, locked put of {fewer:,} new entries of 100 KB, `durable=False`",
            DIRDB,
            directory.put_large,
            directory.original_put_large,
            size=fewer,
        ),
        row(
            f"directory, locked put of {fewer:,} new entries of 100 KB, durable",
            NOT_DURABLE,
            partial(directory.put_large, durable=True),
            directory.put_large,
            size=fewer,
        ),
        row(
            f"directory, locked get of {fewer:,} entries of 100 KB",
            "dirdb, locked as well",
            directory.get,
            directory.original_get,
            size=fewer,
            build=files.build_large_entries,
        ),
        row(
            f"directory, put of an array of {ARRAY_MB} MB, `durable=False`",
            DIRDB,
            directory.put_array,
            directory.original_put_array,
            1.5,
            size=ARRAY_MB,
        ),
        row(
            f"directory, put of an array of {ARRAY_MB} MB, durable",
            NOT_DURABLE,
            partial(directory.put_array, durable=True),
            directory.put_array,
            size=ARRAY_MB,
        ),
        row(
            f"directory, put of an array of {ARRAY_MB} MB, peak memory above start",
            "dirdb",
            directory.put_array_memory,
            directory.original_put_array_memory,
            0,
            comparison=EXTRA_MEMORY,
            size=ARRAY_MB,
        ),
    ]
