"""What must hold of the built site: `python docs/checks.py docs/_build/html` says what does not.

- Links: each one to a page, picture, file or heading of the site leads somewhere; so do those of README.md.
- Contrast: text has at least 4.5 times the luminance of what is behind it, or the other way round, as WCAG 2.2 has it
  in 1.4.3: code in light and dark, the pictures, and the pale words in what lotproc shows in notebooks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
LEAST = 4.5

# --- Links -----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The names of places in a page, and where its links go."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is not None and (name == "id" or (tag, name) == ("a", "name")):
                self.names.add(value)
            elif value is not None and name in ("href", "src"):
                self.links.append(value)


def wrong_links(site: Path) -> Iterator[str]:
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.links:
            to = urlsplit(link)
            if to.scheme or to.netloc or link == "#":
                continue
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            if not target.exists():
                yield f"{path.relative_to(site)}: {link} leads nowhere"
            elif to.fragment and target in pages and unquote(to.fragment) not in pages[target].names:
                yield f"{path.relative_to(site)}: {link} leads to no heading of that page"


def wrong_files() -> Iterator[str]:
    """Of the documents that are read beside the code."""
    for path in sorted(ROOT.glob("*.md")):
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if not urlsplit(link).scheme and not (ROOT / link).exists():
                yield f"{path.name}: {link} is not there"


# --- Contrast --------------------------------------------------------------------------------------------------------

Color = tuple[float, float, float]
COLOR = r"#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b"


def color(digits: str) -> Color:
    whole = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    red, green, blue = (int(whole[n : n + 2], 16) / 255 for n in (0, 2, 4))
    return red, green, blue


def luminance(of: Color) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in of]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Color, other: Color) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def pale_code(site: Path) -> Iterator[str]:
    """Colours of code that are like their background."""
    style = (site / "_static" / "pygments.css").read_text(encoding="utf-8")
    for theme, start in (("light", ""), ("dark", 'body[data-theme="dark"] ')):
        rules = re.findall(rf"^ *{re.escape(start)}\.highlight(?: \.(\w+))? {{ ([^}}]*)}}", style, re.MULTILINE)
        behind = color(re.findall(rf"background: *{COLOR}", dict(rules)[""])[0])
        for name, rule in rules:
            for text in re.findall(rf"(?<![-\w])color: *{COLOR}", rule):
                own = re.findall(rf"background-color: *{COLOR}", rule)
                found = contrast(color(text), color(own[0]) if own else behind)
                if found < LEAST:
                    yield f"code, {theme}: #{text} of .{name} has a contrast of {found:.1f}"


def pale_pictures() -> Iterator[str]:
    """Words of pictures; what is behind them may be white, or any box of the picture."""
    for path in sorted((ROOT / "docs").rglob("*.svg")):
        drawn = path.read_text(encoding="utf-8")
        rules = dict(re.findall(r"([.\w]+(?: \w+)?) {([^}]*fill: [^}]*)}", drawn))
        texts = {rule: fill for rule, style in rules.items() for fill in re.findall(rf"fill: {COLOR}", style)}
        boxes = {fill for rule, fill in texts.items() if "rect" in rule or rule in (".paper", ".step")}
        for rule in ("text", ".new", ".key"):
            for box in {*boxes, "ffffff"} if rule in texts else ():
                found = contrast(color(texts[rule]), color(box))
                if found < LEAST:
                    yield f"{path.name}: {rule} on #{box} has a contrast of {found:.1f}"


#: Text and background of furo and of notebooks, light and dark.
THEMES = {"light": ("000000", "ffffff"), "dark": ("cfd0d0", "131416"), "a dark notebook": ("e0e0e0", "111111")}


def pale_words() -> Iterator[str]:
    """Pale words in what lotproc shows: the colour of the page around them, partly seen through."""
    from lotproc._html import STYLE

    (opacity,) = map(float, re.findall(r"\.pale{opacity:([\d.]+)", STYLE))
    for theme, (text, behind) in THEMES.items():
        seen = [opacity * a + (1 - opacity) * b for a, b in zip(color(text), color(behind), strict=True)]
        if (found := contrast((seen[0], seen[1], seen[2]), color(behind))) < LEAST:
            yield f"pale words, {theme}: they have a contrast of {found:.1f}"


def main(site: Path) -> int:
    checks = (wrong_links(site), wrong_files(), pale_code(site), pale_pictures(), pale_words())
    found = [line for check in checks for line in check]
    print(*found, sep="\n", end="\n" if found else "")
    return len(found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()) > 0)
