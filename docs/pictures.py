"""The pictures of the start page and of "Along the paths": `python docs/pictures.py` draws them anew."""

from __future__ import annotations

from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "pictures"

WIDTH, HEIGHT, BOX, TALL = 600, 236, 132, 40
#: Where each node of the tree stands: its middle, and its top.
NODES = {
    "corpus": (310, 10),
    "ann": (170, 98),
    "bob": (450, 98),
    "ann/c1": (90, 186),
    "ann/c2": (250, 186),
    "bob/c1": (450, 186),
}
HEAD = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0,0 L8,4 L0,8 z" fill="#0969da"/></marker></defs>'
)
STYLE = (
    "<style>rect { fill: #f6f8fa; stroke: #57606a } .other rect { fill: #fff8c5 } text { font: 12px sans-serif; "
    "fill: #24292f; text-anchor: middle } .key { font-weight: bold } .new { fill: #0969da } "
    ".line { stroke: #afb8c1; fill: none } .moves { stroke: #0969da; stroke-width: 2; fill: none } "
    ".group { fill: none; stroke: #0969da; stroke-dasharray: 5 3 } .paper { fill: #fff8c5 } "
    ".step { fill: #ddf4ff }</style>"
)


def _node(name: str, text: str, place: tuple[float, float], *, is_new: bool = False) -> list[str]:
    x, y = place
    new = ' class="new"' if is_new else ""
    return [
        f'<rect x="{x - BOX / 2:g}" y="{y:g}" width="{BOX}" height="{TALL}" rx="6"/>',
        f'<text x="{x:g}" y="{y + 16:g}" class="key">{escape(name)}</text>',
        f'<text x="{x:g}" y="{y + 32:g}"{new}>{escape(text)}</text>',
    ]


def _line(start: tuple[float, float], end: tuple[float, float], kind: str = "line") -> str:
    """A line from one node to another; that of a movement is an arrow."""
    (x1, y1), (x2, y2) = start, end
    if kind == "line":
        return f'<path d="M{x1:g},{y1 + TALL:g} L{x2:g},{y2:g}" class="line"/>'
    down = y2 > y1
    y1, y2 = (y1 + TALL, y2 - 3) if down else (y1, y2 + TALL + 3)
    return f'<path d="M{x1:g},{y1:g} L{x2:g},{y2:g}" class="moves" marker-end="url(#head)"/>'


def _svg(title: str, *drawn: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", STYLE, HEAD, *drawn, "</svg>\n"])


EDGES = [(above, below) for below in NODES for above in ["/".join(below.split("/")[:-1]) or "corpus"] if below != above]


def _tree(texts: dict[str, str], moves: list[tuple[str, str]], new: set[str]) -> list[str]:
    lines = [
        _line(NODES[above], NODES[below])
        for above, below in EDGES
        if {(above, below), (below, above)}.isdisjoint(moves)
    ]
    arrows = [_line(NODES[start], NODES[end], "moves") for start, end in moves]
    boxes = [
        part for name, place in NODES.items() for part in _node(name, texts.get(name, ""), place, is_new=name in new)
    ]
    return [*lines, *arrows, *boxes]


LEAVES = [name for name in NODES if "/" in name]


#: What a pipeline is made of.
STEPS = ("traverse", "filter", "snapshot", "batch", "process", "write")
#: What comes of a tree.
FRUITS = (("results", "beside their input"), ("totals", "of each branch"), ("a table", "pandas, Parquet"))


def _words(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(text)}</text>'


def _arrow(path: str) -> str:
    return f'<path d="{path}" class="moves" marker-end="url(#head)"/>'


def _start() -> list[str]:
    """Files become a tree; the pipeline goes from the tree to the tree; what is in it goes to tables and training."""
    folder = [
        '<rect x="10" y="54" width="132" height="112" rx="6" class="paper"/>',
        _words(76, 74, "a folder", "key"),
        *(_words(76, 98 + 18 * n, name) for n, name in enumerate(("ann/c1.wav", "ann/c2.wav", "bob/c1.wav"))),
        _words(76, 156, "speakers.csv"),
    ]
    texts = {"ann": "age=31", "bob": "age=40", "ann/c1": "level=-21", "ann/c2": "level=-18", "bob/c1": "level=-25"}
    tree = ['<g transform="translate(150 -4)">', *_tree(texts, [], set(LEAVES)), "</g>"]
    fruits = []
    for number, (title, text) in enumerate((*FRUITS, ("training", "and test sets"))):
        y = 6 + 56 * number
        fruits += [
            f'<rect x="738" y="{y}" width="132" height="42" rx="6" class="paper"/>',
            _words(804, y + 17, title, "key"),
            _words(804, y + 33, text),
        ]
    steps = []
    for number, step in enumerate(STEPS):
        x = 174 + 92 * number
        steps.append(f'<rect x="{x}" y="268" width="80" height="30" rx="15" class="step"/>')
        steps.append(_words(x + 40, 288, step, "key"))
        if number:
            steps.append(_arrow(f"M{x - 12},283 H{x - 3}"))
    arrows = [
        _arrow("M144,110 H250"),
        _arrow("M214,224 V264"),  # out of the tree,
        _arrow("M652,266 V226"),  # and back
        _arrow("M668,110 H734"),
    ]
    return [*folder, *arrows, *tree, *fruits, *steps]


def pictures() -> dict[str, str]:
    """Each picture by the name of its file."""
    down = _tree(
        {"ann": "age=31", "bob": "age=40", "ann/c1": "age=31", "ann/c2": "age=31", "bob/c1": "age=40"},
        [(above, below) for above, below in EDGES if below in LEAVES],
        set(LEAVES),
    )
    up = _tree(
        {"ann/c1": "1.5 s", "ann/c2": "0.5 s", "bob/c1": "1.0 s", "ann": "2.0 s", "bob": "1.0 s", "corpus": "3.0 s"},
        [(below, above) for above, below in EDGES],
        {"ann", "bob", "corpus"},
    )
    across = [
        *_beside(30, "a record", "seconds=1.5"),
        *_beside(120, "a result below it, another tree, a store, a table", "f0=118", is_other=True),
        f'<path d="M{170 + BOX / 2:g},50 H{450 - BOX / 2 - 4:g}" class="moves" marker-end="url(#head)"/>',
        f'<path d="M{170 + BOX / 2:g},140 L{450 - BOX / 2 - 4:g},62" class="moves" marker-end="url(#head)"/>',
        *_node("ann/c1", "seconds=1.5 f0=118", (450, 30), is_new=True),
    ]
    groups = [
        *_tree(
            {"ann/c1": "1.5 s", "ann/c2": "0.5 s", "bob/c1": "1.0 s", "ann": "[1.5, 0.5]", "bob": "[1.0]"},
            [],
            {"ann", "bob"},
        ),
        '<rect x="14" y="90" width="312" height="144" rx="10" class="group"/>',
        '<rect x="372" y="90" width="156" height="144" rx="10" class="group"/>',
    ]
    return {
        "start.svg": _svg(
            "Files become a tree; a pipeline goes through it and writes back; tables and training sets come out",
            *_start(),
            width=880,
            height=308,
        ),
        "down.svg": _svg("Down: each clip has the age of its speaker", *down),
        "up.svg": _svg("Up: the seconds of the clips become those of the speakers, and of the corpus", *up),
        "across.svg": _svg("Across: what has the same path comes together", *across, height=186),
        "groups.svg": _svg("Groups: the clips of a speaker become one record", *groups, height=244),
    }


def _beside(y: float, title: str, text: str, *, is_other: bool = False) -> list[str]:
    """One of the two that come together, with what it is above it."""
    box = _node("ann/c1", text, (170, y))
    above = y + TALL + 18 if is_other else y - 10
    return [
        f'<text x="170" y="{above:g}">{escape(title)}</text>',
        f'<g class="{"other" if is_other else ""}">',
        *box,
        "</g>",
    ]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file, picture in pictures().items():
        (FOLDER / file).write_text(picture, encoding="utf-8")
