"""Figures kept in a file as they are measured: a benchmark takes hours, and goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

TOP = Path(__file__).parent.parent


class Kept:
    """Figures of one state of the code, by what was measured.

    Args:
        file: Where they are kept; `None` for nowhere.
        **options: What they depend on, beside the code.

    Raises:
        SystemExit: The file has those of other code, or other options.
    """

    def __init__(self, file: Path | None, **options: Any) -> None:
        self._file = file
        state = {"code": digest_of_code(), **options}
        self._all: dict[str, Any] = {"state": state, "seconds": 0.0, "figures": {}}
        if file is not None and file.exists():
            self._all = json.loads(file.read_text(encoding="utf-8"))
            if self._all["state"] != state:
                raise SystemExit(f"{file} has figures of other code or options; delete it, or name another file")

    @property
    def seconds(self) -> float:
        """How long it took to measure all of them."""
        return float(self._all["seconds"])

    def get(self, what: str, measure: Callable[[], Any]) -> Any:
        """Figures, which JSON can hold, measured where they are not there yet."""
        figures = self._all["figures"]
        if what not in figures:
            start = perf_counter()
            figures[what] = measure()
            self._all["seconds"] += perf_counter() - start
            if self._file is not None:
                unfinished = self._file.with_suffix(".unfinished")
                unfinished.write_text(json.dumps(self._all, indent=1), encoding="utf-8")
                unfinished.replace(self._file)
        return figures[what]


def digest_of_code() -> str:
    """What changes with any line of lotproc or of the benchmark."""
    digest = hashlib.sha256()
    for file in sorted([*TOP.glob("lotproc/**/*.py"), *TOP.glob("benchmarks/*.py")]):
        digest.update(f"{file.relative_to(TOP)}\n".encode() + file.read_bytes())
    return digest.hexdigest()
