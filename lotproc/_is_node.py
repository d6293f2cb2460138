"""Whether something is a node of lotdb's, told without lotdb: a worker that gets none starts in a third of the time."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from lotdb import BaseNode

__all__ = ["is_node"]


def is_node(value: object) -> TypeGuard[BaseNode]:
    """Whether it is one; where lotdb is not loaded, nothing is."""
    kind = getattr(sys.modules.get("lotdb"), "BaseNode", ())
    return isinstance(value, kind)
