"""What a job costs on each storage: seconds of CPU, round trips, waits for the disk; measured once, kept as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE, ZEO, POSTGRES = STORAGES = "file", "ZEO", "PostgreSQL"
#: Leaves, or results, that the costs are for: those between two commits.
SPAN = 1_000
KEPT = Path(__file__).with_name("cluster_costs.json")


@dataclass(frozen=True)
class Work:
    """What one step takes.

    Args:
        client: Seconds of CPU of the worker.
        server: Seconds of CPU of the server; of a file, of the one program that reads and writes it.
        trips: Round trips between the two, each of which waits for the one before.
        disk: Seconds in which the server waits for its disk.
    """

    client: float = 0.0
    server: float = 0.0
    trips: float = 0.0
    disk: float = 0.0


@dataclass(frozen=True)
class Costs:
    """What the steps of a job take on a storage.

    Args:
        read: A worker reads `SPAN` leaves by itself.
        write: It processes them (by nothing of its own) and writes their results, up to the commit. Of a file: it is
            given `SPAN` leaves and gives results back, and the parent reads, sends, takes and writes them.
        commit: The commit of these results, while which others wait with theirs.
        one: A single result is written, up to the commit.
        commit_one: The commit of that.
        archived: Seconds of CPU in which a worker processes `SPAN` leaves and puts the results into an archive.
        stored: Bytes in the storage for each leaf with its result.
    """

    read: Work
    write: Work
    commit: Work
    one: Work
    commit_one: Work
    archived: float
    stored: float


def save(file: Path, costs: dict[str, Costs], **about: Any) -> None:
    """Keep costs, and what should be known about them."""
    found = {"about": about, "costs": {name: asdict(each) for name, each in costs.items()}}
    rounded = json.loads(json.dumps(found), parse_float=lambda digits: float(f"{float(digits):.3g}"))
    file.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def load(file: Path) -> tuple[dict[str, Costs], dict[str, Any]]:
    """Costs by the names of storages, and what should be known about them."""
    found = json.loads(file.read_text(encoding="utf-8"))
    return {name: _costs(each) for name, each in found["costs"].items()}, found["about"]


def _costs(found: dict[str, Any]) -> Costs:
    return Costs(**{name: Work(**value) if isinstance(value, dict) else value for name, value in found.items()})
