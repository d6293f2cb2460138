"""Stores whose files are damaged, and read whole, in a process of their own that may die of it."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import lmdb
import numpy as np
from roxxel import Roxxel  # type: ignore[import-untyped]

from benchmarks.soak_damages import damage_files
from benchmarks.soak_jobs import tell
from lotproc.errors import LotprocError
from lotproc.stores import Archive, DirectoryStore, LmdbStore

#: Bytes of addresses that a reader may take, beyond what it has when it begins: damaged pickles ask for any number.
ROOM = 1 << 30
#: What can come of reading a value: what was written, an error of lotproc's, no memory for it, something else, or an
#: error that is none of lotproc's.
RIGHT, REFUSED, NO_MEMORY, WRONG, FOREIGN = "right", "refused", "no memory", "wrong", "foreign error"
#: From the best to the worst.
OUTCOMES = (RIGHT, REFUSED, NO_MEMORY, WRONG, FOREIGN)
MISSING = object()

#: The same files as an LMDB store's, read by the package lmdb alone: what it does with them is what LMDB does.
PLAIN_LMDB = "plain LMDB"
#: For each store, what is written; "roxxel" has no checksums.
VARIANTS = {
    "directory": ("pickle", "json", "npy"),
    "LMDB": ("pickle", "json", "npy", "many"),
    PLAIN_LMDB: ("pickle", "json", "npy", "many"),
    "archive": ("file", "keys", "shards", "roxxel"),
}


def build(kind: str, folder: str) -> None:
    """Write the stores that are to be damaged."""
    Path(folder).mkdir()
    for variant in VARIANTS[kind]:
        BUILDERS[kind](Path(folder) / variant, variant)


def damage(kind: str, folder: str, seed: int, first: int, stop: int) -> None:
    """Damage copies of stores and read them; tell before each which it is, and then what came of it."""
    base, work = Path(folder), Path(folder) / "work"
    expected = {variant: dict(READERS[kind](base / variant, variant, Random(0))) for variant in VARIANTS[kind]}
    if not all(expected.values()):
        raise AssertionError("a store that is not damaged has nothing to read")
    limit = _addresses() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(first, stop):
        choose = Random(f"{seed} {number}")
        variant = choose.choice(VARIANTS[kind])
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(base / variant, work)
        what = damage_files(work, choose)
        tell(number=number, variant=variant, what=what)
        counts, notes = _outcomes(READERS[kind](work, variant, choose), expected[variant])
        tell(number=number, variant=variant, what=what, counts=counts, notes=notes)


def _addresses() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _outcomes(reading: Iterator[tuple[Any, Any]], expected: dict[Any, Any]) -> tuple[dict[str, int], list[str]]:
    """How often what came, and what is not right."""
    counts: Counter[str] = Counter()
    notes: list[str] = []
    seen = set()
    is_whole = False
    try:
        for key, value in reading:
            seen.add(key)
            wanted = expected.get(key, MISSING)
            outcome = _outcome(value) if isinstance(value, Exception) else RIGHT if same(value, wanted) else WRONG
            counts[outcome] += 1
            if outcome in (WRONG, FOREIGN):
                notes.append(f"{key}: {outcome}: {type(value).__name__} {_shown(value)}")
        is_whole = True
    except Exception as error:
        outcome = _outcome(error)
        counts[outcome] += 1
        if outcome == FOREIGN:
            notes.append(f"{type(error).__name__}: {error}")
    if is_whole and (lost := expected.keys() - seen):
        counts[WRONG] += len(lost)
        notes.append(f"{len(lost)} are missing, without an error: {sorted(map(str, lost))[:3]}")
    return dict(counts), [note[:300] for note in notes[:5]]


def _outcome(error: Exception) -> str:
    return REFUSED if isinstance(error, LotprocError) else NO_MEMORY if isinstance(error, MemoryError) else FOREIGN


def _shown(value: Any) -> str:
    try:
        return str(value)[:150] if isinstance(value, Exception) else repr(value)[:150]
    except Exception as error:
        return f"(its repr fails: {error})"


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, and of the same types, all through.

    >>> same([1, {"a": 2}], [1, {"a": 2}]), same([1], [1.0])
    (True, False)
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# Stores


def _values(variant: str) -> dict[str, Any]:
    choose = Random(variant)
    if variant == "npy":
        return {f"key_{n:02}": np.arange(n * 100, dtype="<f4").reshape(-1, 10) for n in range(14)}
    values: dict[str, Any] = {
        f"key_{n:02}": choose.choice((f"text {n}" * n, n * 1.5, [n] * n, {"a": n, "b": [None, True, "x" * n]}))
        for n in range(10)
    }
    values["long"] = "long " * 4_000
    values["nested"] = {"deep": [[[{"x": list(range(50))}]]], "more": [0.5] * 300}
    if variant != "json":
        values["array"] = np.arange(3_000).reshape(3, 1_000)
        values["bytes"] = bytes(range(256)) * 20
        values["mixed"] = {"array": np.linspace(0, 1, 50), "tuple": (1, "two", 3.0), "set": {1, 2, 3}}
    return values


def _build_directory(folder: Path, variant: str) -> None:
    with DirectoryStore(folder, codec=variant, durable=False) as store:
        for number, (key, value) in enumerate(_values(variant).items()):
            path = ("nested", key) if number % 4 == 0 else (key,)
            store.put(path, value, {"key": key, "numbers": [1, 2.5, None]} if number % 3 else None)


def _read_directory(folder: Path, variant: str, choose: Random) -> Iterator[tuple[Any, Any]]:
    with DirectoryStore(folder, codec=variant, create=False) as store:
        for entry in store.entries():
            try:
                value, metadata = entry.read()
                yield entry.path, [value, None if metadata is None else dict(metadata)]
            except Exception as error:
                yield entry.path, error
            yield (*entry.path, "value"), _got(entry.get_data)


def _got(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return error


def _build_lmdb(folder: Path, variant: str) -> None:
    with LmdbStore(folder, codec="pickle" if variant == "many" else variant) as store:
        if variant == "many":
            store.put_many((f"key/{n:05}", {"n": n, "text": "x" * (n % 300)}) for n in range(3_000))
            for n in range(0, 3_000, 3):  # so that there are free pages
                del store[f"key/{n:05}"]
            store.flush()
        store.update(_values(variant))


def _read_lmdb(folder: Path, variant: str, choose: Random) -> Iterator[tuple[Any, Any]]:
    codec = "pickle" if variant == "many" else variant
    with LmdbStore(folder, codec=codec, readonly=choose.random() < 0.5) as store:
        keys = list(store)
        if len(store) != len(keys):
            yield "the length", len(store)
        for key in keys:
            yield key, _got(partial(store.__getitem__, key))
        for key, value in store.items():
            yield key, value


def _read_plain_lmdb(folder: Path, variant: str, choose: Random) -> Iterator[tuple[Any, Any]]:
    decode = {"json": json.loads, "npy": lambda data: np.load(BytesIO(data))}.get(variant, pickle.loads)
    with lmdb.open(str(folder), readonly=choose.random() < 0.5) as env, env.begin() as transaction:
        keys = list(transaction.cursor().iternext(values=False))
        for key in keys:
            yield key, _got(partial(_decoded, decode, transaction, key))
        for key, data in transaction.cursor():
            yield key, _got(partial(decode, data))


def _decoded(decode: Callable[[bytes], Any], transaction: Any, key: bytes) -> Any:
    return decode(transaction.get(key))


def _build_archive(folder: Path, variant: str) -> None:
    folder.mkdir()
    choose = Random(variant)
    records = [bytes([65 + n % 26]) * choose.choice((0, 1, 10, 300, 5_000)) for n in range(300)]
    path = folder / "archive.rox"
    if variant == "roxxel":
        Roxxel(str(path)).write(record for record in records if record)
        return
    limit = 100_000 if variant == "shards" else None
    for part in (records[:100], records[100:]):
        with Archive(path, "a", max_shard_bytes=limit, durable=False) as archive:
            if variant == "file":
                archive.write(part)
            else:
                archive.write_records(
                    ((f"{n}", "x") if n % 5 else None, record, {"n": n} if n % 3 else None)
                    for n, record in enumerate(part, len(archive))
                )


def _read_archive(folder: Path, variant: str, choose: Random) -> Iterator[tuple[Any, Any]]:
    with Archive(folder / "archive.rox") as archive:
        numbers = list(range(len(archive)))
        try:
            for number, data in enumerate(archive):
                yield number, data.tobytes()
        except LotprocError as error:
            yield "iterating", error
        choose.shuffle(numbers)
        for number in numbers:
            yield number, _got(partial(_bytes, archive, number))
        for number in numbers:
            yield ("known", number), _got(partial(_known, archive, number))
        yield "verify", _got(archive.verify)


def _bytes(archive: Archive, number: int) -> Any:
    return archive[number].tobytes()


def _known(archive: Archive, number: int) -> Any:
    return [archive.path(number), archive.attributes(number)]


BUILDERS: dict[str, Callable[[Path, str], None]] = {
    "directory": _build_directory,
    "LMDB": _build_lmdb,
    PLAIN_LMDB: _build_lmdb,
    "archive": _build_archive,
}
READERS: dict[str, Callable[[Path, str, Random], Iterator[tuple[Any, Any]]]] = {
    "directory": _read_directory,
    "LMDB": _read_lmdb,
    PLAIN_LMDB: _read_plain_lmdb,
    "archive": _read_archive,
}


def has_checksums(kind: str, variant: str) -> bool:
    return kind == "archive" and variant != "roxxel"


def worst(counts: dict[str, int]) -> str:
    """The worst of what came of reading a damaged store."""
    return max(counts, key=OUTCOMES.index)
