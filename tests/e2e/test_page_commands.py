"""Every command that a Markdown page shows is run by a test, or there is a reason why not."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.e2e.pages import PAGES, ROOT, command_lines, commands, original, page
from tests.server.support.certificates import Authority, put
from tests.support.programs import ended
from tests.support.servers import ServerProcess, server_process

MODULES = {"cass": "cass_cli", "cass-server": "cass_server"}
HERE = "tests/e2e/test_page_commands.py"
INSTALL = f"{HERE}::test_extras_exist"  # it is what a test environment was made by
MAKE = f"{HERE}::test_make"
STACK = "tests/docker/stack/test_stack.py"
PLAYGROUND = "tests/cli/playground/test_command.py::test_commands_of_the_page"
CONTAINER = "tests/docker/test_page.py"

# By page: the beginning of commands, and the test that runs them or, after "not: ", why none does.
# A command belongs to the first beginning that fits.
COVERED: dict[str, dict[str, str]] = {
    "README.md": {
        "pip install": INSTALL,
        "cass playground": PLAYGROUND,
        "cass ": "tests/e2e/test_readme.py::test_commands",
    },
    "CONTRIBUTING.md": {"make": MAKE},
    "docs/ablation.md": {
        "cass ablate": "tests/lab/test_docs.py::test_ablation",
    },
    "docs/ablation/cones/tuning.md": {"cass tune": "not: as above; tests/lab/test_tuning.py"},
    "docs/deployment.md": {
        "docker build ": "not: make docker-test builds both images, tests/docker/conftest.py",
        "docker buildx build": "not: needs BuildKit and a registry",
        "docker run": f"{CONTAINER}::test_one_container",
        "docker exec": f"{CONTAINER}::test_one_container",
        "cass info --server localhost:50051 --tls-ca": f"{STACK}::test_mutual_tls",
        "cass info": f"{HERE}::test_info",
        "docker compose -f docker/compose.yaml --profile gpu": "not: needs a GPU",
        "docker compose -f docker/compose.yaml --profile tls": f"{STACK}::test_mutual_tls",
        "docker compose -f docker/compose.yaml up -d --no-deps": f"{STACK}::test_upgrade",
        "docker compose -f docker/compose.yaml up -d": f"{STACK}::plain",
        "docker compose -f docker/compose.yaml build": "not: the images are there already",
        "mkdir client-tls": f"{STACK}::test_mutual_tls",
        "old=$(docker ps": f"{STACK}::test_upgrade",
        "docker ps": f"{STACK}::test_upgrade",
        "docker stop": f"{STACK}::test_upgrade",
    },
    "docs/http.md": {
        "pip install": INSTALL,
        "cass-server serve": "tests/e2e/test_http_page.py::service",
        "curl": "tests/e2e/test_http_page.py::test_curl",
    },
    "docs/kubernetes.md": {
        "docker build": "tests/k8s/test_kubernetes_page.py::test_the_image_is_the_manifests",
        "docker tag": "not: needs a registry",
        "docker push": "not: needs a registry",
        "kubectl create namespace": "tests/k8s/test_kubernetes_page.py::test_the_namespace",
        "kubectl label": "not: needs a cluster",
        "kubectl apply": "tests/k8s/test_kubernetes_page.py::test_each_command_names_what_is_there",
        "kubectl create secret": "tests/k8s/test_kubernetes_page.py"
        "::test_the_secrets_have_the_files_of_the_components",
        "api=": "not: needs a cluster with Prometheus' adapter",
        "kubectl get --raw": "not: needs a cluster with Prometheus' adapter",
    },
    "docs/loaders.md": {
        "python examples/torch_detection": "tests/e2e/test_examples.py::test_torch_detection",
        "python examples/hf_datasets": "tests/e2e/test_examples.py::test_hf_datasets",
        "python examples/hf_rtdetr": "tests/stacks/test_example.py::test_example",
        "python examples/numpy_loader": "tests/e2e/test_examples.py::test_numpy_loader",
        "python examples/ray_data": "tests/e2e/test_examples.py::test_ray_data",
        "make": MAKE,
    },
    "docs/open-inference.md": {
        "kubectl apply": "tests/k8s/test_kserve.py::test_every_object_is_built",
    },
    "docs/operations.md": {
        "stack ": f"{STACK}::test_first_looks",
        "cass info": f"{HERE}::test_info",
        "docker exec": f"{STACK}::test_first_looks",
    },
    "docs/playground.md": {
        "cass playground": PLAYGROUND,
    },
    "docs/pictures.md": {
        "cass plot": "tests/lab/test_docs.py::test_pictures",
        "cass sheet": "tests/lab/test_docs.py::test_pictures",
    },
    "docs/ray.md": {
        "pip install": INSTALL,
        "cass-server ray": "tests/ray/test_page.py::test_the_page_works_as_it_stands",
    },
    "docs/scaling.md": {
        "make": MAKE,
        "python -m benchmarks.fleet plan": f"{HERE}::test_plan_of_a_fleet",
    },
    "docs/start.md": {
        "pip install": INSTALL,
        "cass plot": "tests/e2e/test_first_pages.py::test_pictures_of_start",
        "cass sheet": "tests/e2e/test_first_pages.py::test_pictures_of_start",
        "cass-server serve": "not: so the servers of tests are started, but for the port",
        "cass info": f"{HERE}::test_info",
    },
    "docs/server.md": {"cass-server serve": f"{HERE}::test_serve"},
}


def shown(name: str, beginning: str) -> list[list[str]]:
    """The commands of a page that begin so."""
    pairs = zip(command_lines(page(name)), commands(page(name)), strict=True)
    return [command for line, command in pairs if line.startswith(beginning)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_command_has_a_test_or_a_reason(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    covered = COVERED.get(original(name), {})
    used = []
    for line in command_lines(page(name)):
        found = next((start for start in covered if line.startswith(start)), None)
        assert found is not None, f"{name}: {line}"
        used.append(found)
    assert set(used) == set(covered)


@pytest.mark.parametrize(
    "test", sorted({t for c in COVERED.values() for t in c.values() if not t.startswith("not: ")})
)
def test_the_tests_exist(test: str) -> None:
    file, _, function = test.partition("::")
    source = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {function}\w*\(", source, re.MULTILINE), test


@functools.cache
def help_of(program: str, command: str) -> str:
    """What a command says of its options."""
    done = ended("-m", MODULES[program], command, "--help", env={"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_exist(path: Path) -> None:
    """Also those of commands that no test runs."""
    for program, *arguments in commands(path.read_text(encoding="utf-8")):
        if program in MODULES:
            for given in (argument for argument in arguments if argument.startswith("--")):
                told = help_of(program, arguments[0])
                assert re.search(rf"{given}\b(?!-)", told), (program, arguments)


def test_extras_exist() -> None:
    extras = tomllib.loads(page("pyproject.toml"))["project"]["optional-dependencies"]
    found = [c for path in PAGES for c in shown(str(path.relative_to(ROOT)), "pip install")]
    assert len(found) > 4
    for _, _, requirement in found:
        # From a checkout: nothing is released.
        match = re.fullmatch(r"\.(?:\[(\w+)\])?", requirement)
        assert match is not None, requirement
        assert match[1] is None or match[1] in extras


def test_make() -> None:
    """make itself finds each target; .ci/run runs them."""
    found = [c for path in PAGES for c in shown(str(path.relative_to(ROOT)), "make")]
    assert len(found) > 5
    for command in found:
        done = subprocess.run(
            [command[0], "--dry-run", *command[1:]],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)


def run(command: list[str], folder: Path) -> str:
    """What a command of ours prints, in a folder; it has to end well."""
    done = ended("-m", MODULES[command[0]], *command[1:], cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_info(server: ServerProcess, tmp_path: Path) -> None:
    for name in ("docs/deployment.md", "docs/operations.md", "docs/start.md"):
        (command,) = (c for c in shown(name, "cass info") if len(c) == 4)
        told = run([c.replace("localhost:50051", server.address) for c in command], tmp_path)
        assert server.address in told


@pytest.mark.slow
def test_plan_of_a_fleet(tmp_path: Path) -> None:
    """With the costs that are measured on the way to it."""
    shutil.copy(ROOT / "benchmarks" / "results" / "fleet.json", tmp_path)
    found = shown("docs/scaling.md", "python -m benchmarks.fleet")
    assert len(found) == 2
    for command in found:
        done = ended(*command[1:], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
        assert done.returncode == 0, done.stderr
        assert "replicas" in done.stdout


def test_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a free port."""
    ((_, *arguments),) = shown("docs/server.md", "cass-server serve")
    authority = Authority()
    pair = authority.issue("localhost")
    put(tmp_path / "tls.crt", pair.certificate)
    put(tmp_path / "tls.key", pair.key)
    put(tmp_path / "clients.crt", authority.certificate)
    put(tmp_path / "tokens", b"a-token-of-a-test\n")
    monkeypatch.chdir(tmp_path)
    with server_process(*arguments[1:]) as server:
        server.wait_until_serving()
        assert server.address.startswith("0.0.0.0:")
        assert server.stop() == 0
