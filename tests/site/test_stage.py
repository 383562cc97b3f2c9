"""How the repository's pages become those of the site; the generator is not needed for it."""

from __future__ import annotations

import doctest
import tomllib
from pathlib import Path

import pytest

from tests.e2e.pages import page
from tests.site.modules import site_module

stage = site_module("stage")
navigation = site_module("navigation")
notebook = site_module("notebook")


def write(root: Path, **files: str) -> Path:
    """A repository with these files; ``__`` stands for a slash and ``_`` before md for the dot."""
    for name, text in {"README_md": "# R\n", "docs__loaders_md": LOADERS, **files}.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def tex(formula: str, display: str) -> str:
    """A formula as it is."""
    return f"<{display}>{formula.strip()}</{display}>"


LOADERS = """# Loaders

## Training stacks

In [lines](../README.md).

### One, two

Of [all](#training-stacks).

### Three

## After

[One](#one-two)
"""


def test_doctests() -> None:
    assert doctest.testmod(stage) == doctest.TestResults(failed=0, attempted=2)


def test_each_section_of_stacks_is_a_page(tmp_path: Path) -> None:
    pages = stage.stage(write(tmp_path)).pages
    assert sorted(pages) == ["index.md", "loaders.md", "stacks/one-two.md", "stacks/three.md"]
    assert (
        "- [One, two](stacks/one-two.md)\n- [Three](stacks/three.md)\n" in pages["loaders.md"].text
    )
    assert pages["loaders.md"].text.endswith("## After\n\n[One](stacks/one-two.md)\n")
    assert pages["stacks/one-two.md"].text == (
        "# One, two\n\nOf [all](../loaders.md#training-stacks).\n\n"
    )


def test_a_dead_link_is_an_error(tmp_path: Path) -> None:
    root = write(tmp_path, docs__a_md="# A\n\n[no](b.md)\n")
    with pytest.raises(stage.PageError, match=r"docs/a\.md: 'b\.md' leads nowhere"):
        stage.stage(root)


def test_files_and_pictures(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        docs__a_md="# A\n\n[code](../src/x.py) ![p](p.png)\n\n```sh\n[x](no.md)\n```\n",
        src__x_py="x = 1\n",
        docs__p_png="",
    )
    site = stage.stage(root)
    assert site.pages["a.md"].text == (
        "# A\n\n[code](source/src/x.py.md) ![p](p.png)\n\n```sh\n[x](no.md)\n```\n"
    )
    assert site.pages["source/src/x.py.md"].text.endswith("# src/x.py\n\n````python\nx = 1\n````\n")
    assert site.files == {"p.png": root / "docs" / "p.png"}


def test_lists_keep_their_fences() -> None:
    text = "- one:\n\n  ```sh\n  a\n    b\n  ```\n\n- two\n"
    expected = "- one:\n\n    ```sh\n    a\n      b\n    ```\n\n- two\n"
    assert stage.for_generator(text, str, tex) == expected


def test_chinese_lines_are_joined() -> None:
    assert stage.for_generator("一，\n二 a\n三\n", str, tex) == "一，二 a\n三\n"


def test_formulas() -> None:
    text = "Of $`a_i`$:\n\n```math\nx\n```\n\n- and\n\n  ```math\n  y\n  ```\n"
    expected = "Of <inline>a_i</inline>:\n\n<block>x</block>\n\n- and\n\n    <block>y</block>\n"
    assert stage.for_generator(text, str, tex) == expected


def test_a_page_in_no_navigation_is_an_error() -> None:
    with pytest.raises(stage.PageError, match=r"in no entry of `nav` .*: lost\.md"):
        navigation.check_nav(
            [{"A": "a.md"}, {"B": [{"C": "c.md"}]}], {"a.md", "c.md", "lost.md"}, []
        )


def test_the_navigation_has_every_page() -> None:
    config = tomllib.loads(page("docs/site/zensical.toml"))["project"]
    names = set(stage.stage(render=tex, more=[notebook.notebook_page({})]).pages)
    nav = navigation.listed(config["nav"], names, dict.fromkeys(names, ""))
    navigation.check_nav(nav, names, config["not_listed"])


def test_the_notebook_is_a_page() -> None:
    pictures: dict[str, bytes] = {}
    made = notebook.notebook_page(pictures)
    assert made.text.startswith("# From boxes to masks to a trained predictor\n")
    assert len(pictures) == made.text.count("](site:notebook-") == 4
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    site = stage.stage(render=tex, more=[made])
    assert "](notebook-4.png)" in site.pages["notebook.md"].text
    assert "[method](method.md)" in site.pages["notebook.md"].text
