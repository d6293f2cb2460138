"""What is written into stores, step by step, and what has to be there after each step.

A step follows from the seed and its number alone, so whoever sees what is in a store can tell whether it is right.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from dirdb import dirdb  # type: ignore[import-untyped]
from lmdb_object_store import LmdbObjectStore
from roxxel import Roxxel  # type: ignore[import-untyped]

from benchmarks.soak_records import key_of, note, record, step_of, step_of_note
from lotproc.stores import Archive, DirectoryStore, LmdbStore

#: By key, the steps that wrote what is there.
Contents = dict[str, Any]
#: Calls a function: once, or again when there is room on the disk.
Attempt = Callable[[Callable[[], Any]], Any]


class History(ABC):
    """The steps of one store.

    Args:
        folder: Where the store is.
        seed: What the steps follow from.
        shape: Which steps, or of which store.
        keys: How many keys there are to choose from.
    """

    #: The shapes that are chosen from.
    shapes: ClassVar[tuple[str, ...]]
    #: How many keys, where it does not matter.
    some_keys: ClassVar[int]
    #: The original package.
    original: ClassVar[str]
    #: Who completes for the original what a killed writer has begun.
    completed_by: ClassVar[str] = "lotproc"

    def __init__(self, folder: str | Path, seed: int, shape: str, keys: int | None = None) -> None:
        self.folder, self.seed, self.shape = Path(folder), seed, shape
        self.keys = self.some_keys if keys is None else keys

    def choosing(self, number: int) -> Random:
        return Random(f"{self.seed} {number}")

    def contents(self, steps: int) -> Contents:
        """What is there after so many steps."""
        contents: Contents = {}
        for number in range(steps):
            contents = self.after(contents, number)
        return contents

    def is_atomic(self, number: int) -> bool:
        """Whether all of a step is there or nothing of it; else each record of it is, or is not."""
        return True

    @abstractmethod
    def session(self) -> AbstractContextManager[Any]:
        """The store, opened by lotproc."""

    @abstractmethod
    def apply(self, store: Any, number: int, attempt: Attempt) -> None:
        """Do a step; it is durable when this returns."""

    @abstractmethod
    def after(self, contents: Contents, number: int) -> Contents:
        """What is there after a step that was done where there was something before."""

    @abstractmethod
    def seen_by_lotproc(self) -> Contents:
        """What is there; raises TornError for what is not whole."""

    @abstractmethod
    def seen_by_original(self) -> Contents:
        """What the original package finds there."""

    @abstractmethod
    def may_be_mixed(self) -> bool:
        """Whether the original may see a part of a step after a kill, until `completed_by` has come."""


class DirectoryHistory(History):
    """Each step changes one entry: the value and the metadata, one of them, or the entry goes."""

    shapes = ("mixed", "pairs")
    some_keys = 24
    original = "dirdb"

    def session(self) -> AbstractContextManager[Any]:
        return DirectoryStore(self.folder)

    def _planned(self, number: int) -> tuple[str, str, int]:
        choose = self.choosing(number)
        key = f"key_{choose.randrange(self.keys)}"
        if choose.random() < 0.3:
            key = f"nested/{key}"
        what = choose.choices(["pair", "value", "meta", "delete", "alone"], [12, 3, 2, 2, 1])[0]
        return what if self.shape == "mixed" else "pair", key, choose.choice((20, 400, 20_000))

    def apply(self, store: Any, number: int, attempt: Attempt) -> None:
        what, key, size = self._planned(number)
        path = tuple(key.split("/"))
        if what == "pair":
            attempt(lambda: store.put(path, record(key, number, size), note(key, number)))
        elif what == "alone":
            attempt(lambda: store.put(path, record(key, number, size)))
        elif what == "value":
            attempt(lambda: store.__setitem__(path, record(key, number, size)))
        elif path in store:
            if what == "meta":
                attempt(lambda: setattr(store.entry(path), "meta", note(key, number)))
            else:
                attempt(lambda: store.pop(path, None))

    def after(self, contents: Contents, number: int) -> Contents:
        what, key, _ = self._planned(number)
        value, meta = contents.get(key, (None, None))
        if what in ("meta", "delete") and value is None:
            return contents
        if what == "delete":
            return {other: steps for other, steps in contents.items() if other != key}
        value = value if what == "meta" else number
        meta = meta if what == "value" else None if what == "alone" else number
        return {**contents, key: [value, meta]}

    def seen_by_lotproc(self) -> Contents:
        with DirectoryStore(self.folder) as store:
            return dict(_steps_of_entry("/".join(entry.path), *entry.read()) for entry in store.entries())

    def seen_by_original(self) -> Contents:
        return dict(_entries_of_dirdb(dirdb(self.folder), ""))

    def may_be_mixed(self) -> bool:
        return True


def _steps_of_entry(key: str, value: Any, metadata: Mapping[str, Any] | None) -> tuple[str, list[int | None]]:
    return key, [step_of(key, value), step_of_note(key, metadata)]


def _entries_of_dirdb(database: Any, prefix: str) -> Iterator[tuple[str, list[int | None]]]:
    for entry in database.entries():
        metadata = entry.meta if entry._suffix("json").exists() else None
        yield _steps_of_entry(prefix + entry.name, entry.get_data(), metadata)
    for below in database.subdirs():
        yield from _entries_of_dirdb(below, f"{prefix}{below.directory.name}/")


class LmdbHistory(History):
    """Each step changes many records: by `put` and `flush`, with a buffer that is large or small, or by `put_many`."""

    shapes = ("large buffer", "small buffer")
    some_keys = 300
    original = "lmdb-object-store"

    def session(self) -> AbstractContextManager[Any]:
        return LmdbStore(self.folder, 1000 if self.shape == "large buffer" else 8, map_size=1 << 16)

    def _planned(self, number: int) -> tuple[str, list[tuple[str, int | None]]]:
        """How, and for each key the size of a record, or `None` for one that goes."""
        choose = self.choosing(number)
        how = choose.choice(("put", "put", "put_many", "group"))
        if how == "group":  # ten keys that always change together
            return "put_many", [(key, choose.choice((20, 3_000))) for key in GROUP]
        sizes = (20, 500, 5_000, None) if how == "put" else (20, 500, 20_000)
        found = [(f"key/{choose.randrange(self.keys)}", choose.choice(sizes)) for _ in range(choose.choice((3, 60)))]
        if choose.random() < 0.1:
            found.append((f"key/{choose.randrange(self.keys)}", 2_000_000))
        return how, list(dict(found).items())

    def is_atomic(self, number: int) -> bool:
        return self.shape == "large buffer" or self._planned(number)[0] == "put_many"

    def apply(self, store: Any, number: int, attempt: Attempt) -> None:
        how, plan = self._planned(number)
        if how == "put_many":
            attempt(lambda: store.put_many((key, record(key, number, size or 0)) for key, size in plan))
            return
        for key, size in plan:
            attempt(partial(_change, store, key, number, size))
        attempt(store.flush)

    def after(self, contents: Contents, number: int) -> Contents:
        _, plan = self._planned(number)
        changed = {**contents, **{key: None if size is None else number for key, size in plan}}
        return {key: step for key, step in changed.items() if step is not None}

    def seen_by_lotproc(self) -> Contents:
        with LmdbStore(self.folder) as store:
            return {key: step_of(key, value) for key, value in store.items()}

    def seen_by_original(self) -> Contents:
        with LmdbObjectStore(str(self.folder), key_encoding="utf-8") as store:
            keys = [*GROUP, *(f"key/{number}" for number in range(self.keys))]
            found, _ = store.get_many(keys, decode_keys=True)
            if len(found) != (count := store.env.stat()["entries"]):
                raise AssertionError(f"it finds {len(found)} records, of {count}")
            return {str(key): step_of(str(key), value) for key, value in found.items()}

    def may_be_mixed(self) -> bool:
        return False


#: Keys of which all are from the same step, in every state that there is.
GROUP = [f"group/{number}" for number in range(10)]


def _change(store: Any, key: str, number: int, size: int | None) -> None:
    if size is None:
        store.delete(key)
    else:
        store.put(key, record(key, number, size))


class ArchiveHistory(History):
    """Each step is a session that appends some records, or replaces all."""

    shapes = ("file", "file, keys", "shards", "shards, keys")
    some_keys = 0
    original = "roxxel"
    completed_by = "a writer"
    #: How many of the sessions replace all.
    replacing = 0.1

    @property
    def path(self) -> Path:
        return self.folder / "archive.rox"

    def session(self) -> AbstractContextManager[Any]:
        self.folder.mkdir(exist_ok=True)
        return nullcontext()

    def _planned(self, number: int) -> tuple[str, list[tuple[str, int]]]:
        choose = self.choosing(number)
        mode = "w" if self.keys == 0 and choose.random() < self.replacing else "a"
        count = choose.choice((1, 10, 200))
        return mode, [(f"{number}/{at}", choose.choice((0, 50, 3_000))) for at in range(count)]

    def opened(self, mode: Any) -> Archive:
        return Archive(self.path, mode, max_shard_bytes=60_000 if "shards" in self.shape else None)

    def apply(self, store: Any, number: int, attempt: Attempt) -> None:
        mode, plan = self._planned(number)
        with self.opened(mode) as archive:
            if "keys" in self.shape:
                records = [(tuple(key.split("/")), record(key, number, size), note(key, number)) for key, size in plan]
                attempt(lambda: archive.write_records(records))
            else:
                attempt(lambda: archive.write(record(key, number, size) for key, size in plan))
            attempt(archive.flush)

    def after(self, contents: Contents, number: int) -> Contents:
        mode, plan = self._planned(number)
        first = 0 if mode == "w" else len(contents)
        new = {str(first + at): [key, number] for at, (key, _) in enumerate(plan)}
        return new if mode == "w" else {**contents, **new}

    def seen_by_lotproc(self) -> Contents:
        if not self._is_there():
            return {}
        with Archive(self.path) as archive:
            return self.seen_in(archive)

    def seen_in(self, archive: Archive) -> Contents:
        """What an open archive holds."""
        found: Contents = {}
        for number, data in enumerate(archive):
            key = key_of(data)
            found[str(number)] = [key, step_of(key, data)]
            path, attributes = archive.path(number), archive.attributes(number)
            if "keys" in self.shape:
                steps = step_of_note(key, attributes)
                if path != tuple(key.split("/")) or steps != found[str(number)][1]:
                    raise AssertionError(
                        f"record {number}, which is {found[str(number)]}, has path {path}, step {steps}"
                    )
            elif path is not None or attributes is not None:
                raise AssertionError(f"record {number} has a path or attributes: {path}, {attributes}")
        return found

    def seen_by_original(self) -> Contents:
        if not self._is_there():
            return {}
        with Roxxel(str(self.folder / "archive_*.rox") if "shards" in self.shape else str(self.path)) as archive:
            found = {}
            for number in range(len(archive)):
                data = archive[number]
                key = key_of(data)
                found[str(number)] = [key, step_of(key, data)]
            return found

    def _is_there(self) -> bool:
        return any(self.folder.glob("*.rox"))

    def may_be_mixed(self) -> bool:
        return "shards" in self.shape


HISTORIES: dict[str, type[History]] = {
    "directory": DirectoryHistory,
    "LMDB": LmdbHistory,
    "archive": ArchiveHistory,
}
