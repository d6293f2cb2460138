"""Readers beside a writer, which know from its log what they have to find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.soak_histories import GROUP, Contents
from benchmarks.soak_records import step_of, step_of_note
from lotproc.errors import NoSuchKeyError
from lotproc.stores import Archive, DirectoryStore, LmdbStore

#: What the log of a writer says before a step, and when it is durable.
BEGUN, DURABLE = b"(", b")"


class Log:
    """Which steps a writer has begun, and which it was told are durable: a file that outlives the writer."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    @contextmanager
    def step(self) -> Iterator[None]:
        self._file.write(BEGUN)
        yield
        self._file.write(DURABLE)


def logged(path: Path) -> tuple[int, bool]:
    """How many steps are durable, and whether another one was begun."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return 0, False
    return text.count(DURABLE), text.endswith(BEGUN)


class Reader:
    """Reads what a writer writes beside it.

    Args:
        history: What is written.
        log: The writer's.
    """

    def __init__(self, history: Any, log: Path) -> None:
        self.history, self.log = history, log
        self.choose = Random()
        self.reads = 0
        self.kinds: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.last: dict[str, int] = {}

    def read(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def note(self, key: str, step: int) -> None:
        """A value of a step was read: nothing older may come after it, for the same key."""
        self.reads += 1
        if step < self.last.get(key, 0):
            self.wrong.append(f"{key!r}: step {step} came after step {self.last[key]}")
        self.last[key] = step


class DirectoryReader(Reader):
    """Reads pairs, values, metadata, and all of the directory."""

    def __init__(self, history: Any, log: Path) -> None:
        super().__init__(history, log)
        self.store = DirectoryStore(history.folder)

    def read(self) -> None:
        number = self.choose.randrange(self.history.keys)
        key = self.choose.choice((f"key_{number}", f"nested/key_{number}"))
        how = self.choose.choices(["pair", "value", "all"], [20, 20, 1])[0]
        entries = self.store.entries() if how == "all" else [self.store.entry(tuple(key.split("/")))]
        for entry in entries:
            key = "/".join(entry.path)
            try:
                if how == "value":
                    step = step_of(key, entry.get_data())
                else:
                    value, metadata = entry.read()
                    step = step_of(key, value)
                    if step != step_of_note(key, metadata):
                        self.wrong.append(f"{key!r}: the value is of step {step}, the metadata {str(metadata)[:50]}")
            except NoSuchKeyError:
                if key in self.last:
                    raise
                continue
            self.note(key, step)
        self.kinds[how] += 1


class LmdbReader(Reader):
    """Reads single values, some that belong together, and all."""

    def __init__(self, history: Any, log: Path) -> None:
        super().__init__(history, log)
        self.store = LmdbStore(history.folder, readonly=self.choose.random() < 0.5)

    def close(self) -> None:
        self.store.close()

    def read(self) -> None:
        how = self.choose.choices(["get", "get_many", "items", "reopened"], [40, 20, 1, 1])[0]
        self.kinds[how] += 1
        if how == "get":
            key = f"key/{self.choose.randrange(self.history.keys)}"
            value = self.store.get(key)
            if value is not None:
                self.note(key, step_of(key, value))
        elif how == "get_many":
            found, _ = self.store.get_many(GROUP, decode_keys=True)
            self._check_group({str(key): step_of(str(key), value) for key, value in found.items()})
        elif how == "items":
            found = {key: step_of(key, value) for key, value in self.store.items()}
            for key, step in found.items():
                self.note(key, step)
        else:
            self.store.close()
            self.store = LmdbStore(self.history.folder, readonly=self.choose.random() < 0.5)

    def _check_group(self, steps: dict[str, int]) -> None:
        if steps and (len(set(steps.values())) != 1 or len(steps) != len(GROUP)):
            self.wrong.append(f"what belongs together is of the steps {steps}")
        for key, step in steps.items():
            self.note(key, step)


class ArchiveReader(Reader):
    """Opens the archive now and then, for what is whole at that time; and keeps some that it has opened."""

    def __init__(self, history: Any, log: Path) -> None:
        super().__init__(history, log)
        self.known: tuple[int, Contents] = (0, {})
        self.kept: list[tuple[Archive, Contents]] = []

    def close(self) -> None:
        for archive, _ in self.kept:
            archive.close()

    def read(self) -> None:
        if len(self.kept) > 3 or (self.kept and self.choose.random() < 0.5):
            at = self.choose.randrange(len(self.kept))
            archive, expected = self.kept[at]
            if self.choose.random() < 0.5:
                for number in self.choose.choices(range(len(expected)), k=20):
                    key, step = expected[str(number)]
                    if step_of(key, archive[number]) != step:
                        self.wrong.append(f"record {number} of an open archive has changed")
                    self.reads += 1
                self.kinds["some of an open one"] += 1
            else:
                if self.history.seen_in(archive) != expected:
                    self.wrong.append("an open archive has changed")
                self.reads += len(expected)
                self.kinds["all of an open one"] += 1
                self.kept.pop(at)[0].close()
            return
        least, _ = logged(self.log)
        archive = Archive(self.history.path).open()
        done, begun = logged(self.log)
        found = self.history.seen_in(archive)
        self.reads += len(found)
        self.kinds["opened"] += 1
        self.kept.append((archive, found))
        step = found[str(len(found) - 1)][1]
        if not least - 1 <= step <= done - 1 + begun:
            self.wrong.append(f"an archive of step {step} was opened; step {least - 1} had been durable, of {done}")
        known, expected = self.known
        if step + 1 < known:
            known, expected = 0, {}
        for number in range(known, step + 1):
            expected = self.history.after(expected, number)
        self.known = step + 1, expected
        if found != expected:
            self.wrong.append(f"an archive of step {step} has {len(found)} records, of {len(expected)}")


READERS: dict[str, type[Reader]] = {"directory": DirectoryReader, "LMDB": LmdbReader, "archive": ArchiveReader}
