"""Write targets: a write policy bound to the root or the store that it writes to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lotdb import BaseNode

from ._public import public
from ._reprs import cut, short
from ._spelling import spelled_class
from ._stage import MayHoldRoot
from .errors import brief
from .models import ProcessResult, WriteReport, as_told, counted, html_of
from .stores.protocol import Store
from .write_policies import FreshWritePolicy, InlineWritePolicy, MirrorWritePolicy, as_policy, asked
from .writing.planning import Policy
from .writing.running import write

__all__ = ["InlineTarget", "MirrorTarget", "NewDatabaseTarget", "WriteTarget"]


@public
@spelled_class
class WriteTarget(MayHoldRoot):
    """A policy, the root or the store that it writes to, and the name for outputs.

    >>> from lotdb import BaseNode
    >>> from lotproc import InlineWritePolicy, ProcessResult, WriteTarget
    >>> policy = InlineWritePolicy(base_path=("results", "run_001"))
    >>> target = WriteTarget(root=BaseNode("root"), policy=policy)
    >>> target.write(ProcessResult(("clip_1",), output=0.5))
    >>> target.written_paths
    [('clip_1', 'results', 'run_001')]

    Args:
        root: The node below which the policy's paths start; or a store.
        policy: `inline(...)`, `mirror(...)`, `fresh(...)`, or any function from a result to a path.
        output_attribute: The attribute that holds a result's output; `None` writes a result's attributes only.

    Attributes:
        written_paths: The paths written so far, in order; a list of tuples. A write that failed adds none.
        report: What the last write did, with the failures that it got; `None` before the first.
    """

    def __init__(self, root: BaseNode | Store, policy: Policy, output_attribute: str | None = "result") -> None:
        write(policy, root, output_attribute=output_attribute)  # checks all three now
        self.root, self.policy, self.output_attribute = root, policy, output_attribute
        self.written_paths: list[tuple[str, ...]] = []
        self.report: WriteReport | None = None

    def __repr__(self) -> str:
        output = f"output_attribute={short(self.output_attribute)}"
        return cut(f"{type(self).__name__}({brief(self.root)}, {short(self.policy)}, {output})")

    def _repr_html_(self) -> str:
        told = [("root", self.root), ("policy", self.policy), ("output_attribute", self.output_attribute)]
        return html_of(self, "", [*told, ("written", as_told(counted(len(self.written_paths), "path")))])

    @property
    def base_path(self) -> tuple[str, ...]:
        """That of the policy, if it has one."""
        base: tuple[str, ...] = self.policy.base_path  # type: ignore[attr-defined]
        return base

    def target_path(self, result: ProcessResult) -> tuple[str, ...]:
        """The path that `result` is written to."""
        return asked(as_policy(type(self).__name__, self.policy), result)

    def write(self, result: ProcessResult) -> None:
        """Write one result; in a tree, the caller commits."""
        self.write_many([result])

    def write_many(self, results: Iterable[Any]) -> None:
        """Write results, nested in any iterables; in a tree, the caller commits, and a failure leaves no trace."""
        paths: list[tuple[str, ...]] = []

        def recording(result: ProcessResult) -> tuple[str, ...]:
            paths.append(self.target_path(result))
            return paths[-1]

        recording.starts_at_top = getattr(self.policy, "starts_at_top", False)  # type: ignore[attr-defined]
        recording.asked_policy = self.policy  # type: ignore[attr-defined]
        try:
            self.report = write(recording, self.root, results, output_attribute=self.output_attribute)
        except BaseException as error:
            self.report = getattr(error, "report", None)
            raise
        self.written_paths += paths


@public
@spelled_class
class InlineTarget(WriteTarget):
    """Write below the nodes that were processed: `WriteTarget` with `InlineWritePolicy(base_path)`.

    >>> from lotdb import BaseNode
    >>> from lotproc import InlineTarget, ProcessResult
    >>> InlineTarget(root=BaseNode("root")).target_path(ProcessResult(("clip_1",)))
    ('clip_1', '_proc')
    """

    def __init__(
        self, root: BaseNode | Store, output_attribute: str | None = "result", base_path: tuple[str, ...] = ("_proc",)
    ) -> None:
        super().__init__(root, InlineWritePolicy(base_path), output_attribute)


@public
@spelled_class
class MirrorTarget(WriteTarget):
    """Write the same paths into another tree: `WriteTarget` with `MirrorWritePolicy(base_path)`.

    >>> from lotdb import BaseNode
    >>> from lotproc import MirrorTarget, ProcessResult
    >>> target = MirrorTarget(root=BaseNode("mirror"))
    >>> target.target_path(ProcessResult(("clip_1",), relative_path=("derived",)))
    ('clip_1', 'derived')
    """

    def __init__(
        self, root: BaseNode | Store, output_attribute: str | None = "result", base_path: tuple[str, ...] = ()
    ) -> None:
        super().__init__(root, MirrorWritePolicy(base_path), output_attribute)


@public
@spelled_class
class NewDatabaseTarget(WriteTarget):
    """Write the same paths into a fresh database: `WriteTarget` with `FreshWritePolicy(base_path)`.

    >>> from lotdb import BaseNode
    >>> from lotproc import NewDatabaseTarget, ProcessResult
    >>> target = NewDatabaseTarget(root=BaseNode("derived"))
    >>> target.target_path(ProcessResult(("clip_1",)))
    ('clip_1',)
    """

    def __init__(
        self, root: BaseNode | Store, output_attribute: str | None = "result", base_path: tuple[str, ...] = ()
    ) -> None:
        super().__init__(root, FreshWritePolicy(base_path), output_attribute)
