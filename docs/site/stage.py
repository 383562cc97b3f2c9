"""The repository's Markdown as the site's generator wants it: a list of pages, links resolved.

The pages are written for readers of the repository. On the site, a link to a file that is no page
leads to a page that shows the file; a level of a list is four spaces deep; formulas are MathML.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Of the files beside docs/ that are pages; others are named for their place below docs/.
AT_TOP = {
    "README.md": "index.md",
    "README.zh.md": "zh/index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security-policy.md",
}
# Made into a page by notebook.py, whose links to files of the site have the scheme `site`.
NOTEBOOK, NOTEBOOK_PAGE = "examples/cass.ipynb", "notebook.md"
# The sections of this chapter are pages of their own.
SPLIT_PAGE, SPLIT_CHAPTER, SPLIT_FOLDER = "docs/loaders.md", "Training stacks", "stacks"

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FORMULA = re.compile(r"\$`([^`]+)`\$")
_MARKER = re.compile(r"([-*]|\d+\.) +")
_CHINESE_BREAK = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[\u3000-\u9fff\uff00-\uffef])")
# What Pygments calls the languages of files that are shown.
_LANGUAGES = {"h": "cpp", "py": "python", "ts": "typescript", "yml": "yaml"}
_KNOWN = ("cpp", "go", "json", "proto", "toml", "yaml")

Render = Callable[[str, str], str]


class PageError(Exception):
    """A page cannot be shown as it stands."""


@dataclass
class Page:
    """A page of the site: where it is there, the file that its links are relative to, its text."""

    name: str
    source: str
    text: str


@dataclass
class Site:
    """What is staged: pages by name, and files to copy, by name."""

    pages: dict[str, Page] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    def add(self, page: Page) -> None:
        """A page, once."""
        if page.name in self.pages:
            raise PageError(f"{page.source}: another page of the site is called {page.name} too")
        self.pages[page.name] = page


def anchor(title: str) -> str:
    """That of a heading, as GitHub makes it.

    Example:
        >>> anchor("RT-DETR, D-FINE, DEIM")
        'rt-detr-d-fine-deim'
    """
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def sources(root: Path = ROOT) -> list[str]:
    """The files that are pages, by their paths in the repository."""
    below = sorted(path.relative_to(root).as_posix() for path in (root / "docs").rglob("*.md"))
    return [name for name in AT_TOP if (root / name).exists()] + below


def page_name(source: str) -> str:
    """Where the page of a file is on the site."""
    return AT_TOP.get(source) or source.removeprefix("docs/")


def split(page: Page, chapter: str, folder: str) -> list[Page]:
    """The page with links in place of a chapter's sections, and a page for each section."""
    before, heading, rest = page.text.partition(f"\n## {chapter}\n")
    if not heading:
        raise PageError(f"{page.source}: has no chapter '{chapter}'")
    body, after_heading, after = rest.partition("\n## ")
    intro, *sections = re.split(r"^### (.*)$", body, flags=re.MULTILINE)
    pages, items = [], []
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        name = f"{folder}/{anchor(title)}.md"
        pages.append(Page(name, page.source, f"# {title}{text}"))
        # From where the file is, as all links are until they are resolved.
        items.append(f"- [{title}](#{anchor(title)})\n")
    listed = "".join([before, heading, intro, *items, after_heading, after])
    return [Page(page.name, page.source, listed), *pages]


def stage(root: Path = ROOT, render: Render | None = None, more: Iterable[Page] = ()) -> Site:
    """All pages and the files that they show, with links that lead within the site.

    ``render`` makes HTML of a formula and its display, by default MathML; ``more`` are pages beside
    the Markdown files.
    """
    site = Site()
    for page in more:
        site.add(page)
    sections: dict[str, str] = {}  # anchors that have become pages
    for source in sources(root):
        page = Page(page_name(source), source, (root / source).read_text(encoding="utf-8"))
        if source == SPLIT_PAGE:
            page, *parts = split(page, SPLIT_CHAPTER, SPLIT_FOLDER)
            for part in parts:
                site.add(part)
                sections[posixpath.basename(part.name).removesuffix(".md")] = part.name
        site.add(page)
    for page in list(site.pages.values()):

        def resolved(link: str, page: Page = page) -> str:
            return _resolved(link, page, site, sections, root)

        page.text = for_generator(page.text, resolved, render or mathml)
    return site


def _resolved(link: str, page: Page, site: Site, sections: dict[str, str], root: Path) -> str:
    """A link of a page as it is on the site; the file that it leads to is taken along."""
    if re.match(r"https?://|mailto:", link):
        return link
    if link.startswith("site:"):
        return posixpath.relpath(link.removeprefix("site:"), posixpath.dirname(page.name) or ".")
    path, _, at = link.partition("#")
    here = posixpath.dirname(page.source)
    target = posixpath.normpath(posixpath.join(here, path)) if path else page.source
    file = root / target
    if target.startswith("..") or not file.exists():
        raise PageError(f"{page.source}: '{link}' leads nowhere")
    if target == SPLIT_PAGE and at in sections:
        name, at = sections[at], ""
    elif not path and at in {anchor(title) for title in _HEADING.findall(page.text)}:
        name = page.name
    elif target == NOTEBOOK:
        name = NOTEBOOK_PAGE
    elif file.suffix == ".md":
        name = page_name(target)
    elif target.startswith("docs/") and file.is_file():
        name = target.removeprefix("docs/")
        site.files[name] = file
    else:
        name = _shown(target, site, root)
    relative = posixpath.relpath(name, posixpath.dirname(page.name) or ".")
    return f"{relative}#{at}" if at else relative


def _shown(target: str, site: Site, root: Path) -> str:
    """The page that shows a file of the repository, or what is in a folder."""
    file = root / target
    name = f"source/{target}/index.md" if file.is_dir() else f"source/{target}.md"
    if name in site.pages:
        return name
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {target}\n\n"
    if file.is_dir():
        inside = sorted(p for p in file.iterdir() if not p.name.startswith((".", "__pycache__")))
        lines = [f"- {p.name}/" if p.is_dir() else f"- `{p.name}`" for p in inside]
        text = "\n".join(lines)
    else:
        ending = file.suffix.removeprefix(".")
        language = _LANGUAGES.get(ending, ending if ending in _KNOWN else "text")
        content = file.read_text(encoding="utf-8").rstrip("\n")
        text = f"````{language}\n{content}\n````"
    site.add(Page(name, target, f"{head}{text}\n"))
    return name


def for_generator(text: str, resolved: Callable[[str], str], render: Render) -> str:
    """A page's text with links, lists and formulas as the generator wants them."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        indent, language, code = match.groups()
        whole = match[0]
        if language == "math":
            whole = f"{indent}{render(code, 'block')}"
        kept.append(re.sub(f"^{indent}", "", whole, flags=re.MULTILINE))
        return f"{indent}\0{len(kept) - 1}\0"

    text = _FENCED.sub(keep, text)
    text = _CHINESE_BREAK.sub("", text)
    lines = [
        # What is indented by four is code, whose brackets are no links.
        line if line.startswith("    ") else _LINK.sub(lambda link: resolved(link[1]), line)
        for line in text.split("\n")
    ]
    text = "\n".join(deeper_lists(lines))
    text = _FORMULA.sub(lambda m: render(m[1], "inline"), text)

    def give_back(match: re.Match[str]) -> str:
        indent, number = match.groups()
        return re.sub("^(?=.)", indent, kept[int(number)], flags=re.MULTILINE)

    return re.sub("^( *)\0(\\d+)\0", give_back, text, flags=re.MULTILINE)


def deeper_lists(lines: Iterable[str]) -> list[str]:
    """The lines with what belongs to an item indented by four a level, and lists set off.

    Example:
        >>> deeper_lists(["text", "- item", "  more", "", "      code", "  - inner", "end"])
        ['text', '', '- item', '    more', '', '        code', '', '    - inner', 'end']
    """
    out: list[str] = []
    columns: list[int] = []  # where the content of each open item begins
    for line in lines:
        if not line.strip():
            out.append("")
            continue
        indent = len(line) - len(line.lstrip(" "))
        open_items = len(columns)
        while columns and indent < columns[-1]:
            columns.pop()
        begin = columns[-1] if columns else 0
        marker = _MARKER.match(line, begin)
        if marker and len(columns) == open_items and out and out[-1]:
            out.append("")  # an item after text begins a list
        out.append("    " * len(columns) + line[begin:])
        if marker:
            columns.append(marker.end())
    return out


def mathml(formula: str, display: str) -> str:
    """TeX as MathML, which browsers render by themselves."""
    from latex2mathml.converter import convert

    made = str(convert(" ".join(formula.split()), display=display))
    made = re.sub(r"(<mi>(?:log|exp)</mi>)(?=<mi>)", r'\1<mspace width="0.17em"/>', made)
    # At the beginning of a line `math` would begin a block.
    return f"<span>{made}</span>" if display == "inline" else made
