"""What every stage keeps: data last, curried, checked at once, lazy, closing, picklable; and errors that travel."""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import itertools
import pickle
import pydoc
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cloudpickle
import more_itertools
import numpy as np
import pytest
import toolz
from hypothesis import given, strategies as st
from lotdb import BaseNode
from trees import PLAIN_KEYS, build, stored, unsaved

import lotproc as lp
from lotproc import folds, parallel
from lotproc.writing import running

#: Some names here are those of no node, on purpose; what is told of them is held by `test_missing_names`.
pytestmark = pytest.mark.filterwarnings("ignore:.* no node had an attribute")

# --- The stages, and something to feed them --------------------------------------------------------------------------


class Source:
    """An iterator that counts what is pulled from it, and knows whether it was closed."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items, self.pulled, self.closed = iter(items), 0, False

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Any:
        item = next(self.items)
        self.pulled += 1
        return item

    def close(self) -> None:
        self.closed = True


def records() -> list[lp.NodeRecord]:
    """Ten records; the first five below "a", the others below "b"."""
    return [lp.NodeRecord(("a" if n < 5 else "b", str(n)), str(n), {"n": n}) for n in range(10)]


def nodes() -> list[BaseNode]:
    return list(lp.leaves(build({str(n): {} for n in range(10)})))


def results() -> list[lp.ProcessResult]:
    return [lp.ProcessResult(record.path, output=n) for n, record in enumerate(records())]


def is_even(n: int) -> bool:
    return n % 2 == 0


def is_even_key(node: BaseNode) -> bool:
    return is_even(int(node.key))


def first_key(record: lp.NodeRecord) -> str:
    return record.path[0]


def one(item: object) -> int:
    return 1


def summed(batch: lp.NodeRecord) -> int:
    return batch.attributes["n"] * 2


@dataclass
class Case:
    """A call of a stage without its data, the items to call it with, and what it pulls of them."""

    function: Any
    args: tuple[Any, ...]
    options: dict[str, Any]
    items: Callable[[], list[Any]]
    #: How many items have been pulled after the first next(), after the second, and so on.
    pulled: Iterable[int]

    @property
    def stage(self) -> Any:
        return self.function(*self.args, **self.options)

    @property
    def by_name(self) -> dict[str, Any]:
        return {**dict(zip(positional(self.function), self.args, strict=False)), **self.options}


def case(function: Any, *args: Any, items: Callable[[], list[Any]], pulled: Iterable[int], **options: Any) -> Case:
    return Case(function, args, options, items, pulled)


def positional(function: Any) -> list[str]:
    """The names of a stage's positional arguments; that of the data is the last."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


EACH = range(1, 11)
CASES = {
    "match_key": case(lp.match_key, "[0-4]", items=records, pulled=range(1, 6)),
    "match_key, inverted": case(lp.match_key, "[0-4]", invert=True, items=records, pulled=range(6, 11)),
    "match_key, compiled": case(lp.match_key, re.compile("[0-4]"), items=records, pulled=range(1, 6)),
    "match_path": case(lp.match_path, "b/*", items=records, pulled=range(6, 11)),
    "where": case(lp.where, "n", 3, items=records, pulled=[4]),
    "where, function": case(lp.where, "n", is_even, items=records, pulled=[1, 3, 5, 7, 9]),
    "snapshot": case(lp.snapshot, "depth", items=nodes, pulled=EACH),
    "snapshot, all": case(lp.snapshot, ..., payload=is_even_key, items=nodes, pulled=EACH),
    "chunked": case(lp.chunked, 3, items=records, pulled=[3, 6, 9, 10]),
    "chunked_by": case(lp.chunked_by, 1, items=records, pulled=[6, 10]),
    "chunked_by, function": case(lp.chunked_by, first_key, items=records, pulled=[6, 10]),
    "chunked_bytes": case(lp.chunked_bytes, 3, size=one, items=records, pulled=[4, 7, 10, 10]),
    "chunked_bytes, pickled": case(lp.chunked_bytes, 1, items=records, pulled=[*range(2, 11), 10]),
    "gather": case(lp.gather, 1, items=records, pulled=[6, 10]),
    "join": case(
        lp.join, [lp.NodeRecord(("a", "1"), "1", {"m": 1})], how="anti", items=records, pulled=[1, *range(3, 11)]
    ),
    "join, mapping": case(lp.join, {"a": {"m": 1}, "b": {"m": 2}}, on=1, prefix="of_", items=records, pulled=EACH),
    "sample": case(lp.sample, 0.5, items=records, pulled=[1, 2, 6, 9]),
    "sample, rank": case(lp.sample, None, rank=1, world=2, items=records, pulled=[1, 2, 4, 5, 6, 8, 10]),
    "split": case(lp.split, {"train": 0.5, "test": 0.5}, part="test", by=2, items=records, pulled=[2, 4, 5, 6, 7, 8]),
    "progress": case(lp.progress, desc="clips", items=records, pulled=EACH),
    "rollup": case(lp.rollup, folds.total("n"), items=records, pulled=[6, 10, 10]),
    "rollup, several, in parts": case(
        lp.rollup,
        {"n": folds.stats("n"), "best": folds.top(2, "n"), "all": folds.count()},
        depths=[0, 1],
        partial=True,
        items=records,
        pulled=[6, 10, 10],
    ),
    "rollup, function": case(lp.rollup, folds.Fold(one, max, one), depths=1, items=records, pulled=[6, 10]),
    "plan": case(lp.plan, lp.inline("_proc"), output_attribute="n", items=results, pulled=EACH),
    "parallel_map": case(lp.parallel_map, summed, mode="sync", items=records, pulled=EACH),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())

TREE = {"a": {"1": {}, "2": {"x": {}}, "_proc": {}}, "b": {}, "c": {"1": {}}}
TRAVERSALS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "leaves": (lp.leaves, (), {}),
    "leaves, skipping": (lp.leaves, (), {"skip": "_*"}),
    "level": (lp.level, (2,), {}),
    "deepest": (lp.level, ("deepest",), {"skip": "x"}),
    "children": (lp.children, (), {}),
    "walk": (lp.walk, (), {"order": "breadth", "min_depth": 1, "max_depth": 2}),
    "glob": (lp.glob, ("*/[12]",), {}),
    "glob, tuple": (lp.glob, (("a", "**"),), {}),
}
every_traversal = pytest.mark.parametrize(("function", "args", "options"), TRAVERSALS.values(), ids=TRAVERSALS.keys())


def plain(items: Iterable[Any]) -> list[Any]:
    """Items in a form that can be compared; live nodes by their paths."""
    return [("node", *item.gps()) if isinstance(item, BaseNode) else item for item in items]


# --- Data last, curried ----------------------------------------------------------------------------------------------


@every_case
def test_a_partial_call_gives_what_a_full_call_gives(case: Case) -> None:
    expected = plain(case.function(*case.args, case.items(), **case.options))
    assert plain(case.stage(case.items())) == expected
    assert plain(case.stage(iter(case.items()))) == expected
    assert len(expected) == len(list(case.pulled))


@every_case
def test_positional_arguments_may_be_spelled_as_keywords(case: Case) -> None:
    expected = plain(case.stage(case.items()))
    data = positional(case.function)[-1]
    assert plain(case.function(**case.by_name, **{data: case.items()})) == expected
    assert plain(case.function(**case.by_name)(case.items())) == expected
    assert plain(case.function(**case.by_name)(**{data: case.items()})) == expected
    assert plain(case.stage(**{data: case.items()})) == expected


@every_case
def test_the_data_may_come_first_as_a_keyword(case: Case) -> None:
    expected = plain(case.stage(case.items()))
    data = positional(case.function)[-1]
    if not case.args:  # nothing is missing then
        assert plain(case.function(**{data: case.items()})) == expected
        return
    assert plain(case.function(**{data: case.items()})(*case.args, **case.options)) == expected
    assert plain(case.function(**{data: case.items()})(**case.by_name)) == expected


@every_case
def test_a_stage_can_be_used_again(case: Case) -> None:
    stage = case.stage
    assert plain(stage(case.items())) == plain(stage(case.items()))


@every_traversal
def test_a_partial_traversal_gives_what_a_full_call_gives(
    function: Any, args: tuple[Any, ...], options: dict[str, Any]
) -> None:
    root = build(TREE)
    expected = plain(function(*args, root, **options))
    assert expected
    assert positional(function)[-1] == "root"
    by_name = dict(zip(positional(function), args, strict=False))
    assert plain(function(*args, **options)(root)) == expected
    assert plain(function(*args, **options)(root=root)) == expected
    assert plain(function(**by_name, **options)(root)) == expected
    assert plain(function(**by_name, **options, root=root)) == expected


def test_arguments_may_come_one_at_a_time() -> None:
    expected = list(lp.where("n", 3, records()))
    assert len(expected) == 1
    assert list(lp.where("n")(3)(records())) == expected
    assert list(lp.where("n")(3, records())) == expected
    assert list(lp.where("n")(test=3)(items=records())) == expected
    assert list(lp.where(items=records())("n")(3)) == expected
    inverted = lp.where("n", invert=True)(3)
    assert len(list(inverted(records()))) == 9


def test_stages_compose() -> None:
    root = build({"ann": {"clip_1": {}, "clip_2": {}, "note": {}}, "bob": {"clip_1": {}}})
    stages = [lp.leaves(skip="_*"), lp.match_key("clip"), lp.snapshot("depth"), lp.chunked_by(1)]
    piped = list(toolz.pipe(root, *stages))
    assert [[record.path for record in batch] for batch in piped] == [
        [("ann", "clip_1"), ("ann", "clip_2")],
        [("bob", "clip_1")],
    ]
    assert list(toolz.compose(*reversed(stages))(root)) == piped
    assert list(stages[3](stages[2](stages[1](stages[0](root))))) == piped


@every_case
def test_a_stage_that_waits_shows_its_call(case: Case) -> None:
    text = repr(case.stage)
    assert text.startswith(f"{case.function.__name__}(")
    assert text.endswith(")")


def test_the_repr_of_a_stage_is_the_call_that_made_it() -> None:
    for stage in (lp.chunked(2), lp.leaves(skip="_*"), lp.where("n", 3, invert=True), lp.snapshot(...), lp.where("n")):
        assert eval(repr(stage), vars(lp)) == stage


def test_the_repr_of_a_stage_that_has_its_data_already_names_it() -> None:
    assert repr(lp.chunked(items=[1, 2])) == "chunked(items=[1, 2])"


def test_the_repr_of_a_stage_with_a_large_tree_does_not_count_its_nodes() -> None:
    assert repr(lp.write(lp.inline(), build({"a": {}}))) == "write(InlineWritePolicy(base_path=()), <root>)"


def test_stages_are_equal_where_their_arguments_are() -> None:
    assert lp.chunked(2) == lp.chunked(2)
    assert lp.chunked(2) != lp.chunked(3)
    assert lp.chunked(2) != lp.chunked_by(2)
    assert lp.leaves(skip="a") != lp.leaves()
    assert lp.chunked(2) != 2


def test_stages_with_arrays_as_arguments_can_be_compared() -> None:
    stage = lp.where("n", np.arange(3))
    assert stage == stage
    assert (lp.where("n", np.arange(3)) == lp.where("n", np.arange(4))) is False


def test_the_signature_of_a_stage_has_the_data_last() -> None:
    assert list(inspect.signature(lp.where).parameters) == ["name", "test", "items", "invert"]
    assert list(inspect.signature(lp.leaves).parameters) == ["root", "skip"]
    keyword_only = [p.name for p in inspect.signature(lp.walk).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert positional(lp.walk) == ["root"]
    assert keyword_only == ["order", "min_depth", "max_depth", "skip"]


@every_case
def test_the_signature_and_the_help_of_a_stage_are_those_of_what_is_still_to_come(case: Case) -> None:
    data = positional(case.function)[-1]
    assert list(inspect.signature(case.stage).parameters) == [data]
    first, _, rest = case.stage.__doc__.partition("\n\n")
    assert first == f"{case.stage!r}({data})"
    assert rest == inspect.getdoc(case.function)
    assert rest in pydoc.plain(pydoc.render_doc(case.stage)).replace("\n    ", "\n")


def test_the_signature_of_a_stage_that_waits_for_more_has_the_options_that_are_not_given() -> None:
    assert list(inspect.signature(lp.where("n")).parameters) == ["test", "items", "invert"]
    assert list(inspect.signature(lp.where(test=3, invert=True)).parameters) == ["name", "items"]
    assert list(inspect.signature(type(lp.leaves())).parameters) == ["function", "given", "ready"]
    assert inspect.getdoc(type(lp.leaves())).startswith("A stage with all its arguments but the data")  # type: ignore[union-attr]


def test_completion_shows_nothing_private() -> None:
    names = dir(lp.chunked(2))
    assert {"function", "given", "ready", "run"} <= set(names)
    assert [name for name in names if re.match("_[^_]", name)] == []


def text_of(thing: Any) -> str:
    """The text in its HTML."""
    top = ElementTree.fromstring(thing._repr_html_())
    top.remove(top[0])  # its style
    return "".join(top.itertext())


@every_case
def test_an_iterator_of_a_stage_tells_what_it_is_without_being_pulled_from(case: Case) -> None:
    source = Source(case.items())
    out = case.stage(source)
    text = repr(case.stage).removesuffix("()")
    assert repr(out) == f"<{text} of a Source>"
    assert text_of(out).startswith(f"a Source → {case.stage!r}")
    assert repr(case.function(*case.args, case.items(), **case.options)) == f"<{text} of a list of 10>"
    assert source.pulled == 0
    assert len(list(out)) == len(list(case.pulled))
    assert repr(out) == f"<{text} of a Source, at its end>"


def test_a_chain_of_stages_is_a_line_of_boxes(tmp_path: Path) -> None:
    chain = [lp.leaves(skip="_*"), lp.match_key("^c"), lp.snapshot("depth"), lp.chunked(2)]
    out = toolz.pipe(build(TREE), *chain)
    assert repr(out) == "<chunked(2) of snapshot('depth') of match_key('^c') of leaves(skip='_*') of root>"
    assert text_of(out).split(" → ") == [
        "root",
        "leaves(skip='_*')holds the path to the current leaf and the keys of the siblings along it",
        "match_key('^c')holds one item",
        "snapshot('depth')holds one record",
        "chunked(2)holds one list",
    ]
    assert text_of(chain[3]) == "chunked(2)holds one list"
    with stored(tmp_path, TREE) as root:
        root._p_deactivate()
        assert repr(lp.leaves(root)) == "<leaves of tree>"
        assert root._p_changed is None  # it was not read
        below = root.node_storage["a"]
        below._p_deactivate()
        assert repr(lp.leaves(below)) == "<leaves of a node of tree>"
        below._p_activate()
        assert repr(lp.leaves(below)) == "<leaves of a>"
        scanned = lp.chunked(2, lp.scan("depth", root))
        assert repr(scanned) == "<chunked(2) of scan('depth') of tree>"
        assert text_of(lp.scan("depth", root)).startswith("tree → scan('depth')holds")
        assert len(next(scanned)) == 2
        scanned.close()  # type: ignore[attr-defined]
        assert repr(lp.history(root)) == "<history of tree>"
        found = lp.index_files(tmp_path, "*.wav")
        assert repr(lp.chunked(2, found)) == f"<chunked(2) of files of {str(tmp_path)!r}>"


def test_the_next_stage_reads_what_is_inside_of_an_iterator() -> None:
    same = lp.match_key(".", records())
    with pytest.raises(lp.ArgumentError, match="both sides are the same iterator"):
        lp.join(same)(same)
    inner = lp.match_key(".", records())
    outer = lp.chunked(2, inner)
    inner.close()  # type: ignore[attr-defined]
    assert list(outer) == []


def test_an_iterator_of_ones_own_comes_out_as_it_is() -> None:
    """It may have methods of its own."""

    @lp.stage("source")
    def counted() -> Callable[[Any], Source]:
        return Source

    assert type(counted([1, 2])) is Source


def test_iterators_of_stages_are_as_good_as_generators() -> None:
    def even() -> Any:
        return lp.where("n", is_even, records())

    expected = list(even())
    assert len(expected) == 5
    for again in (
        itertools.tee(even())[1],
        more_itertools.peekable(even()),
        toolz.concat([even()]),
        filter(None, even()),
    ):
        assert list(again) == expected
    assert toolz.peek(even())[0] == expected[0]
    one_by_one = even()
    assert isinstance(one_by_one, Iterator)
    assert iter(one_by_one) is one_by_one
    assert [next(one_by_one) for _ in expected] == expected
    with pytest.raises(StopIteration):
        next(one_by_one)
    for copied in (pickle.dumps, copy.copy, copy.deepcopy, cloudpickle.dumps):
        with pytest.raises(TypeError, match="cannot pickle"):
            copied(even())


def test_an_iterator_that_was_used_up_is_told_where_it_is_used_again(tmp_path: Path) -> None:
    with lp.open_root(tmp_path / "tree.fs", create=True) as root:
        for key in "ab":
            root.gn(key).set_attribute("s", 1)
        lp.commit(root)
        again: list[Callable[[Any], Any]] = [
            *(lp.to_rows, lp.where("s", 1), lp.chunked(2), lp.write(lp.mirror(), BaseNode("copy"))),
            *(lp.diff([]), lambda records: lp.diff(records, []), lambda records: lp.pipe(records, lp.chunked(2), list)),
        ]
        kinds: list[Callable[[], Any]] = [
            *(lambda: lp.scan("s", root), lambda: lp.snapshot("s", lp.leaves(root)), lambda: lp.leaves(root)),
            lambda: lp.where("s", 1, lp.scan("s", root)),
        ]
        for make, use in itertools.product(kinds, again):
            items = make()
            assert "at its end" not in repr(items) + items._repr_html_()
            list(items)
            assert "at its end" in repr(items)
            assert "at its end" in items._repr_html_()
            with pytest.warns(UserWarning, match=r", at its end>, were used up before; make them again, or") as told:
                use(items)
            assert [each.filename for each in told] == [__file__]


def test_what_reads_inside_of_an_iterator_uses_it_up() -> None:
    records = lp.where("s", 1, [lp.NodeRecord(("a",), "a", {"s": 1})])
    assert len(list(lp.to_rows(records))) == 1
    with pytest.warns(UserWarning, match=r"to_rows: its records, <where\('s', 1\) of a list of 1, at its end>"):
        assert list(lp.to_rows(records)) == []


def test_what_has_nothing_was_not_used_up() -> None:
    records = lp.where("s", 1, [])
    assert list(lp.to_rows(lp.where("s", 2, records))) == []
    begun = lp.where("s", 1, [lp.NodeRecord(("a",), "a", {"s": 1})])
    next(begun)  # of which nobody knows yet that it was the last
    assert list(lp.chunked(2, begun)) == []
    assert list(lp.chunked(2, iter([]))) == []


# --- Picklable -------------------------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_stage_pickles_and_gives_the_same(case: Case, protocol: int) -> None:
    copy = pickle.loads(pickle.dumps(case.stage, protocol=protocol))
    assert type(copy) is type(case.stage)
    assert copy == case.stage
    assert repr(copy) == repr(case.stage)
    assert plain(copy(case.items())) == plain(case.stage(case.items()))


@every_traversal
def test_a_traversal_pickles_and_gives_the_same(function: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    root = build(TREE)
    stage = function(*args, **options)
    assert plain(pickle.loads(pickle.dumps(stage))(root)) == plain(stage(root))


def test_a_stage_that_waits_for_more_than_the_data_pickles() -> None:
    copy = pickle.loads(pickle.dumps(lp.where("n")))
    assert list(copy(3)(records())) == list(lp.where("n", 3, records()))


def placed(root: Any) -> dict[str, Any]:
    """Everything that can be kept with the root, or the store, that it works on."""
    target = lp.WriteTarget(root, lp.mirror())
    everything = {
        "write": lp.write(lp.mirror(), root),
        "delete": lp.delete(root),
        "obsolete": lp.obsolete(lp.mirror("out"), root),
        "status": lp.status(lp.mirror(), root),
        "pending": lp.pending(lp.mirror(), root),
        "parallel_map": lp.parallel_map(lp.each(lp.pending(lp.mirror(), root)), mode="sync"),
        "target": target,
        "pipeline to it": lp.Pipeline.from_iterable([]).write(target),
    }
    if isinstance(root, BaseNode):
        everything |= {
            "write, by name": lp.write(policy=lp.mirror(), target=root),
            "ingest_files": lp.ingest_files(root),
            "inline target": lp.InlineTarget(root),
            "pipeline": lp.Pipeline.from_root(root).traverse("leaves"),
            "what waits for more": lp.write(target=root),
            "within others": toolz.compose_left(lp.chunked(2), functools.partial(lp.write(lp.mirror(), root))),
        }
    return everything


PICKLERS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {protocol}": functools.partial(pickle.dumps, protocol=protocol) for protocol in range(6)},
    "cloudpickle": cloudpickle.dumps,
    "cloudpickle of a closure": lambda stage: cloudpickle.dumps(lambda: stage),
}


PLACED = sorted(placed(BaseNode("root")))


@pytest.mark.parametrize("pickler", PICKLERS)
def test_what_holds_a_live_root_can_not_be_pickled(pickler: str, tmp_path: Path) -> None:
    with stored(tmp_path, TREE) as persistent:
        for root in (BaseNode("root"), persistent, persistent.node_storage["a"]):
            for name, made in placed(root).items():
                if root._p_jar is not None and name in {"pending", "parallel_map"}:  # which go as a place
                    continue
                with pytest.raises(lp.NotPicklableError, match=r"holds the live node <.*>.*make it where it runs"):
                    PICKLERS[pickler](made)


@pytest.mark.parametrize("name", PLACED)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_what_holds_a_live_root_is_copied_where_it_is(name: str, copied: Any) -> None:
    root = BaseNode("root")
    made = copied(placed(root)[name])
    assert type(made) is type(placed(root)[name])
    write = {"write": made, "within others": made, "target": getattr(made, "write_many", None)}.get(name)
    if write is not None:
        write([lp.ProcessResult(("x",), 1)])
        assert list(root.node_storage) == ["x"]


def test_what_works_on_a_store_that_pickles_does_too(tmp_path: Path) -> None:
    store = lp.DirectoryStore(tmp_path / "store")
    for made in placed(store).values():
        assert type(pickle.loads(pickle.dumps(made))) is type(made)
    pickle.loads(pickle.dumps(placed(store)["write"]))([lp.ProcessResult(("x",), 1)])
    assert store["x"] == 1


def test_the_functions_themselves_pickle_by_name() -> None:
    for function in (lp.leaves, lp.where, lp.chunked, lp.snapshot):
        assert pickle.loads(pickle.dumps(function)) is function


# --- Lazy ------------------------------------------------------------------------------------------------------------


@every_case
def test_no_item_is_pulled_before_it_is_needed(case: Case) -> None:
    source = Source(case.items())
    out = case.stage(source)
    assert source.pulled == 0
    assert iter(out) is out
    assert source.pulled == 0
    pulled = []
    for _ in out:
        pulled.append(source.pulled)
    assert pulled == list(case.pulled)
    assert source.pulled == 10


@given(n=st.integers(1, 5), asked=st.integers(0, 12), length=st.integers(0, 12))
def test_chunked_pulls_n_items_for_each_list(n: int, asked: int, length: int) -> None:
    source = Source(range(length))
    taken = list(islice(lp.chunked(n)(source), asked))
    assert len(taken) == min(asked, -(-length // n))
    assert source.pulled == min(n * asked, length)


@given(n=st.integers(1, 5), asked=st.integers(0, 12))
def test_a_chain_of_stages_pulls_what_its_last_one_asks_for(n: int, asked: int) -> None:
    source = Source(nodes())
    chain = toolz.pipe(source, lp.where("depth", 1), lp.snapshot(...), lp.match_key(""), lp.chunked(n), lp.progress())
    assert source.pulled == 0
    list(islice(chain, asked))
    assert source.pulled == min(n * asked, 10)


def test_endless_input_is_no_trouble() -> None:
    def endless() -> Iterator[lp.NodeRecord]:
        while True:
            yield from records()

    chain = toolz.pipe(endless(), lp.match_key("[13]"), lp.chunked(4))
    assert [[record.key for record in batch] for batch in islice(chain, 2)] == [["1", "3", "1", "3"]] * 2


@every_case
def test_no_items_give_nothing(case: Case) -> None:
    for data in [(), [], set(), iter(()), Source(())]:
        assert list(case.stage(data)) == []


# --- Closing ---------------------------------------------------------------------------------------------------------


@every_case
def test_closing_a_stage_closes_its_input(case: Case) -> None:
    source = Source(case.items())
    out = case.stage(source)
    next(out)
    assert not source.closed
    out.close()
    assert source.closed
    assert next(out, "nothing more") == "nothing more"


@every_case
def test_closing_a_stage_that_was_never_asked_closes_its_input(case: Case) -> None:
    source = Source(case.items())
    case.stage(source).close()
    assert source.closed
    assert source.pulled == 0


@every_case
def test_a_stage_that_is_dropped_closes_its_input(case: Case) -> None:
    source = Source(case.items())
    out = case.stage(source)
    next(out)
    del out
    assert source.closed


@every_case
def test_a_stage_that_is_used_up_closes_its_input(case: Case) -> None:
    source = Source(case.items())
    list(case.stage(source))
    assert source.closed


@every_case
def test_closing_a_stage_ends_the_generator_that_feeds_it(case: Case) -> None:
    ended = []

    def feed() -> Iterator[Any]:
        try:
            yield from case.items()
        finally:
            ended.append(True)

    feeding = feed()  # held here, so that it does not end by being dropped
    out = case.stage(feeding)
    next(out)
    assert not ended
    out.close()
    assert ended == [True]
    assert inspect.getgeneratorstate(feeding) == inspect.GEN_CLOSED


@every_case
def test_closing_a_stage_that_was_never_asked_closes_the_generator_that_feeds_it(case: Case) -> None:
    feeding = (item for item in case.items())
    case.stage(feeding).close()
    assert inspect.getgeneratorstate(feeding) == inspect.GEN_CLOSED


def fails(value: object) -> Any:
    raise ZeroDivisionError("on purpose")


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("on purpose")


FAILING = {
    "match_key": (lp.match_key("a"), [3], lp.ArgumentTypeError),
    "match_path": (lp.match_path("a"), [3], lp.ArgumentTypeError),
    "where": (lp.where("n", fails), records(), ZeroDivisionError),
    "where, no item": (lp.where("n", 3), [3], lp.ArgumentTypeError),
    "snapshot": (lp.snapshot("n"), records(), lp.ArgumentTypeError),
    "snapshot, payload": (lp.snapshot("n", payload=fails), nodes(), ZeroDivisionError),
    "chunked_by": (lp.chunked_by(fails), records(), ZeroDivisionError),
    "chunked_by, path": (lp.chunked_by(1), [3], lp.ArgumentTypeError),
    "chunked_bytes": (lp.chunked_bytes(3, size=fails), records(), ZeroDivisionError),
    "chunked_bytes, pickled": (lp.chunked_bytes(3), [Unpicklable()], lp.NotPicklableError),
    "rollup": (lp.rollup(folds.Fold(fails, one, one)), records(), ZeroDivisionError),
    "rollup, no item": (lp.rollup(folds.count()), [3], lp.ArgumentTypeError),
    "rollup, no number": (lp.rollup(folds.total("n")), [lp.NodeRecord(("a",), "a", {"n": "1"})], lp.ArgumentTypeError),
    "gather": (lp.gather(1), [3], lp.ArgumentTypeError),
    "join": (lp.join({}), [3], lp.ArgumentTypeError),
    "plan": (lp.plan(lp.inline()), [3], lp.ResultError),
    "parallel_map": (lp.parallel_map(fails, mode="sync"), records(), ZeroDivisionError),
}


@pytest.mark.parametrize(("stage", "items", "error"), FAILING.values(), ids=FAILING.keys())
def test_a_stage_that_fails_closes_its_input(stage: Any, items: list[Any], error: type[Exception]) -> None:
    source = Source(items)
    out = stage(source)
    with pytest.raises(error):
        next(out)
    assert source.pulled == 1
    assert source.closed
    assert list(out) == []


ITEM_STAGES = {
    "match_key": lp.match_key("."),
    "match_path": lp.match_path("**"),
    "where": lp.where("n", lambda n: True),
    "chunked_bytes": lp.chunked_bytes(1, size=one),
    "chunked": lp.chunked(2),
    "chunked_by": lp.chunked_by(one),
    "progress": lp.progress(),
}


@given(names=st.lists(st.sampled_from(list(ITEM_STAGES)), min_size=1, max_size=6), started=st.booleans())
def test_closing_a_chain_of_stages_closes_the_input_of_the_first(names: list[str], started: bool) -> None:
    filters = [ITEM_STAGES[name] for name in names if not name.startswith(("chunked", "progress"))]
    batching = [ITEM_STAGES[name] for name in names if name.startswith(("chunked", "progress"))]
    source = Source(records())
    out = toolz.pipe(source, *filters, *batching)
    if started:
        next(out)
    assert source.pulled == 10 or not source.closed
    out.close()
    assert source.closed


@given(names=st.lists(st.sampled_from(list(ITEM_STAGES)), min_size=1, max_size=5))
def test_a_failure_at_the_end_of_a_chain_closes_the_input_of_the_first(names: list[str]) -> None:
    filters = [ITEM_STAGES[name] for name in names if not name.startswith(("chunked", "progress"))]
    batching = [ITEM_STAGES[name] for name in names if name.startswith(("chunked", "progress"))]
    source = Source(records())
    out = toolz.pipe(source, *filters, *batching, lp.chunked_by(fails))
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        next(out)
    assert source.closed


def test_a_failing_input_fails_the_stage() -> None:
    def feed() -> Iterator[int]:
        yield 1
        yield 2
        raise ZeroDivisionError("upstream")

    batches = lp.chunked(1, feed())
    assert next(batches) == [1]
    assert next(batches) == [2]
    with pytest.raises(ZeroDivisionError, match="upstream"):
        next(batches)


@every_traversal
def test_a_traversal_can_be_closed_at_any_time(function: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    never, started = function(*args, build(TREE), **options), function(*args, build(TREE), **options)
    never.close()
    assert list(never) == []
    next(started)
    started.close()
    assert list(started) == []


def test_what_is_no_iterator_is_not_closed() -> None:
    class Box(list[int]):
        closed = False

        def close(self) -> None:
            self.closed = True

    box = Box([1, 2])
    list(lp.chunked(1, box))
    assert not box.closed  # the caller's, and may be read again


# --- Checked at once -------------------------------------------------------------------------------------------------

WRONG: list[tuple[Callable[..., Any], type[Exception], str]] = [
    (lambda *items: lp.chunked(0, *items), lp.ArgumentError, "chunked: n must be at least 1, got 0"),
    (lambda *items: lp.chunked(-3, *items), lp.ArgumentError, "got -3"),
    (lambda *items: lp.chunked("2", *items), lp.ArgumentTypeError, "got str '2'"),
    (lambda *items: lp.chunked(1.0, *items), lp.ArgumentTypeError, "got float 1.0"),
    (lambda *items: lp.chunked(True, *items), lp.ArgumentTypeError, "got bool True"),
    (lambda *items: lp.chunked(None, *items), lp.ArgumentTypeError, "got None"),
    (lambda *items: lp.chunked_by(0, *items), lp.ArgumentError, "chunked_by: key must be at least 1, got 0"),
    (lambda *items: lp.chunked_by("key", *items), lp.ArgumentTypeError, "'key'"),
    (lambda *items: lp.chunked_bytes(0, *items), lp.ArgumentError, "limit must be at least 1, got 0"),
    (lambda *items: lp.chunked_bytes("1k", *items), lp.ArgumentTypeError, "'1k'"),
    (lambda *items: lp.chunked_bytes(10, *items, size=3), lp.ArgumentTypeError, "size .* int 3"),
    (lambda *items: lp.gather(0, *items), lp.ArgumentError, "gather: by must be at least 1, got 0"),
    (lambda *items: lp.gather("speaker", *items), lp.ArgumentTypeError, "'speaker'"),
    (lambda *items: lp.join({}, *items, on=0), lp.ArgumentError, "join: on must be at least 1, got 0"),
    (lambda *items: lp.join({}, *items, on="speaker"), lp.ArgumentTypeError, "on .* 'speaker'"),
    (lambda *items: lp.join({}, *items, how="outer"), lp.ArgumentError, "'left', 'inner', 'anti'.*'outer'"),
    (lambda *items: lp.join({}, *items, prefix=3), lp.ArgumentTypeError, "prefix .* int 3"),
    (lambda *items: lp.join("a.csv", *items), lp.ArgumentTypeError, "other .* 'a.csv'; table_by_path"),
    (lambda *items: lp.join(3, *items), lp.ArgumentTypeError, "other .* int 3"),
    (lambda *items: lp.join(BaseNode("root"), *items), lp.ArgumentTypeError, "other .* the node 'root'"),
    (lambda *items: lp.join(lp.scan("n"), *items), lp.ArgumentTypeError, "other .* the stage scan"),
    (lambda *items: lp.join({3: {}}, *items), lp.ArgumentTypeError, "a path.* int 3"),
    (lambda *items: lp.join({"a": 3}, *items), lp.ArgumentTypeError, "at a must be a mapping.* int 3"),
    (lambda *items: lp.join({"a": {}, ("a",): {}}, *items), lp.ArgumentError, "at a has two entries"),
    (lambda *items: lp.match_key("(a", *items), lp.PatternError, r"match_key: '\(a' is no regular expression"),
    (lambda *items: lp.match_key("a{99999999999}", *items), lp.PatternError, "99999999999"),
    (lambda *items: lp.match_key(b"a", *items), lp.ArgumentTypeError, "bytes b'a'"),
    (lambda *items: lp.match_key(re.compile(b"a"), *items), lp.ArgumentTypeError, "b'a'"),
    (lambda *items: lp.match_key(None, *items), lp.ArgumentTypeError, "None"),
    (lambda *items: lp.match_path("a/[b", *items), lp.PatternError, r"match_path: .*'\[b'"),
    (lambda *items: lp.match_path("", *items), lp.PatternError, "''"),
    (lambda *items: lp.match_path("a/", *items), lp.PatternError, "'a/'"),
    (lambda *items: lp.match_path("a**", *items), lp.PatternError, r"'a\*\*'"),
    (lambda *items: lp.match_path(3, *items), lp.ArgumentTypeError, "int 3"),
    (lambda *items: lp.where(3, 3, *items), lp.ArgumentTypeError, "int 3"),
    (lambda *items: lp.snapshot(3, *items), lp.ArgumentTypeError, "int 3"),
    (lambda *items: lp.snapshot(None, *items), lp.ArgumentTypeError, "None"),
    (lambda *items: lp.snapshot(["n", 3], *items), lp.ArgumentTypeError, "int 3"),
    (lambda *items: lp.snapshot("n", *items, payload=3), lp.ArgumentTypeError, "payload .* int 3"),
    (lambda *items: lp.scan(3, *items), lp.ArgumentTypeError, "scan: names .* int 3"),
    (lambda *items: lp.scan("n", *items, level=-1), lp.ArgumentError, "level must be at least 0, got -1"),
    (lambda *items: lp.scan("n", *items, level="last"), lp.ArgumentError, "at least 0, or 'deepest', got 'last'"),
    (lambda *items: lp.scan("n", *items, where=3), lp.ArgumentTypeError, "where .* int 3"),
    (lambda *items: lp.scan("n", *items, where="("), lp.PatternError, "scan: '[(]'"),
    (lambda *items: lp.scan("n", *items, where={3: 3}), lp.ArgumentTypeError, "attribute .* int 3"),
    (lambda *items: lp.scan("n", *items, where=[3]), lp.ArgumentTypeError, "where .* int 3"),
    (lambda *items: lp.scan("n", *items, where=("n", 3)), lp.ArgumentTypeError, "where .* int 3"),
    (
        lambda *items: lp.scan(BaseNode("root"), *items),
        lp.ArgumentTypeError,
        r"the root comes last: scan\(\.\.\., root",
    ),
    (lambda *items: lp.partitions(BaseNode("root"), *items), lp.ArgumentTypeError, "the root comes last"),
    (lambda *items: lp.scan("n", *items, skip=3), lp.ArgumentTypeError, "skip .* int 3"),
    (lambda *items: lp.scan("n", *items, payload=3), lp.ArgumentTypeError, "payload .* int 3"),
    (lambda *items: lp.scan("n", *items, uncommitted="keep"), lp.ArgumentError, "uncommitted .* 'keep'"),
    (lambda *items: lp.partitions(0, *items), lp.ArgumentError, "n must be at least 1, got 0"),
    (lambda *items: lp.partitions("8", *items), lp.ArgumentTypeError, "n .* '8'"),
    (lambda *items: lp.partitions(8, *items, skip=3), lp.ArgumentTypeError, "skip .* int 3"),
    (lambda *items: lp.progress(*items, total=-1), lp.ArgumentError, "total must be at least 0, got -1"),
    (lambda *items: lp.progress(*items, total="10"), lp.ArgumentTypeError, "'10'"),
    (lambda *items: lp.progress(*items, desc=3), lp.ArgumentTypeError, "int 3"),
    (lambda *items: lp.rollup(folds.total, *items), lp.ArgumentTypeError, "rollup: fold must be a Fold"),
    (lambda *items: lp.rollup({"n": 3}, *items), lp.ArgumentTypeError, "fold .* int 3"),
    (lambda *items: lp.rollup({}, *items), lp.ArgumentError, "at least one Fold"),
    (lambda *items: lp.rollup(folds.count(), *items, depths=-1), lp.ArgumentError, "depths must be at least 0, got -1"),
    (lambda *items: lp.rollup(folds.count(), *items, depths=[0, "1"]), lp.ArgumentTypeError, "depths .* '1'"),
    (lambda *items: lp.rollup(folds.count(), *items, depths=[]), lp.ArgumentError, "at least one depth"),
    (lambda *items: lp.rollup(folds.count(), *items, partial="yes"), lp.ArgumentTypeError, "partial .* 'yes'"),
    (lambda *items: lp.split({"a": 0.9}, *items, part="a"), lp.ArgumentError, "sum to 1, got a sum of 0.9"),
    (lambda *items: lp.split({"a": 1.0}, *items, part="b"), lp.ArgumentError, "part .* 'a', got 'b'"),
    (lambda *items: lp.split("train", *items), lp.ArgumentTypeError, "a mapping .* 'train'"),
    (lambda *items: lp.sample(2, *items), lp.ArgumentError, "from 0 to 1, got 2"),
    (lambda *items: lp.sample(None, *items, rank=4, world=4), lp.ArgumentError, "below world, which is 4, got 4"),
    (lambda *items: lp.plan("inline", *items), lp.ArgumentTypeError, "'inline'"),
    (lambda *items: lp.parallel_map("fn", *items), lp.ArgumentTypeError, "'fn'"),
    (lambda *items: lp.parallel_map(one, *items, mode="fork"), lp.ArgumentError, "'sync', 'thread', 'process'.*'fork'"),
    (lambda *items: lp.parallel_map(one, *items, max_workers=0), lp.ArgumentError, "max_workers .* 0"),
    (lambda *items: lp.chunked(2, *items, strict=True), lp.ArgumentTypeError, "strict"),
    (lambda *items: lp.snapshot(b"seconds", *items), lp.ArgumentTypeError, "got bytes"),
    (lambda *items: lp.leaves(*items, "_*"), lp.ArgumentTypeError, "leaves|node"),
]


@pytest.mark.parametrize(("wrong", "error", "text"), WRONG)
def test_a_wrong_argument_is_refused_at_once_and_before_any_data(
    wrong: Callable[..., Any], error: type[Exception], text: str
) -> None:
    source = Source(records())
    for data in [(), (source,)]:
        with pytest.raises(error, match=text) as caught:
            wrong(*data)
        assert isinstance(caught.value, lp.LotprocError)
    assert source.pulled == 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda items: lp.chunked(items, 2),
        lambda items: lp.chunked(items),
        lambda items: lp.where("n", items),  # the test was forgotten
        lambda items: lp.match_key(items, "a"),
        lambda items: lp.to_parquet(items, "table.parquet"),
        lambda items: lp.parallel_map(items, one),
        lambda items: lp.write(lp.mirror(), items, BaseNode("root")),
        lambda items: lp.scan("n", BaseNode("root"), skip=items),
    ],
)
def test_data_in_the_place_of_another_argument_is_refused_and_none_is_pulled(wrong: Callable[[Any], Any]) -> None:
    source = Source(records())
    with pytest.raises(lp.ArgumentTypeError) as caught:
        wrong(source)
    assert caught.value.hint is not None
    assert source.pulled == 0


@pytest.mark.parametrize("call", [lp.chunked, lp.where, lp.match_key, lp.snapshot, lp.level, lp.glob, lp.plan])
def test_a_call_without_any_argument_says_what_it_needs(call: Callable[..., Any]) -> None:
    first = next(iter(inspect.signature(call).parameters))
    with pytest.raises(lp.ArgumentTypeError, match=rf"{call.__name__}\(.*needs at least '{first}'"):
        call()


@pytest.mark.parametrize(
    ("stage", "waits"),
    [
        (lp.where("s"), "where('s') still waits for test and items"),
        (lp.leaves(), "leaves() still waits for root"),
        (lp.chunked(2), "chunked(2) still waits for items"),
    ],
)
def test_a_stage_that_is_iterated_says_what_it_waits_for(stage: Any, waits: str) -> None:
    for use in (list, tuple, lambda stage: [*stage], lambda stage: "a" in stage, lambda stage: stage[0]):
        with pytest.raises(lp.ArgumentTypeError) as caught:
            use(stage)
        assert str(caught.value) == waits
    assert not isinstance(stage, Iterable)


def test_too_many_arguments_are_refused_with_the_signature() -> None:
    with pytest.raises(lp.ArgumentTypeError, match=r"chunked\(n, items\): too many positional arguments"):
        lp.chunked(2, [], 3)
    with pytest.raises(lp.ArgumentTypeError, match=r"chunked\(2\) takes items, got 2 arguments"):
        lp.chunked(2)([], 3)
    with pytest.raises(lp.ArgumentTypeError, match="multiple values for argument 'n'"):
        lp.chunked(2, n=3)


@pytest.mark.parametrize("data", [None, 3, 1.5, object(), len])
@every_case
def test_data_that_is_no_iterable_is_refused_at_the_call(case: Case, data: object) -> None:
    with pytest.raises(lp.ArgumentTypeError, match=r"must be an iterable") as caught:
        case.stage(data)
    assert isinstance(caught.value, TypeError)
    assert str(caught.value).startswith(f"{case.function.__name__}: ")


@every_case
def test_a_tree_in_place_of_items_is_refused_at_the_call_with_a_hint(case: Case) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="got the node 'corpus'; put scan"):
        case.stage(BaseNode("corpus"))


@pytest.mark.parametrize("stage", [lp.match_key("a"), lp.match_path("a"), lp.where("n", 3), lp.chunked_by(1)])
def test_a_batch_in_place_of_a_record_is_refused_with_a_hint(stage: Any) -> None:
    with pytest.raises(lp.ArgumentTypeError, match=r"expected a node or a record, got list .*; put it before chunked"):
        next(stage([records()]))


# --- Nothing is written ----------------------------------------------------------------------------------------------


def test_no_stage_that_reads_leaves_anything_to_commit(tmp_path: Path) -> None:
    tree = {key: {clip: {} for clip in PLAIN_KEYS} for key in PLAIN_KEYS}
    with stored(tmp_path, tree) as root:
        before = str(lp.show(root))
        chain = toolz.pipe(
            root,
            lp.leaves(skip="_*"),
            lp.match_key("[ab]"),
            lp.match_path("**"),
            lp.where("absent", None),
            lp.where("depth", 2),
            lp.progress(),
            lp.snapshot(["name", "absent", "even"], payload=lambda node: node.get_attribute("name")),
            lp.chunked_by(1),
            toolz.concat,
            lp.chunked_bytes(1_000),
            lp.parallel_map(lp.each(lambda record: lp.ProcessResult(record.path, record.payload)), mode="thread"),
            lp.plan(lp.inline("_proc")),
        )
        writes = []
        for write in chain:
            assert unsaved(root) == []
            writes.append(write.path)
        assert len(writes) == len(PLAIN_KEYS) * sum("a" in key or "b" in key for key in PLAIN_KEYS)
        assert unsaved(root) == []
        assert str(lp.show(root)) == before


# --- Errors travel ---------------------------------------------------------------------------------------------------


def all_errors(error: type[Exception]) -> list[type[Exception]]:
    return [error, *(below for kind in error.__subclasses__() for below in all_errors(kind))]


@pytest.mark.parametrize("kind", all_errors(lp.LotprocError))
def test_every_error_survives_pickling_with_its_message(kind: type[Exception]) -> None:
    error = kind("write: ann/clip_1 is no number, got 'é'; use a number")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(error, protocol=protocol))
        assert type(copy) is kind
        assert str(copy) == str(error)
        assert copy.args == error.args


@pytest.mark.parametrize("kind", all_errors(lp.LotprocError)[1:])
def test_every_error_is_also_one_that_python_programmers_know(kind: type[Exception]) -> None:
    assert issubclass(kind, (ValueError, TypeError, KeyError, RuntimeError, ImportError, OSError, TimeoutError))


def test_every_error_is_public() -> None:
    assert {kind.__name__ for kind in all_errors(lp.LotprocError)} <= set(lp.__all__)


@pytest.mark.parametrize(("wrong", "error", "text"), WRONG)
def test_errors_that_were_raised_survive_pickling(wrong: Callable[..., Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        wrong()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is type(caught.value)
    assert str(copy) == str(caught.value)


def test_the_error_of_a_missing_package_names_its_extra_and_survives_pickling() -> None:
    error = lp.MissingExtraError.of("zarr", "zarr", "the payload in data.zarr")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert 'pip install "lotproc[zarr]"' in str(copy)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: lp.snapshot("seconds", "rms"),
            r'got str \'rms\'; several names go in a list, as in snapshot\(\["a", "b"\]\)',
        ),
        (lambda: lp.to_rows("a.csv"), "records must be an iterable of records, got str 'a.csv'"),
        (
            lambda: lp.chunked(2, lp.leaves()),
            r"items must be an iterable, got the stage leaves\(\), which still waits for its own data",
        ),
        (lambda: lp.each(len)(lp.NodeRecord(("a",), "a")), r"got NodeRecord\(.*; put chunked\(n\) in front"),
        (
            lambda: list(lp.snapshot("a", [[BaseNode("a")]])),
            r"expected a live node, got list .*; put it before chunked",
        ),
        (lambda: list(lp.plan(lp.inline, results())), r"got ProcessResult\(.*call the policy"),
        (lambda: lp.rollup(lp.folds.count), r"got <function count at .*; call it: count\(\.\.\.\)"),
        (lambda: lp.split({"a": 1.0}, iter(records())), r"expected one item, got .*; .*part=\"a\""),
        (lambda: lp.delete(BaseNode("root"), "ann/monday"), r"got str 'ann/monday'; a path is a tuple of keys"),
        (lambda: lp.inline(["_proc", "a"]), "must be a str, got list .*; give the keys one by one"),  # type: ignore[arg-type]
        (lambda: lp.inline()(3), "a write policy takes a ProcessResult, got int 3"),  # type: ignore[arg-type]
    ],
)
def test_a_slip_of_the_pen_is_told_what_to_do(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(lp.ArgumentTypeError, match=text):
        call()


@pytest.mark.parametrize(("function", "module"), [(lp.parallel_map, parallel), (lp.write, running)])
def test_the_options_that_type_checkers_know_are_those_that_there_are(function: Any, module: Any) -> None:
    (typed,) = (
        node
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.ClassDef) and node.name == "_Options"
    )
    parameters = inspect.signature(function).parameters.values()
    options = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    assert [node.target.id for node in typed.body if isinstance(node, ast.AnnAssign)] == options  # type: ignore[union-attr]
    assert options[-1] in str(inspect.signature(function))
