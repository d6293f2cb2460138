"""Check an LMDB file before LMDB maps it, which trusts what it maps: damage there ends the process.

The format is that of LMDB 0.9 (data version 1) on 64-bit machines: two meta pages, and two trees of pages, of the
records and of the pages that are free. Nothing has a checksum, so a value that was changed is not noticed here.
Source: what LMDB's `mdb.c` says of `MDB_page`, `MDB_node`, `MDB_db` and `MDB_meta`.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from operator import gt, le, lt
from typing import IO, Any, NamedTuple

import numpy as np

from ..._files import open_regular
from ...errors import DamagedStoreError, ForeignFileError
from .keys import MAX_KEY

__all__ = ["MAX_PAGES", "check_file"]

#: Pages up to which all of them are checked whenever a file is opened: 128 MiB, two tenths of a second at most.
MAX_PAGES = 1 << 15
#: Pages at the end that may be missing, if they are free; so that no damage can make the check itself take much.
MAX_MISSING = 1 << 20
#: Pages that are checked at a time.
BLOCK = 1 << 10

MAGIC, VERSION = 0xBEEFC0DE, 1
HEADER = struct.Struct("=QHHHH")  # number, pad, flags, lower, upper
META = struct.Struct("=IIQQ")  # magic, version, address, size of the map
NODE = struct.Struct("=HHHH")  # size of the value or number of the page, in two or three parts; flags; size of the key
TREE = struct.Struct("=IHHQQQQQ")  # pad, flags, depth, branch, leaf and overflow pages, entries, root
END = struct.Struct("=QQ")  # last page, transaction
META_SIZE = HEADER.size + META.size + 2 * TREE.size + END.size

BRANCH, LEAF, OVERFLOW, META_PAGE = 1, 2, 4, 8
BIGDATA, SUBDATA = 1, 2
INTEGERKEY = 8
#: LMDB notes beside the flags of the tree of free pages that the environment was one file, and does not look at it.
NOSUBDIR = 0x4000
NONE = 2**64 - 1
MAX_DEPTH = 32
NAMED = "named databases"

Array = np.ndarray[Any, Any]


class Damage(Exception):
    """What is wrong with a file."""


class Foreign(Exception):
    """What a file of LMDB's holds that is no store of records."""


class Tree(NamedTuple):
    """One of the two trees, as a meta page describes it."""

    pad: int
    flags: int
    depth: int
    branches: int
    leaves: int
    overflows: int
    entries: int
    root: int


class Meta(NamedTuple):
    """What the newer of the two meta pages says."""

    page_size: int
    free: Tree
    main: Tree
    pages: int
    transaction: int
    #: Bytes of the largest map that the file was written with, as far as that can be believed.
    map_size: int


def check_file(name: str, path: str, *, pages: bool | None, readonly: bool = False) -> int:
    """Refuse a file that is none of LMDB's, or that LMDB would crash on.

    Args:
        name: The store, for errors.
        path: The file; that it is missing is fine, and that it is empty where LMDB may begin it.
        pages: Whether all pages are looked at, or only what the meta pages say and the file's size; None: if there are
            few enough of them.
        readonly: Whether it is to be opened for reading only, which an empty file can't be.

    Returns:
        Bytes that LMDB's map of it had when it was written; 0 for no file, and for an empty one.

    Raises:
        ForeignFileError: It is something else, or a link.
        OSError: It can't be opened.
        DamagedStoreError: It is cut off or damaged.
    """
    try:
        opened = open(path, "rb", opener=open_regular)  # noqa: SIM115
    except (FileNotFoundError, NotADirectoryError):
        return 0
    with opened as file:
        transaction = None
        for _ in range(20):  # a writer in another process may be at work on the pages
            try:
                if os.fstat(file.fileno()).st_size == 0:
                    if not readonly:
                        return 0
                    raise DamagedStoreError(
                        f"{name}: {path} is empty; a process that ended while it made the file can leave it so: open "
                        f"it for writing, and LMDB makes it anew; if there were records, restore it from a copy"
                    )
                meta = _read_meta(name, path, file)
                transaction = meta.transaction
                size = os.fstat(file.fileno()).st_size
                # Pages at the end that are free need not have been written; whether they are is seen from the others.
                if pages or (pages is None and meta.pages <= MAX_PAGES) or size < meta.pages * meta.page_size:
                    _Pages(file, size, meta).check()
                elif _begins_with_a_database(file, meta):
                    raise Foreign(NAMED)
                return meta.map_size
            except Foreign as foreign:
                raise ForeignFileError(
                    f"{name}: {path} holds {foreign}, and so is no store of records; it was left as it is; give "
                    f"another path"
                ) from None
            except Damage as damage:
                if transaction is not None and _transaction(file) != transaction:
                    continue
                raise DamagedStoreError(
                    f"{name}: {path} is damaged: {damage}; it was not opened, because LMDB would crash on it; restore "
                    f"it from a copy"
                ) from None
    return 0  # somebody writes all the while, and so is alive and well


def _begins_with_a_database(file: IO[bytes], meta: Meta) -> bool:
    """Whether the first of the records is a named database; for a file whose pages are not checked."""
    number = meta.main.root
    for _ in range(MAX_DEPTH):
        if number >= meta.pages:  # or there is none
            return False
        file.seek(number * meta.page_size)
        page = file.read(meta.page_size)
        if len(page) < meta.page_size:
            return False
        found, _, kind, _, _ = HEADER.unpack_from(page)
        at = struct.unpack_from("=H", page, HEADER.size)[0]
        if found != number or at + NODE.size > len(page):
            return False
        low, high, flags, _ = NODE.unpack_from(page, at)
        if kind != BRANCH:
            return kind == LEAF and bool(flags & SUBDATA) and low | high << 16 == TREE.size
        number = low | high << 16 | flags << 32
    return False


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
            f"{name}: {path} is {what}; expected a file of LMDB 0.9 (data version {VERSION}) of this machine's byte "
            f"order; it was left as it is; give another path"
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


class _Pages:
    """All pages of a file that can be reached from a meta page."""

    def __init__(self, file: IO[bytes], size: int, meta: Meta) -> None:
        self._meta = meta
        self._size = page_size = meta.page_size
        count = min(size // page_size, meta.pages)
        if count < 2:
            raise Damage("it has not even two pages")
        if meta.pages > 2 * count + MAX_MISSING:
            raise Damage(f"it has {count:,} pages, and {meta.pages:,} are said to be used")
        # A map of our own, which is only read within the size that the file has.
        self._map = mmap.mmap(file.fileno(), count * page_size, access=mmap.ACCESS_READ)
        self._pages: Array = np.frombuffer(self._map, np.uint8).reshape(count, page_size)
        self._live = np.zeros(meta.pages, bool)
        self._live[:2] = True

    def check(self) -> None:
        problem: Exception | None = None
        try:
            self._check_tree("of its records", self._meta.main, is_free=False)
            self._check_free(self._check_tree("of its free pages", self._meta.free, is_free=True))
        except (Damage, Foreign) as error:
            problem = error.with_traceback(None)  # whose frames use the map
        del self._pages
        self._map.close()
        if problem is not None:
            raise problem

    def _check_tree(self, which: str, tree: Tree, *, is_free: bool) -> list[Array]:
        """Check one tree, and give the lists of free pages that it holds, if it does."""
        if tree.root == NONE:
            if any(tree[2:7]):
                raise Damage(f"the tree {which} has no root, and is said to hold something")
            return []
        if not 1 <= tree.depth <= MAX_DEPTH:
            raise Damage(f"the tree {which} is said to have {tree.depth} levels")
        level: Array = np.array([tree.root], np.uint64)
        branches, separators = 0, []
        for _ in range(tree.depth - 1):
            branches += len(level)
            children, keys = [], []
            firsts: list[bool] = []
            for start in range(0, len(level), BLOCK):
                block = _Block(self, which, level[start : start + BLOCK], BRANCH, least=1 if is_free else 2)
                children.append(block.children())
                keys += block.keys(is_free)
                firsts += block.starts.tolist()
            separators.append((keys, firsts))
            level = np.concatenate(children)
        lists: list[Array] = []
        entries = overflows = 0
        lows: list[bytes] = []
        highs: list[bytes] = []
        for start in range(0, len(level), BLOCK):
            block = _Block(self, which, level[start : start + BLOCK], LEAF, least=1)
            entries += len(block.sizes)
            overflows += block.check_values(lists if is_free else None)
            keys = block.keys(is_free)
            if not all(map(lt, keys, keys[1:])):
                raise Damage(f"keys in the tree {which} are out of order")
            begins = np.flatnonzero(block.starts)
            lows += [keys[at] for at in begins.tolist()]
            highs += [keys[at] for at in (*(begins[1:] - 1).tolist(), len(keys) - 1)]
        if not all(map(lt, highs, lows[1:])):
            raise Damage(f"keys in the tree {which} are out of order")
        for keys, firsts in reversed(separators):
            # Each key of a branch page is after all keys of the page before, and no later than the first of its own.
            if not all(
                map(lambda first, key, low, high: first or (le(key, low) and gt(key, high)),
                    firsts[1:], keys[1:], lows[1:], highs)
            ):  # fmt: skip
                raise Damage(f"keys in the tree {which} are out of order")
            at = [index for index, first in enumerate(firsts) if first]
            lows = [lows[index] for index in at]
            highs = [highs[index - 1] for index in (*at[1:], len(firsts))]
        if (branches, len(level), overflows, entries) != tree[3:7]:
            raise Damage(f"the tree {which} does not have the {tree.entries:,} entries that it is said to have")
        return lists

    def reach(self, which: str, numbers: Array, size: int | None = None) -> Array:
        """Note that pages are used, each once, and by one only; returns them, or the first bytes of each."""
        if len(numbers) and (int(numbers.min()) < 2 or int(numbers.max()) >= self._meta.pages):
            raise Damage(f"the tree {which} has pages that are not there")
        if len(numbers) and int(numbers.max()) >= len(self._pages):
            raise Damage(
                f"it is cut off: it has {len(self._pages) * self._size:,} bytes, and page {int(numbers.max()):,} of "
                f"{self._size:,} bytes is used"
            )
        if self._live[numbers].any() or len(np.unique(numbers)) != len(numbers):
            raise Damage(f"the tree {which} has a page twice")
        self._live[numbers] = True
        pages: Array = self._pages[numbers, :size]
        return pages

    def reach_runs(self, which: str, begins: Array, counts: Array) -> None:
        """Note that more pages are used: some from each number on."""
        total = int(counts.sum())
        if total > self._meta.pages or int((begins + counts).max(initial=0)) > self._meta.pages:
            raise Damage(f"the tree {which} has pages that are not there")
        self.reach(which, np.repeat(begins - (np.cumsum(counts) - counts), counts) + np.arange(total), 0)

    def run(self, number: int, count: int) -> Array:
        """The bytes of some pages in a row."""
        pages: Array = self._pages[number : number + count].reshape(-1)
        return pages

    def _check_free(self, lists: list[Array]) -> None:
        for numbers in lists:
            if int(numbers.min()) < 2 or int(numbers.max()) >= self._meta.pages or (numbers[1:] >= numbers[:-1]).any():
                raise Damage("a list of free pages is no such list")
            if self._live[numbers].any():
                raise Damage("a page is both free and used")
            self._live[numbers] = True


class _Block:
    """Some pages of one level of a tree, with all nodes that are in them."""

    def __init__(self, pages: _Pages, which: str, numbers: Array, kind: int, least: int) -> None:
        self._of, self._which, self._page_size = pages, which, pages._size
        self._pages = data = pages.reach(which, numbers)
        size = self._page_size
        words = data.view(np.uint16)
        flags, lower, upper = (words[:, at].astype(np.int64) for at in (5, 6, 7))
        counts = (lower - 16) // 2
        bad = (data[:, :8].copy().view(np.uint64)[:, 0] != numbers) | (flags != kind) | (lower % 2 != 0)
        bad |= (counts < least) | (lower > upper) | (upper > size)
        self._refuse(bad)
        rows = np.repeat(np.arange(len(numbers)), counts)
        begins = np.cumsum(counts) - counts
        columns = 8 + np.arange(len(rows)) - np.repeat(begins, counts)
        at = words[rows, columns].astype(np.int64)
        self._refuse((at % 2 != 0) | (at < upper[rows]) | (at + 8 > size))
        self._flat = words.reshape(-1)
        word = (rows * size + at) // 2
        low, high, self.flags, self.key_sizes = (self._flat[word + index].astype(np.int64) for index in range(4))
        #: Where the nodes are among the bytes of all pages of the block.
        self.offsets = rows * size + at
        #: For a leaf, how long the values are; for a branch, which pages are below.
        self.sizes = low | high << 16 if kind == LEAF else low | high << 16 | self.flags << 32
        stored = np.where(self.flags & BIGDATA, 8, self.sizes) if kind == LEAF else 0
        ends = at + 8 + self.key_sizes + stored
        self._refuse((ends > size) | (self.key_sizes > MAX_KEY) | ((self.key_sizes == 0) & (kind == LEAF)))
        # LMDB leaves no gap between nodes, and moves them by their sizes when it deletes one.
        ends += ends & 1
        order = np.argsort(self.offsets)
        first, last = at[order], ends[order]
        self._refuse((first[1:] != last[:-1]) & (rows[1:] == rows[:-1]))
        self._refuse((first[begins] != upper) | (last[begins + counts - 1] != size))
        self.starts = np.zeros(len(rows), bool)
        self.starts[begins] = True

    def _refuse(self, bad: Array) -> None:
        if bad.any():
            raise Damage(f"a page of the tree {self._which} is not as LMDB writes it")

    def children(self) -> Array:
        pages: Array = self.sizes.astype(np.uint64)
        return pages

    def keys(self, is_free: bool) -> list[bytes]:
        """All keys, as they sort."""
        data, begins = self._pages.tobytes(), self.offsets + 8
        keys = [data[begin:end] for begin, end in zip(begins.tolist(), (begins + self.key_sizes).tolist(), strict=True)]
        if is_free:  # numbers of transactions
            if any(len(key) not in (0, 8) for key in keys):
                raise Damage(f"a page of the tree {self._which} is not as LMDB writes it")
            return [key[::-1] for key in keys] if sys.byteorder == "little" else keys
        return keys

    def check_values(self, lists: list[Array] | None) -> int:
        """Check the values' pages where they have some of their own, and give the number of those.

        Args:
            lists: Takes the lists of free pages, which are the values in that tree; `None` for records.
        """
        if lists is None and ((self.flags == SUBDATA) & (self.sizes == 48)).any():
            raise Foreign(NAMED)
        self._refuse(self.flags & ~BIGDATA != 0)
        data = self._pages.reshape(-1)
        values = self.offsets + 8 + self.key_sizes
        large = np.flatnonzero(self.flags)
        # The number of each large value's first page is where small ones have the value.
        first = data[values[large, None] + np.arange(8)].view(np.uint64)[:, 0]
        counts = self._overflow(first, self.sizes[large])
        if lists is not None:
            runs = dict(zip(large.tolist(), zip(first.tolist(), counts.tolist(), strict=True), strict=True))
            for index, (at, size) in enumerate(zip(values.tolist(), self.sizes.tolist(), strict=True)):
                value = self._of.run(*runs[index])[16 : 16 + size] if index in runs else data[at : at + size]
                lists.append(self._free_pages(value))
        return int(counts.sum())

    def _overflow(self, numbers: Array, sizes: Array) -> Array:
        """How many pages each value has; when it was replaced by a shorter one it keeps those it had."""
        heads = self._of.reach(self._which, numbers, 16)
        counts: Array = heads.view(np.uint32)[:, 3].astype(np.int64)
        if (heads.view(np.uint64)[:, 0] != numbers).any() or (heads.view(np.uint16)[:, 5] != OVERFLOW).any():
            raise Damage(f"a value in the tree {self._which} is on pages that are not a value's")
        least = (15 + sizes) // self._page_size + 1
        for short in np.flatnonzero(counts < least)[:1].tolist():
            raise Damage(f"a value in the tree {self._which} has {counts[short]:,} pages, and needs {least[short]:,}")
        self._of.reach_runs(self._which, numbers.astype(np.int64) + 1, counts - 1)
        return counts

    def _free_pages(self, value: Array) -> Array:
        if len(value) < 16 or len(value) % 8:
            raise Damage("a list of free pages is no such list")
        numbers = value.copy().view(np.uint64)
        if int(numbers[0]) != len(numbers) - 1:
            raise Damage("a list of free pages is no such list")
        return numbers[1:]
