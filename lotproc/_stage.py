"""What makes a function a stage: the data comes last, and without it the call waits for it.

A stage is written as a function of its options that checks them and returns the function of the data:

    @stage("items")
    def chunked(n):
        check_count("chunked", "n", n)     # at once, whether the data is there or not

        def run(items):                    # when the data is there
            ...

        return run

`chunked(128, items)` runs; `chunked(128)` is a `Stage` that waits for the items. `where("unit")` waits for more than
the data, so nothing is checked yet. Because a `Stage` is only a name and arguments, it pickles whenever its arguments
do.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from numbers import Integral
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from ._is_node import is_node
from ._items import no_item
from ._public import public
from ._showing import Call, inside, is_used_up, positional_in, to_come, told
from ._spelling import check_names, spelled
from ._tracebacks import cut_short
from .errors import ArgumentError, ArgumentTypeError, NotPicklableError, brief, got, unwarned, warn
from .models import NodeRecord, Place

if TYPE_CHECKING:
    from lotdb import BaseNode

    from ._own_stages import Decorates

__all__ = [
    *("MayHoldRoot", "Stage", "check_choice", "check_count", "check_function", "check_items", "check_on_error"),
    *("check_open", "check_record", "check_root", "root_hint", "stage", "until_closed"),
]

T = TypeVar("T")

#: Arguments that may be several values, and so an iterator of them.
_SEVERAL = frozenset({"names", "inherit", "where", "depths"})


class MayHoldRoot:
    """What may hold a node of a live tree, and can't be pickled then: the pickle would hold a copy of the whole tree.

    `copy.copy` and `copy.deepcopy` make one that holds the same node.
    """

    def _held(self) -> Iterable[Any]:
        """What may be such a node."""
        return vars(self).values()

    def __reduce_ex__(self, protocol: Any) -> Any:
        for node in self._held():
            if is_node(node):
                raise NotPicklableError(
                    f"{self!r} can't be pickled, since it holds the live node {brief(node)}: where it is loaded, it "
                    "would work on a copy of the tree, and nothing of that reaches the database",
                    hint="make it where it runs, with a node of a database that is opened there, or let workers return "
                    "results, and write() them here. Of a tree without uncommitted changes, a pending() goes as a "
                    "reference to its file or its server, and a write() to a server that open_root() opened",
                )
        return super().__reduce_ex__(protocol)

    def __copy__(self) -> Any:
        return self._made_of(vars(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        memo.update({id(node): node for node in self._held() if is_node(node)})
        return self._made_of(deepcopy(vars(self), memo))

    def _made_of(self, state: Mapping[str, Any]) -> Any:
        """Another one of this class, with these attributes."""
        made = object.__new__(type(self))
        vars(made).update(state)
        return made


class _OfInstances:
    """An attribute that each stage makes of itself; the class has its own."""

    def __init__(self, make: Callable[[Stage], Any], of_class: Any = None) -> None:
        self._make, self._of_class = make, of_class

    def __get__(self, stage: Stage | None, kind: type) -> Any:
        if stage is not None:
            return self._make(stage)
        if self._of_class is None:
            raise AttributeError("only a stage has it")
        return self._of_class


class Stage(MayHoldRoot):
    """A stage with all its arguments but the data: call it with the data.

    >>> from lotproc import chunked
    >>> pairs = chunked(2)
    >>> pairs
    chunked(2)
    >>> list(pairs("abc"))
    [['a', 'b'], ['c']]
    """

    #: What `help`, `?` and completion show: that of the function, with what is still to come.
    __doc__ = _OfInstances(lambda stage: stage._help(), __doc__)
    __signature__ = _OfInstances(lambda stage: to_come(stage._as_call()))

    def __init__(
        self, function: Callable[..., Any], given: dict[str, Any], ready: Callable[[Any], Any] | None = None
    ) -> None:
        #: The stage's function, its arguments so far, and what takes the data once all others are there and checked.
        self.function, self.given, self.ready = function, given, ready

    @property
    def run(self) -> Callable[[Any], Any] | None:
        """The function of the data that its options gave, if these are all there."""
        return self.ready.args[-1] if isinstance(self.ready, functools.partial) else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if self.ready and len(args) == 1 and not kwargs:
            return self.ready(args[0])
        positional = positional_in(inspect.signature(self.function))
        free = [name for name in positional if name not in self.given and name not in kwargs]
        if len(args) > len(free):
            raise ArgumentTypeError(f"{self!r} takes {' and '.join(free) or 'no argument'}, got {len(args)} arguments")
        return self.function(**{**self.given, **dict(zip(free, args, strict=False)), **kwargs})

    def __getitem__(self, index: object) -> NoReturn:
        """Refuse to be iterated, with what it waits for; with an `__iter__` it would pass for an iterable."""
        waits = [name for name in positional_in(inspect.signature(self.function)) if name not in self.given]
        raise ArgumentTypeError(f"{self!r} still waits for {' and '.join(waits)}")

    def __repr__(self) -> str:
        return str(self._as_call())

    @property
    def holds(self) -> str:
        """What it holds while it runs, as its docstring says."""
        return self._as_call().holds

    def _repr_html_(self) -> str:
        from ._html import block, boxes  # here, since a worker shows nothing

        return block(boxes([(repr(self), self.holds)]))

    def _help(self) -> str:
        return f"{self!r}{to_come(self._as_call())}\n\n{inspect.cleandoc(self.function.__doc__ or '')}"

    def _as_call(self) -> Call:
        return Call(self.function, self.given)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name[:1] != "_" or name[:2] == "__"]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stage):
            return NotImplemented
        try:
            return self.function is other.function and self.given == other.given
        except ValueError:  # arrays among the arguments have no one answer
            return False

    def __hash__(self) -> int:
        return hash((self.function, frozenset(self.given)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _call, (self.function, self.given)

    def __reduce_ex__(self, protocol: Any) -> Any:
        name: str = getattr(self.function, "place", None) or ""
        root = self.given.get(name)
        if is_node(root):
            from ._places import is_file, place_of  # here, as in `check_open`

            place = place_of(root)
            is_written = name == "target"  # which one process alone can do with a file
            if place is not None and not (is_written and is_file(place)):
                return _call, (self.function, {**self.given, name: place})
        return super().__reduce_ex__(protocol)

    def _held(self) -> Iterable[Any]:
        return self.given.values()

    def _made_of(self, state: Mapping[str, Any]) -> Any:
        return _call(state["function"], state["given"])


def _call(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    with unwarned():
        return function(**given)


@overload
def stage(data: str) -> Decorates: ...
@overload
def stage(data: str, **of_ours: Any) -> Callable[[Callable[..., Callable[[Any], Any]]], Callable[..., Any]]: ...
@public  # type: ignore[misc]  # the options are those of lotproc's own stages, and of no interest to others
@spelled
def stage(
    data: str,
    *,
    also: type | None = None,
    stream: str | None = None,
    place: str | None = None,
    single: str | None = None,
    instead: tuple[str, str] | None = None,
) -> Callable[[Callable[..., Callable[[Any], Any]]], Callable[..., Any]]:
    """Make a function of options, which returns a function of the data, into a stage.

    >>> from lotproc import stage
    >>> @stage("items")
    ... def every(n):
    ...     if n < 1:
    ...         raise ValueError("every: n must be 1 or more")
    ...     def run(items):
    ...         for index, item in enumerate(items):
    ...             if index % n == 0:
    ...                 yield item
    ...     return run
    >>> list(every(2, "abcde"))
    ['a', 'c', 'e']
    >>> every(2)
    every(2)
    >>> list(every(2)("abcde"))
    ['a', 'c', 'e']

    The function is called with the options as soon as all positional ones are there, and checks them; what it returns
    is called with the data. Options with defaults are keyword-only. What is given in place of the data and can't be, a
    node for an iterable say, is refused. An iterator that the stage returns closes the data's, when it is closed.

    Args:
        data: The name of the data argument: "root" for a tree, else the name of an iterable.
        also: What the stage takes in place of a root.
        stream: An argument that is read as a stream, too: an iterator there is used once, for other data than itself,
            and closed with the result. Among the others, an iterator of several values becomes a tuple.
        place: An argument that may be a root, and becomes its `Place` where the stage is pickled.
        single: An option without which the data is one item, and not an iterable of them.
        instead: A positional argument, and the option that may be given in place of it.

    Returns:
        A decorator. The stage gives what the inner function gives, or without the data a `Stage` that waits for it, and
        that pickles where its arguments do and the stage can be imported.

    Raises:
        ArgumentTypeError: The function has a positional option with a default, `*args` or `**kwargs`, behind which the
            data could not be told.
    """

    if not isinstance(data, str) or not data.isidentifier():
        raise ArgumentTypeError(
            "stage: data", expected="the name of the data", got=got(data), hint='write @stage("records"), say'
        )

    def decorate(options: Callable[..., Callable[[Any], Any]]) -> Callable[..., Any]:
        check_function("stage", "the function of the options", options, "a function")
        is_ours = options.__module__.startswith("lotproc.") and not options.__name__.startswith("_")
        if not is_ours:
            _check_options(options, data)
        signature = _with_data(inspect.signature(options), data)
        plain = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
        shape = f"{options.__name__}{signature.replace(parameters=plain)}"
        positional = positional_in(signature)

        @functools.wraps(options)
        def call(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True  # for IPython and pytest
            if kwargs:
                check_names(options.__name__, kwargs, signature.parameters)
            try:
                given = signature.bind_partial(*args, **kwargs).arguments
            except TypeError as error:
                raise ArgumentTypeError(f"{shape}: {error}") from None
            for name, value in given.items():
                if name not in (data, stream) and isinstance(value, Iterator):  # which could be used only once
                    if name in _SEVERAL:
                        given[name] = tuple(value)
                    elif not callable(value):  # it is the data, most of the time, and nothing of it is pulled
                        in_order = f"{options.__name__}({', '.join(positional)})"
                        raise ArgumentTypeError(
                            f"{options.__name__}: {name}",
                            "can't be an iterator",
                            got=got(value),
                            hint=f"the data comes last: {in_order}",
                        )
            here = {*given, *([instead[0]] if instead and instead[1] in given else [])}
            missing = [name for name in positional if name not in here]
            if len(missing) == len(positional) > 1:
                raise ArgumentTypeError(f"{shape} needs at least {positional[0]!r}")
            if missing and missing != [data]:
                return Stage(call, given)  # curried further: more than the data is still to come
            chosen = {name: value for name, value in given.items() if name != data}
            try:
                run = options(**chosen)
            except Exception as error:
                cut_short(error)
                raise error
            if not callable(run):
                what = f"must return the function of its {data}, got {got(run)}"
                raise ArgumentTypeError(f"{options.__name__}: the function that stage() was given {what}")
            if stream and isinstance(given.get(stream), Iterator):
                _warn_if_used_up(options.__name__, stream, given[stream])
                run = _once(options.__name__, stream, inside(given[stream]), run)
            kind = "item" if single and given.get(single) is None else data
            ready = functools.partial(_feed, call, chosen, kind, also, run)
            return Stage(call, given, ready) if missing else ready(given[data])

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.place = place  # type: ignore[attr-defined]
        return public(call) if is_ours else call

    return decorate


def _check_options(options: Callable[..., Any], data: str) -> None:
    """Refuse a function whose options can't be told from the data that comes behind them."""
    for name, parameter in inspect.signature(options).parameters.items():
        if name == data:
            what = f"options without {data!r}: the data is the argument of the function that it returns"
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            what = "options that have names, each of its own"
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is not parameter.empty:
            what = f"an option with a default behind a *, as in {options.__name__}(*, {name}=...)"
        else:
            continue
        raise ArgumentTypeError(f"stage: {options.__name__}():", expected=what, got=str(parameter))


def _with_data(signature: inspect.Signature, data: str) -> inspect.Signature:
    """The signature with the data as its last positional argument."""
    parameters = list(signature.parameters.values())
    last = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    parameters[:last] = [parameter.replace(default=parameter.empty) for parameter in parameters[:last]]
    parameters.insert(last, inspect.Parameter(data, inspect.Parameter.POSITIONAL_OR_KEYWORD))
    return signature.replace(parameters=parameters, return_annotation=signature.empty)


def _feed(
    function: Callable[..., Any],
    given: Mapping[str, Any],
    data: str,
    also: type | None,
    run: Callable[[Any], Any],
    value: Any,
) -> Any:
    """Give a stage its data, if it is what the stage works on; an iterator that comes of it tells what it is."""
    __tracebackhide__ = True
    if data not in ("root", "item"):
        _warn_if_used_up(function.__name__, data, value)
    # The next stage reads what is inside of such a one: so it costs something at the end of a pipeline only.
    try:
        result = _fed(function.__name__, data, also, run, inside(value))
    except BaseException as error:
        cut_short(error)
        raise error  # with the lines that are left, on Python 3.10, too
    return told(result, value, function, given) if data != "item" and isinstance(result, Iterator) else result


def _fed(name: str, data: str, also: type | None, run: Callable[[Any], Any], value: Any) -> Any:
    if data == "root":
        if also is None or not isinstance(value, also):
            check_root(name, value)
        return run(value)
    if data in ("source", "item"):  # a store or a root, or one item; it says itself what it takes
        return run(value)
    check_items(name, data, value)
    try:
        result = run(value)
    except BaseException:
        _close(value)
        raise
    return until_closed(result, lambda: _close(value)) if isinstance(result, Iterator) else result


def _warn_if_used_up(name: str, data: str, items: object) -> None:
    """Warn of an iterator of ours that has no more to give, as in a cell of a notebook that is run a second time."""
    if is_used_up(items):
        what = data if data.endswith("s") else "items"
        warn(f"{name}: its {what}, {items!r}, were used up before; make them again, or keep them in a list")


def _once(name: str, argument: str, stream: Iterator[Any], run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function of the data, where an iterator is read beside these."""
    unused = [stream]

    def once(value: Any) -> Any:
        if value is stream:
            raise ArgumentError(f"{name}: both sides are the same iterator", hint="give each side a scan of its own")
        if not unused:
            raise ArgumentError(
                f"{name}: {argument} is an iterator, which was used before", hint=f"give a list, or call {name}() again"
            )
        unused.clear()
        return until_closed(run(value), lambda: _close(stream))

    return once


def check_items(name: str, data: str, items: object) -> None:
    """Refuse what is no iterable of items, with what to do."""
    if is_node(items):
        raise ArgumentTypeError(
            f"{name}: {data}",
            expected="an iterable",
            got=f"the node {items.key!r}",
            hint="put scan(), leaves(), level() or walk() in front, or a list around it",
        )
    if isinstance(items, Stage):
        raise ArgumentTypeError(
            f"{name}: {data}", expected="an iterable", got=f"the stage {items!r}, which still waits for its own data"
        )
    if not isinstance(items, Iterable):
        hint = "put chunked(n) in front" if isinstance(items, NodeRecord) else None
        if isinstance(items, Place):
            hint = "scan it first: compose_left(scan(...), ...)"
        raise ArgumentTypeError(f"{name}: {data}", expected="an iterable", got=got(items), hint=hint)
    if isinstance(items, (str, bytes)) and data in ("nodes", "records", "files"):
        hint = f'several names go in a list, as in {name}(["a", "b"])' if data == "nodes" else None
        raise ArgumentTypeError(
            f"{name}: {data}",
            expected=f"an iterable of {data}",
            got=got(items),
            hint=hint,
        )


def until_closed(items: Iterator[T], close: Callable[[], object]) -> Iterator[T]:
    """The same items; at their end, or when they are closed or dropped, begun or not, `close` is called."""

    def given() -> Iterator[Any]:
        try:
            yield  # which is reached now: a generator that has not begun knows of no end
            yield from items
        except Exception as error:
            cut_short(error)
            raise error
        finally:
            close()

    begun = given()
    next(begun)
    return begun


def _close(items: Iterable[Any]) -> None:
    if isinstance(items, Iterator) and hasattr(items, "close"):
        items.close()


def check_record(name: str, record: object, why: str) -> None:
    """Refuse what is no record, or one that has been through `pending(inputs=True)`, and say why that can't be."""
    if not isinstance(record, NodeRecord):
        raise no_item(name, record, "a NodeRecord")
    if record.inputs is not None:
        raise ArgumentError(
            f"{name}: the record",
            f"has been through pending(inputs=True), {why}",
            path=record.path,
            hint=f"put {name}() in front of pending()",
        )


def check_root(name: str, root: object, expected: str = "a lotdb node as the root of a tree") -> None:
    """Refuse a root that is no node of a tree."""
    if not is_node(root):
        hint = None
        if hasattr(root, "open_connection"):
            hint = "open it first: root = db.open_connection()"
        elif isinstance(root, (str, PurePath)):
            hint = "open it first: with lotproc.open_root(...) as root:"
        elif type(root).__module__ == "lotproc.opening":  # what open_root() gives, of which nothing is known here
            hint = root.hint  # type: ignore[attr-defined]
        elif isinstance(root, Place):
            hint = "only scan(), pending() and write() take places"
        elif isinstance(root, (list, tuple)) and root and isinstance(root[0], Place):
            hint = "give partitions one by one, as parallel_map(compose_left(scan(...), ...)) does"
        raise ArgumentTypeError(f"{name}:", expected=expected, got=got(root), hint=hint)
    check_open(name, root)


def check_open(name: str, root: BaseNode) -> None:
    """Refuse a node of a tree whose connection is closed."""
    from ._nodes import is_closed  # here, where there is a node: a worker that gets none starts without lotdb

    if is_closed(root):
        raise ArgumentError(
            f"{name}: the connection of its root is closed", hint="open it again, and take the root from there"
        )


def check_count(name: str, argument: str, value: object, minimum: int = 1) -> None:
    """Refuse what is no whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        hint = root_hint(name, value)
        raise ArgumentTypeError(f"{name}: {argument}", expected="a whole number", got=got(value), hint=hint)
    if value < minimum:
        raise ArgumentError(f"{name}: {argument}", expected=f"at least {minimum}", got=f"{value}")


def root_hint(name: str, value: object) -> str | None:
    """What to do if an argument is a root that came too early."""
    return f"the root comes last: {name}(..., root)" if is_node(value) else None


def check_function(name: str, argument: str, value: object, expected: str) -> None:
    """Refuse what can't be called."""
    if not callable(value):
        raise ArgumentTypeError(f"{name}: {argument}", expected=expected, got=got(value))


def check_choice(name: str, argument: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is none of the words that an option knows."""
    if not isinstance(value, str) or value not in choices:
        raise ArgumentError(f"{name}: {argument}", expected=f"one of {', '.join(map(repr, choices))}", got=f"{value!r}")


def check_on_error(name: str, on_error: object) -> None:
    """Refuse what says nothing of what becomes of what fails."""
    if not callable(on_error):
        check_choice(name, "on_error", on_error, ("raise", "skip", "collect"))
