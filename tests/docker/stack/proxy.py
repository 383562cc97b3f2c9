"""The stack's proxy outside of a container, with its configuration but for addresses and paths."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docker.conftest import ROOT
from tests.docker.engine import LIMIT
from tests.docker.stack.programs import program
from tests.server.support.observed import Samples, samples, value
from tests.server.support.processes import free_port
from tests.support.waiting import wait_until

PROXY = ROOT / "docker" / "proxy"


@dataclass(frozen=True)
class Replacement:
    """What stands for the stack's network, and other changes of the configuration's text."""

    name_server: int
    servers: int
    tls: Path = Path("/tls")
    changes: tuple[tuple[str, str], ...] = ()


class Proxy:
    """HAProxy, and what it has logged."""

    def __init__(self, folder: Path, variant: str, replacement: Replacement) -> None:
        port, metrics = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        self.metrics_address = f"127.0.0.1:{metrics}"
        self._tls: ssl.SSLContext | None = None
        if variant == "tls":
            files = replacement.tls
            self._tls = ssl.create_default_context(cafile=str(files / "ca.crt"))
            self._tls.load_cert_chain(files / "tls.crt", files / "tls.key")
        command = [program("haproxy"), "-W", "-db"]
        for name in ("common.cfg", f"{variant}.cfg"):
            text = (PROXY / name).read_text(encoding="utf-8")
            for here, there in (
                ("parse-resolv-conf", f"nameserver test 127.0.0.1:{replacement.name_server}"),
                ("bind :50051", f"bind {self.address}"),
                ("bind :8405", f"bind 127.0.0.1:{metrics}"),
                ("server:50051", f"server:{replacement.servers}"),
                ("/tls/", f"{replacement.tls}/"),
                *replacement.changes,
            ):
                text = text.replace(here, there)
            (folder / name).write_text(text)
            command += ["-f", str(folder / name)]
        self._log = folder / "proxy.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(encoding="utf-8")

    def metrics(self) -> Samples:
        """What Prometheus reads of it."""
        url = f"{'https' if self._tls else 'http'}://{self.metrics_address}/metrics"
        with urllib.request.urlopen(url, timeout=LIMIT, context=self._tls) as answer:
            return samples(answer.read().decode())

    def up(self) -> int:
        """Servers that get calls."""
        return int(value(self.metrics(), "haproxy_backend_active_servers", proxy="servers"))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Poll with a hard limit; fails with the log if it ends."""

        def met() -> bool:
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(OSError):  # not listening yet
                return condition()
            return False

        wait_until(met, self.log, LIMIT)


@contextlib.contextmanager
def proxy(folder: Path, variant: str, replacement: Replacement) -> Iterator[Proxy]:
    """The proxy, as ``plain`` or ``tls``; ended at the end."""
    running = Proxy(folder, variant, replacement)
    try:
        yield running
    finally:
        running.process.terminate()
        running.process.wait(LIMIT)
