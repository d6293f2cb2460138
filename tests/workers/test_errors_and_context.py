"""A processor in `parallel_map`, wherever it runs: its errors come out as raised, the caller's context holds."""

from __future__ import annotations

import asyncio
import contextvars
import copyreg
import decimal
import functools
import io
import multiprocessing
import pickle
import random
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from lotdb import BaseNode
from recording import InlineExecutor, examples

from lotproc import (
    ArgumentError,
    ArgumentTypeError,
    DirectoryStore,
    Failure,
    NodeRecord,
    NotPicklableError,
    ProcessorError,
    ProcessResult,
    copy,
    each,
    parallel_map,
    progress,
    rng,
)

MODES = ("sync", "thread", "process")
WAYS = (*MODES, "threads", "processes", "inline", "pickling")
#: Those in which processor and errors are pickled.
ELSEWHERE = ("process", "processes", "pickling")
#: The same everywhere, so that the pool of worker processes starts once.
WORKERS = 2

ways = st.sampled_from(WAYS)


class PicklingExecutor(InlineExecutor):
    """One that sends all with the standard library's pickle, as those of other machines do."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        def there() -> Any:
            sent, arguments = pickle.loads(pickle.dumps((fn, args)))
            return pickle.loads(pickle.dumps(sent(*arguments)))

        return super().submit(there)


@pytest.fixture(scope="module", autouse=True)
def executors() -> Iterator[dict[str, Any]]:
    spawn = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(WORKERS) as threads, ProcessPoolExecutor(WORKERS, mp_context=spawn) as processes:
        EXECUTORS.update(threads=threads, processes=processes, inline=InlineExecutor(), pickling=PicklingExecutor())
        yield EXECUTORS
        EXECUTORS.clear()


EXECUTORS: dict[str, Any] = {}


def mapped(way: str, fn: Callable[[Any], Any], batches: Any, **options: Any) -> Iterator[Any]:
    executor: Executor | None = EXECUTORS.get(way)
    if executor is not None:
        return parallel_map(fn, batches, executor=executor, **options)
    return parallel_map(fn, batches, mode=way, max_workers=WORKERS, **options)


def record(*path: str) -> NodeRecord:
    return NodeRecord(path, path[-1])


# Errors come out as they were raised


class OneArgument(Exception):
    """Its constructor makes of its argument what its message is made of."""

    def __init__(self, name: str) -> None:
        super().__init__(f"cannot read {name}")


class Optional(Exception):
    def __init__(self, code: int, message: str = "no message") -> None:
        super().__init__(message)
        self.code, self.message = code, message


class NoArguments(Exception):
    def __init__(self) -> None:
        super().__init__("one", 2)


class KeywordOnly(ValueError):
    def __init__(self, *, line: int) -> None:
        super().__init__(f"in line {line}")
        self.line = line


class OfTheSystem(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "there is no", path)
        self.path = path


class Slotted(Exception):
    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value

    def __str__(self) -> str:
        return f"it was {self.value}"


class Both(KeyError, AttributeError):
    pass


class Reduced(Exception):
    """Says itself how it is pickled."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__()
        self.parts = left, right

    def __str__(self) -> str:
        return f"{self.parts}"

    def __reduce__(self) -> Any:
        return Reduced, self.parts


class Frozen(Exception):
    def __init__(self, name: str) -> None:
        self.__dict__["name"] = name

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("__"):
            raise AttributeError("it is frozen")
        super().__setattr__(name, value)


class NoException(BaseException):
    """Not even an `Exception`."""


texts = st.text(max_size=8)


def making(kind: Any, *arguments: Any, **named: Any) -> Any:
    """Functions that make an error."""
    return st.builds(functools.partial, st.just(kind), *arguments, **named)


errors = st.one_of(
    making(OneArgument, texts),
    making(Optional, st.integers(), texts),
    making(NoArguments),
    making(KeywordOnly, line=st.integers()),
    making(OfTheSystem, texts),
    making(Slotted, st.integers()),
    making(Both, texts),
    making(Reduced, st.integers(), st.integers()),
    making(Frozen, texts),
    making(NoException, texts),
    st.sampled_from([ValueError, KeyError, RuntimeError, LookupError, StopAsyncIteration]).flatmap(
        lambda kind: making(kind, texts, st.integers())
    ),
    making(FileNotFoundError, st.just(2), texts, texts),
    making(UnicodeDecodeError, st.just("utf-8"), st.binary(min_size=2), st.just(0), st.just(1), texts),
    making(ImportError, texts, name=texts, path=texts),
    making(SyntaxError, texts, st.tuples(texts, st.integers(1, 9), st.integers(1, 9), texts)),
    making(asyncio.CancelledError, texts),
    making(CancelledError, texts),
    making(BrokenExecutor, texts),
    making(np.linalg.LinAlgError, texts),
)


def fail_with(error: BaseException, cause: BaseException | None) -> None:
    try:
        raise LookupError("what came before")
    except LookupError:
        error.__cause__ = cause
        raise error  # noqa: B904 the line that a user needs to see


def told(error: BaseException) -> Any:
    """All that is to be the same of an error."""
    attributes = {name: value for name, value in vars(error).items() if name != "__notes__"}
    return type(error), error.args, str(error), repr(error), attributes, getattr(error, "value", None)


@pytest.fixture(params=["", "with tblib"])
def reducers(request: pytest.FixtureRequest) -> Iterator[None]:
    """The way of tblib to pickle all errors, too, which distributed installs for the whole process."""
    with mock.patch.dict(copyreg.dispatch_table):
        if request.param:
            pytest.importorskip("tblib.pickling_support").install()
        yield


@pytest.mark.usefixtures("reducers")
@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(make=errors, cause=st.none() | errors, way=ways)
def test_an_error_is_the_one_that_was_raised_and_shows_the_lines_of_the_processor(
    make: Any, cause: Any, way: str
) -> None:
    def work(batch: Any) -> None:
        fail_with(make(), cause and cause())

    with pytest.raises(type(make())) as raised:
        list(mapped(way, work, [[1]]))
    error = raised.value
    assert told(error) == told(make())
    *_, above, last = traceback.extract_tb(error.__traceback__)
    assert (above.name, last.name) == ("work", "fail_with")
    assert above.line == "fail_with(make(), cause and cause())"  # of a function that was sent by value
    assert last.line == "raise error  # noqa: B904 the line that a user needs to see"
    assert error.__cause__ is None if cause is None else told(error.__cause__) == told(cause())
    assert isinstance(error.__context__, LookupError)
    assert traceback.extract_tb(error.__context__.__traceback__)[-1].name == "fail_with"


@pytest.mark.parametrize("way", WAYS)
def test_what_can_not_be_pickled_of_an_error_stays_behind_and_a_note_says_so(way: str) -> None:
    def work(batch: Any) -> None:
        error = OneArgument("clip.wav")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error from ValueError(threading.Lock())

    with pytest.raises(OneArgument, match=r"^cannot read clip\.wav") as raised:
        list(mapped(way, work, [[1]]))
    cause = raised.value.__cause__
    if way in ELSEWHERE:
        assert "its attribute 'lock' can't be pickled" in raised.value.__notes__[0]
        assert isinstance(cause, ProcessorError)
        assert str(cause).startswith("ValueError: <unlocked _thread.lock")
    else:
        assert isinstance(cause, ValueError)


@pytest.mark.parametrize("way", ELSEWHERE)
def test_an_error_that_can_not_travel_at_all_is_quoted(way: str) -> None:
    def work(batch: Any) -> None:
        raise ValueError(threading.Lock())

    with pytest.raises(ProcessorError, match="^ValueError: <unlocked _thread.lock") as raised:
        list(mapped(way, work, [[1]]))
    assert any("in work" in note for note in raised.value.__notes__)


@pytest.mark.parametrize("way", ["process", "processes"])
@pytest.mark.parametrize("place", ["the output", "attribute 'more'"])
def test_a_result_that_can_not_be_sent_back_says_which_part_of_it_and_what_to_do(way: str, place: str) -> None:
    def work(record: NodeRecord) -> ProcessResult:
        lazy = (number for number in range(3))
        if record.key != "bad":
            return ProcessResult(record.path, output=1)
        return ProcessResult(
            record.path, **({"output": lazy} if place == "the output" else {"attributes": {"more": lazy}})
        )

    batch = [record("good"), record("ann", "bad")]
    message = rf"{place} of the result at ann/bad can't be sent back .*generator.* make a list of it"
    with pytest.raises(NotPicklableError, match=message):
        list(mapped(way, each(work), [batch]))
    good, bad = next(mapped(way, each(work), [batch], on_error="collect"))
    assert (good.output, bad.path, bad.error) == (1, ("ann", "bad"), "NotPicklableError")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups of errors came with Python 3.11")
@pytest.mark.parametrize("way", WAYS)
def test_the_errors_of_a_group_are_as_they_were_raised(way: str) -> None:
    def work(batch: Any) -> None:
        raise ExceptionGroup("two", [OneArgument("a"), Optional(404, "gone")])  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(Exception, match="two") as raised:
        list(mapped(way, work, [[1]]))
    first, second = raised.value.exceptions  # type: ignore[attr-defined]
    assert told(first) == told(OneArgument("a"))
    assert told(second) == told(Optional(404, "gone"))


@pytest.mark.parametrize("way", WAYS)
def test_a_cancellation_is_an_error_like_others(way: str) -> None:
    def work(number: int) -> int:
        if number == 1:
            raise asyncio.CancelledError("stopped")
        return number

    first, failed, last = next(mapped(way, each(work), [[0, 1, 2]], on_error="collect", retries=1))
    assert (first, last) == (0, 2)
    assert isinstance(failed, Failure)
    assert (failed.error, failed.message, failed.attempts) == ("CancelledError", "stopped", 2)
    with pytest.raises(asyncio.CancelledError, match="^stopped") as raised:
        list(mapped(way, each(work), [[0, 1, 2]]))
    assert raised.value.__notes__ == [
        "lotproc: at int 1, record 1 of its batch",
        "lotproc: in batch 0, int 0 to int 2",
    ]


@pytest.mark.parametrize("way", WAYS)
def test_an_error_in_a_generator_of_one_record_names_the_record(way: str) -> None:
    def parts(record: NodeRecord) -> Iterator[ProcessResult]:
        yield ProcessResult(record.path, output=1)
        raise ValueError("a bad clip")

    with pytest.raises(ValueError, match="a bad clip") as raised:
        list(mapped(way, each(parts), [[record("ann", "bad")]]))
    assert raised.value.__notes__[0] == "lotproc: at ann/bad, record 0 of its batch"


class Unspeakable:
    """Nobody may ask for its words."""

    def __repr__(self) -> str:
        raise AssertionError("it was put into words")

    def __reduce__(self) -> Any:
        return Unspeakable, ()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("on_error", ["raise", "skip", "collect", len])
def test_nothing_is_put_into_words_before_it_is_needed(way: str, on_error: Any) -> None:
    batches = [[Unspeakable(), Unspeakable()], (Unspeakable(),), Unspeakable()]
    results = mapped(way, lambda batch: 1, batches, on_error=on_error)
    assert list(results) == [1, 1, 1]
    assert list(mapped(way, each(lambda item: 2), batches[:2], on_error=on_error)) == [[2, 2], [2]]


# The caller's context


def arithmetic(batch: Any) -> Any:
    context = decimal.getcontext()
    traps = sorted(signal.__name__ for signal, is_trapped in context.traps.items() if is_trapped)
    return (
        np.geterr(),
        context.prec,
        context.rounding,
        context.Emin,
        context.Emax,
        context.capitals,
        context.clamp,
        traps,
    )


numpy_settings = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("divide", "over", "under", "invalid"), st.sampled_from(["ignore", "warn", "raise"]))
)
decimal_settings = st.builds(
    decimal.Context,
    prec=st.integers(1, 60),
    rounding=st.sampled_from([decimal.ROUND_HALF_EVEN, decimal.ROUND_DOWN, decimal.ROUND_CEILING]),
    Emax=st.integers(0, 999),
    traps=st.lists(st.sampled_from([decimal.Inexact, decimal.DivisionByZero, decimal.Overflow]), unique=True),
)


@contextmanager
def calculating(numpy: dict[str, Any], context: decimal.Context | None) -> Iterator[None]:
    with np.errstate(**numpy), decimal.localcontext(context or decimal.getcontext()):
        yield


@settings(max_examples=examples(80))
@given(way=ways, numpy=numpy_settings, context=st.none() | decimal_settings)
def test_arithmetic_is_that_of_the_caller_when_the_result_is_asked_for(
    way: str, numpy: dict[str, Any], context: decimal.Context | None
) -> None:
    with calculating({"all": "ignore"}, decimal.Context(prec=3)):
        results = mapped(way, arithmetic, [[0], [1]], buffersize=1)  # made with others
    with calculating(numpy, context):
        assert next(results) == arithmetic([0])
    assert next(results) == arithmetic([1])
    results.close()  # type: ignore[attr-defined]


def upset(batch: Any) -> None:
    np.seterr(all="raise")
    decimal.getcontext().prec = 2
    assert decimal.Decimal(1) / 3 == decimal.Decimal("0.33")


@pytest.mark.parametrize("way", [way for way in WAYS if way != "sync"])
def test_a_processor_that_changes_arithmetic_changes_its_own(way: str) -> None:
    before = arithmetic([]), decimal.getcontext().flags[decimal.Inexact]
    list(mapped(way, upset, [[0], [1]]))
    assert (arithmetic([]), decimal.getcontext().flags[decimal.Inexact]) == before
    assert list(mapped(way, arithmetic, [[0], [1]])) == [before[0]] * 2


def strict() -> None:
    np.seterr(divide="raise")
    decimal.getcontext().prec = 7


@pytest.mark.parametrize("mode", MODES)
def test_arithmetic_that_an_initializer_sets_holds_for_all_batches(mode: str) -> None:
    with calculating({}, None):
        for seen, precision, *_ in parallel_map(arithmetic, [[0], [1], [2]], mode=mode, initializer=strict):
            assert (seen["divide"], precision) == ("raise", 7)


def called_back(kind: str, flag: int) -> None:
    raise ArithmeticError(f"numpy says {kind}")


@pytest.mark.parametrize("way", WAYS)
def test_an_error_callback_of_numpy_is_called_where_the_work_is_done(way: str) -> None:
    with (
        np.errstate(divide="call", call=called_back),
        pytest.raises(ArithmeticError, match="numpy says divide by zero"),
    ):
        list(mapped(way, lambda batch: np.array([1.0]) / 0.0, [[1]]))


locale = contextvars.ContextVar("locale", default="none")
opened = contextvars.ContextVar("opened", default="nothing")


@pytest.mark.parametrize("way", ["sync", "thread", "threads"])
def test_context_variables_of_the_caller_are_there_on_threads(way: str) -> None:
    def seen(batch: Any) -> str:
        value = locale.get()
        locale.set("changed")
        return value

    results = mapped(way, seen, [[0], [1]], buffersize=1)
    for value in ("one", "two"):
        token = locale.set(value)
        assert next(results) == value
        locale.reset(token)
    assert locale.get() in ("none", "changed")
    locale.set("none")


def test_context_variables_that_an_initializer_sets_are_there_too() -> None:
    token = locale.set("the caller's")
    seen = parallel_map(
        lambda batch: (locale.get(), opened.get()),
        [[0], [1], [2]],
        mode="thread",
        max_workers=WORKERS,
        initializer=lambda: opened.set("a file") and None,
    )
    assert set(seen) == {("the caller's", "a file")}
    locale.reset(token)


# Random numbers


paths = st.lists(st.text(max_size=4), max_size=4).map(tuple)


@settings(deadline=None)
@given(path=paths, other=paths, seed=st.integers(0, 1 << 200), other_seed=st.integers(0, 1 << 200))
def test_random_numbers_depend_on_the_path_and_the_seed_alone(
    path: tuple[str, ...], other: tuple[str, ...], seed: int, other_seed: int
) -> None:
    first = rng(NodeRecord(path, "a", {"seconds": 1.0}), seed=seed).bytes(16)
    assert rng(ProcessResult(path), seed=seed).bytes(16) == first
    assert (rng(NodeRecord(other, "b"), seed=other_seed).bytes(16) == first) == ((path, seed) == (other, other_seed))


def test_a_live_node_has_the_random_numbers_of_its_record() -> None:
    node = BaseNode("root").gns(["ann", "clip"])
    assert rng(node).bytes(8) == rng(record("ann", "clip")).bytes(8)


@settings(max_examples=examples(20))
@given(size=st.integers(1, 12), way=ways)
def test_random_features_are_the_same_with_any_batches_and_workers(size: int, way: str) -> None:
    records = [record(f"clip_{number}") for number in range(12)]
    batches = [records[start : start + size] for start in range(0, 12, size)]
    drawn = [
        value for batch in mapped(way, each(lambda record: rng(record, seed=3).random()), batches) for value in batch
    ]
    assert drawn == [rng(record, seed=3).random() for record in records]
    assert len(set(drawn)) == 12


@pytest.mark.parametrize(
    ("call", "expected", "message"),
    [
        (lambda: rng(3), ArgumentTypeError, "rng: expected a node or a record, got int 3"),
        (lambda: rng(record("a"), seed=1.5), ArgumentTypeError, "rng: seed must be a whole number, got float 1.5"),
        (lambda: rng(record("a"), seed=-1), ArgumentError, "rng: seed must be at least 0, got -1"),
    ],
)
def test_what_has_no_random_numbers_is_refused(call: Any, expected: type[Exception], message: str) -> None:
    with pytest.raises(expected) as raised:
        call()
    assert str(raised.value) == message


shared = np.random.default_rng(0)


def of_the_module(batch: Any) -> float:
    return float(shared.random())


def drawing(generator: Any) -> Callable[[Any], Any]:
    return lambda batch: generator.random()


GENERATORS: dict[str, Any] = {
    "in a closure": drawing(np.random.default_rng(0)),
    "of the old kind": drawing(np.random.RandomState(0)),
    "of Python": drawing(random.Random(0)),
    "under each": each(drawing(np.random.default_rng(0))),
    "in a module": of_the_module,
}


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("way", ["process", "processes", "inline"])
def test_a_generator_that_goes_to_workers_draws_a_warning_at_the_users_line(kind: str, way: str) -> None:
    with pytest.warns(UserWarning, match=r"use lotproc\.rng\(record\)") as caught:
        mapped(way, GENERATORS[kind], [[1]])
    assert {warning.filename for warning in caught} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="rng"):
            mapped(way, GENERATORS[kind], [[1]])
        for here in ("sync", "thread", "threads"):
            list(mapped(here, GENERATORS[kind], [[1]]))


# No stderr


@pytest.mark.parametrize("kind", ["none", "closed"])
def test_a_bar_that_has_nowhere_to_be_shown_ends_nothing(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", None if kind == "none" else closed)
    assert list(progress([1, 2, 3])) == [1, 2, 3]
    root = BaseNode("root")
    root.gn("a").set_attribute("x", 1)
    for shown in (True, None):
        assert copy(root, DirectoryStore(tmp_path / str(shown)), progress=shown).written == 1
