"""A program that writes to a tree behind a ZEO server, beside others; `test_several_writers` runs it."""

from __future__ import annotations

import sys

from toolz import pipe
from trees import opened
from ZEO.ClientStorage import ClientStorage

import lotproc as lp


def main(port: str, name: str, every: str, policy: str) -> None:
    with opened(ClientStorage(("127.0.0.1", int(port)), wait_timeout=100)) as root:
        to = lp.mirror("out") if policy == "mirror" else lp.inline("_proc", name)
        if policy == "mine":  # each writer has clips of its own, below the same parents
            to = lp.mirror()

        def named(record: lp.NodeRecord) -> lp.ProcessResult:
            path = (record.path[0], f"{name}_{record.key}") if policy == "mine" else record.path
            return lp.ProcessResult(path, output=record.attributes["n"], attributes={name: record.attributes["n"]})

        print("ready", flush=True)
        sys.stdin.readline()
        report = pipe(
            root,
            lp.scan("n", skip="_*", where="^clip"),
            lp.chunked(7),
            lp.parallel_map(lp.each(named), mode="sync"),
            lp.write(to, root, commit_every=int(every), version=name),
        )
        print(report.written, report.commits, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
