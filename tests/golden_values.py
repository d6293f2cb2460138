"""What users pickle of lotproc, and what they keep in trees and stores, by name; `tests/golden` holds it as it was.

`python tests/golden_values.py FOLDER` writes such a folder, with the lotproc that is imported. The folder in the
repository was written with Python 3.10 by the lotproc of November 2026, before its modules were arranged in rooms; it
stays as it is.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from lotdb import LOTDB, BaseNode
from toolz import compose_left

import lotproc as lp

AS_PICKLED = 4
FAILURE = lp.Failure(("a", "x"), "ValueError", "too short", "Traceback ...", 2)
HANDLE = lp.PayloadHandle("array", Path("/data/blobs/0x00/x.blob"), None, (3, 2), "<f4", 16_000.0)
COPY = lp.PayloadCopy("Blob", b"the bytes of a file")
RECORD = lp.NodeRecord(("a", "x"), "x", {"n": 1, "handle": HANDLE}, HANDLE)
REPORT = lp.WriteReport(written=3, commits=2, skipped=1, failures=(FAILURE,))


def values() -> dict[str, Any]:
    """Values of all public classes that pickle: what a user may keep in a file, an attribute or a store."""
    return {
        "NodeRecord": RECORD,
        "NodeRecord with inputs": lp.NodeRecord(("a",), "a", {}, None, "0" * 32),
        "ProcessResult": lp.ProcessResult(("a", "x"), output=[1.5], attributes={"n": 1}, relative_path=("f",)),
        "Failure": FAILURE,
        "Write": lp.Write(("a", "x", "_proc"), {"result": 2}),
        "WriteReport": REPORT,
        "Partition": lp.Partition("/data/c.fs", None, b"\0" * 8, b"\0" * 8, ("a",), ("b", "c")),
        "PayloadHandle": HANDLE,
        "PayloadCopy": COPY,
        "InlineWritePolicy": lp.inline("_proc"),
        "MirrorWritePolicy": lp.mirror("features", "mfcc"),
        "FreshWritePolicy": lp.fresh(),
        "IndexedFile": lp.IndexedFile(("a", "x"), Path("/data/a/x.wav")),
        "FileFailure": lp.FileFailure(Path("/data/a/y.wav"), ("a", "y"), "no samples"),
        "IngestReport": lp.IngestReport(),
        "RunSummary": lp.run_summary(REPORT),
        "SelectionSpec": lp.SelectionSpec(),
        "PreparationSpec": lp.PreparationSpec(),
        "ProcessingSpec": lp.ProcessingSpec(len),
    }


def errors() -> dict[str, BaseException]:
    """One of each public class of errors."""
    classes = {name: getattr(lp, name) for name in lp.__all__ if name.endswith("Error")}
    return {name: kind(f"a/x: no good {name}") for name, kind in classes.items()}


def stages() -> dict[str, Any]:
    """Stages with options, which pickle as their names and arguments."""
    return {
        "leaves": lp.leaves(skip="_*"),
        "level": lp.level(2),
        "walk": lp.walk(),
        "glob": lp.glob("*/x"),
        "children": lp.children(),
        "match_key": lp.match_key("^x", invert=True),
        "match_path": lp.match_path("a/**"),
        "where": lp.where("n", 3),
        "where, waiting for more": lp.where("n"),
        "scan": lp.scan(["n"], skip="_*"),
        "snapshot": lp.snapshot(..., payload="data"),
        "chunked": lp.chunked(2),
        "chunked_by": lp.chunked_by(1),
        "chunked_bytes": lp.chunked_bytes(100),
        "parallel_map": lp.parallel_map(lp.each(len), mode="sync"),
        "plan": lp.plan(lp.inline("_proc"), output_attribute="n"),
        "retry_failed": lp.retry_failed("run.jsonl"),
        "records": lp.records("n"),
        "partitions": lp.partitions(2),
        "to_rows": lp.to_rows(),
        "progress": lp.progress(),
        "composed": compose_left(lp.leaves(), lp.snapshot("n"), lp.chunked(3)),
    }


STORES: dict[str, Callable[[Path, Any], Any]] = {
    "directory": lambda folder, mode: lp.DirectoryStore(folder / "directory"),
    "lmdb": lambda folder, mode: lp.LmdbStore(folder / "lmdb"),
    "archive": lambda folder, mode: lp.Archive(folder / "archive.rox", mode, codec="pickle"),
}


def entries() -> list[tuple[tuple[str, ...], Any, dict[str, Any]]]:
    """What is in each store: paths, outputs and other attributes."""
    return [
        (("a", "x"), np.arange(6, dtype="<f4").reshape(3, 2), {"n": 1, "unit": "V"}),
        (("a", "y"), {"record": lp.NodeRecord(("a",), "a", {"n": 1}), "copy": COPY, "policy": lp.inline("_proc")}, {}),
        (("b",), "a text", {"n": 2}),
    ]


def results() -> list[lp.ProcessResult]:
    return [lp.ProcessResult(path, output=output, attributes=attributes) for path, output, attributes in entries()]


def inputs() -> list[lp.NodeRecord]:
    """Records with these values as attributes, by whose digests it is known what was made from them."""
    with_files = "IndexedFile", "FileFailure"  # which would have to be there
    return [
        lp.NodeRecord((name,), name, {"value": value}) for name, value in values().items() if name not in with_files
    ]


def left(root: BaseNode) -> list[lp.NodeRecord]:
    """Those of the inputs whose results are not there, or were made from others."""
    return list(lp.pending(lp.mirror("stamped"), root, inputs(), version="1", inputs=True))


def stamped(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, output=record.key)


def opened(store: Any) -> Any:
    """A store for a `with` block: those that stay open are closed."""
    return store if hasattr(store, "__enter__") else nullcontext(store)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, made in {"values": values, "errors": errors, "stages": stages}.items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(made(), AS_PICKLED))
    for make in STORES.values():
        with opened(make(folder, "w")) as store:
            lp.write(lp.mirror(), store, results())
    kept = {}
    for name, make in STORES.items():
        with opened(make(folder, "r")) as store:
            kept[name] = store, [record.payload for record in lp.records(..., store)]
    (folder / "stored.pickle").write_bytes(pickle.dumps(kept, 2))
    database = LOTDB(path=str(folder), name="tree.fs", new=True)
    root = database.open_connection()
    lp.write(lp.mirror(), root, results(), commit_every=10)
    processed = lp.parallel_map(lp.each(stamped), [left(root)], mode="sync")
    lp.write(lp.mirror("stamped"), root, processed, commit_every=100, version="1")
    database.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
