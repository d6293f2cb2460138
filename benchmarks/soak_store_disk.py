"""Stores on a disk that gets full."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path
from time import sleep
from typing import Any

from benchmarks.soak_disk import Refused, disk, make_room
from benchmarks.soak_histories import HISTORIES, History
from benchmarks.soak_processes import LOOK_EVERY
from benchmarks.soak_rows import Outcome, Settings, of, repeated, say
from benchmarks.soak_store_jobs import StoreJob
from benchmarks.soak_store_kills import MIXED, different, problems_seen
from benchmarks.soak_store_reading import logged

LEAST_DISK, MOST_DISK = 200 << 10, 3 << 20
#: Steps of which the last ones don't fit, and steps that are done when there is room.
MANY, MORE = 5_000, 10
#: What a full disk is called.
FULL = {"directory": (errno.ENOSPC,), "LMDB": (errno.ENOSPC,), "archive": (errno.ENOSPC,)}


def fill_disks_of_stores(kind: str, settings: Settings) -> Outcome:
    """Let writers run into the end of a small disk, look at what is there, and let them go on."""
    number = settings.at_most(20)
    counts: Counter[str] = Counter()
    try:
        good = repeated(settings, f"full disks, {kind}", number, lambda folder: _filled(kind, settings, folder, counts))
    except Refused as error:
        say(str(error))
        return Outcome("0 runs", f"not measured: {error}", False)
    mixed = counts.pop(MIXED, 0)
    outcome = f"{of(good, number)}"
    if mixed:
        outcome += f"; {HISTORIES[kind].original} saw a part of a step {mixed} times"
    ways = ", ".join(f"{count} {way}" for way, count in sorted(counts.items()))
    return Outcome(f"{number} runs ({ways})", outcome, good == number)


def _filled(kind: str, settings: Settings, folder: Path, counts: Counter[str]) -> list[str]:
    choose = settings.choose
    seed, shape, opens_anew = choose.randrange(1 << 32), choose.choice(HISTORIES[kind].shapes), choose.random() < 0.5
    size = round(choose.uniform(LEAST_DISK, MOST_DISK))
    problems: list[str] = []
    with disk(folder / "disk", size) as mounted:
        options: dict[str, Any] = {"folder": str(mounted / "store"), "seed": seed, "shape": shape, "keys": 100_000}
        history, log, again = HISTORIES[kind](**options), folder / "log", folder / "again"
        ways = {"opens_anew": opens_anew, "most": MANY, "more": MORE}
        with StoreJob("fill", folder, kind=kind, log=str(log), again=str(again), **ways, **options) as job:
            while not job.is_over and "error" not in job.told():
                sleep(LOOK_EVERY)
            told = job.told()
            if "error" in told:
                done, _ = logged(log)
                if told["error"] != "StoreFullError" and told["errno"] not in FULL[kind]:
                    problems.append(f"it told {told}")
                order = choose.choice((["lotproc", history.original], [history.original, "lotproc", history.original]))
                problems += problems_seen(kind, history, folder, order, counts, goes_on=False)
                make_room(mounted)
                again.touch()
                code, errors, told = job.ended(), job.errors(), job.told()
                if code != 0:
                    problems.append(f"when there was room, it ended with {code}: {errors[-1500:]}")
                else:
                    problems += _problems_at_the_end(kind, history, folder, done, told["steps"])
            else:
                problems.append(f"it ended with {job.ended()} and filled no disk: {job.errors()[-1500:]}")
    os.rmdir(folder / "disk")
    counts["opened anew" if opens_anew else "in the same session"] += 1
    return [f"({kind}, {seed=}, {shape=}, {opens_anew=}, {size=})", *problems] if problems else []


def _problems_at_the_end(kind: str, history: History, folder: Path, done: int, steps: int) -> list[str]:
    """What is wrong after the step that failed was done again, and some more; it may have counted before."""
    once = history.contents(done)
    twice = history.after(once, done)
    for number in range(done, steps):
        once, twice = history.after(once, number), history.after(twice, number)
    options: dict[str, Any] = {"folder": str(history.folder), "seed": history.seed, "shape": history.shape}
    order = ["lotproc", history.original]
    with StoreJob("look", folder / "look", kind=kind, order=order, goes_on=True, keys=history.keys, **options) as job:
        code, told, errors = job.ended(), job.all_told(), job.errors()
    if code != 0:
        return [f"looking at the end ended with {code}: {errors[-1500:]}"]
    problems = []
    for facts in told:
        if "error" in facts:
            problems.append(f"at the end, {facts['who']}: {facts['error'][:1000]}")
        elif facts["found"] not in (once, twice) and facts["who"] != "a writer":
            problems.append(f"at the end, {facts['who']}: {different(facts['found'], once)}")
    return problems
