"""What the model says, as a page of the documentation with tables and a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.cluster_costs import FILE, POSTGRES, SPAN, STORAGES, ZEO, Costs
from benchmarks.cluster_simulation import SPANS_OF_ARCHIVE, Outcome, Setting, simulated

TEXT = Path(__file__).with_name("cluster_page.md")
PAGE, PICTURE = "cluster_sizes.md", "cluster_sizes.svg"

SIZES = (10**6, 10**7, 10**8, 10**9)
WORKERS = (1, 8, 32, 100)
#: Seconds that a processor takes for a leaf: in the tables, and in the picture.
WORK = 0.001
PANELS = 0.001, 0.01
DRAWN_SIZE = 10**8
DRAWN_WORKERS = (1, 2, 4, 8, 16, 32, 64, 100)
#: Bytes that the index of a file takes for each leaf in the memory of a process that opens it, without results and with
#: one below each, as it is with a million leaves; and the most that there is.
INDEX, INDEX_WITH_RESULTS, MEMORY = 25, 74, 64e9


def write(costs: dict[str, Costs], about: dict[str, Any], folder: Path) -> None:
    """Write the page and its picture."""
    (folder / "pictures").mkdir(exist_ok=True)
    draw(costs, folder / "pictures" / PICTURE)
    (folder / PAGE).write_text(page(costs, about), encoding="utf-8")


def outcome(costs: dict[str, Costs], setting: Setting, leaves: int) -> Outcome | None:
    """What comes of a setting; `None` if it does not fit into memory."""
    if setting.storage == FILE:  # more workers than cores only take these from one another
        setting = replace(setting, workers=min(setting.workers, setting.server_cores))
    return simulated(costs[setting.storage], setting, leaves) if indexed(setting, leaves) <= MEMORY else None


def indexed(setting: Setting, leaves: int) -> float:
    """The bytes of memory on one machine that the index of the file takes."""
    if setting.storage == POSTGRES:
        return 0
    if not setting.archives:
        return INDEX_WITH_RESULTS * leaves
    return INDEX * leaves * (setting.workers + 1 if setting.storage == FILE else 1)


def page(costs: dict[str, Costs], about: dict[str, Any]) -> str:
    """The text with what the model says in it."""
    rates = {
        f"{storage.lower()}_{name}": f"{rate(costs, storage, archives=archives):,}"
        for storage in STORAGES
        for name, archives in (("leaves", False), ("archives", True))
    }
    return Template(TEXT.read_text(encoding="utf-8")).substitute(
        rates,
        table=table(costs, archives=False),
        table_of_archives=table(costs, archives=True),
        span=f"{SPAN:,}",
        picture=PICTURE,
        of_archive=f"{SPAN * SPANS_OF_ARCHIVE:,}",
        cores=Setting.server_cores,
        worth=f"{1000 * Setting.server_cores / rate(costs, POSTGRES, archives=False):.1g}",
        network=f"{1000 * Setting.network:g}",
        work=f"{1000 * WORK:g}",
        memory=f"{MEMORY / 1e9:.0f}",
        drawn=f"{DRAWN_SIZE:,}",
        index=f"{INDEX_WITH_RESULTS * DRAWN_SIZE / 1e9:.1f}",
        file_disk=f"{costs[FILE].stored * DRAWN_SIZE / 1e9:.0f}",
        postgres_disk=f"{costs[POSTGRES].stored * DRAWN_SIZE / 1e9:.0f}",
        checked=checked(about.get("checked", {})),
        date=about["date"],
        machine=about["machine"],
        measured=f"{about['leaves']:,}",
    )


def checked(found: dict[str, tuple[float, float]]) -> str:
    """What was predicted and measured of two workers, as a sentence behind another; nothing, if that was not done."""
    parts = [f"{storage} {predicted:.2g} and {measured:.2g} s" for storage, (predicted, measured) in found.items()]
    return f" Two workers on the two cores there, predicted and measured: {', '.join(parts)}." if parts else ""


def rate(costs: dict[str, Costs], storage: str, *, archives: bool) -> int:
    """Leaves a second, two digits of them, with all workers and a processor that takes no time."""
    found = outcome(costs, Setting(storage, max(WORKERS), archives=archives), SIZES[0])
    assert found is not None
    return int(float(f"{SIZES[0] / found.seconds:.1e}"))


def table(costs: dict[str, Costs], *, archives: bool) -> str:
    """The time and the bottleneck for each size, storage and number of workers."""
    rows = [["leaves", "storage", *(f"{workers} workers" for workers in WORKERS)]]
    rows[0][2] = "1 worker"
    rows.append(["---:", "---", *["---"] * len(WORKERS)])
    for leaves in SIZES:
        for storage in STORAGES:
            found = [outcome(costs, Setting(storage, workers, WORK, archives), leaves) for workers in WORKERS]
            rows.append([f"{leaves:,}", storage, *map(_cell, found)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(found: Outcome | None) -> str:
    return "no room" if found is None else f"{duration(found.seconds)}, {found.bottleneck}"


def duration(seconds: float) -> str:
    """A time as one says it."""
    units = (("s", 1, 100), ("min", 60, 100), ("h", 3_600, 72), ("days", 86_400, float("inf")))
    unit, number = next((unit, seconds / length) for unit, length, most in units if seconds / length < most)
    return f"{number:.1f} {unit}" if number < 10 else f"{number:,.0f} {unit}"


def draw(costs: dict[str, Costs], file: Path) -> None:
    """Draw the time by the number of workers, a panel for each processor."""
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and the same figures give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "lotproc", "font.family": "sans-serif"})
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(8.6, 3.8), layout="constrained", sharey=True)
    colors = {FILE: "#57606a", ZEO: "#bf8700", POSTGRES: "#0969da"}
    for axes, work in zip(panels, PANELS, strict=True):
        for storage in STORAGES:
            for archives, style in ((False, "-"), (True, "--")):
                found = {}
                for workers in DRAWN_WORKERS:
                    each = outcome(costs, Setting(storage, workers, work, archives), DRAWN_SIZE)
                    if each is not None and not (storage == FILE and workers > Setting.server_cores):
                        found[workers] = each.seconds / 3600
                label = f"{storage}, archives" if archives else storage
                look = {"color": colors[storage], "marker": "o", "markersize": 3, "label": label}
                axes.plot(list(found), list(found.values()), style, **look)
        axes.set(xscale="log", yscale="log", xlabel="workers", title=f"a processor of {1000 * work:g} ms")
        axes.set_xticks(DRAWN_WORKERS, list(map(str, DRAWN_WORKERS)), minor=False)
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"hours for {DRAWN_SIZE:,} leaves")
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
