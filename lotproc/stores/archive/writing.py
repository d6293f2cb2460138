"""Writing an archive: new files beside the old ones, which take their place when all is written."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from ...errors import add_note
from .keys import keys_path
from .names import shard_path
from .publishing import complete, publish
from .shard_writer import ShardWriter, fitting, read_back
from .shards import Shard
from .target import Target

__all__ = ["Session"]

#: Bytes of records that are written in one go.
CHUNK = 1 << 19


class Session:
    """All that a writer adds until it is finished; the lock of the archive is held.

    Args:
        target: Where it goes.
        old: The last of the shards that stay, where there are any.
    """

    def __init__(self, target: Target, old: Shard | None) -> None:
        self.target, self.old = target, old
        self.pid = os.getpid()
        #: Whether what was taken counts, and can't be dropped any more.
        self.is_decided = False
        self.writers: list[ShardWriter] = []
        self._data: list[bytes | memoryview] = []
        self._sizes = array("q")
        self._keys: list[bytes | None] = []
        self._size = 0
        self._has_keys = False

    @property
    def taken(self) -> int:
        """Records that were taken and are not finished."""
        old = 0 if self.old is None or not self.writers or self.writers[0].old is None else len(self.old)
        return sum(writer.records for writer in self.writers) - old + len(self._data)

    def take(self, items: Iterable[tuple[bytes | memoryview, bytes | None]]) -> int:
        """Take records that are encoded, with their lines in the file of keys; all of them or, on an error, none."""
        before = self.taken
        with self._all_or_none():
            self._align_keys()
            for data, key in items:
                self._hold(data, key)
                if self._size >= CHUNK:
                    self._drain()
        return self.taken - before

    def take_few(self, items: Sequence[tuple[bytes | memoryview, bytes | None]]) -> None:
        """Take records as `take` does, in less time where they are only held for now."""
        if self._size + sum(len(data) for data, _ in items) >= CHUNK:
            self.take(items)
            return
        self._align_keys()
        for data, key in items:
            self._hold(data, key)

    def _align_keys(self) -> None:
        """Let there be a place in the list of keys for each record that is held."""
        self._keys.extend([None] * (len(self._data) - len(self._keys)))

    def _hold(self, data: bytes | memoryview, key: bytes | None) -> None:
        size = len(data)  # a large one is written from where it is, before it can change
        self._data.append(data if type(data) is bytes or size >= CHUNK else bytes(data))
        self._sizes.append(size)
        self._keys.append(key)
        self._size += size
        self._has_keys |= key is not None

    def take_plain(self, values: Iterable[Any], encode: Callable[[Any], Any]) -> int:
        """Take values without keys, as `take` does, in less time."""
        before = self.taken
        with self._all_or_none():
            data, sizes, size = self._data, self._sizes, self._size
            for value in values:
                if type(value) is not bytes:
                    value = encode(value)
                    if len(value) < CHUNK and type(value) is not bytes:
                        value = bytes(value)
                length = len(value)
                data.append(value)
                sizes.append(length)
                size += length
                if size >= CHUNK:
                    self._drain()
                    data, sizes, size = self._data, self._sizes, 0
            self._size = size
        return self.taken - before

    def commit(self) -> None:
        """Let all that was taken take its place in the archive; the session is over then.

        Raises:
            OSError: The disk is full, or it fails. Mostly the archive is as it was, and what was taken is still taken.
                Where only the renaming of several files is left to do, it counts, and the next writer does it.
        """
        target = self.target
        if not self.taken and self.old is not None and not self.writers:
            return
        with self._told(), self._all_or_none():
            self._write_held()
            if not self.writers:
                self._new_shard()
            self.writers[-1].finish(follows=False)
            moves, spools = [], []
            for writer in self.writers:
                if writer.keys is not None and writer.keys.old is not None:
                    writer.keys.add_to(keys_path(writer.path), durable=target.durable)
                    spools.append(writer.keys.path)
                elif writer.keys is not None:
                    moves.append((writer.keys.path, keys_path(writer.path)))
                moves.append((writer.temporary, writer.path))
            new = {path for _, path in moves}
            gone = [path for path in target.replaced if path not in new]
            publish(target.base, moves, gone, durable=target.durable)
        self.is_decided = True
        self.writers = []
        for path in spools:
            os.unlink(path)
        complete(target.base, durable=target.durable)

    def close(self) -> None:
        """Drop what is not finished."""
        for writer in self.writers:
            if os.getpid() == self.pid:
                writer.discard()
            else:  # a fork's copy; the files are somebody else's
                writer.file.close()
        self.writers = []
        if self.old is not None:
            self.old.close()
            self.old = None

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines of what was taken, each with the number of its record among all that was."""
        before = 0
        for writer in self.writers:
            skipped = 0 if writer.old is None else len(writer.old)
            if writer.keys is not None:
                for record, line in writer.keys.lines():
                    yield before + record - skipped, line
            before += writer.records - skipped
        for number, held in enumerate(self._keys, before):
            if held is not None:
                yield number, held

    def find(self, record: int) -> bytes:
        """The bytes of a record that was taken, by its number among those."""
        for writer in self.writers:
            skipped = 0 if writer.old is None else len(writer.old)
            if record < writer.records - skipped:
                return read_back(writer, record)
            record -= writer.records - skipped
        return bytes(self._data[record])

    def undoing(self) -> Callable[[], None]:
        """A function that drops what is taken from now on; not after `commit`."""
        writers = list(self.writers)
        state = writers[-1].state() if writers else None
        data, sizes, keys = list(self._data), self._sizes[:], list(self._keys)
        has_keys, size = self._has_keys, self._size

        def undo() -> None:
            for writer in self.writers[len(writers) :]:
                writer.discard()
            self.writers = writers
            if state is not None:
                with suppress(OSError):
                    writers[-1].restore(state)
            self._data, self._sizes, self._keys, self._has_keys, self._size = data, sizes, keys, has_keys, size

        return undo

    @contextmanager
    def _all_or_none(self) -> Iterator[None]:
        undo = self.undoing()
        try:
            yield
        except BaseException:
            undo()
            raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Let errors of the disk say what they mean for the archive."""
        try:
            yield
        except OSError as error:
            place = self.target.path or self.target.base
            if error.filename is None and error.errno is not None:
                error.filename = place
            add_note(error, f"while writing to the archive {place}, which is as it was before")
            raise

    def _drain(self) -> None:
        """Write what is held."""
        with self._told():
            self._write_held()

    def _write_held(self) -> None:
        data, sizes = self._data, np.array(self._sizes, np.int64)
        keys = self._keys + [None] * (len(data) - len(self._keys)) if self._has_keys else []
        first = 0
        while first < len(data):
            writer, count = self._room(sizes[first:])
            stop = first + count
            part = data[first:stop]
            lines = keys[first:stop]
            has_lines = any(line is not None for line in lines)
            writer.put(
                part[0] if len(part) == 1 else b"".join(part),
                sizes[first:stop],
                b"".join(b"null\n" if line is None else line for line in lines) if has_lines else b"",
            )
            first = stop
        self._data, self._sizes, self._keys, self._size, self._has_keys = [], array("q"), [], 0, False

    def _room(self, sizes: np.ndarray[Any, Any]) -> tuple[ShardWriter, int]:
        """The shard that the next records go to, and how many of them."""
        writer = self.writers[-1] if self.writers else self._first_shard(sizes)
        count = writer.how_many_fit(sizes)
        if count == 0:
            writer.finish(follows=True)
            writer = self._new_shard()
            count = writer.how_many_fit(sizes)
        return writer, count

    def _first_shard(self, sizes: np.ndarray[Any, Any]) -> ShardWriter:
        old = self.old
        if old is None or (len(sizes) and not fitting(self.target, len(old), len(old.view), sizes)):
            return self._new_shard()
        self.writers.append(ShardWriter(self.target, old.path, old))
        return self.writers[-1]

    def _new_shard(self) -> ShardWriter:
        path = self.target.path
        if path is None:
            number = self.target.number + sum(writer.old is None for writer in self.writers)
            path = shard_path(self.target.base, number)
        self.writers.append(ShardWriter(self.target, path, None))
        return self.writers[-1]
