"""Errors say in fields what they say in words, and keep these wherever they go."""

from __future__ import annotations

import ast
import copy
import pickle
from typing import Any

import pytest
from hypothesis import given, strategies as st
from rooms import PACKAGE

import lotproc as lp

CLASSES = [getattr(lp, name) for name in lp.__all__ if name.endswith("Error")]
texts = st.text(min_size=1, max_size=9)
fields = st.fixed_dictionaries(
    {}, optional={"path": st.lists(texts).map(tuple), "expected": texts, "got": texts, "hint": texts}
)


@given(kind=st.sampled_from(CLASSES), what=texts, why=st.text(max_size=9), fields=fields)
def test_an_error_has_its_fields_says_them_and_keeps_them(
    kind: Any, what: str, why: str, fields: dict[str, Any]
) -> None:
    error = kind(what, why, **fields)
    for one in (error, copy.copy(error), *(pickle.loads(pickle.dumps(error, protocol)) for protocol in range(6))):
        assert type(one) is kind
        assert {name: getattr(one, name) for name in ("path", "expected", "got", "hint")} == {
            "path": None,
            "expected": None,
            "got": None,
            "hint": None,
            **fields,
        }
        assert str(one) == str(error)
    said = str(error)
    for part in (what, why, *(value for name, value in fields.items() if name != "path")):
        assert part in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (lp.ArgumentError("chunked: n", expected="at least 1", got="0"), "chunked: n must be at least 1, got 0"),
        (
            lp.ArgumentTypeError("leaves:", expected="a node", got="int 3", hint="open it"),
            "leaves: expected a node, got int 3; open it",
        ),
        (
            lp.DetachError("scan: the attribute 'n'", "can't be read", path=("a", "b")),
            "scan: the attribute 'n' at a/b can't be read",
        ),
        (lp.LotprocError(), ""),
    ],
)
def test_what_an_error_says(error: lp.LotprocError, said: str) -> None:
    assert str(error) == said


def test_no_field_says_what_another_is_for() -> None:
    """`expected` is what was expected and no more: what came, and what to do, have fields of their own."""
    said = [
        f"{path.name}:{call.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        for field in call.keywords
        if field.arg == "expected" and (", got " in ast.unparse(field.value) or "; " in ast.unparse(field.value))
    ]
    assert said == []
