"""Views against a naive rendering: the right lines, well-formed HTML, and no more read than is shown."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from BTrees.OOBTree import OOBTree
from hypothesis import given, strategies as st
from lotdb import LOTDB, BaseNode, DataWriter, PathFileObj, add_blob
from trees import Tree, build, chain_of, keys, plant, pre_order, saved, stored, trees, unsaved

import lotproc as lp
from lotproc.views import MAX_ROWS

#: Trees whose keys can be printed, so that a line stays a line and XML can hold it.
printable_trees = st.recursive(
    st.just({}),
    lambda subtrees: st.dictionaries(keys.filter(str.isprintable), subtrees, max_size=5),
    max_leaves=16,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("views")


def build_shown(tree: Tree) -> BaseNode:
    """The tree with attributes whose text is plain."""
    root = build(tree)
    for node in lp.walk(root):
        node.delete_attribute("name")
    return root


# --- Text ------------------------------------------------------------------------------------------------------------


def lines_of(key: str, tree: Tree, depth: int | None, limit: int, level: int = 0) -> list[str]:
    """A tree as text, by recursion."""
    lines = [f"{key}  depth={level}" + ("" if level % 2 else "  even=True")]
    if depth is not None and level == depth:
        return lines
    shown = sorted(tree)[:limit]
    blocks = [lines_of(child, tree[child], depth, limit, level + 1) for child in shown]
    if len(tree) > limit:
        blocks.append([f"… {len(tree) - limit} more"])
    for number, block in enumerate(blocks):
        first, rest = ("└── ", "    ") if number == len(blocks) - 1 else ("├── ", "│   ")
        lines += [first + block[0], *(rest + line for line in block[1:])]
    return lines


@given(tree=printable_trees, depth=st.one_of(st.none(), st.integers(0, 5)), limit=st.integers(1, 6))
def test_the_text_is_that_of_a_naive_rendering(tree: Tree, depth: int | None, limit: int) -> None:
    view = lp.show(build_shown(tree), depth=depth, limit=limit)
    assert str(view).split("\n") == lines_of("root", tree, depth, limit)
    assert repr(view) == str(view)


def test_the_text_of_a_small_tree() -> None:
    root = BaseNode("corpus")
    for path in (["ann", "clip_1"], ["ann", "clip_2"], ["ann", "clip_3"], ["bob", "clip_1"]):
        root.gns(path).set_attribute("seconds", 1.5)
    assert str(lp.show(root, limit=2)) == "\n".join(
        [
            "corpus",
            "├── ann",
            "│   ├── clip_1  seconds=1.5",
            "│   ├── clip_2  seconds=1.5",
            "│   └── … 1 more",
            "└── bob",
            "    └── clip_1  seconds=1.5",
        ]
    )


def test_a_key_with_a_line_break_stays_on_its_line() -> None:
    root = BaseNode("root")
    root.gn("a\nb").set_attribute("text", "c\nd")
    assert len(str(lp.show(root)).splitlines()) == 2


def test_a_view_reads_the_tree_anew_each_time() -> None:
    root = BaseNode("root")
    view = lp.show(root)
    assert str(view) == "root"
    root.gn("a")
    assert str(view) == "root\n└── a"


def test_a_view_of_a_tree_that_is_closed_says_so(tmp_path: Path) -> None:
    """As where a cell ends with what an earlier one made."""
    with lp.open_root(tmp_path / "corpus.fs", create=True) as root:
        root.gns(["ann", "clip"])
        lp.commit(root)
    with lp.open_root(tmp_path / "corpus.fs") as root:
        views = lp.show(root), lp.show(next(lp.children(root)))
    for view in views:
        assert repr(view) == "… the connection of the tree is closed; display it before that"
        assert "the connection of the tree is closed" in view._repr_html_()


def test_many_children_are_counted_up_to_a_thousand() -> None:
    root = build_shown({f"c{number:04d}": {} for number in range(1_200)})
    assert str(lp.show(root, limit=10)).splitlines()[-1] == "└── … 1,000 or more"
    assert str(lp.show(root, limit=198)).splitlines()[-1] == "└── … 1,000 or more"
    few = build_shown({f"c{number:03d}": {} for number in range(500)})
    assert str(lp.show(few, limit=10)).splitlines()[-1] == "└── … 490 more"


@pytest.mark.parametrize("limit", [20, 150, 1_000])
def test_a_view_ends_after_its_rows_and_says_so(limit: int) -> None:
    root = build({f"a{n}": {f"b{m}": {} for m in range(50)} for n in range(50)})
    lines = str(lp.show(root, limit=limit)).splitlines()
    assert len(lines) == MAX_ROWS + 1
    assert "stopped after 200 rows" in lines[-1]
    assert "depth=" in lines[-1]


def test_a_view_of_exactly_its_rows_is_whole() -> None:
    root = build_shown({f"c{number:03d}": {} for number in range(MAX_ROWS - 1)})
    assert len(str(lp.show(root, limit=1_000)).splitlines()) == MAX_ROWS
    root.gn("one more")
    assert "stopped" in str(lp.show(root, limit=1_000))


@pytest.mark.parametrize("depth", [None, 3, 20_000])
def test_a_chain_of_ten_thousand_nodes_is_shown(depth: int | None) -> None:
    root = BaseNode("root")
    root.gns(chain_of(10_000))
    view = lp.show(root, depth=depth)
    assert len(str(view).splitlines()) == (4 if depth == 3 else MAX_ROWS + 1)
    ElementTree.fromstring(view._repr_html_())


VALUES: list[tuple[Callable[[], Any], str]] = [
    (lambda: 3, "value=3"),
    (lambda: None, "value=None"),
    (lambda: "clip", "value='clip'"),
    (lambda: 1.5, "value=1.5"),
    (lambda: 2.0, "value=2.0"),
    (lambda: float("nan"), "value=nan"),
    (lambda: float("inf"), "value=inf"),
    (lambda: np.arange(6, dtype="int16").reshape(2, 3), "value=<int16 (2, 3)>"),
    (lambda: np.float64(2.0), "value=2.0"),
    (lambda: np.float64(1.5), "value=1.5"),
    (lambda: PathFileObj(filepath="/data/a.wav"), "value=/data/a.wav"),
    (lambda: [1, 2, 3], "value=[1, 2, 3]"),
]


@pytest.mark.parametrize(("make", "text"), VALUES)
def test_attributes_are_shown_in_a_few_characters(make: Callable[[], Any], text: str) -> None:
    root = BaseNode("root")
    root.set_attribute("value", make())
    assert str(lp.show(root)) == f"root  {text}"


@pytest.mark.parametrize(
    "value",
    [
        "long " * 1_000,
        b"long " * 1_000,
        list(range(10_000)),
        {str(number): number for number in range(10_000)},
        [["deep " * 100] * 100] * 100,
        PathFileObj(filepath="/" + "long/" * 1_000 + "a.wav"),
        OOBTree({str(number): number for number in range(1_000)}),
        10**1_000,
        np.arange(100_000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_long_value_is_shortened(value: Any) -> None:
    root = BaseNode("root")
    root.set_attribute("value", value)
    line = str(lp.show(root))
    assert len(line) <= 300
    assert "\n" not in line


def test_payloads_are_shown_by_dtype_and_shape(folder: Path) -> None:
    database, root = saved(folder, {})
    with closing(database):
        root.delete_attribute("name")
        DataWriter.write_array(root.gn("array"), np.zeros((4, 2), "float32"), samplerate_hz=16_000.0)
        DataWriter.write_text(root.gn("text"), "a long text")
        add_blob(root.gn("blob"), data=b"abc", content_type="audio/wav")
        database.commit()
        assert str(lp.show(root)).splitlines()[1:] == [
            "├── array  data=<float32 (4, 2) at 16000 Hz>",
            "├── blob  _blob=<audio/wav>",
            "└── text  data=<text>",
        ]
        assert unsaved(root) == []


def test_what_lotproc_notes_for_itself_is_not_shown(folder: Path) -> None:
    np.save(folder / "a.npy", np.zeros(3))
    root = BaseNode("root")
    lp.ingest_files(root, lp.index_files(folder, "a.npy"), content=True)
    root.gn("a").set_attribute("_own", 1)
    done = [lp.ProcessResult(("a",), 2.0, inputs="digest")]
    lp.write(lp.inline("_proc"), root, done, version="1")
    assert {"_version", "_inputs"} <= set(root.get_node_path(["a", "_proc"]).attribute_storage)
    for view in (lp.show(root), lp.show(root)._repr_html_()):
        assert "_version" not in str(view)
        assert "_inputs" not in str(view)
        assert "_source" not in str(view)
    assert str(lp.show(root)).splitlines()[1:] == ["└── a  data=<float64 (3,)>  _own=1", "    └── _proc  result=2.0"]


def test_a_file_is_shown_as_it_is_named_from_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = BaseNode("root")
    root.set_attribute("file", PathFileObj(filepath=str(folder / "recordings" / "a.wav")))
    monkeypatch.chdir(folder)
    assert str(lp.show(root)) == "root  file=recordings/a.wav"
    assert "file=</span>recordings/a.wav" in lp.show(root)._repr_html_()


def test_many_attributes_are_cut() -> None:
    root = BaseNode("root")
    for number in range(100):
        root.set_attribute(f"a{number:02d}", number)
    line = str(lp.show(root))
    assert "a07=7" in line
    assert "a08" not in line
    assert "…" in line


# --- HTML ------------------------------------------------------------------------------------------------------------


def shown_in(html: str) -> Any:
    """The HTML of a view, without its style."""
    top = ElementTree.fromstring(html)
    assert (top.tag, top[0].tag) == ("div", "style")
    top.remove(top[0])
    return top


def tree_in(html: str) -> tuple[str, Tree, list[str]]:
    """The root's key, the tree below it and the notes that are in the HTML of a view, whose counts are held to it."""
    notes: list[str] = []

    def in_it(place: Any) -> Tree:
        if place.find("details") is not None:
            label, below = place.find("details")
            tree: Tree = {}
            for item in below.findall("li"):
                tree |= in_it(item)
            count = [int(told[0]) for part in label if (told := re.findall(r"^\((\d+)\)$", part.text or ""))]
            note = "".join(item.findtext("i") or "" for item in below.findall("li"))
            hidden = [int(more) for more in re.findall(r"^… (\d+) more$", note)]
            assert count in ([], [len(tree) + sum(hidden)])
            return {label.find("b").text or "": tree}
        if place.find("table") is not None:
            return {key.text or "": {} for key in place.findall("table/tbody/tr/td/b")}
        if place.find("i") is not None:
            notes.append(place.find("i").text)
            return {}
        return {place.find("b").text or "": {}}

    ((key, tree),) = in_it(shown_in(html)).items()
    return key, tree, notes


def size_of(tree: Tree) -> int:
    return 1 + sum(map(size_of, tree.values()))


@given(tree=printable_trees)
def test_the_html_is_well_formed_and_holds_the_tree(tree: Tree) -> None:
    html = lp.show(build_shown(tree), limit=10)._repr_html_()
    assert tree_in(html) == ("root", tree, [])
    counts = [int(count) for count in re.findall(r"\((\d+)\)</span></summary>", html)]
    assert sorted(counts) == sorted(counts_in(tree))


def test_what_a_view_that_is_cut_does_not_know_is_not_counted() -> None:
    tree = {f"a{n:02}": {f"b{m:02}": {} for m in range(50)} for n in range(50)}
    top = shown_in(lp.show(build_shown(tree), limit=100)._repr_html_())
    counts = ["".join(label.itertext()).rpartition(" ")[2] for label in top.iter("summary")]
    assert counts == ["even=True", "(50)", "(50)", "(50)", "depth=1"]


def counts_in(tree: Tree) -> list[int]:
    """How many children each branch has."""
    return [len(tree), *(count for below in tree.values() for count in counts_in(below))] if tree else []


@given(tree=printable_trees, depth=st.one_of(st.none(), st.integers(0, 3)), limit=st.integers(1, 3))
def test_the_html_holds_what_the_text_does(tree: Tree, depth: int | None, limit: int) -> None:
    view = lp.show(build_shown(tree), depth=depth, limit=limit)
    text = str(view)
    _, shown, notes = tree_in(view._repr_html_())
    assert size_of(shown) + len(notes) == len(text.splitlines())
    assert sorted(notes) == sorted(re.findall(r"… [\d,]+ more$", text, re.MULTILINE))


def test_neighbours_with_the_same_attributes_are_the_rows_of_a_table() -> None:
    root = BaseNode("corpus")
    for key in ("clip_1", "clip_2", "clip_4", "clip_5"):
        root.gn(key).set_attribute("seconds", 1.5)
    root.gn("clip_3").set_attribute("name", "<b>")
    items = shown_in(lp.show(root)._repr_html_()).findall("details/ul/li")
    assert [[head.text for head in item.findall("table/thead/tr/th")] for item in items] == [
        [None, "seconds"],
        [],
        [None, "seconds"],
    ]
    rows = [["".join(cell.itertext()) for cell in row] for row in items[0].findall("table/tbody/tr")]
    assert rows == [["clip_1", "1.5"], ["clip_2", "1.5"]]


def test_a_small_view_is_open_and_of_a_large_one_the_root() -> None:
    def opened(speakers: int) -> list[bool]:
        tree = {f"s{n}": {"day": {"clip": {}}} for n in range(speakers)}
        top = shown_in(lp.show(build_shown(tree), limit=100)._repr_html_())
        return [branch.get("open") is not None for branch in top.iter("details")]

    assert opened(3) == [True] * 7
    assert opened(20) == [True] + [False] * 40


@given(
    key=st.text("<>&'\"/ab ", min_size=1, max_size=8),
    name=st.text("<>&'\"/ab ", min_size=1, max_size=8),
    value=st.text("<>&'\"/ab ", max_size=8),
)
def test_keys_and_attributes_are_escaped(key: str, name: str, value: str) -> None:
    root = BaseNode(key)
    root.set_attribute(name, value)
    top = shown_in(lp.show(root)._repr_html_())
    assert "".join(top.itertext()) == f"{key} {name}={value!r}"
    for clip in ("a", "b"):
        root.gn(clip).set_attribute(name, value)
    top = shown_in(lp.show(root)._repr_html_())
    assert [cell.text for cell in top.iter("td") if not len(cell)] == [repr(value)] * 2
    assert [head.text for head in top.iter("th")] == [None, name]
    allowed = {"div", "details", "summary", "ul", "li", "b", "i", "span", "table", "thead", "tbody", "tr", "th", "td"}
    assert {element.tag for element in top.iter()} <= allowed


@given(path=st.text("<>&'\"b", min_size=1, max_size=8))
def test_values_that_are_not_shown_by_their_repr_are_escaped_too(path: str) -> None:
    root = BaseNode("root")
    root.set_attribute("file", PathFileObj(filepath=path))
    add_blob(root, data=b"", content_type=path)
    text = "".join(shown_in(lp.show(root)._repr_html_()).itertext())
    assert text == f"root file={Path(path)} _blob=<{path}>"


@pytest.mark.parametrize("limit", [3, 10, 150, 1_000])
def test_the_html_of_a_view_that_is_cut_is_well_formed(limit: int) -> None:
    root = build({f"a{n:02d}": {f"b{m:02d}": {"c": {}} for m in range(50)} for n in range(50)})
    _, _, notes = tree_in(lp.show(root, limit=limit)._repr_html_())
    assert notes
    deep = BaseNode("root")
    deep.gns(chain_of(500))
    assert tree_in(lp.show(deep)._repr_html_())[2] == ["… stopped after 200 rows; narrow it with depth= or limit="]


# --- Nothing more is read than is shown -----------------------------------------------------------------------------

SHAPES: dict[str, Tree] = {
    "100 speakers of 100 clips": {f"s{s:03d}": {f"c{c:03d}": {} for c in range(100)} for s in range(100)},
    "10,000 clips": {f"c{c:05d}": {} for c in range(10_000)},
}


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES.keys())
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LOTDB]:
    """10,000 leaves; to be built quickly, they share one empty tree for their children and their attributes."""
    path = str(tmp_path_factory.mktemp("large"))
    database = LOTDB(path=path, name="tree", new=True)
    root = database.open_connection()
    empty = OOBTree()
    stack: list[tuple[BaseNode, Tree]] = [(root, request.param)]
    while stack:
        node, tree = stack.pop()
        for key, below in tree.items():
            child = node.gn(key)
            if below:
                stack.append((child, below))
            else:
                child.node_storage = child.attribute_storage = empty
    database.commit()
    database.close()
    database = LOTDB(path=path, name="tree")
    yield database
    database.close()


def loads(root: BaseNode) -> int:
    """How many objects the connection has loaded from its storage."""
    return root._p_jar.getTransferCounts()[0]


@pytest.mark.parametrize("options", [{}, {"limit": 1}, {"depth": 1}, {"limit": 200}, {"limit": 100_000}], ids=repr)
@pytest.mark.parametrize("render", [str, lambda view: view._repr_html_()], ids=["text", "HTML"])
def test_a_view_of_ten_thousand_leaves_loads_few_objects(
    large: LOTDB, options: dict[str, int], render: Callable[[Any], str]
) -> None:
    connection_id = f"{options} {render}"
    root = large.open_connection(connection_id=connection_id)
    before = loads(root)
    view = lp.show(root, **options)
    assert loads(root) == before
    assert render(view)
    # A row is three objects; beside the rows, the keys of up to 1,000 children are counted at each node that is opened.
    opened = 12 if options.get("limit", 10) <= 10 else 3
    assert loads(root) - before <= 3 * MAX_ROWS + opened * (1_000 // 15)
    assert unsaved(root) == []
    large.close_connection(connection_id)


@given(tree=trees, depth=st.integers(0, 3))
def test_nothing_below_depth_is_touched_and_nothing_is_registered(folder: Path, tree: Tree, depth: int) -> None:
    with stored(folder, tree) as root:
        str(lp.show(root, depth=depth, limit=100))
        lp.show(root, depth=depth, limit=100)._repr_html_()
        assert unsaved(root) == []
        cache = root._p_jar._cache
        ghosts = [node for node in (entry[1] for entry in cache.items()) if isinstance(node, BaseNode)]
        touched = [node for node in ghosts if node._p_changed is not None]
        assert len(touched) == sum(len(path) <= depth for path in pre_order(tree))


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"depth": -1}, lp.ArgumentError, "depth must be at least 0, got -1"),
        ({"depth": "2"}, lp.ArgumentTypeError, "depth .* str '2'"),
        ({"limit": 0}, lp.ArgumentError, "limit must be at least 1, got 0"),
        ({"limit": None}, lp.ArgumentTypeError, "limit .* None"),
        ({"width": 3}, lp.ArgumentTypeError, "width"),
    ],
)
def test_a_wrong_option_is_refused_at_once(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        lp.show(**options)
    with pytest.raises(error, match=text):
        lp.show(BaseNode("root"), **options)


@pytest.mark.parametrize("root", [None, 3, "root", [], {}])
def test_a_root_that_is_no_node_is_refused_at_once(root: object) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="show: expected a lotdb node"):
        lp.show(root)


def test_show_is_a_stage() -> None:
    root = plant(BaseNode("root"), {"a": {}})
    stage = lp.show(depth=1)
    assert str(stage(root)) == str(lp.show(root, depth=1))
    assert str(pickle.loads(pickle.dumps(stage))(root)) == str(stage(root))
