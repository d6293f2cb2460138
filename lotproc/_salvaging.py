"""Attributes read one by one from records that can't be read as a whole, because of one value in them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from io import BytesIO
from typing import Any, ClassVar

from BTrees.OOBTree import OOBucket
from ZODB.broken import Broken
from ZODB.POSException import StateLoadError

from ._jar import Parts, RecordJar, at_path, damaged, items_or_parts_in, unreadable
from ._nodes import first_inside
from .errors import got

__all__ = ["Unreadable", "salvaged", "salvaged_at"]


class Unreadable:
    """Stands for a value that can't be made of what its record says; `reason` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"<a value that can't be read: {self.reason}>"

    def __reduce__(self) -> Any:
        raise TypeError(self.reason)

    def _ignore(self, *args: Any) -> None:
        """What else its record says of it."""

    __setstate__ = __setitem__ = append = extend = add = _ignore


def salvaged(tree: Any, error: Exception) -> dict[str, Any]:
    """The attributes in a tree of attributes that gives an error when it is read.

    Values that can't be made are `Unreadable`; those of classes that can't be imported are as ZODB has them.

    Raises:
        Exception: The error, where it is not one value that can't be read.
    """
    try:
        return _salvaged(tree)
    except Exception:
        raise error from None


def salvaged_at(stage_name: str, stored: Any, error: Exception, path: tuple[str, ...]) -> dict[str, Any]:
    """The attributes of the node at a path, of which one can't be read."""
    if isinstance(error, StateLoadError):
        error = at_path(stage_name, path, unreadable(stored._p_oid, error))
    return salvaged(stored, error)


def _salvaged(tree: Any) -> dict[str, Any]:
    jar = tree._p_jar
    load = jar._load if isinstance(jar, RecordJar) else jar._storage.load
    found: dict[str, Any] = {}
    waiting, seen = [tree], set()
    while waiting:
        part = waiting.pop()
        if part._p_oid in seen:
            raise damaged(part._p_oid, "has itself among its parts")
        seen.add(part._p_oid)
        unpickler = _Unpickler(BytesIO(load(part._p_oid)[0]), jar._reader)
        unpickler.load()  # its class
        items = items_or_parts_in(unpickler.load(), is_bucket=isinstance(part, OOBucket))
        if isinstance(items, Parts):
            waiting += reversed(items.parts)
        else:
            for name, value in zip(*items, strict=True):
                found[name] = unpickler.unreadable_in(value) or value
    return found


#: The unpickler that is written in Python, where each step can be caught.
_InPython: Any = pickle._Unpickler


class _Unpickler(_InPython):  # type: ignore[misc]
    """Goes on behind a value that can't be made."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_InPython.dispatch)

    def __init__(self, file: BytesIO, reader: Any) -> None:
        super().__init__(file)
        self._reader = reader
        #: Objects that were made and could not be filled, which hold on to their ids.
        self._half_made: dict[int, Any] = {}

    def unreadable_in(self, value: Any) -> Unreadable | None:
        """What can't be read in a value."""
        found = first_inside(value, lambda item: type(item) is Unreadable or id(item) in self._half_made)
        return found if found is None or type(found) is Unreadable else Unreadable(f"it holds {got(found)}")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._reader._get_class(module, name)
        except Exception as error:
            return Unreadable(f"{module}.{name} can't be imported: {type(error).__name__}: {error}")

    def persistent_load(self, reference: Any) -> Any:
        try:
            return self._reader._persistent_load(reference)
        except Exception as error:
            return Unreadable(f"{type(error).__name__}: {error}")

    def _made(self, make: Callable[..., Any], kind: Any, *args: Any) -> None:
        """Put what a class makes of its arguments on the stack."""
        try:
            made = kind if isinstance(kind, Unreadable) else make(*args)
        except Exception as error:
            made = Unreadable(f"{type(error).__name__}: {error}")
        self.append(made)

    def load_reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self._made(function, function, *args)

    def load_newobj(self) -> None:
        args, kind = self.stack.pop(), self.stack.pop()
        self._made(lambda: kind.__new__(kind, *args), kind)

    def load_newobj_ex(self) -> None:
        options, args, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self._made(lambda: kind.__new__(kind, *args, **options), kind)

    def _filled(self, fill: Callable[[Any], None]) -> None:
        """Fill the object on the stack with its state or its items."""
        try:
            fill(self)
        except Exception as error:
            broken = self.stack[-1]
            if not isinstance(broken, Broken):  # which is refused as it is, by the name of its class
                self._half_made[id(broken)] = broken
                self.stack[-1] = lost = Unreadable(f"{type(error).__name__}: {error}")
                self.memo.update({number: lost for number, known in self.memo.items() if known is broken})


def _filling(code: int) -> Callable[[_Unpickler], None]:
    load = _Unpickler.dispatch[code]
    return lambda unpickler: unpickler._filled(load)


for _code in (pickle.BUILD, pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS, pickle.ADDITEMS):
    _Unpickler.dispatch[_code[0]] = _filling(_code[0])
_Unpickler.dispatch[pickle.REDUCE[0]] = _Unpickler.load_reduce
_Unpickler.dispatch[pickle.NEWOBJ[0]] = _Unpickler.load_newobj
_Unpickler.dispatch[pickle.NEWOBJ_EX[0]] = _Unpickler.load_newobj_ex
