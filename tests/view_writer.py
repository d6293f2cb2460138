"""Changes of a tree for `test_one_view`: made in its own process, or by this program beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from lotdb import BaseNode, add_blob
from trees import opened
from ZODB.interfaces import IBlobStorage

import lotproc as lp

CLIPS = 12
CHANGES = ("set", "new", "remove", "write", "write again", "payload")


def clip(number: int) -> tuple[str, str]:
    return "ab"[number % 2], f"clip_{number:02}"


def change(root: BaseNode, what: str, number: int, value: int) -> None:
    """Change a tree in one or two transactions, as its connection sees it now."""
    root._p_jar.transaction_manager.begin()  # which waits for what the server of a storage has to tell
    if what == "set":
        root.gns(clip(number)).set_attribute("v", value)
    elif what == "new":
        root.gns(["c", f"new_{value}", "below"]).set_attribute("v", value)
    elif what == "remove":
        parent = root.gn(clip(number)[0])
        if clip(number)[1] in parent.node_storage:
            parent.delete_node(clip(number)[1])
    elif what == "payload":
        if IBlobStorage.providedBy(root._p_jar.db().storage):
            add_blob(root.gns(clip(number)), "data", b"%d" % value)
    else:
        version = str(value) if what == "write" else None
        results = [lp.ProcessResult(record.path, record.attributes["v"]) for record in lp.scan("v", root, skip="_*")]
        for _ in range(2):
            report = lp.write(
                lp.inline("_p"), root, results[: number + 1], commit_every=4, version=version, if_exists="skip"
            )
        assert report.written == 0  # the second one finds all of them
    root._p_jar.transaction_manager.commit()


def relational(folder: Path, *, history: bool) -> Any:
    """A RelStorage in an SQLite database; with history, blobs are in its rows, and otherwise in files."""
    from relstorage.adapters.sqlite.adapter import Sqlite3Adapter
    from relstorage.options import Options
    from relstorage.storage import RelStorage

    blobs = folder / (f"blobs_of_{os.getpid()}" if history else "blobs")
    options = Options(keep_history=history, blob_dir=str(blobs), shared_blob_dir=not history, cache_local_mb=1)
    return RelStorage(Sqlite3Adapter(str(folder / "data"), {}, options=options), options=options)


def main(kind: str, place: str) -> None:
    if kind == "uri":
        with lp.open_root(place) as root:
            serve(root)
        return
    if kind == "zeo":
        from ZEO.ClientStorage import ClientStorage

        storage = ClientStorage(("127.0.0.1", int(place)), wait_timeout=100, server_sync=True)
    else:
        storage = relational(Path(place), history=kind == "history")
    with opened(storage) as root:
        serve(root)


def serve(root: BaseNode) -> None:
    """Make the changes that the lines of stdin name."""
    print("ready", flush=True)
    for line in sys.stdin:
        what, number, value = line.split(",")
        change(root, what, int(number), int(value))
        print("done", flush=True)


if __name__ == "__main__":
    from lotproc.writing import stored_nodes as _stored_nodes

    _stored_nodes.MANY = 3
    main(*sys.argv[1:])
