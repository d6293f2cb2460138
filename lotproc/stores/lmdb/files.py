"""The files of an LMDB store: where they are, and whether they are whole, before LMDB maps them.

LMDB trusts what it maps: a page that is not there ends the process. So the size and the first pages are checked here,
which tells a file that was cut off, or is somebody else's. Nothing has a checksum, and what else is damaged is LMDB's
to notice. The format is that of LMDB 0.9 (data version 1) on 64-bit machines; source: what LMDB's `mdb.c` says of
`MDB_page`, `MDB_node`, `MDB_db` and `MDB_meta`.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from typing import IO, NamedTuple

from ..._files import open_regular
from ...errors import DamagedStoreError, ForeignFileError

__all__ = ["StoreFiles", "check_file", "identity"]

#: Pages at the end that may be missing, if they are free; so that no damage can make the check itself take much.
MAX_MISSING = 1 << 20

MAGIC, VERSION = 0xBEEFC0DE, 1
HEADER = struct.Struct("=QHHHH")  # number, pad, flags, lower, upper
META = struct.Struct("=IIQQ")  # magic, version, address, size of the map
NODE = struct.Struct("=HHHH")  # size of the value or number of the page, in two or three parts; flags; size of the key
TREE = struct.Struct("=IHHQQQQQ")  # pad, flags, depth, branch, leaf and overflow pages, entries, root
END = struct.Struct("=QQ")  # last page, transaction
META_SIZE = HEADER.size + META.size + 2 * TREE.size + END.size

BRANCH, LEAF, META_PAGE = 1, 2, 8
BIGDATA, SUBDATA = 1, 2
INTEGERKEY = 8
#: LMDB notes beside the flags of the tree of free pages that the environment was one file, and does not look at it.
NOSUBDIR = 0x4000
NONE = 2**64 - 1
MAX_DEPTH = 32


class StoreFiles(NamedTuple):
    """Where the two files of a store are.

    Args:
        path: The folder with both, or the data file, as the store was told.
        subdir: Whether it is the folder.
    """

    path: str
    subdir: bool

    @property
    def data(self) -> str:
        return os.path.join(self.path, "data.mdb") if self.subdir else self.path

    @property
    def lock(self) -> str:
        """The table of readers, which LMDB writes to also where it only reads."""
        return os.path.join(self.path, "lock.mdb") if self.subdir else f"{self.path}-lock"

    @property
    def folder(self) -> str:
        return self.path if self.subdir else os.path.dirname(self.path)


def identity(path: str) -> tuple[object, ...]:
    """What tells a file, however it is named."""
    try:
        status = os.stat(path)
    except OSError:
        return (os.path.realpath(path),)
    return (status.st_dev, status.st_ino) if status.st_ino else (os.path.realpath(path),)


class Damage(Exception):
    """What is wrong with a file."""


class Foreign(Exception):
    """What a file of LMDB's holds that is no store of records."""


class Tree(NamedTuple):
    """One of the two trees of pages, of records and of what is free, as a meta page describes it."""

    pad: int
    flags: int
    depth: int
    branches: int
    leaves: int
    overflows: int
    entries: int
    root: int


class Meta(NamedTuple):
    """What the newer of the two meta pages says; `map_size` is that of the largest map the file was written with."""

    page_size: int
    free: Tree
    main: Tree
    pages: int
    transaction: int
    map_size: int


def check_file(name: str, path: str, *, readonly: bool = False) -> int:
    """Refuse a file that is none of LMDB's, or is cut off.

    Args:
        name: The store, for errors.
        path: The file; that it is missing is fine, and that it is empty where LMDB may begin it.
        readonly: Whether it is to be opened for reading only, which an empty file can't be.

    Returns:
        Bytes that LMDB's map of it had when it was written; 0 for no file, and for an empty one.

    Raises:
        ForeignFileError: It is something else, or a link.
        OSError: It can't be opened.
        DamagedStoreError: It is cut off, or its first pages are damaged.
    """
    try:
        opened = open(path, "rb", opener=open_regular)  # noqa: SIM115
    except (FileNotFoundError, NotADirectoryError):
        return 0
    with opened as file:
        for _ in range(20):  # a writer in another process may be at work on the pages
            transaction = None
            try:
                if os.fstat(file.fileno()).st_size == 0:
                    if not readonly:
                        return 0
                    raise DamagedStoreError(
                        f"{name}: {path} is empty; a process that ended while it made the file can leave it so",
                        hint="open it for writing, and LMDB makes it anew; if it had records, restore it from a copy",
                    )
                meta = _read_meta(name, path, file)
                transaction = meta.transaction
                _check_trees(meta)
                _check_size(file, meta)
                _check_first_record(file, meta)
                return meta.map_size
            except Foreign as foreign:
                raise ForeignFileError(
                    f"{name}: {path} holds {foreign}, and so is no store of records; it was left as it is",
                    hint="give another path",
                ) from None
            except (Damage, struct.error) as damage:
                if transaction is not None and _transaction(file) != transaction:
                    continue
                raise DamagedStoreError(
                    f"{name}: {path} is damaged: {damage}; it was not opened, because LMDB would crash on it",
                    hint="restore it from a copy",
                ) from None
    return 0  # somebody writes all the while, and so is alive and well


def _transaction(file: IO[bytes]) -> int | None:
    try:
        return _read_meta("", "", file).transaction
    except (Damage, Foreign, ForeignFileError):
        return None


def _read_meta(name: str, path: str, file: IO[bytes]) -> Meta:
    file.seek(0)
    data = file.read(META_SIZE)
    magic, version = 0, 0
    if len(data) >= HEADER.size + META.size:
        magic, version, _, _ = META.unpack_from(data, HEADER.size)
        if magic != MAGIC and struct.unpack_from("=I", data, 24)[0] == MAGIC:
            magic, version = MAGIC, 3  # LMDB 1.0, whose headers are longer
    if magic != MAGIC or version != VERSION:
        what = f"LMDB's data version {version}" if magic == MAGIC else "no LMDB file"
        raise ForeignFileError(
            f"{name}: {path} is {what}; expected a file of LMDB 0.9 (data version {VERSION}) of this "
            "machine's byte order; it was left as it is",
            hint="give another path",
        )
    if len(data) < META_SIZE:
        raise Damage(f"it has {len(data)} bytes, and one page alone has more")
    page_size = TREE.unpack_from(data, HEADER.size + META.size)[0]
    if page_size not in (1 << power for power in range(8, 16)):
        raise Damage(f"its pages are said to have {page_size:,} bytes")
    file.seek(page_size)
    metas = [_meta(0, data), _meta(1, file.read(META_SIZE))]
    if metas[1].page_size != page_size:
        raise Damage("its two meta pages differ in the size of a page")
    return max(metas, key=lambda meta: meta.transaction)


def _meta(number: int, data: bytes) -> Meta:
    where = f"its meta page {number}"
    if len(data) < META_SIZE:
        raise Damage(f"{where} is cut off")
    page, _, flags, _, _ = HEADER.unpack_from(data)
    magic, version, address, map_size = META.unpack_from(data, HEADER.size)
    at = HEADER.size + META.size
    free, main = Tree(*TREE.unpack_from(data, at)), Tree(*TREE.unpack_from(data, at + TREE.size))
    last, transaction = END.unpack_from(data, at + 2 * TREE.size)
    if (page, flags, magic, version, address) != (number, META_PAGE, MAGIC, VERSION, 0):
        raise Damage(f"{where} does not start as one")
    if (transaction and transaction % 2 != number) or transaction > sys.maxsize:  # LMDB counts on, and over its end
        raise Damage(f"{where} is of transaction {transaction}, which can't be")
    if last < 1 or last > sys.maxsize >> 16:
        raise Damage(f"{where} says that page {last} is the last one")
    if free.flags & ~NOSUBDIR != INTEGERKEY or main.pad:
        raise Damage(f"{where} has settings that LMDB does not write")
    if main.flags:
        raise Foreign(f"a database with flags {main.flags:#x}")
    return Meta(free.pad, free, main, last + 1, transaction, map_size)


def _check_trees(meta: Meta) -> None:
    for tree in (meta.free, meta.main):
        if any(tree[2:7]) if tree.root == NONE else not (2 <= tree.root < meta.pages and 1 <= tree.depth <= MAX_DEPTH):
            raise Damage(f"a tree of {tree.depth} levels is said to begin on page {tree.root}, which can't be")
    if 2 + sum(meta.free[3:6]) + sum(meta.main[3:6]) > meta.pages:
        raise Damage("more pages are said to be used than there are")


def _check_size(file: IO[bytes], meta: Meta) -> None:
    """Refuse a file that was cut off; pages at its end that are free need not have been written."""
    size = os.fstat(file.fileno()).st_size
    count = size // meta.page_size
    if count >= meta.pages:
        return
    is_cut = count < 2 or meta.pages > 2 * count + MAX_MISSING
    if is_cut or not set(_free_pages(file, meta)).issuperset(range(count, meta.pages)):
        raise Damage(f"it is cut off: it has {size:,} bytes, and its {meta.pages:,} pages have {meta.page_size:,} each")


def _free_pages(file: IO[bytes], meta: Meta) -> Iterator[int]:
    numbers = set() if meta.free.root == NONE else {meta.free.root}
    for _ in range(1, meta.free.depth):
        numbers = {child for number in numbers for _, child, _, _ in _nodes(_page(file, meta, number, BRANCH))}
    for number in numbers:
        page = _page(file, meta, number, LEAF)
        for at, size, flags, key_size in _nodes(page):
            start = at + NODE.size + key_size
            value = page[start : start + size]
            if flags & BIGDATA:
                _page(file, meta, struct.unpack("=Q", page[start : start + 8])[0])
                file.seek(HEADER.size - meta.page_size, os.SEEK_CUR)
                value = file.read(size)
            yield from struct.unpack(f"={len(value) // 8}Q", value)[1:]


def _check_first_record(file: IO[bytes], meta: Meta) -> None:
    """Go down to the first of the records, which may not be a named database."""
    number = meta.main.root
    for level in range(meta.main.depth, 0, -1):
        page = _page(file, meta, number, BRANCH if level > 1 else LEAF)
        _, number, flags, _ = next(_nodes(page), (0, NONE, 0, 0))
        if level == 1 and flags & SUBDATA and number & 0xFFFFFFFF == TREE.size:
            raise Foreign("named databases")


def _page(file: IO[bytes], meta: Meta, number: int, kind: int | None = None) -> bytes:
    """A page of a tree, of the kind that it should be; the file stands behind it."""
    if not 2 <= number < meta.pages:
        raise Damage(f"page {number} is used, and there is none")
    file.seek(number * meta.page_size)
    page = file.read(meta.page_size)
    if len(page) < meta.page_size:
        raise Damage(f"it is cut off: page {number:,} of {meta.page_size:,} bytes is used, and not there")
    if HEADER.unpack_from(page)[0] != number or kind not in (None, HEADER.unpack_from(page)[2]):
        raise Damage(f"page {number:,} is not as LMDB writes it")
    return page


def _nodes(page: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Of each node, where it is, the size of its value or the number of the page below, its flags, its key's size."""
    kind, lower = HEADER.unpack_from(page)[2:4]
    for at in struct.unpack_from(f"={(lower - HEADER.size) // 2}H", page, HEADER.size):
        low, high, flags, key_size = NODE.unpack_from(page, at)
        yield at, low | high << 16 | (flags << 32 if kind == BRANCH else 0), flags, key_size
