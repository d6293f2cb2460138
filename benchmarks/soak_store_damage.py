"""Stores whose files are damaged: what comes of reading them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from benchmarks.soak_processes import LOOK_EVERY
from benchmarks.soak_rows import Outcome, Settings, of, say
from benchmarks.soak_store_damage_jobs import FOREIGN, PLAIN_LMDB, WRONG, has_checksums, worst
from benchmarks.soak_store_jobs import StoreJob

#: Seconds that reading a damaged store may take.
MOST_SECONDS = 60.0


#: A reader that ends with its process.
ENDED = "the end of the process"


def damage_stores(kind: str, settings: Settings) -> Outcome:
    """Damage files of stores, and read what is in them; those of LMDB once more without lotproc."""
    number, seed = settings.at_most(500), settings.choose.randrange(1 << 32)
    counts = _counts(kind, settings, seed, number)
    ended, failures = counts[ENDED], counts[FOREIGN] + counts[WRONG]
    came = f"{of(number - failures - ended, number)}; at worst: {_shown(counts)}"
    if kind != "LMDB":
        return Outcome(f"{number} corruptions", came, not failures and not ended)
    plain = _counts(PLAIN_LMDB, settings, seed, number)
    came += f"; plain lmdb with the same files: {_shown(plain)}"
    return Outcome(f"{number} corruptions", came, not failures and ended <= plain[ENDED])


def _counts(kind: str, settings: Settings, seed: int, number: int) -> Counter[str]:
    """At how many corruptions each was the worst that came of them."""
    folder = settings.folder / kind
    folder.mkdir()
    with StoreJob("build", folder, kind=kind, folder=str(folder / "stores")) as job:
        if job.ended() != 0:
            raise AssertionError(f"the stores to be damaged can't be written: {job.errors()[-3000:]}")
    counts: Counter[str] = Counter()
    first = 0
    while first < number:
        facts, ending = _read(kind, folder, seed, first, number)
        for fact in facts:
            if "counts" not in fact:
                continue
            first = fact["number"] + 1
            came = worst(fact["counts"]) if fact["counts"] else "nothing to read"
            if came == WRONG and not has_checksums(kind, fact["variant"]):
                came = f"{came}, without checksums"
            counts[came] += 1
            if came in (FOREIGN, WRONG) and kind != PLAIN_LMDB:
                say(f"damaged {kind}, {seed=}, {fact}")
        if ending:
            last = facts[-1] if facts else {}
            if kind != PLAIN_LMDB:
                say(f"damaged {kind}, {seed=}, {last}: {ending}")
            if not last or "counts" in last:
                raise AssertionError(f"the reader ended: {ending[:200]}")
            counts[ENDED] += 1
            first = last["number"] + 1
    return counts


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())


def _read(kind: str, where: Path, seed: int, first: int, stop: int) -> tuple[list[dict[str, Any]], str]:
    """Let a process read damaged stores; what it told, and how it ended before its time, if it did."""
    folder = str(where / "stores")
    with StoreJob("damage", where, kind=kind, folder=folder, seed=seed, first=first, stop=stop) as job:
        told, since = 0, monotonic()
        while not job.is_over:
            sleep(10 * LOOK_EVERY)
            if len(job.all_told()) != told:
                told, since = len(job.all_told()), monotonic()
            elif monotonic() - since > MOST_SECONDS:
                return job.all_told(), f"no end after {MOST_SECONDS:g} s"
        code = job.ended()
        return job.all_told(), "" if code == 0 else f"it ended with {code}: {job.errors()[-1000:]}"
