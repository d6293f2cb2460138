"""The values that flow through a pipeline: records, results, failures, writes, and the report at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import islice
from os.path import basename
from typing import Any, Literal, TypeAlias

from ._public import public
from ._reprs import bounded_repr, cut, repr_of_changed
from ._tracebacks import MAX_TEXT, error_types, formatted, said
from .errors import ArgumentError, ResultError, add_note, as_text, got

__all__ = [
    *("Accumulator", "Failure", "MapReport", "NodeRecord", "Partition", "Place", "ProcessResult", "Write"),
    "WriteReport",
]


def _equal(self: Any, other: object) -> Any:
    """What a dataclass does, for values that may be arrays."""
    names = [field.name for field in fields(self) if field.compare]
    if other.__class__ is not self.__class__:
        return NotImplemented
    from ._values import same  # here, since a worker seldom compares: it starts without numpy and lotdb

    return all(same(getattr(self, name), getattr(other, name)) for name in names)


def html_of(self: Any, title: str, values: Iterable[tuple[str, Any]], rest: int = 0) -> str:
    """What a notebook shows: a title, and a table of names and values; `rest` of them are left out."""
    from . import _html  # here, since a worker shows nothing: it starts sooner

    more = f'<div class="pale">… {rest:,} more</div>' if rest > 0 else ""
    return _html.card(type(self).__name__, title, _html.pairs(values), more)


def html_of_fields(self: Any) -> str:
    """What a notebook shows of a dataclass of a few values: these."""
    return html_of(self, "", [(each.name, getattr(self, each.name)) for each in fields(self) if each.repr])


def as_told(text: str) -> str:
    """A text for such a table, without quotes."""
    from ._html import Text

    return Text(text)


#: Attributes that a notebook shows of one record.
MOST_ATTRIBUTES = 100


@public
@dataclass(frozen=True)
class NodeRecord:
    """What a processor gets: one node, detached from its tree.

    Holds plain values only, so it is safe in any thread, process or machine. Two of them are equal, as are other values
    of a pipeline, where all that they hold is; arrays where dtype, shape and bytes are, NaN included.

    >>> record = NodeRecord(
    ...     path=("speaker_01", "clip_001"), key="clip_001", attributes={"duration": 1.2}
    ... )
    >>> record.attributes["duration"]
    1.2

    Args:
        path: The node's keys from below the root of its tree down to itself; empty for the root.
        key: The node's own key.
        attributes: The attributes that were asked for, by name; absent ones are `None`.
        payload: What `snapshot(..., payload=...)` took from the node: a `PayloadHandle`, or what a function returned.
        inputs: What `pending(..., inputs=True)` knows the attributes and the files behind them by; it goes with the
            results to `write`.
    """

    path: tuple[str, ...]
    key: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    payload: Any = None
    inputs: str | None = field(default=None, repr=False, compare=False)

    __eq__ = _equal
    __repr__ = bounded_repr

    def _repr_html_(self) -> str:
        payload = [] if self.payload is None else [("payload", self.payload)]
        names = islice(self.attributes.items(), MOST_ATTRIBUTES)
        return html_of(self, as_text(self.path), [*names, *payload], len(self.attributes) - MOST_ATTRIBUTES)


def node_record(path: tuple[str, ...], key: str, attributes: Mapping[str, Any], payload: Any) -> NodeRecord:
    """Make a `NodeRecord` in less than half the time, for stages that make millions.

    The constructor of a frozen dataclass goes through `object.__setattr__` for each field.
    """
    record = object.__new__(NodeRecord)
    fields = record.__dict__
    fields["path"] = path
    fields["key"] = key
    fields["attributes"] = attributes
    fields["payload"] = payload
    fields["inputs"] = None
    return record


class Unchanged(NodeRecord):
    """Marks a record of which nothing is new, where only what is new is given, for who knows of more."""


def unchanged(record: NodeRecord) -> Unchanged:
    """The same record, marked."""
    marked = object.__new__(Unchanged)
    marked.__dict__.update(record.__dict__)
    return marked


@public
@dataclass(frozen=True)
class Place:
    """A tree in a storage, or a part of one: a reference that can be sent wherever that storage can be opened.

    `partitions` makes them. `scan`, `pending` and `write` take them in place of a root; and where a `pending` or a
    `write` with a live root is sent to another process, the root becomes one. `Partition` is another name for it.

    Args:
        uri: The storage: the path of a database file, or a URI as `open_root` takes it.
        blobs: The directory of the blobs of a file, if it has one.
        before: The transaction before which a `scan` reads the tree, as ZODB's 8 bytes; `None`: as it is by then.
        root: The id of the tree's root in the database, as ZODB's 8 bytes.
        start: The path below the root at which the part begins; empty for the root itself.
        stop: The path below the root at which it ends, itself not included; empty for the end of the tree.
        stored: The transaction that stored the root, by which another tree in its place is told.
    """

    uri: str
    blobs: str | None
    before: bytes | None
    root: bytes
    start: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    stored: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        stop = f"before {as_text(self.stop)}" if self.stop else "the end"
        return f"from {as_text(self.start)} to {stop}, in {self.uri}"

    def __repr__(self) -> str:
        part = f" from {as_text(self.start)}" if self.start else ""
        part += f" to before {as_text(self.stop)}" if self.stop else ""
        return cut(f"<Place {self._storage}{part}>")

    def _repr_html_(self) -> str:
        stop = [("to before", as_told(as_text(self.stop)))] if self.stop else []
        return html_of(self, self._storage, [("from", as_told(as_text(self.start))), *stop])

    @property
    def _storage(self) -> str:
        """The name of the file, or of the server without options and what is in front of the host."""
        scheme, is_uri, rest = self.uri.rpartition("://")
        return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}" if is_uri else basename(self.uri)

    def __getstate__(self) -> dict[str, Any]:
        # As older versions had it, so that one that they could have made has the same digest.
        state = {name: value for name, value in vars(self).items() if name != "stored" or value is not None}
        return {"file": state.pop("uri"), **state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "uri": state["file"]})
        del vars(self)["file"]


#: What a `Place` is called where it is one of the parts of a tree.
Partition = Place


#: Stands for attributes that were not given, so that each result has a dict of its own.
_NONE: Mapping[str, Any] = {}


@public
@dataclass(frozen=True, init=False)
class ProcessResult:
    """What a processor returns: an output and attributes for the node at `path`.

    >>> ProcessResult(path=("speaker_01", "clip_001"), output=0.5).path
    ('speaker_01', 'clip_001')

    Args:
        path: The path of the record that was processed.
        output: Any value that can be pickled; stored as the attribute that `write` calls `output_attribute`.
        attributes: More attributes for the written node, by name.
        relative_path: Keys to append to the path that the write policy makes.
        inputs: Those of the record; `parallel_map` hands them on.
    """

    path: tuple[str, ...]
    output: Any = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    relative_path: tuple[str, ...] = ()
    inputs: str | None = field(default=None, repr=False, compare=False)

    __eq__ = _equal
    __repr__ = bounded_repr

    def __init__(
        self,
        path: Iterable[str],
        output: Any = None,
        attributes: Mapping[str, Any] = _NONE,
        relative_path: Iterable[str] = (),
        inputs: str | None = None,
    ) -> None:
        fields = self.__dict__  # for speed, as in `node_record`
        # Lists are what `node.gps()` gives; a str stays as it is, for the policy to refuse.
        fields["path"] = tuple(path) if type(path) is list else path
        fields["output"] = output
        fields["attributes"] = {} if attributes is _NONE else attributes
        fields["relative_path"] = tuple(relative_path) if type(relative_path) is list else relative_path
        fields["inputs"] = inputs

    def _repr_html_(self) -> str:
        below = [("relative_path", as_told(as_text(self.relative_path)))] if self.relative_path else []
        names = islice(self.attributes.items(), MOST_ATTRIBUTES)
        told = [("output", self.output), *names, *below]
        return html_of(self, as_text(self.path), told, len(self.attributes) - MOST_ATTRIBUTES)


def with_inputs(result: ProcessResult, inputs: str | None) -> ProcessResult:
    """A result as it is, that knows the inputs of its record."""
    made = object.__new__(type(result))
    made.__dict__.update(result.__dict__, inputs=inputs)
    return made


@public
@dataclass(frozen=True)
class Accumulator:
    """What a part of a stream adds to the fold of a branch: for `rollup` to put together, and not to be written.

    `rollup(fold, partial=True)` makes them, in workers say.

    Args:
        path: The path of the branch.
        value: What the fold has gathered so far.
        fold: The fold, as it shows itself.
    """

    path: tuple[str, ...]
    value: Any
    fold: str

    __eq__ = _equal
    __repr__ = bounded_repr

    def _repr_html_(self) -> str:
        return html_of(self, as_text(self.path), [("value", self.value), ("fold", as_told(self.fold))])


@public
@dataclass(frozen=True)
class Failure:
    """Stands in a stream for a node that could not be read, or a record that could not be processed.

    `scan`, `snapshot` and `parallel_map` make them with `on_error="collect"`. Every stage hands them on as they are,
    and `write` counts them.

    >>> failure = Failure(("ann", "clip_1"), "ValueError", "it is empty", attempts=3)
    >>> print(failure)
    ann/clip_1: ValueError: it is empty (3 attempts)

    Args:
        path: The record's path; `None` for what has no path.
        error: The type of the error, by name.
        message: What it said.
        traceback: Where it happened, formatted.
        attempts: How often the record was tried, by itself.
        item: What failed, in brief, where it has no path.
    """

    path: tuple[str, ...] | None
    error: str
    message: str
    traceback: str = field(default="", repr=False)
    attempts: int = 1
    item: str = ""

    __eq__ = _equal
    __repr__ = bounded_repr

    @property
    def attributes(self) -> dict[str, Any]:
        """What a table of failures shows beside the path."""
        return {"error": self.error, "message": self.message, "attempts": self.attempts}

    @property
    def where(self) -> str:
        """The path as people read it, or what failed."""
        return self.item if self.path is None else as_text(self.path)

    def __str__(self) -> str:
        tried = f" ({self.attempts} attempts)" if self.attempts > 1 else ""
        return f"{self.where}: {self.error}: {self.message}{tried}"

    def _repr_html_(self) -> str:
        from . import _html  # here, as above

        lines = "\n".join(_html.escaped(line) for line in self.traceback.splitlines())
        where = _html.details("Traceback", f"<pre>{lines}</pre>") if lines else ""
        return _html.card("Failure", str(self), where)


#: What becomes of what fails: its error is raised, it is left out, a `Failure` takes its place, or what a function of
#: the `Failure` gives, unless that is `None`.
OnError: TypeAlias = "Literal['raise', 'skip', 'collect'] | Callable[[Failure], Any]"


def failure_at(path: tuple[str, ...] | None, error: BaseException, *, attempts: int = 1, item: str = "") -> Failure:
    """The `Failure` that tells of an error."""
    return Failure(path, type(error).__qualname__, said(error), formatted(error)[-MAX_TEXT:], attempts, item)


def in_its_place(on_error: OnError, failure: Failure) -> Any:
    """What takes the place of what failed; `None` where it is left out."""
    from ._log import log  # here, since most workers never fail: they start without it

    log.warning("%s", failure)
    if on_error == "collect":
        return failure
    if not callable(on_error):
        return None
    try:
        return on_error(failure)
    except error_types() as error:
        add_note(error, f"lotproc: in on_error, for {failure}")
        raise


@public
@dataclass(frozen=True, init=False)
class Write:
    """One planned write: the attributes to set on the node at `path`, below the target's root.

    >>> Write(path=("clip_001", "_proc"), attributes={"result": 0.5})
    Write(path=('clip_001', '_proc'), attributes={'result': 0.5})
    """

    path: tuple[str, ...]
    attributes: Mapping[str, Any]

    __eq__ = _equal
    __repr__ = bounded_repr

    def __init__(self, path: tuple[str, ...], attributes: Mapping[str, Any]) -> None:
        fields = self.__dict__
        fields["path"] = path
        fields["attributes"] = attributes

    def _repr_html_(self) -> str:
        names = islice(self.attributes.items(), MOST_ATTRIBUTES)
        return html_of(self, as_text(self.path), names, len(self.attributes) - MOST_ATTRIBUTES)


#: Failures that a report keeps at most.
MOST_FAILURES = 1_000
#: Of these, those that a notebook shows.
MOST_SHOWN = 20
#: What adds up in reports of writes, and in those of maps.
_SUMMED = ("written", "skipped", "commits", "failed", "seconds", "waiting", "writing", "absent")
_SUMMED_OF_MAPS = ("batches", "seconds", "working", "input_wait", "worker_wait", "consumer_wait")


@public
@dataclass(frozen=True)
class MapReport:
    """What one `parallel_map` of a `write` did, and where its time went.

    >>> decoded = MapReport(
    ...     "decode", "thread", workers=4, batches=100, seconds=10.0, working=36.0
    ... )
    >>> decoded.busy
    0.9

    Args:
        name: What its function is called; of `each(fn)`, what `fn` is called.
        mode: Its mode, or the class of the executor that it was given.
        workers: How many it had: threads, processes, or records at a time with `mode="async"`.
        batches: How many it has given the results of.
        seconds: How long it took, from its first pull to its end.
        working: Seconds of work, of all workers together, measured where it was done: queues, pickles and the ways
            there and back are not in it. With `mode="async"` the seconds that records were awaited. What a lost worker
            or a batch that raised had done is not counted.
        input_wait: Seconds of `seconds` in which it waited for its input.
        worker_wait: Seconds in which it waited for its workers, or worked in line.
        consumer_wait: Seconds in which its results waited for who asks for them. The rest went into what it does
            itself: sending batches to workers, and taking results back.
    """

    name: str
    mode: str
    workers: int = 1
    batches: int = 0
    seconds: float = field(default=0.0, compare=False)
    working: float = field(default=0.0, compare=False)
    input_wait: float = field(default=0.0, compare=False)
    worker_wait: float = field(default=0.0, compare=False)
    consumer_wait: float = field(default=0.0, compare=False)

    @property
    def busy(self) -> float:
        """The share of its workers' time that went into work, from 0 to 1."""
        # Executors may have more workers than they said.
        time = self.workers * self.seconds
        return min(1.0, self.working / time) if time > 0 else 0.0

    __repr__ = bounded_repr
    _repr_html_ = html_of_fields


def _together(*reports: tuple[MapReport, ...]) -> tuple[MapReport, ...]:
    """Of maps that are the same in several reports one each: the first of its name, mode and workers, the second..."""
    found: dict[Any, MapReport] = {}
    for maps in reports:
        before: Counter[Any] = Counter()
        for one in maps:
            same = one.name, one.mode, one.workers
            key = same, before[same]
            before[same] += 1
            both = (found[key], one) if key in found else (one,)
            summed = {name: sum(getattr(report, name) for report in both) for name in _SUMMED_OF_MAPS}
            found[key] = MapReport(*same, **summed)
    return tuple(found.values())


@public
@dataclass(frozen=True)
class WriteReport:
    """What a `write` or a `delete` did.

    >>> print(WriteReport(written=120, commits=2))
    120 results written, 2 commits
    >>> print(WriteReport(deleted=3, absent=1, commits=1))
    3 nodes deleted, 1 absent, 1 commit

    Those of several workers add up:

    >>> reports = [WriteReport(written=120, commits=2), WriteReport(written=7, commits=1)]
    >>> print(sum(reports, WriteReport()))
    127 results written, 3 commits

    Args:
        written: Results applied to the target.
        skipped: Results left out because their node was there (`if_exists="skip"`).
        commits: Transactions committed; 0 where the caller commits.
        last_path: The path that was written or deleted last.
        failed: Records that came as a `Failure` in place of a result.
        failures: The first 1,000 of these; a ledger has them all.
        errors: How many of all of them there were of each type of error.
        seconds: How long it took, from the first result that was asked for.
        waiting: Seconds of these in which `parallel_map` waited for its workers, or worked in line.
        writing: Seconds of these for planning, applying and committing results. The rest went into reading.
        deleted: Nodes that a `delete` has deleted, each with all below it; `None` of a `write`.
        absent: Paths at which it found nothing.
        maps: What each `parallel_map` of the pipeline did, from the source on: a `MapReport` each. Maps of one name,
            mode and number of workers that came one after the other are one.
    """

    written: int = 0
    skipped: int = 0
    commits: int = 0
    last_path: tuple[str, ...] | None = None
    failed: int = 0
    failures: tuple[Failure, ...] = ()
    errors: Mapping[str, int] = field(default_factory=dict, hash=False)
    seconds: float = field(default=0.0, compare=False)
    waiting: float = field(default=0.0, compare=False)
    writing: float = field(default=0.0, compare=False)
    deleted: int | None = None
    absent: int = 0
    maps: tuple[MapReport, ...] = field(default=(), compare=False)

    def __getstate__(self) -> dict[str, Any]:
        # That of a write as older versions had it, so that one with the same numbers has the same digest.
        hidden = {"deleted", "absent"} if self.deleted is None else set()
        if not self.maps:
            hidden.add("maps")
        return {name: value for name, value in vars(self).items() if name not in hidden}

    def __add__(self, other: WriteReport) -> WriteReport:
        if not isinstance(other, WriteReport):
            return NotImplemented
        both = (self, other)
        deleted = [report.deleted for report in both if report.deleted is not None]
        return WriteReport(
            **{name: sum(getattr(report, name) for report in both) for name in _SUMMED},
            last_path=self.last_path if other.last_path is None else other.last_path,
            failures=(self.failures + other.failures)[:MOST_FAILURES],
            errors=dict(Counter(self.errors) + Counter(other.errors)),
            deleted=sum(deleted) if deleted else None,
            maps=_together(self.maps, other.maps),
        )

    def __str__(self) -> str:
        parts = [
            counted(self.written, "result") + " written"
            if self.deleted is None
            else counted(self.deleted, "node") + " deleted",
            *([f"{self.absent:,} absent"] if self.absent else []),
            *([f"{self.skipped:,} skipped"] if self.skipped else []),
            *([f"{self.failed:,} failed"] if self.failed else []),
            commits_text(self.commits, bool(self.written or self.deleted)),
        ]
        return ", ".join(parts)

    __repr__ = repr_of_changed

    def _repr_html_(self) -> str:
        from . import _html  # here, as above

        path = [] if self.last_path is None else [("last_path", as_told(as_text(self.last_path)))]
        seconds = [
            (name, round(value, 3)) for name in ("seconds", "waiting", "writing") if (value := getattr(self, name))
        ]
        table = _html.pairs([*path, *seconds])
        lines = "".join(f"<div>{_html.escaped(str(failure))}</div>" for failure in self.failures[:MOST_SHOWN])
        title = counted(len(self.failures), "failure") + (
            f", the first {MOST_SHOWN}" if self.failures[MOST_SHOWN:] else ""
        )
        few = not self.failures[MOST_SHOWN:]
        told = _html.details(title, f"<div>{lines}</div>", is_open=few) if lines else ""
        return _html.card("WriteReport", str(self), table, told)


def written_attributes(name: str, result: ProcessResult, output_attribute: str | None) -> dict[str, Any]:
    """The attributes of a result as they are written: its output is one of them, if it has a name."""
    if type(result.attributes) is not dict and not isinstance(result.attributes, Mapping):
        raise ResultError(
            f"{name}: the attributes of the result", path=result.path, expected="a mapping", got=got(result.attributes)
        )
    attributes = dict(result.attributes)
    for attribute in attributes:
        if type(attribute) is not str and not isinstance(attribute, str):
            raise ResultError(
                f"{name}: the result", f"has an attribute whose name is no str: {got(attribute)}", path=result.path
            )
    if output_attribute is not None:
        if output_attribute in attributes:
            raise ArgumentError(
                f"{name}: the result",
                f"has an attribute {output_attribute!r}, which is where its output goes",
                path=result.path,
                hint="rename it, or let plan() or write() choose another output_attribute",
            )
        attributes[output_attribute] = result.output
    return attributes


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1200, "file")
    '1,200 files'
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def commits_text(number: int, is_changed: bool) -> str:
    """How many commits there were, in words; of none, whether anything waits for one."""
    return counted(number, "commit") if number else "not committed" if is_changed else "nothing to commit"
