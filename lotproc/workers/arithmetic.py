"""How numpy and decimal calculate where they are called: what they do about errors, and how decimal rounds."""

from __future__ import annotations

import decimal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Arithmetic", "changed_by", "within"]

#: What `numpy.geterr` says in a program that has changed nothing.
_NUMPY = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


class Arithmetic(NamedTuple):
    """The settings of `numpy.errstate` and of decimal's context.

    Args:
        numpy: What `numpy.geterr` says.
        callback: What `numpy.geterrcall` says, where an error may come to it.
        context: Decimal's, with no flag set.
    """

    numpy: dict[str, Any]
    callback: Any
    context: decimal.Context

    @classmethod
    def here(cls) -> Arithmetic:
        """Those that hold where this is called."""
        np: Any = sys.modules.get("numpy")  # a worker starts without it, in a fraction of the time
        handled = {**np.geterr()} if hasattr(np, "geterr") else _NUMPY
        callback = np.geterrcall() if "call" in handled.values() or "log" in handled.values() else None
        context = decimal.getcontext().copy()
        context.clear_flags()
        return cls(handled, callback, context)

    @classmethod
    def changed(cls) -> Arithmetic | None:
        """The same, for a pickle: `None` where nobody changed them."""
        here = cls.here()
        return None if here.is_same(_AS_IMPORTED) else here

    def is_same(self, other: Arithmetic) -> bool:
        """Whether these are the same; contexts are equal only to themselves, and say all that they are."""
        return self[:2] == other[:2] and repr(self.context) == repr(other.context)


#: The settings of a program that has changed none.
_AS_IMPORTED = Arithmetic(
    _NUMPY,
    None,
    decimal.Context(
        *(28, decimal.ROUND_HALF_EVEN, -999999, 999999, 1, 0),
        flags=[],
        traps=[decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow],
    ),
)


def within(arithmetic: Arithmetic | None, call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives where some arithmetic holds, or for `None` that which nobody changed.

    What the call changes of it, decimal's flags too, ends with the call. Where it is the call that loads numpy, what it
    changes there ends with the next.
    """
    numpy, callback, context = arithmetic or _AS_IMPORTED
    with decimal.localcontext(context):
        if arithmetic is None and "numpy" not in sys.modules:
            return call(*arguments)
        import numpy as np

        calling = {} if callback is None else {"call": callback}
        with np.errstate(**numpy, **calling):
            return call(*arguments)


def changed_by(initializer: Callable[[], object] | None) -> Arithmetic | None:
    """Call an initializer, if there is one; give the arithmetic that holds behind it, if that is another one."""
    if initializer is None:
        return None
    before = Arithmetic.here()
    initializer()
    after = Arithmetic.here()
    return None if after.is_same(before) else after
