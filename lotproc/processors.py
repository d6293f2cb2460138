"""Whole pipelines from small specifications, and the one-call helper on top."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from lotdb import BaseNode
from toolz import complement

from ._public import public
from ._reprs import bounded_repr
from ._spelling import also_named, spelled, spelled_class
from .errors import ArgumentError
from .models import html_of_fields
from .parallel import Mode
from .pipeline import Pipeline
from .targets import WriteTarget
from .traversal import Skip

__all__ = [
    "PreparationSpec",
    "ProcessingSpec",
    "SelectionSpec",
    "add_preparation_stage",
    "add_processing_stage",
    "add_write_stage",
    "build_node_process_pipeline",
    "build_selection_pipeline",
    "node_process_cruncher",
]


@public
@spelled_class
@dataclass(frozen=True)
class SelectionSpec:
    """Which nodes to visit, and which of them to keep.

    Args:
        traversal: "leaves" or "level".
        level: The depth for "level"; or "deepest".
        filter_fn: A function of a node that is true for those to keep.
        filter_key_pattern: A regular expression to find in the key.
        invert_filter: Keep the nodes whose key does not match `filter_key_pattern`; where there is none, those for
            which `filter_fn` is not true.
        skip: Branches that do not exist for this walk, as in `leaves`: `"_proc"` where a run before wrote inline.
    """

    traversal: Literal["leaves", "level"] = "leaves"
    level: int | Literal["deepest"] = "deepest"
    filter_fn: Callable[[Any], Any] | None = None
    filter_key_pattern: str | None = None
    invert_filter: bool = False
    skip: Skip = None

    __repr__ = bounded_repr
    _repr_html_ = html_of_fields


@public
@spelled_class
@dataclass(frozen=True)
class PreparationSpec:
    """How nodes become batches of records.

    Args:
        buffer_size: Records in a batch, at least 1.
        prepare_fn: A function of a node that makes what the processor gets, in place of a record.
        attribute_names: The attributes to take.
        include_all_attributes: Take all attributes.
    """

    buffer_size: int = 1000
    prepare_fn: Callable[[Any], Any] | None = None
    attribute_names: Iterable[str] | None = None
    include_all_attributes: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.attribute_names, Iterator):  # which could be used only once
            object.__setattr__(self, "attribute_names", tuple(self.attribute_names))

    __repr__ = bounded_repr
    _repr_html_ = html_of_fields


@public
@spelled_class
@dataclass(frozen=True)
class ProcessingSpec:
    """Where the processor runs.

    Args:
        mode: "sync", "thread" or "process".
        workers: Threads or processes; by default one for each CPU.
    """

    mode: Mode = "sync"
    workers: int | None = None

    __repr__ = bounded_repr
    _repr_html_ = html_of_fields


@public
@spelled
def build_selection_pipeline(root: BaseNode, spec: SelectionSpec | None = None) -> Pipeline:
    """Make the beginning of a pipeline: visit and filter.

    >>> from lotdb import BaseNode
    >>> from lotproc import SelectionSpec, build_selection_pipeline
    >>> clips = SelectionSpec(filter_key_pattern="clip_")
    >>> build_selection_pipeline(BaseNode("root"), clips)
    Pipeline.from_root(<root>).traverse('leaves').filter_key('clip_')

    Raises:
        ArgumentError: The specification can't be used.
    """
    spec = spec or SelectionSpec()
    if spec.invert_filter and spec.filter_key_pattern is None and spec.filter_fn is None:
        raise ArgumentError("SelectionSpec: invert_filter=True has no filter to invert")
    pipeline = Pipeline.from_root(root).traverse(spec.traversal, level=spec.level, skip=spec.skip)
    if spec.filter_fn is not None:
        inverted = spec.invert_filter and spec.filter_key_pattern is None
        pipeline = pipeline.filter(complement(spec.filter_fn) if inverted else spec.filter_fn)
    if spec.filter_key_pattern is not None:
        pipeline = pipeline.filter_key(spec.filter_key_pattern, invert=spec.invert_filter)
    return pipeline


@public
@spelled
def add_preparation_stage(pipeline: Pipeline, spec: PreparationSpec | None = None) -> Pipeline:
    """Continue a pipeline: gather into batches, and turn nodes into records.

    >>> from lotproc import Pipeline, PreparationSpec, add_preparation_stage
    >>> add_preparation_stage(Pipeline.from_iterable([]), PreparationSpec(buffer_size=32))
    Pipeline.from_iterable(...).buffer(32).prepare()

    Raises:
        ArgumentError: The specification can't be used.
    """
    spec = spec or PreparationSpec()
    return pipeline.buffer(spec.buffer_size).prepare(
        spec.prepare_fn, attribute_names=spec.attribute_names, include_all_attributes=spec.include_all_attributes
    )


@public
@spelled
def add_processing_stage(
    pipeline: Pipeline, fn: Callable[[list[Any]], Any], spec: ProcessingSpec | None = None
) -> Pipeline:
    """Continue a pipeline: call `fn` on each batch.

    >>> from lotproc import Pipeline, add_processing_stage
    >>> add_processing_stage(Pipeline.from_iterable([1, 2]).buffer(2), sum).run()
    [3]

    Raises:
        ArgumentError: The specification can't be used.
    """
    spec = spec or ProcessingSpec()
    return pipeline.process(fn, mode=spec.mode, workers=spec.workers)


@public
@spelled
def add_write_stage(pipeline: Pipeline, target: WriteTarget | None) -> Pipeline:
    """End a pipeline: write to a target; `None` leaves it as it is.

    >>> from lotproc import Pipeline, add_write_stage
    >>> add_write_stage(Pipeline.from_iterable([1, 2]), None)
    Pipeline.from_iterable(...)
    """
    return pipeline if target is None else pipeline.write(target)


@public
@also_named(processor="fn")
def build_node_process_pipeline(
    root: BaseNode,
    fn: Callable[[list[Any]], Any],
    *,
    selection: SelectionSpec | None = None,
    preparation: PreparationSpec | None = None,
    processing: ProcessingSpec | None = None,
    target: WriteTarget | None = None,
) -> Pipeline:
    """Make a whole pipeline: select, prepare, process, write.

    >>> from lotdb import BaseNode
    >>> from lotproc import PreparationSpec, build_node_process_pipeline
    >>> root = BaseNode("root")
    >>> _ = root.gn("clip_1"), root.gn("clip_2")
    >>> batches = PreparationSpec(buffer_size=32)
    >>> build_node_process_pipeline(root, len, preparation=batches).run()
    [2]

    Args:
        root: The tree to visit.
        fn: The processor: a function of a batch of records.
        selection: Which nodes; by default all leaves.
        preparation: How they become batches of records; by default 1,000 a batch, without attributes.
        processing: Where the processor runs; by default in line.
        target: Where the results go; `None`: `run` returns them.

    Returns:
        A `Pipeline`, which runs when its `run` is called.

    Raises:
        ArgumentError: A specification can't be used.
    """
    pipeline = build_selection_pipeline(root, selection)
    pipeline = add_preparation_stage(pipeline, preparation)
    pipeline = add_processing_stage(pipeline, fn, processing)
    return add_write_stage(pipeline, target)


@public
@also_named(processor="fn")
def node_process_cruncher(
    root: BaseNode,
    fn: Callable[[list[Any]], Any],
    *,
    traversal: Literal["leaves", "level"] = "leaves",
    level: int | Literal["deepest"] = "deepest",
    filter_fn: Callable[[Any], Any] | None = None,
    filter_key_pattern: str | None = None,
    invert_filter: bool = False,
    skip: Skip = None,
    buffer_size: int = 1000,
    prepare_fn: Callable[[Any], Any] | None = None,
    attribute_names: Iterable[str] | None = None,
    include_all_attributes: bool = False,
    mode: Mode = "sync",
    workers: int | None = None,
    target: WriteTarget | None = None,
) -> Any:
    """Select, prepare, process and write in one call.

    >>> from lotdb import BaseNode
    >>> from lotproc import node_process_cruncher
    >>> root = BaseNode("root")
    >>> _ = root.gn("clip_1"), root.gn("notes")
    >>> def keys(records):
    ...     return [record.key for record in records]
    >>> node_process_cruncher(root, keys, filter_key_pattern="clip_")
    [['clip_1']]

    Args:
        root: The tree to visit.
        fn: The processor: a function of a batch of records.
        target: Where the results go.
        **options: The fields of `SelectionSpec`, `PreparationSpec` and `ProcessingSpec`.

    Returns:
        Without a target a list of what `fn` returned, batch by batch; with one the target.

    Raises:
        ArgumentError: An option can't be used.
    """
    return build_node_process_pipeline(
        root,
        fn,
        selection=SelectionSpec(traversal, level, filter_fn, filter_key_pattern, invert_filter, skip),
        preparation=PreparationSpec(buffer_size, prepare_fn, attribute_names, include_all_attributes),
        processing=ProcessingSpec(mode, workers),
        target=target,
    ).run()
