"""The other side: what one writes by hand with lotdb 1.1.3 and ZODB, as well as one can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from lotdb import LOTDB, BaseNode, DataNode, node_process_cruncher

COMMIT_EVERY = 1_000


def read(root: BaseNode) -> Iterator[tuple[list[str], Any]]:
    """The path and the duration of every leaf."""
    for leaf in root.iterate_tree_leaves():
        yield leaf.gps(), leaf.get_attribute("duration")


def read_ahead(root: BaseNode) -> Iterator[tuple[list[str], Any]]:
    """The same, with all that is below a node asked for at once."""
    children = list(root.node_storage.values())
    if not children:
        yield root.gps(), root.get_attribute("duration")
    ask = root._p_jar.prefetch
    ask(children)
    ask(child.node_storage for child in children)
    ask(child.attribute_storage for child in children)
    for child in children:
        yield from read_ahead(child)


def unfinished(root: BaseNode, version: str) -> Iterator[list[str]]:
    """The paths of clips whose result is not there, or of another version."""
    for speaker in root.node_storage.values():
        for session in speaker.node_storage.values():
            for clip in session.node_storage.values():
                result = clip.node_storage.get("_proc")
                if result is None or result.get_attribute("_version") != version:
                    yield clip.gps()


def write(database: LOTDB, root: BaseNode, planned: Iterable[tuple[Sequence[str], dict[str, Any]]]) -> int:
    """Set attributes at paths, whose nodes are made where they are missing."""
    count = 0
    for path, attributes in planned:
        node = root.gns(path)
        for name, value in attributes.items():
            node.set_attribute(name, value)
        count += 1
        if count % COMMIT_EVERY == 0:
            database.commit()
    database.commit()
    return count


def read_and_write(database: LOTDB, root: BaseNode) -> int:
    """Double every leaf's duration, below the leaf.

    A leaf is loaded when its result is written, so no path has to be looked up; each commit lets the connection drop
    what it has loaded. `iterate_tree_leaves` lists the keys of a node before it follows them, so writing is safe.
    """
    count = 0
    for leaf in root.iterate_tree_leaves():
        result = leaf.get_attribute("duration") * 2
        leaf.gns(["_proc", "summary"]).set_attribute("result", result)
        count += 1
        if count % COMMIT_EVERY == 0:
            database.commit()
    database.commit()
    return count


def crunch(database: LOTDB, root: BaseNode, function: Any, processes: int) -> int:
    """lotdb's own way to use several processes: a copy of each node goes there, and comes back to be merged."""
    leaves = list(root.iterate_tree_leaves())
    results = node_process_cruncher(function, leaves, processes=processes)
    database.commit()
    return len(results)


def sum_blocks(sound: DataNode) -> float:
    """The sum of a sound, read in blocks of a second."""
    return sum(float(block.sum(dtype=np.float64)) for block in sound.iter_data_blocks(1, block_unit="seconds"))


def windows(sound: DataNode) -> np.ndarray[Any, Any]:
    """The windows of 25 ms of a sound, 10 ms from one to the next, over a map of its blob's file."""
    data = sound.get_attribute("data")
    mapped = np.load(data.blob_object.blob.committed(), mmap_mode="r")
    size, hop = (int(seconds * data.samplerate_hz) for seconds in (0.025, 0.01))
    return np.lib.stride_tricks.sliding_window_view(mapped, size)[::hop]


def counted_and_summed(windows: Iterable[np.ndarray[Any, Any]]) -> tuple[int, float]:
    """How many windows there are, and the sum of their sums."""
    count, total = 0, 0.0
    for window in windows:
        count, total = count + 1, total + float(window.sum())
    return count, total
