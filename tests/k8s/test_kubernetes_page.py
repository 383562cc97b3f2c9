"""What docs/kubernetes.md shows works as it stands, as far as it can without a cluster."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.e2e.pages import commands, page
from tests.k8s.manifests import ROOT, build, render

PAGE = page("docs/kubernetes.md")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_what_is_shown_first_has_tls_tokens_and_the_registrys_image() -> None:
    (shown,) = blocks("yaml")
    assert PAGE.index(shown) < PAGE.index("kubectl apply")
    manifests = build(yaml.safe_load(shown))
    plain = render("cpu", "tls", "tokens").container
    image = plain["image"].replace("cass-server", "registry.example/cass-server")
    assert manifests.container == plain | {"image": image}
    assert {one["metadata"]["namespace"] for one in manifests.objects} == {"cass"}


@pytest.mark.parametrize(
    ("volume", "prefix", "files"),
    [
        ("tls", "CASS_TLS_", {"tls.crt", "tls.key", "ca.crt"}),
        ("tokens", "CASS_TOKEN_FILE", {"tokens"}),
    ],
)
def test_the_secrets_have_the_files_of_the_components(
    tmp_path: Path, volume: str, prefix: str, files: set[str]
) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    (command,) = (line for line in "".join(blocks("sh")).splitlines() if f"cass-{volume} " in line)
    manifests = render("cpu", "tls", "tokens")
    settings = manifests.environment()
    for name in files:
        (tmp_path / name).write_text(name)
    made = subprocess.run(
        [*shlex.split(command), "--dry-run=client", "--output=yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    secret = yaml.safe_load(made.stdout)
    (mounted,) = (one for one in manifests.pod["volumes"] if one["name"] == volume)
    assert secret["metadata"]["name"] == mounted["secret"]["secretName"]
    assert {Path(settings[name]).name for name in settings if name.startswith(prefix)} == files
    assert secret["data"].keys() == files


def test_each_command_names_what_is_there() -> None:
    named = {c[c.index("-k") + 1] for c in commands(PAGE) if "-k" in c} - {"."}
    assert named
    assert all((ROOT / folder / "kustomization.yaml").is_file() for folder in named)


def test_the_image_is_the_manifests() -> None:
    (command,) = (c for c in commands(PAGE) if c[:2] == ["docker", "build"])
    assert command[command.index("-t") + 1] == render("cpu").container["image"]
    assert command[command.index("--target") + 1] == "cpu"
    assert (ROOT / command[command.index("-f") + 1]).is_file()
    named = re.findall(r"cass-server(?:-cuda)?:[\d.]+", PAGE)
    assert set(named) == {render(overlay).container["image"] for overlay in ("cpu", "gpu")}
    (image,) = yaml.safe_load(blocks("yaml")[0])["images"]
    assert f"{image['newName']}:{image['newTag']}" in (c[-1] for c in commands(PAGE))


def test_the_namespace() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    (command,) = (c for c in commands(PAGE) if c[:3] == ["kubectl", "create", "namespace"])
    done = subprocess.run(
        [*command, "--dry-run=client", "--output=name"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout == "namespace/cass\n"
