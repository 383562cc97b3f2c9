"""The site as it is built, in the environment that `make docs` makes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.pages import ROOT, page
from tests.site.modules import FOLDER

PYTHON = ROOT / ".venv-docs" / "bin" / "python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not (PYTHON.parents[1] / ".ready").exists(), reason="`make docs` brings it"),
]
TOY = '''"""A module."""

def documented():
    """Is."""

def bare(): pass

class Thing:
    """A class."""

    def method(self): pass

    def _private(self): pass

def wrong(a):
    """Is.

    Args:
        b: not there.
    """
'''
CHECK = """
import sys; from pathlib import Path; import api
print("\\n".join(api.undocumented(api.load(["toy"], ["toy"], [Path(sys.argv[1])]))))
"""


def ended(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Python there, in the folder of the scripts."""
    return subprocess.run(
        [PYTHON, *map(str, arguments)],
        cwd=FOLDER, env={"PATH": "/usr/bin:/bin", **env},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with two versions of the site; the second is built over the first, renamed."""
    out = tmp_path_factory.mktemp("docs") / "site"
    done = ended("build.py", out, VERSION="0.9.0")
    assert done.returncode == 0, done.stdout + done.stderr
    (out / "0.9.0").rename(out / "0.10.0")
    done = ended("-c", f"import build; from pathlib import Path; p = Path({str(out)!r});"
                 "(p / 'new').mkdir(); (p / 'new' / 'index.html').touch();"
                 "build.publish(p / 'new', p, '0.9.0')")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def test_versions(built: Path) -> None:
    listed = json.loads((built / "versions.json").read_text(encoding="utf-8"))
    assert [(v["version"], v["aliases"]) for v in listed] == [("0.10.0", ["latest"]), ("0.9.0", [])]
    assert "url=0.10.0/" in (built / "index.html").read_text(encoding="utf-8")
    assert "url=../0.10.0/" in (built / "latest" / "index.html").read_text(encoding="utf-8")


def test_the_latest_version_is_a_release(tmp_path: Path) -> None:
    out, built = tmp_path / "site", tmp_path / "built"
    for folder in (built, *(out / name for name in ("main", "1.2.0.dev3", "1.2.0rc1", "1.10.0"))):
        folder.mkdir(parents=True)
        (folder / "index.html").touch()
    done = ended("-c", "import build; from pathlib import Path;"
                 f"build.publish(Path({str(built)!r}), Path({str(out)!r}), '1.2.0')")  # fmt: skip
    assert done.returncode == 0, done.stderr
    listed = json.loads((out / "versions.json").read_text(encoding="utf-8"))
    expected = ["1.10.0", "1.2.0", "1.2.0rc1", "1.2.0.dev3", "main"]
    assert [v["version"] for v in listed] == expected
    assert [v["aliases"] for v in listed] == [["latest"], [], [], [], []]


def test_nothing_is_loaded_from_elsewhere(built: Path) -> None:
    pages = list((built / "0.10.0").rglob("*.html"))
    assert len(pages) > 60
    for path in pages:
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:script|img|link|iframe|source)\b[^>]*(?:src|href)=\"?(\w+:)?//", text
        )
        assert loaded == [], path
    for path in (built / "0.10.0").rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", path.read_text(encoding="utf-8"))


def test_every_public_name_has_its_place(built: Path) -> None:
    import cass_client
    import cass_core

    for module in (cass_core, cass_client):
        name = module.__name__
        text = (built / "0.10.0" / "api" / name / "index.html").read_text(encoding="utf-8")
        for public in module.__all__:
            assert re.search(rf'id="?(?:{name}|cass[\w.]*)\.{public}["\s>]', text), public
        assert "&gt;&gt;&gt;" in text  # examples as code


def test_search_finds_pages_and_names(built: Path) -> None:
    text = (built / "0.10.0" / "search.json").read_text(encoding="utf-8")
    assert json.loads(text)["config"]["lang"] == ["en", "zh"]  # without zh: one word a sentence
    found = {item["location"] for item in json.loads(text)["items"]}
    assert "loaders/#maskcollate" in found
    assert not any(location.startswith("source/") for location in found)


def test_pages_say_their_language(built: Path) -> None:
    for folder, language in (("start", "en"), ("zh/start", "zh-CN")):
        text = (built / "0.10.0" / folder / "index.html").read_text(encoding="utf-8")
        assert f'<html lang="{language}"' in text


def test_undocumented_names_are_errors(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY, encoding="utf-8")
    done = ended("-c", CHECK, tmp_path)
    assert done.returncode == 0, done.stderr
    bare, method, wrong = done.stdout.splitlines()
    assert bare == "toy: toy.bare has no docstring"
    assert method == "toy: toy.Thing.method has no docstring"
    assert "Parameter 'b' does not appear in the function signature" in wrong


def test_the_requirements_are_pinned() -> None:
    lines = page("docs/site/requirements.txt").splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
