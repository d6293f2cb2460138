"""Stores whose writers are killed."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any

from benchmarks.soak_histories import HISTORIES, Contents, History
from benchmarks.soak_processes import PATIENCE
from benchmarks.soak_rows import Outcome, Settings, of, repeated
from benchmarks.soak_store_jobs import StoreJob
from benchmarks.soak_store_reading import logged

#: Steps before a kill, at most.
MOST_STEPS = 60
#: Seconds within which a writer starts, and does a step.
START, STEP = 0.6, 0.02
MID_STEP, MIXED = "in the middle of a step", "mixed"


def kill_writers(kind: str, settings: Settings) -> Outcome:
    """Kill writers of a store at random moments; lotproc and the original have to find what was durable, and whole."""
    number = settings.at_most(100)
    counts: Counter[str] = Counter()
    good = repeated(settings, f"killed writers, {kind}", number, lambda folder: _killed(kind, settings, folder, counts))
    mid, mixed, original = counts.pop(MID_STEP, 0), counts.pop(MIXED, 0), HISTORIES[kind].original
    outcome = f"{of(good, number)}; {mid} in the middle of a step"
    if mixed:
        outcome += f", of which {original} saw a part {mixed} times before {HISTORIES[kind].completed_by} had come"
    firsts = ", ".join(f"{count} {who} first" for who, count in sorted(counts.items()))
    return Outcome(f"{number} runs ({firsts})", outcome, good == number)


def _killed(kind: str, settings: Settings, folder: Path, counts: Counter[str]) -> list[str]:
    """Kill a writer, and look at what is there."""
    choose = settings.choose
    seed, shape = choose.randrange(1 << 32), choose.choice(HISTORIES[kind].shapes)
    options: dict[str, Any] = {"folder": str(folder / "store"), "seed": seed, "shape": shape}
    history, log = HISTORIES[kind](**options), folder / "log"
    with StoreJob("change", folder, kind=kind, log=str(log), **options) as job:
        if choose.random() < 0.15:
            sleep(choose.uniform(0, START))
        else:
            steps = choose.randrange(MOST_STEPS)
            while logged(log)[0] < steps and not job.is_over:
                pass
            sleep(choose.uniform(0, STEP))
        job.signal_all(signal.SIGKILL)
        code, errors = job.ended(), job.errors()
        left = job.left()
    problems = [] if code == -signal.SIGKILL else [f"the writer ended with {code}: {errors[-1500:]}"]
    if left:
        problems.append(f"{left} still there {PATIENCE:g} s after the kill")
    done, begun = logged(log)
    counts[MID_STEP] += begun
    original = history.original
    first = choose.choice(("lotproc", original))
    order = ["lotproc", original] if first == "lotproc" else [original, "lotproc", original]
    problems += problems_seen(kind, history, folder, order, counts, goes_on=True)
    counts[first] += 1
    return (
        [f"({kind}, {seed=}, {shape=}, {done} steps durable, {begun=}, {first} first)", *problems] if problems else []
    )


def problems_seen(
    kind: str, history: History, folder: Path, order: list[str], counts: Counter[str], *, goes_on: bool
) -> Iterator[str]:
    """What is wrong with what lotproc and the original find in a store whose writer may have been disturbed."""
    done, begun = logged(folder / "log")
    before = history.contents(done)
    after = history.after(before, done) if begun else before
    is_atomic = not begun or history.is_atomic(done)
    options: dict[str, Any] = {"folder": str(history.folder), "seed": history.seed, "shape": history.shape}
    (folder / "look").mkdir(exist_ok=True)
    with StoreJob(
        "look", folder / "look", kind=kind, order=order, goes_on=goes_on, keys=history.keys, **options
    ) as job:
        code = job.ended()
        told, errors = job.all_told(), job.errors()
    if code != 0 or len(told) != len(order) + goes_on:
        whom = [*order, "a writer"][len(told)]
        yield f"looking at it ended with {code}, at {whom}: {errors[-1500:]}"
    is_repaired = False
    seen: Contents | None = None
    for facts in told:
        who, found = facts["who"], facts.get("found")
        if found is None:
            yield f"{who}, of {order}: {facts['error'][:1000]}"
            continue
        if who == "a writer":
            continue
        is_repaired |= who == history.completed_by
        if is_repaired and seen is not None and found != seen:
            yield f"{who} finds other things than lotproc: {different(found, seen)}"
        elif found not in (before, after) and (is_atomic or not _is_between(found, before, after)):
            if who == "lotproc" or is_repaired or not history.may_be_mixed():
                yield f"{who}: {different(found, before)}; or, had step {done} been done, {different(found, after)}"
            else:
                counts[MIXED] += 1
        if who == "lotproc":
            seen = found


def _is_between(found: Contents, before: Contents, after: Contents) -> bool:
    """Whether each record is as it was, or as it was to be."""
    return all(found.get(key) in (before.get(key), after.get(key)) for key in {*found, *before, *after})


def different(found: Contents, expected: Contents) -> str:
    """What two contents differ in."""
    keys = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
    some = ", ".join(f"{key} is {found.get(key)}, not {expected.get(key)}" for key in keys[:3])
    return f"{len(keys)} of {len(expected)} differ: {some}" if keys else "it is as it should be"
