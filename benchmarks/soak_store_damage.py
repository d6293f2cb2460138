"""Stores whose files are damaged: what comes of reading them."""

from __future__ import annotations

from collections import Counter
from time import monotonic, sleep
from typing import Any

from benchmarks.soak_processes import LOOK_EVERY
from benchmarks.soak_rows import Outcome, Settings, of, say
from benchmarks.soak_store_damage_jobs import FOREIGN, WRONG, has_checksums, worst
from benchmarks.soak_store_jobs import StoreJob

#: Seconds that reading a damaged store may take.
MOST_SECONDS = 60.0


def damage_stores(kind: str, settings: Settings) -> Outcome:
    """Damage files of stores, and read what is in them."""
    number, seed = settings.at_most(500), settings.choose.randrange(1 << 32)
    folder = settings.folder
    with StoreJob("build", folder, kind=kind, folder=str(folder / "stores")) as job:
        if job.ended() != 0:
            raise AssertionError(f"the stores to be damaged can't be written: {job.errors()[-3000:]}")
    counts: Counter[str] = Counter()
    failures = 0
    first = 0
    while first < number:
        facts, ending = _read(kind, settings, seed, first, number)
        for fact in facts:
            if "counts" not in fact:
                continue
            first = fact["number"] + 1
            came = worst(fact["counts"]) if fact["counts"] else "nothing to read"
            has_sums = has_checksums(kind, fact["variant"])
            counts[f"{came}, without checksums" if came == WRONG and not has_sums else came] += 1
            if came == FOREIGN or (came == WRONG and has_sums):
                failures += 1
                say(f"damaged {kind}, {seed=}, {fact}")
        if ending:
            failures += 1
            counts["the end of the process"] += 1
            last = facts[-1] if facts else {}
            say(f"damaged {kind}, {seed=}, {last}: {ending}")
            if not last or "counts" in last:
                return Outcome(f"{first} corruptions", f"the reader ended: {ending[:200]}", False)
            first = last["number"] + 1
    came_of = ", ".join(f"{count} {what}" for what, count in counts.most_common())
    return Outcome(f"{number} corruptions", f"{of(number - failures, number)}; at worst: {came_of}", not failures)


def _read(kind: str, settings: Settings, seed: int, first: int, stop: int) -> tuple[list[dict[str, Any]], str]:
    """Let a process read damaged stores; what it told, and how it ended before its time, if it did."""
    folder = str(settings.folder / "stores")
    with StoreJob("damage", settings.folder, kind=kind, folder=folder, seed=seed, first=first, stop=stop) as job:
        told, since = 0, monotonic()
        while not job.is_over:
            sleep(10 * LOOK_EVERY)
            if len(job.all_told()) != told:
                told, since = len(job.all_told()), monotonic()
            elif monotonic() - since > MOST_SECONDS:
                return job.all_told(), f"no end after {MOST_SECONDS:g} s"
        code = job.ended()
        return job.all_told(), "" if code == 0 else f"it ended with {code}: {job.errors()[-1000:]}"
