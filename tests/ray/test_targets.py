"""Clients of `ray:NAME`: whom they find on a real Ray cluster, and that they follow changes."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cass_client import (
    AsyncCassClient,
    CassClient,
    CassError,
    FallbackWarning,
    InvalidRequest,
    Tls,
    Unavailable,
)
from cass_client.discovery.endpoint_file import FOLDER_VARIABLE, ListFile
from cass_client.targets import service_of
from tests.client.support.faults import (
    MAP,
    SIZE,
    SPEC,
    all_serving,
    ask,
    assert_right,
    keep_asking,
    request,
    start,
)
from tests.server.support.certificates import Authority, put
from tests.server.support.processes import LIMIT
from tests.support.servers import serving
from tests.support.waiting import wait_until

ray = pytest.importorskip("ray")

from tests.ray.services import RAY_WARNINGS, Service, by_mask_batch, check_worker, who  # noqa: E402

pytestmark = [pytest.mark.timeout(120), *RAY_WARNINGS]

FIRST, SECOND = 101, 102


@pytest.fixture(scope="module")
def replicas() -> Iterator[dict[int, str]]:
    """Addresses of two servers by the limit that tells them apart."""
    limits = (FIRST, SECOND)
    with all_serving(*(start("--max-images", str(limit)) for limit in limits)) as servers:
        yield {limit: server.address for limit, server in zip(limits, servers, strict=True)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of this process's own; its address."""
    ray.init(
        "local",
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=80 << 20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
    gc.collect()  # what it leaves is found here, not in another module's test


@pytest.fixture
def service(cluster: str, request: pytest.FixtureRequest) -> Iterator[Service]:
    made = Service(request.node.name.replace("[", ".").removesuffix("]"))
    yield made
    made.kill_directory()


def program(text: str, *arguments: str, **env: str) -> str:
    """What a process prints that must end well and without a word on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        # Without what clients of this process leave to their own children.
        env={k: v for k, v in os.environ.items() if k != FOLDER_VARIABLE} | env,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", ["cass", "a", "1st", "road-signs_v2.1", "a" * 100])
def test_names(name: str) -> None:
    assert service_of(f"ray:{name}") == name


@pytest.mark.parametrize(
    "name", ["", "-a", ".", "a/b", "a b", "a,b", "a\n", "//head:10001", "a" * 101]
)
def test_no_names(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^target: must be ray:NAME"):
        CassClient(f"ray:{name}")


@pytest.mark.parametrize("target", ["ray:50051", "ray:1,b:2", "rays:1", "local:", "dns:///ray:1"])
def test_no_services(target: str) -> None:
    assert service_of(target) is None


def test_certificates_share_a_name() -> None:
    with pytest.raises(InvalidRequest, match=r"^tls: needs a server_name"):
        CassClient("ray:cass", tls=Tls())


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CassError, match=r"pip install \"cass\[ray\]\"$"):
        CassClient("ray:cass")


def test_a_process_that_is_not_connected() -> None:
    """It is told so at once, and Ray is not even loaded."""
    told = program("""
        import sys, warnings
        from cass_client import CassClient, Unavailable
        for call in ("info", "stream"):
            client = CassClient("ray:cass", timeout=600)
            try:
                client.info() if call == "info" else next(client.stream_masks(iter([None])))
            except Unavailable as error:
                print(error)
            except Exception as error:
                print(repr(error))
        warnings.simplefilter("ignore")
        client = CassClient("ray:cass", timeout=600, fallback="local")
        print(client.generate_mask([None], (8, 8), (2, 2)).shape, "ray" in sys.modules)
    """)
    first, _, last = told.splitlines()
    assert first.startswith("ray:cass: this process is not connected to Ray")
    assert "ray.init" in first
    assert last == "(1, 2, 2) False"


def test_a_fork_while_a_thread_loads_ray(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("import sys; sys.loads.set(); sys.go_on.wait()")
    program(
        """
        import importlib, os, sys, threading
        import cass_client
        sys.loads, sys.go_on = threading.Event(), threading.Event()
        sys.path.insert(0, sys.argv[1])
        threading.Thread(target=importlib.import_module, args=["ray"]).start()
        sys.loads.wait()
        if not (child := os.fork()):
            os._exit(0)
        limit = threading.Timer(20, os.kill, (child, 9))
        limit.start()
        try:
            assert os.waitpid(child, 0)[1] == 0
        finally:
            limit.cancel()
            sys.go_on.set()
        """,
        str(tmp_path),
    )


def test_a_fork_without_fork_support_beside_ray(replicas: dict[int, str]) -> None:
    """It is told when gRPC is used by others than clients, and does not hang."""
    told = program(
        """
        import os, sys, threading
        import grpc, ray
        from cass_client import CassClient, Unavailable
        channel = grpc.insecure_channel(sys.argv[1])
        grpc.channel_ready_future(channel).result(timeout=60)
        if not (child := os.fork()):
            try:
                CassClient(sys.argv[1], timeout=10).info()
            except Unavailable as error:
                print("GRPC_ENABLE_FORK_SUPPORT" in str(error), flush=True)
            finally:
                os._exit(0)
        limit = threading.Timer(20, os.kill, (child, 9))
        limit.start()
        assert os.waitpid(child, 0)[1] == 0
        limit.cancel()
        """,
        replicas[FIRST],
        GRPC_ENABLE_FORK_SUPPORT="0",
    )
    assert told == "True\n"


def test_a_damaged_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one stays in force."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    file, read = tmp_path / "s", ListFile("s")
    file.write_text('["a:1"')
    assert (read.exists, read.read()) == (False, None)
    file.write_text('["a:1"]')
    assert (read.exists, read.read()) == (True, ("a:1",))
    file.write_bytes(b"\xff")
    read.look()
    assert read.read() == ("a:1",)


def test_follows_while_calls_run(service: Service, replicas: dict[int, str]) -> None:
    """No call fails, and each answer is right, whoever comes and goes."""
    stop, outcomes = Stop(), Outcomes()
    service.put(replicas[FIRST])
    with CassClient(service.target, timeout=LIMIT) as client, ThreadPoolExecutor(1) as pool:
        caller = pool.submit(keep_asking, client, stop, outcomes)
        try:
            assert who(client) == FIRST
            for _ in range(3):
                service.put(*replicas.values())
                wait_until(lambda: who(client) == SECOND)
                wait_until(lambda: who(client) == FIRST)
                service.put(replicas[SECOND])
                wait_until(lambda: {who(client) for _ in range(4)} == {SECOND})
                stop.wait_for_more(30)
        finally:
            stop.set()
        caller.result(LIMIT)
    assert len(outcomes) == 3
    assert all(isinstance(outcome, int) and outcome > 0 for outcome in outcomes), outcomes


class Stop(threading.Event):
    """An event that counts how often it was waited for, once before each request."""

    asked = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.asked += 1
        return super().wait(timeout)

    def wait_for_more(self, number: int) -> None:
        end = self.asked + number
        wait_until(lambda: self.asked >= end)


class Outcomes(list[Any]):
    """A list that is written to as a queue is."""

    put = list.append


def test_async_client_follows(service: Service, replicas: dict[int, str]) -> None:
    async def follow() -> None:
        async with AsyncCassClient(service.target, timeout=LIMIT) as client:
            calls = asyncio.create_task(keep_calling(client))
            for limit, address in [*replicas.items()] * 2:
                service.put(address)
                before = number
                while (await client.info()).limits["images"] != limit or number < before + 5:
                    await asyncio.sleep(0.01)
            stop.set()
            await calls

    async def keep_calling(client: AsyncCassClient) -> None:
        nonlocal number
        boxes = request(7).boxes
        while not stop.is_set():
            masks = await asyncio.gather(
                *(client.generate_mask(boxes, SIZE, MAP, SPEC) for _ in range(3))
            )
            assert_right(masks, [7, 7, 7])
            number += 1

    stop, number = threading.Event(), 0
    asyncio.run(follow())


def test_directory_ends_and_another_begins(service: Service, replicas: dict[int, str]) -> None:
    service.put(replicas[FIRST])
    with CassClient(service.target, timeout=LIMIT) as client:
        assert who(client) == FIRST
        service.kill_directory()
        service.put()  # a new one, who knows of nobody yet
        assert_right([ask(client, seed) for seed in range(20)], range(20))
        service.put(replicas[SECOND])
        wait_until(lambda: who(client) == SECOND)
        service.kill_directory()
        assert who(client) == SECOND
        # A client that comes later has the list as well.
        assert who(pickle.loads(pickle.dumps(client))) == SECOND


def test_nobody(service: Service) -> None:
    """There is no directory, then an empty one."""
    client = CassClient(service.target, timeout=0.5)
    with pytest.raises(Unavailable, match=f"^{service.target}: .* on Ray"):
        client.info()
    service.put()
    with pytest.raises(Unavailable, match=f"^{service.target}: .* on Ray"):
        client.info()
    with pytest.raises(Unavailable):
        asyncio.run(AsyncCassClient(service.target, timeout=0.2).info())
    local = CassClient(service.target, timeout=0.2, fallback="local")
    with pytest.warns(FallbackWarning, match="on Ray"):
        assert_right([ask(local, 1)], [1])
    assert_right(list(local.stream_masks(map(request, range(3)))), range(3))
    assert local.local_answers == 4


def test_a_list_that_is_cleared_away_is_written_again(
    service: Service, replicas: dict[int, str]
) -> None:
    service.put(replicas[FIRST])
    with CassClient(service.target, timeout=LIMIT) as client:
        assert who(client) == FIRST
        file = Path(os.environ[FOLDER_VARIABLE], service.target.removeprefix("ray:"))
        file.unlink()
        service.kill_directory()  # else it takes the seconds that a directory has to answer
        wait_until(file.exists)
        assert json.loads(file.read_text(encoding="utf-8")) == [replicas[FIRST]]


@pytest.mark.parametrize("has_directory", [True, False])
def test_calls_wait_for_somebody(
    service: Service, replicas: dict[int, str], has_directory: bool
) -> None:
    if has_directory:
        service.put()
    with CassClient(service.target, timeout=LIMIT) as client:
        future = client.generate_mask_future(request(3).boxes, SIZE, MAP, SPEC)
        with pytest.raises(TimeoutError):
            future.result(0.2)
        service.put(replicas[FIRST])
        assert_right([future.result(LIMIT)], [3])


def test_spawned_workers_follow(service: Service, replicas: dict[int, str]) -> None:
    check_worker("spawn", service, [*replicas.items()])


def test_in_a_task(service: Service, replicas: dict[int, str]) -> None:
    """By a client that is made there, and by one that is sent."""
    service.put(replicas[FIRST])
    boxes = request(5).boxes
    column = np.empty(len(boxes), object)
    column[:] = [b.tolist() for b in boxes]
    masks = ray.remote(by_mask_batch).remote(service.target, {"boxes": column})
    sent = ray.remote(ask).remote(CassClient(service.target, timeout=LIMIT), 6)
    assert_right(ray.get([masks, sent], timeout=LIMIT), [5, 6])


def test_tls(service: Service, tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.issue("cass.example")
    certificate, key = put(tmp_path / "c.pem", pair.certificate), put(tmp_path / "k", pair.key)
    tls = Tls(put(tmp_path / "ca.pem", authority.certificate), server_name="cass.example")
    with serving("--tls-certificate", str(certificate), "--tls-key", str(key)) as server:
        service.put(server.address)
        with CassClient(service.target, timeout=LIMIT, tls=tls) as client:
            assert_right([ask(client, 1)], [1])


def test_many_changes_leave_nothing_open(service: Service, replicas: dict[int, str]) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd")) + threading.active_count()

    service.put(replicas[FIRST])
    with CassClient(service.target, timeout=LIMIT) as client:
        assert who(client) == FIRST
        before = opened()
        for limit in [SECOND, FIRST] * 40:
            service.put(replicas[limit])
            wait_until(lambda limit=limit: who(client) == limit)
        wait_until(lambda: opened() < before + 10)


FORKING_PROGRAM = """
    import logging, os, sys
    import ray
    from cass_client import CassClient
    from tests.ray.services import RAY_WARNINGS, Service, check_worker, who

    cluster, *replicas = sys.argv[1:]
    replicas = [(int(limit), address) for limit, address in zip(replicas[::2], replicas[1::2])]
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(cluster, **options)

    def in_child(client):
        if not (child := os.fork()):
            code = 1
            try:
                code = who(client) != replicas[0][0]
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0

    # Ray has threads of a gRPC of its own, which is none of the client's business.
    in_child(CassClient(replicas[0][1], timeout=50))
    check_worker("fork", Service("forked"), replicas)
    service = Service("forking")
    service.put(replicas[0][1])
    client = CassClient(service.target, timeout=50)
    in_child(client)  # before there is a list
    with client:
        assert who(client) == replicas[0][0]
    in_child(client)
    ray.shutdown()
    assert who(client) == replicas[0][0]
    in_child(client)
    ray.init(cluster, **options)
    service = Service("forking")
    service.put(replicas[1][1])
    while who(client) != replicas[1][0]:
        pass
    print(os.environ["_CASS_RAY_LISTS"])
"""


def test_a_program_that_forks(cluster: str, replicas: dict[int, str]) -> None:
    """Before and after its first call, and when Ray was shut down; at its end nothing is left."""
    arguments = [text for replica in replicas.items() for text in map(str, replica)]
    folder = program(FORKING_PROGRAM, cluster, *arguments).strip()
    assert folder
    assert not Path(folder).exists()


def test_command(cluster: str, service: Service, replicas: dict[int, str]) -> None:
    service.put(replicas[FIRST])
    call = "from cass_cli.main import main; import sys; sys.argv[0] = 'cass'; main()"
    told = program(call, "info", "--server", service.target, RAY_ADDRESS=cluster)
    assert service.target in told
    assert "limit: images" in told
