"""The manifests fit Kubernetes' schemas, each other, the images and the server's settings."""

from __future__ import annotations

import inspect
import json
import os
import runpy
from pathlib import PurePosixPath

import pytest

from cass.contract import SERVICE_NAME
from cass_core import __version__
from cass_server.config.settings import Settings
from cass_server.config.sources import load_settings
from cass_server.process.supervisor import Supervisor
from tests.k8s.manifests import (
    ROOT,
    VARIANTS,
    Manifests,
    Object,
    image_environment,
    instructions,
    render,
    size,
)

pytestmark = pytest.mark.timeout(60)

OLDEST = "1.30"
"""The first Kubernetes in which a preStop hook may sleep without a feature gate."""

GIB = 1 << 30


@pytest.fixture(params=VARIANTS, ids="+".join)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return render(*request.param)


def load(manifests: Manifests, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a pod's process, all of which have to be known."""
    for name in os.environ:
        if name.startswith("CASS_"):
            monkeypatch.delenv(name)
    for name, value in (image_environment() | manifests.environment()).items():
        if name.startswith("CASS_"):
            monkeypatch.setenv(name, value)
    loaded = load_settings({})
    assert loaded.foreign == ()
    return loaded.settings


def includes(labels: dict[str, str], selector: dict[str, str]) -> bool:
    """Whether pods with these labels are selected, by something."""
    return bool(selector) and selector.items() <= labels.items()


@pytest.mark.parametrize("newest", [False, True], ids=["oldest", "newest"])
def test_every_object_fits_the_schemas(manifests: Manifests, newest: bool) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    version = validate.latest_version() if newest else OLDEST
    for one in manifests.objects:
        validate.validate(one, version, strict=True)


def test_what_belongs_to_a_variant(manifests: Manifests) -> None:
    assert sorted(one["kind"] for one in manifests.objects) == [
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
    ]


def test_selectors_select_the_pods(manifests: Manifests) -> None:
    deployment = manifests.of("Deployment")
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        manifests.of("Service")["spec"]["selector"],
        manifests.of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        manifests.of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(
            spread["labelSelector"]["matchLabels"]
            for spread in manifests.pod["topologySpreadConstraints"]
        ),
    ]
    assert all(includes(manifests.labels, selector) for selector in selectors)
    target = manifests.of("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"]


def test_ports_are_those_of_the_images(
    manifests: Manifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(manifests, monkeypatch)
    ports = {port["name"]: port["containerPort"] for port in manifests.container["ports"]}
    assert ports == {"grpc": settings.port, "metrics": settings.metrics_port}
    assert set(instructions("EXPOSE")) == {f"{ports['grpc']} {ports['metrics']}"}
    (service_port,) = manifests.of("Service")["spec"]["ports"]
    assert ports[service_port["targetPort"]] == service_port["port"] == ports["grpc"]
    rules = manifests.of("NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for rule in rules for port in rule["ports"]] == list(ports.values())
    annotations = manifests.of("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])


def test_settings_are_those_that_the_manifests_tell_of(
    manifests: Manifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(manifests, monkeypatch)
    on_gpu = "nvidia.com/gpu" in manifests.container["resources"]["limits"]
    assert settings.device == ("cuda" if on_gpu else "cpu")
    # Memory is counted for one.
    assert settings.workers == 1
    # A server that every address reaches is told to be without TLS, or has it.
    assert settings.insecure == (settings.tls_certificate is None)


def test_a_drain_ends_within_the_grace_period(
    manifests: Manifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = manifests.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = load(manifests, monkeypatch).drain_seconds
    # How long the supervisor of a GPU's worker waits for it to end, until it kills it.
    margin = inspect.signature(Supervisor).parameters["margin_seconds"].default
    assert hook + drain + margin < manifests.pod["terminationGracePeriodSeconds"]
    assert hook < manifests.probes["livenessProbe"]["terminationGracePeriodSeconds"]


def test_memory_holds_a_full_queue(manifests: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    """And as much to compute it, and half a GiB for the process."""
    settings = load(manifests, monkeypatch)
    resources = manifests.container["resources"]
    limit = size(resources["limits"]["memory"])
    assert limit >= 2 * settings.max_queue_bytes * int(settings.workers) + GIB // 2
    assert resources["requests"]["memory"] == resources["limits"]["memory"]


def test_a_pod_is_as_the_restricted_standard_wants_it(manifests: Manifests) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/."""
    pod, container = manifests.pod, manifests.container
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert set(instructions("USER")) == {user}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected", "secret"}
    assert all(volume.keys() - {"name"} <= allowed for volume in pod["volumes"])


def test_what_the_server_writes_is_on_a_volume(manifests: Manifests) -> None:
    written = {
        name: PurePosixPath(value)
        for name, value in image_environment().items()
        if name == "HOME" or name.endswith("_CACHE_DIR")
    }
    assert len(written) > 1
    volumes = {volume["name"]: volume for volume in manifests.pod["volumes"]}
    writable = [
        PurePosixPath(mount["mountPath"])
        for mount in manifests.container["volumeMounts"]
        if "emptyDir" in volumes[mount["name"]]
    ]
    for path in written.values():
        assert any(path.is_relative_to(mount) for mount in writable), path


def test_the_kubelet_probes_the_service_where_there_is_no_tls(manifests: Manifests) -> None:
    probes = manifests.probes
    assert probes.keys() == {"startupProbe", "readinessProbe", "livenessProbe"}
    ports = {port["name"]: port["containerPort"] for port in manifests.container["ports"]}
    if "CASS_TLS_CERTIFICATE" not in manifests.environment():
        for probe in probes.values():
            assert probe["grpc"] == {"port": ports["grpc"], "service": SERVICE_NAME}
        return
    # That of the images.
    (command,) = {line.partition(" CMD ")[2] for line in instructions("HEALTHCHECK")}
    limit = runpy.run_path(str(ROOT / "docker" / "health.py"))["_LIMIT"]
    for probe in probes.values():
        assert "grpc" not in probe
        assert probe["exec"]["command"] == json.loads(command)
        assert probe["timeoutSeconds"] >= 2 * limit


def test_a_pod_is_ended_only_long_after_it_is_out_of_use(manifests: Manifests) -> None:
    """In a flood of callers who never wait, gRPC drops every other probe."""

    def seconds(probe: Object) -> int:
        silence: int = probe["periodSeconds"] * probe["failureThreshold"]
        return silence

    probes = manifests.probes
    assert seconds(probes["readinessProbe"]) >= 30
    assert seconds(probes["livenessProbe"]) >= 300
    assert seconds(probes["startupProbe"]) >= 120


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_the_secret_is_mounted_where_the_settings_say(overlay: str) -> None:
    plain, manifests = render(overlay), render(overlay, "tls")
    (volume,) = (volume for volume in manifests.pod["volumes"] if volume["name"] == "tls")
    (mount,) = (one for one in manifests.container["volumeMounts"] if one["name"] == "tls")
    # With subPath a pod would never see a new version.
    assert mount == {"name": "tls", "mountPath": mount["mountPath"], "readOnly": True}
    assert volume["secret"] == {"secretName": "cass-tls", "defaultMode": 0o440}
    # Whose group the files are.
    assert manifests.pod["securityContext"]["fsGroup"] == 10001
    environment = manifests.environment()
    files = {environment[name] for name in environment if name.startswith("CASS_TLS_")}
    names = ("tls.crt", "tls.key", "ca.crt")
    assert files == {f"{mount['mountPath']}/{name}" for name in names}
    assert len(plain.pod["volumes"]) == 1


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_tokens_are_mounted_where_the_setting_says(overlay: str) -> None:
    plain, manifests = render(overlay), render(overlay, "tls", "tokens")
    (volume,) = (volume for volume in manifests.pod["volumes"] if volume["name"] == "tokens")
    (mount,) = (one for one in manifests.container["volumeMounts"] if one["name"] == "tokens")
    assert mount == {"name": "tokens", "mountPath": "/tokens", "readOnly": True}
    assert volume["secret"] == {"secretName": "cass-tokens", "defaultMode": 0o440}
    assert manifests.environment()["CASS_TOKEN_FILE"] == "/tokens/tokens"
    assert "CASS_TOKEN_FILE" not in plain.environment()


@pytest.mark.parametrize("folder", ["base", "overlays/cpu", "overlays/gpu"])
def test_what_has_neither_tls_nor_tokens_says_so(folder: str) -> None:
    text = (ROOT / "docker" / "k8s" / folder / "kustomization.yaml").read_text(encoding="utf-8")
    assert "without tls and tokens" in text.lower()


def test_an_update_needs_no_further_gpu_and_on_cpus_no_pod_less() -> None:
    updates = {
        overlay: render(overlay).of("Deployment")["spec"]["strategy"]["rollingUpdate"]
        for overlay in ("cpu", "gpu")
    }
    assert updates["gpu"]["maxSurge"] == 0
    assert updates["cpu"]["maxUnavailable"] == 0


def test_images_are_those_of_this_version() -> None:
    names = [render(overlay).container["image"] for overlay in ("cpu", "gpu")]
    assert names == [f"cass-server:{__version__}", f"cass-server-cuda:{__version__}"]


def test_the_operators_monitor_finds_the_pods() -> None:
    manifests = render("cpu", "pod-monitor")
    monitor = manifests.of("PodMonitor")["spec"]
    assert includes(manifests.labels, monitor["selector"]["matchLabels"])
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in manifests.container["ports"]}
