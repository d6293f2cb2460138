"""Signatures and types as the reference shows them: in the words of the source, with its aliases written out."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from typing import Any

from sphinx.pycode import ModuleAnalyzer

#: A name in a type, with what it is of; not inside of quotes.
_NAME = re.compile(r"(?<![\w.'\"])[A-Za-z_][\w.]*(?![\w.'\"])")
#: Long names that say no more than their last part.
_MODULES = re.compile(r"\b(?:typing|types|collections\.abc|contextlib|concurrent\.futures\.\w+|lotproc(?:\.\w+)*)\.")
#: An alias that stays, since a page says what it is.
_KEPT = ("Policy",)


@cache
def _aliases() -> dict[str, list[tuple[Any, Mapping[str, Any]]]]:
    """The aliases of types in lotproc, by name: what each stands for, and the namespace where that is understood."""
    found: dict[str, list[tuple[Any, Mapping[str, Any]]]] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "lotproc":
            for alias, kind in vars(module).get("__annotations__", {}).items():
                if kind == "TypeAlias" and alias not in _KEPT:
                    found.setdefault(alias, []).append((vars(module)[alias], vars(module)))
    return found


def type_text(annotation: Any, namespace: Mapping[str, Any]) -> str:
    """A type as people read it: `'a' | 'b'` for a `Literal`, `...` for its type, no modules, and no aliases."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"ForwardRef\('([^']*)'\)|'([^']*\[[^']*)'", r"\1\2", _MODULES.sub("", text))
    text = _NAME.sub(partial(_written_out, namespace), text).replace("EllipsisType", "...")
    return re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace(", ", " | ").replace('"', "'"), text)


def _written_out(namespace: Mapping[str, Any], found: re.Match[str]) -> str:
    missing = object()
    here = namespace.get(found[0], missing)
    for value, home in _aliases().get(found[0], []):
        if here is missing or here is value:
            return type_text(value, home)
    return found[0]


def namespace_of(thing: Any) -> Mapping[str, Any]:
    """Where the types of a class or of a function are understood."""
    if inspect.isclass(thing):
        return vars(sys.modules[thing.__module__])
    found: Mapping[str, Any] = getattr(inspect.unwrap(thing), "__globals__", {})
    return found


def home_of(kind: type) -> str:
    """The module in which a class is written; public ones say `lotproc`."""
    for name, module in list(sys.modules.items()):
        is_there = name.startswith("lotproc.") and vars(module).get(kind.__name__) is kind
        if is_there and re.search(rf"^class {kind.__name__}\b", inspect.getsource(module), flags=re.MULTILINE):
            return name
    return kind.__module__


def _default(value: Any) -> str:
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__name__
    return "…" if type(value) is object else repr(value)  # one that stands for nothing given


def arguments(parameters: Iterable[inspect.Parameter], types: Mapping[str, str]) -> str:
    """What stands between the brackets of a signature; with types where they are given."""
    texts: list[str] = []
    is_star_there = False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not is_star_there:
            texts.append("*")
        is_star_there |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        text = str(parameter.replace(annotation=parameter.empty, default=parameter.empty))
        if parameter.name in types:
            text += f": {types[parameter.name]}"
        if parameter.default is not parameter.empty:
            equals = " = " if parameter.name in types else "="
            text += equals + _default(parameter.default)
        texts.append(text)
    return ", ".join(texts)


class Signature:
    """The signature of a function or a method, and the types in it; a stage has two ways of being called."""

    def __init__(self, function: Callable[..., Any], is_method: bool = False) -> None:
        signature = inspect.signature(function)
        space = namespace_of(function)
        self.parameters = [p for p in list(signature.parameters.values())[is_method:] if p.name[0] != "_"]
        if is_dataclass(function):
            made = {one.name: one.default_factory() for one in fields(function) if callable(one.default_factory)}
            self.parameters = [p.replace(default=made.get(p.name, p.default)) for p in self.parameters]
        annotations = {p.name: p.annotation for p in self.parameters if p.annotation is not p.empty}
        self.types = {name: type_text(annotation, space) for name, annotation in annotations.items()}
        returned = signature.return_annotation
        self.returns = "" if returned is signature.empty else type_text(returned, space)
        #: The name of the data, if it is a stage.
        self.data = ""
        if hasattr(function, "place"):
            self.data = next(p.name for p in self.parameters if p.annotation is p.empty)
            analyzer = ModuleAnalyzer.for_module(inspect.unwrap(function).__module__)
            analyzer.analyze()
            called = [s for s in analyzer.overloads[inspect.unwrap(function).__name__] if self.data in s.parameters]
            takes = {type_text(s.parameters[self.data].annotation, space): None for s in called}
            gives = {type_text(s.return_annotation, space): None for s in called}
            self.types[self.data] = " | ".join(takes)
            self.returns = " | ".join(gives)

    def lines(self, described: Iterable[str]) -> list[str]:
        """One for each way of calling it; with the types of those parameters that are not described elsewhere."""
        types = {name: text for name, text in self.types.items() if name not in set(described)}
        returns = f" -> {self.returns}" if self.returns else ""
        whole = f"({arguments(self.parameters, types)}){returns}"
        if not self.data:
            return [whole]
        rest = [parameter for parameter in self.parameters if parameter.name != self.data]
        waiting = arguments(rest, types)
        if sum(parameter.kind is parameter.KEYWORD_ONLY for parameter in rest) > 2:
            waiting = waiting.partition("*, ")[0] + "*, …"
        return [whole, f"({waiting}) -> Callable[[{self.types[self.data]}], {self.returns}]"]


def with_types(lines: list[str], types: Mapping[str, str]) -> list[str]:
    """A docstring as reStructuredText, with the types of its parameters."""
    typed: list[str] = []
    for line in lines:
        if found := re.match(r":param ([^:]+):", line):
            names = [name.strip(" *\\") for name in found[1].split(",")]
            known = dict.fromkeys(types[name] for name in names if name in types)
            if known:
                typed.append(f":type {found[1]}: {' | '.join(known)}")
        typed.append(line)
    return typed


def described_in(docstring: str | None) -> list[str]:
    """The parameters that a docstring describes."""
    section = re.split(r"^(?=\S)", inspect.cleandoc(docstring or "").partition("\nArgs:\n")[2], flags=re.MULTILINE)[0]
    found = re.findall(r"^    ([\w*][\w*, ]*):", section, flags=re.MULTILINE)
    return [name.strip(" *") for names in found for name in names.split(",")]
