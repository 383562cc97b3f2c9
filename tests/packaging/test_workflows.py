"""Workflows say what .ci/run says, to nobody more than they must; `make check` lints them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".github" / "workflows"
NAMES = sorted(path.name for path in FOLDER.glob("*.yml"))

# What GITHUB_TOKEN may do, and the only jobs that it may do more in than read.
MAY_WRITE = {
    ("docs.yml", "publish"): {"pages", "id-token"},
    ("release.yml", "build"): {"id-token", "attestations"},
    ("release.yml", "pypi"): {"id-token"},
    ("release.yml", "images"): {"packages", "id-token", "attestations"},
    ("release.yml", "github"): {"contents"},
}


def workflow(name: str) -> dict[str, Any]:
    """A workflow's content."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return found


def steps(name: str) -> list[dict[str, Any]]:
    """The steps of all its jobs."""
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


def targets(text: str) -> set[str]:
    """The make targets that a script calls."""
    code = re.sub(r"^\s*#.*", "", text, flags=re.MULTILINE)
    return set(re.findall(r"\bmake ([a-z-]+)", code))


def test_workflows_call_every_target_that_ci_calls() -> None:
    called = {
        target for name in NAMES for step in steps(name) for target in targets(step.get("run", ""))
    }
    assert targets((ROOT / ".ci" / "run").read_text(encoding="utf-8")) <= called
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert called <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_actions_are_pinned_by_commit_and_leave_no_credentials(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use) for use in uses)
    checkouts = [step for step in steps(name) if "actions/checkout" in step.get("uses", "")]
    assert all(step["with"] == {"persist-credentials": False} for step in checkouts)


@pytest.mark.parametrize("name", NAMES)
def test_jobs_may_do_no_more_than_they_must(name: str) -> None:
    content = workflow(name)
    assert content["permissions"] == {}
    for job_name, job in content["jobs"].items():
        assert job["timeout-minutes"] <= 180
        rights = job["permissions"]
        writes = {right for right, level in rights.items() if level == "write"}
        assert writes == MAY_WRITE.get((name, job_name), set())
    # No secret is kept, other than the token of the run.
    assert "secrets." not in (FOLDER / name).read_text(encoding="utf-8")


def test_one_version_of_each_action() -> None:
    pins: dict[str, set[str]] = {}
    for name in NAMES:
        for step in steps(name):
            action, _, commit = step.get("uses", "").partition("@")
            pins.setdefault(action, set()).add(commit)
    assert {action: commits for action, commits in pins.items() if len(commits) > 1} == {}


def test_what_linters_refuse() -> None:
    """That they run at all: of a workflow with a known fault each names it."""
    folder = ROOT / ".venv" / "bin"
    if not (folder / "zizmor").exists():
        pytest.skip("make setup brings the linters")
    bad = (
        "on: pull_request_target\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps:\n"
        "      - run: echo ${{ github.event.pull_request.title }} ${{ matrix.none }}\n"
    )
    for arguments, told in (
        (["actionlint", "-"], "matrix"),
        (["zizmor", "--offline", "--no-progress", "-"], "template-injection"),
    ):
        done = subprocess.run(
            [str(folder / arguments[0]), *arguments[1:]],
            input=bad, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode != 0
        assert told in done.stdout
