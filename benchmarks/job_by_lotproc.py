"""The whole job: files into a tree, features below them, a table of these; again, only what is new or changed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from lotdb import LOTDB

import lotproc as lp
from benchmarks.job_features import BATCH, NAMES, WORKERS, features_of

FEATURES, VERSION = lp.inline("_features"), "1"


def features_of_record(record: lp.NodeRecord) -> lp.ProcessResult:
    return lp.ProcessResult(record.path, attributes=features_of(record.attributes["file"]))


def by_lotproc(wavs: Path, output: Path) -> None:
    with closing(LOTDB(path=str(output), name="corpus")) as database:
        root = database.open_connection()
        lp.ingest_files(root, lp.index_files(wavs))
        stale = lp.pending(FEATURES, root, lp.scan("file", root, skip="_*"), version=VERSION, inputs=True)
        features = lp.parallel_map(lp.each(features_of_record), lp.chunked(BATCH, stale), max_workers=WORKERS)
        lp.write(
            FEATURES, root, features, output_attribute=None, version=VERSION, if_exists="replace", commit_every=1_000
        )
        below = {name: (FEATURES, name) for name in NAMES}
        lp.to_parquet(output / "features.parquet", lp.scan((), root, below=below, skip="_*"))
