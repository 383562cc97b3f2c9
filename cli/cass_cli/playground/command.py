"""`cass playground`: serves the page and computes its masks."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from cass_cli.connection import Connection
from cass_cli.options import COCO_FILE, ImagesOption, SkipInvalidOption, takes
from cass_core.errors import CassError, InvalidRequest


@takes("connection", Connection)
def playground(
    *,
    annotations: Annotated[
        Path | None,
        typer.Option(
            **COCO_FILE,
            help="COCO object-detection annotations to page through; a drawn street without.",
        ),
    ] = None,
    images: ImagesOption = None,
    skip_invalid: SkipInvalidOption = False,
    browser: Annotated[
        bool, typer.Option(help="Open the page in the browser, where there is one.")
    ] = True,
    connection: Connection,
) -> None:
    """Open a page on which masks follow boxes and options live, two presets side by side.

    Only this machine reaches it, by the address that is printed; Ctrl C ends it. Masks are
    computed in this process, or by --server. Pictures that are dropped on the page never leave it.

    Example: cass playground --annotations instances.json --images train/
    """
    if images is not None and annotations is None:
        raise InvalidRequest("--images", "is for pictures of a data set: give --annotations too")
    try:
        # Loaded here: they are of an extra, and other commands do without.
        from cass_cli.playground.app import Playground
        from cass_cli.playground.remote import ClientEngine
        from cass_cli.playground.scenes import DataSet
        from cass_server.engines.base import CpuEngine
        from cass_server.http import app, serving
    except ModuleNotFoundError as error:
        raise CassError(
            f'the playground needs {error.name}; install it with: pip install "cass[playground]"'
        ) from error
    data = None if annotations is None else DataSet.read(annotations, images, skip_invalid)
    with connection.client() as client:
        engine = CpuEngine() if client.target == "local:" else ClientEngine(client)
        # While the browser opens; a request that comes earlier waits for it.
        threading.Thread(target=engine.warm_up, daemon=True).start()
        page = Playground(app(engine), client, data, token=secrets.token_urlsafe(24))
        with serving(page, "127.0.0.1", 0) as address:
            url = f"http://{address}/{page.token}/"
            typer.echo(url)
            if browser and _has_window():
                webbrowser.open(url)
            try:
                while True:  # on Windows Ctrl C interrupts no wait for a lock before Python 3.14
                    time.sleep(3600)
            except KeyboardInterrupt:
                typer.echo("", err=True)  # after the terminal's ^C


def _has_window() -> bool:
    """Whether a browser would open a window, rather than take the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
