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
from ._places import ServerBlob, server_blob
from ._plots import MOST_BYTES, plotted
from ._public import public
from ._reprs import cut
from ._stage import check_choice, check_count
from ._stretches import blocks_by_chunks, filled_up, rows_of, rows_of_zarr, starts_of
from .errors import ArgumentError, ArgumentTypeError, PayloadError, add_note, got

__all__ = ["PayloadHandle"]


@public
@dataclass(frozen=True)
class PayloadHandle:
    """A reference to a payload: what it is, and where it lies.

    It holds no data. For what is not committed yet it is good until the commit, which moves the file. It pickles
    small, and reads the file where and when it is asked to, in any process that can see it, on any thread. Of a tree on
    a server the file is fetched then, into the `blob_dir` of its URI, or a folder that each process has of its own.

    `numpy.asarray(handle)` is the array. Of a committed blob that is a read-only memory map: nothing is read before it
    is used, and the file stays open as long as the array is kept. `numpy.array(handle)` and `read()` give a copy.

    Args:
        kind: "array", "bytes", "text" or "table".
        file: The blob's file, or the zarr store's folder; of a tree on a server a path-like object, which fetches the
            file where `os.fspath` or `open` asks for its path.
        dataset: The path inside the zarr store; `None` for blobs.
        shape: The array's shape, time first; `None` for what is no array.
        dtype: The array's dtype, as numpy writes it; `None` for what is no array.
        samplerate_hz: Samples per second, where it is known.
        encoding: The text's encoding, for "text" and "table".
    """

    kind: str
    file: Path | ServerBlob
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
        file: Path | ServerBlob
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

    def __len__(self) -> int:
        """How many samples an array has."""
        self._check_array("len")
        return int((self.shape or self._opened().shape)[0])

    def __bool__(self) -> bool:
        return True  # a reference is one, also to an array without samples and to what has no length

    #: Not sample by sample, each of which would open the file: `blocks` goes through an array.
    __iter__ = None

    def __getitem__(self, part: Any) -> Any:
        """The samples of an array at an index or a slice, as numpy gives them along the first axis, and nothing else.

        >>> import numpy as np
        >>> from lotdb import BaseNode
        >>> from lotproc import snapshot
        >>> node = BaseNode("root").get_data_node(["ann", "clip_1"], backend="blob")
        >>> _ = node.write_data(np.arange(10))
        >>> (record,) = snapshot("data", [node])
        >>> record.attributes["data"][2:5]
        array([2, 3, 4])
        >>> len(record.attributes["data"])
        10

        Returns:
            A read-only array, or for an index and one dimension a number. Of a committed blob it is a view on a memory
            map of its file, which stays open as long as the array is kept; of a zarr array the chunks that it needs
            are read.

        Raises:
            ArgumentError: The index lies outside of the array, or the step is 0; the array has no time axis.
            ArgumentTypeError: The payload is no array, or `part` neither an index nor a slice.
            PayloadError, MissingExtraError, FileNotFoundError: As for `read`.
        """
        self._check_array("handle[...]")
        array = self._opened()
        rows = rows_of(part, array.shape[0])
        if self.dataset is not None:
            found = rows_of_zarr(array, rows)
        else:
            found = np.asarray(array[part]) if self._is_final() else np.array(array[part])
        found.flags.writeable = False
        return found[()]  # a number, where it is one

    def read(self, start: int | None = None, stop: int | None = None) -> Any:
        """Read a payload: an array, or a stretch of it, bytes, a str, or for a table a pandas DataFrame.

        >>> import numpy as np
        >>> from lotdb import BaseNode
        >>> from lotproc import snapshot
        >>> root = BaseNode("root")
        >>> node = root.get_data_node(["ann", "clip_1"], samplerate_hz=4, backend="blob")
        >>> _ = node.write_data(np.arange(10))
        >>> (record,) = snapshot("data", [node])
        >>> record.attributes["data"].read()
        array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
        >>> record.attributes["data"].read(2, 5)
        array([2, 3, 4])

        Args:
            start: The first sample, from 0; the beginning where it is `None`. Of an array only.
            stop: The sample to stop before; the end where it is `None`. Of an array only.

        Returns:
            The payload in memory; an array is yours to change, time first. A stretch is read alone, and is shorter
            where it runs past the end; `handle[-100:]` counts from there.

        Raises:
            ArgumentError: `start` or `stop` is negative, or `stop` or the end of the array is before `start`.
            ArgumentTypeError: They are no whole numbers, or the payload is no array.
            PayloadError: The file is not what the handle describes: it was cut off or replaced.
            MissingExtraError: The payload needs zarr or pandas, which is not installed.
            FileNotFoundError: The file is gone, or not visible from this machine; zarr 2 makes it a PayloadError.
        """
        if start is not None or stop is not None:
            self._check_array("read")
            for name, sample in (("start", start), ("stop", stop)):
                if sample is not None:
                    check_count("read", name, sample, minimum=0)
            return self._stretch(f"read: nothing lies between {start} and {stop}:", start, stop)
        if self.dataset is not None:
            return np.asarray(self._zarr()[:])
        if self.kind == "array":
            return self._npy(mapped=False)
        file = Path(self.file)
        with _told_if_gone():
            if self.kind == "bytes":
                return file.read_bytes()
            if self.kind == "text":
                return file.read_bytes().decode(self.encoding)
            pandas = needed("pandas", "pandas", f"the table in {self.file}")
            return pandas.read_csv(file, encoding=self.encoding)

    def read_seconds(self, start: float | None = None, stop: float | None = None) -> np.ndarray[Any, Any]:
        """Read a stretch of time of an array, and nothing else of its file.

        >>> import numpy as np
        >>> from lotdb import BaseNode
        >>> from lotproc import snapshot
        >>> root = BaseNode("root")
        >>> node = root.get_data_node(["ann", "clip_1"], samplerate_hz=4, backend="blob")
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
        return self._stretch(f"read_seconds: nothing lies between {start} and {stop} s:", first, last)

    def _stretch(self, nothing: str, start: int | None, stop: int | None) -> np.ndarray[Any, Any]:
        """An array of the reader's own; `nothing` is what to say where nothing is."""
        array = self._opened()
        length = array.shape[0]
        first, last = max(0, start or 0), length if stop is None else min(length, stop)
        if last < first:
            rate = f" at {self.samplerate_hz:g} Hz" if self.samplerate_hz else ""
            raise ArgumentError(f"{nothing} {self.file} has {length} samples{rate}")
        return np.require(array[first:last], requirements=["OWNDATA", "WRITEABLE"])

    def _opened(self) -> Any:
        """The array where it lies: a memory map, which must not be kept where the file can still change; or of zarr."""
        return self._npy(mapped=True) if self.dataset is None else self._zarr()

    def blocks(
        self,
        size: float,
        *,
        hop: float | None = None,
        unit: Literal["samples", "seconds"] = "samples",
        last: Literal["keep", "drop", "pad"] = "keep",
    ) -> Iterator[np.ndarray[Any, Any]]:
        """Go through an array block by block along time, without having it in memory as a whole.

        >>> import numpy as np
        >>> from lotdb import BaseNode
        >>> from lotproc import snapshot
        >>> root = BaseNode("root")
        >>> node = root.get_data_node(["ann", "clip_1"], samplerate_hz=4, backend="blob")
        >>> _ = node.write_data(np.arange(10))
        >>> (record,) = snapshot("data", [node])
        >>> sound = record.attributes["data"]
        >>> [block.tolist() for block in sound.blocks(1, unit="seconds")]
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        >>> [block.tolist() for block in sound.blocks(4, hop=3, last="drop")]
        [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]

        Args:
            size: The length of a block, more than 0.
            hop: From the beginning of a block to that of the next, more than 0; the size where it is `None`. Blocks
                overlap where it is less, and leave samples out where it is more.
            unit: What these count: "samples", or "seconds". A size is rounded up to a sample, a hop to the nearest.
            last: What becomes of samples behind the last whole block at which another one would begin or go on: one
                shorter block ("keep"), none ("drop"), or one that is filled up with zeros ("pad").

        Returns:
            An iterator of read-only arrays, in the order of time; copy what you want to change. Lazy. Each byte of the
            file is read once. Blocks of a committed blob are views on a memory map of its file, which stays open as
            long as one of them is kept. Of a zarr array it holds one block and the chunks that the block ends in. A
            blob that is not committed yet is read whole, since its file can still change.

        Raises:
            ArgumentError: An option can't be used, or the sample rate is not known. At the call, not later.
            ArgumentTypeError: The payload is no array, or a length no number. At the call, not later.
            PayloadError, MissingExtraError, FileNotFoundError: As for `read`, when the first block is asked for.
        """
        self._check_array("blocks")
        check_choice("blocks", "unit", unit, ("samples", "seconds"))
        check_choice("blocks", "last", last, ("keep", "drop", "pad"))
        length = math.ceil(self._length("size", size, unit))
        step = length if hop is None else round(self._length("hop", hop, unit))
        if step < 1:
            raise ArgumentError("blocks: hop", expected="at least half a sample", got=got(hop))
        return self._blocks(length, step, last)

    def _length(self, argument: str, value: float, unit: str) -> float:
        """A size or a hop in samples, not yet rounded where it was in seconds."""
        samples = (
            self._in_samples("blocks", argument, value) if unit == "seconds" else _number("blocks", argument, value)
        )
        if samples <= 0:
            raise ArgumentError(f"blocks: {argument}", expected="more than 0", got=got(value))
        if unit == "samples" and samples != int(samples):
            raise ArgumentError(
                f"blocks: {argument}", expected="a whole number of samples", got=got(value), hint="or unit='seconds'?"
            )
        return samples

    def _blocks(self, size: int, hop: int, last: str) -> Iterator[np.ndarray[Any, Any]]:
        if self.dataset is not None:
            array = self._zarr()
            starts = starts_of(array.shape[0], size, hop, last)
            blocks = blocks_by_chunks(array, starts, size)
        else:
            array = self._npy(mapped=self._is_final())
            array.flags.writeable = False
            starts = starts_of(array.shape[0], size, hop, last)
            blocks = (array[start : start + size] for start in starts)
        yield from blocks if last != "pad" else (filled_up(block, size) for block in blocks)

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
        return isinstance(self.file, ServerBlob) or (self.dataset is None and self.file.suffix == BLOB_SUFFIX)

    def _npy(self, *, mapped: bool) -> np.ndarray[Any, Any]:
        """The array of an npy file: a read-only memory map of it, or in memory."""
        expected = _dtype(self.dtype)
        if expected is not None and expected.hasobject:
            raise PayloadError(
                f"{self.file} holds pickled Python objects, which are not read as an array: read them with lotdb"
            )
        path = Path(self.file)
        try:
            with _told_if_gone():
                if mapped and 0 not in (self.shape or ()):  # an empty array may have nothing to map
                    memory_map = np.lib.format.open_memmap(path, mode="r")
                    array, end = np.asarray(memory_map), memory_map.offset + memory_map.nbytes
                else:
                    with path.open("rb") as file:
                        array, end = np.lib.format.read_array(file, allow_pickle=False), file.tell()
                size = path.stat().st_size
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
                hint="use samples: blocks(size), or read(start, stop)",
            )
        return _number(what, argument, seconds) * self.samplerate_hz

    def __str__(self) -> str:
        if self.kind != "array":
            return self.kind
        rate = f" at {self.samplerate_hz:g} Hz" if self.samplerate_hz else ""
        return f"{self.dtype} {self.shape}{rate}"

    def __repr__(self) -> str:
        return cut(f"<PayloadHandle {self}>")

    def _repr_html_(self) -> str:
        from ._html import block  # here, since a worker shows nothing

        return block(self._html_cell_())

    def _html_cell_(self) -> str:
        """What it is, and a plot of it, if it is a small array in a file that is at hand."""
        from ._html import escaped

        said = escaped(repr(self))
        dtype = _dtype(self.dtype)
        is_small = dtype is not None and math.prod(self.shape or ()) * dtype.itemsize <= MOST_BYTES
        if self.kind != "array" or not is_small or isinstance(self.file, ServerBlob):
            return said
        try:
            return said + plotted(self.read(), self.samplerate_hz)
        except Exception as error:  # whatever it is, a cell ends well
            return f'{said}<div class="pale">can\'t be read here: {escaped(type(error).__name__)}</div>'


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


def _file_of(blob: Blob) -> Path | ServerBlob:
    """The file of a blob, committed or not; that of a server is not fetched."""
    on_server = server_blob(blob)
    if on_server is not None:
        return on_server
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
