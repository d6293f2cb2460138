"""From recordings and a table of speakers to features, totals, a table, and a training and a test set.

    python corpus.py RECORDINGS SPEAKERS.csv OUTPUT

RECORDINGS holds WAV files as speaker/session/clip.wav, of any sample format and number of channels; the CSV has the
columns speaker, age and sex. Run it again: it does what is new or changed, lets go of what is not there any more, and
does nothing else. Recordings that can't be read are reported, and stop nothing.
"""

import sys
from contextlib import closing

import numpy as np
from lotdb import LOTDB
from scipy.io import wavfile

import lotproc as lp


def log_mel(record):
    """The log-mel spectrogram of a clip, in 40 bands and windows of 400 samples, with a hop of 160."""
    rate, samples = wavfile.read(record.attributes["file"])
    full = 1 if samples.dtype.kind == "f" else 2 ** (8 * samples.itemsize - 1)
    mono = (samples / full - (samples.dtype == "u1")).reshape(len(samples), -1).mean(axis=1)  # 8 bits have no sign
    windows = np.lib.stride_tricks.sliding_window_view(mono, 400)[::160] * np.hanning(400)
    edges = 700 * (10 ** np.linspace(0, np.log10(1 + rate / 1400), 42) - 1) * 400 / rate
    filters = [np.interp(np.arange(201), edges[band : band + 3], (0, 1, 0)) for band in range(40)]
    mel = np.log(np.abs(np.fft.rfft(windows)) ** 2 @ np.transpose(filters) + 1e-10).astype("f4")
    return lp.ProcessResult(record.path, mel, {"seconds": len(samples) / rate, "level": float(mel.mean())})


def main(recordings, speakers, output):
    """Bring the corpus up to date; return the records of the two sets, whose features are handles."""
    mel, parts = lp.inline("_mel"), {"train": 0.8, "test": 0.2}
    clips = lp.scan("file", where={"file": bool}, skip="_mel")
    with closing(LOTDB(path=output, name="corpus")) as database:
        root = database.open_connection()
        print(lp.ingest_files(root, lp.index_files(recordings), gone="delete"))
        table = lp.table_by_path(speakers, key=["speaker"])
        lp.write(lp.mirror(), root, table.results(), output_attribute=None, commit_every=1000)

        stale = list(lp.pending(mel, root, clips(root), version="1", inputs=True))
        lp.delete(root, [(*clip.path, "_mel") for clip in stale], commit_every=1000)
        results = lp.parallel_map(lp.each(log_mel), lp.chunked(16, stale), on_error="collect")
        shown = lp.progress(results, total=len(stale))
        report = lp.write(mel, root, shown, arrays="blob", version="1", commit_every=100)
        print(report, *report.failures, sep="\n")

        below = {name: (mel, name) for name in ("seconds", "level")}
        done = lp.scan((), inherit=["age", "sex"], below=below, where={"seconds": bool}, skip="_mel")
        totals = lp.rollup({"clips": lp.folds.count(), "seconds": lp.folds.total("seconds")}, done(root))
        lp.write(lp.mirror(), root, totals, output_attribute="totals", commit_every=1000)
        lp.to_parquet(f"{output}/clips.parquet", done(root))
        features = list(lp.scan((), root, below={"mel": mel}, where={"mel": bool}, skip="_mel"))
    return [list(lp.split(parts, features, part=part)) for part in parts]


if __name__ == "__main__":
    print(*map(len, main(*sys.argv[1:])), "clips for training and test")
