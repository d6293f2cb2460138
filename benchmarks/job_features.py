"""What the whole job computes of a file, the same on both sides."""

from __future__ import annotations

import os
import wave

import numpy as np

WORKERS = 2
BATCH = 128  # files that go to a process together
NAMES = ("seconds", "rms", "peak", "mean", "zero_crossings")


def features_of(path: str | os.PathLike[str]) -> dict[str, float]:
    """The features of one WAV file."""
    with wave.open(os.fspath(path), "rb") as wav:
        rate = wav.getframerate()
        samples = np.frombuffer(wav.readframes(wav.getnframes()), "<i2")
    signal = samples / 32768
    return {
        "seconds": len(signal) / rate,
        "rms": float(np.sqrt(np.mean(signal**2))),
        "peak": float(np.abs(signal).max()),
        "mean": float(signal.mean()),
        "zero_crossings": float(np.mean(np.diff(np.signbit(signal)))),
    }
