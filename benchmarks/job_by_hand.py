"""The whole job as one writes it by hand: its table says what is done, by the paths, sizes and times of the files."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd

from benchmarks.job_features import BATCH, WORKERS, features_of


def by_hand(wavs: Path, output: Path) -> None:
    output.mkdir(exist_ok=True)
    file = output / "features.parquet"
    old = pd.read_parquet(file) if file.exists() else pd.DataFrame({"path": [], "size": [], "mtime_ns": []})
    known = dict(zip(old["path"], zip(old["size"], old["mtime_ns"], strict=True), strict=True))
    stale, kept = [], []
    for path in sorted(wavs.rglob("*.wav")):
        status = path.stat()
        if known.get(str(path)) == (status.st_size, status.st_mtime_ns):
            kept.append(str(path))
        else:
            stale.append((str(path), status.st_size, status.st_mtime_ns))
    with ProcessPoolExecutor(WORKERS) as pool:
        features = list(pool.map(features_of, [path for path, _, _ in stale], chunksize=BATCH))
    new = pd.DataFrame(
        {"path": path, "size": size, "mtime_ns": time, **values}
        for (path, size, time), values in zip(stale, features, strict=True)
    )
    if kept:
        new = pd.concat([old[old["path"].isin(kept)], new]).sort_values("path")
    new.to_parquet(file)
