"""What is known of an entry: a dict that is kept as JSON, with its keys as attributes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import CodecError, got
from ..codecs import json_text

__all__ = ["Metadata", "metadata_from", "metadata_text"]


class Metadata(dict[str, Any]):
    """A dict whose keys can be used as attributes; so can those of dicts within it.

    >>> meta = Metadata(shape=[5, 5], source={"file": "a.wav"})
    >>> meta.shape.append(3)
    >>> meta.source.file
    'a.wav'
    >>> meta == {"shape": [5, 5, 3], "source": {"file": "a.wav"}}
    True

    The methods of a dict stay what they are: a key such as "items" is reached by `meta["items"]` alone. It is equal to
    a dict of the same items, and pickles as one, so that it can be read without lotproc.
    """

    __slots__ = ()

    def __init__(self, *args: Any, **items: Any) -> None:
        super().__init__()
        self.update(*args, **items)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _nested(value))

    def update(self, *args: Any, **items: Any) -> None:
        """Take the items of a mapping or of pairs, as a dict does."""
        for key, value in dict(*args, **items).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value of a key, which is set if it is not there."""
        if key not in self:
            self[key] = default
        return self[key]

    def copy(self) -> Metadata:
        """A copy; lists in it are the same ones."""
        return Metadata(self)

    def __ior__(self, other: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Metadata:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the metadata has no {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(dict, name):
            raise AttributeError(f"{name!r} is a method of dicts; use meta[{name!r}] = ...")
        self[name] = value

    def __delattr__(self, name: str) -> None:
        if name not in self or hasattr(dict, name):
            raise AttributeError(f"the metadata has no attribute {name!r}")
        del self[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(key for key in self if isinstance(key, str) and key.isidentifier())]

    def __copy__(self) -> Metadata:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Metadata:
        from copy import deepcopy

        return Metadata({key: deepcopy(value, memo) for key, value in self.items()})

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (dict, (), None, None, iter(self.items()))


def metadata_text(where: str, metadata: Any) -> bytes:
    """Metadata as the bytes of its file; numbers of numpy become Python's."""
    if not isinstance(metadata, Mapping):
        raise CodecError(f"{where}: metadata", expected="a dict", got=got(metadata))
    try:
        return _text(metadata)
    except (TypeError, ValueError, RecursionError) as error:
        names = [name for name, value in metadata.items() if not _is_json({name: value})]
        what = f"the metadata {', '.join(map(repr, names))}" if names else "this metadata"
        raise CodecError(f"{where}: JSON can't hold {what}: {error}", hint="leave that out, or make it str") from error


def _text(metadata: Mapping[str, Any]) -> bytes:
    return json_text(dict(metadata)).encode("ascii")


def _is_json(metadata: Mapping[str, Any]) -> bool:
    try:
        _text(metadata)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def metadata_from(data: bytes) -> Metadata:
    """Metadata from the bytes of its file; raises what json does, and TypeError for anything but an object."""
    value = json.loads(data, object_hook=Metadata)
    if not isinstance(value, Metadata):
        raise TypeError(f"expected an object, got {got(value)}")
    return value


def _nested(value: Any) -> Any:
    return Metadata(value) if type(value) is dict else value
