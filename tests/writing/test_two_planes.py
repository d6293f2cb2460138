"""One tree, whichever plane wrote it: records and live nodes against a plain loop over live nodes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from lotdb import BaseNode
from recording import Path, committed, contents, database, examples
from test_bulk import PLANES
from ZODB.POSException import ConflictError

import lotproc as lp
from lotproc.writing import conflicts as _conflicts

keys = st.sampled_from(["a", "b", "c"])
paths = st.lists(keys, max_size=3).map(tuple)
outputs = st.sampled_from([0, 1, [0], [0, 9], [1], (1, [9])])
results = st.builds(
    lp.ProcessResult,
    path=paths,
    output=outputs,
    attributes=st.dictionaries(st.sampled_from(["x", "y"]), st.integers(0, 2), max_size=1),
    inputs=st.sampled_from([None, "in1", "in2"]),
)
batches = st.lists(results, max_size=3)

#: What a source may do to the tree between two batches, on the connection that is written to.
Change = tuple[str, Path]
changes = st.tuples(
    st.sampled_from(["set x", "set result", "delete x", "make", "delete", "append", "commit", "commit", "abort"]), paths
)
scripts = st.lists(batches | batches | st.lists(changes, min_size=1, max_size=2).map(tuple), max_size=6)


def found(root: BaseNode, path: Path) -> BaseNode | None:
    node: BaseNode | None = root
    for key in path:
        node = None if node is None else node.node_storage.get(key)
    return node


def change(root: BaseNode, how: str, path: Path) -> bool:
    """Do to live nodes what a source does to them; whether what it looks for is there."""
    transactions, node = root._p_jar.transaction_manager, found(root, path)
    if how == "commit":
        transactions.commit()
    elif how == "abort":
        transactions.abort()
    elif how == "make":
        root.get_node_path(path)
    elif how == "set x":
        root.get_node_path(path).set_attribute("x", 7)
    elif how == "set result":
        root.get_node_path(path).set_attribute("result", [7])
    elif node is None:
        return False
    elif how == "delete x":
        node.delete_attribute("x")
    elif how == "delete" and path:
        found(root, path[:-1]).delete_node(path[-1])  # type: ignore[union-attr]
    elif how == "append" and isinstance(node.get_attribute("result"), list):
        node.get_attribute("result").append(9)  # in place, of which the database is not told
    return True


class Loop:
    """What `write` does, as a loop over live nodes."""

    def __init__(
        self, root: BaseNode, theirs: BaseNode | None, if_exists: str, version: str | None, every: int | None
    ) -> None:
        self.root, self.theirs, self.if_exists, self.version, self.every = root, theirs, if_exists, version, every
        self.transactions = root._p_jar.transaction_manager
        self.written = self.skipped = self.commits = self.since = 0
        self.last_path: Path | None = None
        self.looks: list[bool] = []

    def one(self, result: lp.ProcessResult) -> None:
        stamps = {"_version": self.version, "_inputs": result.inputs}
        attributes = {**result.attributes, "result": result.output}
        attributes.update({name: stamp for name, stamp in stamps.items() if stamp is not None})
        node = found(self.root, result.path)
        if node is None:
            node = self.root.get_node_path(result.path)
        elif self.if_exists == "error":
            raise lp.ExistsError
        elif self.if_exists == "skip" and self.version in (None, node.get_attribute("_version")):
            self.skipped += 1
            return
        else:
            for name in node.all_attribute_keys() if self.if_exists == "replace" else stamps:
                if name not in attributes:
                    node.delete_attribute(name)
        for name, value in attributes.items():
            node.set_attribute(name, value)
        self.written += 1
        self.last_path = result.path

    @property
    def counts(self) -> tuple[int, int, Path | None]:
        return self.written, self.skipped, self.last_path

    def run(self, script: list[Any]) -> lp.WriteReport:
        self._restart(self.counts)
        try:
            for step in script:
                if isinstance(step, tuple):
                    self._changed(step)
                    continue
                self.kept.append(step)
                for result in step:
                    self.one(result)
                if self.every is not None and self.written - self.since >= self.every:
                    self._commit()
            if self.every is not None and self.written > self.since:
                self._commit()
        except (lp.ExistsError, ConflictError) as error:
            try:
                self.savepoint.rollback()
            except Exception:
                self.transactions.abort()
            self.written, self.skipped, self.last_path = self.saved
            error.report = self.report  # type: ignore[attr-defined]
            raise
        return self.report

    def _restart(self, saved: tuple[int, int, Path | None]) -> None:
        self.saved, self.kept = saved, []
        self.is_ours = not self.root._p_jar._registered_objects
        self.savepoint = self.transactions.savepoint()

    def _commit(self) -> None:
        while True:
            try:
                self.transactions.commit()
                break
            except ConflictError:
                if not self.is_ours:
                    raise
                self._apply_again()
        self.commits += 1
        self._restart(self.counts)
        self.since = self.written

    def _apply_again(self) -> None:
        self.transactions.abort()
        self.written, self.skipped, self.last_path = self.saved
        kept, self.kept = self.kept, []
        for batch in kept:
            self.kept.append(batch)
            for result in batch:
                self.one(result)

    def _changed(self, step: tuple[Change, ...]) -> None:
        for how, path in step:
            self.looks.append(change(self.theirs or self.root, how, path))
            if self.theirs is not None:
                self.theirs._p_jar.transaction_manager.commit()
            elif how == "commit":
                self._restart(self.counts)
            elif how == "abort":  # results are not lost by it
                self._apply_again()

    @property
    def report(self) -> lp.WriteReport:
        return lp.WriteReport(self.written, self.skipped, self.commits, self.last_path)


class Planes(RuleBasedStateMachine):
    """Three databases that get the same: results by records, by live nodes, and by the loop."""

    @initialize(tree=st.dictionaries(paths, st.integers(0, 2), max_size=4))
    def plant(self, tree: dict[Path, int]) -> None:
        self.stack = ExitStack()
        self.dbs = {name: self.stack.enter_context(database()) for name in (*PLANES, "loop")}
        self.roots = {name: db.open_connection() for name, db in self.dbs.items()}
        self.theirs = {name: db.open_connection(connection_id="theirs") for name, db in self.dbs.items()}
        for root in self.roots.values():
            for path, x in tree.items():
                root.get_node_path(path).set_attribute("x", x)
            root._p_jar.transaction_manager.commit()

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stack.close()

    @rule(change_of_caller=changes)
    def touch(self, change_of_caller: Change) -> None:
        """The caller changes the tree before a call."""
        for root in self.roots.values():
            change(root, *change_of_caller)

    @rule(
        script=scripts,
        if_exists=st.sampled_from(["merge", "replace", "skip", "skip", "error"]),
        version=st.sampled_from([None, "v1", "v2"]),
        every=st.none() | st.integers(1, 7),
        by_others=st.booleans(),
    )
    def run(self, script: list[Any], if_exists: Any, version: str | None, every: int | None, by_others: bool) -> None:
        """Results, and what their source changes between them, or somebody else on another connection."""

        looks: list[bool] = []

        def by_write(root: BaseNode, theirs: BaseNode) -> lp.WriteReport:
            looks.clear()

            def source() -> Iterator[list[lp.ProcessResult]]:
                for step in own(script):
                    if isinstance(step, list):
                        yield step
                    else:
                        for each in step:
                            looks.append(change(theirs if by_others else root, *each))
                            if by_others:
                                theirs._p_jar.transaction_manager.commit()

            return lp.write(lp.mirror(), root, source(), if_exists=if_exists, version=version, commit_every=every)

        for root in self.theirs.values():
            root._p_jar.transaction_manager.abort()
        loop = Loop(self.roots["loop"], self.theirs["loop"] if by_others else None, if_exists, version, every)
        wanted = outcome(lambda: loop.run(own(script)))
        for name, plane in PLANES.items():
            if name not in self.roots:
                continue
            with plane():
                came = outcome(lambda name=name: by_write(self.roots[name], self.theirs[name]))
            # Results that wait show from their commit on. A source that has not found one is another source.
            if came[0] is lp.UncommittedError or looks != loop.looks:
                del self.roots[name]
            else:
                assert came == wanted
        self._compare()

    def _compare(self) -> None:
        trees = {}
        for name, root in self.roots.items():
            try:
                root._p_jar.transaction_manager.commit()
            except ConflictError:
                root._p_jar.transaction_manager.abort()
            root._p_jar.cacheMinimize()  # what was changed in place and not stored is gone
            trees[name] = contents(root)
            assert trees[name] == committed(self.dbs[name])
        for tree in trees.values():
            assert tree == trees["loop"]


def own(script: list[Any]) -> list[Any]:
    """The script with values of its own, since they may be changed in place."""
    return [[copy.deepcopy(result) for result in step] if isinstance(step, list) else step for step in script]


def outcome(call: Callable[[], lp.WriteReport]) -> tuple[Any, lp.WriteReport]:
    try:
        with mock.patch.object(_conflicts, "FIRST_PAUSE", 0):
            return None, call()
    except ConflictError as error:
        return ConflictError, error.report  # type: ignore[attr-defined]
    except lp.LotprocError as error:
        return type(error), error.report  # type: ignore[attr-defined]


TestPlanes = Planes.TestCase
TestPlanes.settings = settings(max_examples=examples(60), stateful_step_count=6)
