"""The rows about stores: killed writers, readers beside a writer, damaged files, full disks."""

from __future__ import annotations

from functools import partial

from benchmarks.soak_rows import Row
from benchmarks.soak_store_damage import damage_stores
from benchmarks.soak_store_disk import fill_disks_of_stores
from benchmarks.soak_store_kills import kill_writers
from benchmarks.soak_store_readers import read_beside_writers

KINDS = ("directory", "LMDB", "archive")

STORE_ROWS = [
    row
    for kind in KINDS
    for row in (
        Row(f"{kind} store: a writer is killed with SIGKILL at a random moment", partial(kill_writers, kind)),
        Row(f"{kind} store: processes read beside a writer", partial(read_beside_writers, kind)),
        Row(f"{kind} store: its files are damaged, and read whole", partial(damage_stores, kind)),
        Row(f"{kind} store: a full disk, then more room", partial(fill_disks_of_stores, kind)),
    )
]
