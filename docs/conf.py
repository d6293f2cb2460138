"""How Sphinx builds these pages; it needs no network."""

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parent / "extension"))

project = "lotproc"
author = "lotproc developers"
copyright = "2026, lotproc developers"
exclude_patterns = ["_build", "cluster_sizes.md"]  # the latter is a part of another page

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference", "name_links"]
html_theme = "furo"
html_title = "lotproc"
pygments_dark_style = "a11y-high-contrast-dark"  # that of furo has colours that are hard to read
html_static_path = ["_static"]
html_css_files = ["site.css", "reference.css"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# The lessons are notebooks in Markdown: executed with each build, in a folder of their own.
nb_execution_mode = "auto"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

default_role = "code"  # what stands between single backticks in a docstring is code
add_module_names = False
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Any use raises", "params_style")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"  # of attributes; those of functions are shown by docs/extension/signatures.py
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 76
python_display_short_literal_types = True


def allow_plurals(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Let docstrings say `NodeRecord`s, where reStructuredText wants a mark between the code and the s."""
    lines[:] = [re.sub(r"(?<=\w)`(?=s\b)", r"`\\ ", line) for line in lines]


def refuse_types_by_colons(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Warn where a colon in the first line of "Returns:" or of a property made its beginning a type."""
    marks = (":rtype:", ":type:") if what in ("property", "attribute") else (":rtype:",)
    if any(line.startswith(marks) for line in lines):
        logging.getLogger(__name__).warning("%s: the first line of it, or of its returns, has a colon", name)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", allow_plurals)
    app.connect("autodoc-process-docstring", refuse_types_by_colons, priority=900)  # behind napoleon
