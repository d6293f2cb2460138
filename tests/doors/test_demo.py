"""The example program of the README, on its own corpus and on real recordings."""

from __future__ import annotations

import importlib.util
import wave
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from lotdb import LOTDB
from recording import examples

import lotproc as lp

pytest.importorskip("scipy")
pytest.importorskip("pyarrow")
pandas = pytest.importorskip("pandas")

PROGRAM = Path(__file__).parents[2] / "docs" / "examples" / "speech_features.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speech_features", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Worker processes can't import a program by name: let its functions travel by value, as those of a script do.
    for value in vars(module).values():
        if getattr(value, "__module__", None) == "speech_features":
            value.__module__ = "__main__"
    return module


def tree(folder: Path, name: str) -> list[tuple[tuple[str, ...], dict[str, object]]]:
    db = LOTDB(path=str(folder), name=name, read_only=True)
    try:
        return [(r.path, dict(r.attributes)) for r in lp.snapshot(..., lp.walk(db.open_connection()))]
    finally:
        db.close()


def test_the_corpus_becomes_a_table_and_a_second_run_leaves_the_same_tree(
    demo: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    demo.main(["--output", str(tmp_path)])
    first, printed = tree(tmp_path, "corpus.fs"), capfd.readouterr()
    table = pandas.read_parquet(tmp_path / "corpus.parquet")
    assert len(table) == 118
    assert list(table.columns[:3]) == ["TreeLevel_1", "TreeLevel_2", "TreeLevel_3"]
    assert table.TreeLevel_1.nunique() == 4
    assert table.notna().all(axis=None)
    assert "118 rows in" in printed.out
    assert "not read: speaker_02/session_b/clip_004: the file is empty" in printed.out
    assert "not read: speaker_03/session_c/clip_007: the file is truncated" in printed.out
    assert "speaker_01" in printed.out
    assert "120 of 120" in printed.err  # it counts clips, not batches

    demo.main(["--output", str(tmp_path)])
    assert tree(tmp_path, "corpus.fs") == first
    assert pandas.read_parquet(tmp_path / "corpus.parquet").equals(table)


def test_folders_of_one_name_keep_their_features_apart(demo: ModuleType, tmp_path: Path) -> None:
    found = {}
    for site, hertz, clips in (("a", 300, ["clip", "only_a"]), ("b", 900, ["clip"]), ("a", 300, ["clip", "only_a"])):
        for clip in clips:
            file = tmp_path / site / "wavs" / f"{clip}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            tone = 0.3 * np.sin(2 * np.pi * hertz * np.arange(8000) / 8000)
            demo.write_wav(file, 8_000, tone[:, None], np.int16)
        demo.main([str(tmp_path / site / "wavs"), "--output", str(tmp_path / "out")])
        table = pandas.read_parquet(tmp_path / "out" / "wavs.parquet")
        assert table.TreeLevel_1.tolist() == clips
        found[site] = {round(value) for value in table.spectral_centroid_hz}
    assert found == {"a": {300}, "b": {900}}


@pytest.mark.parametrize("kind", [np.uint8, np.int16, "24 bit", np.int32, np.float32])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 44_100, 12_345])
def test_a_tone_has_the_features_of_a_tone_in_every_format(
    demo: ModuleType, tmp_path: Path, kind: object, channels: int, rate: int
) -> None:
    time = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time + 0.1)
    file = tmp_path / "tone.wav"
    demo.write_wav(file, rate, np.column_stack([tone] * channels), kind)
    attributes = demo.features(lp.NodeRecord(("tone",), "tone", {"file": file}))
    assert attributes["duration_s"] == 1.0
    assert attributes["rms"] == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert attributes["zero_crossing_rate"] == pytest.approx(880 / rate, rel=0.01)
    if kind is not np.uint8:  # whose rounding is noise over all frequencies
        assert attributes["spectral_centroid_hz"] == pytest.approx(440, rel=0.05)


def test_scipys_own_recordings_give_features_or_a_reason(
    demo: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import scipy.io

    folder = Path(scipy.io.__file__).parent / "tests" / "data"
    files = sorted(folder.glob("*.wav"))
    assert files, "SciPy came without its test data"
    demo.main([str(folder), "--output", str(tmp_path)])
    printed = capfd.readouterr().out
    rows = len(pandas.read_parquet(tmp_path / "data.parquet"))
    assert rows + printed.count("not read: ") == len(files)
    assert "early-eof: the file is truncated" in printed
    assert "1byte-ulaw: Unknown wave file format" in printed


def test_a_silent_clip_and_a_clip_without_samples(demo: ModuleType, tmp_path: Path) -> None:
    for name, samples in (("silent", 100), ("none", 0)):
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as wav:
            wav.setparams((1, 2, 8_000, 0, "NONE", None))
            wav.writeframes(bytes(2 * samples))
    silent, none = (
        demo.features(lp.NodeRecord((name,), name, {"file": tmp_path / f"{name}.wav"})) for name in ("silent", "none")
    )
    assert (silent["rms"], silent["spectral_centroid_hz"]) == (0, 0)
    assert none == {"error": "the file has no samples"}


@settings(max_examples=examples(200))
@given(data=st.data(), length=st.integers(0, 60), position=st.integers(0, 43), byte=st.integers(0, 255))
def test_a_damaged_recording_gives_features_or_a_reason(
    demo: ModuleType, tmp_path_factory: pytest.TempPathFactory, data: Any, length: int, position: int, byte: int
) -> None:
    file = tmp_path_factory.mktemp("damaged") / "clip.wav"
    demo.write_wav(file, 8_000, np.full((8, 1), 0.25), np.int16)
    whole = bytearray(file.read_bytes())
    if data.draw(st.booleans(), label="cut"):
        whole = whole[:length]
    if position < len(whole):
        whole[position] = byte
    file.write_bytes(whole)
    attributes = demo.features(lp.NodeRecord(("clip",), "clip", {"file": file}))
    assert set(attributes) in ({"error"}, {"duration_s", "rms", "zero_crossing_rate", "spectral_centroid_hz"})
