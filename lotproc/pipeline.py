"""The object facade: the same stages, recorded one by one and replayed by `run`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from lotdb import BaseNode
from toolz import pipe

from ._missing import Notes, noting, tell_all
from ._public import public
from ._reprs import cut
from ._spelling import also_named, spelled
from ._stage import MayHoldRoot, check_choice, check_function, check_root, stage
from .buffering import chunked
from .errors import ArgumentError, ArgumentTypeError, got
from .filters import match_key
from .models import Failure
from .parallel import Mode, parallel_map
from .snapshots import snapshot
from .targets import WriteTarget
from .traversal import Skip, leaves, level as nodes_at_level

__all__ = ["Pipeline"]

T = TypeVar("T")

#: Why a call can't follow what a pipeline gives so far.
_MISPLACED = {
    "tree": "there are no items yet; call traverse() right after from_root()",
    "items": "the items are there already; traverse() comes once, right after from_root()",
    "batches": "the items are in batches already; it comes once, before buffer()",
    "results": "the items are processed already; it comes before process()",
}


@public
@dataclass(frozen=True, repr=False)
class Pipeline(MayHoldRoot):
    """A source and the stages to run over it; immutable, and nothing runs before `run`.

    Each method returns a new `Pipeline`, so a common beginning can be kept and continued in several ways.

    >>> from lotdb import BaseNode
    >>> from lotproc import Pipeline
    >>> root = BaseNode("root")
    >>> _ = root.gns(["ann", "clip_1"]).set_attribute("seconds", 1.5)
    >>> clips = Pipeline.from_root(root).traverse("leaves")
    >>> clips = clips.filter_key("clip_").buffer(128)
    >>> clips
    Pipeline.from_root(<root>).traverse('leaves').filter_key('clip_').buffer(128)
    >>> clips.prepare(attribute_names=["seconds"]).process(len).run()
    [1]
    """

    source: Any
    #: The stages, each with the call that added it.
    steps: tuple[tuple[str, Callable[[Any], Any]], ...] = ()
    target: WriteTarget | None = None
    #: What the last step gives.
    gives: Literal["tree", "items", "batches", "results"] = "items"

    @classmethod
    @spelled
    def from_root(cls, root: BaseNode) -> Pipeline:
        """Start from a tree; `traverse` comes next."""
        check_root("Pipeline.from_root", root)
        return cls(root, gives="tree")

    @classmethod
    @spelled
    def from_iterable(cls, items: Iterable[Any]) -> Pipeline:
        """Start from any items: nodes, records, those of a store too; from an iterator only once."""
        if not isinstance(items, Iterable):
            raise ArgumentTypeError("Pipeline.from_iterable: items", expected="an iterable", got=got(items))
        return cls(items)

    @also_named(strategy="traversal")
    def traverse(
        self,
        traversal: Literal["leaves", "level"] = "leaves",
        level: int | Literal["deepest"] = "deepest",
        skip: Skip = None,
    ) -> Pipeline:
        """Walk the tree: its leaves, or the nodes at one level.

        Args:
            traversal: "leaves" or "level".
            level: The depth for "level", or "deepest".
            skip: Branches that do not exist for this walk, as in `leaves`. A pipeline that writes inline is run again
                with the branch that it writes to skipped, such as `"_proc"`: else its own results are the leaves.
        """
        check_choice("Pipeline.traverse", "traversal", traversal, ("leaves", "level"))
        self._expect("traverse", "tree")
        at_level = nodes_at_level(level, skip=skip)  # which checks the level, wanted or not
        walk = leaves(skip=skip) if traversal == "leaves" else at_level
        options = f", level={level!r}" if traversal == "level" else ""
        options += f", skip={_name(skip)}" if skip is not None else ""
        return self._then(f"traverse({traversal!r}{options})", walk, gives="items")

    @spelled
    def filter(self, predicate: Callable[[Any], Any]) -> Pipeline:
        """Keep the items for which `predicate`, a function of an item, is true."""
        check_function("Pipeline.filter", "predicate", predicate, "a function of an item")
        return self._then_items(f"filter({_name(predicate)})", _keep(predicate))

    @spelled
    def filter_key(self, pattern: str, invert: bool = False) -> Pipeline:
        """Keep the items in whose key the regular expression `pattern` is found; with `invert` the others."""
        call = f"filter_key({pattern!r}{', invert=True' if invert else ''})"
        return self._then_items(call, match_key(pattern, invert=invert))

    @spelled
    def buffer(self, size: int) -> Pipeline:
        """Gather the items into lists of at most `size`, which the processor gets."""
        step = chunked(size)
        self._expect("buffer", "items")
        return self._then(f"buffer({size!r})", step, gives="batches")

    @spelled
    def prepare(
        self,
        fn: Callable[[Any], Any] | None = None,
        attribute_names: Iterable[str] | None = None,
        include_all_attributes: bool = False,
    ) -> Pipeline:
        """Turn live nodes into records.

        Args:
            fn: A function of a node that makes what the processor gets, in place of a record.
            attribute_names: The attributes that the records have; by default none.
            include_all_attributes: Take all attributes.
        """
        if fn is not None:
            check_function("Pipeline.prepare", "fn", fn, "a function of a node")
            if attribute_names is not None or include_all_attributes:
                why = "give fn or attributes, not both; fn makes what the processor gets"
                raise ArgumentError("Pipeline.prepare:", why)
            return self._then_items(f"prepare({_name(fn)})", _map(fn))
        if include_all_attributes and attribute_names is not None:
            raise ArgumentError("Pipeline.prepare: give attribute_names or include_all_attributes=True, not both")
        if include_all_attributes:
            return self._then_items("prepare(include_all_attributes=True)", snapshot(...))
        options = "" if attribute_names is None else f"attribute_names={attribute_names!r}"
        return self._then_items(f"prepare({options})", snapshot(() if attribute_names is None else attribute_names))

    @also_named(processor="fn")
    def process(
        self, fn: Callable[[list[Any]], Any], mode: Mode = "sync", workers: int | None = None, **options: Any
    ) -> Pipeline:
        """Call a processor on each batch.

        Args:
            fn: A function of a list of records; of lists of one where nothing was buffered.
            mode: "sync", "thread" or "process", as in `parallel_map`; "process" needs `buffer` first.
            workers: Threads or processes; by default one for each CPU.
            **options: The other options of `parallel_map`: `on_error`, `retries`, `timeout` and so on.
        """
        self._expect("process", "items", "batches")
        if mode == "process" and self.gives != "batches":
            raise ArgumentError("Multiprocessing requires buffered batches before process(...)")
        if "max_workers" in options:
            raise ArgumentTypeError("Pipeline.process: max_workers is called workers here")
        process = parallel_map(fn, mode=mode, max_workers=workers, **options)
        batched = self if self.gives == "batches" else self._then("", chunked(1))
        given = {"mode": mode, **({} if workers is None else {"workers": workers}), **options}
        call = ", ".join([_name(fn), *(f"{name}={value!r}" for name, value in given.items())])
        return batched._then(f"process({call})", process, gives="results")

    @spelled
    def write(self, target: WriteTarget) -> Pipeline:
        """Write what the processor returns to a target."""
        if not isinstance(target, WriteTarget):
            expected = "an InlineTarget or another WriteTarget"
            raise ArgumentTypeError("Pipeline.write:", expected=expected, got=got(target))
        self._expect("write", "items", "batches", "results")
        return replace(self, target=target)

    def run(self) -> Any:
        """Run the pipeline.

        Returns:
            Without a target a list of what the processor returned, batch by batch; with one the target. The caller
            commits.
        """
        if self.gives == "tree":
            raise ArgumentError(f"Pipeline.run: {_MISPLACED['tree']}")
        results = pipe(self.source, *(step for _, step in self.steps))
        if self.target is None:
            return list(results)
        self.target.write_many(results)
        return self.target

    def __repr__(self) -> str:
        return cut(f"Pipeline.{'.'.join(self._calls())}")

    def _repr_html_(self) -> str:
        from ._html import block, boxes  # here, since a worker shows nothing

        return block(boxes([(call, "") for call in self._calls()]))

    def _calls(self) -> list[str]:
        source = "from_iterable(...)"
        if isinstance(self.source, BaseNode):
            source = f"from_root(<{self.source.key}>)"
        written = [] if self.target is None else [f"write({self.target!r})"]
        return [source, *(call for call, _ in self.steps if call), *written]

    def _then(self, call: str, step: Callable[[Any], Any], **changes: Any) -> Pipeline:
        return replace(self, steps=(*self.steps, (call, step)), **changes)

    def _then_items(self, call: str, step: Callable[[Any], Any]) -> Pipeline:
        """Add a stage over items: once they are in batches, it goes over the items of each batch."""
        self._expect(call.partition("(")[0], "items", "batches")
        return self._then(call, _in_batches(step) if self.gives == "batches" else step)

    def _expect(self, call: str, *given: str) -> None:
        """Refuse a call that comes at the wrong place."""
        if self.target is not None:
            raise ArgumentError(f"Pipeline.{call}: it comes after write(...), which is the last stage")
        if self.gives not in given:
            raise ArgumentError(f"Pipeline.{call}: {_MISPLACED[self.gives]}")


@stage("items")
def _keep(predicate: Callable[[T], Any]) -> Callable[[Iterable[T]], Iterator[T]]:
    return lambda items: (item for item in items if type(item) is Failure or predicate(item))


@stage("items")
def _map(fn: Callable[[T], Any]) -> Callable[[Iterable[T]], Iterator[Any]]:
    return lambda items: (item if type(item) is Failure else fn(item) for item in items)


@stage("batches")
def _in_batches(step: Callable[[Any], Any]) -> Callable[[Iterable[list[T]]], Iterator[list[Any]]]:
    """A stage over the items of each batch; batches that it leaves empty are dropped."""

    def run(batches: Iterable[list[T]]) -> Iterator[list[Any]]:
        notes = Notes()
        for batch in batches:
            with noting() as noted:
                kept = list(step(batch))
            notes.add_parts(noted.values())
            if kept:
                yield kept
        tell_all(notes)

    return run


def _name(fn: object) -> str:
    """A function by its name, anything else by its repr."""
    return getattr(fn, "__name__", None) or repr(fn)
