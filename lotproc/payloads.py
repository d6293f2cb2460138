"""Handles to array payloads: small references that open where they are used."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lotdb import BlobObject, DataObject
from ZODB.blob import BLOB_SUFFIX, Blob
from ZODB.interfaces import BlobError

from ._extras import needed
from ._nodes import zarr_folder
from ._public import public
from .errors import ArgumentError, ArgumentTypeError, PayloadError, add_note, got

__all__ = ["PayloadHandle"]


@public
@dataclass(frozen=True)
class PayloadHandle:
    """A reference to a payload: what it is, and where it lies.

    It holds no data. For what is not committed yet it is good until the commit, which moves the file. It pickles
    small, and reads the file where and when it is asked to, in any process that can see it, on any thread.

    `numpy.asarray(handle)` is the array. Of a committed blob that is a read-only memory map: nothing is read before it
    is used, and the file stays open as long as the array is kept. `numpy.array(handle)` and `read()` give a copy.

    Args:
        kind: "array", "bytes", "text" or "table".
        file: The blob's file, or the zarr store's folder.
        dataset: The path inside the zarr store; `None` for blobs.
        shape: The array's shape, time first; `None` for what is no array.
        dtype: The array's dtype, as numpy writes it; `None` for what is no array.
        samplerate_hz: Samples per second, where it is known.
        encoding: The text's encoding, for "text" and "table".
    """

    kind: str
    file: Path
    dataset: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    samplerate_hz: float | None = None
    encoding: str = "utf-8"

    @classmethod
    def of(cls, stored: DataObject | BlobObject | Blob) -> PayloadHandle:
        """The handle for a payload object of a live tree."""
        if isinstance(stored, Blob):
            return cls("bytes", _file_of(stored))
        if isinstance(stored, BlobObject):
            kind = "array" if stored.get_metadata("format") == "npy" else "bytes"
            return cls(
                kind, _file_of(stored.blob), shape=stored.get_metadata("shape"), dtype=stored.get_metadata("dtype")
            )
        kind = stored.get_metadata("payload_kind", "array")
        is_array = kind == "array"
        if stored.blob_object is None and stored.store_path is None:
            raise TypeError("it is a data object that nothing was written to")
        if stored.backend == "zarr":
            dataset = stored.dataset_path.as_linux_path().lstrip("/")
            file = _zarr_store_of(stored, dataset)
        else:
            file, dataset = _file_of(stored.blob_object.blob), None
        return cls(
            kind,
            file,
            dataset,
            shape=stored.shape if is_array else None,
            dtype=stored.dtype if is_array else None,
            samplerate_hz=stored.samplerate_hz,
            encoding=stored.get_metadata("text_encoding", "utf-8"),
        )

    def read(self) -> Any:
        """Read the whole payload: an array, bytes, a str, or for a table a pandas DataFrame.

        >>> import numpy as np
        >>> from lotdb import BaseNode
        >>> from lotproc import snapshot
        >>> node = BaseNode("root").get_data_node(["ann", "clip_1"], samplerate_hz=4.0, backend="blob")
        >>> _ = node.write_data(np.arange(10))
        >>> (record,) = snapshot("data", [node])
        >>> record.attributes["data"].read()
        array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])

        Returns:
            The payload in memory; an array is yours to change, time first.

        Raises:
            PayloadError: The file is not what the handle describes: it was cut off or replaced.
            MissingExtraError: The payload needs zarr or pandas, which is not installed.
            FileNotFoundError: The file is gone, or not visible from this machine; zarr 2 makes it a PayloadError.
        """
        if self.dataset is not None:
            return np.asarray(self._zarr()[:])
        if self.kind == "array":
            return self._npy(mapped=False)
        with _told_if_gone():
            if self.kind == "bytes":
                return self.file.read_bytes()
            if self.kind == "text":
                return self.file.read_bytes().decode(self.encoding)
            pandas = needed("pandas", "pandas", f"the table in {self.file}")
            return pandas.read_csv(self.file, encoding=self.encoding)

    def read_seconds(self, start: float | None = None, stop: float | None = None) -> np.ndarray[Any, Any]:
        """Read a stretch of time of an array, and nothing else of its file.

        >>> import numpy as np
        >>> from lotdb import BaseNode
        >>> from lotproc import snapshot
        >>> node = BaseNode("root").get_data_node(["ann", "clip_1"], samplerate_hz=4.0, backend="blob")
        >>> _ = node.write_data(np.arange(10))
        >>> (record,) = snapshot("data", [node])
        >>> record.attributes["data"].read_seconds(0.5, 1.3)
        array([2, 3, 4, 5])

        Args:
            start: Seconds from the beginning, rounded down to a sample; the beginning where it is `None`.
            stop: Seconds from the beginning, rounded up to a sample, which is not included; the end where it is `None`.

        Returns:
            An array of your own, time first. It is shorter where the stretch runs past an end of the array.

        Raises:
            ArgumentError: The sample rate is not known, or `stop` or the end of the array is before `start`.
            ArgumentTypeError: The payload is no array, or a time no number.
            PayloadError, MissingExtraError, FileNotFoundError: As for `read`.
        """
        self._check_array("read_seconds")
        first = None if start is None else math.floor(self._in_samples("read_seconds", "start", start))
        last = None if stop is None else math.ceil(self._in_samples("read_seconds", "stop", stop))
        array = self._npy(mapped=True) if self.dataset is None else self._zarr()
        length = array.shape[0]
        first, last = max(0, first or 0), length if last is None else min(length, last)
        if last < first:
            raise ArgumentError(
                f"read_seconds: nothing lies between {start} and {stop} s: {self.file} has {length} samples at "
                f"{self.samplerate_hz:g} Hz"
            )
        return np.require(array[first:last], requirements=["OWNDATA", "WRITEABLE"])

    def blocks(self, size: float, *, unit: Literal["samples", "seconds"] = "samples") -> Iterator[np.ndarray[Any, Any]]:
        """Go through an array block by block along time, without having it in memory as a whole.

        >>> import numpy as np
        >>> from lotdb import BaseNode
        >>> from lotproc import snapshot
        >>> node = BaseNode("root").get_data_node(["ann", "clip_1"], samplerate_hz=4.0, backend="blob")
        >>> _ = node.write_data(np.arange(10))
        >>> (record,) = snapshot("data", [node])
        >>> [block.tolist() for block in record.attributes["data"].blocks(1, unit="seconds")]
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]

        Args:
            size: The length of a block, more than 0; the last one may be shorter.
            unit: What `size` counts: "samples", or "seconds", rounded up to a sample.

        Returns:
            An iterator of read-only arrays, in the order of time; copy what you want to change. Lazy. Each byte of the
            file is read once. Blocks of a committed blob are views on a memory map of its file, which stays open as
            long as one of them is kept. Of a zarr array it holds one block and the chunks that the block ends in. A
            blob that is not committed yet is read whole, since its file can still change.

        Raises:
            ArgumentError: `size` or `unit` can't be used, or the sample rate is not known. At the call, not later.
            ArgumentTypeError: The payload is no array, or `size` no number. At the call, not later.
            PayloadError, MissingExtraError, FileNotFoundError: As for `read`, when the first block is asked for.
        """
        self._check_array("blocks")
        if unit not in ("samples", "seconds"):
            raise ArgumentError("blocks: unit", expected="'samples' or 'seconds'", got=got(unit))
        samples = self._in_samples("blocks", "size", size) if unit == "seconds" else _number("blocks", "size", size)
        if samples <= 0:
            raise ArgumentError("blocks: size", expected="more than 0", got=got(size))
        if unit == "samples" and samples != int(samples):
            raise ArgumentError(
                "blocks: size", expected="a whole number of samples", got=got(size), hint="or unit='seconds'?"
            )
        return self._blocks(math.ceil(samples))

    def _blocks(self, step: int) -> Iterator[np.ndarray[Any, Any]]:
        if self.dataset is not None:
            yield from _blocks_by_chunks(self._zarr(), step)
            return
        array = self._npy(mapped=self._is_final())
        array.flags.writeable = False
        for start in range(0, array.shape[0], step):
            yield array[start : start + step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        self._check_array("numpy.asarray")
        mapped = not copy and self._is_final()
        array = self._npy(mapped=True) if mapped else self.read()
        converted = np.asarray(array, dtype=dtype)
        if copy is False and not (mapped and converted is array):
            raise ArgumentError(
                f"numpy.asarray: the array in {self.file} can't be had with copy=False", hint="leave it out"
            )
        return converted

    def _is_final(self) -> bool:
        """Whether it is the file of a committed blob, which never changes and so is safe to map."""
        return self.dataset is None and self.file.suffix == BLOB_SUFFIX

    def _npy(self, *, mapped: bool) -> np.ndarray[Any, Any]:
        """The array of an npy file: a read-only memory map of it, or in memory."""
        expected = _dtype(self.dtype)
        if expected is not None and expected.hasobject:
            raise PayloadError(
                f"{self.file} holds pickled Python objects, which are not read as an array: read them with lotdb"
            )
        try:
            with _told_if_gone():
                if mapped and 0 not in (self.shape or ()):  # an empty array may have nothing to map
                    memory_map = np.lib.format.open_memmap(self.file, mode="r")
                    array, end = np.asarray(memory_map), memory_map.offset + memory_map.nbytes
                else:
                    with self.file.open("rb") as file:
                        array, end = np.lib.format.read_array(file, allow_pickle=False), file.tell()
                size = self.file.stat().st_size
        except (OSError, MemoryError):
            raise
        except Exception as error:  # whatever numpy makes of a broken file
            raise self._not_there(f"which can't be read ({error})") from error
        if size != end:
            raise self._not_there(f"its array ends at byte {end} of {size}")
        if expected is not None and array.dtype != expected:
            raise self._not_there(f"got {array.dtype} {array.shape}")
        self._check_shape(array.shape)
        return array

    def _zarr(self) -> Any:
        zarr = needed("zarr", "zarr", f"the payload in {self.file}")
        try:
            with _told_if_gone():
                array = zarr.open_array(store=str(self.file), mode="r", path=self.dataset)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # zarr 2 has one of its own for what is gone
            raise self._not_there(f"which can't be opened ({error})") from error
        self._check_shape(array.shape)
        return array

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if self.shape is not None and tuple(shape) != tuple(self.shape):
            raise self._not_there(f"got shape {tuple(shape)}")

    def _not_there(self, reason: str) -> PayloadError:
        where = self.file if self.dataset is None else f"{self.dataset} in {self.file}"
        return PayloadError(
            f"{where} is not the payload it was:",
            expected=f"{self}, {reason}",
            hint="it was cut off or replaced: take a new record of its node, or restore the file",
        )

    def _check_array(self, what: str) -> None:
        if self.kind != "array":
            raise ArgumentTypeError(
                f"{what}: the payload in {self.file} is {self.kind}, not an array", hint="use read()"
            )
        if self.shape == () and what != "numpy.asarray":
            raise ArgumentError(
                f"{what}: the array in {self.file} is a single number, without a time axis", hint="use read()"
            )

    def _in_samples(self, what: str, argument: str, seconds: float) -> float:
        if self.samplerate_hz is None:
            raise ArgumentError(
                f"{what}: {argument} is in seconds, and the payload in {self.file} was stored without samplerate_hz",
                hint="use samples: blocks(size), or read() and a slice",
            )
        return _number(what, argument, seconds) * self.samplerate_hz

    def __str__(self) -> str:
        if self.kind != "array":
            return self.kind
        rate = f" at {self.samplerate_hz:g} Hz" if self.samplerate_hz else ""
        return f"{self.dtype} {self.shape}{rate}"


def _zarr_store_of(stored: DataObject, dataset: str) -> Path:
    """The zarr store of a payload: the database's own where it lies now, or the one that was written to.

    lotdb knows a store by the path that it had when it was written to. That of the database is beside its file, so it
    is looked for there, under the name that it had or the one that it would have today.
    """
    written, own = Path(stored.store_path.filepath).absolute(), zarr_folder(stored._p_jar)
    if own is None or own == str(written):
        return written
    beside = Path(own)
    stores = [beside, written] if beside.name == written.name else [written, beside.with_name(written.name), beside]
    return next((store for store in stores if (store / dataset).exists()), written)


def _file_of(blob: Blob) -> Path:
    """The file of a blob, committed or not."""
    blob._p_activate()
    try:
        return Path(blob.committed()).absolute()
    except BlobError:  # it has changes that are not committed
        with blob.open("r") as file:
            return Path(file.name).absolute()


@contextmanager
def _told_if_gone() -> Iterator[None]:
    """Say why a payload's file may not be there."""
    try:
        yield
    except FileNotFoundError as error:
        add_note(error, "lotproc: a payload was replaced or committed after its record was made, or lies elsewhere")
        raise


def _number(what: str, argument: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentTypeError(f"{what}: {argument}", expected="a number", got=got(value))
    if not math.isfinite(value):
        raise ArgumentError(f"{what}: {argument}", expected="a finite number", got=got(value))
    return float(value)


def _dtype(text: str | None) -> np.dtype[Any] | None:
    """The dtype that numpy writes like this; None where it can't be told, as for types that npy files don't know."""
    try:
        return None if text is None else np.dtype(ast.literal_eval(text) if text[:1] in "[{" else text)
    except (TypeError, ValueError, SyntaxError):
        return None


def _blocks_by_chunks(array: Any, step: int) -> Iterator[np.ndarray[Any, Any]]:
    """The blocks of a zarr array, each of its chunks read once: what a block leaves of them is held for the next."""
    length = array.shape[0]
    held, held_from, held_to = np.empty(0), 0, 0
    for start in range(0, length, step):
        stop = min(start + step, length)
        if held_to < stop:
            chunk = array.chunks[0]
            read_to = min(math.ceil(stop / chunk) * chunk, length)
            fresh = np.asarray(array[held_to:read_to])
            left = held[start - held_from :]
            held = np.concatenate([left, fresh], dtype=fresh.dtype) if len(left) else fresh
            held.flags.writeable = False
            held_from, held_to = start, read_to
        yield held[start - held_from : stop - held_from]
