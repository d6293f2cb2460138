"""More for the benchmark to work on: trees of other shapes, trees with results in them, and folders of WAV files."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from lotdb import PathFileObj

import lotproc as lp
from benchmarks import trees
from benchmarks.sides import Build
from benchmarks.trees import COMMIT_EVERY, duration, leaf_path, opened, text

TABLE = "table.parquet"
RATE_HZ, SAMPLES = 16_000, 3_200  # of a WAV file, 0.2 s
CHANGED = 10  # files, and as many new ones

#: Where the results of a finished job are, and what made them.
JOB, VERSION = lp.inline("_proc"), "1"


def build_with_results(folder: Path, leaves: int) -> None:
    """Build a tree in which each leaf has its result below it, stamped, as `write` leaves it."""
    trees.build(folder, leaves)
    results = (lp.ProcessResult(leaf_path(index), 2 * duration(index)) for index in range(leaves))
    with opened(folder) as database:
        lp.write(JOB, database.open_connection(), results, version=VERSION, commit_every=COMMIT_EVERY)


def build_with_table(folder: Path, leaves: int) -> None:
    """Build a tree, and a Parquet file of the same."""
    trees.build(folder, leaves)
    pyarrow.parquet.write_table(table(leaves), folder / TABLE)


def table(leaves: int) -> pa.Table:
    """The leaves of a tree as a table."""
    levels = zip(*map(leaf_path, range(leaves)), strict=True)
    columns = {f"TreeLevel_{number}": list(keys) for number, keys in enumerate(levels, 1)}
    durations = [duration(index) for index in range(leaves)]
    samples = [round(RATE_HZ * seconds) for seconds in durations]
    return pa.table({**columns, "duration": durations, "text": list(map(text, range(leaves))), "samples": samples})


def build_with_files(folder: Path, leaves: int) -> None:
    """Build a tree in which each leaf has a reference to a file as well, which nobody opens."""
    trees.build(folder, leaves)
    with opened(folder) as database:
        root = database.open_connection()
        for index in range(leaves):
            *parents, key = leaf_path(index)
            file = os.path.join("/corpus", *parents, f"{key}.wav")
            root.gns([*parents, key]).set_attribute("file", PathFileObj(filepath=file))
            if (index + 1) % COMMIT_EVERY == 0:
                database.commit()
        database.commit()


def build_wide(attributes: int) -> Build:
    """How to build a tree of leaves with so many attributes, all floats."""

    def build(folder: Path, leaves: int) -> None:
        with opened(folder, new=True) as database:
            root = database.open_connection()
            for index in range(leaves):
                values = wide_values(index, attributes)
                root.gns(leaf_path(index)).attribute_storage.update(values)
                if (index + 1) % 1_000 == 0:
                    database.commit()
            database.commit()

    build.__name__ = f"build_{attributes}_attributes"
    return build


def wide_values(index: int, attributes: int) -> dict[str, float]:
    """The attributes of the leaf with this number in a tree of wide leaves."""
    return {f"feature_{number:03d}": duration(index) + number for number in range(attributes)}


def build_chain(folder: Path, nodes: int) -> None:
    """Build a tree of one leaf, so many nodes down."""
    with opened(folder, new=True) as database:
        node = database.open_connection()
        for number in range(nodes):
            node = node.gn(f"node_{number}")
        node.set_attribute("duration", 1.0)
        database.commit()


# Folders of WAV files


def build_wavs(folder: Path, files: int) -> None:
    """Make a folder of WAV files."""
    generator = np.random.default_rng(1)
    for index in range(files):
        write_wav(wav_file(folder, index), generator)


def wav_file(folder: Path, index: int) -> Path:
    """The file with this number."""
    *parents, key = leaf_path(index)
    return folder.joinpath("wavs", *parents, f"{key}.wav")


def write_wav(file: Path, generator: np.random.Generator) -> None:
    """Write a file of noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    samples = generator.integers(-20_000, 20_000, SAMPLES).astype("<i2")
    with wave.open(str(file), "wb") as wav:
        wav.setparams((1, 2, RATE_HZ, 0, "NONE", None))
        wav.writeframes(samples.tobytes())


def change_wavs(folder: Path, files: int) -> None:
    """Write some of the files anew, and add as many."""
    generator = np.random.default_rng(2)
    for index in range(0, files, max(1, files // CHANGED)):
        file = wav_file(folder, index)
        write_wav(file, generator)
        write_wav(file.with_name(f"new_{file.name}"), generator)
