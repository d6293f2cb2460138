"""The stamps of a result: the attributes that say which version of the code made it, and from which inputs.

The digest of inputs is one of values, not of pickles: these differ between versions of Python, with the order of a dict
and with what is shared inside of a value. Every value has one encoding, in which its type is told and each part tells
where it ends, so different values have different ones.

Where values refer to files, a second digest stands behind that of the values: one of the files' sizes and modification
times, which can differ from machine to machine.
"""

from __future__ import annotations

import copyreg
import dataclasses
import datetime
import decimal
import enum
import fractions
import os
import pathlib
import re
import types
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from operator import itemgetter
from struct import Struct
from typing import Any

import numpy as np
from persistent import Persistent

from ._places import ServerBlob
from .errors import ArgumentTypeError, got
from .payloads import PayloadHandle

__all__ = [
    *("DIGEST", "INPUTS", "INPUTS_WITH_FILES", "STAMPS", "VERSION", "digest_of", "inputs_stamp", "is_inputs_stamp"),
]

#: The attributes of a written node that hold its stamps.
VERSION = "_version"
INPUTS = "_inputs"
STAMPS = (VERSION, INPUTS)

#: Bytes of a digest, and of those inside of it that stand for lists, dicts and other values with parts.
SIZE = 16
INNER = 32
#: Characters of a stamp of inputs: those of the digest of values, and of one with files behind it.
DIGEST = 2 * SIZE
INPUTS_WITH_FILES = 2 * DIGEST + 1


def inputs_stamp(name: str, path: Iterable[str], attributes: Mapping[str, Any]) -> str:
    """What `pending(inputs=True)` knows a record by: the digest of its values, and one of the files behind them.

    >>> inputs_stamp("pending", ("clip_1",), {"unit": "s", "seconds": 1.5})
    '809a1bd3626c1b2a8be2ae9b76b41648'
    >>> inputs_stamp("pending", ("clip_1",), {"seconds": 1.5, "unit": "s"})
    '809a1bd3626c1b2a8be2ae9b76b41648'
    >>> len(inputs_stamp("pending", ("clip_1",), {"file": pathlib.Path("clip_1.wav")}))
    65

    The first is the same in every process, on every machine of the same byte order and in every version of Python.
    Payloads are not read: a handle counts by what it says of the payload, and by the name of its file inside of the
    database's folder, which a payload that is written anew does not keep.

    The second one is there only where a value is or holds a path of this system, or a handle to a zarr array. It counts
    their sizes and modification times, for an array those of all files in its folder. Files are not opened; one that
    is missing counts as such, and is no error.

    Args:
        name: The stage, for errors.
        path: The record's path, for errors.
        attributes: The record's attributes.

    Raises:
        ArgumentTypeError: A value holds itself, is nested too deep, belongs to a database, or can't be taken apart.
    """
    digest, files = _digest(name, path, attributes)
    if not files:
        return digest
    told = b"".join(map(_text, sorted(set(map(_told_by_files, files)))))
    return f"{digest}.{blake2b(told, digest_size=SIZE).hexdigest()}"


def digest_of(name: str, path: Iterable[str], attributes: Mapping[str, Any]) -> str:
    """The digest of the values alone, whatever is in the files that they name."""
    return _digest(name, path, attributes)[0]


def is_inputs_stamp(stored: object, stamp: str) -> bool:
    """Whether a stored stamp is this one; one without files, as all were once, counts by the values alone.

    >>> is_inputs_stamp("0" * 32, "0" * 32 + "." + "1" * 32)
    True
    """
    return isinstance(stored, str) and (stored == stamp or (len(stamp) > DIGEST and stored == stamp[:DIGEST]))


def _digest(name: str, path: Iterable[str], attributes: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The digest of attributes, and the paths and the handles to zarr arrays in them."""
    attribute: Any = None
    try:
        parts = []
        values: _Values | None = None
        for attribute in sorted(attributes):
            value = attributes[attribute]
            parts.append(_encoded_name(attribute))
            encode = _ATOMS.get(type(value))
            if encode is None:
                values = values or _Values()
                encode = values.encoded
            parts.append(encode(value))
        digest = blake2b(b"".join(parts), digest_size=SIZE).hexdigest()
        return digest, [] if values is None else values.files
    except RecursionError:
        reason = "it is nested too deep"
    except Exception as error:
        reason = str(error) or type(error).__name__
    # Raised here, without the error behind it: a recursion has a traceback of a thousand frames.
    raise ArgumentTypeError(
        f"{name}: attribute {attribute!r}", f"has no digest: {reason}", path=path, hint="leave it out of the names"
    )


# --- Files ----------------------------------------------------------------------------------------------------------


def _told_by_files(value: pathlib.Path | PayloadHandle) -> str:
    """The size and modification time of the file at a path, or of those of a zarr array, wherever its store lies."""
    if not isinstance(value, PayloadHandle):
        return f"{value}\0{_told_by_file(value)}"
    top = os.path.join(value.file, value.dataset or "")
    found = [pathlib.Path(value.file).name, value.dataset or ""]
    for above, folders, names in os.walk(top):
        folders.sort()
        for file in (os.path.join(above, name) for name in sorted(names)):
            found += [os.path.relpath(file, top), _told_by_file(file)]
    return "\0".join(found)


def _told_by_file(file: str | pathlib.Path) -> str:
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # also what no file can be called
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


# --- Values without parts -------------------------------------------------------------------------------------------

_pack_float = Struct(">d").pack
_NAN = b"n"


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"s%d:%b" % (len(data), data)


@lru_cache(maxsize=1024)
def _encoded_name(name: str) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"the name of an attribute must be a str, got {got(name)}")
    return _text(name)


def _bytes(value: bytes) -> bytes:
    return b"b%d:%b" % (len(value), value)


def _float(value: float) -> bytes:
    return b"f" + _pack_float(value) if value == value else _NAN


def _integer(value: int) -> bytes:
    return b"i%x;" % value


def _complex(value: complex) -> bytes:
    return b"c" + _float(value.real) + _float(value.imag)


def _decimal(value: decimal.Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    return b"m" + _text(f"{sign} {''.join(map(str, digits))} {exponent}")


def _timedelta(value: datetime.timedelta) -> bytes:
    return b"l" + _text(f"{value.days} {value.seconds} {value.microseconds}")


def _tagged(tag: bytes, text: Callable[[Any], str]) -> Callable[[Any], bytes]:
    return lambda value: tag + _text(text(value))


_ATOMS: dict[type, Callable[[Any], bytes]] = {
    float: _float,
    int: _integer,
    str: _text,
    bool: lambda value: b"T" if value else b"F",
    type(None): lambda value: b"N",
    type(...): lambda value: b".",
    bytes: _bytes,
    complex: _complex,
    decimal.Decimal: _decimal,
    fractions.Fraction: _tagged(b"q", lambda value: f"{value.numerator:x}/{value.denominator:x}"),
    uuid.UUID: lambda value: b"u" + value.bytes,
    datetime.date: _tagged(b"a", datetime.date.isoformat),
    datetime.timedelta: _timedelta,
    # By names of their own: the modules that define them are others in other versions of Python.
    pathlib.PurePosixPath: _tagged(b"p", str),
    pathlib.PureWindowsPath: _tagged(b"w", str),
    np.str_: _tagged(b"S", str.__str__),  # its own leaves zeros out at the end
    np.bytes_: lambda value: b"B" + _bytes(bytes(value)),
}
#: The same for those that have files behind them.
_PATHS: dict[type, Callable[[Any], bytes]] = {
    pathlib.PosixPath: _tagged(b"P", str),
    pathlib.WindowsPath: _tagged(b"W", str),
}


# --- Values with parts ----------------------------------------------------------------------------------------------

#: How the path of a blob's file ends, inside of the folder of the blobs: in folders by its id, named by transaction.
_BLOB = re.compile(r"(?:(?:0x[0-9a-f]{2}/){8}|0x[0-9a-f]{1,16}/)?[^/]+$")
#: Kinds of numpy's dtypes whose bytes are all there is to them.
_PLAIN_KINDS = frozenset("biufcSUVmM")


class _Values:
    """Encodes the values of one record; a value that is met again is not looked at again."""

    def __init__(self) -> None:
        self.files: list[pathlib.Path | PayloadHandle] = []  # the paths and zarr arrays among them
        self._known: dict[int, tuple[Any, bytes]] = {}  # with the value, so that no other gets its id
        self._open: set[int] = set()  # those that are being encoded

    def encoded(self, value: Any) -> bytes:
        """The encoding of any value."""
        encode = _ATOMS.get(type(value))
        if encode is not None:
            return encode(value)
        encode = _PATHS.get(type(value))
        if encode is not None:
            self.files.append(value)
            return encode(value)
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        if id(value) in self._open:
            raise ValueError(f"a {type(value).__qualname__} in it holds itself")
        self._open.add(id(value))
        tag, parts = self._parts(value)
        # Of one length, however much it stands for: what holds one list twice would double with each level.
        encoded = tag + blake2b(b"".join((tag, *parts)), digest_size=INNER).digest()
        self._open.discard(id(value))
        self._known[id(value)] = value, encoded
        return encoded

    def _parts(self, value: Any) -> tuple[bytes, Iterable[bytes]]:
        """A letter for the kind of a value, and its parts, encoded."""
        kind = type(value)
        if kind is dict:
            return b"D", self._pairs(value.items())
        if kind is list:
            return b"L", map(self.encoded, value)
        if kind is tuple:
            return b"U", map(self.encoded, value)
        if kind is set or kind is frozenset:
            return b"Z" if kind is set else b"Y", sorted(map(self.encoded, value))
        if kind is np.ndarray or kind is np.memmap:
            return b"A", self._array(np.asarray(value))
        if isinstance(value, np.generic) and kind is value.dtype.type:
            return b"G", self._array(np.asarray(value))
        if isinstance(value, np.dtype):
            return b"y", (self._dtype(value),)
        if kind is PayloadHandle:
            if value.dataset is not None:  # a blob is another file when it is written anew
                self.files.append(value)
            return b"H", map(self.encoded, _told_by(value))
        if isinstance(value, enum.Enum):
            is_named = kind.__members__.get(value._name_) is value  # flags that are combined are not
            return b"e", (_name_of(kind), self.encoded((is_named, value._name_ if is_named else value._value_)))
        if kind is datetime.datetime or kind is datetime.time:
            return b"t", (
                _name_of(kind),
                *map(self.encoded, (value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo)),
            )
        if kind is datetime.timezone:
            return b"z", map(self.encoded, value.__getinitargs__())
        if kind.__module__ == "zoneinfo" and getattr(value, "key", None) is not None:
            return b"z", map(self.encoded, ("zoneinfo", value.key))
        if isinstance(value, (type, types.FunctionType)):
            return b"C", (_name_of(value),)
        if isinstance(value, Persistent):
            raise TypeError(f"it holds a persistent {kind.__qualname__} inside; take records with snapshot() or scan()")
        if isinstance(value, np.ma.MaskedArray):
            return b"M", map(self.encoded, (np.asarray(value.data), np.ma.getmaskarray(value), value.fill_value))
        if isinstance(value, np.ndarray):
            return b"X", (_name_of(kind), self.encoded(np.asarray(value)), self.encoded(getattr(value, "__dict__", {})))
        return b"O", self._reduced(value)

    def _pairs(self, items: Iterable[tuple[Any, Any]]) -> list[bytes]:
        """Keys and values, in the order of the encoded keys."""
        return [
            part for pair in sorted((self.encoded(key), self.encoded(value)) for key, value in items) for part in pair
        ]

    def _reduced(self, value: Any) -> list[bytes]:
        """The parts from which an object would be made again: those that it gives to pickle."""
        kind = type(value)
        reduce = copyreg.dispatch_table.get(kind)
        reduced: Any = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if isinstance(reduced, str):
            return [_text(getattr(value, "__module__", None) or ""), _text(reduced)]
        make, args, state, items, pairs, setter = itemgetter(*range(6))([*reduced, *[None] * 4])
        parts = [self.encoded(part) for part in (make, args, _state(kind, state), setter, list(items or ()))]
        if isinstance(value, OrderedDict):
            return [*parts, *map(self.encoded, pairs or ())]
        return [*parts, *self._pairs(pairs or ())]

    def _array(self, array: np.ndarray[Any, Any]) -> list[bytes]:
        """The dtype, the shape and the elements of an array, in C order."""
        dtype = array.dtype
        parts = [self._dtype(dtype), self.encoded(array.shape)]
        if dtype.names is not None:  # one by one, since what lies between them is not theirs
            parts += [self.encoded(array[name]) for name in dtype.names]
        elif dtype.kind not in _PLAIN_KINDS:
            parts += map(self.encoded, array.ravel().tolist())
        elif array.nbytes:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            if dtype.char in "gG" and np.finfo(np.longdouble).nmant == 63:
                data = np.ascontiguousarray(
                    data.reshape(-1, np.dtype(np.longdouble).itemsize)[:, :10]
                )  # the rest is noise
            parts.append(blake2b(data.data, digest_size=INNER).digest())
        return parts

    def _dtype(self, dtype: np.dtype[Any]) -> bytes:
        if dtype.names is not None and dtype.fields is not None:
            fields = [(name, *dtype.fields[name]) for name in dtype.names]  # with offsets, and titles if there are any
            return self.encoded((dtype.itemsize, fields))
        if dtype.subdtype is not None:
            return self.encoded(dtype.subdtype)
        return _text(dtype.str) + (_name_of(dtype.type) if dtype.isbuiltin == 2 else b"")


def _state(kind: type, state: Any) -> Any:
    """The state of an object, in one form for all versions of Python."""
    if dataclasses.is_dataclass(kind) and type(state) is list and len(state) == len(dataclasses.fields(kind)):
        # Of one with slots; Python 3.10 does this for frozen ones alone.
        return dict(zip([field.name for field in dataclasses.fields(kind)], state, strict=True))
    if type(state) is tuple and len(state) == 2 and type(state[1]) is dict and isinstance(state[0] or {}, dict):
        state = {**(state[0] or {}), **state[1]}  # what slots hold comes by itself
    return None if type(state) is dict and not state else state  # Python 3.10 gives an empty one where others give none


def _told_by(handle: PayloadHandle) -> tuple[Any, ...]:
    """What a handle says of its payload, and where in its database that lies."""
    if isinstance(handle.file, ServerBlob):
        place = handle.file.inside
    else:
        inside = None if handle.dataset else _BLOB.search(handle.file.as_posix())
        place = inside.group() if inside else handle.file.name
    rate = handle.samplerate_hz
    return handle.kind, handle.shape, handle.dtype, rate, handle.encoding, place, handle.dataset


#: What lotproc's own classes were called by when the first stamps were written, so that these count on.
_FORMER = {
    "lotproc": {
        **dict.fromkeys(("NodeRecord", "ProcessResult", "Failure", "Write", "WriteReport", "Place"), "lotproc.models"),
        **dict.fromkeys(("IndexedFile", "FileFailure", "IngestReport"), "lotproc.file_models"),
        **dict.fromkeys(("InlineWritePolicy", "MirrorWritePolicy", "FreshWritePolicy"), "lotproc.write_policies"),
        **dict.fromkeys(("SelectionSpec", "PreparationSpec", "ProcessingSpec"), "lotproc.processors"),
        "PayloadCopy": "lotproc.copying",
        "PayloadHandle": "lotproc.payloads",
        "RunSummary": "lotproc.summaries",
        "StoredPayload": "lotproc.stores._store",
        "DirectoryStore": "lotproc.stores.directory",
        "LmdbStore": "lotproc.stores.lmdb",
        "Archive": "lotproc.stores.archive",
    },
    "lotproc.stores.archive.reading": {"RecordPlace": "lotproc.stores._archive_reading"},
}

_FORMER_NAMES = {("lotproc", "Place"): "Partition"}


def _name_of(value: Any) -> bytes:
    """The name by which a class or a function can be found."""
    name = value.__qualname__
    if "<" in name:
        raise TypeError(f"it holds {name}, which can't be found by its name")
    module = _FORMER.get(value.__module__, {}).get(name) or value.__module__ or ""
    return b"k" + _text(module) + _text(_FORMER_NAMES.get((value.__module__, name), name))
