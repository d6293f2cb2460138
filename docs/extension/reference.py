"""The reference: a page for each public name, and tables of them.

The names and their tasks are those of `lotproc/__init__.pyi`, what is said of each is its docstring. The pages of the
tasks are written by hand, in `docs/reference`; those of the names are made here, in `docs/names`, before each build.
"""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from textwrap import indent
from typing import Any

from docutils import nodes
from public_names import DOCS, ON_ONE_PAGE, names_by_task, other_words, page_of, pages_of_names, pages_of_tasks
from signatures import Signature, described_in, home_of, with_types
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

import lotproc

PAGES = pages_of_names()
THINGS = {name: getattr(lotproc, name) for name in PAGES}
for thing in THINGS.values():
    if inspect.isclass(thing):
        thing.__module__ = home_of(thing)  # where autodoc reads what is said of attributes, and their order
#: Of each page the words that lead to it.
WORDS: dict[str, list[str]] = {}
for word, targets in other_words().items():
    for target in targets:
        WORDS.setdefault(page_of(target) or "", []).append(word)

#: Functions that are not ours: their arguments, and what is said of them.
OF_TOOLZ = {
    "pipe": (
        "(data, *steps) -> Any",
        """Give data to the first step, what comes out to the second, and so on.

>>> from lotproc import chunked, pipe
>>> pipe("abc", chunked(2), list)
[['a', 'b'], ['c']]

It is the function of `toolz <https://toolz.readthedocs.io>`__, with types: an editor and a type checker know what comes
out of ten steps in a row.

:type data: Any
:param data: What the first step takes: a tree, an iterable, a path.
:type steps: Callable[[Any], Any]
:param steps: Functions of one argument, such as stages that wait for their data.
:returns: What the last step gives. With stages that are lazy nothing has been read by then.
""",
    ),
    "compose_left": (
        "(*steps) -> Callable[[Any], Any]",
        """Make one function of several steps, the first one first.

>>> from lotproc import chunked, compose_left
>>> in_pairs = compose_left(chunked(2), list)
>>> in_pairs("abc")
[['a', 'b'], ['c']]

It is the function of `toolz <https://toolz.readthedocs.io>`__, with types as `pipe` has them. What it makes can be a
step of another `pipe`.

:type steps: Callable[[Any], Any]
:param steps: Functions of one argument, such as stages that wait for their data.
:returns: A function of the data. It pickles where its steps do.
""",
    ),
}


def summary(name: str) -> str:
    """The first paragraph of what is said of a name."""
    thing = THINGS[name]
    if name in OF_TOOLZ:
        text = OF_TOOLZ[name][1]
    elif getattr(thing, "__name__", name).rpartition(".")[2] != name:
        return f"Another name of `{thing.__name__}`."
    else:
        text = inspect.getdoc(thing) or ""
    return " ".join(text.partition("\n\n")[0].split())


def description(app: Sphinx, name: str) -> str:
    """What the reference says of a name, as reStructuredText."""
    thing = THINGS[name]
    if inspect.ismodule(thing):
        return f".. automodule:: lotproc.{name}\n   :members:\n"
    if inspect.isclass(thing) and thing.__name__ != name:
        return f".. py:class:: {name}\n\n   Another name of :py:class:`{thing.__name__}`.\n"
    if inspect.isclass(thing):
        base = thing.__base__.__name__ if thing.__base__ else ""
        options = "   :show-inheritance:\n" if base in PAGES or issubclass(thing, Exception) else ""
        if name == "LmdbStore":  # what it has of its bases is its own
            options += "   :inherited-members: Store\n"
        return f".. autoclass:: lotproc.{name}\n   :members:\n{options}"
    if name in OF_TOOLZ:
        signature, text = OF_TOOLZ[name]
        signatures, lines = [signature], text.splitlines()
    else:
        signatures = Signature(thing).lines(described_in(thing.__doc__))
        lines = inspect.cleandoc(thing.__doc__ or "").splitlines()
        app.emit("autodoc-process-docstring", "function", f"lotproc.{name}", thing, None, lines)
    if len(signatures) > 1:
        data = Signature(thing).data
        end = lines.index("")
        lines[end:end] = ["", f"With `{data}` it runs; without, it is a step of a `pipe`, which gives it `{data}`."]
    head = ".. py:function:: " + ("\n" + 17 * " ").join(name + line for line in signatures)
    return f"{head}\n\n{indent(chr(10).join(lines), '   ')}\n"


def write_pages(app: Sphinx) -> None:
    """Make the pages of the names; those that are as they were stay untouched, for quick builds."""
    texts = {DOCS / f"{page}.rst": text_of(app, name) for name, page in PAGES.items() if has_page(name)}
    (DOCS / "names").mkdir(exist_ok=True)
    for old in (DOCS / "names").glob("*.rst"):
        if old not in texts:
            old.unlink()
    for file, text in texts.items():
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def has_page(name: str) -> bool:
    """Whether a name has a page of its own."""
    return PAGES[name].startswith("names/")


def text_of(app: Sphinx, name: str) -> str:
    """The page of a name."""
    title = f"{name}\n{'=' * len(name)}"
    return f"{title}\n\n.. py:currentmodule:: lotproc\n\n{description(app, name)}\n.. about-name:: {name}\n"


class Names(SphinxDirective):
    """The names of a task in a table; where they have no pages of their own, with what is said of each."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Called by docutils."""
        task = self.arguments[0]
        names = names_by_task()[task]
        made: list[nodes.Node] = self.parse_text_to_nodes(table(names))
        if task not in ON_ONE_PAGE:
            entries = [f"/{PAGES[name]}" for name in names]
            toctree = ["```{toctree}", ":hidden:", ":titlesonly:", "", *entries, "```"]
            return made + self.parse_text_to_nodes("\n".join(toctree))
        for name in names:
            text = f"```{{eval-rst}}\n.. py:currentmodule:: lotproc\n\n{description(self.env.app, name)}```"
            made += self.parse_text_to_nodes(text)
        return made


class AllNames(SphinxDirective):
    """All names by task: a section with a table each."""

    def run(self) -> list[nodes.Node]:
        """Called by docutils."""
        made: list[nodes.Node] = []
        pages = pages_of_tasks()
        for task, names in names_by_task().items():
            section = nodes.section(ids=[nodes.make_id(task)], names=[nodes.fully_normalize_name(task)])
            target = {"refdomain": "std", "reftype": "doc", "reftarget": f"/{pages[task]}", "refexplicit": True}
            section += nodes.title(task, "", addnodes.pending_xref("", nodes.inline(task, task), **target))
            section += self.parse_text_to_nodes(table(names))
            made.append(section)
        return made


class OtherWords(SphinxDirective):
    """What others call it, in a table."""

    def run(self) -> list[nodes.Node]:
        """Called by docutils."""
        words = other_words()
        rows = [f"| {word} | {', '.join(map(shown, words[word]))} |" for word in sorted(words, key=str.lower)]
        return self.parse_text_to_nodes("\n".join(["| you look for | here |", "|---|---|", *rows]))


def shown(target: str) -> str:
    """What a word leads to, as Markdown."""
    return f"[](/{target})" if target.endswith(".md") else f"`{target}`"


class WordsOfPage(SphinxTransform):
    """The name of a page and the words that lead to it stand in its index, at which the search looks first."""

    default_priority = 800  # before the index is taken from the page

    def apply(self, **kwargs: Any) -> None:
        """Called by docutils."""
        docname = self.env.docname
        words = [*(name for name, page in PAGES.items() if page == docname and has_page(name)), *WORDS.get(docname, [])]
        if words:
            entries = [("single", word, "", "main", None) for word in words]
            self.document.insert(0, addnodes.index(entries=entries))


def table(names: list[str]) -> str:
    """Names with what they do, in a line each."""
    rows = [f"| `{name}` | {summary(name).replace('|', chr(92) + '|')} |" for name in names]
    return "\n".join(["| name | in short |", "|---|---|", *rows])


def own_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, args: str | None, returns: str | None
) -> tuple[str, str] | None:
    """The signature of a class, a method or a function that autodoc describes."""
    if args is None or what not in ("class", "method", "function"):
        return None
    is_like_its_base = what == "class" and issubclass(thing, lotproc.LotprocError) and thing is not lotproc.LotprocError
    if is_like_its_base or args == "(*args, **kwargs)":  # the latter of a protocol, which is not made
        return "", ""
    bound = what == "method" and "self" in inspect.signature(thing).parameters
    text = Signature(thing, is_method=bound).lines(described_in(thing.__doc__))[0]
    call, arrow, returned = text.rpartition(" -> ")
    return (call, returned) if arrow and what != "class" else (text.partition(" -> ")[0], "")


def add_types(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Let a docstring say the types of the parameters that it describes; behind napoleon."""
    if what in ("class", "method", "function") and described_in(thing.__doc__):
        lines[:] = with_types(lines, Signature(thing).types)
    if what == "class" and is_dataclass(thing) and described_in(thing.__doc__):
        lines += ["", "Each parameter is an attribute of it, too.", ""]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    for name, directive in {"names": Names, "all-names": AllNames, "other-words": OtherWords}.items():
        app.add_directive(name, directive)
    app.add_transform(WordsOfPage)
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-signature", own_signature)
    app.connect("autodoc-process-docstring", add_types, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
