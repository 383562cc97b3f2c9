"""Says of the images that are built on and run whether their registries have them, as pinned.

The Dockerfile and the stack name exact tags, docker/images.txt the digests of these.

    images.py check [--required]    looks each one up; exits with 1 if one is not there, and with
                                    --required also if one cannot be looked up
    images.py contexts              options that have `docker buildx build` take the digests
"""

from __future__ import annotations

import http.client
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

_SECONDS = 20.0
_HUB = "docker.io"
# An index of several platforms, or the manifest of one; https://github.com/opencontainers/image-spec
_KINDS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)


class Image(NamedTuple):
    """An image by its registry, name, tag and, if it is pinned, digest.

    Example:
        >>> parse("python:3.11.16@sha256:ab")
        Image(registry='docker.io', name='library/python', tag='3.11.16', digest='sha256:ab')
    """

    registry: str
    name: str
    tag: str
    digest: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}:{self.tag}"


class NotThereError(Exception):
    """The registry answers that it has no such tag or digest."""


class NotCheckedError(Exception):
    """The registry does not answer, or not as registries do."""


def parse(reference: str) -> Image:
    """An image by what `docker pull` takes: registry and digest may be left out."""
    named, _, digest = reference.partition("@")
    path, _, tag = named.rpartition(":")
    registry, _, name = path.partition("/")
    # As Docker tells a registry from the first part of a name.
    if not name or not ("." in registry or ":" in registry or registry == "localhost"):
        registry, name = _HUB, path
    if registry == _HUB and "/" not in name:
        name = f"library/{name}"
    return Image(registry, name, tag, digest)


def _dockerfile_bases() -> list[str]:
    """What the Dockerfile builds on, as it is written there, without its own stages."""
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    stages = set(re.findall(r"^FROM .* AS (\S+)$", dockerfile, re.MULTILINE))
    named = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    return sorted(set(named) - stages)


def images() -> list[Image]:
    """All images of others, the Dockerfile's and the stack's, with the digests that are known."""
    compose = (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
    named = [*_dockerfile_bases(), *re.findall(r"image: \$\{\w+:-(\S+)\}", compose)]
    locked = _locked()
    found = map(parse, named)
    return [image._replace(digest=locked.get(str(image), "")) for image in found]


def contexts() -> list[str]:
    """Options of `docker buildx build` that put a digest in the place of each tag."""
    locked = _locked()
    options = []
    for base in _dockerfile_bases():
        image = parse(base)
        pinned = f"docker-image://{image.registry}/{image.name}@{locked[str(image)]}"
        options += ["--build-context", f"{base}={pinned}"]
    return options


def digest_of(image: Image, reference: str) -> str:
    """The digest that a registry has for a tag, or for a digest.

    Raises:
        NotThereError: it has none.
        NotCheckedError: it cannot be asked.
    """
    host = "registry-1.docker.io" if image.registry == _HUB else image.registry
    # As Docker does: a registry on this machine needs no TLS.
    scheme = "http" if host.split(":")[0] in ("localhost", "127.0.0.1") else "https"
    url = f"{scheme}://{host}/v2/{image.name}/manifests/{reference}"
    try:
        try:
            headers = _head(url)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            headers = _head(url, _token(error.headers["WWW-Authenticate"]))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise NotThereError from None
        raise NotCheckedError(f"HTTP {error.code} from {host}") from None
    except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError) as error:
        raise NotCheckedError(f"{host}: {error}") from None
    found = headers["Docker-Content-Digest"]
    if not found:
        raise NotCheckedError(f"{host} names no digest")
    return str(found)


def check(image: Image) -> str:
    """What there is to say of one image whose tag is there, and its digest if it is pinned.

    Raises:
        NotThereError: one of them is not, by its words.
        NotCheckedError: the registry cannot be asked.
    """
    try:
        now = digest_of(image, image.tag)
    except NotThereError:
        raise NotThereError(f"has no tag {image.tag}") from None
    if not image.digest:
        return f"is not pinned; the tag is {now}"
    try:
        digest_of(image, image.digest)
    except NotThereError:
        raise NotThereError(f"has no {image.digest}; the tag is {now}") from None
    return "is as pinned" if now == image.digest else f"is there; the tag has moved to {now}"


def main() -> None:
    """Run one of the commands."""
    command, *options = sys.argv[1:] or [""]
    if command == "contexts" and not options:
        print(" ".join(contexts()))
        return
    if command != "check" or options not in ([], ["--required"]):
        sys.exit(__doc__)
    failed = unchecked = 0
    for image in images():
        try:
            print(f"{image} {check(image)}")
        except NotThereError as error:
            failed += 1
            print(f"{image} {error}")
        except NotCheckedError as error:
            unchecked += 1
            print(f"{image} was not checked: {error}")
    sys.exit(failed > 0 or (unchecked > 0 and options != []))


def _locked() -> dict[str, str]:
    """Digests by images."""
    text = (ROOT / "docker" / "images.txt").read_text(encoding="utf-8")
    pinned = (parse(line) for line in text.splitlines() if line and not line.startswith("#"))
    return {str(image): image.digest for image in pinned}


def _head(url: str, token: str = "") -> Message:
    request = urllib.request.Request(url, headers={"Accept": _KINDS}, method="HEAD")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        headers: Message = answer.headers
        return headers


def _token(challenge: str) -> str:
    """One that registries give to everybody; https://distribution.github.io/distribution."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = urllib.parse.urlencode({"service": fields["service"], "scope": fields["scope"]})
    with urllib.request.urlopen(f"{fields['realm']}?{query}", timeout=_SECONDS) as answer:
        return str(json.load(answer)["token"])


if __name__ == "__main__":
    main()
