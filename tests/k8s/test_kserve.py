"""KServe's manifests fit its types, each other, the image and the server's settings."""

from __future__ import annotations

import json
import os

import pytest

from cass_core import __version__
from cass_server.config.settings import Settings
from cass_server.config.sources import load_settings
from cass_server.observability.methods import INFERENCE_NAME
from tests.k8s.manifests import (
    CHECKOUT,
    ROOT,
    Manifests,
    Object,
    build,
    image_environment,
    instructions,
    render,
    size,
)
from tests.open_inference.environment import in_environment

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def manifests() -> Manifests:
    return build(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{CHECKOUT}/docker/k8s/kserve"],
        }
    )


def container_of(manifests: Manifests) -> Object:
    (container,) = manifests.of("ServingRuntime")["spec"]["containers"]
    found: Object = container
    return found


def load(manifests: Manifests, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of the container's process, all of which have to be known."""
    for name in os.environ:
        if name.startswith("CASS_"):
            monkeypatch.delenv(name)
    variables = {one["name"]: one.get("value", "2") for one in container_of(manifests)["env"]}
    for name, value in (image_environment() | variables).items():
        if name.startswith("CASS_"):
            monkeypatch.setenv(name, value)
    loaded = load_settings({})
    assert loaded.foreign == ()
    return loaded.settings


def test_every_object_is_built(manifests: Manifests) -> None:
    assert {one["kind"] for one in manifests.objects} == {"ServingRuntime", "InferenceService"}


@pytest.mark.slow
def test_every_object_fits_kserves_types(manifests: Manifests) -> None:
    given = json.dumps(manifests.objects)
    assert in_environment("-m", "tests.open_inference.kserve_types", input=given) == "fits\n"
    odd = json.loads(given)
    odd[0]["spec"]["protocols"] = []
    with pytest.raises(AssertionError, match="protocols"):
        in_environment("-m", "tests.open_inference.kserve_types", input=json.dumps(odd))


@pytest.mark.parametrize("newest", [False, True], ids=["oldest", "newest"])
def test_the_pod_fits_kubernetes(manifests: Manifests, newest: bool) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    runtime = manifests.of("ServingRuntime")["spec"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "cass", "annotations": runtime["annotations"]},
        "spec": {"containers": runtime["containers"], "volumes": runtime["volumes"]},
    }
    validate.validate(pod, validate.latest_version() if newest else "1.30", strict=True)


def test_the_service_finds_its_runtime(manifests: Manifests) -> None:
    runtime = manifests.of("ServingRuntime")
    model = manifests.of("InferenceService")["spec"]["predictor"]["model"]
    (form,) = runtime["spec"]["supportedModelFormats"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"] == {"name": form["name"], "version": form["version"]}
    assert [model["protocolVersion"]] == runtime["spec"]["protocolVersions"] == ["grpc-v2"]


def test_ports_probes_and_drain(manifests: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, container = load(manifests, monkeypatch), container_of(manifests)
    (port,) = container["ports"]
    assert (port["name"], port["containerPort"]) == ("h2c", settings.port)
    for name in ("startupProbe", "readinessProbe"):
        assert container[name]["grpc"] == {"port": settings.port, "service": INFERENCE_NAME}
    annotations = manifests.of("ServingRuntime")["spec"]["annotations"]
    assert annotations["prometheus.kserve.io/port"] == str(settings.metrics_port)
    predictor = manifests.of("InferenceService")["spec"]["predictor"]
    assert settings.drain_seconds < predictor["terminationGracePeriodSeconds"]
    assert settings.open_inference
    assert settings.insecure


def test_the_container_is_that_of_the_deployment(manifests: Manifests) -> None:
    """Image, memory, user and what it may write."""
    container, other = container_of(manifests), render("cpu").container
    assert container["image"] == other["image"] == f"cass-server:{__version__}"
    assert container["resources"] == other["resources"]
    assert size(container["resources"]["limits"]["memory"]) >= 3 << 29
    context = container["securityContext"]
    assert other["securityContext"].items() <= context.items()
    assert set(instructions("USER")) == {f"{context['runAsUser']}:{context['runAsGroup']}"}
    assert container["volumeMounts"] == other["volumeMounts"]
    assert (ROOT / "docker" / "k8s" / "kserve" / "kustomization.yaml").is_file()
