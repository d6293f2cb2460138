"""A small plot of an array as SVG, for eyes: lines over time, or an image."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["MOST_BYTES", "plotted"]

#: Bytes of an array that is plotted, at most.
MOST_BYTES = 4 * 1024 * 1024
WIDTH, HEIGHT = 300, 60
#: Columns of an array that are lines, if it is long; more of them make an image.
LINES = 4
#: Pixels of an image along each side, at most.
MOST_PIXELS = 150
#: Colours from the least to the most, between which others lie: those of viridis, which is read without colour too.
COLOURS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def plotted(array: Any, samplerate_hz: float | None = None) -> str:
    """The plot of an array and its range; nothing where there is none to draw: of text, or of three dimensions, say."""
    if array.nbytes > MOST_BYTES or array.ndim not in (1, 2) or not array.size or array.dtype.kind not in "biufc":
        return ""
    with np.errstate(all="ignore"):
        values = np.abs(array) if array.dtype.kind == "c" else array
        values = values.astype(np.float64)
        finite = values[np.isfinite(values)]
        if not finite.size:
            return ""
        low, high = float(finite.min()), float(finite.max())
        scaled = np.where(np.isfinite(values), (values - low) / ((high - low) or 1), np.nan)  # to 0 ... 1
        if scaled.ndim == 1:
            drawn = _path(scaled)
        elif scaled.shape[1] <= LINES < scaled.shape[0] / 4:
            drawn = "".join(_path(column, 1 - row / 6) for row, column in enumerate(scaled.T))
        else:
            drawn = _image(scaled)
    length = f", {len(array) / samplerate_hz:g} s" if samplerate_hz else ""
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{drawn}</svg>'
    return f'{svg}<div class="pale">{low:.4g} … {high:.4g}{length}</div>'


def _path(values: np.ndarray[Any, Any], opacity: float = 1) -> str:
    """A line through the values; of many, from the least to the most of each stretch that is one pixel wide."""
    parts, is_down = [], False
    for x, y in _points(values):
        if y != y:  # what is not finite leaves a gap
            is_down = False
            continue
        parts.append(f"{'L' if is_down else 'M'}{x:.1f} {(HEIGHT - 2) * (1 - y) + 1:.1f}")
        is_down = True
    if len(parts) == 1:
        parts.append("h1")
    return f'<path d="{"".join(parts)}" fill="none" stroke="currentColor" opacity="{opacity:.2f}"/>'


def _points(values: np.ndarray[Any, Any]) -> Iterator[tuple[float, float]]:
    if len(values) <= 2 * WIDTH:
        step = WIDTH / max(len(values) - 1, 1)
        yield from ((n * step, float(y)) for n, y in enumerate(values))
        return
    starts = np.linspace(0, len(values), WIDTH, endpoint=False).astype(int)
    least, most = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    for x in range(WIDTH):
        yield x, float(least[x])
        yield x, float(most[x])


def _image(values: np.ndarray[Any, Any]) -> str:
    """An image with time to the right and the columns from below, as a PNG of 256 colours."""
    rows, columns = (np.unique(np.linspace(0, n - 1, min(n, MOST_PIXELS)).astype(int)) for n in values.shape)
    some = values[np.ix_(rows, columns)].T[::-1]
    pixels = np.where(np.isfinite(some), 1 + some * 254, 0).astype(np.uint8)  # 0 is what is not finite, and clear
    at = np.linspace(0, 1, len(COLOURS))
    palette = np.stack([np.interp(np.linspace(0, 1, 255), at, part) for part in zip(*COLOURS, strict=True)], axis=1)
    height, width = pixels.shape
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            (b"PLTE", bytes(3) + palette.astype(np.uint8).tobytes()),
            (b"tRNS", b"\0"),
            (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))),
            (b"IEND", b""),
        )
    )
    place = f'width="{WIDTH}" height="{HEIGHT}" preserveAspectRatio="none" style="image-rendering:pixelated"'
    return f'<image href="data:image/png;base64,{base64.b64encode(png).decode()}" {place}/>'
