"""The rooms of the package, read from its code: which there are, what imports what, and a picture of both.

`python tests/rooms.py` draws `docs/rooms.svg` anew.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lotproc"
PICTURE = ROOT / "docs" / "rooms.svg"

#: Rooms from the top down: a module imports only from its own room and from rows below. Rooms of one row do not know
#: each other. What is in no folder and not named here is foundation.
ROWS: list[dict[str, str]] = [
    {"facade": "__init__ targets pipeline processors"},
    {
        "doors": "opening scanning revisions comparing resuming leftovers states _marked _undone parallel executors "
        "lifting joining _join_sides sources copying indexing ingest _attaching _contents _gone loading export "
        "serialization views bars summaries testing "
        "_store_tests"
    },
    {"workers": "workers", "writing": "writing", "tables": "tables"},
    {"zodb": "zodb", "stores": "stores"},
    {
        "stages": "traversal filters buffering gathering folds rollups write_policies derived snapshots payloads "
        "sampling splitting _stamps _detaching"
    },
    {"foundation": ""},
]
#: What a reader finds in each.
SAID = {
    "facade": "other spellings of the same stages",
    "doors": "what users call, with a room below",
    "workers": "batches, processes, what is in flight",
    "writing": "planned, applied, committed",
    "tables": "rows, Arrow columns, times",
    "stores": "a protocol, codecs, a folder a store",
    "zodb": "how a tree lies in records",
    "stages": "nodes, records, batches, policies",
    "foundation": "values, errors, what makes a stage",
}


def name_of(path: Path) -> str:
    """The name of a module below the package; that of a folder for its `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> tuple[int, str]:
    """The row and the name of a module's room."""
    for row, rooms in enumerate(ROWS):
        for room, members in rooms.items():
            if module.partition(".")[0] in members.split():
                return row, room
    return len(ROWS) - 1, "foundation"


def imported(module: str) -> Iterator[str]:
    """The modules of lotproc that a module imports, anywhere in its code, for type checkers too."""
    is_folder = (PACKAGE / module.replace(".", "/") / "__init__.py").exists()
    above = ["lotproc", *module.split(".")] if is_folder else ["lotproc", *module.split(".")[:-1]]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = above[: len(above) - node.level + 1] if node.level else []
            source = ".".join(filter(None, [*package, node.module]))
            # `from . import errors` names a module, `from lotproc import leaves` does not
            inside = [f"{source}.{alias.name}" for alias in node.names]
            names = [name if name.partition(".")[2] in TREES else source for name in inside]
        else:
            continue
        for name in names:
            package_name, _, rest = name.partition(".")
            if package_name == "lotproc":
                yield rest or "__init__"


def arrows() -> set[tuple[str, str]]:
    """Which room imports from which; without those that follow from two others."""
    every = {(room_of(module)[1], room_of(other)[1]) for module in TREES for other in imported(module)}
    every = {(room, other) for room, other in every if room != other}
    rooms = {room for pair in every for room in pair}
    reaches = set(every)
    for between in rooms:
        for room in rooms:
            for other in rooms:
                if (room, between) in reaches and (between, other) in reaches:
                    reaches.add((room, other))
    return {
        (room, other)
        for room, other in every
        if not any((room, between) in reaches and (between, other) in reaches for between in rooms)
    }


WIDTH, BOX, HEIGHT, GAP = 780, 244, 52, 34


def picture() -> str:
    """The rooms as boxes, each with the number of its files, and the arrows between them, as SVG."""
    boxes = {}
    for row, rooms in enumerate(ROWS):
        left = (WIDTH - len(rooms) * BOX - (len(rooms) - 1) * 16) / 2
        for place, room in enumerate(rooms):
            boxes[room] = (left + place * (BOX + 16), 8 + row * (HEIGHT + GAP))
    drawn = []
    for room, other in sorted(arrows()):
        (x1, y1), (x2, y2) = boxes[room], boxes[other]
        if y2 - y1 > HEIGHT + GAP:  # past a row: down beside it, and in from the right
            way = f"M{x1 + BOX - 60:g},{y1 + HEIGHT:g} V{y2 + HEIGHT / 2:g} H{x2 + BOX + 4:g}"
        else:
            start, end = (x + min(max(to - x, 40), BOX - 40) for x, to in ((x1, x2 + BOX / 2), (x2, x1 + BOX / 2)))
            way = f"M{start:g},{y1 + HEIGHT:g} L{end:g},{y2 - 4:g}"
        drawn.append(f'<path d="{way}" class="arrow" marker-end="url(#head)"/>')
    for room, (x, y) in boxes.items():
        members = [module for module in TREES if room_of(module)[1] == room]
        about = f"{len(members)} files"
        drawn += [
            f'<rect x="{x:g}" y="{y:g}" width="{BOX}" height="{HEIGHT}" rx="6"/>',
            f'<text x="{x + 12:g}" y="{y + 21:g}" class="room">{room}</text>',
            f'<text x="{x + BOX - 12:g}" y="{y + 21:g}" class="about" text-anchor="end">{about}</text>',
            f'<text x="{x + 12:g}" y="{y + 40:g}">{escape(SAID[room])}</text>',
        ]
    height = 16 + len(ROWS) * (HEIGHT + GAP) - GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            "<title>The rooms of lotproc, and what imports what</title>",
            "<style>rect { fill: #f6f8fa; stroke: #57606a } text { font: 12px sans-serif; fill: #24292f }",
            ".room { font-weight: bold; font-size: 14px } .about { fill: #57606a }",
            ".arrow { stroke: #57606a; fill: none; stroke-width: 1.3 }</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#57606a"/></marker></defs>',
            *drawn,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
