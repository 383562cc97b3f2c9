"""JSON lines, lost rather than fatal where they cannot be written."""

from __future__ import annotations

import fcntl
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


RATE = """
import types
from cass_server.observability import logging as ours
now = 0.0
ours.time = types.SimpleNamespace(monotonic=lambda: now)
reasons = []
ours.count_dropped(reasons.append)
def lines(count, text):
    for i in range(count): log.warning(text, extra={"number": i})
lines(150, "bad")
log.info("another statement")
now = 0.55
lines(20, "bad")
now = 1000.0
lines(150, "bad")
print(len(reasons), set(reasons))
"""


def test_statement_that_logs_too_often() -> None:
    """A hundred at once, then 10 a second; what is left out is counted."""
    printed, lines = run(RATE)
    assert printed.splitlines()[0] == "115 {'rate'}"
    records = [json.loads(line) for line in lines]
    bad = [(r["number"], r.get("suppressed")) for r in records if r["event"] == "bad"]
    expected: list[tuple[int, int | None]] = [(number, None) for number in range(100)]
    expected += [(0, 50), *((number, None) for number in range(1, 5))]
    expected += [(0, 15), *((number, None) for number in range(1, 100))]
    assert bad == expected
    assert [r["event"] for r in records].count("another statement") == 1


def test_long_fields_are_shortened() -> None:
    _, lines = run(
        "try:\n    raise ValueError('x' * 20_000 + 'end')\n"
        "except ValueError:\n    log.exception('of %s', 'y' * 5000, extra={'reason': 'z' * 1024})"
    )
    (line,) = lines
    record = json.loads(line)
    assert record["event"].startswith("of y")
    assert " … 3979 characters … " in record["event"]  # of 5003, 1024 are shown
    assert record["reason"] == "z" * 1024
    assert record["exc_info"].startswith("Traceback (most recent call last):\n")
    assert record["exc_info"].endswith("xend")
    assert len(line) < 12_000


UNREAD = """
import array, fcntl, termios
from cass_server.observability.standard_error import StandardError
drops = []
stream = StandardError(lambda: drops.append(1))
for number in range(3000): stream.write(f"{number:01023}\\n")
print(len(drops), flush=True)
waiting = array.array("i", [0])
while waiting[0] < fcntl.fcntl(2, fcntl.F_GETPIPE_SZ): fcntl.ioctl(2, termios.FIONREAD, waiting)
"""


def test_nobody_reads() -> None:
    """A MiB waits, beside what the pipe holds and the line that is being written."""
    reading, writing = os.pipe()
    with open(reading, "rb") as unread:
        with open(writing, "wb") as pipe:
            printed, _ = run(UNREAD, stderr=pipe)
            capacity = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
        held = unread.read()
    dropped, end = printed.splitlines()
    assert end == "went on"
    assert 3000 - 1024 - capacity // 1024 <= int(dropped) <= 3000 - 1024
    assert len(held) == capacity
    # In their order, and whole.
    assert held.split() == [f"{number:01023}".encode() for number in range(capacity // 1024)]


def test_the_last_lines_are_written_to_who_reads_late() -> None:
    """The process waits for that at its end, and for an error that ends it."""
    reading, writing = os.pipe()
    with open(reading, "rb") as late:
        with open(writing, "wb") as pipe:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
            program = PROGRAM.format(statements='log.info("x" * 1000)\n' * 50 + "sys.exit('last')")
            process = subprocess.Popen([sys.executable, "-c", program], stderr=pipe)
        try:
            lines = late.read().splitlines()
            assert process.wait(LIMIT) == 1
        finally:
            process.kill()
    assert len(lines) == 51
    assert lines[-1] == b"last"


def test_what_others_write_waits_for_nobody_either() -> None:
    _, lines = run(
        "import threading\nthread = threading.Thread(target=lambda: 1 / 0)\n"
        "thread.start()\nthread.join()"
    )
    assert lines[-1] == "ZeroDivisionError: division by zero"
    printed, _ = run("print(type(sys.stderr).__name__, sys.stderr.fileno())")
    assert printed.splitlines()[0] == "StandardError 2"
