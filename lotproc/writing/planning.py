"""Where a policy is asked and checked: results become planned writes, batch by batch (`plan`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, overload

from .._stage import stage
from .._stamps import INPUTS, VERSION
from ..errors import ArgumentError, ArgumentTypeError, ResultError, as_text, got
from ..models import Failure, ProcessResult, Write, written_attributes
from ..write_policies import checked_path
from .ledger import Ledger
from .payload_copies import checked_values
from .progress import Planned

__all__ = ["Planner", "Policy", "plan"]

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
    planner = Planner("plan", policy, output_attribute, version)
    return lambda results: (write for batch in planner.planned(results) for write in batch.writes)


class Planner:
    """Makes plans of results.

    Args:
        name: The stage, for errors.
        policy: Where results go.
        output_attribute: The attribute for their outputs, if any.
        version: What their nodes are stamped with, if anything.
        spares_source: Whether paths are refused at which "replace" would drop the attributes of the processed node.
    """

    def __init__(
        self,
        name: str,
        policy: Policy,
        output_attribute: str | None,
        version: str | None,
        *,
        spares_source: bool = False,
    ) -> None:
        if not callable(policy):
            raise ArgumentTypeError(
                f"{name}: policy must be inline(...), mirror(...), fresh(...) or a function; got {got(policy)}"
            )
        if output_attribute is not None and not isinstance(output_attribute, str):
            raise ArgumentTypeError(f"{name}: output_attribute must be a str or None, got {got(output_attribute)}")
        if version is not None and not isinstance(version, str):
            raise ArgumentTypeError(f"{name}: version must be a str or None, got {got(version)}")
        if version == "":
            raise ArgumentError(f"{name}: version must not be empty; name what makes the results")
        self.name, self.policy, self.output_attribute, self.version = name, policy, output_attribute, version
        self.spares_source = spares_source

    def planned(self, results: Iterable[Any], ledger: Ledger | None = None) -> Iterator[Planned]:
        """The plan of each batch; it says which records have results now, if the ledger has something to ask."""
        if isinstance(results, (str, bytes, bytearray, Mapping)):
            raise ResultError(f"{self.name}: expected ProcessResults, nested in any iterables; got {got(results)}")
        for index, batch in enumerate(results):
            items = [batch] if type(batch) is ProcessResult else list(_flat(self.name, index, batch))
            found = [item for item in items if isinstance(item, ProcessResult)]
            failures = [item for item in items if isinstance(item, Failure)]
            writes = list(map(self._write, found))
            sources: list[tuple[str, ...]] = []
            if ledger is not None and (failures or ledger.outstanding):
                last_words = {tuple(item.path): item for item in items if item.path is not None}
                sources = [path for path, item in last_words.items() if isinstance(item, ProcessResult)]
            yield Planned(writes, failures, sources)

    def _write(self, result: ProcessResult) -> Write:
        path = checked_path("the policy's path", self.policy(result), of=result.path)
        if self.spares_source and path == tuple(result.path):
            raise ArgumentError(
                f'{self.name}: if_exists="replace" would drop the attributes of the processed node {as_text(path)} '
                f"itself; give inline() a base path, or the result a relative_path"
            )
        attributes = written_attributes(self.name, result, self.output_attribute)
        if self.version is not None:
            self._stamp(attributes, VERSION, self.version, result)
        if result.inputs is not None:
            self._stamp(attributes, INPUTS, result.inputs, result)
        return Write(path, checked_values(self.name, path, attributes))

    def _stamp(self, attributes: dict[str, Any], name: str, value: str, result: ProcessResult) -> None:
        if name in attributes:
            raise ArgumentError(
                f"{self.name}: the result at {as_text(result.path)} has an attribute {name!r}, which is where its "
                f"stamp goes; rename it"
            )
        attributes[name] = value


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
            raise ResultError(
                f"{name}: batch {index} (counted from 0): expected ProcessResults, nested in any iterables; got "
                f"{got(item)}. "
                f"A processor returns ProcessResult(path=record.path, output=...)"
            )


def _can_hold_results(item: Any) -> bool:
    if isinstance(item, (str, bytes, bytearray, Mapping)):
        return False
    try:
        iter(item)
    except TypeError:  # also of an array without dimensions, which is an Iterable by its type
        return False
    return True
