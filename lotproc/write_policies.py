"""Where a result goes: pure functions from a result to a path.

A policy is a frozen value and a function: `policy(result)` is the path, below the target's root, of the node that
the result is written to. Nothing else decides it: no clock, no counter, no look at the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, TypeAlias

from ._public import public
from ._spelling import spelled, spelled_class
from .errors import ArgumentError, ArgumentTypeError, add_note, as_text, got
from .models import ProcessResult

__all__ = [
    "FreshWritePolicy",
    "InlineWritePolicy",
    "MirrorWritePolicy",
    "Policy",
    "as_policy",
    "asked",
    "fresh",
    "gives_checked_paths",
    "has_base",
    "inline",
    "mirror",
    "policy_text",
    "targets_of",
]


_STR = frozenset({str})

#: What says where a result goes.
Policy: TypeAlias = Callable[[ProcessResult], "tuple[str, ...]"]


@public
@spelled_class
@dataclass(frozen=True)
class InlineWritePolicy:
    """Write below the node that was processed: its path, then `base_path`, then the result's relative path.

    >>> from lotproc import ProcessResult
    >>> policy = InlineWritePolicy(base_path=("_proc",))
    >>> policy.target_path(ProcessResult(path=("speaker_01", "clip_001")))
    ('speaker_01', 'clip_001', '_proc')
    """

    base_path: tuple[str, ...] = ("_proc",)
    #: Its paths are those of the records, so `write` starts at the root of the target's tree.
    starts_at_top: ClassVar[bool] = True

    def _repr_html_(self) -> str:
        return _html_of(self)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_path", checked_path("base_path", self.base_path))

    def __call__(self, result: ProcessResult) -> tuple[str, ...]:
        path, relative_path = _source(result)
        return path + self.base_path + relative_path

    def target_path(self, result: ProcessResult) -> tuple[str, ...]:
        """The path that this policy gives `result`: the same as calling the policy."""
        return self(result)


@public
@spelled_class
@dataclass(frozen=True)
class MirrorWritePolicy:
    """Write the same tree of paths below `base_path`, usually into another tree.

    >>> from lotproc import ProcessResult
    >>> result = ProcessResult(path=("clip_001",), relative_path=("derived",))
    >>> MirrorWritePolicy().target_path(result)
    ('clip_001', 'derived')
    """

    base_path: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        return _html_of(self)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_path", checked_path("base_path", self.base_path))

    def __call__(self, result: ProcessResult) -> tuple[str, ...]:
        path, relative_path = _source(result)
        return self.base_path + path + relative_path

    def target_path(self, result: ProcessResult) -> tuple[str, ...]:
        """The path that this policy gives `result`: the same as calling the policy."""
        return self(result)


@public
@spelled_class
@dataclass(frozen=True)
class FreshWritePolicy(MirrorWritePolicy):
    """The paths of `MirrorWritePolicy`, for a target that starts empty: a fresh database.

    >>> from lotproc import ProcessResult
    >>> FreshWritePolicy(("run_1",)).target_path(ProcessResult(path=("clip_001",)))
    ('run_1', 'clip_001')
    """


@public
@spelled
def inline(*base: str) -> InlineWritePolicy:
    """Write below the node that was processed.

    >>> from lotproc import ProcessResult
    >>> inline("_proc", "summary")(ProcessResult(path=("speaker_01", "clip_001")))
    ('speaker_01', 'clip_001', '_proc', 'summary')

    Args:
        *base: Keys between the processed node and the result, one by one. None of them: the node itself is written to.

    Returns:
        A policy, which is a frozen, picklable value that is also a function from a `ProcessResult` to a path.

    Raises:
        ArgumentError: A key is empty, or has a slash in it (`InlineWritePolicy(base_path=...)` takes any).
        ArgumentTypeError: A key is no str.
    """
    return InlineWritePolicy(_one_by_one("inline", InlineWritePolicy, base))


@public
@spelled
def mirror(*base: str) -> MirrorWritePolicy:
    """Write the same tree of paths into another tree, or below another branch.

    >>> from lotproc import ProcessResult
    >>> result = ProcessResult(path=("speaker_01", "clip_001"), relative_path=("mfcc",))
    >>> mirror("features")(result)
    ('features', 'speaker_01', 'clip_001', 'mfcc')

    Args:
        *base: Keys between the target's root and the mirrored paths.

    Returns:
        A policy, which is a frozen, picklable value that is also a function from a `ProcessResult` to a path.

    Raises:
        ArgumentError: A key is empty, or has a slash in it (`MirrorWritePolicy(base_path=...)` takes any).
        ArgumentTypeError: A key is no str.
    """
    return MirrorWritePolicy(_one_by_one("mirror", MirrorWritePolicy, base))


@public
@spelled
def fresh(*base: str) -> FreshWritePolicy:
    """Write the same tree of paths into a fresh database.

    >>> from lotproc import ProcessResult
    >>> result = ProcessResult(
    ...     path=("speaker_01", "clip_001"), relative_path=("derived", "features")
    ... )
    >>> fresh()(result)
    ('speaker_01', 'clip_001', 'derived', 'features')

    Args:
        *base: Keys between the target's root and the paths.

    Returns:
        A policy, which is a frozen, picklable value that is also a function from a `ProcessResult` to a path.

    Raises:
        ArgumentError: A key is empty, or has a slash in it (`FreshWritePolicy(base_path=...)` takes any).
        ArgumentTypeError: A key is no str.
    """
    return FreshWritePolicy(_one_by_one("fresh", FreshWritePolicy, base))


def _one_by_one(name: str, kind: type, base: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a path in one piece, which would make one key."""
    for key in base:
        if isinstance(key, str) and "/" in key:
            keys = ", ".join(map(repr, filter(None, key.split("/"))))
            hint = f"give the keys one by one: {name}({keys}); or {kind.__name__}(base_path=...), which takes any"
            raise ArgumentError(f"{name}: the key {key!r}", "has a slash in it", hint=hint)
    return base


def _source(result: ProcessResult) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        path, relative_path = result.path, result.relative_path
    except AttributeError:
        raise ArgumentTypeError("a write policy takes a ProcessResult", got=got(result)) from None
    return checked_path("path", path), checked_path("relative_path", relative_path, of=path)


def as_policy(name: str, policy: Any) -> Policy:
    """What was given as a policy: a function of a result, or an object with a `target_path` that is one."""
    for given in (policy, getattr(policy, "target_path", None)):
        if callable(given):
            function: Policy = given
            return function
    raise ArgumentTypeError(
        f"{name}: policy",
        expected="inline(...), mirror(...), fresh(...), a function, or an object with a method target_path",
        got=got(policy),
    )


def asked(policy: Policy, result: ProcessResult) -> tuple[str, ...]:
    """The path that a function of the user's gives a result, checked."""
    try:
        path = policy(result)
    except Exception as error:
        add_note(error, f"lotproc: in the policy, for the result at {as_text(result.path)}")
        raise
    return checked_path("the policy's path", path, of=result.path)


def checked_path(name: str, path: Iterable[str], *, of: Iterable[str] = ()) -> tuple[str, ...]:
    """The path as a tuple of keys; an empty or non-str key is refused, never dropped."""
    if type(path) is tuple and (not path or (_STR.issuperset(map(type, path)) and all(path))):
        return path
    of_whom, result = (" of the result", of) if of else ("", None)
    if isinstance(path, str) or not isinstance(path, Iterable):
        hint = "a record's is record.path" if name == "path" else None
        raise ArgumentTypeError(f"{name}{of_whom}", path=result, expected="a tuple of keys", got=got(path), hint=hint)
    keys = tuple(path)
    for position, key in enumerate(keys):
        what = f"{name}: key {position} of {keys!r}{of_whom}"
        if not isinstance(key, str):
            hint = "give the keys one by one" if isinstance(key, (list, tuple)) else None
            if isinstance(key, ProcessResult):
                hint = 'call the policy before it is handed on: inline("_proc")'
            raise ArgumentTypeError(what, path=result, expected="a str", got=got(key), hint=hint)
        if not key:
            raise ArgumentError(what, "is empty", path=result, hint="a node needs a name")
    return tuple(map(str.__str__, keys))  # of subclasses the value: lotdb would take an enum's name


_PLAIN = frozenset({InlineWritePolicy, MirrorWritePolicy, FreshWritePolicy})


def gives_checked_paths(policy: Policy) -> bool:
    """Whether it is one of those here, whose paths need no second look."""
    return type(policy) in _PLAIN


def has_base(policy: Policy) -> bool:
    """Whether a policy has a base, by which its results are told from those of others."""
    return type(policy) in _PLAIN and bool(policy.base_path)  # type: ignore[attr-defined]


def targets_of(policy: Policy, paths: list[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Where the results of records with these paths go under a policy, and what all of these paths end with."""
    if type(policy) not in _PLAIN:
        return [asked(policy, ProcessResult(path)) for path in paths], ()
    keys = list(chain.from_iterable(paths))
    if not (_STR.issuperset(map(type, keys)) and all(keys)):
        paths = [checked_path("path", path) for path in paths]
    if isinstance(policy, InlineWritePolicy):
        return paths, policy.base_path
    base: tuple[str, ...] = policy.base_path  # type: ignore[attr-defined]
    return [base + path for path in paths] if base else paths, ()


_MAKERS = {InlineWritePolicy: "inline", MirrorWritePolicy: "mirror", FreshWritePolicy: "fresh"}


def policy_text(policy: Any) -> str:
    """A policy as the call that made it; the name of a function of one's own."""
    maker = _MAKERS.get(type(policy))
    if maker is None:
        return str(getattr(policy, "__qualname__", type(policy).__qualname__))
    return f"{maker}({', '.join(map(repr, policy.base_path))})"


def _html_of(policy: Any) -> str:
    """What a notebook shows: where the result of a record goes."""
    from ._html import boxes, card  # here, since a worker shows nothing

    example = ProcessResult(("…", "record"))
    return card("policy", policy_text(policy), boxes([(as_text(path), "") for path in (example.path, policy(example))]))
