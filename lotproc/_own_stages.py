"""What type checkers make of a stage of one's own: its options are checked, before the data and without it.

The data comes behind the positional options, and in front of those with names, which no type of Python's can say of any
number of options at once. So there is one protocol for none of them, one for one, and so on through three; of more,
nothing is known. What is called by names alone, `longer(seconds=1.0)`, is not checked, since the name of a positional
option is lost where another argument follows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

__all__ = ["Decorates"]

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
R = TypeVar("R")
A_contra = TypeVar("A_contra", contravariant=True)
B_contra = TypeVar("B_contra", contravariant=True)
C_contra = TypeVar("C_contra", contravariant=True)
D_contra = TypeVar("D_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class OfNone(Protocol[P, D_contra, R_co]):
    """A stage without positional options."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Callable[[D_contra], R_co]: ...
    @overload
    def __call__(self, data: D_contra, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class OfOne(Protocol[A_contra, P, D_contra, R_co]):
    """A stage with one."""

    @overload
    def __call__(self, a: A_contra, /, *args: P.args, **kwargs: P.kwargs) -> Callable[[D_contra], R_co]: ...
    @overload
    def __call__(self, a: A_contra, data: D_contra, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, **named: Any) -> Callable[[D_contra], R_co]: ...


class OfTwo(Protocol[A_contra, B_contra, P, D_contra, R_co]):
    """A stage with two."""

    @overload
    def __call__(
        self, a: A_contra, b: B_contra, /, *args: P.args, **kwargs: P.kwargs
    ) -> Callable[[D_contra], R_co]: ...
    @overload
    def __call__(self, a: A_contra, b: B_contra, data: D_contra, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, a: A_contra = ..., /, **named: Any) -> Callable[..., Any]: ...


class OfThree(Protocol[A_contra, B_contra, C_contra, P, D_contra, R_co]):
    """A stage with three."""

    @overload
    def __call__(
        self, a: A_contra, b: B_contra, c: C_contra, /, *args: P.args, **kwargs: P.kwargs
    ) -> Callable[[D_contra], R_co]: ...
    @overload
    def __call__(
        self, a: A_contra, b: B_contra, c: C_contra, data: D_contra, /, *args: P.args, **kwargs: P.kwargs
    ) -> R_co: ...
    @overload
    def __call__(self, a: A_contra = ..., b: B_contra = ..., /, **named: Any) -> Callable[..., Any]: ...


class Decorates(Protocol):
    """What `stage("records")` is: the function of the options becomes one that takes the data, too."""

    @overload
    def __call__(
        self, options: Callable[Concatenate[Any, Any, Any, Any, P], Callable[[Any], Any]], /
    ) -> Callable[..., Any]: ...
    @overload
    def __call__(
        self, options: Callable[Concatenate[A, B, C, P], Callable[[D], R]], /
    ) -> OfThree[A, B, C, P, D, R]: ...
    @overload
    def __call__(self, options: Callable[Concatenate[A, B, P], Callable[[D], R]], /) -> OfTwo[A, B, P, D, R]: ...
    @overload
    def __call__(self, options: Callable[Concatenate[A, P], Callable[[D], R]], /) -> OfOne[A, P, D, R]: ...
    @overload
    def __call__(self, options: Callable[P, Callable[[D], R]], /) -> OfNone[P, D, R]: ...
