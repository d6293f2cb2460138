"""A table of metadata, from a file or a data frame, as attributes by the paths that its key columns make."""

from __future__ import annotations

import csv
import math
import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from .._extras import needed
from .._public import public
from .._reprs import cut, short
from .._spelling import spelled
from ..errors import ArgumentError, ArgumentTypeError, as_text, got, other_form
from ..models import MOST_ATTRIBUTES, MOST_SHOWN, ProcessResult, counted

__all__ = ["PathTable", "table_by_path"]

_Path: TypeAlias = "tuple[str, ...]"

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_PARQUET = (".parquet", ".pq")
#: Numbers as they are written; one that begins with a zero that says nothing is a name, as "007".
_INT = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf)", re.IGNORECASE)


@public
class PathTable(Mapping[_Path, dict[str, Any]]):
    """A table as a read-only mapping from paths to attributes, in the order of its rows: what `table_by_path` makes.

    Args:
        names: The names of the attributes.
        rows: Their values, by path.
    """

    def __init__(self, names: Sequence[str], rows: Mapping[_Path, Sequence[Any]]) -> None:
        self.names, self._rows = tuple(names), rows

    def __getitem__(self, path: _Path) -> dict[str, Any]:
        return dict(zip(self.names, self._rows[path], strict=True))

    def __iter__(self) -> Iterator[_Path]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def results(self) -> Iterator[ProcessResult]:
        """A result for each row, without an output, in the order of paths, to be written onto nodes.

        >>> from lotdb import BaseNode
        >>> from lotproc import PathTable, mirror, write
        >>> root = BaseNode("corpus")
        >>> speaker = root.gn("ann")
        >>> results = PathTable(["age"], {("ann",): [31]}).results()
        >>> write_there = write(mirror(), root, output_attribute=None, if_missing="error")
        >>> print(write_there(results))
        1 result written, not committed
        >>> speaker.get_attribute("age")
        31
        """
        return (ProcessResult(path, attributes=self[path]) for path in sorted(self._rows))

    def __repr__(self) -> str:
        return cut(f"<{counted(len(self), 'row')} of {', '.join(map(repr, self.names)) or 'no attributes'}>")

    def _repr_html_(self) -> str:
        from .._html import card, escaped, grid  # here, since a worker shows nothing

        names = [escaped(name) for name in self.names[:MOST_ATTRIBUTES]]
        shown = islice(self._rows.items(), MOST_SHOWN)
        rows = ([escaped(as_text(path)), *(escaped(short(value)) for value in row)] for path, row in shown)
        more = f'<div class="pale">… {len(self) - MOST_SHOWN:,} more</div>' if len(self) > MOST_SHOWN else ""
        return card("PathTable", counted(len(self), "row"), grid(["", *names], rows), more)


@public
@spelled
def table_by_path(file: str | os.PathLike[str] | Any, *, key: str | Iterable[str]) -> PathTable:
    """Read a table of metadata as a mapping from paths to attributes, for `join` and `write`.

    >>> import pathlib, tempfile
    >>> from lotproc import table_by_path
    >>> file = pathlib.Path(tempfile.mkdtemp(), "sessions.csv")
    >>> _ = file.write_text("speaker,session,age,note\\nann,007,31,\\nbob,008,47,loud\\n")
    >>> sessions = table_by_path(file, key=["speaker", "session"])
    >>> sessions["ann", "007"]
    {'age': 31, 'note': None}

    `write(mirror(), root, sessions.results(), output_attribute=None, if_missing="error")` puts the attributes on the
    nodes that are there, `join(sessions, records, on=2)` beside what is read from below them.

    Keys are text to the letter: "007" is not "7". In files of text, all cells of another column are whole numbers if
    each of them is written as one, else floats if each is a number ("nan" and "inf" are), else text; an empty cell is
    `None` in either case. A number that begins with zeros is none ("00501"), and other words for what is missing, as
    "NA", are text. In Parquet files and data frames values are what they are there, and what is missing is `None`: in
    a frame of pandas NaN and NaT, too.

    Args:
        file: A file, by its suffix: `.csv`; `.tsv` or `.tab`, with tabs; `.parquet` or `.pq`. Text is UTF-8, with a
            byte order mark or without, quoted as RFC 4180 says; its first line names the columns, and empty lines do
            not count. Or a data frame: of pandas, or any whose data Arrow can take over.
        key: The columns that make the path, one for each of its keys, from the top down; others are attributes.

    Returns:
        A `PathTable`, a read-only mapping in the order of the rows. It holds the whole table.

    Raises:
        ArgumentError: A key is empty, or a path comes twice; a line has another number of cells than the first one;
            a column has no name, or that of another; a column of the key is not there; a file is no UTF-8, or has
            another suffix. Says in which lines.
        ArgumentTypeError: `file` is neither a file nor a data frame, `key` is no names, or a key in the table no text.
        MissingExtraError: pyarrow is needed, for Parquet and for frames that are none of pandas, and not installed.
        OSError: The file can't be read.
    """
    keys = _names(key)
    if isinstance(file, (str, os.PathLike)):
        path = Path(file)
        suffix = path.suffix.lower()
        if suffix in _DELIMITERS:
            return _table(f"table_by_path: {path}", keys, *_text(path, _DELIMITERS[suffix], keys))
        if suffix in _PARQUET:
            parquet = needed("pyarrow.parquet", "arrow", "table_by_path() of a Parquet file")
            return _table(f"table_by_path: {path}", keys, *_arrow(parquet.ParquetFile(path).read()))
        known = ", ".join((*_DELIMITERS, *_PARQUET))
        raise ArgumentError("table_by_path: the suffix of the file", expected=f"one of {known}", got=f"{suffix!r}")
    if hasattr(file, "columns") and hasattr(file, "iloc"):
        in_index = any(name in keys for name in file.index.names)
        hint = "frame.reset_index() makes a column of its index" if in_index else None
        return _table("table_by_path: the table", keys, *_pandas(file), hint)
    if hasattr(file, "__arrow_c_stream__"):
        arrow = needed("pyarrow", "arrow", f"table_by_path() of a {type(file).__qualname__}")
        return _table("table_by_path: the table", keys, *_arrow(arrow.table(file)))
    raise ArgumentTypeError("table_by_path: file", expected="the path of a file, or a data frame", got=got(file))


def _names(key: object) -> list[str]:
    names = [key] if isinstance(key, str) else list(key) if isinstance(key, Iterable) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise ArgumentTypeError("table_by_path: key", expected="the name of a column, or several", got=got(key))
    if not names or len(set(names)) < len(names):
        raise ArgumentError("table_by_path: key", expected="columns, none of them twice", got=f"{names!r}")
    return names


def _table(
    name: str,
    keys: list[str],
    columns: list[Any],
    cells: list[list[Any]],
    place: Callable[[int], str],
    hint: str | None = None,
) -> PathTable:
    """A table of columns.

    Args:
        name: What it is called in errors.
        keys: The columns of the key.
        columns: The names of all columns.
        cells: Those of each column.
        place: Where a row is, for errors.
        hint: What to do where a column of the key is not there.
    """
    for number, column in enumerate(columns, 1):
        if not isinstance(column, str) or not column:
            raise ArgumentError(
                f"{name}: the name of column {number}",
                expected="a text",
                got=got(column),
                hint="pandas writes its index as such a column: to_csv(..., index=False)",
            )
        if columns.index(column) < number - 1:
            raise ArgumentError(f"{name}: the column {column!r}", "comes twice", hint="rename one")
    if missing := [column for column in keys if column not in columns]:
        if len(columns) == 1 and ";" in columns[0]:
            hint = f"semicolons seem to part them: give {_pandas_reads(keys, sep=';')}"
        elif near := get_close_matches(missing[0], columns, 1):
            hint = f"did you mean {near[0]!r}{other_form(near, missing[:1])}?"
        raise ArgumentError(
            f"{name}: key",
            expected=f"among its columns {', '.join(map(repr, columns))}",
            got=repr(missing[0]),
            hint=hint,
        )
    by_name = dict(zip(columns, cells, strict=True))
    names = [column for column in columns if column not in keys]
    rows: dict[_Path, tuple[Any, ...]] = {}
    paths = list(zip(*(by_name[column] for column in keys), strict=True))
    values = zip(*(by_name[column] for column in names), strict=True) if names else [()] * len(paths)
    for number, (path, row) in enumerate(zip(paths, values, strict=True)):
        for column, part in zip(keys, path, strict=True):
            if part is None or part == "":
                raise ArgumentError(f"{name}: {column!r} in {place(number)}", "is empty, and a key must not be")
            if not isinstance(part, str):
                raise ArgumentTypeError(
                    f"{name}: {column!r} in {place(number)}",
                    expected="text, as all keys are",
                    got=got(part),
                    hint=f"make it text where it is made, as by frame[{column!r}].astype(str): 7 and '007' differ",
                )
        if path in rows:
            raise ArgumentError(
                f"{name}: the key in {place(number)}",
                f"is that of {place(paths.index(path))}",
                path=path,
                hint="each path has one row: take out the others, or name more columns in key=",
            )
        rows[path] = row
    return PathTable(names, rows)


def _pandas_reads(keys: list[str], **options: str) -> str:
    """How pandas reads a file of text of another kind, with its keys as they are."""
    given = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return f"pandas.read_csv(file, {given}, dtype={{{', '.join(f'{column!r}: str' for column in keys)}}})"


# --- Files of text --------------------------------------------------------------------------------------------------


def _text(file: Path, delimiter: str, keys: list[str]) -> tuple[list[Any], list[list[Any]], Callable[[int], str]]:
    """The columns of a file of text, and their cells; those of attributes as numbers where all of them are."""
    name = f"table_by_path: {file}"
    lines: list[int] = []  # where each row begins
    rows: list[list[str]] = []
    start = 1
    with open(file, encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if row:
                    if rows and len(row) != len(rows[0]):
                        raise ArgumentError(
                            f"{name}: line {start}",
                            expected=f"of {counted(len(rows[0]), 'cell')}, as line {lines[0]} is",
                            got=f"{len(row)}",
                            hint=f"a cell with {delimiter!r} or a line break in it stands in quotes",
                        )
                    lines.append(start)
                    rows.append(row)
                start = reader.line_num + 1
        except csv.Error as error:
            raise ArgumentError(f"{name}: line {start}", f"can't be read: {error}") from error
        except UnicodeDecodeError as error:
            raise _no_utf8(name, file, keys, delimiter) from error
    if not rows:
        raise ArgumentError(f"{name}: it", "is empty, and its first line should name the columns")
    columns = rows[0]
    cells: list[list[Any]] = [list(column) for column in zip(*rows[1:], strict=True)] or [[] for _ in columns]
    for number, column in enumerate(columns):
        if column not in keys:
            cells[number] = _values(cells[number])
    return columns, cells, lambda number: f"line {lines[number + 1]}"


def _no_utf8(name: str, file: Path, keys: list[str], delimiter: str) -> ArgumentError:
    """The error of a file that is not UTF-8, at the first line that is not."""
    data = file.read_bytes()
    encoding, from_where = "cp1252", "from Windows"
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        encoding, from_where = "utf-16", "UTF-16"
    options = {"encoding": encoding} if delimiter == "," else {"encoding": encoding, "sep": delimiter}
    hint = f"save it as that; or, if it is {from_where}, give {_pandas_reads(keys, **options)}"
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            where, what = f"{name}: line {number}", f"{line[error.start : error.start + 1]!r}"
            return ArgumentError(where, expected="text in UTF-8", got=what, hint=hint)
    return ArgumentError(f"{name}:", expected="text in UTF-8", got="other bytes", hint=hint)


def _values(cells: list[str]) -> list[Any]:
    """The cells of a column as numbers, if each that is not empty is one."""
    for pattern, number in ((_INT, int), (_FLOAT, _float)):
        with suppress(ValueError):  # more digits than Python reads
            if all(not cell or pattern.fullmatch(cell) for cell in cells):
                return [number(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]


def _float(cell: str) -> float:
    number = float(cell)
    if math.isinf(number) and "n" not in cell.lower():
        raise ValueError
    return number


# --- Data frames ----------------------------------------------------------------------------------------------------


def _row(number: int) -> str:
    return f"row {number} (counted from 0)"


def _arrow(table: Any) -> tuple[list[Any], list[list[Any]], Callable[[int], str]]:
    return list(table.column_names), [column.to_pylist() for column in table.columns], _row


def _pandas(frame: Any) -> tuple[list[Any], list[list[Any]], Callable[[int], str]]:
    columns = list(frame.columns)
    cells = []
    for number in range(len(columns)):
        column = frame.iloc[:, number]
        there = column.notna().tolist()
        cells.append([value if is_there else None for value, is_there in zip(column.tolist(), there, strict=True)])
    return columns, cells, _row
