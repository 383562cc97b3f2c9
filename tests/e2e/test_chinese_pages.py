"""The Chinese pages are in step with the English ones: headings, programs, formulas, pictures."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.pages import PAGES, ROOT, original, page, shell_blocks

_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
NAMES = [n for p in PAGES if (n := p.relative_to(ROOT).as_posix()) != original(n)]
FIX = "change the Chinese page with the English one"


def prose(text: str) -> str:
    """A page without its code."""
    return _FENCED.sub("", text)


def levels(text: str) -> list[int]:
    """The depths of the headings."""
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(text), re.MULTILINE)]


def links(name: str) -> Counter[str]:
    """What a page leads to, as paths in the repository, of Chinese pages the English ones."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page(name)))
    paths = [link.partition("#")[0] for link in found if not link.startswith(("https:", "#"))]
    folder = (ROOT / name).parent
    return Counter(
        original(Path(folder, path).resolve().relative_to(ROOT).as_posix()) for path in paths
    )


def code_words(text: str) -> set[str]:
    """Formulas and names within the prose."""
    return set(re.findall(r"\$?`[^`\n]+`\$?", prose(text)))


def test_the_pages() -> None:
    assert set(NAMES) == {
        "README.zh.md",
        *(f"docs/zh/{n}.md" for n in ("start", "training", "method")),
    }


@pytest.mark.parametrize("name", NAMES)
def test_headings(name: str) -> None:
    assert levels(page(name)) == levels(page(original(name))), FIX


@pytest.mark.parametrize("name", NAMES)
def test_code(name: str) -> None:
    chinese, english = page(name), page(original(name))
    assert _FENCED.findall(chinese) == _FENCED.findall(english), FIX
    assert shell_blocks(chinese) == shell_blocks(english), FIX


@pytest.mark.parametrize("name", NAMES)
def test_names_and_formulas(name: str) -> None:
    assert code_words(page(name)) == code_words(page(original(name))), FIX


@pytest.mark.parametrize("name", NAMES)
def test_links_and_pictures(name: str) -> None:
    # Of their own they have the way to the other language.
    own = original(name)
    chinese, english = links(name), links(own)
    del chinese[own], english[own]
    assert chinese == english, FIX


@pytest.mark.parametrize("name", NAMES)
def test_numbers(name: str) -> None:
    """Those of the prose; a sentence may say "twice" in one language alone."""
    number = re.compile(r"(?<![\w.])[+-]?\d[\d,.]*\d|(?<![\w.])\d(?![\w.])")
    chinese, english = (
        {found for found in number.findall(prose(page(n)).replace("，", " , ")) if len(found) > 1}
        for n in (name, original(name))
    )
    assert chinese == english, FIX


@pytest.mark.parametrize("name", NAMES)
def test_lines_end_where_a_space_is_not_seen(name: str) -> None:
    """Browsers show the end of a line as a space, which Chinese does not have."""
    lines = page(name).splitlines()
    for before, after in itertools.pairwise(lines):
        ends = before[-1:] + after.strip()[:1]
        assert not re.fullmatch("[\u4e00-\u9fff]{2}", ends), f"{before}\n{after}"
