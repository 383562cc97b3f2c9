"""A real browser without a window, driven as a person would: pointer, keys, files."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_HAS_NONE = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
_LIMIT = 60.0  # seconds until a condition that does not come true fails a test


def needs_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test, which is slow too."""
    return pytest.mark.slow(_HAS_NONE(test))


class Browser:
    """One page of a browser, by the DevTools protocol over a pair of pipes."""

    def __init__(self, writer: int, reader: int) -> None:
        self._writer, self._reader = writer, reader
        self._number = 0
        self._data = b""
        self._session: str | None = None
        self.errors: list[str] = []
        """What the page could not do: uncaught errors, refusals of its policy, errors it logs."""

    def attach(self) -> None:
        """Take the one page that there is."""
        self.until(lambda: self._pages(), "a page")
        target = self._pages()[0]["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.send(f"{domain}.enable")

    def _pages(self) -> list[dict[str, Any]]:
        targets = self.send("Target.getTargets")["targetInfos"]
        return [target for target in targets if target["type"] == "page"]

    def send(self, method: str, **parameters: Any) -> Any:
        """The answer to a command of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._data:
            readable, _, _ = select.select([self._reader], [], [], _LIMIT)
            assert readable, "the browser does not answer"
            read = os.read(self._reader, 1 << 20)
            assert read, "the browser has ended"
            self._data += read
        text, _, self._data = self._data.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        given = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = given["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif message.get("method") == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.errors.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")
        elif message.get("method") == "Runtime.consoleAPICalled" and given["type"] == "error":
            self.errors.append(str(given["args"]))

    def run(self, script: str) -> Any:
        """What an expression is in the page, awaited if it is a promise."""
        answer = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str | Callable[[], Any], what: str = "") -> Any:
        """Wait until an expression of the page, or a function, is true; its value."""
        end = time.monotonic() + _LIMIT
        while time.monotonic() < end:
            found = self.run(condition) if isinstance(condition, str) else condition()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"never came true: {what or condition}")

    def open(self, url: str) -> None:
        """Go to a page; it may still be loading."""
        self.send("Page.navigate", url=url)

    def drag(self, *points: tuple[float, float]) -> None:
        """Press the pointer at the first point of the window, move over the others, let go."""
        self._pointer("mouseMoved", points[0], buttons=0)
        self._pointer("mousePressed", points[0])
        for point in points[1:]:
            self._pointer("mouseMoved", point)
        self._pointer("mouseReleased", points[-1])

    def click(self, point: tuple[float, float]) -> None:
        """Press and let go."""
        self.drag(point)

    def hover(self, point: tuple[float, float]) -> None:
        """Move the pointer there."""
        self._pointer("mouseMoved", point, buttons=0)

    def _pointer(self, kind: str, point: tuple[float, float], buttons: int = 1) -> None:
        self.send(
            "Input.dispatchMouseEvent",
            type=kind,
            x=point[0],
            y=point[1],
            button="left" if buttons else "none",
            buttons=buttons,
            clickCount=1,
        )

    def swipe(self, *points: tuple[float, float]) -> None:
        """As `drag`, with a finger."""
        self.send("Emulation.setTouchEmulationEnabled", enabled=True)
        for kind, point in zip(
            ("touchStart", *["touchMove"] * (len(points) - 1)), points, strict=True
        ):
            at = {"x": point[0], "y": point[1]}
            self.send("Input.dispatchTouchEvent", type=kind, touchPoints=[at])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key: str, *, text: str = "", modifiers: int = 0) -> None:
        """Press a key, 1 for Alt, 2 for Control and 8 for Shift with it."""
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}
        common = {
            "key": key,
            "modifiers": modifiers,
            "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()) if len(key) == 1 else 0),
        }
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def choose_file(self, selector: str, path: Path) -> None:
        """Give a file to an input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def drop_file(self, path: Path, point: tuple[float, float]) -> None:
        """Drag a file over the window and let it go there."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=point[0], y=point[1], data=data)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what the window shows, or the whole page, as a PNG."""
        answer = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def resize(self, width: int, height: int, *, touch: bool = False, ratio: float = 1) -> None:
        """Size of the window, as of a phone if ``touch``."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=ratio,
            mobile=touch,
        )

    def prefer(self, **features: str) -> None:
        """Media features, as in ``prefers_color_scheme="dark"``."""
        listed = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.send("Emulation.setEmulatedMedia", features=listed)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile; all its processes end with the context."""
    assert CHROMIUM is not None
    (their_reader, writer), (reader, their_writer) = os.pipe(), os.pipe()
    options = [
        "--headless",
        "--no-sandbox",  # containers run as root
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--window-size=1440,960",
        "--hide-scrollbars",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    # The browser reads at descriptor 3 and writes at 4.
    launch = f'exec 3<&{their_reader} 4>&{their_writer}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", launch, "bash", CHROMIUM, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(their_reader, their_writer),
        start_new_session=True,
    )
    os.close(their_reader)
    os.close(their_writer)
    try:
        page = Browser(writer, reader)
        page.attach()
        yield page
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(writer)
        os.close(reader)
