"""A file of JSON lines that keeps what failed and what was committed, over any number of runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, BinaryIO

from .._files import open_regular
from ..errors import MAX_BRIEF, ArgumentError, ArgumentTypeError, ForeignFileError, add_note, brief, got
from ..models import Failure

__all__ = ["Ledger", "check_ledger", "outstanding_failures", "standing_failures"]

#: How the lines that are written here start; by it the torn start of one is known.
STARTS = (b'{"event": "failure", "time": "', b'{"event": "commit", "time": "')
#: Bytes of a line that are looked at to tell whether a file is a ledger: a file of somebody else may have no line end.
MAX_FIRST = 1 << 20
#: What may be around a line; a power failure can leave zeros in a file.
BLANK = b"\0\t\r\n "


class Ledger:
    """Keeps the failures and the commits of one run after those of the runs before it.

    >>> import os, tempfile
    >>> from lotproc.writing.ledger import Ledger, outstanding_failures
    >>> from lotproc.models import Failure
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "run.jsonl")
    ...     with Ledger("write", path) as ledger:
    ...         ledger.failed(Failure(("ann", "1"), "ValueError", "the file is empty"))
    ...         ledger.failed(Failure(("ann", "2"), "ValueError", "the file is empty"))
    ...         ledger.commit(
    ...             written=120, skipped=0, failed=2, seconds=12.4, last_path=("bob", "9")
    ...         )
    ...     with Ledger("write", path) as ledger:  # the next run
    ...         ledger.wrote(("ann", "2"))
    ...         ledger.commit(
    ...             written=1, skipped=0, failed=0, seconds=0.1, last_path=("ann", "2")
    ...         )
    ...     outstanding_failures("failed", path)
    [('ann', '1')]

    Several processes may append to one file: lines go out whole, in one write that the operating system appends. A line
    that a crash has torn stays as it is; the next line starts below it, and readers skip it. For one run at a time, in
    one thread.

    Args:
        name: The stage, for errors.
        path: The file; it is made when the `with` begins, in a folder that is there.

    Raises:
        ArgumentError: The folder is not there, or the file is something else than a ledger: a link, for one.
        ArgumentTypeError: `path` is no path.
    """

    def __init__(self, name: str, path: str | os.PathLike[str]) -> None:
        self.name, self.path = name, check_ledger(name, path)
        #: Source paths that failed, in this run or before it, and have no result that is committed.
        self.outstanding: set[tuple[str, ...]] = set()
        self._recovered: set[tuple[str, ...]] = set()
        self._kept = bytearray()

    def __enter__(self) -> Ledger:
        """Read what is outstanding, and open the file for appending.

        Raises:
            ArgumentError: The file has become something else than a ledger.
            OSError: The file can't be opened, with a note that names it.
        """
        try:
            self.outstanding = set()
            with suppress(FileNotFoundError):
                self.outstanding = _outstanding(self.name, self.path)
            self._recovered, self._kept = set(), bytearray()
            self._file = _opened(self.name, self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        except OSError as error:
            add_note(error, f"{self.name}: while opening the ledger {self.path}")
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Append the failures kept, wait until they are on the disk, and close the file."""
        try:
            self._append(bytes(self._kept), sync=True)
        except OSError as problem:
            if error is None:
                raise
            add_note(error, f"{self.name}: and the ledger {self.path} can't be written: {problem}")
        finally:
            os.close(self._file)

    @property
    def kept(self) -> int:
        """Bytes that wait for the next flush."""
        return len(self._kept)

    @property
    def has_recovered(self) -> bool:
        """Whether a failure was made good that the next commit will tell of."""
        return bool(self._recovered)

    def failed(self, failure: Failure) -> None:
        """Keep a failure for the next flush."""
        path = None if failure.path is None else tuple(failure.path)
        self._kept += _line(
            "failure",
            path=path,
            error=failure.error,
            message=failure.message,
            attempts=failure.attempts,
            **({"item": failure.item} if path is None else {}),
            traceback=failure.traceback,
        )
        if path is not None:
            self.outstanding.add(path)
            self._recovered.discard(path)

    def wrote(self, path: tuple[str, ...]) -> None:
        """Note that the record at this path, its source's, has a result now, if it was outstanding."""
        if self.outstanding and path in self.outstanding:
            self._recovered.add(path)

    def drop_recovered(self) -> None:
        """Forget what was noted as recovered since the last commit, because it was undone; failures stay kept."""
        self._recovered.clear()

    def commit(
        self, *, written: int, skipped: int, failed: int, seconds: float, last_path: tuple[str, ...] | None
    ) -> None:
        """Append the failures kept and the line of a commit, in one write, and wait until they are on the disk.

        Raises:
            OSError: They can't be written, with a note that names the file. Failures whose lines are not in it are
                still kept, and what is noted as recovered is still noted.
        """
        counts = {"written": written, "skipped": skipped, "failed": failed, "seconds": round(seconds, 3)}
        recovered = {"recovered": sorted(self._recovered)} if self._recovered else {}
        line = _line("commit", **counts, last_path=last_path, **recovered)
        self._append(bytes(self._kept) + line, sync=True)
        self.outstanding -= self._recovered
        self._recovered.clear()

    def flush(self) -> None:
        """Append the failures kept, without waiting for the disk; raises as `commit` does."""
        self._append(bytes(self._kept), sync=False)

    def _append(self, lines: bytes, *, sync: bool) -> None:
        """Append lines, the first of which are the failures kept, in one write unless it falls short."""
        try:
            while lines:
                start = b"" if self._ends_with_a_line() else b"\n"
                done = max(os.write(self._file, start + lines) - len(start), 0)
                if done < len(lines):  # a full disk, which the next write will tell of
                    # A torn line comes again, because another process may have appended to it; a whole one does not.
                    whole = lines[done : done + 1] == b"\n"
                    done = done + 1 if whole else lines.rfind(b"\n", 0, done) + 1
                del self._kept[:done]
                lines = lines[done:]
            if sync:
                os.fsync(self._file)
        except OSError as error:
            add_note(error, f"{self.name}: while writing the ledger {self.path}")
            raise

    def _ends_with_a_line(self) -> bool:
        """Whether a new line can start at the file's end, where this or another process may have left a torn one."""
        if os.lseek(self._file, 0, os.SEEK_END) == 0:
            return True
        os.lseek(self._file, -1, os.SEEK_END)
        return os.read(self._file, 1) == b"\n"


def outstanding_failures(name: str, path: str | os.PathLike[str], *, may_be_new: bool = False) -> list[tuple[str, ...]]:
    """The paths of the records that failed, in any run of a ledger, and have no result since.

    Args:
        name: The stage, for errors.
        path: The ledger. It is read line by line, so its size does not matter; lines that a crash has torn are skipped.
        may_be_new: Whether it may be one that is to be made.

    Returns:
        Source paths, sorted, each once. Failures without a path are left out.

    Raises:
        ArgumentError: The file is not there, or something else than a ledger.
        ArgumentTypeError: `path` is no path.
    """
    with suppress(*[FileNotFoundError] if may_be_new else []):
        return sorted(_outstanding(name, check_ledger(name, path, must_exist=not may_be_new)))
    return []


def standing_failures(name: str, path: str | os.PathLike[str]) -> list[Failure]:
    """The same as `outstanding_failures`, with what the last failure of each said."""
    standing: dict[tuple[str, ...], Failure] = {}
    for event in _events(name, check_ledger(name, path, must_exist=True)):
        if event.get("event") == "failure":
            for failed in _paths([event.get("path")]):
                standing[failed] = _failure(failed, event)
        elif event.get("event") == "commit":
            for recovered in _paths(event.get("recovered")):
                standing.pop(recovered, None)
    return [standing[failed] for failed in sorted(standing)]


def _failure(path: tuple[str, ...], event: dict[str, Any]) -> Failure:
    """A failure from its line, which may lack what older or other programs did not write."""
    error, message, traceback = (str(event.get(name) or "") for name in ("error", "message", "traceback"))
    attempts = event.get("attempts")
    return Failure(path, error, message, traceback, attempts if isinstance(attempts, int) else 1)


def check_ledger(name: str, path: object, *, must_exist: bool = False) -> str:
    """Refuse what can be no ledger; the path of a ledger, absolute, if a ledger is there or can be made there."""
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(text, str):
        raise ArgumentTypeError(f"{name}: ledger", expected="the path of a file", got=got(path))
    if not text or "\0" in text:
        raise ArgumentError(f"{name}: ledger", expected="the path of a file", got=f"{text!r}")
    text = os.path.abspath(text)
    try:
        with open(_opened(name, text), "rb") as file:
            _check_start(name, text, file)
    except (FileNotFoundError, NotADirectoryError):
        folder = os.path.dirname(text)
        if not os.path.isdir(folder):
            raise ArgumentError(
                f"{name}: the ledger {text} is to be in a folder that is not there", hint=f"make {folder} first"
            ) from None
        if must_exist:
            raise ArgumentError(
                f"{name}: there is no ledger {text}", hint="write(..., ledger=...) makes it when it runs"
            ) from None
    return text


def _opened(name: str, path: str, flags: int = os.O_RDONLY) -> int:
    """The ledger, open. A link is not followed: whoever made the folder may have led it to a file of somebody else."""
    try:
        return open_regular(path, flags)
    except ForeignFileError as error:
        raise ArgumentError(f"{name}: the ledger {error}") from error


def _check_start(name: str, path: str, file: BinaryIO) -> None:
    """Refuse a file that does not start as a ledger: with one of its lines, or with what a crash has left of one."""
    number = 0
    while line := file.readline(MAX_FIRST):
        number += 1
        text = line.strip(BLANK)
        if not text:
            continue
        if text.startswith(STARTS) or _parsed(text).get("event") in ("failure", "commit"):
            return
        if not any(start.startswith(text) for start in STARTS):
            start = brief(text[:MAX_BRIEF].decode(errors="replace"))
            raise ArgumentError(
                f"{name}: {path} is no ledger",
                hint=f"its line {number} should be a JSON object with the event of a failure or a commit, got "
                f"{start}. Name a new file, or one that write(..., ledger=...) has made",
            )


def _outstanding(name: str, path: str) -> set[tuple[str, ...]]:
    """What is outstanding by a ledger."""
    outstanding: set[tuple[str, ...]] = set()
    for event in _events(name, path):
        if event.get("event") == "failure":
            outstanding.update(_paths([event.get("path")]))
        elif event.get("event") == "commit":
            outstanding.difference_update(_paths(event.get("recovered")))
    return outstanding


def _events(name: str, path: str) -> Iterator[dict[str, Any]]:
    """What the lines of a ledger say; empty for a torn one."""
    with open(_opened(name, path), "rb") as file:
        _check_start(name, path, file)
        file.seek(0)
        yield from map(_parsed, file)


def _parsed(line: bytes) -> dict[str, Any]:
    """The object that a line holds, empty for a torn line."""
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _paths(values: Any) -> Iterator[tuple[str, ...]]:
    for value in values if isinstance(values, list) else ():
        if isinstance(value, list) and all(isinstance(key, str) for key in value):
            yield tuple(value)


def _line(event: str, **fields: Any) -> bytes:
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # ASCII, because a path may hold lone surrogates, as names of files do that are not in UTF-8.
    return json.dumps({"event": event, "time": now, **fields}, default=str).encode("ascii") + b"\n"
