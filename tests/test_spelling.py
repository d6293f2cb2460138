"""A wrong keyword is refused with the nearest that there is, by whatever is public and is called with keywords."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from lotdb import BaseNode

import lotproc as lp
from lotproc._spelling import spelled

#: Values that lotproc makes, or that go through a pipeline by the million: each costs twice as much to make where names
#: are looked at. Python's own error tells the wrong name, and from 3.13 on the nearest.
VALUES = {
    *("Accumulator", "Change", "Commit", "DirectoryEntry", "EntryStat", "Failure", "FileFailure", "IndexedFile"),
    *("IngestReport", "MapReport", "NodeRecord", "Partition", "PathTable", "PayloadCopy", "PayloadHandle", "Pipeline"),
    *("Place", "ProcessResult", "RunSummary", "Status", "Store", "StoredPayload", "TreeView", "WorkerInfo", "Write"),
    "WriteReport",
}
#: Those of toolz, whose arguments have no names.
OTHERS = {"compose_left", "pipe"}

METHODS: dict[str, Callable[..., Any]] = {
    f"Pipeline.{name}": function
    for name, function in vars(lp.Pipeline).items()
    if inspect.isfunction(function) and name[0] != "_" and len(inspect.signature(function).parameters) > 1
}
CALLABLES: dict[str, Callable[..., Any]] = {
    **{
        name: thing
        for name in lp.__all__
        if callable(thing := getattr(lp, name))
        and name not in VALUES | OTHERS
        and not (isinstance(thing, type) and issubclass(thing, BaseException))
    },
    **{f"folds.{name}": getattr(lp.folds, name) for name in lp.folds.__all__ if name != "Fold"},
    **METHODS,
}


def named_in(function: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind in kinds and each.name != "self"]


def takes_any(function: Callable[..., Any]) -> bool:
    kinds = {each.kind for each in inspect.signature(function).parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds


@pytest.mark.parametrize("function", CALLABLES.values(), ids=CALLABLES)
@given(data=st.data())
def test_a_slip_of_the_pen_is_told_with_the_nearest_name(function: Callable[..., Any], data: st.DataObject) -> None:
    if takes_any(function):
        return
    names = named_in(function)
    long = [name for name in names if len(name) > 3]
    name = data.draw(st.sampled_from(long or ["nothing_like_it"]))
    place = data.draw(st.integers(0, len(name) - 1))
    wrong = data.draw(
        st.sampled_from([name[:place] + name[place + 1 :], name[:place] + "x" + name[place:], f"{name}s", f"{name}_"])
    )
    if wrong in names:
        return
    given_self = [BaseNode("self")] if function in METHODS.values() else []
    with pytest.raises(lp.ArgumentTypeError) as caught:
        function(*given_self, **{wrong: None})
    said = str(caught.value)
    assert repr(wrong) in said
    assert caught.value.hint is not None
    if long:
        assert any(f"did you mean {near!r}" in said for near in names)
    else:
        assert all(each in caught.value.hint for each in names)
    assert str(pickle.loads(pickle.dumps(caught.value))) == said


@pytest.mark.parametrize("function", CALLABLES.values(), ids=CALLABLES)
def test_a_name_like_no_other_is_told_with_all_that_there_are(function: Callable[..., Any]) -> None:
    if not takes_any(function):
        with pytest.raises(lp.ArgumentTypeError) as caught:
            function(*([None] if function in METHODS.values() else []), zzz=None)
        assert caught.value.hint == f"it takes {', '.join([*named_in(function), *stars(function)]) or 'none'}"


def stars(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [str(each).partition(":")[0] for each in parameters if each.kind is each.VAR_POSITIONAL]


def test_classes_that_are_called_by_users_are_no_values() -> None:
    made = {name for name in VALUES if is_dataclass(getattr(lp, name)) or name in ("Store", "PathTable", "TreeView")}
    assert VALUES - made == {"DirectoryEntry", "StoredPayload"}  # which stores make


def test_a_wrong_name_comes_before_what_it_is_called_with(tmp_path: Path) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="did you mean 'create'"):
        lp.open_root(str(tmp_path / "corpus.fs"), creat=True)  # type: ignore[call-arg]
    assert not list(tmp_path.iterdir())


def test_arguments_have_the_names_and_signatures_that_they_had() -> None:
    def made(a: int, *, b: int = 2) -> int:
        return a * b

    told: Any = spelled(made)
    assert inspect.signature(told) == inspect.signature(made)
    assert told(3) == made(3)
    assert told(a=3, b=4) == made(3, b=4)
    with pytest.raises(TypeError, match="missing 1 required"):
        told(b=3)
    assert pickle.loads(pickle.dumps(lp.index_files)) is lp.index_files
