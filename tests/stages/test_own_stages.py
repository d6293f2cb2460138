"""Stages that others make with `stage`, and put in a row with `pipe`: they have what ours have."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st
from lotdb import BaseNode
from toolz import pipe

import lotproc as lp


@lp.stage("items")
def every(n: int, *, start: int = 0) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """Keep one item of `n`."""
    if n < 1:
        raise ValueError("every: n must be 1 or more")

    def run(items: Iterable[Any]) -> Iterator[Any]:
        for index, item in enumerate(items):
            if index % n == start % n:
                yield item

    return run


@given(n=st.integers(1, 5), start=st.integers(0, 7), items=st.lists(st.integers()), cuts=st.integers(0, 9))
def test_it_is_the_function_that_it_was_made_of(n: int, start: int, items: list[int], cuts: int) -> None:
    expected = items[start % n :: n]
    assert list(every(n, items, start=start)) == list(every(n, start=start)(items)) == expected
    assert list(pickle.loads(pickle.dumps(every(n, start=start)))(items)) == expected
    assert list(lp.pipe(items, every(n, start=start), lp.chunked(3))) == [
        expected[i : i + 3] for i in range(0, len(expected), 3)
    ]
    assert lp.compose_left(every(1), every(n, start=start), list)(items) == expected
    pulled: list[int] = []
    closed: list[bool] = []

    def source() -> Iterator[int]:
        try:
            for item in items:
                pulled.append(item)
                yield item
        finally:
            closed.append(True)

    given_items = every(n, start=start)(source())
    assert not pulled
    assert [item for item, _ in zip(given_items, range(cuts))] == expected[:cuts]  # noqa: B905
    assert len(pulled) <= min(len(items), max(0, cuts) * n + start % n + n)
    given_items.close()
    assert closed == [True] or not pulled


def test_it_says_what_it_is_and_refuses_what_it_can_not_take() -> None:
    assert repr(every(2, start=1)) == "every(2, start=1)"
    assert every(2) == every(2) != every(3)
    assert every.__doc__ == "Keep one item of `n`."
    with pytest.raises(ValueError, match="1 or more"):
        every(0)
    for wrong in (lambda: every(2, strat=1), lambda: every(2, BaseNode("root")), lambda: every(2, 5), lambda: every()):
        with pytest.raises(lp.ArgumentTypeError):
            wrong()


def test_functions_whose_data_could_not_be_told() -> None:
    for wrong in (lambda n=2: print, lambda *args: print, lambda **options: print, lambda n, /: print):
        with pytest.raises(lp.ArgumentTypeError) as raised:
            lp.stage("items")(wrong)
        assert "(): expected" in str(raised.value)

    for data in (3, "", "two words", lambda n: print):  # the last is a decorator without the name
        with pytest.raises(lp.ArgumentTypeError) as raised:
            lp.stage(data)  # type: ignore[call-overload]
        assert "@stage" in (raised.value.hint or "")
    with pytest.raises(lp.ArgumentTypeError, match="options without 'items'"):
        lp.stage("items")(lambda items: print)

    @lp.stage("items")
    def forgetful(n: int) -> Any:
        """Return nothing."""

    with pytest.raises(lp.ArgumentTypeError, match="must return"):
        forgetful(2)


def test_a_stage_of_a_root() -> None:
    @lp.stage("root")
    def keys() -> Callable[[BaseNode], list[str]]:
        return lambda root: [node.key for node in lp.walk(root)]

    assert keys(BaseNode("root")) == keys()(BaseNode("root")) == ["root"]
    with pytest.raises(lp.ArgumentTypeError):
        keys([1])


def test_pipe_is_that_of_toolz() -> None:  # and of `compose_left`, `test_reprs` says the same
    assert lp.pipe is pipe
