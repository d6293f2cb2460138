"""What the pages "Coming from" say of other packages, seen.

Their programs are killed, and get bad and changed recordings, and other code.
"""

from __future__ import annotations

import base64
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import files_of, first_block, run
from servers import datajoint_server

import lotproc as lp

PAGES = Path(__file__).parents[2] / "docs" / "coming_from"

#: Called where a recording is computed: it counts, and kills all processes of the program at the one that it is told.
HOOK = """
import os, signal, time
from glob import glob
from pathlib import Path


def called():
    with open(Path(__file__).with_name("calls"), "ab", buffering=0) as calls:
        calls.write(b".")
        count = calls.tell()
    if count == int(os.environ.get("KILL_AT", 0)):
        while not eval(os.environ.get("KILL_WHEN", "True")):
            time.sleep(0.01)
        os.killpg(os.getsid(0), signal.SIGKILL)
    if count == int(os.environ.get("DIE_AT", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
"""


#: What all programs begin with when they compute a recording.
CHECK = r"^( *)(?=if not np\.isfinite)"


@dataclass
class Run:
    """What a run did: how it ended, how many recordings it computed, and the table of means."""

    code: int
    calls: int
    text: str

    @property
    def means(self) -> dict[str, float]:
        """The means of the speakers in what was printed."""
        return {name: float(mean) for name, mean in re.findall(r"^(\w+)[ ,](-?\d+\.\d+)$", self.text, re.MULTILINE)}


class Job:
    """A folder with the recordings and the programs of a page.

    Args:
        folder: Where it is.
        page: The name of the page.
        commands: What runs the job, and shows the table.
        settings: More variables of the environment.
    """

    def __init__(self, folder: Path, page: str, *commands: str, **settings: str) -> None:
        self.folder, self._commands, self._settings = folder, commands, settings
        self._hooks = folder / "hooks"
        self._hooks.mkdir(parents=True)
        (self._hooks / "hook.py").write_text(HOOK)
        for name, text in files_of(PAGES / f"{page}.md").items():
            (folder / name).write_text(re.sub(CHECK, r"\1__import__('hook').called()\n\1", text, flags=re.MULTILINE))
        (folder / "recordings.py").write_text(first_block(PAGES / f"{page}.md"))
        assert self.command("python recordings.py").returncode == 0

    def command(self, command: str, **variables: str) -> Any:
        """Run a command there, in a session of its own."""
        lists = [str(self._hooks), os.environ.get("PYTHONPATH", "")]
        environment = {**self._settings, **variables, "PYTHONPATH": os.pathsep.join(filter(None, lists))}
        return run(command, cwd=self.folder, env=environment, start_new_session=True)

    def run(self, **variables: str) -> Run:
        """Run the job."""
        calls = self._hooks / "calls"
        calls.write_bytes(b"")
        done = [self.command(command, **variables) for command in self._commands]
        return Run(done[0].returncode, len(calls.read_bytes()), "".join(each.stdout for each in done))

    def kill(self, at: int = 7, when: str = "True") -> None:
        """Run the job, and have it killed with all its processes when it computes so many recordings."""
        assert self.run(KILL_AT=str(at), KILL_WHEN=when).code == -signal.SIGKILL

    @property
    def recording(self) -> Path:
        """One of the recordings."""
        return self.folder / "recordings" / "bob" / "clip_1.npy"

    def spoil(self) -> np.ndarray:
        """Make a recording one that can't be computed, and return what it was."""
        samples = np.load(self.recording)
        np.save(self.recording, samples * np.nan)
        return samples

    def change(self) -> None:
        """Make a recording another one."""
        np.save(self.recording, 3 * np.load(self.recording))

    def edit(self, name: str, *changes: tuple[str, str]) -> None:
        """Change a program."""
        text = (self.folder / name).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (self.folder / name).write_text(text)

    def found(self, pattern: str) -> int:
        """How many files there are."""
        return len(list(self.folder.glob(pattern)))

    def expected(self, power: int = 2) -> dict[str, float]:
        """The means, of all recordings that can be computed."""
        means: dict[str, list[float]] = {}
        for file in sorted(self.folder.glob("recordings/*/*.npy")):
            samples = np.load(file)
            if np.isfinite(samples).all():
                energy = np.log((np.abs(samples) ** power).reshape(-1, 160).mean(axis=1))
                means.setdefault(file.parent.name, []).append(float(energy.mean()))
        return {speaker: round(float(np.mean(each)), 2) for speaker, each in means.items()}


#: What makes the code of a program another one.
NEW_CODE = ("np.square(frames)", "np.abs(frames)")


def needs(package: str) -> Any:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


Maker = Callable[..., Job]


@pytest.fixture
def job(tmp_path: Path) -> Maker:
    return lambda *arguments, **settings: Job(tmp_path / "job", *arguments, **settings)


def test_all_pages_do_the_same_job_with_the_same_program() -> None:
    pages = sorted(set(PAGES.glob("*.md")) - {PAGES / "index.md"})
    assert len(pages) == 6
    assert len({(first_block(page), files_of(page)["with_lotproc.py"]) for page in pages}) == 1


# lotproc


@pytest.fixture
def ours(job: Maker) -> Job:
    return job("joblib", "python with_lotproc.py")


def in_the_tree(job: Job) -> int:
    with lp.open_root(job.folder / "corpus.fs", read_only=True) as root:
        below = {"mean": (lp.inline("_energy"), "mean")}
        return sum(1 for _ in lp.scan((), root, below=below, where={"mean": bool}, skip="_energy"))


def test_lotproc_goes_on_where_it_was_killed_and_sees_what_changed(ours: Job) -> None:
    ours.kill()
    kept = in_the_tree(ours)
    assert kept >= 2  # four batches of the seven that were begun may be in flight, and one is written
    again = ours.run()
    assert (again.calls, again.means) == (12 - kept, ours.expected())
    ours.change()
    again = ours.run()
    assert (again.calls, again.means) == (1, ours.expected())
    os.utime(ours.recording)
    assert ours.run().calls == 1
    ours.edit("with_lotproc.py", NEW_CODE)
    assert ours.run().calls == 0
    ours.edit("with_lotproc.py", ('VERSION = "1"', 'VERSION = "2"'))
    again = ours.run()
    assert (again.calls, again.means) == (12, ours.expected(power=1))


def test_lotproc_reports_what_fails_and_tries_it_again(ours: Job) -> None:
    samples = ours.spoil()
    for calls in (12, 1):
        done = ours.run()
        assert (done.code, done.calls, done.means) == (0, calls, ours.expected())
        assert "bob/clip_1: ValueError: not all samples are numbers" in done.text
    np.save(ours.recording, samples)
    again = ours.run()
    assert (again.calls, again.means) == (1, ours.expected())
    ours.spoil()
    again = ours.run()
    assert (again.calls, again.means) == (1, ours.expected())  # what was made of the good one is gone


def test_lotproc_replaces_a_worker_that_is_killed(ours: Job) -> None:
    done = ours.run(DIE_AT="7")
    assert (done.code, done.calls, done.means) == (0, 13, ours.expected())


# joblib


@pytest.fixture
def with_joblib(job: Maker) -> Job:
    return job("joblib", "python with_joblib.py")


@needs("joblib")
def test_joblib_keeps_each_result_by_content_and_code(with_joblib: Job) -> None:
    with_joblib.kill()
    kept = with_joblib.found("cache/**/output.pkl")
    assert kept >= 5
    again = with_joblib.run()
    assert (again.calls, again.means) == (12 - kept, with_joblib.expected())
    with_joblib.change()
    again = with_joblib.run()
    assert (again.calls, again.means) == (1, with_joblib.expected())
    os.utime(with_joblib.recording)
    assert with_joblib.run().calls == 0
    with_joblib.edit("with_joblib.py", NEW_CODE)
    again = with_joblib.run()
    assert (again.calls, again.means) == (12, with_joblib.expected(power=1))


@needs("joblib")
def test_joblib_keeps_no_error(with_joblib: Job) -> None:
    with_joblib.spoil()
    for calls in (12, 1):
        done = with_joblib.run()
        assert (done.code, done.calls, done.means) == (0, calls, with_joblib.expected())


@needs("joblib")
def test_joblib_ends_with_an_error_and_does_not_look_at_functions_that_are_called(with_joblib: Job) -> None:
    samples = with_joblib.spoil()
    power = "def power(frames):\n    return frames**2\n\n\n@memory.cache\n"
    in_a_function = (("@memory.cache\n", power), ("np.square(frames)", "power(frames)"))
    with_joblib.edit("with_joblib.py", ("except ValueError", "except KeyError"), *in_a_function)
    assert with_joblib.run().code == 1
    kept = with_joblib.found("cache/**/output.pkl")
    assert kept > 0
    np.save(with_joblib.recording, samples)
    assert 1 <= with_joblib.run().calls <= 12 - kept  # a worker may have been at one when the run had ended
    with_joblib.edit("with_joblib.py", ("frames**2", "abs(frames)"))
    again = with_joblib.run()
    assert (again.calls, again.means) == (0, with_joblib.expected())


# datasets


@pytest.fixture
def with_datasets(job: Maker) -> Job:
    return job("datasets", "python with_datasets.py", HF_DATASETS_DISABLE_PROGRESS_BARS="1", HF_HUB_OFFLINE="1")


@needs("datasets")
def test_datasets_keeps_finished_shards_by_the_fingerprints_of_all_rows_and_code(with_datasets: Job) -> None:
    shard = "cache/**/cache-*_of_00002.arrow"
    with_datasets.kill(when=f"glob({shard!r}, recursive=True)")
    assert with_datasets.found(shard) == 1
    again = with_datasets.run()
    assert (again.calls, again.means) == (6, with_datasets.expected())
    with_datasets.change()
    again = with_datasets.run()
    assert (again.calls, again.means) == (12, with_datasets.expected())
    with_datasets.edit("with_datasets.py", NEW_CODE)
    again = with_datasets.run()
    assert (again.calls, again.means) == (12, with_datasets.expected(power=1))


@needs("datasets")
def test_datasets_in_one_process_keeps_nothing_of_a_map_that_is_killed_and_sees_no_files(with_datasets: Job) -> None:
    with_datasets.edit("with_datasets.py", (", num_proc=2", ""), ("file.stat().st_mtime_ns for", "0 for"))
    with_datasets.kill()
    assert with_datasets.run().calls == 12
    expected = with_datasets.expected()
    with_datasets.change()
    again = with_datasets.run()
    assert (again.calls, again.means) == (0, expected)


@needs("datasets")
def test_datasets_keeps_an_error_that_is_returned_and_ends_with_one_that_is_raised(with_datasets: Job) -> None:
    with_datasets.spoil()
    for calls in (12, 0):
        done = with_datasets.run()
        assert (done.code, done.calls, done.means) == (0, calls, with_datasets.expected())
    raised = ('return {"energy": None, "error": "not all samples are numbers"}', "raise ValueError")
    with_datasets.edit("with_datasets.py", raised)
    assert with_datasets.run().code == 1


# Dask


@pytest.fixture
def with_dask(job: Maker) -> Job:
    return job("dask", "python with_dask.py")


@needs("distributed")
def test_dask_computes_all_each_time(with_dask: Job) -> None:
    with_dask.kill()
    assert with_dask.run().calls == 12
    with_dask.change()
    with_dask.edit("with_dask.py", NEW_CODE)
    again = with_dask.run()
    assert (again.calls, again.means) == (12, with_dask.expected(power=1))


@needs("distributed")
def test_dask_goes_on_without_a_recording_that_fails_and_a_worker_that_is_killed(with_dask: Job) -> None:
    with_dask.spoil()
    done = with_dask.run(DIE_AT="7")
    assert (done.code, done.means) == (0, with_dask.expected())
    assert done.calls > 12


# Snakemake

SNAKEMAKE = "snakemake --cores 2 --keep-going --rerun-incomplete"


@pytest.fixture
def with_snakemake(job: Maker) -> Job:
    made = job("snakemake", SNAKEMAKE, "cat means.csv")
    made.folder.joinpath("means.csv").unlink(missing_ok=True)
    return made


@needs("snakemake")
def test_snakemake_knows_which_files_were_begun_and_compares_times_and_scripts(with_snakemake: Job) -> None:
    with_snakemake.kill()
    begun = {base64.b64decode(file.name).decode() for file in with_snakemake.folder.glob(".snakemake/incomplete/*")}
    made = {str(file.relative_to(with_snakemake.folder)) for file in with_snakemake.folder.glob("energies/*/*.npy")}
    assert with_snakemake.run().code == 1  # it is locked
    assert with_snakemake.command("snakemake --unlock").returncode == 0
    again = with_snakemake.run()
    assert (again.calls, again.means) == (12 - len(made - begun), with_snakemake.expected())
    with_snakemake.change()
    again = with_snakemake.run()
    assert (again.calls, again.means) == (1, with_snakemake.expected())
    with_snakemake.edit("log_energy.py", NEW_CODE)
    again = with_snakemake.run()
    assert (again.calls, again.means) == (12, with_snakemake.expected(power=1))


@needs("snakemake")
def test_snakemake_makes_all_but_what_fails_and_no_table_of_it(with_snakemake: Job) -> None:
    samples = with_snakemake.spoil()
    for calls in (12, 1):
        done = with_snakemake.run()
        assert (done.code, done.calls, done.means) == (1, calls, {})
        assert with_snakemake.found("energies/*/*.npy") == 11
    np.save(with_snakemake.recording, samples)
    again = with_snakemake.run()
    assert (again.calls, again.means) == (1, with_snakemake.expected())
    with_snakemake.spoil()
    done = with_snakemake.run()
    assert (done.code, done.means) == (1, again.means)  # as it was


# signac-flow


@pytest.fixture
def with_signac(job: Maker) -> Job:
    return job("signac_flow", "python project.py run --parallel 2", "python table.py")


@needs("flow")
def test_signac_goes_by_conditions(with_signac: Job) -> None:
    with_signac.kill()
    kept = with_signac.found("workspace/*/energy.npy")
    assert kept >= 5
    again = with_signac.run()
    assert (again.calls, again.means) == (12 - kept, with_signac.expected())
    with_signac.change()
    again = with_signac.run()
    assert (again.calls, again.means) == (1, with_signac.expected())
    with_signac.edit("project.py", NEW_CODE)
    again = with_signac.run()
    assert (again.calls, again.means) == (0, with_signac.expected())


@needs("flow")
def test_signac_ends_with_what_fails_and_keeps_what_was_done(with_signac: Job) -> None:
    samples = with_signac.spoil()
    assert with_signac.run().code == 1
    kept = with_signac.found("workspace/*/energy.npy")
    again = with_signac.run()
    assert again.code == 1
    assert kept <= with_signac.found("workspace/*/energy.npy") <= 11
    assert with_signac.found("workspace/*/energy.npy") - kept <= again.calls - 1
    left = 12 - with_signac.found("workspace/*/energy.npy")
    np.save(with_signac.recording, samples)
    again = with_signac.run()
    assert (again.code, again.calls, again.means) == (0, left, with_signac.expected())


# DataJoint


@pytest.fixture
def with_datajoint(job: Maker) -> Iterator[Job]:
    with datajoint_server() as settings:
        yield job("datajoint", "python tables.py", **settings)


def in_tables(job: Job, statement: str) -> str:
    done = job.command(f'python -W ignore -c "from tables import *; {statement}"')
    assert done.returncode == 0
    return str(done.stdout)


@needs("datajoint")
def test_datajoint_keeps_rows_and_reserves_the_one_at_work(with_datajoint: Job) -> None:
    with_datajoint.kill()
    assert in_tables(with_datajoint, "print(len(LogEnergy()), len(LogEnergy.jobs.reserved))").split() == ["6", "1"]
    assert with_datajoint.run().calls == 5
    in_tables(with_datajoint, "LogEnergy.jobs.refresh(orphan_timeout=0.001)")
    again = with_datajoint.run()
    assert (again.calls, again.means) == (1, with_datajoint.expected())

    before = with_datajoint.expected()
    with_datajoint.change()
    again = with_datajoint.run()
    assert (again.calls, again.means) == (0, before)
    in_tables(with_datajoint, "(Recording & dict(speaker='bob', clip='clip_1')).delete(prompt=False)")
    again = with_datajoint.run()
    assert (again.calls, again.means) == (1, with_datajoint.expected())

    with_datajoint.edit("tables.py", NEW_CODE)
    assert with_datajoint.run().calls == 0
    in_tables(with_datajoint, "LogEnergy.delete(prompt=False)")
    with_datajoint.kill()
    in_tables(with_datajoint, "LogEnergy.jobs.reserved.delete()")
    again = with_datajoint.run()
    assert (again.calls, again.means) == (6, with_datajoint.expected(power=1))


@needs("datajoint")
def test_datajoint_leaves_out_what_failed_until_its_error_is_deleted(with_datajoint: Job) -> None:
    with_datajoint.spoil()
    for calls in (12, 0):
        done = with_datajoint.run()
        assert (done.code, done.calls, done.means) == (0, calls, with_datajoint.expected())
        assert "bob clip_1 ValueError: not all samples are numbers" in done.text
    in_tables(with_datajoint, "LogEnergy.jobs.errors.delete()")
    assert with_datajoint.run().calls == 1


@needs("datajoint")
def test_datajoint_without_reserved_jobs_leaves_nothing_over(with_datajoint: Job) -> None:
    with_datajoint.edit("tables.py", ("reserve_jobs=True, ", ""), ("LogEnergy.jobs.errors.to_dicts()", "()"))
    with_datajoint.kill()
    again = with_datajoint.run()
    assert (again.calls, again.means) == (6, with_datajoint.expected())
