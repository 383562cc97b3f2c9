"""The scripts of the images, outside of a container."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from cass_server.settings import Settings
from tests.docker.conftest import ROOT


def script(name: str) -> dict[str, Any]:
    """What a script defines; it is not run."""
    return runpy.run_path(str(ROOT / "docker" / f"{name}.py"))


def test_an_extra_brings_the_extras_that_it_names() -> None:
    project = {
        "dependencies": ["numpy"],
        "optional-dependencies": {
            "core": ["numba>=1"],
            "server": ["cass[core]", "uvloop; platform_system != 'Windows'"],
            "all": ["cass[server,core]"],
            "other": ["torch"],
        },
    }
    requirements = script("requirements")["requirements"]
    assert requirements(project, []) == {"numpy"}
    server = {"numpy", "numba>=1", "uvloop; platform_system != 'Windows'"}
    assert requirements(project, ["all"]) == server


def test_only_the_image_for_cuda_has_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = script("requirements")["requirements"]

    def names(*extras: str) -> set[str]:
        return {requirement.split(">")[0] for requirement in requirements(project, extras)}

    assert not names() & {"torch", "numba"}
    assert {"numba", "uvloop"} <= names("server", "telemetry")
    assert "torch" not in names("server", "telemetry")
    assert "torch" in names("server", "telemetry", "torch")


def test_which_processors_take_the_image_s_kernels() -> None:
    has_level = script("start")["has_level"]
    # From a Haswell, cut short; and from an Arm, which has no flags.
    haswell = "flags\t\t: fpu xsave avx f16c abm fma movbe bmi1 avx2 bmi2 erms\nbugs\t\t:\n"
    assert has_level("processor\t: 0\n" + haswell)
    assert not has_level(haswell.replace(" avx2", ""))
    assert not has_level("processor\t: 0\nFeatures\t: fp asimd\n")


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


def test_health_is_asked_for_where_the_server_listens() -> None:
    health_options = script("health")["health_options"]

    def address(**settings: Any) -> str:
        options: list[str] = health_options(Settings(insecure=True, **settings))
        return options[options.index("--address") + 1]

    assert address(host="0.0.0.0", port=50051) == "127.0.0.1:50051"
    assert address(host="::", port=6000) == "[::1]:6000"
    assert address(host="10.0.0.5", port=6000) == "10.0.0.5:6000"
    assert address(host="unix:/tmp/cass.sock") == "unix:/tmp/cass.sock"
