"""JSON lines, lost rather than fatal where they cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.server.support.processes import LIMIT

PROGRAM = """
import logging
import os
import sys
from cass_server.observability.logging import set_up_logging

set_up_logging("info")
log = logging.getLogger("cass_server.test")
{statements}
print("went on")
"""


def run(statements: str, stderr: Any = subprocess.PIPE, shell: str = "") -> tuple[str, list[str]]:
    """What a process prints that logs, and the lines of its log."""
    command = [sys.executable, "-c", PROGRAM.format(statements=statements)]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=LIMIT, check=True
    )
    return ended.stdout, (ended.stderr or "").splitlines()


def test_fields() -> None:
    _, lines = run('log.info("served", extra={"request_id": "a-1", "odd": "a\\nb\\u2028c"})')
    (record,) = map(json.loads, lines)
    assert record.pop("time")
    assert record == {
        "level": "INFO",
        "logger": "cass_server.test",
        "event": "served",
        "request_id": "a-1",
        "odd": "a\nb\u2028c",
    }


def test_an_exception_is_one_object() -> None:
    _, lines = run(
        "try:\n    {}['absent']\nexcept KeyError:\n    log.exception('failed')\nlog.info('next')"
    )
    failed, following = map(json.loads, lines)
    assert failed["event"] == "failed"
    assert failed["exc_info"].startswith("Traceback (most recent call last):\n")
    assert failed["exc_info"].endswith("KeyError: 'absent'")
    assert following["event"] == "next"


def test_reader_that_is_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as broken:
        printed, _ = run("for _ in range(100): log.error('x')", stderr=broken)
    assert printed == "went on\n"


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
for _ in range(100): log.info("lost")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for _ in range(100): log.info("kept")
"""


def test_disk_with_space_again(tmp_path: Path) -> None:
    """Lost lines leave no trace, and the next ones are there."""
    path = tmp_path / "log"
    with path.open("w") as file:
        printed, _ = run(LIMITED, stderr=file)
    assert printed == "went on\n"
    text = path.read_text()
    assert "Logging error" not in text
    whole = [json.loads(line)["event"] for line in text.splitlines()[-90:]]
    assert whole == ["kept"] * 90


FLAKY = """
import errno, io
class Flaky(io.StringIO):
    failed = False
    def write(self, text):
        if not self.failed:
            self.failed = True
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)
sys.stderr = Flaky()
set_up_logging("info")
log.info("lost")
log.info("kept")
print(sys.stderr.getvalue(), end="")
"""


def test_disk_that_was_full_for_one_line() -> None:
    """No report of it, which would not be JSON, takes its place."""
    printed, _ = run(FLAKY)
    line, end = printed.splitlines()
    assert json.loads(line)["event"] == "kept"
    assert end == "went on"


def test_closed_standard_error() -> None:
    """Nor does what is opened next get its number, which libraries in C write to."""
    statements = "\n".join(
        [
            "log.error('nowhere')",
            "opened = os.open('/dev/zero', os.O_RDONLY)",
            "print(opened, os.readlink('/proc/self/fd/2'))",
        ]
    )
    printed, _ = run(statements, shell="2>&-")
    opened, path, *rest = printed.split(maxsplit=2)
    assert int(opened) > 2
    assert path == "/dev/null"
    assert rest == ["went on\n"]


def test_mistake_in_a_call_is_seen() -> None:
    printed, lines = run("log.info('%d requests', 'many')")
    assert printed == "went on\n"
    assert any("TypeError" in line for line in lines)
