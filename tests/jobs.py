"""A job whose workers write their parts of a tree, and the tree that it leaves where nothing disturbs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolz import compose_left
from trees import opened
from ZODB.MappingStorage import MappingStorage

import lotproc as lp

__all__ = ["CLIPS", "RESULTS", "SPEAKERS", "fill", "nodes", "of_a_part", "undisturbed"]

SPEAKERS, CLIPS = 4, 15
RESULTS = SPEAKERS * CLIPS


def fill(root: Any, *branch: str) -> Any:
    """A tree of clips with numbers at a root, or at a branch below it, committed."""
    top = root.gns([*branch]) if branch else root
    for speaker in range(SPEAKERS):
        for clip in range(CLIPS):
            top.gns([f"speaker_{speaker}", f"clip_{clip:02}"]).set_attribute("n", CLIPS * speaker + clip)
    root._p_jar.transaction_manager.commit()
    return top


def of_a_part(policy: Any, top: Any, fn: Callable[[lp.NodeRecord], Any]) -> Any:
    """What a worker does with its part: it scans, processes and writes it, and leaves out what is done."""
    return compose_left(
        lp.scan("n", skip="_*"),
        lp.pending(policy, top, version="1"),
        lp.chunked(4),
        lp.parallel_map(lp.outputs(fn), mode="sync"),
        lp.write(policy, top, version="1", commit_every=7),
    )


def nodes(top: Any) -> list[Any]:
    """All nodes below one, with their attributes."""
    return [(node.key, dict(node.attribute_storage)) for node in lp.walk(top, min_depth=1)]


def undisturbed(policy: Any) -> list[Any]:
    """The nodes that are there when the job is done, which doubles the numbers."""
    with opened(MappingStorage()) as root:
        top = fill(root)
        results = [lp.ProcessResult(record.path, 2 * record.attributes["n"]) for record in lp.scan("n", top)]
        lp.write(policy, top, results, version="1")
        return nodes(top)
