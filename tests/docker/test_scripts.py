"""The scripts of the images, outside of a container."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass_core import __version__
from cass_server.config.settings import Settings
from cass_server.process import health_check as health_check_module
from tests.docker.conftest import ROOT
from tests.server.support.certificates import Authority, put
from tests.server.support.processes import free_port
from tests.support.servers import serving


def script(name: str) -> dict[str, Any]:
    """What a script defines; it is not run."""
    return runpy.run_path(str(ROOT / "docker" / f"{name}.py"))


def test_an_extra_brings_the_extras_that_it_names() -> None:
    project = {
        "dependencies": ["numpy"],
        "optional-dependencies": {
            "core": ["numba>=1"],
            "server": ["cass[core]", "pydantic; python_version >= '3.11'"],
            "all": ["cass[server,core]"],
            "other": ["torch"],
        },
    }
    requirements = script("requirements")["requirements"]
    assert requirements(project, []) == {"numpy"}
    server = {"numpy", "numba>=1", "pydantic; python_version >= '3.11'"}
    assert requirements(project, ["all"]) == server


def test_only_the_image_for_cuda_has_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = script("requirements")["requirements"]

    def names(*extras: str) -> set[str]:
        return {requirement.split(">")[0] for requirement in requirements(project, extras)}

    assert not names() & {"torch", "numba"}
    assert {"numba", "pydantic"} <= names("server", "telemetry")
    assert "torch" not in names("server", "telemetry")
    assert "torch" in names("server", "telemetry", "torch")


def test_which_processors_take_the_image_s_kernels() -> None:
    has_level = script("start")["has_level"]
    # From a Haswell, cut short; and from an Arm, which has no flags.
    haswell = "flags\t\t: fpu xsave avx f16c abm fma movbe bmi1 avx2 bmi2 erms\nbugs\t\t:\n"
    assert has_level("processor\t: 0\n" + haswell)
    assert not has_level(haswell.replace(" avx2", ""))
    assert not has_level("processor\t: 0\nFeatures\t: fp asimd\n")


def test_kernels_that_are_there_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as those of a processor that has compiled its own, in a volume."""
    start = script("start")
    take_kernels = start["take_kernels"]
    kernels, cache = tmp_path / "kernels", tmp_path / "cache"
    kernels.mkdir()
    (kernels / "index").write_text("of the image")
    take_kernels.__globals__["KERNELS"] = kernels
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache))
    for there in (False, True):  # as a volume that is new, and before there is a folder
        if there:
            (cache / "index").unlink()
        take_kernels()
        assert (cache / "index").read_text(encoding="utf-8") == "of the image"
    (cache / "index").write_text("its own")
    take_kernels()
    assert (cache / "index").read_text(encoding="utf-8") == "its own"


def test_triton_is_told_of_the_kernels_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what lists their files, which stay where they are."""
    start = script("start")
    take = start["take_gpu_kernels"]
    kernels, cache = tmp_path / "triton", tmp_path / "cache"
    (kernels / "HASH").mkdir(parents=True)
    for name in ("__grp__kernel.json", "kernel.json", "kernel.cubin"):
        (kernels / "HASH" / name).write_text(name)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    take()  # of the image for CPUs
    assert not cache.exists()
    take.__globals__["GPU_KERNELS"] = kernels
    take()
    (told,) = (path for path in cache.rglob("*") if path.is_file())
    assert told == cache / "HASH" / "__grp__kernel.json"
    told.write_text("its own")
    take()
    assert told.read_text(encoding="utf-8") == "its own"
    monkeypatch.delenv("TRITON_CACHE_DIR")
    take()


@pytest.mark.parametrize("name", ["x86-64-v2", None])
def test_kernels_of_the_level_are_for_who_asks_for_nothing_else(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = script("start")
    for variable in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        monkeypatch.setenv(variable, "")  # what is set is taken back
        monkeypatch.delenv(variable)
    start["choose_level"].__globals__.update(has_level=lambda _: True)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    if name is not None:
        monkeypatch.setenv("NUMBA_CPU_NAME", name)
    assert start["choose_level"]() is (name is None)


def test_the_list_of_packages_is_what_the_format_allows() -> None:
    """As a validator of CycloneDX's own says, which `make dist` brings."""
    validator = ROOT / ".venv-dist" / "bin" / "python"
    if not validator.exists():
        pytest.skip("`make dist` brings the validator")
    script = str(ROOT / "docker" / "sbom.py")
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    judged = subprocess.run(
        [validator, "-c", _VALIDATE], input=made.stdout, capture_output=True, text=True, check=True
    )
    assert judged.stdout.strip() == "None"
    listed = json.loads(made.stdout)
    assert listed["metadata"]["component"]["purl"] == f"pkg:pypi/cass@{__version__}"
    (numpy,) = [each for each in listed["components"] if each["name"] == "numpy"]
    assert numpy["version"] == np.__version__
    assert "BSD-3-Clause" in numpy["licenses"][0]["expression"]


_VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read()))
"""


def test_sigterm_ends_what_has_no_handler_yet(tmp_path: Path) -> None:
    """A container's first process would not be ended by the signal itself."""
    package = tmp_path / "cass_server"
    package.mkdir()
    (package / "__init__.py").touch()
    program = "import signal\ndef main():\n    print('importing', flush=True)\n    signal.pause()\n"
    (package / "cli.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(ROOT / "docker" / "start.py")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == b"importing\n"
            started.send_signal(signal.SIGTERM)
            assert started.wait(timeout=60) == 128 + signal.SIGTERM
        finally:
            started.kill()


def health_check(**settings: Any) -> str:
    """What the image's health check prints, by settings from the environment."""
    environment = {f"CASS_{name.upper()}": str(value) for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, str(ROOT / "docker" / "health.py")],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode == 0) == (done.stdout == "SERVING\n")
    return done.stdout + done.stderr


@pytest.mark.slow
def test_health_is_checked_by_a_name_that_the_certificate_has(tmp_path: Path) -> None:
    """Which may be for other things too, such as a URI of a service mesh."""
    pair = Authority().issue("cass.test", uri="spiffe://mesh/cass")
    certificate = put(tmp_path / "tls.crt", pair.certificate)
    key = put(tmp_path / "tls.key", pair.key)
    with serving("--tls-certificate", str(certificate), "--tls-key", str(key)) as server:
        port = server.address.rpartition(":")[2]
        assert health_check(port=port, tls_certificate=certificate, tls_key=key) == "SERVING\n"
    assert "Connection refused" in health_check(port=port, tls_certificate=certificate, tls_key=key)


@pytest.mark.slow
def test_health_is_checked_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker and podman pass the variables of proxies on to containers."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with serving() as server:
        assert health_check(port=server.address.rpartition(":")[2]) == "SERVING\n"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("0.0.0.0", "127.0.0.1:6000"),
        ("::", "[::1]:6000"),
        ("10.0.0.5", "10.0.0.5:6000"),
        ("unix:/tmp/cass.sock", "unix:/tmp/cass.sock"),
    ],
)
def test_health_is_checked_where_the_server_listens(
    host: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_check_module, "check", lambda address, *_, **__: address)
    settings = Settings(insecure=True, host=host)
    assert health_check_module.check_local(settings, 6000, 1.0) == address
