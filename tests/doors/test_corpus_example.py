"""The example of the whole job: run, and run again after files have changed, come and gone."""

from __future__ import annotations

import runpy
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lotdb import LOTDB

import lotproc as lp

wavfile = pytest.importorskip("scipy.io.wavfile")
pytest.importorskip("pyarrow")
import pandas as pd  # noqa: E402, which comes with pyarrow's extra here

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "corpus.py"
RATE = 16_000


def record(file: Path, seconds: float, pitch: float) -> None:
    """A sound with harmonics and some noise, as speech has them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * RATE)) / RATE
    voice = sum(np.sin(2 * np.pi * pitch * number * time) / number for number in range(1, 6))
    noise = np.random.default_rng(int(pitch)).normal(size=len(time))
    wavfile.write(file, RATE, ((0.2 * voice + 0.01 * noise) * 32767).astype(np.int16))


def test_a_clip_counts_whatever_its_file_holds(tmp_path: Path) -> None:
    log_mel = runpy.run_path(str(EXAMPLE))["log_mel"]
    sound = 0.4 * np.sin(np.arange(4_000) / 7)
    kinds = {
        "i2": sound * 2**15,
        "i4": sound * 2**31,
        "u1": sound * 2**7 + 2**7,
        "f4": sound,
    }
    made = {}
    for kind, samples in kinds.items():
        for channels in (1, 2):
            stored = np.column_stack([samples] * channels).astype(kind)
            wavfile.write(tmp_path / "clip.wav", RATE, stored if channels > 1 else stored[:, 0])
            made[kind, channels] = log_mel(lp.NodeRecord(("clip",), "clip", {"file": tmp_path / "clip.wav"}))
    for (kind, _), result in made.items():
        assert result.attributes["seconds"] == 0.25
        # What is loud is the same; what is left of the others is the noise of 8 bits.
        loud = made["f4", 1].output > 0
        assert np.allclose(result.output[loud], made["f4", 1].output[loud], atol=0.2 if kind == "u1" else 0.01)


def spectrograms(records: list[lp.NodeRecord]) -> dict[tuple[str, ...], Any]:
    return {record.path: record.attributes["mel"].read() for record in records}


def totals(output: Path) -> dict[tuple[str, ...], Any]:
    with closing(LOTDB(path=str(output), name="corpus")) as database:
        branches = lp.snapshot("totals", lp.walk(database.open_connection(), skip="_mel"))
        return {each.path: each.attributes["totals"] for each in branches if each.attributes["totals"] is not None}


def test_the_whole_job_and_the_same_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recordings, output, speakers = tmp_path / "recordings", tmp_path / "out", tmp_path / "speakers.csv"
    names = ["ann", "bob", "cat", "dan", "eve", "fay"]
    for age, name in enumerate(names, 30):
        for session in ("monday", "tuesday"):
            record(recordings / name / session / "clip_1.wav", 0.5, 90 + age)
            record(recordings / name / session / "clip_2.wav", 0.25, 150 + age)
    (recordings / "ann" / "monday" / "clip_3.wav").write_bytes(b"")
    whole = (recordings / "bob" / "monday" / "clip_1.wav").read_bytes()
    (recordings / "bob" / "monday" / "clip_3.wav").write_bytes(whole[:30])
    rows = [
        "max,50,m",
        *[f"{name},{age},{'fm'[age % 2]}" for age, name in enumerate(names, 30)],
    ]  # max has no recordings
    speakers.write_text("\n".join(["speaker,age,sex", *rows]) + "\n")
    main = runpy.run_path(str(EXAMPLE))["main"]

    train, test = main(str(recordings), str(speakers), str(output))
    printed = capfd.readouterr().out
    assert "26 files ingested, 1 commit" in printed
    assert "24 results written, 2 failed" in printed
    assert "ann/monday/clip_3: ValueError" in printed
    first = spectrograms([*train, *test])
    assert len(first) == 24
    assert {each.path[0] for each in train}.isdisjoint(each.path[0] for each in test)
    assert {array.shape[1] for array in first.values()} == {40}
    assert totals(output)[()] == {"clips": 24, "seconds": 9.0}
    assert totals(output)[("cat",)] == {"clips": 4, "seconds": 1.5}

    table = pd.read_parquet(output / "clips.parquet")
    assert len(table) == 24
    assert set(zip(table["TreeLevel_1"], table["age"], strict=True)) == set(zip(names, range(30, 36), strict=True))

    record(recordings / "cat" / "monday" / "clip_1.wav", 0.75, 300)
    (recordings / "dan" / "tuesday" / "clip_2.wav").unlink()
    shutil.rmtree(recordings / "eve" / "monday")
    (recordings / "fay" / "tuesday" / "clip_1.wav").write_bytes(b"junk")
    again_train, again_test = main(str(recordings), str(speakers), str(output))
    printed = capfd.readouterr().out
    assert "0 files ingested, 23 skipped, 3 gone, 6 nodes deleted, 1 commit" in printed  # with their results
    assert "1 result written, 3 failed" in printed
    second = spectrograms([*again_train, *again_test])
    changed = ("cat", "monday", "clip_1")
    gone = [("dan", "tuesday", "clip_2"), ("eve", "monday", "clip_1"), ("eve", "monday", "clip_2")]
    assert first.keys() - second.keys() == {*gone, ("fay", "tuesday", "clip_1")}, (
        "what can't be read is not kept either"
    )
    assert [path for path, array in second.items() if not np.array_equal(array, first[path])] == [changed]
    assert totals(output)[()] == {"clips": 20, "seconds": 7.75}
    assert len(pd.read_parquet(output / "clips.parquet")) == 20
    assert totals(output)[("cat",)] == {"clips": 4, "seconds": 1.75}
    assert {each.path for each in again_test} <= {each.path for each in test}, "no clip has changed its set"
