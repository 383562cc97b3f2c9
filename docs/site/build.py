"""Builds the documentation site (`make docs`), into out/site/VERSION, or another folder than that.

    python docs/site/build.py [FOLDER]

A link that leads nowhere, a public name without a docstring, and a page that the navigation does
not have fail it. Versions that are there already stay, and are offered to the reader.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import api
import notebook
import stage
from navigation import check_nav, listed
from packaging.version import InvalidVersion, Version

HERE = Path(__file__).parent
FOLDERS = [stage.ROOT, *(stage.ROOT / part for part in ("client", "proto"))]
REDIRECT = '<!doctype html><meta http-equiv="refresh" content="0; url={0}"><a href="{0}">{0}</a>\n'


def version() -> str:
    """That of the packages, or VERSION."""
    source = (stage.ROOT / "cass_core" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    assert found is not None
    return os.environ.get("VERSION") or found[1]


def write_pages(folder: Path) -> tuple[set[str], dict[str, str]]:
    """Lay out all that the generator reads; the pages' names and titles."""
    pictures: dict[str, bytes] = {}
    site = stage.stage(more=[notebook.notebook_page(pictures)])
    texts = {name: page.text for name, page in site.pages.items()}
    texts |= api.pages(api.load(api.MODULES, api.PACKAGES, FOLDERS))
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)
    for name, file in site.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
    shutil.copy(HERE / "site.css", folder)
    titles = {name: _title(text) for name, text in texts.items()}
    return set(texts), titles


def _title(text: str) -> str:
    found = re.search("^# (.+)$", text, re.MULTILINE)
    # Of an API page the module's name alone.
    return found[1].partition(": ")[0].replace("`", "") if found else "untitled"


def configure(names: set[str], titles: dict[str, str]) -> dict[str, Any]:
    """The generator's configuration, with the pages and folders that are there."""
    config: dict[str, Any] = tomllib.loads((HERE / "zensical.toml").read_text(encoding="utf-8"))
    project: dict[str, Any] = config["project"]
    project["nav"] = listed(project["nav"], names, titles)
    check_nav(project["nav"], names, project.pop("not_listed"))
    python = project["plugins"]["mkdocstrings"]["handlers"]["python"]
    python["paths"] = [str(path) for path in FOLDERS]
    python["options"]["preload_modules"] = list(api.PACKAGES)
    python["options"]["extensions"] = [f"{HERE / 'docstrings.py'}:Docstrings"]
    return project | {"docs_dir": "pages", "site_dir": "site"}


def mark_chinese(built: Path) -> None:
    """Set what the generator sets for one language a site: that of pages, and that of search."""
    for page in (built / "zh").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace('<html lang="en"', '<html lang="zh-CN"', 1), encoding="utf-8")
    path = built / "search.json"
    search = json.loads(path.read_text(encoding="utf-8"))
    search["config"]["lang"] = ["en", "zh"]
    path.write_text(json.dumps(search, ensure_ascii=False), encoding="utf-8")


def publish(built: Path, out: Path, name: str) -> None:
    """Put a built site beside the other versions, and list them."""
    shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    shutil.move(built, out / name)
    names = {path.parent.name for path in out.glob("*/index.html")} - {"latest"}
    found = sorted(names, key=_order, reverse=True)
    entries = [{"version": v, "title": v, "aliases": ["latest"][: v == found[0]]} for v in found]
    (out / "versions.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    (out / "latest").mkdir(exist_ok=True)
    (out / "latest" / "index.html").write_text(REDIRECT.format(f"../{found[0]}/"), encoding="utf-8")
    (out / "index.html").write_text(REDIRECT.format(f"{found[0]}/"), encoding="utf-8")


def _order(name: str) -> tuple[bool, Version]:
    """Versions by PEP 440, after names that are none, such as a branch's."""
    try:
        return True, Version(name)
    except InvalidVersion:
        return False, Version("0")


def main(out: Path) -> None:
    """Build it."""
    work = out.with_name(f"{out.name}-pages")
    shutil.rmtree(work, ignore_errors=True)
    try:
        names, titles = write_pages(work / "pages")
        config = configure(names, titles)
    except (stage.PageError, api.UndocumentedError) as error:
        sys.exit(str(error))
    # YAML, as JSON is.
    (work / "mkdocs.yml").write_text(json.dumps(config, indent=2), encoding="utf-8")
    generator = Path(sys.executable).with_name("zensical")
    done = subprocess.run([generator, "build", "--strict", "--clean"], cwd=work, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    mark_chinese(work / "site")
    publish(work / "site", out, version())
    print(f"{out / version()}: {len(names)} pages")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else stage.ROOT / "out" / "site")
