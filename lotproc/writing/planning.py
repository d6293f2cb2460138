"""Where a policy is asked and checked: results become planned writes, batch by batch (`plan`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, TypeAlias, TypeGuard, overload

from .._fast import FAST
from .._stage import stage
from .._stamps import INPUTS, VERSION
from .._values import PLAIN, is_flat
from ..errors import ArgumentError, ArgumentTypeError, ResultError, as_text, got
from ..models import Accumulator, Failure, ProcessResult, Write, written_attributes
from ..write_policies import as_policy, asked, gives_checked_paths, has_base, targets_of
from .handles import Flat, checked_values
from .mistaken_places import warned_of

__all__ = ["Policy", "flat_batches", "is_plain", "plan", "planner"]

_RESULT, _TUPLE, _DICT = (frozenset({kind}) for kind in (ProcessResult, tuple, dict))
_STR, _STAMP = frozenset({str}), frozenset({str, type(None)})
_PARTS = tuple(map(attrgetter, ("path", "attributes", "output", "relative_path", "inputs")))

Policy: TypeAlias = Callable[[ProcessResult], "tuple[str, ...]"]


@overload
def plan(
    policy: Policy, results: Iterable[Any], *, output_attribute: str | None = "result", version: str | None = None
) -> Iterator[Write]: ...
@overload
def plan(
    policy: Policy, *, output_attribute: str | None = "result", version: str | None = None
) -> Callable[[Iterable[Any]], Iterator[Write]]: ...
@stage("results")
def plan(
    policy: Policy, *, output_attribute: str | None = "result", version: str | None = None
) -> Callable[[Iterable[Any]], Iterator[Write]]:
    """Say what `write` would write, without touching any tree.

    >>> from lotproc import ProcessResult, inline, plan
    >>> results = [ProcessResult(("clip_1",), output=0.5, attributes={"unit": "s"})]
    >>> list(plan(inline("_proc"), results))
    [Write(path=('clip_1', '_proc'), attributes={'unit': 's', 'result': 0.5})]

    Args:
        policy: `inline(...)`, `mirror(...)`, `fresh(...)`, or any function from a result to a path.
        results: `ProcessResult`s, nested in any iterables: what `parallel_map` gives.
        output_attribute: The attribute that holds the result's output; `None` leaves the output out.
        version: What `write` would stamp the nodes with.

    Returns:
        An iterator of `Write`s, in the order of the results; a `Failure` among them is left out. Lazy; holds one batch.

    Raises:
        ArgumentTypeError: `policy` is not callable, or `output_attribute` or `version` no str.
        ResultError: Something came that is no result; says what, and from which batch.
        NotPicklableError: An output or an attribute is or holds an iterator; says which, and what to do.
        ArgumentError: The policy gave an empty key, or a result has its output's name among its attributes.
    """
    plain = planner("plan", policy, output_attribute, version)

    def run(results: Iterable[Any]) -> Iterator[Write]:
        planned = warned_of("plan", policy, plain, overwrites=False)
        return (write for batch in flat_batches("plan", results) for write in planned(batch))

    return run


def planner(
    name: str, policy: Policy, output_attribute: str | None, version: str | None, *, spares_source: bool = False
) -> Callable[[list[ProcessResult | Failure]], list[Write]]:
    """A function that plans the writes of a batch.

    Args:
        name: The stage, for errors.
        policy: Where results go.
        output_attribute: The attribute for their outputs, if any.
        version: What their nodes are stamped with, if anything.
        spares_source: Whether paths are refused at which "replace" would drop the attributes of the processed node.
    """
    policy = as_policy(name, policy)
    if output_attribute is not None and not isinstance(output_attribute, str):
        raise ArgumentTypeError(f"{name}: output_attribute", expected="a str or None", got=got(output_attribute))
    if version is not None and not isinstance(version, str):
        raise ArgumentTypeError(f"{name}: version", expected="a str or None", got=got(version))
    if version == "":
        raise ArgumentError(f"{name}: version must not be empty", hint="name what makes the results")

    is_checked = gives_checked_paths(policy)

    def planned(result: ProcessResult) -> Write:
        path = policy(result) if is_checked else asked(policy, result)
        if spares_source and path == tuple(result.path):
            raise ArgumentError(
                f'{name}: if_exists="replace" would drop the attributes of the processed node {as_text(path)} itself',
                hint="give inline() a base path, or the result a relative_path",
            )
        attributes = written_attributes(name, result, output_attribute)
        for stamp, value in ((VERSION, version), (INPUTS, result.inputs)):
            if value is not None:
                if stamp in attributes:
                    raise ArgumentError(
                        f"{name}: the result",
                        f"has an attribute {stamp!r}, which is where its stamp goes",
                        path=result.path,
                        hint="rename it",
                    )
                attributes[stamp] = value
        return Write(path, checked_values(name, path, attributes))

    def of_batch(batch: list[ProcessResult | Failure]) -> list[Write]:
        writes = None
        if FAST and output_attribute not in (VERSION, INPUTS) and (has_base(policy) or not spares_source):
            stamps = {} if version is None else {VERSION: version}
            writes = _plain_writes(policy, output_attribute, stamps, batch)
        return [planned(item) for item in batch if isinstance(item, ProcessResult)] if writes is None else writes

    return of_batch


def _plain_writes(
    policy: Policy, output: str | None, stamps: Mapping[str, str], batch: list[Any]
) -> list[Write] | None:
    """The writes of a batch of results whose attributes and outputs all are flat; `None` for any others.

    Together they are checked in a third of the time.
    """
    if not (gives_checked_paths(policy) and _RESULT.issuperset(map(type, batch))):
        return None
    paths, attributes, outputs, relative_paths, inputs = ([*map(part, batch)] for part in _PARTS)
    if not (
        _TUPLE.issuperset(map(type, paths))
        and _TUPLE.issuperset(map(type, relative_paths))
        and _DICT.issuperset(map(type, attributes))
        and _STAMP.issuperset(map(type, inputs))
        and not any(relative_paths)
        and (output is None or _are_flat(outputs))
        and _are_flat([value for each in attributes for value in each.values()])
    ):
        return None
    names = {name for each in attributes for name in each}
    if not _STR.issuperset(map(type, names)) or not names.isdisjoint((output, VERSION, INPUTS)):
        return None
    values = [Flat(each) for each in attributes]
    for each, value, inputs_of in zip(values, outputs, inputs, strict=True):
        if output is not None:
            each[output] = value
        each.update(stamps)
        if inputs_of is not None:
            each[INPUTS] = inputs_of
    targets, tail = targets_of(policy, paths)
    return [Write(path + tail, each) for path, each in zip(targets, values, strict=True)]


def _are_flat(values: list[Any]) -> bool:
    return PLAIN.issuperset(map(type, values)) or all(map(is_flat, values))


def is_plain(results: object) -> TypeGuard[list[ProcessResult]]:
    """Whether it is a list of nothing but results, each of them a batch."""
    return type(results) is list and _RESULT.issuperset(map(type, results))


def flat_batches(name: str, results: Iterable[Any]) -> Iterator[list[ProcessResult | Failure]]:
    """The results and failures of each batch, however deep they are nested."""
    if isinstance(results, (str, bytes, bytearray, Mapping)):
        hint = "table.results() has one for each row" if hasattr(results, "results") else None  # a `PathTable`
        raise ResultError(f"{name}:", expected="ProcessResults, nested in any iterables", got=got(results), hint=hint)
    for index, batch in enumerate(results):
        if type(batch) is ProcessResult:
            yield [batch]
        elif type(batch) is list and _RESULT.issuperset(map(type, batch)):
            yield [*batch]
        else:
            yield list(_flat(name, index, batch))


def _flat(name: str, index: int, batch: Any) -> Iterator[ProcessResult | Failure]:
    """The results and failures of a batch, however deep they are nested."""
    levels = [iter((batch,))]
    while levels:
        item = next(levels[-1], levels)
        if item is levels:
            levels.pop()
        elif isinstance(item, (ProcessResult, Failure)):
            yield item
        elif _can_hold_results(item):
            levels.append(iter(item))
        else:
            hint = (
                "each(fn) gives what fn returns as it is: in its place, outputs(fn) makes results of plain values, or "
                "fn returns ProcessResult(record.path, output=...)"
            )
            if isinstance(item, Accumulator):
                hint = "rollup(fold) in front puts accumulators of parts together, and makes results of them"
            raise ResultError(
                f"{name}: batch {index} (counted from 0):",
                expected="ProcessResults, nested in any iterables",
                got=got(item),
                hint=hint,
            )


def _can_hold_results(item: Any) -> bool:
    if isinstance(item, (str, bytes, bytearray, Mapping)):
        return False
    try:
        iter(item)
    except TypeError:  # also of an array without dimensions, which is an Iterable by its type
        return False
    return True
