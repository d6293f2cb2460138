"""How numpy and decimal calculate where they are called: what they do about errors, and how decimal rounds."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Arithmetic", "changed_by", "within"]


class Arithmetic(NamedTuple):
    """The settings of `numpy.errstate` and of decimal's context.

    Args:
        numpy: What `numpy.geterr` says.
        callback: What `numpy.geterrcall` says, where an error may come to it.
        decimal: The arguments of a `decimal.Context`: precision, rounding, least and greatest exponent, capitals,
            clamp; and the signals that it traps.
    """

    numpy: tuple[tuple[str, Any], ...]
    callback: Any
    decimal: tuple[Any, ...]

    @classmethod
    def here(cls) -> Arithmetic:
        """Those that hold where this is called."""
        handled = np.geterr()
        callback = np.geterrcall() if "call" in handled.values() or "log" in handled.values() else None
        context = decimal.getcontext()
        trapped = tuple([signal for signal, is_trapped in context.traps.items() if is_trapped])
        return cls(
            tuple(handled.items()),
            callback,
            (context.prec, context.rounding, context.Emin, context.Emax, context.capitals, context.clamp, trapped),
        )

    @classmethod
    def changed(cls) -> Arithmetic | None:
        """The same, for a pickle: `None` where nobody changed them."""
        here = cls.here()
        return None if here == _AS_IMPORTED else here


#: The settings of a program that has changed none.
_AS_IMPORTED = Arithmetic(
    tuple({"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}.items()),
    None,
    (
        *(28, decimal.ROUND_HALF_EVEN, -999999, 999999, 1, 0),
        (decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow),
    ),
)


def within(arithmetic: Arithmetic | None, call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives where some arithmetic holds, or for `None` that which nobody changed.

    What the call changes of it, decimal's flags too, ends with the call.
    """
    numpy, callback, settings = arithmetic or _AS_IMPORTED
    prec, rounding, least, greatest, capitals, clamp, traps = settings
    context = decimal.Context(prec, rounding, least, greatest, capitals, clamp, flags=[], traps=list(traps))
    calling = {} if callback is None else {"call": callback}
    with np.errstate(**dict(numpy), **calling), decimal.localcontext(context):
        return call(*arguments)


def changed_by(initializer: Callable[[], object] | None) -> Arithmetic | None:
    """Call an initializer, if there is one; give the arithmetic that holds behind it, if that is another one."""
    if initializer is None:
        return None
    before = Arithmetic.here()
    initializer()
    after = Arithmetic.here()
    return None if after == before else after
