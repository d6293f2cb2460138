"""How values are shown: one line of bounded length, well-formed HTML with everything escaped, and nothing is read."""

from __future__ import annotations

import copy
import pickle
import re
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import toolz
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from lotdb import BaseNode, DataWriter
from persistent.mapping import PersistentMapping
from trees import paths, stored

import lotproc as lp
from lotproc._html import cell
from lotproc._plots import plotted
from lotproc._reprs import MOST, short
from lotproc.executors import RayExecutor

Point = namedtuple("Point", "x y")


class Raises:
    """What can't be shown."""

    def __repr__(self) -> str:
        raise ZeroDivisionError("on purpose")


@dataclass
class Many:
    """A repr of several lines, with a colour."""

    text: str

    def __repr__(self) -> str:
        return f"\x1b[1m{self.text}\n<b>" * 100


texts = st.one_of(
    st.text(max_size=20), st.text("<>&'\"\n\x00\udce9é", max_size=300), st.integers(0, 5_000).map("<b>".__mul__)
)
scalars = st.one_of(
    texts,
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(),
    st.binary(max_size=300),
    st.complex_numbers(),
)
arrays = hnp.arrays(
    st.sampled_from(["<f4", "<f8", ">i2", "u1", "<c16", "?", "<U3", "<M8[s]"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
)
odd = st.one_of(
    st.builds(Raises),
    st.builds(Many, texts),
    st.builds(PersistentMapping, a=st.just(1)),
    st.builds(BaseNode, st.just("<node>")),
)
values = st.recursive(
    st.one_of(scalars, arrays, odd),
    lambda inner: st.one_of(
        st.lists(inner, max_size=30),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(deque),
        st.dictionaries(texts, inner, max_size=30),
        st.dictionaries(texts, inner, max_size=3).map(OrderedDict),
        st.builds(Point, inner, inner),
    ),
    max_leaves=40,
)
#: Small values of Python's own, whose reprs make them again.
plain = st.recursive(
    st.one_of(
        st.text(max_size=8), st.none(), st.booleans(), st.floats(), st.integers(-99, 10**9), st.binary(max_size=8)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=8), inner, max_size=3),
        st.frozensets(st.integers(0, 9), max_size=3),
        st.sets(st.integers(0, 9), max_size=1),
    ),
    max_leaves=6,
)


# --- One value -------------------------------------------------------------------------------------------------------


@given(value=values)
def test_a_value_is_one_line_of_bounded_length(value: Any) -> None:
    assert len(short(value)) <= MOST
    assert short(value).isprintable()


def depth_of(value: Any) -> int:
    """How many containers are in each other."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return 0
    inside = [*value.values(), *value] if isinstance(value, dict) else value
    return 1 + max(map(depth_of, inside), default=0)


@given(value=plain.filter(lambda value: depth_of(value) <= 3))
def test_a_small_value_is_its_repr(value: Any) -> None:
    assert short(value) == repr(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros((3, 2), "f4"), "<float32 (3, 2)>"),
        (np.arange(3), "array([0, 1, 2])"),
        (np.float64(0.5), repr(np.float64(0.5))),
        ([np.zeros(100)], "[<float64 (100,)>]"),
        (Counter("aab"), "Counter({'a': 2, 'b': 1})"),
        (defaultdict(list, a=[1]), "defaultdict({'a': [1]})"),
        (deque([1]), "deque([1])"),
        ((1,), "(1,)"),
        (set(), "set()"),
        (Point(1, "a"), "Point(x=1, y='a')"),
        ([10**5_000], "[<int>]"),
        (Raises(), "<Raises>"),
        ([Raises()], "[<Raises>]"),
        (PersistentMapping(a=1), "<PersistentMapping>"),
        (BaseNode("a\nb"), "<a b>"),
        (list(range(100)), str(list(range(20)))[:-1] + ", ...]"),
        ({"a": {"b": {"c": {"d": 1}}}}, "{'a': {'b': {'c': ...}}}"),
    ],
)
def test_values_in_a_few_words(value: Any, text: str) -> None:
    assert short(value) == text


def test_nothing_more_of_a_huge_container_is_looked_at_than_what_is_shown() -> None:
    class Counted(list[int]):
        looked = 0

        def __iter__(self) -> Iterator[int]:
            for item in super().__iter__():
                Counted.looked += 1
                yield item

    assert len(short(Counted(range(100_000)))) < MOST
    assert Counted.looked <= 20


# --- What goes through a pipeline -----------------------------------------------------------------------------------


def told(value: Any, path: tuple[str, ...], text: str) -> list[Any]:
    """Everything that holds values, with these in it."""
    record = lp.NodeRecord(path, text, {text: value, "b": value}, payload=value)
    failure = lp.Failure(path, text, text, traceback=f"{text}\n{text}", item=text)
    return [
        record,
        lp.ProcessResult(path, value, {text: value}, path),
        lp.Accumulator(path, value, text),
        failure,
        lp.Write(path, {text: value}),
        lp.WriteReport(written=1, last_path=path, failed=1, failures=(failure,) * 30, errors={text: 1}),
        lp.Change(path, "changed", record, record, (text, "payload")),
        lp.Change(path, "added", None, record),
        lp.Commit(bytes(8), datetime(2026, 1, 1, tzinfo=timezone.utc), text, text, text, {text: 3}),
        lp.IndexedFile(path, Path("a"), text),
        lp.IngestReport(failures=(lp.FileFailure(Path("a"), path, text),) * 30),
        lp.FileFailure(Path("a"), path, text),
        lp.PathTable([text], {path: [value]}),
        lp.Place(f"/data/{text}", None, None, bytes(8), path, path),
        lp.InlineWritePolicy((*path, "a")),
        lp.MirrorWritePolicy(path),
        lp.FreshWritePolicy(path),
        lp.Status(done=1, obsolete=0, parts={path: lp.Status(done=1)}),
        lp.Below(lp.inline("a"), text, text or None),
        lp.MapReport(text, text),
        lp.PayloadCopy(text, b"", text, metadata={text: value}),
        lp.EntryStat(1, 2.0, None, None),
        lp.WorkerInfo(0, 1),
        lp.SelectionSpec(filter_key_pattern=text, skip=text),
        lp.PreparationSpec(attribute_names=[text]),
        lp.ProcessingSpec(),
        *(target(BaseNode(text), text) for target in (lp.InlineTarget, lp.MirrorTarget, lp.NewDatabaseTarget)),
        lp.WriteTarget(BaseNode(text), lp.MirrorWritePolicy((text or "a",)), text),
        lp.Pipeline.from_root(BaseNode(text)).traverse().filter_key("a").prepare(attribute_names=[text]),
        lp.folds.total(text),
        lp.folds.top(2, text),
        lp.folds.Fold(len, max, str, (text,)),
        lp.compose_left(lp.where(text, value), lp.chunked(2), len),
        lp.where(text, value),
        lp.join({text: {text: value}}),
        lp.chunked(2, [value]),
        lp.where(text, value, iter([])),
    ]


#: A table, and what is as long as the user made it.
AS_LONG_AS_THEY_ARE = (lp.Status, lp.InlineWritePolicy, lp.MirrorWritePolicy)


@given(value=values, path=paths, text=texts)
def test_what_a_pipeline_holds_is_shown_in_a_line_of_bounded_length(value: Any, path: Any, text: str) -> None:
    for thing in told(value, path, text):
        if not isinstance(thing, AS_LONG_AS_THEY_ARE):
            assert len(repr(thing)) <= MOST
            assert repr(thing).isprintable()


def test_there_is_no_public_class_of_which_this_is_not_known(tmp_path: Path) -> None:
    of_stores = {"DirectoryEntry", "DirectoryStore", "LmdbStore", "Archive", "Store", "StoredPayload"}  # below
    others = {"PayloadHandle", "RunSummary", "TreeView"}  # below, and in `test_summaries` and `test_views`
    public = {
        name: kind
        for name in lp.__all__
        if isinstance(kind := getattr(lp, name), type) and not issubclass(kind, BaseException)
    }
    here = {type(thing) for thing in told(1, ("a",), "text")}
    assert {name for name, kind in public.items() if kind not in here} == of_stores | others
    files = lp.index_files(tmp_path)
    made = [files, lp.chunked(2), lp.shuffled([1], 1, seed=1), lp.token_batches("a.rox", "u1", 3)]
    for kind in {*public.values(), *map(type, made), *here, RayExecutor}:
        assert kind.__repr__ is not object.__repr__ or kind is lp.Store
        assert hasattr(kind, "_repr_html_")


TAGS = {
    *(
        "div",
        "style",
        "span",
        "b",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "details",
        "summary",
        "pre",
        "ul",
        "li",
        "i",
    )
}
DRAWN = {f"{{http://www.w3.org/2000/svg}}{tag}" for tag in ("svg", "path", "image")}


@given(value=values, path=paths, text=texts)
def test_html_is_well_formed_and_no_text_of_the_user_is_a_tag(value: Any, path: Any, text: str) -> None:
    for thing in told(value, path, text):
        html = thing._repr_html_()
        html.encode()
        top = ElementTree.fromstring(html)
        assert {element.tag for element in top.iter()} <= TAGS | DRAWN
        assert {name for element in top.iter() for name in element.attrib} <= ATTRIBUTES


ATTRIBUTES = {
    *("class", "open", "width", "height", "viewBox", "role", "d", "fill", "stroke", "opacity", "href", "style"),
    "preserveAspectRatio",
}


@given(
    path=st.lists(st.text(max_size=4), max_size=3).map(tuple),
    attributes=st.dictionaries(st.text(max_size=4), plain, max_size=2),
)
def test_the_repr_of_a_small_record_makes_it_again(path: Any, attributes: Any) -> None:
    record = lp.NodeRecord(path, "key", attributes)
    for thing in (
        record,
        lp.ProcessResult(path, 0.5, attributes),
        lp.Write(path, attributes),
        lp.Failure(path, "E", "bad"),
    ):
        if "..." not in repr(thing):
            again = eval(repr(thing), {**vars(lp), "nan": float("nan"), "inf": float("inf")})
            assert again == thing or "nan" in repr(thing)  # which equals nothing


def test_a_report_tells_what_is_not_as_ever() -> None:
    report = lp.WriteReport(written=3, commits=1)
    assert repr(report) == "WriteReport(written=3, commits=1)"
    assert eval(repr(report), vars(lp)) == report
    assert repr(lp.IngestReport(ingested=2)) == "IngestReport(ingested=2)"


def test_a_record_with_a_million_attributes_is_shown_at_once() -> None:
    record = lp.NodeRecord(("a",) * 10_000, "a", {f"a{n}": n for n in range(1_000_000)})
    assert len(repr(record)) <= MOST
    html = record._repr_html_()
    assert len(html) < 30_000
    assert "999,900 more" in html


# --- Payloads and plots ----------------------------------------------------------------------------------------------


@given(array=arrays, rate=st.one_of(st.none(), st.floats(1, 1e5)))
def test_any_array_is_drawn_or_not(array: Any, rate: float | None) -> None:
    before = array.copy()
    drawn = plotted(array, rate)
    ElementTree.fromstring(f"<div>{drawn}</div>")
    is_drawn = array.ndim in (1, 2) and array.dtype.kind in "biufc" and bool(np.isfinite(array).any())
    assert bool(drawn) == is_drawn
    assert array.tobytes() == before.tobytes()


def test_a_line_goes_from_the_least_to_the_most() -> None:
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", plotted(np.array([0.0, 1.0, 0.5])))]
    assert heights == [59.0, 1.0, 30.0]
    long = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", plotted(np.sin(np.arange(100_000.0))))]
    assert len(long) == 600
    assert (min(long), max(long)) == (1.0, 59.0)
    assert "0 … 1, 2 s" in plotted(np.array([0.0, 1.0]), 1.0)


def test_an_array_of_more_than_four_megabytes_is_not_drawn() -> None:
    assert plotted(np.zeros(2**19))
    assert plotted(np.zeros(2**19 + 1)) == ""


def test_what_is_not_finite_leaves_a_gap() -> None:
    assert plotted(np.array([0.0, np.nan, 1.0, np.inf, 0.5])).count("M") == 3
    assert plotted(np.full(3, np.nan)) == ""


def test_the_columns_of_a_long_array_are_lines_and_those_of_others_an_image() -> None:
    assert plotted(np.random.default_rng(0).random((1_000, 2))).count("<path") == 2
    image = plotted(np.random.default_rng(0).random((300, 40)))
    assert "data:image/png;base64," in image
    assert len(image) < 30_000


def handles(root: BaseNode) -> list[lp.PayloadHandle]:
    DataWriter.write_array(root.gn("small"), np.arange(100.0), samplerate_hz=50.0)
    DataWriter.write_array(root.gn("large"), np.zeros(1_000_000))
    root._p_jar.transaction_manager.commit()
    return [record.attributes["data"] for record in lp.snapshot("data", [root.gn("small"), root.gn("large")])]


def test_a_handle_is_shown_by_what_it_is_and_not_by_its_file(tmp_path: Path) -> None:
    with stored(tmp_path, {}) as root:
        small, large = handles(root)
        assert repr(small) == "<PayloadHandle float64 (100,) at 50 Hz>"
        shown = [handle._repr_html_() for handle in (small, large)]
        assert ["<svg" in html for html in shown] == [True, False]
        assert "0 … 99, 2 s" in shown[0]
        record = lp.NodeRecord(("a",), "a", {f"a{n}": small for n in range(9)})
        assert record._repr_html_().count("<svg") == 4
        for text in (*shown, repr(small), repr(record), record._repr_html_()):
            assert "blob" not in text
            assert str(tmp_path) not in text


def test_a_handle_whose_file_is_gone_says_so(tmp_path: Path) -> None:
    handle = lp.PayloadHandle("array", tmp_path / "gone.blob", shape=(3,), dtype="<f8")
    html = handle._repr_html_()
    ElementTree.fromstring(html)
    assert "FileNotFoundError" in html
    assert str(tmp_path) not in html
    assert repr(lp.PayloadHandle("text", tmp_path / "gone.blob")) == "<PayloadHandle text>"


def test_only_a_plot_reads_a_payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[lp.PayloadHandle] = []
    original = lp.PayloadHandle.read
    monkeypatch.setattr(lp.PayloadHandle, "read", lambda handle: (read.append(handle), original(handle))[1])
    with stored(tmp_path, {}) as root:
        small, large = handles(root)
        for handle in (small, large):
            repr(handle), repr(lp.NodeRecord(("a",), "a", {"a": handle})), repr(lp.where("a", handle))
        assert read == []
        cell(large), cell(small)
        assert read == [small]


# --- Places and stores ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (lp.Place("/data/corpus.fs", "/data/blobs", None, bytes(8)), "<Place corpus.fs>"),
        (
            lp.Place("/data/corpus.fs", None, None, bytes(8), ("ann",), ("bob", "x")),
            "<Place corpus.fs from ann to before bob/x>",
        ),
        (lp.Place("zeo://me@host:80/a?storage=1", None, None, bytes(8)), "<Place zeo://host:80/a>"),
    ],
)
def test_a_place_tells_storage_and_part(place: lp.Place, text: str) -> None:
    assert repr(place) == text


STORES: dict[str, Callable[[Path], lp.Store]] = {
    "directory": lambda folder: lp.DirectoryStore(folder / "<a>"),
    "lmdb": lambda folder: pytest.importorskip("lmdb") and lp.LmdbStore(folder / "<a>"),
    "archive": lambda folder: lp.Archive(folder / "<a>.rox", "w"),
}


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
def test_a_store_is_shown_without_a_look_at_what_it_holds(
    make: Callable[[Path], lp.Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(tmp_path) as store:
        for method in ("records", "find", "paths", "__len__", "__iter__"):
            monkeypatch.setattr(type(store), method, None)
        top = ElementTree.fromstring(store._repr_html_())
        assert repr(store) in "".join(top.itertext())


# --- Functions of several steps ---------------------------------------------------------------------------------------


def add(number: int) -> int:
    return number + 1


def double(number: int) -> int:
    return number * 2


def digits(number: int) -> list[str]:
    return list(str(number))


numeric = st.lists(st.sampled_from([add, double, abs, int]), max_size=5)


@given(steps=numeric, number=st.integers(-99, 99), last=st.sampled_from([[], [digits], [digits, lp.chunked(2), list]]))
def test_compose_left_is_that_of_toolz(steps: list[Any], number: int, last: list[Any]) -> None:
    ours, theirs = lp.compose_left(*steps, *last), toolz.compose_left(*steps, *last)
    assert ours(number) == theirs(number) == lp.pipe(number, *steps, *last)
    assert ours == theirs
    assert theirs == ours
    assert hash(ours) == hash(theirs)
    again = pickle.loads(pickle.dumps(ours))
    assert again == ours
    assert type(again) is type(ours)
    assert copy.copy(ours) == copy.deepcopy(ours) == ours
    for name in ("__name__", "__doc__"):
        assert getattr(ours, name, None) == getattr(theirs, name, None)
    if len([*steps, *last]) > 1:
        assert isinstance(ours, toolz.functoolz.Compose)
        said = [getattr(step, "__name__", repr(step)) for step in (*steps, *last)]
        assert repr(ours) == f"compose_left({', '.join(said)})"
        boxes = ElementTree.fromstring(ours._repr_html_()).findall(".//*[@class='box']")
        assert [box.text for box in boxes] == said
        assert lp.parallel_map(ours, [number], mode="sync").__repr__() == (  # type: ignore[attr-defined]
            f"<parallel_map({ours!r}, mode='sync') of a list of 1>"
        )


def test_a_composed_function_goes_to_workers() -> None:
    steps: Any = lp.compose_left(lp.each(double), sum)
    assert list(lp.parallel_map(steps, [[1, 2], [3]], max_workers=1)) == [6, 6]


def test_batches_for_training_say_where_they_come_from(tmp_path: Path) -> None:
    assert repr(lp.shuffled([1, 2], 2, seed=1)) == "<shuffled(batch_size=2, seed=1, epoch=0) of a list of 2>"
    with lp.Archive(tmp_path / "a.rox", "w") as archive:
        archive.write([np.arange(3, dtype="u1")])
    batches = lp.token_batches(tmp_path / "a.rox", "u1", 3)
    assert repr(batches).startswith("<token_batches(dtype=dtype('uint8'), length=3, batch_size=1) of ")
    assert [batch.tolist() for batch in batches] == [[[0, 1, 2]]]


def test_files_are_shown_by_folder_pattern_and_what_is_left_out(tmp_path: Path) -> None:
    html: str = lp.index_files(tmp_path, ["*.wav", "*.<b>"])._repr_html_()  # type: ignore[attr-defined]
    assert str(tmp_path) in html
    assert "*.&lt;b&gt;" in html
    ElementTree.fromstring(html)
