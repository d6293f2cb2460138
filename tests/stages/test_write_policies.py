"""Policies: frozen values, pure functions, distinct results to distinct paths, and no key is ever dropped."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st
from trees import NodePath, keys, paths

import lotproc as lp

MAKERS: dict[str, Callable[..., Any]] = {"inline": lp.inline, "mirror": lp.mirror, "fresh": lp.fresh}
every_policy = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
#: Keys for a policy that is made by a call, which takes no path in one piece.
bases = st.lists(keys.filter(lambda key: "/" not in key), max_size=4).map(tuple)
#: Few keys, so that paths meet.
few = st.lists(st.sampled_from(["a", "b", "_proc"]), max_size=4).map(tuple)


def result(path: NodePath, relative_path: NodePath = ()) -> lp.ProcessResult:
    return lp.ProcessResult(path, relative_path=relative_path)


# --- Where results go ------------------------------------------------------------------------------------------------


@given(base=bases, path=paths, relative=paths)
def test_inline_keeps_the_source_path_as_prefix(base: NodePath, path: NodePath, relative: NodePath) -> None:
    target = lp.inline(*base)(result(path, relative))
    assert target[: len(path)] == path
    assert target == path + base + relative


@pytest.mark.parametrize("make", [lp.mirror, lp.fresh])
@given(base=bases, path=paths, relative=paths)
def test_mirror_and_fresh_keep_base_then_path_then_relative_path(
    make: Callable[..., Any], base: NodePath, path: NodePath, relative: NodePath
) -> None:
    assert make(*base)(result(path, relative)) == base + path + relative


@every_policy
@given(base=few, one=st.tuples(few, few), other=st.tuples(few, few))
def test_distinct_results_go_to_distinct_paths(
    make: Callable[..., Any], base: NodePath, one: tuple[NodePath, NodePath], other: tuple[NodePath, NodePath]
) -> None:
    assume(one != other)

    def runs_through_a_branch_of(path: NodePath, source: NodePath, relative: NodePath) -> bool:
        """Whether a source path runs through the branch that a policy starts below another source."""
        derived = base + relative if make is lp.inline else relative
        return path != source and path[: len(source) + 1] == source + derived[:1]

    assume(not runs_through_a_branch_of(one[0], *other))
    assume(not runs_through_a_branch_of(other[0], *one))
    policy = make(*base)
    assert policy(result(*one)) != policy(result(*other))


@every_policy
@given(base=few, path=few, relatives=st.lists(few, unique=True, max_size=4))
def test_the_results_of_one_record_never_meet(
    make: Callable[..., Any], base: NodePath, path: NodePath, relatives: list[NodePath]
) -> None:
    policy = make(*base)
    assert len({policy(result(path, relative)) for relative in relatives}) == len(relatives)


@every_policy
@given(base=bases, path=paths, relative=paths)
def test_target_path_is_the_policy(
    make: Callable[..., Any], base: NodePath, path: NodePath, relative: NodePath
) -> None:
    policy = make(*base)
    assert policy.target_path(result(path, relative)) == policy(result(path, relative))


# --- Pure functions --------------------------------------------------------------------------------------------------


@every_policy
@given(base=bases, path=paths, relative=paths, output=st.integers(), attributes=st.dictionaries(keys, st.integers()))
def test_a_path_depends_on_the_two_paths_alone_and_changes_nothing(
    make: Callable[..., Any],
    base: NodePath,
    path: NodePath,
    relative: NodePath,
    output: int,
    attributes: dict[str, int],
) -> None:
    policy = make(*base)
    given_result = lp.ProcessResult(path, output, attributes, relative)
    before = deepcopy(given_result)
    target = policy(given_result)
    assert type(target) is tuple
    assert policy(given_result) == target
    assert policy(result(path, relative)) == target
    assert given_result == before
    assert policy == make(*base)


@every_policy
def test_paths_given_as_lists_are_paths(make: Callable[..., Any]) -> None:
    listed = lp.ProcessResult(["ann", "clip"], relative_path=["mfcc"])
    assert make("x")(listed) == make("x")(result(("ann", "clip"), ("mfcc",)))
    assert (listed.path, listed.relative_path) == (("ann", "clip"), ("mfcc",))


# --- Frozen values ---------------------------------------------------------------------------------------------------


@every_policy
@given(base=bases, other=bases)
def test_policies_are_values(make: Callable[..., Any], base: NodePath, other: NodePath) -> None:
    policy = make(*base)
    assert policy.base_path == base
    assert (policy == make(*other)) is (base == other)
    assert hash(policy) == hash(make(*base))
    assert len({policy, make(*base), make(*other)}) == len({base, other})
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.base_path = ("x",)


@every_policy
@given(base=bases, path=paths)
def test_policies_pickle(make: Callable[..., Any], base: NodePath, path: NodePath) -> None:
    policy = make(*base)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(policy, protocol=protocol))
        assert copy == policy
        assert type(copy) is type(policy)
        assert copy(result(path)) == policy(result(path))


@every_policy
@pytest.mark.parametrize("key", ["_proc/f0", "/a", "a/"])
def test_a_path_in_one_piece_is_refused_as_a_base_where_a_class_takes_it(make: Callable[..., Any], key: str) -> None:
    with pytest.raises(lp.ArgumentError) as caught:
        make("x", key)
    assert caught.value.hint is not None
    policy = type(make())(base_path=("x", key))
    assert policy.base_path == ("x", key)


def test_policies_of_different_kinds_differ() -> None:
    assert len({lp.inline("a"), lp.mirror("a"), lp.fresh("a")}) == 3
    assert lp.mirror("a") != lp.fresh("a")


def test_the_classes_are_the_policies() -> None:
    assert lp.InlineWritePolicy(base_path=("_proc",)) == lp.inline("_proc")
    assert lp.InlineWritePolicy() == lp.inline("_proc")
    assert lp.MirrorWritePolicy(base_path=("a", "b")) == lp.mirror("a", "b")
    assert lp.MirrorWritePolicy() == lp.mirror()
    assert lp.FreshWritePolicy() == lp.fresh()
    assert isinstance(lp.fresh(), lp.FreshWritePolicy)
    assert lp.InlineWritePolicy(["a", "b"]) == lp.inline("a", "b")
    assert dataclasses.replace(lp.inline("a"), base_path=("b",)) == lp.inline("b")


def test_results_and_records_are_frozen_and_pickle() -> None:
    record = lp.NodeRecord(("a",), "a", {"n": 1}, b"payload")
    output = lp.ProcessResult(("a",), 3, {"unit": "s"}, ("x",))
    write = lp.Write(("a",), {"n": 1})
    report = lp.WriteReport(written=1, last_path=("a",))
    for value in (record, output, write, report):
        assert pickle.loads(pickle.dumps(value)) == value
        name = dataclasses.fields(value)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, None)


# --- Bad input -------------------------------------------------------------------------------------------------------

BAD_KEYS = [
    ("", lp.ArgumentError),
    (None, lp.ArgumentTypeError),
    (3, lp.ArgumentTypeError),
    (b"a", lp.ArgumentTypeError),
]
BAD_KEYS += [(("a",), lp.ArgumentTypeError), (["a"], lp.ArgumentTypeError)]


@every_policy
@pytest.mark.parametrize(("bad", "error"), BAD_KEYS)
@given(before=few, after=few)
def test_a_bad_key_in_a_base_is_refused_when_the_policy_is_made(
    make: Callable[..., Any], bad: Any, error: type[Exception], before: NodePath, after: NodePath
) -> None:
    kind = type(make())
    for call in (lambda: make(*before, bad, *after), lambda: kind(base_path=(*before, bad, *after))):
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value).startswith(f"base_path: key {len(before)} of ")
        assert repr((*before, bad, *after)) in str(caught.value)


@every_policy
@pytest.mark.parametrize(("bad", "error"), BAD_KEYS)
@given(before=few, after=few)
def test_a_bad_key_in_a_path_is_refused_and_never_dropped(
    make: Callable[..., Any], bad: Any, error: type[Exception], before: NodePath, after: NodePath
) -> None:
    path = (*before, bad, *after)
    with pytest.raises(error) as caught:
        make("x")(result(path, ("mfcc",)))
    assert str(caught.value).startswith(f"path: key {len(before)} of {path!r}")


@every_policy
@pytest.mark.parametrize(("bad", "error"), BAD_KEYS)
@given(before=few, after=few)
def test_a_bad_key_in_a_relative_path_is_refused_and_never_dropped(
    make: Callable[..., Any], bad: Any, error: type[Exception], before: NodePath, after: NodePath
) -> None:
    relative = (*before, bad, *after)
    with pytest.raises(error) as caught:
        make("x").target_path(result(("ann", "clip"), relative))
    assert str(caught.value).startswith(f"relative_path: key {len(before)} of {relative!r} of the result at ann/clip ")
    assert caught.value.path == ("ann", "clip")


@every_policy
@pytest.mark.parametrize("bad", ["ann", None, 3, b"ann"])
def test_a_path_that_is_no_tuple_of_keys_is_refused(make: Callable[..., Any], bad: Any) -> None:
    with pytest.raises(lp.ArgumentTypeError, match="^path"):
        make("x")(lp.ProcessResult(bad))
    with pytest.raises(lp.ArgumentTypeError, match="^relative_path.* of the result at ann/clip"):
        make("x")(lp.ProcessResult(("ann", "clip"), relative_path=bad))
    with pytest.raises(lp.ArgumentTypeError, match="^base_path"):
        type(make())(base_path=bad)
