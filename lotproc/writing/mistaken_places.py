"""Warnings of results that go below results, as without a `skip=`, and of several records' results at one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from .._stamps import STAMPS
from ..errors import as_text, warn
from ..models import Failure, ProcessResult, Write
from ..write_policies import InlineWritePolicy, Policy, gives_checked_paths, policy_text

__all__ = ["warned_of"]

_Planned: TypeAlias = "Callable[[list[ProcessResult | Failure]], list[Write]]"


def warned_of(name: str, policy: Policy, planned: _Planned, *, overwrites: bool) -> _Planned:
    """The same function, for one call of a stage, with at most one warning of where its results go.

    Args:
        name: The stage.
        policy: Where results go.
        planned: What plans the writes of a batch.
        overwrites: Whether what comes later takes the place of what is there.
    """
    policy = getattr(policy, "asked_policy", policy)  # which the one of a `WriteTarget` asks
    looked = None
    if type(policy) is InlineWritePolicy:
        looked = _for_results_of_results(name, policy) if policy.base_path else None
    elif overwrites and not gives_checked_paths(policy):
        looked = _for_one_place(name, policy)
    if looked is None:
        return planned
    is_warned = False

    def of_batch(batch: list[ProcessResult | Failure]) -> list[Write]:
        nonlocal is_warned
        writes = planned(batch)
        if not is_warned and writes:
            is_warned = looked(batch, writes)
        return writes

    return of_batch


def _for_results_of_results(name: str, policy: InlineWritePolicy) -> Callable[[list[Any], list[Write]], bool]:
    base, length = policy.base_path, len(policy.base_path)

    def looked(batch: list[Any], writes: list[Write]) -> bool:
        """Look at the first, which costs nothing: where results are taken for records, others come in their turn."""
        path = batch[0].path if isinstance(batch[0], ProcessResult) else ()
        if tuple(path[-length:]) != base:
            return False
        where = f"{as_text(path)} is itself at {as_text(base)!r}, where {policy_text(policy)} puts results"
        warn(f"{name}: {where}; give skip={base[0]!r} to what walks the tree")
        return True

    return looked


def _for_one_place(name: str, policy: Policy) -> Callable[[list[Any], list[Write]], bool]:
    last: list[tuple[tuple[str, ...], tuple[str, ...], set[str]]] = []

    def looked(batch: list[Any], writes: list[Write]) -> bool:
        """Look for two of a batch, or of the one before its first; a policy of one's own costs more than that."""
        results = [item for item in batch if isinstance(item, ProcessResult)]
        of_batch = zip(writes, results, strict=True)
        coming = [*last, *((write.path, result.path, {*write.attributes}) for write, result in of_batch)]
        last[:] = coming[-1:]
        if len({place for place, _, _ in coming}) == len(coming):
            return False
        there: dict[tuple[str, ...], tuple[tuple[str, ...], set[str]]] = {}
        for place, path, names in coming:
            other, others = there.setdefault(place, (path, names))
            if path != other and not (names & others).issubset(STAMPS):
                both = f"the results of {as_text(other)} and {as_text(path)} both go to {as_text(place)}"
                hint = "give back all keys of result.path, and one more"
                warn(f"{name}: {both} by {policy_text(policy)}, so that only one stays; {hint}")
                return True
        return False

    return looked
