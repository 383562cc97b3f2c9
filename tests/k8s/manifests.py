"""The manifests as a cluster is given them, and what the process of a pod is started with."""

from __future__ import annotations

import functools
import math
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker" / "k8s"

VARIANTS = (("cpu",), ("gpu",), ("cpu", "tls"), ("gpu", "tls", "tokens"))
"""An overlay each, and the components that are added to it."""

CHECKOUT = "cass"
"""The folder of the repository, beside the kustomization that is built."""

Object = dict[str, Any]

_RENDER_SECONDS = 30.0
_POWERS = {"Ki": 10, "Mi": 20, "Gi": 30}


@dataclass(frozen=True)
class Manifests:
    """All objects of a variant."""

    objects: tuple[Object, ...]

    def of(self, kind: str) -> Object:
        """The one object of this kind."""
        (found,) = (one for one in self.objects if one["kind"] == kind)
        return found

    @property
    def labels(self) -> dict[str, str]:
        """The labels of a pod."""
        return self.of("Deployment")["spec"]["template"]["metadata"]["labels"]

    @property
    def pod(self) -> Object:
        """The specification of a pod."""
        return self.of("Deployment")["spec"]["template"]["spec"]

    @property
    def container(self) -> Object:
        """The one container of a pod."""
        (found,) = self.pod["containers"]
        return found

    @property
    def probes(self) -> dict[str, Object]:
        """The container's probes by their names."""
        return {name: self.container[name] for name in self.container if name.endswith("Probe")}

    def environment(self) -> dict[str, str]:
        """The variables of the container's process that are not those of the image."""
        return {entry["name"]: self._value(entry) for entry in self.container["env"]}

    def _value(self, entry: Object) -> str:
        if "value" in entry:
            value: str = entry["value"]
            return value
        # By the downward API, which rounds cores up.
        kind, resource = entry["valueFrom"]["resourceFieldRef"]["resource"].split(".")
        return str(math.ceil(float(self.container["resources"][kind][resource])))


@functools.cache
def render(overlay: str, *components: str) -> Manifests:
    """An overlay, with components added to it; skips without Kustomize."""
    return build(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{CHECKOUT}/docker/k8s/overlays/{overlay}"],
            "components": [f"{CHECKOUT}/docker/k8s/components/{name}" for name in components],
        }
    )


def build(kustomization: Object) -> Manifests:
    """What Kustomize makes of it, beside a checkout of the repository; skips without Kustomize."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, CHECKOUT).symlink_to(ROOT)
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        done = subprocess.run(
            [*_kustomize(), folder],
            capture_output=True,
            text=True,
            timeout=_RENDER_SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return Manifests(tuple(yaml.safe_load_all(done.stdout)))


def _kustomize() -> list[str]:
    for program, command in (("kubectl", "kustomize"), ("kustomize", "build")):
        if shutil.which(program):
            return [program, command]
    pytest.skip("needs kubectl or kustomize")


def size(quantity: str) -> int:
    """The bytes of a quantity such as 1536Mi."""
    return int(quantity[:-2]) << _POWERS[quantity[-2:]]


def instructions(name: str) -> list[str]:
    """The arguments of an instruction in the Dockerfile, each time it is there."""
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", dockerfile, re.MULTILINE)


def image_environment() -> dict[str, str]:
    """The variables that the servers' images set."""
    pairs = " ".join(instructions("ENV")).split()
    return dict(pair.split("=", 1) for pair in pairs)
