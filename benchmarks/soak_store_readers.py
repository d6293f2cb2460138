"""Processes that read a store beside one that writes it."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.soak_histories import HISTORIES
from benchmarks.soak_rows import Outcome, Settings, say
from benchmarks.soak_store_jobs import StoreJob

READERS = 4
SECONDS = 30


def read_beside_writers(kind: str, settings: Settings) -> Outcome:
    """Four readers and a writer for half a minute, for each shape that a store has."""
    seconds = max(1, settings.at_most(SECONDS))
    shapes = ("pairs",) if kind == "directory" else HISTORIES[kind].shapes
    reads = steps = 0
    wrong = failed = 0
    kinds: Counter[str] = Counter()
    for shape in shapes:
        folder = settings.folder / shape.replace(", ", "_")
        found, problems = _beside(kind, shape, seconds / len(shapes), settings.choose.randrange(1 << 32), folder)
        steps += found.pop("steps", 0)
        reads += found.pop("reads", 0)
        wrong += found.pop("wrong", 0)
        failed += bool(problems)
        kinds.update(found)
        if problems:
            say(f"readers of {kind}, {shape}: {'; '.join(problems[:10])}; what is left is in {folder}")
    ways = ", ".join(f"{count:,} {way}" for way, count in kinds.items())
    outcome = f"{reads:,} values read beside {steps:,} steps ({ways}), {wrong} of them wrong"
    return Outcome(f"{READERS} readers, {seconds} s", outcome, not failed and reads > 0 and steps > 0)


def _beside(kind: str, shape: str, seconds: float, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    folders = [folder / f"reader_{number}" for number in range(READERS)]
    for each in (folder / "writer", *folders):
        each.mkdir(parents=True)
    options: dict[str, Any] = {"kind": kind, "folder": str(folder / "store"), "seed": seed, "shape": shape}
    options["log"] = str(folder / "log")
    counts: Counter[str] = Counter()
    problems: list[str] = []
    with ExitStack() as stack:
        writer = stack.enter_context(StoreJob("change", folder / "writer", until=str(folder / "stop"), **options))
        readers = [stack.enter_context(StoreJob("read_beside", each, seconds=seconds, **options)) for each in folders]
        for reader in readers:
            code = reader.ended(seconds + 60)
            told = reader.told()
            if code != 0 or not told:
                problems.append(f"a reader ended with {code}: {reader.errors()[-1500:]}")
                continue
            counts["reads"] += told["reads"]
            counts.update(told["kinds"])
            counts["wrong"] += told["wrong"]
            problems += told["some"]
        (folder / "stop").touch()
        code = writer.ended(60)
        if code != 0:
            problems.append(f"the writer ended with {code}: {writer.errors()[-1500:]}")
        counts["steps"] = writer.told().get("steps", 0)
    return counts, problems
