"""The databases that the benchmark works on, built by plain lotdb: speaker / session / clip.

Each clip has three attributes: `duration` (float), `text` (str) and `samples` (int); each session has a `day`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from lotdb import LOTDB, BaseNode
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

NAME = "tree.fs"
SESSIONS = 10  # of a speaker
CLIPS = 100  # of a session
COMMIT_EVERY = 20_000
SAMPLERATE_HZ = 16_000


class Digest(NamedTuple):
    """What must be the same on both sides: how many leaves, the sum of their values, and where those with 0 lie."""

    leaves: int
    total: float
    places: int


@contextmanager
def opened(folder: Path, **options: Any) -> Iterator[LOTDB]:
    """The database in a folder; closed at the end."""
    database = LOTDB(path=str(folder), name=NAME, **options)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def opened_any(folder: Path) -> Iterator[BaseNode]:
    """The root of the database in a folder, on a storage that is not exactly a `FileStorage`."""
    database = DB(AnyStorage(str(folder / NAME), read_only=True))
    connection = database.open()
    try:
        yield connection.root.stt
    finally:
        connection.close()
        database.close()


class AnyStorage(FileStorage):
    """A storage that lotproc does not know, so that it reads through `loadBefore` alone."""


def build(folder: Path, leaves: int, clips: int = CLIPS) -> None:
    """Build a tree with so many leaves, and so many clips in each session."""
    with opened(folder, new=True) as database:
        fill(database.open_connection(), leaves, clips)


def fill(root: BaseNode, leaves: int, clips: int = CLIPS) -> None:
    """Make so many leaves below the root of an empty tree."""
    commit = root._p_jar.transaction_manager.commit
    gc.disable()  # it would look through every new object again and again
    try:
        for index in range(leaves):
            *parents, key = leaf_path(index, clips)
            if index % clips == 0:
                session = root.gns(parents)
                session.attribute_storage["day"] = index // clips % 7
            clip = BaseNode(key, parent=session)
            clip.attribute_storage.update(
                {"duration": duration(index), "text": text(index), "samples": round(16_000 * duration(index))}
            )
            session.node_storage[key] = clip
            if (index + 1) % COMMIT_EVERY == 0:
                commit()
        commit()
    finally:
        gc.enable()


def build_narrow(folder: Path, leaves: int) -> None:
    """Build a tree with 3 clips in each session."""
    build(folder, leaves, clips=3)


def build_empty(folder: Path, leaves: int) -> None:
    """Build a tree of nothing but its root, for the leaves to be written to."""
    build(folder, 0)


def build_sound(folder: Path, seconds: int) -> None:
    """Build a tree with one sound of so many seconds in it, as a blob of float32."""
    samples = np.arange(seconds * SAMPLERATE_HZ, dtype=np.float32) % 1000
    with opened(folder, new=True) as database:
        root = database.open_connection()
        sound = root.get_data_node(["sound"], samplerate_hz=SAMPLERATE_HZ, backend="blob")
        sound.write_data(samples)
        database.commit()


def leaf_path(index: int, clips: int = CLIPS) -> tuple[str, str, str]:
    """Where the leaf with this number lies."""
    session, clip = divmod(index, clips)
    speaker, session = divmod(session, SESSIONS)
    return f"speaker_{speaker:05d}", f"session_{session:02d}", f"clip_{clip:04d}"


def text(index: int) -> str:
    """What is said in the leaf with this number."""
    return f"utterance {index}"


def duration(index: int) -> float:
    """The duration of the leaf with this number: a multiple of 1/64, so that sums are exact in any order."""
    return index % 640 / 64


def digest(found: Iterable[tuple[Sequence[str], float]]) -> Digest:
    """Use the paths and values that one side found: both sides do this, inside the timed part."""
    leaves = places = 0
    total = 0.0
    for path, value in found:
        leaves += 1
        total += value
        if not value:
            places += crc32("/".join(path).encode())
    return Digest(leaves, total, places)


def joined(digests: Iterable[Digest]) -> Digest:
    """The digest of a whole from those of its parts."""
    return Digest(*map(sum, zip(*digests, strict=True)))


def expected(leaves: int) -> Digest:
    """The digest of a tree with so many leaves."""
    return digest((leaf_path(index), duration(index)) for index in range(leaves))
