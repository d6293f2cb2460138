"""A program that writes to a tree behind a ZEO server, beside others; `test_several_writers` runs it."""

from __future__ import annotations

import sys

from lotdb import BaseNode
from toolz import pipe
from trees import opened
from ZEO.ClientStorage import ClientStorage

import lotproc as lp


def main(port: str, name: str) -> None:
    """For each line of stdin, a branch and how to write below it: write, and say how much."""
    # `server_sync`: a transaction that begins sees what others have committed by then.
    storage = ClientStorage(("127.0.0.1", int(port)), wait_timeout=100, server_sync=True)
    with opened(storage) as root:
        print("ready", flush=True)
        for line in sys.stdin:
            branch, policy, every = line.split()
            root._p_jar.transaction_manager.begin()
            report = written(root.node_storage[branch], name, policy, int(every))
            print(report.written, report.commits, flush=True)


def written(root: BaseNode, name: str, policy: str, every: int) -> lp.WriteReport:
    to = {"mirror": lp.mirror("out"), "inline": lp.inline("_proc", name), "mine": lp.mirror()}[policy]

    def named(record: lp.NodeRecord) -> lp.ProcessResult:
        path = record.path if policy == "inline" else record.path[1:]  # mirrored below the branch
        if policy == "mine":  # each writer has clips of its own, below the same parents
            path = (path[0], f"{name}_{record.key}")
        return lp.ProcessResult(path, output=record.attributes["n"], attributes={name: record.attributes["n"]})

    return pipe(
        root,
        lp.scan("n", skip="_*", where="^clip"),
        lp.chunked(7),
        lp.parallel_map(lp.each(named), mode="sync"),
        lp.write(to, root, commit_every=every, version=name),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
