"""The raw limit: the leaves of a tree by `mmap` and the C unpickler, without ZODB's connection and lotdb's classes.

It knows this one layout, checks nothing, and reads whatever was committed last, so it shows what a reader
of the records can't go below without looking at the bytes themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from mmap import ACCESS_READ, mmap
from operator import itemgetter
from pickle import Unpickler
from typing import Any

from ZODB.FileStorage import FileStorage

HEADER = 42  # bytes before the data of a record, the last 8 of them the length of the data
ROOT = bytes(8)


def read(storage: FileStorage, name: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path of every leaf in a FileStorage's file, and one of its attributes."""
    index = storage._index
    with open(storage._file_name, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:

        def state(oid: bytes) -> Any:
            start = index[oid] + HEADER
            size = int.from_bytes(content[start - 8 : start], "big")
            unpickler = Unpickler(BytesIO(content[start : start + size]))
            unpickler.persistent_load = itemgetter(0)  # a reference is a pair of object id and class
            unpickler.load()  # the class
            return unpickler.load()

        def items(tree: bytes) -> Iterator[tuple[str, Any]]:
            """The keys and values of a BTree: in its own record, or in a chain of buckets."""
            contents = state(tree)
            if contents is None:
                return
            bucket = contents[0][0] if len(contents) == 1 else state(contents[1])
            while True:
                flat = bucket[0]
                yield from zip(flat[::2], flat[1::2], strict=True)
                if len(bucket) == 1:
                    return
                bucket = state(bucket[1])

        def walk(oid: bytes, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
            node = state(oid)
            children = list(items(node["node_storage"]))
            for key, child in children:
                yield from walk(child, (*path, key))
            if not children:
                yield path, dict(items(node["attribute_storage"])).get(name)

        yield from walk(state(ROOT)["data"]["stt"], ())
