"""A real browser without a window, for pages that stand in a file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_HAS_NONE = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

# A page's own policy would not let it run what a test adds.
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def needs_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test, which is slow too."""
    return pytest.mark.slow(_HAS_NONE(test))


def dom_of(page: Path, profile: Path) -> str:
    """What a page is once it has come to rest."""
    assert CHROMIUM is not None
    options = [
        "--headless",
        "--no-sandbox",  # containers run as root
        "--disable-gpu",
        "--window-size=1200,900",
        "--virtual-time-budget=20000",
        f"--user-data-dir={profile}",
        "--dump-dom",
    ]
    # A session of its own: the browser's other processes end with it, whatever happens.
    process = subprocess.Popen(
        [CHROMIUM, *options, page.as_uri()],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        dom, _ = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0
    return dom.decode()


def run_in(page: Path, script: str, folder: Path) -> Any:
    """What a script ``return``s in a copy of a page; it may ``await settled()``."""
    text, policies = _POLICY.subn("", page.read_text())
    assert policies == 1
    added = f"""
        const settled = async () => {{
          do await new Promise((done) => setTimeout(done, 20));
          while (document.querySelector("[aria-busy=true]"));
        }};
        (async () => {{
          await settled();
          {script}
        }})().then((found) => found, (error) => `failed: ${{error.stack}}`).then((found) => {{
          const made = document.createElement("pre");
          made.id = "found";
          made.dataset.value = encodeURIComponent(JSON.stringify(found));
          document.body.append(made);
        }});
    """
    copy = folder / "driven.html"
    copy.write_text(text.replace("</body>", f"<script>{added}</script></body>"))
    match = re.search(r'id="found" data-value="([^"]*)"', dom_of(copy, folder / "profile"))
    assert match is not None
    return json.loads(unquote(match[1]))
