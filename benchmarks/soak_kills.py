"""Jobs that are killed or interrupted, and workers that are killed."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Any

from benchmarks.soak_processes import LOOK_EVERY, PATIENCE, Job
from benchmarks.soak_rows import Outcome, Settings, of, repeated, say
from benchmarks.soak_trees import (
    LEAVES,
    Tree,
    build_numbers,
    contents,
    differences,
    done,
    finished,
    looked_at,
    problems_midway,
    problems_of_ledger,
    unsound,
)
from benchmarks.trees import NAME

#: How many results go into one commit. From 10,001 on they are written through live nodes.
COMMITS = (100, 1_000, 20_000)
#: Counts the jobs that had committed some results and not all.
PARTLY = "partly"
#: Seconds from Ctrl-C to the end.
MOST_SECONDS = 2.0


class Bases:
    """The databases that runs start from, and what becomes of them when nothing disturbs a job.

    Half of the runs start from a tree with results of another version, which are written over, through live nodes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.trees: dict[bool, Tree] = {}
        #: Seconds that a job takes, its start included.
        self.seconds: dict[str, float] = {}
        #: Bytes that the file grows by.
        self.growth: dict[tuple[bool, int], int] = {}
        for stale in (False, True):
            build_numbers(folder / f"base_{stale}", stale=stale)
            self.trees[stale] = contents(folder / f"base_{stale}")
        for mode in ("process", "thread", "sync"):
            self.seconds[mode] = min(self._undisturbed(False, 100, mode) for _ in range(2))
            say(f"an undisturbed job takes {self.seconds[mode]:.2f} s, mode={mode!r}")
        for stale in (False, True):
            for commit_every in COMMITS:
                self._undisturbed(stale, commit_every, "sync")

    def copy(self, stale: bool, folder: Path) -> Path:
        return Path(shutil.copytree(self._folder / f"base_{stale}", folder / "database"))

    def _undisturbed(self, stale: bool, commit_every: int, mode: str) -> float:
        folder = self._folder / "undisturbed"
        folder.mkdir()
        database = self.copy(stale, folder)
        size = (database / NAME).stat().st_size
        options = {"folder": str(database), "ledger": str(folder / "ledger"), "commit_every": commit_every}
        start = monotonic()
        with Job("double", folder, **options, mode=mode) as job:
            job.ended()
            seconds = monotonic() - start
            problems = [*problems_of_the_end(self.trees[stale], job, 0, options)]
        if problems:
            raise AssertionError(f"a job that nothing disturbs: {problems}")
        self.growth[stale, commit_every] = (database / NAME).stat().st_size - size
        shutil.rmtree(folder)
        return seconds


def problems_of_resuming(base: Tree, folder: Path, before: int, options: dict[str, Any]) -> Iterator[str]:
    """Run a job to its end, of which so much was done before; what is wrong with that."""
    with Job("double", folder, **options) as job:
        yield from problems_of_the_end(base, job, before, options)


def problems_of_the_end(base: Tree, job: Job, before: int, options: dict[str, Any]) -> Iterator[str]:
    """Let a job end, of which so much was done before; what is wrong with that."""
    code = job.ended()
    if code != 0:
        yield f"resumed, it ended with {code}: {job.errors()[-1500:]}"
        return
    if left := job.left():
        yield f"resumed, it left {left}"
    told = job.told()
    if not before + told["processed"] == before + told["written"] == LEAVES:
        yield f"{before} were committed, and then {told['processed']} processed and {told['written']} written"
    database = Path(options["folder"])
    yield from differences(contents(database), finished(base))
    yield from unsound(database)
    yield from problems_of_ledger(Path(options["ledger"]), database)


# Killed, and resumed


def kill_jobs(settings: Settings) -> Outcome:
    """Kill jobs at random moments, and resume them."""
    bases = Bases(settings.folder)
    number = settings.at_most(200)
    killed: Counter[str] = Counter()
    good = repeated(
        settings, "killed jobs", number, lambda folder: _killed_and_resumed(bases, settings, folder, killed)
    )
    partly = killed.pop(PARTLY)
    whom = ", ".join(f"{count} {who}" for who, count in sorted(killed.items()))
    outcome = f"{of(good, number)}; {partly} had committed a part"
    return Outcome(f"{number} runs (killed: {whom})", outcome, good == number)


def _killed_and_resumed(bases: Bases, settings: Settings, folder: Path, killed: Counter[str]) -> list[str]:
    """Kill a job that is still at work, and resume it."""
    choose = settings.choose
    stale, commit_every = choose.random() < 0.5, choose.choice(COMMITS)
    whom, aims = choose.choice(("all", "parent", "worker")), choose.random() < 0.25
    database = bases.copy(stale, folder)
    options = {"folder": str(database), "ledger": str(folder / "ledger"), "commit_every": commit_every}
    start = (database / NAME).stat().st_size
    with Job("double", folder, **options) as job:
        if aims:  # at a moment in which a commit is being written
            end = start + choose.uniform(0, bases.growth[stale, commit_every])
            while (database / NAME).stat().st_size < end and not job.is_over:
                pass
        else:
            sleep(choose.uniform(0, 1.1 * bases.seconds["process"]))
        was_over = job.is_over
        if whom == "all":
            job.signal_all(signal.SIGKILL)
        elif whom == "parent":
            job.signal_parent(signal.SIGKILL)
        else:
            while not was_over and not job.kill_a_worker(choose):
                sleep(LOOK_EVERY)
                was_over = job.is_over
        code = job.ended()
        left = job.left()
    if was_over:
        shutil.rmtree(database)
        (folder / "ledger").unlink()
        return _killed_and_resumed(bases, settings, folder, killed)
    killed[whom] += 1
    run = f"{'stale, ' if stale else ''}commit_every={commit_every}, killed: {whom}{', aimed' if aims else ''}"
    problems = [f"{left} still there {PATIENCE:g} s after the kill"] if left else []
    if whom == "worker" and code != 0:
        problems.append(f"killing a worker ended the job with {code}: {job.errors()[-1500:]}")
    try:
        tree, found = looked_at(database, folder)
        killed[PARTLY] += 0 < done(tree) < LEAVES
        problems += [*found, *problems_midway(tree, bases.trees[stale])]
        problems += problems_of_resuming(bases.trees[stale], folder, done(tree), options)
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
    return [f"({run})", *problems] if problems else []


# Ctrl-C


def interrupt_jobs(settings: Settings) -> Outcome:
    """Interrupt jobs at random moments, as Ctrl-C does."""
    bases = Bases(settings.folder)
    number = settings.at_most(50)
    taken: list[float] = []
    counts: Counter[str] = Counter()
    good = repeated(
        settings, "interrupted jobs", number, lambda folder: _interrupted(bases, settings, folder, taken, counts)
    )
    seconds = f"median {median(taken):.2f} s, at most {max(taken):.2f} s from the signal to the end"
    outcome = f"{of(good, number)}; {seconds}; {counts.pop(PARTLY)} had committed a part"
    modes = ", ".join(f"{count} {mode}" for mode, count in sorted(counts.items()))
    return Outcome(f"{number} runs ({modes})", outcome, good == number)


def _interrupted(bases: Bases, settings: Settings, folder: Path, taken: list[float], counts: Counter[str]) -> list[str]:
    """Interrupt a job that is still at work, and resume it."""
    choose = settings.choose
    mode, stale = choose.choice(("process", "thread", "sync")), choose.random() < 0.5
    commit_every = choose.choice(COMMITS)
    naps = {"nap_every": 400, "nap_seconds": 20.0} if choose.random() < 0.25 else {}  # some records take long
    whole_group = choose.random() < 0.5
    database = bases.copy(stale, folder)
    options = {"folder": str(database), "ledger": str(folder / "ledger"), "commit_every": commit_every, "mode": mode}
    with Job("double", folder, **options, **naps) as job:
        sleep(choose.uniform(0.05, bases.seconds[mode]))
        was_over = job.is_over
        start = monotonic()
        if whole_group:
            job.signal_all(signal.SIGINT)
        else:
            job.signal_parent(signal.SIGINT)
        left = job.left()
        seconds = monotonic() - start
        code = job.ended(1.0)
    run = f"{'stale, ' if stale else ''}commit_every={commit_every}, mode={mode!r}{', naps' if naps else ''}"
    run += ", all" if whole_group else ", parent alone"
    problems = []
    if was_over:
        shutil.rmtree(database)
        (folder / "ledger").unlink()
        return _interrupted(bases, settings, folder, taken, counts)
    counts[mode] += 1
    taken.append(seconds)
    if left or seconds > MOST_SECONDS:
        problems.append(f"{left} still there after {seconds:.1f} s: {job.errors()[-1500:]}")
    try:
        tree, found = looked_at(database, folder)
        counts[PARTLY] += 0 < done(tree) < LEAVES
        problems += [*found, *problems_midway(tree, bases.trees[stale])]
        told = job.told()
        if "written" in told and told["written"] != done(tree):
            problems.append(f"the report says {told['written']} were written, but there are {done(tree)}")
        if code != 0 and "KeyboardInterrupt" not in job.errors() and code != -signal.SIGINT:
            problems.append(f"it ended with {code}: {job.errors()[-1500:]}")
        problems += problems_of_resuming(bases.trees[stale], folder, done(tree), options)
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
    return [f"({run}, exit code {code})", *problems] if problems else []


# Workers


def kill_workers_from_inside(settings: Settings) -> Outcome:
    """One job of which many records kill their worker."""
    kills = settings.at_most(1_000)
    size = 3 * kills
    culprits = sorted(settings.choose.sample(range(size), -(-2 * kills // 5)))
    notes = settings.folder / "notes"
    notes.touch()
    with Job("kill_workers", settings.folder, size=size, culprits=culprits, notes=str(notes)) as job:
        code = job.ended(3 * kills + 60)
        left = job.left()
    if code != 0:
        say(f"killing workers: it ended with {code}: {job.errors()[-3000:]}")
        return Outcome("1 job", f"it ended with {code}", False)
    told = job.told()
    counted = len(notes.read_text().splitlines())
    found = [number for number, error in told["failures"] if error == "WorkerDiedError"]
    good = found == culprits and len(told["failures"]) == len(culprits)
    good = good and told["items"] == size and not told["wrong"] and not left and counted >= kills
    if not good:
        say(f"killing workers: {told}, {left}, {counted} kills, culprits {culprits}")
    rest = of(size - len(culprits) - len(told["wrong"]), size - len(culprits))
    outcome = (
        f"{counted:,} kills; {of(len(set(found) & set(culprits)), len(culprits))} culprits found, {rest} others right"
    )
    return Outcome(f"1 job, {size:,} records", outcome, good)


def kill_workers_from_outside(settings: Settings) -> Outcome:
    """One job whose workers are killed at random moments."""
    seconds = settings.at_most(60)
    kills = 0
    with Job("work_until", settings.folder, seconds=seconds) as job:
        while not job.is_over:
            sleep(settings.choose.expovariate(1 / 0.4))
            kills += job.kill_a_worker(settings.choose)
        code = job.ended()
        left = job.left()
    if code != 0:
        say(f"killed from outside: it ended with {code}: {job.errors()[-3000:]}")
        return Outcome("1 job", f"{kills} kills; it ended with {code}", False)
    told = job.told()
    lost = len(told["failures"]) + len(told["wrong"]) + abs(told["records"] - told["items"])
    if lost or left:
        say(f"killed from outside: {told}, {left}")
    outcome = f"{kills} kills; {of(told['records'] - lost, told['records'])} records right"
    return Outcome(f"1 job of {seconds} s", outcome, not lost and not left)
