"""Stretches of an array along its first axis: an index, a slice, blocks; of a zarr array chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .errors import ArgumentError, ArgumentTypeError, got

__all__ = ["blocks_by_chunks", "filled_up", "rows_of", "rows_of_zarr", "starts_of"]


def rows_of(part: Any, length: int) -> range | int:
    """The samples that an index or a slice of so many means, counted from the beginning."""
    try:
        if not isinstance(part, bool):
            rows: range | int = range(length)[part]
            return rows
    except IndexError:
        raise ArgumentError("handle[...]:", expected=f"an index of its {length} samples", got=got(part)) from None
    except ValueError:
        raise ArgumentError("handle[...]: the step", expected="other than 0", got=got(part)) from None
    except TypeError:
        pass
    raise ArgumentTypeError(
        "handle[...]:",
        expected="a whole number or a slice of whole numbers",
        got=got(part),
        hint="numpy.asarray(handle)[...] takes whatever numpy takes",
    )


def rows_of_zarr(array: Any, rows: range | int) -> np.ndarray[Any, Any]:
    """Samples of a zarr array, which knows no steps back; only the chunks that they lie in are read."""
    if isinstance(rows, int):
        return np.asarray(array[rows])
    if rows.step < 0:
        return rows_of_zarr(array, rows[::-1])[::-1]
    return np.asarray(array[rows.start : rows.stop : rows.step] if rows else array[:0])


def starts_of(length: int, size: int, hop: int, last: str) -> range:
    """Where the blocks of an array begin."""
    whole = max(0, (length - size) // hop + 1)
    behind = whole == 0 or (whole - 1) * hop + size < length  # whether there are samples behind the last whole one
    more = last != "drop" and behind and whole * hop < length
    return range(0, (whole + more) * hop, hop)


def filled_up(block: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """A block with zeros behind its end, if it is shorter than the others."""
    if len(block) == size:
        return block
    filled = np.zeros((size, *block.shape[1:]), block.dtype)
    filled[: len(block)] = block
    filled.flags.writeable = False
    return filled


def blocks_by_chunks(array: Any, starts: range, size: int) -> Iterator[np.ndarray[Any, Any]]:
    """The blocks of a zarr array, each of its chunks read once: what a block leaves of them is held for the next."""
    length = array.shape[0]
    held, held_from, held_to = np.empty(0), 0, 0
    for start in starts:
        stop = min(start + size, length)
        if held_to < stop:
            chunk = array.chunks[0]
            read_to = min(math.ceil(stop / chunk) * chunk, length)
            fresh = np.asarray(array[max(start, held_to) : read_to])
            left = held[start - held_from :]
            held = np.concatenate([left, fresh], dtype=fresh.dtype) if len(left) else fresh
            held.flags.writeable = False
            held_from, held_to = start, read_to
        yield held[start - held_from : stop - held_from]
