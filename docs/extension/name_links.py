"""Links to the pages of the public names from all others, in text and in code, and back to where each is used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from docutils import nodes
from public_names import pages_of_names
from reference import WORDS, has_page
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

PAGES = pages_of_names()


class about_name(nodes.General, nodes.Element):  # type: ignore[misc]  # docutils has no types
    """Stands for what is known of a name once all pages are read."""


class AboutName(SphinxDirective):
    """Where a name is used, and other words for it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Called by docutils."""
        return [about_name(name=self.arguments[0])]


#: Pages that are about all names, so that a link from there says nothing of one of them.
_ABOUT_ALL = re.compile(r"names/|reference/|(index|api|design|performance)$")
#: Names that are something else on a page: methods, or those of other tools.
_NO_NAMES = {"design": {"commit"}, "moving": {"delete"}, "stores": {"commit"}}
_IN_TEXT = re.compile(r"(?:lp\.|lotproc\.)?(([A-Za-z]\w*)(?:\.\w+)*)(?:\([^()]*\))?")
_IN_CODE = re.compile(r"\b(?:lp|lotproc)\.(\w+)|\b(pipe|compose_left)\(")


def find_uses(app: Sphinx, doctree: nodes.document) -> None:
    """Note for each name the section of a page that speaks of it most."""
    docname = app.env.docname
    uses = _uses(app)
    uses.pop(docname, None)
    if _ABOUT_ALL.match(docname):
        return
    found: dict[str, Counter[tuple[str, str]]] = {}
    for node in doctree.findall(lambda node: isinstance(node, (nodes.literal, nodes.literal_block))):
        is_inline = isinstance(node, nodes.literal)
        match = _IN_TEXT.fullmatch(node.astext()) if is_inline else None
        names = [match[2]] if match else [] if is_inline else [a or b for a, b in _IN_CODE.findall(node.astext())]
        section = node
        while section.parent is not None and not isinstance(section, nodes.section):
            section = section.parent
        if names and isinstance(section, nodes.section):
            place = section["ids"][0], section.next_node(nodes.title).astext()
            for name in filter(PAGES.__contains__, names):
                found.setdefault(name, Counter())[place] += 1
    uses[docname] = {name: places.most_common(1)[0][0] for name, places in found.items()}


def _uses(app: Sphinx) -> dict[str, dict[str, tuple[str, str]]]:
    """Of each page the names that it uses, and where: the id and the title of the section."""
    if not hasattr(app.env, "uses_of_names"):
        app.env.uses_of_names = {}  # type: ignore[attr-defined]
    uses: dict[str, dict[str, tuple[str, str]]] = app.env.uses_of_names  # type: ignore[attr-defined]
    return uses


def merge_uses(app: Sphinx, env: BuildEnvironment, docnames: Iterable[str], other: BuildEnvironment) -> None:
    """Take over what another process has read."""
    found = getattr(other, "uses_of_names", {})
    _uses(app).update({docname: found[docname] for docname in docnames if docname in found})


def tell_uses(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Say on the page of a name where it is used, and what others call it."""
    for node in list(doctree.findall(about_name)):
        name = node["name"]
        lines: list[nodes.Node] = []
        pages = [page for page, names in _uses(app).items() if name in names and page in app.env.titles]
        links: list[nodes.Node] = []
        for page in sorted(pages, key=lambda page: app.env.titles[page].astext()):
            anchor, title = _uses(app)[page][name]
            top = app.env.titles[page].astext()
            text = top if title == top else f"{top}: {title}"
            made = make_refnode(app.builder, docname, page, "" if title == top else anchor, nodes.Text(text))
            links += [nodes.Text(" · "), made]
        if links:
            lines.append(nodes.paragraph("", "", nodes.strong("", "Used in"), nodes.Text(" "), *links[1:]))
        if docname in WORDS:
            text = f" {', '.join(WORDS[docname])}"
            lines.append(nodes.paragraph("", "", nodes.strong("", "Other words for it"), nodes.Text(text)))
        node.replace_self(nodes.container("", *lines, classes=["about-name"]) if lines else [])


def add_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Let names in code lead to their pages: the first of each in a paragraph, outside of headings and links."""
    seen: set[tuple[int, str]] = set()
    for literal in list(doctree.findall(nodes.literal)):
        found = _IN_TEXT.fullmatch(literal.astext())
        if not found or not (target := target_of(app, found[1])) or target == (docname, ""):
            continue
        block = literal.parent
        while isinstance(block, nodes.Inline) and not isinstance(block, (nodes.reference, nodes.title)):
            block = block.parent
        if isinstance(block, (nodes.reference, nodes.title)) or (id(block), found[1]) in seen:
            continue
        if found[1] not in own_words(literal) | _NO_NAMES.get(docname, set()):
            seen.add((id(block), found[1]))
            link = make_refnode(app.builder, docname, *target, literal.deepcopy())
            link["classes"].append("to-name")
            literal.replace_self(link)


def own_words(literal: nodes.literal) -> set[str]:
    """What means something else where a name is described: the name itself, its members, and their parameters."""
    described: nodes.Element | None = None
    parent = literal.parent
    while parent is not None:
        described = parent if isinstance(parent, addnodes.desc) else described
        parent = parent.parent
    if described is None:
        return set()
    members = {signature["fullname"].rpartition(".")[2] for signature in described.findall(addnodes.desc_signature)}
    lists = described.findall(addnodes.desc_parameterlist)
    return members | {name.astext() for found in lists for name in found.findall(addnodes.desc_sig_name)}


def target_of(app: Sphinx, name: str) -> tuple[str, str] | None:
    """The page and the anchor of a name, or of a member of one."""
    first, _, rest = name.partition(".")
    if first not in PAGES:
        return None
    if not rest and has_page(name):
        return PAGES[name], ""
    entry = app.env.domains.python_domain.objects.get(f"lotproc.{name}")
    if entry is None:
        return target_of(app, first) if rest and first[0].isupper() else None
    return entry.docname, entry.node_id


def span(kind: str, text: str) -> str:
    """A token of code as Pygments writes it."""
    return f'<span class="{kind}">{text}</span>'


_TOKENS = re.compile(
    f"({span('nd?', '@?lp')}{re.escape(span('o', '.'))}{span('n', r'(?P<name>[A-Za-z]+[a-z_]*)')})"
    f"|({span('n', '(?P<bare>pipe|compose_left)')}(?={re.escape(span('p', '('))[:-9]}))"
)


def add_links_in_code(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Let `lp.leaves` in blocks of code lead to its page."""

    def link(found: re.Match[str]) -> str:
        target = target_of(app, found["name"] or found["bare"])
        if target is None or target[0] == pagename:
            return found[0]
        uri = app.builder.get_relative_uri(pagename, target[0]) + (f"#{target[1]}" if target[1] else "")
        return f'<a class="to-name" href="{uri}">{found[0]}</a>'

    if "body" in context:
        context["body"] = _TOKENS.sub(link, context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("about-name", AboutName)
    app.add_node(about_name)
    app.connect("doctree-read", find_uses)
    app.connect("env-merge-info", merge_uses)
    app.connect("doctree-resolved", tell_uses, priority=400)
    app.connect("doctree-resolved", add_links)
    app.connect("html-page-context", add_links_in_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 1}
