"""A disk that gets full while results are committed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

from benchmarks.soak_kills import COMMITS, PARTLY, Bases, problems_of_resuming, problems_of_the_end
from benchmarks.soak_processes import LOOK_EVERY, Job
from benchmarks.soak_rows import Outcome, Settings, of, repeated, say
from benchmarks.soak_trees import LEAVES, done, looked_at, problems_midway

LEAST_ROOM = 64 << 10
ENOUGH_ROOM = 64 << 20


class Refused(Exception):
    """A disk can't be mounted."""


def fill_disks(settings: Settings) -> Outcome:
    """Let jobs run into the end of a small disk, and resume them."""
    bases = Bases(settings.folder)
    number = settings.at_most(50)
    where: Counter[str] = Counter()
    try:
        good = repeated(settings, "full disks", number, lambda folder: _filled(bases, settings, folder, where))
    except Refused as error:
        say(str(error))
        return Outcome("0 runs", f"not measured: {error}", False)
    partly = where.pop(PARTLY)
    planes = ", ".join(f"{count} by {plane}" for plane, count in sorted(where.items()))
    outcome = f"{of(good, number)}; {partly} had committed a part"
    return Outcome(f"{number} runs ({planes})", outcome, good == number)


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of so many bytes."""
    folder.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "lotproc-soak", str(folder))
    try:
        yield folder
    finally:
        _run("umount", str(folder))


def make_room(mounted: Path) -> None:
    """Let a disk have room enough."""
    _run("mount", "-o", f"remount,size={ENOUGH_ROOM}", str(mounted))


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise Refused(f"no small disk can be mounted: {error}") from error
    except subprocess.CalledProcessError as error:
        raise Refused(f"no small disk can be mounted: {error.stderr.strip()}") from error


def _filled(bases: Bases, settings: Settings, folder: Path, where: Counter[str]) -> list[str]:
    """Let a job fill a disk, and resume it: on the same disk with more room, by the same process or another, or on
    another disk.
    """
    choose = settings.choose
    stale, commit_every = choose.random() < 0.5, choose.choice(COMMITS)
    mode, ledger_on_disk = choose.choice(("process", "thread", "sync")), choose.random() < 0.5
    how = choose.choice(("room", "room, same process", "copy"))
    source = bases.copy(stale, folder)
    size = sum(_used(file) for file in source.rglob("*"))
    growth = bases.growth[stale, commit_every]
    room = round(choose.uniform(LEAST_ROOM, growth if commit_every <= 1_000 else 2 * growth))
    run = f"{'stale, ' if stale else ''}{commit_every=}, {mode=}, {ledger_on_disk=}, {how=}, {room} bytes of room"
    problems: list[str] = []
    with disk(folder / "disk", size + room) as mounted:
        database = Path(shutil.copytree(source, mounted / "database"))
        shutil.rmtree(source)
        ledger = mounted / "ledger" if ledger_on_disk else folder / "ledger"
        options = {"folder": str(database), "ledger": str(ledger), "commit_every": commit_every, "mode": mode}
        again = {"again": str(folder / "again")} if how == "room, same process" else {}
        with Job("double", folder, **options, **again) as job:
            while not job.is_over and "error" not in job.told():
                sleep(LOOK_EVERY)
            if not again:
                job.ended()
            told = job.told()
            is_full = "error" in told
            if is_full:
                where["live nodes" if stale or commit_every > 10_000 else "records"] += 1
                if told["errno"] != errno.ENOSPC or "written" not in told:
                    problems.append(f"it told {told}: {job.errors()[-3000:]}")
                try:
                    tree, found = looked_at(database, folder)
                    where[PARTLY] += 0 < done(tree) < LEAVES
                    problems += [*found, *problems_midway(tree, bases.trees[stale])]
                    if told.get("written") != done(tree):
                        problems.append(f"the report says {told.get('written')} were written, of {done(tree)}")
                    if how == "copy":
                        database = Path(shutil.copytree(database, folder / "saved"))
                        if ledger_on_disk:
                            ledger = Path(shutil.copy(ledger, folder / "ledger"))
                    else:
                        make_room(mounted)
                    options |= {"folder": str(database), "ledger": str(ledger)}
                    if again:
                        (folder / "again").touch()
                        problems += problems_of_the_end(bases.trees[stale], job, done(tree), options)
                    else:
                        problems += problems_of_resuming(bases.trees[stale], folder, done(tree), options)
                except Exception as error:
                    problems.append(f"{type(error).__name__}: {error}")
            left = job.left()
        if left:
            problems.append(f"it left {left}")
        if problems and (mounted / "ledger").exists():
            shutil.copy(mounted / "ledger", folder / "ledger_at_the_end")
    os.rmdir(folder / "disk")
    if not is_full and not problems:  # there was room enough
        (folder / "ledger").unlink(missing_ok=True)
        return _filled(bases, settings, folder, where)
    return [f"({run})", *problems] if problems else []


def _used(file: Path) -> int:
    """The bytes that a file takes of a disk, in whole pages."""
    return -(-file.stat().st_size // 4096) * 4096 if file.is_file() else 4096
