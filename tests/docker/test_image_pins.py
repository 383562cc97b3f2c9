"""What docker/images.py and docker/audit.py make of a registry's and of pip-audit's answers."""

from __future__ import annotations

import doctest
import json
import runpy
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.docker.conftest import ROOT

IMAGES = runpy.run_path(str(ROOT / "docker" / "images.py"))
AUDIT = runpy.run_path(str(ROOT / "docker" / "audit.py"))
parse, check = IMAGES["parse"], IMAGES["check"]

NOW, BEFORE, GONE = ("sha256:" + digit * 64 for digit in "123")


class _Registry(BaseHTTPRequestHandler):
    """As https://distribution.github.io/distribution/spec/api has it; gives tokens to everybody."""

    has = {"v1": NOW, NOW: NOW, BEFORE: BEFORE}  # noqa: RUF012

    def do_GET(self) -> None:
        assert self.path == "/token?service=registry&scope=repository%3Amine%2Fapp%3Apull"
        self._answer(200, body=json.dumps({"token": "of-this-test"}).encode())

    def do_HEAD(self) -> None:
        if self.headers["Authorization"] != "Bearer of-this-test":
            realm = f"http://127.0.0.1:{self.server.server_address[1]}/token"
            scope = "repository:mine/app:pull"
            told = f'Bearer realm="{realm}",service="registry",scope="{scope}"'
            self._answer(401, ("WWW-Authenticate", told))
        elif self.path == "/v2/mine/broken/manifests/v1":
            self._answer(500)
        elif self.path == "/v2/mine/odd/manifests/v1":
            self.wfile.write(b"220 mail.example\r\n")
        elif digest := self.has.get(self.path.removeprefix("/v2/mine/app/manifests/")):
            self._answer(200, ("Docker-Content-Digest", digest))
        else:
            self._answer(404)

    def _answer(self, code: int, *headers: tuple[str, str], body: bytes = b"") -> None:
        self.send_response(code)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def registry() -> Iterator[str]:
    """The address of a registry on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Registry) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_what_a_registry_has(registry: str) -> None:
    image = parse(f"{registry}/mine/app:v1@{NOW}")
    assert check(image) == "is as pinned"
    assert check(image._replace(digest="")) == f"is not pinned; the tag is {NOW}"
    assert check(image._replace(digest=BEFORE)) == f"is there; the tag has moved to {NOW}"


def test_what_a_registry_does_not_have(registry: str) -> None:
    image = parse(f"{registry}/mine/app:v1@{GONE}")
    with pytest.raises(IMAGES["NotThereError"], match=f"has no {GONE}"):
        check(image)
    with pytest.raises(IMAGES["NotThereError"], match="has no tag v2"):
        check(image._replace(tag="v2"))


def test_a_registry_that_does_not_answer(registry: str) -> None:
    with pytest.raises(IMAGES["NotCheckedError"], match="HTTP 500"):
        check(parse(f"{registry}/mine/broken:v1"))
    for reference in ("127.0.0.1:1/mine/app:v1", f"{registry}/mine/odd:v1"):
        with pytest.raises(IMAGES["NotCheckedError"], match=r"127\.0\.0\.1:"):
            check(parse(reference))


def test_every_base_has_a_digest_and_the_stack_s_images_are_looked_up() -> None:
    found = list(IMAGES["images"]())
    names = {image.name for image in found}
    assert {"library/python", "nvidia/cuda", "library/haproxy", "grafana/grafana"} <= names
    options = IMAGES["contexts"]()
    assert len(options) == 4
    for context in options[1::2]:
        name, _, digest = context.partition("=docker-image://")
        assert f"FROM {name} AS" in (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
        assert len(digest.partition("@sha256:")[2]) == 64


@pytest.mark.parametrize("name", ["images", "audit", "requirements"])
def test_examples(name: str) -> None:
    script = runpy.run_path(str(ROOT / "docker" / f"{name}.py"))
    runner = doctest.DocTestRunner()
    for thing in script.values():
        if getattr(thing, "__doc__", None) and getattr(thing, "__module__", "") == "<run_path>":
            for example in doctest.DocTestFinder(recurse=False).find(thing, globs=script):
                runner.run(example)
    results = runner.summarize()
    assert results.attempted > 0
    assert results.failed == 0
    assert runner.tries > 0


def test_vulnerabilities_that_are_found_and_explained() -> None:
    """As pip-audit's documentation shows its JSON."""
    dependencies = [
        {"name": "numpy", "version": "2.4.6", "vulns": []},
        {
            "name": "flask",
            "version": "0.5",
            "vulns": [
                {"id": "PYSEC-2019-179", "fix_versions": ["1.0"], "aliases": ["CVE-2019-1010083"]},
                {"id": "PYSEC-2018-66", "fix_versions": [], "aliases": ["CVE-2018-1000656"]},
            ],
        },
        {"name": "mine", "skip_reason": "not on PyPI"},
    ]
    found, unchecked, checked = AUDIT["judge"](dependencies, {"CVE-2019-1010083": "not called"})
    assert found == ["flask 0.5: PYSEC-2018-66, mended by no version yet"]
    assert unchecked == ["mine was not checked: not on PyPI"]
    assert checked == 2
    assert len(AUDIT["judge"](dependencies, {})[0]) == 2
