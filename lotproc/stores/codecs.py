"""How values become bytes: as pickles, JSON, npy arrays, plain bytes, or by two functions of the user's."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Callable
from functools import partial
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np
from ZODB.broken import broken_cache

from .._detaching import IN_ITS_PLACE, check_readable
from .._nodes import missing_class
from .._values import iterator_in
from ..errors import ArgumentError, ArgumentTypeError, CodecError, DetachError, LiveNodeError, NotPicklableError, got

__all__ = [
    *("NAMED", "NAMES_A_CLASS", "Codec", "CodecLike", "as_codec", "check_codec", "json_metadata", "json_text"),
    *("importable", "is_kept", "unpickled", "wrong_codec"),
]

Buffer: TypeAlias = "bytes | bytearray | memoryview"


class Codec(NamedTuple):
    """A way to store values.

    Args:
        name: Its name; "custom" for a pair of functions.
        encode: From a value to its bytes; raises CodecError or NotPicklableError, and nothing else but what a pair of
            functions raises.
        decode: From the bytes of a value to the value; raises whatever it does on bytes that are none of its.
        dump: Write a value to a file, without a copy of it in memory where that can be done.
        suffix: What the names of files end in that hold a value.
        holds_mappings: Whether a dict can be a value.
        keeps: Whether a decoded value may go on using the bytes that it was decoded from.
    """

    name: str
    encode: Callable[[Any], Buffer]
    decode: Callable[[Any], Any]
    dump: Callable[[Any, IO[bytes]], None]
    suffix: str
    holds_mappings: bool
    keeps: bool

    def __reduce__(self) -> tuple[Any, ...]:
        return (as_codec, ("", self.name)) if self is NAMED.get(self.name) else (Codec, tuple(self))


#: How the codec of a store is given.
CodecLike: TypeAlias = "str | tuple[Callable[[Any], Any], Callable[[bytes], Any]] | Codec"


def as_codec(name: str, codec: CodecLike) -> Codec:
    """The codec that an argument means.

    >>> as_codec("LmdbStore", "json").decode(b'{"a": 1}')
    {'a': 1}
    """
    if isinstance(codec, Codec):
        return codec
    if isinstance(codec, str):
        if codec not in NAMED:
            raise ArgumentError(
                f"{name}: codec",
                expected=f"one of {', '.join(map(repr, NAMED))}, or a pair of functions",
                got=f"{codec!r}",
            )
        return NAMED[codec]
    if isinstance(codec, (tuple, list)) and len(codec) == 2 and all(map(callable, codec)):
        return _custom(*codec)
    raise ArgumentTypeError(
        f"{name}: codec",
        expected=f"one of {', '.join(map(repr, NAMED))}, or a pair of functions (encode, decode)",
        got=got(codec),
    )


def wrong_codec(codec: Codec, data: Any) -> str | None:
    """What a value's bytes evidently are, if another codec wrote them: "a pickle", say."""
    start = bytes(data[:64])
    end = bytes(data[-1:])
    is_npy = start.startswith(_NPY)
    is_pickle = not is_npy and end == b"." and not start.startswith(b"PK")
    is_json = not is_npy and _JSON.match(start) is not None and not is_pickle
    expected = {"pickle": is_pickle, "json": is_json, "npy": is_npy}
    if codec.name not in expected or expected[codec.name]:
        return None
    return "an npy array" if is_npy else "a pickle" if is_pickle else "JSON" if is_json else "something else"


def check_codec(store: str, codec: Codec, data: Any) -> None:
    """Refuse a store whose first value another codec wrote."""
    found = wrong_codec(codec, data)
    if found is not None:
        hint = {"an npy array": "npy", "a pickle": "pickle", "JSON": "json"}.get(found)
        what = f'; open it with codec="{hint}"' if hint else ": bytes of another codec, or damaged ones"
        raise CodecError(f"{store}: its values are not of the codec {codec.name!r}", hint=f"the first is {found}{what}")


def json_metadata(attributes: dict[str, Any]) -> dict[str, Any] | None:
    """Attributes as JSON gives them back, numbers of numpy as Python's; None where JSON would make something else.

    >>> json_metadata({"seconds": 1.5, "labels": ["a", None]})
    {'seconds': 1.5, 'labels': ['a', None]}
    >>> json_metadata({"span": (0, 1)}) is None
    True
    """
    try:
        return {name: _plain(value) for name, value in attributes.items()}
    except TypeError:
        return None


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    if kind is list:
        return [_plain(item) for item in value]
    if kind is dict and all(type(key) is str for key in value):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (np.bool_, np.integer, np.floating)) and type(value.item()) in _AS_IT_IS:
        return value.item()
    raise TypeError


_AS_IT_IS = frozenset([type(None), bool, int, float, str])
_NPY = b"\x93NUMPY"
_JSON = re.compile(rb'\s*([{\["\-0-9]|true|false|null|NaN|Infinity)')


def unpickled(data: Any) -> Any:
    """The value in a pickle.

    Raises:
        DetachError: It is of a class that can't be imported, or holds something that is.
    """
    try:
        value = pickle.loads(data)
    except (ImportError, AttributeError):
        value = _Importer(io.BytesIO(data)).load()
    return importable(value)


def importable(value: Any) -> Any:
    """The value that was in a pickle.

    Raises:
        DetachError: It came from a tree where its class, or that of something in it, was missing already.
    """
    if broken_cache and (name := missing_class(value)):
        raise _not_importable(name)
    return value


class _Importer(pickle.Unpickler):
    """Tells which class can't be imported."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError) as error:
            raise _not_importable(f"{module}.{name}") from error


def _not_importable(name: str) -> DetachError:
    return DetachError(f"its class can't be imported: {name}")


#: Without this byte a pickle names no class, and holds no iterators.
NAMES_A_CLASS = pickle.STACK_GLOBAL


def _pickled(value: Any) -> bytes:
    try:
        data = pickle.dumps(value, 5)
    except MemoryError:
        raise
    except Exception as error:
        raise _not_picklable(value, error) from error
    if NAMES_A_CLASS in data:
        _check(value)
    return data


def _dump_pickle(value: Any, file: IO[bytes]) -> None:
    _check(value)
    try:
        pickle.dump(value, file, 5)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise _not_picklable(value, error) from error


def _check(value: Any) -> None:
    """Refuse what can be pickled, and is empty after one look, belongs to a database, or can't be read again."""
    reason = iterator_in(value)
    if reason is not None:
        raise _not_picklable(value, reason)
    try:
        check_readable(value, in_tree=False)
    except MemoryError:
        raise
    except Exception as error:
        raise _not_picklable(value, error) from error


def is_kept(value: Any) -> bool:
    """Whether what can be pickled may be stored."""
    try:
        _check(value)
    except NotPicklableError:
        return False
    return True


def _not_picklable(value: Any, reason: Exception | str) -> NotPicklableError:
    hint = IN_ITS_PLACE if isinstance(reason, LiveNodeError) else None
    return NotPicklableError(f"can't pickle this {type(value).__name__}: {iterator_in(value) or reason}", hint=hint)


def _as_json(value: Any) -> bytes:
    try:
        return json_text(value, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CodecError(f'codec "json" can\'t hold this {type(value).__name__}: {error}') from error


def json_text(value: Any, separators: tuple[str, str] | None = None) -> str:
    """A value as JSON, in ASCII, numbers of numpy as Python's.

    Raises:
        TypeError, ValueError, RecursionError: JSON can't hold it, or a key of a dict would come back as another one.
    """
    return json.dumps(_json_keys(value), default=_json_number, separators=separators)


def _json_keys(value: Any) -> Any:
    """The value, if no key of a dict in it would come back as another one."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key of a dict must be a str, got {got(key)}")
            _json_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _json_keys(item)
    return value


def _json_number(value: Any) -> Any:
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return value.item()
    raise TypeError(f"it holds {got(value)}")


def _array(value: Any) -> np.ndarray[Any, Any]:
    if not isinstance(value, np.ndarray) or not _is_plain(value):
        raise CodecError('codec "npy" takes numpy arrays, but not of objects and not masked ones', got=got(value))
    return value


def _is_plain(array: np.ndarray[Any, Any]) -> bool:
    """Whether the bytes of an array are all there is to it."""
    return not array.dtype.hasobject and not isinstance(array, np.ma.MaskedArray)


def _as_npy(value: Any) -> bytes:
    file = io.BytesIO()
    _dump_npy(value, file)
    return file.getvalue()


def _dump_npy(value: Any, file: IO[bytes]) -> None:
    np.save(file, _array(value), allow_pickle=False)


def _from_npy(data: Any) -> np.ndarray[Any, Any]:
    """The array, as a view of the bytes."""
    view = memoryview(data)
    head = io.BytesIO(view[: min(len(view), 1 << 16)])
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if version not in ((1, 0), (2, 0)):  # 3.0: names of fields that are not Latin-1
        return np.asarray(np.lib.format.read_array(io.BytesIO(view), allow_pickle=False))
    shape, fortran, dtype = read(head)
    if dtype.hasobject:
        raise ValueError("it is an array of objects")
    count = int(np.prod(shape, dtype=np.int64))
    if len(view) != head.tell() + count * dtype.itemsize:
        raise ValueError(f"expected {head.tell() + count * dtype.itemsize:,} bytes, got {len(view):,}")
    flat = np.frombuffer(view, dtype, count, head.tell()) if count else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _as_bytes(value: Any) -> Buffer:
    if type(value) is bytes:
        return value
    if isinstance(value, np.ndarray) and not _is_plain(value):
        raise CodecError('codec "bytes" takes arrays, but not of objects and not masked ones', got=got(value))
    try:
        view = memoryview(value)
        return view if view.format == "B" and view.ndim == 1 and view.c_contiguous else view.cast("B")
    except (TypeError, ValueError, BufferError):
        if isinstance(value, np.ndarray):  # of dates, which has no buffer; or not in one piece
            return value.tobytes()
        raise CodecError(
            'codec "bytes" takes bytes, arrays and other buffers', got=got(value), hint='codec="pickle" takes any value'
        ) from None


def _dumping(encode: Callable[[Any], Buffer]) -> Callable[[Any, IO[bytes]], None]:
    return partial(_dump, encode)


def _dump(encode: Callable[[Any], Buffer], value: Any, file: IO[bytes]) -> None:
    file.write(memoryview(encode(value)))


def _custom(encode: Callable[[Any], Any], decode: Callable[[bytes], Any]) -> Codec:
    encoded = partial(_encoded, encode)
    return Codec("custom", encoded, partial(_decoded, decode), _dumping(encoded), ".value", True, keeps=False)


def _encoded(encode: Callable[[Any], Any], value: Any) -> Buffer:
    data = encode(value)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise CodecError("the codec's encode must return bytes", got=got(data))
    return data


def _decoded(decode: Callable[[bytes], Any], data: Any) -> Any:
    return decode(bytes(data))


NAMED = {
    codec.name: codec
    for codec in (
        Codec("pickle", _pickled, unpickled, _dump_pickle, ".pickle", holds_mappings=True, keeps=False),
        Codec("json", _as_json, lambda data: json.loads(bytes(data)), _dumping(_as_json), ".json-value", True, False),
        Codec("npy", _as_npy, _from_npy, _dump_npy, ".npy", holds_mappings=False, keeps=True),
        Codec("bytes", _as_bytes, bytes, _dumping(_as_bytes), ".bytes", holds_mappings=False, keeps=False),
    )
}
