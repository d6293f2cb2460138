"""From a folder of WAV files to a table of features.

    python speech_features.py [FOLDER] [--output FOLDER]

Indexes the WAV files below FOLDER into a lotdb database, computes duration, RMS, zero-crossing rate and spectral
centroid in worker processes, writes them inline, exports a Parquet table, and prints the tree and the head of the
table. Files that can't be read are reported; they stop nothing. Run it again: it computes what is new or changed, and
leaves the rest of the tree as it is.

Without FOLDER it makes a corpus of its own: 4 speakers, 3 sessions each, 10 clips each, tones and noise in the
formats that people have, an empty and a truncated file among them.
"""

from __future__ import annotations

import argparse
import warnings
import wave
from pathlib import Path
from typing import Any

import numpy as np
from lotdb import LOTDB, BaseNode
from scipy.io import wavfile

import lotproc as lp

FEATURES = lp.inline("_features")
VERSION = "2"  # another one computes all anew


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="From a folder of WAV files to a table of features.")
    parser.add_argument("folder", nargs="?", type=Path, help="a folder of WAV files; default: a corpus made here")
    parser.add_argument("--output", type=Path, default=Path("speech_features"), help="where database and table go")
    options = parser.parse_args(arguments)
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    folder = options.folder or make_corpus(output / "corpus")

    db = LOTDB(path=str(output), name=f"{folder.resolve().name}.fs")
    try:
        # A branch for each folder, since others may have the same name.
        corpus = db.open_connection().gn(str(folder.resolve()))
        compute(corpus, folder)
        print(lp.show(corpus, limit=2))
        export(corpus, output / f"{folder.resolve().name}.parquet")
    finally:
        db.close()


def compute(root: BaseNode, folder: Path) -> None:
    """Put the files into the tree, and their features below them."""
    ingested = lp.pipe(lp.index_files(folder), lp.ingest_files(root))
    print(ingested)
    # A walk, and no scan of the leaves: a file may have the name of a folder beside it, and then has others below it.
    files = lp.pipe(root, lp.walk(skip="_features"), lp.where("file", None, invert=True), lp.snapshot("file"))
    stale = list(lp.pending(FEATURES, root, files, version=VERSION, inputs=True))
    written = lp.pipe(
        lp.chunked(8, stale),
        lp.parallel_map(lp.outputs(features)),
        lp.progress(total=len(stale), desc="features"),
        lp.write(FEATURES, root, version=VERSION, if_exists="replace", commit_every=1000),
    )
    print(written)


def features(record: lp.NodeRecord) -> dict[str, Any]:
    """The features of one clip; of a file that can't be read, the reason."""
    try:
        samplerate, signal = read_wav(record.attributes["file"])
    except Exception as error:  # a damaged file makes the reader stumble in many ways
        return {"error": str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"}
    spectrum = np.abs(np.fft.rfft(signal))
    frequencies = np.fft.rfftfreq(len(signal), d=1 / samplerate)
    return {
        "duration_s": len(signal) / samplerate,
        "rms": float(np.sqrt(np.mean(signal**2))),  # 1 is full scale
        "zero_crossing_rate": float(np.mean(np.diff(np.signbit(signal)))) if len(signal) > 1 else 0.0,  # a sample
        "spectral_centroid_hz": float(frequencies @ spectrum / spectrum.sum()) if spectrum.any() else 0.0,
    }


def read_wav(file: Path) -> tuple[int, np.ndarray[Any, Any]]:
    """The sample rate in Hz, and the samples as floats between -1 and 1, channels averaged."""
    if file.stat().st_size == 0:
        raise ValueError("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks it does not know
        warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
        try:
            samplerate, samples = wavfile.read(file)
        except wavfile.WavFileWarning as warning:
            raise ValueError(f"the file is truncated: {warning}") from None
    if len(samples) == 0:
        raise ValueError("the file has no samples")
    if samplerate < 1:
        raise ValueError(f"the file has a sample rate of {samplerate} Hz")
    signal = samples.astype(np.float64)
    if not np.isfinite(signal).all():
        raise ValueError("the file holds samples that are no numbers")
    if samples.dtype == np.uint8:
        signal = signal / 128 - 1
    elif samples.dtype.kind == "i":  # 24 bits come in the upper bytes of 32
        signal = signal / -float(np.iinfo(samples.dtype).min)
    return samplerate, signal if signal.ndim == 1 else signal.mean(axis=1)


def export(root: BaseNode, file: Path) -> None:
    """Write the table, print its head, and say which files could not be read."""
    clips = [
        lp.NodeRecord(record.path[1:-1], record.path[-2], record.attributes["result"])  # a row for the clip
        for record in lp.pipe(root, lp.glob("**/_features"), lp.snapshot("result"))
    ]
    readable, unreadable = [], []
    for clip in clips:
        (unreadable if "error" in clip.attributes else readable).append(clip)
    rows = lp.to_parquet(file, readable)
    print(lp.to_dataframe(readable).head().to_string())
    print(f"{rows} rows in {file}")
    for clip in unreadable:
        print(f"not read: {'/'.join(clip.path)}: {clip.attributes['error']}")


def make_corpus(folder: Path) -> Path:
    """Make the corpus, if it is not there yet."""
    rng = np.random.default_rng(seed=7)
    formats = [(np.uint8, 1), (np.int16, 1), (np.int16, 2), ("24 bit", 1), (np.int32, 2), (np.float32, 1)]
    rates = [8_000, 11_025, 16_000, 22_050, 44_100, 12_345]
    for number in range(4 * 3 * 10):
        speaker, session, clip = number // 30 + 1, "abc"[number // 10 % 3], number % 10 + 1
        file = folder / f"speaker_{speaker:02}" / f"session_{session}" / f"clip_{clip:03}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        kind, channels = formats[number % len(formats)]
        rate = rates[number // len(formats) % len(rates)]
        time = np.arange(int(rate * rng.uniform(0.3, 0.8))) / rate
        tone = 0.5 * np.sin(2 * np.pi * rng.uniform(100, 1000) * time) if number % 3 else np.zeros(len(time))
        signal = np.column_stack([tone + rng.uniform(-0.2, 0.2, len(time)) for _ in range(channels)])
        if not file.exists():
            write_wav(file, rate, signal, kind)
    for damaged, length in (("speaker_02/session_b/clip_004.wav", 0), ("speaker_03/session_c/clip_007.wav", 1_000)):
        file = folder / damaged
        if file.stat().st_size > length:
            file.write_bytes(file.read_bytes()[:length])
    return folder


def write_wav(file: Path, rate: int, signal: np.ndarray[Any, Any], kind: Any) -> None:
    """Write floats between -1 and 1 as a WAV file of some sample format."""
    if kind == "24 bit":
        upper = (signal * (2**31 - 1)).astype("<i4").tobytes()
        with wave.open(str(file), "wb") as wav:
            wav.setparams((signal.shape[1], 3, rate, 0, "NONE", None))
            wav.writeframes(np.frombuffer(upper, np.uint8).reshape(-1, 4)[:, 1:].tobytes())
        return
    dtype = np.dtype(kind)
    if dtype == np.uint8:
        signal = signal * 127 + 128
    elif dtype.kind == "i":
        signal = signal * np.iinfo(dtype).max
    wavfile.write(file, rate, signal.astype(dtype))


if __name__ == "__main__":
    main()
