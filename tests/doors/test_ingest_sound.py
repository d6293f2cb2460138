"""Sound that soundfile reads: the samples that it has, whole or reported."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode

import lotproc as lp

SOUND = np.stack([np.arange(-4000, 4000), np.arange(8000) % 777], axis=1).astype("int16")
#: Suffix, format, kind of samples, what they are read as, and what is written for that.
KINDS: list[Any] = [
    ("flac", "FLAC", "PCM_16", "int16", SOUND),
    ("flac", "FLAC", "PCM_24", "int32", SOUND.astype("int32") << 8),
    ("FLAC", "FLAC", "PCM_S8", "int16", SOUND >> 8 << 8),
    ("aiff", "AIFF", "PCM_16", "int16", SOUND),
    ("aif", "AIFF", "FLOAT", "float32", (SOUND / 2**15).astype("float32")),
    ("au", "AU", "DOUBLE", "float64", SOUND / 2**15),
    ("snd", "AU", "PCM_32", "int32", SOUND.astype("int32") << 16),
    ("w64", "W64", "PCM_16", "int16", SOUND),
    ("rf64", "RF64", "PCM_16", "int16", SOUND),
    ("ogg", "OGG", "VORBIS", "float32", None),
    ("oga", "OGG", "VORBIS", "float32", None),
    ("opus", "OGG", "OPUS", "float32", None),
    ("mp3", "MP3", "MPEG_LAYER_III", "float32", None),
]


@pytest.fixture
def soundfile() -> Any:
    return pytest.importorskip("soundfile")


def ingested(*files: Path) -> tuple[lp.IngestReport, BaseNode]:
    root = BaseNode("root")
    return lp.ingest_files(root, [lp.IndexedFile((file.name,), file) for file in files], content=True), root


@pytest.mark.parametrize(("suffix", "form", "kind", "dtype", "samples"), KINDS)
def test_sound_comes_back(
    tmp_path: Path, soundfile: Any, suffix: str, form: str, kind: str, dtype: str, samples: Any
) -> None:
    file = tmp_path / f"a.{suffix}"
    written = (SOUND / 2**15).astype("float32") if samples is None else samples
    soundfile.write(file, written, 48000, format=form, subtype=kind)
    report, root = ingested(file)
    assert report == lp.IngestReport(1)
    node = root.gn(file.name)
    stored = node.get_attribute("data")
    found = node.read_data()
    assert (found.dtype, found.shape, stored.samplerate_hz) == (dtype, SOUND.shape, 48000)
    assert stored.content_type == f"audio/{suffix.lower()}"
    assert node.get_attribute("_source_samplerate_hz") == 48000
    if samples is not None:
        np.testing.assert_array_equal(found, samples)
    else:
        np.testing.assert_array_equal(found, soundfile.read(file, dtype="float32", always_2d=True)[0])


PAGE = Path(__file__).parents[2] / "docs" / "how" / "folder_to_table.md"


@pytest.mark.parametrize(
    ("suffix", "kind", "dtype"),
    [
        ("wav", "PCM_U8", "uint8"),
        ("wav", "PCM_16", "int16"),
        ("wav", "PCM_24", "int32"),
        ("wav", "PCM_32", "int32"),
        ("wav", "FLOAT", "float32"),
        ("wav", "DOUBLE", "float64"),
        ("flac", "PCM_S8", "int16"),
        ("flac", "PCM_24", "int32"),
        ("aiff", "PCM_S8", "int16"),
        ("aiff", "PCM_U8", "int16"),
        ("mp3", "MPEG_LAYER_III", "float32"),
    ],
)
def test_the_page_makes_floats_of_any_sound(tmp_path: Path, soundfile: Any, suffix: str, kind: str, dtype: str) -> None:
    sound = np.sin(np.arange(8000) / 20)[:, None] / 2
    soundfile.write(tmp_path / f"a.{suffix}", sound, 8000, subtype=kind)
    _, root = ingested(tmp_path / f"a.{suffix}")
    block = re.search(r"^```python\n(def floats.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"np": np}
    exec(block[1] if block else "", names)
    found = root.gn(f"a.{suffix}").read_data()
    floats = names["floats"](found)
    assert (found.dtype, floats.dtype) == (dtype, "float32")
    np.testing.assert_allclose(floats, sound, atol=0.1 if suffix == "mp3" else 1 / 120)


@given(kind=st.sampled_from(KINDS), part=st.floats(0, 0.9999))
@settings(deadline=None)
def test_a_file_that_was_cut_off_is_reported(kind: Any, part: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    soundfile = pytest.importorskip("soundfile")
    suffix, form, subtype, _, samples = kind
    file = tmp_path_factory.getbasetemp() / f"cut.{suffix}"
    soundfile.write(file, SOUND if samples is None else samples, 48000, format=form, subtype=subtype)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    report, root = ingested(file)
    assert [failure.file for failure in report.failures] == [file]
    assert not root.node_storage


WAVS = ["PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"]


@pytest.mark.parametrize("subtype", WAVS)
@pytest.mark.parametrize("is_open", [False, True])
def test_compressed_wav_files_come_back(tmp_path: Path, soundfile: Any, subtype: str, is_open: bool) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, SOUND[:, 0], 8000, subtype=subtype)
    dtype = {"ULAW": "int16", "ALAW": "int16", "PCM_16": "int16", "PCM_24": "int32"}.get(subtype, "float32")
    expected, _ = soundfile.read(file, len(SOUND), dtype=dtype, always_2d=True)
    if is_open:  # as a program that writes to a pipe leaves its sizes
        whole = bytearray(file.read_bytes())
        whole[4:8] = b"\xff" * 4
        place = whole.index(b"data") + 4
        whole[place : place + 4] = b"\xff" * 4
        file.write_bytes(whole)
    report, root = ingested(file)
    assert report == lp.IngestReport(1)
    found = root.gn("a.wav").read_data()
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[: len(SOUND)], expected)
    assert root.gn("a.wav").get_attribute("data").samplerate_hz == 8000


@pytest.mark.parametrize("subtype", WAVS)
def test_a_wav_file_that_was_cut_off_says_so(tmp_path: Path, soundfile: Any, subtype: str) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, SOUND[:, 0], 8000, subtype=subtype)
    whole = file.read_bytes()
    for size in (4, 10, 13, 20, 30, 42, 59, 63, 100, len(whole) - 3):
        file.write_bytes(whole[:size])
        report, root = ingested(file)
        reason = f"ValueError: it was cut off: it has {size:,} of "
        assert [failure.reason[: len(reason)] for failure in report.failures] == [reason]
        assert not root.node_storage


def test_no_samples_and_no_sound_are_reported(tmp_path: Path, soundfile: Any) -> None:
    soundfile.write(tmp_path / "a.flac", SOUND[:0], 8000)
    (tmp_path / "b.ogg").write_bytes(b"no sound at all")
    (tmp_path / "c.mp3").touch()
    (tmp_path / "d.wav").touch()
    report, _ = ingested(*(tmp_path / name for name in ("a.flac", "b.ogg", "c.mp3", "d.wav")))
    assert [failure.file.name for failure in report.failures] == ["a.flac", "b.ogg", "c.mp3", "d.wav"]
    assert all("the file is empty" in failure.reason for failure in report.failures[2:])


@pytest.mark.parametrize("tag", [b"", b"ID3\4\0\0\0\0\2\1" + bytes(257)])
def test_an_mp3_that_does_not_tell_its_length_is_read_to_its_end_or_reported(
    tmp_path: Path, soundfile: Any, tag: bytes
) -> None:
    noise = np.random.default_rng(0).normal(size=100_000) * 0.3
    for name, sound in (("quiet first", [np.zeros(100_000), noise]), ("loud first", [noise, np.zeros(100_000)])):
        file = tmp_path / f"{name}.mp3"
        soundfile.write(file, np.concatenate(sound), 44100, bitrate_mode="VARIABLE", compression_level=0.5)
        whole = file.read_bytes()
        file.write_bytes(tag + whole)
        report, root = ingested(file)
        assert (report.ingested, len(root.gn(file.name).read_data())) == (1, 200_000)
        file.write_bytes(tag + whole[whole.index(whole[:2], 4) :])  # without the frame that has the number of all
        report, root = ingested(file)
        if report.ingested:
            assert len(root.gn(file.name).read_data()) >= 200_000
        else:
            assert "length" in report.failures[0].reason
    assert report.failures  # what is loud first is longer than it looks


def test_without_soundfile_the_extra_is_named_and_wav_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    with pytest.raises(lp.MissingExtraError, match=r'pip install "lotproc\[files\]"'):
        ingested(tmp_path / "a.flac")
    wavfile = pytest.importorskip("scipy.io.wavfile")
    wavfile.write(tmp_path / "a.wav", 8000, SOUND)
    report, root = ingested(tmp_path / "a.wav")
    assert report == lp.IngestReport(1)
    np.testing.assert_array_equal(root.gn("a.wav").read_data(), SOUND)


def test_without_soundfile_the_extra_is_named_for_a_compressed_wav_file(
    tmp_path: Path, soundfile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", SOUND, 8000, subtype="ULAW")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    report, _ = ingested(tmp_path / "a.wav")  # which does not end a run that is over other files, too
    assert 'pip install "lotproc[files]"' in report.failures[0].reason
