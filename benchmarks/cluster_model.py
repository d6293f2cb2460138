"""Which size needs what: a model of workers at a file, at ZEO and at PostgreSQL, held to what is measured here.

python -m benchmarks.cluster_model --measure --check --write docs     # all of it, in six minutes
python -m benchmarks.cluster_model --check                            # two workers, predicted and measured
python -m benchmarks.cluster_model --storage ZEO --leaves 1e7 --workers 8 --work 0.001

What was measured is kept in `cluster_costs.json`. Measuring takes Linux, a machine with nothing else to do, and the
packages of `nox -s cluster`.
"""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from functools import partial
from math import isclose
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import cluster_measuring, cluster_page
from benchmarks.cluster_costs import FILE, KEPT, POSTGRES, SPAN, STORAGES, ZEO, Costs, load, save
from benchmarks.cluster_simulation import SPANS_OF_ARCHIVE, Setting, Simulation, simulated, steps
from benchmarks.engines import WORKERS
from benchmarks.report import machine
from benchmarks.servers import parent_writes, workers_write
from benchmarks.sides import Side, measured_side

#: How far the prediction may be from what is measured.
WITHIN = 0.20
#: Workers of which more must be no slower.
COUNTS = (1, 2, 8, 32, 128)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Predict how long a job takes, and what holds it up.")
    parser.add_argument("--measure", action="store_true", help="measure what a job costs, and keep it")
    parser.add_argument("--check", action="store_true", help="hold the model to its laws, and to two real workers")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the page and its picture there")
    parser.add_argument("--costs", type=Path, default=KEPT, metavar="FILE", help="where the costs are kept")
    parser.add_argument("--leaves", type=float, help="predict a job of so many leaves; when measuring: on so many")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    parser.add_argument("--storage", choices=STORAGES, help="predict a job on this")
    parser.add_argument("--workers", type=int, default=8, help="so many workers (default: 8)")
    parser.add_argument(
        "--work", type=float, default=0.0, help="seconds of the user's processor for a leaf (default: 0)"
    )
    parser.add_argument("--archives", action="store_true", help="results go into archives")
    parser.add_argument("--folder", type=Path, help="keep the trees here for the next time (default: a temporary one)")
    options = parser.parse_args(arguments)

    leaves = int(options.leaves or 20_000)
    if options.rounds < 1 or options.workers < 1 or leaves < SPAN:
        parser.error(f"give at least 1 round, 1 worker and {SPAN:,} leaves")
    with nullcontext(options.folder) if options.folder else TemporaryDirectory() as folder:
        if options.measure:
            found = cluster_measuring.measured_costs(leaves, options.rounds, Path(folder))
            save(options.costs, found, date=date.today().isoformat(), machine=machine(), leaves=leaves)
        costs, about = load(options.costs)
        if options.check:
            check_laws(costs)
            about["checked"] = check_workers(costs, leaves, options.rounds, Path(folder))
            save(options.costs, costs, **about)
    if options.storage:
        setting = Setting(options.storage, options.workers, options.work, options.archives)
        outcome = simulated(costs[options.storage], setting, leaves)
        print(f"{outcome.seconds:,.1f} s; in use: " + ", ".join(f"{k} {v:.0%}" for k, v in outcome.busy.items()))
    if options.write:
        cluster_page.write(costs, about, options.write)


def check_laws(costs: dict[str, Costs]) -> None:
    """Hold the simulation to what is true of any such system.

    Raises:
        AssertionError: It is not so.
    """
    for storage in STORAGES:
        for archives in (False, True):
            for work in (0.0, 0.001):
                for one_machine in (False, True):
                    hold_laws(costs[storage], Setting(storage, 1, work, archives, one_machine=one_machine))
    print("The simulation holds its laws.")


def hold_laws(costs: Costs, setting: Setting) -> None:
    """One worker takes the sum of its costs; more are no slower; none beats what only so many can do at a time."""
    spans, before = SPANS_OF_ARCHIVE * max(COUNTS), float("inf")
    read, write, commit, every = steps(costs, setting)
    # What a span takes of each.
    client, server, trips, disk = (
        getattr(read, each) + (getattr(write, each) + getattr(commit, each)) / every
        for each in ("client", "server", "trips", "disk")
    )
    alone = client + server + trips * setting.network + disk
    is_process = setting.storage != POSTGRES
    locked = commit.client + commit.server + commit.disk + commit.trips * setting.network
    is_shared = setting.storage == FILE or setting.one_machine
    for workers in COUNTS:
        if is_shared and workers > setting.server_cores:
            break  # they take cores away from what they wait for
        simulation = Simulation(costs, replace(setting, workers=workers), spans)
        seconds, busy = simulation.run()
        law = f"{setting}, {workers} workers: {seconds} s, {busy}"
        on_cores = server + client * is_shared
        bound = spans * max(
            client / workers,
            locked / every,
            on_cores / setting.server_cores,
            (server + disk) * is_process,
        )
        if workers == 1 and simulation.loops == 1:
            assert isclose(seconds, spans * alone), f"not {spans * alone}, the sum of its costs: {law}"
        # The first round and the last may have nothing beside them, and a commit may wait while others read from ZEO.
        most = (1.05 if setting.storage == ZEO else 1.0) * before + every * alone
        assert seconds <= most, f"slower than {before} s with fewer: {law}"
        assert seconds >= bound * (1 - 1e-9), f"faster than {bound} s: {law}"
        assert max(busy.values()) <= 1 + 1e-9, f"busier than can be: {law}"
        before = seconds


def check_workers(costs: dict[str, Costs], leaves: int, rounds: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Predict and measure two workers on this machine: the seconds of both, for each storage.

    Raises:
        SystemExit: One prediction is too far off.
    """
    found = {}
    for storage, (serve, make, is_copied) in cluster_measuring.SERVED.items():
        run = partial(parent_writes, server=serve) if storage == FILE else partial(workers_write, WORKERS, server=serve)
        side = Side(run, leaves, make)
        measured = min(measured_side(side, not is_copied, folder).value for _ in range(rounds))
        setting = Setting(storage, WORKERS, network=0.0, server_cores=os.cpu_count() or 1, one_machine=True)
        outcome = simulated(costs[storage], setting, leaves)
        said = f"{outcome.seconds:.2f} s predicted ({outcome.bottleneck}), {measured:.2f} s measured"
        print(f"{storage}: {said}: {outcome.seconds / measured:.2f}", flush=True)
        found[storage] = outcome.seconds, measured
    off = [storage for storage, (predicted, measured) in found.items() if abs(predicted / measured - 1) > WITHIN]
    if off:
        raise SystemExit(f"off by more than {WITHIN:.0%}: {', '.join(off)}")
    return found


if __name__ == "__main__":
    main()
