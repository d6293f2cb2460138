# What type checkers make of `pipe` and `compose_left`: each step takes what the one before it gives, through ten.

from collections.abc import Callable
from typing import Any, TypeVar, overload

_A = TypeVar("_A")
_B = TypeVar("_B")
_C = TypeVar("_C")
_D = TypeVar("_D")
_E = TypeVar("_E")
_F = TypeVar("_F")
_G = TypeVar("_G")
_H = TypeVar("_H")
_I = TypeVar("_I")
_J = TypeVar("_J")
_K = TypeVar("_K")

@overload
def pipe(data: _A, /) -> _A: ...
@overload
def pipe(data: _A, f1: Callable[[_A], _B], /) -> _B: ...
@overload
def pipe(data: _A, f1: Callable[[_A], _B], f2: Callable[[_B], _C], /) -> _C: ...
@overload
def pipe(data: _A, f1: Callable[[_A], _B], f2: Callable[[_B], _C], f3: Callable[[_C], _D], /) -> _D: ...
@overload
def pipe(
    data: _A, f1: Callable[[_A], _B], f2: Callable[[_B], _C], f3: Callable[[_C], _D], f4: Callable[[_D], _E], /
) -> _E: ...
@overload
def pipe(
    data: _A,
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    /,
) -> _F: ...
@overload
def pipe(
    data: _A,
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    f6: Callable[[_F], _G],
    /,
) -> _G: ...
@overload
def pipe(
    data: _A,
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    f6: Callable[[_F], _G],
    f7: Callable[[_G], _H],
    /,
) -> _H: ...
@overload
def pipe(
    data: _A,
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    f6: Callable[[_F], _G],
    f7: Callable[[_G], _H],
    f8: Callable[[_H], _I],
    /,
) -> _I: ...
@overload
def pipe(
    data: _A,
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    f6: Callable[[_F], _G],
    f7: Callable[[_G], _H],
    f8: Callable[[_H], _I],
    f9: Callable[[_I], _J],
    /,
) -> _J: ...
@overload
def pipe(
    data: _A,
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    f6: Callable[[_F], _G],
    f7: Callable[[_G], _H],
    f8: Callable[[_H], _I],
    f9: Callable[[_I], _J],
    f10: Callable[[_J], _K],
    /,
) -> _K: ...
@overload
def pipe(
    data: _A,
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    f6: Callable[[_F], _G],
    f7: Callable[[_G], _H],
    f8: Callable[[_H], _I],
    f9: Callable[[_I], _J],
    f10: Callable[[_J], _K],
    /,
    *more: Callable[[Any], Any],
) -> Any: ...
@overload
def compose_left(f1: Callable[[_A], _B], /) -> Callable[[_A], _B]: ...
@overload
def compose_left(f1: Callable[[_A], _B], f2: Callable[[_B], _C], /) -> Callable[[_A], _C]: ...
@overload
def compose_left(f1: Callable[[_A], _B], f2: Callable[[_B], _C], f3: Callable[[_C], _D], /) -> Callable[[_A], _D]: ...
@overload
def compose_left(
    f1: Callable[[_A], _B], f2: Callable[[_B], _C], f3: Callable[[_C], _D], f4: Callable[[_D], _E], /
) -> Callable[[_A], _E]: ...
@overload
def compose_left(
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    /,
) -> Callable[[_A], _F]: ...
@overload
def compose_left(
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    f6: Callable[[_F], _G],
    /,
) -> Callable[[_A], _G]: ...
@overload
def compose_left(
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    f6: Callable[[_F], _G],
    f7: Callable[[_G], _H],
    /,
) -> Callable[[_A], _H]: ...
@overload
def compose_left(
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    f6: Callable[[_F], _G],
    f7: Callable[[_G], _H],
    f8: Callable[[_H], _I],
    /,
) -> Callable[[_A], _I]: ...
@overload
def compose_left(
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    f6: Callable[[_F], _G],
    f7: Callable[[_G], _H],
    f8: Callable[[_H], _I],
    f9: Callable[[_I], _J],
    /,
) -> Callable[[_A], _J]: ...
@overload
def compose_left(
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    f6: Callable[[_F], _G],
    f7: Callable[[_G], _H],
    f8: Callable[[_H], _I],
    f9: Callable[[_I], _J],
    f10: Callable[[_J], _K],
    /,
) -> Callable[[_A], _K]: ...
@overload
def compose_left(
    f1: Callable[[_A], _B],
    f2: Callable[[_B], _C],
    f3: Callable[[_C], _D],
    f4: Callable[[_D], _E],
    f5: Callable[[_E], _F],
    f6: Callable[[_F], _G],
    f7: Callable[[_G], _H],
    f8: Callable[[_H], _I],
    f9: Callable[[_I], _J],
    f10: Callable[[_J], _K],
    /,
    *more: Callable[[Any], Any],
) -> Callable[[_A], Any]: ...
