"""A program that deletes what it is told, line by line, for tests that kill it: `deleter.py FOLDER EVERY`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from lotdb import LOTDB

import lotproc as lp


def told() -> Iterator[list[tuple[str, ...]]]:
    """A batch for each line; what was pulled before was taken when the next is asked for."""
    for line in sys.stdin:
        yield [tuple(path.split("/")) for path in line.split()]
        print("taken", flush=True)


if __name__ == "__main__":
    db = LOTDB(path=sys.argv[1], name="test.fs")
    lp.delete(db.open_connection(), told(), commit_every=int(sys.argv[2]))
    db.close()
